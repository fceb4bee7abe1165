//! The record: what the next daemon must know to continue where this one was interrupted.
//!
//! ```text
//! STATE_DIR/agents/NAME.json     {"version":1,"boot":"…","agent":{…}}
//! ```
//!
//! There is one file per agent in the state directory, for root only. Each is [replaced as a whole](crate::sys::atomic_file), and
//! removed together with its agent. It holds no secret, only a keyed [fingerprint](crate::agent::fingerprint) of what the agent was
//! launched with. Times and process ids mean nothing after another boot, so files from an earlier boot are ignored. The tmux server
//! that was [seen](crate::deputy::Seen) is recorded in a folder [beside](Record::beside) it. What [lasts](Record::lasting) is kept in
//! the same way.
//!
//! A file that cannot be read, is damaged, or has another version is reported and renamed; running agents are left alone. A write that
//! fails is reported, and tried again until it succeeds.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::sys::PathError;
use crate::sys::atomic_file::{self, Durability};
use crate::sys::blocking;
use crate::sys::procfs;
use crate::text::printable;

/// The version of the file format.
const VERSION: u32 = 1;

const FOLDER: &str = "agents";

/// How long to wait before writing is tried again after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Why something could not be recorded, or a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or the folder could not be read or written.
    #[error(transparent)]
    System(#[from] PathError),
    /// The content of a file cannot be used.
    #[error("failed to understand {}: {reason}; it is put aside as {}", path.display(), put_aside(path).display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

fn put_aside(path: &Path) -> PathBuf {
    path.with_extension("unusable")
}

/// Shortens a reason to fit on a line, and escapes it: it may quote the file, which may contain anything.
fn in_short(reason: &str) -> String {
    const MOST: usize = 300;
    printable::escaped(reason).chars().take(MOST).collect()
}

#[derive(Serialize, Deserialize)]
struct Document<T> {
    version: u32,
    boot: String,
    agent: T,
}

/// What names a file of a record: what is in it, and nothing else.
pub trait Named: Clone + Ord + Display + Send + Sync + 'static {}

impl<K: Clone + Ord + Display + Send + Sync + 'static> Named for K {}

/// A folder of records.
#[derive(Clone, Debug)]
pub struct Record {
    folder: PathBuf,
    boot: String,
}

/// The records of an earlier daemon of this boot.
#[derive(Debug)]
pub struct Reading<K, T> {
    /// The usable records, by key.
    pub agents: BTreeMap<K, T>,
    /// The problems with the others.
    pub problems: Vec<Error>,
}

impl Record {
    /// The record in this state directory, during this boot of the machine.
    pub fn new(state_dir: &Path) -> Result<Self, Error> {
        let path = PathBuf::from("/proc/sys/kernel/random/boot_id");
        let boot = procfs::read(&path).map_err(PathError::of("read", &path))?;
        Ok(Self { folder: state_dir.join(FOLDER), boot: String::from_utf8_lossy(boot.trim_ascii()).into_owned() })
    }

    /// A record like this one, in another folder of this state directory.
    #[must_use]
    pub fn beside(&self, folder: &str) -> Self {
        Self { folder: self.folder.with_file_name(folder), boot: self.boot.clone() }
    }

    /// A record in another folder of this state directory that remains valid after a boot.
    pub fn lasting(state_dir: &Path, folder: &str) -> Self {
        Self { folder: state_dir.join(folder), boot: String::new() }
    }

    /// Reads all usable records. Blocks.
    ///
    /// A record must be in the file that belongs to the key that `key_of` gives for it.
    pub fn read<K: Named, T: for<'de> Deserialize<'de>>(&self, key_of: impl Fn(&T) -> K) -> Reading<K, T> {
        let mut reading = Reading { agents: BTreeMap::new(), problems: Vec::new() };
        let failed = |source: io::Error| PathError::new("read", &self.folder, source).into();
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return reading,
            Err(source) => {
                reading.problems.push(failed(source));
                return reading;
            }
            Ok(entries) => entries,
        };
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(source) => {
                    reading.problems.push(failed(source));
                    continue;
                }
            };
            let Some(stem) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")) else { continue };
            let agent = self.read_file(&path).and_then(|agent: Option<T>| {
                let Some(agent) = agent else { return Ok(None) };
                let key = key_of(&agent);
                if key.to_string() == stem {
                    Ok(Some((key, agent)))
                } else {
                    Err(Error::Content { path: path.clone(), reason: in_short(&format!("it is that of {key}")) })
                }
            });
            match agent {
                Ok(Some((key, agent))) => drop(reading.agents.insert(key, agent)),
                // If it cannot be removed, it does no harm.
                Ok(None) => drop(fs::remove_file(&path)),
                Err(error) => {
                    if matches!(error, Error::Content { .. }) {
                        let _ = fs::rename(&path, put_aside(&path));
                    }
                    reading.problems.push(error);
                }
            }
        }
        reading
    }

    /// Reads a file; `None` if it is of another boot.
    fn read_file<T: for<'de> Deserialize<'de>>(&self, path: &Path) -> Result<Option<T>, Error> {
        let content = |reason: String| Error::Content { path: path.to_owned(), reason: in_short(&reason) };
        let text = fs::read(path).map_err(PathError::of("read", path))?;
        // The version first: another version may have another format.
        let document: Document<serde_json::Value> =
            serde_json::from_slice(&text).map_err(|error| content(error.to_string()))?;
        if document.version != VERSION {
            return Err(content(format!("it is of version {}, not {VERSION}", document.version)));
        }
        if document.boot != self.boot {
            return Ok(None);
        }
        serde_json::from_value(document.agent).map(Some).map_err(|error| content(error.to_string()))
    }

    /// The content of the file for this record. Fails only if it cannot be represented in JSON.
    fn render<T: Serialize>(&self, agent: &T) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Document { version: VERSION, boot: self.boot.clone(), agent })
    }

    /// Writes or removes the file of this key. Returns the file, which is not synced yet. Blocks.
    fn write(&self, key: &impl Named, text: Option<&[u8]>) -> Result<Option<File>, Error> {
        let path = self.folder.join(format!("{key}.json"));
        let failed = |operation| {
            let path = path.clone();
            move |source| Error::from(PathError::new(operation, path, source))
        };
        let Some(text) = text else {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove")(error)),
                _ => Ok(None),
            };
        };
        let write = || match atomic_file::write(&path, text, Durability::Later) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
                atomic_file::write(&path, text, Durability::Later)
            }
            written => written,
        };
        write().map(Some).map_err(failed("write"))
    }
}

/// A number for what was put on record, which grows each time.
pub type Version = u64;

/// The outcome of a write.
#[derive(Debug)]
pub struct Report {
    /// Everything new up to this version was included in the write.
    pub tried: Version,
    /// Why some of it is not on record.
    pub error: Option<String>,
}

/// Keeps the record in the background, so that callers do not wait.
///
/// A change that is superseded before it is written is skipped.
#[derive(Debug)]
pub struct Recorder<K> {
    record: Record,
    shared: Arc<Shared<K>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared<K> {
    pending: Mutex<Pending<K>>,
    put: Notify,
}

#[derive(Debug)]
struct Pending<K> {
    texts: BTreeMap<K, Option<Vec<u8>>>,
    /// Why something that was put could not be rendered.
    error: Option<String>,
    version: Version,
    is_last: bool,
}

impl<K> Shared<K> {
    fn pending(&self) -> MutexGuard<'_, Pending<K>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Named> Recorder<K> {
    /// Starts writing this record. Calls `tell` with the outcome of each write.
    ///
    /// Must be called inside the async runtime.
    pub fn new(record: Record, tell: impl Fn(Report) + Send + 'static) -> Self {
        let pending = Pending { texts: BTreeMap::new(), error: None, version: 0, is_last: false };
        let shared = Arc::new(Shared { pending: Mutex::new(pending), put: Notify::new() });
        let task = tokio::spawn(keep(record.clone(), Arc::clone(&shared), tell));
        Self { record, shared, task }
    }

    /// Puts an agent on record, or removes it.
    pub fn put<T: Serialize>(&self, key: &K, agent: Option<&T>) -> Version {
        let text = agent.map(|agent| self.record.render(agent)).transpose();
        let mut pending = self.shared.pending();
        match text {
            Ok(text) => drop(pending.texts.insert(key.clone(), text)),
            // The earlier record of it stays, which is better than none.
            Err(error) => pending.error = Some(format!("failed to put {key} on record: {error}")),
        }
        pending.version += 1;
        self.shared.put.notify_one();
        pending.version
    }

    /// Returns once everything is on record and synced, or after `patience`.
    pub async fn finish(self, patience: Duration) {
        self.shared.pending().is_last = true;
        self.shared.put.notify_one();
        let _ = timeout(patience, self.task).await;
    }
}

/// Writes what is pending, repeatedly.
///
/// What was written is synced in the background: the next daemon of this boot reads it either way.
async fn keep<K: Named>(record: Record, shared: Arc<Shared<K>>, tell: impl Fn(Report)) {
    let mut syncing: Option<JoinHandle<()>> = None;
    let mut unsynced = BTreeMap::new();
    loop {
        let (texts, refused, tried, is_last) = {
            let mut pending = shared.pending();
            (std::mem::take(&mut pending.texts), pending.error.take(), pending.version, pending.is_last)
        };
        let mut failed = false;
        if texts.is_empty() && refused.is_some() {
            tell(Report { tried, error: refused });
        } else if !texts.is_empty() {
            let (to_write, texts) = (record.clone(), Arc::new(texts));
            let their_texts = Arc::clone(&texts);
            let written = blocking::run(move || write_all(&to_write, &their_texts)).await;
            let Written { files, again, error } = written.unwrap_or_else(|error| Written {
                files: BTreeMap::new(),
                again: BTreeMap::clone(&texts),
                error: Some(format!("failed to write the record: {error}")),
            });
            unsynced.extend(files);
            failed = !again.is_empty();
            let mut pending = shared.pending();
            for (key, text) in again {
                // What was put in the meantime is newer.
                pending.texts.entry(key).or_insert(text);
            }
            drop(pending);
            tell(Report { tried, error: error.or(refused) });
        }
        if syncing.as_ref().is_none_or(JoinHandle::is_finished) && !unsynced.is_empty() {
            let (files, folder) = (std::mem::take(&mut unsynced), record.folder.clone());
            syncing = Some(tokio::spawn(async move { sync(files, folder).await }));
        }
        if is_last && shared.pending().texts.is_empty() {
            break;
        }
        let synced = async {
            match &mut syncing {
                Some(task) if !unsynced.is_empty() => drop(task.await),
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.put.notified(), if !failed => {}
            () = tokio::time::sleep(RETRY), if failed => {}
            () = synced => syncing = None,
        }
    }
    if let Some(task) = syncing {
        let _ = task.await;
    }
    sync(unsynced, record.folder).await;
}

struct Written<K> {
    /// By key; `None` if the file was removed.
    files: BTreeMap<K, Option<File>>,
    again: BTreeMap<K, Option<Vec<u8>>>,
    error: Option<String>,
}

fn write_all<K: Named>(record: &Record, texts: &BTreeMap<K, Option<Vec<u8>>>) -> Written<K> {
    let mut written = Written { files: BTreeMap::new(), again: BTreeMap::new(), error: None };
    for (key, text) in texts {
        match record.write(key, text.as_deref()) {
            Ok(file) => drop(written.files.insert(key.clone(), file)),
            Err(error) => {
                written.error.get_or_insert(error.to_string());
                written.again.insert(key.clone(), text.clone());
            }
        }
    }
    written
}

/// Syncs the files. Failures do not matter: the files were written, and after a crash of the machine their content does not
/// count.
async fn sync<K: Named>(files: BTreeMap<K, Option<File>>, folder: PathBuf) {
    let work = move || {
        for file in files.values().flatten() {
            let _ = file.sync_data();
        }
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
    };
    let _ = blocking::run(work).await;
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rstest::rstest;
    use tempfile::TempDir;
    use tokio::sync::mpsc;

    use super::*;

    fn record() -> (TempDir, Record) {
        let directory = TempDir::new().unwrap();
        let record = Record::new(&directory.path().join("state")).unwrap();
        (directory, record)
    }

    fn recorder(record: &Record) -> (Recorder<String>, mpsc::UnboundedReceiver<Report>) {
        let (reports, reported) = mpsc::unbounded_channel();
        (Recorder::new(record.clone(), move |report| drop(reports.send(report))), reported)
    }

    /// Agents are named by their first letter.
    #[allow(clippy::ptr_arg, reason = "it is what is read")]
    fn key_of(agent: &String) -> String {
        agent[..1].to_owned()
    }

    fn read(record: &Record) -> Vec<String> {
        let reading = record.read(key_of);
        assert!(reading.problems.is_empty(), "{:?}", reading.problems);
        reading.agents.into_values().collect()
    }

    fn plant(record: &Record, text: &str) -> PathBuf {
        fs::create_dir_all(&record.folder).unwrap();
        let path = record.folder.join("a.json");
        fs::write(&path, text).unwrap();
        path
    }

    #[tokio::test]
    async fn a_value_that_cannot_be_rendered_leaves_the_record() {
        /// A value that cannot be rendered as JSON.
        struct Shapeless;
        impl Serialize for Shapeless {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("it has no shape"))
            }
        }
        let (_directory, record) = record();
        let (recorder, mut reported) = recorder(&record);
        recorder.put(&"a".to_owned(), Some(&"ape".to_owned()));
        assert!(reported.recv().await.unwrap().error.is_none());
        recorder.put(&"a".to_owned(), Some(&Shapeless));
        let error = reported.recv().await.unwrap().error.unwrap();
        assert!(error.contains("it has no shape"), "{error}");
        recorder.finish(Duration::from_secs(5)).await;
        assert_eq!(read(&record), ["ape"]);
    }

    #[tokio::test]
    async fn a_record_is_read_again_and_is_private() {
        let (_directory, record) = record();
        let (recorder, mut reported) = recorder(&record);
        recorder.put(&"a".to_owned(), Some(&"a1"));
        let version = recorder.put(&"b".to_owned(), Some(&"b2"));
        while reported.recv().await.unwrap().tried < version {}
        assert_eq!(read(&record), ["a1", "b2"]);
        recorder.put(&"a".to_owned(), Some(&"a3"));
        recorder.put::<String>(&"b".to_owned(), None);
        recorder.finish(Duration::from_secs(10)).await;
        assert_eq!(read(&record), ["a3"]);
        for (path, mode) in [(record.folder.clone(), 0o700), (record.folder.join("a.json"), 0o600)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, mode);
        }
    }

    #[test]
    fn a_missing_folder_has_no_records() {
        assert!(read(&record().1).is_empty());
    }

    #[test]
    fn a_record_of_another_boot_is_skipped_and_removed() {
        let (_directory, record) = record();
        let path = plant(&record, r#"{"version":1,"boot":"another","agent":"a"}"#);
        assert!(read(&record).is_empty());
        assert!(!path.exists());
    }

    #[rstest]
    #[case::empty("", "EOF")]
    #[case::truncated(r#"{"version":1,"boot"#, "EOF")]
    #[case::of_another_version(r#"{"version":2,"boot":"x","agent":{}}"#, "it is of version 2, not 1")]
    #[case::foreign("not a record at all", "expected ident")]
    fn an_invalid_file_is_reported_and_renamed(#[case] text: &str, #[case] reason: &str) {
        let (_directory, record) = record();
        let path = plant(&record, text);
        let reading = record.read(key_of);
        assert!(reading.agents.is_empty());
        let problem = reading.problems[0].to_string();
        assert!(problem.contains(reason) && problem.contains("agents/a.json"), "{problem}");
        assert_eq!(fs::read_to_string(put_aside(&path)).unwrap(), text);
        assert!(read(&record).is_empty());
    }

    #[test]
    fn content_of_a_file_is_quoted_briefly_and_escaped() {
        let (_directory, record) = record();
        let hostile = format!("\u{1b}[2J\u{202e}{}", "x".repeat(5000));
        for agent in [serde_json::json!(hostile), serde_json::json!({ hostile.clone(): 1 })] {
            let document = serde_json::json!({ "version": 1, "boot": record.boot, "agent": agent });
            plant(&record, &document.to_string());
            let problem = record.read(key_of).problems[0].to_string();
            assert!(problem.len() < 600 && !problem.contains(printable::acts), "{problem:?}");
        }
    }

    #[test]
    fn a_record_of_another_agent_is_renamed() {
        let (_directory, record) = record();
        let path = plant(&record, &format!(r#"{{"version":1,"boot":{:?},"agent":"b"}}"#, record.boot));
        assert!(record.read(key_of).problems[0].to_string().contains("it is that of b"));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_failed_write_is_reported_and_tried_again() {
        let (directory, record) = record();
        // Not by permissions, which do not restrict root.
        fs::write(directory.path().join("state"), "in the way").unwrap();
        let (recorder, mut reported) = recorder(&record);
        recorder.put(&"a".to_owned(), Some(&"a1"));
        let error = reported.recv().await.unwrap().error.unwrap();
        assert!(error.contains("state/agents/a.json"), "{error}");
        recorder.put(&"a".to_owned(), Some(&"a2"));
        fs::remove_file(directory.path().join("state")).unwrap();
        while reported.recv().await.unwrap().error.is_some() {}
        assert_eq!(read(&record), ["a2"]);
    }
}
