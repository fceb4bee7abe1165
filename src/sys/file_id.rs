//! The identity of a file, whatever its name: the same file always gives the same id, and two files never share one.
//!
//! The number of a file that is gone can be reused at once. To compare with a file that may be gone, keep it open, or compare a
//! [`FileVersion`].

use std::io;
use std::os::fd::AsFd;

use nix::sys::stat::{FileStat, fstat};
use serde::{Deserialize, Serialize};

/// The device and the inode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file with these numbers, as `stat(2)` has them.
    pub const fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }

    /// The id of an open file.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::from(&fstat(file)?))
    }

    /// The device that the file is on.
    pub const fn device(self) -> u64 {
        self.device
    }
}

impl From<&FileStat> for FileId {
    fn from(status: &FileStat) -> Self {
        Self::new(status.st_dev, status.st_ino)
    }
}

/// A file as it was last written: it differs from a later file that got the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    /// The file.
    pub id: FileId,
    /// When it was last written, in seconds and nanoseconds since 1970.
    pub written: (i64, u32),
}
