//! Measures how long it takes from a cause to its effect.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::daemon::{Daemon, Setting};
use crate::harness;
use crate::process::Process;
use crate::table::Table;
use crate::wait;

/// The pause between two tries, so that the effects of the last one are over.
const REST: Duration = Duration::from_millis(100);

/// Between two requests. Without it the client and the daemon hand two cores to and fro between them, and what is waited for, the
/// launcher, is kept waiting by that for up to some 70 ms.
const GLANCE: Duration = Duration::from_micros(100);

/// Measures something this many times.
pub type Measure = fn(&Setting, usize, &mut Table);

/// What is measured here, each on its own: it may be more than a binary can do.
pub const ALL: [(&str, Measure); 4] = [
    ("daemon start → harness runs", start),
    ("edit → new process", edit),
    ("secret change → new process", secret),
    ("exit → API", exit),
];

fn start(setting: &Setting, tries: usize, table: &mut Table) {
    let times: Vec<Duration> = (0..tries).map(|_| start_to_harness(setting)).collect();
    table.times("daemon start → harness runs", &times);
    table.remark("a new tmux server each time");
}

fn edit(setting: &Setting, tries: usize, table: &mut Table) {
    let (daemon, _) = Daemon::with_agents(setting, 1);
    let times: Vec<Duration> = (0..tries).map(|number| edit_to_harness(&daemon, number)).collect();
    table.times("edit → new process", &times);
    table.remark("the old one is stopped first");
}

fn secret(setting: &Setting, tries: usize, table: &mut Table) {
    let (daemon, _) = Daemon::with_agents(setting, 1);
    let times: Vec<Duration> = (0..tries).map(|number| secret_to_harness(&daemon, number)).collect();
    table.times("secret change → new process", &times);
    table.remark("likewise");
}

fn exit(setting: &Setting, tries: usize, table: &mut Table) {
    let (daemon, _) = Daemon::with_agents(setting, 1);
    let times: Vec<Duration> = (0..tries).map(|number| exit_to_api(&daemon, number)).collect();
    table.times("exit → API", &times);
    table.remark("SIGKILL to the harness; asked every 0.1 ms");
}

fn start_to_harness(setting: &Setting) -> Duration {
    let mut daemon = Daemon::prepare(setting);
    daemon.declare(1, "start");
    let from = daemon.start();
    let to = daemon.begun("start").at;
    // The daemon is idle when it is stopped.
    daemon.wait_until_running(1);
    to.saturating_sub(from)
}

fn edit_to_harness(daemon: &Daemon, number: usize) -> Duration {
    let token = format!("edit-{number}");
    wait::rest(REST);
    let from = daemon.declare(1, &token);
    let to = daemon.begun(&token).at;
    daemon.wait_until_running(1);
    to.saturating_sub(from)
}

fn secret_to_harness(daemon: &Daemon, number: usize) -> Duration {
    wait::rest(REST);
    let from = daemon.change_secret(&number.to_string());
    let to = daemon.begun("first").at;
    daemon.wait_until_running(1);
    to.saturating_sub(from)
}

fn exit_to_api(daemon: &Daemon, number: usize) -> Duration {
    let token = format!("exit-{number}");
    daemon.declare(1, &token);
    let harness = Process(daemon.wait_for(1, &token)[0].pid);
    wait::rest(REST);
    let mut client = daemon.client();
    client.agents().unwrap();
    let from = harness::now();
    harness.signal(Signal::SIGKILL);
    wait::until("the API to tell of the end", GLANCE, || {
        client.agents().unwrap().iter().all(|agent| !agent.running).then(harness::now)
    })
    .saturating_sub(from)
}
