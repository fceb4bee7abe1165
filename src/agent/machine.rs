//! How one agent lives: a state machine, pure. Time is an argument, effects are values.
//!
//! Where each event leads. A cell names every state in which it may leave an agent; an empty one leaves it where it is.
//! "Due" is time that passes. The unit tests draw this table from what the machine does. A [bar](Event::Barred) by itself leads nowhere:
//! it only keeps the agent from starting, as a pause does. So does a [hold](Event::Held): while one lasts, what would lead to
//! starting leads to waiting, or to backoff if its end is known, and its end leads from there to starting.
//!
//! | | declare | update | ordered | remove | started | not started | ended | gone | session busy | session free | look again | closed | due |
//! |---|---|---|---|---|---|---|---|---|---|---|---|---|---|
//! | invalid | waiting, starting | waiting, starting |  | gone |  |  |  |  |  |  |  |  |  |
//! | waiting | waiting, starting, closing | waiting, starting, exited | waiting, starting | closing, gone |  |  |  |  |  |  |  |  | exited |
//! | absent | waiting, starting, backoff, closing | waiting, starting, backoff, exited | waiting, absent, starting, backoff | stopping, closing |  |  |  | absent, starting, exited |  |  | starting, backoff, exited |  | absent, starting, exited |
//! | queued | waiting, starting | waiting, starting | waiting, queued, starting | gone |  |  |  |  |  | starting |  |  |  |
//! | starting | stopping |  | starting, stopping | stopping | running | absent, backoff, exited | backoff, exited | backoff, exited | queued |  |  |  | stopping |
//! | running | stopping |  | running, stopping | stopping |  |  | backoff, exited | backoff, exited |  |  |  |  | stopping |
//! | stopping |  |  |  |  |  |  |  | waiting, starting, exited, closing |  |  |  |  |  |
//! | backoff | waiting, starting, backoff, closing | starting, backoff, exited | waiting, starting, backoff | stopping, closing |  |  |  | waiting, starting, backoff, exited |  |  |  |  | waiting, starting, backoff, exited |
//! | exited | waiting, starting, backoff, closing | starting, backoff, exited | waiting, starting, backoff, exited | stopping, closing |  |  |  |  |  |  |  |  |  |
//! | closing |  |  |  |  |  |  |  |  |  |  |  | waiting, starting, closing, gone |  |
//! | gone | waiting, starting |  |  |  |  |  |  |  |  |  |  |  |  |
//!
//! *Wanted* is kept apart from *is*: the declaration says what should be, the state what is, and each event brings the one nearer
//! to the other. Invariants, held by the property tests:
//!
//! - an attempt is launched only when the one before it is [gone](Event::Gone);
//! - news of an attempt that is not the present one changes nothing;
//! - a stop ends in a kill at its deadline, whatever else happens;
//! - an agent that was removed is never launched again;
//! - an agent that may have a session holds it until the session is closed, and no other agent is launched in it;
//! - within a declaration `restarts` and `attempt` never go down, but for a launch that is taken back because another agent has the
//!   session or the program was not found.
//!
//! A machine can be put on [record](record) and read by the next daemon, without what is launched. It then
//! [takes up](Machine::resume) what was under way, and learns what it lacks with the first declaration.

mod asked;
mod conversing;
mod event;
mod life;
mod operate;
mod record;
mod report;
mod rotation;
#[cfg(test)]
mod tests;

pub use event::{Absent, Effect, Event, LaunchReason, NotStarted, Removal};

use rotation::Given;

use life::{Exit, Idled, Latest, Life, Lingering, Next, Session, Wanted, unread};
use report::account;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::activity::{Activity, News, Statement};
use crate::agent::approval::Approvals;
use crate::agent::conversation::{Conversation, Ended, Follow, SessionId};
use crate::agent::declaration::Declaration;
use crate::agent::fingerprint::Fingerprint;
use crate::agent::harness::rule::Place as RulePlace;
use crate::agent::hold::{Bar, OnHold};
use crate::agent::launch::Launch;
use crate::agent::name::Name;
use crate::agent::orders::{Giver, Orders};
use crate::agent::reconcile::{InForce, Place};
use crate::agent::restart::{self, Verdict};
use crate::agent::rotation::{Pending, Renewal};
use crate::agent::spec::{Kind, Policy};
use crate::agent::user::{AgentUser, UserName};
use crate::agent::verdict::{self, Fault};
use crate::sys::clock::Timestamp;
use crate::sys::process::Identity;
use crate::wire::activity::Doing;
use crate::wire::exit_status::ExitStatus;
use crate::wire::reason::{Changes, StoppingBecause};
use crate::wire::result::Tokens;
use crate::wire::status::Outcome;

/// How long an attempt may take to be gone once its harness has ended, before it is killed.
const LINGER: Duration = Duration::from_secs(10);

/// The first delay after a launch that failed for reasons that are not the agent's; it doubles each time.
const RETRY: Duration = Duration::from_secs(1);

/// The longest such delay.
const RETRY_MOST: Duration = Duration::from_secs(30);

/// An attempt that completes in less than this and prints nothing probably did nothing.
const SILENT: Duration = Duration::from_secs(2);

/// The shortest delay before a program is looked for again, whatever the policy says: each look takes a login.
const LEAST_LOOK: Duration = Duration::from_secs(1);

/// Numbers of attempts over an agent's whole life, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Of this attempt.
    pub attempt: u64,
    /// Of the first attempt under the same declaration.
    pub first: u64,
}

impl Numbers {
    /// For tests of other rooms: of an attempt that is the first.
    #[cfg(test)]
    pub fn of(attempt: u64) -> Self {
        Self { attempt, first: attempt }
    }
}

/// Numbers the launches of one agent, over all its declarations.
pub type Attempt = u64;

/// One agent.
#[derive(Debug)]
pub struct Machine {
    name: Name,
    harness: Option<String>,
    /// Whom the latest entry names to run as; `None` is the default user. It is only shown.
    declared_user: Option<UserName>,
    /// Under the latest good declaration; `None` if there never was one.
    life: Option<Life>,
    state: State,
    /// The number of the latest launch.
    attempt: Attempt,
    /// Launches that count, over all declarations: the number of the latest attempt as people see it.
    total: u64,
    /// What its history will say of the latest attempt; `None` if nothing was launched.
    latest: Option<Latest>,
    /// The launcher of the attempt that is not gone, once it has reported.
    launcher: Option<Identity>,
    /// An attempt whose harness has ended but that is not gone.
    lingering: Option<Lingering>,
    session: Option<Session>,
    entry_error: Option<String>,
    /// What operators want of it.
    orders: Orders,
    /// Who gave the latest order that it followed.
    giver: Giver,
    /// Why its user must not be an agent user. Not on record: the next daemon finds out by itself, before it launches anything.
    bar: Option<String>,
    /// Why its group keeps it from starting.
    hold: Option<Bar>,
    /// When it entered the state that is shown. Records of early builds lack it.
    since: Option<Timestamp>,
    /// What its latest attempt has asked.
    approvals: Approvals,
    /// That of the present or latest attempt.
    conversation: Option<Conversation>,
    /// An id for the next conversation that needs one. Not on record: it is there once it is used.
    spare: Option<SessionId>,
    /// The secrets that it was launched with.
    given: Option<Given>,
    /// New values that it is not launched with yet.
    pending: Option<Pending>,
    /// Its latest launch with new values.
    renewal: Option<Renewal>,
    /// What the harness of the latest attempt does, as far as that is known.
    activity: Activity,
    /// When that last printed something, if its screen is to be read once its rules are known. Not on record: its launcher says it again.
    unread: Option<Timestamp>,
}

/// Where an agent is. `update` means that its policy or what it lacks has changed, and what it launches has not; a new declaration
/// always ends the state, and so does a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The entry is wrong, and there never was a good one. A declaration ends it, and an update is one.
    Invalid,
    /// Something is missing. An update ends it that supplies the rest, or whose policy does not want the restart that waits here;
    /// so does the timeout.
    Waiting,
    /// Its program was not found, or its packages could not be built. That is tried again at `until`, and at once by an update or when
    /// somebody asks for it. The policy decides again at an update if it wanted the restart that waits here. The timeout ends it, too.
    Absent { until: Timestamp },
    /// Another agent still holds its session. It ends when the session is free. An update asks again at once, or leads to `Waiting`.
    Queued {
        /// Unknown if an early build wrote the record.
        session: Option<Name>,
        holder: Name,
    },
    /// The launch is under way. It ends when the harness runs, has ended, or could not be started; when the session turns out to be
    /// another agent's; and at the timeout. An update changes the limits of the attempt, and takes effect at the next decision.
    Starting { attempt: Attempt },
    /// The harness runs. It ends with the harness, and at the timeout. An update changes the limits of the attempt, and takes effect
    /// when the harness has ended.
    Running { attempt: Attempt, pid: i32, since: Timestamp },
    /// The attempt is being stopped. It ends when nothing is left of the attempt; `why` says what follows. An update may bring the
    /// deadline nearer, and never puts it off. A new declaration and a removal change `why` alone.
    Stopping {
        attempt: Attempt,
        harness: Harness,
        why: StopReason,
        /// When everything is killed, or was.
        deadline: Timestamp,
        force: Force,
    },
    /// The next launch waits for `until`, and for the lingering attempt to be gone. The timeout ends it, too. An update lets the
    /// policy decide again if the policy wanted this restart; it does not touch other launches.
    Backoff { until: Timestamp, why: BackoffReason },
    /// It is over. An update lets the policy decide again, unless the timeout has ended it.
    Exited { outcome: Outcome },
    /// The session is being closed, again from `retry_at` on if that failed. It ends when the session is closed. An update takes
    /// effect then. A new declaration and a removal change `then` alone.
    Closing { then: Then, retry_at: Option<Timestamp> },
    /// Nothing is left of it. The supervisor drops it.
    Gone { removal: Removal },
}

/// What is known of the harness of an attempt that is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Harness {
    /// It was not started yet.
    Awaited,
    Alive {
        pid: i32,
    },
    /// It has ended, or will never be started.
    Over,
}

/// Why an attempt is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopReason {
    Changed,
    /// It must not run. It then waits.
    Disabled,
    /// A new life of it is wanted.
    Restarted,
    Removed(Removal),
    TimedOut,
    /// It has cost more than it may.
    CostLimit,
    /// It was idle or blocked for too long: [`Idled`] says how.
    Idled,
}

/// What was done to stop an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Force {
    Interrupted {
        /// When a harness that still lives is interrupted a second time; `None` if it was, or is not to be.
        again: Option<Timestamp>,
    },
    Killed,
}

/// What follows when the session is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// The next launch, in another session.
    Begin,
    /// Nothing: the agent is gone.
    Leave(Removal),
}

/// What the next launch waits for in `Backoff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BackoffReason {
    /// The delay before a restart by policy.
    Restart,
    /// The delay after a launch that failed, through no fault of the agent.
    Retry,
    /// The end of what was there before.
    Clearing,
    /// The end of a hold. Records say `Retry` instead: earlier builds do not know this.
    Hold,
}

impl Machine {
    /// An agent of which only the name is known.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            harness: None,
            declared_user: None,
            life: None,
            state: State::Invalid,
            attempt: 0,
            total: 0,
            latest: None,
            launcher: None,
            lingering: None,
            session: None,
            entry_error: None,
            orders: Orders::default(),
            giver: Giver::default(),
            bar: None,
            hold: None,
            since: None,
            approvals: Approvals::default(),
            conversation: None,
            spare: None,
            given: None,
            pending: None,
            renewal: None,
            activity: Activity::default(),
            unread: None,
        }
    }

    /// An agent of which only a session was found, on the tmux server of this user. The caller must [resume](Machine::resume) it.
    pub fn found(name: Name, user: Option<AgentUser>, now: Timestamp) -> Self {
        let declaration = Declaration { kind: Kind::Native, policy: Policy::default(), launch: Err(unread()) };
        Self {
            life: Some(Life { attempts: 1, next: None, ..Life::new(declaration, now) }),
            state: State::Starting { attempt: 1 },
            attempt: 1,
            total: 1,
            session: Some(Session { name: name.clone(), user, is_open: true }),
            ..Self::new(name)
        }
    }

    /// Counts on from this many attempts, which were made before anything that is known here.
    pub fn count_from(&mut self, earlier: u64) {
        self.total = self.total.max(earlier);
    }

    /// Sets what is only shown.
    pub fn describe(&mut self, name: Name, harness: Option<&str>, user: Option<UserName>) {
        self.name = name;
        self.declared_user = user;
        self.harness = harness.map(str::to_owned).or(self.harness.take());
    }

    /// Takes up what an earlier daemon had under way when it was cut off, and returns what to do about it. The effects that daemon was
    /// given may or may not have been carried out, so they are given again; carrying one out twice must be the same as once.
    #[must_use]
    pub fn resume(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(life) = &mut self.life {
            life.in_force = InForce::Earlier(life.in_force.fingerprint().cloned());
            life.wanted = Wanted::new(Err(unread()), life.wanted.launch().cloned());
        }
        let lingering = self.lingering.as_ref().map(|lingering| lingering.attempt);
        let user = self.user().cloned();
        let resume = |attempt, launcher| Effect::Resume { attempt, launcher, user: user.clone() };
        match self.state {
            State::Starting { attempt } | State::Running { attempt, .. } => {
                effects.push(resume(attempt, self.launcher));
                // Nobody else would know of a change that was cut off.
                let limits = self.life.as_ref().map(|life| life.policy.limits);
                effects.extend(limits.map(|limits| Effect::Limit { attempt, limits }));
            }
            State::Stopping { attempt, force, .. } => {
                effects.push(resume(attempt, self.launcher));
                effects.push(match force {
                    Force::Interrupted { .. } => Effect::Interrupt { attempt },
                    Force::Killed => Effect::Kill { attempt },
                });
            }
            State::Closing { then, .. } => self.close(then, &mut effects),
            State::Exited { .. } => {
                effects.extend(self.offer_shell());
            }
            State::Waiting if self.is_disabled() => {
                effects.extend(self.offer_shell());
            }
            State::Invalid
            | State::Waiting
            | State::Absent { .. }
            | State::Queued { .. }
            | State::Backoff { .. }
            | State::Gone { .. } => {}
        }
        effects.extend(lingering.map(|attempt| resume(attempt, self.launcher)));
        effects
    }

    /// Whether anything of it was ever launched.
    pub fn was_launched(&self) -> bool {
        self.attempt > 0
    }

    /// The agent's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The number of what was launched last; 0 if nothing was.
    pub fn latest_attempt(&self) -> Attempt {
        self.attempt
    }

    /// When the harness of the latest attempt was started, if it was.
    pub fn latest_start(&self) -> Option<Timestamp> {
        self.latest.as_ref()?.started
    }

    /// The number of the latest attempt, as people see it, and that of the first under its declaration.
    pub fn numbers(&self) -> Numbers {
        let attempts = self.life.as_ref().map_or(0, |life| life.attempts);
        Numbers { attempt: self.total, first: self.total.saturating_sub(attempts).saturating_add(1) }
    }

    /// What this declaration would change, by name, as far as it is known.
    pub fn changes_to(&self, declaration: &Declaration) -> Changes {
        self.life.as_ref().map(|life| life.changes_to(declaration)).unwrap_or_default()
    }

    /// Whether it waits for its program or its packages.
    pub fn lacks_program(&self) -> bool {
        matches!(self.state, State::Absent { .. })
    }

    /// Whether it is on its way out.
    pub fn is_leaving(&self) -> bool {
        self.removal().is_some()
    }

    /// Why it is on its way out, if it is.
    fn removal(&self) -> Option<Removal> {
        match self.state {
            State::Stopping { why: StopReason::Removed(removal), .. }
            | State::Closing { then: Then::Leave(removal), .. }
            | State::Gone { removal } => Some(removal),
            _ => None,
        }
    }

    /// Whether nothing is left of it.
    pub fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone { .. })
    }

    /// What was launched under the good declaration that it lives under; `None` if it never had one.
    pub fn in_force(&self) -> Option<InForce> {
        Some(self.life.as_ref()?.in_force.clone())
    }

    /// What is to be launched next, as far as is known.
    pub fn launch(&self) -> Option<&Arc<Launch>> {
        self.life.as_ref()?.wanted.launch()
    }

    /// Whether it waits for its session to be free.
    pub fn is_queued(&self) -> bool {
        matches!(self.state, State::Queued { .. })
    }

    /// The session that it holds.
    pub fn session(&self) -> Option<&Name> {
        self.session.as_ref().map(|session| &session.name)
    }

    /// Whose tmux server has the session that it holds, and so whom the attempt that is under way runs as; else whom the next one is to
    /// run as, as far as is known. `None` is the default user.
    pub fn user(&self) -> Option<&AgentUser> {
        match &self.session {
            Some(session) => session.user.as_ref(),
            None => self.launch()?.user.as_ref(),
        }
    }

    /// Where its session is.
    pub fn place(&self) -> Place {
        self.session.as_ref().map_or(Place::Nowhere, |session| Place::With(session.user.clone()))
    }

    /// Whether it holds a session of this user, and is not about to give it up; `None` is the default user.
    pub fn stays_with(&self, user: Option<&AgentUser>) -> bool {
        let is_closing = matches!(self.state, State::Closing { .. });
        !is_closing && self.session.as_ref().is_some_and(|session| session.user.as_ref() == user)
    }

    fn offer_shell(&self) -> Option<Effect> {
        let Session { name, user, .. } = self.session.as_ref()?;
        Some(Effect::OfferShell { session: name.clone(), user: user.clone() })
    }

    /// When [`Event::Due`] is next due; `None` for never.
    pub fn due(&self) -> Option<Timestamp> {
        let in_state = match self.state {
            State::Stopping { deadline, force: Force::Interrupted { again }, harness, .. } => {
                let again = again.filter(|_| matches!(harness, Harness::Alive { .. }));
                Some(again.map_or(deadline, |again| deadline.min(again)))
            }
            State::Backoff { until, .. } | State::Absent { until } if self.lingering.is_none() => Some(until),
            State::Closing { retry_at, .. } => retry_at,
            _ => None,
        };
        let lingering = self.lingering.as_ref().map(|lingering| lingering.kill_at);
        [in_state, self.timeout_at(), self.idle_until(), lingering, self.approvals.due()].into_iter().flatten().min()
    }

    /// When the declaration's timeout passes, in states that it ends.
    fn timeout_at(&self) -> Option<Timestamp> {
        match self.state {
            State::Waiting if self.is_disabled() => None,
            State::Starting { .. }
            | State::Running { .. }
            | State::Backoff { .. }
            | State::Waiting
            | State::Absent { .. }
            | State::Queued { .. } => self.life.as_ref()?.timeout_at(),
            _ => None,
        }
    }

    /// When it will have been idle or blocked for too long.
    fn idle_until(&self) -> Option<Timestamp> {
        let State::Running { .. } = self.state else { return None };
        self.activity.overdue_at(self.life.as_ref()?.policy.idle_timeout?)
    }

    /// Takes in what happened, and returns what to do about it.
    #[must_use]
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        let before = self.shown_state();
        let is_end = matches!(event, Event::Ended { .. });
        let mut effects = self.take(event, now);
        self.account_for_approvals(&mut effects, now);
        self.count_hold(now);
        if self.since.is_none() || self.shown_state() != before {
            let end = self.life.as_ref().and_then(|life| life.exit.as_ref()).map(|exit| exit.at);
            // An agent that ended by itself did so before the daemon heard of it.
            let is_over = matches!(self.state, State::Exited { .. } | State::Backoff { .. });
            self.since = end.filter(|_| is_end && is_over).or(Some(now));
        }
        effects
    }

    fn take(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Declare(declaration) => self.declare(declaration, now, &mut effects),
            Event::Update(declaration) => self.update(declaration, now, &mut effects),
            Event::Reject(error) => self.entry_error = Some(error),
            Event::Ordered(orders) => self.ordered(orders, now, &mut effects),
            Event::Barred(why) => self.barred(why, now, &mut effects),
            Event::Rotate => self.rotate(now, &mut effects),
            Event::Held(hold) => self.held_by_group(hold, now, &mut effects),
            Event::Remove(removal) => self.remove(removal, now, &mut effects),
            Event::Opened { attempt } => self.opened(attempt),
            Event::Met { attempt, launcher } => self.met(attempt, launcher),
            Event::Building { attempt } => self.building(attempt),
            Event::Started { attempt, pid, at } => {
                self.started(attempt, pid, at);
                // Values may have changed while it was being started.
                if self.pending.is_some() {
                    self.renew_files(&mut effects);
                }
            }
            Event::Found { attempt, fingerprint } => self.found_instead(attempt, fingerprint.as_ref()),
            Event::NotStarted { attempt, why } => self.not_started(attempt, why, now, &mut effects),
            Event::Ended { attempt, how, at, usage, result, evidence } => {
                let by_credential = evidence.is_some();
                self.ended(attempt, Exit { result, by_credential, ..Exit::new(how, at, usage) }, now, &mut effects);
            }
            Event::Spent { attempt, cost_usd, tokens, conversation } => {
                self.spent(attempt, cost_usd, tokens, conversation.as_deref(), now, &mut effects);
            }
            Event::Limited { attempt, error } => self.limited(attempt, error),
            Event::Asked { attempt, question } => self.asked(attempt, *question, now, &mut effects),
            Event::AskOver { attempt, number, end } => self.ask_over(attempt, number, end, now, &mut effects),
            Event::Answered { id, word } => self.answered(&id, word, &mut effects),
            Event::Logged { attempt, error } => self.logged(attempt, error),
            Event::Environment { attempt, error } => self.lacks_of_environment(attempt, error),
            Event::Activity { attempt, news } => self.active(attempt, news, now, &mut effects),
            Event::Took { attempt, taken } => self.took(attempt, taken),
            Event::Conversation { attempt, id } => self.told_of(attempt, id),
            Event::Foreign { attempt, id, holder } => self.told_of_anothers(attempt, &id, &holder),
            Event::Gone { attempt } => self.gone(attempt, now, &mut effects),
            Event::SessionBusy { attempt, holder } => self.session_busy(attempt, holder),
            Event::SessionFree if self.is_queued() => self.begin(now, &mut effects),
            Event::SessionFree => {}
            Event::LookAgain => self.look_again(now, &mut effects),
            Event::Closed(result) => self.closed(result, now, &mut effects),
            Event::Due => self.time_passed(now, &mut effects),
        }
        effects
    }

    fn declare(&mut self, declaration: Declaration, now: Timestamp, effects: &mut Vec<Effect>) {
        self.entry_error = None;
        let mut changed = self.changes_to(&declaration);
        // Nothing was launched under the one before: what is replaced is what was launched under an earlier one.
        if let Some(life) = self.life.as_mut().filter(|life| life.attempts == 0) {
            changed.extend(std::mem::take(&mut life.changed));
        }
        let generation = Some(self.orders.generation(&declaration.policy));
        self.life = Some(Life { generation, changed, ..Life::new(declaration, now) });
        let reason = if self.is_disabled() {
            self.giver = self.orders.stopped_by();
            StopReason::Disabled
        } else {
            StopReason::Changed
        };
        match &mut self.state {
            State::Starting { .. } | State::Running { .. } => self.stop(reason, now, effects),
            State::Stopping { why, .. } => *why = reason,
            State::Closing { then, .. } => *then = Then::Begin,
            State::Invalid
            | State::Waiting
            | State::Absent { .. }
            | State::Queued { .. }
            | State::Backoff { .. }
            | State::Exited { .. }
            | State::Gone { .. } => self.begin(now, effects),
        }
    }

    fn update(&mut self, declaration: Declaration, now: Timestamp, effects: &mut Vec<Effect>) {
        self.entry_error = None;
        let was_disabled = self.is_disabled();
        let Some(life) = &mut self.life else { return self.declare(declaration, now, effects) };
        life.kind = declaration.kind;
        let limits = declaration.policy.limits;
        let has_new_limits = life.policy.limits != limits;
        life.policy = declaration.policy;
        life.marks = declaration.launch.as_ref().ok().map(|launch| launch.marks.clone()).or(life.marks.take());
        life.absences = 0;
        let fingerprint = declaration.launch.as_ref().ok().map(|launch| &launch.fingerprint);
        if fingerprint == life.in_force.fingerprint() {
            life.in_force = fingerprint.map_or(InForce::Nothing, |fingerprint| InForce::Here(fingerprint.clone()));
        }
        life.wanted = Wanted::new(declaration.launch, life.wanted.launch().cloned());
        self.look_for_rotation(now, effects);
        if let State::Starting { attempt } | State::Running { attempt, .. } = self.state
            && has_new_limits
        {
            effects.push(Effect::Limit { attempt, limits });
        }
        self.see_cost(now, effects);
        let Some(life) = &mut self.life else { return };
        life.generation.get_or_insert_with(|| self.orders.generation(&life.policy));
        self.heed(was_disabled, now, effects);
        self.read_screen(effects);
        let is_disabled = self.is_disabled();
        let Some(life) = &mut self.life else { return };
        match self.state {
            State::Waiting if is_disabled => {}
            // It was to wait for the end of a hold, which is for the policy to say.
            State::Waiting | State::Backoff { .. } if life.next == Some(Next::Released) && life.exit.is_some() => {
                if life.policy.hold == OnHold::Wait {
                    self.begin(now, effects);
                } else {
                    self.judge(now, effects);
                }
            }
            State::Waiting
            | State::Absent { .. }
            | State::Queued { .. }
            | State::Backoff { why: BackoffReason::Hold, .. }
                if life.next != Some(Next::Restart) =>
            {
                self.begin(now, effects);
            }
            State::Waiting
            | State::Absent { .. }
            | State::Backoff { why: BackoffReason::Restart | BackoffReason::Hold, .. } => {
                self.judge(now, effects);
            }
            State::Exited { outcome } if outcome != Outcome::TimedOut && life.idled.is_none() => {
                self.judge(now, effects);
            }
            // A deadline never moves, because clients have seen when the stop ends.
            State::Stopping { ref mut deadline, force: Force::Interrupted { ref mut again }, .. } => {
                let grace = life.policy.grace_period;
                *deadline = (*deadline).min(now + grace);
                *again = again.map(|again| again.min(now + grace / 2));
            }
            _ => {}
        }
    }

    fn remove(&mut self, removal: Removal, now: Timestamp, effects: &mut Vec<Effect>) {
        match &mut self.state {
            State::Starting { .. } | State::Running { .. } => self.stop(StopReason::Removed(removal), now, effects),
            State::Stopping { why, .. } => *why = StopReason::Removed(removal),
            State::Closing { then, .. } => *then = Then::Leave(removal),
            State::Gone { .. } => {}
            State::Invalid
            | State::Waiting
            | State::Absent { .. }
            | State::Queued { .. }
            | State::Backoff { .. }
            | State::Exited { .. } => {
                match self.lingering.take() {
                    // Its launcher is tidying up, and may finish.
                    Some(Lingering { attempt, kill_at: deadline }) => {
                        let why = StopReason::Removed(removal);
                        let (harness, force) = (Harness::Over, Force::Interrupted { again: None });
                        self.state = State::Stopping { attempt, harness, why, deadline, force };
                    }
                    None => self.close(Then::Leave(removal), effects),
                }
            }
        }
    }

    fn opened(&mut self, attempt: Attempt) {
        if let State::Starting { attempt: present } | State::Stopping { attempt: present, .. } = self.state
            && present == attempt
            && let Some(session) = &mut self.session
        {
            session.is_open = true;
        }
    }

    fn met(&mut self, attempt: Attempt, launcher: Identity) {
        if self.attempt == attempt {
            self.launcher = Some(launcher);
        }
    }

    fn found_instead(&mut self, attempt: Attempt, fingerprint: Option<&Fingerprint>) {
        if self.attempt == attempt
            && let Some(fingerprint) = fingerprint
            && let Some(life) = self.life_with_attempts()
        {
            life.in_force = InForce::Earlier(Some(fingerprint.clone()));
            self.given = None;
            self.latest.iter_mut().for_each(|latest| latest.fingerprint = Some(fingerprint.clone()));
        }
    }

    fn started(&mut self, attempt: Attempt, pid: i32, at: Timestamp) {
        // The launcher says so, and may lie. The end that follows is judged without it.
        if !is_id_of_harness(pid) {
            return;
        }
        match &mut self.state {
            State::Starting { attempt: present } if *present == attempt => {
                self.state = State::Running { attempt, pid, since: at };
            }
            // The record is older than what runs.
            State::Running { attempt: present, pid: known, since }
                if *present == attempt
                    && *known != pid
                    && self.life.as_ref().is_some_and(|life| life.in_force.is_restored()) =>
            {
                (*known, *since) = (pid, at);
            }
            State::Stopping { attempt: present, harness: harness @ Harness::Awaited, .. } if *present == attempt => {
                *harness = Harness::Alive { pid };
            }
            _ => return,
        }
        self.latest.iter_mut().for_each(|latest| latest.started = Some(at));
        self.conversation.iter_mut().for_each(Conversation::started);
        if let Some(life) = self.life_with_attempts() {
            life.first_started.get_or_insert(at);
            life.started = Some(at);
            life.error = None;
            life.failures = 0;
            (life.absent, life.absences) = (None, 0);
            life.is_building = false;
        }
    }

    /// The life that the present attempt belongs to. While that attempt is being stopped there may be a newer life.
    fn life_with_attempts(&mut self) -> Option<&mut Life> {
        self.life.as_mut().filter(|life| life.attempts > 0)
    }

    fn not_started(&mut self, attempt: Attempt, why: NotStarted, now: Timestamp, effects: &mut Vec<Effect>) {
        match &mut self.state {
            State::Starting { attempt: present } if *present == attempt => {}
            State::Stopping { attempt: present, harness: harness @ Harness::Awaited, deadline, .. }
                if *present == attempt =>
            {
                *harness = Harness::Over;
                *deadline = (*deadline).min(now + LINGER);
                return;
            }
            _ => return,
        }
        self.linger(attempt, now);
        let Some(life) = &mut self.life else { return };
        life.is_building = false;
        if let Some(absent) = why.absent() {
            return self.not_found(absent, now);
        }
        life.absent = None;
        match why {
            // What is absent was seen to.
            NotStarted::NotFound(_) | NotStarted::Unbuilt(_) | NotStarted::Unreached(_) => {}
            NotStarted::Failed(message) => {
                life.error = Some(message.clone());
                self.renewal.iter_mut().for_each(|renewal| renewal.has_failed(&message));
                let exit = Exit::of_cause(message, now);
                effects.extend(account(self.latest.as_ref(), &exit, "it could not be started"));
                life.exit = Some(exit);
                self.judge(now, effects);
            }
            NotStarted::CutOff => {
                life.next = Some(Next::MakeUp);
                self.begin(now, effects);
            }
            NotStarted::Retry(message) => {
                life.error = Some(message);
                let delay = RETRY * 2_u32.saturating_pow(life.failures.min(10));
                life.failures = life.failures.saturating_add(1);
                life.next = Some(Next::Retry);
                self.state = State::Backoff { until: now + delay.min(RETRY_MOST), why: BackoffReason::Retry };
            }
        }
    }

    /// A launch without a program, its packages or its proxy is no attempt.
    fn not_found(&mut self, absent: Absent, now: Timestamp) {
        self.take_back();
        let Some(life) = &mut self.life else { return };
        let delay = restart::delay(&life.policy, life.absences).max(LEAST_LOOK);
        life.absences = life.absences.saturating_add(1);
        life.error = Some(absent.to_string());
        life.absent = Some(absent);
        self.state = State::Absent { until: now + delay };
    }

    fn look_again(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.lacks_program() {
            self.life.iter_mut().for_each(|life| life.absences = 0);
            self.begin(now, effects);
        }
    }

    /// Takes back what [`Machine::begin`] has counted, and decides the same launch again.
    fn take_back(&mut self) {
        let reason = self.latest.as_ref().and_then(|latest| latest.reason);
        let Some(life) = &mut self.life else { return };
        // That of a launch that was cut off was counted before.
        if reason != Some(LaunchReason::Recovery) {
            life.attempts = life.attempts.saturating_sub(1);
            self.total = self.total.saturating_sub(1);
        }
        life.next = Some(match reason {
            Some(LaunchReason::Recovery) => Next::MakeUp,
            Some(LaunchReason::Policy) => {
                life.restarts = life.restarts.saturating_sub(1);
                life.in_a_row = life.in_a_row.saturating_sub(1);
                Next::Restart
            }
            Some(LaunchReason::Restarted) => Next::Ordered,
            Some(LaunchReason::Released) => Next::Released,
            _ if life.attempts == 0 => Next::Fresh,
            _ => Next::Retry,
        });
        self.latest.take_if(|latest| latest.reason == Some(LaunchReason::First));
    }

    fn session_busy(&mut self, attempt: Attempt, holder: Name) {
        if self.state != (State::Starting { attempt }) {
            return;
        }
        self.take_back();
        let session = self.session.take().map(|session| session.name);
        self.state = State::Queued { session, holder };
    }

    fn limited(&mut self, attempt: Attempt, error: Option<String>) {
        if self.attempt == attempt
            && let Some(life) = self.life_with_attempts()
        {
            life.limits_error = error;
        }
    }

    fn logged(&mut self, attempt: Attempt, error: Option<String>) {
        if self.attempt == attempt
            && let Some(life) = self.life_with_attempts()
        {
            life.log_error = error;
        }
    }

    fn lacks_of_environment(&mut self, attempt: Attempt, error: String) {
        if self.attempt == attempt
            && let Some(life) = self.life_with_attempts()
        {
            life.environment_error = Some(error);
        }
    }

    fn spent(
        &mut self,
        attempt: Attempt,
        cost: Option<f64>,
        tokens: Option<Tokens>,
        conversation: Option<&str>,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        if self.attempt != attempt {
            return;
        }
        if conversing::has_worked(tokens) {
            self.conversation.iter_mut().for_each(Conversation::turned);
        }
        let Some(life) = self.life_with_attempts() else { return };
        if let Some(cost) = cost {
            life.bill.costs(cost, conversation);
        }
        if let Some(tokens) = tokens {
            life.bill.takes(tokens);
        }
        self.see_cost(now, effects);
    }

    /// Stops what has cost more than it may.
    fn see_cost(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let is_over = |life: &Life| life.policy.max_cost.is_some_and(|most| life.bill.exceeds(most));
        if matches!(self.state, State::Running { .. }) && self.life.as_ref().is_some_and(is_over) {
            self.stop(StopReason::CostLimit, now, effects);
        }
    }

    fn active(&mut self, attempt: Attempt, news: News, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.attempt != attempt || !self.may_be_active() {
            return;
        }
        if let News::Quiet { printed } = news {
            self.unread = Some(printed);
        }
        if matches!(&news, News::Said(Statement { doing: Doing::Working | Doing::Idle, .. })) {
            self.conversation.iter_mut().for_each(Conversation::began_work);
        }
        self.activity.take(news, now);
        self.read_screen(effects);
    }

    /// Whether the harness of the latest attempt may live.
    pub fn may_be_active(&self) -> bool {
        matches!(
            self.state,
            State::Starting { .. } | State::Running { .. } | State::Stopping { harness: Harness::Alive { .. }, .. }
        )
    }

    /// Has the screen read that was not read yet, if there are rules for it.
    fn read_screen(&mut self, effects: &mut Vec<Effect>) {
        let (State::Running { attempt, .. }, Some(printed)) = (&self.state, self.unread) else { return };
        let Some(launch) = self.launch() else { return };
        if launch.rules.iter().any(|rule| rule.on == RulePlace::Screen) {
            effects.push(Effect::ReadScreen { attempt: *attempt, printed, launch: Arc::clone(launch) });
        }
        self.unread = None;
    }

    fn building(&mut self, attempt: Attempt) {
        if self.state == (State::Starting { attempt })
            && let Some(life) = &mut self.life
        {
            life.is_building = true;
        }
    }

    fn ended(&mut self, attempt: Attempt, exit: Exit, now: Timestamp, effects: &mut Vec<Effect>) {
        // The launcher says so, or tmux, and its clock may be wrong.
        let started = self.life_with_attempts().and_then(|life| life.started);
        let at = started.map_or(exit.at, |started| exit.at.max(started)).min(now);
        let is_short = started.is_some_and(|started| at.since(started) < SILENT);
        let silent = is_short && exit.how == ExitStatus::Code(0) && exit.usage.printed == Some(false);
        let exit = Exit { at, silent, ..exit };
        self.had_ended_in_time(attempt, at);
        let since = match &mut self.state {
            State::Stopping { attempt: present, harness, deadline, why, .. }
                if *present == attempt && *harness != Harness::Over =>
            {
                *harness = Harness::Over;
                *deadline = (*deadline).min(now + LINGER);
                let why = *why;
                let exit = Exit { by_cost: why == StopReason::CostLimit, ..exit };
                let why = self.because(why).to_string();
                effects.extend(account(self.latest.as_ref(), &exit, &why));
                if let Some(life) = self.life_with_attempts() {
                    life.exit = Some(exit);
                }
                return;
            }
            State::Running { attempt: present, since, .. } if *present == attempt => *since,
            State::Starting { attempt: present } if *present == attempt => at,
            _ => return,
        };
        self.linger(attempt, now);
        self.judge_renewal(&exit, since);
        let Some(life) = &mut self.life else { return };
        let result = verdict::noted(exit.result.map(|result| *result), &exit.how, life.policy.results).map(Box::new);
        let exit = Exit { result, ..exit };
        let exit = Exit { by_cost: life.is_spent(&exit), ..exit };
        let why = match exit.verdict(&life.policy) {
            _ if exit.by_cost => StoppingBecause::CostLimit {}.to_string(),
            verdict::Verdict::Failed(fault) if fault != Fault::Status => format!("it ended by itself; {fault}"),
            _ => "it ended by itself".to_owned(),
        };
        effects.extend(account(self.latest.as_ref(), &exit, &why));
        // The start may not have been seen.
        life.first_started.get_or_insert(since);
        let follow = self.conversation.as_mut().map_or(Follow::Policy, |conversation| {
            if exit.result.as_ref().is_some_and(|result| conversing::says_of_work(result)) {
                conversation.turned();
            }
            let started = self.latest.as_ref().and_then(|latest| latest.started);
            conversation.ended(Ended {
                how: &exit.how,
                lived: started.map(|started| at.since(started)),
                is_silent: exit.silent,
                is_error: exit.result.as_ref().is_some_and(|result| result.is_error),
                is_held: exit.by_credential,
            })
        });
        life.exit = Some(exit);
        if life.policy.backoff_reset.is_some_and(|healthy| at.since(since) >= healthy) {
            life.in_a_row = 0;
        }
        if follow == Follow::Afresh {
            life.next = Some(Next::Retry);
            self.state = State::Backoff { until: now, why: BackoffReason::Retry };
            return;
        }
        self.judge(now, effects);
    }

    /// A timeout that passed before the daemon heard that the harness had ended by itself has stopped nothing.
    fn had_ended_in_time(&mut self, attempt: Attempt, at: Timestamp) {
        if let State::Stopping { attempt: present, harness: Harness::Alive { pid }, why: StopReason::TimedOut, .. } =
            self.state
            && present == attempt
            && let Some(life) = &self.life
            && life.timeout_at().is_some_and(|timeout| at < timeout)
        {
            self.state = State::Running { attempt, pid, since: life.started.unwrap_or(at) };
        }
    }

    fn gone(&mut self, attempt: Attempt, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.attempt == attempt {
            self.launcher = None;
        }
        match self.state {
            State::Starting { attempt: present }
            | State::Running { attempt: present, .. }
            | State::Stopping { attempt: present, harness: Harness::Alive { .. }, .. }
                if present == attempt =>
            {
                self.ended(attempt, Exit::of_cause("its end was not reported".to_owned(), now), now, effects);
                self.gone(attempt, now, effects);
            }
            State::Stopping { attempt: present, why, .. } if present == attempt => match why {
                StopReason::Removed(removal) => self.close(Then::Leave(removal), effects),
                StopReason::Changed => self.begin(now, effects),
                StopReason::Disabled | StopReason::Restarted => self.stopped_by_order(now, effects),
                StopReason::TimedOut => self.end_with(Outcome::TimedOut, effects),
                StopReason::CostLimit | StopReason::Idled => self.end_with(Outcome::Failed, effects),
            },
            _ => {
                if self.lingering.as_ref().is_some_and(|lingering| lingering.attempt == attempt) {
                    self.lingering = None;
                    if matches!(self.state, State::Backoff { until, .. } | State::Absent { until } if until <= now) {
                        self.begin(now, effects);
                    }
                }
            }
        }
    }

    fn closed(&mut self, result: Result<(), String>, now: Timestamp, effects: &mut Vec<Effect>) {
        let State::Closing { then, .. } = self.state else { return };
        match (result, then) {
            (Ok(()), then) => {
                self.session = None;
                match then {
                    Then::Leave(removal) => self.state = State::Gone { removal },
                    Then::Begin => self.begin(now, effects),
                }
            }
            (Err(message), then) => {
                if let Some(life) = &mut self.life {
                    life.error = Some(message);
                }
                self.state = State::Closing { then, retry_at: Some(now + RETRY) };
            }
        }
    }

    fn time_passed(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.expire_approvals(now, effects);
        if self.timeout_at().is_some_and(|at| at <= now) {
            match self.state {
                State::Starting { .. } | State::Running { .. } => self.stop(StopReason::TimedOut, now, effects),
                _ => self.end_with(Outcome::TimedOut, effects),
            }
        }
        if self.idle_until().is_some_and(|until| until <= now) {
            self.end_idle(now, effects);
        }
        if let Some(lingering) = self.lingering.as_mut().filter(|lingering| lingering.kill_at <= now) {
            lingering.kill_at = now + LINGER;
            effects.push(Effect::Kill { attempt: lingering.attempt });
        }
        match &mut self.state {
            State::Stopping { attempt, deadline, force: force @ Force::Interrupted { .. }, .. } if *deadline <= now => {
                *force = Force::Killed;
                effects.push(Effect::Kill { attempt: *attempt });
            }
            State::Stopping {
                attempt, harness: Harness::Alive { .. }, force: Force::Interrupted { again }, ..
            } if again.is_some_and(|again| again <= now) => {
                *again = None;
                effects.push(Effect::InterruptAgain { attempt: *attempt });
            }
            State::Backoff { until, .. } | State::Absent { until } if *until <= now && self.lingering.is_none() => {
                self.begin(now, effects);
            }
            State::Closing { then, retry_at } if retry_at.is_some_and(|at| at <= now) => {
                let then = *then;
                self.close(then, effects);
            }
            _ => {}
        }
    }

    /// Ends the agent because it has been idle or blocked for too long.
    fn end_idle(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(statement) = self.activity.statement().cloned() else { return };
        let Some(life) = &mut self.life else { return };
        let Some(waited) = life.policy.idle_timeout else { return };
        life.idled = Some(Idled { doing: statement.doing, detail: statement.detail, waited });
        self.stop(StopReason::Idled, now, effects);
    }

    /// Starts the next attempt, or whatever has to come before it.
    fn begin(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.is_disabled() {
            self.state = State::Waiting;
            return;
        }
        let is_held = self.is_paused() || self.bar.is_some();
        let Some(life) = &mut self.life else { return };
        if life.timeout_at().is_some_and(|at| at <= now) {
            return self.end_with(Outcome::TimedOut, effects);
        }
        if self.lingering.is_some() && self.hold.is_none() {
            self.state = State::Backoff { until: now, why: BackoffReason::Clearing };
            return;
        }
        if !is_held && self.wait_for_group() {
            return;
        }
        let Some(life) = &mut self.life else { return };
        let (Wanted::Ready(launch), false) = (&life.wanted, is_held) else {
            self.state = State::Waiting;
            return;
        };
        let launch = Arc::clone(launch);
        if self.session.as_ref().is_some_and(|session| !session.is_for(&launch)) {
            return self.close(Then::Begin, effects);
        }
        let plan = conversing::plan(&mut self.conversation, &mut self.spare, &launch, life);
        let next = life.next.take().unwrap_or(Next::Retry);
        if next == Next::Restart {
            life.restarts = life.restarts.saturating_add(1);
            life.in_a_row = life.in_a_row.saturating_add(1);
        }
        if next != Next::MakeUp {
            life.attempts = life.attempts.saturating_add(1);
            self.total = self.total.saturating_add(1);
        }
        let reason = match next {
            Next::Fresh | Next::Ordered if self.latest.is_none() => LaunchReason::First,
            Next::Ordered => LaunchReason::Restarted,
            Next::Fresh => LaunchReason::Declaration,
            Next::Restart => LaunchReason::Policy,
            Next::MakeUp => LaunchReason::Recovery,
            Next::Retry => LaunchReason::Retry,
            Next::Released => LaunchReason::Released,
        };
        life.in_force = InForce::Here(launch.fingerprint.clone());
        life.marks = Some(launch.marks.clone());
        (life.limits_error, life.log_error, life.environment_error) = (None, None, None);
        life.is_building = false;
        life.bill.begin();
        life.idled = None;
        (self.activity, self.unread) = (Activity::default(), None);
        self.attempt = self.attempt.saturating_add(1);
        self.session.get_or_insert_with(|| Session::requested(&launch));
        self.state = State::Starting { attempt: self.attempt };
        self.latest = Some(Latest {
            number: life.attempts,
            total: Some(self.total),
            declared: life.at,
            fingerprint: Some(launch.fingerprint.clone()),
            started: None,
            reason: Some(reason),
            conversation: self.conversation.as_ref().and_then(Conversation::id).map(ToString::to_string),
        });
        let limits = life.policy.limits;
        self.give(&launch, now);
        effects.push(Effect::Launch { attempt: self.attempt, launch, limits, reason, plan });
    }

    fn stop(&mut self, why: StopReason, now: Timestamp, effects: &mut Vec<Effect>) {
        let (attempt, harness) = match self.state {
            State::Starting { attempt } => (attempt, Harness::Awaited),
            State::Running { attempt, pid, .. } => (attempt, Harness::Alive { pid }),
            _ => return,
        };
        let grace = self.life.as_ref().filter(|_| !self.is_at_once(why));
        let grace = grace.map_or(Duration::ZERO, |life| life.policy.grace_period);
        let (force, effect) = if grace.is_zero() {
            (Force::Killed, Effect::Kill { attempt })
        } else {
            (Force::Interrupted { again: Some(now + grace / 2) }, Effect::Interrupt { attempt })
        };
        self.state = State::Stopping { attempt, harness, why, deadline: now + grace, force };
        effects.push(effect);
    }

    fn close(&mut self, then: Then, effects: &mut Vec<Effect>) {
        if let Some(Session { name, user, .. }) = &self.session {
            effects.push(Effect::Close { session: name.clone(), user: user.clone() });
            self.state = State::Closing { then, retry_at: None };
        } else if let Then::Leave(removal) = then {
            self.state = State::Gone { removal };
        }
    }

    fn linger(&mut self, attempt: Attempt, now: Timestamp) {
        self.lingering = Some(Lingering { attempt, kill_at: now + LINGER });
    }

    /// Lets the policy decide upon the latest end, also for a second time: the policy may have changed since.
    fn judge(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(life) = &mut self.life else { return };
        let Some(exit) = &life.exit else { return };
        life.next = None;
        if exit.by_cost {
            return self.end_with(Outcome::Failed, effects);
        }
        // It waits for its group, unless the hold is over, it is to try itself, or the next attempt gets another credential.
        if exit.by_credential && life.policy.hold == OnHold::Wait {
            life.next = Some(Next::Released);
            return self.begin(now, effects);
        }
        let (at, has_completed) = (exit.at, exit.verdict(&life.policy) == verdict::Verdict::Completed);
        match restart::decide(&life.policy, has_completed, life.restarts, life.in_a_row) {
            Verdict::Restart { after } => {
                life.next = Some(Next::Restart);
                let until = at + after;
                self.state = State::Backoff { until, why: BackoffReason::Restart };
                if until <= now && self.lingering.is_none() {
                    self.begin(now, effects);
                }
            }
            Verdict::Over(outcome) => self.end_with(outcome, effects),
        }
    }

    fn end_with(&mut self, outcome: Outcome, effects: &mut Vec<Effect>) {
        if let State::Exited { outcome: former } = &mut self.state {
            *former = outcome;
            return;
        }
        self.state = State::Exited { outcome };
        effects.extend(self.offer_shell());
    }
}

/// Whether a process that an agent's launcher started can have this id. Other ids mean something else to `kill(2)`, and to clients
/// that read them in the API.
pub fn is_id_of_harness(pid: i32) -> bool {
    pid > 1
}
