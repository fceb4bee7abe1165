//! Reads an attempt's log: from an offset, the last lines, since a time, or following it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::news::{News, Subscription};
use super::writer;
use super::{IndexEntry, Resized, TimeMark};
use crate::logs::attempt::AttemptId;
use crate::sys::blocking::{self, Pool};
use crate::sys::file_id::FileId;

/// How much is read at a time.
const PIECE: usize = 64 << 10;

/// How many entries of the index are held at most: one for each byte of a piece of text. More are read once those are taken.
const MOST_ENTRIES: usize = PIECE;

/// How many entries of the index are examined at a time.
const ENTRIES: usize = 4096;

/// How often to check for more where the system has no queue for announcements.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How many threads may read at the same time.
const MOST_READING: usize = 16;

/// How long a new reader waits for one of these threads.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// How many of its first bytes identify a file.
const HEAD: usize = 64;

/// State that all readers share.
#[derive(Clone, Debug)]
pub struct Readers {
    news: News,
    turns: Arc<Semaphore>,
    /// The threads of followers, which read piece after piece.
    pool: Pool,
}

/// All the threads that may read are busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many logs are being read; try again later")]
pub struct Busy;

impl Default for Readers {
    fn default() -> Self {
        Self { news: News::default(), turns: Arc::new(Semaphore::new(MOST_READING)), pool: Pool::new("log-follower") }
    }
}

impl Readers {
    /// Runs a reading job in one of the threads that may read.
    ///
    /// The job can ask whether its result is still wanted. If this future is dropped, the thread counts until the job has ended.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
    ) -> Result<io::Result<T>, Busy> {
        let turn = timeout(TURN_TIMEOUT, self.turn()).await.map_err(|_| Busy)??;
        Ok(in_turn(turn, work).await)
    }

    /// Runs a job that never takes long: every caller gets a turn eventually.
    async fn brief_work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let turn = self.turn().await.map_err(io::Error::other)?;
        let work = move || {
            let _turn = turn;
            work()
        };
        self.pool.run(work).await
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Busy> {
        // The semaphore is never closed.
        Arc::clone(&self.turns).acquire_owned().await.map_err(|_| Busy)
    }
}

async fn in_turn<T: Send + 'static>(
    turn: OwnedSemaphorePermit,
    work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
) -> io::Result<T> {
    blocking::run_while_wanted(move |is_wanted| {
        let _turn = turn;
        work(is_wanted)
    })
    .await
}

/// The open log of one attempt. Except for [`Follower`], all of this blocks as files do.
///
/// A process of the agent user wrote the files, so they may contain anything. What reading costs is bounded by the disk space
/// that they take and by what may be kept, whatever their length.
#[derive(Debug)]
pub struct Log {
    kept: AttemptId,
    text: File,
    index: Option<File>,
    /// How many bytes of an attempt are kept.
    size: u64,
    readers: Readers,
}

/// Consecutive bytes of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The offset of the first byte.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Piece {
    /// The offset after the last byte.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl Log {
    /// The log in these files, of which `size` bytes are kept.
    pub fn new(kept: AttemptId, text: File, index: Option<File>, size: u64, readers: Readers) -> Self {
        Self { kept, text, index, size, readers }
    }

    /// Which attempt this is the log of.
    pub fn kept(&self) -> AttemptId {
        self.kept
    }

    /// Identifies the file of the text: an attempt's log may continue in another file, under the same name.
    pub fn file(&self) -> io::Result<FileId> {
        FileId::of(&self.text)
    }

    /// Drops the index, for a reader that does not need times.
    #[must_use]
    pub fn without_index(self) -> Self {
        Self { index: None, ..self }
    }

    /// How many bytes have been printed so far. Those before [`Log::begin`] are gone.
    pub fn end(&self) -> io::Result<u64> {
        Ok(self.text.metadata()?.len())
    }

    /// The offset of the first byte that still exists.
    pub fn begin(&self) -> io::Result<u64> {
        begin(&self.text, self.size)
    }

    /// When something was last printed.
    pub fn changed(&self) -> io::Result<SystemTime> {
        self.text.metadata()?.modified()
    }

    /// Reads the bytes from an offset on, up to one piece; none at the end.
    ///
    /// Skips what is gone. Reads a file that was started again from its beginning.
    pub fn read(&self, offset: u64) -> io::Result<Piece> {
        let end = self.end()?;
        let begin = self.begin()?;
        let mut at = if offset > end { 0 } else { offset }.max(begin);
        loop {
            // A hole is gone, wherever it is.
            at = data(&self.text, at)?.unwrap_or(end).min(end);
            let stop = hole(&self.text, at)?.unwrap_or(end).min(end);
            let room = usize::try_from(stop.saturating_sub(at)).unwrap_or(PIECE).min(PIECE);
            if room == 0 {
                return Ok(Piece { offset: at.max(end), bytes: Vec::new() });
            }
            let mut bytes = vec![0; room];
            let count = read_at(&self.text, &mut bytes, at)?;
            bytes.truncate(count);
            // A part that has become a hole meanwhile may have been read as zeros.
            let gone = self.begin()?.saturating_sub(at).min(count as u64);
            bytes.drain(..usize::try_from(gone).unwrap_or(count));
            if !bytes.is_empty() || count == 0 {
                return Ok(Piece { offset: at + gone, bytes });
            }
            at += gone;
        }
    }

    /// Where the last `count` lines begin.
    ///
    /// An unfinished line counts. Fails once the result is no longer wanted.
    pub fn last_lines(&self, count: usize, is_wanted: &dyn Fn() -> bool) -> io::Result<u64> {
        let (begin, end) = (self.begin()?, self.end()?);
        let mut missing = count;
        let mut at = end;
        if missing == 0 {
            return Ok(end);
        }
        while at > begin {
            see_wanted(is_wanted)?;
            let from = at.saturating_sub(PIECE as u64).max(begin);
            // Skips holes.
            let place = data(&self.text, from)?.unwrap_or(at).min(at);
            let mut bytes = vec![0; usize::try_from(at - place).unwrap_or(PIECE)];
            let read = read_at(&self.text, &mut bytes, place)?;
            bytes.truncate(read);
            for (before, &byte) in bytes.iter().enumerate().rev() {
                let next = place + before as u64 + 1;
                if byte == b'\n' && next < end {
                    missing -= 1;
                    if missing == 0 {
                        return Ok(next);
                    }
                }
            }
            at = from;
        }
        Ok(begin)
    }

    /// Where the output of that time or later begins.
    ///
    /// Up to a second of older output may be included. Without an index, this is the beginning. Fails once the result is no
    /// longer wanted.
    pub fn since(&self, time: SystemTime, is_wanted: &dyn Fn() -> bool) -> io::Result<u64> {
        let (begin, end) = (self.begin()?, self.end()?);
        let Some(index) = &self.index else { return Ok(begin) };
        let earliest = time.checked_sub(TimeMark::APART).unwrap_or(SystemTime::UNIX_EPOCH);
        let earliest = TimeMark::of(earliest, 0).at;
        let index_end = index.metadata()?.len();
        let mut at = self::begin(index, writer::index_size(self.size))?;
        let mut buffer = vec![0; ENTRIES * IndexEntry::LENGTH];
        loop {
            see_wanted(is_wanted)?;
            // Where a hole ends, an entry begins.
            at = at.max(data(index, at)?.unwrap_or(index_end).next_multiple_of(IndexEntry::LENGTH as u64));
            let count = read_at(index, &mut buffer, at)?;
            let entries = buffer[..count].chunks_exact(IndexEntry::LENGTH).filter_map(IndexEntry::from_bytes);
            let mut later = entries.filter_map(|entry| match entry {
                IndexEntry::Time(moment) if moment.at >= earliest => Some(moment.offset),
                _ => None,
            });
            // Whatever the index says, the result is an offset in the text.
            if let Some(found) = later.next() {
                return Ok(found.clamp(begin.min(end), end));
            }
            if count < buffer.len() {
                return Ok(end);
            }
            at += count as u64;
        }
    }

    /// The first bytes, unless the beginning is gone. They differ once the file is started again.
    fn head(&self) -> io::Result<Option<Vec<u8>>> {
        if data(&self.text, 0)? != Some(0) {
            return Ok(None);
        }
        let mut head = vec![0; HEAD];
        let count = read_at(&self.text, &mut head, 0)?;
        head.truncate(count);
        Ok(Some(head))
    }

    /// Reads up to `most` entries of the index, and returns where to continue.
    ///
    /// An index that has become shorter is read from its beginning.
    fn entries(&self, from: u64, most: usize) -> io::Result<(Vec<IndexEntry>, u64)> {
        let Some(index) = &self.index else { return Ok((Vec::new(), from)) };
        let index_end = index.metadata()?.len();
        let mut entries = Vec::new();
        let from = if from > index_end { 0 } else { from };
        let mut at = from.max(self::begin(index, writer::index_size(self.size))?);
        let mut space = vec![0; ENTRIES.min(most) * IndexEntry::LENGTH];
        while entries.len() < most {
            let room = space.len().min((most - entries.len()) * IndexEntry::LENGTH);
            let buffer = &mut space[..room];
            // Where a hole ends, an entry begins.
            at = at.max(data(index, at)?.unwrap_or(index_end).next_multiple_of(IndexEntry::LENGTH as u64));
            let count = read_at(index, buffer, at)?;
            let whole = count - count % IndexEntry::LENGTH;
            entries.extend(buffer[..whole].chunks_exact(IndexEntry::LENGTH).filter_map(IndexEntry::from_bytes));
            at += whole as u64;
            if count < room {
                break;
            }
        }
        Ok((entries, at))
    }
}

fn see_wanted(is_wanted: &dyn Fn() -> bool) -> io::Result<()> {
    if is_wanted() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::Interrupted, "the result is no longer wanted")) }
}

/// The end of the hole at the beginning, if there is one.
///
/// Never farther from the end than what may be kept, or what the file occupies if that is more.
fn begin(file: &File, size: u64) -> io::Result<u64> {
    let metadata = file.metadata()?;
    let most = size.saturating_mul(2).max(metadata.blocks().saturating_mul(512));
    let earliest = metadata.len().saturating_sub(most);
    Ok(data(file, 0)?.unwrap_or(metadata.len()).max(earliest))
}

/// Where the next data is, at or after this offset; `None` if there is none.
fn data(file: &File, from: u64) -> io::Result<Option<u64>> {
    seek(file, from, Whence::SeekData)
}

/// Where the next hole is; the end of the file counts. `None` if there is one at this offset.
fn hole(file: &File, from: u64) -> io::Result<Option<u64>> {
    Ok(seek(file, from, Whence::SeekHole)?.filter(|&hole| hole > from))
}

fn seek(file: &File, from: u64, whence: Whence) -> io::Result<Option<u64>> {
    let Ok(offset) = i64::try_from(from) else { return Ok(None) };
    match lseek(file, offset, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        // The file system does not support this.
        Err(Errno::EINVAL) if matches!(whence, Whence::SeekData) => Ok(Some(from)),
        // There is nothing after it, or the file system does not support this.
        Err(Errno::ENXIO | Errno::EINVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Follows a log as it is written. The caller has to know whether there will be more.
#[derive(Debug)]
pub struct Follower {
    log: Arc<Log>,
    at: u64,
    /// The first bytes of the file, as far as they are known: the file may be started again.
    head: Option<Vec<u8>>,
    /// How far the index was read. The entries not taken yet are in the order of the text, [`MOST_ENTRIES`] at most.
    index_at: u64,
    entries: VecDeque<IndexEntry>,
    news: Option<Subscription>,
}

impl Follower {
    /// Follows from this offset. Must be called inside the async runtime.
    pub fn new(log: Arc<Log>, offset: u64) -> Self {
        let news = log.readers.news.of(&log.text).ok();
        Self { log, at: offset, head: None, index_at: 0, entries: VecDeque::new(), news }
    }

    /// Reads what is available; `None` if there is no more. Must be called once more after the attempt is known to have ended.
    pub async fn read(&mut self) -> io::Result<Option<Piece>> {
        let (log, at, mut index_at, before) = (Arc::clone(&self.log), self.at, self.index_at, self.head.clone());
        let held = self.entries.len();
        let work = move || {
            let mut piece = log.read(at)?;
            // Read last, so that the piece is from the file that this is the head of.
            let mut head = log.head()?;
            let is_other = before.as_ref().zip(head.as_ref()).is_some_and(|(before, head)| !head.starts_with(before));
            if is_other {
                piece = log.read(0)?;
                head = log.head()?;
            }
            let is_begun_again = is_other || piece.offset < at;
            let mut most = MOST_ENTRIES.saturating_sub(held);
            if is_begun_again {
                (index_at, most) = (0, MOST_ENTRIES);
            }
            // An entry is written before the text that it describes. Without the index, the text is still complete.
            let (mut entries, index_at) = log.entries(index_at, most).unwrap_or((Vec::new(), index_at));
            // Determined afterwards, so that entries for the latest output are kept. An honest entry never describes output yet
            // to come.
            let end = log.end()?;
            entries.retain(|entry| entry.offset() <= end);
            Ok::<_, io::Error>((piece, head, is_begun_again, entries, index_at))
        };
        let (piece, head, is_begun_again, entries, index_at) = self.log.readers.brief_work(work).await??;
        (self.at, self.head, self.index_at) = (piece.end(), head, index_at);
        if is_begun_again {
            self.entries.clear();
        }
        for entry in entries {
            self.hold(entry, piece.offset);
        }
        Ok((!piece.bytes.is_empty()).then_some(piece))
    }

    /// Holds an entry until the text before its offset is taken. Of several entries of one kind at one offset, the last is held.
    fn hold(&mut self, entry: IndexEntry, begin: u64) {
        let entry = match entry {
            IndexEntry::Resized(resized) => {
                IndexEntry::Resized(Resized { offset: resized.offset.max(begin), ..resized })
            }
            // A moment of output that is gone says nothing.
            IndexEntry::Time(moment) if moment.offset < begin => return,
            moment @ IndexEntry::Time(_) => moment,
        };
        // The text was started again in between: these entries describe what is gone.
        while self.entries.back().is_some_and(|last| last.offset() > entry.offset()) {
            self.entries.pop_back();
        }
        let is_same = |other: &&mut IndexEntry| {
            let is_of_kind = std::mem::discriminant(*other) == std::mem::discriminant(&entry);
            is_of_kind && other.offset() == entry.offset()
        };
        match self.entries.iter_mut().rev().take(2).find(is_same) {
            Some(other) => *other = entry,
            None => self.entries.push_back(entry),
        }
    }

    /// Takes the entries for the text before `end`, in the order of the text. The rest is kept for later.
    pub fn take_entries(&mut self, end: u64) -> Vec<IndexEntry> {
        let count = self.entries.partition_point(|entry| entry.offset() < end);
        self.entries.drain(..count).collect()
    }

    /// How many entries there is room for.
    #[cfg(fuzzing)]
    pub fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    /// Waits for the next bytes. Cancel-safe: a piece that was read but not returned is read again.
    pub async fn next(&mut self) -> io::Result<Piece> {
        loop {
            if let Some(piece) = self.read().await? {
                return Ok(piece);
            }
            match &mut self.news {
                Some(news) => news.wait().await,
                None => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, OwnedFd};

    use nix::unistd::Gid;
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::agent::machine::Numbers;
    use crate::agent::name::Name;
    use crate::logs::attempt::Files;
    use crate::logs::rendering::Size;
    use crate::logs::store::{Retention, Store};
    use crate::logs::writer::Writer;
    use crate::text::redact::{ByteStream, Redactor};

    fn always() -> bool {
        true
    }

    struct Case {
        _directory: TempDir,
        store: Store,
        agent: Name,
        writer: Writer,
    }

    fn case(size: u64) -> Case {
        let directory = TempDir::new().unwrap();
        let retention = Retention { size, ..Retention::default() };
        let store = Store::new(&directory.path().join("logs"), Gid::effective(), retention);
        let agent: Name = "a".parse().unwrap();
        let Files { text, index, .. } = store.create(&agent, Numbers::of(1)).unwrap();
        let writer = Writer::new(text, index, size, ByteStream::new(Redactor::default()));
        Case { _directory: directory, store, agent, writer }
    }

    impl Case {
        fn log(&self) -> Log {
            let kept = *self.store.attempts(&self.agent).unwrap().last().unwrap();
            self.store.open(&self.agent, kept).unwrap().unwrap()
        }
    }

    fn all(log: &Log, mut offset: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let piece = log.read(offset).unwrap();
            if piece.bytes.is_empty() {
                return bytes;
            }
            offset = piece.end();
            bytes.extend(piece.bytes);
        }
    }

    #[test]
    fn an_empty_log_has_no_bytes_and_no_lines() {
        let log = case(1 << 20).log();
        assert_eq!((log.begin().unwrap(), log.end().unwrap(), log.last_lines(3, &always).unwrap()), (0, 0, 0));
        assert_eq!(log.read(0).unwrap(), Piece { offset: 0, bytes: Vec::new() });
        assert_eq!(log.since(SystemTime::now(), &always).unwrap(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]
        #[test]
        fn the_last_lines_are_those_of_str_lines(text in "([a-z]{0,3}\n){0,6}[a-z]{0,3}", count in 0..8usize) {
            let mut case = case(1 << 20);
            case.writer.write(text.as_bytes()).unwrap();
            let log = case.log();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(count)..];
            let read = String::from_utf8(all(&log, log.last_lines(count, &always).unwrap())).unwrap();
            prop_assert_eq!(read.lines().collect::<Vec<_>>(), last);
        }
    }

    #[test]
    fn last_lines_are_found_across_many_pieces() {
        let mut case = case(16 << 20);
        let line = |number: usize| format!("{number} {}\r\n", "x".repeat(number % 300));
        let text: String = (0..5000).map(line).collect();
        case.writer.write(text.as_bytes()).unwrap();
        let log = case.log();
        let expected: String = (1000..5000).map(line).collect();
        assert!(all(&log, log.last_lines(4000, &always).unwrap()) == expected.as_bytes());
        assert!(all(&log, 0) == text.as_bytes());
    }

    #[test]
    fn the_end_of_a_long_text_is_read_at_its_true_offsets() {
        let size = 256 << 10;
        let mut case = case(size);
        let text: Vec<u8> = (0..300_000_u32).flat_map(|number| format!("{number:06}\n").into_bytes()).collect();
        text.chunks(4096).for_each(|piece| case.writer.write(piece).unwrap());
        let log = case.log();
        let begin = log.begin().unwrap();
        assert!(begin > 0 && log.end().unwrap() == text.len() as u64 && log.end().unwrap() - begin >= size);
        let expected = &text[usize::try_from(begin).unwrap()..];
        assert!(all(&log, 0) == expected && all(&log, begin) == expected);
        assert_eq!(log.last_lines(1_000_000, &always).unwrap(), begin);
        assert_eq!(all(&log, log.last_lines(1, &always).unwrap()), b"299999\n");
    }

    #[test]
    fn the_index_finds_output_since_a_time() {
        let case = case(1 << 20);
        let folder = case.store.attempts(&case.agent).unwrap();
        assert_eq!(folder.len(), 1);
        let directory = TempDir::new().unwrap();
        let (text, index) = (directory.path().join("text"), directory.path().join("index"));
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let entries: Vec<u8> = (0..10_000)
            .flat_map(|number| IndexEntry::Time(TimeMark::of(at(1000 + 10 * number), number)).to_bytes())
            .collect();
        std::fs::write(&text, vec![b'x'; 20_000]).unwrap();
        std::fs::write(&index, entries).unwrap();
        let log = Log::new(
            folder[0],
            File::open(text).unwrap(),
            Some(File::open(index).unwrap()),
            1 << 20,
            Readers::default(),
        );
        for (seconds, offset) in [(0, 0), (1000, 0), (1001, 0), (1002, 1), (1011, 1), (50_000, 4900), (500_000, 20_000)]
        {
            assert_eq!(log.since(at(seconds), &always).unwrap(), offset, "{seconds}");
        }
    }

    #[tokio::test]
    async fn a_follower_gets_every_byte_as_it_is_written() {
        let mut case = case(1 << 20);
        case.writer.write(b"before ").unwrap();
        let mut follower = Follower::new(Arc::new(case.log()), 0);
        assert!(follower.news.is_some());
        assert_eq!(follower.next().await.unwrap().bytes, b"before ");
        for text in [&b"one"[..], b"two", b"three"] {
            let waiting = tokio::spawn(async move {
                let piece = follower.next().await.unwrap();
                (follower, piece)
            });
            tokio::task::yield_now().await;
            case.writer.write(text).unwrap();
            let piece;
            (follower, piece) = waiting.await.unwrap();
            assert_eq!(piece.bytes, text);
        }
        assert_eq!(follower.read().await.unwrap(), None);
        follower.news = None;
        case.writer.write(b"four").unwrap();
        assert_eq!(follower.next().await.unwrap().bytes, b"four");
    }

    #[test]
    fn a_file_started_again_is_read_from_its_beginning() {
        let mut case = case(1 << 20);
        case.writer.write(b"long ago").unwrap();
        let log = case.log();
        let kept = OwnedFd::from(log.text.try_clone().unwrap());
        std::fs::File::options()
            .write(true)
            .open(format!("/proc/self/fd/{}", kept.as_raw_fd()))
            .unwrap()
            .set_len(0)
            .unwrap();
        case.writer.write(b"new").unwrap();
        assert_eq!(all(&log, 8), b"new");
    }

    /// A log with these bytes that keeps 64 KiB.
    fn log_of(text: &[u8], text_length: u64, index: &[u8], index_length: u64) -> (TempDir, Log) {
        let directory = TempDir::new().unwrap();
        let file = |name: &str, bytes: &[u8], length: u64| {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let file = File::options().read(true).write(true).open(path).unwrap();
            file.set_len(length).unwrap();
            file
        };
        let (text, index) = (file("text", text, text_length), file("index", index, index_length));
        let log = Log::new(AttemptId { sequence: 1, attempt: 1 }, text, Some(index), 64 << 10, Readers::default());
        (directory, log)
    }

    /// Too much to read in any reasonable time, and more than some file systems support.
    const SPARSE: u64 = 8 << 40;

    #[test]
    fn a_hole_of_8_tib_is_neither_read_nor_returned() {
        let begun = std::time::Instant::now();
        let (_directory, log) = log_of(b"a\nb\n", SPARSE, &[], SPARSE);
        assert_eq!((log.end().unwrap(), all(&log, 0)), (SPARSE, Vec::new()), "bytes that far back are not kept");
        assert!(log.last_lines(3, &always).unwrap() >= SPARSE - (128 << 10));
        assert_eq!(log.since(SystemTime::now(), &always).unwrap(), SPARSE);
        log.text.write_all_at(b"x\ny\n", SPARSE).unwrap();
        let place = log.last_lines(1, &always).unwrap();
        assert_eq!((place, all(&log, place)), (SPARSE + 2, b"y\n".to_vec()));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn holes_between_bytes_are_skipped() {
        let (_directory, log) = log_of(b"a", 100 << 10, &[], 0);
        log.text.write_all_at(b"b", 100 << 10).unwrap();
        let bytes = all(&log, 0);
        assert!(bytes.len() <= 2 * 4096 && bytes[0] == b'a' && bytes.ends_with(b"b"), "{} bytes", bytes.len());
    }

    #[test]
    fn an_index_always_leads_to_an_offset_in_the_text() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        let entry = |at: SystemTime, offset| IndexEntry::Time(TimeMark::of(at, offset)).to_bytes();
        for entries in [
            [entry(far, u64::MAX), entry(SystemTime::UNIX_EPOCH, 0)],
            [entry(SystemTime::UNIX_EPOCH, 5), entry(far, 1 << 63)],
            [[0xff; 16], [0xff; 16]],
        ] {
            let (_directory, log) = log_of(b"0123456789", 10, &entries.concat(), 32);
            assert_eq!(log.since(SystemTime::now(), &always).unwrap(), 10);
        }
    }

    #[test]
    fn a_read_stops_when_its_result_is_no_longer_wanted() {
        let (_directory, log) = log_of(&vec![b'x'; 1 << 20], 1 << 20, &vec![0; 1 << 20], 1 << 20);
        let asked = std::cell::Cell::new(0);
        let soon_left = || asked.replace(asked.get() + 1) < 1;
        assert_eq!(log.last_lines(1, &soon_left).unwrap_err().kind(), io::ErrorKind::Interrupted);
        asked.set(0);
        assert_eq!(log.since(SystemTime::now(), &soon_left).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    #[tokio::test(start_paused = true)]
    async fn readers_beyond_the_limit_are_refused() {
        let readers = Readers::default();
        let (go_on, mut gate) = (Arc::new(std::sync::Barrier::new(MOST_READING + 1)), tokio::task::JoinSet::new());
        for _ in 0..MOST_READING {
            let (readers, go_on) = (readers.clone(), Arc::clone(&go_on));
            // A caller that is canceled leaves its thread behind.
            gate.spawn(async move { timeout(Duration::from_millis(1), readers.work(move |_| go_on.wait())).await });
        }
        gate.join_all().await;
        assert_eq!(readers.work(|_| ()).await.unwrap_err(), Busy);
        go_on.wait();
        tokio::time::resume();
        readers.work(|_| ()).await.unwrap().unwrap();
    }

    fn moment(offset: u64) -> IndexEntry {
        IndexEntry::Time(TimeMark::of(SystemTime::UNIX_EPOCH, offset))
    }

    fn resized(offset: u64, columns: u16) -> IndexEntry {
        IndexEntry::Resized(Resized { offset, size: Size { columns, rows: 24 } })
    }

    fn bytes_of(entries: impl IntoIterator<Item = IndexEntry>) -> Vec<u8> {
        entries.into_iter().flat_map(IndexEntry::to_bytes).collect()
    }

    fn append(log: &Log, entries: &[u8]) {
        let index = log.index.as_ref().unwrap();
        index.write_all_at(entries, index.metadata().unwrap().len()).unwrap();
    }

    #[tokio::test]
    async fn entries_beyond_the_text_are_not_held() {
        let far = bytes_of((0..1000).flat_map(|number| [moment(u64::MAX - number), resized(11 + number, 1)]));
        let (_directory, log) = log_of(b"0123456789", 10, &far, far.len() as u64);
        let log = Arc::new(log);
        let mut follower = Follower::new(Arc::clone(&log), 0);
        assert_eq!(follower.read().await.unwrap().unwrap().end(), 10);
        assert!(follower.entries.is_empty());
        append(&log, &bytes_of([moment(10)]));
        append(&log, &far);
        assert_eq!(follower.read().await.unwrap(), None);
        assert_eq!(follower.entries, [moment(10)], "it is of what comes next");
    }

    #[tokio::test]
    async fn held_entries_are_bounded_and_none_is_lost() {
        const LENGTH: u64 = 4 * PIECE as u64;
        let entries = bytes_of((0..LENGTH).map(moment));
        let text = vec![b'x'; 4 * PIECE];
        let (_directory, log) = log_of(&text, LENGTH, &entries, entries.len() as u64);
        let mut follower = Follower::new(Arc::new(log), 0);
        let mut taken = Vec::new();
        let mut end = 0;
        while let Some(piece) = follower.read().await.unwrap() {
            assert!(follower.entries.len() <= MOST_ENTRIES);
            end = piece.end();
            taken.extend(follower.take_entries(end));
        }
        assert_eq!(end, LENGTH);
        assert!(taken == (0..LENGTH).map(moment).collect::<Vec<_>>());
        let (_directory, log) = log_of(&text, LENGTH, &entries, entries.len() as u64);
        let mut follower = Follower::new(Arc::new(log), 0);
        for _ in 0..3 {
            follower.read().await.unwrap();
            assert_eq!(follower.entries.len(), MOST_ENTRIES, "no entry was taken");
        }
    }

    #[tokio::test]
    async fn entries_at_one_offset_yield_the_last_size_and_one_moment() {
        let entries = (0..1000).flat_map(|number| [resized(5, number), moment(5)]);
        let entries = bytes_of([resized(0, 7), resized(2, 8), moment(2)].into_iter().chain(entries));
        let (_directory, log) = log_of(b"0123456789", 10, &entries, entries.len() as u64);
        let mut follower = Follower::new(Arc::new(log), 4);
        assert_eq!(follower.read().await.unwrap().unwrap().offset, 4);
        assert_eq!(follower.take_entries(5), [resized(4, 8)], "the size set by text that is gone still counts");
        assert_eq!(follower.take_entries(10), [resized(5, 999), moment(5)]);
    }

    #[tokio::test]
    async fn entries_of_a_text_started_again_are_dropped() {
        let entries = bytes_of([resized(0, 80), moment(10)]);
        let (_directory, log) = log_of(b"0123456789", 10, &entries, entries.len() as u64);
        let log = Arc::new(log);
        let mut follower = Follower::new(Arc::clone(&log), 0);
        let end = follower.read().await.unwrap().unwrap().end();
        assert_eq!(follower.take_entries(end), [resized(0, 80)]);
        log.text.set_len(0).unwrap();
        log.index.as_ref().unwrap().set_len(0).unwrap();
        log.text.write_all_at(b"new", 0).unwrap();
        append(&log, &bytes_of([resized(0, 40)]));
        assert_eq!(follower.read().await.unwrap().unwrap().bytes, b"new");
        assert_eq!(follower.take_entries(3), [resized(0, 40)]);
        assert!(follower.entries.is_empty());
    }

    #[tokio::test]
    async fn a_follower_of_a_file_started_again_sees_what_is_gone() {
        let mut case = case(1 << 20);
        case.writer.write(b"one\r\n").unwrap();
        let mut follower = Follower::new(Arc::new(case.log()), 0);
        assert_eq!(follower.next().await.unwrap().bytes, b"one\r\n");
        case.writer.write(b"two\r\n").unwrap();
        case.writer.begin_again();
        // Longer than before, so the length does not reveal that the file was started again.
        case.writer.write(b"three, four, five\r\n").unwrap();
        let text = String::from_utf8(follower.next().await.unwrap().bytes).unwrap();
        assert_eq!(text, "[10 bytes that were printed before this are kept no more]\r\nthree, four, five\r\n");
    }
}
