//! Measures how long it takes to start, adopt and stop many agents at once, compared with tmux alone.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use crate::daemon::{Daemon, Setting};
use crate::harness;
use crate::idle::number_of;
use crate::process::Process;
use crate::table::Table;
use crate::wait;

/// The interval for polling whether processes are gone.
const PAUSE: Duration = Duration::from_millis(1);

/// From the daemon's start until the last harness runs, and from SIGTERM until the daemon has stopped them all and ended.
pub fn start_and_stop(setting: &Setting, agents: usize, tries: usize, table: &mut Table) {
    let what = number_of(agents, "agent");
    let times: Vec<(Duration, Duration)> = (0..tries)
        .map(|_| {
            let mut daemon = Daemon::prepare(setting);
            daemon.declare(agents, "first");
            let from = daemon.start();
            let begun = daemon.wait_for(agents, "first");
            let last = begun.iter().map(|begun| begun.at).max().unwrap();
            (last.saturating_sub(from), daemon.stop(&begun))
        })
        .collect();
    let (starts, stops): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    table.times(format!("start {what}"), &starts);
    table.remark("until the last harness runs; a new tmux server among it");
    table.times(format!("stop {what}"), &stops);
    table.remark("from SIGTERM until the daemon has ended");
}

/// The same with no daemon at all: as many sessions with the same harness, made by a tmux client each, and by a single one.
pub fn bare_tmux(setting: &Setting, sessions: usize, tries: usize, table: &mut Table) {
    let what = number_of(sessions, "session");
    for (how, clients) in [("a client each", sessions), ("one client", 1)] {
        let times: Vec<(Duration, Duration)> = (0..tries).map(|_| bare(setting, sessions, clients)).collect();
        let (starts, stops): (Vec<_>, Vec<_>) = times.into_iter().unzip();
        table.times(format!("bare tmux, {how}: start {what}"), &starts);
        table.times(format!("bare tmux, {how}: stop {what}"), &stops);
    }
}

fn bare(setting: &Setting, sessions: usize, clients: usize) -> (Duration, Duration) {
    // For its folder, its beacon, and that nothing is left behind.
    let daemon = Daemon::prepare(setting);
    let client = |words: &[&str]| {
        let mut command = Command::new("tmux");
        command.args(["-f", "/dev/null", "-S"]).arg(daemon.path("work/socket")).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir(daemon.path("work"));
        if geteuid().is_root() {
            command.uid(setting.user.uid.as_raw()).gid(setting.user.gid.as_raw());
        }
        let status = command.status().unwrap();
        assert!(status.success(), "tmux {}: {status}", words[0]);
    };
    let path = |name: &str| daemon.path(name).to_str().unwrap().to_owned();
    let (program, beacon, list) = (path("harness"), path("beacon"), path("staging/sessions"));
    let names: Vec<String> = (0..sessions).map(|number| format!("session-{number}")).collect();
    let open = |name| ["new-session", "-d", "-s", name, &program, harness::ROLE, &beacon, "bare"];
    let lines: Vec<String> = names.iter().map(|name| open(name).join(" ") + "\n").collect();
    fs::write(&list, lines.concat()).unwrap();
    let from = harness::now();
    if clients == 1 {
        client(&["start-server", ";", "source-file", &list]);
    } else {
        for name in &names {
            client(&open(name));
        }
    }
    let begun: Vec<_> = (0..sessions).map(|_| daemon.begun("bare")).collect();
    let last = begun.iter().map(|begun| begun.at).max().unwrap();
    let stop = Instant::now();
    client(&["kill-server"]);
    wait::until("the sessions to be gone", PAUSE, || begun.iter().all(|it| !Process(it.pid).lives()).then_some(()));
    (last.saturating_sub(from), stop.elapsed())
}

/// From the start of the next daemon, after SIGKILL, until the API says that all agents run.
pub fn adoption(setting: &Setting, agents: usize, tries: usize, table: &mut Table) {
    let (mut daemon, begun) = Daemon::with_agents(setting, agents);
    let times: Vec<Duration> = (0..tries)
        .map(|_| {
            wait::rest(Duration::from_millis(500));
            daemon.kill();
            let from = daemon.start();
            daemon.wait_until_running(agents).saturating_sub(from)
        })
        .collect();
    let kept = begun.iter().filter(|begun| Process(begun.pid).lives()).count();
    table.times(format!("start after SIGKILL → API tells that {} run", number_of(agents, "agent")), &times);
    table.remark(if kept == agents {
        "the same processes".to_owned()
    } else {
        format!("{} were killed", agents - kept)
    });
}
