//! The jcard: TOML text in, validated agents out.
//!
//! Only `[agent]` and `[[agents]]` are read. A mistake in one entry concerns that entry alone: it becomes a [`Finding`] with its
//! place in the file, and the other entries stand. This module is the only home of defaults, and it touches nothing of the system:
//! what needs the system (whether a `workdir` exists, what a `prompt_file` holds) is found out later, in `desired`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::Harness;

/// The name of an agent or of a tmux session: 1 to 64 bytes of `[A-Za-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form in which two names are compared: names that differ only in case are one.
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
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
    /// The entries whose names are known and unique, `replicas` expanded, in the order of the file (`[agent]` first).
    pub entries: Vec<Entry>,
    /// Everything that is worth a person's attention, in the order of the file.
    pub findings: Vec<Finding>,
    /// Whether every entry told which agents it means. While one does not, an agent that is not in `entries` is not known to
    /// be undeclared, and must not be stopped for it.
    pub complete: bool,
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
    /// What the harness is told to do; `None` is interactive.
    pub prompt: Option<Prompt>,
    /// Where the harness runs.
    pub workdir: Workdir,
    /// The tmux session.
    pub session: Name,
    /// Variables over the secrets.
    pub env: BTreeMap<String, String>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

/// When an agent that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
