//! The log: one line an event, to the journal where standard error leads there, else to standard error. Either way from a thread
//! of its own behind a bounded queue: a sink that blocks (a full pipe, a stopped terminal, a journal that does not read) loses
//! messages; it never holds up the daemon.

mod journal;

use std::io::IsTerminal;
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, fmt};

pub use journal::{AGENT_ERROR, STATE_CHANGED};

use crate::supervisor::Detail;

/// Messages that may wait to be written. Past that, new ones are dropped.
const QUEUE: usize = 4096;

/// Keeps the log going. What is still queued is written when it is dropped, if the sink takes it.
#[derive(Debug)]
pub struct Guard {
    _lines: Option<WorkerGuard>,
    _journal: Option<journal::Guard>,
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
        // Fails only if there is a log already, which then serves as well.
        let _ = tracing::subscriber::set_global_default(Registry::default().with(layer).with(level));
        return Guard { _lines: None, _journal: Some(guard) };
    }
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(QUEUE).lossy(true).finish(std::io::stderr());
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
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
