//! Answers that have no end, or take their time.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use tokio::time::timeout;

use super::{Client, Error};

/// How long nothing may come: the daemon shows every 15 s that it is there.
const SILENCE: Duration = Duration::from_secs(45);

/// The most that a message may be made of. The daemon's are far shorter.
const LONGEST_MESSAGE: usize = 16 << 20;

/// An answer as it comes.
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
                // No data, and nothing that the daemon sends.
                Some(Ok(Err(_))) => {}
                Some(Err(error)) => return Err(self.client.transport(&self.what, error)),
            }
        }
    }
}

/// A message of server-sent events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its id; empty if it has none.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// What it says.
    pub data: String,
}

/// Server-sent events, as the HTML standard has them, as far as the daemon makes use of that.
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

    /// The id to go on after, which also comes with what is no message; `None` before there was any.
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

/// What a block of lines says; `None` for one without data, which is no message.
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
    fn a_message_is_its_fields_and_a_comment_is_none() {
        let expected = Message { id: "7-1".to_owned(), kind: "state".to_owned(), data: "{\"a\": 1}".to_owned() };
        assert_eq!(message("id: 7-1\nevent: state\ndata: {\"a\": 1}\n\n"), Some(expected));
        let expected = Message { id: String::new(), kind: String::new(), data: "x:y".to_owned() };
        assert_eq!(message("data:x:y\n\n"), Some(expected));
        assert_eq!(message(":\n\n"), None);
        assert_eq!(message("retry: 1000\nid: 7-1\n\n"), None);
        assert_eq!(value("retry: 1000\nid: 7-1\n\n", "id"), Some("7-1".to_owned()));
    }
}
