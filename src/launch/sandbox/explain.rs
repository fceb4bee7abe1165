//! Why an engine made no sandbox, and what to do about it. Pure.

use crate::agent::sandbox::Engine;

/// Settings of the kernel that forbid sandboxes; `None` if it has no such setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelSettings {
    /// `kernel.apparmor_restrict_unprivileged_userns`.
    pub apparmor_restricts: Option<u64>,
    /// `kernel.unprivileged_userns_clone`.
    pub unprivileged: Option<u64>,
    /// `user.max_user_namespaces`.
    pub most: Option<u64>,
}

/// Why the kernel lets this user make no user namespace, and what to do.
fn forbidden(engine: Engine, settings: KernelSettings) -> Option<String> {
    match settings {
        KernelSettings { most: Some(0), .. } => Some(
            "user namespaces are forbidden (user.max_user_namespaces is 0); allow them with `sysctl -w user.max_user_namespaces=15000`"
                .to_owned(),
        ),
        KernelSettings { unprivileged: Some(0), .. } => Some(
            "user namespaces are forbidden for ordinary users (kernel.unprivileged_userns_clone is 0); allow them with \
             `sysctl -w kernel.unprivileged_userns_clone=1`"
                .to_owned(),
        ),
        KernelSettings { apparmor_restricts: Some(1..), .. } => Some(format!(
            "AppArmor forbids user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1); load a profile that allows \
             them for {engine} (rule `userns,` in /etc/apparmor.d/{engine}), or allow them for all programs with \
             `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
        )),
        _ => None,
    }
}

/// The message for an engine that printed this and ended like that before anything ran inside.
pub(super) fn explain(engine: Engine, words: &str, end: &str, settings: KernelSettings) -> String {
    let said = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let said = if said.is_empty() { format!("it printed nothing and {end}") } else { said };
    let lower = said.to_lowercase();
    let is_about = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let is_refusal = is_about(&["permission", "permitted", "no space left", "namespace", "uid_map", "uid map"]);
    let why = match forbidden(engine, settings).filter(|_| is_refusal || words.is_empty()) {
        Some(why) => Some(why),
        None if engine == Engine::Crun && is_about(&["hybrid mode"]) => Some(
            "crun needs control groups of version 2 alone; boot with `systemd.unified_cgroup_hierarchy=1`, or use bwrap"
                .to_owned(),
        ),
        None if is_about(&["mount proc", "mount `proc`", "proc to"]) => Some(
            "a fresh /proc is forbidden here, as in a container that hides parts of its own; run agentd outside of the \
             container, or give that an unmasked /proc"
                .to_owned(),
        ),
        None if is_refusal && is_about(&["namespace", "uid map", "uid_map"]) => Some(
            "user namespaces are forbidden here, as in a container or a service with `RestrictNamespaces=`; allow them, or \
             write `type = \"native\"`"
                .to_owned(),
        ),
        None => None,
    };
    match why {
        Some(why) => format!("{engine} cannot make a sandbox: {why} ({said})"),
        None => format!("{engine} cannot make a sandbox: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const NONE: KernelSettings = KernelSettings { apparmor_restricts: None, unprivileged: None, most: None };
    const UID_MAP: &str = "bwrap: setting up uid map: Permission denied\n";

    #[rstest]
    #[case(Engine::Bwrap, UID_MAP, KernelSettings { apparmor_restricts: Some(1), ..NONE }, "kernel.apparmor_restrict_unprivileged_userns=0")]
    #[case(Engine::Bwrap, UID_MAP, KernelSettings { apparmor_restricts: Some(0), ..NONE }, "user namespaces are forbidden here")]
    #[case(Engine::Bwrap, "bwrap: No permissions to create new namespace", KernelSettings { unprivileged: Some(0), ..NONE }, "kernel.unprivileged_userns_clone=1")]
    #[case(Engine::Crun, "unshare: No space left on device", KernelSettings { most: Some(0), ..NONE }, "user.max_user_namespaces=15000")]
    #[case(Engine::Crun, "cgroups in hybrid mode not supported", NONE, "version 2 alone")]
    #[case(
        Engine::Bwrap,
        "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
        NONE,
        "a fresh /proc is forbidden"
    )]
    #[case(Engine::Bwrap, "bwrap: Can't find source path /nonexistent: No such file or directory", KernelSettings { most: Some(9), ..NONE }, "bwrap cannot make a sandbox: bwrap: Can't find")]
    #[case(Engine::Runsc, "", NONE, "it printed nothing and exited with status 1")]
    fn a_refusal_names_what_to_change(
        #[case] engine: Engine,
        #[case] words: &str,
        #[case] settings: KernelSettings,
        #[case] expected: &str,
    ) {
        let message = explain(engine, words, "exited with status 1", settings);
        assert!(message.contains(expected) && message.contains(words.trim()), "{message}");
    }
}
