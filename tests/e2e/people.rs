//! What people see of the commands: on real terminals of several sizes, and without a daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use agentd::wire::status::State;
use nix::sys::signal::Signal;

use crate::attach::Terminal;
use crate::support::{Daemon, Setup, agent, as_user, binary, root};

/// The command with the daemon's API.
fn verb(setup: &Setup, words: &[&str]) -> Command {
    let socket = setup.api_socket();
    setup.agentd(&[words, &["--api-socket", socket.to_str().unwrap()]].concat())
}

/// What a command prints to standard output and to standard error.
fn streams(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), out, err)
}

/// What a command shows on a terminal of that size, without its colors.
fn shown(setup: &Setup, rows: u16, columns: u16, words: &[&str]) -> String {
    let terminal = Terminal::new();
    terminal.resize(rows, columns);
    let mut command = verb(setup, words);
    command.env("TERM", "xterm").env("TZ", "UTC");
    let mut running = terminal.run(command);
    running.ended(setup);
    terminal.wait_for(setup, "\n");
    let mut plain = terminal.seen().replace('\r', "");
    for code in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
        plain = plain.replace(code, "");
    }
    plain
}

fn start() -> Daemon {
    let daemon = Setup::new().start(
        &(agent("failing", "print-lines 3 -- exit 3", "restart = \"always\"\nbackoff = [\"1ms\"]\nmax_restarts = 1")
            + &agent("late", "exit 0", "secrets = [\"FIRST_KEY\", \"SECOND_KEY\", \"THIRD_KEY\"]")
            + &agent("sleeper", "print-lines 2 -- sleep inf", "")),
    );
    daemon.wait_until_running("sleeper");
    daemon.wait_for_state("failing", State::Exited);
    daemon.wait_for_state("late", State::Waiting);
    daemon
}

#[test]
fn screens_fit_terminals_of_three_sizes() {
    let daemon = start();
    for (rows, columns) in [(24, 80), (40, 120), (20, 50)] {
        for (words, expected) in [
            (&["status"][..], "3 agents: 1 running, 1 waiting, 1 gave up"),
            (&["explain", "late"], "late has been in state waiting for"),
            (&["events"], "failing: "),
            (&["logs", "sleeper"], "line 1"),
            (&["doctor", "-v"], " failure"),
        ] {
            let text = shown(&daemon, rows, columns, words);
            let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(joined.contains(expected), "{words:?} on {columns} columns: {text}");
            for line in text.lines() {
                // A path is not broken.
                let is_one_word = line.split_whitespace().any(|word| word.chars().count() > 20);
                assert!(line.chars().count() <= usize::from(columns) || is_one_word, "{columns}: {line:?}");
            }
            assert!(!text.contains('…'), "nothing is cut: {text}");
        }
    }
    let wide = shown(&daemon, 40, 120, &["status"]);
    assert!(wide.lines().next().unwrap().contains("HARNESS") && wide.contains("PID"), "{wide}");
    let narrow = shown(&daemon, 20, 50, &["status"]);
    assert!(narrow.starts_with("NAME") && !narrow.lines().next().unwrap().contains("RESTARTS"), "{narrow}");
    assert!(narrow.contains("  restarts 1/1, exit 3"), "{narrow}");
}

#[test]
fn times_are_short_on_a_terminal_and_exact_in_a_pipe() {
    let daemon = start();
    let is_short = |line: &str| line.as_bytes().get(2) == Some(&b':') && line.as_bytes().get(8) == Some(&b' ');
    let text = shown(&daemon, 24, 80, &["events", "late"]);
    assert!(text.lines().any(is_short) && !text.contains(".000Z"), "{text}");
    assert!(shown(&daemon, 24, 80, &["events", "late", "--utc"]).contains("Z "));
    let (_, out, _) = streams(&mut verb(&daemon, &["events", "late"]));
    let is_exact = |line: &str| line.split(' ').next().is_some_and(|time| humantime::parse_rfc3339(time).is_ok());
    assert!(out.lines().count() > 1 && out.lines().all(is_exact), "{out}");
}

#[test]
fn status_watches_until_ctrl_c_and_restores_the_terminal() {
    let daemon = start();
    let terminal = Terminal::new();
    let mut command = verb(&daemon, &["status", "--watch"]);
    command.env("TERM", "xterm");
    let mut running = terminal.run(command);
    terminal.wait_for(&daemon, "1 gave up");
    assert!(terminal.seen().contains("\x1b[?1049h"), "{}", terminal.seen());
    for name in ["FIRST_KEY", "SECOND_KEY", "THIRD_KEY"] {
        daemon.secret(name, "a value");
    }
    terminal.wait_for(&daemon, "1 completed");
    running.signal(Signal::SIGINT);
    assert_eq!(running.ended(&daemon).code(), Some(0), "{}", terminal.seen());
    terminal.wait_for(&daemon, "\x1b[?1049l");
}

#[test]
fn status_takes_several_names_and_patterns() {
    let daemon = start();
    let names = |words: &[&str]| {
        let (code, out, err) = streams(&mut verb(&daemon, &[&["status"], words].concat()));
        let names: Vec<&str> = out.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
        (code, names.join(" "), err)
    };
    assert_eq!(names(&["s*", "LATE"]), (Some(3), "late sleeper".to_owned(), String::new()));
    assert_eq!(names(&["sleep?r"]).0, Some(0));
    assert_eq!(names(&["--sort", "attention"]).1, "failing late sleeper");
    let (code, found, err) = names(&["sleeper", "x*", "sleper"]);
    assert_eq!((code, found.as_str()), (Some(4), "sleeper"));
    assert!(err.contains("no agent fits \"x*\"") && err.contains("there is no agent \"sleper\""), "{err}");
    let (_, out, _) = streams(&mut verb(&daemon, &["status", "l*", "--json"]));
    let agents: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((agents.as_array().unwrap().len(), &agents[0]["name"]), (1, &"late".into()));
}

#[test]
fn a_misspelled_name_gets_a_suggestion_in_every_verb() {
    let daemon = start();
    for words in [&["status", "sleper"][..], &["explain", "sleper"], &["logs", "sleper"], &["watch", "sleper"]] {
        let (code, _, err) = streams(&mut verb(&daemon, words));
        assert_eq!(code, Some(4), "{words:?}: {err}");
        let expected = "there is no agent \"sleper\"; did you mean \"sleeper\"? (agentd status lists all)";
        assert!(err.contains(expected), "{words:?}: {err}");
    }
}

#[test]
fn logs_of_several_agents_have_names_and_times() {
    let daemon = start();
    let printed = || streams(&mut verb(&daemon, &["logs", "sleeper"])).1;
    daemon.wait("the lines", || printed().contains("line 2").then_some(()));
    let (code, out, _) = streams(&mut verb(&daemon, &["logs", "sleeper", "failing"]));
    assert_eq!(code, Some(0));
    let expected = "sleeper | line 1\nsleeper | line 2\nfailing | line 1\nfailing | line 2\nfailing | line 3\n";
    assert_eq!(out, expected);
    let (code, out, err) = streams(&mut verb(&daemon, &["logs", "--all", "--tail", "1"]));
    assert_eq!((code, out.as_str()), (Some(4), "failing | line 3\nsleeper | line 2\n"));
    assert!(
        err.contains("late has printed nothing yet: the secrets FIRST_KEY, SECOND_KEY, THIRD_KEY are not"),
        "{err}"
    );
    for words in [&["logs", "-t", "sleeper"][..], &["logs", "-t", "-n", "2", "sleeper"]] {
        let (_, out, _) = streams(&mut verb(&daemon, words));
        assert_eq!(out.lines().count(), 2, "{out}");
        for line in out.lines() {
            let (time, text) = line.split_once(' ').unwrap();
            let ago = humantime::parse_rfc3339(time).unwrap().elapsed().unwrap_or_default();
            assert!(ago.as_secs() < 60 && text.starts_with("line "), "{out}");
        }
    }
    let (_, out, _) = streams(&mut verb(&daemon, &["logs", "-t", "-n", "1", "--json", "s*"]));
    let line: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&line["agent"], &line["text"]), (&"sleeper".into(), &"line 2".into()));
    assert!(humantime::parse_rfc3339(line["at"].as_str().unwrap()).is_ok(), "{out}");
}

#[test]
fn all_attempts_are_printed_with_separators_on_stderr() {
    let daemon = start();
    let (code, out, err) = streams(&mut verb(&daemon, &["logs", "--all-attempts", "failing"]));
    assert_eq!((code, out.as_str()), (Some(0), "line 1\nline 2\nline 3\nline 1\nline 2\nline 3\n"), "{err}");
    let separators: Vec<&str> = err.lines().collect();
    assert_eq!(separators.len(), 2, "{err}");
    assert!(separators[0].starts_with("── attempt 1 · exited 3 · "), "{err}");
    assert!(separators[1].starts_with("── attempt 2 · exited 3 · "), "{err}");
    let (_, followed, err) = streams(&mut verb(&daemon, &["logs", "-f", "failing"]));
    assert_eq!((followed.as_str(), err.lines().count()), ("line 1\nline 2\nline 3\n", 1), "{err}");
    let (_, out, _) = streams(&mut verb(&daemon, &["logs", "--all-attempts", "--json", "failing"]));
    let attempt = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["attempt"].as_u64().unwrap();
    assert_eq!(out.lines().map(attempt).collect::<Vec<_>>(), [1, 1, 1, 2, 2, 2]);
}

/// A jcard with one agent that runs a bash script.
fn script(name: &str, script: &str) -> String {
    format!(
        "[[agents]]\nname = \"{name}\"\nharness = \"custom\"\ncommand = [\"bash\", \"-c\", '''{script}''']\nworkdir = \"@WORK\"\n"
    )
}

#[test]
fn no_agent_can_print_a_separator() {
    let daemon = Setup::new().start(&script("forger", r#"printf '\036{"log":"9-9","attempt":9}\nreal\n'"#));
    daemon.wait_for_state("forger", State::Exited);
    let (code, out, err) = streams(&mut verb(&daemon, &["logs", "--all-attempts", "forger"]));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("\"attempt\":9") && out.contains("real") && !err.contains("attempt 9"), "{out} {err}");
}

const SECRET: &str = "sk-live-0123456789abcdefghijABCDEFGHIJ";

#[test]
fn logs_are_read_from_the_files_without_a_daemon() {
    let (first, second) = SECRET.split_at(19);
    let setup = Setup::new();
    setup.edit_jcard(&script("leaky", &format!("echo hello; echo {SECRET}; echo {first}; echo {second}")));
    setup.put(&setup.path("secrets/KEY"), SECRET);
    let mut daemon = setup.start_as_it_is();
    daemon.wait_for_state("leaky", State::Exited);
    // However long it is, or a piece of it.
    let expected = "hello\n********\n********\n********\n".to_owned();
    assert_eq!(streams(&mut verb(&daemon, &["logs", "leaky"])).1, expected);
    assert!(daemon.stop().success());
    let (log, secrets) = (daemon.path("log"), daemon.path("secrets"));
    let (log, secrets) = (log.to_str().unwrap(), secrets.to_str().unwrap());
    // The test's daemon runs as a user of the test's, whom nothing names any more.
    let user = daemon.agent_account().name.clone();
    let places = ["--log-dir", log, "--secret-dir", secrets, "--user", &user];
    let logs = |words: &[&str]| streams(&mut verb(&daemon, &[&["logs", "leaky"], words, &places].concat()));
    let (code, out, err) = logs(&[]);
    assert_eq!((code, out), (Some(0), expected), "as with a daemon, also a secret in pieces: {err}");
    let (_, out, _) = logs(&["-t", "-n", "1", "--json"]);
    assert!(out.contains("\"at\"") && !out.contains(second), "{out}");
    let (code, _, err) = logs(&["-f"]);
    assert!(code == Some(4) && err.contains("without -f"), "{err}");
    let (code, _, err) = streams(&mut verb(&daemon, &["logs", "nobody", "--raw", "--log-dir", log]));
    assert!(code == Some(4) && err.contains("agentd is not running"), "{err}");

    let gone = daemon.path("no-secrets");
    let words = ["logs", "leaky", "--log-dir", log, "--secret-dir", gone.to_str().unwrap()];
    let (code, out, err) = streams(&mut verb(&daemon, &words));
    assert_eq!((code, out.as_str()), (Some(4), ""), "{err}");
    assert!(err.contains("could not be redacted") && err.contains("--raw"), "{err}");
    let (code, _, err) = streams(&mut verb(&daemon, &["logs", "leaky", "--log-dir", log]));
    assert!(code == Some(2) && err.contains("--secret-dir"), "{err}");
}

#[test]
fn without_a_daemon_members_get_only_the_bytes() {
    if !root() {
        return;
    }
    let mut daemon = Setup::new().start(&agent("a", "print-lines 1 -- exit 0", ""));
    daemon.wait_for_state("a", State::Exited);
    assert!(daemon.stop().success());
    let (log, secrets, socket) = (daemon.path("log"), daemon.path("secrets"), daemon.api_socket());
    let as_them = |user: &str, raw: &[&str]| {
        let binary = binary();
        let program = [binary.to_str().unwrap(), "logs", "a"];
        let places = ["--log-dir", log.to_str().unwrap(), "--secret-dir", secrets.to_str().unwrap()];
        let socket = ["--api-socket", socket.to_str().unwrap()];
        streams(&mut as_user(user, &[&program[..], raw, &places, &socket].concat()))
    };
    let (code, out, err) = as_them("op", &["--raw"]);
    assert_eq!((code, out.as_str()), (Some(0), "line 1\r\n"), "{err}");
    let (code, out, err) = as_them("op", &[]);
    assert_eq!((code, out.as_str()), (Some(4), ""), "{err}");
    assert!(err.contains("could not be redacted"), "{err}");
    for raw in [&["--raw"][..], &[]] {
        let (code, out, err) = as_them("stranger", raw);
        assert_eq!((code, out.as_str()), (Some(4), ""), "{err}");
    }
}

#[test]
fn init_makes_what_is_missing_and_show_shows_it() {
    let setup = Setup::new();
    let (folder, jcard) = (setup.path("home/begin"), setup.path("home/begin/jcard.toml"));
    let (secrets, jcard) = (folder.join("secrets"), jcard.to_str().unwrap().to_owned());
    let show = |words: &[&str]| streams(&mut setup.agentd(&[&["show"], words, &["--config", &jcard]].concat()));
    let (code, out, err) = show(&["hello"]);
    assert!(code == Some(4) && err.contains("agentd init"), "{out} {err}");
    let init = || {
        let words = ["init", "--config", &jcard, "--secret-dir", secrets.to_str().unwrap()];
        streams(&mut setup.agentd(&words))
    };
    let (code, out, err) = init();
    assert!(code == Some(0) && out.contains("made ") && out.contains("agentd check"), "{out} {err}");
    assert_eq!(fs::metadata(&secrets).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(show(&["hello"]).1.contains("\"echo hello from agentd\""));
    fs::write(&jcard, "[agent]\nharness = \"codex\"\nenv = { A = \"hidden-value\" }\n").unwrap();
    assert!(init().1.contains("kept "));
    let (code, out, err) = show(&["CODEX"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("harness        line 2      \"codex\"") && out.contains("A = \"[masked]\""), "{out}");
    assert!(!out.contains("hidden-value"), "{out}");
    let data: serde_json::Value = serde_json::from_str(&show(&["codex", "--json"]).1).unwrap();
    assert_eq!(data["name"], "codex");
}

#[test]
fn the_binary_writes_its_own_man_pages() {
    let setup = Setup::new();
    let folder = setup.path("home/pages");
    let (code, _, err) = streams(&mut setup.agentd(&["man", folder.to_str().unwrap()]));
    assert!(code == Some(0) && err.contains("agentd.8"), "{err}");
    let daemon = fs::read_to_string(folder.join("agentd.8")).unwrap();
    assert!(fs::read_dir(&folder).unwrap().count() > 10 && daemon.contains("EXIT STATUS OF COMMANDS"), "{daemon}");
}

#[test]
fn no_command_complains_about_a_closed_pipe() {
    let daemon = start();
    for words in [
        &["status"][..],
        &["explain", "late"],
        &["logs", "failing"],
        &["logs", "--all-attempts", "-t", "failing"],
        &["events"],
        &["doctor", "-v"],
        &["watch", "--once", "sleeper"],
    ] {
        check_closed(verb(&daemon, words));
    }
    let jcard = daemon.jcard();
    let jcard = jcard.to_str().unwrap();
    for words in [
        &["check", jcard][..],
        &["schema"],
        &["--help"],
        &["completions", "bash"],
        &["show", "late", "--config", jcard],
    ] {
        check_closed(daemon.agentd(words));
    }
}

fn check_closed(mut command: Command) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!err.contains("roken pipe") && !err.contains("panicked"), "{command:?}: {err}");
}

#[test]
fn the_daemon_says_on_a_terminal_that_it_is_one() {
    let setup = Setup::new();
    setup.edit_jcard(&agent("a", "sleep inf", ""));
    let terminal = Terminal::new();
    let mut command = setup.daemon_command();
    command.env("TERM", "xterm");
    let mut daemon = terminal.run(command);
    terminal.wait_for(&setup, "this is the daemon, in the foreground. Ctrl-C stops it and all its agents.");
    setup.wait("the API", || setup.try_agents().ok());
    daemon.signal(Signal::SIGINT);
    daemon.ended(&setup);
}
