//! Holds: which agents may start while a credential that they share does not work. Pure.
//!
//! Agents that share a credential are a [group](Group). An attempt that failed and says why is [evidence](Evidence): it begins a hold
//! of its group. In a hold, no agent of the group starts; what runs goes on. After it, one agent tries first, the canary. The
//! others follow when the canary has made a turn or lived for [`PROOF`]; if it fails in the same way, the hold is renewed.
//!
//! - Evidence comes from attempts that failed, and never from one that succeeded. A living agent can only say that it must be logged in,
//!   and each of its attempts is believed once.
//! - A hold of a login ends by a try, which the reload, a changed login file, or time gives; one of a quota ends at the reset.
//! - In any [`WINDOW`] after a hold began, at most [`TRIES`] agents of the group are launched as canaries.
//! - A cold start of more than [`MANY`] agents on a credential that nobody has used yet is staggered.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::name::Key;
use crate::sys::clock::Timestamp;
use crate::wire::hold::Hold;
pub use crate::wire::hold::HoldKind;
use crate::wire::status::Time;

/// How long a canary must live before the others follow, unless it makes a turn.
pub const PROOF: Duration = Duration::from_mins(1);

/// The time in which no more than [`TRIES`] canaries are launched.
pub const WINDOW: Duration = Duration::from_mins(10);

/// How many canaries are launched in a [`WINDOW`].
pub const TRIES: usize = 2;

/// The most agents of a group that start at once on a credential that nobody has used yet.
pub const MANY: usize = 3;

/// How long the first agent of a cold start is alone, unless it makes a turn.
pub const COLD: Duration = Duration::from_secs(10);

/// The default of `hold_retry`.
pub const RETRY: Duration = Duration::from_hours(1);

/// The soonest and the latest end of a hold of a quota, from now.
const RESET: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(8 * 24));

/// How long a quota is given whose reset is not known: the first time, the second, and so on.
const UNKNOWN: [Duration; 3] = [Duration::from_mins(15), Duration::from_mins(30), Duration::from_hours(1)];

/// By how much the ends of a hold of a quota differ at most.
const JITTER_MS: u64 = 60_000;

/// The most characters of evidence.
const MOST_OF_TEXT: usize = 256;

/// What an entry says of holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnHold {
    /// The agent waits for the end of the hold, and starts again whatever its restart policy is.
    Wait,
    /// The restart policy decides upon its end as upon every other. It starts no sooner than the others of its group.
    Fail,
    /// Nothing of it is evidence, and no hold concerns it.
    #[default]
    Off,
}

impl OnHold {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Wait, Self::Fail, Self::Off];

    /// The word of the jcard.
    pub fn word(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Fail => "fail",
            Self::Off => "off",
        }
    }

    /// Whether an entry that says nothing says this.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

/// The agents that share a credential, by a name that does not tell it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Group(Arc<str>);

impl Group {
    /// Those whose variable of this name has a value of this mark.
    pub fn of_variable(name: &str, mark: u32) -> Self {
        // Not all of the mark: a guess at the value cannot be confirmed by it.
        Self(format!("{name}-{:06x}", mark & 0x00ff_ffff).into())
    }

    /// Those that are logged in as this user.
    pub fn of_login(harness: &str, user: &str) -> Self {
        Self(format!("{harness}@{user}").into())
    }

    /// As it is shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The variable that holds the credential; `None` if the agents are logged in.
    pub fn variable(&self) -> Option<&str> {
        let (name, _) = self.0.rsplit_once('-')?;
        (!self.0.contains('@')).then_some(name)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({})", self.0)
    }
}

/// What an attempt that failed says of its credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// What is wrong with it.
    pub kind: HoldKind,
    /// When its quota is reset, as far as it says so.
    pub until: Option<Timestamp>,
    /// In the words of the harness.
    pub text: String,
}

/// A hold. It has all that the next daemon must know of its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Of which group.
    pub group: Group,
    /// What is wrong with the credential.
    pub kind: HoldKind,
    /// When it began.
    pub since: Timestamp,
    /// When it ends, or for a login when one agent tries it again.
    pub until: Timestamp,
    /// When the agent that asks may try. Those of a quota do not all come at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_until: Option<Timestamp>,
    /// What the harness said.
    pub text: String,
    /// How often in a row the reset was not known.
    #[serde(default)]
    pub unknown: usize,
    /// When the latest canaries were launched; never more than [`TRIES`].
    #[serde(default)]
    pub tries: Vec<Timestamp>,
}

/// Why an agent must not start now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bar {
    /// Its group is held.
    Held(Held),
    /// Another agent of its group tries the credential first, or is about to.
    Turn {
        /// Which group.
        group: Group,
        /// The agent.
        first: Option<Key>,
        /// When another may start whatever becomes of that one.
        until: Option<Timestamp>,
        /// The hold that was before.
        after: Option<Held>,
    },
}

impl Bar {
    /// Of which group.
    pub fn group(&self) -> &Group {
        match self {
            Self::Held(held) => &held.group,
            Self::Turn { group, .. } => group,
        }
    }

    /// The hold that is, or was before.
    pub fn held(&self) -> Option<&Held> {
        match self {
            Self::Held(held) => Some(held),
            Self::Turn { after, .. } => after.as_ref(),
        }
    }
}

/// A change that is to be told, once for each group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A hold has begun, or was renewed.
    Held(Held),
    /// The agents of the group start again.
    Released(Held),
}

/// How an attempt ended that gave no evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It completed: the credential works.
    Completed,
    /// It failed for another reason, or was stopped, so that nothing is known.
    Unclear,
    /// It never began.
    Nothing,
}

/// An agent that tries first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Canary {
    key: Key,
    launched: Timestamp,
}

/// What is known of the credential of a group. That of a group which is not listed was never used.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Credential {
    /// Somebody uses it for the first time.
    New { canary: Canary },
    /// It works, as far as is known.
    Good { since: Timestamp },
    /// It does not work.
    Bad(Held),
    /// Its hold is over.
    Trial { held: Held, canary: Option<Canary>, from: Opening },
}

/// From when on an agent of a group may try, when none does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// From its own end of the hold on.
    OwnEnd,
    /// From then on, whichever it is.
    At(Timestamp),
    /// At once, whichever it is.
    Now,
}

impl Opening {
    /// Whether the time that it waits for has come.
    fn is_over(self, now: Timestamp) -> bool {
        matches!(self, Self::At(at) if at <= now)
    }
}

/// What is known of all credentials.
#[derive(Debug, Default)]
pub struct Holds {
    credentials: BTreeMap<Group, Credential>,
    /// How many agents share each.
    sizes: BTreeMap<Group, usize>,
    news: Vec<News>,
    has_changed: bool,
}

impl Holds {
    /// Takes in what the record of an agent says. What was written last of a group counts.
    pub fn restore(&mut self, bar: &Bar) {
        let Some(held) = bar.held() else { return };
        // A record may be older than that of another agent. A try is written down with the turn that the others wait for, and what came
        // of it after that.
        let rank = |held: &Held, is_bad| (held.tries.last().copied(), held.until, is_bad);
        let known = match self.credentials.get(&held.group) {
            Some(Credential::Bad(known)) => Some(rank(known, true)),
            Some(Credential::Trial { held: known, .. }) => Some(rank(known, false)),
            _ => None,
        };
        if known >= Some(rank(held, matches!(bar, Bar::Held(_)))) {
            return;
        }
        let held = Held { own_until: None, ..held.clone() };
        let credential = match bar {
            Bar::Held(_) => Credential::Bad(held),
            Bar::Turn { first, until, .. } => {
                let launched = held.tries.last().copied().unwrap_or(held.since);
                let canary = first.as_ref().map(|key| Canary { key: key.clone(), launched });
                let from = until.map_or(Opening::Now, Opening::At);
                Credential::Trial { held, canary, from }
            }
        };
        self.credentials.insert(bar.group().clone(), credential);
        self.has_changed = true;
    }

    /// Once everything is restored: canaries that do not live any more try nothing.
    pub fn keep_canaries(&mut self, lives: impl Fn(&Key) -> bool, now: Timestamp) {
        for credential in self.credentials.values_mut() {
            if let Credential::Trial { held, canary, from } = credential
                && canary.take_if(|canary| !lives(&canary.key)).is_some()
            {
                *from = held.opening(now);
                self.has_changed = true;
            }
        }
    }

    /// Takes in how many agents each group has. Nothing is kept of others.
    pub fn count(&mut self, sizes: BTreeMap<Group, usize>) {
        if self.sizes != sizes {
            self.has_changed = true;
        }
        let gone = self.credentials.extract_if(.., |group, _| !sizes.contains_key(group));
        self.news.extend(gone.filter_map(|(_, credential)| match credential {
            Credential::Bad(held) | Credential::Trial { held, .. } => Some(News::Released(held)),
            Credential::New { .. } | Credential::Good { .. } => None,
        }));
        self.sizes = sizes;
    }

    /// Why this agent must not start now; `None` if it may.
    pub fn bar(&self, group: &Group, key: &Key, now: Timestamp) -> Option<Bar> {
        let turn = |canary: &Canary, until, after: Option<&Held>| Bar::Turn {
            group: group.clone(),
            first: Some(canary.key.clone()),
            until,
            after: after.cloned(),
        };
        match self.credentials.get(group)? {
            Credential::New { canary } if canary.key != *key && self.is_large(group) => {
                let until = canary.launched + COLD;
                (now < until).then(|| turn(canary, Some(until), None))
            }
            Credential::New { .. }
            | Credential::Good { .. }
            | Credential::Trial { canary: None, from: Opening::Now, .. } => None,
            Credential::Bad(held) if now < held.until => Some(Bar::Held(held.own(key))),
            // Somebody has to try, each a little later than the one before.
            Credential::Bad(held) => held.own_bar(key, now).or_else(|| held.wait_for_try(now)),
            Credential::Trial { canary: Some(canary), .. } if canary.key == *key => None,
            Credential::Trial { held, canary: Some(canary), .. } => Some(turn(canary, None, Some(held))),
            Credential::Trial { held, canary: None, from: Opening::OwnEnd } => held.own_bar(key, now),
            Credential::Trial { held, canary: None, from: Opening::At(at) } => (now < *at).then(|| held.turn_at(*at)),
        }
    }

    fn is_large(&self, group: &Group) -> bool {
        self.sizes.get(group).is_some_and(|&size| size > MANY)
    }

    /// An agent of this group was launched.
    pub fn launched(&mut self, group: &Group, key: &Key, now: Timestamp) {
        let canary = Canary { key: key.clone(), launched: now };
        match self.credentials.get_mut(group) {
            None => {
                self.credentials.insert(group.clone(), Credential::New { canary });
            }
            Some(Credential::Bad(held)) => {
                let held = held.tried(now);
                let trial = Credential::Trial { held, canary: Some(canary), from: Opening::Now };
                self.credentials.insert(group.clone(), trial);
            }
            Some(Credential::Trial { held, canary: none @ None, .. }) => {
                *held = held.tried(now);
                *none = Some(canary);
            }
            Some(Credential::New { .. } | Credential::Good { .. } | Credential::Trial { .. }) => return,
        }
        self.has_changed = true;
    }

    /// An attempt of this agent has failed, and this is why. A login is tried again after `retry`.
    pub fn failed(&mut self, group: &Group, key: &Key, evidence: Evidence, retry: Duration, now: Timestamp) {
        let Evidence { kind, until, text } = evidence;
        let text: String = text.chars().filter(|c| !c.is_control()).take(MOST_OF_TEXT).collect();
        let before = match self.credentials.get(group) {
            Some(Credential::Bad(held)) => Some((held, false)),
            // One that ran before may still have the login of before. The canary decides.
            Some(Credential::Trial { held, canary: Some(canary), .. }) if canary.key != *key && held.kind == kind => {
                return;
            }
            Some(Credential::Trial { held, canary, .. }) => Some((held, canary.is_some())),
            _ => None,
        };
        let is_told = before.is_none_or(|(held, was_canary)| held.kind != kind || was_canary);
        let is_step = is_told && kind == HoldKind::Quota && until.is_none();
        let (since, tries, steps) =
            before.map_or_else(|| (now, Vec::new(), 0), |(held, _)| (held.since, held.tries.clone(), held.unknown));
        // Others that ran along say the same of the same time.
        let as_before = before.filter(|(held, _)| !is_told && now < held.until).map(|(held, _)| held.until);
        let until = match (kind, until) {
            (HoldKind::Quota, Some(reset)) => reset.clamp(now + RESET.0, now + RESET.1),
            (HoldKind::Login, _) => as_before.unwrap_or(now + retry),
            (HoldKind::Quota, None) => {
                as_before.unwrap_or_else(|| now + UNKNOWN.get(steps).or(UNKNOWN.last()).copied().unwrap_or(RETRY))
            }
        };
        let unknown = if is_step { steps.saturating_add(1) } else { steps };
        let held = Held { group: group.clone(), kind, since, until, own_until: None, text, unknown, tries };
        if is_told {
            self.news.push(News::Held(held.clone()));
        }
        self.credentials.insert(group.clone(), Credential::Bad(held));
        self.has_changed = true;
    }

    /// A living agent says that it must be logged in. That begins a hold, but never prolongs one, and ends no trial of another agent:
    /// an agent that says so again and again would keep its group from ever starting.
    pub fn shows_login(&mut self, group: &Group, key: &Key, text: String, retry: Duration, now: Timestamp) {
        let is_open = match self.credentials.get(group) {
            Some(Credential::Bad(_)) => false,
            Some(Credential::Trial { canary, .. }) => canary.as_ref().is_some_and(|canary| canary.key == *key),
            Some(Credential::New { .. } | Credential::Good { .. }) | None => true,
        };
        if is_open {
            self.failed(group, key, Evidence { kind: HoldKind::Login, until: None, text }, retry, now);
        }
    }

    /// An attempt of this agent is over without evidence.
    pub fn ended(&mut self, group: &Group, key: &Key, end: End, now: Timestamp) {
        match (self.credentials.get_mut(group), end) {
            (Some(Credential::New { canary }), End::Nothing) if canary.key == *key => {
                self.credentials.remove(group);
            }
            (Some(Credential::New { canary } | Credential::Trial { canary: Some(canary), .. }), End::Completed)
                if canary.key == *key =>
            {
                self.prove(group);
            }
            (Some(Credential::Trial { held, canary, from }), _)
                if canary.as_ref().is_some_and(|canary| canary.key == *key) =>
            {
                if end == End::Nothing {
                    held.tries.pop();
                }
                *canary = None;
                *from = held.opening(now);
            }
            _ => return,
        }
        self.has_changed = true;
    }

    /// This agent has made a turn.
    pub fn made_turn(&mut self, group: &Group, key: &Key) {
        if self.canary(group).is_some_and(|canary| canary.key == *key) {
            self.prove(group);
        }
    }

    fn canary(&self, group: &Group) -> Option<&Canary> {
        match self.credentials.get(group)? {
            Credential::New { canary } => Some(canary),
            Credential::Trial { canary, .. } => canary.as_ref(),
            Credential::Good { .. } | Credential::Bad(_) => None,
        }
    }

    fn prove(&mut self, group: &Group) {
        let Some(canary) = self.canary(group) else { return };
        let good = Credential::Good { since: canary.launched };
        if let Some(Credential::Trial { held, .. }) = self.credentials.insert(group.clone(), good) {
            self.news.push(News::Released(held));
        }
        self.has_changed = true;
    }

    /// Whether the credential was found to work after this. An attempt that is older may have a login that was replaced since then.
    pub fn is_newer(&self, group: &Group, than: Timestamp) -> bool {
        matches!(self.credentials.get(group), Some(Credential::Good { since }) if than < *since)
    }

    /// Somebody knows better: one agent of the group tries at once.
    pub fn release(&mut self, group: &Group, now: Timestamp) -> bool {
        self.try_again(group, now, true)
    }

    /// What logs agents in may have changed: one agent of the group tries, if it is held for its login.
    pub fn login_changed(&mut self, group: &Group, now: Timestamp) -> bool {
        let is_login =
            matches!(self.credentials.get(group), Some(Credential::Bad(held)) if held.kind == HoldKind::Login);
        is_login && self.try_again(group, now, false)
    }

    /// The same of all groups.
    pub fn logins_changed(&mut self, now: Timestamp) {
        for group in self.credentials.keys().cloned().collect::<Vec<_>>() {
            self.login_changed(&group, now);
        }
    }

    fn try_again(&mut self, group: &Group, now: Timestamp, by_order: bool) -> bool {
        let mut held = match self.credentials.get(group) {
            Some(Credential::Bad(held) | Credential::Trial { held, canary: None, .. }) => held.clone(),
            _ => return false,
        };
        if by_order {
            held.tries.clear();
        }
        // Nobody is to be later than another.
        let from = held.opening(now);
        self.credentials.insert(group.clone(), Credential::Trial { held, canary: None, from });
        self.has_changed = true;
        true
    }

    /// This living agent had to be logged in, and goes on: it is the one that tries.
    pub fn logged_in(&mut self, group: &Group, key: &Key, now: Timestamp) {
        if let Some(Credential::Bad(held) | Credential::Trial { held, canary: None, .. }) = self.credentials.get(group)
            && held.kind == HoldKind::Login
        {
            let canary = Some(Canary { key: key.clone(), launched: now });
            let trial = Credential::Trial { held: held.clone(), canary, from: Opening::Now };
            self.credentials.insert(group.clone(), trial);
            self.has_changed = true;
        }
    }

    /// Time has passed.
    pub fn time_passed(&mut self, now: Timestamp) {
        let proven = |credential: &Credential| match credential {
            Credential::New { canary } => canary.launched + COLD <= now,
            Credential::Trial { canary: Some(canary), .. } => canary.launched + PROOF <= now,
            Credential::Bad(_) | Credential::Good { .. } | Credential::Trial { canary: None, .. } => false,
        };
        let groups =
            self.credentials.iter().filter(|(_, credential)| proven(credential)).map(|(group, _)| group.clone());
        for group in groups.collect::<Vec<_>>() {
            self.prove(&group);
        }
        for credential in self.credentials.values_mut() {
            match credential {
                Credential::Bad(held) if held.until <= now => {
                    let from = match held.opening(now) {
                        Opening::Now => Opening::OwnEnd,
                        later => later,
                    };
                    *credential = Credential::Trial { held: held.clone(), canary: None, from };
                }
                Credential::Trial { canary: None, from: from @ Opening::At(_), .. } if from.is_over(now) => {
                    *from = Opening::Now;
                }
                _ => continue,
            }
            self.has_changed = true;
        }
    }

    /// When [`Holds::time_passed`] is next due.
    pub fn due(&self) -> Option<Timestamp> {
        let due = |credential: &Credential| match credential {
            Credential::New { canary } => Some(canary.launched + COLD),
            Credential::Trial { canary: Some(canary), .. } => Some(canary.launched + PROOF),
            Credential::Bad(held) => Some(held.until),
            Credential::Trial { canary: None, from: Opening::At(at), .. } => Some(*at),
            // Whoever may try then wakes up by itself.
            Credential::Trial { canary: None, from: Opening::OwnEnd | Opening::Now, .. } | Credential::Good { .. } => {
                None
            }
        };
        self.credentials.values().filter_map(due).min()
    }

    /// Whether any agent is to be launched with this credential, as far as is known.
    pub fn is_used(&self, group: &Group) -> bool {
        self.sizes.is_empty() || self.sizes.contains_key(group)
    }

    /// The group's hold, if it has one: nobody starts, or only one tries.
    pub fn held(&self, group: &Group) -> Option<&Held> {
        match self.credentials.get(group)? {
            Credential::Bad(held) | Credential::Trial { held, .. } => Some(held),
            Credential::New { .. } | Credential::Good { .. } => None,
        }
    }

    /// When one of these agents of a held group tries next if nothing happens before. In the past if one is trying, or may try at once.
    pub fn next_try_at<'a>(&self, group: &Group, agents: impl Iterator<Item = &'a Key>) -> Option<Timestamp> {
        match self.credentials.get(group)? {
            Credential::Bad(held) | Credential::Trial { held, canary: None, from: Opening::OwnEnd } => {
                let first = agents.map(|key| held.until_for(key)).min().unwrap_or(held.until);
                Some(held.next_try(first))
            }
            Credential::Trial { canary: Some(canary), .. } => Some(canary.launched),
            Credential::Trial { canary: None, from: Opening::At(at), .. } => Some(*at),
            // Whoever can start tries at once.
            Credential::Trial { held, canary: None, from: Opening::Now } => {
                held.tries.last().copied().or(Some(held.since))
            }
            Credential::New { .. } | Credential::Good { .. } => None,
        }
    }

    /// All holds, by group.
    pub fn all(&self) -> impl Iterator<Item = &Held> {
        self.credentials.keys().filter_map(|group| self.held(group))
    }

    /// What is to be told since the last call.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Whether anything has changed for an agent since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }
}

impl Held {
    /// As the API shows it. When a login works again is not known.
    pub fn shown(&self) -> Hold {
        let time = |at: Timestamp| Time(at.wall());
        Hold {
            kind: self.kind,
            since: time(self.since),
            until: (self.kind == HoldKind::Quota).then(|| time(self.until)),
            evidence: self.text.clone(),
            group: self.group.to_string(),
        }
    }

    /// How this agent sees it: with an end of its own.
    fn own(&self, key: &Key) -> Self {
        Self { own_until: Some(self.next_try(self.until_for(key))), ..self.clone() }
    }

    /// When the agent that asks may try.
    pub fn end(&self) -> Timestamp {
        self.own_until.unwrap_or(self.until)
    }

    fn until_for(&self, key: &Key) -> Timestamp {
        match self.kind {
            HoldKind::Login => self.until,
            HoldKind::Quota => self.until + jitter(&self.group, key),
        }
    }

    fn own_bar(&self, key: &Key, now: Timestamp) -> Option<Bar> {
        (now < self.until_for(key)).then(|| Bar::Held(self.own(key)))
    }

    fn wait_for_try(&self, now: Timestamp) -> Option<Bar> {
        let at = self.next_try(now);
        (now < at).then(|| self.turn_at(at))
    }

    fn turn_at(&self, at: Timestamp) -> Bar {
        Bar::Turn { group: self.group.clone(), first: None, until: Some(at), after: Some(self.clone()) }
    }

    /// When another canary may be launched.
    fn next_try(&self, now: Timestamp) -> Timestamp {
        match self.tries.len().checked_sub(TRIES).and_then(|at| self.tries.get(at)) {
            Some(&oldest) => now.max(oldest + WINDOW),
            None => now,
        }
    }

    /// From when on any agent may be the next canary.
    fn opening(&self, now: Timestamp) -> Opening {
        let at = self.next_try(now);
        if now < at { Opening::At(at) } else { Opening::Now }
    }

    fn tried(&self, now: Timestamp) -> Self {
        let mut held = self.clone();
        held.tries.push(now);
        if held.tries.len() > TRIES {
            held.tries.remove(0);
        }
        held
    }
}

/// How much later than others an agent of a group starts after a reset: always the same for the same agent.
fn jitter(group: &Group, key: &Key) -> Duration {
    // FNV-1a, whose lowest bits alone are poor.
    let bytes = group.as_str().bytes().chain([0]).chain(key.as_str().bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    Duration::from_millis((hash ^ (hash >> 32)) % JITTER_MS)
}

#[cfg(test)]
mod tests;
