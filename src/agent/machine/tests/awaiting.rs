//! An agent that comes after others.

use super::*;
use crate::agent::after::{After, Fact, Unmet, unmet};
use crate::wire::status;

fn after(text: &str) -> Vec<After> {
    vec![After::parse(text).unwrap()]
}

/// It comes after `b`, and restarts.
fn later() -> Declaration {
    declaration(|policy| {
        policy.restart = Restart::Always;
        policy.after = after("b");
    })
}

/// What is left while `b` is in this state.
fn left(state: status::State, outcome: Option<Outcome>) -> Unmet {
    let reason = outcome.map(|_| "exited with status 1".to_owned());
    let fact = Fact { state, outcome, reason, is_ready: None, is_stuck: false };
    unmet(&after("b"), |_| Some(fact.clone()))
}

fn comes(life: &mut Life) -> Vec<String> {
    life.tell(Event::Awaits(Unmet::default()))
}

#[test]
fn waits_until_they_have_come() {
    let mut life = Life::new();
    assert_eq!(life.declare(later()), [""; 0]);
    assert!(life.machine.must_be_reviewed());
    assert_eq!(life.status().reason.as_deref(), Some("waits for b (not known yet)"));
    assert_eq!(life.tell(Event::Awaits(left(Running, None))), [""; 0]);
    assert_eq!((life.status().state, life.status().reason.as_deref()), (Waiting, Some("waits for b (running)")));
    assert!(!life.machine.must_be_reviewed() && !life.machine.is_news(&left(Running, None)));
    assert!(life.wait(seconds(10_000)).is_empty());
    assert_eq!(comes(&mut life), ["launch 1"]);
    assert_eq!(life.reasons, [LaunchReason::First]);
}

#[test]
fn says_that_one_has_failed_and_starts_if_that_is_put_right() {
    let mut life = Life::new();
    life.declare(later());
    assert_eq!(life.tell(Event::Awaits(left(Exited, Some(Outcome::Failed)))), [""; 0]);
    let status = life.status();
    assert_eq!(status.reason.as_deref(), Some("waits for b (failed: exited with status 1)"));
    assert!(status.waiting_for[0].is_stuck() && life.machine.fact().is_stuck);
    life.tell(Event::Awaits(left(Running, None)));
    assert!(!life.machine.fact().is_stuck);
    assert_eq!(comes(&mut life), ["launch 1"]);
}

#[test]
fn a_restart_by_policy_waits_for_nobody() {
    let mut life = Life::new();
    life.declare(later());
    comes(&mut life);
    life.start(1);
    assert_eq!(life.tell(Event::Awaits(left(Running, None))), [""; 0], "what runs goes on");
    life.end(1, code(1));
    assert_eq!(life.wait(seconds(3)), ["launch 2"]);
}

#[test]
fn each_new_life_waits_once_more() {
    let mut life = Life::new();
    life.declare(later());
    comes(&mut life);
    life.start(1);
    assert_eq!(life.order(raised(3)), ["interrupt 1"]);
    assert_eq!(life.end(1, code(0)), [""; 0]);
    assert!(life.machine.must_be_reviewed());
    assert_eq!(comes(&mut life), ["launch 2"]);
}

#[test]
fn nothing_but_the_word_that_they_have_come_starts_it() {
    let mut life = Life::new();
    life.declare(missing(later()));
    assert_eq!(comes(&mut life), [""; 0]);
    assert!(!life.machine.must_be_reviewed());
    assert_eq!(life.status().waiting_for.len(), 1, "the workdir is left");
    assert_eq!(life.update(later()), [""; 0], "they may have gone since");
    assert!(life.machine.must_be_reviewed());
    assert_eq!(comes(&mut life), ["launch 1"]);
}

#[test]
fn a_pause_comes_before_and_a_missing_program_after() {
    let mut life = Life::new();
    life.order(paused());
    life.declare(later());
    assert_eq!(comes(&mut life), [""; 0]);
    assert_eq!(life.order(Orders::default()), [""; 0]);
    assert_eq!(comes(&mut life), ["launch 1"]);
    life.not_started(1, not_found());
    life.gone(1);
    life.tell(Event::Awaits(left(Running, None)));
    assert!(life.status().waiting_for.iter().any(|cause| matches!(cause, WaitingFor::After { .. })));
    assert_eq!(life.wait(seconds(5)), [""; 0], "it has not started yet");
    assert_eq!(comes(&mut life), ["launch 2"]);
}

#[test]
fn what_runs_is_not_touched_by_an_order_that_is_added() {
    let mut life = Life::running(restarting(Restart::Always));
    assert_eq!(life.update(later()), [""; 0]);
    assert!(life.machine.comes_after().is_empty());
    life.end(1, code(0));
    assert_eq!(life.wait(seconds(3)), ["launch 2"]);
}

#[test]
fn an_order_that_is_removed_lets_it_start() {
    let mut life = Life::new();
    life.declare(later());
    life.tell(Event::Awaits(left(Running, None)));
    assert_eq!(life.update(restarting(Restart::Always)), ["launch 1"]);
}

#[test]
fn the_next_daemon_looks_for_itself() {
    let mut life = Life::new();
    life.declare(later());
    life.tell(Event::Awaits(left(Running, None)));
    let text = serde_json::to_string(&life.machine).unwrap();
    life.machine = serde_json::from_str(&text).unwrap();
    assert!(life.machine.resume().is_empty());
    assert_eq!(comes(&mut life), [""; 0], "its declaration is not read yet");
    assert_eq!(life.update(later()), [""; 0]);
    assert_eq!(comes(&mut life), ["launch 1"]);
    life.start(1);
    let text = serde_json::to_string(&life.machine).unwrap();
    life.machine = serde_json::from_str(&text).unwrap();
    assert_eq!(life.machine.resume().iter().map(in_words).collect::<Vec<_>>()[0], "resume 1");
    assert_eq!(life.update(later()), [""; 0]);
    assert_eq!(life.status().state, Running);
}

#[test]
fn what_others_must_know_is_told_of_each_end() {
    let fact = Life::over(plain(), code(1)).machine.fact();
    assert_eq!((fact.state, fact.outcome), (Exited, Some(Outcome::Failed)));
    assert_eq!(fact.reason.as_deref(), Some("exited with status 1"));
    assert!(!fact.is_stuck);
    let mut stopped_one = Life::over(plain(), code(0));
    stopped_one.order(stopped(false));
    let fact = stopped_one.machine.fact();
    assert_eq!((fact.state, fact.outcome, fact.is_stuck), (Waiting, None, true));
}
