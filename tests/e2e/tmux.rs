//! A tmux that stops, dies, loses its socket, is missing, too old, or of another version than its server.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentd::wire::exit_status::ExitStatus;
use agentd::wire::status::{AgentStatus, Outcome, State};
use nix::sys::signal::Signal;

use crate::support::{Daemon, Process, Setup, agent, is_root, run};

fn server(daemon: &Setup) -> Process {
    Process(daemon.tmux(&["display-message", "-p", "#{pid}"]).unwrap().trim().parse().unwrap())
}

/// A script named tmux that starts with these lines, and ends by executing the real tmux.
pub fn put_tmux(setup: &Setup, lines: &str) {
    let real = run(std::process::Command::new("bash").args(["-c", "command -v tmux"])).1;
    fs::create_dir_all(setup.path("fake")).unwrap();
    let new = setup.path("fake/new");
    fs::write(&new, format!("#!/bin/sh\n{lines}\nexec {} \"$@\"\n", real.trim())).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, setup.path("fake/tmux")).unwrap();
}

/// A daemon that finds tmux only where [`put_tmux`] puts it.
pub fn with_own_tmux(setup: Setup) -> Setup {
    fs::create_dir_all(setup.path("fake")).unwrap();
    let fake = setup.path("fake").display().to_string();
    setup.env("PATH", &fake)
}

fn is_as_before(before: &AgentStatus, after: &AgentStatus) -> bool {
    after.running && (before.pid, before.restarts, before.attempt) == (after.pid, after.restarts, after.attempt)
}

/// The longest response time of the API during `during`, less the delay of the machine itself, because other tests share its
/// processors.
fn slowest_answer<T>(daemon: &Daemon, during: impl FnOnce() -> T) -> (Duration, T) {
    const PAUSE: Duration = Duration::from_millis(5);
    let over = AtomicBool::new(false);
    let late = Mutex::new(Duration::ZERO);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                thread::sleep(PAUSE);
                *late.lock().unwrap() += start.elapsed().saturating_sub(PAUSE);
            }
        });
        let asking = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let (start, before) = (Instant::now(), *late.lock().unwrap());
                for path in ["/v1/agents", "/v1/health"] {
                    assert_eq!(daemon.get(path).status, 200);
                }
                let taken = start.elapsed();
                // One round of a slow thread may still be running.
                thread::sleep(PAUSE);
                let machine = late.lock().unwrap().saturating_sub(before);
                slowest = slowest.max(taken.saturating_sub(machine));
            }
            slowest
        });
        let result = during();
        over.store(true, Ordering::Relaxed);
        (asking.join().unwrap(), result)
    })
}

/// Stops the server for so long. Meanwhile one agent keeps running, another ends and is due for a restart, and a third is
/// declared.
fn stop_the_server(time: Duration) {
    let steady = agent("steady", "log @WORK/steady; sleep inf", "");
    let again = "log @WORK/ends; await-exit @WORK/end; exit 0";
    let ends = agent("ends", again, "restart = \"on-failure\"\nbackoff = [\"50ms\"]");
    let mut daemon = Setup::new().start(&(steady.clone() + &ends));
    daemon.wait_until_running("steady");
    daemon.wait_until_running("ends");
    let before = daemon.agent("steady").unwrap();
    let server = server(&daemon);
    server.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    let (slowest, ()) = slowest_answer(&daemon, || {
        daemon.put(&daemon.work("end"), "3");
        let late = agent("late", "log @WORK/late; sleep inf", "");
        daemon.edit_jcard(&(steady.clone() + &ends + &late));
        daemon.wait_until("ends", "known to have ended", |agent| {
            agent.exit.as_ref().is_some_and(|exit| exit.how == ExitStatus::Code(3))
        });
        if time > Duration::from_secs(10) {
            for name in ["ends", "late"] {
                daemon.wait_until(name, "held up, and says why", |agent| {
                    agent.error.as_ref().is_some_and(|error| error.contains("does not answer"))
                });
            }
        }
        while stopped.elapsed() < time {
            let now = daemon.agent("steady").unwrap();
            assert!(is_as_before(&before, &now), "{now:?}");
            thread::sleep(Duration::from_millis(50));
        }
    });
    server.signal(Signal::SIGCONT);
    let continued = Instant::now();
    for name in ["ends", "late"] {
        daemon.wait_until(name, "running, with nothing to complain of", |agent| agent.running && agent.error.is_none());
    }
    eprintln!("stopped for {time:?}: slowest answer {slowest:?}, all run after {:?}", continued.elapsed());
    assert!(is_as_before(&before, &daemon.agent("steady").unwrap()));
    assert_eq!(daemon.agent("ends").unwrap().restarts, 1);
    for (name, starts) in [("ends", 2), ("late", 1), ("steady", 1)] {
        daemon.wait_for_starts(name, starts);
    }
    for name in ["steady", "ends", "late"] {
        let panes = daemon.tmux(&["list-panes", "-s", "-t", &format!("={name}"), "-F", "#{pane_dead}"]).unwrap();
        assert_eq!(panes, "0\n", "{name} has one session with one living pane");
    }
    assert!(slowest < Duration::from_millis(100), "the API took {slowest:?}");
    assert!(daemon.stop().success());
}

#[test]
fn a_briefly_stopped_server_causes_no_harm() {
    stop_the_server(Duration::from_secs(3));
}

#[test]
fn a_server_stopped_for_long_is_named_until_it_resumes() {
    // Longer than a tmux client may take. The length can be set, to try the full length of the promise.
    let seconds = std::env::var("STOP_TMUX_FOR_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    stop_the_server(Duration::from_secs(seconds.unwrap_or(14)));
}

/// Stops the server when a client that is to run `command` starts, for longer than that client may take. Once continued, the
/// server runs the command although its client is gone.
fn stop_the_server_before(command: &str, declare: impl Fn(&Daemon)) -> Daemon {
    let setup = with_own_tmux(Setup::new());
    let trap = setup.work("trap").display().to_string();
    put_tmux(
        &setup,
        &format!(
            "case \" $* \" in *' {command} '*) mv {trap} {trap}.sprung && kill -STOP $(cat {trap}.sprung) ;; esac"
        ),
    );
    let daemon = setup.start(&two_agents());
    daemon.wait_until_running("steady");
    daemon.wait_until_running("again");
    let server = server(&daemon);
    daemon.put(&daemon.work("trap"), server.0.to_string());
    declare(&daemon);
    daemon.wait_for_file("trap.sprung");
    daemon.wait("the daemon to abandon the client", || daemon.log().contains("does not answer").then_some(()));
    server.signal(Signal::SIGCONT);
    daemon
}

fn check_that_it_runs_once(daemon: &Daemon, name: &str, log: &str, starts: usize) {
    daemon.wait_until(name, "running, with nothing to complain of", |agent| agent.running && agent.error.is_none());
    let panes = daemon.tmux(&["list-panes", "-s", "-t", &format!("={name}"), "-F", "#{pane_dead}"]).unwrap();
    assert_eq!(panes, "0\n", "{name} has one session with one living pane");
    daemon.wait_for_starts(log, starts);
}

#[test]
fn a_session_created_too_late_serves_the_next_try() {
    let daemon = stop_the_server_before("new-session", |daemon| {
        daemon.edit_jcard(&(two_agents() + &agent("late", "log @WORK/late; sleep inf", "")));
    });
    check_that_it_runs_once(&daemon, "late", "late", 1);
}

#[test]
fn a_pane_given_to_a_launcher_too_late_serves_the_next_try() {
    let daemon = stop_the_server_before("respawn-pane", |daemon| daemon.put(&daemon.work("end"), "3"));
    check_that_it_runs_once(&daemon, "again", "again", 2);
}

#[test]
fn agents_of_a_killed_server_restart_by_policy_in_a_new_one() {
    let once = agent("once", "log @WORK/once; sleep inf", "");
    let again = agent("again", "log @WORK/again; sleep inf", "restart = \"on-failure\"\nbackoff = [\"50ms\"]");
    let daemon = Setup::new().start(&(once + &again));
    let pids = ["once", "again"].map(|name| {
        daemon.wait_for_starts(name, 1);
        daemon.wait_until_running(name)
    });
    let first = server(&daemon);
    first.signal(Signal::SIGKILL);
    let lost = daemon.wait_for_state("once", State::Exited);
    assert_eq!(lost.outcome, Some(Outcome::Failed));
    assert_eq!(lost.exit.unwrap().how, ExitStatus::Cause("the tmux server died".to_owned()));
    assert!(lost.reason.unwrap().contains("the tmux server died"));
    let back = daemon.wait_until("again", "running again", |agent| agent.running && agent.restarts == 1);
    assert_eq!(back.exit.unwrap().how, ExitStatus::Cause("the tmux server died".to_owned()));
    for pid in pids {
        daemon.wait_until_gone(pid);
    }
    assert_ne!(server(&daemon), first);
    assert!(daemon.has_session("again"));
    daemon.wait_for_starts("once", 1);
    daemon.wait_for_starts("again", 2);
}

/// The options that agents need in tmux, whatever settings the server was started with.
const NEEDED: [(&str, &str); 6] = [
    ("window-size", "smallest"),
    ("destroy-unattached", "off"),
    ("exit-unattached", "off"),
    ("escape-time", "10"),
    ("focus-events", "on"),
    ("extended-keys", "on"),
];

#[test]
fn an_adopted_server_receives_the_options_and_sizes_of_agents() {
    let mut daemon = Setup::new().start(&agent("a", "log @WORK/a; sleep inf", ""));
    daemon.wait_until_running("a");
    let option = |daemon: &Daemon, name: &str| daemon.tmux(&["show-options", "-gqv", name]).unwrap().trim().to_owned();
    let size = |daemon: &Daemon| daemon.tmux(&["display-message", "-p", "-t", "=a:", "#{window_width}"]).unwrap();
    for (name, value) in NEEDED {
        assert_eq!(option(&daemon, name), value, "{name}");
    }
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    // As an earlier agentd, or another user's settings, would leave it.
    for words in [
        &["set-option", "-g", "window-size", "latest"][..],
        &["set-option", "-s", "escape-time", "500"],
        &["set-option", "-s", "focus-events", "off"],
        &["set-option", "-s", "extended-keys", "off"],
        &["set-option", "-g", "destroy-unattached", "off"],
        &["set-hook", "-gu", "client-detached[67]"],
        &["resize-window", "-t", "=a:", "-x", "20", "-y", "5"],
        &["set-option", "-wu", "-t", "=a:", "window-size"],
    ] {
        daemon.tmux(words).unwrap();
    }
    daemon.start_again();
    daemon.wait("the window to have its own size", || (size(&daemon).trim() == "80").then_some(()));
    for (name, value) in NEEDED {
        daemon.wait(name, || (option(&daemon, name) == value).then_some(()));
    }
    assert!(daemon.tmux(&["show-hooks", "-g", "client-detached"]).unwrap().contains("run-shell"));
    daemon.wait_for_starts("a", 1);
}

/// Two agents. The second fails whenever a file `end` exists, and is restarted.
fn two_agents() -> String {
    let again = "log @WORK/again; await-exit @WORK/end";
    agent("steady", "log @WORK/steady; sleep inf", "")
        + &agent("again", again, "restart = \"on-failure\"\nbackoff = [\"50ms\"]")
}

#[test]
fn a_server_recreates_its_removed_socket_for_a_launch() {
    let daemon = Setup::new().start(&two_agents());
    daemon.wait_until_running("steady");
    daemon.wait_until_running("again");
    let (before, first) = (daemon.agent("steady").unwrap(), server(&daemon));
    fs::remove_file(daemon.tmux_socket()).unwrap();
    daemon.put(&daemon.work("end"), "3");
    daemon.wait_until("again", "running again", |agent| agent.running && agent.restarts == 1);
    assert_eq!(server(&daemon), first, "no second server runs");
    assert!(is_as_before(&before, &daemon.agent("steady").unwrap()));
    if is_root() {
        let mode = fs::metadata(daemon.tmux_socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o060, 0o060, "the group can still use the socket");
    }
    assert!(daemon.log().contains("had lost its socket"));
}

#[test]
fn a_server_recreates_its_removed_socket_without_a_launch() {
    let daemon = Setup::new().start(&two_agents());
    daemon.wait_until_running("steady");
    let first = server(&daemon);
    fs::remove_file(daemon.tmux_socket()).unwrap();
    daemon.wait("the server to be reached again", || daemon.has_session("steady").then_some(()));
    assert_eq!(server(&daemon), first);
}

#[test]
fn both_removed_sockets_return_and_agents_launch_again() {
    let daemon = Setup::new().start(&two_agents());
    daemon.wait_until_running("steady");
    daemon.wait_until_running("again");
    let (before, first) = (daemon.agent("steady").unwrap(), server(&daemon));
    for name in ["tmux.sock", "launch.sock"] {
        fs::remove_file(daemon.path("tmux").join(name)).unwrap();
    }
    daemon.put(&daemon.work("end"), "3");
    daemon.wait_until("again", "running again", |agent| agent.running && agent.restarts == 1);
    assert_eq!(server(&daemon), first);
    assert!(is_as_before(&before, &daemon.agent("steady").unwrap()));
    daemon.wait_for_starts("again", 2);
}

#[test]
fn a_stopped_server_without_a_socket_is_not_replaced() {
    let daemon = Setup::new().start(&two_agents());
    daemon.wait_until_running("steady");
    daemon.wait_until_running("again");
    let (before, first) = (daemon.agent("steady").unwrap(), server(&daemon));
    first.signal(Signal::SIGSTOP);
    fs::remove_file(daemon.tmux_socket()).unwrap();
    daemon.put(&daemon.work("end"), "3");
    let held_up = daemon.wait_until("again", "held up, and says why", |agent| agent.error.is_some());
    let error = held_up.error.unwrap();
    assert!(error.contains(&format!("process {}", first.0)) && error.contains("does not answer"), "{error}");
    assert!(!daemon.tmux_socket().exists(), "no other server has taken its place");
    first.signal(Signal::SIGCONT);
    daemon.wait_until("again", "running again", |agent| agent.running && agent.restarts == 1);
    assert_eq!(server(&daemon), first);
    assert!(is_as_before(&before, &daemon.agent("steady").unwrap()));
}

#[test]
fn a_missing_tmux_is_named_and_used_once_it_appears() {
    let daemon = with_own_tmux(Setup::new()).start(&agent("a", "log @WORK/log; sleep inf", ""));
    let agent = daemon.wait_until("a", "held up, and says why", |agent| agent.error.is_some());
    let error = agent.error.unwrap();
    assert!(error.contains("tmux: not found in PATH") && error.contains("install it"), "{error}");
    assert_eq!((agent.state, agent.restarts), (State::Backoff, 0));
    assert!(daemon.log().contains("tmux: not found in PATH"));
    put_tmux(&daemon, "");
    let agent = daemon.wait_until("a", "running", |agent| agent.running);
    assert_eq!((agent.error, agent.restarts), (None, 0));
    daemon.wait_for_starts("log", 1);
}

#[test]
fn an_old_tmux_is_named_with_the_required_version() {
    let setup = with_own_tmux(Setup::new());
    put_tmux(
        &setup,
        r#"case " $* " in *" -V "*) echo tmux 3.1c ;; *) echo "tmux: unknown option -- N" >&2; exit 1 ;; esac; exit"#,
    );
    let daemon = setup.start(&agent("a", "log @WORK/log; sleep inf", ""));
    let agent = daemon.wait_until("a", "held up, and says why", |agent| agent.error.is_some());
    let error = agent.error.unwrap();
    assert!(error.contains("tmux 3.2 or newer is needed") && error.contains("tmux 3.1c"), "{error}");
    assert_eq!(agent.state, State::Backoff);
    put_tmux(&daemon, "");
    daemon.wait_until("a", "running", |agent| agent.running && agent.error.is_none());
}

/// The errors of a client whose server does not understand it, one for each wording that versions have used.
const STRANGERS: [&str; 3] = [
    "server exited unexpectedly",
    "protocol version mismatch (client 9, server 8)",
    "server version is too old for client",
];

#[test]
fn the_daemon_uses_the_servers_own_tmux_if_versions_differ() {
    for message in STRANGERS {
        let setup = with_own_tmux(Setup::new());
        put_tmux(&setup, "");
        let daemon = setup.start(&two_agents());
        daemon.wait_until_running("steady");
        daemon.wait_until_running("again");
        let (before, first) = (daemon.agent("steady").unwrap(), server(&daemon));
        put_tmux(&daemon, &format!("[ \"$1\" = -V ] && echo tmux 9.9 || echo '{message}' >&2; exit 1"));
        daemon.put(&daemon.work("end"), "3");
        let again = daemon.wait_until("again", "running again", |agent| agent.running && agent.restarts == 1);
        assert_eq!(again.error, None);
        assert!(is_as_before(&before, &daemon.agent("steady").unwrap()));
        assert_eq!(server(&daemon), first);
        let log = daemon.log();
        assert!(log.contains("does not understand the installed tmux") && log.contains("kill-server"), "{log}");
        // Once that server has ended, as the log says, the next one is of the installed version.
        put_tmux(&daemon, "");
        first.signal(Signal::SIGKILL);
        daemon.wait_until("again", "running in a new server", |agent| agent.running && agent.restarts == 2);
        assert_ne!(server(&daemon), first);
    }
}

#[test]
fn a_server_without_a_usable_tmux_keeps_its_agents() {
    let setup = with_own_tmux(Setup::new());
    put_tmux(&setup, "");
    // A copy that refuses to start again.
    let real = run(std::process::Command::new("bash").args(["-c", "command -v tmux"])).1;
    let copy = setup.path("fake/copy");
    fs::copy(real.trim(), &copy).unwrap();
    put_tmux(&setup, &format!("exec {} \"$@\"", copy.display()));
    let daemon = setup.start(&two_agents());
    daemon.wait_until_running("steady");
    daemon.wait_until_running("again");
    let before = daemon.agent("steady").unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o600)).unwrap();
    put_tmux(&daemon, "[ \"$1\" = -V ] && echo tmux 9.9 || echo 'server exited unexpectedly' >&2; exit 1");
    daemon.put(&daemon.work("end"), "3");
    let held_up = daemon.wait_until("again", "held up, and says why", |agent| agent.error.is_some());
    let error = held_up.error.unwrap();
    assert!(error.contains("does not understand the installed tmux") && error.contains("kill-server"), "{error}");
    assert!(is_as_before(&before, &daemon.agent("steady").unwrap()));
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    daemon.wait_until("again", "running again", |agent| agent.running && agent.restarts == 1);
}

#[test]
fn a_foreign_tmux_server_is_awaited_and_set_up_each_time() {
    let script = "log @WORK/log; sleep inf";
    let daemon = Setup::new().args(["--await-tmux"]).start(&agent("a", script, "restart = 'always'\nbackoff = ['0s']"));
    let start_server = || {
        let socket = daemon.tmux_socket();
        let words = ["start-server", ";", "set-option", "-s", "exit-empty", "off"];
        let argv = [&["tmux", "-f", "/dev/null", "-S", socket.to_str().unwrap()], &words[..]].concat();
        assert!(daemon.as_agent(&argv).status().unwrap().success());
    };
    let runs_as_it_should = |starts| {
        daemon.wait_for_starts("log", starts);
        daemon.wait_until_running("a");
        let option = |words: &[&str]| daemon.tmux(words).unwrap().trim().to_owned();
        assert_eq!(option(&["show-options", "-g", "-v", "history-limit"]), "5000");
        assert_eq!(option(&["show-options", "-g", "-v", "update-environment"]), "");
        let shared = daemon.tmux_socket().metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(shared, 0o770, "{shared:o}");
    };
    daemon.wait_until("a", "told about", |agent| {
        agent.error.as_ref().is_some_and(|error| error.contains("no tmux server listens"))
    });
    assert!(!daemon.tmux_socket().exists());
    start_server();
    runs_as_it_should(1);
    let first = server(&daemon);
    daemon.tmux(&["kill-server"]).unwrap();
    daemon.wait_until_gone(first.0);
    start_server();
    runs_as_it_should(2);
}
