//! `agentd check --screen`: which rule of the table of harnesses matches the text of a screen.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use super::{Arguments, BAD, GOOD, STDIN};
use crate::agent::harness::Harness;
use crate::agent::harness::rule::Match;
use crate::agent::harness::rule::Meaning;
use crate::cli::harnesses::in_force;
use crate::cli::output::{complain, print};
use crate::deputy::screen;
use crate::sys::regular_file;
use crate::text::printable::{escaped, json_line};

/// The longest text, in bytes.
const MOST: u64 = 1 << 20;

/// A rule that matches, as `--json` prints it.
#[derive(Serialize)]
struct Line {
    harness: String,
    /// Which of its rules, from 1.
    rule: usize,
    means: Meaning,
    #[serde(rename = "match")]
    pattern: String,
    #[serde(flatten)]
    matched: Match,
}

/// Tries the rules of the harness, or of all, and prints the first of each that matches. The status tells whether one does.
pub(super) fn run(file: &Path, harness: Option<&str>, jcard: &Path, arguments: &Arguments) -> ExitCode {
    let text = match text(file) {
        Ok(text) => text,
        Err(error) => return complain(BAD, &format!("{}: {error}", escaped(&file.display().to_string()))),
    };
    let all = match in_force(jcard, arguments.config.is_some()) {
        Ok(all) => all,
        Err(error) => return complain(BAD, &error),
    };
    let meant: Vec<&Arc<Harness>> = all.iter().filter(|it| harness.is_none_or(|name| *it.name == *name)).collect();
    if meant.is_empty() {
        let name = escaped(harness.unwrap_or_default());
        return complain(BAD, &format!("unknown harness {name}; agentd harnesses lists all"));
    }
    let lines: Vec<Line> = meant.into_iter().filter_map(|harness| line(harness, &text)).collect();
    let status = if lines.is_empty() { BAD } else { GOOD };
    let shown = if arguments.json {
        json_line(&lines)
    } else if lines.is_empty() {
        "no rule matches\n".to_owned()
    } else {
        lines.iter().fold(String::new(), |text, line| text + &in_words(line))
    };
    print(shown.as_bytes(), status, BAD)
}

fn text(file: &Path) -> io::Result<String> {
    let bytes = if file.as_os_str() == STDIN {
        let mut bytes = Vec::new();
        io::stdin().take(MOST).read_to_end(&mut bytes)?;
        bytes
    } else {
        regular_file::read(file, MOST).map_err(|error| io::Error::other(error.to_string()))?.0.to_vec()
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn line(harness: &Harness, text: &str) -> Option<Line> {
    let found = screen::read(text, harness.rules()).found?;
    Some(Line {
        harness: harness.name.to_string(),
        rule: found.rule + 1,
        means: found.means,
        pattern: harness.rules().get(found.rule)?.pattern.clone(),
        matched: found.matched,
    })
}

fn in_words(line: &Line) -> String {
    let means = match line.means {
        Meaning::Login => "login",
        Meaning::Quota => "quota",
        Meaning::Blocked => "blocked",
        Meaning::Idle => "idle",
    };
    let mut text =
        format!("{}: {means}, by its rule {}: {}\n", escaped(&line.harness), line.rule, escaped(&line.pattern));
    // Writing to a string never fails.
    let _ = writeln!(text, "    line  {}", escaped(&line.matched.line));
    for (name, value) in [("url", &line.matched.url), ("code", &line.matched.code)] {
        if let Some(value) = value {
            let _ = writeln!(text, "    {name:5} {}", escaped(value));
        }
    }
    text
}
