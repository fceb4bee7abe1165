//! Whether a user is still in the user database, asked without being held up by it: the database may be a server that does not answer.

use std::time::Duration;

use nix::unistd::{Uid, User};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::sys::blocking;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the user database says about a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The user is there.
    There,
    /// Nobody has the name, or somebody else does.
    Gone,
    /// It could not be asked, or has not answered yet. That says nothing about the user.
    Unknown,
}

impl Presence {
    /// Asks. Blocks.
    pub fn of(name: &str, uid: Uid) -> Self {
        match User::from_name(name) {
            Ok(Some(user)) if user.uid == uid => Self::There,
            Ok(_) => Self::Gone,
            Err(_) => Self::Unknown,
        }
    }
}

/// Asks about one user. At most one question is open at the database, however long that takes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inquiry {
    questions: mpsc::UnboundedSender<oneshot::Sender<Presence>>,
}

impl Inquiry {
    /// About this user. Must be called inside the async runtime.
    pub fn about(name: &str, uid: Uid) -> Self {
        let name = name.to_owned();
        Self::with(move || Presence::of(&name, uid))
    }

    /// Of which `ask`, which may block, gives the answers.
    pub fn with(ask: impl Fn() -> Presence + Clone + Send + Sync + 'static) -> Self {
        let (questions, mut inbox) = mpsc::unbounded_channel::<oneshot::Sender<Presence>>();
        tokio::spawn(async move {
            while let Some(first) = inbox.recv().await {
                // Whoever comes later gets an answer of later.
                let others: Vec<_> = std::iter::from_fn(|| inbox.try_recv().ok()).collect();
                let presence = blocking::run(ask.clone()).await.unwrap_or(Presence::Unknown);
                for one in others.into_iter().chain([first]) {
                    // Some have stopped waiting.
                    let _ = one.send(presence);
                }
            }
        });
        Self { questions }
    }

    /// Asks, and waits for the answer for a limited time.
    pub async fn ask(&self) -> Presence {
        let (answer, answered) = oneshot::channel();
        // Fails only when the runtime is ending.
        if self.questions.send(answer).is_err() {
            return Presence::Unknown;
        }
        timeout(PATIENCE, answered).await.ok().and_then(Result::ok).unwrap_or(Presence::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_user_is_there_under_its_own_id_only() {
        assert_eq!(Presence::of("root", Uid::from_raw(0)), Presence::There);
        assert_eq!(Presence::of("root", Uid::from_raw(54_321)), Presence::Gone);
        assert_eq!(Presence::of("no-such-user-here", Uid::from_raw(54_321)), Presence::Gone);
    }

    #[tokio::test]
    async fn a_database_that_hangs_is_asked_only_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let (count, hang) = (Arc::clone(&asked), Arc::new(std::sync::Mutex::new(hang)));
        let inquiry = Inquiry::with(move || {
            if count.fetch_add(1, Ordering::Relaxed) == 0 {
                let _ = hang.lock().unwrap().recv();
            }
            Presence::Gone
        });
        for _ in 0..2 {
            assert_eq!(timeout(PATIENCE * 2, inquiry.ask()).await, Ok(Presence::Unknown));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        drop(release);
        assert_eq!(inquiry.ask().await, Presence::Gone);
    }
}
