//! Fuzzes redaction: a text that arrives in pieces is redacted exactly as the whole text would be.

#![no_main]

use agentd::text::redact::{ByteStream, Redactor, SHORTEST_LINE, naively};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|case: (Vec<Vec<u8>>, Vec<u8>, Vec<u8>)| {
    let (secrets, text, cuts) = case;
    // Of few letters, so that secrets are there, in one another, overlapping and repeated; else as they are.
    let is_small = cuts.first().is_some_and(|cut| cut % 2 == 0);
    let letter = |byte: u8| if is_small { b"aab\n"[usize::from(byte % 4)] } else { byte };
    let spell = |bytes: &[u8]| bytes.iter().map(|&byte| letter(byte)).collect::<Vec<u8>>();
    let (secrets, text): (Vec<Vec<u8>>, Vec<u8>) = (secrets.iter().map(|secret| spell(secret)).collect(), spell(&text));

    let redactor = Redactor::new(secrets.iter().cloned().map(Into::into));
    let (mut stream, mut redacted) = (ByteStream::new(redactor), Vec::new());
    let mut rest = text.as_slice();
    for cut in &cuts {
        let (piece, later) = rest.split_at(rest.len().min(usize::from(*cut)));
        stream.pass(piece, &mut redacted);
        rest = later;
    }
    stream.pass(rest, &mut redacted);
    stream.finish(&mut redacted);
    let lines = secrets.iter().flat_map(|secret| secret.split(|&byte| byte == b'\n'));
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).filter(|line| line.len() >= SHORTEST_LINE);
    assert_eq!(redacted, naively(&lines.collect::<Vec<_>>(), &text));
});
