//! A harness on pipes: what it reads and prints, by the real launcher.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use super::*;

/// How much is kept of each file.
const KEPT: u64 = 64 << 20;

const SECRET: &str = "hunter2-hunter2-hunter2";

/// What became of a harness.
struct Outcome {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    log: Vec<u8>,
    how: Value,
    said: Vec<Value>,
}

impl Outcome {
    fn texts(&self) -> [&str; 3] {
        [&self.stdout, &self.stderr, &self.log].map(|text| std::str::from_utf8(text).unwrap())
    }
}

/// A launcher that was told to start this shell script on pipes, with files for its outputs.
struct Piped {
    launcher: Launcher,
    outputs: [File; 2],
    /// What the pane shows is read, so that it keeps nothing waiting.
    _pane: std::thread::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Piped {
    async fn start(script: &str, stdin: Option<&str>, more: Value) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let mut launcher = Launcher::start(folder.path());
        let mut pane = File::from(launcher.terminal.as_fd().try_clone_to_owned().unwrap());
        let pane = std::thread::spawn(move || while pane.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {});
        launcher.accept().await;
        launcher.hear().await;
        let pipes = stdin.map_or_else(|| json!({}), |stdin| json!({ "stdin": stdin }));
        let mut launch = json!({
            "arguments": ["/bin/sh", "-c", script], "environment": { "TOKEN": SECRET }, "secrets": ["TOKEN"], "workdir": "/",
            "kept_size": KEPT, "io": { "pipes": pipes },
        });
        launch.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let outputs =
            [(); 2].map(|()| tempfile::Builder::new().append(true).tempfile_in(folder.path()).unwrap().into_file());
        launcher.tell_with(&json!({ "launch": launch }).to_string(), &[&outputs[0], &outputs[1]]).await;
        Self { launcher, outputs, _pane: pane, _folder: folder }
    }

    /// Waits for the end of the harness, and then of the launcher.
    async fn end(mut self) -> Outcome {
        let mut said = Vec::new();
        let how = loop {
            let message = self.launcher.hear().await;
            assert!(message.get("failed").is_none(), "{message}");
            if let Some(end) = message.get("ended") {
                break end["how"].clone();
            }
            said.push(message);
        };
        let [stdout, stderr] = self.outputs.each_mut().map(|file| {
            let mut text = Vec::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_end(&mut text).unwrap();
            text
        });
        let log = fs::read(self.launcher.log.path()).unwrap();
        self.launcher.tell("\"noted\"", false).await;
        self.launcher.ended();
        Outcome { stdout, stderr, log, how, said }
    }

    /// Waits until the harness has printed this on standard output.
    async fn printed(&mut self, text: &str) {
        let limit = Instant::now() + BOUND;
        loop {
            let mut printed = String::new();
            self.outputs[0].seek(SeekFrom::Start(0)).unwrap();
            self.outputs[0].read_to_string(&mut printed).unwrap();
            if printed.contains(text) {
                return;
            }
            assert!(Instant::now() < limit, "{printed:?} has {text:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn run(script: &str, stdin: Option<&str>) -> Outcome {
    Piped::start(script, stdin, json!({})).await.end().await
}

/// What more a launch in this sandbox has; `None` if it cannot be made here.
fn sandboxed(engine: &str) -> Option<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentd-launcher"));
    let can = command.args(["try", engine]).stdout(std::process::Stdio::null()).status().unwrap().success();
    let sandbox = json!({
        "engine": engine, "program": null, "read": [], "write": [], "home": "fresh", "seed": [], "network": "none", "proxy": null,
    });
    can.then(|| json!({ "sandbox": sandbox, "workdir": "/srv" }))
}

#[rstest]
#[case::none("")]
#[case::bwrap("bwrap")]
#[case::crun("crun")]
#[case::runsc("runsc")]
#[tokio::test]
async fn outputs_are_apart_and_no_standard_descriptor_is_a_terminal(#[case] engine: &str) {
    let more = if engine.is_empty() { Some(json!({})) } else { sandboxed(engine) };
    let Some(more) = more else { return skip::skip("this engine does not work here") };
    let script = "for fd in 0 1 2; do if [ -t $fd ]; then echo tty; fi; done; cat; echo error >&2; echo out; exit 3";
    let outcome = Piped::start(script, Some("task\n"), more).await.end().await;
    assert_eq!(outcome.texts()[..2], ["task\nout\n", "error\n"]);
    let log = outcome.texts()[2];
    assert!(log.contains("task\r\n") && log.contains("error\r\n") && log.contains("out\r\n"), "{log:?}");
    assert_eq!(outcome.how, json!({ "code": 3 }));
}

#[rstest]
#[case::none("")]
#[case::bwrap("bwrap")]
#[case::crun("crun")]
#[case::runsc("runsc")]
#[tokio::test]
async fn an_interrupt_reaches_the_whole_group_of_the_harness(#[case] engine: &str) {
    let more = if engine.is_empty() { Some(json!({})) } else { sandboxed(engine) };
    let Some(more) = more else { return skip::skip("this engine does not work here") };
    // A child in the same group must end, too: the shell waits for it.
    let script = "trap 'echo interrupted; exit 5' INT; echo ready; (trap 'exit 0' INT; while :; do sleep 0.05; done); echo over; exit 6";
    let mut piped = Piped::start(script, None, more).await;
    piped.printed("ready").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    piped.launcher.tell("\"interrupt\"", false).await;
    let outcome = piped.end().await;
    assert_eq!(outcome.texts()[0], "ready\ninterrupted\n");
    assert_eq!(outcome.how, json!({ "code": 5 }));
}

#[tokio::test]
async fn without_a_task_standard_input_is_over_at_once() {
    assert_eq!(run("wc -c", None).await.texts()[0].trim(), "0");
}

#[tokio::test]
async fn a_task_of_a_mebibyte_is_read_whole() {
    let task = "0123456789abcdef".repeat(1 << 16);
    let outcome = run("cat", Some(&task)).await;
    assert!(outcome.stdout == task.as_bytes());
}

#[tokio::test]
async fn a_harness_that_never_reads_its_task_waits_for_nobody() {
    let task = "x".repeat(1 << 20);
    assert_eq!(run("echo done", Some(&task)).await.texts()[0], "done\n");
}

#[tokio::test]
async fn long_output_without_an_end_of_line_is_complete() {
    let outcome = run("head -c 5242880 /dev/zero | tr '\\0' x; printf 'a\\0b' >&2", None).await;
    assert_eq!(outcome.stdout.len(), 5 << 20);
    assert!(outcome.stdout.iter().all(|&byte| byte == b'x'));
    assert_eq!(outcome.stderr, b"a\0b");
    assert_eq!(outcome.log.len(), (5 << 20) + 3);
}

#[tokio::test]
async fn both_outputs_are_complete_when_they_come_at_once() {
    let script = "seq 1 100000 & seq 100001 200000 >&2; wait";
    let outcome = run(script, None).await;
    let lines = |from: u32, to: u32| (from..=to).map(|number| format!("{number}\n")).collect::<String>();
    assert!(outcome.texts()[0] == lines(1, 100_000) && outcome.texts()[1] == lines(100_001, 200_000));
    assert_eq!(outcome.log.iter().filter(|&&byte| byte == b'\n').count(), 200_000);
}

#[tokio::test]
async fn the_log_has_both_outputs_in_the_order_of_their_arrival() {
    let script = "for i in 1 2 3; do echo out $i; sleep 0.2; echo error $i >&2; sleep 0.2; done";
    let outcome = run(script, None).await;
    assert_eq!(outcome.texts()[2], "out 1\r\nerror 1\r\nout 2\r\nerror 2\r\nout 3\r\nerror 3\r\n");
}

#[tokio::test]
async fn a_secret_is_in_no_file_however_it_is_printed() {
    let script = "printf '%s\\n' \"$TOKEN\"; printf '%.9s' \"$TOKEN\"; sleep 0.3; echo between >&2; sleep 0.3; \
                  printf '%s\\n' \"${TOKEN#?????????}\"; printf '%s\\n' \"$TOKEN\" >&2; printf hunter2-";
    let outcome = run(script, None).await;
    let masked = format!("{:23}", "********");
    assert_eq!(outcome.texts()[0], format!("{masked}\n{masked}\nhunter2-"));
    assert_eq!(outcome.texts()[1], format!("between\n{masked}\n"));
    let log = outcome.texts()[2];
    assert!(!log.contains("hunter2-h") && log.contains("between\r\n") && log.ends_with("hunter2-"), "{log:?}");
}

#[tokio::test]
async fn a_harness_may_close_its_output_early() {
    let outcome = run("echo one; exec 1>&-; sleep 0.2; echo two >&2; exec 2>&-; sleep 0.2; exit 4", None).await;
    assert_eq!(outcome.texts()[..2], ["one\n", "two\n"]);
    assert_eq!(outcome.how, json!({ "code": 4 }));
}

#[tokio::test]
async fn a_process_that_holds_the_pipes_is_not_waited_for() {
    let start = Instant::now();
    let outcome = run("setsid sleep 300 & echo done", None).await;
    assert_eq!(outcome.texts()[0], "done\n");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn the_raw_stream_is_kept_and_its_result_is_told() {
    const LINE: &str = r#"{"type":"result","subtype":"success","is_error":false,"result":"all is done"}"#;
    let more = json!({ "stream": "claude", "reports": true });
    let outcome = Piped::start(&format!("echo '{LINE}'; echo warning >&2"), None, more).await.end().await;
    assert_eq!(outcome.texts()[..2], [format!("{LINE}\n").as_str(), "warning\n"]);
    let log = outcome.texts()[2];
    assert!(log.contains("warning\r\n") && !log.contains("subtype"), "{log:?}");
    let result = outcome.said.iter().find_map(|said| said.get("result")).unwrap();
    assert_eq!(result["text"], "all is done");
}

#[tokio::test]
async fn pipes_take_little_more_memory_than_a_terminal() {
    let most = async |io: Value| {
        let mut piped = Piped::start("echo ready; yes & yes >&2", None, json!({ "io": io })).await;
        let path = format!("/proc/{}/status", piped.launcher.child.id());
        let mut most = 0;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let status = fs::read_to_string(&path).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap().to_owned();
            most = most.max(line.trim_end_matches("kB").trim().parse::<u64>().unwrap());
        }
        piped.launcher.tell("\"interrupt\"", false).await;
        assert_eq!(piped.end().await.how, json!({ "signal": 2 }));
        most
    };
    let (terminal, pipes) = (most(json!("terminal")).await, most(json!({ "pipes": {} })).await);
    assert!(pipes <= terminal + 48, "{terminal} KiB have become {pipes} KiB");
}
