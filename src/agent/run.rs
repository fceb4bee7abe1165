//! What a template is: how its runs are made, ordered and kept.
//!
//! An agent with a table `[agents.runs]` is a template. It is never started itself: each task makes a run of it, which is one bounded
//! life of an agent with that task. A [queue](queue) decides which run starts next.

pub mod queue;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::agent::name::{Key, Name, RunId};
use crate::agent::schedule::Schedule;
use crate::agent::spec::Workdir;
use crate::sys::file_id::FileId;
use crate::sys::secret_bytes::SecretBytes;

/// The longest task, in bytes.
pub const LONGEST_TASK: usize = 1 << 20;

/// The most runs of one template that can be under way at once.
pub const MOST_AT_ONCE: u64 = 1000;

/// The most runs of one template that can wait.
pub const MOST_WAITING: u64 = 10_000;

/// The most finished runs of one template that can be kept.
pub const MOST_KEPT: u64 = 10_000;

/// The most runs of one template that can be prepared.
pub const MOST_WARM: u64 = 100;

/// The `warm_for` of a table that does not say it.
pub const WARM_FOR: Duration = Duration::from_hours(1);

/// The most paths in `workdirs`.
pub const MOST_WORKDIRS: usize = 64;

/// The table `[agents.runs]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// How many runs are under way at once.
    pub at_once: u32,
    /// How many wait; a further one is refused.
    pub waiting: u32,
    /// How many are kept after their end, with their output.
    pub keep: u32,
    /// What becomes of a run that a stop of the daemon or of the machine interrupts.
    pub interrupted: Interrupted,
    /// How a run is given its task.
    pub task: TaskBy,
    /// When runs are made by themselves, whose task is the prompt.
    pub schedule: Option<Schedule>,
    /// How many runs are prepared before there are tasks for them. Only if `task` is on standard input.
    pub warm: u32,
    /// How long one stays prepared.
    pub warm_for: Duration,
    /// Where a task may say that it is to be done, beside the template's own workdir.
    pub workdirs: Vec<Workdir>,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            at_once: 1,
            waiting: 100,
            keep: 100,
            interrupted: Interrupted::default(),
            task: TaskBy::default(),
            schedule: None,
            warm: 0,
            warm_for: WARM_FOR,
            workdirs: Vec::new(),
        }
    }
}

/// What becomes of a run that a stop of the daemon or of the machine interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interrupted {
    /// It has ended: `interrupted`.
    #[default]
    Fail,
    /// It runs again, at the place in line that it had.
    Again,
}

/// How a harness is given a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskBy {
    /// On its standard input.
    Stdin,
    /// As its prompt, among its arguments.
    #[default]
    Argument,
    /// In a file, whose path is in its prompt.
    File,
}

/// A task that was found, before anything is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The template, as it is declared.
    pub agent: Name,
    /// The writer's choice.
    pub id: RunId,
    /// What is to be done.
    pub text: SecretBytes,
    /// Who wrote it: a user's name, or a number if it has none. Advisory.
    pub by: String,
    /// Whether the user that the daemon runs as wrote it.
    pub is_own: bool,
    /// When it was written, which is its place in line.
    pub written: SystemTime,
}

/// What stands beside a task, in a file `ID.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sidecar {
    /// What the run can be selected by, over the labels of its template.
    pub labels: BTreeMap<String, String>,
    /// Where it runs, if not where its template does.
    pub workdir: Option<PathBuf>,
    /// The run whose conversation it continues, by its id.
    pub continues: Option<String>,
}

/// What happens in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A file is new, was checked, and was read. [`Order::Took`], [`Order::Refuse`] or [`Order::Later`] answers it.
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
    /// A file can be no task, and was moved away. Not told of what [`Order::Refuse`] has refused.
    Refused {
        /// The template.
        agent: Name,
        /// The name of the file, escaped if it can be no id.
        id: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// The files of a run are removed, as [`Order::Remove`] asked.
    Removed {
        /// The run.
        key: Key,
    },
    /// What needs attention, whenever that changes; `None` if nothing does.
    Error(Option<String>),
    /// Everything was looked at once. Told once, after the first [`Order::Templates`].
    Listed,
}

/// What becomes of tasks in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// An earlier daemon has taken this file. Said before the first [`Order::Templates`].
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
    /// The run is over. Exactly this file is removed, with what is beside it. [`News::Removed`] answers it.
    Remove {
        /// The run.
        key: Key,
        /// Its file.
        file: FileId,
    },
    /// The folders that there are to be. Those of others are left alone.
    Templates(Vec<Name>),
    /// A task of the daemon itself, unless a file of that name is there.
    Write {
        /// The template.
        agent: Name,
        /// The id.
        id: RunId,
        /// The task.
        text: SecretBytes,
    },
}
