//! Reads and writes drop-ins as the calling user.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};
use tokio::time::{Instant, sleep};

use crate::config::drop_in::{self, DropIn, MAX_SIZE, Scope};
use crate::inputs::overrides::{ALL, ENDING, RELEASE};
use crate::sys::file_id::FileId;
use crate::sys::{regular_file, safe_path};

/// Why a drop-in was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// This user may not.
    #[error("failed to write {}: permission denied; be root or {}, or type: sudo {line}", path.display(), who_may_write(path))]
    Denied {
        /// The drop-in.
        path: PathBuf,
        /// The command line that would do it.
        line: String,
    },
    /// The folder does not exist.
    #[error("the overrides directory {} does not exist; agentd makes it when it starts, and --override-dir names another", .0.display())]
    NoFolder(PathBuf),
    /// Anything else.
    #[error("failed to write {}: {source}", path.display())]
    Io {
        /// The drop-in.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Who may write in the folder of this file, as far as the folder's permissions can be read.
fn who_may_write(path: &Path) -> String {
    // Those who may not write cannot look into the folder either: its group is that of the one above it.
    let group = path.ancestors().skip(1).find_map(|folder| fs::metadata(folder).ok()).map(|metadata| metadata.gid());
    match group.filter(|&group| group != 0).and_then(users::get_group_by_gid) {
        Some(group) => format!("a member of group {}", group.name().to_string_lossy()),
        None => "the user that agentd runs as".to_owned(),
    }
}

/// The overrides directory, as the calling user sees it.
pub(in crate::cli) struct Files {
    directory: PathBuf,
}

/// A drop-in that was written.
pub(in crate::cli) struct Written {
    path: PathBuf,
    name: OsString,
    id: FileId,
}

impl Written {
    pub(in crate::cli) fn path(&self) -> &Path {
        &self.path
    }
}

/// The pause between two attempts to lock the folder.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a command waits for another one that writes in the same folder.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps other commands from reading and writing the same folder until it is dropped.
pub(super) struct Turn {
    _folder: Option<File>,
}

impl Files {
    /// Waits for the turn of this command, so that of two at once neither overwrites what the other one has just said.
    ///
    /// The lock only keeps order among commands that mean well. One that holds it too long stops nobody.
    pub(super) async fn turn(&self) -> Turn {
        let open =
            |folder| openat(&folder, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let Some(folder) = self.open().ok().and_then(|folder| open(folder).ok()).map(File::from) else {
            return Turn { _folder: None };
        };
        let limit = Instant::now() + PATIENCE;
        while matches!(folder.try_lock(), Err(TryLockError::WouldBlock)) && Instant::now() < limit {
            sleep(PAUSE).await;
        }
        Turn { _folder: Some(folder) }
    }

    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn open(&self) -> io::Result<OwnedFd> {
        Ok(safe_path::open_dir(&self.directory, None)?)
    }

    /// Whether there is a file of this name. `line` is the command line of this.
    pub(super) fn has(&self, stem: &str, line: &str) -> Result<bool, Failure> {
        let path = self.directory.join(format!("{stem}{ENDING}"));
        match self.open() {
            Ok(folder) => Ok(safe_path::look(&folder, &name_of(&folder, stem)).is_ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::NoFolder(self.directory.clone())),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(Failure::Denied { path, line: line.to_owned() })
            }
            Err(source) => Err(Failure::Io { path, source }),
        }
    }

    /// What the drop-in says. One that is absent, that cannot be read or that says what it must not says nothing: it is replaced.
    pub(super) fn read(&self, stem: &str) -> Result<DropIn, Failure> {
        let folder = match self.open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::NoFolder(self.directory.clone()));
            }
            // Writing tells.
            Err(_) => return Ok(DropIn::default()),
            Ok(folder) => folder,
        };
        let scope = if stem == ALL { Scope::All } else { Scope::Agent };
        let text = regular_file::read_in(&folder, &name_of(&folder, stem), MAX_SIZE);
        Ok(text.ok().and_then(|(text, _)| drop_in::parse(&text, scope).ok()).unwrap_or_default())
    }

    /// Writes a drop-in, and replaces the one that is there. `line` is the command line of this.
    pub(super) fn write(&self, stem: &str, drop_in: DropIn, line: &str) -> Result<Written, Failure> {
        let file = New { stem, name: format!("{stem}{ENDING}"), text: &drop_in.render(), line };
        replace(&self.directory, &file, |folder| name_of(folder, stem))
    }

    /// Writes a file of this name into a folder of the directory, and replaces the one that is there. `line` is the command line of this.
    pub(in crate::cli) fn write_in(
        &self,
        folder: &Path,
        stem: &str,
        text: &str,
        line: &str,
    ) -> Result<Written, Failure> {
        let file = New { stem, name: format!("{stem}{ENDING}"), text, line };
        replace(&self.directory.join(folder), &file, |_| file.name.as_str().into())
    }

    /// Writes the file that ends the hold of this group. `line` is the command line of this.
    pub(super) fn release(&self, group: &str, line: &str) -> Result<Written, Failure> {
        let file = New { stem: "new-release", name: format!("{RELEASE}{group}"), text: "", line };
        replace(&self.directory, &file, |_| file.name.as_str().into())
    }

    /// Whether what was written is still there.
    pub(super) fn is_there(&self, written: &Written) -> bool {
        self.open()
            .is_ok_and(|folder| safe_path::look(&folder, &written.name).is_ok_and(|look| look.version.id == written.id))
    }

    /// Removes what was written, unless something else is there now. What stays does no harm.
    pub(super) fn remove(&self, written: &Written) {
        let Ok(folder) = self.open() else { return };
        if safe_path::look(&folder, &written.name).is_ok_and(|look| look.version.id == written.id) {
            let _ = unlinkat(&folder, written.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// The name of the file of this agent, by the daemon's rules: the first that is there in the order of bytes, whatever the case of its
/// name, but with exactly that ending; else that of the agent.
fn name_of(folder: &OwnedFd, stem: &str) -> OsString {
    let entries = fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd())).into_iter().flatten().flatten();
    let is_its = |name: &OsString| {
        let own = name.to_str().and_then(|name| name.strip_suffix(ENDING));
        own.is_some_and(|own| own == stem || stem != ALL && own.eq_ignore_ascii_case(stem))
    };
    let same = entries.map(|entry| entry.file_name()).filter(is_its).min();
    same.unwrap_or_else(|| format!("{stem}{ENDING}").into())
}

/// A file that is written.
struct New<'a> {
    /// What its temporary name is made of.
    stem: &'a str,
    /// Its usual name.
    name: String,
    text: &'a str,
    /// The command line of this.
    line: &'a str,
}

/// Writes a file into this folder in place of the one that is there, whose name the folder decides.
fn replace(directory: &Path, file: &New<'_>, name_in: impl FnOnce(&OwnedFd) -> OsString) -> Result<Written, Failure> {
    let path = directory.join(&file.name);
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied => Failure::Denied { path: path.clone(), line: file.line.to_owned() },
        io::ErrorKind::NotFound => Failure::NoFolder(directory.to_owned()),
        _ => Failure::Io { path: path.clone(), source },
    };
    let folder = safe_path::open_dir(directory, None).map_err(|error| failed(error.into()))?;
    let name = name_in(&folder);
    let temporary = OsString::from(format!(".{}.{}.new", file.stem, std::process::id()));
    let id = put(&folder, &temporary, &name, file.text).map_err(|source| {
        // Whatever came of it says nothing.
        let _ = unlinkat(&folder, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
        failed(source)
    })?;
    Ok(Written { path: directory.join(&name), name, id })
}

/// Writes a file beside the other, and renames it.
fn put(folder: &OwnedFd, temporary: &OsStr, name: &OsStr, text: &str) -> io::Result<FileId> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // The other operators may read it, whatever the umask; the folder gives it its group.
    let mode = Mode::from_bits_truncate(0o640);
    let file = match openat(folder, temporary, flags, mode) {
        // Of an earlier process with the same id.
        Err(Errno::EEXIST) => {
            unlinkat(folder, temporary, UnlinkatFlags::NoRemoveDir)?;
            openat(folder, temporary, flags, mode)?
        }
        file => file?,
    };
    let mut file = File::from(file);
    fchmod(file.as_fd(), mode)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let id = FileId::of(&file)?;
    renameat(folder, temporary, folder, name)?;
    Ok(id)
}
