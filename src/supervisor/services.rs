//! What every attempt uses: tmux, the launch socket, control groups, and the logs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::sync::watch;

use crate::contain::tree::Trees;
use crate::logs::guard::Guard;
use crate::logs::store::Store;
use crate::observe::snapshot::Snapshot;
use crate::supervisor::pacing::Pace;
use crate::tmux::Tmux;

/// The programs that run in panes, as the agent user finds them.
#[derive(Debug)]
pub struct Programs {
    /// The launcher's.
    pub launcher: String,
    /// agentd's own.
    pub agentd: String,
}

/// What every attempt needs.
#[derive(Debug)]
pub struct Services {
    /// Opens the pane.
    pub tmux: Tmux,
    /// What runs in panes.
    pub programs: Programs,
    /// Where launchers report.
    pub launch_socket: PathBuf,
    /// What keeps launchers from being received there.
    pub trouble: watch::Receiver<Option<String>>,
    /// Whom agents run as.
    pub user: Uid,
    /// Finds what is an agent's.
    pub trees: Trees,
    /// Keeps what agents print.
    pub store: Store,
    /// How many are started at a time.
    pub pace: Pace,
    /// How long a login shell may take.
    pub login_patience: Duration,
    /// Looks after what their launchers write.
    pub guard: Guard,
    /// What is known of all agents: only for what must not be shown of them.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
}
