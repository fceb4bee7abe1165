//! The socket of an attempt at which the hooks of its harness tell what it does, and the command that they run.
//!
//! ```text
//! harness ── runs ──▶ agentd tell ── $AGENTD_TELL ──▶ launcher ──▶ daemon
//! ```
//!
//! A caller writes one line that says what follows, then what the hook was given, and closes. It need not be answered, and waits for
//! nothing. The socket is in a folder of the attempt's own that only its user can enter. Whoever is that user can call: a report is as
//! good as the agent's word, and about this agent only.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with};

use super::ask;
use super::daemon_link::readable;
use super::temporary_dir::Scratch;
use crate::agent::conversation::SessionId;
use crate::agent::harness::hooks::{ASK_OPTION, Hooks, MOST_TOLD, TELL_VARIABLE, Told, conversation, read};
use crate::sys::{fd, poll};

/// The name of the socket.
const SOCKET: &str = "tell.sock";

/// The first line of a caller that tells something and wants no answer.
const TELLS: &[u8] = b"tell\n";

/// The first line of a caller that asks something, and waits for the answer.
pub(super) const ASKS: &[u8] = b"ask\n";

/// How many callers are listened to at a time. The others wait in line.
const AT_ONCE: usize = 8;

/// How long a caller may take. It gives up before.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the command may take.
const TELL_TIMEOUT: Duration = Duration::from_millis(800);

/// How much is read at a time.
const PIECE: usize = 4096;

/// What a caller says.
#[derive(Debug)]
pub enum Heard {
    /// It tells something.
    Told(Told),
    /// It asks this, and waits.
    Asks(UnixStream, Vec<u8>),
}

/// The launcher's end.
pub struct Ear {
    listener: UnixListener,
    /// The folder of the socket, which goes with it.
    folder: Scratch,
    hooks: Hooks,
    callers: Vec<Caller>,
    conversation: Option<SessionId>,
}

struct Caller {
    stream: UnixStream,
    said: Vec<u8>,
    limit: Instant,
}

impl Ear {
    /// Listens in this folder.
    pub fn open(folder: Scratch, hooks: Hooks) -> io::Result<Self> {
        let path = folder.path().join(SOCKET);
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, folder, hooks, callers: Vec::new(), conversation: None })
    }

    /// Whose they are.
    pub fn hooks(&self) -> Hooks {
        self.hooks
    }

    /// Where callers find it.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }

    /// What to wait for.
    pub fn interest(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listener = (self.callers.len() < AT_ONCE).then(|| self.listener.as_fd());
        readable(listener)
            .into_iter()
            .chain(self.callers.iter().map(|it| PollFd::new(it.stream.as_fd(), PollFlags::POLLIN)))
    }

    /// In which conversation the latest hook was called that said so.
    pub fn conversation(&self) -> Option<&SessionId> {
        self.conversation.as_ref()
    }

    /// When the next caller has taken too long.
    pub fn due(&self) -> Option<Instant> {
        self.callers.iter().map(|caller| caller.limit).min()
    }

    /// What callers have told. Call it after waiting; it does not block.
    pub fn listen(&mut self, now: Instant) -> Vec<Heard> {
        while self.callers.len() < AT_ONCE
            && let Ok((stream, _)) = self.listener.accept()
        {
            if stream.set_nonblocking(true).is_ok() {
                self.callers.push(Caller { stream, said: Vec::new(), limit: now + CALL_TIMEOUT });
            }
        }
        let mut heard = Vec::new();
        for mut caller in std::mem::take(&mut self.callers) {
            match caller.hear() {
                Ok(true) => heard.extend(self.understand(caller)),
                Ok(false) if caller.limit > now => self.callers.push(caller),
                Ok(false) | Err(_) => {}
            }
        }
        heard
    }

    fn understand(&mut self, Caller { stream, said, .. }: Caller) -> Option<Heard> {
        if let Some(text) = said.strip_prefix(ASKS) {
            return Some(Heard::Asks(stream, text.to_vec()));
        }
        let text = said.strip_prefix(TELLS)?;
        self.conversation = conversation(text, self.hooks).or(self.conversation.take());
        read(text, self.hooks).map(Heard::Told)
    }
}

impl Caller {
    /// Whether it has said everything. Fails if it says too much.
    fn hear(&mut self) -> io::Result<bool> {
        let mut piece = [0; PIECE];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(true),
                Ok(count) if self.said.len() + count > TELLS.len() + MOST_TOLD => {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                Ok(count) => self.said.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Runs the hidden command `tell`: passes on what a hook is given, on standard input or as the last argument.
///
/// A harness waits for its hooks, and may take what one prints or ends with for a verdict. So this prints nothing, and returns within
/// a second whatever happens.
pub fn run(arguments: &[impl AsRef<OsStr>]) {
    if let [option, rest @ ..] = arguments
        && option.as_ref() == ASK_OPTION
    {
        return ask::run(rest.first().map(AsRef::as_ref));
    }
    let Some(socket) = env::var_os(TELL_VARIABLE) else { return };
    let argument = arguments.last().map(|argument| argument.as_ref().to_owned());
    let (done, is_done) = mpsc::channel();
    let work = move || {
        let limit = Instant::now() + TELL_TIMEOUT;
        // There is nobody to tell about a failure.
        let _ = tell(Path::new(&socket), argument, limit);
        let _ = done.send(());
    };
    // What hangs is left behind: the process ends.
    if thread::Builder::new().spawn(work).is_ok() {
        let _ = is_done.recv_timeout(TELL_TIMEOUT);
    }
}

fn tell(socket: &Path, argument: Option<OsString>, limit: Instant) -> io::Result<()> {
    let text = match argument {
        Some(text) => text.as_bytes().to_vec(),
        None => from_stdin(limit)?,
    };
    if text.is_empty() || text.len() > MOST_TOLD {
        return Ok(());
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match connect(&stream, &SocketAddrUnix::new(socket)?) {
            Ok(()) => break,
            // Others are in line.
            Err(rustix::io::Errno::AGAIN) if Instant::now() < limit => thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error.into()),
        }
    }
    let message = [TELLS, &text].concat();
    let mut rest = message.as_slice();
    while !rest.is_empty() && Instant::now() < limit {
        // Without a signal if the other end is gone.
        match send(&stream, rest, SendFlags::NOSIGNAL) {
            Ok(count) => rest = &rest[count..],
            Err(rustix::io::Errno::AGAIN) => {
                poll::wait(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)], Some(limit))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// All of standard input, if it ends in time. What is too long is read to its end all the same, and kept in part only: who writes it
/// must not fail.
fn from_stdin(limit: Instant) -> io::Result<Vec<u8>> {
    let stdin: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let (mut text, mut piece) = (Vec::new(), [0; PIECE]);
    loop {
        poll::wait(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], Some(limit))?;
        if Instant::now() >= limit {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match fd::read(&stdin, &mut piece)? {
            0 => break,
            count if text.len() <= MOST_TOLD => text.extend_from_slice(&piece[..count]),
            _ => {}
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::TempDir;

    use super::*;
    use crate::agent::harness::hooks::HookKind;
    use crate::wire::activity::Doing;

    const STOP: &[u8] = br#"{"hook_event_name":"Stop"}"#;

    fn ear(base: &TempDir) -> Ear {
        let folder = Scratch::make(Some(base.path().as_os_str()), Path::new("/run/x/launch.sock"), "a").unwrap();
        Ear::open(folder, Hooks { kind: HookKind::Claude, at: 1, has_prompt: true }).unwrap()
    }

    /// What callers tell.
    fn listen(ear: &mut Ear, now: Instant) -> Vec<Told> {
        let told = |heard| match heard {
            Heard::Told(told) => told,
            Heard::Asks(..) => panic!("{heard:?}"),
        };
        ear.listen(now).into_iter().map(told).collect()
    }

    fn say(ear: &Ear, text: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(ear.path()).unwrap();
        stream.write_all(text).unwrap();
        stream
    }

    fn told(text: &[u8]) -> Vec<u8> {
        [TELLS, text].concat()
    }

    #[test]
    fn what_a_hook_is_given_is_heard() {
        let base = TempDir::new().unwrap();
        let mut ear = ear(&base);
        assert_eq!(fs::metadata(ear.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let limit = Instant::now() + Duration::from_secs(9);
        let text = OsStr::from_bytes(STOP).to_owned();
        tell(&ear.path(), Some(text), limit).unwrap();
        assert_eq!(listen(&mut ear, Instant::now()), [Told::Doing(Doing::Idle, None)]);
        assert_eq!((ear.callers.len(), ear.due()), (0, None));
    }

    #[test]
    fn a_call_in_pieces_is_heard_once_it_is_over() {
        let base = TempDir::new().unwrap();
        let mut ear = ear(&base);
        let mut caller = say(&ear, TELLS);
        for byte in STOP {
            assert_eq!(listen(&mut ear, Instant::now()), []);
            caller.write_all(&[*byte]).unwrap();
        }
        drop(caller);
        assert_eq!(listen(&mut ear, Instant::now()).len(), 1);
    }

    #[test]
    fn a_caller_that_hangs_or_lies_is_hung_up_on() {
        let base = TempDir::new().unwrap();
        let mut ear = ear(&base);
        let now = Instant::now();
        let _hanging = say(&ear, b"tell\n{");
        drop(say(&ear, b"GET / HTTP/1.1\r\n\r\n"));
        drop(say(&ear, &told(b"garbage")));
        drop(say(&ear, b""));
        assert_eq!(listen(&mut ear, now), []);
        assert_eq!((ear.callers.len(), ear.due()), (1, Some(now + CALL_TIMEOUT)));
        assert_eq!(listen(&mut ear, now + CALL_TIMEOUT), []);
        assert_eq!(ear.callers.len(), 0);
    }

    #[test]
    fn a_caller_that_says_too_much_is_not_listened_to() {
        let base = TempDir::new().unwrap();
        let mut ear = ear(&base);
        let mut caller = say(&ear, b"");
        caller.set_nonblocking(true).unwrap();
        let mut text = told(b"{\"hook_event_name\":\"Stop\",\"x\":\"").into_iter().chain(std::iter::repeat(b'x'));
        let mut is_heard = true;
        while is_heard {
            let piece: Vec<u8> = text.by_ref().take(PIECE).collect();
            is_heard = caller.write(&piece).is_ok();
            assert_eq!(listen(&mut ear, Instant::now()), []);
        }
        assert_eq!(ear.callers.len(), 0);
    }

    #[test]
    fn one_who_asks_is_handed_over_and_waits() {
        let base = TempDir::new().unwrap();
        let mut ear = ear(&base);
        let caller = say(&ear, b"ask\n{}");
        caller.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(&ear.listen(Instant::now())[..], [Heard::Asks(_, text)] if text == b"{}"));
        assert_eq!(ear.callers.len(), 0);
    }

    #[test]
    fn a_crowd_is_heard_one_after_the_other() {
        let base = TempDir::new().unwrap();
        let mut ear = ear(&base);
        let crowd: Vec<UnixStream> = (0..3 * AT_ONCE).map(|_| say(&ear, &told(STOP))).collect();
        assert_eq!(listen(&mut ear, Instant::now()), []);
        assert_eq!((ear.callers.len(), ear.interest().count()), (AT_ONCE, AT_ONCE), "the others wait in line");
        drop(crowd);
        let heard: usize = (0..3).map(|_| listen(&mut ear, Instant::now()).len()).sum();
        assert_eq!(heard, 3 * AT_ONCE);
    }

    #[test]
    fn nobody_at_the_other_end_is_no_matter() {
        let base = TempDir::new().unwrap();
        let limit = || Instant::now() + Duration::from_millis(100);
        let text = || Some(OsString::from("{}"));
        assert!(tell(&base.path().join("none"), text(), limit()).is_err());
        let socket = base.path().join("hung");
        let _listener = UnixListener::bind(&socket).unwrap();
        let start = Instant::now();
        for _ in 0..200 {
            if tell(&socket, text(), limit()).is_err() {
                break;
            }
        }
        assert!(start.elapsed() < Duration::from_secs(5));
        let far = socket.join("x".repeat(200));
        assert!(tell(&far, text(), limit()).is_err(), "a path that is too long");
        assert!(tell(&socket, Some(OsString::from("x".repeat(MOST_TOLD + 1))), limit()).is_ok(), "nothing is sent");
    }
}
