//! The launch socket: receives launchers and verifies who they are.
//!
//! Anyone may connect (the mode is 0666; the directory decides who can reach it). So the listener first checks who each peer is,
//! as reported by the kernel (`SO_PEERCRED`, `SO_PEERPIDFD`, see `unix(7)`), and then who it claims to be, within a limit of time
//! and size. The receiver of the [`UnverifiedLauncher`] decides what that claim is worth.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerPidfd;
use nix::unistd::Uid;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;

use super::protocol::{FromLauncher, Log, MAX_FROM_LAUNCHER, Progress, ToLauncher, Told};
use crate::agent::conversation::Taken;
use crate::agent::fingerprint::Fingerprint;
use crate::launch::socket_dir::LaunchSocketKeeper;
use crate::sys::frame;
use crate::sys::process::Process;
use crate::sys::rate_limit::Brake;
use crate::sys::unix_socket::{self, Peer};

/// How long a peer may take to introduce itself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// How many peers may be unverified at the same time.
///
/// A new one displaces the one that has been silent longest. Launchers speak at once, so silent peers cannot keep them out.
const WAITING_ROOM: usize = 256;

/// A process of the agent user that claims to be the launcher of an attempt.
#[derive(Debug)]
pub struct UnverifiedLauncher {
    /// The agent it names.
    pub name: String,
    /// The attempt it names.
    pub attempt: u64,
    /// The version of the protocol that it speaks.
    pub version: u32,
    /// The fingerprint of what it claims to have launched.
    pub fingerprint: Option<Fingerprint>,
    /// How far it claims to be.
    pub progress: Progress,
    /// Whether it claims that it can continue in other files.
    pub can_move: bool,
    /// Whether it can replace files with secrets.
    pub can_renew: bool,
    /// Where it claims to write output.
    pub log: Option<Log>,
    /// Which conversation it claims that its harness is in.
    pub conversation: Option<Taken>,
    /// What it claims that its harness has said.
    pub told: Told,
    /// Whether it claims that it can report what its harness does.
    pub can_report: bool,
    /// The process, as reported by the kernel.
    pub process: Process,
    /// Reads its further messages.
    pub reader: frame::Reader<OwnedReadHalf>,
    /// Writes the daemon's messages.
    pub writer: OwnedWriteHalf,
    /// Its slot among the unverified peers, to be dropped once it is verified.
    pub permit: OwnedSemaphorePermit,
}

impl UnverifiedLauncher {
    /// Whether it claims to have received its work.
    pub fn has_launched(&self) -> bool {
        self.progress != Progress::New
    }

    /// Sends `Unwanted` to a launcher that has started nothing yet.
    ///
    /// One that has started a harness is left alone: it connects again, and may be expected then.
    pub fn send_away(mut self) {
        if self.progress == Progress::New {
            tokio::spawn(async move {
                // If it does not listen, no harm is done.
                let _ =
                    tokio::time::timeout(HELLO_TIMEOUT, frame::write(&mut self.writer, &ToLauncher::Unwanted)).await;
            });
        }
    }
}

/// Receives peers that run as `user`, and passes on those that introduce themselves, until the daemon ends.
///
/// `trouble` holds what prevents that, such as a listener that does not exist yet. Each of the `rounds` makes sure that launchers
/// find the socket.
pub async fn receive(
    mut listener: Option<UnixListener>,
    mut keeper: LaunchSocketKeeper,
    user: Uid,
    trouble: watch::Sender<Option<String>>,
    mut rounds: watch::Receiver<()>,
    hand_on: impl Fn(UnverifiedLauncher) + Clone + Send + 'static,
) {
    let mut room = Room::new();
    let sent_away = Arc::new(Brake::new());
    let restored_often = Brake::new();
    let trouble = Arc::new(Trouble { now: trouble, brake: Brake::new() });
    loop {
        let accepted = tokio::select! {
            accepted = accept(listener.as_ref()) => accepted,
            Ok(()) = rounds.changed() => {
                let is_first = listener.is_none();
                match keeper.restore() {
                    Ok(None) => {}
                    Ok(Some(restored)) if is_first => {
                        listener = Some(restored);
                        trouble.note(None);
                    }
                    Ok(Some(restored)) => {
                        if let Some(count) = restored_often.pass() {
                            tracing::warn!("the launch socket was gone, and has been made again ({count} so far)");
                        }
                        listener = Some(restored);
                        trouble.note(None);
                    }
                    Err(error) => trouble.note(Some(&error)),
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let Some(permit) = room.permit().await else { return };
                let (hand_on, sent_away, trouble) = (hand_on.clone(), Arc::clone(&sent_away), Arc::clone(&trouble));
                let listening = tokio::spawn(async move {
                    match tokio::time::timeout(HELLO_TIMEOUT, listen_to(stream, user, permit)).await {
                        Ok(Ok(visitor)) => {
                            trouble.note(None);
                            hand_on(visitor);
                        }
                        Ok(Err(error)) => {
                            if is_shortage(&error) {
                                trouble.note(Some(&error));
                            }
                            complain(&sent_away, &error.to_string());
                        }
                        Err(_) => complain(&sent_away, "it said nothing"),
                    }
                });
                room.silent.push_back(listening.abort_handle());
            }
            Err(error) => {
                trouble.note(Some(&error));
                // Most likely out of descriptors; an immediate retry would only waste time.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn accept(listener: Option<&UnixListener>) -> io::Result<(UnixStream, tokio::net::unix::SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS))
}

/// The peers that are not verified yet.
struct Room {
    permits: Arc<Semaphore>,
    /// The tasks that wait for a peer to introduce itself, oldest first; most of them have finished.
    silent: VecDeque<AbortHandle>,
}

impl Room {
    fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(WAITING_ROOM)), silent: VecDeque::new() }
    }

    /// A slot for a new peer. `None` never happens: the semaphore is not closed.
    async fn permit(&mut self) -> Option<OwnedSemaphorePermit> {
        if self.silent.len() >= WAITING_ROOM {
            self.silent.retain(|listening| !listening.is_finished());
        }
        if self.permits.available_permits() == 0
            && let Some(longest) = self.silent.iter().position(|listening| !listening.is_finished())
        {
            self.silent.drain(..=longest).for_each(|listening| listening.abort());
        }
        // Peers that have introduced themselves may be many: anybody of the agent user can name any agent. An attempt that follows its
        // launcher turns them away at once, however many they are. One that still looks for its launcher keeps few, and these no
        // longer than that takes.
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }
}

/// The problem that keeps launchers from being received.
struct Trouble {
    now: watch::Sender<Option<String>>,
    brake: Brake,
}

impl Trouble {
    /// Logs changes. The agent user can cause and end trouble at will.
    fn note(&self, error: Option<&dyn Display>) {
        let now = error.map(|error| format!("failed to receive a launcher: {error}"));
        self.now.send_if_modified(|before| {
            if now == *before {
                return false;
            }
            let Some(words) = &now else {
                tracing::info!("launchers are received as usual again");
                *before = now;
                return true;
            };
            if let Some(count) = self.brake.pass() {
                tracing::error!("{words} (trouble {count} so far)");
            }
            *before = now;
            true
        });
    }
}

/// Logs a rejected peer, at a limited rate: agents can connect here, and must not be able to fill the log.
fn complain(sent_away: &Brake, why: &str) {
    if let Some(count) = sent_away.pass() {
        tracing::warn!("rejected a connection to the launch socket ({count} so far): {why}");
    }
}

async fn listen_to(stream: UnixStream, user: Uid, permit: OwnedSemaphorePermit) -> io::Result<UnverifiedLauncher> {
    let process = peer(&stream, user)?;
    let (reader, writer) = stream.into_split();
    let mut reader = frame::Reader::new(reader, MAX_FROM_LAUNCHER);
    match reader.read().await.map_err(io::Error::other)? {
        Some(FromLauncher::Hello {
            version,
            name,
            attempt,
            fingerprint,
            progress,
            can_move,
            can_renew,
            can_report,
            log,
            told,
            conversation,
        }) => Ok(UnverifiedLauncher {
            name,
            attempt,
            version,
            fingerprint,
            progress,
            can_move,
            can_renew,
            log,
            told: told.map(|told| *told).unwrap_or_default(),
            can_report,
            conversation,
            process,
            reader,
            writer,
            permit,
        }),
        _ => Err(io::Error::other(format!("process {} is not a launcher", process.pid()))),
    }
}

/// The process at the other end, if it runs as the agent user.
fn peer(stream: &UnixStream, user: Uid) -> io::Result<Process> {
    let Peer { pid, uid } = unix_socket::peer(stream)?;
    let pid = pid.unwrap_or(0);
    if uid != user {
        return Err(io::Error::other(format!("process {pid} runs as uid {uid}, not as the agent user")));
    }
    match getsockopt(stream, PeerPidfd) {
        Ok(pidfd) => Process::from_pidfd(pid, pidfd),
        // Kernels before 6.5 do not support this. The process that connected may have passed its end to another and ended, so its
        // id may belong to a new process, which must at least run as the same user.
        Err(nix::Error::ENOPROTOOPT) => {
            let process = Process::open(pid)?;
            if process.runs_as(user)? { Ok(process) } else { Err(io::ErrorKind::NotFound.into()) }
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::sync::mpsc;

    use super::*;
    use crate::launch::protocol::WIRE_VERSION;
    use crate::launch::socket_dir::SocketDir;
    use crate::sys::account::Account;

    #[tokio::test]
    async fn a_launcher_is_received_among_many_silent_peers() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
        let directory = tempfile::TempDir::new().unwrap();
        let account = Account::current().unwrap();
        let folder = SocketDir::of(&directory.path().join("tmux.sock"), &account, None).unwrap();
        let listener = folder.bind_launch_socket().unwrap();
        let (trouble, _troubles) = watch::channel(None);
        let (_rounds, round) = watch::channel(());
        let (tell, mut told) = mpsc::unbounded_channel();
        let hand_on = move |visitor: UnverifiedLauncher| drop(tell.send(visitor.name));
        let keeper = LaunchSocketKeeper::new(&folder.launch_socket(), &account, None, true);
        tokio::spawn(receive(Some(listener), keeper, account.uid, trouble, round, hand_on));

        let start = Instant::now();
        let mut crowd = Vec::new();
        for _ in 0..2 * WAITING_ROOM {
            crowd.push(UnixStream::connect(folder.launch_socket()).await.unwrap());
        }
        let mut launcher = UnixStream::connect(folder.launch_socket()).await.unwrap();
        let hello = FromLauncher::Hello {
            version: WIRE_VERSION,
            name: "late".to_owned(),
            attempt: 1,
            fingerprint: None,
            can_move: true,
            can_renew: true,
            log: None,
            conversation: None,
            told: None,
            can_report: true,
            progress: Progress::New,
        };
        frame::write(&mut launcher, &hello).await.unwrap();
        assert_eq!(told.recv().await.unwrap(), "late");
        assert!(start.elapsed() < HELLO_TIMEOUT, "silent peers did not delay it: {:?}", start.elapsed());
    }
}
