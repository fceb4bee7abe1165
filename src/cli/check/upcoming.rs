//! The next times of schedules, as `agentd check` prints them.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;

use super::{Found, Level, Position};
use crate::agent::name::Name;
use crate::agent::schedule::Schedule;
use crate::agent::schedule::times::YEARS;
use crate::config::{self, Config};
use crate::inputs::zones;
use crate::sys::local_time::{WallClock, Zone};
use crate::text::printable::escaped;
use crate::wire::status::Time;

/// How many times of each schedule are shown.
const SHOWN: usize = 3;

/// The next times of one schedule.
#[derive(Debug, Serialize)]
pub(super) struct Upcoming {
    agent: String,
    /// As written.
    schedule: Vec<String>,
    /// As written; absent for the machine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    /// In UTC.
    next: Vec<Time>,
    /// The same as a clock in the zone shows them.
    #[serde(skip)]
    shown: Vec<WallClock>,
}

/// The next times of all schedules of a jcard, and a finding for each whose zone this machine does not know.
pub(super) fn look(config: &Config, lines: &[config::Lines], now: SystemTime) -> (Vec<Upcoming>, Vec<Found>) {
    let (mut upcoming, mut wrong) = (Vec::new(), Vec::new());
    for entry in &config.entries {
        let Ok(spec) = &entry.spec else { continue };
        match zones::schedule_here(&spec.policy) {
            Ok(Some(schedule)) => upcoming.push(Upcoming::of(&entry.name, &schedule, now)),
            Ok(None) => {}
            Err(message) => {
                let line = lines.get(entry.table).map(|of| {
                    let of_field = |field| of.fields.get(field).copied();
                    of_field("runs.time_zone").or_else(|| of_field("runs")).unwrap_or(of.header)
                });
                let position = line.map(|line| Position { line, column: 1 });
                wrong.push(Found { severity: Level::Error, position, message });
            }
        }
    }
    (upcoming, wrong)
}

impl Upcoming {
    fn of(agent: &Name, schedule: &Schedule, now: SystemTime) -> Self {
        let next: Vec<SystemTime> = schedule.upcoming(agent, now).take(SHOWN).collect();
        let zone = Zone::of(schedule.zone.rules.clone());
        Self {
            agent: agent.to_string(),
            schedule: schedule.patterns.iter().map(|pattern| pattern.text.clone()).collect(),
            time_zone: schedule.zone.name.clone(),
            shown: next.iter().filter_map(|&at| zone.show(at)).collect(),
            next: next.into_iter().map(Time).collect(),
        }
    }

    /// A line for each time, behind what names the file.
    pub(super) fn write(&self, file: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agent = escaped(&self.agent);
        let zone = self.time_zone.as_deref().map_or_else(|| "of the machine".to_owned(), |zone| format!("in {zone}"));
        if self.next.is_empty() {
            return writeln!(f, "{file}: {agent}: its schedule makes no run in the next {YEARS} years");
        }
        for (at, WallClock { date, time }) in self.next.iter().zip(&self.shown) {
            writeln!(f, "{file}: {agent}: a run at {date} {time} {}, {at}", escaped(&zone))?;
        }
        Ok(())
    }
}
