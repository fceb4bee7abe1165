//! Fuzzes the streams of harnesses: whatever is printed, however it is cut, the facts and the transcript are the same, memory is
//! bounded, figures are possible, and nothing that is shown acts on a terminal.

#![no_main]

use agentd::agent::stream_kind::StreamKind;
use agentd::launch::stream::said::Said;
use agentd::launch::stream::{Ending, Fact, LONGEST, MOST_TEXT, Stream};
use agentd::text::printable::acts;
use libfuzzer_sys::fuzz_target;

fn read<'a>(kind: StreamKind, pieces: impl Iterator<Item = &'a [u8]>) -> (Said, Ending) {
    let (mut stream, mut said) = (Stream::new(kind), Said::default());
    for piece in pieces {
        stream.feed(piece, &mut said);
        assert!(stream.capacity() <= 2 * LONGEST + 2 * MOST_TEXT);
    }
    let ending = stream.end(None, &mut said);
    (said, ending)
}

fuzz_target!(|bytes: &[u8]| {
    let [kind, cut, rest @ ..] = bytes else { return };
    let kind = match kind % 5 {
        0 => StreamKind::Claude,
        1 => StreamKind::Codex,
        2 => StreamKind::Gemini,
        3 => StreamKind::Opencode,
        _ => StreamKind::Pi,
    };
    let whole = read(kind, [rest].into_iter());
    assert_eq!(read(kind, rest.chunks(usize::from(*cut) + 1)), whole);
    let (said, ending) = whole;
    assert!(!said.shown.contains(|character| !matches!(character, '\n' | '\t') && acts(character)), "{}", said.shown);
    assert!(said.shown.is_empty() || said.shown.ends_with('\n'));
    for fact in said.facts {
        match fact {
            Fact::Cost(cost) => assert!((0.0..=1e6).contains(&cost)),
            Fact::Conversation(id) => assert!((1..=128).contains(&id.len()) && !id.starts_with('-')),
            Fact::Blocked(text) => assert!(text.len() <= 512),
            Fact::Limit(limit) => assert!(limit.text.len() <= 256),
            _ => {}
        }
    }
    assert!(ending.result.is_none_or(|result| result.text.len() <= MOST_TEXT));
});
