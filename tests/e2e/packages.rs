//! `extra_packages` with the real Nix: built as the agent user, in a store of the test's own, from a flake that stands for nixpkgs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use agentd::wire::reason::{MissingPackages, WaitingFor};
use agentd::wire::status::{AgentStatus, State};
use nix::sys::signal::Signal;

use crate::support::{BOUND, Daemon, Process, Setup, path, root, run, skip};

/// Whether this machine has Nix. Without it, the test is skipped with a message.
fn has_nix() -> bool {
    let has = std::env::split_paths(&path()).any(|folder| folder.join("nix-store").exists());
    if !has {
        skip("it needs nix: see tests/need");
    }
    has
}

/// What stands for nixpkgs. `later` waits until the test says so, and `hanging` never ends.
const FLAKE: &str = r#"{
  outputs = { self }:
    let
      make = name: script: builtins.derivation {
        inherit name;
        system = "@SYSTEM";
        builder = "/bin/sh";
        args = [ "-c" ("PATH=/usr/bin:/bin; set -e\n" + script) ];
      };
      tool = name: make name ''
        echo "making ${name}"
        mkdir -p $out/bin
        printf '#!/bin/sh\necho "${name} of the package"\n' >$out/bin/${name}
        chmod 755 $out/bin/${name}
      '';
    in {
      legacyPackages."@SYSTEM" = {
        greet = tool "greet";
        sets.uname = tool "uname";
        broken = make "broken" "echo cannot make it >&2; exit 3";
        later = make "later" "touch @WORK/begun; until [ -e @WORK/go ]; do sleep 0.05; done; mkdir -p $out/bin";
        hanging = make "hanging" "touch @WORK/begun; ln -sf $(command -v sleep) @WORK/sleeper; @WORK/sleeper 1000; :";
        # @MORE
      };
    };
}
"#;

const SETTINGS: &str =
    "sandbox = false\nsubstituters =\nbuild-users-group =\nflake-registry = @DIR/nix/no-registry.json\n";

/// A place with a flake and settings of Nix.
fn setup() -> Setup {
    let setup = Setup::new();
    for folder in ["flake", "nix"] {
        fs::create_dir(setup.path(folder)).unwrap();
    }
    put_flake(&setup, "");
    setup.put(&setup.path("nix/nix.conf"), setup.expand(SETTINGS));
    setup.put(&setup.path("nix/no-registry.json"), r#"{ "version": 2, "flakes": [] }"#);
    let registry = r#"{ "version": 2, "flakes": [ { "from": { "type": "indirect", "id": "nixpkgs" },
        "to": { "type": "path", "path": "@DIR/flake" } } ] }"#;
    setup.put(&setup.path("nix/registry.json"), setup.expand(registry));
    setup
}

fn put_flake(setup: &Setup, more: &str) {
    let system = format!("{}-linux", std::env::consts::ARCH);
    let flake = FLAKE.replace("@SYSTEM", &system).replace("# @MORE", more);
    setup.put(&setup.path("flake/flake.nix"), setup.expand(&flake));
}

/// Where Nix has its store and settings, as variables. The store is the agent user's own.
const NIX: [(&str, &str); 4] = [
    ("NIX_STORE_DIR", "@WORK/nix/store"),
    ("NIX_STATE_DIR", "@WORK/nix/var"),
    ("NIX_LOG_DIR", "@WORK/nix/log"),
    ("NIX_CONF_DIR", "@DIR/nix"),
];

/// An agent with these packages that runs a script. Its name is that of the test, because agents of other tests have the same home.
fn entry(name: &str, packages: &str, script: &str, more: &str) -> String {
    entry_with(&NIX, name, packages, script, more)
}

/// The same with other variables for Nix.
fn entry_with(nix: &[(&str, &str)], name: &str, packages: &str, script: &str, more: &str) -> String {
    let nix: Vec<String> = nix.iter().map(|(name, value)| format!("{name} = \"{value}\"")).collect();
    format!(
        "[[agents]]\nname = {name:?}\ntype = \"native\"\nharness = \"custom\"\ncommand = [\"/bin/sh\", \"-c\", '''{script}; exec sleep \
         1000''']\nworkdir = \"@WORK\"\nextra_packages = {packages}\n{more}\n[agents.env]\n{}\n",
        nix.join("\n")
    )
}

/// The state folder of an agent, which is removed with this.
struct KeptState(PathBuf);

impl KeptState {
    fn of(setup: &Setup, name: &str) -> Self {
        Self(setup.agent_account().dir.join(".local/state/agentd/packages").join(name))
    }
}

impl Drop for KeptState {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn missing(agent: &AgentStatus) -> Option<&MissingPackages> {
    agent.waiting_for.iter().find_map(|cause| match cause {
        WaitingFor::Packages { packages } => Some(packages),
        _ => None,
    })
}

/// Waits until the agent waits for its packages, and returns what is wrong with them.
fn lacking(daemon: &Daemon, name: &str) -> (AgentStatus, String) {
    let status = daemon
        .wait_until(name, "waiting for packages", |agent| agent.state == State::Waiting && missing(agent).is_some());
    let detail = missing(&status).unwrap().detail.clone();
    (status, detail)
}

fn running(daemon: &Daemon, name: &str) -> AgentStatus {
    daemon.wait_until(name, "running", |agent| agent.running)
}

/// Processes of Nix that work for this test.
fn builders(setup: &Setup) -> usize {
    let marks = ["begun", "sleeper"].map(|mark| setup.work(mark).display().to_string());
    let words = Process::all().map(|process| String::from_utf8_lossy(&process.cmdline()).into_owned());
    words.filter(|words| marks.iter().any(|mark| words.contains(mark))).count()
}

#[test]
fn programs_of_packages_come_first_in_the_path() {
    if !has_nix() {
        return;
    }
    let (setup, name) = (setup(), "packages-first");
    let _state = KeptState::of(&setup, name);
    let script = "{ greet; uname; echo $PATH; id -un; } >@WORK/out.new; mv @WORK/out.new @WORK/out";
    let daemon = setup.start(&entry(name, "[\"greet\", \"sets.uname\"]", script, ""));
    let out = String::from_utf8(daemon.wait_for_file("out")).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["greet of the package", "uname of the package"]);
    let folders: Vec<&str> = lines[2].split(':').collect();
    let store = daemon.work("nix/store").display().to_string();
    assert!(folders[0].starts_with(&store) && folders[0].ends_with("-greet/bin"), "{folders:?}");
    assert!(folders[1].ends_with("-uname/bin") && folders.contains(&"/usr/bin"), "{folders:?}");
    assert_eq!(lines[3], daemon.agent_account().name);
    let pane = daemon.capture(name);
    assert!(pane.contains("making greet"), "{pane}");
    let status = running(&daemon, name);
    assert_eq!((status.attempt, status.error), (Some(1), None));
    // Root has built nothing.
    let uid = daemon.agent_account().uid.as_raw();
    let owners = owners_below(&daemon.work("nix/var"));
    assert!(owners.iter().all(|owner| *owner == uid), "{owners:?}");
    let (_, said) = run(daemon.agentd(&["doctor", "--json"]).env("AGENTD_API_SOCKET", daemon.api_socket()));
    assert!(said.contains("Nix is there, for 1 agent"), "{said}");
}

/// The owners of everything below a folder.
fn owners_below(folder: &Path) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    let mut owners = vec![fs::symlink_metadata(folder).unwrap().uid()];
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            owners.extend(owners_below(&entry.path()));
        } else {
            owners.push(fs::symlink_metadata(entry.path()).unwrap().uid());
        }
    }
    owners
}

#[test]
fn what_was_built_serves_the_next_start_without_nixpkgs() {
    if !has_nix() {
        return;
    }
    let (setup, name) = (setup(), "packages-again");
    let _state = KeptState::of(&setup, name);
    let script = "greet >>@WORK/out";
    let entry = |packages: &str, more: &str| entry(name, packages, script, more);
    let daemon = setup.start(&entry("[\"greet\"]", ""));
    daemon.wait("the first start", || (daemon.lines("out").len() == 1).then_some(()));
    fs::remove_dir_all(daemon.path("flake")).unwrap();
    // Nix can do nothing without it.
    daemon.put(&daemon.path("nix/nix.conf"), "no setting\n");
    daemon.edit_jcard(&entry("[\"greet\"]", "generation = 1"));
    daemon.wait("the second start", || (daemon.lines("out").len() == 2).then_some(()));
    daemon.put(&daemon.path("nix/nix.conf"), daemon.expand(SETTINGS));
    // Other packages are built.
    daemon.edit_jcard(&entry("[\"greet\", \"sets.uname\"]", "generation = 1"));
    let (_, why) = lacking(&daemon, name);
    assert!(why.contains("flake"), "{why}");
    fs::create_dir(daemon.path("flake")).unwrap();
    put_flake(&daemon, "");
    daemon.signal(Signal::SIGHUP);
    daemon.wait("the third start", || (daemon.lines("out").len() == 3).then_some(()));
}

#[test]
fn a_package_that_is_gone_from_the_store_is_built_again() {
    if !has_nix() {
        return;
    }
    let (setup, name) = (setup(), "packages-gone");
    let _state = KeptState::of(&setup, name);
    let entry = |more: &str| entry(name, "[\"greet\"]", "greet >>@WORK/out", more);
    let daemon = setup.start(&entry(""));
    daemon.wait("the first start", || (daemon.lines("out").len() == 1).then_some(()));
    let store = daemon.work("nix/store");
    fs::remove_dir_all(&store).unwrap();
    fs::remove_dir_all(daemon.work("nix/var")).unwrap();
    daemon.edit_jcard(&entry("generation = 1"));
    daemon.wait("the second start", || (daemon.lines("out").len() == 2).then_some(()));
}

#[test]
fn a_store_path_is_taken_as_it_is() {
    if !has_nix() {
        return;
    }
    let (setup, name) = (setup(), "packages-path");
    let _state = KeptState::of(&setup, name);
    let folder = setup.work("mine");
    fs::create_dir_all(folder.join("bin")).unwrap();
    setup.put(&folder.join("bin/greet"), "#!/bin/sh\necho mine\n");
    fs::set_permissions(folder.join("bin/greet"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let variables: Vec<String> = NIX.iter().map(|(name, value)| setup.expand(&format!("{name}={value}"))).collect();
    let mut words = vec!["env"];
    words.extend(variables.iter().map(String::as_str));
    words.extend(["nix-store", "--add", folder.to_str().unwrap()]);
    let (code, printed) = run(&mut setup.as_agent(&words));
    assert_eq!(code, Some(0), "{printed}");
    let stored = printed.trim().to_owned();
    let packages = format!("[{stored:?}, \"greet\"]");
    let daemon = setup.start(&entry(name, &packages, "greet >@WORK/out.new; mv @WORK/out.new @WORK/out", ""));
    assert_eq!(daemon.wait_for_file("out"), b"mine\n");
    let invalid = Path::new(&stored).with_file_name("00000000000000000000000000000000-none");
    daemon.edit_jcard(&entry(name, &format!("[{:?}]", invalid.display().to_string()), "greet", ""));
    let (_, why) = lacking(&daemon, name);
    assert!(why.contains("00000000000000000000000000000000-none"), "{why}");
}

#[test]
fn an_unknown_package_is_waited_for_and_not_counted() {
    if !has_nix() {
        return;
    }
    let (setup, name) = (setup(), "packages-unknown");
    let _state = KeptState::of(&setup, name);
    let daemon = setup.start(&entry(name, "[\"greet\", \"gret\"]", "gret >@WORK/out", "backoff = [\"1h\"]"));
    let (waits, why) = lacking(&daemon, name);
    assert!(why.contains("does not provide attribute") && why.contains("gret"), "{why}");
    assert_eq!(waits.reason.clone().unwrap(), format!("its extra_packages are not there: {why}"));
    assert_eq!((waits.attempt, waits.attempt_total, waits.restarts, waits.outcome), (None, None, 0, None));
    assert!(waits.next_start_at.is_some() && waits.history.is_empty(), "{waits:?}");
    let socket = daemon.api_socket();
    let (_, shown) = run(&mut daemon.agentd(&["explain", "--api-socket", socket.to_str().unwrap(), name]));
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.contains("nix build nixpkgs#greet nixpkgs#gret"), "{shown}");
    put_flake(&daemon, "gret = tool \"gret\";");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_file("out");
    let runs = running(&daemon, name);
    assert_eq!((runs.attempt_total, runs.error), (Some(1), None));
}

#[test]
fn a_build_that_fails_is_tried_again_at_the_backoff() {
    if !has_nix() {
        return;
    }
    let (setup, name) = (setup(), "packages-broken");
    let _state = KeptState::of(&setup, name);
    let daemon = setup.start(&entry(name, "[\"broken\"]", "touch @WORK/out", "restart = \"no\"\nbackoff = [\"1s\"]"));
    let (_, why) = lacking(&daemon, name);
    assert!(why.contains("failed with exit code 3") && why.ends_with("cannot make it"), "{why}");
    daemon.wait("three launches", || (daemon.log().matches("launching").count() >= 3).then_some(()));
    assert_eq!(lacking(&daemon, name).0.attempt_total, None);
    assert!(!daemon.work("out").exists(), "it was started without its packages");
}

#[test]
fn a_build_that_hangs_is_ended_with_everything_it_started() {
    if !has_nix() {
        return;
    }
    let (setup, name) = (setup(), "packages-hanging");
    let _state = KeptState::of(&setup, name);
    let more = "extra_packages_timeout = \"3s\"\nbackoff = [\"1h\"]";
    let daemon = setup.start(&entry(name, "[\"hanging\"]", "touch @WORK/out", more));
    daemon.wait_for_file("begun");
    assert!(builders(&daemon) > 0);
    let (_, why) = lacking(&daemon, name);
    assert_eq!(why, "they were not there within 3s (`extra_packages_timeout`)");
    daemon.wait("the build to be gone", || (builders(&daemon) == 0).then_some(()));
}

#[test]
fn a_machine_without_nix_is_told() {
    let usual = ["/nix/var/nix/profiles/default/bin/nix", "/run/current-system/sw/bin/nix"];
    if usual.iter().any(|nix| Path::new(nix).exists()) {
        return skip("it needs a machine where Nix is not in its usual places");
    }
    let (setup, name) = (setup(), "packages-none");
    let _state = KeptState::of(&setup, name);
    let without = entry(name, "[\"greet\"]", "touch @WORK/out", "backoff = [\"1h\"]") + "PATH = \"@DIR/bin\"\n";
    let daemon = setup.start(&without);
    let (_, why) = lacking(&daemon, name);
    assert!(why.starts_with("Nix is not installed: there is no nix in the PATH of the agent user;"), "{why}");
    assert!(!daemon.work("out").exists());
    // As the doctor has the agent user look.
    let (code, said) = run(daemon.agentd(&["step", "nix"]).env("PATH", daemon.path("bin")));
    assert!(code == Some(1) && said.contains("Nix is not installed"), "{said}");
}

/// The daemon of Nix, as on machines that several users share: its store is root's.
struct NixDaemon(Child);

const BY_DAEMON: [(&str, &str); 6] = [
    ("NIX_REMOTE", "daemon"),
    ("NIX_DAEMON_SOCKET_PATH", "@DIR/nix/daemon.sock"),
    ("NIX_STORE_DIR", "@DIR/store/store"),
    ("NIX_STATE_DIR", "@DIR/store/var"),
    ("NIX_LOG_DIR", "@DIR/store/log"),
    ("NIX_CONF_DIR", "@DIR/nix"),
];

impl NixDaemon {
    fn start(setup: &Setup) -> Self {
        let variables = BY_DAEMON.iter().skip(1).map(|(name, value)| (*name, setup.expand(value)));
        let mut command = Command::new("nix-daemon");
        // Without this it would ask itself.
        command.envs(variables).env("NIX_REMOTE", "local").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(setup.path("nix/daemon.log")).unwrap());
        let daemon = Self(command.spawn().unwrap());
        setup.wait("the daemon of Nix", || setup.path("nix/daemon.sock").exists().then_some(()));
        daemon
    }
}

impl Drop for NixDaemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_daemon_of_nix_builds_and_stops_for_an_agent() {
    if !has_nix() || !root() {
        return;
    }
    let (setup, name) = (setup(), "packages-daemon");
    let _state = KeptState::of(&setup, name);
    let _nix = NixDaemon::start(&setup);
    let entry = |packages: &str| entry_with(&BY_DAEMON, name, packages, "greet >>@WORK/out", "grace_period = \"10m\"");
    let daemon = setup.start(&entry("[\"greet\"]"));
    daemon.wait("the first start", || (daemon.lines("out") == ["greet of the package"]).then_some(()));
    // The builder is root's here: it may write there.
    daemon.edit_jcard(&entry("[\"greet\", \"hanging\"]"));
    building(&daemon, name);
    daemon.edit_jcard(&self::entry("packages-rest", "[]", "true", ""));
    daemon.wait_until_removed(name);
    daemon.wait("the build to be gone", || (builders(&daemon) == 0).then_some(()));
}

/// Waits until the builder of `later` or `hanging` runs.
fn building(daemon: &Daemon, name: &str) {
    daemon.wait_for_file("begun");
    let says = |agent: &AgentStatus| {
        let reason = agent.reason.as_deref();
        reason.is_some_and(|reason| reason.ends_with("is being started: packages are being built"))
    };
    // The builder may have begun before the daemon has heard of it.
    daemon.wait_until(name, "building", |agent| agent.state == State::Starting && says(agent));
}

#[test]
fn a_stop_ends_a_build_at_once() {
    if !has_nix() {
        return;
    }
    let (setup, name) = (setup(), "packages-stopped");
    let _state = KeptState::of(&setup, name);
    let other = entry("packages-other", "[]", "true", "");
    let hanging = entry(name, "[\"hanging\"]", "touch @WORK/out", "grace_period = \"10m\"");
    let daemon = setup.start(&format!("{hanging}{other}"));
    building(&daemon, name);
    daemon.wait_until_running("packages-other");
    let begin = Instant::now();
    daemon.edit_jcard(&other);
    daemon.wait("the agent to be gone", || daemon.agents().iter().all(|agent| agent.name != name).then_some(()));
    assert!(begin.elapsed() < BOUND, "{:?}", begin.elapsed());
    assert_eq!(builders(&daemon), 0);
    assert!(!daemon.work("out").exists());
}

#[test]
fn a_build_outlives_the_daemon() {
    if !has_nix() {
        return;
    }
    let (setup, name) = (setup(), "packages-outlives");
    let _state = KeptState::of(&setup, name);
    let mut daemon = setup.start(&entry(name, "[\"later\"]", "echo start >>@WORK/out", ""));
    building(&daemon, name);
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    daemon.put(&daemon.work("go"), "");
    let runs = running(&daemon, name);
    assert_eq!(runs.attempt_total, Some(1));
    daemon.wait("one start", || (daemon.lines("out").len() == 1).then_some(()));
}
