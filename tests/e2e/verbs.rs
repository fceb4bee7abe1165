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

fn explained(daemon: &Daemon, name: &str) -> String {
    let (code, said) = run(&mut verb(daemon, &["explain", name]));
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains('\u{1b}'), "no colours into a pipe");
    // As running text: where lines break is another matter.
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn explain_says_why_what_next_and_what_would_change_it_for_every_state() {
    let waiting = agent("waiting", "exit 0", "secrets = [\"KEY\"]").replace("@WORK", "@DIR/later");
    let jcard = waiting
        + &agent("completed", "exit 0", "")
        + &agent("failed", "die KILL", "")
        + &agent("absent", "exit 0", "").replace("@HARNESS", "no-such-harness")
        + &agent("again", "exit 4", "restart = \"always\"\nbackoff = [\"1h\"]\ntimeout = \"5h\"")
        + &agent("gave-up", "exit 4", "restart = \"always\"\nbackoff = [\"1ms\"]\nmax_restarts = 2")
        + &agent("late", "sleep inf", "timeout = \"100ms\"")
        + &agent("running", "sleep inf", "")
        + "[[agents]]\nname = \"invalid\"\nharness = \"nope\"\n";
    let daemon = Setup::new().start(&jcard);
    daemon.wait_until_running("running");
    daemon.wait_for_state("again", State::Backoff);
    for name in ["completed", "failed", "absent", "gave-up", "late"] {
        daemon.wait_for_state(name, State::Exited);
    }
    let dir = daemon.dir().display();
    for (name, sentences) in [
        (
            "Waiting",
            vec![
                "waiting has been in state waiting for".to_owned(),
                format!("Create the directory {dir}/later,"),
                "Drop the secret KEY into the secrets directory".to_owned(),
                "It is started as soon as nothing is missing.".to_owned(),
            ],
        ),
        ("completed", vec!["exited (completed)".to_owned(), "`restart = \"always\"`".to_owned()]),
        ("failed", vec!["exited (failed)".to_owned(), "ended by SIGKILL".to_owned()]),
        ("absent", vec!["To mend no-such-harness: not found".to_owned(), "Mend what is said above first".to_owned()]),
        (
            "again",
            vec![
                "exited with status 4; restart 1 follows.".to_owned(),
                "It is started again in ".to_owned(),
                "Its `timeout` passes: it is stopped for good in ".to_owned(),
            ],
        ),
        ("gave-up", vec!["Raise the `max_restarts` of its entry above 2".to_owned()]),
        ("late", vec!["its timeout has passed".to_owned(), "A longer `timeout` alone does not".to_owned()]),
        ("running", vec!["It runs until it ends by itself".to_owned(), "Remove its entry: it is stopped.".to_owned()]),
        ("invalid", vec![format!("Mend {dir}/jcard.toml:"), "unknown agent.harness \"nope\"".to_owned()]),
    ] {
        let text = explained(&daemon, name);
        for sentence in sentences {
            assert!(text.contains(&sentence), "{name}: {sentence:?} is not in: {text}");
        }
    }
}

#[test]
fn explain_as_json_is_data_and_its_sentences_fit_80_columns() {
    let daemon = Setup::new().start(&agent("a", "exit 3", ""));
    daemon.wait_for_state("a", State::Exited);
    let (code, said) = run(&mut verb(&daemon, &["explain", "a", "--json"]));
    assert_eq!(code, Some(0), "{said}");
    let data: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((&data["name"], &data["state"], &data["outcome"]), (&"a".into(), &"exited".into(), &"failed".into()));
    assert_eq!(data["ends"][0]["exit"]["code"], 3);
    let (_, said) = run(&mut verb(&daemon, &["explain", "a"]));
    assert!(said.lines().count() > 4 && said.lines().all(|line| line.chars().count() <= 80), "{said}");
}

#[test]
fn explain_says_what_it_cannot_know_and_what_the_daemon_complains_of() {
    let mut daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    daemon.edit_jcard("[[agents");
    daemon.wait("the mistake to be known", || daemon.health().config_error);
    assert!(explained(&daemon, "a").contains("agentd configuration: "), "{}", explained(&daemon, "a"));
    let (code, said) = run(&mut verb(&daemon, &["explain", "nobody"]));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("nobody") && said.contains("agentd status") && said.contains("configuration: "), "{said}");
    assert!(daemon.stop().success());
    let (code, said) = run(&mut verb(&daemon, &["explain", "a"]));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("it is not running"), "{said}");
}
