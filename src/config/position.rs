//! Line and column of a byte offset.

use super::{Finding, Severity};

/// The characters before each block of this many bytes are counted in advance, so that a position on a line of megabytes costs no
/// more than others.
const BLOCK: usize = 1024;

/// Finds lines and columns in a text.
pub(super) struct Places<'a> {
    text: &'a [u8],
    /// The offset of each line's first byte.
    lines: Vec<usize>,
    /// The number of characters before each block.
    characters: Vec<usize>,
}

impl<'a> Places<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let text = text.as_bytes();
        let after_newlines = text.iter().enumerate().filter(|&(_, &byte)| byte == b'\n').map(|(at, _)| at + 1);
        let mut characters = vec![0];
        let mut count = 0;
        for block in text.chunks(BLOCK) {
            count += count_characters(block);
            characters.push(count);
        }
        Self { text, lines: std::iter::once(0).chain(after_newlines).collect(), characters }
    }

    /// Line and column of a byte, both counted from 1, the column in characters.
    pub(super) fn locate(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|&start| start <= offset);
        let start = self.lines[line - 1];
        (line, self.characters_before(offset) - self.characters_before(start) + 1)
    }

    /// A finding about the text at a byte.
    pub(super) fn finding(&self, offset: usize, severity: Severity, message: impl Into<String>) -> Finding {
        let (line, column) = self.locate(offset);
        Finding { line, column, severity, message: message.into(), exact: None }
    }

    fn characters_before(&self, offset: usize) -> usize {
        let block = offset / BLOCK;
        self.characters[block] + count_characters(&self.text[block * BLOCK..offset])
    }
}

/// How many characters begin in these bytes of UTF-8.
fn count_characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0b1100_0000 != 0b1000_0000).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", 0, (1, 1))]
    #[case("", 7, (1, 1))]
    #[case("ab", 1, (1, 2))]
    #[case("ab", 2, (1, 3))]
    #[case("a\nb", 1, (1, 2))]
    #[case("a\nb", 2, (2, 1))]
    #[case("a\r\nb", 3, (2, 1))]
    #[case("\n\n", 2, (3, 1))]
    #[case("é = x", 5, (1, 5))]
    fn columns_count_characters_from_one(#[case] text: &str, #[case] offset: usize, #[case] place: (usize, usize)) {
        assert_eq!(Places::new(text).locate(offset), place);
    }

    proptest! {
        #[test]
        fn positions_equal_those_counted_by_hand(text in "[aé\n]{0,3000}", share in 0.0..1.0_f64) {
            let places = Places::new(&text);
            let offsets: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let offset = offsets[(offsets.len() as f64 * share) as usize];
            let before = &text[..offset];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
            prop_assert_eq!(places.locate(offset), (line, column));
        }
    }
}
