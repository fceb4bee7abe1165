//! Signals: what each is called, and what this process does about them from its first moment on.
//!
//! The kernel has 64 of them, and 31 have names in every library. Whatever it tells is a number here, so that none is unknown.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::libc::{SIGPIPE, SIGRTMAX, SIGRTMIN};
use nix::sys::signal::{SigSet, Signal};

/// Whether the kernel has a signal of this number.
pub fn exists(number: i32) -> bool {
    (1..=SIGRTMAX()).contains(&number)
}

/// The name of a signal: `SIGKILL`, or `SIGRTMIN+3` as systemd and bash have it. The few that the C library keeps for itself, and
/// what is no signal, are called by their number: `SIG32`.
pub fn name(number: i32) -> String {
    match (Signal::try_from(number), number.saturating_sub(SIGRTMIN())) {
        (Ok(signal), _) => signal.as_str().to_owned(),
        (Err(_), 0) => "SIGRTMIN".to_owned(),
        (Err(_), above @ 1..) if exists(number) => format!("SIGRTMIN+{above}"),
        (Err(_), _) => format!("SIG{number}"),
    }
}

/// The inverse of [`name`]. It knows `SIGRTMAX-1` and `SIG37` as well.
pub fn number(name: &str) -> Option<i32> {
    let known = || Signal::from_str(name).ok().map(|signal| signal as i32);
    let short = name.strip_prefix("SIG")?;
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text.get(1..)?.parse::<i32>().ok() };
    let of_real_time = || match (short.strip_prefix("RTMIN"), short.strip_prefix("RTMAX")) {
        (Some(rest), _) if rest.is_empty() || rest.starts_with('+') => SIGRTMIN().checked_add(offset(rest)?),
        (_, Some(rest)) if rest.is_empty() || rest.starts_with('-') => SIGRTMAX().checked_sub(offset(rest)?),
        _ => None,
    };
    let by_number = || short.parse().ok();
    known().or_else(of_real_time).or_else(by_number).filter(|&number| exists(number))
}

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
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(9, "SIGKILL")]
    #[case(32, "SIG32")]
    #[case(SIGRTMIN(), "SIGRTMIN")]
    #[case(SIGRTMIN() + 3, "SIGRTMIN+3")]
    #[case(0, "SIG0")]
    #[case(999, "SIG999")]
    #[case(i32::MIN, "SIG-2147483648")]
    fn a_signal_is_called_as_systemd_calls_it(#[case] number: i32, #[case] expected: &str) {
        assert_eq!(name(number), expected);
    }

    #[test]
    fn every_signal_has_its_number_back_from_its_name() {
        for signal in 1..=64 {
            assert_eq!(number(&name(signal)), Some(signal), "{}", name(signal));
        }
    }

    #[rstest]
    #[case("SIG37", Some(37))]
    #[case("SIGRTMAX", Some(64))]
    #[case("SIGRTMAX-1", Some(63))]
    #[case("SIGRTMIN+99", None)]
    #[case("SIGRTMIN+2147483647", None)]
    #[case("SIGRTMIN-1", None)]
    #[case("SIG65", None)]
    #[case("SIG0", None)]
    #[case("KILL", None)]
    #[case("SIGRTMIN+é", None)]
    #[case("", None)]
    fn what_is_no_signal_has_no_number(#[case] name: &str, #[case] expected: Option<i32>) {
        assert_eq!(number(name), expected);
    }

    #[test]
    fn ignored_signals_are_read_from_the_kernels_mask() {
        let status = b"Name:\t\xff\nSigBlk:\tffffffffffffffff\nSigIgn:\t8000000000001001\n";
        assert_eq!(ignored(status), [1, 13, 64]);
        assert_eq!(ignored(b"SigIgn:\tnonsense"), [0_i32; 0]);
    }
}
