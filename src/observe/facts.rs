//! What the daemon knows of itself, beside what the API tells.

use std::collections::BTreeMap;
use std::time::SystemTime;

use prometheus_client::metrics::histogram::Histogram;

use crate::wire::status::{AgentStatus, Time};

/// What there is to tell beside what the API tells elsewhere.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When the daemon was started.
    pub started: SystemTime,
    /// When the jcard was last read that differed from the one before.
    pub config_read: Option<SystemTime>,
    /// How long bringing the agents in line with what is desired takes. Cloned, it is the same one.
    pub reconcile: Histogram,
    /// Of each agent, by name.
    pub restarts: BTreeMap<String, Restarts>,
}

impl Facts {
    /// Of a daemon that has done nothing yet.
    pub fn new(started: SystemTime) -> Self {
        let buckets = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];
        Self { started, config_read: None, reconcile: Histogram::new(buckets), restarts: BTreeMap::new() }
    }
}

/// How often an agent was launched anew, by the reason for it. Counted by one daemon, over all declarations of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// It had ended, and its policy says again.
    pub policy: u64,
    /// What is to be launched had changed.
    pub declaration: u64,
    /// The launch before came to nothing through no fault of the agent.
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
