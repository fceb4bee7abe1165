//! The routes of the API, and the answer to each request.

use std::borrow::Cow;

use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;

use super::metrics::Figures;
use super::openapi;
use super::query::StreamRequest;
use crate::agent::name::Name;
use crate::observe::metrics;
use crate::observe::snapshot::Snapshot;
use crate::text::printable::json_line;
use crate::wire::status::Fault;

/// Every route, with the template of its path: what is not in this table is neither served nor described.
pub(super) const ROUTES: [(&str, Route); 8] = [
    ("/v1/health", Route::Health),
    ("/v1/agents", Route::Agents),
    ("/v1/agents/{name}", Route::Agent),
    ("/v1/agents/{name}/screen", Route::Screen),
    ("/v1/agents/{name}/log", Route::Log),
    ("/v1/events", Route::Events),
    ("/v1/openapi.json", Route::OpenApi),
    ("/metrics", Route::Metrics),
];

/// What stands for the name of an agent in the template of a path.
const NAME: &str = "{name}";

/// What a path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Health,
    Agents,
    Agent,
    Screen,
    Log,
    Events,
    OpenApi,
    Metrics,
}

impl Route {
    /// The route of a path, and the name in it, which is empty if there is none.
    pub(super) fn find(path: &str) -> Option<(Self, Cow<'_, str>)> {
        ROUTES.iter().find_map(|&(template, route)| Some((route, name_in(path, template)?)))
    }
}

/// What stands for the name in a path of this template.
fn name_in<'a>(path: &'a str, template: &str) -> Option<Cow<'a, str>> {
    let Some((before, after)) = template.split_once(NAME) else {
        return (path == template).then_some(Cow::Borrowed(""));
    };
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    (!name.is_empty() && !name.contains('/')).then(|| percent_decode_str(name).decode_utf8_lossy())
}

/// How a request is answered.
pub(super) enum Reply {
    /// With this answer.
    Now(Response<Bytes>),
    /// With figures, which were not passed.
    WithFigures,
    /// With a slow or endless answer.
    Later(StreamRequest),
}

/// The answer to one request. The body of a request is never read; the query matters only to requests with slow or endless answers.
pub(super) fn answer<B>(request: &Request<B>, snapshot: &Snapshot, figures: Option<&Figures>) -> Reply {
    let Some((route, name)) = Route::find(request.uri().path()) else {
        return Reply::Now(json(StatusCode::NOT_FOUND, error("not found")));
    };
    // hyper leaves out the body of an answer to HEAD.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = json(StatusCode::METHOD_NOT_ALLOWED, error("method not allowed"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Reply::Now(response);
    }
    let later = |order: Result<StreamRequest, String>| match order {
        Ok(order) => Reply::Later(order),
        Err(why) => Reply::Now(json(StatusCode::BAD_REQUEST, error(&why))),
    };
    Reply::Now(match route {
        Route::Metrics => match figures {
            None => return Reply::WithFigures,
            Some(Ok(text)) => response(StatusCode::OK, metrics::CONTENT_TYPE, text.clone()),
            Some(Err(why)) => json(StatusCode::SERVICE_UNAVAILABLE, error(why)),
        },
        Route::Health => json(StatusCode::OK, json_line(&snapshot.health()).into()),
        Route::OpenApi => json(StatusCode::OK, openapi::body()),
        Route::Agents => json(StatusCode::OK, snapshot.agents_body()),
        Route::Agent => match name.parse().ok().and_then(|key| snapshot.agent_in_full(&key)) {
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
        Route::Events => return later(StreamRequest::events(request)),
    })
}

pub(super) fn no_such_agent() -> Response<Bytes> {
    not_there("agent not found")
}

/// The answer to a request for something that does not exist.
pub(super) fn not_there(what: &str) -> Response<Bytes> {
    json(StatusCode::NOT_FOUND, error(what))
}

/// The answer to a request beyond the limit of slow answers.
pub(super) fn busy() -> Response<Bytes> {
    unavailable("too many clients are being served; try again later")
}

/// The answer to a request that cannot be served at the moment.
pub(super) fn unavailable(why: &str) -> Response<Bytes> {
    json(StatusCode::SERVICE_UNAVAILABLE, error(why))
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

fn error(what: &str) -> Bytes {
    json_line(&Fault { error: what.to_owned() }).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_one_thing_or_nothing() {
        let named = |route, name: &'static str| Some((route, Cow::Borrowed(name)));
        let agent = |name| named(Route::Agent, name);
        for (path, expected) in [
            ("/metrics", named(Route::Metrics, "")),
            ("/v1/openapi.json", named(Route::OpenApi, "")),
            ("/metrics/", None),
            ("/v1/metrics", None),
            ("/v1/health", named(Route::Health, "")),
            ("/v1/agents", named(Route::Agents, "")),
            ("/v1/agents/claude-code", agent("claude-code")),
            ("/v1/agents/a%20b", agent("a b")),
            ("/v1/agents/a%2Fb", agent("a/b")),
            ("/v1/agents/%C3%A9", agent("é")),
            ("/v1/agents/%ff", agent("\u{fffd}")),
            ("/v1/agents/%", agent("%")),
            ("/v1/agents/", None),
            ("/v1/agents/a/", None),
            ("/v1/agents/a/screen", named(Route::Screen, "a")),
            ("/v1/agents/a%2Fb/screen", named(Route::Screen, "a/b")),
            ("/v1/agents/a/screen/", None),
            ("/v1/agents/a/log", named(Route::Log, "a")),
            ("/v1/agents//screen", None),
            ("/v1/agents/a/b", None),
            ("/v1/events", named(Route::Events, "")),
            ("/v1/events/", None),
            ("/v1/health/", None),
            ("/V1/health", None),
            ("/v1", None),
            ("/", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(Route::find(path), expected, "{path}");
        }
    }
}
