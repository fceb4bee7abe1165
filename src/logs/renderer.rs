//! The protocol between the daemon and a thread that renders a log as [text](super::rendering).
//!
//! ```text
//! daemon ── kind, length, bytes ──▶ thread of the deputy
//!        ◀── 't', length, text ──
//!        ◀── 'd', 1, is there more to settle ──
//! ```
//!
//! The daemon sends one request and then reads the whole answer, so neither side waits for the other forever, and a slow client
//! of the daemon stops the thread. The thread ends with the connection. The daemon's side is in the `deputy` wing.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as BlockingStream;

use memchr::memrchr_iter;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::rendering::{Rendering, Size, USUAL_SIZE};

/// The longest message.
pub const LONGEST: usize = 64 << 10;

/// How many bytes of text are kept while only the last lines are wanted.
const MOST_KEPT: usize = 32 << 20;

/// The kind of message that carries text.
pub const TEXT: u8 = b't';
/// The kind of message that ends an answer.
pub const DONE: u8 = b'd';

/// A request of the daemon's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say<'a> {
    /// The terminal now has this size.
    Resize(Size),
    /// The agent printed these bytes, [`LONGEST`] at most.
    Printed(&'a [u8]),
    /// Emit what can be emitted at once.
    TellAtOnce,
    /// A second has passed since the last look.
    Look,
    /// Emit what has stood still.
    Settle,
    /// Emit everything.
    Show,
    /// Emit nothing until [`Say::Forget`].
    Hold,
    /// Discard everything up to now.
    Forget,
    /// Emit nothing until the next [`Say::Show`], and then only this many last lines.
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

    /// The request's bytes on the socket.
    pub fn message(self) -> Vec<u8> {
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

/// Parses the head of a message: its kind, and the length of the rest.
pub fn head(bytes: [u8; 5]) -> io::Result<(u8, usize)> {
    let [kind, length @ ..] = bytes;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    Ok((kind, length))
}

/// Runs the thread's side until the daemon hangs up. Blocks.
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
            // Only now and then: this scans everything that is kept.
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

/// Whether the daemon has stopped waiting for the answer.
fn has_hung_up(daemon: &BlockingStream) -> bool {
    let mut polled = [PollFd::new(daemon.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
    // If this fails, the next write detects it.
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|_| polled[0].revents().is_some_and(|it| it.intersects(gone)))
}

/// Keeps the last lines of a text. A line without an end counts.
fn keep_last(lines: usize, text: &mut String) {
    let ended = text.strip_suffix('\n').unwrap_or(text).as_bytes();
    let from = match lines.checked_sub(1) {
        None => text.len(),
        Some(before) => memrchr_iter(b'\n', ended).nth(before).map_or(0, |end| end + 1),
    };
    let from = from.max(text.ceil_char_boundary(text.len().saturating_sub(MOST_KEPT)));
    text.drain(..from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_thread_ends_at_a_hangup_and_at_an_invalid_message() {
        for said in [&b""[..], b"x", b"x\0\0\0\0", b"p\xff\xff\xff\xff", b"z\0\0\0\0", b"k\x01\0\0\0\0"] {
            let (mut near, far) = BlockingStream::pair().unwrap();
            let thread = std::thread::spawn(move || serve(far));
            near.write_all(said).unwrap();
            near.shutdown(std::net::Shutdown::Write).unwrap();
            drop(thread.join().unwrap());
        }
    }
}
