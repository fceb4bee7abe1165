//! `agentd runs`: the runs that wait, that are under way, and that are kept after their end.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::complete;
use super::output::{block_on, complain, print, say};
use super::table::{Column, NOTHING, headings, push_hanging, row, width_of, without_empty, wrapped};
use super::wording::{counted, dollars, paint, state_word, words};
use crate::agent::labels::Selector;
use crate::client::{Client, Error};
use crate::sys::terminal::Terminal;
use crate::text::printable::escaped;
use crate::text::size;
use crate::wire::run::RunStatus;
use crate::wire::status::{Outcome, State, Time};

/// As that of `agentd status`.
const UNKNOWN: u8 = 4;

/// The most runs that the daemon lists.
const MOST: usize = 1000;

/// The least room for a reason beside the columns.
const LEAST_BESIDE: usize = 30;

/// Which runs, and how.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Arguments {
    /// Show only runs of this template; the case of its name does not matter
    #[arg(value_name = "NAME", add = complete::templates())]
    pub name: Option<String>,
    /// Show only runs of this plan
    #[arg(long, value_name = "ID", value_parser = super::name)]
    pub plan: Option<String>,
    /// Show only runs in this state
    #[arg(long, value_name = "STATE", value_enum)]
    pub state: Option<State>,
    /// Show only runs that ended so
    #[arg(long, value_name = "OUTCOME", value_parser = outcome())]
    pub outcome: Option<Outcome>,
    /// Show only runs that have this label, `KEY` or `KEY=VALUE`; of several labels, all
    #[arg(short = 'l', long = "label", value_name = "LABEL")]
    pub labels: Vec<Selector>,
    /// Show at most the latest N runs
    #[arg(short = 'n', long, value_name = "N", value_parser = limit)]
    pub limit: Option<usize>,
    /// Print the API's answer as it is
    #[arg(long)]
    pub json: bool,
}

fn outcome() -> impl clap::builder::TypedValueParser<Value = Outcome> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    let named = |word: String| Outcome::ALL.into_iter().find(|outcome| outcome.word() == word);
    PossibleValuesParser::new(Outcome::ALL.map(Outcome::word)).map(move |word| named(word).unwrap_or(Outcome::Failed))
}

fn limit(text: &str) -> Result<usize, String> {
    match size::count(text) {
        Ok(count @ 1..=MOST) => Ok(count),
        _ => Err(format!("write a whole number from 1 to {MOST}")),
    }
}

impl Arguments {
    fn query(&self) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let pair = |key: &str, value: Option<String>| value.map(|value| format!("{key}={}", encoded(&value)));
        let labels = self.labels.iter().map(|label| pair("label", Some(label.to_string())));
        let pairs = [
            pair("agent", self.name.clone()),
            pair("plan", self.plan.clone()),
            pair("state", self.state.map(|state| state.to_string())),
            pair("outcome", self.outcome.map(|outcome| outcome.to_string())),
            pair("limit", Some(self.limit.unwrap_or(MOST).to_string())),
        ];
        pairs.into_iter().chain(labels).flatten().collect::<Vec<_>>().join("&")
    }

    fn is_about_all(&self) -> bool {
        self.plan.is_none() && self.state.is_none() && self.outcome.is_none() && self.labels.is_empty()
    }
}

/// Asks the daemon behind `socket`, and prints the runs: data to stdout, messages to stderr.
pub fn run(arguments: &Arguments, socket: &Path) -> ExitCode {
    let asked = block_on(UNKNOWN, async {
        let client = Client::new(socket)?;
        if let Some(name) = &arguments.name {
            let agent = client.agent(name).await?.value;
            if agent.runs.is_none() {
                return Ok(Err(format!("{} has no runs: its entry has no table [agents.runs]", agent.name)));
            }
        }
        client.runs(&arguments.query()).await.map(Ok)
    });
    let answer = match asked {
        Ok(Ok(Ok(answer))) => answer,
        Ok(Ok(Err(why))) => return complain(UNKNOWN, &why),
        Ok(Err(error @ Error::Refused { .. })) => {
            return complain(UNKNOWN, &format!("{error}: this agentd knows no runs, or not these parameters"));
        }
        Ok(Err(error)) => return complain(UNKNOWN, &error.to_string()),
        Err(code) => return code,
    };
    if arguments.json {
        return print(&answer.body, 0, UNKNOWN);
    }
    let runs = answer.value;
    if runs.is_empty() {
        say(match (&arguments.name, arguments.is_about_all()) {
            (_, false) => "no run fits",
            (Some(_), true) => "it has no runs; agentd run NAME TEXT… makes one",
            (None, true) => "there are no runs; agentd run NAME TEXT… makes one",
        });
        return ExitCode::SUCCESS;
    }
    let terminal = Terminal::here();
    let width = terminal.width.filter(|_| std::io::stdout().is_terminal()).map(|_| terminal.text_width());
    let text = table(&runs, width, terminal.color, SystemTime::now());
    if runs.len() == arguments.limit.unwrap_or(MOST) {
        say(&format!("these are the latest {}; there may be more", counted(runs.len(), "run")));
    }
    print(text.as_bytes(), 0, UNKNOWN)
}

/// The runs as a table. With a width, reasons are wrapped there; without one, a run has a line, whatever its length.
fn table(runs: &[RunStatus], width: Option<usize>, color: bool, now: SystemTime) -> String {
    let cells = |cell: &dyn Fn(&RunStatus) -> Option<String>| -> Vec<String> {
        runs.iter().map(|run| cell(run).filter(|cell| !cell.is_empty()).unwrap_or_else(|| NOTHING.to_owned())).collect()
    };
    let columns = vec![
        Column::needed("RUN", cells(&|run| Some(escaped(&run.name)))),
        Column::needed("STATE", cells(&|run| Some(state(run)))),
        Column::needed("OUTCOME", cells(&|run| run.outcome.map(|outcome| outcome.to_string()))),
        Column::needed("STARTED", cells(&|run| run.started_at.map(|at| format!("{} ago", age(at, now))))),
        Column::needed("TOOK", cells(&|run| took(run, now))),
        Column::needed("ATTEMPTS", cells(&|run| Some(run.attempts.to_string()))),
        Column::needed("COST", cells(&|run| run.cost_usd.map(dollars))),
    ];
    // A program finds the columns at their places.
    let columns = if width.is_some() { without_empty(columns) } else { columns };
    let indent = width_of(&columns);
    let beside = width.map(|width| width.saturating_sub(indent)).filter(|&room| room >= LEAST_BESIDE);
    let mut text = String::new();
    let reason = if width.is_none() || beside.is_some() { "REASON" } else { "" };
    push_hanging(&mut text, (headings(&columns) + reason).trim_end(), 0, [""]);
    for (number, run) in runs.iter().enumerate() {
        let paint = Some(("STATE", paint(&run.as_agent()))).filter(|(_, paint)| color && !paint.is_empty());
        let row = row(&columns, number, paint);
        let why = run.reason.as_deref().map(escaped).unwrap_or_default();
        match (width, beside) {
            (None, _) => push_hanging(&mut text, format!("{row}{why}").trim_end(), 0, [""]),
            (Some(_), Some(room)) if !why.is_empty() => push_hanging(&mut text, &row, indent, wrapped(&why, room)),
            (Some(width), None) if !why.is_empty() && !matches!(run.outcome, Some(Outcome::Completed)) => {
                push_hanging(&mut text, row.trim_end(), 0, [""]);
                for line in wrapped(&why, width.saturating_sub(2)) {
                    push_hanging(&mut text, "  ", 0, [line]);
                }
            }
            (Some(_), _) => push_hanging(&mut text, row.trim_end(), 0, [""]),
        }
    }
    text
}

/// The state; of a run that waits for a place, its place in line.
fn state(run: &RunStatus) -> String {
    match (run.state, run.position) {
        (State::Waiting, Some(position)) => format!("waiting ({position})"),
        (State::Exited, _) => run.state.to_string(),
        _ => state_word(&run.as_agent()).to_owned(),
    }
}

fn age(Time(since): Time, now: SystemTime) -> String {
    words(now.duration_since(since).unwrap_or_default())
}

/// For how long it ran, or has run so far.
fn took(run: &RunStatus, now: SystemTime) -> Option<String> {
    let end = match run.ended_at {
        Some(Time(end)) => end,
        None if run.is_over() => return None,
        None => now,
    };
    run.started_at.map(|start| age(start, end))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn options_become_the_query() {
        let query = |words: &[&str]| Line::try_parse_from([&["runs"], words].concat()).unwrap().arguments.query();
        assert_eq!(query(&[]), "limit=1000");
        let all = ["Fixer", "--plan", "p 1", "--state", "running", "-l", "a=b", "-l", "c", "-n", "5"];
        assert_eq!(query(&all), "agent=Fixer&plan=p%201&state=running&limit=5&label=a%3Db&label=c");
        assert_eq!(query(&["--outcome", "timed-out"]), "outcome=timed%2Dout&limit=1000");
    }

    fn run(id: &str, more: &Value) -> RunStatus {
        let mut run = json!({ "name": format!("fixer/{id}"), "agent": "fixer", "id": id, "state": "running",
            "queued_at": "2026-12-01T06:00:00.000Z" });
        run.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(run).unwrap()
    }

    fn now() -> SystemTime {
        serde_json::from_value::<Time>(json!("2026-12-01T06:10:00.000Z")).unwrap().0 + Duration::ZERO
    }

    fn runs() -> Vec<RunStatus> {
        vec![
            run("t3", &json!({ "state": "waiting", "position": 1, "reason": "2 of 2 places are taken; 1st in line" })),
            run("t2", &json!({ "started_at": "2026-12-01T06:08:00.000Z", "attempts": 1 })),
            run(
                "t1",
                &json!({ "state": "exited", "outcome": "failed", "started_at": "2026-12-01T06:01:00.000Z",
                "ended_at": "2026-12-01T06:03:30.000Z", "attempts": 2, "cost_usd": 1.5, "reason": "exited with status 3" }),
            ),
        ]
    }

    #[test]
    fn a_program_gets_a_line_for_each_run() {
        let expected = "\
RUN       STATE        OUTCOME  STARTED  TOOK    ATTEMPTS  COST   REASON
fixer/t3  waiting (1)  -        -        -       0         -      2 of 2 places are taken; 1st in line
fixer/t2  running      -        2m ago   2m      1         -
fixer/t1  exited       failed   9m ago   2m 30s  2         $1.50  exited with status 3
";
        assert_eq!(table(&runs(), None, false, now()), expected);
    }

    #[test]
    fn reasons_stand_below_where_there_is_no_room_beside() {
        let text = table(&runs(), Some(72), false, now());
        assert!(text.contains("0         -\n  2 of 2 places are taken; 1st in line\n"), "{text}");
        let wide = table(&runs(), Some(120), true, now());
        assert!(wide.contains("$1.50  exited with status 3\n") && wide.contains("\u{1b}[32mrunning"), "{wide}");
    }
}
