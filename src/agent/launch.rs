//! What is launched: everything that the launcher of an attempt needs to know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::approval::Asking;
use crate::agent::changes::Marks;
use crate::agent::conversation::SessionWords;
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
    /// The form of its machine-readable output, which then goes to a pipe instead of its terminal.
    pub stream: Option<StreamKind>,
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

impl Launch {
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
            stream: None,
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
