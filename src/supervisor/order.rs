//! Who comes after whom: lets agents start once those have come that their `after` names.

use std::collections::BTreeMap;

use super::{Course, Supervisor};
use crate::agent::after::{After, Fact, Unmet, in_order, unmet};
use crate::agent::machine;
use crate::agent::name::Key;
use crate::wire::reason::WaitingFor;
use crate::wire::status::AgentStatus;

/// Whether the change of an agent may concern those that come after it.
pub(super) fn concerns_others(before: &AgentStatus, after: &AgentStatus) -> bool {
    let facts = |agent: &AgentStatus| {
        let is_stopped = agent.waiting_for.iter().any(|cause| matches!(cause, WaitingFor::Enabled { .. }));
        (agent.state, agent.outcome, is_stopped, agent.waiting_for.iter().any(WaitingFor::is_stuck))
    };
    facts(before) != facts(after)
}

impl Supervisor {
    /// Tells the agents that come after others what is left to wait for, if something has become of any agent. Those of which nothing
    /// is left start.
    pub(super) fn review_order(&mut self) {
        if self.course != Course::Running {
            return;
        }
        // What starts in one pass may be what is waited for in the next.
        while std::mem::take(&mut self.afterwards.review_order) {
            let waiting: BTreeMap<Key, Vec<After>> = self
                .agents
                .iter()
                .map(|(key, agent)| (key, agent.machine.comes_after()))
                .filter(|(_, after)| !after.is_empty())
                .map(|(key, after)| (key.clone(), after.to_vec()))
                .collect();
            // Replicas wait for the same.
            let mut known: BTreeMap<&[After], Unmet> = BTreeMap::new();
            for key in in_order(&waiting) {
                let Some(after) = waiting.get(&key) else { continue };
                let left = known.entry(after).or_insert_with(|| self.left_of(after)).clone();
                if self.agents.get(&key).is_some_and(|agent| agent.machine.is_news(&left)) {
                    self.step(&key, machine::Event::Awaits(left));
                }
            }
        }
    }

    /// What is left to wait for of these, as things stand.
    pub(super) fn left_of(&self, after: &[After]) -> Unmet {
        unmet(after, |key| self.fact_of(key))
    }

    /// What is known of an agent that others may come after.
    fn fact_of(&self, key: &Key) -> Option<Fact> {
        let agent = self.agents.get(key).filter(|agent| !agent.machine.is_leaving())?;
        Some(agent.machine.fact())
    }
}
