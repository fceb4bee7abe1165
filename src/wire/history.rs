//! What has ended: runs, and the attempts of agents, as `GET /v1/history` shows them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::exit_status::ExitStatus;
use crate::wire::result::Tokens;
use crate::wire::run::RunStatus;
use crate::wire::status::{Exit, Outcome, PastAttempt, Time};

/// A run that is over. Empty and absent values are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PastRun {
    /// The template.
    pub agent: String,
    /// The id, as the writer of the task chose it.
    pub id: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, as a sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When its task was taken.
    pub queued_at: Time,
    /// When its harness was first started, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    pub ended_at: Time,
    /// Launches.
    #[serde(default)]
    pub attempts: u64,
    /// Restarts made by policy.
    #[serde(default)]
    pub restarts: u64,
    /// How its last attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// What all its attempts cost, in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// The tokens of all its attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// How many turns its last attempt took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<u64>,
    /// The plan that it was part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// What it can be selected by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl PastRun {
    /// What is kept of a run; `None` as long as it has not ended.
    pub fn of(run: &RunStatus) -> Option<Self> {
        Some(Self {
            agent: run.agent.clone(),
            id: run.id.clone(),
            outcome: run.outcome?,
            reason: run.reason.clone(),
            queued_at: run.queued_at,
            started_at: run.started_at,
            ended_at: run.ended_at?,
            attempts: run.attempts,
            restarts: run.restarts,
            exit: run.exit.clone(),
            cost_usd: run.cost_usd,
            tokens: run.tokens,
            turns: run.result.as_ref().and_then(|result| result.turns),
            plan: run.plan.clone(),
            labels: run.labels.clone(),
        })
    }

    /// `AGENT/ID`
    pub fn name(&self) -> String {
        format!("{}/{}", self.agent, self.id)
    }
}

/// An attempt of an agent that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndedAttempt {
    /// The agent.
    pub agent: String,
    /// Its number under its declaration, from 1.
    pub attempt: u64,
    /// Its number over the agent's whole life, from 1. Builds before did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt_total: Option<u64>,
    /// `completed` if it ended with status 0 and its harness reports no error, else `failed`; absent if its status is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it ended, as a sentence for people.
    pub reason: String,
    /// When its harness was started, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    pub ended_at: Time,
    /// How it ended.
    pub exit: Exit,
    /// What it cost, in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// The tokens that it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// How many turns it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<u64>,
}

impl EndedAttempt {
    /// An attempt in the history of this agent.
    pub fn of(agent: &str, past: &PastAttempt) -> Self {
        let result = past.result.as_deref();
        let outcome = match past.exit.how {
            ExitStatus::Code(0) if !result.is_some_and(|result| result.is_error) => Some(Outcome::Completed),
            ExitStatus::Code(_) | ExitStatus::Signal(_) => Some(Outcome::Failed),
            ExitStatus::Cause(_) => None,
        };
        Self {
            agent: agent.to_owned(),
            attempt: past.attempt,
            attempt_total: past.attempt_total,
            outcome,
            reason: past.reason.clone(),
            started_at: past.started_at,
            ended_at: past.exit.at,
            exit: past.exit.clone(),
            cost_usd: result.and_then(|result| result.cost_usd),
            tokens: result.and_then(|result| result.tokens),
            turns: result.and_then(|result| result.turns),
        }
    }
}

/// Something that has ended. Kinds may be added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Ended {
    /// A run of a template.
    Run(Box<PastRun>),
    /// An attempt of an agent that is no template.
    Attempt(Box<EndedAttempt>),
}

impl Ended {
    /// The agent or the template.
    pub fn agent(&self) -> &str {
        match self {
            Self::Run(run) => &run.agent,
            Self::Attempt(attempt) => &attempt.agent,
        }
    }

    /// How it ended, if that is known.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Run(run) => Some(run.outcome),
            Self::Attempt(attempt) => attempt.outcome,
        }
    }

    /// When it was started, if it was.
    pub fn started_at(&self) -> Option<Time> {
        match self {
            Self::Run(run) => run.started_at,
            Self::Attempt(attempt) => attempt.started_at,
        }
    }

    /// When it ended.
    pub fn ended_at(&self) -> Time {
        match self {
            Self::Run(run) => run.ended_at,
            Self::Attempt(attempt) => attempt.ended_at,
        }
    }

    /// What it cost, in US dollars, if that is known.
    pub fn cost_usd(&self) -> Option<f64> {
        match self {
            Self::Run(run) => run.cost_usd,
            Self::Attempt(attempt) => attempt.cost_usd,
        }
    }

    /// Its place in the history. Sorting by it puts the latest last.
    pub fn place(&self) -> Place {
        let name = match self {
            Self::Run(run) => run.name(),
            Self::Attempt(attempt) => {
                format!("{}:{}", attempt.agent, attempt.attempt_total.unwrap_or(attempt.attempt))
            }
        };
        Place { at: milliseconds(self.ended_at()), name }
    }
}

/// Milliseconds since 1970, which is as exact as a [`Time`] is written.
fn milliseconds(Time(at): Time) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A place in the history: when something ended, and a name that tells it from what ended in the same millisecond.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    at: u64,
    name: String,
}

impl Place {
    /// The time, to the millisecond.
    pub fn at(&self) -> Time {
        // A time beyond the calendar is not of this daemon.
        Time(SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.at)).unwrap_or(SystemTime::UNIX_EPOCH))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{},{}", self.at, self.name)
    }
}

/// The text is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write the `next` of an answer as it is")]
pub struct NoPlace;

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (at, name) = text.split_once(',').ok_or(NoPlace)?;
        Ok(Self { at: at.parse().map_err(|_| NoPlace)?, name: name.to_owned() })
    }
}

/// Which part of the history is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryWanted {
    /// Only of this agent or template; the case does not matter.
    pub agent: Option<String>,
    /// Only what ended then or later.
    pub since: Option<SystemTime>,
    /// Only what ended in one of these ways; empty is any.
    pub outcomes: Vec<Outcome>,
    /// Only what comes before this place, which is where the answer before ended.
    pub before: Option<Place>,
}

impl HistoryWanted {
    /// Whether this is meant.
    pub fn fits(&self, ended: &Ended) -> bool {
        self.agent.as_ref().is_none_or(|agent| agent.eq_ignore_ascii_case(ended.agent()))
            && self.since.is_none_or(|since| ended.ended_at().0 >= since)
            && (self.outcomes.is_empty() || ended.outcome().is_some_and(|outcome| self.outcomes.contains(&outcome)))
            && self.before.as_ref().is_none_or(|before| ended.place() < *before)
    }
}

/// A part of the history, the latest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// What has ended.
    pub ended: Vec<Ended>,
    /// The `cursor` of the request for what ended before; absent if nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl History {
    /// The first `limit` of these, which are in any order.
    pub fn latest(mut all: Vec<Ended>, limit: usize) -> Self {
        all.sort_by_cached_key(|ended| std::cmp::Reverse(ended.place()));
        all.dedup_by(|one, other| one.place() == other.place());
        let next = (all.len() > limit).then(|| limit.checked_sub(1).map(|last| all[last].place().to_string()));
        all.truncate(limit);
        Self { ended: all, next: next.flatten() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str, at: u64) -> Ended {
        let time = |seconds| Time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        Ended::Run(Box::new(PastRun {
            agent: "Fixer".to_owned(),
            id: id.to_owned(),
            outcome: Outcome::Failed,
            reason: None,
            queued_at: time(0),
            started_at: None,
            ended_at: time(at),
            attempts: 1,
            restarts: 0,
            exit: None,
            cost_usd: None,
            tokens: None,
            turns: None,
            plan: None,
            labels: BTreeMap::new(),
        }))
    }

    #[test]
    fn pages_have_all_of_it_once_and_the_latest_first() {
        let all = || (0..10).map(|at| run(&format!("t{at}"), at / 3)).collect::<Vec<_>>();
        let mut wanted = HistoryWanted::default();
        let mut seen = Vec::new();
        loop {
            let fitting = all().into_iter().filter(|ended| wanted.fits(ended)).collect();
            let page = History::latest(fitting, 4);
            seen.extend(page.ended.iter().map(|ended| ended.place().to_string()));
            let Some(next) = page.next else { break };
            wanted.before = Some(next.parse().unwrap());
        }
        let mut expected: Vec<Place> = all().iter().map(Ended::place).collect();
        expected.sort_by(|one, other| other.cmp(one));
        assert_eq!(seen, expected.iter().map(Place::to_string).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_there_twice_is_shown_once() {
        let page = History::latest(vec![run("a", 1), run("b", 1), run("a", 1)], 10);
        assert_eq!((page.ended.len(), page.next), (2, None));
    }

    #[test]
    fn history_is_selected_by_what_it_is() {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let ended = run("a", 10);
        let any = HistoryWanted::default();
        for wanted in [
            any.clone(),
            HistoryWanted { agent: Some("fixer".to_owned()), ..any.clone() },
            HistoryWanted { since: Some(time(10)), ..any.clone() },
            HistoryWanted { outcomes: vec![Outcome::GaveUp, Outcome::Failed], ..any.clone() },
        ] {
            assert!(wanted.fits(&ended), "{wanted:?}");
        }
        for wanted in [
            HistoryWanted { agent: Some("fix".to_owned()), ..any.clone() },
            HistoryWanted { since: Some(time(11)), ..any.clone() },
            HistoryWanted { outcomes: vec![Outcome::Completed], ..any.clone() },
            HistoryWanted { before: Some(ended.place()), ..any },
        ] {
            assert!(!wanted.fits(&ended), "{wanted:?}");
        }
    }

    #[test]
    fn a_cursor_is_what_an_answer_said() {
        for text in ["", "1", "x,fixer/a", "-1,fixer/a"] {
            assert_eq!(text.parse::<Place>(), Err(NoPlace), "{text}");
        }
        assert_eq!("1000,fixer/a".parse::<Place>().unwrap().to_string(), "1000,fixer/a");
    }
}
