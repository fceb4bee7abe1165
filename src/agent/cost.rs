//! What an agent costs over its attempts. Pure.
//!
//! A harness reports what an attempt has cost so far. Some report instead what the conversation has cost so far, in which earlier
//! attempts are contained if the conversation was resumed. The two cannot be told apart by a figure alone, so a rule decides: if the
//! conversation was resumed and the figure is not below that of the attempt before, it contains that one.

use serde::{Deserialize, Serialize};

use crate::wire::result::Tokens;

/// The most that is counted, in US dollars: no figure of a harness makes a sum useless.
const MOST: f64 = 1e9;

/// The costs and tokens of a life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bill {
    /// Of what is not contained in `last`, in US dollars.
    #[serde(deserialize_with = "money")]
    before: f64,
    /// What the latest attempt that reported a figure has reported, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "some_money")]
    last: Option<f64>,
    /// Whether an attempt that began since then has to report before `last` is replaced.
    is_new: bool,
    /// Whether that attempt goes on with the conversation.
    is_resumed: bool,
    /// The tokens of earlier attempts.
    tokens_before: Tokens,
    /// The tokens of the present attempt.
    tokens: Tokens,
}

impl Bill {
    /// An attempt begins; `is_resumed` says whether it goes on with the conversation of the one before.
    pub fn begin(&mut self, is_resumed: bool) {
        // An attempt that reported nothing changes nothing about what the next figure is compared with, unless it was a new
        // conversation.
        self.is_resumed = if self.is_new { self.is_resumed && is_resumed } else { is_resumed };
        self.is_new = true;
        self.tokens_before = sum(self.tokens_before, std::mem::take(&mut self.tokens));
    }

    /// The present attempt has cost this much so far. Figures that cannot be true are ignored.
    pub fn costs(&mut self, figure: f64) {
        if !(0.0..=MOST).contains(&figure) {
            return;
        }
        if std::mem::take(&mut self.is_new)
            && let Some(last) = self.last
            && !(self.is_resumed && figure >= last)
        {
            self.before = (self.before + last).min(MOST);
        }
        self.last = Some(figure);
    }

    /// The present attempt has taken these tokens so far.
    pub fn takes(&mut self, tokens: Tokens) {
        self.tokens = tokens;
    }

    /// What all attempts have cost, in US dollars; `None` if none has said.
    pub fn cost(&self) -> Option<f64> {
        self.last.map(|last| (self.before + last).min(MOST))
    }

    /// What all attempts have taken; `None` if none has said.
    pub fn tokens(&self) -> Option<Tokens> {
        Some(sum(self.tokens_before, self.tokens)).filter(|tokens| *tokens != Tokens::default())
    }

    /// Whether more than this was spent, in US dollars.
    pub fn exceeds(&self, limit: f64) -> bool {
        self.cost().is_some_and(|cost| cost > limit)
    }
}

fn sum(one: Tokens, other: Tokens) -> Tokens {
    Tokens {
        input: one.input.saturating_add(other.input),
        output: one.output.saturating_add(other.output),
        cache_read: one.cache_read.saturating_add(other.cache_read),
        cache_write: one.cache_write.saturating_add(other.cache_write),
    }
}

/// A record may hold anything.
fn money<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let figure = f64::deserialize(deserializer)?;
    Ok(if (0.0..=MOST).contains(&figure) { figure } else { 0.0 })
}

fn some_money<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.filter(|figure| (0.0..=MOST).contains(figure)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::one(vec![(false, vec![0.1, 0.2])], 0.2)]
    #[case::afresh(vec![(false, vec![0.2]), (false, vec![0.3])], 0.5)]
    #[case::resumed_and_contained(vec![(false, vec![0.2]), (true, vec![0.3])], 0.3)]
    #[case::resumed_and_counted_from_zero(vec![(false, vec![0.2]), (true, vec![0.1])], 0.3)]
    #[case::resumed_twice(vec![(false, vec![0.2]), (true, vec![0.3]), (true, vec![0.5])], 0.5)]
    #[case::mixed(vec![(false, vec![0.2]), (true, vec![0.3]), (false, vec![0.5]), (true, vec![0.6])], 0.9)]
    #[case::an_attempt_that_said_nothing(vec![(false, vec![0.2]), (true, vec![]), (true, vec![0.3])], 0.3)]
    #[case::afresh_and_silent_in_between(vec![(false, vec![0.2]), (false, vec![]), (true, vec![0.3])], 0.5)]
    #[case::absurd(vec![(false, vec![0.2, -1.0, f64::NAN, f64::INFINITY, 1e308])], 0.2)]
    fn attempts_add_up(#[case] attempts: Vec<(bool, Vec<f64>)>, #[case] expected: f64) {
        let mut bill = Bill::default();
        for (is_resumed, figures) in attempts {
            bill.begin(is_resumed);
            figures.into_iter().for_each(|figure| bill.costs(figure));
        }
        let cost = bill.cost().unwrap();
        assert!((cost - expected).abs() < 1e-9, "{cost}");
        assert!(bill.exceeds(expected - 0.01) && !bill.exceeds(expected + 0.01));
    }

    #[test]
    fn tokens_add_up_and_nothing_said_is_nothing_known() {
        let mut bill = Bill::default();
        assert_eq!((bill.cost(), bill.tokens()), (None, None));
        assert!(!bill.exceeds(0.0));
        for output in [3, 5] {
            bill.begin(true);
            bill.takes(Tokens { output: 1, ..Tokens::default() });
            bill.takes(Tokens { output, input: u64::MAX, ..Tokens::default() });
        }
        assert_eq!(bill.tokens(), Some(Tokens { output: 8, input: u64::MAX, ..Tokens::default() }));
    }

    #[test]
    fn a_bill_survives_its_record_and_a_record_cannot_upset_it() {
        let mut bill = Bill::default();
        bill.begin(false);
        bill.costs(0.25);
        let json = serde_json::to_string(&bill).unwrap();
        assert_eq!(serde_json::from_str::<Bill>(&json).unwrap(), bill);
        let odd: Bill = serde_json::from_str(r#"{"before":-5,"last":1e300,"more":1}"#).unwrap();
        assert_eq!(odd.cost(), None);
    }
}
