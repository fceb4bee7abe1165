//! `agentd init`: a jcard to begin with, and the folders beside it. What exists is never changed.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::Whereabouts;
use super::output::{complain, print};
use crate::settings::{Settings, Surroundings};
use crate::sys::safe_path;
use crate::sys::{PathError, systemd};
use crate::text::printable::escaped;

/// Where to write.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Arguments {
    /// The jcard [default: /etc/stereos/jcard.toml; without root: $XDG_CONFIG_HOME/agentd/jcard.toml]
    #[arg(long, value_name = "PATH", value_parser = super::path())]
    pub config: Option<PathBuf>,
    /// The secrets, one file each [default: /run/stereos/secrets; without root: $XDG_CONFIG_HOME/agentd/secrets]
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    pub secret_dir: Option<PathBuf>,
}

impl Arguments {
    /// The files that are named.
    pub(super) fn whereabouts(&self) -> Whereabouts {
        Whereabouts { secret_dir: self.secret_dir.clone(), ..Whereabouts::default() }
    }
}

const JCARD: &str = include_str!("init/jcard.toml");

/// Whether something was made, or was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    New,
    Before,
}

/// Makes what is missing, and says what there is and what to do next.
pub fn run(settings: &Settings, here: &Surroundings) -> ExitCode {
    let workdir = (!here.root).then(|| here.home.join("workspace"));
    match make(&settings.config, &settings.secret_dir, workdir.as_deref(), here.root) {
        Ok(lines) => print((lines.join("\n") + "\n").as_bytes(), 0, 1),
        Err(error) => complain(1, &error.to_string()),
    }
}

/// The file and the folders, with a line about each, and what to do next.
fn make(jcard: &Path, secrets: &Path, workdir: Option<&Path>, is_root: bool) -> Result<Vec<String>, PathError> {
    let told = |what: &str, path: &Path, made| {
        let shown = escaped(&path.display().to_string());
        match made {
            Made::New => format!("made    {shown}  ({what})"),
            Made::Before => format!("kept    {shown}  ({what}; it was there)"),
        }
    };
    let mut lines = vec![told("the jcard: it declares the agents", jcard, write_jcard(jcard, is_root)?)];
    lines.push(told("the secrets: a file each, named like the variable", secrets, make_folder(secrets)?));
    if let Some(workdir) = workdir {
        lines.push(told("where agents work", workdir, make_folder(workdir)?));
    }
    let start = if is_root && systemd::is_booted() { "systemctl start agentd" } else { "agentd" };
    let shown = escaped(&jcard.display().to_string());
    lines.extend([
        String::new(),
        "Next:".to_owned(),
        format!("  edit {shown}"),
        format!("  agentd check {shown}"),
        format!("  {start}"),
        "  agentd status".to_owned(),
    ]);
    Ok(lines)
}

/// Writes the jcard, unless something is there. Root follows no link that another user could have made.
fn write_jcard(path: &Path, is_root: bool) -> Result<Made, PathError> {
    let (folders, mode) = if is_root { (0o755, 0o644) } else { (0o700, 0o600) };
    let folder = open_parent(path, folders)?;
    let name = path.file_name().unwrap_or_default();
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(&folder, name, flags, Mode::from_bits_truncate(mode)) {
        Ok(file) => {
            let written = File::from(file).write_all(JCARD.as_bytes());
            written.map_err(PathError::of("write", path))?;
            Ok(Made::New)
        }
        Err(Errno::EEXIST) => Ok(Made::Before),
        Err(error) => Err(PathError::new("make", path, error)),
    }
}

/// Makes a folder for its owner alone, unless it is there.
fn make_folder(path: &Path) -> Result<Made, PathError> {
    let folder = open_parent(path, 0o755)?;
    match nix::sys::stat::mkdirat(&folder, path.file_name().unwrap_or_default(), Mode::S_IRWXU) {
        Ok(()) => Ok(Made::New),
        Err(Errno::EEXIST) => Ok(Made::Before),
        Err(error) => Err(PathError::new("make", path, error)),
    }
}

fn open_parent(path: &Path, mode: u32) -> Result<std::os::fd::OwnedFd, PathError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let opened = safe_path::open_dir(parent, Some(Mode::from_bits_truncate(mode)));
    opened.map_err(|error| PathError::of("make", parent)(io::Error::from(error)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config;

    #[test]
    fn what_is_missing_is_made_and_what_exists_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (jcard, secrets) = (folder.path().join("c/agentd/jcard.toml"), folder.path().join("c/agentd/secrets"));
        let workdir = folder.path().join("workspace");
        let made = |is_root| make(&jcard, &secrets, Some(&workdir), is_root).unwrap().join("\n");
        let said = made(false);
        assert_eq!((said.matches("made ").count(), said.matches("kept ").count()), (3, 0), "{said}");
        assert!(said.contains("agentd check") && said.contains("agentd status"), "{said}");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&jcard), mode(&secrets)), (0o600, 0o700));
        fs::write(&jcard, "mine").unwrap();
        let said = made(true);
        assert_eq!((said.matches("made ").count(), said.matches("kept ").count()), (0, 3), "{said}");
        assert_eq!(fs::read_to_string(&jcard).unwrap(), "mine");
    }

    #[test]
    fn a_link_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let goal = folder.path().join("goal");
        std::os::unix::fs::symlink(&goal, folder.path().join("jcard.toml")).unwrap();
        assert_eq!(write_jcard(&folder.path().join("jcard.toml"), false).unwrap(), Made::Before);
        assert!(!goal.exists());
    }

    #[test]
    fn the_first_jcard_is_valid_with_and_without_its_comments() {
        let findings = |text: &str| config::parse(text.as_bytes(), &config::Options::default()).unwrap();
        let as_it_is = findings(JCARD);
        assert_eq!((as_it_is.entries.len(), as_it_is.findings), (1, vec![]));
        let all: Vec<&str> = JCARD.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).collect();
        let all = findings(&all.join("\n"));
        assert_eq!((all.entries.len(), all.findings), (2, vec![]));
    }
}
