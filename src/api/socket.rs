//! The API's socket, with the right owner and mode from the first instant.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

use crate::sys::PathError;
use crate::sys::blocking;
use crate::sys::rate_limit::OnChange;
use crate::sys::safe_path;
use crate::sys::unix_socket::{self, Address, Bound, Error};

/// Binds the API's socket: mode 0660 for `group`, or 0600 without a group.
///
/// Creates a missing folder with mode 0750 for `group` (without one: 0700), and missing parents with 0755 (unless root: 0700). Existing
/// folders stay as they are. Umask and effective group belong to the whole process: call this while there is one thread.
pub fn bind(path: &Path, group: Option<Gid>) -> Result<Bound, Error> {
    unix_socket::check_length(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder_gives = setgid_group(folder, group, Ancestors::Made)?;

    let (private, right) = (right(None), right(group));
    let born_right = folder_gives.is_none_or(|given| Some(given) == group) && can_take(group);
    // If the file cannot be created with its group, it is created for its owner only, and opened to the group afterwards.
    let bound =
        with_group(group.filter(|_| born_right), || unix_socket::bind(path, if born_right { right } else { private }))
            .map_err(PathError::of("take the group for", path))??;
    bound.address.restrict(group, right)?;
    Ok(bound)
}

/// Keeps the API's socket where clients look for it: checks at each of the `rounds`, and binds it again if it is gone.
///
/// Returns the address of the last socket when `rounds` closes. If something else has the name, it is left alone: otherwise a second
/// daemon would not be found.
pub async fn keep(
    mut address: Address,
    group: Option<Gid>,
    mut rounds: watch::Receiver<()>,
    replacements: mpsc::Sender<UnixListener>,
) -> Address {
    let mut complaint = OnChange::default();
    while rounds.changed().await.is_ok() {
        if address.is_there() {
            complaint.reset();
            continue;
        }
        // In a separate thread: the folder may be on a file system that hangs.
        let path = address.path().to_owned();
        let bound = match blocking::run(move || bind_again(&path, group)).await {
            Ok(bound) => bound.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let replaced = bound.and_then(|Bound { listener, address }| {
            UnixListener::from_std(listener).map(|listener| (listener, address)).map_err(|error| error.to_string())
        });
        match replaced {
            Ok((listener, bound)) => {
                tracing::warn!("the API's socket {} was gone, and has been bound again", bound.path().display());
                address = bound;
                // Fails only when the daemon is ending.
                let _ = replacements.send(listener).await;
            }
            Err(error) if complaint.pass(&error) => {
                tracing::error!("the API's socket is gone, and cannot be bound again: {error}");
            }
            Err(_) => {}
        }
    }
    address
}

/// Like [`bind`], for a process with several threads, whose umask and effective group must not change: the daemon's umask creates the
/// socket for its owner only, and it is opened to the group afterwards.
fn bind_again(path: &Path, group: Option<Gid>) -> Result<Bound, Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    setgid_group(folder, group, Ancestors::Needed)?;
    let bound = unix_socket::bind_private(path)?;
    bound.address.restrict(group, right(group))?;
    Ok(bound)
}

/// The mode of the socket.
fn right(group: Option<Gid>) -> Mode {
    let private = Mode::S_IRUSR | Mode::S_IWUSR;
    if group.is_some() { private | Mode::S_IRGRP | Mode::S_IWGRP } else { private }
}

/// What to do about missing parents of the socket's folder.
#[derive(Clone, Copy)]
enum Ancestors {
    /// Create them, under another umask: only while there is one thread.
    Made,
    /// Fail.
    Needed,
}

/// Creates the folder unless it exists. Returns the group that it gives to new files in it, if it does.
fn setgid_group(folder: &Path, group: Option<Gid>, ancestors: Ancestors) -> Result<Option<Gid>, Error> {
    let opened = match safe_path::open_dir(folder, None).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(folder, group, ancestors)?;
            safe_path::open_dir(folder, None).map_err(io::Error::from)
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(Error::Folder { path: folder.to_owned(), problem: "it is not a folder" });
        }
        opened => opened,
    }
    .map_err(PathError::of("open the folder", folder))?;
    let status = fstat(&opened).map_err(PathError::of("examine", folder))?;
    if let Some(group) = group
        && status.st_mode & 0o001 == 0
        && (status.st_gid != group.as_raw() || status.st_mode & 0o010 == 0)
    {
        tracing::warn!(
            "group {group} cannot reach the API: folder {} has mode {:04o} and group {}",
            folder.display(),
            status.st_mode & 0o7777,
            status.st_gid
        );
    }
    Ok((status.st_mode & Mode::S_ISGID.bits() != 0).then(|| Gid::from_raw(status.st_gid)))
}

fn make(folder: &Path, group: Option<Gid>, ancestors: Ancestors) -> Result<(), Error> {
    let above = Mode::from_bits_truncate(if Uid::effective().is_root() { 0o755 } else { 0o700 });
    let (parent, name) = (folder.parent().unwrap_or(Path::new("")), folder.file_name().unwrap_or_default());
    let opened = match ancestors {
        Ancestors::Made => unix_socket::with_umask(Mode::empty(), || safe_path::open_dir(parent, Some(above))),
        Ancestors::Needed => safe_path::open_dir(parent, None),
    };
    let parent = opened.map_err(io::Error::from).map_err(PathError::of("make the folder", parent))?;
    mkdirat(&parent, name, Mode::S_IRWXU).map_err(PathError::of("make the folder", folder))?;
    let Some(group) = group else { return Ok(()) };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let share = |folder: OwnedFd| {
        fchown(&folder, None, Some(group))?;
        fchmod(&folder, Mode::from_bits_truncate(0o750))
    };
    Ok(openat(&parent, name, flags, Mode::empty())
        .and_then(share)
        .map_err(PathError::of("share the folder", folder))?)
}

/// Whether a file can be created with the group.
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
