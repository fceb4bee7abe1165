//! The answer to a request.

use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::metrics::Figures;
use super::openapi;
use super::query::{self, StreamRequest};
use super::routes::Route;
use crate::agent::name::{Key, Name};
use crate::logs::store::Store;
use crate::observe::metrics;
use crate::observe::snapshot::Snapshot;
use crate::text::printable::json_line;
use crate::wire::status::{AgentStatus, Fault, FaultCode};

/// How a request is answered.
pub(super) enum Reply {
    /// With this answer.
    Now(Response<Bytes>),
    /// With figures, which were not passed.
    WithFigures,
    /// With a slow or endless answer.
    Later(StreamRequest),
}

/// The answer to one request. The body of a request is never read; the query matters only to requests with slow or endless answers, and
/// the labels in it to those for all agents.
pub(super) fn answer<B>(
    request: &Request<B>,
    snapshot: &Snapshot,
    logs: Option<&Store>,
    figures: Option<&Figures>,
) -> Reply {
    let Some((route, name)) = Route::find(request.uri().path()) else {
        return Reply::Now(json(StatusCode::NOT_FOUND, error(FaultCode::NotFound, "not found")));
    };
    // hyper leaves out the body of an answer to HEAD.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response =
            json(StatusCode::METHOD_NOT_ALLOWED, error(FaultCode::MethodNotAllowed, "method not allowed"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Reply::Now(response);
    }
    let later = |order: Result<StreamRequest, String>| match order {
        Ok(order) => Reply::Later(order),
        Err(why) => Reply::Now(json(StatusCode::BAD_REQUEST, error(FaultCode::BadQuery, &why))),
    };
    Reply::Now(match route {
        Route::Metrics => match figures {
            None => return Reply::WithFigures,
            Some(Ok(text)) => response(StatusCode::OK, metrics::CONTENT_TYPE, text.clone()),
            Some(Err(why)) => unavailable(why),
        },
        Route::Health => json(StatusCode::OK, json_line(&snapshot.health()).into()),
        Route::Holds => match query::nothing(request) {
            Ok(()) => json(StatusCode::OK, json_line(snapshot.holds()).into()),
            Err(why) => json(StatusCode::BAD_REQUEST, error(FaultCode::BadQuery, &why)),
        },
        Route::OpenApi => json(StatusCode::OK, openapi::body()),
        Route::Agents => match query::labels(request) {
            Ok(labels) if labels.is_empty() => json(StatusCode::OK, snapshot.agents_body()),
            Ok(labels) => json(StatusCode::OK, json_line(&snapshot.agents_labeled(&labels)).into()),
            Err(why) => json(StatusCode::BAD_REQUEST, error(FaultCode::BadQuery, &why)),
        },
        Route::Agent => match name.parse().ok().and_then(|key| in_full(&key, snapshot, logs)) {
            Some(agent) => json(StatusCode::OK, json_line(&agent).into()),
            None => no_such_agent(),
        },
        Route::Screen => match name.parse() {
            Ok(key) if snapshot.agent(&key).is_some() => return later(StreamRequest::screen(key, request)),
            _ => no_such_agent(),
        },
        // Logs outlive their agents.
        Route::Log => match Name::try_from(name.as_ref()) {
            Ok(name) => return later(StreamRequest::log(name, request)),
            Err(_) => no_such_agent(),
        },
        Route::Approvals => json(StatusCode::OK, json_line(snapshot.approvals()).into()),
        Route::Events => return later(StreamRequest::events(request)),
    })
}

/// All that is known about one agent.
fn in_full(agent: &Key, snapshot: &Snapshot, logs: Option<&Store>) -> Option<AgentStatus> {
    let logs = logs.and_then(|logs| logs.use_of(agent));
    Some(AgentStatus { logs, ..snapshot.agent_in_full(agent)? })
}

/// The answer to a request about an agent that nobody declares.
pub(super) fn no_such_agent() -> Response<Bytes> {
    json(StatusCode::NOT_FOUND, error(FaultCode::NoSuchAgent, "agent not found"))
}

/// The answer to a request for output that is not kept.
pub(super) fn nothing_kept(why: &str) -> Response<Bytes> {
    json(StatusCode::NOT_FOUND, error(FaultCode::NothingKept, why))
}

/// The answer to a request beyond the limit of slow answers.
pub(super) fn busy() -> Response<Bytes> {
    let why = "too many clients are being served; try again later";
    json(StatusCode::SERVICE_UNAVAILABLE, error(FaultCode::Busy, why))
}

/// The answer to a request that cannot be served at the moment.
pub(super) fn unavailable(why: &str) -> Response<Bytes> {
    json(StatusCode::SERVICE_UNAVAILABLE, error(FaultCode::Unavailable, why))
}

fn json(status: StatusCode, body: Bytes) -> Response<Bytes> {
    response(status, "application/json", body)
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn error(code: FaultCode, why: &str) -> Bytes {
    json_line(&Fault { error: why.to_owned(), code }).into()
}
