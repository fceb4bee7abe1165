//! Redacts the bytes that an agent prints, on their way to its log file.
//!
//! Each stretch of bytes that is part of an occurrence is replaced as a whole, so that neither the order of the secrets nor overlaps
//! matter. The search compares bytes: it does not find what an agent prints of a secret in pieces, or with escape sequences in
//! between. That is redacted when it is [shown](super::TextStream).

use std::ops::Range;

use memchr::{memchr_iter, memmem, memrchr};
use zeroize::Zeroizing;

use super::{MARK, MARKS, Redactor};
use crate::sys::memory;

/// Redacts bytes that come in pieces.
pub struct ByteStream {
    redactor: Redactor,
    /// Where the redactor has each line: which of the values, and where in it.
    lines: Vec<(usize, Range<usize>)>,
    /// What has come and may be the beginning of a secret.
    held: Zeroizing<Vec<u8>>,
    /// How many of its first bytes are part of a secret that began before it.
    covered: usize,
    /// How many characters of a secret stand right before it.
    redacted: usize,
}

impl ByteStream {
    /// Redacts what this redactor finds.
    pub fn new(redactor: Redactor) -> Self {
        let mut lines: Vec<_> = redactor.places().collect();
        lines.sort_by(|one, other| redactor.line(one).cmp(redactor.line(other)));
        lines.dedup_by(|one, other| redactor.line(one) == redactor.line(other));
        Self { redactor, lines, held: Zeroizing::default(), covered: 0, redacted: 0 }
    }

    /// Whether there is nothing to redact.
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
        (self.covered, self.redacted) = (0, 0);
    }

    /// The first byte from which on everything that has come is the beginning of a secret, if it goes on as one.
    fn begun(&self) -> usize {
        // No line has the end of one in it.
        let last_line = memrchr(b'\n', &self.held).map_or(0, |end| end + 1);
        let of = |line: &[u8]| {
            let from = last_line.max(self.held.len().saturating_sub(line.len() - 1));
            memchr_iter(line[0], &self.held[from..]).map(|at| from + at).find(|&at| line.starts_with(&self.held[at..]))
        };
        self.lines.iter().filter_map(|place| of(self.redactor.line(place))).min().unwrap_or(self.held.len())
    }

    /// Adds what comes before that to `certain`, redacted, and forgets it. No secret that is not here as a whole begins there.
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
                self.redacted = 0;
            }
            self.redact(at.max(start)..end.min(until), certain);
            at = at.max(end);
        }
        if at < until {
            certain.extend_from_slice(&self.held[at..until]);
            (self.redacted, at) = (0, until);
        }
        self.covered = at - until;
        self.held.drain(..until);
    }

    /// Adds marks for the first characters of what is held there, and blanks for the others, so that the terminal that the log is of
    /// breaks its rows where it did. Whatever bytes a stretch begins with are a character.
    fn redact(&mut self, stretch: Range<usize>, certain: &mut Vec<u8>) {
        const MARK_BYTE: u8 = MARK as u8;
        for &byte in self.held.get(stretch).unwrap_or_default() {
            let goes_on = self.redacted > 0 && matches!(byte, 0x80..=0xbf);
            if !goes_on {
                certain.push(if self.redacted < MARKS { MARK_BYTE } else { b' ' });
                self.redacted += 1;
            }
        }
    }

    /// Where secrets are in what is held, by their beginning.
    fn occurrences(&self) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if self.covered > 0 {
            found.push(0..self.covered);
        }
        for line in self.lines.iter().map(|place| self.redactor.line(place)) {
            let finder = memmem::Finder::new(line);
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

/// For tests: what a text becomes, by marking each byte of each occurrence of these lines.
///
/// The first eight characters of each stretch are stars, and the others are blanks.
#[cfg(any(test, fuzzing))]
pub fn naively(lines: &[&[u8]], text: &[u8]) -> Vec<u8> {
    let mut is_covered = vec![false; text.len()];
    for line in lines {
        for at in 0..text.len() {
            if text[at..].starts_with(line) {
                is_covered[at..at + line.len()].fill(true);
            }
        }
    }
    let (mut redacted, mut before) = (Vec::new(), 0);
    for (&byte, covered) in text.iter().zip(is_covered) {
        match (covered, byte) {
            (false, _) => {
                redacted.push(byte);
                before = 0;
            }
            (true, 0x80..=0xbf) if before > 0 => {}
            (true, _) => {
                redacted.push(if before < 8 { b'*' } else { b' ' });
                before += 1;
            }
        }
    }
    redacted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::secret_bytes::SecretBytes;

    fn stream(secrets: &[&[u8]]) -> ByteStream {
        ByteStream::new(Redactor::new(secrets.iter().map(|secret| SecretBytes::from(secret.to_vec()))))
    }

    fn redacted(secrets: &[&[u8]], pieces: &[&[u8]]) -> Vec<u8> {
        let (mut stream, mut text) = (stream(secrets), Vec::new());
        for piece in pieces {
            stream.pass(piece, &mut text);
        }
        stream.finish(&mut text);
        text
    }

    #[test]
    fn a_secret_is_redacted_however_it_is_cut() {
        let text = b"key=hunter2hunter2;";
        for cut in 0..text.len() {
            let (one, other) = text.split_at(cut);
            assert_eq!(redacted(&[b"hunter2hunter2"], &[one, other]), b"key=********      ;", "{cut}");
        }
    }

    #[test]
    fn lines_are_redacted_each_by_itself_and_short_ones_not() {
        let secret: &[u8] = b"-----BEGIN\r\nshort\nfirst-line\nsecond-line\n";
        let text: &[u8] = b"-----BEGIN\r\nshort\r\nsecond-line first-line.";
        assert_eq!(redacted(&[secret], &[text]), b"********  \r\nshort\r\n********    ********  .");
        assert!(stream(&[b"short", b"also\nshort"]).is_idle());
    }

    #[test]
    fn what_may_become_a_secret_is_held_back_and_nothing_else() {
        let (mut stream, mut text) = (stream(&[b"hunter2hunter2"]), Vec::new());
        stream.pass(b"the hunter2hun", &mut text);
        assert_eq!(text, b"the ");
        stream.pass(b"ters and h", &mut text);
        assert_eq!(text, b"the hunter2hunters and ");
        stream.pass(b"\n", &mut text);
        assert_eq!(text, b"the hunter2hunters and h\n");
        stream.pass(b"hunter", &mut text);
        stream.finish(&mut text);
        assert_eq!(text, b"the hunter2hunters and h\nhunter");
    }

    #[test]
    fn the_rest_of_a_secret_stays_redacted_if_another_may_begin() {
        let secrets: [&[u8]; 2] = [b"xxabcdabcd", b"abcdabcdzz"];
        assert_eq!(redacted(&secrets, &[b"xxabcdabcd", b"z", b"q"]), b"********  zq");
        assert_eq!(redacted(&secrets, &[b"xxabcdabcd", b"z", b"z"]), b"********    ");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Of few letters, so that secrets are there, in one another, overlapping and repeated.
        #[test]
        fn any_text_in_any_pieces_is_redacted_as_one(
            lines in prop::collection::vec("[abé]{8,11}", 0..4),
            text in "([abé]{0,30}[\nc]?){0,4}",
            cuts in prop::collection::vec(0..120usize, 0..6),
        ) {
            let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(redacted(&lines, &pieces), naively(&lines, text.as_bytes()));
        }
    }
}
