//! Whether a program has asked for bracketed paste, for a tmux that does not say (before 3.7).
//!
//! A terminal turns it on for `ESC [ ? 2004 h`, and off for the same with `l` (ctlseqs, "DEC Private Mode Set"). So the last of these in what
//! the program printed decides. This searches bytes and interprets nothing else of them.

use std::io;

use memchr::memmem;

use crate::agent::name::Name;
use crate::logs::reader::Log;
use crate::logs::store::Store;

/// How many bytes are searched at the end of a log, and at its beginning if they have nothing.
const SEARCHED: u64 = 1 << 20;

/// The longest list of modes that is taken for one.
const LONGEST: usize = 64;

/// Whether the agent's program has asked for it; `None` if that is not known.
pub(super) async fn of(store: &Store, agent: &Name) -> Option<bool> {
    let (store, agent, readers) = (store.clone(), agent.clone(), store.readers().clone());
    let searched = readers.work(move |_: &dyn Fn() -> bool| {
        let kept = store.attempts(&agent).map_err(io::Error::other)?.last().copied();
        let Some(kept) = kept else { return Ok(None) };
        let log = store.open(&agent, kept).map_err(io::Error::other)?;
        log.map_or(Ok(None), |log| search(&log))
    });
    // What cannot be read is not known.
    searched.await.ok()?.ok()?.ok()?
}

fn search(log: &Log) -> io::Result<Option<bool>> {
    let (begin, end) = (log.begin()?, log.end()?);
    let tail = end.saturating_sub(SEARCHED).max(begin);
    if let Some(last) = last_in(log, tail, end)? {
        return Ok(Some(last));
    }
    let head = begin.saturating_add(SEARCHED).min(tail);
    match last_in(log, begin, head)? {
        None if begin == 0 && head == tail => Ok(Some(false)),
        last => Ok(last),
    }
}

fn last_in(log: &Log, from: u64, to: u64) -> io::Result<Option<bool>> {
    let (mut at, mut last, mut bytes) = (from, None, Vec::new());
    while at < to {
        let piece = log.read(at)?;
        if piece.bytes.is_empty() {
            break;
        }
        at = piece.end();
        // A sequence may be cut by the end of a piece.
        let keep = bytes.len().saturating_sub(LONGEST);
        bytes.drain(..keep);
        bytes.extend(piece.bytes);
        last = last_said(&bytes).or(last);
    }
    Ok(last)
}

/// The last that these bytes say of the mode.
fn last_said(bytes: &[u8]) -> Option<bool> {
    let mut last = None;
    for at in memmem::find_iter(bytes, b"\x1b[?") {
        let rest = &bytes[at + 3..];
        let is_list = |byte: &u8| byte.is_ascii_digit() || *byte == b';';
        let length = rest.iter().take(LONGEST).take_while(|byte| is_list(byte)).count();
        let is_meant = rest[..length].split(|&byte| byte == b';').any(|mode| mode == b"2004");
        match rest.get(length) {
            Some(b'h') if is_meant => last = Some(true),
            Some(b'l') if is_meant => last = Some(false),
            _ => {}
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_mention_of_the_mode_counts() {
        assert_eq!(last_said(b"a\x1b[?2004hb"), Some(true));
        assert_eq!(last_said(b"\x1b[?2004h\x1b[?1049;2004l\x1b[?25h"), Some(false));
        assert_eq!(last_said(b"\x1b[?1000;2004h"), Some(true));
        for nothing in [&b""[..], b"\x1b[?20041h", b"\x1b[2004h", b"\x1b[?2004", b"\x1b[?2004$p", b"\x1b[?"] {
            assert_eq!(last_said(nothing), None, "{nothing:?}");
        }
    }

    /// The log of an attempt with this output.
    fn log_of(output: &[u8]) -> Log {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(output).unwrap();
        let kept = crate::logs::attempt::AttemptId { sequence: 1, attempt: 1 };
        Log::new(kept, file, None, 64 << 20, crate::logs::reader::Readers::default())
    }

    #[test]
    fn both_ends_of_a_log_are_searched() {
        let much = vec![b'x'; usize::try_from(SEARCHED).unwrap() * 3 / 2];
        assert_eq!(search(&log_of(b"no")).unwrap(), Some(false));
        assert_eq!(search(&log_of(&[b"\x1b[?2004h", &much[..]].concat())).unwrap(), Some(true));
        assert_eq!(search(&log_of(&[b"\x1b[?2004h", &much[..], b"\x1b[?2004l"].concat())).unwrap(), Some(false));
        assert_eq!(search(&log_of(&much)).unwrap(), Some(false));
        assert_eq!(search(&log_of(&[&much[..], &much[..]].concat())).unwrap(), None);
    }
}
