//! Removes folders with everything in them, however deep they are.
//!
//! `std::fs::remove_dir_all` needs a descriptor and room on the stack for each level, and gives up, or crashes, at a depth that any
//! program can make. This needs two descriptors. It goes back up by `..`, and only to the folder that it came from: should somebody
//! move a folder meanwhile, what is elsewhere now is left alone.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// A folder on the way down.
struct Level {
    id: (u64, u64),
    /// The folders in it that are still to be removed. The last is the one that was entered.
    folders: Vec<OsString>,
}

/// Removes as much as possible of what is at this path. Links are removed, not followed, and folders that their owner cannot enter are
/// made so that they can be.
pub fn remove(path: &Path) -> io::Result<()> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EINVAL.into()) };
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let above = open(above, flags, Mode::empty())?;
    let mut result = Ok(());
    let mut note = |error: io::Error| {
        if result.is_ok() {
            result = Err(error);
        }
    };
    let mut levels = vec![Level { id: id(&above)?, folders: vec![name.to_owned()] }];
    let mut folder = above;
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.folders.last() else {
            // Everything in this folder was looked at.
            levels.pop();
            let Some(above) = levels.last_mut() else { break };
            let up = openat(&folder, "..", flags, Mode::empty())?;
            if id(&up)? != above.id {
                return Err(io::Error::other("a folder was moved while it was removed"));
            }
            folder = up;
            if let Some(name) = above.folders.pop() {
                unlinkat(&folder, &*name, UnlinkatFlags::RemoveDir).map_err(Into::into).unwrap_or_else(&mut note);
            }
            continue;
        };
        match enter(&folder, name).and_then(|below| Ok((id(&below)?, empty(&below, &mut note)?, below))) {
            Ok((id, folders, below)) => {
                levels.push(Level { id, folders });
                folder = below;
            }
            Err(error) => {
                let is_other = matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOTDIR | Errno::ELOOP));
                let removed = unlinkat(&folder, &**name, UnlinkatFlags::NoRemoveDir);
                removed.map_err(|errno| if is_other { errno.into() } else { error }).unwrap_or_else(&mut note);
                level.folders.pop();
            }
        }
    }
    result
}

fn id(folder: impl AsFd) -> io::Result<(u64, u64)> {
    let status = fstat(folder)?;
    Ok((status.st_dev, status.st_ino))
}

/// Opens a folder, which its owner can change afterwards.
fn enter(above: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = openat(above, name, flags, Mode::empty())?;
    if fstat(&folder)?.st_mode & 0o700 != 0o700 {
        // What is at this path is what was opened.
        fs::set_permissions(format!("/proc/self/fd/{}", folder.as_raw_fd()), Permissions::from_mode(0o700))?;
    }
    Ok(folder)
}

/// Removes what is in a folder, but for folders, and returns the names of these.
fn empty(folder: &OwnedFd, mut note: impl FnMut(io::Error)) -> io::Result<Vec<OsString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut entries = Dir::from_fd(openat(folder, ".", flags, Mode::empty())?)?;
    let entries: Vec<(OsString, Option<Type>)> = entries
        .iter()
        .flatten()
        .map(|entry| (OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(), entry.file_type()))
        .filter(|(name, _)| name != "." && name != "..")
        .collect();
    let mut folders = Vec::new();
    for (name, kind) in entries {
        if kind == Some(Type::Directory) {
            folders.push(name);
            continue;
        }
        match unlinkat(folder, &*name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => {}
            Err(Errno::EISDIR) => folders.push(name),
            Err(errno) => note(errno.into()),
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn folders_nested_without_end_are_removed() {
        const DEPTH: usize = 30_000;
        let place = TempDir::new().unwrap();
        let top = place.path().join("top");
        fs::create_dir(&top).unwrap();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut folder = open(&top, flags, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            nix::sys::stat::mkdirat(&folder, "d", Mode::S_IRWXU).unwrap();
            folder = openat(&folder, "d", flags, Mode::empty()).unwrap();
        }
        remove(&top).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_removed_and_closed_folders_opened() {
        let place = TempDir::new().unwrap();
        let at = |name: &str| place.path().join(name);
        for folder in ["kept", "top/a/b", "top/closed/x", "top/c"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for file in ["kept/file", "top/file", "top/a/b/file", "top/closed/x/file"] {
            fs::write(at(file), "").unwrap();
        }
        symlink(at("kept"), at("top/a/link")).unwrap();
        fs::set_permissions(at("top/closed/x"), Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(at("top/closed"), Permissions::from_mode(0o500)).unwrap();
        remove(&at("top")).unwrap();
        assert!(!at("top").exists() && at("kept/file").exists());
        symlink(at("kept"), at("link")).unwrap();
        remove(&at("link")).unwrap();
        assert!(fs::symlink_metadata(at("link")).is_err() && at("kept/file").exists());
        assert_eq!(remove(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
