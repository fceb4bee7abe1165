//! How a run ended, as an exit status.

use crate::cli::wait::own_status;
use crate::wire::status::{AgentStatus, Outcome};

/// Its task was not taken.
pub const REFUSED: u8 = 122;
/// It was cancelled or skipped.
pub const OTHERWISE: u8 = 123;
/// It failed, although its harness ended with status 0.
const FAILED: u8 = 1;
/// How it ended is not known.
pub const UNKNOWN: u8 = 125;

/// The exit status of a run that is over, given in the form of an agent, and what is to be said of it.
pub fn status(run: &AgentStatus) -> (u8, Option<String>) {
    let name = &run.name;
    let why = run.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    match run.outcome {
        Some(Outcome::Completed) => (0, None),
        Some(Outcome::Refused) => (REFUSED, Some(format!("{name} was refused{why}"))),
        Some(outcome @ (Outcome::Cancelled | Outcome::Skipped)) => {
            (OTHERWISE, Some(format!("{name} was {outcome}{why}")))
        }
        Some(outcome @ (Outcome::Failed | Outcome::TimedOut | Outcome::GaveUp | Outcome::Interrupted)) => {
            let what = match outcome {
                Outcome::TimedOut => "timed out",
                Outcome::GaveUp => "gave up",
                Outcome::Interrupted => "was interrupted",
                _ => "failed",
            };
            let said = Some(format!("{name} {what}{why}"));
            match own_status(run) {
                Ok(0) => (FAILED, said),
                Ok(status) => (status, said),
                Err(_) => (UNKNOWN, said),
            }
        }
        None => (UNKNOWN, Some(format!("how {name} ended is not known{why}"))),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case(json!({ "outcome": "completed", "exit": { "code": 0 } }), 0, None)]
    #[case(json!({ "outcome": "failed", "exit": { "code": 7 }, "reason": "exited with status 7" }), 7, Some("a/b failed: exited with status 7"))]
    #[case(json!({ "outcome": "failed", "exit": { "code": 0 } }), 1, Some("a/b failed"))]
    #[case(json!({ "outcome": "failed", "exit": { "signal": "SIGKILL" } }), 137, Some("a/b failed"))]
    #[case(json!({ "outcome": "timed-out", "exit": { "code": 0 } }), 1, Some("a/b timed out"))]
    #[case(json!({ "outcome": "interrupted" }), 125, Some("a/b was interrupted"))]
    #[case(json!({ "outcome": "refused", "reason": "50 wait already" }), 122, Some("a/b was refused: 50 wait already"))]
    #[case(json!({ "outcome": "cancelled", "exit": { "signal": "SIGINT" } }), 123, Some("a/b was cancelled"))]
    #[case(json!({ "outcome": "skipped" }), 123, Some("a/b was skipped"))]
    #[case(json!({}), 125, Some("how a/b ended is not known"))]
    fn the_status_is_that_of_the_run(#[case] more: Value, #[case] expected: u8, #[case] said: Option<&str>) {
        let mut run = json!({ "name": "a/b", "running": false, "restarts": 0, "state": "exited" });
        run.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        if let Some(exit) = run.get_mut("exit") {
            exit["at"] = json!("2026-12-01T06:00:00.000Z");
        }
        let (status, message) = status(&serde_json::from_value(run).unwrap());
        assert_eq!((status, message.as_deref()), (expected, said));
    }
}
