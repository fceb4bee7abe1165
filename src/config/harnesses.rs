//! `[harnesses.NAME]`: what a jcard changes of the table of harnesses, and adds to it.
//!
//! Nothing in it makes a jcard unusable. A mistake is a warning, and what it is about is left out; one that no agent could do
//! without is an error of the entries that use that harness.

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::fields::{described, quoted};
use super::position::Places;
use crate::agent::harness::{self, Harness, keys};
use crate::agent::name::Name;
use crate::config::{Finding, MAX_NOTED, Severity};
use crate::text::suggest::nearest;

/// The most entries that are read.
const MOST: usize = 256;

/// The table in force: what agentd comes with, and what the jcard says.
pub(super) struct Harnesses {
    rows: Vec<Row>,
}

struct Row {
    harness: Arc<Harness>,
    /// Why no agent can use it.
    faults: Vec<Finding>,
    is_used: bool,
}

impl Harnesses {
    /// Reads the section, if there is one, and records what is wrong with it.
    pub fn read(document: &DeTable<'_>, places: &Places<'_>, findings: &mut Vec<Finding>) -> Self {
        let row = |harness: &Arc<Harness>| Row { harness: Arc::clone(harness), faults: Vec::new(), is_used: false };
        let mut all = Self { rows: harness::shipped().iter().map(row).collect() };
        let mut warn = |at, message: String| findings.push(places.finding(at, Severity::Warning, message));
        let Some(value) = document.get("harnesses") else { return all };
        let right = "write [harnesses.NAME] above what is to be known of one";
        let DeValue::Table(table) = value.get_ref() else {
            let what = described(value.get_ref());
            warn(value.span().start, format!("`harnesses` is {what}, and is ignored; {right}"));
            return all;
        };
        for (number, (key, value)) in table.iter().enumerate() {
            let (at, name) = (key.span().start, key.get_ref().as_ref());
            if number == MOST {
                warn(at, format!("there are too many harnesses, and the rest is ignored; write at most {MOST}"));
                break;
            }
            if let Err(right) = Name::try_from(name) {
                warn(at, format!("{} cannot be the name of a harness, and is ignored; {right}", quoted(name)));
                continue;
            }
            let DeValue::Table(entry) = value.get_ref() else {
                let what = described(value.get_ref());
                warn(value.span().start, format!("the harness {} is {what}, and is ignored; {right}", quoted(name)));
                continue;
            };
            let is_alike = |row: &&Row| row.harness.name.eq_ignore_ascii_case(name) && *row.harness.name != *name;
            if let Some(other) = all.rows.iter().find(is_alike) {
                let other = &other.harness.name;
                let what = format!("the harness {} differs only in case from {other}, and is ignored", quoted(name));
                warn(at, format!("{what}; write [harnesses.{other}], or give it a name of its own"));
                continue;
            }
            let known = all.rows.iter().position(|row| *row.harness.name == *name);
            let mut harness =
                known.map_or_else(|| Harness::named(name), |known| Harness::clone(&all.rows[known].harness));
            let mut mistakes = unknown_keys(entry);
            mistakes.extend(keys::read(&mut harness, entry));
            if harness.binary.is_empty() && !mistakes.iter().any(|mistake| mistake.is_fatal) {
                let message =
                    format!("the harness {} has no `binary`; write the name or path of its program", quoted(name));
                mistakes.push(keys::Mistake { at, message, is_fatal: true });
            }
            mistakes.sort_by_key(|mistake| !mistake.is_fatal);
            mistakes.truncate(MAX_NOTED);
            let (faults, ignored): (Vec<_>, Vec<_>) = mistakes.into_iter().partition(|mistake| mistake.is_fatal);
            for mistake in ignored {
                warn(mistake.at, mistake.message);
            }
            let fault = |mistake: keys::Mistake| places.finding(mistake.at, Severity::Error, mistake.message);
            let faults = faults.into_iter().map(fault).collect();
            let row = Row { harness: Arc::new(harness), faults, is_used: false };
            match known {
                Some(known) => all.rows[known] = row,
                None => all.rows.push(row),
            }
        }
        all
    }

    /// The one of this name.
    pub fn find(&self, name: &str) -> Option<&Arc<Harness>> {
        self.rows.iter().map(|row| &row.harness).find(|harness| *harness.name == *name)
    }

    /// All names, in the order in which messages list them.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.rows.iter().map(|row| &*row.harness.name)
    }

    /// Why an entry cannot use this harness.
    pub fn faults(&mut self, name: &str) -> &[Finding] {
        let row = self.rows.iter_mut().find(|row| *row.harness.name == *name);
        row.map_or(&[], |row| {
            row.is_used = true;
            &row.faults
        })
    }

    /// The table, and why parts of it cannot be used: as errors if an entry does.
    pub fn finish(self, findings: &mut Vec<Finding>) -> Vec<Arc<Harness>> {
        let row = |row: Row| {
            let severity = if row.is_used { Severity::Error } else { Severity::Warning };
            findings.extend(row.faults.into_iter().map(|fault| Finding { severity, ..fault }));
            row.harness
        };
        self.rows.into_iter().map(row).collect()
    }
}

/// The keys of an entry that no harness has.
fn unknown_keys(entry: &DeTable<'_>) -> Vec<keys::Mistake> {
    let known = || keys::KEYS.iter().map(|key| key.name);
    let unknown = entry.keys().filter(|key| known().all(|known| known != key.get_ref()));
    let mistake = |key: &toml::Spanned<toml::de::DeString<'_>>| {
        let near = nearest(key.get_ref(), known());
        let right = near.map_or_else(|| "remove it".to_owned(), |near| format!("did you mean `{near}`?"));
        let message = format!("unknown key {} is ignored; {right}", quoted(key.get_ref()));
        keys::Mistake { at: key.span().start, message, is_fatal: false }
    };
    unknown.map(mistake).collect()
}
