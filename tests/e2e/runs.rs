//! Runs: tasks as files, from the spool to their results.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use agentd::wire::run::RunStatus;
use agentd::wire::status::{Outcome, State};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::support::{Daemon, Setup, agent};

/// A template that does this with each task, which is its last argument.
fn template(name: &str, script: &str, runs: &str) -> String {
    agent(name, script, &format!("[agents.runs]\n{runs}"))
}

impl Daemon {
    fn task_path(&self, run: &str) -> PathBuf {
        self.path("spool").join(run)
    }

    /// Drops a task, as careful writers do.
    fn drop_task(&self, run: &str, text: &str) {
        let path = self.task_path(run);
        self.wait("the folder of tasks", || path.parent().unwrap().is_dir().then_some(()));
        let new = path.with_file_name(format!(".{}.tmp", path.file_name().unwrap().to_str().unwrap()));
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    fn run_status(&self, run: &str) -> Option<RunStatus> {
        let response = self.get(&format!("/v1/runs/{run}"));
        (response.status == 200).then(|| serde_json::from_str(&response.body).unwrap())
    }

    fn wait_for_run(&self, run: &str, what: &str, meets: impl Fn(&RunStatus) -> bool) -> RunStatus {
        self.wait(&format!("{run} to be {what}"), || self.run_status(run).filter(&meets))
    }

    /// Waits until the run has ended, and its files are gone.
    fn wait_for_end(&self, run: &str) -> RunStatus {
        let run_status = self.wait_for_run(run, "over", |run| run.state == State::Exited);
        self.wait("its task to be removed", || (!self.task_path(run).exists()).then_some(()));
        run_status
    }

    /// What it printed on one of its outputs, as the file has it.
    fn output(&self, run: &str, stream: &str) -> String {
        let (agent, id) = run.split_once('/').unwrap();
        fs::read_to_string(self.path("log").join(agent).join("runs").join(id).join(stream)).unwrap()
    }
}

#[test]
fn a_task_is_carried_out_once_and_its_result_is_kept() {
    let daemon = Setup::new().start(&template("fixer", "log @WORK/log; exit 3", ""));
    daemon.drop_task("fixer/t1", "do it");
    let run = daemon.wait_for_end("fixer/t1");
    assert_eq!((run.outcome, run.attempts), (Some(Outcome::Failed), 1), "{run:?}");
    assert_eq!(daemon.starts("log"), 1);
    let result = fs::read_to_string(daemon.path("log/fixer/runs/t1/result.json")).unwrap();
    let kept: RunStatus = serde_json::from_str(&result).unwrap();
    assert_eq!((kept.name.as_str(), kept.outcome), ("fixer/t1", Some(Outcome::Failed)));
    let record = daemon.path("state/runs/fixer/t1.json");
    daemon.wait("its record to be removed", || (!record.exists()).then_some(()));
    // The id is used.
    daemon.drop_task("fixer/t1", "do it again");
    let why = daemon.path("spool/fixer/.refused/t1.why");
    let why = daemon.wait("the refusal", || fs::read_to_string(&why).ok());
    assert!(why.contains("each id is used once"), "{why}");
    assert_eq!(daemon.starts("log"), 1);
}

#[test]
fn no_more_runs_than_allowed_are_under_way_and_the_first_comes_first() {
    let script = "append @WORK/order start; wait-for @WORK/go; rest";
    let daemon = Setup::new().start(&template("fixer", script, "at_once = 2"));
    for number in 1..=4 {
        daemon.drop_task(&format!("fixer/t{number}"), "do it");
        daemon.wait_for_run(&format!("fixer/t{number}"), "taken", |_| true);
    }
    daemon.wait_for_run("fixer/t2", "running", |run| run.state == State::Running);
    let last = daemon.wait_for_run("fixer/t4", "in line", |run| run.position == Some(2));
    assert_eq!(last.reason.as_deref(), Some("2 of 2 places are taken; 2nd in line"));
    assert_eq!(last.state, State::Waiting);
    daemon.wait("both to work", || (daemon.lines("order").len() == 2).then_some(()));
    let status = daemon.agent("fixer").unwrap();
    let runs = status.runs.as_deref().unwrap();
    assert_eq!((status.state, status.pid, status.session.as_str()), (State::Running, None, ""));
    assert_eq!((runs.running.clone(), runs.waiting), (vec!["t1".to_owned(), "t2".to_owned()], 2));
    fs::write(daemon.work("go"), "").unwrap();
    for number in 1..=4 {
        let run = daemon.wait_for_end(&format!("fixer/t{number}"));
        assert_eq!(run.outcome, Some(Outcome::Completed), "{run:?}");
    }
    let status = daemon.wait_until("fixer", "at rest", |agent| agent.state == State::Waiting);
    assert_eq!(status.runs.unwrap().last.unwrap().outcome, Outcome::Completed);
}

#[test]
fn the_outputs_of_a_run_are_kept_apart() {
    let setup = Setup::new();
    let entry = "[[agents]]\nname = \"fixer\"\nharness = \"custom\"\ncommand = [\"sh\", \"-c\"]\nworkdir = \"@WORK\"\n\
                 args = [\"cat; echo out; echo err >&2; test -t 0 || test -t 1 || test -t 2 || echo no tty\", \"sh\"]\n\
                 [agents.runs]\ntask = \"stdin\"\n";
    let daemon = setup.start(entry);
    daemon.drop_task("fixer/t1", "the task\n");
    let run = daemon.wait_for_end("fixer/t1");
    assert_eq!(run.outcome, Some(Outcome::Completed), "{run:?}");
    assert_eq!(daemon.output("fixer/t1", "stdout"), "the task\nout\nno tty\n");
    assert_eq!(daemon.output("fixer/t1", "stderr"), "err\n");
    assert_eq!((run.stdout_bytes, run.stderr_bytes, run.truncated), (Some(20), Some(4), false));
}

#[test]
fn removing_a_task_cancels_its_run() {
    let daemon = Setup::new().start(&template("fixer", "on-signal INT 0; log @WORK/log; sleep inf", ""));
    daemon.drop_task("fixer/lives", "x");
    daemon.wait_for_run("fixer/lives", "running", |run| run.state == State::Running);
    daemon.drop_task("fixer/waits", "x");
    daemon.wait_for_run("fixer/waits", "in line", |run| run.position == Some(1));
    fs::remove_file(daemon.task_path("fixer/waits")).unwrap();
    assert_eq!(daemon.wait_for_end("fixer/waits").outcome, Some(Outcome::Cancelled));
    fs::remove_file(daemon.task_path("fixer/lives")).unwrap();
    // It ends with 0 on SIGINT: the stop decides.
    assert_eq!(daemon.wait_for_end("fixer/lives").outcome, Some(Outcome::Cancelled));
    assert_eq!(daemon.starts("log"), 1);
}

#[test]
fn a_run_goes_on_while_there_is_no_daemon_and_ends_once() {
    let script = "log @WORK/log; await-exit @WORK/exit";
    let mut daemon = Setup::new().start(&template("fixer", script, ""));
    daemon.drop_task("fixer/t1", "x");
    daemon.drop_task("fixer/t2", "x");
    let before = daemon.wait_for_run("fixer/t1", "running", |run| run.state == State::Running);
    daemon.wait_for_run("fixer/t2", "in line", |run| run.position == Some(1));
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    let after = daemon.wait_for_run("fixer/t1", "running", |run| run.state == State::Running);
    assert_eq!((after.pid, after.attempts), (before.pid, 1));
    daemon.wait_for_run("fixer/t2", "in line", |run| run.position == Some(1));
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    fs::write(daemon.work("exit"), "3").unwrap();
    daemon.wait("the harness to end", || (!daemon.work("exit").exists()).then_some(()));
    daemon.start_again();
    assert_eq!(daemon.wait_for_end("fixer/t1").outcome, Some(Outcome::Failed));
    daemon.wait_for_run("fixer/t2", "running", |run| run.state == State::Running);
    fs::write(daemon.work("exit"), "0").unwrap();
    assert_eq!(daemon.wait_for_end("fixer/t2").outcome, Some(Outcome::Completed));
    assert_eq!(daemon.starts("log"), 2);
}

#[test]
fn a_stop_of_agentd_interrupts_runs_and_leaves_those_that_wait() {
    let daemon = Setup::new().start(
        &(template("once", "log @WORK/once; sleep inf", "")
            + &template("again", "log @WORK/again; sleep inf", "interrupted = \"again\"")),
    );
    for run in ["once/t1", "once/t2", "again/t1"] {
        daemon.drop_task(run, "x");
        daemon.wait_for_run(run, "taken", |_| true);
    }
    for run in ["once/t1", "again/t1"] {
        daemon.wait_for_run(run, "running", |run| run.state == State::Running);
    }
    let mut daemon = daemon;
    daemon.stop();
    daemon.start_again();
    let run = daemon.wait_for_end("once/t1");
    assert_eq!(run.outcome, Some(Outcome::Interrupted), "{run:?}");
    for (run, file, starts) in [("once/t2", "once", 2), ("again/t1", "again", 2)] {
        daemon.wait_for_run(run, "running", |run| run.state == State::Running);
        daemon.wait_for_starts(file, starts);
    }
}

#[test]
fn what_can_be_no_task_is_refused_and_disturbs_nothing() {
    let daemon = Setup::new().args(["--resync", "300ms"]).start(&template("fixer", "log @WORK/log; rest", ""));
    let folder = daemon.path("spool/fixer");
    daemon.wait("the folder of tasks", || folder.is_dir().then_some(()));
    mkfifo(&folder.join("fifo"), Mode::S_IRWXU).unwrap();
    symlink("/etc/passwd", folder.join("link")).unwrap();
    fs::write(daemon.path("other"), "x").unwrap();
    fs::hard_link(daemon.path("other"), folder.join("hard")).unwrap();
    fs::File::create(folder.join("sparse")).unwrap().set_len(1 << 30).unwrap();
    fs::write(folder.join("empty"), " \n").unwrap();
    fs::write(folder.join("latin"), b"caf\xe9").unwrap();
    fs::write(folder.join("no id!"), "x").unwrap();
    let whys = [
        ("fifo", "not a regular file"),
        ("link", "it is a link"),
        ("hard", "2 names"),
        ("sparse", "larger than"),
        ("empty", "it is empty"),
        ("latin", "UTF-8"),
        ("no id!", "1 to 40"),
    ];
    for (name, why) in whys {
        let file = folder.join(".refused").join(format!("{name}.why"));
        let said = daemon.wait(&format!("the refusal of {name}"), || fs::read_to_string(&file).ok());
        assert!(said.contains(why), "{name}: {said}");
    }
    daemon.drop_task("fixer/good", "x");
    assert_eq!(daemon.wait_for_end("fixer/good").outcome, Some(Outcome::Completed));
    assert_eq!(daemon.starts("log"), 1);
}

#[test]
fn a_schedule_makes_runs_of_the_prompt() {
    let entry = template("nightly", "append @WORK/told", "schedule = \"every 1s\"")
        .replace("[agents.runs]", "prompt = \"look after it\"\n[agents.runs]");
    let daemon = Setup::new().start(&entry);
    daemon.wait("two runs", || (daemon.lines("told").len() >= 2).then_some(()));
    assert_eq!(daemon.lines("told")[..2], ["look after it", "look after it"]);
    let status = daemon.wait_until("nightly", "shown with its next time", |agent| agent.next_run_at.is_some());
    let last = status.runs.unwrap().last.unwrap();
    assert!(last.id.starts_with("cron-") && last.outcome == Outcome::Completed, "{last:?}");
}

#[test]
fn an_edit_of_the_template_changes_what_waits_and_leaves_what_runs() {
    let jcard = |word: &str| template("fixer", &format!("append @WORK/said {word}; await-exit @WORK/exit"), "");
    let daemon = Setup::new().start(&jcard("old"));
    daemon.drop_task("fixer/t1", "x");
    let before = daemon.wait_for_run("fixer/t1", "running", |run| run.state == State::Running);
    daemon.drop_task("fixer/t2", "x");
    daemon.wait_for_run("fixer/t2", "in line", |run| run.position == Some(1));
    let generation = daemon.agent("fixer").unwrap().config_generation;
    daemon.edit_jcard(&jcard("new"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait("the edit", || (daemon.agent("fixer")?.config_generation != generation).then_some(()));
    assert_eq!(daemon.run_status("fixer/t1").unwrap().pid, before.pid);
    for run in ["fixer/t1", "fixer/t2"] {
        daemon.wait_for_run(run, "running", |run| run.state == State::Running);
        fs::write(daemon.work("exit"), "0").unwrap();
        daemon.wait_for_end(run);
    }
    assert_eq!(daemon.lines("said"), ["old", "new"]);
    // Without its template, nothing of it is wanted.
    daemon.drop_task("fixer/t3", "x");
    daemon.wait_for_run("fixer/t3", "running", |run| run.state == State::Running);
    daemon.edit_jcard(&agent("other", "sleep inf", ""));
    daemon.wait_for_run("fixer/t3", "cancelled", |run| run.outcome == Some(Outcome::Cancelled));
}
