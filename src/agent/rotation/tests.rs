use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use super::*;
use crate::agent::name::key;

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn set(secrets: &[&str]) -> BTreeSet<String> {
    secrets.iter().map(|&secret| secret.to_owned()).collect()
}

/// The start of time, and as many seconds later.
fn clock() -> impl Fn(u64) -> Timestamp {
    let start = Timestamp::now();
    move |count| start + seconds(count)
}

fn rotation(on_rotate: OnRotate, spread: u64) -> Rotation {
    Rotation { on_rotate, spread: seconds(spread), ..Rotation::default() }
}

/// Runs since `since` with an old value of `KEY`, which has had a new one since then.
fn old(name: &str, rotation: Rotation, since: Timestamp) -> Member {
    Member {
        pending: Some(Pending { secrets: set(&["KEY"]), since }),
        is_ready: true,
        stage: Stage::Running(since),
        ..Member::new(name.parse().unwrap(), rotation)
    }
}

/// Was launched with the new value then.
fn new(name: &str, at: Timestamp, stage: Stage) -> Member {
    Member {
        renewal: Some(Renewal { secrets: set(&["KEY"]), at, is_proven: false, failure: None }),
        is_ready: true,
        stage,
        ..Member::new(name.parse().unwrap(), Rotation::default())
    }
}

fn failed(member: Member) -> Member {
    let renewal = member.renewal.clone().unwrap();
    Member { renewal: Some(Renewal { failure: Some("exited with status 1".to_owned()), ..renewal }), ..member }
}

fn rolled(members: &[Member], now: Timestamp) -> Vec<String> {
    let members = members.iter().map(|member| (member.name.key(), member.clone())).collect();
    let steps = roll(&members, now);
    steps
        .into_iter()
        .map(|(key, step)| match step {
            Step::Rotate => format!("{key}: rotate"),
            Step::Wait { why, until } => {
                let until = until.map(|at| format!(" for {} s", at.since(now).as_secs())).unwrap_or_default();
                format!("{key}: {:?}{until}", why.cause()).to_lowercase()
            }
        })
        .collect()
}

#[test]
fn an_agent_that_could_not_be_started_keeps_what_it_runs_with() {
    let at = clock();
    let barred_by = Some(Group::of_variable("KEY", 1));
    let barred = Member { barred_by, ..old("a", rotation(OnRotate::Relaunch, 0), at(0)) };
    assert_eq!(rolled(&[barred], at(1)), ["a: hold"]);
}

#[test]
fn without_a_distance_all_that_are_due_rotate_at_once() {
    let at = clock();
    let idle = |name: &str| Member { doing: Some(Doing::Idle), ..old(name, rotation(OnRotate::Idle, 0), at(0)) };
    assert_eq!(rolled(&[idle("a"), idle("b")], at(1)), ["a: rotate", "b: rotate"]);
}

#[test]
fn a_busy_agent_rotates_after_an_hour_and_one_of_which_nothing_is_known_too() {
    let at = clock();
    for doing in [None, Some(Doing::Working), Some(Doing::Blocked)] {
        let member = Member { doing, ..old("a", rotation(OnRotate::Idle, 0), at(0)) };
        assert_eq!(rolled(std::slice::from_ref(&member), at(10)), ["a: busy for 3590 s"], "{doing:?}");
        assert_eq!(rolled(&[member], at(3600)), ["a: rotate"], "{doing:?}");
    }
}

#[test]
fn an_agent_that_waits_for_its_next_start_is_left_alone() {
    let at = clock();
    let of = |on_rotate| old("a", rotation(on_rotate, 0), at(0));
    assert_eq!(rolled(&[of(OnRotate::Next)], at(1_000_000)), ["a: nextstart"]);
    assert_eq!(rolled(&[of(OnRotate::Files)], at(1_000_000)), ["a: filesreplaced"]);
}

#[test]
fn an_agent_that_could_not_be_started_again_keeps_running() {
    let at = clock();
    let member = Member { is_ready: false, ..old("a", rotation(OnRotate::Relaunch, 1), at(0)) };
    assert_eq!(rolled(&[member], at(10)), ["a: lacking"]);
}

#[test]
fn agents_follow_one_another_at_their_distance_once_the_one_before_runs() {
    let at = clock();
    let spread = rotation(OnRotate::Relaunch, 60);
    let late = || old("b", spread, at(0));
    assert_eq!(rolled(&[old("a", spread, at(0)), late()], at(1)), ["a: rotate", "b: turn"], "one at a time");
    let stopping = Member { stage: Stage::Stopping, ..old("a", spread, at(0)) };
    assert_eq!(rolled(&[stopping, late()], at(2)), ["b: turn"]);
    assert_eq!(rolled(&[new("a", at(3), Stage::Starting), late()], at(4)), ["b: turn"]);
    let runs = || new("a", at(3), Stage::Running(at(4)));
    assert_eq!(rolled(&[runs(), late()], at(5)), ["b: turn for 4 s"]);
    assert_eq!(rolled(&[runs(), late()], at(9)), ["b: turn for 54 s"]);
    assert_eq!(rolled(&[runs(), late()], at(63)), ["b: rotate"]);
}

#[test]
fn agents_of_different_secrets_do_not_wait_for_one_another() {
    let at = clock();
    let spread = rotation(OnRotate::Relaunch, 60);
    let other = Member { pending: Some(Pending { secrets: set(&["OTHER"]), since: at(0) }), ..old("b", spread, at(0)) };
    assert_eq!(rolled(&[old("a", spread, at(0)), other], at(1)), ["a: rotate", "b: rotate"]);
}

#[test]
fn a_failure_holds_the_rest_until_it_runs_or_the_values_change_again() {
    let at = clock();
    let late = || old("b", rotation(OnRotate::Relaunch, 1), at(0));
    let over = failed(new("a", at(1), Stage::Over));
    assert_eq!(rolled(&[over.clone(), late()], at(1_000_000)), ["b: failed"]);
    let again = failed(new("a", at(1), Stage::Running(at(10))));
    assert_eq!(rolled(&[again.clone(), late()], at(11)), ["b: failed for 4 s"]);
    assert_eq!(rolled(&[again, late()], at(15)), ["b: rotate"]);
    let newer = Member { pending: Some(Pending { secrets: set(&["KEY"]), since: at(20) }), ..over };
    assert_eq!(rolled(&[newer, late()], at(21)), ["b: rotate"], "it failed with an older value");
}

#[test]
fn a_failure_holds_agents_without_a_distance_too() {
    let at = clock();
    let idle = Member { doing: Some(Doing::Idle), ..old("b", rotation(OnRotate::Idle, 0), at(0)) };
    assert_eq!(rolled(&[failed(new("a", at(1), Stage::Over)), idle], at(9)), ["b: failed"]);
}

#[test]
fn an_agent_that_must_be_logged_in_holds_the_rest_however_long_it_runs() {
    let at = clock();
    let late = || old("b", rotation(OnRotate::Relaunch, 1), at(0));
    let runs = new("a", at(1), Stage::Running(at(1)));
    assert_eq!(rolled(&[runs.clone(), late()], at(500)), ["b: rotate"]);
    assert_eq!(rolled(&[Member { doing: Some(Doing::Login), ..runs }, late()], at(500)), ["b: failed"]);
}

/// The same cases each time.
fn config() -> Config {
    Config { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..Config::default() }
}

/// What an agent does with the new value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nature {
    Works,
    Fails,
    EndsWell,
    IsSlowToStart,
}

fn natures() -> impl Strategy<Value = Vec<(Nature, u64, bool)>> {
    let nature = prop_oneof![5 => Just(Nature::Works), 1 => Just(Nature::Fails), 1 => Just(Nature::EndsWell), 1 => Just(Nature::IsSlowToStart)];
    prop::collection::vec((nature, 1_u64..40, any::<bool>()), 1..8)
}

proptest! {
    #![proptest_config(config())]

    /// A world of agents that share a secret, each second looked at once.
    #[test]
    fn nobody_waits_for_ever_and_no_roll_goes_past_a_failure(natures in natures()) {
        let at = clock();
        let mut members: BTreeMap<Key, Member> = BTreeMap::new();
        for (number, &(_, spread, is_idle)) in natures.iter().enumerate() {
            let within = Rotation { within: seconds(30), ..rotation(OnRotate::Idle, spread) };
            let doing = is_idle.then_some(Doing::Idle);
            let name = format!("a{number}");
            members.insert(key(&name), Member { doing, ..old(&name, within, at(0)) });
        }
        let mut has_failed = false;
        let mut latest: Option<u64> = None;
        for second in 1..=1_000_u64 {
            let now = at(second);
            for (number, (_, member)) in members.iter_mut().enumerate() {
                let (nature, ..) = natures[number];
                member.stage = match (member.stage, nature) {
                    (Stage::Stopping, _) => {
                        member.pending = None;
                        member.renewal =
                            Some(Renewal { secrets: set(&["KEY"]), at: now, is_proven: false, failure: None });
                        Stage::Starting
                    }
                    (Stage::Starting, Nature::IsSlowToStart) if second % 20 != 0 => Stage::Starting,
                    (Stage::Starting, _) => Stage::Running(now),
                    (Stage::Running(_), Nature::Fails | Nature::EndsWell) if member.renewal.is_some() => {
                        let renewal = member.renewal.as_mut().unwrap();
                        if nature == Nature::Fails {
                            (renewal.failure, has_failed) = (Some("no".to_owned()), true);
                        } else {
                            renewal.is_proven = true;
                        }
                        Stage::Over
                    }
                    (stage, _) => stage,
                };
            }
            let steps = roll(&members, now);
            let rotated: Vec<_> = steps.iter().filter(|(_, step)| **step == Step::Rotate).map(|(key, _)| key.clone()).collect();
            prop_assert!(rotated.len() <= 1, "one at a time: {rotated:?}");
            if let Some(key) = rotated.first() {
                prop_assert!(!has_failed, "{key} went past a failure");
                let spread = members[key].rotation.spread.as_secs();
                prop_assert!(latest.is_none_or(|latest| second - latest >= spread), "{key} came too soon");
                latest = Some(second);
                members.get_mut(key).unwrap().stage = Stage::Stopping;
            }
        }
        let waits = members.values().filter(|member| member.pending.is_some()).count();
        prop_assert!(has_failed || waits == 0, "{waits} wait forever");
    }
}
