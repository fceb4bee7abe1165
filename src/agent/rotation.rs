//! Rotation: when an agent that runs is given the new values of its secrets, and in which order several are. Pure.
//!
//! A rotation is *pending* while an agent runs with other values than it would be launched with, and nothing else of what is launched
//! differs. Its entry says when it is due, and [`roll`] whose turn it is. What a roll has to know of the past is part of each agent: a
//! daemon that takes over goes on where the one before was.
//!
//! An agent waits for another only while that one is being stopped or started, or has run for less than [`PROOF`]: each of these ends.
//! Only a failure with the new values holds the others for longer. They then keep what works, until the values change again or the
//! agent that failed runs after all. Nor is an agent stopped that could not be started with the new values, because its
//! [credential](crate::agent::hold) is held.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::hold::Group;
use crate::agent::name::{Key, Name};
use crate::sys::clock::Timestamp;
use crate::wire::activity::Doing;
use crate::wire::status::RotationCause;

/// How long an attempt runs until the values that it was given are taken to work.
pub const PROOF: Duration = Duration::from_secs(5);

/// How long an agent that is never idle keeps its old values, unless its entry says otherwise.
pub const WITHIN: Duration = Duration::from_hours(1);

/// What a change of the values of an agent's secrets does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRotate {
    /// The agent is launched again.
    #[default]
    Relaunch,
    /// The agent is launched again as soon as it is idle.
    Idle,
    /// Nothing, until the agent is started next.
    Next,
    /// The files that hold the values are replaced.
    Files,
}

impl OnRotate {
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::Relaunch, Self::Idle, Self::Next, Self::Files];

    /// As an entry says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Relaunch => "relaunch",
            Self::Idle => "idle",
            Self::Next => "next",
            Self::Files => "files",
        }
    }
}

/// What an entry says about rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rotation {
    /// What is done.
    pub on_rotate: OnRotate,
    /// How long after another agent that is given the same secret.
    pub spread: Duration,
    /// How long an agent may stay busy with the old values.
    pub within: Duration,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { on_rotate: OnRotate::default(), spread: Duration::ZERO, within: WITHIN }
    }
}

impl Rotation {
    /// Whether new values alone do not relaunch the agent at once.
    pub fn is_deferred(&self) -> bool {
        self.on_rotate != OnRotate::Relaunch || !self.spread.is_zero()
    }

    /// Whether an entry says nothing of it.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// New values that an agent is not launched with yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The secrets, by the names of their files.
    pub secrets: BTreeSet<String>,
    /// Since when there have been new values.
    pub since: Timestamp,
}

/// The latest launch that gave an agent new values, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The secrets, by the names of their files.
    pub secrets: BTreeSet<String>,
    /// When.
    pub at: Timestamp,
    /// Whether an attempt with them ran for [`PROOF`], or completed.
    #[serde(default)]
    pub is_proven: bool,
    /// How an attempt failed before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// How far an agent is in taking up new values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is being stopped, and is started after that.
    Stopping,
    /// It is being started.
    Starting,
    /// It has run since then.
    Running(Timestamp),
    /// Nothing of it runs.
    Over,
}

/// One agent, as far as a roll goes.
#[derive(Clone, Debug)]
pub struct Member {
    /// As written.
    pub name: Name,
    /// What its entry says.
    pub rotation: Rotation,
    /// New values that it is not launched with yet, whether it runs or not.
    pub pending: Option<Pending>,
    /// Whether it can be launched again now with all that it needs.
    pub is_ready: bool,
    /// The credential that it would be launched with, if nobody is launched with it now.
    pub barred_by: Option<Group>,
    /// How far it is.
    pub stage: Stage,
    /// What it does, by its own harness's word; `None` if that is unknown, which is not idle.
    pub doing: Option<Doing>,
    /// Its latest launch with new values.
    pub renewal: Option<Renewal>,
}

impl Member {
    /// An agent of this name that runs nothing.
    pub fn new(name: Name, rotation: Rotation) -> Self {
        Self {
            name,
            rotation,
            pending: None,
            is_ready: false,
            barred_by: None,
            stage: Stage::Over,
            doing: None,
            renewal: None,
        }
    }

    /// New values of these secrets that it was launched with and that are still wanted.
    fn renewed(&self, secrets: &BTreeSet<String>) -> Option<&Renewal> {
        let is_stale = |secret: &String| self.pending.as_ref().is_some_and(|pending| pending.secrets.contains(secret));
        self.renewal.as_ref().filter(|it| it.secrets.intersection(secrets).any(|secret| !is_stale(secret)))
    }

    fn is_being_renewed(&self, secrets: &BTreeSet<String>) -> bool {
        self.stage == Stage::Stopping && self.pending.as_ref().is_some_and(|it| !it.secrets.is_disjoint(secrets))
    }

    /// When the values that it runs with will have been proven, if it goes on running.
    fn proof_at(&self) -> Option<Timestamp> {
        match self.stage {
            Stage::Running(since) => Some(since + PROOF),
            Stage::Stopping | Stage::Starting | Stage::Over => None,
        }
    }

    /// How it failed with these values, unless it runs by now.
    fn failure(&self, renewal: &Renewal, now: Timestamp) -> Option<String> {
        if self.doing == Some(Doing::Login) {
            return Some("it must be logged in".to_owned());
        }
        renewal.failure.clone().filter(|_| self.proof_at().is_none_or(|at| now < at))
    }
}

/// What a pending rotation waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The agent works, or it is unknown whether it does.
    Busy,
    /// The next start.
    NextStart,
    /// The next start, for the variables; the files have the new values.
    FilesReplaced,
    /// Something that the agent needs and that is missing.
    Lacking,
    /// The credential, which is held, or which another agent tries first.
    Hold(Group),
    /// Another agent that is given the same secret.
    Turn(Name),
    /// Another agent has failed with the new value.
    Failed {
        /// Which.
        name: Name,
        /// How.
        how: String,
    },
}

impl Why {
    /// As data.
    pub fn cause(&self) -> RotationCause {
        match self {
            Self::Busy => RotationCause::Busy,
            Self::NextStart => RotationCause::NextStart,
            Self::FilesReplaced => RotationCause::FilesReplaced,
            Self::Lacking => RotationCause::Lacking,
            Self::Hold(_) => RotationCause::Hold,
            Self::Turn(_) => RotationCause::Turn,
            Self::Failed { .. } => RotationCause::Failed,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("its harness has not said that it is idle"),
            Self::NextStart => f.write_str("the agent gets the new values at its next start"),
            Self::FilesReplaced => {
                f.write_str("the files have the new values; the variables get them at the agent's next start")
            }
            Self::Lacking => f.write_str("the agent lacks something that it needs to be started"),
            Self::Hold(group) => {
                write!(
                    f,
                    "no agent is started with {group} now; this agent keeps the old values until one has tried it"
                )
            }
            Self::Turn(name) => write!(f, "{name} takes up the new values first"),
            Self::Failed { name, how } => {
                write!(f, "{name} failed with the new values: {how}; this agent keeps the old ones")
            }
        }
    }
}

/// What to do about one pending rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Launch the agent again.
    Rotate,
    /// Wait.
    Wait {
        /// For what.
        why: Why,
        /// When to look again, if time alone changes anything.
        until: Option<Timestamp>,
    },
}

/// What to do about each agent that runs with old values.
pub fn roll(members: &BTreeMap<Key, Member>, now: Timestamp) -> BTreeMap<Key, Step> {
    let running = |member: &Member| matches!(member.stage, Stage::Starting | Stage::Running(_));
    let mut waiting: Vec<_> = members
        .iter()
        .filter(|(_, member)| running(member))
        .filter_map(|(key, member)| Some((key, member, member.pending.as_ref()?)))
        .collect();
    waiting.sort_by_key(|(key, _, pending)| (pending.since, *key));
    let mut begun: Vec<(&Name, &BTreeSet<String>)> = Vec::new();
    let mut steps = BTreeMap::new();
    for (key, member, pending) in waiting {
        let step = due(member, pending, now)
            .and_then(|()| past_failures(members, pending, now))
            .and_then(|()| {
                if member.rotation.spread.is_zero() { Ok(()) } else { turn(members, &begun, member, pending, now) }
            })
            .and_then(|()| match &member.barred_by {
                Some(group) => Err(wait(Why::Hold(group.clone()), None)),
                None => Ok(()),
            })
            .err()
            .unwrap_or(Step::Rotate);
        if step == Step::Rotate {
            begun.push((&member.name, &pending.secrets));
        }
        steps.insert(key.clone(), step);
    }
    steps
}

fn wait(why: Why, until: Option<Timestamp>) -> Step {
    Step::Wait { why, until }
}

/// Whether the entry wants the rotation now.
fn due(member: &Member, pending: &Pending, now: Timestamp) -> Result<(), Step> {
    match member.rotation.on_rotate {
        OnRotate::Next => return Err(wait(Why::NextStart, None)),
        OnRotate::Files => return Err(wait(Why::FilesReplaced, None)),
        OnRotate::Relaunch | OnRotate::Idle if !member.is_ready => return Err(wait(Why::Lacking, None)),
        OnRotate::Relaunch => {}
        OnRotate::Idle => {
            let by = pending.since + member.rotation.within;
            if member.doing != Some(Doing::Idle) && now < by {
                return Err(wait(Why::Busy, Some(by)));
            }
        }
    }
    Ok(())
}

/// Whether no agent has failed with the same values.
fn past_failures(members: &BTreeMap<Key, Member>, pending: &Pending, now: Timestamp) -> Result<(), Step> {
    for other in members.values() {
        if let Some(renewal) = other.renewed(&pending.secrets)
            && let Some(how) = other.failure(renewal, now)
        {
            let until = other.proof_at().filter(|at| now < *at);
            return Err(wait(Why::Failed { name: other.name.clone(), how }, until));
        }
    }
    Ok(())
}

/// Whether it is the turn of this agent among those that are given the same secrets.
fn turn(
    members: &BTreeMap<Key, Member>,
    begun: &[(&Name, &BTreeSet<String>)],
    member: &Member,
    pending: &Pending,
    now: Timestamp,
) -> Result<(), Step> {
    let secrets = &pending.secrets;
    if let Some((name, _)) = begun.iter().find(|(_, others)| !others.is_disjoint(secrets)) {
        return Err(wait(Why::Turn((*name).clone()), None));
    }
    for other in members.values() {
        let behind = |until| Err(wait(Why::Turn(other.name.clone()), until));
        if other.is_being_renewed(secrets) {
            return behind(None);
        }
        let Some(renewal) = other.renewed(secrets) else { continue };
        if !renewal.is_proven {
            match (other.stage, other.proof_at()) {
                (Stage::Starting, _) => return behind(None),
                (_, Some(at)) if now < at => return behind(Some(at)),
                _ => {}
            }
        }
        let next = renewal.at + member.rotation.spread;
        if now < next {
            return behind(Some(next));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
