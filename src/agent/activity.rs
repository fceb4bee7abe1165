//! What an agent does while it runs, as far as its harness or its screen says that. Pure.
//!
//! Three sources speak: the harness's machine-readable output, its hooks, and its screen. The fresher one is right, with these limits:
//!
//! - what the screen shows never overrides a statement that was made after the last output: the screen is then older;
//! - `blocked` and `login` stay if a harness says in the same instant that it works, because tools can run side by side;
//! - what only the screen showed is over as soon as output goes on: then nothing is known until the screen is read again.
//!
//! Nothing known is neither idle nor working.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sys::clock::Timestamp;
use crate::wire::activity::{self, Doing, Source};
use crate::wire::status::Time;

/// The longest detail, in characters.
pub const MOST_OF_DETAIL: usize = 512;

/// What a source says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// What the agent does.
    pub doing: Doing,
    /// More about it: what it asks for, or where to log in. Without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Who says so.
    pub source: Source,
}

/// News about what an agent does.
#[derive(Clone, Debug)]
pub enum News {
    /// The harness says this itself, in its output or by a hook.
    Said(Statement),
    /// Nothing has been printed for a while, and the harness has said nothing since the last output.
    Quiet {
        /// When something was last printed.
        printed: Timestamp,
    },
    /// What the screen shows, by the rules of the harness. `None` if no rule matches.
    Shown {
        /// When something was last printed before that.
        printed: Timestamp,
        /// What it does, and more about it.
        shown: Option<(Doing, Option<String>)>,
    },
    /// Output goes on after it was quiet.
    Printed,
    /// The harness was given hooks, and has called none of them.
    Unheard,
}

/// What is known of an attempt.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Activity {
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<Known>,
    /// When something was last printed, while it is quiet. What a screen shows counts only as long as that is so.
    #[serde(skip)]
    quiet: Option<Timestamp>,
    /// Whether the harness calls none of its hooks.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_unheard: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    #[serde(flatten)]
    statement: Statement,
    /// When it began to do that.
    since: Timestamp,
    /// Since when it has done nothing but that, by the word of the harness.
    counted: Timestamp,
    /// When that was last said. Not on record: a report that changes nothing is not worth a write.
    #[serde(skip)]
    heard: Option<Timestamp>,
}

impl Known {
    fn new(statement: Statement, now: Timestamp) -> Self {
        Self { statement, since: now, counted: now, heard: Some(now) }
    }

    /// Whether this was said after that output.
    fn is_after(&self, printed: Timestamp) -> bool {
        self.statement.source != Source::Screen && self.heard.is_some_and(|heard| heard > printed)
    }
}

impl Activity {
    /// Takes in news.
    pub fn take(&mut self, news: News, now: Timestamp) {
        match news {
            News::Said(statement) => {
                self.is_unheard &= statement.source != Source::Hook;
                self.said(statement, now);
            }
            News::Quiet { printed } => self.quiet = Some(printed),
            // It has been printed to since, or it is read again.
            News::Shown { printed, .. } if self.quiet != Some(printed) => {}
            News::Shown { printed, shown } => self.shown(printed, shown, now),
            News::Printed => {
                self.quiet = None;
                match &mut self.known {
                    Some(known) if known.statement.source == Source::Screen => self.known = None,
                    Some(known) => known.counted = now,
                    None => {}
                }
            }
            News::Unheard => self.is_unheard = true,
        }
    }

    fn said(&mut self, statement: Statement, now: Timestamp) {
        let Some(known) = &mut self.known else {
            self.known = Some(Known::new(statement, now));
            return;
        };
        let asks = matches!(known.statement.doing, Doing::Blocked | Doing::Login);
        let is_at_once = known.heard.is_some_and(|heard| heard >= now);
        if asks && is_at_once && statement.doing == Doing::Working {
            return;
        }
        if known.statement.doing != statement.doing {
            *known = Known::new(statement, now);
            return;
        }
        if known.statement.source == Source::Screen {
            known.counted = now;
        }
        known.statement = statement;
        known.heard = Some(now);
    }

    fn shown(&mut self, printed: Timestamp, shown: Option<(Doing, Option<String>)>, now: Timestamp) {
        match (&mut self.known, shown) {
            // A person needs the address to log in at, whoever says that it must be done.
            (Some(known), Some((doing, detail))) if known.statement.doing == doing => {
                let is_of_screen = known.statement.source == Source::Screen;
                if is_of_screen || known.statement.detail.is_none() || doing == Doing::Login {
                    known.statement.detail = detail.or(known.statement.detail.take());
                }
            }
            (Some(known), _) if known.is_after(printed) => {}
            (_, Some((doing, detail))) => {
                self.known = Some(Known::new(Statement { doing, detail, source: Source::Screen }, now));
            }
            (Some(known), None) if known.statement.source == Source::Screen => self.known = None,
            (_, None) => {}
        }
    }

    /// What it does, if that is known.
    pub fn statement(&self) -> Option<&Statement> {
        self.known.as_ref().map(|known| &known.statement)
    }

    /// Whether it calls none of the hooks that it was given.
    pub fn is_unheard(&self) -> bool {
        self.is_unheard
    }

    /// As the API has it.
    pub fn report(&self) -> Option<activity::Activity> {
        let Known { statement: Statement { doing, detail, source }, since, .. } = self.known.as_ref()?;
        let since = Time(since.wall());
        Some(activity::Activity { status: *doing, since, detail: detail.clone(), source: *source })
    }

    /// When it will have been idle or blocked for so long, by the word of its harness. What only the screen shows is not enough.
    pub fn overdue_at(&self, timeout: Duration) -> Option<Timestamp> {
        let Known { statement, counted, .. } = self.known.as_ref()?;
        let waits = matches!(statement.doing, Doing::Idle | Doing::Blocked);
        (waits && statement.source != Source::Screen).then(|| *counted + timeout)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// So many seconds after some instant.
    fn at(seconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_secs(1000), std::time::UNIX_EPOCH) + Duration::from_secs(seconds)
    }

    fn said(doing: Doing, source: Source) -> News {
        News::Said(Statement { doing, detail: None, source })
    }

    fn shown(printed: u64, doing: Option<Doing>) -> News {
        News::Shown { printed: at(printed), shown: doing.map(|doing| (doing, None)) }
    }

    fn after(news: Vec<(u64, News)>) -> Activity {
        let mut activity = Activity::default();
        for (seconds, news) in news {
            if let News::Shown { printed, .. } = news {
                activity.take(News::Quiet { printed }, at(seconds));
            }
            activity.take(news, at(seconds));
        }
        activity
    }

    use Doing::{Blocked, Idle, Login, Working};
    use Source::{Hook, Screen, Stream};

    #[rstest]
    #[case::nothing(vec![], None)]
    #[case::quiet_alone(vec![(9, News::Quiet { printed: at(7) })], None)]
    #[case::fresher_hook(vec![(1, said(Working, Stream)), (2, said(Blocked, Hook))], Some((Blocked, Hook)))]
    #[case::fresher_stream(vec![(1, said(Blocked, Hook)), (2, said(Working, Stream))], Some((Working, Stream)))]
    #[case::work_goes_on(vec![(1, said(Blocked, Hook)), (9, said(Working, Hook))], Some((Working, Hook)))]
    #[case::side_by_side(vec![(1, said(Blocked, Hook)), (1, said(Working, Hook))], Some((Blocked, Hook)))]
    #[case::login_side_by_side(vec![(1, said(Login, Hook)), (1, said(Working, Stream))], Some((Login, Hook)))]
    #[case::idle_after_blocked(vec![(1, said(Blocked, Hook)), (1, said(Idle, Hook))], Some((Idle, Hook)))]
    #[case::older_screen(vec![(5, said(Working, Hook)), (9, shown(4, Some(Idle)))], Some((Working, Hook)))]
    #[case::fresher_screen(vec![(5, said(Working, Hook)), (9, shown(6, Some(Blocked)))], Some((Blocked, Screen)))]
    #[case::no_rule_matches(vec![(5, said(Working, Hook)), (9, shown(6, None))], Some((Working, Hook)))]
    #[case::screen_is_over(vec![(5, shown(3, Some(Blocked))), (9, shown(6, None))], None)]
    #[case::output_after_screen(vec![(5, shown(3, Some(Blocked))), (9, News::Printed)], None)]
    #[case::output_after_hook(vec![(5, said(Blocked, Hook)), (9, News::Printed)], Some((Blocked, Hook)))]
    #[case::same_by_screen(vec![(5, said(Blocked, Hook)), (9, shown(6, Some(Blocked)))], Some((Blocked, Hook)))]
    #[case::same_by_hook(vec![(5, shown(3, Some(Blocked))), (9, said(Blocked, Hook))], Some((Blocked, Hook)))]
    fn the_fresher_source_is_right(#[case] news: Vec<(u64, News)>, #[case] expected: Option<(Doing, Source)>) {
        let activity = after(news);
        assert_eq!(activity.statement().map(|it| (it.doing, it.source)), expected);
    }

    #[test]
    fn a_status_keeps_its_time_until_it_changes() {
        let since = |activity: &Activity| activity.report().unwrap().since;
        let first = since(&after(vec![(1, said(Blocked, Hook))]));
        assert_eq!(since(&after(vec![(1, said(Blocked, Hook)), (7, said(Blocked, Hook))])), first);
        assert!(since(&after(vec![(1, said(Working, Hook)), (7, said(Blocked, Hook))])) > first);
    }

    #[test]
    fn the_address_to_log_in_at_comes_from_the_screen() {
        let mut activity = after(vec![(5, said(Login, Hook)), (7, News::Quiet { printed: at(1) })]);
        activity
            .take(News::Shown { printed: at(1), shown: Some((Login, Some("https://x code A-1".to_owned()))) }, at(9));
        let told = activity.statement().unwrap();
        assert_eq!((told.source, told.detail.as_deref()), (Hook, Some("https://x code A-1")));
    }

    #[rstest]
    #[case::blocked(vec![(1, said(Blocked, Hook))], Some(61))]
    #[case::idle(vec![(1, said(Idle, Stream))], Some(61))]
    #[case::working(vec![(1, said(Working, Hook))], None)]
    #[case::login(vec![(1, said(Login, Hook))], None)]
    #[case::screen_alone(vec![(1, shown(0, Some(Blocked)))], None)]
    #[case::from_the_word_on(vec![(1, shown(0, Some(Blocked))), (9, said(Blocked, Hook))], Some(69))]
    #[case::said_again(vec![(1, said(Blocked, Hook)), (9, said(Blocked, Hook))], Some(61))]
    #[case::output_goes_on(vec![(1, said(Blocked, Hook)), (9, News::Printed)], Some(69))]
    #[case::nothing(vec![], None)]
    fn only_the_harness_says_how_long_it_has_waited(#[case] news: Vec<(u64, News)>, #[case] expected: Option<u64>) {
        let due = after(news).overdue_at(Duration::from_mins(1));
        assert_eq!(due.map(Timestamp::boot), expected.map(|seconds| at(seconds).boot()));
    }

    #[test]
    fn a_screen_that_was_read_too_late_counts_for_nothing() {
        for news in [News::Quiet { printed: at(6) }, News::Printed] {
            let mut activity = after(vec![(5, News::Quiet { printed: at(3) }), (8, news)]);
            activity.take(shown(3, Some(Blocked)), at(9));
            assert_eq!(activity.statement(), None);
        }
    }

    #[test]
    fn hooks_that_are_heard_are_not_unheard() {
        assert!(after(vec![(1, News::Unheard), (2, said(Working, Stream))]).is_unheard());
        assert!(!after(vec![(1, News::Unheard), (2, said(Working, Hook))]).is_unheard());
    }

    fn any_news() -> impl Strategy<Value = News> {
        let doing = || prop::sample::select(&Doing::ALL[..]);
        prop_oneof![
            (doing(), prop::sample::select(vec![Stream, Hook])).prop_map(|(doing, source)| said(doing, source)),
            (0..60_u64, prop::option::of(doing())).prop_map(|(printed, doing)| shown(printed, doing)),
            Just(News::Printed),
            Just(News::Unheard),
            (0..60_u64).prop_map(|printed| News::Quiet { printed: at(printed) }),
        ]
    }

    proptest! {
        #[test]
        fn a_record_says_what_was_known(news in prop::collection::vec((0..60_u64, any_news()), 0..12)) {
            let mut news = news;
            news.sort_by_key(|(seconds, _)| *seconds);
            let activity = after(news);
            let read: Activity = serde_json::from_str(&serde_json::to_string(&activity).unwrap()).unwrap();
            prop_assert_eq!(read.report(), activity.report());
            prop_assert_eq!(read.is_unheard(), activity.is_unheard());
            let due = |it: &Activity| it.overdue_at(Duration::from_secs(1)).map(Timestamp::boot);
            prop_assert_eq!(due(&read), due(&activity));
        }

        #[test]
        fn what_the_screen_shows_ends_no_agent(news in prop::collection::vec((0..60_u64, any_news()), 0..12)) {
            let mut news = news;
            news.sort_by_key(|(seconds, _)| *seconds);
            let is_said = news.iter().any(|(_, news)| matches!(news, News::Said(_)));
            let activity = after(news);
            let is_of_screen = activity.statement().is_some_and(|it| it.source == Screen);
            let due = activity.overdue_at(Duration::ZERO);
            prop_assert!(due.is_none() || is_said && !is_of_screen);
        }

        #[test]
        fn a_working_agent_that_says_so_last_is_working(news in prop::collection::vec((0..60_u64, any_news()), 0..12)) {
            let mut news = news;
            news.sort_by_key(|(seconds, _)| *seconds);
            news.push((61, said(Working, Hook)));
            prop_assert_eq!(after(news).statement().map(|it| it.doing), Some(Working));
        }
    }
}
