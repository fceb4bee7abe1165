//! The file system of control groups: where it is mounted, which group a process is in, who is in a group, and what a group may be
//! called.
//!
//! [`procfs`] parses what the kernel says; this asks, and decides.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::getpid;

use crate::sys::PathError;
use crate::sys::procfs::{self, Mount};

/// Why nothing is known of groups.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no version 2, or it does not show this process.
    #[error("no file system of type cgroup2 is mounted that has this process's own group")]
    NotMounted,
    /// The kernel refused something.
    #[error(transparent)]
    System(#[from] PathError),
}

/// The mount that lists this process, whose group has that path, and the group's place in it. One that is covered by another mount
/// does not.
pub(super) fn own(mounts: &[u8], path: &Path) -> Result<(Mount, PathBuf), Error> {
    let mut failure = Error::NotMounted;
    for mount in Mount::all(mounts).into_iter().rev() {
        let Some(own) = mount.place(path) else { continue };
        match processes(&own) {
            Ok(all) if all.contains(&getpid().as_raw()) => return Ok((mount, own)),
            Ok(_) => {}
            Err(PathError { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            // Whether it is the one could not be found out.
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

/// The path of a process's group, as its name space has it.
pub(super) fn group_of(process: &str) -> Result<PathBuf, Error> {
    let groups = read(Path::new(&format!("/proc/{process}/cgroup")))?;
    procfs::group(&groups).ok_or(Error::NotMounted)
}

/// Those directly in a group. What another process namespace hides has the number 0 and is left out.
pub(super) fn processes(group: &Path) -> Result<BTreeSet<i32>, PathError> {
    let path = group.join("cgroup.procs");
    let all = procfs::numbers(&read(&path)?);
    let unreadable = || PathError::new("understand", path, io::ErrorKind::InvalidData);
    Ok(all.ok_or_else(unreadable)?.into_iter().filter(|&pid| pid > 0).collect())
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, PathError> {
    procfs::read(path).map_err(PathError::of("read", path))
}

/// An absolute path as the name of a file, as `systemd-escape(1)` writes it: no two paths have one name.
pub(super) fn escape(path: &Path) -> String {
    let path = path.as_os_str().as_bytes();
    let bytes = path.strip_prefix(b"/").unwrap_or(path).iter();
    bytes
        .map(|&byte| match byte {
            b'/' => "-".to_owned(),
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("\\x{byte:02x}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn no_two_state_directories_have_one_group() {
        assert_eq!(escape(Path::new("/var/lib/agentd")), "var-lib-agentd");
        let paths = ["/a/b", "/a-b", "/a\\x2db", "/a/b/", "/a b", "/ä"];
        let names: BTreeSet<String> = paths.iter().map(|path| escape(Path::new(path))).collect();
        assert_eq!(names.len(), paths.len(), "{names:?}");
        let odd = escape(Path::new(OsStr::from_bytes(b"/\xff\n/..")));
        assert!(!odd.contains('/') && odd.is_ascii() && odd != "..", "{odd}");
    }
}
