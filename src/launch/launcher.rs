//! The agent's end: the process in the pane that starts the harness and outlives it by a moment.
//!
//! It leads the pane's session, and the harness one of its own, on a [terminal](super::terminal) of its own. It survives whatever
//! can be caught, and it is the reaper of all its descendants, so that none of them gets out of its sight by forking twice.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::{Mode, umask};
use nix::sys::time::TimeVal;
use nix::unistd::{AccessFlags, Pid, eaccess, getpid, getppid};
use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};

use super::daemon_link::{DaemonLink, PATIENCE_WITH_DAEMONS};
use super::login::{self, Login};
use super::protocol::{End, Ending, Failure, FromLauncher, Harness, Log, Progress, ToLauncher};
use super::temporary_dir::{self, Scratch};
use super::terminal::Terminal;
use crate::contain::marker;
use crate::logs::FileId;
use crate::logs::writer::Writer;
use crate::sys::account::Account;
use crate::sys::clock::Timestamp;
use crate::sys::process::Process;
use crate::sys::rlimit;
use crate::text::mask::Mask;
use crate::wire::exit_status::ExitStatus;

/// How long a harness may take to end once its terminal has gone away.
const AFTER_HANGUP: Duration = Duration::from_secs(5);

/// How long the terminal may take to show the last of the output.
const DRAIN: Duration = Duration::from_secs(2);

/// How long what the harness left behind may take to die. Only a process stuck in the kernel takes any time at all.
const CLEANUP: Duration = Duration::from_secs(5);

/// How long it may take to remove what the harness left among temporary files, beside that.
const REMOVAL: Duration = Duration::from_secs(2);

/// The status to exit with when no harness was ever started, as `env(1)` does it. What has ended with it may be done again.
pub const NOTHING_STARTED: u8 = 125;

/// Why the launcher did not come as far as to start a harness.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon does not know this attempt or not this process, or there has been none for too long.
    #[error("no daemon expects this launcher; it is started by the daemon only")]
    Unwanted,
    /// The process could not be set up.
    #[error("failed to prepare: {0}")]
    Prepare(#[from] io::Error),
    /// The harness could not be started; the daemon has been told.
    #[error("{}", .0.message)]
    Harness(Failure),
}

impl Error {
    /// The status to end with: as shells do it, 127 for what is not there, 126 for what cannot be run.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Harness(Failure { errno: Some(errno), .. }) if *errno == Errno::ENOENT as i32 => 127,
            Self::Harness(_) => 126,
            _ => NOTHING_STARTED,
        }
    }
}

/// The launcher for one attempt of one agent. Returns the status to exit with, or does not return: it ends the way the harness
/// ended.
pub fn run(name: &str, attempt: u64, socket: &Path) -> Result<u8, Error> {
    umask(Mode::from_bits_truncate(0o022));
    rlimit::restore_descriptors();
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(live(name, attempt, socket));
    // A terminal that never answered leaves a thread behind that reads from it.
    runtime.shutdown_background();
    Ok(end_like(&result?))
}

async fn live(name: &str, attempt: u64, socket: &Path) -> Result<Ending, Error> {
    let mut signals = Caught::new()?;
    let mut daemon = DaemonLink::new(socket, name, attempt);
    let message = tokio::select! {
        message = timeout(PATIENCE_WITH_DAEMONS, daemon.attend(&Progress::New)) => message.ok(),
        _ = signals.hang_up.recv() => None,
    };
    let Some(ToLauncher::Launch { arguments, environment, workdir, fingerprint, secrets, kept_size, login_patience }) =
        message
    else {
        return Err(Error::Unwanted);
    };
    daemon.fingerprint = Some(fingerprint);
    let log = kept_size.and_then(|size| {
        let [text, index] = daemon.take_descriptors().try_into().ok()?;
        let secrets = secrets
            .iter()
            .filter_map(|name| environment.get(name))
            .map(crate::sys::secret_bytes::SecretBytes::as_slice);
        Some(Writer::new(text, index, size, Mask::new(secrets)))
    });
    daemon.log = log.as_ref().and_then(written_to);
    let workdir = PathBuf::from(OsStr::from_bytes(workdir.as_slice()));
    let order = Order { arguments, environment, workdir, log };
    // Not before: what this process starts until then is not known for the agent's.
    let login = tokio::select! {
        login = log_in(&order, login_patience.unwrap_or(login::PATIENCE)) => login,
        () = daemon.interrupted() => Err(not_yet("it was stopped before it started".to_owned())),
        // Nobody is there to be told of anything that is started now.
        _ = signals.hang_up.recv() => Err(not_yet("its pane was closed before it started".to_owned())),
    };
    let started = match login {
        Ok(login) => start(order, login, &mut daemon).await,
        Err(failure) => Err(failure),
    };
    match started {
        Ok((harness, mut terminal, scratch)) => {
            daemon.say(&FromLauncher::Started(harness)).await;
            attend(harness, &mut terminal, scratch, &mut signals, &mut daemon).await
        }
        Err(failure) => {
            daemon.say(&FromLauncher::Failed(failure.clone())).await;
            daemon.see_noted(&Progress::Failed(failure.clone())).await;
            Err(Error::Harness(failure))
        }
    }
}

async fn log_in(order: &Order, patience: Duration) -> Result<Login, Failure> {
    let account = Account::current().map_err(|gone| not_yet(gone.to_string()))?;
    let login = login::log_in(&account, order.environment.get(marker::VARIABLE), patience).await;
    login.map_err(|error| not_yet(error.to_string()))
}

/// It may be otherwise for the next try.
fn not_yet(message: String) -> Failure {
    Failure { message, errno: None, missing: true }
}

fn written_to(log: &Writer) -> Option<Log> {
    Some(Log { file: FileId::of(log.text()).ok()?, size: log.size() })
}

struct Order {
    arguments: Vec<crate::sys::secret_bytes::SecretBytes>,
    environment: std::collections::BTreeMap<String, crate::sys::secret_bytes::SecretBytes>,
    workdir: PathBuf,
    log: Option<Writer>,
}

/// Starts the harness, and answers when it did. Of the order, secrets and all, only the log is left when this returns.
async fn start(
    order: Order,
    login: Login,
    daemon: &mut DaemonLink,
) -> Result<(Harness, Terminal, Option<Scratch>), Failure> {
    let workdir = order.workdir.as_path();
    std::env::set_current_dir(workdir)
        .map_err(|error| failure(&format!("the workdir {} cannot be entered", workdir.display()), &error))
        .map_err(|failure| Failure { missing: true, ..failure })?;
    let words: Vec<&OsStr> = order.arguments.iter().map(|argument| OsStr::from_bytes(argument.as_slice())).collect();
    let Some((&program, arguments)) = words.split_first() else {
        return Err(Failure { message: "there is no program to start".to_owned(), errno: None, missing: false });
    };
    let declared_path = order.environment.get("PATH").map(|path| OsStr::from_bytes(path.as_slice()));
    let of_login = |name: &str| {
        let mut variables = login.environment.iter();
        variables.find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    };
    let login_path = of_login("PATH");
    let found = find(program, declared_path.or(login_path).unwrap_or_default())?;
    let mut command = Command::new(&found);
    command.arg0(program).args(arguments).env_clear();
    command.envs(login.environment.iter().map(|(name, value)| (name, value)));
    command.env("PWD", workdir).envs(login::terminal_variables());
    command.envs(login::language(&login.environment, order.environment.keys()));
    let mut faults: Vec<String> = login.warning.iter().cloned().collect();
    let mut scratch = None;
    if !order.environment.contains_key(temporary_dir::VARIABLE) {
        match Scratch::make(of_login(temporary_dir::VARIABLE), &daemon.socket, &daemon.name) {
            Ok(made) => {
                command.env(temporary_dir::VARIABLE, made.path());
                scratch = Some(made);
            }
            Err(error) => faults.push(format!("it has no folder of its own for temporary files: {error}")),
        }
    }
    if !faults.is_empty() {
        daemon.say(&FromLauncher::Environment(faults.join("; "))).await;
    }
    command.envs(order.environment.iter().map(|(name, value)| (name, OsStr::from_bytes(value.as_slice()))));
    let terminal = Terminal::open(order.log)
        .map_err(|error| failure("its terminal cannot be had", &error))
        .map_err(|failure| Failure { missing: true, ..failure })?;
    let at = Timestamp::now().boot();
    let child = terminal.spawn(command).map_err(|error| match error.kind() {
        // The file itself was found.
        io::ErrorKind::NotFound => failure(&format!("{}: its interpreter is missing", found.display()), &error),
        _ => failure(&format!("{} cannot be run", found.display()), &error),
    })?;
    // Waited for together with whatever else becomes a child of this process.
    i32::try_from(child.id())
        .map(|pid| (Harness { pid, at }, terminal, scratch))
        .map_err(|_| failure("the process id is out of range", &Errno::EOVERFLOW.into()))
}

fn failure(what: &str, error: &io::Error) -> Failure {
    Failure { message: format!("{what}: {error}"), errno: error.raw_os_error(), missing: false }
}

/// As `execvp(3)` searches, but in the `PATH` that the harness will have, and with an error that says where was looked.
fn find(program: &OsStr, path: &OsStr) -> Result<PathBuf, Failure> {
    let shown = program.display();
    if program.as_bytes().contains(&b'/') {
        let found = Path::new(program);
        return match fs::metadata(found) {
            Err(error) => Err(failure(&format!("{shown} cannot be run"), &error)),
            Ok(metadata) if metadata.is_dir() => Err(failure(&format!("{shown} cannot be run"), &Errno::EISDIR.into())),
            Ok(_) => Ok(found.to_owned()),
        };
    }
    let candidates = std::env::split_paths(path).map(|directory| directory.join(program)).filter(|file| file.is_file());
    let (mut seen, mut usable) = (None, None);
    for candidate in candidates {
        if eaccess(&candidate, AccessFlags::X_OK).is_ok() {
            usable = Some(candidate);
            break;
        }
        seen = seen.or(Some(candidate));
    }
    match (usable, seen) {
        (Some(found), _) => Ok(found),
        (None, Some(seen)) => {
            Err(failure(&format!("{shown}: {} is not executable", seen.display()), &Errno::EACCES.into()))
        }
        (None, None) => Err(Failure {
            message: format!("{shown}: not found in PATH ({})", path.display()),
            errno: Some(Errno::ENOENT as i32),
            missing: false,
        }),
    }
}

/// Until the harness has ended, has been reported, and has left nothing behind.
async fn attend(
    harness: Harness,
    terminal: &mut Terminal,
    scratch: Option<Scratch>,
    signals: &mut Caught,
    daemon: &mut DaemonLink,
) -> Result<Ending, Error> {
    let pid = Pid::from_raw(harness.pid);
    let server = getppid();
    // What ends like a crashed harness must not leave a core of its own.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let running = Progress::Running(harness);
    let mut interrupts = 0;
    let mut hung_up: Option<Instant> = None;
    let status = loop {
        if let Some(status) = reap(pid) {
            break status;
        }
        tokio::select! {
            _ = signals.child.recv() => {}
            _ = signals.terminate.recv() => { let _ = kill(pid, Signal::SIGTERM); }
            _ = signals.hang_up.recv() => {
                if hung_up.is_none() && pane_is_gone() {
                    hung_up = Some(Instant::now() + AFTER_HANGUP);
                    // As the kernel does it. What is stopped could not end.
                    signal_foreground(pid, terminal, Signal::SIGHUP);
                    signal_foreground(pid, terminal, Signal::SIGCONT);
                }
            }
            _ = signals.window.recv() => terminal.resize(),
            error = terminal.relay() => daemon.say(&not_logged(&error)).await,
            message = daemon.attend(&running) => {
                let wanted = match message {
                    ToLauncher::Interrupt => 1,
                    ToLauncher::InterruptAgain => 2,
                    ToLauncher::Keep { kept_size } => {
                        if let Ok([text, index]) = <[OwnedFd; 2]>::try_from(daemon.take_descriptors()) {
                            daemon.log = terminal.move_log(text, index, kept_size).and_then(written_to);
                        }
                        0
                    }
                    _ => 0,
                };
                // A stop is one SIGINT and another one, however many daemons have a part in it.
                if interrupts < wanted {
                    interrupts = wanted;
                    signal_foreground(pid, terminal, Signal::SIGINT);
                }
            }
            () = sleep_until(hung_up.unwrap_or_else(Instant::now)), if hung_up.is_some() => {
                let _ = kill(pid, Signal::SIGKILL);
                hung_up = Some(Instant::now() + AFTER_HANGUP);
            }
        }
    };
    let at = Timestamp::now().boot();
    if let Err(error) = terminal.collect() {
        daemon.say(&not_logged(&error)).await;
    }
    let ending = if hung_up.is_some() || pane_is_gone() { Ending::Cause(who_hung_up(server).await) } else { status };
    let end = end(ending.clone(), at);
    daemon.say(&FromLauncher::Ended(end.clone())).await;
    clean_up(signals).await;
    // Nobody uses it any more. One that takes long is removed by the next launcher.
    let removal = tokio::task::spawn_blocking(move || drop(scratch));
    // What was left printed, too.
    let _ = terminal.collect();
    // One that does not answer has shown what it will ever show.
    let _ = timeout(DRAIN, terminal.finish(&last_words(&ending))).await;
    let _ = timeout(REMOVAL, removal).await;
    daemon.see_noted(&Progress::Ended { harness, end }).await;
    Ok(ending)
}

fn not_logged(error: &io::Error) -> FromLauncher {
    FromLauncher::Warning(format!("what it prints cannot be written to its log: {error}"))
}

/// Waits for whatever has ended; the status of the harness if it has.
fn reap(harness: Pid) -> Option<Ending> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid.as_raw_pid() == harness.as_raw() => return Some(ending(status)),
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return None,
            // Proves nothing, unless the harness is not even there to be waited for: then its status went to somebody else, which
            // cannot be, and a known unknown is better than a wait without end.
            Err(error) => {
                let is_gone = kill(harness, None) == Err(Errno::ESRCH);
                return is_gone.then(|| Ending::Cause(format!("its status was lost: {error}")));
            }
        }
    }
}

/// As the kernel tells it: by any signal that there is.
fn ending(status: WaitStatus) -> Ending {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ending::Code(code),
        (None, Some(signal)) => Ending::Signal(signal),
        (None, None) => Ending::Cause(format!("its status was not understood: {:#x}", status.as_raw())),
    }
}

fn end(how: Ending, at: Duration) -> End {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok();
    let time = |value: Option<TimeVal>| {
        value.map_or(Duration::ZERO, |value| {
            Duration::new(value.tv_sec().try_into().unwrap_or(0), u32::try_from(value.tv_usec()).unwrap_or(0) * 1000)
        })
    };
    End {
        how,
        at,
        user_time: time(usage.map(|usage| usage.user_time())),
        system_time: time(usage.map(|usage| usage.system_time())),
        max_rss: usage.map_or(0, |usage| usage.max_rss()),
    }
}

/// To the terminal's foreground process group, and to the harness if it is not in it.
fn signal_foreground(harness: Pid, terminal: &Terminal, signal: Signal) {
    let foreground = terminal.foreground();
    let reached = foreground.is_some_and(|group| killpg(group, signal).is_ok());
    // It leads its session, so no other group can be its own.
    if !reached || foreground != Some(harness) {
        let _ = kill(harness, signal);
    }
}

fn pane_is_gone() -> bool {
    let stdin = io::stdin();
    let mut descriptors = [PollFd::new(std::os::fd::AsFd::as_fd(&stdin), PollFlags::empty())];
    poll(&mut descriptors, PollTimeout::ZERO).is_ok()
        && descriptors[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// A server that died has closed the terminal before it is seen to be dead.
async fn who_hung_up(server: Pid) -> String {
    let limit = Instant::now() + Duration::from_millis(200);
    while getppid() == server && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if getppid() == server { "its tmux session was closed".to_owned() } else { "the tmux server died".to_owned() }
}

/// Kills what the harness left behind, until this process has no children any more.
async fn clean_up(signals: &mut Caught) {
    let limit = Instant::now() + CLEANUP;
    let Ok(own) = Process::open(getpid().as_raw()) else { return };
    loop {
        own.kill_descendants();
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CHILD) => return,
                Ok(None) | Err(_) => break,
            }
        }
        if Instant::now() > limit {
            return;
        }
        let _ = timeout(Duration::from_millis(100), signals.child.recv()).await;
    }
}

/// What the operator reads below the last output.
fn last_words(ending: &Ending) -> String {
    let end = match ending {
        Ending::Code(code) => format!("exited with status {code}"),
        Ending::Signal(number) => ExitStatus::of_signal(*number).to_string(),
        Ending::Cause(cause) => cause.clone(),
    };
    // In dim letters.
    format!("\x1b[0;2m[{end}]\x1b[0m")
}

/// Ends by the same signal, or answers with the status to exit with.
fn end_like(ending: &Ending) -> u8 {
    match *ending {
        Ending::Code(code) => u8::try_from(code & 0xff).unwrap_or(1),
        Ending::Signal(signal) => {
            // Returns only where the signal's default is not to end the process, and for those beyond the standard ones: they are
            // caught here only if this process was started with them ignored.
            if signal_hook::low_level::emulate_default_handler(signal).is_err() {
                let _ = signal_hook::low_level::raise(signal);
            }
            u8::try_from(128 + signal).unwrap_or(u8::MAX)
        }
        Ending::Cause(_) => 1,
    }
}

/// The signals that are caught: all that can be. What is caught here has its default disposition in the harness, whatever this
/// process was started with (`execve(2)`: handlers are reset, ignored signals stay ignored), and does nothing to this process.
struct Caught {
    child: Signals,
    terminate: Signals,
    hang_up: Signals,
    window: Signals,
}

impl Caught {
    fn new() -> io::Result<Self> {
        const LAST_STANDARD: i32 = 31;
        for number in 1..=LAST_STANDARD {
            // The few that cannot be caught (SIGKILL, SIGSTOP) or must not be (SIGSEGV and its like) cannot have been ignored.
            if !signal_hook::consts::FORBIDDEN.contains(&number) {
                let _ = signal(SignalKind::from_raw(number))?;
            }
        }
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            window: signal(SignalKind::window_change())?,
        })
    }
}

/// The words of the command line that starts a launcher, after the executable.
pub fn command_line(name: &str, attempt: u64, socket: &Path) -> Vec<String> {
    vec![super::COMMAND.to_owned(), name.to_owned(), attempt.to_string(), socket.to_string_lossy().into_owned()]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_program_is_found_in_the_given_path_only() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("claude");
        fs::write(&file, "").unwrap();
        let path = OsString::from_vec([b"/nonexistent:".as_slice(), directory.path().as_os_str().as_bytes()].concat());

        let error = find(OsStr::new("claude"), &path).unwrap_err();
        assert!(error.message.contains("is not executable"), "{error:?}");

        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(OsStr::new("claude"), &path).unwrap(), file);

        let error = find(OsStr::new("claude"), OsStr::new("/nonexistent")).unwrap_err();
        assert_eq!(error.message, "claude: not found in PATH (/nonexistent)");
        assert_eq!(error.errno, Some(2));
    }

    #[test]
    fn a_path_is_not_searched_for() {
        assert_eq!(find(OsStr::new("/bin/sh"), OsStr::new("")).unwrap(), Path::new("/bin/sh"));
        assert!(find(OsStr::new("./no-such-program"), OsStr::new("/bin")).is_err());
    }
}
