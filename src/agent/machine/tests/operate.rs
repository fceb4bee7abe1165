//! What comes of an operator's orders, and of `enabled` and `generation` in the entry.

use super::*;

fn disabling() -> Declaration {
    declaration(|policy| policy.enabled = false)
}

fn of_generation(generation: u64) -> Declaration {
    declaration(|policy| policy.generation = generation)
}

fn by_op() -> StoppingBecause {
    StoppingBecause::Disabled { by: Some("op".to_owned()), at: None }
}

/// The machine that the next daemon makes of the record.
fn next_daemon(life: &Life) -> Life {
    let machine = serde_json::from_str(&serde_json::to_string(&life.machine).unwrap()).unwrap();
    Life { now: life.now, ..Life::of(machine) }
}

#[test]
fn a_stop_goes_through_grace_and_ends_in_waiting() {
    let mut life = Life::running(restarting(Restart::Always));
    assert_eq!(life.order(stopped(false)), ["interrupt 1"]);
    assert_eq!(
        (life.state(), life.status().deadline, life.status().stopping_because),
        (Stopping, at(30), Some(by_op()))
    );
    assert_eq!(life.wait(seconds(30)), ["interrupt again 1", "kill 1"]);
    assert_eq!(life.end(1, ExitStatus::Signal("SIGKILL".parse().unwrap())), ["offer shell a"]);
    assert_eq!(life.accounts[0].reason, "stopped by op");
    let status = life.status();
    assert_eq!((status.state, status.outcome, status.overridden.unwrap().enabled), (Waiting, None, Some(false)));
    assert_eq!(status.waiting_for, [WaitingFor::Enabled { by: Some("op".into()), at: None }]);
    assert_eq!(status.reason.as_deref(), Some("stopped by op: `agentd start a` starts it"));
    assert!(life.wait(seconds(100_000)).is_empty());
}

#[test]
fn a_stop_at_once_kills_also_one_that_is_stopping() {
    let mut life = Life::running(plain());
    assert_eq!(life.order(stopped(true)), ["kill 1"]);
    let mut life = Life::running(plain());
    life.order(stopped(false));
    assert_eq!(life.order(stopped(true)), ["kill 1"]);
    assert_eq!(life.status().deadline, at(0));
    assert!(life.order(stopped(true)).is_empty());
    let mut life = Life::running(plain());
    life.declare(launching(launch("a", "y")));
    assert_eq!(life.order(stopped(true)), ["kill 1"]);
}

#[test]
fn a_stop_between_attempts_leaves_a_shell_to_look_around() {
    let mut life = Life::running(restarting(Restart::Always));
    life.end(1, code(1));
    assert_eq!(life.state(), Backoff);
    assert_eq!(life.order(stopped(false)), ["offer shell a"]);
    assert_eq!(life.state(), Waiting);
    assert!(life.order(stopped(true)).is_empty(), "there is one");
    let mut life = Life::over(plain(), code(0));
    assert!(life.order(stopped(false)).is_empty(), "there is one since the end");
}

#[test]
fn an_override_that_asks_for_nothing_is_not_shown() {
    let mut life = Life::running(plain());
    let neutral = Override { by: Some("op".into()), ..Override::default() };
    life.order(Orders { own: Some(neutral.clone()), pause: None });
    assert_eq!(life.status().overridden, None);
    for own in [
        Override { enabled: Some(true), ..neutral.clone() },
        Override { generation: Some(0), ..neutral.clone() },
        Override { now: true, ..neutral },
    ] {
        life.order(Orders { own: Some(own.clone()), pause: None });
        assert_eq!(life.status().overridden, Some(own));
    }
}

#[test]
fn a_start_is_a_new_life() {
    let mut life = Life::running(declaration(|policy| {
        policy.restart = Restart::Always;
        policy.max_restarts = Some(1);
    }));
    life.end(1, code(1));
    life.wait(seconds(3));
    life.start(2);
    life.order(stopped(false));
    life.end(2, code(0));
    assert_eq!((life.status().restarts, life.status().attempt), (1, Some(2)));
    life.now = life.now + seconds(60);
    assert_eq!(life.order(Orders::default()), ["launch 3"]);
    assert_eq!(life.reasons.last(), Some(&LaunchReason::Restarted));
    assert_eq!((life.status().restarts, life.status().attempt, life.status().declared_at), (0, Some(1), at(63)));
}

#[rstest]
#[case::completed(Life::over(plain(), code(0)))]
#[case::failed(Life::over(plain(), code(3)))]
#[case::gave_up({
    let mut life = Life::over(declaration(|policy| {
        policy.restart = Restart::Always;
        policy.max_restarts = Some(1);
    }), code(1));
    life.wait(seconds(3));
    life.start(2);
    life.end(2, code(1));
    life
})]
#[case::timed_out({
    let mut life = Life::running(timing_out(10));
    life.wait(seconds(10));
    life.end(1, code(0));
    life
})]
fn what_is_over_runs_again_by_a_restart_or_a_stop_and_a_start(#[case] mut life: Life) {
    assert_eq!(life.state(), Exited);
    let attempt = life.machine.latest_attempt() + 1;
    assert_eq!(life.order(raised(1)), [format!("launch {attempt}")]);
    assert_eq!(life.status().generation, 1);
    life.start(attempt);
    life.end(attempt, code(0));
    life.wait(seconds(2));
    // At the end of a life there was a shell already.
    let shell: &[&str] = if life.state() == Backoff { &["offer shell a"] } else { &[] };
    assert_eq!(life.order(stopped(false)), shell);
    assert_eq!((life.state(), life.status().outcome), (Waiting, None));
}

#[test]
fn a_restart_stops_through_grace_and_starts() {
    let mut life = Life::running(plain());
    assert_eq!(life.order(raised(1)), ["interrupt 1"]);
    let because = StoppingBecause::Restarted { by: Some("op".to_owned()), at: None };
    assert_eq!(life.status().stopping_because, Some(because));
    // The command line removes the file once it was taken.
    assert!(life.order(Orders::default()).is_empty());
    assert_eq!(life.end(1, code(0)), ["launch 2"]);
    assert_eq!((life.status().generation, life.status().attempt), (1, Some(1)));
    life.start(2);
    assert!(life.order(raised(1)).is_empty(), "it was followed");
    let at_once = Orders { own: Some(Override { now: true, ..raised(2).own.unwrap() }), pause: None };
    assert_eq!(life.order(at_once), ["kill 2"]);
}

#[test]
fn the_higher_generation_counts() {
    let mut life = Life::running(of_generation(5));
    assert!(life.order(raised(4)).is_empty());
    assert_eq!(life.status().generation, 5);
    assert_eq!(life.order(raised(6)), ["interrupt 1"]);
    assert!(life.update(of_generation(6)).is_empty());
    assert_eq!(life.end(1, code(0)), ["launch 2"]);
    life.start(2);
    assert!(life.update(of_generation(2)).is_empty(), "a lower one takes nothing back");
    assert_eq!(life.update(of_generation(7)), ["interrupt 2"]);
}

#[test]
fn an_entry_can_disable_and_an_override_enable() {
    let mut life = Life::new();
    assert!(life.declare(disabling()).is_empty());
    assert_eq!(life.status().waiting_for, [WaitingFor::Enabled { by: None, at: None }]);
    assert_eq!(life.status().reason.as_deref(), Some("its entry says `enabled = false`"));
    let own = Override { enabled: Some(true), ..Override::default() };
    assert_eq!(life.order(Orders { own: Some(own), pause: None }), ["launch 1"]);
    assert_eq!(life.reasons, [LaunchReason::First]);
    life.start(1);
    assert_eq!(life.order(Orders::default()), ["interrupt 1"]);
    assert_eq!(life.status().stopping_because, Some(StoppingBecause::Disabled { by: None, at: None }));
    assert!(life.update(plain()).is_empty(), "a deadline never moves");
    assert_eq!(life.end(1, code(0)), ["launch 2"]);
}

#[test]
fn a_disabled_agent_starts_for_no_other_reason() {
    let mut life = Life::over(timing_out(60), code(1));
    assert_eq!(life.state(), Backoff);
    assert_eq!(life.order(stopped(false)), ["offer shell a"]);
    assert!(life.update(restarting(Restart::Always)).is_empty());
    assert!(life.declare(launching(launch("a", "y"))).is_empty());
    assert!(life.wait(seconds(100_000)).is_empty());
    assert_eq!((life.state(), life.status().timeout_at), (Waiting, None));
    assert_eq!(life.order(Orders::default()), ["launch 2"]);
}

#[test]
fn all_that_is_missing_is_listed_in_the_order_of_the_gates() {
    let mut life = Life::new();
    life.order(Orders { own: stopped(false).own, pause: paused().pause });
    life.declare(missing(plain()));
    let kinds: Vec<_> =
        life.status().waiting_for.iter().map(|it| serde_json::to_value(it).unwrap()["kind"].clone()).collect();
    assert_eq!(kinds, ["enabled", "paused", "workdir"]);
}

#[test]
fn a_pause_lets_nothing_start_and_touches_nothing_that_runs() {
    let mut life = Life::running(restarting(Restart::Always));
    assert!(life.order(paused()).is_empty());
    assert_eq!(life.state(), Running);
    life.end(1, code(1));
    assert_eq!(life.state(), Backoff);
    assert!(life.wait(seconds(100)).is_empty());
    assert_eq!((life.state(), life.status().waiting_for), (Waiting, vec![WaitingFor::Paused { by: None, at: None }]));
    assert_eq!(life.order(Orders::default()), ["launch 2"]);
    assert_eq!((life.reasons.last(), life.status().restarts), (Some(&LaunchReason::Policy), 1));
}

#[test]
fn a_removed_agent_follows_no_orders() {
    let mut life = Life::running(plain());
    life.remove();
    assert!(life.order(raised(1)).is_empty());
    assert!(life.order(stopped(false)).is_empty());
    assert_eq!(life.end(1, code(0)), ["close a"]);
    life.closed();
    assert!(life.machine.is_gone());
}

#[test]
fn orders_survive_the_daemon() {
    let mut life = Life::running(plain());
    life.order(stopped(false));
    let mut next = next_daemon(&life);
    assert_eq!(next.machine.resume().iter().map(in_words).collect::<Vec<_>>(), ["resume 1", "interrupt 1"]);
    assert_eq!(next.status().stopping_because, Some(by_op()));
    assert!(next.update(plain()).is_empty());
    assert_eq!(next.end(1, code(0)), ["offer shell a"]);
    let mut next = next_daemon(&next);
    assert_eq!(next.machine.resume().iter().map(in_words).collect::<Vec<_>>(), ["offer shell a"]);
    assert!(next.update(plain()).is_empty());
    assert_eq!(next.status().reason.as_deref(), Some("stopped by op: `agentd start a` starts it"));
    assert_eq!(next.order(Orders::default()), ["launch 2"]);
}

#[test]
fn adoption_restarts_only_what_was_raised_meanwhile() {
    let mut life = Life::running(of_generation(2));
    let mut next = next_daemon(&life);
    let _ = next.machine.resume();
    assert!(next.update(of_generation(2)).is_empty());
    let mut next = next_daemon(&life);
    let _ = next.machine.resume();
    assert_eq!(next.order(raised(3)), ["interrupt 1"]);
    assert!(next.update(of_generation(4)).is_empty(), "both are one restart");
    life.order(Orders::default());
}

#[test]
fn a_record_without_a_generation_takes_the_present_one_as_given() {
    let life = Life::running(plain());
    let mut record = serde_json::to_value(&life.machine).unwrap();
    assert_eq!(record["declared"].as_object_mut().unwrap().remove("generation"), Some(0.into()));
    let mut next = Life::of(serde_json::from_value(record).unwrap());
    let _ = next.machine.resume();
    assert!(next.order(raised(3)).is_empty());
    assert!(next.update(of_generation(5)).is_empty());
    assert_eq!((next.state(), next.status().generation), (Running, 5));
    assert_eq!(next.order(raised(6)), ["interrupt 1"]);
}

#[test]
fn a_bar_lets_an_attempt_end_and_keeps_the_next_from_starting() {
    let as_user = || {
        let user = AgentUser { name: "b".parse().unwrap(), uid: 47_000 };
        let launch = Launch { user: Some(user), ..Arc::unwrap_or_clone(launch("a", "x")) };
        let policy = restarting(Restart::Always).policy;
        Declaration { policy, ..launching(Arc::new(launch)) }
    };
    let bar = |why: &str| Event::Barred(Some(why.to_owned()));
    let mut life = Life::running(as_user());
    assert!(life.tell(bar("b is in group admin")).is_empty());
    assert_eq!(life.state(), Running);
    life.end(1, code(1));
    assert_eq!(life.state(), Backoff);
    assert!(life.wait(seconds(1000)).is_empty());
    assert_eq!((life.state(), life.status().reason.as_deref()), (Waiting, Some("b is in group admin")));
    assert!(life.order(raised(9)).is_empty(), "nor by an order");
    assert!(life.tell(bar("b is root")).is_empty());
    let launched = life.tell(Event::Barred(None));
    assert!(launched.iter().any(|effect| effect.starts_with("launch")), "{launched:?}");
    assert!(life.tell(Event::Barred(None)).is_empty());
}
