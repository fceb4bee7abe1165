//! Descriptors: waiting in the async runtime for those that tokio has no type for (a pidfd, an inotify queue, a terminal), and keeping
//! those that were handed down from going further.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Sees to it that what this process starts from now on gets none of its descriptors but the three standard ones. Those that the
/// standard library opens are its own anyhow; this is for those that whoever started the process left open.
pub fn hand_down_none() {
    close_fds::set_fds_cloexec(3, &[]);
}

/// A descriptor whose readability can be awaited.
#[derive(Debug)]
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Registers the descriptor with the runtime. Fails outside of one, and for descriptors that `epoll(7)` does not take.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        register(descriptor, Interest::READABLE).map(Self)
    }

    /// Waits until the descriptor has become readable since the last such wait. Cancel-safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

/// A descriptor that is read from and written to without blocking anybody.
#[derive(Debug)]
pub struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    /// Registers the descriptor with the runtime. What it shares with others, that they do not block either, must be its own.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFL)?);
        fcntl(&descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        register(descriptor, Interest::READABLE | Interest::WRITABLE).map(Self)
    }

    /// Reads what is there, and waits if that is nothing. Cancel-safe.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |descriptor| read(descriptor, buffer)).await
    }

    /// Reads what is there; fails with [`io::ErrorKind::WouldBlock`] if that is nothing.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        read(self.0.get_ref(), buffer)
    }

    /// Writes as much as there is room for, and waits if there is none. Cancel-safe.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.async_io(Interest::WRITABLE, |descriptor| uninterrupted(|| nix::unistd::write(descriptor, bytes))).await
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

fn read(descriptor: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    uninterrupted(|| nix::unistd::read(descriptor, buffer))
}

fn uninterrupted(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

fn register(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "unsound only for types whose descriptor changes or is closed under tokio; an OwnedFd that is never given out is neither"
    )]
    AsyncFd::with_interest(descriptor, interest)
}
