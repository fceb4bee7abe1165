//! `[agents.runs]`: the table that makes an entry a template, whose runs do what they are given to do.

use std::path::Component;
use std::time::Duration;

use super::fields::{Fields, KNOWN as OF_ENTRY, quoted};
use crate::agent::harness::Harness;
use crate::agent::run::{
    Interrupted, MOST_AT_ONCE, MOST_KEPT, MOST_WAITING, MOST_WARM, MOST_WORKDIRS, TaskBy, Template,
};
use crate::agent::schedule::times::{self, Times};
use crate::agent::schedule::{MISSED_WITHIN, MOST_PATTERNS, Missed, Pattern, Schedule, Zone};
use crate::agent::spec::Workdir;
use crate::text::duration;

/// The key of the table in an entry.
pub(super) const KEY: &str = "runs";

/// The keys that this version reads.
pub(super) const KNOWN: &[&str] = &[
    "at_once",
    "waiting",
    "keep",
    "interrupted",
    "task",
    "workdirs",
    "schedule",
    "time_zone",
    "missed",
    "missed_within",
    "spread",
    "warm",
    "warm_for",
];

const INTERRUPTED: [(&str, Interrupted); 2] = [("fail", Interrupted::Fail), ("again", Interrupted::Again)];

const TASKS: [(&str, TaskBy); 3] = [("stdin", TaskBy::Stdin), ("argument", TaskBy::Argument), ("file", TaskBy::File)];

/// The largest `spread`: what is further apart is written as different times.
const LONGEST_SPREAD: Duration = Duration::from_hours(24);

/// Reads the table, if there is one. `replicas` and `has_prompt` are those of the entry.
pub(super) fn read(
    entry: &mut Fields<'_>,
    harness: Option<&Harness>,
    replicas: Option<u64>,
    has_prompt: bool,
) -> Option<Template> {
    let mut table = entry.table(KEY, "write [agents.runs] below the entry, with a key a line")?;
    let fields = &mut table;
    let default = Template::default();
    let task = read_task(fields, harness);
    let template = Template {
        at_once: number(fields, "at_once", 1, MOST_AT_ONCE).unwrap_or(default.at_once),
        waiting: number(fields, "waiting", 0, MOST_WAITING).unwrap_or(default.waiting),
        keep: number(fields, "keep", 0, MOST_KEPT).unwrap_or(default.keep),
        interrupted: fields.word("interrupted", "invalid `interrupted`", &INTERRUPTED).unwrap_or(default.interrupted),
        task,
        workdirs: read_workdirs(fields),
        schedule: read_schedule(fields, has_prompt),
        warm: read_warm(fields, harness, task),
        warm_for: read_warm_for(fields).unwrap_or(default.warm_for),
    };
    fields.unknown_keys_but(KNOWN, OF_ENTRY, "write it above [agents.runs]");
    entry.absorb(table);
    look_at_entry(entry, replicas);
    Some(template)
}

/// What an entry with the table cannot have.
fn look_at_entry(entry: &mut Fields<'_>, replicas: Option<u64>) {
    if replicas.is_some_and(|replicas| replicas > 1) {
        let right = "remove it, and write `at_once` below [agents.runs]";
        entry.error(entry.place("replicas"), format!("`replicas` and [agents.runs] exclude each other; {right}"));
    }
    if entry.is_set("session") {
        let right = "remove it: each run has a session of its own";
        entry.error(entry.place("session"), format!("`session` and [agents.runs] exclude each other; {right}"));
    }
    if entry.peek_boolean("interactive") == Some(true) {
        let right = "remove it: a run ends when its task is done";
        entry.error(
            entry.place("interactive"),
            format!("`interactive = true` and [agents.runs] exclude each other; {right}"),
        );
    }
}

fn number(fields: &mut Fields<'_>, key: &str, least: u32, most: u64) -> Option<u32> {
    let right = format!("write a whole number from {least} to {most}");
    let number = fields.whole_number(key, &(u64::from(least)..=most), &right)?;
    u32::try_from(number).ok()
}

/// How the harness is given a task: on standard input if it is known to read that.
fn read_task(fields: &mut Fields<'_>, harness: Option<&Harness>) -> TaskBy {
    let said = fields.word("task", "invalid `task`", &TASKS);
    let Some(harness) = harness else { return said.unwrap_or_default() };
    let name = &harness.name;
    let by_default = if harness.has_task_on_stdin() { TaskBy::Stdin } else { TaskBy::Argument };
    let task = said.unwrap_or(by_default);
    let at = fields.place("task");
    if task == TaskBy::Stdin && !harness.may_take_task_on_stdin() {
        let right = format!("write \"argument\", or `task_stdin` in [harnesses.{name}]");
        fields.error(at, format!("{name} is not known to read a task on its standard input; {right}"));
    } else if task != TaskBy::Stdin && !harness.takes_prompt(Some(false)) {
        fields.error(at, format!("{name} takes no prompt; write `ends` in [harnesses.{name}]"));
    }
    task
}

/// The folders that a task may choose from. One with `..` could lead anywhere.
fn read_workdirs(fields: &mut Fields<'_>) -> Vec<Workdir> {
    let workdirs = fields.workdirs("workdirs").unwrap_or_default();
    if let Some((at, _)) = workdirs.get(MOST_WORKDIRS) {
        fields.error(*at, format!("these are too many `workdirs`; write at most {MOST_WORKDIRS} paths"));
    }
    for (at, workdir) in &workdirs {
        let (Workdir::Absolute(path) | Workdir::Home(path)) = workdir;
        if path.components().any(|component| component == Component::ParentDir) {
            fields.error(*at, "a path in `workdirs` has `..` in it; write the folder that it leads to");
        }
    }
    workdirs.into_iter().map(|(_, workdir)| workdir).collect()
}

fn read_schedule(fields: &mut Fields<'_>, has_prompt: bool) -> Option<Schedule> {
    let zone = read_zone(fields);
    let missed = Missed::ALL.map(|missed| (missed.word(), missed));
    let missed = fields.word("missed", "invalid `missed`", &missed);
    let missed_within = fields.duration("missed_within");
    let spread = fields.duration("spread");
    if spread.is_some_and(|spread| spread > LONGEST_SPREAD) {
        fields.error(fields.place("spread"), "`spread` is too large; write at most \"24h\"");
    }
    let texts = fields.one_or_more("schedule").unwrap_or_default();
    if texts.is_empty() {
        let unused = ["time_zone", "missed", "missed_within", "spread"];
        for key in unused {
            if fields.is_set(key) && fields.is_empty("schedule") {
                let at = fields.place(key);
                fields.warn(at, format!("`{key}` has no effect without a `schedule`; write one, or remove it"));
            }
        }
        return None;
    }
    let at = fields.place("schedule");
    if !has_prompt {
        let right = "write a `prompt` or a `prompt_file` above [agents.runs]";
        fields.error(at, format!("a `schedule` needs something to do; {right}"));
    }
    if let Some((at, _)) = texts.get(MOST_PATTERNS) {
        fields.error(*at, format!("these are too many times for one `schedule`; write at most {MOST_PATTERNS}"));
    }
    let pattern = |(at, text): (usize, &str)| {
        let times = read_times(fields, at, text)?;
        Some(Pattern { text: text.trim().to_owned(), times })
    };
    let patterns = texts.into_iter().filter_map(pattern).collect();
    if missed == Some(Missed::Skip) && missed_within.is_some() {
        let right = "remove it, or write `missed = \"once\"`";
        fields.warn(
            fields.place("missed_within"),
            format!("`missed_within` has no effect with `missed = \"skip\"`; {right}"),
        );
    }
    Some(Schedule {
        patterns,
        zone,
        missed: missed.unwrap_or_default(),
        missed_within: missed_within.unwrap_or(MISSED_WITHIN),
        spread: spread.unwrap_or_default(),
    })
}

fn read_times(fields: &mut Fields<'_>, at: usize, text: &str) -> Option<Times> {
    let is_every = |rest: &&str| rest.starts_with(char::is_whitespace);
    let interval = text.trim().strip_prefix("every").filter(is_every);
    let times = match interval.map(duration::parse) {
        Some(Ok(interval)) => Times::every(interval).map_err(|error| error.to_string()),
        Some(Err(error)) => Err(error.to_string()),
        None => Times::parse(text).map_err(|error| match error {
            times::Error::Nickname if text.trim().starts_with("@every") => {
                "write \"every 30m\", without an @".to_owned()
            }
            error => error.to_string(),
        }),
    };
    match times {
        Ok(times) => {
            if times.is_never() {
                let right = "no month that it names has such a day";
                fields.warn(at, format!("the time {} never comes; {right}", quoted(text)));
            }
            Some(times)
        }
        Err(error) => {
            fields.error(at, format!("{} cannot be a `schedule`: {error}", quoted(text)));
            None
        }
    }
}

/// A zone by its name. Whether the machine knows it is found out later.
fn read_zone(fields: &mut Fields<'_>) -> Zone {
    let name = fields.string("time_zone").filter(|name| !name.is_empty());
    if let Some(name) = name.filter(|name| !is_zone_name(name)) {
        let right = "write for example \"Europe/Berlin\" or \"UTC\"";
        fields.error(fields.place("time_zone"), format!("{} cannot be a `time_zone`; {right}", quoted(name)));
    }
    Zone::named(name)
}

/// Whether a text may be the name of a zone. None of them is a path that leads elsewhere.
fn is_zone_name(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte))
    };
    name.len() <= 64 && name.split('/').all(is_part)
}

/// Runs can be prepared only if their task comes later, on standard input.
fn read_warm(fields: &mut Fields<'_>, harness: Option<&Harness>, task: TaskBy) -> u32 {
    let warm = number(fields, "warm", 0, MOST_WARM).unwrap_or_default();
    if let Some(harness) = harness.filter(|_| warm > 0 && task != TaskBy::Stdin) {
        let right = "remove it, or write `task = \"stdin\"` if the program reads that";
        let at = fields.place("warm");
        fields.error(
            at,
            format!("`warm` needs a task on standard input, and {} gets it otherwise; {right}", harness.name),
        );
    }
    warm
}

fn read_warm_for(fields: &mut Fields<'_>) -> Option<Duration> {
    let warm_for = fields.duration("warm_for");
    let at = fields.place("warm_for");
    if warm_for.is_some_and(|warm_for| warm_for.is_zero()) {
        fields.error(at, "`warm_for` is too small; write how long a run stays prepared, for example \"1h\"");
    }
    if warm_for.is_some() && fields.is_empty("warm") {
        fields.warn(at, "`warm_for` has no effect without `warm`; write that, or remove it");
    }
    warm_for
}
