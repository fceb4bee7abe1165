//! Reading of JSON whose shape is not to be relied on: a value of another type than expected is as good as absent.
//!
//! Nothing is kept but what is asked for, so a line takes little more memory than it has bytes, however it is nested.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The most elements of a list that are kept.
const MOST_ELEMENTS: usize = 256;

/// Reads a line.
///
/// A harness of JavaScript may cut a text within a character. It writes half of it then, as `\ud83d`, which is not text for others. What
/// is cut is read as a character that stands for an unknown one: a result must not be lost for that.
pub(super) fn read<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Option<T> {
    serde_json::from_slice(line).ok().or_else(|| serde_json::from_slice(&without_halves(line)?).ok())
}

/// The line with other characters in place of those halves; `None` if there are none.
fn without_halves(line: &[u8]) -> Option<Vec<u8>> {
    const UNKNOWN: &[u8] = b"fffd";
    let mut whole: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &line[at..]) {
        let begin = at + found;
        let Some(unit) = unit(&line[begin..]) else {
            // Another escape sequence, of two bytes at least.
            at = (begin + 2).min(line.len());
            continue;
        };
        at = begin + UNIT;
        match unit {
            0xd800..0xdc00 if unit_in(&line[at..], 0xdc00..0xe000) => at += UNIT,
            0xd800..0xe000 => whole.get_or_insert_with(|| line.to_vec())[begin + 2..at].copy_from_slice(UNKNOWN),
            _ => {}
        }
    }
    whole
}

/// The length of `\u` and four digits.
const UNIT: usize = 6;

/// The unit of UTF-16 that a text begins with, as an escape sequence.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    let is_number = digits.iter().all(u8::is_ascii_hexdigit);
    std::str::from_utf8(digits).ok().filter(|_| is_number).and_then(|digits| u16::from_str_radix(digits, 16).ok())
}

fn unit_in(text: &[u8], range: std::ops::Range<u16>) -> bool {
    unit(text).is_some_and(|unit| range.contains(&unit))
}

/// A value, if it has the expected type.
#[derive(Debug)]
pub(super) struct Loose<T>(pub(super) Option<T>);

impl<T> Default for Loose<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Loose<T> {
    /// The value, if there is one.
    pub(super) fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }
}

impl Loose<String> {
    /// The text; empty if there is none.
    pub(super) fn text(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl<T> Loose<List<T>> {
    /// The elements.
    pub(super) fn elements(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|list| list.0.iter()).filter_map(Loose::get)
    }
}

/// A type of value.
pub(super) trait Kind: Sized {
    /// From a string.
    fn of_string(_: &str) -> Option<Self> {
        None
    }

    /// From a number.
    fn of_number(_: f64) -> Option<Self> {
        None
    }

    /// From `true` or `false`.
    fn of_flag(_: bool) -> Option<Self> {
        None
    }

    /// From an object.
    fn of_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    /// From a list.
    fn of_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl Kind for String {
    fn of_string(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Kind for bool {
    fn of_flag(flag: bool) -> Option<Self> {
        Some(flag)
    }
}

/// A number that is neither negative nor larger than anything can be counted to: 10¹⁵ at most.
impl Kind for u64 {
    fn of_number(number: f64) -> Option<Self> {
        count(number)
    }

    fn of_string(text: &str) -> Option<Self> {
        text.trim().parse().ok().and_then(count)
    }
}

/// An amount of money that an attempt can cost: neither negative nor a million or more.
impl Kind for f64 {
    fn of_number(number: f64) -> Option<Self> {
        (0.0..1e6).contains(&number).then_some(number)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in range")]
fn count(number: f64) -> Option<u64> {
    (0.0..=1e15).contains(&number).then_some(number as u64)
}

/// Elements of one type; those of others are absent, and so are those beyond the first few hundred.
#[derive(Debug)]
pub(super) struct List<T>(Vec<Loose<T>>);

impl<T: Kind> Kind for List<T> {
    fn of_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut elements = Vec::new();
        while elements.len() < MOST_ELEMENTS {
            let Some(element) = list.next_element()? else { return Ok(Some(Self(elements))) };
            elements.push(element);
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Some(Self(elements)))
    }
}

/// A type that is read from an object as its fields say.
pub(super) trait Fields: for<'de> Deserialize<'de> {}

impl<T: Fields> Kind for T {
    fn of_object<'de, A: MapAccess<'de>>(object: A) -> Result<Option<Self>, A::Error> {
        T::deserialize(serde::de::value::MapAccessDeserializer::new(object)).map(Some)
    }
}

impl<'de, T: Kind> Deserialize<'de> for Loose<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader(PhantomData)).map(Self)
    }
}

struct Reader<T>(PhantomData<T>);

impl<'de, T: Kind> DeserializeSeed<'de> for Reader<T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Kind> Visitor<'de> for Reader<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Option<T>, E> {
        Ok(T::of_flag(flag))
    }

    #[expect(clippy::cast_precision_loss, reason = "figures need not be exact beyond 2⁵³")]
    fn visit_i64<E>(self, number: i64) -> Result<Option<T>, E> {
        Ok(T::of_number(number as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "figures need not be exact beyond 2⁵³")]
    fn visit_u64<E>(self, number: u64) -> Result<Option<T>, E> {
        Ok(T::of_number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Option<T>, E> {
        Ok(T::of_number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<T>, E> {
        Ok(T::of_string(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Option<T>, A::Error> {
        T::of_object(object)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Option<T>, A::Error> {
        T::of_list(list)
    }
}
