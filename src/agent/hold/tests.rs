use std::time::SystemTime;

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> Timestamp {
    let boot = Duration::from_secs(seconds);
    Timestamp::new(boot, SystemTime::UNIX_EPOCH + boot)
}

fn key(name: &str) -> Key {
    name.parse().unwrap()
}

fn group() -> Group {
    Group::of_variable("API_KEY", 0x12_3456)
}

fn login() -> Evidence {
    Evidence { kind: HoldKind::Login, until: None, text: "401".to_owned() }
}

fn quota(until: Option<Timestamp>) -> Evidence {
    Evidence { kind: HoldKind::Quota, until, text: "limit".to_owned() }
}

/// A hold of this evidence that began at 0, after `a` had failed.
fn held(evidence: Evidence) -> Holds {
    let mut holds = Holds::default();
    holds.count([(group(), 10)].into());
    holds.launched(&group(), &key("a"), at(0));
    holds.failed(&group(), &key("a"), evidence, RETRY, at(0));
    holds
}

fn may_start(holds: &Holds, name: &str, seconds: u64) -> bool {
    holds.bar(&group(), &key(name), at(seconds)).is_none()
}

/// The moment from which this agent may try.
fn until(holds: &Holds, name: &str) -> u64 {
    match holds.bar(&group(), &key(name), at(0)) {
        Some(Bar::Held(held)) => held.end().boot().as_secs() + 1,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_group_tells_nothing_of_its_credential() {
    assert_eq!(group().as_str(), "API_KEY-123456");
    assert_eq!(group().variable(), Some("API_KEY"));
    assert_eq!(Group::of_variable("API_KEY", 0xff12_3456), group(), "eight bits are not shown");
    assert_eq!(Group::of_login("claude-code", "agent").as_str(), "claude-code@agent");
    assert_eq!(Group::of_login("claude-code", "agent").variable(), None);
}

#[test]
fn nobody_starts_while_a_login_is_held() {
    let mut holds = held(login());
    for seconds in [0, 1, 3599] {
        holds.time_passed(at(seconds));
        assert!(!may_start(&holds, "a", seconds) && !may_start(&holds, "b", seconds), "{seconds}");
    }
    holds.time_passed(at(3600));
    assert!(may_start(&holds, "b", 3600));
}

#[test]
fn one_canary_tries_after_a_hold_and_the_others_follow_its_first_turn() {
    let mut holds = held(login());
    holds.time_passed(at(3600));
    holds.launched(&group(), &key("b"), at(3600));
    assert!(!may_start(&holds, "a", 3601) && may_start(&holds, "b", 3601));
    holds.made_turn(&group(), &key("z"));
    assert!(!may_start(&holds, "a", 3602), "a turn of another proves nothing");
    holds.made_turn(&group(), &key("b"));
    assert!(may_start(&holds, "a", 3602) && may_start(&holds, "c", 3602));
    let [News::Held(_), News::Released(_)] = &holds.take_news()[..] else { panic!() };
}

#[test]
fn the_others_follow_a_canary_that_has_lived_for_a_minute() {
    let mut holds = held(login());
    holds.time_passed(at(3600));
    holds.launched(&group(), &key("b"), at(3600));
    assert_eq!(holds.due(), Some(at(3660)));
    holds.time_passed(at(3659));
    assert!(!may_start(&holds, "a", 3659));
    holds.time_passed(at(3660));
    assert!(may_start(&holds, "a", 3660));
}

#[test]
fn a_canary_that_fails_in_the_same_way_renews_the_hold() {
    let mut holds = held(login());
    holds.time_passed(at(3600));
    holds.launched(&group(), &key("b"), at(3600));
    holds.failed(&group(), &key("b"), login(), RETRY, at(3605));
    let now = holds.held(&group()).unwrap();
    assert_eq!((now.since, now.until), (at(0), at(7205)));
    assert!(!may_start(&holds, "a", 7204));
    assert_eq!(holds.take_news().len(), 2, "it is reported again");
}

#[test]
fn others_that_fail_in_the_same_way_are_not_news() {
    let mut holds = held(login());
    holds.take_news();
    holds.failed(&group(), &key("b"), login(), RETRY, at(1));
    assert_eq!(holds.take_news(), []);
    holds.failed(&group(), &key("c"), quota(None), RETRY, at(2));
    assert_eq!(holds.take_news().len(), 1, "it is another kind");
}

#[test]
fn a_living_agent_begins_a_hold_and_never_prolongs_one() {
    let shows = |holds: &mut Holds, name: &str, seconds| {
        holds.shows_login(&group(), &key(name), "please log in".to_owned(), RETRY, at(seconds));
    };
    let mut holds = Holds::default();
    holds.launched(&group(), &key("a"), at(0));
    shows(&mut holds, "a", 1);
    for seconds in 2..100 {
        shows(&mut holds, "b", seconds);
    }
    assert_eq!(holds.held(&group()).map(|held| held.until), Some(at(3601)));
    holds.release(&group(), at(100));
    shows(&mut holds, "b", 101);
    assert!(may_start(&holds, "c", 102), "it does not undo a release");
    holds.launched(&group(), &key("c"), at(102));
    shows(&mut holds, "b", 103);
    holds.made_turn(&group(), &key("c"));
    assert!(may_start(&holds, "d", 104), "it does not end the trial of another");
    let mut holds = held(login());
    holds.release(&group(), at(5));
    holds.launched(&group(), &key("c"), at(5));
    shows(&mut holds, "c", 6);
    assert!(!may_start(&holds, "d", 7), "the one that tries is believed");
}

#[test]
fn a_quota_ends_at_its_reset_within_bounds() {
    for (reset, expected) in [
        (Some(at(7200)), 7200),
        (Some(at(0)), 60),
        (Some(at(20)), 60),
        (Some(at(300 * 24 * 3600)), 8 * 24 * 3600),
        (None, 900),
    ] {
        assert_eq!(held(quota(reset)).held(&group()).unwrap().until, at(expected), "{reset:?}");
    }
}

#[test]
fn an_unknown_reset_is_looked_for_more_and_more_rarely() {
    let mut holds = held(quota(None));
    let mut now = 0;
    let mut waits = Vec::new();
    for _ in 0..5 {
        let end = holds.held(&group()).unwrap().until.boot().as_secs();
        waits.push((end - now) / 60);
        now = end + 60;
        holds.time_passed(at(now));
        holds.launched(&group(), &key("a"), at(now));
        holds.failed(&group(), &key("a"), quota(None), RETRY, at(now));
    }
    assert_eq!(waits, [15, 30, 60, 60, 60]);
}

#[test]
fn the_agents_of_a_quota_come_one_after_the_other_and_always_at_the_same_time() {
    let holds = held(quota(Some(at(600))));
    let ends: Vec<u64> = ["a", "b", "c", "d"].map(|name| until(&holds, name)).into();
    assert_eq!(ends, ["a", "b", "c", "d"].map(|name| until(&held(quota(Some(at(600)))), name)));
    assert!(ends.iter().all(|end| (600..=661).contains(end)), "{ends:?}");
    assert!(ends.iter().any(|end| *end != ends[0]), "{ends:?}");
}

#[test]
fn two_canaries_at_most_are_launched_in_ten_minutes() {
    let mut holds = held(login());
    for seconds in [10, 20] {
        assert!(holds.login_changed(&group(), at(seconds)));
        assert!(may_start(&holds, "b", seconds));
        holds.launched(&group(), &key("b"), at(seconds));
        holds.failed(&group(), &key("b"), login(), RETRY, at(seconds + 1));
    }
    assert!(holds.login_changed(&group(), at(30)));
    assert!(!may_start(&holds, "b", 30) && !may_start(&holds, "c", 609));
    assert_eq!(holds.due(), Some(at(610)));
    assert!(may_start(&holds, "c", 610));
    holds.take_changed();
    holds.time_passed(at(610));
    assert!(holds.take_changed(), "those that wait learn of it");
    assert_eq!(holds.due(), None, "once");
}

#[test]
fn a_stale_login_that_fails_while_a_canary_runs_says_nothing() {
    let mut holds = held(login());
    holds.time_passed(at(3600));
    holds.launched(&group(), &key("b"), at(3600));
    holds.take_news();
    holds.failed(&group(), &key("z"), login(), RETRY, at(3601));
    assert_eq!(holds.take_news(), []);
    assert!(!may_start(&holds, "z", 3602), "the canary decides");
    holds.made_turn(&group(), &key("b"));
    assert!(may_start(&holds, "z", 3603));
}

#[test]
fn failures_after_the_first_do_not_put_off_the_next_try() {
    let mut holds = held(login());
    for seconds in (60..3600).step_by(60) {
        holds.failed(&group(), &key("b"), login(), RETRY, at(seconds));
    }
    assert_eq!(holds.held(&group()).unwrap().until, at(3600));
}

#[test]
fn an_agent_that_was_logged_in_at_its_screen_is_the_canary() {
    let mut holds = Holds::default();
    holds.count([(group(), 1)].into());
    holds.failed(&group(), &key("a"), login(), RETRY, at(0));
    holds.logged_in(&group(), &key("a"), at(100));
    assert!(!may_start(&holds, "b", 101) && holds.held(&group()).is_some());
    assert_eq!(holds.due(), Some(at(160)));
    holds.time_passed(at(160));
    assert_eq!(holds.held(&group()), None);
    assert!(may_start(&holds, "b", 160));
    let mut holds = held(quota(None));
    holds.logged_in(&group(), &key("a"), at(1));
    assert!(!may_start(&holds, "a", 2), "a login says nothing of a quota");
}

#[test]
fn what_was_launched_before_a_proof_is_older_than_it() {
    let mut holds = held(login());
    assert!(!holds.is_newer(&group(), at(0)));
    holds.time_passed(at(3600));
    holds.launched(&group(), &key("b"), at(3600));
    holds.made_turn(&group(), &key("b"));
    assert!(holds.is_newer(&group(), at(3599)) && !holds.is_newer(&group(), at(3600)));
}

/// What the records of these agents say to the next daemon, in this order.
fn restored(holds: &Holds, seconds: u64, names: &[&str]) -> Holds {
    let mut next = Holds::default();
    for name in names {
        let bar = holds.bar(&group(), &key(name), at(seconds));
        if let Some(bar) = bar {
            next.restore(&bar);
        }
    }
    next
}

#[test]
fn the_next_daemon_knows_the_canary() {
    let mut holds = held(quota(Some(at(7200))));
    holds.release(&group(), at(5));
    holds.launched(&group(), &key("b"), at(5));
    let mut next = restored(&holds, 6, &["a", "b", "c"]);
    next.keep_canaries(|key| key.as_str() == "b", at(6));
    assert!(!may_start(&next, "a", 7), "another one tries");
    next.made_turn(&group(), &key("b"));
    assert!(may_start(&next, "a", 8), "its release is not lost");
    let mut next = restored(&holds, 6, &["a"]);
    next.keep_canaries(|_| false, at(6));
    assert!(may_start(&next, "a", 7), "the canary ended while no daemon saw it");
}

#[rstest::rstest]
#[case(false)]
#[case(true)]
fn of_records_of_several_ages_the_latest_counts(#[case] is_in_order: bool) {
    let mut holds = held(login());
    let former = holds.bar(&group(), &key("a"), at(1)).unwrap();
    holds.login_changed(&group(), at(2));
    holds.launched(&group(), &key("b"), at(2));
    let turn = holds.bar(&group(), &key("a"), at(3)).unwrap();
    holds.failed(&group(), &key("b"), login(), RETRY, at(4));
    let renewed = holds.bar(&group(), &key("a"), at(5)).unwrap();
    for (older, newer) in [(&former, &turn), (&turn, &renewed), (&former, &renewed)] {
        let mut next = Holds::default();
        let both = if is_in_order { [older, newer] } else { [newer, older] };
        for bar in both {
            next.restore(bar);
        }
        assert_eq!(next.held(&group()), newer.held().map(|held| Held { own_until: None, ..held.clone() }).as_ref());
        assert_eq!(next.canary(&group()).is_some(), newer == &turn);
    }
}

#[test]
fn the_next_try_that_is_told_is_the_one_that_is_made() {
    let told = |holds: &Holds, names: &[&str]| {
        let keys: Vec<Key> = names.iter().map(|name| key(name)).collect();
        holds.next_try_at(&group(), keys.iter()).map(|at| at.boot().as_secs())
    };
    let retry = Duration::from_secs(2);
    let mut holds = held(login());
    assert_eq!(told(&holds, &["a", "b"]), Some(RETRY.as_secs()));
    for seconds in [3, 6] {
        assert!(holds.login_changed(&group(), at(seconds)));
        assert!(told(&holds, &["a", "b"]).is_some_and(|at| at <= seconds), "whoever can start may");
        holds.launched(&group(), &key("b"), at(seconds));
        assert_eq!(told(&holds, &["a", "b"]), Some(seconds), "it is trying");
        holds.failed(&group(), &key("b"), login(), retry, at(seconds + 1));
    }
    // The hold ends at 9, but two have tried.
    assert_eq!(told(&holds, &["a", "b"]), Some(603));
    let Some(Bar::Held(bar)) = holds.bar(&group(), &key("a"), at(8)) else { panic!("{holds:?}") };
    assert_eq!(bar.end(), at(603));
    holds.time_passed(at(9));
    assert_eq!(told(&holds, &["a", "b"]), Some(603));
    assert!(!may_start(&holds, "a", 602) && may_start(&holds, "a", 603));

    let holds = held(quota(Some(at(600))));
    let own = |name: &str| told(&holds, &[name]);
    assert_eq!(told(&holds, &["a", "b", "c"]), ["a", "b", "c"].map(own).into_iter().min().unwrap());
    assert_ne!(own("a"), own("b"));
    assert_eq!(told(&Holds::default(), &["a"]), None);
}

/// An hour of 60 agents whose credential is dead, each of which fails two seconds after its launch.
#[test]
fn sixty_agents_on_a_dead_credential_are_launched_twice_in_ten_minutes() {
    let names: Vec<String> = (0..60).map(|number| format!("a{number}")).collect();
    let mut holds = Holds::default();
    holds.count([(group(), names.len())].into());
    let (mut launches, mut running): (Vec<u64>, Vec<(u64, &str)>) = (Vec::new(), Vec::new());
    let mut due = None;
    for now in 0..3_600 {
        for (_, name) in running.extract_if(.., |(end, _)| *end <= now) {
            holds.failed(&group(), &key(name), login(), Duration::from_secs(2), at(now));
        }
        // As the supervisor does: nobody is looked at before it is due, or something has changed.
        if due.is_some_and(|due| due <= at(now)) {
            holds.time_passed(at(now));
        }
        while holds.take_changed() {
            for name in &names {
                if may_start(&holds, name, now) && !running.iter().any(|(_, known)| known == name) {
                    holds.launched(&group(), &key(name), at(now));
                    running.push((now + 2, name));
                    launches.push(now);
                }
            }
        }
        due = holds.due();
    }
    // The hold begins at 2.
    assert_eq!(launches[..4], [0, 4, 8, 604]);
    let most = (2..3_000).map(|from| launches.iter().filter(|at| (from..from + 600).contains(*at)).count()).max();
    assert_eq!(most, Some(2), "{launches:?}");
    assert_eq!(launches.len(), 1 + 12, "{launches:?}");
}

#[test]
fn a_release_needs_no_patience() {
    let mut holds = held(quota(Some(at(7200))));
    assert!(!holds.login_changed(&group(), at(5)), "a login says nothing of a quota");
    assert!(holds.release(&group(), at(5)));
    assert!(may_start(&holds, "b", 5));
    holds.launched(&group(), &key("b"), at(5));
    assert!(!may_start(&holds, "c", 5), "one tries first");
    assert!(!holds.release(&Group::of_login("x", "y"), at(5)));
}

#[test]
fn a_canary_that_ends_without_evidence_makes_room_for_another() {
    let mut holds = held(login());
    holds.time_passed(at(3600));
    holds.launched(&group(), &key("a"), at(3600));
    holds.ended(&group(), &key("a"), End::Nothing, at(3601));
    assert!(may_start(&holds, "b", 3601), "nothing was launched");
    holds.launched(&group(), &key("b"), at(3601));
    holds.ended(&group(), &key("b"), End::Unclear, at(3602));
    holds.launched(&group(), &key("b"), at(3602));
    holds.ended(&group(), &key("b"), End::Unclear, at(3603));
    assert!(!may_start(&holds, "c", 3603), "two have tried");
    holds.launched(&group(), &key("c"), at(4300));
    holds.ended(&group(), &key("c"), End::Completed, at(4301));
    assert!(may_start(&holds, "a", 4301) && may_start(&holds, "b", 4301));
}

#[test]
fn a_cold_start_of_many_is_staggered() {
    let mut holds = Holds::default();
    holds.count([(group(), 4)].into());
    assert!(may_start(&holds, "a", 0));
    holds.launched(&group(), &key("a"), at(0));
    assert!(!may_start(&holds, "b", 9));
    assert_eq!(holds.due(), Some(at(10)));
    holds.time_passed(at(10));
    assert!(may_start(&holds, "b", 10));
    assert_eq!(holds.take_news(), []);
}

#[test]
fn a_cold_start_goes_on_with_the_first_turn() {
    let mut holds = Holds::default();
    holds.count([(group(), 60)].into());
    holds.launched(&group(), &key("a"), at(0));
    holds.made_turn(&group(), &key("a"));
    assert!(may_start(&holds, "b", 1));
}

#[test]
fn a_cold_start_of_few_is_not_staggered() {
    let mut holds = Holds::default();
    holds.count([(group(), 3)].into());
    holds.launched(&group(), &key("a"), at(0));
    assert!(may_start(&holds, "b", 0));
}

#[test]
fn what_an_agent_has_on_record_is_the_hold_of_its_group() {
    let holds = held(quota(Some(at(600))));
    let bar = holds.bar(&group(), &key("b"), at(1)).unwrap();
    let json = serde_json::to_string(&bar).unwrap();
    let mut next = Holds::default();
    next.restore(&serde_json::from_str(&json).unwrap());
    assert_eq!(next.held(&group()), holds.held(&group()), "with the end of the group, not of the agent");
    assert!(!may_start(&next, "c", 599));
}

#[test]
fn a_group_without_agents_is_forgotten() {
    let mut holds = held(login());
    holds.take_news();
    holds.count(BTreeMap::new());
    assert!(matches!(holds.take_news()[..], [News::Released(_)]));
    assert!(may_start(&holds, "a", 1));
}

/// What happens to a group in the property tests.
#[derive(Clone, Debug)]
enum Step {
    /// Every agent that may start, and is not running, starts in this order.
    Start(bool),
    Fail(usize, bool, Option<u64>),
    End(usize, End),
    Turn(usize),
    LoggedIn(usize),
    LoginChanged,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![Just(End::Completed), Just(End::Unclear), Just(End::Nothing)];
    prop_oneof![
        any::<bool>().prop_map(Step::Start),
        (0..6_usize, any::<bool>(), proptest::option::of(0..20_000_u64))
            .prop_map(|(who, is_login, reset)| Step::Fail(who, is_login, reset)),
        (0..6_usize, end).prop_map(|(who, end)| Step::End(who, end)),
        (0..6_usize).prop_map(Step::Turn),
        (0..6_usize).prop_map(Step::LoggedIn),
        Just(Step::LoginChanged),
        (1..5000_u64).prop_map(Step::Wait),
    ]
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

proptest! {
    /// A model: who runs, and which launches came after the hold began.
    #[test]
    fn a_held_group_starts_one_canary_and_seldom(steps in proptest::collection::vec(step(), 1..60)) {
        let mut holds = Holds::default();
        holds.count([(group(), NAMES.len())].into());
        let (mut now, mut runs, mut in_hold): (u64, [bool; 6], Vec<u64>) = (0, [false; 6], Vec::new());
        // What each of them learned last.
        let mut told: [Option<Bar>; 6] = [const { None }; 6];
        for step in steps {
            match step {
                Step::Start(in_order) => {
                    let mut order: Vec<usize> = (0..6).collect();
                    if !in_order { order.reverse(); }
                    for who in order {
                        holds.time_passed(at(now));
                        let was_held = holds.held(&group()).is_some();
                        if runs[who] || !may_start(&holds, NAMES[who], now) { continue }
                        holds.launched(&group(), &key(NAMES[who]), at(now));
                        runs[who] = true;
                        if was_held {
                            in_hold.push(now);
                            // Nobody else before that one is settled.
                            for other in (0..6).filter(|other| *other != who) {
                                prop_assert!(!may_start(&holds, NAMES[other], now));
                            }
                        }
                    }
                }
                Step::Fail(who, is_login, reset) if runs[who] => {
                    runs[who] = false;
                    let evidence = if is_login { login() } else { quota(reset.map(|reset| at(now + reset))) };
                    holds.failed(&group(), &key(NAMES[who]), evidence, RETRY, at(now));
                    let canary = holds.canary(&group()).map(|canary| canary.key.clone());
                    prop_assert!(canary != Some(key(NAMES[who])));
                    let mut others = NAMES.iter().filter(|name| canary != Some(key(name)));
                    prop_assert!(others.all(|name| !may_start(&holds, name, now)));
                }
                Step::End(who, end) if runs[who] => {
                    runs[who] = false;
                    // What came to nothing was no launch.
                    if end == End::Nothing && holds.canary(&group()).is_some_and(|canary| canary.key == key(NAMES[who])) {
                        in_hold.pop();
                    }
                    holds.ended(&group(), &key(NAMES[who]), end, at(now));
                }
                Step::Turn(who) if runs[who] => holds.made_turn(&group(), &key(NAMES[who])),
                Step::LoggedIn(who) if runs[who] => holds.logged_in(&group(), &key(NAMES[who]), at(now)),
                Step::LoginChanged => _ = holds.login_changed(&group(), at(now)),
                Step::Wait(seconds) => now += seconds,
                Step::Fail(..) | Step::End(..) | Step::Turn(_) | Step::LoggedIn(_) => {}
            }
            holds.time_passed(at(now));
            if holds.take_changed() {
                told = NAMES.map(|name| holds.bar(&group(), &key(name), at(now)));
            }
            // Whoever may start knows that, or has a time of its own that has come.
            for (name, told) in NAMES.iter().zip(&told) {
                let is_awake = match told {
                    None => true,
                    Some(Bar::Held(held)) => held.kind == HoldKind::Quota && held.end() <= at(now),
                    Some(Bar::Turn { .. }) => false,
                };
                prop_assert!(is_awake || !may_start(&holds, name, now), "{name} {holds:?}");
            }
            if holds.held(&group()).is_none() { in_hold.clear(); }
            for pair in in_hold.windows(TRIES + 1) {
                prop_assert!(pair[TRIES] - pair[0] >= WINDOW.as_secs(), "{in_hold:?}");
            }
            // Every hold ends: by what is due, or because somebody may start.
            if holds.held(&group()).is_some() {
                let is_open = NAMES.iter().any(|name| may_start(&holds, name, now + 61));
                prop_assert!(holds.due().is_some() || is_open, "{holds:?}");
            }
        }
    }
}
