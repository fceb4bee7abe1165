//! Sizes of memory: a number, and a unit that multiplies it by powers of 1024 (`KiB`, `MiB`, `GiB`) or of 1000 (`KB`, `MB`, `GB`).

/// Bytes of a text like `2GiB`, `1.5 gib` or `4096`; `None` if it is none, or too many to count. A fraction of a byte is dropped.
pub(crate) fn parse(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 7] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("b", 1),
    ];
    let text = text.trim().to_ascii_lowercase();
    let unit = UNITS.iter().find_map(|&(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
    let (number, unit) = unit.unwrap_or((&text, 1));
    decimal(number.trim_end(), unit)
}

/// A number with up to 18 digits after a point, multiplied. Exact, as a float would not be.
fn decimal(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |digits: &str| {
        let good = (1..=18).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        good.then(|| digits.parse::<u128>().ok()).flatten()
    };
    let factor = u128::from(factor);
    let part = digits(fraction)? * factor / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    u64::try_from(digits(whole)? * factor + part).ok()
}

/// Percent of one processor: `150%`, or a number of processors like `1.5`.
pub(super) fn percent(text: &str) -> Option<u64> {
    let text = text.trim();
    text.strip_suffix('%').map_or_else(|| decimal(text, 100), |percent| decimal(percent.trim_end(), 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2GiB", Some(2 << 30))]
    #[case("1.5gib", Some(3 << 29))]
    #[case("512 MiB", Some(512 << 20))]
    #[case("64KIB", Some(64 << 10))]
    #[case("1GB", Some(1_000_000_000))]
    #[case("0.5MB", Some(500_000))]
    #[case("3kb", Some(3000))]
    #[case("4096", Some(4096))]
    #[case("4096B", Some(4096))]
    #[case("1.0001kb", Some(1000))]
    #[case("18446744073709551615", None)]
    #[case("999999999999999999GiB", None)]
    #[case("", None)]
    #[case("GiB", None)]
    #[case(".5GiB", None)]
    #[case("1.GiB", None)]
    #[case("-1GiB", None)]
    #[case("1e3", None)]
    #[case("2TiB", None)]
    #[case("2 G iB", None)]
    fn sizes_are_read(#[case] text: &str, #[case] bytes: Option<u64>) {
        assert_eq!(parse(text), bytes);
    }

    #[rstest]
    #[case("150%", Some(150))]
    #[case("50 %", Some(50))]
    #[case("1.5", Some(150))]
    #[case("2", Some(200))]
    #[case("0.25", Some(25))]
    #[case("150", Some(15_000))]
    #[case("half", None)]
    #[case("%", None)]
    #[case("-50%", None)]
    fn shares_of_processors_are_read(#[case] text: &str, #[case] share: Option<u64>) {
        assert_eq!(percent(text), share);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = (parse(&text), percent(&text));
        }

        #[test]
        fn bytes_are_bytes(bytes in 0..10_u64.pow(18)) {
            prop_assert_eq!(parse(&bytes.to_string()), Some(bytes));
        }
    }
}
