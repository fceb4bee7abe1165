//! When a quota is there again, read from what a harness says. Pure: the present time and the time zone are arguments.
//!
//! What harnesses say is prose, and it may be wrong, or made up by an agent. So a time that has passed is none, and any other is
//! [clamped](clamp): a hold ends in any case, and never at once.

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};

/// The shortest wait.
pub const SHORTEST: Duration = Duration::from_mins(1);

/// The longest wait: a week, which quotas of a week need, and a day.
pub const LONGEST: Duration = Duration::from_hours(8 * 24);

/// A time of day this long ago has passed, and is not meant for tomorrow.
const JUST_PASSED: Duration = Duration::from_hours(1);

/// A time comes in whole minutes, rounded down, so one that is no longer past than this may be yet to come.
const ROUNDED: Duration = Duration::from_mins(2);

/// How much of a text is looked at, in bytes.
const MOST_TEXT: usize = 1024;

/// Reads the time of a reset, in seconds since 1970. `now` is in seconds since 1970, too; `zone` is that of the harness, for texts that
/// name none. `None` if the text holds no time, or one that has passed. A time of day comes in minutes: the present one is near.
///
/// | text | meaning |
/// |---|---|
/// | `in 3 hours`, `in 3h0m0s`, `after 31936ms`, `retry-after: 20` | from now on |
/// | `11:22pm (UTC)`, `11:19 PM`, `3pm`, `23:22` | the next such time |
/// | `Dec 1st, 2026 1:36 AM`, `Dec 1 at 3pm` | that time |
/// | `2026-12-01T01:36:00Z` | that time |
/// | `1796086690`, `1796086690000` | seconds or milliseconds since 1970 |
pub fn read(text: &str, now: u64, zone: &TimeZone) -> Option<u64> {
    let text = &text[..text.floor_char_boundary(MOST_TEXT)];
    let is_gap = |character: char| character.is_whitespace() || "()[]{},;·\"'<>=|".contains(character);
    let words: Vec<&str> = text
        .split(is_gap)
        .map(|word| word.trim_start_matches(':').trim_end_matches(['.', ':', '!']))
        .filter(|word| !word.is_empty())
        .collect();
    let lower: Vec<String> = words.iter().map(|word| word.to_ascii_lowercase()).collect();
    let at = after(&lower)
        .map(|wait| now.saturating_add(wait.as_secs().max(1)))
        .or_else(|| words.iter().find_map(|word| word.parse::<Timestamp>().ok()).and_then(of_timestamp))
        .or_else(|| lower.iter().find_map(|word| of_digits(word)))
        .or_else(|| of_calendar(&lower, now, zone))?;
    clamp(at, now)
}

/// A time in seconds since 1970 as one that a hold may end at; `None` if it has passed.
pub fn clamp(at: u64, now: u64) -> Option<u64> {
    let (least, most) = (now.saturating_add(SHORTEST.as_secs()), now.saturating_add(LONGEST.as_secs()));
    (at > now).then(|| at.clamp(least, most))
}

/// A number of seconds since 1970, given in seconds, milliseconds, microseconds or nanoseconds.
pub fn in_seconds(number: u64) -> Option<u64> {
    // The year 5138 in seconds, and 1973 in milliseconds.
    const MOST: u64 = 100_000_000_000;
    [1, 1_000, 1_000_000, 1_000_000_000]
        .into_iter()
        .map(|unit| number / unit)
        .find(|seconds| (1..MOST).contains(seconds))
}

fn of_digits(word: &str) -> Option<u64> {
    let is_number = (10..=19).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| word.parse().ok()).flatten().and_then(in_seconds)
}

fn of_timestamp(timestamp: Timestamp) -> Option<u64> {
    u64::try_from(timestamp.as_second()).ok()
}

/// A wait: the longest run of words after `in` or `after` that is one.
fn after(words: &[String]) -> Option<Duration> {
    const MOST_WORDS: usize = 8;
    words.iter().enumerate().find_map(|(at, word)| {
        let rest = &words[at + 1..];
        match word.as_str() {
            "in" | "after" => {
                let rest: Vec<String> =
                    rest.iter().filter(|word| *word != "and").take(MOST_WORDS).map(|word| in_whole(word)).collect();
                (1..=rest.len()).rev().find_map(|length| humantime::parse_duration(&rest[..length].join(" ")).ok())
            }
            "retry-after" | "retry_after" => rest.first()?.parse().ok().map(Duration::from_secs),
            _ => None,
        }
    })
}

/// `20.57s` without its fraction.
fn in_whole(word: &str) -> String {
    let is_digit = |character: char| character.is_ascii_digit();
    let fraction = word.split_once('.').filter(|(whole, rest)| whole.ends_with(is_digit) && rest.starts_with(is_digit));
    fraction.map_or_else(|| word.to_owned(), |(whole, rest)| format!("{whole}{}", rest.trim_start_matches(is_digit)))
}

/// A date, a time of day, or both. What was just over as it was rounded is now.
fn of_calendar(words: &[String], now: u64, zone: &TimeZone) -> Option<u64> {
    let at = in_calendar(words, now, zone)?;
    let is_now = at <= now && now - at < ROUNDED.as_secs();
    Some(if is_now { now.saturating_add(1) } else { at })
}

fn in_calendar(words: &[String], now: u64, zone: &TimeZone) -> Option<u64> {
    let is_universal = words.iter().any(|word| ["utc", "gmt", "z"].contains(&word.as_str()));
    let zone = if is_universal { TimeZone::UTC } else { zone.clone() };
    let present = Timestamp::from_second(i64::try_from(now).ok()?).ok()?;
    let today = zone.to_datetime(present).date();
    let at = |date: Date, time: Time| zone.to_timestamp(DateTime::from_parts(date, time)).ok().and_then(of_timestamp);
    let time = words.iter().enumerate().find_map(|(index, word)| time_of_day(word, words.get(index + 1)));
    match (date(words, today), time) {
        (Some(date), time) => at(date, time.unwrap_or(Time::midnight())),
        (None, Some(time)) => {
            let found = at(today, time)?;
            if found > now || now - found <= JUST_PASSED.as_secs() {
                return Some(found);
            }
            at(today.checked_add(day()).ok()?, time)
        }
        (None, None) => None,
    }
}

fn day() -> Span {
    1.day()
}

/// `Dec 1st 2026` and `December 1`, whose year is that which makes it the nearest in the future.
fn date(words: &[String], today: Date) -> Option<Date> {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    words.iter().enumerate().find_map(|(at, word)| {
        let is_word = word.len() >= 3 && word.bytes().all(|byte| byte.is_ascii_lowercase());
        let month = MONTHS.iter().position(|month| is_word && word.starts_with(month))?;
        let month = i8::try_from(month + 1).ok()?;
        let day = words.get(at + 1)?;
        let day: i8 = day.trim_end_matches(|character: char| character.is_ascii_lowercase()).parse().ok()?;
        let year: Option<i16> = words.get(at + 2).filter(|year| year.len() == 4).and_then(|year| year.parse().ok());
        if let Some(year) = year {
            return Date::new(year, month, day).ok();
        }
        let date = Date::new(today.year(), month, day).ok()?;
        // A month ago or more is next year; less than that has passed.
        if today.checked_sub(31.days()).is_ok_and(|passed| date < passed) {
            return Date::new(today.year().checked_add(1)?, month, day).ok();
        }
        Some(date)
    })
}

/// `11:22pm`, `11:19` with `pm` after it, `3pm`, and `23:22`.
fn time_of_day(word: &str, next: Option<&String>) -> Option<Time> {
    let (figures, half) = match (word.strip_suffix("am"), word.strip_suffix("pm")) {
        (Some(figures), _) => (figures, Some(0)),
        (_, Some(figures)) => (figures, Some(12)),
        _ => (
            word,
            match next.map(|next| next.replace('.', "")).as_deref() {
                Some("am") => Some(0),
                Some("pm") => Some(12),
                _ => None,
            },
        ),
    };
    let mut parts = figures.split(':');
    let hour: i8 = parts.next()?.parse().ok()?;
    let minute: Option<i8> = parts.next().map(str::parse).transpose().ok()?;
    let second: Option<i8> = parts.next().map(str::parse).transpose().ok()?;
    // A number alone is not a time.
    if parts.next().is_some() || (half.is_none() && minute.is_none()) {
        return None;
    }
    let hour = match half {
        Some(half) if (1..=12).contains(&hour) => hour % 12 + half,
        Some(_) => return None,
        None => hour,
    };
    Time::new(hour, minute.unwrap_or_default(), second.unwrap_or_default(), 0).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// 2026-11-30, 22:36:00 UTC.
    const NOW: u64 = 1_796_078_160;
    const HOUR: u64 = 3600;

    #[rstest]
    #[case("You've hit your 5-hour limit · resets 11:22pm (UTC)", 46 * 60)]
    #[case("try again at 11:19 PM.", 43 * 60)]
    #[case("try again at Dec 1st, 2026 1:36 AM.", 3 * HOUR)]
    #[case("resets Dec 1 at 3am", 4 * HOUR + 24 * 60)]
    #[case("resets 3pm", 16 * HOUR + 24 * 60)]
    #[case("resets 23:36", HOUR)]
    #[case("resets 12am", HOUR + 24 * 60)]
    #[case::this_minute("try again at 10:36 PM.", 60)]
    #[case::just_before("You've hit your 5-hour limit · resets 10:35pm (UTC)", 60)]
    #[case("Please retry in 2h3m20.57s.", 2 * HOUR + 3 * 60 + 20)]
    #[case(r#"429: {"type":"usage_limit_reached","resets_at":1796086690,"resets_in_seconds":8530}"#, 8530)]
    #[case("Please retry in 3h0m0s.", 3 * HOUR)]
    #[case("available again in 3 hours", 3 * HOUR)]
    #[case("in 2 days and 3 hours, or so", 51 * HOUR)]
    #[case("Retrying after 131936ms...", 131)]
    #[case("retry-after: 120", 120)]
    #[case("Weekly limit in force, resets in 2 hours", 2 * HOUR)]
    #[case("reset 1796086690", 8530)]
    #[case("reset 1796086690000", 8530)]
    #[case("until 2026-12-01T01:36:00Z", 3 * HOUR)]
    #[case::clamped_up("in 1 second", 60)]
    #[case::clamped_down("in 300 days", 8 * 24 * HOUR)]
    #[case::clamped_down_date("Sep 26, 2027 at 3pm", 8 * 24 * HOUR)]
    #[case::next_year("Jan 2 at 3am", 8 * 24 * HOUR)]
    fn a_time_is_read(#[case] text: &str, #[case] wait: u64) {
        assert_eq!(read(text, NOW, &TimeZone::UTC), Some(NOW + wait), "{text}");
    }

    #[rstest]
    #[case("")]
    #[case("You have exhausted your daily quota on this model.")]
    #[case("Request rejected (429)")]
    #[case("limit 100, error 12:99, 25:00, 13pm, 0am")]
    #[case::passed("try again at 10:19 PM")]
    #[case::passed("try again at 10:34 PM")]
    #[case::passed("resets Nov 29, 2026 1:00 AM")]
    #[case::passed("1796078160")]
    #[case::passed("2026-11-30T22:35:00Z")]
    #[case("in a moment")]
    fn what_is_no_time_or_has_passed_is_none(#[case] text: &str) {
        assert_eq!(read(text, NOW, &TimeZone::UTC), None, "{text}");
    }

    #[test]
    fn a_text_that_names_no_zone_is_of_the_harness_s_zone() {
        let zone = TimeZone::fixed(jiff::tz::offset(-5));
        assert_eq!(read("resets 6:36pm", NOW, &zone), Some(NOW + HOUR));
        assert_eq!(read("resets 11:36pm (UTC)", NOW, &zone), Some(NOW + HOUR));
    }

    #[test]
    fn a_number_is_seconds_whatever_its_unit() {
        for unit in [1, 1_000, 1_000_000, 1_000_000_000] {
            assert_eq!(in_seconds(NOW * unit), Some(NOW));
        }
        assert_eq!([0, 5].map(in_seconds), [None, Some(5)]);
    }

    proptest! {
        #[test]
        fn whatever_is_said_the_wait_is_within_bounds(text in "(in |[0-9]{1,20}|:|[ap]m|dec|h|days| |\\PC){0,12}", now in 0..u64::MAX) {
            if let Some(at) = read(&text, now, &TimeZone::UTC) {
                prop_assert!(at >= now.saturating_add(60) && at <= now.saturating_add(8 * 24 * 3600));
            }
        }
    }
}
