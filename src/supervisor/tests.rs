pub(super) mod fakes;
mod holds;
pub(super) mod journal;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use rstest::rstest;
use tempfile::TempDir;

use self::fakes::{ENDED_PID, FakeLauncher, Fakes, Groups, Trouble, dead_pane, end, harness, settle, until};
use self::journal::Journal;
use super::*;
use crate::agent::declaration::Declaration;
use crate::agent::fingerprint::Fingerprint;
use crate::agent::name::key;
use crate::agent::orders::{Override, Overrides};
use crate::agent::spec::{Kind, Policy, Restart};
use crate::contain::cgroup::Whose;
use crate::launch::launcher as launch_command;
use crate::launch::protocol::{Ending, FromLauncher, Harness};
use crate::state::conversations::Conversations;
use crate::state::record::Record;
use crate::wire::events::Since;
use crate::wire::exit_status::ExitStatus;

/// A supervisor with everything around it. Events are taken in one batch after the other, as its loop does it, but none of the
/// recorder's: when something is on record the test says.
struct House {
    fakes: Fakes,
    supervisor: Supervisor,
    inbox: mpsc::UnboundedReceiver<Event>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    happening: watch::Receiver<Ring>,
    seen: Since,
    /// Whether what is put on record is, as soon as all else has settled.
    is_recorded: bool,
    _state: TempDir,
}

impl House {
    fn new() -> Self {
        let (fakes, state) = (Fakes::default(), TempDir::new().unwrap());
        let (events, inbox) = mpsc::unbounded_channel();
        let (happenings, happening) = watch::channel(Ring::new(SystemTime::now()));
        let recorder = |folder: &str| Recorder::new(Record::lasting(state.path(), folder), drop);
        let outlets = Outlets {
            events,
            snapshots: fakes.snapshots.clone(),
            happenings,
            recorder: recorder("agents"),
            histories: Histories::new(BTreeMap::new(), recorder("history")),
            conversations: Conversations::new(BTreeMap::new(), recorder("conversations")),
            notifier: Notifier::silent(),
        };
        let supervisor = Supervisor::new(fakes.resources(), outlets, Detail::Plain, Instant::now(), Vec::new());
        let snapshot = fakes.snapshots.subscribe();
        let seen = Since::Beginning;
        Self { fakes, supervisor, inbox, snapshot, happening, seen, is_recorded: true, _state: state }
    }

    /// Takes in the event, and all that comes of it.
    async fn take_in(&mut self, event: Event) {
        self.supervisor.take_in([event].into_iter());
        self.settle().await;
    }

    async fn settle(&mut self) {
        loop {
            settle().await;
            let mut batch: VecDeque<Event> = std::iter::from_fn(|| self.inbox.try_recv().ok()).collect();
            let is_behind = self.is_recorded && self.supervisor.recorded < self.supervisor.version;
            if is_behind {
                batch.push_back(Event::Recorded(Report { tried: self.supervisor.version, error: None }));
            }
            if batch.is_empty() {
                return;
            }
            self.supervisor.take_in(batch.into_iter());
        }
    }

    /// These agents are declared, and no others.
    async fn declare(&mut self, agents: &[DesiredAgent]) {
        let agents = agents.iter().map(|agent| (agent.name.key(), agent.clone())).collect();
        self.take_in(Event::Desired(Desired { agents, complete: true, ..Desired::default() })).await;
    }

    async fn report(&mut self, launcher: &mut FakeLauncher, progress: Progress) {
        self.take_in(Event::Visitor { user: None, visitor: launcher.report("a", progress) }).await;
    }

    async fn say(&mut self, launcher: &mut FakeLauncher, message: FromLauncher) {
        launcher.say(message).await;
        self.settle().await;
    }

    async fn die(&mut self, launcher: &mut FakeLauncher) {
        launcher.die().await;
        self.settle().await;
    }

    /// Agent `a` runs.
    async fn running(policy: Policy) -> (Self, FakeLauncher) {
        let (mut house, mut launcher) = (Self::new(), FakeLauncher::start());
        house.fakes.sessions.open.set(Ok(launcher.pid()));
        house.declare(&[agent("a", "a", policy)]).await;
        house.report(&mut launcher, Progress::New).await;
        assert_eq!(launcher.heard().await, ["launch"]);
        house.say(&mut launcher, FromLauncher::Started(harness())).await;
        assert_eq!(house.state("a"), Some(State::Running));
        (house, launcher)
    }

    /// The next daemon, which finds what this one has put on record, and everything else as `prepare` has it.
    async fn next(self, prepare: impl FnOnce(&Fakes)) -> Self {
        let on_record = |(key, agent): (&Key, &Agent)| {
            let text = serde_json::to_string(&agent.machine).unwrap();
            (key.clone(), serde_json::from_str(&text).unwrap())
        };
        let machines = self.supervisor.agents.iter().map(on_record).collect();
        drop(self);
        let mut next = Self::new();
        prepare(&next.fakes);
        next.supervisor.resume(machines);
        next.settle().await;
        next
    }

    /// What the API tells.
    fn state(&self, agent: &str) -> Option<State> {
        self.snapshot.borrow().agent(&key(agent)).map(|agent| agent.state)
    }

    fn error(&self, agent: &str) -> Option<String> {
        self.snapshot.borrow().agent(&key(agent)).and_then(|agent| agent.error.clone())
    }

    /// Events that were published since, in short.
    fn events(&mut self) -> Vec<String> {
        let ring = self.happening.borrow();
        let kept = ring.since(self.seen);
        self.seen = Since::Seen(ring.latest());
        kept.iter().map(|kept| in_short(std::str::from_utf8(&kept.message).unwrap())).collect()
    }
}

fn in_short(message: &str) -> String {
    let data = message.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let event: serde_json::Value = serde_json::from_str(data).unwrap();
    let word = |field: &serde_json::Value| field.as_str().map(|word| format!(" {word}")).unwrap_or_default();
    let about = [&event["name"], &event["change"], &event["agent"]["state"], &event["state"]].map(word).concat();
    format!("{}{about}", event["type"].as_str().unwrap())
}

fn agent(name: &str, session: &str, policy: Policy) -> DesiredAgent {
    let (name, session): (Name, Name) = (name.parse().unwrap(), session.parse().unwrap());
    let launch = Arc::new(Launch { name: name.clone(), session, ..Launch::of_nothing() });
    let declaration = Declaration { kind: Kind::Native, policy, launch: Ok(launch) };
    DesiredAgent { name, harness: None, user: None, declaration: Ok(declaration) }
}

fn patient() -> Policy {
    Policy { grace_period: Duration::from_hours(1), ..Policy::default() }
}

fn impatient() -> Policy {
    Policy { grace_period: Duration::ZERO, ..Policy::default() }
}

fn under_way(is_certain: bool) -> UnderWay {
    let launch = Arc::new(Launch::of_nothing());
    let commands = mpsc::unbounded_channel().0;
    UnderWay { attempt: Attempt::default(), user: None, commands, launch: Some(launch), is_certain }
}

#[test]
fn a_redactor_is_built_only_if_a_launch_changes() {
    let mut redactors = Redactors::default();
    let machine = Machine::new("a".parse().unwrap());
    let mut agent = Agent { under_way: Some(under_way(true)), ..Agent::new(machine, "agent".into()) };
    assert!(agent.redact(&mut redactors) && !agent.redact(&mut redactors));
    agent.under_way = Some(under_way(true));
    assert!(agent.redact(&mut redactors) && !agent.redact(&mut redactors));
    assert!(agent.redactor.as_ref().unwrap().1.is_all);
    agent.under_way = Some(under_way(false));
    assert!(agent.redact(&mut redactors));
    assert!(!agent.redactor.as_ref().unwrap().1.is_all, "a survivor may have other secrets");
}

#[test]
fn what_runs_is_unknown_while_it_may_be_a_survivor() {
    let attempt = Attempt::default();
    assert!(under_way(true).known().is_some());
    let mut under_way = under_way(false);
    under_way.learn(&machine::Event::Opened { attempt });
    assert!(under_way.known().is_none());
    under_way.learn(&machine::Event::Started { attempt, pid: 2, at: Timestamp::now() });
    assert!(under_way.known().is_some());
}

#[test]
fn what_runs_is_unknown_once_a_survivor_was_found() {
    for fingerprint in [None, Some(Fingerprint::default())] {
        let (attempt, mut under_way) = (Attempt::default(), under_way(false));
        under_way.learn(&machine::Event::Found { attempt, fingerprint });
        under_way.learn(&machine::Event::Started { attempt, pid: 2, at: Timestamp::now() });
        assert!(under_way.known().is_none());
    }
}

mod publishing {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn events_are_published_in_the_order_they_happened() {
        let (mut house, mut launcher) = House::running(patient()).await;
        house.say(&mut launcher, FromLauncher::Ended(end(Ending::Code(0)))).await;
        house.die(&mut launcher).await;
        house.declare(&[]).await;
        assert_eq!(
            house.events(),
            [
                "daemon started",
                "declaration a added",
                "state a starting",
                "state a running",
                "state a exited",
                "declaration a removed",
                "state a stopping",
                "removed a",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_agent_with_orders_never_seems_to_be_invalid() {
        let mut house = House::new();
        let stopped = Override { enabled: Some(false), generation: Some(3), ..Override::default() };
        let overrides = Overrides { agents: [(key("a"), stopped.clone())].into(), all: Some(stopped) };
        let agents = ["a", "b"].map(|name| (key(name), agent(name, name, patient()))).into();
        let desired = Desired { agents, complete: true, overrides: Some(Arc::new(overrides)), ..Desired::default() };
        house.take_in(Event::Desired(desired)).await;
        assert_eq!(
            house.events(),
            ["daemon started", "declaration a added", "state a waiting", "declaration b added", "state b waiting"]
        );
        assert_eq!(house.snapshot.borrow().agent(&key("a")).unwrap().generation, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_published_before_it_is_on_record() {
        let mut house = House::new();
        house.take_in(Event::Groups).await;
        assert_eq!(house.events(), ["daemon started"]);
        house.is_recorded = false;
        let agents = [(key("a"), agent("a", "a", patient()))].into();
        let desired = Desired { agents, complete: true, ..Desired::default() };
        house.supervisor.take_in([Event::Desired(desired)].into_iter());
        assert_eq!((house.state("a"), house.events()), (None, Vec::new()));
        let version = house.supervisor.version;
        let behind = Report { tried: version - 1, error: None };
        house.supervisor.recorded(behind.tried, behind.error);
        assert_eq!((house.state("a"), house.events()), (None, Vec::new()));
        house.supervisor.take_in([Event::Recorded(Report { tried: version, error: None })].into_iter());
        assert_eq!(house.state("a"), Some(State::Starting));
        assert_eq!(house.events(), ["declaration a added", "state a starting"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_cannot_be_written_delays_nothing_for_long() {
        let mut house = House::new();
        house.is_recorded = false;
        let failed = Report { tried: 0, error: Some("No space left on device".to_owned()) };
        house.supervisor.take_in([Event::Recorded(failed)].into_iter());
        let errors = house.snapshot.borrow().errors().clone();
        assert_eq!(errors.state.as_deref(), Some("No space left on device"));
        house.events();
        // Once it is known to fail, nobody waits for it.
        let agents = [(key("a"), agent("a", "a", patient()))].into();
        let desired = Desired { agents, complete: true, ..Desired::default() };
        house.supervisor.take_in([Event::Desired(desired)].into_iter());
        assert_eq!(house.events(), ["declaration a added", "state a starting"]);
        let written = Report { tried: house.supervisor.version, error: None };
        house.supervisor.take_in([Event::Recorded(written)].into_iter());
        assert_eq!(house.snapshot.borrow().errors().state, None);
        assert_eq!(house.events(), ["resolved"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_launcher_is_sent_its_work_when_the_record_says_so() {
        let (mut house, mut launcher) = (House::new(), FakeLauncher::start());
        house.fakes.sessions.open.set(Ok(launcher.pid()));
        house.declare(&[agent("a", "a", patient())]).await;
        house.is_recorded = false;
        house.report(&mut launcher, Progress::New).await;
        assert!(launcher.heard().await.is_empty());
        // A failure notes nothing.
        let failed = Report { tried: house.supervisor.version, error: Some("no space".to_owned()) };
        house.take_in(Event::Recorded(failed)).await;
        assert!(launcher.heard().await.is_empty());
        house.is_recorded = true;
        house.take_in(Event::Recorded(Report { tried: house.supervisor.version, error: None })).await;
        assert_eq!(launcher.heard().await, ["launch"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_on_record_lets_the_launcher_go() {
        let (mut house, mut launcher) = House::running(patient()).await;
        house.is_recorded = false;
        house.say(&mut launcher, FromLauncher::Ended(end(Ending::Code(0)))).await;
        assert!(launcher.heard().await.is_empty());
        house.is_recorded = true;
        house.settle().await;
        assert_eq!(launcher.heard().await, ["noted"]);
    }
}

mod stopping {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_removed_agent_is_interrupted_and_its_session_closed() {
        let (mut house, mut launcher) = House::running(patient()).await;
        house.declare(&[]).await;
        assert_eq!(launcher.heard().await, ["interrupt"]);
        assert_eq!(house.state("a"), Some(State::Stopping));
        house.say(&mut launcher, FromLauncher::Ended(end(Ending::Signal(2)))).await;
        assert_eq!(house.fakes.sessions.calls.count("close"), 0);
        house.die(&mut launcher).await;
        assert_eq!(house.fakes.sessions.calls.count("close a"), 1);
        assert_eq!(house.state("a"), None);
        assert_eq!(house.fakes.log_files.calls.count("tidy {}"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_kills_what_an_interrupt_does_not_end() {
        let policy = Policy { grace_period: Duration::from_millis(1), ..Policy::default() };
        let (mut house, mut launcher) = House::running(policy).await;
        house.declare(&[]).await;
        let deadline = Instant::now() + Duration::from_millis(1);
        until("the deadline has passed", || Instant::now() > deadline).await;
        house.supervisor.take_in(std::iter::empty());
        house.settle().await;
        assert_eq!(launcher.heard().await[0], "interrupt");
        assert_eq!(house.fakes.containment.calls.count("kill"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_grace_period_a_removed_agent_is_killed_at_once() {
        let (mut house, mut launcher) = House::running(impatient()).await;
        house.declare(&[]).await;
        assert!(launcher.heard().await.is_empty());
        assert_eq!(house.fakes.containment.calls.count("kill"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_removed_while_its_pane_opens_starts_nothing() {
        let (mut house, mut launcher) = (House::new(), FakeLauncher::start());
        house.fakes.sessions.open.hang();
        house.declare(&[agent("a", "a", patient())]).await;
        house.declare(&[]).await;
        assert_eq!(house.state("a"), Some(State::Stopping));
        assert_eq!(house.fakes.sessions.calls.count("close"), 0);
        house.fakes.sessions.open.set(Ok(launcher.pid()));
        house.settle().await;
        assert_eq!(house.fakes.sessions.calls.count("close a"), 1);
        assert_eq!(house.state("a"), None);
        house.report(&mut launcher, Progress::New).await;
        assert_eq!(launcher.heard().await, ["unwanted", "closed"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_declaration_launches_when_the_last_attempt_is_gone() {
        let (mut house, mut launcher) = House::running(patient()).await;
        let changed = || {
            let DesiredAgent { declaration, .. } = agent("a", "a", patient());
            let mut declaration = declaration.unwrap();
            let launch = Arc::unwrap_or_clone(declaration.launch.unwrap());
            declaration.launch = Ok(Arc::new(Launch { fingerprint: Fingerprint::of("other"), ..launch }));
            DesiredAgent { declaration: Ok(declaration), ..agent("a", "a", patient()) }
        };
        house.declare(&[changed()]).await;
        assert_eq!(launcher.heard().await, ["interrupt"]);
        house.say(&mut launcher, FromLauncher::Ended(end(Ending::Signal(2)))).await;
        assert_eq!(house.fakes.sessions.calls.count("open"), 1);
        house.die(&mut launcher).await;
        assert_eq!(house.fakes.sessions.calls.count("open"), 2);
        assert_eq!(house.state("a"), Some(State::Starting));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_cannot_be_closed_is_held() {
        let (mut house, mut launcher) = House::running(impatient()).await;
        house.fakes.sessions.close.set(Err(Trouble::Words("the server does not answer")));
        house.declare(&[]).await;
        house.die(&mut launcher).await;
        assert_eq!(house.error("a").as_deref(), Some("the session a: the server does not answer"));
        assert_eq!(house.state("a"), Some(State::Stopping));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_agent_gets_the_session_once_it_is_closed() {
        let (mut house, mut launcher) = House::running(impatient()).await;
        house.fakes.sessions.close.hang();
        house.declare(&[agent("b", "a", impatient())]).await;
        house.die(&mut launcher).await;
        assert_eq!(house.state("b"), Some(State::Waiting));
        assert_eq!(house.fakes.sessions.calls.count("open b"), 0);
        house.fakes.sessions.close.set(Ok(()));
        house.settle().await;
        assert_eq!(house.fakes.sessions.calls.count("open b a"), 1);
        assert_eq!(house.state("b"), Some(State::Starting));
    }
}

mod the_daemons_end {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_every_agent() {
        let (mut house, mut launcher) = House::running(patient()).await;
        house.take_in(Event::Stop).await;
        assert!(!house.supervisor.is_over());
        assert_eq!(launcher.heard().await, ["interrupt"]);
        assert_eq!(house.fakes.sessions.calls.count("hurry"), 1);
        house.say(&mut launcher, FromLauncher::Ended(end(Ending::Signal(2)))).await;
        house.die(&mut launcher).await;
        assert!(house.supervisor.is_over());
        assert!(house.supervisor.run(house.inbox).await.unwrap(), "it has stopped them");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_while_a_pane_opens_waits_until_it_is_open() {
        let mut house = House::new();
        house.fakes.sessions.open.hang();
        house.declare(&[agent("a", "a", patient())]).await;
        house.take_in(Event::Stop).await;
        assert!(!house.supervisor.is_over());
        house.fakes.sessions.open.set(Ok(fakes::ENDED_PID));
        house.settle().await;
        assert!(house.supervisor.is_over());
        assert_eq!(house.fakes.sessions.calls.count("close a"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_although_a_session_cannot_be_closed() {
        let (mut house, mut launcher) = House::running(impatient()).await;
        house.fakes.sessions.close.set(Err(Trouble::Words("the server does not answer")));
        house.take_in(Event::Stop).await;
        house.die(&mut launcher).await;
        assert!(house.supervisor.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_that_is_declared_starts_once_a_stop_has_begun() {
        let mut house = House::new();
        house.take_in(Event::Stop).await;
        house.declare(&[agent("a", "a", patient())]).await;
        assert!(house.supervisor.agents.is_empty());
        assert!(house.fakes.sessions.calls.count("open") == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_detach_leaves_agents_alone() {
        let (mut house, mut launcher) = House::running(patient()).await;
        house.take_in(Event::Detach).await;
        assert!(house.supervisor.is_over());
        assert!(!house.supervisor.run(house.inbox).await.unwrap(), "it has stopped nobody");
        settle().await;
        assert!(launcher.lives());
        assert_eq!(launcher.heard().await, ["closed"]);
        assert_eq!(house.fakes.containment.calls.count("kill"), 0);
        assert_eq!(house.fakes.sessions.calls.count("close"), 0);
    }
}

mod visitors {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn claims_without_an_attempt_are_logged_at_powers_of_two() {
        let journal = Journal::of_this_thread();
        let (mut house, mut launcher) = (House::new(), FakeLauncher::start());
        for _ in 0..9 {
            house.report(&mut launcher, Progress::New).await;
            assert_eq!(launcher.heard().await, ["unwanted", "closed"]);
        }
        let line = "an attempt that is not pending";
        assert_eq!(journal.count(line), 4);
        for count in [1, 2, 4, 8] {
            assert_eq!(journal.count(&format!("({count} such claims so far)")), 1, "{count}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_survivor_whose_agent_is_not_known_yet_may_come_again() {
        let (mut house, mut launcher) = (House::new(), FakeLauncher::start());
        house.report(&mut launcher, Progress::Running(harness())).await;
        assert_eq!(launcher.heard().await, ["closed"]);
        assert!(launcher.lives());
    }

    #[rstest]
    #[case::another_attempt("a", 7)]
    #[case::another_case("A", 1)]
    #[tokio::test(start_paused = true)]
    async fn a_launcher_reaches_its_agent_with(#[case] name: &str, #[case] attempt: u64) {
        let (mut house, mut launcher) = (House::new(), FakeLauncher::start());
        house.fakes.sessions.open.set(Ok(launcher.pid()));
        house.declare(&[agent("a", "a", patient())]).await;
        let visitor = UnverifiedLauncher { attempt, ..launcher.report(name, Progress::New) };
        house.take_in(Event::Visitor { user: None, visitor }).await;
        assert_eq!(launcher.heard().await, ["launch"]);
    }
}

mod users {
    use super::*;
    use crate::agent::user::AgentUser;

    fn other() -> AgentUser {
        AgentUser { name: "b".parse().unwrap(), uid: 47_000 }
    }

    /// Agent `a` as that user.
    fn agent_as(user: &AgentUser) -> DesiredAgent {
        named_as("a", user)
    }

    /// An agent as that user.
    fn named_as(name: &str, user: &AgentUser) -> DesiredAgent {
        let DesiredAgent { name, harness, mut declaration, .. } = agent(name, name, patient());
        if let Ok(declaration) = &mut declaration {
            let launch = declaration.launch.as_ref().map(|launch| Launch::clone(launch)).unwrap();
            // As the fingerprint of a launch has the user in it.
            let fingerprint = Fingerprint::of(user.name.as_str());
            declaration.launch = Ok(Arc::new(Launch { user: Some(user.clone()), fingerprint, ..launch }));
        }
        DesiredAgent { name, harness, user: Some(user.name.clone()), declaration }
    }

    /// A house in which that user has a seat of its own.
    fn house() -> (House, Fakes) {
        let (house, fakes) = (House::new(), Fakes::default());
        house.supervisor.resources.seats.add(other(), fakes.seat("b"));
        (house, fakes)
    }

    #[tokio::test(start_paused = true)]
    async fn have_sessions_on_their_own_servers_only() {
        let (mut house, fakes) = house();
        house.declare(&[agent_as(&other())]).await;
        assert_eq!(fakes.sessions.calls.count("open a"), 1);
        assert_eq!(house.fakes.sessions.calls.count(""), 0);
        assert_eq!(house.snapshot.borrow().user_of(&key("a")), Some(&other()));
        assert_eq!(house.snapshot.borrow().agent(&key("a")).unwrap().user.as_deref(), Some("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn are_not_taken_for_launchers_of_each_others_agents() {
        let (mut house, fakes) = house();
        let (mut launcher, mut imposter) = (FakeLauncher::start(), FakeLauncher::start());
        fakes.sessions.open.set(Ok(launcher.pid()));
        house.declare(&[agent_as(&other())]).await;
        for user in [None, Some(AgentUser { uid: 1, ..other() })] {
            // Even the very process that is expected, at another user's socket.
            for who in [&mut launcher, &mut imposter] {
                let visitor = who.report("a", Progress::New);
                house.take_in(Event::Visitor { user: user.clone(), visitor }).await;
                assert_eq!(who.heard().await, ["unwanted", "closed"]);
            }
        }
        let visitor = launcher.report("a", Progress::New);
        house.take_in(Event::Visitor { user: Some(other()), visitor }).await;
        assert_eq!(launcher.heard().await, ["launch"]);
    }

    #[tokio::test(start_paused = true)]
    async fn cannot_pass_off_a_session_as_another_users_agent() {
        let (mut house, fakes) = house();
        let found = |user| Event::Sessions { user, owners: [key("a")].into() };
        house.take_in(found(Some(other()))).await;
        assert_eq!(house.state("a"), None, "whose it can be is not known yet");
        house.declare(&[agent("a", "a", patient())]).await;
        house.take_in(found(Some(other()))).await;
        assert_eq!(house.fakes.sessions.calls.count("open a"), 1, "it is launched as its own user");
        assert_eq!(fakes.sessions.calls.count(""), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn have_sessions_of_nobodys_agents_closed() {
        let (mut house, fakes) = house();
        house.take_in(Event::Sessions { user: Some(other()), owners: [key("a")].into() }).await;
        house.declare(&[]).await;
        house.settle().await;
        assert_eq!((fakes.sessions.calls.count("close a"), house.state("a")), (1, None));
        assert_eq!(house.fakes.sessions.calls.count(""), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_were_deleted_keep_no_agent() {
        let (mut house, fakes) = house();
        house.declare(&[named_as("a", &other()), named_as("c", &other())]).await;
        assert_eq!(fakes.sessions.calls.count("open "), 2);
        fakes.sessions.close.set(Err(Trouble::Words("there is no user b")));
        house.declare(&[named_as("a", &other())]).await;
        assert_eq!(house.state("c"), Some(State::Stopping), "it is not known that there is no such user");
        fakes.sessions.is_orphaned.store(true, Ordering::Relaxed);
        // The agent's clock is not that of the tests.
        std::thread::sleep(Duration::from_millis(1100));
        house.take_in(Event::Groups).await;
        assert_eq!((house.state("c"), fakes.sessions.calls.count("end_orphan")), (None, 0), "the other one goes on");
        let closes = fakes.sessions.calls.count("close ");
        house.declare(&[agent("a", "a", patient())]).await;
        assert_eq!(fakes.sessions.calls.count("end_orphan"), 1);
        assert_eq!(house.fakes.sessions.calls.count("open a"), 1, "it is launched as its new user");
        assert_eq!(fakes.sessions.calls.count("close "), closes + 1, "once");
    }

    #[tokio::test(start_paused = true)]
    async fn have_sessions_that_wait_until_every_entry_is_known() {
        let (mut house, fakes) = house();
        house.take_in(Event::Desired(Desired { complete: false, ..Desired::default() })).await;
        house.take_in(Event::Sessions { user: Some(other()), owners: [key("a")].into() }).await;
        house.take_in(Event::Desired(Desired { complete: false, ..Desired::default() })).await;
        assert_eq!((fakes.sessions.calls.count("close a"), house.state("a")), (0, None));
        house.declare(&[]).await;
        house.settle().await;
        assert_eq!((fakes.sessions.calls.count("close a"), house.state("a")), (1, None));
    }

    #[tokio::test(start_paused = true)]
    async fn who_have_become_unfit_get_no_further_attempt() {
        let (mut house, fakes) = house();
        let mut launcher = FakeLauncher::start();
        fakes.sessions.open.set(Ok(launcher.pid()));
        let mut restarting = agent_as(&other());
        let policy = &mut restarting.declaration.as_mut().unwrap().policy;
        (policy.restart, policy.backoff) = (Restart::Always, vec![Duration::ZERO]);
        house.declare(std::slice::from_ref(&restarting)).await;
        let visitor = launcher.report("a", Progress::New);
        house.take_in(Event::Visitor { user: Some(other()), visitor }).await;
        house.say(&mut launcher, FromLauncher::Started(harness())).await;
        assert_eq!(house.state("a"), Some(State::Running));
        let refused = DesiredAgent { declaration: Err("b is in group admin".to_owned()), ..restarting.clone() };
        let agents = [(key("a"), refused)].into();
        let unfit = Arc::new([(other().name, "b is in group admin".to_owned())].into());
        house.take_in(Event::Desired(Desired { agents, complete: true, unfit, ..Desired::default() })).await;
        assert_eq!(house.state("a"), Some(State::Running), "what runs goes on");
        house.say(&mut launcher, FromLauncher::Ended(end(Ending::Code(1)))).await;
        house.die(&mut launcher).await;
        let status = house.snapshot.borrow().agent(&key("a")).unwrap().clone();
        assert_eq!((status.state, fakes.sessions.calls.count("open a")), (State::Waiting, 1), "{status:?}");
        assert_eq!(status.reason.as_deref(), Some("b is in group admin"));
        house.declare(&[restarting]).await;
        assert_eq!(fakes.sessions.calls.count("open a"), 2, "it may be launched again");
    }

    #[tokio::test(start_paused = true)]
    async fn may_have_sessions_of_the_same_name() {
        let (mut house, fakes) = house();
        let mut second = agent("c", "a", patient());
        second.name = "c".parse().unwrap();
        house.declare(&[agent_as(&other()), second]).await;
        assert_eq!(fakes.sessions.calls.count("open a a"), 1);
        assert_eq!(house.fakes.sessions.calls.count("open c a"), 1);
    }
}

mod the_next_daemon {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn takes_a_harness_to_end_with_any_status() {
        let (house, mut launcher) = House::running(patient()).await;
        launcher.die().await;
        let nothing_started = i32::from(launch_command::NOTHING_STARTED);
        let panes = vec![dead_pane(launcher.pid(), Some(nothing_started))];
        let house = house.next(|fakes| fakes.sessions.panes.set(Ok(panes))).await;
        assert_eq!(house.state("a"), Some(State::Exited));
        let how = house.snapshot.borrow().agent(&key("a")).unwrap().exit.as_ref().unwrap().how.clone();
        assert_eq!(how, ExitStatus::Code(nothing_started));
        assert_eq!(house.fakes.sessions.calls.count("open"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_take_a_former_end_for_that_of_an_attempt_cut_off() {
        let mut house = House::new();
        house.fakes.sessions.open.hang();
        house.declare(&[agent("a", "a", patient())]).await;
        let panes = vec![dead_pane(fakes::ENDED_PID, Some(0))];
        let mut house = house.next(|fakes| fakes.sessions.panes.set(Ok(panes))).await;
        assert_eq!(house.snapshot.borrow().agent(&key("a")).unwrap().exit, None);
        house.declare(&[agent("a", "a", patient())]).await;
        assert_eq!(house.state("a"), Some(State::Starting));
        assert_eq!(house.fakes.sessions.calls.count("open a a /bin/launcher a 2"), 1);
        // It is the same attempt for everybody else.
        assert_eq!(house.snapshot.borrow().agent(&key("a")).unwrap().attempt, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn follows_what_runs_where_the_record_is_behind() {
        let (house, mut former) = House::running(patient()).await;
        former.die().await;
        let mut launcher = FakeLauncher::start();
        let panes = vec![launcher.pane()];
        let prepare = |fakes: &Fakes| {
            fakes.sessions.panes.set(Ok(panes));
            *fakes.containment.whose.lock().unwrap() = Groups::Of(Whose::Its);
        };
        let mut house = house.next(prepare).await;
        let harness = Harness { pid: fakes::ENDED_PID - 1, ..harness() };
        house.report(&mut launcher, Progress::Running(harness)).await;
        assert_eq!(house.state("a"), Some(State::Running));
        assert_eq!(house.snapshot.borrow().agent(&key("a")).unwrap().pid, Some(harness.pid));
        assert!(launcher.lives());
    }
}

mod what_was_found {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_session_without_a_declaration_is_closed_when_all_was_read() {
        let mut house = House::new();
        house.take_in(Event::Sessions { user: None, owners: [key("a")].into() }).await;
        house.declare(&[]).await;
        house.settle().await;
        assert_eq!(house.fakes.sessions.calls.count("close a"), 1);
        assert_eq!(house.state("a"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_incomplete_declaration_removes_nobody() {
        let (mut house, mut launcher) = House::running(patient()).await;
        house.take_in(Event::Desired(Desired { complete: false, ..Desired::default() })).await;
        assert!(launcher.heard().await.is_empty());
        assert_eq!(house.state("a"), Some(State::Running));
    }

    #[tokio::test(start_paused = true)]
    async fn a_screen_that_cannot_be_shown_changes_nothing() {
        let journal = Journal::of_this_thread();
        let (mut house, mut launcher) = House::running(patient()).await;
        house.supervisor.detail = Detail::Debug;
        house.fakes.sessions.screen.set(Err(Trouble::Words("the agent has no pane")));
        house.say(&mut launcher, FromLauncher::Ended(end(Ending::Code(0)))).await;
        assert_eq!(house.fakes.sessions.calls.count("screen a"), 1);
        until("it is logged", || journal.count("the agent has no pane") == 1).await;
        house.settle().await;
        assert_eq!(house.state("a"), Some(State::Exited));
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_has_ended_for_good_offers_a_shell() {
        let (mut house, mut launcher) = House::running(patient()).await;
        house.say(&mut launcher, FromLauncher::Ended(end(Ending::Code(0)))).await;
        assert_eq!(house.fakes.sessions.calls.count("offer_shell a"), 1);
    }
}
