//! Writes and removes tasks as the calling user.
//!
//! ```text
//! SPOOL/NAME/.ID.PID.tmp    a task that is being written
//! SPOOL/NAME/ID             the task
//! SPOOL/NAME/ID.toml        what is said beside it, which is there before the task is
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};
use rustix::fs::{RenameFlags, renameat_with};

use crate::agent::name::RunId;
use crate::cli::operate::files::who_may_write;
use crate::sys::{regular_file, safe_path};
use crate::text::suggest::nearest;

/// The folder of the tasks that were not taken.
const REFUSED: &str = ".refused";

/// The most bytes that are read of why a task was not taken.
const MOST_WHY: u64 = 64 << 10;

/// Why a task was not written or removed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// This user may not.
    #[error("failed to write into {}: permission denied; be root or {}, or type: sudo {line}", path.display(), who_may_write(path))]
    Denied {
        /// The task.
        path: PathBuf,
        /// The command line that would do it.
        line: String,
    },
    /// There is no spool.
    #[error("the spool {} does not exist; agentd makes it when it starts, and --spool-dir names another", .0.display())]
    NoSpool(PathBuf),
    /// The template has no folder in the spool.
    #[error("{} has no folder for {template:?}{}; agentd makes one for each template", spool.display(), meant(nearest.as_deref()))]
    NoFolder {
        /// The spool.
        spool: PathBuf,
        /// The template.
        template: String,
        /// The folder that was probably meant.
        nearest: Option<String>,
    },
    /// Another task has the id.
    #[error("{} exists already; choose another id, or leave out --id", .0.display())]
    Taken(PathBuf),
    /// Anything else.
    #[error("failed to write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

fn meant(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!("; did you mean {nearest:?}?")).unwrap_or_default()
}

/// The spool, as the calling user sees it.
#[derive(Clone, Debug)]
pub struct Spool {
    path: PathBuf,
}

/// A task that is to be written.
#[derive(Debug)]
pub struct New<'a> {
    /// Its id.
    pub id: &'a RunId,
    /// What is to be done.
    pub text: &'a str,
    /// What is said beside it, as TOML; empty if nothing is.
    pub beside: &'a str,
    /// The command line of this.
    pub line: &'a str,
}

/// The folder of a template.
struct Folder {
    path: PathBuf,
    descriptor: OwnedFd,
}

impl Spool {
    /// The spool in this directory.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Writes a task, and returns its path. The file is there as a whole or not at all, and none is replaced.
    pub fn write(&self, template: &str, new: &New<'_>) -> Result<PathBuf, Failure> {
        let folder = self.folder(template, new.line)?;
        let path = folder.path.join(new.id.as_str());
        let failed = |path: &Path, error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::Denied { path: path.to_owned(), line: new.line.to_owned() },
            io::ErrorKind::AlreadyExists => Failure::Taken(path.to_owned()),
            _ => Failure::Io { path: path.to_owned(), source: error },
        };
        // Ids that differ only in case are one.
        if let Some(other) = folder.entry(new.id.as_str()) {
            return Err(Failure::Taken(folder.path.join(other)));
        }
        let beside = OsString::from(format!("{}.toml", new.id));
        if !new.beside.is_empty() {
            // It is read with the task, so it must be there first.
            let path = folder.path.join(&beside);
            folder.put(new.id, &beside, new.beside).map_err(|error| failed(&path, error))?;
        }
        folder.put(new.id, new.id.as_str().as_ref(), new.text).map_err(|error| {
            if !new.beside.is_empty() {
                let _ = unlinkat(&folder.descriptor, beside.as_os_str(), UnlinkatFlags::NoRemoveDir);
            }
            failed(&path, error)
        })?;
        Ok(path)
    }

    /// Removes the task of a run. Returns whether there was one.
    pub fn remove(&self, template: &str, id: &str, line: &str) -> Result<bool, Failure> {
        let folder = match self.folder(template, line) {
            Err(Failure::NoFolder { .. }) => return Ok(false),
            folder => folder?,
        };
        let Some(name) = folder.entry(id) else { return Ok(false) };
        match unlinkat(&folder.descriptor, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(Errno::EACCES | Errno::EPERM) => {
                Err(Failure::Denied { path: folder.path.join(name), line: line.to_owned() })
            }
            Err(error) => Err(Failure::Io { path: folder.path.join(name), source: error.into() }),
        }
    }

    /// Whether the task of a run is there; `None` if that cannot be found out.
    pub fn has(&self, template: &str, id: &str) -> Option<bool> {
        Some(self.folder(template, "").ok()?.entry(id).is_some())
    }

    /// Why a task was not taken, if it was not.
    pub fn refusal(&self, template: &str, id: &str) -> Option<String> {
        let folder = self.folder(template, "").ok()?;
        let refused = safe_path::open_dir_at(&folder.descriptor, REFUSED.as_ref(), &folder.path.join(REFUSED)).ok()?;
        let refused = Folder { path: folder.path.join(REFUSED), descriptor: refused };
        let note = refused.entry(&format!("{id}.why"))?;
        let (text, _) = regular_file::read_in(&refused.descriptor, &note, MOST_WHY).ok()?;
        Some(String::from_utf8_lossy(&text).trim_end().to_owned())
    }

    /// The templates that have a task with this id.
    pub fn templates_with(&self, id: &str) -> Vec<String> {
        let has = |template: &String| self.has(template, id) == Some(true);
        self.templates().into_iter().filter(has).collect()
    }

    /// The templates that have a folder, as far as this user may see.
    fn templates(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders
            .filter_map(|folder| folder.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect()
    }

    /// The folder of a template, whatever the case of its name.
    fn folder(&self, template: &str, line: &str) -> Result<Folder, Failure> {
        let spool = safe_path::open_dir(&self.path, None).map_err(|error| {
            let error = io::Error::from(error);
            match error.kind() {
                io::ErrorKind::NotFound => Failure::NoSpool(self.path.clone()),
                io::ErrorKind::PermissionDenied => {
                    Failure::Denied { path: self.path.join(template), line: line.to_owned() }
                }
                _ => Failure::Io { path: self.path.clone(), source: error },
            }
        })?;
        let folders = self.templates();
        let found = folders.iter().filter(|folder| folder.eq_ignore_ascii_case(template)).min();
        let name = found.map_or(template, String::as_str);
        let path = self.path.join(name);
        match safe_path::open_dir_at(&spool, name.as_ref(), &path).map_err(io::Error::from) {
            Ok(descriptor) => Ok(Folder { path, descriptor }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let nearest = nearest(template, folders.iter().map(String::as_str)).map(str::to_owned);
                Err(Failure::NoFolder { spool: self.path.clone(), template: template.to_owned(), nearest })
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(Failure::Denied { path: path.join("task"), line: line.to_owned() })
            }
            Err(source) => Err(Failure::Io { path, source }),
        }
    }
}

impl Folder {
    /// The entry with this name, whatever its case.
    fn entry(&self, name: &str) -> Option<OsString> {
        let entries = fs::read_dir(format!("/proc/self/fd/{}", self.descriptor.as_raw_fd())).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        names.filter(|other| other.to_str().is_some_and(|other| other.eq_ignore_ascii_case(name))).min()
    }

    /// Writes a file under another name, and renames it, unless there is one of that name.
    fn put(&self, id: &RunId, name: &OsStr, text: &str) -> io::Result<()> {
        let temporary = OsString::from(format!(".{id}.{}.tmp", std::process::id()));
        let written = self.write_new(&temporary, text).and_then(|()| self.rename(&temporary, name));
        if written.is_err() {
            let _ = unlinkat(&self.descriptor, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    fn write_new(&self, name: &OsStr, text: &str) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // The other operators may read it, whatever the umask; the folder gives it its group.
        let mode = Mode::from_bits_truncate(0o640);
        let open = || openat(&self.descriptor, name, flags, mode);
        let file = match open() {
            // Of an earlier process with the same id.
            Err(Errno::EEXIST) => {
                unlinkat(&self.descriptor, name, UnlinkatFlags::NoRemoveDir)?;
                open()?
            }
            file => file?,
        };
        let mut file = File::from(file);
        fchmod(file.as_fd(), mode)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        match renameat_with(&self.descriptor, from, &self.descriptor, to, RenameFlags::NOREPLACE) {
            // A file system that cannot do that, such as a folder that a host shares.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                if safe_path::look(&self.descriptor, to).is_ok() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                Ok(renameat(&self.descriptor, from, &self.descriptor, to)?)
            }
            renamed => Ok(renamed?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    fn spool() -> (TempDir, Spool) {
        let root = TempDir::new().unwrap();
        fs::create_dir_all(root.path().join("fixer/.refused")).unwrap();
        fs::create_dir(root.path().join(".plans")).unwrap();
        let spool = Spool::new(root.path());
        (root, spool)
    }

    fn write(spool: &Spool, template: &str, id: &str, beside: &str) -> Result<PathBuf, String> {
        let new = New { id: &id.parse().unwrap(), text: "do it", beside, line: "agentd run fixer" };
        spool.write(template, &new).map_err(|failure| failure.to_string())
    }

    fn names(root: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(root.path().join("fixer")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".refused")
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_task_is_written_whole_and_readable_by_the_group() {
        let (root, spool) = spool();
        let path = write(&spool, "Fixer", "t1", "").unwrap();
        assert_eq!(path, root.path().join("fixer/t1"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "do it");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        write(&spool, "fixer", "t2", "continue = \"t1\"\n").unwrap();
        assert_eq!(names(&root), ["t1", "t2", "t2.toml"]);
    }

    #[test]
    fn no_task_is_replaced() {
        let (root, spool) = spool();
        write(&spool, "fixer", "t1", "").unwrap();
        for id in ["t1", "T1"] {
            let said = write(&spool, "fixer", id, "continue = \"x\"\n").unwrap_err();
            assert!(said.contains("t1 exists already; choose another id, or leave out --id"), "{said}");
        }
        assert_eq!(names(&root), ["t1"], "what is beside a task that is not written is not left");
    }

    #[test]
    fn what_is_missing_is_named() {
        let (root, spool) = spool();
        let said = write(&spool, "fixr", "t1", "").unwrap_err();
        assert!(said.contains("has no folder for \"fixr\"; did you mean \"fixer\"?; agentd makes one"), "{said}");
        let said = write(&Spool::new(&root.path().join("no")), "fixer", "t1", "").unwrap_err();
        assert!(
            said.contains("does not exist; agentd makes it when it starts, and --spool-dir names another"),
            "{said}"
        );
    }

    #[test]
    fn a_task_is_found_and_removed_whatever_its_case() {
        let (_root, spool) = spool();
        write(&spool, "fixer", "T1", "").unwrap();
        assert_eq!(spool.templates_with("t1"), ["fixer"]);
        assert_eq!(
            (spool.has("FIXER", "t1"), spool.has("fixer", "t2"), spool.has("no", "t1")),
            (Some(true), Some(false), None)
        );
        let remove = |template, id| spool.remove(template, id, "agentd cancel").unwrap();
        assert_eq!((remove("Fixer", "t1"), remove("fixer", "t1"), remove("no", "t1")), (true, false, false));
    }

    #[test]
    fn why_a_task_was_refused_is_read() {
        let (root, spool) = spool();
        fs::write(root.path().join("fixer/.refused/T1.why"), "it is empty\n").unwrap();
        assert_eq!(spool.refusal("fixer", "t1").as_deref(), Some("it is empty"));
        assert_eq!(spool.refusal("fixer", "t2"), None);
    }
}
