//! The protocol between launcher and daemon, and its version.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::fingerprint::Fingerprint;
use crate::sys::file_id::FileId;
use crate::sys::secret_bytes::SecretBytes;
use crate::wire::status::Usage;

/// The version of the protocol. Launcher and daemon may be of different builds: an agent's launcher outlives an
/// upgrade of the daemon.
pub const WIRE_VERSION: u32 = 1;

/// The longest message of a launcher's.
pub const MAX_FROM_LAUNCHER: usize = 64 << 10;

/// The longest message to a launcher: arguments and environment may have about 6 MiB in all (`execve(2)`).
pub const MAX_TO_LAUNCHER: usize = 32 << 20;

/// What the launcher says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromLauncher {
    /// First of all, to each daemon it connects to.
    Hello {
        /// [`WIRE_VERSION`] of its build.
        version: u32,
        /// The agent it was started for.
        name: String,
        /// The attempt it was started for.
        attempt: u64,
        /// Of what it was told to launch, once it was.
        #[serde(default)]
        fingerprint: Option<Fingerprint>,
        /// How far it has come.
        progress: Progress,
        /// Whether it can go on writing in other files: [`ToLauncher::Keep`].
        #[serde(default)]
        can_move: bool,
        /// Where it writes what is printed.
        #[serde(default)]
        log: Option<Log>,
    },
    /// The harness was started.
    Started(Harness),
    /// The harness could not be started.
    Failed(Failure),
    /// The harness has ended.
    Ended(End),
    /// Something a person should know, for the log.
    Warning(String),
    /// Said before `Started`: its environment is not all that it should be, for this reason.
    Environment(String),
}

/// Where a launcher writes what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The file.
    pub file: FileId,
    /// How many bytes of it are kept.
    pub size: u64,
}

/// How far a launcher has come: `New` to the daemon that had it started, anything to one that came later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// It waits for what to launch.
    New,
    /// The harness runs.
    Running(Harness),
    /// The harness could not be started.
    Failed(Failure),
    /// The harness has ended.
    Ended {
        /// Which ran.
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

/// What the daemon says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToLauncher {
    /// Start this.
    Launch {
        /// Program and arguments.
        arguments: Vec<SecretBytes>,
        /// Over the environment that the login shell gives.
        environment: BTreeMap<String, SecretBytes>,
        /// Where.
        workdir: SecretBytes,
        /// To be told to the next daemon.
        #[serde(default)]
        fingerprint: Fingerprint,
        /// Which of the variables are secrets, to be redacted in the log.
        #[serde(default)]
        secrets: BTreeSet<String>,
        /// How many bytes of what is printed are to be kept. If any, two files [come with](crate::sys::fd_passing) the message: for the
        /// text, and for its index.
        #[serde(default)]
        kept_size: Option<u64>,
        /// How long the login shell may take.
        #[serde(default)]
        login_patience: Option<Duration>,
    },
    /// Write what is printed to the two files that [come with](crate::sys::fd_passing) this from now on: those before have been moved or
    /// removed. Only for launchers that [can](FromLauncher::Hello::can_move).
    Keep {
        /// How many bytes are to be kept.
        kept_size: u64,
    },
    /// Send SIGINT to the foreground process group, unless that was done.
    Interrupt,
    /// Send it there a second time, unless that was done. Half of the grace period has passed. A launcher of an earlier build does
    /// not know this, makes another connection, and goes on.
    InterruptAgain,
    /// That the harness has ended, or was never started, is on record; there is nothing more to wait for.
    Noted,
    /// Nobody waits for this launcher.
    Unwanted,
}

/// Why a harness could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In words, complete.
    pub message: String,
    /// The kernel's number for it, where there is one.
    pub errno: Option<i32>,
    /// Whether something that agents wait for has gone missing at the last moment: the working directory, the account.
    #[serde(default)]
    pub missing: bool,
}

/// How a harness ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Status, signal or cause.
    pub how: Ending,
    /// When, on the boot clock.
    pub at: Duration,
    /// Processor time in user mode, of the harness and all it waited for.
    pub user_time: Duration,
    /// Processor time in the kernel, of the same processes.
    pub system_time: Duration,
    /// The largest resident set of any one of them, in KiB.
    pub max_rss: i64,
}

impl End {
    /// What the attempt took: what its control group counts, or, where there is none, what the launcher knows of the harness.
    pub fn usage_beside(&self, counted: Usage) -> Usage {
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

/// An exit status as `wait(2)` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It was ended because of this, and its own status means nothing.
    Cause(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_tells_the_usage_where_no_group_counts_it() {
        let times = (Duration::from_micros(1500), Duration::from_micros(500));
        let end = |(user_time, system_time), max_rss| End {
            how: Ending::Code(0),
            at: Duration::ZERO,
            user_time,
            system_time,
            max_rss,
        };
        let told = end(times, 4).usage_beside(Usage::default());
        assert_eq!(told, Usage { oom_kills: 0, cpu_usec: Some(2000), memory_peak: Some(4096) });
        let counted = Usage { oom_kills: 1, cpu_usec: Some(7), memory_peak: None };
        assert_eq!(end(times, 4).usage_beside(counted), counted);
        for max_rss in [0, -1] {
            let unknown = end((Duration::ZERO, Duration::ZERO), max_rss).usage_beside(Usage::default());
            assert_eq!(unknown, Usage::default());
        }
        let most = end((Duration::MAX, Duration::MAX), i64::MAX).usage_beside(Usage::default());
        assert_eq!((most.cpu_usec, most.memory_peak), (None, Some(u64::MAX)));
    }
}
