//! Runs blocking work in separate threads.
//!
//! The runtime's own pool panics if the system cannot start a thread. Here that is an error, which can be reported and retried
//! like any other shortage.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

/// Runs the work in a separate thread.
///
/// Fails if no thread can be started; the work has not begun then. If this is canceled, the work continues, and its result is
/// lost.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let work = move || drop(done.send(work()));
    thread::Builder::new().spawn(work).map_err(|error| no_thread(&error))?;
    // The channel closes without a result only if the work panics.
    result.await.map_err(io::Error::other)
}

/// Runs work that may take long in a separate thread.
///
/// The work gets a function that says whether its result is still wanted: it is not once this is canceled.
pub async fn run_while_wanted<T: Send + 'static>(
    work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static,
) -> io::Result<T> {
    let wish = Arc::new(());
    let granted = Arc::downgrade(&wish);
    let done = run(move || work(&|| granted.strong_count() > 0)).await;
    // Held for as long as this waits.
    drop(wish);
    done
}

/// Runs the work in a separate thread or, if none can be started, here: for work that must be done even if everything else has to
/// wait.
pub async fn insist<T: Send + 'static>(work: impl Fn() -> T + Clone + Send + 'static) -> T {
    match run(work.clone()).await {
        Ok(result) => result,
        Err(_) => work(),
    }
}

/// Work that may hang, of which at most one piece is under way.
#[derive(Debug)]
pub struct OneAtATime<T>(Option<oneshot::Receiver<T>>);

impl<T> Default for OneAtATime<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Send + 'static> OneAtATime<T> {
    /// Runs the work in a separate thread, and waits for the result for this long. `None` if there is no result by then: the work
    /// goes on.
    ///
    /// As long as an earlier piece is under way, no other begins, and nobody waits any more. A result that comes late is that of the
    /// next call.
    pub async fn run(
        &mut self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Option<T>> {
        let (mut result, patience) = if let Some(result) = self.0.take() {
            (result, Duration::ZERO)
        } else {
            let (done, result) = oneshot::channel();
            let work = move || drop(done.send(work()));
            thread::Builder::new().spawn(work).map_err(|error| no_thread(&error))?;
            (result, patience)
        };
        if let Ok(result) = tokio::time::timeout(patience, &mut result).await {
            return result.map(Some).map_err(io::Error::other);
        }
        self.0 = Some(result);
        Ok(None)
    }
}

/// A pool of threads for work that comes in pieces.
///
/// A thread takes the next piece when it is done with one, and ends when none comes for a moment. The callers decide how many
/// threads run at the same time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    given: Condvar,
    /// The name of its threads.
    name: &'static str,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Box<dyn FnOnce() + Send>>,
    /// How many waiting threads are not needed for work in the queue.
    idle: usize,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("work", &self.work.len()).field("idle", &self.idle).finish()
    }
}

/// How long a thread waits for more work.
const IDLE_TIMEOUT: Duration = Duration::from_millis(200);

impl Pool {
    /// A pool without threads.
    pub fn new(name: &'static str) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), given: Condvar::new(), name }))
    }

    /// Runs the work in an idle thread, or in a new one.
    ///
    /// Fails if no thread can be started; the work has not begun then. If this is canceled, the work continues, and its result is
    /// lost.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (done, result) = oneshot::channel();
        let work = Box::new(move || drop(done.send(work())));
        self.give(work)?;
        // The channel closes without a result only if the work panics.
        result.await.map_err(io::Error::other)
    }

    fn give(&self, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        let mut queue = self.0.lock();
        if queue.idle > 0 {
            queue.idle -= 1;
            queue.work.push_back(work);
            drop(queue);
            self.0.given.notify_one();
            return Ok(());
        }
        drop(queue);
        let shared = Arc::clone(&self.0);
        thread::Builder::new()
            .name(self.0.name.to_owned())
            .spawn(move || {
                work();
                while let Some(work) = shared.next() {
                    work();
                }
            })
            .map(drop)
            .map_err(|error| no_thread(&error))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for more work; `None` if the thread should end.
    fn next(&self) -> Option<Box<dyn FnOnce() + Send>> {
        let mut queue = self.lock();
        queue.idle += 1;
        let is_empty = |queue: &mut Queue| queue.work.is_empty();
        let (mut queue, _) =
            self.given.wait_timeout_while(queue, IDLE_TIMEOUT, is_empty).unwrap_or_else(PoisonError::into_inner);
        let work = queue.work.pop_front();
        if work.is_none() {
            queue.idle -= 1;
        }
        work
    }
}

fn no_thread(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("no thread can be started: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_result_is_returned() {
        assert_eq!(run(|| 6 * 7).await.unwrap(), 42);
    }

    #[tokio::test]
    async fn long_work_learns_that_it_is_no_longer_wanted() {
        let (over, mut is_over) = tokio::sync::mpsc::unbounded_channel();
        let work = run_while_wanted(move |is_wanted| {
            while is_wanted() {
                thread::yield_now();
            }
            over.send(()).unwrap();
        });
        tokio::time::timeout(std::time::Duration::from_millis(1), work).await.unwrap_err();
        is_over.recv().await.unwrap();
        assert!(run_while_wanted(|is_wanted| is_wanted()).await.unwrap());
    }

    #[tokio::test]
    async fn a_panic_in_the_work_is_an_error_and_not_an_endless_wait() {
        run(|| assert!(std::env::args().count() == usize::MAX)).await.unwrap_err();
    }

    #[tokio::test]
    async fn while_one_piece_hangs_no_other_begins() {
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let mut pieces = OneAtATime::default();
        let first = move || {
            let _ = hang.recv();
            1
        };
        assert_eq!(pieces.run(Duration::from_millis(1), first).await.unwrap(), None);
        assert_eq!(pieces.run(Duration::from_hours(1), || 2).await.unwrap(), None);
        drop(release);
        let late = loop {
            match pieces.run(Duration::ZERO, || 3).await.unwrap() {
                Some(result) => break result,
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(late, 1);
        assert_eq!(pieces.run(Duration::from_hours(1), || 4).await.unwrap(), Some(4));
    }

    fn threads(name: &str) -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
        let is_called = |path: std::path::PathBuf| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        tasks.filter(|task| is_called(task.path())).count()
    }

    #[tokio::test]
    async fn a_pool_runs_sequential_work_in_one_thread_that_ends() {
        let pool = Pool::new("in-a-row");
        let mut ids = std::collections::HashSet::new();
        for _ in 0..100 {
            ids.insert(pool.run(|| thread::current().id()).await.unwrap());
            // Until the thread waits again: it answers before that.
            while pool.0.lock().idle == 0 {
                thread::yield_now();
            }
        }
        assert_eq!((ids.len(), threads("in-a-row")), (1, 1));
        crate::sys::process::until(|| threads("in-a-row") == 0);
        assert_eq!(pool.0.lock().idle, 0);
        pool.run(|| ()).await.unwrap();
    }

    #[tokio::test]
    async fn a_pool_runs_concurrent_work_in_as_many_threads() {
        let pool = Pool::new("at-once");
        let barrier = Arc::new(std::sync::Barrier::new(8));
        let work: Vec<_> = (0..8)
            .map(|_| {
                let (pool, barrier) = (pool.clone(), Arc::clone(&barrier));
                tokio::spawn(async move { pool.run(move || barrier.wait().is_leader()).await.unwrap() })
            })
            .collect();
        for work in work {
            work.await.unwrap();
        }
    }
}
