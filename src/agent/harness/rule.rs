//! Rules: what a text that a harness printed means, as data of the table of harnesses.
//!
//! A rule is looked at only in the place that it names, never in running text. This module holds no regular expressions: they are
//! matched by the deputy, with the rights of the agent user.

use serde::{Deserialize, Serialize};

/// One rule of a harness.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// Where it is looked for.
    pub on: Place,
    /// A regular expression. Groups named `at`, `url` and `code` hold the time of a reset, an address to log in at, and its code.
    #[serde(rename = "match")]
    pub pattern: String,
    /// What a match says about the agent.
    pub means: Meaning,
}

/// Where a rule is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In the last 8 KiB of what an attempt printed that ended and failed.
    Exit,
    /// In the last 30 lines of the screen, when nothing has been printed for a while.
    Screen,
}

/// What a match says about the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Meaning {
    /// It must be logged in by a person, or its credential is not accepted.
    Login,
    /// Its quota is used up.
    Quota,
    /// It asks a question that a person must answer.
    Blocked,
    /// It waits for its next task.
    Idle,
}

/// Which rule found something, and what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The place of the rule in the list.
    pub index: usize,
    /// What it found.
    pub found: Match,
    /// What the group `at` held, in seconds since 1970, if that is a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// What a rule found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The line that matched, at most 256 characters.
    pub line: String,
    /// What the group `at` held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// What the group `url` held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What the group `code` held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}
