//! Plans: tasks that are given together, in an order, as `GET /v1/plans` shows them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::reason::WaitingFor;
use crate::wire::status::{Outcome, State, Time};

/// A plan, and what has become of its tasks. Absent values are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanStatus {
    /// The id, as the writer of the plan chose it.
    pub id: String,
    /// What the plan calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `waiting` until a task of it is taken, `running` while one is not over, then `exited`.
    pub state: State,
    /// How it ended: `completed` if all its tasks have, else `failed` or `cancelled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Who wrote the plan: a user's name, or a number if it has none. Advisory: members of the operators' group can replace each
    /// other's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Whether the tasks that wait are cancelled once one has failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_on_failure: bool,
    /// When it was taken.
    pub queued_at: Time,
    /// When the last of its tasks was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// Its tasks, in the order of the plan.
    pub tasks: Vec<PlanTaskStatus>,
}

/// A task of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanTaskStatus {
    /// Its id, which is that of its run, too.
    pub id: String,
    /// The template.
    pub agent: String,
    /// The run, `AGENT/ID`, once there is one. A task that was skipped or cancelled before has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The tasks that come before it, as the plan has them: `lint`, or `lint:ended`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// The layer that it is in, from 1: one more than the last of those before it. Tasks do not wait for a layer, but for their own.
    pub layer: u64,
    /// Where it is in its life.
    pub state: State,
    /// How it ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it is in that state, as a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The tasks that it waits for, as long as it is no run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting_for: Vec<WaitingFor>,
}
