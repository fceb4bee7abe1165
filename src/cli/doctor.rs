//! `agentd doctor`: checks everything that agentd needs, and prints a remedy for each problem.
//!
//! The doctor does not need a daemon, but asks one if it answers. It checks the files that the daemon's command line names, unless
//! its own command line names others. It changes nothing, follows no path that the agent user can redirect, and runs tmux only
//! through a [deputy](crate::deputy): a tmux client that ran as root would obey a hostile server.
//!
//! [`examine`] makes the checks, and [`render`] prints them. A check that could not be made is `unknown`, neither good nor bad.

mod examine;
mod installation;

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

/// The exit status when there is no failure.
const HEALTHY: u8 = 0;
/// The exit status when there is a failure.
const FAULTY: u8 = 1;
/// The exit status when a check could not be made.
const UNKNOWN: u8 = 4;

/// What to check, and how to print it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// The files that several commands read.
    #[command(flatten)]
    pub places: super::Places,
    /// The daemon's own files, and their owners.
    #[command(flatten)]
    pub whereabouts: Whereabouts,
    /// Also print what is in order
    #[arg(short, long)]
    pub verbose: bool,
    /// Print the checks as JSON
    #[arg(long)]
    pub json: bool,
}

/// The result of one check. Keys may be added, but not removed or renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The name of the check; docs/operations.md lists all of them.
    pub name: &'static str,
    /// The verdict.
    pub result: Verdict,
    /// What was found.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// The verdict of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but not as well as it should.
    Warning,
    /// It does not work, or it is open to users who must not have access.
    Failure,
    /// It could not be checked, or not by this user.
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

    /// The place in the list: what does not work comes first.
    fn rank(self) -> u8 {
        match self {
            Self::Failure => 0,
            Self::Warning => 1,
            Self::Unknown => 2,
            Self::Ok => 3,
        }
    }

    /// The color of the verdict: green is good, yellow is worth a look, red needs attention. The words say the same.
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

/// Runs all checks and prints them: data to stdout, messages to stderr.
///
/// The exit status is 1 if a check failed, else 4 if a check could not be made, else 0.
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
        render(&checks, arguments.verbose, terminal.text_width(), terminal.color).into_bytes()
    };
    output::print(&text, exit_status(&checks), UNKNOWN)
}

fn exit_status(checks: &[Check]) -> u8 {
    let is_any = |verdict| checks.iter().any(|check| check.result == verdict);
    if is_any(Verdict::Failure) {
        FAULTY
    } else if is_any(Verdict::Unknown) {
        UNKNOWN
    } else {
        HEALTHY
    }
}

/// The checks in lines of at most `width` characters, the worst first, and how many there are of each verdict. Those that are ok are
/// among them only if `is_verbose` is set.
pub fn render(checks: &[Check], is_verbose: bool, width: usize, color: bool) -> String {
    const GAP: usize = 2;
    const VERDICT: usize = "unknown".len() + GAP;
    let mut listed: Vec<&Check> = checks.iter().filter(|it| is_verbose || it.result != Verdict::Ok).collect();
    listed.sort_by_key(|check| check.result.rank());
    let column = listed.iter().map(|check| check.name.len()).max().unwrap_or(0) + GAP;
    let indent = VERDICT + column;
    let mut text = String::new();
    for check in listed {
        let lines = check.message.lines().chain(check.remedy.iter().flat_map(|remedy| remedy.lines()));
        let lines = lines.flat_map(|line| wrapped(&escaped(line), width.saturating_sub(indent)));
        let word = check.result.word();
        let (paint, plain) = if color { (check.result.paint(), "\x1b[0m") } else { ("", "") };
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
    fn each_check_shows_verdict_name_message_and_remedy() {
        let worst_first = "\
failure  api-socket  first
                     second
                     chmod it
warning  limits      memory, pid_limit and cpu are declared and not applied:
                     there is no systemd on this machine
                     run agentd under systemd
unknown  secrets     not checked: only root may read them
                     run it as root
";
        let count = "1 ok, 1 warning, 1 failure, 1 unknown\n";
        assert_eq!(render(&checks(), false, 76, false), format!("{worst_first}{count}"));
        let expected = format!("{worst_first}ok       daemon      agentd answers\n{count}");
        assert_eq!(render(&checks(), true, 76, false), expected);
    }

    /// What a member of the group sees of a machine with some faults.
    fn screen(width: usize) -> String {
        let checks = [
            Check::ok("daemon", "agentd answers"),
            Check::failure("jcard", "/etc/stereos/jcard.toml:3:11: unknown agent.harness \"nope\"", "fix the jcard"),
            Check::unknown("secrets", "this user cannot read /run/stereos/secrets", "run agentd doctor as root"),
            Check::warning(
                "versions",
                "the daemon is agentd 0.1.0, and this is 0.2.0",
                "restart the daemon, whose agents continue: systemctl restart agentd",
            ),
            Check::warning(
                "disk",
                "logs take 9 GiB of 10 GiB; 300 MiB are free",
                "let logs take less with --log-total",
            ),
        ];
        render(&checks, false, width, false)
    }

    #[test]
    fn a_screen_of_80_columns_has_remedies_below() {
        let expected = "\
failure  jcard     /etc/stereos/jcard.toml:3:11: unknown agent.harness \"nope\"
                   fix the jcard
warning  versions  the daemon is agentd 0.1.0, and this is 0.2.0
                   restart the daemon, whose agents continue: systemctl restart
                   agentd
warning  disk      logs take 9 GiB of 10 GiB; 300 MiB are free
                   let logs take less with --log-total
unknown  secrets   not checked: this user cannot read /run/stereos/secrets
                   run agentd doctor as root
1 ok, 2 warnings, 1 failure, 1 unknown
";
        assert_eq!(screen(80), expected);
    }

    #[test]
    fn a_screen_of_120_columns_wraps_less() {
        let expected = "\
failure  jcard     /etc/stereos/jcard.toml:3:11: unknown agent.harness \"nope\"
                   fix the jcard
warning  versions  the daemon is agentd 0.1.0, and this is 0.2.0
                   restart the daemon, whose agents continue: systemctl restart agentd
warning  disk      logs take 9 GiB of 10 GiB; 300 MiB are free
                   let logs take less with --log-total
unknown  secrets   not checked: this user cannot read /run/stereos/secrets
                   run agentd doctor as root
1 ok, 2 warnings, 1 failure, 1 unknown
";
        assert_eq!(screen(120), expected);
    }

    #[test]
    fn a_screen_of_50_columns_is_wrapped() {
        let expected = "\
failure  jcard     /etc/stereos/jcard.toml:3:11:
                   unknown agent.harness \"nope\"
                   fix the jcard
warning  versions  the daemon is agentd 0.1.0, and
                   this is 0.2.0
                   restart the daemon, whose
                   agents continue: systemctl
                   restart agentd
warning  disk      logs take 9 GiB of 10 GiB; 300
                   MiB are free
                   let logs take less with
                   --log-total
unknown  secrets   not checked: this user cannot
                   read /run/stereos/secrets
                   run agentd doctor as root
1 ok, 2 warnings, 1 failure, 1 unknown
";
        assert_eq!(screen(50), expected);
    }

    #[test]
    fn color_changes_no_word_and_no_column() {
        let colored = render(&checks(), true, 80, true);
        assert!(colored.contains("\x1b[31mfailure\x1b[0m  api-socket"), "{colored}");
        let codes = ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"];
        let plain = codes.iter().fold(colored, |text, code| text.replace(code, ""));
        assert_eq!(plain, render(&checks(), true, 80, false));
    }

    #[test]
    fn messages_and_remedies_cannot_move_the_cursor() {
        let text = render(&[Check::failure("tmux", "a\x1b[2J\r\u{202e}", "b\x07")], false, 80, false);
        assert!(text.contains(r"a\u{1b}[2J\r\u{202e}") && text.contains(r"b\u{7}"), "{text}");
    }

    #[test]
    fn exit_status_is_that_of_the_worst_verdict() {
        let [ok, warning, failure, unknown] = <[Check; 4]>::try_from(checks()).unwrap();
        assert_eq!(exit_status(&[]), 0);
        assert_eq!(exit_status(&[ok.clone(), warning.clone()]), 0);
        assert_eq!(exit_status(&[warning.clone(), unknown.clone(), ok]), 4);
        assert_eq!(exit_status(&[unknown, failure, warning]), 1);
    }

    #[test]
    fn json_is_an_array_of_checks() {
        let checks = checks();
        let data = serde_json::to_value(Report { checks: &checks[..2] }).unwrap();
        let expected = serde_json::json!({ "checks": [
            { "name": "daemon", "result": "ok", "message": "agentd answers" },
            { "name": "limits", "result": "warning", "message": checks[1].message, "remedy": "run agentd under systemd" },
        ] });
        assert_eq!(data, expected);
    }
}
