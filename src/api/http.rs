//! One request and its answer, in memory.
//!
//! hyper parses requests and writes answers, but has no socket: one call passes it the bytes that have arrived, and returns the bytes to
//! send. Its buffers, at least 16 KiB for each connection, thus exist for one client at a time, whatever clients do. The module
//! [`connection`](super::connection) has the figures.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http_body_util::Full;
use hyper::Response;
use hyper::body::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{self, Reply};
use super::metrics::{self, Figures};
use super::query::StreamRequest;
use super::screens::Screens;
use super::single_flight::SingleFlight;
use super::slots::Client;
use super::{Limits, Sources};
use crate::logs::store::Store;
use crate::observe::snapshot::Snapshot;

/// One slow answer in so many is reserved for root.
const ONE_IN: usize = 16;

/// What ends the header of an answer.
const HEADER_END: &[u8] = b"\r\n\r\n";

/// The bytes to send, and whether the client may send another request afterwards.
#[derive(Debug)]
pub(super) struct Answer {
    header: Bytes,
    /// The snapshot's own, not a copy.
    body: Bytes,
    pub(super) goes_on: bool,
}

impl Answer {
    /// The bytes that have not been sent.
    pub(super) fn bytes(&mut self) -> impl Buf {
        (&mut self.header).chain(&mut self.body)
    }
}

/// The length of the first header, with the blank line that ends it; `None` if that has not arrived.
pub(super) fn header_length(bytes: &[u8]) -> Option<usize> {
    // Some clients end a request with an extra blank line.
    let start = bytes.iter().position(|byte| !b"\r\n".contains(byte))?;
    let mut lines = bytes[start..].split_inclusive(|&byte| byte == b'\n');
    let mut length = start;
    lines.find_map(|line| {
        length += line.len();
        matches!(line, b"\n" | b"\r\n").then_some(length)
    })
}

/// What comes of a request.
#[derive(Debug)]
pub(super) enum Next {
    /// The answer is ready.
    Say(Answer),
    /// The answer needs figures: ask again with them.
    Read,
    /// The answer is slow or endless: stream it on the socket itself.
    Stream(Box<Ordered>),
}

/// A request whose answer is to be streamed.
#[derive(Debug)]
pub(super) struct Ordered {
    pub(super) order: StreamRequest,
    /// The right to one of the slow answers, given back at drop.
    _turn: OwnedSemaphorePermit,
}

/// Knows the answers, and the limits for clients.
#[derive(Debug)]
pub(super) struct Responder {
    http: http1::Builder,
    pub(super) sources: Sources,
    figures: SingleFlight<Figures>,
    pub(super) screens: Screens,
    turns: Arc<Semaphore>,
    /// The answers that root still gets when the others are taken.
    owners_turns: Arc<Semaphore>,
    pub(super) limits: Limits,
}

impl Responder {
    /// With `keep_alive`, clients may send any number of requests, otherwise one.
    pub(super) fn new(sources: Sources, limits: Limits, keep_alive: bool) -> Self {
        let mut http = http1::Builder::new();
        // Nothing waits here: whoever owns the socket does.
        http.max_header_size(limits.header_size).max_buf_size(limits.header_size).header_read_timeout(None);
        // A client that sends a request and closes that direction (`nc -N`) gets its answer; names of header fields keep the case that
        // existing clients expect.
        http.half_close(true).title_case_headers(true).keep_alive(keep_alive);
        let screens = Screens::new(sources.desks.clone());
        let kept = limits.streams / ONE_IN;
        let (turns, owners_turns) = (Semaphore::new(limits.streams - kept).into(), Semaphore::new(kept).into());
        Self { http, sources, figures: SingleFlight::default(), screens, turns, owners_turns, limits }
    }

    /// The right to a slow answer.
    fn turn(&self, client: Client) -> Option<OwnedSemaphorePermit> {
        let take = |turns: &Arc<Semaphore>| Arc::clone(turns).try_acquire_owned().ok();
        take(&self.turns).or_else(|| if client == Client::Owner { take(&self.owners_turns) } else { None })
    }

    /// The present figures.
    pub(super) async fn read(&self) -> Figures {
        let log_bytes = self.sources.logs.as_ref().and_then(Store::uses).map(|uses| uses.bytes);
        self.figures.read(metrics::read(self.snapshot(), log_bytes)).await
    }

    /// The present state.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.sources.snapshot.borrow())
    }

    /// What follows from the beginning of a request, which has one header at most. `None` if that depends on bytes that have not arrived,
    /// which never happens without `more_may_come`.
    pub(super) fn answer(
        &self,
        request: &[u8],
        more_may_come: bool,
        figures: Option<&Figures>,
        client: Client,
    ) -> Option<Next> {
        let (body, other) = (Cell::new(Bytes::new()), Cell::new(None));
        let service = service_fn(|request| {
            let reply = answer::answer(&request, &self.sources.snapshot.borrow(), self.sources.logs.as_ref(), figures);
            let response = match reply {
                Reply::Now(response) => response,
                Reply::WithFigures => {
                    other.set(Some(Next::Read));
                    Response::default()
                }
                Reply::Later(order) => match self.turn(client) {
                    Some(turn) => {
                        other.set(Some(Next::Stream(Box::new(Ordered { order, _turn: turn }))));
                        Response::default()
                    }
                    None => answer::busy(),
                },
            };
            body.set(response.body().clone());
            ready(Ok::<_, Infallible>(response.map(Full::new)))
        });
        let exchange = Exchange { request, more_may_come, header: Vec::new(), body_length: 0 };
        let mut connection = self.http.serve_connection(exchange, service);
        // It can only wait for more bytes: the rest of this header, or the next one.
        let goes_on = connection.poll_without_shutdown(&mut Context::from_waker(Waker::noop())).is_pending();
        let Exchange { header, body_length, .. } = connection.into_parts().io;
        if let Some(next) = other.take() {
            return Some(next);
        }
        if goes_on && header.is_empty() {
            return None;
        }
        let mut body = body.into_inner();
        body.advance(body.len().saturating_sub(body_length));
        Some(Next::Say(Answer { header: header.into(), body, goes_on }))
    }
}

/// The socket that hyper sees.
struct Exchange<'a> {
    /// The bytes that hyper has not read yet.
    request: &'a [u8],
    more_may_come: bool,
    /// The bytes that hyper has written, without the body, which the service has kept.
    header: Vec<u8>,
    body_length: usize,
}

impl Read for Exchange<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut room: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.request.is_empty() && self.more_may_come {
            return Poll::Pending;
        }
        let (now, later) = self.request.split_at(self.request.len().min(room.remaining()));
        room.put_slice(now);
        self.request = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for Exchange<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let of_header = if self.header.ends_with(HEADER_END) {
            0
        } else {
            let end = bytes.windows(HEADER_END.len()).position(|window| window == HEADER_END);
            end.map_or(bytes.len(), |end| end + HEADER_END.len())
        };
        self.header.extend_from_slice(&bytes[..of_header]);
        self.body_length += bytes.len() - of_header;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        for slice in slices {
            let _ = self.as_mut().poll_write(context, slice)?;
            written += slice.len();
        }
        Poll::Ready(Ok(written))
    }

    /// Otherwise hyper would copy the body.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, UNIX_EPOCH};

    use proptest::prelude::*;
    use tokio::sync::watch;

    use super::*;
    use crate::observe::ring::Ring;
    use crate::wire::status::Errors;

    fn responder() -> Responder {
        Responder::new(sources(), Limits::default(), true)
    }

    fn sources() -> Sources {
        let snapshot = Snapshot::new(Vec::new(), Instant::now(), Errors::default());
        let happenings = watch::channel(Ring::new(UNIX_EPOCH)).1;
        Sources { snapshot: watch::channel(Arc::new(snapshot)).1, happenings, desks: None, logs: None, renderers: None }
    }

    fn next(responder: &Responder, request: &[u8], more_may_come: bool) -> Option<Answer> {
        match responder.answer(request, more_may_come, None, Client::Other)? {
            Next::Say(answer) => Some(answer),
            other => panic!("it takes time: {other:?}"),
        }
    }

    /// The answer as it is sent, and whether the client may ask again.
    fn said(request: &str, more_may_come: bool) -> Option<(String, bool)> {
        let answer = next(&responder(), request.as_bytes(), more_may_come)?;
        let text = [&answer.header[..], &answer.body].concat();
        Some((String::from_utf8(text).unwrap(), answer.goes_on))
    }

    #[test]
    fn a_header_ends_with_a_blank_line_after_the_first_that_is_none() {
        for (bytes, expected) in [
            ("", None),
            ("\r\n\n\r\n", None),
            ("GET / HTTP/1.1\r\n", None),
            ("GET / HTTP/1.1\r\n\r", None),
            ("GET / HTTP/1.1\r\nA: b\r\n\r\nmore\r\n\r\n", Some(24)),
            ("GET / HTTP/1.1\n\n", Some(16)),
            ("\r\n\r\nGET / HTTP/1.1\r\n\n", Some(21)),
        ] {
            assert_eq!(header_length(bytes.as_bytes()), expected, "{bytes:?}");
        }
    }

    #[test]
    fn header_and_body_are_sent_and_the_body_is_no_copy() {
        let (answer, goes_on) = said("GET /v1/agents HTTP/1.1\r\n\r\n", true).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n[]\n") && goes_on, "{answer}");
        let responder = responder();
        let answer = next(&responder, b"GET /v1/agents HTTP/1.1\r\n\r\n", true).unwrap();
        assert_eq!(answer.body.as_ptr(), responder.snapshot().agents_body().as_ptr());
    }

    #[test]
    fn hyper_says_who_may_ask_again() {
        for (request, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ] {
            let (answer, goes_on) = said(request, true).unwrap();
            assert!(answer.starts_with("HTTP/1.") && answer[8..].starts_with(" 404 "), "{request}: {answer}");
            assert_eq!(goes_on, expected, "{request}");
        }
        let once = Responder::new(sources(), Limits::default(), false);
        assert!(!next(&once, b"GET / HTTP/1.1\r\n\r\n", true).unwrap().goes_on);
    }

    #[test]
    fn one_answer_in_16_that_takes_time_is_kept_for_root() {
        let responder = Responder::new(sources(), Limits { streams: 32, ..Limits::default() }, true);
        let ask = |client| responder.answer(b"GET /v1/events HTTP/1.1\r\n\r\n", true, None, client).unwrap();
        let is_given = |next: &Next| matches!(next, Next::Stream(_));
        let others: Vec<Next> = (0..30).map(|_| ask(Client::Other)).collect();
        assert!(others.iter().all(is_given));
        assert!(!is_given(&ask(Client::Other)));
        let owners = [ask(Client::Owner), ask(Client::Owner)];
        assert!(owners.iter().all(is_given));
        assert!(!is_given(&ask(Client::Owner)));
    }

    #[test]
    fn a_partial_header_is_awaited_and_an_invalid_one_refused() {
        for beginning in ["", "\r\n", "GE", "GET / HT", "GET / HTTP/1.1\r\nA: "] {
            assert_eq!(said(beginning, true), None, "{beginning}");
            assert!(!said(beginning, false).unwrap().1, "{beginning}");
        }
        for nonsense in ["\u{16}\u{3}\u{1}", "GET /\n", "GET / HTTP/1.1\r\n: b"] {
            let (answer, goes_on) = said(nonsense, true).unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 ") && !goes_on, "{nonsense}: {answer}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_answered_or_waited_for(bytes: Vec<u8>, verb in "(GET /v1/agents HTTP/1.1\r\n)?") {
            let request = [verb.as_bytes(), &bytes].concat();
            let request = &request[..header_length(&request).unwrap_or(request.len())];
            prop_assert!(responder().answer(request, false, None, Client::Other).is_some());
            let whole = header_length(request).is_some();
            prop_assert!(!whole || responder().answer(request, true, None, Client::Other).is_some());
        }
    }
}
