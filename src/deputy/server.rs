//! The tmux server, as the kernel knows it: whoever listens on its socket.
//!
//! A server whose socket file was removed listens on it all the same, and makes the file anew when it gets SIGUSR1 (`tmux(1)`,
//! "DESCRIPTION"). To start another in its place would cut it and everything in it off for good. So whether there is a server is
//! never concluded from the file: a socket keeps the path that it was bound to (`/proc/net/unix`, see `proc_net_unix(5)`), and
//! who holds it stands in `/proc/PID/fd`. Sockets of other users do not count: anybody can bind one to the same path elsewhere.
//!
//! All this is done with the agent user's rights, so that whoever poses as the server gets signals from nobody but itself.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use nix::unistd::Uid;

use super::Server;
use crate::process::{self, Process, Signal};

/// How long a server may take to make its socket anew.
const PATIENCE: Duration = Duration::from_secs(2);

/// Finds out what there is at `path`, and has a server that lost its socket make it anew. `program` is the installed tmux. The
/// error, for a person, is that it could not be found out. Blocks, for no longer than a little more than [`PATIENCE`].
pub(super) fn tend(path: &Path, program: Option<&Path>) -> Result<Server, String> {
    let failed = |error: io::Error| format!("failed to find out what listens on {}: {error}", path.display());
    let serving = |pid, recovered| Server::Serving { pid, recovered, is_installed: is_same_program(pid, program) };
    match peer(path).map_err(failed)? {
        Peer::Process(pid) => return Ok(serving(pid, false)),
        Peer::Busy => return Ok(Server::Silent { pid: None }),
        Peer::Nobody => {}
    }
    let Some(server) = listener(path).map_err(failed)? else { return Ok(Server::None) };
    let pid = server.pid();
    // It may have begun to listen between the two looks.
    if let Peer::Process(pid) = peer(path).map_err(failed)? {
        return Ok(serving(pid, false));
    }
    if !catches_sigusr1(pid) {
        return Err(format!("process {pid} listens on {} and is no tmux server", path.display()));
    }
    let recovered = ask_for_socket(&server).map_err(failed)?;
    let limit = Instant::now() + PATIENCE;
    loop {
        match peer(path).map_err(failed)? {
            Peer::Process(pid) => return Ok(serving(pid, recovered)),
            Peer::Busy | Peer::Nobody if Instant::now() < limit => std::thread::sleep(Duration::from_millis(2)),
            Peer::Busy | Peer::Nobody => return Ok(Server::Silent { pid: Some(pid) }),
        }
    }
}

/// What the server that listens on `path` runs, as a path that means it and nothing else, also when the file was replaced or
/// removed since.
pub(super) fn program_of_server(path: &Path) -> io::Result<PathBuf> {
    match peer(path)? {
        Peer::Process(pid) => Ok(executable(pid)),
        Peer::Nobody => Err(io::ErrorKind::ConnectionRefused.into()),
        Peer::Busy => Err(io::ErrorKind::WouldBlock.into()),
    }
}

enum Peer {
    /// This one, a process of our own user's, listens on it.
    Process(i32),
    /// Somebody does, but has not taken in so many connections that there is no room for another.
    Busy,
    Nobody,
}

/// By the kernel's word (`SO_PEERCRED`, see `unix(7)`): the process that called `listen(2)`.
fn peer(path: &Path) -> io::Result<Peer> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(stream.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => {
            let credentials = getsockopt(&stream, PeerCredentials)?;
            if credentials.uid() == Uid::effective().as_raw() {
                Ok(Peer::Process(credentials.pid()))
            } else {
                Err(io::Error::other(format!(
                    "process {} does, and runs as uid {}",
                    credentials.pid(),
                    credentials.uid()
                )))
            }
        }
        Err(Errno::EAGAIN) => Ok(Peer::Busy),
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => Ok(Peer::Nobody),
        Err(error) => Err(error.into()),
    }
}

/// The process of our own user's that listens on a socket bound to `path`, whether the file is there or not. An error means that
/// not everybody could be looked at.
fn listener(path: &Path) -> io::Result<Option<Process>> {
    let listening = listening(&fs::read_to_string("/proc/net/unix")?, path);
    if listening.is_empty() {
        return Ok(None);
    }
    for pid in process::numbers(Path::new("/proc"))? {
        let is_ours = |metadata: fs::Metadata| metadata.uid() == Uid::effective().as_raw();
        if !fs::metadata(format!("/proc/{pid}")).is_ok_and(is_ours) || !holds(pid, &listening)? {
            continue;
        }
        let Some(process) = Process::find(pid)? else { continue };
        let parent = process.parent();
        // Asked last: it was this process all along. A child that has yet to become something else holds what its parent does.
        if holds(pid, &listening)? && !parent.map_or(Ok(false), |parent| holds(parent, &listening))? {
            return Ok(Some(process));
        }
    }
    Ok(None)
}

/// The inodes of the sockets that listen, and were bound to `path`.
fn listening(table: &str, path: &Path) -> BTreeSet<String> {
    const ACCEPTS_CONNECTIONS: u32 = 0x10000;
    let Some(path) = path.to_str() else { return BTreeSet::new() };
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
            let inode = fields.nth(2)?;
            (flags & ACCEPTS_CONNECTIONS != 0 && line.ends_with(&format!(" {inode} {path}"))).then(|| inode.to_owned())
        })
        .collect()
}

fn holds(pid: i32, inodes: &BTreeSet<String>) -> io::Result<bool> {
    let descriptors = match process::numbers(Path::new(&format!("/proc/{pid}/fd"))) {
        // Somebody who may not be looked at, such as a program with capabilities, is no server of ours.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
        descriptors => descriptors?,
    };
    Ok(descriptors.into_iter().any(|number| {
        let target = fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap_or_default();
        let inode = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.contains(inode))
    }))
}

/// Whether the signal would do something else than end it: whatever poses as a tmux server is not to be killed by mistake.
fn catches_sigusr1(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    caught & 1 << (nix::libc::SIGUSR1 - 1) != 0
}

/// Once for all who call this at the same time: each new socket cuts off who waits at the one before. Answers whether it was
/// done here.
fn ask_for_socket(server: &Process) -> io::Result<bool> {
    static ASKED: Mutex<Option<(i32, Instant)>> = Mutex::new(None);
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    if asked.is_some_and(|(pid, at)| pid == server.pid() && at.elapsed() < PATIENCE) {
        return Ok(false);
    }
    server.signal(Signal::USR1)?;
    *asked = Some((server.pid(), Instant::now()));
    Ok(true)
}

/// Whether it was started from the file that is installed now.
fn is_same_program(pid: i32, program: Option<&Path>) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    program.and_then(identity).is_some_and(|installed| identity(&executable(pid)) == Some(installed))
}

fn executable(pid: i32) -> PathBuf {
    format!("/proc/{pid}/exe").into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::socket::{Backlog, bind, listen};
    use tempfile::TempDir;

    use super::*;

    fn own_pid() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    #[test]
    fn who_listens_is_found_through_the_file_and_without_it() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a b");
        assert!(matches!(peer(&path).unwrap(), Peer::Nobody));
        assert!(listener(&path).unwrap().is_none());
        let socket = UnixListener::bind(&path).unwrap();
        assert!(matches!(peer(&path).unwrap(), Peer::Process(pid) if pid == own_pid()));
        fs::remove_file(&path).unwrap();
        assert!(matches!(peer(&path).unwrap(), Peer::Nobody));
        assert_eq!(listener(&path).unwrap().unwrap().pid(), own_pid());
        drop(socket);
        assert!(listener(&path).unwrap().is_none());
    }

    #[test]
    fn who_does_not_take_in_connections_is_there_all_the_same() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("s");
        let stream = || socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
        let (listener, address) = (stream(), UnixAddr::new(&path).unwrap());
        bind(listener.as_raw_fd(), &address).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        let mut waiting = Vec::new();
        loop {
            waiting.push(stream());
            if connect(waiting.last().unwrap().as_raw_fd(), &address).is_err() {
                break;
            }
        }
        assert!(matches!(peer(&path).unwrap(), Peer::Busy));
        assert_eq!(tend(&path, None).unwrap(), Server::Silent { pid: None });
    }

    #[test]
    fn who_would_die_of_the_signal_does_not_get_it() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("s");
        let _socket = UnixListener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let error = tend(&path, None).unwrap_err();
        assert!(error.contains("is no tmux server"), "{error}");
    }

    #[test]
    fn only_sockets_that_listen_and_have_exactly_that_path_count() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0: 00000002 00000000 00010000 0001 01 11 /run/a\n\
            0: 00000003 00000000 00000000 0001 03 12 /run/a\n\
            0: 00000002 00000000 00010000 0001 01 13 /run/a.b\n\
            0: 00000002 00000000 00010000 0001 01 14 /x/run/a\n\
            0: 00000002 00000000 00010000 0001 01 15\n\
            0: 00000002 00000000 00010000 0001 01 16 /run/with a space\n";
        assert_eq!(listening(table, Path::new("/run/a")), [String::from("11")].into());
        assert_eq!(listening(table, Path::new("/run/with a space")), [String::from("16")].into());
    }
}
