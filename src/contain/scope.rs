//! An agent's control group as a transient systemd scope.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use zbus::Variant;

use crate::agent::spec::Limits;
use crate::sys::systemd::bus::{ANSWER_TIMEOUT, Error, Systemd};

/// How often to check whether a unit of the same name is gone.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// The daemon's own unit, if it is the one from the NixOS module.
const SERVICE: &str = "agentd.service";

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
    let pid = u32::try_from(pid).unwrap_or_default();
    let mut properties: Vec<(&str, Variant)> = vec![
        ("Description", description.into()),
        ("Slice", SLICE.into()),
        ("PIDs", vec![pid].into()),
        ("Delegate", true.into()),
        ("CollectMode", "inactive-or-failed".into()),
        // At shutdown, units stop in the reverse order: the daemon then stops its agents in an orderly way.
        ("Before", vec![SERVICE].into()),
        ("CPUAccounting", true.into()),
        ("MemoryAccounting", true.into()),
        ("TasksAccounting", true.into()),
    ];
    properties.extend(settings(limits));
    // A process that runs out of memory must not end the others. Supported for scopes since 253; earlier versions do not end
    // them.
    let mut with_policy = properties.clone();
    with_policy.push(("OOMPolicy", "continue".into()));
    let no_others: Vec<(&str, Vec<(&str, Variant)>)> = Vec::new();
    let mut body = (name, "fail", with_policy, no_others);
    let limit = Instant::now() + ANSWER_TIMEOUT;
    loop {
        match systemd.call_manager("start a scope", "StartTransientUnit", &body).await {
            Err(error) if error.is(UNIT_EXISTS) => {
                if Instant::now() > limit {
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
    let changed = systemd.call_manager("change the limits of a scope", "SetUnitProperties", &body);
    changed.await.map_err(|error| if error.is(NO_SUCH_UNIT) { Error::NoUnit(name.to_owned()) } else { error })
}

/// The limits as properties, see `systemd.resource-control(5)`: the largest number means no limit.
fn settings(limits: &Limits) -> [(&'static str, Variant<'static>); 3] {
    const MICROSECONDS_PER_PERCENT: u64 = 10_000;
    let cpu = limits.cpu.map(|percent| percent.saturating_mul(MICROSECONDS_PER_PERCENT));
    let setting = |name, limit: Option<u64>| (name, limit.unwrap_or(u64::MAX).into());
    [setting("MemoryMax", limits.memory), setting("TasksMax", limits.tasks), setting("CPUQuotaPerSecUSec", cpu)]
}
