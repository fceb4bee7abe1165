//! What an agent is born with.

use crate::support::{Dump, Setup, agent};

/// A daemon that was started in every way an agent must not notice: odd umask, signals ignored, descriptors open.
fn odd() -> Setup {
    Setup::new()
        .after("umask 077; trap '' USR1 USR2 TTIN TTOU PIPE; exec 7</dev/null 9</dev/null")
        .env("NOTIFY_SOCKET", "/nowhere")
        .env("WATCHDOG_USEC", "1000000")
        .env("JOURNAL_STREAM", "8:1")
        .env("LISTEN_PID", "1")
        .env("TMUX", "/nowhere,1,0")
        .env("LD_PRELOAD_OF_THE_DAEMON", "x")
}

#[test]
fn an_agent_has_the_accounts_variables_and_none_of_the_daemons() {
    let daemon = odd().start(&agent("a", "dump @WORK/dump; rest", ""));
    let dump = Dump::of(&daemon, "dump");
    let account = daemon.agent_account();
    assert_eq!(dump.var("HOME").as_deref(), account.dir.to_str());
    assert_eq!(dump.var("SHELL").as_deref(), account.shell.to_str());
    assert_eq!(dump.var("USER").as_deref(), Some(account.name.as_str()));
    assert_eq!(dump.var("LOGNAME").as_deref(), Some(account.name.as_str()));
    assert!(dump.var("PATH").is_some_and(|path| path.contains("/bin")), "{:?}", dump.var("PATH"));
    let term = dump.var("TERM").unwrap();
    assert!(term.starts_with("tmux") || term.starts_with("screen"), "{term}");
    for name in
        ["DAEMON_ONLY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "JOURNAL_STREAM", "LISTEN_PID", "LD_PRELOAD_OF_THE_DAEMON"]
    {
        assert_eq!(dump.var(name), None, "{name}");
    }
    assert!(
        dump.var("TMUX").is_none_or(|tmux| tmux.starts_with(daemon.tmux_socket().to_str().unwrap())),
        "{:?}",
        dump.var("TMUX")
    );
}

#[test]
fn an_agent_starts_in_its_workdir_with_umask_022_on_a_terminal_of_its_own() {
    let daemon = odd().start(&agent("a", "dump @WORK/dump; rest", ""));
    let dump = Dump::of(&daemon, "dump");
    assert_eq!(dump.text("cwd"), daemon.path("work").to_str().unwrap());
    assert_eq!(dump.text("umask"), "0022");
    assert!(dump.text("tty").starts_with("/dev/pts/"), "{}", dump.text("tty"));
}

#[test]
fn no_signal_is_blocked_or_ignored_in_an_agent() {
    let daemon = odd().start(&agent("a", "dump @WORK/dump; rest", ""));
    let dump = Dump::of(&daemon, "dump");
    let of_the_c_library = 0b11 << 31; // 32 and 33: no program can use them, and glibc's posix_spawn may leave them ignored
    for field in ["SigBlk", "SigIgn"] {
        let signals = u64::from_str_radix(&dump.status(field), 16).unwrap() & !of_the_c_library;
        assert_eq!(signals, 0, "{field}: {signals:x}");
    }
}

#[test]
fn no_descriptor_but_the_three_is_open_in_an_agent() {
    let daemon = odd().start(&agent("a", "dump @WORK/dump; rest", ""));
    let fds = Dump::of(&daemon, "dump").text("fds");
    let fds: Vec<&str> = fds.lines().filter(|fd| *fd != "255").collect(); // where bash reads its script
    assert_eq!(fds, ["0", "1", "2"]);
}

#[test]
fn declared_variables_are_set_and_a_declared_path_wins() {
    let path = format!("@DIR/bin:{}", crate::support::path());
    let more = format!(
        "env = {{ PATH = \"{path}\", QUOTED = \"a 'b' \\\"c\\\" $HOME ;\", LINES_OF = \"x\\ny\", EMPTY = \"\" }}"
    );
    let daemon = Setup::new().start(&agent("a", "dump @WORK/dump; rest", &more));
    let dump = Dump::of(&daemon, "dump");
    assert_eq!(dump.var("PATH").unwrap(), daemon.expand(&path));
    assert_eq!(dump.var("QUOTED").unwrap(), "a 'b' \"c\" $HOME ;");
    assert_eq!(dump.var("LINES_OF").unwrap(), "x\ny");
    assert_eq!(dump.var("EMPTY").unwrap(), "");
}

#[test]
fn a_workdir_below_the_home_is_found() {
    let entry =
        agent("a", "append @WORK/ran x; dump @WORK/dump; rest", "").replace("workdir = \"@WORK\"", "workdir = \"~/\"");
    let daemon = Setup::new().start(&entry);
    let home = std::fs::canonicalize(&daemon.agent_account().dir).unwrap();
    assert_eq!(Dump::of(&daemon, "dump").text("cwd"), home.to_str().unwrap());
}

#[test]
fn an_agent_bears_the_mark_of_its_daemon_whatever_is_declared() {
    let daemon = Setup::new().start(&agent("a", "dump @WORK/dump; rest", "env = { AGENTD_AGENT = \"another's\" }"));
    let state = std::fs::canonicalize(daemon.path("state")).unwrap();
    assert_eq!(Dump::of(&daemon, "dump").var("AGENTD_AGENT").unwrap(), format!("{}:a", state.display()));
}
