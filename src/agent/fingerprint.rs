//! Fingerprints: whether an agent runs what it is declared to run, asked by a daemon that did not start it.
//!
//! A fingerprint is a keyed hash (HMAC-SHA-256) of everything that is launched, secrets too. The key is random and lies in the
//! state directory for root alone, so that nobody can try out guesses at a secret against a fingerprint.

use serde::{Deserialize, Serialize};

/// The version of what goes into a fingerprint, and in which order. Fingerprints of different versions or keys cannot be compared.
pub const VERSION: u32 = 1;

/// A fingerprint of what was launched: what it can be compared with, a hash of everything but the environment, and a hash of the
/// environment, separated by colons.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(pub(crate) String);

impl Fingerprint {
    /// Whether this is known to be the fingerprint of something else than `other`. What cannot be compared is not known to differ.
    pub fn differs_from(&self, other: &Self) -> bool {
        self.differs_in_command_from(other) || self.differs(other, |parts| parts.2)
    }

    /// Whether both have the same version and key.
    pub fn is_comparable_with(&self, other: &Self) -> bool {
        self.parts().zip(other.parts()).is_some_and(|(mine, others)| mine.0 == others.0)
    }

    /// The same as [`differs_from`](Self::differs_from), whatever the environment.
    pub fn differs_in_command_from(&self, other: &Self) -> bool {
        self.differs(other, |parts| parts.1)
    }

    /// For people, who compare it with another of the same machine.
    pub fn short(&self) -> String {
        const DIGITS: usize = 8;
        let part = |hash: &str| hash.chars().take(DIGITS).collect::<String>();
        self.parts().map_or_else(String::new, |(_, command, environment)| {
            [command, environment].map(part).join("-").trim_matches('-').to_owned()
        })
    }

    fn differs<'a>(&'a self, other: &'a Self, part: impl Fn(&(&'a str, &'a str, &'a str)) -> &'a str) -> bool {
        let parts = self.parts().zip(other.parts());
        self.is_comparable_with(other) && parts.is_some_and(|(mine, others)| part(&mine) != part(&others))
    }

    fn parts(&self) -> Option<(&str, &str, &str)> {
        let (kind, hashes) = self.0.split_once(':')?;
        let (command, environment) = hashes.split_once(':')?;
        Some((kind, command, environment))
    }

    /// For tests of other rooms: one that cannot be compared with others.
    #[cfg(test)]
    pub fn of_another_key(word: &str) -> Self {
        Self(format!("another:{word}:"))
    }

    /// For tests of other rooms: that of something that is told by a word.
    #[cfg(test)]
    pub fn of(word: &str) -> Self {
        Self(format!("{VERSION}:{word}:"))
    }
}
