//! The environment that the agent user's login shell gives.
//!
//! The shell is started as a login shell, with a dash before its name as `login(1)` and tmux do it, in a session of its own
//! without a terminal, and told to run agentd, which prints the environment it finds between two markers: profiles print things
//! too. On NixOS this is where `PATH` comes from. A shell that fails, hangs or swallows its arguments gives none: nobody is to run
//! with one that was made up. An account that refuses logins has its base environment, and one whose shell is not there that of
//! `/bin/sh`.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, eaccess};
use tokio::io::AsyncReadExt;

use crate::contain::marker;
use crate::sys::account::Account;
use crate::sys::secret_bytes::SecretBytes;

/// The hidden command that becomes the login shell.
pub const SHELL_COMMAND: &str = "login-shell";

/// The hidden command that prints the environment it finds.
pub const PRINT_COMMAND: &str = "print-environment";

/// How long the shell may take, if nothing else is said. A profile may take its time, and many at once on a machine that boots take
/// more.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// How long it may take before somebody who waits for a shell beside an agent has a plain one.
const PATIENCE_OF_PEOPLE: Duration = Duration::from_secs(5);

/// What stands in for a shell that is not there.
const USUAL_SHELL: &str = "/bin/sh";

/// How much it may print: a hundred times what an environment can reasonably be.
const MAX_OUTPUT: usize = 8 << 20;

/// Why a login gives no environment.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shell did not do what it was started for.
    #[error("the login shell {} gave no environment: {reason}", shell.display())]
    Unusable {
        /// The shell.
        shell: PathBuf,
        /// In which way.
        reason: io::Error,
    },
    /// It takes too long.
    #[error("the login shell {} was not done within {}", shell.display(), humantime::format_duration(*within))]
    TimedOut {
        /// The shell.
        shell: PathBuf,
        /// How long it was waited for.
        within: Duration,
    },
}

/// What a login gives.
#[derive(Debug)]
pub struct Login {
    /// The variables, in no order.
    pub environment: Vec<(OsString, OsString)>,
    /// Whether the shell went to another directory than the one it was started in.
    pub moved: bool,
    /// Why the environment is not that of the account's own shell, if it is not.
    pub warning: Option<String>,
}

/// Logs the account in, in the present directory. What the shell starts bears the mark if there is one.
pub async fn log_in(account: &Account, mark: Option<&SecretBytes>, patience: Duration) -> Result<Login, Error> {
    match std::env::current_exe() {
        Ok(executable) => log_in_by(&executable, account, mark, patience).await,
        Err(reason) => Err(Error::Unusable { shell: account.shell.clone(), reason }),
    }
}

async fn log_in_by(
    executable: &Path,
    account: &Account,
    mark: Option<&SecretBytes>,
    patience: Duration,
) -> Result<Login, Error> {
    if account.refuses_logins() {
        // What such a user's PATH should be is nobody's word but ours, so there is nothing to warn of.
        return Ok(Login { environment: account.base_environment(), moved: true, warning: None });
    }
    let (account, warning) = with_a_shell(account.clone());
    match tokio::time::timeout(patience, ask(executable, &account, mark)).await {
        Ok(Ok((environment, directory))) => {
            let moved = std::env::current_dir().ok().is_none_or(|here| here != directory);
            Ok(Login { environment, moved, warning })
        }
        Ok(Err(reason)) => Err(Error::Unusable { shell: account.shell, reason }),
        Err(_) => Err(Error::TimedOut { shell: account.shell, within: patience }),
    }
}

/// The account, with another shell in place of one that cannot be run, and a warning then.
fn with_a_shell(account: Account) -> (Account, Option<String>) {
    let shell = &account.shell;
    let usable = match shell.metadata() {
        _ if !shell.is_absolute() => Err(io::Error::other("it is no whole path")),
        Ok(metadata) if metadata.is_file() => eaccess(shell, AccessFlags::X_OK).map_err(io::Error::from),
        Ok(_) => Err(io::Error::other("it is no file")),
        Err(error) => Err(error),
    };
    match usable {
        Ok(()) => (account, None),
        Err(error) => {
            let warning =
                format!("the login shell {} cannot be run ({error}); {USUAL_SHELL} stands in for it", shell.display());
            (Account { shell: USUAL_SHELL.into(), ..account }, Some(warning))
        }
    }
}

async fn ask(
    executable: &Path,
    account: &Account,
    mark: Option<&SecretBytes>,
) -> io::Result<(Vec<(OsString, OsString)>, PathBuf)> {
    let marker =
        format!("agentd-{}-{}", std::process::id(), humantime::format_rfc3339_nanos(std::time::SystemTime::now()));
    let mut command = tokio::process::Command::new(executable);
    command.arg(SHELL_COMMAND).arg(&marker).env_clear().envs(account.base_environment());
    command.envs(std::env::var_os("TERM").map(|term| ("TERM", term)));
    command.envs(mark.map(|mark| (marker::VARIABLE, OsStr::from_bytes(mark.as_slice()))));
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
            return Err(io::Error::other("it ended without having run what it was given with -c"));
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

/// What a login gives, from all that was printed.
#[cfg(fuzzing)]
pub fn read(printed: &[u8], marker: &[u8]) -> Option<(Vec<(OsString, OsString)>, PathBuf)> {
    parse(between(printed, marker)?)
}

fn between<'a>(printed: &'a [u8], marker: &[u8]) -> Option<&'a [u8]> {
    let find = |bytes: &[u8]| bytes.windows(marker.len()).position(|window| window == marker);
    let rest = &printed[find(printed)? + marker.len()..];
    Some(&rest[..find(rest)?])
}

/// The present directory, then each variable, every one followed by a NUL.
fn parse(answer: &[u8]) -> Option<(Vec<(OsString, OsString)>, PathBuf)> {
    // A shell that shows what it was given prints the marker, too.
    let end = answer.iter().position(|&byte| byte == 0)?;
    let directory = PathBuf::from(OsStr::from_bytes(&answer[..end]));
    let items = answer[end + 1..].split(|&byte| byte == 0);
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
    let (account, _) = with_a_shell(account.clone());
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
    crate::sys::rlimit::restore_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let login = match runtime {
        Ok(runtime) => runtime.block_on(log_in(account, None, PATIENCE_OF_PEOPLE)),
        Err(error) => return error,
    };
    let (account, _) = with_a_shell(account.clone());
    let (environment, moved, warning) = match login {
        Ok(Login { environment, moved, warning }) => (environment, moved, warning),
        // Whoever waits for a shell is to have one, and is told what it is.
        Err(error) => (account.base_environment(), true, Some(format!("{error}; this is a plain one"))),
    };
    if let Some(warning) = warning {
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(io::stderr(), "agentd: {warning}");
    }
    if !moved {
        return Command::new(&account.shell).arg0(account.login_shell_name()).exec();
    }
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for shell in ["bash", "sh", "/bin/sh"] {
        let mut command = Command::new(shell);
        command.env_clear().envs(language(&environment, std::iter::empty()));
        command.envs(environment.iter().cloned()).envs(terminal_variables());
        failure = command.exec();
    }
    failure
}

/// The locale that a program finds if neither its login nor what was `declared` for it names one: without any it would take every
/// letter beyond ASCII for bytes.
pub fn language<'a>(
    login: &[(OsString, OsString)],
    mut declared: impl Iterator<Item = &'a String>,
) -> Option<(&'static str, &'static str)> {
    let is_locale = |name: &[u8]| name == b"LANG" || name.starts_with(b"LC_");
    let is_named = login.iter().any(|(name, value)| is_locale(name.as_bytes()) && !value.is_empty())
        || declared.any(|name| is_locale(name.as_bytes()));
    (!is_named).then_some(("LANG", "C.UTF-8"))
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

    fn with(shell: &Path) -> Account {
        Account { shell: shell.to_owned(), ..Account::find("root").unwrap() }
    }

    #[test]
    fn a_shell_that_cannot_be_run_is_stood_in_for() {
        let (account, warning) = with_a_shell(with(Path::new("/bin/sh")));
        assert_eq!((account.shell.as_path(), warning), (Path::new("/bin/sh"), None));
        for shell in ["/nonexistent/fish", "/", "/etc/passwd", "sh"] {
            let (account, warning) = with_a_shell(with(Path::new(shell)));
            assert_eq!(account.shell, Path::new("/bin/sh"), "{shell}");
            assert!(warning.unwrap().starts_with(&format!("the login shell {shell} cannot be run")));
        }
    }

    #[tokio::test]
    async fn a_shell_that_does_not_do_its_work_gives_no_environment() {
        let (account, folder) = (with(Path::new("/bin/sh")), tempfile::TempDir::new().unwrap());
        let cases = [
            ("exit 0", "gave no environment: it ended"),
            ("echo \"$@\" \"$@\"", "gave no environment: what it printed"),
            ("exec sleep 100", "was not done within 1s"),
        ];
        for (script, expected) in cases {
            // In place of agentd itself, which would start the shell.
            let program = folder.path().join("program");
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            let error = log_in_by(&program, &account, None, Duration::from_secs(1)).await.unwrap_err().to_string();
            assert!(error.starts_with("the login shell /bin/sh ") && error.contains(expected), "{script}: {error}");
        }
    }

    #[test]
    fn letters_are_utf_8_unless_a_locale_is_named() {
        let none = std::iter::empty;
        let login = |name: &str, value: &str| vec![(OsString::from(name), OsString::from(value))];
        let named = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(language(&login("PATH", "/bin"), none()), Some(("LANG", "C.UTF-8")));
        assert_eq!(language(&login("LANG", ""), none()), Some(("LANG", "C.UTF-8")));
        assert_eq!(language(&login("LANG", "C"), none()), None);
        assert_eq!(language(&login("LC_CTYPE", "de_DE.UTF-8"), none()), None);
        assert_eq!(language(&[], named(&["LC_ALL"]).iter()), None);
        assert_eq!(language(&[], named(&["LANGUAGE", "KEY"]).iter()), Some(("LANG", "C.UTF-8")));
    }

    #[test]
    fn a_quote_in_the_path_stays_one_word() {
        let script = [b"printf %s ".as_slice(), &single_quote(Path::new("/a b'c;d"))].concat();
        let output = Command::new("sh").arg("-c").arg(OsString::from_vec(script)).output().unwrap();
        assert_eq!(output.stdout, b"/a b'c;d");
    }
}
