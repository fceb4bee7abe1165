//! Which daemon is meant, and what it was told to use.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::stat::{lstat, major, minor};
use nix::unistd::Uid;

use crate::cli::{self, Whereabouts};
use crate::settings::{SYSTEM_CONFIG, Settings, Surroundings};
use crate::sys::account::{self, Account};
use crate::sys::process::{self, Process};
use crate::sys::procfs;
use crate::sys::unix_socket::{self, Peer};

/// Everything that a verb may have to look at.
#[derive(Debug)]
pub(super) struct Target {
    /// What the daemon uses, or would use.
    pub settings: Settings,
    /// Whether the daemon is root's, for the agents of the whole machine.
    pub is_system: bool,
    /// The daemon that listens, as far as it can be told.
    pub daemon: Option<Daemon>,
    /// Who asks.
    pub asker: Uid,
    /// Whom agents run as.
    pub account: Result<Account, account::Error>,
}

/// A daemon, as the kernel knows it.
#[derive(Debug)]
pub(super) struct Daemon {
    pub pid: i32,
    pub uid: Uid,
    /// Where it looks for tmux, if the asker may know.
    pub path: Option<OsString>,
    argv: Vec<OsString>,
    environment: Option<HashMap<OsString, OsString>>,
}

impl Daemon {
    /// Who listens on the API's socket. One that is neither root's nor the asker's own is believed nothing, and neither is a service
    /// manager that keeps the socket for the daemon.
    fn listening(socket: &Path) -> io::Result<Option<Self>> {
        let stream = UnixStream::connect(socket)?;
        let Peer { pid, uid } = unix_socket::peer(&stream)?;
        Ok(pid.and_then(|pid| Self::look_at(pid, uid)))
    }

    /// Who has the lock on that state directory, likewise.
    fn holding(state_dir: &Path) -> Option<Self> {
        let pid = holder(state_dir).ok()??;
        Self::look_at(pid, process::real_user(pid).ok()??)
    }

    fn look_at(pid: i32, uid: Uid) -> Option<Self> {
        if !uid.is_root() && uid != Uid::effective() {
            return None;
        }
        // Held, lest somebody else get its id meanwhile. The first process keeps its own.
        let held = if pid == 1 { None } else { Some(Process::find(pid).ok()??) };
        if process::real_user(pid).ok()? != Some(uid) {
            return None;
        }
        let file = |name: &str| procfs::read(format!("/proc/{pid}/{name}")).ok();
        let name = file("comm")?;
        // NixOS runs programs under such names.
        if !name.strip_prefix(b".").unwrap_or(&name).starts_with(b"agentd") {
            return None;
        }
        let argv = strings(&file("cmdline")?);
        let environment = file("environ").map(|environ| {
            let variables = strings(&environ).into_iter();
            variables
                .filter_map(|variable| {
                    let at = variable.as_bytes().iter().position(|&byte| byte == b'=')?;
                    let (name, value) = variable.as_bytes().split_at(at);
                    Some((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(&value[1..]).to_owned()))
                })
                .collect::<HashMap<_, _>>()
        });
        // Asked last: all of that was its own.
        if held.is_some_and(|process| !process.lives().unwrap_or(false)) {
            return None;
        }
        let path = environment.as_ref().and_then(|variables| variables.get(OsStr::new("PATH")).cloned());
        Some(Self { pid, uid, path, argv, environment })
    }

    /// What it was told, if it can be understood: it may be of another version.
    fn arguments(&self) -> Option<cli::Arguments> {
        let arguments = cli::Arguments::read(self.argv.iter().cloned()).ok()?;
        arguments.command.is_none().then_some(arguments)
    }

    /// `None` if they are not for the asker to know.
    fn surroundings(&self) -> Option<Surroundings> {
        let environment = self.environment.as_ref()?;
        let home = Account::current().map_or_else(|_| "/".into(), |account| account.home);
        Some(Surroundings::of(self.uid.is_root(), home, |name| environment.get(OsStr::new(name)).cloned()))
    }
}

/// Parts that end in a NUL byte.
fn strings(bytes: &[u8]) -> Vec<OsString> {
    let parts = bytes.split_inclusive(|&byte| byte == 0);
    parts.map(|part| OsStr::from_bytes(part.strip_suffix(b"\0").unwrap_or(part)).to_owned()).collect()
}

/// Who holds the lock of a state directory, by `/proc/locks` (`proc_locks(5)`). The lock itself is not touched: a daemon that starts
/// meanwhile must find it free.
pub(super) fn holder(state_dir: &Path) -> io::Result<Option<i32>> {
    let status = lstat(state_dir)?;
    let device = (major(status.st_dev), minor(status.st_dev));
    Ok(procfs::lock_holder(&procfs::read("/proc/locks")?, device, status.st_ino))
}

impl Target {
    /// What the asker names, else what the daemon that listens was told, else the defaults for its user.
    pub fn find(all: &cli::Arguments, named: &Whereabouts, here: &Surroundings) -> Self {
        let asker = Uid::effective();
        let socket = all.places.client_socket(here);
        let (listening, is_denied) = match Daemon::listening(&socket) {
            Ok(daemon) => (daemon, false),
            Err(error) => (None, error.kind() == io::ErrorKind::PermissionDenied),
        };
        let is_roots = fs::symlink_metadata(&socket).is_ok_and(|metadata| metadata.uid() == 0);
        let is_declared = all.places.checked_config(here) == Path::new(SYSTEM_CONFIG);
        let is_system = match &listening {
            Some(daemon) => daemon.uid.is_root(),
            None => asker.is_root() || is_roots || is_denied || is_declared,
        };
        let by_default =
            if is_system && !asker.is_root() { Surroundings::of(true, "/root".into(), |_| None) } else { here.clone() };
        let settings = |daemon: Option<&Daemon>| {
            let mut meant = daemon.and_then(Daemon::arguments).unwrap_or_default();
            meant.places.overlay(&all.places);
            meant.daemon.whereabouts.overlay(&all.daemon.whereabouts);
            meant.daemon.whereabouts.overlay(named);
            meant.settings(&daemon.and_then(Daemon::surroundings).unwrap_or_else(|| by_default.clone()))
        };
        // A service manager may listen for the daemon, and not everybody may knock: whoever has the state directory is it.
        let daemon = listening.or_else(|| Daemon::holding(&settings(None).state_dir));
        let settings = settings(daemon.as_ref());
        let account = match &settings.user {
            Some(user) => Account::find(user),
            None if is_system => Account::find("agent"),
            None => Account::current(),
        };
        Self { settings, is_system, daemon, asker, account }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_its_parts() {
        assert_eq!(strings(b"agentd\0--config\0\0"), ["agentd", "--config", ""]);
        assert_eq!(strings(b"cut off"), ["cut off"]);
        assert_eq!(strings(b""), [""; 0]);
    }

    #[test]
    fn a_held_lock_is_found_in_the_kernels_own_table() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(holder(directory.path()).unwrap(), None);
        let _lock = crate::state::lock::Lock::take(directory.path()).unwrap();
        assert_eq!(holder(directory.path()).unwrap(), i32::try_from(std::process::id()).ok());
    }

    #[test]
    fn a_process_of_another_name_is_no_daemon() {
        assert!(Daemon::look_at(1, Uid::from_raw(0)).is_none());
    }
}
