//! Holds: what attempts say of their credentials, and who may start because of that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Agent, Course, Supervisor};
use crate::agent::hold::{Bar, End, Group, News, OnHold};
use crate::agent::machine::{self, Effect, Machine};
use crate::agent::name::Key;
use crate::agent::user::UserName;
use crate::sys::clock::Timestamp;
use crate::wire::events::What;
use crate::wire::hold::GroupHold;
use crate::wire::result::Tokens;
use crate::wire::status::{State, Time};

/// With whom a machine shares its credential, unless no hold concerns it.
fn group_of(machine: &Machine) -> Option<Group> {
    let on_record = || machine.hold().map(|bar| bar.group().clone());
    let group = machine.launch().map(|launch| launch.group.clone()).or_else(on_record)?;
    (machine.on_hold() != OnHold::Off).then_some(group)
}

impl Agent {
    /// As [`group_of`], once this event has been taken in.
    fn group_after(&self, event: &machine::Event) -> Option<Group> {
        match event {
            machine::Event::Declare(declaration) | machine::Event::Update(declaration) => {
                let group = declaration.launch.as_ref().ok().map(|launch| launch.group.clone());
                let group = group.or_else(|| group_of(&self.machine));
                group.filter(|_| declaration.policy.hold != OnHold::Off)
            }
            _ => group_of(&self.machine),
        }
    }
}

impl Supervisor {
    /// Takes in what the event says of the agent's credential, and tells the machine whether it may start. Returns the event with
    /// what counts of it.
    pub(super) fn weigh(&mut self, key: &Key, event: machine::Event) -> machine::Event {
        let now = Timestamp::now();
        self.heed_secrets(key, &event, now);
        let event = self.take_evidence(key, event, now);
        let Some(agent) = self.agents.get_mut(key) else { return event };
        let bar = agent.group_after(&event).and_then(|group| self.holds.bar(&group, key, now));
        if let machine::Event::Held(_) = event {
            return machine::Event::Held(bar);
        }
        agent.machine.set_hold(bar);
        event
    }

    /// What the declaration changes of the agent's secrets may make its login work.
    fn heed_secrets(&mut self, key: &Key, event: &machine::Event, now: Timestamp) {
        let (machine::Event::Declare(declaration) | machine::Event::Update(declaration)) = event else { return };
        let (Ok(launch), Some(agent)) = (&declaration.launch, self.agents.get(key)) else { return };
        let changes = agent.machine.launch().and_then(|before| before.marks.changes_to(&launch.marks));
        if changes.is_some_and(|changes| !changes.secrets.is_empty()) && self.holds.login_changed(&launch.group, now) {
            tracing::info!(group = %launch.group, agent = %key, "its secrets have changed; one agent tries first");
        }
    }

    /// What an event says counts for the credential that the attempt was launched with, whatever the next one is to have.
    fn take_evidence(&mut self, key: &Key, event: machine::Event, now: Timestamp) -> machine::Event {
        let Some(agent) = self.agents.get(key) else { return event };
        let (latest, started) = (agent.machine.latest_attempt(), agent.machine.latest_start());
        let retry = agent.machine.hold_retry();
        let group = agent.machine.credential().cloned().or_else(|| group_of(&agent.machine));
        match (event, group) {
            (machine::Event::Ended { attempt, how, at, usage, result, evidence }, group) => {
                let is_failure = !agent.machine.has_completed(&how, result.as_deref());
                // A stop that agentd made says nothing of the credential.
                let is_own = attempt == latest && agent.machine.status().state != State::Stopping;
                let heeds = agent.machine.on_hold() != OnHold::Off;
                let evidence = evidence.filter(|_| is_own && is_failure && heeds && group.is_some());
                match (&evidence, group.filter(|_| attempt == latest)) {
                    // Nobody is held for a credential that was replaced.
                    (Some(evidence), Some(group)) if self.holds.is_used(&group) => {
                        let is_stale = started.is_some_and(|started| self.holds.is_newer(&group, started));
                        self.holds.failed(&group, key, evidence.clone(), retry, now);
                        if is_stale {
                            self.holds.login_changed(&group, now);
                        }
                    }
                    (None, Some(group)) => {
                        let end = if is_own && !is_failure { End::Completed } else { End::Unclear };
                        self.holds.ended(&group, key, end, now);
                    }
                    (Some(_), _) | (None, None) => {}
                }
                machine::Event::Ended { attempt, how, at, usage, result, evidence }
            }
            (event @ (machine::Event::NotStarted { .. } | machine::Event::SessionBusy { .. }), Some(group)) => {
                self.holds.ended(&group, key, End::Nothing, now);
                event
            }
            (event @ machine::Event::Spent { tokens: Some(Tokens { output: 1.., .. }), .. }, Some(group)) => {
                self.holds.made_turn(&group, key);
                event
            }
            (event @ machine::Event::Gone { .. }, Some(group)) => {
                self.holds.ended(&group, key, End::Unclear, now);
                event
            }
            (event, _) => event,
        }
    }

    /// Notes which agents have just been launched with their credentials.
    pub(super) fn note_launches(&mut self, key: &Key, effects: &[Effect]) {
        let is_launched = effects.iter().any(|effect| matches!(effect, Effect::Launch { .. }));
        let group = self.agents.get(key).filter(|_| is_launched).and_then(|agent| group_of(&agent.machine));
        if let Some(group) = group {
            self.holds.launched(&group, key, Timestamp::now());
        }
    }

    /// A living agent says that somebody must log it in. It goes on: nobody else of its group starts. Each attempt is believed once:
    /// one that says so again would undo every release.
    pub(super) fn shows_login(&mut self, key: &Key, text: String) {
        let Some(agent) = self.agents.get_mut(key) else { return };
        let attempt = agent.machine.latest_attempt();
        let is_again = agent.logged_out.replace(attempt) == Some(attempt);
        let now = Timestamp::now();
        match self.uses(key) {
            // It does not try any more if it did, and that is all.
            Some((group, _)) if is_again => self.holds.ended(&group, key, End::Unclear, now),
            Some((group, retry)) => self.holds.shows_login(&group, key, text, retry, now),
            None => {}
        }
    }

    /// A living agent that had to be logged in goes on.
    pub(super) fn has_logged_in(&mut self, key: &Key) {
        if let Some((group, _)) = self.uses(key) {
            self.holds.logged_in(&group, key, Timestamp::now());
        }
    }

    /// The credential that a living agent was launched with, if holds concern it, and after how long a login is tried again.
    fn uses(&self, key: &Key) -> Option<(Group, Duration)> {
        let machine = &self.agents.get(key)?.machine;
        let group = machine.credential().cloned().filter(|_| machine.on_hold() != OnHold::Off);
        let group = group.or_else(|| group_of(machine)).filter(|group| self.holds.is_used(group))?;
        Some((group, machine.hold_retry()))
    }

    /// What logs this user in has changed: agents that run as that user, and whose login did not work, try again.
    pub(super) fn login_changed(&mut self, user: Option<&UserName>) {
        let is_theirs = |agent: &&Agent| {
            let launch = agent.machine.launch();
            launch.is_some_and(|launch| launch.user.as_ref().map(|user| &user.name) == user)
        };
        // Who has a variable is not logged in by a file.
        let is_login = |group: &Group| group.variable().is_none();
        let groups = self.agents.values().filter(is_theirs).filter_map(|agent| group_of(&agent.machine));
        let groups: BTreeSet<Group> = groups.filter(is_login).collect();
        for group in groups {
            if self.holds.login_changed(&group, Timestamp::now()) {
                tracing::info!(%group, "what logs its user in has changed; one agent tries first");
            }
        }
    }

    /// Ends the hold that an operator names: that of a group, or of an agent's.
    pub(super) fn release(&mut self, name: &str, by: &str) {
        let now = Timestamp::now();
        let of_agent = name.parse::<Key>().ok().and_then(|key| group_of(&self.agents.get(&key)?.machine));
        let held = self.holds.all().map(|held| held.group.clone()).collect::<Vec<_>>();
        let group = held.into_iter().find(|group| group.as_str() == name || Some(group) == of_agent.as_ref());
        let is_released = group.as_ref().is_some_and(|group| self.holds.release(group, now));
        if let Some(group) = group.as_ref().filter(|_| is_released) {
            tracing::info!(%group, by, "released; one agent tries first");
        } else if let Some(group) = group {
            tracing::info!(%group, by, "to be released, and one agent tries it already");
        } else {
            tracing::warn!(by, "{name} is to be released, and is not held");
        }
    }

    /// Counts the agents that share each credential, as they are desired now.
    pub(super) fn count_groups(&mut self) {
        let mut sizes = BTreeMap::new();
        let as_it_is = |key: &Key| self.agents.get(key).and_then(|agent| group_of(&agent.machine));
        let desired = self.desired.agents.iter().filter_map(|(key, agent)| match &agent.declaration {
            Ok(declaration) if declaration.policy.hold == OnHold::Off => None,
            Ok(declaration) => match &declaration.launch {
                Ok(launch) => Some(launch.group.clone()),
                Err(_) => as_it_is(key),
            },
            Err(_) => as_it_is(key),
        });
        let others = self.agents.keys().filter(|key| !self.desired.agents.contains_key(*key)).filter_map(as_it_is);
        for group in desired.chain(others) {
            *sizes.entry(group).or_insert(0) += 1;
        }
        self.holds.count(sizes);
    }

    /// Tells the agents whether they may start now, as often as that changes, and everybody else what has changed.
    pub(super) fn review_holds(&mut self) {
        if self.course != Course::Running {
            return;
        }
        // Each pass may launch one agent of a group, which holds back the others.
        while self.holds.take_changed() {
            for key in self.agents.keys().cloned().collect::<Vec<_>>() {
                let Some(agent) = self.agents.get(&key) else { continue };
                let group = group_of(&agent.machine);
                let bar = group.and_then(|group| self.holds.bar(&group, &key, Timestamp::now()));
                if agent.machine.hold() != bar.as_ref() || bar.is_none() && agent.machine.is_held() {
                    self.step(&key, machine::Event::Held(bar));
                }
            }
            self.afterwards.publish = true;
        }
        for news in self.holds.take_news() {
            self.happened.push(self.told(news));
        }
    }

    fn told(&self, news: News) -> What {
        match news {
            News::Held(held) => {
                tracing::warn!(group = %held.group, kind = %held.kind, "its credential does not work: {}", held.text);
                let agents = self.held_by(&held.group).count();
                What::Hold { hold: held.shown(), agents }
            }
            News::Released(held) => {
                tracing::info!(group = %held.group, kind = %held.kind, "its agents start again");
                let since = Time(held.since.wall());
                What::Released { group: held.group.to_string(), kind: held.kind, since }
            }
        }
    }

    /// The credential that this agent is to be launched with, if it is not launched with it now, or others wait to try it first.
    pub(super) fn barred_by(&self, key: &Key, machine: &Machine, now: Timestamp) -> Option<Group> {
        let is_barred = |group: &Group| self.holds.bar(group, key, now).is_some();
        group_of(machine).filter(|group| is_barred(group) || self.held_by(group).next().is_some())
    }

    fn held_by(&self, group: &Group) -> impl Iterator<Item = &Machine> {
        let machines = self.agents.values().map(|agent| &agent.machine);
        machines.filter(|machine| machine.is_held() && machine.hold().map(Bar::group) == Some(group))
    }

    /// All holds, as the API shows them.
    pub(super) fn shown_holds(&self) -> Vec<GroupHold> {
        let shown = self.holds.all().map(|held| {
            let group = &held.group;
            let is_of_it = |agent: &&Agent| group_of(&agent.machine).as_ref() == Some(group);
            let keys = self.agents.iter().filter(|(_, agent)| is_of_it(agent)).map(|(key, _)| key);
            let next_try = self.holds.next_try_at(group, keys).unwrap_or(held.until);
            GroupHold {
                hold: held.shown(),
                agents: self.held_by(group).map(|machine| machine.name().to_string()).collect(),
                next_try_at: Time(next_try.wall()),
            }
        });
        shown.collect()
    }
}
