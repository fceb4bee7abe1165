//! Reading it again: from an offset, from so many lines before the end, from a time on, and on as it is written.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::{Whence, lseek};

use super::Moment;
use super::store::Kept;
use crate::blocking;
use crate::descriptor::Readable;

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// How many entries of the index are looked at at once.
const ENTRIES: usize = 4096;

/// How often it is looked for more where the system gives no queue for announcements.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What is kept of one attempt, open. But for [`Follower`], all of this blocks as files do.
#[derive(Debug)]
pub struct Log {
    kept: Kept,
    text: File,
    index: Option<File>,
}

/// Some of the bytes that were printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the first of them stands.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Piece {
    /// Where the next byte stands.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl Log {
    /// Of these files.
    pub(super) fn new(kept: Kept, text: File, index: Option<File>) -> Self {
        Self { kept, text, index }
    }

    /// Which attempt it is of.
    pub fn kept(&self) -> Kept {
        self.kept
    }

    /// How many bytes were printed by now. All before [`Log::begin`] are gone.
    pub fn end(&self) -> io::Result<u64> {
        Ok(self.text.metadata()?.len())
    }

    /// Where the first byte stands that is still there.
    pub fn begin(&self) -> io::Result<u64> {
        begin(&self.text)
    }

    /// When something was printed last.
    pub fn changed(&self) -> io::Result<SystemTime> {
        self.text.metadata()?.modified()
    }

    /// The bytes from an offset on, up to a piece of them; none when that is the end. What is gone is passed over, and a file that was
    /// begun again is read from its beginning.
    pub fn read(&self, offset: u64) -> io::Result<Piece> {
        let end = self.end()?;
        let offset = if offset > end { 0 } else { offset }.max(self.begin()?);
        let room = usize::try_from(end.saturating_sub(offset)).unwrap_or(PIECE).min(PIECE);
        let mut bytes = vec![0; room];
        let count = read_at(&self.text, &mut bytes, offset)?;
        bytes.truncate(count);
        // What has become a hole meanwhile may have been read as zeros.
        let gone = self.begin()?.saturating_sub(offset).min(count as u64);
        bytes.drain(..usize::try_from(gone).unwrap_or(count));
        Ok(Piece { offset: offset + gone, bytes })
    }

    /// Where the last so many lines begin. A line that is not ended yet is one.
    pub fn last_lines(&self, count: usize) -> io::Result<u64> {
        let (begin, end) = (self.begin()?, self.end()?);
        let mut missing = count;
        let mut at = end;
        if missing == 0 {
            return Ok(end);
        }
        while at > begin {
            let from = at.saturating_sub(PIECE as u64).max(begin);
            let mut bytes = vec![0; usize::try_from(at - from).unwrap_or(PIECE)];
            let read = read_at(&self.text, &mut bytes, from)?;
            bytes.truncate(read);
            for (place, &byte) in bytes.iter().enumerate().rev() {
                let next = from + place as u64 + 1;
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

    /// Where stands what was printed at that time or later; it may be some up to a second older. Without an index, the beginning.
    pub fn since(&self, time: SystemTime) -> io::Result<u64> {
        let begin = self.begin()?;
        let Some(index) = &self.index else { return Ok(begin) };
        let earliest = time.checked_sub(Moment::APART).unwrap_or(SystemTime::UNIX_EPOCH);
        let earliest = Moment::of(earliest, 0).at;
        let mut at = self::begin(index)?;
        let mut buffer = vec![0; ENTRIES * Moment::LENGTH];
        loop {
            let count = read_at(index, &mut buffer, at)?;
            let entries = buffer[..count].chunks_exact(Moment::LENGTH).filter_map(Moment::from_bytes);
            if let Some(found) = entries.into_iter().find(|entry| entry.at >= earliest) {
                return Ok(found.offset.max(begin));
            }
            if count < buffer.len() {
                return self.end();
            }
            at += count as u64;
        }
    }
}

/// Behind the hole at the beginning, if there is one.
fn begin(file: &File) -> io::Result<u64> {
    match lseek(file, 0, Whence::SeekData) {
        Ok(offset) => Ok(u64::try_from(offset).unwrap_or_default()),
        // There is nothing in it.
        Err(Errno::ENXIO) => Ok(file.metadata()?.len()),
        // The file system does not tell.
        Err(Errno::EINVAL) => Ok(0),
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

/// Reads on as it is written. Whether there will be more is for others to know.
#[derive(Debug)]
pub struct Follower {
    log: Arc<Log>,
    at: u64,
    news: Option<News>,
}

/// Where it is announced that something was written.
#[derive(Debug)]
struct News {
    queue: Inotify,
    readable: Readable,
}

impl News {
    fn of(file: &File) -> io::Result<Self> {
        let queue = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // This very file, whatever is at its path by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        queue.add_watch(path.as_str(), AddWatchFlags::IN_MODIFY)?;
        let readable = Readable::new(queue.as_fd().try_clone_to_owned()?)?;
        Ok(Self { queue, readable })
    }

    async fn wait(&self) -> io::Result<()> {
        loop {
            match self.queue.read_events() {
                Ok(_) => return Ok(()),
                Err(Errno::EAGAIN) => self.readable.readable().await?,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Follower {
    /// From this offset on. Must be made inside the async runtime.
    pub fn new(log: Arc<Log>, offset: u64) -> Self {
        let news = News::of(&log.text).ok();
        Self { log, at: offset, news }
    }

    /// What is there by now; `None` if there is no more. To be asked once more after the end of the attempt was heard of.
    pub async fn read(&mut self) -> io::Result<Option<Piece>> {
        let (log, at) = (Arc::clone(&self.log), self.at);
        let piece = blocking::run(move || log.read(at)).await??;
        self.at = piece.end();
        Ok((!piece.bytes.is_empty()).then_some(piece))
    }

    /// The next bytes, as soon as there are any. Cancel-safe: what was read and not given is read again.
    pub async fn next(&mut self) -> io::Result<Piece> {
        loop {
            if let Some(piece) = self.read().await? {
                return Ok(piece);
            }
            match &self.news {
                Some(news) => news.wait().await?,
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use nix::unistd::Gid;
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::config::Name;
    use crate::output::mask::Mask;
    use crate::output::store::{Extent, Files, Store};
    use crate::output::writer::Writer;

    struct Case {
        _directory: TempDir,
        store: Store,
        agent: Name,
        writer: Writer,
    }

    fn case(size: u64) -> Case {
        let directory = TempDir::new().unwrap();
        let extent = Extent { size, ..Extent::default() };
        let store = Store::new(&directory.path().join("logs"), Gid::effective(), extent);
        let agent: Name = "a".parse().unwrap();
        let Files { text, index } = store.create(&agent, 1).unwrap();
        let writer = Writer::new(text, index, size, Mask::new([]));
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
        assert_eq!((log.begin().unwrap(), log.end().unwrap(), log.last_lines(3).unwrap()), (0, 0, 0));
        assert_eq!(log.read(0).unwrap(), Piece { offset: 0, bytes: Vec::new() });
        assert_eq!(log.since(SystemTime::now()).unwrap(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]
        #[test]
        fn the_last_lines_are_those_that_str_lines_gives(text in "([a-z]{0,3}\n){0,6}[a-z]{0,3}", count in 0..8usize) {
            let mut case = case(1 << 20);
            case.writer.write(text.as_bytes()).unwrap();
            let log = case.log();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(count)..];
            let read = String::from_utf8(all(&log, log.last_lines(count).unwrap())).unwrap();
            prop_assert_eq!(read.lines().collect::<Vec<_>>(), last);
        }
    }

    #[test]
    fn lines_are_found_over_many_pieces() {
        let mut case = case(16 << 20);
        let line = |number: usize| format!("{number} {}\r\n", "x".repeat(number % 300));
        let text: String = (0..5000).map(line).collect();
        case.writer.write(text.as_bytes()).unwrap();
        let log = case.log();
        let expected: String = (1000..5000).map(line).collect();
        assert!(all(&log, log.last_lines(4000).unwrap()) == expected.as_bytes());
        assert!(all(&log, 0) == text.as_bytes());
    }

    #[test]
    fn of_a_long_text_the_end_is_read_at_its_true_offsets() {
        let size = 256 << 10;
        let mut case = case(size);
        let text: Vec<u8> = (0..300_000_u32).flat_map(|number| format!("{number:06}\n").into_bytes()).collect();
        text.chunks(4096).for_each(|piece| case.writer.write(piece).unwrap());
        let log = case.log();
        let begin = log.begin().unwrap();
        assert!(begin > 0 && log.end().unwrap() == text.len() as u64 && log.end().unwrap() - begin >= size);
        let expected = &text[usize::try_from(begin).unwrap()..];
        assert!(all(&log, 0) == expected && all(&log, begin) == expected);
        assert_eq!(log.last_lines(1_000_000).unwrap(), begin);
        assert_eq!(all(&log, log.last_lines(1).unwrap()), b"299999\n");
    }

    #[test]
    fn what_was_printed_since_a_time_is_found_by_the_index() {
        let case = case(1 << 20);
        let folder = case.store.attempts(&case.agent).unwrap();
        assert_eq!(folder.len(), 1);
        let directory = TempDir::new().unwrap();
        let (text, index) = (directory.path().join("text"), directory.path().join("index"));
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let entries: Vec<u8> =
            (0..10_000).flat_map(|number| Moment::of(at(1000 + 10 * number), number).to_bytes()).collect();
        std::fs::write(&text, vec![b'x'; 20_000]).unwrap();
        std::fs::write(&index, entries).unwrap();
        let log = Log::new(folder[0], File::open(text).unwrap(), Some(File::open(index).unwrap()));
        for (seconds, offset) in [(0, 0), (1000, 0), (1001, 0), (1002, 1), (1011, 1), (50_000, 4900), (500_000, 20_000)]
        {
            assert_eq!(log.since(at(seconds)).unwrap(), offset, "{seconds}");
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
    fn a_file_that_was_begun_again_is_read_from_its_beginning() {
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
}
