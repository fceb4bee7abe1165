//! The disk space that the logs of all agents take together, and which of them go first when it is too much.
//!
//! The latest attempt of an agent may be running, and always stays. The earliest one goes last, because what went wrong first often
//! explains all that followed.

use std::collections::HashMap;

use crate::agent::name::Key;
use crate::logs::attempt::AttemptId;
use crate::wire::status::LogUse;

/// The largest cap that is chosen by default.
const MOST_BY_DEFAULT: u64 = 20 << 30;

/// The files of one attempt, as they were measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Measured {
    pub agent: Key,
    pub kept: AttemptId,
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

/// What each agent's take.
pub(super) fn by_agent(all: &[Measured]) -> HashMap<Key, LogUse> {
    let mut uses: HashMap<Key, LogUse> = HashMap::new();
    for one in all {
        let of_agent = uses.entry(one.agent.clone()).or_insert(LogUse { bytes: 0, attempts: 0 });
        of_agent.bytes = of_agent.bytes.saturating_add(one.bytes);
        of_agent.attempts += 1;
    }
    uses
}

/// What has to go for the rest to take no more than `cap`, as far as that is possible.
pub(super) fn surplus(all: &[Measured], cap: u64) -> Vec<&Measured> {
    let mut ends: HashMap<&Key, (AttemptId, AttemptId)> = HashMap::new();
    for one in all {
        let (first, last) = ends.entry(&one.agent).or_insert((one.kept, one.kept));
        (*first, *last) = ((*first).min(one.kept), (*last).max(one.kept));
    }
    let is_end = |one: &Measured, of: fn(&(AttemptId, AttemptId)) -> AttemptId| {
        ends.get(&one.agent).is_some_and(|ends| of(ends) == one.kept)
    };
    let mut removable: Vec<&Measured> = all.iter().filter(|one| !is_end(one, |ends| ends.1)).collect();
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
        Measured { agent: key(agent), kept: AttemptId { sequence, attempt: sequence }, bytes, written: (written, 0) }
    }

    fn gone(all: &[Measured], cap: u64) -> Vec<(&str, u64)> {
        surplus(all, cap).into_iter().map(|one| (one.agent.as_str(), one.kept.sequence)).collect()
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
