//! The terminal socket: operators attach to agents and send them text, without root.
//!
//! ```text
//! agentd attach, agentd send (operator) ──▶ terminal socket ──▶ daemon: who is it? which agent?
//!                                                               └─▶ deputy: tmux client, relay
//! ```
//!
//! The protocol is in [`wire::terminal`](crate::wire::terminal). The daemon reads one request, checks the operator and the agent, and
//! writes to the journal who does what. It does not read what an agent shows: for an attachment it passes the socket on to the
//! [deputy](crate::deputy), and only waits for the end. Text to be sent goes through the daemon, which checks it, to tmux.

mod access;
mod attach;
mod budget;
mod paste_mode;
mod send;
pub mod socket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use access::Rule;

use self::access::Operator;
use self::budget::Budget;
use self::send::Turns;
use crate::agent::name::Key;
use crate::logs::store::Store;
use crate::observe::snapshot::Snapshot;
use crate::sys::rate_limit::Brake;
use crate::sys::unix_socket;
use crate::text::suggest::nearest;
use crate::tmux::desks::{Desk, Desks};
use crate::wire::status::{AgentStatus, State};
use crate::wire::terminal::{self, End, HEAD, Kind, MAX_BODY, Malformed, Request, Why};

/// The pause after the system refused to accept a client.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long a client may take for its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to read an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long clients wait for the first reading of the declarations.
const FIRST_READING: Duration = Duration::from_secs(4);

/// What requests are answered from.
#[derive(Debug)]
pub struct Service {
    /// The present state.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// What acts with the rights of each user that agents run as.
    pub desks: Desks,
    /// The logs of agents.
    pub logs: Store,
    /// Who may use the socket.
    pub rule: Rule,
}

/// A request that is refused, or that failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Failure {
    why: Why,
    message: String,
}

impl Failure {
    fn new(why: Why, message: impl Into<String>) -> Self {
        Self { why, message: message.into() }
    }

    /// For any other reason.
    fn of(error: impl std::fmt::Display) -> Self {
        Self::new(Why::Other, error.to_string())
    }
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::new(Why::Invalid, format!("the client sent {error}"))
    }
}

/// Serves until `shutdown` is done, then closes every connection.
pub async fn serve(listener: UnixListener, service: Service, shutdown: impl Future<Output = ()>) {
    let (service, turns) = (Arc::new(service), Arc::new(Turns::default()));
    let mut budget = Budget::default();
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    let (close, closing) = watch::channel(());
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                budget.leave(id);
            }
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let Ok(peer) = unix_socket::peer(&socket) else { continue };
                    if let Err(message) = budget.admit(peer.uid) {
                        connections.spawn(refuse(socket, Failure::new(Why::Other, message)));
                        continue;
                    }
                    let (service, turns) = (Arc::clone(&service), Arc::clone(&turns));
                    let task = connections.spawn(attend(service, turns, socket, peer, closing.clone()));
                    budget.take(peer.uid, task.id());
                }
                Err(error) => {
                    static BRAKE: Brake = Brake::new();
                    if let Some(count) = BRAKE.pass() {
                        tracing::warn!("failed to accept a client of the terminal socket ({count} so far): {error}");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(close);
    // Each tells its operator why it ends.
    let _ = timeout(ANSWER_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
}

/// Tells a client that has no place why.
async fn refuse(mut socket: UnixStream, failure: Failure) {
    answer(&mut socket, &failed(failure)).await;
}

fn failed(Failure { why, message }: Failure) -> End {
    End::Failed { why, message }
}

/// A client that does not read loses its answer.
async fn answer(socket: &mut UnixStream, end: &End) {
    let _ = timeout(ANSWER_TIMEOUT, socket.write_all(&terminal::json(Kind::End, end))).await;
    let _ = socket.shutdown().await;
}

/// Serves one client.
async fn attend(
    service: Arc<Service>,
    turns: Arc<Turns>,
    mut socket: UnixStream,
    peer: unix_socket::Peer,
    closing: watch::Receiver<()>,
) {
    let operator = match service.rule.operator(peer).await {
        Ok(operator) => operator,
        Err(message) => {
            note_refusal(peer.uid);
            return answer(&mut socket, &failed(Failure::new(Why::Forbidden, message))).await;
        }
    };
    let request = match timeout(REQUEST_TIMEOUT, request(&mut socket)).await {
        Ok(Ok(request)) => request,
        Ok(Err(None)) | Err(_) => return,
        Ok(Err(Some(failure))) => return answer(&mut socket, &failed(failure)).await,
    };
    match request {
        Request::Attach(asked) => attach::serve(&service, &operator, asked, socket, closing).await,
        Request::Send(asked) => {
            let end = send::serve(&service, &turns, &operator, asked, &mut socket).await;
            answer(&mut socket, &end.unwrap_or_else(failed)).await;
        }
    }
}

fn note_refusal(uid: Uid) {
    static BRAKE: Brake = Brake::new();
    if let Some(count) = BRAKE.pass() {
        tracing::warn!(uid = uid.as_raw(), "refused a client of the terminal socket ({count} so far)");
    }
}

/// Reads the request, and not one byte after it. `None` as the error if the client has gone.
async fn request(socket: &mut UnixStream) -> Result<Request, Option<Failure>> {
    let (kind, body) = frame(socket).await?;
    if kind != Kind::Request {
        return Err(Some(Malformed::Body.into()));
    }
    terminal::read(&body).map_err(|error| Some(error.into()))
}

/// Reads one frame. `None` as the error if the client has gone.
async fn frame(socket: &mut UnixStream) -> Result<(Kind, Vec<u8>), Option<Failure>> {
    let gone = |_: io::Error| None;
    let mut head = [0; HEAD];
    socket.read_exact(&mut head).await.map_err(gone)?;
    let (kind, length) = terminal::head(head).map_err(|error| Some(error.into()))?;
    let mut body = vec![0; length.min(MAX_BODY)];
    socket.read_exact(&mut body).await.map_err(gone)?;
    Ok((kind, body))
}

impl Service {
    /// The agent of that name, whose case does not matter.
    async fn agent(&self, name: &str) -> Result<(Key, AgentStatus), Failure> {
        let mut snapshot = self.snapshot.clone();
        let _ = timeout(FIRST_READING, snapshot.wait_for(|snapshot| snapshot.is_read())).await;
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let lower = name.to_ascii_lowercase();
        let found = lower.parse::<Key>().ok().and_then(|key| Some((key.clone(), snapshot.agent(&key)?.clone())));
        found.ok_or_else(|| {
            let near = nearest(&lower, snapshot.agents().iter().map(|agent| agent.name.as_str()));
            let hint = near
                .map_or_else(|| "agentd status lists the agents".to_owned(), |near| format!("did you mean {near}?"));
            Failure::new(Why::Unknown, format!("there is no such agent; {hint}"))
        })
    }
}

impl Service {
    /// The desk of the user whom the agent runs as.
    fn desk(&self, agent: &Key) -> Result<Desk, Failure> {
        let user = self.snapshot.borrow().user_of(agent).cloned();
        self.desks.of(user.as_ref()).ok_or_else(|| Failure::new(Why::NotRunning, "its user has no tmux server yet"))
    }
}

/// Why an agent cannot be used now, in a few words.
fn present_state(agent: &AgentStatus) -> String {
    let is = match agent.state {
        State::Exited => "it has ended".to_owned(),
        state => format!("it is {state}"),
    };
    match &agent.reason {
        Some(reason) => format!("{is}: {reason}"),
        None => is,
    }
}

/// Logs what an operator does with an agent.
fn note(operator: &Operator, agent: &AgentStatus, what: &str) {
    let Operator { uid, name, pid } = operator;
    tracing::info!(agent = agent.name, uid = uid.as_raw(), user = name, client = pid, "{name} {what}");
}
