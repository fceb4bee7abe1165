//! A jcard's declarations are what runs. Mistakes in it are reported and affect no other agent.

use std::fs;
use std::io::Write;

use agentd::wire::status::{AgentStatus, State};
use nix::sys::signal::Signal;

use crate::support::{Daemon, Dump, Process, Setup, agent, as_user, path, run, steps};

fn names(daemon: &Daemon) -> Vec<String> {
    daemon.agents().into_iter().map(|agent| agent.name).collect()
}

fn error(agent: &AgentStatus) -> &str {
    agent.error.as_deref().unwrap_or_default()
}

#[test]
fn an_agent_table_and_an_array_of_agents_all_run() {
    let one = agent("zoe", "sleep inf", "").replace("[[agents]]", "[agent]");
    let daemon = Setup::new().start(&(one + &agent("Bert", "sleep inf", "") + &agent("anna", "sleep inf", "")));
    for name in ["zoe", "anna", "Bert"] {
        daemon.wait_until_running(name);
    }
    assert_eq!(names(&daemon), ["Bert", "anna", "zoe"], "sorted by bytes");
}

#[test]
fn a_writer_can_wait_until_its_edit_is_in_force() {
    let daemon = Setup::new().start(&(agent("a", "sleep inf", "") + &agent("b", "sleep inf", "")));
    daemon.wait_until_running("a");
    let first = daemon.health().config_generation.unwrap();
    assert_eq!(daemon.agent("a").unwrap().config_generation, Some(first));
    let bad = agent("b", "sleep inf", "restart = \"maybe\"");
    daemon.edit_jcard(&(agent("a", "sleep inf", "timeout = \"1h\"") + &bad));
    let written = fs::metadata(daemon.jcard()).unwrap().modified().unwrap();
    let health = daemon.wait("the edit", || {
        // The API rounds down to milliseconds.
        let read = daemon.health().config_modified_at?.0 + std::time::Duration::from_millis(1);
        (read >= written).then(|| daemon.health())
    });
    let second = health.config_generation.unwrap();
    assert!(second > first, "{first} {second}");
    let of = |name: &str| daemon.agent(name).unwrap().config_generation;
    assert_eq!((of("a"), of("b")), (Some(second), Some(first)), "the wrong entry is not in force");
}

#[test]
fn unnamed_agents_are_named_after_their_harness() {
    let unnamed =
        |harness: &str| agent("x", "sleep inf; rest", "").replace("name = \"x\"\n", "").replace("custom", harness);
    let daemon = Setup::new().start(&(unnamed("codex") + &unnamed("claude-code") + &unnamed("claude-code")));
    for name in ["codex", "claude-code-0", "claude-code-1"] {
        daemon.wait_until_running(name);
    }
    assert_eq!(daemon.agents().len(), 3);
}

#[test]
fn replicas_run_side_by_side_in_sessions_of_their_own() {
    let daemon = Setup::new().start(&agent("rev", "sleep inf", "replicas = 3\nsession = \"ignored\""));
    for name in ["rev-0", "rev-1", "rev-2"] {
        daemon.wait_until_running(name);
        assert!(daemon.has_session(name));
    }
    assert_eq!(daemon.agents().len(), 3);
}

#[test]
fn removing_an_agent_spares_one_with_the_same_name_prefix() {
    let other = agent("rev-1", "sleep inf", "");
    let daemon = Setup::new().start(&(agent("rev", "sleep inf", "") + &other));
    let pid = daemon.wait_until_running("rev-1");
    daemon.wait_until_running("rev");
    daemon.edit_jcard(&other);
    daemon.wait_until_removed("rev");
    assert_eq!(daemon.wait_until_running("rev-1"), pid);
    assert!(daemon.has_session("rev-1"));
}

#[test]
fn empty_strings_count_as_unset() {
    let empty = "session = \"\"\nprompt = \"\"\nprompt_file = \"\"\nrestart = \"\"\ntimeout = \"\"\ngrace_period = \"\"\ntype = \"\"";
    let daemon = Setup::new().start(&agent("plain", "dump @WORK/dump; rest", empty));
    let agent = daemon.wait_for_state("plain", State::Exited);
    assert_eq!((agent.session.as_str(), agent.restarts, agent.timeout_at), ("plain", 0, None));
    assert_eq!(Dump::of(&daemon, "dump").rest(), [""; 0], "an empty prompt counts as none");
}

#[test]
fn a_session_may_have_a_different_name_than_its_agent() {
    let daemon = Setup::new().start(&agent("worker", "sleep inf", "session = \"desk\""));
    daemon.wait_until_running("worker");
    assert_eq!(daemon.agent("worker").unwrap().session, "desk");
    assert!(daemon.has_session("desk"));
    assert!(!daemon.has_session("worker"));
}

#[test]
fn a_foreign_session_is_neither_used_nor_ended() {
    let mut daemon = Setup::new().start(&agent("keeper", "sleep inf", ""));
    daemon.wait_until_running("keeper");
    daemon.tmux(&["new-session", "-d", "-s", "desk", "sleep infinity"]).unwrap();
    let pane = || daemon.tmux(&["list-panes", "-s", "-t", "=desk", "-F", "#{pane_pid} #{pane_dead}"]).unwrap();
    let before = pane();
    daemon.edit_jcard(&(agent("keeper", "sleep inf", "") + &agent("a", "sleep inf", "session = \"desk\"")));
    let refused = daemon.wait_until("a", "in error", |agent| agent.error.is_some());
    assert!(error(&refused).contains("desk"), "{refused:?}");
    assert_eq!(refused.session, "", "a foreign session is not reported as the agent's");
    daemon.edit_jcard(&agent("keeper", "sleep inf", ""));
    daemon.wait_until_removed("a");
    assert_eq!(pane(), before, "once the agent is removed");
    daemon.edit_jcard(&agent("a", "sleep inf", "session = \"desk\""));
    daemon.wait_until("a", "in error", |agent| agent.error.is_some());
    assert!(daemon.stop().success());
    assert!(daemon.has_session("desk"), "once the daemon is stopped");
}

#[test]
fn a_renamed_session_still_belongs_to_its_agent() {
    let jcard =
        agent("a", "say hello; await-exit @WORK/end", "restart = \"always\"\nmax_restarts = 1\nbackoff = [\"10ms\"]")
            + &agent("b", "exit 0", "");
    let mut daemon = Setup::new().start(&jcard);
    daemon.wait_until_running("a");
    daemon.wait_for_state("b", State::Exited);
    daemon.tmux(&["rename-session", "-t", "=a", "busy"]).unwrap();
    daemon.tmux(&["new-window", "-d", "-t", "=busy", "sleep infinity"]).unwrap();
    daemon.tmux(&["rename-session", "-t", "=b", "idle"]).unwrap();
    daemon.put(&daemon.work("end"), "1");
    daemon.wait_until("a", "in its second run", |agent| agent.running && agent.attempt == Some(2));
    assert!(!daemon.has_session("busy") && daemon.has_session("a"), "the session has its name again");
    daemon.wait("both runs in one pane", || (daemon.capture("a").matches("hello").count() == 2).then_some(()));
    daemon.edit_jcard(&agent("a", "exit 0", ""));
    daemon.wait_until_removed("b");
    assert!(!daemon.has_session("idle"));
    daemon.wait_until("a", "completed", |agent| agent.attempt == Some(1) && agent.outcome.is_some());
    daemon.tmux(&["rename-session", "-t", "=a", "done"]).unwrap();
    assert!(daemon.stop().success());
    daemon.wait("the tmux server to end", || daemon.processes().is_empty().then_some(()));
}

#[test]
fn other_sections_are_free_and_unknown_keys_warn_with_place() {
    let more = "color = \"green\"";
    let other = "mixtape = 7\n[resources]\nmemory = 8192\n[agents_of_old]\nname = [1, 2]\n\n";
    let text = agent("a", "sleep inf", more);
    let at = text.lines().position(|line| line == more).unwrap() + 1 + other.lines().count();
    let daemon = Setup::new().start(&(other.to_owned() + &text));
    daemon.wait_until_running("a");
    assert_eq!(daemon.health().config_error, None);
    assert!(daemon.log().contains(&format!("{at}:1: ")), "no warning at {at}:1");
    assert!(daemon.log().contains("color"));
}

#[test]
fn a_jcard_without_agents_is_valid_and_stops_all_agents() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    daemon.edit_jcard("mixtape = \"opencode\"\n");
    daemon.wait_until_removed("a");
    daemon.wait_until_gone(pid);
    assert_eq!(daemon.get("/v1/agents").body, "[]\n");
    assert_eq!(daemon.health().config_error, None);
}

#[test]
fn a_wrong_entry_affects_only_its_agent() {
    let wrong = "[[agents]]\nname = \"wrong\"\nharness = \"no-such-harness\"\n";
    let daemon = Setup::new().start(&(wrong.to_owned() + &agent("right", "sleep inf", "")));
    daemon.wait_until_running("right");
    let agent = daemon.wait_for_state("wrong", State::Invalid);
    assert!(!agent.running);
    assert!(error(&agent).contains("3:"), "{}", error(&agent));
    assert!(error(&agent).contains("no-such-harness") || error(&agent).contains("claude-code"), "{}", error(&agent));
}

#[test]
fn every_kind_of_wrong_value_is_the_agents_error() {
    let wrong = [
        ("session", "session = \"a:b\""),
        ("restart", "restart = \"sometimes\""),
        ("timeout", "timeout = \"1M\""),
        ("grace", "grace_period = \"-3s\""),
        ("maximum", "max_restarts = -1"),
        ("env", "env = { A = [1] }"),
        ("workdir", "workdir = \"relative\""),
        ("type", "type = \"sandboxed\"\nsandbox = \"none\""),
        ("backoff", "backoff = [\"soon\"]"),
    ];
    let entry = |(name, line): &(&str, &str)| {
        let entry = agent(name, "sleep inf", line);
        if line.starts_with("workdir") { entry.replace("workdir = \"@WORK\"\n", "") } else { entry }
    };
    let jcard: String = wrong.iter().map(entry).collect();
    let daemon = Setup::new().start(&(jcard + &agent("right", "sleep inf", "")));
    daemon.wait_until_running("right");
    for (name, line) in wrong {
        let agent = daemon.agent(name).unwrap_or_else(|| panic!("{name} is not listed"));
        assert_eq!(agent.state, State::Invalid, "{line}");
        assert!(!error(&agent).is_empty(), "{line}");
    }
}

#[test]
fn an_entry_without_readable_names_is_reported_and_stops_no_one() {
    let daemon = Setup::new().start(&agent("rev", "sleep inf", "replicas = 2"));
    let pids = ["rev-0", "rev-1"].map(|name| daemon.wait_until_running(name));
    daemon.edit_jcard(&(agent("rev", "sleep inf", "replicas = 0") + &agent("other", "sleep inf", "")));
    daemon.wait_until_running("other");
    let said = daemon.wait("config_error", || daemon.health().config_error);
    assert!(said.contains("replicas"), "{said}");
    assert_eq!(["rev-0", "rev-1"].map(|name| daemon.wait_until_running(name)), pids);
}

#[test]
fn a_wrong_edit_is_reported_and_keeps_the_agent_running() {
    let good = agent("a", "sleep inf", "");
    let daemon = Setup::new().start(&good);
    let pid = daemon.wait_until_running("a");
    daemon.edit_jcard(&agent("a", "sleep inf", "restart = \"sometimes\""));
    let agent = daemon.wait_until("a", "in error", |agent| agent.error.is_some());
    assert_eq!((agent.state, agent.pid), (State::Running, Some(pid)));
    daemon.edit_jcard(&good);
    let agent = daemon.wait_until("a", "mended", |agent| agent.error.is_none());
    assert_eq!(agent.pid, Some(pid));
}

#[test]
fn a_broken_empty_or_missing_file_changes_no_running_agent() {
    let good = agent("a", "sleep inf", "");
    let daemon = Setup::new().start(&good);
    let pid = daemon.wait_until_running("a");
    let broken = || daemon.wait("config_error", || daemon.health().config_error);
    let mend = || {
        daemon.edit_jcard(&good);
        daemon.wait("no config_error", || daemon.health().config_error.is_none().then_some(()));
    };
    daemon.edit_jcard("[[agents]\nname = \n");
    let said = broken();
    assert!(said.contains('1'), "the message gives the line: {said}");
    mend();
    daemon.edit_jcard(" \n\n");
    broken();
    mend();
    fs::remove_file(daemon.jcard()).unwrap();
    broken();
    assert_eq!(daemon.agent("a").unwrap().pid, Some(pid));
    mend();
    assert_eq!(daemon.agent("a").unwrap().pid, Some(pid));
    assert_eq!(daemon.agent("a").unwrap().attempt, Some(1));
}

#[test]
fn a_jcard_missing_at_first_is_read_when_it_appears() {
    let daemon = Setup::new().start_as_it_is();
    daemon.wait("a finding", || daemon.health().config_error);
    daemon.edit_jcard(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    assert_eq!(daemon.health().config_error, None);
}

#[test]
fn the_first_of_two_agents_with_one_name_keeps_it() {
    let daemon = Setup::new()
        .start(&(agent("Twin", "sleep inf", "") + &agent("twin", "exit 3", "") + &agent("b", "sleep inf", "")));
    daemon.wait_until_running("Twin");
    daemon.wait_until_running("b");
    assert_eq!(names(&daemon), ["Twin", "b"]);
    let said = daemon.health().config_error.expect("the other is reported");
    assert!(said.contains("twin"), "{said}");
}

#[test]
fn a_comment_edit_changes_nothing() {
    let entry = agent("a", "log @WORK/log; sleep inf", "");
    let daemon = Setup::new().start(&entry);
    let pid = daemon.wait_until_running("a");
    daemon.edit_jcard(&format!("# a comment\n{entry}# another\n{}", agent("last", "sleep inf", "")));
    daemon.wait_until_running("last");
    assert_eq!(daemon.wait_until_running("a"), pid);
    daemon.wait_for_starts("log", 1);
}

#[test]
fn a_policy_edit_keeps_the_pid_and_applies_at_once() {
    let daemon = Setup::new().start(&agent("a", "log @WORK/log; await-exit @WORK/end", ""));
    let pid = daemon.wait_until_running("a");
    let policy =
        "restart = \"always\"\nbackoff = [\"10ms\"]\ngrace_period = \"1s\"\nmax_restarts = 7\ntimeout = \"1h\"";
    daemon.edit_jcard(&agent("a", "log @WORK/log; await-exit @WORK/end", policy));
    let agent = daemon.wait_until("a", "under the new policy", |agent| agent.timeout_at.is_some());
    assert_eq!((agent.pid, agent.attempt), (Some(pid), Some(1)));
    daemon.put(&daemon.work("end"), "0");
    let agent = daemon.wait_until("a", "restarted", |agent| agent.running && agent.restarts == 1);
    assert_ne!(agent.pid, Some(pid));
}

#[test]
fn only_the_agent_whose_launch_changed_is_relaunched() {
    let same = agent("same", "log @WORK/same; sleep inf", "");
    let daemon = Setup::new().start(&(same.clone() + &agent("other", "log @WORK/other; sleep inf", "")));
    let (one, two) = (daemon.wait_until_running("same"), daemon.wait_until_running("other"));
    daemon.wait_for_starts("other", 1);
    daemon.wait_for_starts("same", 1);
    daemon.edit_jcard(&(same + &agent("other", "log @WORK/other; sleep inf", "env = { A = \"b\" }")));
    let agent = daemon
        .wait_until("other", "relaunched", |agent| agent.running && agent.pid != Some(two) && agent.pid.is_some());
    assert_eq!((agent.attempt, agent.restarts), (Some(1), 0), "a new declaration restarts the counts");
    assert_eq!(daemon.wait_until_running("same"), one);
    daemon.wait_for_starts("other", 2);
    daemon.wait_for_starts("same", 1);
    daemon.wait_until_gone(two);
}

#[test]
fn an_edit_in_place_is_noticed() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let mut file = fs::OpenOptions::new().append(true).open(daemon.jcard()).unwrap();
    file.write_all(daemon.expand(&agent("b", "sleep inf", "")).as_bytes()).unwrap();
    daemon.wait_until_running("b");
}

#[test]
fn a_jcard_linked_into_another_directory_is_followed() {
    let setup = Setup::new();
    fs::create_dir(setup.path("store")).unwrap();
    setup.put(&setup.path("store/one"), setup.expand(&agent("one", "sleep inf", "")));
    setup.put(&setup.path("store/two"), setup.expand(&agent("two", "sleep inf", "")));
    std::os::unix::fs::symlink("store/one", setup.jcard()).unwrap();
    let daemon = setup.start_as_it_is();
    daemon.wait_until_running("one");
    std::os::unix::fs::symlink("store/two", daemon.path("jcard.new")).unwrap();
    fs::rename(daemon.path("jcard.new"), daemon.jcard()).unwrap();
    daemon.wait_until_running("two");
    daemon.wait_until_removed("one");
}

/// A write through another name of the same file, which inotify on the jcard's directory does not report.
fn edit_unannounced(daemon: &Daemon, text: &str) {
    let behind = daemon.path("behind/jcard");
    if !behind.exists() {
        fs::create_dir(daemon.path("behind")).unwrap();
        fs::hard_link(daemon.jcard(), &behind).unwrap();
    }
    fs::write(&behind, daemon.expand(text)).unwrap();
}

#[test]
fn the_resync_finds_a_change_without_a_notification() {
    let daemon = Setup::new().args(["--resync", "300ms"]).start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    edit_unannounced(&daemon, &agent("b", "sleep inf", ""));
    daemon.wait_until_running("b");
    daemon.wait_until_removed("a");
}

#[test]
fn sighup_rereads_now() {
    let daemon = Setup::new().args(["--resync", "1h"]).start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    edit_unannounced(&daemon, &agent("b", "sleep inf", ""));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until_running("b");
    daemon.wait_until_removed("a");
}

#[test]
fn a_burst_of_edits_becomes_one_change_once_it_is_quiet() {
    let entry = |n: u32| agent("a", "log @WORK/log; sleep inf", &format!("env = {{ N = \"{n}\" }}"));
    let daemon = Setup::new().args(["--settle", "1s"]).start(&entry(0));
    let pid = daemon.wait_until_running("a");
    for n in 1..=5 {
        daemon.edit_jcard(&entry(n));
    }
    daemon.wait_until("a", "relaunched", |agent| agent.running && agent.pid.is_some_and(|new| new != pid));
    daemon.wait_for_starts("log", 2);
    let pid = daemon.wait_until_running("a");
    let environ = Process(pid).environ();
    assert!(environ.windows(4).any(|var| var == b"N=5\0"), "the last edit runs");
}

#[test]
fn edits_that_never_cease_are_still_applied() {
    let daemon = Setup::new().args(["--settle", "200ms"]).start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let mut n = 0;
    daemon.wait("an edit to be applied amid others", || {
        n += 1;
        daemon.edit_jcard(&format!("{}# {n}\n", agent("b", "sleep inf", "")));
        daemon.agent("b").filter(|agent| agent.running)
    });
}

#[test]
fn presets_put_the_prompt_where_their_harness_wants_it() {
    let forms: [(&str, &[&str]); 5] = [
        ("claude-code", &["-p", "do it"]),
        ("opencode", &["--prompt", "do it"]),
        ("gemini-cli", &["do it"]),
        ("codex", &["--", "do it"]),
        ("custom", &["do it"]),
    ];
    let entry = |harness: &str, prompt: &str, dump: &str| {
        format!(
            "[[agents]]\nname = \"{dump}\"\nharness = \"{harness}\"\nworkdir = \"@WORK\"\ncommand = \"@HARNESS\"\nargs = {}\n{prompt}\n",
            steps(&format!("dump @WORK/{dump}; rest"))
        )
    };
    let jcard: String = forms
        .iter()
        .map(|(harness, _)| {
            entry(harness, "prompt = \"do it\"", harness) + &entry(harness, "", &format!("{harness}-alone"))
        })
        .collect();
    let daemon = Setup::new().start(&jcard);
    for (harness, form) in forms {
        assert_eq!(Dump::of(&daemon, harness).rest(), form, "{harness}");
        assert_eq!(Dump::of(&daemon, &format!("{harness}-alone")).rest(), [""; 0], "{harness} without a prompt");
        assert_eq!(daemon.agent(harness).unwrap().harness.as_deref(), Some(harness));
    }
}

#[test]
fn presets_run_their_own_binary_found_in_the_declared_path() {
    let binaries = [
        ("claude-code", "claude"),
        ("opencode", "opencode"),
        ("gemini-cli", "gemini"),
        ("codex", "codex"),
        ("custom", "agent"),
    ];
    let setup = Setup::new();
    let entry = |(harness, binary): (&str, &str)| {
        fs::copy(setup.path("bin/fake-harness"), setup.path("bin").join(binary)).unwrap();
        format!(
            "[[agents]]\nname = \"{binary}\"\nharness = \"{harness}\"\nworkdir = \"@WORK\"\nargs = {}\nenv = {{ PATH = \"@DIR/bin:{}\" }}\n",
            steps(&format!("append @WORK/ran {binary}")),
            path(),
        )
    };
    let jcard = binaries.map(entry).concat();
    let daemon = setup.start(&jcard);
    for (_, binary) in binaries {
        daemon.wait_for_line("ran", binary);
    }
}

#[test]
fn a_command_may_be_a_program_and_its_first_arguments() {
    let array = format!("command = {}", steps("dump @WORK/dump; rest").replacen('[', "[\"@HARNESS\", ", 1));
    let entry = format!(
        "[[agents]]\nname = \"a\"\nharness = \"gemini-cli\"\nworkdir = \"@WORK\"\nargs = [\"--model\", \"x y\"]\nprompt = \"p\"\n{array}\n"
    );
    let daemon = Setup::new().start(&entry);
    assert_eq!(Dump::of(&daemon, "dump").rest(), ["--model", "x y", "p"]);
}

#[test]
fn a_prompt_of_any_content_is_one_argument_byte_for_byte() {
    let prompt =
        "-p --; cd \"$HOME\" && rm -rf `x` 'y' \\ \\n #{pane_id} %1 ~ é 漢 \u{1f41a}\ttab\r\nline;\u{1}\u{1b}[31m end;";
    let escaped = prompt.chars().map(|c| format!("\\U{:08X}", u32::from(c))).collect::<Vec<_>>().concat();
    let daemon = Setup::new().start(&agent("a", "dump @WORK/dump; rest", &format!("prompt = \"{escaped}\"")));
    assert_eq!(Dump::of(&daemon, "dump").rest(), [prompt]);
}

#[test]
fn a_prompt_below_128_kib_is_accepted_and_a_longer_one_refused() {
    let entry = |name: &str, length: usize| {
        agent(name, &format!("dump @WORK/{name}; rest"), &format!("prompt = \"{}\"", "x".repeat(length)))
    };
    let daemon = Setup::new().start(&(entry("fits", 131_071) + &entry("too-long", 131_072)));
    assert_eq!(Dump::of(&daemon, "fits").rest()[0].len(), 131_071);
    let agent = daemon.wait_for_state("too-long", State::Invalid);
    let said = error(&agent).replace([',', '_', ' '], "");
    assert!(said.contains("131071") || said.contains("128KiB"), "the message names the limit: {}", error(&agent));
    assert!(!said.contains("xxxx"), "and does not quote the prompt");
}

#[test]
fn a_prompt_file_precedes_the_prompt_and_its_edit_relaunches() {
    let setup = Setup::new();
    setup.put(&setup.path("task.md"), "\n  from the file \n\n");
    let daemon =
        setup.start(&agent("a", "dump @WORK/dump; sleep inf; rest", "prompt = \"inline\"\nprompt_file = \"task.md\""));
    assert_eq!(Dump::of(&daemon, "dump").rest(), ["from the file"]);
    let pid = daemon.wait_until_running("a");
    daemon.put(&daemon.path("task.md"), "  from the file ");
    daemon.put(&daemon.path("task.md"), "another task");
    daemon.wait_until("a", "relaunched", |agent| agent.running && agent.pid.is_some_and(|new| new != pid));
    daemon.wait("the other task", || (Dump::of(&daemon, "dump").rest() == ["another task"]).then_some(()));
}

#[test]
fn an_agent_waits_for_its_prompt_file() {
    let daemon = Setup::new().start(&agent("a", "dump @WORK/dump; rest", "prompt_file = \"later.md\""));
    let agent = daemon.wait_for_state("a", State::Waiting);
    assert!(agent.reason.as_deref().unwrap_or_default().contains("later.md"), "{:?}", agent.reason);
    daemon.put(&daemon.path("later.md"), "now");
    assert_eq!(Dump::of(&daemon, "dump").rest(), ["now"]);
}

#[test]
fn an_agent_reports_that_it_waits_for_its_workdir() {
    let entry = agent("a", "sleep inf", "").replace("@WORK\"\nargs", "@WORK/mount\"\nargs");
    let daemon = Setup::new().args(["--resync", "200ms"]).start(&entry);
    let agent = daemon.wait_for_state("a", State::Waiting);
    assert!(!agent.running);
    assert!(agent.reason.as_deref().unwrap_or_default().contains("work/mount"), "{:?}", agent.reason);
    let folder = daemon.work("mount");
    run(as_user(&daemon.agent_account().name, &["mkdir", folder.to_str().unwrap()]).current_dir("/"));
    daemon.wait_until_running("a");
}

#[test]
fn one_edit_removes_five_hundred_waiting_agents() {
    let waiting = agent("many", "sleep inf", "replicas = 500").replacen("@WORK", "/nonexistent", 1);
    let daemon = Setup::new().start(&waiting);
    daemon.wait("500 agents", || (daemon.agents().len() == 500).then_some(()));
    daemon.edit_jcard("# no agents\n");
    daemon.wait("no agents", || daemon.agents().is_empty().then_some(()));
}
