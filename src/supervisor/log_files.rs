//! Where an attempt's launcher writes what is printed: files that are looked after, and others when somebody has taken those away.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::agent::name::Name;
use crate::launch::protocol;
use crate::logs::attempt::{Files, Live};
use crate::logs::guard::{Finding, Guard, MOST_EXCESSES, Watch};
use crate::logs::store::Store;
use crate::supervisor::services::Services;
use crate::sys::blocking;
use crate::sys::file_id::FileId;

/// How long the files may take to be made before the attempt goes on without, for as long as it runs: longer than a busy disk takes.
const TO_MAKE: Duration = Duration::from_secs(10);

/// Files are not made again sooner than this, whoever goes on taking them away.
const BETWEEN: Duration = Duration::from_secs(5);

/// How long a launcher may take to go on in other files, before those who follow do.
const TO_MOVE: Duration = Duration::from_secs(1);

/// How many files that were taken away are looked after: a launcher may go on writing to them.
const MOST_FORMER: usize = 4;

/// The files of one attempt.
#[derive(Debug)]
pub(super) struct Keeping {
    store: Store,
    guard: Guard,
    agent: Name,
    /// How the attempt is counted under its declaration.
    number: u64,
    present: Option<Watch>,
    former: Vec<Watch>,
    /// Whether its launcher was told the very size that is the bound.
    is_told: bool,
    made_again: Option<Instant>,
}

impl Keeping {
    pub(super) fn new(means: &Services, agent: Name, number: u64) -> Self {
        let (store, guard) = (means.store.clone(), means.guard.clone());
        Self { store, guard, agent, number, present: None, former: Vec::new(), is_told: false, made_again: None }
    }

    /// Of the same attempt, without files.
    pub(super) fn another(&self) -> Self {
        let (store, guard, agent) = (self.store.clone(), self.guard.clone(), self.agent.clone());
        Self {
            store,
            guard,
            agent,
            number: self.number,
            present: None,
            former: Vec::new(),
            is_told: false,
            made_again: None,
        }
    }

    /// Makes files, and looks after them; or says in words why there are none. The second is what is wrong with them all the same.
    pub(super) async fn make(&mut self) -> Result<(Files, Option<String>), String> {
        let (store, agent, number) = (self.store.clone(), self.agent.clone(), self.number);
        let make = move || -> Result<(Files, Live), String> {
            let files = store.create(&agent, number).map_err(|error| error.to_string())?;
            let live = Live::of(agent, &files).map_err(|error| format!("failed to look after its files: {error}"))?;
            Ok((files, live))
        };
        let (files, live) = match timeout(TO_MAKE, blocking::run(make)).await {
            Ok(Ok(made)) => made?,
            Ok(Err(error)) => return Err(format!("failed to make its files: {error}")),
            Err(_) => return Err(format!("failed to make its files within {}", humantime::format_duration(TO_MAKE))),
        };
        let flaw = (!files.can_shrink).then(|| {
            let (size, path) = (self.store.size(), self.store.path().display());
            format!("the file system of {path} cannot take back the beginning of a file: each time a log has {size} bytes, it begins again and what it had is lost")
        });
        self.look_after(live);
        self.is_told = true;
        Ok((files, flaw))
    }

    fn look_after(&mut self, live: Live) {
        self.former.extend(self.present.replace(self.guard.watch(live)));
        let surplus = self.former.len().saturating_sub(MOST_FORMER);
        self.former.drain(..surplus);
    }

    /// Takes up the files of an attempt that is under way, of which its launcher says this. Answers whether it needs others.
    pub(super) async fn take_up(&mut self, said: Option<protocol::Log>) -> bool {
        let (store, agent) = (self.store.clone(), self.agent.clone());
        let open = move || store.live(&agent);
        let taking_up = async {
            let _turn = self.guard.turn_to_take_up().await;
            blocking::run(open).await
        };
        // What cannot be opened now is not looked after. Whether it is there nobody knows.
        let Ok(Ok(Ok(live))) = timeout(TO_MAKE, taking_up).await else { return false };
        let found = live.as_ref().and_then(|live| FileId::of(&live.text).ok());
        if let Some(live) = live {
            self.look_after(live);
        }
        self.is_told = said.is_some_and(|said| said.size == self.store.size());
        said.is_some_and(|said| found != Some(said.file))
    }

    /// The present files again, if those are others than its launcher says it writes to.
    pub(super) fn unheard_of(&self, said: Option<protocol::Log>) -> Option<Files> {
        let live = self.present.as_ref()?.live();
        let is_other = said?.file != FileId::of(&live.text).ok()?;
        is_other.then(|| live.files().ok()).flatten()
    }

    /// What is found of the present files next; never anything, if there are none. Cancel-safe.
    pub(super) async fn found(&mut self) -> Finding {
        match &mut self.present {
            Some(watch) => watch.found().await,
            None => std::future::pending().await,
        }
    }

    /// Makes other files for those that somebody has taken away; `None` if that was done just now.
    pub(super) async fn make_again(&mut self) -> Option<Result<(Files, Option<String>), String>> {
        let now = Instant::now();
        if self.made_again.is_some_and(|before| now < before + BETWEEN) {
            return None;
        }
        self.made_again = Some(now);
        Some(self.make().await)
    }

    /// Its launcher was told to go on in the present files.
    pub(super) fn was_moved(&self) {
        let store = self.store.clone();
        tokio::spawn(async move {
            tokio::time::sleep(TO_MOVE).await;
            store.has_moved();
        });
    }

    /// What is wrong when the files took so many bytes of the disk, for the how manyth time, and whether its launcher is to be ended.
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
    fn a_launcher_that_takes_too_much_is_reported_whatever_it_was_told() {
        let (flaw, is_condemned) = excess(true, 4096, MOST_EXCESSES);
        assert!(flaw.contains("4096 bytes") && is_condemned);
        assert!(!excess(true, 4096, MOST_EXCESSES - 1).1);
        let (flaw, is_condemned) = excess(false, 4096, MOST_EXCESSES);
        assert!(flaw.contains("more of the disk for its log than may be kept") && !is_condemned);
        assert_eq!(excess(false, 8192, MOST_EXCESSES + 1).0, flaw, "it is said once");
    }
}
