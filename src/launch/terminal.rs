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
//!
//! A harness may have [pipes](super::output) in the place of standard input, output and error. It leads a session on the terminal all the
//! same: so keys and a stop reach it as any other.

use std::io;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::Mode;
use nix::sys::termios::{FlushArg, SetArg, cfmakeraw, tcflush, tcgetattr, tcgetsid, tcsetattr};
use nix::unistd::{Pid, getppid, tcgetpgrp};
use pty_process::blocking::{Command as CommandOn, Pts};
use rustix::termios::{tcgetwinsize, tcsetwinsize};

use super::output::{self, Output, Piece};
use super::stream::news::News;
use super::traces::{Shown, Traces};
use crate::agent::stream_kind::StreamKind;
use crate::logs::output_writer::OutputWriter;
use crate::logs::rendering::Size;
use crate::logs::writer::Writer;
use crate::sys::secret_bytes::SecretBytes;
use crate::sys::{fd, poll};
use crate::text::ansi;
use crate::text::redact::ByteStream;
use crate::wire::exit_status::ExitStatus;

/// How much is read at a time; the kernel returns no more than that from a terminal.
pub(super) const PIECE: usize = 4096;

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
    typed: Transit,
    printed: Transit,
    traces: Traces,
    log: Option<Writer>,
    has_printed: bool,
    /// What the harness reads, if that is not its terminal, until it is started.
    input: Option<OwnedFd>,
    /// Its standard output and error, where they are not its terminal.
    outputs: [Option<Output>; 2],
    /// Whether anything was printed since that was asked last.
    prints: bool,
    /// Where in an escape sequence what was printed so far ends.
    sequence: ansi::State,
}

/// The harness's ends.
pub struct Ends {
    /// Its terminal.
    pub stdin: OwnedFd,
    /// Its terminal, or the pipe of its stream.
    pub stdout: OwnedFd,
    /// Its standard input, output and error.
    pub pipes: Option<[OwnedFd; 3]>,
}

/// The harness's end.
enum Own {
    Terminal(Pts),
    /// What is relayed to a terminal in a sandbox.
    Socket(UnixStream),
}

/// What a harness has on its standard descriptors.
pub struct Wiring {
    input: Option<OwnedFd>,
    outputs: [Option<Output>; 2],
}

impl Wiring {
    /// Its terminal. With a stream, the harness's standard output is a pipe of that form. Its standard input stays the terminal:
    /// harnesses take what is on another input for a part of their task, and wait for its end. Its standard error stays there, too.
    pub fn terminal(stream: Option<StreamKind>, redactor: &impl Fn() -> ByteStream) -> io::Result<Self> {
        let output = stream.map(|kind| Output::open(Some(kind), None, redactor())).transpose()?;
        Ok(Self { input: None, outputs: [output, None] })
    }

    /// Pipes. Standard input has these bytes, and nothing without them. Output and error are kept by these writers, and standard output
    /// may have a form.
    pub fn pipes(
        stdin: Option<&SecretBytes>,
        stream: Option<StreamKind>,
        [stdout, stderr]: [Option<OutputWriter>; 2],
        redactor: &impl Fn() -> ByteStream,
    ) -> io::Result<Self> {
        let stdout = Output::open(stream, stdout, redactor())?;
        let stderr = Output::open(None, stderr, redactor())?;
        Ok(Self { input: Some(output::input(stdin)?), outputs: [Some(stdout), Some(stderr)] })
    }

    /// Whether none of the standard descriptors is the terminal.
    pub fn is_pipes(&self) -> bool {
        self.input.is_some()
    }
}

impl Terminal {
    /// Opens a new terminal with the settings of this process's own, which is the pane.
    ///
    /// Output is written to the log, if there is one.
    pub fn open(log: Option<Writer>, wiring: Wiring) -> io::Result<Self> {
        Self::over(log, wiring, |pane| {
            let (other, own) = pty_process::blocking::open().map_err(plain)?;
            tcsetattr(&own, SetArg::TCSANOW, &tcgetattr(pane)?)?;
            Ok((OwnedFd::from(other), Own::Terminal(own)))
        })
    }

    /// Opens a socket that stands for a terminal in a sandbox.
    pub fn open_relayed(log: Option<Writer>, wiring: Wiring) -> io::Result<Self> {
        Self::over(log, wiring, |_| {
            let (other, own) = UnixStream::pair()?;
            Ok((OwnedFd::from(other), Own::Socket(own)))
        })
    }

    fn over(
        log: Option<Writer>,
        Wiring { input, outputs }: Wiring,
        make: impl FnOnce(&OwnedFd) -> io::Result<(OwnedFd, Own)>,
    ) -> io::Result<Self> {
        // Opened again, because O_NONBLOCK affects all who share an open file description.
        let pane = open("/dev/tty", OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?;
        let (other, own) = make(&pane)?;
        [&other, &pane].map(fd::set_nonblocking).into_iter().collect::<io::Result<()>>()?;
        let (typed, printed, traces) = (Transit::default(), Transit::default(), Traces::default());
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
            input,
            outputs,
        };
        terminal.resize();
        Ok(terminal)
    }

    /// Starts a program on the terminal, as the leader of its session. From now on the pane is raw.
    pub fn spawn(&mut self, command: Command) -> io::Result<Child> {
        let Own::Terminal(own) = &self.own else { return Err(io::ErrorKind::Unsupported.into()) };
        let mut command = CommandOn::from(command);
        if let Some(input) = self.input.take() {
            command = command.stdin(input);
        }
        let [stdout, stderr] = ends_of(&mut self.outputs);
        if let Some(stdout) = stdout {
            command = command.stdout(stdout);
        }
        if let Some(stderr) = stderr {
            command = command.stderr(stderr);
        }
        let child = command.spawn_borrowed(own).map_err(plain)?;
        self.make_pane_raw();
        Ok(child)
    }

    /// The harness's end as standard input and output, for a program that makes it the harness's terminal; and the standard descriptors
    /// of the harness itself, if none of them is the terminal.
    pub fn ends(&mut self) -> io::Result<Ends> {
        let end = match &self.own {
            Own::Terminal(own) => own.as_fd(),
            Own::Socket(own) => own.as_fd(),
        };
        let (stdin, stdout) = (end.try_clone_to_owned()?, end.try_clone_to_owned()?);
        match (self.input.take(), ends_of(&mut self.outputs)) {
            (Some(input), [Some(output), Some(error)]) => {
                Ok(Ends { stdin, stdout, pipes: Some([input, output, error]) })
            }
            (_, [output, _]) => Ok(Ends { stdin, stdout: output.unwrap_or(stdout), pipes: None }),
        }
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

    /// Redacts these in the log and the outputs from now on.
    pub fn redact(&mut self, redactor: impl Fn() -> ByteStream) {
        for at in 0..self.outputs.len() {
            let held = self.outputs[at].as_mut().map(|output| output.redact(&redactor));
            // A failure shows again with the next piece.
            let _ = held.map(|held| self.print(self.printed.bytes.len(), held));
        }
        if let Some(log) = &mut self.log {
            log.redact(redactor());
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
        self.outputs.iter_mut().flatten().find_map(Output::news_mut)
    }

    /// When there is something to report of it.
    pub(super) fn news_due(&self) -> Option<Instant> {
        self.outputs.iter().flatten().find_map(Output::news).and_then(News::due)
    }

    /// Reads what is left of the harness's outputs, now that the harness has ended like this. Others that have them open are not waited
    /// for.
    pub fn end_outputs(&mut self, how: &ExitStatus) -> io::Result<()> {
        let mut logged = Ok(());
        let mut outputs = std::mem::take(&mut self.outputs);
        let mut left = [MOST_UNREAD; 2];
        loop {
            let mut is_any = false;
            for (output, left) in outputs.iter_mut().zip(&mut left) {
                let Some(output) = output.as_mut().filter(|_| *left > 0) else { continue };
                let begin = self.printed.bytes.len();
                let piece = output.read(&mut self.printed.bytes);
                *left = left.saturating_sub(piece.count);
                is_any |= piece.count > 0;
                logged = logged.and(self.print(begin, piece));
            }
            if !is_any {
                break;
            }
            // As much as the pane takes in without being waited for.
            if self.printed.give_to(&self.pane).is_err() {
                self.printed.clear();
            }
        }
        for output in outputs.iter_mut().flatten() {
            let begin = self.printed.bytes.len();
            let piece = output.end(how, &mut self.printed.bytes);
            logged = logged.and(self.print(begin, piece));
        }
        // What was said is still to be reported.
        self.outputs = outputs;
        logged
    }

    /// Has this written to the log. What there is to show of it was added to what is printed, from there on.
    fn print(&mut self, begin: usize, Piece { count, logged, lost }: Piece) -> io::Result<()> {
        self.has_printed |= count > 0;
        let shown = &self.printed.bytes[begin..];
        self.traces.follow(shown);
        let logged = logged.as_deref().unwrap_or(shown);
        let written = self.log.as_mut().map_or(Ok(()), |log| log.write(logged));
        lost.map_or(written, Err)
    }

    /// What to wait for before the next [`Terminal::relay`]: the terminal's other end, the pane, and the harness's standard output and
    /// error.
    pub fn interest(&self) -> [Option<PollFd<'_>>; 4] {
        let when = |is_wanted, flag| if is_wanted { flag } else { PollFlags::empty() };
        let other = when(self.printed.is_empty(), PollFlags::POLLIN) | when(!self.typed.is_empty(), PollFlags::POLLOUT);
        let reads = self.typed.is_empty() && !self.pane_is_over;
        let pane = when(reads, PollFlags::POLLIN) | when(!self.printed.is_empty(), PollFlags::POLLOUT);
        let of_pane = || PollFd::new(self.pane.as_fd(), pane);
        // A pane that is gone is always ready.
        let is_of_interest = !pane.is_empty() || !self.pane_is_over;
        let [stdout, stderr] = self.outputs.each_ref().map(|output| {
            let pipe = output.as_ref().and_then(Output::pipe).filter(|_| self.printed.is_empty());
            pipe.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
        });
        [Some(PollFd::new(self.other.as_fd(), other)), is_of_interest.then(of_pane), stdout, stderr]
    }

    /// Passes on what was typed and printed, as far as possible without blocking.
    ///
    /// The argument says which of the [descriptors](Terminal::interest) are ready. Fails if output cannot be written to the log;
    /// the output is passed on anyway.
    pub fn relay(&mut self, [other, pane, stdout, stderr]: [PollFlags; 4]) -> io::Result<()> {
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
        // One piece of each, so that none keeps the others waiting.
        let may_print = self.printed.is_empty();
        if other.intersects(PollFlags::POLLIN | over) && may_print {
            let Self { other, printed, traces, log, has_printed, prints, sequence, .. } = self;
            printed.take_from(other);
            *has_printed |= !printed.bytes.is_empty();
            *prints |= sequence.shows(&printed.bytes);
            traces.follow(&printed.bytes);
            logged = log.as_mut().map_or(Ok(()), |log| log.write(&printed.bytes));
        }
        for (at, ready) in [stdout, stderr].into_iter().enumerate() {
            if ready.intersects(PollFlags::POLLIN | over)
                && may_print
                && let Some(output) = &mut self.outputs[at]
            {
                let begin = self.printed.bytes.len();
                let piece = output.read(&mut self.printed.bytes);
                // A stream says by itself what the harness does.
                self.prints |= piece.count > 0 && !output.is_stream();
                logged = logged.and(self.print(begin, piece));
            }
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

/// The harness's ends of its outputs, once.
fn ends_of(outputs: &mut [Option<Output>; 2]) -> [Option<OwnedFd>; 2] {
    outputs.each_mut().map(|output| output.as_mut().and_then(Output::take_end))
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
struct Transit {
    bytes: Vec<u8>,
    given: usize,
}

impl Transit {
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
