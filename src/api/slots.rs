//! Who may be connected at once: so many, with some places kept for root, and those who only rest make room for others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::Uid;
use tokio::net::UnixStream;
use tokio::task::{AbortHandle, Id};

use crate::sys::unix_socket;

/// One place in so many is kept for root.
const ONE_IN: usize = 32;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// Root, or whom the daemon runs as: nobody else can keep them out.
    Owner,
    /// Anybody else.
    Other,
}

impl Client {
    /// By the kernel's word.
    pub(super) fn of(socket: &UnixStream) -> Self {
        let is_owner = |uid: Uid| uid.is_root() || uid == Uid::effective();
        if unix_socket::peer(socket).is_ok_and(|peer| is_owner(peer.uid)) { Self::Owner } else { Self::Other }
    }
}

/// Since when a client rests that was answered and has asked nothing since, among all: the lower, the longer.
#[derive(Clone, Debug, Default)]
pub(super) struct Rest(Arc<AtomicU64>);

impl Rest {
    /// It rests from now on.
    pub(super) fn begin(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        self.0.store(NEXT.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// It has asked for something.
    pub(super) fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn since(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&since| since > 0)
    }
}

/// Those who are connected.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: HashMap<Id, Place>,
}

#[derive(Debug)]
struct Place {
    client: Client,
    rest: Rest,
    task: AbortHandle,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: HashMap::new() }
    }

    /// Whether there is a place for this client, or one who rests could make room: the connection that has rested longest is closed.
    pub(super) fn make_room(&mut self, client: Client) -> bool {
        let others = self.taken.values().filter(|place| place.client == Client::Other).count();
        let is_room = match client {
            Client::Owner => self.taken.len() < self.most,
            Client::Other => self.taken.len() < self.most && others < self.most - self.most / ONE_IN,
        };
        if is_room {
            return true;
        }
        // The owner's make room for the owner's only.
        let resting = self.taken.iter().filter(|(_, place)| client == Client::Owner || place.client == Client::Other);
        let resting = resting.filter_map(|(&id, place)| Some((place.client == Client::Owner, place.rest.since()?, id)));
        let Some((.., id)) = resting.min() else { return false };
        if let Some(place) = self.taken.remove(&id) {
            place.task.abort();
        }
        true
    }

    pub(super) fn take(&mut self, client: Client, rest: Rest, task: AbortHandle) {
        self.taken.insert(task.id(), Place { client, rest, task });
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

    /// So many clients, of which these rest, in this order.
    fn places(most: usize, clients: &[Client], resting: &[usize], tasks: &mut JoinSet<()>) -> (Places, Vec<Id>) {
        let mut places = Places::new(most);
        let rests: Vec<Rest> = clients.iter().map(|_| Rest::default()).collect();
        for &at in resting {
            rests[at].begin();
        }
        let ids = clients.iter().zip(rests).map(|(&client, rest)| {
            let task = tasks.spawn(pending());
            let id = task.id();
            places.take(client, rest, task);
            id
        });
        let ids = ids.collect();
        (places, ids)
    }

    #[tokio::test]
    async fn one_place_in_32_is_kept_for_root() {
        let mut tasks = JoinSet::new();
        let (mut places, ids) = places(64, &[Client::Other; 62], &[], &mut tasks);
        assert!(!places.make_room(Client::Other));
        assert!(places.make_room(Client::Owner));
        places.leave(ids[0]);
        assert!(places.make_room(Client::Other));
    }

    #[tokio::test]
    async fn the_client_that_rested_longest_makes_room() {
        let mut tasks = JoinSet::new();
        let (mut places, ids) = places(3, &[Client::Other; 3], &[2, 0], &mut tasks);
        assert!(places.make_room(Client::Other));
        assert_eq!(tasks.join_next_with_id().await.unwrap().unwrap_err().id(), ids[2]);
        let task = tasks.spawn(pending());
        places.take(Client::Other, Rest::default(), task);
        assert!(places.make_room(Client::Other));
        assert_eq!(tasks.join_next_with_id().await.unwrap().unwrap_err().id(), ids[0]);
        let task = tasks.spawn(pending());
        places.take(Client::Other, Rest::default(), task);
        assert!(!places.make_room(Client::Other), "who asks or is answered stays");
    }

    #[tokio::test]
    async fn nobody_but_root_makes_root_leave() {
        let mut tasks = JoinSet::new();
        let (mut places, ids) = places(2, &[Client::Owner, Client::Owner], &[0, 1], &mut tasks);
        assert!(!places.make_room(Client::Other));
        assert!(places.make_room(Client::Owner));
        assert_eq!(tasks.join_next_with_id().await.unwrap().unwrap_err().id(), ids[0]);
    }
}
