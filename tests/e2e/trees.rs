//! A stop leaves no process of an agent, whatever it did to escape, and touches nothing else.

use std::process::Command;
use std::time::Instant;

use agentd::wire::status::{AgentStatus, State};
use nix::sys::signal::Signal;

use crate::support::{Bystander, Daemon, Process, Setup, Who, agent, as_user, is_root, root, run, skip};

/// The means by which the daemon finds the processes of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Its control group, under root.
    Group,
    /// Descent, session and mark, under root with read-only control groups, as in many containers.
    Mark,
    /// The same, without root.
    MarkAsUser,
}

/// Runs before the daemon, in a mount namespace of its own.
const READ_ONLY_GROUPS: &str = r#"exec unshare --mount --propagation private -- bash -c '
    while read -r _ point kind _; do
        [[ $kind != cgroup2 ]] || mount -o remount,bind,ro "$point"
    done </proc/mounts
    exec "$@"' bash "$@""#;

/// A place for a daemon that has only these means, or nothing if this machine cannot provide it.
fn setup(by: By) -> Option<Setup> {
    match by {
        By::Group | By::Mark if !root() => None,
        By::Group => Some(Setup::new()),
        By::Mark => Some(Setup::new().after(READ_ONLY_GROUPS)),
        By::MarkAsUser => Some(Setup::of(Who::User)),
    }
}

fn start(by: By, jcard: &str) -> Option<Daemon> {
    start_in(setup(by)?, by, jcard)
}

fn start_in(setup: Setup, by: By, jcard: &str) -> Option<Daemon> {
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/shapes"), setup.path("bin/shapes")).unwrap();
    let daemon = setup.start(jcard);
    let line = |text: &str| daemon.log().lines().find(|line| line.contains(text)).map(str::to_owned);
    let (has_groups, why) = daemon.wait("the daemon to say how it finds processes", || {
        line("each agent has a control group")
            .map(|line| (true, line))
            .or_else(|| Some((false, line("agents are tracked by their process trees")?)))
    });
    if by == By::Group && !has_groups {
        skip(&format!("it needs control groups (cgroup2): {why}"));
        return None;
    }
    assert_eq!(has_groups, by == By::Group, "{why}");
    Some(daemon)
}

/// An agent of that shape and name. `then` is `stop` or `end`; see `shapes`.
fn shape(name: &str, then: &str, more: &str) -> String {
    format!(
        "[[agents]]\nname = {name:?}\nharness = \"custom\"\ncommand = \"@DIR/bin/shapes\"\nworkdir = \"@WORK\"\n\
         args = [{name:?}, {then:?}, \"@WORK/{name}\"]\ngrace_period = \"300ms\"\n{more}\n\n"
    )
}

/// The remaining processes of the agent with that name. A process that has begun to exit can do nothing more.
fn left_of(daemon: &Daemon, name: &str) -> Vec<Process> {
    let left = daemon.work(&format!("{name}-left"));
    let is_left = |process: &Process| process.argv().first().is_some_and(|it| it == left.to_str().unwrap());
    Process::all().filter(is_left).filter(|process| process.can_act()).collect()
}

/// Looks many times, because a single look may miss processes that fork all the time.
fn assert_nothing_is_left(daemon: &Daemon, names: &[&str]) {
    for _ in 0..20 {
        for name in names {
            let left = left_of(daemon, name);
            assert!(left.is_empty(), "{name} has left {}: {:?}", left.len(), left.first().map(ToString::to_string));
        }
    }
}

const SHAPES: [&str; 15] = [
    "own-group",
    "setsid",
    "double-fork",
    "ignores-signals",
    "stopped",
    "fork-bomb",
    "quick-chains",
    "outlived",
    "kills-launcher",
    "sheds-mark",
    "stops-launcher",
    "becomes-another",
    "orphan",
    "orphan-without-launcher",
    "no-text",
];

fn a_stop_leaves_nothing(by: By, shapes: &[&str]) {
    let jcard: String = shapes.iter().map(|name| shape(name, "stop", "")).collect();
    let Some(daemon) = start(by, &jcard) else { return };
    for name in shapes {
        daemon.wait_for_file(&format!("{name}-ready"));
        assert!(!left_of(&daemon, name).is_empty(), "{name} has something to leave");
    }
    daemon.edit_jcard("[other]\n");
    for name in shapes {
        daemon.wait_until_removed(name);
        assert_nothing_is_left(&daemon, &[name]);
    }
}

#[test]
fn a_stop_leaves_no_process_in_control_groups() {
    a_stop_leaves_nothing(By::Group, &SHAPES);
}

#[test]
fn a_stop_leaves_no_process_with_read_only_control_groups() {
    a_stop_leaves_nothing(By::Mark, &SHAPES);
}

#[test]
fn a_stop_leaves_no_process_without_root() {
    a_stop_leaves_nothing(By::MarkAsUser, &SHAPES);
}

#[test]
fn a_stop_finds_processes_only_a_control_group_reveals() {
    a_stop_leaves_nothing(By::Group, &["hides"]);
}

/// The same, by a daemon that did not start the agents it stops.
fn a_stop_by_the_next_daemon_leaves_nothing(by: By, shapes: &[&str]) {
    let jcard: String = shapes.iter().map(|name| shape(name, "stop", "")).collect();
    let Some(mut daemon) = start(by, &jcard) else { return };
    for name in shapes {
        daemon.wait_for_file(&format!("{name}-ready"));
    }
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    for name in shapes {
        daemon.wait_until_running(name);
        assert!(!left_of(&daemon, name).is_empty(), "{name} has gone on");
    }
    daemon.edit_jcard("[other]\n");
    for name in shapes {
        daemon.wait_until_removed(name);
        assert_nothing_is_left(&daemon, &[name]);
    }
}

#[test]
fn a_stop_by_the_next_daemon_ends_all_in_control_groups() {
    a_stop_by_the_next_daemon_leaves_nothing(By::Group, &[&SHAPES[..], &["hides"]].concat());
}

#[test]
fn a_stop_by_the_next_daemon_ends_all_in_read_only_groups() {
    a_stop_by_the_next_daemon_leaves_nothing(By::Mark, &SHAPES);
}

#[test]
fn a_stop_by_the_next_daemon_ends_all_without_root() {
    a_stop_by_the_next_daemon_leaves_nothing(By::MarkAsUser, &SHAPES);
}

fn an_end_leaves_nothing(by: By, shapes: &[&str]) {
    let again = "restart = \"always\"\nbackoff = [\"0s\"]\nmax_restarts = 1";
    let jcard: String = shapes.iter().map(|name| shape(name, "end", again)).collect();
    let Some(daemon) = start(by, &jcard) else { return };
    for name in shapes {
        let found = daemon.wait_for_file(&format!("{name}-found"));
        assert_eq!(String::from_utf8_lossy(&found).trim(), "0", "{name}, seen by the next attempt");
        daemon.wait_for_state(name, State::Exited);
        assert_nothing_is_left(&daemon, &[name]);
    }
}

/// All shapes but those that concern only the request to stop, and one that the next attempt would not see.
fn shapes_that_end() -> Vec<&'static str> {
    SHAPES.into_iter().filter(|name| !["outlived", "quick-chains"].contains(name)).collect()
}

#[test]
fn the_next_attempt_finds_no_leftovers_in_control_groups() {
    an_end_leaves_nothing(By::Group, &shapes_that_end());
}

#[test]
fn the_next_attempt_finds_no_leftovers_in_read_only_groups() {
    an_end_leaves_nothing(By::Mark, &shapes_that_end());
}

#[test]
fn the_next_attempt_finds_no_leftovers_without_root() {
    an_end_leaves_nothing(By::MarkAsUser, &shapes_that_end());
}

#[test]
fn the_next_attempt_finds_no_leftovers_only_a_group_reveals() {
    an_end_leaves_nothing(By::Group, &["hides"]);
}

/// Daemon, tmux server and launcher are killed: no pane and no process is left to find the leftovers by.
fn the_next_daemon_ends_what_is_left(by: By) {
    let Some(mut daemon) = start(by, &shape("orphan", "end", "").replace("\"end\"", "\"stop\"")) else { return };
    daemon.wait_for_file("orphan-ready");
    let harness = Process(daemon.wait_until_running("orphan"));
    let launcher = harness.parent();
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    let server: i32 = daemon.tmux(&["display-message", "-p", "#{pid}"]).unwrap().trim().parse().unwrap();
    for process in [launcher, Process(server), harness] {
        process.signal(Signal::SIGKILL);
        daemon.wait_until_gone(process.0);
    }
    assert!(!left_of(&daemon, "orphan").is_empty());
    daemon.edit_jcard(&shape("orphan", "end", ""));
    daemon.start_again();
    let found = daemon.wait_for_file("orphan-found");
    assert_eq!(String::from_utf8_lossy(&found).trim(), "0", "seen by the next attempt");
}

#[test]
fn the_next_daemon_ends_leftovers_in_a_control_group() {
    the_next_daemon_ends_what_is_left(By::Group);
}

#[test]
fn the_next_daemon_ends_leftovers_with_a_mark() {
    the_next_daemon_ends_what_is_left(By::Mark);
}

#[test]
fn the_next_daemon_ends_leftovers_without_root() {
    the_next_daemon_ends_what_is_left(By::MarkAsUser);
}

#[test]
fn processes_left_by_a_login_belong_to_the_agent() {
    for by in [By::Group, By::Mark] {
        let Some(setup) = setup(by) else { continue };
        let Some(daemon) = start_in(setup.user("busy"), by, &shape("kills-launcher", "stop", "")) else { continue };
        let left_by_login = || {
            let is_it = |process: &Process| process.argv().first().is_some_and(|name| name == "left-by-login");
            Process::all().filter(is_it).filter(|process| process.can_act()).count()
        };
        daemon.wait_for_file("kills-launcher-ready");
        assert_eq!(left_by_login(), 1);
        daemon.edit_jcard("[other]\n");
        daemon.wait_until_removed("kills-launcher");
        assert_eq!(left_by_login(), 0, "{by:?}");
    }
}

/// Processes of the agent user named like the agent's, one of another user with the agent's mark, and another agent.
fn bystanders_live_on(by: By) {
    let jcard = shape("kills-launcher", "stop", "")
        + &shape("orphan", "stop", "")
        + &shape("setsid", "stop", "").replace("name = \"setsid\"", "name = \"orphan-1\"");
    let Some(daemon) = start(by, &jcard) else { return };
    for name in ["kills-launcher", "orphan", "setsid"] {
        daemon.wait_for_file(&format!("{name}-ready"));
    }
    let user = daemon.agent_account().name;
    let left = daemon.work("orphan-left");
    let mark = mark_of(&daemon, "orphan");
    assert!(mark.ends_with(":orphan"), "{mark}");
    let named = |user: &str| {
        let mut command = as_user(user, &["bash", "-c", "exec -a \"$0\" sleep infinity", left.to_str().unwrap()]);
        command.current_dir(daemon.path("work"));
        command
    };
    let mut bystanders = vec![
        ("of the same user and name", Bystander::start(&mut named(&user))),
        ("with another mark", Bystander::start(named(&user).env("AGENTD_AGENT", format!("{mark}-2")))),
    ];
    if is_root() {
        for other in ["stranger", "root"] {
            bystanders.push((other, Bystander::start(named(other).env("AGENTD_AGENT", &mark))));
        }
    }
    let other = daemon.wait_until_running("orphan-1");
    daemon.edit_jcard(&shape("setsid", "stop", "").replace("name = \"setsid\"", "name = \"orphan-1\""));
    daemon.wait_until_removed("orphan");
    daemon.wait_until_removed("kills-launcher");
    for (which, bystander) in &mut bystanders {
        assert!(bystander.lives(), "the one {which}, {by:?}");
    }
    assert_eq!(daemon.agent("orphan-1").unwrap().pid, Some(other));
    assert_eq!(left_of(&daemon, "setsid").len(), 1, "the process of the other agent");
}

fn mark_of(daemon: &Daemon, name: &str) -> String {
    let environment = Process(daemon.wait_until_running(name)).environ();
    let mut variables = environment.split(|&byte| byte == 0).filter_map(|variable| std::str::from_utf8(variable).ok());
    variables.find_map(|variable| variable.strip_prefix("AGENTD_AGENT=")).unwrap().to_owned()
}

#[test]
fn bystanders_of_control_groups_survive() {
    bystanders_live_on(By::Group);
}

#[test]
fn bystanders_of_marks_survive() {
    bystanders_live_on(By::Mark);
}

#[test]
fn bystanders_of_agents_without_root_survive() {
    bystanders_live_on(By::MarkAsUser);
}

#[test]
fn a_kill_spares_the_launcher_to_report_the_harness_exit() {
    for by in [By::Group, By::Mark, By::MarkAsUser] {
        // It ignores signals by then, however slow the machine is.
        let Some(daemon) = start(by, &shape("ignores-signals", "stop", "timeout = \"5s\"")) else { continue };
        let agent = daemon.wait_for_state("ignores-signals", State::Exited);
        assert_eq!(serde_json::to_value(agent.exit.unwrap()).unwrap()["signal"], "SIGKILL", "{by:?}");
    }
}

#[test]
fn a_daemons_control_groups_are_removed_with_it() {
    let Some(mut daemon) = start(By::Group, &shape("orphan", "stop", "")) else { return };
    daemon.wait_for_file("orphan-ready");
    let harness = daemon.wait_until_running("orphan");
    let (_, group) = run(Command::new("cat").arg(format!("/proc/{harness}/cgroup")));
    let path = group.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned();
    assert!(path.ends_with("-state/orphan/tree"), "{path}");
    let agents_group = |daemon: &Daemon| {
        let log = daemon.log();
        let at = log.find("directory=").unwrap() + "directory=".len();
        std::path::PathBuf::from(log[at..].split_whitespace().next().unwrap())
    };
    let directory = agents_group(&daemon);
    assert!(directory.join("orphan/tree").is_dir());
    let begun = Instant::now();
    assert!(daemon.stop().success());
    assert!(!directory.exists(), "{}", directory.display());
    assert!(begun.elapsed() < crate::support::BOUND);
}

#[test]
fn a_single_agents_status_shows_its_resource_usage() {
    let Some(daemon) = start(By::Group, &agent("busy", "sleep inf", "")) else { return };
    daemon.wait_until_running("busy");
    let one: AgentStatus = serde_json::from_str(&daemon.get("/v1/agents/busy").body).unwrap();
    assert!(one.resources.unwrap().cpu_usec.unwrap() > 0);
    assert_eq!(daemon.agent("busy").unwrap().resources, None, "not for all at once");
}

#[test]
fn limits_that_cannot_be_applied_are_reported_and_harmless() {
    let daemon = Setup::new().start(&(agent("a", "sleep inf", "memory = '1GiB'") + &agent("b", "sleep inf", "")));
    daemon.wait_until_running("a");
    daemon.wait_until_running("b");
    let told = daemon.wait_until("a", "its limits", |agent| agent.limits_error.is_some()).limits_error.unwrap();
    assert!(told.contains("limits are not applied") && told.contains("systemd"), "{told}");
    assert_eq!(daemon.agent("b").unwrap().limits_error, None);
    daemon.edit_jcard(&(agent("a", "sleep inf", "") + &agent("b", "sleep inf", "cpu = 2")));
    daemon.wait_until("b", "its limits", |agent| agent.limits_error.is_some());
    daemon.wait_until("a", "no limits", |agent| agent.limits_error.is_none());
    assert_eq!((daemon.agent("a").unwrap().attempt, daemon.agent("b").unwrap().attempt), (Some(1), Some(1)));
}
