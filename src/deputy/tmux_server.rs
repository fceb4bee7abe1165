//! Finds the tmux server: the process that, according to the kernel, listens on its socket.
//!
//! A server whose socket file was removed still listens, and creates the file again when it gets SIGUSR1 (`tmux(1)`,
//! "DESCRIPTION"). Starting another server in its place would cut it off permanently, with everything in it. So the file alone
//! never decides whether there is a server: the process that was [seen](Seen) to serve, and has not ended, is the server.
//!
//! A server can miss the end of a program that it started. tmux 3.3a sometimes does, and shows the pane as alive until another
//! program ends. In that case it gets another SIGCHLD.
//!
//! No other process gets a signal. The kernel's list of sockets (`proc_net_unix(5)`) is not trusted: any user can bind a socket
//! to the same path elsewhere, or to a name that contains a line feed and forges a line.
//!
//! All of this runs with the agent user's rights, so a process that poses as the server can be signaled only by its own user.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Uid;

use super::{Seen, Server};
use crate::sys::process::{Identity, Process, Signal};
use crate::sys::procfs;
use crate::sys::unix_socket;

/// How long a server may take to create its socket again.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(2);

/// Finds out what serves at `path`, and has the server that was last `seen` there recreate a missing socket.
///
/// `program` is the installed tmux. The error, a message for people, means that this could not be determined. Blocks for little
/// longer than [`SOCKET_TIMEOUT`].
pub(super) fn tend(path: &Path, program: Option<&Path>, seen: Option<Seen>) -> Result<Server, String> {
    let failed = |error: io::Error| format!("failed to find out what listens on {}: {error}", path.display());
    let installed = program.and_then(|program| file(program).ok());
    let serving = |pid, recovered| {
        let program = file(&executable(pid)).ok();
        let is_installed = program.is_some() && program == installed;
        Server::Serving { pid, recovered, is_installed, seen: program.and_then(|program| see(pid, program, installed)) }
    };
    match peer(path).map_err(failed)? {
        Peer::Process(pid) => return Ok(serving(pid, false)),
        Peer::Busy => return Ok(Server::Silent { pid: None }),
        Peer::Nobody => {}
    }
    let server = seen.map(|seen| find_again(seen, installed)).transpose().map_err(failed)?.flatten();
    let Some(server) = server else { return Ok(Server::None) };
    // It may have begun to listen between the two checks.
    if let Peer::Process(pid) = peer(path).map_err(failed)? {
        return Ok(serving(pid, false));
    }
    let recovered = ask_for_socket(&server).map_err(failed)?;
    let limit = Instant::now() + SOCKET_TIMEOUT;
    loop {
        match peer(path).map_err(failed)? {
            Peer::Process(pid) => return Ok(serving(pid, recovered)),
            // It was about to end.
            Peer::Nobody if !server.lives().map_err(failed)? => return Ok(Server::None),
            Peer::Busy | Peer::Nobody if Instant::now() < limit => std::thread::sleep(Duration::from_millis(2)),
            Peer::Busy | Peer::Nobody => return Ok(Server::Silent { pid: Some(server.pid()) }),
        }
    }
}

/// Kills the server that listens on `path`, if no process that it started is alive. Returns whether it is gone.
pub(super) fn end_deserted(path: &Path) -> Result<bool, String> {
    let failed = |error: io::Error| format!("failed to end what listens on {}: {error}", path.display());
    let pid = match peer(path).map_err(failed)? {
        Peer::Process(pid) => pid,
        Peer::Busy => return Ok(false),
        Peer::Nobody => return Ok(true),
    };
    let Some(server) = Process::find(pid).map_err(failed)? else { return Ok(true) };
    // Checked again: it was this process all along.
    let is_it = matches!(peer(path).map_err(failed)?, Peer::Process(again) if again == pid);
    if !is_it || server.has_living_children().map_err(failed)? {
        return Ok(false);
    }
    server.kill().map_err(failed)?;
    Ok(true)
}

/// Sends the server that listens on `path`, or the one that was `seen` there, a SIGCHLD for a child that has ended and that it
/// has not reaped.
///
/// Returns whether there was such a child.
pub(super) fn remind(path: &Path, seen: Option<Seen>, ended: Identity) -> Result<bool, String> {
    let failed = |error: io::Error| format!("failed to remind what listens on {}: {error}", path.display());
    let pid = match peer(path).map_err(failed)? {
        Peer::Process(pid) => pid,
        Peer::Busy | Peer::Nobody => match seen {
            Some(seen) => seen.process.pid(),
            None => return Ok(false),
        },
    };
    let Some(server) = Process::find(pid).map_err(failed)? else { return Ok(false) };
    let is_it = match peer(path).map_err(failed)? {
        // Checked again: it was this process all along.
        Peer::Process(again) => again == pid,
        Peer::Busy | Peer::Nobody => seen.is_some_and(|seen| seen.process == server.identity()),
    };
    if !is_it || ended.unwaited_for_by().map_err(failed)? != Some(pid) {
        return Ok(false);
    }
    server.signal(Signal::CHILD).map_err(failed)?;
    Ok(true)
}

/// The program of the server that listens on `path`, as a path that always means that file, even if it has since been replaced or
/// removed.
pub(super) fn program_of_server(path: &Path) -> io::Result<PathBuf> {
    match peer(path)? {
        Peer::Process(pid) => Ok(executable(pid)),
        Peer::Nobody => Err(io::ErrorKind::ConnectionRefused.into()),
        Peer::Busy => Err(io::ErrorKind::WouldBlock.into()),
    }
}

enum Peer {
    /// This process, of our own user, listens on it.
    Process(i32),
    /// A process listens on it, but its backlog is full.
    Busy,
    Nobody,
}

fn peer(path: &Path) -> io::Result<Peer> {
    match unix_socket::knock(path) {
        Ok(Some(unix_socket::Peer { pid, uid })) => match pid {
            Some(pid) if uid == Uid::effective() => Ok(Peer::Process(pid)),
            pid => Err(io::Error::other(format!("process {} does, and runs as uid {uid}", pid.unwrap_or(0)))),
        },
        Ok(None) => Ok(Peer::Busy),
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => Ok(Peer::Nobody),
        Err(error) => Err(error.into()),
    }
}

/// How to find the current server again; `None` unless it is tmux.
fn see(pid: i32, program: (u64, u64), installed: Option<(u64, u64)>) -> Option<Seen> {
    let process = Process::find(pid).ok()??;
    let seen = Seen { process: process.identity(), program };
    is_server(&process, seen, installed).ok()?.then_some(seen)
}

/// Finds the process that was seen, if it has not ended and is unchanged. An error means that this could not be determined.
fn find_again(seen: Seen, installed: Option<(u64, u64)>) -> io::Result<Option<Process>> {
    let Some(process) = seen.process.open()? else { return Ok(None) };
    match is_server(&process, seen, installed) {
        Ok(is_server) => Ok(Some(process).filter(|_| is_server)),
        // The process is ending.
        Err(_) if !process.lives()? => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the process is a tmux of our own user that runs the program that was seen, and that the signal does not kill.
fn is_server(process: &Process, seen: Seen, installed: Option<(u64, u64)>) -> io::Result<bool> {
    const NAME: &[u8] = b"tmux";
    let pid = process.pid();
    let read = |name| procfs::read(format!("/proc/{pid}/{name}"));
    let is_tmux = Some(seen.program) == installed || read("comm")?.starts_with(NAME);
    let catches = procfs::catches(&read("status")?, libc::SIGUSR1).ok_or(io::ErrorKind::InvalidData)?;
    let is_same = file(&executable(pid))? == seen.program;
    // Checked last, so that all of that belonged to this process.
    Ok(is_tmux && catches && is_same && process.runs_as(Uid::effective())?)
}

/// Asks the server to recreate its socket, once for all concurrent callers: each new socket cuts off the clients that wait at the
/// one before.
///
/// Returns whether this call did it.
fn ask_for_socket(server: &Process) -> io::Result<bool> {
    static ASKED: Mutex<Option<(Identity, Instant)>> = Mutex::new(None);
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    if asked.is_some_and(|(who, at)| who == server.identity() && at.elapsed() < SOCKET_TIMEOUT) {
        return Ok(false);
    }
    server.signal(Signal::USR1)?;
    *asked = Some((server.identity(), Instant::now()));
    Ok(true)
}

/// Identifies a file, even after it was replaced or removed.
fn file(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn executable(pid: i32) -> PathBuf {
    format!("/proc/{pid}/exe").into()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command, Stdio};

    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
    use tempfile::TempDir;

    use super::*;

    fn own_pid() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    /// A real server that ends with the test.
    struct Tmux {
        socket: PathBuf,
        child: Child,
    }

    impl Tmux {
        fn start(socket: &Path) -> Self {
            let child = Command::new("tmux")
                .args(["-D", "-f", "/dev/null", "-S"])
                .arg(socket)
                .env_remove("TMUX")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let tmux = Self { socket: socket.to_owned(), child };
            tmux.until_it_serves();
            tmux
        }

        fn until_it_serves(&self) {
            let limit = Instant::now() + Duration::from_secs(20);
            while !matches!(peer(&self.socket).unwrap(), Peer::Process(pid) if pid == self.pid()) {
                assert!(Instant::now() < limit, "it does not serve");
                std::thread::sleep(Duration::from_millis(2));
            }
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.child.id()).unwrap()
        }

        fn end(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }

    impl Drop for Tmux {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn seen(server: Server) -> Option<Seen> {
        match server {
            Server::Serving { seen, .. } => seen,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_server_that_was_seen_recreates_its_lost_socket() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a b");
        assert_eq!(tend(&path, None, None).unwrap(), Server::None);
        let mut tmux = Tmux::start(&path);
        let known = seen(tend(&path, None, None).unwrap()).unwrap();
        assert_eq!(known.process.pid(), tmux.pid());
        fs::remove_file(&path).unwrap();
        assert_eq!(tend(&path, None, None).unwrap(), Server::None, "the server was not seen before");
        let found = tend(&path, None, Some(known)).unwrap();
        assert!(matches!(found, Server::Serving { pid, recovered: true, .. } if pid == tmux.pid()), "{found:?}");
        fs::remove_file(&path).unwrap();
        tmux.end();
        assert_eq!(tend(&path, None, Some(known)).unwrap(), Server::None);
    }

    #[test]
    fn a_process_not_seen_or_replaced_gets_no_signal() {
        let directory = TempDir::new().unwrap();
        let (path, elsewhere) = (directory.path().join("a"), directory.path().join("b"));
        let tmux = Tmux::start(&elsewhere);
        let known = seen(tend(&elsewhere, None, None).unwrap()).unwrap();
        // The signal would recreate it.
        fs::remove_file(&elsewhere).unwrap();
        let process = serde_json::to_value(known.process).unwrap();
        let started = process["started"].as_u64().unwrap() + 1;
        let later = serde_json::json!({ "pid": tmux.pid(), "started": started });
        let another = Seen { process: serde_json::from_value(later).unwrap(), ..known };
        let replaced = Seen { program: (0, 0), ..known };
        for other in [another, replaced] {
            assert_eq!(tend(&path, None, Some(other)).unwrap(), Server::None);
        }
        assert!(!elsewhere.exists());
    }

    #[test]
    fn a_server_that_is_not_tmux_is_not_remembered() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("s");
        let _socket = UnixListener::bind(&path).unwrap();
        let found = tend(&path, None, None).unwrap();
        assert!(matches!(found, Server::Serving { pid, seen: None, .. } if pid == own_pid()), "{found:?}");
        let process = Process::open(own_pid()).unwrap().identity();
        let forged = Seen { process, program: file(&executable(own_pid())).unwrap() };
        fs::remove_file(&path).unwrap();
        assert_eq!(tend(&path, None, Some(forged)).unwrap(), Server::None);
    }

    /// Has a child whose end it has not noticed, and listens. Does nothing unless another test starts it for that.
    #[test]
    fn a_parent_that_has_missed_an_end() {
        let Some(path) = std::env::var_os(MISSED) else { return };
        let _listener = UnixListener::bind(&path).unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let identity = Process::open(child.id().cast_signed()).unwrap().identity();
        drop(child.stdin.take());
        while identity.unwaited_for_by().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // It would notice from now on.
        let noticed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        signal_hook::flag::register(libc::SIGCHLD, std::sync::Arc::clone(&noticed)).unwrap();
        let about_child = serde_json::to_string(&identity).unwrap();
        fs::write(Path::new(&path).with_extension("new"), about_child).unwrap();
        fs::rename(Path::new(&path).with_extension("new"), Path::new(&path).with_extension("child")).unwrap();
        while !noticed.load(std::sync::atomic::Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.wait().unwrap();
    }

    const MISSED: &str = "AGENTD_TEST_MISSED";

    #[test]
    fn a_server_that_missed_an_end_is_reminded_of_it() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("s");
        let mut server = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                &format!("{}::a_parent_that_has_missed_an_end", module_path!().split_once("::").unwrap().1),
            ])
            .env(MISSED, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let limit = Instant::now() + Duration::from_secs(20);
        let ended: Identity = loop {
            assert!(Instant::now() < limit, "it has no child");
            if let Ok(about_child) = fs::read(path.with_extension("child")) {
                break serde_json::from_slice(&about_child).unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        // A different server gets no signal for this child.
        let other = Tmux::start(&directory.path().join("t"));
        assert_eq!(remind(&other.socket, None, ended), Ok(false));
        assert_eq!(remind(&directory.path().join("nobody"), None, ended), Ok(false));
        assert_eq!(ended.unwaited_for_by().unwrap(), Some(server.id().cast_signed()));
        assert_eq!(remind(&path, None, ended), Ok(true));
        assert!(server.wait().unwrap().success());
        assert_eq!(remind(&path, None, ended), Ok(false), "it was waited for");
        let living = Process::open(own_pid()).unwrap().identity();
        assert_eq!(living.unwaited_for_by().unwrap(), None);
    }

    #[test]
    fn a_listener_with_a_living_child_is_not_ended() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("s");
        assert_eq!(end_deserted(&path), Ok(true));
        let _socket = UnixListener::bind(&path).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(end_deserted(&path), Ok(false));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_listener_with_a_full_backlog_counts_as_present() {
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
        assert_eq!(tend(&path, None, None).unwrap(), Server::Silent { pid: None });
    }
}
