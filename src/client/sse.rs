//! Streamed answers, and server-sent events.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use tokio::time::timeout;

use super::{Client, Error};

/// How long a stream may be silent. The daemon sends something at least every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// The most bytes that one message may have. The daemon's messages are far shorter.
const LONGEST_MESSAGE: usize = 16 << 20;

/// An answer that is read as it arrives.
#[derive(Debug)]
pub struct Stream<'a> {
    pub(super) client: &'a Client,
    pub(super) what: String,
    pub(super) body: Incoming,
}

impl Stream<'_> {
    /// The next piece; `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.body.frame().await.map(|frame| frame.map(hyper::body::Frame::into_data)) {
                None => return Ok(None),
                Some(Ok(Ok(data))) => return Ok(Some(data)),
                // A frame without data, which the daemon does not send.
                Some(Ok(Err(_))) => {}
                Some(Err(error)) => return Err(self.client.transport(&self.what, error)),
            }
        }
    }
}

/// One server-sent event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its id; empty if it has none.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// Its data.
    pub data: String,
}

/// Server-sent events: the part of the HTML standard that the daemon uses.
#[derive(Debug)]
pub struct Messages<'a> {
    stream: Stream<'a>,
    heard: Vec<u8>,
    last_id: Option<String>,
}

impl<'a> Messages<'a> {
    pub(super) fn new(stream: Stream<'a>) -> Self {
        Self { stream, heard: Vec::new(), last_id: None }
    }

    /// The id to continue after; `None` if none has arrived. A block that is not a message may also carry one.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The next message; `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Message>, Error> {
        loop {
            while let Some(length) = self.heard.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.heard.drain(..length + 2).collect();
                let block = String::from_utf8_lossy(&block);
                if let Some(id) = value(&block, "id") {
                    self.last_id = Some(id);
                }
                if let Some(message) = message(&block) {
                    return Ok(Some(message));
                }
            }
            if self.heard.len() > LONGEST_MESSAGE {
                return Err(self.stream.client.transport(&self.stream.what, "a message without an end"));
            }
            let next = timeout(SILENCE, self.stream.next()).await;
            match next.map_err(|_| self.stream.client.timed_out(&self.stream.what, SILENCE))?? {
                Some(data) => self.heard.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }
}

/// Parses a block of lines; `None` if it has no data and so is not a message.
fn message(block: &str) -> Option<Message> {
    Some(Message {
        id: value(block, "id").unwrap_or_default(),
        kind: value(block, "event").unwrap_or_default(),
        data: value(block, "data")?,
    })
}

/// The value of the first field of this name.
fn value(block: &str, wanted: &str) -> Option<String> {
    let fields = block.lines().filter_map(|line| line.split_once(':'));
    let mut values = fields.filter(|(field, _)| *field == wanted);
    values.next().map(|(_, value)| value.strip_prefix(' ').unwrap_or(value).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_has_fields_and_a_comment_is_not_a_message() {
        let expected = Message { id: "7-1".to_owned(), kind: "state".to_owned(), data: "{\"a\": 1}".to_owned() };
        assert_eq!(message("id: 7-1\nevent: state\ndata: {\"a\": 1}\n\n"), Some(expected));
        let expected = Message { id: String::new(), kind: String::new(), data: "x:y".to_owned() };
        assert_eq!(message("data:x:y\n\n"), Some(expected));
        assert_eq!(message(":\n\n"), None);
        assert_eq!(message("retry: 1000\nid: 7-1\n\n"), None);
        assert_eq!(value("retry: 1000\nid: 7-1\n\n", "id"), Some("7-1".to_owned()));
    }
}
