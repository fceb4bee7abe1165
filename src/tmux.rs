//! tmux: sessions and panes on the dedicated server.
//!
//! Contract: each agent has one session, with one pane for the agent in it. The session has its agent's key in the option
//! `@agentd-owner`, the pane in `@agentd-agent`, and both are found by these marks, right before each use, because operators may change
//! names. A session without the agent's mark is never touched. After an agent has ended, its pane stays (`remain-on-exit`), and every
//! operator who attaches, or is attached, gets a shell beside it.
//!
//! Every client is run by the [deputy], as the agent user: a hostile server can make its clients run commands.
//! What a client prints is hostile input from the agent user: here it becomes a number or an error, nothing else. Targets
//! are exact (`=NAME:`, `$id` or `%id`), because a bare name matches prefixes (`tmux(1)`, "COMMANDS").
//!
//! A client that reaches no server, or is cut off by it, proves nothing: the deputy checks who listens on the socket. A server is
//! started only if no process does: a second one would take the socket from the first, with everything that runs in it. A server that lost
//! its socket file makes it again. If a server of another version does not understand the installed client, the program that it was
//! itself started from is its client.

mod client;
pub mod desks;
mod memory;
mod orphan;
#[cfg(not(fuzzing))]
mod parse;
#[cfg(fuzzing)]
pub mod parse;
mod sessions;
mod typing;
mod unit;
pub mod window_size;

pub(crate) use client::judge_version;
pub use memory::Memory;
pub use parse::{Entrance, Pane, PaneEnd};
pub use typing::{Paste, Typist};
pub use unit::ServerUnit;

pub use crate::deputy::screen::{Found, Reading};

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::client::Arguments;
use self::orphan::Owner;
use self::sessions::ToClose;
use crate::agent::name::Name;
use crate::deputy::{self, Deputy, RunError, Server};
use crate::sys::account::Account;
use crate::sys::process::Identity;
use crate::sys::rate_limit::{Brake, OnChange};
use crate::sys::safe_path::version_at;

/// The oldest supported version of tmux.
pub const OLDEST: (u32, u32) = (3, 2);

/// How many lines of scrollback each pane has.
const HISTORY_LIMIT: &str = "5000";

/// The longest pause between attempts to start the server in advance.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a client may take once the daemon is shutting down.
///
/// A server that has not answered for this long is not asked again. A stop may take three seconds beyond what the agents need,
/// two of which a launcher may wait for the server to take in output.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(900);

/// How long ending a server that does not answer may take.
const END_SERVER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the server may take to notice that a program has ended, before each reminder.
const NOTICE_TIMEOUTS: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];

/// How long a reminder may take.
const REMIND_TIMEOUT: Duration = Duration::from_secs(1);

/// Options whose defaults, or whose settings for interactive use, do not suit unattended programs.
const FOR_AGENTS: [&[&str]; 6] = [
    // By default, a new session gets the size of a client in another session. So a session starts with `default-size`, and is set
    // to `manual` afterwards. If `manual` were the global value, tmux 3.3 to 3.5 would crash when the next session starts. See
    // `window_size`.
    &["set-option", "-g", "window-size", "smallest"],
    // A client that detaches must not end an agent.
    &["set-option", "-g", "destroy-unattached", "off"],
    &["set-option", "-s", "exit-unattached", "off"],
    // Harnesses stop at Escape, and request the other two. tmux waits half a second for what may follow an Escape (10 ms from 3.5
    // on).
    &["set-option", "-s", "escape-time", "10"],
    &["set-option", "-s", "focus-events", "on"],
    &["set-option", "-s", "extended-keys", "on"],
];

/// The option that names the shell of windows that operators open.
const DEFAULT_SHELL: &str = "default-shell";

/// The shell for those windows if the agent user's own cannot be run.
const USUAL_SHELL: &str = "/bin/sh";

/// Our index among the hooks; others keep theirs.
const HOOK: &str = "client-attached[67]";

/// Why a tmux operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The deputy did not answer.
    #[error(transparent)]
    Deputy(#[from] deputy::Error),
    /// tmux could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There is no server.
    #[error("no tmux server listens on {}: {message}", socket.display())]
    NoServer {
        /// The server's socket.
        socket: PathBuf,
        /// tmux's message.
        message: String,
    },
    /// There is no server, and systemd starts none.
    #[error("no tmux server listens on {}: {why}", socket.display())]
    NotStarted {
        /// The server's socket.
        socket: PathBuf,
        /// What became of its unit.
        why: String,
    },
    /// There is a server, but it does not answer.
    #[error("the tmux server on {}{} does not answer; it is stopped or overloaded", socket.display(), of_process(*pid))]
    Silent {
        /// The server's socket.
        socket: PathBuf,
        /// The server's process id, if known.
        pid: Option<i32>,
    },
    /// Whether there is a server could not be determined; the reason is a message for people.
    #[error("{0}")]
    Unknown(String),
    /// There is a server, but no client that it understands.
    #[error(
        "the tmux server on {} (process {pid}) does not understand the installed tmux ({message}), and the tmux that it was started from cannot be run any more; its programs keep running; end it when they may end (tmux kill-server), or install the tmux that it was started from",
        socket.display()
    )]
    Versions {
        /// The server's socket.
        socket: PathBuf,
        /// The server's process id.
        pid: i32,
        /// tmux's message.
        message: String,
    },
    /// The session's name is taken by something else.
    #[error(
        "a tmux session named {0} is there that is not this agent's; rename it (tmux rename-session), or give the agent another `session`"
    )]
    Taken(Name),
    /// tmux is too old.
    #[error("tmux {} or newer is needed; {what} is {found:?}", format_version(OLDEST))]
    TooOld {
        /// Whether that is the installed tmux or the running server.
        what: &'static str,
        /// The version that it reports.
        found: String,
    },
    /// tmux refused.
    #[error("tmux failed to {operation}: {message}")]
    Refused {
        /// The operation.
        operation: &'static str,
        /// tmux's message.
        message: String,
    },
}

/// The shell for windows that operators open.
fn shell_of(account: &Account) -> String {
    if account.refuses_logins() { USUAL_SHELL.to_owned() } else { account.shell.to_string_lossy().into_owned() }
}

fn of_process(pid: Option<i32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

fn format_version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// The handle to the dedicated server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tmux {
    deputy: Deputy,
    socket: PathBuf,
    origin: Origin,
    /// The unit that starts the server, if agentd is to ask for it.
    unit: Option<ServerUnit>,
    /// The user, unless that is the default one.
    owner: Option<Owner>,
    executable: String,
    /// The user's. It is not known while nobody knows the user.
    shell: Arc<Mutex<String>>,
    /// Whether tmux refused the account's shell.
    is_shell_refused: Arc<AtomicBool>,
    /// Whether the server does not understand the installed program.
    is_apart: Arc<AtomicBool>,
    to_close: Arc<ToClose>,
    memory: Arc<Memory>,
    /// When the daemon began to shut down.
    ending: watch::Sender<Option<Instant>>,
    /// Whether the server has not answered since then.
    is_given_up: Arc<AtomicBool>,
    recovered_often: Arc<Brake>,
}

/// What starts the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// agentd starts the server if there is none.
    Own,
    /// Something else, such as a separate systemd unit, which agentd may have to ask for. A server that agentd starts belongs to agentd's unit, with its agents.
    Elsewhere,
}

impl Tmux {
    /// The server at `socket`. `executable` is agentd's own, as the agent user finds it.
    pub fn new(deputy: Deputy, socket: PathBuf, origin: Origin, executable: String, account: &Account) -> Self {
        Self {
            deputy,
            socket,
            origin,
            unit: None,
            owner: None,
            executable,
            shell: Arc::new(Mutex::new(shell_of(account))),
            is_shell_refused: Arc::default(),
            is_apart: Arc::default(),
            to_close: Arc::default(),
            memory: Arc::default(),
            ending: watch::Sender::new(None),
            is_given_up: Arc::default(),
            recovered_often: Arc::default(),
        }
    }

    /// Notes which shell the user has: when the handle was made, that may not have been known.
    pub fn note_shell(&self, account: &Account) {
        *self.shell.lock().unwrap_or_else(PoisonError::into_inner) = shell_of(account);
    }

    fn shell(&self) -> String {
        self.shell.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds what `memory` knows.
    #[must_use]
    pub fn with_memory(self, memory: Memory) -> Self {
        Self { memory: Arc::new(memory), ..self }
    }

    /// Adds the unit that starts the server where agentd does not.
    #[must_use]
    pub fn with_unit(self, unit: ServerUnit) -> Self {
        Self { unit: Some(unit), ..self }
    }

    /// Starts the server, trying again until it runs, and keeps it reachable: checks it at each of the `rounds`, until they end.
    pub async fn keep(&self, mut rounds: watch::Receiver<()>) {
        let (mut pause, mut complaint, brake) = (Duration::from_secs(1), OnChange::default(), Brake::new());
        // In advance: each launch starts the server if necessary.
        while let Err(error) = self.start_server().await {
            if self.is_orphaned().await {
                self.until_owner_is_back(&mut rounds).await;
                if rounds.has_changed().is_err() {
                    return;
                }
                continue;
            }
            let error = error.to_string();
            // The message may come from an impostor, which can vary it each time.
            if complaint.pass(&error)
                && let Some(count) = brake.pass()
            {
                tracing::error!("{error} (complaint {count} so far)");
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let mut tended = None;
        while rounds.changed().await.is_ok() {
            let there = version_at(&self.socket);
            // A server whose socket is in its place is not signaled.
            if there.is_none() || there != tended {
                // A failure here also occurs for the caller that needs the server, and is reported there.
                if self.tend().await.is_err() {
                    self.until_owner_is_back(&mut rounds).await;
                }
                tended = version_at(&self.socket);
            }
        }
    }

    /// Starts the server if none runs and agentd is to start it or to ask for it, and sets it up for agents. Does no harm to a
    /// running one.
    pub async fn start_server(&self) -> Result<(), Error> {
        self.check_version().await?;
        let found = match (self.tend().await?, &self.unit) {
            // While agentd is ending, nobody would stop what is started.
            (Server::None, Some(unit)) if self.origin == Origin::Elsewhere && self.ending.borrow().is_none() => {
                self.start_unit(unit).await?
            }
            (found, _) => found,
        };
        let flags: &[&str] = match found {
            Server::None if self.origin == Origin::Own => &["-f", "/dev/null"],
            Server::None | Server::Serving { .. } | Server::Silent { .. } => &["-N"],
        };
        let mut arguments = Arguments::default();
        arguments.command(&["start-server"]);
        self.set_up(&mut arguments);
        // Existing windows may have any size, such as one that an earlier agentd left to tmux.
        arguments.command(&["run-shell", "-b", &window_size::job(&self.executable, &self.socket)]);
        let output = self.run("start its server", flags, arguments).await?;
        let shared = self.share_socket().await;
        if found == Server::None {
            // Seen before it can lose its socket. The next caller that needs the server reports a failure.
            let _ = self.tend().await;
        }
        match shared {
            // A server that cannot create its socket prints an error, and exits with status 0.
            Err(Error::Refused { .. }) if !output.stderr.is_empty() => {
                Err(Error::Refused { operation: "start its server", message: parse::message(&output.stderr) })
            }
            result => result,
        }
    }

    fn set_up(&self, arguments: &mut Arguments) {
        let hook = format!("if-shell -F {} {}", parse::quote(ALONE_AND_OVER), parse::quote(&self.split_command()));
        arguments.command(&["set-option", "-s", "exit-empty", "off"]);
        // A client's environment is the operator's; agents get theirs from their launcher.
        arguments.command(&["set-option", "-g", "update-environment", ""]);
        arguments.command(&["set-option", "-g", "history-limit", HISTORY_LIMIT]);
        arguments.command(&["set-option", "-g", DEFAULT_SHELL, &self.shell()]);
        arguments.command(&["set-hook", "-g", HOOK, &hook]);
        for words in FOR_AGENTS {
            arguments.command(words);
        }
        let fit = format!("run-shell -b {}", parse::quote(&window_size::job(&self.executable, &self.socket)));
        let fit_for_somebody = format!("if-shell -F {} {}", parse::quote("#{session_attached}"), parse::quote(&fit));
        for (hook, job) in window_size::HOOKS {
            let command = match job {
                window_size::Job::Always => &fit,
                window_size::Job::WhereSomebodyIs => &fit_for_somebody,
            };
            arguments.command(&["set-hook", "-g", hook, command]);
        }
    }

    /// Gives the folder's group access to the server's socket.
    async fn share_socket(&self) -> Result<(), Error> {
        let shared = self.in_time(self.deputy.set_mode(self.socket.clone(), 0o770)).await??;
        shared.map_err(|message| Error::Refused { operation: "share its socket", message })
    }

    /// Finds out what serves at the socket. A server that was seen before recreates a missing socket file.
    async fn tend(&self) -> Result<Server, Error> {
        let asked = self.deputy.server(self.socket.clone(), self.memory.seen());
        let server = self.in_time(asked).await??.map_err(Error::Unknown)?;
        if let Server::Serving { seen: Some(seen), .. } = server {
            self.memory.note(seen);
        }
        if let Server::Serving { pid, recovered: true, .. } = server {
            if let Some(count) = self.recovered_often.pass() {
                let socket = self.socket.display();
                tracing::warn!(
                    "the tmux server (process {pid}) had lost its socket {socket}, and has made it again ({count} so far)"
                );
            }
            self.share_socket().await?;
        }
        Ok(server)
    }

    /// The process id of the server that was seen to serve, if any. The process id of a server that does not answer is unknown.
    pub async fn server_pid(&self) -> Result<Option<i32>, Error> {
        match self.tend().await? {
            Server::Serving { pid, .. } => Ok(Some(pid)),
            Server::None => Ok(None),
            Server::Silent { pid } => Err(Error::Silent { socket: self.socket.clone(), pid }),
        }
    }

    /// Follows which process is the server, from the first that is seen to serve.
    pub fn serving(&self) -> watch::Receiver<Option<Identity>> {
        self.memory.serving()
    }

    /// Shortens all waits for the server from now on: the daemon is shutting down.
    pub fn hurry(&self) {
        self.ending.send_if_modified(|ending| {
            let is_new = ending.is_none();
            ending.get_or_insert_with(Instant::now);
            is_new
        });
    }

    /// Whether the daemon is shutting down, and the server has not answered since.
    pub fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    /// Waits for an answer, but only briefly while the daemon is shutting down.
    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, Error> {
        let silent = || Error::Silent { socket: self.socket.clone(), pid: None };
        if self.is_given_up() {
            return Err(silent());
        }
        let (asked, mut ending) = (Instant::now(), self.ending.subscribe());
        let too_long = async {
            let since = ending.wait_for(Option::is_some).await.ok().and_then(|since| *since);
            match since {
                Some(since) => sleep_until(since.max(asked) + SHUTDOWN_TIMEOUT).await,
                // The last handle is gone.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            answer = answer => Ok(answer),
            () = too_long => {
                self.is_given_up.store(true, Ordering::Relaxed);
                Err(silent())
            }
        }
    }

    /// Makes sure that the server notices the end of a process that it started.
    ///
    /// Usually it notices by itself, but tmux 3.3a sometimes misses an end until another process ends.
    pub async fn see_noticed(&self, ended: Identity) {
        for pause in NOTICE_TIMEOUTS {
            sleep(pause).await;
            if self.is_given_up() {
                return;
            }
            // What cannot be determined now may be determined later.
            if let Ok(None) = ended.unwaited_for_by() {
                return;
            }
            // A reminder that times out does not mean that the server does not answer: sessions still have to be closed.
            let reminded =
                timeout(REMIND_TIMEOUT, self.deputy.remind(self.socket.clone(), self.memory.seen(), ended)).await;
            if let Ok(Ok(Ok(true))) = reminded {
                let pid = ended.pid();
                tracing::debug!("the tmux server had not noticed that process {pid} has ended, and was reminded of it");
            }
        }
    }

    /// Lets the server end once no session is left, an agent's or any other.
    pub async fn release_server(&self) -> Result<(), Error> {
        let mut arguments = Arguments::default();
        arguments.command(&["set-option", "-s", "exit-empty", "on"]);
        match self.client("let its server end", arguments).await {
            Err(Error::NoServer { .. }) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Ends a server that does not answer, if agentd is to end it and no process in it is alive. Returns whether it has ended.
    pub async fn end_server(&self) -> Result<bool, Error> {
        if self.origin == Origin::Elsewhere {
            return Ok(false);
        }
        let ended = timeout(END_SERVER_TIMEOUT, self.deputy.end_server(self.socket.clone())).await;
        ended.map_err(|_| Error::Silent { socket: self.socket.clone(), pid: None })??.map_err(Error::Unknown)
    }

    fn split_command(&self) -> String {
        format!(
            "split-window -c {} {} {}",
            parse::quote("#{@agentd-workdir}"),
            parse::quote(&self.executable),
            crate::launch::SHELL_COMMAND
        )
    }
}

/// Matches a session whose agent has ended for good, and in which no one has opened anything yet.
const ALONE_AND_OVER: &str = "#{&&:#{==:#{@agentd-over},1},#{&&:#{==:#{session_windows},1},#{==:#{window_panes},1}}}";

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::agent::name::key;
    use crate::deputy::Output;
    use crate::deputy::{Reply, Request};

    /// A tmux with sessions of a hundred agents, and the number of clients that were run.
    fn hundred_sessions() -> (Tmux, Arc<AtomicUsize>) {
        let clients = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&clients);
        let deputy = Deputy::of(move |request| {
            let Request::Tmux { arguments, .. } = request else { return None };
            count.fetch_add(1, Ordering::Relaxed);
            let is_listing = arguments.iter().any(|word| word == "list-sessions");
            let sessions = || (0..100).map(|number| format!("${number} agent-{number}")).collect::<Vec<_>>().join("\n");
            let stdout = if is_listing { sessions() } else { String::new() };
            Some(Reply::Tmux(Ok(Output { success: true, stdout, stderr: String::new() })))
        });
        let account = Account::current().unwrap();
        (Tmux::new(deputy, "/no/where".into(), Origin::Elsewhere, String::new(), &account), clients)
    }

    #[tokio::test]
    async fn sessions_closed_at_once_share_their_clients() {
        let (tmux, clients) = hundred_sessions();
        let mut closing = tokio::task::JoinSet::new();
        for number in 0..100 {
            let tmux = tmux.clone();
            closing.spawn(async move { tmux.close(&key(&format!("agent-{number}"))).await });
        }
        for closed in closing.join_all().await {
            closed.unwrap();
        }
        // The first closes alone, all the others together: each time one client to list and one to end.
        assert!(clients.load(Ordering::Relaxed) <= 4, "{clients:?}");
        tmux.close(&key("nobody")).await.unwrap();
    }

    /// A child of this process that has ended and was not reaped.
    fn ended_child() -> (std::process::Child, Identity) {
        let mut ended = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let identity = crate::sys::process::Process::open(ended.id().cast_signed()).unwrap().identity();
        drop(ended.stdin.take());
        while identity.unwaited_for_by().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        (ended, identity)
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_reminded_only_of_an_unnoticed_end() {
        let reminded = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reminded);
        let deputy = Deputy::of(move |request| {
            matches!(request, Request::Remind { .. }).then(|| count.fetch_add(1, Ordering::Relaxed))?;
            Some(Reply::Remind(Ok(true)))
        });
        let account = Account::current().unwrap();
        let tmux = Tmux::new(deputy, "/no/where".into(), Origin::Own, String::new(), &account);
        let (mut ended, identity) = ended_child();
        tmux.see_noticed(identity).await;
        assert_eq!(reminded.load(Ordering::Relaxed), NOTICE_TIMEOUTS.len());
        ended.wait().unwrap();
        tmux.see_noticed(identity).await;
        assert_eq!(reminded.load(Ordering::Relaxed), NOTICE_TIMEOUTS.len());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_reminder_does_not_give_up_the_server() {
        let deputy = Deputy::of_those_who_wait(|request| {
            let Request::Tmux { .. } = request else { return None };
            Some(Reply::Tmux(Ok(Output { success: true, stdout: String::new(), stderr: String::new() })))
        });
        let account = Account::current().unwrap();
        let tmux = Tmux::new(deputy, "/no/where".into(), Origin::Own, String::new(), &account);
        let (mut ended, identity) = ended_child();
        tmux.hurry();
        tmux.see_noticed(identity).await;
        assert!(!tmux.is_given_up());
        tmux.close(&key("agent")).await.unwrap();
        ended.wait().unwrap();
    }
}
