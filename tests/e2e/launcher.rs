//! The launcher's program: which one it is, and what happens to one of another build.

use std::fs;
use std::path::Path;

use super::support::{Process, Setup, agent, binary, run};

#[test]
fn a_daemon_without_a_launcher_says_where_it_looked() {
    let setup = Setup::new().args(["--launcher", "/nonexistent/agentd-launcher"]);
    setup.edit_jcard("[other]\n");
    let (code, said) = run(&mut setup.daemon_command());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("/nonexistent/agentd-launcher") && said.contains("--launcher"), "{said}");
}

/// A launcher that speaks another version on its first start, writes what it receives to a file, and is the real one afterward.
const OF_ANOTHER_BUILD: &str = r#"#!/usr/bin/env python3
import json, os, socket, sys
name, attempt, path, agentd = sys.argv[1:]
told = "@WORK/told"
if not os.path.exists(told):
    daemon = socket.socket(socket.AF_UNIX)
    daemon.connect(path)
    body = json.dumps({"hello": {"version": 1, "name": name, "attempt": int(attempt), "progress": "new"}}).encode()
    daemon.sendall(len(body).to_bytes(4, "little") + body)
    answer = daemon.recv(1 << 16)
    with open(told, "w") as file:
        file.write(answer[4:].decode())
    sys.exit(125)
os.execv("@LAUNCHER", ["@LAUNCHER", *sys.argv[1:]])
"#;

#[test]
fn a_launcher_of_another_version_is_rejected_and_replaced() {
    let setup = Setup::new();
    let program = setup.path("bin/other-launcher");
    let real = binary().with_file_name("agentd-launcher");
    let script = OF_ANOTHER_BUILD.replace("@WORK", setup.work("").to_str().unwrap().trim_end_matches('/'));
    setup.put(&program, script.replace("@LAUNCHER", real.to_str().unwrap()));
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let daemon = setup.args(["--launcher", program.to_str().unwrap()]).start(&agent("a", "sleep inf", ""));
    let status = daemon.wait_until("a", "told why it does not run", |agent| {
        agent.running || agent.reason.as_deref().is_some_and(|reason| reason.contains("speaks version 1"))
    });
    let reason = status.reason.unwrap_or_default();
    assert!(status.running || reason.contains("restart it"), "{reason}");
    daemon.wait_until_running("a");
    assert_eq!(fs::read_to_string(daemon.work("told")).unwrap(), "\"unwanted\"");
}

#[test]
fn the_former_launcher_command_still_works() {
    let setup = Setup::new();
    let program = setup.path("bin/former-launcher");
    // As a daemon of an earlier build starts it, from an executable that has since been replaced.
    setup.put(&program, format!("#!/bin/sh\nexec {} exec \"$1\" \"$2\" \"$3\"\n", binary().display()));
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let daemon = setup.args(["--launcher", program.to_str().unwrap()]).start(&agent("a", "sleep inf", ""));
    let launcher = Process(daemon.wait_until_running("a")).parent();
    assert_eq!(launcher.argv().get(1).map(String::as_str), Some("exec"));
}

#[test]
fn the_launcher_is_a_separate_program_beside_agentd() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    let launcher = Process(daemon.wait_until_running("a")).parent();
    let argv = launcher.argv();
    assert_eq!(Path::new(&argv[0]), binary().with_file_name("agentd-launcher"));
    assert_eq!(Path::new(&argv[4]), binary());
}
