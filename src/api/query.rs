//! Requests with slow or endless answers, and their query parameters.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::SystemTime;

use hyper::Request;
use hyper::header::{ACCEPT, HeaderMap};

use crate::agent::labels::Selector;
use crate::agent::name::{Key, Name};
use crate::logs::selection::Which;
use crate::sys::clock;
use crate::text::size;
use crate::wire::events::Since;

/// The media type of text with escape sequences for colors.
pub(super) const COLORED: &str = "text/x-ansi";

/// The parameter that selects agents by a label. It may be there more than once.
const LABEL: &str = "label";

/// The default media type of a screen.
const PLAIN: &str = "text/plain";

/// A request with a slow or endless answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StreamRequest {
    /// The events.
    Events {
        /// Where to begin; `None` is now.
        since: Option<Since>,
        /// Leave out events about other agents.
        agent: Option<Key>,
        /// Leave out events about agents that do not have all of these labels.
        labels: Vec<Selector>,
        /// Whether to go on with later events.
        follows: bool,
    },
    /// An agent's screen.
    Screen {
        /// The agent.
        agent: Key,
        /// Whether to include colors.
        colors: bool,
        /// Whether to go on with later changes.
        follows: bool,
    },
    /// An agent's log.
    Log {
        /// The agent.
        agent: Name,
        /// The attempt.
        which: Which,
        /// Only the last lines, so many of them.
        lines: Option<usize>,
        /// Only what was printed since then.
        since: Option<SystemTime>,
        /// The raw bytes, otherwise plain text.
        raw: bool,
        /// Whether to go on with later output.
        follows: bool,
        /// What the text has beside what was printed.
        style: Style,
    },
}

/// The labels that agents must have by a request for `/v1/agents`. What else its query has is ignored: clients of earlier builds send
/// anything.
pub(super) fn labels<B>(request: &Request<B>) -> Result<Vec<Selector>, String> {
    let pairs = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    Query(pairs.filter(|(name, _)| name == LABEL).collect()).take_labels()
}

/// Reads a request for a route that takes no parameters.
pub(super) fn nothing<B>(request: &Request<B>) -> Result<(), String> {
    match form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).next() {
        Some((name, _)) => Err(format!("unknown parameter {name:?}; this route takes none")),
        None => Ok(()),
    }
}

/// What the text of a log has beside what was printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// Each line begins with when it was printed.
    pub(super) stamps: bool,
    /// A line that no agent can print tells which attempt begins.
    pub(super) marks: bool,
}

fn count(text: &str) -> Result<usize, &'static str> {
    size::count(text).map_err(|_| "write a whole number from 0 on, such as 100")
}

fn flag(text: &str) -> Result<bool, &'static str> {
    text.parse().map_err(|_| "write true or false")
}

impl StreamRequest {
    /// Reads a request for `/v1/events`.
    pub(super) fn events<B>(request: &Request<B>) -> Result<Self, String> {
        let mut query = Query::of(request, &["after", "agent", LABEL, "follow"])?;
        let follows = query.take("follow", flag)?.unwrap_or(true);
        let header = request.headers().get("last-event-id").map(|value| String::from_utf8_lossy(value.as_bytes()));
        let after = query.take_text("after").or(header).filter(|id| !id.is_empty());
        let since = match after.as_deref() {
            None => (!follows).then_some(Since::Beginning),
            Some(id) => Some(id.parse::<Since>().map_err(|error| error.to_string())?),
        };
        let (agent, labels) = (query.take("agent", str::parse)?, query.take_labels()?);
        Ok(Self::Events { since, agent, labels, follows })
    }

    /// Reads a request for `/v1/agents/{name}/screen`.
    pub(super) fn screen<B>(agent: Key, request: &Request<B>) -> Result<Self, String> {
        let mut query = Query::of(request, &["colors", "follow"])?;
        let prefers = |media_type| prefers(request.headers(), media_type, PLAIN);
        let colors = query.take("colors", flag)?.unwrap_or_else(|| prefers(COLORED));
        let follows = query.take("follow", flag)?.unwrap_or_else(|| prefers("text/event-stream"));
        Ok(Self::Screen { agent, colors, follows })
    }

    /// Reads a request for `/v1/agents/{name}/log`.
    pub(super) fn log<B>(agent: Name, request: &Request<B>) -> Result<Self, String> {
        let mut query = Query::of(request, &["attempt", "lines", "since", "raw", "follow", "timestamps", "marks"])?;
        let which = query.take("attempt", str::parse)?.unwrap_or(Which::Latest);
        let lines = query.take("lines", count)?;
        let since = query.take("since", |text| clock::parse_moment(text, SystemTime::now()))?;
        let raw = query.take("raw", flag)?.unwrap_or(false);
        let follows = query.take("follow", flag)?.unwrap_or(false);
        let stamps = query.take("timestamps", flag)?.unwrap_or(false);
        let marks = query.take("marks", flag)?.unwrap_or(false);
        if raw && (stamps || marks) {
            return Err("raw=true has room for neither timestamps nor marks; leave one of them out".to_owned());
        }
        if which == Which::All && lines.is_some() {
            return Err("attempt=all has no last lines; name an attempt, or leave out lines".to_owned());
        }
        Ok(Self::Log { agent, which, lines, since, raw, follows, style: Style { stamps, marks } })
    }

    /// Whether the answer is endless.
    pub(super) fn follows(&self) -> bool {
        match *self {
            Self::Events { follows, .. } | Self::Screen { follows, .. } | Self::Log { follows, .. } => follows,
        }
    }
}

/// Whether a client names this media type in `Accept`, with no less weight than the default.
fn prefers(headers: &HeaderMap, media_type: &str, otherwise: &str) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<_> = values.flat_map(|value| value.split(',')).filter_map(Range::parse).collect();
    let is_named = ranges.iter().any(|range| range.name.eq_ignore_ascii_case(media_type));
    let weight = weight(&ranges, media_type);
    is_named && weight > 0 && weight >= self::weight(&ranges, otherwise)
}

/// The weight of the most specific range that a media type is in, see RFC 9110, 12.5.1.
fn weight(ranges: &[Range<'_>], media_type: &str) -> u16 {
    let matching = ranges.iter().filter_map(|range| Some((range.specificity(media_type)?, range.weight)));
    matching.max_by_key(|&(specificity, _)| specificity).map_or(0, |(_, weight)| weight)
}

/// One media range of an `Accept` header.
struct Range<'a> {
    name: &'a str,
    /// In thousandths.
    weight: u16,
}

impl<'a> Range<'a> {
    /// `None` if the weight is not valid: what the client means is not known.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next()?;
        let weight = parts.find_map(|part| {
            let (parameter, value) = part.split_once('=')?;
            parameter.trim().eq_ignore_ascii_case("q").then(|| value.trim())
        });
        Some(Self { name, weight: weight.map_or(Some(1000), thousandths)? })
    }

    /// How specifically the range names the media type, if it does.
    fn specificity(&self, media_type: &str) -> Option<u8> {
        let kind = media_type.split_once('/').map_or(media_type, |(kind, _)| kind);
        if self.name.eq_ignore_ascii_case(media_type) {
            Some(2)
        } else if self.name.strip_suffix("/*").is_some_and(|name| name.eq_ignore_ascii_case(kind)) {
            Some(1)
        } else {
            (self.name == "*/*").then_some(0)
        }
    }
}

/// A weight from 0 to 1 with up to three digits after the point (RFC 9110, 12.4.2).
fn thousandths(weight: &str) -> Option<u16> {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    let is_short = whole.len() == 1 && fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths = is_short.then(|| format!("{whole}{fraction:0<3}").parse().ok())??;
    (thousandths <= 1000).then_some(thousandths)
}

/// The query: what follows the question mark.
struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Reads a query that may have these parameters, each at most once unless it is a [`LABEL`], and no others.
    fn of<B>(request: &'a Request<B>, names: &[&str]) -> Result<Self, String> {
        let pairs: Vec<_> = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).collect();
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !names.contains(&name.as_ref()) {
                return Err(format!("unknown parameter {name:?}; this route takes {}", names.join(", ")));
            }
            if name != LABEL && pairs[..at].iter().any(|(other, _)| other == name) {
                return Err(format!("the parameter {name:?} is there twice"));
            }
        }
        Ok(Self(pairs))
    }

    /// Takes the labels that agents must have, however many there are.
    fn take_labels(&mut self) -> Result<Vec<Selector>, String> {
        let mut labels = Vec::new();
        while let Some(label) = self.take(LABEL, str::parse)? {
            labels.push(label);
        }
        Ok(labels)
    }

    fn take_text(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let at = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Takes a parameter with a parser whose errors say what is expected.
    fn take<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, String> {
        let Some(text) = self.take_text(name) else { return Ok(None) };
        parse(&text).map(Some).map_err(|error| format!("the parameter {name}={text}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::name::key;
    use crate::logs::attempt::Named;

    fn request(query: &str, headers: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(format!("/?{query}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn events_begin_now_by_default() {
        let order =
            |query: &str, headers: &[(&'static str, &str)]| StreamRequest::events(&request(query, headers)).unwrap();
        let seen = || Some(Since::Seen("7-1".parse().unwrap()));
        let events = |since, follows| StreamRequest::Events { since, agent: None, labels: Vec::new(), follows };
        assert_eq!(order("", &[]), events(None, true));
        assert_eq!(order("follow=false", &[]), events(Some(Since::Beginning), false));
        assert_eq!(order("after=0", &[]), events(Some(Since::Beginning), true));
        assert_eq!(order("after=7-1", &[("last-event-id", "7-2")]), events(seen(), true));
        assert_eq!(order("", &[("last-event-id", "7-1")]), events(seen(), true));
        assert_eq!(order("", &[("last-event-id", "")]), events(None, true));
        let of_agent =
            StreamRequest::Events { since: None, agent: Some(key("a-b")), labels: Vec::new(), follows: true };
        assert_eq!(order("agent=A-b", &[]), of_agent);
        assert_eq!(order("agent=%41%2db", &[]), of_agent);
    }

    #[test]
    fn labels_may_be_several_and_must_be_well_written() {
        let of =
            |query: &str| labels(&request(query, &[])).map(|labels| labels.iter().map(Selector::to_string).collect());
        assert_eq!(of("label=team%3Dweb&x=1&label=review"), Ok(vec!["team=web".to_owned(), "review".to_owned()]));
        assert_eq!(of("label=team=web"), Ok(vec!["team=web".to_owned()]));
        assert_eq!(of("anything=goes&anything=twice"), Ok(Vec::new()));
        for query in ["label=", "label=a+b", "label=%3Dx", "label=a=b=c"] {
            let refused: Result<Vec<String>, String> = of(query);
            assert!(refused.unwrap_err().contains("write KEY, or KEY=VALUE"), "{query}");
            assert!(StreamRequest::events(&request(query, &[])).is_err(), "{query}");
        }
        let StreamRequest::Events { labels, .. } =
            StreamRequest::events(&request("label=a&label=b=c&follow=true", &[])).unwrap()
        else {
            panic!("another request")
        };
        assert_eq!(labels.len(), 2);
    }

    #[test]
    fn events_of_what_cannot_be_an_agent_are_refused() {
        for query in ["agent=A+b", "agent=", "agent=%E2%84%AA"] {
            let refused = StreamRequest::events(&request(query, &[])).unwrap_err();
            assert!(refused.contains("a name has 1 to 64 characters"), "{query}: {refused}");
        }
    }

    #[test]
    fn a_screen_is_plain_and_sent_once_by_default() {
        let order = |query: &str, headers: &[(&'static str, &str)]| {
            StreamRequest::screen(key("A"), &request(query, headers)).unwrap()
        };
        let screen = |colors, follows| StreamRequest::Screen { agent: key("a"), colors, follows };
        assert_eq!(order("", &[("accept", "*/*")]), screen(false, false));
        assert_eq!(order("", &[("accept", "text/html;q=0.5, Text/X-ANSI;q=1")]), screen(true, false));
        assert_eq!(order("", &[("accept", "text/event-stream")]), screen(false, true));
        assert_eq!(order("", &[("accept", "text/event-stream, text/plain;q=0.9, */*;q=0.1")]), screen(false, true));
        for accept in [
            "text/event-stream;q=0, text/plain",
            "text/event-stream;q=0.1, text/plain",
            "text/event-stream; Q=0.5, text/*",
            "text/event-stream;q=0.999, */*",
            "text/x-ansi;q=0",
            "text/x-ansi;q=0.000, text/event-stream;level=1;q=0",
            "text/x-ansi;q=2, text/event-stream;q=high",
            "text/*, */*",
        ] {
            assert_eq!(order("", &[("accept", accept)]), screen(false, false), "{accept}");
        }
        assert_eq!(order("colors=false&follow=true", &[("accept", COLORED)]), screen(false, true));
    }

    #[test]
    fn a_log_is_whole_and_plain_by_default() {
        let agent = || Name::try_from("a").unwrap();
        let order = |query: &str| StreamRequest::log(agent(), &request(query, &[]));
        let log = |which, lines, since, raw, follows| StreamRequest::Log {
            agent: agent(),
            which,
            lines,
            since,
            raw,
            follows,
            style: Style::default(),
        };
        assert_eq!(order("").unwrap(), log(Which::Latest, None, None, false, false));
        assert_eq!(
            order("attempt=3&lines=10&raw=true").unwrap(),
            log(Which::Named(Named::Number(3)), Some(10), None, true, false)
        );
        let since = Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1));
        let expected = log(Which::Previous, None, since, false, true);
        assert_eq!(order("attempt=previous&since=1970-01-01T00:00:01Z&follow=true").unwrap(), expected);
        let StreamRequest::Log { since: Some(since), .. } = order("since=1h").unwrap() else { panic!("no time") };
        let ago = since.elapsed().unwrap().as_secs();
        assert!((3600..3700).contains(&ago), "{ago}");
        let StreamRequest::Log { which, style, .. } = order("attempt=all&timestamps=true&marks=true").unwrap() else {
            panic!("another request")
        };
        assert_eq!((which, style), (Which::All, Style { stamps: true, marks: true }));
        for (query, expected) in [
            ("raw=true&timestamps=true", "raw=true has room for neither"),
            ("raw=true&marks=true", "raw=true has room for neither"),
            ("attempt=all&lines=3", "attempt=all has no last lines"),
            ("attempt=first", "the parameter attempt=first: write the number of an attempt, such as 2, or 7-2 for"),
            ("lines=-1", "the parameter lines=-1: write a whole number from 0 on, such as 100"),
            ("lines=x", "the parameter lines=x: write a whole number from 0 on, such as 100"),
            ("lines=", "the parameter lines=: write a whole number from 0 on, such as 100"),
            ("raw=1", "the parameter raw=1: write true or false"),
            ("since=noon", "the parameter since=noon: neither a time (2026-11-21T17:00:00Z, "),
        ] {
            let error = order(query).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_query_that_cannot_be_meant_is_refused_by_name() {
        for (query, expected) in [
            ("folow=true", "unknown parameter \"folow\"; this route takes after, agent, label, follow"),
            ("follow=yes", "the parameter follow=yes: write true or false"),
            ("agent=a&agent=b", "the parameter \"agent\" is there twice"),
            ("after=yesterday", "\"yesterday\" is no event's id; one looks like 1790000000000-17"),
        ] {
            assert_eq!(StreamRequest::events(&request(query, &[])).unwrap_err(), expected);
        }
    }
}
