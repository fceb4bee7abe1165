//! tmux: sessions and panes on the dedicated server.
//!
//! Contract: each agent has one session, and in it one pane of its own. The session bears its agent's key in the option
//! `@agentd-owner`, the pane in `@agentd-agent`, and by these marks they are found, right before each use: names are the
//! operators' to change. A session without the agent's mark is somebody else's and is never touched. After the end of an agent
//! its pane stays (`remain-on-exit`), and whoever attaches, or is attached, gets a shell beside it.
//!
//! Every client is run by the [deputy], as the agent user: a hostile server can make its clients run commands.
//! What a client prints is the agent user's word, and hostile input: here it becomes a number or an error, nothing else. Targets
//! are exact (`=NAME:`, `$id` or `%id`), because a bare name matches prefixes (`tmux(1)`, "COMMANDS").
//!
//! A client that reaches no server, or is cut off by it, proves nothing: the deputy looks who listens on the socket. Only where
//! nobody does is there no server, and may one be started; a second one would shut the first out of its socket, with all that runs in
//! it. A server that lost its socket file makes it anew. One of another version, which does not understand the installed client,
//! is spoken to by the program that it was itself started from.

#[cfg(not(fuzzing))]
mod parse;
#[cfg(fuzzing)]
pub mod parse;
pub mod window_size;

mod memory;

pub use memory::Memory;
pub use parse::{Entrance, Pane, PaneEnd};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::parse::Complaint;
use crate::agent::name::Name;
use crate::deputy::{self, Deputy, Output, Program, RunError, Server};
use crate::launch::socket_dir::identity;
use crate::sys::account::Account;
use crate::sys::process::Identity;
use crate::sys::rate_limit::Brake;

/// The oldest tmux whose commands and options are used here.
pub const OLDEST: (u32, u32) = (3, 2);

/// Lines of scrollback in each pane.
const HISTORY_LIMIT: &str = "5000";

/// How long a client may take. A stopped server answers nothing.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest pause between two tries to start the server ahead of time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a server that cuts off its clients may take to be gone, if that is why.
const FAREWELL: Duration = Duration::from_millis(100);

/// How long a client may take once the daemon is ending. A server that has not answered for so long is not asked again. A stop may
/// cost three seconds beyond what the agents take, of which a launcher waits two for the server to take in what was printed.
const HURRIED: Duration = Duration::from_millis(900);

/// How long it may take to end a server that does not answer.
const TO_END_SERVER: Duration = Duration::from_secs(1);

/// How long the server may take to notice that a program has ended, before it is reminded, and reminded again.
const TO_NOTICE: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];

/// How long a reminder may take.
const TO_REMIND: Duration = Duration::from_secs(1);

/// How often a client is started for one thing: by the installed program, by the server's own, and once more when the server
/// made its socket anew.
const TRIES: u32 = 3;

/// How many sessions one client ends: its words fit into a message to the server (`MAX_IMSGSIZE`, 16 KiB).
const MOST_CLOSED: usize = 200;

/// Where tmux's defaults, or somebody's settings for people who sit at it, are wrong for programs that nobody looks at.
const FOR_AGENTS: [&[&str]; 6] = [
    // With the default a new session has the size of somebody's client in another one; so it is born at `default-size`, and `manual`
    // from then on. Were that everybody's, tmux 3.3 to 3.5 would crash at the next birth. See `sizes`.
    &["set-option", "-g", "window-size", "smallest"],
    // Who leaves must not take an agent along.
    &["set-option", "-g", "destroy-unattached", "off"],
    &["set-option", "-s", "exit-unattached", "off"],
    // Harnesses stop at Escape, and say that they want the other two. tmux waits half a second for what may follow an Escape (10 ms
    // from 3.5 on).
    &["set-option", "-s", "escape-time", "10"],
    &["set-option", "-s", "focus-events", "on"],
    &["set-option", "-s", "extended-keys", "on"],
];

/// The option that says what runs in the windows that people open.
const DEFAULT_SHELL: &str = "default-shell";

/// What runs there if the agent user's own shell cannot.
const USUAL_SHELL: &str = "/bin/sh";

/// Our place among the hooks; others keep theirs.
const HOOK: &str = "client-attached[67]";

/// Why tmux did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be asked.
    #[error(transparent)]
    Deputy(#[from] deputy::Error),
    /// It could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There is no server.
    #[error("no tmux server listens on {}: {message}", socket.display())]
    NoServer {
        /// The server's socket.
        socket: PathBuf,
        /// tmux's words.
        message: String,
    },
    /// There is one, and it does not react.
    #[error("the tmux server on {}{} does not answer; it is stopped or overloaded", socket.display(), of_process(*pid))]
    Silent {
        /// The server's socket.
        socket: PathBuf,
        /// The server, where that could be found out.
        pid: Option<i32>,
    },
    /// Whether there is one could not be found out; the reason, for a person.
    #[error("{0}")]
    Unknown(String),
    /// There is one, and no client that it understands.
    #[error(
        "the tmux server on {} (process {pid}) does not understand the installed tmux ({message}), and the tmux that it was started from cannot be run any more; what runs in it goes on; end it when that may end (tmux kill-server), or install the tmux that it was started from",
        socket.display()
    )]
    Versions {
        /// The server's socket.
        socket: PathBuf,
        /// The server.
        pid: i32,
        /// tmux's words.
        message: String,
    },
    /// There is something else where the session should be.
    #[error(
        "a tmux session named {0} is there that is not this agent's; rename it (tmux rename-session), or give the agent another `session`"
    )]
    Taken(Name),
    /// It is too old.
    #[error("tmux {} or newer is needed; {what} is {found:?}", format_version(OLDEST))]
    TooOld {
        /// Which of them: what is installed, or what runs.
        what: &'static str,
        /// What it says it is.
        found: String,
    },
    /// It refused.
    #[error("tmux failed to {operation}: {message}")]
    Refused {
        /// What it was to do.
        operation: &'static str,
        /// tmux's words.
        message: String,
    },
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
    executable: String,
    shell: String,
    /// Whether tmux would not have that.
    is_shell_refused: Arc<AtomicBool>,
    /// Whether the installed program is not understood by the server.
    is_apart: Arc<AtomicBool>,
    to_close: Arc<ToClose>,
    memory: Arc<Memory>,
    /// Since when the daemon is ending.
    ending: watch::Sender<Option<Instant>>,
    /// Whether the server has not answered since.
    is_given_up: Arc<AtomicBool>,
    recovered_often: Arc<Brake>,
}

/// Whose sessions are to be ended.
#[derive(Debug)]
struct ToClose {
    /// Of who ends them.
    turn: Semaphore,
    waiting: Mutex<Vec<Closing>>,
}

/// An agent's, and who waits for it.
#[derive(Debug)]
struct Closing {
    owner: String,
    tell: oneshot::Sender<Result<(), Arc<Error>>>,
}

impl Default for ToClose {
    fn default() -> Self {
        Self { turn: Semaphore::new(1), waiting: Mutex::default() }
    }
}

impl ToClose {
    fn waiting(&self) -> MutexGuard<'_, Vec<Closing>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who starts the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// agentd, where there is none.
    Own,
    /// Somebody else, such as a unit of systemd's of its own: one that agentd started would be in agentd's unit, with its agents.
    Elsewhere,
}

impl Tmux {
    /// The server at `socket`. `executable` is agentd's own, as the agent user finds it.
    pub fn new(deputy: Deputy, socket: PathBuf, origin: Origin, executable: String, account: &Account) -> Self {
        let shell = if account.refuses_logins() {
            USUAL_SHELL.to_owned()
        } else {
            account.shell.to_string_lossy().into_owned()
        };
        Self {
            deputy,
            socket,
            origin,
            executable,
            shell,
            is_shell_refused: Arc::default(),
            is_apart: Arc::default(),
            to_close: Arc::default(),
            memory: Arc::default(),
            ending: watch::Sender::new(None),
            is_given_up: Arc::default(),
            recovered_often: Arc::default(),
        }
    }

    /// The same, which knows what `memory` does.
    #[must_use]
    pub fn with_memory(self, memory: Memory) -> Self {
        Self { memory: Arc::new(memory), ..self }
    }

    /// Starts the server, with patience, and sees to it that it can be reached for as long as it lives: at each of the `rounds`, until
    /// there are none.
    pub async fn keep(&self, mut rounds: watch::Receiver<()>) {
        let (mut pause, mut complaint, brake) = (Duration::from_secs(1), String::new(), Brake::new());
        // Ahead of time; each launch starts the server if it has to.
        while let Err(error) = self.start_server().await {
            let error = error.to_string();
            // Its words can be another's, who has others each time.
            if error != complaint
                && let Some(count) = brake.pass()
            {
                tracing::error!("{error} (complaint {count} so far)");
            }
            complaint = error;
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let mut tended = None;
        while rounds.changed().await.is_ok() {
            let there = identity(&self.socket);
            // Nobody wakes a server whose socket is in its place.
            if there.is_none() || there != tended {
                // Whatever fails here fails whoever needs the server, and is told there.
                let _ = self.tend().await;
                tended = identity(&self.socket);
            }
        }
    }

    /// Starts the server if none runs and that is agentd's to do, and sets it up as agents need it. Does no harm to one that runs.
    pub async fn start_server(&self) -> Result<(), Error> {
        self.check_version().await?;
        let found = self.tend().await?;
        let flags: &[&str] = match found {
            Server::None if self.origin == Origin::Own => &["-f", "/dev/null"],
            Server::None | Server::Serving { .. } | Server::Silent { .. } => &["-N"],
        };
        let mut arguments = Arguments::default();
        arguments.command(&["start-server"]);
        self.set_up(&mut arguments);
        // Windows that are there may have any size, such as one that an earlier agentd left to tmux.
        arguments.command(&["run-shell", "-b", &window_size::job(&self.executable, &self.socket)]);
        let output = self.run("start its server", flags, arguments).await?;
        let shared = self.share_socket().await;
        if found == Server::None {
            // Seen before it can lose its socket. Whoever needs the server next reports a failure.
            let _ = self.tend().await;
        }
        match shared {
            // A server that cannot have its socket complains, and ends as if all were well.
            Err(Error::Refused { .. }) if !output.stderr.is_empty() => {
                Err(Error::Refused { operation: "start its server", message: parse::message(&output.stderr) })
            }
            result => result,
        }
    }

    fn set_up(&self, arguments: &mut Arguments) {
        let hook = format!("if-shell -F {} {}", parse::quote(ALONE_AND_OVER), parse::quote(&self.split_command()));
        arguments.command(&["set-option", "-s", "exit-empty", "off"]);
        // What a client brings along in its environment is the operator's; agents get their own from their launcher.
        arguments.command(&["set-option", "-g", "update-environment", ""]);
        arguments.command(&["set-option", "-g", "history-limit", HISTORY_LIMIT]);
        arguments.command(&["set-option", "-g", DEFAULT_SHELL, &self.shell]);
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

    /// Opens the server's socket to the group that its folder is open to.
    async fn share_socket(&self) -> Result<(), Error> {
        let shared = self.in_time(self.deputy.set_mode(self.socket.clone(), 0o770)).await??;
        shared.map_err(|message| Error::Refused { operation: "share its socket", message })
    }

    /// Looks what there is at the socket. A server that was seen before recreates a lost socket file.
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

    /// The server that was seen to serve, if there is one. Which one a server is that does not answer is not known.
    pub async fn server_pid(&self) -> Result<Option<i32>, Error> {
        match self.tend().await? {
            Server::Serving { pid, .. } => Ok(Some(pid)),
            Server::None => Ok(None),
            Server::Silent { pid } => Err(Error::Silent { socket: self.socket.clone(), pid }),
        }
    }

    /// From now on nobody waits long for the server: the daemon is ending.
    pub fn hurry(&self) {
        self.ending.send_if_modified(|ending| {
            let is_new = ending.is_none();
            ending.get_or_insert_with(Instant::now);
            is_new
        });
    }

    /// Whether the daemon is ending, and the server has not answered since.
    pub fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    /// Waits for an answer, though not for long when the daemon is ending.
    async fn in_time<T>(&self, answer: impl Future<Output = T>) -> Result<T, Error> {
        let silent = || Error::Silent { socket: self.socket.clone(), pid: None };
        if self.is_given_up() {
            return Err(silent());
        }
        let (asked, mut ending) = (Instant::now(), self.ending.subscribe());
        let too_long = async {
            let since = ending.wait_for(Option::is_some).await.ok().and_then(|since| *since);
            match since {
                Some(since) => sleep_until(since.max(asked) + HURRIED).await,
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

    /// Runs `command` as that agent in its session, in the pane where it ran before if there is one, and answers with the
    /// process id that tmux gives for it. Whatever runs in that pane is hung up. A session that was renamed gets its name back.
    pub async fn open(&self, owner: &str, session: &Name, workdir: &Path, command: &[String]) -> Result<i32, Error> {
        let found = match self.sessions_of(owner).await {
            Err(Error::NoServer { .. }) => {
                self.start_server().await?;
                Vec::new()
            }
            found => found?,
        };
        let opened = match found.first() {
            Some(found) => self.reopen(found, owner, session, workdir, command).await,
            None => self.create(owner, session, workdir, command).await,
        };
        match opened {
            Err(Error::Refused { message, .. }) if message.starts_with("duplicate session") => {
                Err(Error::Taken(session.clone()))
            }
            result => result,
        }
    }

    async fn create(&self, owner: &str, session: &Name, workdir: &Path, command: &[String]) -> Result<i32, Error> {
        let directory = workdir.to_string_lossy();
        let mut arguments = Arguments::default();
        // This may be another server than the one that was set up at the start.
        self.set_up(&mut arguments);
        let name = session.as_str();
        arguments.command_with(
            &[
                "new-session",
                "-d",
                "-s",
                name,
                "-n",
                name,
                "-c",
                &parse::escape_format(&directory),
                "-P",
                "-F",
                PANE_PID,
            ],
            command,
        );
        let target = format!("={session}:");
        mark(&mut arguments, owner, &target, &target, &directory);
        let output = self.client("open a session", arguments).await?;
        self.share_socket().await?;
        pid(&output.stdout)
    }

    async fn reopen(
        &self,
        found: &parse::Session,
        owner: &str,
        session: &Name,
        workdir: &Path,
        command: &[String],
    ) -> Result<i32, Error> {
        let target = format!("{}:", found.id);
        let directory = workdir.to_string_lossy();
        let mut arguments = Arguments::default();
        arguments.command(&["rename-session", "-t", &target, session.as_str()]);
        let pane = if let Some(pane) = &found.pane {
            // A reset scrolls what is on the screen into the history; respawning alone would wipe it.
            arguments.command(&["send-keys", "-R", "-t", pane]);
            let respawn = ["respawn-pane", "-k", "-t", pane, "-c", &parse::escape_format(&directory)];
            arguments.command_with(&respawn, command);
            pane
        } else {
            // An operator closed the agent's pane but keeps the session, or it is of no use.
            let window = ["new-window", "-t", &target, "-n", session.as_str(), "-c", &parse::escape_format(&directory)];
            arguments.command_with(&window, command);
            &target
        };
        mark(&mut arguments, owner, &target, pane, &directory);
        for wreck in &found.wrecks {
            arguments.command(&["kill-pane", "-t", wreck]);
        }
        arguments.command(&["display-message", "-p", "-t", pane, PANE_PID]);
        let output = self.client("start the agent again in its session", arguments).await?;
        pid(&output.stdout)
    }

    /// Tells tmux that the agent has ended for good: a shell opens beside its pane for whoever is or will be attached.
    pub async fn offer_shell(&self, owner: &str) -> Result<(), Error> {
        for session in self.sessions_of(owner).await? {
            let target = format!("{}:", session.id);
            let mut arguments = Arguments::default();
            arguments.command(&["set-option", "-t", &target, "@agentd-over", "1"]);
            let attached = format!("#{{&&:#{{session_attached}},{ALONE_AND_OVER}}}");
            arguments.command(&["if-shell", "-F", "-t", &target, &attached, &self.split_command()]);
            self.client("offer a shell", arguments).await?;
        }
        Ok(())
    }

    /// Ends the agent's session. One that is not there, with or without its server, is ended. Those who ask while others are seen to
    /// share what that takes.
    pub async fn close(&self, owner: &str) -> Result<(), Arc<Error>> {
        let (tell, told) = oneshot::channel();
        self.to_close.waiting().push(Closing { owner: owner.to_owned(), tell });
        // Never closed.
        let turn = self.to_close.turn.acquire().await;
        let waiting = std::mem::take(&mut *self.to_close.waiting());
        if !waiting.is_empty() {
            let owners = waiting.iter().map(|closing| closing.owner.clone()).collect();
            let closed = self.close_all(&owners).await.map_err(Arc::new);
            for closing in waiting {
                // Who has stopped waiting need not know.
                let _ = closing.tell.send(closed.clone());
            }
        }
        drop(turn);
        // Whoever took this one along was cut off.
        told.await.unwrap_or_else(|_| Err(Arc::new(Error::Deputy(deputy::Error::Gone))))
    }

    async fn close_all(&self, owners: &BTreeSet<String>) -> Result<(), Error> {
        let mut listing = Arguments::default();
        listing.command(&["list-sessions", "-F", parse::OWNED_FORMAT]);
        let sessions = match self.client("find sessions", listing).await {
            Err(Error::NoServer { .. }) => return Ok(()),
            output => parse::owned(&output?.stdout),
        };
        let ids: Vec<_> = sessions.into_iter().filter(|(owner, _)| owners.contains(owner)).map(|(_, id)| id).collect();
        for ids in ids.chunks(MOST_CLOSED) {
            // One that has gone meanwhile keeps tmux from the rest.
            if self.kill_sessions(ids).await.is_err() {
                for id in ids {
                    self.kill_sessions(std::slice::from_ref(id)).await?;
                }
            }
        }
        Ok(())
    }

    async fn kill_sessions(&self, ids: &[String]) -> Result<(), Error> {
        let mut arguments = Arguments::default();
        for id in ids {
            arguments.command(&["kill-session", "-t", id]);
        }
        match self.client("end sessions", arguments).await {
            Err(Error::NoServer { .. }) => Ok(()),
            Err(Error::Refused { message, .. }) if ids.len() == 1 && message.starts_with("can't find session") => {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// What is on the screen of the agent's own pane, row by row and with its colours: see [`screen`](crate::text::screen).
    pub async fn screen(&self, owner: &str) -> Result<String, Error> {
        let sessions = self.sessions_of(owner).await?;
        let pane = sessions.iter().find_map(|session| session.pane.as_ref()).ok_or_else(|| Error::Refused {
            operation: "show a screen",
            message: "the agent has no pane".to_owned(),
        })?;
        let mut arguments = Arguments::default();
        arguments.command(&["capture-pane", "-p", "-e", "-t", pane]);
        Ok(self.client("show a screen", arguments).await?.stdout)
    }

    /// The panes that bear the agent's mark: one, unless an operator made it otherwise.
    pub async fn panes(&self, owner: &str) -> Result<Vec<Pane>, Error> {
        let is_marked = format!("#{{==:#{{@agentd-agent}},{owner}}}");
        let mut listing = Arguments::default();
        listing.command(&["list-panes", "-a", "-f", &is_marked, "-F", parse::PANE_FORMAT]);
        match self.client("list panes", listing).await {
            // It has no target where there is no session.
            Err(Error::Refused { message, .. }) if message.starts_with("no current target") => Ok(Vec::new()),
            output => Ok(parse::panes(&output?.stdout)),
        }
    }

    /// Whose sessions there are: the keys of agents, without those that are none.
    pub async fn owners(&self) -> Result<BTreeSet<String>, Error> {
        let mut listing = Arguments::default();
        listing.command(&["list-sessions", "-F", "#{@agentd-owner}"]);
        match self.client("list sessions", listing).await {
            Err(Error::NoServer { .. }) => Ok(BTreeSet::new()),
            output => Ok(parse::owners(&output?.stdout)),
        }
    }

    /// The agent's session as somebody enters it; `None` while there is none.
    pub async fn entrance(&self, owner: &str) -> Result<Option<Entrance>, Error> {
        let is_marked = format!("#{{==:#{{@agentd-owner}},{owner}}}");
        let mut listing = Arguments::default();
        listing.command(&["list-sessions", "-f", &is_marked, "-F", parse::ENTRANCE_FORMAT]);
        match self.client("find a session", listing).await {
            Err(Error::NoServer { .. }) => Ok(None),
            output => Ok(parse::entrance(&output?.stdout)),
        }
    }

    /// The client that enters there: which tmux the server was last understood by, and its arguments. One that only looks on
    /// (`is_read_only`) gets no key through but those that end it, and leaves the size of the session to others. `notice` stands in
    /// the status line at first. `features` is what the terminal has beyond what its description says.
    pub fn entering(
        &self,
        entrance: &Entrance,
        is_read_only: bool,
        features: Option<&str>,
        notice: &str,
    ) -> (Program, Vec<String>) {
        const LONG_ENOUGH: &str = "4000";
        let target = ["attach-session", "-t", &entrance.id];
        let mut arguments = Arguments::default();
        arguments.command(&[&target[..], if is_read_only { &["-r"] } else { &[] }].concat());
        // Not for what comes after a `%`, see `strftime(3)`: both are keys as well.
        let notice = parse::escape_format(notice).replace('%', "%%");
        arguments.command(&["display-message", "-d", LONG_ENOUGH, &notice]);
        let flags: Vec<&str> = features.iter().flat_map(|features| ["-T", features]).chain(["-N"]).collect();
        (self.program(), self.words(&flags, arguments))
    }

    /// A client that only sees whether it could enter there. On a terminal that it has no description of it fails.
    pub fn looking(&self, entrance: &Entrance) -> (Program, Vec<String>) {
        let mut arguments = Arguments::default();
        arguments.command(&["has-session", "-t", &entrance.id]);
        (self.program(), self.words(&["-N"], arguments))
    }

    /// The sessions that bear the agent's mark, each with the panes that do: one of each, unless an operator made it otherwise.
    ///
    /// A pane in which tmux could not start anything has no process, and none can be started in it again: the server would crash
    /// (3.2 to 3.7 do).
    async fn sessions_of(&self, owner: &str) -> Result<Vec<parse::Session>, Error> {
        let is_marked = format!("#{{==:#{{@agentd-owner}},{owner}}}");
        // Not list-panes, which fails on a server without any session.
        let pane = "#{?#{==:#{pane_pid},-1},!,}#{pane_id}";
        let ids = format!("#{{session_id}}#{{W:#{{P:#{{?#{{==:#{{@agentd-agent}},{owner}}}, {pane},}}}}}}");
        let mut listing = Arguments::default();
        listing.command(&["list-sessions", "-f", &is_marked, "-F", &ids]);
        Ok(parse::sessions(&self.client("find a session", listing).await?.stdout))
    }

    /// Sees to it that the server notices the end of a process that it has started. It mostly does so by itself; tmux 3.3a misses one
    /// now and then, until another ends.
    pub async fn see_noticed(&self, ended: Identity) {
        for pause in TO_NOTICE {
            sleep(pause).await;
            if self.is_given_up() {
                return;
            }
            // What cannot be found out now may be found out later.
            if let Ok(None) = ended.unwaited_for_by() {
                return;
            }
            // One that has no answer in time says nothing of whether the server answers: sessions are yet to be closed.
            let reminded = timeout(TO_REMIND, self.deputy.remind(self.socket.clone(), self.memory.seen(), ended)).await;
            if let Ok(Ok(Ok(true))) = reminded {
                let pid = ended.pid();
                tracing::debug!("the tmux server had not noticed that process {pid} has ended, and was reminded of it");
            }
        }
    }

    /// Lets the server end once no session is left, ours or anybody's.
    pub async fn release_server(&self) -> Result<(), Error> {
        let mut arguments = Arguments::default();
        arguments.command(&["set-option", "-s", "exit-empty", "on"]);
        match self.client("let its server end", arguments).await {
            Err(Error::NoServer { .. }) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Ends a server that does not answer, if it is ours to end and nothing lives in it. Answers whether it has ended.
    pub async fn end_server(&self) -> Result<bool, Error> {
        if self.origin == Origin::Elsewhere {
            return Ok(false);
        }
        let ended = timeout(TO_END_SERVER, self.deputy.end_server(self.socket.clone())).await;
        ended.map_err(|_| Error::Silent { socket: self.socket.clone(), pid: None })??.map_err(Error::Unknown)
    }

    async fn check_version(&self) -> Result<(), Error> {
        let output = self.deputy.tmux(Program::Installed, vec!["-V".to_owned()], TIMEOUT).await??;
        judge_version("what is installed", &output.stdout)
    }

    /// Why tmux does not know what it is asked for.
    async fn check_versions(&self) -> Result<(), Error> {
        self.check_version().await?;
        let mut arguments = Arguments::default();
        arguments.command(&["display-message", "-p", "tmux #{version}"]);
        match self.ask(self.program(), self.words(&["-N"], arguments)).await {
            Ok(Answer::Done(output)) => judge_version("the server that runs", &output.stdout),
            // The complaint that led here says more than another.
            _ => Ok(()),
        }
    }

    fn split_command(&self) -> String {
        format!(
            "split-window -c {} {} {}",
            parse::quote("#{@agentd-workdir}"),
            parse::quote(&self.executable),
            crate::launch::SHELL_COMMAND
        )
    }

    /// Runs a client that never starts a server by itself: a server keeps the command line that started it.
    async fn client(&self, operation: &'static str, arguments: Arguments) -> Result<Output, Error> {
        self.run(operation, &["-N"], arguments).await
    }

    async fn run(&self, operation: &'static str, flags: &[&str], arguments: Arguments) -> Result<Output, Error> {
        let mut words = self.words(flags, arguments);
        // A client of the server's own program cannot start one.
        let mut program = if flags.contains(&"-N") { self.program() } else { Program::Installed };
        let mut tries = TRIES;
        loop {
            let (complaint, message) = match self.ask(program.clone(), words.clone()).await {
                Ok(Answer::Done(output)) => {
                    self.note_program(&program);
                    return Ok(output);
                }
                // Found out each time: it may be there again.
                Ok(Answer::Complaint(Complaint::Request, message))
                    if parse::is_about_shell(&message) && stand_in_for_shell(&mut words) =>
                {
                    if !self.is_shell_refused.swap(true, Ordering::Relaxed) {
                        tracing::warn!("tmux: {message}; its windows get {USUAL_SHELL} in its place");
                    }
                    continue;
                }
                Ok(Answer::Complaint(Complaint::Request, message)) => {
                    if parse::is_about_words(&message) {
                        self.check_versions().await?;
                    }
                    return Err(Error::Refused { operation, message });
                }
                Ok(Answer::Complaint(complaint, message)) => (complaint, message),
                // The server has ended, or what it was started from cannot be started again.
                Err(Error::Run(error)) if program != Program::Installed => (Complaint::NotReached, error.to_string()),
                Err(error) => return Err(error),
            };
            tries -= 1;
            program = match self.tend().await? {
                // The next one is started from what is installed.
                Server::None if program != Program::Installed => {
                    self.note_program(&Program::Installed);
                    Program::Installed
                }
                Server::None => return Err(Error::NoServer { socket: self.socket.clone(), message }),
                Server::Silent { pid } => return Err(Error::Silent { socket: self.socket.clone(), pid }),
                Server::Serving { pid, is_installed: false, .. } if tries == 0 => {
                    return Err(Error::Versions { socket: self.socket.clone(), pid, message });
                }
                Server::Serving { .. } if tries == 0 => return Err(Error::Refused { operation, message }),
                Server::Serving { is_installed: false, .. }
                    if complaint == Complaint::CutOff
                        && program == Program::Installed
                        && !self.understands_installed().await? =>
                {
                    Program::OfServer(self.socket.clone())
                }
                // What it was asked may have been done: it must not be done twice.
                Server::Serving { .. } if complaint == Complaint::CutOff => {
                    sleep(FAREWELL).await;
                    return Err(match self.tend().await? {
                        Server::None => Error::NoServer { socket: self.socket.clone(), message },
                        Server::Serving { pid, is_installed: false, .. } => {
                            Error::Versions { socket: self.socket.clone(), pid, message }
                        }
                        Server::Serving { .. } | Server::Silent { .. } => Error::Refused { operation, message },
                    });
                }
                Server::Serving { .. } => Program::Installed,
            };
        }
    }

    /// Whether the server answers a client of the installed program at all.
    async fn understands_installed(&self) -> Result<bool, Error> {
        let mut question = Arguments::default();
        question.command(&["display-message", "-p", "#{pid}"]);
        let answer = self.ask(Program::Installed, self.words(&["-N"], question)).await?;
        Ok(!matches!(answer, Answer::Complaint(Complaint::CutOff | Complaint::NotReached, _)))
    }

    fn words(&self, flags: &[&str], arguments: Arguments) -> Vec<String> {
        let mut words: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        words.extend(["-S".to_owned(), self.socket.to_string_lossy().into_owned()]);
        words.extend(arguments.0);
        words
    }

    /// Runs one client.
    async fn ask(&self, program: Program, words: Vec<String>) -> Result<Answer, Error> {
        match self.in_time(self.deputy.tmux(program, words, TIMEOUT)).await?? {
            Ok(output) if output.success => Ok(Answer::Done(output)),
            Ok(output) => {
                let message = parse::message(&output.stderr);
                Ok(Answer::Complaint(parse::complaint(&message), message))
            }
            Err(RunError::TimedOut { .. }) => Err(Error::Silent { socket: self.socket.clone(), pid: None }),
            Err(error) => Err(error.into()),
        }
    }

    /// What the server was last understood by.
    fn program(&self) -> Program {
        if self.is_apart.load(Ordering::Relaxed) { Program::OfServer(self.socket.clone()) } else { Program::Installed }
    }

    fn note_program(&self, program: &Program) {
        let is_apart = *program != Program::Installed;
        if is_apart && !self.is_apart.swap(is_apart, Ordering::Relaxed) {
            // A server can feign this as often as it likes.
            static BRAKE: Brake = Brake::new();
            if BRAKE.pass().is_none() {
                self.is_apart.store(is_apart, Ordering::Relaxed);
                return;
            }
            tracing::warn!(
                "the tmux server on {} does not understand the installed tmux, and is spoken to by the one that it was started from; to have the installed one, end the server when what runs in it may end (tmux kill-server)",
                self.socket.display()
            );
        }
        self.is_apart.store(is_apart, Ordering::Relaxed);
    }
}

/// Has a client make do with the usual shell; answers whether it was to have another.
fn stand_in_for_shell(words: &mut [String]) -> bool {
    let at = words.iter().position(|word| word == DEFAULT_SHELL).map(|at| at + 1);
    let shell = at.and_then(|at| words.get_mut(at)).filter(|shell| *shell != USUAL_SHELL);
    shell.map(|shell| USUAL_SHELL.clone_into(shell)).is_some()
}

/// What a client that ran to its end says.
enum Answer {
    Done(Output),
    Complaint(Complaint, String),
}

/// One that does not say its version, such as a build of a branch, is given a try.
pub(crate) fn judge_version(what: &'static str, printed: &str) -> Result<(), Error> {
    match parse::version(printed) {
        Some(version) if version < OLDEST => Err(Error::TooOld { what, found: parse::message(printed) }),
        _ => Ok(()),
    }
}

const PANE_PID: &str = "#{pane_pid}";

/// True of a session whose agent has ended for good and in which nobody has opened anything yet.
const ALONE_AND_OVER: &str = "#{&&:#{==:#{@agentd-over},1},#{&&:#{==:#{session_windows},1},#{==:#{window_panes},1}}}";

/// Marks both as the agent's. `session` and `pane` are targets.
fn mark(arguments: &mut Arguments, owner: &str, session: &str, pane: &str, directory: &str) {
    arguments.command(&["set-option", "-t", session, "@agentd-owner", owner]);
    arguments.command(&["set-option", "-p", "-t", pane, "@agentd-agent", owner]);
    arguments.command(&["set-option", "-w", "-t", pane, "window-size", "manual"]);
    arguments.command(&["set-option", "-p", "-t", pane, "remain-on-exit", "on"]);
    // Of its own accord tmux scrolls the screen to tell of the end; the launcher has told already. Unknown before tmux 3.3.
    arguments.command(&["set-option", "-q", "-p", "-t", pane, "remain-on-exit-format", ""]);
    arguments.command(&["set-option", "-t", session, "@agentd-workdir", directory]);
    arguments.command(&["set-option", "-q", "-u", "-t", session, "@agentd-over"]);
}

fn pid(stdout: &str) -> Result<i32, Error> {
    stdout.trim().parse().ok().filter(|&pid| pid > 1).ok_or_else(|| Error::Refused {
        operation: "tell the process it started",
        message: format!("it printed {:?}", parse::message(stdout)),
    })
}

/// A client's argument list: several commands, run one after the other.
#[derive(Debug, Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn command(&mut self, words: &[&str]) {
        self.command_with(words, &[]);
    }

    fn command_with(&mut self, words: &[&str], more: &[String]) {
        if !self.0.is_empty() {
            self.0.push(";".to_owned());
        }
        self.0.extend(words.iter().copied().chain(more.iter().map(String::as_str)).map(parse::escape_argument));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::deputy::{Reply, Request};

    /// A tmux that has sessions of a hundred agents, and the number of clients that were run.
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
    async fn those_who_close_their_sessions_at_a_time_share_the_clients_that_it_takes() {
        let (tmux, clients) = hundred_sessions();
        let mut closing = tokio::task::JoinSet::new();
        for number in 0..100 {
            let tmux = tmux.clone();
            closing.spawn(async move { tmux.close(&format!("agent-{number}")).await });
        }
        for closed in closing.join_all().await {
            closed.unwrap();
        }
        // The first goes alone, and all the others together: to list and to end, each time.
        assert!(clients.load(Ordering::Relaxed) <= 4, "{clients:?}");
        tmux.close("nobody").await.unwrap();
    }

    /// A process whose parent this one is, and has yet to wait for it.
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
    async fn a_server_is_reminded_only_of_an_end_that_it_has_not_noticed() {
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
        assert_eq!(reminded.load(Ordering::Relaxed), TO_NOTICE.len());
        ended.wait().unwrap();
        tmux.see_noticed(identity).await;
        assert_eq!(reminded.load(Ordering::Relaxed), TO_NOTICE.len());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_reminder_does_not_give_the_server_up() {
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
        tmux.close("agent").await.unwrap();
        ended.wait().unwrap();
    }
}
