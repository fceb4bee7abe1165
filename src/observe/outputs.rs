//! When agents last printed something.
//!
//! The guard of the log files reports it when it examines a file, which it does within a second of the first change. So knowing it
//! wakes nobody up and writes nothing while nothing is printed, and asking for it reads no file.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::agent::name::Key;

/// When each agent last printed something, as far as that is known. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Outputs(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Counts changes of what is known.
    changes: AtomicU64,
    latest: Mutex<HashMap<Key, Output>>,
}

/// The output of an agent's present or latest attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Output {
    /// The number of its log, which grows with each attempt.
    sequence: u64,
    /// When the log was last written to; `None` if it is empty.
    at: Option<SystemTime>,
    /// When a part of the output was lost. Until something is written again, nobody knows when something was printed.
    lost_at: Option<SystemTime>,
}

impl Output {
    fn shown(&self) -> Option<SystemTime> {
        self.at.filter(|&at| self.lost_at.is_none_or(|lost| at > lost))
    }
}

impl Outputs {
    /// When the agent's present or latest attempt last printed something. `None` if it printed nothing, or if that is unknown.
    pub fn of(&self, agent: &Key) -> Option<SystemTime> {
        self.latest().get(agent)?.shown()
    }

    /// The same of many agents, each with something by which `show` knows it. Shows nothing if nothing is known of any agent.
    pub fn of_each<'a, T>(
        &self,
        agents: impl IntoIterator<Item = (&'a Key, T)>,
        mut show: impl FnMut(T, Option<SystemTime>),
    ) {
        let latest = self.latest();
        if latest.is_empty() {
            return;
        }
        for (agent, known_by) in agents {
            show(known_by, latest.get(agent).and_then(Output::shown));
        }
    }

    /// How often something has changed.
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// An attempt begins, or continues in another log. It has printed nothing to that log yet.
    pub fn begin(&self, agent: &Key, sequence: u64) {
        self.change(agent, |output| *output = Output { sequence, ..Output::default() });
    }

    /// The log with this number was last written to at this time, or is empty.
    pub fn saw(&self, agent: &Key, sequence: u64, at: Option<SystemTime>) {
        self.change(agent, |output| match sequence.cmp(&output.sequence) {
            std::cmp::Ordering::Less => {}
            // A log that another program has emptied was not empty.
            std::cmp::Ordering::Equal => output.at = at.or(output.at),
            std::cmp::Ordering::Greater => *output = Output { sequence, at, lost_at: None },
        });
    }

    /// From this time on output is lost, because it cannot be written.
    pub fn lost(&self, agent: &Key, at: SystemTime) {
        self.change(agent, |output| output.lost_at = output.lost_at.max(Some(at)));
    }

    /// Forgets all other agents.
    pub fn keep_only(&self, held: &BTreeSet<Key>) {
        self.latest().retain(|agent, _| held.contains(agent));
    }

    fn change(&self, agent: &Key, change: impl FnOnce(&mut Output)) {
        let mut latest = self.latest();
        let output = latest.entry(agent.clone()).or_default();
        let before = output.shown();
        change(output);
        if output.shown() != before {
            self.0.changes.fetch_add(1, Ordering::Release);
        }
    }

    fn latest(&self) -> MutexGuard<'_, HashMap<Key, Output>> {
        self.0.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agent::name::key;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn only_the_latest_attempt_counts() {
        let outputs = Outputs::default();
        let agent = key("a");
        assert_eq!(outputs.of(&agent), None);
        outputs.saw(&agent, 1, Some(at(5)));
        assert_eq!(outputs.of(&agent), Some(at(5)));
        outputs.begin(&agent, 2);
        assert_eq!(outputs.of(&agent), None);
        outputs.saw(&agent, 1, Some(at(9)));
        assert_eq!(outputs.of(&agent), None);
        outputs.saw(&agent, 2, Some(at(8)));
        assert_eq!(outputs.of(&agent), Some(at(8)));
    }

    #[test]
    fn emptied_log_still_had_output() {
        let outputs = Outputs::default();
        outputs.saw(&key("a"), 1, Some(at(5)));
        outputs.saw(&key("a"), 1, None);
        assert_eq!(outputs.of(&key("a")), Some(at(5)));
    }

    #[test]
    fn lost_output_leaves_the_time_unknown_until_more_is_written() {
        let outputs = Outputs::default();
        outputs.saw(&key("a"), 1, Some(at(5)));
        outputs.lost(&key("a"), at(7));
        assert_eq!(outputs.of(&key("a")), None);
        outputs.saw(&key("a"), 1, Some(at(5)));
        assert_eq!(outputs.of(&key("a")), None);
        outputs.saw(&key("a"), 1, Some(at(8)));
        assert_eq!(outputs.of(&key("a")), Some(at(8)));
    }

    #[test]
    fn only_news_counts_as_a_change() {
        let outputs = Outputs::default();
        outputs.begin(&key("a"), 1);
        assert_eq!(outputs.changes(), 0);
        outputs.saw(&key("a"), 1, Some(at(5)));
        outputs.saw(&key("a"), 1, Some(at(5)));
        assert_eq!(outputs.changes(), 1);
        outputs.keep_only(&BTreeSet::new());
        assert_eq!(outputs.of(&key("a")), None);
    }
}
