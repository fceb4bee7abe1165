//! What must not be shown, ready to be looked for: made once of the same secrets, however many ask, and off the one loop.
//!
//! It takes memory and time, both many times what is looked for, and all secrets may have 8 MiB together.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use crate::agent::launch::{self, Launch};
use crate::agent::secrets::Secrets;
use crate::sys::blocking;
use crate::sys::secret_bytes::SecretBytes;
use crate::text::redact::Redaction;

/// Up to so many bytes are made ready at once, which takes less than a thread does.
const FEW: usize = 4 << 10;

/// How many are kept: more than there are sets of secrets, unless agents are launched again and again.
const MOST: usize = 256;

/// Why what must not be shown cannot be blotted out. Nothing is shown then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// An earlier daemon may have given the agent secrets that this one has never seen.
    #[error(
        "its secrets could not be blotted out: an earlier agentd launched it, and this one does not know with which secrets, since \
         it has not been able to read all of them ({0}); mend that, or, if there are no secrets, make the directory of secrets and \
         leave it empty; `agentd logs --raw` shows what was printed as it is kept"
    )]
    Secrets(String),
    /// For want of a thread.
    #[error("its secrets could not be blotted out: {0}; try again later")]
    Failed(String),
}

/// Whose secrets.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// What was launched with some.
    pub launches: Vec<Arc<Launch>>,
    /// All that there are, if any of them may have been given.
    pub secrets: Option<Arc<Secrets>>,
}

impl Sources {
    /// Those of one launch.
    pub fn of_launch(launch: &Arc<Launch>) -> Self {
        Self { launches: vec![Arc::clone(launch)], secrets: None }
    }

    /// In an order that does not depend on where they come from.
    fn sorted(mut self) -> Self {
        self.launches.sort_by_key(Arc::as_ptr);
        self.launches.dedup_by(|one, other| Arc::ptr_eq(one, other));
        self
    }

    fn is(&self, other: &Self) -> bool {
        let is_same = match (&self.secrets, &other.secrets) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        let launches = || self.launches.iter().zip(&other.launches);
        is_same && self.launches.len() == other.launches.len() && launches().all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// The values, each once.
    fn values(&self) -> Vec<SecretBytes> {
        let given = self.launches.iter().flat_map(|launch| launch.secret_values());
        let all = self.secrets.iter().flat_map(|secrets| secrets.iter().map(|(_, value)| value));
        let mut values: Vec<SecretBytes> = given.chain(all).cloned().collect();
        values.sort_by_key(SecretBytes::place);
        values.dedup_by_key(|value| value.place());
        values
    }
}

/// The redaction of some values, once it is made.
#[derive(Debug)]
struct Slot {
    values: Vec<SecretBytes>,
    made: OnceCell<Arc<Redaction>>,
}

impl Slot {
    fn is_of(&self, values: &[SecretBytes]) -> bool {
        self.values.len() == values.len()
            && self.values.iter().zip(values).all(|(one, other)| one.place() == other.place())
    }

    fn make(&self) -> Arc<Redaction> {
        Arc::new(Redaction::new(launch::sensitive(self.values.iter())))
    }

    /// Only one at a time makes it.
    async fn get(self: Arc<Self>) -> Result<Arc<Redaction>, Unknown> {
        let make = || async {
            if self.values.iter().map(|value| value.as_slice().len()).sum::<usize>() <= FEW {
                return Ok(self.make());
            }
            let slot = Arc::clone(&self);
            blocking::run(move || slot.make()).await.map_err(|error| Unknown::Failed(error.to_string()))
        };
        self.made.get_or_try_init(make).await.cloned()
    }
}

/// Those that were asked for since the inputs last changed. What is desired next has others, so that no value is kept here longer than
/// it is in use.
#[derive(Debug, Default)]
pub struct Redactions(Mutex<Vec<(Sources, Arc<Slot>)>>);

impl Redactions {
    /// The redaction of all of these.
    pub async fn of(&self, sources: Sources) -> Result<Arc<Redaction>, Unknown> {
        let slot = self.slot(sources.sorted());
        if let Some(made) = slot.made.get() {
            return Ok(Arc::clone(made));
        }
        // Whoever asks and goes away again does not have it begun again and again.
        tokio::spawn(slot.get()).await.map_err(|error| Unknown::Failed(error.to_string()))?
    }

    /// Agents that were given the same secrets share it.
    fn slot(&self, sources: Sources) -> Arc<Slot> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = kept.iter().find(|(of, _)| of.is(&sources)) {
            return Arc::clone(slot);
        }
        let values = sources.values();
        let same = kept.iter().find(|(_, slot)| slot.is_of(&values)).map(|(_, slot)| Arc::clone(slot));
        let slot = same.unwrap_or_else(|| Arc::new(Slot { values, made: OnceCell::new() }));
        if kept.len() >= MOST {
            kept.clear();
        }
        kept.push((sources, Arc::clone(&slot)));
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn launch_with(values: &[&SecretBytes]) -> Arc<Launch> {
        let named = || values.iter().enumerate().map(|(at, &value)| (format!("KEY_{at}"), value.clone()));
        Arc::new(Launch {
            environment: named().collect(),
            secrets: named().map(|(name, _)| name).collect(),
            ..Launch::of_nothing()
        })
    }

    #[tokio::test]
    async fn what_agents_with_the_same_secrets_hide_is_made_once() {
        let redactions = Redactions::default();
        let (one, other) = (SecretBytes::from("hunter2hunter2"), SecretBytes::from("x".repeat(2 * FEW).as_str()));
        let agents = [launch_with(&[&one, &other]), launch_with(&[&one, &other])];
        let of = |launch: &Arc<Launch>| redactions.of(Sources::of_launch(launch));
        let (first, again, shared) = tokio::join!(of(&agents[0]), of(&agents[0]), of(&agents[1]));
        let first = first.unwrap();
        assert!(Arc::ptr_eq(&first, &again.unwrap()) && Arc::ptr_eq(&first, &shared.unwrap()));
        assert_eq!(first.of("hunter2hunter2 is it"), "************** is it");
        let less = of(&launch_with(&[&one])).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &less));
    }

    #[tokio::test]
    async fn what_was_begun_is_made_also_if_who_asked_goes_away() {
        let redactions = Redactions::default();
        let value = SecretBytes::from("0123456789abcdef".repeat(FEW).as_str());
        let sources = Sources::of_launch(&launch_with(&[&value]));
        tokio::select! {
            biased;
            _ = redactions.of(sources.clone()) => panic!("it takes a thread"),
            () = std::future::ready(()) => {}
        }
        let slot = redactions.slot(sources);
        let made = async {
            while slot.made.get().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), made).await.expect("it is made");
    }
}
