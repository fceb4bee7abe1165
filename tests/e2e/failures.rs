//! Agents that failed, that did nothing, and that are silent are told apart.

use std::fs;
use std::time::{Duration, SystemTime};

use agentd::wire::status::{AgentStatus, Outcome, State, Time};

use crate::support::{Daemon, Setup, agent, run};
use nix::sys::signal::Signal;

fn last_output(daemon: &Daemon, name: &str) -> Option<Time> {
    let listed = daemon.agent(name).unwrap().last_output_at;
    let alone: AgentStatus = serde_json::from_str(&daemon.get(&format!("/v1/agents/{name}")).body).unwrap();
    // The answer about a single agent is the newer one.
    if listed == alone.last_output_at { listed } else { None }
}

/// Runs a command that asks this daemon.
fn ask(daemon: &Daemon, verb: &[&str]) -> (Option<i32>, String) {
    run(daemon.agentd(verb).arg("--api-socket").arg(daemon.api_socket()))
}

fn wait_for_output(daemon: &Daemon, name: &str) -> Time {
    daemon.wait("the time of the last output", || last_output(daemon, name))
}

#[test]
fn the_last_output_is_known_also_to_the_next_daemon() {
    let jcard = [
        agent("talker", "say hello; sleep inf", ""),
        agent("mute", "sleep inf", ""),
        agent("gone", "say bye; exit 3", ""),
    ];
    let start = SystemTime::now();
    let mut daemon = Setup::new().start(&jcard.concat());
    let known = ["talker", "gone"].map(|name| wait_for_output(&daemon, name));
    for Time(at) in known {
        assert!(at >= start - Duration::from_secs(1) && at <= SystemTime::now(), "{at:?}");
    }
    assert!(daemon.wait_until_running("mute") > 0);
    assert_eq!(last_output(&daemon, "mute"), None);
    let metrics = daemon.get("/metrics").body;
    assert!(metrics.contains("agentd_agent_last_output_timestamp_seconds{agent=\"gone\"} "), "{metrics}");
    assert!(!metrics.contains("agentd_agent_last_output_timestamp_seconds{agent=\"mute\"} "), "{metrics}");

    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    for (name, before) in ["talker", "gone"].into_iter().zip(known) {
        assert_eq!(wait_for_output(&daemon, name), before, "{name}");
    }
    // Longer than files that are announced are left alone.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(last_output(&daemon, "talker"), Some(known[0]));
    assert_eq!(last_output(&daemon, "mute"), None);
}

#[test]
fn the_last_output_is_absent_if_the_log_cannot_be_written() {
    let setup = Setup::new();
    setup.put(&setup.path("log"), "in the way");
    let daemon = setup.start(&agent("a", "say hello; sleep inf", ""));
    daemon.wait("its line in the pane", || daemon.capture("a").contains("hello").then_some(()));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(last_output(&daemon, "a"), None);
}

#[test]
fn a_completion_without_output_is_marked() {
    let jcard = [
        agent("mute", "exit 0", ""),
        agent("talker", "say hello; exit 0", ""),
        agent("slow", "sleep 2.5; exit 0", ""),
        agent("failed", "exit 1", ""),
    ];
    let mut daemon = Setup::new().start(&jcard.concat());
    let exit = |daemon: &Daemon, name: &str| daemon.wait_for_state(name, State::Exited).exit.unwrap();
    assert!(exit(&daemon, "mute").silent);
    for name in ["talker", "slow", "failed"] {
        assert!(!exit(&daemon, name).silent, "{name}");
    }
    let reason = daemon.agent("mute").unwrap().reason.unwrap();
    assert_eq!(reason, "exited with status 0 in under 2 s and printed nothing");
    let (_, said) = ask(&daemon, &["explain", "mute"]);
    assert!(said.contains("It printed nothing, so it probably did nothing"), "{said}");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    assert!(exit(&daemon, "mute").silent, "it is on record");
}

#[test]
fn failures_are_seen_in_the_log_the_metrics_status_and_doctor() {
    let jcard = [
        agent("good", "exit 0", ""),
        agent("bad", "say oh; exit 3", ""),
        agent("tired", "say oh; exit 4", "restart = \"on-failure\"\nmax_restarts = 1\nbackoff = [\"0s\"]"),
        agent("late", "say oh; sleep inf", "timeout = \"1s\""),
    ];
    let daemon = Setup::new().start(&jcard.concat());
    let expected = [
        ("good", Outcome::Completed),
        ("bad", Outcome::Failed),
        ("tired", Outcome::GaveUp),
        ("late", Outcome::TimedOut),
    ];
    for (name, outcome) in expected {
        let agent = daemon.wait_until(name, "its outcome", |agent| agent.outcome.is_some());
        assert_eq!(agent.outcome, Some(outcome), "{name}");
    }
    let metrics = daemon.get("/metrics").body;
    for (name, outcome) in expected {
        let sample = format!("agentd_agent_outcome{{agent=\"{name}\",outcome=\"{}\"}} 1\n", outcome.word());
        assert!(metrics.contains(&sample), "{sample}{metrics}");
        let is_warning = |line: &&str| line.contains("WARN") && line.contains(&format!("{}: ", outcome.word()));
        let warnings = daemon.log().lines().filter(is_warning).filter(|line| line.contains(name)).count();
        assert_eq!(warnings, usize::from(outcome.is_failure()), "{name}: {}", daemon.log());
    }
    let (status, said) = ask(&daemon, &["status", "--failed", "--check"]);
    assert_eq!(status, Some(5), "{said}");
    assert!(["bad", "tired", "late"].iter().all(|name| said.contains(name)) && !said.contains("good"), "{said}");
    assert_eq!(ask(&daemon, &["status"]).0, Some(0));
    let (_, said) = ask(&daemon, &["doctor", "--json"]);
    assert!(said.contains("these agents need attention: bad, late, tired"), "{said}");
}

#[test]
fn flags_and_entries_for_the_go_daemon_are_warned_about_once() {
    let setup = Setup::new().args(["-sandbox-state-dir", "/run/x", "-debug=false"]);
    let jcard = agent("a", "sleep inf", "") + &agent("b", "sleep inf", "type = \"native\"");
    let daemon = setup.start(&jcard);
    daemon.wait_until_running("a");
    daemon.edit_jcard(&(agent("a", "say again; sleep inf", "") + &agent("b", "sleep inf", "type = \"native\"")));
    daemon.wait_until("a", "the edit", |agent| agent.running && agent.last_output_at.is_some());
    let log = daemon.log();
    let count = |text: &str| log.lines().filter(|line| line.contains("WARN") && line.contains(text)).count();
    assert_eq!(count("--sandbox-state-dir has no effect"), 1, "{log}");
    assert_eq!(count("1 entry without a `type` runs without a sandbox"), 1, "{log}");
    let (_, said) = ask(&daemon, &["doctor", "--json"]);
    assert!(said.contains("1 agent runs without a sandbox, which the Go daemon would use"), "{said}");
}

#[test]
fn check_reads_standard_input_and_several_files() {
    let setup = Setup::new();
    let (good, bad) = (setup.path("good.toml"), setup.path("bad.toml"));
    setup.put(&good, "[agent]\nharness = \"codex\"\n");
    setup.put(&bad, "[agent]\nharness = \"custom\"\ncommand = \"python3 -m x\"\nrestart = 1\n");
    let (status, said) = run(setup.agentd(&["check"]).args([&good, &bad]));
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("good.toml: 1 agent, 0 errors") && said.contains("bad.toml:4:11: error: "), "{said}");
    let (status, said) = run(setup.agentd(&["check", "-"]).stdin(fs::File::open(&good).unwrap()));
    assert_eq!((status, said.as_str()), (Some(0), "<stdin>: 1 agent, 0 errors, 0 warnings\n"));
    setup.put(&bad, "[agent]\nharness = \"custom\"\ncommand = \"python3 -m x\"\n");
    let (status, said) = run(setup.agentd(&["check", "--strict"]).arg(&bad));
    assert_eq!(status, Some(1));
    assert!(
        said.contains(
            "error: `command` is one program's name with spaces; write command = [\"python3\", \"-m\", \"x\"]"
        ),
        "{said}"
    );
}

#[test]
fn check_here_looks_at_this_machine() {
    let setup = Setup::new();
    let entry =
        "[agent]\nharness = \"custom\"\ncommand = \"/nowhere/x\"\nworkdir = \"/nowhere\"\nsecrets = [\"NO_SUCH\"]\n";
    setup.put(&setup.path("here.toml"), entry);
    let user = setup.agent_account().name;
    let (secrets, file) = (setup.path("secrets"), setup.path("here.toml"));
    let command = |name: &str| {
        let mut command = setup.agentd(&["check", "--here", "--user", name]);
        command.arg("--secret-dir").arg(&secrets).arg(&file);
        command
    };
    let (status, said) = run(&mut command(&user));
    assert_eq!(status, Some(0), "{said}");
    for text in [
        "warning: custom: the program /nowhere/x does not exist; install it",
        "warning: custom: the workdir /nowhere does not exist; make it",
        "warning: custom: the secret NO_SUCH does not exist; put it",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    let entry = format!(
        "[agent]\nharness = \"custom\"\ncommand = \"/bin/sh\"\nworkdir = {:?}\nsecrets = [{:?}]\n",
        setup.path("work"),
        crate::canary::NAME
    );
    setup.put(&file, entry);
    let (_, said) = run(&mut command(&user));
    assert!(said.ends_with(": 1 agent, 0 errors, 0 warnings\n") && said.lines().count() == 1, "{said}");
}
