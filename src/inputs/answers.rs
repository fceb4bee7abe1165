//! The folder of answers, in that of the overrides: what operators answer to what agents ask, a file each.
//!
//! ```text
//! OVERRIDES/.answers/ID.toml    answer = "allow" or "deny"; why = "…"
//! ```
//!
//! Root reads them as it reads [overrides](super::overrides). An answer is a statement about one question, so its absence says
//! nothing. It stays until its question is over, so that the next daemon finds an answer that was not passed on yet; then exactly the
//! file that was read is removed. An answer to a question that nobody has, and what can be no answer, is removed after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::stat::SFlag;
use nix::unistd::{Uid, UnlinkatFlags, unlinkat};
use tokio::sync::watch;

use super::overrides::{self, ENDING, folder};
use crate::agent::approval::{Word, is_whole_id};
use crate::config::answer::{self, Answer};
use crate::sys::file_id::FileVersion;
use crate::sys::watch::{Target, Watcher};
use crate::sys::{blocking, regular_file, safe_path};
use crate::text::printable::escaped;

/// The name of the folder in that of the overrides.
pub const FOLDER: &str = ".answers";

/// The most entries of the folder that are read.
const MAX_ENTRIES: usize = 1000;

/// How long a question may be unknown: its launcher may still be looking for this daemon.
const UNKNOWN: Duration = Duration::from_secs(15);

/// How long what can be no answer is left where it is, so that whoever wrote it can see it.
const REFUSED: Duration = Duration::from_mins(5);

/// How soon to look again while there is something in the folder.
const SOON: Duration = Duration::from_secs(1);

/// What a file says; or what is wrong with it.
type Said = Result<Word, String>;

/// One reading of the folder: what is in it, by name.
type Reading = BTreeMap<OsString, (FileVersion, Said)>;

/// The folder, and who may write to it.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Where overrides are.
    pub place: overrides::Place,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    version: FileVersion,
    since: Instant,
    /// Whether it was handed on.
    is_told: bool,
}

/// What is to be done about the files.
#[derive(Debug, Default, PartialEq, Eq)]
struct Todo {
    /// To be handed on: the id, and what is answered.
    tell: Vec<(String, Word)>,
    /// To be removed, if it is still this file.
    remove: Vec<(OsString, FileVersion)>,
    /// To be logged.
    warnings: Vec<String>,
}

impl Answers {
    /// Hands on answers to questions that are open, until the daemon ends. `open` says which are, and `changes` when that may be others.
    pub async fn follow<T>(
        self,
        mut rounds: watch::Receiver<()>,
        mut changes: watch::Receiver<T>,
        open: impl Fn(&T) -> BTreeSet<String>,
        say: impl Fn(String, Word),
    ) {
        let mut watcher = Watcher::open();
        let mut known = BTreeMap::new();
        loop {
            watcher.set(vec![Target::Entries(self.directory())]).await;
            let looker = self.clone();
            let reading = blocking::run(move || looker.read()).await.unwrap_or_default();
            let questions = open(&changes.borrow_and_update());
            let Todo { tell, remove, warnings } = judge(&mut known, reading, &questions, Instant::now());
            for warning in warnings {
                tracing::warn!("{}: {warning}", self.directory().display());
            }
            for (id, word) in tell {
                say(id, word);
            }
            if !remove.is_empty() {
                let remover = self.clone();
                // Without a thread, they are removed later.
                let _ = blocking::run(move || remover.remove(&remove)).await;
            }
            let (is_empty, is_due_soon) = (known.is_empty(), is_due_soon(&known, Instant::now()));
            tokio::select! {
                changed = watcher.changed() => if changed.is_err() { tokio::time::sleep(SOON).await },
                changed = rounds.changed() => if changed.is_err() { return },
                Ok(()) = changes.changed(), if !is_empty => {}
                () = tokio::time::sleep(SOON), if is_due_soon => {}
            }
        }
    }

    fn directory(&self) -> PathBuf {
        self.place.directory.join(FOLDER)
    }

    /// Opens the folder, and makes it if that of the overrides is there.
    fn open(&self) -> Option<OwnedFd> {
        let parent = folder::open(&self.place.directory, self.place.group, false).ok()?;
        folder::open_inside(&parent, FOLDER, &self.directory(), self.place.group).ok()
    }

    /// Reads what is in the folder. Blocks.
    fn read(&self) -> Reading {
        let Some(folder) = self.open() else { return Reading::new() };
        let entries = fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd())).into_iter().flatten().flatten();
        let names = entries.take(MAX_ENTRIES).map(|entry| entry.file_name());
        // What is being written, by the command line or by an editor.
        let names = names.filter(|name| !name.as_encoded_bytes().starts_with(b"."));
        let read = |name: OsString| {
            let look = safe_path::look(&folder, &name).ok()?;
            let said = self.read_file(&folder, &name, look.mode);
            Some((name, (look.version, said)))
        };
        names.filter_map(read).collect()
    }

    fn read_file(&self, folder: &OwnedFd, name: &OsStr, mode: u32) -> Said {
        const RIGHT: &str = "use agentd approve and agentd deny";
        let id = name.to_str().and_then(|name| name.strip_suffix(ENDING)).filter(|id| is_whole_id(id));
        if id.is_none() {
            return Err(format!("it is not named after a question; {RIGHT}"));
        }
        // Without root, the kernel would follow it.
        if SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFLNK {
            return Err(format!("it is a link; {RIGHT}"));
        }
        let (file, metadata) = regular_file::open_in(folder, name).map_err(|error| format!("{error}; {RIGHT}"))?;
        if metadata.nlink() != 1 {
            return Err(format!("it has {} names (hard links); {RIGHT}", metadata.nlink()));
        }
        let who = self.place.operators.judge(Uid::from_raw(metadata.uid()))?;
        let text = match regular_file::content((file, metadata), answer::MAX_SIZE) {
            Ok((text, _)) => text,
            Err(regular_file::Error::TooLarge(limit)) => {
                return Err(format!("it is larger than {limit} bytes; {RIGHT}"));
            }
            Err(error) => return Err(format!("it cannot be read: {error}")),
        };
        let Answer { allow, why } = answer::parse(&text)?;
        Ok(Word { allow, who, why })
    }

    /// Removes these files, unless others have taken their places. Blocks.
    fn remove(&self, files: &[(OsString, FileVersion)]) {
        let Some(folder) = self.open() else { return };
        for (name, version) in files {
            if safe_path::look(&folder, name).is_ok_and(|look| look.version == *version) {
                // It is looked at again.
                let _: io::Result<()> =
                    unlinkat(&folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir).map_err(io::Error::from);
            }
        }
    }
}

/// Whether time alone changes what is to be done. What cannot be removed, such as a folder, is left alone.
fn is_due_soon(known: &BTreeMap<OsString, Known>, now: Instant) -> bool {
    known.values().any(|known| now.saturating_duration_since(known.since) < REFUSED + SOON)
}

/// What follows from a reading.
fn judge(known: &mut BTreeMap<OsString, Known>, reading: Reading, open: &BTreeSet<String>, now: Instant) -> Todo {
    let mut todo = Todo::default();
    known.retain(|name, known| reading.get(name).is_some_and(|(version, _)| *version == known.version));
    for (name, (version, said)) in reading {
        let is_new = !known.contains_key(&name);
        let file = known.entry(name.clone()).or_insert(Known { version, since: now, is_told: false });
        let age = now.saturating_duration_since(file.since);
        let shown = escaped(&name.to_string_lossy());
        let id = name.to_str().and_then(|name| name.strip_suffix(ENDING)).unwrap_or_default();
        match said {
            Ok(word) if open.contains(id) => {
                if !std::mem::replace(&mut file.is_told, true) {
                    todo.tell.push((id.to_owned(), word));
                }
            }
            // Its question is over.
            Ok(_) if file.is_told => todo.remove.push((name, version)),
            Ok(word) if age >= UNKNOWN => {
                todo.warnings.push(format!("{shown} of {} answers what nobody asks; it was removed", word.who));
                todo.remove.push((name, version));
            }
            Ok(_) => {}
            Err(error) => {
                if is_new {
                    todo.warnings.push(format!("{shown} has no effect: {}", error.replace('\n', "; ")));
                }
                if age >= REFUSED {
                    todo.remove.push((name, version));
                }
            }
        }
    }
    todo
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use nix::sys::stat::Mode;
    use nix::unistd::{Gid, mkfifo};
    use tempfile::TempDir;

    use super::*;
    use crate::inputs::overrides::Place;

    const ID: &str = "abcdefgh";

    fn answers(root: &TempDir) -> Answers {
        let (_, agents) = watch::channel(BTreeSet::new());
        let place = Place::new(root.path().join("overrides"), Gid::effective(), agents);
        fs::create_dir(&place.directory).unwrap();
        Answers { place }
    }

    fn write(answers: &Answers, name: &str, text: &str) -> PathBuf {
        answers.open().unwrap();
        let path = answers.directory().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn error(answers: &Answers, name: &str) -> String {
        answers.read().remove(OsStr::new(name)).unwrap().1.unwrap_err()
    }

    fn open(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|&id| id.to_owned()).collect()
    }

    #[test]
    fn an_answer_is_handed_on_once_and_removed_when_its_question_is_over() {
        let root = TempDir::new().unwrap();
        let answers = answers(&root);
        let path = write(&answers, "abcdefgh.toml", "answer = 'allow'");
        let (mut known, now) = (BTreeMap::new(), Instant::now());
        let todo = judge(&mut known, answers.read(), &open(&[ID]), now);
        assert!(todo.tell.len() == 1 && todo.tell[0].0 == ID && todo.tell[0].1.allow, "{todo:?}");
        assert_eq!(judge(&mut known, answers.read(), &open(&[ID]), now), Todo::default());
        // The next daemon finds it.
        assert_eq!(judge(&mut BTreeMap::new(), answers.read(), &open(&[ID]), now).tell.len(), 1);
        let todo = judge(&mut known, answers.read(), &open(&[]), now);
        assert_eq!((todo.remove.len(), todo.warnings.len()), (1, 0));
        answers.remove(&todo.remove);
        assert!(!path.exists());
    }

    #[test]
    fn only_the_file_that_was_read_is_removed() {
        let root = TempDir::new().unwrap();
        let answers = answers(&root);
        let path = write(&answers, "abcdefgh.toml", "answer = 'allow'");
        let read = answers.read();
        fs::rename(write(&answers, ".other", "answer = 'deny'"), &path).unwrap();
        let files: Vec<_> = read.into_iter().map(|(name, (version, _))| (name, version)).collect();
        answers.remove(&files);
        assert!(path.exists());
    }

    #[test]
    fn an_answer_to_nothing_is_removed_after_a_while() {
        let root = TempDir::new().unwrap();
        let answers = answers(&root);
        write(&answers, "abcdefgh.toml", "answer = 'allow'");
        let (mut known, now) = (BTreeMap::new(), Instant::now());
        assert_eq!(judge(&mut known, answers.read(), &open(&[]), now), Todo::default());
        // Its launcher has found this daemon.
        assert_eq!(judge(&mut known.clone(), answers.read(), &open(&[ID]), now).tell.len(), 1);
        let todo = judge(&mut known, answers.read(), &open(&[]), now + UNKNOWN);
        assert_eq!((todo.tell.len(), todo.remove.len(), todo.warnings.len()), (0, 1, 1), "{todo:?}");
    }

    #[test]
    fn what_can_be_no_answer_is_refused() {
        let root = TempDir::new().unwrap();
        let answers = answers(&root);
        let goal = write(&answers, "goal", "answer = 'allow'");
        let at = |name: &str| answers.directory().join(name);
        symlink(&goal, at("aaaaaaaa.toml")).unwrap();
        fs::hard_link(&goal, at("bbbbbbbb.toml")).unwrap();
        mkfifo(&at("cccccccc.toml"), Mode::S_IRWXU).unwrap();
        fs::create_dir(at("dddddddd.toml")).unwrap();
        let sparse = fs::File::create(at("eeeeeeee.toml")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        write(&answers, "ffffffff.toml", "answer = 'allow'\ncommand = 'sh'");
        for (name, expected) in [
            ("aaaaaaaa.toml", "it is a link"),
            ("bbbbbbbb.toml", "hard links"),
            ("cccccccc.toml", "not a regular file"),
            ("dddddddd.toml", "not a regular file"),
            ("eeeeeeee.toml", "larger than"),
            ("ffffffff.toml", "may not be here"),
            ("goal", "not named after a question"),
        ] {
            let error = error(&answers, name);
            assert!(error.contains(expected), "{name}: {error}");
        }
        let (mut known, now) = (BTreeMap::new(), Instant::now());
        let todo = judge(&mut known, answers.read(), &open(&["ffffffff"]), now);
        assert_eq!((todo.tell.len(), todo.remove.len(), todo.warnings.len()), (0, 0, 7));
        let todo = judge(&mut known, answers.read(), &open(&[]), now + REFUSED);
        assert_eq!((todo.remove.len(), todo.warnings.len()), (7, 0), "each is reported once");
        assert!(is_due_soon(&known, now + REFUSED) && !is_due_soon(&known, now + REFUSED + SOON));
        answers.remove(&todo.remove);
        let left: Vec<_> = fs::read_dir(answers.directory()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(left, ["dddddddd.toml"], "a folder is left alone");
    }

    #[test]
    fn the_folder_is_made_only_in_that_of_the_overrides() {
        let root = TempDir::new().unwrap();
        let answers = answers(&root);
        fs::remove_dir(&answers.place.directory).unwrap();
        assert!(answers.read().is_empty() && !Path::new(&answers.directory()).exists());
        fs::create_dir(&answers.place.directory).unwrap();
        assert!(answers.read().is_empty() && answers.directory().is_dir());
    }
}
