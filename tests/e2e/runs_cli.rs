//! The commands about runs: tasks as files, what comes of them, and their exit statuses.

use std::fs;
use std::process::{Command, Stdio};

use agentd::wire::status::{Outcome, State};
use serde_json::Value;

use crate::support::{Daemon, Setup, agent};

/// A template whose tasks are scripts of a shell.
const FIXER: &str = "[[agents]]\nname = \"fixer\"\nharness = \"custom\"\ncommand = \"/bin/sh\"\nworkdir = \"@WORK\"\n\
                     args = [\"-c\", \"eval \\\"$(cat)\\\"\"]\n[agents.runs]\ntask = \"stdin\"\nat_once = 2\n\n";

fn start() -> Daemon {
    let daemon = Setup::new().start(&(FIXER.to_owned() + &agent("sleeper", "sleep inf", "")));
    daemon.wait_for_state("fixer", State::Waiting);
    daemon.wait("the folder of the template", || daemon.path("spool/fixer").is_dir().then_some(()));
    daemon
}

/// A command with the daemon's API, and the spool if it writes there.
fn verb(setup: &Setup, words: &[&str]) -> Command {
    let (socket, spool) = (setup.api_socket(), setup.path("spool"));
    let place = ["--api-socket", socket.to_str().unwrap(), "--spool-dir", spool.to_str().unwrap()];
    let writes = ["run", "cancel"].contains(&words[0]);
    setup.agentd(&[&words[..1], if writes { &place } else { &place[..2] }, &words[1..]].concat())
}

/// How a command ended, and what it printed to standard output and to standard error.
fn ended(setup: &Setup, words: &[&str]) -> (Option<i32>, String, String) {
    let output = verb(setup, words).stdin(Stdio::null()).output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), out, err)
}

#[test]
fn a_task_is_given_and_taken_back_without_a_daemon() {
    let setup = Setup::new();
    let (code, _, said) = ended(&setup, &["run", "fixer", "do", "it"]);
    assert_eq!(code, Some(4));
    assert!(said.contains("does not exist; agentd makes it when it starts"), "{said}");
    fs::create_dir_all(setup.path("spool/fixer")).unwrap();
    let owner = setup.daemon_account();
    for folder in ["spool", "spool/fixer"] {
        std::os::unix::fs::chown(setup.path(folder), Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).unwrap();
    }
    let (code, out, said) = ended(&setup, &["run", "Fixer", "do", "it", "--label", "team=web"]);
    assert_eq!(code, Some(0), "{said}");
    let id = out.trim_end();
    assert!(said.contains("agentd is not running") && said.contains("runs once agentd does"), "{said}");
    assert_eq!(fs::read_to_string(setup.path("spool/fixer").join(id)).unwrap(), "do it");
    let beside = fs::read_to_string(setup.path("spool/fixer").join(format!("{id}.toml"))).unwrap();
    assert_eq!(beside, "labels = { \"team\" = \"web\" }\n");
    let (code, _, said) = ended(&setup, &["run", "fixr", "do it"]);
    assert!(code == Some(4) && said.contains("did you mean \"fixer\"?"), "{said}");
    let (code, _, said) = ended(&setup, &["run", "fixer", "again", "--id", &id.to_uppercase()]);
    assert!(code == Some(1) && said.contains("exists already"), "{said}");
    let (code, out, said) = ended(&setup, &["cancel", id]);
    assert_eq!((code, setup.path("spool/fixer").join(id).exists()), (Some(0), false), "{said}");
    assert!(out.starts_with(&format!("fixer/{id}: its task is removed")), "{out}");
    assert_eq!(ended(&setup, &["cancel", id]).0, Some(4));
}

#[test]
fn a_run_that_is_waited_for_passes_on_its_output_and_its_end() {
    let daemon = start();
    let (code, out, said) = ended(&daemon, &["run", "fixer", "--wait", "echo out; echo err >&2; exit 7"]);
    assert_eq!((code, out.as_str()), (Some(7), "out\n"), "{said}");
    assert!(said.starts_with("err\n") && said.contains("failed: exited with status 7"), "{said}");
    let (code, out, said) = ended(&daemon, &["run", "fixer", "--wait", "echo done"]);
    assert_eq!((code, out.as_str(), said.as_str()), (Some(0), "done\n", ""));
    let (code, ..) = ended(&daemon, &["run", "fixer", "--wait", "kill -9 $$"]);
    assert_eq!(code, Some(128 + 9));
    let (code, _, said) =
        ended(&daemon, &["run", "fixer", "--wait", "--timeout", "100ms", "--id", "long", "sleep 600"]);
    assert_eq!(code, Some(124), "{said}");
    assert!(said.contains("the run goes on; agentd wait fixer/long waits for it"), "{said}");
    let (code, out, said) = ended(&daemon, &["cancel", "long"]);
    assert_eq!(code, Some(0), "{out}{said}");
    let (code, _, said) = ended(&daemon, &["wait", "--exit-code", "fixer/long"]);
    assert_eq!(code, Some(123), "{said}");
    assert!(said.contains("fixer/long was cancelled"), "{said}");
}

#[test]
fn a_run_is_told_as_one_document() {
    let daemon = start();
    let (code, out, said) =
        ended(&daemon, &["run", "fixer", "--json", "--id", "t1", "printf 'a\\nb'; echo no >&2; exit 3"]);
    assert_eq!(code, Some(3), "{said}");
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&told["id"], &told["name"], &told["outcome"]), (&"t1".into(), &"fixer/t1".into(), &"failed".into()));
    assert_eq!((&told["exitCode"], &told["stdout"], &told["stderr"]), (&3.into(), &"a\nb".into(), &"no\n".into()));
    assert_eq!((&told["stdoutTruncated"], &told["stdout_bytes"]), (&false.into(), &3.into()), "{told}");
}

#[test]
fn verbs_take_runs_by_name_and_by_id() {
    let daemon = start();
    assert_eq!(ended(&daemon, &["run", "fixer", "--wait", "--id", "t1", "echo out; echo err >&2"]).0, Some(0));
    for name in ["t1", "fixer/T1"] {
        assert_eq!(ended(&daemon, &["logs", "--stdout", name]).1, "out\n");
        assert_eq!(ended(&daemon, &["logs", "--stderr", name]).1, "err\n");
        let (code, out, said) = ended(&daemon, &["logs", name]);
        assert!(code == Some(0) && out.contains("out") && out.contains("err"), "{out}{said}");
        let (code, out, said) = ended(&daemon, &["status", name]);
        assert!(code == Some(3) && out.contains("fixer/t1"), "{out}{said}");
        let (code, out, said) = ended(&daemon, &["explain", name]);
        assert!(code == Some(0) && out.contains("agentd logs --stdout fixer/t1"), "{out}{said}");
        assert_eq!(ended(&daemon, &["wait", "--exit-code", name]).0, Some(0));
        let (code, out, said) = ended(&daemon, &["events", name]);
        assert!(code == Some(0) && out.contains("fixer/t1: completed"), "{out}{said}");
    }
    let (code, out, said) = ended(&daemon, &["runs", "fixer"]);
    let row = out.lines().nth(1).unwrap_or_default();
    assert!(code == Some(0) && row.starts_with("fixer/t1  exited  completed"), "{out}{said}");
    let (_, out, _) = ended(&daemon, &["runs", "--outcome", "failed", "--json"]);
    assert_eq!(out, "[]\n");
    for words in [&["status", "t9"][..], &["logs", "fixer/t9"], &["explain", "fixer/t9"], &["runs", "sleeper"]] {
        let (code, _, said) = ended(&daemon, words);
        assert_eq!(code, Some(4), "{words:?}: {said}");
    }
}

#[test]
fn what_is_no_template_takes_no_tasks_and_a_template_is_not_restarted() {
    let daemon = start();
    let (code, _, said) = ended(&daemon, &["run", "sleeper", "do it"]);
    assert!(code == Some(4) && said.contains("sleeper takes no tasks: its entry has no table [agents.runs]"), "{said}");
    let (code, _, said) = ended(&daemon, &["run", "fixr", "do it"]);
    assert!(code == Some(4) && said.contains("there is no template \"fixr\"; did you mean \"fixer\"?"), "{said}");
    let overrides = daemon.path("overrides");
    let (code, out, _) = ended(&daemon, &["restart", "fixer", "--override-dir", overrides.to_str().unwrap()]);
    assert!(code == Some(1) && out.contains("it is a template, and restarts nothing; agentd cancel RUN"), "{out}");
    // An id is used once.
    assert_eq!(ended(&daemon, &["run", "fixer", "--wait", "--id", "once", "true"]).0, Some(0));
    let (code, _, said) = ended(&daemon, &["run", "fixer", "--wait", "--id", "once", "false"]);
    assert_eq!(code, Some(122), "{said}");
    assert!(said.contains("the id is used: fixer/once is completed; each id is used once"), "{said}");
    let told: Value = serde_json::from_str(&daemon.get("/v1/runs/fixer/once").body).unwrap();
    assert_eq!(told["outcome"], Outcome::Completed.word(), "{told}");
}
