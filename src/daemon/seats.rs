//! Seats: what the daemon has for each user that agents run as, beside the default one.
//!
//! A seat is made when its user is first needed, and lives as long as the daemon. Its sockets are in a folder of the user's, below a
//! folder that only root can change: no user can put another socket in the place of somebody else's.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::Gid;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

use super::find_sessions;
use crate::agent::user::AgentUser;
use crate::contain::server_scope::ServerScope;
use crate::contain::tree::Trees;
use crate::deputy::Deputy;
use crate::deputy::renderer::Renderers;
use crate::inputs::{Deputies, Nudge, users};
use crate::launch::listener;
use crate::launch::socket_dir::{self, LaunchSocketKeeper, SocketDir, launch_socket_beside, make_users_dir};
use crate::settings::Settings;
use crate::state::record::Record;
use crate::supervisor::Event;
use crate::supervisor::resources::{Seat, Seats};
use crate::sys::account::Account;
use crate::sys::blocking;
use crate::sys::unix_socket;
use crate::tmux::desks::{Desk, Desks};
use crate::tmux::{Memory, Tmux};

/// Makes seats.
#[derive(Debug)]
pub(super) struct SeatMaker {
    pub settings: Settings,
    /// agentd's own program.
    pub executable: String,
    /// The group that may enter the folders of sockets.
    pub group: Gid,
    /// What servers were seen is kept beside it.
    pub record: Record,
    /// Those of the default user.
    pub trees: Trees,
    pub seats: Seats,
    pub desks: Desks,
    /// The users that agents run as.
    pub agents: watch::Sender<BTreeSet<u32>>,
    pub events: mpsc::UnboundedSender<Event>,
    pub nudges: mpsc::Sender<Nudge>,
    pub rounds: watch::Receiver<()>,
    /// Where launch sockets are, and whose.
    pub made: Mutex<Vec<(PathBuf, Account)>>,
}

impl SeatMaker {
    /// Makes the seats of users whose agents an earlier daemon ran. Such a user may have been deleted since.
    pub async fn restore(&self, former: BTreeSet<AgentUser>) {
        for user in former {
            let name = user.name.clone();
            let found = blocking::run(move || Account::find(name.as_str())).await;
            let account = match found {
                Ok(Ok(account)) if account.uid.as_raw() == user.uid => account,
                _ => users::former(&user),
            };
            self.make(&user, &account).await;
        }
    }

    async fn make(&self, user: &AgentUser, account: &Account) -> Deputy {
        if let Some(desk) = self.desks.of(Some(user)) {
            return desk.deputy;
        }
        tracing::info!(user = user.name.as_str(), uid = user.uid, "agents can run as this user");
        let socket = self.settings.user_socket(user.name.as_str());
        let nudges = self.nudges.clone();
        let deputy = Deputy::new(account, move || {
            // If the channel is full, a change is already waiting to be handled.
            let _ = nudges.try_send(Nudge::Changed);
        });
        let memory = Memory::on_record(&self.record, &socket, Some(&user.name)).await;
        let (origin, executable) = (self.settings.tmux_origin, self.executable.clone());
        let tmux = Tmux::new(deputy.clone(), socket.clone(), origin, executable, account).with_memory(memory);
        // Before anything runs as the user.
        self.agents.send_modify(|agents| _ = agents.insert(user.uid));
        let trouble = self.receive(user, account, &socket);
        let seat = Seat {
            sessions: Arc::new(tmux.clone()),
            launch_socket: launch_socket_beside(&socket),
            trouble,
            user: account.uid,
            user_name: account.name.clone(),
            containment: Arc::new(self.trees.of_user(account.uid)),
        };
        self.seats.add(user.clone(), seat);
        let renderers = Renderers::new(deputy.clone());
        self.desks.add(user.clone(), Desk { deputy: deputy.clone(), tmux: tmux.clone(), renderers });
        self.keep(user, &tmux);
        deputy
    }

    /// Receives launchers of the user. Returns what keeps them from being received.
    fn receive(
        &self,
        user: &AgentUser,
        account: &Account,
        socket: &std::path::Path,
    ) -> watch::Receiver<Option<String>> {
        let bound = self.bind(account, socket);
        let (trouble, troubles) = watch::channel(bound.as_ref().err().map(ToString::to_string));
        if let Err(error) = &bound {
            tracing::error!(user = user.name.as_str(), "{error}; no agent can be started as this user; trying again");
        }
        let keeper = LaunchSocketKeeper::new(socket, account, Some(self.group), bound.is_ok()).below_users();
        let (events, user) = (self.events.clone(), user.clone());
        let hand_on = move |visitor| {
            // Fails only when the daemon is ending.
            let _ = events.send(Event::Visitor { user: Some(user.clone()), visitor });
        };
        tokio::spawn(listener::receive(bound.ok(), keeper, account.uid, trouble, self.rounds.clone(), hand_on));
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push((launch_socket_beside(socket), account.clone()));
        troubles
    }

    fn bind(&self, account: &Account, socket: &std::path::Path) -> Result<UnixListener, super::Error> {
        unix_socket::check_length(&launch_socket_beside(socket))?;
        make_users_dir(&self.settings.users_dir())?;
        Ok(SocketDir::of(socket, account, Some(self.group))?.bind_launch_socket()?)
    }

    /// Keeps the user's tmux server in order, and asks it for sessions that an earlier daemon may have left.
    fn keep(&self, user: &AgentUser, tmux: &Tmux) {
        if let Some(scope) = ServerScope::here(self.trees.systemd(), Some(&user.name)) {
            tokio::spawn(scope.keep(tmux.serving()));
        }
        let (kept, rounds) = (tmux.clone(), self.rounds.clone());
        tokio::spawn(async move { kept.keep(rounds).await });
        tokio::spawn(find_sessions(tmux.clone(), Some(user.clone()), self.events.clone()));
    }

    /// Removes the launch sockets. Blocks.
    pub fn remove_launch_sockets(&self) {
        for (path, account) in self.made.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let removed = SocketDir::of(&path, &account, Some(self.group)).and_then(|folder| {
                folder.remove_launch_socket().map_err(|error| {
                    socket_dir::Error::System(crate::sys::PathError::new("remove", path.clone(), error))
                })
            });
            if let Err(error) = removed {
                tracing::warn!("{error}");
            }
        }
    }
}

impl Deputies for SeatMaker {
    fn of<'a>(
        &'a self,
        user: &'a AgentUser,
        account: &'a Account,
    ) -> Pin<Box<dyn Future<Output = Deputy> + Send + 'a>> {
        Box::pin(self.make(user, account))
    }
}
