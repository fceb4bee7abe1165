//! The field `after`: which agents an entry comes after, and whether that can be.
//!
//! Each entry is read by itself. What it names is looked up once all entries are known.

use std::collections::{BTreeMap, HashMap};

use super::fields::{Fields, quoted};
use super::position::Places;
use super::{Entry, Finding, Severity};
use crate::agent::after::{After, Condition, Fault, MOST, closings};
use crate::agent::name::Key;
use crate::text::suggest::nearest;

/// For how many unknown names the nearest known one is looked for: with very many agents, each takes a while.
const MOST_GUESSES: usize = 50;

/// What an entry comes after, with the position of each.
pub(super) type Located = Vec<(usize, After)>;

/// Reads what an entry comes after.
pub(super) fn read(fields: &mut Fields<'_>) -> Located {
    let texts = fields.located_strings("after").unwrap_or_default();
    if let Some((at, _)) = texts.get(MOST) {
        fields.error(*at, format!("these are too many names in `after`; write at most {MOST}"));
    }
    let mut all: Located = Vec::new();
    for (at, text) in texts.into_iter().take(MOST) {
        match After::parse(text) {
            Ok(After { name, condition: Condition::Ready, .. }) => {
                let right = format!("write {:?}", format!("{name}:running"));
                fields.error(at, format!("{} needs a probe, and agentd has none yet; {right}", quoted(text)));
            }
            Ok(after) if all.iter().any(|(_, other)| other.name.key() == after.name.key()) => {
                let name = quoted(after.name.as_str());
                fields.error(at, format!("{name} is twice in `after`; remove one of them"));
            }
            Ok(after) => all.push((at, after)),
            Err(fault) => {
                let right = match fault {
                    Fault::Name(right) => format!("{right}, and may have a condition, as in \"db:running\""),
                    Fault::Condition => {
                        let near =
                            text.rsplit(':').next().and_then(|word| nearest(word, ["completed", "running", "ended"]));
                        near.map_or_else(|| fault.to_string(), |near| format!("did you mean {near:?}?"))
                    }
                };
                fields.error(at, format!("{} cannot be in `after`; {right}", quoted(text)));
            }
        }
    }
    all
}

/// The bytes that it takes.
pub(super) fn size(after: &Located) -> usize {
    after.iter().map(|(_, after)| after.name.as_str().len() + size_of::<After>()).sum()
}

/// The entries, by what can be named.
#[derive(Default)]
pub(super) struct Order {
    /// The table of each agent.
    agents: HashMap<Key, usize>,
    /// The table of each entry with replicas, and how many there are.
    groups: HashMap<Key, (usize, u64)>,
    /// What each table comes after, and what it is called.
    tables: Vec<Table>,
}

#[derive(Default)]
struct Table {
    name: String,
    after: Located,
}

impl Order {
    /// Notes an entry that declares these agents.
    pub(super) fn note<'a>(&mut self, table: usize, base: &str, names: impl Iterator<Item = Key> + 'a, after: Located) {
        let mut count = 0;
        for key in names {
            self.agents.entry(key).or_insert(table);
            count += 1;
        }
        if let Ok(key) = base.parse::<Key>()
            && count > 1
        {
            self.groups.entry(key).or_insert((table, count));
        }
        if self.tables.len() <= table {
            self.tables.resize_with(table + 1, Table::default);
        }
        self.tables[table] = Table { name: base.to_owned(), after };
    }

    /// Looks up what the entries come after, and adds what is wrong to those that say it. While not every entry says which agents it
    /// means, a name that is not known is no error.
    pub(super) fn check(mut self, entries: &mut [Entry], is_complete: bool, places: &Places<'_>) -> Vec<Finding> {
        let mut edges: Vec<Vec<usize>> = vec![Vec::new(); self.tables.len()];
        let mut ats: Vec<Vec<usize>> = vec![Vec::new(); self.tables.len()];
        let mut faults: BTreeMap<usize, Vec<Finding>> = BTreeMap::new();
        let mut guesses = MOST_GUESSES;
        let templates = templates(entries, self.tables.len());
        for table in 0..self.tables.len() {
            let mut after = std::mem::take(&mut self.tables[table].after);
            for (at, wanted) in &mut after {
                let key = wanted.name.key();
                let group = self.groups.get(&key).copied().filter(|_| !self.agents.contains_key(&key));
                wanted.replicas = group.map(|(_, replicas)| replicas);
                let target = self.agents.get(&key).copied().or(group.map(|(table, _)| table));
                let message = match target {
                    Some(target) if target == table => {
                        Some(format!("{} cannot come after itself; remove it", quoted(wanted.name.as_str())))
                    }
                    Some(target) if templates[target] => {
                        let right = "what comes after a task of it is for a plan: agentd run --plan";
                        Some(format!("{} is a template, which never ends; {right}", quoted(wanted.name.as_str())))
                    }
                    Some(target) => {
                        edges[table].push(target);
                        ats[table].push(*at);
                        None
                    }
                    None if is_complete => Some(self.unknown(wanted, &mut guesses)),
                    None => None,
                };
                if let Some(message) = message {
                    faults.entry(table).or_default().push(places.finding(*at, Severity::Error, message));
                }
            }
            self.tables[table].after = after;
        }
        for closing in closings(&edges) {
            let path = closing.path.shown(|table| self.tables[table].name.clone());
            let message = format!("agents wait for each other: {path}; remove one of these from an `after`");
            let at = ats[closing.node][closing.edge];
            faults.entry(closing.node).or_default().push(places.finding(at, Severity::Error, message));
        }
        for entry in entries {
            let Some(table) = self.tables.get(entry.table).filter(|table| !table.after.is_empty()) else { continue };
            let wrong = faults.get(&entry.table).into_iter().flatten().map(Finding::to_string);
            let errors: Vec<String> = entry.spec.as_ref().err().cloned().into_iter().chain(wrong).collect();
            match &mut entry.spec {
                Ok(spec) if errors.is_empty() => {
                    spec.policy.after = table.after.iter().map(|(_, after)| after.clone()).collect();
                }
                spec => *spec = Err(errors.join("\n")),
            }
        }
        faults.into_values().flatten().collect()
    }

    fn unknown(&self, wanted: &After, guesses: &mut usize) -> String {
        let name = wanted.name.as_str();
        let guess = (*guesses > 0).then(|| {
            *guesses -= 1;
            let mut known: Vec<&str> = self.agents.keys().chain(self.groups.keys()).map(Key::as_str).collect();
            known.sort_unstable();
            nearest(name, known)
        });
        let right = match guess.flatten() {
            Some(near) => format!("did you mean {near:?}?"),
            None => "write the `name` of another entry".to_owned(),
        };
        format!("unknown agent {} in `after`; {right}", quoted(name))
    }
}

/// Which tables declare templates.
fn templates(entries: &[Entry], tables: usize) -> Vec<bool> {
    let mut templates = vec![false; tables];
    for entry in entries {
        if let (Ok(spec), Some(is_template)) = (&entry.spec, templates.get_mut(entry.table)) {
            *is_template |= spec.policy.template.is_some();
        }
    }
    templates
}
