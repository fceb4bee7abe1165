//! Commands for a running daemon: wait, explain, doctor.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use agentd::wire::status::{AgentStatus, State};
use nix::sys::signal::Signal;
use rstest::rstest;

use crate::skip::skip;
use crate::support::{Daemon, Setup, Who, account, admin_gid, agent, as_user, binary, is_root, path, root, run};

/// The command with the daemon's API.
fn verb(setup: &Setup, words: &[&str]) -> Command {
    let socket = setup.api_socket();
    setup.agentd(&[words, &["--api-socket", socket.to_str().unwrap()]].concat())
}

fn wait(setup: &Setup, words: &[&str]) -> (Option<i32>, String) {
    run(&mut verb(setup, &[&["wait"], words].concat()))
}

/// A command that runs beside the test, and what it writes to stderr.
fn waiting(setup: &Setup, words: &[&str]) -> Child {
    let stderr = File::create(setup.path("said")).unwrap();
    verb(setup, &[&["wait"], words].concat()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
}

fn said(setup: &Setup) -> String {
    fs::read_to_string(setup.path("said")).unwrap()
}

fn ended(setup: &Setup, child: &mut Child) -> Option<i32> {
    setup.wait("the verb to end", || child.try_wait().unwrap()).code()
}

fn ender(name: &str) -> String {
    agent(name, &format!("await-exit @WORK/{name}.exit"), "")
}

fn end(daemon: &Daemon, name: &str, status: u8) {
    daemon.put(&daemon.work(&format!("{name}.exit")), format!("{status}\n"));
}

#[test]
fn wait_ends_with_the_agent_and_with_its_status_on_request() {
    let daemon = Setup::new().start(&(ender("a") + &agent("killed", "die KILL", "")));
    daemon.wait_until_running("a");
    let mut waiting = waiting(&daemon, &["A", "--exit-code"]);
    assert_eq!(wait(&daemon, &["a", "--for", "running"]), (Some(0), String::new()));
    assert!(waiting.try_wait().unwrap().is_none(), "the command still runs");
    end(&daemon, "a", 7);
    assert_eq!(ended(&daemon, &mut waiting), Some(7), "{}", said(&daemon));
    assert_eq!(
        wait(&daemon, &["a"]),
        (Some(0), String::new()),
        "without --exit-code the status of the agent does not matter"
    );
    let (code, said) = wait(&daemon, &["killed", "--exit-code", "--json"]);
    assert_eq!(code, Some(128 + 9), "{said}");
    let agent: AgentStatus = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((agent.name.as_str(), agent.state), ("killed", State::Exited));
}

#[test]
fn wait_distinguishes_never_from_timed_out_and_unknown() {
    let mut daemon = Setup::new()
        .start(&(agent("sleeper", "sleep inf", "") + &agent("failed", "exit 3", "") + "[[agents]]\nname = \"bad\"\n"));
    daemon.wait_until_running("sleeper");
    daemon.wait_for_state("failed", State::Exited);
    for (words, expected, about) in [
        (&["failed", "--for", "running"][..], 123, "exited with status 3"),
        (&["bad"], 123, "harness is required"),
        (&["sleeper", "--timeout", "100ms"], 124, "sleeper is running"),
        (&["sleeper", "--timeout", "0s", "--for", "exited,backoff"], 124, "sleeper is running"),
        (&["nobody"], 125, "nobody"),
        (&["sleeper", "--for", "running", "--exit-code"], 2, "--exit-code"),
        (&["sleeper", "--for", "dead"], 2, "exited"),
    ] {
        let (code, said) = wait(&daemon, words);
        assert_eq!(code, Some(expected), "{words:?}: {said}");
        assert!(said.contains(about), "{words:?}: {said}");
    }
    assert!(daemon.stop().success());
    let (code, said) = wait(&daemon, &["sleeper"]);
    assert_eq!(code, Some(125), "nothing is known without a daemon: {said}");
    let (code, said) = wait(&daemon, &["sleeper", "--timeout", "200ms"]);
    assert_eq!(code, Some(125), "none has come: {said}");
    assert!(said.contains("waiting for it") && said.contains("it is not running"), "{said}");
}

#[test]
fn wait_finds_an_agent_that_was_declared_just_now() {
    let daemon = Setup::new().args(["--settle", "300ms"]).start("");
    daemon.edit_jcard(&agent("new", "exit 0", ""));
    let (code, said) = wait(&daemon, &["new", "--timeout", "20s"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn wait_notices_that_its_agent_was_removed() {
    let daemon = Setup::new().start(&(agent("a", "sleep inf", "") + &agent("b", "sleep inf", "")));
    daemon.wait_until_running("a");
    // A younger daemon may still be reading its files.
    daemon.wait("the daemon to have run for five seconds", || (daemon.health().uptime_seconds >= 5).then_some(()));
    let mut waiting = waiting(&daemon, &["a", "--exit-code"]);
    assert_eq!(wait(&daemon, &["a", "--for", "running"]).0, Some(0));
    daemon.edit_jcard(&agent("b", "sleep inf", ""));
    assert_eq!(ended(&daemon, &mut waiting), Some(123), "{}", said(&daemon));
    assert!(said(&daemon).contains("removed"), "{}", said(&daemon));
}

#[test]
fn wait_outlasts_daemons_and_may_start_before_the_first() {
    let setup = Setup::new();
    setup.edit_jcard(&ender("a"));
    let mut waiting = waiting(&setup, &["a", "--exit-code", "--timeout", "1h"]);
    setup.wait("the command to find no daemon", || said(&setup).contains("it is not running").then_some(()));
    let mut daemon = setup.start_as_it_is();
    daemon.wait_until_running("a");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    // A client that asks now can see that no daemon runs. It asks twice, so that a question under way has returned.
    for _ in 0..2 {
        assert_eq!(wait(&daemon, &["a", "--timeout", "1100ms"]).0, Some(125));
    }
    end(&daemon, "a", 5);
    daemon.start_again();
    assert_eq!(ended(&daemon, &mut waiting), Some(5), "{}", said(&daemon));
}

#[test]
fn wait_is_for_administrators() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "exit 0", ""));
    daemon.wait_for_state("a", State::Exited);
    let socket = daemon.api_socket();
    let words = [binary().to_str().unwrap(), "wait", "a", "--api-socket", socket.to_str().unwrap()];
    assert_eq!(run(&mut as_user("op", &words)), (Some(0), String::new()));
    let (code, said) = run(&mut as_user("stranger", &words));
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains("permission denied"), "{said}");
}

fn explained(daemon: &Daemon, name: &str) -> String {
    let (code, said) = run(&mut verb(daemon, &["explain", name]));
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains('\u{1b}'), "no colors into a pipe");
    // As running text, because line breaks do not matter here.
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn explain_states_the_cause_and_next_step_for_every_state() {
    let waiting = agent("waiting", "exit 0", "secrets = [\"KEY\"]").replace("@WORK", "@DIR/later");
    let jcard = waiting
        + &agent("completed", "exit 0", "")
        + &agent("failed", "die KILL", "")
        + &agent("absent", "exit 0", "").replace("@HARNESS", "no-such-harness")
        + &agent("again", "exit 4", "restart = \"always\"\nbackoff = [\"1h\"]\ntimeout = \"5h\"")
        + &agent("gave-up", "exit 4", "restart = \"always\"\nbackoff = [\"1ms\"]\nmax_restarts = 2")
        + &agent("late", "sleep inf", "timeout = \"100ms\"")
        + &agent("running", "sleep inf", "")
        + "[[agents]]\nname = \"invalid\"\nharness = \"nope\"\n";
    let daemon = Setup::new().start(&jcard);
    daemon.wait_until_running("running");
    daemon.wait_for_state("again", State::Backoff);
    daemon.wait_for_state("absent", State::Waiting);
    for name in ["completed", "failed", "gave-up", "late"] {
        daemon.wait_for_state(name, State::Exited);
    }
    let dir = daemon.dir().display();
    for (name, sentences) in [
        (
            "Waiting",
            vec![
                "waiting has been in state waiting for".to_owned(),
                format!("Create the directory {dir}/later,"),
                "Drop the secret KEY into the secrets directory".to_owned(),
                "It starts as soon as nothing is missing.".to_owned(),
            ],
        ),
        ("completed", vec!["exited (completed)".to_owned(), "`restart = \"always\"`".to_owned()]),
        ("failed", vec!["exited (failed)".to_owned(), "ended by SIGKILL".to_owned()]),
        (
            "absent",
            vec![
                "no-such-harness is not in the PATH of user".to_owned(),
                "agentd looks for its program again".to_owned(),
                "Install no-such-harness for user".to_owned(),
            ],
        ),
        (
            "again",
            vec![
                "exited with status 4; restart 1 follows.".to_owned(),
                "It starts again in ".to_owned(),
                "Its `timeout` passes: agentd stops it for good in ".to_owned(),
            ],
        ),
        ("gave-up", vec!["Raise the `max_restarts` of its entry above 2".to_owned()]),
        ("late", vec!["its timeout has passed".to_owned(), "A longer `timeout` alone does not".to_owned()]),
        ("running", vec!["It runs until it ends by itself".to_owned(), "Remove its entry: it stops.".to_owned()]),
        ("invalid", vec![format!("Fix {dir}/jcard.toml:"), "unknown agent.harness \"nope\"".to_owned()]),
    ] {
        let text = explained(&daemon, name);
        for sentence in sentences {
            assert!(text.contains(&sentence), "{name}: {sentence:?} is not in: {text}");
        }
    }
}

#[test]
fn explain_as_json_is_data_and_its_sentences_fit_80_columns() {
    let daemon = Setup::new().start(&agent("a", "exit 3", ""));
    daemon.wait_for_state("a", State::Exited);
    let (code, said) = run(&mut verb(&daemon, &["explain", "a", "--json"]));
    assert_eq!(code, Some(0), "{said}");
    let data: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((&data["name"], &data["state"], &data["outcome"]), (&"a".into(), &"exited".into(), &"failed".into()));
    assert_eq!(data["ends"][0]["exit"]["code"], 3);
    let (_, said) = run(&mut verb(&daemon, &["explain", "a"]));
    assert!(said.lines().count() > 4 && said.lines().all(|line| line.chars().count() <= 80), "{said}");
}

#[test]
fn explain_names_unknowns_and_the_daemons_errors() {
    let mut daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    daemon.edit_jcard("[[agents");
    daemon.wait("the mistake to be reported", || daemon.health().config_error);
    assert!(explained(&daemon, "a").contains("agentd configuration: "), "{}", explained(&daemon, "a"));
    let (code, said) = run(&mut verb(&daemon, &["explain", "nobody"]));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("nobody") && said.contains("agentd status") && said.contains("configuration: "), "{said}");
    assert!(daemon.stop().success());
    let (code, said) = run(&mut verb(&daemon, &["explain", "a"]));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("it is not running"), "{said}");
}

/// The doctor's findings by name, each with verdict and text, and the exit status.
struct Findings {
    code: Option<i32>,
    checks: Vec<(String, String, String)>,
}

impl Findings {
    fn of(command: &mut Command) -> Self {
        let (code, said) = run(command.arg("--json"));
        let data: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        let text = |check: &serde_json::Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
        let checks = data["checks"].as_array().unwrap().iter().map(|check| {
            let said = format!("{}\n{}", text(check, "message"), text(check, "remedy"));
            (text(check, "name"), text(check, "result"), said)
        });
        Self { code, checks: checks.collect() }
    }

    /// The checks of that verdict.
    fn of_verdict(&self, verdict: &str) -> Vec<&str> {
        self.checks.iter().filter(|(_, found, _)| found == verdict).map(|(name, ..)| name.as_str()).collect()
    }

    /// The text of the check, which must have that verdict.
    fn said(&self, name: &str, verdict: &str) -> &str {
        let is_it = |check: &&(String, String, String)| check.0 == name && check.1 == verdict;
        let found = self.checks.iter().find(is_it);
        &found.unwrap_or_else(|| panic!("{name} is not {verdict}: {:#?}", self.checks)).2
    }
}

/// As the user that runs the daemon. The command finds the paths by itself.
fn doctor(setup: &Setup) -> Findings {
    Findings::of(&mut verb(setup, &["doctor"]))
}

fn doctor_as(setup: &Setup, user: &str) -> Findings {
    let socket = setup.api_socket();
    Findings::of(&mut as_user(user, &[binary().to_str().unwrap(), "doctor", "--api-socket", socket.to_str().unwrap()]))
}

/// All paths, for a user who cannot ask the daemon.
fn flags(setup: &Setup) -> Vec<String> {
    let places = [
        ("--config", setup.jcard()),
        ("--secret-dir", setup.path("secrets")),
        ("--tmux-socket", setup.tmux_socket()),
        ("--state-dir", setup.path("state")),
        ("--log-dir", setup.path("log")),
    ];
    places.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path.to_str().unwrap().to_owned()]).collect()
}

#[test]
fn doctor_finds_no_fault_in_a_daemon_known_by_its_command_line() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.secret("KEY", "secret");
    daemon.wait_until_running("a");
    let found = doctor(&daemon);
    assert_eq!((found.of_verdict("failure"), found.of_verdict("unknown")), (vec![], vec![]), "{:#?}", found.checks);
    assert_eq!(found.code, Some(0));
    assert!(found.said("daemon", "ok").contains(&format!("process {}", daemon.pid())));
    assert!(found.said("lock", "ok").contains(&format!("process {}", daemon.pid())));
    // Only root can read the environment of a daemon that is not dumpable.
    assert!(!is_root() || found.said("tmux", "ok").contains("the daemon's PATH"));
    assert!(found.said("sessions", "ok").starts_with("1 session, each of"));
    assert!(found.said("secrets", "ok").contains("holds 2 secrets"), "with the canary");
    for (name, path) in [
        ("api-socket", daemon.api_socket()),
        ("state", daemon.path("state")),
        ("log", daemon.path("log")),
        ("jcard", daemon.jcard()),
        ("tmux-folder", daemon.path("tmux")),
        ("tmux-socket", daemon.tmux_socket()),
        ("launch-socket", daemon.path("tmux/launch.sock")),
    ] {
        let said = found.said(name, "ok");
        assert!(said.contains(path.to_str().unwrap()), "{name}: {said}");
    }
    let (code, said) = run(&mut verb(&daemon, &["doctor"]));
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("\nok ") && !said.starts_with("ok ") && said.contains("0 failures, 0 unknown"), "{said}");
    let (code, said) = run(&mut verb(&daemon, &["doctor", "-v"]));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.lines().count() >= found.checks.len() && said.contains("ok       daemon"), "{said}");
    assert!(!said.contains('\u{1b}'), "no colors into a pipe");
}

/// A launcher that makes no sandbox of bwrap, and one of everything else; it says who called it.
const STAND_IN: &str = "#!/bin/sh
[ \"$1\" = try ] || exit 64
echo 'a greeting of the login' >&2
case \"$2 ${3-}\" in
'bwrap ') echo \"agentd: bwrap cannot make a sandbox for $(id -un)\" >&2; exit 1 ;;
'runsc /opt/runsc') exit 0 ;;
*) echo \"agentd: unexpected: $*\" >&2; exit 2 ;;
esac
";

#[test]
fn doctor_and_check_make_a_sandbox_as_the_agent_user() {
    let setup = Setup::new();
    setup.put(&setup.path("bin/launcher"), STAND_IN);
    fs::set_permissions(setup.path("bin/launcher"), fs::Permissions::from_mode(0o755)).unwrap();
    let user = setup.agent_account().name;
    let jcard = agent("a", "sleep inf", "type = \"sandboxed\"\nenabled = false")
        + &agent("b", "sleep inf", "sandbox = \"runsc\"\nenabled = false");
    let daemon = setup.args(["-runsc-path", "/opt/runsc", "--sandbox", "bwrap"]).start(&jcard);
    daemon.wait_for_state("b", State::Waiting);
    assert_eq!(daemon.agent("b").unwrap().sandbox.as_deref(), Some("runsc"));
    let launcher = daemon.path("bin/launcher");
    let found = Findings::of(&mut verb(&daemon, &["doctor", "--launcher", launcher.to_str().unwrap()]));
    let failed = found.said("sandbox", "failure");
    let expected = format!("bwrap cannot make a sandbox for {user}; 1 sandboxed agent cannot start");
    assert!(failed.starts_with(&expected) && failed.contains('\n'), "{failed}");
    let worked = |(name, verdict, said): &(String, String, String)| {
        name == "sandbox"
            && verdict == "ok"
            && said.contains("runsc (/opt/runsc) makes sandboxes, for 1 sandboxed agent")
    };
    assert!(found.checks.iter().any(worked), "{:#?}", found.checks);
    assert_eq!(found.code, Some(1));
}

#[rstest]
#[case("agent")]
#[case("nologin")]
#[case("shellless")]
fn doctor_and_check_find_an_engine_that_works(#[case] user: &str) {
    if !crate::sandbox::has("bwrap") {
        return;
    }
    if !is_root() && user != "agent" {
        return skip("it needs a lent user");
    }
    let setup = if is_root() { Setup::new().user(user) } else { Setup::new() };
    let daemon = setup.start(&agent("a", "sleep inf", "type = \"sandboxed\"\nenabled = false"));
    // No agent starts that would wait for the server.
    // Its socket is open to the group a moment after it was made.
    let mode = || fs::metadata(daemon.tmux_socket()).ok().map(|found| found.permissions().mode());
    daemon.wait("the tmux server", || mode().filter(|mode| mode & 0o060 == 0o060));
    let found = doctor(&daemon);
    let is_said = |said: &str| found.checks.iter().any(|check| check.0 == "sandbox" && check.2.contains(said));
    assert!(is_said("bwrap makes sandboxes, for 1 sandboxed agent"), "{:#?}", found.checks);
    assert_eq!(found.code, Some(0), "{:#?}", found.checks);
    let user = daemon.agent_account().name;
    let jcard = daemon.jcard();
    let (code, said) = run(&mut daemon.agentd(&["check", "--here", "--user", &user, jcard.to_str().unwrap()]));
    assert!(code == Some(0) && !said.contains("the sandbox of"), "{said}");
    // Nothing has a program of this name.
    daemon.edit_jcard(&agent("a", "sleep inf", "sandbox = \"runsc\"\nenabled = false"));
    let words = ["check", "--here", "--user", &user, "--runsc-path", "/nowhere/runsc", jcard.to_str().unwrap()];
    let (_, said) = run(&mut daemon.agentd(&words));
    assert!(said.contains("warning: a: the sandbox of runsc (/nowhere/runsc) cannot be made: "), "{said}");
    assert!(said.contains("correct --runsc-path"), "{said}");
}

#[test]
fn doctor_names_groups_that_the_tmux_server_lacks() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    assert!(doctor(&daemon).said("tmux-server", "ok").contains("has the groups of agent"));
    daemon.tmux(&["kill-server"]).unwrap();
    // A server with other groups, as if the user had since joined one and left another.
    let (socket, group) = (daemon.tmux_socket(), admin_gid());
    let user = account("agent");
    let mut server = Command::new("setpriv");
    server.args([&format!("--reuid={}", user.uid), &format!("--regid={}", user.gid), &format!("--groups={group}")]);
    server.args(["tmux", "-S", socket.to_str().unwrap(), "-f", "/dev/null", "new-session", "-d", "sleep 1000"]);
    // Unless the daemon was first.
    daemon.wait("a server of the user's own", || {
        let _ = daemon.tmux(&["kill-server"]);
        run(&mut server).0.filter(|&code| code == 0).map(drop)
    });
    let found = doctor(&daemon);
    let said = found.said("tmux-server", "warning");
    assert!(said.contains("agent is in these groups, but agents are not: crew"), "{said}");
    assert!(said.contains("agent is not in these groups, but agents are: admin"), "{said}");
    assert!(said.contains("runuser -u agent -- tmux -S"), "{said}");
}

#[test]
fn doctor_examines_everything_of_the_users_own_daemon() {
    let daemon = Setup::of(Who::User).start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let found = doctor(&daemon);
    assert_eq!((found.of_verdict("failure"), found.of_verdict("unknown")), (vec![], vec![]), "{:#?}", found.checks);
    assert!(found.said("lock", "ok").contains(&format!("process {}", daemon.pid())));
    assert!(found.said("tmux-socket", "ok").contains(daemon.tmux_socket().to_str().unwrap()));
    assert!(found.said("sessions", "ok").starts_with("1 session, each of"));
}

#[test]
fn doctor_says_what_only_root_could_examine() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let found = doctor_as(&daemon, "op");
    assert_eq!(found.of_verdict("failure"), [""; 0], "{:#?}", found.checks);
    // Where there is sudo, only root may read its rules.
    let unknown = found.of_verdict("unknown").into_iter().filter(|name| *name != "sudo");
    assert_eq!(unknown.collect::<Vec<_>>(), ["secrets", "executable", "launcher", "tmux-server", "sessions"]);
    assert_eq!(found.code, Some(4));
    assert!(found.said("sessions", "unknown").contains("run agentd doctor as root or agent"));
    assert!(found.said("tmux-socket", "ok").contains(daemon.tmux_socket().to_str().unwrap()), "the daemon named it");

    let flags = flags(&daemon);
    let socket = daemon.api_socket();
    let words = [binary().to_str().unwrap(), "doctor", "--api-socket", socket.to_str().unwrap()];
    let words: Vec<&str> = words.into_iter().chain(flags.iter().map(String::as_str)).collect();
    for (user, unknown) in [
        ("agent", vec!["daemon", "api-socket", "secrets", "versions", "disk"]),
        (
            "stranger",
            vec![
                "daemon",
                "api-socket",
                "secrets",
                "tmux-socket",
                "launch-socket",
                "executable",
                "launcher",
                "tmux-server",
                "sessions",
                "versions",
                "disk",
            ],
        ),
    ] {
        let found = Findings::of(&mut as_user(user, &words));
        assert_eq!(found.of_verdict("failure"), [""; 0], "{user}: {:#?}", found.checks);
        assert!(found.said("lock", "ok").contains("locked by the daemon"), "{user}");
        let found_unknown: Vec<&str> = found.of_verdict("unknown").into_iter().filter(|name| *name != "sudo").collect();
        assert_eq!(found_unknown, unknown, "{user}");
        assert!(found.said("daemon", "unknown").contains("run agentd doctor as root or a member of admin"));
    }
}

#[test]
fn doctor_names_each_fault_with_its_remedy_and_fails() {
    if !root() {
        return;
    }
    let mut daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(daemon.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("api/agentd.sock", 0o666);
    mode("state", 0o755);
    mode("log", 0o777);
    mode("secrets", 0o777);
    mode("tmux", 0o777);
    let found = doctor(&daemon);
    assert_eq!(found.code, Some(1));
    assert_eq!(
        found.of_verdict("failure"),
        ["api-socket", "state", "log", "secrets", "tmux-folder"],
        "{:#?}",
        found.checks
    );
    assert!(found.said("api-socket", "failure").contains("its mode is 0666, not 0660"));
    assert!(found.said("state", "failure").contains("chmod 0700"));
    mode("secrets", 0o755);
    daemon.put(&daemon.path("open"), "secret");
    fs::rename(daemon.path("open"), daemon.path("secrets/OPEN")).unwrap();
    assert!(doctor(&daemon).said("secrets", "failure").contains("every user can read OPEN"));
    mode("secrets", 0o700);
    daemon.edit_jcard("[[agents]]\nname = \"a\"\nharness = \"nope\"\n");
    let found = doctor(&daemon);
    assert!(found.said("jcard", "failure").contains("jcard.toml:3:11: unknown agent.harness"));
    daemon.wait_until("a", "in error", |agent| agent.error.is_some());
    assert!(doctor(&daemon).said("agents", "warning").contains("agentd explain a"));
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.edit_jcard("[other]\n");
    let flags = flags(&daemon);
    let words: Vec<&str> = std::iter::once("doctor").chain(flags.iter().map(String::as_str)).collect();
    let found = Findings::of(&mut verb(&daemon, &words));
    assert!(found.said("daemon", "failure").contains("start it"));
    assert!(found.said("sessions", "warning").contains("not declared but have a session: a"));
    assert!(found.said("lock", "ok").contains("free for a daemon"));
}

/// Copies a program in another process. A descriptor of this one that is open for writing could be held by a process that another
/// test is about to start, and the copy would be busy.
fn copy_program(program: &Path, copy: &Path) {
    assert!(Command::new("cp").arg(program).arg(copy).status().unwrap().success());
}

/// The daemon's programs in a folder of the test's own, where they can be replaced.
fn put_programs(setup: &Setup) {
    for name in ["agentd", "agentd-launcher"] {
        let copy = setup.path(&format!("bin/{name}.new"));
        copy_program(&binary().with_file_name(name), &copy);
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&copy, setup.path(&format!("bin/{name}"))).unwrap();
    }
}

/// The same command with another program.
fn with_program(program: &Path, command: &Command) -> Command {
    let mut other = Command::new(program);
    other.args(command.get_args()).env_clear().current_dir(command.get_current_dir().unwrap());
    other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    other
}

#[test]
fn doctor_warns_of_a_daemon_of_another_build() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    put_programs(&setup);
    setup.edit_jcard(&agent("a", "sleep inf", ""));
    let own = setup.path("bin/agentd");
    let command = with_program(&own, &setup.daemon_command());
    let daemon = setup.start_by(command);
    daemon.wait_until_running("a");
    let examined = |program: &Path| Findings::of(&mut with_program(program, &verb(&daemon, &["doctor"])));
    let found = examined(binary());
    assert!(found.said("versions", "ok").starts_with("this is agentd "), "a copy is the same build");
    assert!(!found.said("versions", "ok").contains("launchers"), "{:#?}", found.checks);

    let other = daemon.path("bin/other");
    copy_program(binary(), &other);
    let append = "printf 'another build' >>\"$0\"";
    assert!(Command::new("sh").args(["-c", append]).arg(&other).status().unwrap().success());
    let found = examined(&other);
    let path = own.to_str().unwrap();
    let said = found.said("versions", "warning");
    assert!(said.contains(&format!("the daemon runs {path}, which is another build than this agentd")), "{said}");
    assert_eq!(found.code, Some(0), "a warning is no failure: {:#?}", found.checks);

    put_programs(&daemon);
    let said = examined(&own).said("versions", "warning").to_owned();
    let expected = format!("the daemon runs a file that was replaced since: {path}\nrestart the daemon");
    assert!(said.starts_with(&expected), "{said}");
}

#[test]
fn doctor_counts_launchers_of_an_earlier_installation() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    put_programs(&setup);
    setup.edit_jcard(&(agent("a", "sleep inf", "") + &agent("b", "sleep inf", "")));
    let own = setup.path("bin/agentd");
    let command = with_program(&own, &setup.daemon_command());
    let mut daemon = setup.start_by(command);
    daemon.wait_until_running("a");
    daemon.wait_until_running("b");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    put_programs(&daemon);
    // This daemon is of the installation that the test was built with, and so are the launchers that it starts from now on.
    daemon.start_again();
    daemon.wait_until_running("a");
    let found = doctor(&daemon);
    let said = found.said("versions", "ok");
    assert!(said.contains("launchers of an earlier installation, which work until their agents end: 2"), "{said}");
    // Those of another daemon are not its business.
    let other = Setup::new().start(&agent("c", "sleep inf", ""));
    other.wait_until_running("c");
    assert!(!doctor(&other).said("versions", "ok").contains("launchers"));
}

#[test]
fn doctor_warns_of_a_daemon_of_another_version() {
    let setup = Setup::new();
    setup.edit_jcard("");
    let socket = setup.path("other.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            // The doctor also connects to see who listens, and says nothing then.
            let count = stream.read(&mut request).unwrap_or_default();
            let health = r#"{"state":"running","uptime_seconds":1,"version":"0.0.9"}"#;
            let body = if request[..count].starts_with(b"GET /v1/health ") { health } else { "[]" };
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ";
            let _ = write!(stream, "{head}{}\r\n\r\n{body}", body.len());
        }
    });
    let words = ["doctor", "--api-socket", socket.to_str().unwrap()];
    let found = Findings::of(&mut setup.agentd(&words));
    let said = found.said("versions", "warning");
    let expected = format!("the daemon is agentd 0.0.9, and this is {}\nrestart the daemon", env!("CARGO_PKG_VERSION"));
    assert!(said.starts_with(&expected), "{said}");
}

/// The doctor after commands of the shell as root, with mounts that nobody else sees.
fn doctor_after(setup: &Setup, commands: &str) -> Findings {
    let command = verb(setup, &["doctor"]);
    let script = format!("set -e; {commands}; exec \"$@\"");
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--propagation", "private", "bash", "-c", &script, "bash"]).arg(command.get_program());
    inside.args(command.get_args()).env_clear().current_dir(setup.dir()).stdin(Stdio::null());
    inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Findings::of(&mut inside)
}

#[test]
fn doctor_warns_of_a_disk_that_logs_have_nearly_filled() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let log = daemon.path("log");
    let log = log.display();
    let fill = |kib: u32| {
        format!(
            "mount -t tmpfs -o size=1m,mode=750 tmpfs {log}; mkdir {log}/a; head -c {kib}K /dev/zero >{log}/a/00000001-1.log"
        )
    };
    let found = doctor_after(&daemon, &fill(500));
    assert!(found.said("disk", "ok").contains("logs take 500 KiB of 1 MiB; "), "{:#?}", found.checks);
    let found = doctor_after(&daemon, &fill(1000));
    let said = found.said("disk", "warning");
    assert!(said.starts_with("logs take 1000 KiB of 1 MiB; ") && said.contains("--log-total"), "{said}");
}

#[test]
fn doctor_warns_if_the_group_may_use_sudo() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let copy = daemon.path("etc");
    let copy = copy.display();
    let etc = |rule: &str| {
        let files = "passwd group shadow nsswitch.conf ld.so.cache localtime login.defs";
        format!(
            "mkdir -p {copy}/sudoers.d; for file in {files}; do [[ ! -e /etc/$file ]] || cp -L /etc/$file {copy}/$file; done; \
             echo 'root ALL=(ALL) ALL' >{copy}/sudoers; echo '{rule}' >{copy}/sudoers.d/90-test; mount --bind {copy} /etc"
        )
    };
    let found = doctor_after(&daemon, &etc("%crew ALL=(ALL) ALL"));
    assert!(found.said("sudo", "ok").contains("sudo has no rule for group admin"), "{:#?}", found.checks);
    let found = doctor_after(&daemon, &etc("%admin ALL=(ALL) NOPASSWD: ALL"));
    let said = found.said("sudo", "warning");
    assert!(said.contains("by which its members may become root: /etc/sudoers.d/90-test"), "{said}");
    assert!(said.contains("choose another group"), "{said}");
}

#[test]
fn doctor_distinguishes_an_old_tmux_from_a_missing_one() {
    let old = Setup::new();
    fs::create_dir(old.path("old")).unwrap();
    old.put(&old.path("old/tmux"), "#!/bin/sh\necho tmux 3.1c\n");
    fs::set_permissions(old.path("old/tmux"), fs::Permissions::from_mode(0o755)).unwrap();
    for (path, about) in [(old.path("old"), "tmux 3.2 or newer is needed"), (old.path("none"), "not found in PATH")] {
        let found = Findings::of(verb(&old, &["doctor"]).env("PATH", &path));
        assert!(found.said("tmux", "failure").contains(about), "{:#?}", found.checks);
    }
}

#[test]
fn doctor_runs_no_tmux_as_root() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    let tmux = run(Command::new("bash").args(["-c", "command -v tmux"])).1;
    fs::create_dir(setup.path("spy")).unwrap();
    let uids = setup.path("uids");
    let spy = format!("#!/bin/sh\necho \"$(id -u) $*\" >>{}\nexec {} \"$@\"\n", uids.display(), tmux.trim());
    setup.put(&setup.path("spy/tmux"), spy);
    fs::set_permissions(setup.path("spy/tmux"), fs::Permissions::from_mode(0o755)).unwrap();
    setup.put(&uids, "");
    fs::set_permissions(&uids, fs::Permissions::from_mode(0o666)).unwrap();
    let search = format!("{}:{}", setup.path("spy").display(), path());
    let daemon = setup.env("PATH", &search).start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    fs::write(&uids, "").unwrap();
    let found = doctor(&daemon);
    assert_eq!(found.code, Some(0), "{:#?}", found.checks);
    let uids = fs::read_to_string(&uids).unwrap();
    assert!(uids.contains("list-sessions") && uids.contains(" -V"), "{uids}");
    let agent = format!("{} ", account("agent").uid);
    assert!(uids.lines().all(|line| line.starts_with(&agent)), "{uids}");
}

#[test]
fn an_unknown_agent_is_an_error_of_every_command() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    for (words, expected) in [
        (&["status", "nobody"][..], 4),
        (&["explain", "nobody"], 4),
        (&["watch", "nobody"], 4),
        (&["logs", "nobody"], 4),
        (&["logs", "nobody", "-f"], 4),
        (&["events", "nobody"], 4),
        (&["events", "nobody", "-f"], 4),
        (&["events", "nobody", "--json"], 4),
        (&["attach", "nobody"], 4),
        (&["stop", "nobody"], 4),
        (&["start", "nobody"], 4),
        (&["restart", "nobody"], 4),
        (&["wait", "nobody"], 125),
    ] {
        let (code, said) = run(&mut verb(&daemon, words));
        assert_eq!(code, Some(expected), "{words:?}: {said}");
        let expected = "there is no agent \"nobody\" (agentd status lists all)";
        assert!(said.contains(expected) && said.lines().count() == 1, "{words:?}: {said}");
    }
    daemon.edit_jcard(&agent("b", "sleep inf", ""));
    daemon.wait_until_removed("a");
    let (code, said) = run(&mut verb(&daemon, &["events", "A"]));
    assert!(code == Some(0) && said.contains(" a: removed"), "a removed agent has events: {said}");
}

#[test]
fn a_wrong_value_is_misuse_and_needs_no_daemon() {
    let setup = Setup::new();
    for (words, about) in [
        (&["logs", "a", "--since", "yesterday"][..], "2026-11-21T17:00:00Z"),
        (&["logs", "a", "--lines", "-5"], "write a whole number"),
        (&["logs", "a", "--attempt", "first"], "write the number of an attempt"),
        (&["events", "--after", "bogus"], "one looks like 1790000000000-17"),
        (&["wait", "a", "--timeout", "-1s"], "the duration is negative"),
        (&["--settle", "1s", "status"], "--settle has no effect with the command status"),
        (&["status", "--unsandboxed"], "--unsandboxed"),
    ] {
        let (code, said) = run(&mut setup.agentd(words));
        assert_eq!(code, Some(2), "{words:?}: {said}");
        assert!(said.contains(about), "{words:?}: {said}");
    }
}

#[test]
fn a_refusal_of_the_daemon_is_printed_without_its_paths() {
    let daemon = Setup::new().start(&agent("late", "sleep inf", "secrets = [\"KEY\"]"));
    daemon.wait_for_state("late", State::Waiting);
    for (verb_, expected) in [
        ("logs", "late has printed nothing yet: the secret KEY is not in the secrets directory\n"),
        ("watch", "late has no session: the secret KEY is not in the secrets directory\n"),
    ] {
        let (code, said) = run(&mut verb(&daemon, &[verb_, "late"]));
        assert_eq!((code, said.as_str()), (Some(4), format!("agentd: {expected}").as_str()));
    }
}

#[test]
fn explain_and_the_api_report_the_same_since() {
    let daemon = Setup::new().start(
        &(agent("running", "sleep inf", "")
            + &agent("over", "exit 3", "")
            + &agent("again", "exit 4", "restart = \"always\"\nbackoff = [\"1h\"]")
            + &agent("waiting", "exit 0", "secrets = [\"KEY\"]")),
    );
    daemon.wait_until_running("running");
    daemon.wait_for_state("over", State::Exited);
    daemon.wait_for_state("again", State::Backoff);
    for agent in daemon.agents() {
        let (_, said) = run(&mut verb(&daemon, &["explain", &agent.name, "--json"]));
        let explained: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(explained["since"], serde_json::to_value(agent.since.unwrap()).unwrap(), "{}", agent.name);
        if agent.state == State::Running {
            assert_eq!(agent.since, agent.started_at);
        }
        if agent.state == State::Exited || agent.state == State::Backoff {
            assert_eq!(agent.since, agent.exit.map(|exit| exit.at), "{}", agent.name);
        }
        assert!(!agent.reason.unwrap().starts_with(&format!("{}:", agent.state)), "the state appears once");
    }
}

#[test]
fn printing_commands_exit_0_when_their_reader_closes_early() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let jcard = daemon.jcard();
    let verbs: [(&[&str], i32); 6] = [
        (&["schema"], 0),
        (&["check", jcard.to_str().unwrap()], 0),
        (&["check", "--json", "/nonexistent/jcard.toml"], 1),
        (&["status"], 0),
        (&["explain", "a"], 0),
        (&["--help"], 0),
    ];
    for (words, expected) in verbs {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command =
            if matches!(words[0], "status" | "explain") { verb(&daemon, words) } else { daemon.agentd(words) };
        if matches!(words[0], "schema" | "check" | "--help") {
            command = std::process::Command::new(binary());
            command.args(words);
        }
        let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(expected), ""), "{words:?}");
    }
}

#[test]
fn following_commands_end_when_their_reader_is_gone() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    for words in [&["events", "-f", "a"][..], &["logs", "-f", "a"], &["watch", "--follow", "a"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = verb(&daemon, words);
        let mut following = command.stdout(writer).stderr(Stdio::null()).spawn().unwrap();
        // The command holds no end of its own.
        drop(command);
        assert!(following.try_wait().unwrap().is_none(), "{words:?}");
        drop(reader);
        assert_eq!(ended(&daemon, &mut following), Some(0), "{words:?}");
    }
}

#[test]
fn status_shows_since_when_an_agent_has_been_stopping() {
    let daemon = Setup::new().start(&agent("a", "on-signal INT note; append @WORK/ready yes; sleep inf", ""));
    daemon.wait_for_file("ready");
    daemon.edit_jcard("[project]\nname = \"x\"\n");
    let stopping = daemon.wait_for_state("a", State::Stopping);
    assert!(stopping.since.is_some_and(|since| since.0 <= std::time::SystemTime::now()));
    let (_, said) = run(&mut verb(&daemon, &["status"]));
    let line = said.lines().find(|line| line.starts_with('a')).unwrap_or_default();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert!(cells[2] == "stopping" && cells[3].ends_with('s'), "{said}");
}
