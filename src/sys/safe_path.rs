//! Opens directories as root without following symbolic links that another user could have planted.
//!
//! Only root can change the entries of a directory that belongs to root and that no one else may write to, and root's own entries in
//! a directory of root's with the sticky bit. Any other link may have been planted by a user who wants root to read, create or change
//! something elsewhere. Root resolves each link by itself and judges every link on the way, also those that a link's target leads
//! through. Without root such a link gains nothing, and all links are followed.
//!
//! Root also does not enter file systems that a user's own program serves (FUSE). Such a program may never answer, and a process that
//! waits for it cannot even be killed. Before a directory is entered, it is examined in ways that do not ask that program: `O_PATH`
//! opens a mount without it, and `AT_STATX_DONT_SYNC` makes the kernel answer by itself (`statx(2)`).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::Uid;
use rustix::fs::{AtFlags, StatxFlags, makedev, statx};

use crate::sys::PathError;
use crate::sys::file_id::{FileId, FileVersion};
use crate::sys::procfs;

/// Why a directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error(transparent)]
    System(#[from] PathError),
    /// A link on the path could have been planted by another user.
    #[error("{} is a link in a folder that users other than root can write to, and is not followed", .0.display())]
    Link(PathBuf),
    /// The file system that is mounted there may never answer.
    #[error("{} is served by a program of the user with uid {user} (FUSE), which may never answer, so root does not enter it", path.display())]
    Served {
        /// The mount point.
        path: PathBuf,
        /// The uid of the user who mounted it.
        user: u32,
    },
    /// Another user could replace a directory on the path, or write to the last one.
    #[error("{} has owner {owner} and mode {mode:04o}, so users other than root can change what is below it", path.display())]
    Shared {
        /// The folder.
        path: PathBuf,
        /// The uid of its owner.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::System(PathError { source, .. }) => source,
            refusal => Self::other(refusal),
        }
    }
}

/// The metadata of a file, as far as the kernel knows it without asking the program that serves the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its type and permissions.
    pub mode: u32,
    /// The uid of its owner.
    pub owner: u32,
    /// The gid of its group.
    pub group: u32,
    /// Identifies the file and its last write.
    pub version: FileVersion,
    /// The id of the mount that it is in. Kernels before 5.8 do not report it.
    mount: Option<u64>,
}

impl Look {
    /// Whether it is on the same file system and, as far as the kernel reports that, in the same mount.
    pub fn is_beside(&self, other: &Self) -> bool {
        (self.version.id.device(), self.mount) == (other.version.id.device(), other.mount)
    }
}

/// Examines the entry with this name in a directory, or the directory itself if the name is empty. Follows no link.
pub fn look(folder: impl AsFd, name: &OsStr) -> io::Result<Look> {
    let asks_nobody = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | asks_nobody;
    let status = statx(folder, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    let device = makedev(status.stx_dev_major, status.stx_dev_minor);
    let written = status.stx_mtime;
    let tells_mount = StatxFlags::from_bits_retain(status.stx_mask).contains(StatxFlags::MNT_ID);
    Ok(Look {
        mode: status.stx_mode.into(),
        owner: status.stx_uid,
        group: status.stx_gid,
        version: FileVersion { id: FileId::new(device, status.stx_ino), written: (written.tv_sec, written.tv_nsec) },
        mount: Some(status.stx_mnt_id).filter(|_| tells_mount),
    })
}

/// The version of the file at this path, if there is one that root may examine.
///
/// The file is neither followed nor opened, and no program is asked that might not answer.
pub fn version_at(path: &Path) -> Option<FileVersion> {
    let folder = open_dir(path.parent()?, None).ok()?;
    look(&folder, path.file_name()?).ok().map(|it| it.version)
}

/// Opens a subdirectory, so that it can also be listed. `path` names it in errors.
pub fn open_dir_at(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, Error> {
    let before = mount_of(parent, path)?;
    let folder =
        openat(parent, name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty()).map_err(PathError::of("open", path))?;
    check_served(&folder, before, path)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(openat(&folder, ".", flags, Mode::empty()).map_err(PathError::of("open", path))?)
}

/// Refuses an entry of a directory if it may never answer.
pub fn check_entry(folder: &OwnedFd, name: &OsStr) -> Result<(), Error> {
    let path = Path::new(name);
    let entry = openat(folder, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
    check_served(&entry.map_err(PathError::of("open", path))?, mount_of(folder, path)?, path).map(drop)
}

fn mount_of(opened: &OwnedFd, path: &Path) -> Result<Option<u64>, Error> {
    Ok(look(opened, OsStr::new("")).map_err(PathError::of("examine", path))?.mount)
}

/// Returns the mount of what was opened; `before` is the mount of its parent.
fn check_served(opened: &OwnedFd, before: Option<u64>, path: &Path) -> Result<Option<u64>, Error> {
    let mount = mount_of(opened, path)?;
    if mount != before && Uid::effective().is_root() {
        let mounts =
            procfs::read("/proc/self/mountinfo").map_err(PathError::of("read", Path::new("/proc/self/mountinfo")))?;
        if let Some(user) = mount.and_then(|mount| server_of(&mounts, mount)) {
            return Err(Error::Served { path: path.to_owned(), user });
        }
    }
    Ok(mount)
}

/// The uid of the user who serves the mount with that id, unless it is root, from `/proc/PID/mountinfo`
/// (`proc_pid_mountinfo(5)`).
fn server_of(mounts: &[u8], mount: u64) -> Option<u32> {
    let (number, fields) = (mount.to_string(), |line| <[u8]>::split(line, |&byte| byte == b' '));
    let line = mounts.split(|&byte| byte == b'\n').find(|&line| fields(line).next() == Some(number.as_bytes()))?;
    let mut fields = fields(line).skip_while(|&field| field != b"-").skip(1);
    let kind = fields.next()?;
    if kind != b"fuse" && kind != b"fuseblk" && !kind.starts_with(b"fuse.") {
        return None;
    }
    let options = fields.nth(1)?;
    let user = options.split(|&byte| byte == b',').find_map(|option| option.strip_prefix(b"user_id="))?;
    std::str::from_utf8(user).ok()?.parse().ok().filter(|&user| user != 0)
}

const FOLDER: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Opens a directory in order to reach its entries. Creates what is missing with that mode, if one is given.
pub fn open_dir(path: &Path, make: Option<Mode>) -> Result<OwnedFd, Error> {
    walk(path, make, |_, _| Ok(()))
}

/// Opens a directory, like [`open_dir`], if only root can change it and everything on the path to it.
pub fn open_private_dir(path: &Path, make: Option<Mode>) -> Result<OwnedFd, Error> {
    let folder = walk(path, make, |folder, at| check(folder, at, at == path))?;
    // Links that may be followed can still lead through other users' folders.
    let real =
        fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).map_err(PathError::of("examine", path))?;
    for above in real.ancestors() {
        let metadata = fs::metadata(above).map_err(PathError::of("examine", above))?;
        judge(metadata.uid(), metadata.mode(), above, above == real)?;
    }
    Ok(folder)
}

/// How many links a path may have, as in the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// The components of a path, those of a link's target included.
struct Steps {
    /// The rest of the path, the next component last.
    left: Vec<OsString>,
    links: usize,
}

impl Steps {
    fn of(path: &Path) -> Self {
        let mut steps = Self { left: Vec::new(), links: 0 };
        steps.prepend(path);
        steps
    }

    fn prepend(&mut self, path: &Path) {
        let name = |component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
        };
        self.left.extend(path.components().filter_map(name).rev());
    }

    /// The target of the entry `name` if it is a link that root resolves itself, so that each link is judged by the folder it is in.
    /// `at` names the entry in errors.
    fn target(&mut self, folder: &OwnedFd, name: &OsStr, at: &Path) -> Result<Option<PathBuf>, Error> {
        if !Uid::effective().is_root() || !is_link(folder, name) {
            return Ok(None);
        }
        if !may_follow(folder, name).map_err(PathError::of("examine", at))? {
            return Err(Error::Link(at.to_owned()));
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(PathError::new("follow", at, Errno::ELOOP).into());
        }
        Ok(Some(readlinkat(folder, name).map_err(PathError::of("follow", at))?.into()))
    }
}

fn walk(
    path: &Path,
    make: Option<Mode>,
    pass: impl Fn(&OwnedFd, &Path) -> Result<(), Error>,
) -> Result<OwnedFd, Error> {
    let at = PathBuf::from(if path.is_absolute() { "/" } else { "." });
    let folder = open(&at, FOLDER, Mode::empty()).map_err(PathError::of("open", &at))?;
    pass(&folder, &at)?;
    walk_from(folder, at, &mut Steps::of(path), make, pass)
}

/// Opens the directory that the steps lead to from `folder`, whose path is `at`.
fn walk_from(
    mut folder: OwnedFd,
    mut at: PathBuf,
    steps: &mut Steps,
    make: Option<Mode>,
    pass: impl Fn(&OwnedFd, &Path) -> Result<(), Error>,
) -> Result<OwnedFd, Error> {
    // Root follows links step by step. The kernel follows those of others.
    let no_follow = if Uid::effective().is_root() { OFlag::O_NOFOLLOW } else { OFlag::empty() };
    let mut mount = mount_of(&folder, &at)?;
    while let Some(name) = steps.left.pop() {
        let above = at.clone();
        at.push(&name);
        if let Some(target) = steps.target(&folder, &name, &at)? {
            at = above;
            if target.is_absolute() {
                (folder, at) = root()?;
                mount = mount_of(&folder, &at)?;
            }
            steps.prepend(&target);
            continue;
        }
        let mut next = openat(&folder, &*name, FOLDER | no_follow, Mode::empty());
        if let (Err(Errno::ENOENT), Some(mode)) = (&next, make) {
            match mkdirat(&folder, &*name, mode) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(PathError::new("make", &at, error).into()),
            }
            next = openat(&folder, &*name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty());
        }
        folder = match next {
            // It was replaced by a link after it was examined.
            Err(Errno::ENOTDIR) if is_link(&folder, &name) => return Err(Error::Link(at)),
            next => next.map_err(PathError::of("open", &at))?,
        };
        mount = check_served(&folder, mount, &at)?;
        pass(&folder, &at)?;
    }
    Ok(folder)
}

fn root() -> Result<(OwnedFd, PathBuf), Error> {
    let at = PathBuf::from("/");
    Ok((open(&at, FOLDER, Mode::empty()).map_err(PathError::of("open", &at))?, at))
}

/// Finds where a link in a directory leads: the directory and the name of what is not a link, by links that root may follow.
///
/// `None` if the entry is not a link, or without root, where the kernel follows links.
pub fn resolve(folder: &OwnedFd, name: &OsStr) -> Result<Option<(OwnedFd, OsString)>, Error> {
    let mut at = PathBuf::from(name);
    let mut steps = Steps { left: Vec::new(), links: 0 };
    let Some(mut target) = steps.target(folder, name, &at)? else { return Ok(None) };
    let mut folder = folder.try_clone().map_err(PathError::of("open", &at))?;
    loop {
        if target.is_absolute() {
            (folder, _) = root()?;
        }
        steps.prepend(&target);
        // A target without a name, such as `/`, is a directory.
        let name = if target.file_name().is_some() { steps.left.remove(0) } else { ".".into() };
        let parent = target.parent().map_or_else(PathBuf::new, Path::to_owned);
        folder = walk_from(folder, parent, &mut steps, None, |_, _| Ok(()))?;
        at = target;
        target = match steps.target(&folder, &name, &at)? {
            Some(next) => next,
            None => return Ok(Some((folder, name))),
        };
    }
}

fn is_link(folder: &OwnedFd, name: &OsStr) -> bool {
    look(folder, name).is_ok_and(|it| it.mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits())
}

/// Whether root may follow a link with that name in that directory: no other user can have planted it, or can replace it.
pub fn may_follow(folder: &OwnedFd, name: &OsStr) -> nix::Result<bool> {
    if !Uid::effective().is_root() {
        return Ok(true);
    }
    let status = fstat(folder)?;
    if status.st_uid != 0 || status.st_mode & 0o022 == 0 {
        return Ok(status.st_uid == 0);
    }
    let is_sticky = status.st_mode & Mode::S_ISVTX.bits() != 0;
    Ok(is_sticky && look(folder, name).is_ok_and(|it| it.owner == 0))
}

fn check(folder: &OwnedFd, path: &Path, is_last: bool) -> Result<(), Error> {
    let status = fstat(folder).map_err(PathError::of("examine", path))?;
    judge(status.st_uid, status.st_mode, path, is_last)
}

/// Judges a directory by its owner and mode. Others cannot replace root's entries in a directory with the sticky bit, but they
/// can add entries.
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

    #[test]
    fn a_mount_served_by_a_user_is_recognized() {
        let mounts = b"21 1 0:20 / / rw - ext4 /dev/vda rw\n\
            40 21 0:41 / /run/a\\040b\xff rw,nosuid shared:7 - fuse.sshfs host:/x rw,user_id=47001,group_id=0,allow_other\n\
            41 21 0:42 / /c rw - fuse x rw,user_id=0,group_id=0\n\
            42 21 0:43 / /d rw - fuseblk /dev/sdb rw,user_id=12\n\
            4 21 0:44 / /e rw - tmpfs user_id=5 rw,user_id=5\n";
        let served: Vec<_> = [21, 40, 41, 42, 4, 99].map(|mount| server_of(mounts, mount)).into();
        assert_eq!(served, [None, Some(47001), None, Some(12), None, None]);
    }

    /// A folder that everyone can write to, in which `link` leads to `goal`, and a private one with the same link.
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
    fn missing_folders_are_created_on_request() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a/./b/../c");
        assert!(
            matches!(open_dir(&path, None), Err(Error::System(PathError { source, .. })) if source.kind() == io::ErrorKind::NotFound)
        );
        open_dir(&path, MODE).unwrap();
        open_private_dir(&path, None).unwrap();
        assert!(directory.path().join("a/b").is_dir() && directory.path().join("a/c").is_dir());
    }

    #[test]
    fn root_does_not_follow_a_link_that_others_could_have_placed() {
        let (_directory, shared, own) = folders();
        open_dir(&own.join("link/further"), MODE).unwrap();
        let through = open_dir(&shared.join("link/further"), None);
        if Uid::effective().is_root() {
            assert!(matches!(through, Err(Error::Link(link)) if link == shared.join("link")));
        } else {
            through.unwrap();
        }
        assert!(open_dir(&shared.join("nothing"), None).is_err_and(|error| !matches!(error, Error::Link(_))));
    }

    #[test]
    fn root_follows_no_planted_link_behind_one_of_its_own() {
        let (directory, shared, own) = folders();
        symlink(shared.join("link"), own.join("hop")).unwrap();
        symlink("hop", own.join("hops")).unwrap();
        fs::write(directory.path().join("goal/file"), "x").unwrap();
        symlink(shared.join("link/file"), own.join("file")).unwrap();
        let folder = open_dir(&own, None).unwrap();
        let by_folder = [open_dir(&own.join("hop"), None), open_dir(&own.join("hops/further"), None)];
        let by_file = resolve(&folder, OsStr::new("file")).map(|_| ());
        if Uid::effective().is_root() {
            for result in by_folder {
                assert!(matches!(result, Err(Error::Link(link)) if link == shared.join("link")));
            }
            assert!(matches!(&by_file, Err(Error::Link(link)) if link.ends_with("shared/link")), "{by_file:?}");
        }
    }

    #[test]
    fn links_of_root_are_resolved_to_their_end() {
        let (directory, _shared, own) = folders();
        fs::write(directory.path().join("goal/file"), "x").unwrap();
        for (name, target) in [("up", "../own/link/file"), ("chain", "up"), ("whole", "link/../own/chain")] {
            symlink(target, own.join(name)).unwrap();
        }
        symlink(directory.path().join("goal/file"), own.join("absolute")).unwrap();
        let folder = open_dir(&own, None).unwrap();
        for name in ["up", "chain", "absolute", "whole"] {
            let resolved = resolve(&folder, OsStr::new(name)).unwrap();
            assert_eq!(resolved.is_some(), Uid::effective().is_root());
            let Some((folder, name)) = resolved else { continue };
            let file = openat(&folder, &*name, OFlag::O_RDONLY, Mode::empty()).unwrap();
            let real = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
            assert_eq!(real, directory.path().join("goal/file").canonicalize().unwrap(), "{name:?}");
        }
        symlink("/", own.join("top")).unwrap();
        symlink("round", own.join("round")).unwrap();
        assert!(open_dir(&own.join("top/etc"), None).is_ok() && resolve(&folder, OsStr::new("top")).is_ok());
        assert!(open_dir(&own.join("round"), None).is_err());
        if Uid::effective().is_root() {
            assert!(resolve(&folder, OsStr::new("round")).is_err());
        }
    }

    #[test]
    fn a_folder_that_others_could_replace_is_not_safe_for_root() {
        let (directory, shared, own) = folders();
        open_private_dir(&own.join("link"), None).unwrap();
        fs::create_dir(shared.join("kept")).unwrap();
        symlink(shared.join("kept"), own.join("out")).unwrap();
        for path in [shared.join("kept"), shared.join("new"), shared.clone(), own.join("out")] {
            let result = open_private_dir(&path, MODE);
            if Uid::effective().is_root() {
                let Err(Error::Shared { path: culprit, mode, .. }) = result else { panic!("{result:?}") };
                assert_eq!((culprit, mode), (shared.canonicalize().unwrap(), 0o777));
            } else {
                result.unwrap();
            }
        }
        assert_eq!(shared.join("new").exists(), !Uid::effective().is_root());
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
        open_private_dir(&shared.join("kept"), None).unwrap();
        assert_eq!(open_private_dir(&shared, None).is_err(), Uid::effective().is_root());
        drop(directory);
    }
}
