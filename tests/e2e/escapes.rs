//! A hostile agent in a sandbox gets at nothing outside: neither files nor processes, keys or privileges.

use std::fs::{self, Permissions};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

use rstest::rstest;

use crate::sandbox::{has, shell};
use crate::skip::skip;
use crate::support::{Daemon, Process, Setup, agent, as_user, is_root};

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

/// A folder of the agent user with a file that only that user can read.
fn put_secret(setup: &Setup) -> std::path::PathBuf {
    let user = setup.agent_account();
    let (folder, file) = (setup.path("private"), setup.path("private/key"));
    fs::create_dir(&folder).unwrap();
    fs::write(&file, "only outside").unwrap();
    for (path, mode) in [(&file, 0o600), (&folder, 0o700)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
    folder
}

#[test]
fn an_agent_cannot_make_another_file_its_prompt() {
    if !is_root() || !has("bwrap") {
        return skip("a file of another user is needed: run ./tests/run as root");
    }
    let setup = Setup::new();
    put_secret(&setup);
    fs::write(setup.work("PROMPT.md"), "do it").unwrap();
    let script = "echo \"$1\" >>prompts; ln -s @DIR/private/key x; mv -fT x PROMPT.md; sleep 1; exit 1";
    let more = "prompt_file = \"@WORK/PROMPT.md\"\nrestart = \"on-failure\"\nmax_restarts = 3\nbackoff = [\"10ms\"]";
    let entry = shell("a", "bwrap", script, more).replace("args = [\"rest\"]\n", "");
    let daemon = setup.start(&entry);
    let expected = "PROMPT.md is a link that an agent could have placed";
    daemon.wait_until("a", "without a prompt", |agent| agent.reason.as_ref().is_some_and(|it| it.contains(expected)));
    assert_eq!(daemon.lines("prompts"), ["do it"]);
}

const AGAIN: &str = "restart = \"on-failure\"\nmax_restarts = 2\nbackoff = [\"10ms\"]";

/// Waits until the agent is not started again, for this reason.
fn is_refused(daemon: &Daemon, expected: &str) {
    let has = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains(expected));
    daemon.wait_until("a", expected, |agent| has(&agent.reason) || has(&agent.error));
}

/// That the folder of [`put_secret`] has what it had.
fn is_untouched(private: &std::path::Path) {
    let names: Vec<_> = fs::read_dir(private).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["key"]);
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
fn an_agent_cannot_make_another_folder_its_workdir(#[case] engine: &str) {
    if !is_root() || !has(engine) {
        return skip("a file of another user is needed: run ./tests/run as root");
    }
    let setup = Setup::new();
    let private = put_secret(&setup);
    let user = setup.agent_account().name;
    assert!(as_user(&user, &["mkdir", "-p"]).arg(setup.work("shared/x/w")).status().unwrap().success());
    let script = "cat key >>@WORK/shared/seen; echo x >written; cd @WORK/shared; mkdir y; mv x gone; ln -s y x; \
                  ln -s ../../../private y/w; exit 1";
    let more = format!("sandbox_write = [\"@WORK/shared\"]\n{AGAIN}");
    let entry = shell("a", engine, script, &more).replace("workdir = \"@WORK\"", "workdir = \"@WORK/shared/x/w\"");
    let daemon = setup.start(&entry);
    is_refused(&daemon, "a link that the agent user could change");
    is_untouched(&private);
    assert!(daemon.lines("shared/seen").is_empty() && daemon.work("shared/gone/w/written").exists());
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
fn an_agent_has_nothing_made_through_links_in_its_home(#[case] engine: &str) {
    if !is_root() || !has(engine) {
        return skip("it needs the home of a lent user");
    }
    let setup = Setup::new();
    let private = put_secret(&setup);
    let user = setup.agent_account();
    let name = format!("links-{engine}-{}", std::process::id());
    let workdir = user.dir.join(&name).join("app");
    assert!(as_user(&user.name, &["mkdir", "-p"]).arg(&workdir).status().unwrap().success());
    let before = if engine == "bwrap" { "/oldroot" } else { "" };
    let script = format!("cd ~; mv {name} gone; ln -s {before}@DIR/private {name}; exit 1");
    let entry = shell(&name, engine, &script, &format!("sandbox_home = \"kept\"\n{AGAIN}"));
    let entry = entry.replace("workdir = \"@WORK\"", &format!("workdir = {workdir:?}"));
    let daemon = setup.start(&entry.replacen(&format!("name = {name:?}"), "name = \"a\"", 1));
    is_refused(&daemon, &format!("{name} is a link, and its place is behind that"));
    is_untouched(&private);
    drop(daemon);
    fs::remove_dir_all(user.dir.join(&name)).unwrap();
    let _ = fs::remove_dir_all(user.dir.join(".local/state/agentd/homes/a"));
}

#[test]
fn no_agent_sees_the_temporary_folders_of_others() {
    if !has("bwrap") {
        return;
    }
    let entries = [
        shell("read", "bwrap", "exit 0", "sandbox_read = [\"/tmp\"]"),
        shell("work", "bwrap", "exit 0", "").replace("workdir = \"@WORK\"", "workdir = \"/tmp\""),
    ];
    let daemon = Setup::new().start(&entries.concat());
    for name in ["read", "work"] {
        let error = daemon.wait_until(name, "failed", |agent| agent.error.is_some()).error.unwrap_or_default();
        // The homes of the lent users are there, too, which is another reason.
        let holds_home = name == "work" && error.contains("the workdir /tmp holds the home");
        assert!(error.contains("/tmp is the sandbox's own in every sandbox") || holds_home, "{name}: {error}");
    }
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
fn a_real_home_has_no_other_homes_and_no_login_to_change(#[case] engine: &str) {
    // The cases have one home, and each removes its files at the end.
    static ALONE: Mutex<()> = Mutex::new(());
    if !is_root() || !has(engine) {
        return skip("it needs the home of a lent user");
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let setup = Setup::new();
    let user = setup.agent_account();
    let other = format!(".local/state/agentd/homes/other-{engine}-{}", std::process::id());
    // No shell of the tests reads it.
    let prepare = format!("mkdir -p {other}; echo token >{other}/token; touch .zshenv; mkdir -p .config/fish");
    let mut prepare = as_user(&user.name, &["bash", "-c", &prepare]);
    assert!(prepare.current_dir(&user.dir).status().unwrap().success());
    let script = "cd ~; exec 2>@WORK/problems
        mv .local/state/agentd .local/state/moved && echo agentd; mv .local/state .local/moved && echo state
        mv .local .moved && echo local; mkdir -p .local/state/agentd/homes/new && echo made
        echo x >>.zshenv && echo login; rm -f .zshenv && echo removed; echo x >.config/fish/config.fish && echo fish
        mv .config .moved && echo config; echo x >own-file && rm own-file || echo cannot write
        find .local -name token; echo over";
    let script = format!("{{ {script}; }} >@WORK/result; sleep 1000");
    let daemon = setup.start(&shell("a", engine, &script, "sandbox_home = \"real\""));
    daemon.wait("the attempts to be over", || daemon.lines("result").contains(&"over".to_owned()).then_some(()));
    assert_eq!(daemon.lines("result"), ["over"], "{:?}", daemon.lines("problems"));
    assert!(user.dir.join(&other).join("token").exists());
    drop(daemon);
    let _ = fs::remove_dir_all(user.dir.join(&other));
    let _ = fs::remove_file(user.dir.join(".zshenv"));
}

#[test]
fn folders_nested_without_end_go_with_their_attempt() {
    if !is_root() || !has("bwrap") {
        return skip("it needs the folders of another user");
    }
    let script = "cd /tmp; echo mine >mine-$$; p=$(printf 'd/%.0s' {1..900}); for i in 1 2; do mkdir -p $p; cd $p; done; echo deep >@WORK/deep; exit 3";
    let daemon = Setup::new().start(&shell("a", "bwrap", script, ""));
    daemon.wait_for_state("a", agentd::wire::status::State::Exited);
    assert_eq!(daemon.lines("deep"), ["deep"]);
    // What its launcher had no time for, the next one removes.
    daemon.edit_jcard(&shell("a", "bwrap", "touch @WORK/again; sleep 1000", ""));
    daemon.wait_for_file("again");
    let prefix = agentd::launch::temporary_dir::prefix_of_all(&daemon.path("tmux/launch.sock"));
    let is_left = || {
        let folders = fs::read_dir("/tmp").unwrap().flatten().map(|entry| entry.path());
        let mut of_daemon = folders.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&prefix));
        of_daemon.any(|path| path.join("d").exists())
    };
    daemon.wait("the folders to be removed", || (!is_left()).then_some(()));
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
        "names of keys",
    ] {
        let expected = daemon.expand(expected);
        assert!(leaks.iter().any(|leak| leak.starts_with(&expected)), "{expected} in {leaks:?}");
    }
    assert!(daemon.path("open/escaped-native").exists());
    let _ = fs::remove_file(daemon.agent_account().dir.join("escaped-native"));
}
