//! The redactors of agents, ready when something of an agent is to be shown.
//!
//! Preparing one takes time and memory, both many times the size of the secrets, of which there may be 8 MiB. Each is therefore
//! prepared once, however many clients ask, and not on the one loop.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use tokio::sync::Semaphore;

use crate::agent::name::Key;
use crate::agent::secrets::Secrets;
use crate::sys::blocking;
use crate::sys::secret_bytes::SecretBytes;
use crate::text::redact::Redactor;

/// Up to this size a redactor is prepared in place, which takes less time than a thread does.
const FEW: usize = 4 << 10;

/// One large redactor is prepared at a time.
static PREPARING: Semaphore = Semaphore::const_new(1);

/// Why nothing of an agent can be shown: its secrets cannot be redacted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// An earlier daemon may have given the agent secrets that this one has never seen.
    #[error(
        "its secrets could not be redacted: an earlier agentd launched it, and this one does not know with which secrets, since it \
         has not been able to read all of them ({0}); fix that, or, if there are no secrets, create the directory of secrets and \
         leave it empty; `agentd logs --raw` shows what was printed as it is kept"
    )]
    Secrets(String),
    /// There was no thread for it.
    #[error("its secrets could not be redacted: {0}; try again later")]
    Failed(String),
}

/// Prepares a redactor, unless it is prepared already.
pub async fn prepared(redactor: Arc<Redactor>) -> Result<Arc<Redactor>, Unknown> {
    if redactor.is_prepared() {
        return Ok(redactor);
    }
    if redactor.size() <= FEW {
        redactor.prepare();
        return Ok(redactor);
    }
    // The preparation outlives the client that asked: otherwise clients that come and go would start it again and again.
    let preparing = tokio::spawn(async move {
        let _turn = PREPARING.acquire().await;
        if redactor.is_prepared() {
            return Ok(redactor);
        }
        let in_thread = move || {
            redactor.prepare();
            redactor
        };
        blocking::run(in_thread).await.map_err(|error| Unknown::Failed(error.to_string()))
    });
    preparing.await.map_err(|error| Unknown::Failed(error.to_string()))?
}

/// Finds the redactor of some secrets, so that agents with the same secrets share one.
#[derive(Debug, Default)]
pub struct Redactors(HashMap<Vec<usize>, Weak<Redactor>>);

impl Redactors {
    /// The redactor of these values.
    pub fn of<'a>(&mut self, values: impl IntoIterator<Item = &'a SecretBytes>) -> Arc<Redactor> {
        let redactor = Redactor::new(values.into_iter().cloned());
        // One that is alive keeps its values where they are.
        let places: Vec<usize> = redactor.values().iter().map(SecretBytes::place).collect();
        if let Some(known) = self.0.get(&places).and_then(Weak::upgrade) {
            return known;
        }
        if self.0.len() == self.0.capacity() {
            self.0.retain(|_, known| known.strong_count() > 0);
        }
        let redactor = Arc::new(redactor);
        self.0.insert(places, Arc::downgrade(&redactor));
        redactor
    }

    /// The redactor of all secrets that were read; `None` if some could not be.
    pub fn of_all(&mut self, secrets: &Secrets) -> Option<Arc<Redactor>> {
        secrets.is_complete.then(|| self.of(secrets.to_redact()))
    }
}

/// The redactor of an agent.
#[derive(Clone, Debug)]
pub struct AgentRedactor {
    /// Of the secrets that it was given, or is to be given, as far as this daemon knows them.
    pub redactor: Arc<Redactor>,
    /// Whether that is all: an earlier daemon may have launched what runs.
    pub is_all: bool,
}

/// The redactors of all agents. Snapshots share it until a launch or a secret changes.
#[derive(Debug, Default)]
pub struct Redactions {
    agents: HashMap<Key, AgentRedactor>,
    secrets: Option<Arc<Redactor>>,
    any: OnceLock<Arc<Redactor>>,
}

impl Redactions {
    /// By key; and the redactor of all secrets, if all could be read.
    pub fn new(agents: HashMap<Key, AgentRedactor>, secrets: Option<Arc<Redactor>>) -> Self {
        Self { agents, secrets, any: OnceLock::new() }
    }

    /// How many agents there are.
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// Whether there is no agent.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    /// The redactor of an agent; `None` if its secrets are not known.
    ///
    /// An agent that is no longer declared, or that an earlier daemon launched, may have been given whatever others are given, or any
    /// other secret. If those could not be read either, nothing is known.
    pub fn of(&self, agent: &Key) -> Option<&Arc<Redactor>> {
        match self.agents.get(agent) {
            Some(known) if known.is_all => Some(&known.redactor),
            _ => self.secrets.as_ref().map(|secrets| self.any.get_or_init(|| self.of_any(secrets))),
        }
    }

    fn of_any(&self, secrets: &Redactor) -> Arc<Redactor> {
        let given = self.agents.values().flat_map(|agent| agent.redactor.values());
        Arc::new(Redactor::new(given.chain(secrets.values()).cloned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn agents_with_the_same_secrets_share_a_redactor() {
        let mut redactors = Redactors::default();
        let (one, other) = (SecretBytes::from("hunter2hunter2"), SecretBytes::from("x".repeat(2 * FEW).as_str()));
        let (first, shared) = (redactors.of([&one, &other]), redactors.of([&other, &one]));
        assert!(Arc::ptr_eq(&first, &shared));
        let (first, again) = tokio::join!(prepared(first), prepared(shared));
        assert!(Arc::ptr_eq(&first.clone().unwrap(), &again.unwrap()));
        assert_eq!(first.unwrap().redact("hunter2hunter2 is it"), "********       is it");
        let less = redactors.of([&one]);
        assert_eq!(less.redact(&"x".repeat(20)), "x".repeat(20));
    }

    #[test]
    fn unused_redactors_are_forgotten() {
        let mut redactors = Redactors::default();
        for number in 0..1000 {
            redactors.of([&SecretBytes::from(format!("secret {number}").as_str())]);
        }
        assert!(redactors.0.len() < 10, "{}", redactors.0.len());
    }

    #[tokio::test]
    async fn a_redactor_is_prepared_although_the_client_goes_away() {
        let redactor = Arc::new(Redactor::new([SecretBytes::from("0123456789abcdef".repeat(FEW).as_str())]));
        tokio::select! {
            biased;
            _ = prepared(Arc::clone(&redactor)) => panic!("it takes a thread"),
            () = std::future::ready(()) => {}
        }
        let done = async {
            while !redactor.is_prepared() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), done).await.expect("it is prepared");
    }
}
