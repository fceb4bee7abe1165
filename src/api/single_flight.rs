//! Single flight: concurrent callers share one computation, never one that began before they asked.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// One computation at a time, however many callers ask.
#[derive(Debug)]
pub(super) struct SingleFlight<T> {
    turn: Semaphore,
    /// When the latest computation began, and its result.
    latest: Mutex<Option<(Instant, T)>>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), latest: Mutex::new(None) }
    }
}

impl<T: Clone> SingleFlight<T> {
    /// The result of a computation that began after this call: this one's or another caller's.
    pub(super) async fn read(&self, read: impl Future<Output = T>) -> T {
        let asked = Instant::now();
        // Never closed.
        let _turn = self.turn.acquire().await;
        let latest = || self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, value)) = latest().as_ref().filter(|(begun, _)| *begun >= asked) {
            return value.clone();
        }
        let begun = Instant::now();
        let value = read.await;
        *latest() = Some((begun, value.clone()));
        value
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn concurrent_callers_share_a_result_no_older_than_their_call() {
        let (latest, readings) = (SingleFlight::default(), Cell::new(0));
        let read = || async {
            readings.set(readings.get() + 1);
            let number = readings.get();
            tokio::time::sleep(Duration::from_secs(1)).await;
            number
        };
        let later = || async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            latest.read(read()).await
        };
        assert_eq!(tokio::join!(latest.read(read()), later(), later(), later()), (1, 2, 2, 2));
        assert_eq!(latest.read(read()).await, 3);
    }
}
