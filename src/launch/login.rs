//! The environment that the agent user's login shell sets up.
//!
//! ```text
//! launcher ── agentd login-shell ──▶ the user's shell ── agentd print-environment
//! ```
//!
//! agentd looks the user up and becomes that user's shell: a login shell, with a dash before its name as with `login(1)` and tmux,
//! in a separate session without a terminal. The shell runs agentd, which prints the environment that it finds, between two markers
//! because profiles print things, too. On NixOS this is where `PATH` comes from.
//!
//! The launcher itself does not look the user up. The libraries that do (`nsswitch.conf(5)`) would stay in its memory for as long as
//! the agent runs, and a statically linked launcher cannot load them.
//!
//! A shell that fails, hangs, or ignores its arguments gives no environment, and no agent runs with an invented one. An account that
//! refuses logins gets its base environment, and one whose shell does not exist gets that of `/bin/sh`.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::contain::marker;
use crate::sys::account::Account;
use crate::sys::exec::single_quote;
use crate::sys::secret_bytes::SecretBytes;
use crate::sys::{fd, poll};

/// The hidden command that becomes the login shell.
pub const SHELL_COMMAND: &str = "login-shell";

/// The hidden command that prints the environment it finds.
pub const PRINT_COMMAND: &str = "print-environment";

/// The default time limit for the shell. A profile may be slow, and slower still when a booting machine runs many at once.
pub const LOGIN_TIMEOUT: Duration = Duration::from_mins(1);

/// How long an operator who waits for a shell beside an agent waits before getting a plain one.
const PATIENCE_OF_PEOPLE: Duration = Duration::from_secs(5);

/// How much is read at a time.
const PIECE: usize = 4096;

/// How much the shell may print: a hundred times the size of any reasonable environment.
const MAX_OUTPUT: usize = 8 << 20;

/// Why a login gave no environment.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shell did not run the command that it was given.
    #[error("the login shell {} gave no environment: {reason}", shell.display())]
    Unusable {
        /// The shell.
        shell: PathBuf,
        /// What the shell did instead.
        reason: io::Error,
    },
    /// The account does not exist.
    #[error("{0}")]
    NoAccount(String),
    /// agentd itself could not be run.
    #[error("{} printed no login environment: {reason}", agentd.display())]
    NotBegun {
        /// The path of agentd.
        agentd: PathBuf,
        /// The reason.
        reason: io::Error,
    },
    /// Looking up the user took too long.
    #[error("failed to look up the agent user within {}", humantime::format_duration(*within))]
    AccountTimedOut {
        /// The time limit.
        within: Duration,
    },
    /// The shell took too long.
    #[error("the login shell {} did not finish within {}", shell.display(), humantime::format_duration(*within))]
    TimedOut {
        /// The shell.
        shell: PathBuf,
        /// The time limit.
        within: Duration,
    },
}

/// The result of a login.
#[derive(Debug)]
pub struct Login {
    /// The variables, in no particular order.
    pub environment: Vec<(OsString, OsString)>,
    /// Whether the shell changed its directory.
    pub moved: bool,
    /// Why the environment is not that of the account's own shell, if so.
    pub warning: Option<String>,
}

impl Login {
    /// The value of a variable.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }
}

/// A login in progress, in a separate process that is killed when this is dropped.
#[derive(Debug)]
pub struct Asked {
    agentd: PathBuf,
    child: Child,
    stdout: ChildStdout,
    marker: String,
    printed: Vec<u8>,
    within: Duration,
    limit: Instant,
}

impl Asked {
    /// Has `agentd` log this user in, in the current directory. The shell's processes carry the mark if there is one.
    pub fn begin(agentd: &Path, mark: Option<&SecretBytes>, patience: Duration) -> Result<Self, Error> {
        let failed = |reason| Error::NotBegun { agentd: agentd.to_owned(), reason };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let marker = format!("agentd-{}-{}", std::process::id(), since.as_nanos());
        let mut command = Command::new(agentd);
        command.arg(SHELL_COMMAND).arg(&marker).env_clear();
        command.envs(std::env::var_os("TERM").map(|term| ("TERM", term)));
        command.envs(mark.map(|mark| (marker::VARIABLE, OsStr::from_bytes(mark.as_slice()))));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let stdout = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        fd::set_nonblocking(&stdout).map_err(failed)?;
        let limit = Instant::now() + patience;
        Ok(Self { agentd: agentd.to_owned(), child, stdout, marker, printed: Vec::new(), within: patience, limit })
    }

    /// Readable when there is something to [take in](Self::take_in).
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }

    /// The deadline of the login.
    pub fn limit(&self) -> Instant {
        self.limit
    }

    /// Takes in what was printed so far; `None` while the answer is incomplete and there is time left.
    pub fn take_in(&mut self) -> Option<Result<Login, Error>> {
        let mut buffer = [0; PIECE];
        loop {
            // Ends at the last marker rather than at the end of the pipe: a background process may hold the pipe open.
            if let Some(answer) = Answer::find(&self.printed, self.marker.as_bytes()) {
                return Some(self.conclude(&answer));
            }
            if self.printed.len() > MAX_OUTPUT {
                return Some(Err(self.ended()));
            }
            match self.stdout.read(&mut buffer) {
                Ok(0) => return Some(Err(self.ended())),
                Ok(count) => self.printed.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return (Instant::now() >= self.limit).then(|| Err(self.timed_out()));
                }
                Err(error) => return Some(Err(self.unusable(error))),
            }
        }
    }

    /// Waits for the login to finish.
    fn finish(mut self) -> Result<Login, Error> {
        loop {
            if let Some(login) = self.take_in() {
                return login;
            }
            let waited = poll::wait(&mut [PollFd::new(self.descriptor(), PollFlags::POLLIN)], Some(self.limit));
            waited.map_err(|error| self.unusable(error))?;
        }
    }

    fn conclude(&self, answer: &Answer<'_>) -> Result<Login, Error> {
        if let Some(why) = answer.refusal() {
            return Err(Error::NoAccount(why));
        }
        let unreadable = || self.unusable(io::Error::other("what it printed could not be read"));
        let (environment, directory) = parse(answer.environment).ok_or_else(unreadable)?;
        let moved = std::env::current_dir().ok().is_none_or(|here| here != directory);
        Ok(Login { environment, moved, warning: answer.warning() })
    }

    fn shell(&self) -> Option<PathBuf> {
        let told = between(&self.printed, self.marker.as_bytes())?;
        Some(OsStr::from_bytes(told.split(|&byte| byte == 0).next()?).into())
    }

    fn ended(&self) -> Error {
        self.unusable(io::Error::other("it ended without having run what it was given with -c"))
    }

    fn unusable(&self, reason: io::Error) -> Error {
        match self.shell() {
            Some(shell) => Error::Unusable { shell, reason },
            None => Error::NotBegun { agentd: self.agentd.clone(), reason: io::Error::other("it ended at once") },
        }
    }

    fn timed_out(&self) -> Error {
        match self.shell() {
            Some(shell) => Error::TimedOut { shell, within: self.within },
            None => Error::AccountTimedOut { within: self.within },
        }
    }
}

impl Drop for Asked {
    /// Kills the child and its group. The child leads the group and has not been reaped, so the number is still its own.
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // The child may not lead a group yet. If it is stuck in the kernel, the reaper of all children reaps it later.
        let _ = self.child.kill();
        let _ = self.child.try_wait();
    }
}

/// The answer: which shell is run, and what it says, each between two markers.
struct Answer<'a> {
    shell: &'a [u8],
    environment: &'a [u8],
}

impl<'a> Answer<'a> {
    fn find(printed: &'a [u8], marker: &[u8]) -> Option<Self> {
        let shell = between(printed, marker)?;
        if shell.first() == Some(&0) {
            return Some(Self { shell, environment: b"" });
        }
        let end = shell.as_ptr().addr() - printed.as_ptr().addr() + shell.len() + marker.len();
        Some(Self { shell, environment: between(&printed[end..], marker)? })
    }

    fn word(&self, number: usize) -> Option<String> {
        let word = self.shell.split(|&byte| byte == 0).nth(number)?;
        (!word.is_empty()).then(|| String::from_utf8_lossy(word).into_owned())
    }

    /// Why there is no account to log in to.
    fn refusal(&self) -> Option<String> {
        if self.shell.first() == Some(&0) { self.word(1).or_else(|| Some(String::new())) } else { None }
    }

    fn warning(&self) -> Option<String> {
        self.word(1)
    }
}

/// Parses a login's result from everything that was printed.
#[cfg(fuzzing)]
pub fn read(printed: &[u8], marker: &[u8]) -> Option<(Vec<(OsString, OsString)>, PathBuf)> {
    parse(between(printed, marker)?)
}

fn between<'a>(printed: &'a [u8], marker: &[u8]) -> Option<&'a [u8]> {
    let find = |bytes: &[u8]| bytes.windows(marker.len()).position(|window| window == marker);
    let rest = &printed[find(printed)? + marker.len()..];
    Some(&rest[..find(rest)?])
}

/// Parses the current directory and the variables, each followed by a NUL.
fn parse(answer: &[u8]) -> Option<(Vec<(OsString, OsString)>, PathBuf)> {
    // A shell that echoes its command prints the marker, too.
    let end = answer.iter().position(|&byte| byte == 0)?;
    let directory = PathBuf::from(OsStr::from_bytes(&answer[..end]));
    let items = answer[end + 1..].split(|&byte| byte == 0);
    let environment = items
        .filter_map(|item| {
            let equals = item.iter().position(|&byte| byte == b'=').filter(|&at| at > 0)?;
            let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
            Some((text(&item[..equals]), text(&item[equals + 1..])))
        })
        // These describe the login shell itself.
        .filter(|(name, _)| !["_", "SHLVL", "PWD", "OLDPWD"].iter().any(|own| name == own))
        .collect();
    Some((environment, directory))
}

/// Runs the hidden command [`SHELL_COMMAND`]: prints which shell it uses, and becomes that shell, outside the terminal's session.
///
/// An account that refuses logins gets its base environment. Returns only if there is nothing more to do.
pub fn become_login_shell(marker: &OsStr, out: &mut impl Write) -> io::Result<()> {
    nix::unistd::setsid()?;
    let marker = marker.as_bytes();
    let account = match Account::current() {
        Ok(account) => account,
        Err(error) => return tell(out, marker, &[b"", error.to_string().as_bytes()]),
    };
    if account.refuses_logins() {
        // No other program defines such a user's PATH, so there is nothing to warn about.
        tell(out, marker, &[account.shell.as_os_str().as_bytes(), b""])?;
        let environment = account.base_environment();
        return print(out, marker, Path::new(""), environment.iter().map(|(name, value)| (&**name, &**value)));
    }
    let (account, warning) = account.with_a_shell();
    tell(out, marker, &[account.shell.as_os_str().as_bytes(), warning.unwrap_or_default().as_bytes()])?;
    let executable = std::env::current_exe()?;
    let script =
        [b"exec ", single_quote(&executable).as_slice(), b" ", PRINT_COMMAND.as_bytes(), b" ", marker].concat();
    let mut shell = Command::new(&account.shell);
    shell.arg0(account.login_shell_name()).arg("-c").arg(OsString::from_vec(script)).envs(account.base_environment());
    Err(shell.exec())
}

/// Prints words, each followed by a NUL, between two markers.
fn tell(out: &mut impl Write, marker: &[u8], words: &[&[u8]]) -> io::Result<()> {
    let words: Vec<u8> = words.iter().flat_map(|word| [word, b"\0".as_slice()].concat()).collect();
    out.write_all(&[marker, &words, marker].concat())?;
    out.flush()
}

/// Runs the hidden command [`PRINT_COMMAND`].
pub fn print_environment(marker: &OsStr, out: &mut impl Write) -> io::Result<()> {
    let variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let directory = std::env::current_dir().unwrap_or_default();
    print(out, marker.as_bytes(), &directory, variables.iter().map(|(name, value)| (&**name, &**value)))
}

fn print<'a>(
    out: &mut impl Write,
    marker: &[u8],
    directory: &Path,
    variables: impl Iterator<Item = (&'a OsStr, &'a OsStr)>,
) -> io::Result<()> {
    out.write_all(marker)?;
    out.write_all(directory.as_os_str().as_bytes())?;
    out.write_all(b"\0")?;
    for (name, value) in variables {
        out.write_all(&[name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat())?;
    }
    out.write_all(marker)?;
    out.flush()
}

/// Becomes an operator's shell: the account's own, as a login shell in the current directory.
///
/// If that shell would change the directory or refuses logins, a plain shell with the environment of a login is used instead.
/// Returns only on failure.
pub fn become_shell(account: &Account) -> io::Error {
    crate::sys::rlimit::restore_descriptors();
    let executable = match std::env::current_exe() {
        Ok(executable) => executable,
        Err(error) => return error,
    };
    let login = Asked::begin(&executable, None, PATIENCE_OF_PEOPLE).and_then(Asked::finish);
    let (account, _) = account.clone().with_a_shell();
    let (environment, moved, warning) = match login {
        Ok(Login { environment, moved, warning }) => (environment, moved, warning),
        // An operator who waits for a shell gets one, with a note about what it is.
        Err(error) => (account.base_environment(), true, Some(format!("{error}; this is a plain shell"))),
    };
    if let Some(warning) = warning {
        // If standard error is closed, the message has no reader.
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

/// The locale to set if neither the login nor the variables `declared` for the program name one.
///
/// Without a locale, a program would take every non-ASCII letter for bytes.
pub fn language<'a>(
    login: &[(OsString, OsString)],
    mut declared: impl Iterator<Item = &'a String>,
) -> Option<(&'static str, &'static str)> {
    let is_locale = |name: &[u8]| name == b"LANG" || name.starts_with(b"LC_");
    let is_named = login.iter().any(|(name, value)| is_locale(name.as_bytes()) && !value.is_empty())
        || declared.any(|name| is_locale(name.as_bytes()));
    (!is_named).then_some(("LANG", "C.UTF-8"))
}

/// The variables of the pane.
pub fn terminal_variables() -> impl Iterator<Item = (&'static str, OsString)> {
    ["TERM", "TMUX", "TMUX_PANE"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_a_profile_around_the_answer_is_skipped() {
        let printed = b"Welcome!\nM/home/a\0A=1\0B=x=y\nz\0_=x\0PWD=/\0=bad\0Mbye";
        let (environment, directory) = parse(between(printed, b"M").unwrap()).unwrap();
        assert_eq!(directory, Path::new("/home/a"));
        assert_eq!(environment, [("A".into(), "1".into()), ("B".into(), "x=y\nz".into())]);
    }

    #[test]
    fn an_incomplete_answer_is_not_used() {
        assert!(between(b"noise M/home\0A=1", b"M").is_none());
        assert!(between(b"", b"M").is_none());
    }

    /// The result if this script runs in place of agentd.
    fn log_in_by(script: &str) -> Result<Login, Error> {
        let folder = tempfile::TempDir::new().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Asked::begin(&program, None, Duration::from_secs(1)).and_then(Asked::finish)
    }

    #[test]
    fn a_shell_that_fails_or_hangs_gives_no_environment() {
        let cases = [
            ("exit 0", "gave no environment: it ended"),
            ("echo \"$@\" \"$@\"", "gave no environment: what it printed"),
            ("exec sleep 100", "did not finish within 1s"),
        ];
        for (script, expected) in cases {
            let error = log_in_by(&format!("printf '%s/bin/sh\\0\\0%s' $2 $2\n{script}")).unwrap_err().to_string();
            assert!(error.starts_with("the login shell /bin/sh ") && error.contains(expected), "{script}: {error}");
        }
    }

    #[test]
    fn an_agentd_that_names_no_shell_gives_no_environment() {
        let cases = [
            ("exit 0", "printed no login environment: it ended at once"),
            ("exec sleep 100", "failed to look up the agent user within 1s"),
            ("printf '%s\\0nobody knows you\\0%s' $2 $2", "nobody knows you"),
        ];
        for (script, expected) in cases {
            let error = log_in_by(script).unwrap_err().to_string();
            assert!(error.ends_with(expected), "{script}: {error}");
        }
        let missing = Asked::begin(Path::new("/nonexistent/agentd"), None, LOGIN_TIMEOUT).unwrap_err().to_string();
        assert!(missing.starts_with("/nonexistent/agentd printed no login environment: No such file"), "{missing}");
    }

    #[test]
    fn a_warning_about_the_shell_comes_with_its_environment() {
        let script = "printf '%s/bin/sh\\0it stands in\\0%snoise%s/\\0A=1\\0%s' $2 $2 $2 $2; exec sleep 100";
        let Login { environment, moved, warning } = log_in_by(script).unwrap();
        assert_eq!(environment, [("A".into(), "1".into())]);
        assert_eq!((moved, warning.as_deref()), (true, Some("it stands in")));
    }

    #[test]
    fn the_locale_is_utf_8_unless_one_is_named() {
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
