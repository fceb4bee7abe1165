//! Durations as jcards and command lines write them: Go's grammar first, humantime's after it.
//!
//! Existing files hold what Go's `time.ParseDuration` takes (`1h30m`, `.5s`); people write what humantime takes (`2 hours 30 min`,
//! `1d`). Where both take a text they agree, to the nanosecond that Go loses by reckoning in floating point. Refused on top of what
//! neither takes: negative durations, what Go's 64 bits of nanoseconds cannot hold, and two things that humantime takes for what
//! hardly anybody means: `M`, a month, which is one shift key away from a minute, and `1 30m`, for 130 minutes.

use std::time::Duration;

use thiserror::Error;

/// The longest duration there is, a little over 292 years: what Go holds.
pub const MAX: Duration = Duration::from_nanos(i64::MAX.unsigned_abs());

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// Nothing, or nothing but white space.
    #[error("the duration is empty; {EXAMPLES}")]
    Empty,
    /// It has a minus sign in front.
    #[error("the duration is negative; {EXAMPLES}")]
    Negative,
    /// The unit is a bare `M`.
    #[error("the unit `M` would be a month; did you mean `m` for minutes? {EXAMPLES}")]
    Month,
    /// A number without a unit.
    #[error("the number {0} has no unit; {EXAMPLES}")]
    UnitMissing(String),
    /// A unit that neither grammar has.
    #[error("{0:?} is not a unit of time (units are ns, us, ms, s, m, h, d, w and their long forms); {EXAMPLES}")]
    UnitUnknown(String),
    /// More than [`MAX`], or, in humantime's grammar, finer than a nanosecond.
    #[error("the duration is out of range, which is from 0 to 292 years; {EXAMPLES}")]
    OutOfRange,
    /// Anything else.
    #[error("this is not a duration; {EXAMPLES}")]
    Malformed,
}

const EXAMPLES: &str = "write for example 30s, 1h30m or 2 hours 30 min";

/// The longest part of a refused text that an error repeats, in characters.
const QUOTED: usize = 20;

/// The duration that a text in Go's or humantime's grammar means.
pub fn parse(text: &str) -> Result<Duration, Error> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(Error::Empty);
    }
    if trimmed.starts_with('-') {
        return Err(Error::Negative);
    }
    match parse_go(text) {
        Some(duration) => duration,
        None => parse_humantime(trimmed),
    }
}

/// A whole number of seconds as a duration.
pub fn from_seconds(seconds: u64) -> Result<Duration, Error> {
    bounded(Some(Duration::from_secs(seconds)))
}

fn bounded(duration: Option<Duration>) -> Result<Duration, Error> {
    duration.filter(|duration| *duration <= MAX).ok_or(Error::OutOfRange)
}

/// Go's grammar without the minus sign. `None`: the text is not in it.
fn parse_go(text: &str) -> Option<Result<Duration, Error>> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Ok(Duration::ZERO));
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: Result<u64, Error> = Ok(0);
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let item = nanoseconds(whole, fraction, go_unit(unit)?);
        total = total.and_then(|sum| sum.checked_add(item?).ok_or(Error::OutOfRange));
        rest = after;
    }
    Some(total.and_then(|total| bounded(Some(Duration::from_nanos(total)))))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Nanoseconds in a unit of Go's.
fn go_unit(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        // Both the micro sign and the Greek letter are in use.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `whole.fraction` units in nanoseconds, cut off below one.
fn nanoseconds(whole: &str, fraction: &str, unit: u64) -> Result<u64, Error> {
    // Digits below a billionth of a billionth of the largest unit are less than a nanosecond, whatever they are.
    let fraction = &fraction[..fraction.len().min(18)];
    let digits = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u64>().map_err(|_| Error::OutOfRange) };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or_default());
    let below_one = u128::from(digits(fraction)?) * u128::from(unit) / scale;
    let total = u128::from(digits(whole)?) * u128::from(unit) + below_one;
    u64::try_from(total).map_err(|_| Error::OutOfRange)
}

/// humantime's grammar without its `M` and without white space inside numbers, one `number unit` at a time: a sum near the 64th bit makes humantime panic.
fn parse_humantime(text: &str) -> Result<Duration, Error> {
    items(text).try_fold(Duration::ZERO, |sum, item| {
        let unit = item.trim_start_matches(is_part_of_number);
        let mut numbers = item[..item.len() - unit.len()].split_whitespace();
        match (numbers.next(), numbers.next(), unit) {
            // humantime takes `1 30m` for 130 minutes.
            (Some(number), Some(_), _) | (Some(number), None, "") => return Err(Error::UnitMissing(quoted(number))),
            (.., "M") => return Err(Error::Month),
            _ => {}
        }
        let duration = humantime::parse_duration(item).map_err(|error| match error {
            humantime::DurationError::UnknownUnit { unit, .. } => Error::UnitUnknown(quoted(&unit)),
            humantime::DurationError::NumberOverflow => Error::OutOfRange,
            _ => Error::Malformed,
        })?;
        bounded(sum.checked_add(duration))
    })
}

/// Cuts where a digit follows a unit: `2 hours 30min` is `2 hours`, `30min`.
fn items(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let unit = rest.find(|c| !is_part_of_number(c)).unwrap_or(rest.len());
        let length = rest[unit..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |digit| unit + digit);
        let (item, after) = rest.split_at(length);
        rest = after;
        (!item.is_empty()).then(|| item.trim_end())
    })
}

fn is_part_of_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.' || c.is_whitespace()
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED).collect()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[rstest]
    #[case("1h30m", 5400 * SECOND)]
    #[case("1.5h", 5400 * SECOND)]
    #[case("0.5s", SECOND / 2)]
    #[case("300ms", 300_000_000)]
    #[case("2h45m30s", 9930 * SECOND)]
    #[case("1us", 1_000)]
    #[case("1\u{b5}s", 1_000)]
    #[case("1\u{3bc}s", 1_000)]
    #[case("100us", 100_000)]
    #[case("10ns", 10)]
    #[case("0", 0)]
    #[case("+0", 0)]
    #[case("0s", 0)]
    #[case("30m1h", 5400 * SECOND)]
    #[case("1m1m", 120 * SECOND)]
    #[case(".5s", SECOND / 2)]
    #[case("5.s", 5 * SECOND)]
    #[case("+5s", 5 * SECOND)]
    #[case("1.0000000001s", SECOND)]
    #[case("0.9999999999999999999999999s", SECOND - 1)]
    #[case("0.3333333333333333333h", 1200 * SECOND - 1)]
    #[case("9223372036854775807ns", i64::MAX.unsigned_abs())]
    #[case("2562047h47m16.854775807s", i64::MAX.unsigned_abs())]
    fn what_go_takes_means_what_it_means_in_go(#[case] text: &str, #[case] nanoseconds: u64) {
        assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)));
    }

    #[rstest]
    #[case("2 hours 30 min", 9000)]
    #[case("2hours 30min", 9000)]
    #[case("5 min", 300)]
    #[case("1d", 86_400)]
    #[case("1w", 7 * 86_400)]
    #[case("1day 1h", 90_000)]
    #[case(" 1h", 3600)]
    #[case("1h\n", 3600)]
    #[case("1 month", 2_630_016)]
    fn what_only_humantime_takes_is_taken_too(#[case] text: &str, #[case] seconds: u64) {
        assert_eq!(parse(text), Ok(Duration::from_secs(seconds)));
    }

    #[rstest]
    #[case("", Error::Empty)]
    #[case(" \t", Error::Empty)]
    #[case("-5s", Error::Negative)]
    #[case(" -1h", Error::Negative)]
    #[case("1M", Error::Month)]
    #[case("1h 5 M", Error::Month)]
    #[case("100", Error::UnitMissing("100".into()))]
    #[case("1.5", Error::UnitMissing("1.5".into()))]
    #[case("1h30", Error::UnitMissing("30".into()))]
    #[case("1h 30", Error::UnitMissing("30".into()))]
    #[case("1 30m", Error::UnitMissing("1".into()))]
    #[case("1. 5s", Error::UnitMissing("1.".into()))]
    #[case("5 \r.", Error::UnitMissing("5".into()))]
    #[case("1 5M", Error::UnitMissing("1".into()))]
    #[case("1H", Error::UnitUnknown("H".into()))]
    #[case("1e3s", Error::UnitUnknown("e".into()))]
    #[case("1h-30m", Error::Malformed)]
    #[case("1h,30m", Error::Malformed)]
    #[case(".s", Error::Malformed)]
    #[case("soon", Error::Malformed)]
    #[case("+", Error::Malformed)]
    #[case("++5s", Error::Malformed)]
    #[case("2562048h", Error::OutOfRange)]
    #[case("9223372036854775808ns", Error::OutOfRange)]
    #[case("2562047h47m16.854775808s", Error::OutOfRange)]
    #[case("18446744073709551616s", Error::OutOfRange)]
    #[case("300 years", Error::OutOfRange)]
    #[case("18446744073709551615s 1000 ms", Error::OutOfRange)]
    fn what_neither_takes_is_refused_by_its_reason(#[case] text: &str, #[case] error: Error) {
        assert_eq!(parse(text), Err(error));
    }

    #[test]
    fn a_refusal_says_what_would_be_right() {
        for text in ["", "-1s", "1M", "100", "1H", "300y", "soon"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.ends_with("write for example 30s, 1h30m or 2 hours 30 min"), "{error}");
        }
        assert!(parse("5M").unwrap_err().to_string().contains("did you mean `m` for minutes?"));
    }

    #[test]
    fn a_refusal_repeats_little_and_nothing_unprintable() {
        let error = parse(&format!("1{}", "x".repeat(100_000))).unwrap_err().to_string();
        assert!(error.len() < 300, "{error}");
    }

    #[test]
    fn whole_seconds_have_the_same_bound() {
        assert_eq!(from_seconds(1800), Ok(Duration::from_mins(30)));
        assert_eq!(from_seconds(u64::MAX), Err(Error::OutOfRange));
    }

    /// The form in which Go prints a duration.
    fn format_go(duration: Duration) -> String {
        let nanoseconds = duration.as_nanos();
        let decimal = |value: u128, unit: u128| {
            let digits = unit.ilog10() as usize;
            let text = format!("{}.{:0digits$}", value / unit, value % unit);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        match nanoseconds {
            0 => "0s".to_owned(),
            1..1_000 => format!("{nanoseconds}ns"),
            1_000..1_000_000 => decimal(nanoseconds, 1_000) + "\u{b5}s",
            1_000_000..1_000_000_000 => decimal(nanoseconds, 1_000_000) + "ms",
            _ => {
                let (hours, minutes) = (nanoseconds / 3_600_000_000_000, nanoseconds / 60_000_000_000 % 60);
                let mut text = String::new();
                if hours > 0 {
                    write!(text, "{hours}h").unwrap();
                }
                if hours > 0 || minutes > 0 {
                    write!(text, "{minutes}m").unwrap();
                }
                text + &decimal(nanoseconds % 60_000_000_000, 1_000_000_000) + "s"
            }
        }
    }

    /// Of every order of magnitude up to [`MAX`].
    fn any_nanoseconds() -> impl Strategy<Value = u64> {
        (any::<u64>(), 1..64_u32).prop_map(|(value, shift)| value >> shift)
    }

    proptest! {
        #[test]
        fn what_go_prints_is_read_back(nanoseconds in any_nanoseconds()) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse(&format_go(duration)), Ok(duration));
        }

        #[test]
        fn what_humantime_prints_is_read_back(nanoseconds in any_nanoseconds()) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse(&humantime::format_duration(duration).to_string()), Ok(duration));
        }

        #[test]
        fn where_humantime_takes_a_text_both_agree(text in "([0-9]{1,3}(\\.[0-9]{1,3})? ?(ns|us|ms|s|sec|m|min|mins|h|hr|hours|d|days|w|y) ?){1,4}") {
            if let Ok(duration) = humantime::parse_duration(&text) && duration <= MAX {
                prop_assert_eq!(parse(&text), Ok(duration));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn no_text_of_its_alphabet_makes_it_panic(text in "[-+0-9.hmsun\u{b5}\u{3bc}dwyM ]{0,60}") {
            if let Ok(duration) = parse(&text) {
                prop_assert!(duration <= MAX);
            }
        }
    }
}
