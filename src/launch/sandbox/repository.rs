//! The git repository that a working directory is in, and what of it a sandboxed agent may write.
//!
//! The agent commits, so the git directory is writable. Its hooks and configuration are not: git runs what they name, also as
//! another user who uses the repository later. Neither are the git directories of other worktrees and submodules in it, which have
//! configurations of their own; only submodules of the agent's own working tree are writable, without hooks and configuration. Each git directory is a mount of its own, so that it cannot be renamed and replaced by another one
//! with other hooks. What git would obey if it were there is made first, because only what exists can be mounted over.
//!
//! A `.git` file names a git directory anywhere, and an agent may have written that file. So it counts only if the git directory
//! names the working tree, too, as those of `git worktree` do: only somebody who could write there anyway can have made it so. The
//! git directory of a submodule counts if it is in the repository around it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sys::regular_file;
use crate::sys::repository::{self as owners, is_git_dir, named_in};

/// The longest configuration that is looked at.
const MOST_CONFIG: u64 = 1 << 20;

/// What only the owner of a repository may change: what git runs, and where it looks for that.
const RUN_BY_GIT: [(&str, Absent); 7] = [
    ("hooks", Absent::Folder),
    ("worktrees", Absent::Folder),
    ("modules", Absent::Folder),
    ("config.worktree", Absent::File),
    ("config", Absent::Stays),
    ("commondir", Absent::Stays),
    ("gitdir", Absent::Stays),
];

/// The most git directories of submodules that are writable. Others are read-only.
const MOST_MODULES: usize = 64;

/// How deep the name of a submodule may be.
const DEEPEST_MODULE: u32 = 8;

/// What happens to a file that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    Stays,
    /// An empty one is made.
    File,
    Folder,
}

/// A repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Repository {
    /// The top of the working tree.
    pub top: Option<PathBuf>,
    /// The git directories.
    pub writable: Vec<PathBuf>,
    /// What of them is not to be changed.
    pub read_only: Vec<PathBuf>,
}

/// Finds the repository that the working directory is in.
///
/// Both paths have no links. The home and what is above it are nobody's working tree here: all of it would be shown. Neither is a
/// folder above that is another user's, unless the entry `trusts` that, or one that everybody can write to: whoever made the
/// repository there would decide what git runs.
pub(super) fn find(workdir: &Path, home: &Path, trusts: bool) -> Result<Option<Repository>, String> {
    for top in workdir.ancestors() {
        if home.starts_with(top) {
            break;
        }
        let git = top.join(".git");
        let Ok(metadata) = fs::symlink_metadata(&git) else { continue };
        if top != workdir && (is_everybodys(top) || !trusts && is_anothers(workdir)) {
            break;
        }
        if metadata.is_symlink() {
            return Err(is_link(&git));
        }
        let mut repository = Repository { top: Some(top.to_owned()), ..Repository::default() };
        let is_found = if metadata.is_dir() {
            is_git_dir(&git) && repository.add_with_modules(&git)?
        } else {
            metadata.is_file() && repository.add_named(top, &git, home)?
        };
        return Ok(is_found.then_some(repository));
    }
    // An agent can make its working directory look like this, but only where it is in no other repository.
    if is_git_dir(workdir) {
        let mut bare = Repository::default();
        bare.add(workdir)?;
        return Ok(Some(bare));
    }
    Ok(None)
}

fn is_everybodys(folder: &Path) -> bool {
    fs::metadata(folder).map_or(true, |metadata| metadata.mode() & 0o002 != 0)
}

fn is_anothers(directory: &Path) -> bool {
    matches!(owners::look(directory), owners::Repository::OfAnother { .. })
}

fn is_link(path: &Path) -> String {
    format!(
        "{} is a link, which cannot be kept from being replaced; make it a file or folder of its own",
        path.display()
    )
}

impl Repository {
    /// Adds a git directory.
    fn add(&mut self, git: &Path) -> Result<bool, String> {
        self.writable.push(git.to_owned());
        for (name, absent) in RUN_BY_GIT {
            self.protect(git, name, absent)?;
        }
        Ok(true)
    }

    /// Adds a git directory with those of its submodules.
    fn add_with_modules(&mut self, git: &Path) -> Result<bool, String> {
        self.add(git)?;
        self.add_modules(&git.join("modules"), 0)?;
        Ok(true)
    }

    /// Adds the git directory of a worktree, whose hooks and configuration are those of the repository.
    fn add_worktree(&mut self, git: &Path) -> Result<(), String> {
        self.writable.push(git.to_owned());
        for (name, absent) in RUN_BY_GIT.into_iter().filter(|(name, _)| !["hooks", "worktrees"].contains(name)) {
            self.protect(git, name, absent)?;
        }
        self.add_modules(&git.join("modules"), 0)
    }

    /// Adds the git directories of submodules below this folder, whose names may have several parts.
    fn add_modules(&mut self, folder: &Path, depth: u32) -> Result<(), String> {
        let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
        let mut folders: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        folders.sort();
        for folder in folders {
            if self.writable.len() > MOST_MODULES || depth > DEEPEST_MODULE {
                return Ok(());
            } else if is_git_dir(&folder) {
                self.add_with_modules(&folder)?;
            } else {
                self.add_modules(&folder, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Adds what the `.git` file of a worktree or submodule names. Returns whether that can be believed.
    fn add_named(&mut self, top: &Path, file: &Path, home: &Path) -> Result<bool, String> {
        let Some(git) = named_in(file, b"gitdir: ").and_then(|path| top.join(path).canonicalize().ok()) else {
            return Ok(false);
        };
        // COMMON/worktrees/NAME
        let common = git.parent().filter(|parent| parent.ends_with("worktrees")).and_then(Path::parent);
        let names_back = || {
            named_in(&git.join("gitdir"), b"")
                .is_some_and(|back| git.join(back).canonicalize().is_ok_and(|back| back == *file))
        };
        if let Some(common) = common.filter(|common| is_git_dir(common) && !home.starts_with(common)) {
            if !names_back() {
                return Ok(false);
            }
            // Its submodules are of the main worktree.
            self.add(common)?;
            keep_main(common)?;
            self.protect(common, "commondir", Absent::Stays)?;
            self.add_worktree(&git)?;
            self.read_only.push(file.to_owned());
            return Ok(true);
        }
        let around = top.ancestors().skip(1).take_while(|above| !home.starts_with(above));
        let holds = |above: &Path| git.starts_with(above.join(".git/modules")) && is_git_dir(&above.join(".git"));
        let Some(above) = around.into_iter().find(|above| holds(above)).filter(|_| is_git_dir(&git)) else {
            return Ok(false);
        };
        self.top = Some(above.to_owned());
        self.add_with_modules(&git)?;
        self.read_only.push(file.to_owned());
        Ok(true)
    }

    /// Keeps something that git runs from being changed.
    fn protect(&mut self, git: &Path, name: &str, absent: Absent) -> Result<(), String> {
        let path = git.join(name);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                return Err(is_link(&path));
            }
            Ok(_) => self.read_only.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && absent != Absent::Stays => {
                if make(&path, absent, b"")? {
                    self.read_only.push(path);
                }
            }
            Err(_) => {}
        }
        Ok(())
    }
}

/// Makes what is absent. Returns whether it is there: where this user may not make it, neither may the agent.
fn make(path: &Path, absent: Absent, content: &[u8]) -> Result<bool, String> {
    let made = if absent == Absent::Folder {
        fs::create_dir(path)
    } else {
        fs::OpenOptions::new().write(true).create_new(true).open(path).and_then(|mut file| file.write_all(content))
    };
    match made {
        Ok(()) => Ok(true),
        // Another launcher was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            Ok(false)
        }
        Err(error) => Err(format!("{} cannot be made: {error}", path.display())),
    }
}

/// Keeps an agent in a linked worktree from giving the main one another configuration.
///
/// A file `commondir` in the git directory says where the configuration is. One that says "here" changes nothing but how git prints
/// the path of that folder, unless the repository is bare or has a working tree elsewhere: then git would not heed that anymore.
fn keep_main(common: &Path) -> Result<(), String> {
    let path = common.join("commondir");
    if !common.ends_with(".git") || fs::symlink_metadata(&path).is_ok() {
        return Ok(());
    }
    let Ok((config, _)) = regular_file::read(&common.join("config"), MOST_CONFIG) else { return Ok(()) };
    let config = String::from_utf8_lossy(&config).to_lowercase();
    let is_elsewhere = config.lines().any(|line| {
        let (key, value) = line.split_once('=').unwrap_or((line, "true"));
        key.trim() == "worktree" || (key.trim() == "bare" && value.trim() != "false")
    });
    if is_elsewhere {
        return Ok(());
    }
    // Complete at once, because git refuses to work with an empty one.
    let new = common.join(format!("commondir.{}", std::process::id()));
    if make(&new, Absent::File, b".\n")? {
        fs::rename(&new, &path).map_err(|error| format!("{} cannot be made: {error}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::process::Command;

    use nix::unistd::Uid;
    use tempfile::TempDir;

    use super::*;

    fn git(folder: &Path, words: &[&str]) {
        let mut command = Command::new("git");
        command.current_dir(folder).args([
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "protocol.file.allow=always",
        ]);
        command.args(words).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", "/nonexistent");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    struct Place {
        folder: TempDir,
        root: PathBuf,
    }

    /// A repository `repo` with the folder `sub`.
    fn place() -> Place {
        let folder = TempDir::new().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("repo/sub")).unwrap();
        fs::create_dir_all(root.join("home")).unwrap();
        git(&root.join("repo"), &["init", "-q"]);
        git(&root.join("repo"), &["commit", "-q", "--allow-empty", "-m", "x"]);
        Place { folder, root }
    }

    impl Place {
        fn find(&self, workdir: &str) -> Option<Repository> {
            assert!(self.folder.path().is_dir());
            find(&self.root.join(workdir), &self.root.join("home"), false).unwrap()
        }

        fn paths(&self, paths: &[&str]) -> Vec<PathBuf> {
            paths.iter().map(|path| self.root.join(path)).collect()
        }
    }

    #[test]
    fn a_git_dir_is_writable_but_for_what_git_runs() {
        let place = place();
        let expected = Repository {
            top: Some(place.root.join("repo")),
            writable: place.paths(&["repo/.git"]),
            read_only: place.paths(&[
                "repo/.git/hooks",
                "repo/.git/worktrees",
                "repo/.git/modules",
                "repo/.git/config.worktree",
                "repo/.git/config",
            ]),
        };
        assert_eq!(place.find("repo"), Some(expected.clone()));
        assert_eq!(place.find("repo/sub"), Some(expected.clone()));
        fs::remove_dir_all(place.root.join("repo/.git/hooks")).unwrap();
        assert_eq!(place.find("repo"), Some(expected));
        assert_eq!(place.find("home"), None);
    }

    #[test]
    fn a_worktree_has_its_own_git_dir_and_the_common_one() {
        let place = place();
        git(&place.root.join("repo"), &["worktree", "add", "-q", "../tree"]);
        git(&place.root.join("repo"), &["worktree", "add", "-q", "../other"]);
        let found = place.find("tree").unwrap();
        assert_eq!(found.writable, place.paths(&["repo/.git", "repo/.git/worktrees/tree"]));
        let own = ["modules", "config.worktree", "commondir", "gitdir"].map(|name| format!("worktrees/tree/{name}"));
        let common = ["hooks", "worktrees", "modules", "config.worktree", "config", "commondir"].map(String::from);
        for path in common.iter().chain(&own).map(|name| place.root.join("repo/.git").join(name)) {
            assert!(found.read_only.contains(&path) && path.exists(), "{} in {found:?}", path.display());
        }
        assert!(found.read_only.contains(&place.root.join("tree/.git")));
        assert!(!place.root.join("repo/.git/worktrees/other/config.worktree").exists());
    }

    #[test]
    fn what_is_made_in_a_git_dir_changes_nothing_for_git() {
        let place = place();
        let repository = place.root.join("repo");
        git(&repository, &["worktree", "add", "-q", "../tree"]);
        place.find("tree").unwrap();
        assert_eq!(fs::read(repository.join(".git/commondir")).unwrap(), b".\n");
        git(&repository, &["commit", "-q", "--allow-empty", "-m", "y"]);
        git(&repository, &["worktree", "add", "-q", "../more"]);
        git(&repository, &["sparse-checkout", "set", "sub"]);
        git(&repository, &["diff", "--exit-code", "master", "more"]);
        git(&repository, &["-C", "../tree", "commit", "-q", "--allow-empty", "-m", "z"]);
        git(&repository, &["gc", "-q"]);
        git(&repository, &["fsck"]);
    }

    #[test]
    fn git_dirs_without_a_tree_beside_them_keep_their_common_dir() {
        let place = place();
        git(&place.root, &["clone", "-q", "--bare", "repo", "bare/.git"]);
        git(&place.root.join("bare/.git"), &["worktree", "add", "-q", "../../of-bare"]);
        git(&place.root.join("repo"), &["worktree", "add", "-q", "../tree"]);
        git(&place.root.join("repo"), &["config", "core.worktree", ".."]);
        for tree in ["of-bare", "tree"] {
            place.find(tree).unwrap();
        }
        assert!(!place.root.join("bare/.git/commondir").exists() && !place.root.join("repo/.git/commondir").exists());
    }

    #[test]
    fn a_submodule_has_its_git_dir() {
        let place = place();
        git(&place.root, &["clone", "-q", "repo", "other"]);
        for name in ["module", "deep/module"] {
            git(&place.root.join("repo"), &["submodule", "--quiet", "add", "../other", name]);
        }
        let found = place.find("repo/module").unwrap();
        assert_eq!(found.writable, place.paths(&["repo/.git/modules/module"]));
        assert_eq!(found.top, Some(place.root.join("repo")));
        let around = place.find("repo").unwrap();
        let modules = ["repo/.git", "repo/.git/modules/deep/module", "repo/.git/modules/module"];
        assert_eq!(around.writable, place.paths(&modules));
        for name in ["hooks", "config", "config.worktree"] {
            let path = place.root.join("repo/.git/modules/deep/module").join(name);
            assert!(around.read_only.contains(&path), "{name} in {around:?}");
        }
        git(&place.root.join("repo"), &["commit", "-q", "-m", "modules"]);
        git(&place.root.join("repo"), &["worktree", "add", "-q", "../tree"]);
        let linked = place.find("tree").unwrap().writable;
        assert_eq!(linked, place.paths(&["repo/.git", "repo/.git/worktrees/tree"]), "these are of the main worktree");
    }

    #[test]
    fn a_git_file_that_an_agent_wrote_opens_nothing() {
        let place = place();
        let root = &place.root;
        git(&root.join("repo"), &["worktree", "add", "-q", "../tree"]);
        fs::create_dir_all(root.join("work/fake/worktrees/x")).unwrap();
        fs::write(root.join("work/fake/worktrees/x/gitdir"), root.join("work/.git").as_os_str().as_bytes()).unwrap();
        fs::write(root.join("work/fake/worktrees/x/commondir"), root.join("home").as_os_str().as_bytes()).unwrap();
        let repository = root.join("repo/.git");
        for target in
            [&root.join("home"), &repository, &repository.join("worktrees/tree"), &root.join("work/fake/worktrees/x")]
        {
            fs::write(root.join("work/.git"), [b"gitdir: ", target.as_os_str().as_bytes(), b"\n"].concat()).unwrap();
            assert_eq!(place.find("work"), None, "{}", target.display());
        }
    }

    #[test]
    fn a_folder_in_a_repository_is_no_bare_repository() {
        let place = place();
        let repository = place.root.join("repo");
        let before = place.find("repo");
        for folder in ["objects", "refs", "sub/objects", "sub/refs"] {
            fs::create_dir(repository.join(folder)).unwrap();
        }
        for head in ["HEAD", "sub/HEAD"] {
            fs::write(repository.join(head), "ref: refs/heads/x\n").unwrap();
        }
        assert_eq!((place.find("repo"), place.find("repo/sub")), (before.clone(), before));
        git(&place.root, &["clone", "-q", "--bare", "repo", "bare.git"]);
        assert_eq!(place.find("bare.git").unwrap().writable, place.paths(&["bare.git"]));
    }

    #[test]
    fn a_git_dir_that_is_a_link_is_refused() {
        let place = place();
        fs::rename(place.root.join("repo/.git"), place.root.join("repo/git")).unwrap();
        std::os::unix::fs::symlink("git", place.root.join("repo/.git")).unwrap();
        let error = find(&place.root.join("repo/sub"), &place.root.join("home"), false).unwrap_err();
        assert!(error.contains("repo/.git is a link"), "{error}");
    }

    #[test]
    fn a_repository_that_anybody_could_have_made_is_not_shown() {
        let place = place();
        let top = place.root.join("repo");
        for (mode, is_shown) in [(0o777, false), (0o1777, false), (0o775, true)] {
            fs::set_permissions(&top, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(place.find("repo/sub").is_some(), is_shown, "{mode:o}");
        }
        if Uid::effective().is_root() {
            for path in [top.clone(), top.join(".git")] {
                chown(&path, Some(4321), None).unwrap();
            }
            let find =
                |workdir: &str, trusts| find(&place.root.join(workdir), &place.root.join("home"), trusts).unwrap();
            assert_eq!(find("repo/sub", false), None);
            assert!(find("repo/sub", true).is_some());
            assert!(find("repo", false).is_some(), "what is in the working directory is kept from being changed");
        }
    }

    #[test]
    fn a_home_is_no_working_tree() {
        let place = place();
        let workdir = place.root.join("repo/sub");
        assert_eq!(find(&workdir, &place.root.join("repo"), false).unwrap(), None);
        assert_eq!(find(&workdir, &place.root.join("repo/home"), false).unwrap(), None);
    }

    #[test]
    fn a_link_in_place_of_hooks_is_refused() {
        let place = place();
        fs::remove_dir_all(place.root.join("repo/.git/hooks")).unwrap();
        std::os::unix::fs::symlink("/etc", place.root.join("repo/.git/hooks")).unwrap();
        let error = find(&place.root.join("repo"), &place.root.join("home"), false).unwrap_err();
        assert!(error.contains("repo/.git/hooks is a link"), "{error}");
    }
}
