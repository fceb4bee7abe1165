use std::collections::{BTreeMap, BTreeSet};

use jiff::ToSpan as _;
use jiff::civil::{Date, DateTime, date};
use proptest::prelude::*;
use rstest::rstest;

use super::times::{Error, Times};
use super::*;

const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
const NEW_YORK: &str = "EST5EDT,M3.2.0,M11.1.0";
/// Half an hour of summer time.
const LORD_HOWE: &str = "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0";
/// The clock changes at midnight, which does not exist then, or comes twice.
const BEIRUT: &str = "EET-2EEST,M3.5.0/0,M10.5.0/0";

const MINUTE: i64 = 60;

fn zone(posix: &str) -> TimeZone {
    TimeZone::posix(posix).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn times(text: &str) -> Times {
    match text.strip_prefix("every ") {
        Some(interval) => Times::every(humantime::parse_duration(interval).unwrap()).unwrap(),
        None => Times::parse(text).unwrap(),
    }
}

fn schedule(texts: &[&str], rules: TimeZone) -> Schedule {
    Schedule {
        patterns: texts.iter().map(|&text| Pattern { text: text.to_owned(), times: times(text) }).collect(),
        zone: Zone { name: None, rules },
        missed: Missed::Once,
        missed_within: MISSED_WITHIN,
        spread: Duration::ZERO,
    }
}

/// The next times of a pattern, in UTC.
fn next(text: &str, zone: &TimeZone, after: &str, count: usize) -> Vec<String> {
    let times = times(text);
    let first = times.next_after(at(after), zone);
    let all = std::iter::successors(first, |&last| times.next_after(last, zone));
    all.take(count).map(|at| at.to_string()).collect()
}

#[rstest]
#[case("* * * * *", "2026-11-21T10:00:00Z", "2026-11-21T10:01:00Z")]
#[case("0 2 * * mon-fri", "2026-11-20T02:00:00Z", "2026-11-23T02:00:00Z")]
#[case("0 2 * * 1-5", "2026-11-20T02:00:00Z", "2026-11-23T02:00:00Z")]
#[case("30 9-17/4 * * *", "2026-11-21T09:30:00Z", "2026-11-21T13:30:00Z")]
#[case("*/15 8 * * *", "2026-11-21T08:45:00Z", "2026-11-22T08:00:00Z")]
#[case("0 0 * * 7", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z")]
#[case("0 0 * * Sun", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z")]
#[case("0 0 * * sat-sun", "2026-11-22T00:00:00Z", "2026-11-28T00:00:00Z")]
#[case("0 0 1 JAN,jul *", "2026-11-21T00:00:00Z", "2027-01-01T00:00:00Z")]
#[case("0 0 1 september *", "2026-11-21T00:00:00Z", "2027-09-01T00:00:00Z")]
#[case::either_day("0 0 13 * fri", "2026-11-14T00:00:00Z", "2026-11-20T00:00:00Z")]
#[case::either_day("0 0 13 * fri", "2026-12-12T00:00:00Z", "2026-12-13T00:00:00Z")]
#[case::both_days("0 0 */2 * fri", "2026-11-20T00:00:00Z", "2026-11-27T00:00:00Z")]
#[case::leap_day("0 0 29 2 *", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z")]
#[case("0 0 31 * *", "2026-11-21T00:00:00Z", "2026-12-31T00:00:00Z")]
#[case("@hourly", "2026-11-21T10:00:00Z", "2026-11-21T11:00:00Z")]
#[case("@daily", "2026-11-21T10:00:00Z", "2026-11-22T00:00:00Z")]
#[case("@midnight", "2026-11-21T10:00:00Z", "2026-11-22T00:00:00Z")]
#[case("@weekly", "2026-11-21T10:00:00Z", "2026-11-22T00:00:00Z")]
#[case("@Monthly", "2026-11-21T10:00:00Z", "2026-12-01T00:00:00Z")]
#[case("@yearly", "2026-11-21T10:00:00Z", "2027-01-01T00:00:00Z")]
#[case("@annually", "2026-11-21T10:00:00Z", "2027-01-01T00:00:00Z")]
#[case("every 30m", "2026-11-21T10:00:00Z", "2026-11-21T10:30:00Z")]
#[case("every 1s", "2026-11-21T10:00:00Z", "2026-11-21T10:00:01Z")]
#[case("every 7h", "1970-01-01T07:00:00Z", "1970-01-01T14:00:00Z")]
fn a_pattern_means_the_next_time(#[case] text: &str, #[case] after: &str, #[case] expected: &str) {
    assert_eq!(next(text, &TimeZone::UTC, after, 1), [expected]);
}

#[rstest]
#[case("", "it has 0 fields, and five are meant")]
#[case("0 2 * *", "it has 4 fields, and five are meant")]
#[case("daily", "it has 1 field, and five are meant")]
#[case("0 0 2 * * *", "it has 6 fields (seconds and years are not read), and five are meant")]
#[case("60 * * * *", "the minute cannot be \"60\"; write numbers from 0 to 59")]
#[case("0 24 * * *", "the hour cannot be \"24\"; write numbers from 0 to 23")]
#[case("0 0 0 * *", "the day of the month cannot be \"0\"; write numbers from 1 to 31")]
#[case("0 0 * 13 *", "the month cannot be \"13\"; write numbers from 1 to 12, or a name from jan to dec")]
#[case("0 0 * * 8", "the weekday cannot be \"8\"; write numbers from 0 to 7, or a name from sun to sat")]
#[case("0 0 * * mo", "the weekday cannot be \"mo\"; write numbers from 0 to 7")]
#[case("0 0 * * mondays", "the weekday cannot be \"mondays\"; write numbers")]
#[case("0 0 L * *", "the day of the month cannot be \"l\"; write numbers from 1 to 31")]
#[case("0 0 ? * *", "the day of the month cannot be \"?\"; write numbers from 1 to 31")]
#[case("0 0 * * fri#2", "the weekday cannot be \"fri#2\"; write numbers")]
#[case("0 22-4 * * *", "the hour cannot be \"22-4\"; write 22-23,0-4, or the smaller number first")]
#[case("5/10 * * * *", "the minute cannot be \"5/10\"; write 5-59 before the /")]
#[case("*/0 * * * *", "the minute cannot be \"*/0\"; write a step from 1 to 60")]
#[case("*/90 * * * *", "the minute cannot be \"*/90\"; write a step from 1 to 60")]
#[case("1,,2 * * * *", "the minute cannot be \"\"; write numbers from 0 to 59")]
#[case("-1 * * * *", "the minute cannot be \"-1\"; write numbers from 0 to 59")]
#[case("001 * * * *", "the minute cannot be \"001\"; write numbers from 0 to 59")]
#[case("@reboot", "\"@reboot\" is not a time; an agent without [agents.runs] starts with agentd")]
#[case("@fortnightly", "there is no such name; write @hourly")]
#[case("CRON_TZ=UTC 0 2 * * *", "the zone does not stand here; write `time_zone")]
fn a_text_that_is_no_pattern_is_refused(#[case] text: &str, #[case] expected: &str) {
    let error = Times::parse(text).unwrap_err().to_string();
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn an_interval_has_whole_seconds_within_bounds() {
    for wrong in [Duration::ZERO, Duration::from_millis(1500), Duration::from_hours(367 * 24)] {
        assert_eq!(Times::every(wrong), Err(Error::Interval), "{wrong:?}");
    }
    assert_eq!(Times::every(Duration::from_hours(366 * 24)), Ok(Times::Every(366 * 24 * 3600)));
}

#[rstest]
#[case("0 0 31 2 *", true)]
#[case("0 0 30,31 feb *", true)]
#[case("0 0 31 4,6,9,11 *", true)]
#[case("0 0 29 2 *", false)]
#[case("0 0 31 2 mon", false)]
#[case("0 0 31 1-2 *", false)]
#[case("* * 31 2 *", true)]
fn a_day_that_no_year_has_never_comes(#[case] text: &str, #[case] expected: bool) {
    assert_eq!(times(text).is_never(), expected);
    assert_eq!(next(text, &zone(BERLIN), "2026-11-21T10:00:00Z", 1).is_empty(), expected);
}

#[rstest]
#[case::gap("30 2 * * *", BERLIN, "2026-03-28T01:30:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"])]
#[case::end_of_gap("0 3 * * *", BERLIN, "2026-03-28T02:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"])]
#[case::several_in_gap("*/20 2 * * *", BERLIN, "2026-03-28T01:40:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"])]
#[case::twice("30 2 * * *", BERLIN, "2026-10-24T00:30:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"])]
#[case::after_twice("0 3 * * *", BERLIN, "2026-10-24T01:00:00Z", &["2026-10-25T02:00:00Z", "2026-10-26T02:00:00Z"])]
#[case::hourly("0 * * * *", BERLIN, "2026-10-25T00:00:00Z", &["2026-10-25T02:00:00Z", "2026-10-25T03:00:00Z"])]
#[case::hourly_in_gap("0 * * * *", BERLIN, "2026-03-29T00:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"])]
#[case::elapsed("*/30 * * * *", BERLIN, "2026-10-25T00:30:00Z", &["2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"])]
#[case::elapsed_in_gap("*/30 * * * *", BERLIN, "2026-03-29T00:30:00Z", &["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"])]
#[case::every("every 30m", BERLIN, "2026-10-25T00:30:00Z", &["2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"])]
#[case::half_an_hour("15 2 * * *", LORD_HOWE, "2026-10-02T15:45:00Z", &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"])]
#[case::no_midnight("0 0 * * *", BEIRUT, "2026-03-27T22:00:00Z", &["2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"])]
#[case::two_midnights("0 0 * * *", BEIRUT, "2026-10-23T21:00:00Z", &["2026-10-24T22:00:00Z", "2026-10-25T22:00:00Z"])]
#[case::before_midnight("30 23 * * *", BEIRUT, "2026-10-23T20:30:00Z", &["2026-10-24T20:30:00Z", "2026-10-25T21:30:00Z"])]
#[case::other_zone("0 9 * * *", NEW_YORK, "2026-03-07T14:00:00Z", &["2026-03-08T13:00:00Z", "2026-03-09T13:00:00Z"])]
fn changes_of_the_clock_neither_drop_nor_repeat_a_time(
    #[case] text: &str,
    #[case] posix: &str,
    #[case] after: &str,
    #[case] expected: &[&str],
) {
    assert_eq!(next(text, &zone(posix), after, expected.len()), expected);
}

/// What a clock on the wall shows in each minute.
struct Walls {
    shown: Vec<(Timestamp, DateTime)>,
    /// When it first shows a time.
    first: BTreeMap<DateTime, Timestamp>,
}

impl Walls {
    fn of(zone: &TimeZone, from: Timestamp, days: i64) -> Self {
        let from = from.as_second().div_euclid(MINUTE) * MINUTE;
        let shown = (0..days * 24 * 60).map(|minute| {
            let at = Timestamp::from_second(from + minute * MINUTE).unwrap();
            (at, zone.to_datetime(at))
        });
        let shown: Vec<_> = shown.collect();
        let first = shown.iter().rev().map(|(at, wall)| (*wall, *at)).collect();
        Self { shown, first }
    }

    /// When a wall time comes, by looking at the clock in every minute.
    fn instant_of(&self, wall: DateTime) -> Timestamp {
        let after_gap = || {
            let gap = self.shown.windows(2).find(|pair| pair[0].1 < wall && wall < pair[1].1);
            gap.map(|pair| pair[1].0)
        };
        self.first.get(&wall).copied().or_else(after_gap).unwrap()
    }
}

/// Changes of the clock in two years.
fn changes(zone: &TimeZone) -> Vec<Timestamp> {
    let all = zone.following(at("2026-01-01T00:00:00Z")).map(|change| change.timestamp());
    all.take_while(|change| *change < at("2028-01-01T00:00:00Z")).collect()
}

/// Asserts that daily patterns fire once on each day around each change of the clock.
fn assert_once_a_day(name: &str, zone: &TimeZone) {
    let year = [at("2026-06-15T00:00:00Z")];
    let changes = changes(zone);
    for &change in if changes.is_empty() { &year[..] } else { &changes[..] } {
        let day = zone.to_datetime(change).date();
        let walls = Walls::of(zone, change - 5.hours() * 24, 10);
        let days: Vec<Date> = (-3..=3).map(|days: i64| day.checked_add(days.days()).unwrap()).collect();
        for quarter in 0..96_i8 {
            let (hour, minute) = (quarter / 4, quarter % 4 * 15);
            let times = times(&format!("{minute} {hour} * * *"));
            let expected: Vec<_> = days.iter().map(|day| walls.instant_of(day.at(hour, minute, 0, 0))).collect();
            let mut after = expected[0] - 1.second();
            for expected in expected {
                let found = times.next_after(after, zone).unwrap();
                assert_eq!(found, expected, "{name}: {hour}:{minute} after {after}");
                assert!(found > after);
                after = found;
            }
        }
    }
}

/// All zones of the machine: their names and rules.
fn zones() -> Vec<(String, TimeZone)> {
    let names = jiff::tz::db().available().map(|name| name.to_string());
    names.filter_map(|name| Some((name.clone(), TimeZone::get(&name).ok()?))).collect()
}

#[test]
fn a_daily_time_comes_once_a_day_however_clocks_change() {
    for posix in [BERLIN, NEW_YORK, LORD_HOWE, BEIRUT, "<-03>3", "<+0545>-5:45"] {
        assert_once_a_day(posix, &zone(posix));
    }
    // Of zones that change alike in these two years, one. A small machine may have none.
    let mut alike = BTreeSet::new();
    for (name, zone) in zones() {
        let changes = changes(&zone);
        let offsets = changes.iter().map(|&change| (zone.to_offset(change - 1.second()), zone.to_offset(change)));
        let offsets: Vec<_> = offsets.map(|(before, after)| (before.seconds(), after.seconds())).collect();
        if !changes.is_empty() && alike.insert((changes.iter().map(|at| at.as_second()).collect::<Vec<_>>(), offsets)) {
            assert_once_a_day(&name, &zone);
        }
    }
}

#[test]
#[ignore = "half a minute: cargo test --release -- --ignored in_every_zone"]
fn a_daily_time_comes_once_a_day_in_every_zone() {
    let zones = zones();
    assert!(zones.len() > 300, "{}", zones.len());
    for (name, zone) in zones {
        assert_once_a_day(&name, &zone);
    }
}

/// The times of a pattern within some days, by looking at the clock in every minute.
fn looked_up(times: &str, walls: &Walls) -> BTreeSet<Timestamp> {
    let fields: Vec<&str> = times.split(' ').collect();
    let is_elapsed = fields[0].starts_with('*') && fields[1].starts_with('*');
    let is_in = |field: &str, number: i8, most: i8| {
        field.split(',').any(|part| {
            let (range, step) = part.split_once('/').unwrap_or((part, "1"));
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (if most == 31 || most == 12 { 1 } else { 0 }, most),
                Some((first, last)) => (first.parse().unwrap(), last.parse().unwrap()),
                None => (range.parse().unwrap(), range.parse().unwrap()),
            };
            (first..=last).contains(&number) && (number - first) % step.parse::<i8>().unwrap() == 0
        })
    };
    let matches = |wall: DateTime| {
        let day = is_in(fields[2], wall.day(), 31);
        let weekday = is_in(fields[4], wall.date().weekday().to_sunday_zero_offset(), 6);
        let either = !fields[2].starts_with('*') && !fields[4].starts_with('*');
        is_in(fields[0], wall.minute(), 59)
            && is_in(fields[1], wall.hour(), 23)
            && is_in(fields[3], wall.month(), 12)
            && if either { day || weekday } else { day && weekday }
    };
    let mut shown_before = BTreeSet::new();
    let mut found = BTreeSet::new();
    let mut last: Option<DateTime> = None;
    for &(at, wall) in &walls.shown {
        let is_new = shown_before.insert(wall);
        if matches(wall) && (is_elapsed || is_new) {
            found.insert(at);
        }
        let mut missing = last.map(|last| last + 1.minute());
        while let Some(gap) = missing.filter(|gap| *gap < wall && !is_elapsed) {
            if matches(gap) {
                found.insert(at);
            }
            missing = Some(gap + 1.minute());
        }
        last = Some(wall);
    }
    found
}

fn field(least: i8, most: i8) -> impl Strategy<Value = String> {
    let number = least..=most;
    let range =
        (number.clone(), number.clone(), 1..5_i8).prop_map(|(a, b, step)| format!("{}-{}/{step}", a.min(b), a.max(b)));
    let list = proptest::collection::vec(number, 1..4)
        .prop_map(|numbers| numbers.iter().map(i8::to_string).collect::<Vec<_>>().join(","));
    prop_oneof![Just("*".to_owned()), (2..7_i8).prop_map(|step| format!("*/{step}")), range, list]
}

fn pattern() -> impl Strategy<Value = String> {
    (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6))
        .prop_map(|(minute, hour, day, month, weekday)| format!("{minute} {hour} {day} {month} {weekday}"))
}

/// What may happen to a daemon and its clock.
#[derive(Clone, Debug)]
enum Event {
    /// It decides again, so many seconds later.
    Later(i64),
    /// The clock is set, by so many seconds.
    Set(i64),
    /// It sleeps until what it was told.
    Wake,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Wake),
        2 => (0..4_000_i64).prop_map(Event::Later),
        1 => (0..400_000_i64).prop_map(Event::Later),
        1 => (-170_000..170_000_i64).prop_map(Event::Set),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_pattern_means_what_looking_at_the_clock_finds(text in pattern(), posix in 0..4_usize, day in 0..730_i64) {
        let zone = zone([BERLIN, NEW_YORK, LORD_HOWE, BEIRUT][posix]);
        let start = date(2026, 1, 1).checked_add(day.days()).unwrap().at(12, 0, 0, 0);
        // Near a change of the clock, if there is one soon.
        let start = zone.to_timestamp(start).unwrap();
        let change = zone.following(start).next().unwrap().timestamp();
        let start = if day % 2 == 0 { change - 30.hours() } else { start };
        let walls = Walls::of(&zone, start, 4);
        let (times, expected) = (times(&text), looked_up(&text, &walls));
        let (first, end) = (walls.shown[0].0, walls.shown.last().unwrap().0);
        let mut found = BTreeSet::new();
        let mut after = first;
        while let Some(next) = times.next_after(after, &zone).filter(|next| *next <= end) {
            prop_assert!(next > after);
            found.insert(next);
            after = next;
        }
        let expected: BTreeSet<_> = expected.into_iter().filter(|at| *at > first).collect();
        prop_assert_eq!(found, expected, "{} in {:?} from {}", text, zone, first);
    }

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "[-*/,@ 0-9a-zL?#]{0,40}") {
        if let Ok(times) = Times::parse(&text) {
            let _ = times.next_after(at("2026-11-21T10:00:00Z"), &zone(BERLIN));
        }
    }

    #[test]
    fn no_time_makes_two_runs_whatever_the_clock_does(
        which in 0..4_usize,
        skip in any::<bool>(),
        spread in 0..1000_u64,
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let texts: &[&str] = [&["0 2 * * *"][..], &["*/5 * * * *"], &["every 45s"], &["@hourly", "30 2 * * *"]][which];
        let mut schedule = schedule(texts, zone(BERLIN));
        schedule.missed = if skip { Missed::Skip } else { Missed::Once };
        schedule.spread = Duration::from_secs(spread);
        let agent = name("fixer");
        let mut now = at("2026-03-28T20:00:00Z").as_second();
        let (mut state, mut ids) = (None::<State>, BTreeSet::new());
        let mut next = None;
        let (mut highest, mut is_first) = (now, true);
        for event in events {
            match event {
                Event::Later(seconds) => now += seconds,
                // Further back than that, ids alone say that a time was there already.
                Event::Set(seconds) => now = (now + seconds).max(highest - 170_000),
                Event::Wake => now = next.map_or(now, |next: SystemTime| instant(next).as_second()).max(now),
            }
            highest = highest.max(now);
            let wall = on_clock(Timestamp::from_second(now).unwrap(), SignedDuration::ZERO).unwrap();
            let decision = schedule.decide(&agent, wall, state.as_ref());
            prop_assert!(!is_first || decision.due.is_none());
            if let Some(due) = &decision.due {
                prop_assert!(ids.insert(due.id.clone()), "{} twice", due.id);
                prop_assert!(due.at <= wall);
                let late = wall.duration_since(due.at).unwrap();
                prop_assert!(!skip || late <= PUNCTUAL + schedule.spread);
                prop_assert!(late <= MISSED_WITHIN + schedule.spread);
            }
            prop_assert!(decision.next.is_none_or(|next| next > wall));
            // Nothing more is to be done in the same instant, also after a crash.
            let again = schedule.decide(&agent, wall, Some(&decision.state));
            prop_assert_eq!((again.due, again.passed, &again.state, again.next), (None, 0, &decision.state, decision.next));
            (state, next, is_first) = (Some(decision.state), decision.next, false);
        }
    }

    #[test]
    fn a_daemon_that_is_there_misses_nothing(which in 0..3_usize, spread in 0..1000_u64, start in 0..400_000_u64) {
        let texts: &[&str] = [&["0 2 * * *", "*/30 1-3 * * *"][..], &["every 10m"], &["*/15 * * * *"]][which];
        let mut schedule = schedule(texts, zone(BERLIN));
        schedule.spread = Duration::from_secs(spread);
        let agent = name("fixer");
        let start = wall("2026-03-27T00:00:00Z") + Duration::from_secs(start);
        let mut decision = schedule.decide(&agent, start, None);
        for expected in schedule.upcoming(&agent, start).take(50) {
            prop_assert_eq!(decision.next, Some(expected));
            decision = schedule.decide(&agent, expected, Some(&decision.state));
            prop_assert!(decision.due.is_some());
            prop_assert_eq!(decision.passed, 0);
        }
    }
}

fn wall(text: &str) -> SystemTime {
    on_clock(at(text), SignedDuration::ZERO).unwrap()
}

/// Decides for a schedule that was known since one time.
fn decided(schedule: &Schedule, since: &str, now: &str) -> Decision {
    let agent = name("fixer");
    let known = schedule.decide(&agent, wall(since), None).state;
    schedule.decide(&agent, wall(now), Some(&known))
}

fn id(decision: &Decision) -> Option<&str> {
    decision.due.as_ref().map(|due| due.id.as_str())
}

#[test]
fn a_first_declaration_makes_no_run() {
    let schedule = schedule(&["0 2 * * *"], TimeZone::UTC);
    let decision = schedule.decide(&name("fixer"), wall("2026-11-21T02:00:00Z"), None);
    assert_eq!((decision.due, decision.passed), (None, 0));
    assert_eq!(decision.next, Some(wall("2026-11-22T02:00:00Z")));
}

#[test]
fn a_time_makes_a_run_that_is_named_after_it() {
    let daily = schedule(&["0 2 * * *"], zone(BERLIN));
    let decision = decided(&daily, "2026-11-20T12:00:00Z", "2026-11-21T01:00:00Z");
    assert_eq!((id(&decision), decision.passed), (Some("cron-20261121T0100Z"), 0));
    assert_eq!(decision.due.unwrap().at, wall("2026-11-21T01:00:00Z"));
    assert_eq!(decision.next, Some(wall("2026-11-22T01:00:00Z")));
    let often = schedule(&["every 45s"], TimeZone::UTC);
    let decision = decided(&often, "2026-11-21T02:00:00Z", "2026-11-21T02:00:45Z");
    assert_eq!(id(&decision), Some("cron-20261121T020045Z"));
}

#[test]
fn missed_times_make_one_run() {
    let mut schedule = schedule(&["0 * * * *"], TimeZone::UTC);
    let decision = decided(&schedule, "2026-11-21T02:30:00Z", "2026-11-21T07:20:00Z");
    assert_eq!((id(&decision), decision.passed), (Some("cron-20261121T0700Z"), 4));
    schedule.missed = Missed::Skip;
    let decision = decided(&schedule, "2026-11-21T02:30:00Z", "2026-11-21T07:20:00Z");
    assert_eq!((id(&decision), decision.passed), (None, 5));
    // The last one is not missed yet.
    let decision = decided(&schedule, "2026-11-21T02:30:00Z", "2026-11-21T07:00:30Z");
    assert_eq!((id(&decision), decision.passed), (Some("cron-20261121T0700Z"), 4));
}

#[test]
fn times_that_were_missed_long_ago_make_no_run() {
    let mut schedule = schedule(&["0 2 * * *"], TimeZone::UTC);
    schedule.missed_within = Duration::from_hours(6);
    let decision = decided(&schedule, "2026-11-21T03:00:00Z", "2026-11-22T08:00:00Z");
    assert_eq!((id(&decision), decision.passed), (Some("cron-20261122T0200Z"), 0));
    let decision = decided(&schedule, "2026-11-21T03:00:00Z", "2026-11-22T08:00:01Z");
    assert_eq!((id(&decision), decision.passed), (None, 1));
    assert_eq!(decision.next, Some(wall("2026-11-23T02:00:00Z")));
}

#[test]
fn an_edit_of_the_times_restarts_the_reckoning() {
    let (before, after) = (schedule(&["0 2 * * *"], TimeZone::UTC), schedule(&["0 3 * * *"], TimeZone::UTC));
    let agent = name("fixer");
    let known = before.decide(&agent, wall("2026-11-21T00:00:00Z"), None).state;
    let decision = after.decide(&agent, wall("2026-11-21T04:00:00Z"), Some(&known));
    assert_eq!((decision.due, decision.next), (None, Some(wall("2026-11-22T03:00:00Z"))));
    // Another spelling of the same is no edit.
    let named = schedule(&["0 2 * * MON"], TimeZone::UTC);
    assert_eq!(named.identity(), schedule(&["0 2 * * 1"], TimeZone::UTC).identity());
}

#[test]
fn a_clock_that_was_years_ahead_does_not_stop_a_schedule() {
    let schedule = schedule(&["0 2 * * *"], TimeZone::UTC);
    let agent = name("fixer");
    let wrong = schedule.decide(&agent, wall("2040-01-01T00:00:00Z"), None).state;
    let decision = schedule.decide(&agent, wall("2026-11-21T04:00:00Z"), Some(&wrong));
    assert_eq!((decision.due, decision.next), (None, Some(wall("2026-11-22T02:00:00Z"))));
}

#[test]
fn millions_of_missed_times_are_soon_counted() {
    let schedule = schedule(&["every 1s", "* * * * *"], zone(BERLIN));
    let decision = decided(&schedule, "2016-01-01T00:00:00Z", "2026-11-21T04:00:17Z");
    assert_eq!((id(&decision), decision.passed), (Some("cron-20261121T040017Z"), MOST_COUNTED - 1));
}

#[test]
fn spread_gives_each_agent_a_time_of_its_own_and_the_same_id() {
    let mut schedule = schedule(&["0 2 * * *"], TimeZone::UTC);
    schedule.spread = Duration::from_mins(10);
    let now = wall("2026-11-21T00:00:00Z");
    let starts: BTreeSet<_> =
        (0..20).filter_map(|number| schedule.next_after(&name(&format!("fixer-{number}")), now)).collect();
    assert!(starts.len() > 15, "{starts:?}");
    let (first, last) = (starts.first().unwrap(), starts.last().unwrap());
    assert!(*first >= wall("2026-11-21T02:00:00Z") && *last < wall("2026-11-21T02:10:00Z"), "{starts:?}");
    let agent = name("fixer-1");
    let known = schedule.decide(&agent, now, None);
    let next = known.next.unwrap();
    let early = schedule.decide(&agent, next - Duration::from_secs(1), Some(&known.state));
    assert_eq!((early.due, early.next), (None, Some(next)));
    assert_eq!(id(&schedule.decide(&agent, next, Some(&known.state))), Some("cron-20261121T0200Z"));
}

#[test]
fn a_schedule_that_never_comes_wakes_nobody() {
    let schedule = schedule(&["0 0 31 2 *"], TimeZone::UTC);
    let decision = schedule.decide(&name("fixer"), wall("2026-11-21T00:00:00Z"), None);
    assert_eq!((decision.due, decision.next), (None, None));
}

#[test]
fn clocks_beyond_the_calendar_make_no_run() {
    let schedule = schedule(&["* * * * *", "every 7s"], zone(BERLIN));
    for now in [SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60)] {
        let decision = schedule.decide(&name("fixer"), now, None);
        assert_eq!(decision.due, None);
        schedule.decide(&name("fixer"), wall("2026-11-21T00:00:00Z"), Some(&decision.state));
    }
}
