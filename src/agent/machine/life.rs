//! A good declaration, and the life under it.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Attempt;
use crate::agent::declaration::{Declaration, Missing, WaitingFor};
use crate::agent::fingerprint::Fingerprint;
use crate::agent::launch::Launch;
use crate::agent::name::Name;
use crate::agent::spec::Policy;
use crate::sys::clock::Timestamp;
use crate::wire::exit_status::ExitStatus;
use crate::wire::status::Usage;

/// The session that is to be closed before the agent is gone or has another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) name: Name,
    /// Whether the agent's pane was seen to be made in it. If not, it may be there all the same: the answer may have been lost.
    pub(super) is_open: bool,
}

/// A good declaration, and the life under it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Declared {
    pub(super) kind: String,
    pub(super) policy: Policy,
    /// What is to be launched next. Not written down: it holds secrets.
    #[serde(skip)]
    pub(super) launch: Option<Arc<Launch>>,
    #[serde(serialize_with = "in_words", deserialize_with = "unread")]
    pub(super) missing: Option<Missing>,
    /// Of what was launched last.
    pub(super) fingerprint: Option<Fingerprint>,
    /// Whether that was an earlier daemon's doing.
    #[serde(skip)]
    pub(super) is_restored: bool,
    pub(super) at: Timestamp,
    /// When a harness was first started.
    pub(super) first_started: Option<Timestamp>,
    /// When the present or latest one was.
    pub(super) started: Option<Timestamp>,
    pub(super) attempts: u64,
    /// Whether the latest of them came to nothing and is to be made up for.
    pub(super) is_cut_off: bool,
    pub(super) restarts: u64,
    /// Restarts since the agent last ran for long.
    pub(super) in_a_row: usize,
    /// Whether the next launch is one by restart policy.
    pub(super) restarting: bool,
    /// Launches in a row that failed for reasons that are not the agent's.
    pub(super) retries: u32,
    pub(super) exit: Option<Exit>,
    pub(super) error: Option<String>,
    /// Why the limits of the present or latest attempt are not applied.
    pub(super) limits_error: Option<String>,
    /// Why what it prints is not kept.
    pub(super) log_error: Option<String>,
    /// Why its environment is not all that it should be.
    #[serde(default)]
    pub(super) environment_error: Option<String>,
}

/// How an attempt ended.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Exit {
    pub(super) how: ExitStatus,
    pub(super) at: Timestamp,
    pub(super) usage: Usage,
}

/// The latest attempt, as its history will tell it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Latest {
    pub(super) number: u64,
    pub(super) declared: Timestamp,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) started: Option<Timestamp>,
}

impl Declared {
    pub(super) fn new(declaration: Declaration, at: Timestamp) -> Self {
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

    pub(super) fn timeout_at(&self) -> Option<Timestamp> {
        Some(self.first_started? + self.policy.timeout?)
    }
}

pub(super) fn split(launch: Result<Arc<Launch>, Missing>) -> (Option<Arc<Launch>>, Option<Missing>) {
    match launch {
        Ok(launch) => (Some(launch), None),
        Err(missing) => (None, Some(missing)),
    }
}

fn in_words<S: Serializer>(missing: &Option<Missing>, serializer: S) -> Result<S::Ok, S::Error> {
    missing.as_ref().map(Missing::to_string).serialize(serializer)
}

/// What was missing is on record in words alone.
fn unread<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Missing>, D::Error> {
    let missing: Option<String> = Option::deserialize(deserializer)?;
    Ok(missing.map(|_| Missing(vec![WaitingFor::Unread {}])))
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Lingering {
    pub(super) attempt: Attempt,
    pub(super) kill_at: Timestamp,
}
