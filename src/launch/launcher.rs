//! The launcher's main loop: the process in the pane that starts the harness and outlives it by a moment.
//!
//! It leads the pane's session. The harness leads a session of its own, on a [terminal](super::terminal) of its own. The launcher
//! survives every signal that can be caught, and it is the reaper of all its descendants, so none of them escapes by forking twice.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::{Mode, umask};
use nix::sys::time::TimeVal;
use nix::unistd::{AccessFlags, Pid, eaccess, getpid, getppid};
use rustix::process::{WaitOptions, WaitStatus, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGTERM, SIGWINCH};

use super::daemon_link::{DaemonLink, PATIENCE_WITH_DAEMONS, Said, readable};
use super::login::{self, Asked, Login};
use super::protocol::{End, Ending, Failure, FromLauncher, Harness, Log, Progress, ToLauncher};
use super::temporary_dir::{self, Scratch};
use super::terminal::Terminal;
use crate::contain::marker;
use crate::logs::writer::Writer;
use crate::sys::clock::Timestamp;
use crate::sys::file_id::FileId;
use crate::sys::process::Process;
use crate::sys::secret_bytes::SecretBytes;
use crate::sys::{poll, rlimit};
use crate::text::printable::escaped_lines;
use crate::text::redact::{ByteStream, Redactor};
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

/// Why the launcher did not start a harness.
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

/// The launcher for one attempt of one agent, which has `agentd` log the agent user in. Returns the status to exit with, or does not
/// return: it ends the way the harness ended.
pub fn run(name: &str, attempt: u64, socket: &Path, agentd: &Path) -> Result<u8, Error> {
    umask(Mode::from_bits_truncate(0o022));
    rlimit::restore_descriptors();
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)?;
    Ok(end_like(&live(name, attempt, socket, agentd)?))
}

/// Ends with that, and says what went wrong where the operator sees it.
pub fn conclude(result: Result<u8, Error>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(io::stderr(), "agentd: {}", escaped_lines(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

fn live(name: &str, attempt: u64, socket: &Path, agentd: &Path) -> Result<Ending, Error> {
    let mut signals = Caught::new()?;
    let mut daemon = DaemonLink::new(socket, name, attempt);
    let (order, login_patience) = await_order(&mut daemon, &mut signals)?.ok_or(Error::Unwanted)?;
    // Not before: what this process starts until then is not known for the agent's.
    let started = match log_in(&order, agentd, login_patience, &mut daemon, &mut signals)? {
        Ok(login) => start(order, login, &mut daemon),
        Err(failure) => {
            drop(order);
            Err(failure)
        }
    };
    match started {
        Ok((harness, mut terminal, scratch)) => {
            daemon.say(&FromLauncher::Started(harness));
            attend(harness, &mut terminal, scratch, &mut signals, &mut daemon)
        }
        Err(failure) => {
            daemon.say(&FromLauncher::Failed(failure.clone()));
            daemon.see_noted(&Progress::Failed(failure.clone()));
            Err(Error::Harness(failure))
        }
    }
}

/// What to launch, and how long the login may take; `None` if nobody says it in time, or the pane has gone.
fn await_order(daemon: &mut DaemonLink, signals: &mut Caught) -> io::Result<Option<(Order, Duration)>> {
    let limit = Instant::now() + PATIENCE_WITH_DAEMONS;
    while Instant::now() < limit && !signals.hang_up.has_come() {
        if let Some((message, files)) = daemon.receive(Some(&Progress::New)) {
            return Ok(ordered(message, files, daemon));
        }
        let until = daemon.due().map_or(limit, |due| due.min(limit));
        let mut descriptors: Vec<PollFd> =
            [readable(Some(signals.descriptor())), readable(daemon.descriptor())].into_iter().flatten().collect();
        poll::wait(&mut descriptors, Some(until))?;
        signals.take_in();
    }
    Ok(None)
}

fn ordered(message: ToLauncher, files: Vec<OwnedFd>, daemon: &mut DaemonLink) -> Option<(Order, Duration)> {
    let ToLauncher::Launch { arguments, environment, workdir, fingerprint, secrets, kept_size, login_patience } =
        message
    else {
        return None;
    };
    daemon.fingerprint = Some(fingerprint);
    let log = kept_size.and_then(|size| {
        let [text, index] = files.try_into().ok()?;
        let secrets = secrets.iter().filter_map(|name| environment.get(name)).cloned();
        Some(Writer::new(text, index, size, ByteStream::new(Redactor::new(secrets))))
    });
    daemon.log = log.as_ref().and_then(written_to);
    let workdir = PathBuf::from(OsStr::from_bytes(workdir.as_slice()));
    Some((Order { arguments, environment, workdir, log }, login_patience.unwrap_or(login::LOGIN_TIMEOUT)))
}

/// The inner result says why there is none.
fn log_in(
    order: &Order,
    agentd: &Path,
    patience: Duration,
    daemon: &mut DaemonLink,
    signals: &mut Caught,
) -> io::Result<Result<Login, Failure>> {
    let mut asked = match Asked::begin(agentd, order.environment.get(marker::VARIABLE), patience) {
        Ok(asked) => asked,
        Err(error) => return Ok(Err(not_yet(error.to_string()))),
    };
    loop {
        if let Some(login) = asked.take_in() {
            return Ok(login.map_err(|error| not_yet(error.to_string())));
        }
        // The next daemon is told what has come of it.
        while let Some((message, _)) = daemon.receive(None) {
            if matches!(message, ToLauncher::Interrupt | ToLauncher::InterruptAgain | ToLauncher::Unwanted) {
                return Ok(Err(not_yet("it was stopped before it started".to_owned())));
            }
        }
        if signals.hang_up.has_come() {
            // Nobody is there to be told of anything that is started now.
            return Ok(Err(not_yet("its pane was closed before it started".to_owned())));
        }
        let descriptors = [Some(signals.descriptor()), daemon.descriptor(), Some(asked.descriptor())].map(readable);
        let mut descriptors: Vec<PollFd> = descriptors.into_iter().flatten().collect();
        poll::wait(&mut descriptors, Some(asked.limit()))?;
        signals.take_in();
    }
}

/// It may be otherwise for the next try.
fn not_yet(message: String) -> Failure {
    Failure { message, errno: None, missing: true }
}

fn written_to(log: &Writer) -> Option<Log> {
    Some(Log { file: FileId::of(log.text()).ok()?, size: log.size() })
}

struct Order {
    arguments: Vec<SecretBytes>,
    environment: BTreeMap<String, SecretBytes>,
    workdir: PathBuf,
    log: Option<Writer>,
}

/// Starts the harness, and returns when it started. The order, with its secrets, is gone when this returns; only the log is left.
#[expect(clippy::needless_pass_by_value, reason = "nothing of the login is left either")]
fn start(order: Order, login: Login, daemon: &mut DaemonLink) -> Result<(Harness, Terminal, Option<Scratch>), Failure> {
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
        let base = of_login(temporary_dir::VARIABLE);
        temporary_dir::begin_removal_of_left(base, &daemon.socket, &daemon.name);
        match Scratch::make(base, &daemon.socket, &daemon.name) {
            Ok(made) => {
                command.env(temporary_dir::VARIABLE, made.path());
                scratch = Some(made);
            }
            Err(error) => faults.push(format!("it has no folder of its own for temporary files: {error}")),
        }
    }
    if !faults.is_empty() {
        daemon.say(&FromLauncher::Environment(faults.join("; ")));
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
fn attend(
    harness: Harness,
    terminal: &mut Terminal,
    scratch: Option<Scratch>,
    signals: &mut Caught,
    daemon: &mut DaemonLink,
) -> Result<Ending, Error> {
    let server = getppid();
    // What ends like a crashed harness must not leave a core of its own.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let (status, has_hung_up) = see_end(harness, terminal, signals, daemon)?;
    let at = Timestamp::now().boot();
    if let Err(error) = terminal.collect() {
        daemon.say(&not_logged(&error));
    }
    let ending = if has_hung_up || pane_is_gone() { Ending::Cause(who_hung_up(server)) } else { status };
    let end = end(ending.clone(), at);
    daemon.say(&FromLauncher::Ended(end.clone()));
    clean_up(signals);
    let removal = remove(scratch);
    // What was left printed, too.
    let _ = terminal.collect();
    // One that does not answer has shown what it will ever show.
    terminal.finish(&last_words(&ending), Instant::now() + DRAIN);
    // It has ended when the other end is gone.
    let _ = removal.recv_timeout(REMOVAL);
    daemon.see_noted(&Progress::Ended { harness, end });
    Ok(ending)
}

/// Attends to everything until the harness has ended. Answers how, and whether its terminal had gone away before.
fn see_end(
    harness: Harness,
    terminal: &mut Terminal,
    signals: &mut Caught,
    daemon: &mut DaemonLink,
) -> io::Result<(Ending, bool)> {
    let pid = Pid::from_raw(harness.pid);
    let running = Progress::Running(harness);
    let mut interrupts = 0;
    let mut hung_up: Option<Instant> = None;
    // The first look at the daemon is for what came while the harness was started.
    let mut is_heard = true;
    loop {
        // Whatever signal was handled: it costs little, and none is missed.
        if let Some(status) = reap(pid) {
            return Ok((status, hung_up.is_some()));
        }
        if signals.terminate.has_come() {
            let _ = kill(pid, Signal::SIGTERM);
        }
        if signals.hang_up.has_come() && hung_up.is_none() && pane_is_gone() {
            hung_up = Some(Instant::now() + AFTER_HANGUP);
            // As the kernel does it. What is stopped could not end.
            signal_foreground(pid, terminal, Signal::SIGHUP);
            signal_foreground(pid, terminal, Signal::SIGCONT);
        }
        if signals.window.has_come() {
            terminal.resize();
        }
        if hung_up.is_some_and(|limit| limit <= Instant::now()) {
            let _ = kill(pid, Signal::SIGKILL);
            hung_up = Some(Instant::now() + AFTER_HANGUP);
        }
        if is_heard && let Some((message, files)) = daemon.receive(Some(&running)) {
            // A stop is one SIGINT and another one, however many daemons have a part in it.
            let wanted = obey((message, files), terminal, daemon);
            if interrupts < wanted {
                interrupts = wanted;
                signal_foreground(pid, terminal, Signal::SIGINT);
            }
        }
        let ready = await_something(terminal, signals, daemon, hung_up)?;
        is_heard = !ready.daemon.is_empty() || daemon.due().is_some_and(|due| due <= Instant::now());
        if let Err(error) = terminal.relay(ready.terminal) {
            daemon.say(&not_logged(&error));
        }
    }
}

/// What is ready.
struct Ready {
    daemon: PollFlags,
    terminal: [PollFlags; 2],
}

fn await_something(
    terminal: &Terminal,
    signals: &mut Caught,
    daemon: &DaemonLink,
    hung_up: Option<Instant>,
) -> io::Result<Ready> {
    let [other, pane] = terminal.interest();
    let mut descriptors = [readable(Some(signals.descriptor())), readable(daemon.descriptor()), other, pane];
    let mut present: Vec<PollFd> = descriptors.iter().flatten().cloned().collect();
    poll::wait(&mut present, daemon.due().into_iter().chain(hung_up).min())?;
    let mut events = present.iter().map(|descriptor| descriptor.revents().unwrap_or(PollFlags::empty()));
    let [_, daemon, other, pane] = descriptors
        .each_mut()
        .map(|descriptor| descriptor.as_ref().and_then(|_| events.next()).unwrap_or(PollFlags::empty()));
    drop(events);
    signals.take_in();
    Ok(Ready { daemon, terminal: [other, pane] })
}

/// Does what the daemon says; answers how many SIGINT it wants.
fn obey((message, files): Said, terminal: &mut Terminal, daemon: &mut DaemonLink) -> u8 {
    match message {
        ToLauncher::Interrupt => 1,
        ToLauncher::InterruptAgain => 2,
        ToLauncher::Keep { kept_size } => {
            if let Ok([text, index]) = <[OwnedFd; 2]>::try_from(files) {
                daemon.log = terminal.move_log(text, index, kept_size).and_then(written_to);
            }
            0
        }
        _ => 0,
    }
}

/// Removes it beside everything else; what is answered is closed when that is done. Nobody uses it any more. One that takes long is
/// removed by the next launcher. Where there is no thread to be had, it is removed here.
fn remove(scratch: Option<Scratch>) -> mpsc::Receiver<()> {
    let (done, is_done) = mpsc::channel();
    let work = move || {
        drop(scratch);
        drop(done);
    };
    let _ = std::thread::Builder::new().spawn(work);
    is_done
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
    nix::poll::poll(&mut descriptors, PollTimeout::ZERO).is_ok()
        && descriptors[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// A server that died has closed the terminal before it is seen to be dead.
fn who_hung_up(server: Pid) -> String {
    let limit = Instant::now() + Duration::from_millis(200);
    while getppid() == server && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(5));
    }
    if getppid() == server { "its tmux session was closed".to_owned() } else { "the tmux server died".to_owned() }
}

/// Kills what the harness left behind, until this process has no children any more.
fn clean_up(signals: &mut Caught) {
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
        let soon = Instant::now() + Duration::from_millis(100);
        let _ = poll::wait(&mut [PollFd::new(signals.descriptor(), PollFlags::POLLIN)], Some(soon));
        signals.take_in();
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
    /// Readable when one of those below has come, or a child has ended.
    woken: UnixStream,
    terminate: Flag,
    hang_up: Flag,
    window: Flag,
}

/// Whether a signal has come.
struct Flag(Arc<AtomicBool>);

impl Flag {
    /// Since the last time that this was asked.
    fn has_come(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl Caught {
    fn new() -> io::Result<Self> {
        const LAST_STANDARD: i32 = 31;
        let ignored = Arc::new(AtomicBool::new(false));
        for number in 1..=LAST_STANDARD {
            // The few that cannot be caught (SIGKILL, SIGSTOP) or must not be (SIGSEGV and its like) cannot have been ignored.
            if !signal_hook::consts::FORBIDDEN.contains(&number) {
                signal_hook::flag::register(number, Arc::clone(&ignored))?;
            }
        }
        let (woken, waker) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let catch = |number| {
            let flag = Arc::new(AtomicBool::new(false));
            // In this order: who is woken finds the flag set.
            signal_hook::flag::register(number, Arc::clone(&flag))?;
            signal_hook::low_level::pipe::register(number, waker.try_clone()?)?;
            io::Result::Ok(Flag(flag))
        };
        catch(SIGCHLD)?;
        let (terminate, hang_up, window) = (catch(SIGTERM)?, catch(SIGHUP)?, catch(SIGWINCH)?);
        Ok(Self { woken, terminate, hang_up, window })
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// To be called when it was waited for, and before flags are asked.
    fn take_in(&mut self) {
        let mut buffer = [0; 64];
        while self.woken.read(&mut buffer).is_ok_and(|count| count > 0) {}
    }
}

/// The words of the command line that starts a launcher, after the program.
pub fn command_line(name: &str, attempt: u64, socket: &Path, agentd: &str) -> [String; 4] {
    [name.to_owned(), attempt.to_string(), socket.to_string_lossy().into_owned(), agentd.to_owned()]
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
