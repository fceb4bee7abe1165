//! Seats: what the daemon has for each user that agents run as, beside the default one.
//!
//! A seat is made when its user is first needed, and lives as long as the daemon. Its sockets are in a folder of the user's, below a
//! folder that only root can change: no user can put another socket in the place of somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::stat::SFlag;
use nix::unistd::Gid;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::find_sessions;
use crate::agent::user::{AgentUser, UserName};
use crate::contain::server_scope::ServerScope;
use crate::contain::tree::Trees;
use crate::deputy::Deputy;
use crate::deputy::renderer::Renderers;
use crate::inputs::users::Entry;
use crate::inputs::{Deputies, LOOK_UP_TIMEOUT, Nudge, users};
use crate::launch::listener::{self, UnverifiedLauncher};
use crate::launch::socket_dir::{self, LaunchSocketKeeper, Names, SocketDir, launch_socket_beside};
use crate::observe::snapshot::Snapshot;
use crate::settings::{Settings, TMUX_SOCKET};
use crate::state::record::Record;
use crate::supervisor::Event;
use crate::supervisor::resources::{Seat, Seats};
use crate::sys::account::Account;
use crate::sys::blocking;
use crate::sys::presence::Inquiry;
use crate::sys::safe_path::{self, version_at};
use crate::sys::systemd;
use crate::sys::unix_socket;
use crate::tmux::desks::{Desk, Desks};
use crate::tmux::{Memory, Origin, ServerUnit, Tmux};

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
    /// Which users their names mean now.
    pub names: Names,
    /// Whom entries name.
    pub named: watch::Sender<BTreeSet<UserName>>,
    /// Where launch sockets are, and whose.
    pub made: Mutex<Vec<(PathBuf, Account)>>,
}

impl SeatMaker {
    /// Makes the seats of users whose agents an earlier daemon ran: those that are on record, and those with a tmux server, whose agents
    /// may be on no record. A user on record may have been deleted since.
    pub async fn restore(self: &Arc<Self>, on_record: BTreeSet<AgentUser>, snapshot: watch::Receiver<Arc<Snapshot>>) {
        tokio::spawn(Arc::clone(self).forget_former(snapshot));
        let folder = self.settings.users_dir();
        let serving = blocking::run(move || serving(&folder)).await.unwrap_or_default();
        let all = &on_record | &serving;
        let names: BTreeSet<UserName> = all.iter().map(|user| user.name.clone()).collect();
        let answers = timeout(LOOK_UP_TIMEOUT, blocking::run(move || users::look_up_all(&names))).await;
        let mut answers = answers.ok().and_then(Result::ok).unwrap_or_else(|| {
            tracing::warn!("the user database does not answer; who the agents' users are is found out later");
            BTreeMap::new()
        });
        for user in all {
            if let Some(account) = account_of(&user, answers.remove(&user.name), on_record.contains(&user)) {
                self.make(&user, &account).await;
            }
        }
    }

    /// Makes the seat of a user, unless there is one. That may have been made before it could be found out who the user is.
    async fn make(&self, user: &AgentUser, account: &Account) -> Deputy {
        self.names.note(account);
        // Before anything runs as the user, whatever was forgotten meanwhile.
        self.agents.send_if_modified(|agents| agents.insert(user.uid));
        if let Some(desk) = self.desks.of(Some(user)) {
            desk.tmux.note_shell(account);
            return desk.deputy;
        }
        tracing::info!(user = user.name.as_str(), uid = user.uid, "agents can run as this user");
        let socket = self.settings.user_socket(user.name.as_str());
        let deputy = deputy(account, self.nudges.clone());
        let memory = Memory::on_record(&self.record, &socket, Some(user)).await;
        let (origin, executable) = (self.settings.tmux_origin, self.executable.clone());
        let tmux = Tmux::new(deputy.clone(), socket.clone(), origin, executable, account).with_memory(memory).owned_by(
            &account.name,
            account.uid,
            Inquiry::about(&account.name, account.uid),
        );
        let tmux = match origin {
            Origin::Elsewhere if systemd::is_booted() => {
                tmux.with_unit(ServerUnit::of(&user.name, self.trees.systemd()))
            }
            Origin::Elsewhere | Origin::Own => tmux,
        };
        let trouble = self.receive(user, account, &socket);
        self.seats.add(user.clone(), seat(account, &tmux, &socket, &self.trees.of_user(account.uid), trouble));
        self.desks.add(user.clone(), desk(&deputy, &tmux));
        self.keep(user, &tmux);
        deputy
    }

    /// Receives launchers of the user. Returns what keeps them from being received.
    fn receive(&self, user: &AgentUser, account: &Account, socket: &Path) -> watch::Receiver<Option<String>> {
        let bound = self.bind(account, socket);
        let (trouble, troubles) = watch::channel(bound.as_ref().err().map(ToString::to_string));
        if let Err(error) = &bound {
            tracing::error!(user = user.name.as_str(), "{error}; no agent can be started as this user; trying again");
        }
        let keeper =
            LaunchSocketKeeper::new(socket, account, Some(self.group), bound.is_ok()).below_users(self.names.clone());
        let hand_on = hand_on(Some(user.clone()), self.events.clone());
        tokio::spawn(listener::receive(bound.ok(), keeper, account.uid, trouble, self.rounds.clone(), hand_on));
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push((launch_socket_beside(socket), account.clone()));
        troubles
    }

    fn bind(&self, account: &Account, socket: &Path) -> Result<UnixListener, super::Error> {
        unix_socket::check_length(&launch_socket_beside(socket))?;
        Ok(SocketDir::of_further_user(socket, account, Some(self.group))?.bind_launch_socket()?)
    }

    /// Keeps the user's tmux server in order, and asks it for sessions that an earlier daemon may have left.
    fn keep(&self, user: &AgentUser, tmux: &Tmux) {
        if let Some(scope) = ServerScope::here(self.trees.systemd(), Some(&user.name)) {
            tokio::spawn(scope.keep(tmux.serving()));
        }
        let (kept, rounds) = (tmux.clone(), self.rounds.clone());
        tokio::spawn(async move { kept.keep(rounds).await });
        tokio::spawn(find_sessions(tmux.clone(), Some(user.clone()), self.events.clone(), self.rounds.clone()));
    }

    /// Forgets, at each of the rounds, who is an agent user no more: no entry names it, and no agent is held that runs as it.
    ///
    /// Whoever is one must not operate agents, and whoever was one may be made an operator.
    async fn forget_former(self: Arc<Self>, snapshot: watch::Receiver<Arc<Snapshot>>) {
        let mut rounds = self.rounds.clone();
        while rounds.changed().await.is_ok() {
            let known = self.desks.users();
            let snapshot = Arc::clone(&snapshot.borrow());
            let named = self.named.borrow().clone();
            let is_one = |user: &AgentUser| named.contains(&user.name) || snapshot.users().any(|held| held == user);
            let former = former_uids(&known, is_one);
            self.agents.send_if_modified(|agents| {
                let before = agents.len();
                agents.retain(|uid| !former.contains(uid));
                agents.len() != before
            });
        }
    }

    /// Removes the launch sockets, for at most this long.
    pub async fn end(self: Arc<Self>, patience: Duration) {
        let _ = timeout(patience, blocking::run(move || self.remove_launch_sockets())).await;
    }

    fn remove_launch_sockets(&self) {
        for (path, account) in self.made.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Neither is the folder of a former user made again for nothing, nor that of a later one of the same name looked into.
            if version_at(&path).is_none() || self.names.is_anothers(&account) {
                continue;
            }
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

/// Those of these users who are not agent users. A uid that one who is has, too, is none of them.
fn former_uids(known: &[AgentUser], is_one: impl Fn(&AgentUser) -> bool) -> BTreeSet<u32> {
    let (present, former): (Vec<&AgentUser>, Vec<&AgentUser>) = known.iter().partition(|user| is_one(user));
    former.into_iter().map(|user| user.uid).filter(|uid| present.iter().all(|user| user.uid != *uid)).collect()
}

/// For whom to make the seat of a user whose agents an earlier daemon may have run, by what the user database says; `None` for nobody.
///
/// What it does not say proves nothing, and somebody else of that name is somebody else.
fn account_of(user: &AgentUser, answer: Option<Entry>, is_on_record: bool) -> Option<Account> {
    match answer {
        Some(Entry::Found { account, .. }) if account.uid.as_raw() == user.uid => Some(account),
        Some(Entry::Found { .. } | Entry::Absent) if !is_on_record => None,
        Some(Entry::Found { .. } | Entry::Absent | Entry::Unknown(_)) | None => Some(users::former(user)),
    }
}

/// The users who have the socket of a tmux server in their folder below this one. Blocks.
fn serving(folder: &Path) -> BTreeSet<AgentUser> {
    let Ok(opened) =
        safe_path::open_private_dir(folder, None).and_then(|it| safe_path::open_dir_at(&it, OsStr::new("."), folder))
    else {
        return BTreeSet::new();
    };
    let entries = fs::read_dir(format!("/proc/self/fd/{}", opened.as_raw_fd())).into_iter().flatten().flatten();
    let user = |entry: fs::DirEntry| {
        let name: UserName = entry.file_name().to_str()?.parse().ok()?;
        let its = safe_path::open_dir_at(&opened, &entry.file_name(), &folder.join(entry.file_name())).ok()?;
        let uid = safe_path::look(&its, OsStr::new("")).ok()?.owner;
        let socket = safe_path::look(&its, OsStr::new(TMUX_SOCKET)).ok()?;
        let is_socket = socket.mode & SFlag::S_IFMT.bits() == SFlag::S_IFSOCK.bits();
        (is_socket && uid != 0).then_some(AgentUser { name, uid })
    };
    entries.filter_map(user).collect()
}

/// The deputy of a user, who notices changes of what inputs name.
pub(super) fn deputy(account: &Account, nudges: mpsc::Sender<Nudge>) -> Deputy {
    Deputy::new(account, move || {
        // If the channel is full, a change is already waiting to be handled.
        let _ = nudges.try_send(Nudge::Changed);
    })
}

/// What a user has for attempts. `socket` is that of the tmux server.
pub(super) fn seat(
    account: &Account,
    tmux: &Tmux,
    socket: &Path,
    trees: &Trees,
    trouble: watch::Receiver<Option<String>>,
) -> Seat {
    Seat {
        sessions: Arc::new(tmux.clone()),
        launch_socket: launch_socket_beside(socket),
        trouble,
        user: account.uid,
        user_name: account.name.clone(),
        containment: Arc::new(trees.clone()),
    }
}

/// What a user has for those who serve people.
pub(super) fn desk(deputy: &Deputy, tmux: &Tmux) -> Desk {
    Desk { deputy: deputy.clone(), tmux: tmux.clone(), renderers: Renderers::new(deputy.clone()) }
}

/// Passes on who reports at the launch socket of a user; `None` is the default user.
pub(super) fn hand_on(
    user: Option<AgentUser>,
    events: mpsc::UnboundedSender<Event>,
) -> impl Fn(UnverifiedLauncher) + Clone + Send + 'static {
    move |visitor| {
        // Fails only when the daemon is ending.
        let _ = events.send(Event::Visitor { user: user.clone(), visitor });
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

    fn name(&self, users: &BTreeSet<UserName>) {
        self.named.send_replace(users.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use nix::unistd::Uid;

    use super::*;

    #[test]
    fn who_is_an_agent_user_no_more_is_forgotten() {
        let user = |name: &str, uid| AgentUser { name: name.parse().unwrap(), uid };
        let known = [user("a", 1), user("b", 2), user("b", 3), user("c", 3)];
        let is_one = |user: &AgentUser| user.name.as_str() == "c" || user.uid == 1;
        assert_eq!(former_uids(&known, is_one), [2].into());
        assert_eq!(former_uids(&known, |_| true), BTreeSet::new());
    }

    #[test]
    fn a_user_of_whom_nothing_could_be_found_out_has_a_seat() {
        let user = AgentUser { name: "b".parse().unwrap(), uid: 47_000 };
        let found = |uid| {
            let account = Account { uid: Uid::from_raw(uid), shell: "/bin/zsh".into(), ..users::former(&user) };
            Some(Entry::Found { account, groups: BTreeSet::new() })
        };
        let unknown = || Some(Entry::Unknown("no answer".to_owned()));
        let shell = |answer, is_on_record| Some(account_of(&user, answer, is_on_record)?.shell);
        for is_on_record in [false, true] {
            assert_eq!(shell(found(47_000), is_on_record), Some("/bin/zsh".into()));
            for answer in [None, unknown()] {
                assert_eq!(shell(answer, is_on_record), Some("/bin/sh".into()), "it has a server, or agents");
            }
            for answer in [found(47_001), Some(Entry::Absent)] {
                assert_eq!(shell(answer, is_on_record).is_some(), is_on_record, "it was deleted");
            }
        }
    }

    #[test]
    fn users_with_a_server_are_found_by_their_folders() {
        let directory = tempfile::tempdir().unwrap();
        let users = directory.path().join("users");
        assert_eq!(serving(&users), BTreeSet::new(), "there is no folder yet");
        let mut sockets = Vec::new();
        for name in ["b", "1000", ".hidden", "idle"] {
            fs::create_dir_all(users.join(name)).unwrap();
            if name != "idle" {
                sockets.push(UnixListener::bind(users.join(name).join(TMUX_SOCKET)).unwrap());
            }
        }
        symlink("b", users.join("link")).unwrap();
        fs::create_dir_all(users.join("no-socket").join(TMUX_SOCKET)).unwrap();
        let own = |name: &str| AgentUser { name: name.parse().unwrap(), uid: Uid::effective().as_raw() };
        if !Uid::effective().is_root() {
            assert_eq!(serving(&users), [own("b")].into());
            return;
        }
        assert_eq!(serving(&users), BTreeSet::new(), "root is no agent user");
        std::os::unix::fs::chown(users.join("b"), Some(47_000), None).unwrap();
        assert_eq!(serving(&users), [AgentUser { uid: 47_000, ..own("b") }].into());
        fs::set_permissions(&users, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(serving(&users), BTreeSet::new(), "anybody could have made it");
    }
}
