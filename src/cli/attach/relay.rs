//! Two terminals, and every byte of one carried to the other.
//!
//! Nothing of what passes is looked at. What the operator's terminal answers to questions on its screen is the client's, and when the
//! client has ended, nobody's: it is [waited for](drain) and thrown away, or the operator's shell would take it for typed.
//!
//! The operator's terminal is raw meanwhile, and as it was before from then on, however this ends: by the client, by a signal, by an
//! error, by a panic. What a client left behind on it that could not do so itself is wiped.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::process::{Child, Command, ExitStatus};
use std::task::Poll;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::termios::{
    OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::sys::fd::{Readable, Stream};

/// How long the client may take to end, and then its last words to come.
const GRACE: Duration = Duration::from_secs(1);

/// How long the terminal may take to answer at the end. Some never do, and nobody wants to wait for the shell.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(300);

/// Has a terminal of the usual kinds (xterm's control sequences) forget what a client that died may have set: the scroll region,
/// the alternate screen, a hidden cursor, reports of the mouse and of the focus, brackets around what is pasted, application keys,
/// a character set, colours.
const WIPE: &[u8] =
    b"\x1b7\x1b[r\x1b8\x1b[?1047l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1005l\x1b[?1006l\x1b[?1004l\
\x1b[?2004l\x1b[?1l\x1b>\x1b(B\x1b[m\r\n";

/// What did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no second terminal.
    #[error("failed to make a terminal for the tmux client: {0}")]
    Terminal(pty_process::Error),
    /// There is nobody to use it.
    #[error("failed to start the tmux client: {0}")]
    Start(pty_process::Error),
    /// What the client has become cannot be found out.
    #[error("failed to wait for the tmux client: {0}")]
    Wait(io::Error),
    /// The operator's terminal, or the process, cannot be prepared.
    #[error("failed to set up the terminal: {0}")]
    SetUp(#[from] io::Error),
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// The client did, in this way.
    Client(ExitStatus),
    /// This process was told to, by this signal.
    Signal(i32),
}

/// Runs the command on a terminal of its own, of which standard input is the keyboard and standard output the screen, until it ends.
pub async fn run(command: Command) -> Result<End, Error> {
    let (mut told, mut resized) = (Told::listen()?, signal(SignalKind::window_change())?);
    let (window, pts) = pty_process::blocking::open().map_err(Error::Terminal)?;
    let window = Stream::new(window.into())?;
    fit(&window);
    let (mut keyboard, mut screen) = (own(io::stdin())?, own(io::stdout())?);
    let _raw = Raw::enter()?;
    let child = pty_process::blocking::Command::from(command).spawn(pts).map_err(Error::Start)?;
    // Nobody else waits for it: its number is its own, also when it has ended already.
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(|error| Error::Wait(error.into()))?;
    let end = pidfd.try_clone().and_then(Readable::new).map_err(Error::Wait)?;
    let mut client = Client { child, end };
    let (end, is_complete) = {
        let mut typing = pin!(type_in(&mut keyboard, &window, &pidfd));
        let mut showing = pin!(show(&window, &mut screen));
        let (mut signal, mut is_shown) = (None, false);
        loop {
            tokio::select! {
                biased;
                number = told.next() => signal = Some(number),
                // Its status is asked for below.
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
        // A screen that is closed is that of a client which is about to end; one that has ended takes no harm.
        if !is_shown {
            let _ = pidfd_send_signal(&pidfd, Signal::TERM);
        }
        let last_words = async { is_shown || timeout(GRACE, showing).await.is_ok() };
        let (status, is_complete) = tokio::join!(client.bury(), last_words);
        let end = match signal {
            Some(number) => Ok(End::Signal(number)),
            None => status.map(End::Client).map_err(Error::Wait),
        };
        (end, is_complete)
    };
    if !(is_complete && matches!(&end, Ok(End::Client(status)) if status.success())) {
        let wipe = async {
            screen.write_all(WIPE).await?;
            screen.flush().await
        };
        // A terminal that takes nothing any more keeps what it shows.
        let _ = timeout(GRACE, wipe).await;
    }
    let _ = timeout(DRAIN_TIMEOUT, drain(&mut keyboard, &mut screen)).await;
    end
}

/// Waits until the terminal has answered all that it was asked before this, and throws the answers away, and with them what was typed
/// meanwhile.
///
/// A terminal answers in order, so it is asked whether it is well (DSR, "device status report"), after whatever it was in the middle
/// of was ended. The same answer may be to a question of the client's, with other answers behind it: they come at once then.
async fn drain(keyboard: &mut File, screen: &mut File) -> io::Result<()> {
    const QUESTION: &[u8] = b"\x18\x1b\\\x1b[5n";
    const QUIET: Duration = Duration::from_millis(30);
    screen.write_all(QUESTION).await?;
    screen.flush().await?;
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

/// Whether among the bytes there was that all is well, or that it is not: `ESC [ 0 n`, `ESC [ 3 n`.
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

/// The tmux client.
struct Client {
    child: Child,
    /// Readable from its end on.
    end: Readable,
}

impl Client {
    /// Cancel-safe.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            self.end.readable().await?;
        }
    }

    /// Waits for the end of one that is ending, and makes one.
    async fn bury(&mut self) -> io::Result<ExitStatus> {
        if let Ok(status) = timeout(GRACE, self.ended()).await {
            return status;
        }
        self.child.kill()?;
        timeout(GRACE, self.ended()).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Until the keyboard is gone.
///
/// tmux can be told to suspend its client (Ctrl-b Ctrl-z), and no shell is here to continue it. So it is continued whenever the
/// keyboard pauses. Not with each key: a client that gets that signal while it detaches may take its server for dead (3.3a does).
async fn type_in(keyboard: &mut File, window: &Stream, client: &OwnedFd) {
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
                let _ = pidfd_send_signal(client, Signal::CONT);
                false
            }
        };
    }
}

/// Until the client, and whoever else has its terminal, is gone, or the screen is.
async fn show(window: &Stream, screen: &mut File) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = window.read(&mut bytes).await {
        if screen.write_all(&bytes[..count]).await.is_err() || screen.flush().await.is_err() {
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

/// One that waits in a thread, because others have the same open file and expect it to block.
fn own(descriptor: impl AsFd) -> io::Result<File> {
    Ok(File::from_std(descriptor.as_fd().try_clone_to_owned()?.into()))
}

/// Makes the window as large as the screen.
fn fit(window: &Stream) {
    // A screen that does not tell its size has none to follow.
    if let Ok(size) = tcgetwinsize(io::stdout()) {
        let _ = tcsetwinsize(window, size);
    }
}

/// The signals that mean this process is to end.
struct Told(Vec<(i32, tokio::signal::unix::Signal)>);

impl Told {
    /// From now on they do not end it.
    fn listen() -> io::Result<Self> {
        let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
        kinds.into_iter().map(|kind| Ok((kind.as_raw_value(), signal(kind)?))).collect::<io::Result<_>>().map(Self)
    }

    /// Cancel-safe.
    async fn next(&mut self) -> i32 {
        poll_fn(|context| {
            let mut signals = self.0.iter_mut();
            let arrived = signals.find_map(|(number, signal)| signal.poll_recv(context).is_ready().then_some(*number));
            arrived.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// The operator's terminal, given over to the client. As it was before when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> io::Result<Self> {
        let before = Self(tcgetattr(io::stdin())?);
        let mut raw = before.0.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // What has come since the terminal was waited for must not be taken for what the operator types next. Nothing here waits
        // for a terminal that is stuck; one that is gone needs nothing.
        let _ = tcflush(io::stdin(), QueueSelector::IFlush);
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_found_wherever_it_is_cut() {
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
