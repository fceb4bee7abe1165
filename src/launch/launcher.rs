//! The launcher's main loop: the process in the pane that starts the harness and outlives it by a moment.
//!
//! It leads the pane's session. The harness leads another session, on another [terminal](super::terminal). The launcher
//! survives every signal that can be caught, and it is the reaper of all its descendants, so none of them escapes by forking twice.

mod boxed;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
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

use boxed::Boxed;

use super::asks::Asks;
use super::conversation;
use super::daemon_link::{DAEMON_TIMEOUT, DaemonLink, Said, readable};
use super::git;
use super::login::{self, Asked, Login};
use super::packages::{self, Building};
use super::protocol::{
    End, Ending, Failure, FromLauncher, Harness, Log, ProgramNotFound, Progress, SessionOrder, Taught, ToLauncher,
};
use super::reports::Reports;
use super::sandbox;
use super::secret_files::SecretFiles;
use super::skills::{self, Skills};
use super::tell::{Ear, Heard};
use super::temporary_dir::{self, Scratch};
use super::terminal::Terminal;
use crate::agent::approval::{self, Asking};
use crate::agent::harness::hooks::{Hooks, TELL_VARIABLE, Told};
use crate::agent::packages::{Built, Package, TIMEOUT};
use crate::agent::sandbox::{Home, Sandbox};
use crate::agent::stream_kind::StreamKind;
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

/// How long a harness may take to end after its terminal has gone away.
const AFTER_HANGUP: Duration = Duration::from_secs(5);

/// How long the terminal may take to show the last of the output.
const DRAIN: Duration = Duration::from_secs(2);

/// How long processes that the harness left behind may take to die. Only a process stuck in the kernel takes any time at all.
const CLEANUP: Duration = Duration::from_secs(5);

/// How much longer the removal of the harness's temporary files may take.
const REMOVAL: Duration = Duration::from_secs(2);

/// The exit status if no harness was ever started, as with `env(1)`. It is safe to start the attempt again.
pub const NOTHING_STARTED: u8 = 125;

/// Why the launcher did not start a harness.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon does not know this attempt or this process, or no daemon ran for too long.
    #[error("no daemon expects this launcher; it is started by the daemon only")]
    Unwanted,
    /// The process could not be set up.
    #[error("failed to prepare: {0}")]
    Prepare(#[from] io::Error),
    /// The harness could not be started; the daemon knows it.
    #[error("{}", .0.message)]
    Harness(Failure),
}

impl Error {
    /// The exit status, as shells have it: 127 for a missing program, 126 for one that cannot be run.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Harness(Failure { errno: Some(errno), .. }) if *errno == Errno::ENOENT as i32 => 127,
            Self::Harness(_) => 126,
            _ => NOTHING_STARTED,
        }
    }
}

/// The umask of an agent whose entry says nothing of it.
const UMASK: u32 = 0o022;

/// Runs the launcher for one attempt of one agent.
///
/// `agentd` logs the agent user in. Returns the status to exit with, or does not return if the harness was ended by a signal: the
/// launcher then ends by the same signal.
pub fn run(name: &str, attempt: u64, socket: &Path, agentd: &Path) -> Result<u8, Error> {
    umask(Mode::from_bits_truncate(UMASK));
    rlimit::restore_descriptors();
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)?;
    Ok(end_like(&live(name, attempt, socket, agentd)?))
}

/// Reports an error on standard error, and returns the exit code.
pub fn conclude(result: Result<u8, Error>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // If standard error is closed, the message has no reader.
            let _ = writeln!(io::stderr(), "agentd: {}", escaped_lines(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}

fn live(name: &str, attempt: u64, socket: &Path, agentd: &Path) -> Result<Ending, Error> {
    let mut signals = Caught::new()?;
    let mut daemon = DaemonLink::new(socket, name, attempt);
    let (mut order, login_patience) = await_order(&mut daemon, &mut signals)?.ok_or(Error::Unwanted)?;
    // Not earlier: until now, the daemon does not know the children of this process as the agent's.
    let prepared = match log_in(&order, agentd, login_patience, &mut daemon, &mut signals)? {
        Ok(mut login) => build(&mut order, &mut login, agentd, &mut daemon, &mut signals)?.map(|()| login),
        Err(failure) => Err(failure),
    };
    let started = match prepared {
        Ok(login) => start(order, login, agentd, &mut daemon),
        Err(failure) => {
            drop(order);
            Err(failure)
        }
    };
    let started = started.and_then(|running| match running.see_inside(&mut daemon, &mut signals) {
        Ok(running) => Ok(running),
        Err(failure) => {
            // The engine and what it may have started.
            clean_up(&mut signals);
            Err(failure)
        }
    });
    match started {
        Ok(running) => {
            daemon.say(&FromLauncher::Started(running.harness));
            attend(running, &mut signals, &mut daemon)
        }
        Err(failure) => {
            daemon.say(&FromLauncher::Failed(failure.clone()));
            daemon.see_noted(&Progress::Failed(failure.clone()));
            Err(Error::Harness(failure))
        }
    }
}

/// Waits for the work, and for how long the login may take; `None` if it does not arrive in time, or the pane is gone.
fn await_order(daemon: &mut DaemonLink, signals: &mut Caught) -> io::Result<Option<(Order, Duration)>> {
    let limit = Instant::now() + DAEMON_TIMEOUT;
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
    let ToLauncher::Launch {
        arguments,
        environment,
        workdir,
        fingerprint,
        secrets,
        kept_size,
        login_patience,
        umask: declared,
        trust_repository,
        sandbox,
        packages,
        packages_timeout,
        session,
        stream,
        secret_files,
        skills,
        hooks,
        asking,
        reports,
    } = message
    else {
        return None;
    };
    umask(Mode::from_bits_truncate(declared.unwrap_or(UMASK)));
    daemon.fingerprint = Some(fingerprint);
    if reports {
        daemon.begin_reports();
    }
    let log = kept_size.and_then(|size| {
        let [text, index] = files.try_into().ok()?;
        let secrets = secrets.iter().filter_map(|name| environment.get(name)).cloned();
        Some(Writer::new(text, index, size, ByteStream::new(Redactor::new(secrets))))
    });
    daemon.log = log.as_ref().and_then(written_to);
    let workdir = PathBuf::from(OsStr::from_bytes(workdir.as_slice()));
    let packages_timeout = packages_timeout.unwrap_or(TIMEOUT);
    Some((
        Order {
            arguments,
            environment,
            workdir,
            umask: declared.unwrap_or(UMASK),
            trust_repository,
            sandbox: sandbox.map(|sandbox| *sandbox),
            packages,
            packages_timeout,
            session: session.map(|session| *session),
            closure: Vec::new(),
            skills: skills.map(|taught| *taught),
            to_files: if secret_files { secrets } else { BTreeSet::new() },
            log,
            stream,
            hooks,
            asking: asking.map(|asking| *asking),
        },
        login_patience.unwrap_or(login::LOGIN_TIMEOUT),
    ))
}

/// Logs the agent user in. The inner error says why that failed.
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
        // The next daemon learns of the outcome.
        while let Some((message, _)) = daemon.receive(None) {
            if matches!(message, ToLauncher::Interrupt | ToLauncher::InterruptAgain | ToLauncher::Unwanted) {
                return Ok(Err(not_yet("it was stopped before it started".to_owned())));
            }
        }
        if signals.hang_up.has_come() {
            // Without the pane, nothing can be shown of a harness that starts now.
            return Ok(Err(not_yet("its pane was closed before it started".to_owned())));
        }
        let descriptors = [Some(signals.descriptor()), daemon.descriptor(), Some(asked.descriptor())].map(readable);
        let mut descriptors: Vec<PollFd> = descriptors.into_iter().flatten().collect();
        poll::wait(&mut descriptors, Some(asked.limit()))?;
        signals.take_in();
    }
}

/// Has the packages built, and puts their programs first in the `PATH`. The inner error says why they are not there.
fn build(
    order: &mut Order,
    login: &mut Login,
    agentd: &Path,
    daemon: &mut DaemonLink,
    signals: &mut Caught,
) -> io::Result<Result<(), Failure>> {
    if order.packages.is_empty() {
        return Ok(Ok(()));
    }
    daemon.say(&FromLauncher::Building);
    let environment = of_packages(order, login);
    let begun = Building::begin(agentd, &daemon.name, &order.packages, environment, order.packages_timeout);
    let mut building = match begun {
        Ok(building) => building,
        Err(error) => return Ok(Err(unbuilt(format!("{} cannot be run: {error}", agentd.display())))),
    };
    let built = await_packages(&mut building, daemon, signals)?;
    let Built { programs, closure } = match built {
        Ok(built) => built,
        Err(failure) => {
            end_building(&building, signals)?;
            return Ok(Err(failure));
        }
    };
    order.closure = closure;
    if let Some(path) = order.environment.get_mut("PATH") {
        let with = packages::with_programs(&programs, Some(OsStr::from_bytes(path.as_slice())));
        *path = SecretBytes::from(with.as_bytes().to_vec());
    }
    let path = login.environment.iter().position(|(name, _)| name == "PATH");
    let path = path.map(|at| login.environment.swap_remove(at).1);
    login.environment.push(("PATH".into(), packages::with_programs(&programs, path.as_deref())));
    Ok(Ok(()))
}

/// What the step that builds packages has of the environment: the login's, and what is declared for Nix.
fn of_packages(order: &Order, login: &Login) -> BTreeMap<OsString, OsString> {
    let is_given = |name: &str| name == marker::VARIABLE || packages::is_for_nix(name);
    let declared = order.environment.iter().filter(|(name, _)| is_given(name));
    let declared = declared.map(|(name, value)| (name.into(), OsStr::from_bytes(value.as_slice()).to_owned()));
    login.environment.iter().cloned().chain(declared).collect()
}

/// Waits for the packages. The inner error says why they are not there, or that they are no longer wanted.
fn await_packages(
    building: &mut Building,
    daemon: &mut DaemonLink,
    signals: &mut Caught,
) -> io::Result<Result<Built, Failure>> {
    loop {
        if let Some(built) = building.take_in() {
            return Ok(built.map_err(unbuilt));
        }
        // The next daemon learns of the outcome.
        while let Some((message, _)) = daemon.receive(None) {
            if matches!(message, ToLauncher::Interrupt | ToLauncher::InterruptAgain | ToLauncher::Unwanted) {
                return Ok(Err(not_yet("it was stopped before it started".to_owned())));
            }
        }
        if signals.hang_up.has_come() {
            return Ok(Err(not_yet("its pane was closed before it started".to_owned())));
        }
        let limit = building.limit();
        let descriptors = [Some(signals.descriptor()), daemon.descriptor(), Some(building.descriptor())].map(readable);
        let mut descriptors: Vec<PollFd> = descriptors.into_iter().flatten().collect();
        poll::wait(&mut descriptors, Some(limit))?;
        signals.take_in();
    }
}

/// Ends what builds packages: Nix by SIGINT, and then whatever is left.
fn end_building(building: &Building, signals: &mut Caught) -> io::Result<()> {
    building.interrupt();
    let limit = Instant::now() + packages::END_TIMEOUT;
    while building.pid().is_some_and(|pid| reap(pid).is_none()) && Instant::now() < limit {
        poll::wait(&mut [PollFd::new(signals.descriptor(), PollFlags::POLLIN)], Some(limit))?;
        signals.take_in();
    }
    clean_up(signals);
    Ok(())
}

fn unbuilt(message: String) -> Failure {
    Failure { packages: true, ..not_yet(message) }
}

/// A failure that the next attempt may not have.
fn not_yet(message: String) -> Failure {
    Failure { message, errno: None, missing: true, program: None, packages: false, proxy: None }
}

fn written_to(log: &Writer) -> Option<Log> {
    Some(Log { file: FileId::of(log.text()).ok()?, size: log.size(), lost_at: None })
}

struct Order {
    arguments: Vec<SecretBytes>,
    environment: BTreeMap<String, SecretBytes>,
    workdir: PathBuf,
    umask: u32,
    /// Whether git is to trust the repository of another user.
    trust_repository: bool,
    sandbox: Option<Sandbox>,
    packages: Vec<Package>,
    packages_timeout: Duration,
    /// Which conversation the harness is to be in.
    session: Option<SessionOrder>,
    /// What the packages need of the store.
    closure: Vec<PathBuf>,
    skills: Option<Taught>,
    /// The variables whose values are to be in files, too.
    to_files: BTreeSet<String>,
    log: Option<Writer>,
    /// The form of its standard output, if that is to be read.
    stream: Option<StreamKind>,
    hooks: Option<Hooks>,
    asking: Option<Asking>,
}

/// What was started.
struct Running {
    harness: Harness,
    /// The child of this process that ends with it: the harness itself, or the engine of its sandbox.
    child: Pid,
    terminal: Terminal,
    scratch: Vec<Scratch>,
    boxed: Option<Boxed>,
    skills: Option<Skills>,
    secrets: Option<SecretFiles>,
    /// What its hooks tell, if it has some.
    ear: Option<Ear>,
    reports: Reports,
    asks: Asks,
}

impl Order {
    /// Writes the secrets that are to be in files, and says where these are for the agent: in the folder of `inside`, if that is
    /// another one than here.
    fn write_secrets(
        &mut self,
        socket: &Path,
        agent: &str,
        inside: Option<&Path>,
    ) -> Result<Option<SecretFiles>, Failure> {
        if self.to_files.is_empty() {
            return Ok(None);
        }
        let secrets = self.to_files.iter().filter_map(|name| Some((name, self.environment.get(name)?)));
        let files = SecretFiles::make(socket, agent, secrets)
            .map_err(|error| not_yet(format!("the files with its secrets cannot be made: {error}")))?;
        for (name, path) in files.variables(inside) {
            self.environment.entry(name).or_insert_with(|| SecretBytes::from(path.into_os_string().into_vec()));
        }
        Ok(Some(files))
    }

    /// Says where the skills are, in the environment and where the entry asks for it.
    fn name_skills(&mut self, path: &Path) {
        let Some(taught) = &self.skills else { return };
        let path = path.as_os_str().as_bytes();
        for (at, argument) in self.arguments.iter_mut().enumerate() {
            if Some(at) != taught.prompt {
                skills::fill_in(argument, path);
            }
        }
        self.environment.values_mut().for_each(|value| skills::fill_in(value, path));
        self.environment
            .entry(crate::agent::skills::VARIABLE.to_owned())
            .or_insert_with(|| SecretBytes::from(path.to_vec()));
    }
}

impl Running {
    /// What started on this terminal at that time, with this process as its first.
    fn new(child: &Child, at: Duration, terminal: Terminal, scratch: Vec<Scratch>) -> Result<Self, Failure> {
        // The reaper waits for it, as for every other child of this process.
        let pid = i32::try_from(child.id())
            .map_err(|_| Failure::of_system("the process id is out of range", &Errno::EOVERFLOW.into()))?;
        Ok(Self {
            harness: Harness { pid, at },
            child: Pid::from_raw(pid),
            terminal,
            scratch,
            boxed: None,
            skills: None,
            secrets: None,
            ear: None,
            reports: Reports::default(),
            asks: Asks::new(approval::TIMEOUT),
        })
    }

    /// With what its hooks tell, if it has some.
    fn listening(self, ear: Option<Ear>, asking: Option<Asking>) -> Self {
        let reports = Reports::new(ear.as_ref().map(Ear::hooks));
        let asks = Asks::new(asking.map_or(approval::TIMEOUT, |asking| asking.timeout));
        Self { ear, reports, asks, ..self }
    }

    /// Waits until the harness runs in its sandbox, if it has one.
    fn see_inside(mut self, daemon: &mut DaemonLink, signals: &mut Caught) -> Result<Self, Failure> {
        let Some(mut boxed) = self.boxed.take() else { return Ok(self) };
        boxed.see_started(self.child, daemon, signals)?;
        boxed.find_harness(&mut self.harness, &self.terminal);
        self.boxed = Some(boxed);
        Ok(self)
    }

    /// How it ended, if it has.
    fn ended(&mut self) -> Option<Ending> {
        let ended = reap(self.child);
        match &mut self.boxed {
            Some(boxed) => boxed.ended(ended),
            None => ended,
        }
    }

    /// Signals the terminal's foreground process group, and the harness if it is not in that group.
    fn signal_foreground(&mut self, signal: Signal) {
        if let Some(boxed) = &mut self.boxed {
            return boxed.signal_foreground(&self.terminal, signal);
        }
        let harness = Pid::from_raw(self.harness.pid);
        let directly = || {
            let _ = kill(harness, signal);
        };
        signal_foreground(harness, &self.terminal, directly, signal);
    }

    /// Signals the harness.
    fn signal(&mut self, signal: Signal) {
        match &mut self.boxed {
            Some(boxed) => boxed.signal(self.child, signal),
            None => {
                let _ = kill(self.child, signal);
            }
        }
    }

    fn resize(&mut self) {
        self.terminal.resize();
        if let Some(boxed) = &mut self.boxed {
            boxed.resize(&self.terminal);
        }
    }
}

/// Starts the harness, or the engine of its sandbox, and returns when it started.
///
/// The order is dropped, with its secrets; only the log remains.
#[expect(clippy::needless_pass_by_value, reason = "nothing of the login is left either")]
fn start(mut order: Order, login: Login, agentd: &Path, daemon: &mut DaemonLink) -> Result<Running, Failure> {
    let workdir = order.workdir.clone();
    let workdir = workdir.as_path();
    std::env::set_current_dir(workdir)
        .map_err(|error| Failure::of_system(&format!("the workdir {} cannot be entered", workdir.display()), &error))
        .map_err(|failure| Failure { missing: true, ..failure })?;
    temporary_dir::begin_removal_of_left(login.variable(temporary_dir::VARIABLE), &daemon.socket, &daemon.name);
    enter_conversation(&mut order, &login, daemon);
    if order.sandbox.is_some() {
        return boxed::start(order, &login, daemon);
    }
    let view =
        order.skills.as_ref().map(|taught| Skills::show(taught, &daemon.socket, &daemon.name, login.variable("HOME")));
    let view = view.transpose().map_err(|error| not_yet(format!("its skills cannot be shown: {error}")))?;
    if let Some(view) = &view {
        order.name_skills(view.path());
    }
    let secrets = order.write_secrets(&daemon.socket, &daemon.name, None)?;
    let ear = give_hooks(&mut order, login.variable(temporary_dir::VARIABLE), daemon, agentd);
    let asking = order.asking.take();
    let words: Vec<&OsStr> = order.arguments.iter().map(|argument| OsStr::from_bytes(argument.as_slice())).collect();
    let Some((&program, arguments)) = words.split_first() else {
        return Err(Failure {
            message: "no program was given".to_owned(),
            errno: None,
            missing: false,
            program: None,
            packages: false,
            proxy: None,
        });
    };
    let declared_path = order.environment.get("PATH").map(|path| OsStr::from_bytes(path.as_slice()));
    let found = find(program, declared_path.or(login.variable("PATH")).unwrap_or_default())?;
    let mut command = Command::new(&found);
    command.arg0(program).args(arguments).env_clear();
    let mut faults: Vec<String> = login.warning.iter().cloned().collect();
    faults.extend(view.iter().flat_map(Skills::left_alone));
    let (mut scratch, mut temporary) = (Vec::new(), None);
    if !order.environment.contains_key(temporary_dir::VARIABLE) {
        match Scratch::make(login.variable(temporary_dir::VARIABLE), &daemon.socket, &daemon.name) {
            Ok(made) => {
                temporary = Some(made.path().to_owned());
                scratch.push(made);
            }
            Err(error) => faults.push(format!("it has no folder of its own for temporary files: {error}")),
        }
    }
    let mut environment = environment(&order, &login, temporary.as_deref());
    let home = environment.get(OsStr::new("HOME")).cloned();
    environment.extend(ear.as_ref().map(|ear| (TELL_VARIABLE.into(), ear.path().into())));
    faults.extend(git::trust(&mut environment, &order.workdir, order.trust_repository, home.as_deref()));
    say_faults(&faults, daemon);
    command.envs(environment);
    let mut terminal = Terminal::open(order.log, order.stream).map_err(|error| no_terminal(&error))?;
    let at = Timestamp::now().boot();
    let child = terminal.spawn(command).map_err(|error| match error.kind() {
        // The file itself was found.
        io::ErrorKind::NotFound => {
            Failure::of_system(&format!("{}: its interpreter is missing", found.display()), &error)
        }
        _ => Failure::of_system(&format!("{} cannot be run", found.display()), &error),
    })?;
    let running = Running { skills: view, secrets, ..Running::new(&child, at, terminal, scratch)? };
    Ok(running.listening(ear, asking))
}

/// Gives the harness its hooks, if it has some, with that program as what they run. Without a socket for them it has none.
fn give_hooks(order: &mut Order, base: Option<&OsStr>, daemon: &mut DaemonLink, program: &Path) -> Option<Ear> {
    let hooks = order.hooks.filter(|hooks| hooks.at <= order.arguments.len())?;
    let program = program.to_str()?;
    let opened = Scratch::make(base, &daemon.socket, &daemon.name).and_then(|folder| Ear::open(folder, hooks));
    match opened {
        Ok(ear) => {
            let words =
                hooks.kind.arguments(program, order.asking.as_ref()).map(|word| SecretBytes::from(word.as_str()));
            order.arguments.splice(hooks.at..hooks.at, words);
            Some(ear)
        }
        Err(error) => {
            daemon.say(&FromLauncher::Warning(format!(
                "it has no hooks, and what it does is not known by them: {error}"
            )));
            None
        }
    }
}

/// Decides which conversation the harness is in, and tells the daemon.
fn enter_conversation(order: &mut Order, login: &Login, daemon: &mut DaemonLink) {
    let Some(session) = order.session.take() else { return };
    let login_home = login.variable("HOME").map(PathBuf::from);
    let home = match order.sandbox.as_ref().map(|sandbox| sandbox.home) {
        None => {
            let declared = order.environment.get("HOME").map(|home| OsStr::from_bytes(home.as_slice()).into());
            declared.or(login_home)
        }
        Some(Home::Real) => login_home,
        Some(Home::Kept) => login_home.map(|home| sandbox::kept_home(&home, &daemon.name)),
        Some(Home::Fresh) => None,
    };
    let usual = std::mem::take(&mut order.arguments);
    let (taken, arguments) = conversation::settle(session, home.as_deref(), usual);
    order.arguments = arguments;
    // It is the last argument of each command line.
    let last = order.arguments.len().saturating_sub(1);
    order.skills.iter_mut().flat_map(|taught| &mut taught.prompt).for_each(|prompt| *prompt = last);
    daemon.conversation = Some(taken.clone());
    daemon.say(&FromLauncher::Took(taken));
}

fn no_terminal(error: &io::Error) -> Failure {
    Failure { missing: true, ..Failure::of_system("its terminal cannot be had", error) }
}

fn say_faults(faults: &[String], daemon: &mut DaemonLink) {
    if !faults.is_empty() {
        daemon.say(&FromLauncher::Environment(faults.join("; ")));
    }
}

/// The harness's environment: what the login gives, the terminal's variables, and what was declared over them.
fn environment(order: &Order, login: &Login, temporary: Option<&Path>) -> BTreeMap<OsString, OsString> {
    let mut environment: BTreeMap<OsString, OsString> = login.environment.iter().cloned().collect();
    environment.insert("PWD".into(), order.workdir.clone().into());
    let pane = login::terminal_variables()
        .chain(login::language(&login.environment, order.environment.keys()).map(|(name, value)| (name, value.into())));
    environment.extend(pane.map(|(name, value)| (name.into(), value)));
    environment.extend(temporary.map(|path| (temporary_dir::VARIABLE.into(), path.into())));
    let declared = order.environment.iter();
    environment.extend(declared.map(|(name, value)| (name.into(), OsStr::from_bytes(value.as_slice()).to_owned())));
    environment
}

/// Searches as `execvp(3)` does, but in the `PATH` that the harness will have, and with an error that says where it searched.
pub(super) fn find(program: &OsStr, path: &OsStr) -> Result<PathBuf, Failure> {
    let shown = program.display();
    if program.as_bytes().contains(&b'/') {
        let found = Path::new(program);
        return match fs::metadata(found) {
            Err(error) => {
                let is_absent = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
                let program = is_absent.then(|| ProgramNotFound { name: shown.to_string(), path: None });
                Err(Failure { program, ..Failure::of_system(&format!("{shown} cannot be run"), &error) })
            }
            Ok(metadata) if metadata.is_dir() => {
                Err(Failure::of_system(&format!("{shown} cannot be run"), &Errno::EISDIR.into()))
            }
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
            Err(Failure::of_system(&format!("{shown}: {} is not executable", seen.display()), &Errno::EACCES.into()))
        }
        (None, None) => Err(Failure {
            message: format!("{shown}: not found in PATH ({})", path.display()),
            errno: Some(Errno::ENOENT as i32),
            missing: false,
            program: Some(ProgramNotFound { name: shown.to_string(), path: Some(path.display().to_string()) }),
            packages: false,
            proxy: None,
        }),
    }
}

/// Waits until the harness has ended, has been reported, and has left nothing behind.
fn attend(mut running: Running, signals: &mut Caught, daemon: &mut DaemonLink) -> Result<Ending, Error> {
    let server = getppid();
    // This process may end by the same signal as a crashed harness, and must not leave a core dump.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let (status, has_hung_up) = see_end(&mut running, signals, daemon)?;
    let at = Timestamp::now().boot();
    let Running { harness, mut terminal, scratch, boxed, skills, secrets, ear, asks, .. } = running;
    drop((boxed, ear, asks));
    if let Err(error) = terminal.end_stream(&as_status(&status)).and(terminal.collect()) {
        say_lost(&error, daemon);
    }
    tell_result(&mut terminal, daemon);
    let ending = if has_hung_up || pane_is_gone() { Ending::Cause(hangup_cause(server)) } else { status };
    let tail = if ending == Ending::Code(0) { None } else { terminal.tail() };
    let end = End { tail, ..end(ending.clone(), at, terminal.has_printed()) };
    daemon.say(&FromLauncher::Ended(end.clone()));
    clean_up(signals);
    drop((skills, secrets));
    let removal = remove(scratch);
    // Processes that were left behind may have printed, too.
    let _ = terminal.collect();
    // A terminal that does not answer has shown all that it ever will.
    terminal.finish(&last_words(&ending), Instant::now() + DRAIN);
    // The removal is done when the other end is closed.
    let _ = removal.recv_timeout(REMOVAL);
    daemon.see_noted(&Progress::Ended { harness, end });
    Ok(ending)
}

/// Attends to everything until the harness has ended. Returns how it ended, and whether its terminal had gone away before.
fn see_end(running: &mut Running, signals: &mut Caught, daemon: &mut DaemonLink) -> io::Result<(Ending, bool)> {
    let progress = Progress::Running(running.harness);
    let mut interrupts = 0;
    let mut hung_up: Option<Instant> = None;
    // The first check is for messages that came while the harness was started.
    let mut is_heard = true;
    loop {
        // Whatever signal was handled: this costs little, and misses no child.
        if let Some(status) = running.ended() {
            return Ok((status, hung_up.is_some()));
        }
        if signals.terminate.has_come() {
            running.signal(Signal::SIGTERM);
        }
        if signals.hang_up.has_come() && hung_up.is_none() && pane_is_gone() {
            hung_up = Some(Instant::now() + AFTER_HANGUP);
            // As the kernel does it. A stopped process could not end.
            running.signal_foreground(Signal::SIGHUP);
            running.signal_foreground(Signal::SIGCONT);
        }
        if signals.window.has_come() {
            running.resize();
        }
        if hung_up.is_some_and(|limit| limit <= Instant::now()) {
            running.signal(Signal::SIGKILL);
            hung_up = Some(Instant::now() + AFTER_HANGUP);
        }
        // All of them: if this end said more than it hears, both would wait for each other in the end.
        while is_heard && let Some((message, files)) = daemon.receive(Some(&progress)) {
            // A stop sends at most two SIGINT, however many daemons take part in it.
            let wanted = obey((message, files), running, daemon);
            if interrupts < wanted {
                interrupts = wanted;
                running.signal_foreground(Signal::SIGINT);
            }
        }
        tell(&mut running.terminal, daemon);
        let ready = await_something(running, signals, daemon, hung_up)?;
        is_heard = !ready.daemon.is_empty() || daemon.due().is_some_and(|due| due <= Instant::now());
        if let Err(error) = running.terminal.relay(ready.terminal) {
            say_lost(&error, daemon);
        }
        report(running, daemon);
    }
}

/// Takes in what hooks tell and that something was printed, and reports what is due of that.
fn report(running: &mut Running, daemon: &mut DaemonLink) {
    let Running { terminal, ear, reports, asks, .. } = running;
    let has_printed = terminal.prints();
    let due = reports.due().filter(|_| daemon.hears_reports());
    if !has_printed && ear.is_none() && due.is_none() {
        return;
    }
    let now = Instant::now();
    if has_printed {
        reports.printed(now);
    }
    for heard in ear.iter_mut().flat_map(|ear| ear.listen(now)) {
        match heard {
            Heard::Told(told) => reports.heard(told, now),
            Heard::Asks(caller, text) => {
                reports.heard(Told::Nothing, now);
                asks.ask(caller, &text, now);
            }
        }
    }
    if !asks.is_empty() {
        asks.look(now);
    }
    while daemon.hears_reports()
        && let Some(message) = asks.take()
    {
        daemon.say(&message);
    }
    if let Some(id) = ear.as_ref().and_then(|ear| ear.conversation()) {
        daemon.is_in(id, now);
    }
    while daemon.hears_reports()
        && let Some(message) = reports.take(now)
    {
        daemon.say(&message);
    }
}

/// The descriptors that are ready.
struct Ready {
    daemon: PollFlags,
    terminal: [PollFlags; 3],
}

fn await_something(
    running: &Running,
    signals: &mut Caught,
    daemon: &DaemonLink,
    hung_up: Option<Instant>,
) -> io::Result<Ready> {
    let [other, pane, output] = running.terminal.interest();
    let boxed = running.boxed.as_ref();
    let inside = boxed.and_then(Boxed::interest);
    let mut descriptors =
        [readable(Some(signals.descriptor())), readable(daemon.descriptor()), other, pane, output, inside];
    let callers = running.ear.iter().flat_map(Ear::interest);
    let askers = running.asks.interest();
    let mut present: Vec<PollFd> = descriptors.iter().flatten().cloned().chain(callers).chain(askers).collect();
    let limit = boxed.and_then(|boxed| boxed.limit);
    let news = running.terminal.news_due().filter(|_| daemon.hears_reports());
    let report = running.reports.due().filter(|_| daemon.hears_reports());
    let caller = running.ear.as_ref().and_then(Ear::due);
    let moved = daemon.move_due(running.ear.as_ref().and_then(Ear::conversation));
    // What the daemon has just said may be answered at once.
    let answered = (daemon.hears_reports() && running.asks.has_news()).then(Instant::now);
    let limits = [hung_up, limit, news, report, caller, moved, running.asks.due(), answered].into_iter().flatten();
    poll::wait(&mut present, daemon.due().into_iter().chain(limits).min())?;
    let mut events = present.iter().map(|descriptor| descriptor.revents().unwrap_or(PollFlags::empty()));
    let [_, daemon, other, pane, output, _] = descriptors
        .each_mut()
        .map(|descriptor| descriptor.as_ref().and_then(|_| events.next()).unwrap_or(PollFlags::empty()));
    drop(events);
    signals.take_in();
    Ok(Ready { daemon, terminal: [other, pane, output] })
}

/// Reports what the harness has said of its work, to this daemon if it listens, and to the next.
fn tell(terminal: &mut Terminal, daemon: &mut DaemonLink) {
    let Some(news) = terminal.news() else { return };
    if news.is_any() {
        daemon.told = Some(news.told().clone());
    }
    if daemon.hears_reports() {
        news.report(Instant::now()).iter().for_each(|message| daemon.say(message));
    }
}

/// Reports the rest of that, and the result. A daemon that has just come listens without having said so; one of an earlier build hangs
/// up, and learns of the end when it is introduced to this launcher again.
fn tell_result(terminal: &mut Terminal, daemon: &mut DaemonLink) {
    let Some(news) = terminal.news() else { return };
    daemon.told = Some(news.told().clone());
    news.report(Instant::now()).iter().for_each(|message| daemon.say(message));
    if let Some(result) = news.told().result.clone() {
        daemon.say(&FromLauncher::Result(result));
    }
}

/// How the harness ended, for its stream.
fn as_status(ending: &Ending) -> ExitStatus {
    match ending {
        Ending::Code(code) => ExitStatus::of_code(*code),
        Ending::Signal(number) => ExitStatus::of_signal(*number),
        Ending::Cause(cause) => ExitStatus::Cause(cause.clone()),
    }
}

/// Obeys the daemon's message; returns how many SIGINT it asks for in all.
fn obey((message, files): Said, running: &mut Running, daemon: &mut DaemonLink) -> u8 {
    let terminal = &mut running.terminal;
    match message {
        ToLauncher::Renew { secrets } => {
            if let Some(files) = &mut running.secrets {
                // Before the agent can print them.
                terminal.redact(files.to_redact(&secrets));
                if let Err(error) = files.replace(&secrets) {
                    daemon
                        .say(&FromLauncher::Warning(format!("the files with its secrets were not replaced: {error}")));
                }
            }
            0
        }
        ToLauncher::Interrupt => 1,
        ToLauncher::InterruptAgain => 2,
        ToLauncher::Keep { kept_size } => {
            if let Ok([text, index]) = <[OwnedFd; 2]>::try_from(files) {
                daemon.log = running.terminal.move_log(text, index, kept_size).and_then(written_to);
            }
            0
        }
        ToLauncher::Answer { number, allow, why } => {
            running.asks.answer(approval::Told { number, allow, why });
            0
        }
        ToLauncher::Report => {
            running.reports.begin_again();
            running.asks.begin_again();
            daemon.begin_reports();
            0
        }
        _ => 0,
    }
}

/// Removes the temporary folder in another thread; the returned channel closes when that is done.
///
/// The folder is no longer in use. If removal takes too long, the next launcher finishes it. If no thread can be started, the
/// folder is removed here.
fn remove(scratch: Vec<Scratch>) -> mpsc::Receiver<()> {
    let (done, is_done) = mpsc::channel();
    let work = move || {
        drop(scratch);
        drop(done);
    };
    let _ = std::thread::Builder::new().spawn(work);
    is_done
}

/// Says that output cannot be written to the log, to this daemon and the next.
fn say_lost(error: &io::Error, daemon: &mut DaemonLink) {
    if let Some(log) = &mut daemon.log {
        log.lost_at = Some(Timestamp::now().boot());
    }
    daemon.say(&FromLauncher::LogLost(error.to_string()));
}

/// Reaps all children that have ended; returns the status of the harness if it is one of them.
fn reap(harness: Pid) -> Option<Ending> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid.as_raw_pid() == harness.as_raw() => return Some(ending(status)),
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return None,
            // The error proves nothing unless the harness no longer exists. Then its status went to another process, which should
            // be impossible; reporting it as lost is better than waiting forever.
            Err(error) => {
                let is_gone = kill(harness, None) == Err(Errno::ESRCH);
                return is_gone.then(|| Ending::Cause(format!("its status was lost: {error}")));
            }
        }
    }
}

/// Converts the kernel's status, whatever the signal.
pub(super) fn ending(status: WaitStatus) -> Ending {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ending::Code(code),
        (None, Some(signal)) => Ending::Signal(signal),
        (None, None) => Ending::Cause(format!("its status was not understood: {:#x}", status.as_raw())),
    }
}

fn end(how: Ending, at: Duration, has_printed: bool) -> End {
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
        printed: Some(has_printed),
        tail: None,
    }
}

/// Signals the terminal's foreground process group, and in the given way the harness if it is not in that group.
fn signal_foreground(harness: Pid, terminal: &Terminal, directly: impl FnOnce(), signal: Signal) {
    let foreground = terminal.foreground();
    let reached = foreground.is_some_and(|group| killpg(group, signal).is_ok());
    // The harness leads its session, so its group has its own process id.
    if !reached || foreground != Some(harness) {
        directly();
    }
}

fn pane_is_gone() -> bool {
    let stdin = io::stdin();
    let mut descriptors = [PollFd::new(std::os::fd::AsFd::as_fd(&stdin), PollFlags::empty())];
    nix::poll::poll(&mut descriptors, PollTimeout::ZERO).is_ok()
        && descriptors[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}

/// Says why the pane went away.
///
/// A dying server closes the terminal before this process gets a new parent.
fn hangup_cause(server: Pid) -> String {
    let limit = Instant::now() + Duration::from_millis(200);
    while getppid() == server && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(5));
    }
    if getppid() == server { "its tmux session was closed".to_owned() } else { "the tmux server died".to_owned() }
}

/// Kills what the harness left behind, until this process has no children.
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

/// The line that an operator reads below the last output.
fn last_words(ending: &Ending) -> String {
    let end = match ending {
        Ending::Code(code) => format!("exited with status {code}"),
        Ending::Signal(number) => ExitStatus::of_signal(*number).to_string(),
        Ending::Cause(cause) => cause.clone(),
    };
    // In dim letters.
    format!("\x1b[0;2m[{end}]\x1b[0m")
}

/// Ends this process by the same signal, or returns the status to exit with.
fn end_like(ending: &Ending) -> u8 {
    match *ending {
        Ending::Code(code) => u8::try_from(code & 0xff).unwrap_or(1),
        Ending::Signal(signal) => {
            // Returns only if the signal's default is not to end the process, and for signals beyond the standard ones: they are
            // caught here only if this process was started with them ignored.
            if signal_hook::low_level::emulate_default_handler(signal).is_err() {
                let _ = signal_hook::low_level::raise(signal);
            }
            u8::try_from(128 + signal).unwrap_or(u8::MAX)
        }
        Ending::Cause(_) => 1,
    }
}

/// The signals that this process catches: all that can be caught.
///
/// A signal caught here has its default disposition in the harness, whatever this process was started with (`execve(2)`: handlers
/// are reset, ignored signals stay ignored), and does nothing to this process.
struct Caught {
    /// Readable once one of the signals below has come, or a child has ended.
    woken: UnixStream,
    terminate: Flag,
    hang_up: Flag,
    window: Flag,
}

/// Whether a signal has come.
struct Flag(Arc<AtomicBool>);

impl Flag {
    /// Whether the signal has come since the last call.
    fn has_come(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl Caught {
    fn new() -> io::Result<Self> {
        const LAST_STANDARD: i32 = 31;
        let ignored = Arc::new(AtomicBool::new(false));
        for number in 1..=LAST_STANDARD {
            // The few signals that cannot be caught (SIGKILL, SIGSTOP) or must not be (SIGSEGV and the like) cannot have been
            // ignored.
            if !signal_hook::consts::FORBIDDEN.contains(&number) {
                signal_hook::flag::register(number, Arc::clone(&ignored))?;
            }
        }
        let (woken, waker) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let catch = |number| {
            let flag = Arc::new(AtomicBool::new(false));
            // In this order, so that the flag is set once the pipe is readable.
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

    /// Drains the pipe. Call it after waiting and before checking the flags.
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
        assert_eq!(error.program, None, "it was found");

        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(OsStr::new("claude"), &path).unwrap(), file);

        let error = find(OsStr::new("claude"), OsStr::new("/nonexistent")).unwrap_err();
        assert_eq!(error.message, "claude: not found in PATH (/nonexistent)");
        assert_eq!(error.errno, Some(2));
        let path = Some("/nonexistent".to_owned());
        assert_eq!(error.program, Some(ProgramNotFound { name: "claude".to_owned(), path }));
    }

    #[test]
    fn a_program_with_a_slash_is_not_searched_in_path() {
        assert_eq!(find(OsStr::new("/bin/sh"), OsStr::new("")).unwrap(), Path::new("/bin/sh"));
        let absent = |name: &str| find(OsStr::new(name), OsStr::new("/bin")).unwrap_err().program;
        for name in ["./no-such-program", "/bin/sh/no-such-program"] {
            assert_eq!(absent(name), Some(ProgramNotFound { name: name.to_owned(), path: None }));
        }
        assert_eq!(absent("/bin/"), None, "a directory is there, and cannot be run");
    }
}
