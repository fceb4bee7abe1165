//! The way to a folder or a file, gone along by root: where others could lead it astray, links are not followed.
//!
//! Nobody but root can change what stands in a folder that is root's and that no one else may write in, or what is root's in a
//! folder of root's with the sticky bit. Any other link may have been put there by somebody who wants root to read, make or change
//! something elsewhere. Without root there is nothing to be had by that, and all links are followed.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::Uid;

/// Why root does not go there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error("{}: {source}", path.display())]
    System {
        /// Where.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A link on the way could be anybody's.
    #[error("{} is a link in a folder that others than root can write in, and is not followed", .0.display())]
    Link(PathBuf),
    /// A folder on the way could be exchanged, or the last one written in.
    #[error("{} has owner {owner} and mode {mode:04o}, so that others than root can change what is below it", path.display())]
    Shared {
        /// The folder.
        path: PathBuf,
        /// The user it belongs to.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::System { source, .. } => source,
            refusal => Self::other(refusal),
        }
    }
}

/// Opens a folder, for reaching what is in it. What is missing is made with that mode, if one is given.
pub fn go(path: &Path, make: Option<Mode>) -> Result<OwnedFd, Error> {
    walk(path, make, |_, _| Ok(()))
}

/// Likewise, where only root can change anything on the way or in the folder.
pub fn go_safely(path: &Path, make: Option<Mode>) -> Result<OwnedFd, Error> {
    let folder = walk(path, make, |folder, at| check(folder, at, at == path))?;
    // Links that may be followed can still lead through other people's folders.
    let real = fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).map_err(system(path))?;
    for above in real.ancestors() {
        let metadata = fs::metadata(above).map_err(system(above))?;
        judge(metadata.uid(), metadata.mode(), above, above == real)?;
    }
    Ok(folder)
}

fn walk(
    path: &Path,
    make: Option<Mode>,
    pass: impl Fn(&OwnedFd, &Path) -> Result<(), Error>,
) -> Result<OwnedFd, Error> {
    const FOLDER: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
    let mut at = PathBuf::from(if path.is_absolute() { "/" } else { "." });
    let mut folder = open(&at, FOLDER, Mode::empty()).map_err(system(&at))?;
    pass(&folder, &at)?;
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name,
            Component::ParentDir => OsStr::new(".."),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => continue,
        };
        at.push(name);
        let trusts = trusts(&folder, name).map_err(system(&at))?;
        let follow = if trusts { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        let mut next = openat(&folder, name, FOLDER | follow, Mode::empty());
        if let (Err(Errno::ENOENT), Some(mode)) = (&next, make) {
            match mkdirat(&folder, name, mode) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(system(&at)(error)),
            }
            next = openat(&folder, name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty());
        }
        folder = match next {
            Err(Errno::ENOTDIR) if !trusts && is_link(&folder, name) => return Err(Error::Link(at)),
            next => next.map_err(system(&at))?,
        };
        pass(&folder, &at)?;
    }
    Ok(folder)
}

fn system<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |source| Error::System { path, source: source.into() }
}

fn is_link(folder: &OwnedFd, name: &OsStr) -> bool {
    fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|status| status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits())
}

/// Whether a link of that name in that folder may be followed: nobody else can have put it there, or exchange it.
pub fn trusts(folder: &OwnedFd, name: &OsStr) -> nix::Result<bool> {
    if !Uid::effective().is_root() {
        return Ok(true);
    }
    let status = fstat(folder)?;
    if status.st_uid != 0 || status.st_mode & 0o022 == 0 {
        return Ok(status.st_uid == 0);
    }
    let is_sticky = status.st_mode & Mode::S_ISVTX.bits() != 0;
    Ok(is_sticky && fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|status| status.st_uid == 0))
}

fn check(folder: &OwnedFd, path: &Path, is_last: bool) -> Result<(), Error> {
    let status = fstat(folder).map_err(system(path))?;
    judge(status.st_uid, status.st_mode, path, is_last)
}

/// What is another's in a folder with the sticky bit cannot be exchanged; but things can be added there.
fn judge(owner: u32, mode: u32, path: &Path, is_last: bool) -> Result<(), Error> {
    let is_sticky = mode & Mode::S_ISVTX.bits() != 0;
    let is_kept = owner == 0 && (mode & 0o022 == 0 || is_sticky && !is_last);
    if is_kept || !Uid::effective().is_root() {
        return Ok(());
    }
    Err(Error::Shared { path: path.to_owned(), owner, mode: mode & 0o7777 })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    const MODE: Option<Mode> = Some(Mode::S_IRWXU);

    /// A folder that is everybody's, in which `link` leads to `goal`, and one that is the owner's, in which it does too.
    fn folders() -> (TempDir, PathBuf, PathBuf) {
        let directory = TempDir::new().unwrap();
        let (shared, own) = (directory.path().join("shared"), directory.path().join("own"));
        fs::create_dir(directory.path().join("goal")).unwrap();
        for (folder, mode) in [(&shared, 0o777), (&own, 0o755)] {
            fs::create_dir(folder).unwrap();
            symlink("../goal", folder.join("link")).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
        (directory, shared, own)
    }

    #[test]
    fn what_is_missing_is_made_if_it_should_be() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a/./b/../c");
        assert!(
            matches!(go(&path, None), Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::NotFound)
        );
        go(&path, MODE).unwrap();
        go_safely(&path, None).unwrap();
        assert!(directory.path().join("a/b").is_dir() && directory.path().join("a/c").is_dir());
    }

    #[test]
    fn a_link_that_may_be_anybodys_is_not_followed_by_root() {
        let (_directory, shared, own) = folders();
        go(&own.join("link/further"), MODE).unwrap();
        let through = go(&shared.join("link/further"), None);
        if Uid::effective().is_root() {
            assert!(matches!(through, Err(Error::Link(link)) if link == shared.join("link")));
        } else {
            through.unwrap();
        }
        assert!(go(&shared.join("nothing"), None).is_err_and(|error| !matches!(error, Error::Link(_))));
    }

    #[test]
    fn a_folder_that_others_could_exchange_is_not_safe_for_root() {
        let (directory, shared, own) = folders();
        go_safely(&own.join("link"), None).unwrap();
        fs::create_dir(shared.join("kept")).unwrap();
        symlink(shared.join("kept"), own.join("out")).unwrap();
        for path in [shared.join("kept"), shared.join("new"), shared.clone(), own.join("out")] {
            let result = go_safely(&path, MODE);
            if Uid::effective().is_root() {
                let Err(Error::Shared { path: culprit, mode, .. }) = result else { panic!("{result:?}") };
                assert_eq!((culprit, mode), (shared.canonicalize().unwrap(), 0o777));
            } else {
                result.unwrap();
            }
        }
        assert_eq!(shared.join("new").exists(), !Uid::effective().is_root());
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
        go_safely(&shared.join("kept"), None).unwrap();
        assert_eq!(go_safely(&shared, None).is_err(), Uid::effective().is_root());
        drop(directory);
    }
}
