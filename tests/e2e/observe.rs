//! What operators see without tmux: screens and events.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use agentd::wire::events::{Change, Course, Event, Subject, What};
use agentd::wire::status::{ScreenShown, State};
use nix::sys::signal::Signal;

use crate::support::{BOUND, Daemon, Setup, account, agent, as_user, binary, give, is_root, root, run};

/// The command as an operator gives it: as `op`, a member of `admin`, if the tests can switch users.
fn verb(setup: &Setup, words: &[&str]) -> Command {
    let socket = setup.api_socket();
    let argv = [&[binary().to_str().unwrap()], words, &["--api-socket", socket.to_str().unwrap()]].concat();
    as_user("op", &argv)
}

fn told(setup: &Setup, words: &[&str]) -> String {
    let (code, said) = run(&mut verb(setup, words));
    assert_eq!(code, Some(0), "{said}");
    said
}

/// A command that keeps running, line by line.
struct Following {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    fn start(setup: &Setup, words: &[&str]) -> Self {
        let stderr = File::create(setup.path("said")).unwrap();
        let mut child = verb(setup, words).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                if sender.send(line.unwrap() + "\n").is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn next(&mut self) -> String {
        self.lines.recv_timeout(BOUND).expect("another line, in time")
    }

    /// The next event that meets the condition.
    fn next_event(&mut self, is_meant: impl Fn(&What) -> bool) -> What {
        loop {
            let line = self.next();
            let event: Event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if is_meant(&event.what) {
                return event.what;
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn states(events: &[Event], name: &str) -> Vec<State> {
    let state = |event: &Event| match &event.what {
        What::State { name: of, agent, .. } if of == name => Some(agent.state),
        _ => None,
    };
    events.iter().filter_map(state).collect()
}

fn events(setup: &Setup, words: &[&str]) -> Vec<Event> {
    let said = told(setup, &[&["events", "--json"], words].concat());
    said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn every_state_is_an_event_however_short_it_is() {
    let daemon =
        Setup::new().start(&agent("a", "exit 3", "restart = \"always\"\nbackoff = [\"1ms\"]\nmax_restarts = 2"));
    daemon.wait_for_state("a", State::Exited);
    let all = events(&daemon, &[]);
    let attempt = [State::Starting, State::Running];
    let again = [State::Backoff, State::Starting, State::Running];
    let expected = [&attempt[..], &again, &again, &[State::Exited]].concat();
    assert_eq!(states(&all, "a"), expected, "{all:#?}");
    assert!(matches!(&all[0].what, What::Daemon { state: Course::Started, .. }), "{:?}", all[0]);
    let is_declared = |event: &Event| matches!(&event.what, What::Declaration { change: Change::Added, .. });
    assert_eq!(all.iter().filter(|event| is_declared(event)).count(), 1, "{all:#?}");
    let ids: Vec<u64> =
        all.iter().map(|event| event.id.to_string().rsplit_once('-').unwrap().1.parse().unwrap()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
    let half = all[all.len() / 2].id.to_string();
    assert_eq!(events(&daemon, &["--after", &half]).len(), all.len() - all.len() / 2 - 1);

    let said = told(&daemon, &["events", "A"]);
    assert!(said.contains(" a: running → backoff, attempt 1: exited with status 3"), "{said}");
    assert!(!said.contains('\u{1b}'));
}

#[test]
fn edits_and_errors_are_events_as_they_come_and_go() {
    let daemon = Setup::new().start(&(agent("a", "sleep inf", "") + &agent("b", "sleep inf", "")));
    daemon.wait_until_running("a");
    daemon.wait_until_running("b");
    let mut following = Following::start(&daemon, &["events", "-f", "--json"]);
    let declared = |what: &What, wanted: Change| matches!(what, What::Declaration { change, .. } if *change == wanted);
    following.next_event(|what| declared(what, Change::Added));

    daemon.edit_jcard(&(agent("a", "sleep inf", "grace_period = \"7s\"") + &agent("b", "sleep inf", "")));
    let changed = following.next_event(|what| declared(what, Change::Changed));
    assert_eq!(changed.agent(), Some("a"));
    daemon.edit_jcard("this is no TOML");
    let error = following.next_event(|what| matches!(what, What::Error { .. }));
    assert!(
        matches!(&error, What::Error { about: Subject::Config, error, .. } if error.contains("jcard.toml:1:6")),
        "{error:?}"
    );
    daemon.edit_jcard(&agent("b", "sleep inf", ""));
    following.next_event(|what| *what == What::Resolved { about: Subject::Config, name: None });
    let gone = following.next_event(|what| matches!(what, What::Removed { .. }));
    assert_eq!(gone, What::Removed { name: "a".to_owned() });
}

#[test]
fn an_event_follower_outlasts_the_daemon_and_sees_adoption() {
    let mut daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    let mut following = Following::start(&daemon, &["events", "a", "--follow", "--json"]);
    following.next_event(|what| matches!(what, What::State { agent, .. } if agent.state == State::Running));
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    following.next_event(|what| *what == What::Missed {});
    let adopted = following.next_event(|what| matches!(what, What::Adopted { .. }));
    assert!(matches!(&adopted, What::Adopted { agent, .. } if agent.pid == Some(pid)), "{adopted:?}");
    daemon.signal(Signal::SIGTERM);
    let stops = following.next_event(|what| matches!(what, What::Daemon { .. }));
    assert!(matches!(stops, What::Daemon { state: Course::Stopping, .. }));
    daemon.ended();
}

fn screen(daemon: &Daemon, path: &str) -> Vec<String> {
    let response = daemon.get(path);
    assert_eq!(response.status, 200, "{}", response.body);
    response.body.lines().map(str::to_owned).collect()
}

#[test]
fn the_screen_is_what_an_operator_sees_with_secrets_redacted() {
    let setup = Setup::new();
    setup.secret("API_KEY", "sk-0123456789abcdef");
    let script = "say key=sk-0123456789abcdef -- say next".replace(" -- ", ";");
    let daemon = setup.start(&agent("a", &format!("{script};sleep inf"), ""));
    daemon.wait_until_running("a");
    let seen = daemon.wait("its arguments", || {
        let rows = screen(&daemon, "/v1/agents/A/screen");
        rows.contains(&"next".to_owned()).then_some(rows)
    });
    assert_eq!(seen, ["key=********", "next"]);
    let response =
        daemon.request("GET /v1/agents/a/screen HTTP/1.1\r\nAccept: text/x-ansi\r\nConnection: close\r\n\r\n");
    assert_eq!(response.header("content-type"), Some("text/x-ansi"));
    assert_eq!(told(&daemon, &["watch", "a"]), "key=********\nnext\n");
    let shown: ScreenShown = serde_json::from_str(&told(&daemon, &["watch", "a", "--json"])).unwrap();
    assert_eq!(shown.text, "key=********\nnext\n");
    // Also for an agent that this daemon did not launch.
    let mut daemon = daemon;
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    daemon.wait_until_running("a");
    daemon.wait("the screen", || (screen(&daemon, "/v1/agents/a/screen") == seen).then_some(()));
}

#[test]
fn the_screen_keeps_colors_on_request_but_no_other_sequences() {
    let script = r"say \e]0;title\a\e[31mred\e[0m".replace(r"\e", "\u{1b}").replace(r"\a", "\u{7}");
    let jcard = agent("a", "sleep inf", "")
        .replace("\"sleep\"", &format!("{:?}, {:?}, \"--\", \"sleep\"", "say", &script[4..]));
    let jcard = jcard.replace("\\u{1b}", "\\u001b").replace("\\u{7}", "\\u0007");
    let daemon = Setup::new().start(&jcard);
    daemon.wait_until_running("a");
    let plain = daemon.wait("its output", || {
        let rows = screen(&daemon, "/v1/agents/a/screen");
        (!rows.is_empty()).then_some(rows)
    });
    assert_eq!(plain, ["red"]);
    let colored = screen(&daemon, "/v1/agents/a/screen?colors=true");
    assert!(colored[0].contains("\u{1b}[31mred") && !colored[0].contains("title"), "{colored:?}");
}

#[test]
fn the_screen_is_followed_until_its_agent_is_removed() {
    let daemon = Setup::new().start(&agent("a", "say one;wait-for @WORK/go;say two;sleep inf", ""));
    daemon.wait_until_running("a");
    let mut following = Following::start(&daemon, &["watch", "a", "--follow", "--json"]);
    let mut next_that_ends_with = |end: &str| loop {
        let shown: ScreenShown = serde_json::from_str(&following.next()).unwrap();
        if shown.text.ends_with(end) {
            return;
        }
    };
    next_that_ends_with("one\n");
    daemon.put(&daemon.work("go"), "");
    next_that_ends_with("two\n");
    daemon.edit_jcard(&agent("b", "sleep inf", ""));
    let status = daemon.wait("its end", || following.child.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn a_connection_is_closed_once_its_client_is_gone() {
    let daemon = Setup::new().start(&agent("a", "say one;sleep inf", ""));
    daemon.wait_until_running("a");
    let connections = || -> BTreeSet<PathBuf> {
        let links = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().flatten();
        links
            .filter_map(|link| fs::read_link(link.path()).ok())
            .filter(|to| to.to_string_lossy().starts_with("socket:"))
            .collect()
    };
    // Connections of earlier requests may close only now.
    let before = connections();
    let mut following = Following::start(&daemon, &["watch", "a", "--follow", "--json"]);
    following.next();
    let its: BTreeSet<_> = connections().difference(&before).cloned().collect();
    assert!(!its.is_empty());
    drop(following);
    daemon.wait("the connection to be closed", || connections().is_disjoint(&its).then_some(()));
}

#[test]
fn watch_says_why_a_screen_cannot_be_shown() {
    let daemon = Setup::new().start(&(agent("a", "sleep inf", "secrets = [\"KEY\"]") + &agent("b", "exit 0", "")));
    daemon.wait_for_state("a", State::Waiting);
    let response = daemon.get("/v1/agents/a/screen");
    assert_eq!(response.status, 503);
    assert!(response.body.contains("has no session: the secret KEY"), "{}", response.body);
    for words in [&["watch", "nobody"][..], &["watch", "nobody", "--follow"]] {
        let (code, said) = run(&mut verb(&daemon, words));
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("there is no agent \"nobody\""), "{said}");
    }
    assert_eq!(daemon.get("/v1/agents/nobody/screen").status, 404);
}

#[test]
fn the_log_is_served_as_plain_text_or_raw() {
    let setup = Setup::new();
    setup.secret("API_KEY", "sk-0123456789abcdef");
    let script = r"printf 'one\n\033[31mtwo\033[0m %s\nthree' sk-0123456789abcdef; exit 4";
    let daemon = setup.start(&scripted(script, ""));
    daemon.wait_for_state("a", State::Exited);
    assert_eq!(told(&daemon, &["logs", "A"]), "one\ntwo ********\nthree");
    assert_eq!(told(&daemon, &["logs", "a", "--raw"]), "one\r\n\u{1b}[31mtwo\u{1b}[0m ********           \r\nthree");
    assert_eq!(told(&daemon, &["logs", "a", "-n", "1"]), "three");
    assert_eq!(told(&daemon, &["logs", "a", "--since", "1h"]), "one\ntwo ********\nthree");
    assert_eq!(told(&daemon, &["logs", "a", "--since", "2126-01-01T00:00:00Z"]), "");
    let json = told(&daemon, &["logs", "a", "--json"]);
    assert_eq!(json, "{\"text\":\"one\"}\n{\"text\":\"two ********\"}\n{\"text\":\"three\"}\n");
    let response = daemon.get("/v1/agents/a/log?lines=1");
    assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(response.body.contains("three") && !response.body.contains("two"), "{}", response.body);
}

#[test]
fn the_plain_log_reads_like_the_terminal() {
    let script = concat!(
        r"printf 'Quick\033[1Csafety\033[1Ccheck\n\033[10;5Hrow ten\033[12;5Hrow twelve\n';",
        r"printf 'one\033[2K\033[1Gtwo\n\033]0;half a title\n\302\2332;31mred \302\2350;title\302\234text \233\061m\342\200\256.\n'",
    );
    let daemon = Setup::new().start(&scripted(script, ""));
    daemon.wait_for_state("a", State::Exited);
    let gap = "\n".repeat(8);
    let expected = format!("Quick safety check\n{gap}    row ten\n\n    row twelve\ntwo\n\nred text .\n");
    assert_eq!(told(&daemon, &["logs", "a"]), expected);
    assert_eq!(told(&daemon, &["logs", "a", "-n", "2"]), "\nred text .\n");
    let body = daemon.get("/v1/agents/a/log").body;
    assert!(body.contains("    row ten\n\n    row twelve\ntwo\n\nred text .\n"), "{body}");
    assert_eq!(told(&daemon, &["logs", "a", "--json", "-n", "1"]), "{\"text\":\"red text .\"}\n");
}

#[test]
fn a_secret_is_shown_nowhere_however_it_is_printed() {
    const KEY: &str =
        "sk-ant-api03-Zq8vXw2LkT0pYcRb7NfHd5JmGs3QaUeWiOx9VtBy1KzCl6MnPr4EoFgIhDjSuAvXqW0zEyRxTcYvUbInOmPaLsKdJfHgQ";
    let setup = Setup::new();
    setup.secret("API_KEY", KEY);
    let script = format!(
        r#"printf '{}\033[0m{}\n'; k={KEY}; for at in 0 30 60 90; do printf '  \342\224\202 %-30s \342\224\202\n' "${{k:$at:30}}"; done; printf done; sleep inf"#,
        &KEY[..20],
        &KEY[20..]
    );
    let daemon = setup.start(&scripted(&script, ""));
    daemon.wait_until_running("a");
    let mut screen = String::new();
    daemon.wait("its last output", || {
        screen = told(&daemon, &["watch", "a", "--once"]);
        screen.contains("done").then_some(())
    });
    for shown in [
        screen,
        told(&daemon, &["logs", "a"]),
        told(&daemon, &["logs", "a", "--json"]),
        daemon.get("/v1/agents/a/log").body,
        daemon.get("/v1/agents/a/screen").body,
    ] {
        assert!(shown.contains("done") && shown.contains("********"), "{shown}");
        let shown: String =
            shown.chars().filter(|&character| agentd::text::redact::is_significant(character)).collect();
        for at in 0..KEY.len() - 16 {
            assert!(!shown.contains(&KEY[at..at + 16]), "{at}: {shown}");
        }
    }
}

#[test]
fn a_secret_that_is_not_utf8_is_shown_on_no_screen() {
    let setup = Setup::new();
    setup.secret("S", b"hunter\xff22x7");
    let daemon = setup.start(&scripted(r#"printf 'K=%s;\ndone\n' "$S"; sleep inf"#, ""));
    daemon.wait_until_running("a");
    let seen = daemon.wait("its last output", || {
        let rows = screen(&daemon, "/v1/agents/a/screen");
        rows.contains(&"done".to_owned()).then_some(rows)
    });
    // Some versions of tmux show nothing for the byte that is not UTF-8, others a character that stands for it.
    let masked = ["K=**********;", "K=********  ;"];
    let without = seen[0].replace(char::REPLACEMENT_CHARACTER, "");
    assert!(masked.contains(&without.as_str()), "{without}");
    let watched = told(&daemon, &["watch", "a", "--once"]);
    assert_eq!(watched.replace(char::REPLACEMENT_CHARACTER, ""), format!("{without}\ndone\n"));
    assert_eq!(told(&daemon, &["logs", "a"]), "K=********   ;\ndone\n");
}

#[test]
fn nothing_is_shown_while_the_secrets_are_unknown() {
    const KEY: &str = "sk-ant-api03-Zq8vXw2LkT0pYcRb7NfHd5JmGs3Q";
    let setup = Setup::new().args(["--resync", "200ms", "--settle", "20ms"]);
    setup.secret("API_KEY", KEY);
    let script = r#"echo "${API_KEY:0:20} ${API_KEY:20}"; echo done; sleep inf"#;
    let mut daemon = setup.start(&scripted(script, ""));
    let pid = daemon.wait_until_running("a");
    let (secrets, away) = (daemon.path("secrets"), daemon.path("away"));
    let shown_to = |daemon: &Daemon| {
        daemon.wait("the agent to be shown without its secret", || {
            let shown =
                [["watch", "a", "--once"].as_slice(), &["logs", "a"]].map(|words| run(&mut verb(daemon, words)));
            let is_shown = |said: &str| said.contains("done") && said.contains("********             ********");
            shown.iter().all(|(code, said)| *code == Some(0) && is_shown(said)).then_some(())
        });
    };
    shown_to(&daemon);
    daemon.kill();
    fs::rename(&secrets, &away).unwrap();
    daemon.start_again();
    assert_eq!(daemon.wait_until_running("a"), pid);
    for what in ["screen", "log"] {
        let response = daemon.get(&format!("/v1/agents/a/{what}"));
        assert_eq!(response.status, 503, "{}", response.body);
        assert!(response.body.contains("not been able to read all of them (their directory is not there)"));
    }
    for words in [&["watch", "a", "--once"][..], &["logs", "a"], &["logs", "a", "--json"]] {
        let (code, said) = run(&mut verb(&daemon, words));
        assert!(code != Some(0) && said.contains("could not be redacted"), "{words:?}: {code:?} {said}");
        assert!(!said.contains(&KEY[..16]), "{said}");
    }
    assert!(told(&daemon, &["logs", "a", "--raw"]).contains("done"));
    fs::rename(&away, &secrets).unwrap();
    shown_to(&daemon);
    assert_eq!(daemon.wait_until_running("a"), pid);
    // The daemon keeps what it once knew.
    fs::rename(&secrets, &away).unwrap();
    daemon.wait("secrets_error", || daemon.health().secrets_error);
    shown_to(&daemon);
}

#[test]
fn an_agent_without_secrets_is_shown_without_their_directory() {
    let setup = Setup::new();
    fs::remove_dir_all(setup.path("secrets")).unwrap();
    let mut daemon = setup.start(&scripted("echo done; sleep inf", ""));
    daemon.wait_until_running("a");
    let is_shown = |daemon: &Daemon| {
        for words in [&["watch", "a", "--once"][..], &["logs", "a"]] {
            daemon.wait("its output", || told(daemon, words).contains("done").then_some(()));
        }
    };
    is_shown(&daemon);
    daemon.kill_and_start_again();
    is_shown(&daemon);
}

#[test]
fn the_plain_log_follows_the_size_of_the_terminal() {
    let script = r"stty size; printf '\033[999;1Hlast row'; read -r";
    let daemon = Setup::new().start(&scripted(script, ""));
    daemon.wait_until_running("a");
    let mut text = String::new();
    daemon.wait("its last row", || {
        text = told(&daemon, &["logs", "a"]);
        text.contains("last row").then_some(())
    });
    let rows: usize = text.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(text.lines().count(), rows, "{text}");
}

#[test]
fn plain_text_is_available_again_after_its_process_ends() {
    let daemon = Setup::new().start(&scripted("echo one; sleep inf", ""));
    daemon.wait_until_running("a");
    daemon.wait("its line", || (told(&daemon, &["logs", "a"]) == "one\n").then_some(()));
    daemon.deputy().signal(Signal::SIGKILL);
    daemon.wait("another", || {
        let (code, said) = run(&mut verb(&daemon, &["logs", "a"]));
        (code == Some(0) && said == "one\n").then_some(())
    });
}

/// An agent that runs a line of bash.
fn scripted(script: &str, more: &str) -> String {
    agent("a", "exit 0", more).replace("\"@HARNESS\"", &format!("[\"bash\", \"-c\", '''{script}''']"))
}

/// An agent that prints the number of its start, and exits with status 1.
fn counting(more: &str) -> String {
    scripted("echo x >>@WORK/starts; echo start $(wc -l <@WORK/starts); exit 1", more)
}

#[test]
fn each_attempt_has_its_own_log_across_daemons_and_edits() {
    let mut daemon = Setup::new().start(&counting("restart = \"on-failure\"\nmax_restarts = 2\nbackoff = [\"1ms\"]"));
    daemon.wait_for_state("a", State::Exited);
    assert_eq!(told(&daemon, &["logs", "a"]), "start 3\n");
    assert_eq!(told(&daemon, &["logs", "a", "--previous"]), "start 2\n");
    assert_eq!(told(&daemon, &["logs", "a", "--attempt", "1"]), "start 1\n");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    assert_eq!(told(&daemon, &["logs", "a", "--attempt", "1"]), "start 1\n");
    daemon.edit_jcard(&counting("env = { MORE = \"1\" }"));
    daemon.wait_until("a", "its fourth start to be over", |agent| {
        agent.attempt == Some(1) && agent.state == State::Exited
    });
    assert_eq!(told(&daemon, &["logs", "a", "--attempt", "1"]), "start 1\n", "numbers go on over edits");
    assert_eq!(told(&daemon, &["logs", "a", "--attempt", "4"]), "start 4\n");
    assert_eq!(daemon.agent("a").unwrap().attempt_total, Some(4));
    assert_eq!(told(&daemon, &["logs", "a", "--previous"]), "start 3\n");
    let (code, said) = run(&mut verb(&daemon, &["logs", "a", "--attempt", "9"]));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("nothing is kept of attempt 9; kept: attempts 1, 2, 3, 4"), "{said}");
    assert_eq!(told(&daemon, &["logs", "a", "--attempt", "1-1"]), "start 1\n", "as its file is named");
    daemon.edit_jcard(&agent("b", "sleep inf", ""));
    daemon.wait_until_removed("a");
    assert_eq!(told(&daemon, &["logs", "a"]), "start 4\n", "the log stays although the agent is no longer declared");
}

#[test]
fn a_log_is_followed_through_restarts_until_the_agent_is_over() {
    let script = "say begin;wait-for @WORK/go;say end;exit 1";
    let policy = "restart = \"always\"\nmax_restarts = 1\nbackoff = [\"1ms\"]";
    let daemon = Setup::new().start(&agent("a", script, policy));
    daemon.wait_until_running("a");
    let mut following = Following::start(&daemon, &["logs", "a", "-f"]);
    assert_eq!(following.next(), "begin\n");
    daemon.put(&daemon.work("go"), "");
    let expected = ["end\n", "begin\n", "end\n"];
    assert_eq!(expected.map(|_| following.next()), expected);
    let status = daemon.wait("its end", || following.child.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn a_log_is_followed_through_a_restart_of_the_daemon() {
    let mut daemon = Setup::new().start(&agent("a", "say begin;wait-for @WORK/go;say more;sleep inf", ""));
    daemon.wait_until_running("a");
    let mut following = Following::start(&daemon, &["logs", "a", "-f"]);
    assert_eq!(following.next(), "begin\n");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.put(&daemon.work("go"), "");
    daemon.start_again();
    while following.next() != "more\n" {}
}

#[test]
fn a_missing_log_is_reported_as_missing() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", "secrets = [\"KEY\"]"));
    daemon.wait_for_state("a", State::Waiting);
    for (name, why) in [
        ("a", "a has printed nothing yet: the secret KEY is not in the secrets directory"),
        ("nobody", "there is no agent \"nobody\""),
    ] {
        let (code, said) = run(&mut verb(&daemon, &["logs", name]));
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains(why) && !said.contains("/v1/"), "{said}");
    }
    for name in ["..", "a%2F..%2F..", "a%00"] {
        assert_eq!(daemon.get(&format!("/v1/agents/{name}/log")).status, 404, "{name}");
    }
}

#[test]
fn screens_logs_and_events_are_for_administrators() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let socket = daemon.api_socket();
    for words in [&["events"][..], &["watch", "a"], &["logs", "a"]] {
        for user in ["stranger", "agent"] {
            let argv = [&[binary().to_str().unwrap()], words, &["--api-socket", socket.to_str().unwrap()]].concat();
            let (code, said) = run(&mut as_user(user, &argv));
            assert_eq!(code, Some(4), "{user} {said}");
            assert!(said.contains("permission denied"), "{user} {said}");
        }
    }
}

/// An operator's terminal: another tmux server, whose pane runs a command.
struct Terminal<'a> {
    setup: &'a Setup,
    socket: String,
}

impl<'a> Terminal<'a> {
    fn start(setup: &'a Setup, columns: u16, rows: u16, command: &str) -> Self {
        let folder = setup.path("operator");
        fs::create_dir(&folder).unwrap();
        if is_root() {
            give(&folder, &account("op"));
        }
        let terminal = Self { setup, socket: folder.join("tmux.sock").display().to_string() };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &rows, command]);
        terminal
    }

    fn tmux(&self, words: &[&str]) -> String {
        let argv = [&["tmux", "-S", &self.socket], words].concat();
        let (code, said) = run(&mut as_user("op", &argv));
        assert_eq!(code, Some(0), "tmux {words:?}: {said}");
        said
    }

    fn rows(&self) -> Vec<String> {
        self.tmux(&["capture-pane", "-p"]).lines().map(str::to_owned).collect()
    }

    fn wait_for(&self, what: &str, is_there: impl Fn(&[String]) -> bool) {
        self.setup.wait(what, || Some(self.rows()).filter(|rows| is_there(rows)));
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.tmux(&["kill-server"]);
        }
    }
}

#[test]
fn watch_follows_the_terminals_size_and_restores_the_terminal() {
    let daemon = Setup::new().start(&agent("a", "print-lines 30;wait-for @WORK/go;say more;sleep inf", ""));
    daemon.wait_until_running("a");
    let watch = format!("{} watch a --api-socket {}", binary().display(), daemon.api_socket().display());
    let command = format!(
        "stty -a >{dir}/before; echo shell; {watch}; stty -a >{dir}/after; echo back; exec sleep 1000",
        dir = daemon.path("operator").display()
    );
    let terminal = Terminal::start(&daemon, 60, 10, &command);
    terminal.wait_for("the last rows and the line below", |rows| {
        rows.get(8).is_some_and(|row| row == "line 30")
            && rows.get(9).is_some_and(|row| row.starts_with("agentd watch a"))
    });
    terminal.tmux(&["resize-window", "-x", "40", "-y", "6"]);
    terminal.wait_for("fewer rows", |rows| {
        rows.get(4).is_some_and(|row| row == "line 30")
            && rows.get(5).is_some_and(|row| row.starts_with("agentd watch a"))
    });
    daemon.put(&daemon.work("go"), "");
    terminal.wait_for("what comes", |rows| rows.get(4).is_some_and(|row| row == "more"));
    terminal.tmux(&["send-keys", "C-c"]);
    terminal.wait_for("the terminal as it was", |rows| rows[..2] == ["shell", "back"]);
    let stty = |name: &str| {
        let text = fs::read_to_string(daemon.path("operator").join(name)).unwrap();
        // Another client has changed the size.
        text.split_once(';').unwrap().1.split_once("columns").unwrap().1.split_once(';').unwrap().1.to_owned()
    };
    assert_eq!(stty("before"), stty("after"));
}
