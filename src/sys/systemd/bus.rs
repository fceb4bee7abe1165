//! A client of systemd over D-Bus, see `org.freedesktop.systemd1(5)`.
//!
//! It uses the system bus. systemd also has a private socket, which `systemctl` uses as root, but its messages name a sender that
//! no library accepts.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zbus::connection::Builder;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;
use zbus::message::Body;
use zbus::{Connection, OwnedObjectPath, OwnedVariant};

const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
pub(crate) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
pub(crate) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const JOB: &str = "org.freedesktop.systemd1.Job";
pub(crate) const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// How many requests are under way at once: the bus allows a user some hundred connections, and other programs need some.
const MAX_REQUESTS: usize = 16;

/// How long systemd may take to answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a request to systemd failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// systemd refused, or could not be reached.
    #[error("failed to {operation} with systemd: {source}")]
    Bus {
        /// The operation.
        operation: &'static str,
        /// The reason.
        source: zbus::Error,
    },
    /// A unit of that name exists, and does not go away.
    #[error("failed to start a scope with systemd: there is another unit {0}; stop it (systemctl stop)")]
    Exists(String),
    /// No unit of that name exists.
    #[error("failed to {operation} with systemd: the unit {name} does not exist")]
    NoUnit {
        /// The operation.
        operation: &'static str,
        /// The unit.
        name: String,
    },
    /// systemd did not answer.
    #[error("failed to {operation} with systemd: no answer within {}", humantime::format_duration(ANSWER_TIMEOUT))]
    TimedOut {
        /// The operation.
        operation: &'static str,
    },
}

impl Error {
    /// Whether it is the D-Bus error with this name.
    pub(crate) fn is(&self, name: &str) -> bool {
        matches!(self, Self::Bus { source: zbus::Error::MethodError(error, ..), .. } if error.as_str() == name)
    }
}

/// The kind of job on a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// The unit is stopped, and started again.
    Restart,
    /// Anything else.
    Other,
}

/// A client of systemd. Cheap to clone.
///
/// Each request has a connection of its own, which is closed after the answer: every user may send messages to a connection of the
/// bus, and root would have to take them in as long as it is open.
#[derive(Clone, Debug)]
pub struct Systemd {
    socket: Arc<Path>,
    places: Arc<Semaphore>,
}

impl Default for Systemd {
    fn default() -> Self {
        Self::on(Path::new(SYSTEM_BUS))
    }
}

impl Systemd {
    /// A client of the manager that this process is a unit of: that of its user, or that of the system.
    pub fn of_this_process() -> Self {
        match super::user_runtime_dir() {
            Some(runtime_dir) => Self::on(&runtime_dir.join("bus")),
            None => Self::default(),
        }
    }

    /// A client of a user's own manager, wherever this process belongs.
    pub fn of_user(user: Uid) -> Self {
        Self::on(&Path::new("/run/user").join(user.to_string()).join("bus"))
    }

    /// A client on the bus with this socket. Does not connect yet.
    pub(crate) fn on(socket: &Path) -> Self {
        Self { socket: socket.into(), places: Arc::new(Semaphore::new(MAX_REQUESTS)) }
    }

    /// The job on the unit that this process belongs to; `None` if there is none.
    pub async fn job(&self) -> Result<Option<Job>, Error> {
        self.ask("ask for this unit's job", |connection| async move {
            let reply = call(&connection, MANAGER_PATH, MANAGER, "GetUnitByPID", &(std::process::id(),)).await?;
            let unit: OwnedObjectPath = reply.deserialize()?;
            let (number, job): (u32, OwnedObjectPath) = property(&connection, &unit, UNIT, "Job").await?.try_into()?;
            if number == 0 {
                return Ok(None);
            }
            let kind: String = property(&connection, &job, JOB, "JobType").await?.try_into()?;
            Ok(Some(if kind.ends_with("restart") { Job::Restart } else { Job::Other }))
        })
        .await
    }

    /// What systemd kills when it stops the service that a process belongs to, see `KillMode=` in `systemd.kill(5)`.
    pub async fn kill_mode(&self, pid: i32) -> Result<String, Error> {
        let pid = u32::try_from(pid).unwrap_or_default();
        self.ask("ask for the kill mode", |connection| async move {
            let unit: OwnedObjectPath =
                call(&connection, MANAGER_PATH, MANAGER, "GetUnitByPID", &(pid,)).await?.deserialize()?;
            property(&connection, &unit, SERVICE, "KillMode").await?.try_into()
        })
        .await
    }

    /// Asks for a unit to be started. It may not have started yet when this returns.
    pub async fn start_unit(&self, name: &str) -> Result<(), Error> {
        match self.call_manager("start a unit", "StartUnit", &(name, "replace")).await {
            Err(error) if error.is(NO_SUCH_UNIT) => {
                Err(Error::NoUnit { operation: "start a unit", name: name.to_owned() })
            }
            result => result,
        }
    }

    /// Calls a method of systemd's manager whose result does not matter.
    pub(crate) async fn call_manager<B>(&self, operation: &'static str, method: &str, body: &B) -> Result<(), Error>
    where
        B: serde::Serialize + zbus::DynamicType + Sync,
    {
        let question =
            |connection| async move { call(&connection, MANAGER_PATH, MANAGER, method, body).await.map(drop) };
        // The semaphore is never closed. Waiting for a place is not part of the time that systemd has.
        let _place = self.places.acquire().await;
        self.ask(operation, question).await
    }

    async fn ask<T, F>(&self, operation: &'static str, request: impl FnOnce(Connection) -> F) -> Result<T, Error>
    where
        F: Future<Output = zbus::Result<T>>,
    {
        let work = async {
            let stream = UnixStream::connect(&self.socket).await?;
            let connection = Builder::socket(Bytes(stream)).build().await?;
            let answer = request(connection.clone()).await;
            // Dropping it closes it as well, but not at once.
            let _ = connection.close().await;
            answer
        };
        match timeout(ANSWER_TIMEOUT, work).await {
            Ok(result) => result.map_err(|source| Error::Bus { operation, source }),
            Err(_) => Err(Error::TimedOut { operation }),
        }
    }
}

/// A socket that carries bytes and no file descriptors.
///
/// A bus passes descriptors only to a client that asked for them. Any user could send one, and closing it can take forever: for a file
/// of FUSE the kernel asks the process that serves it (`close(2)`).
#[derive(Debug)]
struct Bytes(UnixStream);

#[derive(Debug)]
struct Reader(OwnedReadHalf);

#[derive(Debug)]
struct Writer(OwnedWriteHalf);

impl Socket for Bytes {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let (reader, writer) = self.0.into_split();
        Split::new(Reader(reader), Writer(writer))
    }
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        Ok((self.0.read(buffer).await?, Vec::new()))
    }
}

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], _descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.0.write(buffer).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}

async fn call<B>(connection: &Connection, path: &str, interface: &str, method: &str, body: &B) -> zbus::Result<Body>
where
    B: serde::Serialize + zbus::DynamicType,
{
    Ok(connection.call_method(Some(SYSTEMD), path, Some(interface), method, body).await?.body())
}

async fn property(
    connection: &Connection,
    path: &OwnedObjectPath,
    interface: &str,
    name: &str,
) -> zbus::Result<OwnedVariant> {
    let body = call(connection, path.as_str(), PROPERTIES, "Get", &(interface, name)).await?;
    body.deserialize()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::path::PathBuf;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tempfile::TempDir;
    use tokio::net::UnixListener;
    use tokio::task::JoinHandle;
    use zbus::export::futures_core::Stream;

    use super::*;

    /// A bus whose only other member answers every call with nothing, and counts connections.
    struct Bus {
        folder: TempDir,
        connections: Arc<AtomicUsize>,
        calls: Arc<AtomicUsize>,
        /// The connections that are open now, and the most there were at once.
        open: Arc<AtomicUsize>,
        peak: Arc<AtomicUsize>,
    }

    impl Bus {
        fn new() -> Self {
            Self {
                folder: TempDir::new().unwrap(),
                connections: Arc::default(),
                calls: Arc::default(),
                open: Arc::default(),
                peak: Arc::default(),
            }
        }

        fn socket(&self) -> PathBuf {
            self.folder.path().join("bus")
        }

        /// Serves until the task is aborted, which closes all connections.
        fn start(&self) -> JoinHandle<()> {
            let path = self.socket();
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(path).unwrap();
            let (connections, calls) = (Arc::clone(&self.connections), Arc::clone(&self.calls));
            let (open, peak) = (Arc::clone(&self.open), Arc::clone(&self.peak));
            tokio::spawn(async move {
                let mut members = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.fetch_add(1, Ordering::Relaxed);
                    peak.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                    let (calls, open) = (Arc::clone(&calls), Arc::clone(&open));
                    members.spawn(async move {
                        serve(stream, calls).await;
                        open.fetch_sub(1, Ordering::Relaxed);
                    });
                }
            })
        }

        fn counts(&self) -> (usize, usize) {
            (self.connections.load(Ordering::Relaxed), self.calls.load(Ordering::Relaxed))
        }
    }

    async fn serve(stream: tokio::net::UnixStream, calls: Arc<AtomicUsize>) {
        let guid = "0123456789abcdef0123456789abcdef";
        let stream = stream.into_std().unwrap();
        let connection = Builder::unix_stream(stream).server(guid).p2p().build().await.unwrap();
        let mut messages = zbus::MessageStream::from(&connection);
        while let Some(Ok(message)) = poll_fn(|context| Pin::new(&mut messages).poll_next(context)).await {
            let header = message.header();
            if header.member().is_some_and(|member| member == "Hello") {
                connection.reply(&header, &":1.1").await.unwrap();
            } else if header.member().is_some_and(|member| member == "StartUnit") {
                connection.reply_error(&header, NO_SUCH_UNIT, &"Unit not found.").await.unwrap();
            } else {
                calls.fetch_add(1, Ordering::Relaxed);
                connection.reply(&header, &()).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_connection_is_closed_after_its_answer() {
        let bus = Bus::new();
        let _serving = bus.start();
        let systemd = Systemd::on(&bus.socket());
        for _ in 0..3 {
            systemd.clone().call_manager("test", "Test", &()).await.unwrap();
        }
        assert_eq!(bus.counts(), (3, 3));
        while bus.open.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_unit_that_does_not_exist_is_named() {
        let bus = Bus::new();
        let _serving = bus.start();
        let error = Systemd::on(&bus.socket()).start_unit("a@b.service").await.unwrap_err().to_string();
        assert_eq!(error, "failed to start a unit with systemd: the unit a@b.service does not exist");
    }

    #[tokio::test]
    async fn a_client_never_asks_for_file_descriptors() {
        let bus = Bus::new();
        let listener = UnixListener::bind(bus.socket()).unwrap();
        let systemd = Systemd::on(&bus.socket());
        let request = tokio::spawn(async move { systemd.call_manager("test", "Test", &()).await });
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut heard, mut is_greeted) = (String::new(), false);
        while !heard.contains("BEGIN") {
            let mut buffer = [0; 512];
            let read = stream.read(&mut buffer).await.unwrap();
            assert_ne!(read, 0, "{heard}");
            heard.push_str(&String::from_utf8_lossy(&buffer[..read]));
            if heard.contains("AUTH EXTERNAL") && !std::mem::replace(&mut is_greeted, true) {
                stream.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n").await.unwrap();
            }
        }
        assert!(!heard.contains("NEGOTIATE_UNIX_FD"), "{heard}");
        drop(stream);
        request.await.unwrap().unwrap_err();
    }

    #[tokio::test]
    async fn many_requests_at_once_open_few_connections() {
        let bus = Bus::new();
        let _serving = bus.start();
        let systemd = Systemd::on(&bus.socket());
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..300 {
            let systemd = systemd.clone();
            requests.spawn(async move { systemd.call_manager("test", "Test", &()).await });
        }
        while let Some(answer) = requests.join_next().await {
            answer.unwrap().unwrap();
        }
        assert_eq!(bus.counts(), (300, 300));
        let peak = bus.peak.load(Ordering::Relaxed);
        // One that was just closed may not be known to be.
        assert!(peak <= 2 * MAX_REQUESTS, "{peak} connections at once");
    }

    #[tokio::test]
    async fn a_request_after_the_bus_was_gone_connects_to_the_next_one() {
        let bus = Bus::new();
        let systemd = Systemd::on(&bus.socket());
        systemd.call_manager("test", "Test", &()).await.unwrap_err();
        for round in 1..=3 {
            let serving = bus.start();
            systemd.call_manager("test", "Test", &()).await.unwrap();
            assert_eq!(bus.counts(), (round, round));
            serving.abort();
            let _ = serving.await;
        }
        std::fs::remove_file(bus.folder.path().join("bus")).unwrap();
        systemd.call_manager("test", "Test", &()).await.unwrap_err();
    }
}
