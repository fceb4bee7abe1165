//! Counts system calls with strace.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;

use crate::process::{Process, Roles};

/// How long strace may take to attach to all processes, or to detach from them.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);

/// How many system calls are listed by name.
const TOLD: usize = 4;

/// A strace for each role, attached to all its processes.
pub struct Traces(Vec<Trace>);

struct Trace {
    strace: Child,
    file: PathBuf,
}

impl Traces {
    /// Attaches; `None` if strace is not installed or may not attach.
    pub fn attach(roles: &Roles, folder: &Path) -> Option<Self> {
        let start =
            |(role, processes): &(&str, Vec<Process>)| Trace::start(processes, folder.join(format!("{role}.trace")));
        let mut traces = Self(roles.0.iter().map(start).collect::<Option<_>>()?);
        let limit = Instant::now() + ATTACH_TIMEOUT;
        while !roles.0.iter().flat_map(|(_, processes)| processes).all(|process| process.is_traced()) {
            if Instant::now() > limit || traces.0.iter_mut().any(Trace::has_ended) {
                return None;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Some(traces)
    }

    /// The time on the clock that strace shows.
    pub fn now() -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
    }

    /// Detaches from all processes, and returns the system calls of each role between two points in time.
    pub fn between(mut self, from: Duration, to: Duration) -> Vec<Calls> {
        let of = |trace: &mut Trace| {
            trace.end();
            let text = fs::read(&trace.file).unwrap();
            Calls::parse(&String::from_utf8_lossy(&text), from, to)
        };
        self.0.iter_mut().map(of).collect()
    }
}

impl Trace {
    fn start(processes: &[Process], file: PathBuf) -> Option<Self> {
        let mut command = Command::new("strace");
        // With the time of each call, and with the flags that distinguish a fork from a new thread.
        command.args(["-f", "-qq", "-ttt", "-s", "0", "-e", "signal=none", "-o"]).arg(&file);
        for process in processes {
            command.args(["-p", &process.0.to_string()]);
        }
        let strace = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        Some(Self { strace, file })
    }

    fn has_ended(&mut self) -> bool {
        !self.strace.try_wait().is_ok_and(|status| status.is_none())
    }

    fn end(&mut self) {
        let limit = Instant::now() + ATTACH_TIMEOUT;
        while !self.has_ended() && Instant::now() < limit {
            Process(i32::try_from(self.strace.id()).unwrap()).signal(Signal::SIGINT);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.end();
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// How often each system call was made.
#[derive(Debug, Default)]
pub struct Calls {
    by_name: BTreeMap<String, u64>,
    /// How many of the calls created a process.
    pub forks: u64,
}

impl Calls {
    fn parse(text: &str, from: Duration, to: Duration) -> Self {
        let mut calls = Self::default();
        for line in text.lines() {
            calls.count(line, from, to);
        }
        calls
    }

    /// A line is `PID SECONDS NAME(ARGUMENTS…`; whatever else strace writes has no name before its first parenthesis.
    fn count(&mut self, line: &str, from: Duration, to: Duration) -> Option<()> {
        let (_, rest) = line.split_once(' ')?;
        let (time, call) = rest.trim_start().split_once(' ')?;
        let time = Duration::try_from_secs_f64(time.parse().ok()?).ok()?;
        let (name, arguments) = call.split_once('(')?;
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if is_name && from <= time && time < to {
            *self.by_name.entry(name.to_owned()).or_default() += 1;
            let forks = ["fork", "vfork", "clone", "clone3"].contains(&name) && !arguments.contains("CLONE_THREAD");
            self.forks += u64::from(forks);
        }
        Some(())
    }

    pub fn total(&self) -> u64 {
        self.by_name.values().sum()
    }

    pub fn most_frequent(&self) -> String {
        let mut all: Vec<(&String, &u64)> = self.by_name.iter().collect();
        all.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let told: Vec<String> = all.iter().take(TOLD).map(|(name, count)| format!("{name} {count}")).collect();
        told.join(", ") + if all.len() > TOLD { ", …" } else { "" }
    }
}
