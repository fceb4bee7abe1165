//! Process trees: finds and kills everything that belongs to an agent, and nothing else.
//!
//! A process that an agent started is recognized by what it cannot change:
//!
//! | | found by | until |
//! |---|---|---|
//! | always | descent: the launcher is the reaper of its descendants, so none gets out from below it | the launcher is killed |
//! | for root, where it can be had | its [control group](crate::contain::cgroup), under systemd that of a scope | never |
//! | elsewhere | its sessions, and the [marker](crate::contain::marker) in its environment | it leaves its session and sheds the marker |
//!
//! Each agent has one tree at a time. Its control group and its marker name the agent, not the attempt, so the next daemon finds what
//! the last one left without a record: whatever is there when an attempt ends, and before one begins, is killed.
//!
//! A process is killed by its membership of a group, or by a pidfd. In the second case, what was found out about its id is checked
//! again while the pidfd is held. No name and no argument counts.
//!
//! A process that another program starts for an agent is not part of its tree: a shell in another tmux window, a job of `cron(8)` or of the user's own
//! systemd.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::Uid;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::agent::name::Key;
use crate::agent::spec::Limits;
use crate::contain::cgroup::{self, Cgroup, Cgroups, Whose};
use crate::contain::marker::{self, EnvironMarker};
use crate::contain::scope;
use crate::sys::blocking;
use crate::sys::process::{Identity, Process};
use crate::sys::secret_bytes::SecretBytes;
use crate::sys::systemd::{self, Systemd};
use crate::wire::status::Usage;

/// How long the kernel may take over a control group.
const ARRANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether agents have control groups.
#[derive(Clone, Debug)]
enum Groups {
    /// Every agent has one, from its next launch on.
    Had(Arc<Cgroups>),
    /// Control groups are not available here.
    NotHere,
    /// Control groups are not available for this reason; agentd tries again.
    Lost(String),
}

impl Groups {
    fn of(state_dir: &Path) -> Self {
        match Cgroups::of(state_dir) {
            Ok(cgroups) => {
                tracing::info!(directory = %cgroups.directory().display(), "each agent has a control group");
                Self::Had(Arc::new(cgroups))
            }
            Err(error) if error.is_of_the_place() => {
                tracing::info!(
                    "agents are tracked by their process trees; memory, pid_limit and cpu do not apply: {error}"
                );
                Self::NotHere
            }
            Err(error) => Self::Lost(error.to_string()),
        }
    }
}

/// Why processes of an agent may still be alive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control group failed.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// The kernel did not answer in time.
    #[error("failed to arrange its control group within {}", humantime::format_duration(ARRANGE_TIMEOUT))]
    TimedOut,
    /// The system lacks threads.
    #[error("failed to arrange its control group: {0}")]
    Thread(io::Error),
    /// systemd did not create the scope.
    #[error(transparent)]
    Systemd(#[from] systemd::Error),
    /// Processes with the marker remain.
    #[error(transparent)]
    Mark(#[from] marker::Error),
}

/// Finds the processes of agents. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trees {
    user: Uid,
    state_dir: Arc<Path>,
    groups: Arc<Mutex<Groups>>,
    marker: EnvironMarker,
    systemd: Systemd,
    /// The agents whose processes are all known to be in their control groups.
    contained: Arc<Mutex<BTreeSet<Key>>>,
}

impl Trees {
    /// The trees of the daemon with this state directory, and of its successors, whose agents run as `user`.
    ///
    /// Must be called inside the async runtime.
    pub fn new(state_dir: &Path, user: Uid) -> Self {
        // The same path however it was named. A path that does not exist works as well, as long as it stays that way.
        let absolute = || std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        let state_dir = state_dir.canonicalize().unwrap_or_else(|_| absolute());
        let (groups, marker) = (Groups::of(&state_dir), EnvironMarker::new(&state_dir, user));
        let trees = Self {
            user,
            state_dir: state_dir.into(),
            groups: Arc::new(Mutex::new(groups)),
            marker,
            systemd: Systemd::of_this_process(),
            contained: Arc::default(),
        };
        if let Some(error) = trees.groups_error() {
            tracing::warn!("{error}");
        }
        trees
    }

    /// The trees of the same daemon's agents that run as another user.
    ///
    /// Processes are found by their user and marker where there are no control groups, so a user's processes that bear the marker of
    /// another user's agent are not taken for that agent's.
    #[must_use]
    pub fn of_user(&self, user: Uid) -> Self {
        Self { user, marker: EnvironMarker::new(&self.state_dir, user), ..self.clone() }
    }

    /// The connection to systemd, for other questions.
    pub fn systemd(&self) -> Systemd {
        self.systemd.clone()
    }

    /// Tries to set up control groups that became unavailable, at each of the `rounds`, until they exist or the rounds end. Calls
    /// `tell` when [`Trees::groups_error`] has changed.
    pub async fn recover_groups(self, mut rounds: watch::Receiver<()>, tell: impl Fn()) {
        while let Some(before) = self.groups_error() {
            if rounds.changed().await.is_err() {
                return;
            }
            let state_dir = Arc::clone(&self.state_dir);
            // If no thread is available, the next round tries again.
            let Ok(groups) = blocking::run(move || Groups::of(&state_dir)).await else { continue };
            *self.lock() = groups;
            let after = self.groups_error();
            if after.as_ref() != Some(&before) {
                if let Some(error) = after {
                    tracing::warn!("{error}");
                }
                tell();
            }
        }
    }

    /// The variable in the environment of all processes of the agent with this key.
    pub fn mark(&self, key: &Key) -> (String, SecretBytes) {
        (marker::VARIABLE.to_owned(), self.marker.value(key))
    }

    /// The agents' control groups, where they have any.
    pub fn groups(&self) -> Option<Arc<Cgroups>> {
        match &*self.lock() {
            Groups::Had(cgroups) => Some(Arc::clone(cgroups)),
            Groups::NotHere | Groups::Lost(_) => None,
        }
    }

    /// Why agents have no control groups where they could have them, as a message for people.
    pub fn groups_error(&self) -> Option<String> {
        match &*self.lock() {
            Groups::Lost(why) => Some(format!(
                "agents have no control groups; limits are not applied, and what agents start is found only by descent, session \
                 and environment: {why}"
            )),
            Groups::Had(_) | Groups::NotHere => None,
        }
    }

    /// Why declared limits do not apply where there are no scopes.
    fn no_limits(&self) -> String {
        match &*self.lock() {
            Groups::Lost(why) => format!("its limits are not applied: {why}"),
            Groups::Had(_) | Groups::NotHere => {
                let why = match (Uid::effective().is_root(), systemd::is_booted()) {
                    (false, _) => "agentd does not run as root",
                    (true, false) => "systemd does not run",
                    (true, true) => "agentd is not a service of systemd",
                };
                format!("its limits are not applied: {why}")
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process is in the control group of the agent with this key, or of another; `None` if there are no groups.
    pub fn whose(&self, key: &Key, process: &Process) -> Option<Result<Whose, cgroup::Error>> {
        self.groups().map(|cgroups| cgroups.whose(key, process))
    }

    /// The tree of this launcher.
    pub fn of(&self, key: &Key, launcher: Arc<Process>) -> Tree {
        Tree { trees: self.clone(), key: key.clone(), launcher }
    }

    /// Prepares for the next tree of an agent that has no launcher: kills what is left of the last one.
    pub async fn prepare(&self, key: &Key) -> Result<(), Error> {
        let ready = self.with_cgroup(key, |cgroup| {
            cgroup.make_ready();
            Ok(())
        });
        tokio::join!(self.clear(key), ready).0
    }

    /// Kills what is left of an agent whose launcher has ended. `leaders` are the known leaders of its sessions: its launcher and
    /// its harness.
    pub async fn clear_after(&self, key: &Key, leaders: impl IntoIterator<Item = Identity>) -> Result<(), Error> {
        for leader in leaders {
            if !self.contained().contains(key) {
                let user = self.user;
                blocking::insist(move || leader.kill_session(user)).await;
            }
        }
        self.clear(key).await
    }

    async fn clear(&self, key: &Key) -> Result<(), Error> {
        let cleared = self.with_cgroup(key, Cgroup::clear).await;
        if cleared.is_err() || !self.contained().contains(key) {
            self.marker.clear(key).await?;
        }
        if cleared?.is_some() {
            self.contained().insert(key.clone());
        }
        Ok(())
    }

    fn contained(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.contained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does work on the control group outside of the async runtime's thread; nothing if there are no groups.
    async fn with_cgroup<T: Send + 'static>(
        &self,
        key: &Key,
        work: impl FnOnce(&Cgroup) -> Result<T, cgroup::Error> + Send + 'static,
    ) -> Result<Option<T>, Error> {
        let Some(cgroup) = self.groups().map(|cgroups| cgroups.agent(key)) else { return Ok(None) };
        let done = timeout(ARRANGE_TIMEOUT, blocking::run(move || work(&cgroup))).await;
        let done = done.map_err(|_| Error::TimedOut)?.map_err(Error::Thread)?;
        Ok(Some(done?))
    }
}

/// The tree of one attempt: its launcher, and all descendants. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tree {
    trees: Trees,
    key: Key,
    launcher: Arc<Process>,
}

impl Tree {
    /// Makes sure that everything the launcher starts can be found, and has these limits.
    ///
    /// Call this before the launcher has started anything. If the limits do not apply, returns the reason, as a message for
    /// people.
    pub async fn contain(&self, limits: &Limits) -> Option<String> {
        match self.try_to_contain(limits).await {
            Ok(()) if limits.is_any() && self.scope().is_none() => Some(self.trees.no_limits()),
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(agent = self.key.as_str(), "its control group is not used: {error}");
                self.trees.contained().remove(&self.key);
                limits.is_any().then(|| format!("its limits are not applied: {error}"))
            }
        }
    }

    async fn try_to_contain(&self, limits: &Limits) -> Result<(), Error> {
        if let Some(scope) = self.scope() {
            let description = format!("agent {}", self.key);
            scope::start_scope(&self.trees.systemd, &scope, &description, self.launcher.pid(), limits).await?;
        }
        let launcher = Arc::clone(&self.launcher);
        self.trees.with_cgroup(&self.key, move |cgroup| cgroup.admit(&launcher)).await.map(drop)
    }

    /// Changes the limits. If they do not apply, returns the reason, as a message for people.
    pub async fn limit(&self, limits: &Limits) -> Option<String> {
        match self.scope() {
            Some(scope) => {
                match scope::limit_scope(&self.trees.systemd, &scope, limits).await {
                    Ok(()) => None,
                    // Without a scope, it has no limits.
                    Err(systemd::Error::NoUnit { .. }) if !limits.is_any() => None,
                    Err(error) => Some(format!("its limits are not applied: {error}")),
                }
            }
            None => limits.is_any().then(|| self.trees.no_limits()),
        }
    }

    fn scope(&self) -> Option<String> {
        self.trees.groups()?.scope(&self.key)
    }

    /// The resources that it has used, as far as they are counted.
    pub async fn usage(&self) -> Usage {
        let usage = self.trees.with_cgroup(&self.key, |cgroup| Ok(cgroup.usage())).await;
        usage.ok().flatten().unwrap_or_default()
    }

    /// Kills all of it except the launcher, which reports how its harness ended.
    pub async fn kill(&self) {
        let launcher = Arc::clone(&self.launcher);
        if let Err(error) = self.trees.with_cgroup(&self.key, move |cgroup| cgroup.kill_but(&launcher)).await {
            tracing::warn!(agent = self.key.as_str(), "{error}");
        }
        // An earlier daemon may not have used a group for it.
        let launcher = Arc::clone(&self.launcher);
        blocking::insist(move || launcher.kill_descendants()).await;
    }

    /// Kills what is left of it after its launcher has ended. `harness` led a session, if it is known.
    pub async fn clear(&self, harness: Option<Identity>) -> Result<(), Error> {
        self.trees.clear_after(&self.key, [self.launcher.identity()].into_iter().chain(harness)).await
    }
}
