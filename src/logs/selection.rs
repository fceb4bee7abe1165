//! Which attempt of an agent is read, and from where on.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use super::attempt::{AttemptId, Named, NoAttempt};
use super::reader::{Busy, Log};
use super::store::Store;
use crate::agent::name::Name;

/// Which of an agent's attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The latest one, and later ones if the client follows.
    Latest,
    /// The one before the latest.
    Previous,
    /// The named one.
    Named(Named),
    /// All that are kept, the earliest first, and later ones if the client follows.
    All,
}

impl fmt::Display for Which {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => formatter.write_str("the latest attempt"),
            Self::Previous => formatter.write_str("the attempt before the latest"),
            Self::Named(named) => write!(formatter, "attempt {named}"),
            Self::All => formatter.write_str("any attempt"),
        }
    }
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "latest" => Ok(Self::Latest),
            "previous" => Ok(Self::Previous),
            "all" => Ok(Self::All),
            name => name
                .parse()
                .map(Self::Named)
                .map_err(|error: NoAttempt| format!("{error}; or latest, previous, or all")),
        }
    }
}

/// Why there is nothing to serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was ever printed, or all of it is gone.
    #[error("nothing is kept of what it printed")]
    Nothing,
    /// Other attempts are kept.
    #[error("nothing is kept of {0}; {1}")]
    NotAmong(Which, String),
    /// Too many logs are open.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The log cannot be read.
    #[error("failed to read what was printed: {0}")]
    Read(#[from] io::Error),
}

/// One attempt, open.
#[derive(Debug)]
pub struct Opened {
    /// Its log.
    pub log: Arc<Log>,
    /// Where the wanted bytes begin.
    pub at: u64,
    /// Where the bytes begin that were printed since the wanted time.
    pub since: Option<u64>,
    /// Only the last lines, so many of them.
    pub lines: Option<usize>,
    /// The attempts before it, if all are wanted.
    pub earlier: Vec<AttemptId>,
}

/// What is wanted of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// No more than so many lines at the end of what is there.
    pub lines: Option<usize>,
    /// Only what was printed since then.
    pub since: Option<SystemTime>,
    /// As text, otherwise as raw bytes.
    pub as_text: bool,
}

impl Wanted {
    /// The whole log.
    pub fn all(as_text: bool) -> Self {
        Self { lines: None, since: None, as_text }
    }
}

/// Opens the attempt, at the wanted place.
pub async fn open(store: &Store, agent: &Name, which: Which, wanted: Wanted) -> Result<Opened, Error> {
    let (readers, store, agent) = (store.readers(), store.clone(), agent.clone());
    let work = move |is_wanted: &dyn Fn() -> bool| {
        let attempts = store.attempts(&agent).map_err(io::Error::other)?;
        let kept = choose(&attempts, which)?;
        let is_earlier = |attempt: &AttemptId| which == Which::All && *attempt < kept;
        let earlier = attempts.iter().copied().filter(is_earlier).collect();
        let log = store.open(&agent, kept).map_err(io::Error::other)?.ok_or(Error::Nothing)?;
        let Wanted { lines, since, as_text } = wanted;
        let since = since.map(|time| log.since(time, is_wanted)).transpose()?;
        if as_text {
            // The last lines are known only once all lines are, and a screen depends on everything that was printed on it.
            return Ok(Opened { log: Arc::new(log), at: 0, since, lines, earlier });
        }
        let at = since.map_or_else(|| log.begin(), Ok)?;
        let at = lines.map_or(Ok(at), |lines| log.last_lines(lines, is_wanted).map(|last| last.max(at)))?;
        Ok(Opened { log: Arc::new(log.without_index()), at, since, lines, earlier })
    };
    readers.work(work).await??
}

fn choose(attempts: &[AttemptId], which: Which) -> Result<AttemptId, Error> {
    let mut latest_first = attempts.iter().rev();
    let chosen = match which {
        Which::Latest | Which::All => latest_first.next(),
        Which::Previous => latest_first.nth(1),
        Which::Named(Named::Number(number)) => latest_first.find(|kept| kept.attempt == number),
        Which::Named(Named::Log(named)) => latest_first.find(|kept| **kept == named),
    };
    match (chosen, attempts) {
        (Some(kept), _) => Ok(*kept),
        (None, []) => Err(Error::Nothing),
        (None, _) => Err(Error::NotAmong(which, those_kept(attempts))),
    }
}

/// Lists the attempts that are kept, each under an unambiguous name: in files of earlier builds, numbers start over with each
/// declaration.
fn those_kept(attempts: &[AttemptId]) -> String {
    let list = |names: Vec<String>| names.join(", ");
    let numbers: BTreeSet<u64> = attempts.iter().map(|kept| kept.attempt).collect();
    if numbers.len() == attempts.len() {
        let plural = if attempts.len() == 1 { "" } else { "s" };
        format!("kept: attempt{plural} {}", list(attempts.iter().map(|kept| kept.attempt.to_string()).collect()))
    } else {
        let names = list(attempts.iter().map(AttemptId::to_string).collect());
        format!(
            "kept: {names} (number of the log, then of the attempt); a bare number means the latest attempt with that number"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_chosen_by_place_or_number_newest_first() {
        let kept = |sequence, attempt| AttemptId { sequence, attempt };
        let attempts = [kept(7, 1), kept(8, 2), kept(9, 1)];
        let named = |name: &str| Which::Named(name.parse().unwrap());
        for (which, expected) in [
            (Which::Latest, 9),
            (Which::Previous, 8),
            (named("1"), 9),
            (named("2"), 8),
            (named("7-1"), 7),
            (named("00000009-1"), 9),
        ] {
            assert_eq!(choose(&attempts, which).unwrap().sequence, expected);
        }
        for (name, attempts, expected) in [
            (
                "3",
                &attempts[..],
                "nothing is kept of attempt 3; kept: 7-1, 8-2, 9-1 (number of the log, then of the attempt); a bare number means \
                 the latest attempt with that number",
            ),
            ("7-2", &attempts[..2], "nothing is kept of attempt 7-2; kept: attempts 1, 2"),
        ] {
            assert_eq!(choose(attempts, named(name)).unwrap_err().to_string(), expected);
        }
        assert_eq!(choose(&attempts, Which::All).unwrap().sequence, 9);
        assert!(matches!(choose(&[], Which::Latest), Err(Error::Nothing)));
        assert!(matches!(choose(&attempts[..1], Which::Previous), Err(Error::NotAmong(..))));
    }
}
