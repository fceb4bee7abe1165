//! Redacts a text that comes in pieces, before it is shown.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::index::{PIECE, marked_on};
use super::{Masking, Redactor};

/// How much insignificant text between two significant bytes is held back at most.
const MOST_HELD: usize = 16 << 10;

/// Redacts a text that comes in pieces, on its way to be shown.
#[derive(Default)]
pub struct TextStream {
    redactor: Arc<Redactor>,
    /// The last significant bytes that were shown.
    before: Zeroizing<Vec<u8>>,
    /// What has come and is not shown yet, since a secret may begin there.
    held: Zeroizing<String>,
    masking: Masking,
}

impl TextStream {
    /// Redacts what this redactor finds.
    pub fn new(redactor: impl Into<Arc<Redactor>>) -> Self {
        Self {
            redactor: redactor.into(),
            before: Zeroizing::default(),
            held: Zeroizing::default(),
            masking: Masking::default(),
        }
    }

    /// Takes the next piece, and answers what can be shown of it.
    pub fn pass(&mut self, piece: &str) -> String {
        if self.redactor.index().is_idle() {
            return piece.to_owned();
        }
        self.held.push_str(piece);
        let (is_secret, places) = self.redactor.index().marks(&self.before, &self.held);
        let last = self.last(&places);
        // What is redacted anyhow is not held back.
        let free = places.iter().rev().take_while(|&&at| !is_secret[at]).count();
        let count = self.redactor.index().suspicion(&last).min(free).min(places.len());
        let from = if count == 0 { self.held.len() } else { places[places.len() - count] };
        let from = self.held.floor_char_boundary(from);
        let from = if self.held.len() - from > MOST_HELD { self.held.len() } else { from };
        self.release(from, &is_secret, &places)
    }

    /// Whether nothing is held back.
    pub fn is_all_shown(&self) -> bool {
        self.held.is_empty()
    }

    /// Nothing more comes for a while: what was held back is shown, which is less than a [`PIECE`] of a secret.
    pub fn pause(&mut self) -> String {
        if self.held.is_empty() {
            return String::new();
        }
        let (is_secret, places) = self.redactor.index().marks(&self.before, &self.held);
        self.release(self.held.len(), &is_secret, &places)
    }

    /// The last significant bytes of all, fewer than a [`PIECE`].
    fn last(&self, places: &[usize]) -> Zeroizing<Vec<u8>> {
        let held = self.held.as_bytes();
        let all = self.before.len() + places.len();
        let from = all.saturating_sub(PIECE - 1);
        let mut last = Zeroizing::new(self.before.get(from..).unwrap_or_default().to_vec());
        last.extend(places[from.saturating_sub(self.before.len())..].iter().map(|&at| held[at]));
        last
    }

    fn release(&mut self, until: usize, is_secret: &[bool], places: &[usize]) -> String {
        let shown = marked_on(&mut self.masking, &self.held[..until], &is_secret[..until]);
        let released = places.partition_point(|&at| at < until);
        self.before = self.last(&places[..released]);
        self.held.drain(..until);
        shown
    }
}
