//! The limit on descriptors: high for agentd's own processes, the usual one for what they start.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The limit that programs expect: `select(2)` cannot handle more, and it is systemd's default.
const USUAL: u64 = 1024;

/// Raises the limit of this process and its children as far as the system allows.
pub fn raise_descriptors() {
    set(|hard| hard);
}

/// Restores the usual limit, for programs that are not agentd's.
pub fn restore_descriptors() {
    set(|hard| hard.min(USUAL));
}

/// Best effort: with the old limit, agentd still works, for fewer clients or agents.
fn set(soft: impl Fn(u64) -> u64) {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft(hard), hard);
    }
}
