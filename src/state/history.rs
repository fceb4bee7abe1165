//! The history of each agent's latest attempts, kept across restarts of the daemon and of the machine.
//!
//! ```text
//! STATE_DIR/history/NAME.json    the last 50, whether the agent is declared or not
//! ```
//!
//! It is written in the background, as the [record](crate::state::record) is. It is for people: no decision depends on it, so losing
//! it does no harm.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::name::Key;
use crate::agent::user::AgentUser;
use crate::state::record::Recorder;
use crate::wire::status::PastAttempt;

/// The folder in the state directory.
pub const FOLDER: &str = "history";

/// How many attempts of each agent are kept.
const MOST: usize = 50;

/// How many agents' histories are read: those that ran last. More agents than this cannot be declared.
const MOST_AGENTS: usize = 10_000;

/// The latest finished attempts of one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The key of the agent.
    agent: Key,
    /// The attempts, the latest last.
    attempts: VecDeque<PastAttempt>,
    /// Whom the latest of them ran as, unless that is the default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<AgentUser>,
}

impl History {
    /// The key of the agent.
    pub fn agent(&self) -> &Key {
        &self.agent
    }

    /// The attempts, the latest first.
    pub fn latest_first(&self) -> Vec<PastAttempt> {
        self.attempts.iter().rev().cloned().collect()
    }

    fn add(&mut self, past: PastAttempt) {
        self.attempts.push_back(past);
        self.bound();
    }

    /// Drops the earliest attempts beyond the limit.
    fn bound(&mut self) {
        let surplus = self.attempts.len().saturating_sub(MOST);
        self.attempts.drain(..surplus);
    }
}

/// The histories of all agents, and the recorder that keeps them.
#[derive(Debug)]
pub struct Histories {
    by_agent: BTreeMap<Key, Arc<History>>,
    users: Arc<HashMap<Key, AgentUser>>,
    recorder: Recorder<Key>,
}

impl Histories {
    /// The histories that were read, to be kept by this recorder. The oldest beyond the limit are dropped.
    pub fn new(mut read: BTreeMap<Key, History>, recorder: Recorder<Key>) -> Self {
        read.values_mut().for_each(History::bound);
        let mut by_end: Vec<_> = read.into_iter().collect();
        by_end.sort_by_key(|(_, history)| std::cmp::Reverse(history.attempts.back().map(|past| past.exit.at)));
        for (key, _) in by_end.drain(by_end.len().min(MOST_AGENTS)..) {
            recorder.put::<History>(&key, None);
        }
        let user = |(key, history): &(Key, History)| Some((key.clone(), history.user.clone()?));
        let users = Arc::new(by_end.iter().filter_map(user).collect());
        let by_agent = by_end.into_iter().map(|(key, history)| (key, Arc::new(history))).collect();
        Self { by_agent, users, recorder }
    }

    /// Adds a finished attempt of this agent, which ran as this user; `None` is the default user.
    pub fn add(&mut self, key: &Key, user: Option<&AgentUser>, past: PastAttempt) {
        if self.users.get(key) != user {
            let users = Arc::make_mut(&mut self.users);
            match user {
                Some(user) => drop(users.insert(key.clone(), user.clone())),
                None => drop(users.remove(key)),
            }
        }
        let new = || Arc::new(History { agent: key.clone(), attempts: VecDeque::new(), user: None });
        let changed = Arc::make_mut(self.by_agent.entry(key.clone()).or_insert_with(new));
        changed.add(past);
        changed.user = user.cloned();
        self.recorder.put(key, Some(changed));
    }

    /// How many attempts of this agent are over, as far as they are known. Those that earlier builds wrote down have no number that
    /// lasts: there were at least as many as are kept.
    pub fn attempts(&self, key: &Key) -> u64 {
        let Some(history) = self.by_agent.get(key) else { return 0 };
        let latest = history.attempts.iter().filter_map(|past| past.attempt_total).max();
        latest.unwrap_or(history.attempts.len() as u64)
    }

    /// Whom the latest attempt of each agent ran as that did not run as the default user, whether the agent is declared or not.
    pub fn users(&self) -> Arc<HashMap<Key, AgentUser>> {
        Arc::clone(&self.users)
    }

    /// The histories of these agents.
    pub fn of<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> HashMap<Key, Arc<History>> {
        keys.filter_map(|key| Some((key.clone(), Arc::clone(self.by_agent.get(key)?)))).collect()
    }

    /// Returns once all are written, or after `patience`.
    pub async fn finish(self, patience: Duration) {
        self.recorder.finish(patience).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tempfile::TempDir;

    use super::*;
    use crate::agent::name::key;
    use crate::state::record::Record;
    use crate::wire::exit_status::ExitStatus;
    use crate::wire::status::{Exit, Time};

    fn past(attempt: u64) -> PastAttempt {
        let at = |seconds| Time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        PastAttempt {
            conversation: None,
            attempt,
            attempt_total: None,
            declared_at: at(0),
            fingerprint: None,
            started_at: Some(at(attempt)),
            exit: Exit { how: ExitStatus::Code(3), at: at(attempt), oom_kills: None, silent: false },
            reason: "it ended by itself".to_owned(),
            cpu_usec: None,
            memory_peak: None,
            approvals: Vec::new(),
            result: None,
        }
    }

    fn numbers(history: &History) -> Vec<u64> {
        history.latest_first().iter().map(|past| past.attempt).collect()
    }

    fn read(record: &Record) -> BTreeMap<Key, History> {
        record.read(|history: &History| history.agent().clone()).agents
    }

    #[test]
    fn the_latest_fifty_are_kept_and_listed_latest_first() {
        let mut history = History { agent: key("a"), attempts: VecDeque::new(), user: None };
        (1..=60).for_each(|attempt| history.add(past(attempt)));
        assert_eq!(numbers(&history), (11..=60).rev().collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn at_most_fifty_are_read_from_a_file() {
        let directory = TempDir::new().unwrap();
        let record = Record::lasting(directory.path(), FOLDER);
        let long = History { agent: key("a"), attempts: (1..=60).map(past).collect(), user: None };
        let histories = Histories::new([(key("a"), long)].into(), Recorder::new(record, drop));
        let all = histories.of([key("a")].iter());
        assert_eq!(numbers(&all[&key("a")]), (11..=60).rev().collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn histories_last_across_daemons_and_boots() {
        let directory = TempDir::new().unwrap();
        let record = Record::lasting(directory.path(), FOLDER);
        let mut histories = Histories::new(read(&record), Recorder::new(record.clone(), drop));
        let user = AgentUser { name: "agent2".parse().unwrap(), uid: 47_000 };
        histories.add(&key("a"), None, past(1));
        histories.add(&key("b"), Some(&user), past(1));
        histories.add(&key("a"), None, past(2));
        histories.finish(Duration::from_secs(10)).await;
        let histories = Histories::new(read(&record), Recorder::new(record, drop));
        let all = histories.of([key("a"), key("b"), key("c")].iter());
        assert_eq!((numbers(&all[&key("a")]), numbers(&all[&key("b")]), all.len()), (vec![2, 1], vec![1], 2));
        assert_eq!(*histories.users(), [(key("b"), user)].into());
    }
}
