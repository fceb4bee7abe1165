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

/// The credential of a group, and what is known of its hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupHold {
    /// The hold.
    #[serde(flatten)]
    pub hold: Hold,
    /// The agents that it keeps from starting.
    pub agents: Vec<String>,
    /// When one agent of the group tries again, if nothing happens before.
    pub next_try_at: Time,
}

/// What a person can do so that agents of this group, whose login does not work, start again.
pub fn remedy(group: &str) -> String {
    match (group.split_once('@'), group.rsplit_once('-')) {
        (Some((harness, user)), _) => format!("log in to {harness} as user {user}, or run agentd release {group}"),
        (None, Some((variable, _))) => format!("replace {variable}, or run agentd release {group}"),
        (None, None) => format!("run agentd release {group}"),
    }
}
