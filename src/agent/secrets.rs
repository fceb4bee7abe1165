//! The values of the secrets, as last read.

use std::collections::BTreeMap;

use crate::sys::secret_bytes::SecretBytes;

/// The secrets as last read; at first none, of which nothing is known. `Debug` shows names and lengths only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    /// By name.
    pub values: BTreeMap<String, SecretBytes>,
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

    /// For tests of other rooms.
    #[cfg(test)]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let values = pairs.iter().map(|&(name, value)| (name.to_owned(), SecretBytes::from(value))).collect();
        Self { values, is_complete: true }
    }
}
