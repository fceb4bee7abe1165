//! Wall-clock times in the time zone of the user, from `TZ` or `/etc/localtime`.
//!
//! Only commands use this: the daemon and its wire know UTC alone, and read no file that a variable names.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A time zone.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

/// A time as a clock and a calendar on the wall show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// `2026-11-21`.
    pub date: String,
    /// `17:04:14`.
    pub time: String,
}

impl Zone {
    /// The zone of the user; UTC if it cannot be found out.
    pub fn local() -> Self {
        Self(TimeZone::try_system().unwrap_or(TimeZone::UTC))
    }

    /// UTC.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The zone with this name in the system's database.
    #[cfg(test)]
    pub fn named(name: &str) -> Option<Self> {
        TimeZone::get(name).ok().map(Self)
    }

    /// What a clock in the zone shows; `None` outside of the calendar.
    pub fn show(&self, at: SystemTime) -> Option<WallClock> {
        let shown = self.0.to_datetime(Timestamp::try_from(at).ok()?);
        let (date, time) = (shown.date(), shown.time());
        Some(WallClock {
            date: format!("{:04}-{:02}-{:02}", date.year(), date.month(), date.day()),
            time: format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    fn shown(zone: &Zone, text: &str) -> (String, String) {
        let WallClock { date, time } = zone.show(at(text)).unwrap();
        (date, time)
    }

    #[test]
    fn a_zone_has_its_own_date_and_summer_time() {
        let date = |text: &str| text.to_owned();
        assert_eq!(shown(&Zone::utc(), "2026-11-21T23:30:05.900Z"), (date("2026-11-21"), date("23:30:05")));
        // The database may be missing on a small machine.
        let Some(berlin) = Zone::named("Europe/Berlin") else { return };
        assert_eq!(shown(&berlin, "2026-11-21T23:30:05Z"), (date("2026-11-22"), date("00:30:05")));
        assert_eq!(shown(&berlin, "2026-07-21T23:30:05Z"), (date("2026-07-22"), date("01:30:05")));
    }

    #[test]
    fn a_time_outside_of_the_calendar_has_no_clock() {
        assert_eq!(Zone::utc().show(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60)), None);
    }
}
