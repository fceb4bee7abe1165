//! File descriptors: waits for those that tokio has no type for (a pidfd, an inotify queue, a terminal), and keeps inherited ones
//! from being passed on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Makes sure that processes started from now on inherit only the three standard descriptors.
///
/// The standard library already does that for descriptors that it opens; this is for those that this process inherited.
pub fn hand_down_none() {
    close_fds::set_fds_cloexec(3, &[]);
}

/// Waits until no process can read what is written to this descriptor.
///
/// Waits forever if that never happens or cannot be detected: a file remains whether or not it is read.
///
/// `poll(2)` reports a pipe without a reader, a socket whose peer is gone, and a terminal that is gone, even if nothing is written.
pub async fn reader_is_gone(descriptor: impl AsFd) {
    let interest = Interest::WRITABLE | Interest::ERROR;
    let watched = descriptor.as_fd().try_clone_to_owned().and_then(|copy| register(copy, interest));
    if let Ok(watched) = watched {
        while let Ok(mut guard) = watched.ready(interest).await {
            if guard.ready().is_error() || guard.ready().is_write_closed() {
                return;
            }
            guard.clear_ready();
        }
    }
    std::future::pending::<()>().await;
}

/// A descriptor whose readability can be awaited.
#[derive(Debug)]
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Registers the descriptor with the runtime. Fails outside of a runtime, and for descriptors that `epoll(7)` does not
    /// accept.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        register(descriptor, Interest::READABLE).map(Self)
    }

    /// Waits until the descriptor has become readable since the last such wait. Cancel-safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

/// A descriptor for nonblocking reads and writes.
#[derive(Debug)]
pub struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    /// Registers the descriptor with the runtime. Must not be shared with processes that expect it to block.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&descriptor)?;
        register(descriptor, Interest::READABLE | Interest::WRITABLE).map(Self)
    }

    /// Reads what is available, waiting if there is nothing. Cancel-safe.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |descriptor| read(descriptor, buffer)).await
    }

    /// Reads what is available; fails with [`io::ErrorKind::WouldBlock`] if there is nothing.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        read(self.0.get_ref(), buffer)
    }

    /// Writes as much as there is room for, waiting if there is none. Cancel-safe.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.async_io(Interest::WRITABLE, |descriptor| write(descriptor, bytes)).await
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// Makes reads and writes nonblocking, including those of other processes that share the open file.
pub fn set_nonblocking(descriptor: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFL)?);
    fcntl(&descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Reads once, retrying after signals.
pub fn read(descriptor: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    uninterrupted(|| nix::unistd::read(&descriptor, buffer))
}

/// Writes once, retrying after signals.
pub fn write(descriptor: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    uninterrupted(|| nix::unistd::write(&descriptor, bytes))
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn is_gone(descriptor: impl AsFd) -> bool {
        timeout(Duration::from_millis(20), reader_is_gone(descriptor)).await.is_ok()
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_is_noticed_without_a_write() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        assert!(!is_gone(&writer).await);
        drop(reader);
        assert!(is_gone(&writer).await);
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!is_gone(&near).await);
        drop(far);
        assert!(is_gone(&near).await);
    }

    #[tokio::test]
    async fn a_pipe_that_fills_and_empties_keeps_its_reader() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let gone = tokio::spawn(reader_is_gone(writer.try_clone().unwrap()));
        // As much as a pipe holds.
        let mut piece = vec![0; 65536];
        for _ in 0..3 {
            nix::unistd::write(&writer, &piece).unwrap();
            tokio::task::yield_now().await;
            nix::unistd::read(&reader, &mut piece).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!gone.is_finished());
    }

    #[tokio::test]
    async fn a_file_never_loses_its_reader() {
        assert!(!is_gone(File::open("/dev/null").unwrap()).await);
        assert!(!is_gone(tempfile::tempfile().unwrap()).await);
    }
}
