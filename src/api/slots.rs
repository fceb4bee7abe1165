//! Slots for connections: some are reserved for root, and connections that rest make room for others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::Uid;
use tokio::net::UnixStream;
use tokio::task::{AbortHandle, Id};

use crate::sys::unix_socket;

/// One slot in so many is reserved for root.
const ONE_IN: usize = 32;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// Root, or the user that the daemon runs as: other users cannot keep them out.
    Owner,
    /// Any other user.
    Other,
}

impl Client {
    /// As the kernel says.
    pub(super) fn of(socket: &UnixStream) -> Self {
        let is_owner = |uid: Uid| uid.is_root() || uid == Uid::effective();
        if unix_socket::peer(socket).is_ok_and(|peer| is_owner(peer.uid)) { Self::Owner } else { Self::Other }
    }
}

/// Since when a client has rested, as a number: the lower, the longer. A client rests if it was answered and has sent nothing since.
#[derive(Clone, Debug, Default)]
pub(super) struct Rest(Arc<AtomicU64>);

impl Rest {
    /// The client rests from now on.
    pub(super) fn begin(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        self.0.store(NEXT.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The client has sent something.
    pub(super) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn since(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&since| since > 0)
    }
}

/// The connected clients.
#[derive(Debug)]
pub(super) struct Slots {
    most: usize,
    taken: HashMap<Id, Slot>,
}

#[derive(Debug)]
struct Slot {
    client: Client,
    rest: Rest,
    task: AbortHandle,
}

impl Slots {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: HashMap::new() }
    }

    /// Whether there is a slot for this client. If all are taken, closes the connection that has rested longest.
    pub(super) fn make_room(&mut self, client: Client) -> bool {
        let others = self.taken.values().filter(|slot| slot.client == Client::Other).count();
        let is_room = match client {
            Client::Owner => self.taken.len() < self.most,
            Client::Other => self.taken.len() < self.most && others < self.most - self.most / ONE_IN,
        };
        if is_room {
            return true;
        }
        // The owner's connections make room only for the owner's.
        let resting = self.taken.iter().filter(|(_, slot)| client == Client::Owner || slot.client == Client::Other);
        let resting = resting.filter_map(|(&id, slot)| Some((slot.client == Client::Owner, slot.rest.since()?, id)));
        let Some((.., id)) = resting.min() else { return false };
        if let Some(slot) = self.taken.remove(&id) {
            slot.task.abort();
        }
        true
    }

    pub(super) fn take(&mut self, client: Client, rest: Rest, task: AbortHandle) {
        self.taken.insert(task.id(), Slot { client, rest, task });
    }

    pub(super) fn leave(&mut self, task: Id) {
        self.taken.remove(&task);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::JoinSet;

    use super::*;

    /// Slots with these clients, of which some rest, in this order.
    fn slots(most: usize, clients: &[Client], resting: &[usize], tasks: &mut JoinSet<()>) -> (Slots, Vec<Id>) {
        let mut slots = Slots::new(most);
        let rests: Vec<Rest> = clients.iter().map(|_| Rest::default()).collect();
        for &at in resting {
            rests[at].begin();
        }
        let ids = clients.iter().zip(rests).map(|(&client, rest)| {
            let task = tasks.spawn(pending());
            let id = task.id();
            slots.take(client, rest, task);
            id
        });
        let ids = ids.collect();
        (slots, ids)
    }

    #[tokio::test]
    async fn one_slot_in_32_is_kept_for_root() {
        let mut tasks = JoinSet::new();
        let (mut slots, ids) = slots(64, &[Client::Other; 62], &[], &mut tasks);
        assert!(!slots.make_room(Client::Other));
        assert!(slots.make_room(Client::Owner));
        slots.leave(ids[0]);
        assert!(slots.make_room(Client::Other));
    }

    #[tokio::test]
    async fn the_client_that_rested_longest_makes_room() {
        let mut tasks = JoinSet::new();
        let (mut slots, ids) = slots(3, &[Client::Other; 3], &[2, 0], &mut tasks);
        assert!(slots.make_room(Client::Other));
        assert_eq!(tasks.join_next_with_id().await.unwrap().unwrap_err().id(), ids[2]);
        let task = tasks.spawn(pending());
        slots.take(Client::Other, Rest::default(), task);
        assert!(slots.make_room(Client::Other));
        assert_eq!(tasks.join_next_with_id().await.unwrap().unwrap_err().id(), ids[0]);
        let task = tasks.spawn(pending());
        slots.take(Client::Other, Rest::default(), task);
        assert!(!slots.make_room(Client::Other), "who asks or is answered stays");
    }

    #[tokio::test]
    async fn only_root_makes_root_leave() {
        let mut tasks = JoinSet::new();
        let (mut slots, ids) = slots(2, &[Client::Owner, Client::Owner], &[0, 1], &mut tasks);
        assert!(!slots.make_room(Client::Other));
        assert!(slots.make_room(Client::Owner));
        assert_eq!(tasks.join_next_with_id().await.unwrap().unwrap_err().id(), ids[0]);
    }
}
