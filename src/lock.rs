//! One daemon for each state directory: a lock that the kernel gives up when its holder dies, however it dies.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::{O_CLOEXEC, O_NOFOLLOW};

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon has it.
    #[error("another agentd{} runs on {}; stop it first, or give this one another --state-dir", holder(pid.as_deref()), directory.display())]
    Held {
        /// The state directory.
        directory: PathBuf,
        /// The other's process id, when it has said.
        pid: Option<String>,
    },
    /// The directory or the file in it cannot be used.
    #[error("failed to lock the state directory {}: {source}", directory.display())]
    System {
        /// The state directory.
        directory: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

fn holder(pid: Option<&str>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// The lock, for as long as it lives.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Makes the directory (0700) if it is missing, and takes the lock.
    pub fn take(directory: &Path) -> Result<Self, Error> {
        let failed = |source| Error::System { directory: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(O_NOFOLLOW | O_CLOEXEC);
        let file = options.open(directory.join("lock")).map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.rewind().and_then(|()| file.set_len(0)).map_err(failed)?;
                writeln!(file, "{}", std::process::id()).map_err(failed)?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                // Without its number the message is still true.
                let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut pid);
                let pid = Some(pid.trim().to_owned()).filter(|pid| !pid.is_empty());
                Err(Error::Held { directory: directory.to_owned(), pid })
            }
            Err((_, error)) => Err(failed(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let directory = tempfile::TempDir::new().unwrap();
        let state = directory.path().join("a/b");
        let _first = Lock::take(&state).unwrap();
        let error = Lock::take(&state).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    }

    #[test]
    fn the_lock_is_free_after_its_holder() {
        let directory = tempfile::TempDir::new().unwrap();
        drop(Lock::take(directory.path()).unwrap());
        Lock::take(directory.path()).unwrap();
    }
}
