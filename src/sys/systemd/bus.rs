//! Asking systemd over D-Bus, see `org.freedesktop.systemd1(5)`.
//!
//! Over the system bus. systemd also has a private socket, which `systemctl` uses as root, but what it says there names a sender that
//! no library takes for one.

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

/// How long systemd may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How many questions are asked at once: the bus lets a user have some hundred connections, of which others need some.
static PLACES: Semaphore = Semaphore::const_new(16);

/// Why systemd did not tell or do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It refused, or could not be reached.
    #[error("failed to {operation} with systemd: {source}")]
    Bus {
        /// What was asked.
        operation: &'static str,
        /// The reason.
        source: zbus::Error,
    },
    /// There is a unit of that name, which does not go.
    #[error("failed to start a scope with systemd: there is another unit {0}; stop it (systemctl stop)")]
    Exists(String),
    /// There is no such unit.
    #[error("failed to change the limits of a scope with systemd: there is no unit {0}")]
    NoUnit(String),
    /// It did not answer.
    #[error("failed to {operation} with systemd: no answer within {}", humantime::format_duration(PATIENCE))]
    TimedOut {
        /// What was asked.
        operation: &'static str,
    },
}

impl Error {
    /// Whether it is this error of D-Bus's.
    pub(crate) fn is(&self, name: &str) -> bool {
        matches!(self, Self::Bus { source: zbus::Error::MethodError(error, ..), .. } if error.as_str() == name)
    }
}

/// What is being done to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// It is stopped, and started again.
    Restart,
    /// Anything else.
    Other,
}

/// What is being done to the unit that this process belongs to; `None` if nothing is.
pub async fn job() -> Result<Option<Job>, Error> {
    in_time("ask for this unit's job", async {
        let connection = connect().await?;
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

pub(crate) async fn connect() -> zbus::Result<Connection> {
    Builder::address(SYSTEM_BUS).build().await
}

pub(crate) async fn call<B>(
    connection: &Connection,
    path: &str,
    interface: &str,
    method: &str,
    body: &B,
) -> zbus::Result<Body>
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

pub(crate) async fn in_time<T>(
    operation: &'static str,
    work: impl Future<Output = zbus::Result<T>>,
) -> Result<T, Error> {
    // It is never closed.
    let _place = PLACES.acquire().await;
    match timeout(PATIENCE, work).await {
        Ok(result) => result.map_err(|source| Error::Bus { operation, source }),
        Err(_) => Err(Error::TimedOut { operation }),
    }
}
