//! What every attempt uses: sessions, containment, log files, and the launch socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::sync::{Semaphore, watch};

use crate::observe::snapshot::Snapshot;
use crate::supervisor::containment::Containment;
use crate::supervisor::log_files::LogFiles;
use crate::supervisor::pacing::Pace;
use crate::supervisor::sessions::Sessions;

/// The programs that run in panes, as the agent user finds them.
#[derive(Debug)]
pub struct Programs {
    /// The launcher's.
    pub launcher: String,
    /// agentd's own.
    pub agentd: String,
}

/// For how many false launchers at a time their descendants are looked for. Whoever comes meanwhile is only killed itself.
pub const CLEARINGS: usize = 8;

/// What every attempt needs.
#[derive(Debug)]
pub struct Resources {
    /// The tmux server.
    pub sessions: Arc<dyn Sessions>,
    /// The programs that run in panes.
    pub programs: Programs,
    /// The socket where launchers report.
    pub launch_socket: PathBuf,
    /// Why launchers cannot report there, while they cannot.
    pub trouble: watch::Receiver<Option<String>>,
    /// The user that agents run as.
    pub user: Uid,
    /// Its name.
    pub user_name: String,
    /// Control groups, or what stands in for them.
    pub containment: Arc<dyn Containment>,
    /// The files that keep what agents print.
    pub log_files: Arc<dyn LogFiles>,
    /// The limit on concurrent starts.
    pub pace: Pace,
    /// Slots to look for what descends from false launchers, which takes a thread and time; see [`CLEARINGS`].
    pub clearings: Arc<Semaphore>,
    /// How long a login shell may take.
    pub login_patience: Duration,
    /// The state of all agents. It only tells what must not be shown of them.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
}
