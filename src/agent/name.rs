//! Names of agents, runs and sessions.
//!
//! A run is one bounded life of a template agent: run `t1` of `fixer` is `fixer/t1` for people. Its session, control group and files are
//! named `fixer+t1`; no declared agent and no session of one has a `+` in its name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The text is not a valid name of an agent or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a name has 1 to 64 characters, of A-Z, a-z, 0-9, _ and -")]
pub struct InvalidName;

/// The text is not a valid id of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the id of a run has 1 to 40 characters, of A-Z, a-z, 0-9, _ and -")]
pub struct InvalidRunId;

/// What is between the names of agent and run in what is named after both.
const BETWEEN: char = '+';

/// The id of a run among those of its agent: 1 to 40 bytes of `[A-Za-z0-9_-]`. Ids that differ only in case are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// The most bytes that an id may have.
    pub const MAX_LENGTH: usize = 40;

    /// The text, as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text in lower case: what tells one id from another.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }

    fn check(text: &str) -> Result<(), InvalidRunId> {
        let is_id = (1..=Self::MAX_LENGTH).contains(&text.len()) && text.bytes().all(is_of_name);
        if is_id { Ok(()) } else { Err(InvalidRunId) }
    }
}

impl FromStr for RunId {
    type Err = InvalidRunId;

    fn from_str(text: &str) -> Result<Self, InvalidRunId> {
        Self::check(text).map(|()| Self(text.to_owned()))
    }
}

impl TryFrom<String> for RunId {
    type Error = InvalidRunId;

    fn try_from(text: String) -> Result<Self, InvalidRunId> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// The name of an agent, of a tmux session, or of a run.
///
/// That of an agent has 1 to 64 bytes of `[A-Za-z0-9_-]`, and only such a name can be parsed. That of a run comes from
/// [`Name::of_run`], or from a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Recorded")]
pub struct Name(String);

/// The text of a name as a record has it.
#[derive(Deserialize)]
struct Recorded(String);

impl TryFrom<Recorded> for Name {
    type Error = InvalidName;

    fn try_from(Recorded(text): Recorded) -> Result<Self, InvalidName> {
        check_any(&text).map(|()| Self(text))
    }
}

/// Whether the text can name an agent or a run.
fn check_any(text: &str) -> Result<(), InvalidName> {
    match text.split_once(BETWEEN) {
        None => Name::check(text),
        Some((agent, id)) => Name::check(agent).and(RunId::check(id).map_err(|InvalidRunId| InvalidName)),
    }
}

impl Name {
    /// The most bytes that a name may have.
    pub const MAX_LENGTH: usize = 64;

    /// The name of a run of this agent.
    #[must_use]
    pub fn of_run(&self, id: &RunId) -> Self {
        Self(format!("{}{BETWEEN}{id}", self.0))
    }

    /// Reads the name of an agent, or that of a run as people write it: `AGENT/ID`; also as files have it: `AGENT+ID`.
    pub fn parse_any(text: &str) -> Result<Self, InvalidName> {
        match text.split_once(['/', BETWEEN]) {
            None => text.parse(),
            Some((agent, id)) => {
                let id: RunId = id.parse().map_err(|InvalidRunId| InvalidName)?;
                Ok(Self::try_from(agent)?.of_run(&id))
            }
        }
    }

    /// The text as files, sessions and control groups have it. For people, a name [displays](fmt::Display) itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What names the agent within the daemon: names that differ only in case are one.
    pub fn key(&self) -> Key {
        Key::of(&self.0)
    }

    fn check(text: &str) -> Result<(), InvalidName> {
        let is_name = (1..=Self::MAX_LENGTH).contains(&text.len()) && text.bytes().all(is_of_name);
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
    /// As people write it: a run is `AGENT/ID`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once(BETWEEN) {
            Some((agent, id)) => write!(f, "{agent}/{id}"),
            None => f.write_str(&self.0),
        }
    }
}

/// A name without regard to case: what tells one agent or run from another. Comes only from a [`Name`], or from a text that is one.
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Key(Arc<str>);

impl Key {
    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of the agent, and the id in lower case, if it is that of a run.
    pub fn run(&self) -> Option<(Self, &str)> {
        let (agent, id) = self.0.split_once(BETWEEN)?;
        Some((Self(agent.into()), id))
    }

    /// The key under which the agent is declared: of a run, that of its template.
    #[must_use]
    pub fn declared(&self) -> Self {
        self.run().map_or_else(|| self.clone(), |(agent, _)| agent)
    }

    /// Whether it is that of a run.
    pub fn is_run(&self) -> bool {
        self.0.contains(BETWEEN)
    }

    /// The name, as far as its key tells it.
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
        check_any(text).map(|()| Self::of(text))
    }
}

impl fmt::Display for Key {
    /// As files have it.
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
        let long = format!("a+{}", "x".repeat(41));
        for text in ["", "\u{212a}", "a b", "../a", "a.json", &"x".repeat(65), "a+", "+a", "a+b+c", "a+b/c", &long] {
            assert_eq!(text.parse::<Key>(), Err(InvalidName), "{text:?}");
        }
    }

    #[test]
    fn a_run_is_named_after_its_agent_and_its_id() {
        let name = Name::try_from("Fixer").unwrap().of_run(&"T-1".parse().unwrap());
        assert_eq!((name.as_str(), name.to_string().as_str()), ("Fixer+T-1", "Fixer/T-1"));
        assert_eq!(name.key(), key("fixer+t-1"));
        assert_eq!(name.key().run(), Some((key("fixer"), "t-1")));
        assert_eq!((key("fixer").declared(), name.key().declared()), (key("fixer"), key("fixer")));
        assert_eq!((key("fixer").run(), key("fixer").is_run(), name.key().is_run()), (None, false, true));
    }

    #[test]
    fn no_name_of_a_run_can_be_declared() {
        assert_eq!("a+b".parse::<Name>(), Err(InvalidName));
        assert_eq!("a/b".parse::<Key>(), Err(InvalidName));
        let recorded = |text: &str| serde_json::from_value::<Name>(text.into());
        assert_eq!(recorded("a+b").unwrap().to_string(), "a/b");
        assert!(recorded("a+b+c").is_err());
    }

    #[test]
    fn people_write_a_slash_between_agent_and_id() {
        for (text, expected) in [("a", Some("a")), ("A/b", Some("A/b")), ("a+B", Some("a/B"))] {
            assert_eq!(Name::parse_any(text).ok().map(|name| name.to_string()).as_deref(), expected, "{text}");
        }
        for text in ["", "/", "a/", "/b", "a/b/c", "a/b+c", "a b/c"] {
            assert_eq!(Name::parse_any(text), Err(InvalidName), "{text}");
        }
    }
}
