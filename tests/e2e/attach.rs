//! `agentd attach` at a terminal: who may use it, what passes through, and how it ends.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use agentd::wire::status::State;
use nix::sys::signal::Signal;
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::ttyname;
use pty_process::Size;
use pty_process::blocking::{Pts, Pty, open};

use crate::support::{Daemon, Process, Setup, account, agent, as_user, binary, is_root, owner, root, run};
use crate::tmux::{put_tmux, with_own_tmux};

/// The keys that detach, with the default prefix of tmux.
const DETACH: &str = "\u{2}d";

/// The operator's terminal, which outlives the programs that run on it.
pub struct Terminal {
    pty: Pty,
    pts: Pts,
    seen: Arc<Mutex<Vec<u8>>>,
    before: Termios,
}

impl Terminal {
    pub fn new() -> Self {
        let (pty, pts) = open().unwrap();
        pty.resize(Size::new(24, 80)).unwrap();
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let mut screen = fs::File::from(copy(&pty));
        let shown = Arc::clone(&seen);
        // This ends when no process holds the other side.
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                shown.lock().unwrap().extend(&bytes[..count]);
            }
        });
        let before = tcgetattr(&pts).unwrap();
        Self { pty, pts, seen, before }
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        self.pty.resize(Size::new(rows, columns)).unwrap();
    }

    pub fn types(&mut self, keys: &str) {
        self.pty.write_all(keys.as_bytes()).unwrap();
    }

    /// Everything that the terminal has ever shown.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    pub fn wait_for(&self, setup: &Setup, text: &str) {
        setup.wait(&format!("{text:?} on the terminal"), || self.seen().contains(text).then_some(()));
    }

    /// Runs the command at this terminal.
    pub fn run(&self, command: Command) -> Verb {
        let child = pty_process::blocking::Command::from(command).spawn_borrowed(&self.pts).unwrap();
        Verb { child }
    }

    /// Makes the terminal answer queries for its attributes (DA) and its status (DSR), each after a moment. The result counts the
    /// answers about attributes.
    pub fn answer_late(&self) -> Arc<Mutex<usize>> {
        const QUESTIONS: [(&[u8], &[u8]); 2] = [(b"\x1b[c", b"\x1b[?62;22c"), (b"\x1b[5n", b"\x1b[0n")];
        let (seen, mut keyboard) = (Arc::clone(&self.seen), fs::File::from(copy(&self.pty)));
        let said = Arc::<Mutex<usize>>::default();
        let count = Arc::clone(&said);
        thread::spawn(move || {
            let mut at = 0;
            // For as long as the test holds the counter.
            while Arc::strong_count(&count) > 1 {
                thread::sleep(Duration::from_millis(1));
                let next = |at: usize| {
                    let seen = seen.lock().unwrap();
                    let ends = |(question, answer): (&[u8], _)| {
                        let found = seen[at..].windows(question.len()).position(|window| window == question);
                        found.map(|found| (at + found + question.len(), answer))
                    };
                    QUESTIONS.into_iter().filter_map(ends).min()
                };
                if next(at).is_none() {
                    continue;
                }
                thread::sleep(Duration::from_millis(50));
                // All answers at once, as terminals send them.
                let (mut answers, mut attributes) = (Vec::new(), 0);
                while let Some((end, answer)) = next(at) {
                    at = end;
                    answers.extend_from_slice(answer);
                    attributes += usize::from(answer.ends_with(b"c"));
                }
                keyboard.write_all(&answers).unwrap();
                *count.lock().unwrap() += attributes;
            }
        });
        said
    }

    /// Whether the terminal has its original settings.
    pub fn is_as_before(&self) -> bool {
        tcgetattr(&self.pts).unwrap() == self.before
    }
}

fn copy(descriptor: &impl AsFd) -> OwnedFd {
    descriptor.as_fd().try_clone_to_owned().unwrap()
}

/// A running `agentd attach`.
pub struct Verb {
    child: Child,
}

impl Verb {
    pub fn process(&self) -> Process {
        Process(i32::try_from(self.child.id()).unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// The tmux client that it relays.
    fn client(&self, setup: &Setup) -> Process {
        let is_client = |process: &Process| {
            process.executable().is_some_and(|name| name == "tmux")
                && process.argv().iter().any(|word| word == "attach-session")
                && process.ancestors().any(|ancestor| ancestor == self.process())
        };
        setup.wait("the tmux client", || Process::all().find(is_client))
    }

    pub fn ended(&mut self, setup: &Setup) -> ExitStatus {
        setup.wait("the verb to end", || self.child.try_wait().unwrap())
    }
}

impl Drop for Verb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command as the user that runs the daemon, with the daemon's API.
fn verb(setup: &Setup, words: &[&str]) -> Command {
    let socket = setup.api_socket();
    let mut command = setup.agentd(&[&["attach"], words, &["--api-socket", socket.to_str().unwrap()]].concat());
    command.env("TERM", "xterm-256color").env("LANG", "C.UTF-8");
    command
}

/// The command in an environment where these variables are missing or different.
fn verb_with(setup: &Setup, variables: &[(&str, Option<&str>)]) -> Command {
    let mut command = verb(setup, &["a"]);
    for (name, value) in variables {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// Waits until the window of agent `a` has that many columns and rows.
pub fn wait_for_size(daemon: &Setup, expected: &str) {
    let size = || daemon.tmux(&["display-message", "-p", "-t", "=a:", "#{window_width}x#{window_height}"]).unwrap();
    daemon.wait(&format!("{expected}, not {}", size()), || (size().trim() == expected).then_some(()));
}

/// Waits until tmux knows a client of that width.
pub fn wait_for_client(daemon: &Setup, width: &str) {
    daemon.wait(&format!("a client of width {width}"), || {
        daemon.tmux(&["list-clients", "-F", "#{client_width}"]).unwrap().lines().any(|it| it == width).then_some(())
    });
}

/// The command as another user, with the sockets given.
fn verb_as(setup: &Setup, user: &str, words: &[&str]) -> Command {
    let (api, tmux) = (setup.api_socket(), setup.tmux_socket());
    let places = ["--api-socket", api.to_str().unwrap(), "--tmux-socket", tmux.to_str().unwrap()];
    let mut command = as_user(user, &[&[binary().to_str().unwrap(), "attach"], words, &places].concat());
    command.current_dir(setup.dir());
    command
}

/// An agent that says when it listens, and repeats what it reads.
pub fn listener(name: &str) -> String {
    agent(name, "say it listens; read-line @WORK/heard; say it has heard; sleep inf", "")
}

/// Attaches at a terminal, and waits until the agent's screen appears.
fn attach_at(daemon: &Daemon, terminal: &Terminal, command: Command) -> Verb {
    let verb = terminal.run(command);
    terminal.wait_for(daemon, "it listens");
    verb
}

pub fn detach(daemon: &Setup, terminal: &mut Terminal, verb: &mut Verb) {
    // Repeatedly, because tmux may take keys for a paste if they follow others too soon; see `start`.
    let status = daemon.wait("the verb to end", || {
        terminal.types(DETACH);
        verb.child.try_wait().unwrap()
    });
    assert_eq!(status.code(), Some(0), "{}", terminal.seen());
    assert!(terminal.is_as_before());
}

fn start() -> Daemon {
    let daemon = Setup::new().start(&listener("a"));
    daemon.wait_until_running("a");
    // tmux must not take keys for a paste because they arrive faster than a person could type.
    daemon.tmux(&["set-option", "-g", "assume-paste-time", "0"]).unwrap();
    daemon
}

#[test]
fn attach_relays_output_and_keys_and_names_the_detach_key() {
    let daemon = start();
    let mut terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["A"]));
    assert!(!terminal.is_as_before(), "the terminal is raw");
    assert!(terminal.seen().starts_with("detach with Ctrl-b d\r\n"), "{}", terminal.seen());
    daemon.wait("the hint in the status line", || {
        (terminal.seen().matches("detach with Ctrl-b d").count() > 1).then_some(())
    });
    terminal.types("good morning\r");
    terminal.wait_for(&daemon, "it has heard");
    assert_eq!(daemon.lines("heard"), ["good morning"]);
    detach(&daemon, &mut terminal, &mut verb);
    terminal.wait_for(&daemon, "[detached (from session a)]");
    assert!(daemon.agent("a").unwrap().running);
}

#[test]
fn the_detach_key_follows_the_sessions_prefix() {
    let daemon = start();
    daemon.tmux(&["set-option", "-t", "=a:", "prefix", "M-x"]).unwrap();
    let mut terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
    assert!(terminal.seen().starts_with("detach with Alt-x d\r\n"), "{}", terminal.seen());
    terminal.types("\u{1b}xd");
    assert_eq!(verb.ended(&daemon).code(), Some(0));
}

#[test]
fn the_session_follows_the_size_of_the_terminal() {
    let daemon = start();
    let mut terminal = Terminal::new();
    let size = || daemon.tmux(&["display-message", "-p", "-t", "=a:", "#{window_width} #{window_height}"]).unwrap();
    let is_size = |expected: &str| daemon.wait(expected, || (size().trim() == expected).then_some(()));
    let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
    // tmux keeps the last line for itself.
    is_size("80 23");
    terminal.resize(40, 132);
    is_size("132 39");
    terminal.resize(10, 60);
    is_size("60 9");
    detach(&daemon, &mut terminal, &mut verb);
}

#[test]
fn a_window_regains_its_size_when_the_last_operator_leaves() {
    let daemon = start();
    wait_for_size(&daemon, "80x24");
    let (mut first, mut second) = (Terminal::new(), Terminal::new());
    first.resize(13, 50);
    second.resize(40, 132);
    let mut at_first = attach_at(&daemon, &first, verb(&daemon, &["a"]));
    wait_for_size(&daemon, "50x12");
    let mut at_second = attach_at(&daemon, &second, verb(&daemon, &["a"]));
    wait_for_size(&daemon, "132x39");
    detach(&daemon, &mut second, &mut at_second);
    wait_for_size(&daemon, "50x12");
    detach(&daemon, &mut first, &mut at_first);
    wait_for_size(&daemon, "80x24");
    // The same goes for a client that attaches without agentd and is cut off.
    let client = daemon.attach("a");
    wait_for_size(&daemon, "80x23");
    drop(client);
    wait_for_size(&daemon, "80x24");
}

#[test]
fn a_window_keeps_its_size_for_a_lone_read_only_client() {
    let daemon = start();
    let (mut onlooker, mut operator) = (Terminal::new(), Terminal::new());
    onlooker.resize(50, 200);
    operator.resize(30, 100);
    let mut looks_on = attach_at(&daemon, &onlooker, verb(&daemon, &["a", "--read-only"]));
    wait_for_client(&daemon, "200");
    wait_for_size(&daemon, "80x24");
    onlooker.resize(20, 60);
    wait_for_client(&daemon, "60");
    let mut works = attach_at(&daemon, &operator, verb(&daemon, &["a"]));
    wait_for_size(&daemon, "100x29");
    detach(&daemon, &mut operator, &mut works);
    wait_for_size(&daemon, "80x24");
    detach(&daemon, &mut onlooker, &mut looks_on);
    wait_for_size(&daemon, "80x24");
}

#[test]
fn a_new_agent_starts_at_its_own_size_despite_other_clients() {
    let daemon = start();
    let terminal = Terminal::new();
    terminal.resize(2, 20);
    let _verb = terminal.run(verb(&daemon, &["a"]));
    wait_for_size(&daemon, "20x1");
    let measure = "[[agents]]\nname = \"b\"\nharness = \"custom\"\ncommand = \"/bin/sh\"\nworkdir = \"@WORK\"\n\
        args = [\"-c\", \"stty size >@WORK/size.new; mv @WORK/size.new @WORK/size; sleep 1000\"]\n";
    daemon.edit_jcard(&(listener("a") + measure));
    daemon.wait_for_file("size");
    assert_eq!(daemon.lines("size"), ["24 80"]);
}

#[test]
fn a_window_opened_by_an_operator_fits_the_terminal() {
    let daemon = start();
    let terminal = Terminal::new();
    terminal.resize(30, 100);
    let _verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
    wait_for_size(&daemon, "100x29");
    daemon.tmux(&["new-window", "-t", "=a:", "sleep 1000"]).unwrap();
    wait_for_size(&daemon, "100x29");
    let sizes = || daemon.tmux(&["list-windows", "-t", "=a", "-F", "#{window_width}"]).unwrap();
    daemon.wait("both to fit", || (sizes() == "100\n100\n").then_some(()));
}

#[test]
fn a_terminal_without_a_locale_shows_non_ascii_characters() {
    let script = "say it listens \u{273b}; sleep inf";
    let daemon = Setup::new().start(&agent("a", script, ""));
    daemon.wait_until_running("a");
    for (locale, seen) in
        [(None, "it listens \u{273b}"), (Some(""), "it listens \u{273b}"), (Some("C"), "it listens _")]
    {
        let terminal = Terminal::new();
        let _verb = terminal.run(verb_with(&daemon, &[("LANG", locale)]));
        terminal.wait_for(&daemon, seen);
    }
}

#[test]
fn a_terminal_of_an_unknown_type_can_attach() {
    let daemon = start();
    for (name, told) in [
        (Some("xterm-nobody-knows"), "does not know a terminal named xterm-nobody-knows; agentd treats yours as"),
        (None, "TERM does not name your terminal; agentd treats it as xterm-256color"),
        (Some("\u{1b}[2J"), "TERM does not name your terminal"),
    ] {
        let mut terminal = Terminal::new();
        let mut verb = attach_at(&daemon, &terminal, verb_with(&daemon, &[("TERM", name)]));
        assert_eq!(terminal.seen().matches(told).count(), 1, "{}", terminal.seen());
        detach(&daemon, &mut terminal, &mut verb);
    }
    let terminal = Terminal::new();
    let code = terminal.run(verb_with(&daemon, &[("TERM", Some("dumb"))])).ended(&daemon).code();
    terminal.wait_for(&daemon, "agentd watch a shows the agent's screen");
    assert_eq!(code, Some(1), "{}", terminal.seen());
}

#[test]
fn a_terminal_without_a_size_can_attach() {
    let daemon = start();
    let mut terminal = Terminal::new();
    terminal.resize(0, 0);
    let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
    wait_for_size(&daemon, "80x23");
    detach(&daemon, &mut terminal, &mut verb);
}

#[test]
fn late_terminal_answers_do_not_reach_the_shell() {
    let daemon = start();
    let mut terminal = Terminal::new();
    let said = terminal.answer_late();
    let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
    // The client may have asked when it started.
    let before = *said.lock().unwrap();
    // The last command that the server gives the client makes it query the terminal, as a hostile server may.
    daemon.tmux(&["detach-client", "-s", "=a", "-E", r"printf '\033[5n\033[c'"]).unwrap();
    assert_eq!(verb.ended(&daemon).code(), Some(0), "{}", terminal.seen());
    daemon.wait("the late answer", || (*said.lock().unwrap() > before).then_some(()));
    assert!(terminal.is_as_before());
    // A restored terminal echoes its input, in order.
    terminal.types("next");
    terminal.wait_for(&daemon, "next");
    assert!(!terminal.seen().contains("^[["), "{}", terminal.seen());
}

#[test]
fn a_dumb_terminal_receives_no_escape_sequences() {
    let daemon = start();
    for (term, no_color) in [("dumb", None), ("xterm", Some("1"))] {
        for verb in ["status", "explain", "doctor", "watch"] {
            if no_color.is_some() && verb == "watch" {
                continue;
            }
            let terminal = Terminal::new();
            let socket = daemon.api_socket();
            let name: &[&str] = if verb == "doctor" { &[] } else { &["a"] };
            let words = [&[verb], name, &["--api-socket", socket.to_str().unwrap()]].concat();
            let mut command = daemon.agentd(&words);
            command.env("TERM", term).envs(no_color.map(|value| ("NO_COLOR", value)));
            let mut running = terminal.run(command);
            if verb == "watch" {
                terminal.wait_for(&daemon, "it listens");
                daemon.tmux(&["send-keys", "-t", "=a:", "next", "Enter"]).unwrap();
                terminal.wait_for(&daemon, "it has heard");
                running.process().signal(Signal::SIGINT);
            }
            running.ended(&daemon);
            terminal.wait_for(&daemon, "\n");
            assert!(!terminal.seen().contains('\u{1b}'), "{verb}: {:?}", terminal.seen());
        }
    }
}

#[test]
fn the_client_runs_as_the_agent_user_without_operator_state() {
    let daemon = start();
    let mut terminal = Terminal::new();
    let mut command = verb(&daemon, &["a"]);
    command.env("SSH_AUTH_SOCK", "/secret").env("LD_LIBRARY_PATH", "/secret").env("LC_TIME", "C");
    // As from a shell that has a file open.
    let (program, args) = (command.get_program().to_owned(), command.get_args().map(ToOwned::to_owned));
    let args: Vec<_> = args.collect();
    let mut shell = Command::new("bash");
    shell.args(["-c", "exec 7</etc/passwd 8<>jcard.toml; exec \"$@\"", "bash"]).arg(program).args(args);
    shell.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(daemon.dir());
    let mut verb = attach_at(&daemon, &terminal, shell);
    let client = verb.client(&daemon);
    let agent = daemon.agent_account();
    assert_eq!((client.acts_as(), client.user()), (Some(agent.uid.as_raw()), agent.uid.as_raw()));
    assert_eq!(client.session(), client.0, "the process leads a session of its own");
    let environ = String::from_utf8(client.environ()).unwrap();
    let names: BTreeSet<&str> = environ.split_terminator('\0').map(|it| it.split('=').next().unwrap()).collect();
    assert_eq!(names, ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "USER"].into());
    assert!(
        environ.contains("TERM=xterm-256color\0") && environ.contains(&format!("USER={}\0", agent.name)),
        "{environ}"
    );
    let link = |name: &str| fs::read_link(format!("/proc/{}/{name}", client.0)).unwrap();
    assert_eq!(link("cwd").to_str(), Some("/"));
    let operators = ttyname(&terminal.pts).unwrap();
    let mut count = 0;
    for descriptor in fs::read_dir(format!("/proc/{}/fd", client.0)).unwrap().flatten() {
        let target = fs::read_link(descriptor.path()).unwrap();
        assert!(!target.starts_with("/etc") && !target.starts_with(daemon.dir()), "{}", target.display());
        assert_ne!(target, operators);
        count += 1;
    }
    assert!(count >= 3, "the three sockets, and tmux's own");
    daemon.wait("only the client to be left", || {
        let is_its = |process: &Process| process.ancestors().any(|ancestor| ancestor == verb.process());
        Process::all().filter(is_its).all(|process| process == client).then_some(())
    });
    // No tmux process of the operator runs as root. The fixture sees those that have already ended.
    for process in Process::all().filter(|process| process.ancestors().any(|ancestor| ancestor == verb.process())) {
        assert!(!is_root() || process.acts_as() != Some(0), "{process}");
    }
    detach(&daemon, &mut terminal, &mut verb);
}

#[test]
fn commands_planted_in_the_client_run_as_the_agent_user() {
    let daemon = start();
    let terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
    let command = daemon.expand("umask 0; id -u >@WORK/who.new; mv @WORK/who.new @WORK/who");
    daemon.tmux(&["detach-client", "-s", "=a", "-E", &command]).unwrap();
    daemon.wait_for_file("who");
    let uid = daemon.agent_account().uid.as_raw();
    assert_eq!(daemon.lines("who"), [uid.to_string()]);
    assert_eq!(owner(&daemon.work("who")).1, uid);
    assert_eq!(verb.ended(&daemon).code(), Some(0), "{}", terminal.seen());
}

#[test]
fn attach_uses_the_servers_own_tmux_if_versions_differ() {
    let setup = with_own_tmux(Setup::new());
    put_tmux(&setup, "");
    let daemon = setup.start(&listener("a"));
    daemon.wait_until_running("a");
    put_tmux(&daemon, "[ \"$1\" = -V ] && echo tmux 9.9 || echo 'server exited unexpectedly' >&2; exit 1");
    let mut terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
    detach(&daemon, &mut terminal, &mut verb);
}

#[test]
fn the_agent_user_attaches_but_cannot_reach_the_terminal() {
    if !root() {
        return;
    }
    let mut daemon = start();
    let mut terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, verb_as(&daemon, "agent", &["a"]));
    assert_eq!(verb.client(&daemon).user(), account("agent").uid.as_raw());
    let operators = format!("/proc/{}/fd/0", verb.process().0);
    assert_eq!(run(&mut daemon.as_agent(&["readlink", &operators])).0, Some(1), "the process is private");
    detach(&daemon, &mut terminal, &mut verb);

    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    let mut terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, verb_as(&daemon, "agent", &["a"]));
    detach(&daemon, &mut terminal, &mut verb);
}

#[test]
fn an_administrator_outside_the_group_sees_whom_to_ask() {
    if !root() {
        return;
    }
    let daemon = Setup::new().args(["--operator-group", "crew"]).start(&listener("a"));
    daemon.wait_until_running("a");
    for stdin in ["a terminal", "none"] {
        let run = |command: Command| {
            let terminal = Terminal::new();
            if stdin == "none" {
                let mut command = command;
                return run(&mut command);
            }
            let mut verb = terminal.run(command);
            let code = verb.ended(&daemon).code();
            assert!(terminal.is_as_before());
            terminal.wait_for(&daemon, "\n");
            (code, terminal.seen())
        };
        let (code, said) = run(verb_as(&daemon, "op", &["A", "--read-only"]));
        // The socket is not even asked without a terminal.
        assert_eq!(code, Some(if stdin == "none" { 1 } else { 4 }), "{said}");
        assert!(said.contains("you are not a member of group crew") || stdin == "none", "{said}");
        assert!(
            said.lines().any(|line| line.trim_end() == "    sudo usermod -aG crew op") || stdin == "none",
            "{said}"
        );
        assert!(said.contains("agentd watch a"), "{said}");
        let (code, said) = run(verb_as(&daemon, "op", &["b"]));
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("there is no agent \"b\""), "{said}");
        let (code, said) = run(verb_as(&daemon, "stranger", &["a"]));
        assert_eq!(code, Some(4), "{said}");
        assert!(
            said.contains("permission denied; be a member of group admin or root") && !said.contains("sudo"),
            "{said}"
        );
    }
    assert_eq!(daemon.tmux(&["list-clients"]).unwrap(), "");
}

#[test]
fn attach_says_what_to_do_without_a_terminal_or_session() {
    let daemon = Setup::new().start(
        &(listener("a")
            + &agent("late", "sleep inf", "secrets = [\"MISSING\"]")
            + "[[agents]]\nname = \"wrong\"\nharness = \"nope\"\n"),
    );
    daemon.wait_until_running("a");
    daemon.wait_for_state("late", State::Waiting);
    let mut without = verb(&daemon, &["a"]);
    let (code, said) = run(without.stdin(Stdio::null()));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("standard input is not a terminal") && said.contains("agentd watch a"), "{said}");
    for (name, why) in [("late", "the secret MISSING is not"), ("wrong", "unknown agent.harness")] {
        let terminal = Terminal::new();
        let code = terminal.run(verb(&daemon, &[name])).ended(&daemon).code();
        terminal.wait_for(&daemon, &format!("agentd explain {name} says more"));
        assert_eq!(code, Some(1), "{}", terminal.seen());
        assert!(terminal.seen().contains(why), "{}", terminal.seen());
        assert!(terminal.is_as_before());
    }
    let terminal = Terminal::new();
    assert_eq!(terminal.run(verb(&daemon, &["nobody"])).ended(&daemon).code(), Some(4), "{}", terminal.seen());
}

#[test]
fn a_read_only_client_sends_no_keys_and_changes_no_size() {
    let daemon = start();
    let mut at_work = Terminal::new();
    let mut worker = attach_at(&daemon, &at_work, verb(&daemon, &["a"]));
    let mut terminal = Terminal::new();
    terminal.resize(10, 40);
    let mut watcher = attach_at(&daemon, &terminal, verb(&daemon, &["a", "--read-only"]));
    assert!(terminal.seen().starts_with("read-only; detach with Ctrl-b d\r\n"), "{}", terminal.seen());
    terminal.types("from who looks on\r");
    terminal.types("\u{3}");
    terminal.resize(12, 44);
    // A tmux 3.3a client that still has to say this when it is told to leave believes that its server is dead.
    daemon.wait("its size to be reported", || {
        daemon.tmux(&["list-clients", "-F", "#{client_width}"]).unwrap().lines().any(|it| it == "44").then_some(())
    });
    detach(&daemon, &mut terminal, &mut watcher);
    let size = daemon.tmux(&["display-message", "-p", "-t", "=a:", "#{window_width}"]).unwrap();
    assert_eq!(size.trim(), "80");
    // Anything typed before this would have arrived before it.
    at_work.types("from who works\r");
    at_work.wait_for(&daemon, "it has heard");
    assert_eq!(daemon.lines("heard"), ["from who works"]);
    detach(&daemon, &mut at_work, &mut worker);
}

#[test]
fn attach_inside_tmux_works_and_explains_the_prefixes() {
    let daemon = start();
    let mut terminal = Terminal::new();
    let mut command = verb(&daemon, &["a"]);
    command.env("TMUX", "/tmp/tmux-0/default,1,0").env("TMUX_PANE", "%0").env("TERM", "screen-256color");
    let mut verb = attach_at(&daemon, &terminal, command);
    let seen = terminal.seen();
    let advice =
        "this terminal runs in another tmux, which takes its prefix key first; if that is Ctrl-b too, press it twice";
    assert!(seen.lines().nth(1).is_some_and(|line| line.starts_with(advice)), "{seen}");
    assert!(!String::from_utf8(verb.client(&daemon).environ()).unwrap().contains("TMUX"));
    detach(&daemon, &mut terminal, &mut verb);
}

#[test]
fn attach_exits_0_when_the_session_ends() {
    let daemon = start();
    let terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
    daemon.tmux(&["kill-session", "-t", "=a"]).unwrap();
    assert_eq!(verb.ended(&daemon).code(), Some(0), "{}", terminal.seen());
    assert!(terminal.is_as_before());
}

#[test]
fn a_killed_client_leaves_the_terminal_restored() {
    let daemon = start();
    let terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
    verb.client(&daemon).signal(Signal::SIGKILL);
    assert_eq!(verb.ended(&daemon).code(), Some(1));
    assert!(terminal.is_as_before());
    terminal.wait_for(&daemon, "the tmux client attached to a failed: signal: 9");
    let seen = terminal.seen();
    let end = &seen[seen.rfind("it listens").unwrap()..];
    for wiped in ["\u{1b}[?1049l", "\u{1b}[?25h", "\u{1b}[?1006l", "\u{1b}[?2004l"] {
        assert!(end.contains(wiped), "{wiped:?}: {end:?}");
    }
}

#[test]
fn a_killed_or_stopped_server_leaves_the_terminal_restored() {
    let daemon = start();
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        let terminal = Terminal::new();
        let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
        let server: i32 = daemon.tmux(&["display-message", "-p", "#{pid}"]).unwrap().trim().parse().unwrap();
        Process(server).signal(signal);
        let mut others = Terminal::new();
        if signal == Signal::SIGSTOP {
            // A late client gets an error within a bounded time.
            let code = others.run(self::verb(&daemon, &["a"])).ended(&daemon).code();
            others.wait_for(&daemon, "does not answer");
            assert_eq!(code, Some(1), "{}", others.seen());
            // Until then, Ctrl-C works as usual.
            let mut asking = others.run(self::verb(&daemon, &["a"]));
            daemon.wait("the command to ask the server", || {
                let is_its = |process: &Process| process.ancestors().any(|ancestor| ancestor == asking.process());
                let is_client = |process: &Process| process.argv().iter().any(|word| word == "list-sessions");
                Process::all().find(|process| is_client(process) && is_its(process))
            });
            others.types("\u{3}");
            assert_eq!(asking.ended(&daemon).signal(), Some(Signal::SIGINT as i32));
            verb.process().signal(Signal::SIGTERM);
            assert_eq!(verb.ended(&daemon).signal(), Some(Signal::SIGTERM as i32));
            Process(server).signal(Signal::SIGCONT);
        } else {
            assert_eq!(verb.ended(&daemon).code(), Some(1), "{}", terminal.seen());
        }
        assert!(terminal.is_as_before(), "{signal}");
        terminal.wait_for(&daemon, "\u{1b}[?1047l");
    }
}

#[test]
fn a_signal_ends_attach_with_the_terminal_restored() {
    let daemon = start();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        let terminal = Terminal::new();
        let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
        let client = verb.client(&daemon);
        verb.process().signal(signal);
        assert_eq!(verb.ended(&daemon).signal(), Some(signal as i32), "{}", terminal.seen());
        assert!(terminal.is_as_before(), "{signal}");
        assert!(!client.is_alive(), "{signal}");
        terminal.wait_for(&daemon, "\u{1b}[?1049l");
    }
    assert!(daemon.agent("a").unwrap().running);
}

#[test]
fn killing_attach_ends_its_client() {
    let daemon = start();
    let terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
    let client = verb.client(&daemon);
    verb.process().signal(Signal::SIGKILL);
    verb.ended(&daemon);
    daemon.wait_until_gone(client.0);
}

#[test]
fn a_suspended_client_resumes_by_itself() {
    let daemon = start();
    let mut terminal = Terminal::new();
    let mut verb = attach_at(&daemon, &terminal, verb(&daemon, &["a"]));
    let counts =
        |terminal: &Terminal| ["h", "l"].map(|end| terminal.seen().matches(&format!("\u{1b}[?1049{end}")).count());
    terminal.types("\u{2}\u{1a}");
    daemon.wait("the client to be suspended", || (counts(&terminal)[1] == 1).then_some(()));
    daemon.wait("the client to continue", || (counts(&terminal)[0] == 2).then_some(()));
    terminal.types("go on\r");
    daemon.wait_for_line("heard", "go on");
    detach(&daemon, &mut terminal, &mut verb);
}
