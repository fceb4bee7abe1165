//! The disk space that the logs of all agents take together, and which of them go first when it is too much.
//!
//! The latest attempt of an agent may be running, and always stays. The earliest one goes last, because what went wrong first often
//! explains all that followed. Of a run that is over, all but the result may go.

use std::collections::HashMap;

use crate::agent::name::Key;
use crate::logs::attempt::{AttemptId, Output, TEXT};
use crate::logs::store::runs::RESULT;
use crate::wire::status::LogUse;

/// The largest cap that is chosen by default.
const MOST_BY_DEFAULT: u64 = 20 << 30;

/// What of an agent's logs was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The files of one attempt.
    Attempt(AttemptId),
    /// An output of a run.
    Output(Output),
    /// How a run ended.
    Result,
}

impl Part {
    /// The name of its file, or of the first of two.
    pub fn file_name(self) -> String {
        match self {
            Self::Attempt(kept) => kept.file_name(TEXT),
            Self::Output(output) => output.file_name().to_owned(),
            Self::Result => RESULT.to_owned(),
        }
    }
}

/// A part of the logs of an agent or a run, as it was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Measured {
    pub agent: Key,
    pub part: Part,
    /// Whether it is of a run that has ended, and whose result is kept.
    pub is_over: bool,
    /// How much disk space they take.
    pub bytes: u64,
    /// When something was last written to them, in seconds and nanoseconds since 1970.
    pub written: (i64, i64),
}

/// The cap if none was chosen: a tenth of a file system of this size. Some do not tell their size, such as a tmpfs without a limit.
pub(super) fn default_cap(file_system: u64) -> u64 {
    if file_system == 0 { MOST_BY_DEFAULT } else { (file_system / 10).min(MOST_BY_DEFAULT) }
}

/// How much all of them take.
pub(super) fn bytes(all: &[Measured]) -> u64 {
    all.iter().fold(0, |sum, one| sum.saturating_add(one.bytes))
}

/// What each agent's take, with those of its runs.
pub(super) fn by_agent(all: &[Measured]) -> HashMap<Key, LogUse> {
    let mut uses: HashMap<Key, LogUse> = HashMap::new();
    for one in all {
        let agent = one.agent.run().map_or_else(|| one.agent.clone(), |(agent, _)| agent);
        let of_agent = uses.entry(agent).or_insert(LogUse { bytes: 0, attempts: 0 });
        of_agent.bytes = of_agent.bytes.saturating_add(one.bytes);
        of_agent.attempts += u64::from(matches!(one.part, Part::Attempt(_)));
    }
    uses
}

/// What has to go for the rest to take no more than `cap`, as far as that is possible.
pub(super) fn surplus(all: &[Measured], cap: u64) -> Vec<&Measured> {
    let mut ends: HashMap<&Key, (AttemptId, AttemptId)> = HashMap::new();
    for one in all.iter().filter(|one| !one.is_over) {
        let Part::Attempt(kept) = one.part else { continue };
        let (first, last) = ends.entry(&one.agent).or_insert((kept, kept));
        (*first, *last) = ((*first).min(kept), (*last).max(kept));
    }
    let is_end = |one: &Measured, of: fn(&(AttemptId, AttemptId)) -> AttemptId| {
        ends.get(&one.agent).is_some_and(|ends| one.part == Part::Attempt(of(ends)))
    };
    let may_go = |one: &&Measured| match one.part {
        Part::Attempt(_) => !is_end(one, |ends| ends.1),
        Part::Output(_) => one.is_over,
        Part::Result => false,
    };
    let mut removable: Vec<&Measured> = all.iter().filter(may_go).collect();
    removable.sort_by_key(|one| (is_end(one, |ends| ends.0), one.written));
    let mut left = bytes(all);
    let mut surplus = Vec::new();
    for one in removable {
        if left <= cap {
            break;
        }
        left = left.saturating_sub(one.bytes);
        surplus.push(one);
    }
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::name::key;

    fn measured(agent: &str, sequence: u64, bytes: u64, written: i64) -> Measured {
        let part = Part::Attempt(AttemptId { sequence, attempt: sequence });
        Measured { agent: key(agent), part, is_over: false, bytes, written: (written, 0) }
    }

    fn gone(all: &[Measured], cap: u64) -> Vec<(&str, u64)> {
        let sequence = |part| if let Part::Attempt(kept) = part { kept.sequence } else { 0 };
        surplus(all, cap).into_iter().map(|one| (one.agent.as_str(), sequence(one.part))).collect()
    }

    /// A run with one attempt and both outputs, of 10 bytes each, and maybe its result of 5.
    fn run(name: &str, is_over: bool, written: i64) -> Vec<Measured> {
        let outputs = Output::ALL.map(|output| (Part::Output(output), 10));
        let result = is_over.then_some((Part::Result, 5));
        let attempt = (Part::Attempt(AttemptId { sequence: 1, attempt: 1 }), 10);
        let parts = [attempt].into_iter().chain(outputs).chain(result);
        let measured = |(part, bytes)| Measured { agent: key(name), part, is_over, bytes, written: (written, 0) };
        parts.map(measured).collect()
    }

    #[test]
    fn a_run_that_is_over_keeps_its_result_and_one_that_is_not_keeps_all() {
        let all = [run("a+1", true, 3), run("a+2", false, 1), run("a+3", true, 2)].concat();
        assert_eq!(bytes(&all), 35 + 30 + 35);
        let parts = |cap| surplus(&all, cap).iter().map(|one| one.agent.as_str()).collect::<Vec<_>>();
        assert_eq!(parts(100), [""; 0]);
        assert_eq!(parts(99), ["a+3"]);
        assert_eq!(parts(70), ["a+3", "a+3", "a+3"]);
        assert_eq!(parts(0), ["a+3", "a+3", "a+3", "a+1", "a+1", "a+1"]);
        assert!(surplus(&all, 0).iter().all(|one| one.part != Part::Result));
        assert_eq!(by_agent(&all), [(key("a"), LogUse { bytes: 100, attempts: 3 })].into());
    }

    #[test]
    fn oldest_attempts_go_first_and_each_first_one_last() {
        let all = [
            measured("a", 1, 10, 1),
            measured("a", 2, 10, 5),
            measured("a", 3, 10, 7),
            measured("a", 4, 10, 8),
            measured("b", 1, 10, 2),
            measured("b", 2, 10, 3),
            measured("b", 3, 10, 4),
        ];
        assert_eq!(gone(&all, 70), []);
        assert_eq!(gone(&all, 69), [("b", 2)]);
        assert_eq!(gone(&all, 45), [("b", 2), ("a", 2), ("a", 3)]);
        assert_eq!(gone(&all, 31), [("b", 2), ("a", 2), ("a", 3), ("a", 1)]);
    }

    #[test]
    fn the_latest_attempt_stays_however_much_it_takes() {
        let all = [measured("a", 7, 1000, 1), measured("b", 1, 10, 2), measured("b", 2, 1000, 3)];
        assert_eq!(gone(&all, 0), [("b", 1)]);
    }

    #[test]
    fn uses_are_added_up_for_each_agent() {
        let all = [measured("a", 1, 10, 1), measured("a", 2, 5, 2), measured("b", 1, 1, 1)];
        let uses = by_agent(&all);
        assert_eq!(uses[&key("a")], LogUse { bytes: 15, attempts: 2 });
        assert_eq!(uses[&key("b")], LogUse { bytes: 1, attempts: 1 });
        assert_eq!(bytes(&all), 16);
    }

    #[test]
    fn default_cap_is_a_tenth_of_a_small_disk() {
        assert_eq!(default_cap(100 << 30), 10 << 30);
        assert_eq!(default_cap(1 << 50), MOST_BY_DEFAULT);
        assert_eq!(default_cap(0), MOST_BY_DEFAULT, "of a file system without a size");
    }
}
