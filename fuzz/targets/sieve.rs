//! Fuzzes the sieve: whatever a tmux server shows, however it is cut, nothing that acts on a terminal passes, and what passed once
//! passes again.

#![no_main]

use agentd::text::sieve::Sieve;
use libfuzzer_sys::fuzz_target;

fn passed(pieces: impl Iterator<Item = impl AsRef<[u8]>>, takes_utf_8: bool) -> Vec<u8> {
    let (mut sieve, mut passed) = (Sieve::new(takes_utf_8), Vec::new());
    for piece in pieces {
        sieve.pass(piece.as_ref(), &mut passed);
    }
    passed
}

fuzz_target!(|bytes: &[u8]| {
    let [cut, rest @ ..] = bytes else { return };
    let takes_utf_8 = cut & 1 == 0;
    let whole = passed([rest].into_iter(), takes_utf_8);
    assert_eq!(passed(rest.chunks(usize::from(cut >> 1) + 1), takes_utf_8), whole);
    assert_eq!(passed([&whole].into_iter(), takes_utf_8), whole);
    assert!(whole.len() <= rest.len());
    for forbidden in [&b"\x1bP"[..], b"\x1b_", b"\x1b^", b"\x1bX", b"\x1bk", b"\x1bc", b"\x1b]52", b"\x1b]0;", b"\x1b]1337", b"\x05"] {
        assert!(!whole.windows(forbidden.len()).any(|window| window == forbidden), "{forbidden:?}: {whole:?}");
    }
    if takes_utf_8 {
        let text = std::str::from_utf8(&whole).expect("only characters pass");
        assert!(!text.chars().any(|character| ('\u{7f}'..='\u{9f}').contains(&character)), "{text:?}");
    }
});
