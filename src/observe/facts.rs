//! Facts about the daemon itself that only metrics show.

use std::collections::BTreeMap;
use std::time::SystemTime;

use prometheus_client::metrics::histogram::Histogram;

use crate::wire::status::{AgentStatus, Time};

/// What only metrics show.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When the daemon was started.
    pub started: SystemTime,
    /// When a changed jcard was last read.
    pub config_read: Option<SystemTime>,
    /// How long a reconciliation takes. Clones share it.
    pub reconcile: Histogram,
    /// The restarts of each agent, by name.
    pub restarts: BTreeMap<String, Restarts>,
}

impl Facts {
    /// The facts of a daemon that has done nothing yet.
    pub fn new(started: SystemTime) -> Self {
        let buckets = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];
        Self { started, config_read: None, reconcile: Histogram::new(buckets), restarts: BTreeMap::new() }
    }
}

/// How often an agent was launched again, by reason. One daemon counts, over all declarations of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// It had ended, and its policy asks for a restart.
    pub policy: u64,
    /// Its declaration had changed.
    pub declaration: u64,
    /// The launch before had failed, through no fault of the agent.
    pub retry: u64,
}

/// Tells from an agent's statuses why it is launched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launches {
    /// Under which declaration the last launch was, and after how many restarts.
    last: Option<(Option<Time>, u64)>,
    restarts: Restarts,
}

impl Launches {
    /// Of an agent that an earlier daemon had launched last under this status.
    pub fn after(status: &AgentStatus) -> Self {
        Self { last: Some(Self::key(status)), restarts: Restarts::default() }
    }

    /// It is launched, and this is its status then.
    pub fn count(&mut self, status: &AgentStatus) {
        let this = Self::key(status);
        match self.last.replace(this) {
            None => {}
            Some((declared_at, _)) if declared_at != this.0 => self.restarts.declaration += 1,
            Some((_, restarts)) if restarts != this.1 => self.restarts.policy += 1,
            Some(_) => self.restarts.retry += 1,
        }
    }

    /// What was counted.
    pub fn restarts(&self) -> Restarts {
        self.restarts
    }

    fn key(status: &AgentStatus) -> (Option<Time>, u64) {
        (status.declared_at, status.restarts)
    }
}
