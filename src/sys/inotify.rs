//! The kernel's queue of file events (`inotify(7)`), for the async runtime.
//!
//! Each user may have few of them (`fs.inotify.max_user_instances`, 128 as a rule), and any program of the user's can have taken
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
    /// Must be called inside the async runtime. Fails if the user has no queue left.
    pub fn open() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let readable = Readable::new(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(Self { inotify, readable })
    }

    /// Watches a file or a directory. One that is watched already keeps its descriptor. Blocks for as long as the file system does.
    pub fn add(&self, path: &Path, events: AddWatchFlags) -> io::Result<WatchDescriptor> {
        Ok(self.inotify.add_watch(path, events)?)
    }

    /// Stops watching. The kernel has done so already where the file is gone.
    pub fn remove(&self, watch: WatchDescriptor) {
        let _ = self.inotify.rm_watch(watch);
    }

    /// Takes events off the queue. There are none if the queue is empty.
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

    /// Takes events off the queue, and waits while there are none. Cancel-safe.
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
