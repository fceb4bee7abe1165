//! The ring of the latest events, for clients that listen or reconnect.

use std::collections::{BTreeMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;

use crate::agent::labels::{self, Selector};
use crate::agent::name::Key;
use crate::text::printable;
use crate::wire::events::{Event, Id, Since, What};
use crate::wire::status::Time;

/// How many events are kept.
pub const MOST: usize = 2048;

/// How many bytes of events are kept.
pub const MOST_BYTES: usize = 1 << 20;

/// An event that is kept, as it is sent.
#[derive(Clone, Debug)]
pub struct RingEvent {
    number: u64,
    agent: Option<Key>,
    /// The labels that this agent had.
    labels: BTreeMap<String, String>,
    /// In the format of the HTML standard, chapter "Server-sent events", including the blank line.
    pub message: Bytes,
}

impl RingEvent {
    fn new(event: &Event, labels: BTreeMap<String, String>) -> Self {
        let data = printable::json(serde_json::to_string(event).unwrap_or_default());
        Self {
            number: event.id.number,
            agent: event.what.agent().and_then(|name| name.parse().ok()),
            labels,
            message: format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.what.kind()).into(),
        }
    }

    /// How many bytes it takes.
    fn size(&self) -> usize {
        self.message.len() + self.labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
    }

    /// Whether a listener for agents with these labels gets the event: an event about no agent concerns all.
    pub fn is_labeled(&self, selectors: &[Selector]) -> bool {
        self.agent.is_none() || labels::fits_all(selectors, &self.labels)
    }

    /// Whether a listener for this agent gets the event: an event about no agent concerns all.
    pub fn concerns(&self, agent: &Key) -> bool {
        self.agent.as_ref().is_none_or(|about| about == agent)
    }
}

/// The latest events.
#[derive(Debug)]
pub struct Ring {
    epoch: u64,
    kept: VecDeque<RingEvent>,
    bytes: usize,
    last: u64,
}

impl Ring {
    /// The empty ring of a daemon that started at that time.
    pub fn new(started: SystemTime) -> Self {
        let since_1970 = started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = u64::try_from(since_1970.as_millis()).unwrap_or_default();
        Self { epoch, kept: VecDeque::new(), bytes: 0, last: 0 }
    }

    /// Adds an event that happens now, about no agent or one without labels.
    pub fn push(&mut self, what: What) {
        self.push_labeled(what, BTreeMap::new());
    }

    /// Adds an event that happens now, about an agent with these labels.
    pub fn push_labeled(&mut self, what: What, labels: BTreeMap<String, String>) {
        self.last += 1;
        let kept = RingEvent::new(&Event { id: self.latest(), at: Time(SystemTime::now()), what }, labels);
        self.bytes += kept.size();
        self.kept.push_back(kept);
        while self.kept.len() > MOST || self.bytes > MOST_BYTES {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.bytes -= oldest.size();
        }
    }

    /// The id of the latest event.
    pub fn latest(&self) -> Id {
        Id { epoch: self.epoch, number: self.last }
    }

    /// The events that a listener has not seen, in order. If it has missed some, the first one says so. After that, it has seen the
    /// [`latest`](Self::latest).
    pub fn since(&self, since: Since) -> Vec<RingEvent> {
        let oldest = self.kept.front().map_or(self.last + 1, |kept| kept.number);
        let (next, is_lost) = match since {
            Since::Beginning => (oldest, false),
            Since::Seen(Id { epoch, number }) if epoch == self.epoch && number <= self.last => {
                (oldest.max(number + 1), number + 1 < oldest)
            }
            Since::Seen(_) => (oldest, true),
        };
        let missed = is_lost.then(|| {
            let id = Id { epoch: self.epoch, number: oldest - 1 };
            RingEvent::new(&Event { id, at: Time(SystemTime::now()), what: What::Missed {} }, BTreeMap::new())
        });
        let seen = usize::try_from(next - oldest).unwrap_or(usize::MAX);
        missed.into_iter().chain(self.kept.iter().skip(seen).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agent::name::key;
    use crate::wire::events::Subject;

    fn ring(events: usize) -> Ring {
        let mut ring = Ring::new(UNIX_EPOCH + Duration::from_millis(7));
        (1..=events).for_each(|number| ring.push(What::Removed { name: format!("Agent-{number}") }));
        ring
    }

    fn ids(kept: &[RingEvent]) -> Vec<String> {
        let id = |kept: &RingEvent| {
            let text = str::from_utf8(&kept.message).unwrap();
            let fields: Vec<&str> =
                text.lines().map(|line| line.split_once(": ").map_or(line, |(_, value)| value)).collect();
            let [id, kind, _, ""] = fields[..] else { panic!("{text}") };
            format!("{kind} {id}")
        };
        kept.iter().map(id).collect()
    }

    fn seen(id: &str) -> Since {
        Since::Seen(id.parse().unwrap())
    }

    #[test]
    fn a_listener_gets_what_it_has_not_seen() {
        let ring = ring(3);
        assert_eq!(ids(&ring.since(Since::Beginning)), ["removed 7-1", "removed 7-2", "removed 7-3"]);
        assert_eq!(ids(&ring.since(seen("7-2"))), ["removed 7-3"]);
        assert_eq!(ids(&ring.since(Since::Seen(ring.latest()))), [""; 0]);
        assert_eq!(ids(&self::ring(0).since(Since::Beginning)), [""; 0]);
    }

    #[test]
    fn a_listener_that_missed_something_learns_it_first() {
        assert_eq!(ids(&ring(1).since(seen("6-1"))), ["missed 7-0", "removed 7-1"], "of another daemon");
        assert_eq!(ids(&ring(1).since(seen("7-2"))), ["missed 7-0", "removed 7-1"], "of the future");
        assert_eq!(ids(&ring(0).since(seen("6-1"))), ["missed 7-0"]);
        let ring = ring(MOST + 2);
        assert_eq!(ids(&ring.since(seen("7-1")))[..2], ["missed 7-2", "removed 7-3"]);
        assert_eq!(ids(&ring.since(seen("7-2")))[..1], ["removed 7-3"]);
        assert_eq!(ids(&ring.since(Since::Beginning))[..1], ["removed 7-3"]);
    }

    #[test]
    fn the_ring_keeps_only_what_there_is_room_for() {
        let mut ring = ring(0);
        let error = "x".repeat(MOST_BYTES / 4);
        (0..9).for_each(|_| {
            ring.push(What::Error { about: Subject::Config, name: None, error: error.clone() });
            assert!(ring.bytes <= MOST_BYTES);
        });
        assert_eq!(ids(&ring.since(Since::Beginning)), ["error 7-7", "error 7-8", "error 7-9"]);
        assert_eq!(ring.bytes, ring.kept.iter().map(|kept| kept.message.len()).sum::<usize>());
    }

    #[test]
    fn a_listener_for_a_label_gets_events_of_agents_that_had_it() {
        let mut ring = ring(0);
        let removed = |name: &str| What::Removed { name: name.to_owned() };
        ring.push_labeled(removed("a"), [("team".to_owned(), "web".to_owned())].into());
        ring.push(removed("b"));
        ring.push(What::Resolved { about: Subject::Config, name: None });
        let selected = |label: &str| {
            let selectors = [label.parse().unwrap()];
            let kept: Vec<RingEvent> = ring.since(Since::Beginning);
            ids(&kept.into_iter().filter(|kept| kept.is_labeled(&selectors)).collect::<Vec<_>>())
        };
        assert_eq!(selected("team"), ["removed 7-1", "resolved 7-3"]);
        assert_eq!(selected("team=web"), ["removed 7-1", "resolved 7-3"]);
        assert_eq!(selected("team=ops"), ["resolved 7-3"]);
        assert_eq!(ring.bytes, ring.kept.iter().map(RingEvent::size).sum::<usize>());
    }

    #[test]
    fn an_event_is_read_back_as_it_was_sent() {
        let ring = ring(1);
        let kept = &ring.since(Since::Beginning)[0];
        assert!(kept.concerns(&key("agent-1")) && !kept.concerns(&key("agent-2")));
        let data = str::from_utf8(&kept.message).unwrap().lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let event: Event = serde_json::from_str(data).unwrap();
        assert_eq!((event.id, event.what), (ring.latest(), What::Removed { name: "Agent-1".to_owned() }));
    }
}
