//! Schedules: the times at which runs are made by themselves.
//!
//! A schedule's times are instants, which [`times`] finds; what of them becomes a run, [`Schedule::decide`] says. The state of that
//! is recorded before the run is made, and the run's id says its time. So no time makes two runs, whatever crashes.

pub mod times;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use self::times::Times;
use crate::agent::name::{Name, RunId};

/// The most patterns of a schedule.
pub const MOST_PATTERNS: usize = 32;

/// How late a time may be without having been missed.
pub const PUNCTUAL: Duration = Duration::from_mins(1);

/// The `missed_within` of a schedule that does not say it.
pub const MISSED_WITHIN: Duration = Duration::from_hours(24);

/// How many times are counted; more are as many.
pub const MOST_COUNTED: u64 = 1000;

/// How far the clock may be set back for the times in between not to come again.
///
/// A clock that was further ahead was wrong, and waiting for what it showed could take years.
pub const SET_BACK: Duration = Duration::from_hours(48);

/// When runs are made by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// At least one.
    pub patterns: Vec<Pattern>,
    /// Of the clock on the wall.
    pub zone: Zone,
    /// What becomes of times that passed while nobody could act.
    pub missed: Missed,
    /// How long ago a missed time may be that still makes a run.
    pub missed_within: Duration,
    /// How far the times of agents are apart that have the same ones: each has an offset below this.
    pub spread: Duration,
}

/// What one of its texts means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// As written.
    pub text: String,
    /// The instants.
    pub times: Times,
}

/// A time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// As declared; `None` is the machine's.
    pub name: Option<String>,
    /// Its rules, as the machine has them. UTC until they have been looked up.
    pub rules: TimeZone,
}

impl Zone {
    /// The zone with this name, or the machine's. Its rules are not known yet.
    pub fn named(name: Option<&str>) -> Self {
        Self { name: name.map(str::to_owned), rules: TimeZone::UTC }
    }
}

/// What becomes of times that passed while nobody could act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missed {
    /// The last one of them makes a run.
    #[default]
    Once,
    /// They make none.
    Skip,
}

impl Missed {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Once, Self::Skip];

    /// As a jcard has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Skip => "skip",
        }
    }
}

/// What is known of a schedule's past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The [identity](Schedule::identity) of the schedule that it is about.
    pub identity: String,
    /// All times up to this one are dealt with. In seconds since 1970.
    pub settled: i64,
}

/// What is to be done about a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is known now. If it differs from what was known, it is recorded before anything else is done.
    pub state: State,
    /// The run to be made, if one is.
    pub due: Option<Due>,
    /// How many times have passed that make no run of their own: missed ones, and those that the run stands for, too. At most
    /// [`MOST_COUNTED`].
    pub passed: u64,
    /// When something will be due, if ever: then, and whenever the clock was set, it is to be decided again.
    pub next: Option<SystemTime>,
}

/// A run that a schedule makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Says the time, so that no two times have the same.
    pub id: RunId,
    /// The time, without the offset of the agent.
    pub at: SystemTime,
}

impl Schedule {
    /// What tells schedules apart: an edit of the times or of the zone makes another one.
    pub fn identity(&self) -> String {
        let mut identity = self.zone.name.clone().unwrap_or_default();
        for pattern in &self.patterns {
            let _ = write!(identity, "; {}", pattern.times);
        }
        identity
    }

    /// The next time after an instant, with the agent's offset: when its run is made. `None` is never, as far as anybody looks.
    pub fn next_after(&self, agent: &Name, after: SystemTime) -> Option<SystemTime> {
        let offset = self.offset(agent);
        let next = self.next(earlier(instant(after), offset))?;
        on_clock(next, offset)
    }

    /// Its next times after an instant, as [`Schedule::next_after`] finds them.
    pub fn upcoming<'a>(&'a self, agent: &'a Name, after: SystemTime) -> impl Iterator<Item = SystemTime> + use<'a> {
        std::iter::successors(self.next_after(agent, after), |&last| self.next_after(agent, last))
    }

    /// Decides what is to be done now. `known` is what was recorded last, if anything ever was.
    ///
    /// A schedule that is new, or was edited, counts from now on. So does one whose clock was [far](SET_BACK) ahead.
    pub fn decide(&self, agent: &Name, now: SystemTime, known: Option<&State>) -> Decision {
        let offset = self.offset(agent);
        let now = earlier(instant(now), offset);
        let identity = self.identity();
        let furthest = now.as_second().saturating_add_unsigned(SET_BACK.as_secs());
        let settled = known
            .filter(|known| known.identity == identity && known.settled <= furthest)
            .and_then(|known| Timestamp::from_second(known.settled).ok());
        let passed = settled.and_then(|settled| self.passed(settled, now));
        let (settled, due, passed) = match passed {
            Some((count, last)) => {
                let late = Duration::try_from(now.duration_since(last)).unwrap_or_default();
                let is_wanted = late <= PUNCTUAL || self.missed == Missed::Once && late <= self.missed_within;
                let due = || Some(Due { id: id_of(last)?, at: on_clock(last, SignedDuration::ZERO)? });
                let due = if is_wanted { due() } else { None };
                let passed = if due.is_some() { count - 1 } else { count };
                (last, due, passed)
            }
            None => (settled.unwrap_or(now), None, 0),
        };
        let next = self.next(settled).and_then(|next| on_clock(next, offset));
        Decision { state: State { identity, settled: settled.as_second() }, due, passed, next }
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.patterns.iter().filter_map(|pattern| pattern.times.next_after(after, &self.zone.rules)).min()
    }

    /// How many times there are after one instant and up to another, and the last of them. `None` if there are none.
    fn passed(&self, after: Timestamp, until: Timestamp) -> Option<(u64, Timestamp)> {
        const WINDOWS: [i64; 4] = [60, 3600, 24 * 3600, 32 * 24 * 3600];
        let next = |after| self.next(after).filter(|next| *next <= until);
        let mut last = next(after)?;
        let mut count = 1;
        while count < MOST_COUNTED {
            let Some(later) = next(last) else { return Some((count, last)) };
            (count, last) = (count + 1, later);
        }
        // There may be millions.
        let recent = WINDOWS.iter().filter_map(|&window| {
            let from = until.checked_sub(SignedDuration::from_secs(window)).ok()?;
            next(from).filter(|recent| *recent > last)
        });
        let mut last = recent.into_iter().next().unwrap_or(last);
        while let Some(later) = next(last) {
            last = later;
        }
        Some((count, last))
    }

    /// The part of `spread` that is the agent's, which depends on nothing but its name.
    fn offset(&self, agent: &Name) -> SignedDuration {
        // FNV-1a.
        let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let sum = agent.key().as_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, mix);
        // The last bits of a short name differ little.
        let offset = (sum >> 32 ^ sum).checked_rem(self.spread.as_secs()).unwrap_or_default();
        SignedDuration::from_secs(i64::try_from(offset).unwrap_or_default())
    }
}

/// The id of the run of a time: with seconds only where the minute does not tell it.
fn id_of(at: Timestamp) -> Option<RunId> {
    let wall = TimeZone::UTC.to_datetime(at);
    let seconds = if wall.second() == 0 { String::new() } else { format!("{:02}", wall.second()) };
    let (date, time) = (wall.date(), wall.time());
    let date = format!("{:04}{:02}{:02}", date.year(), date.month(), date.day());
    format!("cron-{date}T{:02}{:02}{seconds}Z", time.hour(), time.minute()).parse().ok()
}

/// The instant, in whole seconds. A clock before 1970 was never set.
fn instant(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).ok().and_then(|since| Timestamp::from_second(since).ok()).unwrap_or(Timestamp::MAX)
}

/// What the clock shows so much later.
fn on_clock(at: Timestamp, offset: SignedDuration) -> Option<SystemTime> {
    SystemTime::try_from(at.checked_add(offset).ok()?).ok()
}

fn earlier(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_sub(by).unwrap_or(Timestamp::MIN)
}
