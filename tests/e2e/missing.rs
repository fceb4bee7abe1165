//! A program that is not there is waited for. No attempt is made, and so none is counted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use agentd::wire::reason::{MissingProgram, WaitingFor};
use agentd::wire::status::{AgentStatus, State};
use nix::sys::signal::Signal;

use crate::support::{Daemon, Setup, agent, run, steps};

/// An agent whose program is the file `program` in the working folder.
fn missing(more: &str) -> String {
    agent("a", "log @WORK/log; sleep inf", more).replace("\"@HARNESS\"", "\"@WORK/program\"")
}

/// Puts the program there.
fn install(daemon: &Daemon) {
    let (made, path) = (daemon.work("program.new"), daemon.work("program"));
    daemon.put(&made, daemon.expand("#!/bin/sh\nexec @HARNESS \"$@\"\n"));
    fs::set_permissions(&made, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(made, path).unwrap();
}

fn program(agent: &AgentStatus) -> Option<&MissingProgram> {
    agent.waiting_for.iter().find_map(|cause| match cause {
        WaitingFor::Program { program } => Some(program),
        _ => None,
    })
}

fn wait_until_missing(daemon: &Daemon) -> AgentStatus {
    daemon.wait_until("a", "waiting for its program", |agent| agent.state == State::Waiting && program(agent).is_some())
}

/// How often a launch of the agent was begun.
fn launches(daemon: &Daemon) -> usize {
    daemon.log().matches("launching").count()
}

/// The log files of the agent.
fn log_files(daemon: &Daemon) -> Vec<PathBuf> {
    let folder = daemon.path("log/a");
    fs::read_dir(folder).map_or_else(|_| Vec::new(), |files| files.map(|file| file.unwrap().path()).collect())
}

fn single(daemon: &Daemon) -> AgentStatus {
    serde_json::from_str(&daemon.get("/v1/agents/a").body).unwrap()
}

#[test]
fn a_missing_program_is_waited_for_and_not_counted() {
    let daemon = Setup::new().start(&missing("restart = \"no\"\nbackoff = [\"1s\"]"));
    let waits = wait_until_missing(&daemon);
    daemon.wait("three launches", || (launches(&daemon) >= 3).then_some(()));
    // Between two looks: one that is under way counts until it has found nothing.
    let now =
        daemon.wait("a moment between two looks", || Some(single(&daemon)).filter(|now| now.state == State::Waiting));
    assert_eq!((now.attempt, now.attempt_total, now.restarts, now.outcome), (None, None, 0, None));
    assert!(now.history.is_empty() && now.exit.is_none() && now.next_start_at.is_some(), "{now:?}");
    daemon.wait("no log to be left", || log_files(&daemon).is_empty().then_some(()));
    let path = daemon.work("program").display().to_string();
    assert_eq!(waits.reason.unwrap(), format!("the program {path} does not exist"));
    install(&daemon);
    daemon.wait_until_running("a");
    let now = single(&daemon);
    assert_eq!((now.attempt, now.attempt_total, now.error), (Some(1), Some(1), None));
    assert_eq!(log_files(&daemon).len(), 2);
}

#[test]
fn a_program_that_appears_is_found_at_once_on_sighup() {
    let daemon = Setup::new().start(&missing("backoff = [\"1h\"]"));
    wait_until_missing(&daemon);
    install(&daemon);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until_running("a");
    assert_eq!(launches(&daemon), 2, "{}", daemon.log());
}

#[test]
fn a_program_that_appears_is_found_at_once_on_an_edit() {
    let daemon = Setup::new().start(&missing("backoff = [\"1h\"]"));
    wait_until_missing(&daemon);
    install(&daemon);
    daemon.edit_jcard(&missing("backoff = [\"2h\"]"));
    daemon.wait_until_running("a");
}

#[test]
fn the_next_daemon_waits_for_a_missing_program_too() {
    let mut daemon = Setup::new().start(&missing("restart = \"always\"\nbackoff = [\"1h\"]"));
    wait_until_missing(&daemon);
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    install(&daemon);
    daemon.start_again();
    daemon.wait_until_running("a");
    assert_eq!(single(&daemon).attempt_total, Some(1));
}

#[test]
fn a_program_that_goes_missing_stops_no_count_of_restarts() {
    let setup = Setup::new();
    let more = "restart = \"always\"\nmax_restarts = 1\nbackoff = [\"1s\"]";
    let entry =
        missing(more).replace(&steps("log @WORK/log; sleep inf"), &steps("log @WORK/log; await-exit @WORK/end"));
    let daemon = setup.start(&entry);
    wait_until_missing(&daemon);
    install(&daemon);
    daemon.wait_until_running("a");
    fs::remove_file(daemon.work("program")).unwrap();
    daemon.put(&daemon.work("end"), "1");
    let waits = wait_until_missing(&daemon);
    assert_eq!((waits.attempt_total, waits.restarts), (Some(1), 0));
    install(&daemon);
    let runs = daemon.wait_until("a", "running again", |agent| agent.running && agent.restarts == 1);
    assert_eq!((runs.attempt, runs.attempt_total), (Some(2), Some(2)));
}

#[test]
fn a_command_with_spaces_is_told_with_its_fix() {
    let entry = agent("a", "exit 0", "backoff = [\"1h\"]").replace("\"@HARNESS\"", "\"python3 -m my_agent\"");
    let daemon = Setup::new().start(&entry);
    let waits = wait_until_missing(&daemon);
    let fix = "write command = [\"python3\", \"-m\", \"my_agent\"]";
    let reason = waits.reason.clone().unwrap();
    assert!(reason.starts_with("python3 -m my_agent is not in the PATH of user "), "{reason}");
    assert!(reason.contains(fix), "{reason}");
    let error = waits.error.clone().unwrap();
    assert!(error.find(fix).unwrap() < error.find("its PATH is").unwrap(), "{error}");
    let socket = daemon.api_socket();
    let verb =
        |words: &[&str]| run(&mut daemon.agentd(&[words, &["--api-socket", socket.to_str().unwrap(), "a"]].concat())).1;
    let shown = verb(&["explain"]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.contains(fix) && shown.matches("PATH").count() == 1, "{shown}");
    let shown = verb(&["wait", "--timeout", "1s"]);
    assert!(shown.contains("is not in the PATH of user"), "{shown}");
}

#[test]
fn a_tilde_is_the_home_of_the_agent_user() {
    let entry = agent("a", "exit 0", "restart = \"no\"").replace("\"@HARNESS\"", "\"~/no-such-program\"");
    let daemon = Setup::new().start(&entry);
    let waits = wait_until_missing(&daemon);
    let home = daemon.agent_account().dir.join("no-such-program");
    assert_eq!(program(&waits).unwrap().name, home.to_str().unwrap());
}

#[test]
fn the_log_of_the_first_attempt_stays_beside_the_latest() {
    let script = "echo x >>@WORK/starts; echo start $(wc -l <@WORK/starts); exit 1";
    let entry = |more: &str| {
        let line = format!("[\"bash\", \"-c\", '''{script}''']");
        agent("a", "exit 0", &format!("restart = \"always\"\nmax_restarts = 5\nbackoff = [\"1ms\"]\n{more}"))
            .replace("\"@HARNESS\"", &line)
    };
    let daemon = Setup::new().args(["--log-attempts", "2"]).start(&entry(""));
    daemon.wait_for_state("a", State::Exited);
    let socket = daemon.api_socket();
    let logs = |number: &str| {
        let words = ["logs", "a", "--attempt", number, "--api-socket", socket.to_str().unwrap()];
        run(&mut daemon.agentd(&words)).1
    };
    assert_eq!(logs("1"), "start 1\n");
    assert!(logs("2").contains("kept: attempts 1, 5, 6"), "{}", logs("2"));
    daemon.edit_jcard(&entry("env = { MORE = \"1\" }"));
    let status =
        daemon.wait_until("a", "over again", |agent| agent.state == State::Exited && agent.attempt_total == Some(12));
    assert_eq!(status.attempt, Some(6), "the API still counts those of the declaration");
    assert!(logs("1").contains("kept: attempts 7, 11, 12"), "{}", logs("1"));
    assert_eq!(logs("7"), "start 7\n");
}

#[test]
fn restarts_by_default_begin_over_after_health() {
    // What the daemon waits for is seen from the first two delays; the rest is a table of the restart policy.
    let daemon = Setup::new().start(&agent("a", "exit 1", "restart = \"always\""));
    for restarts in 0..2 {
        let agent =
            daemon.wait_until("a", "in backoff", |agent| agent.state == State::Backoff && agent.restarts == restarts);
        let delay = agent.next_start_at.unwrap().0.duration_since(agent.exit.unwrap().at.0).unwrap();
        assert!(delay.abs_diff(Duration::from_secs(3)) < Duration::from_millis(100), "{delay:?}");
    }
}
