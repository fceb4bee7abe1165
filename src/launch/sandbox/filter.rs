//! System calls that nothing in a sandbox may make (seccomp). gVisor has a kernel of its own, and needs no filter.
//!
//! | calls | why |
//! |---|---|
//! | `keyctl`, `add_key`, `request_key` | keyrings are not in any namespace: keys of the user's other processes could be read |
//! | new user namespaces | a process has all capabilities in its own, and the kernel is easiest to attack with them |
//! | `mount`, `umount2`, `pivot_root`, `setns`, the new mount API | of no use without capabilities; refused before the kernel looks |
//! | `bpf`, `perf_event_open`, `userfaultfd`, `kexec_load`, module calls | the same |
//! | `TIOCSTI`, `TIOCLINUX` | typing into a terminal for whoever reads it next |
//!
//! They fail with EPERM, as they do without a privilege. `clone3` fails with ENOSYS, because a filter cannot see its flags; libraries
//! use `clone` then. Programs for another architecture than the launcher's (32-bit ones) are killed at their first call.

//!
//! Abstract sockets belong to the network, which may be the machine's: X11, D-Bus and gVisor listen on some. Landlock keeps sandboxes
//! from connecting to those of processes outside (Linux 6.12 and later; before that, nothing does).

use std::collections::BTreeMap;

use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use nix::errno::Errno;
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
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

/// Applies the filter to this process, for good, and to everything that it starts.
pub(super) fn apply() -> Result<(), String> {
    // Other architectures have no filter in the crate, and rely on the namespaces.
    if let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) {
        nix::sys::prctl::set_no_new_privs().map_err(|error| error.to_string())?;
        for program in [refusing(architecture), unknown(architecture)] {
            apply_filter(&program.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
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
    filter([(libc::SYS_clone3, Vec::new())].into(), Errno::ENOSYS, architecture)
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
