//! The API as its clients meet it: bytes on a Unix socket, well-behaved and otherwise.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod client;
mod descriptors;
mod metrics;
mod socket;
mod streams;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentd::api::Limits;
use agentd::observe::snapshot::Parts;
use agentd::wire::status::Errors;
use support::{Server, large, many_descriptors, read_until_closed, running, snapshot};

const TWO_AGENTS: &str = "[{\"name\":\"Reviewer\",\"running\":true,\"session\":\"Reviewer\",\"restarts\":0,\"state\":\"running\"},\
                          {\"name\":\"claude-code\",\"running\":true,\"session\":\"claude-code\",\"restarts\":0,\"state\":\"running\"}]\n";

fn two_agents() -> Server {
    Server::start(vec![running("claude-code"), running("Reviewer")], Limits::default())
}

/// Short enough to wait for, long enough to be told from "at once".
fn short() -> Limits {
    Limits {
        header: Duration::from_millis(500),
        idle: Duration::from_secs(3),
        stall: Duration::from_millis(500),
        ..Limits::default()
    }
}

/// The header without what changes from day to day.
fn header(answer: &str) -> Vec<&str> {
    let (header, _) = answer.split_once("\r\n\r\n").unwrap();
    header.split("\r\n").filter(|line| !line.starts_with("Date: ")).collect()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

/// Nothing more is to come.
fn assert_closed(stream: &mut UnixStream) {
    assert_eq!(read_until_closed(stream), b"");
}

fn assert_open(stream: &UnixStream) {
    stream.set_nonblocking(true).unwrap();
    let mut stream = stream;
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
}

#[test]
fn agents_are_listed_sorted_with_the_header_that_clients_know() {
    let server = two_agents();
    let answer = server.get("/v1/agents");
    assert_eq!(body(&answer), TWO_AGENTS);
    let length = format!("Content-Length: {}", TWO_AGENTS.len());
    assert_eq!(
        header(&answer),
        ["HTTP/1.1 200 OK", "Content-Type: application/json", "Connection: close", length.as_str()]
    );
}

#[test]
fn no_agents_are_an_empty_list() {
    assert_eq!(body(&Server::start(Vec::new(), Limits::default()).get("/v1/agents")), "[]\n");
}

#[test]
fn a_new_snapshot_is_served_at_once_even_on_an_old_connection() {
    let server = two_agents();
    let mut stream = server.connect();
    let request = b"GET /v1/agents HTTP/1.1\r\n\r\n";
    stream.write_all(request).unwrap();
    assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
    server.snapshots.send(Arc::new(snapshot(Vec::new()))).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).unwrap();
    assert!(answer[..length].ends_with(b"\r\n\r\n[]\n"));
}

#[test]
fn an_agent_is_found_by_its_encoded_name_in_any_case() {
    let server = two_agents();
    for path in ["/v1/agents/Reviewer", "/v1/agents/rEVIEWER", "/v1/agents/%52eviewer", "/v1/agents/reviewer?a=b"] {
        let expected = TWO_AGENTS[1..].split_inclusive('}').next().unwrap();
        assert_eq!(body(&server.get(path)), format!("{expected}\n"), "{path}");
    }
}

#[test]
fn health_reports_state_uptime_and_version() {
    let server = two_agents();
    let expected =
        format!("{{\"state\":\"running\",\"uptime_seconds\":0,\"version\":\"{}\"}}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(body(&server.get("/v1/health?verbose")), expected);
}

#[test]
fn what_is_not_there_is_404_in_json() {
    let server = two_agents();
    for (path, expected) in [
        ("/v1/agents/nobody", r#""agent not found","code":"no-such-agent""#),
        ("/v1/agents/Reviewer%2F", r#""agent not found","code":"no-such-agent""#),
        ("/v1/agents/", r#""not found","code":"not-found""#),
        ("/v1/agents/Reviewer/", r#""not found","code":"not-found""#),
        ("/v1/health/", r#""not found","code":"not-found""#),
        ("/", r#""not found","code":"not-found""#),
    ] {
        let answer = server.exchange(&format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n"));
        assert_eq!(header(&answer)[..2], ["HTTP/1.1 404 Not Found", "Content-Type: application/json"], "{path}");
        assert_eq!(body(&answer), format!("{{\"error\":{expected}}}\n"), "{path}");
    }
}

#[test]
fn other_methods_are_405_and_their_bodies_are_not_awaited() {
    let server = two_agents();
    for (method, path) in
        [("POST", "/v1/agents"), ("DELETE", "/v1/agents/Reviewer"), ("OPTIONS", "/v1/health"), ("PUT", "/metrics")]
    {
        let answer = server.exchange(&format!(
            "{method} {path} HTTP/1.1\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n"
        ));
        assert_eq!(
            header(&answer)[..3],
            ["HTTP/1.1 405 Method Not Allowed", "Content-Type: application/json", "Allow: GET, HEAD"]
        );
        assert_eq!(body(&answer), "{\"error\":\"method not allowed\",\"code\":\"method-not-allowed\"}\n");
    }
    assert!(server.exchange("POST /v1/nothing HTTP/1.1\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 404 "));
}

#[test]
fn a_body_that_is_never_sent_delays_no_answer() {
    let answer = two_agents().exchange("GET /v1/agents HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nonly this");
    assert_eq!(body(&answer), TWO_AGENTS);
}

#[test]
fn head_has_the_header_of_get_and_no_body() {
    let server = two_agents();
    for path in ["/v1/agents", "/v1/agents/reviewer", "/v1/agents/nobody", "/nowhere"] {
        let [get, head] = ["GET", "HEAD"]
            .map(|method| server.exchange(&format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n\r\n")));
        assert_eq!(header(&head), header(&get), "{path}");
        assert!(!body(&get).is_empty() && body(&head).is_empty(), "{path}");
    }
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let server = two_agents();
    let answer = server.exchange("GET /v1/agents HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert_eq!(body(&answer), TWO_AGENTS);
}

#[test]
fn a_client_that_closes_its_direction_gets_its_whole_answer() {
    let server = Server::start(vec![large("a")], Limits::default());
    let mut stream = server.connect();
    stream.write_all(b"GET /v1/agents HTTP/1.1\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(read_until_closed(&mut stream).ends_with(b"}]\n"));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let requests = "GET /v1/health HTTP/1.1\r\n\r\nGET /v1/agents HTTP/1.1\r\n\r\n".repeat(500);
    let answer = two_agents().exchange(&format!("{requests}GET /last HTTP/1.0\r\n\r\n"));
    let order: Vec<&str> = answer.matches("\"uptime_seconds\"").collect();
    assert_eq!(order.len(), 500);
    assert_eq!(answer.matches(TWO_AGENTS).count(), 500);
    assert!(answer.find("uptime_seconds") < answer.find(TWO_AGENTS));
    assert!(answer.ends_with("{\"error\":\"not found\",\"code\":\"not-found\"}\n"), "{answer}");
}

#[test]
fn what_is_no_http_is_refused_and_closed() {
    let server = two_agents();
    for nonsense in
        ["\0\u{1}\u{2}\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n"]
    {
        let answer = server.exchange(nonsense);
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{nonsense:?}: {answer:?}");
    }
}

#[test]
fn a_header_may_have_at_most_16_kib() {
    let server = two_agents();
    let request = |length: usize| {
        let start = "GET /v1/agents HTTP/1.1\r\nConnection: close\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4))
    };
    assert!(server.exchange(&request(16 * 1024)).starts_with("HTTP/1.1 200 "));
    assert!(server.exchange(&request(16 * 1024 + 1)).starts_with("HTTP/1.1 431 "));

    let mut stream = server.connect();
    // The server may close before all of it is sent.
    _ = stream.write_all(request(1 << 20).as_bytes());
    assert!(read_until_closed(&mut stream).starts_with(b"HTTP/1.1 431 "));
}

#[test]
fn silent_and_incomplete_clients_are_closed_as_others_proceed() {
    let server = Server::start(vec![running("a")], short());
    let from = Instant::now();
    let mut silent = server.connect();
    let mut half = server.connect();
    half.write_all(b"GET /v1/agents HTTP/1.1\r\nHost:").unwrap();
    let mut half_of_second = server.connect();
    half_of_second.write_all(b"GET /v1/agents HTTP/1.1\r\n\r\nGET").unwrap();
    server.get("/v1/agents");
    assert_open(&silent);
    assert_open(&half);
    assert_closed(&mut silent);
    assert_closed(&mut half);
    assert!(read_until_closed(&mut half_of_second).ends_with(b"}]\n"));
    assert!(from.elapsed() >= short().header);
    assert!(from.elapsed() < short().idle);
}

#[test]
fn an_idle_connection_is_kept_longer_than_a_header_may_take() {
    let server = Server::start(vec![running("a")], short());
    let mut stream = server.connect();
    stream.write_all(b"GET /v1/agents HTTP/1.1\r\n\r\n").unwrap();
    assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
    let from = Instant::now();
    assert_closed(&mut stream);
    assert!(from.elapsed() > short().header * 2, "{:?}", from.elapsed());
}

#[test]
fn a_client_that_never_reads_is_closed_while_others_are_served() {
    let server = Server::start(vec![large("a")], short());
    let mut deaf = server.connect();
    for _ in 0..3 {
        deaf.write_all(b"GET /v1/agents HTTP/1.1\r\n\r\n").unwrap();
    }
    assert!(server.get("/v1/agents").len() > 2 << 20);
    // Closed means that it can no longer be written to; that it stopped in the midst shows that this was not for want of requests.
    let from = Instant::now();
    while deaf.write_all(b"\r\n").is_ok() {
        assert!(from.elapsed() < support::PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(read_until_closed(&mut deaf).len() < 2 << 20);
}

#[test]
fn a_slow_reader_is_waited_for() {
    let server = Server::start(vec![large("a")], short());
    let mut slow = server.connect();
    slow.write_all(b"GET /v1/agents HTTP/1.0\r\n\r\n").unwrap();
    let (mut total, mut piece) = (0, vec![0; 256 << 10]);
    let from = Instant::now();
    loop {
        let length = slow.read(&mut piece).unwrap();
        if length == 0 {
            break;
        }
        total += length;
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(total > 2 << 20);
    assert!(from.elapsed() > short().stall, "{:?}", from.elapsed());
}

#[test]
fn a_thousand_silent_clients_delay_no_other() {
    let _room = many_descriptors();
    let server = two_agents();
    let clients: Vec<UnixStream> = (0..1000).map(|_| server.connect()).collect();
    for _ in 0..20 {
        server.get("/v1/agents");
    }
    clients.iter().for_each(assert_open);
}

#[test]
fn a_thousand_clients_at_once_are_all_answered() {
    let _room = many_descriptors();
    let server = two_agents();
    let mut clients: Vec<UnixStream> = (0..1000).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.write_all(b"GET /v1/agents HTTP/1.0\r\n\r\n").unwrap();
    }
    for client in &mut clients {
        assert!(read_until_closed(client).ends_with(TWO_AGENTS.as_bytes()));
    }
}

#[test]
fn clients_beyond_1024_are_closed_until_slots_become_free() {
    let _room = many_descriptors();
    let server = two_agents();
    let mut clients: Vec<UnixStream> = (0..1100).map(|_| server.connect()).collect();
    for excess in &mut clients[1024..] {
        assert_closed(excess);
    }
    clients[..1024].iter().for_each(assert_open);
    clients.clear();
    // Clients that went are counted out when the server comes to it.
    let from = Instant::now();
    let request = b"GET /v1/agents HTTP/1.0\r\n\r\n";
    loop {
        let mut client = server.connect();
        if client.write_all(request).is_ok() && read_until_closed(&mut client).ends_with(TWO_AGENTS.as_bytes()) {
            break;
        }
        assert!(from.elapsed() < support::PATIENCE);
    }
}

#[test]
fn shutdown_closes_every_connection() {
    let mut server = two_agents();
    let mut idle = server.connect();
    idle.write_all(b"GET /v1/agents HTTP/1.1\r\n\r\n").unwrap();
    assert!(idle.read(&mut [0; 4096]).unwrap() > 0);
    server.stop();
    assert_closed(&mut idle);
    assert_eq!(UnixStream::connect(&server.path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_client_that_still_sends_a_body_reads_its_answer() {
    let server = Server::start(vec![running("claude-code"), running("Reviewer")], Limits::default());
    for round in 0..300 {
        let mut stream = server.connect();
        stream.write_all(b"POST /v1/agents HTTP/1.1\r\nHost: agentd\r\nContent-Length: 20000\r\n\r\n").unwrap();
        // In pieces, as clients send a body behind its header: the answer comes in the midst of them.
        for piece in 0..20 {
            stream.write_all(&[b'x'; 1000]).unwrap_or_else(|error| panic!("round {round}, piece {piece}: {error}"));
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    }
}

#[test]
fn a_client_that_never_stops_sending_is_left_in_the_end() {
    let server = Server::start(
        vec![running("claude-code"), running("Reviewer")],
        Limits { linger: Duration::from_millis(50), ..Limits::default() },
    );
    let mut stream = server.connect();
    stream.write_all(b"POST / HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
    let sent = (0..10_000).take_while(|_| stream.write_all(&[0; 4096]).is_ok()).count();
    assert!(sent < 10_000);
    // One that is silent instead is left as soon.
    let mut silent = server.connect();
    silent.write_all(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n").unwrap();
    read_until_closed(&mut silent);
    comes_true_that(|| silent.write_all(b"x").is_err());
}

fn comes_true_that(mut condition: impl FnMut() -> bool) {
    let limit = std::time::Instant::now() + support::PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < limit);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_client_before_the_first_reading_waits_for_it() {
    let unread = Parts { is_read: false, ..Parts::new(Vec::new(), Instant::now(), Errors::default()) };
    let server = Server::start_with(unread.into(), Limits::default());
    let mut stream = server.connect();
    stream.write_all(b"GET /v1/agents HTTP/1.0\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    server.snapshots.send_replace(std::sync::Arc::new(snapshot(vec![running("claude-code"), running("Reviewer")])));
    let answer = String::from_utf8(read_until_closed(&mut stream)).unwrap();
    assert!(answer.contains("Reviewer"), "{answer}");
}
