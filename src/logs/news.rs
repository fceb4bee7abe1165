//! Waits for writes to log files: one inotify queue for all waiters.
//!
//! A user may only have a few queues (`fs.inotify.max_user_instances`, usually 128), and root's other programs need some, too.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::sys::inotify::{AddWatchFlags, InotifyEvent, Queue, WatchDescriptor};

/// Announces writes to files. All clones share one queue.
#[derive(Clone, Debug, Default)]
pub struct News(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    /// Opened for the first waiter, then kept.
    queue: Option<Open>,
    watched: HashMap<WatchDescriptor, Watched>,
}

/// The queue and the task that distributes its events. The task ends when this is dropped.
#[derive(Debug)]
struct Open {
    queue: Arc<Queue>,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A file with at least one waiter.
#[derive(Debug)]
struct Watched {
    news: watch::Sender<()>,
    waiting: usize,
}

/// Waits for writes to one file. Each write wakes the waiter once.
#[derive(Debug)]
pub struct Subscription {
    news: watch::Receiver<()>,
    file: WatchDescriptor,
    board: News,
}

impl News {
    /// Watches this file, whatever its path is by now.
    ///
    /// Must be called inside the async runtime. Fails if the system has no more queues or watches.
    pub fn of(&self, file: &File) -> io::Result<Subscription> {
        let mut board = self.lock();
        let queue = match &board.queue {
            Some(open) => Arc::clone(&open.queue),
            None => self.open(&mut board)?,
        };
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        // The same file always has the same watch descriptor.
        let file = queue.add(Path::new(&path), AddWatchFlags::IN_MODIFY)?;
        let watched = board.watched.entry(file).or_insert_with(|| Watched { news: watch::channel(()).0, waiting: 0 });
        watched.waiting += 1;
        Ok(Subscription { news: watched.news.subscribe(), file, board: self.clone() })
    }

    fn open(&self, board: &mut Board) -> io::Result<Arc<Queue>> {
        let queue = Arc::new(Queue::open()?);
        let task = tokio::spawn(hand_out(Arc::downgrade(&self.0), Arc::clone(&queue))).abort_handle();
        board.queue = Some(Open { queue: Arc::clone(&queue), task });
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        lock(&self.0)
    }
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes the waiters. Ends only if the system fails, or with the runtime.
async fn hand_out(board: Weak<Mutex<Board>>, queue: Arc<Queue>) {
    while let Ok(events) = queue.next().await {
        let Some(board) = board.upgrade() else { return };
        lock(&board).announce(&events);
    }
}

impl Board {
    fn announce(&self, events: &[InotifyEvent]) {
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                self.watched.values().for_each(|watched| watched.news.send_replace(()));
            } else if let Some(watched) = self.watched.get(&event.wd) {
                watched.news.send_replace(());
            }
        }
    }
}

impl Subscription {
    /// Waits for a write that has not been reported yet. Cancel-safe.
    pub async fn wait(&mut self) {
        if self.news.changed().await.is_err() {
            // The board outlives its subscriptions.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut board = self.board.lock();
        let Some(watched) = board.watched.get_mut(&self.file) else { return };
        watched.waiting -= 1;
        if watched.waiting == 0 {
            board.watched.remove(&self.file);
            if let Some(open) = &board.queue {
                open.queue.remove(self.file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    fn queues() -> usize {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
        let of_board = |path: std::path::PathBuf| path.as_os_str() == "anon_inode:inotify";
        descriptors.filter(|descriptor| fs::read_link(descriptor.path()).is_ok_and(of_board)).count()
    }

    #[tokio::test]
    async fn each_waiter_is_woken_once_by_a_write() {
        let folder = TempDir::new().unwrap();
        let mut files: Vec<File> =
            ["a", "b"].iter().map(|name| File::create(folder.path().join(name)).unwrap()).collect();
        let news = News::default();
        let before = queues();
        let mut of_a: Vec<Subscription> = (0..100).map(|_| news.of(&files[0]).unwrap()).collect();
        let mut of_b = news.of(&files[1]).unwrap();
        // Other tests may open a few queues meanwhile, but not fifty.
        assert!(queues() < before + 50, "{} queues", queues() - before);
        files[0].write_all(b"x").unwrap();
        for waiting in &mut of_a {
            tokio::time::timeout(Duration::from_secs(10), waiting.wait()).await.unwrap();
        }
        assert!(tokio::time::timeout(Duration::from_millis(1), of_a[0].wait()).await.is_err());
        assert!(tokio::time::timeout(Duration::from_millis(1), of_b.wait()).await.is_err());
        files[1].write_all(b"x").unwrap();
        of_b.wait().await;
    }

    #[tokio::test]
    async fn a_file_without_waiters_is_forgotten() {
        let folder = TempDir::new().unwrap();
        let mut file = File::create(folder.path().join("a")).unwrap();
        let news = News::default();
        let (one, mut other) = (news.of(&file).unwrap(), news.of(&file).unwrap());
        drop(one);
        file.write_all(b"x").unwrap();
        other.wait().await;
        drop(other);
        assert!(news.lock().watched.is_empty());
        let mut again = news.of(&file).unwrap();
        file.write_all(b"x").unwrap();
        again.wait().await;
    }
}
