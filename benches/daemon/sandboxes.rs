//! Measures what a sandbox costs, beside an agent without one: the time until the harness runs, and memory.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::geteuid;

use crate::daemon::{Daemon, Setting};
use crate::harness;
use crate::idle::number_of;
use crate::process::Process;
use crate::table::{Table, Unit, median};
use crate::wait;

/// Without a sandbox, and each engine.
const KINDS: [&str; 4] = [NATIVE, "bwrap", "crun", "runsc"];

const NATIVE: &str = "native";

/// The pause before each start, so that the effects of the last one are over.
const REST: Duration = Duration::from_millis(100);

/// How often to look for what a harness writes. It bounds the error of the figures, far below what a sandbox costs.
const GLANCE: Duration = Duration::from_micros(200);

/// How often to ask whether an agent has ended or started.
const PAUSE: Duration = Duration::from_millis(5);

/// The time until the memory of agents that have started stays as it is.
const CALM: Duration = Duration::from_secs(2);

/// Measures every kind in turn, so that whatever else the machine does affects all of them alike.
pub fn measure(setting: &Setting, tries: usize, agents: usize, table: &mut Table) {
    let outcomes = KINDS.map(|kind| (kind, works(setting, kind)));
    let kinds: Vec<&str> = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(kind, _)| *kind).collect();
    let missing: Vec<_> = outcomes.iter().filter_map(|(kind, outcome)| Some((kind, outcome.as_ref().err()?))).collect();

    let times = starts(setting, &kinds, tries);
    let of_native = median(&times[0]);
    for (kind, times) in kinds.iter().zip(&times) {
        table.times(format!("agent is declared → harness runs, {kind}"), times);
        table.remark(if *kind == NATIVE {
            "another agent runs; seen by a file that the harness writes".to_owned()
        } else {
            let more = 1e3 * (median(times).as_secs_f64() - of_native.as_secs_f64());
            format!("{more:+.1} ms beside native")
        });
    }
    let memory: Vec<u64> = kinds.iter().map(|kind| memory(setting, kind, agents)).collect();
    for (kind, &bytes) in kinds.iter().zip(&memory) {
        let what = format!("PSS of launcher, engine, and process inside, each of {}", number_of(agents, "agent"));
        table.single(format!("{what}, {kind}"), Unit::Bytes, bytes);
        if *kind != NATIVE {
            table.remark(format!("{:+} KiB beside native", (bytes.cast_signed() - memory[0].cast_signed()) / 1024));
        }
    }
    for (kind, why) in missing {
        table.remark_missing(format!("sandbox, {kind}"), why.as_str());
    }
}

/// Whether the agents' user can make such a sandbox; else why not.
fn works(setting: &Setting, kind: &str) -> Result<(), String> {
    if kind == NATIVE {
        return Ok(());
    }
    if !setting.takes("--sandbox") {
        return Err("it knows no sandboxes".to_owned());
    }
    // For its copies, which every user can run.
    let daemon = Daemon::prepare(setting);
    let mut command = Command::new(daemon.path("agentd-launcher"));
    command.args(["try", kind]).current_dir(daemon.path("work")).stdin(Stdio::null());
    if geteuid().is_root() {
        command.uid(setting.user.uid.as_raw()).gid(setting.user.gid.as_raw());
    }
    let output = command.output().map_err(|error| error.to_string())?;
    let words = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(words.lines().next().unwrap_or("it does not say").to_owned()) }
}

/// The times from a jcard with one more agent until its harness runs, of each kind.
fn starts(setting: &Setting, kinds: &[&str], tries: usize) -> Vec<Vec<Duration>> {
    let mut daemon = prepare(setting);
    // With this one, tmux and the deputy are there.
    let resting = entry(&daemon, "resting", NATIVE, "resting");
    daemon.declare_text(&resting);
    daemon.start();
    until_running(&daemon, 1);
    let mut times = vec![Vec::new(); kinds.len()];
    // The first one of each kind reads programs from the disk.
    for number in 0..=tries {
        for (at, kind) in kinds.iter().enumerate() {
            let token = format!("{kind}-{number}");
            wait::rest(REST);
            let from = daemon.declare_text(&(resting.clone() + &entry(&daemon, "measured", kind, &token)));
            let report = daemon.path("work/reports").join(&token);
            let to = wait::until("the harness to run", GLANCE, || report.exists().then(harness::now));
            until_running(&daemon, 2);
            daemon.declare_text(&resting);
            until_running(&daemon, 1);
            if number > 0 {
                times[at].push(to.saturating_sub(from));
            }
        }
    }
    times
}

/// The memory that each of this many agents takes beside its harness.
fn memory(setting: &Setting, kind: &str, agents: usize) -> u64 {
    let mut daemon = prepare(setting);
    let entries: Vec<String> =
        (1..=agents).map(|number| entry(&daemon, &format!("agent-{number}"), kind, &number.to_string())).collect();
    daemon.declare_text(&entries.concat());
    daemon.start();
    until_running(&daemon, agents);
    wait::rest(CALM);
    let launchers = Process::all()
        .filter(|process| process.is_of(&daemon.path("")) && process.parent().is_some_and(Process::is_tmux));
    let tree: Vec<Process> = launchers.flat_map(Process::tree).collect();
    let kept = tree.iter().filter(|process| !process.has_argument(harness::ROLE));
    let bytes: u64 = kept.filter_map(|process| process.memory()).map(|memory| memory.proportional).sum();
    bytes / agents as u64
}

/// A daemon with a folder for what harnesses write.
fn prepare(setting: &Setting) -> Daemon<'_> {
    let daemon = Daemon::prepare(setting);
    let reports = daemon.path("work/reports");
    fs::create_dir(&reports).unwrap();
    if geteuid().is_root() {
        chown(reports, Some(setting.user.uid.as_raw()), Some(setting.user.gid.as_raw())).unwrap();
    }
    daemon
}

fn entry(daemon: &Daemon, name: &str, kind: &str, token: &str) -> String {
    let (work, harness) = (daemon.path("work"), daemon.path("harness"));
    let (work, harness) = (work.display(), harness.display());
    let sandbox = if kind == NATIVE {
        String::new()
    } else {
        format!("type = 'sandboxed'\nsandbox = '{kind}'\nsandbox_home = 'fresh'\nsandbox_read = ['{harness}']\n")
    };
    format!(
        "[[agents]]\nname = '{name}'\nharness = 'custom'\nrestart = 'no'\nworkdir = '{work}'\ncommand = '{harness}'\n\
         args = ['{}', '{work}/reports', '{token}']\n{sandbox}\n",
        harness::ROLE
    )
}

fn until_running(daemon: &Daemon, agents: usize) {
    let mut client = daemon.client();
    wait::until("the agents to run", PAUSE, || {
        let all = client.agents().unwrap();
        if let Some(error) = all.iter().find_map(|agent| agent.error.as_ref()) {
            panic!("{error}");
        }
        (all.len() == agents && all.iter().all(|agent| agent.running)).then_some(())
    });
}
