//! Whole trees: everything that is an agent's, found and killed, and nothing else.
//!
//! What an agent started is known as such by what it cannot shake off:
//!
//! | | found by | until |
//! |---|---|---|
//! | always | descent: the launcher is the reaper of its descendants, so none gets out from below it | the launcher is killed |
//! | for root, where it can be had | its [control group](crate::contain::cgroup), under systemd that of a scope | never |
//! | elsewhere | its sessions, and the [mark](crate::contain::marker) in its environment | it leaves the one and sheds the other |
//!
//! Each agent has one tree at a time. Its control group and its mark tell whose it is and not which attempt's, so that the next
//! daemon finds what the last one left, without a record: whatever is there when an attempt ends, and before one begins, goes.
//!
//! A process is killed for what it is to the kernel: by membership of a group, or by a pidfd, after what was found about its id was
//! found again while the pidfd was held. No name and no argument counts.
//!
//! What an agent has somebody else start is not its tree: a shell in another tmux window, a job of `cron(8)` or of the user's own
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
use crate::contain::marker::{self, Marks};
use crate::contain::scope;
use crate::sys::blocking;
use crate::sys::process::{Identity, Process};
use crate::sys::secret_bytes::SecretBytes;
use crate::sys::systemd;
use crate::wire::status::Usage;

/// How long the kernel may take over a control group.
const TO_ARRANGE: Duration = Duration::from_secs(10);

const NO_LIMITS: &str = "its limits are not applied: agentd does not run as root, or systemd does not run";

/// Whether agents have control groups.
#[derive(Clone, Debug)]
enum Groups {
    /// Each has one, from its next launch on.
    Had(Arc<Cgroups>),
    /// This place does not offer them.
    NotHere,
    /// This alone stands in the way; agentd tries again.
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
                tracing::info!("what agents start is found by descent, session and environment: {error}");
                Self::NotHere
            }
            Err(error) => Self::Lost(error.to_string()),
        }
    }
}

/// Why something of an agent's may still be there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// In its control group.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// The kernel is busy with it.
    #[error("failed to arrange its control group within {}", humantime::format_duration(TO_ARRANGE))]
    TimedOut,
    /// The system is short of threads.
    #[error("failed to arrange its control group: {0}")]
    Thread(io::Error),
    /// systemd did not make its scope.
    #[error(transparent)]
    Systemd(#[from] systemd::Error),
    /// With its mark.
    #[error(transparent)]
    Mark(#[from] marker::Error),
}

/// The means to find what is an agent's. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trees {
    user: Uid,
    state_dir: Arc<Path>,
    groups: Arc<Mutex<Groups>>,
    marks: Marks,
    /// Agents that have nothing outside of their control groups, as far as they have anything. Of others that is not known.
    contained: Arc<Mutex<BTreeSet<Key>>>,
}

impl Trees {
    /// The trees of the daemon with this state directory, and of the one after it, whose agents run as `user`. Must be called
    /// inside the async runtime.
    pub fn new(state_dir: &Path, user: Uid) -> Self {
        // However it was named this time. One that is not there serves as well, as long as it stays so.
        let absolute = || std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        let state_dir = state_dir.canonicalize().unwrap_or_else(|_| absolute());
        let (groups, marks) = (Groups::of(&state_dir), Marks::new(&state_dir, user));
        let trees = Self {
            user,
            state_dir: state_dir.into(),
            groups: Arc::new(Mutex::new(groups)),
            marks,
            contained: Arc::default(),
        };
        if let Some(error) = trees.groups_error() {
            tracing::warn!("{error}");
        }
        trees
    }

    /// Tries to have the control groups that were lost, at each of the `rounds`, until they are there or there are no rounds. Tells
    /// when [`Trees::groups_error`] is another.
    pub async fn recover_groups(self, mut rounds: watch::Receiver<()>, tell: impl Fn()) {
        while let Some(before) = self.groups_error() {
            if rounds.changed().await.is_err() {
                return;
            }
            let state_dir = Arc::clone(&self.state_dir);
            // What is not tried for want of a thread is tried with the next round.
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

    /// The variable that everything of the agent with this key has in its environment.
    pub fn mark(&self, key: &Key) -> (String, SecretBytes) {
        (marker::VARIABLE.to_owned(), self.marks.value(key))
    }

    /// The agents' control groups, where they have any.
    pub fn groups(&self) -> Option<Arc<Cgroups>> {
        match &*self.lock() {
            Groups::Had(cgroups) => Some(Arc::clone(cgroups)),
            Groups::NotHere | Groups::Lost(_) => None,
        }
    }

    /// Why agents have no control groups where they could have them, for a person.
    pub fn groups_error(&self) -> Option<String> {
        match &*self.lock() {
            Groups::Lost(why) => Some(format!(
                "agents have no control groups; limits are not applied, and what agents start is found only by descent, session \
                 and environment: {why}"
            )),
            Groups::Had(_) | Groups::NotHere => None,
        }
    }

    /// Why declared limits are not applied where there are no scopes.
    fn no_limits(&self) -> String {
        match &*self.lock() {
            Groups::Lost(why) => format!("its limits are not applied: {why}"),
            Groups::Had(_) | Groups::NotHere => NO_LIMITS.to_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose control group the process is in, of which the agent with this key is asked about; `None` where there are no groups.
    pub fn whose(&self, key: &Key, process: &Process) -> Option<Result<Whose, cgroup::Error>> {
        self.groups().map(|cgroups| cgroups.whose(key, process))
    }

    /// The tree of this launcher.
    pub fn of(&self, key: &Key, launcher: Arc<Process>) -> Tree {
        Tree { trees: self.clone(), key: key.clone(), launcher }
    }

    /// Readies the ground for the next tree of an agent that has no launcher: kills what is left of it.
    pub async fn prepare(&self, key: &Key) -> Result<(), Error> {
        let ready = self.with_cgroup(key, |cgroup| {
            cgroup.make_ready();
            Ok(())
        });
        tokio::join!(self.clear(key), ready).0
    }

    /// Kills what is left of an agent that has no launcher any more. Those that led its sessions are its launcher and its harness, as
    /// far as they are known.
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
            self.marks.clear(key).await?;
        }
        if cleared?.is_some() {
            self.contained().insert(key.clone());
        }
        Ok(())
    }

    fn contained(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.contained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does that outside of the async runtime's thread; nothing where there are no groups.
    async fn with_cgroup<T: Send + 'static>(
        &self,
        key: &Key,
        work: impl FnOnce(&Cgroup) -> Result<T, cgroup::Error> + Send + 'static,
    ) -> Result<Option<T>, Error> {
        let Some(cgroup) = self.groups().map(|cgroups| cgroups.agent(key)) else { return Ok(None) };
        let done = timeout(TO_ARRANGE, blocking::run(move || work(&cgroup))).await;
        let done = done.map_err(|_| Error::TimedOut)?.map_err(Error::Thread)?;
        Ok(Some(done?))
    }
}

/// The tree of one attempt: its launcher, and all that comes of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tree {
    trees: Trees,
    key: Key,
    launcher: Arc<Process>,
}

impl Tree {
    /// To be called before the launcher has started anything: whatever it will start can then be found, and has these limits.
    /// Answers why it has not, for a person, if it has not.
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
            scope::start_scope(&scope, &description, self.launcher.pid(), limits).await?;
        }
        let launcher = Arc::clone(&self.launcher);
        self.trees.with_cgroup(&self.key, move |cgroup| cgroup.admit(&launcher)).await.map(drop)
    }

    /// Gives it other limits. Answers why it has not got them, for a person, if it has not.
    pub async fn limit(&self, limits: &Limits) -> Option<String> {
        match self.scope() {
            Some(scope) => {
                match scope::limit_scope(&scope, limits).await {
                    Ok(()) => None,
                    // It has none because it has no scope.
                    Err(systemd::Error::NoUnit(_)) if !limits.is_any() => None,
                    Err(error) => Some(format!("its limits are not applied: {error}")),
                }
            }
            None => limits.is_any().then(|| self.trees.no_limits()),
        }
    }

    fn scope(&self) -> Option<String> {
        self.trees.groups()?.scope(&self.key)
    }

    /// What it has taken of the machine, as far as that is counted.
    pub async fn usage(&self) -> Usage {
        let usage = self.trees.with_cgroup(&self.key, |cgroup| Ok(cgroup.usage())).await;
        usage.ok().flatten().unwrap_or_default()
    }

    /// Kills all of it but the launcher, which is left to tell how its harness ended.
    pub async fn kill(&self) {
        let launcher = Arc::clone(&self.launcher);
        if let Err(error) = self.trees.with_cgroup(&self.key, move |cgroup| cgroup.kill_but(&launcher)).await {
            tracing::warn!(agent = self.key.as_str(), "{error}");
        }
        // An earlier daemon may not have had a group for it.
        let launcher = Arc::clone(&self.launcher);
        blocking::insist(move || launcher.kill_descendants()).await;
    }

    /// Kills what is left of it once its launcher has ended. `harness` led a session, if it is known.
    pub async fn clear(&self, harness: Option<Identity>) -> Result<(), Error> {
        self.trees.clear_after(&self.key, [self.launcher.identity()].into_iter().chain(harness)).await
    }
}
