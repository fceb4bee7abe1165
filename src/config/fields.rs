//! Reads one entry's table field by field: each reader returns the value, or records what is wrong with it and where.
//!
//! A field that is absent or an empty string is not set: its reader returns `None` and records nothing.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::position::Places;
use crate::agent::approval::{LONGEST_PATTERN, MOST_RULES, Rule, Then};
use crate::agent::cost::MaxCost;
pub(super) use crate::agent::harness::keys::described;
use crate::agent::harness::keys::pattern_fault;
use crate::agent::labels;
use crate::agent::name::Name;
use crate::agent::packages::Package;
use crate::agent::secrets::is_secret_file;
use crate::agent::spec::Workdir;
use crate::agent::user::UserName;
use crate::config::{Finding, Lines, MAX_NOTED, Severity, tell};
use crate::sys::exec::MAX_ARGUMENT;
use crate::sys::exec::is_variable_name;
use crate::sys::secret_bytes::SecretBytes;
use crate::text::duration;
use crate::text::size;
use crate::text::suggest::nearest;

type Value<'a> = Spanned<DeValue<'a>>;

/// The fields that this version reads.
pub(super) const KNOWN: &[&str] = &[
    "name",
    "harness",
    "command",
    "args",
    "prompt",
    "prompt_file",
    "interactive",
    "resume",
    "resume_prompt",
    "results",
    "max_cost",
    "approval",
    "approval_timeout",
    "approval_rules",
    "workdir",
    "restart",
    "max_restarts",
    "timeout",
    "idle_timeout",
    "grace_period",
    "session",
    "user",
    "umask",
    "trust_repository",
    "env",
    "secrets",
    "secret_files",
    "skills",
    "on_rotate",
    "rotate_spread",
    "rotate_within",
    "backoff",
    "backoff_reset",
    "replicas",
    "type",
    "sandbox",
    "sandbox_read",
    "sandbox_write",
    "sandbox_home",
    "network",
    "sandbox_proxy",
    "labels",
    "memory",
    "pid_limit",
    "cpu",
    "enabled",
    "generation",
    "hold",
    "hold_retry",
    "extra_packages",
    "extra_packages_timeout",
];

/// The longest part of a name or key that a finding repeats, in characters.
const QUOTED: usize = 40;

/// The table of one entry, and the findings in it so far.
pub(super) struct Fields<'a> {
    table: &'a DeTable<'a>,
    start: usize,
    places: &'a Places<'a>,
    findings: Vec<Finding>,
}

impl<'a> Fields<'a> {
    /// Begins to read a table. `start` is the offset of the entry's header.
    pub(super) fn new(table: &'a DeTable<'a>, start: usize, places: &'a Places<'a>) -> Self {
        Self { table, start, places, findings: Vec::new() }
    }

    /// The position of a field's value, or of the entry if it has no such field.
    pub(super) fn place(&self, key: &str) -> usize {
        self.table.get(key).map_or(self.start, |value| value.span().start)
    }

    /// The lines of the entry and of its fields that are set.
    pub(super) fn lines(&self) -> Lines {
        let line = |at| self.places.locate(at).0;
        let keys = self.table.iter().map(|(key, _)| key.get_ref().to_string()).filter(|key| self.is_set(key));
        // Of these, 0 is not set.
        let keys = keys.filter(|key| !(["memory", "pid_limit", "cpu"].contains(&key.as_str()) && self.is_empty(key)));
        Lines { header: line(self.start), fields: keys.map(|key| (key.clone(), line(self.place(&key)))).collect() }
    }

    pub(super) fn error(&mut self, at: usize, message: impl Into<String>) {
        self.note(at, Severity::Error, message);
    }

    pub(super) fn warn(&mut self, at: usize, message: impl Into<String>) {
        self.note(at, Severity::Warning, message);
    }

    /// Warns, with a general remedy, and with an exact one that may repeat what the entry says.
    pub(super) fn warn_exactly(&mut self, at: usize, what: &str, right: &str, exact: Option<String>) {
        let message = format!("{what}; {right}");
        self.warn(at, message.as_str());
        // It is not there if there are too many.
        if let Some(finding) = self.findings.last_mut().filter(|finding| finding.message == message) {
            finding.exact = exact.map(|exact| format!("{what}; write {exact}"));
        }
    }

    /// The offset of the entry's header.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// A finding that is not recorded here.
    pub(super) fn finding(&self, at: usize, severity: Severity, message: impl Into<String>) -> Finding {
        self.places.finding(at, severity, message)
    }

    fn note(&mut self, at: usize, severity: Severity, message: impl Into<String>) {
        let noted = self.findings.iter().filter(|finding| finding.severity == severity).count();
        if noted < MAX_NOTED {
            self.findings.push(self.places.finding(at, severity, message));
        } else if noted == MAX_NOTED {
            let message = "there is more like this in the entry, which is not listed; fix what is listed first";
            self.findings.push(self.places.finding(at, severity, message));
        }
    }

    /// All errors so far as one text, in the order of the file; `None` if the entry is valid.
    pub(super) fn errors(&self) -> Option<String> {
        let mut errors: Vec<_> = self.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
        errors.sort_by_key(|finding| (finding.line, finding.column));
        (!errors.is_empty()).then(|| tell(errors))
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }

    /// Records errors about keys that must not be there, which are all but these.
    pub(super) fn only(&mut self, known: &[&str], right: &str) {
        for key in self.table.keys() {
            let (at, key) = (key.span().start, key.get_ref().as_ref());
            if !known.contains(&key) {
                self.error(at, format!("the key {} may not be here; {right}", quoted(key)));
            }
        }
    }

    /// Records warnings about unknown keys.
    pub(super) fn unknown_keys(&mut self) {
        for key in self.table.keys() {
            let (at, key) = (key.span().start, key.get_ref().as_ref());
            if KNOWN.contains(&key) {
                continue;
            }
            let key_quoted = quoted(key);
            if let Some(near) = nearest(key, KNOWN.iter().copied()) {
                self.warn(at, format!("unknown key {key_quoted} is ignored; did you mean `{near}`?"));
            } else {
                self.warn(at, format!("unknown key {key_quoted} is ignored; remove it if no other program reads it"));
            }
        }
    }

    /// Whether the field is set, to a valid value or not.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// The field if it is a string. Records nothing.
    pub(super) fn peek(&self, key: &str) -> Option<&'a str> {
        self.value(key)?.get_ref().as_str()
    }

    /// The field's text as a possible name, whatever its type. Records nothing.
    pub(super) fn spelled(&self, key: &str) -> Option<String> {
        let text = match self.value(key)?.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(integer) => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            DeValue::Boolean(boolean) => return Some(boolean.to_string()),
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => return None,
        };
        Some(text.to_owned())
    }

    /// Whether the field is an empty array or the number 0, which writers emit for what is not set.
    pub(super) fn is_empty(&self, key: &str) -> bool {
        self.value(key).is_none_or(|value| match value.get_ref() {
            DeValue::Array(array) => array.is_empty(),
            DeValue::Integer(integer) => to_number(integer) == Some(0),
            _ => false,
        })
    }

    /// The elements of an array, or the string in its place, that are strings. Records nothing.
    pub(super) fn elements(&self, key: &str) -> Vec<(usize, &'a str)> {
        let text = |value: &'a Value<'a>| Some((value.span().start, value.get_ref().as_str()?));
        match self.value(key).map(Spanned::get_ref) {
            Some(DeValue::String(_)) => self.value(key).and_then(text).into_iter().collect(),
            Some(DeValue::Array(array)) => array.iter().filter_map(text).collect(),
            _ => Vec::new(),
        }
    }

    /// The variables of a table whose values are strings: position, name and value. Records nothing.
    pub(super) fn values(&self, key: &str) -> Vec<(usize, &'a str, &'a str)> {
        let Some(DeValue::Table(table)) = self.value(key).map(Spanned::get_ref) else { return Vec::new() };
        let text = |(name, value): (&'a Spanned<_>, &'a Value<'a>)| {
            let name: &'a std::borrow::Cow<'a, str> = name.get_ref();
            Some((value.span().start, name.as_ref(), value.get_ref().as_str()?))
        };
        table.iter().filter_map(text).collect()
    }

    pub(super) fn string(&mut self, key: &str) -> Option<&'a str> {
        let value = self.value(key)?;
        self.text(&format!("`{key}`"), value, 0)
    }

    /// Reads a string. `right` is the remedy for a value that is none.
    fn string_or(&mut self, key: &str, right: &str) -> Option<&'a str> {
        let value = self.value(key)?;
        if value.get_ref().as_str().is_none() {
            let what = described(value.get_ref());
            self.error(value.span().start, format!("`{key}` is {what}; {right}"));
            return None;
        }
        self.string(key)
    }

    pub(super) fn name(&mut self, key: &str) -> Option<Name> {
        let text = self.string(key)?;
        Name::try_from(text)
            .map_err(|right| self.error(self.place(key), format!("{} cannot be a `{key}`; {right}", quoted(text))))
            .ok()
    }

    /// Reads the name of a user.
    pub(super) fn user(&mut self, key: &str) -> Option<UserName> {
        let text = self.string_or(key, "write the name of a user, in quotes")?;
        text.parse()
            .map_err(|right| self.error(self.place(key), format!("{} cannot be a `{key}`; {right}", quoted(text))))
            .ok()
    }

    /// Reads permissions that new files do not get, in octal digits as `umask(2)` has them.
    pub(super) fn umask(&mut self, key: &str) -> Option<u32> {
        let right = "write three or four octal digits in quotes, such as \"0002\" or \"0077\"";
        let text = self.string_or(key, right)?;
        let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let umask = u32::from_str_radix(text, 8).ok().filter(|&umask| is_octal && umask <= 0o777);
        if umask.is_none() {
            self.error(self.place(key), format!("{} cannot be a `{key}`; {right}", quoted(text)));
        }
        umask
    }

    /// Reads a field that must be one of a few words, and returns the word's meaning. `refusal` describes any other word.
    pub(super) fn word<T: Copy>(&mut self, key: &str, refusal: &str, words: &[(&str, T)]) -> Option<T> {
        self.word_or(key, refusal, words, |_| None)
    }

    /// The same. `meant` gives the remedy for another word that people use.
    pub(super) fn word_or<T: Copy>(
        &mut self,
        key: &str,
        refusal: &str,
        words: &[(&str, T)],
        meant: impl Fn(&str) -> Option<String>,
    ) -> Option<T> {
        let choices: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let text = self.string_or(key, &format!("write {}", alternatives(choices.iter().map(String::as_str))))?;
        let found = words.iter().find(|(word, _)| *word == text).map(|&(_, meaning)| meaning);
        if found.is_none() {
            let right = match (meant(text), nearest(text, words.iter().map(|&(word, _)| word))) {
                (Some(right), _) => right,
                (None, Some(near)) => format!("did you mean {near:?}?"),
                (None, None) => format!("write {}", alternatives(words.iter().map(|&(word, _)| word))),
            };
            self.error(self.place(key), format!("{refusal} {}; {right}", quoted(text)));
        }
        found
    }

    /// Reads a program and its first arguments: a string is a program, an array is both.
    pub(super) fn command(&mut self, key: &str) -> Option<Vec<String>> {
        let value = self.value(key)?;
        let command = match value.get_ref() {
            DeValue::String(_) => vec![self.text(&format!("`{key}`"), value, 0)?.to_owned()],
            DeValue::Array(_) => self.strings(key)?,
            other => {
                self.error(
                    value.span().start,
                    format!("`{key}` is {}; write a string or an array of strings", described(other)),
                );
                return None;
            }
        };
        if command.first().is_some_and(String::is_empty) {
            self.error(
                value.span().start,
                format!("the program in `{key}` is empty; write its name or path as the first string"),
            );
            return None;
        }
        (!command.is_empty()).then_some(command)
    }

    /// Reads an array of strings, which may be empty.
    pub(super) fn strings(&mut self, key: &str) -> Option<Vec<String>> {
        let what = format!("a string in `{key}`");
        self.array(key, "strings", |fields, value| fields.text(&what, value, 0).map(str::to_owned))
    }

    /// Reads an array of strings, which may be empty, with their positions.
    pub(super) fn located_strings(&mut self, key: &str) -> Option<Vec<(usize, &'a str)>> {
        let what = format!("a string in `{key}`");
        self.array(key, "strings", |fields, value| Some((value.span().start, fields.text(&what, value, 0)?)))
    }

    /// Reads secrets: an array of names of both variables and files, or a table of variables with the files of their values.
    pub(super) fn secrets(&mut self, key: &str) -> Option<BTreeMap<String, String>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::Table(table) => {
                Some(table.iter().filter_map(|(name, file)| self.secret(key, name, file)).collect())
            }
            DeValue::Array(_) => {
                let what = format!("a name in `{key}`");
                let names = self.array(key, "names", |fields, value| {
                    let name = fields.text(&what, value, 0)?;
                    fields.variable_name(value.span().start, name, &what).map(|name| (name.clone(), name))
                })?;
                Some(names.into_iter().collect())
            }
            other => {
                let right = "write an array of names, or a table like { GH_TOKEN = \"github-reviewer\" }";
                self.error(value.span().start, format!("`{key}` is {}; {right}", described(other)));
                None
            }
        }
    }

    /// One variable, and the file of its value.
    fn secret(
        &mut self,
        key: &str,
        name: &'a Spanned<std::borrow::Cow<'a, str>>,
        file: &'a Value<'a>,
    ) -> Option<(String, String)> {
        let variable = self.variable_name(name.span().start, name.get_ref(), &format!("a variable in `{key}`"));
        let at = file.span().start;
        let file = self.text(&format!("the file of {} in `{key}`", quoted(name.get_ref())), file, 0)?;
        if !is_secret_file(file) {
            let right = "write the name of a file in the secrets directory: up to 255 of `A-Z a-z 0-9 . _ @ + -`, \
                         beginning with a letter, a digit or _";
            self.error(at, format!("{} cannot be a secret's file; {right}", quoted(file)));
            return None;
        }
        Some((variable?, file.to_owned()))
    }

    fn variable_name(&mut self, at: usize, name: &str, what: &str) -> Option<String> {
        if !is_variable_name(name) {
            let right = "a secret's name has letters, digits and _, and does not begin with a digit";
            self.error(at, format!("{} cannot be {what}; {right}", quoted(name)));
            return None;
        }
        Some(name.to_owned())
    }

    /// Reads labels: a table of keys with values, or an array of keys and of `key=value`.
    pub(super) fn labels(&mut self, key: &str) -> Option<BTreeMap<String, String>> {
        let value = self.value(key)?;
        let mut labels = BTreeMap::new();
        match value.get_ref() {
            DeValue::Table(table) => {
                for (name, value) in table {
                    let what = format!("the label {} in `{key}`", quoted(name.get_ref()));
                    if let Some(text) = self.text(&what, value, 0) {
                        self.label(name.span().start, name.get_ref(), text, &mut labels);
                    }
                }
            }
            DeValue::Array(_) => {
                for (at, text) in self.located_strings(key)? {
                    let (name, text) = text.split_once('=').unwrap_or((text, ""));
                    self.label(at, name, text, &mut labels);
                }
            }
            other => {
                let right = "write a table like { team = \"web\" }, or an array like [\"review\", \"team=web\"]";
                self.error(value.span().start, format!("`{key}` is {}; {right}", described(other)));
                return None;
            }
        }
        if labels.len() > labels::MOST {
            let at = value.span().start;
            self.error(at, format!("`{key}` has {} labels; write at most {}", labels.len(), labels::MOST));
        }
        Some(labels)
    }

    fn label(&mut self, at: usize, name: &str, value: &str, labels: &mut BTreeMap<String, String>) {
        const RIGHT: &str = "write up to 63 of `A-Z a-z 0-9 . _ / -`";
        if !labels::is_key(name) {
            self.error(at, format!("{} cannot be the key of a label; {RIGHT}, not beginning with -", quoted(name)));
        } else if !labels::is_value(value) {
            self.error(at, format!("{} cannot be the value of a label; {RIGHT}, or nothing", quoted(value)));
        } else if labels.insert(name.to_owned(), value.to_owned()).is_some() {
            self.error(at, format!("the label {} is there twice; remove one of them", quoted(name)));
        }
    }

    /// Reads an array of packages.
    pub(super) fn packages(&mut self, key: &str) -> Option<Vec<Package>> {
        let what = format!("a package in `{key}`");
        self.array(key, "names", |fields, value| {
            let name = fields.text(&what, value, 0)?;
            let package = Package::new(name);
            let at = value.span().start;
            package.map_err(|why| fields.error(at, format!("the package {} {why}", quoted(name)))).ok()
        })
    }

    /// Reads variables and their values.
    pub(super) fn variables(&mut self, key: &str) -> Option<BTreeMap<String, SecretBytes>> {
        let value = self.value(key)?;
        let DeValue::Table(table) = value.get_ref() else {
            let right = "write a table of strings, for example { RUST_LOG = \"info\" }";
            self.error(value.span().start, format!("`{key}` is {}; {right}", described(value.get_ref())));
            return None;
        };
        let mut variables = BTreeMap::new();
        for (name, value) in table {
            let (at, name) = (name.span().start, name.get_ref().as_ref());
            if name.is_empty() || name.contains(['=', '\0']) {
                let right = "a variable's name is not empty and has neither = nor a NUL";
                self.error(at, format!("{} cannot be a name in `{key}`; {right}", quoted(name)));
            } else if let Some(plain) = plain(value.get_ref()) {
                variables.insert(name.to_owned(), SecretBytes::from(plain.as_str()));
            } else if let Some(text) =
                self.text(&format!("the value of {} in `{key}`", quoted(name)), value, name.len() + 1)
            {
                variables.insert(name.to_owned(), SecretBytes::from(text));
            }
        }
        Some(variables)
    }

    /// Whether the field is set to `true` or `false`.
    pub(super) fn is_boolean(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| matches!(value.get_ref(), DeValue::Boolean(_)))
    }

    pub(super) fn boolean(&mut self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        let DeValue::Boolean(boolean) = value.get_ref() else {
            let right = "write true or false, without quotes";
            self.error(value.span().start, format!("`{key}` is {}; {right}", described(value.get_ref())));
            return None;
        };
        Some(*boolean)
    }

    pub(super) fn whole_number(&mut self, key: &str, allowed: &RangeInclusive<u64>, right: &str) -> Option<u64> {
        let value = self.value(key)?;
        let at = value.span().start;
        let DeValue::Integer(integer) = value.get_ref() else {
            self.error(at, format!("`{key}` is {}; {right}", described(value.get_ref())));
            return None;
        };
        let number = to_number(integer).and_then(|number| u64::try_from(number).ok());
        let number = number.filter(|number| allowed.contains(number));
        if number.is_none() {
            self.error(at, format!("`{key}` is out of range; {right}"));
        }
        number
    }

    /// Reads a number of dollars.
    pub(super) fn max_cost(&mut self, key: &str) -> Option<MaxCost> {
        let value = self.value(key)?;
        let right = "write a number of US dollars above 0, for example 5.00";
        let text = match value.get_ref() {
            DeValue::Float(float) => float.as_str(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            other => {
                self.error(value.span().start, format!("`{key}` is {}; {right}", described(other)));
                return None;
            }
        };
        let cost = MaxCost::parse(text.strip_prefix('+').unwrap_or(text));
        if cost.is_none() {
            self.error(value.span().start, format!("`{key}` is out of range; {right}"));
        }
        cost
    }

    /// Reads a duration, or a whole number of seconds.
    pub(super) fn duration(&mut self, key: &str) -> Option<Duration> {
        let value = self.value(key)?;
        self.duration_of(key, value)
    }

    /// Reads an array of rules: `{ match = "…", then = "ask" }`.
    pub(super) fn approval_rules(&mut self, key: &str) -> Option<Vec<Rule>> {
        const RIGHT: &str = "write { match = \"…\", then = \"ask\" }, with \"ask\", \"allow\" or \"deny\"";
        let rules = self.array(key, "rules", |fields, value| {
            let at = value.span().start;
            let DeValue::Table(table) = value.get_ref() else {
                fields.error(at, format!("a rule in `{key}` is {}; {RIGHT}", described(value.get_ref())));
                return None;
            };
            if let Some(other) = table.keys().find(|name| !["match", "then"].contains(&name.get_ref().as_ref())) {
                let name = quoted(other.get_ref());
                fields.error(other.span().start, format!("the key {name} may not be in a rule; {RIGHT}"));
                return None;
            }
            let text = |name: &str| Some((table.get(name)?.span().start, table.get(name)?.get_ref().as_str()?));
            let (Some((at, pattern)), Some((then_at, then))) = (text("match"), text("then")) else {
                fields.error(
                    at,
                    format!("a rule in `{key}` lacks `match` or `then`, or one of them is not a string; {RIGHT}"),
                );
                return None;
            };
            if let Err(fault) = pattern_fault(pattern).and_then(|()| match pattern.len() {
                0..=LONGEST_PATTERN => Ok(()),
                _ => Err(format!("it has more than {LONGEST_PATTERN} bytes")),
            }) {
                fields.error(at, format!("`match` of a rule in `{key}` is not a regular expression: {fault}"));
                return None;
            }
            let Some(&(_, then)) = Then::WORDS.iter().find(|(word, _)| *word == then) else {
                fields.error(then_at, format!("a rule cannot do {}; {RIGHT}", quoted(then)));
                return None;
            };
            Some(Rule { pattern: pattern.to_owned(), then })
        })?;
        if rules.len() > MOST_RULES {
            self.error(self.place(key), format!("`{key}` has more than {MOST_RULES} rules; write fewer"));
        }
        Some(rules)
    }

    /// Reads an array of durations; `None` if it is empty.
    pub(super) fn durations(&mut self, key: &str) -> Option<Vec<Duration>> {
        self.array(key, "durations", |fields, value| fields.duration_of(key, value))
            .filter(|durations| !durations.is_empty())
    }

    /// Reads a number of bytes, or a text like `2GiB`. 0 means no limit, for writers that emit every field.
    pub(super) fn memory(&mut self, key: &str) -> Option<u64> {
        let right =
            "write a size like \"2GiB\" or \"2G\" (KiB, MiB, GiB, TiB, KB, MB, GB, TB), or a whole number of bytes";
        self.quantity(key, size::MOST, right, |value| match value {
            DeValue::String(text) => size::parse(text),
            DeValue::Integer(integer) => {
                to_number(integer).and_then(|bytes| u64::try_from(bytes).ok()).ok_or(size::Error::OutOfRange)
            }
            _ => Err(size::Error::Malformed),
        })
    }

    /// Reads a share of processor time in percent, from a text like `150%` or a number of processors. 0 means no limit.
    pub(super) fn processors(&mut self, key: &str) -> Option<u64> {
        let right = "write a share of one processor like \"150%\", or a number of processors like 1.5";
        self.quantity(key, "18446744073709551615%", right, |value| match value {
            DeValue::String(text) => size::percent(text),
            DeValue::Integer(integer) if integer.radix() == 10 => size::percent(integer.as_str()),
            DeValue::Float(float) => size::percent(float.as_str()),
            _ => Err(size::Error::Malformed),
        })
    }

    /// Reads a quantity. `most` is the largest one, in words.
    fn quantity(
        &mut self,
        key: &str,
        most: &str,
        right: &str,
        read: impl Fn(&DeValue<'_>) -> Result<u64, size::Error>,
    ) -> Option<u64> {
        let value = self.value(key)?;
        let quantity = read(value.get_ref());
        let digits = match value.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(integer) => integer.as_str(),
            DeValue::Float(float) => float.as_str(),
            _ => "",
        };
        match quantity {
            Err(size::Error::Malformed) => self.error(value.span().start, format!("`{key}` cannot be read; {right}")),
            Err(size::Error::OutOfRange) => {
                self.error(value.span().start, format!("`{key}` is out of range, which is from 0 to {most}; {right}"));
            }
            Ok(0) if digits.contains(|c: char| matches!(c, '1'..='9')) => {
                self.error(value.span().start, format!("`{key}` is too small to be a limit; {right}"));
            }
            Ok(_) => {}
        }
        quantity.ok().filter(|&quantity| quantity > 0)
    }

    pub(super) fn workdir(&mut self, key: &str) -> Option<Workdir> {
        let text = self.string(key)?;
        if text.starts_with('/') {
            return Some(Workdir::Absolute(PathBuf::from(text)));
        }
        // More slashes would make the rest absolute, and joining would then discard the home.
        let below_home =
            if text == "~" { Some("") } else { text.strip_prefix("~/").map(|rest| rest.trim_start_matches('/')) };
        if below_home.is_none() {
            let right = "write an absolute path, or ~/ and a path below the agent user's home";
            self.error(self.place(key), format!("`{key}` is a relative path; {right}"));
        }
        below_home.map(|rest| Workdir::Home(PathBuf::from(rest)))
    }

    /// The field's value, if it is set.
    fn value(&self, key: &str) -> Option<&'a Value<'a>> {
        self.table.get(key).filter(|value| !is_empty_string(value.get_ref()))
    }

    /// Reads the valid elements of an array; `None` if the value is not an array.
    fn array<T>(
        &mut self,
        key: &str,
        elements: &str,
        mut read: impl FnMut(&mut Self, &'a Value<'a>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            self.error(
                value.span().start,
                format!("`{key}` is {}; write an array of {elements}, in [ ]", described(value.get_ref())),
            );
            return None;
        };
        Some(array.iter().filter_map(|value| read(self, value)).collect())
    }

    /// Reads a string that the kernel can pass to a program, with `extra` bytes beside it. Its text is not quoted: it may be
    /// secret.
    fn text(&mut self, what: &str, value: &'a Value<'a>, extra: usize) -> Option<&'a str> {
        let at = value.span().start;
        let DeValue::String(text) = value.get_ref() else {
            self.error(at, format!("{what} is {}; write a string, in quotes", described(value.get_ref())));
            return None;
        };
        if text.contains('\0') {
            self.error(at, format!("{what} has a NUL character; remove it, no program can be given one"));
            return None;
        }
        if text.len() + extra > MAX_ARGUMENT {
            let length = text.len() + extra;
            self.error(
                at,
                format!(
                    "{what} is {length} bytes long; the kernel takes at most {MAX_ARGUMENT} bytes (128 KiB less one)"
                ),
            );
            return None;
        }
        Some(text)
    }

    fn duration_of(&mut self, key: &str, value: &'a Value<'a>) -> Option<Duration> {
        let read = match value.get_ref() {
            DeValue::String(text) => duration::parse(text),
            DeValue::Integer(integer) => match to_number(integer) {
                Some(..0) => Err(duration::Error::Negative),
                Some(seconds) => {
                    u64::try_from(seconds).map_err(|_| duration::Error::OutOfRange).and_then(duration::from_seconds)
                }
                None => Err(duration::Error::OutOfRange),
            },
            other => {
                let right = "write a duration like \"30s\", or whole seconds";
                self.error(value.span().start, format!("`{key}` is {}; {right}", described(other)));
                return None;
            }
        };
        read.map_err(|error| self.error(value.span().start, format!("`{key}`: {error}"))).ok()
    }
}

/// A number or a boolean as the text that a program is given: numbers as they are written, but whole ones in decimal.
fn plain(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Integer(integer) => to_number(integer).map(|number| number.to_string()),
        DeValue::Float(float) => Some(float.as_str().to_owned()),
        DeValue::Boolean(boolean) => Some(boolean.to_string()),
        _ => None,
    }
}

/// Quotes a text briefly, without anything that a terminal would act on.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Joins words: `a, b or c`.
pub(super) fn alternatives<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.collect();
    match words.as_slice() {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

fn is_empty_string(value: &DeValue<'_>) -> bool {
    value.as_str().is_some_and(str::is_empty)
}

fn to_number(integer: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}
