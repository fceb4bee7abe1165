//! What the agent user can do to the daemon: lie to it, plant links, pose as tmux. None of it yields root's rights or another
//! user's secrets, or stops other agents from running and ending.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentd::launch::protocol::WIRE_VERSION;
use agentd::wire::exit_status::ExitStatus;
use agentd::wire::status::{AgentStatus, State};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::signal::Signal;

use crate::attach::Terminal;
use crate::support::{
    BOUND, Bystander, Daemon, Dump, Process, Setup, account, agent, as_user, give, is_root, owner, path, root, run,
    skip, with_args,
};

const NO_AGENTS: &str = "[project]\nname = \"x\"\n";

/// An agent that records its starts and its SIGINT, and exits on SIGINT.
fn honest(name: &str) -> String {
    agent(name, &format!("on-signal INT 0; log @WORK/{name}; sleep inf"), "")
}

/// Puts `liar` and `socket` where the agent user finds them.
pub fn put_tools(setup: &Setup) {
    let source = |name: &str| format!("{}/tests/e2e/{name}", env!("CARGO_MANIFEST_DIR"));
    let liar = fs::read_to_string(source("liar")).unwrap().replace("@VERSION", &WIRE_VERSION.to_string());
    setup.put(&setup.path("bin/liar"), liar);
    fs::set_permissions(setup.path("bin/liar"), Permissions::from_mode(0o755)).unwrap();
    compile(setup, "socket");
}

/// Builds one of the test programs, and returns its path.
fn compile(setup: &Setup, name: &str) -> PathBuf {
    let source = format!("{}/tests/e2e/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let program = setup.path("bin").join(name);
    let (status, said) = run(Command::new("cc").args(["-Wall", "-Werror", "-o", program.to_str().unwrap(), &source]));
    assert_eq!(status, Some(0), "{said}");
    program
}

/// A tmux that starts a liar in every agent's pane, except for names that begin with `honest`. A server of the agent user could
/// do the same.
fn with_lying_tmux(setup: Setup) -> Setup {
    put_tools(&setup);
    let tmux = run(Command::new("bash").args(["-c", "command -v tmux"])).1;
    fs::create_dir(setup.path("fake")).unwrap();
    let script = format!(
        "#!/usr/bin/env bash\nwords=()\nwhile (($#)); do\n\
         [[ $1 != */agentd-launcher || ${{2-}} == honest* ]] || set -- {} exec \"${{@:2}}\"\n\
         words+=(\"$1\") && shift\ndone\nexec {} \"${{words[@]}}\"\n",
        setup.path("bin/liar").display(),
        tmux.trim()
    );
    setup.put(&setup.path("fake/tmux"), script);
    fs::set_permissions(setup.path("fake/tmux"), Permissions::from_mode(0o755)).unwrap();
    let search = format!("{}:{}", setup.path("fake").display(), path());
    setup.env("PATH", &search)
}

/// What the liar of that name has recorded.
fn lies(daemon: &Setup, name: &str) -> Vec<String> {
    daemon.lines(&format!("{name}.lies"))
}

/// The liars of that name so far.
fn liars(daemon: &Setup, name: &str) -> Vec<Process> {
    lies(daemon, name).iter().filter_map(|line| Some(Process(line.strip_prefix("start ")?.parse().ok()?))).collect()
}

/// Asserts that the agent with that name still runs, and ends as it should.
fn assert_stops_well(daemon: &Daemon, name: &str, pid: i32) {
    assert_eq!(daemon.wait_until_running(name), pid);
    daemon.wait_for_starts(name, 1);
    daemon.edit_jcard(NO_AGENTS);
    daemon.wait_until_removed(name);
    assert!(!Process(pid).is_alive());
    daemon.wait_for_line(name, "INT");
}

#[test]
fn lying_launchers_harm_only_themselves_and_can_be_stopped() {
    const CLAIMS: [&str; 4] = ["claims-the-first", "claims-the-daemon", "claims-a-strangers", "claims-anothers"];
    const OTHERS: [&str; 7] =
        ["says-nothing", "says-ages", "says-too-much", "says-it-ended", "says-it-ended-again", "talks-on", "babbles"];
    let setup = with_lying_tmux(Setup::new());
    let mut daemon = setup.start(&honest("honest"));
    let pid = daemon.wait_until_running("honest");
    let stranger = if is_root() { "stranger" } else { &daemon.agent_account().name };
    let mut bystander = Bystander::start(&mut as_user(stranger, &["sleep", "1000"]));
    for (name, claimed) in CLAIMS.into_iter().zip([1, daemon.pid(), bystander.pid(), pid]) {
        daemon.put(&daemon.work(&format!("{name}.claim")), claimed.to_string());
    }
    let more = |name: &str| {
        if name.ends_with("again") { "restart = \"always\"\nbackoff = [\"0s\"]" } else { "grace_period = \"500ms\"" }
    };
    let liars_jcard: String = CLAIMS.iter().chain(&OTHERS).map(|name| agent(name, "sleep inf", more(name))).collect();
    daemon.edit_jcard(&(honest("honest") + &liars_jcard));
    for name in CLAIMS.iter().chain(&OTHERS) {
        daemon.wait(&format!("the lies of {name}"), || liars(&daemon, name).first().copied());
    }

    let said = |name: &str, what: &str, asked: fn(&AgentStatus) -> bool| daemon.wait_until(name, what, asked);
    for name in ["says-it-ended", "says-ages"] {
        let status = said(name, "over, as it says", |agent| agent.state == State::Exited);
        assert!(status.started_at <= status.exit.as_ref().map(|exit| exit.at), "{status:?}");
        // One liar claims to have started when the machine booted.
        assert!(status.started_at >= status.declared_at, "{status:?}");
    }
    let error = said("says-too-much", "failed", |agent| agent.state == State::Exited).error.unwrap();
    assert!(error.len() < 3000 && !error.contains(char::is_control), "{error:?}");
    said("talks-on", "running", |agent| agent.running);
    // A liar that does not leave is ended, and only then does the next attempt start.
    for name in ["says-it-ended", "says-it-ended-again", "says-too-much", "babbles"] {
        let first = liars(&daemon, name)[0];
        daemon.wait_until_gone(first.0);
    }
    daemon.wait("the next attempt of one", || liars(&daemon, "says-it-ended-again").get(1).copied());
    assert!(!lies(&daemon, "says-it-ended-again").iter().any(|line| line.starts_with("beside")));
    for (name, claimed) in CLAIMS.into_iter().zip([1, daemon.pid(), bystander.pid(), pid]) {
        let status = daemon.agent(name).unwrap();
        assert!(!status.running && status.pid != Some(claimed), "{status:?}");
    }

    let assert_gone = |daemon: &Daemon, name: &str| {
        let left: Vec<_> = liars(daemon, name).into_iter().filter(|liar| liar.can_act()).collect();
        assert!(left.is_empty(), "{name} has left {left:?}");
    };
    let staying = |name: &&&str| ["claims-the-first", "says-nothing", "says-it-ended-again"].contains(*name);
    let jcard: String =
        CLAIMS.iter().chain(&OTHERS).filter(staying).map(|name| agent(name, "sleep inf", more(name))).collect();
    daemon.edit_jcard(&(honest("honest") + &jcard));
    for name in CLAIMS.iter().chain(&OTHERS).filter(|name| !staying(name)) {
        daemon.wait_until_removed(name);
        assert_gone(&daemon, name);
    }
    daemon.edit_jcard(&jcard);
    daemon.wait_until_removed("honest");
    daemon.wait_for_line("honest", "INT");
    assert!(!Process(pid).is_alive() && daemon.starts("honest") == 1);
    assert!(daemon.stop().success());
    for name in CLAIMS.iter().chain(&OTHERS) {
        assert_gone(&daemon, name);
    }
    assert!(bystander.lives() && Process(1).is_alive());
}

#[test]
fn the_record_prevails_over_a_launcher_that_denies_its_work() {
    let setup = with_lying_tmux(Setup::new());
    let mut daemon = setup.start(&agent("disowns", "sleep inf", ""));
    daemon.wait_until_running("disowns");
    daemon.wait_for_record("disowns", "\"running\"");
    let before = daemon.agent("disowns").unwrap();
    daemon.kill_and_start_again();
    daemon.wait_for_file("disowns.again");
    let is_same = |agent: &AgentStatus| {
        agent.running
            && (agent.pid, agent.started_at, agent.declared_at) == (before.pid, before.started_at, before.declared_at)
    };
    daemon.wait_until("disowns", "what it was", is_same);
    // Once another agent runs, every effect of the lie has appeared.
    daemon.edit_jcard(&(agent("disowns", "sleep inf", "") + &honest("honest")));
    daemon.wait_until_running("honest");
    assert!(is_same(&daemon.agent("disowns").unwrap()));
    assert_eq!(liars(&daemon, "disowns").len(), 1);
}

#[test]
fn a_surviving_launcher_sends_no_secret_to_the_next_daemon() {
    const SECRET: &str = "canary-of-a-launcher-that-tells-all";
    let setup = with_lying_tmux(Setup::new());
    setup.secret("KEY", SECRET);
    let mut daemon = setup.start(&agent("disowns-all", "sleep inf", ""));
    daemon.wait_until_running("disowns-all");
    daemon.wait_for_record("disowns-all", "\"running\"");
    daemon.put(&daemon.work("disowns-all.cause"), format!("it was given {SECRET}"));
    daemon.kill_and_start_again();
    let status = daemon.wait_for_state("disowns-all", State::Exited);
    let ExitStatus::Cause(cause) = status.exit.unwrap().how else { panic!("the exit has a cause") };
    assert!(cause.starts_with("it was given ***") && !cause.contains("canary"), "{cause}");
    assert!(!daemon.log().contains(SECRET));
}

#[test]
fn a_surviving_launcher_without_names_shows_no_old_secret() {
    const SECRET: &str = "canary-of-a-launcher-that-names-nothing";
    let with = |secret: &str| agent("disowns-in-silence", "sleep inf", &format!("secrets = ['{secret}']"));
    let setup = with_lying_tmux(Setup::new());
    setup.secret("FORMER", SECRET);
    setup.secret("PRESENT", "something else");
    setup.put(&setup.work("disowns-in-silence.words"), format!("it was given {SECRET}"));
    let mut daemon = setup.start(&with("FORMER"));
    let pid = daemon.wait_until_running("disowns-in-silence");
    daemon.kill();
    fs::remove_dir_all(daemon.path("state/agents")).unwrap();
    daemon.edit_jcard(&with("PRESENT"));
    daemon.start_again();
    assert_eq!(daemon.wait_until_running("disowns-in-silence"), pid);
    let screen = daemon.wait("its screen", || {
        let response = daemon.get("/v1/agents/disowns-in-silence/screen");
        (response.status == 200).then_some(response.body)
    });
    assert!(screen.contains("it was given ***") && !screen.contains("canary"), "{screen}");
}

#[test]
fn a_false_launcher_learns_nothing_and_replaces_no_one() {
    let setup = Setup::new();
    put_tools(&setup);
    let waits = honest("waits").replace("@WORK\"\nargs", "@WORK/nowhere\"\nargs");
    let daemon = setup.start(&(honest("honest") + &waits));
    let pid = daemon.wait_until_running("honest");
    daemon.wait_for_state("waits", State::Waiting);
    let before = daemon.agents();
    let liar = daemon.path("bin/liar").display().to_string();
    let socket = daemon.path("tmux/launch.sock").display().to_string();
    let zero = "{\"secs\":0,\"nanos\":0}";
    let own = format!("{{\"pid\":{pid},\"at\":{zero}}}");
    let end =
        format!("{{\"how\":{{\"code\":9}},\"at\":{zero},\"user_time\":{zero},\"system_time\":{zero},\"max_rss\":0}}");
    for progress in [
        "\"new\"".to_owned(),
        format!("{{\"running\":{own}}}"),
        format!("{{\"ended\":{{\"harness\":{own},\"end\":{end}}}}}"),
        "{\"failed\":{\"message\":\"it is broken\",\"errno\":2}}".to_owned(),
    ] {
        for (name, attempt) in [("honest", "1"), ("HONEST", "2"), ("waits", "1"), ("nobody", "1"), ("../x", "0")] {
            let words = ["timeout", "-s", "KILL", "5", &liar, "visit", name, attempt, &socket, &progress];
            let (_, told) = run(daemon.as_agent(&words).current_dir(daemon.path("work")));
            assert!(!told.contains("launch") && !told.contains(&daemon.canary), "{name} {progress}: {told}");
        }
    }
    assert_eq!(daemon.agents(), before);
    assert!(daemon.log().contains("ending another process that says to be its launcher"));
    assert_stops_well(&daemon, "honest", pid);
}

#[test]
fn a_false_launcher_cannot_become_an_agent_that_restarts() {
    let setup = with_lying_tmux(Setup::new());
    let daemon = setup.start(&agent("comes-late", "sleep inf", "restart = \"always\"\nbackoff = [\"0s\"]"));
    daemon.wait("the second attempt", || liars(&daemon, "comes-late").get(1).copied());
    let liar = daemon.path("bin/liar").display().to_string();
    let socket = daemon.path("tmux/launch.sock").display().to_string();
    // No process has this id. An ended process may have been its own.
    let progress = "{\"running\":{\"pid\":4194304,\"at\":{\"secs\":0,\"nanos\":0}}}";
    let visit = [&liar, "visit", "comes-late", "2", &socket, progress];
    let mut visitor = Bystander::start(daemon.as_agent(&visit).current_dir(daemon.path("work")));
    daemon.wait_for_file("comes-late.visited");
    daemon.put(&daemon.work("comes-late.go"), "");
    let running = daemon.wait_until("comes-late", "running", |agent| agent.running && agent.attempt == Some(2));
    assert_eq!(running.pid.map(|pid| Process(pid).parent()), Some(liars(&daemon, "comes-late")[1]));
    daemon.wait("the visitor to be killed", || (!visitor.lives()).then_some(()));
}

#[test]
fn a_crowded_launch_socket_admits_launchers_in_bounded_memory() {
    let setup = Setup::new();
    put_tools(&setup);
    let daemon = setup.start(&honest("honest"));
    let pid = daemon.wait_until_running("honest");
    let daemons = Process(daemon.pid());
    let before = daemons.peak_kib();
    let again = |connections: usize, does: &str| {
        let (tool, socket) = (daemon.path("bin/socket"), daemon.path("tmux/launch.sock"));
        let script = format!("while :; do {} connect {connections} {} {does}; done", tool.display(), socket.display());
        Bystander::start(daemon.as_agent(&["bash", "-c", &script]).current_dir(daemon.path("work")))
    };
    // A frame above the limit, except for its last byte.
    let frame = "bash -c 'printf \"\\0\\0\\xa0\\0\" >&3; head -c 10485759 /dev/zero >&3; sleep 1'";
    // A permitted length that contains no valid message.
    let frames =
        "bash -c 'for fd in {3..22}; do printf \"\\x40\\x9c\\0\\0\" >&$fd; head -c 39000 /dev/zero >&$fd; done'";
    let crowd = [
        again(300, "sleep 1"),
        again(300, "sleep 1"),
        again(1, "bash -c 'head -c 100000 /dev/urandom >&3'"),
        again(1, frame),
        again(1, frame),
        again(1, frame),
        again(20, frames),
    ];
    daemon.wait("the daemon to reject some of them", || daemon.log().contains("(256 so far)").then_some(()));
    daemon.edit_jcard(&(honest("honest") + &honest("late")));
    daemon.wait_until_running("late");
    let after = daemons.peak_kib();
    assert!(after < before + (20 << 10), "{before} KiB became {after}");
    drop(crowd);
    daemon.edit_jcard(&honest("honest"));
    daemon.wait_until_removed("late");
    assert_stops_well(&daemon, "honest", pid);
}

/// What belongs to root, and must not change.
struct Precious {
    folder: PathBuf,
    file: PathBuf,
}

impl Precious {
    fn put(setup: &Setup) -> Self {
        let folder = setup.path("precious");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        let file = folder.join("file");
        fs::write(&file, WORDS).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        Self { folder, file }
    }

    fn assert_untouched(&self) {
        assert_eq!((owner(&self.folder), owner(&self.file)), ((0o755, 0, 0), (0o600, 0, 0)));
        assert_eq!(fs::read_to_string(&self.file).unwrap(), WORDS);
        let entries: Vec<_> = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(entries, ["file"], "in root's folder");
    }
}

const WORDS: &str = "root's own words";

/// Runs as the agent user, in the workdir.
fn by_agent(setup: &Setup, script: &str) {
    let (status, said) = run(setup.as_agent(&["bash", "-ec", script]).current_dir(setup.path("work")));
    assert_eq!(status, Some(0), "{script}: {said}");
}

/// The daemon's command line with other paths.
fn command_with(setup: &Setup, places: &[(&str, &str)]) -> Command {
    let mut flag = String::new();
    let place = |word: &str| {
        let before = std::mem::replace(&mut flag, word.to_owned());
        let other = places.iter().find(|(flag, _)| *flag == before);
        Some(other.map_or_else(|| word.to_owned(), |(_, place)| setup.expand(place)))
    };
    with_args(&setup.daemon_command(), place)
}

#[test]
fn a_link_of_the_agent_user_cannot_make_root_change_files() {
    if !root() {
        return;
    }
    for (flag, place, plant) in [
        ("--tmux-socket", "@WORK/x/tmux.sock", "ln -s ../precious x"),
        ("--tmux-socket", "@WORK/x/run/tmux.sock", "ln -s ../precious x"),
        ("--api-socket", "@WORK/x", "ln -s ../precious/file x"),
        ("--api-socket", "@WORK/x", "ln -s ../precious/new x"),
        ("--api-socket", "@WORK/x/agentd.sock", "ln -s ../precious x"),
        ("--api-socket", "@WORK/x/run/agentd.sock", "ln -s ../precious x"),
        ("--state-dir", "@WORK/x", "ln -s ../precious x"),
        ("--state-dir", "@WORK/x/state", "ln -s ../precious x"),
        ("--state-dir", "@WORK/x", "mkdir x"),
        ("--state-dir", "@WORK/x/state", "mkdir -p x/state/agents"),
        ("--state-dir", "@WORK/x/state", "mkdir x && touch x/pid x/key"),
    ] {
        let setup = Setup::new();
        let precious = Precious::put(&setup);
        setup.edit_jcard(&honest("honest"));
        by_agent(&setup, plant);
        let (status, said) = run(&mut command_with(&setup, &[(flag, place)]));
        assert!(status.is_some_and(|status| status != 0), "{flag} {place}: {status:?} {said}");
        assert!(said.contains(setup.work("x").to_str().unwrap()), "{flag} {place}: {said}");
        precious.assert_untouched();
        let left: Vec<_> = fs::read_dir(setup.work("x")).into_iter().flatten().flatten().collect();
        assert!(left.iter().all(|entry| owner(&entry.path()).1 != 0 || plant.starts_with("ln")), "{left:?}");
    }
}

#[test]
fn a_link_of_the_agent_user_cannot_make_root_read_files() {
    if !root() {
        return;
    }
    let reads = "dump @WORK/dump; sleep inf";
    for (flag, place, plant) in [
        ("--secret-dir", "@WORK/x", "mkdir x; ln -s ../../precious/file x/STOLEN; echo own >x/OWN"),
        ("--secret-dir", "@WORK/x/precious", "ln -s .. x"),
        ("--secret-dir", "@WORK/x", "ln -s ../precious x"),
        ("--config", "@WORK/x", "ln -s ../precious/jcard.toml x"),
        ("--config", "@WORK/x/jcard.toml", "ln -s ../precious x"),
    ] {
        let setup = Setup::new();
        let precious = Precious::put(&setup);
        setup.edit_jcard(&agent("a", reads, ""));
        let daemon = if flag == "--config" {
            fs::rename(setup.jcard(), precious.folder.join("jcard.toml")).unwrap();
            by_agent(&setup, plant);
            let command = command_with(&setup, &[(flag, place)]);
            let daemon = setup.start_by(command);
            let error = daemon.wait("an error", || daemon.health().config_error);
            assert!(error.contains("not followed"), "{error}");
            assert_eq!(daemon.agents(), []);
            fs::remove_file(precious.folder.join("jcard.toml")).unwrap();
            daemon
        } else {
            fs::rename(&precious.file, precious.folder.join("STOLEN")).unwrap();
            by_agent(&setup, &plant.replace("precious/file", "precious/STOLEN"));
            let command = command_with(&setup, &[(flag, place)]);
            let daemon = setup.start_by(command);
            let error = daemon.wait("an error", || daemon.health().secrets_error);
            assert!(error.contains("not followed"), "{error}");
            if plant.contains("OWN") {
                let dump = Dump::of(&daemon, "dump");
                assert_eq!((dump.var("STOLEN"), dump.var("OWN").as_deref()), (None, Some("own")));
            }
            fs::rename(precious.folder.join("STOLEN"), &precious.file).unwrap();
            daemon
        };
        assert!(!daemon.agents().iter().any(|agent| agent.running) || plant.contains("OWN"), "{place}");
        precious.assert_untouched();
    }
}

#[test]
fn root_follows_no_link_that_replaces_a_directory_or_socket() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    let precious = Precious::put(&setup);
    setup.edit_jcard(&honest("honest"));
    let command = command_with(&setup, &[("--tmux-socket", "@WORK/run/tmux.sock")]);
    let mut daemon = setup.start_by(command);
    let pid = daemon.wait_until_running("honest");
    let looks_for_socket = |daemon: &Daemon, words: &str| {
        daemon.wait(&format!("{words:?} in the log"), || daemon.log().contains(words).then_some(()));
        precious.assert_untouched();
    };
    by_agent(&daemon, "mv run aside; ln -s ../precious run");
    looks_for_socket(&daemon, "failed to receive a launcher: failed to open");
    by_agent(&daemon, "rm run; mv aside run; rm run/launch.sock; ln -s ../../precious/file run/launch.sock");
    looks_for_socket(&daemon, "the launch socket was gone, and has been made again");
    daemon.edit_jcard(&(honest("honest") + &honest("late")));
    daemon.wait_until_running("late");
    assert_eq!(daemon.wait_until_running("honest"), pid);
    by_agent(&daemon, "rm run/launch.sock; ln -s ../../precious/file run/launch.sock");
    assert!(daemon.stop().success());
    precious.assert_untouched();
    assert!(!Process(pid).is_alive());
}

#[test]
fn the_daemon_starts_despite_directories_at_its_launch_socket() {
    let setup = Setup::new();
    let folder = setup.path("tmux");
    fs::create_dir_all(folder.join("launch.sock/x")).unwrap();
    give(&folder, &setup.agent_account());
    // The name with the process id, which can be guessed, is taken as well.
    let guess = format!("mkdir -p {}/launch.sock.$$/x", folder.display());
    let daemon = setup.after(&guess).start(&honest("honest"));
    assert!(folder.join(format!("launch.sock.{}/x", daemon.pid())).is_dir());
    let pid = daemon.wait_until_running("honest");
    assert_stops_well(&daemon, "honest", pid);
}

#[test]
fn a_file_swapped_while_read_never_becomes_prompt_or_workdir() {
    if !root() {
        return;
    }
    let setup = Setup::new().args(["--resync", "50ms", "--settle", "0ms"]);
    let precious = Precious::put(&setup);
    fs::create_dir(setup.path("closed")).unwrap();
    fs::set_permissions(setup.path("closed"), Permissions::from_mode(0o700)).unwrap();
    let policy = "restart = \"always\"\nbackoff = [\"0s\"]\n";
    let prompted = agent("prompted", "dump @WORK/prompted; rest", &format!("{policy}prompt_file = \"work/prompt\""));
    let placed = agent("placed", "dump @WORK/placed; rest", policy).replace("@WORK\"\nargs", "@WORK/place\"\nargs");
    by_agent(&setup, "mkdir open; ln -s open place; echo mine >prompt; ln -s ../closed q; ln -s ../precious/file p");
    let daemon = setup.start(&(prompted + &placed));
    let dumps = |name: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(daemon.path("work")).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some() && path.file_stem().is_some_and(|stem| stem == name)).collect()
    };
    let exchange = |one: &str, other: &str| {
        renameat2(AT_FDCWD, &daemon.work(one), AT_FDCWD, &daemon.work(other), RenameFlags::RENAME_EXCHANGE).unwrap();
    };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Even if the work under test has failed.
            let limit = Instant::now() + 2 * BOUND;
            while !over.load(Ordering::Relaxed) && Instant::now() < limit {
                // Mostly the real one, because each failed launch delays the next.
                for time in [1, 20].map(Duration::from_millis) {
                    exchange("prompt", "p");
                    exchange("place", "q");
                    thread::sleep(time);
                }
            }
        });
        for name in ["prompted", "placed"] {
            daemon.wait(&format!("many runs of {name}"), || (dumps(name).len() > 3).then_some(()));
        }
        over.store(true, Ordering::Relaxed);
    });
    daemon.edit_jcard(NO_AGENTS);
    for name in ["prompted", "placed"] {
        daemon.wait_until_removed(name);
        for dump in dumps(name) {
            let argv = fs::read(dump.join("argv")).unwrap_or_default();
            let cwd = fs::read_to_string(dump.join("cwd")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&argv).contains(WORDS), "{}", dump.display());
            assert!(!cwd.contains("closed"), "{cwd}");
        }
    }
    assert_eq!(daemon.leaks(WORDS), [""; 0]);
    assert_eq!(owner(&daemon.path("closed")), (0o700, 0, 0));
    precious.assert_untouched();
}

/// A server of the agent user that poses as tmux. Each of its clients leaves a file in the directory `loot`.
fn fake_tmux(setup: &Setup) -> Bystander {
    let names = ["bin/socket", "tmux/fake.sock", "bin/fake-tmux", "loot", "precious/file"];
    let [tool, socket, fake, loot, file] = names.map(|name| setup.path(name).display().to_string());
    let words = [&tool, "listen", &socket, &fake, &loot, &file];
    let server = Bystander::start(setup.as_agent(&words).current_dir(setup.path("work")));
    setup.wait("the fake to listen", || UnixStream::connect(&socket).ok());
    // Immediately, because a server whose socket disappears creates it again.
    by_agent(setup, "chmod 777 ../tmux/fake.sock; mv -T ../tmux/fake.sock ../tmux/tmux.sock");
    server
}

/// The owners of the files in the directory `loot`.
fn looted(setup: &Setup) -> BTreeSet<u32> {
    fs::read_dir(setup.path("loot")).unwrap().map(|entry| owner(&entry.unwrap().path()).1).collect()
}

#[test]
fn a_fake_tmux_server_cannot_use_root_and_delays_only_tmux_work() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    put_tools(&setup);
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/fake-tmux"), setup.path("bin/fake-tmux")).unwrap();
    let precious = Precious::put(&setup);
    for (folder, mode) in [("loot", 0o1777), ("tmux", 0o755)] {
        fs::create_dir(setup.path(folder)).unwrap();
        fs::set_permissions(setup.path(folder), Permissions::from_mode(mode)).unwrap();
    }
    let [agent_user, op] = ["agent", "op"].map(account);
    give(&setup.path("tmux"), &agent_user);
    let fake = fake_tmux(&setup);
    let socket = setup.tmux_socket().display().to_string();
    run(&mut as_user("op", &["timeout", "10", "tmux", "-N", "-S", &socket, "list-sessions"]));
    assert_eq!(looted(&setup), [op.uid.as_raw()].into(), "the server does to clients what the test needs");

    // Before the daemon starts.
    let both = [op.uid.as_raw(), agent_user.uid.as_raw()].into();
    let mut daemon = setup.start(&honest("honest"));
    daemon.wait("the daemon to use a client", || (looted(&daemon) == both).then_some(()));
    let held_up = daemon.wait_until("honest", "held up", |agent| agent.error.is_some() && !agent.running);
    assert!(held_up.error.unwrap().contains("tmux"));
    drop(fake);
    let pid = daemon.wait_until_running("honest");
    daemon.wait_for_starts("honest", 1);

    // In place of the real one.
    by_agent(&daemon, "find ../loot -user agent -delete");
    let fake = fake_tmux(&daemon);
    daemon.edit_jcard(&(honest("honest") + &honest("late")));
    daemon.wait_until("late", "held up", |agent| agent.error.is_some() && !agent.running);
    assert_eq!(daemon.wait_until_running("honest"), pid);
    daemon.edit_jcard(&honest("late"));
    daemon.wait_until_gone(pid);
    daemon.wait_for_line("honest", "INT");
    drop(fake);
    let late = daemon.wait_until_running("late");
    daemon.wait_until_removed("honest");
    assert_eq!(looted(&daemon), both);
    precious.assert_untouched();
    assert!(daemon.stop().success());
    assert!(!Process(late).is_alive());
}

/// A tmux server of the agent user that makes each client run a program, which records in `found` what it has of root's.
struct EvilServer(Child);

impl EvilServer {
    fn start(setup: &Setup) -> Self {
        let (server, program) = (compile(setup, "evil-server"), setup.path("bin/evil"));
        let script = "#!/bin/sh\n{ if true </dev/tty; then echo a terminal; fi; } 2>/dev/null >>@WORK/found\n\
                      grep -q agentd-canary /proc/keys && echo a key >>@WORK/found\n\
                      cut -d' ' -f19 /proc/self/stat | grep -q - && echo a priority >>@WORK/found\n\
                      [ \"$(cut -d' ' -f41 /proc/self/stat)\" = 0 ] || echo a policy >>@WORK/found\n\
                      grep -E '^Max (nice|realtime) priority' /proc/self/limits | grep -qv ' 0 *0 *$' && echo a limit >>@WORK/found\n\
                      grep -q - /proc/self/oom_score_adj && echo an immunity >>@WORK/found\n\
                      id -u >>@WORK/who\n\
                      echo ran >>@WORK/found\n";
        setup.put(&program, setup.expand(script));
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let (socket, folder) = (setup.tmux_socket(), setup.path("tmux"));
        if !folder.exists() {
            fs::create_dir(&folder).unwrap();
            give(&folder, &setup.agent_account());
        }
        let words = [server.to_str().unwrap(), socket.to_str().unwrap(), program.to_str().unwrap()];
        let before = fs::metadata(&socket).ok().map(|metadata| metadata.ino());
        let child = setup.as_agent(&words).spawn().unwrap();
        setup.wait("the evil server's socket", || {
            let now = fs::metadata(&socket).ok().map(|metadata| metadata.ino());
            (now.is_some() && now != before).then_some(())
        });
        Self(child)
    }
}

impl Drop for EvilServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts agentd with a terminal, a key in the session keyring, raised priorities, and the right to raise them.
fn put_what_is_roots_own() {
    let mut session = keyutils::Keyring::join_anonymous_session().unwrap();
    session.add_key::<keyutils::keytypes::User, _, _>("agentd-canary", &b"hidden"[..]).unwrap();
}

#[test]
fn a_tmux_server_learns_nothing_of_root_from_its_clients() {
    if !root() {
        return;
    }
    put_what_is_roots_own();
    let favored = "renice -n -5 -p $$ >/dev/null; chrt -f -p 10 $$; prlimit --pid $$ --nice=30 --rtprio=20; { echo -500 >/proc/$$/oom_score_adj; } 2>/dev/null";
    let nothing = |setup: &Setup, what: &str| {
        setup.wait(&format!("a client of {what}"), || setup.lines("found").contains(&"ran".to_owned()).then_some(()));
        let found: BTreeSet<_> = setup.lines("found").into_iter().collect();
        assert_eq!(found, ["ran".to_owned()].into(), "{what}");
        fs::remove_file(setup.work("found")).unwrap();
    };

    // The daemon itself, started at a terminal.
    let (setup, terminal) = (Setup::new().after(favored), Terminal::new());
    setup.edit_jcard(&honest("a"));
    let evil = EvilServer::start(&setup);
    let daemon = terminal.run(setup.daemon_command());
    nothing(&setup, "the daemon");
    let socket = setup.api_socket();
    let api = ["--api-socket", socket.to_str().unwrap()];
    setup.wait("the API", || setup.try_agents().ok());

    // The commands that look at tmux.
    for verb in [&["doctor"][..], &["attach", "a"]] {
        let mut command = setup.agentd(&[verb, &api].concat());
        command.env("TERM", "xterm");
        let here = Terminal::new();
        let mut verb_here = here.run(command);
        nothing(&setup, verb[0]);
        verb_here.ended(&setup);
    }

    // A shell's request for completions, which must not involve tmux.
    let mut command = setup.agentd(&["--", "agentd", "attach", ""]);
    command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "2").env("_CLAP_COMPLETE_COMP_TYPE", "9");
    daemon.signal(Signal::SIGSTOP);
    // A client that the daemon had started before may still come.
    setup.wait("the last client", || {
        let _ = fs::remove_file(setup.work("found"));
        std::thread::sleep(Duration::from_millis(300));
        setup.lines("found").is_empty().then_some(())
    });
    let here = Terminal::new();
    here.run(command).ended(&setup);
    assert_eq!(setup.lines("found"), [""; 0]);
    daemon.signal(Signal::SIGCONT);
    drop(evil);
}

/// Runs before the daemon, in a network namespace of its own, so that no one else sees these sockets. `as USER WORD…` is a
/// process of that user with a socket (see `socket.c`). `shown TEXT` waits for it in the kernel's list.
const WITH_SOCKETS: &str = r#"if [[ -z ${APART-} ]]; then
    APART=yes exec unshare --net -- bash -c "$BASH_EXECUTION_STRING" bash "$@"
fi
cd work
as() { setpriv --reuid "$1" --regid "$1" --clear-groups -- ../bin/socket hold "${@:2}" </dev/null & }
digits() { od -An -v -tx1 | tr -d ' \n'; }
shown() { until LC_ALL=C grep -aq "$1" /proc/net/unix; do read -rt 0.02 <> <(:); done; }
"#;

#[test]
fn a_strangers_non_utf_8_socket_name_stops_no_agent() {
    if !root() {
        return;
    }
    let setup = Setup::new().after(&format!("{WITH_SOCKETS} as stranger 00fffe2d78 sleep inf; shown $'@\\xff\\xfe-x'"));
    put_tools(&setup);
    let daemon = setup.start(&honest("honest"));
    let pid = daemon.wait_until_running("honest");
    // The same holds for a dead server whose socket is still there.
    daemon.tmux(&["kill-server"]).unwrap_or_default();
    daemon.wait_until_gone(pid);
    daemon.edit_jcard(&honest("other"));
    let pid = daemon.wait_until_running("other");
    assert_stops_well(&daemon, "other", pid);
}

#[test]
fn a_strangers_socket_name_gets_no_process_signaled() {
    if !root() {
        return;
    }
    let (victim, forged) = ("DIR/victim", r"x\n0: 2 0 10000 1 1 %s %s");
    let commands = format!(
        r#"{WITH_SOCKETS} victim=00$(printf {victim} | digits)
        as agent "$victim" bash -c 'trap "echo got >>signals" USR1; echo >armed; while :; do read -rt 0.05 <> <(:); done'
        shown '@{victim}'; until [[ -e armed ]]; do read -rt 0.02 <> <(:); done
        inode=$(awk '$8 == "@{victim}" {{ print $7 }}' /proc/net/unix)
        as stranger 00$(printf '{forged}' "$inode" "$(dirname "$PWD")/tmux/tmux.sock" | digits) sleep inf
        shown " $inode $(dirname "$PWD")/tmux/tmux.sock""#
    );
    let setup = Setup::new().after(&commands);
    put_tools(&setup);
    let daemon = setup.start(&honest("honest"));
    let pid = daemon.wait_until_running("honest");
    assert!(daemon.work("armed").exists() && !daemon.work("signals").exists());
    assert_stops_well(&daemon, "honest", pid);
}

/// Claims to have launched something.
const POSES: &str = "{\"running\":{\"pid\":4194304,\"at\":{\"secs\":0,\"nanos\":0}}}";

/// The command of a program that claims repeatedly to have launched the agent of that name.
fn imposter_of(setup: &Setup, name: &str) -> Vec<String> {
    let [liar, socket] = ["bin/liar", "tmux/launch.sock"].map(|file| setup.path(file).display().to_string());
    [&liar, "pose", name, "1", &socket, POSES, "\"9-x:y:z\""].map(str::to_owned).into()
}

/// An agent whose harness poses as another agent.
fn posing(setup: &Setup, name: &str, other: &str) -> String {
    let words = imposter_of(setup, other);
    format!("[[agents]]\nname = {name:?}\nharness = \"custom\"\nworkdir = \"@WORK\"\ncommand = {words:?}\n\n")
}

#[test]
fn an_agent_that_poses_as_a_new_one_is_not_adopted() {
    let setup = Setup::new();
    put_tools(&setup);
    let evil = posing(&setup, "evil", "guard");
    let daemon = setup.start(&evil);
    let imposter = daemon.wait_until_running("evil");
    daemon.edit_jcard(&(evil + &honest("guard")));
    let pid = daemon.wait_until_running("guard");
    daemon.wait_for_starts("guard", 1);
    assert_ne!(pid, imposter);
    assert_stops_well(&daemon, "guard", pid);
}

#[test]
fn an_imposter_in_a_pane_marked_as_the_agents_is_not_adopted() {
    // Without control groups, a launcher looks like any process that the agent user has tmux start.
    if !root() {
        return;
    }
    let setup = Setup::new();
    put_tools(&setup);
    let mut daemon = setup.start(&honest("other"));
    daemon.wait_until_running("other");
    if !daemon.log().contains("each agent has a control group") {
        return skip("there are no control groups here");
    }
    let words = imposter_of(&daemon, "guard");
    let mut command = vec!["new-session", "-d", "-s", "hers", "-P", "-F", "#{pane_pid}"];
    command.extend(words.iter().map(String::as_str));
    let imposter = Process(daemon.tmux(&command).unwrap().trim().parse().unwrap());
    daemon.tmux(&["set-option", "-t", "=hers:", "@agentd-owner", "guard"]).unwrap();
    daemon.tmux(&["set-option", "-p", "-t", "=hers:", "@agentd-agent", "guard"]).unwrap();

    // A daemon examines a pane in two ways: when it starts the agent, and when it finds the agent's session.
    daemon.edit_jcard(&(honest("other") + &honest("guard")));
    let pid = daemon.wait_until_running("guard");
    daemon.wait_for_starts("guard", 1);
    assert!(pid != imposter.0 && !imposter.is_alive());
    daemon.kill_and_start_again();
    assert_eq!(daemon.wait_until_running("guard"), pid, "a true survivor is adopted");
    daemon.wait_for_starts("guard", 1);
}

#[test]
fn a_recorded_process_of_another_agent_is_not_adopted() {
    if !root() {
        return;
    }
    let mut daemon = Setup::new().start(&(honest("evil") + &honest("guard")));
    let (imposter, pid) = (daemon.wait_until_running("evil"), daemon.wait_until_running("guard"));
    daemon.wait_for_starts("guard", 1);
    if !daemon.log().contains("each agent has a control group") {
        return skip("there are no control groups here");
    }
    daemon.wait_for_record("guard", "\"running\"");
    daemon.wait_for_record("evil", "\"running\"");
    daemon.kill();
    // As a daemon that believed the imposter would have left it.
    let record = daemon.path("state/agents/guard.json");
    let before = fs::read_to_string(&record).unwrap();
    let identity = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        format!("{{\"pid\":{pid},\"started\":{}}}", stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap())
    };
    let launcher = Process(pid).parent().0;
    let forged = before.replace(&identity(launcher), &identity(imposter));
    assert_ne!(forged, before);
    fs::write(&record, forged).unwrap();
    daemon.start_again();
    daemon.wait_until("guard", "itself", |agent| agent.running && agent.pid == Some(pid));
    daemon.wait_for_starts("guard", 1);
}

#[test]
fn a_mount_with_a_non_utf_8_path_keeps_control_groups_usable() {
    const MOUNTED: &str = r#"[[ -n ${APART-} ]] || APART=yes exec unshare --mount --propagation private -- \
        bash -c "$BASH_EXECUTION_STRING" bash "$@"
    mkdir work/$'\xff\xfe \n' && mount -t tmpfs tmpfs work/$'\xff\xfe \n'"#;
    if !root() {
        return;
    }
    // Whether control groups exist does not depend on that mount.
    let (without, with) = (Setup::new().start(NO_AGENTS), Setup::new().after(MOUNTED).start(NO_AGENTS));
    let has_groups = |daemon: &Daemon| {
        daemon.wait("the daemon to say how it finds processes", || {
            let log = daemon.log();
            let is_said = |what: &str| log.contains(what);
            (is_said("have no control groups") || is_said("agents are tracked by their process trees"))
                .then_some(false)
                .or_else(|| is_said("each agent has a control group").then_some(true))
        })
    };
    assert_eq!(has_groups(&with), has_groups(&without));
    assert_eq!(with.health().groups_error, None);
}

#[test]
fn lost_control_groups_are_reported_and_regained() {
    const AT_MOST_NONE: &str = r#"while read -r _ point kind options _; do
        [[ $kind == cgroup2 && $options == rw* && -w $point/cgroup.procs ]] || continue
        mkdir "$point/lost.$$" && echo 0 >"$point/lost.$$/cgroup.max.descendants" &&
            echo $$ >"$point/lost.$$/cgroup.procs" && echo "$point/lost.$$" >group
        break
    done </proc/mounts"#;
    if !root() {
        return;
    }
    let setup = Setup::new().after(AT_MOST_NONE).args(["--settle", "0ms", "--resync", "1s"]);
    let limited = |name: &str| agent(name, "sleep inf", "memory = \"1GiB\"");
    let daemon = setup.start(&limited("first"));
    let Ok(group) = fs::read_to_string(daemon.path("group")) else {
        return skip("there are no control groups here");
    };
    let error = daemon.health().groups_error.unwrap();
    assert!(error.contains("failed to make the control group"), "{error}");
    assert!(daemon.log().contains("WARN") && daemon.log().contains("have no control groups"));
    let told = |daemon: &Daemon| daemon.agent("first").and_then(|agent| agent.limits_error);
    let limits_error = daemon.wait("limits_error", || told(&daemon));
    assert!(limits_error.contains("failed to make the control group"), "{limits_error}");
    let socket = daemon.api_socket();
    let (_, said) = run(&mut daemon.agentd(&["doctor", "--api-socket", socket.to_str().unwrap()]));
    assert!(said.lines().any(|line| line.starts_with("warning") && line.contains("groups")), "{said}");

    fs::write(format!("{}/cgroup.max.descendants", group.trim()), "max").unwrap();
    daemon.wait("the error to disappear", || daemon.health().groups_error.is_none().then_some(()));
    daemon.edit_jcard(&honest("second"));
    let pid = daemon.wait_until_running("second");
    let (_, groups) = run(Command::new("cat").arg(format!("/proc/{pid}/cgroup")));
    assert!(groups.trim().ends_with("/second/tree"), "{groups}");
    daemon.wait_until_removed("first");
}

#[test]
fn descriptors_the_daemon_inherits_reach_no_other_process() {
    let setup = Setup::new();
    let leaked = setup.path("leaked");
    setup.put(&leaked, "root's own words");
    let daemon = setup.after(&format!("exec 9<{}", leaked.display())).start(&honest("honest"));
    let pid = daemon.wait_until_running("honest");
    let launcher = Process(pid).parent();
    let targets = |process: Process| -> Vec<PathBuf> {
        let entries = fs::read_dir(format!("/proc/{}/fd", process.0)).unwrap().flatten();
        entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
    };
    assert!(targets(Process(daemon.pid())).contains(&leaked), "the daemon has it");
    let log = daemon.path("stderr");
    for process in [daemon.deputy(), launcher.parent(), launcher, Process(pid)] {
        let targets = targets(process);
        assert!(!targets.contains(&leaked) && !targets.contains(&log), "{process}: {targets:?}");
    }
}

/// A file system over a directory that never answers, until this is dropped.
struct Hung {
    folder: PathBuf,
    _server: Bystander,
}

impl Hung {
    /// `None`, with a message, where this cannot be mounted.
    fn over(setup: &Setup, folder: PathBuf) -> Option<Self> {
        let hung = Self::try_over(setup, folder);
        if hung.is_none() {
            skip("it needs /dev/fuse");
        }
        hung
    }

    /// Also `None` if there is no such directory.
    fn try_over(setup: &Setup, folder: PathBuf) -> Option<Self> {
        let program = setup.path("bin/hung-folder");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/hung-folder.c");
        // Once, because the directory may exist only for a moment.
        if !program.exists() {
            let (status, said) =
                run(Command::new("cc").args(["-Wall", "-Werror", "-o", program.to_str().unwrap(), source]));
            assert_eq!(status, Some(0), "{said}");
        }
        let user = setup.agent_account().uid.to_string();
        let mut server = Bystander::start(Command::new(&program).arg(&folder).arg(user));
        let mounted = setup.wait("the mount", || {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let is_there = mounts.contains(&format!(" {} ", folder.display()));
            (is_there || !server.lives()).then_some(is_there)
        });
        mounted.then_some(Self { folder, _server: server })
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.folder));
    }
}

#[test]
fn a_mount_named_like_a_temporary_directory_stops_no_launcher() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("honest", "dump @WORK/dump; on-signal INT 0; sleep inf", ""));
    daemon.wait_until_running("honest");
    let own = PathBuf::from(Dump::of(&daemon, "dump").var("TMPDIR").unwrap());
    let (prefix, _) = own.to_str().unwrap().rsplit_once('-').unwrap();
    // The daemon looks first at whatever comes first in the directory.
    let [left, hung] = ["left", "hung"].map(|name| PathBuf::from(format!("{prefix}-{name}")));
    fs::create_dir(&hung).unwrap();
    let (status, said) = run(&mut daemon.as_agent(&["mkdir", left.to_str().unwrap()]));
    assert_eq!(status, Some(0), "{said}");
    let over = Hung::over(&daemon, hung.clone());
    let mut daemon = daemon;
    if over.is_some() {
        daemon.edit_jcard(&(honest("honest") + &honest("second")));
        let pid = daemon.wait_until_running("second");
        daemon.wait("the leftover to be removed", || (!left.exists()).then_some(()));
        let launcher = Process(pid).parent();
        assert!(daemon.stop().success());
        daemon.wait_until_gone(launcher.0);
    }
    drop(over);
    fs::remove_dir(hung).unwrap();
}

#[test]
fn a_file_system_that_never_answers_does_not_freeze_the_daemon() {
    if !root() {
        return;
    }
    // The launcher cannot be reached without its socket.
    let brief = agent("honest", "log @WORK/honest; sleep inf", "grace_period = \"1s\"");
    let mut daemon = Setup::new().args(["--resync", "100ms"]).start(&brief);
    let pid = daemon.wait_until_running("honest");
    let Some(hung) = Hung::over(&daemon, daemon.path("tmux")) else { return };
    let looked = |daemon: &Daemon| {
        let refused = "is served by a program of the user";
        daemon.wait("root to have seen the change", || daemon.log().contains(refused).then_some(()));
    };
    looked(&daemon);
    assert_eq!(daemon.wait_until_running("honest"), pid);
    let asked = Instant::now();
    daemon.get("/v1/health");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());

    // The next daemon also answers and ends.
    daemon.kill_and_start_again();
    assert_eq!(daemon.wait_until_running("honest"), pid);
    assert!(daemon.stop().success());
    drop(hung);
    assert!(!Process(pid).is_alive());

    // Also with the socket itself covered.
    daemon.start_again();
    let pid = daemon.wait_until_running("honest");
    let socket = daemon.path("tmux/launch.sock");
    // The daemon recreates the socket in between, sooner or later.
    let _hung = daemon.wait("a mount in the socket's place", || {
        let _ = fs::remove_file(&socket);
        fs::create_dir(&socket).ok()?;
        Hung::try_over(&daemon, socket.clone())
    });
    daemon
        .wait("root to have reached the mount", || daemon.log().contains("failed to receive a launcher").then_some(()));
    daemon.get("/v1/health");
    assert!(daemon.stop().success());
    assert!(!Process(pid).is_alive());
}

/// The command as an administrator, through the terminal socket.
fn as_operator(setup: &Setup, words: &[&str]) -> Command {
    let (api, terminal) = (setup.api_socket(), setup.terminal_socket());
    let places = ["--api-socket", api.to_str().unwrap(), "--terminal-socket", terminal.to_str().unwrap()];
    let mut command = as_user("op", &[&[crate::support::binary().to_str().unwrap()], words, &places].concat());
    command.current_dir(setup.dir()).env("TERM", "xterm-256color").env("LANG", "C.UTF-8");
    command
}

#[test]
fn a_hostile_agent_reaches_operators_only_by_its_screen() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "say it listens; sleep inf", ""));
    daemon.wait_until_running("a");
    let mut here = Terminal::new();
    let said = here.answer_late();
    let mut verb = here.run(as_operator(&daemon, &["attach", "a"]));
    here.wait_for(&daemon, "it listens");
    let before = *said.lock().unwrap();
    // What the server gives its client as the last command writes to the client's terminal, and runs with the client's rights.
    let evil = r"printf '\033]52;c;aGk=\007\033]0;title\007\033Ptmux;\033\033]52;c;aGk=\007\033\\\033_Gx\033\\\033^x\033\\\033[21t\033[5i\033[?1003h\033[5n\033[cvisible'";
    let command = daemon.expand(&format!("umask 0; id -u >@WORK/who.new; mv @WORK/who.new @WORK/who; {evil}"));
    daemon.tmux(&["detach-client", "-s", "=a", "-E", &command]).unwrap();
    assert_eq!(verb.ended(&daemon).code(), Some(0), "{}", here.seen());
    here.wait_for(&daemon, "visible");
    let seen = here.seen();
    for forbidden in ["\u{1b}]52", "\u{1b}]0;", "\u{1b}P", "\u{1b}_", "\u{1b}^", "\u{1b}[21t", "\u{1b}[5i", "title"] {
        assert!(!seen.contains(forbidden), "{forbidden:?}: {seen:?}");
    }
    assert!(seen[seen.rfind("visible").unwrap()..].contains("\u{1b}[?1003l"), "what it left on is turned off");
    assert_eq!(daemon.lines("who"), [daemon.agent_account().uid.as_raw().to_string()]);
    daemon.wait("the late answer", || (*said.lock().unwrap() > before).then_some(()));
    assert!(here.is_as_before());
    here.types("next");
    here.wait_for(&daemon, "next");
    assert!(!here.seen().contains("^[["), "{}", here.seen());
}

#[test]
fn a_lying_tmux_server_makes_no_operators_client_do_anything() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&honest("a"));
    daemon.wait_until_running("a");
    let evil = EvilServer::start(&daemon);
    let agent = daemon.agent_account().uid.as_raw().to_string();
    for words in [&["attach", "a"][..], &["send", "a", "hello"], &["send", "a", "--keys", "Enter"]] {
        let here = Terminal::new();
        let mut verb = here.run(as_operator(&daemon, words));
        assert_ne!(verb.ended(&daemon).code(), None);
        daemon.wait("a client of the server", || daemon.lines("who").first().map(|_| ()));
        assert!(daemon.lines("who").iter().all(|who| *who == agent), "{:?}", daemon.lines("who"));
        assert!(daemon.lines("found").iter().all(|found| found == "ran"), "{:?}", daemon.lines("found"));
        assert!(here.is_as_before());
        fs::remove_file(daemon.work("who")).unwrap();
    }
    drop(evil);
}
