//! Measures runs: how soon a task that is dropped runs, how many get done, and what those cost that wait.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Setting};
use crate::harness;
use crate::process::Process;
use crate::table::{Table, Unit};
use crate::wait;

/// How many of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// How often the latency is measured.
    pub tries: usize,
    /// How many tasks are dropped at once.
    pub tasks: usize,
    /// How many of them are done at once.
    pub at_once: usize,
    /// How many wait while memory is read.
    pub waiting: usize,
}

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(5);

/// How long may pass without progress.
const STANDSTILL: Duration = Duration::from_secs(30);

/// After this, what was allocated for a moment is given back.
const CALM: Duration = Duration::from_secs(2);

pub fn measure(setting: &Setting, scale: Scale, table: &mut Table) {
    const NAMES: [&str; 4] =
        ["task dropped → harness runs", "tasks, dropped at once", "the same from xargs", "memory of tasks that wait"];
    if !setting.takes("--spool-dir") {
        for name in NAMES {
            table.remark_missing(name, "it has no runs");
        }
        return;
    }
    latency(setting, scale.tries, table);
    throughput(setting, scale, table);
    memory(setting, scale.waiting, table);
}

/// A daemon with a template whose runs take a quarter of a second.
fn with_template(setting: &Setting, at_once: usize) -> Daemon<'_> {
    let mut daemon = Daemon::prepare(setting);
    let (work, program, beacon) = (daemon.path("work"), daemon.path("harness"), daemon.path("beacon"));
    daemon.declare_text(&format!(
        "[[agents]]\nname = 'fixer'\nharness = 'custom'\nworkdir = '{}'\ncommand = '{}'\nargs = ['{}', '{}']\n\
         [agents.runs]\nat_once = {at_once}\nwaiting = 10000\n",
        work.display(),
        program.display(),
        harness::TASK,
        beacon.display()
    ));
    daemon.start();
    let spool = daemon.path("spool/fixer");
    wait::until("the folder of tasks", GLANCE, || spool.is_dir().then_some(()));
    daemon
}

/// Drops a task as careful writers do. Returns the time.
fn drop_task(daemon: &Daemon<'_>, id: &str, text: &str) -> Duration {
    let spool = daemon.path("spool/fixer");
    let new = spool.join(format!("{id}.tmp"));
    fs::write(&new, text).unwrap();
    let at = harness::now();
    fs::rename(&new, spool.join(id)).unwrap();
    at
}

/// How many tasks are not over.
fn left(daemon: &Daemon<'_>) -> usize {
    let names = fs::read_dir(daemon.path("spool/fixer")).unwrap().flatten().map(|entry| entry.file_name());
    names.filter(|name| !name.to_string_lossy().contains('.')).count()
}

/// Waits until that many are left. However long that takes, it goes on.
fn wait_for_end(daemon: &Daemon<'_>) {
    let (mut least, mut since) = (usize::MAX, Instant::now());
    loop {
        let now = left(daemon);
        if now == 0 {
            return;
        }
        if now < least {
            (least, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < STANDSTILL, "no task has ended for {STANDSTILL:?}; {now} are left");
        wait::heed();
        std::thread::sleep(GLANCE);
    }
}

fn latency(setting: &Setting, tries: usize, table: &mut Table) {
    let daemon = with_template(setting, 1);
    let once = |number: usize| {
        let id = format!("t{number}");
        let dropped = drop_task(&daemon, &id, &id);
        let begun = daemon.begun(&id).at;
        wait_for_end(&daemon);
        begun.saturating_sub(dropped)
    };
    once(tries);
    let times: Vec<Duration> = (0..tries).map(once).collect();
    table.times("task dropped → harness runs", &times);
    let mut sorted = times;
    sorted.sort_unstable();
    let most = sorted.get((sorted.len() * 95).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default();
    table.remark(format!("p95 {:.1} ms; nothing else runs", most.as_secs_f64() * 1e3));
}

fn throughput(setting: &Setting, scale: Scale, table: &mut Table) {
    let Scale { tasks, at_once, .. } = scale;
    let daemon = with_template(setting, at_once);
    let from = Instant::now();
    for number in 0..tasks {
        drop_task(&daemon, &format!("t{number}"), harness::QUIET);
    }
    wait_for_end(&daemon);
    let took = from.elapsed();
    let bare = from_a_shell(&daemon, scale);
    table.times(format!("{tasks} tasks of 250 ms, {at_once} at once, dropped → all over"), &[took]);
    let share = bare.as_secs_f64() / took.as_secs_f64() * 100.0;
    let rate = |took: Duration| f64::from(u32::try_from(tasks).unwrap()) / took.as_secs_f64();
    table.remark(format!("{:.1} per second; {share:.0} % of xargs", rate(took)));
    table.times(format!("the same processes from xargs -P{at_once}"), &[bare]);
    table.remark(format!("{:.1} per second", rate(bare)));
}

/// How long the same processes take from a shell.
fn from_a_shell(daemon: &Daemon<'_>, Scale { tasks, at_once, .. }: Scale) -> Duration {
    let (program, beacon) = (daemon.path("harness"), daemon.path("beacon"));
    let loop_ = format!(
        "seq {tasks} | xargs -P{at_once} -I{{}} '{}' {} '{}' {}",
        program.display(),
        harness::TASK,
        beacon.display(),
        harness::QUIET
    );
    let from = Instant::now();
    let status = Command::new("sh").args(["-c", &loop_]).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "xargs: {status}");
    from.elapsed()
}

fn memory(setting: &Setting, waiting: usize, table: &mut Table) {
    let daemon = with_template(setting, 1);
    let process = daemon.process().expect("it was started");
    drop_task(&daemon, "first", harness::LASTING);
    daemon.begun(harness::LASTING);
    wait::rest(CALM);
    let before = anonymous(process);
    for number in 0..waiting {
        drop_task(&daemon, &format!("t{number}"), &format!("task {number}: {}", "do it ".repeat(40)));
    }
    let folder = daemon.path("state/runs/fixer");
    wait::until("all tasks to be on record", GLANCE, || {
        (fs::read_dir(&folder)
            .ok()?
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|it| it == "json"))
            .count()
            > waiting)
            .then_some(())
    });
    wait::rest(CALM);
    table.single(
        format!("memory of {waiting} tasks that wait"),
        Unit::Bytes,
        anonymous(process).saturating_sub(before),
    );
    table.remark("anonymous memory of the daemon, more than before");
}

fn anonymous(process: Process) -> u64 {
    process.anonymous().expect("the process lives")
}
