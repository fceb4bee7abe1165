//! Fuzzes the files of a log: whatever they contain, they are read within bounds, each byte once and in order, and no byte is invented.

#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant, SystemTime};

use agentd::logs::attempt::AttemptId;
use agentd::logs::reader::{Log, Readers};
use libfuzzer_sys::fuzz_target;

/// How long reading may take, however long the files are, on a slow machine.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The lengths of text and index, what is written where, the bytes of the index, a time, and how many lines.
type Case = (u64, u64, Vec<(u64, Vec<u8>)>, Vec<u8>, u64, u8);

fuzz_target!(|case: Case| {
    let (length, index_length, pieces, entries, since, lines) = case;
    let file = |name: &str, length: u64| {
        let path = std::env::temp_dir().join(format!("{name}.{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(length % (8 << 40)).unwrap();
        file
    };
    let (text, index) = (file("text", length), file("index", index_length));
    let mut most = 0;
    for (offset, bytes) in &pieces {
        text.write_all_at(bytes, offset % (8 << 40)).unwrap();
        // A block of the file system's is there as a whole.
        most += bytes.len() as u64 + 8192;
    }
    index.write_all_at(&entries, index_length % (1 << 30)).unwrap();
    let log = Log::new(AttemptId { sequence: 1, attempt: 1 }, text, Some(index), 64 << 10, Readers::default());

    let begun = Instant::now();
    let (begin, end) = (log.begin().unwrap(), log.end().unwrap());
    assert!(begin <= end);
    let (mut at, mut total) = (0, 0);
    loop {
        let piece = log.read(at).unwrap();
        assert!(piece.offset >= at.max(begin) && piece.end() <= end);
        if piece.bytes.is_empty() {
            break;
        }
        total += piece.bytes.len() as u64;
        at = piece.end();
    }
    assert!(total <= most, "{total} bytes of {most}");
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(since >> 1);
    for place in [log.since(time, &|| true).unwrap(), log.last_lines(lines.into(), &|| true).unwrap()] {
        assert!((begin..=end).contains(&place));
    }
    assert!(begun.elapsed() < READ_TIMEOUT, "{:?}", begun.elapsed());
});
