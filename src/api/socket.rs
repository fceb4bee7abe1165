//! The API's socket: who may use it, from the first instant it exists.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

use crate::socket::{self, Bound, Error};

/// Binds the API's socket: mode 0660 for `group`, or 0600 where there is none to share it with.
///
/// A missing folder is made, 0750 for `group` (without: 0700), and what is missing above it, 0755 (without root: 0700). One that is
/// there is left as it is. Umask and effective group belong to the whole process: call this while there is one thread.
pub fn bind(path: &Path, group: Option<Gid>) -> Result<Bound, Error> {
    socket::check_length(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder_gives = setgid_group(folder, group)?;

    let private = Mode::S_IRUSR | Mode::S_IWUSR;
    let right = if group.is_some() { private | Mode::S_IRGRP | Mode::S_IWGRP } else { private };
    let born_right = folder_gives.is_none_or(|given| Some(given) == group) && can_take(group);
    // Where the file cannot be born with its group it is born for nobody else, and opened afterwards.
    let bound =
        with_group(group.filter(|_| born_right), || socket::bind(path, if born_right { right } else { private }))
            .map_err(Error::system("take the group for", path))??;
    bound.address.restrict(group, right)?;
    Ok(bound)
}

/// Makes the folder unless it is there. The group that it gives to what is made in it, if it does.
fn setgid_group(folder: &Path, group: Option<Gid>) -> Result<Option<Gid>, Error> {
    let metadata = match std::fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(folder, group)?;
            std::fs::metadata(folder)
        }
        there => there,
    }
    .map_err(Error::system("examine", folder))?;
    if !metadata.is_dir() {
        return Err(Error::Folder { path: folder.to_owned(), problem: "it is not a folder" });
    }
    if let Some(group) = group
        && metadata.mode() & 0o001 == 0
        && (metadata.gid() != group.as_raw() || metadata.mode() & 0o010 == 0)
    {
        tracing::warn!(
            "group {group} cannot reach the API: folder {} has mode {:04o} and group {}",
            folder.display(),
            metadata.mode() & 0o7777,
            metadata.gid()
        );
    }
    Ok((metadata.mode() & Mode::S_ISGID.bits() != 0).then(|| Gid::from_raw(metadata.gid())))
}

fn make(folder: &Path, group: Option<Gid>) -> Result<(), Error> {
    let above = if Uid::effective().is_root() { 0o755 } else { 0o700 };
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        socket::with_umask(Mode::empty(), || DirBuilder::new().recursive(true).mode(above).create(parent))
            .map_err(Error::system("make the folder", parent))?;
    }
    DirBuilder::new().mode(0o700).create(folder).map_err(Error::system("make the folder", folder))?;
    let Some(group) = group else { return Ok(()) };
    let open = OpenOptions::new().read(true).custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits()).open(folder);
    let share = |folder: File| {
        std::os::unix::fs::fchown(&folder, None, Some(group.as_raw()))?;
        folder.set_permissions(Permissions::from_mode(0o750))
    };
    open.and_then(share).map_err(Error::system("share the folder", folder))
}

/// Whether a file can be born with the group.
fn can_take(group: Option<Gid>) -> bool {
    group.is_none_or(|group| Uid::effective().is_root() || group == Gid::effective())
}

/// Runs `work` with the group as the effective one.
fn with_group<T>(group: Option<Gid>, work: impl FnOnce() -> T) -> nix::Result<T> {
    let own = Gid::effective();
    let Some(group) = group.filter(|group| *group != own) else { return Ok(work()) };
    nix::unistd::setegid(group)?;
    let result = work();
    nix::unistd::setegid(own)?;
    Ok(result)
}
