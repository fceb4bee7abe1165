//! Operators stop, start, restart and pause agents by files, and nobody else does.

use std::fs::{self, File};
use std::os::unix::fs::{chown, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agentd::wire::reason::{LaunchReason, StoppingBecause, WaitingFor};
use agentd::wire::status::{AgentStatus, Outcome, State};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::support::{Process, Setup, Who, account, admin_gid, agent, as_user, by, is_root, owner, root, run};

/// A member of the operators' group who asks for this.
fn op(setup: &Setup, words: &[&str]) -> (Option<i32>, String) {
    by("op", setup, words)
}

/// What must be done and said.
#[track_caller]
fn done(result: (Option<i32>, String), said: &str) {
    let (code, text) = result;
    assert!(code == Some(0) && text.contains(said), "{code:?}, {text:?} instead of {said:?}");
}

fn file(setup: &Setup, name: &str) -> PathBuf {
    setup.path("overrides").join(name)
}

fn is_stopped(agent: &AgentStatus) -> bool {
    agent.state == State::Waiting && agent.waiting_for.iter().any(|it| matches!(it, WaitingFor::Enabled { .. }))
}

fn stopped_by(agent: &AgentStatus) -> Option<&str> {
    agent.waiting_for.iter().find_map(|it| match it {
        WaitingFor::Enabled { by, .. } => by.as_deref(),
        _ => None,
    })
}

/// With its history.
fn in_full(setup: &Setup, name: &str) -> AgentStatus {
    serde_json::from_str(&setup.get(&format!("/v1/agents/{name}")).body).unwrap()
}

const DEAF: &str = "ignore INT; sleep inf";

#[test]
fn a_member_stops_starts_and_restarts_an_agent() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "log @WORK/log; sleep inf", ""));
    let first = daemon.wait_until_running("a");
    assert_eq!(owner(&daemon.path("overrides")), (0o2770, 0, admin_gid()));
    done(op(&daemon, &["stop", "a", "--wait"]), "a: stopped; agentd start a starts it");
    let agent = daemon.agent("a").unwrap();
    assert_eq!((stopped_by(&agent), agent.running, agent.outcome), (Some("op"), false, None));
    daemon.wait_until_gone(first);
    let (_, said) = run(&mut daemon.agentd(&["status", "--api-socket", daemon.api_socket().to_str().unwrap()]));
    assert!(said.contains("stopped by op ") && said.contains(" ago: agentd start a"), "{said}");
    let (code, _) = op(&daemon, &["wait", "a"]);
    assert_eq!(code, Some(123), "it does not start by itself");

    done(op(&daemon, &["start", "a", "--wait"]), "a: running");
    let second = daemon.wait_until_running("a");
    // The file is removed once the daemon has taken it, which the daemon notices later.
    let agent = daemon.wait_until("a", "free of the override", |agent| agent.overridden.is_none());
    assert_eq!((agent.attempt, agent.restarts), (Some(1), 0));
    assert!(!file(&daemon, "a.toml").exists(), "a file that says nothing more is removed");
    done(op(&daemon, &["start", "A"]), "a: is running already");

    done(op(&daemon, &["restart", "a", "--wait"]), "a: running");
    let agent = daemon.wait_until("a", "restarted", |agent| agent.pid.is_some_and(|pid| pid != second));
    let history = in_full(&daemon, "a").history;
    assert_eq!((agent.generation, agent.attempt, history.len()), (1, Some(1), 2));
    assert!(history[0].reason.contains("restarted by op"), "{:?}", history[0]);
    daemon.wait_for_starts("log", 3);

    let events = daemon.get("/v1/events?follow=false&after=0").body;
    for field in ["enabled", "generation"] {
        let changed = format!("\"change\":\"changed\",\"changed\":{{\"fields\":[\"{field}\"]}}");
        assert!(events.contains(&changed), "{changed}: {events}");
    }
    let log = daemon.log();
    assert!(log.contains("the override of op says enabled = false, written at "), "{log}");
}

#[test]
fn people_see_a_pause_and_an_override_in_status_and_show() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let (socket, jcard) = (daemon.api_socket(), daemon.path("jcard.toml"));
    let ask = |words: &[&str]| {
        let (code, said) = run(&mut daemon.agentd(&[words, &["--api-socket", socket.to_str().unwrap()]].concat()));
        assert_eq!(code, Some(0), "{words:?}: {said}");
        said
    };
    let show = || ask(&["show", "a", "--config", jcard.to_str().unwrap()]);
    assert!(!show().contains("override") && !ask(&["status"]).contains("paused"), "{}", show());
    done(op(&daemon, &["pause", "--all"]), "no agent starts from now on");
    done(op(&daemon, &["stop", "a", "--wait"]), "a: stopped");
    let row = ["override", "in", "force", "enabled", "=", "false", "(by", "op)"];
    assert!(show().lines().any(|line| line.split_whitespace().eq(row)), "{}", show());
    let status = ask(&["status"]);
    assert!(status.contains("all agents were paused by op ") && status.contains("agentd unpause --all"), "{status}");
    let events = ask(&["events", "a"]);
    assert!(events.contains("a: enabled changed\n"), "{events}");
    done(op(&daemon, &["unpause", "--all"]), "agents start again");
    done(op(&daemon, &["start", "a", "--wait"]), "a: running");
    assert!(!show().contains("override") && !ask(&["status"]).contains("paused"), "{}", show());
}

#[test]
fn strangers_and_the_agent_user_operate_nothing() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    let directory = daemon.path("overrides");
    for nobody in ["stranger", "agent"] {
        let (code, said) = by(nobody, &daemon, &["stop", "a"]);
        assert!(matches!(code, Some(1 | 4)) && !said.contains("says from now on"), "{said}");
        let directory = directory.to_str().unwrap();
        for words in [&["stop", "a"][..], &["restart", "a", "--now"], &["pause", "--all"], &["unpause", "--all"]] {
            let (code, said) = by(nobody, &daemon, &[words, &["--override-dir", directory]].concat());
            assert!(code == Some(4) && said.contains("permission denied"), "{words:?}: {said}");
        }
        for script in ["echo enabled=false >$0/a.toml", "mkdir $0/x", "ls $0", "mv $0 $0.away"] {
            assert_ne!(run(&mut as_user(nobody, &["sh", "-c", script, directory])).0, Some(0), "{nobody}: {script}");
        }
    }
    assert_eq!(daemon.agent("a").unwrap().pid, Some(pid));
}

#[test]
fn files_beside_an_override_do_not_take_its_place() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    for other in ["a.TOML", "A.TOML", ".ALL.toml", ".all.TOML"] {
        fs::write(file(&daemon, other), "").unwrap();
    }
    done(op(&daemon, &["stop", "a", "--wait"]), "a: stopped");
    done(op(&daemon, &["start", "a", "--wait"]), "a: running");
    done(op(&daemon, &["pause", "--all"]), "no agent starts from now on");
    done(op(&daemon, &["unpause", "--all"]), "agents start again");
}

#[test]
fn operators_and_administrators_may_be_two_groups() {
    if !root() {
        return;
    }
    let daemon = Setup::new().args(["--operator-group", "operators"]).start(&agent("a", "sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    // An administrator reads, and does not operate.
    let (code, said) = op(&daemon, &["stop", "a"]);
    let right = "permission denied; be root or a member of group operators, or type: sudo agentd stop a";
    assert!(code == Some(4) && said.contains(right), "{said}");
    assert_eq!(daemon.agent("a").unwrap().pid, Some(pid));
    // An operator operates, and does not read.
    let directory = daemon.path("overrides");
    let blind = |verb| by("operator", &daemon, &[verb, "a", "--override-dir", directory.to_str().unwrap()]);
    assert_eq!(by("operator", &daemon, &["status"]).0, Some(4));
    done(blind("stop"), "says from now on that a does not run");
    let agent = daemon.wait_until("a", "stopped", is_stopped);
    assert_eq!(stopped_by(&agent), Some("operator"));
    done(blind("start"), "says from now on that a may run");
    daemon.wait_until_running("a");
}

#[test]
fn commands_at_once_do_not_overwrite_each_other() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let verbs = ["restart", "stop"];
    for round in 0..5 {
        let raised = daemon.agent("a").unwrap().generation + 1;
        let both: Vec<_> = std::thread::scope(|scope| {
            let begun: Vec<_> = verbs.iter().map(|verb| scope.spawn(|| op(&daemon, &[verb, "a"]))).collect();
            begun.into_iter().map(|it| it.join().unwrap()).collect()
        });
        assert!(both.iter().all(|(code, _)| *code == Some(0)), "round {round}: {both:?}");
        // Each is taken in some order, and neither is lost: the generation is raised, and the last word counts.
        let agent = daemon.wait_until("a", "restarted", |agent| agent.generation >= raised);
        assert_eq!(agent.generation, raised, "round {round}: {both:?}");
        done(op(&daemon, &["start", "a", "--wait"]), "a: ");
    }
}

#[test]
fn files_that_no_operator_wrote_change_nothing() {
    if !root() {
        return;
    }
    let names = ["link", "fifo", "hard", "strangers", "agents", "keys", "sparse", "text"];
    let jcard: String = names.iter().chain(&["well"]).map(|name| agent(name, "sleep inf", "")).collect();
    let daemon = Setup::new().start(&jcard);
    let pids: Vec<i32> = names.iter().map(|name| daemon.wait_until_running(name)).collect();
    let path = |name: &str| file(&daemon, &format!("{name}.toml"));
    let goal = daemon.path("goal.toml");
    fs::write(&goal, "enabled = false\n").unwrap();
    symlink(&goal, path("link")).unwrap();
    mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
    fs::hard_link(&goal, path("hard")).unwrap();
    for (name, user) in [("strangers", "stranger"), ("agents", "agent")] {
        let temporary = daemon.path(name);
        fs::write(&temporary, "enabled = false\n").unwrap();
        chown(&temporary, Some(account(user).uid.as_raw()), None).unwrap();
        fs::rename(temporary, path(name)).unwrap();
    }
    fs::write(path("keys"), "enabled = false\ncommand = \"sh\"\n").unwrap();
    File::create(path("sparse")).unwrap().set_len(1 << 30).unwrap();
    fs::write(path("text"), "stop, please\n").unwrap();
    fs::write(path("nobody-s"), "enabled = false\n").unwrap();
    let error = daemon.wait("all of it to be told", || {
        let error = daemon.health().override_error?;
        (names.iter().all(|name| error.contains(&format!("/{name}.toml:"))) && error.contains("/nobody-s.toml:"))
            .then_some(error)
    });
    for (name, what) in [
        ("link", "it is a link; write a regular file"),
        ("fifo", "it is not a regular file"),
        ("hard", "it has 2 names (hard links)"),
        ("strangers", "it belongs to stranger, and only files of root and of members of group admin count"),
        ("agents", "it belongs to the agent user agent, who may not operate agents"),
        ("keys", "the key \"command\" may not be here; an override has `enabled`, `generation` and `now`"),
        ("sparse", "it is larger than 4096 bytes"),
        ("text", "the file is not valid TOML"),
        ("nobody-s", "no agent nobody-s is declared"),
    ] {
        let line = error.lines().find(|line| line.contains(&format!("/{name}.toml:")));
        assert!(line.is_some_and(|line| line.contains(what)), "{name}: {error}");
    }
    // Nothing is stuck.
    done(op(&daemon, &["stop", "well", "--wait"]), "well: stopped");
    for (name, pid) in names.iter().zip(pids) {
        assert_eq!(daemon.agent(name).unwrap().pid, Some(pid), "{name}");
    }
    // What was good before stays in force.
    fs::write(path("well"), "enabled = 1\n").unwrap();
    daemon.wait("the mistake to be told", || {
        daemon.health().override_error?.contains("well.toml:1:11: `enabled` is ").then_some(())
    });
    assert!(is_stopped(&daemon.agent("well").unwrap()));
}

#[test]
fn a_folder_that_is_gone_replaced_or_emptied_takes_nothing_back() {
    if !root() {
        return;
    }
    let jcard = agent("a", "sleep inf", "") + &agent("b", "sleep inf", "") + &agent("c", "sleep inf", "");
    let daemon = Setup::new().args(["--settle", "0ms", "--resync", "2s"]).start(&jcard);
    for name in ["a", "b", "c"] {
        daemon.wait_until_running(name);
    }
    done(op(&daemon, &["stop", "a", "b", "--wait"]), "b: stopped");
    let stopped = || ["a", "b"].iter().all(|name| is_stopped(&daemon.agent(name).unwrap()));
    let told = |what: &str| {
        daemon.wait("it to be told", || daemon.health().override_error?.contains(what).then_some(()));
    };
    let (directory, away) = (daemon.path("overrides"), daemon.path("away"));
    fs::rename(&directory, &away).unwrap();
    told("overrides does not exist; what it said before stays in force");
    assert!(stopped() && !directory.exists(), "it is not made again: that would take everything back");
    fs::create_dir(&directory).unwrap();
    told("no longer in ");
    assert!(stopped());
    // With the folder for answers, which agentd makes in it.
    fs::remove_dir_all(&directory).unwrap();
    fs::rename(&away, &directory).unwrap();
    daemon.wait("it to be resolved", || daemon.health().override_error.is_none().then_some(()));
    assert!(stopped());
    // Between two readings, however slow the machine is.
    daemon.signal(Signal::SIGSTOP);
    for name in ["a.toml", "b.toml"] {
        fs::rename(directory.join(name), daemon.path(name)).unwrap();
    }
    let emptied = Instant::now();
    daemon.signal(Signal::SIGCONT);
    told("no longer in ");
    assert!(stopped());
    // Another can be stopped meanwhile.
    done(op(&daemon, &["stop", "c", "--wait"]), "c: stopped");
    daemon.wait("the second look", || daemon.agent("a").unwrap().running.then_some(()));
    assert!(emptied.elapsed() >= Duration::from_secs(2), "{:?}", emptied.elapsed());
    assert!(is_stopped(&daemon.agent("c").unwrap()));
    // A single file is taken back at once.
    fs::remove_file(directory.join("c.toml")).unwrap();
    daemon.wait_until_running("c");
}

#[test]
fn what_is_stopped_stays_so_for_the_next_daemon() {
    if !root() {
        return;
    }
    let mut daemon = Setup::new().start(&(agent("a", "sleep inf", "") + &agent("b", "sleep inf", "")));
    let pid = daemon.wait_until_running("b");
    done(op(&daemon, &["stop", "a", "--wait"]), "a: stopped");
    done(op(&daemon, &["pause", "--all"]), "no agent starts from now on");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    let (directory, away) = (daemon.path("overrides"), daemon.path("away"));
    fs::rename(&directory, &away).unwrap();
    // As after a boot: nothing but the overrides is remembered of `a`.
    fs::remove_file(daemon.path("state/agents/a.json")).unwrap();
    daemon.start_again();
    let agent = daemon.wait_until("a", "known", is_stopped);
    assert_eq!(
        (stopped_by(&agent), agent.overridden.as_ref().and_then(|own| own.by.as_deref())),
        (Some("op"), Some("op"))
    );
    let health = daemon.health();
    assert!(health.paused.is_some_and(|pause| pause.by.as_deref() == Some("op")));
    assert!(health.override_error.unwrap().contains("what it said before stays in force"));
    assert_eq!(daemon.agent("b").unwrap().pid, Some(pid));
    fs::rename(&away, &directory).unwrap();
    done(op(&daemon, &["unpause", "--all"]), "agents start again");
    done(op(&daemon, &["start", "a", "--wait"]), "a: running");
    let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".answers"], "no override is left");
}

#[test]
fn now_kills_what_would_have_an_hour() {
    let who = if is_root() { Who::Root } else { Who::User };
    let daemon = Setup::of(who).start(&agent("a", DEAF, "grace_period = \"1h\""));
    let first = daemon.wait_until_running("a");
    let verb = |words: &[&str]| if is_root() { op(&daemon, words) } else { own(&daemon, words) };
    done(verb(&["restart", "a"]), "a: stopping, then it starts again; SIGKILL follows in ");
    let agent = daemon.agent("a").unwrap();
    assert!(matches!(agent.stopping_because, Some(StoppingBecause::Restarted { by: Some(_), .. })), "{agent:?}");
    done(verb(&["restart", "--now", "--wait", "a"]), "a: running");
    assert_ne!(daemon.wait_until_running("a"), first);
    done(verb(&["stop", "a"]), "a: stopping; SIGKILL follows in ");
    done(verb(&["stop", "--now", "--wait", "a"]), "a: stopped");
}

/// One with a daemon of their own.
fn own(setup: &Setup, words: &[&str]) -> (Option<i32>, String) {
    let socket = setup.api_socket();
    run(&mut setup.agentd(&[words, &["--api-socket", socket.to_str().unwrap()]].concat()))
}

#[test]
fn without_root_everybody_operates_their_own_agents() {
    let more = "replicas = 2";
    let jcard =
        agent("w", "sleep inf", more) + &agent("off", "sleep inf", "enabled = false") + &agent("once", "exit 0", "");
    let daemon = Setup::of(Who::User).start(&jcard);
    daemon.wait_until_running("w-0");
    daemon.wait_until_running("w-1");
    assert_eq!(owner(&daemon.path("overrides")).0, 0o700);
    done(own(&daemon, &["stop", "w", "--wait"]), "w-1: stopped");
    assert!(["w-0", "w-1"].iter().all(|name| is_stopped(&daemon.agent(name).unwrap())));
    done(own(&daemon, &["start", "w", "--wait"]), "w-0: running");

    let off = daemon.agent("off").unwrap();
    assert_eq!((off.waiting_for, off.attempt), (vec![WaitingFor::Enabled { by: None, at: None }], None));
    done(own(&daemon, &["start", "off", "--wait"]), "off: running");
    assert_eq!(fs::read_to_string(file(&daemon, "off.toml")).unwrap(), "enabled = true\n");
    done(own(&daemon, &["stop", "off", "--wait"]), "off: stopped");

    daemon.wait_for_state("once", State::Exited);
    done(own(&daemon, &["pause", "--all"]), "no agent starts from now on");
    done(own(&daemon, &["start", "once"]), "once: waiting: all agents are paused by ");
    assert!(daemon.agent("w-0").unwrap().running);
    done(own(&daemon, &["unpause", "--all"]), "agents start again");
    done(own(&daemon, &["unpause", "--all"]), "agents are not paused");
    let once = daemon.wait_for_state("once", State::Exited);
    assert_eq!((once.outcome, once.generation), (Some(Outcome::Completed), 1));
    assert_eq!(in_full(&daemon, "once").history.len(), 2);

    let (code, said) = own(&daemon, &["stop", "onec"]);
    assert!(code == Some(4) && said.contains("did you mean \"once\"?"), "{said}");
    assert!(!file(&daemon, "onec.toml").exists());
}

#[test]
fn a_file_is_written_also_while_no_daemon_runs() {
    let mut daemon = Setup::of(Who::User).start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    assert!(daemon.stop().success());
    let directory = daemon.path("overrides");
    let directory = directory.to_str().unwrap();
    let stop = own(&daemon, &["stop", "a", "--override-dir", directory]);
    done(stop, "agentd is not running; ");
    assert_eq!(own(&daemon, &["restart", "a", "--override-dir", directory]).0, Some(4));
    daemon.start_again();
    daemon.wait_until("a", "stopped", is_stopped);
    done(own(&daemon, &["start", "a", "--wait"]), "a: running");
}

#[test]
fn adoption_restarts_only_what_was_raised_meanwhile() {
    let jcard = |generation: u64| {
        let generation = format!("generation = {generation}");
        agent("a", "sleep inf", &generation) + &agent("b", "sleep inf", &generation)
    };
    let mut daemon = Setup::new().args(["--on-terminate", "detach"]).start(&jcard(3));
    let (a, b) = (daemon.wait_until_running("a"), daemon.wait_until_running("b"));
    assert!(daemon.stop().success());
    // As an earlier build wrote it.
    let path = daemon.path("state/agents/a.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let declared = record["agent"]["declared"].as_object_mut().unwrap();
    assert_eq!(declared.remove("generation"), Some(3.into()));
    declared["policy"].as_object_mut().unwrap().remove("generation").unwrap();
    fs::write(&path, record.to_string()).unwrap();
    daemon.edit_jcard(&jcard(4));
    daemon.start_again();
    let restarted = daemon.wait_until("b", "restarted", |agent| agent.pid.is_some_and(|pid| pid != b));
    assert_eq!(restarted.generation, 4);
    let adopted = daemon.agent("a").unwrap();
    assert_eq!((adopted.pid, adopted.generation), (Some(a), 4), "what is not known to have risen has not");
    assert!(Process(a).is_alive());
    daemon.edit_jcard(&jcard(5));
    daemon.wait_until("a", "restarted", |agent| agent.pid.is_some_and(|pid| pid != a));
    let events = daemon.get("/v1/events?follow=false&after=0").body;
    let reason = serde_json::to_string(&LaunchReason::Restarted).unwrap();
    assert!(events.contains(&format!("\"launch_reason\":{reason}")), "{events}");
}
