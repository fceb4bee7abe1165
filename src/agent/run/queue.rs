//! Which run starts next, and what becomes of each: pure.
//!
//! ```text
//! offered ─┬─ refused
//!          └─ recording ── waiting ── beginning ── live ── ending ── ended
//!                │            ↑           │          │        ↑
//!                └────────────┴───────────┴──────────┴────────┘   cancelled, skipped, interrupted
//! ```
//!
//! *Recording* and *beginning* last until that is on disk: a run starts only once the record says so, and it waits only once its task
//! is on record. So each run has a place at most once at a time, whatever is killed in between. A run has its place from *beginning*
//! until nothing of it runs any more, which is when it is *ending*: its result is being kept. An *ended* run only waits for its files
//! to be removed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use crate::agent::name::{Key, Name, RunId};
use crate::wire::status::Outcome;

/// The runs that are not over, and those whose files are not gone.
#[derive(Debug, Default)]
pub struct Queue {
    runs: BTreeMap<Key, Run>,
    /// Those that wait, by template, in the order of their arrival.
    lines: BTreeMap<Key, BTreeSet<Rank>>,
    /// How many have a place, by template. Never 0.
    placed: BTreeMap<Key, u32>,
    /// How many have no place yet, by template. Never 0.
    unplaced: BTreeMap<Key, u32>,
}

/// The place of a run in line: by arrival, then by name.
pub type Rank = (SystemTime, Key);

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    name: Name,
    template: Key,
    arrived: SystemTime,
    phase: Phase,
    /// How it is to end as soon as nothing of it is under way.
    doomed: Option<Outcome>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its task is being put on record.
    Recording,
    /// It waits for a place, or for what else it is to come after.
    Waiting {
        /// Whether it may have a place.
        is_free: bool,
    },
    /// It has a place, and that is being put on record.
    Beginning,
    /// It is a machine.
    Live {
        /// Whether its machine has given its place back: it waits for its credential.
        is_held: bool,
    },
    /// Nothing of it runs any more, and its result is being kept.
    Ending(Outcome),
    /// Its result is kept. Its files are being removed.
    Ended,
}

impl Phase {
    fn has_place(self) -> bool {
        matches!(self, Self::Beginning | Self::Live { is_held: false })
    }

    fn is_unplaced(self) -> bool {
        matches!(self, Self::Recording | Self::Waiting { .. })
    }
}

/// Why a task is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A run of this id is not over.
    #[error("there is a run of this id; each id is used once, so choose another")]
    UnderWay,
    /// A run of this id has ended.
    #[error("a run of this id has ended; each id is used once, so choose another")]
    Used,
    /// Too many wait.
    #[error("{waiting} runs wait already, which is what `waiting` allows; drop it again when fewer do")]
    Full {
        /// How many.
        waiting: u32,
    },
}

/// What a template allows now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// How many runs may have a place.
    pub at_once: u32,
    /// How many may wait.
    pub waiting: u32,
    /// Whether a run could start now: its template is enabled, and lacks nothing.
    pub is_ready: bool,
}

/// What follows from the end of a wait or of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is in line.
    Waits,
    /// It starts.
    Starts,
    /// Its result is to be kept.
    Ends(Outcome),
}

impl Queue {
    /// Takes in a new task. `is_used` tells whether the ledger has its id.
    ///
    /// `places` is how many more runs may have a place on the whole machine.
    pub fn offer(
        &mut self,
        agent: &Name,
        id: &RunId,
        arrived: SystemTime,
        is_used: bool,
        allowance: Allowance,
        places: Option<u32>,
    ) -> Result<Name, Refusal> {
        let (name, template) = (agent.of_run(id), agent.key());
        match self.runs.get(&name.key()).map(|run| run.phase) {
            Some(Phase::Ending(_) | Phase::Ended) => return Err(Refusal::Used),
            Some(_) => return Err(Refusal::UnderWay),
            None if is_used => return Err(Refusal::Used),
            None => {}
        }
        let placed = self.placed.get(&template).copied().unwrap_or_default();
        let free = allowance.at_once.saturating_sub(placed).min(places.unwrap_or(u32::MAX));
        let free = if allowance.is_ready { free } else { 0 };
        let waiting = self.unplaced.get(&template).copied().unwrap_or_default();
        if waiting >= allowance.waiting.saturating_add(free) {
            return Err(Refusal::Full { waiting });
        }
        self.insert(name.clone(), template, arrived);
        Ok(name)
    }

    /// Takes in a run that an earlier daemon has left in this phase.
    pub fn restore(&mut self, agent: &Name, id: &RunId, arrived: SystemTime, phase: Phase) {
        let (name, template) = (agent.of_run(id), agent.key());
        let key = name.key();
        self.insert(name, template, arrived);
        self.enter(&key, phase);
    }

    fn insert(&mut self, name: Name, template: Key, arrived: SystemTime) {
        *self.unplaced.entry(template.clone()).or_default() += 1;
        self.runs.insert(name.key(), Run { name, template, arrived, phase: Phase::Recording, doomed: None });
    }

    /// The task is on record. The run waits, unless it is to end; `is_free` tells whether it waits only for a place.
    pub fn recorded(&mut self, key: &Key, is_free: bool) -> Option<Turn> {
        let run = self.runs.get(key).filter(|run| run.phase == Phase::Recording)?;
        Some(match run.doomed {
            Some(outcome) => self.end(key, outcome),
            None => {
                self.enter(key, Phase::Waiting { is_free });
                Turn::Waits
            }
        })
    }

    /// Lets a run have a place that waited for something else.
    pub fn free(&mut self, key: &Key) {
        if self.phase(key) == Some(Phase::Waiting { is_free: false }) {
            self.enter(key, Phase::Waiting { is_free: true });
        }
    }

    /// The task could not be put on record. It is forgotten, and offered again later.
    pub fn forget(&mut self, key: &Key) {
        if self.phase(key) == Some(Phase::Recording) {
            self.enter(key, Phase::Ended);
            self.runs.remove(key);
        }
    }

    /// Gives out places: the runs that begin now, in the order of their arrival.
    ///
    /// `places` is how many runs may have a place on the whole machine.
    pub fn give_places(&mut self, allowance: impl Fn(&Key) -> Option<Allowance>, places: Option<u32>) -> Vec<Name> {
        let mut begun = Vec::new();
        let mut heads: BTreeSet<(Rank, Key)> = BTreeSet::new();
        let has_room = |queue: &Self, template: &Key| {
            let placed = queue.placed.get(template).copied().unwrap_or_default();
            allowance(template).is_some_and(|allowance| allowance.is_ready && placed < allowance.at_once)
        };
        for (template, line) in &self.lines {
            if let Some(head) = line.first().filter(|_| has_room(self, template)) {
                heads.insert((head.clone(), template.clone()));
            }
        }
        while places.is_none_or(|places| self.all_placed() < places)
            && let Some((rank, template)) = heads.pop_first()
        {
            let key = rank.1;
            self.enter(&key, Phase::Beginning);
            begun.extend(self.runs.get(&key).map(|run| run.name.clone()));
            if has_room(self, &template)
                && let Some(next) = self.lines.get(&template).and_then(BTreeSet::first)
            {
                heads.insert((next.clone(), template));
            }
        }
        begun
    }

    /// That the run begins is on record.
    pub fn begun(&mut self, key: &Key) -> Option<Turn> {
        let run = self.runs.get(key).filter(|run| run.phase == Phase::Beginning)?;
        Some(match run.doomed {
            Some(outcome) => self.end(key, outcome),
            None => {
                self.enter(key, Phase::Live { is_held: false });
                Turn::Starts
            }
        })
    }

    /// That the run begins could not be put on record, or its task not be read. It waits again, at the place in line that it had.
    pub fn not_begun(&mut self, key: &Key) -> Option<Turn> {
        let run = self.runs.get(key).filter(|run| run.phase == Phase::Beginning)?;
        Some(match run.doomed {
            Some(outcome) => self.end(key, outcome),
            None => {
                self.enter(key, Phase::Waiting { is_free: true });
                Turn::Waits
            }
        })
    }

    /// The run could not begin after all, and nothing of it is under way. It waits again, at the place in line that it had.
    pub fn returned(&mut self, key: &Key) {
        if let Some(Phase::Live { .. }) = self.phase(key) {
            self.enter(key, Phase::Waiting { is_free: true });
        }
    }

    /// Has the run end like this: at once if nothing of it is under way, else as soon as that is so.
    ///
    /// A live one is returned as [`Turn::Starts`]: its machine is to be stopped first.
    pub fn doom(&mut self, key: &Key, outcome: Outcome) -> Option<Turn> {
        let run = self.runs.get_mut(key)?;
        match run.phase {
            Phase::Recording | Phase::Beginning => {
                run.doomed.get_or_insert(outcome);
                None
            }
            Phase::Waiting { .. } => Some(self.end(key, outcome)),
            Phase::Live { .. } if run.doomed.is_none() => {
                run.doomed = Some(outcome);
                Some(Turn::Starts)
            }
            Phase::Live { .. } | Phase::Ending(_) | Phase::Ended => None,
        }
    }

    /// Nothing of the machine runs any more. Returns how the run has ended: a stop that agentd made decides, else the machine.
    pub fn over(&mut self, key: &Key, outcome: Outcome) -> Option<Outcome> {
        let run = self.runs.get(key).filter(|run| matches!(run.phase, Phase::Live { .. }))?;
        let outcome = run.doomed.unwrap_or(outcome);
        self.enter(key, Phase::Ending(outcome));
        Some(outcome)
    }

    /// The machine gives its place back, or has it again.
    pub fn hold(&mut self, key: &Key, is_held: bool) {
        if let Some(Phase::Live { is_held: before }) = self.phase(key)
            && before != is_held
        {
            self.enter(key, Phase::Live { is_held });
        }
    }

    /// Whether a run that has given its place back may have one again.
    pub fn has_room_for(&self, key: &Key, allowance: Option<Allowance>, places: Option<u32>) -> bool {
        let Some(run) = self.runs.get(key) else { return true };
        if run.phase.has_place() {
            return true;
        }
        let placed = self.placed.get(&run.template).copied().unwrap_or_default();
        allowance.is_none_or(|allowance| placed < allowance.at_once)
            && places.is_none_or(|most| self.all_placed() < most)
    }

    /// The result is kept.
    pub fn ended(&mut self, key: &Key) {
        if let Some(Phase::Ending(_)) = self.phase(key) {
            self.enter(key, Phase::Ended);
        }
    }

    /// Nothing is left of the run.
    pub fn remove(&mut self, key: &Key) {
        if self.phase(key) == Some(Phase::Ended) {
            self.runs.remove(key);
        }
    }

    /// How far the run is.
    pub fn phase(&self, key: &Key) -> Option<Phase> {
        self.runs.get(key).map(|run| run.phase)
    }

    /// How the run is to end as soon as nothing of it is under way, if it is.
    pub fn doomed(&self, key: &Key) -> Option<Outcome> {
        self.runs.get(key)?.doomed
    }

    /// The runs, with how far they are, by key.
    pub fn runs(&self) -> impl Iterator<Item = (&Key, &Name, Phase)> {
        self.runs.iter().map(|(key, run)| (key, &run.name, run.phase))
    }

    /// The runs of this template.
    pub fn of_template<'a>(&'a self, template: &'a Key) -> impl Iterator<Item = (&'a Key, Phase)> {
        let of_it = self.runs.iter().filter(move |(_, run)| run.template == *template);
        of_it.map(|(key, run)| (key, run.phase))
    }

    /// The runs that wait for a place, in the order of their arrival, by template.
    pub fn lines(&self) -> impl Iterator<Item = (&Key, &BTreeSet<Rank>)> {
        self.lines.iter()
    }

    /// How many runs of this template have a place.
    pub fn placed(&self, template: &Key) -> u32 {
        self.placed.get(template).copied().unwrap_or_default()
    }

    /// How many runs have a place.
    pub fn all_placed(&self) -> u32 {
        self.placed.values().sum()
    }

    /// Whether some run is not over.
    pub fn is_busy(&self) -> bool {
        self.runs.values().any(|run| run.phase != Phase::Ended)
    }

    /// How many runs of this template have no place yet.
    pub fn unplaced(&self, template: &Key) -> u32 {
        self.unplaced.get(template).copied().unwrap_or_default()
    }

    fn end(&mut self, key: &Key, outcome: Outcome) -> Turn {
        self.enter(key, Phase::Ending(outcome));
        Turn::Ends(outcome)
    }

    /// Changes the phase, and with it the line and the places.
    fn enter(&mut self, key: &Key, phase: Phase) {
        let Some(run) = self.runs.get_mut(key) else { return };
        let before = std::mem::replace(&mut run.phase, phase);
        let rank = (run.arrived, key.clone());
        let waits = Phase::Waiting { is_free: true };
        if before == waits
            && phase != waits
            && let Some(line) = self.lines.get_mut(&run.template)
        {
            line.remove(&rank);
            if line.is_empty() {
                self.lines.remove(&run.template);
            }
        } else if phase == waits && before != waits {
            self.lines.entry(run.template.clone()).or_default().insert(rank);
        }
        count(&mut self.placed, &run.template, before.has_place(), phase.has_place());
        count(&mut self.unplaced, &run.template, before.is_unplaced(), phase.is_unplaced());
    }
}

/// Counts one more or one less.
fn count(counts: &mut BTreeMap<Key, u32>, template: &Key, before: bool, now: bool) {
    match (before, now) {
        (false, true) => *counts.entry(template.clone()).or_default() += 1,
        (true, false) => {
            if let Some(count) = counts.get_mut(template) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    counts.remove(template);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
