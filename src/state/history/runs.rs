//! The runs that have ended, in files that grow.
//!
//! ```text
//! STATE_DIR/history/runs/00000001.jsonl    a run on each line, the earliest first; the last file is written to
//! ```
//!
//! All files together have a limit: the oldest goes first. They are not kept in memory, but read when somebody asks. A run is added in
//! the background and synced; one that cannot be written is tried again, and in the end lost, which does no harm.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::libc::{O_CLOEXEC, O_NOFOLLOW};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::sys::PathError;
use crate::sys::atomic_file::{self, Durability};
use crate::sys::blocking;
use crate::wire::history::{Ended, HistoryWanted, PastRun, Place};

/// The folder in that of the histories.
const FOLDER: &str = "runs";

const ENDING: &str = "jsonl";

/// How many bytes all files may have together.
const MOST: u64 = 64 << 20;

/// How many bytes a file has before the next one is begun.
const FILE: u64 = 1 << 20;

/// How many templates that are no longer declared keep their runs: those whose last run ended last.
const MOST_FORMER: usize = 64;

/// How many of the latest runs are known by name, so that none is written twice: more than can be under way when a daemon ends.
const KNOWN: usize = 4096;

/// How many runs wait to be written at most; beyond that, the oldest are lost.
const MOST_PENDING: usize = 4096;

/// How long to wait before writing is tried again after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The limits of the files, in bytes.
#[derive(Clone, Copy, Debug)]
struct Limits {
    all: u64,
    file: u64,
}

/// One of the files, and the times of its runs.
#[derive(Clone, Debug, Default)]
struct Segment {
    number: u64,
    bytes: u64,
    /// The places of the earliest run and of the latest; `None` without runs.
    span: Option<(Place, Place)>,
}

impl Segment {
    fn add(&mut self, place: &Place, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.span = Some(match self.span.take() {
            None => (place.clone(), place.clone()),
            Some((first, last)) => (first.min(place.clone()), last.max(place.clone())),
        });
    }

    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{:08}.{ENDING}", self.number))
    }
}

/// What is known of the files.
#[derive(Debug, Default)]
struct Index {
    /// The oldest first.
    segments: Vec<Segment>,
    /// When the last run of each template ended.
    latest: BTreeMap<String, Place>,
}

/// The names of the latest runs, as hashes.
#[derive(Debug, Default)]
struct Latest {
    state: RandomState,
    known: HashSet<u64>,
    in_order: VecDeque<u64>,
}

impl Latest {
    /// Whether the run is new.
    fn add(&mut self, run: &PastRun) -> bool {
        let hash = self.state.hash_one((run.agent.to_ascii_lowercase(), run.id.to_ascii_lowercase()));
        if !self.known.insert(hash) {
            return false;
        }
        self.in_order.push_back(hash);
        if self.in_order.len() > KNOWN
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[derive(Debug, Default)]
struct Pending {
    runs: VecDeque<PastRun>,
    /// The templates that are declared, in lower case, if that is news.
    declared: Option<BTreeSet<String>>,
    is_last: bool,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    limits: Limits,
    pending: Mutex<Pending>,
    index: Mutex<Index>,
    put: Notify,
}

impl Shared {
    /// Puts news back that could not be acted on, unless there are newer ones. Returns whether the daemon ends.
    fn is_last_after(&self, declared: Option<BTreeSet<String>>) -> bool {
        let mut pending = lock(&self.pending);
        if pending.declared.is_none() {
            pending.declared = declared;
        }
        pending.is_last
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The runs that have ended.
#[derive(Debug)]
pub struct PastRuns {
    shared: Arc<Shared>,
    latest: Latest,
    declared: BTreeSet<String>,
    task: JoinHandle<()>,
}

/// Reads them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader(Arc<Shared>);

impl PastRuns {
    /// Those in this state directory. What cannot be read is left out.
    ///
    /// Must be called inside the async runtime.
    pub async fn open(state_dir: &Path) -> Self {
        Self::open_with(state_dir, Limits { all: MOST, file: FILE }).await
    }

    async fn open_with(state_dir: &Path, limits: Limits) -> Self {
        let folder = state_dir.join(super::FOLDER).join(FOLDER);
        let to_read = folder.clone();
        let read = blocking::run(move || scan(&to_read)).await;
        let (index, latest) = read.and_then(|read| read).unwrap_or_else(|error| {
            tracing::warn!("failed to read the history of runs in {}: {error}", folder.display());
            <(Index, Latest)>::default()
        });
        let shared = Arc::new(Shared {
            folder,
            limits,
            pending: Mutex::default(),
            index: Mutex::new(index),
            put: Notify::new(),
        });
        let task = tokio::spawn(keep(Arc::clone(&shared)));
        Self { shared, latest, declared: BTreeSet::new(), task }
    }

    /// Adds a run that has ended, unless it was added before.
    pub fn add(&mut self, run: PastRun) {
        if !self.latest.add(&run) {
            return;
        }
        let mut pending = lock(&self.shared.pending);
        if pending.runs.len() >= MOST_PENDING {
            pending.runs.pop_front();
        }
        pending.runs.push_back(run);
        drop(pending);
        self.shared.put.notify_one();
    }

    /// Says which agents are declared. Of the others, the latest few keep their runs.
    pub fn declare<'a>(&mut self, agents: impl Iterator<Item = &'a str>) {
        let declared: BTreeSet<String> = agents.map(str::to_ascii_lowercase).collect();
        if declared != self.declared {
            self.declared.clone_from(&declared);
            lock(&self.shared.pending).declared = Some(declared);
            self.shared.put.notify_one();
        }
    }

    /// What reads them.
    pub fn reader(&self) -> Reader {
        Reader(Arc::clone(&self.shared))
    }

    /// Returns once all are written, or after `patience`.
    pub async fn finish(self, patience: Duration) {
        lock(&self.shared.pending).is_last = true;
        self.shared.put.notify_one();
        let _ = timeout(patience, self.task).await;
    }
}

impl Reader {
    /// Those that are meant: the latest `most` of them and perhaps some that ended earlier, in any order. Blocks.
    pub fn read(&self, wanted: &HistoryWanted, most: usize) -> io::Result<Vec<Ended>> {
        let (segments, folder) = (lock(&self.0.index).segments.clone(), &self.0.folder);
        let fits = |run: PastRun| Some(Ended::Run(Box::new(run))).filter(|ended| wanted.fits(ended));
        let mut found: Vec<Ended> = lock(&self.0.pending).runs.iter().cloned().filter_map(fits).collect();
        for segment in segments.iter().rev() {
            let Some((first, last)) = &segment.span else { continue };
            let is_later = wanted.before.as_ref().is_some_and(|before| first >= before);
            let is_earlier = wanted.since.is_some_and(|since| last.at().0 < since);
            // Of those that were found, so many are later than all in this file.
            let later = found.iter().filter(|ended| ended.place() > *last).count();
            if is_later || is_earlier || later >= most {
                continue;
            }
            match each(&segment.path(folder), |run, _| found.extend(fits(run))) {
                // It has gone in the meantime.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                read => read?,
            }
        }
        Ok(found)
    }
}

/// Calls `with` with each run of a file and the length of its line. A line that is not understood is left out.
fn each(path: &Path, mut with: impl FnMut(PastRun, u64)) -> io::Result<()> {
    let mut file = BufReader::new(OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_CLOEXEC).open(path)?);
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        if let Ok(run) = serde_json::from_slice(&line) {
            with(run, u64::try_from(line.len()).unwrap_or(u64::MAX));
        }
        line.clear();
    }
    Ok(())
}

/// Reads what there is.
fn scan(folder: &Path) -> io::Result<(Index, Latest)> {
    let (mut index, mut latest) = (Index::default(), Latest::default());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((index, latest)),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let is_one = path.extension().is_some_and(|ending| ending == ENDING);
        let number = path.file_stem().filter(|_| is_one).and_then(|stem| stem.to_str()?.parse().ok());
        index.segments.extend(number.map(|number| Segment { number, ..Segment::default() }));
    }
    index.segments.sort_by_key(|segment| segment.number);
    for segment in &mut index.segments {
        let path = segment.path(folder);
        each(&path, |run, _| {
            let place = note(&mut index.latest, &run);
            segment.add(&place, 0);
            latest.add(&run);
        })?;
        segment.bytes = fs::metadata(&path)?.len();
    }
    Ok((index, latest))
}

/// Notes when a run of its template ended.
fn note(latest: &mut BTreeMap<String, Place>, run: &PastRun) -> Place {
    let place = Ended::Run(Box::new(run.clone())).place();
    let known = latest.entry(run.agent.to_ascii_lowercase()).or_insert_with(|| place.clone());
    if place > *known {
        known.clone_from(&place);
    }
    place
}

/// Writes what is pending, repeatedly.
async fn keep(shared: Arc<Shared>) {
    let mut has_failed = false;
    loop {
        let (runs, declared, is_last) = {
            let mut pending = lock(&shared.pending);
            // They stay where readers see them until they are in a file.
            (pending.runs.iter().cloned().collect::<Vec<_>>(), pending.declared.take(), pending.is_last)
        };
        let (count, is_news) = (runs.len(), declared.is_some());
        if count > 0 || is_news {
            let its = Arc::clone(&shared);
            let again = declared.clone();
            let written = blocking::run(move || write(&its, &runs, declared.as_ref())).await;
            match written.and_then(|written| written) {
                Ok(()) => {
                    let mut pending = lock(&shared.pending);
                    let count = count.min(pending.runs.len());
                    pending.runs.drain(..count);
                    has_failed = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        tracing::warn!("failed to write the history of runs: {error}; it is tried again");
                    }
                    if shared.is_last_after(again) {
                        return;
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        if is_last && lock(&shared.pending).runs.is_empty() {
            return;
        }
        shared.put.notified().await;
    }
}

/// Writes these runs, and forgets those of templates that have not been declared for longest.
fn write(shared: &Shared, runs: &[PastRun], declared: Option<&BTreeSet<String>>) -> io::Result<()> {
    append(shared, runs)?;
    if let Some(declared) = declared {
        forget(shared, declared)?;
    }
    Ok(())
}

fn append(shared: &Shared, mut runs: &[PastRun]) -> io::Result<()> {
    while !runs.is_empty() {
        let mut segment = {
            let index = lock(&shared.index);
            let last = index.segments.last().cloned();
            match last {
                Some(last) if last.bytes < shared.limits.file => last,
                last => Segment { number: last.map_or(0, |last| last.number).saturating_add(1), ..Segment::default() },
            }
        };
        let mut text = Vec::new();
        let mut count = 0;
        for run in runs {
            if segment.bytes.saturating_add(length(&text)) >= shared.limits.file {
                break;
            }
            serde_json::to_writer(&mut text, run)?;
            text.push(b'\n');
            count += 1;
        }
        let bytes = append_to(&segment.path(&shared.folder), &text)
            .map_err(|error| located("write", &segment.path(&shared.folder), error))?;
        let (written, rest) = runs.split_at(count);
        runs = rest;
        let mut index = lock(&shared.index);
        for run in written {
            let place = note(&mut index.latest, run);
            segment.add(&place, 0);
        }
        segment.bytes = bytes;
        match index.segments.last_mut() {
            Some(last) if last.number == segment.number => *last = segment,
            _ => index.segments.push(segment),
        }
        drop(index);
        drop_oldest(shared)?;
    }
    Ok(())
}

fn located(operation: &'static str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), PathError::new(operation, path, error))
}

fn length(text: &[u8]) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

/// Appends to a file and syncs it. Returns its length. Half a line that a crash has left is ended first, and one that a full disk would
/// leave is taken back.
fn append_to(path: &Path, text: &[u8]) -> io::Result<u64> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW | O_CLOEXEC);
    let open = || options.open(path);
    let mut file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            open()?
        }
        file => file?,
    };
    let before = file.metadata()?.len();
    let mut last = [b'\n'];
    if let Some(at) = before.checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    let mut write = || -> io::Result<()> {
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
        file.write_all(text)?;
        file.sync_data()
    };
    if let Err(error) = write() {
        let _ = file.set_len(before);
        return Err(error);
    }
    Ok(file.metadata()?.len())
}

/// Removes the oldest files beyond the limit, but never the last.
fn drop_oldest(shared: &Shared) -> io::Result<()> {
    loop {
        let oldest = {
            let index = lock(&shared.index);
            let all: u64 = index.segments.iter().map(|segment| segment.bytes).sum();
            if all <= shared.limits.all || index.segments.len() < 2 {
                return Ok(());
            }
            index.segments[0].clone()
        };
        remove(&oldest.path(&shared.folder))?;
        lock(&shared.index).segments.retain(|segment| segment.number != oldest.number);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(located("remove", path, error)),
        _ => Ok(()),
    }
}

/// Forgets the runs of templates beyond the latest few of those that are not declared.
fn forget(shared: &Shared, declared: &BTreeSet<String>) -> io::Result<()> {
    let (segments, gone) = {
        let index = lock(&shared.index);
        let former = index.latest.iter().filter(|(agent, _)| !declared.contains(*agent));
        let mut former: Vec<_> = former.map(|(agent, last)| (last.clone(), agent.clone())).collect();
        former.sort_by(|one, other| other.cmp(one));
        let gone: BTreeSet<String> = former.into_iter().skip(MOST_FORMER).map(|(_, agent)| agent).collect();
        (index.segments.clone(), gone)
    };
    if gone.is_empty() {
        return Ok(());
    }
    for segment in segments {
        let path = segment.path(&shared.folder);
        let mut kept = Segment { number: segment.number, ..Segment::default() };
        let (mut text, mut has_gone) = (Vec::new(), false);
        each(&path, |run, _| {
            if gone.contains(&run.agent.to_ascii_lowercase()) {
                has_gone = true;
            } else if serde_json::to_writer(&mut text, &run).is_ok() {
                text.push(b'\n');
                kept.add(&Ended::Run(Box::new(run)).place(), 0);
            }
        })?;
        if !has_gone {
            continue;
        }
        kept.bytes = length(&text);
        atomic_file::write(&path, &text, Durability::Now).map_err(|error| located("write", &path, error))?;
        let mut index = lock(&shared.index);
        if let Some(known) = index.segments.iter_mut().find(|known| known.number == kept.number) {
            *known = kept;
        }
    }
    let mut index = lock(&shared.index);
    index.latest.retain(|agent, _| !gone.contains(agent));
    drop(index);
    if let Ok(folder) = File::open(&shared.folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tempfile::TempDir;

    use super::*;
    use crate::wire::history::History;
    use crate::wire::status::{Outcome, Time};

    const PATIENCE: Duration = Duration::from_secs(10);

    fn run(agent: &str, id: &str, at: u64) -> PastRun {
        let time = |seconds| Time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        PastRun {
            agent: agent.to_owned(),
            id: id.to_owned(),
            outcome: Outcome::Completed,
            reason: None,
            queued_at: time(0),
            started_at: Some(time(at)),
            ended_at: time(at),
            attempts: 1,
            restarts: 0,
            exit: None,
            cost_usd: Some(0.5),
            tokens: None,
            turns: None,
            plan: None,
            labels: BTreeMap::from([("team".to_owned(), "web".to_owned())]),
        }
    }

    fn names(reader: &Reader, wanted: &HistoryWanted, limit: usize) -> Vec<String> {
        let page = History::latest(reader.read(wanted, limit).unwrap(), limit);
        let name = |ended: &Ended| match ended {
            Ended::Run(run) => run.name(),
            Ended::Attempt(_) => panic!("an attempt"),
        };
        page.ended.iter().map(name).collect()
    }

    fn files(folder: &TempDir) -> Vec<PathBuf> {
        let folder = folder.path().join("history/runs");
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[tokio::test]
    async fn runs_are_read_at_once_and_by_the_next_daemon_and_are_there_once() {
        let folder = TempDir::new().unwrap();
        let any = HistoryWanted::default();
        for round in 0..2 {
            let mut runs = PastRuns::open(folder.path()).await;
            let reader = runs.reader();
            for run in [run("fixer", "b", 2), run("fixer", "a", 1), run("Fixer", "B", 2), run("other", "c", 3)] {
                runs.add(run);
            }
            assert_eq!(names(&reader, &any, 10), ["other/c", "fixer/b", "fixer/a"], "{round}");
            runs.finish(PATIENCE).await;
            assert_eq!(names(&reader, &any, 2), ["other/c", "fixer/b"], "{round}");
        }
        let text = fs::read_to_string(&files(&folder)[0]).unwrap();
        assert_eq!(text.lines().count(), 3);
        let of = HistoryWanted { agent: Some("FIXER".to_owned()), ..any };
        let runs = PastRuns::open(folder.path()).await;
        assert_eq!(names(&runs.reader(), &of, 10), ["fixer/b", "fixer/a"]);
    }

    #[tokio::test]
    async fn half_a_line_costs_only_its_run() {
        let folder = TempDir::new().unwrap();
        let mut runs = PastRuns::open(folder.path()).await;
        runs.add(run("fixer", "a", 1));
        runs.finish(PATIENCE).await;
        let mut file = OpenOptions::new().append(true).open(&files(&folder)[0]).unwrap();
        file.write_all(b"{\"agent\":\"fix").unwrap();
        let mut runs = PastRuns::open(folder.path()).await;
        runs.add(run("fixer", "b", 2));
        runs.finish(PATIENCE).await;
        let runs = PastRuns::open(folder.path()).await;
        assert_eq!(names(&runs.reader(), &HistoryWanted::default(), 10), ["fixer/b", "fixer/a"]);
    }

    #[tokio::test]
    async fn the_oldest_go_first_beyond_the_limit() {
        let folder = TempDir::new().unwrap();
        let limits = Limits { all: 10_000, file: 1000 };
        let mut runs = PastRuns::open_with(folder.path(), limits).await;
        (0..200).for_each(|at| runs.add(run("fixer", &format!("t{at}"), at)));
        let reader = runs.reader();
        runs.finish(PATIENCE).await;
        let bytes: u64 = files(&folder).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        assert!(bytes > 8000 && bytes <= limits.all + limits.file, "{bytes}");
        let kept = names(&reader, &HistoryWanted::default(), 1000);
        let expected: Vec<String> = (0..200).rev().map(|at| format!("fixer/t{at}")).take(kept.len()).collect();
        assert!(kept == expected && kept.len() > 20, "{kept:?}");
        // Pages are the same whichever files they are in.
        let (mut wanted, mut paged) = (HistoryWanted::default(), Vec::new());
        loop {
            let page = History::latest(reader.read(&wanted, 8).unwrap(), 7);
            paged.extend(page.ended.iter().map(|ended| ended.place().to_string()));
            let Some(next) = page.next else { break };
            wanted.before = Some(next.parse().unwrap());
        }
        assert_eq!(paged.len(), kept.len());
    }

    #[tokio::test]
    async fn former_templates_keep_their_runs_if_they_ran_last() {
        let folder = TempDir::new().unwrap();
        let mut runs = PastRuns::open(folder.path()).await;
        (0..70).for_each(|at| runs.add(run(&format!("t{at}"), "a", at)));
        runs.declare(["T0"].into_iter());
        let reader = runs.reader();
        runs.finish(PATIENCE).await;
        let kept = names(&reader, &HistoryWanted::default(), 1000);
        assert_eq!((kept.len(), kept.contains(&"t0/a".to_owned())), (65, true));
        assert!(!kept.contains(&"t5/a".to_owned()) && kept.contains(&"t6/a".to_owned()));
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_shown_and_written_later() {
        let folder = TempDir::new().unwrap();
        let place = folder.path().join("history");
        fs::write(&place, "").unwrap();
        let mut runs = PastRuns::open(folder.path()).await;
        runs.add(run("fixer", "a", 1));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let reader = runs.reader();
        assert_eq!(names(&reader, &HistoryWanted::default(), 10), ["fixer/a"]);
        fs::remove_file(&place).unwrap();
        let written = async {
            while !place.join("runs/00000001.jsonl").exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, written).await.unwrap();
        runs.finish(PATIENCE).await;
        assert_eq!(names(&reader, &HistoryWanted::default(), 10), ["fixer/a"]);
    }
}
