//! A stop is a real SIGINT, a grace period, and then the end of everything that belongs to the agent.

use std::time::{Duration, Instant, SystemTime};

use agentd::wire::status::State;
use nix::sys::signal::Signal;

use crate::support::{Daemon, Process, Setup, agent, between};

const NOTHING: &str = "# nothing\n[other]\n";

#[test]
fn a_removed_agent_receives_sigint_and_loses_its_session() {
    let daemon =
        Setup::new().start(&agent("a", "log @WORK/log; on-signal SIGINT 0; append @WORK/ready yes; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_file("ready");
    daemon.edit_jcard(NOTHING);
    daemon.wait_until_removed("a");
    assert_eq!(daemon.lines("log").last().map(String::as_str), Some("SIGINT"));
    daemon.wait_until_gone(pid);
    assert!(!daemon.has_session("a"));
}

#[test]
fn a_raw_mode_program_receives_a_real_sigint() {
    let script = "log @WORK/log; on-signal SIGINT 0; raw; append @WORK/ready yes; sleep inf";
    let daemon = Setup::new().start(&agent("a", script, ""));
    daemon.wait_for_file("ready");
    daemon.edit_jcard(NOTHING);
    daemon.wait_until_removed("a");
    assert_eq!(daemon.lines("log").last().map(String::as_str), Some("SIGINT"));
}

#[test]
fn sigint_goes_to_the_whole_foreground_group() {
    let setup = Setup::new();
    let inner = format!(
        "exec env --default-signal=INT {0} log {1} -- on-signal SIGINT 0 -- append {2} yes -- sleep inf",
        "@HARNESS", "@WORK/log", "@WORK/ready"
    );
    // A shell that waits for its foreground child, as wrappers around harnesses do.
    let entry = format!(
        "[[agents]]\nname = \"a\"\nharness = \"custom\"\nworkdir = \"@WORK\"\ncommand = [\"bash\", \"-c\", \"trap : INT; bash -c '{inner}'; exit 9\"]\n"
    );
    let daemon = setup.start(&entry);
    daemon.wait_for_file("ready");
    daemon.edit_jcard(NOTHING);
    daemon.wait_until_removed("a");
    assert_eq!(daemon.lines("log").last().map(String::as_str), Some("SIGINT"));
}

#[test]
fn an_agent_that_ignores_sigint_is_killed_after_the_grace() {
    let script = "log @WORK/log; stubborn; append @WORK/ready yes; sleep inf";
    let daemon = Setup::new().start(&agent("a", script, "grace_period = \"1s\""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_file("ready");
    let asked = SystemTime::now();
    daemon.edit_jcard(NOTHING);
    let agent = daemon.wait_for_state("a", State::Stopping);
    assert!(agent.running);
    assert_eq!(agent.pid, Some(pid));
    let grace = between(asked, agent.deadline.unwrap().0);
    assert!(grace >= Duration::from_millis(900) && grace < Duration::from_secs(5), "{grace:?}");
    daemon.wait_until_removed("a");
    assert!(between(asked, SystemTime::now()) >= Duration::from_millis(900), "the agent had its grace period");
    daemon.wait_until_gone(pid);
    assert!(!daemon.has_session("a"));
}

#[test]
fn an_agent_without_grace_is_killed_at_once() {
    let script = "log @WORK/log; on-signal SIGINT 0 15; append @WORK/ready yes; sleep inf";
    let daemon = Setup::new().start(&agent("a", script, "grace_period = \"0s\""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_file("ready");
    let asked = Instant::now();
    daemon.edit_jcard(NOTHING);
    daemon.wait_until_gone(pid);
    assert!(asked.elapsed() < Duration::from_secs(10));
    daemon.wait_until_removed("a");
}

const FAMILY: &str = "child @WORK/child; own-group @WORK/group; own-session @WORK/session; append @WORK/ready yes";

#[test]
fn a_stop_ends_all_children_groups_and_sessions_of_an_agent() {
    let daemon = Setup::new().start(&agent("a", &format!("stubborn; {FAMILY}; sleep inf"), "grace_period = \"300ms\""));
    daemon.wait_for_file("ready");
    let pids = ["child", "group", "session"].map(|member| daemon.pid_in(member).unwrap());
    daemon.edit_jcard(NOTHING);
    daemon.wait_until_removed("a");
    for pid in pids {
        daemon.wait_until_gone(pid);
    }
}

#[test]
fn children_do_not_outlive_an_agent_that_ends_in_its_grace() {
    let daemon = Setup::new().start(&agent("a", &format!("on-signal SIGINT 0; {FAMILY}; sleep inf"), ""));
    daemon.wait_for_file("ready");
    let pids = ["child", "group"].map(|member| daemon.pid_in(member).unwrap());
    daemon.edit_jcard(NOTHING);
    daemon.wait_until_removed("a");
    for pid in pids {
        daemon.wait_until_gone(pid);
    }
}

#[test]
fn processes_left_behind_by_an_agent_are_killed() {
    let daemon = Setup::new().start(&agent("a", "child @WORK/child; own-group @WORK/group; exit 0", ""));
    daemon.wait_for_state("a", State::Exited);
    for member in ["child", "group"] {
        daemon.wait_until_gone(daemon.pid_in(member).unwrap());
    }
}

#[test]
fn three_agents_that_need_two_seconds_stop_in_about_two_seconds() {
    let names = ["a", "b", "c"];
    let entry = |name: &&str| {
        agent(name, &format!("log @WORK/{name}; on-signal SIGINT 0 2; append @WORK/{name}-ready yes; sleep inf"), "")
    };
    let mut daemon = Setup::new().start(&names.iter().map(entry).collect::<String>());
    for name in names {
        daemon.wait_until_running(name);
        daemon.wait_for_file(&format!("{name}-ready"));
    }
    let asked = Instant::now();
    let status = daemon.stop();
    let took = asked.elapsed();
    assert!(status.success(), "{status}");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(3800), "{took:?}");
    for name in names {
        assert_eq!(daemon.lines(name).last().map(String::as_str), Some("SIGINT"), "{name}");
    }
    assert_eq!(daemon.processes(), [], "nothing is left");
}

#[test]
fn the_grace_of_one_agent_delays_no_other() {
    let slow = agent("slow", "stubborn; append @WORK/ready yes; sleep inf", "grace_period = \"1h\"");
    let entry = |n: u32| agent("quick", "sleep inf", &format!("env = {{ N = \"{n}\" }}"));
    let daemon = Setup::new().start(&(slow + &entry(1)));
    daemon.wait_for_file("ready");
    let pid = daemon.wait_until_running("quick");
    daemon.edit_jcard(&entry(2));
    daemon.wait_until("quick", "relaunched", |agent| agent.running && agent.pid.is_some_and(|new| new != pid));
    assert_eq!(daemon.agent("slow").unwrap().state, State::Stopping);
}

#[test]
fn an_agent_declared_again_while_stopping_starts_afterward() {
    let script = "log @WORK/log; on-signal SIGINT 0 1; append @WORK/ready yes; sleep inf";
    let daemon = Setup::new().start(&agent("a", script, ""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_file("ready");
    daemon.edit_jcard(NOTHING);
    daemon.wait_for_state("a", State::Stopping);
    daemon.edit_jcard(&agent("a", script, ""));
    let agent =
        daemon.wait_until("a", "running anew", |agent| agent.running && agent.pid.is_some_and(|new| new != pid));
    assert_eq!((agent.attempt, agent.restarts), (Some(1), 0));
    let log = daemon.wait("the second start", || Some(daemon.lines("log")).filter(|log| log.len() == 3));
    assert!(log[0].starts_with("start ") && log[1] == "SIGINT" && log[2].starts_with("start "), "{log:?}");
}

#[test]
fn a_renamed_finished_agent_leaves_its_session_to_the_new_one() {
    let entry = |name: &str| agent(name, "exit 0", "session = \"desk\"");
    let daemon = Setup::new().start(&entry("a0"));
    daemon.wait_for_state("a0", State::Exited);
    for round in 1..8 {
        let name = format!("a{round}");
        daemon.edit_jcard(&entry(&name));
        let agent = daemon.wait_for_state(&name, State::Exited);
        assert_eq!((agent.attempt, agent.error, agent.session.as_str()), (Some(1), None, "desk"));
        daemon.wait("the session of the new agent", || daemon.has_session("desk").then_some(()));
    }
}

#[test]
fn an_agent_waits_for_the_session_of_one_that_stops() {
    let slow = "on-signal SIGINT 0 4; append @WORK/ready yes; sleep inf";
    let first = agent("slow", slow, "session = \"desk\"");
    let daemon = Setup::new().start(&first);
    let pid = daemon.wait_until_running("slow");
    daemon.wait_for_file("ready");
    daemon.edit_jcard(&agent("meddler", "sleep inf", "session = \"desk\""));
    let waiting = daemon.wait_for_state("meddler", State::Waiting);
    assert_eq!(waiting.reason.as_deref(), Some("its session desk is still in use by slow"));
    assert_eq!((waiting.attempt, waiting.session.as_str()), (None, ""));
    daemon.edit_jcard(&agent("next", "sleep inf", "session = \"desk\""));
    daemon.wait_until_removed("meddler");
    assert!(daemon.has_session("desk") && Process(pid).is_alive(), "an agent that only waited ends nothing");
    daemon.wait_until_removed("slow");
    let free = Instant::now();
    let agent = daemon.wait_until("next", "running", |agent| agent.running);
    assert_eq!((agent.attempt, agent.restarts, agent.error), (Some(1), 0, None));
    assert!(free.elapsed() < Duration::from_secs(1), "{:?}", free.elapsed());
}

#[test]
fn the_daemon_stops_all_agents_on_sigterm_and_sigint() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Setup::new().start(
            &(agent("a", "sleep inf", "")
                + &agent("b", "exit 3", "restart = \"always\"\nbackoff = [\"1h\"]")
                + &agent("c", "exit 0", "")),
        );
        daemon.wait_until_running("a");
        daemon.wait_for_state("b", State::Backoff);
        daemon.wait_for_state("c", State::Exited);
        daemon.signal(signal);
        let status = daemon.ended();
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(!daemon.api_socket().exists(), "the API's socket is removed");
        assert!(!daemon.path("tmux/launch.sock").exists(), "the launch socket is removed");
        daemon.wait("the tmux server to end", || daemon.processes().is_empty().then_some(()));
    }
}

#[test]
fn a_foreign_session_on_the_tmux_server_is_left_alone() {
    let mut daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    daemon.tmux(&["new-session", "-d", "-s", "mine", "sleep infinity"]).unwrap();
    assert!(daemon.stop().success());
    assert!(daemon.has_session("mine"));
    assert!(!daemon.has_session("a"));
}

#[test]
fn a_shorter_grace_period_applies_to_a_stopping_agent() {
    let daemon = Setup::new().start(&agent("a", "stubborn; sleep inf", "timeout = \"1s\"\ngrace_period = \"1h\""));
    daemon.wait_for_state("a", State::Stopping);
    daemon.edit_jcard(&agent("a", "stubborn; sleep inf", "timeout = \"1s\"\ngrace_period = \"0s\""));
    daemon.wait_for_state("a", State::Exited);
}

/// Stops the tmux server, as job control does, and terminates the daemon. Returns the server, and how long that took.
fn stop_without_tmux(daemon: &mut Daemon) -> (Process, Duration) {
    let server = Process(daemon.tmux(&["display-message", "-p", "#{pid}"]).unwrap().trim().parse().unwrap());
    server.signal(Signal::SIGSTOP);
    let asked = Instant::now();
    assert!(daemon.stop().success());
    (server, asked.elapsed())
}

/// Two agents. One ends at once when asked to stop, the other a second later.
const QUICK_AND_SLOW: [(&str, &str); 2] = [
    ("quick", "on-signal SIGINT 0; append @WORK/quick.ready yes; sleep inf"),
    ("slow", "on-signal SIGINT 0 1; append @WORK/slow.ready yes; sleep inf"),
];

fn start_quick_and_slow() -> Daemon {
    let jcard: String = QUICK_AND_SLOW.iter().map(|(name, script)| agent(name, script, "")).collect();
    let daemon = Setup::new().start(&jcard);
    for (name, _) in QUICK_AND_SLOW {
        daemon.wait_for_file(&format!("{name}.ready"));
    }
    daemon
}

#[test]
fn a_stopped_tmux_server_delays_a_stop_by_three_seconds_at_most() {
    let mut daemon = start_quick_and_slow();
    let (server, took) = stop_without_tmux(&mut daemon);
    assert!(took < Duration::from_secs(1 + 3), "{took:?}");
    daemon.wait_until_gone(server.0);
}

#[test]
fn a_stopped_tmux_server_is_left_while_an_operator_works_in_it() {
    let mut daemon = start_quick_and_slow();
    daemon.tmux(&["new-session", "-d", "-s", "mine", "sleep 1000"]).unwrap();
    let (server, took) = stop_without_tmux(&mut daemon);
    assert!(took < Duration::from_secs(1 + 3), "{took:?}");
    assert!(server.is_alive());
    server.signal(Signal::SIGCONT);
    assert!(daemon.has_session("mine"));
}

#[test]
fn a_stopped_deputy_delays_a_stop_by_three_seconds_at_most() {
    let mut daemon = start_quick_and_slow();
    daemon.deputy().signal(Signal::SIGSTOP);
    let asked = Instant::now();
    assert!(daemon.stop().success());
    assert!(asked.elapsed() < Duration::from_secs(1 + 3), "{:?}", asked.elapsed());
}
