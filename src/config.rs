//! The jcard: TOML text in, validated agents out.
//!
//! Only `[agent]` and `[[agents]]` are read. A mistake in one entry concerns that entry alone: it becomes a [`Finding`] with its
//! place in the file, and the other entries stand. This module is the only home of defaults, and it touches nothing of the system:
//! what needs the system (whether a `workdir` exists, what a `prompt_file` holds) is found out later, in `desired`.

mod agents;
mod fields;
mod position;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::de::DeTable;

use self::position::Places;
pub use self::schema::schema;
use crate::agent::harness::Harness;
use crate::sys::secret_bytes::SecretBytes;
use crate::text::printable::without_byte_order_mark;

/// The largest jcard that is worth reading, in bytes. Whoever reads the file refuses a larger one.
pub const MAX_SIZE: u64 = 8 << 20;

/// The most agents that one jcard may declare, replicas counted.
pub const MAX_AGENTS: usize = 10_000;

/// The most replicas of one entry.
pub const MAX_REPLICAS: u64 = 1_000;

/// The most bytes that the arguments and variables of all agents may take together, replicas counted. A jcard of a few megabytes
/// could otherwise fill the memory a thousand times over.
pub const MAX_TOGETHER: usize = 64 << 20;

/// The most findings that are told in one text.
const MAX_TOLD: usize = 50;

/// The most errors, and the most warnings, that are noted of one entry.
const MAX_NOTED: usize = 100;

/// What the reader of a jcard is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Take `type = "sandboxed"` for an agent that runs without a sandbox, instead of for an error.
    pub unsandboxed: bool,
    /// Where agents work whose entries do not say.
    pub default_workdir: Workdir,
}

impl Default for Options {
    fn default() -> Self {
        Self { unsandboxed: false, default_workdir: Workdir::Absolute("/home/agent/workspace".into()) }
    }
}

/// Reads a jcard.
///
/// # Errors
///
/// The file as a whole is unusable, and says nothing about which agents are declared: it is not UTF-8, not TOML, or nothing but
/// white space. Anything less is a finding in the [`Config`].
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
    // Only the bare message: the error's own display quotes the line, which may hold a secret.
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        vec![places.finding(at, Severity::Error, format!("the file is not valid TOML: {}", error.message()))]
    })?;
    Ok(agents::read(document.get_ref(), &places, options))
}

/// Findings as one text, a line each; of very many only the first.
fn tell<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> String {
    let mut lines: Vec<String> = findings.into_iter().map(ToString::to_string).collect();
    if lines.len() > MAX_TOLD {
        let more = lines.len() - MAX_TOLD;
        lines.truncate(MAX_TOLD);
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

/// A text is not the name of an agent or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a name has 1 to 64 characters, of A-Z, a-z, 0-9, _ and -")]
pub struct InvalidName;

/// The name of an agent or of a tmux session: 1 to 64 bytes of `[A-Za-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl Name {
    /// The most bytes that a name may have.
    pub const MAX_LENGTH: usize = 64;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form in which two names are compared: names that differ only in case are one.
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl TryFrom<&str> for Name {
    type Error = InvalidName;

    fn try_from(text: &str) -> Result<Self, InvalidName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let is_name = (1..=Self::MAX_LENGTH).contains(&text.len()) && text.bytes().all(is_allowed);
        if is_name { Ok(Self(text.to_owned())) } else { Err(InvalidName) }
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::try_from(text.as_str())
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::try_from(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a jcard declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The entries, `replicas` expanded, in the order of the file (`[agent]` first), but not those whose name another has. An entry that
    /// does not tell which agents it means is one of them, in error, under the name that it most likely means.
    pub entries: Vec<Entry>,
    /// Everything that is worth a person's attention, in the order of the file.
    pub findings: Vec<Finding>,
    /// Whether every entry told which agents it means. While one does not, an agent that is not in `entries` is not known to
    /// be undeclared, and must not be stopped for it.
    pub complete: bool,
}

impl Config {
    /// What is wrong with the jcard, entries included, as one text (`line:column: message`, a line each).
    pub fn error(&self) -> Option<String> {
        self.tell_all(Severity::Error)
    }

    /// What was ignored, likewise.
    pub fn warning(&self) -> Option<String> {
        self.tell_all(Severity::Warning)
    }

    fn tell_all(&self, severity: Severity) -> Option<String> {
        let findings: Vec<_> = self.findings.iter().filter(|finding| finding.severity == severity).collect();
        (!findings.is_empty()).then(|| tell(findings))
    }
}

/// One declared agent, well or badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The agent it declares.
    pub name: Name,
    /// The harness as written, when it is known to be one.
    pub harness: Option<&'static Harness>,
    /// The agent, or what is wrong with its entry (`line:column: what; what would be right`, several joined by newlines).
    pub spec: Result<AgentSpec, String>,
}

/// One agent as declared, every field validated and every default filled in.
#[derive(Clone, PartialEq, Eq)]
pub struct AgentSpec {
    /// Unique without regard to case.
    pub name: Name,
    /// The preset that gives the default binary and the form of the prompt's arguments.
    pub harness: &'static Harness,
    /// Program and first arguments: `command`, or the preset's binary.
    pub command: Vec<String>,
    /// Arguments after the command and before the prompt's.
    pub args: Vec<String>,
    /// What the harness is told to do; without it somebody has to sit down at its terminal.
    pub prompt: Option<Prompt>,
    /// Whether it stays at its terminal when it has done what the prompt says; `None` is as the preset has always been.
    pub interactive: Option<bool>,
    /// Where the harness runs.
    pub workdir: Workdir,
    /// The tmux session.
    pub session: Name,
    /// Variables over the secrets.
    pub env: BTreeMap<String, SecretBytes>,
    /// The secrets that are passed: all of them, or these, which must then all be there.
    pub secrets: Option<BTreeSet<String>>,
    /// How the agent is confined.
    pub kind: Kind,
    /// When it is restarted, timed out, killed.
    pub policy: Policy,
}

/// Shows no prompt and no value of a variable.
impl fmt::Debug for AgentSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentSpec")
            .field("name", &self.name)
            .field("harness", &self.harness.name)
            .field("command", &self.command)
            .field("workdir", &self.workdir)
            .field("session", &self.session)
            .field("env", &self.env.keys())
            .field("secrets", &self.secrets)
            .field("kind", &self.kind)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// Where a prompt comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Prompt {
    /// `prompt`: this text, byte for byte.
    Text(String),
    /// `prompt_file`, as written: relative to the jcard's folder unless absolute.
    File(PathBuf),
}

/// Shows the length of a text, not the text.
impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// A working directory as declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workdir {
    /// An absolute path.
    Absolute(PathBuf),
    /// A path below the agent user's home (`~/…`; `~` is the home itself).
    Home(PathBuf),
}

/// How an agent is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Run directly as the agent user.
    Native,
    /// Declared `sandboxed`, which this version cannot do.
    Sandboxed,
}

/// What decides when an agent is started again, timed out and killed. A change of it alone touches no living process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// When to start again.
    pub restart: Restart,
    /// How many restarts are made; `None` is without limit.
    pub max_restarts: Option<u64>,
    /// From the first start of the declaration, restarts included.
    pub timeout: Option<Duration>,
    /// Between SIGINT and SIGKILL.
    pub grace_period: Duration,
    /// The delays before the first, second, … restart; the last one repeats. Never empty.
    pub backoff: Vec<Duration>,
    /// After this long a healthy run the delays start over.
    pub backoff_reset: Option<Duration>,
    /// What it may take of the machine.
    #[serde(default)]
    pub limits: Limits,
}

impl Default for Policy {
    /// Of an entry that says nothing of it.
    fn default() -> Self {
        Self {
            restart: Restart::No,
            max_restarts: None,
            timeout: None,
            grace_period: Duration::from_secs(30),
            backoff: vec![Duration::from_secs(3)],
            backoff_reset: None,
            limits: Limits::default(),
        }
    }
}

/// What an agent, with all that it starts, may take of the machine. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `memory`, in bytes.
    pub memory: Option<u64>,
    /// `pid_limit`: processes and threads.
    pub tasks: Option<u64>,
    /// `cpu`, in percent of one processor's time.
    pub cpu: Option<u64>,
}

impl Limits {
    /// Whether there is any.
    pub fn is_any(&self) -> bool {
        *self != Self::default()
    }
}

/// When an agent that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    No,
    /// After a non-zero status, a signal, or an unknown end.
    OnFailure,
    /// After every end.
    Always,
}

/// One remark on a jcard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it spoils something.
    pub severity: Severity,
    /// Where, counted from 1; columns count characters.
    pub line: usize,
    /// See `line`.
    pub column: usize,
    /// What is wrong, and after a semicolon what would be right. Never quotes a value that may be secret.
    pub message: String,
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

/// `line:column: message`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}
