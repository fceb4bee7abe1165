//! Figures that the kernel keeps of processes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::iter::{Sum, successors};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// A process, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub i32);

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub resident: u64,
    /// Proportional: each page is divided by the number of processes that share it.
    pub proportional: u64,
    /// Pages that no other process shares.
    pub private: u64,
}

/// The cost of a process so far.
#[derive(Clone, Debug)]
pub struct Spent {
    /// Of all its threads, in user mode and in the kernel.
    time: Duration,
    /// The context switches of its present threads, voluntary or not. The count of a thread that ends is lost.
    switches: HashMap<OsString, u64>,
}

/// The cost of processes between two points in time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub time: Duration,
    pub switches: u64,
}

impl Spent {
    pub fn since(&self, before: &Self) -> Cost {
        let earlier = |thread| before.switches.get(thread).unwrap_or(&0);
        let switches = self.switches.iter().map(|(thread, count)| count - earlier(thread)).sum();
        Cost { time: self.time.saturating_sub(before.time), switches }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), |a, b| Self { time: a.time + b.time, switches: a.switches + b.switches })
    }
}

impl Process {
    pub fn all() -> impl Iterator<Item = Self> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Self))
    }

    fn file(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    fn read(self, name: &str) -> Option<String> {
        fs::read_to_string(self.file(name)).ok()
    }

    pub fn signal(self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.0), signal);
    }

    /// A zombie does not.
    pub fn lives(self) -> bool {
        self.read("stat").is_some_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
    }

    pub fn parent(self) -> Option<Self> {
        number(&self.read("status")?, "PPid:").and_then(|pid| i32::try_from(pid).ok()).filter(|&pid| pid > 0).map(Self)
    }

    pub fn children(self) -> Vec<Self> {
        Self::all().filter(|process| process.parent() == Some(self)).collect()
    }

    /// From the parent upwards.
    fn ancestors(self) -> impl Iterator<Item = Self> {
        successors(self.parent(), |process| process.parent())
    }

    /// It, and everything below it.
    pub fn tree(self) -> Vec<Self> {
        let mut tree = vec![self];
        tree.extend(self.children().into_iter().flat_map(Self::tree));
        tree
    }

    /// Whether this is its first argument.
    pub fn has_argument(self, word: &str) -> bool {
        self.read("cmdline").is_some_and(|line| line.split('\0').nth(1) == Some(word))
    }

    pub fn is_tmux(self) -> bool {
        self.read("comm").is_some_and(|name| name.starts_with("tmux"))
    }

    /// Whether it works in that folder or has it in its command line.
    pub fn is_of(self, folder: &Path) -> bool {
        self.read("cmdline").is_some_and(|line| line.contains(folder.to_str().unwrap()))
            || fs::read_link(self.file("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
    }

    pub fn spent(self) -> Spent {
        let time =
            clock_getcpuclockid(Pid::from_raw(self.0)).and_then(clock_gettime).expect("the process lives").into();
        let threads = fs::read_dir(self.file("task")).expect("the process lives").flatten();
        let switches = threads.filter_map(|thread| {
            let status = fs::read_to_string(thread.path().join("status")).ok()?;
            let of = |key| number(&status, key);
            Some((thread.file_name(), of("voluntary_ctxt_switches:")? + of("nonvoluntary_ctxt_switches:")?))
        });
        Spent { time, switches: switches.collect() }
    }

    /// `None` if this user may not know.
    pub fn memory(self) -> Option<Memory> {
        let text = self.read("smaps_rollup")?;
        let bytes = |key| number(&text, key).map(|kib| kib << 10);
        let private = bytes("Private_Clean:")? + bytes("Private_Dirty:")?;
        Some(Memory { resident: bytes("Rss:")?, proportional: bytes("Pss:")?, private })
    }

    /// Whether a debugger such as strace is attached.
    pub fn is_traced(self) -> bool {
        self.read("status").and_then(|status| number(&status, "TracerPid:")).is_some_and(|tracer| tracer != 0)
    }
}

fn number(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// The processes that keep agents running, by role. The agents' own processes are not among them.
#[derive(Clone, Debug)]
pub struct Roles(pub Vec<(&'static str, Vec<Process>)>);

impl Roles {
    /// Those of one role.
    pub fn only(self, role: &str) -> Self {
        Self(self.0.into_iter().filter(|(name, _)| *name == role).collect())
    }

    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.0.iter().flat_map(|(_, processes)| processes)
    }

    /// Recognizes launchers by their position alone: every process between tmux and a harness is one.
    pub fn of(daemon: Process, harnesses: &[i32]) -> Self {
        let above = |&pid: &i32| Process(pid).ancestors();
        let launchers = harnesses.iter().flat_map(|pid| above(pid).take_while(|process| !process.is_tmux())).collect();
        let tmux = harnesses.first().and_then(|pid| above(pid).find(|process| process.is_tmux()));
        Self(vec![
            ("daemon", vec![daemon]),
            ("deputy", daemon.children()),
            ("launchers", launchers),
            ("tmux", tmux.into_iter().collect()),
        ])
    }
}
