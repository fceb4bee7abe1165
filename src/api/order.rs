//! What a client asks for that takes time to answer, or has an answer without an end; and what its query may say.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use hyper::Request;
use hyper::header::{ACCEPT, HeaderMap};

use crate::events::Since;

/// The media type of text with escape sequences for colours.
pub(super) const COLOURED: &str = "text/x-ansi";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// What happened, or happens.
    Events {
        /// From where on; `None` is from now on.
        since: Option<Since>,
        /// The agent it is to be about, in lower case.
        agent: Option<String>,
        /// Whether to go on with what happens.
        follows: bool,
    },
    /// What an agent's screen shows.
    Screen {
        /// The agent, in lower case.
        agent: String,
        /// With its colours.
        colours: bool,
        /// Whether to go on with what it shows later.
        follows: bool,
    },
}

impl Order {
    /// Of `GET /v1/events`.
    pub(super) fn events<B>(request: &Request<B>) -> Result<Self, String> {
        let mut query = Query::of(request, &["after", "agent", "follow"])?;
        let follows = query.take("follow")?.unwrap_or(true);
        let header = request.headers().get("last-event-id").map(|value| String::from_utf8_lossy(value.as_bytes()));
        let after = query.take_text("after").or(header).filter(|id| !id.is_empty());
        let since = match after.as_deref() {
            None => (!follows).then_some(Since::Beginning),
            Some("0") => Some(Since::Beginning),
            Some(id) => Some(Since::Seen(id.parse().map_err(|error| format!("{error}"))?)),
        };
        Ok(Self::Events { since, agent: query.take_text("agent").map(|name| name.to_lowercase()), follows })
    }

    /// Of `GET /v1/agents/{name}/screen`.
    pub(super) fn screen<B>(agent: &str, request: &Request<B>) -> Result<Self, String> {
        let mut query = Query::of(request, &["colours", "follow"])?;
        let colours = query.take("colours")?.unwrap_or_else(|| accepts(request.headers(), COLOURED));
        let follows = query.take("follow")?.unwrap_or_else(|| accepts(request.headers(), "text/event-stream"));
        Ok(Self::Screen { agent: agent.to_lowercase(), colours, follows })
    }

    /// Whether the answer has no end.
    pub(super) fn follows(&self) -> bool {
        match *self {
            Self::Events { follows, .. } | Self::Screen { follows, .. } => follows,
        }
    }
}

/// Whether a client names this media type among what it accepts.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let ranges =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut named = ranges.map(|range| range.split(';').next().unwrap_or_default().trim());
    named.any(|named| named.eq_ignore_ascii_case(media_type))
}

/// What stands after the question mark.
struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// With these names, each once at most, and no other.
    fn of<B>(request: &'a Request<B>, names: &[&str]) -> Result<Self, String> {
        let pairs: Vec<_> = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).collect();
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !names.contains(&name.as_ref()) {
                return Err(format!("there is no parameter {name:?} here, but {}", names.join(", ")));
            }
            if pairs[..at].iter().any(|(other, _)| other == name) {
                return Err(format!("the parameter {name:?} is there twice"));
            }
        }
        Ok(Self(pairs))
    }

    fn take_text(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let at = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.swap_remove(at).1)
    }

    fn take<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Option<T>, String> {
        let parse = |text: Cow<'_, str>| text.parse().map_err(|error| format!("the parameter {name}={text}: {error}"));
        self.take_text(name).map(parse).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(query: &str, headers: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(format!("/?{query}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn events_are_told_from_now_on_unless_something_else_is_said() {
        let order = |query: &str, headers: &[(&'static str, &str)]| Order::events(&request(query, headers)).unwrap();
        let seen = || Some(Since::Seen("7-1".parse().unwrap()));
        let events = |since, follows| Order::Events { since, agent: None, follows };
        assert_eq!(order("", &[]), events(None, true));
        assert_eq!(order("follow=false", &[]), events(Some(Since::Beginning), false));
        assert_eq!(order("after=0", &[]), events(Some(Since::Beginning), true));
        assert_eq!(order("after=7-1", &[("last-event-id", "7-2")]), events(seen(), true));
        assert_eq!(order("", &[("last-event-id", "7-1")]), events(seen(), true));
        assert_eq!(order("", &[("last-event-id", "")]), events(None, true));
        let of_agent = Order::Events { since: None, agent: Some("a b".to_owned()), follows: true };
        assert_eq!(order("agent=A+b", &[]), of_agent);
        assert_eq!(order("agent=A%20b", &[]), of_agent);
    }

    #[test]
    fn a_screen_is_plain_and_told_once_unless_something_else_is_said() {
        let order =
            |query: &str, headers: &[(&'static str, &str)]| Order::screen("A", &request(query, headers)).unwrap();
        let screen = |colours, follows| Order::Screen { agent: "a".to_owned(), colours, follows };
        assert_eq!(order("", &[("accept", "*/*")]), screen(false, false));
        assert_eq!(order("", &[("accept", "text/html;q=0.5, Text/X-ANSI;q=1")]), screen(true, false));
        assert_eq!(order("", &[("accept", "text/event-stream")]), screen(false, true));
        assert_eq!(order("colours=false&follow=true", &[("accept", COLOURED)]), screen(false, true));
    }

    #[test]
    fn a_query_that_cannot_be_meant_is_refused_by_name() {
        for (query, expected) in [
            ("folow=true", "there is no parameter \"folow\" here, but after, agent, follow"),
            ("follow=yes", "the parameter follow=yes: provided string was not `true` or `false`"),
            ("agent=a&agent=b", "the parameter \"agent\" is there twice"),
            ("after=yesterday", "\"yesterday\" is no event's id; one looks like 1790000000000-17"),
        ] {
            assert_eq!(Order::events(&request(query, &[])).unwrap_err(), expected);
        }
    }
}
