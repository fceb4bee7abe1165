//! The configuration of OCI runtimes (crun, gVisor's runsc): `config.json` of the OCI runtime specification. Pure.
//!
//! It holds nothing secret: the environment of the harness goes through the [control channel](super::control).

use std::ffi::OsStr;
use std::path::Path;

use serde_json::{Value, json};

use super::mounts::{Mount, PROGRAM, Plan, What};
use crate::agent::sandbox::{Engine, Network};

/// What an OCI runtime is told beside the file system.
pub(super) struct Settings<'a> {
    pub engine: Engine,
    pub network: Network,
    pub ids: (u32, u32),
    /// The environment of the process inside; none of it is secret.
    pub environment: Vec<String>,
    /// The arguments of the process inside.
    pub inner: &'a [&'a str],
}

/// The configuration for this file system.
pub(super) fn config(plan: &Plan, settings: &Settings<'_>) -> Value {
    let Settings { engine, network, ids: (uid, gid), .. } = *settings;
    let is_crun = engine == Engine::Crun;
    let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
    if is_crun {
        namespaces.extend(["user", "cgroup"]);
    }
    if network == Network::None {
        namespaces.push("network");
    }
    let namespaces: Vec<Value> = namespaces.iter().map(|kind| json!({ "type": kind })).collect();
    let mut linux = json!({ "namespaces": namespaces });
    if is_crun {
        // Only the own user and group exist in the user namespace.
        let own = |id: u32| json!([{ "containerID": id, "hostID": id, "size": 1 }]);
        linux["uidMappings"] = own(uid);
        linux["gidMappings"] = own(gid);
        linux["maskedPaths"] = json!(plan.masked.iter().map(|path| text(path)).collect::<Vec<_>>());
        linux["readonlyPaths"] = json!(["/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/sysrq-trigger"]);
    }
    // runsc without root maps the own user to root of its sandbox; the process inside undoes that in a user namespace of its kernel.
    let (uid, gid) = if is_crun { (uid, gid) } else { (0, 0) };
    let arguments: Vec<&str> = std::iter::once(PROGRAM).chain(settings.inner.iter().copied()).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": uid, "gid": gid, "umask": 0o022 },
            "args": arguments,
            "env": settings.environment,
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": { "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": [] },
        },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": mounts(plan, is_crun),
        "linux": linux,
    })
}

fn mounts(plan: &Plan, is_crun: bool) -> Vec<Value> {
    let kept = ["nosuid", "nodev"];
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] }),
        json!({
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        }),
        json!({
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"],
        }),
    ];
    for Mount { at, what } in &plan.mounts {
        mounts.push(match what {
            What::Bind { from, writable, is_file } => {
                // What is mounted below a folder is read-only, too. runsc knows no such option, and serves all of it so.
                let access: &[&str] = match (writable, is_file) {
                    (true, _) => &["rbind", "rw"],
                    (false, false) if is_crun => &["rbind", "ro", "rro"],
                    (false, _) => &["rbind", "ro"],
                };
                let options: Vec<&str> = access.iter().chain(&kept).copied().collect();
                json!({ "destination": text(at), "type": "bind", "source": text(from), "options": options })
            }
            What::Memory { writable } => {
                let mode = if *writable { ["mode=755", "rw"] } else { ["mode=555", "ro"] };
                let options: Vec<&str> = mode.iter().chain(&kept).copied().collect();
                json!({ "destination": text(at), "type": "tmpfs", "source": "tmpfs", "options": options })
            }
        });
    }
    mounts
}

/// The arguments of the runtime for what is configured in this folder.
pub(super) fn arguments(engine: Engine, network: Network, bundle: &Path) -> Vec<std::ffi::OsString> {
    let root = || [OsStr::new("--root="), bundle.join("state").as_os_str()].join(OsStr::new(""));
    let mut words: Vec<std::ffi::OsString> = Vec::new();
    if engine == Engine::Crun {
        // Control groups are the daemon's business.
        words.extend(["--cgroup-manager=disabled".into(), root()]);
    } else {
        let network = if network == Network::None { "--network=none" } else { "--network=host" };
        // ptrace needs no privileges, and works in virtual machines, too.
        words.extend(["--rootless", network, "--platform=ptrace", "--ignore-cgroups"].map(Into::into));
        words.push(root());
    }
    // runsc makes sockets of this name, which no other sandbox of the machine may have.
    let name = bundle.file_name().unwrap_or(OsStr::new("agent")).to_owned();
    words.extend(["run".into(), "--bundle".into(), bundle.into(), name]);
    words
}

/// A path that cannot be written in JSON.
pub(super) fn unspeakable(plan: &Plan) -> Option<&Path> {
    let paths = plan.mounts.iter().flat_map(|Mount { at, what }| match what {
        What::Bind { from, .. } => [at, from],
        What::Memory { .. } => [at, at],
    });
    paths.map(std::path::PathBuf::as_path).find(|path| path.to_str().is_none())
}

/// A path as text. [Others](unspeakable) are refused before.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sandbox::Home;
    use crate::launch::sandbox::mounts::plan;
    use crate::launch::sandbox::mounts::tests::{facts, sandbox};

    fn of(engine: Engine, network: Network) -> Value {
        let environment = vec!["AGENTD_AGENT=/var/lib/agentd:a".to_owned()];
        let settings = Settings { engine, network, ids: (1000, 1000), environment, inner: &["inner", "given"] };
        config(&plan(&sandbox(Home::Kept), &facts()), &settings)
    }

    fn mount(config: &Value, at: &str) -> Value {
        config["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == at).unwrap().clone()
    }

    #[test]
    fn crun_maps_the_own_user_only_and_gives_no_privilege() {
        let config = of(Engine::Crun, Network::None);
        assert_eq!(config["linux"]["uidMappings"], json!([{ "containerID": 1000, "hostID": 1000, "size": 1 }]));
        let kinds: Vec<&str> = config["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|kind| kind["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["pid", "ipc", "uts", "mount", "user", "cgroup", "network"]);
        assert_eq!(config["linux"]["maskedPaths"], json!(["/proc/keys"]));
        let process = &config["process"];
        assert_eq!(process["noNewPrivileges"], true);
        assert!(process["capabilities"].as_object().unwrap().values().all(|set| *set == json!([])));
        assert_eq!(process["args"], json!(["/run/agentd/inner", "inner", "given"]));
        assert_eq!(process["env"], json!(["AGENTD_AGENT=/var/lib/agentd:a"]), "and nothing of the harness's");
        assert_eq!(config["root"], json!({ "path": "rootfs", "readonly": true }));
        assert_eq!(mount(&config, "/usr")["options"], json!(["rbind", "ro", "rro", "nosuid", "nodev"]));
        assert_eq!(mount(&config, "/etc/hosts")["options"], json!(["rbind", "ro", "nosuid", "nodev"]));
        assert_eq!(mount(&config, "/home/agent/project")["options"], json!(["rbind", "rw", "nosuid", "nodev"]));
    }

    #[test]
    fn runsc_makes_its_user_namespace_itself() {
        let config = of(Engine::Runsc, Network::Host);
        assert!(config["linux"].get("uidMappings").is_none());
        assert_eq!(config["process"]["user"]["uid"], 0);
        let words = |network| arguments(Engine::Runsc, network, Path::new("/tmp/agentd-t1")).join(OsStr::new(" "));
        assert_eq!(
            words(Network::Host).to_str().unwrap(),
            "--rootless --network=host --platform=ptrace --ignore-cgroups --root=/tmp/agentd-t1/state run --bundle \
             /tmp/agentd-t1 agentd-t1"
        );
        assert!(words(Network::None).to_str().unwrap().contains("--network=none"));
    }
}
