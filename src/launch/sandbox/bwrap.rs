//! The arguments of bubblewrap (`bwrap(1)`). Pure.

use std::ffi::OsString;
use std::path::Path;

use super::mounts::{Mount, PROGRAM, Plan, What};
use crate::agent::sandbox::Network;

/// The arguments for this file system, whose root is in that folder.
///
/// The user stays the same in the user namespace, which has no other. bwrap gives up all capabilities, and sets `no_new_privs`
/// always. What runs inside is the first process of its pid namespace: if it ends, everything in it does.
pub(super) fn arguments(plan: &Plan, root: &Path, network: Network, ids: (u32, u32), inner: &[&str]) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut add = |more: &[&dyn AsRef<std::ffi::OsStr>]| words.extend(more.iter().map(|word| word.as_ref().to_owned()));
    for word in ["user", "pid", "ipc", "uts", "cgroup-try"] {
        add(&[&format!("--unshare-{word}")]);
    }
    if network == Network::None {
        add(&[&"--unshare-net"]);
    }
    add(&[&"--uid", &ids.0.to_string(), &"--gid", &ids.1.to_string()]);
    add(&[&"--die-with-parent", &"--as-pid-1"]);
    add(&[&"--bind", &root, &"/", &"--proc", &"/proc", &"--dev", &"/dev"]);
    // The root has an empty file where the program will be.
    let empty = root.join(PROGRAM.trim_start_matches('/'));
    for path in &plan.masked {
        add(&[&"--ro-bind", &empty, path]);
    }
    for Mount { at, what } in &plan.mounts {
        match what {
            What::Bind { from, writable: true, .. } => add(&[&"--bind", from, at]),
            What::Bind { from, writable: false, .. } => add(&[&"--ro-bind", from, at]),
            What::Memory { .. } => add(&[&"--tmpfs", at]),
        }
    }
    // Not before something is mounted in them.
    for Mount { at, .. } in plan.mounts.iter().filter(|mount| mount.what == (What::Memory { writable: false })) {
        add(&[&"--remount-ro", at]);
    }
    add(&[&"--remount-ro", &"/", &"--chdir", &"/", &"--", &PROGRAM]);
    words.extend(inner.iter().map(OsString::from));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::sandbox::Home;
    use crate::launch::sandbox::mounts::plan;
    use crate::launch::sandbox::mounts::tests::{facts, sandbox};

    fn text(network: Network, home: Home) -> String {
        let plan = plan(&sandbox(home), &facts());
        let words = arguments(&plan, Path::new("/tmp/x/rootfs"), network, (1000, 1000), &["inner", "given"]);
        words.join(std::ffi::OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn arguments_are_those_of_the_plan() {
        assert_eq!(
            text(Network::Host, Home::Kept),
            "--unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try --uid 1000 --gid 1000 \
             --die-with-parent --as-pid-1 --bind /tmp/x/rootfs / --proc /proc --dev /dev \
             --ro-bind /tmp/x/rootfs/run/agentd/inner /proc/keys --ro-bind /usr /usr \
             --bind /tmp/agentd-t1 /tmp --ro-bind /nix/store /nix/store --ro-bind /etc/hosts /etc/hosts \
             --bind /home/agent/.local/state/agentd/homes/a /home/agent --ro-bind /run/systemd/resolve /run/systemd/resolve \
             --ro-bind /usr/libexec/agentd-launcher /run/agentd/inner --bind /home/agent/project /home/agent/project \
             --remount-ro / --chdir / -- /run/agentd/inner inner given"
        );
    }

    #[test]
    fn a_network_and_a_home_can_be_kept_away() {
        let text = text(Network::None, Home::Fresh);
        assert!(
            text.contains(" --unshare-net ")
                && text.contains(" --ro-bind /home/agent/.local/state/agentd/homes/a /run/agentd/seed ")
        );
        assert!(text.contains(" --tmpfs /home/agent "), "{text}");
    }
}
