//! What happens to an agent, and what is to be done about it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Attempt;
use crate::agent::declaration::Declaration;
use crate::agent::fingerprint::Fingerprint;
use crate::agent::launch::Launch;
use crate::agent::name::Name;
use crate::agent::spec::Limits;
use crate::sys::clock::Timestamp;
use crate::sys::process::Identity;
use crate::wire::exit_status::ExitStatus;
use crate::wire::status::{PastAttempt, Usage};

/// What happens to an agent.
#[derive(Clone, Debug)]
pub enum Event {
    /// A new life begins under this declaration.
    Declare(Declaration),
    /// The declaration has changed in what does not touch a living process.
    Update(Declaration),
    /// The entry is wrong, in these words.
    Reject(String),
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
    /// The harness runs.
    Started {
        /// Of which attempt.
        attempt: Attempt,
        /// The harness.
        pid: i32,
        /// Since when.
        at: Timestamp,
    },
    /// Instead of launching it, one that ran already was found in its place: this was launched then.
    Found {
        /// Of which attempt.
        attempt: Attempt,
        /// Of what was launched, if its launcher says that.
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
    /// What it prints is not kept, for this reason; `None` when it is.
    Logged {
        /// Of which attempt.
        attempt: Attempt,
        /// For a person.
        error: Option<String>,
    },
    /// Nothing of the attempt is left. Said of every attempt, once, last.
    Gone {
        /// Which.
        attempt: Attempt,
    },
    /// Said instead of launching it, at once: the session is still another agent's. Nothing else is heard of the attempt.
    SessionBusy {
        /// Of which attempt.
        attempt: Attempt,
        /// Whose it is.
        holder: Name,
    },
    /// The session that was busy is free.
    SessionFree,
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

/// Why a harness could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStarted {
    /// The agent's own fault, as far as can be told: no such program, say. Counts as an attempt that failed.
    Failed(String),
    /// tmux's, the system's, or nobody's: it is tried again whatever the policy says.
    Retry(String),
    /// It came to nothing because a daemon was cut off in the middle of it: it is made up for at once, and does not count.
    CutOff,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Launch this; answered by `Opened`, `Started` or `NotStarted`, and `Gone` in the end, or by `SessionBusy` alone.
    Launch {
        /// The number to go by.
        attempt: Attempt,
        /// What.
        launch: Arc<Launch>,
        /// What it may take; answered by `Limited`.
        limits: Limits,
    },
    /// Find the attempt that an earlier daemon has launched, and follow it; answered as `Launch` is, or by `Ended`, and by `Gone`.
    Resume {
        /// Which.
        attempt: Attempt,
        /// Its launcher, if that had reported.
        launcher: Option<Identity>,
    },
    /// Send SIGINT, once.
    Interrupt {
        /// To which attempt.
        attempt: Attempt,
    },
    /// Send SIGINT a second time: some harnesses ask whether the first was meant.
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
    /// Kill everything of it, and do not rest before it is gone.
    Kill {
        /// Which attempt.
        attempt: Attempt,
    },
    /// Close the session; answered by `Closed`.
    Close {
        /// Which.
        session: Name,
    },
    /// An attempt is over.
    Account(PastAttempt),
    /// The agent has ended for good: whoever attaches is to get a shell.
    OfferShell {
        /// In which session.
        session: Name,
    },
}
