//! The files that launchers write to, as the supervisor and its attempts use them.
//!
//! [`StoredLogs`] is the only implementation outside of tests.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use crate::agent::machine::Numbers;
use crate::agent::name::{Key, Name};
use crate::logs::attempt::{AttemptId, Files, Live};
use crate::logs::guard::{Guard, Watch};
use crate::logs::store::{Error, Store};
use crate::observe::outputs::Outputs;
use crate::supervisor::future::BoxFuture;
use crate::sys::blocking;

/// How long the files of an attempt may take to be made before it runs without them, or to be removed before it is over: longer than
/// a busy disk takes.
const MAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// By how much the clock of file systems may be late.
const CLOCK_TICK: Duration = Duration::from_millis(50);

/// Makes, finds and watches the files of attempts.
pub trait LogFiles: Debug + Send + Sync {
    /// Returns how many bytes of each attempt are kept.
    fn size(&self) -> u64;

    /// Makes the files of an agent's next attempt, and watches them. Fails in words for a person.
    fn make<'a>(&'a self, agent: &'a Name, numbers: Numbers) -> BoxFuture<'a, Result<Made, String>>;

    /// Removes the files of what was no attempt after all.
    fn discard<'a>(&'a self, agent: &'a Name, kept: AttemptId) -> BoxFuture<'a, ()>;

    /// Finds the files of an attempt that an earlier daemon started, and watches them; `None` if there are none.
    fn find<'a>(&'a self, agent: &'a Name) -> BoxFuture<'a, Result<Option<Watch>, NotFound>>;

    /// Tells readers that an attempt continues in other files.
    fn has_moved(&self);

    /// Notes that output of an agent is lost from this time on, until something is written again.
    fn lost(&self, _agent: &Name, _at: SystemTime) {}

    /// When agents last printed something.
    fn outputs(&self) -> Outputs {
        Outputs::default()
    }

    /// Removes the oldest files of agents that are no longer held; see [`Store::tidy`].
    fn tidy(&self, held: BTreeSet<Key>) -> BoxFuture<'_, Result<(), Error>>;
}

/// The files of an attempt that were just made.
#[derive(Debug)]
pub struct Made {
    /// For its launcher.
    pub files: Files,
    /// For the daemon.
    pub watch: Watch,
    /// What is wrong with them, although they can be written.
    pub flaw: Option<String>,
}

/// It could not be found out whether there are files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFound;

/// The files in the log directory, and the guard that watches them.
#[derive(Clone, Debug)]
pub struct StoredLogs {
    store: Store,
    guard: Guard,
    outputs: Outputs,
}

impl StoredLogs {
    /// Files in this store. Must be called inside the async runtime.
    pub fn new(store: Store) -> Self {
        let outputs = Outputs::default();
        let told = outputs.clone();
        let tell = move |agent: &Name, kept: AttemptId, at| told.saw(&agent.key(), kept.sequence, at);
        let guard = Guard::new(store.clone(), tell);
        Self { store, guard, outputs }
    }

    /// Finds out, beside everything else, when agents last printed something that have ended before this daemon started. Each has
    /// the time at which its latest attempt started, if it did.
    pub fn look_back(&self, agents: Vec<(Name, Option<SystemTime>)>) {
        let (store, outputs) = (self.store.clone(), self.outputs.clone());
        tokio::spawn(blocking::run(move || {
            for (agent, started) in agents {
                let Ok(Some((kept, at))) = store.last_written(&agent) else { continue };
                // Otherwise the log is that of an earlier attempt, and the latest has none.
                if started.is_none_or(|started| at + CLOCK_TICK >= started) {
                    outputs.saw(&agent.key(), kept.sequence, Some(at));
                }
            }
        }));
    }

    async fn make(&self, agent: &Name, numbers: Numbers) -> Result<Made, String> {
        let made = self.try_to_make(agent, numbers).await;
        match &made {
            Ok(made) => self.outputs.begin(&agent.key(), made.files.kept.sequence),
            Err(_) => self.outputs.lost(&agent.key(), SystemTime::now()),
        }
        made
    }

    async fn try_to_make(&self, agent: &Name, numbers: Numbers) -> Result<Made, String> {
        let (store, agent) = (self.store.clone(), agent.clone());
        let make = move || -> Result<(Files, Live), String> {
            let files = store.create(&agent, numbers).map_err(|error| error.to_string())?;
            let live = Live::of(agent, &files).map_err(|error| format!("failed to look after its files: {error}"))?;
            Ok((files, live))
        };
        let (files, live) = match timeout(MAKE_TIMEOUT, blocking::run(make)).await {
            Ok(Ok(made)) => made?,
            Ok(Err(error)) => return Err(format!("failed to make its files: {error}")),
            Err(_) => {
                return Err(format!("failed to make its files within {}", humantime::format_duration(MAKE_TIMEOUT)));
            }
        };
        let flaw = (!files.can_shrink).then(|| {
            let (size, path) = (self.store.size(), self.store.path().display());
            format!("the file system of {path} cannot take back the beginning of a file: each time a log has {size} bytes, it begins again and what it had is lost")
        });
        Ok(Made { files, watch: self.guard.watch(live), flaw })
    }

    async fn discard(&self, agent: &Name, kept: AttemptId) {
        let (store, name) = (self.store.clone(), agent.clone());
        let discard = move || store.discard(&name, kept);
        // What is left is removed when there are too many.
        if let Ok(Ok(Err(error))) = timeout(MAKE_TIMEOUT, blocking::run(discard)).await {
            tracing::warn!(agent = %agent, "{error}");
        }
    }

    async fn find(&self, agent: &Name) -> Result<Option<Watch>, NotFound> {
        let (store, agent) = (self.store.clone(), agent.clone());
        let open = move || store.live(&agent);
        let finding = async {
            let _turn = self.guard.turn_to_take_up().await;
            blocking::run(open).await
        };
        match timeout(MAKE_TIMEOUT, finding).await {
            Ok(Ok(Ok(live))) => Ok(live.map(|live| self.guard.watch(live))),
            _ => Err(NotFound),
        }
    }

    async fn tidy(&self, held: BTreeSet<Key>) -> Result<(), Error> {
        let store = self.store.clone();
        self.outputs.keep_only(&held);
        // What is not done for want of a thread is done with the next agent that leaves.
        blocking::run(move || store.tidy(&held)).await.unwrap_or(Ok(()))
    }
}

impl LogFiles for StoredLogs {
    fn size(&self) -> u64 {
        self.store.size()
    }

    fn make<'a>(&'a self, agent: &'a Name, numbers: Numbers) -> BoxFuture<'a, Result<Made, String>> {
        Box::pin(self.make(agent, numbers))
    }

    fn discard<'a>(&'a self, agent: &'a Name, kept: AttemptId) -> BoxFuture<'a, ()> {
        Box::pin(self.discard(agent, kept))
    }

    fn find<'a>(&'a self, agent: &'a Name) -> BoxFuture<'a, Result<Option<Watch>, NotFound>> {
        Box::pin(self.find(agent))
    }

    fn has_moved(&self) {
        self.store.has_moved();
    }

    fn lost(&self, agent: &Name, at: SystemTime) {
        self.outputs.lost(&agent.key(), at);
    }

    fn outputs(&self) -> Outputs {
        self.outputs.clone()
    }

    fn tidy(&self, held: BTreeSet<Key>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.tidy(held))
    }
}
