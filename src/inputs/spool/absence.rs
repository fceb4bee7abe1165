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
    /// Whether its removal was announced, so that this takes but a moment.
    is_announced: bool,
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
                Some(_) => Doubt { folder: here, until: now + resync, is_announced: false },
                None if is_same && is_alone => {
                    change.gone.push(key.clone());
                    continue;
                }
                None => {
                    change.missed.push(key.clone());
                    let is_announced = is_same && sight.announced.contains(key);
                    let patience = if is_announced { MOMENT } else { resync };
                    Doubt { folder: here, until: now + patience, is_announced }
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

    /// The files that are missed, but for those that only a moment has to pass for.
    pub fn missed(&self) -> impl Iterator<Item = &Key> {
        self.doubts.iter().filter(|(_, doubt)| !doubt.is_announced).map(|(key, _)| key)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::name::key;

    const RESYNC: Duration = Duration::from_secs(5);

    fn folder(inode: u64) -> Here {
        Here { id: FileId::new(1, inode), mount: Some(1) }
    }

    fn keys(numbers: &BTreeSet<usize>) -> BTreeSet<Key> {
        numbers.iter().map(|number| key(&format!("a+t{number}"))).collect()
    }

    /// What happens between two looks.
    #[derive(Clone, Debug)]
    enum Step {
        /// These are removed, with or without an announcement.
        Remove(BTreeSet<usize>, bool),
        /// Another folder is in its place for one look, with these files.
        Other(BTreeSet<usize>),
        /// Time passes, in seconds.
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let some = || prop::collection::btree_set(0_usize..6, 0..4);
        prop_oneof![
            (some(), any::<bool>()).prop_map(|(removed, is_announced)| Step::Remove(removed, is_announced)),
            some().prop_map(Step::Other),
            (0_u64..8).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Only what was removed is gone, whatever other folders are seen for less than a resync; and all of it is gone in the end.
        #[test]
        fn what_is_gone_was_removed(steps in prop::collection::vec(step(), 1..20)) {
            let (mut absence, mut now) = (Absence::default(), Instant::now());
            let mut there: BTreeSet<usize> = (0..6).collect();
            let mut expected = keys(&there);
            let none = BTreeSet::new();
            let mut gone = BTreeSet::new();
            let look = |absence: &mut Absence, here, expected: &mut BTreeSet<Key>, there: &BTreeSet<usize>, announced: &BTreeSet<Key>, now| {
                let found = &keys(there) & &*expected;
                let (expected_now, is_whole) = (expected.clone(), announced.is_empty());
                let sight = Sight { here, expected: &expected_now, found: &found, announced, is_whole, is_proven: false };
                let change = absence.after(&sight, now, RESYNC);
                expected.retain(|key| !change.gone.contains(key));
                change.gone
            };
            look(&mut absence, folder(1), &mut expected, &there, &none, now);
            for step in steps {
                match step {
                    Step::Remove(removed, is_announced) => {
                        let removed = &removed & &there;
                        there = &there - &removed;
                        let announced = if is_announced { keys(&removed) } else { BTreeSet::new() };
                        gone.extend(look(&mut absence, folder(1), &mut expected, &there, &announced, now));
                    }
                    Step::Other(files) => {
                        let changed = look(&mut absence, folder(2), &mut expected, &files, &none, now);
                        prop_assert_eq!(changed, [], "one look at another folder says nothing");
                        gone.extend(look(&mut absence, folder(1), &mut expected, &there, &none, now));
                    }
                    Step::Wait(seconds) => {
                        now += Duration::from_secs(seconds);
                        gone.extend(look(&mut absence, folder(1), &mut expected, &there, &none, now));
                    }
                }
                prop_assert!(gone.is_disjoint(&keys(&there)), "{:?} are there", gone);
            }
            gone.extend(look(&mut absence, folder(1), &mut expected, &there, &none, now));
            now += RESYNC;
            gone.extend(look(&mut absence, folder(1), &mut expected, &there, &none, now));
            prop_assert_eq!(expected, keys(&there));
            prop_assert_eq!(absence.due(), None);
        }
    }

    #[test]
    fn a_folder_that_was_not_listed_before_needs_a_second_look() {
        let expected = keys(&[1].into());
        let none = BTreeSet::new();
        let here = folder(1);
        let sight =
            Sight { here, expected: &expected, found: &none, announced: &none, is_whole: true, is_proven: false };
        let now = Instant::now();
        let mut absence = Absence::default();
        assert_eq!(absence.after(&sight, now, RESYNC).missed.len(), 1);
        assert_eq!(absence.after(&sight, now + RESYNC / 2, RESYNC), Change::default());
        assert_eq!(absence.after(&sight, now + RESYNC, RESYNC).gone.len(), 1);
        // An earlier daemon has listed it.
        let proven = Sight { is_proven: true, ..sight };
        assert_eq!(Absence::default().after(&proven, now, RESYNC).gone.len(), 1);
    }
}
