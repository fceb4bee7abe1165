//! The interactive tmux client of `agentd attach`. Unlike the deputy's clients, it has a terminal.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::Uid;

use super::{Program, RunError, worker};
use crate::sys::account::{self, Account};
use crate::sys::inheritance;

/// The name of the hidden command that becomes this client.
pub const COMMAND: &str = "tmux-client";

/// The environment variables that the client keeps. A client sends its whole environment to its server.
const KEPT: [&str; 2] = ["LANG", "TERM"];

/// Why the client could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process could not become the user.
    #[error(transparent)]
    Account(#[from] account::Error),
    /// The process could not give up what it inherited.
    #[error(transparent)]
    Inheritance(#[from] inheritance::Error),
    /// The user is root. A server can make its clients do anything.
    #[error("failed to run tmux: it is not run as root")]
    Root,
    /// tmux could not be found or started.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// The arguments that make agentd [become](become_client) a client.
pub fn words(user: &Account, program: &Program, arguments: Vec<String>) -> Vec<OsString> {
    let program = match program {
        Program::Installed => OsString::new(),
        Program::OfServer(socket) => socket.into(),
    };
    let head = [COMMAND.into(), user.name.clone().into(), user.uid.to_string().into(), program];
    head.into_iter().chain(arguments.into_iter().map(OsString::from)).collect()
}

/// Becomes `user`, who must have that uid and not be root, and then tmux with these arguments.
///
/// tmux is found in this process's `PATH`. `program` is the socket of the server whose program to use instead, or empty. Returns
/// only on failure.
pub fn become_client(user: &str, uid: Uid, program: &OsStr, arguments: &[&OsString]) -> Error {
    let program = if program.is_empty() { Program::Installed } else { Program::OfServer(program.into()) };
    match prepare(user, uid, &program) {
        Ok(mut command) => worker::not_started(&command.args(arguments).exec()).into(),
        Err(error) => error,
    }
}

fn prepare(user: &str, uid: Uid, program: &Program) -> Result<Command, Error> {
    let account = Account::find_again(user, uid)?;
    if account.uid.is_root() {
        return Err(Error::Root);
    }
    if Uid::effective().is_root() {
        inheritance::renounce()?;
    }
    account.assume()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let mut command = Command::new(worker::path_of(program)?);
    let kept = KEPT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.arg0(worker::TMUX).env_clear().envs(account.base_environment()).envs(kept);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_client_is_run_as_root() {
        let error = become_client("root", Uid::from_raw(0), OsStr::new(""), &[&"-V".into()]);
        assert!(matches!(error, Error::Root), "{error}");
    }

    #[test]
    fn no_client_is_run_as_another_user_of_the_same_name() {
        let error = become_client("root", Uid::from_raw(1), OsStr::new(""), &[&"-V".into()]);
        assert!(matches!(error, Error::Account(account::Error::Changed { .. })), "{error}");
    }
}
