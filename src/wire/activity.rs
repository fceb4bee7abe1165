//! What an agent does while it runs, by its harness's own word or by its screen.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::status::Time;

/// What an agent does, and how agentd knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Activity {
    /// What it does.
    pub status: Doing,
    /// Since when.
    pub since: Time,
    /// More about it: what it asks for, or where to log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How agentd knows.
    pub source: Source,
}

/// What an agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Doing {
    /// It works.
    Working,
    /// It waits for its next task.
    Idle,
    /// It asks a question that a person must answer.
    Blocked,
    /// A person must log it in.
    Login,
}

impl Doing {
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::Working, Self::Idle, Self::Blocked, Self::Login];

    /// The word of the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Idle => "idle",
            Self::Blocked => "blocked",
            Self::Login => "login",
        }
    }
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How agentd knows what an agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// By the harness's machine-readable output.
    Stream,
    /// By a hook of the harness.
    Hook,
    /// By what its screen shows.
    Screen,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => "stream",
            Self::Hook => "hook",
            Self::Screen => "screen",
        })
    }
}
