//! The spool: tasks of operators, a file each.
//!
//! ```text
//! SPOOL/NAME/ID               the task, as text: a run of the template NAME
//! SPOOL/NAME/ID.toml          what is said beside it: labels, working directory, the run that it continues
//! SPOOL/NAME/.refused/ID      a task that was not taken, with ID.why beside it
//! ```
//!
//! A file that is there is wanted, and one that was removed is not. But absence is not a statement: a removal counts only if the same
//! folder was listed before and after.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::unistd::Gid;
use tokio::sync::{mpsc, watch};

use crate::agent::name::{Key, Name};
use crate::agent::run::Task;
use crate::inputs::overrides::operators::Operators;
use crate::sys::file_id::FileId;

pub use crate::config::sidecar::Sidecar;

/// Where tasks are, and who may write them.
#[derive(Clone, Debug)]
pub struct Place {
    /// The folder.
    pub directory: PathBuf,
    /// Its group, for root.
    pub group: Gid,
    /// Whose files count.
    pub operators: Operators,
    /// How old the last write of a file must be that nothing has announced.
    pub settle: Duration,
    /// How long several files must be missing before they count as removed.
    pub resync: Duration,
}

/// What there is to know of the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A file is new, was checked, and was read. [`Command::Took`], [`Command::Refuse`] or [`Command::Later`] answers it.
    Task {
        /// The task.
        task: Task,
        /// Its file.
        file: FileId,
        /// What is said beside it.
        sidecar: Sidecar,
    },
    /// The file of a run was removed.
    Gone {
        /// The run.
        key: Key,
    },
    /// The file of a run was not found, and it is not certain yet that it was removed.
    Missed {
        /// The run.
        key: Key,
    },
    /// The file of a run that was missed is there.
    Found {
        /// The run.
        key: Key,
    },
    /// The file of a run was written or replaced after it was taken. Told once.
    Edited {
        /// The run.
        key: Key,
    },
    /// A file can be no task, and was moved away. Not told of what [`Command::Refuse`] has refused.
    Refused {
        /// The template.
        agent: Name,
        /// The name of the file, escaped if it can be no id.
        id: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// What needs attention, whenever that changes; `None` if nothing does.
    Error(Option<String>),
    /// Everything was looked at once. Told once, after the first [`Command::Templates`].
    Listed,
}

/// What becomes of tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// An earlier daemon has taken this file. Said before the first [`Command::Templates`].
    Known {
        /// The run.
        key: Key,
        /// Its file.
        file: FileId,
        /// When it was written.
        written: SystemTime,
    },
    /// The task is on record.
    Took {
        /// The run.
        key: Key,
    },
    /// The task is not taken. Its file is moved away.
    Refuse {
        /// The run.
        key: Key,
        /// Why, and what would be right.
        why: String,
    },
    /// The task could not be put on record. It is told again at the next round.
    Later {
        /// The run.
        key: Key,
    },
    /// The run is over. Exactly this file is removed, with what is beside it.
    Remove {
        /// The run.
        key: Key,
        /// Its file.
        file: FileId,
    },
    /// The folders that there are to be. Those of others are left alone.
    Templates(Vec<Name>),
}

impl Place {
    /// Follows the spool until the daemon ends. Looks at everything in each round.
    pub async fn follow(
        self,
        rounds: watch::Receiver<()>,
        commands: mpsc::UnboundedReceiver<Command>,
        tell: impl Fn(News),
    ) {
        drop((rounds, commands, tell));
    }
}
