//! Settings: flags, the environment, and the defaults for the rest.
//!
//! Every default path is defined here, and nowhere else.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;

use crate::config;
use crate::logs::store::Retention;
use crate::sys::account::Account;
use crate::sys::log::Detail;
use crate::tmux;
use crate::wire::SOCKET_VARIABLE;

/// Everything that the command line determines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The jcard.
    pub config: PathBuf,
    /// The secrets directory.
    pub secret_dir: PathBuf,
    /// The API's socket.
    pub api_socket: PathBuf,
    /// The socket of the dedicated tmux server.
    pub tmux_socket: PathBuf,
    /// The socket through which operators attach and send.
    pub terminal_socket: PathBuf,
    /// What starts that server.
    pub tmux_origin: tmux::Origin,
    /// The directory for state, readable by root only.
    pub state_dir: PathBuf,
    /// The directory for the output of agents.
    pub log_dir: PathBuf,
    /// How much of the output to keep.
    pub log_retention: Retention,
    /// The launcher's program; `None` for the one beside agentd.
    pub launcher: Option<PathBuf>,
    /// The user that agents run as; `None` without root if none was named.
    pub user: Option<String>,
    /// The group that may use the sockets, if agentd runs as root.
    pub admin_group: String,
    /// The overrides directory.
    pub override_dir: PathBuf,
    /// The group that may act on agents, if agentd runs as root.
    pub operator_group: String,
    /// The group whose members agents may run as, if agentd runs as root.
    pub agent_group: String,
    /// How often to read everything again.
    pub resync: Duration,
    /// How long to wait after a change.
    pub settle: Duration,
    /// How long a login shell may take.
    pub login_timeout: Duration,
    /// How much to log.
    pub detail: Detail,
    /// Options for reading the jcard.
    pub options: config::Options,
    /// What to do at SIGTERM.
    pub on_terminate: OnTerminate,
    /// Flags of the Go daemon that were given and have no effect.
    pub without_effect: Vec<&'static str>,
}

impl Settings {
    /// The folder of the folders of users beside the default one. It is beside the terminal socket, where only root can change
    /// anything. Agents that run in another one are not found by the next daemon.
    pub fn users_dir(&self) -> PathBuf {
        self.terminal_socket.with_file_name("users")
    }

    /// The socket of the tmux server of a user who is not the default one.
    pub fn user_socket(&self, user: &str) -> PathBuf {
        self.users_dir().join(user).join(TMUX_SOCKET)
    }
}

/// What happens to the agents when the daemon is terminated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnTerminate {
    /// The agents continue if systemd is restarting the daemon, and are stopped otherwise. Without systemd, they are stopped.
    #[default]
    Auto,
    /// The agents are stopped, each within its grace period; the next daemon starts them again.
    Stop,
    /// The agents continue, and the next daemon adopts them.
    Detach,
}

/// The parts of the environment that determine the default paths.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub(crate) root: bool,
    pub(crate) home: PathBuf,
    pub(crate) config_home: Option<PathBuf>,
    pub(crate) runtime_dir: Option<PathBuf>,
    pub(crate) state_home: Option<PathBuf>,
    pub(crate) state_directory: Option<OsString>,
    pub(crate) logs_directory: Option<OsString>,
    pub(crate) credentials_directory: Option<PathBuf>,
    pub(crate) named_api_socket: Option<PathBuf>,
}

impl Surroundings {
    /// The surroundings of this process.
    pub fn here() -> Self {
        let home = Account::current().map_or_else(|_| "/".into(), |account| account.home);
        Self::of(Uid::effective().is_root(), home, |name| std::env::var_os(name))
    }

    /// The surroundings of a process: whether it runs as root, its user's home, and its variables.
    pub(crate) fn of(root: bool, home: PathBuf, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        // The XDG base directory specification says to ignore paths that are not absolute.
        let path = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            root,
            home: path("HOME").unwrap_or(home),
            config_home: path("XDG_CONFIG_HOME"),
            runtime_dir: path("XDG_RUNTIME_DIR"),
            state_home: path("XDG_STATE_HOME"),
            state_directory: variable("STATE_DIRECTORY").filter(|value| !value.is_empty()),
            logs_directory: variable("LOGS_DIRECTORY").filter(|value| !value.is_empty()),
            credentials_directory: path("CREDENTIALS_DIRECTORY"),
            named_api_socket: variable(SOCKET_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from),
        }
    }

    pub(crate) fn config(&self) -> PathBuf {
        if self.root { "/etc/stereos".into() } else { self.own_config().join("agentd") }
    }

    fn own_config(&self) -> PathBuf {
        self.config_home.clone().unwrap_or_else(|| self.home.join(".config"))
    }

    pub(crate) fn state(&self) -> PathBuf {
        first(self.state_directory.as_ref())
            .unwrap_or_else(|| if self.root { "/var/lib/agentd".into() } else { self.own_state().join("agentd") })
    }

    pub(crate) fn logs(&self) -> PathBuf {
        let own = || if self.root { "/var/log/agentd".into() } else { self.own_state().join("agentd/logs") };
        first(self.logs_directory.as_ref()).unwrap_or_else(own)
    }

    fn own_state(&self) -> PathBuf {
        self.state_home.clone().unwrap_or_else(|| self.home.join(".local/state"))
    }

    /// The runtime directory without root. If the user has none, a directory of the user's is used instead.
    fn own_runtime(&self) -> PathBuf {
        self.runtime_dir.as_ref().map_or_else(|| self.own_state().join("agentd/run"), |path| path.join("agentd"))
    }

    pub(crate) fn overrides(&self) -> PathBuf {
        if self.root { "/var/lib/agentd-overrides".into() } else { self.own_state().join("agentd-overrides") }
    }

    pub(crate) fn api_socket(&self) -> PathBuf {
        if self.root { SYSTEM_API_SOCKET.into() } else { self.own_runtime().join("agentd.sock") }
    }

    pub(crate) fn tmux_socket(&self) -> PathBuf {
        if self.root { "/run/agentd/tmux.sock".into() } else { self.own_runtime().join("tmux.sock") }
    }

    /// In a folder of root's: the agent user owns the one of the tmux socket, and could put another socket there.
    pub(crate) fn terminal_socket(&self) -> PathBuf {
        if self.root { "/run/agentd-daemon/terminal.sock".into() } else { self.own_runtime().join("terminal.sock") }
    }

    pub(crate) fn secret_dir(&self) -> PathBuf {
        if let Some(credentials) = &self.credentials_directory {
            credentials.clone()
        } else if self.root {
            "/run/stereos/secrets".into()
        } else {
            self.config().join("secrets")
        }
    }
}

/// The first of several directories, which systemd separates by colons (`systemd.exec(5)`, `RuntimeDirectory=`).
fn first(directories: Option<&OsString>) -> Option<PathBuf> {
    std::env::split_paths(directories?).next()
}

/// The name of the socket of each tmux server in the folder of its user.
pub(crate) const TMUX_SOCKET: &str = "tmux.sock";

pub(crate) const SYSTEM_API_SOCKET: &str = "/run/stereos/agentd.sock";

pub(crate) const SYSTEM_CONFIG: &str = "/etc/stereos/jcard.toml";

/// The user's own file if it exists, else the machine's if that exists.
pub(crate) fn first_there(own: PathBuf, system: &str) -> PathBuf {
    if own.exists() || !may_exist(Path::new(system).try_exists()) { own } else { system.into() }
}

/// Whether a file may exist. In a folder that is closed to this user it may; whoever uses it says that it is closed.
fn may_exist(seen: io::Result<bool>) -> bool {
    seen.unwrap_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

pub(crate) fn absolute(path: &Path) -> PathBuf {
    // Fails only for an empty path, or when the current directory is gone; the path leads nowhere in either case.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_a_closed_folder_may_exist() {
        assert!(may_exist(Ok(true)) && may_exist(Err(io::ErrorKind::PermissionDenied.into())));
        assert!(!may_exist(Ok(false)) && !may_exist(Err(io::ErrorKind::NotADirectory.into())));
    }
}
