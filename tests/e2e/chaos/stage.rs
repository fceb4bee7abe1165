//! Twenty agents of mixed behaviour, and what an administrator does to them at random.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use agentd::wire::status::Outcome;

use super::super::support::{Setup, agent};

/// An agent, and its expected fate if it is left alone.
pub struct Part {
    pub name: &'static str,
    script: &'static str,
    restart: &'static str,
    pub more: &'static str,
    pub fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Runs,
    /// Ends and is restarted forever. It is allowed to finish only at the end of the test.
    Repeats,
    Ends(Outcome),
}

const fn part(name: &'static str, script: &'static str, restart: &'static str, more: &'static str, fate: Fate) -> Part {
    Part { name, script, restart, more, fate }
}

const FAMILY: &str = "child @WORK/c; own-group @WORK/g; own-session @WORK/s; escapee @WORK/e";

pub static CAST: [Part; 20] = [
    part("long-0", "sleep inf", "always", "", Fate::Runs),
    part("long-1", "sleep inf", "no", "", Fate::Runs),
    part("long-2", "sleep inf", "on-failure", "grace_period = '0s'", Fate::Runs),
    part("long-3", "raw; on-signal TERM 9; sleep inf", "always", "backoff = ['0s']", Fate::Runs),
    part("stubborn", "stubborn; sleep inf", "always", "grace_period = '300ms'", Fate::Runs),
    part("slow", "on-signal INT 5 0.3; sleep inf", "no", "grace_period = '5s'", Fate::Runs),
    part("family", "FAMILY; sleep inf", "always", "grace_period = '1s'", Fate::Runs),
    part("orphans", "FAMILY; sleep 0.4; exit 1", "on-failure", "backoff = ['100ms']", Fate::Repeats),
    part("short-0", "sleep 0.1; exit 0", "always", "backoff = ['100ms', '300ms']", Fate::Repeats),
    part("short-1", "sleep 0.3; exit 3", "on-failure", "backoff = ['200ms']", Fate::Repeats),
    part("short-2", "exit 4", "always", "backoff = ['1s']", Fate::Repeats),
    part("crash", "sleep 0.2; die SIGSEGV", "on-failure", "backoff = ['500ms']", Fate::Repeats),
    part("loud", "print-bytes 70000; exit 0", "always", "backoff = ['0s', '700ms']", Fate::Repeats),
    part("once", "sleep 0.5; exit 0", "on-failure", "", Fate::Ends(Outcome::Completed)),
    part("fails", "sleep 0.1; exit 7", "always", "max_restarts = 3\nbackoff = ['200ms']", Fate::Ends(Outcome::GaveUp)),
    part("timed", "sleep inf", "always", "timeout = '2s'", Fate::Ends(Outcome::TimedOut)),
    part("tries", "sleep 0.2; exit 1", "always", "timeout = '3s'\nbackoff = ['50ms']", Fate::Ends(Outcome::TimedOut)),
    part("keyed", "sleep inf", "always", "secrets = ['KEY']", Fate::Runs),
    part("keyed-short", "sleep 0.2; exit 0", "always", "secrets = ['KEY']\nbackoff = ['300ms']", Fate::Repeats),
    part("placed", "sleep 0.2; exit 0", "always", "backoff = ['200ms']", Fate::Repeats),
];

/// The launched versions: that of the entry, and that of the secret if the agent uses it.
pub type Id = (u64, u64);

/// A generator that yields the same numbers for the same seed (`SplitMix64`).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_of<T>(&mut self, all: &'static [T]) -> &'static T {
        let at = self.below(u64::try_from(all.len()).unwrap());
        &all[usize::try_from(at).unwrap()]
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pause(&mut self, most_millis: u64) {
        sleep(Duration::from_millis(self.below(most_millis)));
    }
}

/// The current declaration of an agent.
#[derive(Default)]
pub struct Entry {
    pub version: u64,
    pub is_there: bool,
    is_wrong: bool,
    /// A value that concerns only policy.
    tweak: u64,
}

/// The jcard, secrets and workdir, and the administrator who changes them.
pub struct Stage {
    place: Arc<Setup>,
    random: Random,
    pub canary: String,
    pub entries: BTreeMap<&'static str, Entry>,
    pub key: u64,
    key_is_there: bool,
    versions: u64,
    is_ending: bool,
    pub edits: u64,
    pub secret_changes: u64,
    pub moves: u64,
}

impl Stage {
    /// Declares every agent, and writes the secret.
    pub fn new(place: Arc<Setup>, random: Random, canary: String) -> Self {
        let entries = CAST.iter().map(|part| (part.name, Entry { is_there: true, ..Entry::default() })).collect();
        let mut stage = Self {
            place,
            random,
            canary,
            entries,
            key: 1,
            key_is_there: true,
            versions: 0,
            is_ending: false,
            edits: 0,
            secret_changes: 0,
            moves: 0,
        };
        stage.place.secret("KEY", format!("{}.1", stage.canary));
        fs::create_dir(stage.place.work("place")).unwrap();
        stage.declare();
        stage
    }

    fn declare(&mut self) {
        let jcard = self.jcard();
        self.place.edit_jcard(&jcard);
    }

    fn jcard(&mut self) -> String {
        self.edits += 1;
        let mut jcard = format!("# edit {}\n", self.edits);
        for part in &CAST {
            let entry = &self.entries[part.name];
            if !entry.is_there {
                continue;
            }
            let script = part.script.replace("FAMILY", FAMILY).replace("@WORK/", &format!("@WORK/{}.", part.name));
            let script = format!("account @WORK/{} {}; {script}", part.name, entry.version);
            let restart = match part.restart {
                _ if entry.is_wrong => "sometimes",
                _ if self.is_ending && part.fate == Fate::Repeats => "no",
                restart => restart,
            };
            let secrets = if part.more.contains("secrets") { "" } else { "secrets = []" };
            let more =
                format!("restart = '{restart}'\nbackoff_reset = '{}s'\n{}\n{secrets}", 1000 + entry.tweak, part.more);
            let mut toml = agent(part.name, &script, &more);
            if part.name == "placed" {
                toml = toml.replace("workdir = \"@WORK\"", "workdir = \"@WORK/place\"");
            }
            jcard.push_str(&toml);
        }
        jcard
    }

    fn edit(&mut self) {
        for _ in 0..=self.random.below(3) {
            let part = self.random.one_of(&CAST);
            self.versions += 1;
            let (version, what) = (self.versions, self.random.below(100));
            let entry = self.entries.get_mut(part.name).unwrap();
            match what {
                _ if !entry.is_there => *entry = Entry { version, is_there: true, ..Entry::default() },
                _ if entry.is_wrong => *entry = Entry { version, is_wrong: false, ..*entry },
                0..55 => entry.version = version,
                55..70 => entry.tweak += 1,
                70..90 => entry.is_there = false,
                90..95 => entry.is_wrong = true,
                _ => {}
            }
        }
        self.declare();
    }

    fn change_secret(&mut self) {
        self.secret_changes += 1;
        self.key_is_there = !self.key_is_there || self.random.percent(85);
        if self.key_is_there {
            self.key += self.random.below(4).min(1); // the same again, at times
            self.place.secret("KEY", format!("{}.{}", self.canary, self.key));
        } else {
            fs::remove_file(self.place.path("secrets/KEY")).unwrap();
        }
    }

    fn set_place(&mut self, is_there: bool) {
        self.moves += 1;
        let (place, aside) = (self.place.work("place"), self.place.work("aside"));
        // This fails if the directory is already where it should be.
        let _ = if is_there { fs::rename(aside, place) } else { fs::rename(place, aside) };
    }

    pub fn act(&mut self) {
        match self.random.below(100) {
            0..65 => self.edit(),
            65..80 => self.change_secret(),
            80..90 => {
                let is_there = self.random.percent(60);
                self.set_place(is_there);
            }
            90..95 => {
                self.edits += 1;
                let text = self.random.one_of(&["", "\n", "[[agents", "[[agents]]\nname = 7"]);
                self.place.edit_jcard(text);
            }
            _ => {
                for _ in 0..4 {
                    self.edit();
                    self.random.pause(20);
                }
            }
        }
    }

    /// Brings the stage to its final state.
    pub fn end(&mut self) {
        self.is_ending = true;
        self.set_place(true);
        if !self.key_is_there {
            self.change_secret();
        }
        for entry in self.entries.values_mut() {
            if !entry.is_there {
                self.versions += 1;
                entry.version = self.versions;
            }
            (entry.is_there, entry.is_wrong) = (self.random.percent(85), false);
        }
        self.declare();
    }
}
