//! What should be: each agent that is declared, and what is to be launched, or what is missing for that.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::agent::launch::Launch;
use crate::agent::name::{Key, Name};
use crate::agent::orders::Overrides;
use crate::agent::secrets::Secrets;
use crate::agent::spec::{Kind, Policy};
use crate::agent::user::UserName;
use crate::wire::reason::Causes;
pub use crate::wire::reason::WaitingFor;

/// Everything that should be, as of one reading of the inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// By [`Name::key`].
    pub agents: BTreeMap<Key, DesiredAgent>,
    /// Whether every agent that is not in `agents` is known to be undeclared; see [`Config::complete`].
    pub complete: bool,
    /// What is wrong with the jcard.
    pub config_error: Option<String>,
    /// When a jcard that differed from the one before was last read.
    pub config_read: Option<SystemTime>,
    /// The reading of the jcard that is in force; `None` before the first.
    pub reading: Option<Reading>,
    /// The users that entries name, or named before, and that must not be agent users, and why: nothing may be launched as them.
    pub unfit: Arc<BTreeMap<UserName, String>>,
    /// What is wrong with the secrets.
    pub secrets_error: Option<String>,
    /// What operators want of the agents; `None` if that is not known.
    pub overrides: Option<Arc<Overrides>>,
    /// Where operators say so.
    pub override_dir: Option<PathBuf>,
    /// What is wrong with the overrides.
    pub override_error: Option<String>,
    /// All known secrets, given to an agent or not: an earlier daemon may have given an agent any of them.
    pub secrets: Arc<Secrets>,
}

/// A jcard that was read and taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Rises with each jcard that differs from the one before, also over restarts of the daemon, unless the clock is set back.
    pub generation: u64,
    /// When the file was written last.
    pub modified: SystemTime,
}

impl Reading {
    /// The reading `now` of a file that differs from the one before.
    ///
    /// The milliseconds since 1970 rise over restarts without a record.
    pub fn after(before: Option<Self>, modified: SystemTime, now: SystemTime) -> Self {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let clock = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        Self { generation: before.map_or(clock, |before| clock.max(before.generation.saturating_add(1))), modified }
    }
}

/// One entry of the jcard, well or badly declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredAgent {
    /// As written.
    pub name: Name,
    /// The harness, if the entry names one.
    pub harness: Option<Arc<str>>,
    /// Whom the entry names to run as; `None` is the default user.
    pub user: Option<UserName>,
    /// The agent, or what is wrong with its entry.
    pub declaration: Result<Declaration, String>,
}

/// How an agent should live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// How it is confined.
    pub kind: Kind,
    /// When it restarts, times out, and is killed.
    pub policy: Policy,
    /// What is launched, or what is missing before it can be.
    pub launch: Result<Arc<Launch>, Missing>,
}

/// What an agent lacks before it can be launched. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub Vec<WaitingFor>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Causes(&self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_generation_rises_even_if_the_clock_is_set_back() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let first = Reading::after(None, at(1), at(100));
        assert_eq!(first, Reading { generation: 100_000, modified: at(1) });
        let second = Reading::after(Some(first), at(2), at(50));
        assert_eq!(second, Reading { generation: 100_001, modified: at(2) });
        assert_eq!(Reading::after(Some(second), at(3), at(200)).generation, 200_000);
    }
}
