//! Fuzzes what is shown: secrets are redacted wherever a naive search finds them, whatever pieces a text arrives in, and a screen that
//! is shown does nothing but color text.

#![no_main]

use std::collections::BTreeSet;

use agentd::text::printable;
use agentd::text::redact::{Masking, PIECE, Redactor, SHORTEST_LINE, TextStream, is_significant};
use agentd::text::screen;
use libfuzzer_sys::fuzz_target;

/// The significant bytes, and for each of them where its character stands.
fn significant(text: &str) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    let mut places = Vec::new();
    for (at, character) in text.char_indices().filter(|&(_, character)| is_significant(character)) {
        bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        places.extend(std::iter::repeat_n(at, character.len_utf8()));
    }
    (bytes, places)
}

fn naively(secret: &[u8], text: &str) -> String {
    let (bytes, places) = significant(text);
    let length = secret.len().min(PIECE);
    let mut redacted: BTreeSet<usize> = BTreeSet::new();
    if length >= 4 {
        for window in secret.windows(length) {
            for at in (0..bytes.len()).filter(|&at| bytes[at..].starts_with(window)) {
                redacted.extend(&places[at..at + length]);
            }
        }
    }
    let (mut masking, mut shown) = (Masking::default(), String::new());
    for (at, character) in text.char_indices() {
        masking.push(&mut shown, character, redacted.contains(&at));
    }
    shown
}

fuzz_target!(|text: &str| {
    let (secret, text) = text.split_once('\n').unwrap_or((text, text));
    let redactor = || Redactor::new([secret.into()]);
    let line = secret.strip_suffix('\r').unwrap_or(secret);
    let (needle, _) = significant(if line.len() < SHORTEST_LINE { "" } else { line });
    assert_eq!(redactor().redact(text), naively(&needle, text));

    let mut shown = TextStream::new(redactor());
    let mut said = String::new();
    for piece in text.split_inclusive(['a', '\n']) {
        said += &shown.pass(piece);
        if piece.len() % 3 == 0 {
            said += &shown.pause();
        }
    }
    said += &shown.pause();
    // Blanks at the end of a row are left out.
    assert!(said.chars().count() <= text.chars().count());
    if needle.len() >= PIECE && !needle.contains(&b'*') {
        let (said, _) = significant(&said);
        for window in needle.windows(PIECE) {
            assert!(!said.windows(PIECE).any(|shown| shown == window), "{}", String::from_utf8_lossy(&said));
        }
    }

    let screen = screen::shown(text, &redactor(), false);
    assert!(screen.chars().all(|character| character == '\n' || !printable::acts(character)), "{screen:?}");
});
