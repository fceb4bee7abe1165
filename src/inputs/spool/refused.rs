//! The folder of what was refused: each file with a note beside it that says why.
//!
//! Nothing is overwritten: a name that is taken gets a number.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use rustix::fs::{RenameFlags, renameat_with};

use crate::inputs::overrides::ENDING;
use crate::inputs::overrides::folder::{self, Right};
use crate::sys::safe_path;

/// The name of the folder in that of a template.
pub const FOLDER: &str = ".refused";

/// The ending of a note.
const NOTE: &str = ".why";

/// The most files in the folder.
pub const MOST: usize = 1000;

/// How many files are left when there were too many, so that the folder is not listed each time.
const LEFT: usize = MOST / 10 * 9;

/// The most files of one name.
const MOST_NUMBERS: usize = 1000;

/// The longest note, in bytes.
const LONGEST_NOTE: usize = 4 << 10;

/// Opens the folder in that of a template, whose owner this is, and makes it if it does not exist.
pub fn open(template: &OwnedFd, owner: Uid, path: &Path, group: Gid) -> Result<OwnedFd, folder::Error> {
    let (folder, own) = folder::open_shared(template, OsStr::new(FOLDER), path, Right::read(group), true)?;
    let right = Uid::effective();
    if own != right && own != owner {
        return Err(folder::Error::Foreign { path: path.to_owned(), owner: own.as_raw(), right: right.as_raw() });
    }
    Ok(folder)
}

/// Moves a file there under this name or one like it, with a note. What is beside it is moved, too.
pub fn put(
    template: &OwnedFd,
    refused: &OwnedFd,
    (name, base): (&OsStr, &str),
    why: &str,
    group: Gid,
) -> io::Result<()> {
    for number in 0..MOST_NUMBERS {
        let to = if number == 0 { base.to_owned() } else { format!("{base}.{number}") };
        let note = format!("{to}{NOTE}");
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = match openat(refused, note.as_str(), flags, Mode::from_bits_truncate(0o640)) {
            Err(Errno::EEXIST) => continue,
            file => File::from(file?),
        };
        if Uid::effective().is_root() {
            // Where that is not possible, root can read it.
            let _ = fchown(&file, None, Some(group));
        }
        // On a full disk, the file is moved without a note.
        let _ = file.write_all(in_short(why).as_bytes()).and_then(|()| file.write_all(b"\n"));
        match rename(template, name, refused, OsStr::new(&to)) {
            Ok(()) => {}
            Err(error) => {
                remove(refused, OsStr::new(&note));
                if error.kind() == io::ErrorKind::AlreadyExists {
                    continue;
                }
                return Err(error);
            }
        }
        if name == OsStr::new(base) {
            // Usually there is nothing beside it.
            let _ = rename(template, &beside(base), refused, &beside(&to));
        }
        return Ok(());
    }
    Err(io::Error::other(format!("there are {MOST_NUMBERS} of this name")))
}

fn beside(name: &str) -> OsString {
    format!("{name}{ENDING}").into()
}

fn in_short(why: &str) -> &str {
    let end = (0..=LONGEST_NOTE.min(why.len())).rev().find(|&end| why.is_char_boundary(end));
    &why[..end.unwrap_or_default()]
}

/// Renames without overwriting.
fn rename(from: &OwnedFd, name: &OsStr, to: &OwnedFd, new: &OsStr) -> io::Result<()> {
    use rustix::io::Errno;
    match renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // Not every file system can do that at once.
        Err(Errno::INVAL | Errno::NOSYS) => match safe_path::look(to, new) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(renameat(from, name, to, new).map_err(io::Error::from)?)
            }
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        },
        renamed => Ok(renamed?),
    }
}

fn remove(folder: &OwnedFd, name: &OsStr) {
    let removed = unlinkat(folder, name, UnlinkatFlags::NoRemoveDir);
    if removed == Err(Errno::EISDIR) {
        // One that is not empty is left alone.
        let _ = unlinkat(folder, name, UnlinkatFlags::RemoveDir);
    }
}

/// What was refused together.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    /// When, in seconds and nanoseconds since 1970.
    written: Option<(i64, u32)>,
    names: Vec<OsString>,
}

/// Removes the oldest if there are too many. Returns how many there are.
pub fn prune(folder: &OwnedFd) -> io::Result<usize> {
    let names = fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))?.map(|entry| Ok(entry?.file_name()));
    let names: Vec<OsString> = names.collect::<io::Result<_>>()?;
    if names.len() <= MOST {
        return Ok(names.len());
    }
    // What belongs together goes together, by the time of its note.
    let mut groups: BTreeMap<OsString, Group> = BTreeMap::new();
    for name in &names {
        let text = name.to_string_lossy();
        let stem = [NOTE, ENDING].iter().find_map(|ending| text.strip_suffix(ending));
        let group = groups.entry(stem.map_or_else(|| name.clone(), OsString::from)).or_default();
        if text.ends_with(NOTE) || group.written.is_none() && stem.is_none() {
            group.written = safe_path::look(folder, name).ok().map(|look| look.version.written);
        }
        group.names.push(name.clone());
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort();
    let mut left = names.len();
    for Group { names, .. } in groups {
        if left <= LEFT {
            break;
        }
        left -= names.len();
        for name in names {
            remove(folder, &name);
        }
    }
    Ok(left)
}
