//! What happens to an agent, and what is to be done about it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Attempt;
use crate::agent::activity::News;
use crate::agent::approval::{self, Question, Told, Word};
use crate::agent::conversation::{Plan, SessionId, Taken};
use crate::agent::declaration::Declaration;
use crate::agent::fingerprint::Fingerprint;
use crate::agent::hold::{Bar, Evidence};
use crate::agent::launch::Launch;
use crate::agent::name::Name;
use crate::agent::orders::Orders;
use crate::agent::spec::Limits;
use crate::agent::user::AgentUser;
use crate::sys::clock::Timestamp;
use crate::sys::process::Identity;
use crate::wire::approval::Approval;
use crate::wire::exit_status::ExitStatus;
use crate::wire::reason::{MissingPackages, MissingProgram, MissingProxy, WaitingFor};
use crate::wire::result::{StreamResult, Tokens};
use crate::wire::status::{PastAttempt, Usage};

/// What happens to an agent.
#[derive(Clone, Debug)]
pub enum Event {
    /// A new life begins under this declaration.
    Declare(Declaration),
    /// The declaration has changed in what does not touch a living process.
    Update(Declaration),
    /// The entry is wrong; the text says what is wrong with it.
    Reject(String),
    /// What operators want of the agent has changed.
    Ordered(Orders),
    /// Nothing of it may be launched, because its user must not be an agent user: this is why. `None` if something may be.
    Barred(Option<String>),
    /// The agent is to be launched again with the new values of its secrets, if it runs with others.
    Rotate,
    /// Nothing of it may be launched now, because of the credential that it shares: this is why. `None` if something may be.
    Held(Option<Bar>),
    /// The agent is no longer wanted.
    Remove(Removal),
    /// The pane is there, in the session that the launch names.
    Opened {
        /// Of which attempt.
        attempt: Attempt,
    },
    /// Its launcher has reported.
    Met {
        /// Of which attempt.
        attempt: Attempt,
        /// The launcher.
        launcher: Identity,
    },
    /// Its packages are being built, and its harness starts later.
    Building {
        /// Of which attempt.
        attempt: Attempt,
    },
    /// The harness runs.
    Started {
        /// Of which attempt.
        attempt: Attempt,
        /// The harness.
        pid: i32,
        /// Since when.
        at: Timestamp,
    },
    /// Instead of launching the attempt, one that ran already was found in its place.
    Found {
        /// Of which attempt.
        attempt: Attempt,
        /// Of what was launched then, if its launcher says that.
        fingerprint: Option<Fingerprint>,
    },
    /// The harness could not be started.
    NotStarted {
        /// Of which attempt.
        attempt: Attempt,
        /// Why.
        why: NotStarted,
    },
    /// The harness has ended.
    Ended {
        /// Of which attempt.
        attempt: Attempt,
        /// How.
        how: ExitStatus,
        /// When.
        at: Timestamp,
        /// What it took of the machine.
        usage: Usage,
        /// Why its credential does not work, if it failed because of that. The machine must have been [barred](super::Machine::set_hold)
        /// before.
        evidence: Option<Evidence>,
        /// What it said of its work.
        result: Option<Box<StreamResult>>,
    },
    /// It says what it has cost and taken so far.
    Spent {
        /// Of which attempt.
        attempt: Attempt,
        /// In US dollars.
        cost_usd: Option<f64>,
        /// Tokens.
        tokens: Option<Tokens>,
        /// In which conversation, as far as it has said that.
        conversation: Option<String>,
    },
    /// Its limits could not all be applied, for this reason; `None` when they are.
    Limited {
        /// Of which attempt.
        attempt: Attempt,
        /// For a person.
        error: Option<String>,
    },
    /// Its environment is not all that it should be, for this reason.
    Environment {
        /// Of which attempt.
        attempt: Attempt,
        /// For a person.
        error: String,
    },
    /// Its harness asks whether it may do something.
    Asked {
        /// In which attempt.
        attempt: Attempt,
        /// What.
        question: Box<Question>,
    },
    /// Its launcher does not wait for an answer any more.
    AskOver {
        /// In which attempt.
        attempt: Attempt,
        /// What the launcher calls the question.
        number: u64,
        /// How that ended.
        end: approval::End,
    },
    /// An operator answers a question.
    Answered {
        /// Which.
        id: String,
        /// What is answered.
        word: Word,
    },
    /// There is news of what its harness does.
    Activity {
        /// Of which attempt.
        attempt: Attempt,
        /// What.
        news: News,
    },
    /// Its launcher says which conversation it is in, and how it came into that. Sent again to each daemon.
    Took {
        /// Of which attempt.
        attempt: Attempt,
        /// Which, and how.
        taken: Taken,
    },
    /// Its harness says which conversation it is in.
    Conversation {
        /// Of which attempt.
        attempt: Attempt,
        /// Which.
        id: SessionId,
    },
    /// Its harness says that it is in the conversation of another agent.
    Foreign {
        /// Of which attempt.
        attempt: Attempt,
        /// Which.
        id: SessionId,
        /// Whose.
        holder: Name,
    },
    /// What it prints is not kept, for this reason; `None` when it is.
    Logged {
        /// Of which attempt.
        attempt: Attempt,
        /// For a person.
        error: Option<String>,
    },
    /// Nothing of the attempt is left. The last event of every attempt, sent once.
    Gone {
        /// Which.
        attempt: Attempt,
    },
    /// Sent at once, instead of launching the attempt: another agent still holds the session. No other event follows.
    SessionBusy {
        /// Of which attempt.
        attempt: Attempt,
        /// Whose it is.
        holder: Name,
    },
    /// The session that was busy is free.
    SessionFree,
    /// Somebody asks to look again for a program that is missing.
    LookAgain,
    /// The session was closed, or could not be.
    Closed(Result<(), String>),
    /// Time has passed; see [`Machine::due`].
    Due,
}

/// Why an agent is no longer wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    /// Nobody declares it any more.
    Undeclared,
    /// The daemon is being stopped, and its agents with it.
    Shutdown,
}

/// Why an attempt is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaunchReason {
    /// Nothing of the agent was launched before.
    First,
    /// What its entry launches has changed, or the entry was removed and is back.
    Declaration,
    /// The attempt before has ended, and the policy wants another.
    Policy,
    /// The launch before failed through no fault of the agent.
    Retry,
    /// The launch before came to nothing because a daemon was cut off in the middle of it.
    Recovery,
    /// An operator or the entry started or restarted the agent.
    Restarted,
    /// A hold that ended the attempt before is over.
    Released,
}

/// Why a harness could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStarted {
    /// There is no such program. The launch does not count, and is tried again.
    NotFound(MissingProgram),
    /// Its packages could not be had. The launch does not count, and is tried again.
    Unbuilt(MissingPackages),
    /// Its proxy cannot be reached. The launch does not count, and is tried again.
    Unreached(MissingProxy),
    /// The agent's own fault, as far as can be told: a program that cannot be run, say. Counts as an attempt that failed.
    Failed(String),
    /// The fault of tmux, of the system, or of nobody: the launch is tried again whatever the policy says.
    Retry(String),
    /// The launch came to nothing because a daemon was cut off in the middle of it: it is repeated at once, and does not count.
    CutOff,
}

impl NotStarted {
    /// What was not there, if that is why: then the launch is none that counts.
    pub fn absent(&self) -> Option<Absent> {
        match self {
            Self::NotFound(program) => Some(Absent::Program(program.clone())),
            Self::Unbuilt(packages) => Some(Absent::Packages(packages.clone())),
            Self::Unreached(proxy) => Some(Absent::Proxy(proxy.clone())),
            Self::Failed(_) | Self::Retry(_) | Self::CutOff => None,
        }
    }
}

/// What an agent lacks that only a launch finds out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Its program.
    Program(MissingProgram),
    /// Its packages.
    Packages(MissingPackages),
    /// Its proxy.
    Proxy(MissingProxy),
}

impl From<Absent> for WaitingFor {
    fn from(absent: Absent) -> Self {
        match absent {
            Absent::Program(program) => Self::Program { program },
            Absent::Packages(packages) => Self::Packages { packages },
            Absent::Proxy(proxy) => Self::Proxy { proxy },
        }
    }
}

impl fmt::Display for Absent {
    /// In full, with what was searched.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(program) => {
                let path = program.path.as_ref().map_or_else(String::new, |path| format!("; its PATH is {path}"));
                write!(f, "{program}{path}")
            }
            Self::Packages(packages) => packages.fmt(f),
            Self::Proxy(proxy) => proxy.fmt(f),
        }
    }
}

/// What is to be done.
///
/// Of an attempt, [`launcher`](crate::launch) and control group share the work: `Interrupt` and `InterruptAgain` go to the launcher,
/// over its socket, and it signals the process group in the foreground of its terminal; `Kill` goes past the launcher to the
/// [control group](crate::contain), or to each process found where there is none, so that no agent can put it off.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Launch this; answered by `Opened`, `Started` or `NotStarted`, and `Gone` in the end, or by `SessionBusy` alone.
    Launch {
        /// The number to go by.
        attempt: Attempt,
        /// What.
        launch: Arc<Launch>,
        /// What it may take; answered by `Limited`.
        limits: Limits,
        /// Why.
        reason: LaunchReason,
        /// In which conversation; `None` if attempts share none.
        plan: Option<Plan>,
    },
    /// Find the attempt that an earlier daemon has launched, and follow it; answered as `Launch` is, or by `Ended`, and by `Gone`.
    Resume {
        /// Which.
        attempt: Attempt,
        /// Its launcher, if that had reported.
        launcher: Option<Identity>,
        /// Whom it runs as; `None` is the default user.
        user: Option<AgentUser>,
    },
    /// Have the launcher send SIGINT, once.
    Interrupt {
        /// To which attempt.
        attempt: Attempt,
    },
    /// Have the launcher send SIGINT a second time: some harnesses ask whether the first was meant.
    InterruptAgain {
        /// To which attempt.
        attempt: Attempt,
    },
    /// Change what it may take; answered by `Limited`.
    Limit {
        /// Which attempt.
        attempt: Attempt,
        /// From now on.
        limits: Limits,
    },
    /// Replace the files with its secrets by those of this launch, which differs in nothing else.
    Renew {
        /// Of which attempt.
        attempt: Attempt,
        /// With the new values.
        launch: Arc<Launch>,
    },
    /// Kill everything in its control group, again and again until nothing is left.
    Kill {
        /// Which attempt.
        attempt: Attempt,
    },
    /// Close the session; answered by `Closed`.
    Close {
        /// Which.
        session: Name,
        /// On whose tmux server; `None` is the default user.
        user: Option<AgentUser>,
    },
    /// Answer a question.
    Answer {
        /// In which attempt.
        attempt: Attempt,
        /// What is passed on.
        told: Told,
    },
    /// There is a question, or something came of it.
    Approval(Box<Approval>),
    /// Read the screen by the rules of this launch; answered by `Activity` with what it shows.
    ReadScreen {
        /// Of which attempt.
        attempt: Attempt,
        /// When something was last printed.
        printed: Timestamp,
        /// Whose rules.
        launch: Arc<Launch>,
    },
    /// An attempt is over.
    Account(PastAttempt),
    /// The agent has ended for good: an operator who attaches gets a shell.
    OfferShell {
        /// In which session.
        session: Name,
        /// On whose tmux server; `None` is the default user.
        user: Option<AgentUser>,
    },
}
