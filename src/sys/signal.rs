//! Signals: what this process does about them from its first moment on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::libc::SIGPIPE;
use nix::sys::signal::SigSet;

/// Undoes what this process was started with, as `daemon(7)` asks of a daemon: signals that are blocked come through again, and
/// one that is ignored no longer is, neither here, where it has no effect now, nor in what is started from here, which has the
/// default (`execve(2)`: what is caught is reset, what is ignored stays so).
///
/// Not undone are SIGILL, SIGFPE and SIGSEGV, which no handler may be set for without more care than this; the kernel lets none of
/// them be ignored when it matters. SIGPIPE is Rust's, which sees to it in what it starts.
pub fn reset() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    for number in ignored(&std::fs::read("/proc/self/status").unwrap_or_default()) {
        if number != SIGPIPE && !signal_hook::consts::FORBIDDEN.contains(&number) {
            // Fails for those that the C library keeps for itself.
            let _ = signal_hook::flag::register(number, Arc::new(AtomicBool::new(false)));
        }
    }
    Ok(())
}

/// What `SigIgn` says, see `proc_pid_status(5)`.
fn ignored(status: &[u8]) -> Vec<i32> {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"SigIgn:"));
    let digits = line.and_then(|line| std::str::from_utf8(line).ok());
    let mask = digits.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    (1..=64).filter(|number| mask & 1 << (number - 1) != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_kernels_mask() {
        let status = b"Name:\t\xff\nSigBlk:\tffffffffffffffff\nSigIgn:\t8000000000001001\n";
        assert_eq!(ignored(status), [1, 13, 64]);
        assert_eq!(ignored(b"SigIgn:\tnonsense"), [0_i32; 0]);
    }
}
