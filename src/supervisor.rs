//! The one loop that owns all agents: event → step → effects → snapshot.
//!
//! It is the only writer of anything there is to know about agents. Nothing in it waits for anything but the next event or the
//! next point in time: effects run in tasks of their own and come back as events, tagged with the attempt they belong to.

pub mod attempt;
pub mod machine;
pub mod restart;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use self::attempt::{Command, Means};
use self::machine::{Attempt, Effect, Machine};
use crate::clock::{Alarm, Timestamp};
use crate::config::Name;
use crate::desired::{Desired, DesiredAgent};
use crate::launch::Launch;
use crate::launch::reception::Visitor;
use crate::reconcile::{Action, Declared, Held, HeldAgent, plan};
use crate::status::{AgentStatus, Snapshot};

/// What the supervisor is told.
#[derive(Debug)]
pub enum Event {
    /// What should be has changed.
    Desired(Desired),
    /// Somebody reports at the launch socket.
    Visitor(Visitor),
    /// Something happened to an agent.
    Agent {
        /// Its key.
        key: String,
        /// What.
        event: machine::Event,
    },
    /// Stop all agents, then the supervisor.
    Stop,
}

/// How much the log tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What happens to which agent, and why.
    Plain,
    /// Command lines with prompts, working directories, names of variables, last screens.
    Debug,
}

/// The loop's state.
#[derive(Debug)]
pub struct Supervisor {
    agents: BTreeMap<String, Agent>,
    desired: Desired,
    stopping: bool,
    afterwards: Afterwards,
    /// Visitors that named no pending attempt.
    strangers: u64,
    means: Arc<Means>,
    detail: Detail,
    started: Instant,
    events: mpsc::UnboundedSender<Event>,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

/// What is to be done when a batch of events has been taken in, once, however many of them call for it.
#[derive(Debug, Default)]
struct Afterwards {
    /// An agent has gone; it may be declared again.
    reconcile: bool,
    /// An agent has closed its session; somebody may wait for it.
    call_up: bool,
    /// There is something that the API does not tell yet.
    publish: bool,
}

/// One agent, and what is under way for it.
#[derive(Debug)]
struct Agent {
    machine: Machine,
    desired: DesiredAgent,
    attempts: HashMap<Attempt, UnderWay>,
}

/// An attempt that is not gone.
#[derive(Debug)]
struct UnderWay {
    commands: mpsc::UnboundedSender<Command>,
    launch: Arc<Launch>,
}

/// How many events are taken in before what they changed is published.
const BATCH: usize = 256;

impl Supervisor {
    /// Holds no agent yet. `events` is where effects answer: the other end of what [`Supervisor::run`] is given.
    pub fn new(
        means: Means,
        detail: Detail,
        events: mpsc::UnboundedSender<Event>,
        snapshots: watch::Sender<Arc<Snapshot>>,
        started: Instant,
    ) -> Self {
        let agents = BTreeMap::new();
        let means = Arc::new(means);
        Self {
            agents,
            desired: Desired::default(),
            stopping: false,
            afterwards: Afterwards { publish: true, ..Afterwards::default() },
            strangers: 0,
            means,
            detail,
            started,
            events,
            snapshots,
        }
    }

    /// Runs until it was told to stop and every agent is gone.
    pub async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Event>) -> io::Result<()> {
        let mut alarm = Alarm::new()?;
        let mut batch = Vec::with_capacity(BATCH);
        while !(self.stopping && self.agents.is_empty()) {
            alarm.set(self.agents.values().filter_map(|agent| agent.machine.due()).min())?;
            // Both arms only wait, so that whichever is cancelled has lost nothing.
            tokio::select! {
                received = inbox.recv_many(&mut batch, BATCH) => if received == 0 { return Ok(()) },
                () = alarm.ring() => {}
            }
            for event in batch.drain(..) {
                self.handle(event);
            }
            self.time_passed();
            if std::mem::take(&mut self.afterwards.reconcile) {
                self.reconcile();
            }
            if std::mem::take(&mut self.afterwards.call_up) {
                self.call_up();
            }
            if std::mem::take(&mut self.afterwards.publish) {
                self.publish();
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Desired(desired) => {
                self.desired = desired;
                self.afterwards.publish = true;
                self.reconcile();
            }
            Event::Visitor(visitor) => self.direct(visitor),
            Event::Agent { key, event } => {
                let agent = self.agents.get_mut(&key);
                match event {
                    machine::Event::Ended { attempt, .. } if self.detail == Detail::Debug => {
                        let under_way = agent.and_then(|agent| agent.attempts.get(&attempt));
                        let launch = under_way.map(|under_way| Arc::clone(&under_way.launch));
                        self.log_screen(launch);
                    }
                    machine::Event::Gone { attempt } => {
                        agent.map(|agent| agent.attempts.remove(&attempt));
                    }
                    _ => {}
                }
                self.step(&key, event);
            }
            Event::Stop => {
                self.stopping = true;
                for key in self.agents.keys().cloned().collect::<Vec<_>>() {
                    self.step(&key, machine::Event::Remove);
                }
            }
        }
    }

    /// Brings the machines in line with what is desired.
    fn reconcile(&mut self) {
        if self.stopping {
            return;
        }
        let staying = self.agents.iter().filter(|(_, agent)| !agent.machine.is_leaving());
        let held: Held = staying.map(|(key, agent)| (key.clone(), agent.held())).collect();
        for action in plan(&self.desired, &held) {
            match action {
                Action::Declare(desired, declaration) => self.desire(desired, machine::Event::Declare(declaration)),
                Action::Update(desired, declaration) => self.desire(desired, machine::Event::Update(declaration)),
                Action::Reject(desired, error) => {
                    // One that is still leaving is rejected when it has left.
                    if self.agents.get(&desired.name.key()).is_none_or(|agent| !agent.machine.is_leaving()) {
                        self.desire(desired, machine::Event::Reject(error));
                    }
                }
                Action::Remove(key) => self.step(&key, machine::Event::Remove),
            }
        }
    }

    fn desire(&mut self, desired: DesiredAgent, event: machine::Event) {
        let key = desired.name.key();
        let agent = self.agents.entry(key.clone()).or_insert_with(|| Agent {
            machine: Machine::new(desired.name.clone()),
            desired: desired.clone(),
            attempts: HashMap::new(),
        });
        agent.machine.describe(desired.name.clone(), desired.harness);
        agent.desired = desired;
        self.step(&key, event);
    }

    /// Hands a visitor to the attempt that it names.
    fn direct(&mut self, visitor: Visitor) {
        let key = visitor.name.to_ascii_lowercase();
        if let Some(under_way) = self.agents.get(&key).and_then(|agent| agent.attempts.get(&visitor.attempt)) {
            // Fails only if the attempt is over by now; the visitor is sent away by being dropped.
            let _ = under_way.commands.send(Command::Visitor(Box::new(visitor)));
            return;
        }
        self.strangers += 1;
        // Ever more rarely: agents can come here, and must not be able to fill the log.
        if self.strangers.is_power_of_two() {
            let (pid, count) = (visitor.process.pid(), self.strangers);
            tracing::warn!(
                "process {pid} says to be the launcher of an attempt that is not pending, the {count}. to do so"
            );
        }
    }

    fn time_passed(&mut self) {
        let now = Timestamp::now();
        let due = self.agents.iter().filter(|(_, agent)| agent.machine.due().is_some_and(|due| due <= now));
        for key in due.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.step(&key, machine::Event::Due);
        }
    }

    fn step(&mut self, key: &str, event: machine::Event) {
        let event = match event {
            // Nobody comes after to try again.
            machine::Event::Closed(Err(error)) if self.stopping => {
                tracing::error!(agent = key, "{error}");
                machine::Event::Closed(Ok(()))
            }
            event => event,
        };
        self.afterwards.call_up |= matches!(event, machine::Event::Closed(Ok(())));
        let Some(agent) = self.agents.get_mut(key) else { return };
        let before = agent.machine.status();
        let effects = agent.machine.step(event, Timestamp::now());
        let after = agent.machine.status();
        self.afterwards.publish |= before != after;
        log_change(&before, &after);
        for effect in effects {
            self.carry_out(key, effect);
        }
        if self.agents.get(key).is_some_and(|agent| agent.machine.is_gone()) {
            self.agents.remove(key);
            (self.afterwards.reconcile, self.afterwards.publish) = (true, true);
        }
    }

    /// Tells those who wait for a session that nobody holds any more.
    fn call_up(&mut self) {
        for key in self.agents.keys().cloned().collect::<Vec<_>>() {
            let queued = self.agents.get(&key).filter(|agent| agent.machine.is_queued());
            let session = queued.and_then(|agent| Some(&agent.machine.launch()?.session));
            // The one before may have taken it.
            if session.is_some_and(|session| self.holder_of(session, &key).is_none()) {
                self.step(&key, machine::Event::SessionFree);
            }
        }
    }

    fn carry_out(&mut self, key: &str, effect: Effect) {
        match effect {
            Effect::Launch { attempt, launch } => self.launch(key, attempt, launch),
            Effect::Interrupt { attempt } => self.command(key, attempt, Command::Interrupt),
            Effect::Kill { attempt } => self.command(key, attempt, Command::Kill),
            Effect::Close { session } => {
                let (means, tell, key) = (Arc::clone(&self.means), self.teller(key), key.to_owned());
                tokio::spawn(async move {
                    let closed = means.tmux.close(&key).await;
                    tell(machine::Event::Closed(closed.map_err(|error| format!("the session {session}: {error}"))));
                });
            }
            Effect::OfferShell { session } => {
                let (means, key) = (Arc::clone(&self.means), key.to_owned());
                tokio::spawn(async move {
                    if let Err(error) = means.tmux.offer_shell(&key).await {
                        tracing::warn!(session = %session, "{error}");
                    }
                });
            }
        }
    }

    fn launch(&mut self, key: &str, attempt: Attempt, launch: Arc<Launch>) {
        if let Some(holder) = self.holder_of(&launch.session, key).cloned() {
            return self.step(key, machine::Event::SessionBusy { attempt, holder });
        }
        self.log_launch(&launch);
        let tell = self.teller(key);
        let (commands, inbox) = mpsc::unbounded_channel();
        if let Some(agent) = self.agents.get_mut(key) {
            agent.attempts.insert(attempt, UnderWay { commands, launch: Arc::clone(&launch) });
        }
        tokio::spawn(attempt::run(Arc::clone(&self.means), launch, attempt, inbox, tell));
    }

    /// The other agent whose session this is.
    fn holder_of(&self, session: &Name, key: &str) -> Option<&Name> {
        let mut others = self.agents.iter().filter(|(other, _)| *other != key).map(|(_, agent)| agent);
        others.find(|agent| agent.machine.session() == Some(session)).map(|agent| &agent.desired.name)
    }

    fn command(&self, key: &str, attempt: Attempt, command: Command) {
        if let Some(under_way) = self.agents.get(key).and_then(|agent| agent.attempts.get(&attempt)) {
            // Fails only if the attempt is over, which is then the next thing that is heard of it.
            let _ = under_way.commands.send(command);
        }
    }

    fn teller(&self, key: &str) -> impl Fn(machine::Event) + Send + use<> {
        let (events, key) = (self.events.clone(), key.to_owned());
        move |event| {
            // Fails only when the daemon is ending.
            let _ = events.send(Event::Agent { key: key.clone(), event });
        }
    }

    fn publish(&self) {
        let statuses = self.agents.values().map(|agent| agent.machine.status()).collect();
        let (config_error, secrets_error) = (self.desired.config_error.clone(), self.desired.secrets_error.clone());
        let snapshot = Snapshot::new(statuses, self.started, config_error, secrets_error);
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    fn log_launch(&self, launch: &Launch) {
        if self.detail == Detail::Debug {
            let names: Vec<&str> = launch.environment.keys().map(String::as_str).collect();
            tracing::debug!(
                agent = %launch.name,
                workdir = %launch.workdir.display(),
                environment = names.join(","),
                "launching {}",
                launch.command_line(true)
            );
        } else {
            tracing::info!(agent = %launch.name, "launching {}", launch.command_line(false));
        }
    }

    /// What an agent that has just ended leaves on its screen, without the secrets that agentd gave it.
    fn log_screen(&self, launch: Option<Arc<Launch>>) {
        let Some(launch) = launch else { return };
        let means = Arc::clone(&self.means);
        tokio::spawn(async move {
            match means.tmux.screen(&launch.name.key()).await {
                Ok(screen) => {
                    tracing::debug!(agent = %launch.name, "its last screen:\n{}", launch.mask(screen.trim_end()));
                }
                Err(error) => tracing::debug!(agent = %launch.name, "its last screen could not be had: {error}"),
            }
        });
    }
}

impl Agent {
    fn held(&self) -> HeldAgent {
        let declared = self.machine.is_declared().then(|| Declared { launch: self.machine.launch().cloned() });
        HeldAgent { desired: self.desired.clone(), declared }
    }
}

/// One line for each change of state or reason, and for each new error.
fn log_change(before: &AgentStatus, after: &AgentStatus) {
    if (before.state, &before.reason) != (after.state, &after.reason) {
        let (state, reason) = (after.state, after.reason.as_deref().unwrap_or_default());
        tracing::info!(agent = after.name, %state, attempt = after.attempt, pid = after.pid, "{reason}");
    }
    if let Some(error) = after.error.as_ref().filter(|&error| before.error.as_ref() != Some(error)) {
        tracing::error!(agent = after.name, "{error}");
    }
}
