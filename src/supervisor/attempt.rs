//! One attempt of one agent, from the pane to the last of its processes: effects, no policy.
//!
//! An attempt is launched here, or was by an earlier daemon. Then its launcher is found again: by its [`Identity`] if that is on
//! record, else as the process that runs in the agent's pane. Whoever reports at the launch socket as that process is it, and
//! says how far it has come. If it has ended meanwhile, tmux is asked how. As long as it cannot be found out whether it lives,
//! it is taken to. None is told what to launch before it is on record: one that is neither there nor in the pane started nothing.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::unistd::Uid;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::machine::{self, NotStarted};
use crate::clock::Timestamp;
use crate::config::Name;
use crate::descriptor::Readable;
use crate::frame::{self, Bytes};
use crate::launch::reception::Visitor;
use crate::launch::{
    End, Ending, Failure, FromLauncher, Harness, Launch, Progress, ToLauncher, WIRE_VERSION, launcher,
};
use crate::process::{Identity, Process};
use crate::status::How;
use crate::tmux::{self, Pane, Tmux};

/// How long a launcher may take to report, once tmux has started it.
const TO_REPORT: Duration = Duration::from_secs(10);

/// How long it may take to start the harness. The login shell alone is given five seconds.
const TO_START: Duration = Duration::from_secs(20);

/// How long a launcher may take to end by itself after something that should end it.
const TO_END: Duration = Duration::from_secs(2);

/// How long a launcher may take to take in what it is told.
const TO_LISTEN: Duration = Duration::from_secs(10);

/// How long an end may take to be on record before its launcher is let go all the same, and a launcher before it is told what to
/// launch.
const TO_NOTE: Duration = Duration::from_secs(1);

/// How often what could not be found out is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// How many who say to be its launcher are kept waiting until it is known who is.
const MOST_VISITORS: usize = 8;

const STOPPED_BEFORE: &str = "it was stopped before it started";

/// What every attempt needs.
#[derive(Debug)]
pub struct Means {
    /// Opens the pane.
    pub tmux: Tmux,
    /// agentd's own, as the agent user finds it.
    pub executable: String,
    /// Where launchers report.
    pub launch_socket: PathBuf,
    /// Whom agents run as.
    pub user: Uid,
}

/// How an attempt begins here.
#[derive(Debug)]
pub enum Beginning {
    /// It is launched.
    Launch {
        /// What.
        launch: Arc<Launch>,
        /// Whether an earlier daemon may have left something that runs in its place: then that is the attempt.
        look_first: bool,
    },
    /// An earlier daemon has launched it.
    Resume {
        /// Its launcher, if that was on record.
        launcher: Option<Identity>,
    },
}

/// What an attempt is told.
#[derive(Debug)]
pub enum Command {
    /// Somebody says to be its launcher.
    Visitor(Box<Visitor>),
    /// Send SIGINT.
    Interrupt,
    /// Kill everything, and do not rest before it is gone.
    Kill,
    /// Its launcher is on record.
    MetNoted,
    /// Its end is on record.
    EndNoted,
}

/// Carries the attempt out. Tells what happens to it, `Gone` last.
pub async fn run(
    means: Arc<Means>,
    name: Name,
    attempt: machine::Attempt,
    beginning: Beginning,
    commands: mpsc::UnboundedReceiver<Command>,
    tell: impl Fn(machine::Event),
) {
    let (visitors, wanted) = (Vec::new(), Wanted::Running);
    let mut run = Run { means, name, attempt, commands, tell, visitors, wanted, is_met_noted: false };
    match beginning {
        Beginning::Launch { launch, look_first } => run.launch(&launch, look_first).await,
        Beginning::Resume { launcher } => run.resume(launcher).await,
    }
    (run.tell)(machine::Event::Gone { attempt });
}

/// What was commanded before anybody was there to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    Running,
    Interrupted,
    Killed,
}

struct Run<T> {
    means: Arc<Means>,
    name: Name,
    attempt: machine::Attempt,
    commands: mpsc::UnboundedReceiver<Command>,
    tell: T,
    visitors: Vec<Visitor>,
    wanted: Wanted,
    is_met_noted: bool,
}

/// What is left of an attempt that an earlier daemon launched.
#[derive(Debug)]
enum Left {
    /// A process that should be its launcher.
    Alive(Process),
    /// A pane in which it has ended.
    Ended(tmux::PaneEnd),
    Nothing,
}

impl<T: Fn(machine::Event)> Run<T> {
    async fn launch(&mut self, launch: &Launch, look_first: bool) {
        let attempt = self.attempt;
        if look_first && let Left::Alive(process) = self.left_in_pane(None).await {
            return self.join(process, Some(TO_REPORT)).await;
        }
        match self.meet(launch).await {
            Ok(visitor) => self.start(visitor, launch).await,
            Err(why) => (self.tell)(machine::Event::NotStarted { attempt, why: NotStarted::Retry(why) }),
        }
    }

    async fn resume(&mut self, launcher: Option<Identity>) {
        let left = match launcher {
            Some(launcher) => match self.open(launcher).await {
                Some(process) => return self.join(process, None).await,
                None => self.left_in_pane(Some(launcher)).await,
            },
            None => self.left_in_pane(None).await,
        };
        match (left, launcher) {
            (Left::Alive(process), _) => self.join(process, Some(TO_REPORT)).await,
            (Left::Ended(end), _) if end.code == Some(i32::from(launcher::NOTHING_STARTED)) => self.cut_off(),
            (Left::Ended(end), _) => self.tell_end(end.how(), end.at.map(before_now)),
            (Left::Nothing, Some(_)) => {
                self.tell_end(How::Cause("it ended while no daemon ran, and its pane is gone".to_owned()), None);
            }
            // One that was told what to launch is on record.
            (Left::Nothing, None) => self.cut_off(),
        }
        if let Some(launcher) = launcher {
            let user = self.means.user;
            // Fails only with the runtime.
            let _ = tokio::task::spawn_blocking(move || launcher.kill_session(user)).await;
        }
    }

    fn cut_off(&self) {
        (self.tell)(machine::Event::NotStarted { attempt: self.attempt, why: NotStarted::CutOff });
    }

    fn tell_end(&self, how: How, at: Option<Timestamp>) {
        (self.tell)(machine::Event::Ended { attempt: self.attempt, how, at: at.unwrap_or_else(Timestamp::now) });
    }

    /// The process, if it lives.
    async fn open(&mut self, launcher: Identity) -> Option<Process> {
        loop {
            match launcher.open() {
                Ok(process) => return process,
                Err(error) => {
                    tracing::error!(agent = %self.name, "failed to look for its launcher: {error}; trying again");
                }
            }
            self.listen_for(AGAIN).await;
        }
    }

    /// What tmux says is in the agent's pane. `former` is known to have run there last, and to have ended. Asked until tmux answers;
    /// one that is to be killed and that nobody answers for is not waited for without end.
    async fn left_in_pane(&mut self, former: Option<Identity>) -> Left {
        let patience = Instant::now() + TO_REPORT;
        loop {
            let answer = self.means.tmux.panes(&self.name.key()).await;
            match answer {
                Ok(panes) => {
                    if let Some(left) = self.left_in(&panes, former) {
                        return left;
                    }
                }
                Err(tmux::Error::NoServer { .. }) => return Left::Nothing,
                Err(error) => tracing::warn!(agent = %self.name, "failed to find out what runs in its pane: {error}"),
            }
            let is_dead_or_unwanted = former.is_some() || self.wanted == Wanted::Killed;
            if is_dead_or_unwanted && Instant::now() >= patience {
                return Left::Nothing;
            }
            self.listen_for(AGAIN).await;
        }
    }

    /// `None` if that cannot be told yet.
    fn left_in(&self, panes: &[Pane], former: Option<Identity>) -> Option<Left> {
        let is_former = |pane: &&Pane| former.is_none_or(|former| former.pid() == pane.pid);
        for pane in panes.iter().filter(is_former) {
            match &pane.end {
                // Before an attempt is launched the pane shows the end of the one before.
                Some(end) if former.is_some() || pane.attempt == Some(self.attempt) => {
                    return Some(Left::Ended(end.clone()));
                }
                Some(_) => {}
                // tmux has yet to notice the end.
                None if former.is_some() => return None,
                None => {
                    // What has ended in the meantime is not there, and what is not the agent user's is not the agent's.
                    let process = Process::open(pane.pid).ok()?;
                    if process.runs_as(self.means.user).unwrap_or(false) {
                        return Some(Left::Alive(process));
                    }
                }
            }
        }
        Some(Left::Nothing)
    }

    /// Takes in what comes for a while.
    async fn listen_for(&mut self, time: Duration) {
        let limit = Instant::now() + time;
        while let Ok(Some(command)) = tokio::time::timeout_at(limit, self.commands.recv()).await {
            self.remember(command);
        }
        // The other end closes when the daemon is ending.
        sleep_until(limit).await;
    }

    fn remember(&mut self, command: Command) {
        match command {
            Command::Visitor(visitor) if self.visitors.len() < MOST_VISITORS => self.visitors.push(*visitor),
            Command::Visitor(_) | Command::EndNoted => {}
            Command::MetNoted => self.is_met_noted = true,
            Command::Interrupt => self.wanted = self.wanted.max(Wanted::Interrupted),
            Command::Kill => self.wanted = Wanted::Killed,
        }
    }

    /// Waits until the process reports, and follows it. `patience` is for one that may be no launcher at all; one that is known
    /// to be may take as long as it lives.
    async fn join(&mut self, process: Process, patience: Option<Duration>) {
        let end = match process.watch() {
            Ok(end) => end,
            Err(error) => {
                // Not dead, as far as is known; but nothing can be done for it either.
                let why = NotStarted::Retry(format!("its launcher cannot be followed: {error}"));
                return (self.tell)(machine::Event::NotStarted { attempt: self.attempt, why });
            }
        };
        let process = Arc::new(process);
        let limit = patience.map(|patience| Instant::now() + patience);
        loop {
            if let Some(at) = self.visitors.iter().position(|visitor| visitor.process.pid() == process.pid()) {
                let visitor = self.visitors.swap_remove(at);
                return self.adopt(visitor).await;
            }
            if self.wanted == Wanted::Killed {
                break;
            }
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.remember(command),
                    // The daemon is ending, and the agent goes on without it.
                    None => return,
                },
                // Fails only with the runtime.
                _ = end.readable() => {
                    let launcher = process.identity();
                    match self.left_in_pane(Some(launcher)).await {
                        Left::Ended(tmux_end) if tmux_end.code == Some(i32::from(launcher::NOTHING_STARTED)) => self.cut_off(),
                        Left::Ended(tmux_end) => self.tell_end(tmux_end.how(), tmux_end.at.map(before_now)),
                        Left::Alive(_) | Left::Nothing => {
                            self.tell_end(How::Cause("its launcher was killed".to_owned()), None);
                        }
                    }
                    return self.kill_rest(&process).await;
                }
                () = sleep_until(limit.unwrap_or_else(Instant::now)), if limit.is_some() => {
                    tracing::warn!(agent = %self.name, pid = process.pid(), "ending what runs in its pane and is no launcher");
                    break;
                }
            }
        }
        kill_descendants(&process).await;
        if let Err(error) = process.kill() {
            tracing::error!(agent = %self.name, "failed to kill its launcher: {error}");
        }
        let _ = timeout(TO_END, end.readable()).await;
        if self.wanted == Wanted::Killed {
            self.tell_end(How::Signal("SIGKILL".to_owned()), None);
        } else {
            self.cut_off();
        }
        self.kill_rest(&process).await;
    }

    /// Follows a launcher that an earlier daemon has told what to launch.
    async fn adopt(&mut self, visitor: Visitor) {
        let attempt = self.attempt;
        let progress = visitor.progress.clone();
        let fingerprint = visitor.fingerprint.clone();
        let Some(mut launcher) = self.launcher(visitor) else { return };
        (self.tell)(machine::Event::Met { attempt, launcher: launcher.process.identity() });
        (self.tell)(machine::Event::Opened { attempt });
        if let Some(fingerprint) = fingerprint {
            (self.tell)(machine::Event::Found { attempt, fingerprint });
        }
        match progress {
            Progress::New => {
                launcher.say(&ToLauncher::Unwanted).await;
                self.cut_off();
                launcher.has_ended();
            }
            Progress::Running(harness) if launcher.process.is_plausibly_below(harness.pid) => {
                tracing::info!(agent = %self.name, pid = harness.pid, "found running, and left so");
                self.started(harness);
                (launcher.heard, launcher.limit) = (Heard::Started, None);
            }
            // It has until the limit to say something that can be true.
            Progress::Running(_) => {}
            Progress::Failed(failure) => {
                (self.tell)(machine::Event::NotStarted { attempt, why: blame(&failure) });
                launcher.has_ended();
            }
            Progress::Ended { harness, end } => {
                self.started(harness);
                self.ended(end);
                launcher.has_ended();
            }
        }
        match self.wanted {
            Wanted::Running => {}
            Wanted::Interrupted => launcher.say(&ToLauncher::Interrupt).await,
            Wanted::Killed => launcher.kill().await,
        }
        self.follow(launcher).await;
    }

    fn started(&self, Harness { pid, at }: Harness) {
        (self.tell)(machine::Event::Started { attempt: self.attempt, pid, at: Timestamp::now().back_to(at) });
    }

    fn ended(&self, end: End) {
        self.tell_end(how(end.how), Some(Timestamp::now().back_to(end.at)));
    }

    /// Opens the pane and waits for the launcher in it: the visitor whose process is the one that tmux says it started.
    async fn meet(&mut self, launch: &Launch) -> Result<Visitor, String> {
        let means = Arc::clone(&self.means);
        let mut command = vec![means.executable.clone()];
        command.extend(launcher::command_line(launch.name.as_str(), self.attempt, &means.launch_socket));
        let owner = launch.name.key();
        let mut opening =
            std::pin::pin!(means.tmux.open(&owner, self.attempt, &launch.session, &launch.workdir, &command));
        let mut pane = None;
        let mut limit = Instant::now() + TO_REPORT * 4;
        loop {
            if let Some(pid) = pane {
                // Not before the pane is there: whoever closes the session next must find it.
                if self.wanted != Wanted::Running {
                    return Err(STOPPED_BEFORE.to_owned());
                }
                let is_it = |visitor: &Visitor| visitor.process.pid() == pid && visitor.progress == Progress::New;
                if let Some(at) = self.visitors.iter().position(is_it) {
                    return Ok(self.visitors.swap_remove(at));
                }
            }
            tokio::select! {
                opened = &mut opening, if pane.is_none() => {
                    pane = Some(opened.map_err(|error| error.to_string())?);
                    (self.tell)(machine::Event::Opened { attempt: self.attempt });
                    limit = Instant::now() + TO_REPORT;
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.remember(command),
                    None => self.wanted = Wanted::Killed,
                },
                () = sleep_until(limit) => {
                    return Err(format!(
                        "its launcher did not report within {}; can the agent user run {}?",
                        humantime::format_duration(TO_REPORT),
                        means.executable
                    ));
                }
            }
        }
    }

    /// Sends the launcher what to launch, and follows it.
    async fn start(&mut self, visitor: Visitor, launch: &Launch) {
        let Some(mut launcher) = self.launcher(visitor) else { return };
        (self.tell)(machine::Event::Met { attempt: self.attempt, launcher: launcher.process.identity() });
        self.see_met_noted().await;
        if self.wanted != Wanted::Running {
            launcher.say(&ToLauncher::Unwanted).await;
            launcher.has_ended();
            let why = NotStarted::Retry(STOPPED_BEFORE.to_owned());
            (self.tell)(machine::Event::NotStarted { attempt: self.attempt, why });
            return self.follow(launcher).await;
        }
        let order = ToLauncher::Launch {
            arguments: launch.arguments.clone(),
            environment: launch.environment.clone(),
            workdir: Bytes::from(launch.workdir.as_os_str().as_bytes().to_vec()),
            fingerprint: launch.fingerprint.clone(),
        };
        // One that does not listen is one that does not start anything in time.
        launcher.say(&order).await;
        drop(order);
        self.follow(launcher).await;
    }

    /// Waits until the launcher is on record: whatever it starts must be found by the next daemon.
    async fn see_met_noted(&mut self) {
        let limit = Instant::now() + TO_NOTE;
        while self.wanted == Wanted::Running && !self.is_met_noted {
            match tokio::time::timeout_at(limit, self.commands.recv()).await {
                Ok(Some(command)) => self.remember(command),
                // The daemon is ending.
                Ok(None) => self.wanted = Wanted::Killed,
                Err(_) => return,
            }
        }
    }

    /// `None`, and all is told, if its end could not be seen.
    fn launcher(&self, visitor: Visitor) -> Option<Launcher> {
        if visitor.version != WIRE_VERSION {
            let version = visitor.version;
            tracing::warn!(agent = %self.name, "its launcher speaks version {version}, this daemon {WIRE_VERSION}");
        }
        match visitor.process.watch() {
            Ok(end) => Some(Launcher {
                process: Arc::new(visitor.process),
                end,
                connection: Some((visitor.reader, visitor.writer)),
                heard: Heard::Nothing,
                limit: Some(Instant::now() + TO_START),
                note_by: None,
            }),
            Err(error) => {
                // Sent away by this, one that is new ends without having started anything.
                let why = NotStarted::Retry(format!("its launcher cannot be followed: {error}"));
                (self.tell)(machine::Event::NotStarted { attempt: self.attempt, why });
                None
            }
        }
    }

    /// Follows the launcher to its end, and kills what is left then.
    async fn follow(&mut self, mut launcher: Launcher) {
        let attempt = self.attempt;
        let mut idle_talk = 0_u64;
        let mut alive = true;
        while launcher.connection.is_some() || alive {
            // Nothing is lost by cancelling an arm: the reader keeps what has arrived, and the others only wait.
            tokio::select! {
                message = read(&mut launcher.connection) => match message {
                    Ok(Some(FromLauncher::Started { pid }))
                        if launcher.heard == Heard::Nothing && launcher.process.is_plausibly_below(pid) =>
                    {
                        (launcher.heard, launcher.limit) = (Heard::Started, None);
                        (self.tell)(machine::Event::Started { attempt, pid, at: Timestamp::now() });
                    }
                    Ok(Some(FromLauncher::Failed(failure))) if launcher.heard == Heard::Nothing => {
                        launcher.has_ended();
                        (self.tell)(machine::Event::NotStarted { attempt, why: blame(&failure) });
                    }
                    Ok(Some(FromLauncher::Ended(end))) if launcher.heard == Heard::Started => {
                        launcher.has_ended();
                        self.ended(end);
                    }
                    Ok(Some(other)) => {
                        idle_talk += 1;
                        // Ever more rarely: the launcher is the agent user's, and must not be able to fill the log.
                        if idle_talk.is_power_of_two() {
                            let said = if let FromLauncher::Warning(text) = other { plain(&text) } else { "something out of turn".to_owned() };
                            tracing::warn!(agent = %self.name, "its launcher says: {said}");
                        }
                    }
                    Ok(None) | Err(_) => {
                        launcher.connection = None;
                        launcher.limit = Some(Instant::now() + if alive { TO_REPORT } else { TO_END });
                    }
                },
                command = self.commands.recv() => match command {
                    // One that does not listen is killed at the deadline.
                    Some(Command::Interrupt) => launcher.say(&ToLauncher::Interrupt).await,
                    Some(Command::Kill) => launcher.kill().await,
                    Some(Command::MetNoted) => {}
                    Some(Command::EndNoted) => launcher.let_go().await,
                    Some(Command::Visitor(visitor)) => self.heard_again(&mut launcher, *visitor),
                    // The daemon is ending, and the agent goes on without it.
                    None => return,
                },
                // Fails only with the runtime.
                _ = launcher.end.readable(), if alive => {
                    alive = false;
                    // What it has said is still to be read; only somebody else holding its socket open could delay that.
                    launcher.limit = Some(Instant::now() + TO_END);
                }
                () = sleep_until(launcher.note_by.unwrap_or_else(Instant::now)), if launcher.note_by.is_some() => {
                    launcher.let_go().await;
                }
                () = sleep_until(launcher.limit.unwrap_or_else(Instant::now)), if launcher.limit.is_some() => {
                    if !alive {
                        break;
                    }
                    kill_descendants(&launcher.process).await;
                    if let Err(error) = launcher.process.kill() {
                        tracing::error!(agent = %self.name, "failed to kill its launcher: {error}");
                    }
                    launcher.limit = Some(Instant::now() + TO_END);
                }
            }
        }
        self.kill_rest(&launcher.process).await;
        match launcher.heard {
            Heard::Nothing => {
                let why = NotStarted::Retry("its launcher ended before it had started anything".to_owned());
                (self.tell)(machine::Event::NotStarted { attempt, why });
            }
            Heard::Started => self.tell_end(How::Cause("its launcher was killed".to_owned()), None),
            Heard::End => {}
        }
    }

    /// The launcher has lost its connection, and has made another one.
    fn heard_again(&self, launcher: &mut Launcher, visitor: Visitor) {
        if visitor.process.identity() != launcher.process.identity() {
            // An impostor: the launcher is known.
            return;
        }
        launcher.connection = Some((visitor.reader, visitor.writer));
        match (visitor.progress, launcher.heard) {
            (Progress::Ended { harness, end }, Heard::Nothing | Heard::Started) => {
                if launcher.heard == Heard::Nothing {
                    self.started(harness);
                }
                launcher.has_ended();
                self.ended(end);
            }
            (Progress::Failed(failure), Heard::Nothing) => {
                launcher.has_ended();
                (self.tell)(machine::Event::NotStarted { attempt: self.attempt, why: blame(&failure) });
            }
            (Progress::Running(harness), Heard::Nothing) if launcher.process.is_plausibly_below(harness.pid) => {
                (launcher.heard, launcher.limit) = (Heard::Started, None);
                self.started(harness);
            }
            (_, Heard::Started) => launcher.limit = None,
            // The note was lost.
            (Progress::Ended { .. } | Progress::Failed(_), Heard::End) => launcher.note_by = Some(Instant::now()),
            _ => {}
        }
    }

    async fn kill_rest(&self, process: &Arc<Process>) {
        let (process, user) = (Arc::clone(process), self.means.user);
        // Fails only with the runtime.
        let _ = tokio::task::spawn_blocking(move || process.identity().kill_session(user)).await;
    }
}

/// What the launcher has said of its harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Started,
    /// That it ended, or that it could not be started.
    End,
}

/// One that is followed.
struct Launcher {
    process: Arc<Process>,
    end: Readable,
    connection: Option<(frame::Reader<OwnedReadHalf>, OwnedWriteHalf)>,
    heard: Heard,
    /// When patience with it ends.
    limit: Option<Instant>,
    /// When it is let go at the latest.
    note_by: Option<Instant>,
}

impl Launcher {
    async fn say(&mut self, message: &ToLauncher) {
        if let Some((_, writer)) = &mut self.connection
            && !matches!(timeout(TO_LISTEN, frame::write(writer, message)).await, Ok(Ok(())))
        {
            // A frame cut short spoils the connection; one that lives makes another.
            self.connection = None;
            self.limit = self.limit.or(Some(Instant::now() + TO_REPORT));
        }
    }

    /// Nothing more is to be heard of its harness.
    fn has_ended(&mut self) {
        self.heard = Heard::End;
        self.limit = None;
        self.note_by = Some(Instant::now() + TO_NOTE);
    }

    async fn let_go(&mut self) {
        if self.note_by.take().is_some() {
            self.say(&ToLauncher::Noted).await;
        }
    }

    async fn kill(&mut self) {
        kill_descendants(&self.process).await;
        self.limit = Some(Instant::now() + TO_END);
    }
}

async fn read(
    connection: &mut Option<(frame::Reader<OwnedReadHalf>, OwnedWriteHalf)>,
) -> Result<Option<FromLauncher>, frame::Error> {
    match connection {
        Some((reader, _)) => reader.read().await,
        None => std::future::pending().await,
    }
}

/// The instant at which the wall clock showed this, as far as that can be told now.
fn before_now(wall: SystemTime) -> Timestamp {
    let now = Timestamp::now();
    let ago = now.wall().duration_since(wall).unwrap_or_default();
    now.back_to(now.boot().saturating_sub(ago))
}

async fn kill_descendants(process: &Arc<Process>) {
    let process = Arc::clone(process);
    // Fails only with the runtime.
    let _ = tokio::task::spawn_blocking(move || process.kill_descendants()).await;
}

fn blame(failure: &Failure) -> NotStarted {
    let message = plain(&failure.message);
    match failure.errno.map(Errno::from_raw) {
        _ if failure.missing => NotStarted::Retry(message),
        // The machine is short of something.
        Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::ENOSPC | Errno::EIO) => {
            NotStarted::Retry(message)
        }
        _ => NotStarted::Failed(message),
    }
}

fn how(ending: Ending) -> How {
    match ending {
        Ending::Code(code) => How::Code(code),
        Ending::Signal(number) => How::of_signal(number),
        Ending::Cause(cause) => How::Cause(plain(&cause)),
    }
}

/// The launcher's words as a line that can be shown.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(2000).collect()
}
