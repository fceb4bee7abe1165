//! Plays recorded conversations between launchers and daemons of earlier builds to those of this build.
//!
//! Launchers outlive an upgrade of the daemon, and a daemon may start before its launchers are upgraded. Each line of a recording has
//! the body of a frame and its sender, or says what happened to the connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use agentd::launch::listener::{self, UnverifiedLauncher};
use agentd::launch::protocol::{FromLauncher, MAX_FROM_LAUNCHER, Progress, ToLauncher, WIRE_VERSION};
use agentd::launch::socket_dir::{LaunchSocketKeeper, SocketDir};
use agentd::sys::account::Account;
use agentd::sys::{fd_passing, frame};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

/// Recordings of the last build whose launchers could not move their logs, of the last build whose launcher was `agentd exec`, and
/// of the first build with sandboxes.
const RECORDINGS: [&str; 3] = [
    include_str!("recordings/launcher-wire-1-cee68a3"),
    include_str!("recordings/launcher-wire-1-a498f6d"),
    include_str!("recordings/launcher-wire-2-99ee3e0"),
];

/// The version of the protocol in each.
const VERSIONS: [u32; 3] = [1, 1, 2];

#[path = "support/skip.rs"]
mod skip;

/// How long each step may take.
const BOUND: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step<'a> {
    Connect,
    FromLauncher(&'a str),
    /// The second field says whether files come with the message.
    ToLauncher(&'a str, bool),
    Close,
}

fn steps(recording: &str) -> Vec<Step<'_>> {
    let mut with_files = false;
    let mut steps = Vec::new();
    for line in recording.lines() {
        steps.push(match line.split_once(' ') {
            None if line == "connect" => Step::Connect,
            None if line == "close" => Step::Close,
            Some(("launcher", body)) => Step::FromLauncher(body),
            Some(("daemon", body)) => Step::ToLauncher(body, std::mem::take(&mut with_files)),
            _ => {
                with_files = true;
                continue;
            }
        });
    }
    steps
}

fn frame_of(body: &str) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_le_bytes(), body.as_bytes()].concat()
}

/// Whether `other` contains everything that `one` does. It may contain more.
fn holds(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.iter().all(|(key, value)| other.get(key).is_some_and(|other| holds(value, other)))
        }
        _ => one == other,
    }
}

/// The message that this build sends for the same meaning.
fn said_again<T: serde::Serialize + serde::de::DeserializeOwned>(body: &str) -> Value {
    let message: T = serde_json::from_str(body).unwrap();
    let frame = frame::encode(&message).unwrap();
    serde_json::from_slice(&frame[4..]).unwrap()
}

#[rstest]
#[case(RECORDINGS[0])]
#[case(RECORDINGS[1])]
#[case(RECORDINGS[2])]
fn messages_keep_all_fields_of_earlier_builds(#[case] recording: &str) {
    for step in steps(recording) {
        let (body, again) = match step {
            Step::FromLauncher(body) => (body, said_again::<FromLauncher>(body)),
            Step::ToLauncher(body, _) => (body, said_again::<ToLauncher>(body)),
            _ => continue,
        };
        assert!(holds(&serde_json::from_str(body).unwrap(), &again), "{body} has become {again}");
    }
}

#[rstest]
#[case(0, false)]
#[case(1, true)]
#[case(2, true)]
#[tokio::test]
async fn daemon_understands_launchers_of_earlier_builds(#[case] number: usize, #[case] can_move: bool) {
    let (recording, version) = (RECORDINGS[number], VERSIONS[number]);
    // Binding changes the umask, which all threads would share otherwise.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
    let directory = tempfile::TempDir::new().unwrap();
    let account = Account::current().unwrap();
    let folder = SocketDir::of(&directory.path().join("tmux.sock"), &account, None).unwrap();
    let listener = folder.bind_launch_socket().unwrap();
    let (trouble, _troubles) = watch::channel(None);
    let (_rounds, round) = watch::channel(());
    let (tell, mut told) = mpsc::unbounded_channel();
    let hand_on = move |visitor: UnverifiedLauncher| drop(tell.send(visitor));
    let keeper = LaunchSocketKeeper::new(&folder.launch_socket(), &account, None, true);
    tokio::spawn(listener::receive(Some(listener), keeper, account.uid, trouble, round, hand_on));

    let mut heard = Vec::new();
    let (mut stream, mut visitor) = (None, None::<UnverifiedLauncher>);
    for step in steps(recording) {
        match step {
            Step::Connect => stream = Some(UnixStream::connect(folder.launch_socket()).await.unwrap()),
            Step::FromLauncher(body) => {
                stream.as_mut().unwrap().write_all(&frame_of(body)).await.unwrap();
                if let Some(visitor) = &mut visitor {
                    heard.push(visitor.reader.read::<FromLauncher>().await.unwrap().unwrap());
                } else {
                    let new = told.recv().await.unwrap();
                    assert_eq!((new.name.as_str(), new.attempt, new.version), ("reviewer", 1, version));
                    assert_eq!(new.can_move, can_move);
                    assert_eq!(new.has_launched(), !heard.is_empty(), "it has launched when it comes again");
                    assert_eq!(new.fingerprint.is_some(), new.has_launched());
                    visitor = Some(new);
                }
            }
            Step::ToLauncher(..) => {}
            Step::Close => (stream, visitor) = (None, None),
        }
    }
    assert!(matches!(heard.as_slice(), [FromLauncher::Started(_), FromLauncher::Ended(_)]), "{heard:?}");
}

/// A launcher of this build on a terminal, with this test as its daemon.
struct Launcher {
    child: std::process::Child,
    listener: UnixListener,
    stream: Option<UnixStream>,
    log: tempfile::NamedTempFile,
    index: File,
    _terminal: pty_process::blocking::Pty,
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Launcher {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("launch.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (terminal, pts) = pty_process::blocking::open().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentd-launcher"));
        command.args(["reviewer", "1"]).arg(&socket).arg(env!("CARGO_BIN_EXE_agentd"));
        command.env_remove("TMUX").env_remove("TMUX_PANE");
        let child = pty_process::blocking::Command::from(command).spawn(pts).unwrap();
        // Opened as the daemon does.
        let log = tempfile::Builder::new().append(true).tempfile_in(folder).unwrap();
        let index = tempfile::tempfile_in(folder).unwrap();
        Self { child, listener, stream: None, log, index, _terminal: terminal }
    }

    async fn accept(&mut self) {
        let (stream, _) = tokio::time::timeout(BOUND, self.listener.accept()).await.unwrap().unwrap();
        self.stream = Some(stream);
    }

    async fn hear(&mut self) -> Value {
        let mut head = [0; 4];
        let stream = self.stream.as_mut().unwrap();
        tokio::time::timeout(BOUND, stream.read_exact(&mut head)).await.unwrap().unwrap();
        let length = u32::from_le_bytes(head) as usize;
        assert!(length <= MAX_FROM_LAUNCHER);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    async fn tell(&mut self, body: &str, with_files: bool) {
        let frame = frame_of(body);
        let stream = self.stream.as_mut().unwrap();
        let files = [self.log.as_file().as_fd(), self.index.as_fd()];
        let sent = fd_passing::send(stream, &frame, if with_files { &files } else { &[] }).await.unwrap();
        stream.write_all(&frame[sent..]).await.unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let limit = Instant::now() + BOUND;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < limit, "the launcher ends");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether the launcher can make sandboxes here.
fn has_bwrap() -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentd-launcher"));
    command.args(["try", "bwrap"]).status().unwrap().success()
}

#[rstest]
#[case(RECORDINGS[0])]
#[case(RECORDINGS[1])]
#[case(RECORDINGS[2])]
#[tokio::test]
async fn launcher_understands_daemons_of_earlier_builds(#[case] recording: &str) {
    if recording.contains("sandbox") && !has_bwrap() {
        return skip::skip("bwrap does not work here");
    }
    let folder = tempfile::TempDir::new().unwrap();
    let mut launcher = Launcher::start(folder.path());
    let mut fingerprint = Value::Null;
    let mut pid = Value::Null;
    for step in steps(recording) {
        match step {
            Step::Connect => launcher.accept().await,
            Step::Close => launcher.stream = None,
            Step::ToLauncher(body, with_files) => {
                let message: Value = serde_json::from_str(body).unwrap();
                if let Some(launch) = message.get("launch") {
                    fingerprint = launch["fingerprint"].clone();
                } else if message != "noted" {
                    // The harness must be ready for the signal, and two signals at once would arrive as one.
                    let path = launcher.log.path().to_owned();
                    let limit = Instant::now() + BOUND;
                    while !std::fs::read_to_string(&path).unwrap().contains("ready") {
                        assert!(Instant::now() < limit, "the harness prints to its log");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                launcher.tell(body, with_files).await;
            }
            Step::FromLauncher(body) => {
                let recorded: Value = serde_json::from_str(body).unwrap();
                let mut said = launcher.hear().await;
                // The message about what the login lacks depends on the user who runs this test.
                if said.get("environment").is_some() {
                    said = launcher.hear().await;
                }
                if let Some(hello) = said.get("hello") {
                    let known = &recorded["hello"];
                    assert_eq!(hello["version"], WIRE_VERSION, "whatever the daemon speaks");
                    assert_eq!([&hello["name"], &hello["attempt"]], [&known["name"], &known["attempt"]]);
                    assert_eq!(hello["fingerprint"], fingerprint, "of what it was told to launch");
                    assert_eq!(hello["progress"]["running"]["pid"], pid);
                    assert_eq!(hello["progress"] == "new", known["progress"] == "new");
                } else if let Some(started) = said.get("started") {
                    assert!(recorded.get("started").is_some());
                    pid = started["pid"].clone();
                } else {
                    assert_eq!(said["ended"]["how"], recorded["ended"]["how"]);
                }
                serde_json::from_value::<FromLauncher>(said).unwrap();
            }
        }
    }
    assert_eq!(launcher.ended().code(), Some(7), "it ends as the harness did");
}

#[rstest]
#[case::that_listens(true)]
#[case::that_does_not(false)]
#[tokio::test]
async fn what_a_stream_says_is_told_at_once_only_to_a_daemon_that_asks_for_it(#[case] listens: bool) {
    const STREAM: &str = r#"{"type":"system","subtype":"init","session_id":"0b"}
{"type":"result","subtype":"success","is_error":false,"result":"done"}"#;
    let folder = tempfile::TempDir::new().unwrap();
    let mut launcher = Launcher::start(folder.path());
    launcher.accept().await;
    launcher.hear().await;
    let script = format!("trap 'exit 0' INT; echo ready; echo '{STREAM}'; while :; do sleep 0.1; done");
    let launch = json!({ "launch": {
        "arguments": ["/bin/sh", "-c", script], "environment": {}, "workdir": "/", "kept_size": 65536, "stream": "claude",
        "reports": listens,
    } });
    launcher.tell(&launch.to_string(), true).await;
    let kind = |said: &Value| said.as_object().and_then(|said| said.keys().next()).cloned().unwrap_or_default();
    while kind(&launcher.hear().await) != "started" {}
    let limit = Instant::now() + BOUND;
    while !std::fs::read_to_string(launcher.log.path()).unwrap().contains("ready") {
        assert!(Instant::now() < limit, "the harness prints to its log");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let soon = tokio::time::timeout(Duration::from_secs(1), launcher.hear()).await;
    assert_eq!(soon.is_ok(), listens, "{soon:?}");
    let mut said: Vec<String> = soon.iter().map(kind).collect();
    launcher.tell("\"interrupt\"", false).await;
    while said.last().is_none_or(|last| last != "ended") {
        said.push(kind(&launcher.hear().await));
    }
    said.retain(|said| said != "\"quiet\"" && !said.is_empty());
    assert_eq!(said, ["conversation", "activity", "result", "ended"]);
    launcher.tell("\"noted\"", false).await;
    assert_eq!(launcher.ended().code(), Some(0));
}

#[tokio::test]
async fn unwanted_launcher_starts_nothing() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut launcher = Launcher::start(folder.path());
    launcher.accept().await;
    let hello: FromLauncher = serde_json::from_value(launcher.hear().await).unwrap();
    assert!(matches!(hello, FromLauncher::Hello { progress: Progress::New, version: WIRE_VERSION, .. }));
    launcher.tell("\"unwanted\"", false).await;
    assert_eq!(launcher.ended().code(), Some(125));
}
