//! Statuses: the types that the daemon serializes and the command line reads back.
//!
//! The first five keys of an agent, their names and their order, are those of the Go daemon that agentd replaces; existing
//! clients decode them. Keys may be added after them, none removed or renamed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::wire::activity::Activity;
use crate::wire::approval::Approval;
use crate::wire::conversation::Conversation;
use crate::wire::exit_status::ExitStatus;
use crate::wire::hold::Hold;
use crate::wire::reason::{Changes, LaunchReason, StopStage, StoppingBecause, WaitingFor};
use crate::wire::result::{StreamResult, Tokens};

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_none_held(holds: &usize) -> bool {
    *holds == 0
}

/// A point in time on the wire: RFC 3339, UTC, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub SystemTime);

/// The last millisecond of the year 9999, after the beginning of 1970.
const LAST: Duration = Duration::from_millis(253_402_300_799_999);

/// A time outside the years 1970 to 9999 is shown as the nearest time within them.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        write!(f, "{}", humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + after.min(LAST)))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time", "description": "RFC 3339, UTC, milliseconds." })
    }
}

/// Where an agent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Declared, but something is missing; `waiting_for` says what.
    Waiting,
    /// The pane is being made, or the launcher has not yet started the harness.
    Starting,
    /// The harness process lives.
    Running,
    /// SIGINT was sent; at `deadline` the whole tree is killed.
    Stopping,
    /// Over for now; starts again at `next_start_at`.
    Backoff,
    /// Over; `outcome` says how.
    Exited,
    /// The entry is wrong and nothing of it ever ran.
    Invalid,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Running, Self::Starting, Self::Backoff, Self::Waiting, Self::Stopping, Self::Exited, Self::Invalid];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Backoff => "backoff",
            Self::Exited => "exited",
            Self::Invalid => "invalid",
        })
    }
}

/// How an agent that has `exited` came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The last attempt ended with status 0.
    Completed,
    /// The last attempt ended in another way, and the policy does not restart the agent.
    Failed,
    /// The declaration's `timeout` passed.
    TimedOut,
    /// `max_restarts` restarts were made.
    GaveUp,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Completed, Self::Failed, Self::TimedOut, Self::GaveUp];

    /// The word of the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed-out",
            Self::GaveUp => "gave-up",
        }
    }

    /// Whether the agent did not complete.
    pub fn is_failure(self) -> bool {
        self != Self::Completed
    }
}

/// How the latest finished attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exit {
    /// The status, the signal, or why neither is known.
    #[serde(flatten)]
    pub how: ExitStatus,
    /// When.
    pub at: Time,
    /// How many processes of the agent the kernel killed for lack of memory; absent if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// Whether the attempt completed in under 2 s and printed nothing: it probably did nothing. Absent if not, or if that is unknown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
}

/// What operators say about an agent, or about all agents, in the overrides directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Override {
    /// `false` if the agent is to be stopped, or nothing is to start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Each higher number restarts the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Whether the stop or restart that the file asks for kills at once, without the `grace_period`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
    /// Who owns the file: a user's name, or a number if it has none. Advisory: members of the operators' group can replace each
    /// other's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When the file was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

impl Override {
    /// Whether it asks for nothing. Such a file tells who started an agent, until it is removed.
    pub fn is_neutral(&self) -> bool {
        self.enabled.is_none() && self.generation.is_none() && !self.now
    }
}

/// What an attempt used, with everything that it started, as far as the kernel counts it. Without a control group: the time of the
/// harness and what it waited for, and the memory of its largest process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// How many processes the kernel had killed for lack of memory.
    #[serde(default)]
    pub oom_kills: u64,
    /// Processor time, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usec: Option<u64>,
    /// The most memory at once, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// Whether the attempt printed anything, as far as its launcher said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub printed: Option<bool>,
}

/// The disk space that an agent's logs take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogUse {
    /// In bytes.
    pub bytes: u64,
    /// How many attempts have a log.
    pub attempts: u64,
}

/// An attempt that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PastAttempt {
    /// Its number under its declaration, from 1.
    pub attempt: u64,
    /// Its number over the agent's whole life, from 1. Builds before did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_total: Option<u64>,
    /// When that declaration took effect.
    pub declared_at: Time,
    /// A fingerprint of what was launched, which is the same as long as the same is launched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// When its harness was started, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// How it ended.
    pub exit: Exit,
    /// Why, as a sentence for people.
    pub reason: String,
    /// The id of its conversation, if that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// Processor time, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usec: Option<u64>,
    /// The most memory at once, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// What it asked whether it may do it, and what came of that: the latest 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// What its harness said of its work, with the end of its final message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<StreamResult>>,
}

/// A secret that an agent was given, by its variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GivenSecret {
    /// The variable.
    pub name: String,
    /// When the agent was first launched with this value; absent if that is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// A rotation that waits: secrets have other values than the agent was launched with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PendingRotation {
    /// Always `true`.
    pub pending: bool,
    /// What it waits for, as a sentence for people.
    pub why: String,
    /// What it waits for, as data.
    pub cause: RotationCause,
    /// The secrets, by the names of their files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Since when there have been new values.
    pub since: Time,
    /// When the rotation is looked at again, if time alone changes anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// What a pending rotation waits for. Causes may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RotationCause {
    /// The agent is not known to be idle.
    Busy,
    /// The agent's next start.
    NextStart,
    /// The agent's next start, for its variables; its files have the new values.
    FilesReplaced,
    /// The agent lacks something else.
    Lacking,
    /// The credential: no agent is started with it now.
    Hold,
    /// Another agent takes up the new values first.
    Turn,
    /// Another agent failed with the new values.
    Failed,
    /// A cause that only a newer daemon knows.
    #[serde(untagged)]
    #[schemars(skip)]
    Unknown(String),
}

/// What an agent uses, with everything that it started, from its control group. What the kernel does not count is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// Processor time so far, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usec: Option<u64>,
    /// Memory now, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Its limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<u64>,
    /// Processes and threads now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u64>,
    /// Their limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks_max: Option<u64>,
}

/// One agent, as `GET /v1/agents` lists it. Empty and absent values are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentStatus {
    /// The agent's name.
    pub name: String,
    /// Whether a process of the agent lives.
    pub running: bool,
    /// The tmux session, while there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// Restarts made by policy under the present declaration.
    pub restarts: u64,
    /// What needs attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where the agent is in its life.
    pub state: State,
    /// When the agent entered the state. Absent right after an update from a version that did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Why the agent is in that state, as a sentence for people; `waiting_for` and `stopping_because` say it as data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The harness as declared; absent if the entry names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harness: Option<String>,
    /// How the agent is confined: `native`, `sandboxed`, or `native (unsandboxed)` for a `sandboxed` entry under `--unsandboxed`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The user that it runs as, or is to run as while nothing of it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What makes its sandbox, if it is `sandboxed`: `bwrap`, `runsc` or `crun`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// What it can be selected by. A label without a value has an empty one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The harness process, while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Launches under the present declaration, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// When the present declaration took effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared_at: Option<Time>,
    /// When the harness of the present or latest attempt was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// How the latest finished attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// When the next attempt begins, in backoff; when agentd looks for it again, while a program is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_start_at: Option<Time>,
    /// When the tree is killed, while stopping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// When the declaration's timeout passes, while it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_at: Option<Time>,
    /// Why declared limits are not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits_error: Option<String>,
    /// Why the limits that every sandboxed agent has are not applied, if the entry declares none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_limits_error: Option<String>,
    /// Whether the agent has a sandbox only because agentd sandboxes every entry without a `type`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sandboxed_by_default: bool,
    /// Why the agent's output is not kept, or not as it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_error: Option<String>,
    /// Why the agent's environment is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_error: Option<String>,
    /// What the agent does while it runs, by the word of its harness or by its screen. Absent if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// Whether the harness calls none of the hooks that agentd has given it: what it does is then known from elsewhere, or not at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hooks_unheard: bool,
    /// The conversation of the present or latest attempt, if its harness has one that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversation>,
    /// What the agent waits for before it starts: in `waiting`, `backoff` and `invalid`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<WaitingFor>,
    /// Why the agent is being stopped, in `stopping`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping_because: Option<StoppingBecause>,
    /// How far the stop has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_stage: Option<StopStage>,
    /// Why the attempt was launched, in `starting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_reason: Option<LaunchReason>,
    /// Launches over the agent's whole life, from 1: the number that commands and log files use. `attempt` counts those of the
    /// present declaration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_total: Option<u64>,
    /// When the present or latest attempt last printed something. Absent if it has printed nothing, or if that is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_output_at: Option<Time>,
    /// Which run of the agent this is: the highest number that the jcard or an override has asked for. Each higher one restarts the
    /// agent. 0 is left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// The override in force, if there is one.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Override>,
    /// What the present declaration changed, by name.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub changed: Changes,
    /// The hold that keeps it from starting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// The reading of the jcard that the agent lives by: `config_generation` of the health when its entry was last good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_generation: Option<u64>,
    /// What the harness of the latest finished attempt said of its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<StreamResult>>,
    /// What the agent has cost under the present declaration, and since somebody started or restarted it, in US dollars, as far as its
    /// harness says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// The tokens that it has taken in the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// The skills that it is given, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<String>,
    /// The secrets that the present or latest attempt was given, and since when the agent has had these values. Never the values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<GivenSecret>,
    /// New values of its secrets that the agent does not have yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<PendingRotation>,
    /// What the agent uses at the moment. Only in the answer about a single agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The disk space that its logs took when that was last measured. Only in the answer about a single agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<LogUse>,
    /// The latest attempts that are over, newest first. Only in the answer about a single agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<PastAttempt>,
    /// What it asks whether it may do it, the oldest question first. Only `GET /v1/agents/NAME` has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
}

impl AgentStatus {
    /// Whether the agent is over without having completed, or has an error that needs attention.
    pub fn is_failed(&self) -> bool {
        self.state == State::Invalid || self.error.is_some() || self.outcome.is_some_and(Outcome::is_failure)
    }

    /// The number of the present or latest attempt, as people see it. Builds before count those of the declaration alone.
    pub fn attempt_shown(&self) -> Option<u64> {
        self.attempt.map(|attempt| self.attempt_total.unwrap_or(attempt))
    }
}

impl PastAttempt {
    /// Its number, as people see it. Builds before counted those of the declaration alone.
    pub fn attempt_shown(&self) -> u64 {
        self.attempt_total.unwrap_or(self.attempt)
    }
}

/// The answer to `GET /v1/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `running` while the daemon is, `starting` before it has read its declarations for the first time; faults are in the error keys.
    pub state: String,
    /// Whole seconds since the daemon started.
    pub uptime_seconds: u64,
    /// The daemon's version.
    #[serde(default)]
    pub version: String,
    /// What is wrong with the jcard, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_error: Option<String>,
    /// What is wrong with the secrets, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets_error: Option<String>,
    /// Why the next daemon would not know all about the agents, if it would not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_error: Option<String>,
    /// Why agents have no control groups, and so no limits, where they could have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups_error: Option<String>,
    /// What is wrong with the overrides, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_error: Option<String>,
    /// Where overrides are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_dir: Option<String>,
    /// The override that lets nothing start, if there is one: `agentd pause --all`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Override>,
    /// How many credentials do not work, so that the agents that share them are held: `GET /v1/holds` lists them.
    #[serde(default, skip_serializing_if = "is_none_held")]
    pub holds: usize,
    /// Which reading of the jcard is in force. It rises with each edit that was read, also over restarts of the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_generation: Option<u64>,
    /// When the jcard that was read last was written: the modification time of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_modified_at: Option<Time>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The answer to a request that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// Why, as a sentence for people.
    pub error: String,
    /// Why, as data. Empty from a build before.
    #[serde(default)]
    pub code: FaultCode,
}

/// Why a request fails, as data. Codes may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FaultCode {
    /// The API has no such path.
    NotFound,
    /// There is no agent of that name.
    NoSuchAgent,
    /// Nothing is kept of what the agent printed, or not of that attempt.
    NothingKept,
    /// The method is neither GET nor HEAD.
    MethodNotAllowed,
    /// The query is not valid.
    BadQuery,
    /// Too many clients are being served; try again later.
    Busy,
    /// The answer is not available at the moment.
    Unavailable,
    /// A code that only a newer daemon knows.
    #[serde(untagged)]
    #[schemars(skip)]
    Unknown(String),
}

impl Default for FaultCode {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

/// What an agent's screen shows from a moment on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScreenShown {
    /// When agentd looked.
    pub at: Time,
    /// The rows, with known secrets redacted.
    pub text: String,
}

/// What is wrong with the daemon as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// See [`Health::config_error`].
    pub config: Option<String>,
    /// See [`Health::secrets_error`].
    pub secrets: Option<String>,
    /// See [`Health::state_error`].
    pub state: Option<String>,
    /// See [`Health::groups_error`].
    pub groups: Option<String>,
    /// See [`Health::override_error`].
    pub overrides: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_of_an_earlier_or_a_newer_daemon_is_read() {
        let mut agent = serde_json::json!({ "name": "a", "running": false, "restarts": 0, "state": "waiting" });
        let read: AgentStatus = serde_json::from_value(agent.clone()).unwrap();
        assert_eq!((read.waiting_for, read.stopping_because, read.stop_stage), (vec![], None, None));
        agent["waiting_for"] = serde_json::json!([{ "kind": "moonrise", "in": 7 }, { "kind": "unread" }]);
        agent["stopping_because"] = serde_json::json!({ "kind": "moonset" });
        agent["stop_stage"] = "begged".into();
        let read: AgentStatus = serde_json::from_value(agent).unwrap();
        assert_eq!(read.waiting_for, [WaitingFor::Unknown { kind: "moonrise".into() }, WaitingFor::Unread {}]);
        assert_eq!(read.stopping_because, Some(StoppingBecause::Unknown { kind: "moonset".into() }));
        assert_eq!(read.stop_stage, Some(StopStage::Unknown("begged".into())));
    }

    #[test]
    fn agents_with_a_bad_outcome_or_an_error_are_failed() {
        let is_failed = |more: serde_json::Value| {
            let mut agent = serde_json::json!({ "name": "a", "running": false, "restarts": 0, "state": "exited" });
            agent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value::<AgentStatus>(agent).unwrap().is_failed()
        };
        for outcome in ["failed", "gave-up", "timed-out"] {
            assert!(is_failed(serde_json::json!({ "outcome": outcome })), "{outcome}");
        }
        assert!(is_failed(serde_json::json!({ "state": "invalid" })));
        assert!(is_failed(serde_json::json!({ "state": "running", "error": "x" })));
        assert!(!is_failed(serde_json::json!({ "outcome": "completed" })));
        assert!(!is_failed(
            serde_json::json!({ "state": "backoff", "exit": { "code": 1, "at": "2026-01-01T00:00:00Z" } })
        ));
    }

    #[test]
    fn a_time_outside_of_the_calendar_is_shown_as_its_end() {
        let epoch = SystemTime::UNIX_EPOCH;
        for (time, expected) in [
            (epoch - Duration::from_secs(1), "1970-01-01T00:00:00.000Z"),
            (epoch, "1970-01-01T00:00:00.000Z"),
            (epoch + LAST, "9999-12-31T23:59:59.999Z"),
            (epoch + LAST + Duration::from_millis(1), "9999-12-31T23:59:59.999Z"),
            (epoch + Duration::from_secs(1 << 40), "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Time(time).to_string(), expected);
            let read: Time = serde_json::from_str(&serde_json::to_string(&Time(time)).unwrap()).unwrap();
            assert_eq!(read.to_string(), expected);
        }
    }
}
