//! What an edit has changed is told by name, and no value is told.

use agentd::wire::events::{Change, Event, What};
use agentd::wire::reason::{Changes, LaunchReason, StoppingBecause};
use agentd::wire::status::{AgentStatus, State};
use nix::sys::signal::Signal;

use crate::support::{Daemon, Setup, agent, run};

const VALUE: &str = "a-value-that-nobody-may-see";

fn changes(fields: &[&str], secrets: &[&str]) -> Changes {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Changes { fields: owned(fields), secrets: owned(secrets) }
}

/// The changes that `declaration` events have told of the agent.
fn told(daemon: &Daemon) -> Vec<Changes> {
    let socket = daemon.api_socket();
    let (_, lines) = run(&mut daemon.agentd(&["events", "--json", "--api-socket", socket.to_str().unwrap(), "a"]));
    let events = lines.lines().map(|line| serde_json::from_str::<Event>(line).unwrap());
    events
        .filter_map(|event| match event.what {
            What::Declaration { change: Change::Changed, changed, .. } => Some(changed),
            _ => None,
        })
        .collect()
}

fn verb(daemon: &Daemon, words: &[&str]) -> String {
    let socket = daemon.api_socket();
    run(&mut daemon.agentd(&[words, &["--api-socket", socket.to_str().unwrap(), "a"]].concat())).1
}

fn history(daemon: &Daemon) -> Vec<String> {
    let status: AgentStatus = serde_json::from_str(&daemon.get("/v1/agents/a").body).unwrap();
    status.history.into_iter().map(|past| past.reason).collect()
}

#[test]
fn an_edit_is_told_by_name_everywhere_and_no_value_is() {
    let setup = Setup::new().quiet();
    setup.secret("API_KEY", "the first one");
    let script = "log @WORK/log; on-signal SIGINT 0 1; sleep inf; rest";
    let daemon = setup.start(&agent("a", script, "env = { MODE = \"fast\" }"));
    daemon.wait_until_running("a");
    let edited = agent("a", script, &format!("env = {{ MODE = \"{VALUE}\" }}\nprompt = \"{VALUE}\"\ntimeout = \"5h\""));
    daemon.edit_jcard(&edited);
    let stopping = daemon.wait_for_state("a", State::Stopping);
    let all = changes(&["env.MODE", "prompt", "timeout"], &[]);
    assert_eq!(stopping.stopping_because, Some(StoppingBecause::Changed { changes: all.clone() }));
    assert!(stopping.reason.unwrap().starts_with("env.MODE, prompt and timeout changed; "));
    let runs = daemon.wait_until("a", "running again", |agent| agent.running && agent.attempt_total == Some(2));
    assert_eq!(runs.changed, all);
    assert_eq!(history(&daemon), ["env.MODE, prompt and timeout changed"]);
    daemon.secret("API_KEY", VALUE);
    daemon.wait_until("a", "in its third run", |agent| agent.running && agent.attempt_total == Some(3));
    assert_eq!(history(&daemon)[0], "secret API_KEY changed");
    assert_eq!(told(&daemon), [all, changes(&[], &["API_KEY"])]);
    let log = daemon.log();
    for words in ["env.MODE, prompt and timeout changed", "secret API_KEY changed"] {
        assert!(log.contains(words), "{log}");
        assert!(verb(&daemon, &["events"]).contains(&format!("a: {words}\n")));
        assert!(verb(&daemon, &["explain"]).split_whitespace().collect::<Vec<_>>().join(" ").contains(words));
    }
    assert!(verb(&daemon, &["events"]).contains("starting, attempt 3: secret API_KEY changed"));
    assert!(!verb(&daemon, &["events", "--json"]).contains(VALUE) && !log.contains(VALUE));
}

#[test]
fn a_change_of_policy_alone_is_told_and_stops_nothing() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    daemon.edit_jcard(&agent("a", "sleep inf", "restart = \"always\"\ngrace_period = \"1s\""));
    daemon.wait("the change to be told", || {
        told(&daemon).contains(&changes(&["grace_period", "restart"], &[])).then_some(())
    });
    assert!(daemon.log().contains("grace_period and restart changed; what runs goes on"));
    assert_eq!(daemon.wait_until_running("a"), pid);
}

#[test]
fn an_edit_while_no_daemon_runs_is_told_by_name() {
    let setup = Setup::new().quiet();
    setup.secret("API_KEY", "the first one");
    let script = "log @WORK/log; sleep inf; rest";
    let mut daemon = setup.start(&agent("a", script, "prompt = \"the first one\""));
    daemon.wait_until_running("a");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.put(
        &daemon.jcard(),
        daemon.expand(&agent("a", script, &format!("prompt = \"{VALUE}\"\nrestart = \"always\""))),
    );
    daemon.secret("API_KEY", VALUE);
    daemon.start_again();
    let runs = daemon.wait_until("a", "running again", |agent| agent.running && agent.attempt_total == Some(2));
    let all = changes(&["prompt", "restart"], &["API_KEY"]);
    assert_eq!(runs.changed, all);
    assert_eq!(told(&daemon), [all]);
    assert_eq!(history(&daemon), ["prompt, restart and secret API_KEY changed"]);
    assert!(!daemon.log().contains(VALUE));
}

#[test]
fn a_restart_of_the_daemon_alone_changes_nothing() {
    let mut daemon = Setup::new().start(&agent("a", "sleep inf", "restart = \"always\""));
    let pid = daemon.wait_until_running("a");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    assert_eq!(daemon.wait_until_running("a"), pid);
    assert_eq!(told(&daemon), []);
    let status = daemon.agent("a").unwrap();
    assert!(status.changed.is_empty() && status.launch_reason != Some(LaunchReason::Declaration));
}
