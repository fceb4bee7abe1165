//! From what is held to what should be: pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::desired::{Declaration, Desired, DesiredAgent};
use crate::launch::Launch;

/// What the supervisor holds, by agent.
pub type Held = BTreeMap<String, HeldAgent>;

/// What matters here of one agent that the supervisor holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldAgent {
    /// What was desired of it last.
    pub desired: DesiredAgent,
    /// The good declaration that it lives under, if there ever was one.
    pub declared: Option<Declared>,
}

/// A good declaration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// What was or is launched under it; `None` while something has been missing from the beginning.
    pub launch: Option<Arc<Launch>>,
}

/// One thing to do to one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin a life under this declaration: it is a new agent, or what it launches has changed.
    Declare(DesiredAgent, Declaration),
    /// Apply the declaration without touching what runs: only policy, or what is missing, has changed.
    Update(DesiredAgent, Declaration),
    /// Keep whatever runs, and say what is wrong with the entry.
    Reject(DesiredAgent, String),
    /// Stop it: it is declared no more.
    Remove(String),
}

/// What there is to do. Nothing, if nothing has changed. `held` lists no agent that is on its way out.
pub fn plan(desired: &Desired, held: &Held) -> Vec<Action> {
    let mut actions = Vec::new();
    for (key, agent) in &desired.agents {
        let known = held.get(key);
        if known.is_some_and(|known| known.desired == *agent) {
            continue;
        }
        let in_force = known.and_then(|known| known.declared.as_ref());
        actions.push(match (&agent.declaration, in_force) {
            (Err(error), _) => Action::Reject(agent.clone(), error.clone()),
            (Ok(declaration), Some(in_force)) if !changes_launch(declaration, in_force) => {
                Action::Update(agent.clone(), declaration.clone())
            }
            (Ok(declaration), _) => Action::Declare(agent.clone(), declaration.clone()),
        });
    }
    if desired.complete {
        let gone = held.keys().filter(|key| !desired.agents.contains_key(*key));
        actions.extend(gone.map(|key| Action::Remove(key.clone())));
    }
    actions
}

/// What is missing now is no change of what was launched: it is missed at the next start.
fn changes_launch(declaration: &Declaration, in_force: &Declared) -> bool {
    match (&declaration.launch, &in_force.launch) {
        (Ok(wanted), Some(launched)) => wanted != launched,
        (Ok(_), None) | (Err(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::*;
    use crate::config::{Policy, Restart};
    use crate::desired::Missing;
    use crate::frame::Bytes;

    fn launch(name: &str, argument: &str) -> Arc<Launch> {
        let name: crate::config::Name = name.parse().unwrap();
        Arc::new(Launch {
            session: name.clone(),
            name,
            arguments: vec![Bytes::from(argument)],
            prompt: None,
            environment: BTreeMap::new(),
            workdir: "/".into(),
        })
    }

    fn policy(grace_seconds: u64) -> Policy {
        Policy {
            restart: Restart::No,
            max_restarts: None,
            timeout: None,
            grace_period: Duration::from_secs(grace_seconds),
            backoff: vec![Duration::from_secs(3)],
            backoff_reset: None,
        }
    }

    fn agent(name: &str, declaration: Result<Declaration, String>) -> DesiredAgent {
        DesiredAgent { name: name.parse().unwrap(), harness: None, declaration }
    }

    fn good(name: &str, argument: &str, grace: u64) -> DesiredAgent {
        agent(name, Ok(Declaration { kind: "native", policy: policy(grace), launch: Ok(launch(name, argument)) }))
    }

    fn waiting(name: &str) -> DesiredAgent {
        let launch = Err(Missing("the workdir".into()));
        agent(name, Ok(Declaration { kind: "native", policy: policy(30), launch }))
    }

    fn bad(name: &str) -> DesiredAgent {
        agent(name, Err("harness is required".into()))
    }

    fn held(desired: DesiredAgent, launched: Option<&str>) -> HeldAgent {
        let name = desired.name.to_string();
        let declared = desired.declaration.is_ok() || launched.is_some();
        let declared = declared.then(|| Declared { launch: launched.map(|argument| launch(&name, argument)) });
        HeldAgent { desired, declared }
    }

    fn planned(desired: Vec<DesiredAgent>, complete: bool, held: Vec<HeldAgent>) -> Vec<String> {
        let agents = desired.into_iter().map(|agent| (agent.name.key(), agent)).collect();
        let held = held.into_iter().map(|held| (held.desired.name.key(), held)).collect();
        plan(&Desired { agents, complete, ..Desired::default() }, &held)
            .into_iter()
            .map(|action| match action {
                Action::Declare(agent, _) => format!("declare {}", agent.name),
                Action::Update(agent, _) => format!("update {}", agent.name),
                Action::Reject(agent, _) => format!("reject {}", agent.name),
                Action::Remove(key) => format!("remove {key}"),
            })
            .collect()
    }

    #[rstest]
    #[case::new_agent(vec![good("a", "x", 30)], vec![], &["declare a"])]
    #[case::new_agent_that_waits(vec![waiting("a")], vec![], &["declare a"])]
    #[case::new_bad_entry(vec![bad("a")], vec![], &["reject a"])]
    #[case::nothing_changed(vec![good("a", "x", 30)], vec![held(good("a", "x", 30), Some("x"))], &[])]
    #[case::launch_changed(vec![good("a", "y", 30)], vec![held(good("a", "x", 30), Some("x"))], &["declare a"])]
    #[case::policy_changed(vec![good("a", "x", 5)], vec![held(good("a", "x", 30), Some("x"))], &["update a"])]
    #[case::both_changed(vec![good("a", "y", 5)], vec![held(good("a", "x", 30), Some("x"))], &["declare a"])]
    #[case::something_went_missing(vec![waiting("a")], vec![held(good("a", "x", 30), Some("x"))], &["update a"])]
    #[case::it_came_back(vec![good("a", "x", 30)], vec![held(waiting("a"), Some("x"))], &["update a"])]
    #[case::it_came_back_different(vec![good("a", "y", 30)], vec![held(waiting("a"), Some("x"))], &["declare a"])]
    #[case::it_came_at_last(vec![good("a", "x", 30)], vec![held(waiting("a"), None)], &["update a"])]
    #[case::entry_broke(vec![bad("a")], vec![held(good("a", "x", 30), Some("x"))], &["reject a"])]
    #[case::entry_mended_as_it_was(vec![good("a", "x", 30)], vec![held(bad("a"), Some("x"))], &["update a"])]
    #[case::entry_mended_at_last(vec![good("a", "x", 30)], vec![held(bad("a"), None)], &["declare a"])]
    #[case::entry_still_broken(vec![bad("a")], vec![held(bad("a"), None)], &[])]
    #[case::undeclared(vec![], vec![held(good("a", "x", 30), Some("x"))], &["remove a"])]
    #[case::one_of_two(
        vec![good("a", "x", 30), good("b", "y", 30)],
        vec![held(good("a", "x", 30), Some("x")), held(good("b", "x", 30), Some("x"))],
        &["declare b"]
    )]
    fn only_what_changed_is_touched(
        #[case] desired: Vec<DesiredAgent>,
        #[case] known: Vec<HeldAgent>,
        #[case] actions: &[&str],
    ) {
        assert_eq!(planned(desired, true, known), actions);
    }

    #[test]
    fn while_an_entry_does_not_tell_whom_it_means_nobody_is_removed() {
        let known = vec![held(good("a", "x", 30), Some("x")), held(good("b", "x", 30), Some("x"))];
        assert_eq!(planned(vec![good("a", "y", 30)], false, known), ["declare a"]);
    }
}
