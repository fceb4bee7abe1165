//! What attempts use: the seats of the users that agents run as, and what is common to all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::Uid;
use tokio::sync::{Semaphore, watch};

use crate::agent::user::AgentUser;
use crate::observe::snapshot::Snapshot;
use crate::supervisor::containment::Containment;
use crate::supervisor::log_files::LogFiles;
use crate::supervisor::pacing::Pace;
use crate::supervisor::sessions::Sessions;
use crate::tmux;

/// The programs that run in panes, as agent users find them.
#[derive(Debug)]
pub struct Programs {
    /// The launcher's.
    pub launcher: String,
    /// agentd's own.
    pub agentd: String,
}

/// For how many false launchers at a time their descendants are looked for. Whoever comes meanwhile is only killed itself.
pub const CLEARINGS: usize = 8;

/// What belongs to one user that agents run as. Nothing in it serves the agents of another user.
#[derive(Debug)]
pub struct Seat {
    /// The tmux server.
    pub sessions: Arc<dyn Sessions>,
    /// The socket where launchers report.
    pub launch_socket: PathBuf,
    /// Why launchers cannot report there, while they cannot.
    pub trouble: watch::Receiver<Option<String>>,
    /// The user.
    pub user: Uid,
    /// The user's name.
    pub user_name: String,
    /// Control groups, or what stands in for them.
    pub containment: Arc<dyn Containment>,
}

impl Seat {
    /// Why nothing can be started. Without the launch socket, whatever keeps it away also keeps clients from the tmux server.
    pub fn why_not(&self, error: &tmux::Error) -> String {
        self.trouble.borrow().clone().unwrap_or_else(|| error.to_string())
    }
}

/// The seats. That of the default user always exists. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Seats {
    default: Arc<Seat>,
    others: Arc<Mutex<BTreeMap<AgentUser, Arc<Seat>>>>,
}

impl Seats {
    /// The seat of the default user alone.
    pub fn new(default: Arc<Seat>) -> Self {
        Self { default, others: Arc::default() }
    }

    /// Adds the seat of another user. It stays as long as the daemon runs.
    pub fn add(&self, user: AgentUser, seat: Seat) {
        self.lock().insert(user, Arc::new(seat));
    }

    /// The seat of the default user.
    pub fn default_seat(&self) -> &Arc<Seat> {
        &self.default
    }

    /// The seat of this user; `None` is the default user, whose seat there always is.
    pub fn of(&self, user: Option<&AgentUser>) -> Option<Arc<Seat>> {
        match user {
            None => Some(Arc::clone(&self.default)),
            Some(user) => self.lock().get(user).cloned(),
        }
    }

    /// All seats.
    pub fn all(&self) -> Vec<Arc<Seat>> {
        std::iter::once(&self.default).chain(self.lock().values()).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentUser, Arc<Seat>>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every attempt needs.
#[derive(Debug)]
pub struct Resources {
    /// What belongs to each user.
    pub seats: Seats,
    /// The programs that run in panes.
    pub programs: Programs,
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
