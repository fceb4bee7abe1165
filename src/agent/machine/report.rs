//! How a machine is told: the status of its agent, and the account of an attempt.

use super::life::{Exit, Latest};
use super::{BackoffReason, Effect, Harness, Machine, State};
use crate::agent::fingerprint::Fingerprint;
use crate::sys::clock::Timestamp;
use crate::wire::status::{self, AgentStatus, Outcome, PastAttempt, Time};

impl Machine {
    /// The agent as the API shows it.
    pub fn status(&self) -> AgentStatus {
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
            reason: Some(self.reason()),
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

    fn reason(&self) -> String {
        let Some(declared) = &self.declared else { return "its entry is wrong, and nothing of it ever ran".to_owned() };
        let ended = || {
            declared
                .exit
                .as_ref()
                .map_or_else(|| "ended".to_owned(), |exit| describe(exit, declared.policy.limits.memory))
        };
        let of_limit = |count: u64| match declared.policy.max_restarts {
            Some(limit) => format!("{count} of {limit}"),
            None => count.to_string(),
        };
        match &self.state {
            State::Invalid => "its entry is wrong".to_owned(),
            State::Waiting => declared.missing.as_deref().unwrap_or("it is not its turn yet").to_owned(),
            State::Queued { holder } => {
                let session = declared.launch.as_ref().map_or("it wants", |launch| launch.session.as_str());
                format!("its session {session} is still in use by {holder}")
            }
            State::Starting { .. } => format!("attempt {} is being started", declared.attempts),
            State::Running { .. } if declared.restarts > 0 => {
                format!("restarted by policy, restart {}", of_limit(declared.restarts))
            }
            State::Running { .. } => "declared".to_owned(),
            State::Stopping { why, killed, harness, .. } => {
                let why = why.in_words();
                let how = match (killed, harness) {
                    (true, _) => "killed",
                    (false, Harness::Over) => "what it left behind is being cleared away",
                    (false, Harness::Awaited | Harness::Alive { .. }) => "interrupted, will be killed at the deadline",
                };
                format!("{why}; {how}")
            }
            State::Backoff { why: BackoffReason::Restart, .. } => {
                format!("{}; restart {} follows", ended(), of_limit(declared.restarts.saturating_add(1)))
            }
            State::Backoff { why: BackoffReason::Retry, .. } => "the launch failed and will be tried again".to_owned(),
            State::Backoff { why: BackoffReason::Clearing, .. } => {
                "what was there before is being cleared away".to_owned()
            }
            State::Exited { outcome: Outcome::TimedOut } => format!("its timeout has passed; {}", ended()),
            State::Exited { outcome: Outcome::GaveUp } => {
                format!("{}; {} restarts were allowed and made", ended(), declared.restarts)
            }
            State::Exited { .. } => ended(),
            State::Closing { .. } | State::Gone => "its session is being closed".to_owned(),
        }
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
