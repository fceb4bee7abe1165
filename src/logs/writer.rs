//! The writing side of a log, in the launcher: appends output and keeps the last `size` bytes.
//!
//! When there are more bytes, the beginning of the file is freed in large steps: it becomes a hole, and the file's length and all
//! offsets stay the same. If the file system has no holes, the file is emptied and started again, with a note of how much is gone.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use nix::fcntl::{FallocateFlags, fallocate};

use super::rendering::Size;
use super::{IndexEntry, Resized, TimeMark};
use crate::text::redact::ByteStream;

/// Holes end at multiples of this: file systems free whole blocks, which are no larger.
pub(super) const BLOCK: u64 = 64 << 10;

/// How many bytes of text allow for one byte of the index.
const TEXT_PER_INDEX: u64 = 16;

/// How many bytes of the index to keep for a text that keeps `size` bytes.
pub(super) fn index_size(size: u64) -> u64 {
    (size / TEXT_PER_INDEX).max(BLOCK)
}

/// Whether the file system can free the beginning of a file.
pub(super) fn can_shrink(file: &File) -> bool {
    give_back(file, 0, BLOCK).is_ok()
}

/// Frees part of a file, which becomes a hole.
pub(super) fn give_back(file: &File, from: u64, length: u64) -> io::Result<()> {
    let out_of_range = |_| io::ErrorKind::InvalidInput;
    let (from, length) = (i64::try_from(from).map_err(out_of_range)?, i64::try_from(length).map_err(out_of_range)?);
    Ok(fallocate(file, FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, from, length)?)
}

/// Writes the output of one harness.
pub struct Writer {
    text: TailFile,
    index: TailFile,
    redactor: ByteStream,
    redacted: Vec<u8>,
    last_moment: Option<SystemTime>,
    /// The size of the terminal, and whether the index has it.
    size: Option<(Size, bool)>,
    /// Output that could not be written.
    missing: Option<Missing>,
    /// The last of what was to be written, with some more before it.
    tail: Vec<u8>,
}

/// How much of the last output is remembered.
const TAIL: usize = 8 << 10;

/// Bytes that should be in the file but are not.
struct Missing {
    count: u64,
    why: io::Error,
}

impl Writer {
    /// Writes to these two files, which are empty and opened for appending, and keeps `size` bytes of the text.
    pub fn new(text: OwnedFd, index: OwnedFd, size: u64, redactor: ByteStream) -> Self {
        Self {
            text: TailFile::new(text, size),
            index: TailFile::new(index, index_size(size)),
            redactor,
            redacted: Vec::new(),
            last_moment: None,
            size: None,
            missing: None,
            tail: Vec::new(),
        }
    }

    /// The last output, at most 8 KiB, as it was to be written.
    pub fn tail(&self) -> &[u8] {
        &self.tail[self.tail.len().saturating_sub(TAIL)..]
    }

    fn remember(&mut self, text: &[u8]) {
        if self.tail.len() + text.len() > 2 * TAIL {
            let stays = TAIL.saturating_sub(text.len());
            self.tail.drain(..self.tail.len().saturating_sub(stays));
        }
        self.tail.extend_from_slice(&text[text.len().saturating_sub(TAIL)..]);
    }

    /// Continues in these two files, which are empty: those before were moved or removed.
    pub fn move_to(&mut self, text: OwnedFd, index: OwnedFd, size: u64) {
        let before = self.text.gone.saturating_add(self.text.end);
        (self.text, self.index) = (TailFile::new(text, size), TailFile::new(index, index_size(size)));
        self.last_moment = None;
        self.forget_size();
        self.text.gone = before;
        // If this fails, only the note is lost.
        let _ = self.text.append(
            format!("[{before} bytes were printed before this; their file was moved or removed]\r\n").as_bytes(),
        );
    }

    /// The file of the text.
    pub fn text(&self) -> BorrowedFd<'_> {
        self.text.file.as_fd()
    }

    /// How many bytes of the text are kept.
    pub fn size(&self) -> u64 {
        self.text.size
    }

    /// Writes output.
    ///
    /// Of consecutive failures, only the first is returned. A note about what is missing is written as soon as possible.
    pub fn write(&mut self, printed: &[u8]) -> io::Result<()> {
        if self.redactor.is_idle() {
            return self.put(printed);
        }
        let mut redacted = std::mem::take(&mut self.redacted);
        self.redactor.pass(printed, &mut redacted);
        self.put_redacted(redacted)
    }

    /// Redacts with this from now on. What was held back is written first.
    pub fn redact(&mut self, redactor: ByteStream) {
        // A failure is noted in the log as soon as that can be written to.
        let _ = self.finish();
        self.redactor = redactor;
    }

    /// Records that the terminal now has this size.
    pub fn resize(&mut self, size: Size) {
        if self.size.is_none_or(|(known, _)| known != size) {
            self.size = Some((size, false));
        }
    }

    /// Writes what was held back because it looked like the beginning of a secret.
    pub fn finish(&mut self) -> io::Result<()> {
        let mut redacted = std::mem::take(&mut self.redacted);
        self.redactor.finish(&mut redacted);
        self.put_redacted(redacted)
    }

    fn put_redacted(&mut self, mut redacted: Vec<u8>) -> io::Result<()> {
        let result = self.put(&redacted);
        redacted.clear();
        self.redacted = redacted;
        result
    }

    fn put(&mut self, text: &[u8]) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.remember(text);
        if let Some(Missing { count, why }) = &mut self.missing {
            let note = format!("\r\n[{count} bytes are missing here, which could not be written: {why}]\r\n");
            if self.text.append(note.as_bytes()).is_err() {
                *count += text.len() as u64;
                return Ok(());
            }
            self.missing = None;
        }
        self.note_time();
        let end = self.text.end;
        let written = self.text.append(text);
        if let Err(why) = written {
            let count = text.len() as u64 - (self.text.end - end);
            let told = io::Error::new(why.kind(), why.to_string());
            self.missing = Some(Missing { count, why });
            return Err(told);
        }
        if self.text.shorten() {
            self.note_beginning();
        }
        Ok(())
    }

    /// Notes that the file of the text was emptied.
    ///
    /// The note lets a follower detect that the file was started again, and people that something is gone.
    fn note_beginning(&mut self) {
        self.index.clear();
        self.last_moment = None;
        self.forget_size();
        let note = format!("[{} bytes that were printed before this are kept no more]\r\n", self.text.gone);
        // If this fails, only the note is lost.
        let _ = self.text.append(note.as_bytes());
    }

    /// Behaves as if the file system had no holes.
    #[cfg(test)]
    pub(super) fn begin_again(&mut self) {
        self.text.clear();
        self.note_beginning();
    }

    /// Marks the size to be written again: the index may have lost it.
    fn forget_size(&mut self) {
        self.size = self.size.map(|(size, _)| (size, false));
    }

    /// Best effort: without the index the text is still complete.
    fn note_time(&mut self) {
        let now = SystemTime::now();
        // A clock that was set back counts, too.
        let is_due = |last: SystemTime| now.duration_since(last).map_or(true, |passed| passed >= TimeMark::APART);
        let is_due = self.last_moment.is_none_or(is_due);
        if is_due {
            // If the text was emptied, the entries before describe nothing.
            let is_emptied = self.text.see_emptied();
            if self.index.see_emptied() || is_emptied {
                self.forget_size();
            }
        }
        if let Some((size, false)) = self.size {
            let entry = IndexEntry::Resized(Resized { offset: self.text.end, size });
            self.size = Some((size, self.index.append(&entry.to_bytes()).is_ok()));
        }
        if !is_due {
            return;
        }
        if self.index.append(&IndexEntry::Time(TimeMark::of(now, self.text.end)).to_bytes()).is_ok() {
            self.last_moment = Some(now);
            let begin = self.index.begin;
            if self.index.shorten() || self.index.begin != begin {
                self.forget_size();
            }
        }
    }
}

/// A file that keeps the latest bytes.
struct TailFile {
    file: File,
    /// The offset of the first byte that is kept.
    begin: u64,
    end: u64,
    size: u64,
    /// How many bytes preceded the beginning of the file.
    gone: u64,
}

impl TailFile {
    fn new(file: OwnedFd, size: u64) -> Self {
        Self { file: File::from(file), begin: 0, end: 0, size, gone: 0 }
    }

    /// Detects that another program has emptied the file (as logrotate's `copytruncate` does), so that the next write starts at
    /// another offset. Returns whether it has.
    fn see_emptied(&mut self) -> bool {
        if let Ok(metadata) = self.file.metadata()
            && metadata.is_file()
            && metadata.len() < self.end
        {
            self.gone += self.end - metadata.len();
            self.end = metadata.len();
            self.begin = self.begin.min(self.end);
            return true;
        }
        false
    }

    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.end += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Frees surplus bytes once there are many. Returns whether the file is now empty.
    fn shorten(&mut self) -> bool {
        let step = (self.size / 8).max(BLOCK);
        if self.end - self.begin < self.size.saturating_add(step) {
            return false;
        }
        let begin = (self.end - self.size) / BLOCK * BLOCK;
        if give_back(&self.file, self.begin, begin.saturating_sub(self.begin)).is_ok() {
            self.begin = begin;
            return false;
        }
        self.clear()
    }

    fn clear(&mut self) -> bool {
        let is_empty = self.file.set_len(0).is_ok();
        if is_empty {
            self.gone = self.gone.saturating_add(self.end);
            (self.begin, self.end) = (0, 0);
        } else {
            // So that it is not tried again with every byte.
            self.begin = self.end;
        }
        is_empty
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    use tempfile::TempDir;

    use super::*;
    use crate::sys::secret_bytes::SecretBytes;
    use crate::text::redact::Redactor;

    fn writer(size: u64, secrets: &[&[u8]]) -> (TempDir, PathBuf, Writer) {
        let directory = TempDir::new().unwrap();
        let open = |name: &str| {
            let path = directory.path().join(name);
            OwnedFd::from(OpenOptions::new().append(true).create(true).open(path).unwrap())
        };
        let redactor = Redactor::new(secrets.iter().map(|secret| SecretBytes::from(secret.to_vec())));
        let writer = Writer::new(open("text"), open("index"), size, ByteStream::new(redactor));
        let path = directory.path().join("text");
        (directory, path, writer)
    }

    #[test]
    fn output_is_in_the_file_at_once() {
        let (directory, path, mut writer) = writer(1 << 20, &[]);
        for piece in [&b"a\0\xff"[..], b"", b"b\r\n"] {
            writer.write(piece).unwrap();
        }
        assert_eq!(fs::read(path).unwrap(), b"a\0\xffb\r\n");
        let index = fs::read(directory.path().join("index")).unwrap();
        assert_eq!(index.len(), IndexEntry::LENGTH, "pieces that follow each other closely have one entry");
        let Some(IndexEntry::Time(TimeMark { at, offset })) = IndexEntry::from_bytes(&index) else {
            panic!("{index:?}")
        };
        assert!(at > 1_600_000_000_000 && offset == 0);
    }

    fn sizes_in(index: &Path) -> Vec<(u64, Size)> {
        let index = fs::read(index).unwrap();
        let entries = index.chunks_exact(IndexEntry::LENGTH).filter_map(IndexEntry::from_bytes);
        entries
            .filter_map(|entry| match entry {
                IndexEntry::Resized(Resized { offset, size }) => Some((offset, size)),
                IndexEntry::Time(_) => None,
            })
            .collect()
    }

    #[test]
    fn the_index_of_a_moved_log_has_the_size_again() {
        let (directory, _, mut writer) = writer(1 << 20, &[]);
        let size = Size { columns: 132, rows: 50 };
        writer.resize(size);
        writer.write(b"one").unwrap();
        let open = |name: &str| OwnedFd::from(fs::File::create_new(directory.path().join(name)).unwrap());
        writer.move_to(open("other-text"), open("other-index"), 1 << 20);
        let offset = writer.text.end;
        writer.write(b"two").unwrap();
        assert_eq!(sizes_in(&directory.path().join("other-index")), [(offset, size)]);
    }

    #[test]
    fn the_size_is_noted_again_after_the_files_were_emptied() {
        let (directory, path, mut writer) = writer(1 << 20, &[]);
        let index = directory.path().join("index");
        let empty = |path: &Path| OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
        let size = Size { columns: 132, rows: 50 };
        writer.resize(size);
        writer.write(b"one").unwrap();
        empty(&index);
        writer.last_moment = None;
        writer.write(b"two").unwrap();
        assert_eq!(sizes_in(&index), [(3, size)]);
        empty(&path);
        writer.last_moment = None;
        writer.write(b"three").unwrap();
        assert_eq!(sizes_in(&index), [(3, size), (0, size)]);
    }

    #[test]
    fn sizes_are_noted_where_they_change_and_again_in_a_new_index() {
        let (directory, _, mut writer) = writer(1 << 20, &[]);
        let size = |columns, rows| Size { columns, rows };
        writer.resize(size(80, 24));
        writer.write(b"one").unwrap();
        writer.resize(size(80, 24));
        writer.write(b"two").unwrap();
        writer.resize(size(10_000, 1));
        writer.write(b"three").unwrap();
        writer.forget_size();
        writer.write(b"four").unwrap();
        let sizes = sizes_in(&directory.path().join("index"));
        assert_eq!(sizes, [(0, size(80, 24)), (6, size(10_000, 1)), (11, size(10_000, 1))]);
    }

    #[test]
    fn the_beginning_of_a_secret_is_written_at_the_end() {
        let (_directory, path, mut writer) = writer(1 << 20, &[b"hunter2hunter2"]);
        for piece in [&b"a hunter2h"[..], b"unter2 b hunt"] {
            writer.write(piece).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"a ********       b ");
        writer.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"a ********       b hunt");
    }

    #[test]
    fn the_latest_bytes_keep_their_offsets_within_the_limit() {
        const SIZE: u64 = 256 << 10;
        let (_directory, path, mut writer) = writer(SIZE, &[]);
        let line = |number: u64| format!("{number:06}\n");
        let count = 4 * SIZE / 7;
        for number in 0..count {
            writer.write(line(number).as_bytes()).unwrap();
            assert!(fs::metadata(&path).unwrap().blocks() * 512 <= SIZE + 2 * BLOCK, "at {number}");
        }
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, count * 7, "offsets are true");
        let expected: Vec<u8> = (0..count).flat_map(|number| line(number).into_bytes()).collect();
        let begin = bytes.iter().position(|&byte| byte != 0).unwrap();
        assert!(bytes.len() - begin >= usize::try_from(SIZE).unwrap() && begin > 0);
        assert!(bytes[begin..] == expected[begin..]);
    }

    #[test]
    fn bytes_that_cannot_be_written_are_counted_and_reported_once() {
        let (_directory, path, mut writer) = writer(1 << 20, &[]);
        writer.write(b"one ").unwrap();
        let good = std::mem::replace(&mut writer.text.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        assert_eq!(writer.write(b"two ").unwrap_err().kind(), io::ErrorKind::StorageFull);
        writer.write(b"three").unwrap();
        writer.text.file = good;
        writer.write(b"four").unwrap();
        let text = fs::read_to_string(path).unwrap();
        assert!(text.starts_with("one \r\n[9 bytes are missing here") && text.ends_with("]\r\nfour"), "{text}");
    }

    #[test]
    fn a_file_that_cannot_have_holes_is_started_again() {
        let (directory, path, mut writer) = writer(super::super::LEAST_SIZE, &[]);
        // As if there were no holes: no file system has one that far out.
        writer.text.begin = u64::MAX - BLOCK;
        writer.text.end = u64::MAX;
        writer.text.size = 0;
        assert!(writer.text.shorten());
        writer.write(b"again").unwrap();
        assert_eq!(fs::read(path).unwrap(), b"again");
        drop(directory);
    }

    #[test]
    fn a_log_continued_in_another_file_begins_with_a_note() {
        let (directory, path, mut writer) = writer(1 << 20, &[b"hunter2hunter2"]);
        writer.write(b"one hunter2").unwrap();
        fs::remove_file(&path).unwrap();
        let open = |name: &str| {
            let path = directory.path().join(name);
            OwnedFd::from(OpenOptions::new().append(true).create_new(true).open(path).unwrap())
        };
        writer.move_to(open("text"), open("other-index"), 1 << 20);
        writer.write(b"hunter2 two").unwrap();
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text, "[4 bytes were printed before this; their file was moved or removed]\r\n********       two");
        let index = fs::read(directory.path().join("other-index")).unwrap();
        assert_eq!(index.len(), IndexEntry::LENGTH);
    }

    #[test]
    fn a_file_emptied_by_others_keeps_the_latest_bytes() {
        const SIZE: u64 = 256 << 10;
        let (_directory, path, mut writer) = writer(SIZE, &[]);
        writer.write(&vec![b'x'; usize::try_from(SIZE).unwrap()]).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        writer.last_moment = None;
        let piece = [b'y'; 4096];
        for _ in 0..SIZE / 4096 {
            writer.write(&piece).unwrap();
        }
        assert!(fs::read(&path).unwrap() == vec![b'y'; usize::try_from(SIZE).unwrap()], "nothing of it is a hole");
    }
}
