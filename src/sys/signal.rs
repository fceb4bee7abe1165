//! Resets this process's handling of signals when it starts.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::libc::SIGPIPE;
use nix::sys::signal::SigSet;

/// Undoes the signal settings that this process was started with, as `daemon(7)` asks of a daemon.
///
/// Blocked signals are unblocked. Ignored signals are no longer ignored: they have no effect in this process, and their default
/// effect in the programs that it starts (`execve(2)`: caught signals are reset, ignored ones stay ignored).
///
/// SIGILL, SIGFPE, and SIGSEGV are left alone: no handler may be set for them without more care, and the kernel lets none of them
/// be ignored when it matters. Rust handles SIGPIPE, also in the programs that it starts.
pub fn reset() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    for number in ignored(&std::fs::read("/proc/self/status").unwrap_or_default()) {
        if number != SIGPIPE && !signal_hook::consts::FORBIDDEN.contains(&number) {
            // Fails for the signals that the C library reserves.
            let _ = signal_hook::flag::register(number, Arc::new(AtomicBool::new(false)));
        }
    }
    Ok(())
}

/// The signals in `SigIgn`, see `proc_pid_status(5)`.
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
