//! Users: whom an agent runs as.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The text cannot be a user's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a user's name has 1 to 32 characters, of A-Z, a-z, 0-9, _, . and -; it does not begin with . or -, and is no number"
)]
pub struct InvalidUserName;

/// The name of a user: part of paths and of names of units.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct UserName(String);

impl UserName {
    /// The most bytes that a name may have (`useradd(8)`).
    const MAX_LENGTH: usize = 32;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = InvalidUserName;

    fn from_str(text: &str) -> Result<Self, InvalidUserName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let is_name = (1..=Self::MAX_LENGTH).contains(&text.len())
            && text.bytes().all(is_allowed)
            && !text.starts_with(['.', '-'])
            && !text.bytes().all(|byte| byte.is_ascii_digit());
        if is_name { Ok(Self(text.to_owned())) } else { Err(InvalidUserName) }
    }
}

impl TryFrom<String> for UserName {
    type Error = InvalidUserName;

    fn try_from(text: String) -> Result<Self, InvalidUserName> {
        text.parse()
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user other than the default one, whom agents run as.
///
/// A user who was deleted and created again with another id is another user: what the first one left belongs to nobody else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AgentUser {
    /// The name.
    pub name: UserName,
    /// The user id.
    pub uid: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_name_is_a_safe_part_of_a_path() {
        for name in ["agent2", "_a", "a.b-c_D", "a1", &"x".repeat(32)] {
            assert_eq!(name.parse::<UserName>().unwrap().as_str(), name);
        }
        for text in ["", ".", "..", ".a", "-a", "a/b", "a b", "a\n", "0", "1000", "ä", "a@b", "a:b", &"x".repeat(33)] {
            assert_eq!(text.parse::<UserName>(), Err(InvalidUserName), "{text:?}");
        }
    }

    #[test]
    fn a_damaged_record_names_no_user_outside() {
        assert!(serde_json::from_str::<AgentUser>(r#"{"name":"../agent","uid":1}"#).is_err());
        assert!(serde_json::from_str::<AgentUser>(r#"{"name":"agent2","uid":1}"#).is_ok());
    }
}
