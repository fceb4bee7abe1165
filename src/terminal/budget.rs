//! How many clients the terminal socket serves: in all, for each user, and how fast new ones may come.

use std::collections::HashMap;

use nix::unistd::Uid;
use tokio::task::Id;
use tokio::time::{Duration, Instant};

/// How many clients there may be at once. Each attachment has a tmux client and a thread of the deputy.
const MOST: usize = 64;

/// How many of these places only root may take.
const FOR_ROOT: usize = 4;

/// How many places one user may take, root excepted.
const MOST_OF_ONE: usize = 24;

/// How many clients of one user may come in a burst, and how often one more may come after that.
const BURST: u32 = 40;
const INTERVAL: Duration = Duration::from_millis(100);

/// The places that are taken.
#[derive(Debug, Default)]
pub(super) struct Budget {
    taken: HashMap<Id, Uid>,
    /// When each user's clients would have come at the steady rate.
    came: HashMap<Uid, Instant>,
}

impl Budget {
    /// Whether there is a place for another client of this user, or the message why not.
    pub(super) fn admit(&mut self, uid: Uid) -> Result<(), &'static str> {
        let now = Instant::now();
        let of_user = self.taken.values().filter(|&&other| other == uid).count();
        let most = if uid.is_root() { MOST } else { MOST - FOR_ROOT };
        if self.taken.len() >= most || !uid.is_root() && of_user >= MOST_OF_ONE {
            return Err("too many terminals are attached; detach one first");
        }
        // Users whose clients came long ago are forgotten.
        self.came.retain(|_, came| *came > now);
        let came = self.came.get(&uid).copied().unwrap_or(now);
        if came.saturating_duration_since(now) >= INTERVAL * BURST {
            return Err("too many requests in a short time; try again in a few seconds");
        }
        self.came.insert(uid, came.max(now) + INTERVAL);
        Ok(())
    }

    pub(super) fn take(&mut self, uid: Uid, task: Id) {
        self.taken.insert(task, uid);
    }

    pub(super) fn leave(&mut self, task: Id) {
        self.taken.remove(&task);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_user_cannot_take_all_places() {
        let (mut budget, mut tasks) = (Budget::default(), JoinSet::new());
        let (root, one, other) = (Uid::from_raw(0), Uid::from_raw(1), Uid::from_raw(2));
        let mut take = |budget: &mut Budget, uid: Uid, count: usize| {
            for _ in 0..count {
                let id = tasks.spawn(std::future::pending::<()>()).id();
                budget.take(uid, id);
            }
        };
        take(&mut budget, one, MOST_OF_ONE);
        assert!(budget.admit(one).is_err());
        assert!(budget.admit(other).is_ok());
        take(&mut budget, other, MOST - FOR_ROOT - MOST_OF_ONE);
        assert!(budget.admit(Uid::from_raw(3)).is_err());
        assert!(budget.admit(root).is_ok());
        take(&mut budget, root, FOR_ROOT);
        assert!(budget.admit(root).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn clients_of_one_user_come_at_a_limited_rate() {
        let (mut budget, one) = (Budget::default(), Uid::from_raw(1));
        let admitted = (0..2 * BURST).filter(|_| budget.admit(one).is_ok()).count();
        assert_eq!(admitted, BURST as usize);
        assert!(budget.admit(Uid::from_raw(2)).is_ok());
        tokio::time::advance(INTERVAL).await;
        assert!(budget.admit(one).is_ok());
        assert!(budget.admit(one).is_err());
    }
}
