//! What is launched: everything that the launcher of an attempt needs to know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::approval::Asking;
use crate::agent::changes::Marks;
use crate::agent::conversation::{Line, SessionId, SessionWords};
use crate::agent::fingerprint::Fingerprint;
use crate::agent::harness::hooks::Hooks;
use crate::agent::harness::rule::Rule;
use crate::agent::hold::Group;
use crate::agent::name::Name;
use crate::agent::packages::Package;
use crate::agent::sandbox::Sandbox;
use crate::agent::skills::Skill;
use crate::agent::stream_kind::StreamKind;
use crate::agent::user::AgentUser;
use crate::sys::secret_bytes::SecretBytes;

/// What is launched. If any of it changes, the agent is launched again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The agent.
    pub name: Name,
    /// Its tmux session.
    pub session: Name,
    /// Whom it runs as; `None` is the default user.
    pub user: Option<AgentUser>,
    /// Program and arguments.
    pub arguments: Vec<SecretBytes>,
    /// Which of the arguments is the prompt, or holds it: it is for debug logs only.
    pub prompt: Option<usize>,
    /// What the preset gives of itself, secrets over it, and `env` over them.
    pub environment: BTreeMap<String, SecretBytes>,
    /// Which of them are secrets.
    pub secrets: BTreeSet<String>,
    /// The files of those whose variables are named otherwise.
    pub secret_sources: BTreeMap<String, String>,
    /// Whether their values are in files, too.
    pub has_secret_files: bool,
    /// What it is taught, sorted by name.
    pub skills: Vec<Skill>,
    /// Where its harness looks for that, below the home of its user; `None` if that is not known, or if there is nothing.
    pub skills_dir: Option<PathBuf>,
    /// Where it runs.
    pub workdir: PathBuf,
    /// The umask of the harness; `None` is the usual one.
    pub umask: Option<u32>,
    /// Whether git in it is to trust the repository of another user.
    pub trust_repository: bool,
    /// How it asks whether it may do something, if it asks agentd.
    pub asking: Option<Asking>,
    /// The sandbox that it runs in, if there is one.
    pub sandbox: Option<Sandbox>,
    /// Packages of Nix whose programs come first in its `PATH`.
    pub packages: Vec<Package>,
    /// How long these may take to be built. A change of this alone launches nothing.
    pub packages_timeout: Duration,
    /// How the harness learns which conversation it is in, if attempts share one. Only whether it does is in the fingerprint.
    pub session_words: Option<Arc<SessionWords>>,
    /// What is launched for a run that continues the conversation of another one, with slots for its id and for the task. `None` if it
    /// is no template, or if its harness has no conversations.
    pub continuation: Option<Line>,
    /// How a run of it gets its task; `None` if it is no template. Runs of one template differ in nothing else, so it is not in the
    /// fingerprint.
    pub task: Option<TaskForm>,
    /// The form of its machine-readable output, which then goes to a pipe instead of its terminal.
    pub stream: Option<StreamKind>,
    /// What its standard input, output and error are. What is on its standard input is not in the fingerprint.
    pub io: Io,
    /// The hooks that the harness is given, and after how many of its arguments. Not in the fingerprint: nothing is launched again for
    /// them.
    pub hooks: Option<Hooks>,
    /// With which agents it shares its credential. It is not launched again because of that.
    pub group: Group,
    /// What its output and its screen mean. Not in the fingerprint either: it is policy.
    pub rules: Arc<[Rule]>,
    /// Of all of the above but what the preset gives of itself.
    pub fingerprint: Fingerprint,
    /// Of each of them, to tell by name what a later declaration changes.
    pub marks: Marks,
    /// Whether every secret could be read, or was read before. If not, what an earlier daemon launched is not to be judged by this.
    pub is_certain: bool,
}

/// Stands for the task in an argument. No argument can contain it, so nothing that an entry says is taken for it.
pub const TASK_SLOT: &str = "\0task\0";

/// How the runs of a template get their tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskForm {
    /// In the place of the [slot](TASK_SLOT) in an argument.
    Argument {
        /// What the entry says before every task.
        preface: Option<SecretBytes>,
    },
    /// On standard input.
    Stdin {
        /// What the entry says before every task.
        preface: Option<SecretBytes>,
    },
}

impl TaskForm {
    /// What the entry says before every task.
    pub fn preface(&self) -> Option<&SecretBytes> {
        match self {
            Self::Argument { preface } | Self::Stdin { preface } => preface.as_ref(),
        }
    }

    /// What a run is told: the task after what the entry says, with an empty line between. The task of a schedule is what the entry
    /// says, which is said once.
    pub fn told(&self, task: &SecretBytes) -> SecretBytes {
        match self.preface().filter(|preface| *preface != task) {
            Some(preface) => SecretBytes::from([preface.as_slice(), b"\n\n", task.as_slice()].concat()),
            None => task.clone(),
        }
    }
}

/// The word with the task in the place of the slot.
fn with_task(word: SecretBytes, task: &SecretBytes) -> SecretBytes {
    let slot = TASK_SLOT.as_bytes();
    match memchr::memmem::find(word.as_slice(), slot) {
        Some(at) => {
            let (before, after) = (&word.as_slice()[..at], &word.as_slice()[at + slot.len()..]);
            SecretBytes::from([before, task.as_slice(), after].concat())
        }
        None => word,
    }
}

/// What the standard input, output and error of a harness are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Io {
    /// Its terminal.
    #[default]
    Terminal,
    /// None of them is a terminal: output and error are pipes, each of which is kept in a file of its own.
    Pipes {
        /// What it reads until the end; `None` is nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stdin: Option<SecretBytes>,
    },
}

impl Io {
    /// Without anything on standard input.
    pub const PIPES: Self = Self::Pipes { stdin: None };

    /// Whether it is pipes.
    pub fn is_pipes(&self) -> bool {
        matches!(self, Self::Pipes { .. })
    }

    /// Whether it is the terminal.
    pub fn is_terminal(&self) -> bool {
        !self.is_pipes()
    }
}

impl Launch {
    /// What is launched for a run of this template, with this task. `continues` is the conversation that it goes on with; `None` if it
    /// cannot.
    pub fn of_run(&self, run: Name, task: &SecretBytes, continues: Option<&SessionId>) -> Option<Self> {
        let task = &self.task.as_ref().map_or_else(|| task.clone(), |form| form.told(task));
        let fill = |words: &[SecretBytes]| words.iter().map(|word| with_task(word.clone(), task)).collect::<Vec<_>>();
        let line = |line: &Line| Line(fill(&line.0));
        let mut launch = Self { session: run.clone(), name: run, continuation: None, ..self.clone() };
        if let Some(id) = continues {
            let words = self.continuation.clone()?.filled(id);
            (launch.arguments, launch.session_words) = (fill(&words), None);
        } else {
            launch.arguments = fill(&self.arguments);
            launch.session_words = self.session_words.as_ref().map(|words| {
                let SessionWords { new, resume, proof, scope } = &**words;
                let (proof, scope) = (proof.clone(), scope.clone());
                Arc::new(SessionWords { new: new.as_ref().map(line), resume: line(resume), proof, scope })
            });
        }
        if let Some(TaskForm::Stdin { .. }) = launch.task.take() {
            launch.io = Io::Pipes { stdin: Some(task.clone()) };
        }
        Some(launch)
    }

    /// For tests: of an agent named `a` that runs nothing and is given nothing.
    #[cfg(any(test, fuzzing))]
    pub fn of_nothing() -> Self {
        let name = || Name::try_from("a").unwrap_or_else(|error| unreachable!("{error}"));
        Self {
            name: name(),
            session: name(),
            user: None,
            arguments: Vec::new(),
            prompt: None,
            environment: BTreeMap::new(),
            secrets: BTreeSet::new(),
            secret_sources: BTreeMap::new(),
            has_secret_files: false,
            skills: Vec::new(),
            skills_dir: None,
            workdir: "/".into(),
            umask: None,
            trust_repository: false,
            asking: None,
            sandbox: None,
            packages: Vec::new(),
            packages_timeout: crate::agent::packages::TIMEOUT,
            session_words: None,
            continuation: None,
            task: None,
            stream: None,
            io: Io::Terminal,
            hooks: None,
            group: Group::of_login("custom", "agent"),
            rules: Arc::default(),
            fingerprint: Fingerprint::default(),
            marks: Marks::none(),
            is_certain: true,
        }
    }

    /// The command line for a log, the prompt as its length only unless `reveal` is set.
    pub fn command_line(&self, reveal: bool) -> String {
        let words = self.arguments.iter().enumerate().map(|(at, argument)| {
            if self.prompt == Some(at) && !reveal {
                format!("[prompt of {} bytes]", argument.as_slice().len())
            } else {
                format!("{:?}", String::from_utf8_lossy(argument.as_slice()))
            }
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// The secrets, by variable.
    pub fn secrets(&self) -> impl Iterator<Item = (&String, &SecretBytes)> {
        self.environment.iter().filter(|(name, _)| self.secrets.contains(*name))
    }

    /// The name of the file that holds the value of this secret.
    pub fn file_of<'a>(&'a self, secret: &'a str) -> &'a str {
        self.secret_sources.get(secret).map_or(secret, String::as_str)
    }

    /// The values of the secrets.
    pub fn secret_values(&self) -> impl Iterator<Item = &SecretBytes> {
        self.environment.iter().filter(|(name, _)| self.secrets.contains(*name)).map(|(_, value)| value)
    }
}
