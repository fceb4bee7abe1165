//! What agents printed, as it is kept, and on as it is written.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::body::Bytes;
use tokio::sync::watch;

use super::order::Which;
use super::stream::{Gone, Outlet};
use crate::config::Name;
use crate::output::FileId;
use crate::output::plain::Plain;
use crate::output::reader::{Busy, Follower, Log, Piece};
use crate::output::store::{Kept, Store};
use crate::status::{Snapshot, State, Time};

/// Why there is nothing to tell.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Nothing was ever printed, or all of it is gone.
    #[error("nothing is kept of what it printed")]
    Nothing,
    /// Other attempts are kept.
    #[error("that attempt is not among those of which something is kept: {0}")]
    NotAmong(String),
    /// Not now.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// It cannot be found out.
    #[error("failed to read what was printed: {0}")]
    Read(#[from] io::Error),
}

/// One attempt, open.
pub(super) struct Opened {
    log: Arc<Log>,
    /// Where to begin.
    at: u64,
}

/// Opens the attempt that is meant, at what is wanted of it.
pub(super) async fn open(
    store: &Store,
    agent: &Name,
    which: Which,
    lines: Option<usize>,
    since: Option<SystemTime>,
) -> Result<Opened, Error> {
    let (readers, store, agent) = (store.readers(), store.clone(), agent.clone());
    let work = move |is_wanted: &dyn Fn() -> bool| {
        let attempts = store.attempts(&agent).map_err(io::Error::other)?;
        let kept = choose(&attempts, which)?;
        let log = store.open(&agent, kept).map_err(io::Error::other)?.ok_or(Error::Nothing)?;
        let at = match since {
            Some(time) => log.since(time, is_wanted)?,
            None => log.begin()?,
        };
        let at = lines.map_or(Ok(at), |lines| log.last_lines(lines, is_wanted).map(|last| last.max(at)))?;
        Ok(Opened { log: Arc::new(log.without_index()), at })
    };
    readers.work(work).await??
}

fn choose(attempts: &[Kept], which: Which) -> Result<Kept, Error> {
    let mut latest_first = attempts.iter().rev();
    let chosen = match which {
        Which::Latest => latest_first.next(),
        Which::Previous => latest_first.nth(1),
        Which::Number(number) => latest_first.find(|kept| kept.attempt == number),
    };
    match (chosen, attempts) {
        (Some(kept), _) => Ok(*kept),
        (None, []) => Err(Error::Nothing),
        (None, _) => {
            let numbers: Vec<String> = attempts.iter().map(|kept| kept.attempt.to_string()).collect();
            Err(Error::NotAmong(numbers.join(", ")))
        }
    }
}

/// How bytes are told.
pub(super) enum Form {
    Raw,
    Plain(Plain),
}

impl Form {
    fn of(&mut self, Piece { bytes, .. }: Piece) -> Bytes {
        match self {
            Self::Raw => bytes.into(),
            Self::Plain(plain) => {
                let mut text = Vec::with_capacity(bytes.len());
                plain.pass(&bytes, &mut text);
                text.into()
            }
        }
    }
}

/// What is to be told.
pub(super) struct Telling {
    pub(super) store: Store,
    pub(super) agent: Name,
    pub(super) form: Form,
    /// Whether the attempts to come are meant, too.
    pub(super) is_latest: bool,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
    /// How the agent stood when it was last seen that the attempt goes on.
    pub(super) live_in: Option<Standing>,
    /// Whether it may go on in another file, however it stands.
    pub(super) look_again: bool,
}

/// What of an agent tells whether an attempt goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Standing {
    state: State,
    attempt: Option<u64>,
    declared_at: Option<Time>,
}

impl Standing {
    fn may_print_in(&self, attempt: u64) -> bool {
        matches!(self.state, State::Starting | State::Running | State::Stopping) && self.attempt == Some(attempt)
    }
}

impl Telling {
    /// What is there now.
    pub(super) async fn tell(mut self, outlet: Outlet, opened: Opened) -> Result<(), Gone> {
        let mut follower = Follower::new(opened.log, opened.at);
        self.rest(&outlet, &mut follower).await
    }

    /// What is there, and what is printed later: until the attempt is over, or, if those to come are meant, until the agent is.
    pub(super) async fn follow(mut self, outlet: Outlet, mut opened: Opened) -> Result<(), Gone> {
        let mut moves = self.store.moves();
        loop {
            let (kept, file) = (opened.log.kept(), opened.log.file().ok());
            let mut follower = Follower::new(opened.log, opened.at);
            while self.is_live(kept, file).await {
                tokio::select! {
                    piece = follower.next() => match piece {
                        Ok(piece) => self.send(&outlet, piece).await?,
                        Err(_) => return Ok(()),
                    },
                    changed = self.snapshot.changed() => if changed.is_err() { return Ok(()) },
                    // It may be this one. The other end is the store's, which is here.
                    Ok(()) = moves.changed() => self.look_again = true,
                }
            }
            self.rest(&outlet, &mut follower).await?;
            opened = loop {
                match open(&self.store, &self.agent, Which::Latest, None, None).await {
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
        }
    }

    async fn rest(&mut self, outlet: &Outlet, follower: &mut Follower) -> Result<(), Gone> {
        while let Ok(Some(piece)) = follower.read().await {
            self.send(outlet, piece).await?;
        }
        Ok(())
    }

    async fn send(&mut self, outlet: &Outlet, piece: Piece) -> Result<(), Gone> {
        let bytes = self.form.of(piece);
        if bytes.is_empty() { Ok(()) } else { outlet.send(bytes).await }
    }

    /// Whether more may be printed in an attempt. It is marked as seen how things stand.
    async fn is_live(&mut self, kept: Kept, file: Option<FileId>) -> bool {
        let standing = {
            let snapshot = self.snapshot.borrow_and_update();
            let Some(agent) = snapshot.agent(self.agent.as_str()) else { return false };
            Standing { state: agent.state, attempt: agent.attempt, declared_at: agent.declared_at }
        };
        if !standing.may_print_in(kept.attempt) {
            return false;
        }
        // What happens to others is no reason to look again.
        if std::mem::take(&mut self.look_again) || self.live_in.as_ref() != Some(&standing) {
            // An earlier declaration's attempt may have had the same number.
            let latest = open(&self.store, &self.agent, Which::Latest, None, None).await;
            if latest.is_ok_and(|latest| latest.log.file().ok() != file) {
                return false;
            }
            self.live_in = Some(standing);
        }
        true
    }

    /// Whether it is the same attempt, in another file.
    fn goes_on_in(&self, kept: Kept, next: &Opened) -> bool {
        let (snapshot, next) = (self.snapshot.borrow(), next.log.kept());
        let Some(agent) = snapshot.agent(self.agent.as_str()) else { return false };
        let standing = Standing { state: agent.state, attempt: agent.attempt, declared_at: agent.declared_at };
        self.live_in.as_ref() == Some(&standing) && next.attempt == kept.attempt && standing.may_print_in(next.attempt)
    }

    /// Whether nothing more will be printed by itself.
    fn is_over(&self) -> bool {
        let snapshot = self.snapshot.borrow();
        snapshot.agent(self.agent.as_str()).is_none_or(|agent| matches!(agent.state, State::Exited | State::Invalid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_chosen_by_its_place_or_by_its_number_the_latest_of_several() {
        let kept = |sequence, attempt| Kept { sequence, attempt };
        let attempts = [kept(7, 1), kept(8, 2), kept(9, 1)];
        for (which, expected) in
            [(Which::Latest, 9), (Which::Previous, 8), (Which::Number(1), 9), (Which::Number(2), 8)]
        {
            assert_eq!(choose(&attempts, which).unwrap().sequence, expected);
        }
        let error = choose(&attempts, Which::Number(3)).unwrap_err().to_string();
        assert_eq!(error, "that attempt is not among those of which something is kept: 1, 2, 1");
        assert!(matches!(choose(&[], Which::Latest), Err(Error::Nothing)));
        assert!(matches!(choose(&attempts[..1], Which::Previous), Err(Error::NotAmong(..))));
    }
}
