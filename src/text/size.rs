//! Sizes of memory and other numbers as people write them.
//!
//! A size is a number with a unit that multiplies it by powers of 1024 (`KiB`, `MiB`, `GiB`, `TiB`, and `K`, `M`, `G`, `T` as in
//! systemd's units) or of 1000 (`KB`, `MB`, `GB`, `TB`).

/// Why a text is not such a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is a number that is too large or negative.
    #[error("it is out of range")]
    OutOfRange,
    /// It is not a number, or has another unit.
    #[error("it cannot be read")]
    Malformed,
}

/// The most bytes, in words.
pub const MOST: &str = "18446744073709551615 bytes (16 EiB less one byte)";

/// Bytes of a text like `2GiB`, `1.5 gib` or `4096`. A fraction of a byte is dropped.
pub fn parse(text: &str) -> Result<u64, Error> {
    const UNITS: [(&str, u64); 13] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("k", 1 << 10),
        ("m", 1 << 20),
        ("g", 1 << 30),
        ("t", 1 << 40),
        ("b", 1),
    ];
    let text = text.trim().to_ascii_lowercase();
    let unit = UNITS.iter().find_map(|&(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
    let (number, unit) = unit.unwrap_or((&text, 1));
    decimal(number.trim_end(), unit)
}

/// How many digits after the point count. The others are less than a byte, whatever the unit.
const FRACTION: usize = 18;

/// A number, which may have a point in it, multiplied. Exact, as a float would not be.
fn decimal(number: &str, factor: u64) -> Result<u64, Error> {
    let (is_negative, number) = number.strip_prefix('-').map_or((false, number), |number| (true, number));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return Err(Error::Malformed);
    }
    let fraction = &fraction[..fraction.len().min(FRACTION)];
    let scale = u32::try_from(fraction.len()).map(|length| 10_u128.pow(length)).map_err(|_| Error::Malformed)?;
    let digits = |digits: &str| digits.parse::<u128>().map_err(|_| Error::OutOfRange);
    let part = digits(fraction)? * u128::from(factor) / scale;
    let product = digits(whole)?.checked_mul(u128::from(factor)).and_then(|product| product.checked_add(part));
    let product = product.and_then(|product| u64::try_from(product).ok()).ok_or(Error::OutOfRange)?;
    if is_negative && number.bytes().any(|byte| (b'1'..=b'9').contains(&byte)) {
        return Err(Error::OutOfRange);
    }
    Ok(product)
}

/// A whole number, without a unit.
pub fn count<T: TryFrom<u64>>(text: &str) -> Result<T, Error> {
    let text = text.trim();
    let number = if text.contains('.') { Err(Error::Malformed) } else { decimal(text, 1) };
    T::try_from(number?).map_err(|_| Error::OutOfRange)
}

/// Percent of one processor: `150%`, or a number of processors like `1.5`.
pub fn percent(text: &str) -> Result<u64, Error> {
    let text = text.trim();
    text.strip_suffix('%').map_or_else(|| decimal(text, 100), |percent| decimal(percent.trim_end(), 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2GiB", Ok(2 << 30))]
    #[case("1.5gib", Ok(3 << 29))]
    #[case("512 MiB", Ok(512 << 20))]
    #[case("64KIB", Ok(64 << 10))]
    #[case("1GB", Ok(1_000_000_000))]
    #[case("0.5MB", Ok(500_000))]
    #[case("3kb", Ok(3000))]
    #[case("4096", Ok(4096))]
    #[case("4096B", Ok(4096))]
    #[case("1.0001kb", Ok(1000))]
    #[case("1.00009999999999999999999kb", Ok(1000))]
    #[case("18446744073709551615", Ok(u64::MAX))]
    #[case("18446744073709551616", Err(Error::OutOfRange))]
    #[case("18446744073709551615.5", Ok(u64::MAX))]
    #[case("0000000000000000000000000000000000000000000000000001", Ok(1))]
    #[case("99999999999GiB", Err(Error::OutOfRange))]
    #[case("999999999999999999GiB", Err(Error::OutOfRange))]
    #[case("9999999999999999999999999999999999999999999999GiB", Err(Error::OutOfRange))]
    #[case("-1GiB", Err(Error::OutOfRange))]
    #[case("-0", Ok(0))]
    #[case("", Err(Error::Malformed))]
    #[case("-", Err(Error::Malformed))]
    #[case("--1", Err(Error::Malformed))]
    #[case("GiB", Err(Error::Malformed))]
    #[case(".5GiB", Err(Error::Malformed))]
    #[case("1.GiB", Err(Error::Malformed))]
    #[case("1e3", Err(Error::Malformed))]
    #[case("2TiB", Ok(2 << 40))]
    #[case("2TB", Ok(2_000_000_000_000))]
    #[case("2G", Ok(2 << 30))]
    #[case("512M", Ok(512 << 20))]
    #[case("1.5 t", Ok(3 << 39))]
    #[case("64k", Ok(64 << 10))]
    #[case("2PiB", Err(Error::Malformed))]
    #[case("2i", Err(Error::Malformed))]
    #[case("G", Err(Error::Malformed))]
    #[case("2 G iB", Err(Error::Malformed))]
    fn sizes_are_read(#[case] text: &str, #[case] bytes: Result<u64, Error>) {
        assert_eq!(parse(text), bytes);
    }

    #[rstest]
    #[case("150%", Ok(150))]
    #[case("50 %", Ok(50))]
    #[case("1.5", Ok(150))]
    #[case("2", Ok(200))]
    #[case("0.25", Ok(25))]
    #[case("150", Ok(15_000))]
    #[case("half", Err(Error::Malformed))]
    #[case("%", Err(Error::Malformed))]
    #[case("-50%", Err(Error::OutOfRange))]
    #[case("999999999999999999999%", Err(Error::OutOfRange))]
    fn shares_of_processors_are_read(#[case] text: &str, #[case] share: Result<u64, Error>) {
        assert_eq!(percent(text), share);
    }

    #[rstest]
    #[case("0", Ok(0))]
    #[case("20", Ok(20))]
    #[case("-1", Err(Error::OutOfRange))]
    #[case("18446744073709551616", Err(Error::OutOfRange))]
    #[case("1.5", Err(Error::Malformed))]
    #[case("20B", Err(Error::Malformed))]
    #[case("x", Err(Error::Malformed))]
    fn whole_numbers_are_read(#[case] text: &str, #[case] number: Result<u64, Error>) {
        assert_eq!(count(text), number);
        assert_eq!(count::<u8>("256"), Err(Error::OutOfRange));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = (parse(&text), percent(&text), count::<u64>(&text));
        }

        #[test]
        fn bytes_are_bytes(bytes in 0..10_u64.pow(18)) {
            prop_assert_eq!(parse(&bytes.to_string()), Ok(bytes));
        }
    }
}
