//! Serves what runs print on standard output and standard error: the bytes as they are, without secrets, and followed as they grow.
//!
//! Nothing is parsed: bytes that are no text pass as they are. The launcher has masked secrets in the files already; those that a
//! [log](super::logs) would not show are redacted here as there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::query::Begin;
use crate::agent::name::Key;
use crate::api::outlet::{Gone, Outlet};
use crate::deputy::transcript::{Broken, Outlet as _};
use crate::logs::attempt::Output;
use crate::logs::reader::{Busy, Follower, Log};
use crate::logs::store::Store;
use crate::observe::snapshot::Snapshot;
use crate::text::redact::{Redactor, TextStream};

/// How long what may be the beginning of a secret is held back while nothing more comes.
const SETTLE: Duration = Duration::from_secs(1);

/// How often to look for the file of a run that has not begun.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The most bytes of a character that has not arrived as a whole.
const LONGEST_PART: usize = 3;

/// Why an output cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Too many files are being read.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The file cannot be read.
    #[error("failed to read what was printed: {0}")]
    Read(#[from] io::Error),
}

/// An answer about an output of a run.
pub(super) struct Printing {
    pub(super) store: Store,
    pub(super) run: Key,
    pub(super) output: Output,
    pub(super) begin: Begin,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
}

/// An output, and where the wanted bytes begin.
pub(super) struct Opened {
    log: Arc<Log>,
    at: u64,
}

impl Printing {
    /// Opens the output; `None` if nothing is kept of it, or the run has not begun.
    pub(super) async fn open(&self) -> Result<Option<Opened>, Error> {
        let (store, run, output, begin) = (self.store.clone(), self.run.clone(), self.output, self.begin);
        let work = move |is_wanted: &dyn Fn() -> bool| {
            let Some(log) = store.open_output(&run, output).map_err(io::Error::other)? else { return Ok(None) };
            let end = log.end()?;
            let at = match begin {
                Begin::At(offset) => offset.min(end),
                Begin::LastBytes(count) => end.saturating_sub(count),
                Begin::LastLines(count) => log.last_lines(count, is_wanted)?,
            };
            Ok(Some(Opened { log: Arc::new(log), at }))
        };
        self.store.readers().work(work).await??.map_err(Error::Read)
    }

    /// Sends what is there now.
    pub(super) async fn tell(self, outlet: Outlet, redactor: Arc<Redactor>, opened: Opened) -> Result<(), Broken> {
        let (mut follower, mut shown) = (Follower::new(opened.log, opened.at), Shown::new(redactor));
        while let Some(piece) = follower.read().await? {
            send(&outlet, shown.pass(&piece.bytes)).await?;
        }
        Ok(send(&outlet, shown.pause()).await?)
    }

    /// Sends what is there and what is printed later, until the run is over. Waits for a run that has not begun.
    pub(super) async fn follow(
        mut self,
        outlet: Outlet,
        redactor: Arc<Redactor>,
        opened: Option<Opened>,
    ) -> Result<(), Broken> {
        let Some(Opened { log, at }) = self.begun(opened).await? else { return Ok(()) };
        let (mut follower, mut shown) = (Follower::new(log, at), Shown::new(redactor));
        let mut settles_at = None;
        while !self.is_over() {
            let settling = async {
                match settles_at {
                    Some(time) => sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            // Each arm only takes what has arrived, so canceling the others loses nothing.
            tokio::select! {
                piece = follower.next() => send(&outlet, shown.pass(&piece?.bytes)).await?,
                () = settling => send(&outlet, shown.pause()).await?,
                changed = self.snapshot.changed() => if changed.is_err() { return Err(ending()) },
            }
            settles_at = if shown.is_all_shown() { None } else { settles_at.or(Some(Instant::now() + SETTLE)) };
        }
        while let Some(piece) = follower.read().await? {
            send(&outlet, shown.pass(&piece.bytes)).await?;
        }
        Ok(send(&outlet, shown.pause()).await?)
    }

    /// The output of a run that has begun; `None` if it has ended without one.
    async fn begun(&mut self, opened: Option<Opened>) -> Result<Option<Opened>, Broken> {
        let mut opened = opened;
        while opened.is_none() {
            // Before it is looked for: the file may be made right before the end.
            let is_over = self.is_over();
            opened = self.open().await.map_err(|error| Broken::Failed(error.to_string()))?;
            if opened.is_some() || is_over {
                break;
            }
            tokio::select! {
                changed = self.snapshot.changed() => if changed.is_err() { return Err(ending()) },
                () = sleep(LOOK_AGAIN) => {}
            }
        }
        Ok(opened)
    }

    /// Whether nothing more is printed. Marks the present state as seen.
    fn is_over(&mut self) -> bool {
        self.snapshot.borrow_and_update().run(&self.run).is_none_or(|run| run.is_over())
    }
}

/// The run goes on, and the client must not take this for the end.
fn ending() -> Broken {
    Broken::Failed("agentd is ending".to_owned())
}

async fn send(outlet: &Outlet, bytes: Vec<u8>) -> Result<(), Gone> {
    if bytes.is_empty() { Ok(()) } else { outlet.send(Bytes::from(bytes)).await }
}

/// Redacts bytes on their way to a client.
struct Shown {
    text: TextStream,
    /// The beginning of a character whose end has not come.
    part: Vec<u8>,
}

impl Shown {
    fn new(redactor: Arc<Redactor>) -> Self {
        Self { text: TextStream::new(redactor), part: Vec::new() }
    }

    /// Takes the next bytes, and answers what can be shown of all.
    fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.part);
        all.extend_from_slice(bytes);
        let (mut shown, mut chunks) = (Vec::with_capacity(all.len()), all.utf8_chunks().peekable());
        while let Some(chunk) = chunks.next() {
            shown.extend_from_slice(self.text.pass(chunk.valid()).as_bytes());
            let rest = chunk.invalid();
            if chunks.peek().is_none() && is_part(rest) {
                self.part = rest.to_vec();
            } else if !rest.is_empty() {
                shown.extend_from_slice(self.text.pause().as_bytes());
                shown.extend_from_slice(rest);
            }
        }
        shown
    }

    /// Whether nothing is held back.
    fn is_all_shown(&self) -> bool {
        self.text.is_all_shown() && self.part.is_empty()
    }

    /// Nothing more comes for a while: answers what was held back.
    fn pause(&mut self) -> Vec<u8> {
        let mut shown = self.text.pause().into_bytes();
        shown.append(&mut self.part);
        shown
    }
}

/// Whether more bytes can make a character of these.
fn is_part(bytes: &[u8]) -> bool {
    (1..=LONGEST_PART).contains(&bytes.len())
        && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sys::secret_bytes::SecretBytes;

    fn shown(pieces: &[&[u8]]) -> Vec<u8> {
        let redactor = Redactor::new([SecretBytes::from("hunter2hunter2")]);
        let mut shown = Shown::new(Arc::new(redactor));
        let mut all: Vec<u8> = pieces.iter().flat_map(|piece| shown.pass(piece)).collect();
        all.extend(shown.pause());
        assert!(shown.is_all_shown());
        all
    }

    #[test]
    fn a_secret_is_redacted_however_it_is_cut() {
        let text = "grün: hunter2hunter2.".as_bytes();
        for cut in 0..text.len() {
            let (one, other) = text.split_at(cut);
            let shown = String::from_utf8(shown(&[one, other])).unwrap();
            // A letter or two are not suspicious yet.
            assert!(shown.starts_with("grün: ") && shown.contains("********"), "{cut}: {shown}");
            assert!(!shown.contains("er2hunter2") && shown.len() == text.len(), "{cut}: {shown}");
        }
    }

    proptest! {
        #[test]
        fn bytes_without_secrets_pass_as_they_are(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(shown(&pieces), pieces.concat());
        }
    }
}
