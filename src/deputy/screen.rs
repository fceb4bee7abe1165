//! What a screen means, by the rules of its harness. Pure.
//!
//! A rule is an administrator's, and the text an agent's. The expressions take time in proportion to both, and both are bounded.

use std::ops::Range;

use regex_lite::{Captures, Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::agent::harness::keys::{LARGEST_PATTERN, LONGEST_PATTERN};
use crate::agent::harness::rule::{Match, Meaning, Place, Rule};

/// How many lines of a screen are looked at: the last ones. Empty ones at the end do not count.
pub const LINES: usize = 30;

/// The longest line that is looked at, in bytes.
const MOST_OF_LINE: usize = 2000;

/// The longest part of a screen that is passed on, in characters.
const MOST_TOLD: usize = 256;

/// The longest address that is passed on, in characters. Those of logins have more than 400.
const MOST_OF_URL: usize = 500;

/// By how many characters a line that a harness has wrapped may be shorter than the longest one: the frame around a text.
const FRAME: usize = 4;

/// What the rules say about a screen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The first rule that matches, if one does.
    pub found: Option<Found>,
    /// Which rules cannot be used, and why.
    pub faults: Vec<String>,
}

/// A rule that matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Which of the rules.
    pub rule: usize,
    /// What it says about the agent.
    pub means: Meaning,
    /// What it found.
    pub matched: Match,
}

/// The expression of a rule, or why it is none. The table of harnesses takes the same ones.
pub(super) fn compiled(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > LONGEST_PATTERN {
        return Err(format!("it is longer than {LONGEST_PATTERN} bytes"));
    }
    RegexBuilder::new(pattern).size_limit(LARGEST_PATTERN).build().map_err(|error| error.to_string())
}

/// The lines of a text that rules look at.
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    let short =
        last.iter().map(|line| line.get(..line.floor_char_boundary(MOST_OF_LINE)).unwrap_or_default().trim_end());
    short.collect::<Vec<_>>().join("\n")
}

/// Reads the text of a screen by those of the rules that are for screens.
pub fn read(text: &str, rules: &[Rule]) -> Reading {
    let (text, mut reading) = (last_lines(text), Reading::default());
    for (at, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.on == Place::Screen) {
        match compiled(&rule.pattern) {
            Ok(regex) => {
                let captures = regex.captures(&text).filter(|_| reading.found.is_none());
                let found =
                    captures.map(|captures| Found { rule: at, means: rule.means, matched: of(&captures, &text) });
                reading.found = reading.found.or(found);
            }
            Err(error) => {
                reading.faults.push(format!("the rule {:?} is not a regular expression: {error}", rule.pattern));
            }
        }
    }
    reading
}

fn of(captures: &Captures<'_>, text: &str) -> Match {
    let part = |text: &str| text.trim().chars().take(MOST_TOLD).collect::<String>();
    let group = |name: &str| captures.name(name).map(|group| part(group.as_str()));
    let line = line_of(captures.get(0).map_or(0..0, |whole| whole.range()), text);
    let url = captures.name("url").map(|url| whole_url(text, url.range()).trim().chars().take(MOST_OF_URL).collect());
    Match { line: part(line), at: group("at"), url, code: group("code") }
}

/// The line in which a match begins. An expression may begin with the end of the line before.
pub(super) fn line_of(whole: Range<usize>, text: &str) -> &str {
    let begin = whole.start + text[whole.clone()].bytes().take_while(u8::is_ascii_whitespace).count();
    let line = text[..begin].rfind('\n').map_or(0, |at| at + 1);
    let end = text[begin..].find('\n').map_or(text.len(), |at| begin + at);
    &text[line..end]
}

/// The address in this part of the text, with what of it stands in the next lines because the harness itself has wrapped it.
fn whole_url(text: &str, found: Range<usize>) -> String {
    let mut url = text[found.clone()].to_owned();
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
    let begin = text[..found.start].rfind('\n').map_or(0, |at| at + 1);
    let first = text[begin..].lines().next().unwrap_or_default();
    if begin + first.len() != found.end {
        return url;
    }
    let mut length = first.chars().count();
    for line in text[found.end..].lines().skip(1) {
        let rest = line.trim_start();
        let is_full = length + FRAME >= longest;
        let is_more = !rest.is_empty()
            && !rest.starts_with("http")
            && rest.bytes().all(|byte| byte.is_ascii_graphic())
            && line.len() <= length;
        if !is_full || !is_more || url.len() > MOST_OF_URL {
            break;
        }
        url.push_str(rest);
        length = line.len();
    }
    url
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::harness::keys::pattern_fault;

    fn rule(on: Place, pattern: &str, means: Meaning) -> Rule {
        Rule { on, pattern: pattern.to_owned(), means }
    }

    fn on_screen(pattern: &str) -> [Rule; 1] {
        [rule(Place::Screen, pattern, Meaning::Blocked)]
    }

    fn line(text: &str, pattern: &str) -> Option<String> {
        read(text, &on_screen(pattern)).found.map(|found| found.matched.line)
    }

    #[test]
    fn the_line_that_matches_is_told() {
        let screen = "Do you want to proceed?\n ❯ 1. Yes\n   2. No\n\n\n";
        assert_eq!(line(screen, r"(?m)^\s*❯?\s*1\. Yes").as_deref(), Some("❯ 1. Yes"));
        assert_eq!(line(screen, "proceed").as_deref(), Some("Do you want to proceed?"));
        assert_eq!(line(screen, "Nothing of it"), None);
    }

    #[test]
    fn only_the_last_lines_count() {
        let screen = (0..100).map(|number| format!("line {number}.")).collect::<Vec<_>>().join("\n");
        let screen = screen + &"\n".repeat(50);
        assert_eq!(line(&screen, r"line 70\.").as_deref(), Some("line 70."));
        assert_eq!(line(&screen, r"line 69\."), None);
        assert_eq!(line("", "x"), None);
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rules = [
            rule(Place::Exit, "a", Meaning::Quota),
            rule(Place::Screen, "nothing", Meaning::Idle),
            rule(Place::Screen, "b", Meaning::Login),
            rule(Place::Screen, "a", Meaning::Blocked),
        ];
        let found = read("a b", &rules).found.unwrap();
        assert_eq!((found.rule, found.means), (2, Meaning::Login));
    }

    #[test]
    fn an_address_and_its_code_are_told() {
        let pattern = r"(?s)visit (?P<url>https://\S+).*code (?P<code>[A-Z0-9-]+)";
        let found = read("Please visit https://x.example/d and\nenter the code AB-12 there", &on_screen(pattern)).found;
        let matched = found.unwrap().matched;
        assert_eq!((matched.url.as_deref(), matched.code.as_deref()), (Some("https://x.example/d"), Some("AB-12")));
    }

    #[test]
    fn an_address_that_the_harness_has_wrapped_is_told_whole() {
        let url = |screen: &str| {
            let found = read(screen, &on_screen(r"(?P<url>https://\S+/authorize\S*)")).found;
            found.and_then(|found| found.matched.url).unwrap()
        };
        let screen = "Open this to log in:\n\n  https://x.example/authorize?aaaa\n  bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n  c=d\n\n  Paste";
        assert_eq!(url(screen), "https://x.example/authorize?aaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbc=d");
        // The text goes on, or the line had room for more.
        for next in ["then paste the code", "\npaste", "│"] {
            assert_eq!(url(&format!("https://x.example/authorize?aaaa\n{next}")), "https://x.example/authorize?aaaa");
        }
        let wide =
            "a line that is a good deal longer than the address is\nhttps://x.example/authorize?aaaa\nWaiting...";
        assert_eq!(url(wide), "https://x.example/authorize?aaaa");
        assert_eq!(url("https://x.example/authorize?aaaa and\nmore"), "https://x.example/authorize?aaaa");
        let long = format!("https://x.example/authorize?{}", "a".repeat(420));
        assert_eq!(url(&long), long);
        assert_eq!(url(&"https://x.example/authorize?\n".repeat(30)).len(), "https://x.example/authorize?".len());
        assert_eq!(url(&format!("{long}{long}\n{long}")).chars().count(), MOST_OF_URL);
    }

    #[test]
    fn a_rule_that_is_none_is_told_and_the_others_count() {
        let rules = [rule(Place::Screen, "(", Meaning::Idle), rule(Place::Screen, "a", Meaning::Blocked)];
        let reading = read("a", &rules);
        assert_eq!(reading.found.unwrap().rule, 1);
        assert!(reading.faults[0].starts_with("the rule \"(\" is not a regular expression"), "{:?}", reading.faults);
        assert!(compiled("((a{99}){99}){99}").is_err());
    }

    #[test]
    fn an_expression_that_the_table_takes_is_matched() {
        for pattern in ["x".repeat(LONGEST_PATTERN), "(a{9}){99}".to_owned()] {
            assert_eq!((pattern_fault(&pattern), compiled(&pattern).err()), (Ok(()), None), "{}", pattern.len());
        }
        let longer = "x".repeat(LONGEST_PATTERN + 1);
        assert!(pattern_fault(&longer).is_err() && compiled(&longer).is_err());
    }

    #[test]
    fn a_hostile_screen_takes_little_time() {
        let start = std::time::Instant::now();
        let screen = format!("{}\n", "a".repeat(1 << 20));
        assert_eq!(line(&screen, "(a*)*(a*)*b"), None);
        assert!(start.elapsed() < std::time::Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn whatever_is_on_a_screen_what_is_told_is_short(text in "(\\PC|\n){0,400}", pattern in "[a-z.*\\s]{1,9}") {
            if let Some(found) = read(&text, &on_screen(&pattern)).found {
                prop_assert!(found.matched.line.chars().count() <= MOST_TOLD && !found.matched.line.contains('\n'));
            }
        }
    }
}
