//! Why an agent does not start, why it was launched, and why it is being stopped, as data.
//!
//! The `reason` of an agent is a sentence for people, made of these. Clients decide by the data: a sentence may change its words at
//! any time. A newer daemon may know more kinds; a client reads those as `Unknown` and shows their name.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::activity::Doing;
use crate::wire::hold::{self, HoldKind};
use crate::wire::status::Time;

/// Something that an agent waits for before it starts. Kinds may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum WaitingFor {
    /// A working directory that the agent user can enter.
    Workdir {
        /// The directory.
        path: String,
        /// What is wrong with it.
        #[serde(flatten)]
        problem: Problem,
    },
    /// A prompt file that the agent user can read.
    PromptFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[serde(flatten)]
        problem: Problem,
    },
    /// The user whom the agent is to run as: it was there before and could be an agent user, and is not now or cannot.
    User {
        /// The user.
        user: String,
        /// What is wrong with it.
        #[serde(flatten)]
        problem: Problem,
    },
    /// The home of the user whom the agent is to run as.
    Home {
        /// The user.
        user: String,
        /// The home.
        path: String,
        /// What is wrong with it.
        #[serde(flatten)]
        problem: Problem,
    },
    /// Secrets that the entry lists and that are not in the secrets directory.
    Secrets {
        /// Their names, sorted.
        names: Vec<String>,
    },
    /// The session, which another agent still holds.
    Session {
        /// The session; absent if an early build of the daemon did not note it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The agent that holds it.
        holder: String,
    },
    /// Permission to run: `agentd start` gives it, or an edit of the entry if that says `enabled = false`.
    Enabled {
        /// Who stopped the agent: the owner of its override. Absent if its entry says `enabled = false`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// When. Absent if its entry says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Time>,
    },
    /// The end of the pause in which no agent starts; `agentd unpause --all` ends it.
    Paused {
        /// Who paused all agents.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// When.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Time>,
    },
    /// A program that the agent user can find. agentd looks for it again at `next_start_at`, and at once after an edit or a reload.
    Program {
        /// Which, and what is known of it.
        #[serde(flatten)]
        program: MissingProgram,
    },
    /// Packages of its `extra_packages`. agentd has Nix build them again at `next_start_at`, and at once after an edit or a reload.
    Packages {
        /// Which, and what is known of them.
        #[serde(flatten)]
        packages: MissingPackages,
    },
    /// The socket of its `sandbox_proxy`. agentd looks for it again at `next_start_at`, and at once after an edit or a reload.
    Proxy {
        /// Which, and what is known of it.
        #[serde(flatten)]
        proxy: MissingProxy,
    },
    /// The end of a hold: its credential does not work. `agentd release` ends it.
    Hold {
        /// The credential, by the name of the agents that share it.
        group: String,
        /// What is wrong with it.
        hold: HoldKind,
        /// When the hold ends, or for a login when one agent of the group tries again.
        until: Time,
        /// What the harness said.
        evidence: String,
    },
    /// Its turn: another agent uses their credential first.
    Turn {
        /// The credential, by the name of the agents that share it.
        group: String,
        /// That agent, if one does so now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first: Option<String>,
        /// When an agent of the group may start whatever becomes of that one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Time>,
    },
    /// The declaration, which this daemon has not read yet.
    Unread {},
    /// A correction of the entry; `error` says what is wrong with it.
    Entry {},
    /// The delay before a restart by policy; it ends at `next_start_at`.
    Backoff {
        /// The number of that restart under the present declaration, from 1.
        restart: u64,
        /// How many restarts there may be; absent if there is no limit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_restarts: Option<u64>,
    },
    /// The delay after a launch that failed through no fault of the agent; `error` says why, and it ends at `next_start_at`.
    Retry {},
    /// The end of everything that the previous attempt left behind.
    PreviousAttempt {},
    /// A kind that only a newer daemon knows.
    #[serde(untagged)]
    #[schemars(skip)]
    Unknown {
        /// Its name.
        kind: String,
    },
}

/// A program that was not found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MissingProgram {
    /// The program, as it was to be started.
    pub name: String,
    /// The agent user, who cannot find it.
    pub user: String,
    /// The `PATH` that was searched; absent if the name is a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is probably wrong with the entry, and what would be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Packages that could not be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MissingPackages {
    /// All that the entry names.
    pub names: Vec<String>,
    /// What is wrong with one of them, mostly in the words of Nix.
    pub detail: String,
}

/// A proxy that cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MissingProxy {
    /// Its socket.
    pub path: String,
    /// What is wrong with it, and what would be right.
    pub detail: String,
}

/// What is wrong with a path that an entry names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "problem", rename_all = "kebab-case")]
pub enum Problem {
    /// Nothing is there.
    Absent {},
    /// The file is empty, and the entry needs a prompt.
    Empty {},
    /// Something else than a directory is there.
    NotADirectory {},
    /// Something else than a regular file is there.
    NotAFile {},
    /// The agent user may not use it.
    Inaccessible {
        /// What fails, and why.
        detail: String,
    },
    /// agentd could not look at it.
    Unchecked {
        /// Why.
        detail: String,
    },
    /// A problem that only a newer daemon knows.
    #[serde(untagged)]
    #[schemars(skip)]
    Unknown {
        /// Its name.
        problem: String,
    },
}

/// Why an agent is being stopped. Kinds may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StoppingBecause {
    /// Its entry was removed. When nothing of the agent is left, it is no longer listed.
    Removed {},
    /// What its entry launches has changed, as named. When nothing of the agent is left, it starts as it is declared now.
    Changed {
        /// What has changed.
        #[serde(flatten)]
        changes: Changes,
    },
    /// Its `timeout` has passed. When nothing of the agent is left, it has exited for good.
    TimedOut {},
    /// It has cost more than its `max_cost`. When nothing of the agent is left, it has failed for good.
    CostLimit {},
    /// It was idle or blocked for its `idle_timeout`. When nothing of the agent is left, it has failed for good.
    Idled {
        /// Which of them.
        doing: Doing,
        /// For how long, in seconds.
        seconds: u64,
        /// What it asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// The daemon is being stopped, and stops its agents.
    Shutdown {},
    /// It is not to run: an operator stopped it, or its entry says `enabled = false`. It then waits until it is enabled again.
    Disabled {
        /// Who stopped it; absent if its entry says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// When; absent if its entry says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Time>,
    },
    /// It is to run again: its `generation` was raised. When nothing of the agent is left, it starts.
    Restarted {
        /// Who raised it; absent if its entry says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// When; absent if its entry says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Time>,
    },
    /// A kind that only a newer daemon knows.
    #[serde(untagged)]
    #[schemars(skip)]
    Unknown {
        /// Its name.
        kind: String,
    },
}

/// How far a stop has come. Words may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StopStage {
    /// The harness got SIGINT; at `deadline` agentd kills everything.
    Interrupted,
    /// The harness has ended, and what it left behind is being cleared away; at `deadline` agentd kills it.
    Clearing,
    /// agentd has killed everything, and waits for it to be gone.
    Killed,
    /// Nothing runs any more, and the session is being closed.
    Closing,
    /// A stage that only a newer daemon knows.
    #[serde(untagged)]
    #[schemars(skip)]
    Unknown(String),
}

/// Why an attempt was launched. Words may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LaunchReason {
    /// Nothing of the agent was launched before.
    First,
    /// What its entry launches has changed, or the entry was removed and is back.
    Declaration,
    /// The attempt before has ended, and the policy restarts the agent.
    Policy,
    /// The launch before failed through no fault of the agent.
    Retry,
    /// A restart of agentd cut off the launch before.
    Recovery,
    /// An operator started or restarted the agent, or its entry did: `enabled` or a higher `generation`.
    Restarted,
    /// The hold that the attempt before began or met is over.
    Released,
    /// A reason that only a newer daemon knows.
    #[serde(untagged)]
    #[schemars(skip)]
    Unknown(String),
}

/// What a new declaration changed, by name: never a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changes {
    /// Fields of the entry, such as `prompt`; a variable as `env.NAME`. Sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// Secrets. Sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
}

/// How many names a sentence lists.
const MOST_NAMES: usize = 8;

impl Changes {
    /// Whether nothing is known to have changed.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.secrets.is_empty()
    }

    /// The names as part of a sentence: `prompt and secret API_KEY`. Only the first few if there are many.
    pub fn names(&self) -> String {
        let fields = self.fields.iter().map(String::clone);
        let mut names: Vec<String> = fields.chain(self.secrets.iter().map(|name| format!("secret {name}"))).collect();
        let more = names.len().saturating_sub(MOST_NAMES);
        if more > 0 {
            names.truncate(MOST_NAMES);
            names.push(format!("{more} more"));
        }
        match names.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    }

    /// Adds what another declaration changes after this one.
    pub fn extend(&mut self, later: Self) {
        for (names, more) in [(&mut self.fields, later.fields), (&mut self.secrets, later.secrets)] {
            names.extend(more);
            names.sort_unstable();
            names.dedup();
        }
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() { f.write_str("its declaration has changed") } else { write!(f, "{} changed", self.names()) }
    }
}

impl fmt::Display for MissingProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, user, path, hint } = self;
        match path {
            Some(_) => write!(f, "{name} is not in the PATH of user {user}")?,
            None => write!(f, "the program {name} does not exist")?,
        }
        hint.iter().try_for_each(|hint| write!(f, "; {hint}"))
    }
}

impl fmt::Display for MissingPackages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its extra_packages are not there: {}", self.detail)
    }
}

impl fmt::Display for MissingProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// What an agent waits for, as one sentence: one thing after the other, with semicolons between.
#[derive(Clone, Copy, Debug)]
pub struct Causes<'a>(pub &'a [WaitingFor]);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, cause) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}{cause}")?;
        }
        Ok(())
    }
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workdir { path, problem } => write!(f, "the workdir {path} {problem}"),
            Self::PromptFile { path, problem } => write!(f, "the prompt_file {path} {problem}"),
            Self::User { user, problem: Problem::Absent {} } => write!(f, "there is no user {user} any more"),
            // It says whom it is about.
            Self::User { problem: Problem::Inaccessible { detail }, .. } => f.write_str(detail),
            Self::User { user, problem } => write!(f, "the user {user} {problem}"),
            Self::Home { user, path, problem } => write!(f, "the home {path} of user {user} {problem}"),
            Self::Secrets { names } => {
                let (noun, verb) = if names.len() == 1 { ("secret", "is") } else { ("secrets", "are") };
                write!(f, "the {noun} {} {verb} not in the secrets directory", names.join(", "))
            }
            Self::Session { name: Some(name), holder } => write!(f, "its session {name} is still in use by {holder}"),
            Self::Session { name: None, holder } => write!(f, "its session is still in use by {holder}"),
            Self::Enabled { by: Some(by), .. } => write!(f, "stopped by {by}"),
            Self::Enabled { by: None, .. } => f.write_str("its entry says `enabled = false`"),
            Self::Paused { by: Some(by), .. } => write!(f, "all agents are paused by {by}"),
            Self::Paused { by: None, .. } => f.write_str("all agents are paused"),
            Self::Program { program } => program.fmt(f),
            Self::Packages { packages } => packages.fmt(f),
            Self::Proxy { proxy } => proxy.fmt(f),
            Self::Hold { group, hold: HoldKind::Login, evidence, .. } => {
                write!(f, "logged out: {evidence}; {}", hold::remedy(group))
            }
            Self::Hold { group, hold: HoldKind::Quota, until, evidence } => {
                write!(f, "the quota of {group} is exhausted until {until}: {evidence}")
            }
            Self::Turn { group, first: Some(first), .. } => write!(f, "{first} tries {group} first"),
            Self::Turn { group, first: None, until: Some(until) } => {
                write!(f, "{group} was tried often enough, and is tried again at {until}")
            }
            Self::Turn { group, first: None, until: None } => write!(f, "another agent tries {group} first"),
            Self::Unread {} => f.write_str("its declaration could not be read yet"),
            Self::Entry {} => f.write_str("its entry is wrong, and nothing of it ever ran"),
            Self::Backoff { restart, max_restarts: Some(limit) } => write!(f, "restart {restart} of {limit} follows"),
            Self::Backoff { restart, max_restarts: None } => write!(f, "restart {restart} follows"),
            Self::Retry {} => f.write_str("the launch failed and will be tried again"),
            Self::PreviousAttempt {} => f.write_str("what was there before is being cleared away"),
            Self::Unknown { kind } => write!(f, "{kind} (a newer agentd knows what that is)"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent {} => f.write_str("does not exist"),
            Self::Empty {} => f.write_str("is empty"),
            Self::NotADirectory {} => f.write_str("is not a directory"),
            Self::NotAFile {} => f.write_str("is not a regular file"),
            Self::Inaccessible { detail } => f.write_str(detail),
            Self::Unchecked { detail } => write!(f, "could not be looked at: {detail}"),
            Self::Unknown { problem } => write!(f, "cannot be used: {problem}"),
        }
    }
}

impl fmt::Display for StoppingBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed {} => f.write_str("its entry was removed"),
            Self::Changed { changes } => changes.fmt(f),
            Self::TimedOut {} => f.write_str("its timeout has passed"),
            Self::CostLimit {} => f.write_str("cost limit: it has cost more than its `max_cost`"),
            Self::Idled { doing, seconds, detail } => {
                let time = humantime::format_duration(Duration::from_secs(*seconds)).to_string().replace(' ', "");
                write!(f, "{doing} for {time}")?;
                detail.as_ref().map_or(Ok(()), |detail| write!(f, ": {detail}"))
            }
            Self::Shutdown {} => f.write_str("agentd is being stopped"),
            Self::Disabled { by: Some(by), .. } => write!(f, "stopped by {by}"),
            Self::Disabled { by: None, .. } => f.write_str("its entry says `enabled = false`"),
            Self::Restarted { by: Some(by), .. } => write!(f, "restarted by {by}"),
            Self::Restarted { by: None, .. } => f.write_str("the `generation` of its entry has risen"),
            Self::Unknown { kind } => f.write_str(kind),
        }
    }
}

impl fmt::Display for StopStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupted => "interrupted, will be killed at the deadline",
            Self::Clearing => "what it left behind is being cleared away",
            Self::Killed => "killed",
            Self::Closing => "its session is being closed",
            Self::Unknown(stage) => stage,
        })
    }
}

impl fmt::Display for LaunchReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first launch",
            Self::Declaration => "declaration changed",
            Self::Policy => "restart by policy",
            Self::Retry => "retry of a failed launch",
            Self::Recovery => "repeat of a launch that was cut off",
            Self::Restarted => "started or restarted by an operator",
            Self::Released => "the end of a hold",
            Self::Unknown(reason) => reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn path() -> String {
        "/x".to_owned()
    }

    /// Writes it as this, reads it from this, and says it in these words.
    #[track_caller]
    fn check<T>(value: &T, json: &Value, words: &str)
    where
        T: Serialize + DeserializeOwned + PartialEq + fmt::Debug + fmt::Display,
    {
        assert_eq!(serde_json::to_value(value).unwrap(), *json);
        assert_eq!(serde_json::from_value::<T>(json.clone()).unwrap(), *value);
        assert_eq!(value.to_string(), words);
    }

    #[test]
    fn each_input_waited_for_has_its_json_and_its_words() {
        use WaitingFor::{Home, PromptFile, Secrets, User, Workdir};
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        for (value, json, words) in [
            (
                Workdir { path: path(), problem: Problem::Absent {} },
                json!({ "kind": "workdir", "path": "/x", "problem": "absent" }),
                "the workdir /x does not exist",
            ),
            (
                User { user: "b".into(), problem: Problem::Absent {} },
                json!({ "kind": "user", "user": "b", "problem": "absent" }),
                "there is no user b any more",
            ),
            (
                User { user: "b".into(), problem: Problem::Unchecked { detail: "no answer".into() } },
                json!({ "kind": "user", "user": "b", "problem": "unchecked", "detail": "no answer" }),
                "the user b could not be looked at: no answer",
            ),
            (
                User { user: "b".into(), problem: Problem::Inaccessible { detail: "b is in group admin".into() } },
                json!({ "kind": "user", "user": "b", "problem": "inaccessible", "detail": "b is in group admin" }),
                "b is in group admin",
            ),
            (
                Home { user: "b".into(), path: path(), problem: Problem::Absent {} },
                json!({ "kind": "home", "user": "b", "path": "/x", "problem": "absent" }),
                "the home /x of user b does not exist",
            ),
            (
                PromptFile { path: path(), problem: Problem::Inaccessible { detail: "cannot be read: no".into() } },
                json!({ "kind": "prompt-file", "path": "/x", "problem": "inaccessible", "detail": "cannot be read: no" }),
                "the prompt_file /x cannot be read: no",
            ),
            (
                Secrets { names: names(&["A"]) },
                json!({ "kind": "secrets", "names": ["A"] }),
                "the secret A is not in the secrets directory",
            ),
            (
                Secrets { names: names(&["A", "B"]) },
                json!({ "kind": "secrets", "names": ["A", "B"] }),
                "the secrets A, B are not in the secrets directory",
            ),
        ] {
            check(&value, &json, words);
        }
    }

    #[test]
    fn each_thing_waited_for_by_a_launch_has_its_json_and_its_words() {
        use WaitingFor::{Backoff, Entry, Packages, PreviousAttempt, Program, Proxy, Retry, Session, Unknown, Unread};
        for (value, json, words) in [
            (
                Session { name: Some("s".into()), holder: "b".into() },
                json!({ "kind": "session", "name": "s", "holder": "b" }),
                "its session s is still in use by b",
            ),
            (
                Session { name: None, holder: "b".into() },
                json!({ "kind": "session", "holder": "b" }),
                "its session is still in use by b",
            ),
            (
                Program {
                    program: MissingProgram {
                        name: "claude".into(),
                        user: "agent".into(),
                        path: Some("/usr/bin:/bin".into()),
                        hint: None,
                    },
                },
                json!({ "kind": "program", "name": "claude", "user": "agent", "path": "/usr/bin:/bin" }),
                "claude is not in the PATH of user agent",
            ),
            (
                Program {
                    program: MissingProgram {
                        name: "/opt/x y".into(),
                        user: "agent".into(),
                        path: None,
                        hint: Some("write another".into()),
                    },
                },
                json!({ "kind": "program", "name": "/opt/x y", "user": "agent", "hint": "write another" }),
                "the program /opt/x y does not exist; write another",
            ),
            (
                Proxy { proxy: MissingProxy { path: "/run/p".into(), detail: "/run/p does not exist".into() } },
                json!({ "kind": "proxy", "path": "/run/p", "detail": "/run/p does not exist" }),
                "/run/p does not exist",
            ),
            (Unread {}, json!({ "kind": "unread" }), "its declaration could not be read yet"),
            (Entry {}, json!({ "kind": "entry" }), "its entry is wrong, and nothing of it ever ran"),
            (
                Backoff { restart: 2, max_restarts: Some(5) },
                json!({ "kind": "backoff", "restart": 2, "max_restarts": 5 }),
                "restart 2 of 5 follows",
            ),
            (
                Backoff { restart: 2, max_restarts: None },
                json!({ "kind": "backoff", "restart": 2 }),
                "restart 2 follows",
            ),
            (
                Packages {
                    packages: MissingPackages { names: vec!["jq".into(), "rg".into()], detail: "no rg".into() },
                },
                json!({ "kind": "packages", "names": ["jq", "rg"], "detail": "no rg" }),
                "its extra_packages are not there: no rg",
            ),
            (Retry {}, json!({ "kind": "retry" }), "the launch failed and will be tried again"),
            (PreviousAttempt {}, json!({ "kind": "previous-attempt" }), "what was there before is being cleared away"),
            (
                Unknown { kind: "moonrise".into() },
                json!({ "kind": "moonrise" }),
                "moonrise (a newer agentd knows what that is)",
            ),
        ] {
            check(&value, &json, words);
        }
    }

    #[test]
    fn each_problem_of_a_path_has_its_json_and_its_words() {
        use Problem::{Absent, Empty, Inaccessible, NotADirectory, NotAFile, Unchecked, Unknown};
        for (value, json, words) in [
            (Absent {}, json!({ "problem": "absent" }), "does not exist"),
            (Empty {}, json!({ "problem": "empty" }), "is empty"),
            (NotADirectory {}, json!({ "problem": "not-a-directory" }), "is not a directory"),
            (NotAFile {}, json!({ "problem": "not-a-file" }), "is not a regular file"),
            (
                Inaccessible { detail: "cannot be read: no".into() },
                json!({ "problem": "inaccessible", "detail": "cannot be read: no" }),
                "cannot be read: no",
            ),
            (
                Unchecked { detail: "no answer".into() },
                json!({ "problem": "unchecked", "detail": "no answer" }),
                "could not be looked at: no answer",
            ),
            (Unknown { problem: "haunted".into() }, json!({ "problem": "haunted" }), "cannot be used: haunted"),
        ] {
            check(&value, &json, words);
        }
    }

    #[test]
    fn each_cause_and_stage_of_a_stop_has_its_json_and_its_words() {
        use StoppingBecause::{Changed, CostLimit, Removed, Shutdown, TimedOut, Unknown};
        for (value, kind, words) in [
            (Removed {}, "removed", "its entry was removed"),
            (Changed { changes: Changes::default() }, "changed", "its declaration has changed"),
            (TimedOut {}, "timed-out", "its timeout has passed"),
            (CostLimit {}, "cost-limit", "cost limit: it has cost more than its `max_cost`"),
            (Shutdown {}, "shutdown", "agentd is being stopped"),
            (Unknown { kind: "moonset".into() }, "moonset", "moonset"),
        ] {
            check(&value, &json!({ "kind": kind }), words);
        }
        for (value, stage, words) in [
            (StopStage::Interrupted, "interrupted", "interrupted, will be killed at the deadline"),
            (StopStage::Clearing, "clearing", "what it left behind is being cleared away"),
            (StopStage::Killed, "killed", "killed"),
            (StopStage::Closing, "closing", "its session is being closed"),
            (StopStage::Unknown("begged".into()), "begged", "begged"),
        ] {
            check(&value, &json!(stage), words);
        }
    }

    #[test]
    fn a_stop_for_idling_says_how_long_and_for_what() {
        let detail = Some("permission: Bash: wants to run npm test".to_owned());
        let blocked = StoppingBecause::Idled { doing: Doing::Blocked, seconds: 1800, detail };
        let json = json!({
            "kind": "idled", "doing": "blocked", "seconds": 1800, "detail": "permission: Bash: wants to run npm test",
        });
        check(&blocked, &json, "blocked for 30m: permission: Bash: wants to run npm test");
        let idle = StoppingBecause::Idled { doing: Doing::Idle, seconds: 5400, detail: None };
        check(&idle, &json!({ "kind": "idled", "doing": "idle", "seconds": 5400 }), "idle for 1h30m");
    }

    fn changes(fields: &[&str], secrets: &[&str]) -> Changes {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Changes { fields: owned(fields), secrets: owned(secrets) }
    }

    #[test]
    fn a_stop_for_a_change_names_what_has_changed() {
        let value = StoppingBecause::Changed { changes: changes(&["prompt"], &["API_KEY"]) };
        let json = json!({ "kind": "changed", "fields": ["prompt"], "secrets": ["API_KEY"] });
        check(&value, &json, "prompt and secret API_KEY changed");
    }

    #[test]
    fn changes_are_listed_and_many_are_counted() {
        let letters = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        for (changes, words) in [
            (changes(&[], &[]), "its declaration has changed"),
            (changes(&["prompt"], &[]), "prompt changed"),
            (changes(&[], &["A", "B"]), "secret A and secret B changed"),
            (changes(&["args", "env.MODE", "workdir"], &[]), "args, env.MODE and workdir changed"),
            (changes(&letters[..8], &[]), "a, b, c, d, e, f, g and h changed"),
            (changes(&letters, &["K"]), "a, b, c, d, e, f, g, h and 3 more changed"),
        ] {
            assert_eq!(changes.to_string(), words);
        }
    }

    #[test]
    fn changes_after_changes_are_told_once() {
        let mut both = changes(&["args", "prompt"], &["B"]);
        both.extend(changes(&["prompt", "command"], &["A"]));
        assert_eq!(both, changes(&["args", "command", "prompt"], &["A", "B"]));
    }

    #[test]
    fn each_reason_of_a_launch_has_its_json_and_its_words() {
        use LaunchReason::{Declaration, First, Policy, Recovery, Retry, Unknown};
        for (value, word, words) in [
            (First, "first", "first launch"),
            (Declaration, "declaration", "declaration changed"),
            (Policy, "policy", "restart by policy"),
            (Retry, "retry", "retry of a failed launch"),
            (Recovery, "recovery", "repeat of a launch that was cut off"),
            (Unknown("schedule".into()), "schedule", "schedule"),
        ] {
            check(&value, &json!(word), words);
        }
    }

    #[test]
    fn a_kind_of_a_newer_daemon_is_read_whatever_it_holds() {
        let kind = |value: Value| serde_json::from_value::<WaitingFor>(value).unwrap();
        let moonrise = WaitingFor::Unknown { kind: "moonrise".into() };
        assert_eq!(kind(json!({ "kind": "moonrise", "path": ["/x"], "more": { "deep": 1 } })), moonrise);
        let Problem::Unknown { problem } =
            serde_json::from_value(json!({ "problem": "haunted", "detail": 7 })).unwrap()
        else {
            panic!("it is known")
        };
        assert_eq!(problem, "haunted");
        let haunted = kind(json!({ "kind": "workdir", "path": "/x", "problem": "haunted", "ghosts": 3 }));
        assert_eq!(haunted.to_string(), "the workdir /x cannot be used: haunted");
        let known = kind(json!({ "kind": "unread", "since": "yesterday" }));
        assert_eq!(known, WaitingFor::Unread {}, "a key that was added");
    }
}
