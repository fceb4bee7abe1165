//! The log: one line per event, to the journal if standard error leads there, else to standard error.
//!
//! A separate thread writes, behind a bounded queue. A sink that blocks (a full pipe, a stopped terminal, a journal that does not
//! read) loses messages, but never delays the daemon.

mod journal;
mod lines;

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use nix::sys::stat::fstat;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::{Registry, fmt};

use crate::sys::rate_limit::Allowances;
use crate::sys::terminal::Terminal;
use crate::text::printable;

pub use journal::{AGENT_ERROR, STATE_CHANGED};

/// How detailed the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Changes of agents, and their reasons.
    Plain,
    /// Also command lines with prompts, working directories, names of variables, and last screens.
    Debug,
}

/// How many messages may wait to be written. Beyond that, new ones are dropped.
const QUEUE: usize = 4096;

/// Keeps the log running. When dropped, it writes what is queued if the sink accepts it.
#[derive(Debug)]
pub struct Guard(());

impl Drop for Guard {
    fn drop(&mut self) {
        flush();
    }
}

/// The writer, which is dropped at the end.
#[derive(Debug)]
enum Sink {
    Lines { _guard: WorkerGuard },
    Journal { _guard: journal::Guard },
}

static SINK: Mutex<Option<Sink>> = Mutex::new(None);

/// The names of the threads that write.
const THREADS: [&str; 2] = ["tracing-appender", journal::THREAD];

/// Writes what is queued, if the sink accepts it within about a second, and ends the log.
pub fn flush() {
    // If another thread holds it, that thread does the same.
    let sink = SINK.try_lock().ok().and_then(|mut sink| sink.take());
    drop(sink);
}

/// Whether the calling thread is one that writes the log.
pub fn is_its_thread() -> bool {
    std::thread::current().name().is_some_and(|name| THREADS.contains(&name))
}

/// The process has one log, and so one counter.
static DROPPED: OnceLock<Dropped> = OnceLock::new();

enum Dropped {
    Lines(ErrorCounter),
    Messages(Arc<AtomicU64>),
}

/// How many messages of this process were dropped so far because the queue was full.
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
        // Fails only if a log exists already, which is used instead.
        let _ = tracing::subscriber::set_global_default(Registry::default().with(layer).with(Governor).with(level));
        return keep(Sink::Journal { _guard: guard });
    }
    let (writer, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(QUEUE).lossy(true).finish(Harmless(io::stderr()));
    let _ = DROPPED.set(Dropped::Lines(writer.error_counter()));
    let color = Terminal::color_on_stderr();
    let lines = fmt::layer().with_writer(writer).with_ansi(color).event_format(lines::Lines);
    let _ = tracing::subscriber::set_global_default(Registry::default().with(lines).with(Governor).with(level));
    keep(Sink::Lines { _guard: guard })
}

fn keep(sink: Sink) -> Guard {
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
    Guard(())
}

/// What a line is about: an agent by its name, or else the place in the program that logs it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    Agent(String),
    Place(tracing::callsite::Identifier),
}

static ALLOWANCES: LazyLock<Mutex<Allowances<Source>>> = LazyLock::new(Mutex::default);

/// Limits how much is logged about each agent, and from each place that names no agent, so that no agent can fill the log.
///
/// Debug messages were requested explicitly, and are not limited.
#[derive(Debug)]
struct Governor;

impl<S: Subscriber> Layer<S> for Governor {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let mut agent = AgentOf(None);
        event.record(&mut agent);
        let source = agent.0.map_or_else(|| Source::Place(event.metadata().callsite()), Source::Agent);
        ALLOWANCES.lock().unwrap_or_else(PoisonError::into_inner).admit(&source, Instant::now())
    }
}

/// Logs how many lines were left out since the last call, and about which agents, if any were.
pub fn tell_left_out() {
    let left_out = ALLOWANCES.lock().unwrap_or_else(PoisonError::into_inner).take_left_out();
    if let Some(words) = describe(&left_out) {
        tracing::warn!("{words}");
    }
}

fn describe(left_out: &HashMap<Source, u64>) -> Option<String> {
    const NAMED: usize = 3;
    let count: u64 = left_out.values().sum();
    let mut agents: Vec<_> = left_out.iter().filter_map(|(source, count)| Some((count, source.agent()?))).collect();
    agents.sort_unstable_by(|a, b| b.cmp(a));
    let named: Vec<String> = agents.iter().take(NAMED).map(|(count, agent)| format!("{count} about {agent}")).collect();
    let named = if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) };
    (count > 0).then(|| format!("left {count} lines out of the log{named}, because there are too many of their kind"))
}

impl Source {
    fn agent(&self) -> Option<&str> {
        match self {
            Self::Agent(name) => Some(name),
            Self::Place(_) => None,
        }
    }
}

/// The value of an event's field `agent`.
struct AgentOf(Option<String>);

impl Visit for AgentOf {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "agent" {
            self.0 = Some(format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Removes the non-ASCII characters that act on a terminal or on its reader. ASCII ones are escaped where [lines] are formatted,
/// except for the log's own colors.
struct Harmless<W>(W);

impl<W: Write> Write for Harmless<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.is_ascii() {
            self.0.write_all(line)?;
        } else {
            self.0.write_all(printable::escaped_beyond_ascii(&String::from_utf8_lossy(line)).as_bytes())?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether standard error leads to the journal.
///
/// The variable alone does not prove it: processes inherit it whose standard error is something else (`systemd.exec(5)`).
pub fn leads_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(std::io::stderr().as_fd()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Counts the lines that arrive.
    #[derive(Clone, Default)]
    struct Count(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_agent_that_floods_the_log_leaves_room_for_others() {
        let count = Count::default();
        let subscriber = Registry::default().with(count.clone()).with(Governor);
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..100_000 {
                tracing::warn!(agent = "flooding", "again");
            }
            let flooded = count.0.swap(0, Ordering::Relaxed);
            assert!((100..2000).contains(&flooded), "{flooded}");
            tracing::info!(agent = %"well-behaved", "running");
            tracing::error!("about no agent");
            assert_eq!(count.0.load(Ordering::Relaxed), 2);
        });
        let flooding = Source::Agent("flooding".to_owned());
        let left_out = ALLOWANCES.lock().unwrap().left_out_of(&flooding);
        assert!(left_out > 90_000, "{left_out}");
    }

    #[test]
    fn omitted_lines_are_reported_with_the_loudest_agents() {
        let agent = |name: &str| Source::Agent(name.to_owned());
        assert_eq!(describe(&HashMap::new()), None);
        let left_out = HashMap::from([(agent("a"), 1), (agent("b"), 7), (agent("c"), 2), (agent("d"), 3)]);
        assert_eq!(
            describe(&left_out).unwrap(),
            "left 13 lines out of the log (7 about b, 3 about d, 2 about c), because there are too many of their kind"
        );
    }

    #[test]
    fn no_log_line_acts_on_its_reader() {
        let mut sink = Harmless(Vec::new());
        let line = "\u{1b}[31mERROR\u{1b}[0m é \u{202e}txt\u{9b}2J\n";
        assert_eq!(sink.write(line.as_bytes()).unwrap(), line.len());
        sink.write_all(b"\xff\n").unwrap();
        let written = String::from_utf8(sink.0).unwrap();
        assert_eq!(written, "\u{1b}[31mERROR\u{1b}[0m é \\u{202e}txt\\u{9b}2J\n\u{fffd}\n");
    }
}
