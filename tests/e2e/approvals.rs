//! Agents ask operators whether they may do something, and nobody else answers.

use std::fs;
use std::time::Duration;

use agentd::wire::activity::Doing;
use agentd::wire::approval::{Answer, Approval, Approvals, Decider};
use nix::sys::signal::Signal;

use crate::sandbox::has;
use crate::support::{Setup, as_user, by, root, run};

/// An agent that asks whether it may run these commands, one after the other.
fn asking(asks: &[&str], more: &str) -> String {
    entry(&format!("ASKS = {:?}", asks.join("\n")), more)
}

fn entry(env: &str, more: &str) -> String {
    format!(
        "[[agents]]\nname = \"a\"\nharness = \"claude-code\"\ncommand = [\"perl\", \"@DIR/bin/asker\"]\nworkdir = \"@WORK\"\n\
         approval = \"ask\"\nenv = {{ {env} }}\n{more}\n"
    )
}

fn setup() -> Setup {
    let setup = Setup::new();
    setup.put(&setup.path("bin/asker"), include_str!("asker"));
    setup
}

fn approvals(setup: &Setup) -> Approvals {
    serde_json::from_str(&setup.get("/v1/approvals").body).unwrap()
}

/// The one question that waits.
fn question(setup: &Setup) -> Approval {
    setup.wait("a question", || match &approvals(setup).pending[..] {
        [one] => Some(one.clone()),
        _ => None,
    })
}

fn decided(setup: &Setup) -> (Answer, Decider, Option<String>) {
    setup.wait("a decision", || {
        let decision = approvals(setup).decided.first()?.decision.clone()?;
        Some((decision.answer, decision.by, decision.who))
    })
}

/// What the harness heard, once it is as many lines.
fn told(setup: &Setup, count: usize) -> Vec<String> {
    setup.wait("the answers", || Some(setup.lines("answers")).filter(|lines| lines.len() >= count))
}

#[test]
fn an_operator_allows_and_denies_what_an_agent_asks() {
    if !root() {
        return;
    }
    let daemon = setup().start(&asking(&["git push", "rm -rf x"], ""));
    let asked = question(&daemon);
    assert_eq!((asked.agent.as_str(), asked.tool.as_str(), asked.command.as_str()), ("a", "Bash", "git push"));
    let (status, data) = by("op", &daemon, &["approvals", "--json"]);
    let data: Approvals = serde_json::from_str(&data).unwrap();
    assert_eq!((status, data.pending.len(), &data.pending[0].id), (Some(0), 1, &asked.id));
    let agent = daemon.wait_until("a", "blocked", |agent| agent.activity.is_some());
    let activity = agent.activity.unwrap();
    assert_eq!(activity.status, Doing::Blocked);
    assert!(activity.detail.unwrap().contains("git push"));
    let (_, said) = by("op", &daemon, &["explain", "a"]);
    assert!(said.contains(&format!("agentd approve {}", asked.id)), "{said}");
    let metrics = daemon.get("/metrics").body;
    assert!(metrics.contains("agentd_approvals_pending 1\n"), "{metrics}");

    let (code, said) = by("op", &daemon, &["approve", &asked.id[..7]]);
    assert!(code == Some(0) && said.contains("a: allowed by op: Bash: git push"), "{code:?} {said}");
    assert_eq!(told(&daemon, 1), ["git push => allow "]);
    let asked = question(&daemon);
    let (code, said) = by("op", &daemon, &["deny", &asked.id, "--why", "keep it"]);
    assert!(code == Some(0) && said.contains("a: denied by op"), "{code:?} {said}");
    assert_eq!(told(&daemon, 2)[1], "rm -rf x => deny op denied this: keep it");
    let (code, said) = by("op", &daemon, &["approve", &asked.id]);
    assert!(code == Some(4) && said.contains("is over: denied by op"), "{code:?} {said}");

    let folder = daemon.path("overrides/.answers");
    daemon.wait("an empty folder", || fs::read_dir(&folder).unwrap().next().is_none().then_some(()));
    let events = daemon.get("/v1/events?follow=false&after=0").body;
    assert_eq!(events.matches("event: approval").count(), 4, "{events}");
    by("op", &daemon, &["stop", "a", "--now", "--wait"]);
    let history = daemon.get("/v1/agents/a").body;
    assert!(history.contains("\"who\":\"op\"") && history.contains("keep it"), "{history}");
}

#[test]
fn nobody_but_operators_answers() {
    if !root() {
        return;
    }
    let daemon = setup().start(&asking(&["git push"], ""));
    let asked = question(&daemon);
    for user in ["agent", "stranger"] {
        let folder = daemon.path("overrides/.answers");
        let path = folder.join(format!("{}.toml", asked.id));
        let script = format!("echo 'answer = \"allow\"' >{}", path.display());
        assert_ne!(run(&mut as_user(user, &["sh", "-c", &script])).0, Some(0), "{user}");
        assert_ne!(by(user, &daemon, &["approve", &asked.id]).0, Some(0), "{user}");
        // Even one that root puts there for them has no effect.
        fs::write(&path, "answer = \"allow\"\n").unwrap();
        let owner = crate::support::account(user);
        std::os::unix::fs::chown(&path, Some(owner.uid.as_raw()), None).unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(daemon.lines("answers").is_empty());
    assert!(daemon.log().contains("has no effect: it belongs to"), "{}", daemon.log());
    assert_eq!(by("op", &daemon, &["approve", &asked.id]).0, Some(0));
    assert_eq!(told(&daemon, 1), ["git push => allow "]);
}

#[test]
fn silence_is_no_and_rules_decide_before_anybody_is_asked() {
    if !root() {
        return;
    }
    let rules = "approval_timeout = \"1s\"\napproval_rules = [{ match = \"^git push\", then = \"ask\" }, \
                 { match = \"^git \", then = \"allow\" }, { match = \"sudo\", then = \"deny\" }]";
    let daemon = setup().start(&asking(&["git status", "sudo ls", "git push"], rules));
    let lines = told(&daemon, 3);
    assert_eq!(lines[0], "git status => allow ");
    assert!(lines[1].starts_with("sudo ls => deny ") && lines[1].contains("approval_rules"), "{lines:?}");
    assert!(lines[2].starts_with("git push => deny ") && lines[2].contains("nobody answered within 1s"), "{lines:?}");
    assert_eq!(decided(&daemon), (Answer::Deny, Decider::Timeout, None));
    assert_eq!(approvals(&daemon).decided.len(), 1, "rules ask nobody");
}

#[test]
fn a_question_outlives_the_daemon() {
    if !root() {
        return;
    }
    let mut daemon = setup().start(&asking(&["git push"], ""));
    let asked = question(&daemon);
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    // Whoever knows the id may answer before the next daemon is there.
    let directory = daemon.path("overrides");
    let words = ["approve", &asked.id, "--override-dir", directory.to_str().unwrap()];
    let (code, said) = by("op", &daemon, &words);
    assert!(code == Some(0) && said.contains("agentd does not answer"), "{code:?} {said}");
    daemon.start_again();
    assert_eq!(told(&daemon, 1), ["git push => allow "]);
    let (answer, by, who) = decided(&daemon);
    assert_eq!((answer, by, who.as_deref()), (Answer::Allow, Decider::Operator, Some("op")));
    assert_eq!(approvals(&daemon).decided[0].id, asked.id, "under the same id");
}

#[test]
fn an_agent_that_floods_is_bounded() {
    if !root() {
        return;
    }
    let daemon = setup().start(&entry("FLOOD = \"1000\"", "approval_timeout = \"20s\""));
    let lines = told(&daemon, 900);
    assert!(lines.iter().all(|line| line.contains("\"allow\":false")), "{lines:?}");
    assert!(lines[0].contains("more than 16 questions"), "the oldest is refused: {}", lines[0]);
    let now = approvals(&daemon);
    assert!(now.pending.len() <= 16 && now.decided.len() <= 32, "{}", now.pending.len());
    let events = daemon.get("/v1/events?follow=false&after=0").body.matches("event: approval").count();
    assert!(events <= 200, "{events}");
    told(&daemon, 1000);
}

#[test]
fn of_two_answers_the_first_counts() {
    if !root() {
        return;
    }
    let daemon = setup().start(&asking(&["git push"], ""));
    let asked = question(&daemon);
    let results = std::thread::scope(|scope| {
        let answers = ["approve", "deny"].map(|verb| scope.spawn(|| by("op", &daemon, &[verb, &asked.id])));
        answers.map(|answer| answer.join().unwrap())
    });
    let lines = told(&daemon, 1);
    let winner = usize::from(lines[0].contains("deny"));
    assert_eq!(results[winner].0, Some(0), "{results:?} {lines:?}");
    assert_ne!(results[1 - winner].0, Some(0), "{results:?} {lines:?}");
    assert_eq!(approvals(&daemon).decided.len(), 1);
}

#[test]
fn an_agent_in_a_sandbox_asks() {
    if !root() || !has("bwrap") {
        return;
    }
    let more = "type = \"sandboxed\"\nsandbox = \"bwrap\"\nsandbox_home = \"fresh\"\nsandbox_read = [\"@DIR/bin\"]";
    let daemon = setup().start(&asking(&["git push"], more));
    let asked = question(&daemon);
    assert_eq!(by("op", &daemon, &["approve", &asked.id]).0, Some(0));
    assert_eq!(told(&daemon, 1), ["git push => allow "]);
}
