//! How one agent lives: a state machine, pure. Time is an argument, effects are values.
//!
//! ```text
//!               declared                          ended, policy says again
//!  (invalid) ────────────┐                 ┌──────────────────────────────────▶ backoff
//!                        ▼                 │                                      │ │
//!            ┌──────▶ waiting ─▶ starting ─┴─▶ running ── ended, policy says no ──┼─┼─▶ exited
//!            │           ▲          ▲ │           │                               │ │      │
//!            │           │          │ └─────┬─────┘ changed, removed, timed out   │ │      │
//!            │           └──────────┼───────┼─────────────────────────────────────┘ │      │
//!            │                      │       ▼          (time is up, nothing missing)│      │
//!            │                      │    stopping ◀─────────────────────────────────┘      │
//!            │                      │       │  gone                                        │
//!            │                      └───────┤                                              │
//!            └── another session wanted ─ closing ◀──────────────── removed ───────────────┘
//!                                           │
//!                                           ▼
//!                                         (gone)
//! ```
//!
//! *Wanted* is kept apart from *is*: the declaration says what should be, the state what is, and each event brings the one nearer
//! to the other. Invariants, held by the property tests:
//!
//! - an attempt is launched only when the one before it is [gone](Event::Gone);
//! - news of an attempt that is not the present one changes nothing;
//! - a stop ends in a kill at its deadline, whatever else happens;
//! - what is removed is never launched again;
//! - whoever may have a session holds it until it is closed, and nobody else is launched in it;
//! - within a declaration `restarts` and `attempt` never go down.
//!
//! A machine can be written down and read again by the next daemon, all but what is launched. It then [takes up](Machine::resume)
//! what was under way, and learns what it lacks with the first declaration.

mod event;
mod life;
mod report;
#[cfg(test)]
mod tests;

pub use event::{Effect, Event, NotStarted, Removal};

use life::{Declared, Exit, Latest, Lingering, Session, split};
use report::account;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::agent::declaration::{Declaration, Missing, WaitingFor};
use crate::agent::fingerprint::Fingerprint;
use crate::agent::launch::Launch;
use crate::agent::name::Name;
use crate::agent::reconcile;
use crate::agent::restart::{self, Verdict};
use crate::agent::spec::Policy;
use crate::sys::clock::Timestamp;
use crate::sys::process::Identity;
use crate::wire::exit_status::ExitStatus;
use crate::wire::status::{Outcome, Usage};

/// How long an attempt may take to be gone once its harness has ended, before it is killed.
const LINGER: Duration = Duration::from_secs(10);

/// The first delay after a launch that failed for reasons that are not the agent's; it doubles each time.
const RETRY: Duration = Duration::from_secs(1);

/// The longest such delay.
const RETRY_MOST: Duration = Duration::from_secs(30);

/// Numbers the launches of one agent, over all its declarations.
pub type Attempt = u64;

/// One agent.
// Through `remote` serde's own code is there to be called: what was read is looked at before it is believed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Machine {
    name: Name,
    harness: Option<String>,
    declared: Option<Declared>,
    leaving: bool,
    /// Whether that is because the daemon is being stopped.
    #[serde(default)]
    shutdown: bool,
    state: State,
    /// The latest one.
    attempt: Attempt,
    latest: Option<Latest>,
    /// That of the attempt which is not gone, once it has reported.
    launcher: Option<Identity>,
    /// An attempt whose harness has ended but that is not gone.
    lingering: Option<Lingering>,
    session: Option<Session>,
    entry_error: Option<String>,
    /// Since when it has been in the state that is shown. What daemons before wrote down lacks it.
    #[serde(default)]
    since: Option<Timestamp>,
}

impl Serialize for Machine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Machine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let machine = Self::deserialize(deserializer)?;
        match machine.contradiction() {
            Some(contradiction) => Err(de::Error::custom(contradiction)),
            None => Ok(machine),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// Nothing was ever declared well.
    Invalid,
    /// Something is missing.
    Waiting,
    /// Its session is still another agent's.
    Queued {
        holder: Name,
    },
    Starting {
        attempt: Attempt,
    },
    Running {
        attempt: Attempt,
        pid: i32,
        since: Timestamp,
    },
    Stopping {
        attempt: Attempt,
        harness: Harness,
        why: StopReason,
        deadline: Timestamp,
        /// When a harness that still lives is interrupted again; `None` if it was, or is not to be.
        #[serde(default)]
        again: Option<Timestamp>,
        killed: bool,
    },
    Backoff {
        until: Timestamp,
        why: BackoffReason,
    },
    Exited {
        outcome: Outcome,
    },
    /// The session is being closed.
    Closing {
        retry_at: Option<Timestamp>,
    },
    /// Nothing is left.
    Gone,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StopReason {
    Changed,
    Removed,
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BackoffReason {
    /// The policy says again.
    Restart,
    /// The launch failed, through no fault of the agent.
    Retry,
    /// What was there before is not gone.
    Clearing,
}

impl Machine {
    /// An agent of which nothing is known but its name.
    pub fn new(name: Name) -> Self {
        Self {
            name,
            harness: None,
            declared: None,
            leaving: false,
            shutdown: false,
            state: State::Invalid,
            attempt: 0,
            latest: None,
            launcher: None,
            lingering: None,
            session: None,
            entry_error: None,
            since: None,
        }
    }

    /// An agent of which a session was found, and nothing is known. It is to be [resumed](Machine::resume).
    pub fn found(name: Name, now: Timestamp) -> Self {
        let launch = Err(unread());
        let declaration = Declaration { kind: "native", policy: Policy::default(), launch };
        Self {
            declared: Some(Declared { attempts: 1, ..Declared::new(declaration, now) }),
            state: State::Starting { attempt: 1 },
            attempt: 1,
            session: Some(Session { name: name.clone(), is_open: true }),
            ..Self::new(name)
        }
    }

    /// Takes over what is only shown.
    pub fn describe(&mut self, name: Name, harness: Option<&'static str>) {
        self.name = name;
        self.harness = harness.map(str::to_owned).or(self.harness.take());
    }

    /// What no agent can be, and what it could never leave: whoever wrote that down was no daemon, or the disk has lost it.
    fn contradiction(&self) -> Option<&'static str> {
        let is_known = matches!(self.state, State::Invalid | State::Gone) || self.declared.is_some();
        let may_leave = matches!(self.state, State::Stopping { .. } | State::Closing { .. } | State::Gone);
        let is_closing = matches!(self.state, State::Closing { .. });
        let (attempt, pid) = match self.state {
            State::Running { attempt, pid, .. } | State::Stopping { attempt, harness: Harness::Alive { pid }, .. } => {
                (Some(attempt), Some(pid))
            }
            State::Starting { attempt } | State::Stopping { attempt, .. } => (Some(attempt), None),
            _ => (None, None),
        };
        let lingering = self.lingering.as_ref().map(|lingering| lingering.attempt);
        if !is_known {
            Some("it has a state, and no declaration")
        } else if self.leaving && !may_leave {
            Some("it is leaving, and is not in a state to leave in")
        } else if is_closing && self.session.is_none() {
            Some("its session is being closed, and it has none")
        } else if attempt.into_iter().chain(lingering).any(|attempt| attempt != self.attempt) {
            Some("another attempt than the latest is under way")
        } else if pid.is_some_and(|pid| !is_id_of_harness(pid)) {
            Some("the id of its process is that of none")
        } else {
            None
        }
    }

    /// Takes up what an earlier daemon had under way when it was cut off, and answers what is to be done about it. What it was
    /// asked to do may have been done or not: that is asked again, and is to have no second effect.
    #[must_use]
    pub fn resume(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(declared) = &mut self.declared {
            declared.is_restored = true;
            declared.missing = Some(unread());
        }
        let lingering = self.lingering.as_ref().map(|lingering| lingering.attempt);
        let resume = |attempt, launcher| Effect::Resume { attempt, launcher };
        match self.state {
            State::Starting { attempt } | State::Running { attempt, .. } => {
                effects.push(resume(attempt, self.launcher));
                // Of a change that was cut off nobody else would know.
                let limits = self.declared.as_ref().map(|declared| declared.policy.limits);
                effects.extend(limits.map(|limits| Effect::Limit { attempt, limits }));
            }
            State::Stopping { attempt, killed, .. } => {
                effects.push(resume(attempt, self.launcher));
                effects.push(if killed { Effect::Kill { attempt } } else { Effect::Interrupt { attempt } });
            }
            State::Closing { .. } => self.close(&mut effects),
            State::Exited { .. } => {
                effects.extend(self.session().cloned().map(|session| Effect::OfferShell { session }));
            }
            State::Invalid | State::Waiting | State::Queued { .. } | State::Backoff { .. } | State::Gone => {}
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

    /// What was launched last; 0 if nothing was.
    pub fn latest_attempt(&self) -> Attempt {
        self.attempt
    }

    /// Whether it is on its way out.
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Whether nothing is left of it.
    pub fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// The good declaration that it lives under, if there ever was one.
    pub fn in_force(&self) -> Option<reconcile::Declared> {
        let Declared { fingerprint, is_restored, .. } = self.declared.as_ref()?;
        Some(reconcile::Declared { fingerprint: fingerprint.clone(), is_restored: *is_restored })
    }

    /// What is to be launched next, as far as is known.
    pub fn launch(&self) -> Option<&Arc<Launch>> {
        self.declared.as_ref()?.launch.as_ref()
    }

    /// Whether it waits for its session to be free.
    pub fn is_queued(&self) -> bool {
        matches!(self.state, State::Queued { .. })
    }

    /// The session that it holds.
    pub fn session(&self) -> Option<&Name> {
        self.session.as_ref().map(|session| &session.name)
    }

    /// When [`Event::Due`] is next due; `None` for never.
    pub fn due(&self) -> Option<Timestamp> {
        let in_state = match self.state {
            State::Stopping { deadline, again: Some(again), killed: false, harness: Harness::Alive { .. }, .. } => {
                Some(deadline.min(again))
            }
            State::Stopping { deadline, killed: false, .. } => Some(deadline),
            State::Backoff { until, .. } if self.lingering.is_none() => Some(until),
            State::Closing { retry_at } => retry_at,
            _ => None,
        };
        let lingering = self.lingering.as_ref().map(|lingering| lingering.kill_at);
        [in_state, self.timeout_at(), lingering].into_iter().flatten().min()
    }

    /// When the declaration's timeout passes, in states that it ends.
    fn timeout_at(&self) -> Option<Timestamp> {
        match self.state {
            State::Starting { .. }
            | State::Running { .. }
            | State::Backoff { .. }
            | State::Waiting
            | State::Queued { .. } => self.declared.as_ref()?.timeout_at(),
            _ => None,
        }
    }

    /// Takes in what happened and answers what is to be done about it.
    #[must_use]
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        let before = self.shown_state();
        let is_end = matches!(event, Event::Ended { .. });
        let effects = self.take(event, now);
        if self.since.is_none() || self.shown_state() != before {
            let end = self.declared.as_ref().and_then(|declared| declared.exit.as_ref()).map(|exit| exit.at);
            // What has ended by itself did so before anybody heard of it.
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
            Event::Remove(removal) => self.remove(removal, now, &mut effects),
            Event::Opened { attempt } => self.opened(attempt),
            Event::Met { attempt, launcher } => self.met(attempt, launcher),
            Event::Started { attempt, pid, at } => self.started(attempt, pid, at),
            Event::Found { attempt, fingerprint } => self.found_instead(attempt, fingerprint.as_ref()),
            Event::NotStarted { attempt, why } => self.not_started(attempt, why, now, &mut effects),
            Event::Ended { attempt, how, at, usage } => {
                self.ended(attempt, Exit { how, at, usage }, now, &mut effects);
            }
            Event::Limited { attempt, error } => self.limited(attempt, error),
            Event::Logged { attempt, error } => self.logged(attempt, error),
            Event::Environment { attempt, error } => self.lacks_of_environment(attempt, error),
            Event::Gone { attempt } => self.gone(attempt, now, &mut effects),
            Event::SessionBusy { attempt, holder } => self.session_busy(attempt, holder),
            Event::SessionFree if self.is_queued() => self.begin(now, &mut effects),
            Event::SessionFree => {}
            Event::Closed(result) => self.closed(result, now, &mut effects),
            Event::Due => self.time_passed(now, &mut effects),
        }
        effects
    }

    fn declare(&mut self, declaration: Declaration, now: Timestamp, effects: &mut Vec<Effect>) {
        self.entry_error = None;
        (self.leaving, self.shutdown) = (false, false);
        self.declared = Some(Declared::new(declaration, now));
        match &mut self.state {
            State::Starting { .. } | State::Running { .. } => self.stop(StopReason::Changed, now, effects),
            State::Stopping { why, .. } => *why = StopReason::Changed,
            State::Closing { .. } => {}
            State::Invalid
            | State::Waiting
            | State::Queued { .. }
            | State::Backoff { .. }
            | State::Exited { .. }
            | State::Gone => self.begin(now, effects),
        }
    }

    fn update(&mut self, declaration: Declaration, now: Timestamp, effects: &mut Vec<Effect>) {
        self.entry_error = None;
        let Some(declared) = &mut self.declared else { return self.declare(declaration, now, effects) };
        let (launch, missing) = split(declaration.launch);
        declared.kind = declaration.kind.to_owned();
        let is_limited_anew = declared.policy.limits != declaration.policy.limits;
        declared.policy = declaration.policy;
        declared.is_restored &= launch.as_ref().map(|launch| &launch.fingerprint) != declared.fingerprint.as_ref();
        declared.launch = launch.or(declared.launch.take());
        declared.missing = missing;
        let limits = declared.policy.limits;
        if let State::Starting { attempt } | State::Running { attempt, .. } = self.state
            && is_limited_anew
        {
            effects.push(Effect::Limit { attempt, limits });
        }
        match self.state {
            State::Waiting | State::Queued { .. } if !declared.restarting => self.begin(now, effects),
            State::Waiting | State::Backoff { why: BackoffReason::Restart, .. } => self.judge(now, effects),
            State::Exited { outcome } if outcome != Outcome::TimedOut => self.judge(now, effects),
            // Never put off: whoever waits for the end was told when it comes.
            State::Stopping { ref mut deadline, ref mut again, killed: false, .. } => {
                let grace = declared.policy.grace_period;
                *deadline = (*deadline).min(now + grace);
                *again = again.map(|again| again.min(now + grace / 2));
            }
            _ => {}
        }
    }

    fn remove(&mut self, removal: Removal, now: Timestamp, effects: &mut Vec<Effect>) {
        (self.leaving, self.shutdown) = (true, removal == Removal::Shutdown);
        match self.state {
            State::Starting { .. } | State::Running { .. } => self.stop(StopReason::Removed, now, effects),
            State::Stopping { ref mut why, .. } => *why = StopReason::Removed,
            State::Closing { .. } | State::Gone => {}
            State::Invalid | State::Waiting | State::Queued { .. } | State::Backoff { .. } | State::Exited { .. } => {
                match self.lingering.take() {
                    // Its launcher is tidying up, and is let.
                    Some(Lingering { attempt, kill_at }) => {
                        let (harness, why, again) = (Harness::Over, StopReason::Removed, None);
                        self.state = State::Stopping { attempt, harness, why, deadline: kill_at, again, killed: false };
                    }
                    None => self.close(effects),
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
            && let Some(declared) = self.declared_with_attempts()
        {
            declared.fingerprint = Some(fingerprint.clone());
            declared.is_restored = true;
            self.latest.iter_mut().for_each(|latest| latest.fingerprint = Some(fingerprint.clone()));
        }
    }

    fn started(&mut self, attempt: Attempt, pid: i32, at: Timestamp) {
        // It is the launcher that says so. Of the end that follows it does not matter.
        if !is_id_of_harness(pid) {
            return;
        }
        match &mut self.state {
            State::Starting { attempt: present } if *present == attempt => {
                self.state = State::Running { attempt, pid, since: at };
            }
            // The record was behind.
            State::Running { attempt: present, pid: known, since }
                if *present == attempt
                    && *known != pid
                    && self.declared.as_ref().is_some_and(|declared| declared.is_restored) =>
            {
                (*known, *since) = (pid, at);
            }
            State::Stopping { attempt: present, harness: harness @ Harness::Awaited, .. } if *present == attempt => {
                *harness = Harness::Alive { pid };
            }
            _ => return,
        }
        self.latest.iter_mut().for_each(|latest| latest.started = Some(at));
        if let Some(declared) = self.declared_with_attempts() {
            declared.first_started.get_or_insert(at);
            declared.started = Some(at);
            declared.error = None;
            declared.retries = 0;
        }
    }

    /// The declaration that the present attempt is one of. While that is being stopped there may be a newer one.
    fn declared_with_attempts(&mut self) -> Option<&mut Declared> {
        self.declared.as_mut().filter(|declared| declared.attempts > 0)
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
        let Some(declared) = &mut self.declared else { return };
        match why {
            NotStarted::Failed(message) => {
                declared.error = Some(message.clone());
                let exit = Exit { how: ExitStatus::Cause(message), at: now, usage: Usage::default() };
                effects.extend(account(self.latest.as_ref(), &exit, "it could not be started"));
                declared.exit = Some(exit);
                self.judge_anew(now, effects);
            }
            NotStarted::CutOff => {
                declared.is_cut_off = true;
                self.begin(now, effects);
            }
            NotStarted::Retry(message) => {
                declared.error = Some(message);
                let delay = RETRY * 2_u32.saturating_pow(declared.retries.min(10));
                declared.retries = declared.retries.saturating_add(1);
                self.state = State::Backoff { until: now + delay.min(RETRY_MOST), why: BackoffReason::Retry };
            }
        }
    }

    /// Takes back what [`Machine::begin`] has counted. No restart is among it: who was launched before holds its session.
    fn session_busy(&mut self, attempt: Attempt, holder: Name) {
        if self.state != (State::Starting { attempt }) {
            return;
        }
        if let Some(declared) = &mut self.declared {
            declared.attempts = declared.attempts.saturating_sub(1);
        }
        self.session = None;
        self.state = State::Queued { holder };
    }

    fn limited(&mut self, attempt: Attempt, error: Option<String>) {
        if self.attempt == attempt
            && let Some(declared) = self.declared_with_attempts()
        {
            declared.limits_error = error;
        }
    }

    fn logged(&mut self, attempt: Attempt, error: Option<String>) {
        if self.attempt == attempt
            && let Some(declared) = self.declared_with_attempts()
        {
            declared.log_error = error;
        }
    }

    fn lacks_of_environment(&mut self, attempt: Attempt, error: String) {
        if self.attempt == attempt
            && let Some(declared) = self.declared_with_attempts()
        {
            declared.environment_error = Some(error);
        }
    }

    fn ended(&mut self, attempt: Attempt, exit: Exit, now: Timestamp, effects: &mut Vec<Effect>) {
        // It is the launcher that says so, or tmux.
        let started = self.declared_with_attempts().and_then(|declared| declared.started);
        let at = started.map_or(exit.at, |started| exit.at.max(started)).min(now);
        let exit = Exit { at, ..exit };
        self.had_ended_in_time(attempt, at);
        let since = match &mut self.state {
            State::Stopping { attempt: present, harness, deadline, why, .. }
                if *present == attempt && *harness != Harness::Over =>
            {
                *harness = Harness::Over;
                *deadline = (*deadline).min(now + LINGER);
                let why = report::because(*why, self.shutdown).to_string();
                effects.extend(account(self.latest.as_ref(), &exit, &why));
                if let Some(declared) = self.declared_with_attempts() {
                    declared.exit = Some(exit);
                }
                return;
            }
            State::Running { attempt: present, since, .. } if *present == attempt => *since,
            State::Starting { attempt: present } if *present == attempt => at,
            _ => return,
        };
        self.linger(attempt, now);
        let Some(declared) = &mut self.declared else { return };
        effects.extend(account(self.latest.as_ref(), &exit, "it ended by itself"));
        // Nobody may have seen it start.
        declared.first_started.get_or_insert(since);
        declared.exit = Some(exit);
        if declared.policy.backoff_reset.is_some_and(|healthy| at.since(since) >= healthy) {
            declared.in_a_row = 0;
        }
        self.judge_anew(now, effects);
    }

    /// A timeout that passed while nobody knew that the harness had ended by itself has stopped nothing.
    fn had_ended_in_time(&mut self, attempt: Attempt, at: Timestamp) {
        if let State::Stopping { attempt: present, harness: Harness::Alive { pid }, why: StopReason::TimedOut, .. } =
            self.state
            && present == attempt
            && !self.leaving
            && self.declared.as_ref().and_then(Declared::timeout_at).is_some_and(|timeout| at < timeout)
        {
            let since = self.declared.as_ref().and_then(|declared| declared.started).unwrap_or(at);
            self.state = State::Running { attempt, pid, since };
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
                let how = ExitStatus::Cause("its end was not reported".to_owned());
                self.ended(attempt, Exit { how, at: now, usage: Usage::default() }, now, effects);
                self.gone(attempt, now, effects);
            }
            State::Stopping { attempt: present, why, .. } if present == attempt => match why {
                _ if self.leaving => self.close(effects),
                StopReason::Changed | StopReason::Removed => self.begin(now, effects),
                StopReason::TimedOut => self.end_with(Outcome::TimedOut, effects),
            },
            _ => {
                if self.lingering.as_ref().is_some_and(|lingering| lingering.attempt == attempt) {
                    self.lingering = None;
                    if matches!(self.state, State::Backoff { until, .. } if until <= now) {
                        self.begin(now, effects);
                    }
                }
            }
        }
    }

    fn closed(&mut self, result: Result<(), String>, now: Timestamp, effects: &mut Vec<Effect>) {
        if !matches!(self.state, State::Closing { .. }) {
            return;
        }
        match result {
            Ok(()) => {
                self.session = None;
                if self.leaving {
                    self.state = State::Gone;
                } else {
                    self.begin(now, effects);
                }
            }
            Err(message) => {
                if let Some(declared) = &mut self.declared {
                    declared.error = Some(message);
                }
                self.state = State::Closing { retry_at: Some(now + RETRY) };
            }
        }
    }

    fn time_passed(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.timeout_at().is_some_and(|at| at <= now) {
            match self.state {
                State::Starting { .. } | State::Running { .. } => self.stop(StopReason::TimedOut, now, effects),
                _ => self.end_with(Outcome::TimedOut, effects),
            }
        }
        if let Some(lingering) = self.lingering.as_mut().filter(|lingering| lingering.kill_at <= now) {
            lingering.kill_at = now + LINGER;
            effects.push(Effect::Kill { attempt: lingering.attempt });
        }
        match &mut self.state {
            State::Stopping { attempt, deadline, killed, .. } if !*killed && *deadline <= now => {
                *killed = true;
                effects.push(Effect::Kill { attempt: *attempt });
            }
            State::Stopping { attempt, harness: Harness::Alive { .. }, again, killed: false, .. }
                if again.is_some_and(|again| again <= now) =>
            {
                *again = None;
                effects.push(Effect::InterruptAgain { attempt: *attempt });
            }
            State::Backoff { until, .. } if *until <= now && self.lingering.is_none() => self.begin(now, effects),
            State::Closing { retry_at } if retry_at.is_some_and(|at| at <= now) => self.close(effects),
            _ => {}
        }
    }

    /// Starts the next attempt, or whatever has to come before it.
    fn begin(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(declared) = self.declared.as_mut().filter(|_| !self.leaving) else { return };
        if declared.timeout_at().is_some_and(|at| at <= now) {
            return self.end_with(Outcome::TimedOut, effects);
        }
        if self.lingering.is_some() {
            self.state = State::Backoff { until: now, why: BackoffReason::Clearing };
            return;
        }
        let Some(launch) = declared.launch.clone().filter(|_| declared.missing.is_none()) else {
            self.state = State::Waiting;
            return;
        };
        if self.session.as_ref().is_some_and(|session| session.name != launch.session) {
            return self.close(effects);
        }
        if std::mem::take(&mut declared.restarting) {
            declared.restarts = declared.restarts.saturating_add(1);
        }
        if !std::mem::take(&mut declared.is_cut_off) {
            declared.attempts = declared.attempts.saturating_add(1);
        }
        declared.fingerprint = Some(launch.fingerprint.clone());
        declared.is_restored = false;
        self.attempt = self.attempt.saturating_add(1);
        self.session.get_or_insert_with(|| Session { name: launch.session.clone(), is_open: false });
        self.state = State::Starting { attempt: self.attempt };
        (declared.limits_error, declared.log_error, declared.environment_error) = (None, None, None);
        self.latest = Some(Latest {
            number: declared.attempts,
            declared: declared.at,
            fingerprint: declared.fingerprint.clone(),
            started: None,
        });
        let limits = declared.policy.limits;
        effects.push(Effect::Launch { attempt: self.attempt, launch, limits });
    }

    fn stop(&mut self, why: StopReason, now: Timestamp, effects: &mut Vec<Effect>) {
        let (attempt, harness) = match self.state {
            State::Starting { attempt } => (attempt, Harness::Awaited),
            State::Running { attempt, pid, .. } => (attempt, Harness::Alive { pid }),
            _ => return,
        };
        let grace = self.declared.as_ref().map_or(Duration::ZERO, |declared| declared.policy.grace_period);
        let killed = grace.is_zero();
        let again = Some(now + grace / 2).filter(|_| !killed);
        self.state = State::Stopping { attempt, harness, why, deadline: now + grace, again, killed };
        effects.push(if killed { Effect::Kill { attempt } } else { Effect::Interrupt { attempt } });
    }

    fn close(&mut self, effects: &mut Vec<Effect>) {
        if let Some(session) = self.session().cloned() {
            self.state = State::Closing { retry_at: None };
            effects.push(Effect::Close { session });
        } else if self.leaving {
            self.state = State::Gone;
        }
    }

    fn linger(&mut self, attempt: Attempt, now: Timestamp) {
        self.lingering = Some(Lingering { attempt, kill_at: now + LINGER });
    }

    /// Lets the policy decide upon an end that has just come.
    fn judge_anew(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if let Some(declared) = &mut self.declared {
            declared.restarting = false;
        }
        self.judge(now, effects);
    }

    /// Lets the policy decide upon the latest end, also for a second time: the policy may have changed since.
    fn judge(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(declared) = &mut self.declared else { return };
        let Some(Exit { how, at, .. }) = &declared.exit else { return };
        if std::mem::take(&mut declared.restarting) {
            declared.in_a_row = declared.in_a_row.saturating_sub(1);
        }
        match restart::decide(&declared.policy, how, declared.restarts, declared.in_a_row) {
            Verdict::Restart { after } => {
                declared.restarting = true;
                declared.in_a_row = declared.in_a_row.saturating_add(1);
                let until = *at + after;
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
        if let Some(session) = self.session().cloned() {
            effects.push(Effect::OfferShell { session });
        }
    }
}

/// What a machine that was written down lacks.
fn unread() -> Missing {
    Missing(vec![WaitingFor::Unread {}])
}

/// Whether a process that an agent's launcher started can have this id. Others mean something else to `kill(2)`, and to whoever reads
/// them in the API.
pub fn is_id_of_harness(pid: i32) -> bool {
    pid > 1
}
