//! The terminal socket's file, in a folder that no agent user can change.

use std::io;
use std::path::Path;

use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Gid, Uid};

use crate::sys::PathError;
use crate::sys::safe_path;
use crate::sys::unix_socket::{self, Bound, Error};

/// Binds the socket: mode 0660 for `group`, or 0600 without a group.
///
/// Creates missing folders: with mode 0755 for a group, else 0700. Refuses a folder that others than its owner can change: an agent that
/// could replace the socket would get what operators type. The umask belongs to the whole process: call this while there is one thread.
pub fn bind(path: &Path, group: Option<Gid>) -> Result<Bound, Error> {
    unix_socket::check_length(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    check_folder(folder, group.is_some())?;
    let private = Mode::S_IRUSR | Mode::S_IWUSR;
    let bound = unix_socket::bind(path, private)?;
    let right = if group.is_some() { private | Mode::S_IRGRP | Mode::S_IWGRP } else { private };
    bound.address.restrict(group, right)?;
    Ok(bound)
}

fn check_folder(folder: &Path, is_shared: bool) -> Result<(), Error> {
    let mode = Mode::from_bits_truncate(if is_shared { 0o755 } else { 0o700 });
    let opened = unix_socket::with_umask(Mode::empty(), || safe_path::open_dir(folder, Some(mode)));
    let opened = opened.map_err(io::Error::from).map_err(PathError::of("open the folder", folder))?;
    let status = fstat(&opened).map_err(PathError::of("examine", folder))?;
    let refused = |problem| Err(Error::Folder { path: folder.to_owned(), problem });
    if status.st_uid != Uid::effective().as_raw() && status.st_uid != 0 {
        return refused("another user owns it");
    }
    if status.st_mode & 0o022 != 0 {
        return refused("others may write in it; chmod go-w it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn socket_has_its_mode_and_its_folder_too() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        for (folder, group, modes) in
            [("own", None, (0o700, 0o600)), ("shared", Some(Gid::effective()), (0o755, 0o660))]
        {
            let path = directory.path().join(folder).join("terminal.sock");
            let bound = bind(&path, group).unwrap();
            assert_eq!((mode(path.parent().unwrap()), mode(&path)), modes);
            drop(bound);
            assert!(!path.exists());
        }
    }

    #[test]
    fn folder_that_others_may_change_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o775, 0o757, 0o1777] {
            fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
            let error = bind(&directory.path().join("terminal.sock"), None).unwrap_err().to_string();
            assert!(error.contains("others may write in it"), "{mode:o}: {error}");
        }
    }
}
