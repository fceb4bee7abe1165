//! Waiting in the async runtime for a descriptor that tokio has no type for: a pidfd, an inotify queue.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor whose readability can be awaited.
#[derive(Debug)]
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Registers the descriptor with the runtime. Fails outside of one, and for descriptors that `epoll(7)` does not take.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "unsound only for types whose descriptor changes or is closed under tokio; an OwnedFd that is never given out is neither"
        )]
        AsyncFd::with_interest(descriptor, Interest::READABLE).map(Self)
    }

    /// Waits until the descriptor has become readable since the last such wait. Cancel-safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
