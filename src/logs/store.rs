//! The log folder: one folder per agent, two files per attempt.
//!
//! Only root, or the user that the daemon runs as, can change these folders, so no other user chooses a name in them. Everything
//! is reached through descriptors, and no link in the folders is followed. All of this blocks.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use tokio::sync::watch;

use crate::agent::machine::Numbers;
use crate::agent::name::{Key, Name};
use crate::logs::attempt::{AttemptId, Files, INDEX, Live, TEXT};
use crate::sys::safe_path;

use super::reader::{Log, Readers};
use super::total::{self, Measured};
use super::{ATTEMPTS, SIZE, writer};
use crate::sys::PathError;
use crate::sys::file_id::FileId;
use crate::wire::status::LogUse;

/// How many agents that are no longer declared keep their logs.
const MOST_FORMER: usize = 64;

/// How many names are tried for a new file if others are taken.
const TRIES: u64 = 100;

/// Why a log could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error(transparent)]
    System(#[from] PathError),
    /// Others could replace the daemon's files with theirs.
    #[error("failed to use {} for agents' logs: others can write to it; chmod it to 0750", .0.display())]
    Shared(PathBuf),
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The number of bytes of each attempt, counted from its end.
    pub size: u64,
    /// The number of attempts of each agent, counted from the latest. The first under the present declaration is kept too.
    pub attempts: usize,
    /// The bytes on the disk of all agents together; `None` for a part of the file system.
    pub total: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { size: SIZE, attempts: ATTEMPTS, total: None }
    }
}

/// The log folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    path: Arc<Path>,
    /// The group that may read, if the daemon runs as root.
    group: Option<Gid>,
    retention: Retention,
    /// Held while files are created or removed.
    changes: Arc<Mutex<()>>,
    readers: Readers,
    /// Notified when an attempt's log continues in other files.
    moves: Arc<watch::Sender<()>>,
    /// What the logs took when they were last measured.
    measured: Arc<Mutex<Option<Uses>>>,
    /// Whether there are files that were not measured yet.
    has_grown: Arc<AtomicBool>,
}

/// The disk space that logs take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uses {
    /// All of them together, in bytes.
    pub bytes: u64,
    /// The most that they may take, in bytes.
    pub cap: u64,
    by_agent: HashMap<Key, LogUse>,
}

impl Store {
    /// A store in this folder, readable by root and the group, or by the user alone without root. Creates nothing yet.
    pub fn new(path: &Path, group: Gid, retention: Retention) -> Self {
        let group = Uid::effective().is_root().then_some(group);
        let (readers, moves) = (Readers::default(), Arc::new(watch::channel(()).0));
        let (measured, has_grown) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        Self { path: path.into(), group, retention, changes: Arc::default(), readers, moves, measured, has_grown }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The readers of this store.
    pub fn readers(&self) -> &Readers {
        &self.readers
    }

    /// Subscribes to the announcements that an attempt's log continues in other files.
    pub fn moves(&self) -> watch::Receiver<()> {
        self.moves.subscribe()
    }

    /// Announces that an attempt's log continues in other files.
    pub fn has_moved(&self) {
        self.moves.send_replace(());
    }

    /// How many bytes of an attempt to keep.
    pub fn size(&self) -> u64 {
        self.retention.size
    }

    /// Creates the files of an agent's next attempt, and removes those of the earliest if there are too many. The first attempt under
    /// the present declaration stays: what went wrong first often explains all that followed.
    pub fn create(&self, agent: &Name, Numbers { attempt, first }: Numbers) -> Result<Files, Error> {
        let _changes = self.changing();
        let (path, folder) = self.make_folder(agent)?;
        let kept = list(&path, &folder)?;
        // A text may have been removed without its index.
        let orphans = parsed(&path, &folder, INDEX)?.into_iter().filter(|index| !kept.contains(index));
        let last = orphans.inspect(|&orphan| remove(&folder, orphan)).chain(kept.last().copied()).max();
        let mut next = AttemptId { sequence: last.map_or(1, |last| last.sequence.saturating_add(1)), attempt };
        let last = next.sequence.saturating_add(TRIES);
        let text = loop {
            let name = next.file_name(TEXT);
            match self.make_file(&path.join(&name), &folder, &name) {
                Err(Error::System(PathError { source, .. }))
                    if source.kind() == io::ErrorKind::AlreadyExists && next.sequence < last =>
                {
                    next.sequence += 1;
                }
                text => break text?,
            }
        };
        let name = next.file_name(INDEX);
        let index = self.make_file(&path.join(&name), &folder, &name).inspect_err(|_| remove(&folder, next))?;
        let surplus = (kept.len() + 1).saturating_sub(self.retention.attempts);
        // Several have that number if it was counted again from the beginning.
        let first = kept.iter().rev().find(|kept| kept.attempt == first).copied();
        let surplus = kept.into_iter().take(surplus).filter(|kept| Some(*kept) != first);
        surplus.for_each(|surplus| remove(&folder, surplus));
        let text = File::from(text);
        let can_shrink = writer::can_shrink(&text);
        self.note_growth();
        Ok(Files { text: text.into(), index, kept: next, can_shrink })
    }

    /// Removes the files of what was no attempt after all.
    pub fn discard(&self, agent: &Name, kept: AttemptId) -> Result<(), Error> {
        let _changes = self.changing();
        if let Some((_, folder)) = self.folder(agent)? {
            remove(&folder, kept);
        }
        Ok(())
    }

    /// Opens the files of the latest attempt for the daemon; `None` if there are none.
    pub fn live(&self, agent: &Name) -> Result<Option<Live>, Error> {
        let Some((path, folder)) = self.folder(agent)? else { return Ok(None) };
        let Some(&kept) = list(&path, &folder)?.last() else { return Ok(None) };
        let open = |ending| {
            let name = kept.file_name(ending);
            let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            match openat(&folder, name.as_str(), flags, Mode::empty()) {
                Ok(file) => Ok(Some(File::from(file))),
                Err(Errno::ENOENT) => Ok(None),
                Err(error) => Err(PathError::new("open", path.join(name), error)),
            }
        };
        let (text, index) = (open(TEXT)?, open(INDEX)?);
        Ok(text.zip(index).map(|(text, index)| Live { agent: agent.clone(), kept, text, index }))
    }

    /// Whether both files still have their names.
    pub fn is_in_place(&self, live: &Live) -> Result<bool, Error> {
        let Some((path, folder)) = self.folder(&live.agent)? else { return Ok(false) };
        for (file, ending) in [(&live.text, TEXT), (&live.index, INDEX)] {
            let name = live.kept.file_name(ending);
            let found = match fstatat(&folder, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(status) => FileId::from(&status),
                Err(Errno::ENOENT) => return Ok(false),
                Err(error) => return Err(PathError::new("examine", path.join(name), error).into()),
            };
            if found != FileId::of(file).map_err(PathError::of("examine", &path.join(name)))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The attempts that have a log, the earliest first.
    pub fn attempts(&self, agent: &Name) -> Result<Vec<AttemptId>, Error> {
        match self.folder(agent)? {
            Some((path, folder)) => list(&path, &folder),
            None => Ok(Vec::new()),
        }
    }

    /// The latest attempt that has a log, and when that was last written to; `None` if there is none or it is empty.
    pub fn last_written(&self, agent: &Name) -> Result<Option<(AttemptId, SystemTime)>, Error> {
        let Some((path, folder)) = self.folder(agent)? else { return Ok(None) };
        let Some(&kept) = list(&path, &folder)?.last() else { return Ok(None) };
        let name = kept.file_name(TEXT);
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file =
            openat(&folder, name.as_str(), flags, Mode::empty()).map_err(PathError::of("open", &path.join(name)))?;
        let written = written(&File::from(file)).map_err(PathError::of("examine", &path))?;
        Ok(written.map(|at| (kept, at)))
    }

    /// Opens the log of an attempt; `None` if it is gone.
    pub fn open(&self, agent: &Name, kept: AttemptId) -> Result<Option<Log>, Error> {
        let Some((path, folder)) = self.folder(agent)? else { return Ok(None) };
        let open = |ending| {
            let name = kept.file_name(ending);
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            match openat(&folder, name.as_str(), flags, Mode::empty()) {
                Ok(file) => Ok(Some(File::from(file))),
                Err(Errno::ENOENT) => Ok(None),
                Err(error) => Err(PathError::new("open", path.join(name), error)),
            }
        };
        let Some(text) = open(TEXT)? else { return Ok(None) };
        Ok(Some(Log::new(kept, text, open(INDEX)?, self.retention.size, self.readers.clone())))
    }

    /// Removes the logs of agents that are no longer held, except for the [`MOST_FORMER`] that printed last. `held` has the keys
    /// of agents.
    pub fn tidy(&self, held: &BTreeSet<Key>) -> Result<(), Error> {
        let _changes = self.changing();
        let Some(top) = self.top(false)? else { return Ok(()) };
        let failed = PathError::of("read", &self.path);
        let mut former = Vec::new();
        for name in names(&top).map_err(failed)? {
            let is_former = name.parse::<Key>().is_ok_and(|key| key.as_str() == name && !held.contains(&key));
            if is_former && let Ok(status) = fstatat(&top, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                former.push((status.st_mtime, status.st_mtime_nsec, name));
            }
        }
        former.sort_unstable();
        let surplus = former.len().saturating_sub(MOST_FORMER);
        for (.., name) in former.into_iter().take(surplus) {
            let path = self.path.join(&name);
            if let Ok(folder) = openat(&top, name.as_str(), FOLDER, Mode::empty()) {
                list(&path, &folder)?.into_iter().for_each(|kept| remove(&folder, kept));
            }
            // A folder that holds something else stays.
            let _ = unlinkat(&top, name.as_str(), UnlinkatFlags::RemoveDir);
        }
        Ok(())
    }

    /// Measures all logs, and removes the oldest attempts if they take more than they may. The latest of an agent always stays.
    pub fn limit_total(&self) -> Result<(), Error> {
        let _changes = self.changing();
        self.has_grown.store(false, Ordering::Relaxed);
        let (uses, result) = match self.limited() {
            Ok((uses, result)) => (uses, result),
            Err(error) => (None, Err(error)),
        };
        // What cannot be measured now is not known, whatever it was before.
        *self.measured() = uses;
        result
    }

    /// What is left of the logs, and whether all could be removed that had to go; `None` if there are none.
    fn limited(&self) -> Result<(Option<Uses>, Result<(), Error>), Error> {
        let Some(top) = self.top(false)? else { return Ok((None, Ok(()))) };
        let mut all = self.measure(&top)?;
        let cap = if let Some(cap) = self.retention.total {
            cap
        } else {
            let system = fstatvfs(&top).map_err(PathError::of("examine the file system of", &self.path))?;
            total::default_cap(system.blocks().saturating_mul(system.fragment_size()))
        };
        let surplus: Vec<(Key, AttemptId)> =
            total::surplus(&all, cap).into_iter().map(|one| (one.agent.clone(), one.kept)).collect();
        let mut result = Ok(());
        for (agent, kept) in &surplus {
            let removed = openat(&top, agent.as_str(), FOLDER, Mode::empty()).and_then(|folder| unlink(&folder, *kept));
            if let Err(error) = removed {
                let path = self.path.join(agent.as_str()).join(kept.file_name(TEXT));
                result = Err(PathError::new("remove", path, error).into());
            }
        }
        if !surplus.is_empty() {
            let before = all.len();
            all = self.measure(&top)?;
            let count = before.saturating_sub(all.len());
            if count > 0 {
                tracing::info!(
                    "removed the logs of the {count} oldest attempts: all logs together may take {cap} bytes (--log-total)"
                );
            }
        }
        let uses = Uses { bytes: total::bytes(&all), cap, by_agent: total::by_agent(&all) };
        Ok((Some(uses), result))
    }

    /// Whether an attempt has begun or ended since the logs were last measured.
    pub fn has_grown(&self) -> bool {
        self.has_grown.load(Ordering::Relaxed)
    }

    /// Has the logs measured soon.
    pub(super) fn note_growth(&self) {
        self.has_grown.store(true, Ordering::Relaxed);
    }

    /// What the logs of an agent took when they were last measured; `None` if it had none.
    pub fn use_of(&self, agent: &Key) -> Option<LogUse> {
        self.measured().as_ref()?.by_agent.get(agent).copied()
    }

    /// What all logs took when they were last measured; `None` if they were not yet.
    pub fn uses(&self) -> Option<Uses> {
        self.measured().clone()
    }

    fn measured(&self) -> MutexGuard<'_, Option<Uses>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures the files of all attempts.
    fn measure(&self, top: &OwnedFd) -> Result<Vec<Measured>, Error> {
        let mut all = Vec::new();
        for name in names(top).map_err(PathError::of("read", &self.path))? {
            let Some(agent) = name.parse::<Key>().ok().filter(|key| key.as_str() == name) else { continue };
            let Ok(folder) = openat(top, name.as_str(), FOLDER, Mode::empty()) else { continue };
            for kept in list(&self.path.join(&name), &folder)? {
                let look = |ending| fstatat(&folder, kept.file_name(ending).as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
                // A file that is gone takes nothing.
                let Ok(text) = look(TEXT) else { continue };
                let blocks = text.st_blocks.saturating_add(look(INDEX).map_or(0, |index| index.st_blocks));
                let bytes = u64::try_from(blocks).unwrap_or(0).saturating_mul(512);
                let written = (text.st_mtime, text.st_mtime_nsec);
                all.push(Measured { agent: agent.clone(), kept, bytes, written });
            }
        }
        Ok(all)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the folder of all logs; `None` if it does not exist and `make` is false.
    fn top(&self, make: bool) -> Result<Option<OwnedFd>, Error> {
        let path = &*self.path;
        let parents = Mode::from_bits_truncate(if self.group.is_some() { 0o755 } else { 0o700 });
        let go = || -> Result<OwnedFd, safe_path::Error> {
            if make {
                safe_path::open_dir(path.parent().unwrap_or(path), Some(parents))?;
            }
            safe_path::open_dir(path, make.then_some(Mode::S_IRWXU))
        };
        let reached = match go() {
            Err(safe_path::Error::System(PathError { source, .. }))
                if source.kind() == io::ErrorKind::NotFound && !make =>
            {
                return Ok(None);
            }
            reached => reached.map_err(|error| PathError::of("open", path)(io::Error::from(error)))?,
        };
        let top = openat(&reached, ".", FOLDER, Mode::empty()).map_err(PathError::of("open", path))?;
        let status = fstat(&top).map_err(PathError::of("examine", path))?;
        // A command of another user reads what root keeps.
        let is_trusted = status.st_uid == Uid::effective().as_raw() || status.st_uid == 0 && !make;
        if !is_trusted || status.st_mode & 0o022 != 0 {
            return Err(Error::Shared(path.to_owned()));
        }
        if make {
            self.share(path, &top, Mode::from_bits_truncate(status.st_mode & 0o7777 | 0o750))?;
        }
        Ok(Some(top))
    }

    fn folder(&self, agent: &Name) -> Result<Option<(PathBuf, OwnedFd)>, Error> {
        let path = self.path.join(agent.key().as_str());
        let Some(top) = self.top(false)? else { return Ok(None) };
        match openat(&top, agent.key().as_str(), FOLDER, Mode::empty()) {
            Ok(folder) => Ok(Some((path, folder))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(PathError::new("open", &path, error).into()),
        }
    }

    fn make_folder(&self, agent: &Name) -> Result<(PathBuf, OwnedFd), Error> {
        let (key, path) = (agent.key(), self.path.join(agent.key().as_str()));
        let top = self.top(true)?.ok_or_else(|| PathError::of("open", &self.path)(Errno::ENOENT))?;
        match mkdirat(&top, key.as_str(), Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(PathError::new("make", &path, error).into()),
        }
        let folder = openat(&top, key.as_str(), FOLDER, Mode::empty()).map_err(PathError::of("open", &path))?;
        self.share(&path, &folder, Mode::from_bits_truncate(0o750))?;
        Ok((path, folder))
    }

    fn make_file(&self, path: &Path, folder: &OwnedFd, name: &str) -> Result<OwnedFd, Error> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(PathError::of("make", path))?;
        self.share(path, &file, Mode::from_bits_truncate(0o640))?;
        Ok(file)
    }

    /// Gives the group access, if the daemon runs as root.
    fn share(&self, path: &Path, descriptor: &OwnedFd, mode: Mode) -> Result<(), Error> {
        let Some(group) = self.group else { return Ok(()) };
        let status = fstat(descriptor).map_err(PathError::of("examine", path))?;
        if status.st_gid != group.as_raw() {
            fchown(descriptor, None, Some(group)).map_err(PathError::of("change the group of", path))?;
        }
        if status.st_mode & 0o7777 != mode.bits() {
            fchmod(descriptor, mode).map_err(PathError::of("set the mode of", path))?;
        }
        Ok(())
    }
}

/// When a file was last written to; `None` if it is empty.
pub(super) fn written(file: &File) -> io::Result<Option<SystemTime>> {
    let metadata = file.metadata()?;
    if metadata.len() == 0 { Ok(None) } else { metadata.modified().map(Some) }
}

const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK);

/// Lists the attempts in a folder, the earliest first.
fn list(path: &Path, folder: &OwnedFd) -> Result<Vec<AttemptId>, Error> {
    parsed(path, folder, TEXT)
}

/// Lists the attempts that have a file with this ending.
fn parsed(path: &Path, folder: &OwnedFd, ending: &str) -> Result<Vec<AttemptId>, Error> {
    let names = names(folder).map_err(PathError::of("read", path))?;
    let mut kept: Vec<AttemptId> = names.iter().filter_map(|name| AttemptId::parse(name, ending)).collect();
    kept.sort_unstable();
    Ok(kept)
}

/// The names in a folder, except those that are not UTF-8.
fn names(folder: &OwnedFd) -> nix::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::openat(folder, ".", FOLDER, Mode::empty())?.iter() {
        names.extend(entry?.file_name().to_str().map(str::to_owned));
    }
    Ok(names)
}

/// Removes an attempt's files. What cannot be removed is tried again with the next attempt.
/// What is left is removed with a later attempt.
fn remove(folder: &OwnedFd, kept: AttemptId) {
    let _ = unlink(folder, kept);
}

/// Removes the files of an attempt. The text goes last, because it identifies the attempt.
fn unlink(folder: &OwnedFd, kept: AttemptId) -> nix::Result<()> {
    let [index, text] =
        [INDEX, TEXT].map(|ending| unlinkat(folder, kept.file_name(ending).as_str(), UnlinkatFlags::NoRemoveDir));
    [index, text].into_iter().try_for_each(|removed| match removed {
        Err(Errno::ENOENT) => Ok(()),
        removed => removed,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::ops::RangeInclusive;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::agent::name::key;
    use crate::logs::attempt::Named;
    use crate::logs::attempt::NoAttempt;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn store(attempts: usize) -> (TempDir, Store) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("log/agentd");
        (directory, Store::new(&path, Gid::effective(), Retention { attempts, ..Retention::default() }))
    }

    fn attempts(store: &Store, agent: &str) -> Vec<(u64, u64)> {
        store.attempts(&name(agent)).unwrap().iter().map(|kept| (kept.sequence, kept.attempt)).collect()
    }

    #[test]
    fn logs_beyond_the_total_go_oldest_first() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("logs");
        let total = Some(100 << 10);
        let store = Store::new(&path, Gid::effective(), Retention { total, ..Retention::default() });
        assert!(store.has_grown() && store.uses().is_none());
        for (agent, attempt) in [("a", 1), ("a", 2), ("b", 1), ("a", 3), ("a", 4)] {
            let files = store.create(&name(agent), Numbers::of(attempt)).unwrap();
            File::from(files.text).write_all(&vec![7; 40 << 10]).unwrap();
            // Files have different times.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        // A file that is not agentd's counts for nothing and stays.
        fs::write(path.join("a/note"), "x").unwrap();
        store.limit_total().unwrap();
        assert!(!store.has_grown());
        assert_eq!(attempts(&store, "a"), [(4, 4)]);
        assert_eq!(attempts(&store, "b"), [(1, 1)]);
        assert!(path.join("a/note").exists());
        let uses = store.uses().unwrap();
        let of_a = store.use_of(&key("a")).unwrap();
        assert!((80 << 10..=100 << 10).contains(&uses.bytes) && uses.cap == 100 << 10, "{uses:?}");
        assert!(of_a.attempts == 1 && of_a.bytes < uses.bytes, "{of_a:?}");
        assert_eq!(store.use_of(&key("c")), None);
    }

    #[test]
    fn what_cannot_be_measured_is_not_known() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("logs");
        let store = Store::new(&path, Gid::effective(), Retention::default());
        store.create(&name("a"), Numbers::of(1)).unwrap();
        store.limit_total().unwrap();
        assert!(store.uses().is_some() && store.use_of(&key("a")).is_some());
        fs::rename(&path, directory.path().join("elsewhere")).unwrap();
        store.limit_total().unwrap();
        assert!(store.uses().is_none() && store.use_of(&key("a")).is_none(), "there are no logs");
        fs::rename(directory.path().join("elsewhere"), &path).unwrap();
        store.limit_total().unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        store.limit_total().unwrap_err();
        assert_eq!(store.uses(), None, "others may have written to the folder");
    }

    #[test]
    fn logs_that_cannot_be_removed_are_told() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("logs");
        let store = Store::new(&path, Gid::effective(), Retention { total: Some(0), ..Retention::default() });
        for attempt in 1..=2 {
            let files = store.create(&name("a"), Numbers::of(attempt)).unwrap();
            File::from(files.text).write_all(b"x").unwrap();
        }
        // A directory cannot be removed like a file, not even by root.
        fs::remove_file(path.join("a/00000001-1.log")).unwrap();
        fs::create_dir(path.join("a/00000001-1.log")).unwrap();
        let error = store.limit_total().unwrap_err().to_string();
        assert!(error.starts_with(&format!("failed to remove {}/a/00000001-1.log: ", path.display())), "{error}");
        assert!(store.uses().unwrap().bytes > 0);
    }

    #[test]
    fn an_attempt_is_named_by_its_number_or_as_its_files_are() {
        for (text, expected) in [
            ("2", Ok(Named::Number(2))),
            ("7-2", Ok(Named::Log(AttemptId { sequence: 7, attempt: 2 }))),
            ("00000007-2", Ok(Named::Log(AttemptId { sequence: 7, attempt: 2 }))),
            ("", Err(NoAttempt)),
            ("-2", Err(NoAttempt)),
            ("7-", Err(NoAttempt)),
            ("7--2", Err(NoAttempt)),
            ("7-2-1", Err(NoAttempt)),
            ("first", Err(NoAttempt)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        assert_eq!("00000007-2".parse::<Named>().unwrap().to_string(), "7-2");
    }

    #[test]
    fn the_latest_attempts_are_kept_in_order() {
        let (_directory, store) = store(3);
        assert_eq!(attempts(&store, "a"), []);
        for attempt in [1, 2, 1, 7, 1] {
            store.create(&name("A"), Numbers::of(attempt)).unwrap();
        }
        assert_eq!(attempts(&store, "a"), [(3, 1), (4, 7), (5, 1)]);
        assert_eq!(fs::read_dir(store.path.join("a")).unwrap().count(), 6);
        assert!(store.open(&name("a"), AttemptId { sequence: 1, attempt: 1 }).unwrap().is_none());
        store.open(&name("a"), AttemptId { sequence: 4, attempt: 7 }).unwrap().unwrap();
    }

    #[test]
    fn the_first_attempt_of_a_declaration_stays_beside_the_latest() {
        let (_directory, store) = store(2);
        let make = |first, numbers: RangeInclusive<u64>| {
            numbers.for_each(|attempt| drop(store.create(&name("a"), Numbers { attempt, first }).unwrap()));
            attempts(&store, "a").into_iter().map(|(_, attempt)| attempt).collect::<Vec<u64>>()
        };
        assert_eq!(make(1, 1..=3), [1, 2, 3]);
        assert_eq!(make(1, 4..=9), [1, 8, 9]);
        assert_eq!(make(10, 10..=10), [9, 10], "that of an earlier declaration goes");
        assert_eq!(make(10, 11..=14), [10, 13, 14]);
        assert_eq!(make(2, 2..=4), [2, 3, 4], "counted again from the beginning");
    }

    #[test]
    fn files_of_no_attempt_are_discarded() {
        let (_directory, store) = store(2);
        store.create(&name("a"), Numbers::of(1)).unwrap();
        let kept = store.create(&name("a"), Numbers::of(2)).unwrap().kept;
        store.discard(&name("a"), kept).unwrap();
        store.discard(&name("b"), kept).unwrap();
        assert_eq!(attempts(&store, "a"), [(1, 1)]);
        assert_eq!(fs::read_dir(store.path.join("a")).unwrap().count(), 2);
    }

    #[test]
    fn an_index_without_its_text_does_not_block_a_new_attempt() {
        let (_directory, store) = store(3);
        store.create(&name("a"), Numbers::of(1)).unwrap();
        fs::remove_file(store.path.join("a/00000001-1.log")).unwrap();
        store.create(&name("a"), Numbers::of(1)).unwrap();
        assert_eq!(attempts(&store, "a"), [(2, 1)]);
        assert_eq!(fs::read_dir(store.path.join("a")).unwrap().count(), 2);
    }

    #[test]
    fn creating_a_log_fails_after_the_greatest_number() {
        let (_directory, store) = store(3);
        store.create(&name("a"), Numbers::of(1)).unwrap();
        let path = |file: &str| store.path.join("a").join(file);
        let last = format!("{}-1.log", u64::MAX);
        fs::rename(path("00000001-1.log"), path(&last)).unwrap();
        store.create(&name("a"), Numbers::of(2)).unwrap();
        assert!(matches!(store.create(&name("a"), Numbers::of(2)), Err(Error::System(_))));
    }

    #[test]
    fn files_are_private_without_root_and_group_readable_with_it() {
        let (_directory, store) = store(3);
        store.create(&name("a"), Numbers::of(1)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let (folder, file) = if Uid::effective().is_root() { (0o750, 0o640) } else { (0o700, 0o600) };
        assert_eq!(mode(&store.path), folder);
        assert_eq!(mode(&store.path.join("a")), folder);
        for entry in fs::read_dir(store.path.join("a")).unwrap() {
            assert_eq!(mode(&entry.unwrap().path()), file);
        }
    }

    #[test]
    fn a_folder_in_which_others_can_write_is_refused() {
        let (_directory, store) = store(3);
        fs::create_dir_all(&store.path).unwrap();
        fs::set_permissions(&store.path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(store.create(&name("a"), Numbers::of(1)), Err(Error::Shared(_))));
    }

    #[test]
    fn links_and_strange_names_are_not_taken_for_attempts() {
        let (directory, store) = store(3);
        store.create(&name("a"), Numbers::of(1)).unwrap();
        let goal = directory.path().join("goal");
        fs::write(&goal, "goal").unwrap();
        for strange in ["1-1.log", "00000009-01.log", "00000009-x.log", "00000009.log", "notes"] {
            symlink(&goal, store.path.join("a").join(strange)).unwrap();
        }
        assert_eq!(attempts(&store, "a"), [(1, 1)]);
        symlink(&goal, store.path.join("a/00000002-1.log")).unwrap();
        store.open(&name("a"), AttemptId { sequence: 2, attempt: 1 }).unwrap_err();
        fs::create_dir(directory.path().join("elsewhere")).unwrap();
        symlink(directory.path().join("elsewhere"), store.path.join("b")).unwrap();
        store.create(&name("b"), Numbers::of(1)).unwrap_err();
        assert_eq!(fs::read_dir(directory.path().join("elsewhere")).unwrap().count(), 0);
    }

    #[test]
    fn the_latest_of_the_former_agents_are_kept() {
        let (_directory, store) = store(3);
        for number in 0..=MOST_FORMER + 1 {
            store.create(&name(&format!("a{number}")), Numbers::of(1)).unwrap();
            // The file system's clock may be coarse.
            let time = fs::File::open(store.path.join(format!("a{number}"))).unwrap();
            let modified = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + number as u64);
            time.set_modified(modified).unwrap();
        }
        store.tidy(&[key("a0")].into()).unwrap();
        let left: BTreeSet<String> =
            fs::read_dir(&store.path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(left.contains("a0") && !left.contains("a1") && left.contains("a2"), "{left:?}");
        assert_eq!(left.len(), MOST_FORMER + 1);
        assert_eq!(fs::metadata(&*store.path).unwrap().uid(), Uid::effective().as_raw());
    }
}
