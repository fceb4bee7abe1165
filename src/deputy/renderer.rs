//! Renders logs as text in threads of the deputy: the daemon's side.
//!
//! The protocol is in [`logs::renderer`](crate::logs::renderer). At most [`AT_ONCE`] threads work at a time, however many exist;
//! those that follow an agent mostly wait.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{Deputy, Error as DeputyError};
use crate::logs::renderer::{DONE, Say, TEXT, head};

/// How many threads may work at the same time.
const AT_ONCE: usize = 2;

/// How long an answer may pause. A piece takes a few milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No deputy could render it.
    #[error(transparent)]
    Deputy(#[from] DeputyError),
    /// The connection failed.
    #[error("failed to render it as text: {0}; --raw (`raw=true`) does without that")]
    Io(#[from] io::Error),
}

/// Starts renderers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Renderers {
    deputy: Deputy,
    turns: Arc<Semaphore>,
}

impl Renderers {
    /// Renderers in this deputy.
    pub fn new(deputy: Deputy) -> Self {
        Self { deputy, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Starts a renderer for one log.
    pub async fn start(&self) -> Result<Renderer, Error> {
        let (near, far) = UnixStream::pair()?;
        self.deputy.render(far.into_std()?.into()).await?;
        Ok(Renderer { stream: near, turns: Arc::clone(&self.turns), turn: None })
    }
}

/// A connection to a rendering thread.
#[derive(Debug)]
pub struct Renderer {
    stream: UnixStream,
    turns: Arc<Semaphore>,
    /// Held until the answer begins.
    turn: Option<OwnedSemaphorePermit>,
}

/// A part of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Some text. The sender is not trusted.
    Text(Vec<u8>),
    /// The end of the answer.
    Done {
        /// Whether the next [`Say::Settle`] may give text.
        needs_settling: bool,
    },
}

impl Renderer {
    /// Sends a request. The whole answer must be [read](Renderer::hear) before the next one.
    pub async fn say(&mut self, say: Say<'_>) -> Result<(), Error> {
        self.turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        Ok(in_time(self.stream.write_all(&say.message())).await?)
    }

    /// Waits for the next part of the answer.
    pub async fn hear(&mut self) -> Result<Heard, Error> {
        let heard = in_time(self.next()).await;
        self.turn = None;
        Ok(heard?)
    }

    async fn next(&mut self) -> io::Result<Heard> {
        let mut first = [0; 5];
        self.stream.read_exact(&mut first).await?;
        let (kind, length) = head(first)?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        match (kind, body.as_slice()) {
            (TEXT, _) => Ok(Heard::Text(body)),
            (DONE, &[needs_settling]) => Ok(Heard::Done { needs_settling: needs_settling != 0 }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(ANSWER_TIMEOUT, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::renderer::LONGEST;
    use crate::logs::rendering::Size;

    /// Renderers in threads of this process.
    fn renderers() -> Renderers {
        Renderers::new(Deputy::rendering())
    }

    async fn heard(renderer: &mut Renderer, say: Say<'_>) -> (String, bool) {
        renderer.say(say).await.unwrap();
        let mut text = Vec::new();
        loop {
            match renderer.hear().await.unwrap() {
                Heard::Text(more) => text.extend(more),
                Heard::Done { needs_settling } => return (String::from_utf8(text).unwrap(), needs_settling),
            }
        }
    }

    #[tokio::test]
    async fn output_is_returned_as_text() {
        let mut renderer = renderers().start().await.unwrap();
        assert_eq!(heard(&mut renderer, Say::Printed(b"\x1b[1mone\r\ntw")).await, (String::new(), true));
        assert_eq!(heard(&mut renderer, Say::TellAtOnce).await.0, "one\ntw");
        assert_eq!(heard(&mut renderer, Say::Resize(Size { columns: 40, rows: 5 })).await.0, "");
        assert_eq!(heard(&mut renderer, Say::Printed(b"o\r\n")).await.0, "");
        assert_eq!(heard(&mut renderer, Say::Show).await.0, "o\n");
        assert_eq!(heard(&mut renderer, Say::Settle).await, (String::new(), true));
        assert_eq!(heard(&mut renderer, Say::Settle).await, (String::new(), false));
    }

    #[tokio::test]
    async fn a_long_text_comes_in_pieces_or_as_its_last_lines() {
        let lines = (0..20_000).map(|number| format!("{number} ä\r\n")).collect::<Vec<_>>().concat();
        let mut renderer = renderers().start().await.unwrap();
        let mut told = String::new();
        for piece in lines.as_bytes().chunks(LONGEST) {
            told += &heard(&mut renderer, Say::Printed(piece)).await.0;
        }
        told += &heard(&mut renderer, Say::Show).await.0;
        assert!(told == lines.replace('\r', ""));
        for (count, expected) in [(0, ""), (1, "19999 ä\n"), (2, "19998 ä\n19999 ä\n")] {
            let mut renderer = renderers().start().await.unwrap();
            heard(&mut renderer, Say::Keep(count)).await;
            for piece in lines.as_bytes().chunks(LONGEST) {
                assert_eq!(heard(&mut renderer, Say::Printed(piece)).await.0, "");
            }
            assert_eq!(heard(&mut renderer, Say::Show).await.0, expected);
        }
    }

    #[tokio::test]
    async fn work_at_once_is_limited_and_waiting_does_not_count() {
        let renderers = renderers();
        let mut many = Vec::new();
        for _ in 0..3 * AT_ONCE {
            let mut renderer = renderers.start().await.unwrap();
            assert_eq!(heard(&mut renderer, Say::Printed(b"x")).await.0, "");
            many.push(renderer);
        }
        for renderer in &mut many[..AT_ONCE] {
            renderer.say(Say::Show).await.unwrap();
        }
        let (busy, idle) = many.split_at_mut(AT_ONCE);
        let waiting = timeout(Duration::from_millis(50), idle[0].say(Say::Show)).await;
        assert!(waiting.is_err(), "the working threads have not answered");
        assert_eq!(busy[0].hear().await.unwrap(), Heard::Text(b"x".to_vec()));
        idle[0].say(Say::Show).await.unwrap();
    }
}
