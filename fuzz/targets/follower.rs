//! Fuzzes followers of a log: whatever the files contain, and whatever happens to them while they are read, a follower and a client of
//! the API get only what is there, and nothing that acts on a terminal, in bounded time and memory.

#![no_main]

mod http;

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use agentd::agent::name::Name;
use agentd::api::fuzzing::{Manner, converse, sources};
use agentd::logs::reader::{Follower, Log};
use agentd::logs::store::{Retention, Store};
use agentd::wire::status::AgentStatus;
use libfuzzer_sys::fuzz_target;
use nix::unistd::Gid;
use tokio::runtime::{Builder, Runtime};

/// How many bytes of an attempt are kept.
const SIZE: u64 = 64 << 10;

/// How long reading may take, whatever the files contain, on a slow machine.
const READ_TIMEOUT: Duration = Duration::from_secs(8);

/// Room for so many entries at most: those that are held, and as many again where room is doubled.
const MOST_ENTRIES: usize = 2 * (64 << 10);

/// How much text a log may yield, and how much more for each of its bytes.
const MOST_TEXT: usize = 6 << 20;
const MOST_TEXT_OF_BYTE: usize = 64;

/// What is in the text and where, the entries of the index and how often they are repeated, how much longer than that both are, what
/// happens to the files while they are read, and what of them is asked for.
type Case = (Vec<(u32, Vec<u8>)>, Vec<(u64, u64)>, u8, (u64, u64), Vec<(u8, u16, Vec<u8>)>, (u8, u16));

fuzz_target!(|case: Case| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_current_thread().enable_all().build().expect("there can be one"));
    let Ok(name) = Name::try_from("a") else { return };
    let begun = Instant::now();
    let folder = std::env::temp_dir().join(format!("agentd-fuzz-{}", std::process::id()));
    let (text, entries, times, holes, changes, query) = case;
    let files = Files::new(&folder, &text, &entries, times, holes);
    let store = Store::new(&folder, Gid::effective(), Retention { size: SIZE, attempts: 3, ..Retention::default() });
    let kept = store.attempts(&name).expect("the folder can be read");
    let log = store.open(&name, kept[0]).expect("the file can be opened").expect("it is there");
    runtime.block_on(async {
        ask(store, query, text.iter().map(|(_, bytes)| bytes.len() + 8192).sum()).await;
        follow(log, &files, &changes).await;
    });
    assert!(begun.elapsed() < READ_TIMEOUT, "{:?}", begun.elapsed());
});

struct Files {
    text: File,
    index: File,
}

impl Files {
    fn new(folder: &Path, text: &[(u32, Vec<u8>)], entries: &[(u64, u64)], times: u8, holes: (u64, u64)) -> Self {
        drop(fs::remove_dir_all(folder));
        DirBuilder::new().recursive(true).mode(0o700).create(folder.join("a")).expect("folders can be made");
        let file = |ending: &str| {
            let path = folder.join(format!("a/00000001-1{ending}"));
            File::options().read(true).write(true).create(true).truncate(true).open(path).expect("files can be made")
        };
        let files = Self { text: file(".log"), index: file(".times") };
        for (offset, bytes) in text {
            // Mostly side by side.
            let offset = if offset.is_multiple_of(4) { u64::from(*offset) << 12 } else { u64::from(*offset % 512) };
            files.text.write_all_at(bytes, offset).expect("it can be written");
        }
        let entries: Vec<u8> = entries.iter().flat_map(|&(first, offset)| entry(first, offset)).collect();
        let entries = entries.repeat(usize::from(times) + 1);
        files.index.write_all_at(&entries, 0).expect("it can be written");
        for (file, hole) in [(&files.text, holes.0), (&files.index, holes.1)] {
            if hole.is_multiple_of(4) {
                let length = file.metadata().expect("it is there").len() + (hole >> 2) % (1 << 40);
                file.set_len(length).expect("it can be as long");
            }
        }
        files
    }

    fn change(&self, kind: u8, number: u16, bytes: &[u8]) {
        let length = |file: &File| file.metadata().expect("it is there").len();
        let append = |file: &File, bytes: &[u8]| file.write_all_at(bytes, length(file)).expect("it can be written");
        let cut = |file: &File, to: u16| file.set_len(to.into()).expect("it can be as long");
        match kind % 6 {
            0 => append(&self.text, bytes),
            1 => append(&self.index, bytes),
            2 => append(&self.index, &entry(u64::from(kind) << 56 | u64::from(number), number.into())),
            3 => cut(&self.text, number),
            4 => cut(&self.index, number),
            _ => {
                cut(&self.text, 0);
                cut(&self.index, 0);
                append(&self.text, bytes);
            }
        }
    }
}

/// Mostly of a place that is there.
fn entry(first: u64, offset: u64) -> [u8; 16] {
    let offset = if offset.is_multiple_of(8) { offset } else { offset % 600 };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&offset.to_le_bytes());
    bytes
}

/// As the API does it for `agentd logs`.
async fn ask(store: Store, (what, number): (u8, u16), written: usize) {
    let (raw, follows) = (what & 1 != 0, what & 6 == 6);
    let lines = (what & 8 != 0).then_some(number % 100);
    let since = (what & 16 != 0).then_some(number);
    let mut query = format!("raw={raw}&follow={follows}");
    query.extend(lines.map(|lines| format!("&lines={lines}")));
    query.extend(since.map(|since| format!("&since={since}h")));
    let said = format!("GET /v1/agents/a/log?{query} HTTP/1.1\r\n\r\n");
    let patience = if follows { Duration::from_millis(3) } else { READ_TIMEOUT };
    let manner = Manner { piece: said.len(), half_closes: false, takes: usize::MAX, patience };
    let heard = converse(sources(agents(), Some(store)), said.as_bytes(), manner, true).await;
    let answers = http::answers(&heard.bytes);
    if follows {
        return;
    }
    let [answer] = &answers[..] else { panic!("{} answers", answers.len()) };
    assert!(answer.status == 200 && answer.is_whole && heard.is_whole, "{}", answer.status);
    assert!(answer.body.len() <= MOST_TEXT + MOST_TEXT_OF_BYTE * written, "{} bytes", answer.body.len());
    if raw {
        assert!(answer.body.len() <= written, "{} bytes of {written}", answer.body.len());
    } else if let Some(lines) = lines {
        let shown = String::from_utf8_lossy(&answer.body).lines().count();
        assert!(shown <= usize::from(lines), "{shown} lines");
    }
}

/// As the one who makes text of it does it, while the files change.
async fn follow(log: Log, files: &Files, changes: &[(u8, u16, Vec<u8>)]) {
    let mut follower = Follower::new(Arc::new(log), 0);
    // A piece ends where a hole begins, and there are no more than were written.
    let mut most_pieces = 10_000;
    for change in changes.iter().map(Some).chain([None]) {
        while let Some(piece) = follower.read().await.expect("the file can be read") {
            assert!(!piece.bytes.is_empty() && piece.bytes.len() <= 64 << 10);
            assert!(follower.capacity() <= MOST_ENTRIES, "room for {} entries", follower.capacity());
            let entries = follower.take_entries(piece.end());
            assert!(entries.is_sorted_by_key(|entry| entry.offset()));
            assert!(entries.iter().all(|entry| entry.offset() < piece.end()));
            most_pieces -= 1;
            assert!(most_pieces > 0, "it has no end");
        }
        if let Some((kind, number, bytes)) = change {
            files.change(*kind, *number, bytes);
        }
    }
}

/// One that runs in its first attempt.
fn agents() -> Vec<AgentStatus> {
    let agents = r#"[{"name": "a", "running": true, "restarts": 0, "state": "running", "attempt": 1}]"#;
    serde_json::from_str(agents).expect("this is an agent")
}
