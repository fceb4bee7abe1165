//! An attempt's own folder for temporary files, which goes when the attempt does.
//!
//! Harnesses leave much in `/tmp`, whole libraries and conversations among it, by names that the next one takes for its own. So each
//! attempt finds in `TMPDIR` a folder that nobody else has. It is made and removed with the agent user's rights.
//!
//! Its launcher has it locked (`flock(2)`) for as long as it lives. One that is not locked was left by a launcher that was killed, and
//! is removed by the next one of the same daemon, of whatever agent. Names alone do not tell: two daemons in different mount namespaces
//! can have the same path of a socket, and one `/tmp`. systemd, too, leaves alone what is locked when it clears away what is old in
//! `/tmp` (`tmpfiles.d(5)`).

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::{Uid, mkdtemp};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

/// The variable that names it.
pub const VARIABLE: &str = "TMPDIR";

/// Where it is made if the login shell does not say.
const USUAL: &str = "/tmp";

/// How often one is made that another launcher takes for left behind, in the instant before it is locked.
const TRIES: u32 = 100;

/// One of them. It is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Locked for as long as it is open.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is only held"))]
    folder: File,
}

impl Scratch {
    /// A new one, for its owner only, in `base` if that is given; its name begins with `prefix`. Those that begin with `all` and that
    /// earlier attempts have left there are removed meanwhile.
    pub fn make(base: Option<&OsStr>, prefix: &str, all: &str) -> io::Result<Self> {
        let base = base.filter(|base| !base.is_empty()).map_or(Path::new(USUAL), Path::new);
        let left = with_prefix(base, all);
        if !left.is_empty() {
            // It may take its time, and nobody needs to wait.
            std::thread::Builder::new().spawn(move || left.iter().for_each(|path| remove_if_left(path)))?;
        }
        for _ in 0..TRIES {
            let path = mkdtemp(&base.join(format!("{prefix}XXXXXX")))?;
            if let Some(folder) = lock(&path)?.filter(|folder| is_at(folder, &path)) {
                return Ok(Self { path, folder });
            }
        }
        Err(io::Error::other("each folder that it makes is taken away"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// What the names of an agent's folders begin with. Short: sockets are made in them, whose paths have 107 bytes at most.
pub fn prefix(socket: &Path, agent: &str) -> String {
    format!("{}{}-", prefix_of_all(socket), hash::<6>(agent.to_ascii_lowercase().as_bytes()))
}

/// What the names of the folders of all agents of one daemon begin with.
pub fn prefix_of_all(launch_socket: &Path) -> String {
    format!("agentd-{}", hash::<4>(launch_socket.as_os_str().as_bytes()))
}

/// The beginning of a hash, so long that no two of one machine ever have the same: each would remove what is the other's.
fn hash<const BYTES: usize>(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(BYTES).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// What has such a name.
fn with_prefix(base: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().as_bytes().starts_with(prefix.as_bytes()));
    named.map(|entry| entry.path()).collect()
}

/// The folder, locked for as long as it is open; `None` if another has it locked, or it is gone.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let folder = match OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        folder => folder?,
    };
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        // A file system without locks has folders all the same, and nobody who removes them.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOLCK | rustix::io::Errno::NOSYS) => Ok(Some(folder)),
        locked => locked.map(|()| Some(folder)).map_err(io::Error::from),
    }
}

/// Whether it is there, and was not removed before it was locked.
fn is_at(folder: &File, path: &Path) -> bool {
    let identity = |it: fs::Metadata| (it.dev(), it.ino());
    let there = fs::symlink_metadata(path).map(identity).ok();
    there.is_some() && there == folder.metadata().map(identity).ok()
}

/// Removes a folder of our own user's whose launcher is no more. What is not known to be that stays.
fn remove_if_left(path: &Path) {
    if let Ok(folder) = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)
        && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok()
        && folder.metadata().is_ok_and(|it| it.uid() == Uid::effective().as_raw())
    {
        remove(path);
    }
}

/// As far as that can be done. Links are removed, not followed.
fn remove(path: &Path) {
    if fs::remove_dir_all(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
        // Somebody has made folders in it that even their owner may not change.
        open_up(path);
        let _ = fs::remove_dir_all(path);
    }
}

fn open_up(path: &Path) {
    let mut ahead = vec![path.to_owned()];
    while let Some(folder) = ahead.pop() {
        let _ = fs::set_permissions(&folder, fs::Permissions::from_mode(0o700));
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        ahead.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, symlink};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn it_is_its_owners_alone_and_goes_with_all_that_is_in_it() {
        let base = TempDir::new().unwrap();
        let precious = base.path().join("precious");
        fs::write(&precious, "").unwrap();
        let scratch = Scratch::make(Some(base.path().as_os_str()), "agentd-x-a-", "agentd-x-").unwrap();
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
    fn what_an_earlier_attempt_left_goes_and_what_is_somebody_elses_stays() {
        let base = TempDir::new().unwrap();
        let path = |name: &str| base.path().join(name);
        for name in ["agentd-x-old", "agentd-y-other", "mine"] {
            fs::DirBuilder::new().mode(0o700).create(path(name)).unwrap();
        }
        fs::write(path("agentd-x-file"), "").unwrap();
        symlink(path("mine"), path("agentd-x-link")).unwrap();
        let _scratch = Scratch::make(Some(base.path().as_os_str()), "agentd-x-a-", "agentd-x-").unwrap();
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while path("agentd-x-old").exists() {
            assert!(std::time::Instant::now() < limit);
            std::thread::yield_now();
        }
        assert!(["agentd-y-other", "mine", "agentd-x-file", "agentd-x-link"].iter().all(|name| path(name).exists()));
    }

    #[test]
    fn what_another_launcher_uses_stays_until_that_is_killed() {
        let base = TempDir::new().unwrap();
        let make = |agent: &str| Scratch::make(Some(base.path().as_os_str()), agent, "agentd-x-").unwrap();
        let mut other = make("agentd-x-b-");
        remove_if_left(other.path());
        assert!(other.path().is_dir());
        let left = other.path().to_owned();
        // As the kernel does it.
        other.folder = File::open(base.path()).unwrap();
        let _scratch = make("agentd-x-a-");
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while left.exists() {
            assert!(std::time::Instant::now() < limit);
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_that_is_taken_for_left_behind_is_made_again() {
        let base = TempDir::new().unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Another daemon's launchers, which look all the time.
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    for path in with_prefix(base.path(), "agentd-x-") {
                        remove_if_left(&path);
                    }
                }
            });
            for _ in 0..200 {
                let made = Scratch::make(Some(base.path().as_os_str()), "agentd-x-a-", "agentd-y-").unwrap();
                assert!(made.path().is_dir());
                fs::write(made.path().join("file"), "").unwrap();
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn its_name_is_short_and_tells_agents_and_daemons_apart() {
        let (one, other) = (Path::new("/run/agentd/launch.sock"), Path::new("/home/a/launch.sock"));
        assert_eq!(prefix(one, "Reviewer"), prefix(one, "reviewer"));
        assert!(prefix(one, "a") != prefix(one, "b") && prefix(one, "a") != prefix(other, "a"));
        assert!(prefix(one, &"x".repeat(64)).len() < 32);
        assert!(prefix(one, "a").starts_with(&prefix_of_all(one)));
    }
}
