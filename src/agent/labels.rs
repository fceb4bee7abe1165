//! Labels: what agents can be selected by.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The most labels of one agent. Each is a line of the metrics, and in every status of the agent.
pub const MOST: usize = 32;

/// The longest key or value, in characters: as long as those of other systems, so that labels can be passed on.
pub const LONGEST: usize = 63;

/// A key as a regular expression. There is neither a character that a URL, a shell or a metric would need quotes for, nor the one that
/// separates a key from its value; and no key looks like an option.
pub const KEY: &str = "[A-Za-z0-9._/][A-Za-z0-9._/-]{0,62}";

/// A value as a regular expression.
pub const VALUE: &str = "[A-Za-z0-9._/-]{0,63}";

/// Whether a text can be a key.
pub fn is_key(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('-') && is_value(text)
}

/// Whether a text can be a value.
pub fn is_value(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte);
    text.len() <= LONGEST && text.bytes().all(is_allowed)
}

/// Which agents are meant: those that have a label, whatever its value, or with one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    key: String,
    value: Option<String>,
}

/// The text selects nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("write KEY, or KEY=VALUE, each of at most 63 of A-Z a-z 0-9 . _ / -, of which a key does not begin with -")]
pub struct NoSelector;

impl Selector {
    /// Whether an agent with these labels is meant.
    pub fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(&self.key).is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

/// Whether an agent with these labels is meant by each of the selectors.
pub fn fits_all(selectors: &[Selector], labels: &BTreeMap<String, String>) -> bool {
    selectors.iter().all(|selector| selector.fits(labels))
}

impl FromStr for Selector {
    type Err = NoSelector;

    fn from_str(text: &str) -> Result<Self, NoSelector> {
        let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
        if !is_key(key) || !value.is_none_or(is_value) {
            return Err(NoSelector);
        }
        Ok(Self { key: key.to_owned(), value: value.map(str::to_owned) })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[rstest]
    #[case("team", true)]
    #[case("team=web", true)]
    #[case("team=ops", false)]
    #[case("team=", false)]
    #[case("Team", false)]
    #[case("review", true)]
    #[case("review=", true)]
    #[case("review=x", false)]
    #[case("other", false)]
    fn a_selector_fits_by_key_or_by_value(#[case] text: &str, #[case] fits: bool) {
        let selector: Selector = text.parse().unwrap();
        assert_eq!(selector.fits(&labels(&[("team", "web"), ("review", "")])), fits);
        assert_eq!(selector.to_string(), text);
    }

    #[test]
    fn all_selectors_must_fit() {
        let selectors: Vec<Selector> = ["team=web", "review"].map(|text| text.parse().unwrap()).into();
        assert!(fits_all(&selectors, &labels(&[("team", "web"), ("review", "")])));
        assert!(!fits_all(&selectors, &labels(&[("team", "web")])));
        assert!(fits_all(&[], &labels(&[])));
    }

    #[rstest]
    #[case("")]
    #[case("=x")]
    #[case("a=b=c")]
    #[case("-a")]
    #[case("a b")]
    #[case("ä")]
    #[case("a=\n")]
    fn what_selects_nothing_is_refused(#[case] text: &str) {
        assert_eq!(text.parse::<Selector>(), Err(NoSelector));
    }

    #[test]
    fn keys_and_values_have_at_most_63_characters() {
        let (longest, longer) = ("x".repeat(LONGEST), "x".repeat(LONGEST + 1));
        assert!(is_key(&longest) && !is_key(&longer) && !is_key("") && !is_key("-x"));
        assert!(is_value(&longest) && !is_value(&longer) && is_value("") && is_value("-x"));
    }

    proptest! {
        #[test]
        fn a_selector_is_read_back_as_it_was_written(text in proptest::string::string_regex(&format!("{KEY}(={VALUE})?")).unwrap()) {
            prop_assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
    }
}
