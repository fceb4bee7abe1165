//! Fuzzes the protocol of the terminal socket: whatever either side sends, however it is cut, becomes the same frames of bounded
//! length or an error, and what is sent as text has no control characters.

#![no_main]

use agentd::wire::terminal::{self, Decoder, End, Kind, MAX_BODY, Malformed, Request};
use libfuzzer_sys::fuzz_target;

/// The frames, and the error that ended them.
fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<(Kind, Vec<u8>)>, Option<Malformed>) {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|bytes: &[u8]| {
    let [cut, rest @ ..] = bytes else { return };
    let (whole, error) = frames([rest].into_iter());
    assert_eq!(frames(rest.chunks(usize::from(*cut) + 1)), (whole.clone(), error));
    for (kind, body) in whole {
        assert!(body.len() <= MAX_BODY);
        assert_eq!(frames([terminal::frame(kind, &body).as_slice()].into_iter()), (vec![(kind, body.clone())], None));
        if let Ok(request) = terminal::read::<Request>(&body) {
            let again = terminal::json(Kind::Request, &request);
            assert!(again.len() > MAX_BODY || terminal::read(&again[terminal::HEAD..]) == Ok(request));
        }
        let _ = terminal::read::<End>(&body);
    }
    if let Ok(text) = terminal::sendable(rest) {
        assert!(text.chars().all(|character| !character.is_control() || character == '\n' || character == '\t'));
    }
});
