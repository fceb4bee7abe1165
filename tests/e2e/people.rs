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
    // What the terminal shows after the command comes after all that the command has printed.
    let mut end = Command::new("printf");
    end.arg("<end>");
    terminal.run(end).ended(setup);
    terminal.wait_for(setup, "<end>");
    let mut plain = terminal.seen().replace('\r', "").replace("<end>", "");
    for code in ["\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"] {
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
fn a_fault_of_the_jcard_is_wrapped_between_words() {
    let daemon = Setup::new().start("[[agents]]\nname = \"bad\"\nharness = \"nope\"\n");
    daemon.wait_for_state("bad", State::Invalid);
    for columns in [120, 80, 50] {
        let text = shown(&daemon, 24, columns, &["status"]);
        let words: Vec<&str> = text.split_whitespace().collect();
        assert!(text.starts_with("agentd: ") && words.contains(&"claude-code,"), "{text}");
        for line in text.lines() {
            let is_one_word = line.split_whitespace().any(|word| word.chars().count() > 20);
            assert!(line.chars().count() <= usize::from(columns) || is_one_word, "{columns}: {line:?}");
        }
    }
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
    for verb_of_one in ["status", "logs", "watch", "events"] {
        for name in ["", "a b", "..", "\u{6f22}"] {
            let (code, _, err) = streams(&mut verb(&daemon, &[verb_of_one, name]));
            let is_said = err.contains(&format!("there is no agent {name:?}"));
            assert!(code == Some(4) && is_said, "{verb_of_one} {name:?}: {err}");
        }
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
    let row = ["harness", "line", "2", "\"codex\""];
    assert!(out.lines().any(|line| line.split_whitespace().eq(row)) && out.contains("A = \"[masked]\""), "{out}");
    assert!(!out.contains("hidden-value"), "{out}");
    let data: serde_json::Value = serde_json::from_str(&show(&["codex", "--json"]).1).unwrap();
    assert_eq!(data["name"], "codex");
}

#[test]
fn the_binary_writes_its_own_man_pages() {
    let setup = Setup::new();
    let folder = setup.path("home/pages");
    let (code, _, err) = streams(&mut setup.agentd(&["man", folder.to_str().unwrap()]));
    assert!(code == Some(0) && err.contains(&format!("man -M {} agentd", folder.display())), "{err}");
    // Where man looks for them.
    let daemon = fs::read_to_string(folder.join("man8/agentd.8")).unwrap();
    assert!(fs::exists(folder.join("man5/jcard.toml.5")).unwrap());
    assert!(
        fs::read_dir(folder.join("man1")).unwrap().count() > 10 && daemon.contains("EXIT STATUS OF COMMANDS"),
        "{daemon}"
    );
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

/// The screen of a terminal with so many columns after this output: a terminal breaks lines where they end. Times are all the same.
fn screen(text: &str, columns: usize) -> String {
    let is_time = |word: &&str| word.len() == 8 && word.bytes().filter(|&byte| byte == b':').count() == 2;
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').map(|word| if is_time(&word) { "12:00:00" } else { word }).collect();
        let line: Vec<char> = words.join(" ").chars().collect();
        let rows: Vec<String> = line.chunks(columns).map(|row| row.iter().collect()).collect();
        rows.join("\n") + "\n"
    };
    text.lines().map(line).collect()
}

#[test]
fn the_screens_of_logs_have_names_times_and_separators() {
    const PROMPT: &str = "I have read the parser and its tests, and propose to test what it refuses first.";
    let daemon = Setup::new().start(
        &(script("reviewer", &format!("echo '{PROMPT}'; exit 3"))
            + "restart = \"always\"\nbackoff = [\"1ms\"]\nmax_restarts = 1\n"
            + &script("dev", "echo done")),
    );
    daemon.wait_for_state("reviewer", State::Exited);
    daemon.wait_for_state("dev", State::Exited);
    let of_all_attempts = [
        "\
12:00:00 I have read the parser and its tests, and propose to test what it refus
es first.
── attempt 1 · exited 3 · 12:00:00 ──
12:00:00 I have read the parser and its tests, and propose to test what it refus
es first.
── attempt 2 · exited 3 · 12:00:00 ──
",
        "\
12:00:00 I have read the parser and its tests, and propose to test what it refuses first.
── attempt 1 · exited 3 · 12:00:00 ──
12:00:00 I have read the parser and its tests, and propose to test what it refuses first.
── attempt 2 · exited 3 · 12:00:00 ──
",
        "\
12:00:00 I have read the parser and its tests, and
 propose to test what it refuses first.
── attempt 1 · exited 3 · 12:00:00 ──
12:00:00 I have read the parser and its tests, and
 propose to test what it refuses first.
── attempt 2 · exited 3 · 12:00:00 ──
",
    ];
    let of_several = [
        "\
reviewer | I have read the parser and its tests, and propose to test what it ref
uses first.
dev      | done
",
        "\
reviewer | I have read the parser and its tests, and propose to test what it refuses first.
dev      | done
",
        "\
reviewer | I have read the parser and its tests, a
nd propose to test what it refuses first.
dev      | done
",
    ];
    let sizes = [(24, 80), (40, 120), (20, 50)];
    for (((rows, columns), attempts), several) in sizes.into_iter().zip(of_all_attempts).zip(of_several) {
        let shown = |words: &[&str]| screen(&shown(&daemon, rows, columns, words), columns.into());
        assert_eq!(shown(&["logs", "-t", "--all-attempts", "reviewer"]), attempts);
        assert_eq!(shown(&["logs", "reviewer", "dev", "REVIEWER"]), several, "each agent once");
    }
}

#[test]
fn following_a_log_over_two_daemons_repeats_no_more_than_a_moment() {
    let mut daemon =
        Setup::new().start(&script("ticker", "i=0; while :; do i=$((i+1)); echo \"tick $i\"; sleep 0.2; done"));
    daemon.wait_until_running("ticker");
    let file = daemon.path("followed");
    let out = fs::File::create(&file).unwrap();
    let mut follower = verb(&daemon, &["logs", "-f", "ticker"]).stdout(out).stderr(Stdio::piped()).spawn().unwrap();
    let ticks = || -> Vec<u32> {
        let text = fs::read_to_string(&file).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("tick ")?.parse().ok()).collect()
    };
    let newest = || ticks().into_iter().max().unwrap_or_default();
    let wait_for = |daemon: &Daemon, tick| daemon.wait("more ticks", || (newest() >= tick).then_some(()));
    wait_for(&daemon, 2);
    let mut between = Vec::new();
    for _ in 0..3 {
        let restarted = newest();
        daemon.signal(Signal::SIGKILL);
        daemon.ended();
        daemon.start_again();
        wait_for(&daemon, restarted + 25);
        between.push(restarted + 12);
    }
    follower.kill().unwrap();
    let output = follower.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("waiting for it").count(), 3, "each interruption is told: {said}");
    let ticks = ticks();
    for tick in between {
        // More than a second after one restart, and more than two before the next.
        assert_eq!(ticks.iter().filter(|&&it| it == tick).count(), 1, "tick {tick} of {ticks:?}");
    }
    let missed: Vec<u32> = (1..newest()).filter(|tick| !ticks.contains(tick)).collect();
    assert_eq!(missed, [0; 0]);
}

#[test]
fn status_and_watch_leave_the_screen_alone_if_they_show_nothing() {
    let mut daemon = start();
    let refused = |setup: &Setup, words: &[&str], expected: i32| {
        let terminal = Terminal::new();
        let mut command = verb(setup, words);
        command.env("TERM", "xterm");
        let mut running = terminal.run(command);
        let code = running.ended(setup).code();
        terminal.wait_for(setup, "agentd: ");
        assert_eq!(code, Some(expected), "{words:?}: {}", terminal.seen());
        assert!(!terminal.seen().contains("\x1b["), "{words:?}: {:?}", terminal.seen());
    };
    refused(&daemon, &["status", "-w", "nobody"], 4);
    assert!(daemon.stop().success());
    refused(&daemon, &["status", "-w"], 3);
    refused(&daemon, &["status", "-w", "sleeper"], 4);
}

#[test]
fn watched_status_says_that_nothing_has_failed() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let terminal = Terminal::new();
    let mut command = verb(&daemon, &["status", "-w", "--failed"]);
    command.env("TERM", "xterm");
    let mut running = terminal.run(command);
    terminal.wait_for(&daemon, "no agent has failed");
    running.signal(Signal::SIGINT);
    assert_eq!(running.ended(&daemon).code(), Some(0), "{}", terminal.seen());
}

/// Exit statuses of the table in the manual, and command lines that end with them while a daemon runs.
const STATUSES: [(i32, &str); 11] = [
    (
        0,
        "status; status sleeper; status s* reader; status --failed; status --check sleeper; status --json; explain sleeper; \
         explain failed --json; logs sleeper; logs sleeper reader -t; events; events sleeper; watch --once sleeper; wait failed; \
         wait sleeper --for running; show sleeper --config good.toml; check good.toml; diff good.toml --config good.toml; schema; \
         completions bash; man pages; start sleeper; stop late; start late; restart sleeper --wait; pause --all; unpause --all; \
         unpause --all; send reader hello; --help; status --help",
    ),
    (
        1,
        "check broken.toml; check absent.toml; check --strict broken.toml good.toml; diff other.toml --config good.toml; \
         show bad --config jcard.toml; man /proc/pages; init --config /proc/jcard.toml; send reader a\x1bb; start bad; \
         attach sleeper; doctor",
    ),
    (
        2,
        "check --no; diff --no; schema --no; status --no; wait --no; explain --no; watch --no; logs --no; events --no; stop --no; \
         start --no; restart --no; pause --no; unpause --no; attach --no; send --no; doctor --no; show --no; init --no; \
         completions --no; man --no; logs; logs --all sleeper; wait sleeper --for nowhere; send sleeper --keys Nonsense; \
         completions tcsh; diff broken.toml --config good.toml; diff absent.toml --config good.toml; nonsense; pause; \
         wait sleeper --exit-code --for running; status --sort nonsense; events --after nonsense",
    ),
    (3, "status failed; status sleeper failed; status f*; send failed hello; send late hello"),
    (
        4,
        "status nobody; status sleeper nobody; status n*y; explain nobody; logs nobody; logs n*y; logs late; \
         logs sleeper --attempt 9; events nobody; watch nobody; watch --once nobody; stop nobody; start nobody; restart nobody; \
         attach nobody; send nobody hello; show nobody --config good.toml; show sleeper --config absent.toml",
    ),
    (5, "status --check; status --check failed; status --check --failed; status --check bad sleeper"),
    (6, "send deaf hello"),
    (123, "wait failed --for running; start --wait bad; restart --wait bad"),
    (124, "wait sleeper --timeout 200ms"),
    (125, "wait nobody"),
    // The agent's own.
    (3, "wait failed --exit-code"),
];

/// The same while none runs.
const STATUSES_WITHOUT_DAEMON: [(i32, &str); 3] = [
    (3, "status; status --check; status --json"),
    (
        4,
        "status sleeper; status s*; explain sleeper; logs -f sleeper; logs --all; events; events -f; watch sleeper; \
         watch --once sleeper; restart sleeper; stop --wait sleeper; send sleeper hello",
    ),
    (125, "wait sleeper; wait sleeper --timeout 200ms"),
];

fn check_statuses(setup: &Setup, statuses: &[(i32, &str)]) {
    for &(expected, lines) in statuses {
        for line in lines.split("; ") {
            let words: Vec<&str> = line.split(' ').collect();
            let asks = !["check", "schema", "completions", "man", "init"].contains(&words[0]);
            let mut command = if asks { verb(setup, &words) } else { setup.agentd(&words) };
            command.current_dir(setup.dir());
            let (code, out, err) = streams(&mut command);
            assert_eq!(code, Some(expected), "agentd {line}: {out}{err}");
        }
    }
}

#[test]
fn the_table_of_exit_statuses_holds_in_every_verb() {
    let mut daemon = Setup::new().start(
        &(agent("sleeper", "print-lines 2 -- sleep inf", "")
            + &agent("failed", "exit 3", "")
            + &agent("late", "exit 0", "secrets = [\"ABSENT_KEY\"]")
            + &script("reader", "stty -echo; echo ready; while read -r line; do echo got; done")
            + &script("deaf", "stty -echo; echo ready; sleep 1000")
            + "[[agents]]\nname = \"bad\"\nharness = \"nope\"\n"),
    );
    daemon.wait_until_running("sleeper");
    daemon.wait_for_state("failed", State::Exited);
    daemon.wait_for_state("bad", State::Invalid);
    for name in ["reader", "deaf"] {
        daemon.wait_until_running(name);
        daemon.wait("it to be ready", || daemon.screen(name).contains("ready").then_some(()));
    }
    let jcard = fs::read_to_string(daemon.jcard()).unwrap();
    let good = jcard.split("[[agents]]\nname = \"bad\"").next().unwrap();
    daemon.put(&daemon.path("good.toml"), good);
    daemon.put(&daemon.path("other.toml"), good.replace("\"exit\", \"3\"", "\"exit\", \"4\""));
    daemon.put(&daemon.path("broken.toml"), "[[agents]\n");
    check_statuses(&daemon, &STATUSES);
    check_statuses(&daemon, &[(0, "stop --wait deaf; start --wait deaf")]);
    assert!(daemon.stop().success());
    check_statuses(&daemon, &STATUSES_WITHOUT_DAEMON);
}
