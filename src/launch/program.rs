//! Finds the launcher's program: beside agentd's own, unless another is named.
//!
//! The daemon finds it when it starts, and names it by its path from then on: tmux starts it as the agent user, in each pane.
//! Where each build has its own folders, as in the Nix store, it stays that of the daemon's build for as long as the daemon runs.
//! Where builds replace each other in one folder (`cargo install`), it may be of a later build, and identifies itself by the
//! version of the protocol that it [speaks](crate::launch::protocol::WIRE_VERSION).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The program's file name.
pub const NAME: &str = "agentd-launcher";

/// Why agents cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system does not reveal where agentd is.
    #[error("failed to find agentd's own executable: {0}")]
    Own(#[source] io::Error),
    /// The file cannot be examined.
    #[error(
        "failed to find the launcher {}: {source}; install {NAME} beside agentd (cargo build and cargo install make both), or name it with --launcher",
        path.display()
    )]
    Missing {
        /// The path that was tried.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The path is not a regular file.
    #[error("the launcher {} is not a regular file; name the program {NAME} with --launcher", .0.display())]
    NotFile(PathBuf),
    /// The file is not executable.
    #[error("the launcher {} cannot be run by agents (its mode is {mode:04o}); chmod 755 it", path.display())]
    NotExecutable {
        /// The path of the file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// Finds the launcher's program: the one that was named, or the one beside agentd.
pub fn find(named: Option<&Path>) -> Result<PathBuf, Error> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => std::env::current_exe().map_err(Error::Own)?.with_file_name(NAME),
    };
    let metadata = path.metadata().map_err(|source| Error::Missing { path: path.clone(), source })?;
    let mode = metadata.permissions().mode() & 0o7777;
    if !metadata.is_file() {
        Err(Error::NotFile(path))
    } else if mode & 0o111 == 0 {
        Err(Error::NotExecutable { path, mode })
    } else {
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_named_launcher_must_be_a_file_that_can_be_run() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("launcher");
        let missing = find(Some(&path)).unwrap_err().to_string();
        assert!(missing.contains(path.to_str().unwrap()) && missing.contains("--launcher"), "{missing}");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(find(Some(&path)), Err(Error::NotExecutable { mode: 0o644, .. })));
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(Some(&path)).unwrap(), path);
        assert!(matches!(find(Some(folder.path())), Err(Error::NotFile(_))));
    }

    #[test]
    fn the_launcher_is_found_beside_agentd() {
        // A test program is in a separate folder, without a launcher.
        let Err(Error::Missing { path, .. }) = find(None) else { panic!("it is missing") };
        assert_eq!(path.parent(), std::env::current_exe().unwrap().parent());
        assert!(path.ends_with(NAME));
    }
}
