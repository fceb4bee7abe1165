//! Facts about the daemon itself that only metrics show.

use std::collections::BTreeMap;
use std::time::SystemTime;

use prometheus_client::metrics::histogram::Histogram;

use crate::agent::machine::LaunchReason;

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

/// How often an agent was launched again, by the reason. Counted by one daemon, over all declarations of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// It had ended, and its policy restarts it.
    pub policy: u64,
    /// Its declaration had changed.
    pub declaration: u64,
    /// The launch before had failed, through no fault of the agent.
    pub retry: u64,
}

impl Restarts {
    /// It is launched.
    pub fn count(&mut self, reason: LaunchReason) {
        match reason {
            // The end of a hold is none of them either.
            LaunchReason::First | LaunchReason::Released => {}
            LaunchReason::Policy => self.policy += 1,
            // An operator's word counts as the entry's.
            LaunchReason::Declaration | LaunchReason::Restarted => self.declaration += 1,
            LaunchReason::Retry | LaunchReason::Recovery => self.retry += 1,
        }
    }
}
