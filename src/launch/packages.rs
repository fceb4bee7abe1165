//! The packages of an agent, which are there before its harness starts.
//!
//! The launcher starts `agentd step packages`, which has Nix build or download them, in a process group of its own: what it says goes
//! to the pane, and the outcome comes over a pipe. It is bounded in time, and ends with the agent.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::agent::packages::{Built, Outcome, Package};
use crate::sys::fd;

/// The hidden command that does the steps.
pub const STEP_COMMAND: &str = "step";

/// The step that builds packages.
pub const STEP: &str = "packages";

/// The step that only looks for Nix.
pub const LOOK_STEP: &str = "nix";

/// How much is read at a time.
const PIECE: usize = 4096;

/// How much the step may answer. A closure has up to some thousand paths.
const MAX_ANSWER: usize = 4 << 20;

/// How long Nix may take to end after SIGINT.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Packages that are being built, by a process group that gets SIGINT when this is dropped.
#[derive(Debug)]
pub(super) struct Building {
    child: Child,
    stdout: ChildStdout,
    answer: Vec<u8>,
    within: Duration,
    limit: Instant,
}

impl Building {
    /// Has `agentd` build the packages of an agent.
    pub fn begin(
        agentd: &Path,
        agent: &str,
        packages: &[Package],
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        within: Duration,
    ) -> io::Result<Self> {
        let mut command = Command::new(agentd);
        command.args([STEP_COMMAND, STEP, agent]).args(packages.iter().map(Package::as_str));
        command.env_clear().envs(environment).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        fd::set_nonblocking(&stdout)?;
        Ok(Self { child, stdout, answer: Vec::new(), within, limit: Instant::now() + within })
    }

    /// Readable when there is something to [take in](Self::take_in).
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    /// When they must be there.
    pub fn limit(&self) -> Instant {
        self.limit
    }

    /// Takes in what was answered so far; `None` while the answer is incomplete and there is time left. An error says why there are no
    /// packages.
    pub fn take_in(&mut self) -> Option<Result<Built, String>> {
        let mut piece = [0; PIECE];
        loop {
            match self.stdout.read(&mut piece) {
                Ok(0) => return Some(self.conclude()),
                Ok(count) if self.answer.len() + count <= MAX_ANSWER => self.answer.extend_from_slice(&piece[..count]),
                Ok(_) => return Some(Err("the answer of the step is too long".to_owned())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let within = humantime::format_duration(self.within);
                    let late = || Err(format!("they were not there within {within} (`extra_packages_timeout`)"));
                    return (Instant::now() >= self.limit).then(late);
                }
                Err(error) => return Some(Err(format!("the step that builds them cannot be followed: {error}"))),
            }
        }
    }

    fn conclude(&self) -> Result<Built, String> {
        match serde_json::from_slice(&self.answer) {
            Ok(Outcome::Built(built)) => Ok(built),
            Ok(Outcome::Failed(why)) => Err(why),
            Err(_) => Err("the step that builds them ended without an answer".to_owned()),
        }
    }

    /// The process to wait for.
    pub fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().map(Pid::from_raw)
    }

    /// Has it end.
    pub fn interrupt(&self) {
        if let Some(pid) = self.pid() {
            // It leads its group.
            let _ = killpg(pid, Signal::SIGINT);
        }
    }
}

/// A `PATH` with these folders before all others.
pub(super) fn with_programs(programs: &[PathBuf], path: Option<&OsStr>) -> OsString {
    let folders = programs.iter().map(|folder| folder.as_os_str()).chain(path);
    folders.collect::<Vec<_>>().join(OsStr::new(":"))
}

/// Whether a declared variable is for Nix, too: where it is and what it uses, and how it reaches the network.
pub(super) fn is_for_nix(variable: &str) -> bool {
    let upper = variable.to_ascii_uppercase();
    variable == "PATH"
        || variable.starts_with("NIX_")
        || ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"].contains(&upper.as_str())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use nix::poll::{PollFd, PollFlags};

    use super::*;
    use crate::sys::poll;

    /// What comes of it if this script runs in place of agentd.
    fn build_by(script: &str, within: Duration) -> Result<Built, String> {
        let folder = tempfile::TempDir::new().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let packages = ["jq", "a.b"].map(|name| Package::new(name).unwrap());
        let environment = [("PATH".into(), std::env::var_os("PATH").unwrap()), ("A".into(), "1".into())];
        let mut building = Building::begin(&program, "a", &packages, environment, within).unwrap();
        let outcome = loop {
            if let Some(outcome) = building.take_in() {
                break outcome;
            }
            let limit = building.limit();
            poll::wait(&mut [PollFd::new(building.descriptor(), PollFlags::POLLIN)], Some(limit)).unwrap();
        };
        building.interrupt();
        building.child.wait().unwrap();
        outcome
    }

    #[test]
    fn the_step_is_given_the_packages_and_its_answer_is_read() {
        let script = r#"[ "$*$A$B" = "step packages a jq a.b1" ] && printf '{"built":{"programs":["/p/bin"],"closure":["/p"]}}'"#;
        let built = build_by(script, Duration::from_secs(20)).unwrap();
        assert_eq!(built, Built { programs: vec!["/p/bin".into()], closure: vec!["/p".into()] });
    }

    #[test]
    fn a_step_that_fails_hangs_or_says_nothing_has_a_reason() {
        let cases = [
            (r#"printf '{"failed":"no such package"}'; exit 1"#, "no such package"),
            ("exit 3", "ended without an answer"),
            ("echo '{\"built\":'", "ended without an answer"),
            ("exec sleep 100", "were not there within 1s (`extra_packages_timeout`)"),
            ("exec head -c 5000000 /dev/zero", "too long"),
        ];
        for (script, expected) in cases {
            let why = build_by(script, Duration::from_secs(1)).unwrap_err();
            assert!(why.contains(expected), "{script}: {why}");
        }
    }

    #[test]
    fn programs_come_first_in_the_path() {
        let folders = [PathBuf::from("/a/bin"), "/b/bin".into()];
        assert_eq!(with_programs(&folders, Some(OsStr::new("/bin:/c"))), "/a/bin:/b/bin:/bin:/c");
        assert_eq!(with_programs(&folders, None), "/a/bin:/b/bin");
        assert_eq!(with_programs(&[], Some(OsStr::new("/bin"))), "/bin");
    }

    #[test]
    fn only_variables_for_nix_are_handed_on() {
        for name in ["PATH", "NIX_CONFIG", "https_proxy", "NO_PROXY", "SSL_CERT_FILE"] {
            assert!(is_for_nix(name), "{name}");
        }
        for name in ["API_KEY", "nix_config", "HOME", "LD_PRELOAD"] {
            assert!(!is_for_nix(name), "{name}");
        }
    }
}
