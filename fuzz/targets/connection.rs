//! Fuzzes a whole connection: whatever a client sends, in whatever pieces, and however it leaves, the server serves it for a bounded
//! time, and answers with whole responses, no more of them than the client can have asked for.
//!
//! The first byte of an input says how the client behaves, the second how many bytes each piece has. The paused clock advances when all
//! tasks wait.

#![no_main]

mod http;

use std::sync::OnceLock;
use std::time::Duration;

use agentd::api::fuzzing::{Manner, converse, sources};
use agentd::wire::status::AgentStatus;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

/// The shortest request.
const SHORTEST: usize = "GET / HTTP/1.1\n\n".len();

/// Longer than the server waits for anything.
const CLIENT_TIMEOUT: Duration = Duration::from_mins(2);

/// How long the longest conversation may take. Each request may follow the longest possible pause, but here all are sent at once.
const LONGEST: Duration = Duration::from_mins(10);

fuzz_target!(|input: &[u8]| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let new = || Builder::new_current_thread().enable_all().start_paused(true).build().expect("there can be one");
    let [manner, piece, said @ ..] = input else { return };
    let takes = if manner & 4 == 0 { usize::MAX } else { usize::from(*piece) * 64 };
    let keep_alive = manner & 2 == 0;
    let manner =
        Manner { piece: usize::from(*piece) + 1, half_closes: manner & 1 != 0, takes, patience: CLIENT_TIMEOUT };
    let (heard, took) = RUNTIME.get_or_init(new).block_on(async {
        let begun = Instant::now();
        let heard = converse(sources(agents(), None), said, manner, keep_alive).await;
        (heard, begun.elapsed())
    });
    assert!(took <= LONGEST, "{took:?}");
    assert!(heard.bytes.len() <= said.len() * 4096 + (256 << 10), "{} bytes for {}", heard.bytes.len(), said.len());
    let answers = http::answers(&heard.bytes);
    assert!(answers.len() <= said.len() / SHORTEST + 1, "{} answers", answers.len());
    assert!(keep_alive || answers.len() <= 1, "{} answers", answers.len());
    assert!(answers.iter().rev().skip(1).all(|answer| answer.is_whole));
    if heard.is_whole {
        assert!(answers.iter().all(|answer| answer.is_whole || answer.content_type == "text/event-stream"));
    }
    let known = |status| matches!(status, 0 | 200 | 400 | 404 | 405 | 414 | 431 | 503);
    assert!(answers.iter().all(|answer| known(answer.status)));
});

/// Agents whose text contains what acts on terminals and readers.
fn agents() -> Vec<AgentStatus> {
    let agents = r#"[
        {"name": "a", "running": true, "restarts": 1, "state": "running", "pid": 5, "session": "a",
         "reason": "\u001b[2J\u202e", "exit": {"signal": "SIGKILL\u009b", "at": "2026-11-21T17:00:00Z"}},
        {"name": "B", "running": false, "restarts": 0, "state": "waiting", "error": "é\n"}
    ]"#;
    serde_json::from_str(agents).expect("these are agents")
}
