//! Which times of schedules are dealt with, for the next daemon: no time makes two runs.
//!
//! What is recorded here is recorded before the run is made. So a crash in between loses a run rather than makes it twice.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::agent::name::Key;
use crate::agent::schedule::State;
use crate::sys::PathError;
use crate::sys::atomic_file::{self, Durability};

/// The version of the file format.
const VERSION: u32 = 1;

/// Why they could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error(transparent)]
    System(#[from] PathError),
    /// The content of the file cannot be used.
    #[error("failed to understand {}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

/// The state of each schedule, by the key of its agent.
pub type Schedules = BTreeMap<Key, State>;

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    schedules: Schedules,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("schedules.json")
}

/// Reads what was recorded; nothing if nothing ever was. Blocks.
///
/// # Errors
///
/// What was recorded is not known. It is not to be taken for nothing: all schedules would count from now on.
pub fn read(state_dir: &Path) -> Result<Schedules, Error> {
    let path = path(state_dir);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Schedules::new()),
        text => text.map_err(PathError::of("read", &path))?,
    };
    let content = |reason: String| Error::Content { path: path.clone(), reason };
    let document: Document = serde_json::from_slice(&text).map_err(|error| content(error.to_string()))?;
    if document.version != VERSION {
        return Err(content(format!("it is of version {}, not {VERSION}", document.version)));
    }
    Ok(document.schedules)
}

/// Records this instead of what was recorded before, so that it survives a crash of the machine. Blocks.
///
/// # Errors
///
/// It is not recorded, and no run may be made of it.
pub fn write(state_dir: &Path, schedules: &Schedules) -> Result<(), Error> {
    let path = path(state_dir);
    let document = Document { version: VERSION, schedules: schedules.clone() };
    let text = serde_json::to_vec(&document)
        .map_err(|error| Error::Content { path: path.clone(), reason: error.to_string() })?;
    atomic_file::write(&path, &text, Durability::Now).map_err(PathError::of("write", &path))?;
    // The name of the new file is in the folder.
    fs::File::open(state_dir).and_then(|folder| folder.sync_all()).map_err(PathError::of("sync", state_dir))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::agent::name::key;

    #[test]
    fn what_was_recorded_is_read_again() {
        let folder = TempDir::new().unwrap();
        assert_eq!(read(folder.path()).unwrap(), Schedules::new());
        let state = State { identity: "Europe/Berlin; every 30s".to_owned(), settled: 1_796_078_160 };
        let schedules: Schedules = [(key("fixer"), state)].into();
        write(folder.path(), &schedules).unwrap();
        assert_eq!(read(folder.path()).unwrap(), schedules);
    }

    #[test]
    fn what_is_damaged_or_of_another_version_is_an_error() {
        let folder = TempDir::new().unwrap();
        for (text, expected) in [
            ("{", "EOF"),
            (r#"{"version":2,"schedules":{}}"#, "version 2"),
            (r#"{"version":1,"schedules":{"a b":{"identity":"","settled":0}}}"#, "a name has"),
        ] {
            fs::write(path(folder.path()), text).unwrap();
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
