//! The read-only HTTP API on a Unix socket.
//!
//! It sees the daemon through its [`Sources`] only: the latest [`Snapshot`], the [`Ring`] of events, what agents printed, and tmux for
//! screens. No client can hold up another, however it behaves. If the process runs out of descriptors, the API still answers, one client
//! at a time, so that an administrator can find out what is wrong.

pub mod outlet;
pub mod socket;

#[cfg(fuzzing)]
pub mod fuzzing;

mod answer;
mod connection;
mod http;
mod logs;
mod metrics;
mod openapi;
mod query;
mod routes;
mod screens;
mod single_flight;
mod slots;
mod stream;

use std::fs::File;
use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::connection::Connection;
use self::http::Responder;
use self::slots::{Client, Rest, Slots};
use crate::agent::name::Key;
use crate::deputy::Deputy;
use crate::deputy::renderer::Renderers;
use crate::logs::store::Store;
use crate::observe::ring::Ring;
use crate::observe::snapshot::Snapshot;
use crate::sys::account::Account;
use crate::tmux::desks::Desks;

/// The pause after the system refused to accept a client: what it lacks (descriptors, memory) does not come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The longest that each step may take of a client that holds the one descriptor that others wait for.
const HURRY: Duration = Duration::from_secs(1);

/// What clients may take. Ruling 14 of `docs/design.md` gives the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many connections may be open at once; one in 32 is reserved for root. A further client replaces one that rests. If none
    /// rests, the new connection is closed.
    pub connections: usize,
    /// The time from connecting, or from the first byte of a header, to the end of the header.
    pub header: Duration,
    /// The bytes that the request line and the header fields may have: at least 8,192.
    pub header_size: usize,
    /// The time from an answer to the first byte of the next request.
    pub idle: Duration,
    /// How long an answer may make no progress because the client does not read.
    pub stall: Duration,
    /// How long a client may go on sending after its last answer.
    pub linger: Duration,
    /// How many slow or endless answers are served at once; one in 16 is reserved for root. Further requests are refused.
    pub streams: usize,
    /// How often an endless answer sends a comment when it has nothing else to send.
    pub heartbeat: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            header: Duration::from_secs(10),
            header_size: 16 * 1024,
            idle: Duration::from_mins(1),
            stall: Duration::from_secs(10),
            linger: Duration::from_secs(1),
            streams: 256,
            heartbeat: Duration::from_secs(15),
        }
    }
}

/// Where answers come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The present state.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The events.
    pub happenings: watch::Receiver<Ring>,
    /// The source of screens; without it there are none.
    pub desks: Option<Desks>,
    /// The logs of agents; without it there are none.
    pub logs: Option<Store>,
    /// What turns logs into text, for agents of the default user; without it there are only the raw bytes.
    pub renderers: Option<Renderers>,
}

impl Sources {
    /// What turns the logs of this agent into text: a process of the user whom it runs as, or ran as last. What an agent printed must not be able to
    /// break into a process of another user.
    pub(crate) fn renderers_of(&self, agent: &Key) -> Option<Renderers> {
        let Some(user) = self.snapshot.borrow().printer(agent).cloned() else { return self.renderers.clone() };
        if let Some(desk) = self.desks.as_ref()?.of(Some(&user)) {
            return Some(desk.renderers);
        }
        // Nothing is done as this user any more: the process is for this answer alone.
        let account = Account::known_as(user.name.as_str(), Uid::from_raw(user.uid));
        Some(Renderers::new(Deputy::new(&account, || {})))
    }
}

/// How long clients wait for the first reading of the declarations, so that none sees agents missing. A daemon that cannot read them
/// in that time answers anyway, with the state `starting`.
const FIRST_READING: Duration = Duration::from_secs(4);

/// Serves until `shutdown` is done, then closes every connection. Needs the time and I/O drivers of the tokio runtime.
///
/// A client that connects before the declarations were first read waits for that. A listener from `replacements` replaces the one
/// before.
pub async fn serve(
    listener: UnixListener,
    replacements: mpsc::Receiver<UnixListener>,
    sources: Sources,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let mut snapshot = sources.snapshot.clone();
    let first_reading = timeout(FIRST_READING, snapshot.wait_for(|snapshot| snapshot.is_read()));
    tokio::select! {
        biased;
        () = &mut shutdown => return,
        // Fails only when the daemon is ending.
        _ = first_reading => {}
    }
    let (header, stall) = (limits.header.min(HURRY), limits.stall.min(HURRY));
    let hurried = Limits { header, stall, linger: Duration::ZERO, streams: 0, ..limits };
    let in_a_hurry = Arc::new(Responder::new(sources.clone(), hurried, false));
    let at_leisure = Arc::new(Responder::new(sources, limits, true));

    let mut connections = JoinSet::new();
    let mut slots = Slots::new(limits.connections);
    let mut door = Door::new(listener, replacements);
    loop {
        // Count out the connections that ended before the next one is counted in.
        let came = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next_with_id() => {
                slots.leave(ended.map_or_else(|error| error.id(), |(id, ())| id));
                continue;
            }
            came = door.next() => came,
        };
        let (Came::Usual(socket) | Came::Last(socket)) = &came;
        let (client, rest) = (Client::of(socket), Rest::default());
        if !slots.make_room(client) {
            continue;
        }
        let connection = match came {
            Came::Usual(socket) => Connection::new(socket, client, rest.clone(), Arc::clone(&at_leisure)),
            Came::Last(socket) => Connection::new(socket, client, rest.clone(), Arc::clone(&in_a_hurry)),
        };
        // A client that breaks the rules learns it from the end of its connection.
        let task = connections.spawn(async move { drop(connection.serve().await) });
        slots.take(client, rest, task);
    }
    connections.shutdown().await;
}

/// Accepts clients.
struct Door {
    listener: UnixListener,
    replacements: mpsc::Receiver<UnixListener>,
    /// A descriptor to give up for a client when the process has no other.
    spare: Option<OwnedFd>,
    /// Whether the log says that clients cannot be accepted as usual.
    is_short: bool,
}

/// A client that was accepted.
enum Came {
    Usual(UnixStream),
    /// A client that holds the last descriptor.
    Last(UnixStream),
}

impl Door {
    fn new(listener: UnixListener, replacements: mpsc::Receiver<UnixListener>) -> Self {
        Self { listener, replacements, spare: None, is_short: false }
    }

    /// The next client. Cancel-safe: a client is either returned or still in the queue.
    async fn next(&mut self) -> Came {
        loop {
            self.spare = self.spare.take().or_else(|| File::open("/dev/null").ok().map(OwnedFd::from));
            let accepted = tokio::select! {
                Some(listener) = self.replacements.recv() => {
                    self.listener = listener;
                    continue;
                }
                accepted = self.listener.accept() => accepted,
            };
            let error = match accepted {
                Ok((stream, _)) => {
                    // The spare descriptor must be back before a client is served at leisure again.
                    if self.spare.is_some() && std::mem::take(&mut self.is_short) {
                        tracing::info!("clients of the API are accepted as usual again");
                    }
                    return Came::Usual(stream);
                }
                Err(error) => error,
            };
            if !std::mem::replace(&mut self.is_short, true) {
                tracing::warn!("failed to accept a client of the API: {error}; they are served one after the other");
            }
            if self.spare.take().is_some() {
                match poll_fn(|context| Poll::Ready(self.listener.poll_accept(context))).await {
                    Poll::Ready(Ok((stream, _))) => return Came::Last(stream),
                    // The system takes a descriptor before it checks whether there is a client (`accept(2)`).
                    Poll::Pending => continue,
                    Poll::Ready(Err(_)) => {}
                }
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}
