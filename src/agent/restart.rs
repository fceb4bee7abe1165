//! Restart policy: whether an agent that has ended starts again, and when. Pure.

use std::time::Duration;

use crate::agent::spec::{Policy, Restart};
use crate::wire::status::Outcome;

/// What follows when an attempt has ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The agent starts again, this long after the end.
    Restart {
        /// From the end of the last attempt.
        after: Duration,
    },
    /// The agent is over.
    Over(Outcome),
}

/// Decides what follows an end that was a completion, or was none. `restarts` were made already, `in_a_row` of them since the agent last ran for `backoff_reset`.
pub fn decide(policy: &Policy, completed: bool, restarts: u64, in_a_row: usize) -> Verdict {
    let again = match policy.restart {
        Restart::No => false,
        Restart::OnFailure => !completed,
        Restart::Always => true,
    };
    if !again {
        return Verdict::Over(if completed { Outcome::Completed } else { Outcome::Failed });
    }
    if policy.max_restarts.is_some_and(|limit| restarts >= limit) {
        return Verdict::Over(Outcome::GaveUp);
    }
    Verdict::Restart { after: delay(policy, in_a_row) }
}

/// How long the policy waits before the next of things that have failed so many times in a row.
pub fn delay(policy: &Policy, in_a_row: usize) -> Duration {
    policy.backoff.get(in_a_row).or(policy.backoff.last()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn policy(restart: Restart, max_restarts: Option<u64>) -> Policy {
        Policy {
            restart,
            max_restarts,
            timeout: None,
            grace_period: Duration::from_secs(30),
            backoff: vec![Duration::from_secs(1), Duration::from_secs(5)],
            backoff_reset: None,
            ..Policy::default()
        }
    }

    const AGAIN: Verdict = Verdict::Restart { after: Duration::from_secs(1) };

    #[rstest]
    #[case(Restart::No, true, Verdict::Over(Outcome::Completed))]
    #[case(Restart::No, false, Verdict::Over(Outcome::Failed))]
    #[case(Restart::OnFailure, true, Verdict::Over(Outcome::Completed))]
    #[case(Restart::OnFailure, false, AGAIN)]
    #[case(Restart::Always, true, AGAIN)]
    #[case(Restart::Always, false, AGAIN)]
    fn the_restart_matrix(#[case] restart: Restart, #[case] completed: bool, #[case] verdict: Verdict) {
        assert_eq!(decide(&policy(restart, None), completed, 0, 0), verdict);
    }

    #[rstest]
    #[case(0, AGAIN)]
    #[case(1, AGAIN)]
    #[case(2, Verdict::Over(Outcome::GaveUp))]
    #[case(3, Verdict::Over(Outcome::GaveUp))]
    fn max_restarts_allows_that_many(#[case] restarts: u64, #[case] verdict: Verdict) {
        assert_eq!(decide(&policy(Restart::Always, Some(2)), false, restarts, 0), verdict);
    }

    #[test]
    fn restarts_of_an_entry_without_backoff_become_rarer() {
        let policy = Policy { restart: Restart::Always, ..Policy::default() };
        let delays: Vec<u64> = (0..11)
            .map(|in_a_row| match decide(&policy, false, in_a_row as u64, in_a_row) {
                Verdict::Restart { after } => after.as_secs(),
                Verdict::Over(outcome) => panic!("{outcome:?}"),
            })
            .collect();
        assert_eq!(delays, [3, 3, 3, 3, 3, 10, 30, 60, 300, 300, 300]);
    }

    #[rstest]
    #[case(0, 1)]
    #[case(1, 5)]
    #[case(2, 5)]
    #[case(100, 5)]
    fn the_last_delay_repeats(#[case] in_a_row: usize, #[case] seconds: u64) {
        let verdict = decide(&policy(Restart::Always, None), false, 100, in_a_row);
        assert_eq!(verdict, Verdict::Restart { after: Duration::from_secs(seconds) });
    }
}
