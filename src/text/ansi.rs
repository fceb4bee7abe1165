//! Where escape sequences begin and end (ECMA-48, 5.4 to 5.6; ISO/IEC 2022 for `ESC ( B`).
//!
//! The 8-bit forms (C1) are not recognized: in UTF-8 those bytes are parts of letters.

const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
/// The first byte of every sequence.
pub const ESC: u8 = 0x1b;

/// The state of a parser that follows a text byte by byte, in any pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Outside of sequences.
    #[default]
    Text,
    /// After an ESC.
    Escape,
    /// After an ESC and intermediate bytes: one more byte ends the sequence.
    Intermediate,
    /// After `ESC [`.
    Csi,
    /// In a string that only `ESC \` and BEL end.
    String,
    /// After an ESC in a string.
    StringEscape,
}

impl State {
    /// Advances by this byte. Returns whether it is text, not part of a sequence.
    pub fn pass(&mut self, byte: u8) -> bool {
        let (state, is_text) = match (*self, byte) {
            (Self::String, ESC) => (Self::StringEscape, false),
            (Self::String, BEL) | (Self::StringEscape, b'\\') | (_, CAN | SUB) => (Self::Text, false),
            (Self::String, _) => (Self::String, false),
            // Any other byte after an ESC in a string also ends the string, and begins what it would begin elsewhere.
            (_, ESC) => (Self::Escape, false),
            (Self::Escape | Self::StringEscape, b'[') | (Self::Csi, 0x20..=0x3f) => (Self::Csi, false),
            (Self::Escape | Self::StringEscape, b']' | b'P' | b'X' | b'^' | b'_') => (Self::String, false),
            (Self::Escape | Self::StringEscape | Self::Intermediate, 0x20..=0x2f) => (Self::Intermediate, false),
            (Self::Escape | Self::StringEscape | Self::Intermediate, 0x30..=0x7e) | (Self::Csi, 0x40..=0x7e) => {
                (Self::Text, false)
            }
            // A control byte in a sequence counts as if it came before the sequence.
            (Self::Escape | Self::StringEscape | Self::Intermediate | Self::Csi, 0..=0x1f | 0x7f) => (*self, true),
            // No sequence contains such a byte.
            (_, _) => (Self::Text, true),
        };
        *self = state;
        is_text
    }

    /// Advances by these bytes. Returns whether they show any character: titles of windows, colors and modes are none.
    pub fn shows(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().fold(false, |shows, &byte| (self.pass(byte) && !byte.is_ascii_control()) | shows)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::title(b"\x1b]0;[ ! ] Action Required | w\x07", false)]
    #[case::colors_and_modes(b"\x1b[?2026h\x1b[39m\x1b[49m\x1b[0m\x1b[?2026l\r\n", false)]
    #[case::text(b"\x1b[39mDo it? (y)", true)]
    #[case::spinner("\u{1b}[3;1H⠋".as_bytes(), true)]
    fn only_characters_are_shown(#[case] bytes: &[u8], #[case] expected: bool) {
        assert_eq!(State::default().shows(bytes), expected);
        let mut state = State::default();
        let shows = bytes.iter().map(|&byte| state.shows(&[byte])).collect::<Vec<_>>();
        assert_eq!(shows.contains(&true), expected, "in any pieces");
    }
}
