//! The terminal socket: operators without root attach and send, and nobody else does.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use agentd::wire::status::State;
use agentd::wire::terminal::{self, Accepted, Attach, End, HEAD, Kind, MAX_BODY, MAX_TEXT, Request, Size};
use nix::sys::signal::Signal;

use crate::attach::{Terminal, Verb, detach, listener, wait_for_client, wait_for_size};
use crate::support::{Daemon, Process, Setup, agent, as_user, binary, owner, root, run};

/// The command as that user, with the sockets given.
fn as_operator(setup: &Setup, user: &str, words: &[&str]) -> Command {
    let (api, terminal) = (setup.api_socket(), setup.terminal_socket());
    let places = ["--api-socket", api.to_str().unwrap(), "--terminal-socket", terminal.to_str().unwrap()];
    let mut command = as_user(user, &[&[binary().to_str().unwrap()], words, &places].concat());
    command.current_dir(setup.dir()).env("TERM", "xterm-256color").env("LANG", "C.UTF-8");
    command
}

fn start(jcard: &str) -> Daemon {
    let daemon = Setup::new().start(jcard);
    daemon.wait_until_running("a");
    // tmux must not take keys for a paste because they arrive faster than a person could type.
    daemon.tmux(&["set-option", "-g", "assume-paste-time", "0"]).unwrap();
    daemon
}

fn attach_at(daemon: &Daemon, terminal: &Terminal, user: &str, words: &[&str]) -> Verb {
    let verb = terminal.run(as_operator(daemon, user, &[&["attach", "a"], words].concat()));
    terminal.wait_for(daemon, "it listens");
    verb
}

#[test]
fn member_attaches_types_resizes_and_detaches_without_root() {
    if !root() {
        return;
    }
    let daemon = start(&listener("a"));
    assert_eq!(owner(&daemon.terminal_socket()), (0o660, 0, crate::support::admin_gid()));
    let mut terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, "op", &[]);
    assert!(terminal.seen().starts_with("detach with Ctrl-b d\r\n"), "{}", terminal.seen());
    assert!(!terminal.is_as_before(), "the terminal is raw");
    wait_for_size(&daemon, "80x23");
    terminal.resize(40, 132);
    wait_for_size(&daemon, "132x39");
    terminal.types("good morning\r");
    terminal.wait_for(&daemon, "it has heard");
    assert_eq!(daemon.lines("heard"), ["good morning"]);
    detach(&daemon, &mut terminal, &mut verb);
    terminal.wait_for(&daemon, "[detached (from session a)]");
    wait_for_size(&daemon, "80x24");
    assert!(daemon.agent("a").unwrap().running);
    daemon.wait("the end in the log", || daemon.log().contains("op was attached for").then_some(()));
    assert!(daemon.log().contains("op attaches, with keys"), "{}", daemon.log());
}

/// A connection of this process, which has attached and says its size as it likes.
fn attach_by_hand(daemon: &Daemon, size: Size) -> UnixStream {
    let asked = Attach {
        agent: "a".to_owned(),
        read_only: false,
        size,
        term: Some("xterm".to_owned()),
        all_colors: false,
        utf_8: true,
    };
    let mut client = UnixStream::connect(daemon.terminal_socket()).unwrap();
    client.write_all(&terminal::json(Kind::Request, &Request::Attach(asked))).unwrap();
    client
}

#[test]
fn terminal_of_absurd_size_leaves_the_tmux_server_at_work() {
    if !root() {
        return;
    }
    let daemon = start(&listener("a"));
    let size = Size { columns: u16::MAX, rows: u16::MAX };
    let client = attach_by_hand(&daemon, size);
    let mut reader = client.try_clone().unwrap();
    thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    wait_for_size(&daemon, "2000x999");
    assert_eq!(send(&daemon, "op", &["a", "still here"]).0, Some(0));
    daemon.wait_for_line("heard", "still here");
    drop(client);
}

fn send(daemon: &Setup, user: &str, words: &[&str]) -> (Option<i32>, String) {
    run(&mut as_operator(daemon, user, &[&["send"], words].concat()))
}

#[test]
fn member_sends_a_line_and_enter() {
    if !root() {
        return;
    }
    let daemon = start(&listener("a"));
    let (code, said) = send(&daemon, "op", &["A", "good morning; #{pid} grün"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    daemon.wait_for_line("heard", "good morning; #{pid} grün");
    assert!(daemon.log().contains("op sends "), "{}", daemon.log());
}

/// The tmux clients of operators.
fn tmux_clients() -> impl Iterator<Item = Process> {
    Process::all().filter(|process| {
        process.executable().is_some_and(|name| name == "tmux")
            && process.argv().iter().any(|word| word == "attach-session")
    })
}

/// Those of this daemon.
fn clients_of(daemon: &Daemon) -> Vec<Process> {
    let deputy = daemon.deputy();
    tmux_clients().filter(|process| process.ancestors().any(|ancestor| ancestor == deputy)).collect()
}

#[test]
fn killed_member_leaves_no_client_behind() {
    if !root() {
        return;
    }
    let daemon = start(&listener("a"));
    let terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, "op", &[]);
    let clients = clients_of(&daemon);
    let agent = daemon.agent_account().uid.as_raw();
    assert!(matches!(clients.as_slice(), [client] if client.acts_as() == Some(agent)), "{clients:?}");
    verb.signal(Signal::SIGKILL);
    verb.ended(&daemon);
    daemon.wait_until_gone(clients[0].0);
    wait_for_size(&daemon, "80x24");
    daemon.wait("the end in the log", || daemon.log().contains("the client has gone").then_some(()));
}

#[test]
fn signal_ends_a_members_attach_with_the_terminal_restored() {
    if !root() {
        return;
    }
    let daemon = start(&listener("a"));
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let terminal = Terminal::new();
        let mut verb = attach_at(&daemon, &terminal, "op", &[]);
        verb.signal(signal);
        let status = verb.ended(&daemon);
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal as i32));
        assert!(terminal.is_as_before(), "{signal}");
        terminal.wait_for(&daemon, "\u{1b}[?1047l");
    }
    assert!(daemon.agent("a").unwrap().running);
}

#[test]
fn members_attach_ends_with_its_agent_or_daemon() {
    if !root() {
        return;
    }
    let mut daemon = start(&(listener("a") + &listener("b")));
    let terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, "op", &[]);
    daemon.edit_jcard(&listener("b"));
    daemon.wait_until_removed("a");
    assert_eq!(verb.ended(&daemon).code(), Some(0), "{}", terminal.seen());
    assert!(terminal.is_as_before());

    daemon.wait_until_running("b");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let terminal = Terminal::new();
        let mut verb = terminal.run(as_operator(&daemon, "op", &["attach", "b"]));
        terminal.wait_for(&daemon, "it listens");
        daemon.signal(signal);
        daemon.ended();
        let code = verb.ended(&daemon).code();
        assert!(code == Some(1) || signal == Signal::SIGTERM && code == Some(0), "{code:?}: {}", terminal.seen());
        assert!(terminal.is_as_before(), "{signal}");
        daemon.start_again();
        daemon.wait_until_running("b");
    }
}

#[test]
fn window_regains_its_size_after_operators_of_two_kinds() {
    if !root() {
        return;
    }
    let daemon = start(&listener("a"));
    let (mut first, mut second, mut third) = (Terminal::new(), Terminal::new(), Terminal::new());
    first.resize(13, 50);
    second.resize(40, 132);
    third.resize(30, 200);
    let mut at_first = attach_at(&daemon, &first, "op", &[]);
    wait_for_size(&daemon, "50x12");
    let mut looks_on = attach_at(&daemon, &third, "op", &["--read-only"]);
    wait_for_client(&daemon, "200");
    wait_for_size(&daemon, "50x12");
    let mut at_second = attach_at(&daemon, &second, "root", &[]);
    wait_for_size(&daemon, "132x39");
    detach(&daemon, &mut second, &mut at_second);
    wait_for_size(&daemon, "50x12");
    detach(&daemon, &mut first, &mut at_first);
    wait_for_size(&daemon, "80x24");
    third.types("no key gets through\r");
    detach(&daemon, &mut third, &mut looks_on);
    assert_eq!(daemon.lines("heard"), [""; 0]);
    assert!(daemon.log().contains("op attaches, read-only"), "{}", daemon.log());
}

#[test]
fn strangers_and_the_agent_user_are_refused() {
    if !root() {
        return;
    }
    // The agent user is a member of this group; the socket's mode admits it.
    let daemon = Setup::new().args(["--operator-group", "crew"]).start(&listener("a"));
    daemon.wait_until_running("a");
    let warning = "the agent user agent is a member of the operators' group crew";
    assert!(daemon.log().contains(warning), "{}", daemon.log());
    let (code, said) = send(&daemon, "agent", &["a", "let me out"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("agents must not act as operators"), "{said}");
    for user in ["stranger", "op"] {
        let (code, said) = send(&daemon, user, &["a", "hello"]);
        assert_eq!(code, Some(4), "{said}");
        assert!(said.lines().any(|line| line == format!("    sudo usermod -aG crew {user}")), "{said}");
    }
    assert!(daemon.log().contains("refused a client of the terminal socket"), "{}", daemon.log());
    // Root always may.
    assert_eq!(send(&daemon, "root", &["a", "hello"]), (Some(0), String::new()));
    daemon.wait_for_line("heard", "hello");
    assert_eq!(daemon.tmux(&["list-clients"]).unwrap(), "");
}

#[test]
fn missing_agents_sessions_and_daemons_have_clear_errors() {
    if !root() {
        return;
    }
    let jcard = listener("a")
        + &agent("over", "say that is all", "restart = \"no\"")
        + &agent("late", "sleep inf", "secrets = [\"MISSING\"]");
    let mut daemon = start(&jcard);
    daemon.wait_for_state("over", State::Exited);
    daemon.wait_for_state("late", State::Waiting);
    let (code, said) = send(&daemon, "op", &["ove", "x"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("there is no such agent; did you mean over?"), "{said}");
    for (name, state) in [("over", "it has ended"), ("late", "it is waiting")] {
        let (code, said) = send(&daemon, "op", &[name, "x"]);
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains(state) && said.contains(&format!("agentd explain {name} says more")), "{said}");
    }
    let terminal = Terminal::new();
    let code = terminal.run(as_operator(&daemon, "op", &["attach", "late"])).ended(&daemon).code();
    terminal.wait_for(&daemon, "it has no session; it is waiting");
    assert_eq!(code, Some(1), "{}", terminal.seen());
    assert!(terminal.is_as_before());

    daemon.stop();
    let (code, said) = send(&daemon, "op", &["a", "x"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("agentd does not run"), "{said}");
    assert!(!daemon.terminal_socket().exists());
}

#[test]
fn folder_that_others_may_change_has_no_terminal_socket() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    fs::create_dir(setup.path("door")).unwrap();
    fs::set_permissions(setup.path("door"), fs::Permissions::from_mode(0o777)).unwrap();
    let daemon = setup.start(&listener("a"));
    daemon.wait_until_running("a");
    assert!(!daemon.terminal_socket().exists());
    assert!(daemon.log().contains("others may write in it"), "{}", daemon.log());
    let (code, said) = send(&daemon, "op", &["a", "x"]);
    assert_eq!(code, Some(4), "{said}");
}

/// A client of the socket with these rights: those of the test.
fn connect(daemon: &Setup, request: &Request) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.terminal_socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    stream.write_all(&terminal::json(Kind::Request, request)).unwrap();
    stream
}

fn attach_request() -> Request {
    let size = Size { columns: 80, rows: 24 };
    let term = Some("xterm".to_owned());
    Request::Attach(Attach { agent: "a".to_owned(), read_only: false, size, term, all_colors: false, utf_8: true })
}

fn frame(stream: &mut UnixStream) -> (Kind, Vec<u8>) {
    let mut first = [0; HEAD];
    stream.read_exact(&mut first).unwrap();
    let (kind, length) = terminal::head(first).unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (kind, body)
}

#[test]
fn flood_of_keys_costs_no_memory_and_stops_nobody() {
    if !root() {
        return;
    }
    let daemon = start(&agent("a", "raw; say it listens; sleep inf", ""));
    let mut stream = connect(&daemon, &attach_request());
    assert_eq!(frame(&mut stream).0, Kind::Accepted);
    assert_eq!(frame(&mut stream).0, Kind::Started);
    let mut reader = stream.try_clone().unwrap();
    let reading = thread::spawn(move || {
        let mut bytes = [0; 4096];
        while reader.read(&mut bytes).is_ok_and(|count| count > 0) {}
    });
    let before = daemon.deputy().resident_kib();
    let flood = terminal::frame(Kind::Bytes, &vec![b'x'; MAX_BODY]);
    let begun = std::time::Instant::now();
    let mut sent = 0;
    // A client that sends 1 GiB as fast as it can.
    while sent < 1 << 30 && begun.elapsed() < Duration::from_secs(3) {
        match stream.write_all(&flood) {
            Ok(()) => sent += MAX_BODY,
            Err(_) => break,
        }
    }
    let grown = daemon.deputy().resident_kib().saturating_sub(before);
    assert!(sent < 8 << 20, "{sent} bytes were taken");
    assert!(grown < 4 << 10, "the deputy has grown by {grown} KiB");
    let terminal = Terminal::new();
    let _verb = attach_at(&daemon, &terminal, "op", &[]);
    drop(stream.shutdown(std::net::Shutdown::Both));
    reading.join().unwrap();
}

#[test]
fn malformed_requests_are_answered_and_closed() {
    if !root() {
        return;
    }
    let daemon = start(&listener("a"));
    let long = [&b"R"[..], &u32::MAX.to_be_bytes()].concat();
    for sent in [
        b"GET / HTTP/1.1\r\n".to_vec(),
        long,
        terminal::frame(Kind::Bytes, b"x"),
        terminal::frame(Kind::Request, b"{}"),
    ] {
        let mut stream = UnixStream::connect(daemon.terminal_socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(&sent).unwrap();
        let (kind, body) = frame(&mut stream);
        let end: End = terminal::read(&body).unwrap();
        assert_eq!(kind, Kind::End);
        assert!(matches!(&end, End::Failed { message, .. } if message.contains("the client sent a frame")), "{end:?}");
    }
    assert_eq!(send(&daemon, "op", &["a", "still there"]).0, Some(0));
}

/// An agent in raw mode that has asked for bracketed paste, and shows and records what it reads.
fn reader(name: &str, asks: &str) -> String {
    let script = format!("stty raw -echo; printf '{asks}it listens'; exec tee -a @WORK/heard");
    format!(
        "[[agents]]\nname = {name:?}\nharness = \"custom\"\ncommand = \"/bin/sh\"\nworkdir = \"@WORK\"\nargs = [\"-c\", {script:?}]\n\n"
    )
}

fn send_input(daemon: &Setup, words: &[&str], input: &[u8]) -> (Option<i32>, String) {
    let file = daemon.path("input");
    fs::write(&file, input).unwrap();
    let mut command = as_operator(daemon, "op", &[&["send"], words].concat());
    run(command.stdin(Stdio::from(fs::File::open(file).unwrap())))
}

#[test]
fn text_of_several_lines_is_one_bracketed_paste() {
    if !root() {
        return;
    }
    let daemon = start(&reader("a", r"\033[?2004h"));
    daemon.wait("the program to listen", || daemon.screen("a").contains("it listens").then_some(()));
    let heard = || String::from_utf8_lossy(&fs::read(daemon.work("heard")).unwrap_or_default()).into_owned();
    let pasted = |text: &str| format!("\u{1b}[200~{text}\u{1b}[201~");
    let text = "grün; #{pid} $(id) 'x'\n\tzwei \u{273b}\n\n-l";
    let (code, said) = send_input(&daemon, &["a", "-"], format!("{text}\n").as_bytes());
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let expected = pasted(&text.replace('\n', "\r")) + "\r";
    assert_eq!(heard(), expected);
    assert_eq!(send(&daemon, "op", &["a", "x -y", "--no-enter"]).0, Some(0));
    assert_eq!(heard(), expected.clone() + &pasted("x -y"));
    // No buffer is left behind.
    assert_eq!(daemon.tmux(&["list-buffers"]).unwrap(), "");

    // The most, and one more.
    fs::write(daemon.work("heard"), "").unwrap();
    let much = "0123456789abcde\n".repeat(MAX_TEXT / 16);
    let (code, said) = send_input(&daemon, &["a", "-", "--no-enter"], much.strip_suffix('\n').unwrap().as_bytes());
    assert_eq!(code, Some(0), "{said}");
    let expected = pasted(&much.strip_suffix('\n').unwrap().replace('\n', "\r"));
    daemon.wait("all of it", || (heard().len() >= expected.len()).then_some(()));
    assert!(heard() == expected);
    let (code, said) = send_input(&daemon, &["a", "-"], format!("{much}xx").as_bytes());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the text has 131074 bytes; at most 131072"), "{said}");
    let mut endless = as_operator(&daemon, "op", &["send", "a", "-"]);
    let (code, said) = run(endless.stdin(Stdio::from(fs::File::open("/dev/zero").unwrap())));
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn escape_sequences_in_a_text_are_refused() {
    if !root() {
        return;
    }
    let daemon = start(&reader("a", r"\033[?2004h"));
    daemon.wait("the program to listen", || daemon.screen("a").contains("it listens").then_some(()));
    for (text, what) in [("x\n\u{1b}[201~rm -rf /\r", "ESC (U+001B)"), ("\u{3}", "U+0003"), ("\u{9b}", "U+009B")] {
        let (code, said) = send(&daemon, "op", &["a", text]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(what) && said.contains("--keys"), "{said}");
        // A client that does not check.
        let request = terminal::Send { agent: "a".to_owned(), keys: Vec::new(), enter: true };
        let mut stream = connect(&daemon, &Request::Send(request));
        for frame in terminal::frames(text.as_bytes()).chain([terminal::frame(Kind::End, b"")]) {
            stream.write_all(&frame).unwrap();
        }
        let end: End = terminal::read(&frame(&mut stream).1).unwrap();
        assert!(matches!(&end, End::Failed { message, .. } if message.contains(what)), "{end:?}");
    }
    for keys in ["kill-server", "C-c ;kill", "#{pid}"] {
        assert_eq!(send(&daemon, "op", &["a", "--keys", keys]).0, Some(2));
        let words = keys.split(' ').map(str::to_owned).collect();
        let request = terminal::Send { agent: "a".to_owned(), keys: words, enter: true };
        let end: End = terminal::read(&frame(&mut connect(&daemon, &Request::Send(request))).1).unwrap();
        assert!(matches!(&end, End::Failed { message, .. } if message.contains("not the name of a key")), "{end:?}");
    }
    assert!(!daemon.work("heard").exists() || daemon.lines("heard").is_empty());
}

#[test]
fn keys_reach_the_program_even_in_copy_mode() {
    if !root() {
        return;
    }
    let daemon = start(&reader("a", ""));
    daemon.wait("the program to listen", || daemon.screen("a").contains("it listens").then_some(()));
    let heard = || fs::read(daemon.work("heard")).unwrap_or_default();
    daemon.tmux(&["copy-mode", "-t", "=a:"]).unwrap();
    let (code, said) = send(&daemon, "op", &["a", "--keys", "y ; C-c Up Enter"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    daemon.wait("the keys", || (heard() == b"y;\x03\x1b[A\r").then_some(()));
    // Text of one that takes keys would be commands.
    let (code, said) = send(&daemon, "op", &["a", "quit"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("raw mode") && said.contains("--keys"), "{said}");
}

#[test]
fn line_reader_in_copy_mode_gets_each_line() {
    if !root() {
        return;
    }
    let daemon = start(&agent(
        "a",
        "say it listens; read-line @WORK/heard; read-line @WORK/heard; say it has heard; sleep inf",
        "",
    ));
    daemon.wait("the program to listen", || daemon.screen("a").contains("it listens").then_some(()));
    daemon.tmux(&["copy-mode", "-t", "=a:"]).unwrap();
    assert_eq!(send_input(&daemon, &["a", "-"], b"one\r\ntwo\r\n"), (Some(0), String::new()));
    daemon.wait("both lines", || (daemon.lines("heard") == ["one", "two"]).then_some(()));
    let (code, said) = send_input(&daemon, &["a", "-"], &[b'x'; 5000]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("4,095 bytes"), "{said}");
}

#[test]
fn text_that_changes_nothing_is_unconfirmed() {
    if !root() {
        return;
    }
    let script = "stty -echo; echo it listens; exec sleep 1000";
    let daemon = start(&format!(
        "[[agents]]\nname = \"a\"\nharness = \"custom\"\ncommand = \"/bin/sh\"\nworkdir = \"@WORK\"\nargs = [\"-c\", {script:?}]\n"
    ));
    daemon.wait("the program to listen", || daemon.screen("a").contains("it listens").then_some(()));
    let (code, said) = send(&daemon, "op", &["a", "anybody there?"]);
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("its screen did not change; agentd watch a shows it"), "{said}");
}

#[test]
fn nothing_is_sent_to_a_shell_beside_a_dead_agent() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "say it listens; wait-for @WORK/end", "restart = \"no\""));
    daemon.wait_until_running("a");
    let terminal = Terminal::new();
    let _verb = attach_at(&daemon, &terminal, "op", &[]);
    fs::write(daemon.work("end"), "").unwrap();
    daemon.wait_for_state("a", State::Exited);
    daemon
        .wait("the shell", || (daemon.tmux(&["list-panes", "-t", "=a:"]).unwrap().lines().count() == 2).then_some(()));
    let (code, said) = send(&daemon, "op", &["a", "touch wrong"]);
    assert_eq!(code, Some(3), "{said}");
    let (code, said) = send(&daemon, "root", &["a", "--keys", "Enter"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(!daemon.work("wrong").exists());
}

#[test]
fn texts_of_two_operators_do_not_mix() {
    if !root() {
        return;
    }
    let daemon = start(&reader("a", r"\033[?2004h"));
    daemon.wait("the program to listen", || daemon.screen("a").contains("it listens").then_some(()));
    let text = |letter: &str| letter.repeat(2000);
    thread::scope(|scope| {
        for (user, letter) in [("op", "a"), ("root", "b"), ("op", "c")] {
            let daemon = &daemon;
            scope.spawn(move || assert_eq!(send(daemon, user, &["a", &text(letter)]).0, Some(0)));
        }
    });
    let heard = String::from_utf8_lossy(&fs::read(daemon.work("heard")).unwrap()).into_owned();
    for letter in ["a", "b", "c"] {
        assert!(heard.contains(&format!("\u{1b}[200~{}\u{1b}[201~\r", text(letter))), "{letter}");
    }
}

/// A daemon that is not one: it accepts an attachment, and then sends this.
fn imposter(setup: &Setup, frames: Vec<Vec<u8>>) -> thread::JoinHandle<()> {
    fs::create_dir_all(setup.path("door")).unwrap();
    let _ = fs::remove_file(setup.terminal_socket());
    let listener = UnixListener::bind(setup.terminal_socket()).unwrap();
    fs::set_permissions(setup.terminal_socket(), fs::Permissions::from_mode(0o666)).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert_eq!(frame(&mut stream).0, Kind::Request);
        for frame in frames {
            // A client that has seen enough hangs up.
            let _ = stream.write_all(&frame);
        }
    })
}

#[test]
fn client_trusts_nothing_that_a_relay_says() {
    if !root() {
        return;
    }
    let mut daemon = start(&listener("a"));
    let accepted = || {
        terminal::json(Kind::Accepted, &Accepted { agent: "a".into(), prefix: Some("Ctrl-b\u{1b}]52;c;x\u{7}".into()) })
    };
    let started = || terminal::frame(Kind::Started, b"xterm");
    let evil =
        "\u{1b}]52;c;aGk=\u{7}\u{1b}Pq#0\u{1b}\\\u{1b}_x\u{1b}\\\u{1b}]0;title\u{7}\u{1b}[21t\u{1b}[?1000hvisible";
    let bytes = || terminal::frame(Kind::Bytes, evil.as_bytes());
    let end = |message: &str| {
        terminal::json(Kind::End, &End::Failed { why: terminal::Why::Other, message: message.to_owned() })
    };
    let too_long = || [&b"B"[..], &u32::MAX.to_be_bytes()].concat();
    // The API stays, the terminal socket is replaced.
    for (frames, said) in [
        (vec![accepted(), started(), bytes(), end("\u{1b}]52;c;x\u{7}no")], "no"),
        (vec![accepted(), started(), bytes(), too_long()], "the other side sent a frame of 4294967295 bytes"),
        (vec![accepted(), started(), bytes(), terminal::frame(Kind::Request, b"{}")], "a frame that is not understood"),
        (vec![accepted(), started(), bytes()], "the connection to agentd broke"),
        (vec![accepted(), terminal::frame(Kind::Started, b"\x1b]52;c;x\x07")], "a frame that is not understood"),
        (vec![terminal::frame(Kind::Bytes, evil.as_bytes())], "a frame that is not understood"),
    ] {
        let shows = frames.len() > 2;
        let imposter = imposter(&daemon, frames);
        let terminal = Terminal::new();
        let mut verb = terminal.run(as_operator(&daemon, "op", &["attach", "a"]));
        assert_eq!(verb.ended(&daemon).code(), Some(1), "{}", terminal.seen());
        imposter.join().unwrap();
        terminal.wait_for(&daemon, said);
        let seen = terminal.seen();
        assert!(!shows || seen.contains("visible") && seen.contains("\u{1b}[?1000l"), "{seen:?}");
        for forbidden in ["\u{1b}]52", "\u{1b}P", "\u{1b}_", "\u{1b}]0;", "\u{1b}[21t", "title"] {
            assert!(!seen.contains(forbidden), "{forbidden:?}: {seen:?}");
        }
        assert!(terminal.is_as_before());
    }
    daemon.stop();
}
