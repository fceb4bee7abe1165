//! A panic anywhere in a process ends the whole process.
//!
//! A process that has lost a task or a thread looks alive, but no longer does all of its work. A process that has ended is
//! replaced: the daemon by its service manager, while its agents live on and are adopted; the deputy by the daemon. A launcher
//! takes its harness along, which the daemon notices.
//!
//! The message of a panic may quote data, which may be secret. So only the location is reported, and messages that are literals
//! in the program.

use std::io;
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};

use crate::sys::log;

/// Makes a panic in any thread or task end this process at once, without unwinding, with a message on standard error.
pub fn end_this_process() {
    panic::set_hook(Box::new(|panic| end(panic, say)));
}

/// Does the same in a process that has a log, with a message in the log.
pub fn end_this_process_logged() {
    panic::set_hook(Box::new(|panic| {
        end(panic, |words| {
            // The log's own thread cannot wait for itself.
            if log::is_its_thread() {
                say(words);
            } else {
                tracing::error!("{words}");
                log::flush();
            }
        });
    }));
}

fn end(panic: &PanicHookInfo<'_>, tell: impl FnOnce(&str)) -> ! {
    static IS_ENDING: AtomicBool = AtomicBool::new(false);
    if IS_ENDING.swap(true, Ordering::Relaxed) {
        // Another thread is about to end this process, and must have time to report the reason.
        std::thread::sleep(Duration::from_secs(5));
    } else {
        tell(&format!("a defect ends this process, {}", describe(panic)));
    }
    std::process::abort();
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
    // A formatted message is a `String`, and is not shown.
    let words = panic.payload().downcast_ref::<&'static str>().map_or_else(String::new, |words| format!(": {words}"));
    format!("a panic{place}{words}")
}

/// Writes to standard error without blocking: this must not wait for a stopped terminal, or for a full pipe.
fn say(words: &str) {
    let stderr = io::stderr();
    let mut descriptors = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let takes = poll(&mut descriptors, 0_u8).is_ok()
        && descriptors[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT));
    if takes {
        let line = format!("agentd: {words}\n");
        let _ = nix::unistd::write(stderr.as_fd(), &line.as_bytes()[..line.len().min(512)]);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use rstest::rstest;

    use super::*;
    use crate::sys::blocking;
    use crate::sys::log::Detail;

    const CHOICE: &str = "AGENTD_TEST_DEFECT";

    /// Not a separate test: the process that the tests below start.
    #[test]
    #[ignore = "is a process that the tests of this module start"]
    fn process_with_a_defect() {
        let Ok(choice) = std::env::var(CHOICE) else { return };
        let _log = log::start(Detail::Plain);
        if choice.starts_with("log-") {
            end_this_process_logged();
        } else {
            end_this_process();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            match choice.split_once('-').unwrap().1 {
                "task" => drop(tokio::spawn(async { panic!("words of the program") }).await),
                "blocking" => drop(blocking::run(|| panic!("words of the program")).await),
                "secret" => drop(tokio::spawn(async { assert_eq!(choice_of_words(), "", "hunter2{}", 1) }).await),
                _ => drop(std::thread::spawn(|| panic!("words of the program")).join()),
            }
        });
    }

    fn choice_of_words() -> String {
        "hunter2".to_owned()
    }

    fn run(choice: &str) -> (Option<i32>, String) {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{}::process_with_a_defect", module_path!().split_once("::").unwrap().1)])
            .args(["--ignored", "--nocapture"])
            .env(CHOICE, choice)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.signal(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[rstest]
    fn a_panic_anywhere_ends_the_process_and_is_reported(
        #[values("log", "stderr")] tell: &str,
        #[values("task", "blocking", "thread")] place: &str,
    ) {
        let (signal, said) = run(&format!("{tell}-{place}"));
        assert_eq!(signal, Some(nix::libc::SIGABRT), "{said}");
        assert!(said.contains("a defect ends this process, a panic at src/sys/panics.rs:"), "{said}");
        assert!(said.contains("words of the program"), "{said}");
    }

    #[rstest]
    #[case("log-secret")]
    #[case("stderr-secret")]
    fn data_quoted_by_a_panic_is_not_reported(#[case] choice: &str) {
        let (signal, said) = run(choice);
        assert_eq!(signal, Some(nix::libc::SIGABRT), "{said}");
        assert!(said.contains("src/sys/panics.rs") && !said.contains("hunter2"), "{said}");
    }
}
