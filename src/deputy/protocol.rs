//! The protocol between daemon and deputy.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::seen::{SeenPrompt, SeenWorkdir};
use crate::sys::process::Identity;
use crate::sys::watch::Target;

/// More than the longest answer, which is a prompt or what tmux prints, with every byte escaped.
pub(super) const MAX_FRAME: usize = 16 << 20;

/// How long a look at a file may take.
pub(super) const FILE_TIMEOUT: Duration = Duration::from_secs(5);

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
        /// Whether it had lost its socket and has just made it again.
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

/// A request or its reply, on the socket.
#[derive(Serialize, Deserialize)]
pub(super) struct Numbered<T> {
    /// 0 is no request's number.
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
