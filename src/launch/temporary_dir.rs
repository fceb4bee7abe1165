//! Each attempt's own directory for temporary files, which is removed when the attempt ends.
//!
//! Harnesses leave much in `/tmp`, including whole libraries and conversations, under names that the next harness takes for its
//! own. So each attempt finds in `TMPDIR` a folder that no other attempt uses. It is created and removed with the agent user's
//! rights.
//!
//! The launcher locks the folder (`flock(2)`) for as long as it lives. An unlocked folder was left by a launcher that was killed,
//! and the next launcher of the same daemon removes it, whatever its agent. The name alone is not enough: two daemons in
//! different mount namespaces can have the same socket path and share one `/tmp`. systemd also leaves locked folders alone when
//! it cleans up `/tmp` (`tmpfiles.d(5)`).
//!
//! Launchers of earlier builds lock nothing, and outlive an upgrade of agentd. Their folders have other names, and each launcher
//! removes only those of its own agent, which has one launcher at a time.
//!
//! Anyone can use such a name in `/tmp`, even for a file system that a program of theirs serves (FUSE). So nothing is opened or
//! queried unless it belongs to our user and is on the same file system.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, mkdtemp};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::sys::safe_path::{Look, look};
use crate::sys::tree;

/// The variable that names the folder.
pub const VARIABLE: &str = "TMPDIR";

/// Where folders are created if the login shell sets no `TMPDIR`.
const USUAL: &str = "/tmp";

/// The hidden command that removes what earlier attempts left.
pub const REMOVE_COMMAND: &str = "remove-left";

/// How often to try again when another launcher takes a new folder for a leftover, in the instant before it is locked.
const TRIES: u32 = 100;

/// An attempt's temporary folder, removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Keeps the lock for as long as it is open.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is only held"))]
    folder: File,
}

impl Scratch {
    /// Creates a folder that only its owner can use, in `base` if that is given.
    pub fn make(base: Option<&OsStr>, launch_socket: &Path, agent: &str) -> io::Result<Self> {
        let base = base_of(base);
        let prefix = prefix(launch_socket, agent);
        for _ in 0..TRIES {
            let path = mkdtemp(&base.join(format!("{prefix}XXXXXX")))?;
            if let Some(folder) = lock(&path)? {
                return Ok(Self { path, folder });
            }
        }
        Err(io::Error::other("each new folder was taken away at once"))
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn base_of(named: Option<&OsStr>) -> &Path {
    named.filter(|base| !base.is_empty()).map_or(Path::new(USUAL), Path::new)
}

/// Starts a process that removes what earlier attempts left in `base`, of any agent of the daemon with that launch socket.
///
/// Removal may be slow, and in this process it would leave memory in use: reading a folder allocates memory that is not returned.
pub fn begin_removal_of_left(base: Option<&OsStr>, launch_socket: &Path, agent: &str) {
    // A unit test's own program would take the words for names of tests to run.
    if cfg!(test) {
        return;
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg(REMOVE_COMMAND).arg(base_of(base)).arg(launch_socket).arg(agent).env_clear();
    // Without this process, they stay until the next attempt. The reaper waits for it as for all other children.
    drop(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn());
}

/// Runs the hidden command [`REMOVE_COMMAND`].
pub fn remove_left(base: &Path, launch_socket: &Path, agent: &str) {
    for path in perhaps_left(base, launch_socket, agent) {
        remove_if_left(&path);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = tree::remove(&self.path);
    }
}

/// The prefix of an agent's folder names.
///
/// It is short because programs create sockets in the folders, and a socket's path has at most 107 bytes.
fn prefix(launch_socket: &Path, agent: &str) -> String {
    format!("{}{}-", prefix_of_all(launch_socket), hash_of_agent(agent))
}

/// The prefix of the folder names of all agents of one daemon.
pub fn prefix_of_all(launch_socket: &Path) -> String {
    format!("agentd-t{}", hash_of_daemon(launch_socket))
}

/// Whether a folder of this name may be an attempt's, of any agent and daemon.
pub fn is_named_like_one(name: &OsStr) -> bool {
    let rest = name.as_bytes().strip_prefix(b"agentd-").unwrap_or_default();
    let rest = rest.strip_prefix(b"t").unwrap_or(rest);
    let hash = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    hash >= 20 && rest.get(hash) == Some(&b'-')
}

/// The prefix of an agent's folder names before folders were locked.
fn former_prefix(launch_socket: &Path, agent: &str) -> String {
    format!("agentd-{}{}-", hash_of_daemon(launch_socket), hash_of_agent(agent))
}

fn hash_of_daemon(launch_socket: &Path) -> String {
    hash::<4>(launch_socket.as_os_str().as_bytes())
}

fn hash_of_agent(agent: &str) -> String {
    hash::<6>(agent.to_ascii_lowercase().as_bytes())
}

/// The beginning of a hash.
///
/// It is long enough that no two on one machine are ever the same: each would remove the other's folders.
fn hash<const BYTES: usize>(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(BYTES).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Folders that may have been left, judging by their names.
fn perhaps_left(base: &Path, launch_socket: &Path, agent: &str) -> Vec<PathBuf> {
    let prefixes = [prefix_of_all(launch_socket), former_prefix(launch_socket, agent)];
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    let is_named = |name: &[u8]| prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
    entries.filter(|entry| is_named(entry.file_name().as_bytes())).map(|entry| entry.path()).collect()
}

/// Opens the folder without accessing a file system that another user may serve; `None` unless it is on the file system of its
/// parent.
fn find(path: &Path) -> io::Result<Option<(OwnedFd, Look)>> {
    let (Some(base), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let base = open(base, flags, Mode::empty())?;
    let folder = match openat(&base, name, flags | OFlag::O_NOFOLLOW, Mode::empty()) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
        folder => folder?,
    };
    let [above, it] = [look(&base, OsStr::new(""))?, look(&folder, OsStr::new(""))?];
    Ok(it.is_beside(&above).then_some((folder, it)))
}

fn open_found(folder: &OwnedFd) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(openat(folder, ".", flags, Mode::empty())?.into())
}

/// Locks the folder for as long as it is open; `None` if another process has locked it, or it is gone or was removed before it
/// was locked.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let Some((folder, _)) = find(path)? else { return Ok(None) };
    let folder = open_found(&folder)?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        // Without locks, folders still work, but leftovers are not removed.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOLCK | rustix::io::Errno::NOSYS) => {}
        locked => locked?,
    }
    Ok(Some(folder).filter(|folder| is_at(folder, path)))
}

/// Whether the folder is still at the path.
fn is_at(folder: &File, path: &Path) -> bool {
    let inode = |it: Look| it.version.id;
    let there = find(path).ok().flatten().map(|(_, it)| inode(it));
    there.is_some() && there == look(folder, OsStr::new("")).ok().map(inode)
}

/// Removes a folder of our user whose launcher is gone. Anything else stays.
fn remove_if_left(path: &Path) {
    if let Ok(Some((folder, it))) = find(path)
        && it.owner == Uid::effective().as_raw()
        && let Ok(folder) = open_found(&folder)
        && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok()
        && is_at(&folder, path)
    {
        let _ = tree::remove(path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};

    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    use tempfile::TempDir;

    use super::*;

    const SOCKET: &str = "/run/x/launch.sock";

    #[test]
    fn a_folder_is_private_and_is_removed_with_its_contents() {
        let base = TempDir::new().unwrap();
        let precious = base.path().join("precious");
        fs::write(&precious, "").unwrap();
        let scratch = Scratch::make(Some(base.path().as_os_str()), Path::new(SOCKET), "a").unwrap();
        let path = scratch.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
        fs::DirBuilder::new().recursive(true).create(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/c"), "").unwrap();
        symlink(&precious, path.join("a/link")).unwrap();
        symlink(base.path(), path.join("a/folder")).unwrap();
        fs::set_permissions(path.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(path.join("a"), fs::Permissions::from_mode(0o500)).unwrap();
        drop(scratch);
        assert!(!path.exists() && precious.exists());
    }

    #[test]
    fn only_leftovers_of_earlier_attempts_are_removed() {
        let base = TempDir::new().unwrap();
        let path = |name: &str| base.path().join(name);
        let (all, others) = (prefix_of_all(Path::new(SOCKET)), prefix_of_all(Path::new("/run/y/launch.sock")));
        let [old, other, file, link] = [(&all, "old"), (&others, "other"), (&all, "file"), (&all, "link")]
            .map(|(prefix, name)| path(&format!("{prefix}{name}")));
        for folder in [&old, &other, &path("mine")] {
            fs::DirBuilder::new().mode(0o700).create(folder).unwrap();
        }
        fs::write(&file, "").unwrap();
        symlink(path("mine"), &link).unwrap();
        remove_left(base.path(), Path::new(SOCKET), "a");
        assert!(!old.exists());
        assert!([other, path("mine"), file, link].iter().all(|path| path.exists()));
    }

    #[test]
    fn folders_of_running_agents_of_an_earlier_build_stay() {
        let base = TempDir::new().unwrap();
        let socket = Path::new(SOCKET);
        // Named as that build named them. It locked nothing.
        let [own, anothers] = ["a", "b"].map(|agent| {
            let name = format!("agentd-{}{}-Xy12Zz", hash::<4>(SOCKET.as_bytes()), hash::<6>(agent.as_bytes()));
            base.path().join(name)
        });
        for folder in [&own, &anothers] {
            fs::DirBuilder::new().mode(0o700).create(folder).unwrap();
        }
        remove_left(base.path(), socket, "A");
        // An agent has one launcher at a time.
        assert!(anothers.is_dir() && !own.is_dir());
    }

    #[test]
    fn a_folder_of_another_user_is_not_opened() {
        let base = TempDir::new().unwrap();
        let path = base.path().join(format!("{}x", prefix_of_all(Path::new(SOCKET))));
        fs::create_dir(&path).unwrap();
        if nix::unistd::chown(&path, Some(Uid::from_raw(Uid::effective().as_raw() + 1)), None).is_err() {
            return;
        }
        let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        watch.add_watch(&path, AddWatchFlags::IN_OPEN).unwrap();
        remove_if_left(&path);
        assert!(path.is_dir());
        assert_eq!(watch.read_events().err(), Some(Errno::EAGAIN));
        // Proves that opening the folder would have been noticed.
        drop(open_found(&find(&path).unwrap().unwrap().0).unwrap());
        assert!(!watch.read_events().unwrap().is_empty());
    }

    #[test]
    fn a_folder_stays_until_its_launcher_is_killed() {
        let base = TempDir::new().unwrap();
        let make = |agent: &str| Scratch::make(Some(base.path().as_os_str()), Path::new(SOCKET), agent).unwrap();
        let mut other = make("b");
        remove_if_left(other.path());
        assert!(other.path().is_dir());
        let left = other.path().to_owned();
        // As the kernel does when the launcher is killed.
        other.folder = File::open(base.path()).unwrap();
        remove_left(base.path(), Path::new(SOCKET), "a");
        assert!(!left.exists());
    }

    #[test]
    fn a_folder_taken_for_a_leftover_is_created_again() {
        let base = TempDir::new().unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Another daemon's launchers, which check constantly.
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    remove_left(base.path(), Path::new(SOCKET), "b");
                }
            });
            for _ in 0..200 {
                let made = Scratch::make(Some(base.path().as_os_str()), Path::new(SOCKET), "a").unwrap();
                assert!(made.path().is_dir());
                fs::write(made.path().join("file"), "").unwrap();
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn a_folder_name_is_short_and_identifies_agent_and_daemon() {
        let (one, other) = (Path::new("/run/agentd/launch.sock"), Path::new("/home/a/launch.sock"));
        assert_eq!(prefix(one, "Reviewer"), prefix(one, "reviewer"));
        assert!(prefix(one, "a") != prefix(one, "b") && prefix(one, "a") != prefix(other, "a"));
        assert!(prefix(one, &"x".repeat(64)).len() < 32);
        assert!(prefix(one, "a").starts_with(&prefix_of_all(one)));
        for prefix in [prefix(one, "a"), former_prefix(one, "a")] {
            assert!(is_named_like_one(OsStr::new(&(prefix + "Xy12Zz"))));
        }
        assert!(!is_named_like_one(OsStr::new("agentd-tools")) && !is_named_like_one(OsStr::new("agentd-t")));
    }
}
