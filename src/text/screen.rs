//! Turns a captured screen into text for another terminal: only colors stay, and secrets are redacted however they are laid out.

use crate::text::ansi::{ESC, State};
use crate::text::printable;
use crate::text::redact::{Masking, Redactor};

/// A piece of what `capture-pane -e` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece<'a> {
    Character(char),
    /// The end of a row.
    Break,
    /// A sequence that sets colors and the like (SGR in ECMA-48).
    Color(&'a str),
}

/// The rows of a screen, each with its end of line, without empty rows at the end; with colors if `colors` is set.
pub fn shown(captured: &str, redactor: &Redactor, colors: bool) -> String {
    shown_without(captured, &[redactor], colors)
}

/// The same without the secrets of any of these redactors.
pub fn shown_without(captured: &str, redactors: &[&Redactor], colors: bool) -> String {
    let pieces = pieces(captured);
    let is_secret = redacted(&pieces, redactors);
    let mut shown = String::with_capacity(captured.len());
    let (mut at, mut end, mut is_colored) = (0, 0, false);
    let mut masking = Masking::default();
    for piece in pieces {
        match piece {
            Piece::Character(character) => {
                masking.push(&mut shown, character, is_secret[at]);
                at += character.len_utf8();
                if !shown.ends_with(' ') {
                    end = shown.len();
                }
            }
            Piece::Break => {
                masking.push(&mut shown, '\n', false);
                at += 1;
            }
            Piece::Color(sequence) if colors => {
                is_colored = true;
                shown.push_str(sequence);
                end = shown.len();
            }
            Piece::Color(_) => {}
        }
    }
    shown.truncate(end);
    if is_colored {
        shown.push_str("\x1b[0m");
    }
    if !shown.is_empty() {
        shown.push('\n');
    }
    shown
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::with_capacity(text.len());
    let (mut state, mut begin) = (State::Text, 0);
    for (at, character) in text.char_indices() {
        if character == char::from(ESC) {
            begin = at;
        }
        let is_text =
            character.encode_utf8(&mut [0; 4]).bytes().fold(false, |is_text, byte| state.pass(byte) | is_text);
        match character {
            '\n' if is_text => pieces.push(Piece::Break),
            '\t' if is_text => pieces.push(Piece::Character(' ')),
            character if is_text && !printable::acts(character) => pieces.push(Piece::Character(character)),
            _ => {}
        }
        let sequence = &text[begin..at + character.len_utf8()];
        if !is_text && state == State::Text && is_color(sequence) {
            pieces.push(Piece::Color(sequence));
        }
    }
    pieces
}

fn is_color(sequence: &str) -> bool {
    let parameters = sequence.strip_prefix("\x1b[").and_then(|rest| rest.strip_suffix('m'));
    parameters.is_some_and(|parameters| parameters.bytes().all(|byte| byte.is_ascii_digit() || b";:".contains(&byte)))
}

/// Whether each byte of the characters and breaks is part of a secret.
fn redacted(pieces: &[Piece<'_>], redactors: &[&Redactor]) -> Vec<bool> {
    let characters = pieces.iter().filter_map(|piece| match piece {
        Piece::Character(character) => Some(*character),
        Piece::Break => Some('\n'),
        Piece::Color(_) => None,
    });
    let text: String = characters.collect();
    let mut is_secret = vec![false; text.len()];
    for redactor in redactors {
        for (is_secret, found) in is_secret.iter_mut().zip(redactor.find(&text)) {
            *is_secret |= found;
        }
    }
    is_secret
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn none() -> Redactor {
        Redactor::default()
    }

    fn of(secret: &str) -> Redactor {
        Redactor::new([secret.into()])
    }

    #[test]
    fn rows_are_kept_and_empty_ones_at_the_end_are_not() {
        assert_eq!(shown("one\n\n  two \n\n\n", &none(), true), "one\n\n  two\n");
        assert_eq!(shown("\n\n", &none(), true), "");
    }

    #[test]
    fn colors_are_kept_on_request_and_end_with_the_screen() {
        let captured = "\x1b[1m\x1b[38:2:1:2:3mred\x1b[39m.\n";
        assert_eq!(shown(captured, &none(), true), "\x1b[1m\x1b[38:2:1:2:3mred\x1b[39m.\x1b[0m\n");
        assert_eq!(shown(captured, &none(), false), "red.\n");
    }

    #[test]
    fn nothing_else_gets_to_the_terminal() {
        for hostile in [
            "a\x1b]0;title\x07b",
            "a\x1b]8;;http://x\x1b\\b",
            "a\x1b[2Jb",
            "a\x1b[6nb",
            "a\x1b[?1049hb",
            "a\x1bPq#0\x1b\\b",
            "a\x1b(0b",
            "a\x1bcb",
            "a\x0eb\x0f",
            "a\x07b\r",
            "a\u{9b}b",
            "a\u{202e}b\u{202c}",
            "a\u{2066}b\u{200f}\u{200b}",
            "\u{feff}a\u{e0041}b",
            "ab\x1b",
            "ab\x1b[",
            "ab\x1b]0;",
        ] {
            assert_eq!(shown(hostile, &none(), true), "ab\n", "{hostile:?}");
        }
        assert_eq!(shown("a\x1b\x1b[1mb", &none(), true), "a\x1b[1mb\x1b[0m\n");
    }

    #[test]
    fn a_secret_is_redacted_wherever_rows_end_and_colors_change() {
        let secret = of("hunter2hunter2");
        assert_eq!(shown("key=hunter2hunter2!\n", &secret, true), "key=********      !\n");
        assert_eq!(shown("key=hunter2\nhunter2!\n", &secret, true), "key=*******\n*******!\n");
        let of_any_length = |key: &str| shown(&format!("\x1b[1mkey={key}\x1b[0m\nnext\n"), &of(key), true);
        assert_eq!(of_any_length("hunter22"), of_any_length("hunter2hunter2hunter2"));
        let colored = "\x1b[1mhunt\x1b[2mer2hunter2";
        assert_eq!(shown(colored, &secret, true), "\x1b[1m****\x1b[2m****\x1b[0m\n");
    }

    #[test]
    fn a_secret_is_redacted_in_a_box_and_in_pieces() {
        let secret = of("sk-ant-api03-Zq8vXw2LkT0pYcRb7NfHd5JmGs3QaUe");
        let captured = "│ sk-ant-api03-Zq8vXw2 │\n│ LkT0pYcRb7NfHd5JmGs3 │\n│ QaUe                 │\n";
        let expected = "│ ********             │\n│ ********             │\n│ ****                 │\n";
        assert_eq!(shown(captured, &secret, true), expected);
        assert_eq!(shown("key …kT0pYcRb7NfHd5JmGs3QaUe\n", &secret, false), "key …********\n");
    }

    proptest! {
        #[test]
        fn whatever_is_captured_only_colors_come_through(text in "(\\PC|[\\x00-\\x1f\\x7f-\\x9f]|\\x1b[\\[\\]P(]?){0,40}") {
            let shown = shown(&text, &none(), true);
            let plain = pieces(&shown).into_iter().filter(|piece| !matches!(piece, Piece::Color(_)));
            let length: usize = plain.map(|piece| if let Piece::Character(it) = piece { it.len_utf8() } else { 1 }).sum();
            let colors: usize =
                pieces(&shown).iter().map(|piece| if let Piece::Color(it) = piece { it.len() } else { 0 }).sum();
            prop_assert_eq!(length + colors, shown.len(), "{:?}", shown);
            prop_assert!(!self::shown(&text, &none(), false).contains('\x1b'));
        }
    }
}
