//! Shows an agent its skills outside of a sandbox: by links that the launcher makes and removes, with the agent user's rights.
//!
//! Each attempt has a folder of links, whose path is in `AGENTD_SKILLS`. For a user of their own, agents also find links where their
//! harness looks for skills. Several agents share that folder, and its user may have skills there. So a list in it says which links
//! agentd has made, and for whom: these alone are removed, and what has a skill's name already is left alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::protocol::Taught;
use super::temporary_dir::{self, Scratch};
use crate::agent::skills::{PLACEHOLDER, Skill, is_name};
use crate::sys::secret_bytes::SecretBytes;

/// The folder beside the launch socket in which each attempt has one of its own.
const FOLDER: &str = "skills";

/// The list of the links that agentd has made, a line each: the agent, a space, and the name of the link.
const LIST: &str = ".agentd";

/// The longest list that is read.
const LONGEST_LIST: u64 = 1 << 20;

/// How long others may use the list: a few system calls each.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause between two looks whether they still do.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The skills that an attempt is shown. Dropping it removes them.
#[derive(Debug)]
pub(super) struct Skills {
    view: Scratch,
    /// The folder of the harness, if there are links in it.
    folder: Option<PathBuf>,
    agent: String,
    left_alone: Vec<String>,
}

impl Skills {
    /// Makes the links.
    pub fn show(taught: &Taught, launch_socket: &Path, agent: &str, home: Option<&OsStr>) -> io::Result<Self> {
        let base = launch_socket.parent().unwrap_or(Path::new("/")).join(FOLDER);
        make_folder(&base)?;
        temporary_dir::begin_removal_of_left(Some(base.as_os_str()), launch_socket, agent);
        let view = Scratch::make(Some(base.as_os_str()), launch_socket, agent)?;
        for Skill { name, folder } in &taught.skills {
            symlink(folder, view.path().join(name))?;
        }
        fs::set_permissions(view.path(), Permissions::from_mode(0o500))?;
        let mut skills = Self { view, folder: None, agent: agent.to_owned(), left_alone: Vec::new() };
        if let (Some(below), Some(home), true) = (&taught.folder, home, taught.is_own_user) {
            let folder = Path::new(home).join(below);
            match link(&folder, agent, &taught.skills) {
                Ok(left_alone) => {
                    let shown = folder.display();
                    let in_words =
                        |name: String| format!("the skill {name} is not linked: {shown}/{name} is there already");
                    skills.left_alone = left_alone.into_iter().map(in_words).collect();
                    skills.folder = Some(folder);
                }
                Err(error) => skills.left_alone.push(format!("{}: no skill is linked: {error}", folder.display())),
            }
        }
        Ok(skills)
    }

    /// The folder of links.
    pub fn path(&self) -> &Path {
        self.view.path()
    }

    /// What could not be shown where the harness looks, a sentence each.
    pub fn left_alone(&self) -> Vec<String> {
        self.left_alone.clone()
    }
}

impl Drop for Skills {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            // What is left is removed by the next attempt.
            let _ = link(folder, &self.agent, &[]);
        }
    }
}

/// Puts a path in place of `${AGENTD_SKILLS}`.
pub(super) fn fill_in(text: &mut SecretBytes, path: &[u8]) {
    let (from, placeholder) = (text.as_slice(), PLACEHOLDER.as_bytes());
    let Some(mut at) = from.windows(placeholder.len()).position(|window| window == placeholder) else { return };
    let (mut rest, mut filled) = (from, Vec::with_capacity(from.len() + path.len()));
    loop {
        filled.extend_from_slice(&rest[..at]);
        filled.extend_from_slice(path);
        rest = &rest[at + placeholder.len()..];
        match rest.windows(placeholder.len()).position(|window| window == placeholder) {
            Some(next) => at = next,
            None => break,
        }
    }
    filled.extend_from_slice(rest);
    *text = SecretBytes::from(filled);
}

fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Makes these the links of an agent in a folder of its harness. Returns the names of those whose place is taken.
fn link(folder: &Path, agent: &str, skills: &[Skill]) -> io::Result<Vec<String>> {
    if !skills.is_empty() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(!skills.is_empty())
        .mode(0o644)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    let mut list = match options.open(folder.join(LIST)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list?,
    };
    if !list.metadata()?.is_file() {
        return Err(io::Error::other(format!("{LIST} is no file")));
    }
    lock(&list, Instant::now() + LOCK_TIMEOUT)?;
    let before = read_list(&mut list)?;
    let mut after: BTreeSet<(String, String)> = before.iter().filter(|(of, _)| of != agent).cloned().collect();
    let mut left_alone = Vec::new();
    for Skill { name, folder: to } in skills {
        let at = folder.join(name);
        let is_own = before.iter().any(|(_, known)| known == name);
        match fs::symlink_metadata(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => symlink(to, &at)?,
            Ok(metadata) if is_own && metadata.is_symlink() => {
                if fs::read_link(&at)? != *to {
                    fs::remove_file(&at)?;
                    symlink(to, &at)?;
                }
            }
            Ok(_) => {
                left_alone.push(name.clone());
                continue;
            }
            Err(error) => return Err(error),
        }
        after.insert((agent.to_owned(), name.clone()));
    }
    // Noted before anything is removed: a link that is in no list would stay for ever.
    let gone = before.iter().filter(|(_, name)| !after.iter().any(|(_, kept)| kept == name));
    for (_, name) in gone {
        let at = folder.join(name);
        if fs::symlink_metadata(&at).is_ok_and(|metadata| metadata.is_symlink()) {
            fs::remove_file(&at)?;
        }
    }
    if after.is_empty() {
        fs::remove_file(folder.join(LIST))?;
    } else {
        write_list(&mut list, &after)?;
    }
    Ok(left_alone)
}

/// Waits for its turn with the list, for a bounded time: whoever else is this user could keep it.
fn lock(list: &File, limit: Instant) -> io::Result<()> {
    loop {
        match flock(list, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < limit => thread::sleep(LOCK_PAUSE),
            locked => return Ok(locked?),
        }
    }
}

fn read_list(list: &mut File) -> io::Result<BTreeSet<(String, String)>> {
    let mut bytes = Vec::new();
    list.take(LONGEST_LIST).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let line = |line: &str| {
        let (agent, name) = line.split_once(' ')?;
        is_name(name).then(|| (agent.to_owned(), name.to_owned()))
    };
    Ok(text.lines().filter_map(line).collect())
}

fn write_list(list: &mut File, links: &BTreeSet<(String, String)>) -> io::Result<()> {
    let mut text = String::new();
    for (agent, name) in links {
        // Writing to a string never fails.
        let _ = writeln!(text, "{agent} {name}");
    }
    list.rewind()?;
    list.set_len(0)?;
    list.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn skill(place: &Path, name: &str) -> Skill {
        fs::create_dir_all(place.join(name)).unwrap();
        Skill { name: name.to_owned(), folder: place.join(name) }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn links_are_removed_with_the_last_agent_that_has_them() {
        let place = TempDir::new().unwrap();
        let [one, two] = ["one", "two"].map(|name| skill(&place.path().join("source"), name));
        let folder = place.path().join("home/.claude/skills");
        assert_eq!(link(&folder, "a", &[one.clone(), two]).unwrap(), [""; 0]);
        assert_eq!(link(&folder, "b", &[one]).unwrap(), [""; 0]);
        assert_eq!(names(&folder), [".agentd", "one", "two"]);
        assert_eq!(link(&folder, "a", &[]).unwrap(), [""; 0]);
        assert_eq!(names(&folder), [".agentd", "one"]);
        assert_eq!(link(&folder, "b", &[]).unwrap(), [""; 0]);
        assert_eq!(names(&folder), [""; 0]);
    }

    #[test]
    fn what_its_user_has_there_is_left_alone() {
        let place = TempDir::new().unwrap();
        let [one, two] = ["one", "two"].map(|name| skill(&place.path().join("source"), name));
        let folder = place.path().join("skills");
        fs::create_dir_all(folder.join("one")).unwrap();
        symlink("/elsewhere", folder.join("two")).unwrap();
        assert_eq!(link(&folder, "a", &[one, two]).unwrap(), ["one", "two"]);
        assert_eq!(link(&folder, "a", &[]).unwrap(), [""; 0]);
        assert_eq!(fs::read_link(folder.join("two")).unwrap(), Path::new("/elsewhere"));
        assert!(folder.join("one").is_dir());
    }

    #[test]
    fn a_list_that_is_no_file_or_that_others_keep_is_not_waited_for() {
        let place = TempDir::new().unwrap();
        let one = [skill(&place.path().join("source"), "one")];
        let folder = place.path().join("skills");
        fs::create_dir(&folder).unwrap();
        let list = folder.join(LIST);
        nix::unistd::mkfifo(&list, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(link(&folder, "a", &one).unwrap_err().to_string(), ".agentd is no file");
        assert!(link(&folder, "a", &[]).is_err());
        fs::remove_file(&list).unwrap();
        symlink("/etc/passwd", &list).unwrap();
        assert!(link(&folder, "a", &one).is_err());
        fs::remove_file(&list).unwrap();
        let kept = File::create(&list).unwrap();
        flock(&kept, FlockOperation::LockExclusive).unwrap();
        assert_eq!(link(&folder, "a", &one).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(kept);
        assert_eq!(link(&folder, "a", &one).unwrap(), [""; 0]);
    }

    #[test]
    fn a_folder_that_became_the_users_own_is_not_removed() {
        let place = TempDir::new().unwrap();
        let one = skill(&place.path().join("source"), "one");
        let folder = place.path().join("skills");
        link(&folder, "a", &[one]).unwrap();
        fs::remove_file(folder.join("one")).unwrap();
        fs::create_dir(folder.join("one")).unwrap();
        link(&folder, "a", &[]).unwrap();
        assert!(folder.join("one").is_dir());
    }

    #[test]
    fn each_place_for_the_path_is_filled() {
        let filled = |text: &str| {
            let mut text = SecretBytes::from(text);
            fill_in(&mut text, b"/s");
            String::from_utf8(text.as_slice().to_vec()).unwrap()
        };
        assert_eq!(filled("${AGENTD_SKILLS}:x${AGENTD_SKILLS}"), "/s:x/s");
        assert_eq!(filled("$AGENTD_SKILLS ${OTHER}"), "$AGENTD_SKILLS ${OTHER}");
    }
}
