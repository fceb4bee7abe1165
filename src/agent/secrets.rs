//! The values of the secrets, as last read.

use std::collections::BTreeMap;

use crate::sys::exec::is_variable_name;
use crate::sys::secret_bytes::SecretBytes;

/// The longest name of a file, in bytes (`NAME_MAX`).
const LONGEST: usize = 255;

/// Whether a file of this name can be a secret: one that is hidden is not, nor what an editor or an update leaves behind with a `~`.
pub fn is_secret_file(name: &str) -> bool {
    name.len() <= LONGEST
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._@+-".contains(c))
}

/// The secrets as last read; at first none, of which nothing is known. `Debug` shows names and lengths only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    /// By name.
    pub values: BTreeMap<String, SecretBytes>,
    /// The files beside them that no entry names now. Nobody is given these, but an agent that runs may have been: an earlier entry
    /// could name them, or one that cannot be read.
    pub unnamed: BTreeMap<String, SecretBytes>,
    /// Whether none is missing because it could not be read: one reading succeeded for the whole directory.
    pub is_complete: bool,
}

impl Secrets {
    /// The value of one.
    pub fn get(&self, name: &str) -> Option<&SecretBytes> {
        self.values.get(name)
    }

    /// All of them, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &SecretBytes)> {
        self.values.iter()
    }

    /// What must not be shown: the values of all of them, and of the files that no entry names.
    pub fn to_redact(&self) -> impl Iterator<Item = &SecretBytes> {
        self.values.values().chain(self.unnamed.values())
    }

    /// Those that are variables by their names: what an agent is given whose entry names no secrets.
    pub fn variables(&self) -> impl Iterator<Item = (&String, &SecretBytes)> {
        self.values.iter().filter(|(name, _)| is_variable_name(name))
    }

    /// For tests of other rooms.
    #[cfg(test)]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let values = pairs.iter().map(|&(name, value)| (name.to_owned(), SecretBytes::from(value))).collect();
        Self { values, unnamed: BTreeMap::new(), is_complete: true }
    }
}
