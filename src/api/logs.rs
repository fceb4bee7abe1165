//! Serves the logs of agents, as raw bytes or as text, and follows them as they grow.
//!
//! A [transcript](crate::deputy::transcript) of each attempt does the work; this module decides what follows it, and when it is over.

use std::sync::Arc;

use hyper::body::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::query::Style;
use crate::agent::name::Name;
use crate::api::outlet::Outlet;
use crate::deputy::renderer::Renderers;
use crate::deputy::transcript::{Broken, Outlet as _, Rendering, Transcript};
use crate::logs::attempt::{AttemptId, Named};
use crate::logs::selection::{Opened, Wanted, Which, open};
use crate::logs::store::Store;
use crate::observe::redactions::Unknown;
use crate::observe::snapshot::Snapshot;
use crate::sys::file_id::FileId;
use crate::wire::status::{AgentStatus, State, Time};

impl From<Unknown> for Broken {
    fn from(unknown: Unknown) -> Self {
        Self::Failed(unknown.to_string())
    }
}

/// Begins the line that tells which attempt begins. No agent can print it: text has no control characters but ends of lines and
/// tabulators.
const MARK: char = '\u{1e}';

/// Which attempt begins.
#[derive(Debug, Serialize)]
struct Mark {
    /// As its files are named.
    log: String,
    /// Its number.
    attempt: u64,
    /// When something was last printed in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_at: Option<Time>,
}

/// One answer about an agent's log.
pub(super) struct Telling {
    pub(super) store: Store,
    pub(super) agent: Name,
    /// What turns the log into text; without it the answer is the raw bytes.
    pub(super) renderers: Option<Renderers>,
    /// What the text has beside what was printed.
    pub(super) style: Style,
    /// Of attempts before the one that was opened, nothing that was printed earlier than that.
    pub(super) wanted: Wanted,
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
        self.tell_earlier(&outlet, &opened.earlier).await?;
        let mut transcript = self.begin(&outlet, &opened).await?;
        transcript.rest(&outlet).await?;
        transcript.end(&outlet).await?;
        Ok(())
    }

    /// Sends attempts that are over.
    async fn tell_earlier(&self, outlet: &Outlet, attempts: &[AttemptId]) -> Result<(), Broken> {
        for &kept in attempts {
            // It may have been removed meanwhile.
            let Ok(opened) = open(&self.store, &self.agent, Which::Named(Named::Log(kept)), self.wanted).await else {
                continue;
            };
            let is_early = |since| opened.log.changed().is_ok_and(|changed| changed < since);
            if self.wanted.since.is_some_and(is_early) {
                continue;
            }
            let mut transcript = self.begin(outlet, &opened).await?;
            transcript.rest(outlet).await?;
            if transcript.end(outlet).await? {
                // Two attempts share no line.
                outlet.send(Bytes::from_static(b"\n")).await?;
            }
        }
        Ok(())
    }

    /// Sends what is there and what is printed later, until the attempt is over, or the agent if later attempts are included.
    pub(super) async fn follow(mut self, outlet: Outlet, mut opened: Opened) -> Result<(), Broken> {
        let mut moves = self.store.moves();
        self.tell_earlier(&outlet, &opened.earlier).await?;
        loop {
            let (kept, file) = (opened.log.kept(), opened.log.file().ok());
            let mut transcript = self.begin(&outlet, &opened).await?;
            transcript.rest(&outlet).await?;
            transcript.show(&outlet).await?;
            while self.is_live(kept, file).await {
                let settles_at = transcript.settles_at();
                let settling = async {
                    match settles_at {
                        Some(time) => sleep_until(time).await,
                        None => std::future::pending().await,
                    }
                };
                // Each arm only takes what has arrived, so canceling the others loses nothing.
                tokio::select! {
                    piece = transcript.next() => {
                        let piece = piece?;
                        transcript.send_at_once(&outlet, piece).await?;
                    }
                    () = settling => transcript.settle(&outlet).await?,
                    changed = self.snapshot.changed() => if changed.is_err() { return Ok(()) },
                    // It may be this one. The other end is the store's, which is here.
                    Ok(()) = moves.changed() => self.look_again = true,
                }
            }
            transcript.rest(&outlet).await?;
            let is_mid_line = transcript.end(&outlet).await?;
            drop(transcript);
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
    async fn begin(&self, outlet: &Outlet, opened: &Opened) -> Result<Transcript, Broken> {
        let rendering = match &self.renderers {
            Some(renderers) => {
                let snapshot = Arc::clone(&self.snapshot.borrow());
                let redactor = snapshot.redactor(&self.agent.key()).await?;
                Some(Rendering { renderers: renderers.clone(), redactor, stamps: self.style.stamps })
            }
            None => None,
        };
        if self.style.marks {
            let kept = opened.log.kept();
            let changed_at = opened.log.changed().ok().map(Time);
            let mark = Mark { log: kept.to_string(), attempt: kept.attempt, changed_at };
            let mark = serde_json::to_string(&mark).unwrap_or_default();
            outlet.send(format!("{MARK}{mark}\n").into()).await?;
        }
        Transcript::begin(opened, rendering).await
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
