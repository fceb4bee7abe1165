//! `agentd doctor`: whether everything that agentd needs is there and as it should be, each with its remedy.
//!
//! It needs no daemon, and asks the one that answers. What it looks at is what that daemon was told to use, as its command line
//! says, unless the asker names something else. It changes nothing, follows no path that the agent user can redirect, and runs tmux
//! through a [deputy](crate::deputy) alone: a tmux client that ran as root would do what a hostile server tells it.
//!
//! [`examine`] finds out, [`render`] tells; what could not be looked at is told as that, and is neither well nor ill.

mod examine;

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use super::Whereabouts;
use super::output;
use super::table::{push_hanging, wrapped};
use super::target::Target;
use super::wording::counted;
use crate::settings::Surroundings;
use crate::sys::fd;
use crate::sys::terminal::Terminal;
use crate::text::printable::escaped;
use crate::text::printable::json_line;

/// As every other verb has it.
const WELL: u8 = 0;
const ILL: u8 = 1;
const UNKNOWN: u8 = 4;

/// What is looked at, and how it is told.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// Where the daemon is, and what it reads.
    #[command(flatten)]
    pub places: super::Places,
    /// Where things are, if the daemon's own flags and the defaults do not say.
    #[command(flatten)]
    pub whereabouts: Whereabouts,
    /// Print the same as data
    #[arg(long)]
    pub json: bool,
}

/// What was found out about one thing. Keys may be added, none removed or renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at; docs/operations.md lists all of them.
    pub name: &'static str,
    /// What to think of it.
    pub result: Verdict,
    /// What was found.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What to think of what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but not as one would want it.
    Warning,
    /// Something does not work, or is open to those it should be closed to.
    Failure,
    /// It could not be looked at, or not by this user.
    Unknown,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
            Self::Unknown => "unknown",
        }
    }

    /// Green is well, yellow is worth a look, red needs a person. It repeats what the words say.
    fn paint(self) -> &'static str {
        match self {
            Self::Ok => "\x1b[32m",
            Self::Warning | Self::Unknown => "\x1b[33m",
            Self::Failure => "\x1b[31m",
        }
    }
}

impl Check {
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, result: Verdict::Ok, message: message.into(), remedy: None }
    }

    fn bad(name: &'static str, result: Verdict, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, result, message: message.into(), remedy: Some(remedy.into()) }
    }

    fn warning(name: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::bad(name, Verdict::Warning, message, remedy)
    }

    fn failure(name: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::bad(name, Verdict::Failure, message, remedy)
    }

    fn unknown(name: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::bad(name, Verdict::Unknown, format!("not checked: {}", message.into()), remedy)
    }
}

#[derive(Serialize)]
struct Report<'a> {
    checks: &'a [Check],
}

/// Looks at everything, and prints what it found: data to stdout, talk to stderr. The exit status is 1 if something is ill, else 4 if
/// something could not be looked at, else 0.
pub fn run(all: &super::Arguments, arguments: &Arguments, here: &Surroundings) -> ExitCode {
    fd::hand_down_none();
    let target = Target::find(all, &arguments.whereabouts, here);
    let checks = match output::block_on(UNKNOWN, examine::all(&target)) {
        Ok(checks) => checks,
        Err(code) => return code,
    };
    let text = if arguments.json {
        json_line(&Report { checks: &checks }).into_bytes()
    } else {
        let terminal = Terminal::here();
        render(&checks, terminal.text_width(), terminal.colour).into_bytes()
    };
    output::print(&text, exit_status(&checks), UNKNOWN)
}

fn exit_status(checks: &[Check]) -> u8 {
    let is_any = |verdict| checks.iter().any(|check| check.result == verdict);
    if is_any(Verdict::Failure) {
        ILL
    } else if is_any(Verdict::Unknown) {
        UNKNOWN
    } else {
        WELL
    }
}

/// The checks in lines of `width` characters, and how many there are of each kind.
pub fn render(checks: &[Check], width: usize, colour: bool) -> String {
    const GAP: usize = 2;
    const VERDICT: usize = "unknown".len() + GAP;
    let column = checks.iter().map(|check| check.name.len()).max().unwrap_or(0) + GAP;
    let indent = VERDICT + column;
    let mut text = String::new();
    for check in checks {
        let lines = check.message.lines().chain(check.remedy.iter().flat_map(|remedy| remedy.lines()));
        let lines = lines.flat_map(|line| wrapped(&escaped(line), width.saturating_sub(indent)));
        let word = check.result.word();
        let (paint, plain) = if colour { (check.result.paint(), "\x1b[0m") } else { ("", "") };
        let padding = VERDICT - word.len();
        let label = format!("{paint}{word}{plain}{:padding$}{:column$}", "", check.name);
        push_hanging(&mut text, &label, indent, lines);
    }
    let count = |verdict: Verdict| checks.iter().filter(|check| check.result == verdict).count();
    let [ok, warnings, failures, unknown] =
        [Verdict::Ok, Verdict::Warning, Verdict::Failure, Verdict::Unknown].map(count);
    let (warnings, failures) = (counted(warnings, "warning"), counted(failures, "failure"));
    let _ = writeln!(text, "{ok} ok, {warnings}, {failures}, {unknown} unknown");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::ok("daemon", "agentd answers"),
            Check::warning(
                "limits",
                "memory, pid_limit and cpu are declared and not applied: there is no systemd on this machine",
                "run agentd under systemd",
            ),
            Check::failure("api-socket", "first\nsecond", "chmod it"),
            Check::unknown("secrets", "only root may read them", "run it as root"),
        ]
    }

    #[test]
    fn each_check_is_a_verdict_a_name_what_was_found_and_the_remedy() {
        let expected = "\
ok       daemon      agentd answers
warning  limits      memory, pid_limit and cpu are declared and not applied:
                     there is no systemd on this machine
                     run agentd under systemd
failure  api-socket  first
                     second
                     chmod it
unknown  secrets     not checked: only root may read them
                     run it as root
1 ok, 1 warning, 1 failure, 1 unknown
";
        assert_eq!(render(&checks(), 76, false), expected);
    }

    #[test]
    fn colour_changes_no_word_and_no_column() {
        let coloured = render(&checks(), 80, true);
        assert!(coloured.contains("\x1b[31mfailure\x1b[0m  api-socket"), "{coloured}");
        let codes = ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"];
        let plain = codes.iter().fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(plain, render(&checks(), 80, false));
    }

    #[test]
    fn nothing_that_was_found_can_move_the_cursor() {
        let text = render(&[Check::failure("tmux", "a\x1b[2J\r\u{202e}", "b\x07")], 80, false);
        assert!(text.contains(r"a\u{1b}[2J\r\u{202e}") && text.contains(r"b\u{7}"), "{text}");
    }

    #[test]
    fn the_exit_status_is_that_of_the_worst() {
        let [ok, warning, failure, unknown] = <[Check; 4]>::try_from(checks()).unwrap();
        assert_eq!(exit_status(&[]), 0);
        assert_eq!(exit_status(&[ok.clone(), warning.clone()]), 0);
        assert_eq!(exit_status(&[warning.clone(), unknown.clone(), ok]), 4);
        assert_eq!(exit_status(&[unknown, failure, warning]), 1);
    }

    #[test]
    fn the_data_are_an_array_of_checks() {
        let checks = checks();
        let data = serde_json::to_value(Report { checks: &checks[..2] }).unwrap();
        let expected = serde_json::json!({ "checks": [
            { "name": "daemon", "result": "ok", "message": "agentd answers" },
            { "name": "limits", "result": "warning", "message": checks[1].message, "remedy": "run agentd under systemd" },
        ] });
        assert_eq!(data, expected);
    }
}
