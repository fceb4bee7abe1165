//! Logs: the launcher keeps what an agent prints, from the first to the last byte of each attempt.
//!
//! ```text
//! LOG_DIR/NAME/00000007-2.log      what the harness printed in attempt 2, the agent's seventh attempt that has a log
//! LOG_DIR/NAME/00000007-2.times    when: 16 bytes each, milliseconds since 1970 and the offset of output printed then or later;
//!                                  and at what size: the terminal's columns and rows from an offset on, marked by the highest bit
//! ```
//!
//! The daemon creates the files, readable by root and the administrators, and passes them to the launcher, which writes. So
//! logging continues while no daemon runs, and a flood of output does not burden the daemon. The daemon [limits](guard) how much
//! disk space the files take, since the launcher runs as the agent user. The number before the attempt's only ever grows within a
//! folder, so the order of attempts does not depend on a clock, and is known although each declaration counts attempts from 1.
//!
//! The file holds the bytes as the terminal received them, escape sequences included, except for secrets, which are
//! [redacted](crate::text::redact). Of a long attempt, the [latest bytes](writer) are kept: the beginning of the file becomes a hole,
//! so an offset means the same place as long as the file exists.
//!
//! For people, the bytes are rendered as [text](rendering), in the deputy: no process with more rights than the agent parses
//! them.

pub mod attempt;
pub mod guard;
pub mod news;
pub mod reader;
pub mod renderer;
pub mod rendering;
mod replay;
pub mod sanitizer;
pub mod selection;
pub mod store;
mod total;
pub mod writer;

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use rendering::Size;

/// The default number of bytes to keep of an attempt.
pub const SIZE: u64 = 64 << 20;

/// The smallest number of bytes that can be configured.
pub const LEAST_SIZE: u64 = 64 << 10;

/// The default number of attempts to keep of an agent.
pub const ATTEMPTS: usize = 20;

/// How many bytes of disk space a file takes.
fn occupied(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks().saturating_mul(512))
}

/// An entry of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexEntry {
    /// When something was printed.
    Time(TimeMark),
    /// When the terminal was resized.
    Resized(Resized),
}

/// The terminal has this size from this offset on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// The offset in the output.
    pub offset: u64,
    /// The new size.
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
    /// The shortest time between two entries.
    const APART: Duration = Duration::from_secs(1);

    fn of(time: SystemTime, offset: u64) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { at: u64::try_from(since.as_millis()).unwrap_or(u64::MAX), offset }
    }

    /// When, in RFC 3339, UTC, with milliseconds. A time after the year 9999, which only a false index has, is shown as its end.
    pub fn in_words(self) -> String {
        in_words(SystemTime::UNIX_EPOCH + Duration::from_millis(self.at.min(LAST_MILLISECOND)))
    }
}

/// The last millisecond of the year 9999.
const LAST_MILLISECOND: u64 = 253_402_300_799_999;

/// A time in RFC 3339, UTC, with milliseconds.
pub fn in_words(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let since = since.min(Duration::from_millis(LAST_MILLISECOND));
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
}

impl IndexEntry {
    /// The offset in the output.
    pub fn offset(self) -> u64 {
        match self {
            Self::Time(TimeMark { offset, .. }) | Self::Resized(Resized { offset, .. }) => offset,
        }
    }

    const LENGTH: usize = 16;

    /// Marks an entry as a size.
    ///
    /// No moment has this bit: that would be in 292 million years. Builds that do not know sizes take them for later moments.
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

    /// Parses an entry; `None` if there are too few bytes.
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
