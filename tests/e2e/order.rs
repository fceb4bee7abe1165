//! Order: agents that come after others, over ends, failures, edits and restarts of the daemon.

use std::fs;
use std::time::Duration;

use agentd::wire::reason::WaitingFor;
use agentd::wire::status::{AgentStatus, State};
use nix::sys::signal::Signal;

use crate::support::{Setup, agent, between, run};

fn said(setup: &Setup, words: &[&str]) -> (Option<i32>, String) {
    let socket = setup.api_socket();
    run(&mut setup.agentd(&[words, &["--api-socket", socket.to_str().unwrap()]].concat()))
}

fn reason(agent: &AgentStatus) -> &str {
    agent.reason.as_deref().unwrap_or_default()
}

#[test]
fn an_agent_starts_as_soon_as_those_before_it_have_come() {
    let jcard = agent("a", "log a; sleep inf", "after = [\"lint\", \"db:running\"]")
        + &agent("lint", "wait-for go; exit 0", "")
        + &agent("db", "sleep inf", "")
        + &agent("last", "log last; exit 0", "after = [\"a:ended\"]");
    let daemon = Setup::new().start(&jcard);
    daemon.wait_until_running("db");
    let waits = |agent: &AgentStatus| reason(agent) == "waits for lint (running)";
    let before = daemon.wait_until("a", "waiting for lint alone", waits);
    assert_eq!((before.state, before.attempt), (State::Waiting, None));
    assert!(matches!(&before.waiting_for[..], [WaitingFor::After { agents, more: 0 }] if agents[0].name == "lint"));
    assert_eq!(reason(&daemon.agent("last").unwrap()), "waits for a (waiting)");
    let (_, explained) = said(&daemon, &["explain", "a"]);
    assert!(explained.contains("It starts by itself once these have come: lint (running)"), "{explained}");
    fs::write(daemon.work("go"), "").unwrap();
    daemon.wait_until_running("a");
    let (lint, a) = (daemon.agent("lint").unwrap(), daemon.agent("a").unwrap());
    let pause = between(lint.exit.unwrap().at.0, a.started_at.unwrap().0);
    assert!(pause < Duration::from_secs(2), "{pause:?}");
    // What ends later stops nobody.
    daemon.edit_jcard(&jcard.replace("name = \"db\"", "name = \"db\"\ngeneration = 1"));
    daemon.wait_until("db", "started again", |agent| agent.generation == 1 && agent.state == State::Running);
    assert_eq!(daemon.starts("a"), 1);
}

#[test]
fn what_comes_after_a_failure_says_so_until_that_is_put_right() {
    let jcard = agent("a", "log a; exit 0", "after = [\"lint\"]")
        + &agent("b", "exit 0", "after = [\"a\"]")
        + &agent("lint", "exit 3", "")
        + &agent("cleanup", "log cleanup; exit 0", "after = [\"lint:ended\"]");
    let daemon = Setup::new().start(&jcard);
    let failed = |agent: &AgentStatus| agent.waiting_for.iter().any(WaitingFor::is_stuck);
    let waits = daemon.wait_until("a", "told of the failure", failed);
    assert_eq!(reason(&waits), "waits for lint (failed: exited with status 3)");
    daemon.wait_for_state("cleanup", State::Exited);
    for name in ["a", "b"] {
        let (code, told) = said(&daemon, &["wait", name, "--timeout", "20s"]);
        assert_eq!(code, Some(123), "{told}");
    }
    assert_eq!(daemon.starts("a"), 0);
    daemon.edit_jcard(&jcard.replace("\"3\"", "\"0\""));
    daemon.wait_for_state("b", State::Exited);
    assert_eq!((daemon.starts("a"), daemon.starts("cleanup")), (1, 1));
}

#[test]
fn a_daemon_that_is_cut_off_starts_nobody_too_early_and_touches_nothing_that_runs() {
    let jcard = agent("a", "log a; sleep inf", "after = [\"db:running\"]")
        + &agent("db", "sleep inf", "")
        + &agent("lint", "wait-for go; exit 0", "")
        + &agent("c", "log c; sleep inf", "after = [\"lint\"]");
    let mut daemon = Setup::new().start(&jcard);
    let pid = daemon.wait_until_running("a");
    daemon.wait_until_running("lint");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    let waits = |agent: &AgentStatus| reason(agent) == "waits for lint (running)";
    daemon.wait_until("c", "waiting for lint", waits);
    assert_eq!(daemon.wait_until_running("a"), pid);
    assert_eq!((daemon.starts("a"), daemon.starts("c")), (1, 0));
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    fs::write(daemon.work("go"), "").unwrap();
    daemon.start_again();
    daemon.wait_until_running("c");
    assert_eq!((daemon.starts("a"), daemon.starts("c")), (1, 1));
}

#[test]
fn agents_that_wait_for_each_other_leave_the_others_alone() {
    let jcard = agent("a", "sleep inf", "after = [\"b\"]")
        + &agent("b", "sleep inf", "after = [\"a\"]")
        + &agent("c", "sleep inf", "after = [\"nobody\"]")
        + &agent("d", "sleep inf", "");
    let daemon = Setup::new().start(&jcard);
    daemon.wait_until_running("d");
    let error = |name: &str| daemon.wait_for_state(name, State::Invalid).error.unwrap();
    assert!(error("b").contains("agents wait for each other: a → b → a"), "{}", error("b"));
    assert!(error("c").contains("unknown agent \"nobody\" in `after`"), "{}", error("c"));
    let waits = daemon.wait_for_state("a", State::Waiting);
    assert_eq!(reason(&waits), "waits for b (invalid)");
    let path = daemon.jcard();
    let (code, told) = run(&mut daemon.agentd(&["check", path.to_str().unwrap()]));
    assert!(code == Some(1) && told.contains("a → b → a"), "{told}");
}
