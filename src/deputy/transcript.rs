//! An attempt's log on its way to a reader: as raw bytes, or as text that a [renderer](super::renderer) makes.
//!
//! The text is made in another process: this one parses nothing that an agent printed. It goes through what comes back character by
//! character: secrets are redacted once more, since the text has put together what escape sequences kept apart, and characters that
//! act on a terminal are removed, whoever sent them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::time::Instant;

use super::renderer::{self, Heard, Renderer, Renderers};
use crate::logs::IndexEntry;
use crate::logs::reader::{Follower, Piece};
use crate::logs::renderer::Say;
use crate::logs::selection::Opened;
use crate::text::printable;
use crate::text::redact::{Redactor, TextStream};

/// How long a screen must not change before a follower gets it.
const SETTLE: Duration = Duration::from_secs(1);

/// The most bytes that are held back for the last lines of a text with timestamps.
const MOST_HELD: usize = 1 << 20;

/// Where a transcript goes.
pub trait Outlet: Sync {
    /// Sends a piece.
    fn send(&self, piece: Bytes) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// The reader no longer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Why a transcript ends early.
#[derive(Debug)]
pub enum Broken {
    /// The reader no longer reads.
    Gone,
    /// The log cannot be read. The reader must not take that for the end.
    Failed(String),
}

impl From<Gone> for Broken {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<renderer::Error> for Broken {
    fn from(error: renderer::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Failed(format!("failed to read what was printed: {error}"))
    }
}

/// How the text is made.
#[derive(Clone, Debug)]
pub struct Rendering {
    /// What turns the log into text.
    pub renderers: Renderers,
    /// The secrets that it must not contain.
    pub redactor: Arc<Redactor>,
    /// Whether each line begins with when it was printed.
    pub stamps: bool,
}

/// One attempt's log, from the wanted place on.
pub struct Transcript {
    follower: Follower,
    way: Way,
    /// Where the bytes begin that were printed since the wanted time, until that place is reached.
    since: Option<u64>,
}

enum Way {
    Raw,
    Text(Box<Text>),
}

/// Turns a log into text.
struct Text {
    renderer: Renderer,
    shown: TextStream,
    /// When a screen that has not changed is sent.
    settles_at: Option<Instant>,
    /// Whether the text sent so far ends in the middle of a line.
    is_mid_line: bool,
    /// When the text that comes now was printed, if lines begin with that.
    stamp: Option<String>,
    /// The last lines, while nothing is sent but those.
    held: Option<Held>,
}

/// The last lines of a text.
#[derive(Debug)]
struct Held {
    lines: usize,
    text: String,
}

impl Held {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        if self.text.len() > 2 * MOST_HELD {
            self.cut();
        }
    }

    /// Keeps the last lines. A line without an end counts.
    fn cut(&mut self) {
        let ended = self.text.strip_suffix('\n').unwrap_or(&self.text).as_bytes();
        let from = match self.lines.checked_sub(1) {
            None => self.text.len(),
            Some(before) => memchr::memrchr_iter(b'\n', ended).nth(before).map_or(0, |end| end + 1),
        };
        let from = from.max(self.text.ceil_char_boundary(self.text.len().saturating_sub(MOST_HELD)));
        self.text.drain(..from);
    }
}

impl Transcript {
    /// Prepares to send an attempt: as raw bytes, or as text. Must be called inside the async runtime.
    pub async fn begin(opened: &Opened, rendering: Option<Rendering>) -> Result<Self, Broken> {
        let follower = Follower::new(Arc::clone(&opened.log), opened.at);
        let Some(Rendering { renderers, redactor, stamps }) = rendering else {
            return Ok(Self { follower, way: Way::Raw, since: None });
        };
        let mut text = Text {
            renderer: renderers.start().await?,
            shown: TextStream::new(redactor),
            settles_at: None,
            is_mid_line: false,
            // Without an index, the last change is all there is to tell.
            stamp: stamps.then(|| opened.log.changed().map_or_else(|_| "-".to_owned(), crate::logs::in_words)),
            held: opened.lines.filter(|_| stamps).map(|lines| Held { lines, text: String::new() }),
        };
        // Nothing comes of either yet, so there is nobody to send it to.
        if let Some(lines) = opened.lines.filter(|_| !stamps) {
            text.say(&Nobody, Say::Keep(lines as u64)).await?;
        } else if opened.since.is_some() {
            // Until that place is reached. What scrolled off the screen earlier is not wanted either.
            text.say(&Nobody, Say::Hold).await?;
        }
        Ok(Self { follower, way: Way::Text(Box::new(text)), since: opened.since })
    }

    /// Sends what is there by now.
    pub async fn rest(&mut self, outlet: &impl Outlet) -> Result<(), Broken> {
        while let Some(mut piece) = self.follower.read().await? {
            if let (Way::Text(text), Some(time)) = (&mut self.way, self.since)
                && time < piece.end()
            {
                self.since = None;
                let before = usize::try_from(time.saturating_sub(piece.offset)).unwrap_or_default();
                let after = piece.bytes.split_off(before.min(piece.bytes.len()));
                text.take(outlet, self.follower.take_entries(piece.end()), &piece).await?;
                text.say(outlet, Say::Forget).await?;
                piece = Piece { offset: piece.end(), bytes: after };
            }
            self.send(outlet, piece).await?;
        }
        if let (Way::Text(text), Some(_)) = (&mut self.way, self.since.take()) {
            text.say(outlet, Say::Forget).await?;
        }
        Ok(())
    }

    /// Waits for what is printed next. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<Piece> {
        self.follower.next().await
    }

    /// Sends what was printed next, as soon as it can be read.
    pub async fn send_at_once(&mut self, outlet: &impl Outlet, piece: Piece) -> Result<(), Broken> {
        self.send(outlet, piece).await?;
        match &mut self.way {
            Way::Text(text) => text.say(outlet, Say::TellAtOnce).await,
            Way::Raw => Ok(()),
        }
    }

    async fn send(&mut self, outlet: &impl Outlet, piece: Piece) -> Result<(), Broken> {
        match &mut self.way {
            Way::Raw if piece.bytes.is_empty() => Ok(()),
            Way::Raw => Ok(outlet.send(piece.bytes.into()).await?),
            Way::Text(text) => text.take(outlet, self.follower.take_entries(piece.end()), &piece).await,
        }
    }

    /// When a screen that has not changed should be [settled](Self::settle); `None` if nothing is pending.
    pub fn settles_at(&self) -> Option<Instant> {
        match &self.way {
            Way::Text(text) => text.settles_at,
            Way::Raw => None,
        }
    }

    /// Sends what has stood still.
    pub async fn settle(&mut self, outlet: &impl Outlet) -> Result<(), Broken> {
        let Way::Text(text) = &mut self.way else { return Ok(()) };
        text.pause(outlet).await?;
        text.say(outlet, Say::Settle).await
    }

    /// Sends what is on the screen, and the lines that were held back.
    pub async fn show(&mut self, outlet: &impl Outlet) -> Result<(), Broken> {
        let Way::Text(text) = &mut self.way else { return Ok(()) };
        text.say(outlet, Say::Show).await?;
        text.release(outlet).await
    }

    /// Sends the rest: nothing more comes. Returns whether that ended in the middle of a line.
    pub async fn end(&mut self, outlet: &impl Outlet) -> Result<bool, Broken> {
        let Way::Text(text) = &mut self.way else { return Ok(false) };
        text.say(outlet, Say::Show).await?;
        text.pause(outlet).await?;
        text.release(outlet).await?;
        Ok(text.is_mid_line)
    }
}

/// Where nothing is sent.
struct Nobody;

impl Outlet for Nobody {
    async fn send(&self, _: Bytes) -> Result<(), Gone> {
        Ok(())
    }
}

impl Text {
    async fn say(&mut self, outlet: &impl Outlet, say: Say<'_>) -> Result<(), Broken> {
        self.renderer.say(say).await?;
        loop {
            match self.renderer.hear().await? {
                Heard::Text(text) => {
                    // It nearly always is, and finding that out is faster than searching for what is not.
                    let text = String::from_utf8(text)
                        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
                    let text = self.shown.pass(&printable::plain(&text));
                    self.send(outlet, text).await?;
                }
                Heard::Done { needs_settling } => {
                    // Further output does not postpone it.
                    let is_due = needs_settling || !self.shown.is_all_shown();
                    let next =
                        self.settles_at.filter(|_| say != Say::Settle).unwrap_or_else(|| Instant::now() + SETTLE);
                    self.settles_at = is_due.then_some(next);
                    return Ok(());
                }
            }
        }
    }

    /// Sends what the redaction held back.
    async fn pause(&mut self, outlet: &impl Outlet) -> Result<(), Broken> {
        let text = self.shown.pause();
        self.send(outlet, text).await
    }

    async fn send(&mut self, outlet: &impl Outlet, text: String) -> Result<(), Broken> {
        if text.is_empty() {
            return Ok(());
        }
        let text = self.stamped(text);
        match &mut self.held {
            Some(held) => held.push(&text),
            None => outlet.send(text.into()).await?,
        }
        Ok(())
    }

    /// The text with its time before each line that begins in it, if that is wanted.
    fn stamped(&mut self, text: String) -> String {
        let is_mid_line = std::mem::replace(&mut self.is_mid_line, !text.ends_with('\n'));
        let Some(stamp) = &self.stamp else { return text };
        let mut stamped = String::with_capacity(2 * text.len());
        for (number, line) in text.split_inclusive('\n').enumerate() {
            if number > 0 || !is_mid_line {
                stamped.extend([stamp, " "]);
            }
            stamped.push_str(line);
        }
        stamped
    }

    /// Sends the last lines, and from now on everything.
    async fn release(&mut self, outlet: &impl Outlet) -> Result<(), Broken> {
        let Some(mut held) = self.held.take() else { return Ok(()) };
        held.cut();
        if !held.text.is_empty() {
            outlet.send(held.text.into()).await?;
        }
        Ok(())
    }

    /// Takes what was printed, piece by piece: each has its own time and size of the terminal.
    async fn take(&mut self, outlet: &impl Outlet, entries: Vec<IndexEntry>, piece: &Piece) -> Result<(), Broken> {
        let mut rest = piece.bytes.as_slice();
        for entry in entries {
            let before = piece.end().saturating_sub(entry.offset());
            // This much was printed later.
            let later = usize::try_from(before).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at(rest.len() - later);
            if !now.is_empty() {
                self.say(outlet, Say::Printed(now)).await?;
            }
            rest = later;
            match entry {
                IndexEntry::Resized(resized) => self.say(outlet, Say::Resize(resized.size)).await?,
                IndexEntry::Time(time) => {
                    if self.stamp.is_some() {
                        // What was printed before has the time from before.
                        self.say(outlet, Say::TellAtOnce).await?;
                        self.stamp = Some(time.in_words());
                    }
                    self.say(outlet, Say::Look).await?;
                }
            }
        }
        if !rest.is_empty() {
            self.say(outlet, Say::Printed(rest)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_held_back_within_bounds() {
        let mut held = Held { lines: 2, text: String::new() };
        for number in 0..10 {
            held.push(&format!("{number}\n"));
        }
        held.push("x");
        held.cut();
        assert_eq!(held.text, "9\nx");
        let mut held = Held { lines: usize::MAX, text: String::new() };
        for _ in 0..5 * MOST_HELD / 8 {
            held.push("ääää");
        }
        assert!(held.text.len() <= 2 * MOST_HELD + 8, "{}", held.text.len());
        held.cut();
        assert!(held.text.len() <= MOST_HELD);
    }
}
