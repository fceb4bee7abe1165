//! A client's connection that does not wait for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep};

use super::Limits;

/// What a client is expected to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// To send a header to its end.
    Ask,
    /// To take the answer.
    Take,
    /// Whatever it likes: the last answer was given, and no new header was begun.
    Rest,
}

/// A stream whose reads and writes fail with [`io::ErrorKind::TimedOut`] once the client has let its [`Limits`] pass.
///
/// hyper has one bound for a header that is late and a connection that is idle, and none for an answer that is not taken, hence this.
#[derive(Debug)]
pub(super) struct Stream {
    socket: UnixStream,
    limits: Limits,
    turn: Turn,
    deadline: Instant,
    /// Rings at `deadline` or before. Setting it takes longer than looking at it when it rings, so a deadline that moves away leaves it.
    alarm: Pin<Box<Sleep>>,
    /// The last bytes that were read.
    tail: [u8; 3],
}

impl Stream {
    /// The client is expected to ask.
    pub(super) fn new(socket: UnixStream, limits: Limits) -> Self {
        let deadline = Instant::now() + limits.header;
        let alarm = Box::pin(tokio::time::sleep_until(deadline));
        Self { socket, limits, turn: Turn::Ask, deadline, alarm, tail: [0; 3] }
    }

    fn turn_to(&mut self, turn: Turn) {
        self.turn = turn;
        self.deadline = Instant::now()
            + match turn {
                Turn::Ask => self.limits.header,
                Turn::Take => self.limits.stall,
                Turn::Rest => self.limits.idle,
            };
    }

    fn has_read(&mut self, bytes: &[u8]) {
        for &byte in &bytes[bytes.len().saturating_sub(self.tail.len())..] {
            self.tail.rotate_left(1);
            self.tail[2] = byte;
        }
        // A header has one deadline, however slowly it trickles in.
        if self.turn == Turn::Rest {
            self.turn_to(Turn::Ask);
        }
    }

    fn has_written(&mut self) {
        // Who pipelines may have sent the beginning of a header already.
        let within_header = !(self.tail.ends_with(b"\n\n") || self.tail.ends_with(b"\n\r\n"));
        self.turn_to(if within_header { Turn::Ask } else { Turn::Rest });
    }

    /// To be asked whenever the client keeps the connection waiting.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.alarm.deadline() > self.deadline {
            self.alarm.as_mut().reset(self.deadline);
        }
        loop {
            ready!(self.alarm.as_mut().poll(context));
            if Instant::now() >= self.deadline {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.alarm.as_mut().reset(self.deadline);
        }
    }

    fn note_write(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.has_written();
            return written;
        }
        if self.turn != Turn::Take {
            self.turn_to(Turn::Take);
        }
        self.poll_patience(context).map(Err)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.socket).poll_read(context, buffer) {
            Poll::Pending => self.poll_patience(context).map(Err),
            read @ Poll::Ready(_) => {
                self.has_read(&buffer.filled()[before..]);
                read
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.note_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.note_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    fn pair() -> (Stream, UnixStream) {
        let (server, client) = UnixStream::pair().unwrap();
        (Stream::new(server, Limits::default()), client)
    }

    /// How long the server's side waits, in whole seconds, until its patience ends.
    async fn patience(stream: &mut Stream) -> u64 {
        let from = Instant::now();
        let error = loop {
            match stream.read(&mut [0; 1024]).await {
                Ok(0) => panic!("closed"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        from.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_has_10_s() {
        let (mut stream, _client) = pair();
        assert_eq!(patience(&mut stream).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickling_header_has_10_s_in_all() {
        let (mut stream, mut client) = pair();
        let trickle = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        });
        assert_eq!(patience(&mut stream).await, 10);
        drop(stream);
        trickle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_answered_client_may_rest_for_60_s_again_and_again() {
        let (mut stream, mut client) = pair();
        for _ in 0..3 {
            client.write_all(REQUEST).await.unwrap();
            stream.read_exact(&mut [0; REQUEST.len()]).await.unwrap();
            stream.write_all(b"answer").await.unwrap();
            tokio::time::sleep(Duration::from_secs(59)).await;
        }
        assert_eq!(patience(&mut stream).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_begun_after_a_rest_has_10_s() {
        let (mut stream, mut client) = pair();
        client.write_all(REQUEST).await.unwrap();
        stream.read_exact(&mut [0; REQUEST.len()]).await.unwrap();
        stream.write_all(b"answer").await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        client.write_all(b"GET").await.unwrap();
        assert_eq!(patience(&mut stream).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_begun_together_with_a_request_has_10_s() {
        let (mut stream, mut client) = pair();
        client.write_all(&[REQUEST, b"GET / HTTP/1.1\r\n"].concat()).await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > REQUEST.len());
        stream.write_all(b"answer").await.unwrap();
        assert_eq!(patience(&mut stream).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_blank_line_in_pieces_ends_a_header() {
        let (mut stream, mut client) = pair();
        for piece in [&b"GET / HTTP/1.1\r\n"[..], b"\r", b"\n"] {
            client.write_all(piece).await.unwrap();
            stream.read_exact(&mut vec![0; piece.len()]).await.unwrap();
        }
        stream.write_all(b"answer").await.unwrap();
        assert_eq!(patience(&mut stream).await, 60);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_given_up_10_s_after_the_last_progress() {
        let (mut stream, mut client) = pair();
        let answer = vec![b'x'; 4 << 20];
        let from = Instant::now();
        let taking = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(8)).await;
            client.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
            client
        });
        let error = stream.write_all(&answer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(from.elapsed().as_secs(), 18);
        taking.await.unwrap();
    }
}
