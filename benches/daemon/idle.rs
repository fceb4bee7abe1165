//! Measures what idle agents cost: processor time, context switches, system calls, forks, memory.

use std::fs;
use std::time::Duration;

use crate::daemon::{Daemon, Setting};
use crate::process::{Cost, Memory, Roles, Spent};
use crate::table::{Table, Unit};
use crate::trace::{Calls, Traces};
use crate::wait;

/// The time after the start until the daemon is idle.
const CALM: Duration = Duration::from_secs(3);

/// Measures one daemon for each number of agents, all of them idle at the same time.
pub fn measure(setting: &Setting, numbers: &[usize], duration: Duration, table: &mut Table) {
    let daemons: Vec<(usize, Daemon, Roles)> = numbers
        .iter()
        .map(|&agents| {
            let (daemon, begun) = Daemon::with_agents(setting, agents);
            let roles = daemon.roles(&begun);
            (agents, daemon, roles)
        })
        .collect();
    wait::rest(CALM);
    eprintln!("idle for {duration:?}");
    let before: Vec<_> = daemons.iter().map(|(_, _, roles)| spent(roles)).collect();
    let forks_before = forks_of_the_machine();
    wait::rest(duration);
    let forks = forks_of_the_machine() - forks_before;
    let costs: Vec<_> = daemons.iter().zip(&before).map(|((_, _, roles), before)| costs(roles, before)).collect();
    eprintln!("idle for {duration:?}, under strace");
    let calls = calls(&daemons, duration);

    for (at, (agents, _, roles)) in daemons.iter().enumerate() {
        let what = format!("idle {} s, {}", duration.as_secs(), number_of(*agents, "agent"));
        tell_costs(&what, roles, &costs[at], duration, table);
        match &calls {
            Some(calls) => tell_calls(&what, roles, &calls[at], table),
            None => table.several(format!("{what}: system calls, forks"), Unit::Count, Vec::new()),
        }
    }
    if calls.is_none() {
        table.single(format!("idle {} s: processes and threads begun", duration.as_secs()), Unit::Count, forks);
        table.remark("of the whole machine: strace is missing or may not attach");
    }
    for (agents, _, roles) in &daemons {
        let what = format!("idle, {}", number_of(*agents, "agent"));
        tell_memory(&what, roles, table);
        let all: u64 = roles.processes().filter_map(|process| process.memory()).map(|memory| memory.proportional).sum();
        table.single(format!("{what}: PSS of all but the harnesses, an agent"), Unit::Bytes, all / *agents as u64);
    }
}

/// The cost of each process so far, by role.
fn spent(roles: &Roles) -> Vec<Vec<Spent>> {
    roles.0.iter().map(|(_, processes)| processes.iter().map(|process| process.spent()).collect()).collect()
}

/// The cost of all processes of each role since then.
fn costs(roles: &Roles, before: &[Vec<Spent>]) -> Vec<Cost> {
    let of =
        |(now, before): (&Vec<Spent>, &Vec<Spent>)| now.iter().zip(before).map(|(now, then)| now.since(then)).sum();
    spent(roles).iter().zip(before).map(of).collect()
}

fn tell_costs(what: &str, roles: &Roles, costs: &[Cost], duration: Duration, table: &mut Table) {
    for ((role, _), cost) in roles.0.iter().zip(costs) {
        table.times(format!("{what}: processor time, {role}"), &[cost.time]);
        table.remark(format!("{:.4} % of a core", 100.0 * cost.time.div_duration_f64(duration)));
    }
    let all: Duration = costs.iter().map(|cost| cost.time).sum();
    table.times(format!("{what}: processor time, all"), &[all]);
    table.remark(format!("{:.4} % of a core", 100.0 * all.div_duration_f64(duration)));
    for ((role, _), cost) in roles.0.iter().zip(costs) {
        table.single(format!("{what}: context switches, {role}"), Unit::Count, cost.switches);
    }
}

/// The system calls of each role of each daemon; nothing if strace cannot attach.
fn calls(daemons: &[(usize, Daemon, Roles)], duration: Duration) -> Option<Vec<Vec<Calls>>> {
    let attached: Option<Vec<Traces>> =
        daemons.iter().map(|(_, daemon, roles)| Traces::attach(roles, &daemon.path("."))).collect();
    let attached = attached?;
    // Attaching interrupts system calls, which then begin again.
    wait::rest(Duration::from_secs(1));
    let from = Traces::now();
    wait::rest(duration);
    let to = Traces::now();
    Some(attached.into_iter().map(|traces| traces.between(from, to)).collect())
}

fn tell_calls(what: &str, roles: &Roles, calls: &[Calls], table: &mut Table) {
    for ((role, _), calls) in roles.0.iter().zip(calls) {
        table.single(format!("{what}: system calls, {role}"), Unit::Count, calls.total());
        table.remark(calls.most_frequent());
    }
    table.single(format!("{what}: forks, all of them"), Unit::Count, calls.iter().map(|calls| calls.forks).sum());
}

pub fn tell_memory(what: &str, roles: &Roles, table: &mut Table) {
    for (role, processes) in &roles.0 {
        let all: Vec<_> = processes.iter().filter_map(|process| process.memory()).collect();
        let of = |part: fn(&Memory) -> u64| all.iter().map(part).collect();
        table.several(format!("{what}: RSS, {role}"), Unit::Bytes, of(|memory| memory.resident));
        table.several(format!("{what}: PSS, {role}"), Unit::Bytes, of(|memory| memory.proportional));
        table.several(format!("{what}: private memory, {role}"), Unit::Bytes, of(|memory| memory.private));
    }
}

pub fn number_of(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The number of processes and threads started since the machine was booted.
fn forks_of_the_machine() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    stat.lines().find_map(|line| line.strip_prefix("processes ")?.parse().ok()).unwrap()
}
