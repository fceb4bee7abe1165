//! Lines of a stream: a line ends with LF alone, and a long one is skipped.

/// The longest line that is read, in bytes.
pub const LONGEST: usize = 1 << 20;

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Its bytes, without the LF and a CR before it.
    Whole(&'a [u8]),
    /// It has this many bytes, which are too many.
    Skipped(u64),
}

/// Puts lines together, from pieces of any size. Holds one unfinished line at most.
#[derive(Debug, Default)]
pub(super) struct Lines {
    unfinished: Vec<u8>,
    /// How long the line is whose bytes are being skipped; 0 if none is.
    skipping: u64,
}

impl Lines {
    /// Takes in the next bytes, and hands out the lines that they finish.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(at) = memchr::memchr(b'\n', bytes) {
            let (end, rest) = (&bytes[..at], &bytes[at + 1..]);
            bytes = rest;
            if self.unfinished.is_empty() && self.skipping == 0 && end.len() <= LONGEST {
                each(Line::Whole(without_return(end)));
                continue;
            }
            self.keep(end);
            self.finish(&mut each);
        }
        self.keep(bytes);
    }

    /// Hands out a last line that has no end.
    pub(super) fn end(&mut self, mut each: impl FnMut(Line<'_>)) {
        if self.skipping > 0 || !self.unfinished.is_empty() {
            self.finish(&mut each);
        }
    }

    /// How much memory it holds, in bytes.
    #[cfg(any(test, fuzzing))]
    pub(super) fn capacity(&self) -> usize {
        self.unfinished.capacity()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.skipping > 0 {
            self.skipping = self.skipping.saturating_add(length);
        } else if self.unfinished.len() + bytes.len() > LONGEST {
            self.skipping = u64::try_from(self.unfinished.len()).unwrap_or(u64::MAX).saturating_add(length);
            self.unfinished = Vec::new();
        } else {
            self.unfinished.extend_from_slice(bytes);
        }
    }

    fn finish(&mut self, each: &mut impl FnMut(Line<'_>)) {
        if self.skipping > 0 {
            each(Line::Skipped(std::mem::take(&mut self.skipping)));
        } else {
            // Its memory is freed as well: usually no line is unfinished.
            each(Line::Whole(without_return(&std::mem::take(&mut self.unfinished))));
        }
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        let mut each = |line: Line<'_>| {
            found.push(match line {
                Line::Whole(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Line::Skipped(count) => format!("<{count}>"),
            });
        };
        for piece in pieces {
            lines.feed(piece, &mut each);
        }
        lines.end(&mut each);
        found
    }

    #[test]
    fn only_a_line_feed_ends_a_line() {
        assert_eq!(
            lines(&[b"a\r\nb", "\u{2028}c\u{85}d\re\n".as_bytes(), b"\nhalf"]),
            ["a", "b\u{2028}c\u{85}d\re", "", "half"]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_counted_and_the_next_one_is_read() {
        let long = vec![b'x'; 5 << 20];
        assert_eq!(lines(&[b"a\n", &long, b"\nb\n"]), ["a", "<5242880>", "b"]);
        assert_eq!(lines(&[&[&long[..], b"\nb"].concat()]), ["<5242880>", "b"]);
        let longest = vec![b'x'; LONGEST];
        assert_eq!(lines(&[&longest, b"\n"])[0].len(), LONGEST);
        assert_eq!(lines(&[&longest, b"x"]), ["<1048577>"]);
        assert_eq!(lines(&[&[&longest[..], b"\n"].concat()])[0].len(), LONGEST);
    }

    #[test]
    fn memory_stays_bounded_while_a_line_is_skipped() {
        let mut lines = Lines::default();
        for _ in 0..100 {
            lines.feed(&vec![b'x'; 1 << 18], |_| panic!("the line has no end"));
            assert!(lines.capacity() <= 2 * LONGEST);
        }
    }
}
