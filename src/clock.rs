//! Time as the daemon reckons with it.

use std::ops::Add;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// An instant, on two clocks at once: one to reckon with, one to show.
///
/// Ordering and differences go by the boot clock (`CLOCK_BOOTTIME`, see `clock_gettime(2)`), which nobody can set, which goes on
/// while the machine sleeps, and which the next daemon of the same boot reads too. The wall clock is only ever shown.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp {
    boot: Duration,
    wall: SystemTime,
}

impl Timestamp {
    /// Now.
    pub fn now() -> Self {
        let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        Self { boot, wall: SystemTime::now() }
    }

    /// The instant at which the boot clock shows `boot` and the wall clock `wall`.
    pub const fn new(boot: Duration, wall: SystemTime) -> Self {
        Self { boot, wall }
    }

    /// Time since the machine was booted.
    pub fn boot(self) -> Duration {
        self.boot
    }

    /// What the wall clock showed, or would.
    pub fn wall(self) -> SystemTime {
        self.wall
    }

    /// How long after `earlier` this is; zero if it is before.
    pub fn since(self, earlier: Self) -> Duration {
        self.boot.saturating_sub(earlier.boot)
    }
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Self) -> bool {
        self.boot == other.boot
    }
}

impl Eq for Timestamp {}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.boot.cmp(&other.boot)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// Saturates: a duration of centuries is as good as never.
    fn add(self, duration: Duration) -> Self {
        const CENTURY: Duration = Duration::from_hours(100 * 365 * 24);
        let duration = duration.min(CENTURY);
        Self { boot: self.boot + duration, wall: self.wall + duration }
    }
}
