//! Passes on what a run prints, as it comes.

use std::io::{self, IsTerminal, Write};

use tokio::time::sleep;

use crate::cli::output::{BETWEEN_DAEMONS, Failure};
use crate::client::{Client, Error};
use crate::text::printable;

/// Where what a run prints goes: the bytes as they are, but to a terminal only what does not act on it.
pub struct Sink<W> {
    out: W,
    is_terminal: bool,
    /// The beginning of a character whose end has not come.
    part: Vec<u8>,
}

impl Sink<io::Stdout> {
    /// Standard output.
    pub fn stdout() -> Self {
        Self { out: io::stdout(), is_terminal: io::stdout().is_terminal(), part: Vec::new() }
    }
}

impl Sink<io::Stderr> {
    /// Standard error.
    pub fn stderr() -> Self {
        Self { out: io::stderr(), is_terminal: io::stderr().is_terminal(), part: Vec::new() }
    }
}

impl<W: Write> Sink<W> {
    /// As it is, also to a terminal.
    #[must_use]
    pub fn raw(self) -> Self {
        Self { is_terminal: false, ..self }
    }

    /// Passes a piece on.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        if !self.is_terminal {
            self.out.write_all(piece)?;
            return self.out.flush();
        }
        let mut all = std::mem::take(&mut self.part);
        all.extend_from_slice(piece);
        let mut text = String::new();
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let is_part = std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
            if chunks.peek().is_none() && is_part {
                self.part = chunk.invalid().to_vec();
            } else if !chunk.invalid().is_empty() {
                text.push('\u{fffd}');
            }
        }
        self.out.write_all(printable::plain(&text).as_bytes())?;
        self.out.flush()
    }
}

/// Passes on an output of a run, from `sent` bytes on, until the run is over or the daemon says that this is all. Counts the bytes, so
/// that a later call goes on where this one was cut off.
pub async fn pass<W: Write>(
    client: &Client,
    name: &str,
    output: &str,
    sent: &mut u64,
    sink: &mut Sink<W>,
) -> Result<(), Failure> {
    loop {
        match client.output(name, output, &format!("follow=true&from={sent}")).await {
            Ok(mut stream) => loop {
                match stream.next().await {
                    Ok(Some(piece)) => {
                        *sent = sent.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
                        sink.write(&piece).map_err(Failure::Print)?;
                    }
                    Ok(None) => return Ok(()),
                    Err(error) if error.may_come_back() => break,
                    Err(error) => return Err(Failure::Ask(error)),
                }
            },
            // Too many clients, or secrets that could not be read yet.
            Err(Error::Refused { status, .. }) if status.is_server_error() => {}
            Err(error) if error.may_come_back() => {}
            Err(error) => return Err(Failure::Ask(error)),
        }
        sleep(BETWEEN_DAEMONS).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(is_terminal: bool, pieces: &[&[u8]]) -> Vec<u8> {
        let mut sink = Sink { out: Vec::new(), is_terminal, part: Vec::new() };
        for piece in pieces {
            sink.write(piece).unwrap();
        }
        sink.out
    }

    #[test]
    fn nothing_that_acts_on_a_terminal_reaches_one() {
        let said: [&[u8]; 3] = [b"gr\xc3", b"\xbcn\x1b]0;x\x07\n", b"\xff!\n"];
        let shown = String::from_utf8(passed(true, &said)).unwrap();
        assert!(shown.starts_with("grün") && shown.ends_with("\u{fffd}!\n"), "{shown:?}");
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'), "{shown:?}");
        assert_eq!(passed(false, &said), said.concat());
    }
}
