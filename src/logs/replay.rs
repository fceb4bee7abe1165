//! Recognizes what a program prints again after it erased the terminal.
//!
//! A terminal interface whose picture is higher than the screen cannot repaint it: what scrolled off is out of reach. So it
//! erases the screen and the terminal's memory of earlier rows (`CSI 2 J`, `CSI 3 J`), and prints everything from the beginning,
//! several times a second. The new rows are compared with the earlier ones, in order: a row that is the same is not new.
//!
//! A program that erases the screen and then prints something else does not replay, so none of its output is left out:
//!
//! - A row that is not the very next one counts as repeated only together with those that [follow](ALIKE) it.
//! - The rows that were on the screen are kept until they come again. Those that do not come are emitted, unless others took their
//!   place in a picture that is mostly the same (a spinner).

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

/// How many expected rows are compared with a new one: this many may have changed or vanished at one place.
const NEAR: usize = 200;

/// How many rows are remembered at most, eight bytes each.
const MOST: usize = 1 << 16;

/// How many nonempty rows must match in a row after some did not.
const ALIKE: usize = 3;

/// How many must match if they are the last ones.
const ALIKE_AT_END: usize = 2;

/// How many rows are compared at most before they count as repeated, empty ones included.
const LONGEST: usize = 2 * ALIKE;

/// How many settles may pass without an expected row before no more are awaited.
const MOST_QUIET: usize = 3;

/// The rows that scrolled off, as hashes, and those that are expected again.
#[derive(Default)]
pub struct Replay {
    hasher: RandomState,
    /// What has scrolled off since the terminal last forgot such rows.
    printed: Vec<u64>,
    /// What was printed before: rows that had scrolled off, rows of the screen, and rows that have been missing since an earlier
    /// time.
    expected: Vec<u64>,
    /// Which of the expected rows have come.
    has_come: Vec<bool>,
    /// Where the rows of the screen begin among the expected ones.
    shown_at: usize,
    shown: Vec<Shown>,
    place: Position,
    /// What remains to be emitted of the rows that the place holds back.
    held: VecDeque<Held>,
    /// Whether a nonempty row was found among the expected ones.
    is_known: bool,
    /// How many rows have come that had scrolled off before, and how many that are new.
    came: usize,
    news: usize,
    /// How many rows in a row were new.
    missed: usize,
    /// How many settles have passed without an expected row.
    quiet: usize,
}

/// A row that was on the screen when it was erased.
struct Shown {
    /// The row, until it is emitted or given up.
    row: Option<String>,
    is_told: bool,
    is_blank: bool,
}

/// What remains to be emitted of a row that is held back.
struct Held {
    left: String,
    is_blank: bool,
}

/// How far the incoming rows were found among the expected ones.
#[derive(Clone, Default)]
struct Position {
    /// How many of the expected rows have come.
    come: usize,
    /// Rows that match expected ones after a gap; the next rows have to confirm them.
    held: VecDeque<u64>,
}

/// Where a row was found among those expected.
type Found = Option<usize>;

impl Position {
    /// Takes a row. Appends where this row and those held back before it were found.
    fn advance(&mut self, expected: &[u64], row: u64, blank: u64, found: &mut Vec<Found>) {
        self.held.push_back(row);
        while let Some(&first) = self.held.front() {
            if expected.get(self.come) == Some(&first) {
                found.push(Some(self.come));
                self.come += 1;
                self.held.pop_front();
                continue;
            }
            // An empty row proves nothing by itself.
            let at = if first == blank { None } else { self.find(expected) };
            let Some(at) = at else {
                found.push(None);
                self.held.pop_front();
                continue;
            };
            if self.alike(blank) < ALIKE && self.held.len() < LONGEST {
                return;
            }
            self.accept(at, found);
        }
    }

    /// Decides about the rows held back: no more rows come.
    fn finish(&mut self, expected: &[u64], blank: u64, found: &mut Vec<Found>) {
        while !self.held.is_empty() {
            match self.find(expected) {
                Some(at) if self.alike(blank) >= ALIKE_AT_END && at + self.held.len() == expected.len() => {
                    self.accept(at, found);
                }
                _ => {
                    found.push(None);
                    self.held.pop_front();
                }
            }
        }
    }

    fn accept(&mut self, at: usize, found: &mut Vec<Found>) {
        found.extend((at..at + self.held.len()).map(Some));
        self.come = at + self.held.len();
        self.held.clear();
    }

    fn alike(&self, blank: u64) -> usize {
        self.held.iter().filter(|&&row| row != blank).count()
    }

    fn find(&self, expected: &[u64]) -> Option<usize> {
        let near = expected.get(self.come..)?;
        let near = &near[..near.len().min(NEAR)];
        let matches = |rest: &[u64]| rest.len() >= self.held.len() && self.held.iter().zip(rest).all(|(a, b)| a == b);
        (0..near.len()).find(|&at| matches(&near[at..])).map(|at| self.come + at)
    }
}

/// Whether a row is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Novelty {
    /// The row was printed before, and was emitted.
    Repeated,
    /// The row must be emitted.
    New,
    /// The row is empty, which proves nothing by itself.
    Unclear,
}

impl Replay {
    /// Begins a replay: the terminal has forgotten the rows that scrolled off and those of the screen. Each row of the screen
    /// comes with whether it was emitted.
    pub fn begin(&mut self, screen: Vec<(String, bool)>) {
        // Rows that did not come this time, because the picture was lower, may come the next time, unless they were never
        // emitted.
        let is_told = |at: &usize| !self.has_come[*at] && self.shown_of(*at).is_none_or(|shown| shown.is_told);
        let rest: Vec<u64> = (0..self.expected.len()).filter(is_told).map(|at| self.expected[at]).collect();
        let mut expected = std::mem::take(&mut self.printed);
        self.shown_at = expected.len();
        expected.extend(screen.iter().map(|(row, _)| self.hash(row)));
        expected.extend(rest);
        // The rows of the screen may exceed the limit, but nothing else may.
        expected.truncate(MOST + screen.len());
        self.has_come = vec![false; expected.len()];
        self.expected = expected;
        self.shown = screen
            .into_iter()
            .map(|(row, is_told)| Shown { is_blank: is_blank(&row), row: (!is_told).then_some(row), is_told })
            .collect();
        self.place = Position::default();
        (self.came, self.news, self.missed, self.quiet, self.is_known) = (0, 0, 0, 0, false);
    }

    /// Whether rows may come again.
    pub fn is_expected(&self) -> bool {
        self.place.come < self.expected.len()
    }

    /// Whether a row is withheld until others come.
    pub fn withholds(&self) -> bool {
        !self.held.is_empty() || self.shown.iter().any(|shown| shown.row.is_some())
    }

    /// Whether more expected rows are likely to come, judging by those that have come.
    pub fn is_under_way(&self) -> bool {
        self.missed == 0 && self.quiet < MOST_QUIET && self.is_expected()
    }

    /// Records that a settle has passed.
    pub fn wait(&mut self) {
        self.quiet = self.quiet.saturating_add(1);
    }

    /// Judges a row that scrolled off, of which `left` remains to be emitted. Returns what is now decided about this row and
    /// those held back.
    pub fn judge(&mut self, row: &str, left: String) -> Vec<(String, Novelty)> {
        self.remember(row);
        let (row, blank) = (self.hash(row), self.hash(""));
        let mut found = Vec::new();
        self.held.push_back(Held { left, is_blank: row == blank });
        self.place.advance(&self.expected, row, blank, &mut found);
        self.decide(&found)
    }

    /// Decides about the rows held back if these rows, which follow on the screen, do not confirm them.
    pub fn give_up(&mut self, screen: &[Found]) -> Vec<(String, Novelty)> {
        let Some(first) = screen.get(..self.held.len()) else { return Vec::new() };
        if first.iter().all(Option::is_some) {
            return Vec::new();
        }
        self.close(screen)
    }

    /// Decides about the rows held back: only these rows of the screen follow.
    pub fn close(&mut self, screen: &[Found]) -> Vec<(String, Novelty)> {
        let first = &screen[..self.held.len().min(screen.len())];
        self.place.held.clear();
        self.place.come = first.iter().flatten().max().map_or(self.place.come, |at| at + 1);
        self.decide(first)
    }

    fn decide(&mut self, found: &[Found]) -> Vec<(String, Novelty)> {
        let mut decided = Vec::with_capacity(found.len());
        for (Held { left, is_blank }, found) in self.held.drain(..found.len()).zip(found) {
            let novelty = match *found {
                Some(at) => {
                    (self.missed, self.quiet) = (0, 0);
                    self.is_known |= !is_blank;
                    self.has_come[at] = true;
                    if let Some(shown) = at.checked_sub(self.shown_at).and_then(|at| self.shown.get_mut(at)) {
                        shown.row = None;
                        match (std::mem::replace(&mut shown.is_told, true), self.is_known) {
                            (true, _) => Novelty::Repeated,
                            (false, true) => Novelty::New,
                            (false, false) => Novelty::Unclear,
                        }
                    } else {
                        self.came += 1;
                        Novelty::Repeated
                    }
                }
                None if is_blank => Novelty::Unclear,
                None => {
                    self.news += 1;
                    self.missed += 1;
                    Novelty::New
                }
            };
            decided.push((left, novelty));
        }
        decided
    }

    /// Where the rows held back and these of the screen are among the expected ones, if nothing else comes.
    pub fn find(&self, screen: &[String]) -> Vec<Found> {
        let (mut place, mut found) = (self.place.clone(), Vec::new());
        let blank = self.hash("");
        for row in screen {
            place.advance(&self.expected, self.hash(row), blank, &mut found);
        }
        place.finish(&self.expected, blank, &mut found);
        found
    }

    /// How many rows are held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Records that the row is emitted. Returns whether it was emitted before.
    pub fn tell(&mut self, found: Found) -> bool {
        let Some(at) = found else { return false };
        let Some(shown) = at.checked_sub(self.shown_at).and_then(|at| self.shown.get_mut(at)) else { return true };
        shown.row = None;
        std::mem::replace(&mut shown.is_told, true)
    }

    /// Whether this row was emitted before.
    pub fn was_told(&self, found: Found) -> bool {
        found.is_some_and(|at| self.shown_of(at).is_none_or(|shown| shown.is_told))
    }

    /// Whether no row so far indicates that earlier output is being printed again.
    pub fn is_other(&self) -> bool {
        !self.is_known
    }

    /// Whether so many rows in a row were new that the remaining rows of the screen are no longer awaited.
    pub fn is_left_behind(&self) -> bool {
        !self.is_expected() || self.missed > self.shown.len().min(NEAR)
    }

    /// Releases the rows of the old screen that did not come and are not among these: the caller emits them, unless others were
    /// painted in their place.
    pub fn release(&mut self, screen: &[Found]) -> Vec<String> {
        let is_there = |at: usize| screen.contains(&Some(self.shown_at + at));
        let rest = |(at, shown): (usize, &Shown)| !shown.is_blank && shown.row.is_some() && !is_there(at);
        let left = self.shown.iter().enumerate().filter(|&row| rest(row)).count();
        let same = self
            .shown
            .iter()
            .enumerate()
            .filter(|(at, shown)| !shown.is_blank && (self.has_come[self.shown_at + at] || is_there(*at)));
        let before = self.came + screen.iter().flatten().filter(|&&at| at < self.shown_at).count();
        let news = self.news + screen.iter().filter(|found| found.is_none()).count();
        // A program need not erase a picture that fits on the screen to paint it again.
        let is_picture = self.shown_at > 0 && before * 2 >= self.shown_at;
        let is_painted_over = left == 0 || (is_picture && left <= news && left <= same.count());
        let rows: Vec<bool> =
            self.shown.iter().enumerate().map(|(at, shown)| shown.row.is_some() && !is_there(at)).collect();
        let mut told = Vec::new();
        let mut is_after_told = true;
        for (shown, is_rest) in self.shown.iter_mut().zip(rows) {
            if !is_rest {
                is_after_told = false;
                continue;
            }
            if is_painted_over {
                shown.row = None;
            } else if !shown.is_blank || is_after_told {
                told.extend(shown.row.take());
                shown.is_told = true;
                is_after_told = true;
            } else {
                shown.row = None;
            }
        }
        told
    }

    /// Expects nothing any more if very many rows in a row were new.
    pub fn end_if_missed(&mut self) {
        if self.missed > NEAR && self.held.is_empty() {
            self.expected.clear();
            self.has_come.clear();
            self.shown.clear();
            self.place = Position::default();
        }
    }

    /// Marks these rows of the screen as come: everything on the screen is accounted for.
    pub fn advance_to(&mut self, screen: &[Found]) {
        self.place.held.clear();
        for &at in screen.iter().flatten() {
            self.has_come[at] = true;
            self.place.come = at + 1;
        }
    }

    /// Remembers a row that scrolled off.
    pub fn remember(&mut self, row: &str) {
        if self.printed.len() < MOST {
            self.printed.push(self.hash(row));
        }
    }

    /// Whether no more rows can be remembered.
    pub fn is_full(&self) -> bool {
        self.printed.len() >= MOST
    }

    fn shown_of(&self, at: usize) -> Option<&Shown> {
        self.shown.get(at.checked_sub(self.shown_at)?)
    }

    /// Ignores the line end: the cursor may still be in the last row.
    fn hash(&self, row: &str) -> u64 {
        self.hasher.hash_one(row.trim_end_matches('\n'))
    }
}

fn is_blank(row: &str) -> bool {
    row == "\n" || row.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(before: &[&str]) -> Replay {
        let mut replay = Replay::default();
        for row in before {
            assert_ne!(judged(&mut replay, &[row]), [Novelty::Repeated]);
        }
        replay.begin(Vec::new());
        replay
    }

    fn judged(replay: &mut Replay, rows: &[&str]) -> Vec<Novelty> {
        rows.iter().flat_map(|row| replay.judge(row, (*row).to_owned())).map(|(_, novelty)| novelty).collect()
    }

    #[test]
    fn rows_repeated_in_order_are_not_new() {
        use Novelty::{New, Repeated, Unclear};
        let mut replay = replay(&["title\n", "one\n", "\n", "two\n"]);
        let now = ["title\n", "\n", "new\n", "one\n", "\n", "two\n", "one\n", "\n"];
        assert_eq!(judged(&mut replay, &now), [Repeated, Unclear, New, Repeated, Repeated, Repeated, New, Unclear]);
    }

    #[test]
    fn rows_missing_once_are_recognized_later() {
        let mut replay = replay(&["title\n", "one\n", "two\n"]);
        assert_eq!(judged(&mut replay, &["title\n"]), [Novelty::Repeated]);
        replay.begin(Vec::new());
        assert_eq!(judged(&mut replay, &["title\n", "one\n", "two\n"]), [Novelty::Repeated; 3]);
    }

    #[test]
    fn many_new_rows_end_a_replay() {
        let mut replay = replay(&["title\n", "end\n"]);
        for number in 0..=NEAR {
            assert_eq!(judged(&mut replay, &[&format!("{number}\n")]), [Novelty::New]);
            replay.end_if_missed();
        }
        assert!(!replay.is_expected());
        assert_eq!(judged(&mut replay, &["end\n"]), [Novelty::New]);
    }

    #[test]
    fn remembered_rows_are_bounded() {
        let mut replay = Replay::default();
        (0..MOST + 9).for_each(|_| replay.remember("x\n"));
        assert!(replay.is_full());
        replay.begin(Vec::new());
        replay.begin(Vec::new());
        assert_eq!((replay.expected.len(), replay.printed.len()), (MOST, 0));
    }

    #[test]
    fn a_row_without_confirmation_is_new() {
        use Novelty::{New, Repeated};
        let mut replay = replay(&["title\n", "one\n", "}\n", "two\n", "three\n"]);
        let now = ["title\n", "}\n", "other\n", "}\n", "two\n", "three\n"];
        assert_eq!(judged(&mut replay, &now), [Repeated, New, New, Repeated, Repeated, Repeated]);
    }

    #[test]
    fn missing_rows_are_awaited_for_a_few_settles_only() {
        let mut replay = replay(&["title\n", "one\n"]);
        assert!(replay.is_under_way());
        (0..MOST_QUIET).for_each(|_| replay.wait());
        assert!(!replay.is_under_way());
        assert_eq!(judged(&mut replay, &["title\n"]), [Novelty::Repeated]);
        assert!(replay.is_under_way());
    }
}
