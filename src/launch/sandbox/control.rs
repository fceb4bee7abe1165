//! The control channel: what the launcher and the process [inside](super::inner) the sandbox say to each other.
//!
//! Every engine hands its three standard descriptors on, and some hand on no others. So the channel is standard error: a socket that
//! both ends read and write. Before the process inside runs, the engine itself may print errors there. They are text, and end where
//! the [marker](MARKER) begins. After it come frames only.
//!
//! The harness gets neither the channel nor a copy of it. One that takes over the process inside (it has the same user) can lie
//! about its own pid and end, as it could anyway. So everything that comes from there is bounded, and no number in it is used as
//! the id of a process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::mounts::Examined;
use crate::launch::protocol::{Ending, Failure};
use crate::sys::fd;
use crate::sys::frame::{self, Decoder};
use crate::sys::secret_bytes::SecretBytes;

/// What the process inside prints first.
pub(super) const MARKER: &[u8] = b"\0agentd-launcher inner\0";

/// The longest message from inside.
const MAX_FROM_INSIDE: usize = 64 << 10;

/// The longest message to the inside: arguments and environment may take about 6 MiB in all (`execve(2)`).
pub(super) const MAX_TO_INSIDE: usize = 32 << 20;

/// How much of an engine's own words is kept.
const MOST_WORDS: usize = 8 << 10;

/// How much is received at a time.
const PIECE: usize = 4096;

/// A message to the inside.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::launch) enum ToInside {
    /// Start this harness.
    Start(Order),
    /// Send this signal to the foreground process group of the terminal inside.
    Signal(i32),
    /// Give the terminal inside this size.
    Resize(Size),
}

/// What is started inside.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::launch) struct Order {
    /// The program and its arguments.
    pub arguments: Vec<SecretBytes>,
    /// The whole environment.
    pub environment: Vec<(SecretBytes, SecretBytes)>,
    /// The working directory.
    pub workdir: SecretBytes,
    /// The umask of the harness.
    pub umask: u32,
    /// What must be found at these paths, or nothing is started.
    pub expected: Vec<Expected>,
    /// The home to fill from [`super::mounts::SEED`], if there is one.
    pub seeded: Option<SecretBytes>,
    /// The user and group to become, where the engine cannot do that.
    pub ids: Option<(u32, u32)>,
    /// The size of the terminal inside, if it is made there.
    pub size: Option<Size>,
    /// Whether there is a way to a proxy.
    pub has_proxy: bool,
    /// Whether standard output is not the terminal, but is read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_streamed: bool,
}

/// A path inside, and the file that was examined outside.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::launch) struct Expected {
    pub path: SecretBytes,
    pub device: u64,
    pub inode: u64,
}

impl Expected {
    pub(super) fn of(examined: &Examined) -> Self {
        let path = SecretBytes::from(examined.path.as_os_str().as_bytes().to_vec());
        Self { path, device: examined.device, inode: examined.inode }
    }
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::launch) struct Size {
    pub columns: u16,
    pub rows: u16,
}

impl From<crate::logs::rendering::Size> for Size {
    fn from(size: crate::logs::rendering::Size) -> Self {
        Self { columns: size.columns, rows: size.rows }
    }
}

/// A message from inside.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::launch) enum FromInside {
    /// The harness runs.
    Started,
    /// It could not be started.
    Failed(Failure),
    /// It has ended.
    Ended(Ending),
}

/// The launcher's end of the channel.
pub(in crate::launch) struct Channel {
    stream: UnixStream,
    /// What the engine printed, until the marker has come.
    words: Vec<u8>,
    decoder: Option<Decoder>,
    /// What came together with the marker, and is yet to be decoded.
    rest: Vec<u8>,
    outgoing: Zeroizing<Vec<u8>>,
    sent: usize,
    is_over: bool,
}

impl Channel {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (words, rest, outgoing) = (Vec::new(), Vec::new(), Zeroizing::default());
        Ok(Self { stream, words, decoder: None, rest, outgoing, sent: 0, is_over: false })
    }

    /// What to wait for; `None` if nothing more can come.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        (!self.is_over).then(|| self.stream.as_fd())
    }

    /// Whether something waits to be sent.
    pub fn is_sending(&self) -> bool {
        self.sent < self.outgoing.len() && !self.is_over
    }

    /// Adds a message to those that are sent as the other end takes them in.
    pub fn say(&mut self, message: &ToInside) {
        // The only way to fail is a message of more than 4 GiB.
        if let Ok(frame) = frame::encode(message) {
            crate::sys::memory::append(&mut self.outgoing, &frame);
        }
        self.send();
    }

    /// Sends as much as possible without blocking.
    pub fn send(&mut self) {
        while self.is_sending() {
            match fd::write(&self.stream, &self.outgoing[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What it has said is still to be read.
                Err(_) => self.sent = self.outgoing.len(),
            }
        }
        self.outgoing = Zeroizing::default();
        self.sent = 0;
    }

    /// The next message, if it has arrived. Anything that is not one ends the channel.
    pub fn receive(&mut self) -> Option<FromInside> {
        let mut piece = [0; PIECE];
        loop {
            let room = match &mut self.decoder {
                None => PIECE,
                Some(decoder) => match (decoder.take(), decoder.missing()) {
                    (Ok(Some(message)), _) => return Some(message),
                    (Ok(None), Ok(missing)) => missing.min(PIECE),
                    _ => {
                        self.is_over = true;
                        return None;
                    }
                },
            };
            if self.is_over {
                return None;
            }
            if let Some(decoder) = self.decoder.as_mut().filter(|_| !self.rest.is_empty()) {
                let taken: Vec<u8> = self.rest.drain(..room.min(self.rest.len())).collect();
                decoder.add(&taken);
                continue;
            }
            match fd::read(&self.stream, &mut piece[..room]) {
                Ok(0) => self.is_over = true,
                Ok(count) => self.add(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => self.is_over = true,
            }
        }
    }

    fn add(&mut self, piece: &[u8]) {
        if let Some(decoder) = &mut self.decoder {
            decoder.add(piece);
            return;
        }
        self.words.extend_from_slice(piece);
        if let Some(at) = self.words.windows(MARKER.len()).position(|window| window == MARKER) {
            self.rest = self.words.split_off(at + MARKER.len());
            self.words.truncate(at);
            self.decoder = Some(Decoder::new(MAX_FROM_INSIDE));
        } else if self.words.len() > MOST_WORDS {
            // The end says why it failed; the marker may have begun.
            self.words.drain(..self.words.len() - MOST_WORDS / 2);
        }
    }

    /// Whether the process inside runs.
    pub fn is_inside(&self) -> bool {
        self.decoder.is_some()
    }

    /// What the engine printed before the process inside ran.
    pub fn words(&self) -> String {
        String::from_utf8_lossy(&self.words).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn words_of_an_engine_end_where_the_inside_begins() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut channel = Channel::new(near).unwrap();
        far.write_all(b"engine: a warning\n").unwrap();
        assert_eq!(channel.receive(), None);
        let frame = frame::encode(&FromInside::Started).unwrap();
        far.write_all(&MARKER[..5]).unwrap();
        assert_eq!(channel.receive(), None);
        assert!(!channel.is_inside());
        far.write_all(&[&MARKER[5..], frame.as_slice(), frame.as_slice()].concat()).unwrap();
        assert_eq!(channel.receive(), Some(FromInside::Started));
        assert_eq!(channel.receive(), Some(FromInside::Started));
        assert_eq!((channel.receive(), channel.words().as_str()), (None, "engine: a warning"));
    }

    #[test]
    fn a_channel_ends_at_anything_but_a_message() {
        for bad in [b"\xff\xff\xff\xff".as_slice(), b"\x02\0\0\0{}", b"\x01\0\0\0x"] {
            let (near, mut far) = UnixStream::pair().unwrap();
            let mut channel = Channel::new(near).unwrap();
            far.write_all(MARKER).unwrap();
            assert_eq!(channel.receive(), None);
            far.write_all(bad).unwrap();
            assert_eq!((channel.receive(), channel.descriptor().is_some()), (None, false));
        }
    }

    #[test]
    fn an_engine_that_prints_without_end_fills_no_memory() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut channel = Channel::new(near).unwrap();
        for _ in 0..100 {
            far.write_all(&[b'x'; PIECE]).unwrap();
            assert_eq!(channel.receive(), None);
        }
        far.write_all(b"the end").unwrap();
        assert_eq!(channel.receive(), None);
        assert!(channel.words().ends_with("xthe end") && channel.words().len() <= MOST_WORDS);
    }
}
