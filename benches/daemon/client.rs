//! A client of the API: blocking, on one connection that is kept.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::Deserialize;

use crate::wait::BOUND;

const REQUEST: &[u8] = b"GET /v1/agents HTTP/1.1\r\nHost: agentd\r\n\r\n";

/// The fields of an agent that the benchmark reads.
#[derive(Debug, Deserialize)]
pub struct Agent {
    pub running: bool,
    pub error: Option<String>,
}

/// The connection.
pub struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Client {
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(BOUND))?;
        Ok(Self { stream, buffer: vec![0; 128 << 10] })
    }

    /// All agents.
    pub fn agents(&mut self) -> io::Result<Vec<Agent>> {
        serde_json::from_slice(self.body()?).map_err(io::Error::from)
    }

    /// The whole body of `GET /v1/agents`.
    pub fn body(&mut self) -> io::Result<&[u8]> {
        self.stream.write_all(REQUEST)?;
        let mut filled = 0;
        let (start, end) = loop {
            filled += self.read(filled)?;
            if let Some(head) = self.buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                break (head + 4, head + 4 + content_length(&self.buffer[..head])?);
            }
        };
        while filled < end {
            filled += self.read(filled)?;
        }
        Ok(&self.buffer[start..end])
    }

    fn read(&mut self, filled: usize) -> io::Result<usize> {
        if filled == self.buffer.len() {
            self.buffer.resize(2 * filled, 0);
        }
        match self.stream.read(&mut self.buffer[filled..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }
}

fn content_length(head: &[u8]) -> io::Result<usize> {
    let head = std::str::from_utf8(head).map_err(io::Error::other)?;
    let mut lines = head.lines();
    if !lines.next().is_some_and(|status| status.contains(" 200 ")) {
        return Err(io::Error::other(format!("not what was asked for: {head}")));
    }
    lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or_else(|| io::Error::other(format!("no Content-Length: {head}")))
}
