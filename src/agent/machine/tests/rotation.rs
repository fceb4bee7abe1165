//! New values of secrets: what waits, since when, and what came of them.

use super::*;
use crate::agent::hold::{Evidence, HoldKind};
use crate::agent::rotation::{OnRotate, Rotation, Stage};

/// Launched with this value of the secret `KEY`, whose mark it is, from the file `key-file`.
fn with_key(value: u32) -> Declaration {
    let mut marking = Marking::new("k");
    marking.field("args", 1);
    marking.secret("KEY", value << 16);
    let launch = Launch {
        fingerprint: Fingerprint(format!("1:same:{value}")),
        marks: marking.finish(),
        secret_sources: [("KEY".to_owned(), "key-file".to_owned())].into(),
        ..Arc::unwrap_or_clone(launch("a", "x"))
    };
    let rotation = Rotation { on_rotate: OnRotate::Next, ..Rotation::default() };
    Declaration { launch: Ok(Arc::new(launch)), ..declaration(|policy| policy.rotation = rotation) }
}

fn pending(life: &Life) -> Option<(Vec<String>, Time)> {
    let pending = life.machine.member()?.pending?;
    Some((pending.secrets.into_iter().collect(), Time(pending.since.wall())))
}

fn since(life: &Life) -> Option<Time> {
    life.machine.status().secrets.first().and_then(|secret| secret.since)
}

/// What a later daemon reads of it.
fn taken_up(life: Life) -> Life {
    let text = serde_json::to_string(&life.machine).unwrap();
    let mut machine: Machine = serde_json::from_str(&text).unwrap();
    let _ = machine.resume();
    Life { machine, ..life }
}

#[test]
fn new_values_wait_since_the_first_of_them_and_until_the_old_ones_are_back() {
    let mut life = Life::running(with_key(1));
    let begun = since(&life);
    life.wait(seconds(10));
    assert_eq!(life.update(with_key(2)), [""; 0]);
    let first = pending(&life).unwrap();
    assert_eq!(first.0, ["key-file"]);
    life.wait(seconds(10));
    assert_eq!(life.update(with_key(3)), [""; 0]);
    assert_eq!(pending(&life), Some(first));
    assert_eq!(since(&life), begun, "it runs with the first value");
    assert_eq!(life.update(with_key(1)), [""; 0]);
    assert_eq!(pending(&life), None);
}

#[test]
fn a_rotation_is_a_new_life_that_names_the_secret() {
    let mut life = Life::running(with_key(1));
    assert_eq!(life.tell(Event::Rotate), [""; 0], "nothing waits");
    assert_eq!(life.update(with_key(2)), [""; 0]);
    assert_eq!(life.tell(Event::Rotate), ["interrupt 1"]);
    let status = life.machine.status();
    assert_eq!(status.changed.secrets, ["KEY"]);
    assert_eq!(life.machine.member().unwrap().stage, Stage::Stopping);
    assert_eq!(life.tell(Event::Rotate), [""; 0], "it is on its way");
    life.ended(1, code(0));
    let launched = life.tell(Event::Gone { attempt: 1 });
    assert_eq!(launched.len(), 1, "{launched:?}");
    let member = life.machine.member().unwrap();
    assert_eq!((member.pending, member.renewal.map(|it| (it.is_proven, it.failure))), (None, Some((false, None))));
}

#[test]
fn the_next_start_gets_the_new_values_whoever_asked_for_it() {
    let mut life = Life::running(with_key(1));
    life.wait(seconds(5));
    life.update(with_key(2));
    life.order(raised(7));
    life.ended(1, code(0));
    life.tell(Event::Gone { attempt: 1 });
    assert_eq!(pending(&life), None);
    assert!(life.machine.member().unwrap().renewal.is_some());
    assert_eq!(life.machine.in_force().unwrap().fingerprint(), Some(&Fingerprint("1:same:2".to_owned())));
}

#[test]
fn an_agent_that_is_over_is_not_started_by_new_values() {
    let mut life = Life::over(with_key(1), code(0));
    assert_eq!(life.update(with_key(2)), [""; 0]);
    assert_eq!(life.tell(Event::Rotate), [""; 0]);
    assert_eq!(life.machine.status().state, crate::wire::status::State::Exited);
}

#[test]
fn new_values_wait_on_after_the_daemon_was_killed() {
    let mut life = Life::running(with_key(1));
    life.update(with_key(2));
    let before = pending(&life);
    let mut life = taken_up(life);
    assert!(!life.machine.member().unwrap().is_ready, "what is to be launched is not known yet");
    assert_eq!(life.tell(Event::Rotate), [""; 0]);
    life.wait(seconds(60));
    assert_eq!(life.update(with_key(2)), [""; 0]);
    assert_eq!(pending(&life), before, "and since when");
    assert_eq!(life.tell(Event::Rotate), ["interrupt 1"]);
}

#[test]
fn values_that_changed_while_no_daemon_ran_wait_too() {
    let mut life = taken_up(Life::running(with_key(1)));
    assert_eq!(life.update(with_key(2)), [""; 0]);
    assert!(pending(&life).is_some());
}

#[test]
fn an_early_failure_speaks_against_the_new_values_and_a_run_for_them() {
    let renewed = || {
        let mut life = Life::running(with_key(1));
        life.update(with_key(2));
        life.tell(Event::Rotate);
        life.ended(1, code(0));
        life.tell(Event::Gone { attempt: 1 });
        life
    };
    let verdict = |life: &Life| {
        let renewal = life.machine.member().unwrap().renewal.unwrap();
        (renewal.is_proven, renewal.failure)
    };
    let mut life = renewed();
    life.start(2);
    life.wait(seconds(1));
    life.ended(2, code(1));
    assert_eq!(verdict(&life), (false, Some("exited with status 1".to_owned())));
    let mut life = renewed();
    life.start(2);
    life.wait(seconds(5));
    life.ended(2, code(1));
    assert_eq!(verdict(&life), (true, None));
    let mut life = renewed();
    life.start(2);
    life.wait(seconds(20));
    let (at, usage) = (life.now, Usage::default());
    let evidence = Some(Evidence { kind: HoldKind::Login, until: None, text: "401".to_owned() });
    life.tell(Event::Ended { attempt: 2, how: code(1), at, usage, result: None, evidence });
    assert_eq!(
        verdict(&life),
        (false, Some("exited with status 1".to_owned())),
        "its harness took its time to give up"
    );
    let mut life = renewed();
    life.not_started(2, failed("it is not a program"));
    assert_eq!(verdict(&life), (false, Some("it is not a program".to_owned())));
}
