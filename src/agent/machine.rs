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

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::agent::declaration::{Declaration, Missing};
use crate::agent::fingerprint::Fingerprint;
use crate::agent::launch::Launch;
use crate::agent::name::Name;
use crate::agent::reconcile;
use crate::agent::restart::{self, Verdict};
use crate::agent::spec::{Limits, Policy};
use crate::sys::clock::Timestamp;
use crate::sys::process::Identity;
use crate::wire::exit_status::ExitStatus;
use crate::wire::status::{self, AgentStatus, Outcome, PastAttempt, Time, Usage};

/// How long an attempt may take to be gone once its harness has ended, before it is killed.
const LINGER: Duration = Duration::from_secs(10);

/// The first delay after a launch that failed for reasons that are not the agent's; it doubles each time.
const RETRY: Duration = Duration::from_secs(1);

/// The longest such delay.
const RETRY_MOST: Duration = Duration::from_secs(30);

/// What a machine that was written down waits for before it starts anything.
const UNREAD: &str = "its declaration could not be read yet";

/// Numbers the launches of one agent, over all its declarations.
pub type Attempt = u64;

/// What happens to an agent.
#[derive(Clone, Debug)]
pub enum Event {
    /// A new life begins under this declaration.
    Declare(Declaration),
    /// The declaration has changed in what does not touch a living process.
    Update(Declaration),
    /// The entry is wrong, in these words.
    Reject(String),
    /// The agent is wanted no more.
    Remove,
    /// The pane is there, in the session that the launch names.
    Opened {
        /// Of which attempt.
        attempt: Attempt,
    },
    /// Its launcher has reported.
    Met {
        /// Of which attempt.
        attempt: Attempt,
        /// The launcher.
        launcher: Identity,
    },
    /// The harness runs.
    Started {
        /// Of which attempt.
        attempt: Attempt,
        /// The harness.
        pid: i32,
        /// Since when.
        at: Timestamp,
    },
    /// Instead of launching it, one that ran already was found in its place: this was launched then.
    Found {
        /// Of which attempt.
        attempt: Attempt,
        /// Of what was launched, if its launcher says that.
        fingerprint: Option<Fingerprint>,
    },
    /// The harness could not be started.
    NotStarted {
        /// Of which attempt.
        attempt: Attempt,
        /// Why.
        why: NotStarted,
    },
    /// The harness has ended.
    Ended {
        /// Of which attempt.
        attempt: Attempt,
        /// How.
        how: ExitStatus,
        /// When.
        at: Timestamp,
        /// What it took of the machine.
        usage: Usage,
    },
    /// Its limits could not all be applied, for this reason; `None` when they are.
    Limited {
        /// Of which attempt.
        attempt: Attempt,
        /// For a person.
        error: Option<String>,
    },
    /// Its environment is not all that it should be, for this reason.
    Environment {
        /// Of which attempt.
        attempt: Attempt,
        /// For a person.
        error: String,
    },
    /// What it prints is not kept, for this reason; `None` when it is.
    Logged {
        /// Of which attempt.
        attempt: Attempt,
        /// For a person.
        error: Option<String>,
    },
    /// Nothing of the attempt is left. Said of every attempt, once, last.
    Gone {
        /// Which.
        attempt: Attempt,
    },
    /// Said instead of launching it, at once: the session is still another agent's. Nothing else is heard of the attempt.
    SessionBusy {
        /// Of which attempt.
        attempt: Attempt,
        /// Whose it is.
        holder: Name,
    },
    /// The session that was busy is free.
    SessionFree,
    /// The session was closed, or could not be.
    Closed(Result<(), String>),
    /// Time has passed; see [`Machine::due`].
    Due,
}

/// Why a harness could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStarted {
    /// The agent's own fault, as far as can be told: no such program, say. Counts as an attempt that failed.
    Failed(String),
    /// tmux's, the system's, or nobody's: it is tried again whatever the policy says.
    Retry(String),
    /// It came to nothing because a daemon was cut off in the middle of it: it is made up for at once, and does not count.
    CutOff,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Launch this; answered by `Opened`, `Started` or `NotStarted`, and `Gone` in the end, or by `SessionBusy` alone.
    Launch {
        /// The number to go by.
        attempt: Attempt,
        /// What.
        launch: Arc<Launch>,
        /// What it may take; answered by `Limited`.
        limits: Limits,
    },
    /// Find the attempt that an earlier daemon has launched, and follow it; answered as `Launch` is, or by `Ended`, and by `Gone`.
    Resume {
        /// Which.
        attempt: Attempt,
        /// Its launcher, if that had reported.
        launcher: Option<Identity>,
    },
    /// Send SIGINT, once.
    Interrupt {
        /// To which attempt.
        attempt: Attempt,
    },
    /// Send SIGINT a second time: some harnesses ask whether the first was meant.
    InterruptAgain {
        /// To which attempt.
        attempt: Attempt,
    },
    /// Change what it may take; answered by `Limited`.
    Limit {
        /// Which attempt.
        attempt: Attempt,
        /// From now on.
        limits: Limits,
    },
    /// Kill everything of it, and do not rest before it is gone.
    Kill {
        /// Which attempt.
        attempt: Attempt,
    },
    /// Close the session; answered by `Closed`.
    Close {
        /// Which.
        session: Name,
    },
    /// An attempt is over.
    Account(PastAttempt),
    /// The agent has ended for good: whoever attaches is to get a shell.
    OfferShell {
        /// In which session.
        session: Name,
    },
}

/// One agent.
// Through `remote` serde's own code is there to be called: what was read is looked at before it is believed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Machine {
    name: Name,
    harness: Option<String>,
    declared: Option<Declared>,
    leaving: bool,
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

/// The session that is to be closed before the agent is gone or has another.
#[derive(Debug, Serialize, Deserialize)]
struct Session {
    name: Name,
    /// Whether the agent's pane was seen to be made in it. If not, it may be there all the same: the answer may have been lost.
    is_open: bool,
}

/// A good declaration, and the life under it.
#[derive(Debug, Serialize, Deserialize)]
struct Declared {
    kind: String,
    policy: Policy,
    /// What is to be launched next. Not written down: it holds secrets.
    #[serde(skip)]
    launch: Option<Arc<Launch>>,
    missing: Option<String>,
    /// Of what was launched last.
    fingerprint: Option<Fingerprint>,
    /// Whether that was an earlier daemon's doing.
    #[serde(skip)]
    is_restored: bool,
    at: Timestamp,
    /// When a harness was first started.
    first_started: Option<Timestamp>,
    /// When the present or latest one was.
    started: Option<Timestamp>,
    attempts: u64,
    /// Whether the latest of them came to nothing and is to be made up for.
    is_cut_off: bool,
    restarts: u64,
    /// Restarts since the agent last ran for long.
    in_a_row: usize,
    /// Whether the next launch is one by restart policy.
    restarting: bool,
    /// Launches in a row that failed for reasons that are not the agent's.
    retries: u32,
    exit: Option<Exit>,
    error: Option<String>,
    /// Why the limits of the present or latest attempt are not applied.
    limits_error: Option<String>,
    /// Why what it prints is not kept.
    log_error: Option<String>,
    /// Why its environment is not all that it should be.
    #[serde(default)]
    environment_error: Option<String>,
}

/// How an attempt ended.
#[derive(Debug, Serialize, Deserialize)]
struct Exit {
    how: ExitStatus,
    at: Timestamp,
    usage: Usage,
}

/// The latest attempt, as its history will tell it.
#[derive(Debug, Serialize, Deserialize)]
struct Latest {
    number: u64,
    declared: Timestamp,
    fingerprint: Option<Fingerprint>,
    started: Option<Timestamp>,
}

impl Declared {
    fn new(declaration: Declaration, at: Timestamp) -> Self {
        let (launch, missing) = split(declaration.launch);
        Self {
            kind: declaration.kind.to_owned(),
            policy: declaration.policy,
            launch,
            missing,
            fingerprint: None,
            is_restored: false,
            at,
            first_started: None,
            started: None,
            attempts: 0,
            is_cut_off: false,
            restarts: 0,
            in_a_row: 0,
            restarting: false,
            retries: 0,
            exit: None,
            error: None,
            limits_error: None,
            log_error: None,
            environment_error: None,
        }
    }

    fn timeout_at(&self) -> Option<Timestamp> {
        Some(self.first_started? + self.policy.timeout?)
    }
}

fn split(launch: Result<Arc<Launch>, Missing>) -> (Option<Arc<Launch>>, Option<String>) {
    match launch {
        Ok(launch) => (Some(launch), None),
        Err(missing) => (None, Some(missing.0)),
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Lingering {
    attempt: Attempt,
    kill_at: Timestamp,
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

impl StopReason {
    fn in_words(self) -> &'static str {
        match self {
            Self::Changed => "its declaration has changed",
            Self::Removed => "its entry was removed, or agentd is being stopped",
            Self::TimedOut => "its timeout has passed",
        }
    }
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
        let launch = Err(Missing(UNREAD.to_owned()));
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
            declared.missing = Some(UNREAD.to_owned());
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
            Event::Remove => self.remove(now, &mut effects),
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
        self.leaving = false;
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

    fn remove(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.leaving = true;
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
                effects.extend(account(self.latest.as_ref(), &exit, why.in_words()));
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

    /// The agent as the API shows it.
    pub fn status(&self) -> AgentStatus {
        let declared = self.declared.as_ref();
        let time = |at: Timestamp| Time(at.wall());
        let pid = match self.state {
            State::Running { pid, .. } | State::Stopping { harness: Harness::Alive { pid }, .. } => Some(pid),
            _ => None,
        };
        AgentStatus {
            name: self.name.to_string(),
            running: pid.is_some(),
            session: self
                .session
                .as_ref()
                .filter(|session| session.is_open)
                .map(|session| session.name.to_string())
                .unwrap_or_default(),
            restarts: declared.map_or(0, |declared| declared.restarts),
            error: self.entry_error.clone().or_else(|| declared?.error.clone()),
            state: self.shown_state(),
            since: self.shown_since().map(time),
            reason: Some(self.reason()),
            outcome: match self.state {
                State::Exited { outcome } => Some(outcome),
                _ => None,
            },
            harness: self.harness.clone(),
            kind: declared.map(|declared| declared.kind.clone()),
            pid,
            attempt: declared.map(|declared| declared.attempts).filter(|&attempts| attempts > 0),
            declared_at: declared.map(|declared| time(declared.at)),
            started_at: declared.and_then(|declared| declared.started).map(time),
            exit: declared.and_then(|declared| declared.exit.as_ref()).map(|exit| status::Exit {
                how: exit.how.clone(),
                at: time(exit.at),
                oom_kills: oom_kills(exit),
            }),
            next_start_at: match self.state {
                // Nobody knows how long clearing takes.
                State::Backoff { why: BackoffReason::Clearing, .. } => None,
                State::Backoff { until, .. } => Some(time(until)),
                _ => None,
            },
            deadline: match self.state {
                State::Stopping { deadline, .. } => Some(time(deadline)),
                _ => None,
            },
            timeout_at: self.timeout_at().map(time),
            limits_error: declared.and_then(|declared| declared.limits_error.clone()),
            log_error: declared.and_then(|declared| declared.log_error.clone()),
            environment_error: declared.and_then(|declared| declared.environment_error.clone()),
            resources: None,
            history: Vec::new(),
        }
    }

    /// Since when it has been in the state that is shown, whenever this daemon heard of it.
    fn shown_since(&self) -> Option<Timestamp> {
        match self.state {
            State::Running { since, .. } => Some(since),
            _ => self.since,
        }
    }

    fn shown_state(&self) -> status::State {
        match self.state {
            State::Invalid => status::State::Invalid,
            State::Waiting | State::Queued { .. } => status::State::Waiting,
            State::Starting { .. } => status::State::Starting,
            State::Running { .. } => status::State::Running,
            State::Stopping { .. } | State::Closing { .. } | State::Gone => status::State::Stopping,
            State::Backoff { .. } => status::State::Backoff,
            State::Exited { .. } => status::State::Exited,
        }
    }

    fn reason(&self) -> String {
        let Some(declared) = &self.declared else { return "its entry is wrong, and nothing of it ever ran".to_owned() };
        let ended = || {
            declared
                .exit
                .as_ref()
                .map_or_else(|| "ended".to_owned(), |exit| describe(exit, declared.policy.limits.memory))
        };
        let of_limit = |count: u64| match declared.policy.max_restarts {
            Some(limit) => format!("{count} of {limit}"),
            None => count.to_string(),
        };
        match &self.state {
            State::Invalid => "its entry is wrong".to_owned(),
            State::Waiting => declared.missing.as_deref().unwrap_or("it is not its turn yet").to_owned(),
            State::Queued { holder } => {
                let session = declared.launch.as_ref().map_or("it wants", |launch| launch.session.as_str());
                format!("its session {session} is still in use by {holder}")
            }
            State::Starting { .. } => format!("attempt {} is being started", declared.attempts),
            State::Running { .. } if declared.restarts > 0 => {
                format!("restarted by policy, restart {}", of_limit(declared.restarts))
            }
            State::Running { .. } => "declared".to_owned(),
            State::Stopping { why, killed, harness, .. } => {
                let why = why.in_words();
                let how = match (killed, harness) {
                    (true, _) => "killed",
                    (false, Harness::Over) => "what it left behind is being cleared away",
                    (false, Harness::Awaited | Harness::Alive { .. }) => "interrupted, will be killed at the deadline",
                };
                format!("{why}; {how}")
            }
            State::Backoff { why: BackoffReason::Restart, .. } => {
                format!("{}; restart {} follows", ended(), of_limit(declared.restarts.saturating_add(1)))
            }
            State::Backoff { why: BackoffReason::Retry, .. } => "the launch failed and will be tried again".to_owned(),
            State::Backoff { why: BackoffReason::Clearing, .. } => {
                "what was there before is being cleared away".to_owned()
            }
            State::Exited { outcome: Outcome::TimedOut } => format!("its timeout has passed; {}", ended()),
            State::Exited { outcome: Outcome::GaveUp } => {
                format!("{}; {} restarts were allowed and made", ended(), declared.restarts)
            }
            State::Exited { .. } => ended(),
            State::Closing { .. } | State::Gone => "its session is being closed".to_owned(),
        }
    }
}

/// Whether a process that an agent's launcher started can have this id. Others mean something else to `kill(2)`, and to whoever reads
/// them in the API.
pub fn is_id_of_harness(pid: i32) -> bool {
    pid > 1
}

fn describe(exit: &Exit, memory: Option<u64>) -> String {
    let how = &exit.how;
    if exit.usage.oom_kills == 0 {
        return how.to_string();
    }
    let limit = memory.map_or_else(String::new, |bytes| format!(", of which it may have {}", in_words(bytes)));
    format!("{how}; the kernel killed {} of its processes for lack of memory{limit}", exit.usage.oom_kills)
}

fn oom_kills(exit: &Exit) -> Option<u64> {
    Some(exit.usage.oom_kills).filter(|&kills| kills > 0)
}

/// An attempt that has just ended, for its history.
fn account(latest: Option<&Latest>, exit: &Exit, reason: &str) -> Option<Effect> {
    let time = |at: Timestamp| Time(at.wall());
    let latest = latest?;
    Some(Effect::Account(PastAttempt {
        attempt: latest.number,
        declared_at: time(latest.declared),
        fingerprint: latest.fingerprint.as_ref().map(Fingerprint::short),
        started_at: latest.started.map(time),
        exit: status::Exit { how: exit.how.clone(), at: time(exit.at), oom_kills: oom_kills(exit) },
        reason: reason.to_owned(),
        cpu_usec: exit.usage.cpu_usec,
        memory_peak: exit.usage.memory_peak,
    }))
}

/// Bytes, in the largest unit that gives a whole number.
fn in_words(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| format!("{bytes} bytes"), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}
