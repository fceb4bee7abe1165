//! Control groups (`cgroups(7)`, version 2): the kernel's own list of every process descended from a launcher.
//!
//! ```text
//! /sys/fs/cgroup/…/agentd.var-lib-agentd   this daemon's, and the next one's: named after the state directory
//!                   └─ reviewer            an agent's
//!                       └─ tree            its launcher and all its descendants
//! ```
//!
//! A process is born into its parent's group, and only root can move it to another, because the files belong to root. A launcher is
//! put into its group before it starts anything. So none of its descendants leaves the group, whatever they do to their parent,
//! session, environment or user id. A group is killed at one stroke (`cgroup.kill`, since Linux 5.14), which no process outruns by
//! forking.
//!
//! These groups are below the daemon's own, so limits and accounting that are meant for the daemon and its agents, such as those of a
//! container, still apply. Where systemd runs, only systemd may arrange groups, and it removes what is below a service together with
//! the service, while agents outlive the daemon. There an agent's group is that of a scope: systemd creates it with the launcher in it
//! and removes it when it is empty, and agentd creates only `tree`.
//!
//! ```text
//! /sys/fs/cgroup/agentd.slice
//!                └─ agentd-reviewer.scope  an agent's
//!                    └─ tree               its launcher and all its descendants
//! ```
//!
//! Everything here blocks: for some milliseconds when the kernel has to wait for all processors.

mod mount;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Uid, getpid};

use self::mount::{escape, group_of, processes, read};
use crate::agent::name::Key;
use crate::contain::scope;
use crate::sys::PathError;
use crate::sys::process::Process;
use crate::sys::procfs::{self, Mount};
use crate::sys::systemd;
use crate::wire::status::{Resources, Usage};

/// How long a killed group may take to become empty. Only a process stuck in the kernel takes long.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long systemd may take to put a process into a scope.
const SCOPE_TIMEOUT: Duration = Duration::from_secs(5);

/// The state directory of the daemon whose scopes have the plain names.
const DEFAULT_STATE_DIR: &str = "/var/lib/agentd";

/// A unit's name may have 255 bytes (`systemd.unit(5)`), and an agent's 64.
const LONGEST_SUFFIX: usize = 255 - "agentd-".len() - ".scope".len() - 64;

/// The part of an agent's group that is killed while the launcher is spared.
const TREE: &str = "tree";

/// Why a group cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only root can create groups.
    #[error("only root can make control groups")]
    NotRoot,
    /// The name would be too long for systemd.
    #[error("the path of the state directory is too long for the names of scopes")]
    LongName,
    /// systemd did not put the process into its scope.
    #[error("process {pid} is not in {} after {}", path.display(), humantime::format_duration(SCOPE_TIMEOUT))]
    NotThere {
        /// The process.
        pid: i32,
        /// The group.
        path: PathBuf,
    },
    /// No file system of groups is mounted, or it does not answer.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// The process ended before it was in the group.
    #[error("failed to put process {0} into a control group: it has ended")]
    Ended(i32),
    /// The group was killed but is not empty.
    #[error("failed to empty the control group {}: processes {alive:?} do not die", path.display())]
    Alive {
        /// The group.
        path: PathBuf,
        /// The process ids of its members.
        alive: BTreeSet<i32>,
    },
    /// The kernel refused something.
    #[error(transparent)]
    System(#[from] PathError),
}

impl Error {
    /// Whether this machine has no groups for agentd at all, as opposed to groups that became unavailable.
    pub fn is_of_the_place(&self) -> bool {
        match self {
            Self::NotRoot | Self::Mount(mount::Error::NotMounted) => true,
            Self::System(PathError { source, .. }) | Self::Mount(mount::Error::System(PathError { source, .. })) => {
                let number = source.raw_os_error().map(Errno::from_raw);
                matches!(number, Some(Errno::EROFS | Errno::EACCES | Errno::EPERM | Errno::ENOENT))
            }
            Self::LongName | Self::NotThere { .. } | Self::Ended(_) | Self::Alive { .. } => false,
        }
    }
}

/// The group that contains the groups of a daemon's agents.
#[derive(Debug)]
pub struct Cgroups {
    /// The daemon's own group.
    own: PathBuf,
    directory: PathBuf,
    arranger: Arranger,
    mount: Mount,
}

/// The owner of a process's control group. Only root can move a process to another group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The agent in question.
    Its,
    /// Another agent.
    Anothers,
    /// No agent.
    Nobodys,
}

/// What creates and removes an agent's group.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Arranger {
    /// This daemon. The containing group is removed with the last handle, if it is empty then.
    Daemon,
    /// systemd. The names of scopes have this suffix before `.scope`.
    Systemd { suffix: String },
}

impl Cgroups {
    /// Creates the group, or finds that of an earlier daemon with this state directory.
    ///
    /// Two daemons are distinguished by the path of the state directory, which must be absolute.
    pub fn of(state_dir: &Path) -> Result<Self, Error> {
        if !Uid::effective().is_root() {
            return Err(Error::NotRoot);
        }
        let (mounts, path) = (read("/proc/self/mountinfo".as_ref())?, group_of("self")?);
        let (mount, own) = mount::own(&mounts, &path)?;
        if systemd::is_booted() {
            let suffix = match state_dir {
                _ if state_dir == Path::new(DEFAULT_STATE_DIR) => String::new(),
                other => format!(":{}", escape(other)),
            };
            if suffix.len() > LONGEST_SUFFIX {
                return Err(Error::LongName);
            }
            // systemd itself is in this group, at the top of all its groups.
            let init = group_of("1")?;
            let top = if init.ends_with("init.scope") { init.parent().unwrap_or(&init) } else { &init };
            let directory = mount.place(&top.join(scope::SLICE)).ok_or(mount::Error::NotMounted)?;
            return Ok(Self { own, directory, arranger: Arranger::Systemd { suffix }, mount });
        }
        let directory = own.join(format!("agentd.{}", escape(state_dir)));
        make(&directory)?;
        Ok(Self { own, directory, arranger: Arranger::Daemon, mount })
    }

    /// The group's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name of the scope of the agent with this key, if systemd arranges groups.
    pub fn scope(&self, key: &Key) -> Option<String> {
        match &self.arranger {
            Arranger::Daemon => None,
            Arranger::Systemd { suffix } => Some(format!("agentd-{key}{suffix}.scope")),
        }
    }

    /// The owner of the process's group; `key` belongs to the agent in question. The process must not have ended.
    pub fn whose(&self, key: &Key, process: &Process) -> Result<Whose, Error> {
        let group = group_of(&process.pid().to_string())?;
        // Checked last: the id was this process's all along.
        if !process.lives().unwrap_or(false) {
            return Err(Error::Ended(process.pid()));
        }
        let place = self.mount.place(&group).unwrap_or_default();
        Ok(if place.starts_with(self.agent(key).directory) {
            Whose::Its
        } else if place.starts_with(&self.directory) && place != self.directory {
            Whose::Anothers
        } else {
            Whose::Nobodys
        })
    }

    /// The group of the agent with this key, whether it exists or not.
    pub fn agent(&self, key: &Key) -> Cgroup {
        let scope = self.scope(key);
        let directory = self.directory.join(scope.as_deref().unwrap_or(key.as_str()));
        Cgroup { outside: self.own.clone(), directory, is_scope: scope.is_some() }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if self.arranger == Arranger::Daemon {
            // Fails if agents outlive this daemon.
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

/// One agent's group.
#[derive(Debug)]
pub struct Cgroup {
    /// The group for processes that are in it by mistake.
    outside: PathBuf,
    directory: PathBuf,
    /// Whether systemd creates and removes it.
    is_scope: bool,
}

impl Cgroup {
    /// Warms up the kernel's path for [`Cgroup::admit`]. The first move of a process costs about ten milliseconds, because the kernel
    /// waits for all processors; a second one soon after does not. So this process is moved to where it already is.
    pub fn make_ready(&self) {
        // If this fails, moving the launcher takes longer.
        let _ = enter(&self.outside, getpid().as_raw());
    }

    /// Creates the group and moves a launcher into it that has started nothing yet. If the group is a scope's, systemd was asked
    /// to do so.
    pub fn admit(&self, launcher: &Process) -> Result<(), Error> {
        if self.is_scope {
            self.await_in_scope(launcher)?;
        } else {
            make(&self.directory)?;
        }
        make(&self.tree())?;
        self.put(launcher, &self.tree())
    }

    fn await_in_scope(&self, launcher: &Process) -> Result<(), Error> {
        let limit = Instant::now() + SCOPE_TIMEOUT;
        let is_there = || processes(&self.directory).is_ok_and(|all| all.contains(&launcher.pid()));
        while !is_there() {
            if !launcher.lives().unwrap_or(false) {
                return self.put_out(&self.directory, launcher);
            }
            if Instant::now() > limit {
                return Err(Error::NotThere { pid: launcher.pid(), path: self.directory.clone() });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The resources that the attempt has used so far.
    pub fn usage(&self) -> Usage {
        let file = |name: &str| read(&self.directory.join(name)).ok();
        Usage {
            oom_kills: file("memory.events").and_then(|events| procfs::value(&events, "oom_kill")).unwrap_or(0),
            cpu_usec: file("cpu.stat").and_then(|stat| procfs::value(&stat, "usage_usec")),
            memory_peak: file("memory.peak").and_then(|peak| procfs::number(peak.trim_ascii())),
            printed: None,
        }
    }

    /// The resources that it uses at the moment.
    pub fn resources(&self) -> Resources {
        let file = |name: &str| read(&self.directory.join(name)).ok();
        let number = |name: &str| procfs::number(file(name)?.trim_ascii());
        Resources {
            cpu_usec: file("cpu.stat").and_then(|stat| procfs::value(&stat, "usage_usec")),
            memory: number("memory.current"),
            memory_max: number("memory.max"),
            tasks: number("pids.current"),
            tasks_max: number("pids.max"),
        }
    }

    /// Kills all processes except the launcher, which reports how its harness ended. A group that does not exist is empty.
    pub fn kill_but(&self, launcher: &Process) -> Result<(), Error> {
        if !self.tree().is_dir() {
            return Ok(());
        }
        match self.put(launcher, &self.directory) {
            Ok(()) | Err(Error::Ended(_)) => empty(&self.tree()),
            Err(error) => Err(error),
        }
    }

    /// Kills all processes and removes the group. A group that does not exist counts as cleared.
    pub fn clear(&self) -> Result<(), Error> {
        empty(&self.directory)?;
        remove(&self.tree())?;
        if self.is_scope { Ok(()) } else { remove(&self.directory) }
    }

    fn tree(&self) -> PathBuf {
        self.directory.join(TREE)
    }

    /// Moves a process into a group by its id, which must still be its own afterwards.
    fn put(&self, process: &Process, group: &Path) -> Result<(), Error> {
        let lives = || process.lives().unwrap_or(false);
        if !lives() {
            return Err(Error::Ended(process.pid()));
        }
        let moved = enter(group, process.pid());
        if lives() {
            return moved;
        }
        self.put_out(group, process)
    }

    /// Moves out a process that has the id of a launcher that has ended: it got in by mistake. The launcher left no descendants
    /// there.
    fn put_out(&self, group: &Path, launcher: &Process) -> Result<(), Error> {
        for stranger in processes(group).unwrap_or_default() {
            enter(&self.outside, stranger)?;
        }
        Err(Error::Ended(launcher.pid()))
    }
}

fn make(group: &Path) -> Result<(), Error> {
    match fs::create_dir(group) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(PathError::new("make the control group", group, source).into())
        }
        _ => Ok(()),
    }
}

fn remove(group: &Path) -> Result<(), Error> {
    match fs::remove_dir(group) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PathError::new("remove the control group", group, source).into())
        }
        _ => Ok(()),
    }
}

fn enter(group: &Path, pid: i32) -> Result<(), Error> {
    let path = group.join("cgroup.procs");
    Ok(fs::write(&path, pid.to_string()).map_err(PathError::of("move a process with", &path))?)
}

/// Kills everything in the group and below, and waits until it is dead.
fn empty(group: &Path) -> Result<(), Error> {
    let limit = Instant::now() + EMPTY_TIMEOUT;
    let mut wait = Duration::ZERO;
    while !is_empty_within(group, wait)? {
        if Instant::now() > limit {
            let alive = parts(group).iter().filter_map(|part| processes(part).ok()).flatten().collect();
            return Err(Error::Alive { path: group.to_owned(), alive });
        }
        kill(group)?;
        wait = Duration::from_millis(100);
    }
    Ok(())
}

/// Kills everything in the group and below, including processes that are being forked. On kernels too old for that, kills those
/// that were there when listed.
fn kill(group: &Path) -> Result<(), Error> {
    let path = group.join("cgroup.kill");
    match fs::write(&path, "1") {
        Err(source) if is_gone(&source) => {
            parts(group).iter().filter(|part| part.is_dir()).try_for_each(|part| kill_each(part))
        }
        result => Ok(result.map_err(PathError::of("kill with", &path))?),
    }
}

/// A group, and the group that may be below it.
fn parts(group: &Path) -> [PathBuf; 2] {
    [group.to_owned(), group.join(TREE)]
}

/// Kills the processes directly in the group.
fn kill_each(group: &Path) -> Result<(), Error> {
    let held: Vec<Process> = processes(group)?.into_iter().filter_map(|pid| Process::open(pid).ok()).collect();
    // Read again while the processes are held: an id in the list is theirs if they are alive afterwards.
    let present = processes(group)?;
    for process in held.iter().filter(|process| present.contains(&process.pid())) {
        if process.lives().unwrap_or(false) {
            process.kill().map_err(PathError::of("kill a process of", group))?;
        }
    }
    Ok(())
}

/// Whether this error means that the group does not exist, or no longer does.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

/// Whether the group and those below become empty within that time. A group that does not exist is empty.
fn is_empty_within(group: &Path, time: Duration) -> Result<bool, Error> {
    let path = group.join("cgroup.events");
    let limit = Instant::now() + time;
    let wait = || -> io::Result<bool> {
        let mut events = File::open(&path)?;
        loop {
            let mut text = Vec::new();
            events.rewind()?;
            events.read_to_end(&mut text)?;
            if procfs::value(&text, "populated") == Some(0) {
                return Ok(true);
            }
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            // The file has changed since it was read.
            let mut descriptors = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
            match poll(&mut descriptors, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    match wait() {
        // The group was removed, as systemd does at once with a scope's.
        Err(source) if is_gone(&source) => Ok(true),
        result => Ok(result.map_err(PathError::of("wait with", &path))?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::agent::name::key;
    use crate::sys::process::until;

    /// Groups for this test; `None` where they are not available, which this does not test.
    fn groups(name: &str) -> Option<Cgroups> {
        let path = std::env::temp_dir().join(format!("agentd-{name}-{}", std::process::id()));
        let groups = Cgroups::of(&path).inspect_err(|error| eprintln!("skipped: {error}")).ok();
        let groups = groups.filter(|groups| groups.arranger == Arranger::Daemon);
        assert!(groups.is_some() || std::env::var("CI").as_deref() != Ok("true"), "CI must have control groups");
        groups
    }

    fn shell(script: &str) -> (Child, Process) {
        let child = Command::new("setsid")
            .args(["sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process::open(i32::try_from(child.id()).unwrap()).unwrap();
        (child, process)
    }

    #[test]
    fn a_launcher_is_spared_when_the_rest_is_killed() {
        let Some(groups) = groups("spared") else { return };
        let (mut child, launcher) = shell("read go; setsid sleep 1000 & setsid sleep 1000 & exec sleep 1000");
        let group = groups.agent(&key("a"));
        group.kill_but(&launcher).unwrap();
        group.admit(&launcher).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        until(|| processes(&group.tree()).unwrap().len() == 3);
        let whose = || ["a", "b"].map(|agent| groups.whose(&key(agent), &launcher).unwrap());
        assert_eq!(whose(), [Whose::Its, Whose::Anothers]);
        group.kill_but(&launcher).unwrap();
        assert_eq!(whose(), [Whose::Its, Whose::Anothers], "also where it is spared");
        assert_eq!(processes(&group.tree()).unwrap(), BTreeSet::new());
        assert!(child.try_wait().unwrap().is_none());
        assert_eq!(processes(&group.directory).unwrap(), BTreeSet::from([launcher.pid()]));
        group.clear().unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(!group.directory.exists());
        group.clear().unwrap();
    }

    #[test]
    fn a_process_outside_all_groups_belongs_to_no_agent() {
        let Some(groups) = groups("nobodys") else { return };
        let (mut child, process) = shell("exec sleep 1000");
        assert_eq!(groups.whose(&key("a"), &process).unwrap(), Whose::Nobodys);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(groups.whose(&key("a"), &process).is_err());
    }

    #[test]
    fn killing_one_by_one_kills_all() {
        let Some(groups) = groups("one-by-one") else { return };
        let (mut child, launcher) = shell("read go; setsid sleep 1000 & wait");
        let (group, bystander) = (groups.agent(&key("a")), shell("exec sleep 1000"));
        group.admit(&launcher).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        until(|| processes(&group.tree()).unwrap().len() == 2);
        until(|| {
            for part in parts(&group.directory) {
                kill_each(&part).unwrap();
            }
            is_empty_within(&group.directory, Duration::ZERO).unwrap()
        });
        child.wait().unwrap();
        let (mut other, process) = bystander;
        assert!(process.lives().unwrap());
        other.kill().unwrap();
        other.wait().unwrap();
        group.clear().unwrap();
    }

    #[test]
    fn an_ended_launcher_is_not_admitted_nor_is_a_reuser_of_its_id() {
        let Some(groups) = groups("ended") else { return };
        // It ends when its standard input is closed, as it is by the wait.
        let (mut child, launcher) = shell("read line");
        child.wait().unwrap();
        let group = groups.agent(&key("a"));
        assert!(matches!(group.admit(&launcher), Err(Error::Ended(_))));
        assert_eq!(processes(&group.tree()).unwrap(), BTreeSet::new());
        group.clear().unwrap();
    }

    #[test]
    fn an_empty_group_is_removed_with_its_daemon() {
        let Some(all) = groups("gone") else { return };
        let (directory, (mut child, launcher)) = (all.directory.clone(), shell("exec sleep 1000"));
        all.agent(&key("a")).admit(&launcher).unwrap();
        drop(all);
        assert!(directory.is_dir());
        let next = groups("gone").unwrap();
        assert!(launcher.lives().unwrap());
        next.agent(&key("a")).clear().unwrap();
        child.wait().unwrap();
        drop(next);
        assert!(!directory.exists());
    }
}
