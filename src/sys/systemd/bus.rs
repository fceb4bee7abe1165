//! A client of systemd over D-Bus, see `org.freedesktop.systemd1(5)`.
//!
//! It uses the system bus. systemd also has a private socket, which `systemctl` uses as root, but its messages name a sender that
//! no library accepts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use zbus::connection::Builder;
use zbus::message::Body;
use zbus::{Connection, OwnedObjectPath, OwnedVariant};

const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
pub(crate) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
pub(crate) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const JOB: &str = "org.freedesktop.systemd1.Job";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// How many requests are under way at once. The bus refuses a connection that awaits more than 128 replies (`dbus-daemon(1)`,
/// `max_replies_per_connection`), and while there is no connection, each request opens one.
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
    #[error("failed to change the limits of a scope with systemd: there is no unit {0}")]
    NoUnit(String),
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

/// A client of systemd.
///
/// One connection to the system bus serves all requests: the bus allows a user some hundred connections, and other programs need
/// some. It is made for the first request, and again after the bus was gone. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Systemd {
    bus: Arc<str>,
    connection: Arc<Mutex<Option<Connection>>>,
    places: Arc<Semaphore>,
}

impl Default for Systemd {
    fn default() -> Self {
        Self::on(SYSTEM_BUS)
    }
}

impl Systemd {
    /// A client on the bus with this address. Does not connect yet.
    fn on(bus: &str) -> Self {
        Self { bus: bus.into(), connection: Arc::default(), places: Arc::new(Semaphore::new(MAX_REQUESTS)) }
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

    async fn ask<T, F>(&self, operation: &'static str, question: impl Fn(Connection) -> F) -> Result<T, Error>
    where
        F: Future<Output = zbus::Result<T>>,
    {
        let work = async {
            if let Some(held) = self.held() {
                match question(held).await {
                    // The bus has gone away since. If a connection to the next one fails, too, that counts.
                    Err(zbus::Error::InputOutput(_)) => {}
                    answer => return answer,
                }
            }
            question(self.connect().await?).await
        };
        let Ok(result) = timeout(ANSWER_TIMEOUT, work).await else {
            // The connection may be at fault.
            self.hold(None);
            return Err(Error::TimedOut { operation });
        };
        result.map_err(|source| Error::Bus { operation, source })
    }

    /// The connection, unless it is known to be closed.
    fn held(&self) -> Option<Connection> {
        let held = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone().filter(|connection| !connection.is_closed())
    }

    fn hold(&self, connection: Option<Connection>) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
    }

    /// Of several concurrent connections, the last one is kept, and the others are closed after their answer.
    async fn connect(&self) -> zbus::Result<Connection> {
        let connection = Builder::address(&*self.bus).build().await?;
        self.hold(Some(connection.clone()));
        Ok(connection)
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
    }

    impl Bus {
        fn new() -> Self {
            Self { folder: TempDir::new().unwrap(), connections: Arc::default(), calls: Arc::default() }
        }

        fn address(&self) -> String {
            format!("unix:path={}", self.folder.path().join("bus").display())
        }

        /// Serves until the task is aborted, which closes all connections.
        fn start(&self) -> JoinHandle<()> {
            let path = self.folder.path().join("bus");
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(path).unwrap();
            let (connections, calls) = (Arc::clone(&self.connections), Arc::clone(&self.calls));
            tokio::spawn(async move {
                let mut members = tokio::task::JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.fetch_add(1, Ordering::Relaxed);
                    members.spawn(serve(stream, Arc::clone(&calls)));
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
            } else {
                calls.fetch_add(1, Ordering::Relaxed);
                connection.reply(&header, &()).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn all_requests_share_one_connection() {
        let bus = Bus::new();
        let _serving = bus.start();
        let systemd = Systemd::on(&bus.address());
        for _ in 0..3 {
            systemd.clone().call_manager("test", "Test", &()).await.unwrap();
        }
        assert_eq!(bus.counts(), (1, 3));
    }

    #[tokio::test]
    async fn many_requests_at_once_open_few_connections() {
        let bus = Bus::new();
        let _serving = bus.start();
        let systemd = Systemd::on(&bus.address());
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..300 {
            let systemd = systemd.clone();
            requests.spawn(async move { systemd.call_manager("test", "Test", &()).await });
        }
        while let Some(answer) = requests.join_next().await {
            answer.unwrap().unwrap();
        }
        let (connections, calls) = bus.counts();
        assert!(connections <= MAX_REQUESTS && calls == 300, "{connections} connections, {calls} calls");
    }

    #[tokio::test]
    async fn a_request_after_the_bus_was_gone_connects_to_the_next_one() {
        let bus = Bus::new();
        let systemd = Systemd::on(&bus.address());
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
