//! The log files of one attempt: watched while its launcher writes to them, and replaced when somebody has taken them away.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::agent::machine::Numbers;
use crate::agent::name::Name;
use crate::launch::protocol;
use crate::logs::attempt::Files;
use crate::logs::guard::{Finding, MOST_EXCESSES, Watch};
use crate::supervisor::log_files::{LogFiles, Made};
use crate::sys::clock::Timestamp;
use crate::sys::file_id::FileId;

/// How soon files that were taken away are replaced again, however often somebody takes them away.
pub(super) const REMAKE_INTERVAL: Duration = Duration::from_secs(5);

/// How long a launcher may take to switch to other files before readers do.
pub(super) const SWITCH_TIME: Duration = Duration::from_secs(1);

/// How many files that were taken away are still watched: a launcher may go on writing to them.
const MOST_FORMER: usize = 4;

/// Keeps the log files of one attempt.
#[derive(Debug)]
pub(super) struct LogKeeper {
    log_files: Arc<dyn LogFiles>,
    agent: Name,
    /// How the attempt is counted.
    numbers: Numbers,
    present: Option<Watch>,
    former: Vec<Watch>,
    /// Whether its launcher was told the very size that is the bound.
    is_told: bool,
    remade: Option<Instant>,
}

/// Files for a launcher.
#[derive(Debug)]
pub(super) struct NewFiles {
    pub(super) files: Files,
    /// What is wrong with them, although they can be written.
    pub(super) flaw: Option<String>,
}

impl LogKeeper {
    pub(super) fn new(log_files: Arc<dyn LogFiles>, agent: Name, numbers: Numbers) -> Self {
        Self { log_files, agent, numbers, present: None, former: Vec::new(), is_told: false, remade: None }
    }

    /// A keeper for the same attempt, without files.
    pub(super) fn another(&self) -> Self {
        Self::new(Arc::clone(&self.log_files), self.agent.clone(), self.numbers)
    }

    /// Makes files and watches them. Fails in words for a person.
    pub(super) async fn make(&mut self) -> Result<NewFiles, String> {
        let Made { files, watch, flaw } = self.log_files.make(&self.agent, self.numbers).await?;
        self.keep(watch);
        self.is_told = true;
        Ok(NewFiles { files, flaw })
    }

    /// Removes the files: there was no attempt.
    pub(super) async fn discard(&mut self) {
        if let Some(watch) = self.present.take() {
            self.log_files.discard(&self.agent, watch.live().kept).await;
        }
    }

    fn keep(&mut self, watch: Watch) {
        self.former.extend(self.present.replace(watch));
        let surplus = self.former.len().saturating_sub(MOST_FORMER);
        self.former.drain(..surplus);
    }

    /// Takes up the files of an attempt that is under way. `said` is what its launcher says of them. Returns whether the launcher
    /// needs others.
    pub(super) async fn take_up(&mut self, said: Option<protocol::Log>) -> bool {
        // Files that cannot be opened now are not watched. Nobody knows whether they are there.
        let Ok(watch) = self.log_files.find(&self.agent).await else { return false };
        let found = watch.as_ref().and_then(|watch| FileId::of(&watch.live().text).ok());
        if let Some(watch) = watch {
            self.keep(watch);
        }
        if let Some(lost) = said.and_then(|said| said.lost_at) {
            self.log_files.lost(&self.agent, Timestamp::now().back_to(lost).wall());
        }
        self.is_told = said.is_some_and(|said| said.size == self.log_files.size());
        said.is_some_and(|said| found != Some(said.file))
    }

    /// Returns the present files again if its launcher says that it writes to others.
    pub(super) fn unheard_of(&self, said: Option<protocol::Log>) -> Option<Files> {
        let live = self.present.as_ref()?.live();
        let is_other = said?.file != FileId::of(&live.text).ok()?;
        is_other.then(|| live.files().ok()).flatten()
    }

    /// Waits for the next finding about the present files, forever if there are none. Cancel-safe.
    pub(super) async fn found(&mut self) -> Finding {
        match &mut self.present {
            Some(watch) => watch.found().await,
            None => std::future::pending().await,
        }
    }

    /// Replaces files that somebody has taken away; `None` if that was done just now.
    pub(super) async fn make_again(&mut self) -> Option<Result<NewFiles, String>> {
        let now = Instant::now();
        if self.remade.is_some_and(|before| now < before + REMAKE_INTERVAL) {
            return None;
        }
        self.remade = Some(now);
        Some(self.make().await)
    }

    /// Notes that output is lost, because its launcher cannot write it.
    pub(super) fn lost(&self) {
        self.log_files.lost(&self.agent, SystemTime::now());
    }

    /// Tells readers, once its launcher has had time to switch to the present files.
    pub(super) fn was_moved(&self) {
        let log_files = Arc::clone(&self.log_files);
        tokio::spawn(async move {
            tokio::time::sleep(SWITCH_TIME).await;
            log_files.has_moved();
        });
    }

    /// Describes the `count`th time that its files took too much of the disk, and whether its launcher is to be ended for it.
    pub(super) fn excess(&self, occupied: u64, count: u32) -> (String, bool) {
        excess(self.is_told, occupied, count)
    }
}

/// A launcher that says it was told another size may be an honest one of an earlier daemon's, or may lie: it is reported only.
fn excess(is_told: bool, occupied: u64, count: u32) -> (String, bool) {
    if is_told {
        let flaw = format!(
            "its launcher took {occupied} bytes of the disk for its log, more than it was told to; they were given back"
        );
        return (flaw, count >= MOST_EXCESSES);
    }
    // Without the number: it would be said again each time.
    let flaw = "its launcher, which says it was told another size, took more of the disk for its log than may be kept; what was too much was given back";
    (flaw.to_owned(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_that_takes_too_much_space_is_reported() {
        let (flaw, is_condemned) = excess(true, 4096, MOST_EXCESSES);
        assert!(flaw.contains("4096 bytes") && is_condemned);
        assert!(!excess(true, 4096, MOST_EXCESSES - 1).1);
        let (flaw, is_condemned) = excess(false, 4096, MOST_EXCESSES);
        assert!(flaw.contains("more of the disk for its log than may be kept") && !is_condemned);
        assert_eq!(excess(false, 8192, MOST_EXCESSES + 1).0, flaw, "it is said once");
    }
}
