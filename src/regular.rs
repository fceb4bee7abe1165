//! Reading from paths where a regular file should be, and anything may be.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::{O_CLOEXEC, O_NOCTTY, O_NONBLOCK};
use zeroize::Zeroizing;

use crate::memory;

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A folder, a FIFO, a device, a socket.
    #[error("it is not a regular file")]
    NotRegular,
    /// There is more in it than is worth reading.
    #[error("it is larger than {} MiB", .0 >> 20)]
    TooLarge(u64),
}

/// Opens a regular file for reading. Nothing else is waited for, or becomes the controlling terminal.
pub fn open(path: &Path) -> Result<(File, Metadata), Error> {
    // Looked at before it is opened: opening a device can have effects.
    if !fs::metadata(path)?.is_file() {
        return Err(Error::NotRegular);
    }
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY | O_CLOEXEC).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(Error::NotRegular) }
}

/// Reads a regular file of no more than `limit` bytes. The answer clears its memory when it is dropped.
pub fn read(path: &Path, limit: u64) -> Result<(Zeroizing<Vec<u8>>, Metadata), Error> {
    let (mut file, metadata) = open(path)?;
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
    use nix::sys::stat::Mode;
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
    fn what_is_no_regular_file_is_refused_and_not_waited_for() {
        let directory = TempDir::new().unwrap();
        let fifo = directory.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for path in [&fifo, directory.path(), Path::new("/dev/zero")] {
            assert!(matches!(read(path, 5), Err(Error::NotRegular)), "{}", path.display());
        }
    }
}
