//! Times of a schedule: which instants a pattern means.
//!
//! Wall time is not simple. Where clocks go forward, some wall times do not exist: a pattern's time there is the instant at which the
//! gap ends. Where they go back, some come twice: a pattern's time is the first of both. Whoever writes `*` for both minute and hour
//! thinks of elapsed time, as with [`Times::Every`]: these follow the clock through a repeated hour, and through a missing one.

use std::fmt;
use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan as _};
use thiserror::Error;

/// How far ahead the next time is looked for, in years: from one February 29 to the next there can be eight.
pub const YEARS: i64 = 8;

/// The shortest and the longest interval.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// The longest interval.
pub const LONGEST: Duration = Duration::from_hours(366 * 24);

/// What a repetition may be named.
const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// The longest pattern, in bytes.
const LONGEST_TEXT: usize = 512;

/// Why a text is not a pattern. Says how to write one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// `@reboot`.
    #[error("\"@reboot\" is not a time; an agent without [agents.runs] starts with agentd")]
    Reboot,
    /// Another word that begins with `@`.
    #[error("there is no such name; write @hourly, @daily, @weekly, @monthly or @yearly, or five fields")]
    Nickname,
    /// `TZ=…` before the fields.
    #[error("the zone does not stand here; write `time_zone = \"…\"` beside it")]
    Zone,
    /// Too few fields, or too many.
    #[error(
        "it has {0}, and five are meant: minute, hour, day of the month, month and weekday; write for example \"0 2 * * mon-fri\""
    )]
    Count(Counted),
    /// A field that cannot be read.
    #[error("the {field} cannot be {text:?}; {right}")]
    Field {
        /// Which one.
        field: &'static str,
        /// The part of it that cannot be read.
        text: String,
        /// How to write it.
        right: String,
    },
    /// Longer than any pattern.
    #[error("it is longer than 512 bytes; write several, in an array")]
    Long,
    /// An interval that is too short, too long, or not in whole seconds.
    #[error("the interval is not from 1 second to 366 days in whole seconds; write for example \"every 30m\"")]
    Interval,
}

/// A number of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted(usize);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 field"),
            6 => f.write_str("6 fields (seconds and years are not read)"),
            count => write!(f, "{count} fields"),
        }
    }
}

/// The instants that one pattern means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Each whole multiple of an interval since 1970 began in UTC, in seconds.
    Every(i64),
    /// The minutes of a calendar.
    Calendar(Calendar),
}

/// The minutes of a calendar that five fields mean: a bit for each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether the day of the month and the weekday are both said: then each of them suffices.
    either: bool,
    /// Whether it goes by elapsed time.
    elapsed: bool,
}

/// How a field is written.
struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    /// Whole names in lower case, of which three letters suffice. The first one is `least`.
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, names: &[] },
    Field { name: "hour", least: 0, most: 23, names: &[] },
    Field { name: "day of the month", least: 1, most: 31, names: &[] },
    Field {
        name: "month",
        least: 1,
        most: 12,
        names: &[
            "january",
            "february",
            "march",
            "april",
            "may",
            "june",
            "july",
            "august",
            "september",
            "october",
            "november",
            "december",
        ],
    },
    // Sunday is 0 and 7.
    Field {
        name: "weekday",
        least: 0,
        most: 7,
        names: &["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"],
    },
];

impl Times {
    /// The interval.
    ///
    /// # Errors
    ///
    /// [`Error::Interval`].
    pub fn every(interval: Duration) -> Result<Self, Error> {
        let is_right = (SHORTEST..=LONGEST).contains(&interval) && interval.subsec_nanos() == 0;
        let seconds = i64::try_from(interval.as_secs()).ok().filter(|_| is_right);
        seconds.map(Self::Every).ok_or(Error::Interval)
    }

    /// Reads five fields, or a name for them. Intervals are not read here.
    ///
    /// # Errors
    ///
    /// Says what is wrong, and how to write it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > LONGEST_TEXT {
            return Err(Error::Long);
        }
        let text = text.trim().to_ascii_lowercase();
        if text == "@reboot" {
            return Err(Error::Reboot);
        }
        if text.starts_with("tz=") || text.starts_with("cron_tz=") {
            return Err(Error::Zone);
        }
        let meant = NICKNAMES.iter().find(|(name, _)| *name == text).map(|(_, fields)| *fields);
        if meant.is_none() && text.starts_with('@') {
            return Err(Error::Nickname);
        }
        Calendar::parse(meant.unwrap_or(&text)).map(Self::Calendar)
    }

    /// The first of its instants after this one. `None` if there is none for [eight years](YEARS).
    pub fn next_after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(interval) => {
                let next = after.as_second().div_euclid(*interval).checked_add(1)?.checked_mul(*interval)?;
                Timestamp::from_second(next).ok()
            }
            Self::Calendar(calendar) if calendar.elapsed => calendar.next_elapsed(after, zone),
            Self::Calendar(calendar) => calendar.next_on_wall(after, zone),
        }
    }

    /// Whether it means no instant at all, such as February 31.
    pub fn is_never(&self) -> bool {
        match self {
            Self::Every(_) => false,
            Self::Calendar(calendar) => !calendar.has_day(),
        }
    }
}

/// In a form in which patterns that mean the same are mostly alike.
impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(seconds) => write!(f, "every {seconds}s"),
            Self::Calendar(Calendar { minutes, hours, days, months, weekdays, either, elapsed }) => {
                let mark = |is_so: &bool, mark| if *is_so { mark } else { "" };
                write!(f, "{minutes:x} {hours:x} {days:x} {months:x} {weekdays:x}")?;
                write!(f, "{}{}", mark(either, " either"), mark(elapsed, " elapsed"))
            }
        }
    }
}

impl Calendar {
    fn parse(text: &str) -> Result<Self, Error> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = words[..] else {
            return Err(Error::Count(Counted(words.len())));
        };
        let is_star = |word: &str| word.starts_with('*');
        let either = !is_star(days) && !is_star(weekdays);
        let elapsed = is_star(minutes) && is_star(hours);
        let read = |at: usize, word| FIELDS[at].read(word);
        let [minutes, hours, days, months, weekdays] =
            [read(0, minutes)?, read(1, hours)?, read(2, days)?, read(3, months)?, read(4, weekdays)?];
        let weekdays = (weekdays | weekdays >> 7) & 0x7f;
        Ok(Self { minutes, hours, days, months, weekdays, either, elapsed })
    }

    /// Whether there is such a day in any year.
    fn has_day(&self) -> bool {
        // The month that has this many days.
        let longest = |month: i8| Date::new(2024, month, 1).map_or(0, Date::days_in_month);
        self.either
            || (1..=12).any(|month| has(self.months, month) && (1..=longest(month)).any(|day| has(self.days, day)))
    }

    fn is_on(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        has(self.months, date.month()) && if self.either { day || weekday } else { day && weekday }
    }

    /// The next instant by the clock on the wall.
    ///
    /// The instant of a wall time is never before that of an earlier one, so they are tried in their order.
    fn next_on_wall(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let from = zone.to_datetime(after);
        let last = from.date().checked_add(YEARS.years()).ok()?;
        let mut date = from.date();
        let mut earliest = Time::new(from.hour(), from.minute(), 0, 0).ok()?;
        while date <= last {
            if !has(self.months, date.month()) {
                date = date.last_of_month().tomorrow().ok()?;
            } else {
                if self.is_on(date) {
                    let on_date = self.walls(date, earliest).filter_map(|wall| instant_of(wall, zone));
                    if let Some(found) = on_date.into_iter().find(|at| *at > after) {
                        return Some(found);
                    }
                }
                date = date.tomorrow().ok()?;
            }
            earliest = Time::midnight();
        }
        None
    }

    /// The wall times of a date, from one on.
    fn walls(&self, date: Date, earliest: Time) -> impl Iterator<Item = DateTime> {
        let hours = (earliest.hour()..24).filter(|&hour| has(self.hours, hour));
        hours.flat_map(move |hour| {
            let first = if hour == earliest.hour() { earliest.minute() } else { 0 };
            let minutes = (first..60).filter(|&minute| has(self.minutes, minute));
            minutes
                .filter_map(move |minute| DateTime::new(date.year(), date.month(), date.day(), hour, minute, 0, 0).ok())
        })
    }

    /// The next instant at which the clock on the wall shows one of the times, for the first time or again.
    fn next_elapsed(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 60 * MINUTE;
        const DAY: i64 = 24 * HOUR;
        let last = after.as_second().checked_add(YEARS * 366 * DAY)?;
        let mut at = after.as_second().checked_add(1)?;
        while at <= last {
            let instant = Timestamp::from_second(at).ok()?;
            let wall = zone.to_datetime(instant);
            let (minute, second) = (i64::from(wall.minute()), i64::from(wall.second()));
            let into_hour = minute * MINUTE + second;
            let rest = if !self.is_on(wall.date()) {
                DAY - i64::from(wall.hour()) * HOUR - into_hour
            } else if !has(self.hours, wall.hour()) {
                HOUR - into_hour
            } else if second > 0 || !has(self.minutes, wall.minute()) {
                MINUTE - second
            } else {
                return Some(instant);
            };
            // Where the clock is changed, it shows something else.
            let next = at.checked_add(rest)?;
            let changed = if rest > MINUTE { zone.following(instant).next() } else { None };
            at = changed.map_or(next, |change| next.min(change.timestamp().as_second()));
        }
        None
    }
}

/// The instant at which a wall time comes, or for the first time, or at which the gap ends that it is in.
fn instant_of(wall: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(wall).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(wall).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(wall).ok(),
        AmbiguousOffset::Gap { before, .. } => {
            // By the clock that was not changed.
            let beyond = before.to_timestamp(wall).ok()?.checked_add(1.second()).ok()?;
            zone.preceding(beyond).next().map(|change| change.timestamp())
        }
    }
}

fn has(set: u64, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| set.checked_shr(number).is_some_and(|set| set & 1 == 1))
}

impl Field {
    /// The numbers that a field means.
    fn read(&self, text: &str) -> Result<u64, Error> {
        text.split(',').try_fold(0, |numbers, part| Ok(numbers | self.part(part)?))
    }

    fn part(&self, text: &str) -> Result<u64, Error> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (text, None),
        };
        let (first, last) = if range == "*" {
            (self.least, self.most.min(self.least + self.span() - 1))
        } else if let Some((first, last)) = range.split_once('-') {
            let first = self.number(first, text)?;
            let last = self.number(last, text)?;
            // A week may end with Sunday.
            let last = if self.most == 7 && last == 0 && first > 0 { 7 } else { last };
            (first, last)
        } else {
            let number = self.number(range, text)?;
            if step.is_some() {
                return Err(self.refuse(text, format!("write {range}-{} before the /", self.most)));
            }
            (number, number)
        };
        if first > last {
            let right = format!("write {first}-{},{}-{last}, or the smaller number first", self.most, self.least);
            return Err(self.refuse(text, right));
        }
        let step = match step {
            Some(step) => {
                let number = digits(step).filter(|step| (1..=self.span()).contains(step));
                number.ok_or_else(|| self.refuse(text, format!("write a step from 1 to {}", self.span())))?
            }
            None => 1,
        };
        Ok((first..=last).step_by(usize::from(step)).fold(0, |numbers, number| numbers | 1 << number))
    }

    /// How many different numbers there are.
    fn span(&self) -> u8 {
        if self.most == 7 { 7 } else { self.most - self.least + 1 }
    }

    fn number(&self, text: &str, part: &str) -> Result<u8, Error> {
        let named = (text.len() >= 3).then(|| self.names.iter().position(|name| name.starts_with(text))).flatten();
        let named = named.and_then(|at| u8::try_from(at).ok()).map(|at| at + self.least);
        let number = named.or_else(|| digits(text).filter(|number| (self.least..=self.most).contains(number)));
        number.ok_or_else(|| {
            let names = match self.names {
                [first, .., last] => format!(", or a name from {} to {}", &first[..3], &last[..3]),
                _ => String::new(),
            };
            self.refuse(part, format!("write numbers from {} to {}{names}", self.least, self.most))
        })
    }

    fn refuse(&self, text: &str, right: String) -> Error {
        const QUOTED: usize = 40;
        let text = text.chars().take(QUOTED).collect();
        Error::Field { field: self.name, text, right }
    }
}

/// A number of one or two digits.
fn digits(text: &str) -> Option<u8> {
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}
