//! Limits how often the log repeats what others can cause at will.
//!
//! Agents, and other users who may connect or send signals, must not be able to fill the log, or to hide what matters in it. A
//! [`Brake`] is for a line that repeats, and counts the repetitions. [`Allowances`] limit everything else that is logged,
//! whatever its content.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets the first, second, fourth, eighth… of a series pass. A series ends after a while without events.
#[derive(Debug)]
pub struct Brake(Mutex<Series>);

#[derive(Clone, Copy, Debug)]
struct Series {
    count: u64,
    last: Option<Instant>,
}

/// How long no event must occur before the next one starts a new series.
const QUIET: Duration = Duration::from_mins(10);

impl Series {
    const NEW: Self = Self { count: 0, last: None };
}

impl Default for Brake {
    fn default() -> Self {
        Self::new()
    }
}

impl Brake {
    /// A brake whose series has not begun.
    pub const fn new() -> Self {
        Self(Mutex::new(Series::NEW))
    }

    /// Counts one more event. Returns the number of events in this series if it may be logged.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if series.last.is_some_and(|last| now.saturating_duration_since(last) >= QUIET) {
            *series = Series::NEW;
        }
        series.count += 1;
        series.last = Some(now);
        Some(series.count).filter(|count| count.is_power_of_two())
    }
}

/// Lets a message pass if it differs from the one before.
#[derive(Debug, Default)]
pub struct OnChange(Option<String>);

impl OnChange {
    /// Whether this differs from the last message.
    pub fn pass(&mut self, message: &str) -> bool {
        let is_new = self.0.as_deref() != Some(message);
        if is_new {
            self.0 = Some(message.to_owned());
        }
        is_new
    }

    /// Lets any message pass next.
    pub fn reset(&mut self) {
        self.0 = None;
    }
}

/// A limit on the rate of lines for each of many sources: a burst, and then a steady rate.
#[derive(Debug)]
pub struct Allowances<K> {
    /// When each source would have written its lines at the steady rate.
    spoken: HashMap<K, Instant>,
    /// How many lines were refused since the last [`Allowances::take_left_out`].
    left_out: HashMap<K, u64>,
}

/// How many lines a source may write in a burst.
const BURST: u32 = 200;

/// How long a source must wait for each further line.
const INTERVAL: Duration = Duration::from_millis(500);

/// How many sources are remembered before quiet ones are forgotten.
const MANY: usize = 1024;

impl<K> Default for Allowances<K> {
    fn default() -> Self {
        Self { spoken: HashMap::new(), left_out: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Allowances<K> {
    /// Whether this source may write a line now. Counts refused lines.
    pub fn admit(&mut self, source: &K, now: Instant) -> bool {
        if self.spoken.len() >= MANY && !self.spoken.contains_key(source) {
            self.spoken.retain(|_, spoken| *spoken > now);
        }
        let spoken = self.spoken.get(source).copied().unwrap_or(now).max(now);
        let is_admitted = spoken.saturating_duration_since(now) < INTERVAL * BURST;
        if is_admitted {
            self.spoken.insert(source.clone(), spoken + INTERVAL);
        } else {
            *self.left_out.entry(source.clone()).or_default() += 1;
        }
        is_admitted
    }

    /// How many lines of this source were refused since the count was last taken.
    #[cfg(test)]
    pub fn left_out_of(&self, source: &K) -> u64 {
        self.left_out.get(source).copied().unwrap_or_default()
    }

    /// Takes the number of refused lines of each source since the last call.
    pub fn take_left_out(&mut self) -> HashMap<K, u64> {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_passes_again_only_after_another_or_a_reset() {
        let mut last = OnChange::default();
        let passed = ["a", "a", "b", "a"].map(|message| last.pass(message));
        assert_eq!(passed, [true, false, true, true]);
        last.reset();
        assert!(last.pass("a"));
    }

    #[test]
    fn a_flood_passes_more_and_more_rarely_and_a_later_one_is_new() {
        let (brake, start) = (Brake::default(), Instant::now());
        let passed: Vec<u64> = (0..1000).filter_map(|_| brake.pass_at(start)).collect();
        assert_eq!(passed, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!(brake.pass_at(start + QUIET / 2), None);
        assert_eq!(brake.pass_at(start + QUIET / 2 + QUIET), Some(1));
    }

    #[test]
    fn only_a_source_that_floods_is_limited() {
        let (mut allowances, start) = (Allowances::default(), Instant::now());
        let seconds = 60;
        let mut admitted = 0;
        for second in 0..seconds {
            let now = start + Duration::from_secs(second);
            admitted += (0..1000).filter(|_| allowances.admit(&"loud", now)).count();
            assert!(allowances.admit(&"quiet", now));
        }
        let bound = usize::try_from(u64::from(BURST) + 2 * seconds).unwrap();
        assert!((bound - 2..=bound).contains(&admitted), "{admitted}");
        let left_out = allowances.take_left_out();
        assert_eq!(left_out, HashMap::from([("loud", 1000 * seconds - admitted as u64)]));
        assert!(allowances.take_left_out().is_empty());
    }

    #[test]
    fn quiet_sources_are_forgotten() {
        let (mut allowances, start) = (Allowances::default(), Instant::now());
        for source in 0..10 * MANY {
            allowances.admit(&source, start + u32::try_from(source).unwrap() * INTERVAL * 2);
        }
        assert!(allowances.spoken.len() <= MANY, "{}", allowances.spoken.len());
    }
}
