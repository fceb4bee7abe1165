//! The id of an attempt, as in the names of its log files, and those files while the attempt runs.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use crate::agent::name::Name;
use crate::text::size;

pub(super) const TEXT: &str = ".log";

pub(super) const INDEX: &str = ".times";

/// The id of an attempt that has a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptId {
    /// Grows with each attempt of an agent.
    pub sequence: u64,
    /// The attempt's number over the agent's whole life. Builds before counted those of the declaration alone.
    pub attempt: u64,
}

impl AttemptId {
    pub(super) fn file_name(self, ending: &str) -> String {
        format!("{:08}-{}{ending}", self.sequence, self.attempt)
    }

    pub(super) fn parse(name: &str, ending: &str) -> Option<Self> {
        let (sequence, attempt) = name.strip_suffix(ending)?.split_once('-')?;
        let kept = Self { sequence: sequence.parse().ok()?, attempt: attempt.parse().ok()? };
        // Rejects other spellings of the same numbers.
        (kept.file_name(ending) == name).then_some(kept)
    }
}

/// An attempt as a user names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By its number over the agent's whole life; if several have that number, the latest.
    Number(u64),
    /// By the unique name of its files: the number of the log and that of the attempt.
    Log(AttemptId),
}

/// The text does not name an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write the number of an attempt, such as 2, or 7-2 for attempt 2 in the log with the number 7")]
pub struct NoAttempt;

impl FromStr for Named {
    type Err = NoAttempt;

    fn from_str(text: &str) -> Result<Self, NoAttempt> {
        let number = |text: &str| size::count(text).map_err(|_| NoAttempt);
        match text.split_once('-').filter(|(sequence, _)| !sequence.is_empty()) {
            Some((sequence, attempt)) => {
                Ok(Self::Log(AttemptId { sequence: number(sequence)?, attempt: number(attempt)? }))
            }
            None => number(text).map(Self::Number),
        }
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.sequence, self.attempt)
    }
}

impl fmt::Display for Named {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(formatter),
            Self::Log(kept) => kept.fmt(formatter),
        }
    }
}

/// The two files of an attempt, for its [`Writer`](super::writer::Writer).
#[derive(Debug)]
pub struct Files {
    /// Holds what is printed.
    pub text: OwnedFd,
    /// Holds when it is printed.
    pub index: OwnedFd,
    /// Which attempt the files belong to.
    pub kept: AttemptId,
    /// Whether the file system can free the beginning of the text. If it cannot, a file that is full is emptied and started
    /// again.
    pub can_shrink: bool,
}

/// The daemon's descriptors of the files that an attempt's launcher writes to, wherever the files have been moved.
#[derive(Debug)]
pub struct Live {
    /// Which agent the files belong to.
    pub agent: Name,
    /// Which attempt the files belong to.
    pub kept: AttemptId,
    /// Holds what is printed.
    pub text: File,
    /// Holds when it is printed.
    pub index: File,
}

impl Live {
    /// Duplicates the descriptors of files that were just created.
    pub fn of(agent: Name, files: &Files) -> io::Result<Self> {
        let (text, index) = (files.text.try_clone()?.into(), files.index.try_clone()?.into());
        Ok(Self { agent, kept: files.kept, text, index })
    }

    /// Duplicates the descriptors for the launcher.
    pub fn files(&self) -> io::Result<Files> {
        let (text, index) = (self.text.try_clone()?, self.index.try_clone()?);
        Ok(Files { text: text.into(), index: index.into(), kept: self.kept, can_shrink: true })
    }
}
