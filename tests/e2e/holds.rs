//! Agents whose credential does not work wait together, and try one at a time.

use std::fs;
use std::time::{Duration, Instant};

use agentd::wire::hold::{GroupHold, HoldKind};
use agentd::wire::reason::WaitingFor;
use agentd::wire::status::{AgentStatus, Outcome, State};
use nix::sys::signal::Signal;

use crate::support::{Setup, run};

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
        r#"echo {name} >> {starts}; case "$API_KEY" in dead*) echo "API Error: 401 no"; exit 1;; spent*) echo "limit reached, resets soon"; exit 1;; esac; exec sleep inf"#
    );
    format!(
        "[[agents]]\nname = {name:?}\nharness = \"fake\"\nworkdir = \"@WORK\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n{more}\n"
    )
}

fn starts(setup: &Setup) -> Vec<String> {
    let text = fs::read_to_string(setup.work("starts")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
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

#[test]
fn sixty_agents_on_a_dead_credential_are_not_launched_again_and_again() {
    let setup = Setup::new();
    setup.secret("API_KEY", "dead-0123456789");
    let entries: String = (0..60)
        .map(|number| {
            entry(&setup, &format!("a{number}"), "restart = \"always\"\nbackoff = [\"0s\"]\nhold_retry = \"2s\"")
        })
        .collect();
    let daemon = setup.start(&format!("{HARNESS}{entries}"));
    daemon.wait("a hold", || holds(&daemon).pop());
    // The first one, and two that try while the window lasts, however often it is tried.
    daemon.wait("two tries", || (starts(&daemon).len() == 3).then_some(()));
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
    let limit = Instant::now() + Duration::from_mins(2);
    while starts(&daemon).len() < 63 {
        assert!(Instant::now() < limit, "{:?}", starts(&daemon));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(daemon.agents().iter().all(|agent| agent.restarts == 0));
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
