//! Fuzzes plain text: whatever an agent prints, however it is cut, becomes in bounded time a text in which no character acts on a
//! terminal.

#![no_main]

use agentd::logs::rendering::{Rendering, Size};
use agentd::text::printable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [columns, rows, cut, rest @ ..] = bytes else { return };
    let size = Size { columns: u16::from(columns % 100), rows: u16::from(rows % 40) };
    let mut whole = Rendering::new(size);
    whole.feed(rest);
    whole.show();
    let whole = whole.take();
    assert!(whole.chars().all(|character| character == '\n' || !printable::acts(character)), "{whole:?}");

    let mut cut_up = Rendering::new(size);
    for piece in rest.chunks(usize::from(cut % 32) + 1) {
        cut_up.feed(piece);
    }
    cut_up.show();
    assert_eq!(cut_up.take(), whole);

    // Who follows is told text, too, in whatever order; and the size changes.
    let mut followed = Rendering::new(size);
    let mut told = String::new();
    for piece in rest.chunks(usize::from(*cut) + 1) {
        followed.feed(piece);
        match piece.last() {
            Some(0..=0x3f) => followed.tell_at_once(),
            Some(0x40..=0x5f) => drop(followed.settle()),
            Some(0x60..=0x6f) => followed.look(),
            Some(&byte @ 0x70..) => {
                followed.resize(Size { columns: u16::from(byte % 90), rows: u16::from(byte % 30) });
            }
            None => {}
        }
        told += &followed.take();
    }
    followed.show();
    told += &followed.take();
    assert!(told.chars().all(|character| character == '\n' || !printable::acts(character)), "{told:?}");
});
