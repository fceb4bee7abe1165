//! The verdict on an attempt: whether it completed, by its exit status and by what its harness says of it. Pure.
//!
//! An attempt has completed if it ended with status 0, its harness does not say that it failed, and the record with which its harness
//! closes each stream came, if it is known to send one. Everything that follows from an end, such as a restart, follows from this.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wire::exit_status::ExitStatus;
use crate::wire::result::StreamResult;

/// How the machine-readable output of a harness is to be judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// Whether the harness closes each stream with a record, so that one without it was cut off.
    pub closing_record: bool,
    /// Whether a success that the stream states is one, whatever the exit status is.
    pub trusts_stream: bool,
}

/// Whether an attempt completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did.
    Completed,
    /// It did not.
    Failed(Fault),
}

/// Why an attempt did not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its exit status says so.
    Status,
    /// The harness says so: this.
    Said(String),
    /// The harness closes its stream with a record, and that did not come.
    Unfinished,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status => f.write_str("its exit status says that it failed"),
            Self::Said(words) if words.is_empty() => f.write_str("the harness says that it failed"),
            Self::Said(words) => write!(f, "the harness says that it failed: {words}"),
            Self::Unfinished => f.write_str("the stream ended without a result"),
        }
    }
}

/// Judges an attempt that ended by itself. Without [`Terms`] the exit status alone counts.
pub fn judge(how: &ExitStatus, result: Option<&StreamResult>, terms: Option<Terms>) -> Verdict {
    let by_status = if *how == ExitStatus::Code(0) { Verdict::Completed } else { Verdict::Failed(Fault::Status) };
    let Some(terms) = terms else { return by_status };
    match result {
        Some(result) if result.is_error => Verdict::Failed(Fault::Said(words(result))),
        Some(result) if !result.is_partial => match (how, terms.trusts_stream) {
            (ExitStatus::Code(_), true) => Verdict::Completed,
            _ => by_status,
        },
        // The status says more about a failure than the silence after it.
        _ if terms.closing_record && by_status == Verdict::Completed => Verdict::Failed(Fault::Unfinished),
        _ => by_status,
    }
}

/// The result as it is kept: a harness that had every reason to say something and did not is remarkable.
pub fn noted(result: Option<StreamResult>, how: &ExitStatus, terms: Option<Terms>) -> Option<StreamResult> {
    if result.is_none() && *how == ExitStatus::Code(0) && terms.is_some_and(|terms| !terms.closing_record) {
        return Some(StreamResult {
            note: Some("said nothing".to_owned()),
            is_partial: true,
            ..StreamResult::default()
        });
    }
    result
}

/// What a failure is about, in one line.
fn words(result: &StreamResult) -> String {
    const MOST: usize = 200;
    let line = result.text.lines().map(str::trim).find(|line| !line.is_empty());
    let text = line.or(result.subtype.as_deref()).unwrap_or_default();
    if text.len() <= MOST { text.to_owned() } else { format!("{}…", &text[..text.floor_char_boundary(MOST)]) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const STATUS: Terms = Terms { closing_record: true, trusts_stream: false };
    const STREAM: Terms = Terms { closing_record: true, trusts_stream: true };
    const OPEN: Terms = Terms { closing_record: false, trusts_stream: false };

    #[expect(clippy::unnecessary_wraps, reason = "it stands beside `None`")]
    fn result(is_error: bool, is_partial: bool) -> Option<StreamResult> {
        let text = if is_error { "\nNot logged in\nmore".to_owned() } else { String::new() };
        Some(StreamResult { text, is_error, is_partial, ..StreamResult::default() })
    }

    fn said() -> Verdict {
        Verdict::Failed(Fault::Said("Not logged in".to_owned()))
    }

    const STATUS_SAYS: Verdict = Verdict::Failed(Fault::Status);
    const UNFINISHED: Verdict = Verdict::Failed(Fault::Unfinished);

    #[rstest]
    #[case::no_stream(0, None, None, Verdict::Completed)]
    #[case::no_stream_and_failed(1, None, None, STATUS_SAYS)]
    #[case::success(0, result(false, false), Some(STATUS), Verdict::Completed)]
    #[case::error_beats_status_0(0, result(true, false), Some(STATUS), said())]
    #[case::error_beats_status_0_whatever_is_trusted(0, result(true, false), Some(STREAM), said())]
    #[case::error_says_more_than_status_1(1, result(true, false), Some(STATUS), said())]
    #[case::status_beats_success(1, result(false, false), Some(STATUS), STATUS_SAYS)]
    #[case::success_beats_status_where_the_stream_is_trusted(1, result(false, false), Some(STREAM), Verdict::Completed)]
    #[case::cut(0, result(false, true), Some(STATUS), UNFINISHED)]
    #[case::cut_and_failed(1, result(false, true), Some(STREAM), STATUS_SAYS)]
    #[case::nothing(0, None, Some(STATUS), UNFINISHED)]
    #[case::nothing_and_none_expected(0, None, Some(OPEN), Verdict::Completed)]
    #[case::cut_and_none_expected(0, result(false, true), Some(OPEN), Verdict::Completed)]
    fn an_attempt_is_judged(
        #[case] code: i32,
        #[case] result: Option<StreamResult>,
        #[case] terms: Option<Terms>,
        #[case] expected: Verdict,
    ) {
        assert_eq!(judge(&ExitStatus::Code(code), result.as_ref(), terms), expected);
    }

    #[test]
    fn a_signal_is_no_success_whatever_was_said() {
        for how in [ExitStatus::Signal("SIGKILL".parse().unwrap()), ExitStatus::Cause("lost".into())] {
            assert_eq!(judge(&how, result(false, false).as_ref(), Some(STREAM)), STATUS_SAYS);
        }
    }

    #[test]
    fn a_fault_is_told_in_one_short_line() {
        assert_eq!(Fault::Said("no".into()).to_string(), "the harness says that it failed: no");
        assert_eq!(Fault::Unfinished.to_string(), "the stream ended without a result");
        let long = StreamResult { text: "é".repeat(1000), is_error: true, ..StreamResult::default() };
        assert!(words(&long).len() < 210, "{}", words(&long));
        let word = StreamResult { subtype: Some("error_max_turns".into()), ..StreamResult::default() };
        assert_eq!(words(&word), "error_max_turns");
    }

    #[test]
    fn silence_is_noted_only_where_it_means_nothing() {
        let note = |code, terms| noted(None, &ExitStatus::Code(code), terms).and_then(|result| result.note);
        assert_eq!(note(0, Some(OPEN)).as_deref(), Some("said nothing"));
        assert_eq!([note(1, Some(OPEN)), note(0, Some(STATUS)), note(0, None)], [None, None, None]);
        assert_eq!(noted(result(true, false), &ExitStatus::Code(0), Some(OPEN)), result(true, false));
    }
}
