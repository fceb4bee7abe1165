//! The journal as a sink, with fields that can be queried (`journalctl AGENTD_AGENT=claude-code`).
//!
//! tracing-journald sends from the thread that logs, and waits if the journal does not read. So events become values here, and
//! become events again in a thread that may wait.

use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::QUEUE;
use crate::text::printable;

/// `MESSAGE_ID` of a change of an agent's state, or of its reason.
pub const STATE_CHANGED: &str = "9d0cbb5a4e3b4c0fa25a5c44c3f8f1d6";

/// `MESSAGE_ID` of an agent's problem that needs attention.
pub const AGENT_ERROR: &str = "b6f3f0e1d1c94d2e8a56c0a1f9be27c4";

/// The name of the thread that writes.
pub(super) const THREAD: &str = "journal";

/// How long the end of the process may wait for the journal.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// One message, owned.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    level: Level,
    text: String,
    agent: Option<String>,
    state: Option<String>,
    attempt: Option<String>,
    pid: Option<String>,
}

impl Message {
    fn new(level: Level) -> Self {
        Self { level, text: String::new(), agent: None, state: None, attempt: None, pid: None }
    }

    fn id(&self) -> Option<&'static str> {
        match (&self.agent, &self.state) {
            (Some(_), Some(_)) => Some(STATE_CHANGED),
            (Some(_), None) if self.level == Level::ERROR => Some(AGENT_ERROR),
            _ => None,
        }
    }

    /// The message as readers see it who do not see the fields.
    fn sentence(&self) -> String {
        let parts = [self.agent.as_deref(), self.state.as_deref(), Some(&self.text)];
        parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }

    /// Logs the message as an event of this thread's subscriber.
    fn log(&self) {
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    message_id = self.id(),
                    agentd_agent = self.agent,
                    agentd_state = self.state,
                    agentd_attempt = self.attempt,
                    agentd_pid = self.pid,
                    "{}",
                    self.sentence()
                )
            };
        }
        match self.level {
            Level::ERROR => log!(error),
            Level::WARN => log!(warn),
            Level::INFO => log!(info),
            _ => log!(debug),
        }
    }
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = printable::escaped_lines(&format!("{value:?}"));
        let text = || Some(value.clone());
        match field.name() {
            "message" => self.text.insert_str(0, &value),
            "agent" => self.agent = text(),
            "state" => self.state = text(),
            "attempt" => self.attempt = text(),
            "pid" => self.pid = text(),
            // Writing to a string never fails.
            name => _ = write!(self.text, " {name}={value}"),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Passes events on, or counts those that find no room.
#[derive(Debug)]
pub(super) struct HandOff {
    messages: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl HandOff {
    /// The number of events that found no room.
    pub(super) fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}

impl<S: Subscriber> Layer<S> for HandOff {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut message = Message::new(*event.metadata().level());
        event.record(&mut message);
        if self.messages.try_send(message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Gives the thread a moment to write what is queued, when dropped.
#[derive(Debug)]
pub(super) struct Guard {
    thread: Option<JoinHandle<()>>,
    end: Option<SyncSender<Message>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let limit = Instant::now() + CLOSE_TIMEOUT;
        if let Some(end) = self.end.take() {
            // The channel cannot close: the log belongs to the whole process. An empty message ends it.
            let _ = end.try_send(Message::new(Level::TRACE));
        }
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The layer for this process's log, and the guard that keeps it running.
pub(super) fn layer() -> io::Result<(HandOff, Guard)> {
    // Without a prefix: the full names are given above.
    let journal = tracing_journald::layer()?.with_field_prefix(None).with_syslog_identifier("agentd".to_owned());
    let journal = journal.with_priority_mappings(tracing_journald::PriorityMappings {
        info: tracing_journald::Priority::Informational,
        ..tracing_journald::PriorityMappings::new()
    });
    let (messages, inbox) = sync_channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let (end, count) = (messages.clone(), Arc::clone(&dropped));
    let thread = std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
        tracing::subscriber::with_default(Registry::default().with(journal), || write(&inbox, &count));
    })?;
    Ok((HandOff { messages, dropped }, Guard { thread: Some(thread), end: Some(end) }))
}

fn write(inbox: &Receiver<Message>, dropped: &AtomicU64) {
    let mut told = 0;
    for message in inbox {
        if message.level == Level::TRACE {
            return;
        }
        message.log();
        let lost = dropped.load(Ordering::Relaxed) - told;
        if lost > 0 {
            told += lost;
            tracing::warn!("{lost} messages were lost, because the journal did not take them in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// The fields of each event that arrives at a subscriber.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            struct Fields(String);
            impl Visit for Fields {
                fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                    let _ = write!(self.0, "{}={value:?};", field.name());
                }
            }
            let mut fields = Fields(format!("{} ", event.metadata().level()));
            event.record(&mut fields);
            self.0.lock().unwrap().push(fields.0);
        }
    }

    fn hand_off(room: usize) -> (HandOff, Receiver<Message>, Arc<AtomicU64>) {
        let (messages, inbox) = sync_channel(room);
        let dropped = Arc::new(AtomicU64::new(0));
        (HandOff { messages, dropped: Arc::clone(&dropped) }, inbox, dropped)
    }

    fn written(inbox: &Receiver<Message>, dropped: &AtomicU64) -> Vec<String> {
        let seen = Seen::default();
        tracing::subscriber::with_default(Registry::default().with(seen.clone()), || write(inbox, dropped));
        seen.0.lock().unwrap().clone()
    }

    #[test]
    fn an_event_arrives_in_fields_that_can_be_queried() {
        let (layer, inbox, dropped) = hand_off(10);
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            tracing::info!(agent = "a", state = %"running", attempt = Some(2_u64), pid = 7, "declared");
            tracing::error!(agent = %"a", "claude: not found");
            tracing::warn!(session = "s", "odd");
        });
        let expected = [
            format!(
                "INFO message=a: running: declared;message_id=\"{STATE_CHANGED}\";agentd_agent=\"a\";agentd_state=\"running\";\
                     agentd_attempt=\"2\";agentd_pid=\"7\";"
            ),
            format!("ERROR message=a: claude: not found;message_id=\"{AGENT_ERROR}\";agentd_agent=\"a\";"),
            "WARN message=odd session=s;".to_owned(),
        ];
        assert_eq!(written(&inbox, &dropped), expected);
    }

    #[test]
    fn events_that_find_no_room_are_counted_and_reported() {
        let (layer, inbox, dropped) = hand_off(2);
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            for number in 0..5 {
                tracing::info!("{number}");
            }
        });
        let written = written(&inbox, &dropped);
        assert_eq!(written.len(), 3, "{written:?}");
        assert!(written[1].contains("3 messages were lost"), "{written:?}");
    }
}
