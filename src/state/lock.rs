//! The lock on the state directory: one daemon at a time. The kernel releases it when its holder dies, however it dies.
//!
//! The directory itself is locked, which needs no space on its disk. A file in it names the holder, for people.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW};
use nix::sys::stat::Mode;

use crate::sys::PathError;
use crate::sys::process::Process;
use crate::sys::procfs;
use crate::sys::safe_path;

/// How long a child of a daemon that has ended may still hold the lock: from its fork until it executes its program.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon holds the lock.
    #[error("another agentd{} runs on {}; stop it first, or give this one another --state-dir", holder(*pid), directory.display())]
    Held {
        /// The state directory.
        directory: PathBuf,
        /// The other daemon's process id, if known.
        pid: Option<i32>,
    },
    /// Another user could write to the directory, and so control this daemon.
    #[error("failed to use the state directory {}: {source}; make it root's own, or name another --state-dir", directory.display())]
    Unsafe {
        /// The state directory.
        directory: PathBuf,
        /// What is wrong with it.
        source: safe_path::Error,
    },
    /// The directory or the file in it cannot be used.
    #[error(transparent)]
    System(#[from] PathError),
}

fn holder(pid: Option<i32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

fn write(holder: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(O_NOFOLLOW | O_CLOEXEC);
    writeln!(options.open(holder)?, "{}", std::process::id())
}

/// The lock, held until this is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Creates the directory (0700) if it is missing, and takes the lock.
    ///
    /// For root, no other user may be able to change anything in the directory or on the path to it.
    pub fn take(directory: &Path) -> Result<Self, Error> {
        let failed = |source| Error::from(PathError::new("lock the state directory", directory, source));
        safe_path::open_private_dir(directory, Some(Mode::S_IRWXU)).map_err(|error| match error {
            safe_path::Error::System(PathError { source, .. }) => failed(source),
            source => Error::Unsafe { directory: directory.to_owned(), source },
        })?;
        let mut file =
            OpenOptions::new().read(true).custom_flags(O_DIRECTORY | O_CLOEXEC).open(directory).map_err(failed)?;
        let holder = directory.join("pid");
        let limit = Instant::now() + RELEASE_TIMEOUT;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    // The lock holds even if this cannot be written.
                    let _ = write(&holder);
                    return Ok(Self { _file: file });
                }
                Err((again, Errno::EWOULDBLOCK)) => {
                    // Without the process id, the message is still true.
                    let pid = procfs::read(&holder).ok().and_then(|text| procfs::number(text.trim_ascii()));
                    let has_ended = pid.is_some_and(|pid| Process::find(pid).is_ok_and(|process| process.is_none()));
                    if !has_ended || Instant::now() >= limit {
                        return Err(Error::Held { directory: directory.to_owned(), pid });
                    }
                    std::thread::sleep(Duration::from_millis(5));
                    file = again;
                }
                Err((_, error)) => return Err(failed(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_second_daemon_learns_the_process_id_of_the_first() {
        let directory = tempfile::TempDir::new().unwrap();
        let state = directory.path().join("a/b");
        let _first = Lock::take(&state).unwrap();
        let error = Lock::take(&state).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_lock_whose_holder_has_ended_is_waited_for() {
        let directory = tempfile::TempDir::new().unwrap();
        let first = Lock::take(directory.path()).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        fs::write(directory.path().join("pid"), child.id().to_string()).unwrap();
        let start = Instant::now();
        assert!(matches!(Lock::take(directory.path()), Err(Error::Held { .. })));
        assert!(start.elapsed() >= RELEASE_TIMEOUT);
        let path = directory.path().to_owned();
        let second = std::thread::spawn(move || Lock::take(&path).map(drop));
        drop(first);
        second.join().unwrap().unwrap();
    }

    #[test]
    fn the_lock_is_free_after_its_holder_ends() {
        let directory = tempfile::TempDir::new().unwrap();
        drop(Lock::take(directory.path()).unwrap());
        Lock::take(directory.path()).unwrap();
    }
}
