//! The deputy: a process of agentd's own that acts with the agent user's rights, so that root need not.
//!
//! ```text
//! daemon (root) ──socket pair──▶ deputy (agent user) ──▶ tmux clients, prompt files, working directories, terminal emulators
//! ```
//!
//! Everything on a path that the agent user can redirect, and every tmux client (which a hostile server can make run commands),
//! is the deputy's business: whatever it is tricked into, it is tricked into as the agent user. It starts as the daemon's child,
//! becomes the agent user before it reads the first request, and ends when the daemon's end of the socket closes. Because it
//! gives up root without a further `execve(2)`, the kernel lets nobody but root trace it. What it [inherits](crate::sys::inheritance)
//! from whoever started the daemon, the terminal first of all, it gives up before: its tmux clients do what a hostile server says.
//!
//! A request that gets no answer, because the deputy was killed or something in it hangs, is an [`Error`]: nothing is known then,
//! and callers must not take that for an answer. The deputy bounds its own work, so one that does not answer in time was stopped
//! or crippled: it is killed, and replaced.

pub mod renderer;
mod tmux_client;
mod tmux_server;
mod worker;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::Uid;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

pub use tmux_client::{COMMAND as CLIENT_COMMAND, become_client, words as client_words};
pub use worker::run;

use crate::agent::seen::{SeenPrompt, SeenWorkdir};
use crate::sys::account::Account;
use crate::sys::frame;
use crate::sys::process::Identity;
use crate::sys::rate_limit::Brake;
use crate::sys::reaper;
use crate::sys::watch::Target;

/// More than the longest answer, which is a prompt or what tmux prints, with every byte escaped.
const MAX_FRAME: usize = 16 << 20;

/// The name of the hidden command that is the deputy.
pub const COMMAND: &str = "deputy";

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No deputy could be started.
    #[error("failed to start the process that acts as the agent user: {0}")]
    Start(String),
    /// It went away, or was replaced, before it answered.
    #[error("the process that acts as the agent user ended before it answered")]
    Gone,
    /// It did not answer in time.
    #[error("no answer from the process that acts as the agent user within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// It answered, but the file system did not.
    #[error("the file system does not answer")]
    FileSystem,
    /// The system has not what it takes.
    #[error("the system is short of something: {0}")]
    Short(String),
}

/// What the deputy can be asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Run tmux with these arguments, for no longer than this.
    Tmux { program: Program, arguments: Vec<String>, timeout: Duration },
    /// Find the tmux server of this socket. The one that was seen there recreates a lost socket.
    Server { socket: PathBuf, seen: Option<Seen> },
    /// End the tmux server of this socket, if nothing lives in it.
    EndServer(PathBuf),
    /// Have the tmux server of this socket notice that this process has ended, which it has started.
    Remind { socket: PathBuf, seen: Option<Seen>, ended: Identity },
    /// Read a prompt file.
    Prompt(PathBuf),
    /// Look at a working directory.
    Workdir(PathBuf),
    /// Set the mode of a file that the agent user owns.
    SetMode { path: PathBuf, mode: u32 },
    /// Make text of what an agent printed, on the socket that comes with this.
    Render,
    /// Watch these from now on, and send [`Reply::Changed`] when one changes, or was not watched before.
    Watch(Vec<Target>),
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Tmux(Result<Output, RunError>),
    Server(Result<Server, String>),
    EndServer(Result<bool, String>),
    Remind(Result<bool, String>),
    Prompt(SeenPrompt),
    Workdir(SeenWorkdir),
    SetMode(Result<(), String>),
    /// It is being done.
    Rendering,
    /// The file system did not answer within [`FILE_TIMEOUT`], or has yet to answer the same request from before.
    FileSystemHangs,
    /// The system has not what it takes to answer; this is what it said.
    Short(String),
    /// Without a request of that number, and followed by the end: it cannot be a deputy, for this reason.
    Unfit(String),
    /// Without a request of that number: something that is watched changed, or was not watched before.
    Changed,
}

/// Which tmux is run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Program {
    /// The one in `PATH`.
    Installed,
    /// The one that the server which listens on this socket was started from, installed or not.
    OfServer(PathBuf),
}

/// What there is at a tmux socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Server {
    /// No server.
    None,
    /// One that clients reach.
    Serving {
        /// The process.
        pid: i32,
        /// Whether it had lost its socket and has just made it anew.
        recovered: bool,
        /// Whether it was started from the file that clients are started from now.
        is_installed: bool,
        /// How to find it again if it loses its socket; `None` unless it is tmux.
        seen: Option<Seen>,
    },
    /// One that lives and does not react.
    Silent {
        /// The process, where it could be found out.
        pid: Option<i32>,
    },
}

/// A process that was seen to serve on the tmux socket. No other process is signaled to recreate that socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seen {
    /// Who.
    pub process: Identity,
    /// The device and the inode of its program.
    pub program: (u64, u64),
}

/// What a program that ran to its end left. It may be an agent's screen, with anything on it: `Debug` shows only how much it is.
#[derive(Serialize, Deserialize)]
pub struct Output {
    /// Whether it ended with status 0.
    pub success: bool,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { success, stdout, stderr } = self;
        let (stdout, stderr) = (stdout.len(), stderr.len());
        f.debug_struct("Output")
            .field("success", success)
            .field("stdout", &format_args!("[{stdout} bytes]"))
            .field("stderr", &format_args!("[{stderr} bytes]"))
            .finish()
    }
}

/// Why a program has no [`Output`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RunError {
    /// It could not be started.
    #[error("failed to run {program}: {reason}")]
    Start {
        /// What was to be run.
        program: String,
        /// The system's reason.
        reason: String,
    },
    /// It was still running after this long, and was killed.
    #[error("{program} did not end within {}", humantime::format_duration(*.timeout))]
    TimedOut {
        /// What was run.
        program: String,
        /// How long it was waited for.
        timeout: Duration,
    },
}

#[derive(Serialize, Deserialize)]
struct Numbered<T> {
    /// 0 is no request's number.
    number: u64,
    body: T,
}

type Answer = oneshot::Sender<Result<Reply, Error>>;

/// A request on its way to the deputy.
#[derive(Debug)]
struct Asked {
    request: Request,
    /// What goes with it.
    descriptor: Option<OwnedFd>,
    /// How long the deputy may take.
    timeout: Duration,
    answer: Answer,
}

/// A request that the deputy has.
struct Open {
    deadline: Instant,
    timeout: Duration,
    answer: Answer,
}

/// The daemon's handle to the deputy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Deputy {
    requests: mpsc::UnboundedSender<Asked>,
}

impl Deputy {
    /// Makes the handle, and the task behind it; the process itself is started with the first request. `user` is whom it
    /// becomes, for as long as the name means the same user. `changed` is called whenever something changed that [`Deputy::watch`] named, and when something is watched that
    /// was not before, also by a new process after another: what happened to it until then cannot be known.
    pub fn new(user: &Account, changed: impl Fn() + Send + Sync + 'static) -> Self {
        Self::searching(std::env::var_os("PATH"), user, changed)
    }

    /// The same, with tmux looked for in these folders.
    pub fn searching(path: Option<OsString>, user: &Account, changed: impl Fn() + Send + Sync + 'static) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        let (name, uid) = (user.name.clone(), user.uid);
        tokio::spawn(keep(move || start(&name, uid, path.as_deref()), inbox, changed));
        Self { requests }
    }

    /// One of which `answer` says what it answers, `None` for what goes unanswered; for tests of other rooms.
    #[cfg(test)]
    pub(crate) fn of(answer: impl Fn(Request) -> Option<Reply> + Send + 'static) -> Self {
        let (requests, mut inbox) = mpsc::unbounded_channel::<Asked>();
        tokio::spawn(async move {
            while let Some(asked) = inbox.recv().await {
                let _ = asked.answer.send(answer(asked.request).ok_or(Error::Gone));
            }
        });
        Self { requests }
    }

    /// The same, but what goes unanswered is waited for.
    #[cfg(test)]
    pub(crate) fn of_those_who_wait(answer: impl Fn(Request) -> Option<Reply> + Send + 'static) -> Self {
        let (requests, mut inbox) = mpsc::unbounded_channel::<Asked>();
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            while let Some(asked) = inbox.recv().await {
                match answer(asked.request.clone()) {
                    Some(reply) => drop(asked.answer.send(Ok(reply))),
                    None => waiting.push(asked),
                }
            }
        });
        Self { requests }
    }

    /// One that makes text, and nothing else, in this process; for tests of other rooms.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn rendering() -> Self {
        let (requests, mut inbox) = mpsc::unbounded_channel::<Asked>();
        tokio::spawn(async move {
            while let Some(Asked { descriptor, answer, .. }) = inbox.recv().await {
                let _ = answer.send(descriptor.map(worker::render).ok_or(Error::Gone));
            }
        });
        Self { requests }
    }

    /// Runs tmux with these arguments.
    pub async fn tmux(
        &self,
        program: Program,
        arguments: Vec<String>,
        timeout: Duration,
    ) -> Result<Result<Output, RunError>, Error> {
        match self.ask(Request::Tmux { program, arguments, timeout }, timeout).await? {
            Reply::Tmux(result) => Ok(result),
            _ => Err(Error::Gone),
        }
    }

    /// Finds the tmux server of this socket. The one that was `seen` there recreates its socket file if it lost it. The inner error is
    /// for a person.
    pub async fn server(&self, socket: PathBuf, seen: Option<Seen>) -> Result<Result<Server, String>, Error> {
        match self.ask(Request::Server { socket, seen }, FILE_TIMEOUT).await? {
            Reply::Server(result) => Ok(result),
            _ => Err(Error::Gone),
        }
    }

    /// Ends the tmux server of this socket, if no process that it started lives. Answers whether there is none any more. The inner
    /// error is for a person.
    pub async fn end_server(&self, socket: PathBuf) -> Result<Result<bool, String>, Error> {
        match self.ask(Request::EndServer(socket), FILE_TIMEOUT).await? {
            Reply::EndServer(result) => Ok(result),
            _ => Err(Error::Gone),
        }
    }

    /// Reminds the tmux server of this socket, or the one that was `seen` there, of a process that it has started, that has ended, and
    /// that it has not waited for. Answers whether there was something to remind it of. The inner error is for a person.
    pub async fn remind(
        &self,
        socket: PathBuf,
        seen: Option<Seen>,
        ended: Identity,
    ) -> Result<Result<bool, String>, Error> {
        match self.ask(Request::Remind { socket, seen, ended }, FILE_TIMEOUT).await? {
            Reply::Remind(result) => Ok(result),
            _ => Err(Error::Gone),
        }
    }

    /// Reads a prompt file.
    pub async fn prompt(&self, path: PathBuf) -> Result<SeenPrompt, Error> {
        match self.ask(Request::Prompt(path), FILE_TIMEOUT).await? {
            Reply::Prompt(prompt) => Ok(prompt),
            _ => Err(Error::Gone),
        }
    }

    /// Looks at a working directory.
    pub async fn workdir(&self, path: PathBuf) -> Result<SeenWorkdir, Error> {
        match self.ask(Request::Workdir(path), FILE_TIMEOUT).await? {
            Reply::Workdir(workdir) => Ok(workdir),
            _ => Err(Error::Gone),
        }
    }

    /// Sets the mode of a file of the agent user's. The inner error is for a person.
    pub async fn set_mode(&self, path: PathBuf, mode: u32) -> Result<Result<(), String>, Error> {
        match self.ask(Request::SetMode { path, mode }, FILE_TIMEOUT).await? {
            Reply::SetMode(result) => Ok(result),
            _ => Err(Error::Gone),
        }
    }

    /// Has text made of what is said on this socket; see [`renderer`].
    pub async fn render(&self, socket: OwnedFd) -> Result<(), Error> {
        match self.ask_with(Request::Render, Some(socket), FILE_TIMEOUT).await? {
            Reply::Rendering => Ok(()),
            _ => Err(Error::Gone),
        }
    }

    /// Watches these paths from now on, and no others.
    pub fn watch(&self, targets: Vec<Target>) {
        let (answer, _) = oneshot::channel();
        // Fails only when the daemon is ending.
        let request = Request::Watch(targets);
        let _ = self.requests.send(Asked { request, descriptor: None, timeout: Duration::ZERO, answer });
    }

    async fn ask(&self, request: Request, timeout: Duration) -> Result<Reply, Error> {
        self.ask_with(request, None, timeout).await
    }

    async fn ask_with(&self, request: Request, descriptor: Option<OwnedFd>, timeout: Duration) -> Result<Reply, Error> {
        // The deputy bounds its own work; this bound is for a deputy that hangs.
        let timeout = timeout + Duration::from_secs(1);
        let (answer, answered) = oneshot::channel();
        self.requests.send(Asked { request, descriptor, timeout, answer }).map_err(|_| Error::Gone)?;
        match answered.await.map_err(|_| Error::Gone)?? {
            Reply::FileSystemHangs => Err(Error::FileSystem),
            Reply::Short(reason) => Err(Error::Short(reason)),
            reply => Ok(reply),
        }
    }
}

/// How long a look at a file may take.
const FILE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked, while something waits for an answer, whether the deputy was stopped.
const TO_CHECK: Duration = Duration::from_secs(1);

/// The pause before another start. It doubles with each deputy that never said anything.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Keeps a deputy running from the first request on, and for as long as there is something to watch. What is asked in the pause
/// before a start waits for that start, and fails with it.
async fn keep(
    mut start: impl FnMut() -> io::Result<(Child, UnixStream)>,
    mut inbox: mpsc::UnboundedReceiver<Asked>,
    changed: impl Fn() + Send + Sync + 'static,
) {
    let mut watched = Vec::new();
    let mut pause = Duration::ZERO;
    loop {
        let mut first = None;
        while watched.is_empty() && first.is_none() {
            match inbox.recv().await {
                Some(asked) => first = to_answer(asked, &mut watched),
                None => return,
            }
        }
        sleep(pause).await;
        let (spoke, error) = match start() {
            Ok((mut child, stream)) => {
                let kept = reaper::keep(child.id());
                let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
                let end = converse(pid, stream, first.take(), &mut inbox, &mut watched, &changed).await;
                // At once: one that was stopped and is continued later must not act on what it was asked before. Waited for by
                // nobody, because what hangs in the kernel does not even die.
                let _ = child.start_kill();
                tokio::spawn(async move {
                    let _ = child.wait().await;
                    drop(kept);
                });
                match end {
                    End::Unfit(reason) => (false, Error::Start(reason)),
                    End::Gone { spoke } => (spoke, Error::Gone),
                }
            }
            Err(error) => (false, Error::Start(error.to_string())),
        };
        if inbox.is_closed() {
            return;
        }
        if spoke {
            pause = SHORTEST_PAUSE;
            continue;
        }
        pause = (pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        // Whatever waits has waited for this start: another may fail as well.
        while let Some(asked) = first.take().or_else(|| inbox.try_recv().ok()) {
            if let Some(asked) = to_answer(asked, &mut watched) {
                let _ = asked.answer.send(Err(error.clone()));
            }
        }
    }
}

/// Remembers what to watch, for this deputy and those after it. `None` for what needs no answer.
fn to_answer(asked: Asked, watched: &mut Vec<Target>) -> Option<Asked> {
    match asked.request {
        Request::Watch(targets) => {
            *watched = targets;
            None
        }
        _ => Some(asked),
    }
}

fn start(user: &str, uid: Uid, path: Option<&OsStr>) -> io::Result<(Child, UnixStream)> {
    let (near, far) = std::os::unix::net::UnixStream::pair()?;
    near.set_nonblocking(true)?;
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command
        .arg0("agentd")
        .arg(COMMAND)
        .arg(user)
        .arg(uid.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(far))
        .stdout(Stdio::null())
        // Not this process's own, which may be root's terminal.
        .stderr(Stdio::piped());
    // Where to look for tmux; the deputy hands it on to nothing else.
    command.envs(path.map(|path| ("PATH", path)));
    // In no process group of its own: the deputy leaves for a session of its own, and who leads a group cannot.
    command.kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(overhear(stderr));
    }
    Ok((child, UnixStream::from_std(near)?))
}

/// Logs what a deputy says on standard error, which is why it ends.
async fn overhear(stderr: impl AsyncRead + Unpin) {
    const ENOUGH: u64 = 2000;
    static BRAKE: Brake = Brake::new();
    let mut said = Vec::new();
    // What could be read is told.
    let _ = stderr.take(ENOUGH).read_to_end(&mut said).await;
    let said = String::from_utf8_lossy(&said);
    let said: String = said.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if !said.is_empty()
        && let Some(count) = BRAKE.pass()
    {
        tracing::warn!("the process that acts as the agent user has said ({count} so far): {said}");
    }
}

/// How a deputy ended.
enum End {
    /// It said why it cannot be one.
    Unfit(String),
    /// It is no more, or no use.
    Gone {
        /// Whether it ever said anything.
        spoke: bool,
    },
}

/// Until the deputy goes away or is found to hang, or the daemon ends.
async fn converse(
    pid: Option<Pid>,
    stream: UnixStream,
    first: Option<Asked>,
    inbox: &mut mpsc::UnboundedReceiver<Asked>,
    watched: &mut Vec<Target>,
    changed: &(impl Fn() + Sync),
) -> End {
    let (reader, mut writer) = stream.into_split();
    let mut reader = frame::Reader::new(reader, MAX_FRAME);
    // Written by a task of its own, so that answers are read whatever happens: two full sockets would wait for each other.
    let (outgoing, mut outbox) = mpsc::unbounded_channel();
    let mut writing = JoinSet::new();
    writing.spawn(async move {
        while let Some((request, descriptor)) = outbox.recv().await {
            let descriptor: Option<OwnedFd> = descriptor;
            let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
            if frame::write_with::<Numbered<Request>>(&mut writer, &request, &descriptors).await.is_err() {
                return;
            }
        }
    });
    let mut open: HashMap<u64, Open> = HashMap::new();
    let mut number = 0;
    let mut spoke = false;
    if !watched.is_empty() {
        let _ = outgoing.send((Numbered { number, body: Request::Watch(watched.clone()) }, None));
    }
    let mut next = first;
    let mut checked = Instant::now();
    loop {
        if open.is_empty() {
            checked = Instant::now();
        }
        if let Some(asked) = next.take() {
            number += 1;
            let (request, descriptor) = match to_answer(asked, watched) {
                Some(Asked { request, descriptor, timeout, answer }) => {
                    open.insert(number, Open { deadline: Instant::now() + timeout, timeout, answer });
                    (request, descriptor)
                }
                None => (Request::Watch(watched.clone()), None),
            };
            if outgoing.send((Numbered { number, body: request }, descriptor)).is_err() {
                return End::Gone { spoke };
            }
        }
        let deadline = open.values().map(|open| open.deadline).min();
        let overdue = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let to_check = !open.is_empty();
        // Each arm only takes something that has arrived whole: cancelling the others loses nothing.
        tokio::select! {
            // An answer that is there counts, however late it is looked at.
            biased;
            reply = reader.read::<Numbered<Reply>>() => match reply {
                Ok(Some(Numbered { body: Reply::Changed, .. })) => {
                    spoke = true;
                    changed();
                }
                Ok(Some(Numbered { body: Reply::Unfit(reason), .. })) => {
                    for (_, Open { answer, .. }) in open.drain() {
                        let _ = answer.send(Err(Error::Start(reason.clone())));
                    }
                    return End::Unfit(reason);
                }
                Ok(Some(Numbered { number, body })) => {
                    spoke = true;
                    if let Some(open) = open.remove(&number) {
                        let _ = open.answer.send(Ok(body));
                    }
                }
                Ok(None) | Err(_) => return End::Gone { spoke },
            },
            request = inbox.recv() => match request {
                Some(request) => next = Some(request),
                None => return End::Gone { spoke },
            },
            // One that was stopped would answer nothing for as long as it takes to find that out otherwise.
            () = sleep_until(checked + TO_CHECK), if to_check => {
                checked = Instant::now();
                if pid.is_some_and(is_stopped) {
                    warn_of_silence();
                    return End::Gone { spoke };
                }
            }
            () = overdue => {
                warn_of_silence();
                let now = Instant::now();
                for (_, Open { timeout, answer, .. }) in open.extract_if(|_, open| open.deadline <= now) {
                    let _ = answer.send(Err(Error::TimedOut(timeout)));
                }
                return End::Gone { spoke };
            }
        }
    }
}

/// Whether a child of this process was stopped by a signal. What it is waited for in other ways is left as it is.
fn is_stopped(child: Pid) -> bool {
    let flags = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::Pid(child), flags), Ok(Some(status)) if status.stopped())
}

/// The agent user can stop each of them.
fn warn_of_silence() {
    static BRAKE: Brake = Brake::new();
    if let Some(count) = BRAKE.pass() {
        tracing::warn!(
            "the process that acts as the agent user does not answer ({count} so far); it is killed and replaced"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn debug_shows_no_screen() {
        let reply =
            Reply::Tmux(Ok(Output { success: true, stdout: "hunter2".to_owned(), stderr: "hunter2".to_owned() }));
        let shown = format!("{reply:?}");
        assert!(shown.contains("[7 bytes]") && !shown.contains("hunter2"), "{shown}");
    }

    /// Starts child processes that do nothing, and a task that speaks for each; these get the number of the start, from 0.
    fn starts<F>(speak: impl Fn(usize, UnixStream) -> F) -> impl FnMut() -> io::Result<(Child, UnixStream)>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut count = 0;
        move || {
            let (near, far) = UnixStream::pair()?;
            tokio::spawn(speak(count, far));
            count += 1;
            let child = tokio::process::Command::new("sleep").arg("3600").kill_on_drop(true).spawn()?;
            Ok((child, near))
        }
    }

    fn kept(
        start: impl FnMut() -> io::Result<(Child, UnixStream)> + Send + 'static,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Deputy {
        let (requests, inbox) = mpsc::unbounded_channel();
        tokio::spawn(keep(start, inbox, changed));
        Deputy { requests }
    }

    /// Answers that every working directory is usable but those named `silent`.
    async fn answer_all(stream: UnixStream) {
        let (reader, mut writer) = stream.into_split();
        let mut reader = frame::Reader::new(reader, MAX_FRAME);
        while let Ok(Some(Numbered { number, body })) = reader.read::<Numbered<Request>>().await {
            match body {
                Request::Workdir(path) if !path.ends_with("silent") => {
                    let reply = Numbered { number, body: Reply::Workdir(SeenWorkdir::Usable) };
                    frame::write(&mut writer, &reply).await.unwrap();
                }
                _ => {}
            }
        }
    }

    async fn listen(mut stream: UnixStream) {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }

    fn is_there(pid: u32) -> bool {
        // A zombie is no longer there.
        let stat = crate::sys::procfs::read(format!("/proc/{pid}/stat")).ok();
        stat.and_then(|stat| crate::sys::procfs::Stat::parse(&stat)).is_some_and(|stat| !stat.zombie)
    }

    #[tokio::test]
    async fn a_deputy_that_does_not_answer_is_killed_and_replaced() {
        let (pids, mut started) = mpsc::unbounded_channel();
        let mut start =
            starts(async |count, stream| if count == 0 { listen(stream).await } else { answer_all(stream).await });
        let start = move || {
            let (child, stream) = start()?;
            pids.send(child.id().unwrap()).unwrap();
            Ok((child, stream))
        };
        let deputy = kept(start, || {});
        let tmux = deputy.tmux(Program::Installed, vec![], Duration::from_mins(1));
        let set_mode = deputy.ask(Request::SetMode { path: "/f".into(), mode: 0 }, Duration::from_millis(100));
        let (tmux, set_mode) = tokio::join!(tmux, set_mode);
        assert!(matches!(set_mode, Err(Error::TimedOut(_))), "{set_mode:?}");
        assert!(matches!(tmux, Err(Error::Gone)), "{tmux:?}");
        let pid = started.recv().await.unwrap();
        assert_eq!(deputy.workdir("/w".into()).await.unwrap(), SeenWorkdir::Usable);
        assert!(!is_there(pid));
    }

    #[tokio::test]
    async fn a_deputy_that_is_stopped_is_replaced_before_its_time_is_up() {
        let mut start =
            starts(async |count, stream| if count == 0 { listen(stream).await } else { answer_all(stream).await });
        let start = move || {
            let (child, stream) = start()?;
            if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
                rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
            }
            Ok((child, stream))
        };
        let deputy = kept(start, || {});
        let asked = Instant::now();
        let tmux = deputy.tmux(Program::Installed, vec![], Duration::from_mins(1)).await;
        assert!(matches!(tmux, Err(Error::Gone)), "{tmux:?}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert_eq!(deputy.workdir("/w".into()).await.unwrap(), SeenWorkdir::Usable);
    }

    #[tokio::test(start_paused = true)]
    async fn deputies_that_end_at_once_are_started_less_and_less_often_and_what_is_asked_fails_with_them() {
        let (count, changes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, noticed) = (Arc::clone(&count), Arc::clone(&changes));
        let start = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Err(io::Error::other("no such user"))
        };
        let deputy = kept(start, move || _ = noticed.fetch_add(1, Ordering::Relaxed));
        deputy.watch(vec![Target::Path("/w".into())]);
        for _ in 0..20 {
            let before = Instant::now();
            let asked = (0..100).map(|_| {
                let deputy = deputy.clone();
                async move { deputy.workdir("/w".into()).await }
            });
            let answers = asked.collect::<JoinSet<_>>().join_all().await;
            assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Start(_)))), "{answers:?}");
            assert!(before.elapsed() <= LONGEST_PAUSE + Duration::from_millis(1));
        }
        let before = count.load(Ordering::Relaxed);
        sleep(10 * LONGEST_PAUSE).await;
        assert!((9..=11).contains(&(count.load(Ordering::Relaxed) - before)));
        assert_eq!(changes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_is_to_be_watched_is_told_to_whichever_deputy_can_be_started() {
        let (heard, mut watched) = mpsc::unbounded_channel();
        let mut good = starts(move |_, stream| {
            let heard = heard.clone();
            async move {
                let mut reader = frame::Reader::new(stream, MAX_FRAME);
                let first = reader.read::<Numbered<Request>>().await.unwrap().unwrap();
                heard.send(first.body).unwrap();
            }
        });
        let mut tries = 0;
        let start = move || {
            tries += 1;
            if tries == 1 { Err(io::Error::other("not yet")) } else { good() }
        };
        let deputy = kept(start, || {});
        let targets = vec![Target::Path("/w".into())];
        deputy.watch(targets.clone());
        // Also after the end of the first that was started.
        for _ in 0..2 {
            let heard = tokio::time::timeout(Duration::from_secs(5), watched.recv()).await.unwrap();
            assert_eq!(heard, Some(Request::Watch(targets.clone())));
        }
    }
}
