//! The protocol between launcher and daemon, and its version.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::asks::Ask;
use crate::agent::approval::{self, Asking};
use crate::agent::conversation::{Line, Plan, Taken};
use crate::agent::fingerprint::Fingerprint;
use crate::agent::harness::hooks::Hooks;
use crate::agent::packages::Package;
use crate::agent::sandbox::Sandbox;
use crate::agent::skills::Skill;
use crate::agent::stream_kind::StreamKind;
use crate::sys::file_id::FileId;
use crate::sys::secret_bytes::SecretBytes;
use crate::wire::activity::{Doing, Source};
use crate::wire::hold::HoldKind;
use crate::wire::result::{StreamResult, Tokens};
use crate::wire::status::Usage;

/// The version of the protocol.
///
/// Launcher and daemon may be of different builds: an agent's launcher outlives an upgrade of the daemon. A launcher of another
/// version is followed if it has launched something, and sent away if it has not: it could miss something of its work. Launchers of
/// version 1 do not know the sandbox, and those of version 2 neither the stream, whose result they would not report, nor hooks, skills,
/// conversations and files with secrets.
pub const WIRE_VERSION: u32 = 3;

/// The longest message from a launcher: a result, whose text may take six times as much as JSON.
pub const MAX_FROM_LAUNCHER: usize = 512 << 10;

/// The longest detail of an activity, in bytes.
pub const MOST_DETAIL: usize = 512;

/// How much of a result's text a `Hello` holds, in bytes: daemons of earlier builds take messages of 64 KiB.
pub const MOST_TEXT_OF_HELLO: usize = 8 << 10;

/// The same in JSON, where some characters take six bytes.
const MOST_JSON_OF_HELLO: usize = 12 << 10;

/// How many tools a `Hello` names whose use was denied.
const MOST_DENIED_OF_HELLO: usize = 4;

/// How much of the last output of an attempt is passed on.
pub const TAIL: usize = 8 << 10;

/// The longest message to a launcher: arguments and environment may take about 6 MiB in all (`execve(2)`).
pub const MAX_TO_LAUNCHER: usize = 32 << 20;

/// A message from the launcher.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromLauncher {
    /// The first message to each daemon that it connects to.
    Hello {
        /// [`WIRE_VERSION`] of its build.
        version: u32,
        /// The agent it was started for.
        name: String,
        /// The attempt it was started for.
        attempt: u64,
        /// The fingerprint of its work, once it has received it.
        #[serde(default)]
        fingerprint: Option<Fingerprint>,
        /// How far it is.
        progress: Progress,
        /// Whether it can continue in other files: [`ToLauncher::Keep`].
        #[serde(default)]
        can_move: bool,
        /// Whether it can replace files with secrets: [`ToLauncher::Renew`].
        #[serde(default)]
        can_renew: bool,
        /// Where it writes output.
        #[serde(default)]
        log: Option<Log>,
        /// Which conversation its harness is in, if its work said something about that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        conversation: Option<Taken>,
        /// What the harness has said of its work. Daemons of earlier builds ignore it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        told: Option<Box<Told>>,
        /// Whether it can report what its harness does: [`ToLauncher::Report`].
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        can_report: bool,
    },
    /// The packages of its work are being built, which may take as long as it says. Sent before `Started`, and only if the work names
    /// packages: then the daemon knows this message.
    Building,
    /// The harness was started.
    Started(Harness),
    /// The harness could not be started.
    Failed(Failure),
    /// The harness has ended.
    Ended(End),
    /// A warning for the daemon's log.
    Warning(String),
    /// Output cannot be written to the log for this reason. Daemons of earlier builds close the connection on it, and learn the rest
    /// from the next `Hello`.
    LogLost(String),
    /// Why the harness's environment is incomplete. Sent before `Started`.
    Environment(String),
    /// Which conversation the harness is in, and how it came into that. Sent before `Started`, and only if the work says something about
    /// conversations: then the daemon knows this message.
    Took(Taken),
    /// The harness asks whether it may do something. Sent again to the next daemon, and only to daemons that know it.
    Ask(Box<Ask>),
    /// The harness does not wait for an answer to that any more.
    AskOver {
        /// What the launcher calls the question.
        number: u64,
        /// How the wait ended.
        end: approval::End,
    },
    /// What the harness does, as it says itself. This and what follows is sent only to a daemon that asks for it, in
    /// [`ToLauncher::Launch`] or by [`ToLauncher::Report`]. What a [stream](ToLauncher::Launch::stream) has said is in any case sent when
    /// the harness has ended.
    Activity {
        /// What it does.
        doing: Doing,
        /// More about it, with whatever secrets the harness put there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// How the launcher knows.
        source: Source,
    },
    /// Nothing has been printed for 2 s, and the harness has said nothing of what it does since the last output.
    Quiet,
    /// Output goes on after that.
    Printing,
    /// The harness was given hooks, and has called none of them.
    HooksUnheard,
    /// The id of the conversation.
    Conversation(String),
    /// Its credential is not accepted, or its quota is used up.
    Held(Held),
    /// The model has answered since: what was [held](FromLauncher::Held) against the credential is over.
    Unheld,
    /// What the attempt has cost and taken so far.
    Spent(Spent),
    /// What the harness said of its work. Sent before `Ended`.
    Result(Box<StreamResult>),
}

/// What a harness has said of its work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// The id of the conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// What it does, and more about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activity: Option<(Doing, Option<String>)>,
    /// What is wrong with its credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// What the attempt has cost and taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
    /// Its result, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<StreamResult>>,
}

impl Told {
    /// With no more text than daemons of earlier builds take in, whatever characters it consists of.
    #[must_use]
    pub fn in_brief(&self) -> Self {
        let mut brief = self.clone();
        if let Some(result) = &mut brief.result {
            let excess = result.text.len().saturating_sub(MOST_TEXT_OF_HELLO);
            result.text.drain(..result.text.ceil_char_boundary(excess));
            while serde_json::to_string(&result.text).is_ok_and(|text| text.len() > MOST_JSON_OF_HELLO) {
                result.text.drain(..result.text.ceil_char_boundary(result.text.len() / 2));
            }
            result.denied.truncate(MOST_DENIED_OF_HELLO);
        }
        brief
    }
}

/// What is wrong with the credential of a harness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What is wrong.
    pub kind: HoldKind,
    /// When that ends, in seconds since 1970, as far as that is said as data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// What the harness said, at most 256 bytes.
    pub evidence: String,
}

/// What an attempt has cost and taken so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spent {
    /// In US dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// Tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
}

/// The skills of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taught {
    /// Sorted by name.
    pub skills: Vec<Skill>,
    /// Where its harness looks for them, below the home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Whether its user has no agents but those that entries name for it, so that links in that folder are seen by these alone.
    #[serde(default)]
    pub is_own_user: bool,
    /// Which argument holds the prompt, and so is left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<usize>,
}

/// Where a launcher writes output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The file.
    pub file: FileId,
    /// How many bytes of it are kept.
    pub size: u64,
    /// When output was last found to be lost because it could not be written, on the boot clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<Duration>,
}

/// How far a launcher is.
///
/// A daemon gets `New` from a launcher that it started itself, and anything from a launcher that an earlier daemon started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// The launcher waits for its work.
    New,
    /// The harness runs.
    Running(Harness),
    /// The harness could not be started.
    Failed(Failure),
    /// The harness has ended.
    Ended {
        /// The harness that ran.
        harness: Harness,
        /// How it ended.
        end: End,
    },
}

/// A harness that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harness {
    /// Its process id.
    pub pid: i32,
    /// When it was started, on the boot clock.
    pub at: Duration,
}

/// A message from the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant, reason = "the large one is sent once for each attempt")]
pub enum ToLauncher {
    /// Start this harness.
    Launch {
        /// The program and its arguments.
        arguments: Vec<SecretBytes>,
        /// Variables that override those of the login shell.
        environment: BTreeMap<String, SecretBytes>,
        /// The working directory.
        workdir: SecretBytes,
        /// The fingerprint to report to the next daemon.
        #[serde(default)]
        fingerprint: Fingerprint,
        /// Which of the variables are secrets, to be redacted in the log.
        #[serde(default)]
        secrets: BTreeSet<String>,
        /// How many bytes of output to keep. If set, two files [come with](crate::sys::fd_passing) the message: one for the text,
        /// and one for its index.
        #[serde(default)]
        kept_size: Option<u64>,
        /// How long the login shell may take.
        #[serde(default)]
        login_patience: Option<Duration>,
        /// The umask of everything that is started; 0022 if it is absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        umask: Option<u32>,
        /// Whether git is to trust the repository of another user.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        trust_repository: bool,
        /// The sandbox to start it in, if there is to be one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sandbox: Option<Box<Sandbox>>,
        /// The packages whose programs come first in its `PATH`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        packages: Vec<Package>,
        /// How long these may take to be built.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        packages_timeout: Option<Duration>,
        /// Which conversation the harness is to be in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        session: Option<Box<SessionOrder>>,
        /// The form of its machine-readable output, which is read from a pipe and reported.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stream: Option<StreamKind>,
        /// Whether the values of the secrets are to be in files, too.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        secret_files: bool,
        /// What the agent is taught.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        skills: Option<Box<Taught>>,
        /// The hooks that the harness is to be given, if it has some.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hooks: Option<Hooks>,
        /// How it asks whether it may do something, if it is to ask.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asking: Option<Box<Asking>>,
        /// Whether to report what the harness does. Daemons of earlier builds do not know such reports.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        reports: bool,
    },
    /// Write output to the two files that [come with](crate::sys::fd_passing) this message from now on: the earlier ones were
    /// moved or removed.
    ///
    /// Sent only to launchers that [can](FromLauncher::Hello::can_move) do this.
    Keep {
        /// How many bytes to keep.
        kept_size: u64,
    },
    /// Replace the files with secrets by these, by variable.
    ///
    /// Sent only to launchers that [can](FromLauncher::Hello::can_renew) do this.
    Renew {
        /// All of them.
        secrets: BTreeMap<String, SecretBytes>,
    },
    /// Report what the harness does from now on, beginning with what is known.
    ///
    /// Sent only to launchers that [can](FromLauncher::Hello::can_report) do this.
    Report,
    /// Send SIGINT to the foreground process group, unless it was sent before.
    Interrupt,
    /// Send a second SIGINT there, unless it was sent before: half of the grace period has passed.
    ///
    /// A launcher of an earlier build does not know this message, connects again, and continues.
    InterruptAgain,
    /// The answer to a [question](FromLauncher::Ask).
    Answer {
        /// What the launcher calls the question.
        number: u64,
        /// Whether the harness may.
        allow: bool,
        /// Why, for the model.
        why: String,
    },
    /// The exit, or the failure to start, is recorded; there is nothing more to wait for.
    Noted,
    /// No daemon expects this launcher.
    Unwanted,
}

/// Which conversation a harness is to be in, and the command lines for that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOrder {
    /// What is to be done.
    pub plan: Plan,
    /// Begins one under a given id, where the harness can do that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Line>,
    /// Resumes one.
    pub resume: Line,
    /// A pattern of a file that exists if a conversation can be resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

/// Why a harness could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A complete description.
    pub message: String,
    /// The kernel's error number, if there is one.
    pub errno: Option<i32>,
    /// Whether something that agents wait for is missing at the last moment: the working directory or the account.
    #[serde(default)]
    pub missing: bool,
    /// The program, if it is that which was not found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramNotFound>,
    /// Whether it is the packages that could not be had.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub packages: bool,
    /// The socket of the proxy, if it is that which cannot be reached. Daemons of earlier builds see that something is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
}

impl Failure {
    /// That this did not work, because of an error of the system.
    pub fn of_system(what: &str, error: &io::Error) -> Self {
        Self {
            message: format!("{what}: {error}"),
            errno: error.raw_os_error(),
            missing: false,
            program: None,
            packages: false,
            proxy: None,
        }
    }
}

/// A program that was not found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramNotFound {
    /// As it was to be started.
    pub name: String,
    /// The `PATH` that was searched, if it was.
    pub path: Option<String>,
}

/// How a harness ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The status, signal, or cause.
    pub how: Ending,
    /// When, on the boot clock.
    pub at: Duration,
    /// Processor time in user mode, of the harness and all the processes it waited for.
    pub user_time: Duration,
    /// Processor time in the kernel, of the same processes.
    pub system_time: Duration,
    /// The largest resident set of any of them, in KiB.
    pub max_rss: i64,
    /// Whether anything was printed on the harness's terminal. Launchers of earlier builds do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub printed: Option<bool>,
    /// The last [`TAIL`] bytes that an attempt printed that failed, secrets redacted. Absent if output is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<SecretBytes>,
}

impl End {
    /// The attempt's usage: what its control group counted or, without one, what the launcher knows about the harness.
    pub fn usage_beside(&self, counted: Usage) -> Usage {
        let counted = Usage { printed: self.printed, ..counted };
        if counted.cpu_usec.is_some() {
            return counted;
        }
        let time = self.user_time.saturating_add(self.system_time);
        let cpu_usec = u64::try_from(time.as_micros()).ok().filter(|&time| time > 0);
        let memory_peak =
            u64::try_from(self.max_rss).ok().filter(|&size| size > 0).map(|size| size.saturating_mul(1024));
        Usage { cpu_usec, memory_peak, ..counted }
    }
}

/// An exit status as `wait(2)` reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The harness exited with this status.
    Code(i32),
    /// This signal ended the harness.
    Signal(i32),
    /// The harness was ended for this reason, and its status means nothing.
    Cause(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_hello_is_short_enough_for_earlier_builds() {
        /// What they take.
        const MOST: usize = 64 << 10;
        // Each takes six times as much in JSON.
        let odd = |length: usize| "\u{1}".repeat(length);
        let result = StreamResult {
            text: odd(64 << 10),
            denied: vec![odd(256); 32],
            model: Some(odd(256)),
            subtype: Some(odd(256)),
            ..StreamResult::default()
        };
        let told = Told {
            conversation: Some("c".repeat(128)),
            activity: Some((Doing::Blocked, Some(odd(MOST_DETAIL)))),
            held: Some(Held { kind: HoldKind::Quota, until: Some(u64::MAX), evidence: odd(256) }),
            spent: None,
            result: Some(Box::new(result)),
        };
        let end = End {
            how: Ending::Code(1),
            at: Duration::MAX,
            user_time: Duration::MAX,
            system_time: Duration::MAX,
            max_rss: i64::MAX,
            printed: Some(true),
            // As numbers, because it is not text.
            tail: Some(SecretBytes::from(vec![0xff; TAIL])),
        };
        let hello = FromLauncher::Hello {
            version: WIRE_VERSION,
            name: "a".repeat(64),
            attempt: u64::MAX,
            fingerprint: None,
            progress: Progress::Ended { harness: Harness { pid: i32::MAX, at: Duration::MAX }, end },
            can_move: true,
            can_renew: true,
            log: None,
            conversation: None,
            told: Some(Box::new(told.in_brief())),
            can_report: true,
        };
        let length = serde_json::to_vec(&hello).unwrap().len();
        assert!(length < MOST, "{length}");
    }

    #[test]
    fn the_launcher_provides_the_usage_without_a_control_group() {
        let times = (Duration::from_micros(1500), Duration::from_micros(500));
        let end = |(user_time, system_time), max_rss| End {
            how: Ending::Code(0),
            at: Duration::ZERO,
            user_time,
            system_time,
            max_rss,
            printed: Some(true),
            tail: None,
        };
        let told = end(times, 4).usage_beside(Usage::default());
        assert_eq!(
            told,
            Usage { cpu_usec: Some(2000), memory_peak: Some(4096), printed: Some(true), ..Usage::default() }
        );
        let counted = Usage { oom_kills: 1, cpu_usec: Some(7), ..Usage::default() };
        assert_eq!(end(times, 4).usage_beside(counted), Usage { printed: Some(true), ..counted });
        for max_rss in [0, -1] {
            let unknown = end((Duration::ZERO, Duration::ZERO), max_rss).usage_beside(Usage::default());
            assert_eq!(unknown, Usage { printed: Some(true), ..Usage::default() });
        }
        let most = end((Duration::MAX, Duration::MAX), i64::MAX).usage_beside(Usage::default());
        assert_eq!((most.cpu_usec, most.memory_peak), (None, Some(u64::MAX)));
    }
}
