//! The kernel's queue of file events (`inotify(7)`), for the async runtime.
//!
//! A user may only have a few queues (`fs.inotify.max_user_instances`, usually 128), and any program of the user can have taken
//! them all.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};

pub use nix::sys::inotify::{AddWatchFlags, InotifyEvent, WatchDescriptor};

use crate::sys::fd::Readable;

/// A queue of events.
#[derive(Debug)]
pub struct Queue {
    inotify: Inotify,
    readable: Readable,
}

impl Queue {
    /// Opens a queue. Must be called inside the async runtime. Fails if the user has no queue left.
    pub fn open() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let readable = Readable::new(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(Self { inotify, readable })
    }

    /// Watches a file or a directory. A file that is watched already keeps its watch descriptor. Blocks for as long as the file
    /// system does.
    pub fn add(&self, path: &Path, events: AddWatchFlags) -> io::Result<WatchDescriptor> {
        Ok(self.inotify.add_watch(path, events)?)
    }

    /// Stops watching. If the file is gone, the kernel has already done so.
    pub fn remove(&self, watch: WatchDescriptor) {
        let _ = self.inotify.rm_watch(watch);
    }

    /// Takes events off the queue. Returns none if it is empty.
    pub fn take(&self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            match self.inotify.read_events() {
                Err(Errno::EAGAIN) => return Ok(Vec::new()),
                Err(Errno::EINTR) => {}
                events => return Ok(events?),
            }
        }
    }

    /// Waits for events, which [`Queue::take`] returns. Cancel-safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.readable.readable().await
    }

    /// Takes events off the queue, waiting while there are none. Cancel-safe.
    pub async fn next(&self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            let events = self.take()?;
            if !events.is_empty() {
                return Ok(events);
            }
            self.readable().await?;
        }
    }
}
