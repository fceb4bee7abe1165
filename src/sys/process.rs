//! Processes: their identity, their end, and killing them with all descendants.
//!
//! A process id is reused; a pidfd is not. So nothing here signals a process id: the id is first turned into a pidfd, what was
//! known about the id is checked again while the pidfd is held, and the signal goes to the pidfd (`pidfd_open(2)`,
//! `pidfd_send_signal(2)`).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Uid;
pub use rustix::process::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::sys::fd::Readable;
use crate::sys::procfs::{self, Stat};

/// Identifies a process for as long as the machine runs, for this daemon and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    pid: i32,
    /// See [`Stat`].
    started: u64,
}

impl Identity {
    /// Opens the process if it has not ended. An error means that this could not be determined.
    pub fn open(self) -> io::Result<Option<Process>> {
        Ok(Process::find(self.pid)?.filter(|process| process.started == self.started))
    }

    /// The process id, which is valid only until the process is reaped.
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// When the process was started, on the boot clock, rounded down to a tick of the kernel's clock.
    pub fn started(self) -> Duration {
        // The answer that `sysconf(3)` always gives on Linux, in case it fails.
        const USUAL: u64 = 100;
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
        let in_a_second = ticks.and_then(|ticks| u64::try_from(ticks).ok()).filter(|&ticks| ticks > 0).unwrap_or(USUAL);
        Duration::from_secs(self.started / in_a_second)
            + Duration::from_secs(self.started % in_a_second) / u32::try_from(in_a_second).unwrap_or(u32::MAX)
    }

    /// The process's parent, if the process has ended and the parent has not reaped it. An error means that this could not be
    /// determined.
    pub fn unwaited_for_by(self) -> io::Result<Option<i32>> {
        let left = look(self.pid)?.filter(|stat| stat.zombie && stat.started == self.started);
        Ok(left.map(|stat| stat.parent))
    }

    /// Kills the processes of `owner` in the session that the process leads or led, until there are none. Returns how many the
    /// last scan found.
    ///
    /// For processes that remain when a launcher is killed. The kernel gives no new process the id of a session that has members.
    pub fn kill_session(self, owner: Uid) -> usize {
        let own = std::process::id().cast_signed();
        let is_of_it = |pid| pid != own && stat(pid).is_some_and(|stat| stat.session == self.pid);
        until_none(|| {
            // Another process has the id by now, and may lead another session.
            if look(self.pid)?.is_some_and(|stat| stat.started != self.started) {
                return Ok(0);
            }
            let mut alive = 0;
            each(|pid| {
                let is_other = pid != self.pid && is_of_it(pid);
                alive += usize::from(is_other && kill_if(pid, |pid| is_of_it(pid) && runs_as(pid, owner)));
            })?;
            Ok(alive)
        })
    }
}

/// One process, whatever becomes of its id.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
    /// See [`Stat`].
    started: u64,
}

impl Process {
    /// Opens the process that has this id now.
    pub fn open(pid: i32) -> io::Result<Self> {
        let id = Pid::from_raw(pid).filter(|_| pid > 1).ok_or(io::ErrorKind::InvalidInput)?;
        Self::from_pidfd(pid, pidfd_open(id, PidfdFlags::empty())?)
    }

    /// Finds the process that has this id now, if it is alive. An error means that this could not be determined.
    pub fn find(pid: i32) -> io::Result<Option<Self>> {
        Ok(Self::find_with_parent(pid)?.map(|(process, _)| process))
    }

    /// Finds the process and its parent.
    fn find_with_parent(pid: i32) -> io::Result<Option<(Self, i32)>> {
        let Some(id) = Pid::from_raw(pid).filter(|_| pid > 1) else { return Ok(None) };
        let pidfd = match pidfd_open(id, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            pidfd => pidfd?,
        };
        let Some(Stat { started, parent, .. }) = look(pid)? else { return Ok(None) };
        let process = Self { pid, pidfd, started };
        // Checked last: the process is alive, so it has had this id all along.
        Ok(process.lives()?.then_some((process, parent)))
    }

    /// The process behind a pidfd that the kernel gave for this id. It must not have ended: its id may belong to another process.
    pub fn from_pidfd(pid: i32, pidfd: OwnedFd) -> io::Result<Self> {
        let started = look(pid)?.ok_or(io::ErrorKind::NotFound)?.started;
        let process = Self { pid, pidfd, started };
        // Checked last: the process is alive, so it has had this id all along.
        if process.lives()? { Ok(process) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Whether the process has not ended. A pidfd becomes readable when its process ends.
    pub fn lives(&self) -> io::Result<bool> {
        let mut descriptors = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut descriptors, PollTimeout::ZERO)? == 0)
    }

    /// Whether the process has this real user id. The process must be alive.
    pub fn runs_as(&self, user: Uid) -> io::Result<bool> {
        Ok(real_user(self.pid)? == Some(user) && self.lives()?)
    }

    /// The process id, which is valid only until the process is reaped.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The identity to find the process by later.
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, started: self.started }
    }

    /// The process's parent; `None` if the process has ended.
    pub fn parent(&self) -> Option<i32> {
        stat(self.pid).filter(|stat| stat.started == self.started).map(|stat| stat.parent)
    }

    /// Kills the process. Succeeds if it has already ended.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Sends the process a signal. Succeeds if it has already ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the process's end, with a separate pidfd. Must be called inside the async runtime.
    pub fn watch(&self) -> io::Result<Readable> {
        Readable::new(self.pidfd.try_clone()?)
    }

    /// Kills all descendants until there are none: those started meanwhile are found by the next scan.
    ///
    /// The process itself is spared. Returns how many the last scan found.
    ///
    /// Complete for a process that is the reaper of its descendants (`PR_SET_CHILD_SUBREAPER(2const)`), as a launcher is:
    /// whatever they do, they stay below it. User ids do not matter: a process that an agent starts through a set-user-ID
    /// program, or in a user namespace, belongs to the agent.
    pub fn kill_descendants(&self) -> usize {
        until_none(|| {
            let mut alive = 0;
            self.descend(|pid| alive += usize::from(kill_if(pid, |pid| self.is_ancestor_of(pid))))?;
            Ok(alive)
        })
    }

    /// Whether a child that the process has not given away is alive.
    pub fn has_living_children(&self) -> io::Result<bool> {
        Ok(children(self.pid)?.into_iter().any(|pid| look(pid).map_or(true, |it| it.is_some_and(|it| !it.zombie))))
    }

    /// Whether a process id that the process reported for a descendant can be true: such a process is below it, or has ended.
    pub fn is_plausibly_below(&self, pid: i32) -> bool {
        if pid <= 1 {
            return false;
        }
        // In this order, since it may end between the two checks. A process that cannot be examined has not ended.
        self.is_ancestor_of(pid) || matches!(look(pid), Ok(None))
    }

    /// Whether the process leads a session, in which case it started everything in the session.
    pub fn leads_session(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && stat.session == self.pid)
    }

    /// The identity of a descendant with this id.
    pub fn find_below(&self, pid: i32) -> Option<Identity> {
        let (found, parent) = Self::find_with_parent(pid).ok()??;
        // It was alive when that was its parent. The ancestors are examined now, so it must still be alive afterwards.
        let is_child = parent == self.pid && self.has_its_id();
        let is_below = is_child || (self.is_ancestor_of(pid) && found.lives().ok()?);
        is_below.then(|| found.identity())
    }

    /// Passes on each descendant, and looks for its children only afterwards: a killed process starts no more.
    fn descend(&self, mut hand_on: impl FnMut(i32)) -> io::Result<()> {
        let mut seen = BTreeSet::new();
        let mut ahead = children(self.pid)?;
        while let Some(pid) = ahead.pop() {
            if seen.insert(pid) {
                hand_on(pid);
                ahead.extend(children(pid)?);
            }
        }
        Ok(())
    }

    fn is_ancestor_of(&self, pid: i32) -> bool {
        const DEPTH: usize = 10_000;
        let mut at = pid;
        for _ in 0..DEPTH {
            if at == self.pid {
                // Checked last: the id still belonged to this process while it was its ancestor.
                return self.has_its_id();
            }
            match stat(at) {
                Some(stat) if stat.parent > 1 => at = stat.parent,
                _ => return false,
            }
        }
        false
    }

    /// Whether no other process can have the id yet.
    fn has_its_id(&self) -> bool {
        // The pidfd is faster than a file that the kernel has to generate.
        self.lives().unwrap_or(false) || stat(self.pid).is_some_and(|stat| stat.started == self.started)
    }
}

/// The kernel's information about a process; `None` also if it could not be determined.
fn stat(pid: i32) -> Option<Stat> {
    look(pid).ok().flatten()
}

/// The kernel's information about a process; `None` if the process does not exist, an error if that could not be determined.
fn look(pid: i32) -> io::Result<Option<Stat>> {
    read(pid, "stat")?.map(|text| Stat::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())).transpose()
}

/// Reads a file of the process in `/proc`; `None` if the process does not exist, or has ended.
fn read(pid: i32, file: &str) -> io::Result<Option<Vec<u8>>> {
    match procfs::read(format!("/proc/{pid}/{file}")) {
        Err(error) if is_gone(&error) => Ok(None),
        text => text.map(Some),
    }
}

/// The children of a process; none if it has ended.
fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for thread in numbers(Path::new(&format!("/proc/{pid}/task")))? {
        if let Some(list) = read(pid, &format!("task/{thread}/children"))? {
            children.extend(procfs::numbers(&list).ok_or(io::ErrorKind::InvalidData)?);
        }
    }
    Ok(children)
}

/// The names in a directory that are numbers; none if it is gone.
pub fn numbers(directory: &Path) -> io::Result<Vec<i32>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => numbers.extend(entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(numbers)
}

/// Passes on the id of every process, until all have been passed on: a process that starts another and ends meanwhile is
/// followed.
///
/// If processes appear faster than they can be examined, the latest are left out. An error means that not all could be
/// determined.
pub fn each(mut hand_on: impl FnMut(i32)) -> io::Result<()> {
    const ROUNDS: usize = 50;
    let mut seen = BTreeSet::new();
    for _ in 0..ROUNDS {
        let mut new = numbers(Path::new("/proc"))?;
        new.retain(|&pid| seen.insert(pid));
        if new.is_empty() {
            break;
        }
        new.into_iter().for_each(&mut hand_on);
    }
    Ok(())
}

/// Kills the process if it is still the intended one: `belongs` is called while a pidfd is held.
///
/// Returns whether it was, and had not ended yet, as far as that could be determined.
fn kill_if(pid: i32, belongs: impl Fn(i32) -> bool) -> bool {
    match Process::find(pid) {
        Ok(Some(process)) => !stat(pid).is_none_or(|stat| stat.zombie) && belongs(pid) && process.kill().is_ok(),
        Ok(None) => false,
        Err(_) => true,
    }
}

/// Scans, and kills what is found, until a scan finds nothing, for a limited time.
///
/// A process that forks quickly takes several scans. Returns how many the last scan found. A failed scan counts as having found
/// something.
fn until_none(look: impl Fn() -> io::Result<usize>) -> usize {
    const KILL_TIMEOUT: Duration = Duration::from_secs(1);
    const PAUSE: Duration = Duration::from_millis(10);
    let start = Instant::now();
    loop {
        let seen = look().unwrap_or_else(|_| {
            std::thread::sleep(PAUSE);
            1
        });
        if seen == 0 || start.elapsed() > KILL_TIMEOUT {
            return seen;
        }
    }
}

/// Whether the process has this real user id, see `proc_pid_status(5)`.
pub fn runs_as(pid: i32, owner: Uid) -> bool {
    real_user(pid).is_ok_and(|user| user == Some(owner))
}

/// The process's real user id; `None` if the process does not exist, an error if that could not be determined.
pub fn real_user(pid: i32) -> io::Result<Option<Uid>> {
    let Some(status) = read(pid, "status")? else { return Ok(None) };
    procfs::real_user(&status).map(|user| Some(Uid::from_raw(user))).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether the error means that the process has ended, before the file was opened or after.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// For tests: waits until the condition is true, but not forever.
#[cfg(test)]
pub(crate) fn until(condition: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < limit, "the condition did not come true");
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use rstest::rstest;

    use super::*;

    fn shell(script: &str) -> Child {
        Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap()
    }

    #[test]
    fn a_process_was_started_when_the_boot_clock_says() {
        const TICK: Duration = Duration::from_millis(10);
        let before = crate::sys::clock::Timestamp::now().boot();
        let mut child = shell("sleep 1000");
        let after = crate::sys::clock::Timestamp::now().boot();
        let started = Process::open(child.id().cast_signed()).unwrap().identity().started();
        assert!(before <= started + TICK && started <= after, "{before:?} {started:?} {after:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn this_process_is_its_own_user() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(runs_as(pid, Uid::effective()));
        assert!(!runs_as(pid, Uid::from_raw(54_321)));
    }

    fn process(child: &Child) -> Process {
        Process::open(i32::try_from(child.id()).unwrap()).unwrap()
    }

    fn descendants(process: &Process) -> Vec<i32> {
        let mut all = Vec::new();
        process.descend(|pid| all.push(pid)).unwrap();
        all
    }

    fn session(leader: Identity) -> usize {
        let is_of_it = |pid| stat(pid).is_some_and(|stat| stat.session == leader.pid && !stat.zombie);
        let mut members = 0;
        each(|pid| members += usize::from(pid != leader.pid && is_of_it(pid))).unwrap();
        members
    }

    #[test]
    fn a_whole_tree_is_killed_and_its_root_spared() {
        let mut child = shell("sleep 1000 & (sleep 1000; true) & wait; exec sleep 1000");
        let root = process(&child);
        until(|| descendants(&root).len() >= 3);
        until(|| root.kill_descendants() == 0);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A shell of that name, with a child of that name. The name need not be text.
    fn named(name: &[u8], folder: &Path) -> Child {
        let program = folder.join(OsStr::from_bytes(name));
        std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
        Command::new(program)
            .args(["-c", "exec 3<&0; setsid \"$0\" -c 'read line <&3' & read line"])
            .arg(folder.join(OsStr::from_bytes(name)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    #[rstest]
    #[case::no_utf_8(b"\xff\xfe")]
    #[case::cut_in_a_letter("a\u{6d4b}\u{8bd5}\u{7a0b}\u{5e8f}\u{8fd0}".as_bytes())]
    #[case::forged(b"x) R 1 1 1")]
    #[case::a_line_feed(b"x\nUid:\t0")]
    fn a_process_of_any_name_is_found_and_killed(#[case] name: &[u8]) {
        let folder = tempfile::tempdir().unwrap();
        let mut child = named(name, folder.path());
        let root = process(&child);
        until(|| descendants(&root).len() == 1);
        let below = descendants(&root)[0];
        // After its execve(2).
        until(|| read(below, "comm").unwrap().is_some_and(|comm| comm[..2] == name[..2]));
        assert!(root.runs_as(Uid::current()).unwrap() && root.is_plausibly_below(below));
        assert_eq!(root.find_below(below).unwrap().pid(), below);
        let start = Instant::now();
        assert_eq!(root.kill_descendants(), 0);
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_of_any_name_is_not_below_an_unrelated_one() {
        let folder = tempfile::tempdir().unwrap();
        let (mut one, mut other) = (shell("exec sleep 1000"), named(b"\xff\xfe", folder.path()));
        assert!(!process(&one).is_plausibly_below(process(&other).pid()));
        assert!(process(&one).is_plausibly_below(i32::MAX), "it has ended");
        for child in [&mut one, &mut other] {
            process(child).kill_descendants();
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_process_that_is_not_below_is_spared() {
        let (mut one, mut other) = (shell("sleep 1000 & wait"), shell("exec sleep 1000"));
        assert!(!process(&one).is_ancestor_of(process(&other).pid()));
        until(|| !descendants(&process(&one)).is_empty());
        assert!(process(&one).is_ancestor_of(descendants(&process(&one))[0]));
        until(|| process(&one).kill_descendants() == 0);
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        one.wait().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn the_owners_processes_left_in_a_session_are_killed() {
        let mut leader = Command::new("setsid")
            .args(["sh", "-c", "sleep 1000 & wait"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = process(&leader).identity();
        until(|| session(process) == 1);
        leader.kill().unwrap();
        leader.wait().unwrap();
        process.kill_session(Uid::from_raw(54_321));
        assert_eq!(session(process), 1);
        assert_eq!(process.kill_session(Uid::effective()), 0);
        assert_eq!(session(process), 0);
    }

    #[test]
    fn only_the_same_process_is_found_by_its_identity() {
        let mut child = shell("exec sleep 1000");
        let identity = process(&child).identity();
        assert_eq!(identity.open().unwrap().unwrap().pid(), identity.pid);
        assert!(Identity { started: identity.started + 1, ..identity }.open().unwrap().is_none());
        child.kill().unwrap();
        // Dead, although not reaped yet.
        until(|| identity.open().unwrap().is_none());
        child.wait().unwrap();
        assert!(identity.open().unwrap().is_none());
        assert!(Identity { pid: 0, started: 0 }.open().unwrap().is_none());
    }

    #[tokio::test]
    async fn the_end_of_a_process_that_is_not_a_child_is_noticed() {
        let mut child = shell("exec sleep 1000");
        let process = process(&child);
        let end = process.watch().unwrap();
        process.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(10), end.readable()).await.unwrap().unwrap();
        child.wait().unwrap();
        assert!(process.kill().is_ok());
    }
}
