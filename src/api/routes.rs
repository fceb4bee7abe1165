//! Which request gets which answer.

use std::borrow::Cow;

use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;

use crate::status::{self, Snapshot};

/// What a path means.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Health,
    Agents,
    Agent(Cow<'a, str>),
}

impl<'a> Route<'a> {
    fn find(path: &'a str) -> Option<Self> {
        match path {
            "/v1/health" => Some(Self::Health),
            "/v1/agents" => Some(Self::Agents),
            _ => {
                let name = path.strip_prefix("/v1/agents/")?;
                let one_segment = !name.is_empty() && !name.contains('/');
                one_segment.then(|| Self::Agent(percent_decode_str(name).decode_utf8_lossy()))
            }
        }
    }
}

/// The answer to one request. Its body is never read, and a query string means nothing.
pub(super) fn answer<B>(request: &Request<B>, snapshot: &Snapshot) -> Response<Bytes> {
    let Some(route) = Route::find(request.uri().path()) else {
        return json(StatusCode::NOT_FOUND, error("not found"));
    };
    // hyper leaves out the body where the method is HEAD.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = json(StatusCode::METHOD_NOT_ALLOWED, error("method not allowed"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match route {
        Route::Health => json(StatusCode::OK, status::body(&snapshot.health())),
        Route::Agents => json(StatusCode::OK, snapshot.agents_body()),
        Route::Agent(name) => match snapshot.agent_in_full(&name) {
            Some(agent) => json(StatusCode::OK, status::body(&agent)),
            None => json(StatusCode::NOT_FOUND, error("agent not found")),
        },
    }
}

fn json(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn error(what: &'static str) -> Bytes {
    status::body(&serde_json::json!({ "error": what }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_one_thing_or_nothing() {
        let agent = |name: &'static str| Some(Route::Agent(name.into()));
        for (path, expected) in [
            ("/v1/health", Some(Route::Health)),
            ("/v1/agents", Some(Route::Agents)),
            ("/v1/agents/claude-code", agent("claude-code")),
            ("/v1/agents/a%20b", agent("a b")),
            ("/v1/agents/a%2Fb", agent("a/b")),
            ("/v1/agents/%C3%A9", agent("é")),
            ("/v1/agents/%ff", agent("\u{fffd}")),
            ("/v1/agents/%", agent("%")),
            ("/v1/agents/", None),
            ("/v1/agents/a/", None),
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
