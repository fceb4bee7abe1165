//! How an agent runs and ends, and what the API reports about it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use agentd::wire::exit_status::ExitStatus;
use agentd::wire::status::{Exit, Outcome, State};
use std::io::{Read, Write};

use crate::support::{Process, Setup, agent, as_user, between, code, run};

#[test]
fn exit_0_is_completed() {
    let before = SystemTime::now();
    let daemon = Setup::new().start(&agent("a", "exit 0", ""));
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!(agent.outcome, Some(Outcome::Completed));
    assert_eq!((agent.running, agent.pid, agent.attempt, agent.restarts), (false, None, Some(1), 0));
    assert_eq!(code(agent.exit.as_ref()), Some(0));
    assert_eq!((agent.error, agent.next_start_at, agent.deadline), (None, None, None));
    let (declared, started, ended) = (agent.declared_at.unwrap(), agent.started_at.unwrap(), agent.exit.unwrap().at);
    assert!(declared <= started && started <= ended, "{declared} {started} {ended}");
    assert!(ended.0 > before && ended.0 < SystemTime::now() + Duration::from_millis(1));
}

#[test]
fn exit_3_without_restart_is_failed_and_reports_its_code() {
    let daemon = Setup::new().start(&agent("a", "exit 3", ""));
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!((agent.outcome, code(agent.exit.as_ref())), (Some(Outcome::Failed), Some(3)));
}

#[test]
fn exit_status_255_is_reported_unchanged() {
    let daemon = Setup::new().start(&agent("a", "exit 255", ""));
    assert_eq!(code(daemon.wait_for_state("a", State::Exited).exit.as_ref()), Some(255));
}

#[test]
fn death_by_a_signal_is_reported_by_its_name() {
    let signals = ["SIGKILL", "SIGTERM", "SIGSEGV", "SIGHUP", "SIGINT"];
    let jcard: String = signals.iter().map(|signal| agent(signal, &format!("die {signal}"), "")).collect();
    let daemon = Setup::new().start(&jcard);
    for signal in signals {
        let agent = daemon.wait_for_state(signal, State::Exited);
        assert_eq!(agent.outcome, Some(Outcome::Failed));
        assert!(
            matches!(&agent.exit, Some(Exit { how: ExitStatus::Signal(name), .. }) if name.to_string() == signal),
            "{:?}",
            agent.exit
        );
    }
}

#[test]
fn death_by_a_real_time_signal_is_reported_by_its_name() {
    let daemon = Setup::new().start(&(entry_of("a", "kill -37 $$") + &entry_of("b", "kill -64 $$")));
    for (name, signal) in [("a", "SIGRTMIN+3"), ("b", "SIGRTMIN+30")] {
        let agent = daemon.wait_for_state(name, State::Exited);
        assert!(
            matches!(&agent.exit, Some(Exit { how: ExitStatus::Signal(told), .. }) if told.to_string() == signal),
            "{:?}",
            agent.exit
        );
        daemon.wait("its last output", || daemon.screen(name).contains(&format!("[ended by {signal}]")).then_some(()));
    }
}

#[test]
fn orphans_that_die_by_any_signal_end_no_agent() {
    // Each orphan leaves its parent before it dies. SIGKILL ends those that a signal does not kill.
    let orphans = "for n in $(seq 64); do for k in 1 2 3; do \
                   (python3 -c \"import os; os.fork() and os._exit(0); os.kill(os.getpid(), $n); os.kill(os.getpid(), 9)\" &); \
                   done; done; wait; sleep 0.5; : >@WORK/done; exec sleep 1000";
    let healthy: String = (0..3).map(|number| agent(&format!("h{number}"), "sleep inf", "")).collect();
    let daemon = Setup::new().start(&(entry_of("a", orphans) + &healthy));
    let before = daemon.wait_until_running("a");
    daemon.wait_for_file("done");
    for agent in daemon.agents() {
        assert_eq!((agent.state, agent.restarts, agent.attempt), (State::Running, 0, Some(1)), "{agent:?}");
    }
    assert_eq!(daemon.agent("a").unwrap().pid, Some(before));
}

/// An agent that runs a bash script.
fn entry_of(name: &str, script: &str) -> String {
    format!(
        "[[agents]]\nname = {name:?}\nharness = \"custom\"\ncommand = [\"bash\", \"-c\", {script:?}]\nworkdir = \"@WORK\"\n\n"
    )
}

#[test]
fn an_interactive_agent_keeps_running_without_a_prompt() {
    let daemon = Setup::new().start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    let agent = daemon.agent("a").unwrap();
    assert_eq!((agent.state, agent.outcome, agent.exit), (State::Running, None, None));
    assert!(daemon.wait("the log", || daemon.lines("log").first().cloned()).starts_with(&format!("start {pid} ")));
}

#[test]
fn the_reported_pid_is_the_harness_in_its_terminals_foreground() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    let harness = Process(daemon.wait_until_running("a"));
    assert!(harness.argv().iter().any(|word| word.ends_with("fake-harness")), "{harness}");
    assert_eq!(harness.foreground(), harness.group(), "the harness is in the foreground");
    let launcher = harness.parent();
    assert_eq!(launcher.session(), launcher.0, "its launcher leads the session of the pane");
    assert_eq!(harness.session(), harness.0, "and the harness leads that of its terminal");
    let argv = launcher.argv();
    assert!(
        argv.iter().any(|word| word.ends_with("/agentd-launcher")) && argv.iter().any(|word| word == "a"),
        "{launcher}"
    );
}

#[test]
fn a_command_missing_from_the_path_is_the_agents_error() {
    let entry = agent("a", "exit 0", "").replace("@HARNESS", "no-such-binary");
    let daemon = Setup::new().start(&(entry + &agent("b", "sleep inf", "")));
    let agent = daemon.wait_until("a", "in error", |agent| agent.error.is_some());
    let error = agent.error.unwrap();
    assert!(error.contains("no-such-binary") && error.contains("PATH"), "{error}");
    assert!(!agent.running);
    daemon.wait_until_running("b");
}

#[test]
fn a_command_that_cannot_be_executed_reports_the_real_reason() {
    let setup = Setup::new();
    fs::write(setup.path("bin/plain"), "no program").unwrap();
    fs::set_permissions(setup.path("bin/plain"), fs::Permissions::from_mode(0o644)).unwrap();
    let daemon = setup.start(&agent("a", "exit 0", "").replace("@HARNESS", "@DIR/bin/plain"));
    let agent = daemon.wait_until("a", "in error", |agent| agent.error.is_some());
    let error = agent.error.unwrap().to_lowercase();
    assert!(error.contains("bin/plain") && error.contains("permission denied"), "{error}");
}

#[test]
fn an_agent_with_a_failed_launch_runs_once_its_command_exists() {
    let setup = Setup::new();
    let entry =
        agent("a", "sleep inf", "restart = \"on-failure\"\nbackoff = [\"50ms\"]").replace("@HARNESS", "@DIR/bin/later");
    let daemon = setup.start(&entry);
    daemon.wait_until("a", "in error", |agent| agent.error.is_some());
    fs::copy(daemon.path("bin/fake-harness"), daemon.path("bin/later")).unwrap();
    daemon.wait_until_running("a");
    daemon.wait_until("a", "without error", |agent| agent.error.is_none());
}

#[test]
fn an_unexpected_peer_on_the_launch_socket_learns_nothing() {
    let setup = Setup::new();
    setup.secret("TOKEN", "canary-of-the-launch-socket");
    let daemon = setup.start(&agent("a", "log @WORK/log; sleep inf", ""));
    daemon.wait_for_starts("log", 1);
    for bytes in [&b""[..], b"\n", b"{}\n", &[0; 64], b"hello a 1\n"] {
        let mut peer = UnixStream::connect(daemon.path("tmux/launch.sock")).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let _ = peer.write_all(bytes);
        let _ = peer.shutdown(std::net::Shutdown::Write);
        let mut told = Vec::new();
        match peer.read_to_end(&mut told) {
            Ok(_) => {}
            Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "the daemon holds the connection open"),
        }
        assert!(!String::from_utf8_lossy(&told).contains("canary"), "{bytes:?} revealed a secret");
    }
    daemon.wait_for_starts("log", 1);
}

#[test]
fn a_launcher_the_daemon_did_not_start_receives_no_work() {
    let setup = Setup::new();
    setup.secret("TOKEN", "canary-of-a-second-launcher");
    let daemon = setup.start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    let argv = Process(pid).parent().argv();
    let argv: Vec<&str> = ["timeout", "10"].into_iter().chain(argv.iter().map(String::as_str)).collect();
    let (status, said) = run(as_user(&daemon.agent_account().name, &argv).current_dir(daemon.path("work")));
    assert_ne!(status, Some(0), "{said}");
    assert!(!said.contains("canary"), "{said}");
    daemon.wait_for_starts("log", 1);
    assert_eq!(daemon.wait_until_running("a"), pid);
}

#[test]
fn the_end_of_a_run_reaches_the_api_at_once() {
    let daemon = Setup::new().start(&agent("a", "await-exit @WORK/end", ""));
    daemon.wait_until_running("a");
    daemon.put(&daemon.work("end"), "4");
    daemon.wait("the harness to read its exit status", || (!daemon.work("end").exists()).then_some(()));
    let agent = daemon.wait_for_state("a", State::Exited);
    assert!(between(agent.exit.unwrap().at.0, SystemTime::now()) < Duration::from_secs(5));
}

#[test]
fn many_agents_that_end_at_once_each_run_exactly_once() {
    let names: Vec<String> = (0..40).map(|n| format!("quick-{n}")).collect();
    let entry = |name: &String| agent(name, "log @WORK/log; exit 0", "");
    let daemon = Setup::new().start(&names.iter().map(entry).collect::<String>());
    for name in &names {
        let agent = daemon.wait_for_state(name, State::Exited);
        assert_eq!((agent.outcome, agent.attempt, agent.restarts), (Some(Outcome::Completed), Some(1), 0), "{name}");
    }
    daemon.wait_for_starts("log", names.len());
}

#[test]
fn a_harness_that_ends_at_once_is_reported_correctly() {
    let entry = |n: i32| {
        let name = format!("true-{n}");
        let status = n % 2;
        format!(
            "[[agents]]\nname = \"{name}\"\nharness = \"custom\"\nworkdir = \"@WORK\"\ncommand = [\"sh\", \"-c\", \"exit {status}\"]\n"
        )
    };
    let daemon = Setup::new().start(&(0..20).map(entry).collect::<String>());
    for n in 0..20 {
        let agent = daemon.wait_for_state(&format!("true-{n}"), State::Exited);
        assert_eq!((code(agent.exit.as_ref()), agent.attempt), (Some(n % 2), Some(1)), "{}", agent.name);
    }
}
