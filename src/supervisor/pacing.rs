//! The pace of starts: how many agents are on their way to a harness at a time.
//!
//! Each start is a login shell, whose profile may work for seconds or wait for a lock that all of them want. With hundreds at a time
//! every one of them would take as long as all together, and come too late. So a few go at a time, and who takes long is joined by
//! the next: what hangs holds up nobody for good.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// How many go at a time: enough to keep the processors of any machine busy with logins that do work.
const AT_ONCE: usize = 8;

/// How long one of them has its place to itself.
const TURN: Duration = Duration::from_secs(10);

/// Gives out turns, in the order in which they were asked for.
#[derive(Clone, Debug)]
pub struct Pace(Arc<Semaphore>);

/// Somebody's turn, until it is dropped or has lasted long enough.
#[derive(Debug)]
pub struct Turn {
    _over: oneshot::Sender<()>,
}

impl Default for Pace {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Pace {
    /// Waits for one. Cancel-safe: who does not wait any longer has lost its place in line.
    pub async fn turn(&self) -> Turn {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let (over, is_over) = oneshot::channel();
        tokio::spawn(async move {
            // Never said: it is dropped.
            let _ = timeout(TURN, is_over).await;
            drop(permit);
        });
        Turn { _over: over }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    async fn is_full(pace: &Pace) -> bool {
        timeout(Duration::from_millis(1), pace.turn()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_go_at_a_time_and_the_next_when_one_is_there() {
        let pace = Pace::default();
        let mut turns = Vec::new();
        for _ in 0..AT_ONCE {
            turns.push(pace.turn().await);
        }
        assert!(is_full(&pace).await);
        turns.pop();
        turns.push(pace.turn().await);
        assert!(is_full(&pace).await);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_long_is_joined_by_the_next() {
        let pace = Pace::default();
        let mut turns = Vec::new();
        let start = Instant::now();
        for _ in 0..AT_ONCE * 3 {
            turns.push(pace.turn().await);
        }
        assert_eq!(start.elapsed().as_secs(), 2 * TURN.as_secs());
    }
}
