//! `agentd history`: what has ended, the latest first, and what it cost.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use super::complete;
use super::output::{self, Failure};
use super::table::{NOTHING, Table, push_hanging, wrapped};
use super::times::Times;
use super::wording::{dollars, exit_cell, words};
use crate::client::Client;
use crate::sys::clock;
use crate::sys::terminal::Terminal;
use crate::text::printable::{escaped, json_line};
use crate::wire::history::{Ended, HistoryWanted};
use crate::wire::status::Outcome;

/// How much is asked for at once.
const PAGE: usize = 1000;

/// How many lines there are without `--lines` and `--since`.
const USUAL: usize = 50;

/// Why something ended is shown in at least so many columns.
const LEAST_ROOM: usize = 20;

/// Which part of the history, and how.
#[derive(Clone, Debug, Default, clap::Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Arguments {
    /// Only of this agent or template; the case of its name does not matter
    #[arg(add = complete::names())]
    pub name: Option<String>,
    /// Only what ended since then: a time such as 2026-11-21T17:00:00Z, or for how long back, such as 7d
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    pub since: Option<SystemTime>,
    /// Only what failed, timed out, gave up or was interrupted
    #[arg(long)]
    pub failed: bool,
    /// At most so many, the latest [default: 50; with --since or --summary all]
    #[arg(short = 'n', long = "lines", value_name = "N", value_parser = count)]
    pub lines: Option<usize>,
    /// Print a line for each agent: how many, how many of them completed, how long they took, and what they cost
    #[arg(long)]
    pub summary: bool,
    /// Print times in UTC on a terminal, too
    #[arg(long, conflicts_with = "summary")]
    pub utc: bool,
    /// Print JSON: what has ended as the API has it, one on each line; or the summary
    #[arg(long)]
    pub json: bool,
}

fn moment(text: &str) -> Result<SystemTime, clock::NoMoment> {
    clock::parse_moment(text, SystemTime::now())
}

fn count(text: &str) -> Result<usize, &'static str> {
    crate::text::size::count(text).map_err(|_| "write a whole number such as 50")
}

/// Prints the history: data to stdout, messages to stderr.
pub fn run(arguments: &Arguments, socket: &Path) -> ExitCode {
    output::run(print(arguments, socket))
}

async fn print(arguments: &Arguments, socket: &Path) -> Result<(), Failure> {
    let client = Client::new(socket).map_err(Failure::Ask)?;
    let failures = [Outcome::Failed, Outcome::TimedOut, Outcome::GaveUp, Outcome::Interrupted];
    let mut wanted = HistoryWanted {
        agent: arguments.name.clone(),
        since: arguments.since,
        outcomes: if arguments.failed { failures.to_vec() } else { Vec::new() },
        before: None,
    };
    let is_all = arguments.since.is_some() || arguments.summary;
    let mut left = arguments.lines.unwrap_or(if is_all { usize::MAX } else { USUAL });
    let (mut sums, mut shown) = (BTreeMap::<String, Sums>::new(), Vec::new());
    while left > 0 {
        let page = client.history(&wanted, left.min(PAGE)).await.map_err(Failure::Ask)?.value;
        left = left.saturating_sub(page.ended.len());
        for ended in page.ended {
            if arguments.summary {
                sums.entry(ended.agent().to_owned()).or_default().add(&ended);
            } else if arguments.json {
                // Each is printed as it comes: a history is long.
                write(&json_line(&ended)).map_err(Failure::Print)?;
            } else {
                shown.push(ended);
            }
        }
        let Some(next) = page.next else { break };
        wanted.before = Some(next.parse().map_err(|error| Failure::Said(format!("{next:?}: {error}")))?);
    }
    let text = match (arguments.summary, arguments.json) {
        (true, true) => json_line(&summed(&sums)),
        (true, false) => summary(&sums),
        (false, true) => return Ok(()),
        (false, false) => {
            let width = Terminal::here().width;
            list(&shown, &Times::here(width.is_some(), arguments.utc), width)
        }
    };
    write(&text).map_err(Failure::Print)
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn name(ended: &Ended) -> String {
    match ended {
        Ended::Run(run) => run.name(),
        Ended::Attempt(attempt) => format!("{} #{}", attempt.agent, attempt.attempt_total.unwrap_or(attempt.attempt)),
    }
}

/// How long it ran, if it was started.
fn took(ended: &Ended) -> Option<Duration> {
    ended.ended_at().0.duration_since(ended.started_at()?.0).ok()
}

fn list(all: &[Ended], times: &Times, width: Option<usize>) -> String {
    if all.is_empty() {
        return String::new();
    }
    let or_nothing = |cell: Option<String>| cell.unwrap_or_else(|| NOTHING.to_owned());
    let row = |ended: &Ended| {
        let exit = match ended {
            Ended::Run(run) => run.exit.as_ref(),
            Ended::Attempt(attempt) => Some(&attempt.exit),
        };
        [
            times.show(ended.ended_at()),
            escaped(&name(ended)),
            or_nothing(ended.outcome().map(|outcome| outcome.to_string())),
            or_nothing(exit.map(|exit| exit_cell(&exit.how))),
            or_nothing(took(ended).map(words)),
            or_nothing(ended.cost_usd().map(dollars)),
        ]
    };
    let rows: Vec<[String; 6]> = all.iter().map(row).collect();
    let mut table = Table::new(["ENDED", "NAME", "OUTCOME", "EXIT", "TOOK", "COST"], &rows);
    table.push_text("WHY");
    let indent = table.indent();
    for (ended, row) in all.iter().zip(&rows) {
        table.push_row(row);
        let why = match ended {
            Ended::Run(run) => run.reason.as_deref().unwrap_or_default(),
            Ended::Attempt(attempt) => attempt.reason.as_str(),
        };
        let why = escaped(why);
        match width {
            None => table.push_text(&why),
            Some(width) => {
                let mut lines = String::new();
                push_hanging(&mut lines, "", indent, wrapped(&why, width.saturating_sub(indent).max(LEAST_ROOM)));
                table.push_text(lines.trim_end());
            }
        }
    }
    table.finish()
}

/// What an agent's history comes to.
#[derive(Debug, Default)]
struct Sums {
    runs: u64,
    attempts: u64,
    completed: u64,
    /// Those whose outcome says nothing about the work: removed, passed over, or not known.
    uncounted: u64,
    took: Vec<Duration>,
    cost_usd: Option<f64>,
}

/// The same, as it is printed.
#[derive(Debug, PartialEq, serde::Serialize)]
struct Summed<'a> {
    agent: &'a str,
    runs: u64,
    attempts: u64,
    completed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    success_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    median_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_usd: Option<f64>,
}

impl Sums {
    fn add(&mut self, ended: &Ended) {
        match ended {
            Ended::Run(_) => self.runs += 1,
            Ended::Attempt(_) => self.attempts += 1,
        }
        match ended.outcome() {
            Some(Outcome::Completed) => self.completed += 1,
            Some(Outcome::Cancelled | Outcome::Skipped | Outcome::Refused) | None => self.uncounted += 1,
            Some(Outcome::Failed | Outcome::TimedOut | Outcome::GaveUp | Outcome::Interrupted) => {}
        }
        self.took.extend(took(ended));
        if let Some(cost) = ended.cost_usd() {
            *self.cost_usd.get_or_insert(0.0) += cost;
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a share of a number of runs that is far below 2^52")]
    fn sum<'a>(&self, agent: &'a str) -> Summed<'a> {
        let counted = self.runs.saturating_add(self.attempts).saturating_sub(self.uncounted);
        let mut took = self.took.clone();
        took.sort_unstable();
        Summed {
            agent,
            runs: self.runs,
            attempts: self.attempts,
            completed: self.completed,
            success_rate: (counted > 0).then(|| self.completed as f64 / counted as f64),
            median_seconds: took.get(took.len() / 2).map(Duration::as_secs_f64),
            cost_usd: self.cost_usd,
        }
    }
}

fn summed(sums: &BTreeMap<String, Sums>) -> Vec<Summed<'_>> {
    sums.iter().map(|(agent, sums)| sums.sum(agent)).collect()
}

fn summary(sums: &BTreeMap<String, Sums>) -> String {
    if sums.is_empty() {
        return String::new();
    }
    let or_nothing = |cell: Option<String>| cell.unwrap_or_else(|| NOTHING.to_owned());
    let number = |number: u64| if number == 0 { NOTHING.to_owned() } else { number.to_string() };
    let row = |sum: &Summed<'_>| {
        [
            escaped(sum.agent),
            number(sum.runs),
            number(sum.attempts),
            or_nothing(sum.success_rate.map(|rate| format!("{:.0}%", (rate * 100.0).floor()))),
            or_nothing(sum.median_seconds.map(|seconds| words(Duration::from_secs_f64(seconds)))),
            or_nothing(sum.cost_usd.map(dollars)),
        ]
    };
    let rows: Vec<[String; 6]> = summed(sums).iter().map(row).collect();
    let mut table = Table::new(["AGENT", "RUNS", "ATTEMPTS", "SUCCESS", "MEDIAN", "COST"], &rows);
    for row in &rows {
        table.push_row(row);
    }
    table.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ended(more: &serde_json::Value) -> Ended {
        let mut run = json!({
            "kind": "run", "agent": "fixer", "id": "t1", "outcome": "completed", "reason": "exited with status 0",
            "queued_at": "2026-12-01T06:00:00.000Z", "started_at": "2026-12-01T06:00:01.000Z",
            "ended_at": "2026-12-01T06:01:31.000Z", "attempts": 1, "exit": { "code": 0, "at": "2026-12-01T06:01:31.000Z" },
            "cost_usd": 0.25,
        });
        run.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(run).unwrap()
    }

    fn attempt() -> Ended {
        let attempt = json!({
            "kind": "attempt", "agent": "keeper", "attempt": 1, "attempt_total": 7, "outcome": "failed",
            "reason": "it ended by itself", "started_at": "2026-12-01T05:00:00.000Z",
            "ended_at": "2026-12-01T05:00:09.000Z", "exit": { "signal": "SIGKILL", "at": "2026-12-01T05:00:09.000Z" },
        });
        serde_json::from_value(attempt).unwrap()
    }

    #[test]
    fn each_end_is_a_line() {
        let text = list(&[ended(&json!({})), attempt()], &Times::Exact, None);
        let expected = "\
ENDED                     NAME       OUTCOME    EXIT     TOOK    COST     WHY
2026-12-01T06:01:31.000Z  fixer/t1   completed  0        1m 30s  $0.2500  exited with status 0
2026-12-01T05:00:09.000Z  keeper #7  failed     SIGKILL  9s      -        it ended by itself
";
        assert_eq!(text, expected);
        assert_eq!(list(&[], &Times::Exact, None), "");
    }

    #[test]
    fn a_reason_cannot_move_the_cursor_and_is_wrapped_on_a_terminal() {
        let hostile = ended(&json!({ "reason": "a\u{1b}[2J and more words than fit into one line of it" }));
        let text = list(&[hostile], &Times::Exact, Some(100));
        assert!(text.contains(r"\u{1b}[2J") && text.lines().count() > 2, "{text}");
    }

    #[test]
    fn a_summary_counts_what_says_something_about_the_work() {
        let mut sums = BTreeMap::<String, Sums>::new();
        let all = [
            ended(&json!({})),
            ended(&json!({ "id": "t2", "outcome": "failed", "started_at": "2026-12-01T06:01:30.000Z" })),
            ended(&json!({ "id": "t3", "outcome": "cancelled", "started_at": null, "cost_usd": null })),
            ended(&json!({ "id": "t4", "started_at": "2026-12-01T06:01:01.000Z", "cost_usd": 1.0 })),
            attempt(),
        ];
        for ended in &all {
            sums.entry(ended.agent().to_owned()).or_default().add(ended);
        }
        let expected = "\
AGENT   RUNS  ATTEMPTS  SUCCESS  MEDIAN  COST
fixer   4     -         66%      30s     $1.50
keeper  -     1         0%       9s      -
";
        assert_eq!(summary(&sums), expected);
        let data = serde_json::to_value(summed(&sums)).unwrap();
        assert_eq!(
            data[1],
            json!({
                "agent": "keeper", "runs": 0, "attempts": 1, "completed": 0, "success_rate": 0.0, "median_seconds": 9.0,
            })
        );
        assert_eq!((&data[0]["completed"], &data[0]["cost_usd"]), (&json!(2), &json!(1.5)));
    }
}
