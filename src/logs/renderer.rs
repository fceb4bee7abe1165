//! The conversation between the daemon and whoever makes [text](super::rendering) of what an agent printed: a thread of the deputy's.
//!
//! ```text
//! daemon ── kind, length, bytes ──▶ thread
//!        ◀── 't', length, text ──
//!        ◀── 'd', 1, is there more to settle ──
//! ```
//!
//! The daemon says one thing and hears all that is to be told then, so neither waits for the other without end, and a slow client of
//! the daemon's stops the thread. It ends with the connection. No more than [`AT_ONCE`] of them work at a time, however many there
//! are; those that follow an agent mostly wait.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as BlockingStream;
use std::sync::Arc;
use std::time::Duration;

use memchr::memrchr_iter;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::rendering::{Rendering, Size, USUAL_SIZE};
use crate::deputy::{self, Deputy};

/// How many threads work at once.
const AT_ONCE: usize = 2;

/// The longest message.
const LONGEST: usize = 64 << 10;

/// How many bytes of text are kept at most, of which only the last lines are wanted.
const MOST_KEPT: usize = 32 << 20;

/// How long an answer may take to begin or to go on. A piece takes a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

const TEXT: u8 = b't';
const DONE: u8 = b'd';

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nobody who could make it.
    #[error(transparent)]
    Deputy(#[from] deputy::Error),
    /// The conversation broke off.
    #[error("failed to have it made text: {0}; --raw (`raw=true`) does without")]
    Io(#[from] io::Error),
}

/// What the daemon says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say<'a> {
    /// The terminal has this size.
    Resize(Size),
    /// This was printed: [`LONGEST`] at most.
    Printed(&'a [u8]),
    /// Whatever can be told at once is to be told.
    TellAtOnce,
    /// A second has passed since the last look.
    Look,
    /// What has stood still is to be told.
    Settle,
    /// Everything is to be told.
    Show,
    /// Nothing is to be told until [`Say::Forget`].
    Hold,
    /// Nothing until now is to be told.
    Forget,
    /// Until the next [`Say::Show`] nothing is to be told, and then no more than so many lines.
    Keep(u64),
}

impl Say<'_> {
    fn kind(self) -> u8 {
        match self {
            Self::Resize(_) => b'z',
            Self::Printed(_) => b'p',
            Self::TellAtOnce => b'a',
            Self::Look => b'l',
            Self::Settle => b's',
            Self::Show => b'w',
            Self::Hold => b'h',
            Self::Forget => b'f',
            Self::Keep(_) => b'k',
        }
    }

    fn message(self) -> Vec<u8> {
        match self {
            Self::Resize(Size { columns, rows }) => {
                message(self.kind(), &[columns.to_le_bytes(), rows.to_le_bytes()].concat())
            }
            Self::Printed(bytes) => message(self.kind(), bytes),
            Self::Keep(lines) => message(self.kind(), &lines.to_le_bytes()),
            _ => message(self.kind(), &[]),
        }
    }

    fn parse(kind: u8, body: &[u8]) -> Option<Say<'_>> {
        Some(match (kind, body) {
            (b'z', &[columns_low, columns_high, rows_low, rows_high]) => Say::Resize(Size {
                columns: u16::from_le_bytes([columns_low, columns_high]),
                rows: u16::from_le_bytes([rows_low, rows_high]),
            }),
            (b'p', bytes) => Say::Printed(bytes),
            (b'a', []) => Say::TellAtOnce,
            (b'l', []) => Say::Look,
            (b's', []) => Say::Settle,
            (b'w', []) => Say::Show,
            (b'h', []) => Say::Hold,
            (b'f', []) => Say::Forget,
            (b'k', bytes) => Say::Keep(u64::from_le_bytes(bytes.try_into().ok()?)),
            _ => return None,
        })
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    [&[kind], &length[..], body].concat()
}

/// The beginning of a message: its kind, and how long the rest is.
fn head(bytes: [u8; 5]) -> io::Result<(u8, usize)> {
    let [kind, length @ ..] = bytes;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    Ok((kind, length))
}

/// The thread's side, until the daemon hangs up. Blocks.
pub fn serve(mut daemon: BlockingStream) -> io::Result<()> {
    let mut rendering = Rendering::new(USUAL_SIZE);
    let (mut keep, mut kept, mut needs_settling, mut holds) = (None, 0, false, false);
    loop {
        let mut first = [0; 5];
        match daemon.read_exact(&mut first) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let (kind, length) = head(first)?;
        let mut body = vec![0; length];
        daemon.read_exact(&mut body)?;
        let said = Say::parse(kind, &body).ok_or(io::ErrorKind::InvalidData)?;
        match said {
            Say::Resize(size) => rendering.resize(size),
            Say::Printed(bytes) => {
                rendering.feed_while(bytes, || !has_hung_up(&daemon));
                needs_settling = true;
            }
            Say::TellAtOnce => rendering.tell_at_once(),
            Say::Look => rendering.look(),
            Say::Settle => needs_settling = rendering.settle(),
            Say::Show => rendering.show(),
            Say::Hold => holds = true,
            Say::Forget => {
                rendering.forget();
                holds = false;
            }
            Say::Keep(lines) => keep = Some(usize::try_from(lines).unwrap_or(usize::MAX)),
        }
        match keep {
            Some(lines) if said == Say::Show => {
                keep = None;
                keep_last(lines, rendering.text());
            }
            // Not for each piece: it looks through all that is kept.
            Some(lines) if rendering.text().len() > 2 * kept + (1 << 20) => {
                keep_last(lines, rendering.text());
                kept = rendering.text().len();
            }
            _ => {}
        }
        if holds {
            drop(rendering.take());
        } else if keep.is_none() {
            let text = rendering.take();
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.floor_char_boundary(LONGEST));
                daemon.write_all(&message(TEXT, now.as_bytes()))?;
                rest = later;
            }
        }
        daemon.write_all(&message(DONE, &[u8::from(needs_settling)]))?;
    }
}

/// Whether nobody waits for the answer any more.
fn has_hung_up(daemon: &BlockingStream) -> bool {
    let mut polled = [PollFd::new(daemon.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    // What cannot be told is told by the next write.
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|_| polled[0].revents().is_some_and(|it| it.intersects(gone)))
}

/// Leaves the last so many lines of a text. A line without an end is one.
fn keep_last(lines: usize, text: &mut String) {
    let ended = text.strip_suffix('\n').unwrap_or(text).as_bytes();
    let from = match lines.checked_sub(1) {
        None => text.len(),
        Some(before) => memrchr_iter(b'\n', ended).nth(before).map_or(0, |end| end + 1),
    };
    let from = from.max(text.ceil_char_boundary(text.len().saturating_sub(MOST_KEPT)));
    text.drain(..from);
}

/// Who makes text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Renderers {
    deputy: Deputy,
    turns: Arc<Semaphore>,
}

impl Renderers {
    /// In this deputy.
    pub fn new(deputy: Deputy) -> Self {
        Self { deputy, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Somebody to make text of one log.
    pub async fn start(&self) -> Result<Renderer, Error> {
        let (near, far) = UnixStream::pair()?;
        self.deputy.render(far.into_std()?.into()).await?;
        Ok(Renderer { stream: near, turns: Arc::clone(&self.turns), turn: None })
    }
}

/// The daemon's side.
#[derive(Debug)]
pub struct Renderer {
    stream: UnixStream,
    turns: Arc<Semaphore>,
    /// Held until the answer begins.
    turn: Option<OwnedSemaphorePermit>,
}

/// What is heard.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Some of what is to be told. Whoever says it is not to be trusted.
    Text(Vec<u8>),
    /// That is all.
    Done {
        /// Whether there may be something to tell at the next [`Say::Settle`].
        needs_settling: bool,
    },
}

impl Renderer {
    /// Says something. All that is [heard](Renderer::hear) then is to be taken before more is said.
    pub async fn say(&mut self, say: Say<'_>) -> Result<(), Error> {
        self.turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        Ok(in_time(self.stream.write_all(&say.message())).await?)
    }

    /// The next of what there is to hear.
    pub async fn hear(&mut self) -> Result<Heard, Error> {
        let heard = in_time(self.next()).await;
        self.turn = None;
        Ok(heard?)
    }

    async fn next(&mut self) -> io::Result<Heard> {
        let mut first = [0; 5];
        self.stream.read_exact(&mut first).await?;
        let (kind, length) = head(first)?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        match (kind, body.as_slice()) {
            (TEXT, _) => Ok(Heard::Text(body)),
            (DONE, &[needs_settling]) => Ok(Heard::Done { needs_settling: needs_settling != 0 }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a thread of this process's.
    fn renderers() -> Renderers {
        Renderers::new(Deputy::rendering())
    }

    async fn heard(renderer: &mut Renderer, say: Say<'_>) -> (String, bool) {
        renderer.say(say).await.unwrap();
        let mut text = Vec::new();
        loop {
            match renderer.hear().await.unwrap() {
                Heard::Text(more) => text.extend(more),
                Heard::Done { needs_settling } => return (String::from_utf8(text).unwrap(), needs_settling),
            }
        }
    }

    #[tokio::test]
    async fn what_is_printed_comes_back_as_text() {
        let mut renderer = renderers().start().await.unwrap();
        assert_eq!(heard(&mut renderer, Say::Printed(b"\x1b[1mone\r\ntw")).await, (String::new(), true));
        assert_eq!(heard(&mut renderer, Say::TellAtOnce).await.0, "one\ntw");
        assert_eq!(heard(&mut renderer, Say::Resize(Size { columns: 40, rows: 5 })).await.0, "");
        assert_eq!(heard(&mut renderer, Say::Printed(b"o\r\n")).await.0, "");
        assert_eq!(heard(&mut renderer, Say::Show).await.0, "o\n");
        assert_eq!(heard(&mut renderer, Say::Settle).await, (String::new(), true));
        assert_eq!(heard(&mut renderer, Say::Settle).await, (String::new(), false));
    }

    #[tokio::test]
    async fn a_long_text_comes_in_pieces_and_of_one_that_is_kept_the_last_lines() {
        let lines = (0..20_000).map(|number| format!("{number} ä\r\n")).collect::<Vec<_>>().concat();
        let mut renderer = renderers().start().await.unwrap();
        let mut told = String::new();
        for piece in lines.as_bytes().chunks(LONGEST) {
            told += &heard(&mut renderer, Say::Printed(piece)).await.0;
        }
        told += &heard(&mut renderer, Say::Show).await.0;
        assert!(told == lines.replace('\r', ""));
        for (count, expected) in [(0, ""), (1, "19999 ä\n"), (2, "19998 ä\n19999 ä\n")] {
            let mut renderer = renderers().start().await.unwrap();
            heard(&mut renderer, Say::Keep(count)).await;
            for piece in lines.as_bytes().chunks(LONGEST) {
                assert_eq!(heard(&mut renderer, Say::Printed(piece)).await.0, "");
            }
            assert_eq!(heard(&mut renderer, Say::Show).await.0, expected);
        }
    }

    #[tokio::test]
    async fn no_more_work_at_once_than_may_and_waiting_for_more_is_no_work() {
        let renderers = renderers();
        let mut many = Vec::new();
        for _ in 0..3 * AT_ONCE {
            let mut renderer = renderers.start().await.unwrap();
            assert_eq!(heard(&mut renderer, Say::Printed(b"x")).await.0, "");
            many.push(renderer);
        }
        for renderer in &mut many[..AT_ONCE] {
            renderer.say(Say::Show).await.unwrap();
        }
        let (busy, idle) = many.split_at_mut(AT_ONCE);
        let waiting = timeout(Duration::from_millis(50), idle[0].say(Say::Show)).await;
        assert!(waiting.is_err(), "those at work have not answered");
        assert_eq!(busy[0].hear().await.unwrap(), Heard::Text(b"x".to_vec()));
        idle[0].say(Say::Show).await.unwrap();
    }

    #[tokio::test]
    async fn the_thread_ends_with_the_connection_and_with_nonsense() {
        for said in [&b""[..], b"x", b"x\0\0\0\0", b"p\xff\xff\xff\xff", b"z\0\0\0\0", b"k\x01\0\0\0\0"] {
            let (mut near, far) = BlockingStream::pair().unwrap();
            let thread = std::thread::spawn(move || serve(far));
            near.write_all(said).unwrap();
            near.shutdown(std::net::Shutdown::Write).unwrap();
            drop(thread.join().unwrap());
        }
    }
}
