//! The environment in which an agent starts.

use crate::support::{Dump, Setup, agent};

/// A daemon started with everything that an agent must not inherit: an odd umask, ignored signals, open descriptors.
fn odd() -> Setup {
    let ignored: Vec<String> = (1..=64)
        .filter(|number| ![4, 8, 9, 11, 19, 32, 33].contains(number))
        .map(|number: i32| number.to_string())
        .collect();
    Setup::new()
        .after(&format!("umask 077; trap '' {}; exec 7</dev/null 9</dev/null", ignored.join(" ")))
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
fn an_agent_starts_in_its_workdir_with_umask_and_own_terminal() {
    let daemon = odd().start(&agent("a", "dump @WORK/dump; rest", ""));
    let dump = Dump::of(&daemon, "dump");
    assert_eq!(dump.text("cwd"), daemon.path("work").to_str().unwrap());
    assert_eq!(dump.text("umask"), "0022");
    assert!(dump.text("tty").starts_with("/dev/pts/"), "{}", dump.text("tty"));
}

#[test]
fn an_agent_starts_with_no_signal_blocked_or_ignored() {
    let daemon = odd().start(&agent("a", "dump @WORK/dump; rest", ""));
    let dump = Dump::of(&daemon, "dump");
    let of_the_c_library = 0b11 << 31; // 32 and 33: no program can use them, and glibc's posix_spawn may leave them ignored
    for field in ["SigBlk", "SigIgn"] {
        let signals = u64::from_str_radix(&dump.status(field), 16).unwrap() & !of_the_c_library;
        assert_eq!(signals, 0, "{field}: {signals:x}");
    }
}

#[test]
fn an_agent_inherits_only_three_descriptors() {
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
fn a_workdir_below_the_home_directory_is_found() {
    let entry =
        agent("a", "append @WORK/ran x; dump @WORK/dump; rest", "").replace("workdir = \"@WORK\"", "workdir = \"~/\"");
    let daemon = Setup::new().start(&entry);
    let home = std::fs::canonicalize(&daemon.agent_account().dir).unwrap();
    assert_eq!(Dump::of(&daemon, "dump").text("cwd"), home.to_str().unwrap());
}

#[test]
fn an_agent_has_its_daemons_mark_whatever_it_declares() {
    let daemon = Setup::new().start(&agent("a", "dump @WORK/dump; rest", "env = { AGENTD_AGENT = \"another's\" }"));
    let state = std::fs::canonicalize(daemon.path("state")).unwrap();
    assert_eq!(Dump::of(&daemon, "dump").var("AGENTD_AGENT").unwrap(), format!("{}:a", state.display()));
}

#[test]
fn the_locale_is_utf_8_if_none_is_set() {
    let jcard = agent("a", "dump @WORK/a; rest", "") + &agent("b", "dump @WORK/b; rest", "env = { LC_ALL = \"C\" }");
    let daemon = Setup::new().start(&jcard);
    let dump = Dump::of(&daemon, "a");
    let is_named = dump.environ().iter().any(|variable| variable.starts_with("LC_"));
    assert!(is_named || dump.var("LANG").is_some_and(|lang| !lang.is_empty()), "{:?}", dump.environ());
    let dump = Dump::of(&daemon, "b");
    assert_eq!((dump.var("LC_ALL").as_deref(), dump.var("LANG").as_deref()), (Some("C"), None));
}

#[test]
fn temporary_files_are_removed_with_their_attempt() {
    let script = "dump @WORK/dump; wait-for @WORK/go; exit 0";
    let daemon =
        Setup::new().start(&(agent("a", script, "") + &agent("b", "dump @WORK/b; rest", "env = { TMPDIR = \"/x\" }")));
    let folder = std::path::PathBuf::from(Dump::of(&daemon, "dump").var("TMPDIR").unwrap());
    let (mode, owner, _) = crate::support::owner(&folder);
    assert_eq!((owner, mode & 0o7777), (daemon.agent_account().uid.as_raw(), 0o700));
    std::fs::write(folder.join("left"), "").unwrap();
    daemon.put(&daemon.work("go"), "");
    daemon.wait("the directory to be removed", || (!folder.exists()).then_some(()));
    assert_eq!(Dump::of(&daemon, "b").var("TMPDIR").as_deref(), Some("/x"));
}

#[test]
fn temporary_files_of_a_killed_launcher_go_at_the_next_start() {
    let daemon = Setup::new().start(&agent(
        "a",
        "dump @WORK/dump; log @WORK/log; sleep inf",
        "restart = 'always'\nbackoff = ['0s']",
    ));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_starts("log", 1);
    let folder = std::path::PathBuf::from(Dump::of(&daemon, "dump").var("TMPDIR").unwrap());
    std::fs::write(folder.join("left"), "").unwrap();
    crate::support::Process(pid).parent().signal(nix::sys::signal::Signal::SIGKILL);
    daemon.wait_for_starts("log", 2);
    daemon.wait("the directory to be removed", || (!folder.exists()).then_some(()));
}
