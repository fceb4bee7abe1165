//! Rotation of one agent: which values of its secrets it was given, and which it would be given now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::life::{Exit, Wanted};
use super::report::describe;
use super::{Effect, Machine, State, StopReason};
use crate::agent::changes::Marks;
use crate::agent::declaration::Declaration;
use crate::agent::hold::Group;
use crate::agent::launch::Launch;
use crate::agent::rotation::{Member, OnRotate, PROOF, Pending, Renewal, Stage};
use crate::agent::verdict::Verdict;
use crate::sys::clock::Timestamp;
use crate::wire::activity::Source;

/// What the present or latest attempt was launched with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Given {
    /// The marks of all of it.
    pub(super) marks: Marks,
    /// Since when the agent has been launched with these values of its secrets. Times that are not known are absent.
    #[serde(default)]
    pub(super) since: BTreeMap<String, Timestamp>,
    /// The group of the credential. Records of earlier builds lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<Group>,
}

impl Machine {
    /// The marks of what was launched last, if that is known.
    pub fn given(&self) -> Option<&Marks> {
        self.given.as_ref().map(|given| &given.marks)
    }

    /// The group of the credential that was launched last, if that is known.
    pub fn credential(&self) -> Option<&Group> {
        self.given.as_ref()?.group.as_ref()
    }

    /// Whether new values of its secrets wait.
    pub fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// The agent as a roll sees it; `None` if it has nothing to do with one.
    pub fn member(&self) -> Option<Member> {
        if self.pending.is_none() && self.renewal.is_none() || self.is_leaving() {
            return None;
        }
        let life = self.life.as_ref()?;
        Some(Member {
            pending: self.pending.clone(),
            is_ready: matches!(life.wanted, Wanted::Ready(_)),
            stage: match self.state {
                State::Starting { .. } => Stage::Starting,
                State::Running { since, .. } => Stage::Running(since),
                State::Stopping { why: StopReason::Changed | StopReason::Restarted, .. } => Stage::Stopping,
                _ => Stage::Over,
            },
            renewal: self.renewal.clone(),
            // A screen may show anything.
            doing: self.activity.statement().filter(|said| said.source != Source::Screen).map(|said| said.doing),
            ..Member::new(self.name.clone(), life.policy.rotation)
        })
    }

    /// Notes which new values wait, once nothing else than values of secrets differs from what runs. Those that have waited longest say
    /// since when.
    pub(super) fn look_for_rotation(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let (Some(given), Some(life)) = (&self.given, &self.life) else { return };
        // What cannot be compared now may still wait.
        let Wanted::Ready(launch) = &life.wanted else { return };
        let rotated = given.marks.rotated_to(&launch.marks).unwrap_or_default();
        let secrets: BTreeSet<String> = rotated.iter().map(|secret| launch.file_of(secret).to_owned()).collect();
        let since = self.pending.take().map_or(now, |pending| pending.since);
        self.pending = (!secrets.is_empty()).then_some(Pending { secrets, since });
        self.renew_files(effects);
    }

    /// Has the files of what runs replaced, if it takes new values from there. Those that are as they should be stay.
    pub(super) fn renew_files(&self, effects: &mut Vec<Effect>) {
        let (State::Running { attempt, .. }, Some(given), Some(life)) = (&self.state, &self.given, &self.life) else {
            return;
        };
        let Wanted::Ready(launch) = &life.wanted else { return };
        let takes_files = launch.has_secret_files && life.policy.rotation.on_rotate == OnRotate::Files;
        if takes_files && given.marks.rotated_to(&launch.marks).is_some() {
            effects.push(Effect::Renew { attempt: *attempt, launch: Arc::clone(launch) });
        }
    }

    /// Launches what runs with old values again.
    pub(super) fn rotate(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let (Some(given), Some(life), Some(_)) = (&self.given, &mut self.life, &self.pending) else { return };
        let is_up = matches!(self.state, State::Starting { .. } | State::Running { .. });
        let (Wanted::Ready(launch), true) = (&life.wanted, is_up) else { return };
        let launch = Ok(Arc::clone(launch));
        let declaration = Declaration { kind: life.kind.clone(), policy: life.policy.clone(), launch };
        life.marks = Some(given.marks.clone());
        let entry_error = self.entry_error.take();
        self.declare(declaration, now, effects);
        self.entry_error = entry_error;
    }

    /// Notes what is launched.
    pub(super) fn give(&mut self, launch: &Launch, now: Timestamp) {
        self.pending = None;
        let before = self.given.take();
        let renewed = before.as_ref().and_then(|before| Some(before.marks.changes_to(&launch.marks)?.secrets));
        let since = |secret: &str| match (&before, &renewed) {
            (Some(before), Some(renewed)) if !renewed.iter().any(|name| name == secret) => {
                before.since.get(secret).copied()
            }
            _ => Some(now),
        };
        let known = launch.marks.secrets().filter_map(|secret| Some((secret.to_owned(), since(secret)?)));
        let (since, marks, group) = (known.collect(), launch.marks.clone(), Some(launch.group.clone()));
        self.given = Some(Given { marks, since, group });
        let given = |secret: &&String| launch.secrets.contains(*secret);
        let secrets: BTreeSet<String> =
            renewed.iter().flatten().filter(given).map(|secret| launch.file_of(secret).to_owned()).collect();
        if !secrets.is_empty() {
            self.renewal = Some(Renewal { secrets, at: now, is_proven: false, failure: None });
        }
    }

    /// Notes whether the attempt that has ended by itself speaks for the values that it was given, or against them.
    pub(super) fn judge_renewal(&mut self, exit: &Exit, since: Timestamp) {
        let Some(life) = &self.life else { return };
        let Some(renewal) = self.renewal.as_mut().filter(|renewal| !renewal.is_proven) else { return };
        let has_run = exit.at.since(since) >= PROOF;
        // Harnesses try a credential that is refused again and again before they give up.
        if exit.verdict(&life.policy) == Verdict::Completed || has_run && !exit.by_credential {
            (renewal.is_proven, renewal.failure) = (true, None);
        } else {
            renewal.failure = Some(describe(exit, &life.policy));
        }
    }
}

impl Renewal {
    /// An attempt with the new values could not even be started.
    pub(super) fn has_failed(&mut self, how: &str) {
        if !self.is_proven {
            self.failure = Some(how.to_owned());
        }
    }
}
