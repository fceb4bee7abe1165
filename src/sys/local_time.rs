//! Wall-clock times in the time zone of the user, from `TZ` or `/etc/localtime`; and the rules of zones, from the machine's database.
//!
//! [`Zone`] is for commands only: the daemon and its wire know UTC alone. It knows other zones where its schedules name them, and the
//! machine's own, but not that of a variable `TZ`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::{self, TimeZone};

use crate::sys::regular_file;
use crate::text::suggest::nearest;

/// The zone of the machine.
const LOCALTIME: &str = "/etc/localtime";

/// The most bytes of a zone's file: the largest ones have 4 KiB.
const LARGEST: u64 = 256 << 10;

/// Why the rules of a zone are not known.
#[derive(Debug, thiserror::Error)]
pub enum NoZone {
    /// The database does not have it.
    #[error("this machine knows no time zone {name:?}; {}", meant(nearest.as_deref()))]
    Unknown {
        /// As it was written.
        name: String,
        /// What is meant, perhaps.
        nearest: Option<String>,
    },
    /// There is no database, or an empty one.
    #[error("this machine has no database of time zones, so it does not know {0:?}; install tzdata, or write \"UTC\"")]
    NoDatabase(String),
    /// The file of the machine's zone cannot be used.
    #[error("{} does not say the machine's time zone: {why}; write a `time_zone`", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

fn meant(nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("did you mean {nearest:?}?"),
        None => "write for example \"Europe/Berlin\" or \"UTC\"".to_owned(),
    }
}

/// The rules of the zone with this name in the machine's database, or of the machine's own zone. Blocks.
///
/// # Errors
///
/// They are not known. A machine without `/etc/localtime` has UTC.
pub fn rules(name: Option<&str>) -> Result<TimeZone, NoZone> {
    match name {
        Some(name) => of_database(name),
        None => of_machine(Path::new(LOCALTIME)),
    }
}

fn of_database(name: &str) -> Result<TimeZone, NoZone> {
    if let Some(zone) = TimeZone::get(name).ok().filter(|zone| !zone.is_unknown()) {
        return Ok(zone);
    }
    let names: Vec<String> = tz::db().available().map(|name| name.to_string()).collect();
    // UTC is always one.
    if names.len() <= 1 {
        return Err(NoZone::NoDatabase(name.to_owned()));
    }
    let nearest = nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
    // People write the city alone.
    let of_city =
        || names.iter().find(|known| known.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(name)));
    Err(NoZone::Unknown { name: name.to_owned(), nearest: nearest.or_else(|| of_city().cloned()) })
}

fn of_machine(path: &Path) -> Result<TimeZone, NoZone> {
    let unusable = |why: String| NoZone::Unusable { path: path.to_owned(), why };
    // The link says the name, and the database may be newer than a copy.
    let name = fs::read_link(path).ok().and_then(|target| {
        let (_, name) = target.to_str()?.rsplit_once("zoneinfo/")?;
        Some(name.to_owned())
    });
    if let Some(zone) = name.as_deref().and_then(|name| TimeZone::get(name).ok()) {
        return Ok(zone);
    }
    match regular_file::read(path, LARGEST) {
        Ok((data, _)) => {
            TimeZone::tzif(name.as_deref().unwrap_or("local"), &data).map_err(|error| unusable(error.to_string()))
        }
        Err(regular_file::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(TimeZone::UTC),
        Err(error) => Err(unusable(error.to_string())),
    }
}

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

    /// The zone with these rules.
    pub fn of(rules: TimeZone) -> Self {
        Self(rules)
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
    fn a_zone_that_the_machine_does_not_have_is_refused() {
        assert!(rules(Some("UTC")).is_ok_and(|zone| zone == TimeZone::UTC));
        let refused = |name: &str| rules(Some(name)).unwrap_err().to_string();
        // The database may be missing on a small machine.
        if Zone::named("Europe/Berlin").is_none() {
            assert!(refused("Europe/Berlin").contains("has no database of time zones"));
            return;
        }
        assert!(rules(Some("Europe/Berlin")).is_ok());
        let meant = "this machine knows no time zone \"Europe/Belrin\"; did you mean \"Europe/Berlin\"?";
        assert_eq!(refused("Europe/Belrin"), meant);
        assert!(refused("berlin").ends_with("did you mean \"Europe/Berlin\"?"), "{}", refused("berlin"));
        assert!(refused("Middle/Earth").ends_with("write for example \"Europe/Berlin\" or \"UTC\""));
        assert!(refused("../../etc/passwd").contains("knows no time zone"));
        assert!(refused("Etc/Unknown").contains("knows no time zone"));
    }

    #[test]
    fn the_machine_has_the_zone_that_its_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("localtime");
        assert_eq!(of_machine(&path).unwrap(), TimeZone::UTC);
        fs::write(&path, "nonsense").unwrap();
        let error = of_machine(&path).unwrap_err().to_string();
        assert!(error.contains("does not say the machine's time zone"), "{error}");
        fs::remove_file(&path).unwrap();
        if let Some(Zone(berlin)) = Zone::named("Europe/Berlin") {
            std::os::unix::fs::symlink("/somewhere/zoneinfo/Europe/Berlin", &path).unwrap();
            assert_eq!(of_machine(&path).unwrap(), berlin);
        }
    }

    #[test]
    fn a_time_outside_of_the_calendar_has_no_clock() {
        assert_eq!(Zone::utc().show(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60)), None);
    }
}
