//! What the agent user sees at the paths that declarations name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sys::secret_bytes::SecretBytes;
pub use crate::wire::reason::Problem;

/// What the agent user sees at the paths that declarations name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Prompt files.
    pub prompts: BTreeMap<PathBuf, SeenPrompt>,
    /// Working directories.
    pub workdirs: BTreeMap<PathBuf, SeenWorkdir>,
    /// Where harnesses keep what logs them in: a number that changes when any of it does.
    pub logins: BTreeMap<PathBuf, u64>,
    /// Paths that could not be looked at this time, and why. What was seen there before, if anything, is in the maps above.
    pub unreachable: BTreeMap<PathBuf, String>,
}

impl Seen {
    /// What is wrong with a path at which nothing was ever seen.
    pub fn unseen(&self, path: &Path) -> Problem {
        match self.unreachable.get(path) {
            Some(reason) => Problem::Unchecked { detail: reason.clone() },
            None => Problem::Absent {},
        }
    }
}

/// What is at the path of a prompt file, as far as the agent user can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeenPrompt {
    /// A file with this text, trimmed.
    Text(SecretBytes),
    /// Nothing that can be a prompt, and why.
    Unusable(Problem),
    /// Text that no argument can hold; the reason, for a person.
    Refused(String),
}

/// What git of the agent user has to do with the repository around a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeenRepository {
    /// There is none, or git works in it.
    Usable,
    /// Git refuses to work in it unless it is told to trust it, for this reason.
    Distrusted(String),
}

/// What is at the path of a working directory, as far as the agent user can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeenWorkdir {
    /// A directory that the agent user may enter.
    Usable,
    /// Nothing that can be a working directory, and why.
    Unusable(Problem),
}
