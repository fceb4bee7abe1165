//! What an attempt of an earlier daemon left: its launcher, its pane, or nothing.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Complaint, Launcher, POLL_INTERVAL, Provenance, REPORT_TIMEOUT, Run, Wanted, is_waited_for};
use crate::agent::machine::{self, NotStarted};
use crate::contain::cgroup::Whose;
use crate::sys::process::{Identity, Process};
use crate::tmux::{self, Pane};
use crate::wire::exit_status::ExitStatus;
use crate::wire::status::Usage;

/// What is left of an attempt that an earlier daemon launched.
#[derive(Debug)]
pub(super) enum Survivor {
    /// A process that should be its launcher.
    Alive(Process),
    /// A pane in which it has ended.
    Ended(tmux::PaneEnd),
    Nothing,
}

/// Which process of an agent's pane is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum PaneQuery {
    /// Whatever lives there, or has ended there last.
    Any,
    /// This one, which has ended.
    Former(Identity),
}

impl<T: Fn(machine::Event)> Run<T> {
    /// Finds the attempt of an earlier daemon again. Returns the launcher to follow; `None` if the attempt is over.
    pub(super) async fn resume(&mut self, launcher: Option<Identity>) -> Option<Launcher> {
        let left = match launcher {
            Some(launcher) => {
                self.earliest = launcher.started();
                // A record of another agent's process would be one of somebody who posed as this one's launcher.
                if let Some(process) = self.open(launcher).await
                    && !matches!(self.seat.containment.whose(&self.name.key(), &process), Some(Ok(Whose::Anothers)))
                {
                    return self.join(process, Provenance::OnRecord).await;
                }
                match self.left_in_pane(PaneQuery::Former(launcher)).await {
                    // The record may be behind, and another be running there.
                    Survivor::Nothing => self.left_in_pane(PaneQuery::Any).await,
                    left => left,
                }
            }
            None => self.left_in_pane(PaneQuery::Any).await,
        };
        match (left, launcher) {
            (Survivor::Alive(process), _) => return self.join(process, Provenance::ByPane).await,
            (Survivor::Ended(end), Some(_)) => self.ended_in_pane(&end),
            (Survivor::Nothing, Some(_)) => {
                self.ended(
                    ExitStatus::Cause("it ended while no daemon ran, and its pane is gone".to_owned()),
                    None,
                    Usage::default(),
                );
            }
            // One that was told what to launch is on record, and what ended there is the attempt before.
            (Survivor::Ended(_) | Survivor::Nothing, None) => drop(self.not_started(NotStarted::CutOff)),
        }
        // Nobody has looked after what it wrote while no daemon ran.
        self.log.take_up(None).await;
        self.see_cleared(self.seat.containment.clear_after(&self.name.key(), launcher).await);
        None
    }

    /// What tmux says is in the agent's pane. Asked until tmux answers; of one that has ended, or is to be killed, not without end.
    pub(super) async fn left_in_pane(&mut self, sought: PaneQuery) -> Survivor {
        let patience = Instant::now() + REPORT_TIMEOUT;
        let mut complaint = Complaint::default();
        if let PaneQuery::Former(former) = sought {
            self.see_noticed(former);
        }
        loop {
            let (seat, key) = (Arc::clone(&self.seat), self.name.key());
            match self.listen_during(seat.sessions.panes(&key)).await {
                Ok(panes) => {
                    if let Some(left) = self.left_in(&panes, sought) {
                        return left;
                    }
                }
                Err(tmux::Error::NoServer { .. }) => return Survivor::Nothing,
                Err(error) => complaint.make(&self.name, &format!("failed to find out what runs in its pane: {error}")),
            }
            let is_over = matches!(sought, PaneQuery::Former(_)) || self.wanted == Wanted::Killed;
            if is_over && (Instant::now() >= patience || self.seat.sessions.is_given_up()) {
                return Survivor::Nothing;
            }
            self.listen_for(POLL_INTERVAL).await;
        }
    }

    /// `None` if that cannot be told yet.
    pub(super) fn left_in(&self, panes: &[Pane], sought: PaneQuery) -> Option<Survivor> {
        let mut ended = None;
        for pane in panes {
            match (sought, &pane.end) {
                (PaneQuery::Former(former), _) if former.pid() != pane.pid => {}
                // tmux has yet to notice the end.
                (PaneQuery::Former(_), None) => return None,
                (PaneQuery::Former(former), Some(end)) if !end.is_known() && !is_waited_for(former) => return None,
                (_, Some(end)) => ended = Some(Survivor::Ended(end.clone())),
                (PaneQuery::Any, None) => {
                    // What has ended in the meantime is not there, and what is not the agent user's is not the agent's.
                    if let Some(process) = Process::find(pane.pid).ok()?
                        && process.runs_as(self.seat.user).ok()?
                    {
                        return Some(Survivor::Alive(process));
                    }
                }
            }
        }
        Some(ended.unwrap_or(Survivor::Nothing))
    }
}
