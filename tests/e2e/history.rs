//! The history of an agent's attempts survives the daemon.

use agentd::wire::exit_status::ExitStatus;
use agentd::wire::status::{AgentStatus, PastAttempt};
use nix::sys::signal::Signal;

use crate::support::{Daemon, Setup, agent, run};

fn history(daemon: &Daemon, name: &str) -> Vec<PastAttempt> {
    serde_json::from_str::<AgentStatus>(&daemon.get(&format!("/v1/agents/{name}")).body).unwrap().history
}

fn numbers(history: &[PastAttempt]) -> Vec<u64> {
    history.iter().map(|past| past.attempt).collect()
}

const ENDS: &str = "log @WORK/log; await-exit @WORK/end";
const AGAIN: &str = "restart = \"always\"\nbackoff = [\"0s\"]";

/// Lets the agent's current harness exit with that status, and waits until the next one runs.
fn end(daemon: &Daemon, status: i32) {
    let before = daemon.wait_until_running("a");
    daemon.put(&daemon.work("end"), status.to_string());
    daemon.wait_until("a", "the next attempt", |agent| agent.pid.is_some_and(|pid| pid != before));
}

#[test]
fn history_lists_each_attempt_with_its_end_newest_first() {
    let daemon = Setup::new().start(&agent("a", ENDS, AGAIN));
    end(&daemon, 3);
    end(&daemon, 0);
    daemon.edit_jcard(&agent("a", &format!("{ENDS}; rest"), AGAIN));
    daemon.wait_until("a", "the new declaration", |agent| agent.running && agent.attempt == Some(1));
    let history = history(&daemon, "a");
    assert_eq!(numbers(&history), [3, 2, 1]);
    let totals: Vec<_> = history.iter().map(|past| past.attempt_total).collect();
    assert_eq!(totals, [Some(3), Some(2), Some(1)]);
    let ends: Vec<&ExitStatus> = history.iter().map(|past| &past.exit.how).collect();
    assert_eq!(ends, [&ExitStatus::Signal("SIGINT".parse().unwrap()), &ExitStatus::Code(0), &ExitStatus::Code(3)]);
    let why: Vec<&str> = history.iter().map(|past| past.reason.as_str()).collect();
    assert_eq!(why, ["args changed", "it ended by itself", "it ended by itself"]);
    for past in &history {
        assert!(past.declared_at <= past.started_at.unwrap() && past.started_at.unwrap() <= past.exit.at, "{past:?}");
        assert_eq!(past.fingerprint, history[0].fingerprint);
    }
    assert!(daemon.get("/v1/agents").body.find("history").is_none(), "not for all at once");
}

#[test]
fn history_survives_the_daemons_end_and_the_agents_removal() {
    let mut daemon = Setup::new().start(&agent("a", ENDS, AGAIN));
    end(&daemon, 3);
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    end(&daemon, 4);
    assert_eq!(numbers(&history(&daemon, "a")), [2, 1]);
    assert!(daemon.stop().success());
    daemon.start_again();
    daemon.wait_until_running("a");
    let ends = |daemon: &Daemon| history(daemon, "a").into_iter().map(|past| past.exit.how).collect::<Vec<_>>();
    let expected = [ExitStatus::Signal("SIGINT".parse().unwrap()), ExitStatus::Code(4), ExitStatus::Code(3)];
    assert_eq!(ends(&daemon), expected);
    daemon.edit_jcard("# nobody\n");
    daemon.wait_until_removed("a");
    daemon.edit_jcard(&agent("a", ENDS, AGAIN));
    daemon.wait_until_running("a");
    assert_eq!(ends(&daemon)[1..], expected);
    let status = daemon.agent("a").unwrap();
    assert_eq!((status.attempt, status.attempt_total), (Some(1), Some(5)), "people count on, also after a removal");
}

#[test]
fn status_of_one_agent_shows_its_history() {
    let daemon = Setup::new().start(&agent("a", ENDS, AGAIN));
    end(&daemon, 3);
    let socket = daemon.api_socket();
    let (_, shown) = run(&mut daemon.agentd(&["status", "--api-socket", socket.to_str().unwrap(), "a"]));
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines.contains(&"ATTEMPT  ENDED   RAN  EXIT  WHY"), "{shown}");
    assert!(lines.last().unwrap().ends_with("3     it ended by itself"), "{shown}");
}
