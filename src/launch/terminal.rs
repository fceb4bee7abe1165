//! The harness's terminal, and the way between it and the pane.
//!
//! ```text
//! tmux ── pane (raw) ── launcher ── terminal ── harness
//! ```
//!
//! The harness has a terminal of its own, of which the launcher holds the other end; the pane only hands on what is typed and
//! shows what is printed. So the launcher sees every byte, and the harness the terminal that it would have without: it leads a
//! session there, keys are turned into signals there, and it has the pane's size and settings.
//!
//! What is printed is written to the log first, and then shown: who hears of the end finds the last byte there, and it is no matter
//! for the log whether tmux lives. The next piece is taken off the terminal when the pane has taken in the one before: an agent
//! that prints faster than it can be shown waits, and nothing is heaped up.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::termios::{FlushArg, SetArg, cfmakeraw, tcflush, tcgetattr, tcsetattr};
use nix::unistd::{Pid, getppid, tcgetpgrp};
use pty_process::blocking::{Command as CommandOn, Pts};
use rustix::termios::{tcgetwinsize, tcsetwinsize};
use tokio::time::timeout;

use super::traces::{Shown, Traces};
use crate::logs::rendering::Size;
use crate::logs::writer::Writer;
use crate::sys::fd::Stream;

/// How much is read at once; the kernel gives no more than that of a terminal.
const PIECE: usize = 4096;

/// How long the server may take to tell what the pane shows.
const TO_LOOK: Duration = Duration::from_secs(1);

/// How much can have been printed and not read: more than the kernel keeps (`tty_buffer_set_limit` of a pseudoterminal).
const MOST_UNREAD: usize = 1 << 20;

/// The terminal, with a harness on it or without.
pub struct Terminal {
    /// Held open: as long as it is, what was printed is not lost, and the other end does not fail when nobody has it open.
    own: Pts,
    other: Stream,
    pane: Stream,
    typed: Piece,
    printed: Piece,
    traces: Traces,
    log: Option<Writer>,
}

impl Terminal {
    /// A new one, like this process's own, which is the pane. What is printed on it is written to the log, if there is one. Must be
    /// called inside the async runtime.
    pub fn open(log: Option<Writer>) -> io::Result<Self> {
        // Anew, because it becomes non-blocking for all who have it from the same opening.
        let pane = open("/dev/tty", OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?;
        let (other, own) = pty_process::blocking::open().map_err(plain)?;
        tcsetattr(&own, SetArg::TCSANOW, &tcgetattr(&pane)?)?;
        let (other, pane) = (Stream::new(OwnedFd::from(other))?, Stream::new(pane)?);
        let (typed, printed, traces) = (Piece::default(), Piece::default(), Traces::default());
        let mut terminal = Self { own, other, pane, typed, printed, traces, log };
        terminal.resize();
        Ok(terminal)
    }

    /// Starts a program on it, as the leader of a session whose terminal it is. From now on the pane only hands on.
    pub fn spawn(&self, command: Command) -> io::Result<Child> {
        let child = CommandOn::from(command).spawn_borrowed(&self.own).map_err(plain)?;
        if let Ok(mut raw) = tcgetattr(&self.pane) {
            cfmakeraw(&mut raw);
            // Fails only when the pane is gone. What was typed so far is the harness's.
            let _ = tcsetattr(&self.pane, SetArg::TCSANOW, &raw);
        }
        Ok(child)
    }

    /// Goes on writing what is printed in these files, if it is written at all: what is a secret is not known otherwise.
    /// Answers who writes it.
    pub fn move_log(&mut self, text: OwnedFd, index: OwnedFd, size: u64) -> Option<&Writer> {
        let log = self.log.as_mut()?;
        log.move_to(text, index, size);
        Some(log)
    }

    /// Gives it the pane's size. The kernel tells the harness if that is another.
    pub fn resize(&mut self) {
        // Fails only when the pane is gone.
        let Ok(size) = tcgetwinsize(&self.pane) else { return };
        let _ = tcsetwinsize(&self.other, size);
        if let Some(log) = &mut self.log
            && size.ws_col > 0
            && size.ws_row > 0
        {
            log.resize(Size { columns: size.ws_col, rows: size.ws_row });
        }
    }

    /// The process group in its foreground.
    pub fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(&self.other).ok().filter(|group| group.as_raw() > 1)
    }

    /// Hands on what is typed and what is printed, until something of it cannot be written to the log. Cancel-safe.
    pub async fn relay(&mut self) -> io::Error {
        let Self { other, pane, typed, printed, traces, log, .. } = self;
        tokio::select! {
            error = show(other, printed, traces, log.as_mut(), pane) => error,
            never = hand_on(pane, typed, other) => match never {},
        }
    }

    /// Takes all that was printed until now off it, whether the pane takes it in or not, and writes it to the log.
    pub fn collect(&mut self) -> io::Result<()> {
        let mut logged = Ok(());
        let (mut total, mut buffer) = (0, [0; PIECE]);
        while total < MOST_UNREAD
            && let Ok(count @ 1..) = self.other.try_read(&mut buffer)
        {
            self.printed.bytes.extend_from_slice(&buffer[..count]);
            self.traces.follow(&buffer[..count]);
            total += count;
            if let Some(log) = &mut self.log {
                logged = logged.and(log.write(&buffer[..count]));
            }
        }
        logged.and(self.log.as_mut().map_or(Ok(()), Writer::finish))
    }

    /// Shows the rest of it and these last words, below all that is on the screen, and returns when the pane has taken them in. The
    /// terminal is then as a program finds it: nothing of what the harness set on it outlives it, and what it showed on an alternate
    /// screen is kept.
    pub async fn finish(&mut self, last_words: &str) {
        // The string terminator ends whatever sequence the harness was in the middle of.
        self.printed.bytes.extend(b"\x1b\\");
        let shown = if self.traces.is_of_interest() && self.settle().await.is_ok() { look().await } else { None };
        self.printed.bytes.extend(self.traces.farewell(shown.as_ref(), last_words));
        // Fails only when the pane is gone.
        let _ = self.settle().await;
    }

    /// Waits until the pane has taken in what is printed: it is asked a question behind that, and answers in order (DSR, "device
    /// status report"). tmux drops what it has not read by the time that the pane's process ends.
    async fn settle(&mut self) -> io::Result<()> {
        self.printed.bytes.extend(b"\x1b[5n");
        // What was typed and not read would be taken for the answer.
        let _ = tcflush(&self.pane, FlushArg::TCIFLUSH);
        while !self.printed.is_empty() {
            self.printed.give_to(&self.pane).await?;
        }
        let mut byte = [0];
        while self.pane.read(&mut byte).await? == 1 && byte[0] != b'n' {}
        Ok(())
    }
}

/// What the pane shows, by the word of the tmux server that it is in: asked by the program that the server runs, which is this
/// process's parent.
async fn look() -> Option<Shown> {
    let server = std::env::var_os("TMUX")?.into_string().ok()?;
    // The socket's path, the server, and a session.
    let socket = server.rsplitn(3, ',').last()?;
    let pane = std::env::var_os("TMUX_PANE")?;
    let mut command = tokio::process::Command::new(format!("/proc/{}/exe", getppid()));
    command.arg0("tmux").args(["-u", "-N", "-S", socket]);
    command.args(["display-message", "-p", "-t"]).arg(&pane).arg(Shown::FORMAT);
    command.args([";", "capture-pane", "-p", "-e", "-t"]).arg(&pane);
    command.env_clear().stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = timeout(TO_LOOK, command.output()).await.ok()?.ok()?;
    Shown::parse(&output.stdout).filter(|_| output.status.success())
}

/// What was printed goes to the log, and to the pane. One that is gone takes in anything.
async fn show(
    terminal: &Stream,
    printed: &mut Piece,
    traces: &mut Traces,
    mut log: Option<&mut Writer>,
    pane: &Stream,
) -> io::Error {
    loop {
        if printed.is_empty() {
            printed.take_from(terminal).await;
            traces.follow(&printed.bytes);
            // At once: whoever cancels this finds both done or neither.
            if let Some(Err(error)) = log.as_mut().map(|log| log.write(&printed.bytes)) {
                return error;
            }
        }
        if printed.give_to(pane).await.is_err() {
            printed.clear();
        }
    }
}

/// What was typed goes to the terminal.
async fn hand_on(pane: &Stream, typed: &mut Piece, terminal: &Stream) -> Infallible {
    loop {
        if typed.is_empty() {
            typed.take_from(pane).await;
        }
        if typed.give_to(terminal).await.is_err() {
            typed.clear();
        }
    }
}

/// Bytes on their way.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    given: usize,
}

impl Piece {
    fn is_empty(&self) -> bool {
        self.given == self.bytes.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.given = 0;
    }

    /// Adds the next ones. One that has no more to give is waited for without end. Cancel-safe.
    async fn take_from(&mut self, source: &Stream) {
        let mut buffer = [0; PIECE];
        match source.read(&mut buffer).await {
            Ok(count) if count > 0 => self.bytes.extend_from_slice(&buffer[..count]),
            _ => pending().await,
        }
    }

    /// Gives away as many as are taken. Cancel-safe.
    async fn give_to(&mut self, goal: &Stream) -> io::Result<()> {
        self.given += goal.write(&self.bytes[self.given..]).await?;
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
