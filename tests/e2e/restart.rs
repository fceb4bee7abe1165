//! Which ends lead to a restart, when, and how often.

use std::time::{Duration, SystemTime};

use agentd::wire::status::{Outcome, State};

use crate::support::{Daemon, Setup, agent, between, code};

/// The times at which a harness with `log @WORK/log` was started.
fn start_times(daemon: &Daemon) -> Vec<Duration> {
    let lines = daemon.lines("log");
    let times = lines.iter().filter_map(|line| line.strip_prefix("start ")?.split(' ').nth(1)?.parse().ok());
    times.map(Duration::from_secs_f64).collect()
}

#[test]
fn exit_3_with_on_failure_restarts_after_backoff() {
    let daemon = Setup::new().start(&agent("a", "log @WORK/log; await-exit @WORK/end", "restart = \"on-failure\""));
    let first = daemon.wait_until_running("a");
    daemon.put(&daemon.work("end"), "3");
    let agent = daemon.wait_for_state("a", State::Backoff);
    let ended = agent.exit.clone().unwrap().at.0;
    assert_eq!((agent.running, agent.pid, agent.outcome, code(agent.exit.as_ref())), (false, None, None, Some(3)));
    let delay = between(ended, agent.next_start_at.unwrap().0);
    assert!(
        delay > Duration::from_millis(2900) && delay < Duration::from_millis(3500),
        "3 s by default, not {delay:?}"
    );
    let agent = daemon.wait_until("a", "restarted", |agent| agent.running && agent.pid.is_some());
    assert_eq!((agent.restarts, agent.attempt, agent.next_start_at), (1, Some(2), None));
    assert_ne!(agent.pid, Some(first));
    assert_eq!(code(agent.exit.as_ref()), Some(3), "the API still reports the latest finished attempt");
    assert!(between(ended, agent.started_at.unwrap().0) >= Duration::from_millis(2900));
}

#[test]
fn every_policy_restarts_only_the_outcomes_it_names() {
    let ends = [("zero", "exit 0"), ("three", "exit 3"), ("killed", "die SIGKILL")];
    let policies = ["no", "on-failure", "always"];
    let mut jcard = String::new();
    for policy in policies {
        for (name, end) in ends {
            let more = format!("restart = \"{policy}\"\nmax_restarts = 1\nbackoff = [\"10ms\"]");
            jcard += &agent(&format!("{policy}-{name}"), end, &more);
        }
    }
    let daemon = Setup::new().start(&jcard);
    for policy in policies {
        for (name, _) in ends {
            let restarts = policy == "always" || policy == "on-failure" && name != "zero";
            let expected = match (restarts, name) {
                (true, _) => (1, Outcome::GaveUp),
                (false, "zero") => (0, Outcome::Completed),
                (false, _) => (0, Outcome::Failed),
            };
            let agent = daemon.wait_for_state(&format!("{policy}-{name}"), State::Exited);
            assert_eq!((agent.restarts, agent.outcome.unwrap()), expected, "{policy} after {name}");
        }
    }
}

#[test]
fn an_agent_gives_up_after_max_restarts() {
    let more = "restart = \"always\"\nmax_restarts = 2\nbackoff = [\"10ms\"]";
    let daemon = Setup::new().start(&agent("a", "log @WORK/log; exit 5", more));
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!((agent.outcome, agent.restarts, agent.attempt), (Some(Outcome::GaveUp), 2, Some(3)));
    daemon.wait_for_starts("log", 3);
}

#[test]
fn raising_max_restarts_revives_an_agent_that_gave_up() {
    let entry = |n: u32| {
        agent("a", "log @WORK/log; exit 5", &format!("restart = \"always\"\nmax_restarts = {n}\nbackoff = [\"10ms\"]"))
    };
    let daemon = Setup::new().start(&entry(1));
    daemon.wait_until("a", "giving up", |agent| agent.outcome == Some(Outcome::GaveUp));
    daemon.edit_jcard(&entry(3));
    let agent = daemon
        .wait_until("a", "giving up later", |agent| agent.outcome == Some(Outcome::GaveUp) && agent.restarts == 3);
    assert_eq!(agent.attempt, Some(4));
    daemon.wait_for_starts("log", 4);
}

#[test]
fn restart_always_revives_an_agent_that_completed() {
    let script = "log @WORK/log; await-exit @WORK/end";
    let daemon = Setup::new().start(&agent("a", script, "backoff = [\"10ms\"]"));
    daemon.put(&daemon.work("end"), "0");
    daemon.wait_for_state("a", State::Exited);
    daemon.edit_jcard(&agent("a", script, "backoff = [\"10ms\"]\nrestart = \"always\""));
    daemon.wait_until_running("a");
    daemon.wait_for_starts("log", 2);
}

#[test]
fn backoff_steps_run_in_order_and_the_last_one_repeats() {
    let more = "restart = \"always\"\nmax_restarts = 4\nbackoff = [\"50ms\", \"400ms\", \"800ms\"]";
    let daemon = Setup::new().start(&agent("a", "log @WORK/log; exit 1", more));
    daemon.wait_until("a", "giving up", |agent| agent.outcome == Some(Outcome::GaveUp));
    let times = start_times(&daemon);
    let gaps: Vec<u128> = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]).as_millis()).collect();
    assert_eq!(gaps.len(), 4);
    for (gap, least) in gaps.iter().zip([50, 400, 800, 800]) {
        assert!(*gap >= least, "{gaps:?}");
    }
}

#[test]
fn a_long_healthy_run_resets_the_backoff() {
    let more = "restart = \"always\"\nbackoff = [\"10ms\", \"1h\"]\nbackoff_reset = \"700ms\"";
    let daemon = Setup::new().start(&agent("a", "log @WORK/log; await-exit @WORK/end", more));
    daemon.put(&daemon.work("end"), "1");
    let second = daemon.wait_until("a", "in its second run", |agent| agent.running && agent.attempt == Some(2));
    let healthy = second.started_at.unwrap().0 + Duration::from_millis(800);
    daemon.wait("a healthy run", || (SystemTime::now() > healthy).then_some(()));
    daemon.put(&daemon.work("end"), "1");
    daemon.wait_until("a", "in its third run", |agent| agent.running && agent.attempt == Some(3));
    daemon.put(&daemon.work("end"), "1");
    let agent = daemon.wait_for_state("a", State::Backoff);
    assert!(
        between(SystemTime::now(), agent.next_start_at.unwrap().0) > Duration::from_mins(50),
        "the short run takes the next step"
    );
}

#[test]
fn a_stop_cancels_the_backoff() {
    let entry = agent("a", "log @WORK/log; exit 1", "restart = \"always\"\nbackoff = [\"1h\"]");
    let daemon = Setup::new().start(&entry);
    daemon.wait_for_state("a", State::Backoff);
    daemon.edit_jcard(&agent("b", "sleep inf", ""));
    daemon.wait_until_removed("a");
    daemon.edit_jcard(&entry);
    let agent = daemon.wait_until("a", "back anew", |agent| agent.state == State::Backoff);
    assert_eq!((agent.attempt, agent.restarts), (Some(1), 0));
    daemon.wait_for_starts("log", 2);
}

#[test]
fn a_changed_launch_ends_the_backoff() {
    let daemon = Setup::new().start(&agent("a", "exit 1", "restart = \"always\"\nbackoff = [\"1h\"]"));
    daemon.wait_for_state("a", State::Backoff);
    daemon.edit_jcard(&agent("a", "sleep inf", "restart = \"always\"\nbackoff = [\"1h\"]"));
    daemon.wait_until_running("a");
    assert_eq!(daemon.agent("a").unwrap().restarts, 0);
}

#[test]
fn the_timeout_counts_from_the_first_start_across_restarts() {
    let more = "restart = \"always\"\nbackoff = [\"10ms\"]\ntimeout = \"2s\"";
    let daemon = Setup::new().start(&agent("a", "log @WORK/log; sleep 0.3; exit 1", more));
    let agent = daemon.wait_until("a", "started", |agent| agent.timeout_at.is_some());
    let at = agent.timeout_at.unwrap();
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!(agent.outcome, Some(Outcome::TimedOut));
    assert!(agent.restarts >= 1, "the agent restarted in between");
    let times = start_times(&daemon);
    assert!(*times.last().unwrap() <= times[0] + Duration::from_secs(2), "nothing starts after the timeout");
    assert!(between(SystemTime::UNIX_EPOCH + times[0], at.0) <= Duration::from_millis(2500));
}

#[test]
fn a_timeout_stops_the_agent_like_any_stop() {
    let script = "log @WORK/log; on-signal SIGINT 0; sleep inf";
    let daemon = Setup::new().start(&agent("a", script, "restart = \"always\"\ntimeout = 1"));
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!(agent.outcome, Some(Outcome::TimedOut), "whatever its status");
    assert_eq!(code(agent.exit.as_ref()), Some(0));
    assert_eq!(daemon.lines("log").last().map(String::as_str), Some("SIGINT"));
    let ran = between(agent.started_at.unwrap().0, agent.exit.unwrap().at.0);
    assert!(ran >= Duration::from_millis(900) && ran < Duration::from_secs(6), "an integer is seconds, not {ran:?}");
}

#[test]
fn a_timeout_expires_during_backoff() {
    let daemon =
        Setup::new().start(&agent("a", "exit 1", "restart = \"always\"\nbackoff = [\"1h\"]\ntimeout = \"1s\""));
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!(agent.outcome, Some(Outcome::TimedOut));
}

#[test]
fn a_timeout_added_later_counts_from_the_first_start() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    let started = daemon.wait_until("a", "running", |agent| agent.running).started_at.unwrap();
    daemon.wait("a second to pass", || (between(started.0, SystemTime::now()) > Duration::from_secs(1)).then_some(()));
    daemon.edit_jcard(&agent("a", "sleep inf", "timeout = \"500ms\""));
    let agent = daemon.wait_for_state("a", State::Exited);
    assert_eq!(agent.outcome, Some(Outcome::TimedOut), "that time was over already");
}
