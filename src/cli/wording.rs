//! The words that several commands share: states, times, exits, faults and counts.

use std::time::{Duration, SystemTime};

use super::operate::stopped;
use crate::sys::regular_file;
use crate::text::printable::escaped;
use crate::wire::activity::{Activity, Doing};
use crate::wire::approval::Approval;
use crate::wire::exit_status::ExitStatus;
use crate::wire::reason::WaitingFor;
use crate::wire::result::Tokens;
use crate::wire::status::{AgentStatus, Health, LogUse, Outcome, Override, State, Time};

/// What is wrong with the daemon as a whole, a line each.
pub(super) fn faults(health: &Health) -> Vec<String> {
    let faults = [
        ("configuration", &health.config_error),
        ("secrets", &health.secrets_error),
        ("state directory", &health.state_error),
        ("control groups", &health.groups_error),
        ("overrides", &health.override_error),
    ];
    let named =
        |(what, fault): (&str, &Option<String>)| fault.as_ref().map(|fault| format!("{what}: {}", escaped(fault)));
    faults.into_iter().filter_map(named).collect()
}

/// The disk space of an agent's logs, in a line.
pub(super) fn log_use(LogUse { bytes, attempts }: LogUse) -> String {
    format!("Logs {} in {}", in_bytes(bytes), counted(usize::try_from(attempts).unwrap_or(usize::MAX), "attempt"))
}

/// How an agent is confined, as a sentence; `None` if it runs as the agent user without more ado.
pub(super) fn confinement(agent: &AgentStatus) -> Option<String> {
    match (agent.kind.as_deref()?, &agent.sandbox) {
        ("native", _) => None,
        (_, Some(engine)) => Some(format!("Runs in a sandbox, made by {engine}")),
        ("native (unsandboxed)", None) => {
            Some("Runs without a sandbox, although its entry asks for one: agentd runs with --unsandboxed".to_owned())
        }
        (other, None) => Some(format!("Runs {other}")),
    }
}

/// The labels of an agent in a line; `None` if there are none.
pub(super) fn labels_of(agent: &AgentStatus) -> Option<String> {
    let one = |(key, value): (&String, &String)| if value.is_empty() { key.clone() } else { format!("{key}={value}") };
    let labels: Vec<String> = agent.labels.iter().map(one).collect();
    (!labels.is_empty()).then(|| format!("Has the labels {}", labels.join(", ")))
}

/// Bytes, to a tenth of the largest unit that fits.
pub(super) fn in_bytes(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            if tenths % 10 == 0 {
                format!("{} {unit}", tenths / 10)
            } else {
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            }
        }
        None => format!("{bytes} bytes"),
    }
}

/// What a person should know of the daemon as a whole, a line each: its faults, and a pause.
pub(super) fn notices(health: &Health, now: SystemTime) -> Vec<String> {
    let paused = health.paused.as_ref().map(|Override { by, at, .. }| {
        let by = by.as_ref().map_or_else(String::new, |by| format!(" by {}", escaped(by)));
        let ago = at.and_then(|Time(at)| now.duration_since(at).ok());
        let ago = ago.map_or_else(String::new, |ago| format!(" {} ago", words(ago)));
        format!("all agents were paused{by}{ago}, and none starts: agentd unpause --all")
    });
    paused.into_iter().chain(faults(health)).collect()
}

/// When the agent entered its state: what the API says, or, with an older daemon that does not say, what follows from the rest.
pub(super) fn since(agent: &AgentStatus) -> Option<Time> {
    agent.since.or_else(|| match agent.state {
        State::Running => agent.started_at,
        State::Exited | State::Backoff => agent.exit.as_ref().map(|exit| exit.at),
        State::Waiting | State::Invalid => agent.declared_at,
        State::Starting | State::Stopping => None,
    })
}

/// Everything that a person should know about the state: how it ended, why, and what to fix. No part repeats what another says.
pub(super) fn remark(agent: &AgentStatus) -> String {
    let cause = agent.exit.as_ref().and_then(|exit| match &exit.how {
        ExitStatus::Cause(cause) => Some(cause.as_str()),
        ExitStatus::Code(_) | ExitStatus::Signal(_) => None,
    });
    let (error, limits_error) = (agent.error.as_deref(), agent.limits_error.as_deref());
    let (log_error, environment_error) = (agent.log_error.as_deref(), agent.environment_error.as_deref());
    let stopped = stopped(agent, SystemTime::now());
    let reason = stopped.as_deref().or(agent.reason.as_deref());
    let plea = plea(agent);
    let state = [agent.outcome.map(outcome), plea.as_deref(), reason, cause];
    let parts = [&state[..], &[error, limits_error, log_error, environment_error]].concat();
    let parts: Vec<&str> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    let is_news = |at: usize, part: &str| {
        !parts.iter().enumerate().any(|(other, text)| text.contains(part) && (text.len() > part.len() || other < at))
    };
    let news: Vec<&str> =
        parts.iter().enumerate().filter(|(at, part)| is_news(*at, part)).map(|(_, part)| *part).collect();
    escaped(&news.join("; "))
}

/// The word of the API for an outcome.
pub(super) fn outcome(outcome: Outcome) -> &'static str {
    outcome.word()
}

/// The state in a word or two, with the outcome in the place of `exited`.
pub(super) fn state_word(agent: &AgentStatus) -> &'static str {
    match (agent.state, agent.outcome) {
        (State::Exited, Some(Outcome::Completed)) => "completed",
        (State::Exited, Some(Outcome::TimedOut)) => "timed out",
        (State::Exited, Some(Outcome::GaveUp)) => "gave up",
        (State::Exited, Some(Outcome::Failed)) if never_started(agent) => "cannot start",
        (State::Exited, Some(Outcome::Failed)) => "failed",
        (State::Exited, None) => "exited",
        (State::Waiting, _) if is_switched_off(agent) => "stopped",
        (State::Waiting, _) => "waiting",
        (State::Starting, _) => "starting",
        (State::Running, _) => "running",
        (State::Stopping, _) => "stopping",
        (State::Backoff, _) => "backoff",
        (State::Invalid, _) => "invalid",
    }
}

/// What the agent does, for how long, if that is known.
pub(super) fn activity(agent: &AgentStatus, now: SystemTime) -> Option<String> {
    let Activity { status, since: Time(since), .. } = agent.activity.as_ref()?;
    Some(format!("{status} {}", words(now.duration_since(*since).unwrap_or_default())))
}

/// What an agent wants to do, on one line. A long run of blanks is counted, because what follows it would be out of sight.
pub(super) fn wish(approval: &Approval) -> String {
    const MOST_BLANKS: usize = 8;
    let (Approval { tool, command, cut, .. }, mut shown) = (approval, String::new());
    let mut rest = command.as_str();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_whitespace() && c != '\n').unwrap_or(rest.len());
        shown.push_str(&rest[..end]);
        let after = rest[end..].trim_start_matches(|c: char| c.is_whitespace() && c != '\n');
        let blanks = &rest[end..rest.len() - after.len()];
        match blanks.chars().count() {
            count if count > MOST_BLANKS => shown.extend([" [", &count.to_string(), " blanks] "]),
            _ => shown.push_str(blanks),
        }
        rest = after;
    }
    format!("{tool}: {shown}{}", if *cut { "…" } else { "" })
}

/// What a person must do for an agent that goes on only then: answer it, or log it in.
fn plea(agent: &AgentStatus) -> Option<String> {
    let activity = agent.activity.as_ref().filter(|it| matches!(it.status, Doing::Blocked | Doing::Login))?;
    Some(format!("{}: {}", activity.status, activity.detail.as_ref()?))
}

/// Whether it goes on only when a person does something.
fn needs_a_person(agent: &AgentStatus) -> bool {
    agent.activity.as_ref().is_some_and(|activity| matches!(activity.status, Doing::Blocked | Doing::Login))
}

/// The words of [`state_word`], in the order in which agents are counted.
pub(super) const STATE_WORDS: [&str; 13] = [
    "running",
    "starting",
    "stopping",
    "backoff",
    "waiting",
    "cannot start",
    "failed",
    "gave up",
    "timed out",
    "exited",
    "completed",
    "stopped",
    "invalid",
];

/// Whether the agent may not run: an operator has stopped it, or its entry says so.
pub(super) fn is_switched_off(agent: &AgentStatus) -> bool {
    agent.waiting_for.iter().any(|cause| matches!(cause, WaitingFor::Enabled { .. }))
}

/// Whether the latest attempt ended before its harness was started.
pub(super) fn never_started(agent: &AgentStatus) -> bool {
    agent.started_at.is_none()
        && agent.exit.as_ref().is_some_and(|exit| matches!(exit.how, ExitStatus::Cause(_)))
        && matches!(agent.state, State::Exited | State::Backoff)
}

/// How urgently a person should look at the agent: 0 comes first.
pub(super) fn urgency(agent: &AgentStatus) -> u8 {
    match (agent.state, agent.outcome) {
        (State::Invalid, _) => 0,
        (State::Exited, Some(Outcome::Failed | Outcome::GaveUp | Outcome::TimedOut) | None) => 1,
        _ if agent.error.is_some() || needs_a_person(agent) => 2,
        (State::Backoff, _) => 3,
        (State::Waiting, _) if is_switched_off(agent) => 7,
        (State::Waiting, _) => 4,
        (State::Starting | State::Stopping, _) => 5,
        (State::Running, _) => 6,
        (State::Exited, Some(Outcome::Completed)) => 8,
    }
}

/// What daemons say of an attempt that nobody ended.
pub(super) const BY_ITSELF: &str = "it ended by itself";

/// Everything that a person should know about the state beside what the columns of the table say, a paragraph each. If `is_all` is
/// set, the columns count for nothing.
pub(super) fn remarks(agent: &AgentStatus, is_all: bool, now: SystemTime) -> Vec<String> {
    let exit = agent.exit.as_ref();
    let cause = exit.and_then(|exit| match &exit.how {
        ExitStatus::Cause(cause) => Some(cause.as_str()),
        ExitStatus::Code(_) | ExitStatus::Signal(_) => None,
    });
    let cause = cause.filter(|_| !matches!(agent.state, State::Running | State::Starting | State::Stopping));
    // That it is declared is no news of an agent that runs.
    let is_as_declared = agent.state == State::Running && agent.restarts == 0;
    let is_news = |_: &&str| !is_as_declared && (is_all || !is_in_the_columns(agent));
    let stopped = stopped(agent, now);
    let told = stopped.as_deref().or(agent.reason.as_deref()).filter(is_news);
    // The reason of an agent that was silent mentions it, so the line would repeat it.
    let is_silent = agent.state == State::Exited && told.is_none() && exit.is_some_and(|exit| exit.silent);
    let silent = is_silent.then_some("it ended in under 2s and printed nothing: it probably did nothing");
    let errors = [&agent.error, &agent.limits_error, &agent.log_error, &agent.environment_error];
    let errors = errors.map(|error| error.as_deref());
    let plea = plea(agent);
    let talk = agent.conversation.as_ref().and_then(|conversation| conversation.note.as_deref());
    let result = agent.result.as_ref().and_then(|result| result.note.as_deref());
    let notes =
        [talk.map(|note| format!("its conversation: {note}")), result.map(|note| format!("its result: {note}"))];
    let notes = notes.each_ref().map(Option::as_deref);
    let paragraphs = [&[plea.as_deref(), told, cause, silent][..], &errors, &notes].concat().into_iter().flatten();
    let paragraphs = paragraphs.flat_map(str::lines);
    let mut news: Vec<&str> = Vec::new();
    for paragraph in paragraphs.map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        if !news.iter().any(|said| said.contains(paragraph)) {
            news.retain(|said| !paragraph.contains(*said));
            news.push(paragraph);
        }
    }
    news.into_iter().map(escaped).collect()
}

/// An amount of US dollars: to the cent, or finer if it is less than a dollar.
pub(super) fn dollars(amount: f64) -> String {
    if amount > 0.0 && amount < 0.000_05 {
        return "under $0.0001".to_owned();
    }
    if amount >= 1.0 { format!("${amount:.2}") } else { format!("${amount:.4}") }
}

/// A number in at most four characters, such as `950`, `1.2k`, `34k`, and `5.6M`: rounded down.
pub(super) fn in_short(number: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    let Some((unit, letter)) = UNITS.into_iter().find(|(unit, _)| number >= *unit) else { return number.to_string() };
    match number / unit {
        whole @ 0..10 => format!("{whole}.{}{letter}", number % unit * 10 / unit),
        whole => format!("{whole}{letter}"),
    }
}

/// All of these tokens together.
pub(super) fn all_of(tokens: &Tokens) -> u64 {
    let Tokens { input, output, cache_read, cache_write } = *tokens;
    [output, cache_read, cache_write].into_iter().fold(input, u64::saturating_add)
}

/// Whether the columns of the table say the same as the reason.
fn is_in_the_columns(agent: &AgentStatus) -> bool {
    let is_plain = agent
        .exit
        .as_ref()
        .is_some_and(|exit| !matches!(exit.how, ExitStatus::Cause(_)) && exit.oom_kills.is_none_or(|kills| kills == 0));
    let is_delay = |cause: &WaitingFor| matches!(cause, WaitingFor::Backoff { .. });
    match agent.state {
        State::Running | State::Starting => true,
        State::Backoff => is_plain && !agent.waiting_for.is_empty() && agent.waiting_for.iter().all(is_delay),
        State::Exited => is_plain && agent.outcome.is_some(),
        State::Invalid => agent.error.is_some(),
        State::Waiting | State::Stopping => false,
    }
}

/// The color of a state: green is good, yellow is in between, red needs a person. The words say the same.
pub(super) fn paint(agent: &AgentStatus) -> &'static str {
    const GREEN: &str = "\x1b[32m";
    const YELLOW: &str = "\x1b[33m";
    const RED: &str = "\x1b[31m";
    match (agent.state, agent.outcome) {
        (State::Waiting, _) if is_switched_off(agent) => "",
        (State::Running, _) if needs_a_person(agent) => YELLOW,
        (State::Running, _) | (State::Exited, Some(Outcome::Completed)) => GREEN,
        (State::Waiting | State::Starting | State::Stopping | State::Backoff, _) => YELLOW,
        (State::Exited | State::Invalid, _) => RED,
    }
}

/// A span of time in its two largest units, rounded down, such as `45s`, `2h 3m`, or `12d`.
pub(super) fn words(span: Duration) -> String {
    let seconds = span.as_secs();
    let (large, small, large_unit, small_unit) = match seconds {
        0..60 => return format!("{seconds}s"),
        60..3_600 => (seconds / 60, seconds % 60, 'm', 's'),
        3_600..86_400 => (seconds / 3_600, seconds % 3_600 / 60, 'h', 'm'),
        _ => (seconds / 86_400, seconds % 86_400 / 3_600, 'd', 'h'),
    };
    if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit} {small}{small_unit}") }
}

/// How long until then, such as `in 3s`: rounded up to whole seconds, since `in 0s` would mean the same as `now`.
pub(super) fn until(Time(at): Time, now: SystemTime) -> String {
    match at.duration_since(now) {
        Ok(rest) if !rest.is_zero() => format!("in {}", words(rest + Duration::from_nanos(999_999_999))),
        _ => "now".to_owned(),
    }
}

/// How an attempt ended, in a cell of a table.
pub(super) fn exit_cell(how: &ExitStatus) -> String {
    match how {
        ExitStatus::Code(code) => code.to_string(),
        ExitStatus::Signal(signal) => signal.to_string(),
        ExitStatus::Cause(_) => "unknown".to_owned(),
    }
}

/// What is wrong with a jcard as a whole. Follows the name of the file.
pub(super) fn fault(error: &regular_file::Error) -> String {
    match error {
        regular_file::Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            "does not exist; agentd init writes one to begin with".to_owned()
        }
        regular_file::Error::Io(error) => {
            format!("cannot be read: {error}")
        }
        regular_file::Error::Link => format!("cannot be read: {error}; name the file that it points to"),
        regular_file::Error::NotRegular => "is not a regular file; name a jcard that is one".to_owned(),
        regular_file::Error::TooLarge(limit) => {
            format!("is larger than {} MiB; a jcard is a few kilobytes", limit >> 20)
        }
    }
}

/// A number with its noun, in the singular or the plural.
pub(super) fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::cli::status::tests::{agent, ago};
    use crate::wire::status::Exit;

    #[test]
    fn time_span_has_two_units() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_599, "59m 59s"),
            (3_600, "1h"),
            (7_380, "2h 3m"),
            (86_399, "23h 59m"),
            (86_400, "1d"),
            (90_000, "1d 1h"),
            (100_000_000, "1157d 9h"),
        ] {
            assert_eq!(words(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn time_of_a_state_comes_from_the_api() {
        let exit = |seconds| Some(Exit { how: ExitStatus::Code(0), at: ago(seconds), oom_kills: None, silent: false });
        for state in State::ALL {
            let mut agent =
                AgentStatus { since: Some(ago(5)), started_at: Some(ago(6)), exit: exit(7), ..agent("a", state) };
            assert_eq!(since(&agent), Some(ago(5)), "{state}");
            agent.since = None;
            let derived = match state {
                State::Running => Some(ago(6)),
                State::Exited | State::Backoff => Some(ago(7)),
                State::Waiting | State::Invalid => agent.declared_at,
                State::Starting | State::Stopping => None,
            };
            assert_eq!(since(&agent), derived, "{state}, from a daemon that does not say");
        }
    }

    #[test]
    fn a_pause_is_a_notice_before_the_faults() {
        let mut health: Health =
            serde_json::from_value(serde_json::json!({ "state": "running", "uptime_seconds": 1 })).unwrap();
        let now = ago(0).0;
        assert_eq!(notices(&health, now), Vec::<String>::new());
        health.override_error = Some("no".to_owned());
        health.paused = Some(Override { by: Some("o\x1bp".to_owned()), at: Some(ago(300)), ..Override::default() });
        let paused = "all agents were paused by o\\u{1b}p 5m ago, and none starts: agentd unpause --all";
        assert_eq!(notices(&health, now), [paused, "overrides: no"]);
        health.paused = Some(Override::default());
        assert_eq!(notices(&health, now)[0], "all agents were paused, and none starts: agentd unpause --all");
    }

    #[test]
    fn every_state_has_a_word_that_is_counted() {
        for state in State::ALL {
            for outcome in
                [None, Some(Outcome::Completed), Some(Outcome::Failed), Some(Outcome::TimedOut), Some(Outcome::GaveUp)]
            {
                let agent = AgentStatus { outcome, ..agent("a", state) };
                assert!(STATE_WORDS.contains(&state_word(&agent)), "{state} {outcome:?}");
            }
        }
    }
}
