//! Logs: the launcher keeps what an agent prints, from the first to the last byte of each attempt.
//!
//! ```text
//! LOG_DIR/NAME/00000007-2.log      what the harness printed in attempt 2, the seventh of this agent's that is kept
//! LOG_DIR/NAME/00000007-2.times    when: 16 bytes each, milliseconds since 1970 and the offset that was printed then or later;
//!                                  and on what: columns and rows of the terminal from an offset on, marked by the highest bit
//! ```
//!
//! The daemon makes the files, for root and the administrators, and passes them to the launcher, which writes. So the log goes on
//! while no daemon runs, and a flood of output does not burden the daemon. The daemon [limits](guard) what the files take of the disk,
//! since the launcher runs as the agent user. The number before the attempt's only ever grows within a folder, so the order of attempts
//! does not depend on a clock, and is known although each declaration counts attempts from 1.
//!
//! The file holds the bytes as the terminal got them, escapes and all, but for secrets, which are [redacted](crate::text::redact). Of a long attempt the
//! [latest bytes](writer) are kept: the beginning of the file becomes a hole, so that an offset means the same place as long as the
//! file lives.
//!
//! For people the bytes are made [text](rendering), in the deputy: no process with more rights than the agent's parses them.

pub mod attempt;
pub mod guard;
pub mod news;
pub mod reader;
pub mod renderer;
pub mod rendering;
mod replay;
pub mod sanitizer;
pub mod store;
pub mod writer;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use rendering::Size;

/// How many bytes of an attempt are kept if nothing else is said.
pub const SIZE: u64 = 64 << 20;

/// The fewest that can be asked for.
pub const LEAST_SIZE: u64 = 64 << 10;

/// How many attempts of an agent are kept if nothing else is said.
pub const ATTEMPTS: usize = 20;

/// How many bytes of the disk a file takes.
fn occupied(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks().saturating_mul(512))
}

/// An entry of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexEntry {
    /// When something was printed.
    Time(TimeMark),
    /// On what.
    Resized(Resized),
}

/// From an offset on the terminal has this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// Where.
    pub offset: u64,
    /// Which.
    pub size: Size,
}

/// When something was printed. What stands at the offset and behind it, up to the next entry's, was printed
/// at that time or up to [`TimeMark::APART`] later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeMark {
    /// In milliseconds since 1970.
    at: u64,
    offset: u64,
}

impl TimeMark {
    /// Entries are at least so far apart.
    const APART: Duration = Duration::from_secs(1);

    fn of(time: SystemTime, offset: u64) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { at: u64::try_from(since.as_millis()).unwrap_or(u64::MAX), offset }
    }
}

impl IndexEntry {
    /// Where in what is printed.
    pub fn offset(self) -> u64 {
        match self {
            Self::Time(TimeMark { offset, .. }) | Self::Resized(Resized { offset, .. }) => offset,
        }
    }

    const LENGTH: usize = 16;

    /// No moment has it: that would be in 292 million years. Builds that do not know of sizes take them for later moments.
    const IS_SIZE: u64 = 1 << 63;

    fn to_bytes(self) -> [u8; Self::LENGTH] {
        let (first, offset) = match self {
            Self::Time(TimeMark { at, offset }) => (at & !Self::IS_SIZE, offset),
            Self::Resized(Resized { offset, size: Size { columns, rows } }) => {
                (Self::IS_SIZE | u64::from(columns) << 16 | u64::from(rows), offset)
            }
        };
        let mut bytes = [0; Self::LENGTH];
        let (of_first, of_offset) = bytes.split_at_mut(Self::LENGTH / 2);
        of_first.copy_from_slice(&first.to_le_bytes());
        of_offset.copy_from_slice(&offset.to_le_bytes());
        bytes
    }

    /// `None` for fewer bytes than an entry has.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk()?;
        let (first, offset) = (u64::from_le_bytes(*first), u64::from_le_bytes(*rest.first_chunk()?));
        if first & Self::IS_SIZE == 0 {
            return Some(Self::Time(TimeMark { at: first, offset }));
        }
        let [rows_low, rows_high, columns_low, columns_high, ..] = first.to_le_bytes();
        let size = Size {
            columns: u16::from_le_bytes([columns_low, columns_high]),
            rows: u16::from_le_bytes([rows_low, rows_high]),
        };
        Some(Self::Resized(Resized { offset, size }))
    }
}
