//! A system resource runs out or disappears. The daemon names it, retries, and disturbs no other agent.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use agentd::wire::status::{AgentStatus, State};
use nix::sys::signal::Signal;
use nix::unistd::User;

use crate::support::{BOUND, Daemon, Process, Setup, account, agent, as_user, between, give, root, run};

/// What must not change, whatever the others lack.
struct Steady(AgentStatus);

impl Steady {
    fn of(daemon: &Daemon) -> Self {
        daemon.wait_until_running("steady");
        Self(daemon.agent("steady").unwrap())
    }

    fn check(&self, daemon: &Daemon) {
        let now = daemon.agent("steady").unwrap();
        let life = |agent: &AgentStatus| (agent.state, agent.pid, agent.restarts, agent.attempt, agent.error.clone());
        assert_eq!(life(&now), life(&self.0));
    }
}

/// Two agents: one is left alone, and one restarts whenever a file `end` exists.
fn two_agents() -> String {
    let again = "log @WORK/again; await-exit @WORK/end";
    agent("steady", "log @WORK/steady; sleep inf", "")
        + &agent("again", again, "restart = \"on-failure\"\nbackoff = [\"50ms\"]")
}

fn late() -> String {
    agent("late", "log @WORK/late; sleep inf", "")
}

fn start(setup: Setup) -> (Daemon, Steady) {
    let daemon = setup.args(["--resync", "200ms"]).start(&two_agents());
    let steady = Steady::of(&daemon);
    daemon.wait_until_running("again");
    (daemon, steady)
}

fn wait_for_error(daemon: &Daemon, name: &str, words: &str) {
    daemon.wait_until(name, &format!("held up, for {words:?}"), |agent| {
        !agent.running && agent.error.as_ref().is_some_and(|error| error.contains(words))
    });
    // A thread of its own writes the log, so the line may come after the status.
    let is_it = |line: &str| line.contains(words) && line.contains(&format!(" {name}: "));
    daemon.wait("the log to say so too", || daemon.log().lines().any(is_it).then_some(()));
}

fn wait_until_well(daemon: &Daemon, name: &str, starts: usize) {
    daemon.wait_until(name, "running, with nothing to complain of", |agent| agent.running && agent.error.is_none());
    daemon.wait_for_starts(name, starts);
}

const PROCESSES: &str = "--nproc";
const DESCRIPTORS: &str = "--nofile";

/// Lowers a resource limit of a process of this user, until this is dropped.
struct Limit {
    process: Process,
    user: String,
    resource: &'static str,
}

impl Limit {
    fn set(process: Process, user: User, resource: &'static str, limit: u64) -> Self {
        let set = Self { process, user: user.name, resource };
        set.to(&limit.to_string());
        set
    }

    /// The soft limit. The hard one stays.
    fn to(&self, limit: &str) {
        let (pid, limit) = (self.process.0.to_string(), format!("{}={limit}:", self.resource));
        let (status, said) = run(&mut as_user(&self.user, &["prlimit", "--pid", &pid, &limit]));
        assert_eq!(status, Some(0), "{said}");
    }

    fn lift(self) {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.process.0)).unwrap();
        let name = if self.resource == DESCRIPTORS { "Max open files" } else { "Max processes" };
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        self.to(line.split_whitespace().nth(1).unwrap());
    }
}

fn deputy(daemon: &Daemon) -> Process {
    let is_it = |process: &Process| {
        process.argv().get(1).is_some_and(|word| word == "deputy") && process.parent() == Process(daemon.pid())
    };
    daemon.wait("a deputy", || Process::all().find(is_it))
}

fn server(daemon: &Daemon) -> Process {
    Process(daemon.tmux(&["display-message", "-p", "#{pid}"]).unwrap().trim().parse().unwrap())
}

/// Restarts `again` while `process` may have no more than `limit`.
fn is_short(daemon: &Daemon, steady: &Steady, process: Process, resource: &'static str, words: &str) {
    let limit = Limit::set(process, daemon.agent_account(), resource, 1);
    daemon.put(&daemon.work("end"), "3");
    wait_for_error(daemon, "again", words);
    steady.check(daemon);
    limit.lift();
    wait_until_well(daemon, "again", 2);
    assert_eq!(daemon.agent("again").unwrap().restarts, 1, "a failed try is not a restart");
    steady.check(daemon);
}

#[test]
fn a_deputy_that_cannot_fork_is_named_and_tried_again() {
    let (daemon, steady) = start(Setup::new());
    let words = "failed to run tmux: Resource temporarily unavailable";
    let process = deputy(&daemon);
    is_short(&daemon, &steady, process, PROCESSES, words);
    assert_eq!(deputy(&daemon), process, "the same deputy continues");
}

#[test]
fn a_deputy_without_threads_delays_only_new_work() {
    let (daemon, steady) = start(Setup::new());
    let process = deputy(&daemon);
    let limit = Limit::set(process, daemon.agent_account(), PROCESSES, 1);
    // The daemon still knows what it read before.
    let unknown = daemon.path("unknown");
    fs::create_dir(&unknown).unwrap();
    give(&unknown, &daemon.agent_account());
    daemon.edit_jcard(&(two_agents() + &late().replace("workdir = \"@WORK\"", "workdir = \"@DIR/unknown\"")));
    let held_up = daemon.wait_until("late", "held up, and says why", |agent| agent.state == State::Waiting);
    let reason = held_up.reason.unwrap();
    assert!(reason.contains("Resource temporarily unavailable"), "{reason}");
    assert!(daemon.log().contains("no thread can be started"));
    steady.check(&daemon);
    limit.lift();
    wait_until_well(&daemon, "late", 1);
    steady.check(&daemon);
    assert_eq!(deputy(&daemon), process, "the same deputy continues");
}

#[test]
fn a_deputy_without_descriptors_is_named_and_tried_again() {
    let (daemon, steady) = start(Setup::new());
    let process = deputy(&daemon);
    is_short(&daemon, &steady, process, DESCRIPTORS, "failed to run tmux: Too many open files");
    assert_eq!(deputy(&daemon), process, "the same deputy continues");
}

#[test]
fn a_tmux_server_that_cannot_fork_is_named_and_tried_again() {
    let (daemon, steady) = start(Setup::new());
    let words = "Resource temporarily unavailable";
    is_short(&daemon, &steady, server(&daemon), PROCESSES, words);
}

fn descriptors(process: Process) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{}/fd", process.0)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// Idle API clients that take every descriptor that the daemon has left.
fn take_descriptors(daemon: &Daemon) -> (Limit, Vec<UnixStream>) {
    let process = Process(daemon.pid());
    let size = descriptors(process).into_iter().max().unwrap() + 1;
    let limit = Limit::set(process, daemon.daemon_account(), DESCRIPTORS, size);
    let mut clients = Vec::new();
    while u64::try_from(descriptors(process).len()).unwrap() < size {
        let mut client = UnixStream::connect(daemon.api_socket()).unwrap();
        client.set_read_timeout(Some(BOUND)).unwrap();
        client.write_all(b"GET /v1/health HTTP/1.1\r\nHost: agentd\r\n\r\n").unwrap();
        client.read_exact(&mut [0; 8]).unwrap();
        clients.push(client);
    }
    (limit, clients)
}

#[test]
fn a_daemon_without_descriptors_says_so_and_recovers() {
    // Enough time to take the descriptors that the ended attempt returns.
    let patient = |jcard: String| jcard.replace("\"50ms\"", "\"4s\"");
    let daemon = Setup::new().args(["--resync", "200ms"]).start(&patient(two_agents()));
    let steady = Steady::of(&daemon);
    daemon.wait_until_running("again");
    daemon.put(&daemon.work("end"), "3");
    daemon.wait_for_state("again", State::Backoff);
    daemon.wait("its launcher to end", || {
        let panes = daemon.tmux(&["list-panes", "-s", "-t", "=again", "-F", "#{pane_dead}"]).ok()?;
        (panes == "1\n").then_some(())
    });
    let (limit, clients) = take_descriptors(&daemon);
    daemon.edit_jcard(&patient(two_agents() + &late()));
    // The test does not ask the API, which gives up its spare descriptor for each client. The daemon could use that to read the
    // jcard.
    let logged = |line: &str| line.contains("jcard.toml: Too many open files");
    daemon.wait("the jcard to be unreadable", || daemon.log().lines().any(logged).then_some(()));
    let error = daemon.wait("the API to say so", || daemon.health().config_error);
    assert!(error.contains("jcard.toml: Too many open files"), "{error}");
    // Any step of the next attempt may lack a descriptor.
    wait_for_error(&daemon, "again", "Too many open files");
    for _ in 0..20 {
        assert_eq!(daemon.get("/v1/agents").status, 200);
    }
    steady.check(&daemon);
    limit.lift();
    drop(clients);
    for (name, starts) in [("again", 2), ("late", 1)] {
        wait_until_well(&daemon, name, starts);
    }
    daemon.wait("no config_error", || daemon.health().config_error.is_none().then_some(()));
    steady.check(&daemon);
    let lines = daemon.log().lines().filter(|line| line.contains("Too many open files")).count();
    assert!(lines < 50, "the log is not flooded: {lines} lines");
}

/// A small file system at this path, until this is dropped, in the mount namespace of the tests.
struct Mount(String);

impl Mount {
    fn new(path: &Path, options: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        let path = path.to_str().unwrap().to_owned();
        mount(&["-t", "tmpfs", "-o", options, "tmpfs", &path]);
        Self(path)
    }

    fn remount(&self, options: &str) {
        mount(&["-o", &format!("remount,{options}"), &self.0]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").args(["--lazy", &self.0]));
    }
}

fn mount(args: &[&str]) {
    let (status, said) = run(Command::new("mount").args(args));
    assert_eq!(status, Some(0), "mount {args:?}: {said}");
}

/// Creates files until there is no room for another, and returns them.
fn fill(folder: &Path, content: &[u8]) -> Vec<PathBuf> {
    let files = (0..).map(|number| folder.join(format!("filler-{number}")));
    let is_made = |path: &PathBuf| {
        let made = fs::write(path, content);
        if made.is_err() {
            let _ = fs::remove_file(path);
        }
        made.is_ok()
    };
    files.take_while(is_made).collect()
}

#[test]
fn a_full_tmux_directory_is_named_and_delays_only_the_server() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    let _mount = Mount::new(&setup.path("tmux"), "nr_inodes=16,mode=0700");
    give(&setup.path("tmux"), &setup.agent_account());
    let daemon = setup.args(["--resync", "200ms"]).start(&two_agents());
    daemon.wait_until_running("again");
    daemon.wait_for_starts("again", 1);
    let server = server(&daemon);
    server.signal(Signal::SIGSTOP);
    fs::remove_file(daemon.tmux_socket()).unwrap();
    let fillers = fill(&daemon.path("tmux"), b"");
    server.signal(Signal::SIGKILL);
    daemon.wait_until("again", "known to be lost", |agent| agent.exit.is_some());
    wait_for_error(&daemon, "again", "No space left on device");
    assert_eq!(daemon.get("/v1/health").status, 200);
    for filler in fillers {
        fs::remove_file(filler).unwrap();
    }
    wait_until_well(&daemon, "again", 2);
}

#[test]
fn an_unwritable_state_directory_is_named_and_stops_no_agent() {
    if !root() {
        return;
    }
    for is_full in [true, false] {
        let setup = Setup::new();
        let mount = Mount::new(&setup.path("state"), "size=64k,mode=0700");
        let (daemon, steady) = start(setup);
        let state = daemon.path("state");
        let fillers = if is_full {
            fill(&state, &[b'x'; 4096])
        } else {
            mount.remount("ro");
            Vec::new()
        };
        daemon.edit_jcard(&(two_agents() + &late()));
        wait_until_well(&daemon, "late", 1);
        let error = daemon.wait("an error", || daemon.health().state_error);
        let expected = if is_full { "No space left on device" } else { "Read-only file system" };
        assert!(error.contains(expected), "{error}");
        assert!(daemon.log().contains(expected));
        steady.check(&daemon);
        for filler in fillers {
            fs::remove_file(filler).unwrap();
        }
        mount.remount("rw");
        daemon.wait("the error to disappear", || daemon.health().state_error.is_none().then_some(()));
        assert!(state.join("agents/late.json").exists());
        steady.check(&daemon);
    }
}

#[test]
fn a_daemon_with_an_unwritable_state_directory_starts() {
    if !root() {
        return;
    }
    for is_full in [true, false] {
        let setup = Setup::new();
        let mount = Mount::new(&setup.path("state"), "size=64k,mode=0700");
        if is_full {
            fill(&setup.path("state"), &[b'x'; 4096]);
        } else {
            mount.remount("ro");
        }
        let daemon = setup.start(&two_agents());
        wait_until_well(&daemon, "steady", 1);
        let error = daemon.wait("an error", || daemon.health().state_error);
        let expected = if is_full { "No space left on device" } else { "Read-only file system" };
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_vanished_workdir_delays_only_the_next_start_in_it() {
    let setup = Setup::new();
    let away = setup.path("away");
    fs::create_dir(&away).unwrap();
    give(&away, &setup.agent_account());
    let again = "log @WORK/again; await-exit @WORK/end";
    let there = agent("again", again, "restart = \"on-failure\"\nbackoff = [\"50ms\"]")
        .replace("workdir = \"@WORK\"", "workdir = \"@DIR/away\"");
    let daemon = setup.start(&(agent("steady", "log @WORK/steady; sleep inf", "") + &there));
    let steady = Steady::of(&daemon);
    let pid = daemon.wait_until_running("again");
    fs::remove_dir(&away).unwrap();
    assert_eq!(daemon.agent("again").unwrap().pid, Some(pid), "the agent stays where it is");
    daemon.put(&daemon.work("end"), "3");
    let held_up = daemon.wait_for_state("again", State::Waiting);
    assert!(held_up.reason.as_ref().is_some_and(|reason| reason.contains("away does not exist")), "{held_up:?}");
    steady.check(&daemon);
    fs::create_dir(&away).unwrap();
    give(&away, &daemon.agent_account());
    wait_until_well(&daemon, "again", 2);
    steady.check(&daemon);
}

#[test]
fn a_removed_user_is_named_and_agents_start_once_it_returns() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    let (users, name) = (fs::read_to_string("/etc/passwd").unwrap(), setup.agent_account().name);
    let entry = users.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
    let without = users.replace(&format!("{entry}\n"), "");
    let file = setup.path("passwd");
    fs::write(&file, &users).unwrap();
    // The daemon has a namespace of its own, because other tests need the user.
    let own_users = format!("mount --bind {} /etc/passwd && exec \"$@\"", file.display());
    let (daemon, steady) =
        start(setup.after(&format!("exec unshare --mount --propagation private -- bash -c '{own_users}' bash \"$@\"")));
    fs::write(&file, &without).unwrap();
    daemon.put(&daemon.work("end"), "3");
    let uid = account(&name).uid;
    wait_for_error(&daemon, "again", &format!("the user with uid {uid} has no entry"));
    deputy(&daemon).signal(Signal::SIGKILL);
    wait_for_error(&daemon, "again", &format!("there is no user \"{name}\""));
    steady.check(&daemon);
    fs::write(&file, &users).unwrap();
    wait_until_well(&daemon, "again", 2);
    steady.check(&daemon);
}

/// The seconds of each `start` in a log, by the machine's own clock.
fn start_times(daemon: &Daemon, log: &str) -> Vec<f64> {
    daemon.lines(log).iter().filter_map(|line| line.split(' ').nth(2)?.parse().ok()).collect()
}

#[test]
fn a_wall_clock_jump_neither_hastens_nor_delays_anything() {
    const YEAR: i64 = 365 * 24 * 3600;
    let setup = Setup::new();
    let library = setup.path("bin/wall-clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/wall-clock.c");
    let (status, said) =
        run(Command::new("cc").args(["-shared", "-fPIC", "-o", library.to_str().unwrap(), source, "-ldl"]));
    assert_eq!(status, Some(0), "{said}");
    let shift = setup.path("shift");
    // In place, because the file is read all the time.
    let jump = |seconds: i64| fs::write(&shift, seconds.to_string()).unwrap();
    jump(0);
    let setup = setup.env("LD_PRELOAD", library.to_str().unwrap()).env("WALL_CLOCK_SHIFT", shift.to_str().unwrap());
    let again = agent("again", "log @WORK/again; exit 1", "restart = \"always\"\nbackoff = [\"1s\"]");
    let timed = agent("timed", "log @WORK/timed; sleep inf", "timeout = \"6s\"\ngrace_period = \"0s\"");
    let slow = agent("slow", "log @WORK/slow; stubborn; sleep inf", "grace_period = \"3s\"");
    let both = again + &timed;
    let daemon = setup.start(&(both.clone() + &slow));
    let pids = ["timed", "slow"].map(|name| (name, daemon.wait_until_running(name)));
    let started = Instant::now();
    daemon.wait_for_starts("slow", 1);

    jump(YEAR);
    daemon.wait("two more starts", || (daemon.starts("again") >= 3).then_some(()));
    jump(-YEAR);
    daemon.wait("two more starts", || (daemon.starts("again") >= 5).then_some(()));
    assert!(Process(pids[0].1).is_alive() || started.elapsed() >= Duration::from_secs(6));

    daemon.edit_jcard(&both);
    let stopping = Instant::now();
    daemon.wait_for_state("slow", State::Stopping);
    jump(YEAR);
    daemon.wait_until_gone(pids[1].1);
    assert!(stopping.elapsed() >= Duration::from_secs(2), "it had {:?} of its 3 s", stopping.elapsed());
    daemon.wait_until_gone(pids[0].1);
    assert!(started.elapsed() >= Duration::from_secs(5), "it had {:?} of its 6 s", started.elapsed());

    daemon.edit_jcard(&(both + &late()));
    daemon.wait_until_running("late");
    let shown = daemon.agent("late").unwrap().declared_at.unwrap().0;
    assert!(between(SystemTime::now(), shown) > Duration::from_hours(24), "displayed times follow the wall clock");
    let times = start_times(&daemon, "again");
    for pair in times.windows(2) {
        let apart = pair[1] - pair[0];
        assert!((1.0..4.0).contains(&apart), "starts {apart} s apart: {times:?}");
    }
}
