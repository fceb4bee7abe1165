//! Finds what a path leads to by links that no agent can have placed.
//!
//! A sandboxed agent that can write in a folder can replace what is in it by a link to something that its sandbox does not show.
//! Whoever follows such a link on behalf of the agent, with all rights of its user, hands that over. So no link is followed in a
//! folder that this process's user, or everybody, can write to. Each part of a path is opened by itself, and so cannot be replaced
//! between the check and the use.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use nix::unistd::Uid;

use crate::sys::PathError;

/// How many links a path may have, as in the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Why a path was not followed to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error(transparent)]
    System(#[from] PathError),
    /// A link on the path is in a folder that this user can write to.
    #[error("{} is a link that the agent user can replace", .0.display())]
    Link(PathBuf),
}

impl Error {
    /// The kernel's reason, if it was the kernel that refused.
    pub fn system(&self) -> Option<&io::Error> {
        match self {
            Self::System(error) => Some(&error.source),
            Self::Link(_) => None,
        }
    }
}

/// What a path leads to.
#[derive(Debug)]
pub struct Found {
    /// The file, opened without the right to read or write it (`O_PATH`).
    pub file: OwnedFd,
    /// Its path, which has no links.
    pub path: PathBuf,
    /// Its metadata.
    pub status: FileStat,
    /// Whether this process's user can put something else in its place.
    pub is_replaceable: bool,
}

impl Found {
    fn of(file: OwnedFd, path: PathBuf, is_replaceable: bool) -> Result<Self, Error> {
        let status = fstat(&file).map_err(PathError::of("examine", &path))?;
        Ok(Self { file, path, status, is_replaceable })
    }

    /// The type of the file.
    pub fn kind(&self) -> SFlag {
        kind(&self.status)
    }

    /// Opens the file itself for reading, whatever is at its path by now.
    pub fn open(&self) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(open(path.as_str(), flags, Mode::empty())?.into())
    }
}

const ENTRY: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Follows an absolute path.
pub fn find(path: &Path) -> Result<Found, Error> {
    follow(root()?, path, None)
}

/// Follows a path that begins in this folder, however that is reached, and makes the folders that are missing at its end with this
/// mode if one is given.
pub fn find_below(folder: &Path, rest: &Path, make: Option<Mode>) -> Result<Found, Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let start = open(folder, flags, Mode::empty()).map_err(PathError::of("open", folder))?;
    follow(Found::of(start, folder.to_owned(), true)?, rest, make)
}

fn follow(mut at: Found, path: &Path, make: Option<Mode>) -> Result<Found, Error> {
    let (mut left, mut links) = (Vec::new(), 0);
    prepend(&mut left, path);
    while let Some(name) = left.pop() {
        let above = at.path.clone();
        let below = if name == ".." { above.parent().unwrap_or(&above).to_owned() } else { above.join(&name) };
        let mut entry = openat(&at.file, &*name, ENTRY, Mode::empty());
        if let (Err(Errno::ENOENT), Some(mode)) = (&entry, make) {
            match mkdirat(&at.file, &*name, mode) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(PathError::new("make", &below, errno).into()),
            }
            entry = openat(&at.file, &*name, ENTRY, Mode::empty());
        }
        let entry = entry.map_err(PathError::of("open", &below))?;
        let found = Found::of(entry, below, true)?;
        let is_replaceable = is_replaceable(&at.status, &found.status, Uid::effective());
        if found.kind() != SFlag::S_IFLNK {
            at = Found { is_replaceable, ..found };
            continue;
        }
        if is_replaceable {
            return Err(Error::Link(found.path));
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(PathError::new("follow", found.path, Errno::ELOOP).into());
        }
        let target = readlinkat(&found.file, "").map_err(PathError::of("follow", &found.path))?;
        let target = Path::new(&target);
        prepend(&mut left, target);
        if target.is_absolute() {
            at = root()?;
        }
    }
    Ok(at)
}

fn root() -> Result<Found, Error> {
    let path = PathBuf::from("/");
    Found::of(open(&path, ENTRY, Mode::empty()).map_err(PathError::of("open", &path))?, path, false)
}

/// Puts the components of a path before those that are left, the next one last.
fn prepend(left: &mut Vec<OsString>, path: &Path) {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    left.extend(path.components().filter_map(name).rev());
}

/// Whether this process's user can put something else in the place of an entry of this folder.
///
/// Others who are in a group, or in a list of the file system's, count as this user. Root's entries in a folder with the sticky bit
/// stay.
fn is_replaceable(folder: &FileStat, entry: &FileStat, user: Uid) -> bool {
    let is_open = folder.st_mode & 0o022 != 0;
    let is_sticky = folder.st_mode & Mode::S_ISVTX.bits() != 0;
    user.is_root() || folder.st_uid == user.as_raw() || is_open && !(is_sticky && entry.st_uid == 0)
}

fn kind(status: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn place() -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().canonicalize().unwrap();
        fs::create_dir_all(path.join("a/b")).unwrap();
        fs::write(path.join("a/b/file"), "text").unwrap();
        (folder, path)
    }

    #[test]
    fn a_path_without_links_is_found_and_can_be_read() {
        let (_folder, path) = place();
        let found = find(&path.join("a/./b/../b/file")).unwrap();
        assert_eq!((&found.path, found.kind(), found.is_replaceable), (&path.join("a/b/file"), SFlag::S_IFREG, true));
        // What was found is read, and not what has taken its place.
        fs::rename(path.join("a/b/file"), path.join("away")).unwrap();
        fs::write(path.join("a/b/file"), "other").unwrap();
        let mut text = String::new();
        found.open().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
    }

    #[test]
    fn a_link_that_an_agent_can_place_is_not_followed() {
        let (_folder, path) = place();
        symlink(path.join("a"), path.join("link")).unwrap();
        symlink("file", path.join("a/b/last")).unwrap();
        for (given, link) in [("link/b/file", "link"), ("link", "link"), ("a/b/last", "a/b/last")] {
            assert!(matches!(find(&path.join(given)), Err(Error::Link(found)) if found == path.join(link)), "{given}");
        }
    }

    #[test]
    fn missing_folders_are_made_and_links_are_not_passed() {
        let (_folder, path) = place();
        symlink("/nonexistent", path.join("link")).unwrap();
        let make = |rest: &str| find_below(&path, Path::new(rest), Some(Mode::S_IRWXU));
        assert_eq!(make("x/y").unwrap().path, path.join("x/y"));
        assert!(matches!(make("link/y"), Err(Error::Link(link)) if link == path.join("link")));
        // The folder itself may be where a link leads.
        symlink("a", path.join("way")).unwrap();
        assert!(find_below(&path.join("way"), Path::new("b/file"), None).is_ok());
        let missing = find(&path.join("z/y")).unwrap_err();
        assert_eq!(missing.system().map(io::Error::kind), Some(io::ErrorKind::NotFound));
    }

    #[test]
    fn an_entry_is_replaceable_by_who_can_write_to_its_folder() {
        let (_folder, path) = place();
        let status = |path: &Path, owner: u32, mode: u32| {
            let mut status = fstat(open(path, ENTRY, Mode::empty()).unwrap()).unwrap();
            (status.st_uid, status.st_mode) = (owner, mode);
            status
        };
        let (user, others) = (Uid::from_raw(1000), 1001);
        let of = |folder: (u32, u32), entry: u32, user| {
            is_replaceable(&status(&path, folder.0, folder.1), &status(&path, entry, 0o755), user)
        };
        for folder in [(1000, 0o755), (others, 0o775), (0, 0o777), (0, 0o775)] {
            assert!(of(folder, 0, user), "{folder:?}");
        }
        for folder in [(0, 0o755), (others, 0o755)] {
            assert!(!of(folder, 1000, user) && of(folder, 1000, Uid::from_raw(0)), "{folder:?}");
        }
        assert!(!of((0, 0o1777), 0, user) && of((0, 0o1777), others, user) && of((1000, 0o1755), 0, user));
    }
}
