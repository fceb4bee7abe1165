//! What a jcard says an agent is to be, before anything else is known.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::approval::Asking;
use crate::agent::conversation::Resume;
use crate::agent::cost::MaxCost;
use crate::agent::harness::{Approval, Choices, Harness};
use crate::agent::hold::{self, OnHold};
use crate::agent::name::Name;
use crate::agent::packages::Package;
use crate::agent::rotation::Rotation;
use crate::agent::sandbox::{Engine, Home, Network, Sandbox};
use crate::agent::user::UserName;
use crate::agent::verdict::Terms;
use crate::sys::secret_bytes::SecretBytes;

/// One agent as declared, every field validated and every default filled in.
#[derive(Clone, PartialEq, Eq)]
pub struct AgentSpec {
    /// Unique without regard to case.
    pub name: Name,
    /// The preset that gives the default binary and the form of the prompt's arguments.
    pub harness: Arc<Harness>,
    /// Program and first arguments: `command`, or the preset's binary.
    pub command: Vec<String>,
    /// Arguments after the command and before the prompt's.
    pub args: Vec<String>,
    /// What the harness is told to do; without it somebody has to sit down at its terminal.
    pub prompt: Option<Prompt>,
    /// Whether it stays at its terminal when it has done what the prompt says; `None` is as the preset has always been.
    pub interactive: Option<bool>,
    /// What it gets instead when it resumes a conversation.
    pub resume_prompt: String,
    /// Whether it prints a machine-readable stream, which is read.
    pub results: bool,
    /// What it may do without asking; `None` is as the harness is configured.
    pub approval: Option<Approval>,
    /// How it asks an operator whether it may do what the harness would ask about (`approval = "ask"`).
    pub asking: Option<Asking>,
    /// Where the harness runs.
    pub workdir: Workdir,
    /// The tmux session.
    pub session: Name,
    /// Whom it runs as; `None` is the default user.
    pub user: Option<UserName>,
    /// The umask of the harness; `None` is the usual one.
    pub umask: Option<u32>,
    /// Whether git in it is to trust the repository of another user.
    pub trust_repository: bool,
    /// Variables over the secrets.
    pub env: BTreeMap<String, SecretBytes>,
    /// The secrets that are passed: all of them, or these, which must then all be there. Variables, and the files that hold their
    /// values.
    pub secrets: Option<BTreeMap<String, String>>,
    /// Whether the values are in files, too.
    pub secret_files: bool,
    /// Folders with skills, as written: relative to the jcard's folder unless absolute. A last part `*` is each folder there.
    pub skills: Vec<String>,
    /// Packages of Nix whose programs come first in its `PATH`.
    pub packages: Vec<Package>,
    /// How long these may take to be built.
    pub packages_timeout: Duration,
    /// How the agent is confined.
    pub kind: Kind,
    /// When it is restarted, timed out, killed.
    pub policy: Policy,
}

impl AgentSpec {
    /// What it wants of its harness's command line.
    pub fn choices(&self) -> Choices<'_> {
        Choices {
            interactive: self.interactive,
            results: self.results,
            approval: self.approval,
            in_sandbox: self.kind.sandbox().is_some(),
            ..Choices::default()
        }
    }
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
            .field("user", &self.user)
            .field("umask", &self.umask)
            .field("trust_repository", &self.trust_repository)
            .field("env", &self.env.keys())
            .field("secrets", &self.secrets)
            .field("secret_files", &self.secret_files)
            .field("skills", &self.skills)
            .field("packages", &self.packages)
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Run directly as the agent user.
    Native,
    /// Declared `sandboxed`, and run directly anyway: agentd runs with `--unsandboxed`.
    Unsandboxed,
    /// Run in this sandbox. Paths in it may begin with `~/`, which is the home of the agent user.
    Sandboxed(Sandbox),
}

/// How the API says the kind of an agent that runs in a sandbox.
const SANDBOXED: &str = "sandboxed";

impl Kind {
    /// As the API says it.
    pub fn in_words(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Unsandboxed => "native (unsandboxed)",
            Self::Sandboxed(_) => SANDBOXED,
        }
    }

    /// What [`Kind::in_words`] says, read again, with the engine that a sandbox is made by. Anything else was written by another
    /// build, which had other kinds.
    pub fn from_words(words: &str, engine: Option<Engine>) -> Self {
        match words {
            SANDBOXED => Self::Sandboxed(Sandbox {
                engine: engine.unwrap_or_default(),
                program: None,
                read: Vec::new(),
                write: Vec::new(),
                home: Home::default(),
                seed: Vec::new(),
                network: Network::default(),
                proxy: None,
            }),
            words if words == Self::Unsandboxed.in_words() => Self::Unsandboxed,
            _ => Self::Native,
        }
    }

    /// The sandbox, if there is one.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        match self {
            Self::Sandboxed(sandbox) => Some(sandbox),
            Self::Native | Self::Unsandboxed => None,
        }
    }
}

/// The delays of an entry that gives no `backoff`, in seconds: five soon restarts, then fewer and fewer.
const BACKOFF: [u64; 9] = [3, 3, 3, 3, 3, 10, 30, 60, 300];

/// The `backoff_reset` of an entry that gives neither this nor `backoff`.
const BACKOFF_RESET: Duration = Duration::from_mins(10);

/// When an agent restarts, times out, and is killed. A change of the policy alone touches no living process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// When to start again.
    pub restart: Restart,
    /// How many restarts are made; `None` is without limit.
    pub max_restarts: Option<u64>,
    /// From the first start of the declaration, restarts included.
    pub timeout: Option<Duration>,
    /// How long it may be idle or blocked, by the word of its harness, before it is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// Between SIGINT and SIGKILL.
    pub grace_period: Duration,
    /// The delays before the first, second, … restart; the last one repeats. Never empty.
    pub backoff: Vec<Duration>,
    /// After this long a healthy run the delays start over.
    pub backoff_reset: Option<Duration>,
    /// What it may take of the machine.
    #[serde(default)]
    pub limits: Limits,
    /// Whether it may run. An override can say otherwise.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub enabled: bool,
    /// Each higher number restarts it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// What agents can be selected by: each a key with a value, which may be empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Which attempts share a conversation.
    #[serde(default, skip_serializing_if = "Resume::is_never")]
    pub resume: Resume,
    /// The most that a life of it may cost, as far as its harness says what it costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<MaxCost>,
    /// How its machine-readable output is judged; `None` if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Terms>,
    /// What new values of its secrets do.
    #[serde(default, skip_serializing_if = "Rotation::is_usual")]
    pub rotation: Rotation,
    /// What becomes of it when its credential does not work. Records of earlier builds lack it.
    #[serde(default, skip_serializing_if = "OnHold::is_off")]
    pub hold: OnHold,
    /// How long after it was found to be logged out an agent of its group tries again.
    #[serde(default = "hold_retry", skip_serializing_if = "is_hold_retry")]
    pub hold_retry: Duration,
    /// What of it, and of how the agent is confined, its entry does not say.
    #[serde(default, skip_serializing_if = "ByDefault::is_nothing")]
    pub by_default: ByDefault,
}

/// What an entry leaves to the daemon, so that people can be told where it comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ByDefault {
    /// Whether the agent has a sandbox only because the daemon sandboxes every entry without a `type`.
    pub sandbox: bool,
    /// Whether all of its limits are those of every sandboxed agent.
    pub limits: bool,
}

impl ByDefault {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

fn yes() -> bool {
    true
}

fn hold_retry() -> Duration {
    hold::RETRY
}

fn is_hold_retry(retry: &Duration) -> bool {
    *retry == hold::RETRY
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Default for Policy {
    /// Of an entry that says nothing of it.
    fn default() -> Self {
        Self {
            restart: Restart::No,
            max_restarts: None,
            timeout: None,
            idle_timeout: None,
            grace_period: Duration::from_secs(30),
            backoff: BACKOFF.map(Duration::from_secs).to_vec(),
            backoff_reset: Some(BACKOFF_RESET),
            limits: Limits::default(),
            enabled: true,
            generation: 0,
            labels: BTreeMap::new(),
            resume: Resume::Never,
            max_cost: None,
            results: None,
            rotation: Rotation::default(),
            hold: OnHold::Off,
            hold_retry: hold::RETRY,
            by_default: ByDefault::default(),
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

/// Whether an agent that has ended starts again.
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
