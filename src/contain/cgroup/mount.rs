//! The cgroup file system: its mount point, a process's group, a group's processes, and the names of groups.
//!
//! [`procfs`] parses the kernel's files; this module reads them, and decides.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::getpid;

use crate::sys::PathError;
use crate::sys::procfs::{self, Mount};

/// Why nothing is known about groups.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Version 2 is not mounted, or the mount does not show this process.
    #[error("no file system of type cgroup2 is mounted that has this process's own group")]
    NotMounted,
    /// The kernel refused something.
    #[error(transparent)]
    System(#[from] PathError),
}

/// Finds the mount that lists this process in the group with that path, and the group's directory in it. A mount that is covered
/// by another does not count.
pub(super) fn own(mounts: &[u8], path: &Path) -> Result<(Mount, PathBuf), Error> {
    let mut failure = Error::NotMounted;
    for mount in Mount::all(mounts).into_iter().rev() {
        let Some(own) = mount.place(path) else { continue };
        match processes(&own) {
            Ok(all) if all.contains(&getpid().as_raw()) => return Ok((mount, own)),
            Ok(_) => {}
            Err(PathError { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            // Whether it is this mount could not be determined.
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

/// The path of a process's group, in its namespace.
pub(super) fn group_of(process: &str) -> Result<PathBuf, Error> {
    let groups = read(Path::new(&format!("/proc/{process}/cgroup")))?;
    procfs::group(&groups).ok_or(Error::NotMounted)
}

/// The processes directly in a group. A process that another process namespace hides has the number 0 and is left out.
pub(super) fn processes(group: &Path) -> Result<BTreeSet<i32>, PathError> {
    let path = group.join("cgroup.procs");
    let all = procfs::numbers(&read(&path)?);
    let unreadable = || PathError::new("understand", path, io::ErrorKind::InvalidData);
    Ok(all.ok_or_else(unreadable)?.into_iter().filter(|&pid| pid > 0).collect())
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, PathError> {
    procfs::read(path).map_err(PathError::of("read", path))
}

/// Escapes an absolute path as a file name, as `systemd-escape(1)` does: different paths have different names.
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
    fn different_state_directories_have_different_groups() {
        assert_eq!(escape(Path::new("/var/lib/agentd")), "var-lib-agentd");
        let paths = ["/a/b", "/a-b", "/a\\x2db", "/a/b/", "/a b", "/ä"];
        let names: BTreeSet<String> = paths.iter().map(|path| escape(Path::new(path))).collect();
        assert_eq!(names.len(), paths.len(), "{names:?}");
        let odd = escape(Path::new(OsStr::from_bytes(b"/\xff\n/..")));
        assert!(!odd.contains('/') && odd.is_ascii() && odd != "..", "{odd}");
    }
}
