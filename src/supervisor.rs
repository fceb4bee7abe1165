//! The one loop that owns all agents: event → step → effects → snapshot.
//!
//! The supervisor is the only writer of agent state, and blocks on nothing but the next event or timer. Effects run in tasks of their
//! own and come back as events, tagged with the attempt they belong to.
//!
//! Every change is put on [record](crate::state::record) before it is published, so a restarted daemon never contradicts what clients
//! were told. A launcher, which remembers its exit too, is released only once that exit has been recorded.

pub mod attempt;
pub mod containment;
pub mod future;
mod holds;
pub mod log_files;
mod operators;
pub mod pacing;
mod publisher;
pub mod resources;
mod rotation;
mod screens;
pub mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::Interval;

use publisher::{Untold, log_approval, log_change};

use crate::agent::approval::Word;
use crate::agent::conversation::{Plan, SessionId};
use crate::agent::declaration::{Desired, DesiredAgent};
use crate::agent::hold::Holds;
use crate::agent::launch::Launch;
use crate::agent::machine::{self, Attempt, Effect, LaunchReason, Machine, Removal};
use crate::agent::name::{Key, Name};
use crate::agent::reconcile::{Action, Held, HeldAgent, InForce, Wanted, plan};
use crate::agent::spec::Limits;
use crate::agent::user::{AgentUser, UserName};
use crate::launch::listener::UnverifiedLauncher;
use crate::launch::protocol::Progress;
use crate::observe::facts::{Facts, Restarts};
use crate::observe::redactions::{AgentRedactor, Redactions, Redactors, prepared};
use crate::observe::ring::Ring;
use crate::observe::snapshot::Snapshot;
use crate::state::conversations::Conversations;
use crate::state::history::Histories;
use crate::state::record::{Recorder, Report, Version};
use crate::sys::clock::{Alarm, Timestamp};
use crate::sys::log::Detail;
use crate::sys::random;
use crate::sys::rate_limit::Brake;
use crate::sys::systemd::Notifier;
use crate::text::screen;
use crate::wire::activity::Doing;
use crate::wire::events::{self, Change, What};
use crate::wire::reason;
use crate::wire::status::{AgentStatus, Errors, PendingRotation, State};

use crate::supervisor::attempt::{Brakes, Command, Start};
use crate::supervisor::resources::{Resources, Seat};

/// An event that the supervisor reacts to.
#[derive(Debug)]
pub enum Event {
    /// The desired state has changed.
    Desired(Desired),
    /// An operator ends a hold.
    Release {
        /// The group, or an agent of it.
        name: String,
        /// Who.
        by: String,
    },
    /// What logs a user in has changed; `None` is the default user.
    Login(Option<UserName>),
    /// All inputs were read: at startup, or because a reload was requested.
    Read,
    /// A process reports at the launch socket of a user, as whom it runs.
    Visitor {
        /// Whose; `None` is the default user.
        user: Option<AgentUser>,
        /// The process.
        visitor: UnverifiedLauncher,
    },
    /// Something happened to an agent.
    Agent {
        /// Its key.
        key: Key,
        /// What.
        event: machine::Event,
    },
    /// An operator answers what an agent has asked.
    Answer {
        /// The id of the question.
        id: String,
        /// What is answered.
        word: Word,
    },
    /// Sessions existed before any was opened, according to the tmux server of a user.
    Sessions {
        /// Whose; `None` is the default user.
        user: Option<AgentUser>,
        /// Of these agents.
        owners: BTreeSet<Key>,
    },
    /// Control groups have become available, or unavailable.
    Groups,
    /// A write to the record has succeeded or failed.
    Recorded(Report),
    /// Stop all agents, then the supervisor.
    Stop,
    /// Leave all agents to the next daemon.
    Detach,
}

/// The outputs of the supervisor.
#[derive(Debug)]
pub struct Outlets {
    /// Receives the results of effects: the other end of the inbox of [`Supervisor::run`].
    pub events: mpsc::UnboundedSender<Event>,
    /// The state that the API serves.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// The events that the API streams.
    pub happenings: watch::Sender<Ring>,
    /// The record that the next daemon reads.
    pub recorder: Recorder<Key>,
    /// The results of earlier attempts.
    pub histories: Histories,
    /// The conversations that outlive a boot.
    pub conversations: Conversations,
    /// Notifications to systemd.
    pub notifier: Notifier,
}

/// The loop's state.
#[derive(Debug)]
pub struct Supervisor {
    agents: BTreeMap<Key, Agent>,
    desired: Desired,
    /// Which credentials do not work.
    holds: Holds,
    /// Sessions that were found, of agents of which it is not known yet whether they can be of that user: before the first reading of
    /// the inputs, and of nobody's agents as long as not every entry is known.
    found: Vec<(Option<AgentUser>, BTreeSet<Key>)>,
    /// Whether what is desired was read at least once.
    knows_desired: bool,
    /// What attempts wait to hear once it is on record.
    to_note: Vec<Note>,
    /// The latest version that was put on record.
    version: Version,
    /// The latest version that the recorder has tried to write.
    recorded: Version,
    /// Published as soon as it is on record.
    untold: Option<Untold>,
    /// What happened since that was made.
    happened: Vec<What>,
    /// What stood in the way of the daemon when that was made.
    errors: Errors,
    /// All inputs were read; systemd is notified once the API serves the result.
    is_read: bool,
    /// All inputs were read at least once.
    has_read: bool,
    /// What was wrong with the state directory at the start.
    state_errors: Vec<String>,
    /// Why the latest write to the record failed.
    record_error: Option<String>,
    course: Course,
    afterwards: Afterwards,
    /// Limits log lines about visitors that name no pending attempt.
    strangers: Brake,
    default_user: Arc<str>,
    resources: Arc<Resources>,
    detail: Detail,
    started: Instant,
    facts: Facts,
    outlets: Outlets,
    redactors: Redactors,
    /// When time alone changes whose turn it is to have new secrets.
    roll_due: Option<Timestamp>,
    /// What must not be shown; `None` once the secrets have changed.
    redactions: Option<Arc<Redactions>>,
}

/// A command to an attempt that waits for the record.
#[derive(Debug)]
struct Note {
    /// What must be on record first.
    version: Version,
    key: Key,
    attempt: Attempt,
    command: Command,
}

/// Where the daemon is heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Running,
    Stopping,
    Detaching,
}

/// Work to do once after a batch of events, however many of them call for it.
#[derive(Debug, Default)]
struct Afterwards {
    /// An agent has gone; it may be declared again.
    reconcile: bool,
    /// An agent has closed its session; somebody may wait for it.
    call_up: bool,
    /// Something has changed that the API does not serve yet.
    publish: bool,
}

/// One agent, and what is under way for it.
#[derive(Debug)]
struct Agent {
    machine: Machine,
    /// The reading of the jcard that it was last brought in line with.
    config_generation: Option<u64>,
    /// `None` if an earlier daemon knew it.
    desired: Option<DesiredAgent>,
    /// The one attempt that is not gone, if there is one: the machine starts none before.
    under_way: Option<UnderWay>,
    /// Whether this daemon has opened its pane yet: an earlier one may have left something in it.
    is_known: bool,
    /// Whether an event about it was published.
    is_told: bool,
    /// The name of the default user.
    default_user: Arc<str>,
    /// Whether nothing was launched by an earlier daemon with secrets that are not known here.
    knows_past: bool,
    restarts: Restarts,
    /// Why the latest attempt was launched, until it is known to count.
    uncounted: Option<LaunchReason>,
    brakes: Arc<Brakes>,
    /// The latest attempt that said that it must be logged in while it lived.
    logged_out: Option<Attempt>,
    /// New secrets that it does not have yet.
    rotation: Option<PendingRotation>,
    /// Of these launches.
    redactor: Option<(Vec<Weak<Launch>>, AgentRedactor)>,
}

/// An attempt that is not gone.
#[derive(Debug)]
struct UnderWay {
    attempt: Attempt,
    /// Whom it runs as; `None` is the default user.
    user: Option<AgentUser>,
    commands: mpsc::UnboundedSender<Command>,
    /// `None` if an earlier daemon has launched it.
    launch: Option<Arc<Launch>>,
    /// Whether that is what runs: before it has started, something that an earlier daemon launched may be in its place.
    is_certain: bool,
}

impl UnderWay {
    /// What runs, if this daemon has launched it.
    fn known(&self) -> Option<&Arc<Launch>> {
        self.launch.as_ref().filter(|_| self.is_certain)
    }

    /// Updates what is known from an event.
    fn learn(&mut self, event: &machine::Event) {
        match event {
            // What runs may be something else than what is desired, with other secrets, whatever its launcher says of that.
            machine::Event::Found { .. } => self.launch = None,
            machine::Event::Started { .. } => self.is_certain = true,
            _ => {}
        }
    }
}

/// Why nothing can be done for a user. Seats are made in advance, so nobody should see it.
const NO_SEAT: &str = "agentd has not prepared anything for its user yet";

/// How long cleanup may take after the last agent's deadline.
const CLEAR_TIMEOUT: Duration = Duration::from_secs(30);

/// How many events are taken in before what they changed is published.
const BATCH: usize = 256;

impl Supervisor {
    /// Holds no agent yet. `state_errors` is what was wrong with the state directory at the start.
    pub fn new(
        resources: Resources,
        outlets: Outlets,
        detail: Detail,
        started: Instant,
        state_errors: Vec<String>,
    ) -> Self {
        Self {
            agents: BTreeMap::new(),
            desired: Desired::default(),
            holds: Holds::default(),
            found: Vec::new(),
            knows_desired: false,
            to_note: Vec::new(),
            version: 0,
            recorded: 0,
            untold: None,
            happened: vec![of_daemon(events::Course::Started)],
            errors: Errors::default(),
            is_read: false,
            has_read: false,
            state_errors,
            record_error: None,
            course: Course::Running,
            afterwards: Afterwards { publish: true, ..Afterwards::default() },
            strangers: Brake::new(),
            default_user: resources.seats.default_seat().user_name.as_str().into(),
            resources: Arc::new(resources),
            detail,
            started,
            facts: Facts::new(SystemTime::now() - started.elapsed()),
            outlets,
            redactors: Redactors::default(),
            roll_due: None,
            redactions: None,
        }
    }

    /// Takes over what an earlier daemon had in progress. Must be called once, first.
    pub fn resume(&mut self, machines: BTreeMap<Key, Machine>) {
        for (key, mut machine) in machines {
            machine.count_from(self.outlets.histories.attempts(&key));
            self.take_up(&key, machine);
        }
        let lives = |key: &Key| self.agents.get(key).is_some_and(|agent| agent.machine.may_be_active());
        self.holds.keep_canaries(lives, Timestamp::now());
        self.afterwards.call_up = true;
        self.publish();
    }

    fn take_up(&mut self, key: &Key, machine: Machine) {
        let knows_past = !machine.was_launched();
        if let Some(hold) = machine.hold() {
            self.holds.restore(hold);
        }
        let mut agent = Agent { is_told: true, knows_past, ..Agent::new(machine, Arc::clone(&self.default_user)) };
        let status = agent.status();
        tracing::info!(agent = status.name, user = status.user, state = %status.state, attempt = status.attempt_shown(), pid = status.pid, "taken up");
        let effects = agent.machine.resume();
        self.happened.push(What::Adopted { name: status.name.clone(), agent: Box::new(status) });
        self.agents.insert(key.clone(), agent);
        for effect in effects {
            self.carry_out(key, effect);
        }
        self.afterwards.publish = true;
    }

    /// Runs until a stop has ended every agent, or until a detach. Returns whether the agents were stopped.
    pub async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Event>) -> io::Result<bool> {
        const TO_FINISH: Duration = Duration::from_secs(2);
        let mut alarm = Alarm::new()?;
        let mut batch = Vec::with_capacity(BATCH);
        let mut watchdog = self.outlets.notifier.watchdog().map(tokio::time::interval);
        while !self.is_over() {
            let due = self.agents.values().filter_map(|agent| agent.machine.due());
            let by = self.untold.as_ref().map(|untold| untold.by);
            let holds = self.holds.due();
            alarm.set(due.chain(by).chain(self.roll_due).chain(holds).min())?;
            // Both arms only wait, so that whichever is cancelled has lost nothing.
            tokio::select! {
                received = inbox.recv_many(&mut batch, BATCH) => if received == 0 { break },
                () = alarm.ring() => {}
                () = tick(&mut watchdog) => {
                    self.outlets.notifier.alive();
                    continue;
                }
            }
            self.take_in(batch.drain(..));
        }
        let untold = self.untold.take().into_iter().flat_map(|untold| untold.happened);
        let happened = untold.chain(std::mem::take(&mut self.happened)).collect();
        let snapshot = Arc::new(self.snapshot());
        self.tell(snapshot, happened);
        tokio::join!(
            self.outlets.recorder.finish(TO_FINISH),
            self.outlets.histories.finish(TO_FINISH),
            self.outlets.conversations.finish(TO_FINISH)
        );
        Ok(self.course == Course::Stopping)
    }

    /// Handles events and expired timers, and publishes the result.
    fn take_in(&mut self, events: impl Iterator<Item = Event>) {
        events.for_each(|event| self.handle(event));
        self.time_passed();
        if std::mem::take(&mut self.afterwards.reconcile) {
            self.reconcile();
        }
        if std::mem::take(&mut self.afterwards.call_up) {
            self.call_up();
        }
        self.holds.time_passed(Timestamp::now());
        self.roll();
        self.review_holds();
        self.publish();
    }

    fn is_over(&self) -> bool {
        match self.course {
            Course::Running => false,
            Course::Stopping => self.agents.is_empty(),
            Course::Detaching => true,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Desired(desired) => {
                self.log_pause(&desired);
                self.desired = desired;
                self.redactions = None;
                self.afterwards.publish = true;
                self.knows_desired = true;
                for (user, owners) in std::mem::take(&mut self.found) {
                    self.find_all(user, owners);
                }
                self.reconcile();
            }
            Event::Groups => self.afterwards.publish = true,
            Event::Release { name, by } => self.release(&name, &by),
            Event::Login(user) => self.login_changed(user.as_ref()),
            Event::Read => {
                (self.afterwards.publish, self.is_read, self.has_read) = (true, true, true);
                self.look_again();
                self.holds.logins_changed(Timestamp::now());
            }
            Event::Visitor { user, visitor } => self.direct(user.as_ref(), visitor),
            Event::Agent { key, event } => {
                let mut agent = self.agents.get_mut(&key);
                if let Some(agent) = &mut agent {
                    agent.count(&event);
                }
                let event = self.of_another(&key, event);
                let agent = self.agents.get_mut(&key);
                let mut to_note = None;
                match event {
                    machine::Event::Ended { attempt, .. } => {
                        to_note = Some((attempt, Command::EndNoted));
                        let under_way = agent.and_then(|agent| agent.under_way(attempt));
                        if let Some(launch) = under_way.and_then(UnderWay::known).cloned() {
                            self.log_screen(launch);
                        }
                    }
                    machine::Event::NotStarted { attempt, .. } => to_note = Some((attempt, Command::EndNoted)),
                    machine::Event::Met { attempt, .. } => to_note = Some((attempt, Command::MetNoted)),
                    machine::Event::Gone { attempt } => {
                        agent.map(|agent| agent.under_way.take_if(|under_way| under_way.attempt == attempt));
                    }
                    machine::Event::Opened { .. } => {
                        if let Some(agent) = agent {
                            agent.is_known = true;
                        }
                    }
                    machine::Event::Found { attempt, ref fingerprint } => {
                        if let Some(agent) = agent {
                            agent.learn(attempt, &event);
                            if fingerprint.is_some() {
                                agent.desired = None;
                            }
                            agent.knows_past = false;
                        }
                        self.afterwards.reconcile = true;
                        self.afterwards.publish = true;
                    }
                    machine::Event::Started { attempt, .. } => {
                        if let Some(agent) = agent {
                            agent.learn(attempt, &event);
                        }
                    }
                    _ => {}
                }
                if let machine::Event::Gone { attempt: gone } = event {
                    // Nobody is left to hear it.
                    self.to_note.retain(|note| (&note.key, note.attempt) != (&key, gone));
                }
                self.step(&key, event);
                let version = self.version;
                self.to_note.extend(to_note.map(|(attempt, command)| Note { version, key, attempt, command }));
            }
            Event::Answer { id, word } => {
                let asks = |agent: &Agent| agent.machine.approvals().pending().any(|approval| approval.id == id);
                let asker = self.agents.iter().find(|(_, agent)| asks(agent)).map(|(key, _)| key.clone());
                if let Some(key) = asker {
                    self.step(&key, machine::Event::Answered { id, word });
                }
            }
            Event::Sessions { user, owners } => self.find_all(user, owners),
            Event::Recorded(Report { tried, error }) => self.recorded(tried, error),
            Event::Detach => {
                self.course = Course::Detaching;
                self.happened.push(of_daemon(events::Course::Detaching));
            }
            Event::Stop => {
                self.course = Course::Stopping;
                self.resources.seats.all().iter().for_each(|seat| seat.sessions.hurry());
                self.happened.push(of_daemon(events::Course::Stopping));
                self.afterwards.publish = true;
                for key in self.agents.keys().cloned().collect::<Vec<_>>() {
                    self.step(&key, machine::Event::Remove(Removal::Shutdown));
                }
            }
        }
    }

    /// What it is if a harness tells of a conversation that another agent of the same user has: two must not be in one.
    fn of_another(&self, key: &Key, event: machine::Event) -> machine::Event {
        let machine::Event::Conversation { attempt, id } = event else { return event };
        let user = self.agents.get(key).and_then(|agent| agent.machine.user());
        let mut others = self.agents.iter().filter(|(other, _)| *other != key).map(|(_, agent)| &agent.machine);
        match others.find(|other| other.user() == user && other.conversation() == Some(&id)) {
            Some(other) => machine::Event::Foreign { attempt, id, holder: other.name().clone() },
            None => machine::Event::Conversation { attempt, id },
        }
    }

    /// Looks for programs that were not found: somebody has asked to look at everything.
    fn look_again(&mut self) {
        let lacking = self.agents.iter().filter(|(_, agent)| agent.machine.lacks_program());
        for key in lacking.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.step(&key, machine::Event::LookAgain);
        }
    }

    /// The tmux server of this user has sessions of these agents that were there before any was opened.
    fn find_all(&mut self, user: Option<AgentUser>, owners: BTreeSet<Key>) {
        let mut undecided = BTreeSet::new();
        for key in owners {
            match self.may_be_of(user.as_ref(), &key) {
                Some(true) => self.find(user.as_ref(), &key),
                Some(false) => {}
                None => _ = undecided.insert(key),
            }
        }
        if !undecided.is_empty() {
            self.found.push((user, undecided));
        }
    }

    /// Whether the tmux server of this user can have a session of this agent; `None` if that is not known yet. Users say what they like
    /// about sessions on their own servers, and must not be able to pass something off as another user's agent.
    fn may_be_of(&self, user: Option<&AgentUser>, key: &Key) -> Option<bool> {
        let name = user.map(|user| &user.name);
        match self.desired.agents.get(key) {
            _ if !self.knows_desired => None,
            Some(agent) => Some(agent.user.as_ref() == name),
            // Nobody's agent, or one that an earlier daemon ran and that is to be stopped.
            None => (user.is_none() || self.desired.complete).then_some(true),
        }
    }

    /// There is a session of this agent that was there before any was opened.
    fn find(&mut self, user: Option<&AgentUser>, key: &Key) {
        // What was launched is known, or is found by the launch.
        if self.course == Course::Running && self.agents.get(key).is_none_or(|agent| !agent.machine.was_launched()) {
            let mut machine = Machine::found(key.to_name(), user.cloned(), Timestamp::now());
            // It is one more than those that are over.
            machine.count_from(self.outlets.histories.attempts(key).saturating_add(1));
            if let Some(conversation) = self.outlets.conversations.of(key) {
                machine.remember(conversation.clone());
            }
            self.take_up(key, machine);
            self.afterwards.reconcile = true;
        }
    }

    /// Brings the machines in line with what is desired.
    fn reconcile(&mut self) {
        if self.course != Course::Running {
            return;
        }
        let from = Instant::now();
        // Before anything is launched.
        self.count_groups();
        self.hand_on_orders();
        // Before anything is launched, and lifted once everything is as it is declared now.
        self.bar(false);
        let staying = self.agents.iter().filter(|(_, agent)| !agent.machine.is_leaving());
        let held: Held = staying.map(|(key, agent)| (key.clone(), agent.held())).collect();
        for action in plan(&self.desired, &held) {
            match action {
                Action::Declare(Wanted { name, harness, declaration }) => {
                    self.desire(name, harness.as_deref(), machine::Event::Declare(declaration));
                }
                Action::Update(Wanted { name, harness, declaration }) => {
                    self.desire(name, harness.as_deref(), machine::Event::Update(declaration));
                }
                Action::Reject { name, harness, error } => {
                    // An agent that is still leaving is rejected when it has left.
                    if self.agents.get(&name.key()).is_none_or(|agent| !agent.machine.is_leaving()) {
                        self.desire(name, harness.as_deref(), machine::Event::Reject(error));
                    }
                }
                Action::Remove(key) => {
                    if let Some(agent) = self.agents.get(&key) {
                        let name = agent.machine.name().to_string();
                        self.happened.push(What::Declaration {
                            name,
                            change: Change::Removed,
                            changed: reason::Changes::default(),
                        });
                    }
                    self.step(&key, machine::Event::Remove(Removal::Undeclared));
                }
            }
        }
        self.bar(true);
        if self.desired.complete {
            let (conversations, desired, agents) = (&mut self.outlets.conversations, &self.desired, &self.agents);
            conversations.retain(|key| desired.agents.contains_key(key) || agents.contains_key(key));
        }
        for (_, agent) in self.agents.iter_mut().filter(|(_, agent)| !agent.machine.is_leaving()) {
            agent.note_generation(&self.desired);
        }
        self.facts.reconcile.observe(from.elapsed().as_secs_f64());
    }

    fn desire(&mut self, name: Name, harness: Option<&str>, event: machine::Event) {
        let key = name.key();
        let known = self.agents.get(&key);
        let changed = match &event {
            machine::Event::Declare(declaration) | machine::Event::Update(declaration) => {
                known.map(|agent| agent.machine.changes_to(declaration)).unwrap_or_default()
            }
            _ => reason::Changes::default(),
        };
        let change = match known {
            None => Some(Change::Added),
            // What an earlier daemon knew may be what it is now.
            Some(agent) => (agent.desired.is_some() || !changed.is_empty()).then_some(Change::Changed),
        };
        if !changed.is_empty() {
            let goes_on = if matches!(event, machine::Event::Update(_)) { "; what runs goes on" } else { "" };
            tracing::info!(agent = %name, "{changed}{goes_on}");
        }
        self.happened.extend(change.map(|change| What::Declaration { name: name.to_string(), change, changed }));
        let (earlier, default_user) = (self.outlets.histories.attempts(&key), Arc::clone(&self.default_user));
        let kept = self.outlets.conversations.of(&key).cloned();
        let agent = self.agents.entry(key.clone()).or_insert_with(|| {
            let mut machine = Machine::new(name.clone());
            machine.count_from(earlier);
            if let Some(conversation) = kept {
                machine.remember(conversation);
            }
            Agent::new(machine, default_user)
        });
        agent.machine.describe(name, harness, self.desired.agents.get(&key).and_then(|agent| agent.user.clone()));
        // Before it is declared, so that nothing starts that must not.
        self.hand_on(&key);
        let Some(agent) = self.agents.get_mut(&key) else { return };
        agent.desired = self.desired.agents.get(&key).cloned();
        agent.note_generation(&self.desired);
        let restored = agent.machine.in_force().filter(InForce::is_restored);
        self.step(&key, event);
        // What an earlier daemon launched is known if it is what is desired now, secrets and all.
        if let Some(agent) = self.agents.get_mut(&key)
            && let Some(launch) = agent.machine.launch()
            && restored.is_some_and(|launched| launched.fingerprint() == Some(&launch.fingerprint))
        {
            agent.knows_past = true;
            let latest = agent.machine.latest_attempt();
            if let Some(under_way) = agent.under_way.as_mut().filter(|under_way| under_way.attempt == latest) {
                under_way.launch.get_or_insert_with(|| Arc::clone(launch));
            }
        }
    }

    /// Hands a visitor to the attempt that is under way. It need not be the one that it names: an earlier daemon may have counted
    /// otherwise. Which process is expected is known there.
    ///
    /// A user's process cannot be the launcher of another user's agent.
    fn direct(&mut self, user: Option<&AgentUser>, visitor: UnverifiedLauncher) {
        let key = visitor.name.parse::<Key>().ok();
        let agent = key.and_then(|key| self.agents.get(&key));
        let under_way = agent.and_then(|agent| agent.under_way.as_ref());
        if let Some(under_way) = under_way.filter(|under_way| under_way.user.as_ref() == user) {
            // Fails only if the attempt is over by now; the visitor is sent away by being dropped.
            let _ = under_way.commands.send(Command::Visitor(Box::new(visitor)));
            return;
        }
        if visitor.progress != Progress::New {
            // Of an agent that is yet to be taken up: it comes again.
            return;
        }
        // Agents can come here, and must not be able to fill the log.
        if let Some(count) = self.strangers.pass() {
            let pid = visitor.process.pid();
            tracing::warn!(
                "process {pid} claims to be the launcher of an attempt that is not pending ({count} such claims so far)"
            );
        }
        visitor.send_away();
    }

    fn time_passed(&mut self) {
        let now = Timestamp::now();
        let due = self.agents.iter().filter(|(_, agent)| agent.machine.due().is_some_and(|due| due <= now));
        for key in due.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.step(&key, machine::Event::Due);
        }
    }

    fn step(&mut self, key: &Key, event: machine::Event) {
        let event = match event {
            // Nobody comes after to try again.
            machine::Event::Closed(Err(error)) if self.course == Course::Stopping => {
                tracing::error!(agent = key.as_str(), "{error}");
                machine::Event::Closed(Ok(()))
            }
            event => event,
        };
        self.afterwards.call_up |= matches!(event, machine::Event::Closed(Ok(())));
        let event = self.weigh(key, event);
        let Some(agent) = self.agents.get_mut(key) else { return };
        let before = agent.status();
        if let machine::Event::Ended { how, .. } = &event
            && before.state == State::Stopping
        {
            // Otherwise it is the reason for what comes next.
            tracing::info!(agent = before.name, attempt = before.attempt_shown(), "{how}");
        }
        if agent.machine.lacks_spare() {
            match random::bytes() {
                Ok(bytes) => agent.machine.give_spare(SessionId::random(bytes)),
                Err(error) => {
                    tracing::warn!(agent = before.name, "no id for its next conversation can be had: {error}");
                }
            }
        }
        let effects = agent.machine.step(event, Timestamp::now());
        let after = agent.status();
        self.afterwards.publish |= before != after;
        log_change(&before, &after);
        let known = std::mem::replace(&mut agent.is_told, true).then_some(&before);
        self.happened.extend(What::of_change(known, &after));
        if let Some(detail) = newly_logged_out(&before, &after) {
            self.shows_login(key, detail);
        } else if has_logged_in(&before, &after) {
            self.has_logged_in(key);
        }
        self.note_launches(key, &effects);
        let Some(agent) = self.agents.get_mut(key) else { return };
        let is_gone = agent.machine.is_gone();
        // What is stopped with the daemon goes on with the next one.
        let is_undeclared = is_gone && self.course != Course::Stopping;
        let is_decided = is_undeclared || agent.desired.is_some();
        if let Some(kept) = agent.machine.conversation_kept().filter(|_| is_decided) {
            self.outlets.conversations.keep(key, kept.filter(|_| !is_undeclared));
        }
        self.version = self.outlets.recorder.put(key, Some(&agent.machine).filter(|_| !is_gone));
        for effect in effects {
            self.carry_out(key, effect);
        }
        if is_gone {
            self.agents.remove(key);
            self.happened.push(What::Removed { name: after.name });
            self.tidy_store();
            (self.afterwards.reconcile, self.afterwards.publish) = (true, true);
        }
    }

    /// Removes old logs of agents that are no longer held.
    fn tidy_store(&self) {
        let (log_files, held) = (Arc::clone(&self.resources.log_files), self.agents.keys().cloned().collect());
        tokio::spawn(async move {
            if let Err(error) = log_files.tidy(held).await {
                tracing::warn!("{error}");
            }
        });
    }

    /// Notifies agents that wait for a session which has become free.
    fn call_up(&mut self) {
        for key in self.agents.keys().cloned().collect::<Vec<_>>() {
            let queued = self.agents.get(&key).filter(|agent| agent.machine.is_queued());
            let session = queued.and_then(|agent| agent.machine.launch());
            // The one before may have taken it.
            if session.is_some_and(|launch| self.holder_of(launch, &key).is_none()) {
                self.step(&key, machine::Event::SessionFree);
            }
        }
    }

    fn carry_out(&mut self, key: &Key, effect: Effect) {
        match effect {
            Effect::Launch { attempt, launch, limits, reason, plan } => {
                self.launch(key, (attempt, reason), launch, limits, plan);
            }
            Effect::Resume { attempt, launcher, user } => {
                let numbers = self.agents.get(key).map(|agent| agent.machine.numbers()).unwrap_or_default();
                self.begin(key, attempt, user, Start::Resume { launcher, numbers }, None);
            }
            Effect::Limit { attempt, limits } => self.command(key, attempt, Command::Limit(Box::new(limits))),
            Effect::Renew { attempt, launch } => {
                let secrets = launch.secrets().map(|(name, value)| (name.clone(), value.clone())).collect();
                self.command(key, attempt, Command::Renew(secrets));
            }
            Effect::Interrupt { attempt } => self.command(key, attempt, Command::Interrupt),
            Effect::InterruptAgain { attempt } => self.command(key, attempt, Command::InterruptAgain),
            Effect::Kill { attempt } => self.command(key, attempt, Command::Kill),
            Effect::Answer { attempt, told } => self.command(key, attempt, Command::Answer(Box::new(told))),
            Effect::Approval(approval) => {
                log_approval(&approval);
                self.happened.push(What::Approval { name: approval.agent.clone(), approval });
                self.afterwards.publish = true;
            }
            Effect::Account(past) => {
                let user = self.agents.get(key).and_then(|agent| agent.machine.user());
                self.outlets.histories.add(key, user, past);
            }
            Effect::ReadScreen { attempt, printed, launch } => {
                let seat = self.resources.seats.of(launch.user.as_ref());
                let Some(seat) = seat else { return };
                let (resources, tell, key) = (Arc::clone(&self.resources), self.teller(key), key.clone());
                tokio::spawn(async move {
                    let news = screens::read(resources, seat, key, Arc::clone(&launch.rules), printed).await;
                    if let Some(news) = news {
                        tell(machine::Event::Activity { attempt, news });
                    }
                });
            }
            Effect::Close { session, user } => {
                let is_last =
                    !self.agents.iter().any(|(other, agent)| other != key && agent.machine.stays_with(user.as_ref()));
                let (seat, tell, key) = (self.resources.seats.of(user.as_ref()), self.teller(key), key.clone());
                tokio::spawn(async move {
                    let closed = match seat {
                        Some(seat) => close(&seat, &key, is_last).await,
                        None => Err(NO_SEAT.to_owned()),
                    };
                    tell(machine::Event::Closed(closed.map_err(|error| format!("the session {session}: {error}"))));
                });
            }
            Effect::OfferShell { session, user } => {
                let (seat, key) = (self.resources.seats.of(user.as_ref()), key.clone());
                let Some(seat) = seat else { return };
                tokio::spawn(async move {
                    if let Err(error) = seat.sessions.offer_shell(&key).await {
                        tracing::warn!(session = %session, "{error}");
                    }
                });
            }
        }
    }

    fn launch(
        &mut self,
        key: &Key,
        (attempt, reason): (Attempt, LaunchReason),
        launch: Arc<Launch>,
        limits: Limits,
        plan: Option<Plan>,
    ) {
        if let Some(holder) = self.holder_of(&launch, key).cloned() {
            return self.step(key, machine::Event::SessionBusy { attempt, holder });
        }
        let Some(agent) = self.agents.get_mut(key) else { return };
        agent.uncounted = Some(reason);
        let (look_first, numbers) = (!agent.is_known, agent.machine.numbers());
        let changed = agent.machine.status().changed;
        self.log_launch(&launch, reason, &changed);
        let redactor = self.redactors.of(launch.secret_values());
        let start = Start::Launch { launch: Arc::clone(&launch), redactor, numbers, limits, plan, look_first };
        self.begin(key, attempt, launch.user.clone(), start, Some(launch));
    }

    fn begin(
        &mut self,
        key: &Key,
        attempt: Attempt,
        user: Option<AgentUser>,
        start: Start,
        launch: Option<Arc<Launch>>,
    ) {
        let tell = self.teller(key);
        // Never happens: seats are made before anybody can be launched or taken up in them.
        let Some(seat) = self.resources.seats.of(user.as_ref()) else {
            tracing::error!(agent = key.as_str(), "{NO_SEAT}");
            if let Start::Launch { .. } = start {
                tell(machine::Event::NotStarted { attempt, why: machine::NotStarted::Retry(NO_SEAT.to_owned()) });
                tell(machine::Event::Gone { attempt });
            }
            return;
        };
        let Some(agent) = self.agents.get_mut(key) else { return };
        let (commands, inbox) = mpsc::unbounded_channel();
        let is_certain = !matches!(start, Start::Launch { look_first: true, .. });
        agent.under_way = Some(UnderWay { attempt, user, commands, launch, is_certain });
        let (resources, name) = (Arc::clone(&self.resources), agent.machine.name().clone());
        let brakes = Arc::clone(&agent.brakes);
        tokio::spawn(attempt::run((resources, seat), name, attempt, start, brakes, inbox, tell));
    }

    /// The other agent that has the session of this launch, on the same tmux server.
    fn holder_of(&self, launch: &Launch, key: &Key) -> Option<&Name> {
        let mut others = self.agents.iter().filter(|(other, _)| *other != key).map(|(_, agent)| &agent.machine);
        let is_it = |other: &&Machine| other.session() == Some(&launch.session) && other.user() == launch.user.as_ref();
        others.find(is_it).map(Machine::name)
    }

    fn command(&self, key: &Key, attempt: Attempt, command: Command) {
        if let Some(under_way) = self.agents.get(key).and_then(|agent| agent.under_way(attempt)) {
            // Fails only if the attempt is over, which is then the next thing that is heard of it.
            let _ = under_way.commands.send(command);
        }
    }

    fn teller(&self, key: &Key) -> impl Fn(machine::Event) + Send + use<> {
        let (events, key) = (self.outlets.events.clone(), key.clone());
        move |event| {
            // Fails only when the daemon is ending.
            let _ = events.send(Event::Agent { key: key.clone(), event });
        }
    }

    fn log_launch(&self, launch: &Launch, reason: LaunchReason, changed: &reason::Changes) {
        let reason = match reason {
            LaunchReason::Declaration if !changed.is_empty() => changed.to_string(),
            _ => reason::LaunchReason::from(reason).to_string(),
        };
        if self.detail == Detail::Debug {
            let names: Vec<&str> = launch.environment.keys().map(String::as_str).collect();
            tracing::debug!(
                agent = %launch.name,
                %reason,
                workdir = %launch.workdir.display(),
                environment = names.join(","),
                "launching {}",
                launch.command_line(true)
            );
        } else {
            tracing::info!(agent = %launch.name, %reason, "launching {}", launch.command_line(false));
        }
    }

    /// What an agent that has just ended leaves on its screen, without the secrets that agentd gave it.
    fn log_screen(&mut self, launch: Arc<Launch>) {
        if self.detail != Detail::Debug {
            return;
        }
        let Some(seat) = self.resources.seats.of(launch.user.as_ref()) else { return };
        let redactor = self.redactors.of(launch.secret_values());
        tokio::spawn(async move {
            let screen = seat.sessions.screen(&launch.name.key()).await;
            match (screen, prepared(redactor).await) {
                (Ok(screen), Ok(redactor)) => {
                    let shown = screen::shown(&screen, &redactor, false);
                    tracing::debug!(agent = %launch.name, "its last screen:\n{}", shown.trim_end());
                }
                (Err(error), _) => tracing::debug!(agent = %launch.name, "failed to read its last screen: {error}"),
                (_, Err(unknown)) => tracing::debug!(agent = %launch.name, "its last screen is not shown: {unknown}"),
            }
        });
    }
}

impl Agent {
    /// An agent that no earlier daemon knew, with nothing under way.
    fn new(machine: Machine, default_user: Arc<str>) -> Self {
        Self {
            machine,
            config_generation: None,
            desired: None,
            under_way: None,
            is_known: false,
            is_told: false,
            default_user,
            knows_past: true,
            restarts: Restarts::default(),
            uncounted: None,
            brakes: Arc::default(),
            logged_out: None,
            rotation: None,
            redactor: None,
        }
    }

    fn status(&self) -> AgentStatus {
        let status = self.machine.status();
        let user = status.user.or_else(|| Some(self.default_user.to_string()));
        let rotation = self.rotation.clone();
        AgentStatus { config_generation: self.config_generation, user, rotation, ..status }
    }

    /// Notes that the agent lives as this reading of the jcard declares it, if its entry is good.
    fn note_generation(&mut self, desired: &Desired) {
        if self.desired.as_ref().is_some_and(|agent| agent.declaration.is_ok()) {
            self.config_generation = desired.reading.map(|reading| reading.generation);
        }
    }

    /// Builds the redactor of what was launched and of what is to be, unless there is one of the same. Returns whether it did.
    fn redact(&mut self, redactors: &mut Redactors) -> bool {
        let under_way = self.under_way.iter().filter_map(|under_way| under_way.launch.as_ref());
        let mut launches: Vec<&Arc<Launch>> = under_way.chain(self.machine.launch()).collect();
        launches.dedup_by_key(|launch| Arc::as_ptr(launch));
        let is_known = self.under_way.iter().all(|under_way| under_way.known().is_some());
        let is_all = self.knows_past && is_known && !launches.is_empty();
        if let Some((of, redactor)) = &self.redactor
            && redactor.is_all == is_all
            && of.iter().map(Weak::as_ptr).eq(launches.iter().map(|launch| Arc::as_ptr(launch)))
        {
            return false;
        }
        let redactor = redactors.of(launches.iter().flat_map(|launch| launch.secret_values()));
        // No launch is kept by this, nor is its place given to another.
        let launches = launches.into_iter().map(Arc::downgrade).collect();
        self.redactor = Some((launches, AgentRedactor { redactor, is_all }));
        true
    }

    /// This attempt, unless it is gone.
    fn under_way(&self, attempt: Attempt) -> Option<&UnderWay> {
        self.under_way.as_ref().filter(|under_way| under_way.attempt == attempt)
    }

    /// Counts the launch once it is known to be an attempt.
    fn count(&mut self, event: &machine::Event) {
        let counts = match event {
            machine::Event::NotStarted { why, .. } => why.absent().is_none(),
            machine::Event::Started { .. } | machine::Event::Ended { .. } | machine::Event::Gone { .. } => true,
            _ => return,
        };
        if let Some(reason) = self.uncounted.take().filter(|_| counts) {
            self.restarts.count(reason);
        }
    }

    fn learn(&mut self, attempt: Attempt, event: &machine::Event) {
        if let Some(under_way) = self.under_way.as_mut().filter(|under_way| under_way.attempt == attempt) {
            under_way.learn(event);
        }
    }

    fn held(&self) -> HeldAgent {
        HeldAgent {
            desired: self.desired.clone(),
            in_force: self.machine.in_force(),
            given: self.machine.given().cloned(),
            place: self.machine.place(),
        }
    }
}

/// Closes the session of an agent. That of a user who was deleted, as whom nothing can be done, ends with the server, once no other
/// agent needs it.
async fn close(seat: &Seat, key: &Key, is_last: bool) -> Result<(), String> {
    let Err(error) = seat.sessions.close(key).await else { return Ok(()) };
    if !seat.sessions.is_orphaned().await {
        return Err(error.to_string());
    }
    if is_last {
        seat.sessions.end_orphan().await.map_err(|error| format!("failed to end the tmux server: {error}"))?;
    }
    Ok(())
}

async fn tick(watchdog: &mut Option<Interval>) {
    match watchdog {
        Some(watchdog) => _ = watchdog.tick().await,
        None => std::future::pending().await,
    }
}

fn of_daemon(state: events::Course) -> What {
    What::Daemon { state, version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// What an agent says that has just found that somebody must log it in.
fn newly_logged_out(before: &AgentStatus, after: &AgentStatus) -> Option<String> {
    let activity = after.activity.as_ref().filter(|_| is_logged_out(after) && !is_logged_out(before))?;
    Some(activity.detail.clone().unwrap_or_else(|| "it must be logged in".to_owned()))
}

/// Whether an agent that somebody had to log in does something else now. If nothing is known of it, nobody knows whether it does.
fn has_logged_in(before: &AgentStatus, after: &AgentStatus) -> bool {
    is_logged_out(before) && after.activity.is_some() && !is_logged_out(after)
}

fn is_logged_out(agent: &AgentStatus) -> bool {
    agent.activity.as_ref().is_some_and(|activity| activity.status == Doing::Login)
}
