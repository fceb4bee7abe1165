//! Waits for several descriptors without an async runtime: `poll(2)` until an instant.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout};

/// Waits until one of the descriptors is ready, a signal was handled, or the instant has come.
///
/// Without an instant, waits as long as it takes. The descriptors' events show which are ready.
pub fn wait(descriptors: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<()> {
    let timeout = until.map_or(PollTimeout::NONE, |until| timeout(until.saturating_duration_since(Instant::now())));
    match nix::poll::poll(descriptors, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The time left in whole milliseconds, rounded up: a caller that wakes too early would poll again and again.
fn timeout(left: Duration) -> PollTimeout {
    let milliseconds = left.as_nanos().div_ceil(1_000_000);
    i32::try_from(milliseconds).ok().and_then(|milliseconds| milliseconds.try_into().ok()).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::poll::PollFlags;

    use super::*;

    #[test]
    fn a_wait_ends_at_a_ready_descriptor_or_the_deadline() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let is_ready = |until| {
            let mut descriptors = [PollFd::new(near.as_fd(), PollFlags::POLLIN)];
            wait(&mut descriptors, until).unwrap();
            descriptors[0].any().unwrap_or_default()
        };
        let until = Instant::now() + Duration::from_micros(1500);
        assert!(!is_ready(Some(until)));
        assert!(Instant::now() >= until, "not before its time");
        assert!(!is_ready(Some(until)), "a time that has passed is not waited for");
        far.write_all(b"x").unwrap();
        assert!(is_ready(None));
    }

    #[test]
    fn a_timeout_is_rounded_up_and_bounded() {
        assert_eq!(timeout(Duration::ZERO), PollTimeout::ZERO);
        assert_eq!(timeout(Duration::from_nanos(1)), PollTimeout::from(1_u8));
        assert_eq!(timeout(Duration::MAX), PollTimeout::MAX);
    }
}
