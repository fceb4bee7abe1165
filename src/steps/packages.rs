//! The step that has Nix build or download the packages of an agent.
//!
//! ```text
//! ~/.local/state/agentd/packages/NAME/KEY/result*     links to what was built, which keep Nix from deleting it
//! ~/.local/state/agentd/packages/NAME/KEY/built.json  what the links lead to: written last
//! ```
//!
//! The key is of the packages' names, and of what the registries of Nix say `nixpkgs` is. As long as both stay the same and what was
//! built is still in the store, Nix is not even run: an agent starts again at once, and without a network.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::Uid;
use serde_json::Value;
use sha2::{Digest, Sha256};
use signal_hook::consts::SIGINT;

use crate::agent::name::Name;
use crate::agent::packages::{Built, Outcome, Package, is_store_path};
use crate::sys::atomic_file::{self, Durability};
use crate::text::ansi;
use crate::text::printable::plain;

/// Where the packages of agents are, below the home.
const FOLDER: &str = ".local/state/agentd/packages";

/// What was built, in the folder of its key.
const BUILT: &str = "built.json";

/// The link to the first package. Nix appends a number for each other, and the name of an output that is not the usual one.
const LINK: &str = "result";

/// The link to a store path that the entry names.
const PATH_LINK: &str = "path";

/// The store of a machine.
const STORE: &str = "/nix/store";

/// Where Nix is for everybody, in case a shell that is not set up for it does not say so.
const USUAL_FOLDERS: [&str; 2] = ["/nix/var/nix/profiles/default/bin", "/run/current-system/sw/bin"];

/// How much of what Nix says last is kept, to find its reason in.
const KEPT: usize = 16 << 10;

/// How much a program of Nix may print: the paths of a large closure take some hundred kilobytes.
const MOST_PRINTED: u64 = 16 << 20;

/// How much is read at a time.
const PIECE: usize = 4096;

/// Why the packages are not there. Shown to people as what the agent waits for.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("root builds no packages; run agents as a user")]
    Root,
    #[error("{0:?} is no agent")]
    NoAgent(String),
    #[error("the package {0:?} {1}")]
    NoPackage(String, crate::agent::packages::NoPackage),
    #[error("the login names no home directory")]
    NoHome,
    #[error("failed to keep them in {}: {error}", path.display())]
    State { path: PathBuf, error: io::Error },
    #[error(
        "Nix is not installed: there is no {program} in the PATH of the agent user; install Nix, or remove `extra_packages`"
    )]
    NoNix { program: &'static str },
    #[error("failed to run {program}: {error}")]
    Run { program: &'static str, error: io::Error },
    #[error("{0}")]
    Nix(String),
    #[error("{program} {end}")]
    Silent { program: &'static str, end: ExitStatus },
    #[error("Nix says that {} was built, but it does not exist: is it in another store?", .0.display())]
    Elsewhere(PathBuf),
    #[error("it was interrupted")]
    Interrupted,
}

/// Builds the packages of an agent, and writes the [`Outcome`] for the launcher.
pub fn run(agent: &str, names: &[&OsString], out: &mut impl Write) -> ExitCode {
    let outcome = match build(agent, names) {
        Ok(built) => Outcome::Built(built),
        Err(error) => Outcome::Failed(error.to_string()),
    };
    let told = serde_json::to_vec(&outcome).map_err(io::Error::from).and_then(|text| out.write_all(&text));
    if told.is_ok() && matches!(outcome, Outcome::Built(_)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Looks for Nix in the login of this user.
///
/// # Errors
///
/// There is none.
pub fn look() -> Result<(), Error> {
    Nix::find().map(drop)
}

fn build(agent: &str, names: &[&OsString]) -> Result<Built, Error> {
    if Uid::effective().is_root() {
        return Err(Error::Root);
    }
    let agent = Name::try_from(agent).map_err(|_| Error::NoAgent(agent.to_owned()))?;
    let package = |name: &&OsString| {
        let name = name.to_string_lossy();
        Package::new(&name).map_err(|why| Error::NoPackage(name.into_owned(), why))
    };
    let packages = names.iter().map(package).collect::<Result<Vec<_>, _>>()?;
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()).ok_or(Error::NoHome)?;
    let folder = home.join(FOLDER).join(agent.as_str());
    let own = folder.join(key(&packages, &registries(&home)));
    if let Some(built) = kept(&own) {
        return Ok(built);
    }
    let nix = match Nix::find() {
        Ok(nix) => nix,
        Err(error) => return installed(&packages, Path::new(STORE)).ok_or(error),
    };
    let state = |error| Error::State { path: own.clone(), error };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&own).map_err(state)?;
    clear(&own).map_err(state)?;
    let built = nix.build(&packages, &own)?;
    let text = serde_json::to_vec(&built).map_err(io::Error::from).map_err(state)?;
    atomic_file::write(&own.join(BUILT), &text, Durability::Later).map_err(state)?;
    // What the agent had before may be deleted from now on.
    remove_others(&folder, &own);
    Ok(built)
}

/// Packages that a machine without Nix came with: store paths that are there. Their closures are not known.
fn installed(packages: &[Package], store: &Path) -> Option<Built> {
    let paths: Option<Vec<&Path>> = packages.iter().map(Package::store_path).collect();
    let paths = paths?;
    if !paths.iter().all(|path| path.parent() == Some(store) && path.exists()) {
        return None;
    }
    let programs = paths.iter().map(|path| path.join("bin")).filter(|folder| folder.is_dir()).collect();
    Some(Built { programs, closure: paths.into_iter().map(Path::to_owned).collect() })
}

/// The files that say what `nixpkgs` is, the first that does so deciding.
fn registries(home: &Path) -> [PathBuf; 2] {
    let folder = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = folder("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")).join("nix");
    let system = folder("NIX_CONF_DIR").unwrap_or_else(|| "/etc/nix".into());
    [own, system].map(|folder| folder.join("registry.json"))
}

/// What a build depends on, in short: these packages, and what `nixpkgs` is.
fn key(packages: &[Package], registries: &[PathBuf]) -> String {
    let mut hash = Sha256::new();
    for package in packages {
        hash.update(package.as_str());
        hash.update("\0");
    }
    let nixpkgs = registries.iter().filter_map(|file| fs::read(file).ok()).find_map(|text| nixpkgs(&text));
    // Without an entry, the registry of all of Nix says what it is.
    hash.update(nixpkgs.map_or_else(String::new, |entry| entry.to_string()));
    format!("{:016x}", hash.finalize().first_chunk().map_or(0, |first| u64::from_be_bytes(*first)))
}

/// What a registry says `nixpkgs` is.
fn nixpkgs(registry: &[u8]) -> Option<Value> {
    let registry: Value = serde_json::from_slice(registry).ok()?;
    registry["flakes"].as_array()?.iter().find(|entry| entry["from"]["id"] == "nixpkgs").cloned()
}

/// What was built here before, if all of it is still there.
fn kept(folder: &Path) -> Option<Built> {
    let built: Built = serde_json::from_slice(&fs::read(folder.join(BUILT)).ok()?).ok()?;
    let is_there = built.closure.iter().all(|path| is_store_path(path) && path.symlink_metadata().is_ok());
    let is_program = |folder: &PathBuf| {
        folder.parent().is_some_and(|path| built.closure.iter().any(|stored| stored == path)) && folder.is_dir()
    };
    (is_there && built.programs.iter().all(is_program)).then_some(built)
}

/// Removes the links and the files of a folder.
fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Removes what was built for other packages. What cannot be removed only takes room.
fn remove_others(folder: &Path, own: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().map(|entry| entry.path()).filter(|path| path != own) {
        let _ = clear(&entry).and_then(|()| fs::remove_dir(&entry));
    }
}

/// The programs of Nix.
struct Nix {
    /// The `PATH` that they are in.
    path: OsString,
    /// Whether SIGINT has come. Nix gets it, too, and ends.
    interrupted: Arc<AtomicBool>,
}

impl Nix {
    fn find() -> Result<Self, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(USUAL_FOLDERS.iter().map(PathBuf::from));
        let folders: Vec<PathBuf> = folders.filter(|folder| folder.is_absolute()).collect();
        for program in ["nix", "nix-store"] {
            if !folders.iter().any(|folder| folder.join(program).is_file()) {
                return Err(Error::NoNix { program });
            }
        }
        let interrupted = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGINT, Arc::clone(&interrupted))
            .map_err(|error| Error::Run { program: "nix", error })?;
        // Each of them is in a `PATH`, so that none has a colon.
        Ok(Self { path: std::env::join_paths(folders).unwrap_or(path), interrupted })
    }

    /// Builds the packages, with links to them in this folder.
    fn build(&self, packages: &[Package], folder: &Path) -> Result<Built, Error> {
        let names: Vec<&Package> = packages.iter().filter(|package| package.store_path().is_none()).collect();
        let mut links = Vec::new();
        if !names.is_empty() {
            self.run("nix", &arguments(&names, &folder.join(LINK)))?;
            links = built(folder, names.len()).map_err(|error| Error::State { path: folder.to_owned(), error })?;
        }
        let mut links = links.into_iter();
        let mut outputs = Vec::new();
        for (at, package) in packages.iter().enumerate() {
            let Some(path) = package.store_path() else {
                outputs.extend(links.next().into_iter().flatten());
                continue;
            };
            let link = folder.join(format!("{PATH_LINK}-{at}"));
            // One that is valid is taken as it is; others may be downloaded.
            let options = ["--realise", "--indirect", "--add-root"].map(OsStr::new);
            self.run("nix-store", &[&options[..], &[link.as_os_str(), path.as_os_str()]].concat())?;
            outputs.push(fs::read_link(&link).map_err(|error| Error::State { path: link, error })?);
        }
        if let Some(absent) = outputs.iter().find(|output| !is_store_path(output) || !output.exists()) {
            return Err(Error::Elsewhere(absent.clone()));
        }
        let query =
            ["--query", "--requisites"].map(OsStr::new).into_iter().chain(outputs.iter().map(|path| path.as_os_str()));
        let closure = self.run("nix-store", &query.collect::<Vec<_>>())?;
        let mut programs: Vec<PathBuf> = Vec::new();
        for folder in outputs.iter().map(|output| output.join("bin")).filter(|folder| folder.is_dir()) {
            if !programs.contains(&folder) {
                programs.push(folder);
            }
        }
        Ok(Built { programs, closure: closure.lines().map(PathBuf::from).filter(|path| is_store_path(path)).collect() })
    }

    /// Runs a program of Nix, shows what it says, and returns what it prints.
    fn run(&self, program: &'static str, arguments: &[impl AsRef<OsStr>]) -> Result<String, Error> {
        let failed = |error| Error::Run { program, error };
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", &self.path).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let stdout = child.stdout.take();
        let printed = std::thread::spawn(move || {
            let Some(mut stdout) = stdout else { return Ok(Vec::new()) };
            let mut printed = Vec::new();
            stdout.by_ref().take(MOST_PRINTED).read_to_end(&mut printed)?;
            // It may go on and say what is wrong, but nobody keeps what it prints.
            match io::copy(&mut stdout, &mut io::sink())? {
                0 => Ok(printed),
                _ => Err(io::Error::other(format!("it printed more than {} MiB", MOST_PRINTED >> 20))),
            }
        });
        let said = relay(&mut child).map_err(failed)?;
        let end = child.wait().map_err(failed)?;
        if self.interrupted.load(Ordering::SeqCst) {
            return Err(Error::Interrupted);
        }
        if !end.success() {
            return Err(reason(&said).map_or(Error::Silent { program, end }, Error::Nix));
        }
        let printed = printed.join().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())).map_err(failed)?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }
}

/// The arguments that have `nix` build these, with links to them.
///
/// What a flake says of settings is not heeded, and no lock file is written.
fn arguments(packages: &[&Package], link: &Path) -> Vec<OsString> {
    let options = [
        "build",
        "--extra-experimental-features",
        "nix-command flakes",
        "--option",
        "accept-flake-config",
        "false",
        "--no-write-lock-file",
        "--print-build-logs",
        "--out-link",
    ];
    let names = packages.iter().map(|package| format!("nixpkgs#{package}").into());
    options.iter().map(OsString::from).chain([link.into()]).chain(names).collect()
}

/// What the links lead to that `nix build` has made in this folder, for each of so many packages.
fn built(folder: &Path, count: usize) -> io::Result<Vec<Vec<PathBuf>>> {
    let mut links = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some((number, output)) = entry.file_name().to_str().and_then(numbered) {
            links.push((number, output, fs::read_link(entry.path())?));
        }
    }
    links.sort();
    let of = |wanted: usize| links.iter().filter(move |(number, ..)| *number == wanted).map(|(.., path)| path.clone());
    Ok((0..count).map(|number| of(number).collect()).collect())
}

/// Which package a link is of, and which output: `result`, `result-man`, `result-1`, `result-1-man`.
fn numbered(link: &str) -> Option<(usize, String)> {
    let rest = link.strip_prefix(LINK)?;
    let Some(rest) = rest.strip_prefix('-') else { return rest.is_empty().then(|| (0, String::new())) };
    let (first, output) = rest.split_once('-').unwrap_or((rest, ""));
    match first.parse() {
        Ok(number) => Some((number, output.to_owned())),
        Err(_) => Some((0, rest.to_owned())),
    }
}

/// Shows what a program says on its standard error, and returns the last of it.
fn relay(child: &mut Child) -> io::Result<String> {
    let mut last: Vec<u8> = Vec::new();
    let Some(mut stderr) = child.stderr.take() else { return Ok(String::new()) };
    let mut piece = [0; PIECE];
    loop {
        match stderr.read(&mut piece) {
            Ok(0) => return Ok(String::from_utf8_lossy(&last).into_owned()),
            Ok(count) => {
                // A pane that is gone shows nothing, and the launcher sees that by itself.
                let _ = io::stderr().write_all(&piece[..count]);
                last.extend_from_slice(&piece[..count]);
                last.drain(..last.len().saturating_sub(KEPT));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What Nix says is wrong: its last error and, if that is about a build, the last line of the build's output.
fn reason(said: &str) -> Option<String> {
    let mut state = ansi::State::default();
    let text: Vec<u8> = said.bytes().filter(|&byte| state.pass(byte)).collect();
    let text = plain(&String::from_utf8_lossy(&text));
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let error = |line: &str| line.strip_prefix("error:").map(|error| error.trim().to_owned());
    let at = lines.iter().rposition(|line| error(line).is_some_and(|error| !error.is_empty()));
    let Some(at) = at else { return lines.last().map(|&line| line.to_owned()) };
    let reason = error(lines[at]).unwrap_or_default();
    // After the error as `> LINE`, unless all of it was shown: then before the error as `NAME> LINE`.
    let after = lines[at + 1..].iter().filter_map(|line| line.strip_prefix('>'));
    let before = lines[..at].iter().filter_map(|line| line.split_once("> ")).filter(|(name, _)| !name.contains(' '));
    let is_of_build = reason.starts_with("builder for");
    let mut output = before.map(|(_, line)| line).filter(|_| is_of_build).chain(after).map(str::trim);
    match output.rfind(|line| !line.is_empty()) {
        Some(line) => Some(format!("{}: {line}", reason.trim_end_matches([';', ':']))),
        None => Some(reason),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    fn packages(names: &[&str]) -> Vec<Package> {
        names.iter().map(|name| Package::new(name).unwrap()).collect()
    }

    #[test]
    fn the_reason_is_the_last_error_and_the_last_line_of_a_build() {
        let failed = "broken> compiling\nbroken> cannot make it\n\u{1b}[31;1merror:\u{1b}[0m builder for \
                      '/nix/store/x-broken.drv' failed with exit code 3;\n       last 2 log lines:\n       > compiling\n       \
                      > cannot make it\n       For full logs, run 'nix log /nix/store/x-broken.drv'.\n";
        assert_eq!(
            reason(failed).unwrap(),
            "builder for '/nix/store/x-broken.drv' failed with exit code 3: cannot make it"
        );
        let shown = "broken> compiling\nbroken> cannot make it\nbroken> \nerror: builder for '/n/broken.drv' failed with exit code 3\n";
        assert_eq!(reason(shown).unwrap(), "builder for '/n/broken.drv' failed with exit code 3: cannot make it");
        let of_another = "other> made\nerror: flake 'flake:nixpkgs' does not provide attribute 'x'\n";
        assert_eq!(reason(of_another).unwrap(), "flake 'flake:nixpkgs' does not provide attribute 'x'");
        let nested =
            "warning: x\nerror:\n       … while evaluating\n       error: undefined variable 'y'\n       at /x:1:1\n";
        assert_eq!(reason(nested).unwrap(), "undefined variable 'y'");
        assert_eq!(reason("it crashed\n\n").unwrap(), "it crashed");
        assert_eq!(reason("\n"), None);
    }

    #[test]
    fn what_a_program_of_nix_prints_is_bounded() {
        let folder = TempDir::new().unwrap();
        let program = folder.path().join("nix");
        fs::write(&program, "#!/bin/sh\n/usr/bin/head -c \"$1\" /dev/zero\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let nix = Nix { path: folder.path().into(), interrupted: Arc::default() };
        assert_eq!(nix.run("nix", &["1000"]).unwrap().len(), 1000);
        let error = nix.run("nix", &[(MOST_PRINTED + 1).to_string()]).unwrap_err();
        assert!(error.to_string().ends_with("it printed more than 16 MiB"), "{error}");
    }

    #[test]
    fn the_key_depends_on_the_names_and_on_what_nixpkgs_is() {
        let folder = TempDir::new().unwrap();
        let (own, system) = (folder.path().join("own.json"), folder.path().join("system.json"));
        let registry = |to: &str| {
            format!(
                r#"{{"flakes":[{{"from":{{"id":"other"}}}},{{"from":{{"id":"nixpkgs"}},"to":{{"path":"{to}"}}}}]}}"#
            )
        };
        let files = [own.clone(), system.clone()];
        let jq = packages(&["jq"]);
        let none = key(&jq, &files);
        assert_eq!((none.len(), &none), (16, &key(&jq, &files)));
        fs::write(&system, registry("/a")).unwrap();
        let of_system = key(&jq, &files);
        fs::write(&own, "no registry").unwrap();
        assert_eq!(key(&jq, &files), of_system);
        fs::write(&own, registry("/b")).unwrap();
        let of_own = key(&jq, &files);
        fs::write(&system, registry("/c")).unwrap();
        assert_eq!(key(&jq, &files), of_own, "the user's own registry decides");
        assert_eq!([&none, &of_system, &of_own].into_iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
        assert_ne!(key(&packages(&["jq", "rg"]), &files), key(&packages(&["rg", "jq"]), &files));
    }

    #[test]
    fn links_are_sorted_by_package_and_output() {
        let folder = TempDir::new().unwrap();
        for (link, to) in
            [("result-1", "b"), ("result", "a"), ("result-man", "a-man"), ("result-10-dev", "k"), ("other", "x")]
        {
            symlink(to, folder.path().join(link)).unwrap();
        }
        let found = built(folder.path(), 11).unwrap();
        assert_eq!(found[0], [PathBuf::from("a"), "a-man".into()]);
        assert_eq!((&found[1][..], &found[10][..]), (&["b".into()][..], &["k".into()][..]));
        assert!(found[2].is_empty());
    }

    /// A folder with what was built, and the store path.
    fn with_built() -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let stored = folder.path().join("00000000000000000000000000000000-x");
        fs::create_dir_all(stored.join("bin")).unwrap();
        let built = Built { programs: vec![stored.join("bin")], closure: vec![stored.clone()] };
        fs::write(folder.path().join(BUILT), serde_json::to_vec(&built).unwrap()).unwrap();
        (folder, stored)
    }

    #[test]
    fn what_was_built_is_used_again_while_it_is_there() {
        let (folder, stored) = with_built();
        assert_eq!(kept(folder.path()).unwrap().closure, std::slice::from_ref(&stored));
        fs::remove_dir_all(stored).unwrap();
        assert_eq!(kept(folder.path()), None);
    }

    #[test]
    fn what_is_no_store_path_is_not_used_again() {
        for closure in ["/etc", "/root/.ssh"] {
            let (folder, stored) = with_built();
            let built = Built { programs: vec![stored.join("bin")], closure: vec![stored, closure.into()] };
            fs::write(folder.path().join(BUILT), serde_json::to_vec(&built).unwrap()).unwrap();
            assert_eq!(kept(folder.path()), None, "{closure}");
        }
        let (folder, stored) = with_built();
        let built = Built { programs: vec!["/usr/bin".into()], closure: vec![stored] };
        fs::write(folder.path().join(BUILT), serde_json::to_vec(&built).unwrap()).unwrap();
        assert_eq!(kept(folder.path()), None);
    }

    #[test]
    fn a_machine_without_nix_has_the_store_paths_that_are_there() {
        let (folder, stored) = with_built();
        let names = |names: &[&Path]| packages(&names.iter().map(|name| name.to_str().unwrap()).collect::<Vec<_>>());
        let built = installed(&names(&[&stored]), folder.path()).unwrap();
        assert_eq!((built.programs, built.closure), (vec![stored.join("bin")], vec![stored.clone()]));
        assert_eq!(installed(&names(&[&stored]), Path::new(STORE)), None, "it is not in the store");
        assert_eq!(installed(&names(&[&stored, Path::new("jq")]), folder.path()), None, "a name needs Nix");
        fs::remove_dir_all(&stored).unwrap();
        assert_eq!(installed(&names(&[&stored]), folder.path()), None);
    }

    #[test]
    fn root_builds_nothing() {
        if !Uid::effective().is_root() {
            return;
        }
        let names = [OsString::from("jq")];
        let mut answer = Vec::new();
        run("a", &names.iter().collect::<Vec<_>>(), &mut answer);
        let outcome: Outcome = serde_json::from_slice(&answer).unwrap();
        assert_eq!(outcome, Outcome::Failed(Error::Root.to_string()));
    }

    #[test]
    fn nix_is_given_no_settings_of_a_flake() {
        let packages = packages(&["jq", "a.b"]);
        let words = arguments(&packages.iter().collect::<Vec<_>>(), Path::new("/s/result"));
        let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(words[words.len() - 4..], ["--out-link", "/s/result", "nixpkgs#jq", "nixpkgs#a.b"]);
        assert!(words.windows(3).any(|words| words == ["--option", "accept-flake-config", "false"]));
        assert!(!words.contains(&"--impure"));
    }
}
