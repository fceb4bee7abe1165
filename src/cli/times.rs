//! Times for people and for programs: the time of day on a terminal, RFC 3339 in UTC with milliseconds elsewhere.

use std::time::SystemTime;

use crate::sys::local_time::{WallClock, Zone};
use crate::wire::status::Time;

/// How a command writes times.
#[derive(Clone, Debug)]
pub(super) enum Times {
    /// As the API does: RFC 3339 in UTC.
    Exact,
    /// The time of day, with the date if it is not today's.
    Short {
        /// Where the clock hangs.
        zone: Zone,
        /// Follows each time: `Z` for UTC.
        mark: &'static str,
        /// Decides what is today.
        now: SystemTime,
    },
}

impl Times {
    /// For standard output. `utc` asks for UTC on a terminal, too.
    pub(super) fn here(is_terminal: bool, utc: bool) -> Self {
        let now = SystemTime::now();
        match (is_terminal, utc) {
            (false, _) => Self::Exact,
            (true, true) => Self::Short { zone: Zone::utc(), mark: "Z", now },
            (true, false) => Self::Short { zone: Zone::local(), mark: "", now },
        }
    }

    /// UTC on a terminal, with today as given.
    #[cfg(test)]
    pub(super) fn short(now: SystemTime) -> Self {
        Self::Short { zone: Zone::utc(), mark: "", now }
    }

    /// A time in words. A time outside of the calendar is written as the API writes it.
    pub(super) fn show(&self, at: Time) -> String {
        let Self::Short { zone, mark, now } = self else { return at.to_string() };
        match (zone.show(at.0), zone.show(*now)) {
            (Some(WallClock { date, time }), Some(today)) if date == today.date => format!("{time}{mark}"),
            (Some(WallClock { date, time }), _) => format!("{date} {time}{mark}"),
            (None, _) => at.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        Time(humantime::parse_rfc3339(text).unwrap())
    }

    #[test]
    fn a_terminal_shows_the_time_of_day_and_a_pipe_all_of_it() {
        let time = at("2026-11-21T17:04:14.250Z");
        assert_eq!(Times::Exact.show(time), "2026-11-21T17:04:14.250Z");
        let short = |now: &str, mark| Times::Short { zone: Zone::utc(), mark, now: at(now).0 };
        assert_eq!(short("2026-11-21T23:59:59Z", "").show(time), "17:04:14");
        assert_eq!(short("2026-11-21T23:59:59Z", "Z").show(time), "17:04:14Z");
        assert_eq!(short("2026-11-22T00:00:00Z", "").show(time), "2026-11-21 17:04:14");
    }
}
