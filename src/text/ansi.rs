//! Escape sequences in what is printed on a terminal: where they begin and end (ECMA-48, 5.4 to 5.6; ISO/IEC 2022 for `ESC ( B`).
//!
//! Of the 8-bit forms of the sequences (C1) none is known: in UTF-8 those bytes are parts of letters.

const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
/// What each of them begins with.
pub const ESC: u8 = 0x1b;

/// Follows a text byte by byte, in whatever pieces it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// In no sequence.
    #[default]
    Text,
    /// Behind an ESC.
    Escape,
    /// Behind an ESC and intermediate bytes: one more ends it.
    Intermediate,
    /// Behind `ESC [`.
    Csi,
    /// In a string that only `ESC \` and BEL end.
    String,
    /// Behind an ESC in a string.
    StringEscape,
}

impl State {
    /// Goes on behind this byte. Answers whether it is text, and no part of a sequence.
    pub fn pass(&mut self, byte: u8) -> bool {
        let (state, is_text) = match (*self, byte) {
            (Self::String, ESC) => (Self::StringEscape, false),
            (Self::String, BEL) | (Self::StringEscape, b'\\') | (_, CAN | SUB) => (Self::Text, false),
            (Self::String, _) => (Self::String, false),
            // Anything else behind an ESC in a string ends it, too, and begins what it would begin elsewhere.
            (_, ESC) => (Self::Escape, false),
            (Self::Escape | Self::StringEscape, b'[') | (Self::Csi, 0x20..=0x3f) => (Self::Csi, false),
            (Self::Escape | Self::StringEscape, b']' | b'P' | b'X' | b'^' | b'_') => (Self::String, false),
            (Self::Escape | Self::StringEscape | Self::Intermediate, 0x20..=0x2f) => (Self::Intermediate, false),
            (Self::Escape | Self::StringEscape | Self::Intermediate, 0x30..=0x7e) | (Self::Csi, 0x40..=0x7e) => {
                (Self::Text, false)
            }
            // A control byte in a sequence counts as if it stood before it.
            (Self::Escape | Self::StringEscape | Self::Intermediate | Self::Csi, 0..=0x1f | 0x7f) => (*self, true),
            // No sequence has such a byte in it.
            (_, _) => (Self::Text, true),
        };
        *self = state;
        is_text
    }
}
