//! What an operator sees in the pane of a running agent, and of one that has ended.

use agentd::wire::status::State;

use crate::support::{Setup, agent};

#[test]
fn a_long_last_line_before_exit_is_in_the_scrollback() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let daemon = Setup::new().start(&names.map(|name| agent(name, "print-bytes 70000; exit 0", "")).concat());
    for name in names {
        daemon.wait_for_state(name, State::Exited);
        let text = daemon.wait(&format!("the last line of {name}"), || {
            Some(daemon.capture(name)).filter(|text| text.lines().any(|line| line == "the last line"))
        });
        let rows =
            text.lines().filter(|line| line.len() == 69 && line.bytes().all(|byte| byte.is_ascii_digit())).count();
        assert_eq!(rows, 1000, "{name} has all of it");
    }
}

#[test]
fn a_pane_keeps_screen_and_scrollback_of_earlier_runs() {
    let more = "restart = \"always\"\nmax_restarts = 2\nbackoff = [\"50ms\"]";
    let script = "append @WORK/runs x; print-lines 60; say the end of a run; exit 1";
    let daemon = Setup::new().start(&agent("a", script, more));
    daemon.wait_for_state("a", State::Exited);
    daemon.wait("all three runs in the pane", || {
        let text = daemon.capture("a");
        let count = |line: &str| text.lines().filter(|found| *found == line).count();
        (count("the end of a run") == 3 && count("line 1") == 3 && count("line 60") == 3).then_some(())
    });
    assert_eq!(daemon.lines("runs").len(), 3);
}

#[test]
fn an_agents_last_screen_is_visible_without_scrolling() {
    // tmux scrolls the screen by a line to say that the pane is dead.
    let daemon = Setup::new().start(&agent("a", "print-lines 5; say what the agent left; exit 3", ""));
    daemon.wait_for_state("a", State::Exited);
    daemon.wait("a dead pane", || {
        let panes = daemon.tmux(&["list-panes", "-s", "-t", "=a", "-F", "#{pane_dead}"]).ok()?;
        panes.lines().any(|dead| dead == "1").then_some(())
    });
    assert!(daemon.screen("a").contains("what the agent left"));
}

#[test]
fn attaching_after_the_end_opens_a_live_shell_in_the_workdir() {
    let daemon = Setup::new().start(&agent("a", "say what the agent left; exit 3", ""));
    daemon.wait_for_state("a", State::Exited);
    let mut operator = daemon.attach("a");
    daemon.wait("a second window", || {
        let windows = daemon.tmux(&["list-windows", "-t", "=a", "-F", "#{window_active} #{pane_dead}"]).ok()?;
        windows.lines().any(|window| window == "1 0").then_some(())
    });
    operator.types(&format!(
        "pwd > {0}/where.new; id -u > {0}/who; mv {0}/where.new {0}/where\r",
        daemon.path("work").display()
    ));
    daemon.wait_for_file("where");
    assert_eq!(daemon.lines("where"), [daemon.path("work").to_str().unwrap()]);
    assert_eq!(daemon.lines("who"), [daemon.agent_account().uid.to_string()]);
    assert!(daemon.capture("a").contains("what the agent left"), "and the agent's own pane is kept beside it");
}

#[test]
fn an_operator_attached_at_the_end_sees_the_shell() {
    let daemon = Setup::new().start(&agent("a", "say working; await-exit @WORK/end", ""));
    daemon.wait_until_running("a");
    let mut operator = daemon.attach("a");
    daemon.put(&daemon.work("end"), "0");
    daemon.wait_for_state("a", State::Exited);
    daemon.wait("a live pane", || {
        let panes = daemon.tmux(&["list-panes", "-s", "-t", "=a", "-F", "#{pane_dead}"]).ok()?;
        panes.lines().any(|dead| dead == "0").then_some(())
    });
    assert!(operator.is_attached());
}

#[test]
fn an_attached_operator_stays_attached_across_a_restart() {
    let more = "restart = \"always\"\nbackoff = [\"100ms\"]";
    let script = "append @WORK/runs x; say hello from run; sleep 0.1; say the second line; await-exit @WORK/end";
    let daemon = Setup::new().start(&agent("a", script, more));
    daemon.wait_until_running("a");
    let mut operator = daemon.attach("a");
    daemon.put(&daemon.work("end"), "1");
    daemon.wait_until("a", "in its second run", |agent| agent.running && agent.attempt == Some(2));
    daemon.wait("the second run to appear", || {
        (daemon.capture("a").matches("the second line").count() == 2).then_some(())
    });
    assert!(operator.is_attached());
    let clients = daemon.tmux(&["list-clients", "-F", "#{session_name}"]).unwrap();
    assert_eq!(clients.trim(), "a");
    assert!(operator.seen().contains("hello from run"));
}

#[test]
fn an_operators_keys_reach_the_agent() {
    let daemon = Setup::new().start(&agent("a", "say ready; read-line @WORK/heard; say thanks; exit 0", ""));
    daemon.wait_until_running("a");
    let mut operator = daemon.attach("a");
    daemon.wait("the agent to be ready", || daemon.capture("a").contains("ready").then_some(()));
    operator.types("good morning\r");
    daemon.wait_for_line("heard", "good morning");
    daemon.wait_for_state("a", State::Exited);
}

#[test]
fn an_operators_ctrl_c_ends_the_agent_and_is_reported() {
    let daemon = Setup::new().start(&agent("a", "log @WORK/log; on-signal SIGINT 7; say ready; sleep inf", ""));
    daemon.wait_until_running("a");
    let mut operator = daemon.attach("a");
    daemon.wait("the agent to be ready", || daemon.capture("a").contains("ready").then_some(()));
    operator.types("\u{3}");
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!(crate::support::code(agent.exit.as_ref()), Some(7));
}

#[test]
fn a_pane_keeps_five_thousand_lines_of_history() {
    let daemon = Setup::new().start(&agent("a", "print-lines 4900; exit 0", ""));
    daemon.wait_for_state("a", State::Exited);
    daemon.wait("the first and the last line", || {
        let text = daemon.capture("a");
        let has = |line: &str| text.lines().any(|found| found == line);
        (has("line 1") && has("line 4900")).then_some(())
    });
}

#[test]
fn a_killed_session_is_a_failure_with_a_cause_under_policy() {
    let daemon =
        Setup::new().start(&agent("a", "log @WORK/log; sleep inf", "restart = \"on-failure\"\nbackoff = [\"10ms\"]"));
    let pid = daemon.wait_until_running("a");
    daemon.tmux(&["kill-session", "-t", "=a"]).unwrap();
    let agent =
        daemon.wait_until("a", "running again", |agent| agent.running && agent.restarts == 1 && agent.pid.is_some());
    assert_ne!(agent.pid, Some(pid));
    assert!(agent.exit.is_some());
    daemon.wait_until_gone(pid);
    assert!(daemon.has_session("a"));
}

/// An agent that runs a bash script and is killed on the alternate screen, or elsewhere on its screen.
fn killed(drawing: &str) -> String {
    let script = format!("seq 60; printf '{drawing}'; kill -9 $$");
    format!(
        "[[agents]]\nname = \"a\"\nharness = \"custom\"\ncommand = [\"bash\", \"-c\", {script:?}]\nworkdir = \"@WORK\"\n\
         restart = \"always\"\nmax_restarts = 1\nbackoff = [\"1s\"]\n"
    )
}

#[test]
fn a_kill_on_the_alternate_screen_keeps_the_main_screen() {
    let daemon = Setup::new().start(&killed(r"\033[?1049h\033[?1000h\033[?1006h\033[2J\033[5;5Hthe interface"));
    daemon.wait_for_state("a", State::Backoff);
    daemon.wait("the end notice", || daemon.screen("a").contains("[ended by SIGKILL]").then_some(()));
    let modes = "#{alternate_on} #{mouse_any_flag} #{mouse_sgr_flag}";
    assert_eq!(daemon.tmux(&["display-message", "-p", "-t", "=a:", modes]).unwrap().trim(), "0 0 0");
    daemon.wait_for_state("a", State::Exited);
    daemon.wait("both runs in the pane", || {
        let text = daemon.capture("a");
        let count = |line: &str| text.lines().filter(|found| found.trim() == line).count();
        (1..=60).all(|number| count(&number.to_string()) == 2).then_some(())?;
        (count("the interface") == 2 && count("[ended by SIGKILL]") == 2).then_some(())
    });
}

#[test]
fn the_end_notice_appears_below_the_last_screen() {
    let daemon = Setup::new().start(&killed(r"\033[2J\033[8;1Hbelow\033[5;20r\033[?6h\033[1;3Habove"));
    daemon.wait_for_state("a", State::Exited);
    let rows = daemon.wait("the end notice", || {
        let rows: Vec<String> = daemon.screen("a").lines().map(str::to_owned).collect();
        rows.iter().any(|row| row == "[ended by SIGKILL]").then_some(rows)
    });
    let at = |text: &str| rows.iter().position(|row| row.trim() == text);
    assert_eq!((at("above"), at("below"), at("[ended by SIGKILL]")), (Some(4), Some(7), Some(8)), "{rows:?}");
}
