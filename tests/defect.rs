//! Checks that a panic anywhere in the daemon ends it.
//!
//! The test is alone in its file because the daemon is a process of this test's own binary.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentd::config;
use agentd::daemon;
use agentd::logs::store::Retention;
use agentd::settings::{OnTerminate, Settings};
use agentd::sys::log;
use agentd::sys::log::Detail;
use agentd::tmux;

/// The variable that names the folder of the daemon to run.
const FOLDER: &str = "AGENTD_TEST_DAEMON";

#[test]
#[ignore = "the test below starts it as a process"]
fn daemon_with_a_defect() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let settings = settings(&folder);
    let socket = settings.api_socket.clone();
    std::thread::spawn(move || {
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("words of the program");
    });
    let _log = log::start(settings.detail);
    daemon::run(&settings).unwrap();
}

fn settings(folder: &Path) -> Settings {
    let is_root = nix::unistd::Uid::effective().is_root();
    Settings {
        config: folder.join("jcard.toml"),
        secret_dir: folder.join("secrets"),
        api_socket: folder.join("api/agentd.sock"),
        tmux_socket: folder.join("tmux/tmux.sock"),
        terminal_socket: folder.join("door/terminal.sock"),
        tmux_origin: tmux::Origin::Elsewhere,
        state_dir: folder.join("state"),
        log_dir: folder.join("log"),
        log_retention: Retention { size: 1 << 20, attempts: 1, ..Retention::default() },
        launcher: Some(env!("CARGO_BIN_EXE_agentd-launcher").into()),
        user: is_root.then(|| "nobody".to_owned()),
        admin_group: "root".to_owned(),
        operator_group: "root".to_owned(),
        agent_group: "root".to_owned(),
        override_dir: folder.join("overrides"),
        resync: Duration::from_secs(5),
        login_timeout: Duration::from_mins(1),
        settle: Duration::ZERO,
        detail: Detail::Plain,
        options: config::Options::default(),
        on_terminate: OnTerminate::Detach,
        without_effect: Vec::new(),
    }
}

#[test]
fn panic_in_any_thread_ends_the_daemon_and_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jcard.toml"), "# nothing\n[other]\n").unwrap();
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "daemon_with_a_defect", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(folder.path().join("stderr")).unwrap())
        .spawn()
        .unwrap();
    let limit = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = daemon.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > limit {
            daemon.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let said = std::fs::read_to_string(folder.path().join("stderr")).unwrap();
    assert_eq!(status.signal(), Some(nix::libc::SIGABRT), "{said}");
    assert!(said.contains("a defect ends this process") && said.contains("words of the program"), "{said}");
}
