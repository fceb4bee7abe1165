//! The canary: a secret in every scenario, and the search for it wherever it must not be.
//!
//! [`Setup`](crate::support::Setup) puts the canary among the secrets and searches for it when the scenario is over, so no test
//! has to ask for it. A thread that watches all command lines catches those that live for a few milliseconds.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use agentd::wire::status::State;

use nix::libc::RLIM_INFINITY;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use crate::support::{
    Daemon, Dump, Process, Setup, Who, agent, as_user, files_below, get, is_root, owner, path, root, run,
};

/// The variable that holds the canary.
pub const NAME: &str = "CANARY";

/// The prefix of every canary. Tests write it nowhere else.
const BEGINNING: &str = "canary-of-";

/// The questions to tmux about itself, about each session, and about each pane.
const GLOBAL: &[&[&str]] = &[
    &["show-options", "-s"],
    &["show-options", "-g"],
    &["show-options", "-gw"],
    &["show-hooks", "-g"],
    &["show-environment", "-g"],
    &["show-environment", "-gh"],
    &["list-buffers", "-F", "#{buffer_name} #{buffer_sample}"],
    &["list-panes", "-a", "-F", "#{pane_start_command} #{pane_current_command} #{pane_title} #{window_name}"],
];
const OF_A_SESSION: &[&[&str]] = &[&["show-options"], &["show-environment"], &["show-environment", "-h"]];
const OF_A_PANE: &[&[&str]] = &[&["show-options", "-w"], &["show-options", "-p"]];

/// Command lines in which a canary was ever seen.
static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Command lines of tmux processes that ran as root.
static AS_ROOT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Creates the canary of the scenario with this name, unique to it. From now on all command lines are watched.
pub fn of(scenario: &str) -> String {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| drop(thread::spawn(watch)));
    format!("{BEGINNING}{scenario}")
}

fn watch() {
    loop {
        for process in Process::all() {
            let cmdline = process.cmdline();
            if holds(&cmdline, BEGINNING) {
                SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(process.to_string());
            }
            let program = cmdline.split(|&byte| byte == 0).next().unwrap_or_default();
            if program.ends_with(b"tmux") && process.acts_as() == Some(0) {
                AS_ROOT.lock().unwrap_or_else(PoisonError::into_inner).insert(process.to_string());
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn holds(bytes: &[u8], secret: &str) -> bool {
    let secret = secret.as_bytes();
    bytes.windows(secret.len()).any(|window| window == secret)
}

impl Daemon {
    /// The tmux processes of this scenario that ran as root although the agents do not. A server can make its client do anything.
    pub fn tmux_as_root(&self) -> Vec<String> {
        let dir = self.dir().to_str().unwrap();
        let seen = AS_ROOT.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|cmdline| cmdline.contains(dir) && !self.agent_account().uid.is_root()).cloned().collect()
    }

    /// Every place that holds `secret` and should not. Skips ended processes of the daemon, tmux and agents.
    pub fn leaks(&self, secret: &str) -> Vec<String> {
        let mut sinks: Vec<(String, Vec<u8>)> = vec![("the daemon's stderr".to_owned(), self.log().into_bytes())];
        for process in Process::all() {
            sinks.push((format!("the command line of {process}"), process.cmdline()));
        }
        for cmdline in SEEN.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            sinks.push((format!("a command line that is no more: {cmdline}"), cmdline.clone().into_bytes()));
        }
        for process in self.processes().into_iter().filter(|&process| !is_an_agents(process)) {
            sinks.push((format!("the environment of {process}"), process.environ()));
        }
        let names = self.try_agents().unwrap_or_default().into_iter().map(|agent| format!("/v1/agents/{}", agent.name));
        for path in ["/v1/agents", "/v1/health"].map(str::to_owned).into_iter().chain(names) {
            let answer = self.try_request(&get(&path)).map(|response| response.body).unwrap_or_default();
            sinks.push((path, answer.into_bytes()));
        }
        for file in ["state", "tmux", "log"].into_iter().flat_map(|folder| files_below(&self.path(folder))) {
            sinks.push((format!("the name of {}", file.display()), file.display().to_string().into_bytes()));
            sinks.push((file.display().to_string(), fs::read(&file).unwrap_or_default()));
        }
        sinks.extend(self.tmux_knows());
        let leaks = sinks.into_iter().filter(|(_, bytes)| holds(bytes, secret)).map(|(name, _)| name);
        leaks.chain(self.others_can_read(secret)).collect()
    }

    /// The options, hooks and variables of tmux on all levels, and everything else that it remembers. Empty if there is no
    /// server, or no session on it.
    fn tmux_knows(&self) -> Option<(String, Vec<u8>)> {
        let ids =
            |what: &[&str]| -> Vec<String> { self.tmux(what).unwrap_or_default().lines().map(str::to_owned).collect() };
        // Sessions come and go.
        let said = self.wait("tmux to answer", || {
            let sessions = ids(&["list-sessions", "-F", "#{session_id}"]);
            let panes = ids(&["list-panes", "-a", "-F", "#{pane_id}"]);
            if sessions.is_empty() {
                return Some(String::new());
            }
            let mut words: Vec<&str> = Vec::new();
            for command in GLOBAL {
                words.extend(*command);
                words.push(";");
            }
            for (commands, targets) in [(OF_A_SESSION, &sessions), (OF_A_PANE, &panes)] {
                for target in targets {
                    for command in commands {
                        words.extend(*command);
                        words.extend(["-t", target, ";"]);
                    }
                }
            }
            self.tmux(&words).ok()
        });
        (!said.is_empty()).then(|| ("tmux's options or environment".to_owned(), said.into_bytes()))
    }

    /// The environments that hold the secret and are readable by people who have nothing to do with the agents.
    fn others_can_read(&self, secret: &str) -> Vec<String> {
        if !is_root() {
            return Vec::new();
        }
        let own = [self.daemon_account().name, self.agent_account().name];
        let others = ["stranger", "op"].into_iter().filter(|other| !own.iter().any(|own| own == other));
        others
            .flat_map(|other| {
                // The secret goes through a pipe, because these command lines are watched like all others.
                let mut grep = as_user(other, &["sh", "-c", "grep -laF -f - /proc/[0-9]*/environ 2>/dev/null; true"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                writeln!(grep.stdin.take().unwrap(), "{secret}").unwrap();
                let found = String::from_utf8(grep.wait_with_output().unwrap().stdout).unwrap();
                found.lines().map(|file| format!("{file}, which {other} can read")).collect::<Vec<_>>()
            })
            .collect()
    }
}

/// Whether a process may hold what its agent was given: it is a harness, or was started by one.
fn is_an_agents(process: Process) -> bool {
    let is_helper = process.executable().is_some_and(|name| name.starts_with("agentd") || name.starts_with("tmux"));
    let is_launcher = |process: &Process| {
        let argv = process.argv();
        argv.first().is_some_and(|word| word.ends_with("/agentd-launcher"))
            || argv.get(1).is_some_and(|word| word == "exec")
    };
    let above: Vec<Process> = process.ancestors().collect();
    // The launcher of an orphan was killed.
    !is_helper && (above.len() == 1 || above.iter().any(is_launcher))
}

/// Shows that the search can find something. Otherwise, finding nothing would prove nothing.
#[test]
fn the_search_finds_a_secret_wherever_it_is() {
    let secret = of("nobody-but-this-test");
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    assert_eq!(daemon.leaks(&secret), [""; 0]);
    let expect = |sink: &str, leaks: Vec<String>| {
        assert!(leaks.iter().any(|leak| leak.contains(sink)), "the secret is not found in {sink}: {leaks:?}");
    };

    for command in [
        &["set-environment", "-g", "X", &secret][..],
        &["set-environment", "-h", "-t", "=a", "X", &secret],
        &["set-option", "-s", "@x", &secret],
        &["set-option", "-t", "=a:", "@x", &secret],
        &["set-option", "-p", "-t", "=a:", "@x", &secret],
        &["set-buffer", &secret],
    ] {
        daemon.tmux(command).unwrap();
        expect("tmux's", daemon.leaks(&secret));
        let undo: Vec<&str> = match command {
            ["set-buffer", _] => vec!["delete-buffer"],
            [all @ .., _] => [&all[..1], &["-u"], &all[1..]].concat(),
            [] => Vec::new(),
        };
        daemon.tmux(&undo).unwrap();
        daemon.wait("it to be gone", || {
            // The watch saw the command itself.
            forget(&secret);
            daemon.leaks(&secret).is_empty().then_some(())
        });
    }

    daemon.put(&daemon.path("state/file"), &secret);
    expect("state/file", daemon.leaks(&secret));
    fs::rename(daemon.path("state/file"), daemon.path("tmux").join(&secret)).unwrap();
    fs::write(daemon.path("tmux").join(&secret), "").unwrap();
    expect("the name of", daemon.leaks(&secret));
    fs::remove_file(daemon.path("tmux").join(&secret)).unwrap();

    // A process of another user, in the directory of this test.
    let who = if is_root() { "stranger" } else { &daemon.daemon_account().name };
    let mut keeper = as_user(who, &["sleep", "60"]).env("X", &secret).current_dir(daemon.dir()).spawn().unwrap();
    daemon.wait("the search to find the secret", || {
        let leaks = daemon.leaks(&secret);
        let by_stranger = !is_root() || leaks.iter().any(|leak| leak.contains("which stranger can read"));
        (by_stranger && leaks.iter().any(|leak| leak.contains("the environment of"))).then_some(())
    });
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    assert_eq!(daemon.leaks(&secret), [""; 0]);

    // Many processes that end before anyone could look at them.
    daemon.wait("the command line to be seen", || {
        let (status, _) = run(Command::new("sh").args(["-c", "sleep 0.02; true", &secret]));
        assert_eq!(status, Some(0));
        daemon.leaks(&secret).iter().any(|leak| leak.contains("that is no more")).then_some(())
    });
    forget(&secret);
}

#[test]
fn the_search_notices_a_tmux_process_of_root() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start("[other]\n");
    daemon.wait("it to be noticed", || {
        let nowhere = daemon.path("nowhere");
        run(Command::new("tmux").args(["-N", "-S", nowhere.to_str().unwrap(), "list-sessions"]));
        (!daemon.tmux_as_root().is_empty()).then_some(())
    });
    AS_ROOT.lock().unwrap_or_else(PoisonError::into_inner).retain(|cmdline| !cmdline.contains("/nowhere"));
}

fn forget(secret: &str) {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).retain(|cmdline| !cmdline.contains(secret));
}

/// Every user of the machine can see what a tmux client is asked, however briefly it runs.
#[test]
fn tmux_never_receives_secrets() {
    let setup = Setup::new();
    fs::create_dir(setup.path("spy")).unwrap();
    let told = setup.path("told");
    setup.put(&told, "");
    fs::set_permissions(&told, Permissions::from_mode(0o666)).unwrap();
    let tmux = run(Command::new("bash").args(["-c", "command -v tmux"])).1;
    let script = format!(
        "#!/bin/sh\n{{ cat /proc/$$/environ; printf '%s\\n' \"$@\"; }} >>{}\nexec {} \"$@\"\n",
        told.display(),
        tmux.trim()
    );
    setup.put(&setup.path("spy/tmux"), script);
    fs::set_permissions(setup.path("spy/tmux"), Permissions::from_mode(0o755)).unwrap();
    let search = format!("{}:{}", setup.path("spy").display(), path());
    let declared = format!("{}-declared", setup.canary);
    let more =
        format!("restart = \"on-failure\"\nmax_restarts = 1\nbackoff = [\"10ms\"]\nenv = {{ KEY = {declared:?} }}");
    let mut daemon = setup.env("PATH", &search).start(&(agent("a", "exit 3", &more) + &agent("b", "sleep inf", "")));
    daemon.wait_for_state("a", State::Exited);
    daemon.wait_until_running("b");
    assert!(daemon.stop().success());
    let told = fs::read(&told).unwrap();
    assert!(holds(&told, "new-session") && holds(&told, "respawn-pane") && holds(&told, "capture-pane"));
    assert!(!holds(&told, &daemon.canary), "{}", String::from_utf8_lossy(&told));
}

/// Whether the secret is in the writable memory of a process.
fn remembers(process: Process, secret: &str) -> bool {
    let maps = fs::read_to_string(format!("/proc/{}/maps", process.0)).unwrap();
    let memory = fs::File::open(format!("/proc/{}/mem", process.0)).unwrap();
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // Memory released in the meantime cannot be read.
        memory.read_exact_at(&mut bytes, from).is_ok() && holds(&bytes, secret)
    })
}

/// The deputy of a daemon.
fn deputy(daemon: &Daemon) -> Process {
    daemon.wait("the deputy", || {
        let is_deputy = |process: &Process| process.argv().get(1).is_some_and(|word| word == "deputy");
        Process::all().find(|process| is_deputy(process) && process.ancestors().any(|above| above.0 == daemon.pid()))
    })
}

#[test]
fn a_secret_is_forgotten_by_all_processes_but_its_users() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    let declared = format!("{}-declared", setup.canary);
    let jcard = agent("a", "sleep inf", &format!("env = {{ KEY = {declared:?} }}"));
    let daemon = setup.start(&jcard);
    let harness = Process(daemon.wait_until_running("a"));
    let launcher = harness.parent();
    assert!(remembers(harness, &daemon.canary) && remembers(Process(daemon.pid()), &daemon.canary));
    // The launcher has to know the secrets that it redacts in the log.
    daemon.wait("the launcher to forget everything else", || (!remembers(launcher, &declared)).then_some(()));
    assert!(remembers(launcher, &daemon.canary));
    for (what, process) in [("the deputy", deputy(&daemon)), ("the tmux server", launcher.parent())] {
        assert!(!remembers(process, &daemon.canary), "{what} never knew the secret");
    }
    daemon.edit_jcard("[other]\n");
    fs::remove_file(daemon.path("secrets").join(NAME)).unwrap();
    daemon.wait_until_removed("a");
    daemon
        .wait("the daemon to forget the secret", || (!remembers(Process(daemon.pid()), &daemon.canary)).then_some(()));
}

/// The kernel makes root the owner of the files of such a process.
fn is_private(process: Process) -> bool {
    owner(Path::new(&format!("/proc/{}/environ", process.0))).1 == 0
}

#[test]
fn memory_of_daemon_deputy_and_launcher_is_unreadable() {
    if !root() {
        return;
    }
    for who in [Who::Root, Who::User] {
        let daemon = Setup::of(who).after("ulimit -Sc 4711").start(&agent("a", "dump @WORK/dump; sleep inf", ""));
        let harness = Process(daemon.wait_until_running("a"));
        let launcher = harness.parent();
        assert!(is_private(Process(daemon.pid())) && is_private(deputy(&daemon)));
        // Agents of an ordinary user belong to that user. Where /proc hides private processes, the daemon must still find the
        // launcher.
        assert_eq!(is_private(launcher), who == Who::Root);
        assert!(!is_private(harness), "an agent is open to its user");
        let limits = Dump::of(&daemon, "dump").text("limits");
        let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(cores.split_whitespace().nth(4), Some("4824064"), "and the agent has the daemon's original limit");
    }
}

#[test]
fn daemon_and_launcher_leave_no_core_dump_when_they_crash() {
    if !root() {
        return;
    }
    // This lets the soft limit be raised, even without root.
    let (soft, _) = getrlimit(Resource::RLIMIT_CORE).unwrap();
    setrlimit(Resource::RLIMIT_CORE, soft, RLIM_INFINITY).unwrap();
    for who in [Who::Root, Who::User] {
        let mut daemon = Setup::of(who).after("ulimit -c unlimited").start(&agent("a", "sleep inf", ""));
        let cores = |daemon: &Daemon| -> Vec<PathBuf> {
            files_below(daemon.dir()).into_iter().filter(|file| file.display().to_string().contains("/core")).collect()
        };
        let script = "ulimit -c unlimited; kill -ABRT $$";
        let other = Command::new("sh").args(["-c", script]).current_dir(daemon.dir()).status().unwrap();
        assert!(other.core_dumped(), "any other program leaves a core dump");
        for core in cores(&daemon) {
            fs::remove_file(core).unwrap();
        }
        let launcher = Process(daemon.wait_until_running("a")).parent();
        // The launcher handles every signal that it can, which excludes SIGFPE.
        launcher.signal(Signal::SIGFPE);
        daemon.wait_until_gone(launcher.0);
        daemon.signal(Signal::SIGABRT);
        let status = daemon.ended();
        assert_eq!((status.signal(), status.core_dumped()), (Some(Signal::SIGABRT as i32), false), "{who:?}");
        assert_eq!(cores(&daemon), Vec::<PathBuf>::new(), "{who:?}");
    }
}
