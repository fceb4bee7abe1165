//! The ledger of a template: which ids of runs have ended, so that no task is carried out twice.
//!
//! ```text
//! ID SECONDS     a line each: the id in lower case, and when it was written here, in seconds since 1970
//! ```
//!
//! A line without its end is one whose write was interrupted, and was never reported; it is overwritten. Any other line that cannot
//! be understood makes the ledger unknown: an id that it may have held is not free.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW};

use super::Error;
use crate::agent::name::{Key, RunId};
use crate::sys::PathError;
use crate::sys::atomic_file::{self, Durability};

const FILE: &str = "done";

/// How many ids are kept, however old.
const KEPT: usize = 100_000;

/// How long each id is kept, however many there are.
const KEPT_FOR: Duration = Duration::from_hours(30 * 24);

/// Which ids of runs are used, by template. Clones share what is known.
#[derive(Clone, Debug, Default)]
pub struct Ledgers(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    ledgers: BTreeMap<Key, Ledger>,
    /// Whether it is not known which templates have a ledger.
    is_unreadable: bool,
    hasher: RandomState,
}

/// What is known of one ledger.
#[derive(Debug, Default)]
struct Ledger {
    /// Whether the file could not be read.
    is_unknown: bool,
    /// The ids in the file, hashed with a secret: text of a hundred thousand ids would take ten times the memory.
    ids: HashSet<u64>,
    /// How much of the file is written and synced, in bytes.
    length: u64,
    /// From how many ids on it is worth looking for old ones.
    look_at: usize,
    /// Ids that count as used, because their records are damaged.
    damaged: BTreeSet<String>,
    /// Ids whose records could not be read.
    doubtful: BTreeSet<String>,
}

/// What was read of a file.
#[derive(Default)]
struct Content {
    /// In the order of the file.
    lines: Vec<(String, u64)>,
    /// In bytes, without a line that has no end.
    length: u64,
}

impl Ledgers {
    /// Ledgers of which nothing could be found out.
    pub fn unreadable() -> Self {
        let ledgers = Self::default();
        ledgers.set_unreadable();
        ledgers
    }

    /// Whether the id of this run is used; `None` if that could not be found out.
    pub fn is_used(&self, run: &Key) -> Option<bool> {
        let (agent, id) = run.run()?;
        let shared = self.lock();
        let Some(ledger) = shared.ledgers.get(&agent) else {
            return (!shared.is_unreadable).then_some(false);
        };
        if ledger.damaged.contains(id) || ledger.ids.contains(&shared.hasher.hash_one(id)) {
            return Some(true);
        }
        (!ledger.is_unknown && !ledger.doubtful.contains(id)).then_some(false)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, agent: &Key, change: impl FnOnce(&mut Ledger)) {
        change(self.lock().ledgers.entry(agent.clone()).or_default());
    }

    /// It is not known which templates have a ledger.
    pub(super) fn set_unreadable(&self) {
        self.lock().is_unreadable = true;
    }

    /// It is not known which ids of this template have ended.
    pub(super) fn set_unknown(&self, agent: &Key) {
        self.change(agent, |ledger| ledger.is_unknown = true);
    }

    /// The id of this run counts as used: its record is damaged.
    pub(super) fn set_used(&self, run: &Key) {
        if let Some((agent, id)) = run.run() {
            self.change(&agent, |ledger| ledger.damaged.extend([id.to_owned()]));
        }
    }

    /// It is not known whether the id of this run is used.
    pub(super) fn set_doubtful(&self, run: &Key) {
        if let Some((agent, id)) = run.run() {
            self.change(&agent, |ledger| ledger.doubtful.extend([id.to_owned()]));
        }
    }

    /// Reads the ledger of this template, whose folder this is. Blocks.
    pub(super) fn read(&self, agent: &Key, folder: &Path) -> Result<(), Error> {
        let content = read(&folder.join(FILE));
        let mut shared = self.lock();
        let Shared { ledgers, hasher, .. } = &mut *shared;
        let ledger = ledgers.entry(agent.clone()).or_default();
        ledger.is_unknown = content.is_err();
        let Content { lines, length } = content?;
        ledger.hold(&lines, length, hasher);
        Ok(())
    }

    /// The templates whose ledgers could not be read.
    pub(super) fn unknown(&self) -> Vec<Key> {
        let shared = self.lock();
        shared.ledgers.iter().filter(|(_, ledger)| ledger.is_unknown).map(|(agent, _)| agent.clone()).collect()
    }

    /// Adds ids to the ledger of this template, whose folder this is, and syncs it. Blocks.
    ///
    /// Either all are in it afterwards, or none is.
    pub(super) fn add(&self, agent: &Key, ids: &[String], folder: &Path, now: SystemTime) -> Result<(), Error> {
        let (length, is_unknown) = {
            let mut shared = self.lock();
            let ledger = shared.ledgers.entry(agent.clone()).or_default();
            (ledger.length, ledger.is_unknown)
        };
        if is_unknown {
            self.read(agent, folder)?;
            return self.add(agent, ids, folder, now);
        }
        let now = seconds(now);
        let text: String = ids.iter().map(|id| line(id, now)).collect();
        let path = folder.join(FILE);
        append(&path, length, text.as_bytes()).map_err(PathError::of("write", &path))?;
        let mut shared = self.lock();
        let Shared { ledgers, hasher, .. } = &mut *shared;
        let Some(ledger) = ledgers.get_mut(agent) else { return Ok(()) };
        ledger.ids.extend(ids.iter().map(|id| hasher.hash_one(id.as_str())));
        ledger.length += text.len() as u64;
        Ok(())
    }

    /// Forgets the oldest ids of this template if it has too many. Blocks.
    ///
    /// A failure does no harm: the ids stay.
    pub(super) fn shorten(&self, agent: &Key, folder: &Path, now: SystemTime) -> Result<(), Error> {
        let is_due = self.lock().ledgers.get(agent).is_some_and(|it| !it.is_unknown && it.ids.len() >= it.look_at);
        if !is_due {
            return Ok(());
        }
        let path = folder.join(FILE);
        let Content { lines, length } = read(&path)?;
        let oldest = seconds(now).saturating_sub(KEPT_FOR.as_secs());
        let most = lines.len().saturating_sub(KEPT);
        let old = lines.iter().take(most).take_while(|(_, at)| *at < oldest).count();
        let lines = &lines[old..];
        let mut length = length;
        if old > 0 {
            let text: String = lines.iter().map(|(id, at)| line(id, *at)).collect();
            atomic_file::write(&path, text.as_bytes(), Durability::Now).map_err(PathError::of("write", &path))?;
            length = text.len() as u64;
        }
        let mut shared = self.lock();
        let Shared { ledgers, hasher, .. } = &mut *shared;
        if let Some(ledger) = ledgers.get_mut(agent) {
            ledger.hold(lines, length, hasher);
        }
        Ok(())
    }
}

impl Ledger {
    fn hold(&mut self, lines: &[(String, u64)], length: u64, hasher: &RandomState) {
        self.ids = lines.iter().map(|(id, _)| hasher.hash_one(id.as_str())).collect();
        self.length = length;
        // A tenth more, so that the file is not read again for each id.
        self.look_at = lines.len().max(KEPT) / 10 * 11;
    }
}

/// A line of a ledger.
pub(super) fn line(id: &str, at: u64) -> String {
    format!("{id} {at}\n")
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Reads a ledger. One that does not exist is empty.
fn read(path: &Path) -> Result<Content, Error> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
        text => text.map_err(PathError::of("read", path))?,
    };
    let length = memchr::memrchr(b'\n', &text).map_or(0, |at| at + 1);
    let lines = text[..length].strip_suffix(b"\n").into_iter().flat_map(|text| text.split(|&byte| byte == b'\n'));
    let parse =
        |(at, line): (usize, &[u8])| parse(line).ok_or_else(|| Error::Ledger { path: path.to_owned(), line: at + 1 });
    let lines = lines.enumerate().map(parse).collect::<Result<_, _>>()?;
    Ok(Content { lines, length: length as u64 })
}

fn parse(line: &[u8]) -> Option<(String, u64)> {
    let (id, at) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let id = id.parse::<RunId>().ok()?;
    Some((id.folded(), at.parse().ok()?))
}

/// Writes at the end of what is known to be written, and syncs it. On a failure, nothing is added.
fn append(path: &Path, length: u64, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(O_NOFOLLOW | O_CLOEXEC);
    let mut file = options.open(path)?;
    let size = file.metadata()?.len();
    if size < length {
        return Err(io::Error::other(format!("it has lost {} bytes; start agentd again", length - size)));
    }
    if size > length {
        // What an interrupted write has left.
        file.set_len(length)?;
    }
    let write = |file: &mut File| {
        file.seek(SeekFrom::Start(length))?;
        file.write_all(text)?;
        file.sync_data()
    };
    write(&mut file).inspect_err(|_| {
        // If that fails as well, the next write or the next daemon does it.
        let _ = file.set_len(length);
    })
}

/// The path of the ledger in the folder of a template.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}
