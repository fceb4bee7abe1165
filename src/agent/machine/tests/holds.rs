//! An agent whose group keeps it from starting.

use super::*;
use crate::agent::hold::{Bar, Evidence, Group, Held, HoldKind};

fn group() -> Group {
    Group::of_variable("API_KEY", 7)
}

fn held(kind: HoldKind, until: u64) -> Bar {
    Bar::Held(Held {
        group: group(),
        kind,
        since: START,
        until: START + seconds(until),
        own_until: None,
        text: "limit".to_owned(),
        unknown: 0,
        tries: Vec::new(),
    })
}

fn turn() -> Bar {
    Bar::Turn { group: group(), first: Some("b".parse().unwrap()), until: None, after: None }
}

fn with(on_hold: OnHold, restart: Restart) -> Declaration {
    declaration(|policy| {
        policy.restart = restart;
        policy.timeout = Some(seconds(100));
        policy.hold = on_hold;
    })
}

/// The attempt fails because of its credential.
fn fail(life: &mut Life, attempt: Attempt, bar: Bar) -> Vec<String> {
    let kind = bar.held().map_or(HoldKind::Login, |held| held.kind);
    life.machine.set_hold(Some(bar));
    let evidence = Some(Evidence { kind, until: None, text: "limit".to_owned() });
    let usage = Usage::default();
    let mut effects = life.tell(Event::Ended { attempt, how: code(1), at: life.now, usage, result: None, evidence });
    effects.extend(life.gone(attempt));
    effects
}

/// The group lets it go.
fn release(life: &mut Life) -> Vec<String> {
    life.tell(Event::Held(None))
}

#[rstest]
#[case(Restart::No)]
#[case(Restart::OnFailure)]
#[case(Restart::Always)]
fn waits_for_a_login_and_starts_again_without_a_restart(#[case] restart: Restart) {
    let mut life = Life::running(with(OnHold::Wait, restart));
    assert!(fail(&mut life, 1, held(HoldKind::Login, 3600)).is_empty());
    let status = life.status();
    assert_eq!((status.state, status.restarts, status.next_start_at), (Waiting, 0, None));
    assert!(matches!(status.waiting_for[..], [WaitingFor::Hold { hold: HoldKind::Login, .. }]), "{status:?}");
    assert_eq!(status.hold.unwrap().until, None, "nobody knows when a person logs it in");
    assert!(life.wait(seconds(10_000)).is_empty(), "its timeout stands still");
    assert_eq!(release(&mut life), ["launch 2"]);
    assert_eq!((life.status().restarts, life.reasons.last()), (0, Some(&LaunchReason::Released)));
    assert_eq!(life.status().hold, None);
    // 100 s, of which 0 had passed.
    life.start(2);
    assert_eq!(life.wait(seconds(99)), [""; 0]);
    assert_eq!(life.wait(seconds(1)), ["interrupt 2"]);
}

#[test]
fn is_in_backoff_until_its_quota_is_reset() {
    let mut life = Life::running(with(OnHold::Wait, Restart::Always));
    fail(&mut life, 1, held(HoldKind::Quota, 3600));
    let status = life.status();
    assert_eq!((status.state, status.next_start_at), (Backoff, at(3600)));
    assert_eq!(status.hold.unwrap().until, at(3600));
    assert!(life.wait(seconds(3599)).is_empty());
    // Another is the canary.
    life.machine.set_hold(Some(turn()));
    assert!(life.wait(seconds(1)).is_empty());
    assert_eq!(life.state(), Waiting);
    assert_eq!(release(&mut life), ["launch 2"]);
    assert_eq!(life.status().restarts, 0);
}

#[test]
fn keeps_the_steps_of_its_backoff() {
    let mut life = Life::running(declaration(|policy| {
        policy.restart = Restart::Always;
        policy.hold = OnHold::Wait;
        policy.backoff = vec![seconds(1), seconds(50)];
    }));
    fail(&mut life, 1, held(HoldKind::Login, 3600));
    release(&mut life);
    life.start(2);
    life.end(2, code(1));
    assert_eq!(life.wait(seconds(1)), ["launch 3"], "it is the first restart");
    assert_eq!(life.status().restarts, 1);
}

#[rstest]
#[case(OnHold::Fail)]
#[case(OnHold::Off)]
fn fails_as_the_policy_says(#[case] on_hold: OnHold) {
    let mut life = Life::running(with(on_hold, Restart::No));
    fail(&mut life, 1, held(HoldKind::Login, 3600));
    life.assert_over(Outcome::Failed);
    let mut life = Life::running(with(on_hold, Restart::Always));
    fail(&mut life, 1, held(HoldKind::Login, 3600));
    assert_eq!(life.state(), Backoff);
    assert!(life.wait(seconds(3)).is_empty(), "nobody of the group starts");
    assert_eq!(life.state(), Waiting);
    assert_eq!(release(&mut life), ["launch 2"]);
    assert_eq!(life.status().restarts, 1);
}

#[test]
fn a_hold_before_the_first_start_does_not_put_off_the_timeout() {
    let mut life = Life::new();
    life.machine.set_hold(Some(held(HoldKind::Login, 3600)));
    life.declare(with(OnHold::Wait, Restart::No));
    life.wait(seconds(5000));
    assert_eq!(release(&mut life), ["launch 1"]);
    life.start(1);
    assert_eq!(life.wait(seconds(99)), [""; 0]);
    assert_eq!(life.wait(seconds(1)), ["interrupt 1"]);
}

#[test]
fn a_hold_of_the_life_before_does_not_put_off_the_timeout() {
    let mut life = Life::running(with(OnHold::Wait, Restart::No));
    fail(&mut life, 1, held(HoldKind::Login, 3600));
    life.wait(seconds(5000));
    life.order(raised(7));
    assert_eq!(release(&mut life), ["launch 2"]);
    life.start(2);
    assert_eq!(life.wait(seconds(99)), [""; 0]);
    assert_eq!(life.wait(seconds(1)), ["interrupt 2"]);
}

#[test]
fn does_not_start_for_the_first_time_in_a_hold() {
    let mut life = Life::new();
    life.machine.set_hold(Some(held(HoldKind::Quota, 60)));
    assert!(life.declare(plain()).is_empty());
    assert_eq!((life.state(), life.status().attempt), (Backoff, None));
    assert_eq!(release(&mut life), ["launch 1"]);
}

#[test]
fn is_stopped_started_and_paused_in_a_hold() {
    let mut life = Life::running(with(OnHold::Wait, Restart::No));
    fail(&mut life, 1, held(HoldKind::Quota, 3600));
    life.order(stopped(false));
    assert!(matches!(life.status().waiting_for[..], [WaitingFor::Enabled { .. }, WaitingFor::Hold { .. }]));
    assert!(release(&mut life).is_empty());
    life.machine.set_hold(Some(held(HoldKind::Quota, 3600)));
    life.order(Orders::default());
    assert_eq!(life.state(), Backoff);
    life.order(paused());
    assert!(release(&mut life).is_empty(), "it is paused");
    assert_eq!(life.order(Orders::default()), ["launch 2"]);
}

#[test]
fn is_released_by_a_policy_without_holds() {
    let mut life = Life::running(with(OnHold::Wait, Restart::No));
    fail(&mut life, 1, held(HoldKind::Login, 3600));
    life.machine.set_hold(None);
    life.update(with(OnHold::Off, Restart::No));
    life.assert_over(Outcome::Failed);
}

#[rstest]
#[case(HoldKind::Login, Waiting)]
#[case(HoldKind::Quota, Backoff)]
fn is_held_by_the_next_daemon(#[case] kind: HoldKind, #[case] state: Shown) {
    let mut life = Life::running(with(OnHold::Wait, Restart::No));
    fail(&mut life, 1, held(kind, 3600));
    let record = serde_json::to_string(&life.machine).unwrap();
    assert!(!record.contains(r#""why":"hold""#), "earlier builds do not know it");
    let mut next = Life::of(serde_json::from_str(&record).unwrap());
    next.now = life.now;
    assert!(next.machine.resume().is_empty());
    assert_eq!((next.state(), next.status().restarts), (state, 0));
    assert_eq!(next.machine.hold(), life.machine.hold());
    assert!(next.update(with(OnHold::Wait, Restart::No)).is_empty());
    assert_eq!(next.state(), state);
    assert_eq!(release(&mut next), ["launch 2"]);
    assert_eq!(next.status().restarts, 0);
}

#[test]
fn goes_on_if_it_runs() {
    let mut life = Life::running(plain());
    assert!(life.tell(Event::Held(Some(held(HoldKind::Login, 3600)))).is_empty());
    assert_eq!((life.state(), life.status().hold), (Running, None));
}
