//! The keys of an entry of the table of harnesses: read from TOML over what a harness has already, and written again.
//!
//! The entries that are compiled in and those of a jcard are read by the same code.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Component, Path};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::form::Form;
use super::rule::{Meaning, Place, Rule};
use super::{Approval, Approvals, Harness, HookKind, Trust};
use crate::agent::stream_kind::StreamKind;
use crate::sys::exec::{MAX_ARGUMENT, is_variable_name};

type Value<'a> = Spanned<DeValue<'a>>;

/// The most rules of one harness.
pub const MOST_RULES: usize = 64;

/// The longest regular expression of a rule, in bytes.
pub const LONGEST_PATTERN: usize = 2048;

/// The most memory that a compiled rule may take, in bytes.
pub const LARGEST_PATTERN: usize = 256 << 10;

/// A mistake in an entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The offset in the text.
    pub at: usize,
    /// The problem, and after a semicolon the remedy.
    pub message: String,
    /// Whether no agent can use the harness. Otherwise what is wrong is ignored.
    pub is_fatal: bool,
}

/// A key of an entry.
pub struct Key {
    /// As written.
    pub name: &'static str,
    /// What it holds, in words.
    pub holds: &'static str,
    slot: fn(&mut Harness) -> Slot<'_>,
}

/// Where a key's value is kept, which says its type.
enum Slot<'a> {
    Binary(&'a mut String),
    Text(&'a mut String),
    /// A path below the home, which `${HOME}` stands for.
    InHome(&'a mut String),
    /// Paths below the home.
    Paths(&'a mut Vec<String>),
    /// Names of variables.
    Names(&'a mut Vec<String>),
    Flag(&'a mut bool),
    Words(&'a mut Vec<String>),
    /// Of a command line with a prompt. An empty one is one that the harness does not have.
    Form(&'a mut Option<Form>),
    /// Of a command line without a prompt.
    Alone(&'a mut Form),
    Variables(&'a mut BTreeMap<String, String>),
    Stream(&'a mut Option<StreamKind>),
    Hooks(&'a mut Option<HookKind>),
    Trust(&'a mut Trust),
    Approvals(&'a mut Approvals),
    Rules(&'a mut Arc<[Rule]>),
}

macro_rules! key {
    ($name:literal, $holds:literal, $kind:ident, $($field:ident).+) => {
        Key { name: $name, holds: $holds, slot: |harness| Slot::$kind(&mut harness.$($field).+) }
    };
}

/// Every key, in the order in which an entry is written.
pub static KEYS: &[Key] = &[
    key!("binary", "the program", Binary, binary),
    key!("alone", "the command line without a prompt", Alone, alone),
    key!("prompt", "the command line with a prompt", Form, forms.prompt),
    key!(
        "prompt_guarded",
        "the same for a prompt that could be taken for an option, a file or a subcommand",
        Form,
        forms.prompt_guarded
    ),
    key!("ends", "the command line that ends when the prompt is done (`interactive = false`)", Form, forms.ends),
    key!("ends_guarded", "the same for a prompt that could be taken for something else", Form, forms.ends_guarded),
    key!("stays", "the command line that stays at its terminal (`interactive = true`)", Form, forms.stays),
    key!("stays_guarded", "the same for a prompt that could be taken for something else", Form, forms.stays_guarded),
    key!("stays_by_default", "whether `prompt` stays at its terminal", Flag, stays_by_default),
    key!("subcommands", "what a prompt of one word must not be taken for", Words, subcommands),
    key!("looks_behind_dashes", "whether it looks for a subcommand after `--` as well", Flag, looks_behind_dashes),
    key!("prompt_options", "options for the prompt, with which `args` may end", Words, prompt_options),
    key!("unspeakable", "prompts that no form can convey", Words, unspeakable),
    key!("results", "words for a machine-readable stream", Words, results),
    key!("stream", "the form of that stream", Stream, stream),
    key!("closing_record", "whether a stream without a closing record has failed", Flag, closing_record),
    key!("trust", "what says that it succeeded: its exit status, or its stream", Trust, trust),
    key!("max_cost", "words that limit the cost, with `${COST}`", Words, max_cost),
    key!("session_new", "words that begin a conversation `${SESSION}`", Words, session_new),
    key!("session_resume", "words that resume it", Words, session_resume),
    key!("session_proof", "a file that exists if it can be resumed", Text, session_proof),
    key!("session_learned", "whether the harness chooses its name", Flag, session_learned),
    key!("hooks", "how it tells what it does", Hooks, hooks),
    key!("approval", "words for each value of the field `approval`", Approvals, approvals),
    key!("approval_options", "options in `args` that say the same", Words, approval_options),
    key!("approval_details", "options in `args` that permit this and that", Words, approval_details),
    key!("asks", "whether it asks for permission even if nobody can answer", Flag, asks),
    key!("skills_dir", "the folder that it reads skills from", InHome, skills_dir),
    key!("home_keep", "what a sandbox's home is filled with, below the user's home", Paths, home_keep),
    key!("login_files", "the files of its login, below the user's home", Paths, login_files),
    key!("auth", "the variables that hold its credential, in order", Names, auth),
    key!("variables", "variables that it is given", Variables, variables),
    key!("variables_at_terminal", "more of them for when it stays at its terminal", Variables, variables_at_terminal),
    key!("own_sandbox_off", "words that do without its own sandbox", Words, own_sandbox.off),
    key!("own_sandbox_words", "words that say something about its own sandbox", Words, own_sandbox.words),
    key!("rules", "what texts that it prints mean", Rules, rules),
];

/// The names of a rule's keys.
const RULE_KEYS: [&str; 3] = ["on", "match", "means"];

const STREAMS: [(&str, Option<StreamKind>); 6] = [
    ("claude", Some(StreamKind::Claude)),
    ("codex", Some(StreamKind::Codex)),
    ("gemini", Some(StreamKind::Gemini)),
    ("opencode", Some(StreamKind::Opencode)),
    ("pi", Some(StreamKind::Pi)),
    ("none", None),
];
const HOOKS: [(&str, Option<HookKind>); 3] =
    [("claude", Some(HookKind::Claude)), ("codex-notify", Some(HookKind::CodexNotify)), ("none", None)];
const TRUSTS: [(&str, Trust); 2] = [("status", Trust::Status), ("stream", Trust::Stream)];
const PLACES: [(&str, Place); 2] = [("exit", Place::Exit), ("screen", Place::Screen)];
const MEANINGS: [(&str, Meaning); 4] =
    [("login", Meaning::Login), ("quota", Meaning::Quota), ("blocked", Meaning::Blocked), ("idle", Meaning::Idle)];

/// Forms, and the ones that are for prompts that could be taken for something else.
const GUARDED: [(&str, &str); 3] = [("prompt", "prompt_guarded"), ("ends", "ends_guarded"), ("stays", "stays_guarded")];

/// Reads an entry over what the harness has. Returns what is wrong; each such value is left out, and so are keys that are not in
/// [`KEYS`].
pub fn read(harness: &mut Harness, table: &DeTable<'_>) -> Vec<Mistake> {
    // A form of which an entry gives only one has no other.
    for (plain, guarded) in GUARDED {
        if table.contains_key(plain) && !table.contains_key(guarded) {
            let key = KEYS.iter().find(|key| key.name == guarded);
            if let Some(Slot::Form(form)) = key.map(|key| (key.slot)(harness)) {
                *form = None;
            }
        }
    }
    let mut reader = Reader::default();
    for (name, value) in table {
        if let Some(key) = KEYS.iter().find(|key| key.name == name.get_ref()) {
            reader.fill((key.slot)(harness), key.name, value);
        }
    }
    reader.mistakes
}

#[derive(Default)]
struct Reader {
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn ignore(&mut self, at: usize, message: String) {
        self.mistakes.push(Mistake { at, message, is_fatal: false });
    }

    fn refuse(&mut self, at: usize, message: String) {
        self.mistakes.push(Mistake { at, message, is_fatal: true });
    }

    fn fill(&mut self, slot: Slot<'_>, name: &str, value: &Value<'_>) {
        match slot {
            Slot::Binary(binary) => self.binary(binary, name, value),
            Slot::Text(text) => {
                if let Some(read) = self.text(name, value) {
                    read.clone_into(text);
                }
            }
            Slot::InHome(path) => {
                let Some(read) = self.text(name, value) else { return };
                if read.is_empty() || read.strip_prefix("${HOME}/").is_some_and(is_below) {
                    read.clone_into(path);
                } else {
                    let right = format!("write for example {name} = \"${{HOME}}/.agents/skills\"");
                    self.ignore(
                        value.span().start,
                        format!("`{name}` is not a folder of the home, and is ignored; {right}"),
                    );
                }
            }
            Slot::Paths(paths) => {
                let what = "not a path below the home, and is ignored; write for example \".agents\"";
                if let Some(read) = self.those(name, value, is_below, what) {
                    *paths = read;
                }
            }
            Slot::Names(names) => {
                let what = "not a valid name of a variable, and is ignored; write for example \"API_KEY\"";
                if let Some(read) = self.those(name, value, is_variable_name, what) {
                    *names = read;
                }
            }
            Slot::Flag(flag) => match value.get_ref() {
                DeValue::Boolean(read) => *flag = *read,
                other => self.wrong_type(name, value, other, "write true or false, without quotes"),
            },
            Slot::Words(words) => {
                if let Some(read) = self.words(name, value) {
                    *words = read;
                }
            }
            Slot::Form(form) => {
                let Some(words) = self.words(name, value) else { return };
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                match Form::with_prompt(&words) {
                    Ok(read) => *form = Some(read),
                    Err(_) if words.is_empty() => {
                        *form = Some(Form { prompt: super::form::Place::Nowhere, ..Form::default() });
                    }
                    Err(right) => {
                        self.refuse(
                            value.span().start,
                            format!("`{name}` has no place for what it must hold; {right}"),
                        );
                    }
                }
            }
            Slot::Alone(form) => {
                let Some(words) = self.words(name, value) else { return };
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                match Form::without_prompt(&words) {
                    Ok(read) => *form = read,
                    Err(right) => self.refuse(value.span().start, format!("`{name}` has no place for `args`; {right}")),
                }
            }
            Slot::Variables(variables) => self.variables(variables, name, value),
            Slot::Stream(stream) => self.word(stream, name, value, &STREAMS),
            Slot::Hooks(hooks) => self.word(hooks, name, value, &HOOKS),
            Slot::Trust(trust) => self.word(trust, name, value, &TRUSTS),
            Slot::Approvals(approvals) => self.approvals(approvals, name, value),
            Slot::Rules(rules) => self.rules(rules, name, value),
        }
    }

    fn wrong_type(&mut self, name: &str, value: &Value<'_>, found: &DeValue<'_>, right: &str) {
        self.ignore(value.span().start, format!("`{name}` is {}, and is ignored; {right}", described(found)));
    }

    /// An empty program cannot run. Leaving the key out is something else, so this is an error.
    fn binary(&mut self, binary: &mut String, name: &str, value: &Value<'_>) {
        let right = "write the name or the path of the program, in quotes";
        match value.get_ref() {
            DeValue::String(text) if is_argument(text) && !text.trim().is_empty() => text.as_ref().clone_into(binary),
            DeValue::String(_) => self.refuse(value.span().start, format!("`{name}` names no program; {right}")),
            other => self.refuse(value.span().start, format!("`{name}` is {}; {right}", described(other))),
        }
    }

    fn text<'a>(&mut self, name: &str, value: &'a Value<'_>) -> Option<&'a str> {
        match value.get_ref() {
            DeValue::String(text) if is_argument(text) => return Some(text),
            DeValue::String(_) => {
                let what = format!("`{name}` is too long, or has a NUL character, and is ignored; shorten it");
                self.ignore(value.span().start, what);
            }
            other => self.wrong_type(name, value, other, "write a string, in quotes"),
        }
        None
    }

    fn words(&mut self, name: &str, value: &Value<'_>) -> Option<Vec<String>> {
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(name, value, value.get_ref(), "write an array of strings, in [ ]");
            return None;
        };
        // One that is left out would change what the others mean.
        array.iter().map(|word| self.text(name, word).map(str::to_owned)).collect()
    }

    /// Those strings of an array that are right, each for itself. `what` says what another one is.
    fn those(
        &mut self,
        name: &str,
        value: &Value<'_>,
        is_right: impl Fn(&str) -> bool,
        what: &str,
    ) -> Option<Vec<String>> {
        let DeValue::Array(array) = value.get_ref() else {
            self.words(name, value);
            return None;
        };
        let mut right = Vec::new();
        for value in array {
            match self.text(name, value) {
                Some(text) if is_right(text) => right.push(text.to_owned()),
                Some(text) => self.ignore(value.span().start, format!("{} in `{name}` is {what}", quoted(text))),
                None => {}
            }
        }
        Some(right)
    }

    fn word<T: Copy>(&mut self, into: &mut T, name: &str, value: &Value<'_>, words: &[(&str, T)]) {
        let text = value.get_ref().as_str();
        if let Some((_, meaning)) = words.iter().find(|(word, _)| Some(*word) == text) {
            *into = *meaning;
            return;
        }
        let known: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let right = format!("write one of {}", known.join(", "));
        match text {
            Some(text) => {
                let what = format!("`{name}` cannot be {}, and is ignored; {right}", quoted(text));
                self.ignore(value.span().start, what);
            }
            None => self.wrong_type(name, value, value.get_ref(), &right),
        }
    }

    fn variables(&mut self, variables: &mut BTreeMap<String, String>, name: &str, value: &Value<'_>) {
        let right = "write a table of strings, for example { CI = \"1\" }";
        let DeValue::Table(table) = value.get_ref() else {
            return self.wrong_type(name, value, value.get_ref(), right);
        };
        let mut read = BTreeMap::new();
        for (variable, value) in table {
            let (at, variable) = (variable.span().start, variable.get_ref().as_ref());
            if !is_variable_name(variable) {
                self.ignore(
                    at,
                    format!("{} is not a valid name of a variable, and is ignored; {right}", quoted(variable)),
                );
            } else if let Some(text) = self.text(&format!("{name}.{variable}"), value) {
                read.insert(variable.to_owned(), text.to_owned());
            }
        }
        *variables = read;
    }

    fn approvals(&mut self, approvals: &mut Approvals, name: &str, value: &Value<'_>) {
        let right = "write a table of arrays, for example { edits = [\"--edits\"] }";
        let DeValue::Table(table) = value.get_ref() else {
            return self.wrong_type(name, value, value.get_ref(), right);
        };
        for (key, value) in table {
            let (at, key) = (key.span().start, key.get_ref().as_ref());
            match Approval::named(key) {
                Some(approval) => {
                    if let Some(words) = self.words(&format!("{name}.{key}"), value) {
                        approvals.0.insert(approval, words);
                    }
                }
                None => self.ignore(at, format!("{} is not an `approval`, and is ignored; {right}", quoted(key))),
            }
        }
    }

    fn rules(&mut self, rules: &mut Arc<[Rule]>, name: &str, value: &Value<'_>) {
        let DeValue::Array(array) = value.get_ref() else {
            return self.wrong_type(name, value, value.get_ref(), "write [[rules]] above each, in double brackets");
        };
        if let Some(rest) = array.get(MOST_RULES) {
            let what = format!("there are too many rules, and the rest is ignored; write at most {MOST_RULES}");
            self.ignore(rest.span().start, what);
        }
        *rules = array.iter().take(MOST_RULES).filter_map(|value| self.rule(value)).collect();
    }

    fn rule(&mut self, value: &Value<'_>) -> Option<Rule> {
        let at = value.span().start;
        let DeValue::Table(table) = value.get_ref() else {
            self.ignore(at, format!("a rule is {}, and is ignored; write a table", described(value.get_ref())));
            return None;
        };
        for key in table.keys() {
            let (at, key) = (key.span().start, key.get_ref().as_ref());
            if !RULE_KEYS.contains(&key) {
                self.ignore(
                    at,
                    format!("unknown key {} of a rule is ignored; it has on, match and means", quoted(key)),
                );
            }
        }
        let (mut on, mut means) = (None, None);
        let places = PLACES.map(|(word, place)| (word, Some(place)));
        let meanings = MEANINGS.map(|(word, meaning)| (word, Some(meaning)));
        for key in RULE_KEYS {
            match (table.get(key), key) {
                (None, _) => self.ignore(at, format!("a rule without `{key}` is ignored; write `{key} = \"…\"`")),
                (Some(value), "on") => self.word(&mut on, "on", value, &places),
                (Some(value), "means") => self.word(&mut means, "means", value, &meanings),
                (Some(_), _) => {}
            }
        }
        let pattern = table.get("match")?;
        let text = self.text("match", pattern)?;
        if let Err(why) = pattern_fault(text) {
            self.refuse(
                pattern.span().start,
                format!("`match` is not a regular expression: {why}; fix it, or remove the rule"),
            );
            return None;
        }
        Some(Rule { on: on?, pattern: text.to_owned(), means: means? })
    }
}

/// What is wrong with a regular expression.
pub(crate) fn pattern_fault(pattern: &str) -> Result<(), String> {
    if pattern.is_empty() {
        return Err("it is empty, and would match everything".to_owned());
    }
    if pattern.len() > LONGEST_PATTERN {
        return Err(format!("it has more than {LONGEST_PATTERN} bytes"));
    }
    let read = regex_lite::RegexBuilder::new(pattern).size_limit(LARGEST_PATTERN).build();
    // The library's own words may have several lines.
    read.map(drop).map_err(|error| error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Whether a path leads to what is below the folder that it begins in.
fn is_below(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|component| matches!(component, Component::Normal(_)))
}

fn is_argument(text: &str) -> bool {
    !text.contains('\0') && text.len() <= MAX_ARGUMENT
}

fn quoted(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A value's type with its article.
pub fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// The entry as the TOML of a jcard: everything that it says.
pub fn written(harness: &Harness) -> String {
    let mut harness = harness.clone();
    let nothing = &mut Harness::named(&harness.name);
    let mut text = format!("[harnesses.{}]\n", harness.name);
    let mut rules = String::new();
    let heading = format!("[[harnesses.{}.rules]]", harness.name);
    for key in KEYS {
        let (slot, empty) = ((key.slot)(&mut harness), (key.slot)(nothing));
        let value = match (slot, empty) {
            (Slot::Binary(binary), _) => Some(string(binary)),
            (Slot::Text(text) | Slot::InHome(text), _) => (!text.is_empty()).then(|| string(text)),
            (Slot::Flag(flag), Slot::Flag(usual)) => (flag != usual).then(|| flag.to_string()),
            (Slot::Words(words) | Slot::Paths(words) | Slot::Names(words), _) => {
                (!words.is_empty()).then(|| array(words))
            }
            (Slot::Form(form), _) => form.as_ref().map(|form| match form.prompt {
                super::form::Place::Nowhere => array(&[]),
                _ => array(&form.words()),
            }),
            (Slot::Alone(form), _) => (!form.before_args.is_empty()).then(|| array(&form.words())),
            (Slot::Variables(variables), _) => {
                let pairs = variables.iter().map(|(name, value)| format!("{name} = {}", string(value)));
                (!variables.is_empty()).then(|| format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", ")))
            }
            (Slot::Stream(stream), _) => stream.and_then(|_| named(&STREAMS, stream)),
            (Slot::Hooks(hooks), _) => hooks.and_then(|_| named(&HOOKS, hooks)),
            (Slot::Trust(trust), _) => (*trust != Trust::default()).then(|| named(&TRUSTS, trust)).flatten(),
            (Slot::Approvals(approvals), _) => {
                for (approval, words) in &approvals.0 {
                    let _ = writeln!(text, "{}.{} = {}", key.name, approval.word(), array(words));
                }
                None
            }
            (Slot::Rules(all), _) => {
                for Rule { on, pattern, means } in all.iter() {
                    let (on, means) = (named(&PLACES, on), named(&MEANINGS, means));
                    let (on, means) = (on.unwrap_or_default(), means.unwrap_or_default());
                    let _ = write!(rules, "\n{heading}\non = {on}\nmatch = {}\nmeans = {means}\n", string(pattern));
                }
                None
            }
            (Slot::Flag(_), _) => None,
        };
        if let Some(value) = value {
            let _ = writeln!(text, "{} = {value}", key.name);
        }
    }
    text + &rules
}

/// A form of streams, as written.
pub fn stream_word(stream: StreamKind) -> &'static str {
    STREAMS.iter().find(|(_, kind)| *kind == Some(stream)).map_or("none", |(word, _)| word)
}

fn named<T: PartialEq>(words: &[(&str, T)], value: &T) -> Option<String> {
    words.iter().find(|(_, meaning)| meaning == value).map(|(word, _)| string(word))
}

fn array(words: &[String]) -> String {
    format!("[{}]", words.iter().map(|word| string(word)).collect::<Vec<_>>().join(", "))
}

/// A text as a TOML string.
fn string(text: &str) -> String {
    let is_plain = !text.contains(|c: char| c.is_control());
    if is_plain && text.contains(['"', '\\']) && !text.contains('\'') {
        return format!("'{text}'");
    }
    let escaped = text.chars().map(|c| match c {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// What is wrong with an entry, and the harness that it makes of the named one.
    fn read_over(name: &str, text: &str) -> (Harness, Vec<Mistake>) {
        let mut harness = Harness::find(name).map_or_else(|| Harness::named(name), |known| (*known).clone());
        let document = DeTable::parse(text).unwrap();
        let mistakes = read(&mut harness, document.get_ref());
        (harness, mistakes)
    }

    #[test]
    fn every_shipped_entry_is_read_without_a_mistake() {
        for (name, text) in crate::agent::harness::SHIPPED_TEXTS {
            let mut harness = Harness::named(name);
            let document = DeTable::parse(text).unwrap();
            assert_eq!(read(&mut harness, document.get_ref()), [], "{name}");
            assert!(!harness.binary.is_empty(), "{name}");
            for key in document.get_ref().keys() {
                assert!(KEYS.iter().any(|known| known.name == key.get_ref()), "{name}: {}", key.get_ref());
            }
        }
    }

    #[test]
    fn every_key_is_documented() {
        let page = include_str!("../../../docs/harnesses.md");
        let rows = page.lines().skip_while(|line| !line.starts_with("| key | type |")).skip(2);
        let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            (cells[0].trim_matches('`'), cells[2])
        });
        let rows: Vec<(&str, &str)> = rows.collect();
        assert_eq!(rows.len(), KEYS.len());
        for (key, (name, holds)) in KEYS.iter().zip(rows) {
            assert_eq!(key.name, name);
            assert!(holds.starts_with(key.holds) || ["trust"].contains(&name), "{name}");
        }
    }

    #[test]
    fn a_written_entry_is_read_as_it_was() {
        for harness in crate::agent::harness::shipped() {
            let text = written(harness);
            let document = DeTable::parse(&text).unwrap();
            let table = document.get_ref()["harnesses"].get_ref().as_table().unwrap();
            let mut again = Harness::named(&harness.name);
            let mistakes = read(&mut again, table[&*harness.name].get_ref().as_table().unwrap());
            assert_eq!((mistakes.as_slice(), &again), (&[][..], &**harness), "{text}");
        }
    }

    #[test]
    fn an_entry_changes_only_what_it_names() {
        let (harness, mistakes) = read_over("claude-code", "asks = false\napproval.edits = [\"-e\"]\n");
        assert_eq!(mistakes, []);
        let known = Harness::find("claude-code").unwrap();
        let mut expected = (*known).clone();
        expected.asks = false;
        expected.approvals.0.insert(Approval::Edits, vec!["-e".to_owned()]);
        assert_eq!(harness, expected);
    }

    #[test]
    fn a_form_without_its_guarded_one_is_for_every_prompt() {
        let (harness, _) = read_over("claude-code", "prompt = [\"-p\", \"${PROMPT}\"]");
        assert_eq!((harness.forms.prompt_guarded, harness.forms.stays_guarded.is_some()), (None, true));
    }

    #[test]
    fn rules_replace_the_shipped_ones_as_a_whole() {
        let (harness, mistakes) = read_over("codex", "[[rules]]\non = \"screen\"\nmatch = \"x\"\nmeans = \"idle\"\n");
        assert_eq!(mistakes, []);
        let rule = Rule { on: Place::Screen, pattern: "x".to_owned(), means: Meaning::Idle };
        assert_eq!(*harness.rules, [rule]);
    }

    #[rstest]
    #[case("asks = 1", "`asks` is an integer, and is ignored; write true or false", false)]
    #[case("results = \"-x\"", "`results` is a string, and is ignored; write an array", false)]
    #[case("results = [1]", "`results` is an integer, and is ignored; write a string", false)]
    #[case("stream = \"json\"", "`stream` cannot be \"json\", and is ignored; write one of \"claude\"", false)]
    #[case("trust = false", "`trust` is a boolean, and is ignored; write one of \"status\"", false)]
    #[case("approval = []", "`approval` is an array, and is ignored; write a table of arrays", false)]
    #[case("approval.all = []", "\"all\" is not an `approval`, and is ignored", false)]
    #[case("variables = { \"A B\" = \"\" }", "\"A B\" is not a valid name of a variable, and is ignored", false)]
    #[case("rules = 1", "`rules` is an integer, and is ignored; write [[rules]]", false)]
    #[case("rules = [{}]", "a rule without `on` is ignored", false)]
    #[case("binary = \"\"", "`binary` names no program; write the name", true)]
    #[case("binary = [\"x\"]", "`binary` is an array; write the name", true)]
    #[case("prompt = [\"-p\"]", "`prompt` has no place for what it must hold; end it", true)]
    #[case("alone = [\"${PROMPT}\"]", "`alone` has no place for `args`; end it", true)]
    #[case("[[rules]]\non = \"exit\"\nmatch = \"(\"\nmeans = \"login\"", "`match` is not a regular expression: ", true)]
    #[case(
        "[[rules]]\non = \"exit\"\nmatch = \"\"\nmeans = \"login\"",
        "`match` is not a regular expression: it is em",
        true
    )]
    #[case(
        "[[rules]]\non = \"exit\"\nmatch = \"(a{1000}){1000}\"\nmeans = \"login\"",
        "`match` is not a regular expression: ",
        true
    )]
    fn a_mistake_is_told_and_spoils_only_what_cannot_do_without(
        #[case] text: &str,
        #[case] expected: &str,
        #[case] is_fatal: bool,
    ) {
        let (_, mistakes) = read_over("codex", text);
        assert!(mistakes[0].message.starts_with(expected), "{mistakes:?}");
        assert_eq!(mistakes[0].is_fatal, is_fatal);
    }
}
