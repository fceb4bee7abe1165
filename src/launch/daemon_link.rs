//! The launcher's connection to the daemon.
//!
//! Nothing here waits, except for a daemon to take in a message. The caller waits for the descriptor and the deadline, together with
//! everything else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use zeroize::Zeroizing;

use super::protocol::{FromLauncher, Log, MAX_TO_LAUNCHER, Progress, ToLauncher, WIRE_VERSION};
use crate::agent::fingerprint::Fingerprint;
use crate::sys::frame::{self, Decoder};
use crate::sys::{fd, fd_passing, memory, poll, unix_socket};

/// How long a daemon may take to take in a message.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the next daemon is looked for when there is none. The API must be true within a second of its start.
const BETWEEN_DAEMONS: Duration = Duration::from_millis(300);

/// How long to look for a daemon that sends the work or notes the exit. After that, tmux's `pane_dead_status` is the only record.
pub(super) const PATIENCE_WITH_DAEMONS: Duration = Duration::from_mins(1);

/// How much is received at once.
const PIECE: usize = 4096;

/// The connection to the daemon: to this one, or to the one that comes after it.
pub(super) struct DaemonLink {
    pub(super) socket: PathBuf,
    pub(super) name: String,
    attempt: u64,
    /// Of what it was told to launch.
    pub(super) fingerprint: Option<Fingerprint>,
    /// Where what is printed is written.
    pub(super) log: Option<Log>,
    state: State,
}

enum State {
    Connected(Connection),
    Away { next_try: Instant },
}

/// What the daemon has said, and the descriptors that have come with it.
pub(super) type Said = (ToLauncher, Vec<OwnedFd>);

struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    /// Those of the frame that is arriving.
    descriptors: Vec<OwnedFd>,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self { stream, decoder: Decoder::new(MAX_TO_LAUNCHER), descriptors: Vec::new() }
    }

    /// The next message, if it has arrived. Descriptors of a message that does not use them must not be taken for the next one's. An
    /// error means that there is nothing more to come.
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
            state: State::Away { next_try: Instant::now() },
        }
    }

    /// What is readable when there is something to [receive](Self::receive).
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

    /// The next message of this daemon, if it has arrived, or of the one that comes after it. That one is told how far things have
    /// come; without that, none is looked for.
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

    /// A daemon that rejected this launcher at once would do so again.
    fn lose(&mut self) {
        self.state = State::Away { next_try: Instant::now() + BETWEEN_DAEMONS };
    }

    fn introduce(&self, progress: &Progress) -> Result<Connection, frame::Error> {
        let mut connection = Connection::new(reach(&self.socket)?);
        // Before it is told anything, and lest another agent speaks through it. A daemon without root could not find it any more
        // where /proc is mounted with `hidepid`, and has no agents but its own user's.
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
            log: self.log,
        })?;
        Ok(connection)
    }

    /// Says it if there is a daemon. That there is none is no reason to stop: the next one will hear how far things have come.
    pub(super) fn say(&mut self, message: &FromLauncher) {
        if let State::Connected(connection) = &mut self.state
            && connection.write(message).is_err()
        {
            self.state = State::Away { next_try: Instant::now() };
        }
    }

    /// Waits for the next message, of whichever daemon, until then.
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

    /// Waits until how it ended is on record, or nobody has been there for too long.
    pub(super) fn see_noted(&mut self, progress: &Progress) {
        let limit = Instant::now() + PATIENCE_WITH_DAEMONS;
        while !matches!(self.attend(progress, limit), None | Some(ToLauncher::Noted)) {}
    }
}

/// A descriptor to be waited for until it is readable.
pub(super) fn readable(descriptor: Option<BorrowedFd<'_>>) -> Option<PollFd<'_>> {
    descriptor.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
}

/// Connects without waiting: where daemons have no time for it, the next try may find some.
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
    use crate::sys::file_id::FileId;

    fn link_to(stream: UnixStream) -> DaemonLink {
        stream.set_nonblocking(true).unwrap();
        let mut link = DaemonLink::new(Path::new("/nonexistent"), "a", 1);
        link.state = State::Connected(Connection::new(stream));
        link
    }

    /// As the daemon sends it.
    fn send(stream: &UnixStream, message: &ToLauncher, files: &[&File]) {
        let files: Vec<BorrowedFd> = files.iter().map(|file| file.as_fd()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stream = stream.try_clone().unwrap();
        stream.set_nonblocking(true).unwrap();
        runtime.block_on(async {
            let (_reader, mut writer) = tokio::net::UnixStream::from_std(stream).unwrap().into_split();
            frame::write_with(&mut writer, message, &files).await.unwrap();
            // Others have the other half open.
            writer.forget();
        });
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
    fn a_message_that_arrives_in_pieces_is_read_when_it_is_whole() {
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
    fn the_next_daemon_is_told_how_far_things_have_come() {
        let folder = tempfile::TempDir::new().unwrap();
        let socket = folder.path().join("launch.sock");
        let mut link = DaemonLink::new(&socket, "a", 7);
        assert!(link.receive(Some(&Progress::New)).is_none());
        assert!(link.due().is_some_and(|due| due > Instant::now()), "it is looked for again, and not at once");

        let listener = UnixListener::bind(&socket).unwrap();
        link.state = State::Away { next_try: Instant::now() };
        assert!(link.receive(None).is_none() && link.descriptor().is_none(), "none is looked for without progress");
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
    fn what_cannot_be_understood_ends_the_connection() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut link = link_to(far);
        near.write_all(b"\x02\0\0\0{}").unwrap();
        assert!(link.receive(None).is_none() && link.descriptor().is_none());
    }

    #[test]
    fn a_note_ends_the_wait_for_it() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut link = link_to(far);
        send(&near, &ToLauncher::InterruptAgain, &[]);
        send(&near, &ToLauncher::Noted, &[]);
        let start = Instant::now();
        link.see_noted(&Progress::New);
        assert!(start.elapsed() < WRITE_TIMEOUT);
    }
}
