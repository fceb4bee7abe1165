//! Integration with systemd: readiness, status, and watchdog (`sd_notify(3)`), passed sockets (`sd_listen_fds(3)`), and the kind
//! of job in progress.
//!
//! Without systemd, all of this does nothing.

pub mod bus;

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Uid;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use sd_notify::NotifyState;

pub use bus::{Error, Job, Systemd};

use crate::sys::procfs;

/// The name under which the API's socket is passed (`FileDescriptorName=` in `systemd.socket(5)`). It may have any name if it is the
/// only one besides the terminal socket.
const API: &str = "api";

/// The name under which the terminal socket is passed.
const TERMINAL: &str = "terminal";

/// How many messages to the service manager may wait to be sent. Beyond that, new ones are dropped: later ones replace them.
const QUEUE: usize = 64;

/// Whether systemd runs on this machine, see `sd_booted(3)`.
pub fn is_booted() -> bool {
    sd_notify::booted().unwrap_or(false)
}

/// Whether the service manager started this process as a service, and will stop it.
pub fn is_manager() -> bool {
    is_booted() && std::env::var_os("INVOCATION_ID").is_some()
}

/// The runtime directory of the user whose own manager this process is a unit of (`systemd --user`); `None` if it is not.
pub fn user_runtime_dir() -> Option<PathBuf> {
    let group = procfs::read("/proc/self/cgroup").ok().and_then(|text| procfs::group(&text))?;
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    runtime_dir.filter(|_| is_of_user_manager(&group, Uid::effective().as_raw()))
}

/// Whether a control group is below that of the user's own manager.
fn is_of_user_manager(group: &Path, uid: u32) -> bool {
    let manager = format!("user@{uid}.service");
    group.iter().any(|part| part == manager.as_str())
}

/// Notifies the service manager.
///
/// A separate thread sends the messages, so a manager that does not read delays nothing. Cheap to clone; does nothing if no
/// manager wants to be notified.
#[derive(Clone, Debug)]
pub struct Notifier {
    messages: Option<SyncSender<Message>>,
    watchdog: Option<Duration>,
}

#[derive(Debug)]
enum Message {
    Ready,
    Reloading,
    Status(String),
    Stopping,
    Extend(Duration),
    Alive,
}

impl Notifier {
    /// A notifier for the manager named in the environment.
    pub fn from_environment() -> Self {
        let watchdog = sd_notify::watchdog_enabled();
        let messages = std::env::var_os("NOTIFY_SOCKET").is_some().then(|| {
            let (messages, inbox) = sync_channel::<Message>(QUEUE);
            std::thread::spawn(move || {
                for message in inbox {
                    // If it hears nothing, the manager notices by itself.
                    let _ = send(&message);
                }
            });
            messages
        });
        Self { messages, watchdog }
    }

    /// A notifier that does nothing.
    pub fn silent() -> Self {
        Self { messages: None, watchdog: None }
    }

    /// Whether a manager wants to be notified.
    pub fn is_heard(&self) -> bool {
        self.messages.is_some()
    }

    /// How often to call [`Notifier::alive`], if at all: twice in the allowed time, as `sd_watchdog_enabled(3)` recommends.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.map(|allowed| allowed / 2)
    }

    /// Reports that the daemon is up, or has reloaded.
    pub fn ready(&self) {
        self.tell(Message::Ready);
    }

    /// Reports that the daemon reloads everything; `ready` follows.
    pub fn reloading(&self) {
        self.tell(Message::Reloading);
    }

    /// Reports a status line for people.
    pub fn status(&self, line: String) {
        self.tell(Message::Status(line));
    }

    /// Reports that the daemon is stopping.
    pub fn stopping(&self) {
        self.tell(Message::Stopping);
    }

    /// Reports that starting or stopping takes this much longer, from now.
    pub fn extend(&self, time: Duration) {
        self.tell(Message::Extend(time));
    }

    /// Reports to the watchdog that the loop runs.
    pub fn alive(&self) {
        self.tell(Message::Alive);
    }

    fn tell(&self, message: Message) {
        if let Some(messages) = &self.messages {
            let _ = messages.try_send(message);
        }
    }
}

fn send(message: &Message) -> io::Result<()> {
    match message {
        Message::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Message::Reloading => sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?]),
        Message::Status(line) => sd_notify::notify(&[NotifyState::Status(line)]),
        Message::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        Message::Extend(time) => {
            let microseconds = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
            sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(microseconds)])
        }
        Message::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
    }
}

/// The sockets that the service manager passed to this process, ready for an async runtime.
#[derive(Debug, Default)]
pub struct Passed {
    /// The API's socket.
    pub api: Option<UnixListener>,
    /// The terminal socket.
    pub terminal: Option<UnixListener>,
}

/// Takes over the sockets that were passed to this process.
///
/// A socket counts as passed only if `LISTEN_PID` names this very process (`sd_listen_fds(3)`), whatever else the environment
/// contains: other processes pass on variables that were meant for them.
pub fn passed_sockets() -> io::Result<Passed> {
    if !is_for_process(std::env::var_os("LISTEN_PID").as_deref(), std::process::id()) {
        return Ok(Passed::default());
    }
    let passed: Vec<(i32, String)> = sd_notify::listen_fds_with_names()?.collect();
    Ok(Passed { api: listener(api(&passed))?, terminal: listener(named(TERMINAL, &passed))? })
}

fn named(wanted: &str, passed: &[(i32, String)]) -> Option<i32> {
    passed.iter().find(|(_, name)| name == wanted).map(|&(number, _)| number)
}

/// Which of the passed descriptors is the API's socket.
fn api(passed: &[(i32, String)]) -> Option<i32> {
    let mut others = passed.iter().filter(|(_, name)| name != TERMINAL);
    let alone = others.next().filter(|_| others.next().is_none());
    named(API, passed).or(alone.map(|&(number, _)| number))
}

fn listener(passed: Option<i32>) -> io::Result<Option<UnixListener>> {
    let Some(number) = passed else { return Ok(None) };
    let listener = UnixListener::from(own(number)?);
    // Detects a descriptor that is not a listening Unix socket.
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

fn is_for_process(listen_pid: Option<&OsStr>, own: u32) -> bool {
    listen_pid.and_then(OsStr::to_str).and_then(|pid| pid.parse().ok()) == Some(own)
}

/// Duplicates a descriptor that the service manager passed, by its number. It is sent to this process itself, because containers
/// forbid `pidfd_getfd(2)`.
fn own(number: i32) -> io::Result<OwnedFd> {
    let (near, far) = UnixStream::pair()?;
    let (passed, content) = ([number], [IoSlice::new(&[0])]);
    sendmsg::<()>(near.as_raw_fd(), &content, &[ControlMessage::ScmRights(&passed)], MsgFlags::empty(), None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut received = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&far, &mut [IoSliceMut::new(&mut [0])], &mut received, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = received.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_socket_counts_as_passed_without_this_process_id() {
        for listen_pid in [None, Some(""), Some("x"), Some("41"), Some("-42"), Some("42 ")] {
            assert!(!is_for_process(listen_pid.map(OsStr::new), 42), "{listen_pid:?}");
        }
        assert!(is_for_process(Some(OsStr::new("42")), 42));
    }

    #[test]
    fn the_api_socket_may_have_any_name_beside_the_terminal_socket() {
        for (names, api, terminal) in [
            (&["api", "terminal"][..], Some(3), Some(4)),
            (&["terminal", "api"], Some(4), Some(3)),
            (&["terminal", "agentd.socket"], Some(4), Some(3)),
            (&["agentd.socket"], Some(3), None),
            (&["terminal"], None, Some(3)),
            (&["one", "other"], None, None),
            (&["one", "api"], Some(4), None),
            (&[], None, None),
        ] {
            let passed: Vec<(i32, String)> = (3..).zip(names.iter().map(|&name| name.to_owned())).collect();
            assert_eq!((super::api(&passed), named(TERMINAL, &passed)), (api, terminal), "{names:?}");
        }
    }

    #[test]
    fn a_process_of_a_user_manager_is_known_by_its_group() {
        let unit = Path::new("/user.slice/user-7.slice/user@7.service/app.slice/agentd.service");
        assert!(is_of_user_manager(unit, 7));
        assert!(!is_of_user_manager(unit, 8));
        assert!(!is_of_user_manager(Path::new("/user.slice/user-7.slice/session-1.scope"), 7));
    }
}
