//! Agents that share a credential. The launches of these tests hang, and the tests say what comes of each attempt.

use super::*;
use crate::agent::activity::{News, Statement};
use crate::agent::changes::Marking;
use crate::agent::hold::{Evidence, Group, HoldKind, OnHold};
use crate::agent::rotation::{OnRotate, Rotation};
use crate::wire::activity::Source;
use crate::wire::status::Usage;

fn house() -> House {
    let house = House::new();
    house.fakes.sessions.open.hang();
    house
}

fn group(value: u32) -> Group {
    Group::of_variable("API_KEY", value)
}

/// With this value of its key, after which its group is named.
fn with_key(name: &str, value: u32, more: impl FnOnce(&mut Policy)) -> DesiredAgent {
    let mut policy = Policy { hold: OnHold::Wait, ..patient() };
    more(&mut policy);
    let mut desired = agent(name, name, policy);
    let declaration = desired.declaration.as_mut().unwrap();
    let mut marking = Marking::new("k");
    marking.secret("API_KEY", value << 16);
    let launch = Launch {
        group: group(value),
        fingerprint: Fingerprint(format!("1:same:{value}")),
        secrets: ["API_KEY".to_owned()].into(),
        marks: marking.finish(),
        ..Arc::unwrap_or_clone(declaration.launch.clone().unwrap())
    };
    declaration.launch = Ok(Arc::new(launch));
    desired
}

fn spread(policy: &mut Policy) {
    policy.rotation = Rotation { on_rotate: OnRotate::Relaunch, spread: Duration::from_secs(1), ..Rotation::default() };
}

impl House {
    async fn happens(&mut self, name: &str, event: machine::Event) {
        self.take_in(Event::Agent { key: key(name), event }).await;
    }

    fn attempt(&self, name: &str) -> Attempt {
        self.supervisor.agents[&key(name)].machine.latest_attempt()
    }

    async fn starts(&mut self, name: &str) {
        let attempt = self.attempt(name);
        self.happens(name, machine::Event::Started { attempt, pid: ENDED_PID, at: Timestamp::now() }).await;
    }

    async fn ends(&mut self, name: &str, evidence: Option<HoldKind>) {
        let (attempt, at) = (self.attempt(name), Timestamp::now());
        let evidence = evidence.map(|kind| Evidence { kind, until: None, text: "no".to_owned() });
        let how = ExitStatus::Code(1);
        let ended = machine::Event::Ended { attempt, how, at, usage: Usage::default(), evidence, result: None };
        self.happens(name, ended).await;
        self.happens(name, machine::Event::Gone { attempt }).await;
    }

    async fn does(&mut self, name: &str, doing: Doing) {
        let statement = Statement { doing, detail: None, source: Source::Hook };
        let (attempt, news) = (self.attempt(name), News::Said(statement));
        self.happens(name, machine::Event::Activity { attempt, news }).await;
    }

    fn holds(&self) -> Vec<String> {
        self.snapshot.borrow().holds().iter().map(|held| held.hold.group.clone()).collect()
    }

    fn cause(&self, name: &str) -> Option<String> {
        let status = self.snapshot.borrow().agent(&key(name)).unwrap().clone();
        status.rotation.map(|rotation| format!("{:?}", rotation.cause))
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_speaks_for_the_credential_that_it_was_launched_with() {
    let next = |policy: &mut Policy| policy.rotation.on_rotate = OnRotate::Next;
    let mut house = house();
    house.declare(&[with_key("a", 1, next), with_key("b", 1, next)]).await;
    house.starts("a").await;
    house.starts("b").await;
    house.declare(&[with_key("a", 2, next), with_key("b", 2, next)]).await;
    house.ends("a", Some(HoldKind::Login)).await;
    assert_eq!(house.holds(), [""; 0], "nobody is to be launched with the old one");
    let status = house.snapshot.borrow().agent(&key("a")).unwrap().clone();
    assert_eq!((status.state, status.restarts, house.attempt("a")), (State::Starting, 0, 2), "it gets the new one");
    house.starts("a").await;
    house.ends("a", Some(HoldKind::Login)).await;
    assert_eq!(house.holds(), [group(2).to_string()]);
    assert_eq!((house.state("a"), house.attempt("a")), (Some(State::Waiting), 2));
}

#[rstest]
#[case::another_credential(with_key("a", 2, |_| {}))]
#[case::no_holds(with_key("a", 1, |policy| policy.hold = OnHold::Off))]
#[tokio::test(start_paused = true)]
async fn a_canary_that_is_declared_otherwise_proves_nothing(#[case] otherwise: DesiredAgent) {
    let mut house = house();
    let (a, b, c) = (with_key("a", 1, |_| {}), with_key("b", 1, |_| {}), with_key("c", 1, |_| {}));
    house.declare(&[a.clone(), b.clone(), c.clone()]).await;
    for name in ["a", "b", "c"] {
        house.ends(name, Some(HoldKind::Login)).await;
    }
    house.take_in(Event::Login(None)).await;
    assert_eq!(house.attempt("a"), 1, "no file logs them in");
    house.take_in(Event::Read).await;
    house.starts("a").await;
    assert_eq!([house.attempt("a"), house.attempt("b")], [2, 1], "one tries");
    house.declare(&[otherwise, b, c]).await;
    house.ends("a", None).await;
    assert_eq!([house.attempt("b"), house.attempt("c")], [2, 1], "another one tries");
    assert_eq!(house.holds(), [group(1).to_string()]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_logged_in_at_its_screen_ends_the_hold_that_it_began() {
    let mut house = house();
    house.declare(&[with_key("a", 1, |_| {}), with_key("b", 1, |policy| policy.enabled = false)]).await;
    house.starts("a").await;
    house.does("a", Doing::Login).await;
    assert_eq!(house.holds(), [group(1).to_string()]);
    house.does("a", Doing::Working).await;
    house.supervisor.holds.made_turn(&group(1), &key("a"));
    house.settle().await;
    house.take_in(Event::Groups).await;
    assert_eq!(house.holds(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_was_replaced_holds_nobody_for_long() {
    let mut house = house();
    let all = ["a", "b", "c"].map(|name| with_key(name, 1, |_| {}));
    house.declare(&all).await;
    house.starts("b").await;
    house.starts("c").await;
    house.ends("a", Some(HoldKind::Login)).await;
    house.take_in(Event::Read).await;
    house.starts("a").await;
    house.supervisor.holds.made_turn(&group(1), &key("a"));
    house.ends("b", Some(HoldKind::Login)).await;
    assert_eq!((house.state("b"), house.attempt("b")), (Some(State::Starting), 2), "it tries at once");
    house.ends("c", Some(HoldKind::Login)).await;
    assert_eq!((house.state("c"), house.attempt("c")), (Some(State::Waiting), 1), "and nobody beside it");
    house.starts("b").await;
    house.ends("b", Some(HoldKind::Login)).await;
    assert_eq!([house.attempt("b"), house.attempt("c")], [2, 1], "it was the new login");
}

#[tokio::test(start_paused = true)]
async fn another_secret_of_an_agent_may_make_its_login_work() {
    let mut house = house();
    house.declare(&[with_key("a", 1, |_| {}), with_key("b", 1, |_| {})]).await;
    for name in ["a", "b"] {
        house.ends(name, Some(HoldKind::Login)).await;
    }
    let mut other = with_key("a", 1, |_| {});
    let declaration = other.declaration.as_mut().unwrap();
    let mut marking = Marking::new("k");
    marking.secret("API_KEY", 1 << 16);
    marking.secret("PROXY_KEY", 1 << 16);
    let launch = Arc::unwrap_or_clone(declaration.launch.clone().unwrap());
    declaration.launch =
        Ok(Arc::new(Launch { marks: marking.finish(), fingerprint: Fingerprint("1:same:9".to_owned()), ..launch }));
    house.declare(&[other, with_key("b", 1, |_| {})]).await;
    assert_eq!([house.attempt("a"), house.attempt("b")], [2, 1]);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_stopped_for_a_new_credential_that_does_not_work() {
    let names = ["a", "b", "c", "d"];
    let all = |value| names.map(|name| with_key(name, value, spread));
    let mut house = house();
    house.declare(&all(1)).await;
    house.starts("a").await;
    house.does("a", Doing::Working).await;
    house.supervisor.holds.made_turn(&group(1), &key("a"));
    house.take_in(Event::Groups).await;
    for name in ["b", "c", "d"] {
        house.starts(name).await;
    }
    house.events();
    house.declare(&all(2)).await;
    house.ends("a", None).await;
    house.starts("a").await;
    house.ends("a", Some(HoldKind::Login)).await;
    assert_eq!(house.state("a"), Some(State::Waiting));
    for name in ["b", "c", "d"] {
        assert_eq!(house.state(name), Some(State::Running), "{name} keeps what works");
    }
    assert_eq!(house.cause("b").as_deref(), Some("Failed"));
    // What failed has gone, and its failure with it; the hold has not.
    house.declare(&all(2)[1..]).await;
    let rotations = |house: &mut House| house.events().iter().filter(|it| *it == "rotation d").count();
    let before = rotations(&mut house);
    assert!((1..=3).contains(&before), "{before}");
    assert_eq!(house.cause("b").as_deref(), Some("Hold"));
    assert_eq!(house.state("b"), Some(State::Running));
}
