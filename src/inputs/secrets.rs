//! The secrets directory: each file is an environment variable.
//!
//! A file or directory that cannot be read does not count as empty: the last value that was read stays in use, and the problem is
//! reported. Absence is ambiguous, too. A file that is removed withdraws its secret. But a directory that is gone, was replaced
//! by one that holds less, or was emptied of several secrets at once may be in the middle of an update, so [`Known`] keeps what
//! was there until a second look at the same directory finds the same. A directory that never held anything may be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, fstat, fstatat};

use crate::agent::secrets::{Secrets, is_secret_file};
use crate::config::Config;
use crate::sys::exec::{MAX_ARGUMENT, is_variable_name};
use crate::sys::file_id::FileId;
use crate::sys::secret_bytes::SecretBytes;
use crate::sys::watch::MAX_ENTRIES;
use crate::sys::{regular_file, safe_path};
use crate::text::printable::without_byte_order_mark;

/// How many bytes the values may have together: several times what the kernel passes to one program (see `execve(2)`).
pub const MAX_TOTAL: usize = 8 << 20;

/// How many problems are listed one by one.
const MAX_TOLD: usize = 20;

/// A problem with one secret, or with all of them.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The directory exists but cannot be listed.
    #[error("failed to list {}: {source}; the secrets known before stay in use", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// There are too many files in the directory.
    #[error("there are more than {MAX_ENTRIES} files in {}; the secrets known before stay in use", .0.display())]
    TooMany(PathBuf),
    /// The values are too large together.
    #[error("the values in {} have more than {} MiB together; the secrets known before stay in use", .0.display(), MAX_TOTAL >> 20)]
    TooLargeTogether(PathBuf),
    /// A file cannot be read.
    #[error("failed to read {}: {source}; what it held before, if anything, stays in use", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file is a link that another user could have placed to make root read something else.
    #[error("{} is a link in a folder that users other than root can write to, and is not followed; put the value into a file", .0.display())]
    Link(PathBuf),
    /// The file is a FIFO, a device, or a socket.
    #[error("{} is not a regular file; put the value into one, or a link to one", .0.display())]
    NotRegular(PathBuf),
    /// The value contains a NUL byte, which no environment variable can.
    #[error("the value in {} holds a NUL byte, which no environment variable can; write it as text", .0.display())]
    Nul(PathBuf),
    /// The directory existed before, but does not exist now.
    #[error("{} is gone; the secrets known before stay in use; make it again, and leave out what is to be withdrawn", .0.display())]
    Gone(PathBuf),
    /// More is missing than is usually removed at a time, or the directory is a different one.
    #[error("no longer in {}: {names}; what was known before stays in use until another look finds the same", directory.display())]
    Fewer {
        /// The directory.
        directory: PathBuf,
        /// The names of the missing secrets; of many, the first.
        names: String,
    },
    /// The directory is empty, and on another file system than the one that held the secrets.
    #[error("nothing is in {}, on which another file system is mounted than before, or none; the secrets known before stay in use; mount it again, or restart agentd to do without them", .0.display())]
    Unmounted(PathBuf),
    /// A file is empty that had a value before.
    #[error("{} is empty; the value that it had stays in use; write one, or remove the file to withdraw it", .0.display())]
    Emptied(PathBuf),
    /// The value is longer than the kernel allows.
    #[error("the value in {} is too large; name and value together may have {} bytes", .0.display(), MAX_ARGUMENT - 1)]
    TooLarge(PathBuf),
}

/// The files that entries name: they are secrets beside those whose names are names of variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named(BTreeSet<String>);

impl Named {
    /// The files that the entries of a jcard name.
    pub fn by(config: &Config) -> Self {
        let specs = config.entries.iter().filter_map(|entry| entry.spec.as_ref().ok());
        let files = specs.flat_map(|spec| spec.secrets.iter().flat_map(BTreeMap::values));
        Self(files.filter(|file| !is_variable_name(file)).cloned().collect())
    }

    /// Those that are named one by one.
    pub fn files(&self) -> impl Iterator<Item = &String> {
        self.0.iter()
    }

    fn has(&self, name: &str) -> bool {
        is_variable_name(name) || self.0.contains(name)
    }
}

/// One reading of the directory.
#[derive(Debug, Default)]
pub struct Reading {
    /// The secrets to use from now on.
    pub secrets: Secrets,
    /// The problems that need attention.
    pub problems: Vec<Problem>,
    /// The latest change of the directory or its files; `None` if there is nothing.
    pub changed: Option<SystemTime>,
    /// Identifies the directory that was read: a link or a mount can make the same path lead to another. `None` if it does not
    /// exist, or could not be read.
    pub folder: Option<FileId>,
    /// Whether a file that no entry names could not be read.
    lacks_unnamed: bool,
}

impl Reading {
    /// The problems as one text, `None` if there are none.
    pub fn error(&self) -> Option<String> {
        tell(&self.problems)
    }
}

fn tell(problems: &[Problem]) -> Option<String> {
    let mut text = String::new();
    for problem in problems.iter().take(MAX_TOLD) {
        let _ = writeln!(text, "{problem}");
    }
    if let Some(more) = problems.len().checked_sub(MAX_TOLD).filter(|&more| more > 0) {
        let _ = writeln!(text, "and {more} more like these");
    }
    (!text.is_empty()).then(|| text.trim_end().to_owned())
}

/// Reads the directory. Blocks.
///
/// `last` is what was known before; it replaces what cannot be read now.
pub fn read(directory: &Path, named: &Named, last: &Secrets) -> Reading {
    let mut reading = Reading::default();
    if let Err(problem) = read_all(directory, named, last, &mut reading) {
        let changed = reading.changed;
        reading = Reading { secrets: last.clone(), problems: vec![problem], changed, ..Reading::default() };
    }
    // If it never existed, nothing is known.
    let is_whole = reading.problems.is_empty() && reading.folder.is_some() && !reading.lacks_unnamed;
    reading.secrets.is_complete = last.is_complete || is_whole;
    reading
}

/// What is known about the secrets after several readings.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The secrets in use.
    pub secrets: Secrets,
    /// The problems that need attention; `None` if there are none.
    pub error: Option<String>,
    /// Identifies the directory that held them when they were last found.
    folder: Option<FileId>,
    /// Secrets that the latest readings did not find, and that are still in use.
    doubts: BTreeMap<String, Doubt>,
}

/// Where a secret was missed, and since when.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    folder: FileId,
    since: Instant,
}

impl Known {
    /// What is known without the files that no entry names any more: nobody has removed them.
    pub fn limit_to(&mut self, named: &Named) {
        let Secrets { values, unnamed, .. } = &mut self.secrets;
        unnamed.extend(values.extract_if(.., |name, _| !named.has(name)));
        self.doubts.retain(|name, _| named.has(name));
    }

    /// What is known after one more reading, which started from [`Known::secrets`].
    ///
    /// A secret was removed if readings of the same directory miss it for as long as `patience`, more than once.
    #[must_use]
    pub fn after(&self, reading: Reading, directory: &Path, now: Instant, patience: Duration) -> Self {
        let Reading { mut secrets, mut problems, folder, .. } = reading;
        let emptied = |name: &String, value: &SecretBytes| {
            value.as_slice().is_empty() && self.secrets.get(name).is_some_and(|before| !before.as_slice().is_empty())
        };
        let emptied: Vec<String> =
            secrets.values.iter().filter(|(name, value)| emptied(name, value)).map(|(name, _)| name.clone()).collect();
        for name in emptied {
            problems.push(Problem::Emptied(directory.join(&name)));
            let before = self.secrets.get(&name).cloned();
            secrets.values.extend(before.map(|before| (name, before)));
        }

        let missing: Vec<&String> =
            self.secrets.values.keys().filter(|name| !secrets.values.contains_key(*name)).collect();
        let is_same = folder.is_some() && folder == self.folder;
        let is_empty = secrets.values.is_empty();
        if missing.is_empty() || is_same && missing.len() == 1 && !is_empty && self.doubts.is_empty() {
            // All is well, or a file was removed.
            let folder = folder.or(self.folder);
            return Self { secrets, error: tell(&problems), folder, doubts: BTreeMap::new() };
        }
        // Nothing else is taken over meanwhile: no agent is launched with half an update.
        let (problem, doubts) = match folder {
            None => (Problem::Gone(directory.to_owned()), BTreeMap::new()),
            Some(here) if is_empty && self.folder.is_some_and(|before| before.device() != here.device()) => {
                (Problem::Unmounted(directory.to_owned()), BTreeMap::new())
            }
            Some(here) => {
                let known = |name: &str| self.doubts.get(name).filter(|doubt| doubt.folder == here);
                let is_confirmed = |doubt: &Doubt| now.saturating_duration_since(doubt.since) >= patience;
                if missing.iter().all(|name| known(name).is_some_and(is_confirmed)) {
                    return Self { secrets, error: tell(&problems), folder, doubts: BTreeMap::new() };
                }
                let doubt = |name: &String| known(name).copied().unwrap_or(Doubt { folder: here, since: now });
                let doubts = missing.iter().map(|name| ((*name).clone(), doubt(name))).collect();
                (Problem::fewer(directory, &missing), doubts)
            }
        };
        problems.push(problem);
        // A later directory is compared with the one that held them all.
        Self { secrets: self.secrets.clone(), error: tell(&problems), folder: self.folder, doubts }
    }
}

impl Problem {
    fn fewer(directory: &Path, missing: &[&String]) -> Self {
        const NAMED: usize = 5;
        let mut names = missing.iter().take(NAMED).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(more) = missing.len().checked_sub(NAMED).filter(|&more| more > 0) {
            let _ = write!(names, " and {more} more");
        }
        Self::Fewer { directory: directory.to_owned(), names }
    }
}

fn read_all(directory: &Path, named: &Named, last: &Secrets, reading: &mut Reading) -> Result<(), Problem> {
    let failed = |source| Problem::Directory { path: directory.to_owned(), source };
    // The directory is opened once, and everything is read from it: it stays the same one throughout.
    let folder = match safe_path::open_dir(directory, None).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        folder => folder.map_err(failed)?,
    };
    let here = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    let names = list(&here).map_err(failed)?;
    if names.len() > MAX_ENTRIES {
        return Err(Problem::TooMany(directory.to_owned()));
    }
    reading.changed = fs::metadata(&here).map_err(failed)?.modified().ok();
    let status = fstat(&folder).map_err(io::Error::from).map_err(failed)?;
    reading.folder = Some(FileId::from(&status));
    let mut total = 0;
    for name in names.iter().filter_map(|name| name.to_str()).filter(|name| named.has(name)) {
        let value = match read_file(&folder, directory, name) {
            Ok(Some((value, changed))) => {
                reading.changed = reading.changed.max(changed);
                Some(value)
            }
            Ok(None) => None,
            Err(problem) => {
                reading.problems.push(problem);
                last.get(name).cloned()
            }
        };
        let Some(value) = value else { continue };
        total += value.as_slice().len();
        if total > MAX_TOTAL {
            return Err(Problem::TooLargeTogether(directory.to_owned()));
        }
        reading.secrets.values.insert(name.to_owned(), value);
    }
    let is_unnamed = |name: &&str| is_secret_file(name) && !named.has(name);
    for name in names.iter().filter_map(|name| name.to_str()).filter(is_unnamed) {
        // What cannot be the value of a variable was never given to anybody.
        match read_file(&folder, directory, name) {
            Ok(Some((value, _))) => {
                total += value.as_slice().len();
                if total > MAX_TOTAL {
                    reading.lacks_unnamed = true;
                    break;
                }
                reading.secrets.unnamed.insert(name.to_owned(), value);
            }
            Err(Problem::File { .. }) => {
                reading.lacks_unnamed = true;
                reading.secrets.unnamed.extend(last.unnamed.get(name).map(|value| (name.to_owned(), value.clone())));
            }
            Ok(None) | Err(_) => {}
        }
    }
    Ok(())
}

/// The names in the directory, sorted. Stops soon after the limit.
fn list(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(directory)?.take(MAX_ENTRIES + 1).map(|entry| entry.map(|entry| entry.file_name())).collect()
}

/// The most bytes of a file that are read. A larger one could not be a value, even without the newlines at its end.
const ROOM: u64 = MAX_ARGUMENT as u64 + 1024;

/// Reads a file; `None` for what is skipped silently: a folder, and a file that was removed in the meantime.
fn read_file(
    folder: &OwnedFd,
    directory: &Path,
    name: &str,
) -> Result<Option<(SecretBytes, Option<SystemTime>)>, Problem> {
    let path = directory.join(name);
    let look = |flags| fstatat(folder, name, flags).map(|status| SFlag::from_bits_truncate(status.st_mode));
    match look(AtFlags::empty()) {
        Err(_) if look(AtFlags::AT_SYMLINK_NOFOLLOW) == Err(Errno::ENOENT) => return Ok(None),
        Ok(mode) if mode & SFlag::S_IFMT == SFlag::S_IFDIR => return Ok(None),
        Ok(_) | Err(_) => {}
    }
    let (value, metadata) = regular_file::read_in(folder, OsStr::new(name), ROOM).map_err(|error| match error {
        regular_file::Error::Io(source) => Problem::File { path: path.clone(), source },
        regular_file::Error::Link => Problem::Link(path.clone()),
        regular_file::Error::NotRegular => Problem::NotRegular(path.clone()),
        regular_file::Error::TooLarge(_) => Problem::TooLarge(path.clone()),
    })?;
    let value = trim_newlines(without_byte_order_mark(&value));
    if value.contains(&0) {
        return Err(Problem::Nul(path));
    }
    if name.len() + 1 + value.len() > MAX_ARGUMENT {
        return Err(Problem::TooLarge(path));
    }
    Ok(Some((SecretBytes::from(value.to_vec()), metadata.modified().ok())))
}

fn trim_newlines(mut value: &[u8]) -> &[u8] {
    while let Some(rest) = value.strip_suffix(b"\n") {
        value = rest.strip_suffix(b"\r").unwrap_or(rest);
    }
    value
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn names(reading: &Reading) -> Vec<&str> {
        reading.secrets.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn directory(files: &[(&str, &[u8])]) -> TempDir {
        let directory = TempDir::new().unwrap();
        for (name, value) in files {
            fs::write(directory.path().join(name), value).unwrap();
        }
        directory
    }

    #[test]
    fn a_file_is_a_variable_without_its_trailing_newlines() {
        let directory = directory(&[("A", b"one\n"), ("B", b"two\r\n\n"), ("C", b" \n x "), ("D", b"")]);
        let reading = read(directory.path(), &Named::default(), &Secrets::default());
        assert_eq!(reading.secrets, Secrets::of(&[("A", "one"), ("B", "two"), ("C", " \n x "), ("D", "")]));
        assert_eq!(reading.error(), None);
    }

    #[test]
    fn files_whose_names_are_not_variables_are_skipped() {
        let directory = directory(&[
            (".hidden", b"x"),
            ("KEY.tmp", b"x"),
            ("1A", b"x"),
            ("A-B", b"x"),
            ("schlüssel", b"x"),
            ("_ok1", b"x"),
        ]);
        fs::create_dir(directory.path().join("FOLDER")).unwrap();
        let reading = read(directory.path(), &Named::default(), &Secrets::default());
        assert_eq!(names(&reading), ["_ok1"]);
        assert_eq!(reading.error(), None);
    }

    #[test]
    fn links_to_files_are_followed_through_a_linked_directory() {
        let real = directory(&[("value", b"v")]);
        let links = TempDir::new().unwrap();
        fs::create_dir(links.path().join("generation-1")).unwrap();
        symlink(real.path().join("value"), links.path().join("generation-1/TOKEN")).unwrap();
        symlink("generation-1", links.path().join("secrets")).unwrap();
        assert_eq!(
            read(&links.path().join("secrets"), &Named::default(), &Secrets::default()).secrets,
            Secrets::of(&[("TOKEN", "v")])
        );
    }

    const DOUBT_PERIOD: Duration = Duration::from_secs(5);

    /// Readings of a directory, each some seconds after the first, with a change to the directory before each.
    struct Looks {
        root: TempDir,
        began: Instant,
        known: Known,
    }

    impl Looks {
        /// Starts with a directory with A, B, and C.
        fn new() -> Self {
            let mut looks = Self { root: TempDir::new().unwrap(), began: Instant::now(), known: Known::default() };
            looks.fill("secrets", &["A", "B", "C"]);
            looks.look(0);
            assert_eq!((looks.names(), looks.known.error.as_deref()), ("ABC".to_owned(), None));
            looks
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn fill(&self, folder: &str, names: &[&str]) {
            fs::create_dir(self.path(folder)).unwrap();
            for name in names {
                fs::write(self.path(folder).join(name), name).unwrap();
            }
        }

        fn remove(&self, names: &[&str]) {
            for name in names {
                fs::remove_file(self.path("secrets").join(name)).unwrap();
            }
        }

        fn look(&mut self, seconds: u64) {
            let path = self.path("secrets");
            let reading = read(&path, &Named::default(), &self.known.secrets);
            self.known = self.known.after(reading, &path, self.began + Duration::from_secs(seconds), DOUBT_PERIOD);
        }

        fn names(&self) -> String {
            self.known.secrets.iter().map(|(name, _)| name.as_str()).collect()
        }

        /// Asserts that everything known stays in use, with this error.
        fn assert_kept(&self, error: &str) {
            let said = self.known.error.as_deref().unwrap_or_default();
            assert!(self.names() == "ABC" && said.contains(error), "{}: {said}", self.names());
        }
    }

    #[test]
    fn removing_one_file_withdraws_its_secret_at_once() {
        let mut looks = Looks::new();
        looks.remove(&["B"]);
        looks.look(1);
        assert_eq!((looks.names(), looks.known.error.as_deref()), ("AC".to_owned(), None));
    }

    #[test]
    fn a_missing_directory_withdraws_nothing() {
        let mut looks = Looks::new();
        fs::rename(looks.path("secrets"), looks.path("away")).unwrap();
        for seconds in [1, 100, 1000] {
            looks.look(seconds);
            looks.assert_kept("secrets is gone; the secrets known before stay in use; make it again");
        }
        fs::rename(looks.path("away"), looks.path("secrets")).unwrap();
        looks.look(1001);
        assert_eq!((looks.names(), looks.known.error.as_deref()), ("ABC".to_owned(), None));
    }

    #[test]
    fn files_removed_at_once_are_withdrawn_at_a_second_look() {
        for removed in [&["A", "B"][..], &["A", "B", "C"]] {
            let mut looks = Looks::new();
            looks.remove(removed);
            for seconds in [1, 5] {
                looks.look(seconds);
                looks.assert_kept("secrets: A, B");
            }
            looks.look(6);
            assert_eq!((looks.names().len(), looks.known.error.as_deref()), (3 - removed.len(), None));
        }
    }

    #[test]
    fn the_only_file_is_withdrawn_at_a_second_look() {
        let mut looks = Looks::new();
        looks.remove(&["A"]);
        looks.look(1);
        looks.remove(&["B"]);
        looks.look(2);
        looks.remove(&["C"]);
        looks.look(3);
        assert_eq!(looks.names(), "C");
        looks.look(8);
        assert_eq!(looks.names(), "");
    }

    #[test]
    fn a_new_generation_is_filled_before_anything_is_withdrawn() {
        let mut looks = Looks::new();
        fs::rename(looks.path("secrets"), looks.path("1")).unwrap();
        symlink("1", looks.path("secrets")).unwrap();
        looks.look(1);
        // The old one is removed first; the new one is not filled yet.
        fs::remove_dir_all(looks.path("1")).unwrap();
        looks.look(2);
        looks.assert_kept("is gone");
        looks.fill("2", &[]);
        fs::remove_file(looks.path("secrets")).unwrap();
        symlink("2", looks.path("secrets")).unwrap();
        looks.look(3);
        looks.assert_kept("secrets: A, B, C");
        fs::write(looks.path("2/A"), "new").unwrap();
        looks.look(4);
        looks.assert_kept("secrets: B, C");
        assert_eq!(looks.known.secrets.get("A").unwrap().as_slice(), b"A", "it is half made");
        fs::write(looks.path("2/C"), "C").unwrap();
        for seconds in [5, 7] {
            looks.look(seconds);
            looks.assert_kept("secrets: B;");
        }
        looks.look(8);
        assert_eq!((looks.names(), looks.known.error.as_deref()), ("AC".to_owned(), None));
        assert_eq!(looks.known.secrets.get("A").unwrap().as_slice(), b"new");
    }

    #[test]
    fn a_reading_of_another_directory_confirms_nothing() {
        let mut looks = Looks::new();
        for (generation, seconds) in [("1", 10), ("2", 20), ("3", 30)] {
            fs::rename(looks.path("secrets"), looks.path(&format!("old-{generation}"))).unwrap();
            looks.fill("secrets", &["A"]);
            looks.look(seconds);
            looks.assert_kept("secrets: B, C");
        }
    }

    #[test]
    fn an_empty_mount_never_withdraws_anything() {
        let mut looks = Looks::new();
        let device = looks.known.folder.unwrap().device();
        looks.remove(&["A", "B", "C"]);
        looks.known.folder = Some(FileId::new(device + 1, 1));
        for seconds in [1, 100, 1000] {
            looks.look(seconds);
            looks.assert_kept("on which another file system is mounted than before, or none");
        }
    }

    #[test]
    fn an_emptied_value_stays_until_there_is_another() {
        let mut looks = Looks::new();
        fs::write(looks.path("secrets/B"), "\n").unwrap();
        for seconds in [1, 100] {
            looks.look(seconds);
            looks.assert_kept("secrets/B is empty; the value that it had stays in use");
            assert_eq!(looks.known.secrets.get("B").unwrap().as_slice(), b"B");
        }
        fs::write(looks.path("secrets/B"), "new").unwrap();
        looks.look(101);
        assert_eq!(looks.known.secrets.get("B").unwrap().as_slice(), b"new");
    }

    #[test]
    fn a_value_that_was_always_empty_is_valid() {
        let mut looks = Looks::new();
        fs::write(looks.path("secrets/D"), "").unwrap();
        for seconds in [1, 2] {
            looks.look(seconds);
            assert_eq!((looks.names(), looks.known.error.as_deref()), ("ABCD".to_owned(), None));
        }
    }

    #[test]
    fn a_directory_that_never_existed_leaves_secrets_unknown() {
        let reading = read(Path::new("/nonexistent/secrets"), &Named::default(), &Secrets::default());
        assert!(!reading.secrets.is_complete);
        let folder = TempDir::new().unwrap();
        assert!(read(folder.path(), &Named::default(), &reading.secrets).secrets.is_complete);
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_a_value() {
        let directory = directory(&[("A", "\u{feff}one\n".as_bytes()), ("B", "\u{feff}\u{feff}x".as_bytes())]);
        let reading = read(directory.path(), &Named::default(), &Secrets::default());
        assert_eq!(reading.secrets, Secrets::of(&[("A", "one"), ("B", "\u{feff}x")]));
    }

    #[test]
    fn a_missing_directory_is_an_empty_one() {
        let reading = read(Path::new("/nonexistent/secrets"), &Named::default(), &Secrets::of(&[("A", "old")]));
        assert_eq!((reading.secrets.iter().count(), reading.error()), (0, None));
    }

    #[test]
    fn a_directory_that_cannot_be_listed_keeps_what_was_known() {
        let file = directory(&[("not-a-directory", b"")]);
        let last = Secrets::of(&[("A", "old")]);
        let reading = read(&file.path().join("not-a-directory"), &Named::default(), &last);
        assert_eq!(reading.secrets, last);
        assert!(reading.error().unwrap().contains("stay in use"));
    }

    #[test]
    fn too_many_files_change_nothing() {
        let directory = directory(&[("A", b"new")]);
        let last = Secrets::of(&[("A", "old")]);
        for number in 1..MAX_ENTRIES {
            fs::write(directory.path().join(format!("{number}.tmp")), "").unwrap();
        }
        let values = read(directory.path(), &Named::default(), &last).secrets.values;
        assert_eq!(values, Secrets::of(&[("A", "new")]).values);
        fs::write(directory.path().join("one more"), "").unwrap();
        let reading = read(directory.path(), &Named::default(), &last);
        assert_eq!(reading.secrets, last);
        assert!(reading.error().unwrap().starts_with("there are more than 10000 files in "));
    }

    #[test]
    fn values_that_are_too_large_together_change_nothing() {
        let directory = directory(&[("A", b"new")]);
        let last = Secrets::of(&[("A", "old")]);
        for number in 0..=MAX_TOTAL / 100_000 {
            fs::write(directory.path().join(format!("_{number}")), "x".repeat(100_000)).unwrap();
        }
        let reading = read(directory.path(), &Named::default(), &last);
        assert_eq!((reading.secrets, reading.problems.len()), (last, 1));
    }

    #[test]
    fn of_many_problems_the_first_are_listed_and_the_rest_counted() {
        let directory = TempDir::new().unwrap();
        for number in 0..100 {
            symlink("/nonexistent/value", directory.path().join(format!("_{number:02}"))).unwrap();
        }
        let error = read(directory.path(), &Named::default(), &Secrets::default()).error().unwrap();
        assert!(
            error.lines().next().unwrap().contains("/_00: ") && error.ends_with("\nand 80 more like these"),
            "{error}"
        );
    }

    #[test]
    fn a_fifo_is_reported_and_the_others_are_read() {
        let directory = directory(&[("A", b"one")]);
        mkfifo(&directory.path().join("PIPE"), Mode::S_IRWXU).unwrap();
        let reading = read(directory.path(), &Named::default(), &Secrets::default());
        assert_eq!(names(&reading), ["A"]);
        assert!(reading.error().unwrap().contains("PIPE is not a regular file"));
    }

    #[test]
    fn a_dangling_link_keeps_the_last_value_and_is_reported() {
        let directory = TempDir::new().unwrap();
        symlink("/nonexistent/value", directory.path().join("A")).unwrap();
        let reading = read(directory.path(), &Named::default(), &Secrets::of(&[("A", "old"), ("B", "gone")]));
        assert_eq!(reading.secrets, Secrets::of(&[("A", "old")]));
        assert!(reading.error().unwrap().contains("/A: "));
    }

    #[test]
    fn a_bad_value_leaves_the_last_good_one_and_is_never_quoted() {
        let long = vec![b'x'; MAX_ARGUMENT];
        let directory = directory(&[("NUL", b"hunter2\0"), ("LONG", &long)]);
        let reading = read(directory.path(), &Named::default(), &Secrets::of(&[("NUL", "good")]));
        assert_eq!(reading.secrets, Secrets::of(&[("NUL", "good")]));
        let error = reading.error().unwrap();
        assert!(error.contains("NUL byte") && error.contains("too large") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn the_longest_value_that_the_kernel_takes_is_accepted() {
        let fits = vec![b'x'; MAX_ARGUMENT - 2];
        let directory = directory(&[("A", &fits)]);
        assert_eq!(
            read(directory.path(), &Named::default(), &Secrets::default()).secrets.get("A").unwrap().as_slice(),
            fits
        );
    }

    #[test]
    fn debug_shows_no_value() {
        assert!(!format!("{:?}", Secrets::of(&[("A", "hunter2")])).contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_value_without_nul_is_read_as_written(value in prop::collection::vec(1_u8.., 0..200)) {
            prop_assume!(!value.starts_with("\u{feff}".as_bytes()));
            let directory = directory(&[("A", &value)]);
            let read = read(directory.path(), &Named::default(), &Secrets::default());
            prop_assert!(value.starts_with(read.secrets.get("A").unwrap().as_slice()));
        }
    }

    fn named(files: &[&str]) -> Named {
        Named(files.iter().map(|&file| file.to_owned()).collect())
    }

    #[test]
    fn files_of_other_names_are_read_only_if_an_entry_names_them() {
        let directory = directory(&[("A", b"a"), ("github-reviewer", b"g\n"), ("KEY.tmp", b"k"), (".hidden", b"h")]);
        let read = |named: &Named| {
            let reading = read(directory.path(), named, &Secrets::default());
            assert_eq!(reading.error(), None);
            names(&reading).join(" ")
        };
        assert_eq!(read(&Named::default()), "A");
        assert_eq!(read(&named(&["github-reviewer", "absent"])), "A github-reviewer");
        assert_eq!(read(&named(&["A"])), "A");
    }

    #[test]
    fn files_that_no_entry_names_are_redacted_and_in_no_ones_way() {
        let large = vec![b'x'; MAX_ARGUMENT + 2000];
        let directory = directory(&[("A", b"a"), ("x-y", b"v\n"), ("z.z", &large), (".hidden", b"h")]);
        mkfifo(&directory.path().join("p.p"), Mode::S_IRWXU).unwrap();
        let reading = read(directory.path(), &Named::default(), &Secrets::default());
        assert_eq!((names(&reading).join(" ").as_str(), reading.error()), ("A", None));
        assert!(reading.secrets.is_complete);
        let redacted: Vec<&[u8]> = reading.secrets.to_redact().map(SecretBytes::as_slice).collect();
        assert_eq!(redacted, [b"a", b"v"]);
        let reading = read(directory.path(), &named(&["x-y"]), &reading.secrets);
        assert_eq!((names(&reading).join(" ").as_str(), reading.secrets.unnamed.len()), ("A x-y", 0));
    }

    #[test]
    fn a_file_that_no_entry_names_any_more_is_not_missed() {
        let directory = directory(&[("A", b"a"), ("x-y", b"v")]);
        let (now, patience) = (Instant::now(), Duration::from_secs(5));
        let reading = read(directory.path(), &named(&["x-y"]), &Secrets::default());
        let mut known = Known::default().after(reading, directory.path(), now, patience);
        assert!(known.secrets.get("x-y").is_some());
        known.limit_to(&Named::default());
        let reading = read(directory.path(), &Named::default(), &known.secrets);
        let known = known.after(reading, directory.path(), now, patience);
        assert_eq!((known.secrets.get("x-y"), known.error), (None, None));
        assert!(known.secrets.unnamed.contains_key("x-y"));
        assert_eq!(known.secrets.get("A").map(SecretBytes::as_slice), Some(&b"a"[..]));
    }

    #[test]
    fn the_files_of_a_jcard_are_those_of_its_tables() {
        let text = "[[agents]]\nname = \"a\"\nharness = \"custom\"\nsecrets = { A = \"x-y\", B = \"C\" }\n\
                    [[agents]]\nname = \"b\"\nharness = \"custom\"\nsecrets = [\"D\"]\n";
        let config = crate::config::parse(text.as_bytes(), &crate::config::Options::default()).unwrap();
        assert_eq!(Named::by(&config), named(&["x-y"]));
    }
}
