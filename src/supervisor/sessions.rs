//! Sessions and panes, as the supervisor and its attempts use them.
//!
//! [`Tmux`] is the only implementation outside of tests.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::agent::harness::rule::{Finding, Rule};
use crate::agent::name::{Key, Name};
use crate::supervisor::future::BoxFuture;
use crate::sys::process::Identity;
use crate::tmux::{Error, Pane, Reading, Tmux};

/// Opens, inspects and closes the sessions of agents. An `owner` is an agent's key.
pub trait Sessions: Debug + Send + Sync {
    /// Runs the command in the agent's pane and returns its process id; see [`Tmux::open`].
    fn open<'a>(
        &'a self,
        owner: &'a Key,
        session: &'a Name,
        workdir: &'a Path,
        command: &'a [String],
    ) -> BoxFuture<'a, Result<i32, Error>>;

    /// Lists the agent's panes; see [`Tmux::panes`].
    fn panes<'a>(&'a self, owner: &'a Key) -> BoxFuture<'a, Result<Vec<Pane>, Error>>;

    /// Returns the text of the agent's screen; see [`Tmux::screen`].
    fn screen<'a>(&'a self, owner: &'a Key) -> BoxFuture<'a, Result<String, Error>>;

    /// Tells what the agent's pane shows, by these rules; see [`Tmux::read_screen`].
    fn read_screen<'a>(&'a self, owner: &'a Key, rules: &'a [Rule]) -> BoxFuture<'a, Result<Reading, Error>>;

    /// Opens a shell beside the pane of an agent that has ended for good; see [`Tmux::offer_shell`].
    fn offer_shell<'a>(&'a self, owner: &'a Key) -> BoxFuture<'a, Result<(), Error>>;

    /// Closes the agent's session; see [`Tmux::close`].
    fn close<'a>(&'a self, owner: &'a Key) -> BoxFuture<'a, Result<(), Arc<Error>>>;

    /// Tells whether the user database says that the user of the server was deleted; see [`Tmux::is_orphaned`].
    fn is_orphaned(&self) -> BoxFuture<'_, bool>;

    /// Ends the server of a user who was deleted; see [`Tmux::end_orphan`].
    fn end_orphan(&self) -> BoxFuture<'_, io::Result<()>>;

    /// Looks for rules in what an agent printed, with its rights; see [`Tmux::rules`].
    fn rules(&self, rules: Vec<Rule>, text: String) -> BoxFuture<'_, Option<Finding>>;

    /// Returns the process id of the server, if there is one; see [`Tmux::server_pid`].
    fn server_pid(&self) -> BoxFuture<'_, Result<Option<i32>, Error>>;

    /// Makes sure that the server notices the end of a process; see [`Tmux::see_noticed`].
    fn see_noticed(&self, ended: Identity) -> BoxFuture<'_, ()>;

    /// Shortens every wait for the server, because the daemon is ending; see [`Tmux::hurry`].
    fn hurry(&self);

    /// Tells whether the server has not answered since then; see [`Tmux::is_given_up`].
    fn is_given_up(&self) -> bool;
}

impl Sessions for Tmux {
    fn open<'a>(
        &'a self,
        owner: &'a Key,
        session: &'a Name,
        workdir: &'a Path,
        command: &'a [String],
    ) -> BoxFuture<'a, Result<i32, Error>> {
        Box::pin(self.open(owner, session, workdir, command))
    }

    fn panes<'a>(&'a self, owner: &'a Key) -> BoxFuture<'a, Result<Vec<Pane>, Error>> {
        Box::pin(self.panes(owner))
    }

    fn screen<'a>(&'a self, owner: &'a Key) -> BoxFuture<'a, Result<String, Error>> {
        Box::pin(self.screen(owner))
    }

    fn read_screen<'a>(&'a self, owner: &'a Key, rules: &'a [Rule]) -> BoxFuture<'a, Result<Reading, Error>> {
        Box::pin(self.read_screen(owner, rules))
    }

    fn offer_shell<'a>(&'a self, owner: &'a Key) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.offer_shell(owner))
    }

    fn close<'a>(&'a self, owner: &'a Key) -> BoxFuture<'a, Result<(), Arc<Error>>> {
        Box::pin(self.close(owner))
    }

    fn is_orphaned(&self) -> BoxFuture<'_, bool> {
        Box::pin(self.is_orphaned())
    }

    fn end_orphan(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.end_orphan())
    }

    fn rules(&self, rules: Vec<Rule>, text: String) -> BoxFuture<'_, Option<Finding>> {
        Box::pin(self.rules(rules, text))
    }

    fn server_pid(&self) -> BoxFuture<'_, Result<Option<i32>, Error>> {
        Box::pin(self.server_pid())
    }

    fn see_noticed(&self, ended: Identity) -> BoxFuture<'_, ()> {
        Box::pin(self.see_noticed(ended))
    }

    fn hurry(&self) {
        self.hurry();
    }

    fn is_given_up(&self) -> bool {
        self.is_given_up()
    }
}
