//! Asking systemd over D-Bus, see `org.freedesktop.systemd1(5)`.
//!
//! Over the system bus. systemd also has a private socket, which `systemctl` uses as root, but what it says there names a sender that
//! no library takes for one.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use zbus::connection::Builder;
use zbus::message::Body;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

use crate::agent::spec::Limits;

const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const JOB: &str = "org.freedesktop.systemd1.Job";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// How long systemd may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long is waited for a unit of the same name to be gone.
const AGAIN: Duration = Duration::from_millis(10);
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// How many questions are asked at once: the bus lets a user have some hundred connections, of which others need some.
static PLACES: Semaphore = Semaphore::const_new(16);

/// The daemon's own unit, where it is the one that the NixOS module defines.
const SERVICE: &str = "agentd.service";

/// The slice of all agents.
pub const SLICE: &str = "agentd.slice";

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
    fn is(&self, name: &str) -> bool {
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

/// Has a process put into a transient scope of its own in [`SLICE`] (`systemd.scope(5)`), whose control group this process may
/// divide. That it is in is to be seen in its `/proc/PID/cgroup`, which can take some milliseconds more.
pub async fn start_scope(name: &str, description: &str, pid: i32, limits: &Limits) -> Result<(), Error> {
    let pid = u32::try_from(pid).unwrap_or_default();
    let mut properties: Vec<(&str, Variant)> = vec![
        ("Description", description.into()),
        ("Slice", SLICE.into()),
        ("PIDs", vec![pid].into()),
        ("Delegate", true.into()),
        ("CollectMode", "inactive-or-failed".into()),
        // When the machine goes down, what is ordered like that is stopped the other way round: agents by their daemon, in peace.
        ("Before", vec![SERVICE].into()),
        ("CPUAccounting", true.into()),
        ("MemoryAccounting", true.into()),
        ("TasksAccounting", true.into()),
    ];
    properties.extend(settings(limits));
    // A process that runs out of memory is not to take the others with it. For scopes since 253; earlier versions leave them alone.
    let mut with_policy = properties.clone();
    with_policy.push(("OOMPolicy", "continue".into()));
    let no_others: Vec<(&str, Vec<(&str, Variant)>)> = Vec::new();
    let mut body = (name, "fail", with_policy, no_others);
    let limit = Instant::now() + PATIENCE;
    loop {
        let started = in_time("start a scope", async {
            call(&connect().await?, MANAGER_PATH, MANAGER, "StartTransientUnit", &body).await.map(drop)
        });
        match started.await {
            Err(error) if error.is(UNIT_EXISTS) => {
                if Instant::now() > limit {
                    return Err(Error::Exists(name.to_owned()));
                }
                // The one before, which has ended, is about to be forgotten.
                sleep(AGAIN).await;
            }
            Err(Error::Bus { source: zbus::Error::MethodError(..), .. }) if body.2.len() > properties.len() => {
                body.2.clone_from(&properties);
            }
            result => return result,
        }
    }
}

/// Changes the limits of a scope that was started so.
pub async fn limit_scope(name: &str, limits: &Limits) -> Result<(), Error> {
    let body = (name, true, settings(limits).to_vec());
    let changed = in_time("change the limits of a scope", async {
        call(&connect().await?, MANAGER_PATH, MANAGER, "SetUnitProperties", &body).await.map(drop)
    });
    changed.await.map_err(|error| if error.is(NO_SUCH_UNIT) { Error::NoUnit(name.to_owned()) } else { error })
}

/// As properties, see `systemd.resource-control(5)`: the largest number stands for none.
fn settings(limits: &Limits) -> [(&'static str, Variant<'static>); 3] {
    const MICROSECONDS_PER_PERCENT: u64 = 10_000;
    let cpu = limits.cpu.map(|percent| percent.saturating_mul(MICROSECONDS_PER_PERCENT));
    let setting = |name, limit: Option<u64>| (name, limit.unwrap_or(u64::MAX).into());
    [setting("MemoryMax", limits.memory), setting("TasksMax", limits.tasks), setting("CPUQuotaPerSecUSec", cpu)]
}

async fn connect() -> zbus::Result<Connection> {
    Builder::address(SYSTEM_BUS).build().await
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

async fn in_time<T>(operation: &'static str, work: impl Future<Output = zbus::Result<T>>) -> Result<T, Error> {
    // It is never closed.
    let _place = PLACES.acquire().await;
    match timeout(PATIENCE, work).await {
        Ok(result) => result.map_err(|source| Error::Bus { operation, source }),
        Err(_) => Err(Error::TimedOut { operation }),
    }
}
