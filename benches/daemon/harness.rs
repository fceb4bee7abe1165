//! The harness: this program in another role. It says when it began, then sleeps until a signal ends it.
//!
//! ```text
//! harness: PROGRAM harness BEACON TOKEN ──one datagram: "TOKEN PID NANOSECONDS"──▶ beacon
//! ```
//!
//! A sandbox may have neither the socket nor the clock. So if the beacon is a folder, the harness makes the file `TOKEN` in it.

use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::pause;

use crate::wait::{self, BOUND, SLICE};

/// The first argument that makes this program a harness.
pub const ROLE: &str = "harness";

/// Now, on a clock that all processes share.
pub fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into()
}

/// Runs the harness, if this program was started as one.
pub fn play() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != ROLE {
        return None;
    }
    let began = now();
    let (beacon, token) = (arguments.next()?, arguments.next()?);
    if Path::new(&beacon).is_dir() {
        return match File::create(Path::new(&beacon).join(&token)) {
            Ok(_) => sleep(),
            Err(_) => Some(ExitCode::FAILURE),
        };
    }
    let report = format!("{token} {} {}", std::process::id(), began.as_nanos());
    if let Err(error) = UnixDatagram::unbound().and_then(|socket| socket.send_to(report.as_bytes(), &beacon)) {
        eprintln!("{beacon}: {error}");
        return Some(ExitCode::FAILURE);
    }
    sleep()
}

fn sleep() -> ! {
    loop {
        pause();
    }
}

/// The report of a harness that began.
#[derive(Clone, Debug)]
pub struct Begun {
    pub token: String,
    pub pid: i32,
    pub at: Duration,
}

/// The socket to which harnesses report.
pub struct Beacon(UnixDatagram);

impl Beacon {
    pub fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
        socket.set_read_timeout(Some(SLICE)).unwrap();
        Self(socket)
    }

    /// The next harness that begins with this token.
    pub fn wait(&self, token: &str) -> Begun {
        let start = Instant::now();
        let mut buffer = [0; 256];
        loop {
            match self.0.recv(&mut buffer) {
                Ok(length) => {
                    let begun = parse(&buffer[..length]);
                    if begun.token == token {
                        return begun;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => panic!("beacon: {error}"),
            }
            wait::heed();
            assert!(start.elapsed() < BOUND, "waited {BOUND:?} for a harness to begin");
        }
    }
}

fn parse(report: &[u8]) -> Begun {
    let text = std::str::from_utf8(report).unwrap();
    let mut words = text.split(' ');
    let mut next = || words.next().expect("three words");
    Begun { token: next().to_owned(), pid: next().parse().unwrap(), at: Duration::from_nanos(next().parse().unwrap()) }
}
