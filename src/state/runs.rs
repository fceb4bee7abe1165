//! The runs on record: what the next daemon must know of each, with its task, and which ids have ended.
//!
//! ```text
//! STATE_DIR/runs/NAME/ID.json    {"version":1,"task_bytes":…,"run":{…}}, and the text of the task from the next line on
//! STATE_DIR/runs/NAME/done       the ledger: the ids of runs that have ended
//! ```
//!
//! NAME and ID are in lower case. Tasks of people are in these files, which only root reads (0600, in folders of 0700).
//!
//! A [`Keeper`] carries out commands in the background. What it reports is on disk: files and folders are synced before, together for
//! all commands that wait. A file is replaced as a whole, so a full disk leaves nothing half-written. A record that is damaged is
//! renamed, and its id counts as [used](Ledgers::is_used): a task is rather refused than carried out twice.

mod keeper;
mod ledger;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::agent::name::{Key, Name, RunId};
use crate::agent::run::LONGEST_TASK;
use crate::sys::PathError;
use crate::sys::file_id::FileId;
use crate::sys::memory;
use crate::sys::secret_bytes::SecretBytes;
use crate::text::printable;
use crate::wire::status::Outcome;

pub use keeper::{Keeper, Kept, What};
pub use ledger::Ledgers;

/// The version of the file format.
const VERSION: u32 = 1;

const FOLDER: &str = "runs";

/// The longest first line of a record that is read, in bytes.
const LONGEST_HEADER: u64 = 1 << 20;

/// Why something could not be kept, or what is kept cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a folder could not be read or written.
    #[error(transparent)]
    System(#[from] PathError),
    /// The content of a record cannot be used.
    #[error("failed to understand {}: {reason}; it is put aside as {}", path.display(), put_aside(path).display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A ledger is damaged, so it is not known which ids have ended.
    #[error("failed to understand line {line} of {}: it is not an id and a time; no task is taken until the line is repaired or removed", path.display())]
    Ledger {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

/// Where a record is put that cannot be used.
fn put_aside(path: &Path) -> PathBuf {
    path.with_extension(UNUSABLE)
}

/// The ending of a record that cannot be used.
const UNUSABLE: &str = "unusable";

/// One run on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The template, as it was declared.
    pub agent: Name,
    /// The id, as the writer of the task chose it.
    pub id: RunId,
    /// Who wrote the task.
    pub by: String,
    /// When the task was taken.
    pub queued_at: SystemTime,
    /// When the task was written, which is its place in line.
    pub written: SystemTime,
    /// The file in the spool; `None` if there never was one: a schedule or a plan has made the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileId>,
    /// The plan that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// What it can be selected by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its own working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<PathBuf>,
    /// The run whose conversation it continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<String>,
    /// How far it is.
    pub phase: Phase,
}

impl Recorded {
    /// The name of the run.
    pub fn name(&self) -> Name {
        self.agent.of_run(&self.id)
    }

    /// The key of the run.
    pub fn key(&self) -> Key {
        self.name().key()
    }
}

/// How far a run on record is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its harness was never started.
    Waiting,
    /// It has a place. Its harness may have been started.
    Begun {
        /// The boot of the machine in which that was.
        boot: String,
        /// When.
        at: SystemTime,
    },
    /// Nothing of it runs any more.
    Over {
        /// How it ended.
        outcome: Outcome,
        /// When.
        at: SystemTime,
    },
}

/// What earlier daemons have kept.
#[derive(Debug)]
pub struct Reading {
    /// The runs on record.
    pub runs: Vec<Recorded>,
    /// The ids that have ended, and those that count as used.
    pub ledgers: Ledgers,
    /// What could not be read.
    pub problems: Vec<Error>,
}

#[derive(Serialize, Deserialize)]
struct Header<T> {
    version: u32,
    task_bytes: u64,
    run: T,
}

/// Reads everything in this state directory. Blocks.
///
/// No [`Keeper`] may be at work there.
pub fn read_all(state_dir: &Path) -> Reading {
    let folder = state_dir.join(FOLDER);
    let mut reading = Reading { runs: Vec::new(), ledgers: Ledgers::default(), problems: Vec::new() };
    let failed = |source: io::Error| Error::from(PathError::new("read", &folder, source));
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return reading,
        Err(source) => {
            reading.ledgers.set_unreadable();
            reading.problems.push(failed(source));
            return reading;
        }
        Ok(entries) => entries,
    };
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(source) => {
                reading.ledgers.set_unreadable();
                reading.problems.push(failed(source));
                continue;
            }
        };
        let agent = path.file_name().and_then(|name| name.to_str()?.parse::<Key>().ok());
        if let Some(agent) = agent.filter(|agent| !agent.is_run() && path.is_dir()) {
            read_template(&agent, &path, &mut reading);
        }
    }
    reading
}

/// Reads the records and the ledger of a template.
fn read_template(agent: &Key, folder: &Path, reading: &mut Reading) {
    reading.problems.extend(reading.ledgers.read(agent, folder).err());
    let failed = |source: io::Error| Error::from(PathError::new("read", folder, source));
    let entries = match fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(source) => {
            reading.ledgers.set_unknown(agent);
            reading.problems.push(failed(source));
            return;
        }
    };
    for path in entries.iter().map(fs::DirEntry::path) {
        let ending = path.extension().and_then(|ending| ending.to_str());
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let key = stem.and_then(|stem| format!("{agent}+{stem}").parse::<Key>().ok());
        match (ending, key) {
            // The rest of a write that was interrupted.
            (Some("new"), _) => drop(fs::remove_file(&path)),
            (Some(UNUSABLE), Some(key)) => reading.ledgers.set_used(&key),
            (Some("json"), Some(key)) => match read_record(&path, &key) {
                Ok((run, _)) => reading.runs.push(run),
                Err(error) => {
                    if matches!(error, Error::Content { .. }) {
                        let _ = fs::rename(&path, put_aside(&path));
                        reading.ledgers.set_used(&key);
                    } else {
                        reading.ledgers.set_doubtful(&key);
                    }
                    reading.problems.push(error);
                }
            },
            _ => {}
        }
    }
}

/// A record that was opened: what follows is the task, of as many bytes.
struct Opened {
    file: BufReader<File>,
    task_bytes: usize,
}

/// Reads a record up to its task, and checks that it is whole.
fn read_record(path: &Path, key: &Key) -> Result<(Recorded, Opened), Error> {
    let content = |reason: &str| {
        const MOST: usize = 300;
        Error::Content { path: path.to_owned(), reason: printable::escaped(reason).chars().take(MOST).collect() }
    };
    let failed = |source: io::Error| Error::from(PathError::new("read", path, source));
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut file = BufReader::new(file);
    let mut line = Vec::new();
    let header_bytes = file.by_ref().take(LONGEST_HEADER).read_until(b'\n', &mut line).map_err(failed)?;
    // The version first: another version may have another format.
    let header: Header<serde_json::Value> =
        serde_json::from_slice(&line).map_err(|error| content(&error.to_string()))?;
    if header.version != VERSION {
        return Err(content(&format!("it is of version {}, not {VERSION}", header.version)));
    }
    let run: Recorded = serde_json::from_value(header.run).map_err(|error| content(&error.to_string()))?;
    if run.key() != *key {
        return Err(content(&format!("it is that of {}", run.name())));
    }
    let task_bytes = usize::try_from(header.task_bytes).ok().filter(|&bytes| bytes <= LONGEST_TASK);
    match task_bytes {
        Some(task_bytes) if size == header_bytes as u64 + header.task_bytes => Ok((run, Opened { file, task_bytes })),
        _ => Err(content("its task is not whole")),
    }
}

impl Opened {
    /// Reads the task.
    fn task(mut self, path: &Path) -> Result<SecretBytes, Error> {
        let mut text = Zeroizing::new(Vec::with_capacity(self.task_bytes));
        let mut chunk = Zeroizing::new([0; 8192]);
        loop {
            match self.file.read(&mut *chunk) {
                Ok(0) => break,
                Ok(count) => memory::append(&mut text, &chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PathError::new("read", path, error).into()),
            }
        }
        Ok(SecretBytes::from(std::mem::take(&mut *text)))
    }
}

#[cfg(test)]
mod tests;
