//! What an agent does: by its hooks, which call the real `agentd tell`, and by its screen.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use agentd::wire::activity::{Doing, Source};
use agentd::wire::hold::GroupHold;
use agentd::wire::status::{AgentStatus, Outcome, State};

use crate::sandbox::has;
use crate::support::{Daemon, Setup, account, path, root, run};

const START: &str = r#"hook {"hook_event_name":"SessionStart","source":"startup"}"#;
const ASKS: &str =
    r#"hook {"hook_event_name":"PermissionRequest","tool_name":"Bash","tool_input":{"command":"curl -H @KEY x"}}"#;
const ANSWERED: &str =
    r#"hook {"hook_event_name":"PostToolUse","tool_name":"Bash","tool_input":{"command":"curl -H @KEY x"}}"#;
const STOPS: &str = r#"hook {"hook_event_name":"Stop"}"#;

const KEY: &str = "sk-ant-api03-Zq8vXw2LkT0pYcRb7NfHd5Jm";

/// Rules of a harness of its own, which has no hooks.
const RULES: &str = r#"
[harnesses.mine]
binary = "hooked"
[[harnesses.mine.rules]]
on = "screen"
match = '(?m)^Proceed\? .*'
means = "blocked"
[[harnesses.mine.rules]]
on = "screen"
match = '(?s)visit (?P<url>https://\S+) .*code (?P<code>\S+)'
means = "login"
"#;

fn setup() -> Setup {
    let setup = Setup::new();
    let stand_in = setup.path("bin/hooked");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/hooked"), &stand_in).unwrap();
    fs::set_permissions(&stand_in, Permissions::from_mode(0o755)).unwrap();
    setup
}

fn entry(name: &str, harness: &str, more: &str) -> String {
    let path = path();
    format!(
        "[[agents]]\nname = {name:?}\nharness = {harness:?}\ncommand = \"@DIR/bin/hooked\"\nworkdir = \"@WORK\"\n\
         prompt = \"work\"\ninteractive = true\nsecrets = []\n\
         env = {{ PATH = {path:?}, CONTROL = \"@WORK/{name}\" }}\n{more}\n\n"
    )
}

/// Lets the agent do this.
fn order(daemon: &Setup, name: &str, orders: &[&str]) {
    let mut file = OpenOptions::new().append(true).open(daemon.work(name)).unwrap();
    for order in orders {
        writeln!(file, "{}", order.replace("@KEY", KEY)).unwrap();
    }
}

/// An agent that does nothing yet.
fn begin(setup: &Setup, names: &[&str]) {
    for name in names {
        setup.put(&setup.work(name), "");
    }
}

fn wait_until(daemon: &Daemon, name: &str, expected: Option<(Doing, Source)>) -> AgentStatus {
    let is_it = |agent: &AgentStatus| agent.activity.as_ref().map(|it| (it.status, it.source)) == expected;
    daemon.wait_until(name, &format!("{expected:?}"), is_it)
}

fn detail(agent: &AgentStatus) -> &str {
    agent.activity.as_ref().and_then(|activity| activity.detail.as_deref()).unwrap_or_default()
}

#[test]
fn a_hook_says_what_an_agent_does() {
    let setup = setup();
    setup.secret("KEY", KEY);
    begin(&setup, &["a"]);
    let jcard = entry("a", "claude-code", "").replace("secrets = []", "secrets = [\"KEY\"]");
    let mut daemon = setup.start(&jcard);
    daemon.wait_until_running("a");
    order(&daemon, "a", &[START]);
    wait_until(&daemon, "a", Some((Doing::Working, Source::Hook)));
    let argv = fs::read_to_string(daemon.work("a.argv")).unwrap();
    assert!(argv.starts_with("--settings\n{\"hooks\":") && !argv.contains("bypass"), "{argv}");

    let asked = Instant::now();
    order(&daemon, "a", &[ASKS]);
    let blocked = wait_until(&daemon, "a", Some((Doing::Blocked, Source::Hook)));
    let took = asked.elapsed();
    eprintln!("blocked by a hook after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(detail(&blocked).starts_with("permission: Bash: wants to run curl -H "), "{}", detail(&blocked));
    assert!(!daemon.get("/v1/agents").body.contains(KEY), "what it asks for is masked");
    let (code, said) = run(&mut daemon.agentd(&[
        "wait",
        "a",
        "--for",
        "blocked",
        "--timeout",
        "9s",
        "--api-socket",
        daemon.api_socket().to_str().unwrap(),
    ]));
    assert_eq!(code, Some(0), "{said}");
    let (_, said) = run(&mut daemon.agentd(&["status", "--api-socket", daemon.api_socket().to_str().unwrap()]));
    assert!(said.contains("running") && said.contains("blocked: permission: Bash"), "{said}");
    let metrics = daemon.get("/metrics").body;
    assert!(metrics.contains("agentd_agent_activity{agent=\"a\",activity=\"blocked\"} 1"), "{metrics}");

    let since = |agent: &AgentStatus| agent.activity.as_ref().unwrap().since;
    daemon.kill_and_start_again();
    let adopted = wait_until(&daemon, "a", Some((Doing::Blocked, Source::Hook)));
    assert_eq!(since(&adopted), since(&blocked), "the next daemon knows since when");

    order(&daemon, "a", &[ANSWERED]);
    wait_until(&daemon, "a", Some((Doing::Working, Source::Hook)));
    order(&daemon, "a", &[STOPS]);
    wait_until(&daemon, "a", Some((Doing::Idle, Source::Hook)));
    let events = daemon.get("/v1/events?follow=false&after=0").body;
    let changes: Vec<&str> = events.lines().filter(|line| line.contains("\"type\":\"activity\"")).collect();
    assert_eq!(changes.len(), 2, "one for each change: {changes:?}");

    order(&daemon, "a", &["end"]);
    let over = daemon.wait_for_state("a", State::Exited);
    assert_eq!((over.outcome, over.activity), (Some(Outcome::Completed), None));
    assert_eq!(fs::read_to_string(daemon.work("a.said")).unwrap(), "", "a hook prints nothing");
}

#[test]
fn a_hook_never_hinders_its_harness() {
    let setup = setup();
    begin(&setup, &["a"]);
    let daemon = setup.start(&entry("a", "claude-code", ""));
    daemon.wait_until_running("a");
    let bad = ["big", "hang", "closed", "killed", "deaf", "hook garbage", "hook {\"hook_event_name\":7}"];
    order(&daemon, "a", &bad);
    let done = daemon.wait("all of it to be done", || Some(daemon.lines("a.done")).filter(|it| it.len() == bad.len()));
    for line in &done {
        let words: Vec<&str> = line.split(' ').collect();
        let took: u64 = words[2].parse().unwrap();
        assert_eq!(words[1], "0", "{line}");
        assert!(took < 2000, "{line}");
    }
    assert_eq!(fs::read_to_string(daemon.work("a.said")).unwrap(), "", "a hook prints nothing");
    assert_eq!(daemon.agent("a").unwrap().activity, None, "nothing is known of it");

    order(&daemon, "a", &["flood 200"]);
    wait_until(&daemon, "a", Some((Doing::Idle, Source::Hook)));
    let events = daemon.get("/v1/events?follow=false&after=0").body;
    assert!(events.matches("\"type\":\"activity\"").count() <= 4, "{events}");
}

#[test]
fn codex_says_when_its_turn_is_over() {
    let setup = setup();
    begin(&setup, &["a"]);
    let daemon = setup.start(&entry("a", "codex", ""));
    daemon.wait_until_running("a");
    order(&daemon, "a", &[r#"notify {"type":"agent-turn-complete","thread-id":"x"}"#]);
    wait_until(&daemon, "a", Some((Doing::Idle, Source::Hook)));
}

#[test]
fn a_screen_shows_what_an_agent_does() {
    let setup = setup();
    begin(&setup, &["a"]);
    let jcard = format!("{RULES}\n{}", entry("a", "mine", "").replace("prompt = \"work\"\ninteractive = true\n", ""));
    let daemon = setup.start(&jcard);
    daemon.wait_until_running("a");
    let painted = Instant::now();
    order(&daemon, "a", &["paint Proceed? 1. Yes 2. No"]);
    let blocked = wait_until(&daemon, "a", Some((Doing::Blocked, Source::Screen)));
    let took = painted.elapsed();
    eprintln!("blocked by its screen after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(detail(&blocked), "Proceed? 1. Yes 2. No");

    order(&daemon, "a", &["spin 5"]);
    wait_until(&daemon, "a", None);
    order(&daemon, "a", &["paint visit https://x.example/d and enter the code AB-12"]);
    let login = wait_until(&daemon, "a", Some((Doing::Login, Source::Screen)));
    assert_eq!(detail(&login), "open https://x.example/d code AB-12");
    // The terminal wraps what does not fit.
    let long = format!("https://x.example/{}", "d".repeat(400));
    order(&daemon, "a", &["paint Nothing of interest"]);
    wait_until(&daemon, "a", None);
    order(&daemon, "a", &[&format!("paint visit {long} and enter the code AB-12")]);
    let login = wait_until(&daemon, "a", Some((Doing::Login, Source::Screen)));
    assert_eq!(detail(&login), format!("open {long} code AB-12"));
    order(&daemon, "a", &["paint Nothing of interest"]);
    wait_until(&daemon, "a", None);
}

#[test]
fn a_living_agent_cannot_keep_others_from_starting() {
    const LOGGED_OUT: &str = r#"hook {"hook_event_name":"StopFailure","error":"authentication_failed"}"#;
    const WORKS: &str = r#"hook {"hook_event_name":"UserPromptSubmit"}"#;
    let setup = setup();
    begin(&setup, &["a", "b"]);
    let of_b = |is_enabled: bool| entry("b", "claude-code", &format!("enabled = {is_enabled}"));
    let a = entry("a", "claude-code", "");
    let daemon = setup.start(&format!("{a}{}", of_b(false)));
    daemon.wait_until_running("a");
    order(&daemon, "a", &[WORKS, LOGGED_OUT]);
    let held: Vec<GroupHold> = daemon.wait("a hold", || {
        let held: Vec<GroupHold> = serde_json::from_str(&daemon.get("/v1/holds").body).unwrap();
        Some(held).filter(|held| !held.is_empty())
    });
    let socket = daemon.api_socket().to_str().unwrap().to_owned();
    let released = run(&mut daemon.agentd(&["release", &held[0].hold.group, "--api-socket", &socket]));
    assert_eq!(released.0, Some(0), "{released:?}");
    for _ in 0..3 {
        order(&daemon, "a", &[WORKS]);
        wait_until(&daemon, "a", Some((Doing::Working, Source::Hook)));
        order(&daemon, "a", &[LOGGED_OUT]);
        wait_until(&daemon, "a", Some((Doing::Login, Source::Hook)));
    }
    daemon.edit_jcard(&format!("{a}{}", of_b(true)));
    daemon.wait_until_running("b");
}

#[test]
fn an_agent_that_waits_too_long_has_failed() {
    let setup = setup();
    begin(&setup, &["hook", "screen"]);
    let jcard = format!(
        "{RULES}\n{}{}",
        entry("hook", "claude-code", "idle_timeout = \"2s\"\ngrace_period = \"5s\"\nrestart = \"always\""),
        entry("screen", "mine", "idle_timeout = \"1s\"").replace("prompt = \"work\"\ninteractive = true\n", ""),
    );
    let daemon = setup.start(&jcard);
    daemon.wait_until_running("hook");
    daemon.wait_until_running("screen");
    order(&daemon, "screen", &["paint Proceed? 1. Yes"]);
    order(
        &daemon,
        "hook",
        &[
            START,
            r#"hook {"hook_event_name":"PermissionRequest","tool_name":"Bash","tool_input":{"command":"npm test"}}"#,
        ],
    );
    let over = daemon.wait_for_state("hook", State::Exited);
    assert_eq!(over.outcome, Some(Outcome::Failed));
    let reason = over.reason.unwrap();
    assert!(reason.starts_with("blocked for 2s: permission: Bash: wants to run npm test; "), "{reason}");
    wait_until(&daemon, "screen", Some((Doing::Blocked, Source::Screen)));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(daemon.agent("screen").unwrap().state, State::Running, "a screen alone ends no agent");
}

#[test]
fn hooks_reach_out_of_a_sandbox() {
    if !has("bwrap") {
        return;
    }
    let setup = setup();
    begin(&setup, &["a"]);
    let more = "type = \"sandboxed\"\nsandbox = \"bwrap\"\nsandbox_home = \"fresh\"\nsandbox_read = [\"@DIR/bin\"]";
    let daemon = setup.start(&entry("a", "claude-code", more));
    daemon.wait_until_running("a");
    order(&daemon, "a", &[START, r#"hook {"hook_event_name":"PermissionRequest","tool_name":"Bash","tool_input":{}}"#]);
    let blocked = wait_until(&daemon, "a", Some((Doing::Blocked, Source::Hook)));
    assert_eq!(detail(&blocked), "permission: Bash");
}

#[test]
fn hooks_and_screens_of_other_users_are_heard() {
    if !root() {
        return;
    }
    let setup = setup();
    let workdir = setup.make_workdir_of(&account("agent2"));
    begin(&setup, &[]);
    for name in ["hook", "screen"] {
        setup.put(&workdir.join(name), "");
    }
    let of = |text: String| text.replace("@WORK", "@DIR/of-agent2");
    let jcard = format!(
        "{RULES}\n{}{}",
        of(entry("hook", "claude-code", "user = \"agent2\"")),
        of(entry("screen", "mine", "user = \"agent2\"").replace("prompt = \"work\"\ninteractive = true\n", "")),
    );
    let daemon = setup.start(&jcard);
    daemon.wait_until_running("hook");
    daemon.wait_until_running("screen");
    let tell = |name: &str, text: &str| {
        writeln!(OpenOptions::new().append(true).open(workdir.join(name)).unwrap(), "{text}").unwrap();
    };
    tell("hook", STOPS);
    tell("screen", "paint Proceed? yes");
    wait_until(&daemon, "hook", Some((Doing::Idle, Source::Hook)));
    wait_until(&daemon, "screen", Some((Doing::Blocked, Source::Screen)));
}

#[test]
fn a_rule_can_be_tried_on_a_file() {
    let setup = setup();
    setup.edit_jcard(&format!("{RULES}\n[[agents]]\nharness = \"mine\"\n"));
    let screen = setup.path("screen.txt");
    let check = |text: &str| {
        setup.put(&screen, text);
        let jcard = setup.jcard();
        let words =
            ["check", "--screen", screen.to_str().unwrap(), "--harness", "mine", "--config", jcard.to_str().unwrap()];
        run(&mut setup.agentd(&words))
    };
    let (code, said) = check("\nProceed? 1. Yes\n\n");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("mine: blocked, by its rule 1") && said.contains("Proceed? 1. Yes"), "{said}");
    assert_eq!(check("nothing").0, Some(1));
}
