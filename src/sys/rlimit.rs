//! How many descriptors a process may have: many for agentd's own, the usual number for what it starts.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What programs expect: `select(2)` can handle no more, and systemd's default is the same.
const USUAL: u64 = 1024;

/// Lets this process, and what it starts, have as many as the system allows it.
pub fn raise_descriptors() {
    set(|hard| hard);
}

/// Goes back to the usual number, for programs that are not agentd's.
pub fn restore_descriptors() {
    set(|hard| hard.min(USUAL));
}

/// Where that fails, the old limit serves as well, with fewer clients or agents.
fn set(soft: impl Fn(u64) -> u64) {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft(hard), hard);
    }
}
