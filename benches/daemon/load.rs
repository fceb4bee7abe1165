//! How many requests the API answers, and how fast, when clients ask without a pause.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::daemon::{Daemon, Setting};
use crate::idle::number_of;
use crate::table::{Table, Unit};
use crate::wait;

pub fn measure(setting: &Setting, agents: &[usize], connections: &[usize], duration: Duration, table: &mut Table) {
    for &agents in agents {
        let (daemon, _) = Daemon::with_agents(setting, agents);
        for &connections in connections {
            wait::rest(Duration::from_millis(500));
            let what =
                format!("GET /v1/agents, {}, {}", number_of(agents, "agent"), number_of(connections, "connection"));
            eprintln!("{what}");
            tell(&what, &daemon, connections, duration, table);
        }
    }
}

fn tell(what: &str, daemon: &Daemon, connections: usize, duration: Duration, table: &mut Table) {
    let length = daemon.client().body().unwrap().len();
    let clients: Vec<Client> = (0..connections).map(|_| daemon.client()).collect();
    let latencies = load(clients, duration);
    let answers = latencies.len() as u64;
    table.single(format!("{what}: answers a second"), Unit::Count, answers / duration.as_secs());
    table.remark(format!("bodies of {length} bytes"));
    table.times(format!("{what}: time to the whole answer"), &latencies);
}

/// The time that each answer took, of all clients asking at once for that long.
fn load(clients: Vec<Client>, duration: Duration) -> Vec<Duration> {
    let ready = Barrier::new(clients.len());
    let ask = |mut client: Client| {
        let mut latencies = Vec::with_capacity(1 << 20);
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
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}
