//! A child process on a terminal of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use pty_process::blocking::{Command as PtyCommand, Pts, open};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::timeout;

use crate::sys::fd::{Readable, Stream};

/// A fresh terminal: the end that a relay holds, and the one that a child gets.
///
/// # Errors
///
/// The system has no terminal left.
pub fn terminal() -> io::Result<(Stream, Pts)> {
    let (window, pts) = open().map_err(io::Error::other)?;
    Ok((Stream::new(window.into())?, pts))
}

/// The child.
#[derive(Debug)]
pub struct PtyChild {
    child: Child,
    /// Only this process waits for the child, so its ID is still its own even if it has ended already.
    pidfd: OwnedFd,
    /// Becomes readable when the child ends.
    end: Readable,
}

impl PtyChild {
    /// Starts the command as the leader of a session with this terminal.
    pub fn start(command: Command, pts: Pts) -> io::Result<Self> {
        let child = PtyCommand::from(command).spawn(pts).map_err(io::Error::other)?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let end = pidfd.try_clone().and_then(Readable::new)?;
        Ok(Self { child, pidfd, end })
    }

    /// A handle to signal the child with.
    pub fn handle(&self) -> io::Result<Handle> {
        self.pidfd.as_fd().try_clone_to_owned().map(Handle)
    }

    /// Waits until the child ends. Cancel-safe.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            self.end.readable().await?;
        }
    }

    /// Waits for a child that is ending, and kills it if it does not end in time.
    pub async fn finish(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        if let Ok(status) = timeout(grace, self.ended()).await {
            return status;
        }
        self.child.kill()?;
        timeout(grace, self.ended()).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Signals a child. A signal does no harm to a child that has ended.
#[derive(Debug)]
pub struct Handle(OwnedFd);

impl Handle {
    /// Asks the child to end.
    pub fn terminate(&self) {
        let _ = pidfd_send_signal(&self.0, Signal::TERM);
    }

    /// Continues a child that was suspended.
    pub fn resume(&self) {
        let _ = pidfd_send_signal(&self.0, Signal::CONT);
    }
}
