//! `agentd diff` says what an edit would do, and the daemon then does that.

use std::io::Write;
use std::process::{Command, Stdio};

use agentd::wire::status::State;

use crate::support::{Daemon, Setup, agent, run};

fn diff(setup: &Setup, words: &[&str]) -> Command {
    let (config, socket) = (setup.jcard(), setup.api_socket());
    let places = ["--config", config.to_str().unwrap(), "--api-socket", socket.to_str().unwrap()];
    setup.agentd(&[&["diff"], words, &places].concat())
}

/// What is said of a file with this text, without the folder.
fn told(daemon: &Daemon, text: &str, options: &[&str]) -> (Option<i32>, String) {
    let file = daemon.work("next.toml");
    daemon.put(&file, daemon.expand(text));
    run(&mut diff(daemon, &[&[file.to_str().unwrap()], options].concat()))
}

#[test]
fn an_edit_does_what_diff_says() {
    let other = agent("same", "sleep inf", "");
    let daemon = Setup::new().start(
        &(agent("a", "sleep inf; rest", "prompt = \"one\"")
            + &agent("b", "sleep inf", "")
            + &agent("gone", "sleep inf", "")
            + &agent("over", "exit 0", "")
            + &other),
    );
    for name in ["a", "b", "gone", "same"] {
        daemon.wait_until_running(name);
    }
    daemon.wait_for_state("over", State::Exited);
    let next = agent("a", "sleep inf; rest", "prompt = \"two\"\nenv = { MODE = \"x\" }")
        + &agent("b", "sleep inf", "timeout = \"5h\"")
        + &agent("new", "sleep inf", "")
        + &agent("over", "sleep inf", "")
        + &other;
    let expected = "\
stop     gone: its entry is removed (now running)
restart  a: env.MODE and prompt changed (now running)
start    new: it is new
start    over: args changed (now exited)
change   b: timeout changed; what runs goes on (now running)
1 to stop, 1 to restart, 2 to start, 1 to change while it runs, 1 agent unchanged
";
    assert_eq!(told(&daemon, &next, &[]), (Some(1), expected.to_owned()));
    let (code, json) = told(&daemon, &next, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["daemon"], &json["unchanged"]), (Some(1), &true.into(), &1.into()));
    assert_eq!(json["agents"][1]["changed"]["fields"], serde_json::json!(["env.MODE", "prompt"]));
    let (b, same) = (daemon.wait_until_running("b"), daemon.wait_until_running("same"));
    daemon.edit_jcard(&next);
    daemon.wait_until_removed("gone");
    daemon.wait_until("a", "restarted", |agent| agent.running && agent.attempt_total == Some(2));
    daemon.wait_until_running("new");
    daemon.wait_until_running("over");
    assert_eq!((daemon.wait_until_running("b"), daemon.wait_until_running("same")), (b, same));
    let (code, said) = told(&daemon, &next, &[]);
    assert_eq!((code, said.as_str()), (Some(0), "5 agents unchanged\n"));
}

#[test]
fn without_a_daemon_the_files_are_compared() {
    let setup = Setup::new();
    setup.put(&setup.jcard(), setup.expand(&agent("a", "sleep inf", "")));
    let mut child =
        diff(&setup, &["-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(setup.expand(&agent("a", "exit 0", "")).as_bytes()).unwrap();
    let ended = child.wait_with_output().unwrap();
    let (said, complaint) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(said.starts_with("restart  a: args changed\n"), "{said}");
    assert!(complaint.contains("only the files were compared"), "{complaint}");
    assert_eq!(ended.status.code(), Some(1));
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_place() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let (code, said) = told(&daemon, &agent("a", "sleep inf", "restart = \"sometimes\""), &[]);
    assert!(said.contains("next.toml:7:11: ") && said.contains("keep     a: its entry is wrong"), "{said}");
    assert_eq!(code, Some(2));
    let (code, said) = told(&daemon, "[[agents]\n", &[]);
    assert!(code == Some(2) && said.contains("next.toml:1:"), "{said}");
    let (code, said) = run(&mut diff(&daemon, &["/no/such/file"]));
    assert!(code == Some(2) && said.contains("/no/such/file"), "{said}");
    let (code, said) = run(&mut diff(&daemon, &[]));
    assert!(code == Some(2) && said.contains("<FILE>"), "{said}");
}
