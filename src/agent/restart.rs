//! Restart policy: whether an agent that has ended starts again, and when. Pure.

use std::time::Duration;

use crate::agent::spec::{Policy, Restart};
use crate::wire::exit_status::ExitStatus;
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

/// Decides what follows the end `how`. `restarts` were made already, `in_a_row` of them since the agent last ran for `backoff_reset`.
pub fn decide(policy: &Policy, how: &ExitStatus, restarts: u64, in_a_row: usize) -> Verdict {
    let completed = *how == ExitStatus::Code(0);
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
    let after = policy.backoff.get(in_a_row).or(policy.backoff.last()).copied().unwrap_or_default();
    Verdict::Restart { after }
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
    #[case(Restart::No, ExitStatus::Code(0), Verdict::Over(Outcome::Completed))]
    #[case(Restart::No, ExitStatus::Code(3), Verdict::Over(Outcome::Failed))]
    #[case(Restart::No, ExitStatus::Signal("SIGKILL".parse().unwrap()), Verdict::Over(Outcome::Failed))]
    #[case(Restart::No, ExitStatus::Cause("lost".into()), Verdict::Over(Outcome::Failed))]
    #[case(Restart::OnFailure, ExitStatus::Code(0), Verdict::Over(Outcome::Completed))]
    #[case(Restart::OnFailure, ExitStatus::Code(3), AGAIN)]
    #[case(Restart::OnFailure, ExitStatus::Signal("SIGTERM".parse().unwrap()), AGAIN)]
    #[case(Restart::OnFailure, ExitStatus::Cause("lost".into()), AGAIN)]
    #[case(Restart::Always, ExitStatus::Code(0), AGAIN)]
    #[case(Restart::Always, ExitStatus::Code(3), AGAIN)]
    #[case(Restart::Always, ExitStatus::Signal("SIGTERM".parse().unwrap()), AGAIN)]
    #[case(Restart::Always, ExitStatus::Cause("lost".into()), AGAIN)]
    fn the_restart_matrix(#[case] restart: Restart, #[case] how: ExitStatus, #[case] verdict: Verdict) {
        assert_eq!(decide(&policy(restart, None), &how, 0, 0), verdict);
    }

    #[rstest]
    #[case(0, AGAIN)]
    #[case(1, AGAIN)]
    #[case(2, Verdict::Over(Outcome::GaveUp))]
    #[case(3, Verdict::Over(Outcome::GaveUp))]
    fn max_restarts_allows_that_many(#[case] restarts: u64, #[case] verdict: Verdict) {
        assert_eq!(decide(&policy(Restart::Always, Some(2)), &ExitStatus::Code(1), restarts, 0), verdict);
    }

    #[rstest]
    #[case(0, 1)]
    #[case(1, 5)]
    #[case(2, 5)]
    #[case(100, 5)]
    fn the_last_delay_repeats(#[case] in_a_row: usize, #[case] seconds: u64) {
        let verdict = decide(&policy(Restart::Always, None), &ExitStatus::Code(1), 100, in_a_row);
        assert_eq!(verdict, Verdict::Restart { after: Duration::from_secs(seconds) });
    }
}
