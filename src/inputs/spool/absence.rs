//! Which files were removed: pure. Absence is not a statement.
//!
//! A file that is gone counts as removed if it alone is gone from a folder that was listed before. Several that are gone at once are
//! missed at first, and so is what is not in a folder that was not listed before: the folder may be another one, or not all of it may
//! be there. They count as removed once a later look at the same folder finds the same.
//!
//! The kernel announces each removal with the folder that it watches. That is proof that they were removed from this folder, so
//! several of them wait only for a moment: whether the folder itself is being removed with them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::agent::name::Key;
use crate::sys::file_id::FileId;

/// How long several announced removals wait for the removal of their folder.
const MOMENT: Duration = Duration::from_millis(100);

/// Which folder it is: the file and, as far as the kernel reports that, its mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here {
    /// The folder.
    pub id: FileId,
    /// The id of its mount.
    pub mount: Option<u64>,
}

/// What is known of the files that are missing from a folder.
#[derive(Clone, Debug, Default)]
pub struct Absence {
    /// The folder that was listed last.
    listed: Option<Here>,
    doubts: BTreeMap<Key, Doubt>,
}

/// A file that was missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doubt {
    folder: Here,
    /// When it counts as removed if it is still missing from the folder.
    until: Instant,
}

/// A look at a folder.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    /// Which folder.
    pub here: Here,
    /// The runs whose files were looked for: all of the folder if it was listed, else those whose removal was announced.
    pub expected: &'a BTreeSet<Key>,
    /// Those of them that were found.
    pub found: &'a BTreeSet<Key>,
    /// Those whose removal from this very folder was announced.
    pub announced: &'a BTreeSet<Key>,
    /// Whether everything in the folder was listed.
    pub is_whole: bool,
    /// Whether a file in it proves that it is the folder of an earlier daemon.
    pub is_proven: bool,
}

/// What follows from a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Removed.
    pub gone: Vec<Key>,
    /// Missing, and not certain to be removed.
    pub missed: Vec<Key>,
    /// Missed before, and there.
    pub found: Vec<Key>,
}

impl Absence {
    /// What follows from this look. `resync` is how long what is missed must be missing.
    pub fn after(&mut self, sight: &Sight<'_>, now: Instant, resync: Duration) -> Change {
        let mut change = Change::default();
        let here = sight.here;
        for key in sight.found {
            if self.doubts.remove(key).is_some() {
                change.found.push(key.clone());
            }
        }
        let missing = || sight.expected.difference(sight.found);
        let is_same = self.listed.map_or(sight.is_proven, |listed| listed == here);
        let is_alone = missing().filter(|key| !self.doubts.contains_key(*key)).count() == 1;
        let mut doubts = BTreeMap::new();
        for key in missing() {
            let doubt = match self.doubts.get(key) {
                Some(doubt) if doubt.folder == here && now >= doubt.until => {
                    change.gone.push(key.clone());
                    continue;
                }
                Some(doubt) if doubt.folder == here => *doubt,
                // It was missed in another folder.
                Some(_) => Doubt { folder: here, until: now + resync },
                None if is_same && is_alone => {
                    change.gone.push(key.clone());
                    continue;
                }
                None => {
                    change.missed.push(key.clone());
                    let patience = if is_same && sight.announced.contains(key) { MOMENT } else { resync };
                    Doubt { folder: here, until: now + patience }
                }
            };
            doubts.insert(key.clone(), doubt);
        }
        for key in &change.gone {
            self.doubts.remove(key);
        }
        self.doubts.extend(doubts);
        if sight.is_whole {
            self.listed = Some(here);
        }
        change
    }

    /// Whether this folder was listed last.
    pub fn was_listed(&self, here: Here) -> bool {
        self.listed == Some(here)
    }

    /// The files that are missed.
    pub fn missed(&self) -> impl Iterator<Item = &Key> {
        self.doubts.keys()
    }

    /// When another look is due.
    pub fn due(&self) -> Option<Instant> {
        self.doubts.values().map(|doubt| doubt.until).min()
    }

    /// No look is due before that: it was not possible now.
    pub fn postpone(&mut self, until: Instant) {
        for doubt in self.doubts.values_mut() {
            doubt.until = doubt.until.max(until);
        }
    }

    /// Nothing is expected of this file any more.
    pub fn forget(&mut self, key: &Key) {
        self.doubts.remove(key);
    }
}
