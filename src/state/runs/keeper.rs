//! Keeps records and ledgers in the background, in the order of the commands.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Error, FOLDER, Header, Ledgers, Phase, Recorded, VERSION, read_record};
use crate::agent::name::Key;
use crate::sys::PathError;
use crate::sys::blocking;
use crate::sys::secret_bytes::SecretBytes;
use crate::wire::status::Outcome;

/// The most commands that are carried out together.
const MOST_TOGETHER: usize = 256;

/// How long to wait before a ledger is read again that could not be read, and before work is tried again that found no thread.
const RETRY: Duration = Duration::from_secs(10);

/// What was asked of the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// To put a run on record.
    Put,
    /// To put on record that a run has a place.
    Begin,
    /// To put on record how a run ended.
    SetOver,
    /// To write the id of a run to the ledger.
    End,
    /// To remove the record of a run.
    Remove,
}

/// What the keeper reports. All of it is on disk.
#[derive(Debug)]
pub enum Kept {
    /// The run is on record, with its task.
    Recorded {
        /// The run.
        key: Key,
    },
    /// The record says that the run has a place.
    Begun {
        /// The run.
        key: Key,
        /// What it is to do.
        task: SecretBytes,
    },
    /// The record says how the run ended.
    Over {
        /// The run.
        key: Key,
    },
    /// The id of the run is in the ledger.
    Ended {
        /// The run.
        key: Key,
    },
    /// The record of the run is gone.
    Removed {
        /// The run.
        key: Key,
    },
    /// That was not done, and nothing of it is left. It is not tried again unless it is asked for again.
    Failed {
        /// The run.
        key: Key,
        /// What was not done.
        what: What,
        /// Why.
        error: Error,
    },
    /// A ledger can be read again that could not be read before.
    Readable {
        /// The template.
        agent: Key,
    },
}

/// Keeps the records and ledgers in the background, so that callers do not wait.
#[derive(Debug)]
pub struct Keeper {
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Command {
    Put { run: Box<Recorded>, task: SecretBytes },
    Begin { key: Key, boot: String },
    SetOver { key: Key, outcome: Outcome },
    End { key: Key },
    Remove { key: Key },
}

impl Command {
    fn key(&self) -> Key {
        match self {
            Self::Put { run, .. } => run.key(),
            Self::Begin { key, .. } | Self::SetOver { key, .. } | Self::End { key } | Self::Remove { key } => {
                key.clone()
            }
        }
    }

    fn what(&self) -> What {
        match self {
            Self::Put { .. } => What::Put,
            Self::Begin { .. } => What::Begin,
            Self::SetOver { .. } => What::SetOver,
            Self::End { .. } => What::End,
            Self::Remove { .. } => What::Remove,
        }
    }
}

impl Keeper {
    /// Starts keeping in this state directory. Calls `tell` with each report, in the order of the commands.
    ///
    /// `ledgers` are those of the [reading](super::read_all). Must be called inside the async runtime.
    pub fn start(state_dir: &Path, ledgers: Ledgers, tell: impl Fn(Kept) + Send + 'static) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let store = Store { folder: state_dir.join(FOLDER), ledgers };
        Self { commands, task: tokio::spawn(keep(Arc::new(store), receiver, tell)) }
    }

    /// Puts a run on record with its task, or replaces its record.
    pub fn put(&self, run: Recorded, task: SecretBytes) {
        self.give(Command::Put { run: Box::new(run), task });
    }

    /// Puts on record that the run has a place in this boot of the machine. The report has its task.
    pub fn begin(&self, key: Key, boot: String) {
        self.give(Command::Begin { key, boot });
    }

    /// Puts on record how the run ended.
    pub fn set_over(&self, key: Key, outcome: Outcome) {
        self.give(Command::SetOver { key, outcome });
    }

    /// Writes the id of the run to the ledger: no task with this id is taken from now on.
    pub fn end(&self, key: Key) {
        self.give(Command::End { key });
    }

    /// Removes the record of the run.
    pub fn remove(&self, key: Key) {
        self.give(Command::Remove { key });
    }

    fn give(&self, command: Command) {
        // It is received until this is dropped.
        let _ = self.commands.send(command);
    }

    /// Returns once everything that was asked for is done and reported, or after `patience`.
    pub async fn finish(self, patience: Duration) {
        drop(self.commands);
        let _ = tokio::time::timeout(patience, self.task).await;
    }
}

async fn keep(store: Arc<Store>, mut commands: mpsc::UnboundedReceiver<Command>, tell: impl Fn(Kept)) {
    let mut next = None;
    loop {
        let unknown = store.ledgers.unknown();
        let first = if let Some(command) = next.take() {
            command
        } else {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => command,
                    None => return,
                },
                () = tokio::time::sleep(RETRY), if !unknown.is_empty() => {
                    let reader = Arc::clone(&store);
                    let readable = blocking::run(move || reader.read_again(unknown)).await.unwrap_or_default();
                    for agent in readable {
                        tell(Kept::Readable { agent });
                    }
                    continue;
                }
            }
        };
        let mut keys = BTreeSet::from([first.key()]);
        let mut batch = vec![first];
        while batch.len() < MOST_TOGETHER
            && let Ok(command) = commands.try_recv()
        {
            // What is asked of one run is done one after the other.
            if !keys.insert(command.key()) {
                next = Some(command);
                break;
            }
            batch.push(command);
        }
        let batch = Arc::new(batch);
        loop {
            let (worker, work) = (Arc::clone(&store), Arc::clone(&batch));
            match blocking::run(move || worker.carry_out(&work)).await {
                Ok(reports) => break reports.into_iter().for_each(&tell),
                Err(error) => {
                    tracing::warn!("failed to keep what becomes of runs: {error}; it is tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// The folder of all runs, and what is known of the ledgers in it.
#[derive(Debug)]
struct Store {
    folder: PathBuf,
    ledgers: Ledgers,
}

/// What is left to be done of a command, once all files are written and synced.
enum Step {
    Replace { file: File, path: PathBuf, task: Option<SecretBytes> },
    Unlink(PathBuf),
    Listed { agent: Key },
}

impl Store {
    fn read_again(&self, unknown: Vec<Key>) -> Vec<Key> {
        let is_read = |agent: &Key| self.ledgers.read(agent, &self.folder.join(agent.as_str())).is_ok();
        unknown.into_iter().filter(is_read).collect()
    }

    /// The folder of the template, and the record of the run.
    fn paths(&self, key: &Key) -> Result<(Key, PathBuf, PathBuf), Error> {
        let (agent, id) =
            key.run().ok_or_else(|| PathError::new("find", key.as_str(), io::Error::other("it is not a run")))?;
        let folder = self.folder.join(agent.as_str());
        let path = folder.join(format!("{id}.json"));
        Ok((agent, folder, path))
    }

    /// Carries out commands on different runs, and syncs together. Blocks.
    fn carry_out(&self, batch: &[Command]) -> Vec<Kept> {
        let mut steps: Vec<Result<Step, Error>> = batch.iter().map(|command| self.prepare(command)).collect();
        self.list(batch, &mut steps);
        for step in &mut steps {
            if let Ok(Step::Replace { file, path, .. }) = step
                && let Err(error) = file.sync_data()
            {
                let error = PathError::new("write", &*path, error);
                discard(path);
                *step = Err(error.into());
            }
        }
        for step in &mut steps {
            let done = match step {
                Ok(Step::Replace { path, .. }) => fs::rename(new(path), &*path).map_err(|error| {
                    discard(path);
                    PathError::new("write", &*path, error)
                }),
                Ok(Step::Unlink(path)) => match fs::remove_file(&*path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(PathError::new("remove", &*path, error))
                    }
                    _ => Ok(()),
                },
                Ok(Step::Listed { .. }) | Err(_) => Ok(()),
            };
            if let Err(error) = done {
                *step = Err(error.into());
            }
        }
        self.sync_folders(batch, &mut steps);
        batch.iter().zip(steps).map(|(command, step)| report(command, step)).collect()
    }

    /// Does what can be done of a command before anything is synced.
    fn prepare(&self, command: &Command) -> Result<Step, Error> {
        let (agent, folder, path) = self.paths(&command.key())?;
        match command {
            Command::Put { run, task } => {
                let file = self.write(&folder, &path, run, task)?;
                Ok(Step::Replace { file, path, task: None })
            }
            Command::Begin { key, boot } => {
                let phase = Phase::Begun { boot: boot.clone(), at: SystemTime::now() };
                let (file, task) = self.rewrite(key, &folder, &path, phase)?;
                Ok(Step::Replace { file, path, task: Some(task) })
            }
            Command::SetOver { key, outcome } => {
                let phase = Phase::Over { outcome: *outcome, at: SystemTime::now() };
                let (file, _) = self.rewrite(key, &folder, &path, phase)?;
                Ok(Step::Replace { file, path, task: None })
            }
            Command::End { .. } => {
                make(&folder).map_err(PathError::of("make", &folder))?;
                Ok(Step::Listed { agent })
            }
            Command::Remove { .. } => Ok(Step::Unlink(path)),
        }
    }

    fn rewrite(&self, key: &Key, folder: &Path, path: &Path, phase: Phase) -> Result<(File, SecretBytes), Error> {
        let (run, opened) = read_record(path, key)?;
        let task = opened.task(path)?;
        let run = Recorded { phase, ..run };
        Ok((self.write(folder, path, &run, &task)?, task))
    }

    /// Writes what is to become the record, beside it. Returns the file, which is not synced yet.
    #[allow(clippy::unused_self, reason = "it is a part of the store")]
    fn write(&self, folder: &Path, path: &Path, run: &Recorded, task: &SecretBytes) -> Result<File, Error> {
        let failed = |error: io::Error| {
            discard(path);
            Error::from(PathError::new("write", path, error))
        };
        let task_bytes = task.as_slice().len() as u64;
        let header = serde_json::to_vec(&Header { version: VERSION, task_bytes, run });
        let mut text = header.map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(O_NOFOLLOW | O_CLOEXEC);
        let mut file = match options.open(new(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(folder).and_then(|()| options.open(new(path))).map_err(failed)?
            }
            file => file.map_err(failed)?,
        };
        file.write_all(&text).and_then(|()| file.write_all(task.as_slice())).map_err(failed)?;
        Ok(file)
    }

    /// Writes the ids that have ended to the ledgers, those of one template together.
    fn list(&self, batch: &[Command], steps: &mut [Result<Step, Error>]) {
        let mut ended: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            if let Ok(Step::Listed { agent }) = step {
                ended.entry(agent.clone()).or_default().push(at);
            }
        }
        let now = SystemTime::now();
        for (agent, places) in ended {
            let folder = self.folder.join(agent.as_str());
            let id = |&at: &usize| Some(batch.get(at)?.key().run()?.1.to_owned());
            let ids: Vec<String> = places.iter().filter_map(id).collect();
            if let Err(error) = self.ledgers.shorten(&agent, &folder, now) {
                tracing::warn!("failed to forget old runs of {agent}: {error}");
            }
            if let Err(error) = self.ledgers.add(&agent, &ids, &folder, now) {
                let reason = error.to_string();
                for at in places {
                    let path = super::ledger::path(&folder);
                    steps[at] = Err(PathError::new("write", path, io::Error::other(reason.clone())).into());
                }
            }
        }
    }

    /// Syncs the folders in which something was changed.
    fn sync_folders(&self, batch: &[Command], steps: &mut [Result<Step, Error>]) {
        let mut synced: BTreeMap<PathBuf, Result<(), String>> = BTreeMap::new();
        for (command, step) in batch.iter().zip(steps) {
            let Ok((_, folder, _)) = self.paths(&command.key()) else { continue };
            if step.is_err() {
                continue;
            }
            let sync = |folder: &PathBuf| File::open(folder)?.sync_all();
            let is_synced = synced.entry(folder.clone()).or_insert_with_key(|folder| match sync(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
                _ => Ok(()),
            });
            if let Err(reason) = is_synced {
                *step = Err(PathError::new("sync", folder, io::Error::other(reason.clone())).into());
            }
        }
    }
}

/// Makes the folder of a template, and those above it, so that they last.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for above in folder.ancestors().skip(1).take(2) {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

/// What is to become this file.
fn new(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Removes what was to become this file. If that fails, the next daemon does it.
fn discard(path: &Path) {
    let _ = fs::remove_file(new(path));
}

fn report(command: &Command, step: Result<Step, Error>) -> Kept {
    let (key, what) = (command.key(), command.what());
    match (what, step) {
        (what, Err(error)) => Kept::Failed { key, what, error },
        (What::Put, _) => Kept::Recorded { key },
        (What::Begin, Ok(Step::Replace { task: Some(task), .. })) => Kept::Begun { key, task },
        (What::SetOver | What::Begin, _) => Kept::Over { key },
        (What::End, _) => Kept::Ended { key },
        (What::Remove, _) => Kept::Removed { key },
    }
}
