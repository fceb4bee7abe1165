//! What the API says of a machine: the status of its agent, and the account of an attempt.

use super::life::{Exit, Idled, Latest, Life};
use super::{BackoffReason, Effect, Force, Harness, LaunchReason, Machine, Removal, Session, State, StopReason};
use crate::agent::conversation::Conversation;
use crate::agent::fingerprint::Fingerprint;
use crate::agent::hold::Bar;
use crate::agent::name::Name;
use crate::agent::spec::Policy;
use crate::agent::user::UserName;
use crate::agent::verdict::{Fault, Verdict};
use crate::sys::clock::Timestamp;
use crate::wire::hold::Hold;
use crate::wire::reason::{self, Causes, StopStage, StoppingBecause, WaitingFor};
use crate::wire::result::StreamResult;
use crate::wire::status::{self, AgentStatus, GivenSecret, Outcome, PastAttempt, Time};

impl From<LaunchReason> for reason::LaunchReason {
    fn from(reason: LaunchReason) -> Self {
        match reason {
            LaunchReason::First => Self::First,
            LaunchReason::Declaration => Self::Declaration,
            LaunchReason::Policy => Self::Policy,
            LaunchReason::Retry => Self::Retry,
            LaunchReason::Recovery => Self::Recovery,
            LaunchReason::Restarted => Self::Restarted,
            LaunchReason::Released => Self::Released,
        }
    }
}

impl Machine {
    /// The agent as the API shows it.
    pub fn status(&self) -> AgentStatus {
        let life = self.life.as_ref();
        let time = |at: Timestamp| Time(at.wall());
        let pid = match self.state {
            State::Running { pid, .. } | State::Stopping { harness: Harness::Alive { pid }, .. } => Some(pid),
            _ => None,
        };
        let (waiting_for, stopping) = (self.waiting_for(), self.stopping());
        let reason = self.reason(&waiting_for, stopping.as_ref());
        let (stopping_because, stop_stage) = stopping.unzip();
        let by_default = life.map(|life| life.policy.by_default).unwrap_or_default();
        let limits_error = life.and_then(|life| life.limits_error.clone());
        AgentStatus {
            name: self.name.to_string(),
            running: pid.is_some(),
            session: match &self.session {
                Some(Session { name, is_open: true, .. }) => name.to_string(),
                Some(Session { is_open: false, .. }) | None => String::new(),
            },
            restarts: life.map_or(0, |life| life.restarts),
            error: self.entry_error.clone().or_else(|| life?.error.clone()),
            state: self.shown_state(),
            since: self.shown_since().map(time),
            reason: Some(reason),
            outcome: match self.state {
                State::Exited { outcome } => Some(outcome),
                _ => None,
            },
            harness: self.harness.clone(),
            kind: life.map(|life| life.kind.in_words().to_owned()),
            // While something of it runs, it is whom that runs as.
            user: match &self.session {
                Some(session) => session.user.as_ref().map(|user| user.name.to_string()),
                None => self.declared_user.as_ref().map(UserName::to_string),
            },
            sandbox: life.and_then(|life| life.kind.sandbox()).map(|sandbox| sandbox.engine.to_string()),
            labels: life.map(|life| life.policy.labels.clone()).unwrap_or_default(),
            pid,
            attempt: life.map(|life| life.attempts).filter(|&attempts| attempts > 0),
            declared_at: life.map(|life| time(life.at)),
            started_at: life.and_then(|life| life.started).map(time),
            exit: life.and_then(|life| life.exit.as_ref()).map(|exit| status::Exit {
                how: exit.how.clone(),
                at: time(exit.at),
                oom_kills: oom_kills(exit),
                silent: exit.silent,
            }),
            next_start_at: match self.state {
                // How long clearing takes is not known.
                State::Backoff { why: BackoffReason::Clearing, .. } => None,
                State::Backoff { until, .. } | State::Absent { until } => Some(time(until)),
                _ => None,
            },
            deadline: match self.state {
                State::Stopping { deadline, .. } => Some(time(deadline)),
                _ => None,
            },
            timeout_at: self.timeout_at().map(time),
            limits_error: limits_error.clone().filter(|_| !by_default.limits),
            default_limits_error: limits_error.filter(|_| by_default.limits),
            sandboxed_by_default: by_default.sandbox,
            log_error: life.and_then(|life| life.log_error.clone()),
            environment_error: life.and_then(|life| life.environment_error.clone()),
            activity: self.asking().or_else(|| self.activity.report()).filter(|_| pid.is_some()),
            hooks_unheard: pid.is_some() && self.activity.is_unheard(),
            conversation: self.conversation.as_ref().map(Conversation::shown),
            waiting_for,
            stopping_because,
            stop_stage,
            launch_reason: match self.state {
                State::Starting { .. } => {
                    self.latest.as_ref().and_then(|latest| latest.reason).map(reason::LaunchReason::from)
                }
                _ => None,
            },
            attempt_total: Some(self.total).filter(|&total| total > 0),
            last_output_at: None,
            result: life.and_then(|life| life.exit.as_ref()?.result.clone()),
            cost_usd: life.and_then(|life| life.bill.cost()),
            tokens: life.and_then(|life| life.bill.tokens()),
            generation: self.generation(),
            overridden: self.orders.own.clone().filter(|own| !own.is_neutral()),
            changed: life.map(|life| life.changed.clone()).unwrap_or_default(),
            hold: self.shown_hold(),
            config_generation: None,
            skills: self
                .launch()
                .map(|launch| launch.skills.iter().map(|it| it.name.clone()).collect())
                .unwrap_or_default(),
            secrets: self.secrets(),
            rotation: None,
            resources: None,
            logs: None,
            history: Vec::new(),
            approvals: Vec::new(),
        }
    }

    fn secrets(&self) -> Vec<GivenSecret> {
        let Some(given) = &self.given else { return Vec::new() };
        let since = |name: &str| given.since.get(name).map(|at| Time(at.wall()));
        given.marks.secrets().map(|name| GivenSecret { name: name.to_owned(), since: since(name) }).collect()
    }

    /// When it entered the state that is shown, even if this daemon learned of that later.
    fn shown_since(&self) -> Option<Timestamp> {
        match self.state {
            State::Running { since, .. } => Some(since),
            _ => self.since,
        }
    }

    pub(super) fn shown_state(&self) -> status::State {
        match self.state {
            State::Invalid => status::State::Invalid,
            State::Waiting | State::Absent { .. } | State::Queued { .. } => status::State::Waiting,
            State::Starting { .. } => status::State::Starting,
            State::Running { .. } => status::State::Running,
            State::Stopping { .. } | State::Closing { .. } | State::Gone { .. } => status::State::Stopping,
            State::Backoff { .. } => status::State::Backoff,
            State::Exited { .. } => status::State::Exited,
        }
    }

    /// What it waits for, the nearest at hand first.
    fn waiting_for(&self) -> Vec<WaitingFor> {
        let Some(life) = &self.life else { return vec![WaitingFor::Entry {}] };
        match &self.state {
            State::Invalid => vec![WaitingFor::Entry {}],
            State::Waiting => self
                .forbidden()
                .chain(self.barred_by_hold())
                .chain(life.wanted.missing().into_iter().flat_map(|missing| missing.0.clone()))
                .collect(),
            State::Absent { .. } => self.forbidden().chain(life.absent.clone().map(WaitingFor::from)).collect(),
            State::Queued { session, holder } => {
                let name = session.as_ref().map(Name::to_string);
                let session = WaitingFor::Session { name, holder: holder.to_string() };
                self.forbidden().chain([session]).collect()
            }
            State::Backoff { why, .. } => {
                let delay = match why {
                    BackoffReason::Restart => Some(WaitingFor::Backoff {
                        restart: life.restarts.saturating_add(1),
                        max_restarts: life.policy.max_restarts,
                    }),
                    BackoffReason::Retry => Some(WaitingFor::Retry {}),
                    BackoffReason::Hold => self.barred_by_hold(),
                    BackoffReason::Clearing => None,
                };
                let leftovers = self.lingering.as_ref().map(|_| WaitingFor::PreviousAttempt {});
                delay.into_iter().chain(leftovers).chain(self.held()).collect()
            }
            State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Exited { .. }
            | State::Closing { .. }
            | State::Gone { .. } => Vec::new(),
        }
    }

    /// What keeps it from starting because of its credential.
    fn barred_by_hold(&self) -> Option<WaitingFor> {
        let time = |at: Timestamp| Time(at.wall());
        Some(match self.hold.as_ref()? {
            Bar::Held(held) => WaitingFor::Hold {
                group: held.group.to_string(),
                hold: held.kind,
                until: time(held.end()),
                evidence: held.text.clone(),
            },
            Bar::Turn { group, first, until, after: _ } => WaitingFor::Turn {
                group: group.to_string(),
                first: first.as_ref().map(|key| key.as_str().to_owned()),
                until: until.map(time),
            },
        })
    }

    /// The hold that keeps it from starting.
    fn shown_hold(&self) -> Option<Hold> {
        self.life.as_ref()?.held_since?;
        Some(self.hold.as_ref()?.held()?.shown())
    }

    pub(super) fn because(&self, why: StopReason) -> StoppingBecause {
        match why {
            StopReason::Changed => StoppingBecause::Changed {
                changes: self.life.as_ref().map(|life| life.changed.clone()).unwrap_or_default(),
            },
            StopReason::Removed(Removal::Undeclared) => StoppingBecause::Removed {},
            StopReason::Removed(Removal::Shutdown) => StoppingBecause::Shutdown {},
            StopReason::TimedOut => StoppingBecause::TimedOut {},
            StopReason::CostLimit => StoppingBecause::CostLimit {},
            StopReason::Idled => self.life.as_ref().and_then(idled).unwrap_or(StoppingBecause::TimedOut {}),
            StopReason::Disabled => StoppingBecause::Disabled { by: self.giver.by.clone(), at: self.giver.at },
            StopReason::Restarted => StoppingBecause::Restarted { by: self.giver.by.clone(), at: self.giver.at },
        }
    }

    /// Why it is being stopped, and how far that has come.
    fn stopping(&self) -> Option<(StoppingBecause, StopStage)> {
        match self.state {
            State::Stopping { why, force, harness, .. } => {
                let stage = match (force, harness) {
                    (Force::Killed, _) => StopStage::Killed,
                    (Force::Interrupted { .. }, Harness::Over) => StopStage::Clearing,
                    (Force::Interrupted { .. }, Harness::Awaited | Harness::Alive { .. }) => StopStage::Interrupted,
                };
                Some((self.because(why), stage))
            }
            State::Closing { .. } | State::Gone { .. } => {
                let why = self.removal().map_or(StopReason::Changed, StopReason::Removed);
                Some((self.because(why), StopStage::Closing))
            }
            _ => None,
        }
    }

    /// The sentence for people, made of what `waiting` and `stopping` say as data.
    fn reason(&self, waiting: &[WaitingFor], stopping: Option<&(StoppingBecause, StopStage)>) -> String {
        let Some(life) = &self.life else { return WaitingFor::Entry {}.to_string() };
        let ended = || life.exit.as_ref().map_or_else(|| "ended".to_owned(), |exit| describe(exit, &life.policy));
        let nearest = Causes(waiting.get(..1).unwrap_or_default());
        match &self.state {
            State::Waiting if matches!(waiting, [WaitingFor::Enabled { by: Some(_), .. }, ..]) => {
                format!("{}: `agentd start {}` starts it", Causes(waiting), self.name)
            }
            State::Invalid | State::Waiting | State::Absent { .. } | State::Queued { .. } => {
                Causes(waiting).to_string()
            }
            State::Backoff { why: BackoffReason::Restart, .. } => format!("{}; {nearest}", ended()),
            State::Backoff { .. } => nearest.to_string(),
            State::Starting { .. } if life.is_building => {
                format!("attempt {} is being started: packages are being built", self.total)
            }
            State::Starting { .. } => format!("attempt {} is being started", self.total),
            State::Running { .. } => match (life.restarts, life.policy.max_restarts) {
                (0, _) => "started as declared".to_owned(),
                (restarts, Some(limit)) => format!("restarted by policy, restart {restarts} of {limit}"),
                (restarts, None) => format!("restarted by policy, restart {restarts}"),
            },
            State::Stopping { .. } | State::Closing { .. } | State::Gone { .. } => match stopping {
                Some((_, stage @ StopStage::Closing)) => stage.to_string(),
                Some((because, stage)) => format!("{because}; {stage}"),
                None => String::new(),
            },
            State::Exited { outcome: Outcome::TimedOut } => format!("{}; {}", StoppingBecause::TimedOut {}, ended()),
            State::Exited { .. } if life.idled.is_some() => {
                idled(life).map_or_else(ended, |because| format!("{because}; {}", ended()))
            }
            State::Exited { outcome: Outcome::GaveUp } => {
                format!("{}; `max_restarts = {}` is reached", ended(), life.restarts)
            }
            State::Exited { .. } if life.exit.as_ref().is_some_and(|exit| exit.by_cost) => {
                let most = life.policy.max_cost.map_or_else(String::new, |most| format!(" of at most ${most}"));
                let cost = life.bill.cost().map_or_else(|| "it is spent".to_owned(), |cost| format!("${cost:.2}"));
                format!("cost limit: {cost}{most}; {}", ended())
            }
            State::Exited { .. } => ended(),
        }
    }
}

/// Why an attempt was ended that was idle or blocked for too long.
fn idled(life: &Life) -> Option<StoppingBecause> {
    let Idled { doing, detail, waited } = life.idled.clone()?;
    Some(StoppingBecause::Idled { doing, seconds: waited.as_secs(), detail })
}

pub(super) fn describe(exit: &Exit, policy: &Policy) -> String {
    let (how, memory) = (&exit.how, policy.limits.memory);
    if let Verdict::Failed(fault) = exit.verdict(policy)
        && fault != Fault::Status
    {
        return format!("{fault} ({how})");
    }
    if exit.silent {
        return format!("{how} in under 2 s and printed nothing");
    }
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
        attempt_total: latest.total,
        declared_at: time(latest.declared),
        fingerprint: latest.fingerprint.as_ref().map(Fingerprint::short),
        started_at: latest.started.map(time),
        exit: status::Exit {
            how: exit.how.clone(),
            at: time(exit.at),
            oom_kills: oom_kills(exit),
            silent: exit.silent,
        },
        reason: reason.to_owned(),
        conversation: latest.conversation.clone(),
        cpu_usec: exit.usage.cpu_usec,
        memory_peak: exit.usage.memory_peak,
        approvals: Vec::new(),
        result: exit.result.as_ref().map(|result| Box::new(in_history(result))),
    }))
}

/// A result with as much of its text as a history has room for: the end.
fn in_history(result: &StreamResult) -> StreamResult {
    const MOST_TEXT: usize = 512;
    let excess = result.text.len().saturating_sub(MOST_TEXT);
    let text = result.text[result.text.ceil_char_boundary(excess)..].to_owned();
    StreamResult { text, ..result.clone() }
}

/// Bytes, in the largest unit that gives a whole number.
fn in_words(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| format!("{bytes} bytes"), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}
