//! Fuzzes frames: whatever arrives, in whatever pieces, and however often a read is cancelled, it is read as if it had arrived at once.
//! Memory grows only with what has arrived. A message that was read survives being written and read again.
//!
//! The first byte of an input says what is read and whether the rest is the stream itself or bodies, separated by 0xff, to be put
//! into frames; the second how the stream is cut into pieces.

#![no_main]

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use agentd::launch::protocol::{FromLauncher, MAX_FROM_LAUNCHER, MAX_TO_LAUNCHER, ToLauncher};
use agentd::sys::frame::{Error, Reader, write};
use agentd::sys::secret_bytes::SecretBytes;
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, ReadBuf};

fuzz_target!(|input: &[u8]| {
    let [what, piece, rest @ ..] = input else { return };
    let stream =
        if what & 0x80 == 0 { rest.to_vec() } else { rest.split(|&byte| byte == 0xff).flat_map(frame).collect() };
    let piece = usize::from(*piece) + 1;
    match what & 0x7f {
        0 => check::<FromLauncher>(&stream, piece, MAX_FROM_LAUNCHER),
        1 => check::<ToLauncher>(&stream, piece, MAX_TO_LAUNCHER),
        2 => check::<SecretBytes>(&stream, piece, 100),
        _ => {}
    }
});

fn frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("inputs are short");
    [&length.to_le_bytes(), body].concat()
}

/// How reading a frame ends.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    /// As JSON.
    Message(String),
    Garbage,
    TooLong,
    Cut,
    Closed,
}

fn check<T: Serialize + DeserializeOwned>(stream: &[u8], piece: usize, limit: usize) {
    let mut expected = stream;
    let mut reader = Reader::new(Pieces { rest: stream, piece, has_waited: false }, limit);
    loop {
        let (wanted, after) = first_frame::<T>(expected, limit);
        expected = after;
        let read = read_patiently::<T>(&mut reader);
        assert!(reader.capacity() <= 2 * (stream.len() + 8192), "{} bytes for {}", reader.capacity(), stream.len());
        assert_eq!(read, wanted);
        match read {
            Read::Message(message) => assert_eq!(there_and_back::<T>(&message, limit), message),
            Read::Garbage => {}
            Read::TooLong | Read::Cut | Read::Closed => return,
        }
    }
}

/// The messages that must be read from a stream, and how the stream ends.
fn first_frame<T: Serialize + DeserializeOwned>(stream: &[u8], limit: usize) -> (Read, &[u8]) {
    let Some((length, rest)) = stream.split_first_chunk() else {
        return (if stream.is_empty() { Read::Closed } else { Read::Cut }, &[]);
    };
    let length = u32::from_le_bytes(*length) as usize;
    match rest.split_at_checked(length) {
        _ if length > limit => (Read::TooLong, &[]),
        None => (Read::Cut, &[]),
        Some((body, rest)) => (serde_json::from_slice(body).map_or(Read::Garbage, |message: T| shown(&message)), rest),
    }
}

/// Restarts the read whenever nothing has arrived.
fn read_patiently<T: Serialize + DeserializeOwned>(reader: &mut Reader<impl AsyncRead + Unpin>) -> Read {
    loop {
        match once(reader.read::<T>()) {
            None => {}
            Some(Ok(Some(message))) => return shown(&message),
            Some(Ok(None)) => return Read::Closed,
            Some(Err(Error::Body)) => return Read::Garbage,
            Some(Err(Error::TooLong { .. })) => return Read::TooLong,
            Some(Err(Error::Io(_))) => return Read::Cut,
        }
    }
}

/// A message written and read again.
fn there_and_back<T: Serialize + DeserializeOwned>(message: &str, limit: usize) -> String {
    let message: T = serde_json::from_str(message).expect("it was written as JSON");
    let mut stream = Vec::new();
    once(write(&mut stream, &message)).expect("a vector is always ready").expect("a vector takes everything");
    // Escapes may have made it longer than what was read.
    match read_patiently::<T>(&mut Reader::new(&stream[..], limit.max(stream.len()))) {
        Read::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

fn shown(message: &impl Serialize) -> Read {
    Read::Message(serde_json::to_string(message).expect("messages can be written"))
}

/// The result of a future if it does not have to wait; otherwise it is dropped.
fn once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Arrives in pieces of no more than this size, each a while after the other.
struct Pieces<'a> {
    rest: &'a [u8],
    piece: usize,
    has_waited: bool,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.has_waited = !self.has_waited;
        if self.has_waited {
            return Poll::Pending;
        }
        let count = self.piece.min(buffer.remaining()).min(self.rest.len());
        let (now, later) = self.rest.split_at(count);
        buffer.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}
