//! Reads regular files from paths where anything may be.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::Uid;
use zeroize::Zeroizing;

use crate::sys::memory;
use crate::sys::safe_path;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The path is a folder, a FIFO, a device, or a socket.
    #[error("it is not a regular file")]
    NotRegular,
    /// The path is a link that another user could have placed to make root read something else.
    #[error("it is a link in a folder that users other than root can write to, and is not followed")]
    Link,
    /// The file is larger than the limit.
    #[error("it is larger than {} MiB", .0 >> 20)]
    TooLarge(u64),
}

/// Opens a regular file for reading.
///
/// Anything else is not waited for, and does not become the controlling terminal. On the [path](safe_path) to it, root follows no
/// link that another user could have placed.
pub fn open(path: &Path) -> Result<(File, Metadata), Error> {
    let name = path.file_name().ok_or(Error::NotRegular)?;
    let folder = safe_path::open_dir(path.parent().unwrap_or(Path::new("")), None).map_err(io::Error::from)?;
    open_in(&folder, name)
}

/// Opens the file of that name in a directory in the same way.
pub fn open_in(folder: &OwnedFd, name: &OsStr) -> Result<(File, Metadata), Error> {
    let resolved = safe_path::resolve(folder, name).map_err(refusal)?;
    let (folder, name) = resolved.as_ref().map_or((folder, name), |(folder, name)| (folder, name));
    // Nobody but root mounts on a file in a folder of root's own.
    if resolved.is_some() || !safe_path::may_follow(folder, name).map_err(io::Error::from)? {
        safe_path::check_entry(folder, name).map_err(refusal)?;
    }
    // What root resolved is not a link. Others leave links to the kernel.
    let (at, follow) = if Uid::effective().is_root() {
        (AtFlags::AT_SYMLINK_NOFOLLOW, OFlag::O_NOFOLLOW)
    } else {
        (AtFlags::empty(), OFlag::empty())
    };
    // Examined before it is opened: opening a device can have effects.
    match kind(fstatat(folder, name, at).map_err(io::Error::from)?) {
        SFlag::S_IFREG => {}
        SFlag::S_IFLNK => return Err(Error::Link),
        _ => return Err(Error::NotRegular),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | follow;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Err(Errno::ELOOP) if follow.contains(OFlag::O_NOFOLLOW) => return Err(Error::Link),
        file => File::from(file.map_err(io::Error::from)?),
    };
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(Error::NotRegular) }
}

fn refusal(error: safe_path::Error) -> Error {
    match error {
        safe_path::Error::Link(_) => Error::Link,
        error => Error::Io(error.into()),
    }
}

fn kind(status: FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT
}

/// Reads a regular file of no more than `limit` bytes. The result clears its memory when it is dropped.
pub fn read(path: &Path, limit: u64) -> Result<(Zeroizing<Vec<u8>>, Metadata), Error> {
    content(open(path)?, limit)
}

/// Reads the file of that name in a directory in the same way.
pub fn read_in(folder: &OwnedFd, name: &OsStr, limit: u64) -> Result<(Zeroizing<Vec<u8>>, Metadata), Error> {
    content(open_in(folder, name)?, limit)
}

/// Reads what was opened, if it has no more than `limit` bytes. The result clears its memory when it is dropped.
pub fn content((mut file, metadata): (File, Metadata), limit: u64) -> Result<(Zeroizing<Vec<u8>>, Metadata), Error> {
    if metadata.len() > limit {
        return Err(Error::TooLarge(limit));
    }
    let expected = usize::try_from(metadata.len()).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected));
    let mut chunk = Zeroizing::new([0; 8192]);
    loop {
        match file.read(&mut *chunk) {
            Ok(0) => return Ok((bytes, metadata)),
            Ok(count) => memory::append(&mut bytes, &chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        if bytes.len() as u64 > limit {
            return Err(Error::TooLarge(limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::unistd::mkfifo;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(*read(&path, 5).unwrap().0, b"12345");
        assert!(matches!(read(&path, 4), Err(Error::TooLarge(4))));
    }

    #[test]
    fn other_kinds_of_files_are_refused_and_not_waited_for() {
        let directory = TempDir::new().unwrap();
        let fifo = directory.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for path in [&fifo, directory.path(), Path::new("/dev/zero")] {
            assert!(matches!(read(path, 5), Err(Error::NotRegular)), "{}", path.display());
        }
    }
}
