//! Schedules: a task that follows the clock on the wall and says which times have come.
//!
//! What it has dealt with is on disk before anything follows from it. So a time makes no second run, whatever is killed; a run whose
//! task was not written yet when the daemon was killed is lost.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::agent::name::{Key, Name};
use crate::agent::run::Template;
use crate::agent::schedule::{Decision, Due};
use crate::state::schedules::{self, Schedules};
use crate::sys::blocking;
use crate::sys::clock::WallAlarm;
use crate::sys::rate_limit::OnChange;

/// How long to wait before something is tried again that failed.
const RETRY: Duration = Duration::from_secs(5);

/// The templates with schedules.
pub type Scheduled = BTreeMap<Key, (Name, Arc<Template>)>;

/// What a schedule says.
#[derive(Debug)]
pub enum News {
    /// A time has come.
    Due {
        /// The template.
        template: Key,
        /// The run to be made; `None` if the times that have passed make none.
        due: Option<Due>,
        /// How many times have passed that make no run of their own.
        passed: u64,
    },
    /// When the schedules make their next runs, if ever.
    Next(BTreeMap<Key, SystemTime>),
    /// Why no schedule makes runs; `None` if they do again.
    Error(Option<String>),
}

/// Follows the schedules of these templates until nobody declares any more.
pub async fn follow(
    state_dir: PathBuf,
    mut templates: watch::Receiver<Arc<Scheduled>>,
    tell: impl Fn(News),
) -> io::Result<()> {
    let mut has_failed = false;
    let mut known = loop {
        match read(&state_dir).await {
            Ok(known) => break known,
            Err(error) => {
                has_failed = true;
                tell(News::Error(Some(format!("{error}; no schedule makes runs"))));
            }
        }
        tokio::time::sleep(RETRY).await;
    };
    let (mut told, mut shown) = (OnChange::default(), BTreeMap::new());
    let mut alarm = WallAlarm::new()?;
    loop {
        let scheduled = Arc::clone(&templates.borrow_and_update());
        // Before the time is read: a clock that is set from now on wakes it.
        alarm.set(None);
        let now = SystemTime::now();
        let decisions: Vec<(Key, Decision)> = scheduled
            .iter()
            .filter_map(|(key, (name, template))| {
                let schedule = template.schedule.as_ref()?;
                Some((key.clone(), schedule.decide(name, now, known.get(key))))
            })
            .collect();
        let mut settled = known.clone();
        settled.retain(|key, _| scheduled.contains_key(key));
        settled.extend(decisions.iter().map(|(key, decision)| (key.clone(), decision.state.clone())));
        let next: BTreeMap<Key, SystemTime> =
            decisions.iter().filter_map(|(key, decision)| Some((key.clone(), decision.next?))).collect();
        if settled != known {
            if let Err(error) = write(&state_dir, &settled).await {
                let error = format!("{error}; no schedule makes runs until that is resolved");
                has_failed = true;
                if told.pass(&error) {
                    tell(News::Error(Some(error)));
                }
                tokio::time::sleep(RETRY).await;
                continue;
            }
            known = settled;
        }
        if std::mem::take(&mut has_failed) {
            told.reset();
            tell(News::Error(None));
        }
        for (template, Decision { due, passed, .. }) in decisions {
            if due.is_some() || passed > 0 {
                tell(News::Due { template, due, passed });
            }
        }
        if next != shown {
            tell(News::Next(next.clone()));
        }
        alarm.set(next.values().min().copied());
        shown = next;
        tokio::select! {
            changed = templates.changed() => if changed.is_err() { return Ok(()) },
            () = alarm.ring() => {}
        }
    }
}

async fn read(state_dir: &Path) -> Result<Schedules, String> {
    let state_dir = state_dir.to_owned();
    let read = blocking::run(move || schedules::read(&state_dir)).await;
    read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

async fn write(state_dir: &Path, settled: &Schedules) -> Result<(), String> {
    let (state_dir, settled) = (state_dir.to_owned(), settled.clone());
    let written = blocking::run(move || schedules::write(&state_dir, &settled)).await;
    written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}
