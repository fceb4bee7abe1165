//! What git needs to be told: whom to trust in the repository of another user, and what it says of its configuration.
//!
//! The launcher runs git as the agent user, with the variables that git's configuration depends on and no others.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use crate::sys::poll;
use crate::sys::repository::{self, Repository};

/// How long git may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The most that it may say.
const MOST: usize = 16 << 10;

/// How much is read at a time.
const PIECE: usize = 1024;

/// Variables that say which configuration git has.
const CONFIGURATION: &str = "GIT_CONFIG";

/// How many settings the environment has (git 2.31 and later).
const COUNT: &str = "GIT_CONFIG_COUNT";

type Environment = BTreeMap<OsString, OsString>;

/// Has git trust the repository around this directory, if it may: that of root, or any one that the entry says to trust.
///
/// Returns why git does not work there, if it does not. `home` is where git looks for its configuration.
pub(super) fn trust(
    environment: &mut Environment,
    workdir: &Path,
    is_trusted: bool,
    home: Option<&OsStr>,
) -> Option<String> {
    let (directories, distrust) = match repository::look(workdir) {
        Repository::Usable => return None,
        Repository::OfRoot(directories) => (directories, None),
        Repository::OfAnother { directories, why } => (directories, (!is_trusted).then_some(why)),
    };
    if let Some(why) = distrust {
        return refuses(environment, workdir, home).then(|| {
            format!("git refuses to work in the workdir: {why}; write `trust_repository = true` to trust what git runs there")
        });
    }
    let mut names: Vec<OsString> = directories.iter().map(OsString::from).collect();
    // In a sandbox, the working directory is where its declared path leads, too.
    if workdir.canonicalize().is_ok_and(|real| real != workdir && directories.contains(&real)) {
        names.push(workdir.into());
    }
    add_safe(environment, names);
    None
}

/// Adds settings to those that the environment has.
fn add_safe(environment: &mut Environment, directories: Vec<OsString>) {
    let count = match environment.get(OsStr::new(COUNT)).map(|count| count.to_str().map(str::parse)) {
        None => 0_usize,
        Some(Some(Ok(count))) => count,
        // Git says itself what is wrong with it.
        Some(_) => return,
    };
    let end = count.saturating_add(directories.len());
    for (number, directory) in (count..end).zip(directories) {
        environment.insert(format!("{CONFIGURATION}_KEY_{number}").into(), "safe.directory".into());
        environment.insert(format!("{CONFIGURATION}_VALUE_{number}").into(), directory);
    }
    environment.insert(COUNT.into(), end.to_string().into());
}

/// Whether git does not work in this directory because of its owner: its configuration may trust that already.
fn refuses(environment: &Environment, workdir: &Path, home: Option<&OsStr>) -> bool {
    let variables = environment.iter().filter(|(name, _)| {
        name.to_str().is_some_and(|name| ["PATH", "XDG_CONFIG_HOME"].contains(&name) || name.starts_with(CONFIGURATION))
    });
    let mut command = Command::new("git");
    command.args(["rev-parse", "--git-dir"]).current_dir(workdir).env_clear().envs(variables);
    command.env("LC_ALL", "C").env("HOME", home.unwrap_or(OsStr::new("/nonexistent")));
    if home.is_none() {
        command.env_remove("XDG_CONFIG_HOME");
    }
    let said = said(command.stdout(Stdio::null()).stderr(Stdio::piped()));
    said.is_some_and(|said| String::from_utf8_lossy(&said).contains("dubious ownership"))
}

/// What a command prints on the one of its outputs that is a pipe; nothing if it says too much or takes too long.
pub(super) fn said(command: &mut Command) -> Option<Vec<u8>> {
    let mut child = command.stdin(Stdio::null()).spawn().ok()?;
    let limit = Instant::now() + TIMEOUT;
    let said = match (child.stdout.take(), child.stderr.take()) {
        (Some(output), _) => read(output, limit),
        (None, Some(output)) => read(output, limit),
        (None, None) => Ok(Vec::new()),
    };
    let _ = child.kill();
    let _ = child.wait();
    said.ok()
}

fn read(mut output: impl Read + AsFd, limit: Instant) -> io::Result<Vec<u8>> {
    let (mut said, mut piece) = (Vec::new(), [0; PIECE]);
    loop {
        let mut descriptors = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        poll::wait(&mut descriptors, Some(limit))?;
        let is_ready = descriptors[0].any().unwrap_or_default();
        if said.len() > MOST || Instant::now() >= limit {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match if is_ready { output.read(&mut piece)? } else { continue } {
            0 => return Ok(said),
            count => said.extend_from_slice(&piece[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|&(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn settings_are_added_to_those_that_are_there() {
        let mut given = environment(&[]);
        add_safe(&mut given, vec!["/r".into()]);
        let first = [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory"), ("GIT_CONFIG_VALUE_0", "/r")];
        assert_eq!(given, environment(&first));
        add_safe(&mut given, vec!["/s".into(), "/s/.git".into()]);
        let more = [
            ("GIT_CONFIG_COUNT", "3"),
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("GIT_CONFIG_KEY_1", "safe.directory"),
            ("GIT_CONFIG_KEY_2", "safe.directory"),
            ("GIT_CONFIG_VALUE_0", "/r"),
            ("GIT_CONFIG_VALUE_1", "/s"),
            ("GIT_CONFIG_VALUE_2", "/s/.git"),
        ];
        assert_eq!(given, environment(&more));
    }

    #[test]
    fn a_count_that_is_none_is_left_to_git() {
        let mut given = environment(&[("GIT_CONFIG_COUNT", "many")]);
        add_safe(&mut given, vec!["/r".into()]);
        assert_eq!(given, environment(&[("GIT_CONFIG_COUNT", "many")]));
    }

    #[test]
    fn an_own_repository_needs_nothing() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut given = environment(&[]);
        assert_eq!(trust(&mut given, folder.path(), true, None), None);
        assert_eq!(given, environment(&[]));
    }

    #[test]
    fn a_command_that_hangs_or_babbles_has_said_nothing() {
        for script in ["exec sleep 1000", "exec yes"] {
            let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
            let limit = Instant::now() + Duration::from_millis(300);
            assert!(read(child.stdout.take().unwrap(), limit).is_err(), "{script}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(said(Command::new("echo").arg("x").stdout(Stdio::piped())), Some(b"x\n".to_vec()));
    }
}
