//! What agents print: kept from the first to the last byte of each attempt, by the launcher, for people to read later.
//!
//! ```text
//! LOG_DIR/NAME/00000007-2.log      what the harness printed in attempt 2, the seventh of this agent's that is kept
//! LOG_DIR/NAME/00000007-2.times    when: 16 bytes each, milliseconds since 1970 and the offset that was printed then or later
//! ```
//!
//! The daemon makes the files, for root and the administrators, and passes them to the launcher, which writes; so the log goes on
//! while no daemon runs, and a flood of output is no business of the daemon's. It [looks after](guard) what the files take of the
//! disk, since the launcher is the agent user's. The number before the attempt's only ever grows
//! within a folder: what came before what does not depend on a clock, and is known although attempts are counted from 1 again with
//! each declaration.
//!
//! The file holds the bytes as the terminal got them, escapes and all, but for what is [masked](mask). Of a long attempt the
//! [latest bytes](writer) are kept: the beginning of the file becomes a hole, so that an offset means the same place as long as the
//! file lives.

pub mod guard;
pub mod mask;
pub mod news;
pub mod plain;
pub mod reader;
pub mod store;
pub mod writer;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};

/// How many bytes of an attempt are kept if nothing else is said.
pub const SIZE: u64 = 64 << 20;

/// The fewest that can be asked for.
pub const LEAST_SIZE: u64 = 64 << 10;

/// How many attempts of an agent are kept if nothing else is said.
pub const ATTEMPTS: usize = 20;

/// Which file it is, whatever name it has or whether it has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of an open file.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let status = fstat(file)?;
        Ok(Self { device: status.st_dev, inode: status.st_ino })
    }
}

/// How many bytes of the disk a file takes.
fn occupied(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks().saturating_mul(512))
}

/// When something was printed: an entry of the index. What stands at the offset and behind it, up to the next entry's, was printed
/// at that time or up to [`Moment::APART`] later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    /// In milliseconds since 1970.
    at: u64,
    offset: u64,
}

impl Moment {
    const LENGTH: usize = 16;

    /// Entries are at least so far apart.
    const APART: Duration = Duration::from_secs(1);

    fn of(time: SystemTime, offset: u64) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { at: u64::try_from(since.as_millis()).unwrap_or(u64::MAX), offset }
    }

    fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        let (at, offset) = bytes.split_at_mut(Self::LENGTH / 2);
        at.copy_from_slice(&self.at.to_le_bytes());
        offset.copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// `None` for fewer bytes than an entry has.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (at, rest) = bytes.split_first_chunk()?;
        Some(Self { at: u64::from_le_bytes(*at), offset: u64::from_le_bytes(*rest.first_chunk()?) })
    }
}
