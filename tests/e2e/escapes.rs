//! A hostile agent in a sandbox gets at nothing outside: neither files nor processes, keys or privileges.

use std::fs::{self, Permissions};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};

use rstest::rstest;

use crate::sandbox::{has, shell};
use crate::skip::skip;
use crate::support::{Daemon, Process, Setup, agent, is_root};

const WORD: &str = "only-in-the-environment-of-the-victim";

/// A daemon with a victim that is not sandboxed, and an agent of the same user that tries to reach it.
fn attacked(engine: &str, more: &str) -> Daemon {
    let setup = Setup::new();
    let name = format!("agentd-test-{}", setup.dir().file_name().unwrap().to_str().unwrap());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    // Connections succeed as long as it is bound, and nobody answers.
    let _outside = UnixListener::bind_addr(&address).unwrap();
    for (name, mode) in [("open", 0o777), ("hostile", 0o755)] {
        fs::create_dir(setup.path(name)).unwrap();
        fs::set_permissions(setup.path(name), Permissions::from_mode(mode)).unwrap();
    }
    let user = setup.agent_account();
    chown(setup.path("hostile"), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    let put = |name: &str, from: &str, mode| {
        fs::copy(from, setup.path(name)).unwrap();
        fs::set_permissions(setup.path(name), Permissions::from_mode(mode)).unwrap();
    };
    put("bin/escape", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/escape"), 0o755);
    put("bin/suid", "/bin/bash", 0o4755);
    put("bin/victim-harness", "/bin/sleep", 0o755);
    fs::write(setup.path("hostile/word"), format!("{WORD}\n")).unwrap();
    let script = "key=$(keyctl add user victim-key payload @s) && keyctl setperm $key 0x3f3f0000; echo $key >@DIR/hostile/key; \
                  echo $$ >@DIR/hostile/victim; exec @DIR/bin/victim-harness 1000";
    let victim = agent("victim", "rest", &format!("env = {{ WORD = {WORD:?} }}"))
        .replace("command = \"@HARNESS\"", &format!("command = [\"bash\", \"-c\", {script:?}]"));
    let daemon = setup.start(&victim);
    daemon.wait("the victim to run", || daemon.path("hostile/victim").exists().then_some(()));
    daemon.wait_until_running("victim");
    let hostile = if engine == "native" {
        agent("hostile", "rest", "env = { NATIVE = \"1\", ENGINE = \"\" }")
            .replace("command = \"@HARNESS\"", "command = [\"@DIR/bin/escape\", \"@DIR\"]")
    } else {
        shell("hostile", engine, "exec @DIR/bin/escape @DIR", &format!("env = {{ ENGINE = {engine:?} }}\n{more}"))
    };
    daemon.edit_jcard(&(victim + &hostile.replace("workdir = \"@WORK\"", "workdir = \"@DIR/hostile\"")));
    let result = || fs::read_to_string(daemon.path("hostile/result")).unwrap_or_default();
    daemon.wait("the attempts to be over", || result().contains("killed").then_some(()));
    daemon
}

fn leaks(daemon: &Daemon) -> Vec<String> {
    let result = fs::read_to_string(daemon.path("hostile/result")).unwrap();
    result.lines().filter_map(|line| line.strip_prefix("LEAK ")).map(str::to_owned).collect()
}

#[rstest]
#[case("bwrap", "")]
#[case("bwrap", "network = \"none\"\nsandbox_home = \"kept\"")]
#[case("crun", "")]
#[case("runsc", "")]
fn a_hostile_agent_does_not_get_out(#[case] engine: &str, #[case] more: &str) {
    if !is_root() || !has(engine) {
        return skip("a setuid program and another user are needed: run ./tests/run as root");
    }
    let daemon = attacked(engine, more);
    assert_eq!(leaks(&daemon), [""; 0]);
    let written = format!("escaped-{engine}");
    for place in ["open", "bin", "", "work"] {
        assert!(!daemon.path(place).join(&written).exists(), "{place}");
    }
    let home = daemon.agent_account().dir;
    assert!(!home.join(&written).exists() && !home.join("..").join(&written).exists());
    // It has killed everything that it reached.
    let victim = fs::read_to_string(daemon.path("hostile/victim")).unwrap();
    assert!(Process(victim.trim().parse().unwrap()).is_alive());
    assert!(daemon.agent("victim").unwrap().running);
}

/// What the attempts find if there is nothing to get out of. Otherwise the test above would prove nothing.
#[test]
fn the_attempts_succeed_without_a_sandbox() {
    if !is_root() {
        return skip("a setuid program and another user are needed: run ./tests/run as root");
    }
    let daemon = attacked("native", "");
    let leaks = leaks(&daemon);
    // Not `mount`, `remount`, `umount` and `mount namespace`: no ordinary user may do that. A namespace is what makes it possible.
    for expected in [
        "files jcard.toml",
        "environment",
        "signal",
        "sees the other agent",
        "traces the other agent",
        "socket @DIR/tmux/launch.sock",
        "socket @DIR/tmux/tmux.sock",
        "abstract socket",
        "user namespace",
        "mount in a namespace",
        "setuid",
        "root /proc",
        "new privileges",
        "key",
        "key by name",
    ] {
        let expected = daemon.expand(expected);
        assert!(leaks.iter().any(|leak| leak.starts_with(&expected)), "{expected} in {leaks:?}");
    }
    assert!(daemon.path("open/escaped-native").exists());
    let _ = fs::remove_file(daemon.agent_account().dir.join("escaped-native"));
}
