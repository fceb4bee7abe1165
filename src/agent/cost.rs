//! What an agent costs over its attempts. Pure.
//!
//! A harness reports what an attempt has cost so far. Some report instead what the conversation has cost so far, in which earlier
//! attempts are contained if the conversation was resumed. The two cannot be told apart by a figure alone, so a rule decides: if the
//! conversation was resumed and the figure is not below that of the attempt before, it contains that one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wire::result::Tokens;

/// The most that is counted, in US dollars: no figure of a harness makes a sum useless.
const MOST: f64 = 1e9;

/// The most that an agent may cost: millionths of a US dollar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MaxCost(u64);

impl MaxCost {
    /// A number of dollars, as text; `None` if it is none, is not above 0, or is a billion or more.
    pub fn parse(text: &str) -> Option<Self> {
        let (dollars, fraction) = text.split_once('.').unwrap_or((text, ""));
        let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
        if dollars.is_empty() || !is_number(dollars) || !is_number(fraction) {
            return None;
        }
        let digits = |text: &str| text.replace('_', "");
        let fraction: String = digits(fraction).chars().chain("000000".chars()).take(6).collect();
        let dollars: u64 = digits(dollars).parse().ok().filter(|dollars| *dollars < 1_000_000_000)?;
        let millionths = dollars * 1_000_000 + fraction.parse::<u64>().ok()?;
        (millionths > 0).then_some(Self(millionths))
    }

    /// In dollars.
    #[expect(clippy::cast_precision_loss, reason = "figures need not be exact beyond 2⁵³ millionths")]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl fmt::Display for MaxCost {
    /// As a decimal number of dollars, with two digits after the point or more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        let end = text.trim_end_matches('0').len().max(text.len() - 4);
        f.write_str(&text[..end])
    }
}

/// The costs and tokens of a life.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bill {
    /// Of what is not contained in `last`, in US dollars.
    #[serde(deserialize_with = "money")]
    before: f64,
    /// What the latest attempt that reported a figure has reported, in US dollars.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "some_money")]
    last: Option<f64>,
    /// The conversation of that attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<String>,
    /// Whether an attempt that began since then has yet to report.
    is_new: bool,
    /// The tokens of earlier attempts.
    tokens_before: Tokens,
    /// The tokens of the present attempt.
    tokens: Tokens,
}

impl Bill {
    /// An attempt begins.
    pub fn begin(&mut self) {
        self.is_new = true;
        self.tokens_before = self.tokens_before.plus(std::mem::take(&mut self.tokens));
    }

    /// The present attempt has cost this much so far, and is in this conversation. Figures that cannot be true are ignored.
    pub fn costs(&mut self, figure: f64, conversation: Option<&str>) {
        if !(0.0..=MOST).contains(&figure) {
            return;
        }
        if std::mem::take(&mut self.is_new) {
            let is_resumed = conversation.is_some() && conversation == self.conversation.as_deref();
            if let Some(last) = self.last
                && !(is_resumed && figure >= last)
            {
                self.before = (self.before + last).min(MOST);
            }
            self.conversation = conversation.map(str::to_owned);
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
        Some(self.tokens_before.plus(self.tokens)).filter(|tokens| *tokens != Tokens::default())
    }

    /// Whether more than this was spent.
    pub fn exceeds(&self, limit: MaxCost) -> bool {
        self.cost().is_some_and(|cost| cost > limit.dollars())
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
    #[case::one(vec![("a", vec![0.1, 0.2])], 0.2)]
    #[case::afresh(vec![("a", vec![0.2]), ("b", vec![0.3])], 0.5)]
    #[case::resumed_and_contained(vec![("a", vec![0.2]), ("a", vec![0.3])], 0.3)]
    #[case::resumed_and_counted_from_zero(vec![("a", vec![0.2]), ("a", vec![0.1])], 0.3)]
    #[case::resumed_twice(vec![("a", vec![0.2]), ("a", vec![0.3]), ("a", vec![0.5])], 0.5)]
    #[case::mixed(vec![("a", vec![0.2]), ("a", vec![0.3]), ("b", vec![0.5]), ("b", vec![0.6])], 0.9)]
    #[case::an_attempt_that_said_nothing(vec![("a", vec![0.2]), ("a", vec![]), ("a", vec![0.3])], 0.3)]
    #[case::no_conversation(vec![("", vec![0.2]), ("", vec![0.3])], 0.5)]
    #[case::absurd(vec![("a", vec![0.2, -1.0, f64::NAN, f64::INFINITY, 1e308])], 0.2)]
    fn attempts_add_up(#[case] attempts: Vec<(&str, Vec<f64>)>, #[case] expected: f64) {
        let mut bill = Bill::default();
        for (conversation, figures) in attempts {
            bill.begin();
            let conversation = Some(conversation).filter(|id| !id.is_empty());
            for figure in figures {
                bill.costs(figure, conversation);
            }
        }
        let cost = bill.cost().unwrap();
        assert!((cost - expected).abs() < 1e-9, "{cost}");
        assert!(bill.exceeds(MaxCost::parse("0.15").unwrap()) && !bill.exceeds(MaxCost::parse("1").unwrap()));
    }

    #[rstest]
    #[case("5.00", Some("5.00"))]
    #[case("5", Some("5.00"))]
    #[case("0.5", Some("0.50"))]
    #[case("1_000.123456789", Some("1000.123456"))]
    #[case("0.0000001", None)]
    #[case("0", None)]
    #[case("-1", None)]
    #[case("nan", None)]
    #[case("1e3", None)]
    #[case("1000000000", None)]
    #[case(".5", None)]
    fn the_most_that_it_may_cost_is_a_decimal_number(#[case] text: &str, #[case] shown: Option<&str>) {
        assert_eq!(MaxCost::parse(text).map(|cost| cost.to_string()).as_deref(), shown);
    }

    #[test]
    fn tokens_add_up_and_nothing_said_is_nothing_known() {
        let mut bill = Bill::default();
        assert_eq!((bill.cost(), bill.tokens()), (None, None));
        assert!(!bill.exceeds(MaxCost(1)));
        for output in [3, 5] {
            bill.begin();
            bill.takes(Tokens { output: 1, ..Tokens::default() });
            bill.takes(Tokens { output, input: u64::MAX, ..Tokens::default() });
        }
        assert_eq!(bill.tokens(), Some(Tokens { output: 8, input: u64::MAX, ..Tokens::default() }));
    }

    #[test]
    fn a_bill_survives_its_record_and_a_record_cannot_upset_it() {
        let mut bill = Bill::default();
        bill.begin();
        bill.costs(0.25, Some("a"));
        let json = serde_json::to_string(&bill).unwrap();
        assert_eq!(serde_json::from_str::<Bill>(&json).unwrap(), bill);
        let odd: Bill = serde_json::from_str(r#"{"before":-5,"last":1e300,"more":1}"#).unwrap();
        assert_eq!(odd.cost(), None);
    }
}
