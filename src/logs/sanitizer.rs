//! Sanitizes output for the terminal emulator: turns the bytes that an agent printed into characters that cannot mislead the
//! emulator.
//!
//! | printed | becomes |
//! |---|---|
//! | `ESC ]`, `ESC P`, `ESC X`, `ESC ^`, `ESC _`, `ESC k` and their 8-bit forms … (strings: titles, links, images) | nothing |
//! | U+009B, the byte 9B | `ESC [` |
//! | other 8-bit controls, DEL, format characters | nothing |
//! | bytes that are not UTF-8 | U+FFFD |
//! | everything else, including `ESC [ …` and other sequences | itself |
//!
//! A string ends where a terminal ends it (`ESC \`, BEL, CAN, SUB, any other ESC), but at the latest at the end of the line or
//! after [`LONGEST_STRING`] bytes: a program that is killed in the middle of a title must not hide everything that follows.

use crate::text::printable;

/// How many bytes a string may have.
pub const LONGEST_STRING: usize = 1 << 20;

const BEL: char = '\u{7}';
const CAN: char = '\u{18}';
const SUB: char = '\u{1a}';
const ESC: char = '\u{1b}';

/// The state of the parser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After an ESC that has not been passed on yet.
    Escape,
    /// In a string that may have `room` more bytes.
    String { room: usize },
}

/// Sanitizes a stream of bytes, whatever pieces it comes in.
#[derive(Clone, Debug, Default)]
pub struct Sanitizer {
    state: State,
    /// The first bytes of a character that is not complete yet.
    cut: Vec<u8>,
}

impl Sanitizer {
    /// Appends the sanitized form of the next bytes to `text`.
    pub fn pass(&mut self, bytes: &[u8], text: &mut String) {
        let joined;
        let bytes = if self.cut.is_empty() {
            bytes
        } else {
            self.cut.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.cut);
            &joined
        };
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            chunk.valid().chars().for_each(|character| self.character(character, text));
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && is_cut(invalid) {
                self.cut = invalid.to_vec();
            } else if !invalid.is_empty() {
                self.stray(invalid, text);
            }
        }
    }

    /// Whether no sequence, string, or character is incomplete.
    pub fn is_between(&self) -> bool {
        self.state == State::Text && self.cut.is_empty()
    }

    /// Handles bytes that are not UTF-8. A terminal that does not expect UTF-8 takes some of them for controls.
    fn stray(&mut self, bytes: &[u8], text: &mut String) {
        match bytes {
            &[byte @ 0x80..=0x9f] => self.character(char::from(byte), text),
            _ => self.character(char::REPLACEMENT_CHARACTER, text),
        }
    }

    fn character(&mut self, character: char, text: &mut String) {
        match self.state {
            State::Text => self.text(character, text),
            State::Escape => {
                self.state = State::Text;
                match character {
                    ']' | 'P' | 'X' | '^' | '_' | 'k' => self.begin_string(text),
                    ESC => self.state = State::Escape,
                    // A control in the middle of a sequence counts as if it came before the sequence.
                    '\n' | '\r' | '\t' | '\u{8}' => {
                        text.push(character);
                        self.state = State::Escape;
                    }
                    ' '..='~' => {
                        text.push(ESC);
                        text.push(character);
                    }
                    _ => self.text(character, text),
                }
            }
            State::String { room } => match (character, room.checked_sub(character.len_utf8())) {
                (ESC, _) => self.state = State::Escape,
                ('\n', _) => {
                    self.state = State::Text;
                    text.push_str("\r\n");
                }
                (BEL | CAN | SUB | '\u{9c}', _) | (_, None) => self.state = State::Text,
                (_, Some(room)) => self.state = State::String { room },
            },
        }
    }

    fn text(&mut self, character: char, text: &mut String) {
        match character {
            ESC => self.state = State::Escape,
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => self.begin_string(text),
            '\u{9b}' => text.push_str("\u{1b}["),
            '\0'..='\u{1f}' => text.push(character),
            _ if printable::acts(character) => {}
            _ => text.push(character),
        }
    }

    fn begin_string(&mut self, text: &mut String) {
        self.state = State::String { room: LONGEST_STRING };
        // Cancels any sequence that the string interrupts.
        text.push(CAN);
    }
}

/// Whether these bytes are the incomplete beginning of a character.
fn is_cut(bytes: &[u8]) -> bool {
    let error = std::str::from_utf8(bytes).err();
    error.is_some_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn guarded(pieces: &[&[u8]]) -> String {
        let (mut sanitizer, mut text) = (Sanitizer::default(), String::new());
        for piece in pieces {
            sanitizer.pass(piece, &mut text);
        }
        text.replace(CAN, "")
    }

    #[rstest]
    #[case(b"plain\r\ntext\x1b[1;31mred\x1b[0m\x1b(B\x1b7", "plain\r\ntext\x1b[1;31mred\x1b[0m\x1b(B\x1b7")]
    #[case(b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "a\x1b\\link\x1b\\")]
    #[case(b"\x1bPq#0\x1b\\a\x1b_app\x1b\\b\x1bktitle\x1b\\c", "\x1b\\a\x1b\\b\x1b\\c")]
    #[case(b"\x1b]0;half a title\r\nnext", "\r\nnext")]
    #[case(b"\x1b]0;half\x1b[1mrest\x18", "\x1b[1mrest")]
    #[case("a\u{9b}31mb\u{9d}0;title\u{9c}c\u{85}\u{8d}d".as_bytes(), "a\x1b[31mbcd")]
    #[case(b"a\x9b31mb\x9d0;title\x9cc\x85\x8dd", "a\x1b[31mbcd")]
    #[case(b"gr\xc3\xbc\xff\xc3(\xe2\x82", "grü\u{fffd}\u{fffd}(")]
    #[case("a\u{202e}b\u{200b}c\u{2066}\u{fe0f}\x7fd".as_bytes(), "abcd")]
    #[case(b"\x1b\x1b[1mx\x1b\xc3\xbc", "\x1b[1mxü")]
    #[case(b"\x1b\r\n[1mx", "\r\n\x1b[1mx")]
    fn strings_are_removed_and_text_stays(#[case] printed: &[u8], #[case] expected: &str) {
        assert_eq!(guarded(&[printed]), expected, "{}", String::from_utf8_lossy(printed));
        for cut in 0..printed.len() {
            assert_eq!(guarded(&[&printed[..cut], &printed[cut..]]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_unterminated_string_ends_at_the_limit() {
        let printed = [b"\x1b]52;c;".as_slice(), &vec![b'A'; LONGEST_STRING + 10]].concat();
        assert_eq!(guarded(&[&printed]).len(), printed.len() - LONGEST_STRING - 3);
    }

    proptest! {
        #[test]
        fn sanitized_text_has_no_strings_and_no_8_bit_controls(
            bytes in prop::collection::vec(prop_oneof![Just(0x1b), Just(b'['), Just(b']'), Just(0x9d), any::<u8>()], 0..200),
            cut in 0..200usize,
        ) {
            let cut = cut.min(bytes.len());
            let text = guarded(&[&bytes[..cut], &bytes[cut..]]);
            prop_assert_eq!(&text, &guarded(&[&bytes]));
            let acts = |character: char| !character.is_ascii() && printable::acts(character);
            prop_assert!(!text.contains(acts) && !text.contains('\x7f'), "{:?}", text);
            for beginning in ["\x1b]", "\x1bP", "\x1bX", "\x1b^", "\x1b_", "\x1bk"] {
                prop_assert!(!text.contains(beginning), "{:?}", text);
            }
        }
    }
}
