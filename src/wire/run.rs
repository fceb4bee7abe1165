//! Runs: what becomes of a task, as `GET /v1/runs` shows it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::activity::Activity;
use crate::wire::conversation::Conversation;
use crate::wire::hold::Hold;
use crate::wire::reason::{Changes, WaitingFor};
use crate::wire::result::{StreamResult, Tokens};
use crate::wire::status::{AgentStatus, Exit, Outcome, State, Time};

/// One run: a bounded life of a template agent with a task. Empty and absent values are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunStatus {
    /// `AGENT/ID`.
    pub name: String,
    /// The template.
    pub agent: String,
    /// The id, as the writer of the task chose it.
    pub id: String,
    /// Where the run is in its life. One that waits for a place is `waiting`.
    pub state: State,
    /// Why it is in that state, as a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The plan that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Who wrote the task: a user's name, or a number if it has none; `schedule` for a time of a schedule. Advisory: members of the
    /// operators' group can replace each other's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What it can be selected by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When its task was taken.
    pub queued_at: Time,
    /// When its harness was first started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// Its place in line while it waits for a place, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// What it waits for, in `waiting` and `backoff`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<WaitingFor>,
    /// The harness, as the template declares it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harness: Option<String>,
    /// The user that it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The tmux session, while there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// The harness process, while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Launches so far.
    #[serde(default)]
    pub attempts: u64,
    /// Restarts made by policy.
    #[serde(default)]
    pub restarts: u64,
    /// How the latest finished attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// How many bytes of its standard output there were, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_bytes: Option<u64>,
    /// The same of its standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_bytes: Option<u64>,
    /// Whether the beginning of one of them is not kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// What it does while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// What keeps it from starting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// The conversation of the latest attempt, if its harness has one that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversation>,
    /// What its harness said of its work. The list of runs leaves out its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<StreamResult>>,
    /// What all its attempts cost, in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// The tokens of all its attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
}

impl RunStatus {
    /// Whether it is over, and all that is known of its end. It is `exited` a moment before.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Exited | State::Invalid) && self.ended_at.is_some()
    }

    /// The run without the text of its result, as the list of runs has it.
    #[must_use]
    pub fn without_text(&self) -> Self {
        let mut run = self.clone();
        if let Some(result) = &mut run.result {
            result.text = String::new();
        }
        run
    }

    /// The run as the status of an agent, for what treats both alike.
    pub fn as_agent(&self) -> AgentStatus {
        let run = self.clone();
        AgentStatus {
            name: run.name,
            running: run.pid.is_some(),
            session: run.session,
            restarts: run.restarts,
            error: None,
            state: run.state,
            since: match run.state {
                State::Exited | State::Invalid => run.ended_at,
                State::Running => run.started_at,
                State::Waiting => Some(run.queued_at),
                State::Starting | State::Stopping | State::Backoff => None,
            },
            reason: run.reason,
            outcome: run.outcome,
            harness: run.harness,
            kind: None,
            user: run.user,
            sandbox: None,
            labels: run.labels,
            runs: None,
            next_run_at: None,
            pid: run.pid,
            attempt: Some(run.attempts).filter(|&attempts| attempts > 0),
            declared_at: Some(run.queued_at),
            started_at: run.started_at,
            exit: run.exit,
            next_start_at: None,
            deadline: None,
            timeout_at: None,
            limits_error: None,
            default_limits_error: None,
            sandboxed_by_default: false,
            log_error: None,
            environment_error: None,
            activity: run.activity,
            hooks_unheard: false,
            conversation: run.conversation,
            waiting_for: run.waiting_for,
            stopping_because: None,
            stop_stage: None,
            launch_reason: None,
            attempt_total: None,
            last_output_at: None,
            generation: 0,
            overridden: None,
            changed: Changes::default(),
            hold: run.hold,
            config_generation: None,
            result: run.result,
            cost_usd: run.cost_usd,
            tokens: run.tokens,
            skills: Vec::new(),
            secrets: Vec::new(),
            rotation: None,
            resources: None,
            logs: None,
            history: Vec::new(),
            approvals: Vec::new(),
        }
    }
}

/// The runs of a template, in brief.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateRuns {
    /// The ids of those that have a place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running: Vec<String>,
    /// How many wait.
    pub waiting: u64,
    /// The latest one that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastRun>,
}

/// A run that has ended, in brief.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastRun {
    /// Its id.
    pub id: String,
    /// How it ended.
    pub outcome: Outcome,
    /// When.
    pub ended_at: Time,
}

/// What happens to a run, beside its changes of state. Changes may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunChange {
    /// Its task is on record, and it waits for its turn.
    Queued,
    /// It has a place, and starts.
    Taken,
    /// Its task was not taken.
    Refused,
    /// A time of a schedule made no run: the one before still runs or waits.
    Skipped,
    /// A time of a schedule passed while agentd could not act on it.
    Missed,
    /// It has ended, and its result is kept.
    Ended,
}
