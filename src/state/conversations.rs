//! The conversations that agents resume after a boot, kept across restarts of the daemon and of the machine.
//!
//! ```text
//! STATE_DIR/conversations/NAME.json
//! ```
//!
//! Only agents that say `resume = "always"` have one. It is written in the background, as the [record](crate::state::record) is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::agent::conversation::Conversation;
use crate::agent::name::Key;
use crate::state::record::Recorder;

/// The folder in the state directory.
pub const FOLDER: &str = "conversations";

/// The conversation of one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The key of the agent.
    agent: Key,
    conversation: Conversation,
}

impl Kept {
    /// The key of the agent.
    pub fn agent(&self) -> &Key {
        &self.agent
    }
}

/// The conversations of all agents, and the recorder that keeps them.
#[derive(Debug)]
pub struct Conversations {
    by_agent: BTreeMap<Key, Kept>,
    recorder: Recorder<Key>,
}

impl Conversations {
    /// Those that were read, to be kept by this recorder.
    pub fn new(read: BTreeMap<Key, Kept>, recorder: Recorder<Key>) -> Self {
        Self { by_agent: read, recorder }
    }

    /// That of an agent.
    pub fn of(&self, key: &Key) -> Option<&Conversation> {
        self.by_agent.get(key).map(|kept| &kept.conversation)
    }

    /// Keeps this one of the agent, or none.
    pub fn keep(&mut self, key: &Key, conversation: Option<Conversation>) {
        if self.of(key) == conversation.as_ref() {
            return;
        }
        if let Some(conversation) = conversation {
            let kept = Kept { agent: key.clone(), conversation };
            self.recorder.put(key, Some(&kept));
            self.by_agent.insert(key.clone(), kept);
        } else {
            self.recorder.put::<Kept>(key, None);
            self.by_agent.remove(key);
        }
    }

    /// Keeps those of these agents only.
    pub fn retain(&mut self, is_wanted: impl Fn(&Key) -> bool) {
        for key in self.by_agent.keys().filter(|key| !is_wanted(key)).cloned().collect::<Vec<_>>() {
            self.keep(&key, None);
        }
    }

    /// Returns once everything is on disk, or after `patience`.
    pub async fn finish(self, patience: std::time::Duration) {
        self.recorder.finish(patience).await;
    }
}
