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
use std::time::Duration;

use nix::unistd::Gid;
use tokio::sync::{mpsc, watch};

pub use crate::agent::run::{News, Order as Command};
use crate::inputs::overrides::operators::Operators;

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
