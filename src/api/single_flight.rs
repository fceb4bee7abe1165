//! What takes time to find out, found out once for all who want to know at a time.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Finds out one at a time, however many ask.
#[derive(Debug)]
pub(super) struct SingleFlight<T> {
    turn: Semaphore,
    /// When the latest reading was begun, and what came of it.
    latest: Mutex<Option<(Instant, T)>>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), latest: Mutex::new(None) }
    }
}

impl<T: Clone> SingleFlight<T> {
    /// From a reading that was not begun before it was asked for: this one, or another's.
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
    async fn who_asks_while_another_waits_shares_its_answer_and_none_is_older_than_its_question() {
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
