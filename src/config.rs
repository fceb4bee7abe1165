//! The jcard: TOML text in, validated agents out.
//!
//! Only `[agent]`, `[[agents]]` and `[harnesses]` are read. A mistake in one entry concerns that entry alone: it becomes a [`Finding`] with its
//! position in the file, and the other entries stand. This module is the only home of defaults, and it does not touch the system:
//! what needs the system (whether a `workdir` exists, what a `prompt_file` holds) is found out later, in [`crate::inputs`].

mod advice;
mod agents;
pub mod answer;
mod confinement;
pub mod drop_in;
mod fields;
mod harnesses;
mod position;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use toml::de::DeTable;

use crate::agent::harness::Harness;
use crate::agent::name::Name;
use crate::agent::sandbox::Engine;
use crate::agent::spec::{AgentSpec, Workdir};
use crate::text::printable::without_byte_order_mark;

use self::position::Places;

pub use self::agents::MAX_GENERATION;
pub use self::schema::schema;

/// The largest jcard that is read, in bytes. The reader of the file must refuse a larger one.
pub const MAX_SIZE: u64 = 8 << 20;

/// The most agents that one jcard may declare, counting replicas.
pub const MAX_AGENTS: usize = 10_000;

/// The most replicas of one entry.
pub const MAX_REPLICAS: u64 = 1_000;

/// The most bytes that the arguments and variables of all agents may take together, counting replicas.
///
/// Without this limit, a jcard of a few megabytes could fill the memory a thousand times over.
pub const MAX_TOGETHER: usize = 64 << 20;

/// The most findings that are listed in one text.
const MAX_TOLD: usize = 50;

/// The most errors, and the most warnings, that are recorded for one entry.
const MAX_NOTED: usize = 100;

/// Options for reading a jcard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Run agents that are declared `type = "sandboxed"` without a sandbox.
    pub unsandboxed: bool,
    /// What an entry is that says neither its `type` nor its `sandbox`.
    pub default_type: DefaultType,
    /// The engine of a sandboxed agent whose entry names none.
    pub engine: Engine,
    /// The program of runsc; `None` to find it in the `PATH` of the login.
    pub runsc: Option<PathBuf>,
    /// Expect that the jcard was written for the Go daemon, which runs an entry without a `type` in a sandbox.
    pub from_go: bool,
    /// The workdir of agents whose entries name none.
    pub default_workdir: Workdir,
}

impl Default for Options {
    fn default() -> Self {
        let default_workdir = Workdir::Absolute("/home/agent/workspace".into());
        Self {
            unsandboxed: false,
            default_type: DefaultType::default(),
            engine: Engine::default(),
            runsc: None,
            from_go: false,
            default_workdir,
        }
    }
}

/// What an entry without a `type` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum DefaultType {
    /// It runs directly as the agent user.
    #[default]
    Native,
    /// It runs in a sandbox, as under the Go daemon.
    Sandboxed,
}

/// Reads a jcard.
///
/// # Errors
///
/// The file as a whole is unusable, and does not say which agents are declared: it is not UTF-8, not TOML, or only white space.
/// Anything less is a finding in the [`Config`].
pub fn parse(text: &[u8], options: &Options) -> Result<Config, Vec<Finding>> {
    let text = without_byte_order_mark(text);
    let text = std::str::from_utf8(text).map_err(|error| {
        let valid = text.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        let message = "the file is not text in UTF-8; save it as UTF-8";
        vec![Places::new(valid).finding(error.valid_up_to(), Severity::Error, message)]
    })?;
    let places = Places::new(text);
    if text.trim().is_empty() {
        let message = "the file is empty; a jcard without agents still has a section or a comment that says so";
        return Err(vec![places.finding(0, Severity::Error, message)]);
    }
    // Only the bare message: the error's own display quotes the line, which may contain a secret.
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let remedy =
            if is_like_yaml(text, at) { "; this looks like YAML, write [[agents]] and key = value" } else { "" };
        vec![places.finding(at, Severity::Error, format!("the file is not valid TOML: {}{remedy}", error.message()))]
    })?;
    Ok(agents::read(document.get_ref(), &places, options))
}

/// Where the tables of agents and their fields stand in a jcard, in the order of the file ([`Entry::table`]); empty if the file as a
/// whole is unusable.
pub fn lines(text: &[u8]) -> Vec<Lines> {
    let Ok(text) = std::str::from_utf8(without_byte_order_mark(text)) else { return Vec::new() };
    let places = Places::new(text);
    DeTable::parse(text).map(|document| agents::lines(document.get_ref(), &places)).unwrap_or_default()
}

/// The lines of one table, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    /// The line of its header.
    pub header: usize,
    /// The line of each field that is set.
    pub fields: BTreeMap<String, usize>,
}

/// Whether the line with this byte has a key and a colon.
fn is_like_yaml(text: &str, at: usize) -> bool {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next().unwrap_or_default().trim_start().trim_start_matches("- ");
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    line.split_once(':').is_some_and(|(key, rest)| {
        !key.is_empty() && key.chars().all(is_of_key) && (rest.is_empty() || rest.starts_with(' '))
    })
}

/// Renders findings as one text, one per line; of very many, only the first.
fn tell<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> String {
    let mut lines: Vec<String> = findings.into_iter().map(ToString::to_string).collect();
    if lines.len() > MAX_TOLD {
        let more = lines.len() - MAX_TOLD;
        lines.truncate(MAX_TOLD);
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

/// What a jcard declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The entries in the order of the file (`[agent]` first), with `replicas` expanded, but without those whose name is taken.
    ///
    /// An entry that does not say which agents it means is listed as one of them, in error, under its most likely name.
    pub entries: Vec<Entry>,
    /// The table of harnesses in force.
    pub harnesses: Vec<Arc<Harness>>,
    /// All findings, in the order of the file.
    pub findings: Vec<Finding>,
    /// Warnings about entries whose agents the Go daemon would run in a sandbox. They are apart because the daemon says this once
    /// for all of them.
    pub sandbox_expected: Vec<Finding>,
    /// Whether every entry says which agents it means. While one does not, an agent that is not in `entries` is not known to be
    /// undeclared, and must not be stopped for that.
    pub complete: bool,
}

impl Config {
    /// The errors in the jcard, including its entries, as one text (`line:column: message`, one per line).
    pub fn error(&self) -> Option<String> {
        self.tell_all(Severity::Error)
    }

    /// The warnings, in the same form.
    pub fn warning(&self) -> Option<String> {
        self.tell_all(Severity::Warning)
    }

    fn tell_all(&self, severity: Severity) -> Option<String> {
        let findings: Vec<_> = self.findings.iter().filter(|finding| finding.severity == severity).collect();
        (!findings.is_empty()).then(|| tell(findings))
    }
}

/// One declared agent, valid or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The agent it declares.
    pub name: Name,
    /// The harness as written, if it is a known one.
    pub harness: Option<Arc<Harness>>,
    /// The number of its table in the file, from 0; see [`lines`].
    pub table: usize,
    /// The agent, or the errors in its entry (`line:column: problem; remedy`, one per line).
    pub spec: Result<AgentSpec, String>,
}

/// One remark on a jcard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is an error or a warning.
    pub severity: Severity,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// The problem, and after a semicolon the remedy. Never quotes a value that may be secret.
    pub message: String,
    /// The same with the exact remedy, if there is one. It may repeat what the file says, so it is only for those who check the file.
    pub exact: Option<String>,
}

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// An entry, or the file, cannot be used.
    Error,
    /// Something was ignored.
    Warning,
}

/// Writes `line:column: message`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}
