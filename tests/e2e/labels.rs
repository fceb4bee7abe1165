//! Labels: they select agents everywhere, and a change of them touches nothing that runs.

use std::process::Command;

use agentd::wire::status::{AgentStatus, State};
use nix::sys::signal::Signal;

use crate::support::{Setup, agent, run};

const WEB: &str = "labels = { team = \"web\", review = \"\" }";
const OPS: &str = "labels = [\"team=ops\"]";

fn verb(setup: &Setup, words: &[&str]) -> Command {
    let socket = setup.api_socket();
    setup.agentd(&[words, &["--api-socket", socket.to_str().unwrap()]].concat())
}

fn names(said: &str) -> Vec<String> {
    let agents: Vec<AgentStatus> = serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {said}"));
    agents.into_iter().map(|agent| agent.name).collect()
}

#[test]
fn a_label_selects_agents_in_every_command() {
    let jcard = agent("a", "say one; sleep inf", WEB)
        + &agent("b", "say two; sleep inf", OPS)
        + &agent("c", "say three; sleep inf", "labels.team = \"web\"")
        + &agent("d", "sleep inf", "");
    let daemon = Setup::new().start(&jcard);
    for name in ["a", "b", "c", "d"] {
        daemon.wait_until_running(name);
    }
    let status = |words: &[&str]| run(&mut verb(&daemon, &[&["status", "--json"], words].concat()));
    for (words, expected) in [
        (&["--label", "team=web"][..], &["a", "c"][..]),
        (&["-l", "team"], &["a", "b", "c"]),
        (&["-l", "team=web", "-l", "review"], &["a"]),
        (&["-l", "team", "c", "d"], &["c"]),
    ] {
        let (code, said) = status(words);
        assert_eq!(
            (code, names(&said)),
            (Some(0), expected.iter().map(|&name| name.to_owned()).collect()),
            "{words:?}"
        );
    }
    let (code, said) = run(&mut verb(&daemon, &["status", "--label", "team=none"]));
    assert!(code == Some(4) && said.contains("no agent has the label team=none"), "{code:?}: {said}");
    let (code, said) = run(&mut verb(&daemon, &["status", "--label", "a b"]));
    assert!(code == Some(2) && said.contains("KEY=VALUE"), "{code:?}: {said}");

    let (code, said) = run(&mut verb(&daemon, &["wait", "--label", "team=web", "--for", "running", "--json"]));
    assert_eq!((code, names(&said)), (Some(0), vec!["a".to_owned(), "c".to_owned()]));
    let (code, said) = run(&mut verb(&daemon, &["wait", "-l", "team", "--timeout", "200ms"]));
    assert!(code == Some(124) && said.contains("b is running"), "{code:?}: {said}");
    let (code, said) = run(&mut verb(&daemon, &["wait", "-l", "nobody"]));
    assert!(code == Some(125) && said.contains("no agent has the label nobody"), "{code:?}: {said}");

    let printed = || run(&mut verb(&daemon, &["logs", "--label", "team=web"])).1;
    let said = daemon
        .wait("both to have printed", || Some(printed()).filter(|said| said.contains("one") && said.contains("three")));
    assert!(said.contains('a') && !said.contains("two"), "{said}");

    let (code, said) = run(&mut verb(&daemon, &["logs", "--label", "nope"]));
    assert!(code == Some(4) && said.contains("no agent has the label nope"), "{code:?} {said}");

    let (code, said) = run(&mut verb(&daemon, &["events", "--label", "team=ops"]));
    assert_eq!(code, Some(0));
    assert!(said.contains("b: ") && said.contains("agentd: started"), "{said}");
    assert!(
        !["a: ", "c: ", "d: "].iter().any(|other| said.lines().any(|line| line.contains(&format!(" {other}")))),
        "{said}"
    );
}

#[test]
fn a_change_of_labels_touches_nothing_that_runs() {
    let mut daemon = Setup::new().start(&agent("a", "sleep inf", WEB));
    let pid = daemon.wait_until_running("a");
    daemon.edit_jcard(&agent("a", "sleep inf", OPS));
    let has_changed = |agent: &AgentStatus| agent.labels.get("team").is_some_and(|team| team == "ops");
    let after = daemon.wait_until("a", "seen with the new labels", has_changed);
    assert_eq!((after.pid, after.attempt, after.state), (Some(pid), Some(1), State::Running));
    assert_eq!(after.labels.len(), 1);
    let (_, said) = run(&mut verb(&daemon, &["events"]));
    assert!(said.contains("labels changed"), "{said}");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    let adopted = daemon.wait_until("a", "adopted", |agent| agent.running);
    assert_eq!((adopted.pid, adopted.labels), (after.pid, after.labels));
}

#[test]
fn a_wrong_label_is_an_error_of_its_entry_alone() {
    let daemon = Setup::new().start(&(agent("a", "sleep inf", WEB) + &agent("b", "sleep inf", "labels = [\"a b\"]")));
    daemon.wait_until_running("a");
    let agent = daemon.wait_for_state("b", State::Invalid);
    assert!(agent.error.unwrap().contains("\"a b\" cannot be the key of a label"));
}
