//! The harness's terminal, and the relay between it and the pane.
//!
//! ```text
//! tmux ── pane (raw) ── launcher ── terminal ── harness
//! ```
//!
//! The launcher holds the other end of the harness's terminal; the pane only passes on what is typed and shows what is printed.
//! So the launcher sees every byte, and the harness has the terminal that it would have otherwise: it leads a session on it, keys
//! become signals on it, and it has the pane's size and settings.
//!
//! Output is written to the log first, and then shown. So the log is complete when the exit is reported, and it does not depend
//! on tmux. The next piece is read from the terminal once the pane has taken in the one before: an agent that prints faster than
//! its output can be shown has to wait, and nothing piles up.

use std::io;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::Mode;
use nix::sys::termios::{FlushArg, SetArg, cfmakeraw, tcflush, tcgetattr, tcgetsid, tcsetattr};
use nix::unistd::{Pid, getppid, tcgetpgrp};
use pty_process::blocking::{Command as CommandOn, Pts};
use rustix::termios::{tcgetwinsize, tcsetwinsize};

use super::stream::news::News;
use super::stream::{Fact, Sink, Stream};
use super::traces::{Shown, Traces};
use crate::agent::stream_kind::StreamKind;
use crate::logs::rendering::Size;
use crate::logs::writer::Writer;
use crate::sys::secret_bytes::SecretBytes;
use crate::sys::{fd, poll};
use crate::text::ansi;
use crate::text::redact::ByteStream;
use crate::wire::exit_status::ExitStatus;

/// How much is read at a time; the kernel returns no more than that from a terminal.
const PIECE: usize = 4096;

/// How long the tmux server may take to report what the pane shows.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// How much output can be unread: more than the kernel holds (`tty_buffer_set_limit` of a pseudoterminal).
const MOST_UNREAD: usize = 1 << 20;

/// The harness's terminal, and the pane.
pub struct Terminal {
    /// Held open, so that unread output is not lost, and the other end does not fail when no process has the terminal open.
    own: Own,
    other: OwnedFd,
    pane: OwnedFd,
    /// Whether nothing more can be read from the pane.
    pane_is_over: bool,
    typed: Piece,
    printed: Piece,
    traces: Traces,
    log: Option<Writer>,
    has_printed: bool,
    output: Option<Output>,
    /// Whether anything was printed since that was asked last.
    prints: bool,
    /// Where in an escape sequence what was printed so far ends.
    sequence: ansi::State,
}

/// The harness's standard output, when that is not its terminal.
struct Output {
    /// `None` once it is over.
    pipe: Option<OwnedFd>,
    /// The harness's end, until it is started.
    own: Option<OwnedFd>,
    stream: Stream,
    news: News,
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

impl Collected<'_> {
    /// What was shown, as a terminal wants its lines to end.
    fn on_terminal(self) -> Vec<u8> {
        self.shown.replace('\n', "\r\n").into_bytes()
    }
}

impl Output {
    fn new(kind: StreamKind) -> io::Result<Self> {
        let (pipe, own) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        fd::set_nonblocking(&pipe)?;
        Ok(Self { pipe: Some(pipe), own: Some(own), stream: Stream::new(kind), news: News::default() })
    }

    /// Reads the next piece, and returns how long it was and what there is to show. Nothing else waits to be read if it was empty.
    fn read(&mut self) -> (usize, Vec<u8>) {
        let Some(pipe) = &self.pipe else { return (0, Vec::new()) };
        let mut buffer = [0; PIECE];
        match fd::read(pipe, &mut buffer) {
            Ok(count @ 1..) => {
                let mut collected = Collected { news: &mut self.news, shown: String::new() };
                self.stream.feed(&buffer[..count], &mut collected);
                (count, collected.on_terminal())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, Vec::new()),
            // It is over, or cannot be read any more.
            Ok(_) | Err(_) => {
                self.pipe = None;
                (0, Vec::new())
            }
        }
    }
}

/// The harness's end.
enum Own {
    Terminal(Pts),
    /// What is relayed to a terminal in a sandbox.
    Socket(UnixStream),
}

impl Terminal {
    /// Opens a new terminal with the settings of this process's own, which is the pane.
    ///
    /// Output is written to the log, if there is one.
    ///
    /// With a stream, the harness's standard output is a pipe of that form. Its standard input stays the terminal: harnesses take
    /// what is on another input for a part of their task, and wait for its end. Its standard error stays there, too.
    pub fn open(log: Option<Writer>, stream: Option<StreamKind>) -> io::Result<Self> {
        Self::over(log, stream, |pane| {
            let (other, own) = pty_process::blocking::open().map_err(plain)?;
            tcsetattr(&own, SetArg::TCSANOW, &tcgetattr(pane)?)?;
            Ok((OwnedFd::from(other), Own::Terminal(own)))
        })
    }

    /// Opens a socket that stands for a terminal in a sandbox.
    pub fn open_relayed(log: Option<Writer>, stream: Option<StreamKind>) -> io::Result<Self> {
        Self::over(log, stream, |_| {
            let (other, own) = UnixStream::pair()?;
            Ok((OwnedFd::from(other), Own::Socket(own)))
        })
    }

    fn over(
        log: Option<Writer>,
        stream: Option<StreamKind>,
        make: impl FnOnce(&OwnedFd) -> io::Result<(OwnedFd, Own)>,
    ) -> io::Result<Self> {
        let output = stream.map(Output::new).transpose()?;
        // Opened again, because O_NONBLOCK affects all who share an open file description.
        let pane = open("/dev/tty", OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?;
        let (other, own) = make(&pane)?;
        [&other, &pane].map(fd::set_nonblocking).into_iter().collect::<io::Result<()>>()?;
        let (typed, printed, traces) = (Piece::default(), Piece::default(), Traces::default());
        let mut terminal = Self {
            own,
            other,
            pane,
            pane_is_over: false,
            typed,
            printed,
            traces,
            log,
            has_printed: false,
            prints: false,
            sequence: ansi::State::default(),
            output,
        };
        terminal.resize();
        Ok(terminal)
    }

    /// Starts a program on the terminal, as the leader of its session. From now on the pane is raw.
    pub fn spawn(&mut self, command: Command) -> io::Result<Child> {
        let Own::Terminal(own) = &self.own else { return Err(io::ErrorKind::Unsupported.into()) };
        let mut command = CommandOn::from(command);
        if let Some(output) = self.output.as_mut().and_then(|output| output.own.take()) {
            command = command.stdout(output);
        }
        let child = command.spawn_borrowed(own).map_err(plain)?;
        self.make_pane_raw();
        Ok(child)
    }

    /// The harness's end as standard input and output, for a program that makes it the harness's terminal.
    pub fn ends(&mut self) -> io::Result<(OwnedFd, OwnedFd)> {
        let end = match &self.own {
            Own::Terminal(own) => own.as_fd(),
            Own::Socket(own) => own.as_fd(),
        };
        let output = self.output.as_mut().and_then(|output| output.own.take());
        Ok((end.try_clone_to_owned()?, output.map_or_else(|| end.try_clone_to_owned(), Ok)?))
    }

    /// Leaves it to the harness's terminal what keys mean.
    pub fn make_pane_raw(&self) {
        if let Ok(mut raw) = tcgetattr(&self.pane) {
            cfmakeraw(&mut raw);
            // Fails only if the pane is gone. Keys typed so far go to the harness.
            let _ = tcsetattr(&self.pane, SetArg::TCSANOW, &raw);
        }
    }

    /// The pane's size, if it is known.
    pub fn size(&self) -> Option<Size> {
        let size = tcgetwinsize(&self.pane).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0)?;
        Some(Size { columns: size.ws_col, rows: size.ws_row })
    }

    /// Redacts these in the log from now on.
    pub fn redact(&mut self, redactor: ByteStream) {
        if let Some(log) = &mut self.log {
            log.redact(redactor);
        }
    }

    /// Continues the log in these files, if there is a log: without one, the secrets to redact are unknown. Returns the log's
    /// writer.
    pub fn move_log(&mut self, text: OwnedFd, index: OwnedFd, size: u64) -> Option<&Writer> {
        let log = self.log.as_mut()?;
        log.move_to(text, index, size);
        Some(log)
    }

    /// Gives the terminal the pane's size. If the size differs, the kernel signals the harness.
    pub fn resize(&mut self) {
        // Fails only if the pane is gone.
        let Ok(size) = tcgetwinsize(&self.pane) else { return };
        let _ = tcsetwinsize(&self.other, size);
        if let Some(log) = &mut self.log
            && size.ws_col > 0
            && size.ws_row > 0
        {
            log.resize(Size { columns: size.ws_col, rows: size.ws_row });
        }
    }

    /// Whether anything was printed so far.
    pub fn has_printed(&self) -> bool {
        self.has_printed
    }

    /// The last output that was written to the log, secrets redacted.
    pub fn tail(&self) -> Option<SecretBytes> {
        self.log.as_ref().map(|log| SecretBytes::from(log.tail().to_vec()))
    }

    /// Whether anything was shown since the last call. Some harnesses blink in the title of their window while they wait.
    pub fn prints(&mut self) -> bool {
        std::mem::take(&mut self.prints)
    }

    /// The terminal's foreground process group.
    pub fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(&self.other).ok().filter(|group| group.as_raw() > 1)
    }

    /// The leader of the session that has the terminal.
    pub fn session(&self) -> Option<Pid> {
        tcgetsid(&self.other).ok().filter(|leader| leader.as_raw() > 1)
    }

    /// What there is to report of the harness's stream, if it has one.
    pub(super) fn news(&mut self) -> Option<&mut News> {
        self.output.as_mut().map(|output| &mut output.news)
    }

    /// When there is something to report of it.
    pub(super) fn news_due(&self) -> Option<Instant> {
        self.output.as_ref().and_then(|output| output.news.due())
    }

    /// Reads what is left of the harness's stream, now that the harness has ended like this. Others that have it open are not waited
    /// for.
    pub fn end_stream(&mut self, how: &ExitStatus) -> io::Result<()> {
        let mut logged = Ok(());
        let Some(mut output) = self.output.take() else { return logged };
        let mut total = 0;
        while total < MOST_UNREAD
            && let (count @ 1.., shown) = output.read()
        {
            total += count;
            self.has_printed = true;
            logged = logged.and(self.print(&shown));
        }
        let Output { stream, mut news, .. } = output;
        let mut collected = Collected { news: &mut news, shown: String::new() };
        let ending = stream.end(Some(how), &mut collected);
        let shown = collected.on_terminal();
        news.end(ending);
        // Nothing more is read; what was said is still to be reported.
        self.output = Some(Output { pipe: None, own: None, stream: Stream::new(StreamKind::Claude), news });
        logged.and(self.print(&shown))
    }

    /// Has this written to the log and shown in the pane.
    fn print(&mut self, shown: &[u8]) -> io::Result<()> {
        self.printed.bytes.extend_from_slice(shown);
        self.traces.follow(shown);
        self.log.as_mut().map_or(Ok(()), |log| log.write(shown))
    }

    /// What to wait for before the next [`Terminal::relay`]: the terminal's other end, the pane, and the harness's standard output.
    pub fn interest(&self) -> [Option<PollFd<'_>>; 3] {
        let when = |is_wanted, flag| if is_wanted { flag } else { PollFlags::empty() };
        let other = when(self.printed.is_empty(), PollFlags::POLLIN) | when(!self.typed.is_empty(), PollFlags::POLLOUT);
        let reads = self.typed.is_empty() && !self.pane_is_over;
        let pane = when(reads, PollFlags::POLLIN) | when(!self.printed.is_empty(), PollFlags::POLLOUT);
        let of_pane = || PollFd::new(self.pane.as_fd(), pane);
        // A pane that is gone is always ready.
        let is_of_interest = !pane.is_empty() || !self.pane_is_over;
        let pipe = self.output.as_ref().and_then(|output| output.pipe.as_ref()).filter(|_| self.printed.is_empty());
        let output = pipe.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        [Some(PollFd::new(self.other.as_fd(), other)), is_of_interest.then(of_pane), output]
    }

    /// Passes on what was typed and printed, as far as possible without blocking.
    ///
    /// The argument says which of the [descriptors](Terminal::interest) are ready. Fails if output cannot be written to the log;
    /// the output is passed on anyway.
    pub fn relay(&mut self, [other, pane, output]: [PollFlags; 3]) -> io::Result<()> {
        let over = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        if pane.contains(PollFlags::POLLIN) && self.typed.is_empty() {
            self.pane_is_over = !self.typed.take_from(&self.pane);
        } else if pane.intersects(over) {
            self.pane_is_over = true;
        }
        if !self.typed.is_empty() && self.typed.give_to(&self.other).is_err() {
            self.typed.clear();
        }
        let mut logged = Ok(());
        if other.intersects(PollFlags::POLLIN | over) && self.printed.is_empty() {
            let Self { other, printed, traces, log, has_printed, prints, sequence, .. } = self;
            printed.take_from(other);
            *has_printed |= !printed.bytes.is_empty();
            *prints |= sequence.shows(&printed.bytes);
            traces.follow(&printed.bytes);
            logged = log.as_mut().map_or(Ok(()), |log| log.write(&printed.bytes));
        }
        if output.intersects(PollFlags::POLLIN | over)
            && self.printed.is_empty()
            && let Some(from) = &mut self.output
        {
            let (count, shown) = from.read();
            self.has_printed |= count > 0;
            logged = logged.and(self.print(&shown));
        }
        // Output for a pane that is gone is dropped.
        if !self.printed.is_empty() && self.printed.give_to(&self.pane).is_err() {
            self.printed.clear();
        }
        logged
    }

    /// Reads everything printed so far, whether or not the pane takes it in, and writes it to the log.
    pub fn collect(&mut self) -> io::Result<()> {
        let mut logged = Ok(());
        let (mut total, mut buffer) = (0, [0; PIECE]);
        while total < MOST_UNREAD
            && let Ok(count @ 1..) = fd::read(&self.other, &mut buffer)
        {
            self.printed.bytes.extend_from_slice(&buffer[..count]);
            self.traces.follow(&buffer[..count]);
            self.has_printed = true;
            total += count;
            if let Some(log) = &mut self.log {
                logged = logged.and(log.write(&buffer[..count]));
            }
        }
        logged.and(self.log.as_mut().map_or(Ok(()), Writer::finish))
    }

    /// Shows the remaining output and these last words below everything on the screen.
    ///
    /// Returns once the pane has taken them in, or at the deadline. The terminal is then reset: no setting of the harness
    /// remains, and the content of an alternate screen is kept.
    pub fn finish(&mut self, last_words: &str, limit: Instant) {
        // The string terminator ends any sequence that the harness left unfinished.
        self.printed.bytes.extend(b"\x1b\\");
        let shown = if self.traces.is_of_interest() && self.settle(limit).is_ok() { look(limit) } else { None };
        self.printed.bytes.extend(self.traces.farewell(shown.as_ref(), last_words));
        // Fails only if the pane is gone or does not answer.
        let _ = self.settle(limit);
    }

    /// Waits until the pane has taken in the output.
    ///
    /// A query follows the output, and tmux answers in order (DSR, "device status report"). tmux drops what it has not read by
    /// the time the pane's process ends.
    fn settle(&mut self, limit: Instant) -> io::Result<()> {
        self.printed.bytes.extend(b"\x1b[5n");
        // Typed keys that were not read would be taken for the answer.
        let _ = tcflush(&self.pane, FlushArg::TCIFLUSH);
        while !self.printed.is_empty() {
            self.printed.give_to(&self.pane)?;
            if !self.printed.is_empty() {
                await_ready(&self.pane, PollFlags::POLLOUT, limit)?;
            }
        }
        let mut byte = [0];
        loop {
            match fd::read(&self.pane, &mut byte) {
                Ok(1) if byte[0] != b'n' => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    await_ready(&self.pane, PollFlags::POLLIN, limit)?;
                }
                ended => return ended.map(drop),
            }
        }
    }
}

/// Waits until the descriptor is ready; fails at the deadline.
fn await_ready(descriptor: impl AsFd, flag: PollFlags, limit: Instant) -> io::Result<()> {
    if Instant::now() >= limit {
        return Err(io::ErrorKind::TimedOut.into());
    }
    poll::wait(&mut [PollFd::new(descriptor.as_fd(), flag)], Some(limit))
}

/// What the pane shows, as reported by its tmux server.
///
/// The query is made with the program that the server runs, which is this process's parent.
fn look(limit: Instant) -> Option<Shown> {
    let server = std::env::var_os("TMUX")?.into_string().ok()?;
    // The socket's path, the server, and a session.
    let socket = server.rsplitn(3, ',').last()?;
    let pane = std::env::var_os("TMUX_PANE")?;
    let mut command = Command::new(format!("/proc/{}/exe", getppid()));
    command.arg0("tmux").args(["-u", "-N", "-S", socket]);
    command.args(["display-message", "-p", "-t"]).arg(&pane).arg(Shown::FORMAT);
    command.args([";", "capture-pane", "-p", "-e", "-t"]).arg(&pane);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut client = command.spawn().ok()?;
    let printed = read_to_end(&mut client, limit.min(Instant::now() + LOOK_TIMEOUT));
    if printed.is_none() {
        let _ = client.kill();
    }
    let status = client.wait().ok()?;
    Shown::parse(&printed?).filter(|_| status.success())
}

/// Reads what a process prints until the end; `None` if that takes too long, or is far more than a screen.
fn read_to_end(child: &mut Child, limit: Instant) -> Option<Vec<u8>> {
    const MOST: usize = 8 << 20;
    let stdout = child.stdout.as_mut()?;
    fd::set_nonblocking(&*stdout).ok()?;
    let (mut printed, mut buffer) = (Vec::new(), [0; PIECE]);
    while printed.len() <= MOST {
        match stdout.read(&mut buffer) {
            Ok(0) => return Some(printed),
            Ok(count) => printed.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                await_ready(&*stdout, PollFlags::POLLIN, limit).ok()?;
            }
            Err(_) => return None,
        }
    }
    None
}

/// Bytes in transit.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    given: usize,
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.given == self.bytes.len()
    }

    /// Frees the memory as well: usually nothing is in transit.
    fn clear(&mut self) {
        *self = Self::default();
    }

    /// Reads the next bytes that are available. Returns whether there may be more later.
    fn take_from(&mut self, source: &OwnedFd) -> bool {
        let mut buffer = [0; PIECE];
        match fd::read(source, &mut buffer) {
            Ok(count) => {
                self.bytes.extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Writes as many bytes as possible without blocking.
    fn give_to(&mut self, goal: &OwnedFd) -> io::Result<()> {
        match fd::write(goal, &self.bytes[self.given..]) {
            Ok(count) => self.given += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if self.is_empty() {
            self.clear();
        }
        Ok(())
    }
}

fn plain(error: pty_process::Error) -> io::Error {
    match error {
        pty_process::Error::Io(error) => error,
        pty_process::Error::Rustix(error) => error.into(),
    }
}
