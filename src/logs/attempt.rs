//! The id of an attempt, as in the names of its log files, and those files while it runs.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use crate::agent::name::Name;
use crate::text::size;

pub(super) const TEXT: &str = ".log";

pub(super) const INDEX: &str = ".times";

/// One attempt of which something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptId {
    /// The later, the greater, among those of one agent.
    pub sequence: u64,
    /// As it was counted under the declaration of its time.
    pub attempt: u64,
}

impl AttemptId {
    pub(super) fn file_name(self, ending: &str) -> String {
        format!("{:08}-{}{ending}", self.sequence, self.attempt)
    }

    pub(super) fn parse(name: &str, ending: &str) -> Option<Self> {
        let (sequence, attempt) = name.strip_suffix(ending)?.split_once('-')?;
        let kept = Self { sequence: sequence.parse().ok()?, attempt: attempt.parse().ok()? };
        // Not another way to write the same numbers.
        (kept.file_name(ending) == name).then_some(kept)
    }
}

/// An attempt as people name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By its number under its declaration: of several with that number, the latest.
    Number(u64),
    /// As its files are named, which no other is: by the number of the log and its own.
    Log(AttemptId),
}

/// It names no attempt.
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
    /// For what is printed.
    pub text: OwnedFd,
    /// For when it is.
    pub index: OwnedFd,
    /// Which attempt they are of.
    pub kept: AttemptId,
    /// Whether the beginning of the text can be given back to the system. Where it cannot, a file that is full is begun again.
    pub can_shrink: bool,
}

/// The files that an attempt's launcher writes to, as the daemon has them, wherever they have gone.
#[derive(Debug)]
pub struct Live {
    /// Whose they are.
    pub agent: Name,
    /// Of which attempt.
    pub kept: AttemptId,
    /// What is printed.
    pub text: File,
    /// When it is.
    pub index: File,
}

impl Live {
    /// Of files that were just made.
    pub fn of(agent: Name, files: &Files) -> io::Result<Self> {
        let (text, index) = (files.text.try_clone()?.into(), files.index.try_clone()?.into());
        Ok(Self { agent, kept: files.kept, text, index })
    }

    /// The same again, for the launcher.
    pub fn files(&self) -> io::Result<Files> {
        let (text, index) = (self.text.try_clone()?, self.index.try_clone()?);
        Ok(Files { text: text.into(), index: index.into(), kept: self.kept, can_shrink: true })
    }
}
