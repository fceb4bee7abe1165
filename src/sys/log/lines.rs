//! Lines of the log for standard error: when, how grave, which agent, what, and the rest as `key=value`.
//!
//! ```text
//! 2026-11-30T06:01:28.296114Z  INFO reviewer: exited with status 1; restart 1 of 5 follows state=backoff attempt=1
//! ```

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::text::printable::escaped;

/// Writes an event as one line, whatever its message contains.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let time = humantime::format_rfc3339_micros(SystemTime::now());
        let level = event.metadata().level();
        if writer.has_ansi_escapes() {
            write!(writer, "\x1b[2m{time}\x1b[0m {}{level:>5}\x1b[0m {parts}", paint(*level))?;
        } else {
            write!(writer, "{time} {level:>5} {parts}")?;
        }
        writeln!(writer)
    }
}

fn paint(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[34m",
    }
}

/// The fields of an event.
#[derive(Debug, Default)]
struct Parts {
    agent: Option<String>,
    message: String,
    rest: String,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = escaped(&format!("{value:?}"));
        match field.name() {
            "agent" => self.agent = Some(value),
            "message" => self.message = value,
            name if value.is_empty() || value.contains([' ', '"', '=']) => _ = write!(self.rest, " {name}={value:?}"),
            name => _ = write!(self.rest, " {name}={value}"),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(agent) = &self.agent {
            write!(formatter, "{agent}: ")?;
        }
        write!(formatter, "{}{}", self.message, self.rest)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Registry, fmt};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = fmt::layer().with_writer(move || writer.clone()).with_ansi(false).event_format(Lines);
        tracing::subscriber::with_default(Registry::default().with(layer), log);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let (time, rest) = text.split_once(' ').unwrap();
        humantime::parse_rfc3339(time).unwrap();
        rest.to_owned()
    }

    #[test]
    fn a_line_leads_with_the_agent_however_it_is_recorded() {
        let expected = " INFO a: declared state=running attempt=2 pid=7\n";
        let (attempt, none) = (Some(2_u64), None::<u64>);
        let text = logged(|| tracing::info!(agent = "a", state = %"running", attempt, none, pid = 7, "declared"));
        assert_eq!(text, expected);
        let text = logged(|| tracing::info!(agent = %"a", state = "running", attempt, pid = 7, "declared"));
        assert_eq!(text, expected);
        assert_eq!(logged(|| tracing::error!(reason = "a b", "no agent")), "ERROR no agent reason=\"a b\"\n");
    }

    #[test]
    fn a_message_of_several_lines_is_one_line() {
        assert_eq!(logged(|| tracing::warn!("a\nb\x1b[2J")), " WARN a\\nb\\u{1b}[2J\n");
    }
}
