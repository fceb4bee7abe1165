//! Looks at the machine: finds the [facts](Facts) that a sandbox is planned from, and refuses paths that it must not have.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::SFlag;
use nix::unistd::{Gid, Uid};

use super::explain::KernelSettings;
use super::mounts::{self, Examined, Facts, Found};
use super::reserved::Reserved;
use super::{homes, repository};
use crate::agent::sandbox::{Home, Network, RUN_OUTSIDE, Sandbox};
use crate::sys::{regular_file, steady_path};

/// The file that names the paths of the Nix store that sandboxes have, on systems that have it. All others are hidden then.
const CLOSURE: &str = "/etc/stereos/sandbox-closure.txt";

/// The longest such file.
const LONGEST_CLOSURE: u64 = 4 << 20;

/// Folders that the engine makes anew, so that nothing of them can be shown.
const MADE_ANEW: [&str; 3] = ["/proc", "/dev", "/sys"];

/// What of `/proc` is about processes outside, or of no use to an agent.
const MASKED: [&str; 4] = ["/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/timer_list"];

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
    /// The folder in which agentd makes the folders of all attempts; it has no links.
    pub base: PathBuf,
    pub launcher: PathBuf,
    /// The socket behind which the proxy is.
    pub gate: Option<PathBuf>,
    pub tell: Option<PathBuf>,
}

/// Finds the facts. Fails, in words for an operator, if the sandbox must not be made.
pub(super) fn look(
    sandbox: &Sandbox,
    owner: Owner<'_>,
    workdir: &Path,
    prepared: Prepared,
    hidden: Vec<PathBuf>,
) -> Result<Facts, String> {
    let reserved = Reserved { hidden: &hidden, base: &prepared.base };
    let real_home = owner.home.canonicalize().unwrap_or_else(|_| owner.home.to_owned());
    let real_workdir = look_at_workdir(workdir, &real_home, sandbox.home, &reserved)?;
    if sandbox.home == Home::Real {
        refuse_real_home(&real_home, &prepared.base)?;
    }
    let uid = Uid::effective().as_raw();
    let is_home = |path: &&PathBuf| **path == owner.home || **path == real_home;
    if let Some(path) = sandbox.read.iter().chain(&sandbox.write).find(is_home) {
        return Err(format!(
            "{} is the home of the agent user; write sandbox_home = \"real\" to show it",
            path.display()
        ));
    }
    let read = sandbox.read.iter().map(|path| look_at("sandbox_read", path, &reserved, None));
    let write = sandbox.write.iter().map(|path| look_at("sandbox_write", path, &reserved, Some(uid)));
    let mut examined = read.chain(write).collect::<Result<Vec<Examined>, String>>()?;
    let repository = repository::find(&real_workdir.path, &real_home, owner.trusts)?
        .filter(|found| found.top.iter().chain(&found.writable).all(|path| reserved.why_not(path).is_none()));
    let of_git = repository.iter().flat_map(|found| found.writable.iter().chain(&found.read_only));
    let of_git: Result<Vec<Examined>, String> = of_git.map(|path| look_at_git(path)).collect();
    examined.extend(of_git?);
    let run_outside = if sandbox.home == Home::Real { run_outside(&real_home) } else { Vec::new() };
    let mut files: BTreeSet<PathBuf> =
        sandbox.read.iter().chain(&sandbox.write).filter(|path| path.is_file()).cloned().collect();
    files.insert(prepared.launcher.clone());
    files.extend(prepared.gate.clone());
    files.extend(prepared.tell.clone());
    let protected = repository.iter().flat_map(|repository| &repository.read_only);
    files.extend(protected.chain(&run_outside).filter(|path| path.is_file()).cloned());
    let system: Vec<(PathBuf, Found)> = system();
    files.extend(system.iter().filter(|(_, found)| *found == Found::File).map(|(path, _)| path.clone()));
    let resolver = if sandbox.network == Network::Host { resolver() } else { None };
    files.extend(resolver.iter().filter(|(found, _)| *found == Found::File).map(|_| PathBuf::from("/etc/resolv.conf")));
    files.extend(resolver.iter().filter_map(|(_, below)| below.clone()).filter(|path| path.is_file()));
    Ok(Facts {
        shown: Vec::new(),
        uid,
        gid: Gid::effective().as_raw(),
        user: owner.user.to_owned(),
        home: owner.home.to_owned(),
        shell: owner.shell.to_owned(),
        real_home,
        run_outside,
        workdir: workdir.to_owned(),
        real_workdir: real_workdir.path.clone(),
        examined: examined.into_iter().chain([real_workdir]).collect(),
        system,
        resolver,
        closure: closure(Path::new(CLOSURE))?,
        repository,
        made_home: prepared.made_home,
        temporary: prepared.temporary,
        launcher: prepared.launcher,
        gate: prepared.gate,
        tell: prepared.tell,
        masked: MASKED.iter().map(PathBuf::from).filter(|path| path.exists()).collect(),
        hidden: hidden.into_iter().chain([prepared.base]).collect(),
        files,
    })
}

/// Finds the working directory, and refuses one that would show more than an agent works on, or that leads elsewhere next time.
fn look_at_workdir(workdir: &Path, home: &Path, kind: Home, reserved: &Reserved<'_>) -> Result<Examined, String> {
    let shown = workdir.display();
    let found = steady_path::find(workdir).map_err(|error| match error {
        steady_path::Error::System(error) => format!("the workdir {shown} cannot be shown: {}", error.source),
        steady_path::Error::Link(link) => format!(
            "the workdir {shown} leads through {}, a link that the agent user could change; write {}",
            link.display(),
            workdir.canonicalize().map_or("what it leads to".to_owned(), |real| real.display().to_string())
        ),
    })?;
    refuse_workdir(&found.path, home, kind)?;
    // All of a home is shown with what is reserved in it covered.
    let is_home = kind == Home::Real && found.path == home;
    match reserved.why_not(&found.path).filter(|_| !is_home) {
        Some(why) => Err(format!("the workdir {shown} {why}")),
        None => Ok(Examined::of(&found)),
    }
}

/// Refuses working directories that would show more than an agent works on.
fn refuse_workdir(workdir: &Path, home: &Path, kind: Home) -> Result<(), String> {
    let shown = workdir.display();
    if workdir == Path::new("/") || is_below_any(workdir, &MADE_ANEW) {
        return Err(format!("the workdir {shown} cannot be shown in a sandbox; work in a folder of your own"));
    }
    if home.starts_with(workdir) && !(kind == Home::Real && home == workdir) {
        let right = "work in a folder below it, or write sandbox_home = \"real\" and work in the home";
        return Err(format!(
            "the workdir {shown} holds the home of the agent user, which the sandbox keeps away; {right}"
        ));
    }
    Ok(())
}

/// Refuses a home in which other agents' folders cannot be covered.
fn refuse_real_home(home: &Path, base: &Path) -> Result<(), String> {
    let homes = home.join(homes::FOLDER);
    if base == home {
        return Err(
            "sandbox_home = \"real\" would show the temporary files of other agents, because the login sets TMPDIR \
                    to the home; set another"
                .to_owned(),
        );
    }
    match homes.canonicalize() {
        Ok(real) if real != homes => Err(format!(
            "sandbox_home = \"real\" would let the agent replace the homes of others, because {} leads through a link; put \
             the folder itself there",
            homes.display()
        )),
        _ => Ok(()),
    }
}

/// What of [`RUN_OUTSIDE`] exists. What is a link, or leads through one, cannot be kept from being replaced.
fn run_outside(home: &Path) -> Vec<PathBuf> {
    let is_covered = |path: &PathBuf| {
        fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir() || metadata.is_file())
            && path.canonicalize().is_ok_and(|real| real == *path)
    };
    RUN_OUTSIDE.iter().map(|name| home.join(name)).filter(is_covered).collect()
}

fn is_below_any(path: &Path, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

/// Finds what is to be shown, and refuses what must not be, and for writing what is not this user's.
fn look_at(field: &str, path: &Path, reserved: &Reserved<'_>, writer: Option<u32>) -> Result<Examined, String> {
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
    if let Some(why) = reserved.why_not(path) {
        return refusal(&why);
    }
    let through_link = || {
        let real = path.canonicalize().map_or("what it leads to".to_owned(), |real| real.display().to_string());
        format!("leads through a link, which could be changed; write {real}")
    };
    let found = match steady_path::find(path) {
        Ok(found) if found.path == path => found,
        Ok(_) | Err(steady_path::Error::Link(_)) => return refusal(&through_link()),
        Err(steady_path::Error::System(error)) if error.source.kind() == io::ErrorKind::NotFound => {
            return refusal("does not exist; make it, or remove it from the entry");
        }
        Err(steady_path::Error::System(error)) => return refusal(&format!("cannot be shown: {}", error.source)),
    };
    if ![SFlag::S_IFDIR, SFlag::S_IFREG].contains(&found.kind()) {
        return refusal("is neither a folder nor a regular file");
    }
    match writer {
        Some(uid) if found.status.st_uid != uid => {
            refusal("belongs to another user; give it to the agent user (chown), or use sandbox_read")
        }
        _ => Ok(Examined::of(&found)),
    }
}

/// Finds a part of a repository, which must still be what was judged.
fn look_at_git(path: &Path) -> Result<Examined, String> {
    match steady_path::find(path) {
        Ok(found) if found.path == path => Ok(Examined::of(&found)),
        Ok(_) => Err(format!("{} leads through a link", path.display())),
        Err(error) => Err(error.to_string()),
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

/// What `/etc/resolv.conf` is, and what of `/run` it leads to.
///
/// That is the folder, because programs replace the file in it, unless the folder has sockets: systemd-resolved listens there for
/// everybody.
fn resolver() -> Option<(Found, Option<PathBuf>)> {
    let path = Path::new("/etc/resolv.conf");
    let found = found(path)?;
    if !matches!(found, Found::Link(_)) {
        return Some((found, None));
    }
    let real = path.canonicalize().ok()?;
    Some((found, Some(shown_of_resolver(&real, Path::new("/run")))))
}

fn shown_of_resolver(file: &Path, run: &Path) -> PathBuf {
    let has_no_socket = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        !entries.into_iter().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
    };
    let folder = file.parent().filter(|folder| *folder != run && folder.starts_with(run));
    folder.filter(|folder| has_no_socket(folder)).unwrap_or(file).to_owned()
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
    #[case("/tmp", "is the sandbox's own")]
    #[case("/base", "holds the temporary folders of all agents")]
    fn a_path_that_must_not_be_shown_is_refused(#[case] path: &str, #[case] expected: &str) {
        let reserved = Reserved { hidden: &["/hidden".into()], base: Path::new("/base/tmp") };
        let error = look_at("sandbox_read", Path::new(path), &reserved, None).unwrap_err();
        assert!(error.starts_with("`sandbox_read`: ") && error.contains(expected), "{error}");
    }

    #[test]
    fn a_writable_path_is_own_and_has_no_link() {
        let folder = TempDir::new().unwrap();
        let real = folder.path().canonicalize().unwrap();
        fs::create_dir(real.join("own")).unwrap();
        symlink(real.join("own"), real.join("link")).unwrap();
        let uid = Uid::effective().as_raw();
        let reserved = Reserved { hidden: &[], base: Path::new("/base") };
        let look = |name: &str, uid| look_at("sandbox_write", &real.join(name), &reserved, Some(uid));
        assert_eq!(look("own", uid).unwrap().path, real.join("own"));
        let error = look("link", uid).unwrap_err();
        assert!(
            error.contains("leads through a link") && error.ends_with(real.join("own").to_str().unwrap()),
            "{error}"
        );
        let error = look("own", uid + 1).unwrap_err();
        assert!(error.contains("belongs to another user"), "{error}");
    }

    #[test]
    fn a_workdir_behind_a_link_of_an_agent_is_refused() {
        let folder = TempDir::new().unwrap();
        let real = folder.path().canonicalize().unwrap();
        fs::create_dir_all(real.join("shared/x/w")).unwrap();
        fs::create_dir(real.join("secret")).unwrap();
        fs::create_dir(real.join("homes")).unwrap();
        let reserved = Reserved { hidden: &[real.join("homes/other")], base: Path::new("/base") };
        let look = |name: &str| look_at_workdir(&real.join(name), Path::new("/home/a"), Home::Kept, &reserved);
        assert_eq!(look("shared/x/w").unwrap().path, real.join("shared/x/w"));
        fs::remove_dir(real.join("shared/x/w")).unwrap();
        symlink("../../secret", real.join("shared/x/w")).unwrap();
        let error = look("shared/x/w").unwrap_err();
        let right =
            format!("shared/x/w, a link that the agent user could change; write {}", real.join("secret").display());
        assert!(error.ends_with(&right), "{error}");
        for name in ["homes", "homes/other"] {
            fs::create_dir_all(real.join(name)).unwrap();
            let error = look(name).unwrap_err();
            assert!(error.contains("holds what agentd itself uses"), "{error}");
        }
    }

    #[test]
    fn a_real_home_covers_what_runs_outside() {
        let folder = TempDir::new().unwrap();
        let home = folder.path().canonicalize().unwrap();
        fs::create_dir_all(home.join(".config/fish")).unwrap();
        fs::write(home.join(".profile"), "").unwrap();
        symlink(".profile", home.join(".bashrc")).unwrap();
        assert_eq!(run_outside(&home), [home.join(".config/fish"), home.join(".profile")]);
        assert_eq!(refuse_real_home(&home, Path::new("/tmp")), Ok(()));
        assert!(refuse_real_home(&home, &home).is_err());
        fs::create_dir_all(home.join("moved/state/agentd/homes")).unwrap();
        symlink("moved", home.join(".local")).unwrap();
        assert!(refuse_real_home(&home, Path::new("/tmp")).unwrap_err().contains("leads through a link"));
    }

    #[rstest]
    #[case("/", Home::Kept, Some("cannot be shown"))]
    #[case("/proc/self", Home::Real, Some("cannot be shown"))]
    #[case("/home/agent", Home::Kept, Some("holds the home"))]
    #[case("/home", Home::Fresh, Some("holds the home"))]
    #[case("/home", Home::Real, Some("holds the home"))]
    #[case("/home/agent", Home::Real, None)]
    #[case("/home/agent/project", Home::Kept, None)]
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
    fn a_folder_with_sockets_is_not_shown_for_its_resolv_conf() {
        let folder = TempDir::new().unwrap();
        let (run, below) = (folder.path(), folder.path().join("resolve"));
        fs::create_dir(&below).unwrap();
        let file = below.join("stub-resolv.conf");
        fs::write(&file, "").unwrap();
        assert_eq!(shown_of_resolver(&file, run), below);
        assert_eq!(shown_of_resolver(&run.join("resolv.conf"), run), run.join("resolv.conf"));
        assert_eq!(shown_of_resolver(&file, Path::new("/run")), file);
        let _listener = std::os::unix::net::UnixListener::bind(below.join("io.systemd.Resolve")).unwrap();
        assert_eq!(shown_of_resolver(&file, run), file);
    }

    #[test]
    fn a_closure_names_whole_paths_of_the_store() {
        let text = b"/nix/store/a-b\n /nix/store/c-d \n\n/etc\n/nix/store\n/nix/store/../../etc\n/nix/store/a-b/bin\n";
        assert_eq!(closure_paths(text), [PathBuf::from("/nix/store/a-b"), PathBuf::from("/nix/store/c-d")]);
    }
}
