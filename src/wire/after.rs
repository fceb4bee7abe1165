//! Order: what an agent or a run comes after, and what became of that so far.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::status::{Outcome, State};

/// What must have become of another agent before one that comes after it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It has exited, and has completed.
    #[default]
    Completed,
    /// Its probe has succeeded.
    Ready,
    /// It runs.
    Running,
    /// It has exited, whatever the outcome is.
    Ended,
}

impl Condition {
    /// Every condition.
    pub const ALL: [Self; 4] = [Self::Completed, Self::Ready, Self::Running, Self::Ended];

    /// The word of the jcard.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Ended => "ended",
        }
    }
}

/// An agent, or a run, that another one waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Awaited {
    /// Its name.
    pub name: String,
    /// What must become of it.
    pub condition: Condition,
    /// The state that it is in; absent if it is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// How it has ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// How it has ended, as a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether the condition is not met any more without somebody who does something: it has ended otherwise, may not run, or
    /// waits for one of which this is true.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stuck: bool,
}

impl Awaited {
    /// What has become of it instead, as a few words.
    fn so_far(&self) -> String {
        let because = |words: &str| match &self.reason {
            Some(reason) => format!("{words}: {reason}"),
            None => words.to_owned(),
        };
        match (self.condition, self.state, self.outcome) {
            (_, None, _) => "not known yet".to_owned(),
            (Condition::Running, Some(State::Exited), _) => because("not running"),
            (Condition::Running, ..) => "not running".to_owned(),
            (Condition::Ready, Some(State::Exited), _) => because("not ready"),
            (Condition::Ready, ..) => "not ready".to_owned(),
            (Condition::Completed | Condition::Ended, Some(_), Some(outcome)) => because(in_words(outcome)),
            (Condition::Completed | Condition::Ended, Some(state), None) => state.to_string(),
        }
    }
}

/// An outcome as part of a sentence: `timed out`.
pub fn in_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::TimedOut => "timed out",
        Outcome::GaveUp => "gave up",
        other => other.word(),
    }
}

impl fmt::Display for Awaited {
    /// `lint (running)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.so_far())
    }
}

/// What is waited for, as part of a sentence: `lint (running) and db (not running)`.
#[derive(Clone, Copy, Debug)]
pub struct AllAwaited<'a> {
    /// Those that are listed.
    pub agents: &'a [Awaited],
    /// How many there are beside.
    pub more: u64,
}

impl fmt::Display for AllAwaited<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = (self.more > 0).then(|| format!("{} more", self.more));
        let parts: Vec<String> = self.agents.iter().map(ToString::to_string).chain(more).collect();
        match parts.split_last() {
            Some((last, [])) => f.write_str(last),
            Some((last, others)) => write!(f, "{} and {last}", others.join(", ")),
            None => Ok(()),
        }
    }
}
