//! `agentd status` and its client against a real server.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use crate::support::{Server, running};
use agentd::api::Limits;
use agentd::cli::status::{Arguments, run};
use agentd::client::{Answer, Client, Error};
use agentd::wire::status::{AgentStatus, State};

fn server() -> Server {
    let waiting = AgentStatus { running: false, state: State::Waiting, ..running("idle") };
    Server::start(vec![running("busy"), waiting], Limits::default())
}

fn status(name: Option<&str>, socket: &Path) -> ExitCode {
    let names: Vec<String> = name.map(str::to_owned).into_iter().collect();
    let arguments = |json| Arguments {
        names: names.clone(),
        labels: vec![],
        watch: false,
        sort: None,
        json,
        failed: false,
        check: false,
    };
    let [table, json] = [false, true].map(|json| run(&arguments(json), socket));
    assert_eq!(table, json);
    table
}

#[test]
fn exit_statuses_are_those_of_lsb() {
    let server = server();
    assert_eq!(status(None, &server.path), ExitCode::from(0));
    assert_eq!(status(Some("BUSY"), &server.path), ExitCode::from(0));
    assert_eq!(status(Some("idle"), &server.path), ExitCode::from(3));
    assert_eq!(status(Some("nobody"), &server.path), ExitCode::from(4));
    assert_eq!(status(Some(""), &server.path), ExitCode::from(4));
}

#[test]
fn without_a_daemon_agentd_does_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agentd.sock");
    assert_eq!(status(None, &path), ExitCode::from(3));
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(status(None, &path), ExitCode::from(3));
    assert_eq!(status(None, Path::new("")), ExitCode::from(3));
}

#[test]
fn without_a_daemon_it_is_unknown_what_an_agent_does() {
    let folder = tempfile::tempdir().unwrap();
    // Agents outlive the daemon.
    assert_eq!(status(Some("busy"), &folder.path().join("agentd.sock")), ExitCode::from(4));
}

#[test]
fn what_cannot_be_found_out_is_unknown() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(status(None, &folder.path().join("x".repeat(200))), ExitCode::from(4));
}

#[tokio::test]
async fn answers_carry_their_meaning_and_their_bytes() {
    let server = server();
    let client = Client::new(&server.path).unwrap();
    assert_eq!(client.health().await.unwrap().value.state, "running");
    let Answer { value, body } = client.agents().await.unwrap();
    assert_eq!(value.iter().map(|agent| agent.name.as_str()).collect::<Vec<_>>(), ["busy", "idle"]);
    assert_eq!(body, agentd::text::printable::json_line(&value));
    assert_eq!(client.agent("Idle").await.unwrap().value, value[1]);
}

#[tokio::test]
async fn names_of_any_kind_are_asked_for_safely() {
    let server = server();
    let client = Client::new(&server.path).unwrap();
    for name in ["", "a/b", "?", "é\n", "../health", "%62usy", &"x".repeat(10_000)] {
        let error = client.agent(name).await.unwrap_err();
        assert!(!matches!(error, Error::NotRunning(_)), "{name:?}: {error}");
    }
    assert!(matches!(client.agent("../health").await, Err(Error::NoSuchAgent { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_answer_is_given_up_after_5_s() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agentd.sock");
    let _mute = UnixListener::bind(&path).unwrap();
    let from = tokio::time::Instant::now();
    let error = Client::new(&path).unwrap().agents().await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert_eq!(from.elapsed().as_secs(), 5);
    assert!(error.to_string().ends_with("no answer within 5 s"), "{error}");
}

#[tokio::test]
async fn a_socket_for_others_says_who_may() {
    if nix::unistd::Uid::effective().is_root() {
        // Nothing is refused to root; the message is what matters.
        let folder = tempfile::TempDir::new().unwrap();
        let socket = folder.path().join("agentd.sock");
        let says = || Error::Denied(socket.clone()).to_string();
        std::fs::write(&socket, "").unwrap();
        assert!(says().ends_with("be root, or the user that agentd runs as"), "{}", says());
        let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap();
        nix::unistd::chown(&socket, None, Some(group.gid)).unwrap();
        assert!(says().ends_with("permission denied; be a member of group daemon or root"), "{}", says());
        return;
    }
    let server = server();
    std::fs::set_permissions(&server.path, std::fs::Permissions::from_mode(0o000)).unwrap();
    assert!(matches!(Client::new(&server.path).unwrap().health().await, Err(Error::Denied(_))));
}
