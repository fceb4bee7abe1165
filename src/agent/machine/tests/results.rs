//! What an agent says of its work decides whether it has completed, and what it costs.

use super::*;
use crate::agent::cost::MaxCost;
use crate::agent::verdict::Terms;
use crate::wire::result::{StreamResult, Tokens};

fn streamed(more: impl FnOnce(&mut Policy)) -> Declaration {
    declaration(|policy| {
        policy.results = Some(Terms { closing_record: true, trusts_stream: false });
        policy.backoff = vec![seconds(1)];
        more(policy);
    })
}

fn said(is_error: bool) -> Box<StreamResult> {
    let text = if is_error { "Not logged in" } else { "done" }.to_owned();
    Box::new(StreamResult { text, is_error, ..StreamResult::default() })
}

fn end_with(life: &mut Life, attempt: Attempt, how: ExitStatus, result: Option<Box<StreamResult>>) {
    life.tell(Event::Ended { attempt, how, at: life.now, usage: Usage::default(), result, evidence: None });
    life.gone(attempt);
}

fn spend(life: &mut Life, attempt: Attempt, cost: f64) -> Vec<String> {
    let tokens = Some(Tokens { output: 7, ..Tokens::default() });
    life.tell(Event::Spent { attempt, cost_usd: Some(cost), tokens, conversation: None })
}

#[test]
fn an_agent_that_says_that_it_failed_has_not_completed() {
    let mut life = Life::running(streamed(|_| {}));
    end_with(&mut life, 1, code(0), Some(said(true)));
    life.assert_over(Outcome::Failed);
    let status = life.status();
    assert_eq!(status.reason.as_deref(), Some("the harness says that it failed: Not logged in (exited with status 0)"));
    assert!(status.result.is_some_and(|result| result.is_error));
    assert_eq!(life.accounts[0].reason, "it ended by itself; the harness says that it failed: Not logged in");
    assert!(life.accounts[0].result.as_ref().is_some_and(|result| result.is_error));
}

#[test]
fn an_agent_whose_stream_has_no_end_is_restarted_as_one_that_failed() {
    let mut life = Life::running(streamed(|policy| policy.restart = Restart::OnFailure));
    end_with(&mut life, 1, code(0), None);
    assert_eq!(life.state(), Backoff);
    assert!(life.status().reason.unwrap().starts_with("the stream ended without a result (exited with status 0); "));
    life.wait(seconds(1));
    life.start(2);
    end_with(&mut life, 2, code(0), Some(said(false)));
    life.assert_over(Outcome::Completed);
}

#[test]
fn an_agent_that_costs_more_than_it_may_is_stopped_and_stays_so() {
    let more = |policy: &mut Policy| {
        policy.restart = Restart::Always;
        policy.max_cost = MaxCost::parse("1.00");
    };
    let mut life = Life::running(streamed(more));
    assert!(spend(&mut life, 1, 0.75).is_empty());
    end_with(&mut life, 1, code(1), None);
    life.wait(seconds(1));
    life.start(2);
    assert!(spend(&mut life, 1, 100.0).is_empty(), "the news is of an attempt that is over");
    assert_eq!(spend(&mut life, 2, 0.5), ["interrupt 2"]);
    assert!(spend(&mut life, 2, 0.6).is_empty(), "it is being stopped already");
    assert_eq!(life.status().stopping_because.unwrap().to_string(), "cost limit: it has cost more than its `max_cost`");
    end_with(&mut life, 2, code(0), Some(said(false)));
    life.assert_over(Outcome::Failed);
    assert_eq!(life.status().cost_usd.map(|cost| format!("{cost:.2}")).as_deref(), Some("1.35"));
    assert_eq!(life.status().tokens.map(|tokens| tokens.output), Some(14));
    assert_eq!(life.status().reason.as_deref(), Some("cost limit: $1.35 of at most $1.00; exited with status 0"));
    life.update(streamed(|policy| policy.restart = Restart::Always));
    life.assert_over(Outcome::Failed);
    life.declare(streamed(more));
    assert_eq!((life.state(), life.status().cost_usd), (Starting, None), "a new life costs nothing yet");
}

#[test]
fn an_agent_that_has_spent_what_it_may_is_not_restarted() {
    let more = |policy: &mut Policy| {
        policy.restart = Restart::Always;
        policy.max_cost = MaxCost::parse("1.00");
    };
    let mut life = Life::running(streamed(more));
    let subtype = Some("error_max_budget_usd".to_owned());
    let result = StreamResult { is_error: true, subtype, ..StreamResult::default() };
    end_with(&mut life, 1, code(1), Some(Box::new(result)));
    life.assert_over(Outcome::Failed);
}

#[test]
fn a_lower_limit_stops_what_has_cost_more_already() {
    let mut life = Life::running(streamed(|_| {}));
    assert!(spend(&mut life, 1, 3.0).is_empty());
    assert_eq!(life.update(streamed(|policy| policy.max_cost = MaxCost::parse("2"))), ["interrupt 1"]);
}

#[test]
fn a_new_life_has_a_bill_of_its_own() {
    let mut life = Life::running(streamed(|policy| policy.max_cost = MaxCost::parse("1")));
    spend(&mut life, 1, 1.5);
    end_with(&mut life, 1, code(0), None);
    life.assert_over(Outcome::Failed);
    assert_eq!(life.order(raised(7)), ["launch 2"]);
    assert_eq!((life.status().cost_usd, life.status().tokens), (None, None));
    life.start(2);
    assert_eq!(spend(&mut life, 2, 0.5), [""; 0]);
    assert_eq!(life.status().cost_usd, Some(0.5));
}

#[test]
fn a_cost_limit_and_a_bill_survive_the_daemon() {
    let mut life = Life::running(streamed(|policy| policy.max_cost = MaxCost::parse("1")));
    spend(&mut life, 1, 3.0);
    let json = serde_json::to_string(&life.machine).unwrap();
    assert!(json.contains("\"timed-out\"") && json.contains("\"by_cost\":true"), "{json}");
    life.machine = serde_json::from_str(&json).unwrap();
    end_with(&mut life, 1, code(0), None);
    assert_eq!((life.state(), life.status().outcome), (Exited, Some(Outcome::Failed)));
    assert_eq!(life.status().cost_usd, Some(3.0));
}
