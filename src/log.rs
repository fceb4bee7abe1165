//! The log: one line an event, to standard error, from a thread of its own behind a bounded queue. A sink that blocks (a full
//! pipe, a stopped terminal) loses lines; it never holds up the daemon.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

use crate::supervisor::Detail;

/// Lines that may wait to be written. Past that, new ones are dropped.
const QUEUE: usize = 4096;

/// Starts logging for this process. What is still queued is written when the answer is dropped.
pub fn start(detail: Detail) -> WorkerGuard {
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(QUEUE).lossy(true).finish(std::io::stderr());
    let level = match detail {
        Detail::Plain => LevelFilter::INFO,
        Detail::Debug => LevelFilter::DEBUG,
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber = fmt().with_writer(writer).with_max_level(level).with_target(false).with_ansi(colour).finish();
    // Fails only if there is a log already, which then serves as well.
    let _ = tracing::subscriber::set_global_default(subscriber);
    guard
}
