//! The spool: tasks of operators, a file each.
//!
//! ```text
//! SPOOL/NAME/ID               the task, as text: a run of the template NAME
//! SPOOL/NAME/ID.toml          what is said beside it: labels, working directory, the run that it continues
//! SPOOL/NAME/.refused/ID      a task that was not taken, with ID.why beside it
//! ```
//!
//! A file that is there is wanted, and one that was removed is not. But absence is not a statement: a removal counts only if the same
//! [folder](absence) was listed before and after.

mod absence;
mod book;
mod refused;
mod task;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::Gid;
use tokio::sync::{mpsc, watch};

pub use crate::agent::run::{News, Order as Command};
use crate::inputs::overrides::operators::Operators;
use crate::sys::blocking;
use crate::sys::inotify::{InotifyEvent, Queue};

use book::{Book, Outcome, Work};

/// How soon to go on after a failure of the system.
const SOON: Duration = Duration::from_secs(1);

/// Where tasks are, and who may write them.
#[derive(Clone, Debug)]
pub struct Place {
    /// The folder.
    pub directory: PathBuf,
    /// Its group, for root.
    pub group: Gid,
    /// Whose files count.
    pub operators: Operators,
    /// How old the last write of a file must be that nothing has announced.
    pub settle: Duration,
    /// How long several files must be missing before they count as removed.
    pub resync: Duration,
}

impl Place {
    /// Follows the spool until the daemon ends, which drops the sender of `commands`. Looks at everything in each round.
    pub async fn follow(
        self,
        mut rounds: watch::Receiver<()>,
        mut commands: mpsc::UnboundedReceiver<Command>,
        tell: impl Fn(News),
    ) {
        let book = Arc::new(Mutex::new(Book::new(self)));
        let mut queue = None;
        let mut due: Option<Instant> = None;
        loop {
            let mut work = Work::default();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => work.commands.push(command),
                    None => return,
                },
                events = next(queue.as_ref()) => if let Ok(events) = events {
                    work.events = events;
                } else {
                    (queue, work.is_round) = (None, true);
                    tokio::time::sleep(SOON).await;
                },
                changed = rounds.changed() => match changed {
                    Ok(()) => work.is_round = true,
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
            }
            while let Ok(command) = commands.try_recv() {
                work.commands.push(command);
            }
            if queue.is_none() {
                // Without one, the rounds find what is new.
                queue = Queue::open().ok().map(Arc::new);
                work.is_round |= queue.is_some();
            }
            let (theirs, queue) = (Arc::clone(&book), queue.clone());
            // Kept there until there is a thread.
            lock(&book).work.extend(work);
            match blocking::run(move || lock(&theirs).round(queue.as_deref())).await {
                Ok(Outcome { news, due: next }) => {
                    due = next;
                    news.into_iter().for_each(&tell);
                }
                Err(_) => due = Some(Instant::now() + SOON),
            }
        }
    }
}

/// What the kernel announces next.
async fn next(queue: Option<&Arc<Queue>>) -> io::Result<Vec<InotifyEvent>> {
    match queue {
        Some(queue) => queue.next().await,
        None => std::future::pending().await,
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
