//! Transient systemd scopes: the control group of an agent, and that of the tmux server.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use zbus::Variant;

use crate::agent::spec::Limits;
use crate::sys::procfs;
use crate::sys::systemd::bus::{ANSWER_TIMEOUT, Error, NO_SUCH_UNIT, Systemd};

/// How often to check whether a unit of the same name is gone.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// The daemon's own unit, as far as is known.
const SERVICE: &str = "agentd.service";

/// How long the tmux server may take to end, in microseconds.
const SERVER_STOP_USEC: u64 = 10_000_000;

/// The slice of all agents.
pub const SLICE: &str = "agentd.slice";

/// Has a process put into a transient scope in [`SLICE`] (`systemd.scope(5)`), whose control group this process may divide.
///
/// The process may enter the scope some milliseconds later; its `/proc/PID/cgroup` shows when.
pub async fn start_scope(
    systemd: &Systemd,
    name: &str,
    description: &str,
    pid: i32,
    limits: &Limits,
) -> Result<(), Error> {
    let mut properties = common(description, &[pid]);
    properties.push(("Delegate", true.into()));
    for accounting in ["CPUAccounting", "MemoryAccounting", "TasksAccounting"] {
        properties.push((accounting, true.into()));
    }
    properties.extend(settings(limits));
    start(systemd, name, properties, ANSWER_TIMEOUT).await
}

/// Has the tmux server put into a transient scope in [`SLICE`], with what it has started as far as that is among `pids`.
///
/// Fails at once if a scope of that name exists. The processes may enter the scope some milliseconds later.
pub async fn start_server_scope(systemd: &Systemd, name: &str, description: &str, pids: &[i32]) -> Result<(), Error> {
    let mut properties = common(description, pids);
    // A thousand agents are started from there.
    properties.push(("TasksMax", u64::MAX.into()));
    properties.push(("TimeoutStopUSec", SERVER_STOP_USEC.into()));
    start(systemd, name, properties, Duration::ZERO).await
}

type Properties = Vec<(&'static str, Variant<'static>)>;

/// The properties of every scope of agentd's.
fn common(description: &str, pids: &[i32]) -> Properties {
    vec![
        ("Description", description.to_owned().into()),
        ("Slice", SLICE.into()),
        ("PIDs", numbers(pids).into()),
        ("CollectMode", "inactive-or-failed".into()),
        // At shutdown, units stop in the reverse order: the daemon then stops its agents in an orderly way.
        ("Before", vec![OWN_SERVICE.clone()].into()),
    ]
}

fn numbers(pids: &[i32]) -> Vec<u32> {
    pids.iter().filter_map(|&pid| u32::try_from(pid).ok()).collect()
}

/// The service that this process belongs to.
static OWN_SERVICE: LazyLock<String> = LazyLock::new(|| {
    let group = procfs::read("/proc/self/cgroup").ok().and_then(|text| procfs::group(&text));
    group.as_deref().and_then(service_of).unwrap_or(SERVICE).to_owned()
});

/// The name of the service whose control group this is, or that it is below.
fn service_of(group: &Path) -> Option<&str> {
    let mut parts = group.iter().rev().filter_map(|part| part.to_str());
    parts.find(|part| part.ends_with(".service")).filter(|part| !part.starts_with("user@"))
}

/// Starts a scope. Another of that name may take this long to go away.
async fn start(systemd: &Systemd, name: &str, properties: Properties, patience: Duration) -> Result<(), Error> {
    // A process that runs out of memory must not end the others. Supported for scopes since 253; earlier versions do not end
    // them.
    let mut with_policy = properties.clone();
    with_policy.push(("OOMPolicy", "continue".into()));
    let no_others: Vec<(&str, Vec<(&str, Variant)>)> = Vec::new();
    let mut body = (name, "fail", with_policy, no_others);
    let limit = Instant::now() + patience;
    loop {
        match systemd.call_manager("start a scope", "StartTransientUnit", &body).await {
            Err(error) if error.is(UNIT_EXISTS) => {
                if Instant::now() >= limit {
                    return Err(Error::Exists(name.to_owned()));
                }
                // The scope before has ended, and is about to be removed.
                sleep(RETRY_INTERVAL).await;
            }
            // zbus has a variant of its own for errors of the bus itself, among them that of an unknown property.
            Err(Error::Bus { source: zbus::Error::MethodError(..) | zbus::Error::FDO(_), .. })
                if body.2.len() > properties.len() =>
            {
                body.2.clone_from(&properties);
            }
            result => return result,
        }
    }
}

/// Changes the limits of a scope that was started this way.
pub async fn limit_scope(systemd: &Systemd, name: &str, limits: &Limits) -> Result<(), Error> {
    let body = (name, true, settings(limits).to_vec());
    let operation = "change the limits of a scope";
    match systemd.call_manager(operation, "SetUnitProperties", &body).await {
        Err(error) if error.is(NO_SUCH_UNIT) => Err(Error::NoUnit { operation, name: name.to_owned() }),
        result => result,
    }
}

/// The limits as properties, see `systemd.resource-control(5)`: the largest number means no limit.
fn settings(limits: &Limits) -> [(&'static str, Variant<'static>); 3] {
    const MICROSECONDS_PER_PERCENT: u64 = 10_000;
    let cpu = limits.cpu.map(|percent| percent.saturating_mul(MICROSECONDS_PER_PERCENT));
    let setting = |name, limit: Option<u64>| (name, limit.unwrap_or(u64::MAX).into());
    [setting("MemoryMax", limits.memory), setting("TasksMax", limits.tasks), setting("CPUQuotaPerSecUSec", cpu)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_service_is_the_unit_of_the_control_group() {
        let cases = [
            ("/system.slice/agents.service", Some("agents.service")),
            ("/system.slice/agents.service/supervisor", Some("agents.service")),
            ("/user.slice/user-7.slice/user@7.service/app.slice/agentd.service", Some("agentd.service")),
            ("/user.slice/user-7.slice/user@7.service/app.slice/vte-spawn-1.scope", None),
            ("/user.slice/user-0.slice/session-1.scope", None),
            ("/", None),
        ];
        for (group, service) in cases {
            assert_eq!(service_of(Path::new(group)), service, "{group}");
        }
    }
}
