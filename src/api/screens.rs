//! Captures agents' screens, one capture at a time for each agent, and only while a client watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::single_flight::SingleFlight;
use crate::agent::name::Key;
use crate::observe::snapshot::Snapshot;
use crate::text::screen;
use crate::tmux::desks::Desks;

/// A screen as tmux printed it, or why it could not be captured.
type Captured = Result<Arc<str>, String>;

/// Captures each screen once at a time, however many clients watch it.
#[derive(Debug)]
pub(super) struct Screens {
    desks: Option<Desks>,
    /// The captures under way, by agent.
    watched: Mutex<HashMap<Key, Arc<SingleFlight<Captured>>>>,
}

impl Screens {
    /// Without tmux there are no screens.
    pub(super) fn new(desks: Option<Desks>) -> Self {
        Self { desks, watched: Mutex::default() }
    }

    /// What an agent's screen shows now, with secrets redacted, or an error message. `latest` is the latest snapshot.
    pub(super) async fn look(
        &self,
        agent: &Key,
        colors: bool,
        latest: impl Fn() -> Arc<Snapshot>,
    ) -> Result<String, String> {
        let Some(desks) = &self.desks else { return Err("there is no tmux to ask".to_owned()) };
        let snapshot = latest();
        let desk = desks.of(snapshot.user_of(agent)).ok_or("its user has no tmux server yet")?;
        if let Some(agent) = snapshot.agent(agent).filter(|agent| agent.session.is_empty()) {
            let why = agent.reason.as_deref().unwrap_or("it is not known why");
            return Err(format!("{} has no session: {why}", agent.name));
        }
        redacted(agent, colors, latest, async {
            let watched = self.watch(agent);
            let captured = watched.read(async {
                let captured = desk.tmux.screen(agent).await;
                captured.map(Arc::from).map_err(|error| error.to_string())
            });
            let captured = captured.await;
            drop(watched);
            self.forget();
            captured
        })
        .await
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

/// What is captured, without the secrets that the agent has before the capture, and without those that it has after it: it may be
/// launched anew meanwhile, with other ones.
async fn redacted(
    agent: &Key,
    colors: bool,
    latest: impl Fn() -> Arc<Snapshot>,
    capture: impl Future<Output = Captured>,
) -> Result<String, String> {
    let redactor = async || latest().redactor(agent).await.map_err(|unknown| unknown.to_string());
    let before = redactor().await?;
    let captured = capture.await?;
    let after = redactor().await?;
    let both = [&*before, &*after];
    let redactors = if Arc::ptr_eq(&before, &after) { &both[..1] } else { &both[..] };
    Ok(screen::shown_without(&captured, redactors, colors))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::agent::name::key;
    use crate::observe::redactions::{AgentRedactor, Redactions};
    use crate::observe::snapshot::Parts;
    use crate::text::redact::Redactor;
    use crate::wire::status::Errors;

    fn snapshot(secret: &str) -> Arc<Snapshot> {
        let redactor = Arc::new(Redactor::new([secret.into()]));
        let agents = [(key("a"), AgentRedactor { redactor, is_all: true })].into();
        let redactions = Arc::new(Redactions::new(agents, None));
        Arc::new(Parts { redactions, ..Parts::new(Vec::new(), Instant::now(), Errors::default()) }.into())
    }

    #[tokio::test]
    async fn a_secret_that_is_rotated_during_a_capture_is_redacted() {
        let present = Mutex::new(snapshot("the old one"));
        let capture = async {
            *present.lock().unwrap() = snapshot("another one");
            Ok(Arc::from("the old one, another one, no one\n"))
        };
        let shown = redacted(&key("a"), false, || Arc::clone(&present.lock().unwrap()), capture).await;
        assert_eq!(shown.as_deref(), Ok("*** *** ***, ******* ***, no one\n"));
    }
}
