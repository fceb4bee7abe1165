//! Rules: finds what a harness's words mean in what an agent printed, with the agent user's rights.
//!
//! Everything is bounded: the number of rules, the size of each, the text, and what is passed on of it. The engine takes time in proportion
//! to the text. A pattern that is none finds nothing; the jcard's check says so.

use jiff::tz::TimeZone;
use regex_lite::Captures;

use super::screen::{compiled, line_of};
use crate::agent::harness::keys::MOST_RULES;
use crate::agent::harness::rule::{Finding, Match, Rule};
use crate::agent::reset_time;
use crate::text::ansi::State;

/// How much of the end of a text is looked at.
const MOST_TEXT: usize = 32 << 10;

/// The most characters of anything that is passed on.
const MOST_TOLD: usize = 256;

/// What the first rule that matches has found, in its last match. `now`, in seconds since 1970, is what times in the text are read from.
pub(super) fn find(rules: &[Rule], text: &str, now: u64) -> Option<Finding> {
    let text = plain(text);
    rules.iter().take(MOST_RULES).enumerate().find_map(|(index, rule)| {
        let pattern = compiled(&rule.pattern).ok()?;
        let last = pattern.captures_iter(&text).last()?;
        let found = matched(&last, &text)?;
        let until = found.at.as_deref().and_then(|at| reset_time::read(at, now, &TimeZone::system()));
        Some(Finding { index, found, until })
    })
}

/// The end of the text without escape sequences and other control characters.
fn plain(text: &str) -> String {
    let mut begin = text.len().saturating_sub(MOST_TEXT);
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    let mut state = State::default();
    let bytes = text[begin..].bytes().filter(|&byte| state.pass(byte) && (byte == b'\n' || !byte.is_ascii_control()));
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}

fn matched(captures: &Captures<'_>, text: &str) -> Option<Match> {
    let line = line_of(captures.get(0)?.range(), text);
    let group = |name: &str| Some(told(captures.name(name)?.as_str())).filter(|group| !group.is_empty());
    Some(Match { line: told(line), at: group("at"), url: group("url"), code: group("code") })
}

fn told(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(MOST_TOLD).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::agent::harness::Harness;
    use crate::agent::harness::rule::{Meaning, Place};

    /// 2026-12-01T12:00:00Z.
    const NOW: u64 = 1_796_126_400;

    fn rule(pattern: &str) -> Rule {
        Rule { on: Place::Exit, pattern: pattern.to_owned(), means: Meaning::Quota }
    }

    #[test]
    fn the_first_rule_that_matches_counts_and_its_last_match() {
        let rules = [rule("nothing of this"), rule("(?i)limit.*resets (?P<at>.+)"), rule("limit")];
        let text = "LIMIT, resets 1pm\r\nthen\n\x1b[31mYour limit is reached, \x1b[0mresets 5pm (UTC)\r\n$ ";
        let finding = find(&rules, text, NOW).unwrap();
        assert_eq!((finding.index, finding.found.at.as_deref()), (1, Some("5pm (UTC)")));
        assert_eq!(finding.found.line, "Your limit is reached, resets 5pm (UTC)");
        assert_eq!(finding.until, Some(NOW + 5 * 3600));
        assert_eq!(find(&rules, "all is well", NOW), None);
    }

    /// In the words of the versions that the shipped entries name.
    #[rstest]
    #[case("claude-code", "Not logged in · Please run /login", Meaning::Login, None)]
    #[case("claude-code", "You've hit your 5-hour limit · resets 3pm (UTC)", Meaning::Quota, Some(3 * 3600))]
    #[case("claude-code", "API Error: Request rejected (429) · This request would exceed", Meaning::Quota, None)]
    #[case(
        "codex",
        "ERROR: unexpected status 401 Unauthorized: Incorrect API key provided: sk-mock.",
        Meaning::Login,
        None
    )]
    #[case("codex", "ERROR: Quota exceeded. Check your plan and billing details.", Meaning::Quota, None)]
    #[case(
        "gemini-cli",
        "TerminalQuotaError: You have exhausted your daily quota on this model.\n  message: \u{1b}[32m'You exceeded your current \
         quota. Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 100. \
         Please retry in 2h0m20.57s.'\u{1b}[39m,",
        Meaning::Quota,
        Some(2 * 3600 + 20)
    )]
    #[case("gemini-cli", "[API Error: You have exhausted your daily quota on this model.]", Meaning::Quota, None)]
    #[case("pi", "401: {\"message\":\"Incorrect API key provided: sk-mock.\"}", Meaning::Login, None)]
    #[case("qwen-code", "[API Error: 401 Incorrect API key provided: sk-mock.]", Meaning::Login, None)]
    #[case(
        "kimi",
        "error: failed to run prompt: provider.auth_error: 401 Incorrect API key provided: sk-mock.",
        Meaning::Login,
        None
    )]
    fn the_last_words_of_a_harness_are_known(
        #[case] harness: &str,
        #[case] text: &str,
        #[case] means: Meaning,
        #[case] wait: Option<u64>,
    ) {
        let harness = Harness::find(harness).unwrap();
        let rules: Vec<Rule> = harness.rules().iter().filter(|rule| rule.on == Place::Exit).cloned().collect();
        let finding = find(&rules, text, NOW).unwrap();
        assert_eq!((rules[finding.index].means, finding.until), (means, wait.map(|wait| NOW + wait)));
    }

    #[test]
    fn the_line_is_the_one_that_says_it() {
        let finding = find(&[rule(r"\s+limit")], "all is well\n  limit reached\n", NOW).unwrap();
        assert_eq!(finding.found.line, "limit reached");
    }

    #[test]
    fn what_is_no_pattern_or_too_large_finds_nothing() {
        for pattern in ["(", "a{1,1000}{1,1000}"] {
            assert_eq!(find(&[rule(pattern)], "aaa (", NOW), None, "{pattern}");
        }
    }

    #[test]
    fn hostile_output_takes_little_time() {
        let words = "limit usage quota resets try again login unauthorized 401 429 error: api key invalid in at (UTC) ";
        let texts =
            ["limit ".repeat(4096), "a".repeat(8192), words.repeat(90), "you've hit your limit resets ".repeat(300)];
        for harness in crate::agent::harness::shipped() {
            for text in &texts {
                for rule in harness.rules().iter() {
                    let start = std::time::Instant::now();
                    find(std::slice::from_ref(rule), text, NOW);
                    let took = start.elapsed();
                    assert!(took < std::time::Duration::from_secs(2), "{}: {}: {took:?}", harness.name, rule.pattern);
                }
            }
        }
    }

    #[test]
    fn what_is_told_is_bounded() {
        let long = "é".repeat(100_000);
        let finding = find(&[rule("(?P<url>é+)")], &long, NOW).unwrap();
        assert_eq!(finding.found.line.chars().count(), MOST_TOLD);
        assert_eq!(finding.found.url.unwrap().chars().count(), MOST_TOLD);
    }

    #[test]
    fn only_the_end_of_a_text_is_looked_at() {
        let text = format!("limit{}", "x".repeat(MOST_TEXT));
        assert_eq!(find(&[rule("limit")], &text, NOW), None);
    }
}
