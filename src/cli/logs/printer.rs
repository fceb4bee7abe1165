//! How lines of logs are printed: with the agent's name, the time, or as JSON; and what is said between attempts.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::Arguments;
use crate::cli::times::Times;
use crate::sys::terminal::Terminal;
use crate::text::printable::{self, escaped};
use crate::wire::exit_status::ExitStatus;
use crate::wire::status::{PastAttempt, Time};

/// Begins a line of the daemon's that is not the agent's.
const MARK: u8 = 0x1e;

/// Which attempt begins, as the daemon says it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Mark {
    pub(super) log: String,
    pub(super) attempt: u64,
    #[serde(default)]
    pub(super) changed_at: Option<Time>,
}

/// A part of what the daemon sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(Vec<u8>),
    Mark(Mark),
}

/// Finds the daemon's lines among the agent's, wherever the stream is cut.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// The beginning of a mark whose end has not arrived.
    mark: Option<Vec<u8>>,
}

impl Splitter {
    pub(super) fn split(&mut self, mut piece: &[u8]) -> Vec<Part> {
        let mut parts = Vec::new();
        while !piece.is_empty() {
            if let Some(mark) = &mut self.mark {
                let end = piece.iter().position(|&byte| byte == b'\n').map_or(piece.len(), |end| end + 1);
                mark.extend_from_slice(&piece[..end]);
                piece = &piece[end..];
                if mark.ends_with(b"\n") {
                    // What a newer daemon says otherwise is passed over.
                    parts.extend(serde_json::from_slice(mark).ok().map(Part::Mark));
                    self.mark = None;
                }
                continue;
            }
            let end = piece.iter().position(|&byte| byte == MARK).unwrap_or(piece.len());
            if end > 0 {
                parts.push(Part::Text(piece[..end].to_vec()));
            }
            if end < piece.len() {
                self.mark = Some(Vec::new());
            }
            piece = &piece[(end + 1).min(piece.len())..];
        }
        parts
    }
}

/// What stands before each line of one of several agents.
#[derive(Clone, Debug)]
pub(super) struct Label {
    name: String,
    /// With a color, and as wide as that of the longest name.
    shown: String,
}

impl Label {
    /// The labels of these agents; `None` if there is no need for any.
    pub(super) fn all(names: &[String], are_needed: bool) -> Vec<Option<Self>> {
        const COLORS: [u8; 6] = [36, 33, 32, 35, 34, 31];
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
        let has_color = Terminal::here().color;
        let label = |(number, name): (usize, &String)| {
            let shown = format!("{:width$} | ", escaped(name));
            let color = COLORS[number % COLORS.len()];
            let shown = if has_color { format!("\x1b[{color}m{shown}\x1b[0m") } else { shown };
            are_needed.then(|| Self { name: name.clone(), shown })
        };
        names.iter().enumerate().map(label).collect()
    }
}

/// A line of the log as JSON.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<&'a str>,
    text: &'a str,
}

/// Prints one agent's log.
pub(super) struct Printer<'a> {
    arguments: &'a Arguments,
    label: Option<Label>,
    times: Times,
    attempt: Option<u64>,
    /// The beginning of a line whose end has not arrived yet.
    line: Vec<u8>,
}

impl<'a> Printer<'a> {
    pub(super) fn new(arguments: &'a Arguments, label: Option<Label>) -> Self {
        let times = Times::here(Terminal::here().width.is_some(), arguments.utc);
        Self { arguments, label, times, attempt: None, line: Vec::new() }
    }

    /// Notes which attempt begins.
    pub(super) fn begin(&mut self, attempt: u64) {
        self.attempt = Some(attempt);
    }

    /// Whether lines are printed as they are.
    fn is_plain(&self) -> bool {
        !self.arguments.json && !self.arguments.timestamps && self.label.is_none()
    }

    /// Prints what has arrived.
    pub(super) fn print(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.is_plain() {
            out.write_all(piece)?;
            return out.flush();
        }
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(part);
            if let Some(text) = self.line.strip_suffix(b"\n") {
                writeln!(out, "{}", self.dressed(text)?)?;
                self.line.clear();
            }
        }
        out.flush()
    }

    /// Prints the line that has no end.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.line);
        writeln!(io::stdout().lock(), "{}", self.dressed(&line)?)
    }

    /// A line with all that belongs before it.
    fn dressed(&self, line: &[u8]) -> io::Result<String> {
        let text = String::from_utf8_lossy(line);
        let (at, text) = match text.split_once(' ') {
            Some((at, text)) if self.arguments.timestamps => (Some(at), text),
            _ => (None, text.as_ref()),
        };
        if self.arguments.json {
            let agent = self.label.as_ref().map(|label| label.name.as_str());
            let attempt = self.attempt.filter(|_| self.arguments.all_attempts);
            return Ok(printable::json(serde_json::to_string(&Line { agent, attempt, at, text })?));
        }
        let label = self.label.as_ref().map_or("", |label| &label.shown);
        let at = at.map(|at| match humantime::parse_rfc3339(at) {
            Ok(time) => self.times.show(Time(time)) + " ",
            Err(_) => format!("{at} "),
        });
        Ok(format!("{label}{}{text}", at.unwrap_or_default()))
    }

    /// Says on standard error how an attempt ended: standard output holds nothing but what agents printed.
    pub(super) fn separate(&self, separator: &Separator) {
        if self.arguments.json {
            return;
        }
        let line = separator.in_words(self.label.as_ref().map(|label| label.name.as_str()), &self.times);
        // If standard error is closed, the line is lost.
        let _ = if Terminal::color_on_stderr() {
            writeln!(io::stderr(), "\x1b[2m{line}\x1b[0m")
        } else {
            writeln!(io::stderr(), "{line}")
        };
    }
}

/// What is said between two attempts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Separator {
    attempt: u64,
    /// How and when it ended, if that is on record.
    end: Option<(String, Time)>,
}

impl Separator {
    pub(super) fn of(mark: &Mark, past: Option<&PastAttempt>) -> Self {
        let how = |past: &PastAttempt| match &past.exit.how {
            ExitStatus::Code(code) => format!("exited {code}"),
            ExitStatus::Signal(signal) => signal.to_string(),
            ExitStatus::Cause(cause) => cause.clone(),
        };
        let attempt = past.and_then(|past| past.attempt_total).unwrap_or(mark.attempt);
        Self { attempt, end: past.map(|past| (how(past), past.exit.at)) }
    }

    fn in_words(&self, agent: Option<&str>, times: &Times) -> String {
        let agent = agent.map(|agent| format!("{agent} · ")).unwrap_or_default();
        let end = self.end.as_ref().map(|(how, at)| format!(" · {how} · {}", times.show(*at)));
        escaped(&format!("── {agent}attempt {}{} ──", self.attempt, end.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(attempt: u64) -> Mark {
        Mark { log: format!("7-{attempt}"), attempt, changed_at: None }
    }

    #[test]
    fn marks_are_found_wherever_the_stream_is_cut() {
        let stream = b"\x1e{\"log\":\"7-1\",\"attempt\":1}\none\ntw\x1e{\"log\":\"7-2\",\"attempt\":2,\"new\":[]}\no\n";
        for cut in 0..stream.len() {
            let mut splitter = Splitter::default();
            let mut parts = splitter.split(&stream[..cut]);
            parts.extend(splitter.split(&stream[cut..]));
            let marks: Vec<&Mark> =
                parts.iter().filter_map(|part| if let Part::Mark(mark) = part { Some(mark) } else { None }).collect();
            assert_eq!(marks, [&mark(1), &mark(2)], "{cut}");
            let text: Vec<u8> = parts
                .iter()
                .flat_map(|part| if let Part::Text(text) = part { text.clone() } else { Vec::new() })
                .collect();
            assert_eq!(text, b"one\ntwo\n", "{cut}");
        }
    }

    #[test]
    fn a_separator_says_how_the_attempt_ended() {
        let at = Time(humantime::parse_rfc3339("2026-11-21T20:31:05Z").unwrap());
        let separator = Separator { attempt: 4, end: Some(("exited 3".to_owned(), at)) };
        let times = Times::short(at.0);
        assert_eq!(separator.in_words(None, &times), "── attempt 4 · exited 3 · 20:31:05 ──");
        let separator = Separator { attempt: 4, end: None };
        assert_eq!(separator.in_words(Some("a"), &times), "── a · attempt 4 ──");
    }

    proptest! {
        #[test]
        fn no_stream_makes_the_splitter_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..5)) {
            let mut splitter = Splitter::default();
            for piece in pieces {
                splitter.split(&piece);
            }
        }
    }
}
