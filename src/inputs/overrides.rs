//! The overrides directory: what operators want of agents, a drop-in each.
//!
//! A member of the operators' group writes `NAME.toml`, or `.all.toml`. Root reads them as it reads secrets: no link, no FIFO, no file
//! with a second name, none of a stranger's, a few kilobytes at most.
//!
//! A drop-in that cannot be used does not count as absent: what it said last stays in force. Absence is not a statement, either. One
//! file that is gone from a folder that was listed before and after takes its override back. If the folder itself is gone, is another
//! one, or has lost several at once, [`Known`] keeps everything in force until a second look at the same folder finds the same.

pub mod folder;
pub mod operators;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::SFlag;
use nix::unistd::{Gid, Uid, UnlinkatFlags, unlinkat};
use tokio::sync::watch;

use crate::agent::name::{Key, Name};
use crate::agent::orders::{Override, Overrides};
use crate::config::MAX_AGENTS;
use crate::config::drop_in::{self, DropIn, MAX_SIZE, Scope};
use crate::inputs::overrides::operators::Operators;
use crate::state::overrides::Kept;
use crate::sys::account::Account;
use crate::sys::file_id::FileId;
use crate::sys::{regular_file, safe_path};
use crate::text::printable::escaped;
use crate::wire::status::Time;

/// The name of the drop-in for all agents, without its ending.
pub const ALL: &str = ".all";

/// The ending of a drop-in.
pub const ENDING: &str = ".toml";

/// What the name of a file begins with that ends a hold. The name of the group, or of an agent, follows.
pub const RELEASE: &str = ".release-";

/// The most entries of the folder that are read.
const MAX_ENTRIES: usize = 2 * MAX_AGENTS;

/// The most problems that are told at once.
const MAX_TOLD: usize = 20;

/// Where overrides are, and who may write them.
#[derive(Clone, Debug)]
pub struct Place {
    /// The folder.
    pub directory: PathBuf,
    /// Its group, for root.
    pub group: Gid,
    /// Whose files count.
    pub operators: Operators,
}

impl Place {
    /// The place for a daemon of this user, whose agents run as these users.
    pub fn new(directory: PathBuf, group: Gid, agents: watch::Receiver<BTreeSet<u32>>) -> Self {
        let own = Uid::effective();
        let operators = if own.is_root() { Operators::Group { group, agents } } else { Operators::Own(own) };
        Self { directory, group, operators }
    }

    /// What is wrong if agents may write in the folder: what they write does not count, but what they remove or rename does.
    pub fn warning(&self, agent: &Account, group: &str) -> Option<String> {
        let is_member = matches!(self.operators, Operators::Group { .. })
            && agent.groups.contains(&self.group)
            && !agent.uid.is_root();
        let user = &agent.name;
        is_member.then(|| {
            format!(
                "the agent user {user} is a member of the operators' group {group}, so agents can take back what operators say, by removing files in {}; gpasswd -d {user} {group} ends that, or name another --operator-group",
                self.directory.display()
            )
        })
    }
}

/// One reading of the folder.
#[derive(Debug, Default)]
pub struct Reading {
    /// Which folder was listed; `None` if none was.
    folder: Option<FileId>,
    /// What each drop-in says, by its name without the ending, in lower case; or what is wrong with it.
    files: BTreeMap<String, Result<Override, String>>,
    /// What is wrong with the folder.
    problem: Option<String>,
    /// Whether the folder does not exist.
    is_absent: bool,
    /// What else is there that cannot be a drop-in.
    strays: Vec<String>,
    /// The holds that operators end. Their files are gone.
    pub releases: Vec<Release>,
}

/// The end of a hold, as an operator wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The group, or an agent of it.
    pub name: String,
    /// The owner of the file.
    pub by: String,
}

/// Reads the folder, and makes it if `makes` is set and it does not exist. Blocks.
pub fn read(place: &Place, makes: bool) -> Reading {
    let mut reading = Reading::default();
    match folder::open(&place.directory, place.group, makes) {
        Ok(folder) => {
            if let Err(error) = read_all(&folder, place, &mut reading) {
                let problem = format!("failed to read {}: {error}", place.directory.display());
                reading = Reading { problem: Some(problem), ..Reading::default() };
            }
        }
        Err(error) => {
            reading.is_absent = matches!(error, folder::Error::Absent(_));
            reading.problem = Some(error.to_string());
        }
    }
    reading
}

fn read_all(folder: &OwnedFd, place: &Place, reading: &mut Reading) -> io::Result<()> {
    let here = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    let names: BTreeSet<OsString> = fs::read_dir(&here)?
        .take(MAX_ENTRIES + 1)
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()?;
    if names.len() > MAX_ENTRIES {
        return Err(io::Error::other(format!("it has more than {MAX_ENTRIES} entries; remove what is no drop-in")));
    }
    for name in &names {
        if let Some(of) = name.to_str().and_then(|name| name.strip_prefix(RELEASE)) {
            match take_release(folder, name, of, &place.operators) {
                Ok(release) => reading.releases.extend(release),
                Err(error) => {
                    let path = escaped(&place.directory.join(name).display().to_string());
                    reading.strays.push(format!("{path}: {error}; remove it"));
                }
            }
            continue;
        }
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(ENDING)) else { continue };
        // What is being written, by the command line or by an editor.
        if stem.starts_with('.') && stem != ALL {
            continue;
        }
        // A name may have control characters, which must not begin another line.
        let path = escaped(&place.directory.join(name).display().to_string());
        let key = match stem.parse::<Name>() {
            _ if stem == ALL => ALL.to_owned(),
            Ok(agent) => agent.key().as_str().to_owned(),
            Err(right) => {
                reading.strays.push(format!("{path}: it is not named after an agent; {right}"));
                continue;
            }
        };
        if reading.files.contains_key(&key) {
            reading.strays.push(format!("{path}: there is another for the same agent; remove one"));
            continue;
        }
        let scope = if key == ALL { Scope::All } else { Scope::Agent };
        if let Some(said) = read_file(folder, name, scope, &place.operators).transpose() {
            reading.files.insert(key, said.map_err(|error| located(&path, &error)));
        }
    }
    reading.folder = Some(FileId::of(folder)?);
    Ok(())
}

/// Prefixes each line with the file.
fn located(path: &str, error: &str) -> String {
    let has_place = |line: &str| line.starts_with(|c: char| c.is_ascii_digit());
    let located = |line: &str| {
        let space = if has_place(line) { "" } else { " " };
        format!("{path}:{space}{line}")
    };
    error.lines().map(located).collect::<Vec<_>>().join("\n")
}

/// Reads a drop-in; `None` if it was removed in the meantime. The error says what is wrong with it and what would be right.
fn read_file(folder: &OwnedFd, name: &OsStr, scope: Scope, operators: &Operators) -> Result<Option<Override>, String> {
    const RIGHT: &str = "write a regular file of a few lines, or use agentd stop, start and restart";
    let look = match safe_path::look(folder, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        look => look.map_err(|error| format!("it cannot be examined: {error}"))?,
    };
    // Without root, the kernel would follow it.
    if SFlag::from_bits_truncate(look.mode) & SFlag::S_IFMT == SFlag::S_IFLNK {
        return Err(format!("it is a link; {RIGHT}"));
    }
    let (file, metadata) = match regular_file::open_in(folder, name) {
        Ok(opened) => opened,
        Err(regular_file::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(regular_file::Error::Io(error)) => return Err(format!("it cannot be read: {error}")),
        Err(regular_file::Error::Link) => return Err(format!("it is a link; {RIGHT}")),
        Err(error) => return Err(format!("{error}; {RIGHT}")),
    };
    if metadata.nlink() != 1 {
        return Err(format!("it has {} names (hard links); {RIGHT}", metadata.nlink()));
    }
    let by = operators.judge(Uid::from_raw(metadata.uid()))?;
    let at = metadata.modified().ok().map(Time);
    let text = match regular_file::content((file, metadata), MAX_SIZE) {
        Ok((text, _)) => text,
        Err(regular_file::Error::TooLarge(limit)) => return Err(format!("it is larger than {limit} bytes; {RIGHT}")),
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    let DropIn { enabled, generation, now } = drop_in::parse(&text, scope)?;
    Ok(Some(Override { enabled, generation, now, by: Some(by), at }))
}

/// Takes a file that ends a hold, and removes what was taken, and nothing that is there instead.
fn take_release(folder: &OwnedFd, name: &OsStr, of: &str, operators: &Operators) -> Result<Option<Release>, String> {
    let look = match safe_path::look(folder, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        look => look.map_err(|error| format!("it cannot be examined: {error}"))?,
    };
    if SFlag::from_bits_truncate(look.mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err("it is not a regular file".to_owned());
    }
    let (file, metadata) = regular_file::open_in(folder, name).map_err(|error| error.to_string())?;
    if metadata.nlink() != 1 {
        return Err(format!("it has {} names (hard links)", metadata.nlink()));
    }
    let by = operators.judge(Uid::from_raw(metadata.uid()))?;
    let id = FileId::of(&file).map_err(|error| format!("it cannot be examined: {error}"))?;
    let is_same = safe_path::look(folder, name).is_ok_and(|look| look.version.id == id);
    if is_same {
        unlinkat(folder, name, UnlinkatFlags::NoRemoveDir).map_err(|error| format!("it cannot be removed: {error}"))?;
    }
    let is_name = of.len() <= 128 && of.bytes().all(|byte| byte.is_ascii_graphic());
    Ok((is_same && is_name).then(|| Release { name: of.to_owned(), by }))
}

/// What is known about the overrides after several readings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What is in force, and the folder that was listed last.
    kept: Kept,
    /// Overrides that the latest readings did not find, and that are still in force.
    doubts: BTreeMap<String, Doubt>,
    /// What needs attention; `None` if nothing does.
    error: Option<String>,
    /// Whether it is known what is in force: not if neither the folder nor what was kept could be read.
    is_sure: bool,
}

/// Where an override was missed, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doubt {
    folder: FileId,
    since: Instant,
}

impl Known {
    /// What an earlier daemon kept; `None` if that could not be read.
    pub fn kept_before(kept: Option<Kept>) -> Self {
        Self { is_sure: kept.is_some(), kept: kept.unwrap_or_default(), ..Self::default() }
    }

    /// Whether it is known what is in force. If not, nothing is to be kept: what an earlier daemon kept may be read later.
    pub fn is_sure(&self) -> bool {
        self.is_sure
    }

    /// What is to be kept for the next daemon.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// What needs attention.
    pub fn error(&self) -> Option<&String> {
        self.error.as_ref()
    }

    /// Whether the folder may be made: nothing is in force that it would seem to take back.
    pub fn may_make(&self) -> bool {
        self.is_sure && self.kept.in_force.is_empty()
    }

    /// What is in force; `None` if that is not known.
    pub fn overrides(&self) -> Option<Overrides> {
        let agents = self.kept.in_force.iter().filter_map(|(stem, it)| Some((stem.parse::<Key>().ok()?, it.clone())));
        self.is_sure.then(|| Overrides { agents: agents.collect(), all: self.kept.in_force.get(ALL).cloned() })
    }

    /// What is known after one more reading.
    ///
    /// An override was taken back if readings of the same folder miss it for as long as `patience`, or if it alone is gone from a
    /// folder that was listed before. One without an effect of its own, which neither forbids nor enables, may go any time.
    #[must_use]
    pub fn after(&self, reading: Reading, directory: &Path, now: Instant, patience: Duration) -> Self {
        let Reading { folder, files, problem, is_absent, strays, releases: _ } = reading;
        let mut in_force = BTreeMap::new();
        let mut problems = strays;
        let mut found = BTreeSet::new();
        for (stem, said) in files {
            found.insert(stem.clone());
            let before = self.kept.in_force.get(&stem);
            let held = match said {
                Ok(said) => Some(said),
                Err(error) => {
                    let effect =
                        if before.is_some() { "what it said before stays in force" } else { "it has no effect" };
                    problems.push(format!("{error}; {effect}"));
                    before.cloned()
                }
            };
            in_force.extend(held.map(|held| (stem, held)));
        }
        let missing = || self.kept.in_force.iter().filter(|(stem, _)| !found.contains(*stem));
        let Some(here) = folder else {
            let is_needed = !is_absent || !self.kept.in_force.is_empty();
            let stays = if self.kept.in_force.is_empty() { "" } else { "; what it said before stays in force" };
            problems.extend(problem.filter(|_| is_needed || !self.is_sure).map(|problem| format!("{problem}{stays}")));
            return Self { error: tell(&problems), ..self.clone() };
        };
        let is_same = self.kept.folder == Some(here);
        let says_something = |said: &Override| said.enabled.is_some();
        let news = missing().filter(|(stem, said)| says_something(said) && !self.doubts.contains_key(*stem)).count();
        let mut doubts = BTreeMap::new();
        for (stem, said) in missing() {
            if !says_something(said) {
                continue;
            }
            let doubt = match self.doubts.get(stem) {
                Some(doubt) if doubt.folder == here => *doubt,
                None if is_same && news == 1 => continue,
                Some(_) | None => Doubt { folder: here, since: now },
            };
            if now.saturating_duration_since(doubt.since) >= patience && self.doubts.contains_key(stem) {
                continue;
            }
            in_force.insert(stem.clone(), said.clone());
            doubts.insert(stem.clone(), doubt);
        }
        problems.extend(missed(&doubts, directory));
        Self { kept: Kept { folder: Some(here), in_force }, doubts, error: tell(&problems), is_sure: true }
    }

    /// The overrides in force of agents that are not declared, as a problem.
    pub fn undeclared(&self, directory: &Path, is_declared: impl Fn(&Key) -> bool) -> Option<String> {
        let keys = self.kept.in_force.keys().filter_map(|stem| stem.parse::<Key>().ok());
        let lines: Vec<String> = keys
            .filter(|key| !is_declared(key))
            .map(|key| {
                let path = directory.join(format!("{key}{ENDING}"));
                format!("{}: no agent {key} is declared; remove it if none will be", path.display())
            })
            .collect();
        tell(&lines)
    }
}

fn missed(doubts: &BTreeMap<String, Doubt>, directory: &Path) -> Option<String> {
    const NAMED: usize = 5;
    if doubts.is_empty() {
        return None;
    }
    let mut names = doubts.keys().take(NAMED).map(|stem| format!("{stem}{ENDING}")).collect::<Vec<_>>().join(", ");
    if let Some(more) = doubts.len().checked_sub(NAMED).filter(|&more| more > 0) {
        let _ = write!(names, " and {more} more");
    }
    let stays = "what was in force before stays in force until another look finds the same";
    Some(format!("no longer in {}: {names}; {stays}", directory.display()))
}

fn tell(problems: &[String]) -> Option<String> {
    let mut lines: Vec<String> = problems.iter().take(MAX_TOLD).cloned().collect();
    if let Some(more) = problems.len().checked_sub(MAX_TOLD).filter(|&more| more > 0) {
        lines.push(format!("and {more} more like these"));
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests;
