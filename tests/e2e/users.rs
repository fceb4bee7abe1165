//! Agents of several users: each user has a tmux server, a launch socket and a deputy, and none reaches what is another's.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use agentd::wire::status::State;
use nix::sys::signal::Signal;

use crate::support::{Daemon, Process, Setup, account, admin_gid, agent, as_user, give, owner, root, run};

/// An agent that runs as this user, in the user's own workdir.
fn of(user: &str, name: &str, script: &str, more: &str) -> String {
    agent(name, script, &format!("user = {user:?}\n{more}")).replace("@WORK", &format!("@DIR/of-{user}"))
}

/// A place with a workdir for each of the other users.
fn house() -> Setup {
    let setup = Setup::new();
    for user in ["agent2", "agent3"] {
        let workdir = setup.path(&format!("of-{user}"));
        fs::create_dir(&workdir).unwrap();
        fs::set_permissions(&workdir, Permissions::from_mode(0o700)).unwrap();
        give(&workdir, &account(user));
    }
    setup
}

fn folder(daemon: &Setup, user: &str) -> PathBuf {
    daemon.path("door/users").join(user)
}

/// The output of a tmux client of this user, for that user's server.
fn tmux(daemon: &Setup, user: &str, words: &[&str]) -> Result<String, String> {
    let socket = folder(daemon, user).join("tmux.sock");
    let argv = [&["timeout", "10", "tmux", "-N", "-S", socket.to_str().unwrap()], words].concat();
    let (code, said) = run(&mut as_user(user, &argv));
    if code == Some(0) { Ok(said) } else { Err(said) }
}

fn lines(daemon: &Setup, user: &str, name: &str) -> Vec<String> {
    let path = daemon.path(&format!("of-{user}")).join(name);
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn restart_after_crash(daemon: &mut Daemon) {
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
}

#[test]
fn each_user_has_its_own_server_sockets_and_processes() {
    if !root() {
        return;
    }
    let daemon = house().after("umask 077").start(&(agent("a", "sleep inf", "") + &of("agent2", "b", "sleep inf", "")));
    let [a, b] = ["a", "b"].map(|name| daemon.wait_until_running(name));
    for (pid, user) in [(a, "agent"), (b, "agent2")] {
        let uid = account(user).uid.as_raw();
        let harness = Process(pid);
        assert_eq!((harness.user(), harness.parent().user()), (uid, uid), "harness and launcher of {user}");
    }
    assert_eq!(daemon.agent("a").unwrap().user.as_deref(), Some("agent"));
    assert_eq!(daemon.agent("b").unwrap().user.as_deref(), Some("agent2"));
    assert!(daemon.has_session("a") && !daemon.has_session("b"));
    assert_eq!(tmux(&daemon, "agent2", &["list-sessions", "-F", "#S"]).unwrap(), "b\n");
    let (uid, admin) = (account("agent2").uid.as_raw(), admin_gid());
    assert_eq!(owner(&daemon.path("door/users")), (0o755, 0, 0));
    assert_eq!(owner(&folder(&daemon, "agent2")), (0o2750, uid, admin));
    let (mode, _, group) = owner(&folder(&daemon, "agent2").join("tmux.sock"));
    assert_eq!((mode & 0o667, group), (0o660, admin));
}

#[test]
fn an_agent_of_another_user_is_stopped_with_its_tree() {
    if !root() {
        return;
    }
    let script = "log @DIR/of-agent2/log; child @DIR/of-agent2/child; escapee @DIR/of-agent2/escapee; on-signal INT 7";
    let daemon =
        house().start(&(agent("a", "sleep inf", "") + &of("agent2", "b", &format!("{script}; sleep inf"), "")));
    let a = daemon.wait_until_running("a");
    daemon.wait_until_running("b");
    let pid = |name: &str| {
        daemon.wait(name, || lines(&daemon, "agent2", name).first().and_then(|line| line.parse::<i32>().ok()))
    };
    let left = [pid("child"), pid("escapee")];
    daemon.edit_jcard(&agent("a", "sleep inf", ""));
    daemon.wait_until_removed("b");
    assert!(lines(&daemon, "agent2", "log").contains(&"INT".to_owned()), "{:?}", lines(&daemon, "agent2", "log"));
    for pid in left {
        daemon.wait_until_gone(pid);
    }
    assert_eq!(daemon.wait_until_running("a"), a);
    assert!(tmux(&daemon, "agent2", &["has-session", "-t", "=b"]).is_err());
}

#[test]
fn agents_of_all_users_are_adopted_after_a_crash() {
    if !root() {
        return;
    }
    let jcard = agent("a", "sleep inf", "") + &of("agent2", "b", "sleep inf", "") + &of("agent3", "c", "sleep inf", "");
    let mut daemon = house().start(&jcard);
    let names = ["a", "b", "c"];
    let before = names.map(|name| daemon.wait_until_running(name));
    restart_after_crash(&mut daemon);
    assert_eq!(names.map(|name| daemon.wait_until_running(name)), before);
    for (name, user) in [("a", "agent"), ("b", "agent2"), ("c", "agent3")] {
        let agent = daemon.agent(name).unwrap();
        assert_eq!((agent.user.as_deref(), agent.attempt, agent.restarts), (Some(user), Some(1), 0));
    }
    // It obeys its new daemon.
    daemon.edit_jcard(&jcard.replace("name = \"b\"", "name = \"d\""));
    daemon.wait_until_removed("b");
    daemon.wait_until_gone(before[1]);
    daemon.wait_until_running("d");
}

#[test]
fn a_changed_user_stops_the_old_one_and_starts_the_new_one() {
    if !root() {
        return;
    }
    let script = "log @DIR/log; sleep inf";
    let setup = house();
    setup.put(&setup.path("log"), "");
    fs::set_permissions(setup.path("log"), Permissions::from_mode(0o666)).unwrap();
    let daemon = setup.start(&agent("a", script, ""));
    let as_user = |user: &str, before: Option<i32>| {
        let status = daemon.wait_until("a", user, |agent| {
            agent.running && agent.user.as_deref() == Some(user) && agent.pid.is_some() && agent.pid != before
        });
        assert_eq!(Process(status.pid.unwrap()).user(), account(user).uid.as_raw());
        status.pid
    };
    let mut pid = as_user("agent", None);
    for user in ["agent2", "agent3"] {
        daemon.edit_jcard(&of(user, "a", script, ""));
        let next = as_user(user, pid);
        daemon.wait_until_gone(pid.unwrap());
        pid = next;
    }
    assert!(!daemon.has_session("a"));
    assert!(tmux(&daemon, "agent2", &["has-session", "-t", "=a"]).is_err());
    daemon.edit_jcard(&agent("a", script, ""));
    as_user("agent", pid);
    daemon.wait_until_gone(pid.unwrap());
}

#[test]
fn the_default_user_by_name_is_the_default_user() {
    if !root() {
        return;
    }
    let mut daemon = house().start(&agent("a", "sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    restart_after_crash(&mut daemon);
    daemon.edit_jcard(&agent("a", "sleep inf", "user = \"agent\""));
    daemon.wait_until("a", "declared", |agent| agent.state == State::Running);
    restart_after_crash(&mut daemon);
    assert_eq!(daemon.wait_until_running("a"), pid);
}
