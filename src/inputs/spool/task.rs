//! Reads one task, and judges it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::{Uid, UnlinkatFlags, unlinkat};
use zeroize::Zeroizing;

use crate::agent::name::RunId;
use crate::agent::run::LONGEST_TASK;
use crate::agent::run::Sidecar;
use crate::config::sidecar;
use crate::inputs::overrides::ENDING;
use crate::inputs::overrides::operators::Operators;
use crate::sys::file_id::{FileId, FileVersion};
use crate::sys::secret_bytes::SecretBytes;
use crate::sys::{regular_file, safe_path};

/// A file as it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The file.
    pub file: FileId,
    /// When it was written; 1970 if it claims to be older, since earlier times cannot be recorded.
    pub written: SystemTime,
}

impl From<FileVersion> for Version {
    fn from(FileVersion { id: file, written: (seconds, nanoseconds) }: FileVersion) -> Self {
        let after = u64::try_from(seconds).ok().map(|seconds| Duration::new(seconds, nanoseconds));
        let written = after.and_then(|after| SystemTime::UNIX_EPOCH.checked_add(after));
        Self { file, written: written.unwrap_or(SystemTime::UNIX_EPOCH) }
    }
}

/// A task that can be carried out.
#[derive(Debug)]
pub struct Read {
    /// What is to be done.
    pub text: SecretBytes,
    /// Who wrote it.
    pub by: String,
    /// Whether that is the user that the daemon runs as.
    pub is_own: bool,
    /// Its file.
    pub version: Version,
    /// What is said beside it.
    pub sidecar: Sidecar,
}

/// Why a task was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It was removed in the meantime.
    Gone,
    /// It is being written: it is empty so far, or it changed while it was read.
    Unfinished,
    /// It cannot be read now.
    Unreadable(String),
    /// It can be no task: what is wrong with it, and what would be right.
    Wrong(String),
}

/// Whose files count in one folder. Remembers its judgments, since each asks the user database.
#[derive(Debug)]
pub struct Owners<'a> {
    operators: &'a Operators,
    /// The owner of the folder, if it is not the daemon's own.
    host: Option<Uid>,
    judged: RefCell<BTreeMap<u32, Result<String, String>>>,
}

impl<'a> Owners<'a> {
    /// Those of a folder with this owner.
    pub fn new(operators: &'a Operators, owner: Uid) -> Self {
        let host = Some(owner).filter(|&owner| owner != Uid::effective() && !operators.is_agent(owner));
        Self { operators, host, judged: RefCell::default() }
    }

    /// The name of the owner of a file, if the file counts; else why it does not.
    fn judge(&self, owner: Uid) -> Result<String, String> {
        let judge = || match self.operators.judge(owner) {
            Err(_) if self.host == Some(owner) => {
                let user = users::get_user_by_uid(owner.as_raw());
                Ok(user.map_or_else(|| owner.to_string(), |user| user.name().to_string_lossy().into_owned()))
            }
            judged => judged,
        };
        self.judged.borrow_mut().entry(owner.as_raw()).or_insert_with(judge).clone()
    }
}

/// Writes a task of the daemon itself, unless there is a file of this name.
pub fn write(folder: &OwnedFd, id: &RunId, text: &SecretBytes) -> io::Result<()> {
    // A name with a dot is no task.
    let new = format!(".{id}.new");
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = || openat(folder, new.as_str(), flags, Mode::from_bits_truncate(0o640));
    let file = match open() {
        // Of a daemon that was killed meanwhile, or of somebody who is in the way.
        Err(Errno::EEXIST) => {
            unlinkat(folder, new.as_str(), UnlinkatFlags::NoRemoveDir)?;
            open()?
        }
        file => file?,
    };
    File::from(file).write_all(text.as_slice())?;
    match renameat2(folder, new.as_str(), folder, id.as_str(), RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(()),
        Err(error) => {
            unlinkat(folder, new.as_str(), UnlinkatFlags::NoRemoveDir)?;
            if error == Errno::EEXIST { Ok(()) } else { Err(error.into()) }
        }
    }
}

const RIGHT: &str = "write a regular file, or use agentd run";

/// Reads the task of this name. `is_settled` tells whether it is to be judged as it is, even if it is empty.
pub fn read(folder: &OwnedFd, id: &RunId, owners: &Owners<'_>, is_settled: bool) -> Result<Read, Flaw> {
    let name = OsStr::new(id.as_str());
    let (mut text, owner, version) = read_file(folder, name, LONGEST_TASK as u64, owners)?;
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(if is_settled {
            Flaw::Wrong("it is empty; write what is to be done".to_owned())
        } else {
            Flaw::Unfinished
        });
    }
    match std::str::from_utf8(&text) {
        Err(_) => return Err(Flaw::Wrong("it is not text in UTF-8; save it as UTF-8".to_owned())),
        Ok(text) if text.contains('\0') => {
            return Err(Flaw::Wrong("it contains a NUL byte, which no text has; save it as text in UTF-8".to_owned()));
        }
        Ok(_) => {}
    }
    let beside = format!("{id}{ENDING}");
    let sidecar = match read_file(folder, OsStr::new(&beside), sidecar::MAX_SIZE, owners) {
        Ok((text, _, _)) => {
            sidecar::parse(&text).map_err(|error| Flaw::Wrong(format!("{beside}: {}", error.replace('\n', "; "))))?
        }
        Err(Flaw::Gone) => Sidecar::default(),
        Err(Flaw::Wrong(error)) => return Err(Flaw::Wrong(format!("{beside}: {error}"))),
        Err(Flaw::Unreadable(error)) => return Err(Flaw::Unreadable(format!("{beside}: {error}"))),
        Err(Flaw::Unfinished) => return Err(Flaw::Unfinished),
    };
    let is_own = owners.judge(Uid::effective()).is_ok_and(|own| own == owner);
    Ok(Read { text: SecretBytes::from(std::mem::take(&mut *text)), by: owner, is_own, version, sidecar })
}

/// Reads a file of an operator: no link, no FIFO, no file with a second name, none of a stranger's.
fn read_file(
    folder: &OwnedFd,
    name: &OsStr,
    limit: u64,
    owners: &Owners<'_>,
) -> Result<(Zeroizing<Vec<u8>>, String, Version), Flaw> {
    let look = safe_path::look(folder, name).map_err(unreadable)?;
    // Without root, the kernel would follow it.
    if SFlag::from_bits_truncate(look.mode) & SFlag::S_IFMT == SFlag::S_IFLNK {
        return Err(Flaw::Wrong(format!("it is a link; {RIGHT}")));
    }
    let refused = |error| match error {
        regular_file::Error::Io(error) => unreadable(error),
        regular_file::Error::TooLarge(limit) => Flaw::Wrong(format!(
            "it is larger than {limit} bytes; put what is long into a file that the agent can read, and name that"
        )),
        regular_file::Error::Link => Flaw::Wrong(format!("it is a link; {RIGHT}")),
        error @ regular_file::Error::NotRegular => Flaw::Wrong(format!("{error}; {RIGHT}")),
    };
    let (file, metadata) = regular_file::open_in(folder, name).map_err(refused)?;
    if metadata.nlink() != 1 {
        return Err(Flaw::Wrong(format!("it has {} names (hard links); {RIGHT}", metadata.nlink())));
    }
    let owner = owners.judge(Uid::from_raw(metadata.uid())).map_err(Flaw::Wrong)?;
    let id = FileId::of(&file).map_err(unreadable)?;
    let (text, _) = regular_file::content((file, metadata), limit).map_err(refused)?;
    // What was read is one state of the file, and not a part of two.
    let after = safe_path::look(folder, name).map_err(unreadable)?;
    if after.version != look.version || after.version.id != id {
        return Err(Flaw::Unfinished);
    }
    Ok((text, owner, after.version.into()))
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(error: io::Error) -> Flaw {
    if error.kind() == io::ErrorKind::NotFound { Flaw::Gone } else { Flaw::Unreadable(error.to_string()) }
}
