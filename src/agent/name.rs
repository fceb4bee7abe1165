//! Names of agents and sessions.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The text is not a valid name of an agent or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a name has 1 to 64 characters, of A-Z, a-z, 0-9, _ and -")]
pub struct InvalidName;

/// The name of an agent or of a tmux session: 1 to 64 bytes of `[A-Za-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl Name {
    /// The most bytes that a name may have.
    pub const MAX_LENGTH: usize = 64;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What names the agent within the daemon: names that differ only in case are one.
    pub fn key(&self) -> Key {
        Key::of(&self.0)
    }

    fn check(text: &str) -> Result<(), InvalidName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let is_name = (1..=Self::MAX_LENGTH).contains(&text.len()) && text.bytes().all(is_allowed);
        if is_name { Ok(()) } else { Err(InvalidName) }
    }
}

impl TryFrom<&str> for Name {
    type Error = InvalidName;

    fn try_from(text: &str) -> Result<Self, InvalidName> {
        Self::check(text).map(|()| Self(text.to_owned()))
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::try_from(text.as_str())
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::try_from(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name without regard to case: what tells one agent from another. Comes only from a [`Name`], or from a text that is one. Cheap to
/// clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Key(Arc<str>);

impl Key {
    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The agent's name, as far as its key tells it.
    pub fn to_name(&self) -> Name {
        Name(self.0.as_ref().to_owned())
    }

    fn of(name: &str) -> Self {
        let mut key = Arc::from(name);
        // Nobody else has it yet.
        if let Some(key) = Arc::get_mut(&mut key) {
            str::make_ascii_lowercase(key);
        }
        Self(key)
    }
}

impl TryFrom<String> for Key {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl FromStr for Key {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Name::check(text).map(|()| Self::of(text))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// For tests: the key of this name.
#[cfg(test)]
pub(crate) fn key(name: &str) -> Key {
    name.parse().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_case_have_one_key() {
        assert_eq!(Name::try_from("My-Agent_1").unwrap().key(), key("mY-aGENT_1"));
        assert_eq!(key("My-Agent_1").as_str(), "my-agent_1");
    }

    #[test]
    fn a_text_that_is_not_a_name_has_no_key() {
        // The second one is a Kelvin sign, whose lower case is an ASCII `k`.
        for text in ["", "\u{212a}", "a b", "../a", "a.json", &"x".repeat(65)] {
            assert_eq!(text.parse::<Key>(), Err(InvalidName), "{text:?}");
        }
    }
}
