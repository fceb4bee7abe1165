//! The launcher's connection to the daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::timeout;

use super::protocol::{FromLauncher, Log, MAX_TO_LAUNCHER, Progress, ToLauncher, WIRE_VERSION};
use crate::agent::fingerprint::Fingerprint;
use crate::sys::fd_passing::Receiver;
use crate::sys::frame;
use crate::sys::memory;

/// How long a daemon may take to take in a message.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the next daemon is looked for when there is none. The API must be true within a second of its start.
const BETWEEN_DAEMONS: Duration = Duration::from_millis(300);

/// How long a daemon is looked for that says what to launch, or notes how the harness ended. After that tmux has to remember it.
pub(super) const PATIENCE_WITH_DAEMONS: Duration = Duration::from_mins(1);

/// The connection to the daemon: to this one, or to the one that comes after it.
pub(super) struct DaemonLink {
    pub(super) socket: PathBuf,
    pub(super) name: String,
    attempt: u64,
    /// Of what it was told to launch.
    pub(super) fingerprint: Option<Fingerprint>,
    /// Where what is printed is written.
    pub(super) log: Option<Log>,
    connection: Option<Connection>,
    /// What has come with its latest message.
    descriptors: Vec<OwnedFd>,
}

struct Connection {
    reader: frame::Reader<Receiver>,
    writer: OwnedWriteHalf,
}

impl Connection {
    /// The next message and the descriptors that have come with it; `None` when there is none any more. Those of a message that does
    /// not use them must not be taken for the next one's. Cancel-safe.
    async fn read(&mut self) -> Option<(ToLauncher, Vec<OwnedFd>)> {
        let message = self.reader.read().await.ok().flatten()?;
        Some((message, self.reader.source_mut().take_descriptors()))
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
            connection: None,
            descriptors: Vec::new(),
        }
    }

    async fn introduce(&mut self, progress: Progress) -> io::Result<()> {
        let stream = UnixStream::connect(&self.socket).await?;
        // Before it is told anything, and lest another agent speaks through it. A daemon without root could not find it any more
        // where /proc is mounted with `hidepid`, and has no agents but its own user's.
        if stream.peer_cred()?.uid() == 0 {
            memory::keep_private();
        }
        let (reader, writer) = stream.into_split();
        let reader = frame::Reader::new(Receiver::new(reader), MAX_TO_LAUNCHER);
        let mut connection = Connection { reader, writer };
        let hello = FromLauncher::Hello {
            version: WIRE_VERSION,
            name: self.name.clone(),
            attempt: self.attempt,
            fingerprint: self.fingerprint.clone(),
            progress,
            can_move: true,
            log: self.log,
        };
        frame::write(&mut connection.writer, &hello).await.map_err(io::Error::other)?;
        self.connection = Some(connection);
        Ok(())
    }

    /// What has come with its latest message.
    pub(super) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// Says it if there is a daemon. That there is none is no reason to stop: the next one will hear how far things have come.
    pub(super) async fn say(&mut self, message: &FromLauncher) {
        if let Some(connection) = &mut self.connection
            && !matches!(timeout(PATIENCE, frame::write(&mut connection.writer, message)).await, Ok(Ok(())))
        {
            self.connection = None;
        }
    }

    /// The next message of this daemon or, if it has gone, of the one that comes after it, which is told how far things have come.
    /// Cancel-safe: a connection that is being made is made again.
    pub(super) async fn attend(&mut self, progress: &Progress) -> ToLauncher {
        loop {
            if let Some(connection) = &mut self.connection {
                if let Some((message, descriptors)) = connection.read().await {
                    self.descriptors = descriptors;
                    return message;
                }
                self.connection = None;
                // Whoever turned this launcher away at once would do so again.
                tokio::time::sleep(BETWEEN_DAEMONS).await;
            } else if !matches!(timeout(PATIENCE, self.introduce(progress.clone())).await, Ok(Ok(()))) {
                tokio::time::sleep(BETWEEN_DAEMONS).await;
            }
        }
    }

    /// Waits for the order to stop of this daemon. Cancel-safe.
    pub(super) async fn interrupted(&mut self) {
        while let Some(connection) = &mut self.connection {
            match connection.read().await {
                Some((ToLauncher::Interrupt | ToLauncher::InterruptAgain | ToLauncher::Unwanted, _)) => return,
                Some(_) => {}
                None => self.connection = None,
            }
        }
        // The next one is told what has come of it.
        std::future::pending::<()>().await;
    }

    /// Waits until how it ended is on record, or nobody has been there for too long.
    pub(super) async fn see_noted(&mut self, progress: &Progress) {
        let noted = async { while !matches!(self.attend(progress).await, ToLauncher::Noted) {} };
        let _ = timeout(PATIENCE_WITH_DAEMONS, noted).await;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::logs::FileId;

    #[tokio::test]
    async fn descriptors_that_a_message_does_not_use_are_not_the_next_ones() {
        let (near, far) = UnixStream::pair().unwrap();
        let (_reader, mut sender) = near.into_split();
        let (reader, writer) = far.into_split();
        let mut daemon = DaemonLink::new(Path::new("/nonexistent"), "a", 1);
        daemon.connection =
            Some(Connection { reader: frame::Reader::new(Receiver::new(reader), MAX_TO_LAUNCHER), writer });
        let [one, other] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let keep = ToLauncher::Keep { kept_size: 1 };
        for (message, file) in [(&ToLauncher::Interrupt, &one), (&keep, &other)] {
            frame::write_with(&mut sender, message, &[file.as_fd(), file.as_fd()]).await.unwrap();
        }
        let mut next = async || daemon.attend(&Progress::New).await;
        assert!(matches!(next().await, ToLauncher::Interrupt));
        assert!(matches!(next().await, ToLauncher::Keep { .. }));
        let files: Vec<FileId> = daemon.take_descriptors().iter().map(|file| FileId::of(file).unwrap()).collect();
        assert_eq!(files, [FileId::of(&other).unwrap(); 2]);
    }
}
