//! Relays between the operator's terminal and a tmux client's.
//!
//! What is typed passes unchanged. Of what the client shows, only what the [`Sieve`] lets through reaches the operator's terminal: the
//! client obeys its server, which belongs to the agent user. The operator's terminal may still answer questions of the client when the
//! client has ended. The relay [waits for](drain) these answers and discards them: otherwise the operator's shell would take them for
//! typed.
//!
//! Meanwhile the operator's terminal is raw. It is restored however the relay ends: by the client, a signal, an error, or a panic.
//! What the client may have set is reset in any case.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::panic;
use std::pin::pin;
use std::process::{Command, ExitStatus};
use std::task::Poll;
use std::time::Duration;

use rustix::termios::{
    OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::sys::fd::Stream;
use crate::sys::pty_child::{self, Handle, PtyChild};
use crate::text::sieve::Sieve;

/// How long the client may take to end, and how long its last output may take to arrive.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// How long the terminal may take to answer at the end. Some terminals never do, and the operator waits for the shell.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(300);

/// Resets, with xterm's control sequences, what a client may have set: the scroll region and margins, the alternate screen, the hidden
/// cursor, its shape and color, mouse, focus and theme reports, bracketed paste, application keys, modified keys, the character set,
/// colors, and a hyperlink.
const WIPE: &[u8] =
    b"\x1b7\x1b[?69l\x1b[r\x1b8\x1b[?1047l\x1b[?12l\x1b[?25h\x1b[0 q\x1b]112\x1b\\\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1005l\
\x1b[?1006l\x1b[?1015l\x1b[?1004l\x1b[?2031l\x1b[?2004l\x1b[?2026l\x1b[?7h\x1b[4l\x1b[?1l\x1b>\x1b[>4m\x1b(B\x0f\x1b[m\x1b]8;;\x1b\\";

/// Why the relay failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client's terminal could not be created.
    #[error("failed to create a terminal for the tmux client: {0}")]
    Terminal(io::Error),
    /// The client could not be started.
    #[error("failed to start the tmux client: {0}")]
    Start(io::Error),
    /// The client's exit status could not be read.
    #[error("failed to wait for the tmux client: {0}")]
    Wait(io::Error),
    /// The operator's terminal, or this process, could not be prepared.
    #[error("failed to set up the terminal: {0}")]
    SetUp(#[from] io::Error),
}

/// How the relay ended.
#[derive(Debug)]
pub enum End {
    /// The client ended, with this status.
    Client(ExitStatus),
    /// This signal asked this process to end.
    Signal(i32),
}

/// Runs the command on a terminal of its own until it ends, with standard input as the keyboard and standard output as the screen.
pub async fn run(command: Command, sieve: Sieve) -> Result<End, Error> {
    let (mut signals, mut resized) = (Signals::listen()?, signal(SignalKind::window_change())?);
    let (window, pts) = pty_child::terminal().map_err(Error::Terminal)?;
    fit(&window);
    let mut own = Own::open(sieve)?;
    let mut client = PtyChild::start(command, pts).map_err(Error::Start)?;
    let handle = client.handle().map_err(Error::Wait)?;
    let (end, is_complete) = {
        let mut typing = pin!(type_in(&mut own.keyboard, &window, &handle));
        let mut showing = pin!(show(&window, &mut own.screen));
        let (mut signal, mut is_shown) = (None, false);
        loop {
            tokio::select! {
                biased;
                number = signals.next() => signal = Some(number),
                // The status is read below.
                _ = client.ended() => {}
                Some(()) = resized.recv() => {
                    fit(&window);
                    continue;
                }
                () = &mut showing => is_shown = true,
                () = &mut typing => {}
            }
            break;
        }
        // If its terminal is closed, the client is about to end by itself.
        if !is_shown {
            handle.terminate();
        }
        let last_output = async { is_shown || timeout(GRACE, showing).await.is_ok() };
        let (status, is_complete) = tokio::join!(client.finish(GRACE), last_output);
        let end = match signal {
            Some(number) => Ok(End::Signal(number)),
            None => status.map(End::Client).map_err(Error::Wait),
        };
        (end, is_complete)
    };
    let is_clean = is_complete && matches!(&end, Ok(End::Client(status)) if status.success());
    own.close(is_clean).await;
    end
}

/// The operator's terminal, raw.
pub(super) struct Own {
    pub(super) keyboard: File,
    pub(super) screen: Screen,
    _raw: Raw,
}

/// The operator's terminal as far as it shows something.
pub(super) struct Screen {
    file: File,
    sieve: Sieve,
    passed: Vec<u8>,
}

impl Screen {
    /// Shows what may reach the terminal. Cancellation may lose a part.
    pub(super) async fn show(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.passed.clear();
        self.sieve.pass(bytes, &mut self.passed);
        self.file.write_all(&self.passed).await?;
        self.file.flush().await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await?;
        self.file.flush().await
    }
}

impl Own {
    pub(super) fn open(sieve: Sieve) -> io::Result<Self> {
        let screen = Screen { file: own(io::stdout())?, sieve, passed: Vec::new() };
        Ok(Self { keyboard: own(io::stdin())?, screen, _raw: Raw::enter()? })
    }

    /// Resets what the client may have left behind, and discards late answers. Dropping restores the mode.
    ///
    /// A server can make its client end as if all were well, so the reset does not depend on that.
    pub(super) async fn close(&mut self, is_clean: bool) {
        let wipe = [WIPE, if is_clean { b"" } else { b"\r\n" }].concat();
        // A terminal that no longer accepts output stays as it is.
        let _ = timeout(GRACE, self.screen.write(&wipe)).await;
        let _ = timeout(DRAIN_TIMEOUT, drain(&mut self.keyboard, &mut self.screen)).await;
    }
}

/// Waits until the terminal has answered all earlier questions, and discards the answers and whatever was typed meanwhile.
///
/// A terminal answers in order. So this ends any unfinished sequence, asks for a device status report (DSR), and waits for the answer.
/// The answer that arrives may belong to a question of the client, but then any others follow at once.
async fn drain(keyboard: &mut File, screen: &mut Screen) -> io::Result<()> {
    const QUESTION: &[u8] = b"\x18\x1b\\\x1b[5n";
    const QUIET: Duration = Duration::from_millis(30);
    screen.write(QUESTION).await?;
    let (mut bytes, mut answer) = ([0; 4096], Answer::default());
    while !answer.has_come {
        match keyboard.read(&mut bytes).await? {
            0 => return Ok(()),
            count => answer.take(&bytes[..count]),
        }
    }
    while let Ok(read) = timeout(QUIET, keyboard.read(&mut bytes)).await
        && read? > 0
    {}
    Ok(())
}

/// Finds the answer to a device status report among the bytes: `ESC [ 0 n` (ok) or `ESC [ 3 n` (malfunction).
#[derive(Debug, Default)]
struct Answer {
    last: [u8; 4],
    has_come: bool,
}

impl Answer {
    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.last.rotate_left(1);
            self.last[3] = byte;
            self.has_come |= self.last == *b"\x1b[0n" || self.last == *b"\x1b[3n";
        }
    }
}

/// Passes keys to the client until the keyboard is gone.
///
/// The operator can make tmux suspend its client (Ctrl-b Ctrl-z), and there is no shell here to continue it. So this continues the
/// client whenever the keyboard pauses. It does not do so with each key, because a client that gets SIGCONT while it detaches may take
/// its server for dead (3.3a does).
async fn type_in(keyboard: &mut File, window: &Stream, client: &Handle) {
    const PAUSE: Duration = Duration::from_secs(1);
    let (mut keys, mut is_fresh) = ([0; 4096], false);
    loop {
        let read = keyboard.read(&mut keys);
        let read = if is_fresh { timeout(PAUSE, read).await } else { Ok(read.await) };
        is_fresh = match read {
            Ok(Ok(count @ 1..)) => {
                if write_all(window, &keys[..count]).await.is_err() {
                    return;
                }
                true
            }
            Ok(_) => return,
            Err(_) => {
                client.resume();
                false
            }
        };
    }
}

/// Passes output to the screen until the screen is gone, or until the client and all others that use its terminal are.
async fn show(window: &Stream, screen: &mut Screen) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = window.read(&mut bytes).await {
        if screen.show(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

async fn write_all(window: &Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        bytes = &bytes[window.write(bytes).await?..];
    }
    Ok(())
}

/// A handle that reads and writes in a thread: other processes share the open file and expect it to block.
fn own(descriptor: impl AsFd) -> io::Result<File> {
    Ok(File::from_std(descriptor.as_fd().try_clone_to_owned()?.into()))
}

/// Makes the client's terminal as large as the screen.
fn fit(window: &Stream) {
    // A screen that does not report its size has none to follow.
    if let Ok(size) = tcgetwinsize(io::stdout()) {
        let _ = tcsetwinsize(window, size);
    }
}

/// The signals that ask this process to end.
pub(super) struct Signals(Vec<(i32, tokio::signal::unix::Signal)>);

impl Signals {
    /// Catches the signals, which no longer end this process.
    pub(super) fn listen() -> io::Result<Self> {
        let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
        kinds.into_iter().map(|kind| Ok((kind.as_raw_value(), signal(kind)?))).collect::<io::Result<_>>().map(Self)
    }

    /// The number of the next signal. Cancel-safe.
    pub(super) async fn next(&mut self) -> i32 {
        poll_fn(|context| {
            let mut signals = self.0.iter_mut();
            let arrived = signals.find_map(|(number, signal)| signal.poll_recv(context).is_ready().then_some(*number));
            arrived.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// The operator's terminal in raw mode. Restores the previous mode when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> io::Result<Self> {
        let before = Self(tcgetattr(io::stdin())?);
        let mut raw = before.0.clone();
        raw.make_raw();
        before.restore_at_panic();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(before)
    }

    /// Makes a panic restore the previous mode, too: it ends the process without dropping anything.
    fn restore_at_panic(&self) {
        let (before, report) = (self.0.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |panic| {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
            report(panic);
        }));
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Input that arrived since the drain must not be taken for what the operator types next. Nothing here waits for a terminal
        // that is stuck, and one that is gone needs nothing.
        let _ = tcflush(io::stdin(), QueueSelector::IFlush);
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::sieve::MODES;

    #[test]
    fn every_mode_that_passes_is_reset() {
        let wipe = String::from_utf8(WIPE.to_vec()).unwrap();
        for mode in MODES {
            let reset = match mode {
                // On by default.
                "7" | "25" => format!("\x1b[?{mode}h"),
                // Other names of the alternate screen, and a saved position.
                "47" | "1048" | "1049" => continue,
                _ => format!("\x1b[?{mode}l"),
            };
            assert!(wipe.contains(&reset), "{mode}");
        }
        for reset in
            ["\x1b]8;;\x1b\\", "\x1b]112\x1b\\", "\x1b[0 q", "\x1b[>4m", "\x1b[4l", "\x1b>", "\x1b(B\x0f", "\x1b[r"]
        {
            assert!(wipe.contains(reset), "{reset:?}");
        }
    }

    #[test]
    fn answer_is_found_wherever_the_input_is_cut() {
        let bytes = b"\x1b[?62;c\x1b]l0n\x1b\\typed\x1b[0n";
        for at in 0..bytes.len() {
            let mut answer = Answer::default();
            answer.take(&bytes[..at]);
            assert!(!answer.has_come, "{at}");
            answer.take(&bytes[at..]);
            assert!(answer.has_come, "{at}");
        }
    }
}
