//! What should be: each agent that is declared, and what is to be launched, or what is missing for that.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::agent::launch::Launch;
use crate::agent::name::{Key, Name};
use crate::agent::orders::Overrides;
use crate::agent::secrets::Secrets;
use crate::agent::spec::{Kind, Policy};
use crate::wire::reason::Causes;
pub use crate::wire::reason::WaitingFor;

/// Everything that should be, as of one reading of the inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// By [`Name::key`].
    pub agents: BTreeMap<Key, DesiredAgent>,
    /// Whether every agent that is not in `agents` is known to be undeclared; see [`Config::complete`].
    pub complete: bool,
    /// What is wrong with the jcard.
    pub config_error: Option<String>,
    /// When a jcard that differed from the one before was last read.
    pub config_read: Option<SystemTime>,
    /// What is wrong with the secrets.
    pub secrets_error: Option<String>,
    /// What operators want of the agents; `None` if that is not known.
    pub overrides: Option<Arc<Overrides>>,
    /// Where operators say so.
    pub override_dir: Option<PathBuf>,
    /// What is wrong with the overrides.
    pub override_error: Option<String>,
    /// All known secrets, given to an agent or not: an earlier daemon may have given an agent any of them.
    pub secrets: Arc<Secrets>,
}

/// One entry of the jcard, well or badly declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredAgent {
    /// As written.
    pub name: Name,
    /// The harness, if the entry names one.
    pub harness: Option<&'static str>,
    /// The agent, or what is wrong with its entry.
    pub declaration: Result<Declaration, String>,
}

/// How an agent should live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// How it is confined.
    pub kind: Kind,
    /// When it restarts, times out, and is killed.
    pub policy: Policy,
    /// What is launched, or what is missing before it can be.
    pub launch: Result<Arc<Launch>, Missing>,
}

/// What an agent lacks before it can be launched. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub Vec<WaitingFor>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Causes(&self.0).fmt(f)
    }
}
