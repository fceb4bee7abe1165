//! Secrets in what people are shown: found however a terminal interface has laid them out, and blotted out.
//!
//! A terminal interface wraps a long value, indents it and draws a border around it. What is compared is therefore the *significant*
//! bytes only, of the text as well as of the secret: white space, ends of lines, control and format characters, box-drawing and block
//! characters and `|` are left out. A stretch of [`PIECE`] significant bytes that occurs in a secret is blotted out, and so is every
//! shorter secret as a whole. Each character is replaced by one `*`, so that the layout stays.
//!
//! Windows of that length are compared by a rolling hash: a secret of n bytes has n hashes, and the text is gone through once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use memchr::memmem;
use zeroize::Zeroizing;

/// What stands for each character of a secret.
pub const BLOT: char = '*';

/// How many significant bytes of a secret are too many to show.
pub const PIECE: usize = 16;

/// The fewest significant bytes of a secret that are looked for: shorter ones are in every text.
const SHORTEST: usize = 4;

/// How many bytes at the end of a text are enough to suspect that a secret begins there.
const SUSPICIOUS: usize = 4;

/// How much insignificant text between two significant bytes is held back at most.
const MOST_HELD: usize = 16 << 10;

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
        || matches!(character, '\u{2500}'..='\u{259f}'))
}

/// What must not be shown. Its memory is cleared when it is dropped.
#[derive(Default)]
pub struct Redaction {
    groups: Vec<Group>,
    /// The significant bytes of all secrets, each with [`END`] behind it.
    all: Zeroizing<Vec<u8>>,
}

/// The stretches of one length that must not be shown.
struct Group {
    length: usize,
    /// [`BASE`] to the power of the length, by which the byte that leaves the window is taken out.
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

/// Shows how much there is only.
impl fmt::Debug for Redaction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Redaction of {} bytes", self.all.len())
    }
}

impl Redaction {
    /// Of these secrets, each a line of a value. Takes about a tenth of a second for each MiB of them.
    pub fn new<S: AsRef<str>>(secrets: impl IntoIterator<Item = S>) -> Self {
        let mut all = Zeroizing::new(Vec::new());
        // How many windows there are of each length: the room for them is made once, so that no copy of them is left behind.
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for secret in secrets {
            let bytes = significant(secret.as_ref());
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

    /// Whether there is nothing to blot out.
    pub fn is_idle(&self) -> bool {
        self.groups.is_empty()
    }

    /// The text with each character of a secret replaced by a [`BLOT`].
    pub fn of(&self, text: &str) -> String {
        if self.is_idle() { text.to_owned() } else { blotted(text, &self.blots(text)) }
    }

    /// For each byte of a text whether it is a secret's.
    pub fn blots(&self, text: &str) -> Vec<bool> {
        if self.is_idle() { vec![false; text.len()] } else { self.marks(&[], text).0 }
    }

    /// For each byte of a text whether it is a secret's. `before` are the significant bytes that were shown before it. Also tells where
    /// each significant byte stands.
    fn marks(&self, before: &[u8], text: &str) -> (Vec<bool>, Vec<usize>) {
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
        let mut is_blotted = vec![false; text.len()];
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
                        is_blotted[places[place - before.len()]] = true;
                    }
                    marked = at + 1;
                }
            }
        }
        (is_blotted, places)
    }

    /// How many of these last significant bytes may be the beginning of what must not be shown, if more follows; 0 for fewer than are
    /// suspicious.
    fn suspicion(&self, last: &[u8]) -> usize {
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

fn significant(text: &str) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut buffer = Zeroizing::new([0; 4]);
    for character in text.chars().filter(|&character| is_significant(character)) {
        bytes.extend_from_slice(character.encode_utf8(&mut *buffer).as_bytes());
    }
    bytes
}

/// A character is blotted out if any of its bytes is.
fn blotted(text: &str, is_blotted: &[bool]) -> String {
    if !is_blotted.contains(&true) {
        return text.to_owned();
    }
    let of = |(at, character): (usize, char)| {
        if is_blotted[at..at + character.len_utf8()].contains(&true) { BLOT } else { character }
    };
    text.char_indices().map(of).collect()
}

/// A text that comes in pieces, on its way to be shown.
#[derive(Default)]
pub struct Shown {
    redaction: Arc<Redaction>,
    /// The last significant bytes that were shown.
    before: Zeroizing<Vec<u8>>,
    /// What has come and is not shown yet, since a secret may begin there.
    held: Zeroizing<String>,
}

impl Shown {
    /// Without these.
    pub fn without(redaction: impl Into<Arc<Redaction>>) -> Self {
        Self { redaction: redaction.into(), before: Zeroizing::default(), held: Zeroizing::default() }
    }

    /// Takes the next piece, and answers what can be shown of it.
    pub fn pass(&mut self, piece: &str) -> String {
        if self.redaction.is_idle() {
            return piece.to_owned();
        }
        self.held.push_str(piece);
        let (is_blotted, places) = self.redaction.marks(&self.before, &self.held);
        let last = self.last(&places);
        // What is blotted out anyhow is not held back.
        let free = places.iter().rev().take_while(|&&at| !is_blotted[at]).count();
        let count = self.redaction.suspicion(&last).min(free).min(places.len());
        let from = if count == 0 { self.held.len() } else { places[places.len() - count] };
        let from = self.held.floor_char_boundary(from);
        let from = if self.held.len() - from > MOST_HELD { self.held.len() } else { from };
        self.release(from, &is_blotted, &places)
    }

    /// Whether nothing is held back.
    pub fn is_all_told(&self) -> bool {
        self.held.is_empty()
    }

    /// Nothing more comes for a while: what was held back is shown, which is less than a [`PIECE`] of a secret.
    pub fn pause(&mut self) -> String {
        if self.held.is_empty() {
            return String::new();
        }
        let (is_blotted, places) = self.redaction.marks(&self.before, &self.held);
        self.release(self.held.len(), &is_blotted, &places)
    }

    /// The last significant bytes of all, fewer than a [`PIECE`].
    fn last(&self, places: &[usize]) -> Zeroizing<Vec<u8>> {
        let held = self.held.as_bytes();
        let all = self.before.len() + places.len();
        let from = all.saturating_sub(PIECE - 1);
        let mut last = Zeroizing::new(self.before.get(from..).unwrap_or_default().to_vec());
        last.extend(places[from.saturating_sub(self.before.len())..].iter().map(|&at| held[at]));
        last
    }

    fn release(&mut self, until: usize, is_blotted: &[bool], places: &[usize]) -> String {
        let shown = blotted(&self.held[..until], &is_blotted[..until]);
        let released = places.partition_point(|&at| at < until);
        self.before = self.last(&places[..released]);
        self.held.drain(..until);
        shown
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "sk-ant-api03-Zq8vXw2LkT0pYcRb7NfHd5JmGs3QaUeWiOx9VtBy1KzCl6MnPr4EoFgIhDjSuAvX";

    /// The same by trying each stretch of each secret at each place.
    fn naively(secrets: &[String], text: &str) -> String {
        let places: Vec<usize> = text
            .char_indices()
            .filter(|&(_, character)| is_significant(character))
            .flat_map(|(at, character)| at..at + character.len_utf8())
            .collect();
        let bytes: Vec<u8> = places.iter().map(|&at| text.as_bytes()[at]).collect();
        let mut is_blotted = vec![false; text.len()];
        for secret in secrets {
            let secret = significant(secret);
            if secret.len() < SHORTEST {
                continue;
            }
            for window in secret.windows(secret.len().min(PIECE)) {
                for at in 0..bytes.len() {
                    if bytes[at..].starts_with(window) {
                        places[at..at + window.len()].iter().for_each(|&place| is_blotted[place] = true);
                    }
                }
            }
        }
        blotted(text, &is_blotted)
    }

    #[test]
    fn a_secret_is_blotted_out_however_it_is_laid_out() {
        let redaction = Redaction::new([KEY]);
        let (one, rest) = KEY.split_at(30);
        let (two, three) = rest.split_at(30);
        let laid_out = format!("╭────╮\n│ {one} │\n│ {two} │\n│ {three}  │\n╰────╯\n> {KEY}\n");
        let shown = redaction.of(&laid_out);
        let blots = |text: &str| "*".repeat(text.len());
        let expected = format!(
            "╭────╮\n│ {} │\n│ {} │\n│ {}  │\n╰────╯\n> {}\n",
            blots(one),
            blots(two),
            blots(three),
            blots(KEY)
        );
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_piece_of_sixteen_is_blotted_out_and_one_of_fifteen_is_not() {
        let redaction = Redaction::new([KEY]);
        assert_eq!(redaction.of(&format!("({})", &KEY[20..36])), "(****************)");
        let short = format!("({})", &KEY[20..35]);
        assert_eq!(redaction.of(&short), short);
    }

    #[test]
    fn a_short_secret_is_blotted_out_as_a_whole_only() {
        let redaction = Redaction::new(["hunter22", "abc"]);
        assert_eq!(redaction.of("abc hunter2 hunt\n  er22!"), "abc hunter2 ****\n  ****!");
    }

    #[test]
    fn text_is_shown_at_once_unless_a_secret_may_begin_at_its_end() {
        let mut shown = Shown::without(Redaction::new([KEY]));
        assert_eq!(shown.pass("step one\n"), "step one\n");
        assert_eq!(shown.pass("the key is sk-ant-"), "the key is ");
        assert_eq!(shown.pass("apples\n"), "sk-ant-apples\n");
        assert_eq!(shown.pass("SuAvX"), "SuAvX", "nothing of it follows its end");
        assert_eq!(shown.pass(" sk-ant"), " ");
        assert_eq!(shown.pause(), "sk-ant");
        assert_eq!(shown.pass("-api03-Zq8vX"), "************", "what was shown before counts");
        assert_eq!(shown.pause(), "");
    }

    #[test]
    fn a_secret_in_pieces_shows_only_its_first_suspicious_part() {
        let text = format!("a {KEY} b\n");
        let whole = Redaction::new([KEY]).of(&text);
        for cut in 0..text.len() {
            let mut shown = Shown::without(Redaction::new([KEY]));
            let said = shown.pass(&text[..cut]) + &shown.pass(&text[cut..]) + &shown.pause();
            let differing = said.chars().zip(whole.chars()).filter(|(one, other)| one != other).count();
            assert!(said.len() == whole.len() && differing < SUSPICIOUS, "cut at {cut}: {said}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Of few letters, so that pieces are there, in one another, overlapping and repeated.
        #[test]
        fn any_text_is_redacted_as_by_a_naive_search(
            secrets in prop::collection::vec("[abé |]{0,40}", 0..4),
            text in "([abé]{0,24}[ \n│c]?){0,6}",
        ) {
            prop_assert_eq!(Redaction::new(&secrets).of(&text), naively(&secrets, &text));
        }

        /// Whatever is held back or shown early, fewer than a piece's worth of a secret's characters stand beside each other.
        #[test]
        fn no_piece_of_a_secret_is_shown_however_a_text_is_cut(
            secret in "[a-d]{16,40}",
            noise in "[a-d \n]{0,20}",
            cuts in prop::collection::vec((0..100usize, any::<bool>()), 0..6),
        ) {
            let text = format!("{noise}{secret}{noise}");
            let mut cuts: Vec<(usize, bool)> = cuts.into_iter().map(|(cut, pauses)| (cut.min(text.len()), pauses)).collect();
            cuts.sort_unstable();
            let mut shown = Shown::without(Redaction::new([&secret]));
            let (mut said, mut from) = (String::new(), 0);
            for (cut, pauses) in cuts {
                said += &shown.pass(&text[from..cut]);
                if pauses {
                    said += &shown.pause();
                }
                from = cut;
            }
            said += &shown.pass(&text[from..]);
            said += &shown.pause();
            let said: Vec<u8> = significant(&said).to_vec();
            for window in significant(&secret).windows(PIECE) {
                prop_assert!(!said.windows(PIECE).any(|shown| shown == window), "{}", String::from_utf8_lossy(&said));
            }
        }
    }
}
