//! One client's connection: requests in, answers out, with bounds on time and memory.
//!
//! What many clients take together, even for an instant, the allocator hardly gives back. A client therefore has next to nothing while
//! it rests, [`ROOM`] while it asks, and its answer while it takes that; a larger header waits in the socket until it is whole.
//!
//! hyper on the socket would be less code, but it keeps a buffer for each client. Measured with the same timeouts (release builds, in
//! turns, 1 and 50 agents; growth of the daemon's RSS, which does not shrink again when the clients go):
//!
//! | 1,024 clients | in memory | hyper on the socket |
//! |---|---|---|
//! | that rest on keep-alive, after one answer each | 1.4 to 1.7 MiB | 10.6 to 10.8 MiB |
//! | that then ask at the same instant | 1.5 to 1.8 MiB | 14.7 to 15.3 MiB |
//! | that send 15 kB of a header, and never its end | 2.1 MiB | 23.7 MiB |
//!
//! The daemon promises that clients cannot make it grow by more than 2 MiB. The median time of `GET /v1/agents` was within noise: 12 to
//! 22 µs, and 13 to 28 µs.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use hyper::body::Buf;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::http::{Answer, Next, Ordered, Responder, header_length};
use super::slots::{Client, Rest};
use super::stream;

/// How many bytes of an incomplete header are read from the socket. Most headers are complete by then. The socket can hold as many
/// bytes as a header may have, but only a few hundred that are written one by one.
const ROOM: usize = 256;

/// How many bytes are read and discarded after the last answer to a client.
const MOST_DRAINED: usize = 64 << 10;

/// A client, and the part of its requests that has not been answered.
pub(super) struct Connection {
    socket: UnixStream,
    client: Client,
    rest: Rest,
    responder: Arc<Responder>,
    heard: Vec<u8>,
}

/// What a client wants.
enum Heard {
    /// The answer is ready.
    Asked(Answer),
    /// The answer is slow or endless.
    Ordered(Box<Ordered>),
}

impl Connection {
    pub(super) fn new(socket: UnixStream, client: Client, rest: Rest, responder: Arc<Responder>) -> Self {
        Self { socket, client, rest, responder, heard: Vec::new() }
    }

    /// Serves until the client goes or a time limit passes.
    pub(super) async fn serve(mut self) -> io::Result<()> {
        let mut rests = false;
        while let Some(heard) = self.hear(rests).await? {
            let mut answer = match heard {
                Heard::Asked(answer) => answer,
                Heard::Ordered(ordered) => {
                    // Boxed, so that a connection needs the room only while it streams.
                    return Box::pin(stream::serve(self.socket, &self.heard, ordered, &self.responder)).await;
                }
            };
            self.say(answer.bytes()).await?;
            if !answer.goes_on {
                return self.linger().await;
            }
            rests = self.heard.is_empty();
            if !rests {
                // A client that pipelines takes turns with the others.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// The answer to the next request; `None` if there is none in time, or there will be none.
    async fn hear(&mut self, mut rests: bool) -> io::Result<Option<Heard>> {
        let mut deadline = self.deadline(rests);
        if rests {
            self.rest.begin();
        }
        let mut more_may_come = true;
        loop {
            if !self.heard.is_empty()
                && let Some(heard) = self.answer(more_may_come).await
            {
                return Ok(Some(heard));
            }
            if !more_may_come {
                return Ok(None);
            }
            let Ok(taken) = timeout_at(deadline, self.listen()).await else { return Ok(None) };
            more_may_come = taken? > 0;
            // A header has one deadline, however slowly it trickles in.
            if std::mem::take(&mut rests) {
                self.rest.end();
                deadline = self.deadline(false);
            }
        }
    }

    /// When the connection is closed if the client stays silent or does not complete its header.
    fn deadline(&self, rests: bool) -> Instant {
        let limits = &self.responder.limits;
        Instant::now() + if rests { limits.idle } else { limits.header }
    }

    /// The answer to the first of the received requests, which is then dropped unless it is to be streamed.
    async fn answer(&mut self, more_may_come: bool) -> Option<Heard> {
        let length = header_length(&self.heard);
        let request = &self.heard[..length.unwrap_or(self.heard.len())];
        let mut figures = None;
        let answer = loop {
            match self.responder.answer(request, length.is_some() || more_may_come, figures.as_ref(), self.client)? {
                Next::Say(answer) => break answer,
                // Boxed for the same reason.
                Next::Read => figures = Some(Box::pin(self.responder.read()).await),
                Next::Stream(ordered) => return Some(Heard::Ordered(ordered)),
            }
        };
        match length.filter(|&length| length < self.heard.len()) {
            Some(length) => drop(self.heard.drain(..length)),
            None => self.heard = Vec::new(),
        }
        Some(Heard::Asked(answer))
    }

    /// Waits for more of a header; for the rest of it if it is large. Returns the number of bytes, 0 if there will be no more.
    async fn listen(&mut self) -> io::Result<usize> {
        if self.heard.len() < ROOM {
            return self.take().await;
        }
        loop {
            let ready = self.socket.ready(Interest::READABLE).await?;
            let take = || take_whole(&self.socket, &mut self.heard, self.responder.limits.header_size);
            match self.socket.try_io(Interest::READABLE, take) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ready.is_read_closed() => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                taken => return taken,
            }
        }
    }

    /// Reads no more than there is room for.
    async fn take(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|context| {
            let mut room = [0; ROOM];
            let mut room = ReadBuf::new(&mut room[self.heard.len()..]);
            ready!(Pin::new(&mut self.socket).poll_read(context, &mut room))?;
            self.heard.extend_from_slice(room.filled());
            Poll::Ready(Ok(room.filled().len()))
        })
        .await
    }

    /// Reads what the client still sends, within bounds, before the connection is closed. If it were closed at once, the client might
    /// fail to send the rest, and never read the answer (RFC 9112, 9.6).
    async fn linger(&mut self) -> io::Result<()> {
        self.socket.shutdown().await?;
        let limit = self.responder.limits.linger;
        let drain = async {
            let mut left = MOST_DRAINED;
            while left > 0 {
                match self.discard().await? {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
            Ok(())
        };
        timeout(limit, drain).await.unwrap_or(Ok(()))
    }

    /// Reads and drops some bytes. Returns their number, 0 if there will be no more.
    ///
    /// The room is on the stack while it is polled, and so no part of every connection.
    async fn discard(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|context| {
            let mut room = [0; ROOM];
            let mut room = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut self.socket).poll_read(context, &mut room))?;
            Poll::Ready(Ok(room.filled().len()))
        })
        .await
    }

    async fn say(&mut self, mut bytes: impl Buf) -> io::Result<()> {
        while bytes.has_remaining() {
            timeout(self.responder.limits.stall, self.socket.write_buf(&mut bytes)).await??;
        }
        Ok(())
    }
}

/// Reads the rest of the header, or enough to make it too large. Fails with `WouldBlock` until that has arrived.
fn take_whole(socket: &UnixStream, heard: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    let mut rest = vec![0; (limit + 1).saturating_sub(heard.len())];
    let seen = recv(socket.as_raw_fd(), &mut rest, MsgFlags::MSG_PEEK)?;
    let header = [heard.as_slice(), &rest[..seen]].concat();
    let missing = match header_length(&header) {
        Some(length) => length.saturating_sub(heard.len()),
        None if header.len() > limit => seen,
        None => return Err(io::ErrorKind::WouldBlock.into()),
    };
    let taken = recv(socket.as_raw_fd(), &mut rest[..missing], MsgFlags::empty())?;
    heard.extend_from_slice(&rest[..taken]);
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::sync::watch;
    use tokio::task::JoinHandle;

    use super::super::{Limits, Sources};
    use super::*;
    use crate::observe::ring::Ring;
    use crate::observe::snapshot::Snapshot;
    use crate::wire::status::{AgentStatus, Errors};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    /// A client of a server without agents, and a task that ends with the connection.
    fn client() -> (UnixStream, JoinHandle<()>) {
        client_told_of(Vec::new())
    }

    fn client_told_of(agents: Vec<AgentStatus>) -> (UnixStream, JoinHandle<()>) {
        let (socket, client) = UnixStream::pair().unwrap();
        let snapshot = Snapshot::new(agents, std::time::Instant::now(), Errors::default());
        let happenings = watch::channel(Ring::new(std::time::UNIX_EPOCH)).1;
        let sources = Sources {
            snapshot: watch::channel(Arc::new(snapshot)).1,
            happenings,
            desks: None,
            logs: None,
            renderers: None,
        };
        let responder = Arc::new(Responder::new(sources, Limits::default(), true));
        let connection = Connection::new(socket, Client::Owner, Rest::default(), responder);
        let serving = async move { drop(connection.serve().await) };
        (client, tokio::spawn(serving))
    }

    async fn answers(client: &mut UnixStream, count: usize) -> String {
        let mut answers = String::new();
        while answers.matches("}\n").count() < count {
            let mut piece = [0; 4096];
            let length = client.read(&mut piece).await.unwrap();
            assert!(length > 0, "{answers}");
            answers += str::from_utf8(&piece[..length]).unwrap();
        }
        answers
    }

    /// How long until the server's patience ends, in whole seconds.
    async fn patience(connection: JoinHandle<()>) -> u64 {
        let from = Instant::now();
        connection.await.unwrap();
        from.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_has_10_s() {
        let (_client, connection) = client();
        assert_eq!(patience(connection).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickling_header_has_10_s_in_all() {
        for begun in [1, ROOM + 1] {
            let (mut client, connection) = client();
            client.write_all(&vec![b'x'; begun]).await.unwrap();
            let trickle = tokio::spawn(async move {
                while client.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
            });
            assert_eq!(patience(connection).await, 10);
            trickle.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answered_client_may_rest_for_60_s_again_and_again() {
        let (mut client, connection) = client();
        for _ in 0..3 {
            client.write_all(REQUEST).await.unwrap();
            answers(&mut client, 1).await;
            tokio::time::sleep(Duration::from_secs(59)).await;
        }
        assert_eq!(patience(connection).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_begun_after_a_rest_has_10_s() {
        let (mut client, connection) = client();
        client.write_all(REQUEST).await.unwrap();
        answers(&mut client, 1).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        client.write_all(b"GET").await.unwrap();
        assert_eq!(patience(connection).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_begun_together_with_a_request_has_10_s() {
        let (mut client, connection) = client();
        client.write_all(&[REQUEST, b"GET / HTTP/1.1\r\n"].concat()).await.unwrap();
        answers(&mut client, 1).await;
        assert_eq!(patience(connection).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_in_single_bytes_is_a_header() {
        let (mut client, connection) = client();
        for line_end in ["\r\n", "\n"] {
            for byte in format!("GET / HTTP/1.1{line_end}Host: agentd{line_end}{line_end}").bytes() {
                client.write_all(&[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            answers(&mut client, 1).await;
        }
        assert_eq!(patience(connection).await, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_header_in_pieces_is_parsed_apart_from_the_next() {
        let (mut client, connection) = client();
        let lines = format!("X: {}\r\n", "x".repeat(150)).repeat(90);
        for _ in 0..2 {
            for line in format!("GET / HTTP/1.1\r\n{lines}").split_inclusive('\n') {
                client.write_all(line.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.write_all(&[b"\r\n", REQUEST].concat()).await.unwrap();
            assert_eq!(answers(&mut client, 2).await.matches("HTTP/1.1 404 ").count(), 2);
        }
        assert_eq!(patience(connection).await, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_in_the_midst_of_a_header_is_not_waited_for() {
        for begun in ["", "GET", &format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(ROOM))] {
            let (mut client, connection) = client();
            client.write_all(begun.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
            drop(client);
            assert_eq!(patience(connection).await, 0, "{begun}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_is_abandoned_10_s_after_the_last_progress() {
        let agent = serde_json::json!({"name": "a", "running": true, "restarts": 0, "state": "running",
            "reason": "x".repeat(4 << 20)});
        let (mut client, connection) = client_told_of(vec![serde_json::from_value(agent).unwrap()]);
        client.write_all(b"GET /v1/agents HTTP/1.1\r\n\r\n").await.unwrap();
        let taking = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(8)).await;
            client.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
            client
        });
        assert_eq!(patience(connection).await, 18);
        taking.await.unwrap();
    }
}
