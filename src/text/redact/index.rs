//! Finds the lines of secrets in a text, however they are laid out.
//!
//! A terminal interface wraps a long value, indents it and draws a border around it. The comparison therefore covers only the
//! *significant* bytes, of the text as well as of the secret: it skips white space, ends of lines, control and format characters,
//! box-drawing and block characters and `|`. It also skips U+FFFD, which some terminals show for bytes that are not UTF-8, and others
//! do not. A stretch of [`PIECE`] significant bytes that occurs in a secret is redacted, and so is every shorter secret as a whole.
//!
//! A rolling hash compares windows of that length: a secret of n bytes has n hashes, and the text is read once.

use std::collections::BTreeMap;

use memchr::memmem;
use zeroize::Zeroizing;

use super::Masking;

/// How many significant bytes of a secret are too many to show.
pub const PIECE: usize = 16;

/// The fewest significant bytes of a secret that are looked for: shorter ones are in every text.
pub(super) const SHORTEST: usize = 4;

/// How many bytes at the end of a text are enough to suspect that a secret begins there.
pub(super) const SUSPICIOUS: usize = 4;

/// Of the rolling hash; any odd number does that has bits in all places.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// Ends each secret in the text of all: no UTF-8 has this byte.
const END: u8 = 0xff;

/// Whether a character of ASCII counts.
const IS_SIGNIFICANT: [bool; 128] = {
    let mut is_significant = [false; 128];
    let mut byte = b'!';
    while byte <= b'~' {
        is_significant[byte as usize] = byte != b'|';
        byte += 1;
    }
    is_significant
};

/// Whether a character counts when a text is compared with a secret.
pub fn is_significant(character: char) -> bool {
    if character.is_ascii() {
        return IS_SIGNIFICANT[character as usize];
    }
    !(character.is_whitespace()
        || crate::text::printable::acts(character)
        || matches!(character, '\u{2500}'..='\u{259f}' | char::REPLACEMENT_CHARACTER))
}

/// What must not be shown, ready to be found. Its memory is cleared when it is dropped.
pub(super) struct Index {
    groups: Vec<Group>,
    /// The significant bytes of all secrets, each with [`END`] behind it.
    all: Zeroizing<Vec<u8>>,
}

/// The hashes of one length of window.
struct Group {
    length: usize,
    /// [`BASE`] to the power of the length, which removes the byte that leaves the window.
    power: u64,
    hashes: Zeroizing<Vec<u64>>,
    /// A bit for each hash's highest bits: most windows are sorted out by it.
    filter: Zeroizing<Vec<u64>>,
    /// How many of the highest bits.
    bits: u32,
}

impl Group {
    /// The fewest bits of a filter.
    const FEWEST_BITS: usize = 1 << 16;

    /// How many bits of the filter there are for each hash, at least: so few windows pass it that are not there.
    const BITS_PER_HASH: usize = 8;

    fn new(length: usize, mut hashes: Zeroizing<Vec<u64>>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        let bits = (hashes.len() * Self::BITS_PER_HASH).next_power_of_two().max(Self::FEWEST_BITS);
        let mut group = Self {
            length,
            power: power(length),
            hashes,
            filter: Zeroizing::new(vec![0; bits / 64]),
            bits: bits.ilog2(),
        };
        for at in 0..group.hashes.len() {
            let (word, bit) = group.place(group.hashes[at]);
            group.filter[word] |= bit;
        }
        group
    }

    /// Where the filter has a hash: at the number that its highest bits are.
    fn place(&self, hash: u64) -> (usize, u64) {
        let bit = usize::try_from(hash >> (u64::BITS - self.bits)).unwrap_or_default();
        (bit / 64, 1 << (bit % 64))
    }

    fn has(&self, hash: u64) -> bool {
        let (word, bit) = self.place(hash);
        self.filter[word] & bit != 0 && self.hashes.binary_search(&hash).is_ok()
    }
}

fn step(hash: u64, byte: u8) -> u64 {
    hash.wrapping_mul(BASE).wrapping_add(u64::from(byte) + 1)
}

/// By which the byte that leaves a window of this length is taken out.
fn power(length: usize) -> u64 {
    (0..length).fold(1_u64, |power, _| power.wrapping_mul(BASE))
}

/// The hash of each window of a length in bytes that are no fewer.
fn windows(bytes: &[u8], length: usize) -> impl Iterator<Item = u64> {
    let power = power(length);
    let (first, rest) = bytes.split_at(length.min(bytes.len()));
    let first = first.iter().fold(0, |hash, &byte| step(hash, byte));
    let next = move |hash: &mut u64, (&byte, &gone): (&u8, &u8)| {
        *hash = step(*hash, byte).wrapping_sub((u64::from(gone) + 1).wrapping_mul(power));
        Some(*hash)
    };
    std::iter::once(first).chain(rest.iter().zip(bytes).scan(first, next))
}

impl Index {
    /// Prepares these lines, which takes about a tenth of a second for each MiB of them.
    pub(super) fn new<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Self {
        let mut all = Zeroizing::new(Vec::new());
        // How many windows there are of each length: the room for them is made once, so that no copy of them is left behind.
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for line in lines {
            let bytes = significant(line.as_ref());
            if bytes.len() < SHORTEST {
                continue;
            }
            let length = bytes.len().min(PIECE);
            *counts.entry(length).or_default() += bytes.len() - length + 1;
            crate::sys::memory::append(&mut all, &bytes);
            crate::sys::memory::append(&mut all, &[END]);
        }
        let with_room = |(length, count)| (length, Zeroizing::new(Vec::with_capacity(count)));
        let mut hashes: BTreeMap<usize, Zeroizing<Vec<u64>>> = counts.into_iter().map(with_room).collect();
        for secret in all.split(|&byte| byte == END).filter(|secret| !secret.is_empty()) {
            let length = secret.len().min(PIECE);
            hashes.entry(length).or_default().extend(windows(secret, length));
        }
        Self { groups: hashes.into_iter().map(|(length, hashes)| Group::new(length, hashes)).collect(), all }
    }

    /// Whether there is nothing to redact.
    pub(super) fn is_idle(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether each byte of a text is part of a secret, and where each significant byte stands. `before` are the significant bytes
    /// that were shown before the text.
    pub(super) fn marks(&self, before: &[u8], text: &str) -> (Vec<bool>, Vec<usize>) {
        let mut places = Vec::with_capacity(text.len());
        let mut bytes = Zeroizing::new(Vec::with_capacity(before.len() + text.len()));
        bytes.extend_from_slice(before);
        let mut at = 0;
        while let Some(&byte) = text.as_bytes().get(at) {
            // Nearly always; the other way takes several times as long.
            if byte.is_ascii() {
                if IS_SIGNIFICANT[usize::from(byte)] {
                    places.push(at);
                    bytes.push(byte);
                }
                at += 1;
                continue;
            }
            let Some(character) = text[at..].chars().next() else { break };
            let end = at + character.len_utf8();
            if is_significant(character) {
                places.extend(at..end);
                bytes.extend_from_slice(&text.as_bytes()[at..end]);
            }
            at = end;
        }
        let mut is_secret = vec![false; text.len()];
        for group in &self.groups {
            let Some((first, rest)) = bytes.split_at_checked(group.length - 1) else { continue };
            let mut hash = first.iter().fold(0, |hash, &byte| step(hash, byte));
            let mut marked = 0;
            // What leaves the window, beside what comes: nothing leaves the first.
            let gone = std::iter::once(0).chain(bytes.iter().map(|&byte| u64::from(byte) + 1));
            for ((&byte, gone), at) in rest.iter().zip(gone).zip(first.len()..) {
                hash = step(hash, byte).wrapping_sub(gone.wrapping_mul(group.power));
                if group.has(hash) {
                    for place in (at + 1 - group.length).max(marked).max(before.len())..=at {
                        is_secret[places[place - before.len()]] = true;
                    }
                    marked = at + 1;
                }
            }
        }
        (is_secret, places)
    }

    /// How many of these last significant bytes may be the beginning of what must not be shown, if more follows; 0 for fewer than are
    /// suspicious.
    pub(super) fn suspicion(&self, last: &[u8]) -> usize {
        let Some(at) = last.len().checked_sub(SUSPICIOUS) else { return 0 };
        let end = &last[at..];
        let mut longest = 0;
        for found in memmem::find_iter(&self.all, end) {
            let mut length = SUSPICIOUS;
            while length < last.len() && length < found + SUSPICIOUS {
                let (of_text, of_secret) = (last[last.len() - length - 1], self.all[found + SUSPICIOUS - length - 1]);
                if of_text != of_secret {
                    break;
                }
                length += 1;
            }
            // Nothing follows the end of a secret.
            if self.all[found + SUSPICIOUS] != END {
                longest = longest.max(length);
            }
        }
        longest
    }
}

pub(super) fn significant(text: &str) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut buffer = Zeroizing::new([0; 4]);
    for character in text.chars().filter(|&character| is_significant(character)) {
        bytes.extend_from_slice(character.encode_utf8(&mut *buffer).as_bytes());
    }
    bytes
}

/// The text with marks for the characters any byte of which is part of a secret.
pub(super) fn marked(text: &str, is_secret: &[bool]) -> String {
    marked_on(&mut Masking::default(), text, is_secret)
}

/// The same for a text that continues another.
pub(super) fn marked_on(masking: &mut Masking, text: &str, is_secret: &[bool]) -> String {
    // Nearly always.
    if !is_secret.contains(&true)
        && let Some(shown) = masking.pass(text)
    {
        return shown;
    }
    let mut shown = String::with_capacity(text.len());
    for (at, character) in text.char_indices() {
        masking.push(&mut shown, character, is_secret[at..at + character.len_utf8()].contains(&true));
    }
    shown
}
