//! Detects changes of files with `inotify(7)`.
//!
//! A file is never watched itself, but every directory that holds one of its names: the file's own directory, that of each symbolic
//! link on the path, and the nearest existing ancestor of what does not exist yet. So a file that is renamed over the old one, a link
//! that is swapped (as agenix does) and a directory that appears later are all noticed. Only events on those names count.
//!
//! The caller must also poll: some file systems send no events (9p, virtiofs), the number of watched directories is limited, and
//! there may be no queue at all, because a user may have only 128 and other programs can have taken them
//! (`fs.inotify.max_user_instances`).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::sys::blocking;
use crate::sys::exec::is_variable_name;
use crate::sys::inotify::{AddWatchFlags, InotifyEvent, Queue, WatchDescriptor};

/// A set of watched paths.
#[derive(Debug)]
pub struct Watcher {
    /// The queue of announcements.
    queue: Option<Arc<Queue>>,
    watched: Watched,
}

/// The watched directories.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Watched(BTreeMap<PathBuf, (WatchDescriptor, Names)>);

/// The names in a directory that matter, `None` for all of them.
type Names = Option<BTreeSet<OsString>>;

/// A path to watch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Target {
    /// This file or directory: whether it appears, disappears, is replaced, or is written.
    Path(PathBuf),
    /// This directory, every file in it, and the targets of links whose names are variable names.
    Contents(PathBuf),
    /// This directory and every entry of it. No link in it is followed.
    Entries(PathBuf),
}

/// How many links a path may lead through, as in `path_resolution(7)`.
const MAX_LINKS: usize = 40;

/// How many files and folders of a watched directory are considered, secrets or not.
pub const MAX_ENTRIES: usize = 10_000;

/// How many directories may be watched.
const MAX_DIRECTORIES: usize = 1024;

impl Watcher {
    /// A watcher of nothing.
    ///
    /// Must be called inside the async runtime. If the system has no queue left, each [`Watcher::set`] tries again.
    pub fn open() -> Self {
        let queue = Queue::open().inspect_err(|error| {
            tracing::warn!("failed to watch files for changes ({error}); they are read again from time to time");
        });
        Self { queue: queue.ok().map(Arc::new), watched: Watched::default() }
    }

    /// Watches exactly these paths from now on. What cannot be watched is left to polling.
    ///
    /// Returns whether the set differs from before; then earlier changes may have been missed.
    pub async fn set(&mut self, targets: Vec<Target>) -> bool {
        match blocking::run(self.prepare(targets)).await {
            Ok(watched) => self.adopt(watched),
            // No thread was available; the watches stay.
            Err(_) => false,
        }
    }

    /// The first part of [`Watcher::set`], which blocks for as long as the file systems do: determines which directories to
    /// watch, and starts watching them.
    ///
    /// Only one may run at a time.
    pub fn prepare(&mut self, targets: Vec<Target>) -> impl FnOnce() -> Watched + Send + use<> {
        self.queue = self.queue.take().or_else(|| Queue::open().ok().map(Arc::new));
        let queue = self.queue.clone();
        move || {
            let Some(queue) = queue else { return Watched::default() };
            let flags = AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_MOVE
                | AddWatchFlags::IN_CLOSE_WRITE
                | AddWatchFlags::IN_ATTRIB
                | AddWatchFlags::IN_DELETE_SELF
                | AddWatchFlags::IN_MOVE_SELF
                | AddWatchFlags::IN_ONLYDIR;
            // Added even if it exists: the same name may now be another directory.
            let add = |(directory, names): (PathBuf, Names)| {
                let descriptor = queue.add(&directory, flags).ok()?;
                Some((directory, (descriptor, names)))
            };
            Watched(wanted(&targets).into_iter().filter_map(add).collect())
        }
    }

    /// The second part of [`Watcher::set`], which does not block.
    pub fn adopt(&mut self, watched: Watched) -> bool {
        if self.watched == watched {
            return false;
        }
        let before = std::mem::replace(&mut self.watched, watched);
        let kept: HashSet<WatchDescriptor> = self.watched.0.values().map(|&(descriptor, _)| descriptor).collect();
        for (descriptor, _) in before.0.into_values() {
            if let Some(queue) = self.queue.as_ref().filter(|_| !kept.contains(&descriptor)) {
                queue.remove(descriptor);
            }
        }
        true
    }

    /// Waits for a change of a watched path. Cancel-safe.
    pub async fn changed(&self) -> io::Result<()> {
        let Some(queue) = &self.queue else { return std::future::pending().await };
        loop {
            let mut changed = false;
            loop {
                let events = queue.take()?;
                if events.is_empty() {
                    break;
                }
                changed |= events.iter().any(|event| self.counts(event));
            }
            if changed {
                return Ok(());
            }
            queue.readable().await?;
        }
    }

    fn counts(&self, event: &InotifyEvent) -> bool {
        let lost_or_moved = AddWatchFlags::IN_Q_OVERFLOW | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        event.mask.intersects(lost_or_moved)
            || self.watched.0.values().any(|(descriptor, names)| {
                *descriptor == event.wd
                    && match (names, &event.name) {
                        (None, _) => true,
                        (Some(names), Some(name)) => names.contains(name.as_os_str()),
                        (Some(_), None) => false,
                    }
            })
    }
}

/// The directories and names that decide where these paths lead.
fn wanted(targets: &[Target]) -> BTreeMap<PathBuf, Names> {
    let mut wanted = BTreeMap::new();
    for target in targets {
        match target {
            Target::Path(path) => names_on_the_way(path, &mut wanted),
            Target::Entries(directory) => {
                names_on_the_way(directory, &mut wanted);
                if fs::symlink_metadata(directory).is_ok_and(|it| it.is_dir())
                    && let Ok(resolved) = fs::canonicalize(directory)
                {
                    wanted.insert(resolved, None);
                }
            }
            Target::Contents(directory) => {
                names_on_the_way(directory, &mut wanted);
                let Ok(resolved) = fs::canonicalize(directory) else { continue };
                wanted.insert(resolved.clone(), None);
                for entry in fs::read_dir(&resolved).into_iter().flatten().flatten().take(MAX_ENTRIES) {
                    if entry.file_name().to_str().is_some_and(is_variable_name)
                        && entry.file_type().is_ok_and(|kind| kind.is_symlink())
                    {
                        names_on_the_way(&entry.path(), &mut wanted);
                    }
                }
            }
        }
    }
    wanted
}

/// Adds each directory that decides where `path` leads, with the name in it that does.
fn names_on_the_way(path: &Path, wanted: &mut BTreeMap<PathBuf, Names>) {
    let mut links = 0;
    let mut resolved = PathBuf::from("/");
    let mut ahead: Vec<OsString> = components(path);
    while let Some(name) = ahead.pop() {
        if name == ".." {
            resolved.pop();
            continue;
        }
        let here = resolved.join(&name);
        match fs::symlink_metadata(&here) {
            Ok(metadata) if metadata.is_symlink() => {
                note(&resolved, &name, wanted);
                links += 1;
                let Ok(target) = fs::read_link(&here) else { return };
                if links > MAX_LINKS {
                    return;
                }
                if target.is_absolute() {
                    resolved = PathBuf::from("/");
                }
                ahead.extend(components(&target));
            }
            Ok(metadata) if metadata.is_dir() && !ahead.is_empty() => resolved = here,
            // The end of the path: the file itself, or the first component that does not exist.
            _ => return note(&resolved, &name, wanted),
        }
    }
}

fn note(directory: &Path, name: &OsStr, wanted: &mut BTreeMap<PathBuf, Names>) {
    let is_room = wanted.len() < MAX_DIRECTORIES;
    match wanted.get_mut(directory) {
        Some(Some(names)) => drop(names.insert(name.to_owned())),
        None if is_room => {
            wanted.insert(directory.to_owned(), Some([name.to_owned()].into()));
        }
        Some(None) | None => {}
    }
}

/// The components that are names, the last one first.
fn components(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    async fn notices(watcher: &Watcher) -> bool {
        tokio::time::timeout(SOON, watcher.changed()).await.is_ok()
    }

    /// Asserts that `act` is noticed, and an unrelated file beside it before that is not.
    async fn check(target: impl Fn(&Path) -> Target, prepare: impl Fn(&Path), act: impl Fn(&Path)) {
        let directory = TempDir::new().unwrap();
        let root = directory.path();
        prepare(root);
        let mut watcher = Watcher::open();
        watcher.set(vec![target(root)]).await;
        fs::write(root.join("unrelated"), "").unwrap();
        let unrelated = tokio::time::timeout(Duration::from_millis(1), watcher.changed()).await;
        assert!(unrelated.is_err(), "an unrelated file counted");
        act(root);
        assert!(notices(&watcher).await);
    }

    #[tokio::test]
    async fn a_file_renamed_over_is_noticed() {
        let path = |root: &Path| Target::Path(root.join("jcard.toml"));
        check(
            path,
            |root| fs::write(root.join("jcard.toml"), "old").unwrap(),
            |root| {
                fs::write(root.join("new"), "new").unwrap();
                fs::rename(root.join("new"), root.join("jcard.toml")).unwrap();
            },
        )
        .await;
    }

    #[tokio::test]
    async fn a_file_written_in_place_is_noticed() {
        let path = |root: &Path| Target::Path(root.join("f"));
        check(path, |root| fs::write(root.join("f"), "").unwrap(), |root| fs::write(root.join("f"), "new").unwrap())
            .await;
    }

    #[tokio::test]
    async fn a_swapped_link_on_the_path_is_noticed() {
        check(
            |root| Target::Contents(root.join("secrets")),
            |root| {
                fs::create_dir(root.join("1")).unwrap();
                fs::create_dir(root.join("2")).unwrap();
                symlink("1", root.join("secrets")).unwrap();
            },
            |root| {
                symlink("2", root.join("next")).unwrap();
                fs::rename(root.join("next"), root.join("secrets")).unwrap();
            },
        )
        .await;
    }

    #[tokio::test]
    async fn a_directory_that_appears_later_is_noticed() {
        check(
            |root| Target::Contents(root.join("run/stereos/secrets")),
            |_| {},
            |root| fs::create_dir_all(root.join("run/stereos/secrets")).unwrap(),
        )
        .await;
    }

    #[tokio::test]
    async fn a_new_file_in_a_watched_directory_is_noticed() {
        check(
            |root| Target::Contents(root.join("secrets")),
            |root| fs::create_dir(root.join("secrets")).unwrap(),
            |root| fs::write(root.join("secrets/NEW"), "x").unwrap(),
        )
        .await;
    }

    #[tokio::test]
    async fn the_target_of_a_linked_secret_is_watched() {
        check(
            |root| Target::Contents(root.join("secrets")),
            |root| {
                fs::create_dir(root.join("secrets")).unwrap();
                fs::create_dir(root.join("agenix")).unwrap();
                fs::write(root.join("agenix/token"), "1").unwrap();
                symlink(root.join("agenix/token"), root.join("secrets/TOKEN")).unwrap();
            },
            |root| fs::write(root.join("agenix/token"), "2").unwrap(),
        )
        .await;
    }

    #[tokio::test]
    async fn a_loop_of_links_ends() {
        let directory = TempDir::new().unwrap();
        symlink("b", directory.path().join("a")).unwrap();
        symlink("a", directory.path().join("b")).unwrap();
        Watcher::open().set(vec![Target::Path(directory.path().join("a"))]).await;
    }

    #[tokio::test]
    async fn a_path_not_watched_before_is_reported_once() {
        let directory = TempDir::new().unwrap();
        let target = |name: &str| vec![Target::Path(directory.path().join(name))];
        let mut watcher = Watcher::open();
        assert!(watcher.set(target("a")).await);
        assert!(!watcher.set(target("a")).await);
        assert!(watcher.set(target("b")).await);
        fs::write(directory.path().join("b"), "").unwrap();
        assert!(notices(&watcher).await);
    }

    #[tokio::test]
    async fn a_missing_queue_is_opened_once_possible() {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("a");
        let mut watcher = Watcher { queue: None, watched: Watched::default() };
        assert!(tokio::time::timeout(Duration::from_millis(1), watcher.changed()).await.is_err());
        assert!(watcher.set(vec![Target::Path(file.clone())]).await);
        fs::write(file, "").unwrap();
        assert!(notices(&watcher).await);
    }

    #[test]
    fn links_are_followed_only_for_secrets_and_up_to_a_limit() {
        let directory = TempDir::new().unwrap();
        let secrets = fs::canonicalize(directory.path()).unwrap().join("secrets");
        fs::create_dir(&secrets).unwrap();
        let link = |name: &str| symlink(format!("../{name}/value"), secrets.join(name)).unwrap();
        for name in ["TOKEN", "TOKEN.tmp"] {
            fs::create_dir(directory.path().join(name)).unwrap();
            link(name);
        }
        let watched = wanted(&[Target::Contents(secrets.clone())]);
        assert_eq!(watched.get(&secrets), Some(&None));
        let parent = secrets.parent().unwrap();
        assert!(watched.contains_key(&parent.join("TOKEN")) && !watched.contains_key(&parent.join("TOKEN.tmp")));

        for number in 0..2 * MAX_DIRECTORIES {
            let name = format!("_{number}");
            fs::create_dir(directory.path().join(&name)).unwrap();
            link(&name);
        }
        let watched = wanted(&[Target::Contents(secrets.clone())]);
        assert_eq!((watched.len(), watched.get(&secrets)), (MAX_DIRECTORIES, Some(&None)));
    }
}
