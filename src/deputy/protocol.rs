//! The protocol between daemon and deputy.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::screen::Reading;
use super::terminal::Wanted;
use crate::agent::harness::rule::{Finding, Rule};
use crate::agent::seen::{SeenPrompt, SeenRepository, SeenWorkdir};
use crate::sys::process::Identity;
use crate::sys::watch::Target;

/// The longest frame. The longest answer is a prompt or the output of tmux, with every byte escaped.
pub(super) const MAX_FRAME: usize = 16 << 20;

/// How long an access to a file may take.
pub(super) const FILE_TIMEOUT: Duration = Duration::from_secs(5);

/// A request to the deputy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Run tmux with these arguments and this standard input, for no longer than this.
    Tmux { program: Program, arguments: Vec<String>, input: Input, timeout: Duration },
    /// Run tmux with these arguments, for no longer than this, and read what it prints by these rules.
    ReadScreen { program: Program, arguments: Vec<String>, rules: Vec<Rule>, timeout: Duration },
    /// Run this program with these arguments in the environment of a login, for no longer than this.
    InLogin { program: PathBuf, arguments: Vec<String>, timeout: Duration },
    /// Find the tmux server of this socket. The server that was seen there recreates a missing socket file.
    Server { socket: PathBuf, seen: Option<Seen> },
    /// End the tmux server of this socket, if no process that it started is alive.
    EndServer(PathBuf),
    /// Have the tmux server of this socket notice that this child of its has ended.
    Remind { socket: PathBuf, seen: Option<Seen>, ended: Identity },
    /// Read a prompt file, which is guarded if a sandboxed agent could have put a link in its place.
    Prompt { path: PathBuf, guarded: bool },
    /// Examine a working directory.
    Workdir(PathBuf),
    /// Look for the repository around a directory.
    Repository(PathBuf),
    /// Set the mode of a file that the agent user owns.
    SetMode { path: PathBuf, mode: u32 },
    /// Find out whether the terminal of this process is in canonical mode.
    LineMode(i32),
    /// Render an agent's output as text, on the socket that comes with this request.
    Render,
    /// Look at files that log a harness in. The last part of the path may be a pattern.
    Login(PathBuf),
    /// Look for these rules in a text that an agent printed.
    Rules { rules: Vec<Rule>, text: Input },
    /// Relay between a tmux client and an operator's connection: the first socket that comes with this request. The second ends it.
    Terminal(Wanted),
    /// Watch these paths from now on, and send [`Reply::Changed`] when one changes, or was not watched before.
    Watch(Vec<Target>),
}

/// A reply from the deputy.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Tmux(Result<Output, RunError>),
    InLogin(Result<Output, RunError>),
    /// The inner error is what tmux complains of.
    ReadScreen(Result<Result<Reading, String>, RunError>),
    Server(Result<Server, String>),
    EndServer(Result<bool, String>),
    Remind(Result<bool, String>),
    Prompt(SeenPrompt),
    Workdir(SeenWorkdir),
    /// What git has to do with the repository.
    Repository(SeenRepository),
    SetMode(Result<(), String>),
    LineMode(Result<bool, String>),
    /// Rendering has started.
    Rendering,
    /// A number that changes when any of the files does, or which there are.
    Login(u64),
    /// What the first rule that matches has found.
    Rules(Option<Finding>),
    /// The relay has started, or the reason why not.
    Terminal(Result<(), String>),
    /// The file system did not answer within [`FILE_TIMEOUT`], or has not answered an earlier identical request yet.
    FileSystemHangs,
    /// The system lacks a resource; this is its message.
    Short(String),
    /// The process cannot act as a deputy, for this reason. Belongs to no request; the process ends after it.
    Unfit(String),
    /// A watched path changed, or was not watched before. Belongs to no request.
    Changed,
}

/// What a program reads from standard input. It may be a person's text, so `Debug` shows only its length.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Input(pub String);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// Which tmux to run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Program {
    /// The one in `PATH`.
    Installed,
    /// The program that the server listening on this socket was started from, installed or not.
    OfServer(PathBuf),
}

/// The state of a tmux socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Server {
    /// No server.
    None,
    /// A server that clients reach.
    Serving {
        /// The server's process id.
        pid: i32,
        /// Whether the server had lost its socket, and has just created it again.
        recovered: bool,
        /// Whether the server was started from the file that clients are started from now.
        is_installed: bool,
        /// How to find the server again if it loses its socket; `None` unless it is tmux.
        seen: Option<Seen>,
    },
    /// A server that is alive but does not answer.
    Silent {
        /// The server's process id, if known.
        pid: Option<i32>,
    },
}

/// A process that was seen to serve on the tmux socket. Only this process is signaled to recreate that socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seen {
    /// The process.
    pub process: Identity,
    /// The device and the inode of its program.
    pub program: (u64, u64),
}

/// The result of a program that ran to its end.
///
/// The output may be an agent's screen, with anything on it, so `Debug` shows only its length.
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

/// Why a program gave no [`Output`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RunError {
    /// The program could not be started.
    #[error("failed to run {program}: {reason}")]
    Start {
        /// The name of the program.
        program: String,
        /// The system's reason.
        reason: String,
    },
    /// The program was still running after this time, and was killed.
    #[error("{program} did not end within {}", humantime::format_duration(*.timeout))]
    TimedOut {
        /// The name of the program.
        program: String,
        /// The time limit.
        timeout: Duration,
    },
}

/// A request or its reply, on the socket.
#[derive(Serialize, Deserialize)]
pub(super) struct Numbered<T> {
    /// The number of the request; 0 for a reply that belongs to none.
    pub number: u64,
    /// The request, or the reply.
    pub body: T,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_screen() {
        let reply =
            Reply::Tmux(Ok(Output { success: true, stdout: "hunter2".to_owned(), stderr: "hunter2".to_owned() }));
        let shown = format!("{reply:?}");
        assert!(shown.contains("[7 bytes]") && !shown.contains("hunter2"), "{shown}");
    }
}
