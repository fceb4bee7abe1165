//! Shows an agent its skills outside of a sandbox: by links that the launcher makes and removes, with the agent user's rights.
//!
//! Each attempt has a folder of links, whose path is in `AGENTD_SKILLS`. For a user of their own, agents also find links where their
//! harness looks for skills. Several agents share that folder, and its user may have skills there. So a list in it says which links
//! agentd has made, and for whom: these alone are removed, and what has a skill's name already is left alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};
use rustix::fs::{FlockOperation, flock};

use super::protocol::Taught;
use super::temporary_dir::{self, Scratch};
use crate::agent::skills::{PLACEHOLDER, Skill, is_name};
use crate::sys::file_id::FileId;
use crate::sys::secret_bytes::SecretBytes;

/// The folder beside the launch socket in which each attempt has one of its own.
const FOLDER: &str = "skills";

/// The list of the links that agentd has made, a line each: the agent, a space, and the name of the link.
const LIST: &str = ".agentd";

/// The next list, before it takes the place of the one that is there.
const NEW_LIST: &str = ".agentd.new";

/// How long another launcher may take to change the list.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two tries to lock it.
const PAUSE: Duration = Duration::from_millis(20);

/// The longest list that is read.
const LONGEST_LIST: u64 = 1 << 20;

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
///
/// The list names a link before it is made, and until it is removed: one that is not in the list would stay forever.
fn link(folder: &Path, agent: &str, skills: &[Skill]) -> io::Result<Vec<String>> {
    if !skills.is_empty() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    let Some(mut list) = open_list(folder, !skills.is_empty(), Instant::now() + PATIENCE)? else {
        return Ok(Vec::new());
    };
    let before = read_list(&mut list)?;
    let is_own = |name: &str| before.iter().any(|(_, known)| known == name);
    let mut after: BTreeSet<(String, String)> = before.iter().filter(|(of, _)| of != agent).cloned().collect();
    let mut left_alone = Vec::new();
    for Skill { name, .. } in skills {
        match fs::symlink_metadata(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(metadata) if !is_own(name) || !metadata.is_symlink() => left_alone.push(name.clone()),
            Ok(_) | Err(_) => {
                after.insert((agent.to_owned(), name.clone()));
            }
        }
    }
    let either: BTreeSet<(String, String)> = before.union(&after).cloned().collect();
    if either != before {
        write_list(folder, &either)?;
    }
    for Skill { name, folder: to } in skills.iter().filter(|skill| !left_alone.contains(&skill.name)) {
        let at = folder.join(name);
        match fs::read_link(&at) {
            Ok(there) if there == *to => continue,
            Ok(_) => fs::remove_file(&at)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        symlink(to, &at)?;
    }
    let gone = before.iter().filter(|(_, name)| !after.iter().any(|(_, kept)| kept == name));
    for (_, name) in gone {
        let at = folder.join(name);
        if fs::symlink_metadata(&at).is_ok_and(|metadata| metadata.is_symlink()) {
            fs::remove_file(&at)?;
        }
    }
    if after.is_empty() {
        fs::remove_file(folder.join(LIST))?;
    } else if after != either {
        write_list(folder, &after)?;
    }
    Ok(left_alone)
}

/// The list, locked; `None` if there is none, and none is to be made.
///
/// Whoever is the user can lock it, and keep it locked. Another launcher may have replaced or removed it before this one had the lock.
fn open_list(folder: &Path, is_made: bool, limit: Instant) -> io::Result<Option<File>> {
    let path = folder.join(LIST);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(is_made).mode(0o644).custom_flags(O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    loop {
        let list = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            list => list?,
        };
        if !list.metadata()?.is_file() {
            return Err(io::Error::other(format!("{} is not a regular file", path.display())));
        }
        match flock(&list, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_at(&list, &path)? => return Ok(Some(list)),
            Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= limit {
            return Err(io::Error::other(format!("{} is locked by another program", path.display())));
        }
        thread::sleep(PAUSE);
    }
}

fn is_at(list: &File, path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(there) => Ok(FileId::new(there.dev(), there.ino()) == FileId::of(list)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
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

/// Replaces the list as a whole, so that it is complete whenever this process is killed. Only who has the lock may do that.
fn write_list(folder: &Path, links: &BTreeSet<(String, String)>) -> io::Result<()> {
    let mut text = String::new();
    for (agent, name) in links {
        // Writing to a string never fails.
        let _ = writeln!(text, "{agent} {name}");
    }
    let new = folder.join(NEW_LIST);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o644).open(&new)?.write_all(text.as_bytes())?;
    fs::rename(&new, folder.join(LIST))
}

#[cfg(test)]
mod tests {
    use nix::unistd::mkfifo;
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
    fn a_list_that_somebody_keeps_locked_is_given_up() {
        let place = TempDir::new().unwrap();
        let one = skill(place.path(), "one");
        let folder = place.path().join("skills");
        link(&folder, "a", std::slice::from_ref(&one)).unwrap();
        let holder = File::open(folder.join(LIST)).unwrap();
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        let start = Instant::now();
        let error = open_list(&folder, true, start + PAUSE).unwrap_err();
        assert!(error.to_string().ends_with(".agentd is locked by another program"), "{error}");
        assert!(start.elapsed() < PATIENCE);
    }

    #[test]
    fn a_list_that_is_none_is_not_waited_for() {
        let place = TempDir::new().unwrap();
        mkfifo(&place.path().join(LIST), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = link(place.path(), "a", &[skill(&place.path().join("source"), "one")]).unwrap_err();
        assert!(error.to_string().ends_with("is not a regular file"), "{error}");
        fs::remove_file(place.path().join(LIST)).unwrap();
        symlink("/etc/passwd", place.path().join(LIST)).unwrap();
        assert!(link(place.path(), "a", &[]).is_err());
    }

    #[test]
    fn a_list_that_was_replaced_meanwhile_is_not_the_list() {
        let place = TempDir::new().unwrap();
        let (one, two) = (skill(place.path(), "one"), skill(place.path(), "two"));
        let folder = place.path().join("skills");
        link(&folder, "a", &[one]).unwrap();
        let held = open_list(&folder, true, Instant::now()).unwrap().unwrap();
        // Another launcher waits, while the one with the lock removes the list with the last of its links.
        let other = {
            let folder = folder.clone();
            thread::spawn(move || link(&folder, "b", &[two]))
        };
        thread::sleep(2 * PAUSE);
        fs::remove_file(folder.join("one")).unwrap();
        fs::remove_file(folder.join(LIST)).unwrap();
        drop(held);
        assert_eq!(other.join().unwrap().unwrap(), [""; 0]);
        assert_eq!(fs::read_to_string(folder.join(LIST)).unwrap(), "b two\n");
    }

    #[test]
    fn a_link_whose_maker_was_killed_is_in_the_list() {
        let place = TempDir::new().unwrap();
        let skills = ["one", "two"].map(|name| skill(&place.path().join("source"), name));
        let folder = place.path().join("skills");
        fs::create_dir_all(&folder).unwrap();
        write_list(&folder, &[("a".to_owned(), "one".to_owned()), ("a".to_owned(), "two".to_owned())].into()).unwrap();
        // The first link was made, and the second one was not.
        symlink(&skills[0].folder, folder.join("one")).unwrap();
        assert_eq!(link(&folder, "a", &skills).unwrap(), [""; 0]);
        assert_eq!(names(&folder), [".agentd", "one", "two"]);
        link(&folder, "a", &[]).unwrap();
        assert_eq!(names(&folder), [""; 0]);
    }

    #[test]
    fn a_link_is_listed_before_it_is_made() {
        let place = TempDir::new().unwrap();
        let one = skill(place.path(), "one");
        let folder = place.path().join("skills");
        // The list cannot be written.
        fs::create_dir_all(folder.join(NEW_LIST)).unwrap();
        assert!(link(&folder, "a", &[one]).is_err());
        assert!(!folder.join("one").exists(), "nothing is made that is in no list");
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
