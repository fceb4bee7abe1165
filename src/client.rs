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
use serde::de::DeserializeOwned;

pub use self::sse::{Message, Messages, Stream};
use crate::sys::unix_socket;
use crate::text::suggest::nearest;
use crate::wire::SOCKET_VARIABLE;
use crate::wire::approval::Approvals;
use crate::wire::history::{History, HistoryWanted};
use crate::wire::hold::GroupHold;
use crate::wire::run::RunStatus;
use crate::wire::status::{AgentStatus, Fault, FaultCode, Health, Time};

/// How long an answer may take in all. The daemon answers from memory, so one that takes this long does not work.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The most characters of the id of a run.
const LONGEST_ID: usize = 40;

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
    /// The daemon knows no such run, and says what would be right.
    #[error("{message}; agentd runs lists those that are kept")]
    NoSuchRun {
        /// The run, as it was given.
        name: String,
        /// What the daemon says.
        message: String,
    },
    /// Several runs have the id that was given alone.
    #[error("several runs have the id {id:?}: {}", names.join(", "))]
    SeveralRuns {
        /// The id.
        id: String,
        /// Those that have it.
        names: Vec<String>,
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
        /// The `code` of the answer.
        code: FaultCode,
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
    /// Whether the daemon knows neither an agent nor a run of that name.
    pub fn is_unknown_name(&self) -> bool {
        matches!(self, Self::NoSuchAgent { .. } | Self::NoSuchRun { .. })
    }

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

    /// `GET /v1/history`, at most `limit` of it.
    pub async fn history(&self, wanted: &HistoryWanted, limit: usize) -> Result<Answer<History>, Error> {
        let HistoryWanted { agent, since, outcomes, before } = wanted;
        let outcomes: Vec<&str> = outcomes.iter().map(|outcome| outcome.word()).collect();
        let parameters = [
            ("agent", agent.clone()),
            ("since", since.map(|since| Time(since).to_string())),
            ("outcome", Some(outcomes.join(",")).filter(|outcomes| !outcomes.is_empty())),
            ("cursor", before.as_ref().map(ToString::to_string)),
        ];
        let given = parameters.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let given = given.map(|(key, value)| format!("&{key}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC)));
        self.get(&format!("/v1/history?limit={limit}{}", given.collect::<String>()), "the history").await
    }

    /// `GET /v1/approvals`
    pub async fn approvals(&self) -> Result<Answer<Approvals>, Error> {
        self.get("/v1/approvals", "what agents ask").await
    }

    /// `GET /v1/runs`, with its query.
    pub async fn runs(&self, query: &str) -> Result<Answer<Vec<RunStatus>>, Error> {
        self.get(&format!("/v1/runs?{query}"), "the runs").await
    }

    /// `GET /v1/runs/{name}/{id}`, of a run that is named `NAME/ID`.
    pub async fn run(&self, name: &str) -> Result<Answer<RunStatus>, Error> {
        self.or_no_such_agent(name, self.get(&path_of(name, ""), &format!("run {name}")).await).await
    }

    /// The run that is meant by its id alone; `None` if none has it, or the daemon knows no runs.
    pub async fn run_with_id(&self, id: &str) -> Result<Option<RunStatus>, Error> {
        // What can be no id is not asked for.
        if id.len() > LONGEST_ID || !is_word(id) {
            return Ok(None);
        }
        match self.runs(&format!("id={}", utf8_percent_encode(id, NON_ALPHANUMERIC))).await {
            Ok(Answer { mut value, .. }) if value.len() <= 1 => Ok(value.pop()),
            Ok(Answer { value, .. }) => {
                let names = value.into_iter().map(|run| run.name).collect();
                Err(Error::SeveralRuns { id: id.to_owned(), names })
            }
            // An older daemon.
            Err(Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `GET /v1/runs/{name}/{id}/stdout` or `stderr`, of a run that is named `NAME/ID`, with its query.
    pub async fn output(&self, name: &str, output: &str, query: &str) -> Result<Stream<'_>, Error> {
        let path = path_of(name, &format!("/{output}?{query}"));
        self.or_no_such_agent(name, self.stream(&path, format!("the {output} of {name}"), None).await).await
    }

    /// `GET /v1/agents/{name}`; the case of the name does not matter. Of a run, `NAME/ID` or an id that one run alone has, the status
    /// is in the form of an agent's, and the body is that of `GET /v1/runs/{name}/{id}`.
    pub async fn agent(&self, name: &str) -> Result<Answer<AgentStatus>, Error> {
        let in_form = |Answer { value, body }: Answer<RunStatus>| Answer { value: value.as_agent(), body };
        if of_run(name).is_some() {
            return self.run(name).await.map(in_form);
        }
        let asked = self.get(&path_of(name, ""), &format!("agent {name}")).await;
        match self.or_no_such_agent(name, asked).await {
            Err(error @ Error::NoSuchAgent { .. }) => match self.run_with_id(name).await? {
                Some(run) => self.run(&run.name).await.map(in_form),
                None => Err(error),
            },
            asked => asked,
        }
    }

    /// The log of an agent or a run, with its query.
    pub async fn log(&self, name: &str, query: &str) -> Result<Stream<'_>, Error> {
        self.of_either(name, "log", query).await
    }

    /// The screen of an agent or a run, with its query.
    pub async fn screen(&self, name: &str, query: &str) -> Result<Stream<'_>, Error> {
        self.of_either(name, "screen", query).await
    }

    /// What an agent has, or else a run with this id.
    async fn of_either(&self, name: &str, what: &str, query: &str) -> Result<Stream<'_>, Error> {
        let ask = async |name: &str| {
            let path = path_of(name, &format!("/{what}?{query}"));
            self.or_no_such_agent(name, self.stream(&path, format!("the {what} of {name}"), None).await).await
        };
        match ask(name).await {
            Err(error @ Error::NoSuchAgent { .. }) => match self.run_with_id(name).await? {
                Some(run) => ask(&run.name).await,
                None => Err(error),
            },
            asked => asked,
        }
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
            Err(Error::Refused { status: StatusCode::NOT_FOUND, code: FaultCode::NoSuchRun, message, .. }) => {
                Err(Error::NoSuchRun { name: name.to_owned(), message })
            }
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
        let Fault { error: message, code } = refusal(&body.to_bytes());
        Err(Error::Refused { what, status, message, code })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, what: &str) -> Result<Answer<T>, Error> {
        let answer = tokio::time::timeout(TIMEOUT, self.exchange(path, what)).await;
        let (status, body) = answer.map_err(|_| self.timed_out(what, TIMEOUT))??;
        if status != StatusCode::OK {
            let Fault { error: message, code } = refusal(&body);
            return Err(Error::Refused { what: what.to_owned(), status, message, code });
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

/// Whether a text has only characters that names and ids have.
fn is_word(text: &str) -> bool {
    let is_of_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !text.is_empty() && text.bytes().all(is_of_word)
}

/// The agent and the id, if a name is that of a run. Whatever else has a slash is the name of nothing.
fn of_run(name: &str) -> Option<(&str, &str)> {
    name.split_once('/').filter(|(agent, id)| is_word(agent) && is_word(id))
}

/// The path of an agent, or of a run.
fn path_of(name: &str, what: &str) -> String {
    match of_run(name) {
        Some((agent, id)) => format!("/v1/runs/{agent}/{id}{what}"),
        None => format!("/v1/agents/{}{what}", utf8_percent_encode(name, NON_ALPHANUMERIC)),
    }
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

/// What a refusal says; nothing if that is not understood.
fn refusal(body: &[u8]) -> Fault {
    serde_json::from_slice(body).unwrap_or_else(|_| Fault { error: String::new(), code: FaultCode::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_slash_is_that_of_a_run() {
        assert_eq!(path_of("a b", "/log?x"), "/v1/agents/a%20b/log?x");
        assert_eq!(path_of("fixer/t1", "/stdout?"), "/v1/runs/fixer/t1/stdout?");
        for name in ["fixer/t1/x", "../health", "/t1", "fixer/"] {
            assert!(path_of(name, "").starts_with("/v1/agents/") && !path_of(name, "")[11..].contains('/'), "{name}");
        }
    }

    #[test]
    fn an_interrupted_answer_is_told_without_its_encoding() {
        let ended = io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF during chunk size line");
        assert_eq!(why(&ended), "the connection has ended");
        assert_eq!(why(&io::Error::other("no")), "no");
    }
}
