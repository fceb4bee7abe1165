//! Finding and killing what is an agent's, as the supervisor and its attempts use it.
//!
//! [`Trees`] and [`Tree`] are the only implementations outside of tests.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use crate::agent::name::Key;
use crate::agent::spec::Limits;
use crate::contain::cgroup::{self, Cgroups, Whose};
use crate::contain::tree::{Error, Tree, Trees};
use crate::supervisor::future::BoxFuture;
use crate::sys::blocking;
use crate::sys::process::{Identity, Process};
use crate::sys::secret_bytes::SecretBytes;
use crate::wire::status::Usage;

/// Contains the processes of agents. A `key` is an agent's.
pub trait Containment: Debug + Send + Sync {
    /// Makes room for the agent's next process tree; see [`Trees::prepare`].
    fn prepare<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), Error>>;

    /// Kills what is left of an agent whose launcher has ended; see [`Trees::clear_after`].
    fn clear_after<'a>(&'a self, key: &'a Key, launcher: Option<Identity>) -> BoxFuture<'a, Result<(), Error>>;

    /// Tells whose control group the process is in; `None` where there are no groups. See [`Trees::whose`].
    fn whose(&self, key: &Key, process: &Process) -> Option<Result<Whose, cgroup::Error>>;

    /// Returns the environment variable that marks the agent's processes; see [`Trees::mark`].
    fn mark(&self, key: &Key) -> (String, SecretBytes);

    /// Returns the process tree below this launcher; see [`Trees::of`].
    fn tree(&self, key: &Key, launcher: Arc<Process>) -> Arc<dyn ProcessTree>;

    /// Kills what descends from a process that is no agent's launcher, and spares the process; see [`Process::kill_descendants`].
    ///
    /// Bounded in time. Fails if nothing was looked for, because no thread can be started.
    fn kill_below(&self, process: Arc<Process>) -> BoxFuture<'_, io::Result<()>>;

    /// Returns the agents' control groups, if there are any; see [`Trees::groups`].
    fn groups(&self) -> Option<Arc<Cgroups>>;

    /// Tells why there are none although there could be; see [`Trees::groups_error`].
    fn groups_error(&self) -> Option<String>;
}

/// The launcher of one attempt, and everything that descends from it.
pub trait ProcessTree: Debug + Send + Sync {
    /// Contains what the launcher will start. Returns why its limits are not applied; see [`Tree::contain`].
    fn contain<'a>(&'a self, limits: &'a Limits) -> BoxFuture<'a, Option<String>>;

    /// Changes its limits. Returns why they are not applied; see [`Tree::limit`].
    fn limit<'a>(&'a self, limits: &'a Limits) -> BoxFuture<'a, Option<String>>;

    /// Returns the resources it has used; see [`Tree::usage`].
    fn usage(&self) -> BoxFuture<'_, Usage>;

    /// Kills everything but the launcher; see [`Tree::kill`].
    fn kill(&self) -> BoxFuture<'_, ()>;

    /// Kills what is left once the launcher has ended; see [`Tree::clear`].
    fn clear(&self, harness: Option<Identity>) -> BoxFuture<'_, Result<(), Error>>;
}

impl Containment for Trees {
    fn prepare<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.prepare(key))
    }

    fn clear_after<'a>(&'a self, key: &'a Key, launcher: Option<Identity>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.clear_after(key, launcher))
    }

    fn whose(&self, key: &Key, process: &Process) -> Option<Result<Whose, cgroup::Error>> {
        self.whose(key, process)
    }

    fn mark(&self, key: &Key) -> (String, SecretBytes) {
        self.mark(key)
    }

    fn tree(&self, key: &Key, launcher: Arc<Process>) -> Arc<dyn ProcessTree> {
        Arc::new(self.of(key, launcher))
    }

    fn kill_below(&self, process: Arc<Process>) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(blocking::run(move || {
            process.kill_descendants();
        }))
    }

    fn groups(&self) -> Option<Arc<Cgroups>> {
        self.groups()
    }

    fn groups_error(&self) -> Option<String> {
        self.groups_error()
    }
}

impl ProcessTree for Tree {
    fn contain<'a>(&'a self, limits: &'a Limits) -> BoxFuture<'a, Option<String>> {
        Box::pin(self.contain(limits))
    }

    fn limit<'a>(&'a self, limits: &'a Limits) -> BoxFuture<'a, Option<String>> {
        Box::pin(self.limit(limits))
    }

    fn usage(&self) -> BoxFuture<'_, Usage> {
        Box::pin(self.usage())
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.kill())
    }

    fn clear(&self, harness: Option<Identity>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.clear(harness))
    }
}
