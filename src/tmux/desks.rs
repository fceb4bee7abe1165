//! Desks: what acts with the rights of one user that agents run as.
//!
//! Whatever one user's agents could break into, such as a deputy that renders their logs, must not have another user's rights. So each
//! of these users has a desk, and an agent is only ever served at its own user's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Tmux;
use crate::agent::user::AgentUser;
use crate::deputy::Deputy;
use crate::deputy::renderer::Renderers;

/// The desk of one user. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desk {
    /// The user's deputy.
    pub deputy: Deputy,
    /// The user's tmux server.
    pub tmux: Tmux,
    /// What renders the logs of the user's agents.
    pub renderers: Renderers,
}

/// The desks of all users. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Desks {
    default: Desk,
    others: Arc<Mutex<BTreeMap<AgentUser, Desk>>>,
}

impl Desks {
    /// The desk of the default user alone.
    pub fn new(default: Desk) -> Self {
        Self { default, others: Arc::default() }
    }

    /// Adds the desk of another user.
    pub fn add(&self, user: AgentUser, desk: Desk) {
        self.lock().insert(user, desk);
    }

    /// The desk of this user, once there is one; `None` is the default user, whose desk there always is.
    pub fn of(&self, user: Option<&AgentUser>) -> Option<Desk> {
        match user {
            None => Some(self.default.clone()),
            Some(user) => self.lock().get(user).cloned(),
        }
    }

    /// The users who have desks, beside the default one.
    pub fn users(&self) -> Vec<AgentUser> {
        self.lock().keys().cloned().collect()
    }

    /// All desks.
    pub fn all(&self) -> Vec<Desk> {
        std::iter::once(&self.default).chain(self.lock().values()).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentUser, Desk>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
