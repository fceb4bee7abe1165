//! How many requests the API answers, and how fast, when clients ask without a pause.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::daemon::{Daemon, Setting};
use crate::idle::{number_of, tell_memory};
use crate::process::Roles;
use crate::table::{Table, Unit};
use crate::wait;

pub fn measure(setting: &Setting, agents: usize, connections: &[usize], duration: Duration, table: &mut Table) {
    let (daemon, begun) = Daemon::with_agents(setting, agents);
    let roles = daemon.roles(&begun).only("daemon");
    for &connections in connections {
        wait::rest(Duration::from_millis(500));
        let what = format!("GET /v1/agents, {}, {}", number_of(agents, "agent"), number_of(connections, "connection"));
        eprintln!("    {what}");
        tell(&what, &daemon, &roles, connections, duration, table);
    }
    wait::rest(Duration::from_secs(2));
    tell_memory(&format!("after load, {}", number_of(agents, "agent")), &roles, table);
}

fn tell(what: &str, daemon: &Daemon, roles: &Roles, connections: usize, duration: Duration, table: &mut Table) {
    let length = daemon.client().body().unwrap().len();
    let clients: Vec<Client> = (0..connections).map(|_| daemon.client()).collect();
    let (latencies, most) = load(clients, duration, roles);
    let answers = latencies.len() as u64;
    table.single(format!("{what}: answers a second"), Unit::Count, answers / duration.as_secs());
    table.remark(format!("bodies of {length} bytes"));
    table.times(format!("{what}: time to the whole answer"), &latencies);
    table.single(format!("{what}: RSS, daemon"), Unit::Bytes, most);
}

/// The time that each answer took, of all clients asking at once for that long; and the daemon's resident memory in the middle of it.
fn load(clients: Vec<Client>, duration: Duration, roles: &Roles) -> (Vec<Duration>, u64) {
    let ready = Barrier::new(clients.len());
    let ask = |mut client: Client| {
        let mut latencies = Vec::with_capacity(1 << 16);
        ready.wait();
        let mut now = Instant::now();
        let end = now + duration;
        while now < end {
            client.body().unwrap();
            let answered = Instant::now();
            latencies.push(answered - now);
            now = answered;
        }
        latencies
    };
    thread::scope(|scope| {
        let threads: Vec<_> = clients.into_iter().map(|client| scope.spawn(|| ask(client))).collect();
        wait::rest(duration / 2);
        let resident = roles.processes().filter_map(|process| process.memory()).map(|memory| memory.resident).sum();
        (threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect(), resident)
    })
}
