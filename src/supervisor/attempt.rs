//! One attempt of one agent, from the pane to the last of its processes: effects, no policy.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::machine::{self, NotStarted};
use crate::frame::{self, Bytes};
use crate::launch::reception::Visitor;
use crate::launch::{Ending, Failure, FromLauncher, Launch, Progress, ToLauncher, WIRE_VERSION, launcher};
use crate::process::Process;
use crate::status::How;
use crate::tmux::Tmux;

/// The first attempt that a daemon makes for an agent.
const FIRST: machine::Attempt = 1;

/// How long a launcher may take to report, once tmux has started it.
const TO_REPORT: Duration = Duration::from_secs(10);

/// How long it may take to start the harness. The login shell alone is given five seconds.
const TO_START: Duration = Duration::from_secs(20);

/// How long a launcher may take to end by itself after something that should end it.
const TO_END: Duration = Duration::from_secs(2);

/// How long a launcher may take to take in what it is told.
const TO_LISTEN: Duration = Duration::from_secs(10);

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

/// What an attempt is told.
#[derive(Debug)]
pub enum Command {
    /// Somebody says to be its launcher.
    Visitor(Box<Visitor>),
    /// Send SIGINT.
    Interrupt,
    /// Kill everything, and do not rest before it is gone.
    Kill,
}

/// Carries the attempt out. Tells what happens to it, `Gone` last.
pub async fn run(
    means: Arc<Means>,
    launch: Arc<Launch>,
    attempt: machine::Attempt,
    mut commands: mpsc::UnboundedReceiver<Command>,
    tell: impl Fn(machine::Event),
) {
    // Only an earlier daemon can have left something in the place of an agent that this one has never started.
    if attempt == FIRST
        && let Err(error) = end_leftovers(&means, &launch).await
    {
        let why = NotStarted::Retry(format!("what runs in its pane cannot be ended: {error}"));
        tell(machine::Event::NotStarted { attempt, why });
        return tell(machine::Event::Gone { attempt });
    }
    match meet(&means, &launch, attempt, &mut commands, &tell).await {
        Ok(visitor) => attend(*visitor, &launch, attempt, means.user, &mut commands, &tell).await,
        Err(why) => tell(machine::Event::NotStarted { attempt, why: NotStarted::Retry(why) }),
    }
    tell(machine::Event::Gone { attempt });
}

/// Kills what a daemon that did not end by itself has left running in the agent's pane: no agent runs twice.
async fn end_leftovers(means: &Means, launch: &Launch) -> Result<(), String> {
    for pid in means.tmux.occupants(&launch.name.key()).await.map_err(|error| error.to_string())? {
        // What has ended in the meantime is not there, and what is not the agent user's is not the agent's.
        let Ok(process) = Process::open(pid) else { continue };
        if !process.runs_as(means.user).unwrap_or(false) {
            continue;
        }
        tracing::warn!(agent = %launch.name, pid, "ending what an earlier daemon left running");
        let end = process.watch().map_err(|error| error.to_string())?;
        let process = Arc::new(process);
        kill_descendants(&process).await;
        process.kill().map_err(|error| error.to_string())?;
        timeout(TO_END, end.readable())
            .await
            .map_err(|_| format!("process {pid} does not die"))?
            .map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Opens the pane and waits for the launcher in it: the visitor whose process is the one that tmux says it started.
async fn meet(
    means: &Means,
    launch: &Launch,
    attempt: machine::Attempt,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    tell: &impl Fn(machine::Event),
) -> Result<Box<Visitor>, String> {
    const MOST_VISITORS: usize = 8;
    let mut command = vec![means.executable.clone()];
    command.extend(launcher::command_line(launch.name.as_str(), attempt, &means.launch_socket));
    let owner = launch.name.key();
    let mut opening = std::pin::pin!(means.tmux.open(&owner, &launch.session, &launch.workdir, &command));
    let mut pane = None;
    let mut visitors: Vec<Box<Visitor>> = Vec::new();
    let mut unwanted = false;
    let mut limit = Instant::now() + TO_REPORT * 4;
    loop {
        if let Some(pid) = pane {
            // Not before the pane is there: whoever closes the session next must find it.
            if unwanted {
                return Err("it was stopped before it started".to_owned());
            }
            if let Some(at) = visitors.iter().position(|visitor| visitor.process.pid() == pid) {
                return Ok(visitors.swap_remove(at));
            }
        }
        tokio::select! {
            opened = &mut opening, if pane.is_none() => {
                pane = Some(opened.map_err(|error| error.to_string())?);
                tell(machine::Event::Opened { attempt });
                limit = Instant::now() + TO_REPORT;
            }
            command = commands.recv() => match command {
                Some(Command::Visitor(visitor)) if visitor.progress == Progress::New && visitors.len() < MOST_VISITORS => {
                    visitors.push(visitor);
                }
                Some(Command::Visitor(_)) => {}
                Some(Command::Interrupt | Command::Kill) | None => unwanted = true,
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

/// What the launcher has said of its harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Started,
    /// That it ended, or that it could not be started.
    End,
}

/// Sends the launcher what to launch, and follows it to its end.
async fn attend(
    visitor: Visitor,
    launch: &Launch,
    attempt: machine::Attempt,
    user: Uid,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    tell: &impl Fn(machine::Event),
) {
    let Visitor { version, process, mut reader, mut writer, .. } = visitor;
    if version != WIRE_VERSION {
        tracing::warn!(agent = %launch.name, "its launcher speaks version {version}, this daemon {WIRE_VERSION}");
    }
    let end = match process.watch() {
        Ok(end) => end,
        Err(error) => {
            // Sent away by this, it ends without having started anything.
            let why = NotStarted::Retry(format!("its launcher cannot be followed: {error}"));
            return tell(machine::Event::NotStarted { attempt, why });
        }
    };
    let process = Arc::new(process);
    let order = ToLauncher::Launch {
        arguments: launch.arguments.clone(),
        environment: launch.environment.clone(),
        workdir: Bytes::from(launch.workdir.as_os_str().as_bytes().to_vec()),
    };
    // A launcher that does not listen is one that does not start anything in time.
    let _ = timeout(TO_LISTEN, frame::write(&mut writer, &order)).await;
    drop(order);

    let mut heard = Heard::Nothing;
    let mut idle_talk = 0_u64;
    // Whether there may be more to hear, and whether the process lives.
    let (mut connected, mut alive) = (true, true);
    // When patience with the launcher ends.
    let mut limit = Some(Instant::now() + TO_START);
    while connected || alive {
        // Nothing is lost by cancelling an arm: the reader keeps what has arrived, and the others only wait.
        tokio::select! {
            message = reader.read::<FromLauncher>(), if connected => match message {
                Ok(Some(FromLauncher::Started { pid })) if heard == Heard::Nothing && process.is_plausibly_below(pid) => {
                    (heard, limit) = (Heard::Started, None);
                    tell(machine::Event::Started { attempt, pid });
                }
                Ok(Some(FromLauncher::Failed(failure))) if heard == Heard::Nothing => {
                    (heard, limit) = (Heard::End, Some(Instant::now() + TO_END));
                    tell(machine::Event::NotStarted { attempt, why: blame(&failure) });
                }
                Ok(Some(FromLauncher::Ended(end))) if heard == Heard::Started => {
                    heard = Heard::End;
                    tell(machine::Event::Ended { attempt, how: how(end.how) });
                }
                Ok(Some(other)) => {
                    idle_talk += 1;
                    // Ever more rarely: the launcher is the agent user's, and must not be able to fill the log.
                    if idle_talk.is_power_of_two() {
                        let said = if let FromLauncher::Warning(text) = other { plain(&text) } else { "something out of turn".to_owned() };
                        tracing::warn!(agent = %launch.name, "its launcher says: {said}");
                    }
                }
                Ok(None) | Err(_) => (connected, limit) = (false, Some(Instant::now() + TO_END)),
            },
            command = commands.recv() => match command {
                Some(Command::Interrupt) => {
                    // One that does not listen is killed at the deadline.
                    let _ = timeout(TO_LISTEN, frame::write(&mut writer, &ToLauncher::Interrupt)).await;
                }
                Some(Command::Kill) => {
                    kill_descendants(&process).await;
                    limit = Some(Instant::now() + TO_END);
                }
                // An impostor: the launcher is known.
                Some(Command::Visitor(_)) => {}
                // The daemon is ending, and the agent goes on without it.
                None => return,
            },
            // Fails only with the runtime.
            _ = end.readable(), if alive => {
                alive = false;
                // What it has said is still to be read; only somebody else holding its socket open could delay that.
                limit = Some(Instant::now() + TO_END);
            }
            () = sleep_until(limit.unwrap_or_else(Instant::now)), if limit.is_some() => {
                if !alive {
                    break;
                }
                kill_descendants(&process).await;
                if let Err(error) = process.kill() {
                    tracing::error!(agent = %launch.name, "failed to kill its launcher: {error}");
                }
                limit = Some(Instant::now() + TO_END);
            }
        }
    }
    let remains = Arc::clone(&process);
    let _ = tokio::task::spawn_blocking(move || remains.kill_session(user)).await;
    match heard {
        Heard::Nothing => {
            let why = NotStarted::Retry("its launcher ended before it had started anything".to_owned());
            tell(machine::Event::NotStarted { attempt, why });
        }
        Heard::Started => {
            tell(machine::Event::Ended { attempt, how: How::Cause("its launcher was killed".to_owned()) });
        }
        Heard::End => {}
    }
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
        Ending::Signal(number) => How::Signal(
            Signal::try_from(number).map_or_else(|_| format!("SIG{number}"), |signal| signal.as_str().to_owned()),
        ),
        Ending::Cause(cause) => How::Cause(plain(&cause)),
    }
}

/// The launcher's words as a line that can be shown.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(2000).collect()
}
