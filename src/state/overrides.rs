//! The overrides that were in force, for a daemon that cannot read their folder.
//!
//! They stay valid after a boot: what an operator has stopped stays stopped.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sys::PathError;
use crate::sys::atomic_file::{self, Durability};
use crate::sys::file_id::FileId;
use crate::wire::status::Override;

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

/// What was in force, and where it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The folder that held them.
    pub folder: Option<FileId>,
    /// By the name of the file without its ending, in lower case.
    pub in_force: BTreeMap<String, Override>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    overrides: Kept,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("overrides.json")
}

/// Reads what was kept; `None` if nothing ever was. Blocks.
pub fn read(state_dir: &Path) -> Result<Option<Kept>, Error> {
    let path = path(state_dir);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(PathError::of("read", &path))?,
    };
    let content = |reason: String| Error::Content { path: path.clone(), reason };
    let document: Document = serde_json::from_slice(&text).map_err(|error| content(error.to_string()))?;
    if document.version != VERSION {
        return Err(content(format!("it is of version {}, not {VERSION}", document.version)));
    }
    Ok(Some(document.overrides))
}

/// Keeps this instead of what was kept before. Blocks.
pub fn write(state_dir: &Path, kept: &Kept) -> Result<(), Error> {
    let path = path(state_dir);
    let document = Document { version: VERSION, overrides: kept.clone() };
    let text = serde_json::to_vec(&document)
        .map_err(|error| Error::Content { path: path.clone(), reason: error.to_string() })?;
    atomic_file::write(&path, &text, Durability::Now).map_err(PathError::of("write", &path))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_was_kept_is_read_again() {
        let folder = TempDir::new().unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        let own = Override { enabled: Some(false), generation: Some(3), now: true, by: Some("op".into()), at: None };
        let kept = Kept { folder: Some(FileId::new(1, 2)), in_force: [("a".to_owned(), own)].into() };
        write(folder.path(), &kept).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some(kept));
    }

    #[test]
    fn what_is_damaged_or_of_another_version_is_an_error() {
        let folder = TempDir::new().unwrap();
        for (text, expected) in
            [("{", "EOF"), (r#"{"version":2,"overrides":{"folder":null,"in_force":{}}}"#, "version 2")]
        {
            fs::write(path(folder.path()), text).unwrap();
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
