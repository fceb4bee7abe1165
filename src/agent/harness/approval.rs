//! How much a harness may do without asking.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a harness may do without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Approval {
    /// Read.
    Readonly,
    /// Read, and change files.
    Edits,
    /// Whatever it wants.
    Everything,
}

impl Approval {
    /// All of them, each of which permits more than the one before.
    pub const ALL: [Self; 3] = [Self::Readonly, Self::Edits, Self::Everything];

    /// As written in a jcard.
    pub fn word(self) -> &'static str {
        match self {
            Self::Readonly => "readonly",
            Self::Edits => "edits",
            Self::Everything => "everything",
        }
    }

    /// The one that is written so.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|approval| approval.word() == word)
    }
}

/// The words for each that a harness knows. There may be none to say, if the harness is always so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Approvals(pub BTreeMap<Approval, Vec<String>>);
