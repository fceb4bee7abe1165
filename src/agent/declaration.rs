//! What should be: each agent that is declared, and what is to be launched, or what is missing for that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::agent::launch::Launch;
use crate::agent::name::{Key, Name};
use crate::agent::secrets::Secrets;
use crate::agent::spec::Policy;

/// Everything that should be, at one reading of the inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// By [`Name::key`].
    pub agents: BTreeMap<Key, DesiredAgent>,
    /// Whether every agent that is not in `agents` is known to be undeclared; see [`Config::complete`].
    pub complete: bool,
    /// What is wrong with the jcard.
    pub config_error: Option<String>,
    /// When the jcard was last read that differed from the one before.
    pub config_read: Option<SystemTime>,
    /// What is wrong with the secrets.
    pub secrets_error: Option<String>,
    /// All that are known, given to an agent or not: an earlier daemon may have given any of them.
    pub secrets: Arc<Secrets>,
}

/// One entry of the jcard, well or badly declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredAgent {
    /// As written.
    pub name: Name,
    /// The harness, when the entry tells.
    pub harness: Option<&'static str>,
    /// The agent, or what is wrong with its entry.
    pub declaration: Result<Declaration, String>,
}

/// How an agent should live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// How it is confined, in the API's words.
    pub kind: &'static str,
    /// When it is restarted, timed out, killed.
    pub policy: Policy,
    /// What is launched, or what is missing before it can be.
    pub launch: Result<Arc<Launch>, Missing>,
}

/// What an agent waits for, in a person's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Missing(pub String);
