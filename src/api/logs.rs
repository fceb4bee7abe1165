//! Serves the logs of agents, as raw bytes or as text, and follows them as they grow.
//!
//! The text is made in [another process](crate::deputy::renderer): this one parses nothing that an agent printed. It goes through what
//! comes back character by character: secrets are redacted once more, since the text has put together what escape sequences kept
//! apart, and characters that act on a terminal are removed, whoever sent them.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::query::Which;
use crate::agent::name::Name;
use crate::api::outlet::{Gone, Outlet};
use crate::deputy::renderer::{self, Heard, Renderer, Renderers};
use crate::logs::IndexEntry;
use crate::logs::attempt::{AttemptId, Named};
use crate::logs::reader::{Busy, Follower, Log, Piece};
use crate::logs::renderer::Say;
use crate::logs::store::Store;
use crate::observe::redactions::Unknown;
use crate::observe::snapshot::Snapshot;
use crate::sys::file_id::FileId;
use crate::text::printable;
use crate::text::redact::TextStream;
use crate::wire::status::{AgentStatus, State, Time};

/// How long a screen must not change before a follower gets it.
const SETTLE: Duration = Duration::from_secs(1);

/// Why there is nothing to serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Nothing was ever printed, or all of it is gone.
    #[error("nothing is kept of what it printed")]
    Nothing,
    /// Other attempts are kept.
    #[error("nothing is kept of {0}; {1}")]
    NotAmong(Which, String),
    /// Too many logs are open.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The log cannot be read.
    #[error("failed to read what was printed: {0}")]
    Read(#[from] io::Error),
}

/// One attempt, open.
pub(super) struct Opened {
    log: Arc<Log>,
    /// Where the wanted bytes begin.
    at: u64,
    /// Where the bytes begin that were printed since the wanted time.
    since: Option<u64>,
    /// Only the last lines, so many of them.
    lines: Option<usize>,
}

/// What is wanted of an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// No more than so many lines at the end of what is there.
    pub(super) lines: Option<usize>,
    /// Only what was printed since then.
    pub(super) since: Option<SystemTime>,
    /// As text, otherwise as raw bytes.
    pub(super) as_text: bool,
}

impl Wanted {
    /// The whole log.
    fn all(as_text: bool) -> Self {
        Self { lines: None, since: None, as_text }
    }
}

/// Opens the attempt, at the wanted place.
pub(super) async fn open(store: &Store, agent: &Name, which: Which, wanted: Wanted) -> Result<Opened, Error> {
    let (readers, store, agent) = (store.readers(), store.clone(), agent.clone());
    let work = move |is_wanted: &dyn Fn() -> bool| {
        let attempts = store.attempts(&agent).map_err(io::Error::other)?;
        let kept = choose(&attempts, which)?;
        let log = store.open(&agent, kept).map_err(io::Error::other)?.ok_or(Error::Nothing)?;
        let Wanted { lines, since, as_text } = wanted;
        let since = since.map(|time| log.since(time, is_wanted)).transpose()?;
        if as_text {
            // The last lines are known only once all lines are, and a screen depends on everything that was printed on it.
            return Ok(Opened { log: Arc::new(log), at: 0, since, lines });
        }
        let at = since.map_or_else(|| log.begin(), Ok)?;
        let at = lines.map_or(Ok(at), |lines| log.last_lines(lines, is_wanted).map(|last| last.max(at)))?;
        Ok(Opened { log: Arc::new(log.without_index()), at, since, lines })
    };
    readers.work(work).await??
}

fn choose(attempts: &[AttemptId], which: Which) -> Result<AttemptId, Error> {
    let mut latest_first = attempts.iter().rev();
    let chosen = match which {
        Which::Latest => latest_first.next(),
        Which::Previous => latest_first.nth(1),
        Which::Named(Named::Number(number)) => latest_first.find(|kept| kept.attempt == number),
        Which::Named(Named::Log(named)) => latest_first.find(|kept| **kept == named),
    };
    match (chosen, attempts) {
        (Some(kept), _) => Ok(*kept),
        (None, []) => Err(Error::Nothing),
        (None, _) => Err(Error::NotAmong(which, those_kept(attempts))),
    }
}

/// Lists the attempts that are kept, each under an unambiguous name: in files of earlier builds, numbers start over with each
/// declaration.
fn those_kept(attempts: &[AttemptId]) -> String {
    let list = |names: Vec<String>| names.join(", ");
    let numbers: BTreeSet<u64> = attempts.iter().map(|kept| kept.attempt).collect();
    if numbers.len() == attempts.len() {
        let plural = if attempts.len() == 1 { "" } else { "s" };
        format!("kept: attempt{plural} {}", list(attempts.iter().map(|kept| kept.attempt.to_string()).collect()))
    } else {
        let names = list(attempts.iter().map(AttemptId::to_string).collect());
        format!(
            "kept: {names} (number of the log, then of the attempt); a bare number means the latest attempt with that number"
        )
    }
}

/// Why an answer ends early.
pub(super) enum Broken {
    /// The client no longer reads.
    Gone,
    /// The log cannot be read. The client must not take that for the end.
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

impl From<Unknown> for Broken {
    fn from(unknown: Unknown) -> Self {
        Self::Failed(unknown.to_string())
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Failed(format!("failed to read what was printed: {error}"))
    }
}

/// The way of one attempt's log to the client.
enum Way {
    /// As raw bytes.
    Raw,
    /// As text.
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
}

impl Text {
    async fn say(&mut self, outlet: &Outlet, say: Say<'_>) -> Result<(), Broken> {
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

    async fn send(&mut self, outlet: &Outlet, text: String) -> Result<(), Broken> {
        if !text.is_empty() {
            self.is_mid_line = !text.ends_with('\n');
            outlet.send(text.into()).await?;
        }
        Ok(())
    }

    /// Takes what was printed, piece by piece: each has its own time and size of the terminal.
    async fn take(&mut self, outlet: &Outlet, entries: Vec<IndexEntry>, piece: &Piece) -> Result<(), Broken> {
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
                IndexEntry::Time(_) => self.say(outlet, Say::Look).await?,
            }
        }
        if !rest.is_empty() {
            self.say(outlet, Say::Printed(rest)).await?;
        }
        Ok(())
    }

    async fn settle(&mut self, outlet: &Outlet) -> Result<(), Broken> {
        let text = self.shown.pause();
        self.send(outlet, text).await?;
        self.say(outlet, Say::Settle).await
    }

    /// Sends the rest: nothing more comes.
    async fn end(&mut self, outlet: &Outlet) -> Result<(), Broken> {
        self.say(outlet, Say::Show).await?;
        let text = self.shown.pause();
        self.send(outlet, text).await
    }
}

/// One answer about an agent's log.
pub(super) struct Telling {
    pub(super) store: Store,
    pub(super) agent: Name,
    /// What turns the log into text; without it the answer is the raw bytes.
    pub(super) renderers: Option<Renderers>,
    /// Whether the answer goes on with later attempts.
    pub(super) is_latest: bool,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The agent's state when the attempt was last seen to go on.
    pub(super) live_in: Option<Standing>,
    /// Whether the attempt may go on in another file, whatever the state.
    pub(super) look_again: bool,
}

/// The part of an agent's state that shows whether an attempt goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Standing {
    state: State,
    attempt: Option<u64>,
    attempt_total: Option<u64>,
    declared_at: Option<Time>,
}

impl Standing {
    fn of(agent: &AgentStatus) -> Self {
        let &AgentStatus { state, attempt, attempt_total, declared_at, .. } = agent;
        Self { state, attempt, attempt_total, declared_at }
    }

    fn may_print_in(&self, attempt: u64) -> bool {
        // Files of earlier builds are named by the number under the declaration.
        let is_present = [self.attempt, self.attempt_total].contains(&Some(attempt));
        matches!(self.state, State::Starting | State::Running | State::Stopping) && is_present
    }
}

impl Telling {
    /// Sends what is there now.
    pub(super) async fn tell(self, outlet: Outlet, opened: Opened) -> Result<(), Broken> {
        let (mut follower, mut way) = self.begin(&outlet, &opened).await?;
        self.rest(&outlet, &mut follower, &mut way, &opened).await?;
        if let Way::Text(text) = &mut way {
            text.end(&outlet).await?;
        }
        Ok(())
    }

    /// Sends what is there and what is printed later, until the attempt is over, or the agent if later attempts are included.
    pub(super) async fn follow(mut self, outlet: Outlet, mut opened: Opened) -> Result<(), Broken> {
        let mut moves = self.store.moves();
        loop {
            let (kept, file) = (opened.log.kept(), opened.log.file().ok());
            let (mut follower, mut way) = self.begin(&outlet, &opened).await?;
            self.rest(&outlet, &mut follower, &mut way, &opened).await?;
            if let Way::Text(text) = &mut way {
                text.say(&outlet, Say::Show).await?;
            }
            while self.is_live(kept, file).await {
                let settles_at = match &way {
                    Way::Text(text) => text.settles_at,
                    Way::Raw => None,
                };
                let settling = async {
                    match settles_at {
                        Some(time) => sleep_until(time).await,
                        None => std::future::pending().await,
                    }
                };
                // Each arm only takes what has arrived, so canceling the others loses nothing.
                tokio::select! {
                    piece = follower.next() => {
                        let piece = piece?;
                        Self::send(&outlet, &mut follower, &mut way, piece).await?;
                        if let Way::Text(text) = &mut way {
                            text.say(&outlet, Say::TellAtOnce).await?;
                        }
                    }
                    () = settling => if let Way::Text(text) = &mut way {
                        text.settle(&outlet).await?;
                    },
                    changed = self.snapshot.changed() => if changed.is_err() { return Ok(()) },
                    // It may be this one. The other end is the store's, which is here.
                    Ok(()) = moves.changed() => self.look_again = true,
                }
            }
            while let Some(piece) = follower.read().await? {
                Self::send(&outlet, &mut follower, &mut way, piece).await?;
            }
            let mut is_mid_line = false;
            if let Way::Text(text) = &mut way {
                text.end(&outlet).await?;
                is_mid_line = text.is_mid_line;
            }
            drop(way);
            opened = loop {
                match open(&self.store, &self.agent, Which::Latest, Wanted::all(self.renderers.is_some())).await {
                    Ok(next) if next.log.file().ok() != file && (self.is_latest || self.goes_on_in(kept, &next)) => {
                        break next;
                    }
                    _ if !self.is_latest => return Ok(()),
                    _ if self.is_over() => return Ok(()),
                    _ => {}
                }
                if self.snapshot.changed().await.is_err() {
                    return Ok(());
                }
            };
            if is_mid_line {
                // Two attempts share no line.
                outlet.send(Bytes::from_static(b"\n")).await?;
            }
        }
    }

    /// Prepares to send an attempt from the wanted place on.
    async fn begin(&self, outlet: &Outlet, opened: &Opened) -> Result<(Follower, Way), Broken> {
        let Some(renderers) = &self.renderers else {
            return Ok((Follower::new(Arc::clone(&opened.log), opened.at), Way::Raw));
        };
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let redactor = snapshot.redactor(&self.agent.key()).await?;
        let mut text = Text {
            renderer: renderers.start().await?,
            shown: TextStream::new(redactor),
            settles_at: None,
            is_mid_line: false,
        };
        if let Some(lines) = opened.lines {
            text.say(outlet, Say::Keep(lines as u64)).await?;
        } else if opened.since.is_some() {
            // Until that place is reached. What scrolled off the screen earlier is not wanted either.
            text.say(outlet, Say::Hold).await?;
        }
        Ok((Follower::new(Arc::clone(&opened.log), opened.at), Way::Text(Box::new(text))))
    }

    /// Sends what is there by now.
    async fn rest(
        &self,
        outlet: &Outlet,
        follower: &mut Follower,
        way: &mut Way,
        opened: &Opened,
    ) -> Result<(), Broken> {
        let mut since = opened.since;
        while let Some(mut piece) = follower.read().await? {
            if let (Way::Text(text), Some(time)) = (&mut *way, since)
                && time < piece.end()
            {
                since = None;
                let before = usize::try_from(time.saturating_sub(piece.offset)).unwrap_or_default();
                let after = piece.bytes.split_off(before.min(piece.bytes.len()));
                text.take(outlet, follower.take_entries(piece.end()), &piece).await?;
                text.say(outlet, Say::Forget).await?;
                piece = Piece { offset: piece.end(), bytes: after };
            }
            Self::send(outlet, follower, way, piece).await?;
        }
        if let (Way::Text(text), Some(_)) = (way, since) {
            text.say(outlet, Say::Forget).await?;
        }
        Ok(())
    }

    async fn send(outlet: &Outlet, follower: &mut Follower, way: &mut Way, piece: Piece) -> Result<(), Broken> {
        match way {
            Way::Raw if piece.bytes.is_empty() => Ok(()),
            Way::Raw => Ok(outlet.send(piece.bytes.into()).await?),
            Way::Text(text) => text.take(outlet, follower.take_entries(piece.end()), &piece).await,
        }
    }

    /// Whether more may be printed in an attempt. Marks the present state as seen.
    async fn is_live(&mut self, kept: AttemptId, file: Option<FileId>) -> bool {
        let standing = {
            let snapshot = self.snapshot.borrow_and_update();
            let Some(agent) = snapshot.agent(&self.agent.key()) else { return false };
            Standing::of(agent)
        };
        if !standing.may_print_in(kept.attempt) {
            return false;
        }
        // A change of another agent is no reason to look again.
        if std::mem::take(&mut self.look_again) || self.live_in.as_ref() != Some(&standing) {
            // An earlier declaration's attempt may have had the same number.
            let latest = open(&self.store, &self.agent, Which::Latest, Wanted::all(false)).await;
            if latest.is_ok_and(|latest| latest.log.file().ok() != file) {
                return false;
            }
            self.live_in = Some(standing);
        }
        true
    }

    /// Whether the file is of the same attempt.
    fn goes_on_in(&self, kept: AttemptId, next: &Opened) -> bool {
        let (snapshot, next) = (self.snapshot.borrow(), next.log.kept());
        let Some(agent) = snapshot.agent(&self.agent.key()) else { return false };
        let standing = Standing::of(agent);
        self.live_in.as_ref() == Some(&standing) && next.attempt == kept.attempt && standing.may_print_in(next.attempt)
    }

    /// Whether the agent will not start again by itself.
    fn is_over(&self) -> bool {
        let snapshot = self.snapshot.borrow();
        snapshot.agent(&self.agent.key()).is_none_or(|agent| matches!(agent.state, State::Exited | State::Invalid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_chosen_by_place_or_number_newest_first() {
        let kept = |sequence, attempt| AttemptId { sequence, attempt };
        let attempts = [kept(7, 1), kept(8, 2), kept(9, 1)];
        let named = |name: &str| Which::Named(name.parse().unwrap());
        for (which, expected) in [
            (Which::Latest, 9),
            (Which::Previous, 8),
            (named("1"), 9),
            (named("2"), 8),
            (named("7-1"), 7),
            (named("00000009-1"), 9),
        ] {
            assert_eq!(choose(&attempts, which).unwrap().sequence, expected);
        }
        for (name, attempts, expected) in [
            (
                "3",
                &attempts[..],
                "nothing is kept of attempt 3; kept: 7-1, 8-2, 9-1 (number of the log, then of the attempt); a bare number means \
                 the latest attempt with that number",
            ),
            ("7-2", &attempts[..2], "nothing is kept of attempt 7-2; kept: attempts 1, 2"),
        ] {
            assert_eq!(choose(attempts, named(name)).unwrap_err().to_string(), expected);
        }
        assert!(matches!(choose(&[], Which::Latest), Err(Error::Nothing)));
        assert!(matches!(choose(&attempts[..1], Which::Previous), Err(Error::NotAmong(..))));
    }
}
