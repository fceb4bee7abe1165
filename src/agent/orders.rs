//! What operators want of agents beside how they are declared: overrides.
//!
//! An override says whether an agent may run, and which run of it is wanted. It says nothing about what is launched, so it is not
//! part of any fingerprint.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::agent::name::Key;
use crate::agent::spec::Policy;
pub use crate::wire::status::Override;
use crate::wire::status::Time;

/// All overrides that are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Those of single agents.
    pub agents: BTreeMap<Key, Override>,
    /// The one of all agents.
    pub all: Option<Override>,
}

impl Overrides {
    /// What concerns this agent.
    pub fn of(&self, agent: &Key) -> Orders {
        Orders { own: self.agents.get(agent).cloned(), pause: self.pause().cloned() }
    }

    /// The override that lets nothing start, if there is one.
    pub fn pause(&self) -> Option<&Override> {
        self.all.as_ref().filter(|all| all.enabled == Some(false))
    }
}

/// The overrides that concern one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Override>,
    /// The one that lets no agent start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Override>,
}

impl Orders {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an agent of this policy may run. What its override says about that wins.
    pub fn enables(&self, policy: &Policy) -> bool {
        self.own.as_ref().and_then(|own| own.enabled).unwrap_or(policy.enabled)
    }

    /// Which run of an agent of this policy is wanted.
    pub fn generation(&self, policy: &Policy) -> u64 {
        policy.generation.max(self.own_generation())
    }

    fn own_generation(&self) -> u64 {
        self.own.as_ref().and_then(|own| own.generation).unwrap_or_default()
    }

    /// Who forbids an agent of this policy to run; nobody if its entry does.
    pub fn stopped_by(&self) -> Giver {
        Giver::of(self.own.as_ref().filter(|own| own.enabled == Some(false)))
    }

    /// Who asked for this run of the agent; nobody if its entry did.
    pub fn restarted_by(&self, generation: u64) -> Giver {
        Giver::of(self.own.as_ref().filter(|own| own.generation == Some(generation)))
    }

    /// Who enabled the agent; nobody if its entry did.
    pub fn started_by(&self) -> Giver {
        Giver::of(self.own.as_ref())
    }

    /// Whether the stop that these orders ask for kills at once.
    pub fn stops_at_once(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.now && own.enabled == Some(false))
    }

    /// Whether the restart to this generation kills at once.
    pub fn restarts_at_once(&self, generation: u64) -> bool {
        self.own.as_ref().is_some_and(|own| own.now && own.generation == Some(generation))
    }
}

/// Who gave an order, and when. Neither is known if the jcard gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Giver {
    /// The owner of the override.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When the override was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

impl Giver {
    fn of(order: Option<&Override>) -> Self {
        order.map_or_else(Self::default, |order| Self { by: order.by.clone(), at: order.at })
    }
}
