//! Figures that take time to read, in a thread of their own and for many who ask at a time.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::blocking;
use crate::metrics;
use crate::status::Snapshot;

/// The text, or why there is none.
pub(super) type Figures = Result<Bytes, String>;

/// Reads one at a time, however many ask.
#[derive(Debug)]
pub(super) struct Reader {
    turn: Semaphore,
    /// When the latest reading was begun, and what came of it.
    latest: Mutex<Option<(Instant, Bytes)>>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { turn: Semaphore::new(1), latest: Mutex::new(None) }
    }

    /// From a reading that was not begun before it was asked for.
    pub(super) async fn read(&self, snapshot: Arc<Snapshot>) -> Figures {
        let asked = Instant::now();
        // Never closed.
        let _turn = self.turn.acquire().await;
        let latest = || self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = latest().as_ref().filter(|(begun, _)| *begun >= asked) {
            return Ok(text.clone());
        }
        let begun = Instant::now();
        let text = blocking::run(move || Bytes::from(metrics::text(&snapshot))).await;
        let text = text.map_err(|error| format!("failed to read the figures: {error}"))?;
        *latest() = Some((begun, text.clone()));
        Ok(text)
    }
}
