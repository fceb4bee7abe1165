//! The routes of runs: what is listed, what one run is, and what it printed.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentd::agent::name::Name;
use agentd::api::Limits;
use agentd::logs::store::{Retention, Store};
use agentd::observe::redactions::{AgentRedactor, Redactions};
use agentd::observe::snapshot::{Parts, Snapshot};
use agentd::state::history::runs::PastRuns;
use agentd::sys::secret_bytes::SecretBytes;
use agentd::text::redact::Redactor;
use agentd::wire::history::PastRun;
use agentd::wire::run::{RunStatus, TemplateRuns};
use agentd::wire::status::{AgentStatus, Errors};
use nix::unistd::Gid;
use serde_json::{Value, json};

use crate::support::{Server, running};

/// A run of `Fixer` that was queued at this minute.
fn run(id: &str, minute: u32, more: &Value) -> RunStatus {
    let mut run = json!({
        "name": format!("Fixer/{id}"), "agent": "Fixer", "id": id, "state": "running",
        "queued_at": format!("2026-12-01T06:{minute:02}:00.000Z"),
    });
    if more["state"] == "exited" {
        run["ended_at"] = json!("2026-12-01T07:00:00.000Z");
    }
    run.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(run).unwrap()
}

fn runs() -> Vec<RunStatus> {
    vec![
        run(
            "done",
            1,
            &json!({ "state": "exited", "outcome": "completed", "result": { "text": "all of it", "turns": 3 } }),
        ),
        run("T1", 3, &json!({ "labels": { "team": "web" }, "plan": "p1", "attempts": 1 })),
        run("t2", 2, &json!({ "state": "waiting", "position": 1 })),
    ]
}

fn snapshot(runs: Vec<RunStatus>) -> Snapshot {
    let template = AgentStatus { runs: Some(Box::new(TemplateRuns::default())), ..running("Fixer") };
    let redactor = Arc::new(Redactor::new([SecretBytes::from("hunter2hunter2")]));
    let keys = runs.iter().map(|run| Name::parse_any(&run.name).unwrap().key());
    let redactors = keys.map(|key| (key, AgentRedactor { redactor: Arc::clone(&redactor), is_all: true }));
    let redactions = Arc::new(Redactions::new(redactors.collect(), None));
    let parts = Parts::new(vec![template, running("other")], Instant::now(), Errors::default());
    Snapshot::from(Parts { runs: runs.into_iter().map(Arc::new).collect(), redactions, ..parts })
}

struct World {
    server: Server,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path(), Gid::effective(), Retention::default());
        let server = Server::start_with_logs(snapshot(runs()), Some(store), Limits::default());
        Self { server, folder }
    }

    /// A file of the run with this id in lower case.
    fn file(&self, id: &str, name: &str) -> PathBuf {
        let folder = self.folder.path().join("fixer/runs").join(id);
        fs::create_dir_all(&folder).unwrap();
        folder.join(name)
    }

    fn ask(&self, path: &str) -> (u16, String) {
        let answer = self.server.exchange(&format!("GET {path} HTTP/1.1\r\nHost: agentd\r\nConnection: close\r\n\r\n"));
        let (header, body) = answer.split_once("\r\n\r\n").unwrap();
        let body = if header.contains("Transfer-Encoding: chunked") { unchunked(body) } else { body.to_owned() };
        (header.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }

    fn value(&self, path: &str) -> Value {
        let (status, body) = self.ask(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn now(&self, runs: Vec<RunStatus>) {
        self.server.snapshots.send_replace(Arc::new(snapshot(runs)));
    }
}

fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        text.push_str(&rest[..length]);
        body = rest[length..].strip_prefix("\r\n").unwrap();
    }
    text
}

fn ids(runs: &Value) -> String {
    let ids: Vec<&str> = runs.as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap()).collect();
    ids.join(" ")
}

#[test]
fn runs_are_listed_latest_first_and_selected() {
    let world = World::new();
    for (query, expected) in [
        ("", "T1 t2 done"),
        ("?limit=2", "T1 t2"),
        ("?agent=FIXER&state=waiting", "t2"),
        ("?outcome=completed", "done"),
        ("?label=team%3Dweb&plan=p1", "T1"),
        ("?id=t1", "T1"),
        ("?agent=other", ""),
    ] {
        assert_eq!(ids(&world.value(&format!("/v1/runs{query}"))), expected, "{query}");
    }
    let listed = world.value("/v1/runs?id=done");
    assert_eq!(listed[0]["result"], json!({ "turns": 3, "is_error": false }), "the list has no text");
    assert_eq!(ids(&json!([world.value("/v1/runs/fixer/t1")])), "T1");
}

#[test]
fn history_has_runs_and_attempts_in_pages() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ended = |id: &str, minute: u32, outcome: &str| -> PastRun {
        let at = |second: u32| format!("2026-12-01T06:{minute:02}:{second:02}.000Z");
        let run = json!({
            "agent": "Fixer", "id": id, "outcome": outcome, "queued_at": at(0), "started_at": at(1), "ended_at": at(2),
        });
        serde_json::from_value(run).unwrap()
    };
    let past_runs = runtime.block_on(async {
        let mut runs = PastRuns::open(folder.path()).await;
        for (id, minute, outcome) in [("a", 1, "completed"), ("b", 2, "failed"), ("c", 3, "gave-up")] {
            runs.add(ended(id, minute, outcome));
        }
        let reader = runs.reader();
        runs.finish(Duration::from_secs(10)).await;
        reader
    });
    let world = World::new();
    world.server.snapshots.send_replace(Arc::new(Snapshot::from(Parts {
        past_runs: Some(past_runs),
        ..Parts::new(vec![running("other")], Instant::now(), Errors::default())
    })));
    let page = |query: &str| {
        let page = world.value(&format!("/v1/history?{query}"));
        (ids(&page["ended"]), page["next"].as_str().map(str::to_owned))
    };
    let (first, next) = page("limit=2");
    assert_eq!(first, "c b");
    assert_eq!(page(&format!("limit=2&cursor={}", next.unwrap())), ("a".to_owned(), None));
    assert_eq!(page("agent=fixer&outcome=failed,gave-up").0, "c b");
    assert_eq!(page("since=2026-12-01T06:03:00Z").0, "c");
    assert_eq!(page("agent=other").0, "");
    let run = &world.value("/v1/history?limit=1")["ended"][0];
    assert_eq!((&run["kind"], &run["outcome"]), (&json!("run"), &json!("gave-up")));
    let (status, why) = world.ask("/v1/history?outcome=done");
    assert!(status == 400 && why.contains("write one of completed"), "{why}");
}

#[test]
fn a_parameter_that_is_not_known_is_refused() {
    let world = World::new();
    for (query, expected) in [
        ("/v1/runs?color=red", "unknown parameter \"color\"; this route takes agent, id, state"),
        ("/v1/runs?state=done", "the parameter state=done: write one of running, starting"),
        ("/v1/runs?limit=0", "write a whole number from 1 to 1000"),
        ("/v1/runs/fixer/t1?full=true", "unknown parameter \"full\"; this route takes none"),
        ("/v1/runs/fixer/t1/stdout?tail=x", "write a whole number of bytes"),
    ] {
        let (status, body) = world.ask(query);
        let fault: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, fault["code"].as_str()), (400, Some("bad-query")), "{query}");
        assert!(fault["error"].as_str().unwrap().contains(expected), "{query}: {fault}");
    }
}

#[test]
fn a_run_that_does_not_exist_is_told_with_what_would_be_right() {
    let world = World::new();
    for (path, expected) in [
        ("/v1/runs/fixer/t9", "Fixer has no run \"t9\", or it is no longer kept; GET /v1/runs?agent=Fixer lists"),
        ("/v1/runs/other/t1", "other has no runs: its entry has no table [agents.runs]"),
        ("/v1/runs/nobody/t1/stdout", "there is no run \"t1\" of \"nobody\", and no agent of that name"),
        ("/v1/runs/fixer/a%2Fb/log", "Fixer has no run \"a/b\""),
    ] {
        let (status, body) = world.ask(path);
        let fault: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, fault["code"].as_str()), (404, Some("no-such-run")), "{path}");
        assert!(fault["error"].as_str().unwrap().contains(expected), "{path}: {fault}");
    }
}

#[test]
fn the_record_of_its_end_has_all_of_a_run() {
    let world = World::new();
    assert_eq!(
        world.value("/v1/runs/fixer/done")["result"]["text"],
        "all of it",
        "without a record it is as it is known"
    );
    let whole =
        run("done", 1, &json!({ "state": "exited", "outcome": "completed", "result": { "text": "the whole text" } }));
    fs::write(world.file("done", "result.json"), serde_json::to_vec(&whole).unwrap()).unwrap();
    assert_eq!(world.value("/v1/runs/fixer/done")["result"]["text"], "the whole text");
    for other in [
        "{",
        "{\"name\":\"Fixer/t2\",\"agent\":\"Fixer\",\"id\":\"t2\",\"state\":\"exited\",\"queued_at\":\"2026-12-01T06:00:00.000Z\"}",
    ] {
        fs::write(world.file("done", "result.json"), other).unwrap();
        assert_eq!(world.value("/v1/runs/fixer/done")["id"], "done", "{other}");
    }
}

#[test]
fn outputs_are_the_bytes_without_secrets() {
    let world = World::new();
    let text = "grün \u{1b}[31mred\u{1b}[0m\nkey=hunter2hunter2;\nlast\n";
    fs::write(world.file("t1", "stdout"), text).unwrap();
    let expected = text.replace("hunter2hunter2", "********      ");
    assert_eq!(world.ask("/v1/runs/fixer/t1/stdout"), (200, expected.clone()));
    assert_eq!(world.ask("/v1/runs/FIXER/T1/stdout?tail=5").1, "last\n");
    assert_eq!(world.ask("/v1/runs/fixer/t1/stdout?tail=99999").1, expected);
    assert_eq!(world.ask("/v1/runs/fixer/t1/stdout?lines=1").1, "last\n");
    assert_eq!(world.ask("/v1/runs/fixer/t1/stdout?from=6").1, expected[6..]);
    assert_eq!(world.ask("/v1/runs/fixer/t1/stdout?from=9999").1, "");
    let (status, body) = world.ask("/v1/runs/fixer/t1/stderr");
    assert_eq!(status, 404);
    assert!(body.contains("nothing is kept of what Fixer/T1 printed; it is running"), "{body}");
}

#[test]
fn what_is_no_longer_kept_of_an_output_is_skipped() {
    let world = World::new();
    let mut file = File::create(world.file("t1", "stdout")).unwrap();
    file.seek(SeekFrom::Start(8 << 20)).unwrap();
    file.write_all(b"the end\n").unwrap();
    assert_eq!(world.ask("/v1/runs/fixer/t1/stdout").1.trim_start_matches('\0'), "the end\n");
    let length = world.ask("/v1/runs/fixer/t1/stdout").1.len();
    assert!(length <= 64 << 10, "the hole is not sent: {length}");
}

#[test]
fn a_followed_output_begins_with_the_run_and_ends_with_it() {
    let world = World::new();
    let mut stream = world.server.connect();
    stream.write_all(b"GET /v1/runs/fixer/t2/stdout?follow=true HTTP/1.1\r\nHost: agentd\r\n\r\n").unwrap();
    let mut stream = BufReader::new(stream);
    let mut header = String::new();
    while !header.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut header).unwrap() > 0, "{header}");
    }
    assert!(header.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"), "{header}");
    let mut next = || {
        let mut length = String::new();
        stream.read_line(&mut length).unwrap();
        let mut chunk = vec![0; usize::from_str_radix(length.trim_end(), 16).unwrap() + 2];
        stream.read_exact(&mut chunk).unwrap();
        String::from_utf8(chunk).unwrap().trim_end_matches("\r\n").to_owned()
    };
    let mut file = OpenOptions::new().create(true).append(true).open(world.file("t2", "stdout")).unwrap();
    let state = |state: &str| world.now(vec![run("t2", 2, &json!({ "state": state }))]);
    file.write_all(b"one\n").unwrap();
    state("running");
    assert_eq!(next(), "one\n");
    file.write_all(b"two\n").unwrap();
    assert_eq!(next(), "two\n");
    file.write_all(b"three").unwrap();
    state("exited");
    assert_eq!(next(), "three");
    assert_eq!(next(), "", "that was all");
}

#[test]
fn a_run_that_ends_without_output_ends_its_followers() {
    let world = World::new();
    let mut stream = world.server.connect();
    stream.write_all(b"GET /v1/runs/fixer/t2/stderr?follow=true HTTP/1.1\r\nHost: agentd\r\n\r\n").unwrap();
    world.now(vec![run("t2", 2, &json!({ "state": "exited", "outcome": "cancelled" }))]);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n0\r\n\r\n"), "{answer}");
    drop(stream.shutdown(Shutdown::Both));
}
