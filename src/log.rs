//! The log: one line an event, to the journal where standard error leads there, else to standard error. Either way from a thread
//! of its own behind a bounded queue: a sink that blocks (a full pipe, a stopped terminal, a journal that does not read) loses
//! messages; it never holds up the daemon.

mod journal;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use nix::sys::stat::fstat;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, fmt};

pub use journal::{AGENT_ERROR, STATE_CHANGED};

use crate::cli::terminal::Terminal;
use crate::supervisor::Detail;

/// Messages that may wait to be written. Past that, new ones are dropped.
const QUEUE: usize = 4096;

/// Keeps the log going. What is still queued is written when it is dropped, if the sink takes it.
#[derive(Debug)]
pub struct Guard {
    _lines: Option<WorkerGuard>,
    _journal: Option<journal::Guard>,
}

/// There is one log for the whole process, and so is this.
static DROPPED: OnceLock<Dropped> = OnceLock::new();

enum Dropped {
    Lines(ErrorCounter),
    Messages(Arc<AtomicU64>),
}

/// How many messages of this process were dropped so far because there was no room for more to wait.
pub fn dropped() -> u64 {
    match DROPPED.get() {
        None => 0,
        Some(Dropped::Lines(counter)) => counter.dropped_lines() as u64,
        Some(Dropped::Messages(count)) => count.load(Ordering::Relaxed),
    }
}

/// Starts logging for this process.
pub fn start(detail: Detail) -> Guard {
    let level = match detail {
        Detail::Plain => LevelFilter::INFO,
        Detail::Debug => LevelFilter::DEBUG,
    };
    if leads_to_journal()
        && let Ok((layer, guard)) = journal::layer()
    {
        let _ = DROPPED.set(Dropped::Messages(layer.dropped()));
        // Fails only if there is a log already, which then serves as well.
        let _ = tracing::subscriber::set_global_default(Registry::default().with(layer).with(level));
        return Guard { _lines: None, _journal: Some(guard) };
    }
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(QUEUE).lossy(true).finish(std::io::stderr());
    let _ = DROPPED.set(Dropped::Lines(writer.error_counter()));
    let colour = Terminal::colour_on_stderr();
    let subscriber = fmt().with_writer(writer).with_max_level(level).with_target(false).with_ansi(colour).finish();
    let _ = tracing::subscriber::set_global_default(subscriber);
    Guard { _lines: Some(guard), _journal: None }
}

/// Whether what is written to standard error ends in the journal: the variable is inherited by processes whose standard error is
/// something else (`systemd.exec(5)`).
pub fn leads_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(std::io::stderr().as_fd()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
