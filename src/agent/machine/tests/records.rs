//! Agents in every state, and what an earlier build made of their records.

use serde_json::Value;

use super::*;

/// Each line: the state in words, the record that the build before the form of this one wrote, and what that build read from it.
const RECORDS: &str = include_str!("records.jsonl");

/// The agents that those records are of, as this build makes them.
pub(super) const LIVES: [&str; 29] = [
    "invalid",
    "waiting",
    "waiting for a restart",
    "waiting to be made up for",
    "queued",
    "starting",
    "starting again",
    "running",
    "running after a restart",
    "stopping for a change",
    "stopping for a removal",
    "stopping before the start",
    "stopping for a timeout",
    "stopping, and over",
    "killed",
    "backoff",
    "backoff while the launcher lingers",
    "second backoff",
    "second retry",
    "clearing",
    "clearing before it is made up for",
    "completed",
    "failed while the launcher lingers",
    "timed out",
    "gave up",
    "closing for a change",
    "closing for a removal",
    "running under a wrong entry",
    "found",
];

/// Agents as builds before could not have them.
pub(super) const LATER_LIVES: [&str; 4] = [
    "waiting for its packages",
    "waiting for its program",
    "waiting for its program while the launcher lingers",
    "waiting for its program after a restart",
];

fn always() -> Declaration {
    declaration(|policy| {
        policy.restart = Restart::Always;
        policy.max_restarts = Some(5);
        policy.timeout = Some(seconds(600));
        policy.backoff = vec![seconds(1), seconds(5)];
        policy.limits.memory = Some(2 << 30);
    })
}

#[allow(clippy::too_many_lines, reason = "it is a table")]
pub(super) fn life(what: &str) -> Life {
    match what {
        "invalid" => {
            let mut life = Life::new();
            life.tell(Event::Reject("3:1: no harness".into()));
            life
        }
        "waiting" => {
            let mut life = Life::new();
            life.declare(missing(plain()));
            life.machine.describe(name("A"), Some("claude-code"), None);
            life
        }
        "waiting for a restart" => {
            let mut life = Life::running(always());
            life.update(missing(always()));
            life.end(1, code(1));
            life.wait(seconds(100));
            life
        }
        "waiting to be made up for" => {
            let mut life = Life::starting(plain());
            life.not_started(1, NotStarted::CutOff);
            life.update(missing(plain()));
            life.gone(1);
            life
        }
        "queued" => {
            let mut life = Life::starting(plain());
            life.tell(Event::SessionBusy { attempt: 1, holder: name("b") });
            life
        }
        "starting" => {
            let mut life = Life::starting(plain());
            let launcher = serde_json::from_str(r#"{"pid": 4710, "started": 1}"#).unwrap();
            life.tell(Event::Met { attempt: 1, launcher });
            life
        }
        "starting again" => {
            let mut life = Life::starting(plain());
            life.not_started(1, retry("busy"));
            life.gone(1);
            life.wait(seconds(1));
            life.tell(Event::Opened { attempt: 2 });
            life
        }
        "running" => {
            let mut life = Life::running(always());
            life.tell(Event::Limited { attempt: 1, error: Some("no systemd".into()) });
            life.tell(Event::Logged { attempt: 1, error: Some("no space".into()) });
            life.tell(Event::Environment { attempt: 1, error: "no shell".into() });
            life
        }
        "running after a restart" => {
            let mut life = Life::running(always());
            life.end(1, code(1));
            life.wait(seconds(3));
            life.start(2);
            life
        }
        "stopping for a change" => {
            let mut life = Life::running(plain());
            life.declare(launching(launch("b", "y")));
            life.wait(seconds(16));
            life
        }
        "stopping for a removal" => {
            let mut life = Life::running(plain());
            life.remove();
            life
        }
        "stopping before the start" => {
            let mut life = Life::starting(plain());
            life.remove();
            life
        }
        "stopping for a timeout" => {
            let mut life = Life::running(timing_out(60));
            life.wait(seconds(60));
            life
        }
        "stopping, and over" => {
            let mut life = Life::running(timing_out(60));
            life.wait(seconds(60));
            life.ended(1, code(0));
            life
        }
        "killed" => {
            let mut life = Life::running(timing_out(60));
            life.wait(seconds(91));
            life
        }
        "backoff" => Life::over(always(), code(3)),
        "backoff while the launcher lingers" => {
            let mut life = Life::running(always());
            life.ended(1, code(3));
            life
        }
        "second backoff" => {
            let mut life = Life::over(always(), code(3));
            life.wait(seconds(1));
            life.start(2);
            life.end(2, code(4));
            life
        }
        "second retry" => {
            let mut life = Life::starting(plain());
            life.not_started(1, retry("tmux does not answer"));
            life.gone(1);
            life.wait(seconds(1));
            life.not_started(2, retry("tmux does not answer"));
            life.gone(2);
            life
        }
        "clearing" => {
            let mut life = Life::running(plain());
            life.ended(1, code(0));
            life.declare(launching(launch("a", "y")));
            life
        }
        "clearing before it is made up for" => {
            let mut life = Life::starting(plain());
            life.not_started(1, NotStarted::CutOff);
            life
        }
        "completed" => Life::over(plain(), code(0)),
        "failed while the launcher lingers" => {
            let mut life = Life::running(plain());
            let how = ExitStatus::Signal("SIGKILL".parse().unwrap());
            let usage = Usage { oom_kills: 2, cpu_usec: Some(5), memory_peak: Some(6), printed: None };
            life.tell(Event::Ended { attempt: 1, how, at: life.now, usage, result: None, evidence: None });
            life
        }
        "timed out" => {
            let mut life = Life::running(timing_out(60));
            life.wait(seconds(59));
            life.end(1, code(1));
            life.wait(seconds(1));
            life
        }
        "gave up" => {
            let mut life = Life::running(restarting(Restart::Always));
            life.end(1, code(1));
            life.update(declaration(|policy| {
                policy.restart = Restart::Always;
                policy.max_restarts = Some(0);
            }));
            life
        }
        "closing for a change" => {
            let mut life = Life::over(plain(), code(0));
            life.declare(launching(launch("b", "x")));
            life
        }
        "closing for a removal" => {
            let mut life = Life::over(plain(), code(0));
            life.remove();
            life.tell(Event::Closed(Err("tmux does not answer".into())));
            life
        }
        "running under a wrong entry" => {
            let mut life = Life::running(plain());
            life.tell(Event::Reject("3:1: no harness".into()));
            life
        }
        "waiting for its program" => {
            let mut life = Life::starting(plain());
            life.not_started(1, not_found());
            life.gone(1);
            life
        }
        "waiting for its packages" => {
            let mut life = Life::starting(plain());
            life.tell(Event::Building { attempt: 1 });
            life.not_started(1, unbuilt());
            life.gone(1);
            life
        }
        "waiting for its program while the launcher lingers" => {
            let mut life = Life::starting(plain());
            life.not_started(1, not_found());
            life
        }
        "waiting for its program after a restart" => {
            let mut life = Life::running(restarting(Restart::Always));
            life.end(1, code(1));
            life.wait(seconds(3));
            life.not_started(2, not_found());
            life.gone(2);
            life
        }
        "found" => Life::of(Machine::found(name("a"), None, START)),
        other => panic!("nobody is {other}"),
    }
}

fn records() -> Vec<Value> {
    RECORDS.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What this build says of an agent is what that one said, and more.
fn assert_status(what: &str, earlier: &Value, status: &AgentStatus) {
    let status = serde_json::to_value(status).unwrap();
    for (key, value) in earlier.as_object().unwrap() {
        const REMOVED: &str = "its entry was removed";
        let expected = match value.as_str().filter(|_| key == "reason") {
            Some(reason) => match what {
                // It wrote in words alone what was missing; the next daemon finds that out again.
                _ if what.starts_with("waiting") => "its declaration could not be read yet".into(),
                // It did not note which session that is.
                "queued" => "its session is still in use by b".into(),
                // It did not tell a removal from a stop of the daemon.
                _ => reason
                    .replace(&format!("{REMOVED}, or agentd is being stopped"), REMOVED)
                    // The same in words that say more.
                    .replace("0 restarts were allowed and made", "`max_restarts = 0` is reached")
                    .replace("declared", "started as declared")
                    .into(),
            },
            None => value.clone(),
        };
        assert_eq!(status.get(key), Some(&expected), "{what}: {key}");
    }
    let mut new: Vec<&str> = status.as_object().unwrap().keys().map(String::as_str).collect();
    new.retain(|key| {
        earlier.get(key).is_none() && !["waiting_for", "stopping_because", "stop_stage", "attempt_total"].contains(key)
    });
    assert_eq!(new, [""; 0], "{what}");
}

#[test]
fn a_wait_for_a_program_is_a_retry_to_an_earlier_build() {
    let written = serde_json::to_value(&life("waiting for its program").machine).unwrap();
    assert_eq!(written["state"]["backoff"]["why"], "retry");
    assert_eq!((&written["declared"]["attempts"], &written["total"]), (&0.into(), &0.into()));
    let written = serde_json::to_value(&life("waiting for its program after a restart").machine).unwrap();
    assert_eq!((&written["declared"]["restarting"], &written["declared"]["in_a_row"]), (&true.into(), &1.into()));
    // That build would not know a kind of program in the place of one.
    let written = serde_json::to_value(&life("waiting for its packages").machine).unwrap();
    assert_eq!(written["state"]["backoff"]["why"], "retry");
    assert_eq!(
        (&written["declared"]["absent"], &written["declared"]["unbuilt"]["detail"]),
        (&Value::Null, &"no such attribute".into())
    );
}

/// Every key of the one is in the other, with the same value.
fn assert_contains(what: &str, path: &str, earlier: &Value, written: &Value) {
    match (earlier, written) {
        (Value::Object(earlier), Value::Object(written)) => {
            for (key, value) in earlier {
                let Some(other) = written.get(key) else { panic!("{what}: {path}/{key} is not written any more") };
                assert_contains(what, &format!("{path}/{key}"), value, other);
            }
        }
        // Words for a person, which a daemon passes over when it takes up.
        // What an attempt that came to nothing would have been.
        _ if path == "/latest" && what == "queued" => {}
        // What is assumed of an entry that was not read yet is the default of the build.
        _ if path.starts_with("/declared/policy/backoff") && what == "found" => {}
        _ if path == "/declared/missing" => assert!(written.is_string() || written.is_null(), "{what}: {written}"),
        _ => assert_eq!(earlier, written, "{what}: {path}"),
    }
}

#[test]
fn of_an_earlier_build_are_restored_as_it_restored_them() {
    let records = records();
    assert_eq!(records.iter().map(|line| line["what"].as_str().unwrap()).collect::<Vec<_>>(), LIVES);
    for line in records {
        let what = line["what"].as_str().unwrap();
        let mut machine: Machine = serde_json::from_value(line["record"].clone()).unwrap();
        assert_status(what, &line["status"], &machine.status());
        assert_eq!(serde_json::to_value(machine.due()).unwrap(), line["due"], "{what}");
        let effects: Vec<String> = machine.resume().iter().map(in_words).collect();
        assert_eq!(serde_json::to_value(effects).unwrap(), line["resumed"], "{what}");
        assert_status(what, &line["status_resumed"], &machine.status());
        assert_eq!(serde_json::to_value(machine.due()).unwrap(), line["due_resumed"], "{what}");
    }
}

#[test]
fn are_written_so_that_an_earlier_build_reads_them() {
    for line in records() {
        let what = line["what"].as_str().unwrap();
        let written = serde_json::to_value(&life(what).machine).unwrap();
        assert_contains(what, "", &line["record"], &written);
    }
}

#[test]
fn are_read_as_they_were_written() {
    for what in LIVES.into_iter().chain(LATER_LIVES) {
        let life = life(what);
        let written = serde_json::to_string(&life.machine).unwrap();
        assert!(!written.contains(SECRET), "{written}");
        let read: Machine = serde_json::from_str(&written).unwrap();
        assert_eq!(read.status(), life.status(), "{what}");
        assert_eq!(read.due(), life.machine.due(), "{what}");
        let again = serde_json::to_value(&read).unwrap();
        assert_contains(what, "", &serde_json::from_str(&written).unwrap(), &again);
    }
}
