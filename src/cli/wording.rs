//! The words that several commands share: states, times, exits, faults and counts.

use std::time::Duration;

use crate::sys::regular_file;
use crate::text::printable::escaped;
use crate::wire::exit_status::ExitStatus;
use crate::wire::status::{AgentStatus, Health, LogUse, Outcome, State, Time};

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
    let stopped = super::operate::stopped(agent, std::time::SystemTime::now());
    let reason = stopped.as_deref().or(agent.reason.as_deref());
    let state = [agent.outcome.map(outcome), reason, cause];
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

/// The color of a state: green is good, yellow is in between, red needs a person. The words say the same.
pub(super) fn paint(agent: &AgentStatus) -> &'static str {
    const GREEN: &str = "\x1b[32m";
    const YELLOW: &str = "\x1b[33m";
    const RED: &str = "\x1b[31m";
    match (agent.state, agent.outcome) {
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
        regular_file::Error::Io(error) => format!("cannot be read: {error}"),
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
}
