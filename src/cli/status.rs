//! `agentd status`: shows the agents as a table, and as an exit status.
//!
//! On a terminal it is the [table for people](board). Elsewhere it is a line per agent, whose columns stay as they are.

pub mod board;
mod live;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use hyper::body::Bytes;
use serde_json::Value;

use super::complete;
use super::output::{block_on, complain, print, say_in_lines};
use super::table::{Table, push_hanging, wrapped};
use super::wording::{
    BY_ITSELF, confinement, exit_cell, labels_of, log_use, notices, paint, remark, since, until, words,
};
use crate::agent::labels::{self, Selector};
use crate::client::{Answer, Client, Error};
use crate::sys::local_time::{WallClock, Zone};
use crate::sys::terminal::Terminal;
use crate::text::glob;
use crate::text::printable::{escaped, json_line};
use crate::wire::exit_status::ExitStatus;
use crate::wire::hold::{GroupHold, Hold, HoldKind, remedy};
use crate::wire::status::{AgentStatus, PastAttempt, Time};

/// The exit statuses of LSB init scripts' `status`.
const RUNNING: u8 = 0;
const NOT_RUNNING: u8 = 3;
const UNKNOWN: u8 = 4;

/// The exit status of `--check` if an agent has failed.
const FAILED: u8 = 5;

const HEADINGS: [&str; 7] = ["NAME", "HARNESS", "STATE", "SINCE", "RESTARTS", "LAST EXIT", "NEXT START"];

/// Which agents to show, and how.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Arguments {
    /// Show only these agents; `*` and `?` stand for any characters and for one, and case does not matter
    #[arg(value_name = "NAME", add = complete::names())]
    pub names: Vec<String>,
    /// Show only agents that have this label, `KEY` or `KEY=VALUE`; of several labels, all
    #[arg(short = 'l', long = "label", value_name = "LABEL")]
    pub labels: Vec<Selector>,
    /// Show the table until Ctrl-C, and redraw it when something happens
    #[arg(short, long, conflicts_with = "json")]
    pub watch: bool,
    /// The order of the agents [default: attention on a terminal, else name]
    #[arg(long, value_name = "ORDER", value_enum)]
    pub sort: Option<Sort>,
    /// Print the API's answer as it is
    #[arg(long)]
    pub json: bool,
    /// Show only agents that failed, gave up, timed out, are invalid, or have an error
    #[arg(long)]
    pub failed: bool,
    /// End with 5 if there is such an agent
    #[arg(long)]
    pub check: bool,
}

/// The order of agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Those that need a person first
    Attention,
    /// By name
    Name,
    /// Those whose state is the newest first
    Age,
    /// Those that have printed nothing for the longest time first
    Idle,
}

/// Asks the daemon behind `socket` and prints its answer: data to stdout, messages to stderr.
pub fn run(arguments: &Arguments, socket: &Path) -> ExitCode {
    if arguments.watch {
        return live::run(arguments, socket);
    }
    match block_on(UNKNOWN, ask(arguments, socket)) {
        Ok(Ok(Report { text, remarks, code })) => {
            for remark in remarks {
                say_in_lines(&remark);
            }
            print(&text, code, UNKNOWN)
        }
        Ok(Err(error)) => complain(status_of(&error, &arguments.names), &error.to_string()),
        Err(code) => code,
    }
}

/// The exit status of `status` where the daemon gave no answer. Agents may run without the daemon.
fn status_of(error: &Error, names: &[String]) -> u8 {
    if matches!(error, Error::NotRunning(_)) && names.is_empty() { NOT_RUNNING } else { UNKNOWN }
}

struct Report {
    text: Bytes,
    remarks: Vec<String>,
    code: u8,
}

/// Agents, the body that the API sent about them, and names that fit none.
struct Shown {
    agents: Vec<AgentStatus>,
    body: Bytes,
    missing: Vec<String>,
}

impl Shown {
    /// Asks for the agents that are named; for all if none is.
    async fn ask(client: &Client, Arguments { names, labels, .. }: &Arguments) -> Result<Self, Error> {
        if let [name] = names.as_slice()
            && !glob::is_pattern(name)
            && labels.is_empty()
        {
            let Answer { value, body } = client.agent(name).await?;
            return Ok(Self { agents: vec![value], body, missing: Vec::new() });
        }
        let Answer { value: agents, body } = client.agents().await?;
        if names.is_empty() && labels.is_empty() {
            return Ok(Self { agents, body, missing: Vec::new() });
        }
        let is_named = |name: &str| names.is_empty() || names.iter().any(|pattern| glob::fits(pattern, name));
        let is_meant = |agent: &AgentStatus| is_named(&agent.name) && labels::fits_all(labels, &agent.labels);
        let fits_none = |pattern: &&String| !agents.iter().any(|agent| glob::fits(pattern, &agent.name));
        let missing = names.iter().filter(fits_none).cloned().collect();
        // Keys that only a newer daemon knows stay.
        let mut all: Vec<Value> = serde_json::from_slice(&body).unwrap_or_default();
        let meant: Vec<AgentStatus> = agents.iter().filter(|agent| is_meant(agent)).cloned().collect();
        all.retain(|agent| meant.iter().any(|meant| agent["name"] == *meant.name));
        let body = json_line(&all).into();
        let agents = meant;
        Ok(Self { agents, body, missing })
    }

    /// Applies `--failed` to the agents and the answer, and finds the exit status.
    fn judged(mut self, arguments: &Arguments) -> (Self, u8) {
        let is_any_failed = self.agents.iter().any(AgentStatus::is_failed);
        let code = if arguments.check && is_any_failed { FAILED } else { self.code(arguments) };
        if arguments.failed {
            self.agents.retain(AgentStatus::is_failed);
            let is_one = matches!(arguments.names.as_slice(), [name] if !glob::is_pattern(name));
            let is_one = is_one && arguments.labels.is_empty();
            self.body = match self.agents.as_slice() {
                [agent] if is_one => json_line(agent).into(),
                agents => json_line(agents).into(),
            };
        }
        (self, code)
    }

    fn code(&self, arguments: &Arguments) -> u8 {
        let is_selected = !arguments.names.is_empty() || !arguments.labels.is_empty();
        match () {
            () if !self.missing.is_empty() => UNKNOWN,
            () if !arguments.labels.is_empty() && self.agents.is_empty() => UNKNOWN,
            () if is_selected && self.agents.iter().any(|agent| !agent.running) => NOT_RUNNING,
            () => RUNNING,
        }
    }
}

/// What is to be said of a name that fits no agent.
fn unknown(name: &str) -> String {
    if glob::is_pattern(name) {
        format!("no agent fits {name:?}; agentd status lists all")
    } else {
        format!("there is no agent {name:?}; agentd status lists all")
    }
}

/// What a hold means for the agents of its group, in a line.
fn held(GroupHold { hold, agents, next_try_at }: &GroupHold) -> String {
    let Hold { kind, until, group, evidence, .. } = hold;
    let number = match agents.len() {
        1 => "1 agent held".to_owned(),
        number => format!("{number} agents held"),
    };
    match (kind, until) {
        (HoldKind::Quota, Some(until)) => format!("quota of {group} exhausted until {} ({number})", clock(*until)),
        (HoldKind::Quota, None) => format!("quota of {group} exhausted ({number})"),
        (HoldKind::Login, _) => {
            let remedy = remedy(group);
            format!("{group} is logged out, next try at {} ({number}): {evidence}; {remedy}", clock(*next_try_at))
        }
    }
}

/// When something happens, in local time: with the day if that is not today.
fn clock(at: Time) -> String {
    let zone = Zone::local();
    let today = zone.show(SystemTime::now()).map(|now| now.date);
    match zone.show(at.0) {
        Some(WallClock { date, time }) if Some(&date) == today.as_ref() => time,
        Some(WallClock { date, time }) => format!("{date} {time}"),
        None => at.to_string(),
    }
}

/// The message for an empty table.
fn nobody(arguments: &Arguments) -> String {
    let labels: Vec<String> = arguments.labels.iter().map(Selector::to_string).collect();
    match labels.as_slice() {
        _ if arguments.failed => "no agent has failed".to_owned(),
        [] => "no agents are declared".to_owned(),
        [label] => format!("no agent has the label {label}"),
        labels => format!("no agent has the labels {}", labels.join(", ")),
    }
}

async fn ask(arguments: &Arguments, socket: &Path) -> Result<Report, Error> {
    let client = Client::new(socket)?;
    let (shown, code) = Shown::ask(&client, arguments).await?.judged(arguments);
    let mut remarks: Vec<String> = shown.missing.iter().map(|name| unknown(name)).collect();
    if arguments.json {
        return Ok(Report { text: shown.body, remarks, code });
    }
    // Without the health, the table still holds.
    if let Ok(health) = client.health().await {
        remarks.extend(notices(&health.value, SystemTime::now()));
        if health.value.holds > 0 {
            let holds = client.holds().await.map(|holds| holds.value).unwrap_or_default();
            remarks.extend(holds.iter().map(held));
        }
    }
    if shown.agents.is_empty() {
        if shown.missing.is_empty() {
            remarks.push(nobody(arguments));
        }
        return Ok(Report { text: Bytes::new(), remarks, code });
    }
    let terminal = Terminal::here();
    let now = SystemTime::now();
    let mut text = table(&shown.agents, arguments.sort, terminal, now);
    if let [agent] = shown.agents.as_slice() {
        let lines = confinement(agent).into_iter().chain(labels_of(agent)).chain(agent.logs.map(log_use));
        let lines: Vec<String> = lines.map(|line| escaped(&line)).collect();
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{}", lines.join("\n"));
        }
    }
    if let [AgentStatus { history, .. }] = shown.agents.as_slice()
        && !history.is_empty()
    {
        text.push('\n');
        text.push_str(&render_history(history, now, terminal.width));
    }
    Ok(Report { text: text.into(), remarks, code })
}

/// The table for whoever reads standard output.
fn table(agents: &[AgentStatus], sort: Option<Sort>, terminal: Terminal, now: SystemTime) -> String {
    if terminal.width.is_some() {
        let sort = sort.unwrap_or(Sort::Attention);
        return board::render(agents, &board::View { now, width: terminal.text_width(), color: terminal.color, sort });
    }
    let mut agents: Vec<&AgentStatus> = agents.iter().collect();
    sort.unwrap_or(Sort::Name).apply(&mut agents, now);
    let text = render(&agents, now);
    if terminal.color { painted(&text, &agents) } else { text }
}

/// The table of [`render`] with the states in color, for a pipe to somebody who wants that, such as `watch --color`.
fn painted(table: &str, agents: &[&AgentStatus]) -> String {
    let Some((heading, rows)) = table.split_once('\n') else { return table.to_owned() };
    let column = heading.split("STATE").next().unwrap_or_default().chars().count();
    let mut text = format!("{heading}\n");
    for (row, agent) in rows.lines().zip(agents) {
        let start = row.char_indices().nth(column).map_or(row.len(), |(at, _)| at);
        let end = row[start..].find(' ').map_or(row.len(), |length| start + length);
        let (before, state, after) = (&row[..start], &row[start..end], &row[end..]);
        let _ = match paint(agent) {
            "" => writeln!(text, "{row}"),
            color => writeln!(text, "{before}{color}{state}\x1b[0m{after}"),
        };
    }
    text
}

/// The agents as a table for programs: a line per agent, whatever its length.
pub fn render(agents: &[&AgentStatus], now: SystemTime) -> String {
    let rows: Vec<[String; HEADINGS.len()]> = agents.iter().map(|agent| cells(agent, now)).collect();
    let remarks: Vec<String> = agents.iter().map(|agent| remark(agent)).collect();
    let mut table = Table::new(HEADINGS, &rows);
    if remarks.iter().any(|remark| !remark.is_empty()) {
        table.push_text("REASON");
    }
    for (row, remark) in rows.iter().zip(&remarks) {
        table.push_row(row);
        table.push_text(remark);
    }
    table.finish()
}

/// How an agent's latest attempts ended, the last one first. `width` is that of the terminal: the text is wrapped there. A program
/// gets a line for each attempt.
pub fn render_history(history: &[PastAttempt], now: SystemTime, width: Option<usize>) -> String {
    const HEADINGS: [&str; 4] = ["ATTEMPT", "ENDED", "RAN", "EXIT"];
    const LEAST_ROOM: usize = 20;
    let row = |past: &PastAttempt| {
        let Time(end) = past.exit.at;
        let ended = words(now.duration_since(end).unwrap_or_default());
        let ran = past.started_at.map(|Time(start)| words(end.duration_since(start).unwrap_or_default()));
        let ran = ran.unwrap_or_else(|| "-".to_owned());
        let is_begun = past.started_at.is_some() || !matches!(past.exit.how, ExitStatus::Cause(_));
        let exit = if is_begun { exit_cell(&past.exit.how) } else { "-".to_owned() };
        [past.attempt_shown().to_string(), format!("{ended} ago"), ran, exit]
    };
    let rows: Vec<[String; HEADINGS.len()]> = history.iter().map(row).collect();
    let mut table = Table::new(HEADINGS, &rows);
    table.push_text("WHY");
    let indent = table.indent();
    for (past, row) in history.iter().zip(&rows) {
        table.push_row(row);
        let why = match (&past.exit.how, past.reason.as_str()) {
            (ExitStatus::Cause(cause), BY_ITSELF) => cause.clone(),
            (ExitStatus::Cause(cause), reason) => format!("{reason}: {cause}"),
            (ExitStatus::Signal(_), BY_ITSELF) => "killed, not by agentd".to_owned(),
            (_, reason) => reason.to_owned(),
        };
        let why = escaped(&why);
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

fn cells(agent: &AgentStatus, now: SystemTime) -> [String; HEADINGS.len()] {
    let or_dash = |cell: Option<String>| cell.filter(|cell| !cell.is_empty()).unwrap_or_else(|| "-".to_owned());
    let since = since(agent).map(|Time(since)| words(now.duration_since(since).unwrap_or_default()));
    let last_exit = agent.exit.as_ref().map(|exit| exit_cell(&exit.how));
    [
        or_dash(Some(escaped(&agent.name))),
        or_dash(agent.harness.as_deref().map(escaped)),
        agent.state.to_string(),
        or_dash(since),
        agent.restarts.to_string(),
        or_dash(last_exit),
        or_dash(agent.next_start_at.map(|next| until(next, now))),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::wire::status::{Exit, Outcome, State};

    pub(in crate::cli) fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    pub(in crate::cli) fn ago(seconds: u64) -> Time {
        Time(now() - Duration::from_secs(seconds))
    }

    #[test]
    fn a_hold_is_told_with_its_end_and_what_to_do() {
        let in_hours = |hours: u64| Time(SystemTime::now() + Duration::from_hours(hours));
        let hold = |kind, until, group: &str, agents: &[&str]| GroupHold {
            hold: Hold { kind, since: ago(9), until, evidence: "API Error: 401".to_owned(), group: group.to_owned() },
            agents: agents.iter().map(|name| (*name).to_owned()).collect(),
            next_try_at: in_hours(50),
        };
        let day = clock(in_hours(50));
        assert!(day.contains(' '), "another day is shown with its date: {day}");
        let cases = [
            (HoldKind::Quota, Some(in_hours(50)), format!("quota of KEY-1 exhausted until {day} (2 agents held)")),
            (HoldKind::Quota, None, "quota of KEY-1 exhausted (2 agents held)".to_owned()),
        ];
        for (kind, until, expected) in cases {
            assert_eq!(held(&hold(kind, until, "KEY-1", &["a", "b"])), expected);
        }
        let login = held(&hold(HoldKind::Login, None, "codex@agent", &["a"]));
        let remedy = "log in to codex as user agent, or run agentd release codex@agent";
        assert_eq!(
            login,
            format!("codex@agent is logged out, next try at {day} (1 agent held): API Error: 401; {remedy}")
        );
    }

    #[test]
    fn failed_agents_are_selected_and_end_a_check_with_5() {
        let arguments = |failed, check| Arguments {
            names: vec![],
            labels: vec![],
            watch: false,
            sort: None,
            json: false,
            failed,
            check,
        };
        let good = agent("good", State::Running);
        let bad = AgentStatus { outcome: Some(Outcome::GaveUp), ..agent("bad", State::Exited) };
        let both = || vec![good.clone(), bad.clone()];
        let judge = |arguments: Arguments, agents| {
            let shown = Shown { agents, body: Bytes::from("all"), missing: Vec::new() };
            let (Shown { agents, body, .. }, code) = shown.judged(&arguments);
            let names: Vec<String> = agents.into_iter().map(|agent| agent.name).collect();
            (names.join(" "), body, code)
        };
        assert_eq!(judge(arguments(false, false), both()), ("good bad".to_owned(), Bytes::from("all"), RUNNING));
        assert_eq!(judge(arguments(false, true), both()), ("good bad".to_owned(), Bytes::from("all"), FAILED));
        assert_eq!(judge(arguments(false, true), vec![good.clone()]).2, RUNNING);
        let (names, body, code) = judge(arguments(true, false), both());
        assert_eq!((names.as_str(), code), ("bad", RUNNING));
        let data: Vec<AgentStatus> = serde_json::from_slice(&body).unwrap();
        assert_eq!(data, std::slice::from_ref(&bad));
        assert_eq!(judge(arguments(true, true), vec![good.clone()]), (String::new(), Bytes::from("[]\n"), RUNNING));
    }

    pub(in crate::cli) fn agent(name: &str, state: State) -> AgentStatus {
        AgentStatus {
            conversation: None,
            name: name.to_owned(),
            running: state == State::Running,
            session: name.to_owned(),
            restarts: 0,
            error: None,
            state,
            since: None,
            reason: None,
            outcome: None,
            harness: Some("claude-code".to_owned()),
            kind: None,
            user: None,
            sandbox: None,
            labels: BTreeMap::new(),
            pid: None,
            attempt: None,
            declared_at: Some(ago(90_000)),
            started_at: None,
            exit: None,
            next_start_at: None,
            deadline: None,
            timeout_at: None,
            limits_error: None,
            default_limits_error: None,
            sandboxed_by_default: false,
            log_error: None,
            environment_error: None,
            activity: None,
            hooks_unheard: false,
            waiting_for: Vec::new(),
            stopping_because: None,
            stop_stage: None,
            launch_reason: None,
            hold: None,
            attempt_total: None,
            last_output_at: None,
            result: None,
            cost_usd: None,
            tokens: None,
            generation: 0,
            overridden: None,
            changed: crate::wire::reason::Changes::default(),
            config_generation: None,
            skills: Vec::new(),
            secrets: Vec::new(),
            rotation: None,
            resources: None,
            logs: None,
            history: Vec::new(),
            approvals: Vec::new(),
        }
    }

    fn backoff() -> AgentStatus {
        AgentStatus {
            restarts: 12,
            reason: Some("exited with status 3".to_owned()),
            exit: Some(Exit { how: ExitStatus::Code(3), at: ago(1), oom_kills: None, silent: false }),
            next_start_at: Some(Time(now() + Duration::from_millis(2_500))),
            ..agent("claude-code", State::Backoff)
        }
    }

    #[test]
    fn history_has_a_line_per_attempt_and_wraps_on_a_terminal() {
        let past = |attempt, how, started: Option<u64>, reason: &str| PastAttempt {
            conversation: None,
            attempt,
            attempt_total: None,
            declared_at: ago(9_000),
            fingerprint: None,
            started_at: started.map(ago),
            exit: Exit { how, at: ago(60), oom_kills: None, silent: false },
            reason: reason.to_owned(),
            cpu_usec: None,
            memory_peak: None,
            approvals: Vec::new(),
            result: None,
        };
        let history = [
            past(12, ExitStatus::Signal("SIGINT".parse().unwrap()), Some(3_660), "its declaration has changed"),
            past(3, ExitStatus::Cause("claude: not\nfound".to_owned()), None, "it could not be started"),
        ];
        let wide = "\
ATTEMPT  ENDED   RAN  EXIT    WHY
12       1m ago  1h   SIGINT  its declaration has changed
3        1m ago  -    -       it could not be started: claude: not\\nfound
";
        assert_eq!(render_history(&history, now(), None), wide);
        let narrow = "\
ATTEMPT  ENDED   RAN  EXIT    WHY
12       1m ago  1h   SIGINT  its declaration has
                              changed
3        1m ago  -    -       it could not be
                              started: claude:
                              not\\nfound
";
        assert_eq!(render_history(&history, now(), Some(50)), narrow);

        let ended = [
            past(3, ExitStatus::Cause("the tmux server died".to_owned()), Some(70), BY_ITSELF),
            past(2, ExitStatus::Signal("SIGTERM".parse().unwrap()), Some(70), BY_ITSELF),
            past(1, ExitStatus::Code(3), Some(70), BY_ITSELF),
        ];
        let expected = "\
ATTEMPT  ENDED   RAN  EXIT     WHY
3        1m ago  10s  unknown  the tmux server died
2        1m ago  10s  SIGTERM  killed, not by agentd
1        1m ago  10s  3        it ended by itself
";
        assert_eq!(render_history(&ended, now(), None), expected);
    }

    pub(in crate::cli) fn every_state() -> Vec<AgentStatus> {
        vec![
            AgentStatus { started_at: Some(ago(7_380)), ..agent("a", State::Running) },
            backoff(),
            AgentStatus {
                outcome: Some(Outcome::GaveUp),
                reason: Some("3 restarts were made".to_owned()),
                restarts: 3,
                exit: Some(Exit {
                    how: ExitStatus::Signal("SIGKILL".parse().unwrap()),
                    at: ago(61),
                    oom_kills: None,
                    silent: false,
                }),
                ..agent("c", State::Exited)
            },
            AgentStatus {
                reason: Some(
                    "workdir /home/agent/workspace/of/a/project/with/a/long/name does not exist yet".to_owned(),
                ),
                ..agent("d", State::Waiting)
            },
            AgentStatus {
                harness: None,
                declared_at: None,
                error: Some("3:1: harness is required; one of claude-code, opencode".to_owned()),
                ..agent("e", State::Invalid)
            },
            agent("f", State::Starting),
            AgentStatus { running: true, reason: Some("removed".to_owned()), ..agent("g", State::Stopping) },
        ]
    }

    #[test]
    fn table_for_programs_has_one_whole_line_per_agent() {
        let expected = "\
NAME         HARNESS      STATE     SINCE  RESTARTS  LAST EXIT  NEXT START  REASON
a            claude-code  running   2h 3m  0         -          -
claude-code  claude-code  backoff   1s     12        3          in 3s       exited with status 3
c            claude-code  exited    1m 1s  3         SIGKILL    -           gave-up; 3 restarts were made
d            claude-code  waiting   1d 1h  0         -          -           workdir /home/agent/workspace/of/a/project/with/a/long/name does not exist yet
e            -            invalid   -      0         -          -           3:1: harness is required; one of claude-code, opencode
f            claude-code  starting  -      0         -          -
g            claude-code  stopping  -      0         -          -           removed
";
        let agents = every_state();
        assert_eq!(render(&agents.iter().collect::<Vec<_>>(), now()), expected);
    }

    #[test]
    fn color_in_a_pipe_changes_no_word_and_is_for_the_states() {
        let pipe = |color| Terminal { width: None, color, is_dumb: false };
        let agents = every_state();
        let (plain, colored) = (table(&agents, None, pipe(false), now()), table(&agents, None, pipe(true), now()));
        assert!(colored.contains("claude-code  \x1b[32mrunning\x1b[0m   2h 3m"), "{colored}");
        let codes = ["\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"];
        assert_eq!(codes.iter().fold(colored, |text, code| text.replace(code, "")), plain);
    }

    #[test]
    fn text_from_the_api_cannot_move_the_cursor() {
        let hostile = "a\x1b[2J\r\n\u{9b}31m\u{202e}é";
        let agent = AgentStatus {
            name: hostile.to_owned(),
            harness: Some(hostile.to_owned()),
            reason: Some(hostile.to_owned()),
            exit: Some(Exit { how: ExitStatus::Cause(hostile.to_owned()), at: ago(1), oom_kills: None, silent: false }),
            ..agent("", State::Backoff)
        };
        let table = render(&[&agent], now());
        assert_eq!(table.matches(r"a\u{1b}[2J\r\n\u{9b}31m\u{202e}é").count(), 3, "{table}");
        assert_eq!(table.chars().filter(|c| c.is_control()).count(), 2, "{table}");
    }

    #[test]
    fn remark_repeats_nothing() {
        let cause = "tmux server died";
        let mut agent = AgentStatus {
            outcome: Some(Outcome::Failed),
            reason: Some(format!("failed: {cause}")),
            error: Some(cause.to_owned()),
            exit: Some(Exit { how: ExitStatus::Cause(cause.to_owned()), at: ago(1), oom_kills: None, silent: false }),
            ..agent("a", State::Exited)
        };
        assert_eq!(remark(&agent), "failed: tmux server died");
        agent.reason = None;
        assert_eq!(remark(&agent), "failed; tmux server died");
        assert_eq!(cells(&agent, now())[5], "unknown");
    }

    #[test]
    fn start_that_is_due_is_shown_as_now() {
        let due = |millis: i64| {
            let offset = Duration::from_millis(millis.unsigned_abs());
            let at = if millis < 0 { now() - offset } else { now() + offset };
            cells(&AgentStatus { next_start_at: Some(Time(at)), ..backoff() }, now())[6].clone()
        };
        assert_eq!([due(-5), due(0), due(1), due(1_000), due(2_999)], ["now", "now", "in 1s", "in 1s", "in 3s"]);
    }

    #[test]
    fn times_are_not_negative_after_the_clock_is_set_back() {
        let agent =
            AgentStatus { started_at: Some(Time(now() + Duration::from_mins(1))), ..agent("a", State::Running) };
        assert_eq!(cells(&agent, now())[3], "0s");
    }
}
