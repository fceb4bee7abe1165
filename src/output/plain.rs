//! Plain text of what was printed on a terminal: without the sequences that move the cursor, colour, set titles and so on.
//!
//! | printed | becomes |
//! |---|---|
//! | `ESC [ … final` (CSI), `ESC intermediates final` | nothing |
//! | `ESC ]`, `ESC P`, `ESC X`, `ESC ^`, `ESC _` … `ESC \` or BEL (strings: titles, links, images) | nothing |
//! | CR LF, CR CR LF, LF | LF |
//! | CR alone, after something on its line | LF: what was to be overwritten stays |
//! | any other control byte but TAB | nothing |
//! | everything else, also what is not UTF-8 | itself |
//!
//! What a sequence is, [`escape`](crate::escape) knows.

use crate::escape::Place;

/// Makes plain text of what comes in pieces.
#[derive(Clone, Debug, Default)]
pub struct Plain {
    place: Place,
    /// A CR has come, and it is not known yet what follows.
    has_returned: bool,
    /// Whether there is something on this line.
    is_begun: bool,
}

impl Plain {
    /// Adds the plain text of the next piece to `text`.
    pub fn pass(&mut self, piece: &[u8], text: &mut Vec<u8>) {
        for &byte in piece {
            if self.place.pass(byte) {
                self.show(byte, text);
            }
        }
    }

    /// A byte that is in no sequence.
    fn show(&mut self, byte: u8, text: &mut Vec<u8>) {
        match byte {
            b'\r' => self.has_returned = true,
            b'\n' => {
                text.push(b'\n');
                (self.has_returned, self.is_begun) = (false, false);
            }
            b'\t' | 0x20..=0x7e | 0x80.. => {
                if std::mem::take(&mut self.has_returned) && self.is_begun {
                    text.push(b'\n');
                }
                text.push(byte);
                self.is_begun = true;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn plain(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut plain, mut text) = (Plain::default(), Vec::new());
        for piece in pieces {
            plain.pass(piece, &mut text);
        }
        text
    }

    #[rstest]
    #[case(b"plain\r\ntext\n", b"plain\ntext\n")]
    #[case(b"\x1b[1;31mred\x1b[0m \x1b[?25l\x1b[2J\x1b[10;20Hthere", b"red there")]
    #[case(b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", b"alink")]
    #[case(b"\x1bPq#0;2;0\x1b\\b\x1b_app\x1b\\c", b"bc")]
    #[case(b"\x1b(B\x1b)0\x1b#8\x1b7\x1b=x\x1bc", b"x")]
    #[case(b"10%\r50%\r100%\r\ndone", b"10%\n50%\n100%\ndone")]
    #[case(b"a\r\r\nb\n\rc\r", b"a\nb\nc")]
    #[case(b"10%\r\x1b[2K20%", b"10%\n20%")]
    #[case(b"a\tb\x00\x07\x08\x0bc\x7f", b"a\tbc")]
    #[case(b"gr\xc3\xbc\xc3\x9b \xff\xfe\x9b1m", b"gr\xc3\xbc\xc3\x9b \xff\xfe\x9b1m")]
    #[case(b"\x1b[31\nm\x1b[3\x18m", b"\nm")]
    #[case(b"\x1b]never ends\x1b[1mbut here", b"but here")]
    #[case(b"\x1b\x1b[1mx\x1b\xc3\xbc", b"x\xc3\xbc")]
    fn sequences_go_and_text_stays(#[case] printed: &[u8], #[case] expected: &[u8]) {
        assert_eq!(plain(&[printed]), expected, "{}", String::from_utf8_lossy(printed));
        for cut in 0..printed.len() {
            assert_eq!(plain(&[&printed[..cut], &printed[cut..]]), expected, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn no_control_byte_is_left_but_tab_and_newline(bytes in prop::collection::vec(prop_oneof![Just(0x1b), Just(b'['), Just(b']'), any::<u8>()], 0..200)) {
            let text = plain(&[&bytes]);
            prop_assert!(text.iter().all(|&byte| matches!(byte, b'\t' | b'\n' | 0x20..=0x7e | 0x80..)));
        }

        #[test]
        fn text_without_sequences_is_unchanged(text in "[a-zA-Z0-9 \t\né€]{0,100}") {
            prop_assert_eq!(plain(&[text.as_bytes()]), text.as_bytes());
        }
    }
}
