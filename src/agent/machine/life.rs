//! The life of an agent under one good declaration, and what a machine remembers of sessions and attempts.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Absent, Attempt, LaunchReason};
use crate::agent::changes::{Before, Marks, changes};
use crate::agent::cost::Bill;
use crate::agent::declaration::{Declaration, Missing, WaitingFor};
use crate::agent::fingerprint::Fingerprint;
use crate::agent::launch::Launch;
use crate::agent::name::Name;
use crate::agent::reconcile::InForce;
use crate::agent::spec::{Kind, Policy};
use crate::agent::user::AgentUser;
use crate::agent::verdict::{Verdict, judge};
use crate::sys::clock::Timestamp;
use crate::wire::activity::Doing;
use crate::wire::exit_status::ExitStatus;
use crate::wire::reason::Changes;
use crate::wire::result::StreamResult;
use crate::wire::status::Usage;

/// The life of an agent under one good declaration.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) kind: Kind,
    pub(super) policy: Policy,
    pub(super) wanted: Wanted,
    /// What was launched last under this declaration.
    pub(super) in_force: InForce,
    /// Which run of the agent it is. Records of earlier builds lack it.
    pub(super) generation: Option<u64>,
    /// Of what is to be launched, or was last; unknown if an early build wrote the record.
    pub(super) marks: Option<Marks>,
    /// What the declaration has changed.
    pub(super) changed: Changes,
    /// When the declaration was taken up.
    pub(super) at: Timestamp,
    /// When a harness was first started.
    pub(super) first_started: Option<Timestamp>,
    /// Since when a hold keeps it from starting.
    pub(super) held_since: Option<Timestamp>,
    /// How long holds have kept it from starting before. That does not count for the timeout.
    pub(super) held_for: Duration,
    /// When the present or latest harness was started.
    pub(super) started: Option<Timestamp>,
    /// Launches that count.
    pub(super) attempts: u64,
    /// Restarts by policy.
    pub(super) restarts: u64,
    /// Restarts by policy since the agent last ran for `backoff_reset`. They choose the delay.
    pub(super) in_a_row: usize,
    /// Launches that failed through no fault of the agent since the latest start. They choose the delay, whatever the policy says in
    /// between.
    pub(super) failures: u32,
    /// What was not found when the latest launch was tried.
    pub(super) absent: Option<Absent>,
    /// How often in a row it was not found. This chooses the delay.
    pub(super) absences: usize,
    /// Whether the launch that is under way waits for its packages. Not on record: the next daemon is not told.
    pub(super) is_building: bool,
    /// What the next launch is, once that is decided.
    pub(super) next: Option<Next>,
    /// How the latest attempt that is over ended.
    pub(super) exit: Option<Exit>,
    /// What all attempts have cost.
    pub(super) bill: Bill,
    /// Why the agent could not be started or its session not be closed.
    pub(super) error: Option<String>,
    /// Why the limits of the present or latest attempt are not applied.
    pub(super) limits_error: Option<String>,
    /// Why what it prints is not kept.
    pub(super) log_error: Option<String>,
    /// Why its environment is not all that it should be.
    pub(super) environment_error: Option<String>,
    /// How the latest attempt waited, if that is why it was ended.
    pub(super) idled: Option<Idled>,
}

/// How an attempt was idle or blocked until it was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Idled {
    pub(super) doing: Doing,
    /// What it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    pub(super) waited: Duration,
}

/// What is to be launched.
#[derive(Debug)]
pub(super) enum Wanted {
    /// Nothing is missing.
    Ready(Arc<Launch>),
    /// Something is missing.
    Lacking {
        missing: Missing,
        /// What was wanted when nothing was missing: a launch may be under way with its secrets.
        former: Option<Arc<Launch>>,
    },
}

/// What the next launch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The first of this declaration.
    Fresh,
    /// The first after an operator or the entry started or restarted the agent.
    Ordered,
    /// A restart by policy. It counts as one, and as an attempt.
    Restart,
    /// The launch before came to nothing because a daemon was cut off. It does not count again.
    MakeUp,
    /// The launch before failed through no fault of the agent. It counts as an attempt.
    Retry,
    /// The attempt before has failed because of its credential. It counts as an attempt, and not as a restart.
    Released,
}

/// The session that is to be closed before the agent is gone or has another.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) name: Name,
    /// On whose tmux server, and so whom the attempt runs as; `None` is the default user.
    pub(super) user: Option<AgentUser>,
    /// Whether the pane was seen in it. One that was asked for may exist, too: the answer may have been lost.
    pub(super) is_open: bool,
}

/// How an attempt ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Exit {
    pub(super) how: ExitStatus,
    pub(super) at: Timestamp,
    pub(super) usage: Usage,
    /// Whether it completed at once and printed nothing. Records of earlier builds lack it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) silent: bool,
    /// What its harness said of its work. Records of earlier builds lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) result: Option<Box<StreamResult>>,
    /// Whether it was the last because of its cost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) by_cost: bool,
    /// Whether it failed because its credential does not work. Records of earlier builds lack it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) by_credential: bool,
}

impl Exit {
    pub(super) fn new(how: ExitStatus, at: Timestamp, usage: Usage) -> Self {
        Self { how, at, usage, silent: false, result: None, by_cost: false, by_credential: false }
    }

    /// An end that agentd gives, and not the harness.
    pub(super) fn of_cause(cause: String, at: Timestamp) -> Self {
        Self::new(ExitStatus::Cause(cause), at, Usage::default())
    }

    /// Whether the attempt completed, and why not.
    pub(super) fn verdict(&self, policy: &Policy) -> Verdict {
        judge(&self.how, self.result.as_deref(), policy.results)
    }
}

/// The latest attempt, for its history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Latest {
    pub(super) number: u64,
    /// Its number over the agent's whole life. Records of earlier builds lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) total: Option<u64>,
    pub(super) declared: Timestamp,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) started: Option<Timestamp>,
    /// Why it was launched. Records of earlier builds lack it, and those of later builds may name a reason that is unknown here.
    #[serde(default, deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<LaunchReason>,
    /// The id of its conversation, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) conversation: Option<String>,
}

/// What is known here. Anything else was written by a later build.
pub(super) fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

/// An attempt whose harness has ended but that is not gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lingering {
    pub(super) attempt: Attempt,
    pub(super) kill_at: Timestamp,
}

impl Life {
    /// Whether another attempt would cost more than the life may.
    pub(super) fn is_spent(&self, exit: &Exit) -> bool {
        const BY_HARNESS: &str = "error_max_budget_usd";
        let is_said = exit.result.as_ref().is_some_and(|result| result.subtype.as_deref() == Some(BY_HARNESS));
        self.policy.max_cost.is_some_and(|most| is_said || self.bill.exceeds(most))
    }

    pub(super) fn new(declaration: Declaration, at: Timestamp) -> Self {
        Self {
            kind: declaration.kind,
            policy: declaration.policy,
            marks: declaration.launch.as_ref().ok().map(|launch| launch.marks.clone()),
            changed: Changes::default(),
            wanted: Wanted::new(declaration.launch, None),
            in_force: InForce::Nothing,
            generation: None,
            at,
            first_started: None,
            held_since: None,
            held_for: Duration::ZERO,
            started: None,
            attempts: 0,
            restarts: 0,
            in_a_row: 0,
            failures: 0,
            absent: None,
            absences: 0,
            is_building: false,
            next: Some(Next::Fresh),
            exit: None,
            bill: Bill::default(),
            error: None,
            limits_error: None,
            log_error: None,
            environment_error: None,
            idled: None,
        }
    }

    /// Begins again under the same declaration.
    pub(super) fn renew(&mut self, at: Timestamp) {
        self.at = at;
        (self.first_started, self.started, self.exit) = (None, None, None);
        (self.held_since, self.held_for) = (None, Duration::ZERO);
        self.bill = Bill::default();
        (self.attempts, self.restarts, self.in_a_row, self.failures) = (0, 0, 0, 0);
        (self.error, self.limits_error, self.log_error, self.environment_error) = (None, None, None, None);
        (self.absences, self.absent) = (0, None);
        self.next = Some(Next::Ordered);
    }

    /// What this declaration would change. An early build's record does not tell all, and then nothing is told.
    pub(super) fn changes_to(&self, declaration: &Declaration) -> Changes {
        if self.marks.is_none() && self.in_force.is_restored() {
            return Changes::default();
        }
        changes(Before { policy: (&self.kind, &self.policy), marks: self.marks.as_ref() }, declaration)
    }

    /// It stands still in holds.
    pub(super) fn timeout_at(&self) -> Option<Timestamp> {
        if self.held_since.is_some() {
            return None;
        }
        Some(self.first_started? + self.policy.timeout? + self.held_for)
    }
}

impl Wanted {
    /// `former` is what was wanted before.
    pub(super) fn new(launch: Result<Arc<Launch>, Missing>, former: Option<Arc<Launch>>) -> Self {
        match launch {
            Ok(launch) => Self::Ready(launch),
            Err(missing) => Self::Lacking { missing, former },
        }
    }

    /// As far as it is known, whatever is missing.
    pub(super) fn launch(&self) -> Option<&Arc<Launch>> {
        match self {
            Self::Ready(launch) => Some(launch),
            Self::Lacking { former, .. } => former.as_ref(),
        }
    }

    pub(super) fn missing(&self) -> Option<&Missing> {
        match self {
            Self::Ready(_) => None,
            Self::Lacking { missing, .. } => Some(missing),
        }
    }
}

impl Session {
    /// The session that a launch asks for.
    pub(super) fn requested(launch: &Launch) -> Self {
        Self { name: launch.session.clone(), user: launch.user.clone(), is_open: false }
    }

    /// Whether a launch is to run in it.
    pub(super) fn is_for(&self, launch: &Launch) -> bool {
        (&self.name, &self.user) == (&launch.session, &launch.user)
    }
}

/// What a machine lacks that was read from a record.
pub(super) fn unread() -> Missing {
    Missing(vec![WaitingFor::Unread {}])
}
