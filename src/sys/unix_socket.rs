//! Unix sockets as files: whether an address is free, how a socket gets its mode, and who may remove it.
//!
//! This module has what all of the daemon's sockets share; [`crate::api::socket`] has what only the API's needs.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::{Gid, Uid};

use crate::sys::PathError;
use crate::sys::file_id::FileId;

/// The longest path of a socket, in bytes: `sun_path` minus the terminating NUL.
pub const LONGEST_PATH: usize = 107;

/// Why a socket could not be created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path does not fit into a socket address.
    #[error("failed to bind {}: the path has {} bytes, a socket's may have at most {LONGEST_PATH}", .0.display(), .0.as_os_str().len())]
    TooLong(PathBuf),
    /// The path is taken by something else, which is not ours to remove.
    #[error("failed to bind {}: it exists and is not a socket; remove it or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// A living process listens at the path, and is not ours to displace.
    #[error("failed to bind {}: {} listens on it; stop that one or choose another path", path.display(), holder(*pid))]
    Held {
        /// The address.
        path: PathBuf,
        /// The process that called `listen(2)`, if the kernel can identify it.
        pid: Option<i32>,
    },
    /// The folder of the socket is not suitable.
    #[error("failed to use {} as the folder of a socket: {problem}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The problem with it.
        problem: &'static str,
    },
    /// The socket's rights differ from what was set.
    #[error("failed to restrict {}: its mode is {mode:04o} and its group {group}, although both were set", path.display())]
    Rights {
        /// The socket.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Its group.
        group: u32,
    },
    /// The system refused something.
    #[error(transparent)]
    System(#[from] PathError),
}

fn holder(pid: Option<i32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// A listening socket, and its address.
#[derive(Debug)]
pub struct Bound {
    /// The nonblocking listener.
    pub listener: UnixListener,
    /// The file. Keep it as long as the listener.
    pub address: Address,
}

/// The file of a socket that this process bound. Dropping it removes the file, if it is still the same one.
#[derive(Debug)]
pub struct Address {
    path: PathBuf,
    /// Keeps the inode number from being reused, so that a comparison with it is reliable.
    inode: OwnedFd,
}

impl Address {
    fn new(path: &Path) -> Result<Self, Error> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let inode = nix::fcntl::open(path, flags, Mode::empty()).map_err(PathError::of("open", path))?;
        let status = nix::sys::stat::fstat(&inode).map_err(PathError::of("examine", path))?;
        if !is_socket(&status) || status.st_uid != Uid::effective().as_raw() {
            return Err(Error::NotASocket(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), inode })
    }

    /// The path that clients connect to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the group (`None` keeps it) and the mode, by descriptor: a file put in the socket's place is not touched.
    pub fn restrict(&self, group: Option<Gid>, mode: Mode) -> Result<(), Error> {
        let has = |status: &FileStat| {
            group.is_none_or(|group| status.st_gid == group.as_raw()) && status.st_mode & 0o7777 == mode.bits()
        };
        if has(&self.status()?) {
            return Ok(());
        }
        nix::unistd::fchownat(&self.inode, "", None, group, AtFlags::AT_EMPTY_PATH)
            .map_err(PathError::of("change the group of", &self.path))?;
        let by_descriptor = format!("/proc/self/fd/{}", self.inode.as_raw_fd());
        std::fs::set_permissions(by_descriptor, std::fs::Permissions::from_mode(mode.bits()))
            .map_err(PathError::of("change the mode of", &self.path))?;
        let status = self.status()?;
        if has(&status) {
            return Ok(());
        }
        Err(Error::Rights { path: self.path.clone(), mode: status.st_mode & 0o7777, group: status.st_gid })
    }

    fn status(&self) -> Result<FileStat, Error> {
        Ok(nix::sys::stat::fstat(&self.inode).map_err(PathError::of("examine", &self.path))?)
    }

    /// Whether the file is still in its place.
    pub fn is_there(&self) -> bool {
        self.is_ours()
    }

    fn is_ours(&self) -> bool {
        let (Ok(ours), Ok(there)) = (self.status(), nix::sys::stat::lstat(&self.path)) else { return false };
        FileId::from(&ours) == FileId::from(&there)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        if self.is_ours()
            && let Err(error) = nix::unistd::unlink(&self.path)
        {
            tracing::warn!("failed to remove {}: {error}", self.path.display());
        }
    }
}

/// Binds and listens, replacing a stale socket if there is one. The file has at most `mode` from its first instant.
///
/// The umask belongs to the whole process: call this while there is only one thread.
pub fn bind(path: &Path, mode: Mode) -> Result<Bound, Error> {
    claim(path)?;
    let masked = Mode::from_bits_truncate(!mode.bits() & 0o777);
    let listener = with_umask(masked, || UnixListener::bind(path)).map_err(PathError::of("bind", path))?;
    let address = Address::new(path)?;
    listener.set_nonblocking(true).map_err(PathError::of("configure", path))?;
    Ok(Bound { listener, address })
}

/// Binds and listens, replacing a stale socket if there is one, under the process's umask. May be called with any number of
/// threads.
pub fn bind_private(path: &Path) -> Result<Bound, Error> {
    claim(path)?;
    let listener = UnixListener::bind(path).map_err(PathError::of("bind", path))?;
    let address = Address::new(path)?;
    listener.set_nonblocking(true).map_err(PathError::of("configure", path))?;
    Ok(Bound { listener, address })
}

/// Makes sure that `path` can be bound: removes a socket that no process listens on, and nothing else.
pub fn claim(path: &Path) -> Result<(), Error> {
    check_length(path)?;
    match nix::sys::stat::lstat(path) {
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(PathError::new("examine", path, errno).into()),
        Ok(status) if !is_socket(&status) => return Err(Error::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match knock(path) {
        Ok(peer) => Err(Error::Held { path: path.to_owned(), pid: peer.and_then(|peer| peer.pid) }),
        // A datagram or packet socket is not ours either, and a process has it open.
        Err(Errno::EPROTOTYPE) => Err(Error::Held { path: path.to_owned(), pid: None }),
        Err(Errno::ECONNREFUSED) => match nix::unistd::unlink(path) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(PathError::new("remove the stale socket", path, errno).into()),
        },
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(PathError::new("find out who listens on", path, errno).into()),
    }
}

/// Refuses a path that is too long for a socket.
pub fn check_length(path: &Path) -> Result<(), Error> {
    if path.as_os_str().len() > LONGEST_PATH {
        return Err(Error::TooLong(path.to_owned()));
    }
    Ok(())
}

/// Runs `work` under the umask `mask`. The umask belongs to the whole process: call this while there is only one thread.
pub fn with_umask<T>(mask: Mode, work: impl FnOnce() -> T) -> T {
    let before = nix::sys::stat::umask(mask);
    let result = work();
    nix::sys::stat::umask(before);
    result
}

/// The process at the other end of a connection that called `connect(2)` or `listen(2)`, as reported by the kernel
/// (`SO_PEERCRED`, see `unix(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process id, unless it is in another pid namespace.
    pub pid: Option<i32>,
    /// The user that it ran as.
    pub uid: Uid,
}

/// Identifies the other end of a connection.
pub fn peer(socket: impl AsFd) -> nix::Result<Peer> {
    let credentials = nix::sys::socket::getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok(Peer { pid: Some(credentials.pid()).filter(|&pid| pid > 0), uid: Uid::from_raw(credentials.uid()) })
}

/// Connects to find out who listens, without blocking. `None` means that a process listens, but its backlog is full.
pub fn knock(path: &Path) -> nix::Result<Option<Peer>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let client = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match nix::sys::socket::connect(client.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno),
        Ok(()) => peer(&client).map(Some),
    }
}

fn is_socket(status: &FileStat) -> bool {
    SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_path_can_be_claimed() {
        let folder = tempfile::tempdir().unwrap();
        claim(&folder.path().join("socket")).unwrap();
    }

    #[test]
    fn a_stale_socket_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        claim(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_live_socket_stays_and_its_holder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let error = claim(&path).unwrap_err();
        assert!(error.to_string().contains(&format!("process {} listens", std::process::id())), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_listener_whose_queue_is_full_is_alive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket =
            nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let _queued = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(matches!(claim(&path), Err(Error::Held { pid: None, .. })));
    }

    #[test]
    fn a_file_that_is_not_a_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        std::fs::write(&path, "mine").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("elsewhere", &link).unwrap();
        for path in [&path, &link, &folder.path().to_owned()] {
            assert!(matches!(claim(path), Err(Error::NotASocket(_))));
            assert!(path.symlink_metadata().is_ok());
        }
    }

    #[test]
    fn a_path_of_108_bytes_is_refused_with_both_lengths() {
        let path = PathBuf::from(format!("/{}", "x".repeat(LONGEST_PATH)));
        let message = claim(&path).unwrap_err().to_string();
        assert!(message.contains("has 108 bytes") && message.contains("at most 107"), "{message}");
        check_length(&PathBuf::from("x".repeat(LONGEST_PATH))).unwrap();
    }
}
