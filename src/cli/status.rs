//! `agentd status`: shows the agents as a table, and as an exit status.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;

use super::complete;
use super::output::{block_on, complain, print, say};
use super::table::{GAP, Table, shortened};
use super::wording::{exit_cell, faults, log_use, paint, remark, since, words};
use crate::client::{Answer, Client, Error};
use crate::sys::terminal::Terminal;
use crate::text::printable::{escaped, json_line};
use crate::wire::exit_status::ExitStatus;
use crate::wire::status::{AgentStatus, PastAttempt, Time};

/// The exit statuses of LSB init scripts' `status`.
const RUNNING: u8 = 0;
const NOT_RUNNING: u8 = 3;
const UNKNOWN: u8 = 4;

/// The exit status of `--check` if an agent has failed.
const FAILED: u8 = 5;

const HEADINGS: [&str; 7] = ["NAME", "HARNESS", "STATE", "SINCE", "RESTARTS", "LAST EXIT", "NEXT START"];

/// The column of the state in [`HEADINGS`].
const STATE: usize = 2;

/// Which agent to show, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Show only this agent; the case of its name does not matter
    #[arg(add = complete::names())]
    pub name: Option<String>,
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

/// Asks the daemon behind `socket` and prints its answer: data to stdout, messages to stderr.
pub fn run(arguments: &Arguments, socket: &Path) -> ExitCode {
    match block_on(UNKNOWN, ask(arguments, socket)) {
        Ok(Ok(Report { text, remarks, code })) => {
            for remark in remarks {
                say(&remark);
            }
            print(&text, code, UNKNOWN)
        }
        Ok(Err(error)) => {
            let code = if matches!(error, Error::NotRunning(_)) { NOT_RUNNING } else { UNKNOWN };
            complain(code, &error.to_string())
        }
        Err(code) => code,
    }
}

struct Report {
    text: Bytes,
    remarks: Vec<String>,
    code: u8,
}

async fn ask(arguments: &Arguments, socket: &Path) -> Result<Report, Error> {
    let client = Client::new(socket)?;
    let (agents, body, code) = if let Some(name) = &arguments.name {
        let Answer { value, body } = client.agent(name).await?;
        let code = if value.running { RUNNING } else { NOT_RUNNING };
        (vec![value], body, code)
    } else {
        let Answer { value, body } = client.agents().await?;
        (value, body, RUNNING)
    };
    let (agents, body, code) = judged(arguments, agents, body, code);
    if arguments.json {
        return Ok(Report { text: body, remarks: Vec::new(), code });
    }
    // Without the health, the table still holds.
    let mut remarks = client.health().await.map(|health| faults(&health.value)).unwrap_or_default();
    if agents.is_empty() {
        remarks.push(if arguments.failed { "no agent has failed" } else { "no agents are declared" }.to_owned());
        return Ok(Report { text: Bytes::new(), remarks, code });
    }
    let Terminal { width, color, .. } = Terminal::here();
    let now = SystemTime::now();
    let mut text = render(&agents, now, width, color);
    if let [AgentStatus { logs: Some(logs), .. }] = agents.as_slice() {
        let _ = writeln!(text, "\n{}", log_use(*logs));
    }
    if let [AgentStatus { history, .. }] = agents.as_slice()
        && !history.is_empty()
    {
        text.push('\n');
        text.push_str(&render_history(history, now, width));
    }
    Ok(Report { text: text.into(), remarks, code })
}

/// Applies `--failed` to the agents and the answer, and `--check` to the exit status.
fn judged(arguments: &Arguments, agents: Vec<AgentStatus>, body: Bytes, code: u8) -> (Vec<AgentStatus>, Bytes, u8) {
    let is_any_failed = agents.iter().any(AgentStatus::is_failed);
    let code = if arguments.check && is_any_failed { FAILED } else { code };
    if !arguments.failed {
        return (agents, body, code);
    }
    let failed: Vec<AgentStatus> = agents.into_iter().filter(AgentStatus::is_failed).collect();
    let body = match failed.as_slice() {
        [agent] if arguments.name.is_some() => json_line(agent),
        failed => json_line(failed),
    };
    (failed, body.into(), code)
}

/// The agents as a table. `width` is the width of the terminal. It is `None` if a program reads the output: then nothing is shortened,
/// and every agent has one line.
///
/// The reason for an agent's state ends its line if the whole reason fits. Otherwise it has a line of its own below, shortened to the
/// width.
pub fn render(agents: &[AgentStatus], now: SystemTime, width: Option<usize>, color: bool) -> String {
    let rows: Vec<[String; HEADINGS.len()]> = agents.iter().map(|agent| cells(agent, now)).collect();
    let remarks: Vec<String> = agents.iter().map(remark).collect();
    let mut table = Table::new(HEADINGS, &rows);
    let before = table.indent();
    let beside = |remark: &str| width.is_none_or(|width| before + remark.chars().count() <= width);

    if remarks.iter().any(|remark| !remark.is_empty() && beside(remark)) && beside("REASON") {
        table.push_text("REASON");
    }
    for ((agent, row), remark) in agents.iter().zip(&rows).zip(&remarks) {
        table.push_row(row, color.then(|| (STATE, paint(agent))));
        if beside(remark) {
            table.push_text(remark);
        } else {
            table.push_below(&shortened(remark, width.unwrap_or(usize::MAX).saturating_sub(GAP.len())));
        }
    }
    table.finish()
}

/// How an agent's latest attempts ended, the last one first, a line each. `width` is as in [`render`].
pub fn render_history(history: &[PastAttempt], now: SystemTime, width: Option<usize>) -> String {
    const HEADINGS: [&str; 4] = ["ATTEMPT", "ENDED", "RAN", "EXIT"];
    let row = |past: &PastAttempt| {
        let Time(end) = past.exit.at;
        let ended = words(now.duration_since(end).unwrap_or_default());
        let ran = past.started_at.map(|Time(start)| words(end.duration_since(start).unwrap_or_default()));
        let ran = ran.unwrap_or_else(|| "-".to_owned());
        [past.attempt_shown().to_string(), format!("{ended} ago"), ran, exit_cell(&past.exit.how)]
    };
    let rows: Vec<[String; HEADINGS.len()]> = history.iter().map(row).collect();
    let mut table = Table::new(HEADINGS, &rows);
    table.push_text("WHY");
    let before = table.indent();
    for (past, row) in history.iter().zip(&rows) {
        table.push_row(row, None);
        let mut why = past.reason.clone();
        if let ExitStatus::Cause(cause) = &past.exit.how {
            _ = write!(why, ": {cause}");
        }
        let room = width.unwrap_or(usize::MAX).saturating_sub(before).max("WHY".len());
        table.push_text(&shortened(&escaped(&why), room));
    }
    table.finish()
}

fn cells(agent: &AgentStatus, now: SystemTime) -> [String; HEADINGS.len()] {
    let or_dash = |cell: Option<String>| cell.filter(|cell| !cell.is_empty()).unwrap_or_else(|| "-".to_owned());
    let since = since(agent).map(|Time(since)| words(now.duration_since(since).unwrap_or_default()));
    let next_start = agent.next_start_at.map(|Time(next)| match next.duration_since(now) {
        // Rounded up to whole seconds: `in 0s` would mean the same as `now`.
        Ok(rest) if !rest.is_zero() => format!("in {}", words(rest + Duration::from_nanos(999_999_999))),
        _ => "now".to_owned(),
    });
    let last_exit = agent.exit.as_ref().map(|exit| exit_cell(&exit.how));
    [
        or_dash(Some(escaped(&agent.name))),
        or_dash(agent.harness.as_deref().map(escaped)),
        agent.state.to_string(),
        or_dash(since),
        agent.restarts.to_string(),
        or_dash(last_exit),
        or_dash(next_start),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::wire::status::{Exit, Outcome, State};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    pub(in crate::cli) fn ago(seconds: u64) -> Time {
        Time(now() - Duration::from_secs(seconds))
    }

    #[test]
    fn failed_agents_are_selected_and_end_a_check_with_5() {
        let arguments = |failed, check| Arguments { name: None, json: false, failed, check };
        let good = agent("good", State::Running);
        let bad = AgentStatus { outcome: Some(Outcome::GaveUp), ..agent("bad", State::Exited) };
        let both = || vec![good.clone(), bad.clone()];
        let judge = |arguments, agents| {
            let (agents, body, code) = judged(&arguments, agents, Bytes::from("all"), RUNNING);
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
            pid: None,
            attempt: None,
            declared_at: Some(ago(90_000)),
            started_at: None,
            exit: None,
            next_start_at: None,
            deadline: None,
            timeout_at: None,
            limits_error: None,
            log_error: None,
            environment_error: None,
            waiting_for: Vec::new(),
            stopping_because: None,
            stop_stage: None,
            launch_reason: None,
            attempt_total: None,
            last_output_at: None,
            generation: 0,
            overridden: None,
            changed: crate::wire::reason::Changes::default(),
            config_generation: None,
            resources: None,
            logs: None,
            history: Vec::new(),
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
    fn history_has_a_line_per_attempt_and_fits_the_terminal() {
        let past = |attempt, how, started: Option<u64>, reason: &str| PastAttempt {
            attempt,
            attempt_total: None,
            declared_at: ago(9_000),
            fingerprint: None,
            started_at: started.map(ago),
            exit: Exit { how, at: ago(60), oom_kills: None, silent: false },
            reason: reason.to_owned(),
            cpu_usec: None,
            memory_peak: None,
        };
        let history = [
            past(12, ExitStatus::Signal("SIGINT".parse().unwrap()), Some(3_660), "its declaration has changed"),
            past(3, ExitStatus::Cause("claude: not\nfound".to_owned()), None, "it could not be started"),
        ];
        let wide = "\
ATTEMPT  ENDED   RAN  EXIT     WHY
12       1m ago  1h   SIGINT   its declaration has changed
3        1m ago  -    unknown  it could not be started: claude: not\\nfound
";
        assert_eq!(render_history(&history, now(), None), wide);
        let narrow = render_history(&history, now(), Some(50));
        assert!(narrow.lines().all(|line| line.chars().count() <= 50), "{narrow}");
    }

    fn every_state() -> Vec<AgentStatus> {
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
        assert_eq!(render(&every_state(), now(), None, false), expected);
    }

    #[test]
    fn long_reasons_have_their_own_lines_on_80_columns() {
        let expected = "\
NAME         HARNESS      STATE     SINCE  RESTARTS  LAST EXIT  NEXT START
a            claude-code  running   2h 3m  0         -          -
claude-code  claude-code  backoff   1s     12        3          in 3s
  exited with status 3
c            claude-code  exited    1m 1s  3         SIGKILL    -
  gave-up; 3 restarts were made
d            claude-code  waiting   1d 1h  0         -          -
  workdir /home/agent/workspace/of/a/project/with/a/long/name does not exist yet
e            -            invalid   -      0         -          -
  3:1: harness is required; one of claude-code, opencode
f            claude-code  starting  -      0         -          -
g            claude-code  stopping  -      0         -          -
  removed
";
        assert_eq!(render(&every_state(), now(), Some(80), false), expected);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in 76..200 {
            for line in render(&every_state(), now(), Some(width), false).lines() {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
        let narrow = render(&every_state(), now(), Some(76), false);
        assert!(narrow.contains("  workdir /home/agent/workspace/of/a/project"), "{narrow}");
        assert!(narrow.lines().any(|line| line.chars().count() == 76 && line.ends_with('…')), "{narrow}");
    }

    #[test]
    fn wide_terminal_shows_the_table_for_programs() {
        assert_eq!(render(&every_state(), now(), Some(200), false), render(&every_state(), now(), None, false));
    }

    #[test]
    fn color_changes_no_word_and_no_column() {
        let colored = render(&every_state(), now(), Some(80), true);
        assert!(colored.contains("\x1b[33mbackoff\x1b[0m   1s"), "{colored}");
        let plain =
            ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"].iter().fold(colored, |text, code| text.replace(code, ""));
        assert_eq!(plain, render(&every_state(), now(), Some(80), false));
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
        let table = render(&[agent], now(), None, false);
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
