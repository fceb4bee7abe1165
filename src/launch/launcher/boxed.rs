//! A harness in a sandbox, as its launcher holds it: the engine, and the process inside that starts the harness.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{
    Caught, Order, Running, environment, find, give_hooks, no_terminal, not_yet, reap, say_faults, signal_foreground,
};
use crate::agent::harness::hooks::TELL_VARIABLE;
use crate::agent::sandbox::{Engine, Home};
use crate::contain::marker;
use crate::launch::daemon_link::{DaemonLink, readable};
use crate::launch::git;
use crate::launch::login::Login;
use crate::launch::protocol::{Ending, Failure, Harness, ToLauncher};
use crate::launch::sandbox::{self, Begun, Channel, FromInside, Held, Request, ToInside};
use crate::launch::secret_files::SecretFiles;
use crate::launch::tell::Ear;
use crate::launch::temporary_dir;
use crate::launch::terminal::Terminal;
use crate::sys::clock::Timestamp;
use crate::sys::poll;
use crate::sys::process::{self, Process};
use crate::wire::exit_status::ExitStatus;

/// How long an engine may take until the harness runs. gVisor needs a second on an idle machine.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(25);

/// How long an engine may take to end after the harness has.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// A harness in a sandbox.
pub(super) struct Boxed {
    engine: Engine,
    channel: Channel,
    held: Held,
    /// The harness, if it is a process of this kernel.
    harness: Option<Process>,
    /// How the harness ended, according to the process inside.
    told: Option<Ending>,
    /// When the end of the engine is waited for no longer.
    pub limit: Option<Instant>,
    /// What to say if the program is not inside, but here.
    outside: Option<String>,
    /// What a fresh home is filled from, until the harness runs.
    seed: Option<std::path::PathBuf>,
}

/// Starts the engine.
pub(super) fn start(mut order: Order, login: &Login, daemon: &mut DaemonLink) -> Result<Running, Failure> {
    order.name_skills(Path::new(sandbox::SKILLS));
    let secrets = order.write_secrets(&daemon.socket, &daemon.name, Some(Path::new(sandbox::SECRETS)))?;
    // A kernel of its own has sockets of its own.
    let has_sockets = order.sandbox.as_ref().is_some_and(|sandbox| !sandbox::is_relayed(sandbox.engine));
    order.hooks = order.hooks.filter(|_| has_sockets);
    let ear = give_hooks(&mut order, login.variable(temporary_dir::VARIABLE), daemon, Path::new(sandbox::PROGRAM));
    let asking = order.asking.take();
    let Order { arguments, environment: declared, workdir, sandbox, .. } = &order;
    let Some(sandbox) = sandbox else { return Err(not_yet("it has no sandbox".to_owned())) };
    let mut environment = environment(&order, login, Some(Path::new(sandbox::TEMPORARY)));
    environment.extend(ear.as_ref().map(|_| (TELL_VARIABLE.into(), sandbox::TELL.into())));
    // Another home has none of the user's configuration.
    let home = (sandbox.home == Home::Real).then(|| login.variable("HOME")).flatten();
    let refusal = git::trust(&mut environment, workdir, order.trust_repository, home);
    say_faults(&login.warning.iter().cloned().chain(refusal).collect::<Vec<_>>(), daemon);
    sandbox::add_proxy(&mut environment, sandbox, declared.keys());
    let request = Request {
        sandbox,
        agent: &daemon.name,
        workdir,
        skills: order.skills.as_ref(),
        secrets: secrets.as_ref().map(SecretFiles::path),
        trust_repository: order.trust_repository,
        umask: order.umask,
        closure: &order.closure,
        arguments,
        login: &login.environment,
        environment: sandbox::of_inside(environment, declared.keys()),
        mark: declared.get(marker::VARIABLE).map(|mark| (marker::VARIABLE, mark)),
        launch_socket: &daemon.socket,
        is_streamed: order.stream.is_some(),
        tell: ear.as_ref().map(Ear::path),
    };
    let outside = of_outside(&order, login);
    let mut ready = request.prepare()?;
    let is_relayed = sandbox::is_relayed(sandbox.engine);
    let terminal = if is_relayed {
        Terminal::open_relayed(order.log, order.stream)
    } else {
        Terminal::open(order.log, order.stream)
    };
    let mut terminal = terminal.map_err(|error| no_terminal(&error))?;
    ready.size = terminal.size().map(Into::into);
    let at = Timestamp::now().boot();
    let engine = ready.engine;
    let seed = ready.seed();
    let begun = terminal.ends().and_then(|(stdin, stdout)| ready.start(stdin, stdout));
    let Begun { child, channel, held, scratch, .. } =
        begun.map_err(|error| Failure::of_system(&format!("{engine} cannot be started"), &error))?;
    terminal.make_pane_raw();
    let mut running = Running::new(&child, at, terminal, scratch)?.listening(ear, asking);
    running.secrets = secrets;
    running.boxed = Some(Boxed { engine, channel, held, harness: None, told: None, limit: None, outside, seed });
    Ok(running)
}

/// What to say of a program that is found here, and turns out to be missing inside.
fn of_outside(order: &Order, login: &Login) -> Option<String> {
    let program = OsStr::from_bytes(order.arguments.first()?.as_slice());
    let declared = order.environment.get("PATH").map(|path| OsStr::from_bytes(path.as_slice()));
    let found = find(program, declared.or(login.variable("PATH")).unwrap_or_default()).ok()?;
    let real = found.canonicalize().unwrap_or_else(|_| found.clone());
    let place = if real == found { String::new() } else { format!(", a link to {}", real.display()) };
    let folder = found.parent().and_then(|folder| folder.canonicalize().ok());
    let home = Path::new(login.variable("HOME").unwrap_or_default());
    let home = home.canonicalize().unwrap_or_else(|_| home.to_owned());
    let right = match folder.map(|folder| needed(&folder, &real, &home)) {
        Some(paths) if !paths.is_empty() => {
            let paths: Vec<String> = paths.iter().map(|path| format!("\"{}\"", path.display())).collect();
            format!("write `sandbox_read = [{}]`, or install it for all users (as in /usr/local)", paths.join(", "))
        }
        _ => "install it for all users (as in /usr/local)".to_owned(),
    };
    let (program, found) = (program.display(), found.display());
    Some(format!("{program} is not in the sandbox: it is {found}{place}; {right}"))
}

/// What a sandbox has to show, so that a program that is found in this folder and really is that file can run in it.
///
/// That is the folder, because it holds the link, and often the interpreter; and the folder of the file, or all packages of npm beside
/// its own, because packages use each other. Empty if that would show too much, such as all of the home.
fn needed(folder: &Path, real: &Path, home: &Path) -> Vec<PathBuf> {
    let packages = real.ancestors().filter(|path| path.ends_with("node_modules")).last();
    let Some(own) = packages.or(real.parent()) else { return Vec::new() };
    let shows_too_much = |path: &Path| path.parent().is_none() || home.starts_with(path);
    if shows_too_much(folder) || shows_too_much(own) {
        return Vec::new();
    }
    let mut paths = if own.starts_with(folder) {
        vec![folder]
    } else if folder.starts_with(own) {
        vec![own]
    } else {
        vec![folder, own]
    };
    paths.retain(|path| !sandbox::is_of_system(path));
    paths.into_iter().map(Path::to_owned).collect()
}

impl Boxed {
    /// Waits until the harness runs.
    pub fn see_started(&mut self, child: Pid, daemon: &mut DaemonLink, signals: &mut Caught) -> Result<(), Failure> {
        let limit = Instant::now() + BEGIN_TIMEOUT;
        loop {
            // In this order: what it said before it ended has arrived then.
            let ended = reap(child);
            let said = self.channel.receive();
            self.held.release(&mut self.channel)?;
            match said {
                Some(FromInside::Started) => {
                    let _ = self.seed.take().map(fs::remove_dir_all);
                    return Ok(());
                }
                Some(FromInside::Failed(failure)) => return Err(self.blame(failure)),
                Some(FromInside::Ended(_)) => continue,
                None => {}
            }
            if let Some(ended) = ended {
                return Err(self.explain(&ended));
            }
            // The next daemon learns of the outcome.
            while let Some((message, _)) = daemon.receive(None) {
                if matches!(message, ToLauncher::Interrupt | ToLauncher::InterruptAgain | ToLauncher::Unwanted) {
                    return Err(not_yet("it was stopped before it started".to_owned()));
                }
            }
            if signals.hang_up.has_come() {
                return Err(not_yet("its pane was closed before it started".to_owned()));
            }
            if Instant::now() >= limit {
                let within = humantime::format_duration(BEGIN_TIMEOUT);
                return Err(not_yet(format!("{} made no sandbox within {within}", self.engine)));
            }
            self.channel.send();
            let descriptors = [readable(Some(signals.descriptor())), readable(daemon.descriptor()), self.interest()];
            let mut descriptors: Vec<PollFd> = descriptors.into_iter().flatten().collect();
            poll::wait(&mut descriptors, Some(limit))
                .map_err(|error| Failure::of_system("the sandbox cannot be waited for", &error))?;
            drop(descriptors);
            signals.take_in();
        }
    }

    /// What to wait for.
    pub fn interest(&self) -> Option<PollFd<'_>> {
        let more = if self.channel.is_sending() { PollFlags::POLLOUT } else { PollFlags::empty() };
        self.channel.descriptor().map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN | more))
    }

    /// A failure inside. A program that is missing there may be here.
    fn blame(&mut self, failure: Failure) -> Failure {
        match (&failure.program, self.outside.take()) {
            (Some(_), Some(message)) => Failure { message, program: None, ..failure },
            _ => failure,
        }
    }

    /// Why nothing runs inside, if the engine ended like that.
    fn explain(&self, ended: &Ending) -> Failure {
        let end = match ended {
            Ending::Code(code) => format!("ended with status {code}"),
            Ending::Signal(number) => format!("was {}", ExitStatus::of_signal(*number)),
            Ending::Cause(cause) => cause.clone(),
        };
        if self.channel.is_inside() {
            return Failure::of_system("the sandbox ended before the harness ran", &io::Error::other(end));
        }
        sandbox::explain(self.engine, &self.channel.words(), &end)
    }

    /// Finds out which process the harness is, as seen from here. For a kernel of its own it is the engine.
    pub fn find_harness(&mut self, harness: &mut Harness, terminal: &Terminal) {
        let leader = terminal.session().filter(|leader| process::runs_as(leader.as_raw(), nix::unistd::Uid::current()));
        if let Some(found) = leader.and_then(|leader| Process::open(leader.as_raw()).ok()) {
            harness.pid = found.pid();
            self.harness = Some(found);
        }
    }

    /// How the harness ended, if it has; the argument says how the engine has.
    pub fn ended(&mut self, engine: Option<Ending>) -> Option<Ending> {
        self.channel.send();
        while let Some(message) = self.channel.receive() {
            if let FromInside::Ended(how) = message {
                self.told.get_or_insert(how);
                self.limit.get_or_insert(Instant::now() + END_TIMEOUT);
            }
        }
        match engine {
            Some(engine) => Some(self.told.take().unwrap_or_else(|| without_word(self.engine, engine))),
            None if self.limit.is_some_and(|limit| limit <= Instant::now()) => self.told.take(),
            None => None,
        }
    }

    pub fn signal_foreground(&mut self, terminal: &Terminal, signal: Signal) {
        if sandbox::is_relayed(self.engine) {
            return self.channel.say(&ToInside::Signal(signal as i32));
        }
        if let Some(harness) = &self.harness {
            let directly = || drop(send(harness, signal));
            signal_foreground(Pid::from_raw(harness.pid()), terminal, directly, signal);
        }
    }

    /// Signals the harness; SIGKILL reaches the engine instead if the harness is not a process of this kernel.
    pub fn signal(&mut self, child: Pid, signal: Signal) {
        match &self.harness {
            Some(harness) => drop(send(harness, signal)),
            None if signal == Signal::SIGKILL => {
                let _ = kill(child, signal);
            }
            None => self.channel.say(&ToInside::Signal(signal as i32)),
        }
    }

    pub fn resize(&mut self, terminal: &Terminal) {
        if let Some(size) = terminal.size().filter(|_| sandbox::is_relayed(self.engine)) {
            self.channel.say(&ToInside::Resize(size.into()));
        }
    }
}

fn send(process: &Process, signal: Signal) -> io::Result<()> {
    let signal = process::Signal::from_named_raw(signal as i32).ok_or(io::ErrorKind::InvalidInput)?;
    process.signal(signal)
}

/// How the harness ended if nothing inside said so: with the engine, or with everything inside. An engine ends with 128 and the
/// signal's number then.
fn without_word(engine: Engine, end: Ending) -> Ending {
    const SIGNALS: i32 = 128;
    match end {
        Ending::Code(code) if (1..=31).contains(&(code - SIGNALS)) => Ending::Signal(code - SIGNALS),
        Ending::Code(code) => Ending::Cause(format!("its sandbox ended: {engine} exited with status {code}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::installer("/home/a/.local/bin", "/home/a/.local/share/x/versions/2", &["/home/a/.local/bin", "/home/a/.local/share/x/versions"])]
    #[case::npm("/home/a/.npm/bin", "/home/a/.npm/lib/node_modules/@x/y/bin/y.js", &["/home/a/.npm/bin", "/home/a/.npm/lib/node_modules"])]
    #[case::project("/srv/p/node_modules/.bin", "/srv/p/node_modules/x/node_modules/y/z", &["/srv/p/node_modules"])]
    #[case::one_folder("/home/a/bin", "/home/a/bin/x", &["/home/a/bin"])]
    #[case::below("/srv/tools", "/srv/tools/x-1/bin/x", &["/srv/tools"])]
    #[case::link_of_the_system("/usr/local/bin", "/srv/x/bin/x", &["/srv/x/bin"])]
    #[case::link_to_the_system("/home/a/bin", "/opt/x/x", &["/home/a/bin"])]
    #[case::home("/home/a", "/home/a/x", &[])]
    #[case::above_the_home("/home/a/bin", "/home/x", &[])]
    #[case::root("/", "/x", &[])]
    fn what_a_program_needs_shows_no_home(#[case] folder: &str, #[case] real: &str, #[case] expected: &[&str]) {
        let paths = needed(Path::new(folder), Path::new(real), Path::new("/home/a"));
        assert_eq!(paths, expected.iter().map(PathBuf::from).collect::<Vec<_>>());
    }

    #[test]
    fn an_engine_tells_what_killed_everything_inside() {
        assert_eq!(without_word(Engine::Bwrap, Ending::Code(137)), Ending::Signal(9));
        assert_eq!(without_word(Engine::Bwrap, Ending::Signal(9)), Ending::Signal(9));
        assert!(matches!(without_word(Engine::Crun, Ending::Code(1)), Ending::Cause(cause) if cause.contains("crun")));
        assert!(matches!(without_word(Engine::Crun, Ending::Code(128)), Ending::Cause(_)));
    }
}
