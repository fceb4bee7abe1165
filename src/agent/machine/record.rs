//! A machine on disk: the form that daemons of this and of other builds read and write.
//!
//! Keys are added, and none is removed or renamed: a daemon of an earlier build reads what this one wrote, after a downgrade, and
//! this one reads what that wrote. A key that was added therefore has a default. What a machine must not be is
//! [refused](Contradiction).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::life::{Exit, Idled, Latest, Life, Lingering, Next, Session, Wanted, known, unread};
use super::rotation::Given;
use super::{
    Absent, Attempt, BackoffReason, Force, Harness, Machine, Removal, State, StopReason, Then, is_id_of_harness,
};
use crate::agent::activity::Activity;
use crate::agent::approval::Approvals;
use crate::agent::changes::Marks;
use crate::agent::conversation::Conversation;
use crate::agent::cost::Bill;
use crate::agent::declaration::{Missing, WaitingFor};
use crate::agent::fingerprint::Fingerprint;
use crate::agent::hold::Bar;
use crate::agent::name::Name;
use crate::agent::orders::{Giver, Orders};
use crate::agent::reconcile::InForce;
use crate::agent::rotation::{Pending, Renewal};
use crate::agent::sandbox::Engine;
use crate::agent::spec::{Kind, Policy};
use crate::agent::user::AgentUser;
use crate::sys::clock::Timestamp;
use crate::sys::process::Identity;
use crate::wire::reason::{Changes, MissingPackages, MissingProgram, MissingProxy};
use crate::wire::status::Outcome;

impl Serialize for Machine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Record::of(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Machine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Record::deserialize(deserializer)?.into_machine().map_err(de::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
struct Record<'a> {
    name: Cow<'a, Name>,
    harness: Option<Cow<'a, str>>,
    declared: Option<LifeRecord<'a>>,
    /// Whether the agent is on its way out.
    leaving: bool,
    /// Whether that is because the daemon is being stopped.
    #[serde(default)]
    shutdown: bool,
    state: StateRecord<'a>,
    attempt: Attempt,
    /// Absent in records of earlier builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    latest: Option<Cow<'a, Latest>>,
    launcher: Option<Identity>,
    lingering: Option<Cow<'a, Lingering>>,
    session: Option<SessionRecord<'a>>,
    entry_error: Option<Cow<'a, str>>,
    #[serde(default)]
    since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    orders: Option<Cow<'a, Orders>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    giver: Option<Cow<'a, Giver>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    approvals: Option<Cow<'a, Approvals>>,
    conversation: Option<Cow<'a, Conversation>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    given: Option<Cow<'a, Given>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending_rotation: Option<Cow<'a, Pending>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renewal: Option<Cow<'a, Renewal>>,
    /// Why its group keeps it from starting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<Cow<'a, Bar>>,
    /// Later builds may say what is unknown here.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    activity: Option<Cow<'a, Activity>>,
}

#[derive(Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a key of the record")]
struct LifeRecord<'a> {
    kind: Cow<'a, str>,
    /// The engine of its sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    engine: Option<Engine>,
    policy: Cow<'a, Policy>,
    /// In words, for daemons of earlier builds.
    missing: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waiting_for: Option<Cow<'a, [WaitingFor]>>,
    fingerprint: Option<Cow<'a, Fingerprint>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    marks: Option<Cow<'a, Marks>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changed: Option<Cow<'a, Changes>>,
    /// The program that was not found: then a retry is the next look for it, which daemons of earlier builds make as a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    absent: Option<Cow<'a, MissingProgram>>,
    /// The same of its packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unbuilt: Option<Cow<'a, MissingPackages>>,
    /// The same of its proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unreached: Option<Cow<'a, MissingProxy>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    absences: usize,
    at: Timestamp,
    first_started: Option<Timestamp>,
    started: Option<Timestamp>,
    attempts: u64,
    is_cut_off: bool,
    restarts: u64,
    /// Counts the restart that is decided and not yet made.
    in_a_row: usize,
    restarting: bool,
    retries: u32,
    exit: Option<Cow<'a, Exit>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bill: Option<Cow<'a, Bill>>,
    error: Option<Cow<'a, str>>,
    limits_error: Option<Cow<'a, str>>,
    log_error: Option<Cow<'a, str>>,
    #[serde(default)]
    environment_error: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    /// Whether the first launch of this life is to be made because somebody started or restarted the agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_ordered: bool,
    /// Whether the next launch follows a hold. Earlier builds make it as a retry.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_released: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    held_for: Duration,
    /// How it waited, if that is why it is being stopped or is over. Earlier builds take the stop for a timeout.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    idled: Option<Cow<'a, Idled>>,
}

#[derive(Serialize, Deserialize)]
struct SessionRecord<'a> {
    name: Cow<'a, Name>,
    is_open: bool,
    /// Whose; absent if it is the default user's. Builds before know no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, AgentUser>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StateRecord<'a> {
    Invalid,
    Waiting,
    Queued {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<Cow<'a, Name>>,
        holder: Cow<'a, Name>,
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
        why: WhyRecord,
        deadline: Timestamp,
        #[serde(default)]
        again: Option<Timestamp>,
        killed: bool,
        /// What else than a change is the reason. Earlier builds take it for one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        order: Option<OrderRecord>,
        /// Whether its cost is the reason. Earlier builds take that for its timeout.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_cost: bool,
    },
    Backoff {
        until: Timestamp,
        why: BackoffReason,
    },
    Exited {
        outcome: Outcome,
    },
    Closing {
        retry_at: Option<Timestamp>,
    },
    Gone,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WhyRecord {
    Changed,
    Removed,
    TimedOut,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OrderRecord {
    Disabled,
    Restarted,
}

/// A record of what no agent can be, or of what it could never leave: no daemon wrote that, or the disk has damaged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Contradiction {
    #[error("it has a state, and no declaration")]
    NoDeclaration,
    #[error("it is leaving, and is not in a state to leave in")]
    CannotLeave,
    #[error("its session is being closed, and it has none")]
    NoSession,
    #[error("another attempt than the latest is under way")]
    AnotherAttempt,
    #[error("the id of its process is that of none")]
    NoProcess,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn text(text: Option<&String>) -> Option<Cow<'_, str>> {
    text.map(|text| Cow::Borrowed(text.as_str()))
}

impl<'a> Record<'a> {
    fn of(machine: &'a Machine) -> Self {
        let removal = machine.removal();
        Self {
            name: Cow::Borrowed(&machine.name),
            harness: text(machine.harness.as_ref()),
            declared: machine.life.as_ref().map(LifeRecord::of),
            leaving: removal.is_some(),
            shutdown: removal == Some(Removal::Shutdown),
            state: StateRecord::of(&machine.state),
            attempt: machine.attempt,
            total: Some(machine.total),
            latest: machine.latest.as_ref().map(Cow::Borrowed),
            launcher: machine.launcher,
            lingering: machine.lingering.as_ref().map(Cow::Borrowed),
            session: machine.session.as_ref().map(|session| SessionRecord {
                name: Cow::Borrowed(&session.name),
                is_open: session.is_open,
                user: session.user.as_ref().map(Cow::Borrowed),
            }),
            entry_error: text(machine.entry_error.as_ref()),
            since: machine.since,
            orders: (!machine.orders.is_empty()).then_some(Cow::Borrowed(&machine.orders)),
            giver: (machine.giver != Giver::default()).then_some(Cow::Borrowed(&machine.giver)),
            approvals: (!machine.approvals.is_unrecorded()).then_some(Cow::Borrowed(&machine.approvals)),
            conversation: machine.conversation.as_ref().map(Cow::Borrowed),
            given: machine.given.as_ref().map(Cow::Borrowed),
            pending_rotation: machine.pending.as_ref().map(Cow::Borrowed),
            renewal: machine.renewal.as_ref().map(Cow::Borrowed),
            hold: machine.hold.as_ref().map(Cow::Borrowed),
            activity: machine.may_be_active().then_some(Cow::Borrowed(&machine.activity)),
        }
    }

    fn contradiction(&self) -> Option<Contradiction> {
        let is_known = matches!(self.state, StateRecord::Invalid | StateRecord::Gone) || self.declared.is_some();
        let is_closing = matches!(self.state, StateRecord::Closing { .. });
        let may_leave = is_closing || matches!(self.state, StateRecord::Stopping { .. } | StateRecord::Gone);
        let (attempt, pid) = match self.state {
            StateRecord::Running { attempt, pid, .. }
            | StateRecord::Stopping { attempt, harness: Harness::Alive { pid }, .. } => (Some(attempt), Some(pid)),
            StateRecord::Starting { attempt } | StateRecord::Stopping { attempt, .. } => (Some(attempt), None),
            _ => (None, None),
        };
        let lingering = self.lingering.as_ref().map(|lingering| lingering.attempt);
        if !is_known {
            Some(Contradiction::NoDeclaration)
        } else if self.leaving && !may_leave {
            Some(Contradiction::CannotLeave)
        } else if is_closing && self.session.is_none() {
            Some(Contradiction::NoSession)
        } else if attempt.into_iter().chain(lingering).any(|attempt| attempt != self.attempt) {
            Some(Contradiction::AnotherAttempt)
        } else if pid.is_some_and(|pid| !is_id_of_harness(pid)) {
            Some(Contradiction::NoProcess)
        } else {
            None
        }
    }

    fn into_machine(self) -> Result<Machine, Contradiction> {
        if let Some(contradiction) = self.contradiction() {
            return Err(contradiction);
        }
        let removal = match (self.leaving, self.shutdown) {
            (false, _) => None,
            (true, false) => Some(Removal::Undeclared),
            (true, true) => Some(Removal::Shutdown),
        };
        let is_absent = self
            .declared
            .as_ref()
            .is_some_and(|life| life.absent.is_some() || life.unbuilt.is_some() || life.unreached.is_some());
        // It waits for its own hold, for the turn of another, or for what was left of the attempt before.
        let is_held = matches!(self.hold.as_deref(), Some(Bar::Held(_)))
            && self.declared.as_ref().is_some_and(|life| life.held_since.is_some());
        let is_idled = self.declared.as_ref().is_some_and(|life| life.idled.is_some());
        let state = self.state.into_state(removal, is_absent, is_held, is_idled);
        let session = |SessionRecord { name, is_open, user }: SessionRecord<'_>| Session {
            name: name.into_owned(),
            user: user.map(Cow::into_owned),
            is_open,
        };
        // Of what an earlier build has launched, the marks are those of its declaration.
        let declared = self.declared.as_ref().filter(|life| life.attempts > 0).and_then(|life| life.marks.as_deref());
        let earlier = declared.map(|marks| Given { marks: marks.clone(), since: BTreeMap::new(), group: None });
        Ok(Machine {
            given: self.given.map(Cow::into_owned).or(earlier),
            pending: self.pending_rotation.map(Cow::into_owned),
            renewal: self.renewal.map(Cow::into_owned),
            name: self.name.into_owned(),
            harness: self.harness.map(Cow::into_owned),
            declared_user: None,
            life: self.declared.map(|life| life.into_life(&state)),
            state,
            attempt: self.attempt,
            total: self.total.unwrap_or(self.attempt),
            latest: self.latest.map(Cow::into_owned),
            launcher: self.launcher,
            lingering: self.lingering.map(Cow::into_owned),
            session: self.session.map(session),
            entry_error: self.entry_error.map(Cow::into_owned),
            since: self.since,
            orders: self.orders.map(Cow::into_owned).unwrap_or_default(),
            giver: self.giver.map(Cow::into_owned).unwrap_or_default(),
            conversation: self.conversation.map(Cow::into_owned),
            spare: None,
            bar: None,
            approvals: self.approvals.map(Cow::into_owned).unwrap_or_default(),
            hold: self.hold.map(Cow::into_owned),
            activity: self.activity.map(Cow::into_owned).unwrap_or_default(),
            unread: None,
        })
    }
}

impl<'a> LifeRecord<'a> {
    fn of(life: &'a Life) -> Self {
        let missing = life.wanted.missing();
        let restarting = life.next == Some(Next::Restart);
        Self {
            kind: Cow::Borrowed(life.kind.in_words()),
            engine: life.kind.sandbox().map(|sandbox| sandbox.engine),
            policy: Cow::Borrowed(&life.policy),
            missing: missing.map(|missing| Cow::Owned(missing.to_string())),
            waiting_for: missing.map(|missing| Cow::Borrowed(missing.0.as_slice())),
            fingerprint: life.in_force.fingerprint().map(Cow::Borrowed),
            marks: life.marks.as_ref().map(Cow::Borrowed),
            changed: Some(&life.changed).filter(|changed| !changed.is_empty()).map(Cow::Borrowed),
            absent: match &life.absent {
                Some(Absent::Program(program)) => Some(Cow::Borrowed(program)),
                Some(Absent::Packages(_) | Absent::Proxy(_)) | None => None,
            },
            unbuilt: match &life.absent {
                Some(Absent::Packages(packages)) => Some(Cow::Borrowed(packages)),
                Some(Absent::Program(_) | Absent::Proxy(_)) | None => None,
            },
            unreached: match &life.absent {
                Some(Absent::Proxy(proxy)) => Some(Cow::Borrowed(proxy)),
                Some(Absent::Program(_) | Absent::Packages(_)) | None => None,
            },
            absences: life.absences,
            at: life.at,
            first_started: life.first_started,
            started: life.started,
            attempts: life.attempts,
            is_cut_off: life.next == Some(Next::MakeUp),
            restarts: life.restarts,
            in_a_row: life.in_a_row.saturating_add(usize::from(restarting)),
            restarting,
            retries: life.failures,
            exit: life.exit.as_ref().map(Cow::Borrowed),
            bill: (life.bill != Bill::default()).then_some(Cow::Borrowed(&life.bill)),
            error: text(life.error.as_ref()),
            limits_error: text(life.limits_error.as_ref()),
            log_error: text(life.log_error.as_ref()),
            environment_error: text(life.environment_error.as_ref()),
            generation: life.generation,
            is_ordered: life.next == Some(Next::Ordered),
            is_released: life.next == Some(Next::Released),
            held_since: life.held_since,
            held_for: life.held_for,
            idled: life.idled.as_ref().map(Cow::Borrowed),
        }
    }

    fn into_life(self, state: &State) -> Life {
        let next = match state {
            _ if self.restarting => Some(Next::Restart),
            _ if self.is_cut_off => Some(Next::MakeUp),
            _ if self.is_ordered => Some(Next::Ordered),
            _ if self.is_released => Some(Next::Released),
            State::Starting { .. } | State::Running { .. } | State::Exited { .. } => None,
            _ if self.attempts == 0 => Some(Next::Fresh),
            State::Stopping { .. } => None,
            _ => Some(Next::Retry),
        };
        // An earlier build wrote it down in words alone, or nothing was missing: what is launched is never written down.
        let missing = self.waiting_for.map_or_else(unread, |causes| Missing(causes.into_owned()));
        Life {
            kind: Kind::from_words(&self.kind, self.engine),
            policy: self.policy.into_owned(),
            wanted: Wanted::Lacking { missing, former: None },
            in_force: self.fingerprint.map_or(InForce::Nothing, |fingerprint| InForce::Here(fingerprint.into_owned())),
            marks: self.marks.map(Cow::into_owned),
            changed: self.changed.map(Cow::into_owned).unwrap_or_default(),
            absent: self
                .absent
                .map(|program| Absent::Program(program.into_owned()))
                .or_else(|| self.unbuilt.map(|packages| Absent::Packages(packages.into_owned())))
                .or_else(|| self.unreached.map(|proxy| Absent::Proxy(proxy.into_owned()))),
            is_building: false,
            absences: self.absences,
            at: self.at,
            first_started: self.first_started,
            started: self.started,
            attempts: self.attempts,
            restarts: self.restarts,
            in_a_row: self.in_a_row.saturating_sub(usize::from(self.restarting)),
            failures: self.retries,
            next,
            exit: self.exit.map(Cow::into_owned),
            bill: self.bill.map(Cow::into_owned).unwrap_or_default(),
            error: self.error.map(Cow::into_owned),
            limits_error: self.limits_error.map(Cow::into_owned),
            log_error: self.log_error.map(Cow::into_owned),
            environment_error: self.environment_error.map(Cow::into_owned),
            generation: self.generation,
            held_since: self.held_since,
            held_for: self.held_for,
            idled: self.idled.map(Cow::into_owned),
        }
    }
}

impl<'a> StateRecord<'a> {
    fn of(state: &'a State) -> Self {
        match *state {
            State::Invalid => Self::Invalid,
            State::Waiting => Self::Waiting,
            State::Queued { ref session, ref holder } => {
                Self::Queued { session: session.as_ref().map(Cow::Borrowed), holder: Cow::Borrowed(holder) }
            }
            State::Starting { attempt } => Self::Starting { attempt },
            State::Running { attempt, pid, since } => Self::Running { attempt, pid, since },
            State::Stopping { attempt, harness, why, deadline, force } => {
                let (why, order) = match why {
                    StopReason::Changed => (WhyRecord::Changed, None),
                    StopReason::Disabled => (WhyRecord::Changed, Some(OrderRecord::Disabled)),
                    StopReason::Restarted => (WhyRecord::Changed, Some(OrderRecord::Restarted)),
                    StopReason::Removed(_) => (WhyRecord::Removed, None),
                    StopReason::TimedOut | StopReason::CostLimit | StopReason::Idled => (WhyRecord::TimedOut, None),
                };
                let by_cost = matches!(*state, State::Stopping { why: StopReason::CostLimit, .. });
                let (again, killed) = match force {
                    Force::Interrupted { again } => (again, false),
                    Force::Killed => (None, true),
                };
                Self::Stopping { attempt, harness, why, deadline, again, killed, order, by_cost }
            }
            State::Backoff { until, why: BackoffReason::Hold } | State::Absent { until } => {
                Self::Backoff { until, why: BackoffReason::Retry }
            }
            State::Backoff { until, why } => Self::Backoff { until, why },
            State::Exited { outcome } => Self::Exited { outcome },
            State::Closing { retry_at, .. } => Self::Closing { retry_at },
            State::Gone { .. } => Self::Gone,
        }
    }

    fn into_state(self, removal: Option<Removal>, is_absent: bool, is_held: bool, is_idled: bool) -> State {
        match self {
            Self::Invalid => State::Invalid,
            Self::Waiting => State::Waiting,
            Self::Queued { session, holder } => {
                State::Queued { session: session.map(Cow::into_owned), holder: holder.into_owned() }
            }
            Self::Starting { attempt } => State::Starting { attempt },
            Self::Running { attempt, pid, since } => State::Running { attempt, pid, since },
            Self::Stopping { attempt, harness, why, deadline, again, killed, order, by_cost } => {
                let why = match (removal, why) {
                    (Some(removal), _) => StopReason::Removed(removal),
                    (None, WhyRecord::TimedOut) if by_cost => StopReason::CostLimit,
                    (None, WhyRecord::TimedOut) if is_idled => StopReason::Idled,
                    (None, WhyRecord::TimedOut) => StopReason::TimedOut,
                    // One that was removed and is not leaving is wanted again.
                    (None, WhyRecord::Changed | WhyRecord::Removed) => match order {
                        Some(OrderRecord::Disabled) => StopReason::Disabled,
                        Some(OrderRecord::Restarted) => StopReason::Restarted,
                        None => StopReason::Changed,
                    },
                };
                let force = if killed { Force::Killed } else { Force::Interrupted { again } };
                State::Stopping { attempt, harness, why, deadline, force }
            }
            Self::Backoff { until, why: BackoffReason::Retry } if is_held => {
                State::Backoff { until, why: BackoffReason::Hold }
            }
            Self::Backoff { until, why: BackoffReason::Retry } if is_absent => State::Absent { until },
            Self::Backoff { until, why } => State::Backoff { until, why },
            Self::Exited { outcome } => State::Exited { outcome },
            Self::Closing { retry_at } => State::Closing { then: removal.map_or(Then::Begin, Then::Leave), retry_at },
            Self::Gone => State::Gone { removal: removal.unwrap_or(Removal::Undeclared) },
        }
    }
}
