//! Looks at the machine: finds the [facts](Facts) that a sandbox is planned from, and refuses paths that it must not have.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Uid};

use super::explain::KernelSettings;
use super::mounts::{self, Facts, Found};
use super::repository;
use crate::agent::sandbox::{Home, Network, Sandbox};
use crate::sys::regular_file;

/// The file that names the paths of the Nix store that sandboxes have, on systems that have it. All others are hidden then.
const CLOSURE: &str = "/etc/stereos/sandbox-closure.txt";

/// The longest such file.
const LONGEST_CLOSURE: u64 = 4 << 20;

/// Folders that the engine makes anew, so that nothing of them can be shown.
const MADE_ANEW: [&str; 3] = ["/proc", "/dev", "/sys"];

/// Whose sandbox it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner<'a> {
    pub user: &'a str,
    pub home: &'a Path,
    pub shell: &'a Path,
    /// Whether the entry trusts repositories of other users.
    pub trusts: bool,
}

/// What was made for the attempt.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub made_home: Option<PathBuf>,
    pub temporary: PathBuf,
    pub launcher: PathBuf,
    /// The socket behind which the proxy is.
    pub gate: Option<PathBuf>,
}

/// Finds the facts. Fails, in words for an operator, if the sandbox must not be made.
pub(super) fn look(
    sandbox: &Sandbox,
    owner: Owner<'_>,
    workdir: &Path,
    prepared: Prepared,
    hidden: Vec<PathBuf>,
) -> Result<Facts, String> {
    let real_workdir = workdir
        .canonicalize()
        .map_err(|error| format!("the workdir {} cannot be shown: {error}", workdir.display()))?;
    let real_home = owner.home.canonicalize().unwrap_or_else(|_| owner.home.to_owned());
    refuse_workdir(&real_workdir, &real_home, sandbox.home)?;
    let uid = Uid::effective().as_raw();
    let is_home = |path: &&PathBuf| **path == owner.home || **path == real_home;
    if let Some(path) = sandbox.read.iter().chain(&sandbox.write).find(is_home) {
        return Err(format!(
            "{} is the home of the agent user; write sandbox_home = \"real\" to show it",
            path.display()
        ));
    }
    sandbox.read.iter().try_for_each(|path| refuse("sandbox_read", path, &hidden, None))?;
    sandbox.write.iter().try_for_each(|path| refuse("sandbox_write", path, &hidden, Some(uid)))?;
    let repository = repository::find(&real_workdir, &real_home, owner.trusts)?;
    let mut files: BTreeSet<PathBuf> =
        sandbox.read.iter().chain(&sandbox.write).filter(|path| path.is_file()).cloned().collect();
    files.insert(prepared.launcher.clone());
    files.extend(prepared.gate.clone());
    let protected = repository.iter().flat_map(|repository| &repository.read_only);
    files.extend(protected.filter(|path| path.is_file()).cloned());
    let system: Vec<(PathBuf, Found)> = system();
    files.extend(system.iter().filter(|(_, found)| *found == Found::File).map(|(path, _)| path.clone()));
    let resolver = if sandbox.network == Network::Host { resolver() } else { None };
    files.extend(resolver.iter().filter(|(found, _)| *found == Found::File).map(|_| PathBuf::from("/etc/resolv.conf")));
    files.extend(resolver.iter().filter_map(|(_, below)| below.clone()).filter(|path| path.is_file()));
    Ok(Facts {
        uid,
        gid: Gid::effective().as_raw(),
        user: owner.user.to_owned(),
        home: owner.home.to_owned(),
        shell: owner.shell.to_owned(),
        workdir: workdir.to_owned(),
        real_workdir,
        system,
        resolver,
        closure: closure(Path::new(CLOSURE))?,
        repository,
        made_home: prepared.made_home,
        temporary: prepared.temporary,
        launcher: prepared.launcher,
        gate: prepared.gate,
        hidden,
        files,
    })
}

/// Refuses working directories that would show more than an agent works on.
fn refuse_workdir(workdir: &Path, home: &Path, kind: Home) -> Result<(), String> {
    let shown = workdir.display();
    if workdir == Path::new("/") || is_below_any(workdir, &MADE_ANEW) {
        return Err(format!("the workdir {shown} cannot be shown in a sandbox; work in a folder of your own"));
    }
    if home.starts_with(workdir) && kind != Home::Real {
        let right = "work in a folder below it, or write sandbox_home = \"real\"";
        return Err(format!(
            "the workdir {shown} holds the home of the agent user, which the sandbox keeps away; {right}"
        ));
    }
    Ok(())
}

fn is_below_any(path: &Path, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

/// Refuses what must not be shown, and for writing what is not this user's.
fn refuse(field: &str, path: &Path, hidden: &[PathBuf], writer: Option<u32>) -> Result<(), String> {
    let refusal = |why: &str| Err(format!("`{field}`: {} {why}", path.display()));
    if !path.is_absolute() || path.components().any(|component| component == Component::ParentDir) {
        return refusal("is not an absolute path without `..`");
    }
    if path == Path::new("/") {
        return refusal("is the whole machine; name what is needed of it");
    }
    if is_below_any(path, &MADE_ANEW) {
        return refusal("is made anew in every sandbox; no sandbox has the machine's own; remove it");
    }
    if hidden.iter().any(|hidden| hidden.starts_with(path) || path.starts_with(hidden)) {
        return refusal("holds what agentd itself uses; name a folder below it that agentd does not use, or remove it");
    }
    match path.canonicalize() {
        Ok(real) if real == path => {}
        Ok(real) => return refusal(&format!("leads through a link, which could be changed; write {}", real.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refusal("does not exist; make it, or remove it from the entry");
        }
        Err(error) => return refusal(&format!("cannot be shown: {error}")),
    }
    let metadata =
        path.metadata().map_err(|error| format!("`{field}`: {} cannot be shown: {error}", path.display()))?;
    if !metadata.is_dir() && !metadata.is_file() {
        return refusal("is neither a folder nor a regular file");
    }
    match writer {
        Some(uid) if metadata.uid() != uid => {
            refusal("belongs to another user; give it to the agent user (chown), or use sandbox_read")
        }
        _ => Ok(()),
    }
}

/// What of [`mounts::SYSTEM`] and [`mounts::SETTINGS`] exists.
fn system() -> Vec<(PathBuf, Found)> {
    let etc = Path::new("/etc");
    let settings = mounts::SETTINGS.iter().map(|name| etc.join(name));
    let paths = mounts::SYSTEM.iter().map(PathBuf::from).chain(settings);
    paths.filter_map(|path| Some((path.clone(), copied(&path, found(&path)?)))).collect()
}

/// A small file is copied.
fn copied(path: &Path, found: Found) -> Found {
    let is_live = mounts::LIVE.iter().any(|name| path == Path::new("/etc").join(name));
    let is_small = || path.metadata().is_ok_and(|metadata| metadata.len() <= mounts::MOST_COPIED);
    if found == Found::File && !is_live && is_small() { Found::Small } else { found }
}

fn found(path: &Path) -> Option<Found> {
    let metadata = fs::symlink_metadata(path).ok()?;
    match metadata.file_type() {
        kind if kind.is_symlink() => fs::read_link(path).ok().map(Found::Link),
        kind if kind.is_dir() => Some(Found::Folder),
        kind if kind.is_file() => Some(Found::File),
        _ => None,
    }
}

/// What `/etc/resolv.conf` is, and what of `/run` it leads to: the folder, because programs replace the file in it.
fn resolver() -> Option<(Found, Option<PathBuf>)> {
    let path = Path::new("/etc/resolv.conf");
    let found = found(path)?;
    if !matches!(found, Found::Link(_)) {
        return Some((found, None));
    }
    let real = path.canonicalize().ok()?;
    let below = if real.starts_with("/run") {
        let folder = real.parent().filter(|folder| *folder != Path::new("/run"));
        Some(folder.map_or(real.clone(), Path::to_owned))
    } else {
        Some(real)
    };
    Some((found, below))
}

/// The paths of the store that a sandbox has, if a file names them.
fn closure(file: &Path) -> Result<Option<Vec<PathBuf>>, String> {
    if !file.exists() {
        return Ok(None);
    }
    let (text, _) =
        regular_file::read(file, LONGEST_CLOSURE).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(Some(closure_paths(&text)))
}

fn closure_paths(text: &[u8]) -> Vec<PathBuf> {
    let lines = text.split(|&byte| byte == b'\n').map(|line| Path::new(OsStr::from_bytes(line.trim_ascii())));
    let is_of_store = |path: &&Path| {
        let mut rest = path.strip_prefix("/nix/store").into_iter().flat_map(Path::components);
        matches!((rest.next(), rest.next()), (Some(Component::Normal(_)), None))
    };
    lines.filter(is_of_store).map(Path::to_owned).collect()
}

/// Reads the kernel's settings that forbid sandboxes.
pub(super) fn kernel_settings() -> KernelSettings {
    let number = |name: &str| {
        let text = fs::read(Path::new("/proc/sys").join(name)).ok()?;
        std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
    };
    KernelSettings {
        apparmor_restricts: number("kernel/apparmor_restrict_unprivileged_userns"),
        unprivileged: number("kernel/unprivileged_userns_clone"),
        most: number("user/max_user_namespaces"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;

    #[rstest]
    #[case("/", "is the whole machine")]
    #[case("relative", "is not an absolute path")]
    #[case("/usr/../etc", "is not an absolute path")]
    #[case("/proc/1", "is made anew")]
    #[case("/dev", "is made anew")]
    #[case("/hidden/below", "holds what agentd itself uses")]
    #[case("/hidden", "holds what agentd itself uses")]
    #[case("/nonexistent", "does not exist")]
    #[case("/dev/null", "is made anew")]
    fn a_path_that_must_not_be_shown_is_refused(#[case] path: &str, #[case] expected: &str) {
        let error = refuse("sandbox_read", Path::new(path), &["/hidden".into()], None).unwrap_err();
        assert!(error.starts_with("`sandbox_read`: ") && error.contains(expected), "{error}");
    }

    #[test]
    fn a_writable_path_is_own_and_has_no_link() {
        let folder = TempDir::new().unwrap();
        let real = folder.path().canonicalize().unwrap();
        fs::create_dir(real.join("own")).unwrap();
        symlink(real.join("own"), real.join("link")).unwrap();
        let uid = Uid::effective().as_raw();
        assert_eq!(refuse("sandbox_write", &real.join("own"), &[], Some(uid)), Ok(()));
        let error = refuse("sandbox_write", &real.join("link"), &[], Some(uid)).unwrap_err();
        assert!(error.contains("leads through a link"), "{error}");
        let error = refuse("sandbox_write", &real.join("own"), &[], Some(uid + 1)).unwrap_err();
        assert!(error.contains("belongs to another user"), "{error}");
    }

    #[rstest]
    #[case("/", Home::Kept, Some("cannot be shown"))]
    #[case("/proc/self", Home::Real, Some("cannot be shown"))]
    #[case("/home/agent", Home::Kept, Some("holds the home"))]
    #[case("/home", Home::Fresh, Some("holds the home"))]
    #[case("/home/agent", Home::Real, None)]
    #[case("/home/agent/work", Home::Kept, None)]
    #[case("/srv", Home::Kept, None)]
    fn a_workdir_that_shows_too_much_is_refused(
        #[case] path: &str,
        #[case] home: Home,
        #[case] expected: Option<&str>,
    ) {
        let result = refuse_workdir(Path::new(path), Path::new("/home/agent"), home);
        assert_eq!(result.is_err(), expected.is_some(), "{result:?}");
        assert!(result.err().unwrap_or_default().contains(expected.unwrap_or_default()));
    }

    #[test]
    fn a_closure_names_whole_paths_of_the_store() {
        let text = b"/nix/store/a-b\n /nix/store/c-d \n\n/etc\n/nix/store\n/nix/store/../../etc\n/nix/store/a-b/bin\n";
        assert_eq!(closure_paths(text), [PathBuf::from("/nix/store/a-b"), PathBuf::from("/nix/store/c-d")]);
    }
}
