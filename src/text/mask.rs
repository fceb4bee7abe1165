//! Secrets in what is printed: blotted out before it is written down.
//!
//! What counts as one is every line of a secret's value that is long enough not to be in every text, each by itself: a terminal
//! ends lines otherwise than a value does. Each stretch of bytes that is part of an occurrence is replaced as a whole, so that
//! neither the order of the secrets nor their overlapping matters. It is the bytes that are looked for: what an agent prints of a
//! secret in pieces, with escapes between or in another encoding, is not found. What is shown of it is [redacted](crate::text::redact)
//! once more, for that reason.

use std::collections::BTreeSet;
use std::ops::Range;

use memchr::{memchr_iter, memmem, memrchr};
use zeroize::Zeroizing;

use crate::sys::memory;

/// What stands in place of a secret.
pub const MASK: &str = "[masked]";

/// The fewest bytes that a line of a secret has to be looked for.
pub const SHORTEST: usize = 8;

/// Masks a text that comes in pieces.
pub struct Mask {
    lines: Vec<Zeroizing<Vec<u8>>>,
    /// What has come and may be the beginning of a secret.
    held: Zeroizing<Vec<u8>>,
    /// How many of its first bytes are part of a secret that began before it.
    covered: usize,
    /// Whether the byte before it was part of one.
    is_masking: bool,
}

impl Mask {
    /// Masks these secrets.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let lines = secrets.into_iter().flat_map(|secret| secret.split(|&byte| byte == b'\n'));
        let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).filter(|line| line.len() >= SHORTEST);
        let lines: BTreeSet<&[u8]> = lines.collect();
        let lines = lines.into_iter().map(|line| Zeroizing::new(line.to_vec())).collect();
        Self { lines, held: Zeroizing::default(), covered: 0, is_masking: false }
    }

    /// Whether there is nothing to mask.
    pub fn is_idle(&self) -> bool {
        self.lines.is_empty()
    }

    /// Takes the next piece. What of the text is certain by now is added to `certain`; what may be the beginning of a secret is held
    /// back, until it is known or the text has ended.
    pub fn pass(&mut self, piece: &[u8], certain: &mut Vec<u8>) {
        memory::append(&mut self.held, piece);
        self.release(self.begun(), certain);
    }

    /// The text has ended.
    pub fn finish(&mut self, certain: &mut Vec<u8>) {
        self.release(self.held.len(), certain);
        (self.covered, self.is_masking) = (0, false);
    }

    /// The first byte from which on everything that has come is the beginning of a secret, if it goes on as one.
    fn begun(&self) -> usize {
        // No line has the end of one in it.
        let last_line = memrchr(b'\n', &self.held).map_or(0, |end| end + 1);
        let of = |line: &[u8]| {
            let from = last_line.max(self.held.len().saturating_sub(line.len() - 1));
            memchr_iter(line[0], &self.held[from..]).map(|at| from + at).find(|&at| line.starts_with(&self.held[at..]))
        };
        self.lines.iter().filter_map(|line| of(line)).min().unwrap_or(self.held.len())
    }

    /// Adds what comes before that to `certain`, masked, and forgets it. No secret that is not here as a whole begins there.
    fn release(&mut self, until: usize, certain: &mut Vec<u8>) {
        if until == 0 {
            return;
        }
        let mut at = 0;
        for Range { start, end } in self.occurrences() {
            if start >= until {
                break;
            }
            if start > at {
                certain.extend_from_slice(&self.held[at..start]);
                self.is_masking = false;
            }
            if !self.is_masking {
                certain.extend_from_slice(MASK.as_bytes());
                self.is_masking = true;
            }
            at = at.max(end);
        }
        if at < until {
            certain.extend_from_slice(&self.held[at..until]);
            (self.is_masking, at) = (false, until);
        }
        self.covered = at - until;
        self.held.drain(..until);
    }

    /// Where secrets are in what is held, by their beginning.
    fn occurrences(&self) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if self.covered > 0 {
            found.push(0..self.covered);
        }
        for line in &self.lines {
            let finder = memmem::Finder::new(line.as_slice());
            let mut from = 0;
            while let Some(at) = finder.find(&self.held[from..]) {
                found.push(from + at..from + at + line.len());
                from += at + 1;
            }
        }
        found.sort_unstable_by_key(|range| range.start);
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(secrets: &[&[u8]], pieces: &[&[u8]]) -> Vec<u8> {
        let (mut mask, mut text) = (Mask::new(secrets.iter().copied()), Vec::new());
        for piece in pieces {
            mask.pass(piece, &mut text);
        }
        mask.finish(&mut text);
        text
    }

    /// The same by marking each byte of each occurrence.
    fn naively(lines: &[&[u8]], text: &[u8]) -> Vec<u8> {
        let mut is_covered = vec![false; text.len()];
        for line in lines {
            for at in 0..text.len() {
                if text[at..].starts_with(line) {
                    is_covered[at..at + line.len()].fill(true);
                }
            }
        }
        let (mut masked, mut before) = (Vec::new(), false);
        for (&byte, covered) in text.iter().zip(is_covered) {
            match (covered, before) {
                (false, _) => masked.push(byte),
                (true, false) => masked.extend(MASK.as_bytes()),
                (true, true) => {}
            }
            before = covered;
        }
        masked
    }

    #[test]
    fn a_secret_is_masked_however_it_is_cut() {
        let text = b"key=hunter2hunter2;";
        for cut in 0..text.len() {
            let (one, other) = text.split_at(cut);
            assert_eq!(masked(&[b"hunter2hunter2"], &[one, other]), b"key=[masked];", "{cut}");
        }
    }

    #[test]
    fn each_line_of_a_secret_is_masked_unless_it_is_short() {
        let secret: &[u8] = b"-----BEGIN\r\nshort\nfirst-line\nsecond-line\n";
        let text: &[u8] = b"-----BEGIN\r\nshort\r\nsecond-line first-line.";
        assert_eq!(masked(&[secret], &[text]), b"[masked]\r\nshort\r\n[masked] [masked].");
        assert!(Mask::new([&b"short"[..], b"also\nshort"]).is_idle());
    }

    #[test]
    fn what_may_become_a_secret_is_held_back_and_nothing_else() {
        let (mut mask, mut text) = (Mask::new([&b"hunter2hunter2"[..]]), Vec::new());
        mask.pass(b"the hunter2hun", &mut text);
        assert_eq!(text, b"the ");
        mask.pass(b"ters and h", &mut text);
        assert_eq!(text, b"the hunter2hunters and ");
        mask.pass(b"\n", &mut text);
        assert_eq!(text, b"the hunter2hunters and h\n");
        mask.pass(b"hunter", &mut text);
        mask.finish(&mut text);
        assert_eq!(text, b"the hunter2hunters and h\nhunter");
    }

    #[test]
    fn a_secrets_rest_stays_masked_if_it_may_begin_another() {
        let secrets: [&[u8]; 2] = [b"xxabcdabcd", b"abcdabcdzz"];
        assert_eq!(masked(&secrets, &[b"xxabcdabcd", b"z", b"q"]), b"[masked]zq");
        assert_eq!(masked(&secrets, &[b"xxabcdabcd", b"z", b"z"]), b"[masked]");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Of few letters, so that secrets are there, in one another, overlapping and repeated.
        #[test]
        fn any_text_in_any_pieces_is_masked_as_if_it_were_one(
            lines in prop::collection::vec("[ab]{8,11}", 0..4),
            text in "([ab]{0,30}[\nc]?){0,4}",
            cuts in prop::collection::vec(0..120usize, 0..6),
        ) {
            let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(masked(&lines, &pieces), naively(&lines, text.as_bytes()));
        }
    }
}
