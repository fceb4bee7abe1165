//! How a machine is told: the status of its agent, and the account of an attempt.

use super::life::{Exit, Latest};
use super::{BackoffReason, Effect, Harness, Machine, State, StopReason};
use crate::agent::fingerprint::Fingerprint;
use crate::sys::clock::Timestamp;
use crate::wire::reason::{Causes, StopStage, StoppingBecause, WaitingFor};
use crate::wire::status::{self, AgentStatus, Outcome, PastAttempt, Time};

impl Machine {
    /// The agent as the API shows it.
    pub fn status(&self) -> AgentStatus {
        let (waiting_for, stopping) = (self.waiting_for(), self.stopping());
        let reason = self.reason(&waiting_for, stopping.as_ref());
        let (stopping_because, stop_stage) = stopping.unzip();
        let declared = self.declared.as_ref();
        let time = |at: Timestamp| Time(at.wall());
        let pid = match self.state {
            State::Running { pid, .. } | State::Stopping { harness: Harness::Alive { pid }, .. } => Some(pid),
            _ => None,
        };
        AgentStatus {
            name: self.name.to_string(),
            running: pid.is_some(),
            session: self
                .session
                .as_ref()
                .filter(|session| session.is_open)
                .map(|session| session.name.to_string())
                .unwrap_or_default(),
            restarts: declared.map_or(0, |declared| declared.restarts),
            error: self.entry_error.clone().or_else(|| declared?.error.clone()),
            state: self.shown_state(),
            since: self.shown_since().map(time),
            reason: Some(reason),
            outcome: match self.state {
                State::Exited { outcome } => Some(outcome),
                _ => None,
            },
            harness: self.harness.clone(),
            kind: declared.map(|declared| declared.kind.clone()),
            pid,
            attempt: declared.map(|declared| declared.attempts).filter(|&attempts| attempts > 0),
            declared_at: declared.map(|declared| time(declared.at)),
            started_at: declared.and_then(|declared| declared.started).map(time),
            exit: declared.and_then(|declared| declared.exit.as_ref()).map(|exit| status::Exit {
                how: exit.how.clone(),
                at: time(exit.at),
                oom_kills: oom_kills(exit),
            }),
            next_start_at: match self.state {
                // Nobody knows how long clearing takes.
                State::Backoff { why: BackoffReason::Clearing, .. } => None,
                State::Backoff { until, .. } => Some(time(until)),
                _ => None,
            },
            deadline: match self.state {
                State::Stopping { deadline, .. } => Some(time(deadline)),
                _ => None,
            },
            timeout_at: self.timeout_at().map(time),
            limits_error: declared.and_then(|declared| declared.limits_error.clone()),
            log_error: declared.and_then(|declared| declared.log_error.clone()),
            environment_error: declared.and_then(|declared| declared.environment_error.clone()),
            waiting_for,
            stopping_because,
            stop_stage,
            resources: None,
            history: Vec::new(),
        }
    }

    /// Since when it has been in the state that is shown, whenever this daemon heard of it.
    fn shown_since(&self) -> Option<Timestamp> {
        match self.state {
            State::Running { since, .. } => Some(since),
            _ => self.since,
        }
    }

    pub(super) fn shown_state(&self) -> status::State {
        match self.state {
            State::Invalid => status::State::Invalid,
            State::Waiting | State::Queued { .. } => status::State::Waiting,
            State::Starting { .. } => status::State::Starting,
            State::Running { .. } => status::State::Running,
            State::Stopping { .. } | State::Closing { .. } | State::Gone => status::State::Stopping,
            State::Backoff { .. } => status::State::Backoff,
            State::Exited { .. } => status::State::Exited,
        }
    }

    /// What it waits for, the nearest at hand first.
    fn waiting_for(&self) -> Vec<WaitingFor> {
        let Some(declared) = &self.declared else { return vec![WaitingFor::Entry {}] };
        match &self.state {
            State::Invalid => vec![WaitingFor::Entry {}],
            State::Waiting => declared.missing.as_ref().map(|missing| missing.0.clone()).unwrap_or_default(),
            State::Queued { holder } => {
                let session = declared.launch.as_ref().map_or(&self.name, |launch| &launch.session);
                vec![WaitingFor::Session { name: session.to_string(), holder: holder.to_string() }]
            }
            State::Backoff { why, .. } => {
                let delay = match why {
                    BackoffReason::Restart => Some(WaitingFor::Backoff {
                        restart: declared.restarts.saturating_add(1),
                        max_restarts: declared.policy.max_restarts,
                    }),
                    BackoffReason::Retry => Some(WaitingFor::Retry {}),
                    BackoffReason::Clearing => None,
                };
                let leftovers = self.lingering.as_ref().map(|_| WaitingFor::PreviousAttempt {});
                delay.into_iter().chain(leftovers).collect()
            }
            State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Exited { .. }
            | State::Closing { .. }
            | State::Gone => Vec::new(),
        }
    }

    fn stopping(&self) -> Option<(StoppingBecause, StopStage)> {
        let present = if self.leaving { StopReason::Removed } else { StopReason::Changed };
        match &self.state {
            State::Stopping { why, killed, harness, .. } => {
                let stage = match (killed, harness) {
                    (true, _) => StopStage::Killed,
                    (false, Harness::Over) => StopStage::Clearing,
                    (false, Harness::Awaited | Harness::Alive { .. }) => StopStage::Interrupted,
                };
                Some((because(*why, self.shutdown), stage))
            }
            State::Closing { .. } | State::Gone => Some((because(present, self.shutdown), StopStage::Closing)),
            _ => None,
        }
    }

    /// The sentence for people, made of what `waiting` and `stopping` say as data.
    fn reason(&self, waiting: &[WaitingFor], stopping: Option<&(StoppingBecause, StopStage)>) -> String {
        let ended = || {
            let exit = self.declared.as_ref().and_then(|declared| Some((declared.exit.as_ref()?, &declared.policy)));
            exit.map_or_else(|| "ended".to_owned(), |(exit, policy)| describe(exit, policy.limits.memory))
        };
        let Some(declared) = &self.declared else { return WaitingFor::Entry {}.to_string() };
        match &self.state {
            State::Invalid | State::Waiting | State::Queued { .. } => Causes(waiting).to_string(),
            State::Backoff { why: BackoffReason::Restart, .. } => {
                format!("{}; {}", ended(), Causes(waiting.get(..1).unwrap_or_default()))
            }
            State::Backoff { .. } => Causes(waiting.get(..1).unwrap_or_default()).to_string(),
            State::Starting { .. } => format!("attempt {} is being started", declared.attempts),
            State::Running { .. } => match (declared.restarts, declared.policy.max_restarts) {
                (0, _) => "declared".to_owned(),
                (restarts, Some(limit)) => format!("restarted by policy, restart {restarts} of {limit}"),
                (restarts, None) => format!("restarted by policy, restart {restarts}"),
            },
            State::Stopping { .. } | State::Closing { .. } | State::Gone => match stopping {
                Some((_, stage @ StopStage::Closing)) => stage.to_string(),
                Some((because, stage)) => format!("{because}; {stage}"),
                None => String::new(),
            },
            State::Exited { outcome: Outcome::TimedOut } => format!("{}; {}", StoppingBecause::TimedOut {}, ended()),
            State::Exited { outcome: Outcome::GaveUp } => {
                format!("{}; {} restarts were allowed and made", ended(), declared.restarts)
            }
            State::Exited { .. } => ended(),
        }
    }
}

/// `shutdown` says whether a removal is one because the daemon is being stopped.
pub(super) fn because(why: StopReason, shutdown: bool) -> StoppingBecause {
    match why {
        StopReason::Changed => StoppingBecause::Changed {},
        StopReason::Removed if shutdown => StoppingBecause::Shutdown {},
        StopReason::Removed => StoppingBecause::Removed {},
        StopReason::TimedOut => StoppingBecause::TimedOut {},
    }
}

pub(super) fn describe(exit: &Exit, memory: Option<u64>) -> String {
    let how = &exit.how;
    if exit.usage.oom_kills == 0 {
        return how.to_string();
    }
    let limit = memory.map_or_else(String::new, |bytes| format!(", of which it may have {}", in_words(bytes)));
    format!("{how}; the kernel killed {} of its processes for lack of memory{limit}", exit.usage.oom_kills)
}

fn oom_kills(exit: &Exit) -> Option<u64> {
    Some(exit.usage.oom_kills).filter(|&kills| kills > 0)
}

/// An attempt that has just ended, for its history.
pub(super) fn account(latest: Option<&Latest>, exit: &Exit, reason: &str) -> Option<Effect> {
    let time = |at: Timestamp| Time(at.wall());
    let latest = latest?;
    Some(Effect::Account(PastAttempt {
        attempt: latest.number,
        declared_at: time(latest.declared),
        fingerprint: latest.fingerprint.as_ref().map(Fingerprint::short),
        started_at: latest.started.map(time),
        exit: status::Exit { how: exit.how.clone(), at: time(exit.at), oom_kills: oom_kills(exit) },
        reason: reason.to_owned(),
        cpu_usec: exit.usage.cpu_usec,
        memory_peak: exit.usage.memory_peak,
    }))
}

/// Bytes, in the largest unit that gives a whole number.
fn in_words(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| format!("{bytes} bytes"), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}
