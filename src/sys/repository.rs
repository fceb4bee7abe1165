//! Whose the git repository around a directory is. Looks only; runs no git.
//!
//! Git refuses to work in a repository of another user ("dubious ownership"), because it runs what the configuration and hooks there
//! say. It looks at the working tree, the `.git` in it, and the git directory that this may name; so does this, with the common
//! directory of a worktree, too.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use super::regular_file;

/// The longest file that names a path.
const MOST: u64 = 8 << 10;

/// Permissions that let others replace what is in a directory, unless its sticky bit is set.
const WRITABLE_BY_OTHERS: u32 = 0o022;

const STICKY: u32 = 0o1000;

/// The repository that a directory is in, as git of this process's user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repository {
    /// There is none, or it is this user's own.
    Usable,
    /// It is root's, where nobody else can put another one: these directories.
    OfRoot(Vec<PathBuf>),
    /// It is another user's, or somebody else could replace it.
    OfAnother {
        /// Its directories.
        directories: Vec<PathBuf>,
        /// What keeps it from being trusted, as a sentence without its full stop.
        why: String,
    },
}

/// Looks for the repository that this directory is in.
pub fn look(directory: &Path) -> Repository {
    let Some(parts) = directory.canonicalize().ok().and_then(|real| parts(&real)) else { return Repository::Usable };
    judge(&parts, Uid::effective().as_raw())
}

/// The directories of a repository, and the files that lead from one to the next.
#[derive(Debug, Default)]
struct Parts {
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

fn parts(directory: &Path) -> Option<Parts> {
    directory.ancestors().find_map(|top| {
        let git = top.join(".git");
        match fs::metadata(&git) {
            Ok(metadata) if metadata.is_dir() && is_git_dir(&git) => {
                Some(Parts::of(top, vec![git.clone()], git.canonicalize().ok()?))
            }
            Ok(metadata) if metadata.is_file() => {
                let named = named_in(&git, b"gitdir: ").and_then(|path| top.join(path).canonicalize().ok())?;
                Some(Parts::of(top, vec![git], named))
            }
            _ if is_git_dir(top) => Some(Parts::of(top, Vec::new(), top.to_owned())),
            _ => None,
        }
    })
}

impl Parts {
    fn of(top: &Path, files: Vec<PathBuf>, git: PathBuf) -> Self {
        let common = named_in(&git.join("commondir"), b"").and_then(|path| git.join(path).canonicalize().ok());
        let mut directories = vec![top.to_owned(), git];
        directories.extend(common);
        directories.dedup();
        Self { directories, files }
    }
}

/// Whether this looks like a git directory to git itself.
pub fn is_git_dir(path: &Path) -> bool {
    path.join("HEAD").is_file() && path.join("objects").is_dir() && path.join("refs").is_dir()
}

fn judge(Parts { directories, files }: &Parts, own: u32) -> Repository {
    let owners =
        directories.iter().chain(files).filter_map(|path| Some((path, fs::symlink_metadata(path).ok()?.uid())));
    let foreign: Vec<(&PathBuf, u32)> = owners.filter(|&(_, owner)| owner != own).collect();
    if foreign.is_empty() {
        return Repository::Usable;
    }
    let theirs = foreign.iter().find(|&&(_, owner)| owner != 0);
    let why = theirs.map(|(path, owner)| format!("{} belongs to the user with uid {owner}", path.display()));
    match why.or_else(|| directories.iter().find_map(|directory| replaceable(directory, &tops(directories), own))) {
        None => Repository::OfRoot(directories.clone()),
        Some(why) => Repository::OfAnother { directories: directories.clone(), why },
    }
}

/// The working trees of a repository: who may write in root's is root's to say.
fn tops(directories: &[PathBuf]) -> Vec<&Path> {
    let main = directories.last().filter(|common| common.ends_with(".git")).and_then(|common| common.parent());
    directories.first().map(PathBuf::as_path).into_iter().chain(main).collect()
}

/// Why somebody who is neither root nor this user could put something else in place of this directory.
fn replaceable(directory: &Path, tops: &[&Path], own: u32) -> Option<String> {
    let above = directory.ancestors().skip(1).filter(|above| !tops.iter().any(|top| above.starts_with(top)));
    let is_open = |metadata: &Metadata| {
        let is_others = ![0, own].contains(&metadata.uid());
        is_others || metadata.mode() & WRITABLE_BY_OTHERS != 0 && metadata.mode() & STICKY == 0
    };
    above.filter(|above| fs::metadata(above).map_or(true, |metadata| is_open(&metadata))).last().map(|above| {
        format!(
            "{} belongs to root, but others can replace it, because they can write to {}",
            directory.display(),
            above.display()
        )
    })
}

/// The path in a file that consists of this word and a path.
pub fn named_in(file: &Path, word: &[u8]) -> Option<PathBuf> {
    let (text, _) = regular_file::read(file, MOST).ok()?;
    let path = text.strip_prefix(word)?;
    let path = path.strip_suffix(b"\n").unwrap_or(path);
    (!path.is_empty()).then(|| OsStr::from_bytes(path).into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;

    fn git(folder: &Path, words: &[&str]) {
        let mut command = Command::new("git");
        command.current_dir(folder).args(["-c", "user.name=a", "-c", "user.email=a@b"]);
        command.args(words).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", "/nonexistent");
        assert!(command.status().unwrap().success());
    }

    /// A repository `repo` with the folder `sub`, and a worktree `tree` of it.
    fn place() -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("repo/sub")).unwrap();
        git(&root.join("repo"), &["init", "-q"]);
        git(&root.join("repo"), &["commit", "-q", "--allow-empty", "-m", "x"]);
        git(&root.join("repo"), &["worktree", "add", "-q", "../tree"]);
        (folder, root)
    }

    fn own() -> u32 {
        Uid::effective().as_raw()
    }

    #[test]
    fn the_parts_are_those_that_git_uses() {
        let (_folder, root) = place();
        let of = |path: &str| parts(&root.join(path)).unwrap().directories;
        let all = |paths: &[&str]| paths.iter().map(|path| root.join(path)).collect::<Vec<_>>();
        assert_eq!(of("repo/sub"), all(&["repo", "repo/.git"]));
        assert_eq!(of("tree"), all(&["tree", "repo/.git/worktrees/tree", "repo/.git"]));
        assert_eq!(of("repo/.git"), all(&["repo/.git"]));
        assert_eq!(tops(&of("tree")), [root.join("tree"), root.join("repo")]);
        assert_eq!(look(&root.join("repo/sub")), Repository::Usable);
        assert_eq!(look(&root), Repository::Usable);
    }

    #[test]
    fn a_repository_of_another_user_is_not_usable() {
        let (_folder, root) = place();
        let parts = parts(&root.join("tree")).unwrap();
        let other = own() + 1;
        match judge(&parts, other) {
            Repository::OfAnother { directories, why } if own() != 0 => {
                assert_eq!(directories, parts.directories);
                assert!(why.contains("tree belongs to the user with uid"), "{why}");
            }
            Repository::OfRoot(directories) if own() == 0 => assert_eq!(directories, parts.directories),
            judged => panic!("{judged:?}"),
        }
    }

    #[test]
    fn a_directory_that_others_can_replace_is_not_trusted() {
        let (_folder, root) = place();
        assert_eq!(replaceable(&root.join("repo"), &[&root.join("repo")], own()), None);
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
        let why = replaceable(&root.join("repo"), &[&root.join("repo")], own()).unwrap();
        assert!(why.ends_with(&format!("because they can write to {}", root.display())), "{why}");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(replaceable(&root.join("repo"), &[&root.join("repo")], own()), None);
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(replaceable(&root.join("repo"), &[&root.join("repo")], own() + 1).is_some() == (own() != 0));
    }
}
