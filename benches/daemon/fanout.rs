//! Measures how long it takes until every client that follows events has received one.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::daemon::{Daemon, Setting};
use crate::harness;
use crate::idle::number_of;
use crate::process::Process;
use crate::table::Table;
use crate::wait::{self, BOUND};

/// From the end of a harness until each of this many clients has received an event.
pub fn measure(setting: &Setting, clients: usize, tries: usize, table: &mut Table) {
    let what = format!("exit → event, each of {}", number_of(clients, "client"));
    let (daemon, _) = Daemon::with_agents(setting, 1);
    let followers: Option<Vec<UnixStream>> = (0..clients).map(|_| follow(&daemon)).collect();
    let Some(mut followers) = followers else {
        return table.remark_missing(what, "there is no GET /v1/events");
    };
    let mut times = Vec::new();
    for number in 0..tries {
        let token = format!("fan-{number}");
        daemon.declare(1, &token);
        let harness = Process(daemon.wait_for(1, &token)[0].pid);
        wait::rest(Duration::from_millis(200));
        for follower in &mut followers {
            drain(follower);
        }
        let from = harness::now();
        harness.signal(Signal::SIGKILL);
        times.extend(told(&mut followers).into_iter().map(|at| at.saturating_sub(from)));
    }
    table.times(what, &times);
    table.remark("SIGKILL to the harness");
}

/// A client that follows events and has read the header; `None` if the daemon has no events.
fn follow(daemon: &Daemon) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(daemon.path("api/agentd.sock")).unwrap();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: agentd\r\nAccept: text/event-stream\r\n\r\n").unwrap();
    let mut beginning = [0; 12];
    stream.read_exact(&mut beginning).ok()?;
    stream.set_nonblocking(true).unwrap();
    beginning.ends_with(b" 200").then_some(stream)
}

/// Everything that has arrived so far.
fn drain(stream: &mut UnixStream) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("the daemon has ended the events"),
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return all,
            Err(error) => panic!("events: {error}"),
        }
    }
}

/// The time at which each client had received its first event.
fn told(followers: &mut [UnixStream]) -> Vec<Duration> {
    let start = Instant::now();
    let mut at = vec![None; followers.len()];
    while at.iter().any(Option::is_none) {
        assert!(start.elapsed() < BOUND, "waited {BOUND:?} for events");
        wait::heed();
        let untold: Vec<usize> = (0..followers.len()).filter(|&number| at[number].is_none()).collect();
        let mut polled: Vec<PollFd> =
            untold.iter().map(|&number| PollFd::new(followers[number].as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut polled, PollTimeout::from(100_u8)).unwrap();
        let ready: Vec<usize> =
            untold.iter().zip(&polled).filter(|(_, fd)| fd.any() == Some(true)).map(|(&number, _)| number).collect();
        let now = harness::now();
        for number in ready {
            // A message that only keeps the connection alive has no data.
            if drain(&mut followers[number]).windows(5).any(|window| window == b"data:") {
                at[number] = Some(now);
            }
        }
    }
    at.into_iter().flatten().collect()
}
