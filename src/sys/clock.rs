//! Instants, the boot clock, and timers that continue while the machine sleeps.

use std::io;
use std::ops::Add;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::sys::fd::Readable;
use crate::text::duration;

/// An instant on two clocks: one for calculations, one for display.
///
/// Order and differences follow the boot clock (`CLOCK_BOOTTIME`, see `clock_gettime(2)`), which cannot be set, continues while
/// the machine sleeps, and is the same for the next daemon of this boot. The wall clock is only displayed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Timestamp {
    boot: Duration,
    wall: SystemTime,
}

impl Timestamp {
    /// The current instant.
    pub fn now() -> Self {
        let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        Self::shown(boot, SystemTime::now())
    }

    /// The instant at which the boot clock shows `boot` and the wall clock `wall`.
    pub const fn new(boot: Duration, wall: SystemTime) -> Self {
        Self { boot, wall }
    }

    /// Like [`Timestamp::new`]. A wall clock before 1970 was never set: it counts as 1970, since earlier times cannot be
    /// recorded.
    fn shown(boot: Duration, wall: SystemTime) -> Self {
        Self { boot, wall: wall.max(SystemTime::UNIX_EPOCH) }
    }

    /// The instant at which the boot clock showed `boot`, calculated from this one. A later instant becomes this one.
    #[must_use]
    pub fn back_to(self, boot: Duration) -> Self {
        let ago = self.boot.saturating_sub(boot);
        Self::shown(boot.min(self.boot), self.wall.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))
    }

    /// The instant at which the wall clock will show that, calculated from this one. One before this one becomes this one.
    #[must_use]
    pub fn at_wall(self, wall: SystemTime) -> Self {
        self + wall.duration_since(self.wall).unwrap_or_default()
    }

    /// Time since the machine was booted.
    pub fn boot(self) -> Duration {
        self.boot
    }

    /// The time that the wall clock showed, or would have shown.
    pub fn wall(self) -> SystemTime {
        self.wall
    }

    /// The time from `earlier` to this instant; zero if this one is before.
    pub fn since(self, earlier: Self) -> Duration {
        self.boot.saturating_sub(earlier.boot)
    }
}

/// A practically infinite duration that the kernel accepts.
const AGES: Duration = Duration::from_hours(1000 * 365 * 24);

/// A timer on the boot clock.
///
/// The runtime's own timers stop while the machine sleeps, so a deadline that passes meanwhile would be late by that time.
#[derive(Debug)]
pub struct Alarm {
    timer: TimerFd,
    readable: Readable,
    at: Option<Timestamp>,
}

impl Alarm {
    /// A timer that is not set. Must be created inside the async runtime.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(timerfd::ClockId::CLOCK_BOOTTIME, flags)?;
        let readable = Readable::new(timer.as_fd().try_clone_to_owned()?)?;
        Ok(Self { timer, readable, at: None })
    }

    /// Sets the timer to this instant, replacing any other.
    pub fn set(&mut self, at: Option<Timestamp>) -> io::Result<()> {
        if at == self.at {
            return Ok(());
        }
        match at {
            // Zero would disarm the timer.
            Some(at) => {
                let instant = TimeSpec::from_duration(at.boot.clamp(Duration::from_nanos(1), AGES));
                self.timer.set(Expiration::OneShot(instant), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.timer.unset()?,
        }
        self.at = at;
        Ok(())
    }

    /// Waits for the instant that is set, or forever if there is none. Cancel-safe.
    pub async fn ring(&self) {
        loop {
            if self.at.is_some_and(|at| at <= Timestamp::now()) {
                return;
            }
            if self.readable.readable().await.is_err() {
                return std::future::pending().await;
            }
        }
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

    /// Adds a duration. Saturates: a duration of centuries is practically infinite.
    fn add(self, duration: Duration) -> Self {
        const CENTURY: Duration = Duration::from_hours(100 * 365 * 24);
        let duration = duration.min(CENTURY);
        let wall = self.wall.checked_add(duration).unwrap_or(self.wall);
        Self { boot: self.boot.saturating_add(duration), wall }
    }
}

/// Parses a time: RFC 3339 with `Z` or an offset, also with a space in place of the `T`, as `date -Is` and `date --rfc-3339=s`
/// print it.
///
/// Without an offset, the time is in UTC. A date alone means its beginning.
pub fn parse_time(text: &str) -> Option<SystemTime> {
    let (time, offset) = split_offset(text);
    let is_date = time.len() == "2026-11-21".len();
    let time = if is_date { format!("{time}T00:00:00") } else { time.to_owned() };
    let time = humantime::parse_rfc3339_weak(&time).ok()?;
    match offset {
        None => Some(time),
        Some(_) if is_date => None,
        Some((true, offset)) => time.checked_sub(offset),
        Some((false, offset)) => time.checked_add(offset),
    }
}

/// The text is neither a time nor a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "neither a time (2026-11-21T17:00:00Z, 2026-11-21 18:00:00+01:00, 2026-11-21) nor for how long back (90s, 2h): {0}"
)]
pub struct NoMoment(#[from] duration::Error);

/// Parses a moment: a [time](parse_time), or how long ago it was.
pub fn parse_moment(text: &str, now: SystemTime) -> Result<SystemTime, NoMoment> {
    match parse_time(text) {
        Some(time) => Ok(time),
        None => Ok(now.checked_sub(duration::parse(text)?).unwrap_or(SystemTime::UNIX_EPOCH)),
    }
}

/// Splits a time into the time without its offset, and the offset: whether it is ahead of UTC, and by how much.
///
/// A text without a valid offset is returned unchanged.
fn split_offset(text: &str) -> (&str, Option<(bool, Duration)>) {
    // The dashes in the date are not signs.
    let at = text.char_indices().rfind(|&(at, character)| at > "2026-11-21".len() && "+-".contains(character));
    let parse = |at: usize| {
        let (is_ahead, digits) = (text[at..].starts_with('+'), text[at + 1..].replacen(':', "", 1));
        if digits.len() != 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (hours, minutes): (u64, u64) = (digits[..2].parse().ok()?, digits[2..].parse().ok()?);
        (hours < 24 && minutes < 60).then(|| (is_ahead, Duration::from_secs((hours * 60 + minutes) * 60)))
    };
    match at.and_then(|(at, _)| Some((at, parse(at)?))) {
        Some((at, offset)) => (&text[..at], Some(offset)),
        None => (text, None),
    }
}

/// The wall clock in seconds since 1970, as texts and data of other programs have it. A clock before that counts as 1970.
pub fn since_1970() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed_as_people_and_programs_write_them() {
        let expected = humantime::parse_rfc3339("2026-11-21T17:00:00Z").unwrap();
        for text in [
            "2026-11-21T17:00:00Z",
            "2026-11-21 17:00:00",
            "2026-11-21T18:00:00+01:00",
            "2026-11-21 18:00:00+01:00",
            "2026-11-21T18:00:00.000+0100",
            "2026-11-21T12:30:00-04:30",
            "2026-11-21T17:00:00-00:00",
            "2026-11-22T06:45:00+13:45",
        ] {
            assert_eq!(parse_time(text), Some(expected), "{text}");
        }
        assert_eq!(parse_time("2026-11-21"), Some(expected - Duration::from_hours(17)));
        for nonsense in [
            "",
            "2h",
            "2026-11-21+01:00",
            "2026-13-01",
            "2026-11-21T18:00:00+1",
            "2026-11-21T18:00:00+24:00",
            "+01:00",
            "2026-11-21T18:00:00+01:0é",
        ] {
            assert_eq!(parse_time(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_moment_is_a_time_or_so_long_ago() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let moment = |text: &str| parse_moment(text, now);
        assert_eq!(moment("1970-01-01T00:00:07Z"), Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(7)));
        assert_eq!(moment("2h"), Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(2800)));
        assert_eq!(moment("-1h").unwrap_err(), NoMoment(duration::Error::Negative));
        let error = moment("yesterday").unwrap_err().to_string();
        assert!(error.contains("2026-11-21T17:00:00Z") && error.contains("90s"), "{error}");
    }

    async fn rings(alarm: &Alarm, within: Duration) -> bool {
        tokio::time::timeout(within, alarm.ring()).await.is_ok()
    }

    #[tokio::test]
    async fn an_alarm_rings_at_the_latest_instant_it_was_set_to() {
        let mut alarm = Alarm::new().unwrap();
        assert!(!rings(&alarm, Duration::from_millis(1)).await);
        alarm.set(Some(Timestamp::now() + Duration::from_hours(1))).unwrap();
        assert!(!rings(&alarm, Duration::from_millis(1)).await);
        let soon = Timestamp::now() + Duration::from_millis(20);
        alarm.set(Some(soon)).unwrap();
        assert!(rings(&alarm, Duration::from_secs(10)).await);
        assert!(Timestamp::now() >= soon);
        alarm.set(None).unwrap();
        assert!(!rings(&alarm, Duration::from_millis(1)).await);
    }

    #[test]
    fn setting_the_wall_clock_back_does_not_change_the_order() {
        let at =
            |boot, wall| Timestamp::new(Duration::from_secs(boot), SystemTime::UNIX_EPOCH + Duration::from_secs(wall));
        let (before, after) = (at(10, 5_000_000), at(20, 1000));
        assert!(before < after && before + Duration::from_secs(9) < after && before + Duration::from_secs(10) == after);
        assert_eq!((after.since(before), before.since(after)), (Duration::from_secs(10), Duration::ZERO));
    }

    #[tokio::test]
    async fn an_alarm_ignores_the_wall_clock() {
        let (now, hour) = (Timestamp::now(), Duration::from_hours(1));
        let mut alarm = Alarm::new().unwrap();
        alarm.set(Some(Timestamp::new(now.boot(), now.wall() + hour))).unwrap();
        assert!(rings(&alarm, Duration::from_secs(10)).await);
        alarm.set(Some(Timestamp::new(now.boot() + hour, now.wall() - hour))).unwrap();
        assert!(!rings(&alarm, Duration::from_millis(20)).await);
    }

    #[test]
    fn an_earlier_instant_is_earlier_on_both_clocks() {
        let now = Timestamp::new(Duration::from_secs(100), SystemTime::UNIX_EPOCH + Duration::from_secs(5000));
        let earlier = now.back_to(Duration::from_secs(90));
        assert_eq!(now.since(earlier), Duration::from_secs(10));
        assert_eq!(earlier.wall(), SystemTime::UNIX_EPOCH + Duration::from_secs(4990));
        assert_eq!(now.back_to(Duration::from_secs(101)).wall(), now.wall());
        assert_eq!(
            Timestamp::new(Duration::from_secs(9), SystemTime::UNIX_EPOCH).back_to(Duration::ZERO).boot(),
            Duration::ZERO
        );
    }

    #[test]
    fn no_instant_is_before_1970() {
        let epoch = SystemTime::UNIX_EPOCH;
        let never_set = Timestamp::shown(Duration::from_secs(100), epoch - Duration::from_secs(7));
        let early = Timestamp::new(Duration::from_secs(100), epoch + Duration::from_secs(5));
        for timestamp in [never_set, early.back_to(Duration::ZERO)] {
            assert_eq!(timestamp.wall(), epoch);
            serde_json::to_string(&timestamp).unwrap();
        }
    }

    #[test]
    fn a_duration_of_centuries_does_not_overflow() {
        assert!(Timestamp::now() + Duration::MAX > Timestamp::now());
        let last = Timestamp::new(Duration::MAX, SystemTime::now());
        assert_eq!(last + Duration::MAX, last);
    }

    #[tokio::test]
    async fn an_alarm_at_the_end_of_time_does_not_ring() {
        let mut alarm = Alarm::new().unwrap();
        alarm.set(Some(Timestamp::new(Duration::MAX, SystemTime::now()))).unwrap();
        assert!(!rings(&alarm, Duration::from_millis(1)).await);
    }
}
