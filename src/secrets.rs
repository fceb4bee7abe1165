//! The secrets directory: one file, one environment variable.
//!
//! What cannot be read is not taken for empty: the last value that was read stays, and the problem is reported. That holds for the
//! whole directory as for each file in it. A directory that is not there *is* an empty one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, fstatat};

use crate::config::MAX_ARGUMENT;
use crate::frame::Bytes;
use crate::regular;
use crate::way;

/// How many files and folders may be in the directory, secrets or not.
pub const MAX_ENTRIES: usize = 10_000;

/// How many bytes the values may have together: several times what the kernel hands to one program (see `execve(2)`).
pub const MAX_TOTAL: usize = 8 << 20;

/// How many problems are told one by one.
const MAX_TOLD: usize = 20;

/// What stands in the way of a secret, or of all of them.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The directory is there but cannot be listed.
    #[error("failed to list {}: {source}; the secrets known before stay in use", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// There is more in the directory than is worth reading.
    #[error("there are more than {MAX_ENTRIES} files in {}; the secrets known before stay in use", .0.display())]
    TooMany(PathBuf),
    /// The values are larger together than is worth keeping.
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
    /// A link that somebody could have put there to have root read something else.
    #[error("{} is a link in a folder that others than root can write in, and is not followed; put the value into a file", .0.display())]
    Link(PathBuf),
    /// A FIFO, a device, a socket.
    #[error("{} is not a regular file; put the value into one, or a link to one", .0.display())]
    NotRegular(PathBuf),
    /// The value holds a NUL byte, which no environment variable can.
    #[error("the value in {} holds a NUL byte, which no environment variable can; write it as text", .0.display())]
    Nul(PathBuf),
    /// The value is longer than the kernel passes on.
    #[error("the value in {} is too large; name and value together may have {} bytes", .0.display(), MAX_ARGUMENT - 1)]
    TooLarge(PathBuf),
}

/// The secrets as last read; at first none, of which nothing is known. `Debug` shows names and lengths only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    values: BTreeMap<String, Bytes>,
    is_complete: bool,
}

impl Secrets {
    /// The value of one.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.values.get(name)
    }

    /// Whether none is missing because it could not be read: there was a reading once that nothing stood in the way of.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// All of them, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Bytes)> {
        self.values.iter()
    }

    /// For tests of other rooms.
    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        let values = pairs.iter().map(|&(name, value)| (name.to_owned(), Bytes::from(value))).collect();
        Self { values, is_complete: true }
    }
}

/// One reading of the directory.
#[derive(Debug, Default)]
pub struct Reading {
    /// What is to be used from now on.
    pub secrets: Secrets,
    /// What went wrong, for a person to mend.
    pub problems: Vec<Problem>,
    /// The newest change among the directory and its files; `None` if there is nothing.
    pub changed: Option<SystemTime>,
}

impl Reading {
    /// The problems as one text, `None` if there are none.
    pub fn error(&self) -> Option<String> {
        let mut text = String::new();
        for problem in self.problems.iter().take(MAX_TOLD) {
            let _ = writeln!(text, "{problem}");
        }
        if let Some(more) = self.problems.len().checked_sub(MAX_TOLD).filter(|&more| more > 0) {
            let _ = writeln!(text, "and {more} more like these");
        }
        (!text.is_empty()).then(|| text.trim_end().to_owned())
    }
}

/// Reads the directory. `last` is what was known before; it stands in for what cannot be read now. Blocks.
pub fn read(directory: &Path, last: &Secrets) -> Reading {
    let mut reading = Reading::default();
    if let Err(problem) = read_all(directory, last, &mut reading) {
        reading.secrets = last.clone();
        reading.problems = vec![problem];
    }
    reading.secrets.is_complete = last.is_complete || reading.problems.is_empty();
    reading
}

fn read_all(directory: &Path, last: &Secrets, reading: &mut Reading) -> Result<(), Problem> {
    let failed = |source| Problem::Directory { path: directory.to_owned(), source };
    // Gone to once, and all is read in it: it is the same one throughout.
    let folder = match way::go(directory, None).map_err(io::Error::from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        folder => folder.map_err(failed)?,
    };
    let here = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    let names = list(&here).map_err(failed)?;
    if names.len() > MAX_ENTRIES {
        return Err(Problem::TooMany(directory.to_owned()));
    }
    reading.changed = fs::metadata(&here).map_err(failed)?.modified().ok();
    let mut total = 0;
    for name in names.iter().filter_map(|name| name.to_str()).filter(|name| is_variable_name(name)) {
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
    Ok(())
}

/// The names in the directory, sorted, but hardly more than there may be.
fn list(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(directory)?.take(MAX_ENTRIES + 1).map(|entry| entry.map(|entry| entry.file_name())).collect()
}

/// A file larger than this could never be a value, also without the newlines at its end.
const ROOM: u64 = MAX_ARGUMENT as u64 + 1024;

/// `None` for what is skipped without a word: a folder, and a file that went away in the meantime.
fn read_file(folder: &OwnedFd, directory: &Path, name: &str) -> Result<Option<(Bytes, Option<SystemTime>)>, Problem> {
    let path = directory.join(name);
    let look = |flags| fstatat(folder, name, flags).map(|status| SFlag::from_bits_truncate(status.st_mode));
    match look(AtFlags::empty()) {
        Err(_) if look(AtFlags::AT_SYMLINK_NOFOLLOW) == Err(Errno::ENOENT) => return Ok(None),
        Ok(mode) if mode & SFlag::S_IFMT == SFlag::S_IFDIR => return Ok(None),
        Ok(_) | Err(_) => {}
    }
    let (value, metadata) = regular::read_in(folder, OsStr::new(name), ROOM).map_err(|error| match error {
        regular::Error::Io(source) => Problem::File { path: path.clone(), source },
        regular::Error::Link => Problem::Link(path.clone()),
        regular::Error::NotRegular => Problem::NotRegular(path.clone()),
        regular::Error::TooLarge(_) => Problem::TooLarge(path.clone()),
    })?;
    let value = trim_newlines(&value);
    if value.contains(&0) {
        return Err(Problem::Nul(path));
    }
    if name.len() + 1 + value.len() > MAX_ARGUMENT {
        return Err(Problem::TooLarge(path));
    }
    Ok(Some((Bytes::from(value.to_vec()), metadata.modified().ok())))
}

fn trim_newlines(mut value: &[u8]) -> &[u8] {
    while let Some(rest) = value.strip_suffix(b"\n") {
        value = rest.strip_suffix(b"\r").unwrap_or(rest);
    }
    value
}

/// Whether a shell could assign to it: `[A-Za-z_][A-Za-z0-9_]*`.
pub fn is_variable_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
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
        let reading = read(directory.path(), &Secrets::default());
        assert_eq!(reading.secrets, Secrets::of(&[("A", "one"), ("B", "two"), ("C", " \n x "), ("D", "")]));
        assert_eq!(reading.error(), None);
    }

    #[test]
    fn hidden_files_folders_and_names_that_are_no_variables_are_skipped() {
        let directory = directory(&[
            (".hidden", b"x"),
            ("KEY.tmp", b"x"),
            ("1A", b"x"),
            ("A-B", b"x"),
            ("schlüssel", b"x"),
            ("_ok1", b"x"),
        ]);
        fs::create_dir(directory.path().join("FOLDER")).unwrap();
        let reading = read(directory.path(), &Secrets::default());
        assert_eq!(names(&reading), ["_ok1"]);
        assert_eq!(reading.error(), None);
    }

    #[test]
    fn links_to_regular_files_are_followed_also_through_a_linked_directory() {
        let real = directory(&[("value", b"v")]);
        let links = TempDir::new().unwrap();
        fs::create_dir(links.path().join("generation-1")).unwrap();
        symlink(real.path().join("value"), links.path().join("generation-1/TOKEN")).unwrap();
        symlink("generation-1", links.path().join("secrets")).unwrap();
        assert_eq!(read(&links.path().join("secrets"), &Secrets::default()).secrets, Secrets::of(&[("TOKEN", "v")]));
    }

    #[test]
    fn a_missing_directory_is_an_empty_one() {
        let reading = read(Path::new("/nonexistent/secrets"), &Secrets::of(&[("A", "old")]));
        assert_eq!((reading.secrets.iter().count(), reading.error()), (0, None));
    }

    #[test]
    fn a_directory_that_cannot_be_listed_keeps_what_was_known() {
        let file = directory(&[("not-a-directory", b"")]);
        let last = Secrets::of(&[("A", "old")]);
        let reading = read(&file.path().join("not-a-directory"), &last);
        assert_eq!(reading.secrets, last);
        assert!(reading.error().unwrap().contains("stay in use"));
    }

    #[test]
    fn more_files_than_there_may_be_change_nothing() {
        let directory = directory(&[("A", b"new")]);
        let last = Secrets::of(&[("A", "old")]);
        for number in 1..MAX_ENTRIES {
            fs::write(directory.path().join(format!("{number}.tmp")), "").unwrap();
        }
        assert_eq!(read(directory.path(), &last).secrets, Secrets::of(&[("A", "new")]));
        fs::write(directory.path().join("one more"), "").unwrap();
        let reading = read(directory.path(), &last);
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
        let reading = read(directory.path(), &last);
        assert_eq!((reading.secrets, reading.problems.len()), (last, 1));
    }

    #[test]
    fn of_many_problems_the_first_are_told_and_the_others_counted() {
        let directory = TempDir::new().unwrap();
        for number in 0..100 {
            symlink("/nonexistent/value", directory.path().join(format!("_{number:02}"))).unwrap();
        }
        let error = read(directory.path(), &Secrets::default()).error().unwrap();
        assert!(
            error.lines().next().unwrap().contains("/_00: ") && error.ends_with("\nand 80 more like these"),
            "{error}"
        );
    }

    #[test]
    fn a_fifo_is_reported_and_the_others_are_read() {
        let directory = directory(&[("A", b"one")]);
        mkfifo(&directory.path().join("PIPE"), Mode::S_IRWXU).unwrap();
        let reading = read(directory.path(), &Secrets::default());
        assert_eq!(names(&reading), ["A"]);
        assert!(reading.error().unwrap().contains("PIPE is not a regular file"));
    }

    #[test]
    fn a_dangling_link_keeps_the_last_value_and_is_reported() {
        let directory = TempDir::new().unwrap();
        symlink("/nonexistent/value", directory.path().join("A")).unwrap();
        let reading = read(directory.path(), &Secrets::of(&[("A", "old"), ("B", "gone")]));
        assert_eq!(reading.secrets, Secrets::of(&[("A", "old")]));
        assert!(reading.error().unwrap().contains("/A: "));
    }

    #[test]
    fn a_bad_value_leaves_the_last_good_one_and_is_never_quoted() {
        let long = vec![b'x'; MAX_ARGUMENT];
        let directory = directory(&[("NUL", b"hunter2\0"), ("LONG", &long)]);
        let reading = read(directory.path(), &Secrets::of(&[("NUL", "good")]));
        assert_eq!(reading.secrets, Secrets::of(&[("NUL", "good")]));
        let error = reading.error().unwrap();
        assert!(error.contains("NUL byte") && error.contains("too large") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn the_longest_value_the_kernel_takes_is_taken() {
        let fits = vec![b'x'; MAX_ARGUMENT - 2];
        let directory = directory(&[("A", &fits)]);
        assert_eq!(read(directory.path(), &Secrets::default()).secrets.get("A").unwrap().as_slice(), fits);
    }

    #[test]
    fn debug_shows_no_value() {
        assert!(!format!("{:?}", Secrets::of(&[("A", "hunter2")])).contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_value_without_nul_is_read_as_written(value in prop::collection::vec(1_u8.., 0..200)) {
            let directory = directory(&[("A", &value)]);
            let read = read(directory.path(), &Secrets::default());
            prop_assert!(value.starts_with(read.secrets.get("A").unwrap().as_slice()));
        }
    }
}
