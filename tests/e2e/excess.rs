//! Too much of everything: edits, secrets, text. Time and memory stay bounded, a message names the excess, and the last good
//! state remains.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use crate::support::{Daemon, Dump, Process, Setup, agent, is_root};

/// The longest that the API may take under load. The promise is a tenth of that, on an otherwise idle machine.
const SOON: Duration = Duration::from_secs(1);

/// Runs `during` while a client keeps querying the API. Returns its result, and the longest response time.
fn while_asking<T>(daemon: &Daemon, work: impl FnOnce() -> T) -> (T, Duration) {
    /// Ends the queries even if the work panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let asked = Instant::now();
                assert_eq!(daemon.get("/v1/agents").status, 200);
                longest = longest.max(asked.elapsed());
                thread::sleep(Duration::from_millis(5));
            }
            longest
        });
        let end = Done(&done);
        let result = work();
        drop(end);
        (result, asking.join().unwrap())
    })
}

/// Exchanges the names of two folders in one step.
fn exchange(one: &Path, other: &Path) {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
}

fn resident(daemon: &Daemon) -> u64 {
    Process(daemon.pid()).resident_kib()
}

#[test]
fn two_hundred_rapid_edits_cause_few_launches() {
    let numbered = |number: usize| agent("a", "log @WORK/log; sleep inf", &format!("env = {{ N = \"{number}\" }}"));
    let daemon = Setup::new().args(["--settle", "300ms"]).start(&numbered(0));
    daemon.wait_until_running("a");
    let (begun, before) = (Instant::now(), resident(&daemon));
    let ((), longest) = while_asking(&daemon, || {
        for number in 1..=200 {
            daemon.edit_jcard(&numbered(number));
            daemon.secret("ALSO", number.to_string());
            // The test depends on this pace.
            thread::sleep((begun + Duration::from_millis(50) * u32::try_from(number).unwrap()) - Instant::now());
        }
    });
    daemon.wait("the last edit to run", || {
        let environ = Process(daemon.agent("a")?.pid?).environ();
        let has = |variable: &[u8]| environ.windows(variable.len()).any(|window| window == variable);
        (has(b"\0N=200\0") && has(b"\0ALSO=200\0")).then_some(())
    });
    // The edits are applied after ten times the settle time, and once more at the end.
    assert!(daemon.starts("log") <= 8, "{} launches", daemon.starts("log"));
    let harnesses = daemon.processes().into_iter().filter(|process| {
        process.argv().iter().any(|word| word == "inf")
            && !process.argv().iter().any(|word| word.ends_with("/agentd-launcher"))
    });
    assert_eq!(harnesses.count(), 1);
    eprintln!("{} launches, longest answer {longest:?}, {before} → {} KiB", daemon.starts("log"), resident(&daemon));
    assert!(longest < SOON, "{longest:?}");
}

#[test]
fn five_hundred_secrets_all_reach_the_agent() {
    let setup = Setup::new();
    for number in 0..500 {
        setup.secret(&format!("SECRET_{number}"), format!("value {number}"));
    }
    let daemon = setup.start(&agent("a", "dump @WORK/dump; sleep inf", ""));
    let dump = Dump::of(&daemon, "dump");
    let expected: Vec<String> = (0..500).map(|number| format!("SECRET_{number}=value {number}")).collect();
    let environ = dump.environ();
    assert_eq!(expected.iter().find(|variable| !environ.contains(variable)), None);
    let pid = daemon.wait_until_running("a");
    daemon.secret("SECRET_250", "changed");
    daemon.wait_until("a", "relaunched", |agent| agent.pid.is_some_and(|new| new != pid));
    eprintln!("{} KiB", resident(&daemon));
}

#[test]
fn a_jcard_of_10_mb_is_refused_and_changes_nothing() {
    let good = agent("a", "log @WORK/log; sleep inf", "");
    let daemon = Setup::new().start(&good);
    let pid = daemon.wait_until_running("a");
    let before = resident(&daemon);
    let ((), longest) = while_asking(&daemon, || {
        daemon.edit_jcard(&format!("{good}# {}\n", "x".repeat(10_000_000)));
        let said = daemon.wait("config_error", || daemon.health().config_error);
        assert!(said.contains("jcard.toml") && said.contains("larger than 8 MiB"), "{said}");
    });
    eprintln!("longest answer {longest:?}, {before} → {} KiB", resident(&daemon));
    assert!(longest < SOON && resident(&daemon) < before + 2048);
    assert_eq!(daemon.wait_until_running("a"), pid);
    daemon.edit_jcard(&(good + &agent("b", "sleep inf", "")));
    daemon.wait_until_running("b");
    assert_eq!((daemon.wait_until_running("a"), daemon.health().config_error), (pid, None));
}

#[test]
fn reading_the_largest_jcard_delays_no_one() {
    let good = agent("a", "log @WORK/log; sleep inf", "");
    let daemon = Setup::new().start(&good);
    let pid = daemon.wait_until_running("a");
    let before = resident(&daemon);
    let others: String = (0..400_000).map(|number| format!("key_{number} = {number}\n")).collect::<Vec<_>>().concat();
    let ((), longest) = while_asking(&daemon, || {
        daemon.edit_jcard(&format!("{good}{}\n[other]\n{others}", agent("b", "sleep inf", "")));
        daemon.wait_until_running("b");
    });
    let most = resident(&daemon);
    daemon.edit_jcard(&good);
    daemon.wait_until_removed("b");
    eprintln!("longest answer {longest:?}, {before} → {most} → {} KiB", resident(&daemon));
    assert!(longest < SOON, "{longest:?}");
    assert!(most < before + 128 * 1024, "{before} → {most} KiB");
    assert_eq!(daemon.wait_until_running("a"), pid);
}

#[test]
fn a_secrets_directory_of_100_000_files_changes_nothing() {
    let setup = Setup::new();
    setup.secret("KEY", "good");
    let daemon = setup.args(["--settle", "300ms", "--resync", "1s"]).start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    let before = resident(&daemon);
    let (secrets, others) = (daemon.path("secrets"), daemon.path("others"));
    let file = |number: usize| secrets.join(format!("SECRET_{number}"));
    fs::create_dir(&others).unwrap();
    (0..10_001).for_each(|number| fs::write(others.join(format!("SECRET_{number}")), "x").unwrap());
    let (said, longest) = while_asking(&daemon, || {
        // Too many come at once, else a slow machine has the agent run with those that are there so far. The rest come one by one.
        exchange(&secrets, &others);
        let said =
            daemon.wait("secrets_error", || daemon.health().secrets_error.filter(|said| said.contains("more than")));
        (10_001..100_000).for_each(|number| fs::write(file(number), "x").unwrap());
        said
    });
    eprintln!("{said}; longest answer {longest:?}, {before} → {} KiB", resident(&daemon));
    assert!(said.contains("more than 10000 files"), "{said}");
    assert!(longest < SOON, "{longest:?}");
    assert!(resident(&daemon) < before + 16 * 1024, "{before} → {} KiB", resident(&daemon));
    assert_eq!(daemon.wait_until_running("a"), pid);
    exchange(&secrets, &others);
    daemon.secret("KEY", "better");
    daemon.wait("the last state", || {
        let agent = daemon.agent("a").filter(|agent| agent.pid.is_some_and(|new| new != pid))?;
        let environ = Process(agent.pid?).environ();
        let has = |variable: &[u8]| environ.windows(variable.len()).any(|window| window == variable);
        (has(b"\0KEY=better\0") && !has(b"\0SECRET_") && daemon.health().secrets_error.is_none()).then_some(())
    });
}

#[test]
fn secrets_too_large_in_total_are_refused_and_change_nothing() {
    let setup = Setup::new();
    setup.secret("KEY", "good");
    let daemon = setup.start(&agent("a", "log @WORK/log; sleep inf", "secrets = [\"KEY\"]"));
    let pid = daemon.wait_until_running("a");
    let before = resident(&daemon);
    for number in 0..100 {
        daemon.secret(&format!("LARGE_{number}"), "x".repeat(120_000));
    }
    let said = daemon.wait("secrets_error", || daemon.health().secrets_error);
    assert!(said.contains("more than 8 MiB"), "{said}");
    eprintln!("{said}; {before} → {} KiB", resident(&daemon));
    assert!(resident(&daemon) < before + 64 * 1024, "{before} → {} KiB", resident(&daemon));
    assert_eq!(daemon.wait_until_running("a"), pid);
    daemon.secret("KEY", "better");
    (0..100).for_each(|number| fs::remove_file(daemon.path("secrets").join(format!("LARGE_{number}"))).unwrap());
    daemon.wait_until("a", "relaunched", |agent| agent.pid.is_some_and(|new| new != pid));
    daemon.wait("no secrets_error", || daemon.health().secrets_error.is_none().then_some(()));
}

#[test]
fn a_special_file_among_the_secrets_is_named_and_delays_no_one() {
    let setup = Setup::new();
    let secrets = setup.path("secrets");
    setup.secret("KEY", "good");
    let daemon = setup.args(["--resync", "200ms"]).start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    let mut bad = vec!["FIFO", "SOCKET", "ZERO", "FULL", "TERMINAL", "LOOP", "KERNEL"];
    let ((), longest) = while_asking(&daemon, || {
        mkfifo(&secrets.join("FIFO"), Mode::S_IRWXU).unwrap();
        drop(UnixListener::bind(secrets.join("SOCKET")).unwrap());
        for (name, target) in [
            ("ZERO", "/dev/zero"),
            ("FULL", "/dev/full"),
            ("TERMINAL", "/dev/tty"),
            ("LOOP", "LOOP"),
            ("KERNEL", "/dev/kmsg"),
        ] {
            symlink(target, secrets.join(name)).unwrap();
        }
        if is_root() && mknod(&secrets.join("DEVICE"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)).is_ok() {
            bad.push("DEVICE");
        }
        daemon.secret("KEY", "better");
        daemon.wait_until("a", "relaunched", |agent| agent.pid.is_some_and(|new| new != pid));
        daemon.wait("each of them to be named", || {
            let said = daemon.health().secrets_error?;
            bad.iter().all(|name| [' ', ':'].iter().any(|end| said.contains(&format!("/{name}{end}")))).then_some(())
        });
    });
    assert!(longest < SOON, "{longest:?}");
    let environ = Process(daemon.wait_until_running("a")).environ();
    assert!(environ.windows(12).any(|window| window == b"\0KEY=better\0"));
}
