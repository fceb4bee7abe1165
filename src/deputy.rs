//! The deputy: a helper process that acts with the agent user's rights, so that root need not.
//!
//! ```text
//! daemon (root) ──socket pair──▶ deputy (agent user) ──▶ tmux clients, prompt files, working directories, terminal emulators
//! ```
//!
//! The deputy uses every path that the agent user can redirect, and runs every tmux client, because a hostile server can make its
//! clients run commands. Whatever it is tricked into, it does as the agent user. It starts as the daemon's child, becomes the agent
//! user before it reads the first request, and ends when the daemon's end of the socket closes. Because it gives up root without
//! another `execve(2)`, the kernel lets only root trace it. Before that it gives up what it [inherits](crate::sys::inheritance) from
//! the process that started the daemon, above all the terminal.
//!
//! A request that gets no answer, because the deputy was killed or hangs, is an [`Error`]: nothing is known then, and callers must not
//! take that for an answer. The deputy limits the time of its own work, so one that does not answer in time was stopped or damaged: it
//! is killed and replaced.

mod keeper;
pub mod kind;
mod line_mode;
mod login;
mod protocol;
pub mod renderer;
mod rules;
pub mod screen;
mod terminal;
mod tmux_client;
mod tmux_server;
pub mod transcript;
mod worker;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

pub(crate) use protocol::{Input, Reply, Request};
pub use protocol::{Output, Program, RunError, Seen, Server};
pub(crate) use terminal::Wanted;
pub use tmux_client::{COMMAND as CLIENT_COMMAND, become_client, words as client_words};
pub use worker::run;

use keeper::{Asked, keep, start};
use protocol::FILE_TIMEOUT;

use crate::agent::harness::rule::{Finding, Rule};
use crate::agent::seen::{SeenPrompt, SeenRepository, SeenWorkdir};
use crate::sys::account::Account;
use crate::sys::process::Identity;
use crate::sys::watch::Target;

/// The name of the hidden command that runs the deputy.
pub const COMMAND: &str = "deputy";

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No deputy could be started.
    #[error("failed to start the process that acts as the agent user: {0}")]
    Start(String),
    /// The deputy ended, or was replaced, before it answered.
    #[error("the process that acts as the agent user ended before it answered")]
    Gone,
    /// The deputy did not answer in time.
    #[error("no answer from the process that acts as the agent user within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The deputy answered, but the file system did not.
    #[error("the file system does not answer")]
    FileSystem,
    /// The system lacks a resource that the request needs.
    #[error("the system lacks a resource: {0}")]
    Short(String),
}

/// The daemon's handle to the deputy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Deputy {
    requests: mpsc::UnboundedSender<Asked>,
}

impl Deputy {
    /// Creates the handle, and the task behind it; the process itself starts with the first request.
    ///
    /// The deputy becomes `user`, as long as the name means the same user. `changed` is called when a [watched](Deputy::watch)
    /// path has changed, and when a path is watched that was not before, including by a new process: earlier changes may have
    /// been missed.
    pub fn new(user: &Account, changed: impl Fn() + Send + Sync + 'static) -> Self {
        Self::searching(std::env::var_os("PATH"), user, changed)
    }

    /// Like [`Deputy::new`], with tmux looked up in these folders.
    pub fn searching(path: Option<OsString>, user: &Account, changed: impl Fn() + Send + Sync + 'static) -> Self {
        let (requests, inbox) = mpsc::unbounded_channel();
        let (name, uid) = (user.name.clone(), user.uid);
        tokio::spawn(keep(move || start(&name, uid, path.as_deref()), inbox, changed));
        Self { requests }
    }

    /// A deputy for the tests of other wings whose replies `answer` decides. `None` leaves a request unanswered.
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

    /// Like [`Deputy::of`], but a caller without an answer keeps waiting.
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

    /// A deputy for the tests of other wings that only renders text, in this process.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn rendering() -> Self {
        let (requests, mut inbox) = mpsc::unbounded_channel::<Asked>();
        tokio::spawn(async move {
            while let Some(Asked { mut descriptors, answer, .. }) = inbox.recv().await {
                let _ = answer.send(descriptors.pop().map(worker::render).ok_or(Error::Gone));
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
        self.tmux_reading(program, arguments, Input::default(), timeout).await
    }

    /// Like [`Deputy::tmux`], with something on its standard input.
    pub(crate) async fn tmux_reading(
        &self,
        program: Program,
        arguments: Vec<String>,
        input: Input,
        timeout: Duration,
    ) -> Result<Result<Output, RunError>, Error> {
        match self.ask(Request::Tmux { program, arguments, input, timeout }, timeout).await? {
            Reply::Tmux(result) => Ok(result),
            _ => Err(Error::Gone),
        }
    }

    /// Runs a program with these arguments in the environment of a login.
    pub async fn run_in_login(
        &self,
        program: PathBuf,
        arguments: Vec<String>,
        timeout: Duration,
    ) -> Result<Result<Output, RunError>, Error> {
        match self.ask(Request::InLogin { program, arguments, timeout }, timeout).await? {
            Reply::InLogin(result) => Ok(result),
            _ => Err(Error::Gone),
        }
    }

    /// Reads what tmux prints with these arguments by these rules, as the text of a screen.
    pub(crate) async fn read_screen(
        &self,
        program: Program,
        arguments: Vec<String>,
        rules: Vec<Rule>,
        timeout: Duration,
    ) -> Result<Result<Result<screen::Reading, String>, RunError>, Error> {
        match self.ask(Request::ReadScreen { program, arguments, rules, timeout }, timeout + FILE_TIMEOUT).await? {
            Reply::ReadScreen(result) => Ok(result),
            _ => Err(Error::Gone),
        }
    }

    /// Finds the tmux server of this socket.
    ///
    /// The server that was `seen` there recreates its socket file if it is missing. The inner error is a message for people.
    pub async fn server(&self, socket: PathBuf, seen: Option<Seen>) -> Result<Result<Server, String>, Error> {
        match self.ask(Request::Server { socket, seen }, FILE_TIMEOUT).await? {
            Reply::Server(result) => Ok(result),
            _ => Err(Error::Gone),
        }
    }

    /// Ends the tmux server of this socket, if no process that it started is alive.
    ///
    /// Returns whether the server is gone. The inner error is a message for people.
    pub async fn end_server(&self, socket: PathBuf) -> Result<Result<bool, String>, Error> {
        match self.ask(Request::EndServer(socket), FILE_TIMEOUT).await? {
            Reply::EndServer(result) => Ok(result),
            _ => Err(Error::Gone),
        }
    }

    /// Reminds the tmux server of this socket, or the one that was `seen` there, of a child that has ended and that it has not
    /// reaped.
    ///
    /// Returns whether there was one. The inner error is a message for people.
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

    /// Reads a prompt file. A `guarded` one is not where a link leads that an agent could have placed.
    pub async fn prompt(&self, path: PathBuf, guarded: bool) -> Result<SeenPrompt, Error> {
        match self.ask(Request::Prompt { path, guarded }, FILE_TIMEOUT).await? {
            Reply::Prompt(prompt) => Ok(prompt),
            _ => Err(Error::Gone),
        }
    }

    /// Looks for the repository around a directory, and whether git of this user works in it.
    pub async fn repository(&self, path: PathBuf) -> Result<SeenRepository, Error> {
        match self.ask(Request::Repository(path), FILE_TIMEOUT).await? {
            Reply::Repository(seen) => Ok(seen),
            _ => Err(Error::Gone),
        }
    }

    /// A number that changes when files that log a harness in do. The last part of the path may be a pattern.
    pub async fn login(&self, path: PathBuf) -> Result<u64, Error> {
        match self.ask(Request::Login(path), FILE_TIMEOUT).await? {
            Reply::Login(stamp) => Ok(stamp),
            _ => Err(Error::Gone),
        }
    }

    /// Looks for rules in a text that an agent printed. Tells what the first of them has found that matches.
    pub async fn rules(&self, rules: Vec<Rule>, text: String) -> Result<Option<Finding>, Error> {
        match self.ask(Request::Rules { rules, text: Input(text) }, FILE_TIMEOUT).await? {
            Reply::Rules(found) => Ok(found),
            _ => Err(Error::Gone),
        }
    }

    /// Examines a working directory.
    pub async fn workdir(&self, path: PathBuf) -> Result<SeenWorkdir, Error> {
        match self.ask(Request::Workdir(path), FILE_TIMEOUT).await? {
            Reply::Workdir(workdir) => Ok(workdir),
            _ => Err(Error::Gone),
        }
    }

    /// Sets the mode of a file that the agent user owns. The inner error is a message for people.
    pub async fn set_mode(&self, path: PathBuf, mode: u32) -> Result<Result<(), String>, Error> {
        match self.ask(Request::SetMode { path, mode }, FILE_TIMEOUT).await? {
            Reply::SetMode(result) => Ok(result),
            _ => Err(Error::Gone),
        }
    }

    /// Renders text as requested on this socket; see [`renderer`].
    pub async fn render(&self, socket: OwnedFd) -> Result<(), Error> {
        match self.ask_with(Request::Render, vec![socket], FILE_TIMEOUT).await? {
            Reply::Rendering => Ok(()),
            _ => Err(Error::Gone),
        }
    }

    /// Whether the terminal of this process is in canonical mode: its program reads lines. The inner error is a message for people.
    pub async fn is_canonical(&self, pid: i32) -> Result<Result<bool, String>, Error> {
        match self.ask(Request::LineMode(pid), FILE_TIMEOUT).await? {
            Reply::LineMode(mode) => Ok(mode),
            _ => Err(Error::Gone),
        }
    }

    /// Relays between a tmux client and an operator's connection, until `daemon` is closed or either of them is gone.
    ///
    /// Returns once the relay has started. The inner error is a message for people.
    pub(crate) async fn attach(
        &self,
        wanted: Wanted,
        socket: OwnedFd,
        daemon: OwnedFd,
    ) -> Result<Result<(), String>, Error> {
        match self.ask_with(Request::Terminal(wanted), vec![socket, daemon], FILE_TIMEOUT).await? {
            Reply::Terminal(started) => Ok(started),
            _ => Err(Error::Gone),
        }
    }

    /// Watches exactly these paths from now on.
    pub fn watch(&self, targets: Vec<Target>) {
        let (answer, _) = oneshot::channel();
        // Fails only when the daemon is ending.
        let request = Request::Watch(targets);
        let _ = self.requests.send(Asked { request, descriptors: Vec::new(), timeout: Duration::ZERO, answer });
    }

    async fn ask(&self, request: Request, timeout: Duration) -> Result<Reply, Error> {
        self.ask_with(request, Vec::new(), timeout).await
    }

    async fn ask_with(&self, request: Request, descriptors: Vec<OwnedFd>, timeout: Duration) -> Result<Reply, Error> {
        // The deputy limits the time of its own work; this limit is for a deputy that hangs.
        let timeout = timeout + Duration::from_secs(1);
        let (answer, answered) = oneshot::channel();
        self.requests.send(Asked { request, descriptors, timeout, answer }).map_err(|_| Error::Gone)?;
        match answered.await.map_err(|_| Error::Gone)?? {
            Reply::FileSystemHangs => Err(Error::FileSystem),
            Reply::Short(reason) => Err(Error::Short(reason)),
            reply => Ok(reply),
        }
    }
}
