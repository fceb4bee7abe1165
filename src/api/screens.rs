//! Captures agents' screens, one capture at a time for each agent, and only while a client watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::single_flight::SingleFlight;
use crate::agent::name::Key;
use crate::observe::snapshot::Snapshot;
use crate::text::screen;
use crate::tmux::Tmux;

/// A screen as tmux printed it, or why it could not be captured.
type Captured = Result<Arc<str>, String>;

/// Captures each screen once at a time, however many clients watch it.
#[derive(Debug)]
pub(super) struct Screens {
    tmux: Option<Tmux>,
    /// The captures under way, by agent.
    watched: Mutex<HashMap<Key, Arc<SingleFlight<Captured>>>>,
}

impl Screens {
    /// Without tmux there are no screens.
    pub(super) fn new(tmux: Option<Tmux>) -> Self {
        Self { tmux, watched: Mutex::default() }
    }

    /// What an agent's screen shows now, with secrets redacted, or an error message.
    pub(super) async fn look(&self, agent: &Key, colours: bool, snapshot: &Snapshot) -> Result<String, String> {
        let Some(tmux) = &self.tmux else { return Err("there is no tmux to ask".to_owned()) };
        if let Some(agent) = snapshot.agent(agent).filter(|agent| agent.session.is_empty()) {
            let why = agent.reason.as_deref().unwrap_or("it is not known why");
            return Err(format!("{} has no session: {why}", agent.name));
        }
        let redactor = snapshot.redactor(agent).await.map_err(|unknown| unknown.to_string())?;
        let latest = self.watch(agent);
        let captured = latest.read(async {
            let captured = tmux.screen(agent).await;
            captured.map(Arc::from).map_err(|error| error.to_string())
        });
        let captured = captured.await;
        drop(latest);
        self.forget();
        Ok(screen::shown(&captured?, &redactor, colours))
    }

    fn watch(&self, agent: &Key) -> Arc<SingleFlight<Captured>> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(watched.entry(agent.clone()).or_default())
    }

    /// Drops captures that no client waits for.
    fn forget(&self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|_, latest| Arc::strong_count(latest) > 1);
    }
}
