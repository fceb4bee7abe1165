//! The terminal socket: operators without root attach and send, and nobody else does.

use std::process::Command;

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

/// Whether the terminal's client of the tmux server is there.
fn clients(daemon: &Setup) -> usize {
    daemon.tmux(&["list-clients"]).unwrap().lines().count()
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
