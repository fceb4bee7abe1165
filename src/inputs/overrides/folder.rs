//! The folder of the overrides: made by root through descriptors, and checked each time.
//!
//! Members of the operators' group write to it. Root follows no link in it, and enters no file system that a user serves.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};

use crate::sys::PathError;
use crate::sys::safe_path;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not exist.
    #[error("{} does not exist", .0.display())]
    Absent(PathBuf),
    /// It belongs to somebody else.
    #[error("{} belongs to the user with uid {owner}, and not to uid {right}; move it away, so that agentd can make it", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// The uid of its owner.
        owner: u32,
        /// The uid of the owner that it should have.
        right: u32,
    },
    /// It cannot be opened, made, or changed.
    #[error(transparent)]
    Path(#[from] safe_path::Error),
}

/// Opens the folder so that it can be listed, and corrects its group and mode. Makes it if `makes` is set and it does not exist.
///
/// As root it is `root:GROUP` 2770, else the user's own with mode 0700.
pub fn open(path: &Path, group: Gid, makes: bool) -> Result<OwnedFd, Error> {
    let is_root = Uid::effective().is_root();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(safe_path::Error::from(PathError::new("open", path, Errno::EINVAL)).into());
    };
    // A folder that others could replace is none to obey.
    let parent = if is_root {
        safe_path::open_private_dir(parent, None)
    } else {
        safe_path::open_dir(parent, makes.then_some(Mode::S_IRWXU))
    };
    let parent = parent.map_err(|error| absent(path, error))?;
    let folder = match safe_path::open_dir_at(&parent, name, path).map_err(|error| absent(path, error)) {
        Err(Error::Absent(_)) if makes => {
            match mkdirat(&parent, name, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(safe_path::Error::from(PathError::new("make", path, error)).into()),
            }
            safe_path::open_dir_at(&parent, name, path)?
        }
        folder => folder?,
    };
    correct(&folder, path, group, is_root)?;
    Ok(folder)
}

/// Opens a folder in that of the overrides, of the same owner, group and mode, and makes it if it does not exist.
pub fn open_inside(parent: &OwnedFd, name: &str, path: &Path, group: Gid) -> Result<OwnedFd, Error> {
    let is_root = Uid::effective().is_root();
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(safe_path::Error::from(PathError::new("make", path, error)).into()),
    }
    let folder = safe_path::open_dir_at(parent, name.as_ref(), path)?;
    correct(&folder, path, group, is_root)?;
    Ok(folder)
}

/// Whether that failed because nothing is there.
fn absent(path: &Path, error: safe_path::Error) -> Error {
    match error {
        safe_path::Error::System(PathError { ref source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Error::Absent(path.to_owned())
        }
        error => Error::Path(error),
    }
}

fn correct(folder: &OwnedFd, path: &Path, group: Gid, is_root: bool) -> Result<(), Error> {
    let failed = |operation: &'static str| {
        move |error: Errno| Error::Path(safe_path::Error::from(PathError::new(operation, path, error)))
    };
    let FileStat { st_uid: owner, st_gid, st_mode, .. } = fstat(folder.as_fd()).map_err(failed("examine"))?;
    let right = Uid::effective().as_raw();
    if owner != right {
        return Err(Error::Foreign { path: path.to_owned(), owner, right });
    }
    let mode = if is_root { Mode::from_bits_truncate(0o2770) } else { Mode::S_IRWXU };
    let is_groups = !is_root || st_gid == group.as_raw();
    if !is_groups {
        fchown(folder.as_fd(), None, Some(group)).map_err(failed("change the group of"))?;
    }
    if !is_groups || st_mode & 0o7777 != mode.bits() {
        fchmod(folder.as_fd(), mode).map_err(failed("change the mode of"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_folder_is_made_only_on_request_and_kept_right() {
        let root = TempDir::new().unwrap();
        let path = root.path().join("overrides");
        let group = Gid::effective();
        assert!(matches!(open(&path, group, false), Err(Error::Absent(_))));
        open(&path, group, true).unwrap();
        let right = if Uid::effective().is_root() { 0o2770 } else { 0o700 };
        assert_eq!(mode(&path), right);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        open(&path, group, false).unwrap();
        assert_eq!(mode(&path), right);
    }

    #[test]
    fn a_link_or_a_file_in_its_place_is_refused() {
        let root = TempDir::new().unwrap();
        let (goal, link, file) = (root.path().join("goal"), root.path().join("link"), root.path().join("file"));
        fs::create_dir(&goal).unwrap();
        symlink(&goal, &link).unwrap();
        fs::write(&file, "").unwrap();
        for path in [link, file] {
            assert!(matches!(open(&path, Gid::effective(), true), Err(Error::Path(_))), "{}", path.display());
        }
        assert_ne!(mode(&goal), 0o2770);
    }
}
