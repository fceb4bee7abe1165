//! Holds: why agents that share a credential are not started.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::status::Time;

/// Why an agent is not started until a credential works again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hold {
    /// What is wrong with the credential.
    pub kind: HoldKind,
    /// Since when.
    pub since: Time,
    /// When it ends by itself, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// What the harness said.
    pub evidence: String,
    /// The credential, by the name of its group. Agents of one group are held together.
    pub group: String,
}

/// What is wrong with a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HoldKind {
    /// It is not accepted.
    Login,
    /// Its quota is used up.
    Quota,
}

impl fmt::Display for HoldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Login => "login",
            Self::Quota => "quota",
        })
    }
}
