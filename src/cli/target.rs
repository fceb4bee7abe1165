//! The daemon that a command is about, and the files that it uses.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::stat::{lstat, major, minor};
use nix::unistd::{Gid, Uid};

use crate::agent::name::Key;
use crate::agent::user::UserName;
use crate::cli::{self, Whereabouts};
use crate::config::{self, Options};
use crate::inputs::users::{Banned, Rules};
use crate::launch::program;
use crate::settings::{SYSTEM_CONFIG, Settings, Surroundings, absolute};
use crate::sys::account::{self, Account};
use crate::sys::process::{self, Process};
use crate::sys::procfs;
use crate::sys::regular_file;
use crate::sys::unix_socket::{self, Peer};

/// A daemon that is running or could run, with its settings and its agent user.
#[derive(Debug)]
pub(super) struct Target {
    /// The settings that the daemon uses, or would use.
    pub settings: Settings,
    /// Whether it is the root daemon, which runs the agents of the whole machine.
    pub is_system: bool,
    /// The running daemon, if one was found.
    pub daemon: Option<Daemon>,
    /// The user that runs this command.
    pub user_id: Uid,
    /// The user that agents run as.
    pub account: Result<Account, account::Error>,
}

/// A daemon, as the kernel knows it.
#[derive(Debug)]
pub(super) struct Daemon {
    pub pid: i32,
    pub uid: Uid,
    /// Its `PATH`, where it looks for tmux; `None` if this user may not read it.
    pub path: Option<OsString>,
    argv: Vec<OsString>,
    environment: Option<HashMap<OsString, OsString>>,
}

impl Daemon {
    /// The daemon that listens on the API's socket.
    ///
    /// A process of a third user is not trusted and does not count, and neither does a service manager that holds the socket for the
    /// daemon.
    fn listening(socket: &Path) -> io::Result<Option<Self>> {
        let stream = UnixStream::connect(socket)?;
        let Peer { pid, uid } = unix_socket::peer(&stream)?;
        Ok(pid.and_then(|pid| Self::look_at(pid, uid)))
    }

    /// The daemon that holds the lock of a state directory, with the same exceptions.
    fn holding(state_dir: &Path) -> Option<Self> {
        let pid = holder(state_dir).ok()??;
        Self::look_at(pid, process::real_user(pid).ok()??)
    }

    fn look_at(pid: i32, uid: Uid) -> Option<Self> {
        if !uid.is_root() && uid != Uid::effective() {
            return None;
        }
        // The handle shows later whether the process ID was reused. Process 1 cannot end, so its ID is never reused.
        let held = if pid == 1 { None } else { Some(Process::find(pid).ok()??) };
        if process::real_user(pid).ok()? != Some(uid) {
            return None;
        }
        let file = |name: &str| procfs::read(format!("/proc/{pid}/{name}")).ok();
        let name = file("comm")?;
        // NixOS wraps programs and puts a dot before their names.
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
        // Checked last: if the process still lives, everything read above was its own.
        if held.is_some_and(|process| !process.lives().unwrap_or(false)) {
            return None;
        }
        let path = environment.as_ref().and_then(|variables| variables.get(OsStr::new("PATH")).cloned());
        Some(Self { pid, uid, path, argv, environment })
    }

    /// Its command line; `None` if this version does not understand it.
    fn arguments(&self) -> Option<cli::Arguments> {
        let arguments = cli::Arguments::read(self.argv.iter().cloned()).ok()?;
        arguments.command.is_none().then_some(arguments)
    }

    /// Its environment; `None` if this user may not read it.
    fn surroundings(&self) -> Option<Surroundings> {
        let environment = self.environment.as_ref()?;
        let home = Account::current().map_or_else(|_| "/".into(), |account| account.home);
        Some(Surroundings::of(self.uid.is_root(), home, |name| environment.get(OsStr::new(name)).cloned()))
    }
}

/// The strings of a list in which each string ends with a NUL byte.
fn strings(bytes: &[u8]) -> Vec<OsString> {
    let parts = bytes.split_inclusive(|&byte| byte == 0);
    parts.map(|part| OsStr::from_bytes(part.strip_suffix(b"\0").unwrap_or(part)).to_owned()).collect()
}

/// The process that holds the lock of a state directory, according to `/proc/locks` (`proc_locks(5)`).
///
/// The lock itself is not tried, because a daemon that starts at the same time must find it free.
pub(super) fn holder(state_dir: &Path) -> io::Result<Option<i32>> {
    let status = lstat(state_dir)?;
    let device = (major(status.st_dev), minor(status.st_dev));
    Ok(procfs::lock_holder(&procfs::read("/proc/locks")?, device, status.st_ino))
}

impl Target {
    /// The launcher of the daemon. It may be another agentd than this one, with its own launcher beside it.
    pub(super) fn launcher(&self) -> Result<PathBuf, program::Error> {
        let agentd = self.daemon.as_ref().and_then(|daemon| fs::read_link(format!("/proc/{}/exe", daemon.pid)).ok());
        let beside = agentd.map(|agentd| agentd.with_file_name(program::NAME));
        program::find(self.settings.launcher.as_deref().or(beside.as_deref()))
    }

    /// Finds the daemon. Each setting is that of the command line, else that of the running daemon, else the default for its user.
    pub fn find(all: &cli::Arguments, named: &Whereabouts, here: &Surroundings) -> Self {
        let user_id = Uid::effective();
        let socket = all.places.client_socket(here);
        let (listening, is_denied) = match Daemon::listening(&socket) {
            Ok(daemon) => (daemon, false),
            Err(error) => (None, error.kind() == io::ErrorKind::PermissionDenied),
        };
        let is_roots = fs::symlink_metadata(&socket).is_ok_and(|metadata| metadata.uid() == 0);
        let is_declared = all.places.checked_config(here) == Path::new(SYSTEM_CONFIG);
        let is_system = match &listening {
            Some(daemon) => daemon.uid.is_root(),
            None => user_id.is_root() || is_roots || is_denied || is_declared,
        };
        let by_default = if is_system && !user_id.is_root() {
            Surroundings::of(true, "/root".into(), |_| None)
        } else {
            here.clone()
        };
        let settings = |daemon: Option<&Daemon>| {
            let mut meant = daemon.and_then(Daemon::arguments).unwrap_or_default();
            meant.places.overlay(&all.places);
            meant.daemon.whereabouts.overlay(&all.daemon.whereabouts);
            meant.daemon.whereabouts.overlay(named);
            meant.settings(&daemon.and_then(Daemon::surroundings).unwrap_or_else(|| by_default.clone()))
        };
        // A service manager may hold the socket, and this user may not be allowed to connect. The daemon is then the process that has
        // locked the state directory.
        let daemon = listening.or_else(|| Daemon::holding(&settings(None).state_dir));
        let settings = settings(daemon.as_ref());
        let account = match &settings.user {
            Some(user) => Account::find(user),
            None if is_system => Account::find("agent"),
            None => Account::current(),
        };
        Self { settings, is_system, daemon, user_id, account }
    }

    /// Who may be an agent user beside the default one. A group that does not exist has no members.
    pub fn rules(&self) -> Rules {
        if !self.is_system {
            let own = self.account.as_ref().map_or_else(|_| "nobody".to_owned(), |account| account.name.clone());
            return Rules::Nobody { own };
        }
        let banned = [&self.settings.admin_group, &self.settings.operator_group].into_iter().filter_map(|name| {
            let group = Gid::from_raw(users::get_group_by_name(name)?.gid());
            Some(Banned { name: name.clone(), group })
        });
        let default = self.account.as_ref().ok().map(|account| account.uid);
        Rules::Members { agents: self.settings.agent_group.clone(), banned: banned.collect(), default }
    }

    /// Whether this is the default user.
    pub fn is_default(&self, user: &str) -> bool {
        self.account.as_ref().is_ok_and(|account| account.name == user)
    }

    /// The account of a user that agents run as, and the socket of that user's tmux server; `None` is the default user. An error is for
    /// people.
    pub fn side_of(&self, user: Option<&str>) -> Result<(Account, PathBuf), String> {
        match user.filter(|user| !self.is_default(user)) {
            None => {
                let account = self.account.as_ref().map_err(ToString::to_string)?;
                Ok((account.clone(), self.settings.tmux_socket.clone()))
            }
            Some(user) => {
                let name: UserName = user.parse().map_err(|error| format!("{user:?} is not a user: {error}"))?;
                let account = Account::find(name.as_str()).map_err(|error| error.to_string())?;
                Ok((account, self.settings.user_socket(name.as_str())))
            }
        }
    }

    /// The user that an agent's entry names, as far as this user may read the jcard.
    pub fn declared_user(&self, agent: &Key) -> Option<String> {
        let (text, _) = regular_file::read(&self.settings.config, config::MAX_SIZE).ok()?;
        let config = config::parse(&text, &self.settings.options).ok()?;
        let entry = config.entries.into_iter().find(|entry| entry.name.key() == *agent)?;
        Some(entry.spec.ok()?.user?.to_string())
    }
}

/// How jcards are read: one that a running daemon uses like that daemon reads it, and any other by the command line alone.
#[derive(Debug)]
pub struct Reading {
    usual: Options,
    /// The jcard of the running daemon, and its options. Those of the command line come first.
    of_daemon: Option<(PathBuf, Options)>,
}

impl Reading {
    /// Looks for the daemon.
    pub fn find(all: &cli::Arguments, here: &Surroundings) -> Self {
        // A jcard that the command line names is not that of the daemon.
        let mut places = cli::Places { config: None, ..all.places.clone() };
        places.api.socket = places.api.socket.or_else(|| cli::named_socket(here).ok()?);
        let asked = cli::Arguments { command: None, places, daemon: all.daemon.clone() };
        let Target { settings, daemon, .. } = Target::find(&asked, &Whereabouts::default(), here);
        let of_daemon = daemon.map(|_| (settings.config, settings.options));
        Self { usual: all.places.options(here), of_daemon }
    }

    /// The options for reading this jcard.
    pub fn options(&self, file: &Path) -> &Options {
        match &self.of_daemon {
            Some((config, options)) if is_same(config, file) => options,
            _ => &self.usual,
        }
    }
}

/// Whether two paths are those of one file.
fn is_same(one: &Path, other: &Path) -> bool {
    absolute(one) == absolute(other)
        || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|it| it == one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_split_at_nul_bytes() {
        assert_eq!(strings(b"agentd\0--config\0\0"), ["agentd", "--config", ""]);
        assert_eq!(strings(b"cut off"), ["cut off"]);
        assert_eq!(strings(b""), [""; 0]);
    }

    #[test]
    fn held_lock_is_found_in_proc_locks() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(holder(directory.path()).unwrap(), None);
        let _lock = crate::state::lock::Lock::take(directory.path()).unwrap();
        assert_eq!(holder(directory.path()).unwrap(), i32::try_from(std::process::id()).ok());
    }

    #[test]
    fn only_the_jcard_of_a_daemon_is_read_with_its_options() {
        let folder = tempfile::tempdir().unwrap();
        let (config, link) = (folder.path().join("jcard.toml"), folder.path().join("link"));
        std::fs::write(&config, "").unwrap();
        std::os::unix::fs::symlink(&config, &link).unwrap();
        let of_daemon = Options { unsandboxed: true, ..Options::default() };
        let reading = Reading { usual: Options::default(), of_daemon: Some((config.clone(), of_daemon)) };
        assert!(reading.options(&config).unsandboxed && reading.options(&link).unsandboxed);
        for other in [folder.path().join("other.toml"), PathBuf::from("-")] {
            assert!(!reading.options(&other).unsandboxed);
        }
    }

    #[test]
    fn process_of_another_name_is_not_a_daemon() {
        assert!(Daemon::look_at(1, Uid::from_raw(0)).is_none());
    }
}
