//! The launcher's connection to the daemon.
//!
//! Nothing here blocks, except while a daemon takes in a message. The caller waits for the descriptor and the deadline, together
//! with everything else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use zeroize::Zeroizing;

use super::protocol::{FromLauncher, Log, MAX_TO_LAUNCHER, Progress, ToLauncher, Told, WIRE_VERSION};
use crate::agent::conversation::{SessionId, Taken};
use crate::agent::fingerprint::Fingerprint;
use crate::sys::frame::{self, Decoder};
use crate::sys::{fd, fd_passing, memory, poll, unix_socket};

/// How long a daemon may take to take in a message.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The shortest time between two conversations that the daemon learns of.
const MOVE_PAUSE: Duration = Duration::from_millis(500);

/// How often to look for the next daemon. The API must be correct within a second of a daemon's start.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(300);

/// How long to look for a daemon that sends the work or notes the exit. After that, tmux's `pane_dead_status` is the only record.
pub(super) const DAEMON_TIMEOUT: Duration = Duration::from_mins(1);

/// How much is received at a time.
const PIECE: usize = 4096;

/// The connection to the current daemon or, after that, to the next one.
pub(super) struct DaemonLink {
    pub(super) socket: PathBuf,
    pub(super) name: String,
    attempt: u64,
    /// The fingerprint of the work that it received.
    pub(super) fingerprint: Option<Fingerprint>,
    /// Where it writes output.
    pub(super) log: Option<Log>,
    /// Which conversation the harness is in, if its work said something about that.
    pub(super) conversation: Option<Taken>,
    /// From when on the daemon may be told that it is in another one.
    may_move: Instant,
    /// What the harness has said of its work.
    pub(super) told: Option<Told>,
    /// Whether this daemon asks to hear what the harness does.
    hears_reports: bool,
    state: State,
}

enum State {
    Connected(Connection),
    Away { next_try: Instant },
}

/// A message of the daemon's, and the descriptors that came with it.
pub(super) type Said = (ToLauncher, Vec<OwnedFd>);

struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    /// The descriptors of the frame that is arriving.
    descriptors: Vec<OwnedFd>,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self { stream, decoder: Decoder::new(MAX_TO_LAUNCHER), descriptors: Vec::new() }
    }

    /// The next message, if it has arrived.
    ///
    /// Descriptors that a message does not use must not go to the next message. An error means that nothing more will come.
    fn read(&mut self) -> Result<Option<Said>, frame::Error> {
        let mut piece = Zeroizing::new([0; PIECE]);
        loop {
            if let Some(message) = self.decoder.take()? {
                return Ok(Some((message, std::mem::take(&mut self.descriptors))));
            }
            let room = self.decoder.missing()?.min(PIECE);
            match fd_passing::receive(&self.stream, &mut piece[..room], &mut self.descriptors) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => self.decoder.add(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write(&mut self, message: &FromLauncher) -> Result<(), frame::Error> {
        let frame = frame::encode(message)?;
        let limit = Instant::now() + WRITE_TIMEOUT;
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match fd::write(&self.stream, rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
                Err(_) if Instant::now() >= limit => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                Err(_) => poll::wait(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)], Some(limit))?,
            }
        }
        Ok(())
    }
}

impl DaemonLink {
    pub(super) fn new(socket: &Path, name: &str, attempt: u64) -> Self {
        Self {
            socket: socket.to_owned(),
            name: name.to_owned(),
            attempt,
            fingerprint: None,
            log: None,
            conversation: None,
            may_move: Instant::now(),
            told: None,
            hears_reports: false,
            state: State::Away { next_try: Instant::now() },
        }
    }

    /// Readable when there is something to [receive](Self::receive).
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Connected(connection) => Some(connection.stream.as_fd()),
            State::Away { .. } => None,
        }
    }

    /// When to look for the next daemon, if there is none.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Connected(_) => None,
            State::Away { next_try } => Some(next_try),
        }
    }

    /// The next message of this daemon or, after that, of the next one, if it has arrived.
    ///
    /// The next daemon receives `progress`; without it, no daemon is looked for.
    pub(super) fn receive(&mut self, progress: Option<&Progress>) -> Option<Said> {
        if let State::Away { next_try } = self.state {
            if next_try > Instant::now() {
                return None;
            }
            match self.introduce(progress?) {
                Ok(connection) => self.state = State::Connected(connection),
                Err(_) => self.lose(),
            }
        }
        let State::Connected(connection) = &mut self.state else { return None };
        let read = connection.read();
        if read.is_err() {
            self.lose();
        }
        read.ok().flatten()
    }

    /// Disconnects, and waits before the next try: a daemon that has just rejected this launcher would do so again.
    fn lose(&mut self) {
        self.hears_reports = false;
        self.state = State::Away { next_try: Instant::now() + RECONNECT_INTERVAL };
    }

    fn introduce(&self, progress: &Progress) -> Result<Connection, frame::Error> {
        let mut connection = Connection::new(reach(&self.socket)?);
        // Before anything secret arrives, so that no other agent can speak through this process. A daemon without root could not
        // find the process any more where /proc is mounted with `hidepid`, and has only its own user's agents.
        if unix_socket::peer(&connection.stream).map_err(io::Error::from)?.uid.is_root() {
            memory::keep_private();
        }
        connection.write(&FromLauncher::Hello {
            version: WIRE_VERSION,
            name: self.name.clone(),
            attempt: self.attempt,
            fingerprint: self.fingerprint.clone(),
            progress: progress.clone(),
            can_move: true,
            can_renew: true,
            log: self.log,
            conversation: self.conversation.clone(),
            told: self.told.as_ref().map(|told| Box::new(told.in_brief())),
            can_report: true,
        })?;
        Ok(connection)
    }

    /// From now on, this daemon hears what the harness does.
    pub(super) fn begin_reports(&mut self) {
        self.hears_reports = true;
    }

    /// Whether a daemon is connected that hears what the harness does.
    pub(super) fn hears_reports(&self) -> bool {
        self.hears_reports
    }

    /// The harness is in this conversation. The daemon learns of it only if its work said something about conversations, and not too often.
    pub(super) fn is_in(&mut self, id: &SessionId, now: Instant) {
        if self.move_due(Some(id)).is_none_or(|at| at > now) {
            return;
        }
        let Some(taken) = &mut self.conversation else { return };
        taken.id = Some(id.clone());
        self.may_move = now + MOVE_PAUSE;
        self.say(&FromLauncher::Conversation(id.to_string()));
    }

    /// When the daemon may be told that the harness is in this conversation, if it was not.
    pub(super) fn move_due(&self, id: Option<&SessionId>) -> Option<Instant> {
        let taken = self.conversation.as_ref().filter(|taken| id.is_some() && taken.id.as_ref() != id);
        taken.map(|_| self.may_move)
    }

    /// Sends a message if a daemon is connected. If none is, the next one learns from `Hello` how far the launcher is.
    pub(super) fn say(&mut self, message: &FromLauncher) {
        if let State::Connected(connection) = &mut self.state
            && connection.write(message).is_err()
        {
            self.hears_reports = false;
            self.state = State::Away { next_try: Instant::now() };
        }
    }

    /// Waits until the deadline for the next message, from whichever daemon.
    fn attend(&mut self, progress: &Progress, limit: Instant) -> Option<ToLauncher> {
        while Instant::now() < limit {
            if let Some((message, _)) = self.receive(Some(progress)) {
                return Some(message);
            }
            let until = self.due().map_or(limit, |due| due.min(limit));
            let mut descriptors: Vec<PollFd> = readable(self.descriptor()).into_iter().collect();
            poll::wait(&mut descriptors, Some(until)).ok()?;
        }
        None
    }

    /// Waits until the exit is recorded, or no daemon has run for too long.
    pub(super) fn see_noted(&mut self, progress: &Progress) {
        let limit = Instant::now() + DAEMON_TIMEOUT;
        while !matches!(self.attend(progress, limit), None | Some(ToLauncher::Noted)) {}
    }
}

/// Polls a descriptor for reading.
pub(super) fn readable(descriptor: Option<BorrowedFd<'_>>) -> Option<PollFd<'_>> {
    descriptor.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
}

/// Connects without blocking: if the daemon's backlog is full, the next try may succeed.
fn reach(socket: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::agent::conversation::Way;
    use crate::sys::file_id::FileId;

    fn link_to(stream: UnixStream) -> DaemonLink {
        stream.set_nonblocking(true).unwrap();
        let mut link = DaemonLink::new(Path::new("/nonexistent"), "a", 1);
        link.state = State::Connected(Connection::new(stream));
        link
    }

    /// Sends as the daemon does.
    fn send(stream: &UnixStream, message: &ToLauncher, files: &[&File]) {
        let files: Vec<BorrowedFd> = files.iter().map(|file| file.as_fd()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stream = stream.try_clone().unwrap();
        stream.set_nonblocking(true).unwrap();
        runtime.block_on(async {
            let (_reader, mut writer) = tokio::net::UnixStream::from_std(stream).unwrap().into_split();
            frame::write_with(&mut writer, message, &files).await.unwrap();
            // Keeps the other half open.
            writer.forget();
        });
    }

    #[test]
    fn a_daemon_is_not_told_of_each_of_many_conversations() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut link = link_to(far);
        let id = |number: u32| SessionId::try_from(format!("s{number}")).unwrap();
        link.is_in(&id(0), Instant::now());
        assert_eq!(link.move_due(Some(&id(1))), None, "its work said nothing about conversations");
        link.conversation = Some(Taken { id: None, way: Way::New });
        let now = Instant::now();
        for number in 1..100 {
            link.is_in(&id(number), now);
        }
        assert_eq!(link.move_due(Some(&id(99))), Some(now + MOVE_PAUSE));
        link.is_in(&id(99), now + MOVE_PAUSE);
        assert_eq!(link.move_due(Some(&id(99))), None);
        drop(link);
        let mut sent = Vec::new();
        near.read_to_end(&mut sent).unwrap();
        let told = String::from_utf8_lossy(&sent).matches("conversation").count();
        assert_eq!(told, 2, "the first and the last");
    }

    #[test]
    fn unused_descriptors_do_not_go_to_the_next_message() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut link = link_to(far);
        let [one, other] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        send(&near, &ToLauncher::Interrupt, &[&one, &one]);
        send(&near, &ToLauncher::Keep { kept_size: 1 }, &[&other, &other]);
        assert!(matches!(link.receive(None), Some((ToLauncher::Interrupt, _))));
        let Some((ToLauncher::Keep { .. }, files)) = link.receive(None) else { panic!("it is the next message") };
        let files: Vec<FileId> = files.iter().map(|file| FileId::of(file).unwrap()).collect();
        assert_eq!(files, [FileId::of(&other).unwrap(); 2]);
        assert!(link.receive(None).is_none() && link.descriptor().is_some());
    }

    #[test]
    fn a_message_in_pieces_is_read_once_it_is_complete() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut link = link_to(far);
        let frame = frame::encode(&ToLauncher::Keep { kept_size: 7 }).unwrap();
        for (at, byte) in frame.iter().enumerate() {
            assert!(link.receive(None).is_none(), "{at}");
            near.write_all(&[*byte]).unwrap();
        }
        assert!(matches!(link.receive(None), Some((ToLauncher::Keep { kept_size: 7 }, _))));
    }

    #[test]
    fn the_next_daemon_receives_the_progress() {
        let folder = tempfile::TempDir::new().unwrap();
        let socket = folder.path().join("launch.sock");
        let mut link = DaemonLink::new(&socket, "a", 7);
        assert!(link.receive(Some(&Progress::New)).is_none());
        assert!(link.due().is_some_and(|due| due > Instant::now()), "the next try comes later");

        let listener = UnixListener::bind(&socket).unwrap();
        link.state = State::Away { next_try: Instant::now() };
        assert!(
            link.receive(None).is_none() && link.descriptor().is_none(),
            "no daemon is looked for without progress"
        );
        assert!(link.receive(Some(&Progress::New)).is_none() && link.descriptor().is_some());
        let (mut daemon, _) = listener.accept().unwrap();
        let mut head = [0; 4];
        daemon.read_exact(&mut head).unwrap();
        let mut body = vec![0; u32::from_le_bytes(head) as usize];
        daemon.read_exact(&mut body).unwrap();
        let hello = String::from_utf8(body).unwrap();
        assert!(hello.contains("\"attempt\":7") && hello.contains("\"progress\":\"new\""), "{hello}");

        drop(daemon);
        assert!(link.receive(Some(&Progress::New)).is_none() && link.descriptor().is_none());
    }

    #[test]
    fn an_invalid_message_ends_the_connection() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut link = link_to(far);
        near.write_all(b"\x02\0\0\0{}").unwrap();
        assert!(link.receive(None).is_none() && link.descriptor().is_none());
    }

    #[test]
    fn the_wait_for_noted_ends_when_it_arrives() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut link = link_to(far);
        send(&near, &ToLauncher::InterruptAgain, &[]);
        send(&near, &ToLauncher::Noted, &[]);
        let start = Instant::now();
        link.see_noted(&Progress::New);
        assert!(start.elapsed() < WRITE_TIMEOUT);
    }
}
