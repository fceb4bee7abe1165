//! Answers of the API that have no end, as its clients meet them.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Server, read_until_closed, running};
use agentd::api::Limits;
use agentd::wire::events::What;
use agentd::wire::status::AgentStatus;

const HEADER: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n";

fn server(limits: Limits) -> Server {
    Server::start(vec![running("a"), running("b")], limits)
}

fn happens(server: &Server, name: &str) {
    server.happenings.send_modify(|ring| ring.push(What::Removed { name: name.to_owned() }));
}

/// A client that has read the header of a stream.
fn follow(server: &Server, path: &str, headers: &str) -> BufReader<UnixStream> {
    let mut stream = server.connect();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: agentd\r\n{headers}\r\n").unwrap();
    let mut stream = BufReader::new(stream);
    let mut header = String::new();
    while !header.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut header).unwrap() > 0, "{header}");
    }
    assert!(header.starts_with(HEADER) && header.contains("Transfer-Encoding: chunked\r\n"), "{header}");
    stream
}

/// The next message, an empty one for a comment.
fn next(stream: &mut BufReader<UnixStream>) -> Option<String> {
    let mut length = String::new();
    stream.read_line(&mut length).unwrap();
    let mut chunk = vec![0; usize::from_str_radix(length.trim_end(), 16).unwrap() + 2];
    stream.read_exact(&mut chunk).unwrap();
    let text = String::from_utf8(chunk).unwrap();
    let message = text.strip_suffix("\r\n").unwrap();
    Some(message.to_owned()).filter(|message| !message.is_empty())
}

/// The number at the end of the next message's id.
fn next_number(stream: &mut BufReader<UnixStream>) -> u64 {
    let message = next(stream).unwrap();
    let id = message.lines().find_map(|line| line.strip_prefix("id: ")).unwrap_or_else(|| panic!("{message:?}"));
    id.rsplit_once('-').unwrap().1.parse().unwrap()
}

fn comes_true(mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < limit);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_listener_gets_events_as_they_happen() {
    let server = server(Limits::default());
    happens(&server, "before");
    let mut clients: Vec<_> = (0..20).map(|_| follow(&server, "/v1/events", "")).collect();
    happens(&server, "a");
    happens(&server, "b");
    for client in &mut clients {
        assert_eq!(next(client).unwrap(), "retry: 1000\nid: 0-1\n\n");
        let message = next(client).unwrap();
        assert!(message.starts_with("id: 0-2\nevent: removed\ndata: {\"id\":\"0-2\",\"at\":\""), "{message}");
        assert!(message.ends_with(",\"type\":\"removed\",\"name\":\"a\"}\n\n"), "{message}");
        assert_eq!(next_number(client), 3);
    }
}

#[test]
fn a_client_that_reconnects_gets_what_it_missed() {
    let server = server(Limits::default());
    (0..4).for_each(|_| happens(&server, "a"));
    for (path, header) in [("/v1/events", "Last-Event-ID: 0-2\r\n"), ("/v1/events?after=0-2", "")] {
        let mut client = follow(&server, path, header);
        next(&mut client);
        assert_eq!((next_number(&mut client), next_number(&mut client)), (3, 4));
    }
    let mut client = follow(&server, "/v1/events", "Last-Event-ID: 99-2\r\n");
    next(&mut client);
    let message = next(&mut client).unwrap();
    assert!(message.starts_with("id: 0-0\nevent: missed\n"), "{message}");
    assert_eq!(next_number(&mut client), 1);
}

#[test]
fn a_client_that_does_not_follow_gets_what_is_kept_once() {
    let server = server(Limits::default());
    happens(&server, "a");
    happens(&server, "B");
    let answer = server.get("/v1/events?follow=false");
    assert!(answer.contains("\"a\"}") && answer.contains("\"B\"}") && answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
    let answer = server.get("/v1/events?follow=false&agent=b");
    assert!(!answer.contains("\"a\"}") && answer.contains("\"B\"}"), "{answer}");
    // As `nc -N` does: it closes its side at once and reads to the end.
    let mut stream = server.connect();
    stream.write_all(b"GET /v1/events?follow=false HTTP/1.0\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let answer = String::from_utf8(read_until_closed(&mut stream)).unwrap();
    assert!(answer.ends_with("\"B\"}\n\n"), "{answer}");
}

#[test]
fn a_stream_that_has_nothing_to_tell_shows_that_it_lives() {
    let server = server(Limits { heartbeat: Duration::from_millis(50), ..Limits::default() });
    let mut client = follow(&server, "/v1/events", "");
    next(&mut client);
    let nothing = "id: 0-0\n\n".to_owned();
    assert_eq!((next(&mut client).unwrap(), next(&mut client).unwrap()), (nothing.clone(), nothing.clone()));
    happens(&server, "a");
    let mut message = nothing.clone();
    while message == nothing {
        message = next(&mut client).unwrap();
    }
    assert!(message.starts_with("id: 0-1\nevent: "), "{message}");
}

/// The last id that a client has seen, as browsers and libraries keep it.
fn last_id(message: &str) -> &str {
    message.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap()
}

#[test]
fn a_client_that_saw_no_event_resumes_where_it_connected() {
    let server = server(Limits::default());
    happens(&server, "before");
    let id = next(&mut follow(&server, "/v1/events", "")).unwrap();
    happens(&server, "missed");
    let mut again = follow(&server, "/v1/events", &format!("Last-Event-ID: {}\r\n", last_id(&id)));
    next(&mut again);
    assert_eq!(next_number(&mut again), 2);
    // The daemon after this one has another epoch.
    let mut at_the_next = follow(&server, "/v1/events", "Last-Event-ID: 99-7\r\n");
    assert_eq!(last_id(&next(&mut at_the_next).unwrap()), "99-7");
    assert!(next(&mut at_the_next).unwrap().contains("event: missed"));
    let mut from_the_beginning = follow(&server, "/v1/events?after=0", "");
    assert_eq!(last_id(&next(&mut from_the_beginning).unwrap()), "0");
}

#[test]
fn events_about_others_move_on_where_a_client_resumes() {
    let server = server(Limits { heartbeat: Duration::from_millis(50), ..Limits::default() });
    let mut client = follow(&server, "/v1/events?agent=a", "");
    next(&mut client);
    (0..3).for_each(|_| happens(&server, "b"));
    comes_true(|| last_id(&next(&mut client).unwrap()) == "0-3");
}

#[test]
fn one_stream_too_many_is_refused_until_another_ends() {
    let server = server(Limits { streams: 2, ..Limits::default() });
    let first = follow(&server, "/v1/events", "");
    let _second = follow(&server, "/v1/events", "");
    let refused = server.exchange("GET /v1/events HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{refused}");
    let expected = "{\"error\":\"too many clients are being served; try again later\",\"code\":\"busy\"}\n";
    assert!(refused.ends_with(expected), "{refused}");
    server.get("/v1/agents");
    drop(first);
    comes_true(|| {
        server.exchange("GET /v1/events?follow=false HTTP/1.1\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 200")
    });
}

#[test]
fn who_follows_and_does_not_read_is_given_up() {
    let server = server(Limits { streams: 1, stall: Duration::from_millis(200), ..Limits::default() });
    let mut silent = follow(&server, "/v1/events", "");
    let error = "x".repeat(16 << 10);
    comes_true(|| {
        let about = agentd::wire::events::Subject::Config;
        server.happenings.send_modify(|ring| ring.push(What::Error { about, name: None, error: error.clone() }));
        server.exchange("GET /v1/events?follow=false HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200")
    });
    let mut rest = Vec::new();
    // Not the end that the protocol has.
    drop(silent.read_to_end(&mut rest));
    assert!(!rest.ends_with(b"0\r\n\r\n"));
}

#[test]
fn streams_end_with_the_daemon() {
    let mut server = server(Limits::default());
    let mut client = follow(&server, "/v1/events", "");
    server.stop();
    let end = client.read_to_end(&mut Vec::new());
    // However it is closed; not that nothing comes any more.
    assert!(!matches!(end.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)));
}

#[test]
fn an_invalid_query_and_an_unknown_agent_fail_at_once() {
    let server = server(Limits::default());
    let ask = |path: &str| server.exchange(&format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n"));
    let answer = ask("/v1/events?folow=false");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("unknown parameter \\\"folow\\\""), "{answer}");
    for (query, right) in [
        ("agents/a/log?lines=x", "the parameter lines=x: write a whole number from 0 on"),
        ("agents/a/log?raw=1", "the parameter raw=1: write true or false"),
        ("agents/a/log?attempt=one", "the parameter attempt=one: write the number of an attempt"),
        ("agents/a/log?since=noon", "the parameter since=noon: neither a time"),
        ("agents/a/screen?colors=some", "the parameter colors=some: write true or false"),
        ("events?after=noon", "is no event's id; one looks like"),
    ] {
        let answer = ask(&format!("/v1/{query}"));
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(right), "{query}: {answer}");
    }
    let answer = ask("/v1/agents/c/screen");
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("agent not found"), "{answer}");
    let answer = ask("/v1/agents/A/screen");
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("there is no tmux to ask"), "{answer}");
    let head = server.exchange("HEAD /v1/events?follow=false HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(head.starts_with(HEADER) && head.ends_with("\r\n\r\n"), "{head}");
    let post = server.exchange("POST /v1/events HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
}

#[test]
fn events_are_selected_by_the_labels_of_their_agents() {
    let server = server(Limits::default());
    server.happenings.send_modify(|ring| {
        let removed = |name: &str| What::Removed { name: name.to_owned() };
        ring.push_labeled(removed("web"), [("team".to_owned(), "web".to_owned())].into());
        ring.push_labeled(removed("ops"), [("team".to_owned(), "ops".to_owned())].into());
        ring.push(removed("other"));
    });
    for (query, expected) in [("label=team=web", "web"), ("label=team%3Dops&label=team", "ops")] {
        let mut stream = server.connect();
        write!(stream, "GET /v1/events?follow=false&{query} HTTP/1.1\r\nHost: agentd\r\n\r\n").unwrap();
        let answer = String::from_utf8(read_until_closed(&mut stream)).unwrap();
        assert!(answer.contains(&format!("\"name\":\"{expected}\"")), "{query}: {answer}");
        assert_eq!(answer.matches("\"type\":\"removed\"").count(), 1, "{query}: {answer}");
    }
    let mut stream = server.connect();
    write!(stream, "GET /v1/events?label=a+b HTTP/1.1\r\nHost: agentd\r\nConnection: close\r\n\r\n").unwrap();
    let answer = String::from_utf8(read_until_closed(&mut stream)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("KEY=VALUE"), "{answer}");
}

#[test]
fn agents_are_selected_by_their_labels() {
    let labeled = |name: &str, pairs: &[(&str, &str)]| {
        let labels = pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        AgentStatus { labels, ..running(name) }
    };
    let agents = vec![
        labeled("a", &[("team", "web"), ("review", "")]),
        labeled("b", &[("team", "web")]),
        labeled("c", &[("team", "ops")]),
        running("d"),
    ];
    let server = Server::start(agents, Limits::default());
    let ask = |query: &str| {
        server.exchange(&format!("GET /v1/agents{query} HTTP/1.1\r\nHost: agentd\r\nConnection: close\r\n\r\n"))
    };
    let names = |query: &str| {
        let answer = ask(query);
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let agents: Vec<AgentStatus> = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        agents.into_iter().map(|agent| agent.name).collect::<String>()
    };
    assert_eq!(names("?label=team%3Dweb"), "ab");
    assert_eq!(names("?label=team"), "abc");
    assert_eq!(names("?label=team=web&label=review"), "a");
    assert_eq!(names("?label=team=none"), "");
    assert_eq!(names("?anything=is&ignored"), "abcd");
    assert!(ask("?label=a%20b").starts_with("HTTP/1.1 400"));
    assert!(ask("?label=team").contains("\"labels\":{\"team\":\"ops\"}"));
}
