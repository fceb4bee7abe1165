//! The places of mounts that are in folders of the machine, where an engine would make them: in a kept home, say, or another folder
//! that the agent can write to.
//!
//! An engine follows links there, by the paths of its own root, in which the machine is below `/oldroot` for a while. So an agent
//! could have it make files and folders elsewhere. The launcher makes them itself, and passes no link that an agent can have placed.
//! What is replaced between that and the mount by another agent, which runs and can write to the same folder, is not noticed here:
//! an empty file or folder may be made elsewhere, and the process inside finds that what it expects is not at its place.

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag};

use super::mounts::{Place, Plan, What};
use crate::sys::steady_path::{self, Error};

/// The mode of folders that are made.
const MODE: Mode = Mode::S_IRWXU.union(Mode::S_IRGRP).union(Mode::S_IXGRP).union(Mode::S_IROTH).union(Mode::S_IXOTH);

/// Makes what is missing. Fails, in words for an operator, if the sandbox must not be made.
pub(super) fn make(plan: &Plan) -> Result<(), String> {
    plan.places().try_for_each(|place| {
        make_one(place).map_err(|why| format!("{} cannot be shown in the sandbox: {why}", place.mount.at.display()))
    })
}

fn make_one(place: Place<'_>) -> Result<(), String> {
    let Place { mount, folder, below, is_writable } = place;
    let is_file = matches!(mount.what, What::Bind { is_file: true, .. });
    let mode = is_writable.then_some(MODE);
    let words = |error: Error| match error {
        Error::Link(link) => format!("{} is a link, and its place is behind that; remove the link", link.display()),
        Error::System(error) => error.to_string(),
    };
    let found = match (below.parent(), below.file_name()) {
        (Some(above), Some(name)) if is_file && is_writable => {
            let above = steady_path::find_below(folder, above, mode).map_err(words)?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            match openat(&above.file, name, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
                Ok(_) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(format!("{}: {}", above.path.join(name).display(), errno.desc())),
            }
            steady_path::find_below(folder, below, None)
        }
        _ => steady_path::find_below(folder, below, mode),
    };
    let found = match found {
        // The engine says so in its own words.
        Err(Error::System(error)) if !is_writable && error.source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(());
        }
        found => found.map_err(words)?,
    };
    if (found.kind() == SFlag::S_IFDIR) == is_file {
        let what = if is_file { "a folder, and a file belongs there" } else { "a file, and a folder belongs there" };
        return Err(format!("{} is {what}; remove it", found.path.display()));
    }
    Ok(())
}
