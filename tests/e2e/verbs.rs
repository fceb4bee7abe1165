//! What people ask of a running daemon: wait, explain, doctor.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use agentd::status::{AgentStatus, State};
use nix::sys::signal::Signal;

use crate::support::{Daemon, Setup, agent, as_user, binary, root, run};

/// The verb with the daemon's API.
fn verb(setup: &Setup, words: &[&str]) -> Command {
    let socket = setup.api_socket();
    setup.agentd(&[words, &["--api-socket", socket.to_str().unwrap()]].concat())
}

fn wait(setup: &Setup, words: &[&str]) -> (Option<i32>, String) {
    run(&mut verb(setup, &[&["wait"], words].concat()))
}

/// One that goes on beside the test, and what it says to stderr.
fn waiting(setup: &Setup, words: &[&str]) -> Child {
    let stderr = File::create(setup.path("said")).unwrap();
    verb(setup, &[&["wait"], words].concat()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
}

fn said(setup: &Setup) -> String {
    std::fs::read_to_string(setup.path("said")).unwrap()
}

fn ended(setup: &Setup, child: &mut Child) -> Option<i32> {
    setup.wait("the verb to end", || child.try_wait().unwrap()).code()
}

fn ender(name: &str) -> String {
    agent(name, &format!("await-exit @WORK/{name}.exit"), "")
}

fn end(daemon: &Daemon, name: &str, status: u8) {
    daemon.put(&daemon.work(&format!("{name}.exit")), format!("{status}\n"));
}

#[test]
fn wait_ends_when_the_agent_has_and_with_its_status_on_demand() {
    let daemon = Setup::new().start(&(ender("a") + &agent("killed", "die KILL", "")));
    daemon.wait_until_running("a");
    let mut waiting = waiting(&daemon, &["A", "--exit-code"]);
    assert_eq!(wait(&daemon, &["a", "--for", "running"]), (Some(0), String::new()));
    assert!(waiting.try_wait().unwrap().is_none(), "it still runs");
    end(&daemon, "a", 7);
    assert_eq!(ended(&daemon, &mut waiting), Some(7), "{}", said(&daemon));
    assert_eq!(wait(&daemon, &["a"]), (Some(0), String::new()), "of itself its status is no failure");
    let (code, said) = wait(&daemon, &["killed", "--exit-code", "--json"]);
    assert_eq!(code, Some(128 + 9), "{said}");
    let agent: AgentStatus = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((agent.name.as_str(), agent.state), ("killed", State::Exited));
}

#[test]
fn wait_tells_apart_what_will_not_come_what_did_not_come_in_time_and_what_it_cannot_know() {
    let mut daemon = Setup::new()
        .start(&(agent("sleeper", "sleep inf", "") + &agent("failed", "exit 3", "") + "[[agents]]\nname = \"bad\"\n"));
    daemon.wait_until_running("sleeper");
    daemon.wait_for_state("failed", State::Exited);
    for (words, expected, about) in [
        (&["failed", "--for", "running"][..], 123, "exited with status 3"),
        (&["bad"], 123, "harness is required"),
        (&["sleeper", "--timeout", "100ms"], 124, "sleeper is running"),
        (&["sleeper", "--timeout", "0s", "--for", "exited,backoff"], 124, "sleeper is running"),
        (&["nobody"], 125, "nobody"),
        (&["sleeper", "--for", "running", "--exit-code"], 2, "--exit-code"),
        (&["sleeper", "--for", "dead"], 2, "exited"),
    ] {
        let (code, said) = wait(&daemon, words);
        assert_eq!(code, Some(expected), "{words:?}: {said}");
        assert!(said.contains(about), "{words:?}: {said}");
    }
    assert!(daemon.stop().success());
    let (code, said) = wait(&daemon, &["sleeper"]);
    assert_eq!(code, Some(125), "without a daemon nothing is known: {said}");
    let (code, said) = wait(&daemon, &["sleeper", "--timeout", "200ms"]);
    assert_eq!(code, Some(125), "none has come: {said}");
    assert!(said.contains("waiting for it") && said.contains("it is not running"), "{said}");
}

#[test]
fn wait_notices_that_its_agent_was_removed() {
    let daemon = Setup::new().start(&(agent("a", "sleep inf", "") + &agent("b", "sleep inf", "")));
    daemon.wait_until_running("a");
    // Until then a daemon is given time to read what it has.
    daemon.wait("the daemon to be of age", || (daemon.health().uptime_seconds >= 5).then_some(()));
    let mut waiting = waiting(&daemon, &["a", "--exit-code"]);
    assert_eq!(wait(&daemon, &["a", "--for", "running"]).0, Some(0));
    daemon.edit_jcard(&agent("b", "sleep inf", ""));
    assert_eq!(ended(&daemon, &mut waiting), Some(123), "{}", said(&daemon));
    assert!(said(&daemon).contains("removed"), "{}", said(&daemon));
}

#[test]
fn wait_outlasts_daemons_and_is_there_before_the_first() {
    let setup = Setup::new();
    setup.edit_jcard(&ender("a"));
    let mut waiting = waiting(&setup, &["a", "--exit-code", "--timeout", "1h"]);
    setup.wait("it to find no daemon", || said(&setup).contains("it is not running").then_some(()));
    let mut daemon = setup.start_as_it_is();
    daemon.wait_until_running("a");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    // That there is none can be seen by whoever asks now; twice, so that one that was under way has come back.
    for _ in 0..2 {
        assert_eq!(wait(&daemon, &["a", "--timeout", "1100ms"]).0, Some(125));
    }
    end(&daemon, "a", 5);
    daemon.start_again();
    assert_eq!(ended(&daemon, &mut waiting), Some(5), "{}", said(&daemon));
}

#[test]
fn wait_is_for_administrators() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "exit 0", ""));
    daemon.wait_for_state("a", State::Exited);
    let socket = daemon.api_socket();
    let words = [binary().to_str().unwrap(), "wait", "a", "--api-socket", socket.to_str().unwrap()];
    assert_eq!(run(&mut as_user("op", &words)), (Some(0), String::new()));
    let (code, said) = run(&mut as_user("stranger", &words));
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains("permission denied"), "{said}");
}
