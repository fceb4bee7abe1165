//! The environment that the agent user's login shell gives.
//!
//! The shell is started as a login shell, with a dash before its name as `login(1)` and tmux do it, in a session of its own
//! without a terminal, and told to run agentd, which prints the environment it finds between two markers: profiles print things
//! too. On NixOS this is where `PATH` comes from. A shell that fails, hangs, refuses logins or swallows its arguments gives the
//! account's base environment and a warning.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;

use crate::account::Account;
use crate::frame::Bytes;
use crate::mark;

/// The hidden command that becomes the login shell.
pub const SHELL_COMMAND: &str = "login-shell";

/// The hidden command that prints the environment it finds.
pub const PRINT_COMMAND: &str = "print-environment";

/// How long the shell may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How much it may print: a hundred times what an environment can reasonably be.
const MAX_OUTPUT: usize = 8 << 20;

/// What a login gives.
pub struct Login {
    /// The variables, in no order.
    pub environment: Vec<(OsString, OsString)>,
    /// Whether the shell went to another directory than the one it was started in.
    pub moved: bool,
    /// Why the environment is the base one, if it is.
    pub warning: Option<String>,
}

/// Logs the account in, in the present directory. What the shell starts bears the mark if there is one.
pub async fn log_in(account: &Account, mark: Option<&Bytes>) -> Login {
    let without = |why: String| Login { environment: account.base_environment(), moved: true, warning: Some(why) };
    if account.refuses_logins() {
        // What such a user's PATH should be is nobody's word but ours, so there is nothing to warn of.
        return Login { environment: account.base_environment(), moved: true, warning: None };
    }
    match tokio::time::timeout(TIMEOUT, ask(account, mark)).await {
        Ok(Ok((environment, directory))) => {
            let moved = std::env::current_dir().ok().is_none_or(|here| here != directory);
            Login { environment, moved, warning: None }
        }
        Ok(Err(error)) => without(format!(
            "the login shell {} gave no environment ({error}); a default one is used",
            account.shell.display()
        )),
        Err(_) => without(format!(
            "the login shell {} was not done within {}; a default environment is used",
            account.shell.display(),
            humantime::format_duration(TIMEOUT)
        )),
    }
}

async fn ask(account: &Account, mark: Option<&Bytes>) -> io::Result<(Vec<(OsString, OsString)>, PathBuf)> {
    let executable = std::env::current_exe()?;
    let marker =
        format!("agentd-{}-{}", std::process::id(), humantime::format_rfc3339_nanos(std::time::SystemTime::now()));
    let mut command = tokio::process::Command::new(&executable);
    command.arg(SHELL_COMMAND).arg(&marker).env_clear().envs(account.base_environment());
    command.envs(std::env::var_os("TERM").map(|term| ("TERM", term)));
    command.envs(mark.map(|mark| (mark::VARIABLE, OsStr::from_bytes(mark.as_slice()))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let _ended = Defer(|| {
        // The child leads a group of its own and is not waited for before this, so the number is still its own.
        group.map(|group| killpg(group, Signal::SIGKILL));
    });
    let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut printed = Vec::new();
    loop {
        // Until the second marker rather than the end: something in the background may hold the pipe open.
        if let Some(answer) = between(&printed, marker.as_bytes()) {
            return parse(answer).ok_or_else(|| io::Error::other("what it printed could not be read"));
        }
        if stdout.read_buf(&mut printed).await? == 0 || printed.len() > MAX_OUTPUT {
            return Err(io::Error::other("it did not do as it was told"));
        }
    }
}

/// Runs something however a scope is left, also by cancellation.
struct Defer<F: FnMut()>(F);

impl<F: FnMut()> Drop for Defer<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn between<'a>(printed: &'a [u8], marker: &[u8]) -> Option<&'a [u8]> {
    let find = |bytes: &[u8]| bytes.windows(marker.len()).position(|window| window == marker);
    let rest = &printed[find(printed)? + marker.len()..];
    Some(&rest[..find(rest)?])
}

/// The present directory, then each variable, every one followed by a NUL.
fn parse(answer: &[u8]) -> Option<(Vec<(OsString, OsString)>, PathBuf)> {
    let mut items = answer.split(|&byte| byte == 0);
    let directory = PathBuf::from(OsStr::from_bytes(items.next()?));
    let environment = items
        .filter_map(|item| {
            let equals = item.iter().position(|&byte| byte == b'=').filter(|&at| at > 0)?;
            let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
            Some((text(&item[..equals]), text(&item[equals + 1..])))
        })
        // These tell of the login shell itself.
        .filter(|(name, _)| !["_", "SHLVL", "PWD", "OLDPWD"].iter().any(|own| name == own))
        .collect();
    Some((environment, directory))
}

/// The hidden command [`SHELL_COMMAND`]: becomes the login shell, outside of the terminal's session. Returns only on failure.
pub fn become_login_shell(account: &Account, marker: &OsStr) -> io::Error {
    if let Err(error) = nix::unistd::setsid() {
        return error.into();
    }
    let executable = match std::env::current_exe() {
        Ok(executable) => executable,
        Err(error) => return error,
    };
    let script =
        [b"exec ", single_quote(&executable).as_slice(), b" ", PRINT_COMMAND.as_bytes(), b" ", marker.as_bytes()]
            .concat();
    Command::new(&account.shell).arg0(account.login_shell_name()).arg("-c").arg(OsString::from_vec(script)).exec()
}

fn single_quote(path: &Path) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            byte => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// The hidden command [`PRINT_COMMAND`].
pub fn print_environment(marker: &OsStr, out: &mut impl Write) -> io::Result<()> {
    out.write_all(marker.as_bytes())?;
    out.write_all(std::env::current_dir().unwrap_or_default().as_os_str().as_bytes())?;
    out.write_all(b"\0")?;
    for (name, value) in std::env::vars_os() {
        out.write_all(&[name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat())?;
    }
    out.write_all(marker.as_bytes())?;
    out.flush()
}

/// The hidden command of an operator's shell: the account's own as a login shell in the present directory, or, where that would
/// lead elsewhere or refuses logins, a plain one with the environment of a login. Returns only on failure.
pub fn become_shell(account: &Account) -> io::Error {
    crate::limits::restore_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Login { environment, moved, .. } = match runtime {
        Ok(runtime) => runtime.block_on(log_in(account, None)),
        Err(error) => return error,
    };
    if !moved {
        return Command::new(&account.shell).arg0(account.login_shell_name()).exec();
    }
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for shell in ["bash", "sh", "/bin/sh"] {
        let mut command = Command::new(shell);
        command.env_clear().envs(environment.iter().cloned()).envs(terminal_variables());
        failure = command.exec();
    }
    failure
}

/// What the pane itself gives.
pub fn terminal_variables() -> impl Iterator<Item = (&'static str, OsString)> {
    ["TERM", "TMUX", "TMUX_PANE"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_profile_prints_around_the_answer_is_passed_over() {
        let printed = b"Welcome!\nM/home/a\0A=1\0B=x=y\nz\0_=x\0PWD=/\0=bad\0Mbye";
        let (environment, directory) = parse(between(printed, b"M").unwrap()).unwrap();
        assert_eq!(directory, Path::new("/home/a"));
        assert_eq!(environment, [("A".into(), "1".into()), ("B".into(), "x=y\nz".into())]);
    }

    #[test]
    fn half_an_answer_is_none() {
        assert!(between(b"noise M/home\0A=1", b"M").is_none());
        assert!(between(b"", b"M").is_none());
    }

    #[test]
    fn a_quote_in_the_path_stays_one_word() {
        let script = [b"printf %s ".as_slice(), &single_quote(Path::new("/a b'c;d"))].concat();
        let output = Command::new("sh").arg("-c").arg(OsString::from_vec(script)).output().unwrap();
        assert_eq!(output.stdout, b"/a b'c;d");
    }
}
