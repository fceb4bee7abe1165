//! The deputy: a process of agentd's own that acts with the agent user's rights, so that root need not.
//!
//! ```text
//! daemon (root) ──socket pair──▶ deputy (agent user) ──▶ tmux clients, prompt files, working directories
//! ```
//!
//! Everything on a path that the agent user can redirect, and every tmux client (which a hostile server can make run commands),
//! is the deputy's business: whatever it is tricked into, it is tricked into as the agent user. It starts as the daemon's child,
//! becomes the agent user before it reads the first request, and ends when the daemon's end of the socket closes. Because it
//! gives up root without a further `execve(2)`, the kernel lets nobody but root trace it.
//!
//! A request that gets no answer, because the deputy was killed or something in it hangs, is an [`Error`]: nothing is known then,
//! and callers must not take that for an answer. The next request starts a new deputy.

mod serve;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

pub use serve::run;

use crate::frame::{self, Bytes};
use crate::watch::Target;

/// The longest answer: a pane's whole screen and scrollback, a long prompt.
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
}

/// What the deputy can be asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Run tmux with these arguments, for no longer than this.
    Tmux { arguments: Vec<String>, timeout: Duration },
    /// Read a prompt file.
    Prompt(PathBuf),
    /// Look at a working directory.
    Workdir(PathBuf),
    /// Set the mode of a file that the agent user owns.
    SetMode { path: PathBuf, mode: u32 },
    /// Watch these from now on, and send [`Reply::Changed`] when one changes.
    Watch(Vec<Target>),
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Tmux(Result<Output, RunError>),
    Prompt(Prompt),
    Workdir(Workdir),
    SetMode(Result<(), String>),
    /// Without a request: something that is watched changed.
    Changed,
}

/// What a program that ran to its end left.
#[derive(Debug, Serialize, Deserialize)]
pub struct Output {
    /// Whether it ended with status 0.
    pub success: bool,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
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

/// What is at the path of a prompt file, as far as the agent user can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prompt {
    /// A file with this text, trimmed.
    Text(Bytes),
    /// Nothing.
    Missing,
    /// Something that cannot be a prompt; the reason, for a person.
    Unusable(String),
    /// Text that no argument can hold; the reason, for a person.
    Refused(String),
}

/// What is at the path of a working directory, as far as the agent user can tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Workdir {
    /// A directory that the agent user may enter.
    Usable,
    /// Nothing, or nothing usable; what it is, for a person.
    Missing(String),
}

#[derive(Serialize, Deserialize)]
struct Numbered<T> {
    /// 0 is no request's number.
    number: u64,
    body: T,
}

type Answer = oneshot::Sender<Result<Reply, Error>>;

/// The daemon's handle to the deputy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Deputy {
    requests: mpsc::UnboundedSender<(Request, Answer)>,
}

impl Deputy {
    /// Makes the handle, and the task behind it; the process itself is started with the first request. `user` is whom it
    /// becomes. `changed` is called whenever something changed that [`Deputy::watch`] named, and after a new start, when that
    /// cannot be known.
    pub fn new(user: String, changed: impl Fn() + Send + Sync + 'static) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        tokio::spawn(keep(user, inbox, changed));
        Self { requests }
    }

    /// Runs tmux with these arguments.
    pub async fn tmux(&self, arguments: Vec<String>, timeout: Duration) -> Result<Result<Output, RunError>, Error> {
        match self.ask(Request::Tmux { arguments, timeout }, timeout).await? {
            Reply::Tmux(result) => Ok(result),
            _ => Err(Error::Gone),
        }
    }

    /// Reads a prompt file.
    pub async fn prompt(&self, path: PathBuf) -> Result<Prompt, Error> {
        match self.ask(Request::Prompt(path), FILE_TIMEOUT).await? {
            Reply::Prompt(prompt) => Ok(prompt),
            _ => Err(Error::Gone),
        }
    }

    /// Looks at a working directory.
    pub async fn workdir(&self, path: PathBuf) -> Result<Workdir, Error> {
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

    /// Watches these paths from now on, and no others.
    pub fn watch(&self, targets: Vec<Target>) {
        let (answer, _) = oneshot::channel();
        // Fails only when the daemon is ending.
        let _ = self.requests.send((Request::Watch(targets), answer));
    }

    async fn ask(&self, request: Request, timeout: Duration) -> Result<Reply, Error> {
        // The deputy bounds its own work; this bound is for a deputy that hangs.
        let timeout = timeout + Duration::from_secs(1);
        let (answer, answered) = oneshot::channel();
        self.requests.send((request, answer)).map_err(|_| Error::Gone)?;
        match tokio::time::timeout(timeout, answered).await {
            Ok(answer) => answer.map_err(|_| Error::Gone)?,
            Err(_) => Err(Error::TimedOut(timeout)),
        }
    }
}

/// How long a look at a file may take.
const FILE_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps a deputy running for as long as there are requests.
async fn keep(
    user: String,
    mut inbox: mpsc::UnboundedReceiver<(Request, Answer)>,
    changed: impl Fn() + Send + Sync + 'static,
) {
    let mut watched = Vec::new();
    while let Some((request, answer)) = inbox.recv().await {
        match start(&user) {
            Ok((child, stream)) => {
                converse(stream, (request, answer), &mut inbox, &mut watched, &changed).await;
                end(child).await;
                changed();
            }
            Err(error) => {
                let _ = answer.send(Err(Error::Start(error.to_string())));
            }
        }
    }
}

/// The deputy sees its end of the socket closed and ends by itself; one that does not is made to.
async fn end(mut child: tokio::process::Child) {
    if tokio::time::timeout(Duration::from_secs(1), child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn start(user: &str) -> io::Result<(tokio::process::Child, UnixStream)> {
    let (near, far) = std::os::unix::net::UnixStream::pair()?;
    near.set_nonblocking(true)?;
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command
        .arg0("agentd")
        .arg(COMMAND)
        .arg(user)
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(far))
        .stdout(Stdio::null());
    // Where to look for tmux; the deputy hands it on to nothing else.
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.process_group(0).kill_on_drop(true);
    Ok((command.spawn()?, UnixStream::from_std(near)?))
}

/// Until the deputy goes away or the daemon ends.
async fn converse(
    stream: UnixStream,
    first: (Request, Answer),
    inbox: &mut mpsc::UnboundedReceiver<(Request, Answer)>,
    watched: &mut Vec<Target>,
    changed: &(impl Fn() + Sync),
) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = frame::Reader::new(reader, MAX_FRAME);
    // Written by a task of its own, so that answers are read whatever happens: two full sockets would wait for each other.
    let (outgoing, mut outbox) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(request) = outbox.recv().await {
            if frame::write::<Numbered<Request>>(&mut writer, &request).await.is_err() {
                return;
            }
        }
    });
    let mut open: HashMap<u64, Answer> = HashMap::new();
    let mut number = 0;
    if !watched.is_empty() {
        let _ = outgoing.send(Numbered { number, body: Request::Watch(watched.clone()) });
    }
    let mut next = Some(first);
    loop {
        if let Some((request, answer)) = next.take() {
            number += 1;
            if let Request::Watch(targets) = &request {
                watched.clone_from(targets);
            } else {
                open.insert(number, answer);
            }
            if outgoing.send(Numbered { number, body: request }).is_err() {
                return;
            }
        }
        // Both arms only take something that has arrived whole: cancelling the other one loses nothing.
        tokio::select! {
            request = inbox.recv() => match request {
                Some(request) => next = Some(request),
                None => return,
            },
            reply = reader.read::<Numbered<Reply>>() => match reply {
                Ok(Some(Numbered { body: Reply::Changed, .. })) => changed(),
                Ok(Some(Numbered { number, body })) => {
                    if let Some(answer) = open.remove(&number) {
                        let _ = answer.send(Ok(body));
                    }
                }
                Ok(None) | Err(_) => return,
            },
        }
    }
}
