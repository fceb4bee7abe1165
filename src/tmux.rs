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

#[cfg(not(fuzzing))]
mod parse;
#[cfg(fuzzing)]
pub mod parse;

pub use parse::{Pane, PaneEnd};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::account::Account;
use crate::config::Name;
use crate::deputy::{self, Deputy, Output, RunError};

/// The oldest tmux whose commands and options are used here.
pub const OLDEST: (u32, u32) = (3, 2);

/// Lines of scrollback in each pane.
const HISTORY_LIMIT: &str = "5000";

/// How long a client may take. A stopped server answers nothing.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Our place among the hooks; others keep theirs.
const HOOK: &str = "client-attached[67]";

/// Why tmux did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be asked.
    #[error(transparent)]
    Deputy(#[from] deputy::Error),
    /// It could not be run, or did not answer.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There is no server.
    #[error("no tmux server answers on {}: {message}", socket.display())]
    NoServer {
        /// The server's socket.
        socket: PathBuf,
        /// tmux's words.
        message: String,
    },
    /// There is something else where the session should be.
    #[error(
        "a tmux session named {0} is there that is not this agent's; rename it (tmux rename-session), or give the agent another `session`"
    )]
    Taken(Name),
    /// It is too old.
    #[error("tmux {} or newer is needed, this is {found:?}", format_version(OLDEST))]
    TooOld {
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

fn format_version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// The handle to the dedicated server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tmux {
    deputy: Deputy,
    socket: PathBuf,
    executable: String,
    shell: String,
}

impl Tmux {
    /// The server at `socket`. `executable` is agentd's own, as the agent user finds it.
    pub fn new(deputy: Deputy, socket: PathBuf, executable: String, account: &Account) -> Self {
        let shell =
            if account.refuses_logins() { "/bin/sh".to_owned() } else { account.shell.to_string_lossy().into_owned() };
        Self { deputy, socket, executable, shell }
    }

    /// Starts the server if none runs, and sets it up as agents need it. Does no harm to one that runs.
    pub async fn start_server(&self) -> Result<(), Error> {
        self.check_version().await?;
        let hook = format!("if-shell -F {} {}", parse::quote(ALONE_AND_OVER), parse::quote(&self.split_command()));
        let mut arguments = Arguments::default();
        arguments.command(&["start-server"]);
        arguments.command(&["set-option", "-s", "exit-empty", "off"]);
        // What a client brings along in its environment is the operator's; agents get their own from their launcher.
        arguments.command(&["set-option", "-g", "update-environment", ""]);
        arguments.command(&["set-option", "-g", "history-limit", HISTORY_LIMIT]);
        arguments.command(&["set-option", "-g", "default-shell", &self.shell]);
        arguments.command(&["set-hook", "-g", HOOK, &hook]);
        self.run("start its server", &["-f", "/dev/null"], arguments).await?;
        let shared = self.deputy.set_mode(self.socket.clone(), 0o770).await?;
        shared.map_err(|message| Error::Refused { operation: "share its socket", message })
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
        let pane = if let Some(pane) = found.panes.first() {
            // A reset scrolls what is on the screen into the history; respawning alone would wipe it.
            arguments.command(&["send-keys", "-R", "-t", pane]);
            let respawn = ["respawn-pane", "-k", "-t", pane, "-c", &parse::escape_format(&directory)];
            arguments.command_with(&respawn, command);
            pane
        } else {
            // An operator closed the agent's pane but keeps the session.
            let window = ["new-window", "-t", &target, "-n", session.as_str(), "-c", &parse::escape_format(&directory)];
            arguments.command_with(&window, command);
            &target
        };
        mark(&mut arguments, owner, &target, pane, &directory);
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

    /// Ends the agent's session. One that is not there, with or without its server, is ended.
    pub async fn close(&self, owner: &str) -> Result<(), Error> {
        let sessions = match self.sessions_of(owner).await {
            Err(Error::NoServer { .. }) => return Ok(()),
            sessions => sessions?,
        };
        for session in sessions {
            let mut arguments = Arguments::default();
            arguments.command(&["kill-session", "-t", &session.id]);
            match self.client("end a session", arguments).await {
                Err(Error::NoServer { .. }) => {}
                Err(Error::Refused { message, .. }) if message.starts_with("can't find session") => {}
                result => drop(result?),
            }
        }
        Ok(())
    }

    /// What is on the screen of the agent's own pane.
    pub async fn screen(&self, owner: &str) -> Result<String, Error> {
        let sessions = self.sessions_of(owner).await?;
        let pane = sessions.iter().find_map(|session| session.panes.first()).ok_or_else(|| Error::Refused {
            operation: "show a screen",
            message: "the agent has no pane".to_owned(),
        })?;
        let mut arguments = Arguments::default();
        // Wrapped lines joined: who looks for something in them must find it.
        arguments.command(&["capture-pane", "-p", "-J", "-t", pane]);
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

    /// The sessions that bear the agent's mark, each with the panes that do: one each, unless an operator made it otherwise.
    async fn sessions_of(&self, owner: &str) -> Result<Vec<parse::Session>, Error> {
        let is_marked = format!("#{{==:#{{@agentd-owner}},{owner}}}");
        // Not list-panes, which fails on a server without any session.
        let ids = format!("#{{session_id}}#{{W:#{{P:#{{?#{{==:#{{@agentd-agent}},{owner}}}, #{{pane_id}},}}}}}}");
        let mut listing = Arguments::default();
        listing.command(&["list-sessions", "-f", &is_marked, "-F", &ids]);
        Ok(parse::sessions(&self.client("find a session", listing).await?.stdout))
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

    async fn check_version(&self) -> Result<(), Error> {
        let output = self.deputy.tmux(vec!["-V".to_owned()], TIMEOUT).await??;
        match parse::version(&output.stdout) {
            // One that does not say, such as a build of a branch, is given a try.
            None => Ok(()),
            Some(version) if version >= OLDEST => Ok(()),
            Some(_) => Err(Error::TooOld { found: output.stdout.trim().to_owned() }),
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
        let mut all: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        all.extend(["-S".to_owned(), self.socket.to_string_lossy().into_owned()]);
        all.extend(arguments.0);
        let output = self.deputy.tmux(all, TIMEOUT).await??;
        if output.success {
            return Ok(output);
        }
        let message = parse::message(&output.stderr);
        Err(if parse::means_no_server(&message) {
            Error::NoServer { socket: self.socket.clone(), message }
        } else {
            Error::Refused { operation, message }
        })
    }
}

const PANE_PID: &str = "#{pane_pid}";

/// True of a session whose agent has ended for good and in which nobody has opened anything yet.
const ALONE_AND_OVER: &str = "#{&&:#{==:#{@agentd-over},1},#{&&:#{==:#{session_windows},1},#{==:#{window_panes},1}}}";

/// Marks both as the agent's. `session` and `pane` are targets.
fn mark(arguments: &mut Arguments, owner: &str, session: &str, pane: &str, directory: &str) {
    arguments.command(&["set-option", "-t", session, "@agentd-owner", owner]);
    arguments.command(&["set-option", "-p", "-t", pane, "@agentd-agent", owner]);
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
