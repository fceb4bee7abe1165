//! Opens, finds, captures and closes the sessions and panes of agents.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use super::client::Arguments;
use super::parse::{self, Entrance, Pane};
use super::{ALONE_AND_OVER, Error, Tmux};
use crate::agent::harness::rule::{Finding, Rule};
use crate::agent::name::{Key, Name};
use crate::deputy::screen::Reading;
use crate::deputy::{self, Program};

/// The sessions waiting to be closed.
#[derive(Debug)]
pub(super) struct ToClose {
    /// Held by the caller that closes them.
    turn: Semaphore,
    waiting: Mutex<Vec<Closing>>,
}

/// An agent whose session is to be closed, and the caller that waits for it.
#[derive(Debug)]
struct Closing {
    owner: Key,
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

/// Marks both as the agent's. `session` and `pane` are targets.
fn mark(arguments: &mut Arguments, owner: &Key, session: &str, pane: &str, directory: &str) {
    arguments.command(&["set-option", "-t", session, "@agentd-owner", owner.as_str()]);
    arguments.command(&["set-option", "-p", "-t", pane, "@agentd-agent", owner.as_str()]);
    arguments.command(&["set-option", "-w", "-t", pane, "window-size", "manual"]);
    arguments.command(&["set-option", "-p", "-t", pane, "remain-on-exit", "on"]);
    // Otherwise tmux scrolls the screen to report the end; the launcher has already reported it. Unknown before tmux 3.3.
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

const PANE_PID: &str = "#{pane_pid}";

/// How many sessions one client closes: its arguments must fit into a message to the server (`MAX_IMSGSIZE`, 16 KiB).
const MOST_CLOSED: usize = 200;

impl Tmux {
    /// Runs `command` as that agent in its session, in its former pane if there is one, and returns the process id that tmux
    /// reports.
    ///
    /// Whatever runs in that pane is hung up. A session that was renamed gets its name back.
    pub async fn open(&self, owner: &Key, session: &Name, workdir: &Path, command: &[String]) -> Result<i32, Error> {
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

    async fn create(&self, owner: &Key, session: &Name, workdir: &Path, command: &[String]) -> Result<i32, Error> {
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
        owner: &Key,
        session: &Name,
        workdir: &Path,
        command: &[String],
    ) -> Result<i32, Error> {
        let target = format!("{}:", found.id);
        let directory = workdir.to_string_lossy();
        let mut arguments = Arguments::default();
        arguments.command(&["rename-session", "-t", &target, session.as_str()]);
        let pane = if let Some(pane) = &found.pane {
            // A reset scrolls the screen's content into the history; respawning alone would erase it.
            arguments.command(&["send-keys", "-R", "-t", pane]);
            let respawn = ["respawn-pane", "-k", "-t", pane, "-c", &parse::escape_format(&directory)];
            arguments.command_with(&respawn, command);
            pane
        } else {
            // An operator closed the agent's pane but keeps the session, or the pane is unusable.
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

    /// Marks in tmux that the agent has ended for good: a shell opens beside its pane for every operator who is or will be
    /// attached.
    pub async fn offer_shell(&self, owner: &Key) -> Result<(), Error> {
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

    /// Closes the agent's session.
    ///
    /// A session that does not exist, with or without its server, counts as closed. Concurrent callers share the work.
    pub async fn close(&self, owner: &Key) -> Result<(), Arc<Error>> {
        let (tell, told) = oneshot::channel();
        self.to_close.waiting().push(Closing { owner: owner.clone(), tell });
        // The semaphore is never closed.
        let turn = self.to_close.turn.acquire().await;
        let waiting = std::mem::take(&mut *self.to_close.waiting());
        if !waiting.is_empty() {
            let owners = waiting.iter().map(|closing| closing.owner.clone()).collect();
            let closed = self.close_all(&owners).await.map_err(Arc::new);
            for closing in waiting {
                // A caller that has stopped waiting does not need the result.
                let _ = closing.tell.send(closed.clone());
            }
        }
        drop(turn);
        // The caller that took this one along was canceled.
        told.await.unwrap_or_else(|_| Err(Arc::new(Error::Deputy(deputy::Error::Gone))))
    }

    async fn close_all(&self, owners: &BTreeSet<Key>) -> Result<(), Error> {
        let mut listing = Arguments::default();
        listing.command(&["list-sessions", "-F", parse::OWNED_FORMAT]);
        let sessions = match self.client("find sessions", listing).await {
            Err(Error::NoServer { .. }) => return Ok(()),
            output => parse::owned(&output?.stdout),
        };
        let ids: Vec<_> = sessions.into_iter().filter(|(owner, _)| owners.contains(owner)).map(|(_, id)| id).collect();
        for ids in ids.chunks(MOST_CLOSED) {
            // A session that has gone meanwhile stops tmux from closing the rest.
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

    /// The screen of the agent's pane, row by row and with its colors: see [`screen`](crate::text::screen).
    pub async fn screen(&self, owner: &Key) -> Result<String, Error> {
        let sessions = self.sessions_of(owner).await?;
        let pane = sessions.iter().find_map(|session| session.pane.as_ref()).ok_or_else(|| Error::Refused {
            operation: "show a screen",
            message: "the agent has no pane".to_owned(),
        })?;
        let mut arguments = Arguments::default();
        arguments.command(&["capture-pane", "-p", "-e", "-t", pane]);
        Ok(self.client("show a screen", arguments).await?.stdout)
    }

    /// Looks for rules in what an agent printed. `None` if nothing was found, or nobody could look.
    pub async fn rules(&self, rules: Vec<Rule>, text: String) -> Option<Finding> {
        match self.deputy.rules(rules, text).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!("what an agent printed could not be looked at: {error}");
                None
            }
        }
    }

    /// What the agent's pane shows, by these rules.
    pub async fn read_screen(&self, owner: &Key, rules: &[Rule]) -> Result<Reading, Error> {
        let refused = |message: String| Error::Refused { operation: "read a screen", message };
        let sessions = self.sessions_of(owner).await?;
        let pane = sessions.iter().find_map(|session| session.pane.as_ref());
        let pane = pane.ok_or_else(|| refused("the agent has no pane".to_owned()))?;
        let mut arguments = Arguments::default();
        // What the terminal has wrapped is one line, such as the address of a login.
        arguments.command(&["capture-pane", "-p", "-J", "-t", pane]);
        self.read(arguments, rules).await?.map_err(|message| refused(parse::message(&message)))
    }

    /// The panes with the agent's mark: one, unless an operator changed that.
    pub async fn panes(&self, owner: &Key) -> Result<Vec<Pane>, Error> {
        let is_marked = format!("#{{==:#{{@agentd-agent}},{owner}}}");
        let mut listing = Arguments::default();
        listing.command(&["list-panes", "-a", "-f", &is_marked, "-F", parse::PANE_FORMAT]);
        match self.client("list panes", listing).await {
            // Without a session, there is no target.
            Err(Error::Refused { message, .. }) if message.starts_with("no current target") => Ok(Vec::new()),
            output => Ok(parse::panes(&output?.stdout)),
        }
    }

    /// The keys of the agents that have sessions. Invalid keys are left out.
    pub async fn owners(&self) -> Result<BTreeSet<Key>, Error> {
        let mut listing = Arguments::default();
        listing.command(&["list-sessions", "-F", "#{@agentd-owner}"]);
        match self.client("list sessions", listing).await {
            Err(Error::NoServer { .. }) => Ok(BTreeSet::new()),
            output => Ok(parse::owners(&output?.stdout)),
        }
    }

    /// The agent's session, to attach to; `None` while there is none.
    pub async fn entrance(&self, owner: &Key) -> Result<Option<Entrance>, Error> {
        let is_marked = format!("#{{==:#{{@agentd-owner}},{owner}}}");
        let mut listing = Arguments::default();
        listing.command(&["list-sessions", "-f", &is_marked, "-F", parse::ENTRANCE_FORMAT]);
        match self.client("find a session", listing).await {
            Err(Error::NoServer { .. }) => Ok(None),
            output => Ok(parse::entrance(&output?.stdout)),
        }
    }

    /// The client that attaches there: the program that the server last understood, and its arguments.
    ///
    /// With `is_read_only`, the client passes on no keys except those that end it, and does not affect the session's size.
    /// `notice` is first shown in the status line. `features` lists what the terminal supports beyond its description.
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
        // Also escapes what follows a `%`, see `strftime(3)`: the notice may name such keys.
        let notice = parse::escape_format(notice).replace('%', "%%");
        arguments.command(&["display-message", "-d", LONG_ENOUGH, &notice]);
        let flags: Vec<&str> = features.iter().flat_map(|features| ["-T", features]).chain(["-N"]).collect();
        (self.program(), self.words(&flags, arguments))
    }

    /// A client that only checks whether it could attach there. It fails on a terminal that it has no description for.
    pub fn looking(&self, entrance: &Entrance) -> (Program, Vec<String>) {
        let mut arguments = Arguments::default();
        arguments.command(&["has-session", "-t", &entrance.id]);
        (self.program(), self.words(&["-N"], arguments))
    }

    /// The sessions with the agent's mark, and the panes with the mark in each: one of each, unless an operator changed that.
    ///
    /// A pane in which tmux could not start anything has no process, and no process can be started in it again: the server would
    /// crash (3.2 to 3.7 do).
    async fn sessions_of(&self, owner: &Key) -> Result<Vec<parse::Session>, Error> {
        let is_marked = format!("#{{==:#{{@agentd-owner}},{owner}}}");
        // Not list-panes, which fails on a server without sessions.
        let pane = "#{?#{==:#{pane_pid},-1},!,}#{pane_id}";
        let ids = format!("#{{session_id}}#{{W:#{{P:#{{?#{{==:#{{@agentd-agent}},{owner}}}, {pane},}}}}}}");
        let mut listing = Arguments::default();
        listing.command(&["list-sessions", "-f", &is_marked, "-F", &ids]);
        Ok(parse::sessions(&self.client("find a session", listing).await?.stdout))
    }
}
