//! The table of agents as people see it on a terminal.
//!
//! | width | layout |
//! |---|---|
//! | below 60 columns | name, state and age; all else below, indented |
//! | 60 to 119 | also restarts, exit, idle, next start and cost; the reason below, wrapped |
//! | 120 and over | also harness, tokens, process and attempt; the reason beside, wrapped there |
//!
//! Columns that say nothing are left out. Nothing is cut: only names are shortened, in the middle.

use std::time::{Duration, SystemTime};

use super::Sort;
use crate::cli::table::{
    Column, GAP, NOTHING, headings, push_hanging, row, shortened_in_the_middle, width_of, without_empty, wrapped,
};
use crate::cli::wording::{
    STATE_WORDS, activity, all_of, counted, dollars, exit_cell, in_short, never_started, paint, remarks, since,
    state_word, until, urgency, words,
};
use crate::text::printable::escaped;
use crate::wire::reason::WaitingFor;
use crate::wire::status::{AgentStatus, Outcome, State, Time};

/// From this width on, a row has columns for restarts and exits.
const USUAL: usize = 60;

/// From this width on, a row has all columns, and the reason beside them.
const WIDE: usize = 120;

/// The least room for a reason beside the columns.
const LEAST_BESIDE: usize = 30;

/// The fewest characters that are left of a name.
const LEAST_NAME: usize = 8;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// How the table is drawn.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// When.
    pub now: SystemTime,
    /// The width of the terminal in columns.
    pub width: usize,
    /// Whether to use colors.
    pub color: bool,
    /// The order of the agents.
    pub sort: Sort,
}

/// The agents as a table with a count below it.
pub fn render(agents: &[AgentStatus], view: &View) -> String {
    let mut agents: Vec<&AgentStatus> = agents.iter().collect();
    view.sort.apply(&mut agents, view.now);
    let columns = columns(&agents, view);
    let styled = |style: &str, text: &str| {
        if view.color { format!("{style}{text}{PLAIN}") } else { text.to_owned() }
    };
    let (indent, is_wide) = (width_of(&columns), view.width >= WIDE);
    let room = view.width.saturating_sub(indent);
    let is_beside = is_wide && room >= LEAST_BESIDE;
    let mut text = String::new();
    let reason = if is_beside { "REASON" } else { "" };
    text.push_str(&styled(BOLD, (headings(&columns) + reason).trim_end()));
    text.push('\n');
    for (number, agent) in agents.iter().enumerate() {
        let paint = Some(("STATE", paint(agent))).filter(|(_, paint)| view.color && !paint.is_empty());
        let row = row(&columns, number, paint);
        let paragraphs = paragraphs(agent, view);
        if is_beside {
            let lines: Vec<String> = paragraphs.iter().flat_map(|it| wrapped(it, room)).collect();
            match lines.as_slice() {
                [] => push_hanging(&mut text, row.trim_end(), indent, [""]),
                lines => push_hanging(&mut text, &row, indent, lines),
            }
        } else {
            push_hanging(&mut text, row.trim_end(), 0, [""]);
            let lines = paragraphs.iter().flat_map(|it| wrapped(it, view.width.saturating_sub(GAP.len())));
            for line in lines {
                push_hanging(&mut text, GAP, 0, [line]);
            }
        }
    }
    for line in wrapped(&count(&agents), view.width) {
        text.push_str(&styled(DIM, &line));
        text.push('\n');
    }
    text
}

fn columns(agents: &[&AgentStatus], view: &View) -> Vec<Column> {
    let cells = |cell: &dyn Fn(&AgentStatus) -> Option<String>| -> Vec<String> {
        let or_nothing = |cell: Option<String>| cell.filter(|cell| !cell.is_empty());
        agents.iter().map(|agent| or_nothing(cell(agent)).unwrap_or_else(|| NOTHING.to_owned())).collect()
    };
    let now = view.now;
    let (is_usual, is_wide) = (view.width >= USUAL, view.width >= WIDE);
    let mut columns = vec![Column::needed("NAME", cells(&|agent| Some(escaped(&agent.name))))];
    if is_wide {
        columns.push(Column::new("HARNESS", cells(&|agent| agent.harness.as_deref().map(escaped))));
    }
    columns.push(Column::needed("STATE", cells(&|agent| Some(state(agent, now)))));
    columns.push(Column::new("FOR", cells(&|agent| since(agent).map(|since| age(since, now)))));
    if is_usual {
        columns.push(Column::new("RESTARTS", cells(&restarts)));
        columns.push(Column::new("EXIT", cells(&exit)));
        columns.push(Column::new("IDLE", cells(&|agent| idle(agent, now))));
        columns.push(Column::new("NEXT", cells(&|agent| agent.next_start_at.map(|next| until(next, now)))));
        columns.push(Column::new("COST", cells(&|agent| agent.cost_usd.map(dollars))));
    }
    if is_wide {
        columns.push(Column::new("TOKENS", cells(&|agent| agent.tokens.as_ref().map(all_of).map(in_short))));
        columns.push(Column::new("PID", cells(&|agent| agent.pid.map(|pid| pid.to_string()))));
        let attempt = |agent: &AgentStatus| agent.attempt_total.or(agent.attempt).map(|attempt| attempt.to_string());
        columns.push(Column::new("ATTEMPT", cells(&attempt)));
    }
    let mut columns = without_empty(columns);
    let surplus = width_of(&columns).saturating_sub(GAP.len()).saturating_sub(view.width);
    if let Some(names) = columns.first_mut().filter(|_| surplus > 0) {
        let room = names.width().saturating_sub(surplus).max(LEAST_NAME);
        for name in &mut names.cells {
            *name = shortened_in_the_middle(name, room);
        }
    }
    columns
}

/// The state, and what the agent does in it.
fn state(agent: &AgentStatus, now: SystemTime) -> String {
    let activity = activity(agent, now).map(|activity| format!(" ({activity})")).unwrap_or_default();
    format!("{}{activity}", state_word(agent))
}

/// What stands below a row, or beside it.
fn paragraphs(agent: &AgentStatus, view: &View) -> Vec<String> {
    let mut paragraphs = remarks(agent, view.width >= WIDE, view.now);
    if view.width < USUAL {
        let parts = [
            restarts(agent).filter(|restarts| restarts != "0").map(|restarts| format!("restarts {restarts}")),
            exit(agent).map(|exit| format!("exit {exit}")),
            idle(agent, view.now).map(|idle| format!("idle {idle}")),
            agent.next_start_at.map(|next| format!("next {}", until(next, view.now))),
            agent.cost_usd.map(|cost| format!("cost {}", dollars(cost))),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if !parts.is_empty() {
            paragraphs.insert(0, parts.join(", "));
        }
    }
    paragraphs
}

fn age(Time(since): Time, now: SystemTime) -> String {
    words(now.duration_since(since).unwrap_or_default())
}

/// The restarts so far, and how many there may be if that is known. Nothing where none can have been.
fn restarts(agent: &AgentStatus) -> Option<String> {
    let limit = agent.waiting_for.iter().find_map(|cause| match cause {
        WaitingFor::Backoff { max_restarts, .. } => *max_restarts,
        _ => None,
    });
    let limit = limit.or_else(|| (agent.outcome == Some(Outcome::GaveUp)).then_some(agent.restarts));
    match (agent.state, limit) {
        (State::Invalid, _) => None,
        (_, Some(limit)) => Some(format!("{}/{limit}", agent.restarts)),
        (_, None) => Some(agent.restarts.to_string()),
    }
}

/// How the latest attempt ended, unless it never began.
fn exit(agent: &AgentStatus) -> Option<String> {
    agent.exit.as_ref().filter(|_| !never_started(agent)).map(|exit| exit_cell(&exit.how))
}

/// For how long a running agent has printed nothing.
fn idle(agent: &AgentStatus, now: SystemTime) -> Option<String> {
    let is_there = matches!(agent.state, State::Running | State::Stopping);
    agent.last_output_at.filter(|_| is_there).map(|last| age(last, now))
}

/// How many agents there are of each state.
pub(super) fn count(agents: &[&AgentStatus]) -> String {
    let of_word = |word: &&str| {
        let count = agents.iter().filter(|agent| state_word(agent) == *word).count();
        (count > 0).then(|| format!("{count} {word}"))
    };
    let parts: Vec<String> = STATE_WORDS.iter().filter_map(of_word).collect();
    format!("{}: {}", counted(agents.len(), "agent"), parts.join(", "))
}

impl Sort {
    pub(super) fn apply(self, agents: &mut [&AgentStatus], now: SystemTime) {
        let age = |agent: &AgentStatus| {
            since(agent).map_or(Duration::MAX, |Time(since)| now.duration_since(since).unwrap_or_default())
        };
        let idle = |agent: &AgentStatus| {
            let is_there = agent.state == State::Running;
            let last = agent.last_output_at.filter(|_| is_there);
            // The longest first, and then those that are not known to idle.
            std::cmp::Reverse(last.map(|Time(last)| now.duration_since(last).unwrap_or_default()))
        };
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        match self {
            Self::Name => {}
            Self::Attention => agents.sort_by_key(|agent| urgency(agent)),
            Self::Age => agents.sort_by_key(|agent| age(agent)),
            Self::Idle => agents.sort_by_key(|agent| idle(agent)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::{agent, ago, now};
    use crate::wire::conversation::Conversation;
    use crate::wire::exit_status::ExitStatus;
    use crate::wire::reason::WaitingFor;
    use crate::wire::result::{StreamResult, Tokens};
    use crate::wire::status::Exit;

    #[allow(clippy::unnecessary_wraps, reason = "a field of a status takes it as it is")]
    fn exit(how: ExitStatus) -> Option<Exit> {
        Some(Exit { how, at: ago(9), oom_kills: None, silent: false })
    }

    /// The agents of the screens in the documentation, and some more.
    fn agents() -> Vec<AgentStatus> {
        let backoff = |restart, max_restarts| vec![WaitingFor::Backoff { restart, max_restarts }];
        let at = |seconds| Some(Time(now() + Duration::from_secs(seconds)));
        let error = "jcard.toml:48:11: `timeout`: \"foo\" is not a unit of time (units are ns, us, ms, s, m, h, d, w and \
                     their long forms); write for example 30s";
        vec![
            AgentStatus { error: Some(error.into()), declared_at: None, ..agent("bad", State::Invalid) },
            AgentStatus {
                restarts: 12,
                since: Some(ago(2)),
                exit: exit(ExitStatus::Cause("claude: not found in PATH of user agent".into())),
                next_start_at: at(28),
                reason: Some("claude: not found in PATH of user agent; restart 13 follows".into()),
                waiting_for: backoff(13, None),
                ..agent("claude", State::Backoff)
            },
            AgentStatus {
                restarts: 3,
                since: Some(ago(9)),
                exit: exit(ExitStatus::Code(7)),
                next_start_at: at(51),
                started_at: Some(ago(30)),
                reason: Some("exited with status 7; restart 4 of 5 follows".into()),
                waiting_for: backoff(4, Some(5)),
                ..agent("crash", State::Backoff)
            },
            AgentStatus {
                restarts: 3,
                since: Some(ago(180)),
                exit: exit(ExitStatus::Code(3)),
                started_at: Some(ago(200)),
                outcome: Some(Outcome::GaveUp),
                reason: Some("exited with status 3; 3 restarts were allowed and made".into()),
                ..agent("nightly", State::Exited)
            },
            AgentStatus {
                since: Some(ago(4_320)),
                last_output_at: Some(ago(840)),
                attempt: Some(1),
                attempt_total: Some(4),
                pid: Some(4711),
                reason: Some("declared".into()),
                ..agent("reviewer", State::Running)
            },
            AgentStatus {
                since: Some(ago(120)),
                exit: exit(ExitStatus::Code(0)),
                started_at: Some(ago(200)),
                outcome: Some(Outcome::Completed),
                reason: Some("exited with status 0".into()),
                ..agent("writer", State::Exited)
            },
        ]
    }

    fn shown(agents: &[AgentStatus], width: usize, sort: Sort) -> String {
        render(agents, &View { now: now(), width, color: false, sort })
    }

    #[test]
    fn the_table_on_80_columns_wraps_reasons_below() {
        let expected = "\
NAME      STATE      FOR     RESTARTS  EXIT  IDLE  NEXT
bad       invalid    -       -         -     -     -
  jcard.toml:48:11: `timeout`: \"foo\" is not a unit of time (units are ns, us,
  ms, s, m, h, d, w and their long forms); write for example 30s
claude    backoff    2s      12        -     -     in 28s
  claude: not found in PATH of user agent; restart 13 follows
crash     backoff    9s      3/5       7     -     in 51s
nightly   gave up    3m      3/3       3     -     -
reviewer  running    1h 12m  0         -     14m   -
writer    completed  2m      0         0     -     -
6 agents: 1 running, 2 backoff, 1 gave up, 1 completed, 1 invalid
";
        assert_eq!(shown(&agents(), 80, Sort::Name), expected);
    }

    #[test]
    fn the_table_on_50_columns_has_details_below() {
        let expected = "\
NAME      STATE      FOR
bad       invalid    -
  jcard.toml:48:11: `timeout`: \"foo\" is not a unit
  of time (units are ns, us, ms, s, m, h, d, w and
  their long forms); write for example 30s
nightly   gave up    3m
  restarts 3/3, exit 3
claude    backoff    2s
  restarts 12, next in 28s
  claude: not found in PATH of user agent; restart
  13 follows
crash     backoff    9s
  restarts 3/5, exit 7, next in 51s
reviewer  running    1h 12m
  idle 14m
writer    completed  2m
  exit 0
6 agents: 1 running, 2 backoff, 1 gave up, 1
completed, 1 invalid
";
        assert_eq!(shown(&agents(), 50, Sort::Attention), expected);
    }

    #[test]
    fn the_table_on_120_columns_has_all_columns_and_the_reason_beside() {
        let expected = "\
NAME      HARNESS      STATE      FOR     RESTARTS  EXIT  IDLE  NEXT    PID   ATTEMPT  REASON
bad       claude-code  invalid    -       -         -     -     -       -     -        jcard.toml:48:11: `timeout`:
                                                                                       \"foo\" is not a unit of time
                                                                                       (units are ns, us, ms, s, m, h,
                                                                                       d, w and their long forms); write
                                                                                       for example 30s
claude    claude-code  backoff    2s      12        -     -     in 28s  -     -        claude: not found in PATH of user
                                                                                       agent; restart 13 follows
crash     claude-code  backoff    9s      3/5       7     -     in 51s  -     -        exited with status 7; restart 4
                                                                                       of 5 follows
nightly   claude-code  gave up    3m      3/3       3     -     -       -     -        exited with status 3; 3 restarts
                                                                                       were allowed and made
reviewer  claude-code  running    1h 12m  0         -     14m   -       4711  4
writer    claude-code  completed  2m      0         0     -     -       -     -        exited with status 0
6 agents: 1 running, 2 backoff, 1 gave up, 1 completed, 1 invalid
";
        assert_eq!(shown(&agents(), 120, Sort::Name), expected);
    }

    #[test]
    fn costs_tokens_and_notes_are_shown_where_a_harness_tells_them() {
        let tokens = Tokens { input: 1_200, output: 800, cache_read: 10_000, cache_write: 345 };
        let note = |note: &str| StreamResult { note: Some(note.to_owned()), ..StreamResult::default() };
        let talk = Conversation { id: None, resumed: false, note: Some("x is gone, so it began afresh".into()) };
        let talker = AgentStatus {
            cost_usd: Some(0.0421),
            tokens: Some(tokens),
            result: Some(Box::new(note("said nothing"))),
            conversation: Some(talk),
            ..agent("talker", State::Running)
        };
        let silent = agent("silent", State::Running);
        let wide = "\
NAME    HARNESS      STATE    RESTARTS  COST     TOKENS  REASON
silent  claude-code  running  0         -        -
talker  claude-code  running  0         $0.0421  12k     its conversation: x is gone, so it began afresh
                                                         its result: said nothing
2 agents: 2 running
";
        let agents = [silent, talker];
        assert_eq!(shown(&agents, 120, Sort::Name), wide);
        let usual = shown(&agents, 80, Sort::Name);
        assert!(usual.contains("talker  running  0         $0.0421\n  its conversation: x is gone"), "{usual}");
        let narrow = shown(&agents, 50, Sort::Name);
        assert!(narrow.contains("\n  cost $0.0421\n  its conversation: x is gone, so it began"), "{narrow}");
    }

    #[test]
    fn nothing_is_cut_at_any_width() {
        let mut agents = agents();
        let reason = "workdir /home/agent/workspace does not exist yet";
        agents.push(AgentStatus { reason: Some(reason.into()), ..agent(&"long-name-".repeat(6), State::Waiting) });
        for width in 40..200 {
            let text = shown(&agents, width, Sort::Attention);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
            let words: Vec<&str> = text.split_whitespace().collect();
            for word in reason.split(' ') {
                assert!(words.contains(&word), "{width}: {word}: {text}");
            }
        }
        let text = shown(&agents, 60, Sort::Name);
        assert!(text.contains("…") && text.contains("me-  waiting"), "the name is shortened in the middle: {text}");
    }

    #[test]
    fn agents_are_sorted_as_asked() {
        let first = |sort| shown(&agents(), 80, sort).lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let orders = [Sort::Name, Sort::Attention, Sort::Age, Sort::Idle].map(first);
        assert_eq!(orders, ["bad", "bad", "claude", "reviewer"]);
    }

    #[test]
    fn color_changes_no_word_and_no_column() {
        let view = View { now: now(), width: 80, color: true, sort: Sort::Name };
        let colored = render(&agents(), &view);
        assert!(colored.starts_with("\x1b[1mNAME") && colored.contains("\x1b[31mgave up\x1b[0m    3m"), "{colored}");
        let codes = ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[2m", "\x1b[0m"];
        let plain = codes.iter().fold(colored, |text, code| text.replace(code, ""));
        assert_eq!(plain, render(&agents(), &View { color: false, ..view }));
    }

    #[test]
    fn states_say_what_an_operator_or_a_lack_of_output_means() {
        let stopped = AgentStatus {
            waiting_for: vec![WaitingFor::Enabled { by: Some("op".into()), at: Some(ago(300)) }],
            reason: Some("stopped by op".into()),
            ..agent("a", State::Waiting)
        };
        let disabled = AgentStatus {
            waiting_for: vec![WaitingFor::Enabled { by: None, at: None }],
            reason: Some("its entry says `enabled = false`".into()),
            ..agent("d", State::Waiting)
        };
        let silent = AgentStatus {
            outcome: Some(Outcome::Completed),
            exit: exit(ExitStatus::Code(0)).map(|exit| Exit { silent: true, ..exit }),
            ..agent("b", State::Exited)
        };
        let absent = AgentStatus {
            outcome: Some(Outcome::Failed),
            exit: exit(ExitStatus::Cause("x: not found".into())),
            ..agent("c", State::Exited)
        };
        let expected = "\
NAME  STATE         FOR    RESTARTS  EXIT
a     stopped       1d 1h  0         -
  stopped by op 5m ago: agentd start a
b     completed     9s     0         0
  it ended in under 2s and printed nothing: it probably did nothing
c     cannot start  9s     0         -
  x: not found
d     stopped       1d 1h  0         -
  its entry says `enabled = false`
4 agents: 1 cannot start, 1 completed, 2 stopped
";
        assert_eq!(shown(&[stopped, silent, absent, disabled], 80, Sort::Name), expected);
    }

    #[test]
    fn silence_is_said_once_at_every_width() {
        let silent = AgentStatus {
            outcome: Some(Outcome::Completed),
            exit: exit(ExitStatus::Code(0)).map(|exit| Exit { silent: true, ..exit }),
            reason: Some("exited with status 0 in under 2 s and printed nothing".to_owned()),
            ..agent("b", State::Exited)
        };
        for width in [50, 80, 150] {
            let text = shown(std::slice::from_ref(&silent), width, Sort::Name);
            let words: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(words.join(" ").matches("printed nothing").count(), 1, "{text}");
        }
    }

    #[test]
    fn text_from_the_api_cannot_move_the_cursor() {
        let hostile = "a\x1b[2J\r\u{9b}31m\u{202e}é";
        let agent = AgentStatus {
            name: hostile.to_owned(),
            harness: Some(hostile.to_owned()),
            reason: Some(hostile.to_owned()),
            ..agent("", State::Waiting)
        };
        for width in [50, 80, 150] {
            let text = shown(std::slice::from_ref(&agent), width, Sort::Name);
            assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
        }
    }
}
