//! What an agent comes after: nothing of a life starts before the supervisor says that nothing is left to wait for.
//!
//! The supervisor knows the other agents, and looks again whenever something of them has changed. Only its word opens the gate, and only
//! at that moment: whatever else would start the agent first has the supervisor look again. Once a life has launched something, the
//! gate is of no interest.

use super::{Effect, Machine, State};
use crate::agent::after::{After, Fact, Unmet};
use crate::sys::clock::Timestamp;
use crate::wire::reason::WaitingFor;
use crate::wire::status;

/// What is known of the agents that must come before the first start of a life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Gate {
    /// Nothing is.
    #[default]
    Unknown,
    /// Not all have come.
    Shut(Unmet),
    /// All had come when somebody looked last.
    Met,
    /// All have come, this very moment.
    Open,
}

impl Machine {
    /// What it comes after, as long as that can keep it from starting.
    pub fn comes_after(&self) -> &[After] {
        let is_leaving = self.removal().is_some();
        // A template has launched nothing, so that its runs come after, each of them.
        let life = self.life.as_ref().filter(|life| life.attempts == 0 && !is_leaving);
        life.map_or(&[], |life| &life.policy.after)
    }

    /// Whether somebody must look at what it comes after before it can start.
    pub fn must_be_reviewed(&self) -> bool {
        !self.comes_after().is_empty() && self.life.as_ref().is_some_and(|life| life.gate == Gate::Unknown)
    }

    /// Whether this is not what it knows of what it comes after.
    pub fn is_news(&self, unmet: &Unmet) -> bool {
        self.life.as_ref().is_some_and(|life| match &life.gate {
            Gate::Unknown => true,
            Gate::Shut(known) => known != unmet,
            Gate::Met | Gate::Open => !unmet.is_nothing(),
        })
    }

    /// What others that come after it must know.
    pub fn fact(&self) -> Fact {
        let (state, outcome) = match self.state {
            State::Exited { outcome } => (status::State::Exited, Some(outcome)),
            _ => (self.shown_state(), None),
        };
        let is_stuck = self.is_disabled() || state == status::State::Invalid || self.is_stuck();
        let reason = outcome.map(|_| self.why_over());
        // A probe would say.
        Fact { state, outcome, reason, is_ready: None, is_stuck }
    }

    /// Whether it waits for an agent that does not come without somebody who does something.
    pub fn is_stuck(&self) -> bool {
        !self.comes_after().is_empty()
            && self.life.as_ref().is_some_and(|life| matches!(&life.gate, Gate::Shut(unmet) if unmet.is_stuck()))
    }

    /// Whether it waits for other agents, as far as is known.
    pub(super) fn awaits_others(&self) -> bool {
        let gate = self.life.as_ref().map(|life| &life.gate);
        !self.comes_after().is_empty() && !matches!(gate, Some(Gate::Met | Gate::Open))
    }

    /// Takes in what is left to wait for. If that is nothing, this is the moment to start.
    pub(super) fn awaits(&mut self, unmet: Unmet, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.comes_after().is_empty() {
            return;
        }
        let is_met = unmet.is_nothing();
        let is_held = self.bar.is_some() || self.is_paused() || self.is_disabled();
        let Some(life) = &mut self.life else { return };
        life.gate = if is_met { Gate::Open } else { Gate::Shut(unmet) };
        if is_met && !is_held && self.waits_to_start() {
            self.go_on(now, effects);
        }
        if let Some(life) = &mut self.life
            && life.gate == Gate::Open
        {
            life.gate = Gate::Met;
        }
    }

    /// Waits for the agents that it comes after. Returns whether it must.
    pub(super) fn wait_for_others(&mut self) -> bool {
        if self.comes_after().is_empty() {
            return false;
        }
        let Some(life) = &mut self.life else { return false };
        match life.gate {
            Gate::Open => return false,
            Gate::Met => life.gate = Gate::Unknown,
            Gate::Unknown | Gate::Shut(_) => {}
        }
        self.state = State::Waiting;
        true
    }

    /// The agents that it waits for, as the API shows them.
    pub(super) fn awaited(&self) -> Option<WaitingFor> {
        let after = self.comes_after();
        let unmet = match &self.life.as_ref()?.gate {
            _ if after.is_empty() => return None,
            Gate::Met | Gate::Open => return None,
            Gate::Unknown => Unmet::unknown(after),
            Gate::Shut(unmet) => unmet.clone(),
        };
        Some(WaitingFor::After { agents: unmet.agents, more: unmet.more })
    }
}
