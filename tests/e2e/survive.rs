//! The daemon is killed, and another one takes its place. No agent notices, and nothing is forgotten.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use agentd::wire::exit_status::ExitStatus;
use agentd::wire::status::{AgentStatus, Outcome, State};
use nix::sys::signal::Signal;

use super::support::{Daemon, Process, Setup, agent, between, code, give, root, run};

const NO_AGENTS: &str = "[project]\nname = \"x\"\n";

impl Daemon {
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended();
    }

    pub fn kill_and_start_again(&mut self) {
        self.kill();
        self.start_again();
    }

    fn record(&self, name: &str) -> PathBuf {
        self.path(&format!("state/agents/{name}.json"))
    }

    /// Everything of an agent that a restart of the daemon must not change.
    fn life(&self, name: &str) -> (State, Option<i32>, Option<u64>, u64, String) {
        let AgentStatus { state, pid, attempt, restarts, started_at, declared_at, timeout_at, exit, .. } =
            self.agent(name).unwrap();
        (state, pid, attempt, restarts, format!("{started_at:?} {declared_at:?} {timeout_at:?} {exit:?}"))
    }

    /// Waits until the record says so.
    pub fn wait_for_record(&self, name: &str, text: &str) {
        self.wait(&format!("{text} in the record"), || {
            fs::read_to_string(self.record(name)).is_ok_and(|record| record.contains(text)).then_some(())
        });
    }
}

#[test]
fn the_next_daemon_adopts_running_agents_within_a_second() {
    let names: Vec<String> = (0..10).map(|number| format!("a{number}")).collect();
    let jcard: String = names.iter().map(|name| agent(name, &format!("log @WORK/{name}; sleep inf"), "")).collect();
    let mut daemon = Setup::new().start(&jcard);
    let pids: Vec<i32> = names.iter().map(|name| daemon.wait_until_running(name)).collect();
    daemon.wait_for_record("a9", "\"running\"");
    let before: Vec<_> = names.iter().map(|name| daemon.life(name)).collect();
    for _ in 0..3 {
        daemon.kill_and_start_again();
        let start = Instant::now();
        let after: Vec<_> = names.iter().map(|name| daemon.life(name)).collect();
        assert_eq!(after, before);
        assert!(start.elapsed() < Duration::from_secs(1));
    }
    for (name, pid) in names.iter().zip(pids) {
        assert!(Process(pid).is_alive());
        daemon.wait_for_starts(name, 1);
    }
}

#[test]
fn an_adopted_agent_is_managed_like_any_other() {
    let script = "log @WORK/log; on-signal INT 0; await-exit @WORK/exit";
    let mut daemon = Setup::new().start(&agent("a", script, "restart = 'on-failure'\nbackoff = ['0s']"));
    let before = daemon.wait_until_running("a");
    daemon.wait_for_starts("log", 1);
    daemon.kill_and_start_again();
    daemon.put(&daemon.work("exit"), "3");
    daemon.wait_for_starts("log", 2);
    let status = daemon.wait_until("a", "restarted", |agent| agent.running && agent.restarts == 1);
    assert_eq!((code(status.exit.as_ref()), status.attempt), (Some(3), Some(2)));
    assert_ne!(status.pid, Some(before));
    daemon.kill_and_start_again();
    daemon.edit_jcard(NO_AGENTS);
    daemon.wait_until_removed("a");
    daemon.wait_for_line("log", "INT");
    assert!(!daemon.has_session("a"));
    daemon.wait("the record to be removed", || (!daemon.record("a").exists()).then_some(()));
}

#[test]
fn an_end_without_a_daemon_is_recorded_with_status_and_time() {
    let mut daemon = Setup::new().start(
        &[
            agent("fails", "log @WORK/fails; await-exit @WORK/exit", "restart = 'on-failure'\nbackoff = ['0s']"),
            agent("dies", "wait-for @WORK/die; die SIGSEGV", ""),
            agent("ends", "wait-for @WORK/die; exit 0", ""),
        ]
        .concat(),
    );
    let pids = ["fails", "dies", "ends"].map(|name| daemon.wait_until_running(name));
    daemon.wait_for_starts("fails", 1);
    daemon.kill();
    daemon.put(&daemon.work("exit"), "42");
    daemon.put(&daemon.work("die"), "");
    for pid in pids {
        daemon.wait_until_gone(pid);
    }
    let gone = SystemTime::now();
    std::thread::sleep(Duration::from_millis(500)); // time passes before anybody looks
    daemon.start_again();
    let dies = daemon.wait_for_state("dies", State::Exited).exit.unwrap();
    assert_eq!(dies.how, ExitStatus::Signal("SIGSEGV".parse().unwrap()));
    // It can be seen to be gone a moment before its launcher notices.
    let off = between(dies.at.0, gone).max(between(gone, dies.at.0));
    assert!(dies.at.0 < gone + Duration::from_millis(400) && off < Duration::from_secs(5), "{dies:?} {gone:?}");
    let ends = daemon.wait_for_state("ends", State::Exited);
    assert_eq!((ends.outcome, code(ends.exit.as_ref())), (Some(Outcome::Completed), Some(0)));
    let fails = daemon.wait_until("fails", "restarted", |agent| agent.running && agent.restarts == 1);
    assert_eq!(code(fails.exit.as_ref()), Some(42));
    daemon.wait_for_starts("fails", 2);
}

#[test]
fn a_run_without_a_daemon_is_reported_from_start_to_end() {
    if !root() {
        return;
    }
    let script = "log @WORK/log; exit 3";
    let setup = Setup::new().user("slow");
    let lock = std::fs::File::create(setup.work("login.lock")).unwrap();
    give(&setup.work("login.lock"), &setup.agent_account());
    let held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let mut daemon = setup.start(&agent("a", script, "timeout = '1h'\nrestart = 'on-failure'"));
    daemon.wait("the login", || {
        daemon
            .processes()
            .iter()
            .any(|process| process.argv().first().is_some_and(|word| word == "flock"))
            .then_some(())
    });
    daemon.kill();
    drop(held);
    daemon.wait_for_starts("log", 1);
    let words: Vec<String> = daemon.lines("log")[0].split(' ').map(str::to_owned).collect();
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(words[2].parse().unwrap());
    daemon.wait_until_gone(words[1].parse().unwrap());
    daemon.start_again();
    let status = daemon.wait_for_state("a", State::Backoff);
    assert_eq!((code(status.exit.as_ref()), status.attempt, daemon.starts("log")), (Some(3), Some(1), 1));
    let near = |time: SystemTime| between(time, started).max(between(started, time)) < Duration::from_secs(1);
    assert!(near(status.started_at.unwrap().0) && near(status.timeout_at.unwrap().0 - Duration::from_hours(1)));
    assert!(status.started_at <= status.exit.map(|exit| exit.at));
}

#[test]
fn tmux_reports_the_exit_if_the_launcher_is_gone() {
    let mut daemon = Setup::new().start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_record("a", "\"running\"");
    let launcher = Process(pid).parent();
    daemon.kill();
    launcher.signal(Signal::SIGKILL);
    daemon.wait_until_gone(launcher.0);
    daemon.start_again();
    let exit = daemon.wait_for_state("a", State::Exited).exit.unwrap();
    assert_eq!(exit.how, ExitStatus::Signal("SIGKILL".parse().unwrap()));
    daemon.wait_until_gone(pid);
}

#[test]
fn a_tmux_server_that_died_unseen_is_the_reported_cause() {
    let mut daemon =
        Setup::new().start(&agent("a", "log @WORK/log; sleep inf", "restart = 'always'\nbackoff = ['0s']"));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_record("a", "\"running\"");
    daemon.kill();
    daemon.tmux(&["kill-server"]).unwrap();
    daemon.wait_until_gone(pid);
    daemon.start_again();
    let status = daemon.wait_until("a", "restarted", |agent| agent.running && agent.restarts == 1);
    assert!(matches!(status.exit.as_ref().unwrap().how, ExitStatus::Cause(_)), "{status:?}");
    daemon.wait_for_starts("log", 2);
}

#[test]
fn a_backoff_continues_under_the_next_daemon() {
    let mut daemon =
        Setup::new().start(&agent("a", "log @WORK/log; exit 1", "restart = 'on-failure'\nbackoff = ['3s']"));
    let before = daemon.wait_for_state("a", State::Backoff);
    daemon.wait_for_record("a", "\"backoff\":{");
    daemon.kill_and_start_again();
    let after = daemon.agent("a").unwrap();
    assert_eq!((after.state, after.next_start_at), (State::Backoff, before.next_start_at));
    assert_eq!((after.restarts, after.exit), (0, before.exit));
    daemon.wait_for_starts("log", 2);
    let started = daemon.wait_until("a", "restarted", |agent| agent.restarts == 1).started_at.unwrap();
    let late = between(before.next_start_at.unwrap().0, started.0);
    assert!(late < Duration::from_secs(2), "{late:?}");
}

#[test]
fn a_stop_keeps_its_deadline_and_sends_two_sigints() {
    let script = "log @WORK/log; on-signal INT note; sleep inf";
    let mut daemon = Setup::new().start(&agent("a", script, "grace_period = '4s'"));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_starts("log", 1);
    daemon.edit_jcard(NO_AGENTS);
    let before = daemon.wait_for_state("a", State::Stopping);
    daemon.wait_for_line("log", "INT");
    for _ in 0..2 {
        daemon.kill_and_start_again();
        let after = daemon.agent("a").unwrap();
        assert_eq!((after.state, after.pid, after.deadline), (State::Stopping, Some(pid), before.deadline));
    }
    daemon.wait_until_removed("a");
    assert!(SystemTime::now() >= before.deadline.unwrap().0);
    assert!(!Process(pid).is_alive() && !daemon.has_session("a"));
    assert_eq!(daemon.lines("log").iter().filter(|line| *line == "INT").count(), 2);
}

/// A daemon that was killed after the agent `a` had ended once, before tmux heard of the second attempt.
fn cut_off_before_the_second_attempt() -> Daemon {
    let policy = "restart = 'on-failure'\nbackoff = ['1s', '1h']";
    let mut daemon = Setup::new().start(&agent("a", "log @WORK/log; exit 3", policy));
    daemon.wait_for_state("a", State::Backoff);
    // A deputy that is stopped during a request is replaced at about the time of the next attempt.
    daemon.wait("the last request to the deputy", || daemon.log().contains("its last screen").then_some(()));
    // One deputy after another, because each stopped one is replaced.
    let mut deputy = daemon.deputy();
    deputy.signal(Signal::SIGSTOP);
    daemon.wait("the next attempt", || {
        deputy = daemon.deputy();
        deputy.signal(Signal::SIGSTOP);
        daemon.agent("a").filter(|agent| agent.state == State::Starting)
    });
    daemon.wait_for_record("a", "\"starting\"");
    daemon.kill();
    deputy.signal(Signal::SIGKILL);
    daemon
}

#[test]
fn an_interrupted_attempt_does_not_inherit_the_previous_end() {
    let mut daemon = cut_off_before_the_second_attempt();
    daemon.start_again();
    daemon.wait_for_starts("log", 2);
    let again = daemon.wait_until("a", "in backoff again", |agent| agent.next_start_at.is_some());
    assert_eq!((again.attempt, again.restarts), (Some(2), 1));
}

#[test]
fn short_lived_daemons_still_complete_an_interrupted_attempt() {
    let mut daemon = cut_off_before_the_second_attempt();
    let started = (0..10).any(|_| {
        daemon.start_again();
        let start = Instant::now();
        while daemon.starts("log") < 2 && start.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon.kill();
        daemon.starts("log") == 2
    });
    assert!(started);
}

#[test]
fn a_timeout_keeps_its_deadline_across_daemons() {
    let mut daemon = Setup::new().start(&agent("a", "log @WORK/log; sleep inf", "timeout = '3s'\nrestart = 'always'"));
    daemon.wait_until_running("a");
    daemon.wait_for_record("a", "\"running\"");
    let before = daemon.agent("a").unwrap();
    daemon.kill_and_start_again();
    assert_eq!(daemon.agent("a").unwrap().timeout_at, before.timeout_at);
    let over = daemon.wait_for_state("a", State::Exited);
    assert_eq!(over.outcome, Some(Outcome::TimedOut));
    daemon.wait_for_starts("log", 1);
}

#[test]
fn the_next_daemon_contradicts_nothing_reported_before() {
    let policy = "restart = 'always'\nbackoff = ['20ms']";
    let mut daemon = Setup::new().start(&agent("a", "exit 1", policy));
    for _ in 0..15 {
        let before = daemon.get("/v1/agents").body;
        // The test does not parse the response: the sooner it kills the daemon, the better.
        while daemon.get("/v1/agents").body == before {}
        let body = daemon.get("/v1/agents").body;
        daemon.kill();
        let told: Vec<AgentStatus> = serde_json::from_str(&body).unwrap();
        daemon.start_again();
        let again = daemon.agent("a").unwrap();
        assert!((again.attempt, again.restarts) >= (told[0].attempt, told[0].restarts), "{told:?} {again:?}");
    }
}

#[test]
fn a_finished_agent_stays_finished() {
    let mut daemon = Setup::new().start(
        &[
            agent("done", "log @WORK/done; exit 0", ""),
            agent("spent", "log @WORK/spent; exit 1", "restart = 'always'\nmax_restarts = 1\nbackoff = ['0s']"),
        ]
        .concat(),
    );
    daemon.wait_for_state("done", State::Exited);
    daemon.wait_for_state("spent", State::Exited);
    daemon.wait_for_record("done", "\"exited\"");
    daemon.wait_for_record("spent", "\"exited\"");
    let before = ["done", "spent"].map(|name| daemon.life(name));
    daemon.kill_and_start_again();
    daemon.edit_jcard(&[agent("third", "sleep inf", ""), fs::read_to_string(daemon.jcard()).unwrap()].concat());
    daemon.wait_until_running("third");
    assert_eq!(["done", "spent"].map(|name| daemon.life(name)), before);
    assert_eq!((daemon.starts("done"), daemon.starts("spent")), (1, 2));
}

#[test]
fn the_next_daemon_applies_only_what_was_edited_meanwhile() {
    let old: Vec<String> = ["same", "policy", "launch", "gone", "secret"]
        .map(|name| {
            let secrets = if name == "secret" { "secrets = ['KEY']" } else { "secrets = []" };
            agent(name, &format!("log @WORK/{name}; sleep inf"), secrets)
        })
        .into();
    let setup = Setup::new();
    setup.secret("KEY", "one");
    let mut daemon = setup.start(&old.concat());
    let pids = ["same", "policy", "launch", "gone", "secret"].map(|name| daemon.wait_until_running(name));
    for name in ["same", "policy", "launch", "gone", "secret"] {
        daemon.wait_for_record(name, "\"running\"");
    }
    daemon.kill();
    let new = [
        format!("# a comment\n{}", old[0]),
        format!("{}grace_period = '9s'\n", old[1]),
        agent("launch", "log @WORK/launch; sleep inf; say other", "secrets = []"),
        old[4].clone(),
        agent("new", "log @WORK/new; sleep inf", "secrets = []"),
    ];
    daemon.edit_jcard(&new.concat());
    daemon.secret("KEY", "two");
    daemon.start_again();
    daemon.wait_until_running("new");
    daemon.wait_until_removed("gone");
    for name in ["launch", "secret"] {
        daemon.wait_for_starts(name, 2);
    }
    let now = ["same", "policy", "launch", "secret"].map(|name| daemon.wait_until_running(name));
    assert_eq!((now[0], now[1]), (pids[0], pids[1]));
    assert!(pids[2..].iter().all(|&pid| !Process(pid).is_alive()));
    daemon.wait_for_starts("same", 1);
    daemon.wait_for_starts("policy", 1);
}

#[test]
fn a_daemon_killed_at_any_point_doubles_and_forgets_no_agent() {
    let script = "log @WORK/log; child @WORK/child; sleep inf";
    let old = |word: &str| agent("a", &format!("{script}; say {word}"), "grace_period = '100ms'");
    let mut daemon = Setup::new().args(["--settle", "0ms"]).start(&old("0"));
    for round in 1..=25 {
        daemon.edit_jcard(&old(&round.to_string()));
        std::thread::sleep(Duration::from_millis(round * 2)); // into the stop, the launch, and what comes after
        daemon.kill_and_start_again();
    }
    let argument = "25".to_owned();
    let pid = daemon.wait("the last declaration to run", || {
        let pid = daemon.agent("a").filter(|agent| agent.running)?.pid?;
        Process(pid).argv().contains(&argument).then_some(pid)
    });
    let harness = |process: &Process| process.argv().iter().any(|word| word.contains("fake-harness"));
    daemon.wait("all others to end", || {
        daemon.processes().into_iter().filter(harness).all(|process| process.0 == pid).then_some(())
    });
    for line in daemon.lines("log").iter().filter_map(|line| line.strip_prefix("start ")) {
        let started: i32 = line.split(' ').next().unwrap().parse().unwrap();
        assert!(started == pid || !Process(started).is_alive(), "{started} runs beside {pid}");
    }
}

#[test]
fn an_unusable_record_is_reported_and_no_agent_is_touched() {
    let mut daemon = Setup::new().start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    for text in ["", "{\"version\":1,\"boot", "no record", "{\"version\":99,\"boot\":\"x\",\"agent\":{}}"] {
        daemon.wait_for_record("a", "\"running\"");
        daemon.kill();
        fs::write(daemon.record("a"), text).unwrap();
        daemon.start_again();
        assert_eq!(daemon.wait_until_running("a"), pid, "{text:?}");
        let error = daemon.health().state_error.unwrap();
        assert!(error.contains("state/agents/a.json") && daemon.log().contains("state/agents/a.json"), "{error}");
    }
    daemon.wait_for_record("a", "\"running\"");
    daemon.kill();
    fs::remove_dir_all(daemon.path("state")).unwrap();
    daemon.start_again();
    assert_eq!(daemon.wait_until_running("a"), pid, "without any record");
    daemon.wait_for_starts("log", 1);
    assert_eq!(daemon.health().state_error, None);
}

#[test]
fn an_unwritable_record_is_reported_and_agents_live_on() {
    let daemon =
        Setup::new().start(&agent("a", "log @WORK/log; await-exit @WORK/exit", "restart = 'always'\nbackoff = ['0s']"));
    daemon.wait_until_running("a");
    daemon.wait_for_record("a", "\"running\"");
    let folder = daemon.path("state/agents");
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "in the way").unwrap();
    daemon.put(&daemon.work("exit"), "1");
    daemon.wait_for_starts("log", 2);
    let error = daemon.wait("an error", || daemon.health().state_error);
    assert!(error.contains("state/agents/a.json"), "{error}");
    fs::remove_file(&folder).unwrap();
    daemon.wait("the error to disappear", || daemon.health().state_error.is_none().then_some(()));
    daemon.wait_for_record("a", "\"running\"");
}

#[test]
fn a_forgotten_agents_session_is_stopped_but_not_an_operators() {
    let mut daemon = Setup::new().start(&agent("a", "log @WORK/log; on-signal INT 0; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_starts("log", 1);
    daemon.tmux(&["new-session", "-d", "-s", "mine", "sleep 1000"]).unwrap();
    daemon.kill();
    fs::remove_dir_all(daemon.path("state")).unwrap();
    daemon.edit_jcard(NO_AGENTS);
    daemon.start_again();
    daemon.wait_until_gone(pid);
    daemon.wait_for_line("log", "INT");
    daemon.wait("the session to end", || (!daemon.has_session("a")).then_some(()));
    assert!(daemon.has_session("mine"));
}

#[test]
fn sigterm_leaves_agents_to_the_next_daemon_if_configured() {
    let mut daemon = Setup::new().args(["--on-terminate", "detach"]).start(&agent(
        "a",
        "log @WORK/log; on-signal INT 0; sleep inf",
        "",
    ));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_starts("log", 1);
    assert!(daemon.stop().success());
    assert!(!daemon.api_socket().exists());
    assert!(Process(pid).is_alive());
    daemon.start_again();
    assert_eq!(daemon.wait_until_running("a"), pid);
    daemon.signal(Signal::SIGINT);
    assert!(daemon.ended().success());
    assert!(!Process(pid).is_alive());
    daemon.wait_for_starts("log", 1);
    daemon.wait_for_line("log", "INT");
}

#[test]
fn unreadable_secrets_after_a_restart_affect_no_agent() {
    let setup = Setup::new();
    setup.secret("KEY", "one");
    let mut daemon = setup.start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_record("a", "\"running\"");
    daemon.kill();
    let (secrets, aside) = (daemon.path("secrets"), daemon.path("secrets.aside"));
    fs::rename(&secrets, &aside).unwrap();
    fs::write(&secrets, "no directory").unwrap();
    daemon.start_again();
    daemon.wait("an error", || daemon.health().secrets_error);
    daemon.edit_jcard(&[fs::read_to_string(daemon.jcard()).unwrap(), agent("b", "sleep inf", "")].concat());
    daemon.wait_until_running("b");
    assert_eq!(daemon.wait_until_running("a"), pid);
    fs::remove_file(&secrets).unwrap();
    fs::rename(&aside, &secrets).unwrap();
    daemon.wait("the error to disappear", || daemon.health().secrets_error.is_none().then_some(()));
    assert_eq!(daemon.wait_until_running("a"), pid);
    daemon.wait_for_starts("log", 1);
    daemon.secret("KEY", "two");
    daemon.wait_for_starts("log", 2);
}

#[test]
fn an_unrecorded_agent_is_known_until_its_entry_is_removed() {
    let lacking = |more: &str| agent("a", "log @WORK/log; on-signal INT 0; sleep inf", more);
    for more in ["secrets = ['NOT_THERE']", "workdir = 7"] {
        let mut daemon = Setup::new().start(&lacking(""));
        let pid = daemon.wait_until_running("a");
        daemon.wait_for_starts("log", 1);
        daemon.kill();
        fs::remove_dir_all(daemon.path("state")).unwrap();
        let entry = if more.contains("workdir") { lacking("").replace("\"@WORK\"", "7") } else { lacking(more) };
        daemon.edit_jcard(&entry);
        daemon.start_again();
        assert_eq!(daemon.wait_until_running("a"), pid, "{more}");
        daemon.edit_jcard(NO_AGENTS);
        daemon.wait_until_removed("a");
        daemon.wait_until_gone(pid);
        daemon.wait_for_line("log", "INT");
    }
}

#[test]
fn an_agent_that_completed_unseen_before_its_timeout_is_done() {
    let script = "log @WORK/log; wait-for @WORK/done; exit 0";
    let mut daemon = Setup::new().start(&agent("a", script, "timeout = '2s'"));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_starts("log", 1);
    daemon.wait_for_record("a", "\"running\"");
    let over = daemon.agent("a").unwrap().timeout_at.unwrap();
    daemon.kill();
    daemon.put(&daemon.work("done"), "");
    daemon.wait_until_gone(pid);
    daemon.wait("the timeout to expire", || (SystemTime::now() > over.0).then_some(()));
    daemon.start_again();
    let status = daemon.wait_for_state("a", State::Exited);
    assert_eq!((status.outcome, code(status.exit.as_ref())), (Some(Outcome::Completed), Some(0)));
}

#[test]
fn a_copied_record_is_reported_and_kills_no_one() {
    let mut daemon = Setup::new().start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_starts("log", 1);
    daemon.wait_for_record("a", "\"running\"");
    daemon.kill();
    fs::copy(daemon.record("a"), daemon.record("a-old")).unwrap();
    daemon.start_again();
    assert!(daemon.health().state_error.unwrap().contains("a-old.json"));
    // If the copy harmed the process that it names, it would do so before `b` runs.
    daemon.edit_jcard(&[fs::read_to_string(daemon.jcard()).unwrap(), agent("b", "sleep inf", "")].concat());
    daemon.wait_until_running("b");
    assert_eq!(daemon.wait_until_running("a"), pid);
    let names: Vec<String> = daemon.agents().into_iter().map(|agent| agent.name).collect();
    assert_eq!(names, ["a", "b"]);
    daemon.wait_for_starts("log", 1);
}

#[test]
fn an_edit_after_a_restart_applies_despite_a_bad_secret() {
    let setup = Setup::new();
    setup.secret("BAD", b"x\0y");
    let mut daemon = setup.start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_starts("log", 1);
    daemon.wait_for_record("a", "\"running\"");
    daemon.kill_and_start_again();
    assert_eq!(daemon.wait_until_running("a"), pid);
    daemon.edit_jcard(&agent("a", "log @WORK/log; sleep inf; say other", ""));
    daemon.wait_for_starts("log", 2);
    assert!(daemon.health().secrets_error.unwrap().contains("BAD"));
}

#[test]
fn an_edit_applies_even_if_the_records_key_is_lost() {
    let mut daemon = Setup::new().start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_starts("log", 1);
    daemon.wait_for_record("a", "\"running\"");
    daemon.kill();
    fs::remove_file(daemon.path("state/key")).unwrap();
    daemon.start_again();
    assert_eq!(daemon.wait_until_running("a"), pid);
    daemon.edit_jcard(&agent("a", "log @WORK/log; sleep inf", "grace_period = '5s'"));
    let other = agent("b", "sleep inf", "");
    daemon.edit_jcard(&[fs::read_to_string(daemon.jcard()).unwrap(), other].concat());
    daemon.wait_until_running("b");
    assert_eq!(daemon.wait_until_running("a"), pid);
    daemon.wait_for_starts("log", 1);
    daemon.edit_jcard(&agent("a", "log @WORK/log; sleep inf; say other", ""));
    daemon.wait_for_starts("log", 2);
}

#[test]
fn a_state_directory_behind_a_link_works() {
    let setup = Setup::new();
    fs::create_dir(setup.path("elsewhere")).unwrap();
    give(&setup.path("elsewhere"), &setup.daemon_account());
    symlink(setup.path("elsewhere"), setup.path("state")).unwrap();
    let mut daemon = setup.start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_starts("log", 1);
    daemon.wait_for_record("a", "\"running\"");
    assert_eq!(daemon.health().state_error, None);
    let (status, said) = run(&mut daemon.daemon_command());
    assert!(
        status != Some(0) && said.contains(&format!("process {}", daemon.pid())),
        "the state directory is locked: {said}"
    );
    daemon.kill_and_start_again();
    assert_eq!(daemon.wait_until_running("a"), pid);
}

#[test]
fn a_record_with_absurd_times_is_not_fatal() {
    let mut daemon = Setup::new().start(&agent(
        "a",
        "log @WORK/log; exit 1",
        "restart = 'on-failure'\nbackoff = ['1h']\ntimeout = '9h'",
    ));
    daemon.wait_for_record("a", "\"backoff\":{");
    daemon.kill();
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(daemon.record("a")).unwrap()).unwrap();
    assert!(make_absurd(&mut record["agent"]) > 3);
    fs::write(daemon.record("a"), record.to_string()).unwrap();
    daemon.start_again();
    assert_eq!(code(daemon.wait_for_state("a", State::Backoff).exit.as_ref()), Some(1));
    assert_eq!((daemon.health().state_error, daemon.starts("log")), (None, 1));
    assert!(daemon.stop().success());
}

/// Sets every time on the boot clock far into the future, and returns how many there are.
fn make_absurd(record: &mut serde_json::Value) -> usize {
    match record {
        serde_json::Value::Object(fields) => fields
            .iter_mut()
            .map(|(name, value)| match name.as_str() {
                "boot" => {
                    value["secs"] = u64::MAX.into();
                    1
                }
                "wall" => {
                    // In the year 11476, which RFC 3339 cannot express.
                    value["secs_since_epoch"] = 300_000_000_000_u64.into();
                    1
                }
                _ => make_absurd(value),
            })
            .sum(),
        serde_json::Value::Array(items) => items.iter_mut().map(make_absurd).sum(),
        _ => 0,
    }
}

#[test]
fn a_screen_with_a_forgotten_secret_is_not_logged() {
    let setup = Setup::new();
    setup.secret("KEY", "the-former-secret-value");
    let shows = agent("a", "", "").replace("\"@HARNESS\"", "['bash', '-c', 'echo $KEY; exec sleep 1000']");
    let shows = shows.replace("args = [\"\"]", "args = []");
    let mut daemon = setup.start(&shows);
    daemon.wait_until_running("a");
    daemon.wait("the secret to appear", || daemon.screen("a").contains("the-former").then_some(()));
    daemon.kill();
    fs::remove_dir_all(daemon.path("state/agents")).unwrap();
    daemon.secret("KEY", "the-present-secret-value");
    daemon.start_again();
    daemon.wait("the new secret to appear", || daemon.screen("a").contains("the-present").then_some(()));
    assert!(daemon.stop().success());
    assert!(!daemon.log().contains("the-former") && !daemon.log().contains("the-present"));
}
