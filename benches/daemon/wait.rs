//! Waiting: always with a bound, and only until a signal ends the measurement.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

/// How long anything may take before it is given up.
pub const BOUND: Duration = Duration::from_mins(2);

/// How often to check whether a signal has arrived.
pub const SLICE: Duration = Duration::from_millis(100);

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on ctrl-C and the like end the measurement in order.
pub fn heed_signals() {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signal_hook::flag::register(signal as i32, Arc::clone(flag)).unwrap();
    }
}

/// Whether a signal came.
pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Unwinds, and so stops what was started, if a signal came.
pub fn heed() {
    if interrupted() {
        eprintln!("interrupted: stopping what was started");
        std::panic::resume_unwind(Box::new("interrupted"));
    }
}

/// Does nothing for that long.
pub fn rest(duration: Duration) {
    let end = Instant::now() + duration;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::sleep(left.min(SLICE));
        heed();
    }
}

/// Polls every `pause` until there is a result.
pub fn until<T>(what: &str, pause: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < BOUND, "waited {BOUND:?} for {what}");
        heed();
        thread::sleep(pause);
    }
}
