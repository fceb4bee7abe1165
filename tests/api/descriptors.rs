//! What the API does when the process has no descriptor left. The limit is the whole process's, so the test runs in one of its own.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{self, read_until_closed, running, snapshot};
use agentd::api::{Limits, Sources, serve};
use agentd::observe::ring::Ring;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike;

/// Set in the process that runs the test.
const ALONE: &str = "AGENTD_TEST_ALONE";

#[test]
fn without_descriptors_clients_are_served_in_turn() {
    if std::env::var_os(ALONE).is_some() {
        return serve_without_descriptors();
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let mut alone = Command::new(std::env::current_exe().unwrap());
    let output = alone.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// The server must not spin meanwhile.
fn serve_without_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agentd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = {
        let _entered = runtime.enter();
        tokio::net::UnixListener::from_std(listener).unwrap()
    };
    // The first has the place that is left and the second the last, and both say nothing; the others keep the connection.
    let mut clients: Vec<UnixStream> = (0..10).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for client in &mut clients[2..] {
        client.set_read_timeout(Some(support::PATIENCE)).unwrap();
        client.write_all(b"GET /v1/agents HTTP/1.1\r\n\r\n").unwrap();
    }
    let highest = clients.iter().map(AsRawFd::as_raw_fd).max().unwrap();
    let (before, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(highest).unwrap() + 3, hard).unwrap();

    let (_snapshots, snapshot) = tokio::sync::watch::channel(Arc::new(snapshot(vec![running("a")])));
    let (_ring, happenings) = tokio::sync::watch::channel(Ring::new(std::time::UNIX_EPOCH));
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        Duration::from_micros((usage.user_time() + usage.system_time()).num_microseconds().unsigned_abs())
    };
    let (cpu_before, from) = (cpu(), Instant::now());
    runtime.block_on(async {
        let shutdown = tokio::time::sleep(Duration::from_secs(3));
        serve(
            listener,
            tokio::sync::mpsc::channel(1).1,
            Sources { snapshot, happenings, desks: None, logs: None, renderers: None },
            Limits::default(),
            shutdown,
        )
        .await;
    });
    let (spent, passed) = (cpu().saturating_sub(cpu_before), from.elapsed());
    setrlimit(Resource::RLIMIT_NOFILE, before, hard).unwrap();

    assert!(spent < passed / 4, "{spent:?} of {passed:?}");
    for client in &mut clients[2..] {
        assert!(read_until_closed(client).ends_with(b"}]\n"), "each had its turn");
    }
}
