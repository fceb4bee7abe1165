//! The homes of sandboxed agents: folders that outlive their attempts, and what a new one is filled with.
//!
//! A kept home is `~/.local/state/agentd/homes/NAME`. It is filled by copy when it is made, and never again: what the agent changes
//! in it stays there, and the user's own files stay as they are. Links are copied as links and not followed, and copies are their
//! owner's only. A new home is filled under another name first, so that one that is there was filled completely.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::Uid;

use crate::sys::tree;

/// Where kept homes are, below the user's home.
pub(super) const FOLDER: &str = ".local/state/agentd/homes";

/// How much a home is filled with at most.
const MOST_BYTES: u64 = 256 << 20;

/// How many files that may be.
const MOST_FILES: u32 = 20_000;

/// How deep the folders may be.
const DEEPEST: u32 = 64;

/// Why there is no home.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is not a folder of this user", .0.display())]
    NotOwn(PathBuf),
    #[error(
        "{} is more than a home is filled with ({} MiB, {MOST_FILES} files); make its folder smaller, or name the folder in \
         `sandbox_read`, which shows it instead of a copy",
        .0.display(),
        MOST_BYTES >> 20
    )]
    TooMuch(PathBuf),
}

fn at(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path: path.clone(), source }
}

/// Where the kept home of this agent is, or would be. Names that differ only in case are one agent.
pub(super) fn place(home: &Path, agent: &str) -> PathBuf {
    home.join(FOLDER).join(agent.to_ascii_lowercase())
}

/// The kept home of this agent, which is made and filled by this if it is not there.
pub(super) fn kept(home: &Path, agent: &str, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<PathBuf, Error> {
    let folder = home.join(FOLDER);
    make_folder_of_all(home).map_err(at(&folder))?;
    let path = place(home, agent);
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_dir() && metadata.uid() == Uid::effective().as_raw() => return Ok(path),
        Ok(_) => return Err(Error::NotOwn(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(&path)(error)),
    }
    // No agent has a name with a dot. A launcher that was killed has left one of this name.
    let new = folder.join(format!(".new-{}", agent.to_ascii_lowercase()));
    match tree::remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&new)(error)),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&new).map_err(at(&new))?;
    let filled = fill(&new).and_then(|()| fs::rename(&new, &path).map_err(at(&path)));
    if filled.is_err() {
        let _ = tree::remove(&new);
    }
    filled.map(|()| path)
}

/// Makes the folder of all kept homes, if the home itself is there.
pub(super) fn make_folder_of_all(home: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(home.join(FOLDER))
}

/// What of a seed is copied: not what the sandbox shows itself.
pub(super) fn not_shown<'a>(home: &Path, seed: &[PathBuf], shown: impl Iterator<Item = &'a PathBuf>) -> Vec<PathBuf> {
    let shown: Vec<&PathBuf> = shown.collect();
    let is_copied = |path: &&PathBuf| !shown.iter().any(|shown| home.join(path).starts_with(shown));
    seed.iter().filter(is_copied).cloned().collect()
}

/// Writes git's configuration for a new home, unless that has been copied.
pub(super) fn write_git_config(home: &Path, text: &str) -> Result<(), Error> {
    let path = home.join(".gitconfig");
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        file => file.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes())).map_err(at(&path)),
    }
}

/// Copies the paths below one home to the other, as far as they exist.
pub(super) fn fill(from: &Path, to: &Path, seed: &[PathBuf]) -> Result<(), Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let home = match nix::fcntl::open(from, flags, Mode::empty()) {
        // Who has no home has no login either.
        Err(Errno::ENOENT) => return Ok(()),
        home => home.map_err(|errno| at(from)(errno.into()))?,
    };
    let mut copy = Copy { bytes: 0, files: 0 };
    for path in seed {
        let names: Vec<&OsStr> = path.components().filter_map(normal).collect();
        if names.len() == path.components().count() {
            copy.along(&home, from, to, &names)?;
        }
    }
    Ok(())
}

fn normal(component: Component<'_>) -> Option<&OsStr> {
    match component {
        Component::Normal(name) => Some(name),
        _ => None,
    }
}

struct Copy {
    bytes: u64,
    files: u32,
}

impl Copy {
    /// Copies what is at the end of these names.
    fn along(&mut self, folder: &OwnedFd, from: &Path, to: &Path, names: &[&OsStr]) -> Result<(), Error> {
        let Some((name, rest)) = names.split_first() else { return Ok(()) };
        let (from, to) = (from.join(name), to.join(name));
        if rest.is_empty() {
            return self.copy(folder, name, &from, &to, 0);
        }
        match open_folder(folder, name) {
            Ok(below) => {
                make_folder(&to)?;
                self.along(&below, &from, &to, rest)
            }
            // A link on the way is not followed.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(()),
            Err(errno) => Err(at(&from)(errno.into())),
        }
    }

    fn copy(&mut self, folder: &OwnedFd, name: &OsStr, from: &Path, to: &Path, depth: u32) -> Result<(), Error> {
        let failed = |errno: Errno| at(from)(errno.into());
        let status = match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(()),
            status => status.map_err(failed)?,
        };
        self.files += 1;
        if self.files > MOST_FILES || depth > DEEPEST {
            return Err(Error::TooMuch(from.to_owned()));
        }
        match SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => {
                make_folder(to)?;
                let below = open_folder(folder, name).map_err(failed)?;
                let readable =
                    openat(&below, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
                let entries: Vec<OsString> =
                    names(Dir::from_fd(readable.map_err(failed)?).map_err(failed)?).map_err(failed)?;
                entries.iter().try_for_each(|name| self.copy(&below, name, &from.join(name), &to.join(name), depth + 1))
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(folder, name).map_err(failed)?;
                match symlink(target, to) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(to)(error)),
                    _ => Ok(()),
                }
            }
            SFlag::S_IFREG => {
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let source = openat(folder, name, flags, Mode::empty()).map_err(failed)?;
                self.copy_file(File::from(source), from, to)
            }
            // Sockets and the like are of no use to anybody else.
            _ => Ok(()),
        }
    }

    fn copy_file(&mut self, mut source: File, from: &Path, to: &Path) -> Result<(), Error> {
        let metadata = source.metadata().map_err(at(from))?;
        self.bytes = self.bytes.saturating_add(metadata.len());
        if self.bytes > MOST_BYTES {
            return Err(Error::TooMuch(from.to_owned()));
        }
        let mode = 0o600 | metadata.mode() & 0o100;
        let mut options = OpenOptions::new();
        let target = options.write(true).create_new(true).mode(mode).open(to);
        let mut target = match target {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            target => target.map_err(at(to))?,
        };
        // Not more than was there, should it grow.
        io::copy(&mut io::Read::take(&mut source, metadata.len()), &mut target).map_err(at(to)).map(drop)
    }
}

fn open_folder(folder: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(folder, name, flags, Mode::empty())
}

fn make_folder(path: &Path) -> Result<(), Error> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(path)(error)),
        _ => Ok(()),
    }
}

fn names(mut folder: Dir) -> nix::Result<Vec<OsString>> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = Vec::new();
    for entry in folder.iter() {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    fn paths(paths: &[&str]) -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    fn kept(home: &Path, agent: &str, seed: &[PathBuf]) -> Result<PathBuf, Error> {
        super::kept(home, agent, |new| fill(home, new, seed))
    }

    #[test]
    fn what_a_sandbox_shows_is_not_copied() {
        let (seed, shown) = (paths(&[".x/skills", ".x/login", ".y"]), paths(&["/home/a/.x/skills", "/home/a/.y/z"]));
        assert_eq!(not_shown(Path::new("/home/a"), &seed, shown.iter()), paths(&[".x/login", ".y"]));
        assert_eq!(not_shown(Path::new("/home/a"), &seed, paths(&["/home/a/.x"]).iter()), paths(&[".y"]));
    }

    #[test]
    fn a_git_config_that_was_copied_is_kept() {
        let home = TempDir::new().unwrap();
        write_git_config(home.path(), "first").unwrap();
        write_git_config(home.path(), "second").unwrap();
        let path = home.path().join(".gitconfig");
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_kept_home_is_filled_once() {
        let home = TempDir::new().unwrap();
        let file = |name: &str| home.path().join(name);
        fs::create_dir_all(file(".x/deep")).unwrap();
        fs::write(file(".x/deep/login"), "token").unwrap();
        fs::set_permissions(file(".x/deep/login"), fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(file(".x/other"), "").unwrap();
        let made = kept(home.path(), "Reviewer", &paths(&[".x/deep", ".y/none", "none"])).unwrap();
        assert_eq!(made, home.path().join(FOLDER).join("reviewer"));
        assert_eq!(fs::read_to_string(made.join(".x/deep/login")).unwrap(), "token");
        assert!(!made.join(".x/other").exists() && !made.join(".y").exists());
        for (path, mode) in [("", 0o700), (".x", 0o700), (".x/deep/login", 0o600)] {
            assert_eq!(fs::metadata(made.join(path)).unwrap().mode() & 0o7777, mode, "{path}");
        }
        fs::write(made.join(".x/deep/login"), "changed").unwrap();
        assert_eq!(kept(home.path(), "reviewer", &paths(&[".x"])).unwrap(), made);
        assert_eq!(fs::read_to_string(made.join(".x/deep/login")).unwrap(), "changed");
        let names: Vec<_> =
            fs::read_dir(home.path().join(FOLDER)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["reviewer"]);
    }

    #[test]
    fn what_a_killed_launcher_left_of_a_new_home_is_removed() {
        let home = TempDir::new().unwrap();
        let folder = home.path().join(FOLDER);
        let killed = std::panic::catch_unwind(|| super::kept(home.path(), "a", |_| panic!("as if killed")));
        assert!(killed.is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::write(fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path().join("half"), "").unwrap();
        let made = kept(home.path(), "a", &[]).unwrap();
        assert_eq!((fs::read_dir(&folder).unwrap().count(), fs::read_dir(made).unwrap().count()), (1, 0));
    }

    #[test]
    fn a_link_out_of_the_home_is_not_followed() {
        let (home, outside, to) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        fs::write(outside.path().join("secret"), "x").unwrap();
        symlink(outside.path(), home.path().join("link")).unwrap();
        fs::create_dir(home.path().join("a")).unwrap();
        symlink(outside.path().join("secret"), home.path().join("a/secret")).unwrap();
        fill(home.path(), to.path(), &paths(&["link/secret", "link", "a", "../etc/passwd", "/etc/passwd"])).unwrap();
        assert!(!to.path().join("link").is_dir() || fs::symlink_metadata(to.path().join("link")).unwrap().is_symlink());
        assert!(fs::symlink_metadata(to.path().join("a/secret")).unwrap().is_symlink());
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 2);
    }

    #[test]
    fn who_has_no_home_gets_an_empty_one() {
        let to = TempDir::new().unwrap();
        fill(Path::new("/nonexistent/home"), to.path(), &paths(&[".x"])).unwrap();
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    }

    #[test]
    fn too_large_a_seed_makes_no_home() {
        let home = TempDir::new().unwrap();
        File::create(home.path().join("large")).unwrap().set_len(MOST_BYTES + 1).unwrap();
        let error = kept(home.path(), "a", &paths(&["large"])).unwrap_err().to_string();
        assert!(error.contains("large is more than a home is filled with"), "{error}");
        assert_eq!(fs::read_dir(home.path().join(FOLDER)).unwrap().count(), 0);
    }

    #[test]
    fn a_link_in_place_of_a_home_is_refused() {
        let home = TempDir::new().unwrap();
        fs::create_dir_all(home.path().join(FOLDER)).unwrap();
        symlink("/etc", home.path().join(FOLDER).join("a")).unwrap();
        assert!(matches!(kept(home.path(), "a", &[]), Err(Error::NotOwn(_))));
    }
}
