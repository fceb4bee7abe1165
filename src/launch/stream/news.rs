//! News of a stream for the daemon: the latest of each kind, and not too often.
//!
//! A harness may say something new a thousand times in a second. What counts is what it said last, so the rest is left out.

use std::time::{Duration, Instant, SystemTime};

use jiff::tz::TimeZone;

use super::{Ending, Fact, Limit, Until};
use crate::agent::reset_time;
use crate::launch::protocol::{FromLauncher, Held, MOST_DETAIL, Spent, Told};
use crate::wire::activity::{Doing, Source};
use crate::wire::hold::HoldKind;

/// The shortest time between two reports.
const PAUSE: Duration = Duration::from_millis(200);

/// What was said, and what of it is not reported yet.
#[derive(Debug, Default)]
pub(in crate::launch) struct News {
    told: Told,
    is_new: Fresh,
    /// Whether the latest limit was said after the latest activity.
    is_limited_since: bool,
    not_before: Option<Instant>,
}

/// What is not reported yet.
#[derive(Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each stands for itself")]
struct Fresh {
    conversation: bool,
    activity: bool,
    held: bool,
    unheld: bool,
    spent: bool,
}

impl News {
    /// Takes in a fact.
    pub(in crate::launch) fn take(&mut self, fact: Fact, now: SystemTime) {
        match fact {
            Fact::Conversation(id) => {
                self.told.conversation = Some(id);
                self.is_new.conversation = true;
            }
            Fact::Working => self.does(Doing::Working, None),
            Fact::Idle => self.does(Doing::Idle, None),
            Fact::Blocked(mut detail) => {
                detail.truncate(detail.floor_char_boundary(MOST_DETAIL));
                self.does(Doing::Blocked, Some(detail));
            }
            Fact::Tokens(tokens) => {
                self.told.spent.get_or_insert_default().tokens = Some(tokens);
                self.is_new.spent = true;
            }
            Fact::Cost(cost) => {
                self.told.spent.get_or_insert_default().cost_usd = Some(cost);
                self.is_new.spent = true;
            }
            Fact::Limit(Limit { kind, until, text }) => {
                let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
                let said = until.map(|until| match until {
                    Until::At(at) => at,
                    Until::After(wait) => now.saturating_add(wait),
                });
                // Some say it in words only.
                let in_words = || reset_time::read(&text, now, &TimeZone::system());
                let until = if kind == HoldKind::Quota { said.or_else(in_words) } else { said };
                self.told.held = Some(Held { kind, until, evidence: text });
                (self.is_new.held, self.is_new.unheld) = (true, false);
                self.is_limited_since = true;
            }
            Fact::Unlimited => {
                self.told.held = None;
                (self.is_new.held, self.is_new.unheld) = (false, true);
            }
        }
    }

    fn does(&mut self, doing: Doing, detail: Option<String>) {
        self.told.activity = Some((doing, detail));
        self.is_new.activity = true;
        self.is_limited_since = false;
    }

    /// Takes in the end.
    pub(in crate::launch) fn end(&mut self, ending: Ending) {
        self.told.result = ending.result.map(Box::new);
        self.not_before = None;
    }

    /// All that was said.
    pub(in crate::launch) fn told(&self) -> &Told {
        &self.told
    }

    /// Whether there is something to report.
    pub(in crate::launch) fn is_any(&self) -> bool {
        self.is_new != Fresh::default()
    }

    /// When the next report is due; `None` if there is nothing to report.
    pub(in crate::launch) fn due(&self) -> Option<Instant> {
        self.is_any().then(|| self.not_before.unwrap_or_else(Instant::now))
    }

    /// What is to be reported now.
    pub(in crate::launch) fn report(&mut self, now: Instant) -> Vec<FromLauncher> {
        if !self.is_any() || self.not_before.is_some_and(|at| at > now) {
            return Vec::new();
        }
        self.not_before = Some(now + PAUSE);
        let Fresh { conversation, activity, held, unheld, spent } = std::mem::take(&mut self.is_new);
        let Told { conversation: id, activity: doing, held: hold, spent: figures, .. } = &self.told;
        let activity = doing.as_ref().filter(|_| activity).map(|(doing, detail)| FromLauncher::Activity {
            doing: *doing,
            detail: detail.clone(),
            source: Source::Stream,
        });
        let held = hold.clone().filter(|_| held).map(FromLauncher::Held);
        // The one that was said last counts.
        let (first, second) = if self.is_limited_since { (activity, held) } else { (held, activity) };
        [
            id.clone().filter(|_| conversation).map(FromLauncher::Conversation),
            figures.filter(|_| spent).map(|figures: Spent| FromLauncher::Spent(figures)),
            unheld.then_some(FromLauncher::Unheld),
            first,
            second,
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_each_kind_is_reported_once_and_not_too_often() {
        let (mut news, start) = (News::default(), Instant::now());
        assert_eq!((news.due(), news.report(start).len()), (None, 0));
        for _ in 0..1000 {
            news.take(Fact::Working, SystemTime::now());
            news.take(Fact::Idle, SystemTime::now());
        }
        assert!(news.due().is_some_and(|due| due <= Instant::now()));
        assert!(matches!(&news.report(start)[..], [FromLauncher::Activity { doing: Doing::Idle, .. }]));
        news.take(Fact::Cost(0.5), SystemTime::now());
        assert_eq!(news.report(start + PAUSE / 2).len(), 0);
        assert_eq!(news.due(), Some(start + PAUSE));
        let said = news.report(start + PAUSE);
        assert!(matches!(&said[..], [FromLauncher::Spent(Spent { cost_usd: Some(_), .. })]), "{said:?}");
        assert_eq!(news.due(), None);
    }

    /// What is reported once these were taken.
    fn reported(facts: Vec<Fact>) -> (News, Vec<FromLauncher>) {
        let mut news = News::default();
        for fact in facts {
            news.take(fact, SystemTime::now());
        }
        let said = news.report(Instant::now());
        (news, said)
    }

    fn limit() -> Fact {
        Fact::Limit(Limit { kind: HoldKind::Login, until: None, text: "401".into() })
    }

    #[test]
    fn of_a_limit_and_an_activity_the_later_one_is_reported_last() {
        let (_, said) = reported(vec![Fact::Working, limit()]);
        assert!(matches!(&said[..], [FromLauncher::Activity { .. }, FromLauncher::Held(_)]), "{said:?}");
        let (_, said) = reported(vec![limit(), Fact::Idle]);
        assert!(matches!(&said[..], [FromLauncher::Held(_), FromLauncher::Activity { .. }]), "{said:?}");
    }

    #[test]
    fn a_limit_that_is_over_is_neither_reported_nor_kept() {
        let (news, said) = reported(vec![limit(), Fact::Unlimited]);
        assert!(matches!(&said[..], [FromLauncher::Unheld]) && news.told().held.is_none(), "{said:?}");
        let (news, said) = reported(vec![limit(), Fact::Unlimited, limit()]);
        assert!(matches!(&said[..], [FromLauncher::Held(_)]) && news.told().held.is_some(), "{said:?}");
    }

    #[test]
    fn a_wait_ends_at_a_time_and_a_detail_is_bounded() {
        let mut news = News::default();
        let limit = Limit { kind: HoldKind::Quota, until: Some(Until::After(20)), text: "wait".into() };
        news.take(Fact::Limit(limit), SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        assert_eq!(news.told().held.as_ref().and_then(|held| held.until), Some(1020));
        news.take(Fact::Blocked("é".repeat(1000)), SystemTime::UNIX_EPOCH);
        let in_words = |kind, text: &str| {
            let mut news = News::default();
            let limit = Limit { kind, until: None, text: text.into() };
            news.take(Fact::Limit(limit), SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
            news.told().held.as_ref().and_then(|held| held.until)
        };
        assert_eq!(in_words(HoldKind::Quota, "429: limit reached, try again in 2 minutes"), Some(1120));
        assert_eq!(in_words(HoldKind::Login, "401: try again in 2 minutes"), None);
        let (doing, detail) = news.told().activity.clone().unwrap();
        assert_eq!((doing, detail.map(|detail| detail.len())), (Doing::Blocked, Some(MOST_DETAIL)));
    }
}
