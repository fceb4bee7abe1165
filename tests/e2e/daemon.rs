//! The daemon itself: its start, its log, and a second one beside it.

use std::fs;

use agentd::wire::status::State;
use nix::sys::signal::Signal;

use crate::support::{Dump, Process, Setup, Who, agent, give, is_root, owner, run, with_args};

#[test]
fn a_second_daemon_names_the_running_one_and_exits() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    let (status, said) = run(&mut daemon.daemon_command());
    assert!(status.is_some_and(|status| status != 0), "{status:?}");
    assert!(said.contains(&daemon.pid().to_string()), "the message names the holder, {}: {said}", daemon.pid());
    assert_eq!(daemon.get("/v1/health").status, 200);
    assert_eq!(daemon.wait_until_running("a"), pid);
    assert!(daemon.path("tmux/launch.sock").exists());
}

#[test]
fn a_daemon_with_other_state_does_not_steal_a_live_socket() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    let elsewhere = |arg: &str| Some(arg.replace("/state", "/other-state").replace("/tmux/", "/other-tmux/"));
    let (status, said) = run(&mut with_args(&daemon.daemon_command(), elsewhere));
    assert!(status.is_some_and(|status| status != 0), "{said}");
    assert_eq!(daemon.get("/v1/health").status, 200);
    assert_eq!(daemon.wait_until_running("a"), pid);
}

#[test]
fn single_dash_flags_of_existing_unit_files_are_accepted() {
    let setup = Setup::new();
    setup.edit_jcard(&agent("a", "sleep inf", ""));
    let ours = ["--config", "--secret-dir", "--api-socket", "--tmux-socket", "--debug"];
    let one_dash = |arg: &str| Some(if ours.contains(&arg) { &arg[1..] } else { arg }.to_owned());
    let command = with_args(&setup.daemon_command(), one_dash);
    let mut daemon = setup.start_by(command);
    daemon.wait_until_running("a");
    assert!(daemon.stop().success());
}

#[test]
fn every_agent_starts_afresh_after_a_stop() {
    let mut daemon = Setup::new().start(&agent("a", "log @WORK/log; exit 0", ""));
    daemon.wait_for_state("a", State::Exited);
    assert!(daemon.stop().success());
    daemon.start_again();
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!((agent.attempt, agent.restarts), (Some(1), 0));
    daemon.wait_for_starts("log", 2);
}

#[test]
fn every_event_is_a_log_line_with_agent_state_and_reason() {
    let setup = Setup::new();
    let daemon = setup.start(
        &(agent("worker-of-mine", "exit 3", "restart = \"on-failure\"\nmax_restarts = 1\nbackoff = [\"10ms\"]")
            + &agent("b", "exit 0", "")),
    );
    daemon.wait_for_state("worker-of-mine", State::Exited);
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("worker-of-mine")).collect();
    for word in ["running", "backoff", "exited"] {
        assert!(lines.iter().any(|line| line.contains(word)), "no line of {word}: {log}");
    }
    assert!(!log.contains('\u{1b}'), "no colors into a file");
}

#[test]
fn the_prompts_text_is_logged_only_under_debug() {
    let text = "the text of the prompt";
    for debug in [false, true] {
        let setup = if debug { Setup::new() } else { Setup::new().quiet() };
        let daemon = setup.start(&agent("a", "dump @WORK/dump; rest", &format!("prompt = \"{text}\"")));
        daemon.wait_for_state("a", State::Exited);
        assert_eq!(daemon.log().contains(text), debug, "with debug {debug}");
    }
}

#[test]
fn debug_logs_the_launch_and_the_last_screen() {
    let setup = Setup::new();
    setup.secret("SECRET_NAME", "secret-value-5577");
    let more = "env = { DECLARED_NAME = \"declared-value-5577\" }";
    let daemon = setup.start(&agent("a", "say last words on the screen; dump @WORK/dump; exit 3", more));
    daemon.wait_for_state("a", State::Exited);
    let wanted = ["fake-harness", "/work", "SECRET_NAME", "DECLARED_NAME", "last words on the screen"];
    daemon.wait("all of it in the log", || wanted.iter().all(|part| daemon.log().contains(part)).then_some(()));
    assert!(!daemon.log().contains("value-5577"), "and no value");
}

#[test]
fn missing_socket_and_state_directories_are_created() {
    let daemon = Setup::new().start("[other]\n");
    for folder in ["api", "tmux", "state"] {
        assert!(daemon.path(folder).is_dir(), "{folder}");
    }
    let (mode, uid, _) = owner(&daemon.path("state"));
    assert_eq!(
        (mode & 0o077, uid),
        (0, daemon.daemon_account().uid.as_raw()),
        "only the daemon's user can access the state"
    );
}

#[test]
fn an_ordinary_user_needs_no_flags() {
    let setup = Setup::of(Who::User);
    for folder in ["home/config", "home/config/agentd", "home/run", "home/state"] {
        fs::create_dir(setup.path(folder)).unwrap();
        give(&setup.path(folder), &setup.daemon_account());
    }
    setup.put(
        &setup.path("home/config/agentd/jcard.toml"),
        setup.expand(&agent("a", "dump @WORK/dump; sleep inf; rest", "")),
    );
    let mut flags = false;
    let mut command = with_args(&setup.daemon_command(), |arg| {
        flags |= arg == "--config";
        (!flags).then(|| arg.to_owned())
    });
    let mut child = command.stderr(fs::File::create(setup.path("stderr")).unwrap()).spawn().unwrap();
    let dump = Dump::of(&setup, "dump");
    assert_eq!(dump.text("uid"), setup.daemon_account().uid.to_string());
    for socket in ["agentd.sock", "tmux.sock", "launch.sock"] {
        assert!(setup.path("home/run/agentd").join(socket).exists(), "{socket}");
    }
    assert!(setup.path("home/state/agentd").is_dir());
    Process(i32::try_from(child.id()).unwrap()).signal(Signal::SIGTERM);
    assert!(setup.wait("its end", || child.try_wait().unwrap()).success());
}

#[test]
fn an_ordinary_user_may_run_agents_only_as_themselves() {
    let setup = Setup::of(Who::User).args(["--user", "root"]);
    setup.edit_jcard("[other]\n");
    let (status, said) = run(&mut setup.daemon_command());
    assert!(status.is_some_and(|status| status != 0));
    assert!(said.contains("root"), "{said}");
}

#[test]
fn an_ordinary_users_agents_live_and_stop_like_roots() {
    let script = "log @WORK/log; on-signal SIGINT 0; append @WORK/ready yes; sleep inf";
    let jcard = agent("a", script, "")
        + &agent("b", "exit 3", "restart = \"on-failure\"\nmax_restarts = 1\nbackoff = [\"10ms\"]");
    let mut daemon = Setup::of(Who::User).start(&jcard);
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_file("ready");
    assert_eq!(daemon.wait_for_state("b", State::Exited).restarts, 1);
    assert!(daemon.stop().success());
    assert_eq!(daemon.lines("log").last().map(String::as_str), Some("SIGINT"));
    daemon.wait_until_gone(pid);
    assert_eq!(daemon.processes(), []);
}

#[test]
fn a_helper_stopped_by_the_agent_user_is_replaced() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    let stopped = daemon.deputy();
    stopped.signal(Signal::SIGSTOP);
    daemon.edit_jcard(&[agent("a", "sleep inf", ""), agent("b", "sleep inf", "")].concat());
    daemon.wait_until_running("b");
    assert!(!stopped.is_alive());
    assert_eq!(daemon.wait_until_running("a"), pid);
}

#[test]
fn a_helper_outlives_a_sigterm_to_the_whole_unit() {
    let mut daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let deputy = daemon.deputy();
    let server: i32 = daemon.tmux(&["display-message", "-p", "#{pid}"]).unwrap().trim().parse().unwrap();
    // As with KillMode=control-group.
    deputy.signal(Signal::SIGTERM);
    assert!(daemon.stop().success());
    assert!(!daemon.log().contains("ended before it answered"), "{}", daemon.log());
    daemon.wait_until_gone(server);
    daemon.wait_until_gone(deputy.0);
}

#[test]
fn a_daemon_started_with_blocked_signals_handles_them() {
    // Blocked, as by a parent that masks signals, and ignored, as by nohup(1).
    let deaf = "exec python3 -c 'import os, signal, sys\n\
                [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15, 17)]\n\
                signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n\
                os.execvp(sys.argv[1], sys.argv[1:])' \"$@\"";
    let mut daemon = Setup::new().args(["--resync", "1h"]).after(deaf).start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let server: i32 = daemon.tmux(&["display-message", "-p", "#{pid}"]).unwrap().trim().parse().unwrap();
    assert_eq!(Process(server).blocked(), 0, "the signals blocked in the tmux server");
    daemon.signal(Signal::SIGHUP);
    daemon.wait("everything to be read again", || {
        daemon.log().contains("SIGHUP: reading everything again").then_some(())
    });
    assert!(daemon.stop().success());
}

#[test]
fn orphans_of_the_first_process_leave_no_zombies() {
    if !is_root() {
        return;
    }
    let alone = "exec unshare --pid --fork --kill-child --mount-proc -- \"$@\"";
    let daemon = Setup::new().after(alone).start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let first = daemon.wait("the first process of the namespace", || {
        Process::all().find(|process| process.is_alive() && process.ancestors().next() == Some(Process(daemon.pid())))
    });
    let zombies =
        || Process::all().filter(|process| process.is_zombie() && process.ancestors().next() == Some(first)).count();
    // A window is not an agent: its orphans become children of the first process.
    let script =
        format!("for n in 1 2 3 4 5; do (setsid sleep 0.1 &); done; sleep 0.5; : >{}", daemon.work("done").display());
    daemon.tmux(&["new-window", "-d", "-t", "=a:", &script]).unwrap();
    daemon.wait_for_file("done");
    daemon.wait("all zombies to be reaped", || (zombies() == 0).then_some(()));
    // The daemon still notices the end of the deputy, and replaces it.
    daemon.tmux(&["kill-server"]).unwrap();
    daemon.wait("all zombies to be reaped", || (zombies() == 0).then_some(()));
}
