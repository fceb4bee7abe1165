//! Fuzzes durations: a text is a duration up to the maximum, or is refused in one short line. A text that Go or humantime accepts means
//! the same here, and what humantime prints is read back.

#![no_main]

use std::time::Duration;

use agentd::text::duration::{MAX, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let read = parse(text);
    match &read {
        Ok(duration) => {
            assert!(*duration <= MAX);
            let printed = humantime::format_duration(*duration).to_string();
            assert_eq!(parse(&printed), Ok(*duration), "{printed}");
        }
        Err(error) => {
            let told = error.to_string();
            assert!(told.len() < 300 && !told.contains(char::is_control), "{told:?}");
        }
    }
    if let Some((nanoseconds, tolerance)) = in_go(text)
        && nanoseconds + tolerance <= MAX.as_nanos()
    {
        let difference = read.as_ref().map(|duration| duration.as_nanos().abs_diff(nanoseconds));
        assert!(difference.is_ok_and(|difference| difference <= tolerance), "{read:?}, in Go {nanoseconds} ns");
    }
    if let Some(duration) = in_humantime(text) {
        assert_eq!(read, Ok(duration));
    }
});

/// What Go's `time.ParseDuration` makes of a text without a minus sign, in nanoseconds, and by how many this may differ: Go reckons
/// fractions in floating point, agentd exactly.
fn in_go(text: &str) -> Option<(u128, u128)> {
    const UNITS: [(&str, u64); 8] = [
        ("h", 3_600_000_000_000),
        ("ms", 1_000_000),
        ("m", 60_000_000_000),
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("s", 1_000_000_000),
    ];
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some((0, 0));
    }
    let (mut total, mut items) = (0, 0);
    while !rest.is_empty() || items == 0 {
        let number = rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
        let unit = rest[number.len()..].split(|c: char| c == '.' || c.is_ascii_digit()).next()?;
        let &(_, unit_nanoseconds) = UNITS.iter().find(|&&(name, _)| name == unit)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        // Of more digits the sum is too large for either.
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok().filter(|&whole| whole < 1 << 64)? };
        let fraction: f64 = format!("0.{fraction}0").parse().ok()?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let below_one = (fraction * unit_nanoseconds as f64) as u128;
        total += whole * u128::from(unit_nanoseconds) + below_one;
        items += 1;
        rest = &rest[number.len() + unit.len()..];
    }
    Some((total, items))
}

/// What humantime makes of it, where that is to be taken over: not of a month, of white space inside a number, of more than the
/// maximum.
fn in_humantime(text: &str) -> Option<Duration> {
    // Of sums near the 64th bit humantime panics.
    let mut numbers = text.split(char::is_alphabetic);
    let is_modest =
        text.len() < 100 && numbers.all(|number| number.len() < 10 && number.split_whitespace().count() < 2);
    let has_month = text.split(|c: char| !c.is_alphabetic()).any(|unit| unit == "M");
    let duration = (is_modest && !has_month).then(|| humantime::parse_duration(text).ok())?;
    duration.filter(|duration| *duration <= MAX)
}
