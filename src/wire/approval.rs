//! Approvals: what an agent asks whether it may do, and what came of that.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::status::Time;

/// The answer to `GET /v1/approvals`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Approvals {
    /// What waits for an answer, the oldest first.
    pub pending: Vec<Approval>,
    /// What was decided in the present or latest attempt of each agent, the latest first. At most 32 for each agent.
    pub decided: Vec<Approval>,
}

/// Something that an agent asks whether it may do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Approval {
    /// What names it in an answer.
    pub id: String,
    /// The agent.
    pub agent: String,
    /// Which attempt of the agent asks, of all that were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// The tool that it wants to use.
    pub tool: String,
    /// What it wants to do with that: a command, a file, an address. At most 4 KiB; secrets are redacted.
    pub command: String,
    /// Whether the command is longer than what is shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// When it asked.
    pub asked_at: Time,
    /// When it is denied if nobody answers.
    pub deadline: Time,
    /// What came of it. Absent while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// What the agent learned.
    pub answer: Answer,
    /// What decided it.
    pub by: Decider,
    /// Who answered: the owner of the file, which is advisory within the group of operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// What the agent learned of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When.
    pub at: Time,
}

/// What is passed on to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It may.
    Allow,
    /// It may not.
    Deny,
    /// Nothing: it does not wait for an answer any more.
    Withdrawn,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allowed",
            Self::Deny => "denied",
            Self::Withdrawn => "withdrawn",
        })
    }
}

/// What decides a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Decider {
    /// An operator.
    Operator,
    /// The `approval_timeout` passed.
    Timeout,
    /// The agent asked too many questions at once.
    Excess,
    /// The agent ended, or its harness stopped waiting.
    Agent,
}
