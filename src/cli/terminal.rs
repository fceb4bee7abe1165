//! A connection to the daemon's terminal socket.
//!
//! Once an operator is attached, the other side has the agent user's rights. What it sends is hostile: frames are bounded, messages
//! are escaped, and anything unexpected ends the connection.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::agent::name::Name;
use crate::sys::unix_socket;
use crate::wire::terminal::{self, Decoder, End, Kind, Malformed, Request, Why};

/// How long the daemon may take to answer. tmux may take 10 s, and the first reading of the declarations 4 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);

/// Why the socket is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No daemon listens.
    #[error("agentd does not run, or is too old: nothing listens on {}; agentd doctor says more", .0.display())]
    Absent(PathBuf),
    /// This user may not use it.
    #[error("you are not a member of group {group}, which may use {}. An administrator can add you; log in again after that:\n\n    sudo usermod -aG {group} {user}\n", socket.display())]
    Denied { socket: PathBuf, group: String, user: String },
    /// The group is not known, for example because the folder is closed.
    #[error("permission denied at {}; only root and members of the operators' group (--operator-group) may use it", .0.display())]
    Closed(PathBuf),
    /// Somebody else serves it.
    #[error("user {uid} serves {}, not agentd; do not use it", socket.display())]
    Stranger { socket: PathBuf, uid: Uid },
    /// The path does not fit into a socket address.
    #[error(transparent)]
    Address(#[from] unix_socket::Error),
    /// The connection failed.
    #[error("the connection to agentd failed: {0}")]
    Io(#[from] io::Error),
    /// The connection ended without an answer.
    #[error("the connection to agentd broke; the agent is not affected")]
    Gone,
    /// Nothing was answered in time.
    #[error("agentd did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Silent,
    /// The answer is not understood.
    #[error("the other side sent {0}")]
    Malformed(#[from] Malformed),
    /// The daemon refused.
    #[error("{message}")]
    Refused { why: Why, message: String },
}

impl Error {
    /// Whether there was no connection because this user may not connect.
    pub(super) fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Closed(_))
            || matches!(self, Self::Refused { why: Why::Forbidden, .. })
    }

    /// Whether nothing is known, as exit status 4 says it: no such agent, no answer, or no right to ask.
    pub(super) fn is_unknown(&self) -> bool {
        self.is_denied() || matches!(self, Self::Absent(_) | Self::Silent) || self.why() == Some(Why::Unknown)
    }

    /// What to ask next.
    pub(super) fn hint(&self, agent: &Name) -> String {
        match self.why() {
            Some(Why::NotRunning) => format!("; agentd explain {agent} says more"),
            _ => String::new(),
        }
    }

    /// The kind of a refusal.
    pub(super) fn why(&self) -> Option<Why> {
        match self {
            Self::Refused { why, .. } => Some(*why),
            _ => None,
        }
    }
}

/// The connection.
pub(super) struct Connection {
    pub(super) reader: Reader,
    pub(super) writer: OwnedWriteHalf,
}

/// The half that the answers come from.
pub(super) struct Reader {
    half: OwnedReadHalf,
    decoder: Decoder,
}

impl Connection {
    /// Connects, and makes a request.
    pub(super) async fn open(socket: &Path, request: &Request) -> Result<Self, Error> {
        unix_socket::check_length(socket)?;
        let stream = UnixStream::connect(socket).await.map_err(|error| refused(socket, error))?;
        let server = unix_socket::peer(&stream).map_err(io::Error::from)?;
        if !server.uid.is_root() && server.uid != Uid::effective() {
            return Err(Error::Stranger { socket: socket.to_owned(), uid: server.uid });
        }
        let (half, mut writer) = stream.into_split();
        // If it cannot be written, the answer says why.
        let _ = writer.write_all(&terminal::json(Kind::Request, request)).await;
        Ok(Self { reader: Reader { half, decoder: Decoder::default() }, writer })
    }

    /// The next answer, which must come in time.
    pub(super) async fn answer(&mut self) -> Result<(Kind, Vec<u8>), Error> {
        match timeout(ANSWER_TIMEOUT, self.reader.next()).await {
            Ok(frame) => frame,
            Err(_) => Err(Error::Silent),
        }
    }
}

impl Reader {
    /// The next frame. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<(Kind, Vec<u8>), Error> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            match self.half.read(&mut bytes).await {
                Ok(count @ 1..) => self.decoder.push(&bytes[..count]),
                Ok(0) => return Err(Error::Gone),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(Error::Gone),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reads the server's last word. A failure is an error.
pub(super) fn end(body: &[u8]) -> Result<End, Error> {
    match terminal::read(body)? {
        End::Failed { why, message } => Err(Error::Refused { why, message }),
        end => Ok(end),
    }
}

fn refused(socket: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::Absent(socket.to_owned()),
        io::ErrorKind::PermissionDenied => {
            let group = std::fs::metadata(socket).ok().and_then(|metadata| users::get_group_by_gid(metadata.gid()));
            let user = users::get_current_username();
            match (group, user) {
                (Some(group), Some(user)) => Error::Denied {
                    socket: socket.to_owned(),
                    group: group.name().to_string_lossy().into_owned(),
                    user: user.to_string_lossy().into_owned(),
                },
                _ => Error::Closed(socket.to_owned()),
            }
        }
        _ => error.into(),
    }
}
