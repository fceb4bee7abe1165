//! Clients that are generated from the description of the API list the agents and follow the events.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agentd::wire::status::State;

use crate::support::{Daemon, Setup, agent, skip};

/// What `tests/clients/prepare` has installed, unless it has not.
fn prepared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients");
    if folder.join("stamp").exists() {
        return Some(folder);
    }
    skip("tests/clients/prepare has not installed the generators of clients");
    None
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Runs a generator or a compiler, which must not even warn.
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && !said.to_lowercase().contains("warning"), "{command:?}: {said}");
}

/// Ends a client that waits for an event that does not come.
fn within_a_minute() -> Command {
    let mut command = Command::new("timeout");
    command.arg("60");
    command
}

fn daemon() -> Daemon {
    let jcard = [
        agent("done", "say word; exit 0", ""),
        agent("failed", "exit 3", ""),
        agent("lacks", "sleep inf", "secrets = [\"MISSING\"]"),
        agent("rests", "exit 4", "restart = \"always\"\nbackoff = [\"1h\"]"),
        agent("runs", "sleep inf", ""),
    ];
    let daemon = Setup::new().start(&jcard.concat());
    daemon.wait_until_running("runs");
    for (name, state) in [("done", State::Exited), ("failed", State::Exited), ("rests", State::Backoff)] {
        daemon.wait_for_state(name, state);
    }
    daemon
}

/// Lets a client list the agents, and declares one more when it follows the events.
fn assert_client_works(daemon: &Daemon, client: &mut Command) {
    let mut client = client.arg(daemon.api_socket()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap);
    let before: Vec<String> = lines.by_ref().take_while(|line| line != "following").collect();
    let expected = [
        "done exited 0",
        "failed exited 3",
        "lacks waiting None secrets",
        "rests backoff 4 backoff",
        "runs running None",
        "word",
    ];
    assert_eq!(before, expected, "{client:?}");
    let jcard = fs::read_to_string(daemon.jcard()).unwrap();
    daemon.edit_jcard(&(jcard + &agent("late", "sleep inf", "")));
    assert_eq!(lines.collect::<Vec<_>>(), ["late runs"]);
    assert!(client.wait().unwrap().success());
}

#[test]
fn a_generated_python_client_lists_agents_and_follows_events() {
    let Some(tools) = prepared() else { return };
    let daemon = daemon();
    let folder = daemon.path("python");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("openapi.json"), daemon.get("/v1/openapi.json").body).unwrap();
    // The linter that the generator would start is not needed.
    let config = "post_hooks: []\ncontent_type_overrides:\n  application/openmetrics-text; version=1.0.0; charset=utf-8: text/plain\n";
    fs::write(folder.join("config.yml"), config).unwrap();
    let mut generate = Command::new(tools.join("python/bin/openapi-python-client"));
    run(generate
        .args(["generate", "--meta", "none", "--path", "openapi.json", "--output-path", "agentd_client"])
        .args(["--config", "config.yml"])
        .current_dir(&folder));
    let mut python = within_a_minute();
    python.arg(tools.join("python/bin/python")).arg("-B").arg(source("client.py")).env("PYTHONPATH", &folder);
    assert_client_works(&daemon, &mut python);
}

#[test]
fn a_generated_typescript_client_lists_agents_and_follows_events() {
    let Some(tools) = prepared() else { return };
    let daemon = daemon();
    let folder = daemon.path("typescript");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("openapi.json"), daemon.get("/v1/openapi.json").body).unwrap();
    symlink(tools.join("node_modules"), folder.join("node_modules")).unwrap();
    fs::copy(tools.join("package.json"), folder.join("package.json")).unwrap();
    fs::copy(source("client.ts"), folder.join("client.ts")).unwrap();
    let program = |name: &str| {
        let mut command = Command::new(tools.join("node_modules/.bin").join(name));
        command.current_dir(&folder);
        command
    };
    run(program("openapi-typescript").args(["openapi.json", "--output", "api.d.ts"]));
    run(program("tsc").args(["--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck", "client.ts"]));
    assert_client_works(&daemon, within_a_minute().arg("node").arg(folder.join("client.js")));
}
