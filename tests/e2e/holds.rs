//! Agents whose credential does not work wait together, and try one at a time.

use std::fs;
use std::time::{Duration, Instant};

use agentd::wire::hold::{GroupHold, HoldKind};
use agentd::wire::reason::WaitingFor;
use agentd::wire::status::{AgentStatus, Outcome, State};
use nix::sys::signal::Signal;

use crate::support::{Daemon, Setup, root, run};

/// A harness that notes its start, and then does what the secret says: it fails as one with a dead key or an exhausted quota does,
/// or lives.
const HARNESS: &str = r#"
[harnesses.fake]
binary = "sh"
auth = ["API_KEY"]
rules = [
    { on = "exit", match = 'API Error: 401.*', means = "login" },
    { on = "exit", match = 'limit reached, resets .*', means = "quota" },
]
"#;

/// The entry of such an agent.
fn entry(setup: &Setup, name: &str, more: &str) -> String {
    let starts = setup.work("starts").display().to_string();
    let script = format!(
        r#"echo {name} $(date +%s.%N) >> {starts}; case "$API_KEY" in dead*) echo "API Error: 401 no"; exit 1;; spent*) echo "limit reached, resets soon"; exit 1;; esac; exec sleep inf"#
    );
    format!(
        "[[agents]]\nname = {name:?}\nharness = \"fake\"\nworkdir = \"@WORK\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n{more}\n"
    )
}

/// Who has started, and when.
fn starts_with_times(setup: &Setup) -> Vec<(String, f64)> {
    let text = fs::read_to_string(setup.work("starts")).unwrap_or_default();
    let times = text.lines().filter_map(|line| line.split_once(' '));
    times.map(|(name, time)| (name.to_owned(), time.parse().unwrap())).collect()
}

fn starts(setup: &Setup) -> Vec<String> {
    starts_with_times(setup).into_iter().map(|(name, _)| name).collect()
}

/// Waits for that many starts, for longer than usual.
fn wait_for_starts(setup: &Setup, count: usize, limit: Duration) {
    let limit = Instant::now() + limit;
    while starts(setup).len() < count {
        assert!(Instant::now() < limit, "{:?}", starts(setup));
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn holds(setup: &Setup) -> Vec<GroupHold> {
    serde_json::from_str(&setup.get("/v1/holds").body).unwrap()
}

fn is_held(agent: &AgentStatus) -> bool {
    agent.hold.is_some()
}

/// Nothing else starts for a while.
fn stays_at(setup: &Setup, count: usize) {
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert_eq!(starts(setup).len(), count, "{:?}", starts(setup));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A daemon with 60 agents on a dead credential, which is tried again as often as it may be.
fn sixty_on_a_dead_credential() -> Daemon {
    let setup = Setup::new();
    setup.secret("API_KEY", "dead-0123456789");
    let more = "restart = \"always\"\nbackoff = [\"0s\"]\nhold_retry = \"2s\"";
    let entries: String = (0..60).map(|number| entry(&setup, &format!("a{number}"), more)).collect();
    let daemon = setup.start(&format!("{HARNESS}{entries}"));
    daemon.wait("a hold", || holds(&daemon).pop());
    // The first one, and two that try while the window lasts, however often it is tried.
    daemon.wait("two tries", || (starts(&daemon).len() == 3).then_some(()));
    daemon
}

#[test]
#[ignore = "takes eleven minutes"]
fn sixty_agents_on_a_dead_credential_are_launched_twice_in_ten_minutes() {
    let daemon = sixty_on_a_dead_credential();
    wait_for_starts(&daemon, 5, Duration::from_mins(11));
    let times: Vec<f64> = starts_with_times(&daemon).iter().map(|(_, time)| *time).collect();
    let after: Vec<f64> = times.iter().map(|time| time - times[0]).collect();
    eprintln!("60 agents on a dead credential started after {after:.1?} s");
    // Two of them in any ten minutes since the hold began.
    assert!(times[3] - times[1] > 599.0 && times[4] - times[2] > 599.0, "{after:?}");
    stays_at(&daemon, 5);
    let agents = daemon.agents();
    assert!(agents.iter().all(|agent| agent.restarts == 0), "{agents:?}");
}

#[test]
fn sixty_agents_on_a_dead_credential_are_not_launched_again_and_again() {
    let daemon = sixty_on_a_dead_credential();
    stays_at(&daemon, 3);
    let agents = daemon.agents();
    assert!(agents.iter().all(|agent| agent.restarts == 0), "{agents:?}");
    let held = holds(&daemon).pop().unwrap();
    assert_eq!((held.hold.kind, held.agents.len()), (HoldKind::Login, 60));
    assert!(held.hold.evidence.contains("API Error: 401"), "{held:?}");
    assert_eq!(daemon.health().holds, 1);
    assert!(!held.hold.group.contains("dead"), "{held:?}");

    daemon.secret("API_KEY", "good-0123456789");
    daemon.wait("no hold", || holds(&daemon).is_empty().then_some(()));
    // One first, and the others after ten seconds. So many take their time on a small machine.
    wait_for_starts(&daemon, 63, Duration::from_mins(2));
    let times: Vec<f64> = starts_with_times(&daemon)[3..].iter().map(|(_, time)| *time).collect();
    let alone = times[1] - times[0];
    eprintln!("the first of 60 was alone for {alone:.1} s, the last started {:.1} s after it", times[59] - times[0]);
    // Less than the ten seconds between their launches: the login of the first may have taken long.
    assert!(alone > 5.0, "{times:?}");
    assert!(daemon.agents().iter().all(|agent| agent.restarts == 0));
}

/// A harness whose quota is reset soon; once it is, its work is done when the file `go` exists.
#[test]
fn after_a_quota_one_agent_tries_first_and_the_others_follow_its_success() {
    let setup = Setup::new();
    let folder = setup.work("").display().to_string();
    let script = format!(
        "cd {folder}; echo $0 $(date +%s.%N) >> starts; \
         if [ -e spent ]; then echo limit reached, resets in 5 seconds; exit 1; fi; \
         until [ -e go ]; do sleep 0.1; done"
    );
    let harness = HARNESS.replace("resets .*", "resets (?P<at>.*)");
    let entries = (0..5).map(|number| {
        format!(
            "[[agents]]\nname = \"q{number}\"\nharness = \"fake\"\nworkdir = \"@WORK\"\n\
             command = [\"sh\", \"-c\", '''{script}''', \"q{number}\"]\n"
        )
    });
    let entries: Vec<String> = entries.collect();
    fs::write(setup.work("spent"), "").unwrap();
    setup.secret("API_KEY", "0123456789");
    let daemon = setup.start(&format!("{harness}{}", entries.concat()));
    let held = daemon.wait("a hold", || holds(&daemon).pop());
    assert_eq!((held.hold.kind, starts(&daemon).len()), (HoldKind::Quota, 1), "{held:?}");
    // Five seconds are taken for a minute.
    let until = held.hold.until.unwrap();
    let length = until.0.duration_since(held.hold.since.0).unwrap().as_secs();
    assert!((58..=60).contains(&length), "{held:?}");
    assert!(held.next_try_at >= until, "{held:?}");
    fs::remove_file(daemon.work("spent")).unwrap();
    wait_for_starts(&daemon, 2, Duration::from_mins(3));
    let tried = starts_with_times(&daemon)[1].1;
    let next = held.next_try_at.0.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    eprintln!("a quota of {length} s: the canary started {:.1} s after the time that was shown", tried - next);
    assert!(tried >= next - 0.1, "{tried} {next}");
    stays_at(&daemon, 2);
    assert_eq!(daemon.agents().iter().filter(|agent| agent.running).count(), 1);
    fs::write(daemon.work("go"), "").unwrap();
    wait_for_starts(&daemon, 6, Duration::from_mins(1));
    assert!(holds(&daemon).is_empty());
    for agent in daemon.agents() {
        let agent = daemon.wait_for_state(&agent.name, State::Exited);
        assert_eq!((agent.outcome, agent.restarts), (Some(Outcome::Completed), 0), "{agent:?}");
    }
    assert_eq!(starts(&daemon).len(), 6);
}

#[test]
fn a_changed_login_file_ends_the_hold_of_a_login() {
    // The file is in the home of the agent user, which belongs to no person.
    if !root() {
        return;
    }
    let setup = Setup::new();
    let file = format!(".login-of-a-test-{}", std::process::id());
    let harness = HARNESS.replace("auth = [\"API_KEY\"]", &format!("login_files = [{file:?}]"));
    let starts_file = setup.work("starts").display().to_string();
    let script = format!(
        "echo a $(date +%s.%N) >> {starts_file}; if [ -e ~/{file} ]; then exec sleep inf; fi; echo API Error: 401 no; exit 1"
    );
    let entry = format!(
        "[[agents]]\nname = \"a\"\nharness = \"fake\"\nworkdir = \"@WORK\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n"
    );
    let daemon = setup.start(&format!("{harness}{entry}"));
    let agent = daemon.wait_until("a", "held", is_held);
    assert_eq!(agent.hold.map(|hold| hold.kind), Some(HoldKind::Login));
    assert_eq!(holds(&daemon)[0].hold.group, format!("fake@{}", daemon.agent_account().name));
    stays_at(&daemon, 1);
    assert!(
        run(&mut daemon.as_agent(&[
            "sh",
            "-c",
            &format!("echo token > {}/{file}", daemon.agent_account().dir.display())
        ]))
        .0 == Some(0)
    );
    daemon.wait_until("a", "running", |agent| agent.running);
    wait_for_starts(&daemon, 2, Duration::from_secs(20));
    stays_at(&daemon, 2);
    assert_eq!(daemon.agent("a").unwrap().restarts, 0);
    fs::remove_file(daemon.agent_account().dir.join(file)).unwrap();
}

/// Only a stream that agentd reads by an entry's own wish says of a quota what no rule finds.
#[test]
fn records_that_a_program_prints_without_results_hold_nobody() {
    let setup = Setup::new();
    setup.secret("ANTHROPIC_API_KEY", "0123456789");
    let reset = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 3600;
    let record = format!(
        r#"{{"type":"rate_limit_event","rate_limit_info":{{"status":"rejected","resetsAt":{reset},"rateLimitType":"five_hour"}}}}"#
    );
    let entry = |name: &str, end: &str| {
        format!(
            "[[agents]]\nname = {name:?}\nharness = \"claude-code\"\nworkdir = \"@WORK\"\n\
             command = [\"sh\", \"-c\", '''echo '{record}'; {end}''']\n"
        )
    };
    let daemon = setup.start(&(entry("lives", "exec sleep inf") + &entry("fails", "exit 3") + &entry("ends", "true")));
    for (name, outcome) in [("fails", Outcome::Failed), ("ends", Outcome::Completed)] {
        let agent = daemon.wait_for_state(name, State::Exited);
        assert_eq!((agent.outcome, agent.hold), (Some(outcome), None));
    }
    let lives =
        daemon.wait_until("lives", "running, with output", |agent| agent.running && agent.last_output_at.is_some());
    assert_eq!(lives.hold, None);
    assert!(holds(&daemon).is_empty(), "{:?}", holds(&daemon));
}

#[test]
fn a_hold_outlives_the_daemon_and_ends_by_a_release() {
    let setup = Setup::new();
    setup.secret("API_KEY", "spent-0123456789");
    let jcard = format!("{HARNESS}{}{}", entry(&setup, "a", ""), entry(&setup, "b", "enabled = false"));
    let mut daemon = setup.start(&jcard);
    let before = daemon.wait_until("a", "held", is_held);
    assert_eq!((before.state, before.restarts), (State::Backoff, 0));
    assert!(matches!(before.waiting_for[0], WaitingFor::Hold { hold: HoldKind::Quota, .. }), "{before:?}");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    let after = daemon.wait_until("a", "held", is_held);
    assert_eq!((after.state, after.hold), (State::Backoff, before.hold));
    assert_eq!(starts(&daemon), ["a"]);

    let group = holds(&daemon).pop().unwrap().hold.group;
    let socket = daemon.api_socket().to_str().unwrap().to_owned();
    let status = run(&mut daemon.agentd(&["status", "--api-socket", &socket])).1;
    assert!(status.contains(&format!("quota of {group} exhausted until ")), "{status}");
    let released = run(&mut daemon.agentd(&["release", "a", "--api-socket", &socket]));
    assert_eq!(released.0, Some(0), "{released:?}");
    daemon.wait("another try", || (starts(&daemon) == ["a", "a"]).then_some(()));
    let again = daemon.wait_until("a", "held again", is_held);
    assert_eq!(again.restarts, 0);
    let nothing = run(&mut daemon.agentd(&["release", "nobody", "--api-socket", &socket]));
    assert_eq!(nothing.0, Some(1), "{nothing:?}");
}

#[test]
fn without_holds_an_agent_fails_as_its_policy_says() {
    let setup = Setup::new();
    setup.secret("API_KEY", "dead-0123456789");
    let jcard = format!("{HARNESS}{}{}", entry(&setup, "f", "hold = \"fail\""), entry(&setup, "o", "hold = \"off\""));
    let daemon = setup.start(&jcard);
    for name in ["f", "o"] {
        let agent = daemon.wait_for_state(name, State::Exited);
        assert_eq!(agent.outcome, Some(Outcome::Failed), "{agent:?}");
    }
}
