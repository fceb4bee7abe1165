//! Order: which agents must have completed, run or ended before one starts. Pure.
//!
//! `after` gates the first start of a life. A restart by policy and an agent that a new daemon takes up wait for nobody, and an agent that
//! ends later stops none of those that came after it. An agent that waits for one that has failed goes on waiting, and says so: it
//! is [stuck](Awaited::stuck) until somebody does something.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::agent::name::{InvalidName, Key, Name};
pub use crate::wire::after::{AllAwaited, Awaited, Condition};
use crate::wire::status::{Outcome, State};

/// The most names in the `after` of one entry.
pub const MOST: usize = 64;

/// The most agents that are listed of those that are waited for.
const MOST_LISTED: usize = 16;

/// The most characters that are kept of why an agent has ended.
const MOST_OF_REASON: usize = 256;

/// The most names in a [path](Path).
const MOST_OF_PATH: usize = 16;

/// One agent, or all replicas of an entry, and what must become of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct After {
    /// As written.
    pub name: Name,
    /// How many replicas are meant by that name; `None` is the agent of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u64>,
    /// What must become of it, or of each of them.
    #[serde(default)]
    pub condition: Condition,
}

/// The text does not say what to come after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// The name cannot be one.
    #[error("{0}")]
    Name(InvalidName),
    /// What follows the colon is none of the conditions.
    #[error("the condition is `completed`, `running` or `ended`")]
    Condition,
}

impl After {
    /// Reads `NAME` or `NAME:CONDITION`.
    ///
    /// # Errors
    ///
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let (name, condition) = match text.split_once(':') {
            Some((name, word)) => (name, condition(word)?),
            None => (text, Condition::default()),
        };
        let name = name.parse().map_err(Fault::Name)?;
        Ok(Self { name, replicas: None, condition })
    }

    /// The agents that are meant.
    pub fn agents(&self) -> impl Iterator<Item = Key> {
        let one = self.replicas.is_none().then(|| self.name.key());
        // Each is a name: the entry would not be there otherwise.
        let many =
            (0..self.replicas.unwrap_or_default()).filter_map(|number| format!("{}-{number}", self.name).parse().ok());
        one.into_iter().chain(many)
    }
}

/// The condition that this word of the jcard names.
///
/// # Errors
///
/// It names none.
pub fn condition(word: &str) -> Result<Condition, Fault> {
    Condition::ALL.into_iter().find(|condition| condition.word() == word).ok_or(Fault::Condition)
}

impl fmt::Display for After {
    /// As it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.condition {
            Condition::Completed => self.name.fmt(f),
            condition => write!(f, "{}:{}", self.name, condition.word()),
        }
    }
}

/// Reads from a record what is known here. The rest was written by a later build, and the jcard says it again.
///
/// # Errors
///
/// It is no list.
pub fn recorded<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let values = Vec::<Value>::deserialize(deserializer)?;
    Ok(values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
}

/// What is known of an agent that others come after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The state that it is in.
    pub state: State,
    /// How it has ended, if it has.
    pub outcome: Option<Outcome>,
    /// The same as a sentence for people.
    pub reason: Option<String>,
    /// Whether its probe has succeeded; `None` if it has no probe.
    pub is_ready: Option<bool>,
    /// Whether it does not start without somebody who does something.
    pub is_stuck: bool,
}

impl Fact {
    /// Whether this has become of it.
    pub fn meets(&self, condition: Condition) -> bool {
        match condition {
            Condition::Completed => self.outcome == Some(Outcome::Completed),
            Condition::Ended => self.state == State::Exited,
            Condition::Running => self.state == State::Running,
            Condition::Ready => self.state == State::Running && self.is_ready == Some(true),
        }
    }

    /// What is told of it to one that waits for it.
    fn awaited(self, name: String, condition: Condition) -> Awaited {
        let Self { state, outcome, reason, is_ready: _, is_stuck } = self;
        let reason = reason.map(|reason| reason.chars().take(MOST_OF_REASON).collect());
        Awaited { name, condition, state: Some(state), outcome, reason, stuck: is_stuck || state == State::Exited }
    }
}

/// What an agent still waits for. Empty if it waits for nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unmet {
    /// Those that are stuck come first. Of very many, only some are listed.
    pub agents: Vec<Awaited>,
    /// How many there are beside.
    pub more: u64,
}

impl Unmet {
    /// Whether there is nothing left to wait for.
    pub fn is_nothing(&self) -> bool {
        self.agents.is_empty()
    }

    /// Whether something of it does not come without somebody who does something.
    pub fn is_stuck(&self) -> bool {
        self.agents.iter().any(|agent| agent.stuck)
    }

    /// The first that is stuck, as part of a sentence: `lint (failed: exited with status 1)`.
    pub fn stuck(&self) -> Option<&Awaited> {
        self.agents.iter().find(|agent| agent.stuck)
    }

    /// Of which nothing is known yet.
    pub fn unknown(after: &[After]) -> Self {
        unmet(after, |_| None)
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        AllAwaited { agents: &self.agents, more: self.more }.fmt(f)
    }
}

/// What is left of `after`, as things stand. An agent of which there is no fact is not known yet.
pub fn unmet(after: &[After], fact: impl Fn(&Key) -> Option<Fact>) -> Unmet {
    let mut agents = Vec::new();
    for wanted in after {
        for key in wanted.agents() {
            let (name, condition) = (key.to_name(), wanted.condition);
            let name = if wanted.replicas.is_some() { name.to_string() } else { wanted.name.to_string() };
            match fact(&key) {
                Some(fact) if fact.meets(condition) => {}
                Some(fact) => agents.push(fact.awaited(name, condition)),
                None => {
                    let (state, outcome, reason) = (None, None, None);
                    agents.push(Awaited { name, condition, state, outcome, reason, stuck: false });
                }
            }
        }
    }
    agents.sort_by_key(|agent| !agent.stuck);
    let more = u64::try_from(agents.len().saturating_sub(MOST_LISTED)).unwrap_or(u64::MAX);
    agents.truncate(MOST_LISTED);
    Unmet { agents, more }
}

/// The agents in an order in which each comes after those that it waits for, as far as there is such an order.
pub fn in_order(waiting: &BTreeMap<Key, Vec<After>>) -> Vec<Key> {
    let keys: Vec<&Key> = waiting.keys().collect();
    let places: BTreeMap<&Key, usize> = keys.iter().enumerate().map(|(place, key)| (*key, place)).collect();
    let edges: Vec<Vec<usize>> = waiting
        .values()
        .map(|after| after.iter().flat_map(After::agents).filter_map(|key| places.get(&key).copied()).collect())
        .collect();
    let (_, order) = walk(&edges);
    order.into_iter().map(|place| keys[place].clone()).collect()
}

/// A cycle, from what closes it to that again, in the order of `after`. The middle of a very long one is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The first of those that are named.
    pub first: Vec<usize>,
    /// How many are left out.
    pub left_out: usize,
    /// The last of those that are named.
    pub last: Vec<usize>,
}

impl Path {
    fn of(nodes: &[usize], again: usize) -> Self {
        let left_out = nodes.len().saturating_sub(MOST_OF_PATH);
        let (first, rest) = nodes.split_at(if left_out == 0 { nodes.len() } else { MOST_OF_PATH / 2 });
        let last = rest.iter().skip(left_out).copied().chain([again]).collect();
        Self { first: first.to_vec(), left_out, last }
    }

    /// As people read it: `a → b → a`.
    pub fn shown(&self, name: impl Fn(usize) -> String) -> String {
        let gap = (self.left_out > 0).then(|| format!("… {} more …", self.left_out));
        let (first, last) = (self.first.iter().copied().map(&name), self.last.iter().copied().map(&name));
        first.chain(gap).chain(last).collect::<Vec<_>>().join(" → ")
    }
}

/// What closes a cycle. Without all that do, there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Which of them.
    pub node: usize,
    /// Which of its edges, the first that closes one.
    pub edge: usize,
    /// The cycle, which begins and ends with what the edge leads to.
    pub path: Path,
}

/// What closes a cycle in a graph, where each lists those that it comes after: of each cycle, the one that is reached last from the
/// first on. Each is listed once.
pub fn closings(edges: &[Vec<usize>]) -> Vec<Closing> {
    walk(edges).0
}

/// In how many steps each is reached, from 0: one more than the last of those that it comes after. Edges that close a cycle do not
/// count.
pub fn layers(edges: &[Vec<usize>]) -> Vec<usize> {
    let (_, order) = walk(edges);
    let mut layers = vec![0; edges.len()];
    let mut is_done = vec![false; edges.len()];
    for node in order {
        let before = edges[node].iter().filter(|&&other| is_done[other]).map(|&other| layers[other] + 1);
        layers[node] = before.max().unwrap_or_default();
        is_done[node] = true;
    }
    layers
}

/// Goes through a graph in depth, without recursion. Returns what closes a cycle, and an order in which each comes after those that it
/// names, but for the edges that close one.
fn walk(edges: &[Vec<usize>]) -> (Vec<Closing>, Vec<usize>) {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Never,
        OnTheWay,
        Done,
    }
    let (mut closings, mut order) = (Vec::new(), Vec::with_capacity(edges.len()));
    let mut seen = vec![Seen::Never; edges.len()];
    let mut way: Vec<usize> = Vec::new();
    let mut next = vec![0; edges.len()];
    let mut closes = BTreeSet::new();
    for start in 0..edges.len() {
        if seen[start] != Seen::Never {
            continue;
        }
        seen[start] = Seen::OnTheWay;
        way.push(start);
        while let Some(&node) = way.last() {
            let edge = next[node];
            let Some(&other) = edges[node].get(edge) else {
                seen[node] = Seen::Done;
                order.push(node);
                way.pop();
                continue;
            };
            next[node] += 1;
            match seen[other] {
                Seen::Never => {
                    seen[other] = Seen::OnTheWay;
                    way.push(other);
                }
                Seen::OnTheWay if closes.insert(node) => {
                    let from = way.iter().position(|&node| node == other).unwrap_or_default();
                    closings.push(Closing { node, edge, path: Path::of(&way[from..], other) });
                }
                Seen::OnTheWay | Seen::Done => {}
            }
        }
    }
    (closings, order)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::agent::name::key;

    fn after(text: &str) -> After {
        After::parse(text).unwrap()
    }

    fn fact(state: State, outcome: Option<Outcome>) -> Fact {
        let reason = outcome.map(|_| "exited with status 1".to_owned());
        Fact { state, outcome, reason, is_ready: None, is_stuck: false }
    }

    #[rstest]
    #[case("lint", Condition::Completed)]
    #[case("lint:completed", Condition::Completed)]
    #[case("lint:running", Condition::Running)]
    #[case("lint:ended", Condition::Ended)]
    #[case("lint:ready", Condition::Ready)]
    fn a_name_may_have_a_condition(#[case] text: &str, #[case] condition: Condition) {
        let read = after(text);
        assert_eq!((read.name.as_str(), read.condition), ("lint", condition));
        assert_eq!(after(&read.to_string()), read);
    }

    #[rstest]
    #[case("", Fault::Name(InvalidName))]
    #[case("a b", Fault::Name(InvalidName))]
    #[case("a/b:running", Fault::Name(InvalidName))]
    #[case("a:", Fault::Condition)]
    #[case("a:runs", Fault::Condition)]
    #[case("a:running:", Fault::Condition)]
    fn another_text_says_nothing(#[case] text: &str, #[case] fault: Fault) {
        assert_eq!(After::parse(text), Err(fault));
    }

    #[test]
    fn a_name_of_replicas_means_all_of_them() {
        let all = After { replicas: Some(3), ..after("W:running") };
        assert_eq!(all.agents().collect::<Vec<_>>(), ["w-0", "w-1", "w-2"].map(key));
        let running = fact(State::Running, None);
        let left = unmet(&[all], |agent| (*agent != key("w-1")).then(|| running.clone()));
        assert_eq!(left.to_string(), "w-1 (not known yet)");
    }

    #[rstest]
    #[case::completed("a", fact(State::Exited, Some(Outcome::Completed)), "")]
    #[case::runs("a", fact(State::Running, None), "a (running)")]
    #[case::is_stopped_and_has_run("a", fact(State::Waiting, None), "a (waiting)")]
    #[case::failed("a", fact(State::Exited, Some(Outcome::Failed)), "a (failed: exited with status 1)!")]
    #[case::gave_up("a", fact(State::Exited, Some(Outcome::GaveUp)), "a (gave up: exited with status 1)!")]
    #[case::restarts("a", fact(State::Backoff, None), "a (backoff)")]
    #[case::ended_badly("a:ended", fact(State::Exited, Some(Outcome::TimedOut)), "")]
    #[case::not_ended("a:ended", fact(State::Stopping, None), "a (stopping)")]
    #[case::running("a:running", fact(State::Running, None), "")]
    #[case::starting("a:running", fact(State::Starting, None), "a (not running)")]
    #[case::over("a:running", fact(State::Exited, Some(Outcome::Completed)), "a (not running: exited with status 1)!")]
    #[case::without_a_probe("a:ready", fact(State::Running, None), "a (not ready)")]
    #[case::ready("a:ready", Fact { is_ready: Some(true), ..fact(State::Running, None) }, "")]
    #[case::no_longer_ready("a:ready", Fact { is_ready: Some(true), ..fact(State::Backoff, None) }, "a (not ready)")]
    #[case::may_not_run("a", Fact { is_stuck: true, ..fact(State::Waiting, None) }, "a (waiting)!")]
    fn what_is_left_is_told(#[case] text: &str, #[case] fact: Fact, #[case] words: &str) {
        let left = unmet(&[after(text)], |_| Some(fact.clone()));
        let stuck = if left.is_stuck() { "!" } else { "" };
        assert_eq!((format!("{left}{stuck}").as_str(), left.is_nothing()), (words, words.is_empty()));
    }

    #[test]
    fn of_many_those_that_are_stuck_are_told_first_and_the_rest_counted() {
        let all = After { replicas: Some(40), ..after("w") };
        let left = unmet(&[all], |agent| {
            let failed = *agent == key("w-39");
            Some(fact(if failed { State::Exited } else { State::Running }, failed.then_some(Outcome::Failed)))
        });
        assert_eq!((left.agents.len(), left.more), (16, 24));
        assert_eq!(left.stuck().unwrap().name, "w-39");
        assert!(left.to_string().ends_with("w-14 (running) and 24 more"), "{left}");
    }

    #[test]
    fn a_record_of_a_later_build_is_read_as_far_as_it_is_known() {
        let list = serde_json::json!([{ "name": "a", "condition": "running" }, { "name": "b", "condition": "idle" }]);
        let read: Vec<After> = recorded(list).unwrap();
        assert_eq!(read, [after("a:running")]);
        let whole = After { replicas: Some(2), ..after("w") };
        assert_eq!(serde_json::from_value::<After>(serde_json::to_value(&whole).unwrap()).unwrap(), whole);
    }

    fn paths(edges: &[&[usize]]) -> Vec<(usize, usize, String)> {
        let edges: Vec<Vec<usize>> = edges.iter().map(|edges| edges.to_vec()).collect();
        let name = |node: usize| char::from(b'a' + u8::try_from(node).unwrap()).to_string();
        closings(&edges).into_iter().map(|it| (it.node, it.edge, it.path.shown(name))).collect()
    }

    #[test]
    fn what_closes_a_cycle_is_told_with_its_path() {
        assert_eq!(paths(&[&[1], &[2], &[]]), []);
        assert_eq!(paths(&[&[1], &[0]]), [(1, 0, "a → b → a".to_owned())]);
        assert_eq!(paths(&[&[0]]), [(0, 0, "a → a".to_owned())]);
        assert_eq!(paths(&[&[], &[0, 2], &[3], &[0, 1]]), [(3, 1, "b → c → d → b".to_owned())]);
        assert_eq!(paths(&[&[1, 2], &[2], &[]]), [], "two ways are no cycle");
    }

    #[test]
    fn the_middle_of_a_long_cycle_is_left_out() {
        let edges: Vec<Vec<usize>> = (0..100).map(|node| vec![(node + 1) % 100]).collect();
        let closings = closings(&edges);
        assert_eq!(closings.len(), 1);
        let shown = closings[0].path.shown(|node| node.to_string());
        assert_eq!(shown, "0 → 1 → 2 → 3 → 4 → 5 → 6 → 7 → … 84 more … → 92 → 93 → 94 → 95 → 96 → 97 → 98 → 99 → 0");
    }

    #[test]
    fn agents_come_after_those_that_they_wait_for() {
        let waiting = [("a", "b"), ("b", "c"), ("c", "d:running")];
        let waiting = waiting.into_iter().map(|(name, text)| (key(name), vec![after(text)])).collect();
        assert_eq!(in_order(&waiting), ["c", "b", "a"].map(key));
    }

    fn graphs() -> impl Strategy<Value = Vec<Vec<usize>>> {
        (1_usize..12).prop_flat_map(|nodes| prop::collection::vec(prop::collection::vec(0..nodes, 0..4), nodes..=nodes))
    }

    proptest! {
        #[test]
        fn without_what_closes_cycles_there_is_an_order(edges in graphs()) {
            let mut rest = edges.clone();
            for closing in closings(&edges) {
                let (first, last) = (closing.path.first[0], *closing.path.last.last().unwrap());
                prop_assert_eq!(first, last);
                prop_assert_eq!(edges[closing.node][closing.edge], first);
                rest[closing.node].clear();
            }
            prop_assert_eq!(closings(&rest), []);
            let layers = layers(&rest);
            for (node, edges) in rest.iter().enumerate() {
                let expected = edges.iter().map(|&other| layers[other] + 1).max().unwrap_or_default();
                prop_assert_eq!(layers[node], expected);
            }
        }

        #[test]
        fn each_node_is_reached_once_whatever_the_graph(edges in graphs()) {
            let (_, mut order) = walk(&edges);
            order.sort_unstable();
            prop_assert_eq!(order, (0..edges.len()).collect::<Vec<_>>());
        }
    }
}
