//! What a program prints once more after it had the terminal forget it.
//!
//! A terminal interface whose picture is higher than the screen cannot paint it again: what scrolled off is out of its reach. So it
//! erases the screen and what the terminal remembers of earlier rows (`CSI 2 J`, `CSI 3 J`), and prints everything from the beginning,
//! several times a second. Rows that scroll off then are compared with those before, in their order: what is the same is no news.
//!
//! A program that erases the screen and then prints something else is no such program, so nothing of it is left out.

use std::hash::{BuildHasher, RandomState};

/// How many rows are compared with one that is new: so many may have changed or gone at one place.
const NEAR: usize = 200;

/// How many rows are remembered at most, eight bytes each.
const MOST: usize = 1 << 16;

/// The rows that scrolled off, as hashes, and those that are expected to come again.
#[derive(Default)]
pub struct Replay {
    hasher: RandomState,
    /// What scrolled off since the terminal forgot what had.
    printed: Vec<u64>,
    /// What had scrolled off before, from where it was found last.
    expected: Vec<u64>,
    /// How many of these have come.
    come: usize,
    /// How many rows in a row were new.
    missed: usize,
}

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Novelty {
    /// It is the next of those that were there before.
    Repeated,
    /// It was not there before.
    New,
    /// It is empty, which tells nothing of itself.
    Unclear,
}

impl Replay {
    /// The terminal has forgotten all that scrolled off.
    pub fn begin(&mut self) {
        // What did not come this time, because the picture was lower, may come the next time.
        let room = MOST.saturating_sub(self.printed.len());
        self.printed.extend(self.expected.iter().skip(self.come).take(room));
        self.expected = std::mem::take(&mut self.printed);
        (self.come, self.missed) = (0, 0);
    }

    /// Whether rows may come again.
    pub fn is_expected(&self) -> bool {
        self.come < self.expected.len()
    }

    /// Whether more of them may come, as far as those that have come show.
    pub fn is_under_way(&self) -> bool {
        self.missed == 0 && self.is_expected()
    }

    /// A row has scrolled off, or is about to.
    pub fn judge(&mut self, row: &str) -> Novelty {
        let hash = self.hasher.hash_one(row);
        self.keep(hash);
        if !self.is_expected() {
            return Novelty::New;
        }
        if self.expected[self.come] == hash {
            self.come += 1;
            self.missed = 0;
            return Novelty::Repeated;
        }
        if row == "\n" {
            return Novelty::Unclear;
        }
        if let Some(place) = self.place(hash) {
            self.come += place + 1;
            self.missed = 0;
            return Novelty::Repeated;
        }
        self.missed += 1;
        if self.missed > NEAR {
            self.expected.clear();
            self.come = 0;
        }
        Novelty::New
    }

    /// Whether a row is among those that are expected next.
    pub fn expects(&self, row: &str) -> bool {
        self.place(self.hasher.hash_one(row)).is_some()
    }

    /// A row has scrolled off that is compared with none.
    pub fn remember(&mut self, row: &str) {
        if self.printed.len() < MOST {
            self.keep(self.hasher.hash_one(row));
        }
    }

    /// Whether no more is remembered.
    pub fn is_full(&self) -> bool {
        self.printed.len() >= MOST
    }

    fn keep(&mut self, hash: u64) {
        if self.printed.len() < MOST {
            self.printed.push(hash);
        }
    }

    fn place(&self, hash: u64) -> Option<usize> {
        self.expected[self.come..].iter().take(NEAR).position(|&expected| expected == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(before: &[&str]) -> Replay {
        let mut replay = Replay::default();
        for row in before {
            assert_eq!(replay.judge(row), Novelty::New);
        }
        replay.begin();
        replay
    }

    #[test]
    fn rows_that_come_again_in_their_order_are_no_news() {
        use Novelty::{New, Repeated, Unclear};
        let mut replay = replay(&["title\n", "one\n", "\n", "two\n"]);
        let now = ["title\n", "\n", "new\n", "one\n", "\n", "two\n", "one\n", "\n"];
        let judged: Vec<Novelty> = now.iter().map(|row| replay.judge(row)).collect();
        assert_eq!(judged, [Repeated, Unclear, New, Repeated, Repeated, Repeated, New, New]);
    }

    #[test]
    fn rows_that_were_missing_once_are_known_again() {
        let mut replay = replay(&["title\n", "one\n", "two\n"]);
        assert_eq!(replay.judge("title\n"), Novelty::Repeated);
        replay.begin();
        assert!(["title\n", "one\n", "two\n"].iter().all(|row| replay.judge(row) == Novelty::Repeated));
    }

    #[test]
    fn many_rows_that_are_new_end_what_is_expected() {
        let mut replay = replay(&["title\n", "end\n"]);
        for number in 0..=NEAR {
            assert_eq!(replay.judge(&format!("{number}\n")), Novelty::New);
        }
        assert!(!replay.is_expected());
        assert_eq!(replay.judge("end\n"), Novelty::New);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut replay = Replay::default();
        (0..MOST + 9).for_each(|_| replay.remember("x\n"));
        assert!(replay.is_full());
        replay.begin();
        replay.begin();
        assert_eq!((replay.expected.len(), replay.printed.len()), (MOST, 0));
    }
}
