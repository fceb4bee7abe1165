//! System calls that nothing in a sandbox may make (seccomp). gVisor has a kernel of its own, and needs no filter.
//!
//! | calls | why |
//! |---|---|
//! | `keyctl`, `add_key`, `request_key` | keyrings are not in any namespace: keys of the user's other processes could be read |
//! | new user namespaces | a process has all capabilities in its own, and the kernel is easiest to attack with them |
//! | `mount`, `umount2`, `pivot_root`, `setns`, the new mount API | of no use without capabilities; refused before the kernel looks |
//! | `bpf`, `perf_event_open`, `userfaultfd`, `kexec_load`, module calls | the same |
//! | `TIOCSTI`, `TIOCLINUX` | typing into a terminal for whoever reads it next |
//! | sockets other than Unix, IPv4, IPv6 and netlink ones | `AF_VSOCK` reaches the hypervisor, and is in no network namespace; others, such as `AF_ALG`, are ways into the kernel that no agent needs |
//! | `io_uring_setup` | it makes sockets, among others, past any filter |
//!
//! They fail with EPERM, as they do without a privilege; sockets with EAFNOSUPPORT, as where the kernel has none of that kind.
//! `clone3` fails with ENOSYS, because a filter cannot see its flags; libraries use `clone` then. So does `io_uring_setup`, which
//! libraries do without. Programs for another architecture than the launcher's (32-bit ones) are killed at their first call. The same
//! calls by their x32 numbers fail with ENOSYS.

//!
//! Abstract sockets belong to the network, which may be the machine's: X11, D-Bus and gVisor listen on some. Landlock keeps sandboxes
//! from connecting to those of processes outside (Linux 6.12 and later; before that, nothing does).

use std::collections::BTreeMap;

use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use nix::errno::Errno;
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

/// Calls that always fail.
const FORBIDDEN: [libc::c_long; 25] = [
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
];

/// The domains of sockets that an agent may have.
const DOMAINS: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Refuses all calls by the numbers of x32, which the filters by number do not see: loads the number (`seccomp(2)`), and compares it
/// with the lowest of those.
const X32: [sock_filter; 4] = [
    sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 },
    sock_filter { code: 0x35, jt: 0, jf: 1, k: 0x4000_0000 },
    sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x0005_0000 | Errno::ENOSYS as u32 },
    sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 },
];

/// Applies the filter to this process, for good, and to everything that it starts.
pub(super) fn apply() -> Result<(), String> {
    // Other architectures have no filter in the crate, and rely on the namespaces.
    if let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) {
        nix::sys::prctl::set_no_new_privs().map_err(|error| error.to_string())?;
        for program in [refusing(architecture), sockets(architecture), unknown(architecture)] {
            apply_filter(&program.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
        }
        if architecture == TargetArch::x86_64 {
            apply_filter(&X32).map_err(|error| error.to_string())?;
        }
    }
    scope().map_err(|error| error.to_string())
}

/// Keeps this process and everything that it starts from abstract sockets outside, and from signaling processes outside.
///
/// A kernel that cannot do that lets it pass.
fn scope() -> Result<(), landlock::RulesetError> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    ruleset.scope(Scope::AbstractUnixSocket | Scope::Signal)?.create()?.restrict_self().map(drop)
}

fn refusing(architecture: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = FORBIDDEN.iter().map(|&call| (call, Vec::new())).collect();
    let flag = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    let has_flag = || condition(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(flag), flag);
    rules.insert(libc::SYS_unshare, vec![SeccompRule::new(vec![has_flag()?])?]);
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![has_flag()?])?]);
    let is_request = |request| condition(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request);
    let requests = [libc::TIOCSTI, libc::TIOCLINUX];
    let requests: Result<Vec<SeccompRule>, _> =
        requests.into_iter().map(|request| SeccompRule::new(vec![is_request(request)?])).collect();
    rules.insert(libc::SYS_ioctl, requests?);
    filter(rules, Errno::EPERM, architecture)
}

fn unknown(architecture: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let calls = [libc::SYS_clone3, libc::SYS_io_uring_setup];
    filter(calls.map(|call| (call, Vec::new())).into(), Errno::ENOSYS, architecture)
}

/// Refuses sockets of all domains but these.
fn sockets(architecture: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
    let is_not =
        |domain: libc::c_int| condition(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(domain.unsigned_abs()));
    let of_others = || -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        let others = DOMAINS.into_iter().map(is_not).collect::<Result<Vec<_>, _>>()?;
        Ok(vec![SeccompRule::new(others)?])
    };
    let rules = [(libc::SYS_socket, of_others()?), (libc::SYS_socketpair, of_others()?)];
    filter(rules.into(), Errno::EAFNOSUPPORT, architecture)
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, length, operator, value)
}

fn filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: Errno,
    architecture: TargetArch,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let errno = SeccompAction::Errno((errno as i32).unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, errno, architecture)?.try_into()
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket, socketpair};

    use super::*;

    /// Runs this in a thread with the filter.
    fn filtered<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(|| {
            apply().unwrap();
            work()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn an_agent_has_sockets_of_the_network_only() {
        let open = |family| socket(family, SockType::Stream, SockFlag::empty(), None).map(drop);
        let opened = filtered(move || {
            use AddressFamily::{Alg, Inet, Inet6, Unix, Vsock};
            [Unix, Inet, Inet6, Vsock, Alg].map(open)
        });
        assert_eq!(opened[..2], [Ok(()), Ok(())]);
        // There may be no IPv6, which fails in the same way.
        assert_eq!(opened[3..], [Err(Errno::EAFNOSUPPORT), Err(Errno::EAFNOSUPPORT)]);
        let pair = filtered(|| socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty()).map(drop));
        assert_eq!(pair, Ok(()));
        // Without the filter, the kernel knows them, or this test would prove nothing.
        assert!(open(AddressFamily::Vsock).is_ok() || open(AddressFamily::Alg) != Err(Errno::EAFNOSUPPORT));
    }

    #[test]
    fn programs_run_under_the_filter() {
        let output = filtered(|| std::process::Command::new("echo").arg("yes").output().unwrap());
        assert_eq!(output.stdout, b"yes\n");
    }
}
