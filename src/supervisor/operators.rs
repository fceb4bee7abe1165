//! What operators want, handed on to the machines, and told.

use super::{Agent, Supervisor};
use crate::agent::declaration::Desired;
use crate::agent::machine;
use crate::agent::name::Key;
use crate::agent::orders::{Override, Overrides};
use crate::sys::clock::Timestamp;
use crate::wire::events::{Change, What};
use crate::wire::reason::Changes;

impl Supervisor {
    /// Hands on to each agent what operators want of it.
    pub(super) fn hand_on_orders(&mut self) {
        let staying = self.agents.iter().filter(|(_, agent)| !agent.machine.is_leaving());
        for key in staying.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.hand_on(&key);
        }
    }

    /// Hands on to one agent what operators want of it, if that has changed.
    pub(super) fn hand_on(&mut self, key: &Key) {
        // Until that is known, what an earlier daemon was told stays in force.
        let Some(orders) = self.desired.overrides.as_ref().map(|overrides| overrides.of(key)) else { return };
        let Some(agent) = self.agents.get(key).filter(|agent| *agent.machine.orders() != orders) else { return };
        if !agent.is_told {
            // It is about to be declared. Until then, it has no state that could be told.
            let Some(agent) = self.agents.get_mut(key) else { return };
            let effects = agent.machine.step(machine::Event::Ordered(orders), Timestamp::now());
            return effects.into_iter().for_each(|effect| self.carry_out(key, effect));
        }
        let (was_disabled, before) = (agent.machine.is_disabled(), agent.machine.status().generation);
        let name = agent.machine.name().to_string();
        let own = orders.own.clone();
        let place = self.happened.len();
        self.step(key, machine::Event::Ordered(orders));
        let Some(agent) = self.agents.get(key) else { return };
        let enabled = (agent.machine.is_disabled() != was_disabled).then(|| "enabled".to_owned());
        let generation = (agent.machine.status().generation != before).then(|| "generation".to_owned());
        let fields: Vec<String> = enabled.into_iter().chain(generation).collect();
        if fields.is_empty() {
            return;
        }
        tracing::info!(agent = name, "{}", in_words(own.as_ref()));
        // Before what came of it.
        let changed = Changes { fields, ..Changes::default() };
        self.happened.insert(place, What::Declaration { name, change: Change::Changed, changed });
    }

    /// Tells the agents whose user has become unfit that nothing of them may be launched, or with `is_lifted` those whose user is fit
    /// again that it may.
    pub(super) fn bar(&mut self, is_lifted: bool) {
        let bar = |agent: &Agent| {
            let user = agent.machine.launch().and_then(|launch| launch.user.as_ref());
            user.and_then(|user| self.desired.unfit.get(&user.name)).cloned()
        };
        let staying = self.agents.iter().filter(|(_, agent)| !agent.machine.is_leaving());
        let bars = staying.map(|(key, agent)| (key, agent.machine.bar(), bar(agent)));
        let news = bars.filter(|(_, before, now)| *before != now.as_deref() && now.is_none() == is_lifted);
        for (key, now) in news.map(|(key, _, now)| (key.clone(), now)).collect::<Vec<_>>() {
            if let Some(why) = &now {
                tracing::warn!(agent = key.as_str(), "{why}; what runs goes on, and nothing else is launched");
            }
            self.step(&key, machine::Event::Barred(now));
        }
    }

    /// Logs the beginning and the end of a pause.
    pub(super) fn log_pause(&self, desired: &Desired) {
        let pause = |desired: &Desired| desired.overrides.as_deref().and_then(Overrides::pause).cloned();
        match (pause(&self.desired), pause(desired)) {
            (None, Some(pause)) => tracing::info!("nothing starts from now on: {}", in_words(Some(&pause))),
            (Some(_), None) if desired.overrides.is_some() => tracing::info!("agents start again: the pause is over"),
            _ => {}
        }
    }
}

/// What an override says, and whose it is.
fn in_words(own: Option<&Override>) -> String {
    let Some(Override { enabled, generation, now, by, at }) = own else {
        return "its override is gone".to_owned();
    };
    let enabled = enabled.map(|enabled| format!("enabled = {enabled}"));
    let generation = generation.map(|generation| format!("generation = {generation}"));
    let now = now.then(|| "now = true".to_owned());
    let said: Vec<String> = [enabled, generation, now].into_iter().flatten().collect();
    let said = if said.is_empty() { "nothing".to_owned() } else { said.join(", ") };
    let by = by.as_ref().map_or_else(String::new, |by| format!(" of {by}"));
    let at = at.map_or_else(String::new, |at| format!(", written at {at}"));
    format!("the override{by} says {said}{at}")
}
