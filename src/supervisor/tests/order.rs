//! Agents that come after others. The launches of these tests hang, and the tests say what comes of each attempt.

use super::*;
use crate::agent::after::After;
use crate::wire::status::{Outcome, Usage};

fn house() -> House {
    let house = House::new();
    house.fakes.sessions.open.hang();
    house
}

fn after(name: &str, others: &[&str]) -> DesiredAgent {
    let after = others.iter().map(|text| After::parse(text).unwrap()).collect();
    agent(name, name, Policy { after, ..patient() })
}

impl House {
    async fn becomes(&mut self, name: &str, event: impl FnOnce(Attempt) -> machine::Event) {
        let event = event(self.supervisor.agents[&key(name)].machine.latest_attempt());
        self.take_in(Event::Agent { key: key(name), event }).await;
    }

    async fn runs(&mut self, name: &str) {
        let at = Timestamp::now();
        self.becomes(name, |attempt| machine::Event::Started { attempt, pid: ENDED_PID, at }).await;
    }

    async fn is_over(&mut self, name: &str, code: i32) {
        let (how, at, usage) = (ExitStatus::Code(code), Timestamp::now(), Usage::default());
        let end = |attempt| machine::Event::Ended { attempt, how, at, usage, evidence: None, result: None };
        self.becomes(name, end).await;
        self.becomes(name, |attempt| machine::Event::Gone { attempt }).await;
    }

    fn states(&self, names: &[&str]) -> Vec<State> {
        names.iter().map(|name| self.state(name).unwrap()).collect()
    }

    fn reason(&self, name: &str) -> String {
        self.snapshot.borrow().agent(&key(name)).unwrap().reason.clone().unwrap()
    }

    async fn orders(&mut self, agents: &[DesiredAgent], overrides: Overrides) {
        let agents = agents.iter().map(|agent| (agent.name.key(), agent.clone())).collect();
        let overrides = Some(Arc::new(overrides));
        self.take_in(Event::Desired(Desired { agents, complete: true, overrides, ..Desired::default() })).await;
    }
}

use State::{Exited, Running, Starting, Waiting};

#[tokio::test(start_paused = true)]
async fn each_starts_when_those_before_it_have_come() {
    let mut house = house();
    house.declare(&[after("a", &["lint", "z:running"]), after("b", &["a"]), after("lint", &[]), after("z", &[])]).await;
    assert_eq!(house.states(&["a", "b", "lint", "z"]), [Waiting, Waiting, Starting, Starting]);
    assert_eq!(house.reason("a"), "waits for lint (starting) and z (not running)");
    house.runs("lint").await;
    house.runs("z").await;
    assert_eq!(house.reason("a"), "waits for lint (running)");
    assert_eq!(house.reason("b"), "waits for a (waiting)");
    house.is_over("lint", 0).await;
    assert_eq!(house.states(&["a", "b"]), [Starting, Waiting]);
    house.runs("a").await;
    house.is_over("z", 1).await;
    assert_eq!(house.state("a"), Some(Running), "what ends later stops nobody");
    house.is_over("a", 0).await;
    assert_eq!(house.state("b"), Some(Starting));
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_a_failure_waits_and_says_so_down_to_the_end() {
    let mut house = house();
    let all = [after("a", &["b"]), after("b", &["c"]), after("c", &[]), after("d", &["c:ended"])];
    house.declare(&all).await;
    house.runs("c").await;
    house.is_over("c", 1).await;
    assert_eq!(house.states(&["a", "b", "c", "d"]), [Waiting, Waiting, Exited, Starting]);
    assert_eq!(house.reason("b"), "waits for c (failed: exited with status 1)");
    let is_stuck = |house: &House, name: &str| {
        let status = house.snapshot.borrow().agent(&key(name)).unwrap().clone();
        status.waiting_for.iter().any(reason::WaitingFor::is_stuck)
    };
    assert!(is_stuck(&house, "a") && is_stuck(&house, "b"));
    let again = Override { generation: Some(1), ..Override::default() };
    house.orders(&all, Overrides { agents: [(key("c"), again)].into(), all: None }).await;
    assert_eq!(house.states(&["a", "b", "c"]), [Waiting, Waiting, Starting]);
    assert!(!is_stuck(&house, "a") && !is_stuck(&house, "b"));
    house.runs("c").await;
    house.is_over("c", 0).await;
    assert_eq!(house.states(&["a", "b"]), [Waiting, Starting]);
}

#[tokio::test(start_paused = true)]
async fn a_new_life_of_both_keeps_their_order() {
    let mut house = house();
    let all = [after("a", &["b"]), after("b", &[])];
    house.declare(&all).await;
    house.runs("b").await;
    house.is_over("b", 0).await;
    house.runs("a").await;
    house.is_over("a", 0).await;
    let again = Override { generation: Some(1), ..Override::default() };
    let agents = [(key("a"), again.clone()), (key("b"), again)].into();
    house.orders(&all, Overrides { agents, all: None }).await;
    assert_eq!(house.states(&["a", "b"]), [Waiting, Starting], "b is not what it was");
    house.runs("b").await;
    house.is_over("b", 0).await;
    assert_eq!(house.state("a"), Some(Starting));
}

#[tokio::test(start_paused = true)]
async fn replicas_are_waited_for_together() {
    let mut house = house();
    let mut all = after("a", &["w"]);
    let policy = &mut all.declaration.as_mut().unwrap().policy;
    policy.after[0].replicas = Some(2);
    house.declare(&[all, after("w-0", &[]), after("w-1", &[])]).await;
    house.runs("w-0").await;
    house.is_over("w-0", 0).await;
    assert_eq!(house.reason("a"), "waits for w-1 (starting)");
    house.runs("w-1").await;
    house.is_over("w-1", 0).await;
    assert_eq!(house.state("a"), Some(Starting));
}

#[tokio::test(start_paused = true)]
async fn the_next_daemon_touches_nothing_that_runs() {
    let mut house = house();
    let all = [after("a", &["b:running"]), after("b", &[]), after("c", &["b"])];
    house.declare(&all).await;
    house.runs("b").await;
    house.runs("a").await;
    let mut next = house.next(|fakes| fakes.sessions.panes.hang()).await;
    assert_eq!(next.states(&["a", "b", "c"]), [Running, Running, Waiting]);
    next.declare(&all).await;
    assert_eq!(next.states(&["a", "b", "c"]), [Running, Running, Waiting]);
    assert_eq!(next.reason("c"), "waits for b (running)");
    next.is_over("b", 0).await;
    assert_eq!(next.state("a"), Some(Running));
}

#[tokio::test(start_paused = true)]
async fn a_long_line_of_agents_that_wait_is_reviewed_at_once() {
    const COUNT: usize = 300;
    let mut house = house();
    let name = |number: usize| format!("a{number}");
    let mut all = vec![after(&name(0), &[])];
    all.extend((1..COUNT).map(|number| after(&name(number), &[name(number - 1).as_str()])));
    house.declare(&all).await;
    house.runs(&name(0)).await;
    house.is_over(&name(0), 1).await;
    let last = name(COUNT - 1);
    let status = house.snapshot.borrow().agent(&key(&last)).unwrap().clone();
    assert!(status.waiting_for.iter().any(reason::WaitingFor::is_stuck), "{status:?}");
    assert_eq!(status.outcome, None::<Outcome>);
}
