//! From what is held to what should be: pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::agent::changes::Marks;
use crate::agent::declaration::{Declaration, Desired, DesiredAgent};
use crate::agent::fingerprint::Fingerprint;
use crate::agent::name::{Key, Name};
use crate::agent::user::AgentUser;

/// What the supervisor holds, by agent.
pub type Held = BTreeMap<Key, HeldAgent>;

/// What matters here of one agent that the supervisor holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldAgent {
    /// What was desired of it last; `None` if an earlier daemon knew that.
    pub desired: Option<DesiredAgent>,
    /// What was launched under the good declaration that it lives under; `None` if it never had one.
    pub in_force: Option<InForce>,
    /// The marks of what it was launched with last, if that is known.
    pub given: Option<Marks>,
    /// Where its session is.
    pub place: Place,
}

/// Whose tmux server has the session of an agent, and so whom the agent runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Nobody's: it has no session.
    #[default]
    Nowhere,
    /// That of this user; `None` is the default one.
    With(Option<AgentUser>),
}

/// What was launched last under a good declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InForce {
    /// Nothing yet.
    Nothing,
    /// This, by this daemon.
    Here(Fingerprint),
    /// This, as far as it is known, by an earlier daemon. That one may have known secrets that are not known now.
    Earlier(Option<Fingerprint>),
}

impl InForce {
    /// Of what was launched, if that is known.
    pub fn fingerprint(&self) -> Option<&Fingerprint> {
        match self {
            Self::Nothing => None,
            Self::Here(fingerprint) => Some(fingerprint),
            Self::Earlier(fingerprint) => fingerprint.as_ref(),
        }
    }

    /// Whether an earlier daemon launched it.
    pub fn is_restored(&self) -> bool {
        matches!(self, Self::Earlier(_))
    }
}

/// A good entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The agent, as written.
    pub name: Name,
    /// The harness, when the entry tells.
    pub harness: Option<Arc<str>>,
    /// How the agent should live.
    pub declaration: Declaration,
}

/// One thing to do to one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin a life under this declaration: the agent is new, or what it launches has changed.
    Declare(Wanted),
    /// Apply the declaration without touching what runs: only policy, or what is missing, has changed.
    Update(Wanted),
    /// Keep whatever runs, and say what is wrong with the entry.
    Reject {
        /// The agent, as written.
        name: Name,
        /// The harness, when the entry tells.
        harness: Option<Arc<str>>,
        /// What is wrong.
        error: String,
    },
    /// Stop the agent of this key: nobody declares it any more.
    Remove(Key),
}

/// What there is to do. Nothing, if nothing has changed. `held` lists no agent that is on its way out.
pub fn plan(desired: &Desired, held: &Held) -> Vec<Action> {
    let mut actions = Vec::new();
    for (key, agent) in &desired.agents {
        let known = held.get(key);
        if known.is_some_and(|known| known.desired.as_ref() == Some(agent)) {
            continue;
        }
        let DesiredAgent { name, harness, user: _, declaration } = agent.clone();
        let in_force = known.and_then(|known| known.in_force.as_ref());
        actions.push(match (declaration, in_force) {
            (Err(error), _) => Action::Reject { name, harness, error },
            (Ok(declaration), Some(in_force))
                if !changes_launch(&declaration, in_force, known) || waits_for_rotation(&declaration, known) =>
            {
                Action::Update(Wanted { name, harness, declaration })
            }
            (Ok(declaration), _) => Action::Declare(Wanted { name, harness, declaration }),
        });
    }
    if desired.complete {
        let gone = held.keys().filter(|key| !desired.agents.contains_key(*key));
        actions.extend(gone.map(|key| Action::Remove(key.clone())));
    }
    actions
}

/// Whether what was launched is known to differ from what is wanted. Something that is missing now does not change it: the next start
/// waits for that. What cannot be compared is not known to differ: what an earlier daemon launched, and secrets that could not be
/// read.
fn changes_launch(declaration: &Declaration, in_force: &InForce, known: Option<&HeldAgent>) -> bool {
    let (Ok(wanted), Some(launched)) = (&declaration.launch, in_force.fingerprint()) else { return false };
    // A build that knew no users did not put on record whom it runs as, and took it for an agent of the default user.
    if in_force.is_restored()
        && known.is_some_and(|known| matches!(&known.place, Place::With(user) if *user != wanted.user))
    {
        return true;
    }
    let former = known.and_then(|known| known.desired.as_ref()?.declaration.as_ref().ok()?.launch.as_ref().ok());
    if !launched.is_comparable_with(&wanted.fingerprint) {
        // What has changed since it was found has changed.
        return former.is_some_and(|former| {
            former.fingerprint.differs_in_command_from(&wanted.fingerprint)
                || former.is_certain && wanted.is_certain && former.fingerprint != wanted.fingerprint
        });
    }
    let is_edited = former.is_some_and(|former| former.fingerprint != wanted.fingerprint);
    if wanted.is_certain || !in_force.is_restored() || is_edited {
        launched.differs_from(&wanted.fingerprint)
    } else {
        launched.differs_in_command_from(&wanted.fingerprint)
    }
}

/// Whether nothing but the values of secrets differs from what was launched, and the entry lets these wait.
fn waits_for_rotation(declaration: &Declaration, known: Option<&HeldAgent>) -> bool {
    let (Ok(wanted), Some(HeldAgent { given: Some(given), in_force: Some(in_force), .. })) =
        (&declaration.launch, known)
    else {
        return false;
    };
    let is_same_command =
        in_force.fingerprint().is_some_and(|launched| !launched.differs_in_command_from(&wanted.fingerprint));
    declaration.policy.rotation.is_deferred()
        && is_same_command
        && given.rotated_to(&wanted.marks).is_some_and(|secrets| !secrets.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rstest::rstest;

    use super::*;
    use crate::agent::declaration::{Missing, WaitingFor};
    use crate::agent::launch::Launch;
    use crate::agent::name::key;
    use crate::agent::spec::{Kind, Policy};
    use crate::sys::secret_bytes::SecretBytes;

    fn launch(name: &str, argument: &str) -> Arc<Launch> {
        let name: crate::agent::name::Name = name.parse().unwrap();
        Arc::new(Launch {
            session: name.clone(),
            user: None,
            name,
            arguments: vec![SecretBytes::from(argument)],
            fingerprint: Fingerprint::of(argument),
            ..Launch::of_nothing()
        })
    }

    fn policy(grace_seconds: u64) -> Policy {
        Policy { grace_period: std::time::Duration::from_secs(grace_seconds), ..Policy::default() }
    }

    fn agent(name: &str, declaration: Result<Declaration, String>) -> DesiredAgent {
        DesiredAgent { name: name.parse().unwrap(), harness: None, user: None, declaration }
    }

    fn good(name: &str, argument: &str, grace: u64) -> DesiredAgent {
        agent(name, Ok(Declaration { kind: Kind::Native, policy: policy(grace), launch: Ok(launch(name, argument)) }))
    }

    fn waiting(name: &str) -> DesiredAgent {
        let launch = Err(Missing(vec![WaitingFor::Unread {}]));
        agent(name, Ok(Declaration { kind: Kind::Native, policy: policy(30), launch }))
    }

    fn bad(name: &str) -> DesiredAgent {
        agent(name, Err("harness is required".into()))
    }

    fn held(desired: DesiredAgent, launched: Option<&str>) -> HeldAgent {
        let is_declared = desired.declaration.is_ok() || launched.is_some();
        let launched = launched.map_or(InForce::Nothing, |word| InForce::Here(Fingerprint::of(word)));
        HeldAgent {
            desired: Some(desired),
            in_force: is_declared.then_some(launched),
            given: None,
            place: Place::Nowhere,
        }
    }

    fn planned(desired: Vec<DesiredAgent>, complete: bool, held: Vec<HeldAgent>) -> Vec<String> {
        let agents = desired.into_iter().map(|agent| (agent.name.key(), agent)).collect();
        let key = |held: &HeldAgent| held.desired.as_ref().unwrap().name.key();
        let held = held.into_iter().map(|held| (key(&held), held)).collect();
        plan(&Desired { agents, complete, ..Desired::default() }, &held)
            .into_iter()
            .map(|action| match action {
                Action::Declare(wanted) => format!("declare {}", wanted.name),
                Action::Update(wanted) => format!("update {}", wanted.name),
                Action::Reject { name, .. } => format!("reject {name}"),
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
    #[case::entry_fixed_as_it_was(vec![good("a", "x", 30)], vec![held(bad("a"), Some("x"))], &["update a"])]
    #[case::entry_fixed_at_last(vec![good("a", "x", 30)], vec![held(bad("a"), None)], &["declare a"])]
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
    fn one_change_among_many_agents_is_one_action() {
        let names = || (0..500).map(|number| format!("a{number}"));
        let wanted = |other: &str| names().map(|name| good(&name, if name == other { "y" } else { "x" }, 30)).collect();
        let known = || names().map(|name| held(good(&name, "x", 30), Some("x"))).collect();
        assert_eq!(planned(wanted("nobody"), true, known()), [""; 0]);
        assert_eq!(planned(wanted("a250"), true, known()), ["declare a250"]);
    }

    #[rstest]
    #[case::same_launch("x", true, "update a")]
    #[case::another_launch("y", true, "declare a")]
    #[case::same_launch_and_secrets_that_cannot_be_read("x", false, "update a")]
    #[case::another_launch_and_secrets_that_cannot_be_read("y", false, "declare a")]
    fn an_earlier_launch_is_touched_only_if_known_to_differ(
        #[case] argument: &str,
        #[case] is_certain: bool,
        #[case] action: &str,
    ) {
        let wanted = Arc::new(Launch { is_certain, ..Arc::unwrap_or_clone(launch("a", argument)) });
        let wanted = agent("a", Ok(Declaration { kind: Kind::Native, policy: policy(30), launch: Ok(wanted) }));
        let in_force = Some(InForce::Earlier(Some(Fingerprint::of("x"))));
        let held = [(key("a"), HeldAgent { desired: None, in_force, given: None, place: Place::With(None) })].into();
        let desired = Desired { agents: [(key("a"), wanted)].into(), complete: true, ..Desired::default() };
        let planned = plan(&desired, &held);
        let words = match planned.as_slice() {
            [Action::Declare(wanted)] => format!("declare {}", wanted.name),
            [Action::Update(wanted)] => format!("update {}", wanted.name),
            other => format!("{other:?}"),
        };
        assert_eq!(words, action);
    }

    #[test]
    fn an_earlier_launch_on_record_as_another_users_is_touched() {
        let user = AgentUser { name: "b".parse().unwrap(), uid: 47_000 };
        let action = |place: Place| {
            let wanted = Arc::new(Launch { user: Some(user.clone()), ..Arc::unwrap_or_clone(launch("a", "x")) });
            let declaration = Declaration { kind: Kind::Native, policy: policy(30), launch: Ok(wanted) };
            let in_force = Some(InForce::Earlier(Some(Fingerprint::of("x"))));
            let held = [(key("a"), HeldAgent { desired: None, in_force, given: None, place })].into();
            let agents = [(key("a"), agent("a", Ok(declaration)))].into();
            plan(&Desired { agents, complete: true, ..Desired::default() }, &held).remove(0)
        };
        assert!(matches!(action(Place::With(None)), Action::Declare(_)), "as a build without users left it");
        assert!(matches!(action(Place::With(Some(user.clone()))), Action::Update(_)));
        assert!(matches!(action(Place::Nowhere), Action::Update(_)));
    }

    #[rstest]
    #[case::found("x", None, "update a")]
    #[case::not_edited_since("x", Some(("x", true)), "update a")]
    #[case::edited_since("y", Some(("x", true)), "declare a")]
    #[case::edited_since_and_secrets_can_be_read_now("y", Some(("x", false)), "declare a")]
    fn what_cannot_be_compared_is_touched_only_when_it_is_edited(
        #[case] argument: &str,
        #[case] former: Option<(&str, bool)>,
        #[case] action: &str,
    ) {
        let former = former.map(|(argument, is_certain)| {
            let launch = Arc::new(Launch { is_certain, ..Arc::unwrap_or_clone(launch("a", argument)) });
            // Another grace, so that there is something to do.
            agent("a", Ok(Declaration { kind: Kind::Native, policy: policy(1), launch: Ok(launch) }))
        });
        let in_force = Some(InForce::Earlier(Some(Fingerprint::of_another_key("x"))));
        let held = [(key("a"), HeldAgent { desired: former, in_force, given: None, place: Place::Nowhere })].into();
        let agents = [(key("a"), good("a", argument, 30))].into();
        let planned = plan(&Desired { agents, complete: true, ..Desired::default() }, &held);
        let is_declared = matches!(planned.as_slice(), [Action::Declare(..)]);
        assert!(is_declared || matches!(planned.as_slice(), [Action::Update(..)]));
        assert_eq!(is_declared, action == "declare a");
    }

    #[test]
    fn while_an_entry_does_not_tell_whom_it_means_nobody_is_removed() {
        let known = vec![held(good("a", "x", 30), Some("x")), held(good("b", "x", 30), Some("x"))];
        assert_eq!(planned(vec![good("a", "y", 30)], false, known), ["declare a"]);
    }
}
