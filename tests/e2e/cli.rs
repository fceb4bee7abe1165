//! The command line beside the daemon: check, status, help.

use std::fs;
use std::process::Command;

use agentd::wire::status::{AgentStatus, State};

use crate::support::{Daemon, Setup, agent, binary, run};

fn check(setup: &Setup, jcard: &str) -> (Option<i32>, String) {
    setup.edit_jcard(jcard);
    run(setup.agentd(&["check"]).arg(setup.jcard()))
}

#[test]
fn check_passes_a_good_jcard() {
    let setup = Setup::new();
    let (status, said) = check(&setup, &agent("a", "exit 0", "timeout = \"1h30m\"\nrestart = \"always\""));
    assert_eq!(status, Some(0), "{said}");
}

#[test]
fn check_prints_every_finding_with_its_place_and_fails() {
    let setup = Setup::new();
    let jcard = "[[agents]]\nname = \"a\"\nharness = \"nope\"\n\n[[agents]]\nname = \"b\"\nharness = \"custom\"\nrestart = \"maybe\"\nmax_restarts = \"many\"\n";
    let (status, said) = check(&setup, jcard);
    assert_eq!(status, Some(1), "{said}");
    let file = setup.jcard();
    for place in ["3:11", "8:11", "9:16"] {
        let start = format!("{}:{place}: ", file.display());
        let line =
            said.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("nothing at {place}: {said}"));
        assert!(line.contains("; "), "the message says what is accepted: {line}");
    }
}

#[test]
fn check_fails_for_invalid_toml_and_for_a_missing_file() {
    let setup = Setup::new();
    let (status, said) = check(&setup, "[[agents]]\nname = \"a\nharness = \"custom\"\n");
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains(&format!("{}:2:", setup.jcard().display())), "{said}");
    fs::remove_file(setup.jcard()).unwrap();
    let (status, said) = run(setup.agentd(&["check"]).arg(setup.jcard()));
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("jcard.toml"), "{said}");
}

#[test]
fn harnesses_prints_the_table_of_the_jcard_and_entries_that_can_be_pasted() {
    let setup = Setup::new();
    setup.edit_jcard("[harnesses.mine]\nbinary = \"my-agent\"\n[[harnesses.mine.rules]]\non = \"exit\"\nmatch = 'a\\d'\nmeans = \"quota\"\n");
    let ask = |words: &[&str]| run(setup.agentd(&[&["harnesses"], words].concat()).arg("--config").arg(setup.jcard()));
    let (status, table) = ask(&[]);
    assert_eq!(status, Some(0), "{table}");
    for start in ["NAME", "claude-code", "codex", "aider", "mine"] {
        assert!(table.lines().any(|line| line.starts_with(start)), "{start}: {table}");
    }
    assert!(table.lines().any(|line| line.starts_with("mine") && line.ends_with("added")), "{table}");
    for name in ["mine", "claude-code"] {
        let (status, entry) = ask(&[name]);
        assert_eq!(status, Some(0), "{entry}");
        let (status, said) = check(&setup, &format!("{entry}\n[agent]\nharness = {name:?}\n"));
        assert_eq!((status, said.contains("1 agent, 0 errors, 0 warnings")), (Some(0), true), "{entry}{said}");
        assert_eq!(ask(&[name]).1, entry, "it is printed as it was pasted");
        setup.edit_jcard("[harnesses.mine]\nbinary = \"my-agent\"\n");
    }
    let (status, said) = ask(&["mime"]);
    assert_eq!((status, said.contains("did you mean mine?")), (Some(4), true), "{said}");
}

#[test]
fn check_warns_about_unknown_keys_and_passes() {
    let setup = Setup::new();
    let (status, said) = check(&setup, "[agent]\nharness = \"custom\"\nfavourite = 7\n");
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains(":3:1: ") && said.contains("favourite"), "{said}");
}

#[test]
fn durations_accept_the_forms_of_go_and_humantime() {
    let setup = Setup::new();
    let with = |duration: &str| check(&setup, &format!("[agent]\nharness = \"custom\"\ntimeout = \"{duration}\"\n"));
    let good = [
        "1h30m",
        "1.5h",
        "0.5s",
        "300ms",
        "2h45m30s",
        "1us",
        "1µs",
        "1μs",
        "10ns",
        "0",
        "0s",
        "30m1h",
        "1m1m",
        ".5s",
        "5.s",
        "+5s",
        "1.0000000001s",
        "2 hours 30 min",
        "1d",
        "5 min",
    ];
    for duration in good {
        let (status, said) = with(duration);
        assert_eq!(status, Some(0), "{duration}: {said}");
    }
    for duration in ["100", "1h30", "1H", "1e3s", "1h-30m", "2562048h", "-5s", "1M", "soon"] {
        let (status, said) = with(duration);
        assert_eq!(status, Some(1), "{duration}: {said}");
        assert!(said.contains(":3:11: "), "{duration}: {said}");
    }
    let (_, said) = with("1M");
    assert!(said.contains("minutes"), "a hint: {said}");
}

fn status(daemon: &Daemon, args: &[&str]) -> (Option<i32>, String) {
    let socket = daemon.api_socket();
    run(&mut daemon.agentd(&[&["status", "--api-socket", socket.to_str().unwrap()], args].concat()))
}

#[test]
fn status_prints_a_readable_table() {
    let jcard = agent("sleeper", "sleep inf", "")
        + &agent("failed", "exit 3", "")
        + &agent("again", "exit 4", "restart = \"always\"\nbackoff = [\"1h\"]");
    let daemon = Setup::new().start(&jcard);
    daemon.wait_until_running("sleeper");
    daemon.wait_for_state("failed", State::Exited);
    daemon.wait_for_state("again", State::Backoff);
    let (code, said) = status(&daemon, &[]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "a heading and three agents: {said}");
    let heading = lines[0].to_lowercase();
    for column in ["name", "harness", "state", "reason", "since", "restarts", "exit", "next"] {
        assert!(heading.contains(column), "{column}: {heading}");
    }
    assert!(lines[1].starts_with("again") && lines[1].contains("backoff") && lines[1].contains('4'));
    assert!(lines[2].starts_with("failed") && lines[2].contains("exited") && lines[2].contains('3'));
    assert!(lines[3].starts_with("sleeper") && lines[3].contains("running") && lines[3].contains("custom"));
    assert!(!said.contains('\u{1b}'), "no colors into a pipe");
    assert!(code.is_some());
}

#[test]
fn status_exits_0_for_running_3_for_not_running_4_for_unknown() {
    let mut daemon = Setup::new().start(&(agent("sleeper", "sleep inf", "") + &agent("failed", "exit 3", "")));
    daemon.wait_until_running("sleeper");
    daemon.wait_for_state("failed", State::Exited);
    for (name, expected) in [("sleeper", 0), ("SLEEPER", 0), ("failed", 3), ("nobody", 4)] {
        let (code, said) = status(&daemon, &[name]);
        assert_eq!(code, Some(expected), "{name}: {said}");
    }
    assert!(daemon.stop().success());
    let (code, said) = status(&daemon, &["sleeper"]);
    assert!(matches!(code, Some(3 | 4)), "nothing runs without a daemon: {code:?} {said}");
    assert!(said.contains("agentd.sock"), "{said}");
}

#[test]
fn status_as_json_is_what_the_api_returns() {
    let daemon = Setup::new().start(&(agent("a", "sleep inf", "") + &agent("b", "exit 3", "")));
    daemon.wait_until_running("a");
    daemon.wait_for_state("b", State::Exited);
    let (_, said) = status(&daemon, &["--json"]);
    let agents: Vec<AgentStatus> = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(agents, daemon.agents());
    let (code, said) = status(&daemon, &["b", "--json"]);
    let agent: AgentStatus = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let own: AgentStatus = serde_json::from_str(&daemon.get("/v1/agents/b").body).unwrap();
    // Its resource usage differs each time.
    let at_rest = |agent: AgentStatus| AgentStatus { resources: None, ..agent };
    assert_eq!((code, at_rest(agent)), (Some(3), at_rest(own)));
}

#[test]
fn status_uses_color_on_a_terminal_unless_no_color_is_set() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    for (no_color, expected) in [(None, true), (Some("1"), false)] {
        let words = format!("{} status --api-socket {}", binary().display(), daemon.api_socket().display());
        let mut command = Command::new("script");
        command
            .args(["-qec", &words, "/dev/null"])
            .env_clear()
            .env("PATH", crate::support::path())
            .env("TERM", "xterm");
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        let (status, said) = run(command.stdin(std::process::Stdio::null()));
        assert_eq!(status, Some(0), "{said}");
        assert_eq!(said.contains("\u{1b}["), expected, "NO_COLOR {no_color:?}: {said:?}");
    }
}

#[test]
fn version_and_help_print_readable_text() {
    let (status, said) = run(Command::new(binary()).arg("--version"));
    assert_eq!((status, said.trim()), (Some(0), concat!("agentd ", env!("CARGO_PKG_VERSION"))));
    let (status, said) = run(Command::new(binary()).arg("--help"));
    assert_eq!(status, Some(0));
    let flags = [
        "--config",
        "--secret-dir",
        "--api-socket",
        "--tmux-socket",
        "--debug",
        "--user",
        "--admin-group",
        "--state-dir",
        "--resync",
        "--settle",
    ];
    for word in flags.into_iter().chain(["check", "status"]) {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn an_unknown_flag_is_named_and_nothing_starts() {
    let (status, said) = run(Command::new(binary()).arg("--confg").arg("x"));
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("--confg") && said.contains("--config"), "{said}");
}

#[test]
fn schema_covers_the_example_and_needs_no_daemon() {
    let (status, printed) = run(&mut Setup::new().agentd(&["schema"]));
    assert_eq!(status, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let example: toml::Value = toml::from_str(include_str!("../../examples/jcard.toml")).unwrap();
    let schema = jsonschema::draft7::new(&schema).unwrap();
    schema.validate(&serde_json::to_value(&example).unwrap()).unwrap();
    assert!(!schema.is_valid(&serde_json::json!({ "agent": {} })));
}

#[test]
fn commands_ask_the_daemon_that_the_variable_names() {
    const VARIABLE: &str = "AGENTD_API_SOCKET";
    let daemon = Setup::new().start(&agent("sleeper", "sleep inf", ""));
    daemon.wait_until_running("sleeper");
    let socket = daemon.api_socket();
    for words in
        [&["status"][..], &["explain", "sleeper"], &["events"], &["wait", "--json", "--for", "running", "sleeper"]]
    {
        let (status, said) = run(daemon.agentd(words).env(VARIABLE, &socket));
        assert!(status == Some(0) && said.contains("sleeper"), "{words:?}: {said}");
    }
    let (_, said) = run(daemon.agentd(&["doctor", "-v"]).env(VARIABLE, &socket));
    let is_asked = said.contains("answers at") && said.contains(&format!("process {}", daemon.pid()));
    assert!(is_asked && said.contains(daemon.jcard().to_str().unwrap()), "doctor finds the rest through it: {said}");

    let flag = ["status", "--api-socket", socket.to_str().unwrap()];
    let (status, said) = run(daemon.agentd(&flag).env(VARIABLE, "/no/where"));
    assert_eq!(status, Some(0), "the flag wins: {said}");
    let (status, said) = run(daemon.agentd(&["status"]).env(VARIABLE, "/no/where"));
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("/no/where (named by AGENTD_API_SOCKET): it is not running"), "{said}");
    let (status, said) = run(daemon.agentd(&["status", "sleeper"]).env(VARIABLE, "/no/where"));
    assert_eq!(status, Some(4), "whether the agent runs is not known: {said}");
    let (_, unset) = run(&mut daemon.agentd(&["status"]));
    let (_, empty) = run(daemon.agentd(&["status"]).env(VARIABLE, ""));
    assert_eq!(empty, unset, "an empty value counts as unset");
    let (status, said) = run(daemon.agentd(&["status"]).env(VARIABLE, "agentd.sock"));
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("write an absolute path"), "{said}");
}
