//! `[agents.runs]`: the table that makes an entry a template, whose runs do what they are given to do.

use super::fields::Fields;
use crate::agent::harness::Harness;
use crate::agent::run::{Interrupted, MOST_AT_ONCE, MOST_KEPT, MOST_WAITING, TaskBy, Template};

/// The key of the table in an entry.
pub(super) const KEY: &str = "runs";

/// The keys that this version reads.
pub(super) const KNOWN: &[&str] = &["at_once", "waiting", "keep", "interrupted", "task"];

const INTERRUPTED: [(&str, Interrupted); 2] = [("fail", Interrupted::Fail), ("again", Interrupted::Again)];

const TASKS: [(&str, TaskBy); 3] = [("stdin", TaskBy::Stdin), ("argument", TaskBy::Argument), ("file", TaskBy::File)];

/// Reads the table, if there is one.
pub(super) fn read(entry: &mut Fields<'_>, _harness: Option<&Harness>) -> Option<Template> {
    let mut table = entry.table(KEY, "write [agents.runs] below the entry, with a key a line")?;
    let fields = &mut table;
    let default = Template::default();
    let template = Template {
        at_once: number(fields, "at_once", 1, MOST_AT_ONCE).unwrap_or(default.at_once),
        waiting: number(fields, "waiting", 0, MOST_WAITING).unwrap_or(default.waiting),
        keep: number(fields, "keep", 0, MOST_KEPT).unwrap_or(default.keep),
        interrupted: fields.word("interrupted", "invalid `interrupted`", &INTERRUPTED).unwrap_or(default.interrupted),
        task: fields.word("task", "invalid `task`", &TASKS).unwrap_or(default.task),
    };
    fields.unknown_keys_but(KNOWN);
    entry.absorb(table);
    Some(template)
}

fn number(fields: &mut Fields<'_>, key: &str, least: u32, most: u64) -> Option<u32> {
    let right = format!("write a whole number from {least} to {most}");
    let number = fields.whole_number(key, &(u64::from(least)..=most), &right)?;
    u32::try_from(number).ok()
}
