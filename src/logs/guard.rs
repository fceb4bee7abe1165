//! Limits the files that launchers write to: a launcher runs as the agent user and need not keep to any limit.
//!
//! A process with a writable descriptor can make a file as large as the disk, at any offset, with a single call. No permission
//! and no limit of the system prevents that for one process and not for another. So agentd undoes it: it examines a file on the
//! first change after each [`REST`], and frees the disk space that the file takes beyond the limit. A launcher that exceeds the
//! limit [repeatedly](MOST_EXCESSES) is reported, so that it can be ended. While nothing is printed, nothing is examined.
//!
//! The daemon keeps its own descriptors for this, because a file that was removed or moved has no path any more. Such a file is
//! also reported, so that the log continues in other files. Writes after the end of an attempt, by a process that was passed its
//! descriptors, are undone for the [latest](MOST_PAST) attempts.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until};

use super::{occupied, writer};
use crate::agent::name::Name;
use crate::logs::attempt::{AttemptId, Live};
use crate::logs::store::{self, Store};
use crate::sys::blocking;
use crate::sys::fd::Readable;

/// How long a file is left alone after it was examined. For that long, a launcher can take more than its share.
pub const REST: Duration = Duration::from_secs(1);

/// How often to examine files that the system does not announce, or that need another look.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// How often a launcher may exceed the limit.
pub const MOST_EXCESSES: u32 = 3;

/// How many finished attempts are still guarded.
const MOST_PAST: usize = 16;

/// Disk space that a file may take beyond what was written: some file systems allocate ahead, or keep several copies.
const SLACK: u64 = 1 << 20;

/// What the guard has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A file is no longer where it was created. Repeated as long as that is so.
    Moved,
    /// The files took more disk space than a well-behaved launcher can take. The surplus was freed.
    Excess {
        /// The disk space in bytes.
        occupied: u64,
        /// How many excesses there have been so far.
        count: u32,
    },
}

/// Guards the files of attempts. Cheap to clone; ends with the last clone and the last [`Watch`].
#[derive(Clone, Debug)]
pub struct Guard {
    orders: mpsc::UnboundedSender<Command>,
    next: Arc<AtomicU64>,
    takings_up: Arc<Semaphore>,
}

/// The guarded files of a running attempt. Drop it when the attempt is over.
#[derive(Debug)]
pub struct Watch {
    id: u64,
    orders: mpsc::UnboundedSender<Command>,
    findings: mpsc::UnboundedReceiver<Finding>,
    live: Arc<Live>,
}

#[derive(Debug)]
enum Command {
    Watch { id: u64, live: Arc<Live>, findings: mpsc::UnboundedSender<Finding> },
    Release { id: u64 },
}

impl Guard {
    /// Guards files of this store. Must be called inside the async runtime.
    ///
    /// Each time it examines the text of an attempt, it says when that was last written to, or that it is empty.
    pub fn new(store: Store, tell: impl Fn(&Name, AttemptId, Option<SystemTime>) + Send + 'static) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        tokio::spawn(Round::new(store, Box::new(tell)).go(inbox));
        Self { orders, next: Arc::default(), takings_up: Arc::new(Semaphore::new(1)) }
    }

    /// Waits for a turn to adopt the files of an earlier daemon, one attempt at a time.
    ///
    /// All of them are found at the start, and a thread for each would leave little processor time for everything else.
    pub async fn turn_to_take_up(&self) -> Option<SemaphorePermit<'_>> {
        // Fails only if the semaphore is closed, which it never is.
        self.takings_up.acquire().await.ok()
    }

    /// Guards these files from now on.
    pub fn watch(&self, live: Live) -> Watch {
        let (id, live) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(live));
        let (found, findings) = mpsc::unbounded_channel();
        // Fails only when the runtime ends.
        let _ = self.orders.send(Command::Watch { id, live: Arc::clone(&live), findings: found });
        Watch { id, orders: self.orders.clone(), findings, live }
    }
}

impl Watch {
    /// Waits for the next finding. Cancel-safe.
    pub async fn found(&mut self) -> Finding {
        match self.findings.recv().await {
            Some(finding) => finding,
            // The runtime is ending.
            None => std::future::pending().await,
        }
    }

    /// The files.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// For tests: of files that no guard looks after, about which that is found which the test sends.
    #[cfg(test)]
    pub fn of_test(live: Live) -> (mpsc::UnboundedSender<Finding>, Self) {
        let (found, findings) = mpsc::unbounded_channel();
        (found, Self { id: 0, orders: mpsc::unbounded_channel().0, findings, live: Arc::new(live) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.orders.send(Command::Release { id: self.id });
    }
}

/// Hears when the text of an attempt was last written to.
type Tell = Box<dyn Fn(&Name, AttemptId, Option<SystemTime>) + Send>;

/// All guarded files.
struct Round {
    store: Store,
    tell: Tell,
    queue: Option<Queue>,
    posts: BTreeMap<u64, Post>,
    /// The finished attempts among those, the next to give up first.
    past: VecDeque<u64>,
}

/// The files of one attempt.
struct Post {
    live: Arc<Live>,
    findings: mpsc::UnboundedSender<Finding>,
    excesses: u32,
    /// When to examine them next if no change is announced.
    due: Option<Instant>,
}

/// Announces the first change of each file after it was asked for.
struct Queue {
    inotify: Inotify,
    readable: Readable,
    posts: HashMap<WatchDescriptor, u64>,
}

impl Round {
    fn new(store: Store, tell: Tell) -> Self {
        let queue = Queue::open();
        if let Err(error) = &queue {
            tracing::warn!("failed to watch agents' logs for changes ({error}); they are checked every 5 s");
        }
        Self { store, tell, queue: queue.ok(), posts: BTreeMap::new(), past: VecDeque::new() }
    }

    async fn go(mut self, mut orders: mpsc::UnboundedReceiver<Command>) {
        loop {
            let due = self.posts.values().filter_map(|post| post.due).min();
            // All arms only wait.
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                () = announced(self.queue.as_ref()) => self.hear(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.look().await,
            }
        }
    }

    fn obey(&mut self, order: Command) {
        match order {
            Command::Watch { id, live, findings } => {
                // The files have been in use for a while.
                let due = Some(Instant::now() + REST);
                self.posts.insert(id, Post { live, findings, excesses: 0, due });
            }
            Command::Release { id } => {
                self.store.note_growth();
                let Some(post) = self.posts.get_mut(&id) else { return };
                post.due = Some(Instant::now());
                self.past.push_back(id);
                if self.past.len() > MOST_PAST
                    && let Some(first) = self.past.pop_front()
                {
                    self.posts.remove(&first);
                    if let Some(queue) = &mut self.queue {
                        queue.forget(first);
                    }
                }
            }
        }
    }

    /// Takes in the announcements.
    fn hear(&mut self) {
        let Some(queue) = &mut self.queue else { return };
        let due = Instant::now() + REST;
        loop {
            match queue.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                            self.posts.values_mut().for_each(|post| post.due = post.due.or(Some(due)));
                        }
                        let post = queue.posts.remove(&event.wd).and_then(|id| self.posts.get_mut(&id));
                        post.map(|post| post.due.get_or_insert(due));
                    }
                }
                Err(Errno::EINTR) => {}
                // Other errors persist, so the guard continues without announcements.
                Err(error) => {
                    if error != Errno::EAGAIN {
                        self.queue = None;
                        self.posts.values_mut().for_each(|post| post.due = Some(due));
                    }
                    return;
                }
            }
        }
    }

    /// Examines all files that are due.
    async fn look(&mut self) {
        let now = Instant::now();
        let mut looked_at = Vec::new();
        for (&id, post) in self.posts.iter_mut().filter(|(_, post)| post.due.is_some_and(|due| due <= now)) {
            // Asked for before the file is examined, so that later changes are announced.
            let is_announced = self.queue.as_mut().is_some_and(|queue| queue.ask_for(id, &post.live).is_ok());
            post.due = (!is_announced).then(|| now + POLL_INTERVAL);
            looked_at.push((id, Arc::clone(&post.live), !self.past.contains(&id)));
        }
        let store = self.store.clone();
        let look = move || -> Vec<(u64, Look)> {
            looked_at.into_iter().map(|(id, live, has_place)| (id, Look::at(&store, &live, has_place))).collect()
        };
        // If no thread is available, the files are examined again: all of them are due, or announced.
        let Ok(looks) = blocking::run(look).await else {
            self.posts.values_mut().for_each(|post| post.due = post.due.or(Some(now + POLL_INTERVAL)));
            return;
        };
        for (id, look) in looks {
            let Some(post) = self.posts.get_mut(&id) else { continue };
            if let Some(Written(written)) = look.written {
                (self.tell)(&post.live.agent, post.live.kept, written);
            }
            if look.needs_another {
                post.due = Some(now + POLL_INTERVAL);
            }
            if let Some(occupied) = look.excess {
                post.excesses += 1;
                // Fails only when the attempt is over.
                let _ = post.findings.send(Finding::Excess { occupied, count: post.excesses });
            }
            if look.is_moved {
                let _ = post.findings.send(Finding::Moved);
            }
        }
    }
}

async fn announced(queue: Option<&Queue>) {
    match queue {
        // Fails only with the runtime.
        Some(queue) if queue.readable.readable().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

impl Queue {
    fn open() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let readable = Readable::new(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(Self { inotify, readable, posts: HashMap::new() })
    }

    /// Asks for the next change of each of these files.
    fn ask_for(&mut self, id: u64, live: &Live) -> nix::Result<()> {
        let changes = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVE_SELF;
        for file in [&live.text, &live.index] {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let descriptor = self.inotify.add_watch(path.as_str(), changes | AddWatchFlags::IN_ONESHOT)?;
            self.posts.insert(descriptor, id);
        }
        Ok(())
    }

    fn forget(&mut self, id: u64) {
        for (descriptor, _) in self.posts.extract_if(|_, post| *post == id) {
            // Fails only if the system has removed it already.
            let _ = self.inotify.rm_watch(descriptor);
        }
    }
}

/// When a text was last written to; `None` if it is empty.
#[derive(Clone, Copy, Debug)]
struct Written(Option<SystemTime>);

/// The result of one examination.
#[derive(Debug, Default)]
struct Look {
    /// When the text was last written to, if that could be found out.
    written: Option<Written>,
    is_moved: bool,
    excess: Option<u64>,
    /// Whether to examine it again soon, although nothing may change.
    needs_another: bool,
}

impl Look {
    fn at(store: &Store, live: &Live, has_place: bool) -> Self {
        // Before anything is given back, which counts as a change of the file.
        let mut look = Self { written: store::written(&live.text).ok().map(Written), ..Self::default() };
        let text = Bound::of(store.size());
        let index = Bound::of(writer::index_size(store.size()));
        for (file, bound) in [(&live.text, text), (&live.index, index)] {
            match bound.enforce(file) {
                Ok(excess) => look.excess = look.excess.max(excess),
                Err(error) => {
                    tracing::warn!(agent = %live.agent, "failed to check its log: {error}");
                    look.needs_another = true;
                }
            }
        }
        // Examines the file again if its place cannot be determined now.
        match has_place.then(|| store.is_in_place(live)) {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => (look.is_moved, look.needs_another) = (true, true),
            Some(Err(_)) => look.needs_another = true,
        }
        look
    }
}

/// How much disk space a file may take that is to keep `kept` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    kept: u64,
    /// A well-behaved launcher takes no more than this, except for what the file system adds.
    usual: u64,
    /// A well-behaved launcher takes no more than this on any file system.
    most: u64,
}

impl Bound {
    fn of(kept: u64) -> Self {
        let times = |count: u64, slack: u64| kept.saturating_mul(count).saturating_add(slack);
        Self { kept, usual: times(2, SLACK), most: times(4, 16 * SLACK) }
    }

    /// Frees the surplus, the earliest bytes first. Returns how much the file took, if that was more than any launcher may take.
    fn enforce(self, file: &File) -> io::Result<Option<u64>> {
        let before = occupied(file)?;
        if before <= self.usual {
            return Ok(None);
        }
        let end = file.metadata()?.len();
        // A working launcher does not notice this.
        let surplus = end.saturating_sub(self.kept) / writer::BLOCK * writer::BLOCK;
        let is_given_back = writer::give_back(file, 0, surplus).is_ok();
        if before <= self.most {
            return Ok(None);
        }
        if !is_given_back || occupied(file)? > self.most {
            // Space allocated after the end, or space that cannot be freed in part.
            file.set_len(end)?;
            if occupied(file)? > self.most {
                file.set_len(0)?;
            }
        }
        Ok(Some(before))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use nix::fcntl::{FallocateFlags, fallocate};
    use nix::unistd::Gid;
    use tempfile::TempDir;

    use super::super::store::Retention;
    use super::*;
    use crate::agent::machine::Numbers;

    const MIB: u64 = 1 << 20;

    fn allocate(file: &File, flags: FallocateFlags, from: u64, length: u64) {
        fallocate(file, flags, i64::try_from(from).unwrap(), i64::try_from(length).unwrap()).unwrap();
    }

    #[test]
    fn space_beyond_the_limit_is_freed_wherever_it_is() {
        let (bound, none, keep) = (Bound::of(MIB), FallocateFlags::empty(), FallocateFlags::FALLOC_FL_KEEP_SIZE);
        for (flags, from, length) in [(none, 0, 100 * MIB), (keep, 0, 100 * MIB), (none, 1 << 40, 100 * MIB)] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"printed").unwrap();
            allocate(&file, flags, from, length);
            assert!(bound.enforce(&file).unwrap().unwrap() >= 100 * MIB);
            assert!(occupied(&file).unwrap() <= bound.usual, "{flags:?} from {from}: {}", occupied(&file).unwrap());
            assert_eq!(bound.enforce(&file).unwrap(), None);
        }
    }

    #[test]
    fn bytes_within_the_limit_are_left_alone() {
        let file = tempfile::tempfile().unwrap();
        let text = vec![b'x'; usize::try_from(MIB + MIB / 4).unwrap()];
        (&file).write_all(&text).unwrap();
        assert_eq!(Bound::of(MIB).enforce(&file).unwrap(), None);
        assert_eq!(occupied(&file).unwrap(), MIB + MIB / 4);
        // Of more than that, the end is kept, and no excess is reported yet.
        for _ in 0..4 {
            (&file).write_all(&text).unwrap();
        }
        assert_eq!(Bound::of(MIB).enforce(&file).unwrap(), None);
        assert!((MIB..=MIB + writer::BLOCK).contains(&occupied(&file).unwrap()));
    }

    fn store() -> (TempDir, Store, Live) {
        let folder = TempDir::new().unwrap();
        let retention = Retention { size: 64 << 10, ..Retention::default() };
        let store = Store::new(&folder.path().join("log"), Gid::effective(), retention);
        let agent = "a".parse().unwrap();
        let files = store.create(&agent, Numbers::of(1)).unwrap();
        (folder, store, Live::of(agent, &files).unwrap())
    }

    /// Waits for the first finding of this kind.
    async fn wait_for(watch: &mut Watch, is_it: impl Fn(Finding) -> bool) -> Finding {
        loop {
            let finding = watch.found().await;
            if is_it(finding) {
                return finding;
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_grows_is_cut_and_each_excess_is_reported() {
        let (_folder, store, live) = store();
        let (text, index) = (live.text.try_clone().unwrap(), live.index.try_clone().unwrap());
        let guard = Guard::new(store, |_, _, _| {});
        let mut watch = guard.watch(live);
        for (count, file) in [(1, &text), (2, &index)] {
            allocate(file, FallocateFlags::empty(), 0, 100 * MIB);
            let finding = wait_for(&mut watch, |finding| matches!(finding, Finding::Excess { .. })).await;
            assert!(matches!(finding, Finding::Excess { occupied, count: it } if occupied >= 100 * MIB && it == count));
            assert!(occupied(file).unwrap() < 2 * MIB);
        }
        // The launcher may not exceed it after the attempt is over, either.
        drop(watch);
        allocate(&text, FallocateFlags::empty(), 200 * MIB, 100 * MIB);
        while occupied(&text).unwrap() > 2 * MIB {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn the_last_write_is_told_and_nothing_while_there_is_none() {
        let (_folder, store, live) = store();
        let mut text = live.text.try_clone().unwrap();
        let (told, mut heard) = mpsc::unbounded_channel();
        let guard = Guard::new(store, move |agent, kept, at| drop(told.send((agent.to_string(), kept.sequence, at))));
        let watch = guard.watch(live);
        assert_eq!(heard.recv().await, Some(("a".to_owned(), 1, None)));
        let before = SystemTime::now() - Duration::from_millis(50);
        text.write_all(b"x").unwrap();
        let (.., at) = heard.recv().await.unwrap();
        assert!(at.is_some_and(|at| at >= before));
        assert!(tokio::time::timeout(3 * REST, heard.recv()).await.is_err(), "nothing was printed");
        text.write_all(b"y").unwrap();
        drop(watch);
        let (.., after) = heard.recv().await.unwrap();
        assert!(after > at, "the end of an attempt is looked at");
    }

    #[tokio::test]
    async fn a_missing_file_is_reported_when_something_is_printed() {
        for take_away in [
            |folder: &std::path::Path| fs::remove_file(folder.join("log/a/00000001-1.log")).unwrap(),
            |folder: &std::path::Path| fs::remove_file(folder.join("log/a/00000001-1.times")).unwrap(),
            |folder: &std::path::Path| fs::rename(folder.join("log/a"), folder.join("log/b")).unwrap(),
            |folder: &std::path::Path| fs::rename(folder.join("log"), folder.join("other")).unwrap(),
        ] {
            let (folder, store, live) = store();
            let mut text = live.text.try_clone().unwrap();
            assert!(store.is_in_place(&live).unwrap());
            let mut watch = Guard::new(store, |_, _, _| {}).watch(live);
            take_away(folder.path());
            text.write_all(b"x").unwrap();
            assert_eq!(watch.found().await, Finding::Moved);
        }
    }
}
