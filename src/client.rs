//! A client of the API, for the command line.

mod sse;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioExecutor;
use hyperlocal::UnixConnector;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use self::sse::{Message, Messages, Stream};
use crate::sys::unix_socket;
use crate::text::suggest::nearest;
use crate::wire::SOCKET_VARIABLE;
use crate::wire::approval::Approvals;
use crate::wire::hold::GroupHold;
use crate::wire::status::{AgentStatus, Health};

/// How long an answer may take in all. The daemon answers from memory, so one that takes this long does not work.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No process listens: the socket does not exist, or it is stale.
    #[error("failed to reach agentd at {}: it is not running", named(.0))]
    NotRunning(PathBuf),
    /// This user may not use the socket.
    #[error("failed to reach agentd at {}: permission denied; be {}", named(.0), who_may_connect(.0))]
    Denied(PathBuf),
    /// The path does not fit into a socket address.
    #[error(transparent)]
    Address(#[from] unix_socket::Error),
    /// No answer, or no further part of it, arrived in time.
    #[error("failed to get {what} from agentd at {}: no answer within {} s", socket.display(), patience.as_secs())]
    Timeout {
        /// The daemon's socket.
        socket: PathBuf,
        /// What the daemon was asked for, in words.
        what: String,
        /// How long the client waited.
        patience: Duration,
    },
    /// The connection failed, or the answer was not HTTP.
    #[error("failed to get {what} from agentd at {}: {}", socket.display(), why(source.as_ref()))]
    Transport {
        /// The daemon's socket.
        socket: PathBuf,
        /// What the daemon was asked for, in words.
        what: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon knows no agent of that name.
    #[error("there is no agent {name:?}{} (agentd status lists all)", meant(nearest.as_deref()))]
    NoSuchAgent {
        /// The name that was given.
        name: String,
        /// The agent that was probably meant.
        nearest: Option<String>,
    },
    /// An answer other than 200.
    #[error("{}", if message.is_empty() { format!("failed to get {what} from agentd: {status}") } else { message.clone() })]
    Refused {
        /// What the daemon was asked for, in words.
        what: String,
        /// The HTTP status.
        status: StatusCode,
        /// The `error` of the answer, if it has one.
        message: String,
    },
    /// An answer of 200 whose body is not understood.
    #[error("failed to understand agentd's answer about {what}: {source}")]
    Malformed {
        /// What the daemon was asked for, in words.
        what: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Error {
    /// Whether the cause may be that the daemon is being restarted.
    pub fn may_come_back(&self) -> bool {
        matches!(self, Self::NotRunning(_) | Self::Timeout { .. } | Self::Transport { .. })
    }
}

/// An answer of the daemon.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// The parsed body.
    pub value: T,
    /// The body as it arrived.
    pub body: Bytes,
}

/// A client of one daemon. Its methods need a tokio runtime with the time and I/O drivers.
#[derive(Debug)]
pub struct Client {
    http: hyper_util::client::legacy::Client<UnixConnector, Empty<Bytes>>,
    socket: PathBuf,
    /// The socket's path as URIs carry it.
    base: Uri,
}

impl Client {
    /// Creates a client, which connects at its first request.
    pub fn new(socket: &Path) -> Result<Self, Error> {
        if socket.as_os_str().is_empty() {
            return Err(Error::NotRunning(socket.to_owned()));
        }
        unix_socket::check_length(socket)?;
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(UnixConnector);
        Ok(Self { http, socket: socket.to_owned(), base: hyperlocal::Uri::new(socket, "/").into() })
    }

    /// `GET /v1/health`
    pub async fn health(&self) -> Result<Answer<Health>, Error> {
        self.get("/v1/health", "its state").await
    }

    /// `GET /v1/holds`
    pub async fn holds(&self) -> Result<Answer<Vec<GroupHold>>, Error> {
        self.get("/v1/holds", "the holds").await
    }

    /// `GET /v1/agents`
    pub async fn agents(&self) -> Result<Answer<Vec<AgentStatus>>, Error> {
        self.get("/v1/agents", "the agents").await
    }

    /// `GET /v1/approvals`
    pub async fn approvals(&self) -> Result<Answer<Approvals>, Error> {
        self.get("/v1/approvals", "what agents ask").await
    }

    /// `GET /v1/agents/{name}`; the case of the name does not matter.
    pub async fn agent(&self, name: &str) -> Result<Answer<AgentStatus>, Error> {
        self.or_no_such_agent(name, self.get(&path_of(name, ""), &format!("agent {name}")).await).await
    }

    /// `GET /v1/agents/{name}/log`, with its query.
    pub async fn log(&self, name: &str, query: &str) -> Result<Stream<'_>, Error> {
        let path = path_of(name, &format!("/log?{query}"));
        self.or_no_such_agent(name, self.stream(&path, format!("the log of {name}"), None).await).await
    }

    /// `GET /v1/agents/{name}/screen`, with its query.
    pub async fn screen(&self, name: &str, query: &str) -> Result<Stream<'_>, Error> {
        let path = path_of(name, &format!("/screen?{query}"));
        self.or_no_such_agent(name, self.stream(&path, format!("the screen of {name}"), None).await).await
    }

    /// `GET /v1/agents/{name}/screen` with `follow=true`, and with its query.
    pub async fn screens(&self, name: &str, query: &str) -> Result<Messages<'_>, Error> {
        self.screen(name, &format!("follow=true&{query}")).await.map(Messages::new)
    }

    /// `GET /v1/events`, for all agents or for one, and for those that have all the labels.
    ///
    /// The events begin after the one with the id `after`, where `0` means with the first that is kept. Without `after` they begin
    /// now if `follow` is set, and else with the first that is kept.
    pub async fn events(
        &self,
        agent: Option<&str>,
        labels: &[String],
        after: Option<&str>,
        follow: bool,
    ) -> Result<Messages<'_>, Error> {
        let parameter = |key: &str, value: &str| format!("&{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        let agent = agent.map(|name| parameter("agent", name));
        let labels: String = labels.iter().map(|label| parameter("label", label)).collect();
        let path = format!("/v1/events?follow={follow}{}{labels}", agent.unwrap_or_default());
        self.stream(&path, "events".to_owned(), after).await.map(Messages::new)
    }

    /// Says of an agent that does not exist which one was probably meant.
    async fn or_no_such_agent<T>(&self, name: &str, result: Result<T, Error>) -> Result<T, Error> {
        match result {
            // Without a name, it is another route.
            Err(Error::Refused { status: StatusCode::NOT_FOUND, message, .. })
                if message == "agent not found" || name.is_empty() =>
            {
                // Without the list there is nothing to suggest.
                let agents = self.agents().await.map(|answer| answer.value).unwrap_or_default();
                let nearest = nearest(name, agents.iter().map(|agent| agent.name.as_str())).map(str::to_owned);
                Err(Error::NoSuchAgent { name: name.to_owned(), nearest })
            }
            other => other,
        }
    }

    /// Sends a request whose answer must begin within [`TIMEOUT`] and may then take any time.
    async fn stream(&self, path: &str, what: String, last_event_id: Option<&str>) -> Result<Stream<'_>, Error> {
        let mut request = self.request(path).map_err(|error| self.transport(&what, error))?;
        if let Some(id) = last_event_id {
            let id = HeaderValue::from_str(id).map_err(|error| self.transport(&what, error))?;
            request.headers_mut().insert("last-event-id", id);
        }
        let patient = tokio::time::timeout(TIMEOUT, self.http.request(request)).await;
        let response = patient.map_err(|_| self.timed_out(&what, TIMEOUT))?;
        let response = response.map_err(|error| self.unreached(&what, error))?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(Stream { client: self, what, body: response.into_body() });
        }
        let body = tokio::time::timeout(TIMEOUT, response.into_body().collect()).await;
        let body = body.map_err(|_| self.timed_out(&what, TIMEOUT))?.map_err(|error| self.transport(&what, error))?;
        Err(Error::Refused { what, status, message: refusal(&body.to_bytes()) })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, what: &str) -> Result<Answer<T>, Error> {
        let answer = tokio::time::timeout(TIMEOUT, self.exchange(path, what)).await;
        let (status, body) = answer.map_err(|_| self.timed_out(what, TIMEOUT))??;
        if status != StatusCode::OK {
            return Err(Error::Refused { what: what.to_owned(), status, message: refusal(&body) });
        }
        let value =
            serde_json::from_slice(&body).map_err(|source| Error::Malformed { what: what.to_owned(), source })?;
        Ok(Answer { value, body })
    }

    async fn exchange(&self, path: &str, what: &str) -> Result<(StatusCode, Bytes), Error> {
        let request = self.request(path).map_err(|error| self.transport(what, error))?;
        let response = self.http.request(request).await.map_err(|error| self.unreached(what, error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.transport(what, error))?;
        Ok((status, body.to_bytes()))
    }

    fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
        let mut uri = self.base.clone().into_parts();
        uri.path_and_query = Some(path.parse()?);
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from_parts(uri)?;
        request.headers_mut().insert(HOST, HeaderValue::from_static("agentd"));
        Ok(request)
    }

    fn unreached(&self, what: &str, error: hyper_util::client::legacy::Error) -> Error {
        match cause(&error).filter(|_| error.is_connect()) {
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Error::NotRunning(self.socket.clone()),
            Some(io::ErrorKind::PermissionDenied) => Error::Denied(self.socket.clone()),
            _ => self.transport(what, error),
        }
    }

    fn timed_out(&self, what: &str, patience: Duration) -> Error {
        Error::Timeout { socket: self.socket.clone(), what: what.to_owned(), patience }
    }

    fn transport(&self, what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Transport { socket: self.socket.clone(), what: what.to_owned(), source: source.into() }
    }
}

fn path_of(name: &str, what: &str) -> String {
    format!("/v1/agents/{}{what}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean {nearest:?}?")).unwrap_or_default()
}

/// The kind of the I/O error among an error's causes, if there is one.
fn cause(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    match error.downcast_ref::<io::Error>() {
        Some(error) => Some(error.kind()),
        None => error.source().and_then(cause),
    }
}

/// The path of a socket, with a note if [`SOCKET_VARIABLE`] names it: a variable that is still exported may name a daemon that ended
/// long ago.
fn named(socket: &Path) -> String {
    let is_from_variable = std::env::var_os(SOCKET_VARIABLE).is_some_and(|value| value == socket.as_os_str());
    let origin = if is_from_variable { format!(" (named by {SOCKET_VARIABLE})") } else { String::new() };
    format!("{}{origin}", socket.display())
}

/// Who may connect, as far as the permissions of the socket, or of the folder that hides it, can be read.
fn who_may_connect(socket: &Path) -> String {
    let group = socket.ancestors().find_map(|path| std::fs::metadata(path).ok()).map(|metadata| metadata.gid());
    match group.filter(|&group| group != 0).and_then(users::get_group_by_gid) {
        Some(group) => format!("a member of group {} or root", group.name().to_string_lossy()),
        None => "root, or the user that agentd runs as".to_owned(),
    }
}

/// Why a connection was of no use.
fn why(error: &(dyn std::error::Error + 'static)) -> String {
    match cause(error) {
        Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            "the connection has ended".to_owned()
        }
        _ => root_cause(error).to_string(),
    }
}

/// The innermost error. The errors around it say only that a request failed.
fn root_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    error.source().map_or(error, root_cause)
}

/// The message of a refusal; empty if it has none.
fn refusal(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    serde_json::from_slice(body).map(|Refusal { error }| error).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_answer_is_told_without_its_encoding() {
        let ended = io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF during chunk size line");
        assert_eq!(why(&ended), "the connection has ended");
        assert_eq!(why(&io::Error::other("no")), "no");
    }
}
