//! What a harness prints on a pipe instead of its terminal, and what it reads instead of what is typed there.
//!
//! A harness on pipes prints what programs read: each output is [kept](OutputWriter) as it is. What is shown in the pane, and kept in the
//! log of the pane, are both outputs in the order of their arrival, with the ends of lines of a terminal.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use memchr::memchr_iter;
use nix::fcntl::OFlag;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::stream::news::News;
use super::stream::{Fact, Sink, Stream};
use super::terminal::PIECE;
use crate::agent::stream_kind::StreamKind;
use crate::logs::output_writer::OutputWriter;
use crate::sys::fd;
use crate::sys::secret_bytes::SecretBytes;
use crate::text::redact::ByteStream;
use crate::wire::exit_status::ExitStatus;

/// One output of a harness.
pub(super) struct Output {
    /// `None` once it is over.
    pipe: Option<OwnedFd>,
    /// The harness's end, until it is started.
    own: Option<OwnedFd>,
    /// `None` once the stream has ended.
    stream: Option<Stream>,
    /// What the stream says; `None` if there is none.
    news: Option<News>,
    kept: Option<OutputWriter>,
    /// Redacts what the log of the pane has of it: what others print may come between two pieces of a secret.
    redactor: ByteStream,
    /// Whether what was shown so far ends with a carriage return.
    is_returned: bool,
}

/// What was read of an output, beside what there is to show.
#[derive(Default)]
pub(super) struct Piece {
    /// How many bytes were read.
    pub count: usize,
    /// What the log has of what there is to show; `None` if that is all of it.
    pub logged: Option<Vec<u8>>,
    /// Whether an output could not be written to its file.
    pub lost: Option<io::Error>,
}

/// Collects what a stream says.
struct Collected<'a> {
    news: &'a mut News,
    shown: String,
}

impl Sink for Collected<'_> {
    fn fact(&mut self, fact: Fact) {
        self.news.take(fact, SystemTime::now());
    }

    fn show(&mut self, text: &str) {
        self.shown.push_str(text);
    }
}

impl Output {
    /// An output of this form, which is shown as text, and kept by this writer.
    pub fn open(kind: Option<StreamKind>, kept: Option<OutputWriter>, redactor: ByteStream) -> io::Result<Self> {
        let (pipe, own) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        fd::set_nonblocking(&pipe)?;
        let (stream, news) = (kind.map(Stream::new), kind.map(|_| News::default()));
        Ok(Self { pipe: Some(pipe), own: Some(own), stream, news, kept, redactor, is_returned: false })
    }

    /// The harness's end, once.
    pub fn take_end(&mut self) -> Option<OwnedFd> {
        self.own.take()
    }

    /// What to wait for, until it is over.
    pub fn pipe(&self) -> Option<&OwnedFd> {
        self.pipe.as_ref()
    }

    /// What its stream says, if it has one.
    pub fn news(&self) -> Option<&News> {
        self.news.as_ref()
    }

    /// The same, to report it.
    pub fn news_mut(&mut self) -> Option<&mut News> {
        self.news.as_mut()
    }

    /// Whether what it prints says what the harness does.
    pub fn is_stream(&self) -> bool {
        self.news.is_some()
    }

    /// Redacts with these from now on. Returns what was held back for the log.
    pub fn redact(&mut self, redactor: impl Fn() -> ByteStream) -> Piece {
        let mut logged = Vec::new();
        self.redactor.finish(&mut logged);
        self.redactor = redactor();
        let lost = self.kept.as_mut().and_then(|kept| kept.redact(redactor()).err());
        Piece { logged: Some(logged), lost, ..Piece::default() }
    }

    /// Reads the next piece, and adds what there is to show, as a terminal wants it. Nothing waits to be read if the piece is empty.
    pub fn read(&mut self, shown: &mut Vec<u8>) -> Piece {
        let Some(pipe) = &self.pipe else { return Piece::default() };
        let mut buffer = [0; PIECE];
        match fd::read(pipe, &mut buffer) {
            Ok(count @ 1..) => self.take_in(&buffer[..count], shown),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Piece::default(),
            // It is over, or cannot be read any more.
            Ok(_) | Err(_) => {
                self.pipe = None;
                Piece::default()
            }
        }
    }

    fn take_in(&mut self, bytes: &[u8], shown: &mut Vec<u8>) -> Piece {
        let lost = self.kept.as_mut().and_then(|kept| kept.write(bytes).err());
        let begin = shown.len();
        if let (Some(stream), Some(news)) = (&mut self.stream, &mut self.news) {
            let mut collected = Collected { news, shown: String::new() };
            stream.feed(bytes, &mut collected);
            let text = collected.shown;
            self.show(text.as_bytes(), shown);
        } else {
            self.show(bytes, shown);
        }
        let logged = (!self.redactor.is_idle()).then(|| {
            let mut logged = Vec::new();
            self.redactor.pass(&shown[begin..], &mut logged);
            logged
        });
        Piece { count: bytes.len(), logged, lost }
    }

    /// Nothing more is read, because the harness has ended like this. Adds what is still to be shown.
    pub fn end(&mut self, how: &ExitStatus, shown: &mut Vec<u8>) -> Piece {
        self.pipe = None;
        let lost = self.kept.take().and_then(|mut kept| kept.finish().err());
        let begin = shown.len();
        if let (Some(stream), Some(news)) = (self.stream.take(), &mut self.news) {
            let mut collected = Collected { news, shown: String::new() };
            let ending = stream.end(Some(how), &mut collected);
            let text = collected.shown;
            news.end(ending);
            self.show(text.as_bytes(), shown);
        }
        let mut logged = Vec::new();
        self.redactor.pass(&shown[begin..], &mut logged);
        self.redactor.finish(&mut logged);
        Piece { count: 0, logged: Some(logged), lost }
    }

    /// Adds this with lines that end as on a terminal.
    fn show(&mut self, text: &[u8], shown: &mut Vec<u8>) {
        shown.reserve_exact(text.len() + memchr_iter(b'\n', text).count());
        for &byte in text {
            if byte == b'\n' && !self.is_returned {
                shown.push(b'\r');
            }
            shown.push(byte);
            self.is_returned = byte == b'\r';
        }
    }
}

/// What a harness reads on standard input when it has no terminal there: these bytes, or nothing.
///
/// They are in memory that nobody can change, so that a harness that does not read them keeps nobody waiting.
pub(super) fn input(bytes: Option<&SecretBytes>) -> io::Result<OwnedFd> {
    let Some(bytes) = bytes else { return Ok(File::open("/dev/null")?.into()) };
    let create = |more| memfd_create("task", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | more);
    // Kernels before 6.3 do not know that it is not to be executed, and later ones may insist.
    let memory = match create(MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => create(MemfdFlags::empty()),
        created => created,
    };
    let mut file = File::from(memory?);
    file.write_all(bytes.as_slice())?;
    file.rewind()?;
    fcntl_add_seals(file.as_fd(), SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::text::redact::Redactor;

    fn output(secrets: &[&str]) -> (Output, File) {
        let redactor = Redactor::new(secrets.iter().map(|&secret| SecretBytes::from(secret)));
        let mut output = Output::open(None, None, ByteStream::new(redactor)).unwrap();
        let end = File::from(output.take_end().unwrap());
        (output, end)
    }

    #[test]
    fn lines_are_shown_as_on_a_terminal() {
        let (mut output, mut end) = output(&[]);
        for (printed, expected) in [
            ("a\nb", "a\r\nb"),
            ("\n", "\r\n"),
            ("c\r", "c\r"),
            ("\nd\r\n\n", "\nd\r\n\r\n"),
            ("\0\x1b[1m", "\0\x1b[1m"),
        ] {
            end.write_all(printed.as_bytes()).unwrap();
            let mut shown = Vec::new();
            let Piece { count, logged, .. } = output.read(&mut shown);
            assert_eq!((count, shown.as_slice(), logged), (printed.len(), expected.as_bytes(), None));
        }
        let mut read = || (output.read(&mut Vec::new()).count, output.pipe().is_none());
        assert_eq!(read(), (0, false));
        drop(end);
        assert_eq!(read(), (0, true));
    }

    #[test]
    fn a_secret_is_redacted_for_the_log_whatever_comes_between_its_pieces() {
        let (mut output, mut end) = output(&["hunter2-hunter2"]);
        let mut logged = Vec::new();
        for piece in ["a hunter2", "-hunter2 b hunt"] {
            end.write_all(piece.as_bytes()).unwrap();
            logged.extend(output.read(&mut Vec::new()).logged.unwrap());
            logged.extend(b"|");
        }
        logged.extend(output.end(&ExitStatus::of_code(0), &mut Vec::new()).logged.unwrap());
        assert_eq!(String::from_utf8(logged).unwrap(), format!("a |{:15} b |hunt", "********"));
    }

    #[test]
    fn an_input_is_read_to_its_end_and_cannot_be_changed() {
        let text = "x".repeat(1 << 20);
        let mut file = File::from(input(Some(&SecretBytes::from(text.as_str()))).unwrap());
        let mut read = String::new();
        file.read_to_string(&mut read).unwrap();
        assert!(read == text);
        file.rewind().unwrap();
        file.write_all(b"y").unwrap_err();
        let mut none = Vec::new();
        File::from(input(None).unwrap()).read_to_end(&mut none).unwrap();
        assert_eq!(none, [0; 0]);
    }
}
