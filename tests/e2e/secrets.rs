//! Files become variables, changes become relaunches, and no secret shows up elsewhere.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use agentd::wire::status::State;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::support::{Daemon, Dump, Process, Setup, Who, agent, give};

/// Waits until the agent runs with that variable, and returns its pid.
fn wait_for_var(daemon: &Daemon, name: &str, var: &str) -> i32 {
    let wanted = format!("{var}\0");
    daemon.wait(&format!("{name} to run with {var}"), || {
        let pid = daemon.agent(name)?.pid?;
        let environ = [b"\0", &Process(pid).environ()[..]].concat();
        let wanted = [b"\0", wanted.as_bytes()].concat();
        environ.windows(wanted.len()).any(|window| window == wanted).then_some(pid)
    })
}

#[test]
fn secrets_become_variables_and_declared_ones_win() {
    let setup = Setup::new();
    setup.secret("API_KEY", "s3cret; with 'quotes' \"and\" $more\t;\n\n");
    setup.secret("LINES_OF", "one\ntwo\r\n");
    setup.secret("EMPTY", "");
    setup.secret("BOTH", "of the secrets");
    let daemon = setup.start(&agent("a", "dump @WORK/dump; rest", "env = { BOTH = \"of the jcard\" }"));
    let dump = Dump::of(&daemon, "dump");
    assert_eq!(dump.var("API_KEY").unwrap(), "s3cret; with 'quotes' \"and\" $more\t;");
    assert_eq!(dump.var("LINES_OF").unwrap().trim_end_matches('\r'), "one\ntwo");
    assert_eq!(dump.var("EMPTY").unwrap(), "");
    assert_eq!(dump.var("BOTH").unwrap(), "of the jcard");
}

#[test]
fn files_that_are_not_secrets_are_skipped() {
    let setup = Setup::new();
    let folder = setup.path("secrets");
    for name in [".hidden", "KEY.tmp", "1ST", "WITH-DASH", "WITH SPACE"] {
        fs::write(folder.join(name), "skipped").unwrap();
        give(&folder.join(name), &setup.daemon_account());
    }
    fs::create_dir(folder.join("FOLDER")).unwrap();
    mkfifo(&folder.join("FIFO"), Mode::S_IRWXU).unwrap();
    setup.put(&setup.path("elsewhere"), "by a link");
    symlink(setup.path("elsewhere"), folder.join("LINKED")).unwrap();
    symlink(setup.path("nowhere"), folder.join("DANGLING")).unwrap();
    setup.secret("_GOOD_1", "good");
    let daemon = setup.start(&agent("a", "dump @WORK/dump; sleep inf; rest", ""));
    let dump = Dump::of(&daemon, "dump");
    assert_eq!(dump.var("_GOOD_1").as_deref(), Some("good"));
    assert_eq!(dump.var("LINKED").as_deref(), Some("by a link"));
    assert!(!dump.environ().iter().any(|var| var.contains("skipped")));
    for name in ["FOLDER", "FIFO", "DANGLING"] {
        assert_eq!(dump.var(name), None, "{name}");
    }
}

#[test]
fn an_agent_that_names_secrets_waits_for_those_alone() {
    let setup = Setup::new();
    setup.secret("OTHER", "not for everybody");
    let daemon = setup.start(&agent("a", "dump @WORK/dump; sleep inf; rest", "secrets = [\"FIRST\", \"SECOND\"]"));
    let agent = daemon.wait_for_state("a", State::Waiting);
    let reason = agent.reason.unwrap();
    assert!(reason.contains("FIRST") && reason.contains("SECOND"), "{reason}");
    daemon.secret("FIRST", "1");
    daemon.wait_until("a", "waiting for the other only", |agent| {
        agent.state == State::Waiting && agent.reason.as_deref().is_some_and(|reason| !reason.contains("FIRST"))
    });
    daemon.secret("SECOND", "2");
    let dump = Dump::of(&daemon, "dump");
    assert_eq!((dump.var("FIRST").as_deref(), dump.var("SECOND").as_deref()), (Some("1"), Some("2")));
    assert_eq!(dump.var("OTHER"), None);
    assert_eq!(
        daemon.wait_until("a", "running", |agent| agent.running).attempt,
        Some(1),
        "the agent did not start before"
    );
}

#[test]
fn a_changed_secret_relaunches_only_agents_that_use_it() {
    let setup = Setup::new();
    for name in ["MINE", "YOURS"] {
        setup.secret(name, "old");
    }
    let jcard = agent("mine", "sleep inf", "secrets = [\"MINE\"]")
        + &agent("yours", "sleep inf", "secrets = [\"YOURS\"]")
        + &agent("none", "sleep inf", "secrets = []")
        + &agent("own", "sleep inf", "secrets = [\"MINE\"]\nenv = { MINE = \"own\" }");
    let daemon = setup.start(&jcard);
    let before = ["yours", "none", "own"].map(|name| daemon.wait_until_running(name));
    let mine = wait_for_var(&daemon, "mine", "MINE=old");
    daemon.secret("MINE", "new");
    assert_ne!(wait_for_var(&daemon, "mine", "MINE=new"), mine);
    daemon.wait_until_gone(mine);
    assert_eq!(["yours", "none", "own"].map(|name| daemon.wait_until_running(name)), before);
}

#[test]
fn a_secret_rewritten_with_the_same_value_relaunches_no_one() {
    let setup = Setup::new();
    setup.secret("SAME", "value");
    let daemon = setup.start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    daemon.secret("SAME", "value\n");
    daemon.edit_jcard(&(agent("a", "log @WORK/log; sleep inf", "") + &agent("after", "sleep inf", "")));
    daemon.wait_until_running("after");
    assert_eq!(daemon.wait_until_running("a"), pid);
    daemon.wait_for_starts("log", 1);
}

#[test]
fn a_removed_secret_relaunches_the_agent_without_it() {
    let setup = Setup::new();
    setup.secret("GOES", "value");
    let daemon = setup.start(&agent("a", "dump @WORK/dump; sleep inf; rest", ""));
    let pid = wait_for_var(&daemon, "a", "GOES=value");
    fs::remove_file(daemon.path("secrets/GOES")).unwrap();
    daemon.wait_until("a", "relaunched", |agent| agent.running && agent.pid.is_some_and(|new| new != pid));
    daemon.wait("a run without it", || Dump::of(&daemon, "dump").var("GOES").is_none().then_some(()));
}

#[test]
fn a_symlink_swap_of_the_secrets_directory_is_noticed() {
    let setup = Setup::new();
    fs::remove_dir_all(setup.path("secrets")).unwrap();
    for generation in ["1", "2"] {
        fs::create_dir_all(setup.path("generations").join(generation)).unwrap();
        setup.put(&setup.path("generations").join(generation).join("KEY"), format!("generation {generation}"));
    }
    symlink("generations/1", setup.path("secrets")).unwrap();
    let daemon = setup.args(["--resync", "1h"]).start(&agent("a", "sleep inf", ""));
    wait_for_var(&daemon, "a", "KEY=generation 1");
    symlink("generations/2", daemon.path("secrets.new")).unwrap();
    fs::rename(daemon.path("secrets.new"), daemon.path("secrets")).unwrap();
    wait_for_var(&daemon, "a", "KEY=generation 2");
    daemon.put(&daemon.path("generations/2/KEY"), "and an edit in it");
    wait_for_var(&daemon, "a", "KEY=and an edit in it");
}

#[test]
fn a_secrets_directory_that_appears_later_is_noticed() {
    let setup = Setup::new();
    fs::remove_dir_all(setup.path("secrets")).unwrap();
    let daemon = setup.args(["--resync", "1h"]).start(&agent("a", "sleep inf", "secrets = [\"KEY\"]"));
    daemon.wait_for_state("a", State::Waiting);
    assert_eq!(daemon.health().secrets_error, None, "a missing directory counts as empty");
    fs::create_dir(daemon.path("secrets")).unwrap();
    daemon.secret("KEY", "here");
    wait_for_var(&daemon, "a", "KEY=here");
}

#[test]
fn a_value_no_variable_can_hold_is_an_error_of_its_secret_only() {
    let setup = Setup::new();
    setup.secret("GOOD", "good");
    setup.secret("NUL", b"a\0b");
    setup.secret("LARGE", "x".repeat(200_000));
    let daemon = setup.start(&agent("a", "dump @WORK/dump; sleep inf; rest", ""));
    let dump = Dump::of(&daemon, "dump");
    assert_eq!(dump.var("GOOD").as_deref(), Some("good"));
    assert_eq!((dump.var("NUL"), dump.var("LARGE")), (None, None));
    let said = daemon.wait("secrets_error", || daemon.health().secrets_error);
    assert!(said.contains("NUL") && said.contains("LARGE"), "{said}");
    daemon.secret("NUL", "mended");
    daemon.secret("LARGE", "mended");
    wait_for_var(&daemon, "a", "NUL=mended");
    daemon.wait("no secrets_error", || daemon.health().secrets_error.is_none().then_some(()));
}

#[test]
fn a_secret_that_goes_bad_keeps_its_last_good_value() {
    let setup = Setup::new();
    setup.secret("KEY", "good");
    let daemon = setup.start(&agent("a", "sleep inf", ""));
    let pid = wait_for_var(&daemon, "a", "KEY=good");
    daemon.secret("KEY", b"\0");
    daemon.wait("secrets_error", || daemon.health().secrets_error);
    assert_eq!(wait_for_var(&daemon, "a", "KEY=good"), pid);
}

/// Root can read everything, so this test needs an ordinary user.
#[test]
fn an_unreadable_secrets_directory_does_not_count_as_empty() {
    let setup = Setup::of(Who::User);
    setup.secret("KEY", "known");
    let daemon = setup.args(["--resync", "200ms"]).start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = wait_for_var(&daemon, "a", "KEY=known");
    fs::set_permissions(daemon.path("secrets"), Permissions::from_mode(0o000)).unwrap();
    daemon.wait("secrets_error", || daemon.health().secrets_error);
    assert_eq!(wait_for_var(&daemon, "a", "KEY=known"), pid);
    fs::set_permissions(daemon.path("secrets"), Permissions::from_mode(0o700)).unwrap();
    daemon.wait("no secrets_error", || daemon.health().secrets_error.is_none().then_some(()));
    assert_eq!(wait_for_var(&daemon, "a", "KEY=known"), pid);
    daemon.wait_for_starts("log", 1);
}

#[test]
fn a_secret_appears_in_no_command_line_and_no_log() {
    let canary = "canary-7f3a91c2";
    let setup = Setup::new();
    setup.secret("TOKEN", canary);
    let more = "restart = \"on-failure\"\nbackoff = [\"10ms\"]";
    let jcard = agent("a", "log @WORK/log; dump @WORK/dump; await-exit @WORK/end", more)
        + &agent("not-found", "exit 0", "").replace("@HARNESS", "no-such-binary")
        + &agent("declared", "sleep inf", &format!("env = {{ PASSWORD = \"{canary}\" }}"));
    let daemon = setup.start(&jcard);
    let pid = daemon.wait_until_running("a");
    daemon.wait_until_running("declared");
    assert_eq!(Dump::of(&daemon, "dump").var("TOKEN").as_deref(), Some(canary), "the agent itself has it");
    assert_eq!(daemon.leaks(canary), [""; 0]);
    daemon.put(&daemon.work("end"), "3");
    daemon.wait_until("a", "restarted", |agent| agent.running && agent.pid.is_some_and(|new| new != pid));
    daemon.wait_until("not-found", "in error", |agent| agent.error.is_some());
    assert_eq!(daemon.leaks(canary), [""; 0]);
    daemon.secret("TOKEN", format!("{canary}\0with a mistake"));
    daemon.edit_jcard(&jcard.replace(&format!("\"{canary}\" }}"), &format!("\"{canary} }}")));
    daemon.wait("both mistakes to be reported", || {
        let health = daemon.health();
        (health.config_error.is_some() && health.secrets_error.is_some()).then_some(())
    });
    assert_eq!(daemon.leaks(canary), [""; 0], "the message does not quote it either");
}

/// Waits until `secrets_error` says that, and then for a few more looks.
fn wait_for_secrets_error(daemon: &Daemon, wanted: &str) {
    daemon.wait(&format!("secrets_error to say {wanted:?}"), || {
        daemon.health().secrets_error.filter(|error| error.contains(wanted))
    });
}

#[test]
fn a_secrets_directory_missing_for_a_moment_relaunches_no_one() {
    let setup = Setup::new();
    for name in ["ONE", "TWO"] {
        setup.secret(name, "value");
    }
    let daemon = setup.args(["--resync", "100ms"]).start(&agent("a", "log @WORK/log; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    let (here, away) = (daemon.path("secrets"), daemon.path("away"));
    fs::rename(&here, &away).unwrap();
    wait_for_secrets_error(&daemon, "secrets is gone");
    fs::rename(&away, &here).unwrap();
    daemon.wait("all to be well", || daemon.health().secrets_error.is_none().then_some(()));
    assert_eq!(daemon.wait_until_running("a"), pid);
    daemon.wait_for_starts("log", 1);
}

#[test]
fn secrets_all_removed_at_once_are_withdrawn_on_a_second_look() {
    let setup = Setup::new();
    for name in ["ONE", "TWO"] {
        setup.secret(name, "value");
    }
    let daemon =
        setup.args(["--resync", "1s", "--settle", "100ms"]).start(&agent("a", "dump @WORK/dump; sleep inf; rest", ""));
    let pid = wait_for_var(&daemon, "a", "ONE=value");
    for name in ["ONE", "TWO"] {
        fs::remove_file(daemon.path("secrets").join(name)).unwrap();
    }
    wait_for_secrets_error(&daemon, "no longer in ");
    assert_eq!(daemon.wait_until_running("a"), pid);
    daemon.wait_until("a", "relaunched", |agent| agent.running && agent.pid.is_some_and(|new| new != pid));
    daemon.wait("a run without them", || Dump::of(&daemon, "dump").var("TWO").is_none().then_some(()));
    assert_eq!(daemon.health().secrets_error, None);
}

const TABLE: &str =
    "secrets = { GH_TOKEN = \"github-reviewer\", GITHUB_TOKEN = \"github-reviewer\", KEY = \"1.other\" }";

#[test]
fn a_table_of_secrets_names_variables_and_files() {
    let setup = Setup::new();
    setup.secret("github-reviewer", "hunter2-of-the-reviewer");
    setup.secret("not-named", "of nobody");
    let jcard = agent("a", "dump @WORK/dump; say hunter2-of-the-reviewer and more; sleep inf; rest", TABLE)
        + &agent("all", "dump @WORK/all; sleep inf; rest", "");
    let daemon = setup.start(&jcard);
    let waiting = daemon.wait_for_state("a", State::Waiting);
    assert_eq!(waiting.reason.as_deref(), Some("the secret 1.other is not in the secrets directory"));
    daemon.secret("1.other", "later");
    let dump = Dump::of(&daemon, "dump");
    for (name, value) in
        [("GH_TOKEN", "hunter2-of-the-reviewer"), ("GITHUB_TOKEN", "hunter2-of-the-reviewer"), ("KEY", "later")]
    {
        assert_eq!(dump.var(name).as_deref(), Some(value), "{name}");
    }
    let all = Dump::of(&daemon, "all");
    assert!(
        !all.environ().iter().any(|var| var.contains("hunter2") || var.contains("of nobody")),
        "{:?}",
        all.environ()
    );
    let logged = daemon.wait("the log of a", || {
        let log = daemon.get("/v1/agents/a/log").body;
        log.contains("and more").then_some(log)
    });
    assert!(!logged.contains("hunter2-of-the-reviewer"), "{logged}");
    let others = daemon.wait_until("all", "running", |agent| agent.running);
    daemon.secret("github-reviewer", "rotated");
    wait_for_var(&daemon, "a", "GITHUB_TOKEN=rotated");
    let events = daemon.get("/v1/events?follow=false").body;
    assert!(events.contains("GH_TOKEN") && events.contains("GITHUB_TOKEN") && !events.contains("hunter2"), "{events}");
    assert_eq!(daemon.agent("all").unwrap().pid, others.pid, "no other agent gets it");
}

#[test]
fn a_secret_is_redacted_while_the_entry_that_names_it_is_wrong() {
    let setup = Setup::new();
    setup.secret("of-reviewers", "hunter2-of-reviewers");
    let entry =
        agent("a", "say prints hunter2-of-reviewers here; sleep inf; rest", "secrets = { KEY = \"of-reviewers\" }");
    let mut daemon = setup.start(&entry);
    let is_printed = |daemon: &Daemon| {
        daemon.wait("the screen", || {
            let body = daemon.get("/v1/agents/a/screen").body;
            (body.contains("prints") && body.contains("here")).then_some(body)
        })
    };
    assert!(!is_printed(&daemon).contains("hunter2"));
    for wrong in
        [entry.replace("KEY =", "KEY -"), entry.replace("secrets =", "restart = \"nope\"\nsecrets ="), String::new()]
    {
        daemon.kill();
        daemon.edit_jcard(&wrong);
        daemon.start_again();
        // Without an entry it is soon gone.
        let body = if wrong.is_empty() { daemon.get("/v1/agents/a/screen").body } else { is_printed(&daemon) };
        assert!(!body.contains("hunter2"), "{wrong}: {body}");
    }
}

#[test]
fn a_file_is_used_as_soon_as_an_edit_names_it() {
    let setup = Setup::new();
    setup.secret("of-files", "value");
    let daemon = setup.args(["--resync", "1h"]).start(&agent("a", "sleep inf; rest", "secrets = []"));
    daemon.wait_until_running("a");
    daemon.edit_jcard(&agent("a", "sleep inf; rest", "secrets = { A = \"of-files\" }"));
    wait_for_var(&daemon, "a", "A=value");
    daemon.edit_jcard(&agent("a", "sleep inf; rest", "secrets = { B = \"of-files\" }"));
    wait_for_var(&daemon, "a", "B=value");
    daemon.edit_jcard(&agent("a", "sleep inf; rest", "secrets = []\nenv = { C = \"c\" }"));
    let pid = wait_for_var(&daemon, "a", "C=c");
    assert!(!Process(pid).environ().windows(5).any(|window| window == b"value"));
    assert_eq!(daemon.health().secrets_error, None, "nobody has removed the file");
}
