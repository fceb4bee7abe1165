//! What operators and the entry say about whether an agent runs, and which run of it is wanted.
//!
//! A disabled agent waits; when it is enabled again, a new life begins. A higher generation than that of the present life is a new
//! life, too. Generations never fall: an override that is gone takes nothing back. A pause keeps whatever waits from starting, and
//! touches nothing that runs.

use std::time::Duration;

use super::life::Next;
use super::{BackoffReason, Effect, Force, Machine, State, StopReason, Then};
use crate::agent::hold::{self, Bar, HoldKind, OnHold};
use crate::agent::orders::Orders;
use crate::agent::verdict::{self, Verdict};
use crate::sys::clock::Timestamp;
use crate::wire::exit_status::ExitStatus;
use crate::wire::reason::{Problem, WaitingFor};
use crate::wire::result::StreamResult;

impl Machine {
    /// The orders that it follows.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Whether it must not run.
    pub fn is_disabled(&self) -> bool {
        self.life.as_ref().is_some_and(|life| !self.orders.enables(&life.policy))
    }

    pub(super) fn is_paused(&self) -> bool {
        self.orders.pause.is_some()
    }

    /// The highest generation that was asked for.
    pub(super) fn generation(&self) -> u64 {
        let asked = match &self.life {
            Some(life) => self.orders.generation(&life.policy),
            None => self.orders.own.as_ref().and_then(|own| own.generation).unwrap_or_default(),
        };
        asked.max(self.life.as_ref().and_then(|life| life.generation).unwrap_or_default())
    }

    pub(super) fn ordered(&mut self, orders: Orders, now: Timestamp, effects: &mut Vec<Effect>) {
        let (was_disabled, was_paused) = (self.is_disabled(), self.is_paused());
        self.orders = orders;
        self.heed(was_disabled, now, effects);
        let is_held = self.bar.is_some() || self.is_paused() || self.is_disabled();
        if was_paused && !is_held && self.waits_to_start() {
            self.go_on(now, effects);
        }
    }

    /// Takes in whether, and why, nothing of it may be launched. What runs goes on.
    pub(super) fn barred(&mut self, why: Option<String>, now: Timestamp, effects: &mut Vec<Effect>) {
        let was_barred = std::mem::replace(&mut self.bar, why).is_some();
        let is_held = self.bar.is_some() || self.is_paused() || self.is_disabled();
        if was_barred && !is_held && self.waits_to_start() {
            self.go_on(now, effects);
        }
    }

    /// Takes in whether, and why, its group keeps it from starting, before an event. What waits is not woken by that.
    pub fn set_hold(&mut self, hold: Option<Bar>) {
        self.hold = hold;
    }

    /// What becomes of it when its credential does not work.
    pub fn on_hold(&self) -> OnHold {
        self.life.as_ref().map(|life| life.policy.hold).unwrap_or_default()
    }

    /// How long after it was found to be logged out its group tries again.
    pub fn hold_retry(&self) -> Duration {
        self.life.as_ref().map_or(hold::RETRY, |life| life.policy.hold_retry)
    }

    /// Whether an attempt that ends like this has completed.
    pub fn has_completed(&self, how: &ExitStatus, result: Option<&StreamResult>) -> bool {
        let terms = self.life.as_ref().and_then(|life| life.policy.results);
        verdict::judge(how, result, terms) == Verdict::Completed
    }

    /// Whether its group is what keeps it from starting.
    pub fn is_held(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.held_since.is_some())
    }

    /// Why its group keeps it from starting.
    pub fn hold(&self) -> Option<&Bar> {
        self.hold.as_ref()
    }

    /// Takes in whether, and why, its group keeps it from starting. What runs goes on.
    pub(super) fn held_by_group(&mut self, hold: Option<Bar>, now: Timestamp, effects: &mut Vec<Effect>) {
        let was_held = self.hold.is_some() || self.life.as_ref().is_some_and(|life| life.held_since.is_some());
        self.hold = hold;
        let is_free = !(self.bar.is_some() || self.is_paused() || self.is_disabled());
        let waits = self.waits_to_start();
        if (was_held || self.hold.is_some()) && is_free && waits {
            self.go_on(now, effects);
        }
    }

    /// Whether it waits for something that a pause, a bar or a hold can be.
    fn waits_to_start(&self) -> bool {
        matches!(self.state, State::Waiting | State::Backoff { why: BackoffReason::Hold, .. })
    }

    /// Waits for its group. Returns whether it must.
    pub(super) fn wait_for_group(&mut self) -> bool {
        self.state = match &self.hold {
            Some(Bar::Held(held)) if held.kind == HoldKind::Quota => {
                State::Backoff { until: held.end(), why: BackoffReason::Hold }
            }
            Some(Bar::Held(_) | Bar::Turn { .. }) => State::Waiting,
            None => return false,
        };
        true
    }

    /// Keeps account of the time in which its group keeps it from starting.
    pub(super) fn count_hold(&mut self, now: Timestamp) {
        let waits = self.waits_to_start();
        let is_held = self.hold.is_some() && waits && !self.is_disabled() && !self.is_paused() && self.bar.is_none();
        let Some(life) = &mut self.life else { return };
        if is_held {
            life.held_since.get_or_insert(now);
        } else if let Some(since) = life.held_since.take()
            // The timeout begins with the first start.
            && life.first_started.is_some()
        {
            life.held_for = life.held_for.saturating_add(now.since(since));
        }
    }

    /// Why its user must not be an agent user.
    pub fn bar(&self) -> Option<&str> {
        self.bar.as_deref()
    }

    /// Takes in that the policy or the orders have changed. `was_disabled` is how things stood before.
    pub(super) fn heed(&mut self, was_disabled: bool, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(life) = &mut self.life else { return };
        let asked = self.orders.generation(&life.policy);
        // Of a life that an earlier build began, the generation is not known until its entry is read.
        let has_risen = life.generation.is_some_and(|generation| generation < asked);
        if has_risen {
            life.generation = Some(asked);
        }
        if self.removal().is_some() {
            return;
        }
        if self.is_disabled() {
            self.giver = self.orders.stopped_by();
            self.disable(now, effects);
        } else if was_disabled {
            self.giver = self.orders.started_by();
            self.run_again(now, effects);
        } else if has_risen {
            self.giver = self.orders.restarted_by(asked);
            self.run_again(now, effects);
        }
    }

    fn disable(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        match &mut self.state {
            State::Starting { .. } | State::Running { .. } => self.stop(StopReason::Disabled, now, effects),
            State::Stopping { why, .. } => {
                *why = StopReason::Disabled;
                self.hasten(now, effects);
            }
            State::Exited { .. } => self.state = State::Waiting,
            State::Absent { .. } | State::Queued { .. } | State::Backoff { .. } => self.wait_with_shell(effects),
            State::Invalid | State::Waiting | State::Closing { .. } | State::Gone { .. } => {}
        }
    }

    /// Begins a new life under the same declaration, once nothing is left of the present one.
    fn run_again(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        match &mut self.state {
            State::Starting { .. } | State::Running { .. } => self.stop(StopReason::Restarted, now, effects),
            State::Stopping { why, .. } => {
                *why = StopReason::Restarted;
                self.hasten(now, effects);
            }
            State::Closing { then: Then::Begin, .. } => self.renew(now),
            State::Waiting
            | State::Absent { .. }
            | State::Queued { .. }
            | State::Backoff { .. }
            | State::Exited { .. } => {
                self.renew(now);
                self.begin(now, effects);
            }
            State::Invalid | State::Closing { .. } | State::Gone { .. } => {}
        }
    }

    /// Nothing is left of what was stopped because an operator or the entry said so.
    pub(super) fn stopped_by_order(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.is_disabled() {
            self.wait_with_shell(effects);
        } else {
            self.renew(now);
            self.begin(now, effects);
        }
    }

    /// Waits until it is enabled. Whoever attaches in the meantime finds a shell.
    fn wait_with_shell(&mut self, effects: &mut Vec<Effect>) {
        self.state = State::Waiting;
        effects.extend(self.offer_shell());
    }

    /// Kills what is being stopped if the orders allow it no time.
    fn hasten(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let State::Stopping { attempt, why, .. } = self.state else { return };
        if self.is_at_once(why)
            && let State::Stopping { deadline, force: force @ Force::Interrupted { .. }, .. } = &mut self.state
        {
            (*deadline, *force) = (now.min(*deadline), Force::Killed);
            effects.push(Effect::Kill { attempt });
        }
    }

    /// Whether a stop for this reason leaves no time.
    pub(super) fn is_at_once(&self, why: StopReason) -> bool {
        match why {
            StopReason::Disabled => self.orders.stops_at_once(),
            StopReason::Restarted => self
                .life
                .as_ref()
                .and_then(|life| life.generation)
                .is_some_and(|generation| self.orders.restarts_at_once(generation)),
            StopReason::Changed
            | StopReason::Removed(_)
            | StopReason::TimedOut
            | StopReason::CostLimit
            | StopReason::Idled => false,
        }
    }

    fn renew(&mut self, now: Timestamp) {
        let Some(life) = &mut self.life else { return };
        life.renew(now);
    }

    /// Starts what has waited for nothing but the end of a pause, or of a bar.
    fn go_on(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let restarts = self.life.as_ref().is_some_and(|life| life.next == Some(Next::Restart));
        if restarts { self.judge(now, effects) } else { self.begin(now, effects) }
    }

    /// The orders that keep it from starting, as the API shows them.
    pub(super) fn forbidden(&self) -> impl Iterator<Item = WaitingFor> + use<> {
        let enabled = self.is_disabled().then(|| {
            let giver = self.orders.stopped_by();
            WaitingFor::Enabled { by: giver.by, at: giver.at }
        });
        enabled.into_iter().chain(self.held())
    }

    /// What keeps anything of it from being launched while it is enabled, as the API shows it.
    pub(super) fn held(&self) -> impl Iterator<Item = WaitingFor> + use<> {
        let user = self.launch().and_then(|launch| launch.user.as_ref()).map(|user| user.name.to_string());
        let bar = self.bar.clone().zip(user).map(|(detail, user)| {
            let problem = Problem::Inaccessible { detail };
            WaitingFor::User { user, problem }
        });
        self.paused().into_iter().chain(bar)
    }

    /// The pause, as the API shows it.
    fn paused(&self) -> Option<WaitingFor> {
        self.orders.pause.as_ref().map(|pause| WaitingFor::Paused { by: pause.by.clone(), at: pause.at })
    }
}
