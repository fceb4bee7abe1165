//! Runs: from tasks to machines, and from the ends of machines to results.
//!
//! The [queue](crate::agent::run::queue) decides. What it decides is on disk before anything follows from it: a task is on record
//! before it waits, a run has begun on record before its machine is declared, and its result is kept and its id in the ledger before
//! its files are removed. So whatever is killed in between, the next daemon finds out how far each run was.
//!
//! ```text
//! task ─ put ─ waits ─ begin ─ machine ─ over ─ result.json ─ ledger ─ task removed ─ record removed
//! ```
//!
//! The machine of a run that is over stays on record until its result is kept, so that the next daemon knows how it ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};

use super::schedules::{self, Scheduled};
use super::{Agent, Course, Event, Launching, Supervisor};
use crate::agent::conversation::SessionId;
use crate::agent::machine::{self, Effect, Machine, Removal};
use crate::agent::name::{Key, Name};
use crate::agent::run::queue::{Allowance, Phase, Queue, Rank, Refusal, Turn};
use crate::agent::run::{Interrupted, News, Order, Sidecar, Task, Template};
use crate::agent::schedule::Due;
use crate::observe::snapshot::Line;
use crate::state::runs::{Keeper, Kept, Ledgers, Phase as OnRecord, Recorded, What as Asked};
use crate::sys::clock::Timestamp;
use crate::sys::file_id::FileId;
use crate::sys::secret_bytes::SecretBytes;
use crate::wire::events::What;
use crate::wire::history::PastRun;
use crate::wire::reason::WaitingFor;
use crate::wire::run::{LastRun, RunChange, RunStatus, TemplateRuns};
use crate::wire::status::{AgentStatus, Outcome, State, Time};

/// Who has written the tasks of schedules.
const BY_SCHEDULE: &str = "schedule";

/// What the ids of runs begin with that schedules have made.
const OF_SCHEDULE: &str = "cron-";

/// How long nothing begins after something could not be put on record.
const STALL: Duration = Duration::from_secs(1);

/// The runs of all templates, and what keeps them.
#[derive(Debug)]
pub struct Runs {
    queue: Queue,
    /// What is on record of those that are not over, and of those whose files are not gone.
    records: BTreeMap<Key, Recorded>,
    /// What has become of those that are over, until that is kept.
    results: BTreeMap<Key, Arc<RunStatus>>,
    /// Those that are kept after their end, by template, the latest last.
    kept: BTreeMap<Key, VecDeque<Arc<RunStatus>>>,
    /// Those that wait, as lists show them.
    shown: BTreeMap<Key, Arc<RunStatus>>,
    /// Runs that began in an earlier boot, until it is known what their templates say about that.
    stranded: BTreeSet<Key>,
    /// Live runs whose launch is not known here: an earlier daemon has declared them.
    unread: BTreeSet<Key>,
    /// The templates that the spool knows.
    templates: Vec<Name>,
    keeper: Keeper,
    ledgers: Ledgers,
    orders: mpsc::UnboundedSender<Order>,
    /// Which boot of the machine this is.
    boot: String,
    /// How many runs may have a place on the whole machine.
    at_once: Option<u32>,
    /// Where tasks are written.
    spool_dir: PathBuf,
    /// Tells which templates have schedules.
    scheduled: watch::Sender<Arc<Scheduled>>,
    /// When schedules make their next runs.
    next_runs: BTreeMap<Key, SystemTime>,
    /// Why no schedule makes runs.
    schedule_error: Option<String>,
    /// What is wrong with the spool.
    spool_error: Option<String>,
    /// Why something could not be put on record, and until when nothing begins because of that.
    stalled: Option<(String, Timestamp)>,
    /// Whether places may have become free.
    pub(super) has_changed: bool,
}

/// What an earlier daemon has left, and what keeps runs from now on.
#[derive(Debug)]
pub struct Keeping {
    /// Keeps records and ledgers.
    pub keeper: Keeper,
    /// The ids that are used.
    pub ledgers: Ledgers,
    /// What is told to the spool.
    pub orders: mpsc::UnboundedSender<Order>,
    /// Which boot of the machine this is.
    pub boot: String,
    /// How many runs may have a place on the whole machine; `None` is without limit.
    pub at_once: Option<u32>,
    /// Where tasks are written.
    pub spool_dir: PathBuf,
    /// Tells which templates have schedules.
    pub scheduled: watch::Sender<Arc<Scheduled>>,
}

impl Runs {
    /// None yet.
    pub fn new(Keeping { keeper, ledgers, orders, boot, at_once, spool_dir, scheduled }: Keeping) -> Self {
        Self {
            queue: Queue::default(),
            records: BTreeMap::new(),
            results: BTreeMap::new(),
            kept: BTreeMap::new(),
            shown: BTreeMap::new(),
            stranded: BTreeSet::new(),
            unread: BTreeSet::new(),
            templates: Vec::new(),
            keeper,
            ledgers,
            orders,
            boot,
            at_once,
            spool_dir,
            scheduled,
            next_runs: BTreeMap::new(),
            schedule_error: None,
            spool_error: None,
            stalled: None,
            has_changed: false,
        }
    }

    fn order(&self, order: Order) {
        // Fails only when the daemon is ending.
        let _ = self.orders.send(order);
    }

    /// Where tasks are written, for people.
    pub(super) fn spool_dir(&self) -> String {
        self.spool_dir.display().to_string()
    }

    /// What is wrong with the spool, or with the records.
    pub(super) fn error(&self) -> Option<String> {
        let stalled = self.stalled.as_ref().map(|(error, _)| format!("no run starts: {error}"));
        let known = self.spool_error.iter().chain(&self.schedule_error).cloned();
        let errors: Vec<String> = known.chain(stalled).collect();
        (!errors.is_empty()).then(|| errors.join("\n"))
    }

    /// When something is to be tried again.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.stalled.as_ref().map(|(_, until)| *until)
    }

    /// Whether the daemon may end: nothing is being kept.
    pub(super) fn is_at_rest(&self) -> bool {
        self.results.is_empty()
    }

    /// Returns once everything that was asked of the keeper is done, or after `patience`.
    pub(super) async fn finish(self, patience: Duration) {
        self.keeper.finish(patience).await;
    }

    fn stall(&mut self, error: String, now: Timestamp) {
        if self.stalled.as_ref().is_none_or(|(known, _)| *known != error) {
            tracing::error!("{error}; no run starts until that is resolved");
        }
        self.stalled = Some((error, now + STALL));
    }

    /// Something was put on record: whatever kept that from being so is over.
    fn resolve(&mut self) {
        if self.stalled.take().is_some() {
            tracing::info!("runs are put on record again");
            self.has_changed = true;
        }
    }

    /// What is on record of a new run.
    fn record(task: &Task, file: Option<FileId>, sidecar: Sidecar) -> Recorded {
        let Sidecar { labels, workdir, continues } = sidecar;
        // The daemon writes the tasks of schedules as the user that it runs as.
        let is_scheduled = task.is_own && task.id.as_str().starts_with(OF_SCHEDULE);
        Recorded {
            agent: task.agent.clone(),
            id: task.id.clone(),
            by: if is_scheduled { BY_SCHEDULE.to_owned() } else { task.by.clone() },
            queued_at: SystemTime::now(),
            written: task.written,
            file,
            plan: None,
            labels,
            workdir,
            continues,
            phase: OnRecord::Waiting,
        }
    }
}

/// The status of a run of which nothing but its record is known.
fn of_record(record: &Recorded) -> RunStatus {
    RunStatus {
        name: record.name().to_string(),
        agent: record.agent.to_string(),
        id: record.id.to_string(),
        plan: record.plan.clone(),
        by: Some(record.by.clone()),
        labels: record.labels.clone(),
        ..of_nothing(Time(record.queued_at))
    }
}

/// The status of a run whose machine has this one.
fn of_machine(record: &Recorded, machine: AgentStatus, started: Option<Time>) -> RunStatus {
    let labels = machine.labels.into_iter().chain(record.labels.clone()).collect();
    RunStatus {
        state: machine.state,
        reason: machine.reason,
        outcome: machine.outcome,
        labels,
        started_at: started.or(machine.started_at),
        waiting_for: machine.waiting_for,
        harness: machine.harness,
        user: machine.user,
        session: machine.session,
        pid: machine.pid,
        attempts: machine.attempt.unwrap_or_default(),
        restarts: machine.restarts,
        exit: machine.exit,
        activity: machine.activity,
        hold: machine.hold,
        conversation: machine.conversation,
        result: machine.result,
        cost_usd: machine.cost_usd,
        tokens: machine.tokens,
        ..of_record(record)
    }
}

impl Supervisor {
    /// Takes over the runs that an earlier daemon had on record. Must be called once, after the machines were taken over.
    pub fn resume_runs(&mut self, records: Vec<Recorded>, kept: Vec<RunStatus>) {
        for status in kept {
            self.keep(Arc::new(status));
        }
        for record in records {
            let key = record.key();
            let is_ended = self.runs.ledgers.is_used(&key) == Some(true);
            let machine = self.agents.get(&key).map(|agent| &agent.machine);
            let phase = match (&record.phase, machine) {
                _ if is_ended => Phase::Ended,
                (OnRecord::Over { outcome, .. }, _) => Phase::Ending(*outcome),
                (OnRecord::Waiting, None) => Phase::Waiting { is_free: true },
                (_, Some(machine)) => Phase::Live { is_held: machine.is_held() },
                // What is launched is on record before.
                (OnRecord::Begun { boot, .. }, None) if *boot == self.runs.boot => Phase::Waiting { is_free: true },
                (OnRecord::Begun { .. }, None) => {
                    self.runs.stranded.insert(key.clone());
                    Phase::Waiting { is_free: false }
                }
            };
            if let Some(file) = record.file {
                self.runs.order(Order::Known { key: key.clone(), file, written: record.written });
            }
            self.runs.queue.restore(&record.agent, &record.id, record.written, phase);
            self.runs.shown.insert(key.clone(), Arc::new(of_record(&record)));
            self.runs.records.insert(key.clone(), record);
            match phase {
                Phase::Live { .. } => {
                    self.runs.unread.insert(key.clone());
                    self.follow_run(&key);
                }
                Phase::Ending(outcome) => self.finish_run(&key, outcome, None),
                Phase::Ended => self.clear_away(&key),
                Phase::Recording | Phase::Waiting { .. } | Phase::Beginning => {}
            }
        }
        // Machines whose runs are over, and were only to close their sessions.
        let known = &self.runs.records;
        let leftovers = self.agents.keys().filter(|key| key.is_run() && !known.contains_key(*key)).cloned();
        for key in leftovers.collect::<Vec<_>>() {
            self.dismiss(&key);
        }
        self.runs.has_changed = true;
    }

    /// Takes in what happens in the spool.
    pub(super) fn heed_spool(&mut self, news: News) {
        match news {
            News::Task { task, file, sidecar } => self.offer(&task, Some(file), sidecar),
            News::Gone { key } => self.cancel_run(&key, "its task was removed"),
            News::Missed { .. } | News::Found { .. } => {}
            News::Edited { key } => {
                let name = self.runs.records.get(&key).map_or_else(|| key.to_string(), |it| it.name().to_string());
                tracing::warn!(run = name, "its task was edited after it was taken, which changes nothing");
            }
            News::Refused { agent, id, why } => self.tell_refusal(&agent, &id, why),
            News::Removed { key } => self.runs.keeper.remove(key),
            News::Error(error) => {
                if let Some(error) = &error {
                    tracing::warn!("spool: {error}");
                }
                self.runs.spool_error = error;
                self.afterwards.publish = true;
            }
            News::Listed => {}
        }
    }

    /// Takes a task, or refuses it.
    fn offer(&mut self, task: &Task, file: Option<FileId>, sidecar: Sidecar) {
        let key = task.agent.of_run(&task.id).key();
        let template = task.agent.key();
        let (Some(allowance), Some(is_used)) = (self.allowance(&template), self.runs.ledgers.is_used(&key)) else {
            // It is not known whether it may be taken.
            return self.runs.order(Order::Later { key });
        };
        if self.course != Course::Running || self.runs.stalled.is_some() {
            return self.runs.order(Order::Later { key });
        }
        let places = self.places_left();
        let (agent, id) = (&task.agent, &task.id);
        match self.runs.queue.offer(agent, id, task.written, is_used, allowance, places) {
            Ok(_) => {
                let record = Runs::record(task, file, sidecar);
                self.runs.keeper.put(record.clone(), task.text.clone());
                self.runs.records.insert(key, record);
            }
            Err(refusal) => self.refuse(task, refusal),
        }
    }

    fn refuse(&mut self, task: &Task, refusal: Refusal) {
        let key = task.agent.of_run(&task.id).key();
        self.runs.order(Order::Refuse { key, why: refusal.to_string() });
        self.tell_refusal(&task.agent, task.id.as_str(), refusal.to_string());
    }

    fn tell_refusal(&mut self, agent: &Name, id: &str, why: String) {
        let name = format!("{agent}/{id}");
        tracing::warn!(run = name, "refused: {why}");
        let now = Time(SystemTime::now());
        let run = Box::new(RunStatus {
            name: name.clone(),
            agent: agent.to_string(),
            id: id.to_owned(),
            state: State::Exited,
            outcome: Some(Outcome::Refused),
            reason: Some(why),
            ended_at: Some(now),
            ..of_nothing(now)
        });
        self.happened.push(What::Run { name, change: RunChange::Refused, run });
        self.afterwards.publish = true;
    }

    /// Takes in what the keeper reports.
    pub(super) fn heed_keeper(&mut self, kept: Kept) {
        match kept {
            Kept::Recorded { key } => {
                self.runs.resolve();
                match self.runs.queue.recorded(&key, true) {
                    Some(Turn::Ends(outcome)) => self.finish_run(&key, outcome, None),
                    Some(Turn::Waits | Turn::Starts) => {
                        let shown = self.runs.records.get(&key).map(|record| Arc::new(of_record(record)));
                        self.runs.shown.extend(shown.map(|shown| (key.clone(), shown)));
                        self.runs.order(Order::Took { key: key.clone() });
                        self.tell_run(&key, RunChange::Queued);
                        self.runs.has_changed = true;
                    }
                    None => {}
                }
            }
            Kept::Begun { key, task } => self.begin_run(&key, &task),
            Kept::Ended { key } => self.run_has_ended(&key),
            Kept::Removed { key } => {
                self.runs.queue.remove(&key);
                self.runs.records.remove(&key);
                self.runs.shown.remove(&key);
            }
            Kept::Over { .. } => {}
            Kept::Failed { key, what, error } => self.not_kept(&key, what, error.to_string()),
            Kept::Readable { .. } => self.afterwards.publish = true,
        }
    }

    fn not_kept(&mut self, key: &Key, what: Asked, error: String) {
        let is_over = matches!(self.runs.queue.phase(key), Some(Phase::Ending(_) | Phase::Ended) | None);
        if what == Asked::Begin && is_over {
            // It ended while its task was read for its machine.
            return;
        }
        let now = Timestamp::now();
        self.runs.stall(error, now);
        self.afterwards.publish = true;
        match what {
            Asked::Put => {
                self.runs.queue.forget(key);
                self.runs.records.remove(key);
                self.runs.order(Order::Later { key: key.clone() });
            }
            Asked::Begin => {
                if let Some(Turn::Ends(outcome)) = self.runs.queue.not_begun(key) {
                    self.finish_run(key, outcome, None);
                }
            }
            Asked::End => self.again(key, |runs, key| runs.keeper.end(key)),
            Asked::Remove => self.again(key, |runs, key| runs.keeper.remove(key)),
            Asked::SetOver => {}
        }
    }

    /// Asks the keeper again after a while.
    fn again(&mut self, key: &Key, ask: fn(&Runs, Key)) {
        let (events, key) = (self.outlets.events.clone(), key.clone());
        tokio::spawn(async move {
            tokio::time::sleep(STALL).await;
            // Fails only when the daemon is ending.
            let _ = events.send(Event::AskAgain { key, ask });
        });
    }

    /// Asks the keeper for this.
    pub(super) fn ask_again(&mut self, key: Key, ask: fn(&Runs, Key)) {
        ask(&self.runs, key);
    }

    /// A run has its place on record: its machine begins. Or its task was asked for, for a machine of an earlier daemon.
    fn begin_run(&mut self, key: &Key, task: &SecretBytes) {
        self.runs.resolve();
        if self.runs.unread.remove(key) {
            // Its machine may have ended since it was asked for: a new one would run it again.
            if matches!(self.runs.queue.phase(key), Some(Phase::Live { .. })) && self.agents.contains_key(key) {
                self.declare_run(key, task, true);
            }
            return;
        }
        match self.runs.queue.begun(key) {
            Some(Turn::Ends(outcome)) => self.finish_run(key, outcome, None),
            Some(Turn::Starts) => {
                if let Some(record) = self.runs.records.get_mut(key) {
                    record.phase = OnRecord::Begun { boot: self.runs.boot.clone(), at: SystemTime::now() };
                }
                self.declare_run(key, task, false);
            }
            Some(Turn::Waits) | None => {}
        }
    }

    /// Declares the machine of a run, as its template says now.
    fn declare_run(&mut self, key: &Key, task: &SecretBytes, is_known: bool) {
        let Some(record) = self.runs.records.get(key).cloned() else { return };
        let (name, template) = (record.name(), record.agent.key());
        let continues = record.continues.as_ref().map(|id| self.conversation_of(&template, id)).transpose();
        let continues = match continues {
            Ok(continues) => continues,
            Err(why) => return self.cannot_begin(key, why),
        };
        let Some(machine) = self.agents.get(&template).map(|agent| &agent.machine) else { return };
        let declaration = machine.declaration_of_run(name.clone(), task, continues.as_ref());
        let mut declaration = match declaration {
            Some(Some(declaration)) => declaration,
            Some(None) => {
                return self.cannot_begin(key, "its harness cannot continue a conversation".to_owned());
            }
            // Its template lacks something by now.
            None if is_known => {
                self.runs.unread.insert(key.clone());
                return;
            }
            None => return self.return_to_line(key, task.clone()),
        };
        declaration.policy.labels.extend(record.labels.clone());
        if let (Ok(launch), Some(workdir)) = (&mut declaration.launch, &record.workdir) {
            Arc::make_mut(launch).workdir.clone_from(workdir);
        }
        let harness = machine.status().harness;
        let user = self.desired.agents.get(&template).and_then(|agent| agent.user.clone());
        let default_user = Arc::clone(&self.default_user);
        let new = || Agent { is_told: true, ..Agent::new(Machine::new(name.clone()), default_user) };
        let agent = self.agents.entry(key.clone()).or_insert_with(new);
        agent.machine.describe(name, harness.as_deref(), user);
        if is_known {
            self.step(key, machine::Event::Update(declaration));
        } else {
            self.tell_run(key, RunChange::Taken);
            self.step(key, machine::Event::Declare(declaration));
        }
    }

    /// The conversation of a run that has ended, which another one is to continue; or why it cannot.
    fn conversation_of(&self, template: &Key, id: &str) -> Result<SessionId, String> {
        let id = id.rsplit_once('/').map_or(id, |(_, id)| id);
        let mut kept = self.runs.kept.get(template).into_iter().flatten();
        let run = kept
            .find(|run| run.id.eq_ignore_ascii_case(id))
            .ok_or_else(|| format!("it is to continue {id}, which is not among the runs that {template} has kept"))?;
        let conversation = run.conversation.as_ref().and_then(|conversation| conversation.id.clone());
        let conversation = conversation.and_then(|id| SessionId::try_from(id).ok());
        conversation.ok_or_else(|| format!("it is to continue {}, whose conversation is not known", run.name))
    }

    /// A run that has its place cannot start for good.
    fn cannot_begin(&mut self, key: &Key, why: String) {
        if let Some(outcome) = self.runs.queue.over(key, Outcome::Failed) {
            self.finish_run(key, outcome, Some(why));
        }
    }

    /// A run cannot begin after all: it waits again, at the place in line that it had.
    fn return_to_line(&mut self, key: &Key, task: SecretBytes) {
        let Some(record) = self.runs.records.get_mut(key) else { return };
        record.phase = OnRecord::Waiting;
        let record = record.clone();
        self.runs.queue.returned(key);
        self.runs.keeper.put(record, task);
    }

    /// The run is not wanted any more.
    fn cancel_run(&mut self, key: &Key, why: &str) {
        let Some(turn) = self.runs.queue.doom(key, Outcome::Cancelled) else { return };
        if let Some(record) = self.runs.records.get(key) {
            tracing::info!(run = %record.name(), "cancelled: {why}");
        }
        match turn {
            Turn::Ends(outcome) => self.finish_run(key, outcome, Some(why.to_owned())),
            Turn::Starts | Turn::Waits => self.step(key, machine::Event::Remove(Removal::Cancelled)),
        }
        self.runs.has_changed = true;
    }

    /// Looks at what has become of the machine of a run.
    pub(super) fn follow_run(&mut self, key: &Key) {
        let Some(agent) = self.agents.get(key) else { return };
        let machine = &agent.machine;
        if let Some(outcome) = machine.end() {
            if let Some(outcome) = self.runs.queue.over(key, outcome) {
                self.finish_run(key, outcome, None);
            }
        } else if machine.is_gone() {
            match machine.removal() {
                Some(Removal::Over) | None => {}
                Some(Removal::Cancelled | Removal::Undeclared) => {
                    if let Some(outcome) = self.runs.queue.over(key, Outcome::Cancelled) {
                        self.finish_run(key, outcome, Some("its task was removed".to_owned()));
                    }
                }
                Some(Removal::Shutdown) => self.run_was_interrupted(key),
            }
        } else {
            let is_held = machine.is_held();
            let before = self.runs.queue.phase(key);
            self.runs.queue.hold(key, is_held);
            self.runs.has_changed |= before != self.runs.queue.phase(key);
        }
    }

    /// The stop of the daemon has ended the machine of a run.
    fn run_was_interrupted(&mut self, key: &Key) {
        let again = self.template_of(key).is_some_and(|template| template.interrupted == Interrupted::Again);
        if again {
            if let Some(record) = self.runs.records.get(key) {
                // As begun in no boot that there is: the next daemon takes it for one that the end of a boot has interrupted.
                self.runs.keeper.begin(key.clone(), String::new());
                tracing::info!(run = %record.name(), "interrupted; it runs again when agentd runs again");
            }
            return self.forget_machine(key);
        }
        if let Some(outcome) = self.runs.queue.over(key, Outcome::Interrupted) {
            self.finish_run(key, outcome, Some("agentd was stopped".to_owned()));
        }
    }

    fn template_of(&self, run: &Key) -> Option<Arc<Template>> {
        let (template, _) = run.run()?;
        self.agents.get(&template)?.machine.template().cloned()
    }

    /// Keeps the result of a run that is over.
    fn finish_run(&mut self, key: &Key, outcome: Outcome, why: Option<String>) {
        // Its machine needs no declaration any more.
        self.runs.unread.remove(key);
        let Some(record) = self.runs.records.get(key) else { return };
        let now = Time(SystemTime::now());
        let mut status = match self.agents.get(key) {
            Some(agent) if agent.machine.was_launched() => {
                of_machine(record, agent.status(), first_start(&agent.machine))
            }
            _ => of_record(record),
        };
        let why = why.or_else(|| match outcome {
            Outcome::Interrupted => Some("agentd or the machine was stopped while it ran".to_owned()),
            Outcome::Cancelled => Some("its task was removed".to_owned()),
            _ => None,
        });
        status.reason = why.or(status.reason);
        (status.state, status.outcome, status.ended_at) = (State::Exited, Some(outcome), Some(now));
        (status.pid, status.activity, status.hold) = (None, None, None);
        (status.session, status.waiting_for) = (String::new(), Vec::new());
        self.runs.has_changed = true;
        self.afterwards.publish = true;
        let status = Arc::new(status);
        self.runs.results.insert(key.clone(), Arc::clone(&status));
        let (log_files, key, events) =
            (Arc::clone(&self.resources.log_files), key.clone(), self.outlets.events.clone());
        tokio::spawn(async move {
            let status = log_files.keep_result(&key, RunStatus::clone(&status)).await;
            // Fails only when the daemon is ending.
            let _ = events.send(Event::ResultKept { key, status: Box::new(status) });
        });
    }

    /// The result of a run is on disk.
    pub(super) fn result_kept(&mut self, key: Key, status: RunStatus) {
        if self.runs.results.contains_key(&key) {
            self.runs.results.insert(key.clone(), Arc::new(status));
            self.runs.keeper.end(key);
        }
    }

    /// The id of a run is in the ledger: it is over for good.
    fn run_has_ended(&mut self, key: &Key) {
        self.runs.resolve();
        self.runs.queue.ended(key);
        if let Some(status) = self.runs.results.remove(key) {
            let outcome = status.outcome.map_or("ended", Outcome::word);
            let reason = status.reason.as_deref().unwrap_or_default();
            tracing::info!(run = status.name, "{outcome}: {reason}");
            let (name, run) = (status.name.clone(), Box::new(in_list(&status)));
            self.happened.push(What::Run { name, change: RunChange::Ended, run });
            if let Some(past) = PastRun::of(&status) {
                self.outlets.histories.add_run(past);
            }
            self.keep(status);
        }
        self.afterwards.publish = true;
        self.runs.has_changed = true;
        self.clear_away(key);
        self.dismiss(key);
    }

    /// Removes the task and the record of a run that is over for good.
    fn clear_away(&mut self, key: &Key) {
        match self.runs.records.get(key).map(|record| record.file) {
            Some(Some(file)) => self.runs.order(Order::Remove { key: key.clone(), file }),
            Some(None) => self.runs.keeper.remove(key.clone()),
            None => {}
        }
    }

    /// Sends the machine of a run away that is over.
    fn dismiss(&mut self, key: &Key) {
        let Some(agent) = self.agents.get(key) else { return };
        if agent.machine.is_gone() {
            self.forget_machine(key);
        } else {
            self.step(key, machine::Event::Remove(Removal::Over));
        }
    }

    /// Drops the machine of a run of which nothing is left, and its record.
    fn forget_machine(&mut self, key: &Key) {
        self.version = self.outlets.recorder.put(key, None::<&Machine>);
        self.agents.remove(key);
        self.afterwards.publish = true;
    }

    /// Whether the machine of a run may be dropped that is gone: its result is kept.
    pub(super) fn may_drop(&self, key: &Key) -> bool {
        !matches!(self.runs.queue.phase(key), Some(Phase::Live { .. } | Phase::Ending(_)))
    }

    /// Keeps a run after its end, and drops the oldest beyond what its template keeps.
    fn keep(&mut self, status: Arc<RunStatus>) {
        let Ok(agent) = status.agent.parse::<Key>() else { return };
        let most = self.agents.get(&agent).and_then(|agent| agent.machine.template());
        let most = most.map(|template| usize::try_from(template.keep).unwrap_or(usize::MAX));
        let kept = self.runs.kept.entry(agent.clone()).or_default();
        kept.retain(|other| other.id != status.id);
        kept.push_back(Arc::new(in_list(&status)));
        let surplus = most.map_or(0, |most| kept.len().saturating_sub(most));
        for old in kept.drain(..surplus).collect::<Vec<_>>() {
            self.remove_output(&old);
        }
    }

    fn remove_output(&self, old: &RunStatus) {
        let key = old.name.replacen('/', "+", 1).parse::<Key>();
        let (Ok(key), log_files) = (key, Arc::clone(&self.resources.log_files)) else { return };
        tokio::spawn(async move { log_files.remove_run(&key).await });
    }

    /// What a template allows now; `None` if there is no such template, or it is not known.
    fn allowance(&self, template: &Key) -> Option<Allowance> {
        let machine = &self.agents.get(template)?.machine;
        let Template { at_once, waiting, .. } = **machine.template()?;
        Some(Allowance { at_once, waiting, is_ready: machine.is_ready_for_runs() })
    }

    /// How many more runs may have a place on the whole machine.
    fn places_left(&self) -> Option<u32> {
        self.runs.at_once.map(|most| most.saturating_sub(self.runs.queue.all_placed()))
    }

    /// Brings the runs in line with what is desired, after the agents were.
    pub(super) fn reconcile_runs(&mut self) {
        if !self.knows_desired || self.course != Course::Running {
            return;
        }
        let is_template = |agent: &crate::agent::declaration::DesiredAgent| {
            agent.declaration.as_ref().is_ok_and(|declaration| declaration.policy.template.is_some())
        };
        let desired = self.desired.agents.values();
        let templates: Vec<Name> = desired.filter(|agent| is_template(agent)).map(|it| it.name.clone()).collect();
        if templates != self.runs.templates || self.runs.templates.is_empty() {
            self.runs.order(Order::Templates(templates.clone()));
            self.runs.templates = templates;
        }
        self.tell_schedules();
        self.cancel_orphans();
        self.decide_stranded();
        let unread: Vec<Key> = self.runs.unread.iter().cloned().collect();
        for key in unread {
            // Its task is read again, to declare it as it was.
            if self.allowance(&key.run().map_or_else(|| key.clone(), |(template, _)| template)).is_some() {
                self.runs.keeper.begin(key, self.runs.boot.clone());
            }
        }
        self.runs.has_changed = true;
    }

    /// Tells the schedules which templates have some. One that cannot be read keeps the schedule that it had.
    fn tell_schedules(&self) {
        let scheduled: Scheduled = self
            .agents
            .iter()
            .filter(|(_, agent)| !agent.machine.is_leaving())
            .filter_map(|(key, agent)| {
                let template = agent.machine.template().filter(|template| template.schedule.is_some())?;
                Some((key.clone(), (agent.machine.name().clone(), Arc::clone(template))))
            })
            .collect();
        self.runs.scheduled.send_if_modified(|known| {
            let is_new = **known != scheduled;
            if is_new {
                *known = Arc::new(scheduled);
            }
            is_new
        });
    }

    /// Takes in what the schedules say.
    pub(super) fn heed_schedule(&mut self, news: schedules::News) {
        match news {
            schedules::News::Due { template, due, passed } => self.schedule_is_due(&template, due, passed),
            schedules::News::Next(next) => self.runs.next_runs = next,
            schedules::News::Error(error) => {
                if let Some(error) = &error {
                    tracing::error!("{error}");
                }
                self.runs.schedule_error = error;
            }
        }
        self.afterwards.publish = true;
    }

    /// A time of a schedule has come. Of one schedule at most one run waits: what else comes meanwhile is skipped.
    fn schedule_is_due(&mut self, template: &Key, due: Option<Due>, passed: u64) {
        let Some(name) = self.agents.get(template).map(|agent| agent.machine.name().clone()) else { return };
        if passed > 0 {
            let times = if passed == 1 { "1 time".to_owned() } else { format!("{passed} times") };
            let made = if due.is_some() { "one run is made for all of them" } else { "no run is made for that" };
            let why = format!("{times} of its schedule passed; {made}");
            self.tell_schedule(&name, "missed", RunChange::Missed, why);
        }
        let Some(Due { id, .. }) = due else { return };
        let key = name.of_run(&id).key();
        if self.runs.queue.phase(&key).is_some() || self.runs.ledgers.is_used(&key) == Some(true) {
            return;
        }
        match self.task_of_schedule(template) {
            Ok(text) => self.runs.order(Order::Write { agent: name, id, text }),
            Err(why) => self.tell_schedule(&name, id.as_str(), RunChange::Skipped, why.to_owned()),
        }
    }

    /// What the run of a schedule is to do; or why there is to be none.
    fn task_of_schedule(&self, template: &Key) -> Result<SecretBytes, &'static str> {
        let agent = self.agents.get(template).ok_or("its template is gone")?;
        let is_scheduled = |run: &Key| self.runs.records.get(run).is_some_and(|record| record.by == BY_SCHEDULE);
        let waits = |phase| matches!(phase, Phase::Recording | Phase::Waiting { .. });
        let is_full = |it: Allowance| it.waiting == 0 && self.runs.queue.placed(template) >= it.at_once;
        if agent.machine.is_disabled() {
            return Err("it is stopped");
        }
        if self.runs.queue.of_template(template).any(|(run, phase)| waits(phase) && is_scheduled(run)) {
            return Err("the one before still waits");
        }
        if self.allowance(template).is_some_and(is_full) {
            return Err("the one before still runs");
        }
        let launch = agent.machine.launch();
        launch.and_then(|launch| launch.task.as_ref()?.preface().cloned()).ok_or("its prompt is not known")
    }

    fn tell_schedule(&mut self, agent: &Name, id: &str, change: RunChange, why: String) {
        let name = format!("{agent}/{id}");
        tracing::warn!(run = name, "{why}");
        let now = Time(SystemTime::now());
        let run = Box::new(RunStatus {
            name: name.clone(),
            agent: agent.to_string(),
            id: id.to_owned(),
            state: State::Exited,
            outcome: Some(Outcome::Skipped),
            reason: Some(why),
            by: Some(BY_SCHEDULE.to_owned()),
            ended_at: Some(now),
            ..of_nothing(now)
        });
        self.happened.push(What::Run { name, change, run });
    }

    /// Cancels the runs whose template is no longer one. What cannot be read is not taken for gone.
    fn cancel_orphans(&mut self) {
        let is_gone = |template: &Key| match self.desired.agents.get(template) {
            None => self.desired.complete,
            Some(agent) => agent.declaration.as_ref().is_ok_and(|it| it.policy.template.is_none()),
        };
        let orphans: Vec<Key> = self
            .runs
            .queue
            .runs()
            .filter(|(key, _, _)| key.run().is_some_and(|(template, _)| is_gone(&template)))
            .map(|(key, _, _)| key.clone())
            .collect();
        for key in orphans {
            self.runs.stranded.remove(&key);
            self.cancel_run(&key, "its template is not declared any more");
        }
    }

    /// Decides what becomes of runs that the end of an earlier boot interrupted.
    fn decide_stranded(&mut self) {
        for key in std::mem::take(&mut self.runs.stranded) {
            match self.template_of(&key).map(|template| template.interrupted) {
                Some(Interrupted::Again) => self.runs.queue.free(&key),
                Some(Interrupted::Fail) => {
                    if let Some(Turn::Ends(outcome)) = self.runs.queue.doom(&key, Outcome::Interrupted) {
                        self.finish_run(&key, outcome, None);
                    }
                }
                // Its template cannot be read now.
                None => _ = self.runs.stranded.insert(key),
            }
        }
    }

    /// Gives out the places that are free.
    pub(super) fn give_places(&mut self) {
        let now = Timestamp::now();
        if self.runs.stalled.as_ref().is_some_and(|(_, until)| *until <= now) {
            // It is found out again whether it can be put on record.
            self.runs.has_changed = true;
        } else if self.runs.stalled.is_some() {
            return;
        }
        if !std::mem::take(&mut self.runs.has_changed) || self.course != Course::Running || !self.knows_desired {
            return;
        }
        let templates: BTreeSet<Key> = self.runs.queue.lines().map(|(template, _)| template.clone()).collect();
        let allowances: BTreeMap<Key, Allowance> =
            templates.into_iter().filter_map(|key| Some((key.clone(), self.allowance(&key)?))).collect();
        let begun = self.runs.queue.give_places(|key| allowances.get(key).copied(), self.runs.at_once);
        for name in begun {
            self.runs.keeper.begin(name.key(), self.runs.boot.clone());
        }
    }

    fn tell_run(&mut self, key: &Key, change: RunChange) {
        let Some(record) = self.runs.records.get(key) else { return };
        let run = Box::new(of_record(record));
        tracing::info!(
            run = run.name,
            "{}",
            match change {
                RunChange::Queued => "queued",
                _ => "has a place",
            }
        );
        self.happened.push(What::Run { name: run.name.clone(), change, run });
        self.afterwards.publish = true;
    }

    /// The runs as the API shows them, apart from those that wait for a place.
    pub(super) fn runs_apart_from_lines(&self) -> Vec<Arc<RunStatus>> {
        let mut all: Vec<Arc<RunStatus>> = self.runs.kept.values().flatten().cloned().collect();
        for (key, _, phase) in self.runs.queue.runs() {
            if matches!(phase, Phase::Ended | Phase::Waiting { is_free: true }) {
                continue;
            }
            let Some(record) = self.runs.records.get(key) else { continue };
            all.push(match (self.runs.results.get(key), self.agents.get(key)) {
                // It has not ended before its result is kept.
                (Some(result), _) => Arc::new(RunStatus {
                    state: State::Stopping,
                    reason: Some("its result is being kept".to_owned()),
                    outcome: None,
                    ended_at: None,
                    ..RunStatus::clone(result)
                }),
                (None, Some(agent)) => Arc::new(of_machine(record, agent.status(), first_start(&agent.machine))),
                (None, None) => Arc::new(of_record(record)),
            });
        }
        all
    }

    /// The runs that wait for a place.
    pub(super) fn lines(&self) -> Vec<Line> {
        let is_full = self.places_left() == Some(0);
        let line = |(template, keys): (&Key, &BTreeSet<Rank>)| {
            let machine = self.agents.get(template).map(|agent| &agent.machine);
            let others = machine.map(Machine::waiting_for).unwrap_or_default();
            let runs = keys.iter().filter_map(|(_, key)| {
                let shown = self.runs.shown.get(key).cloned();
                shown.or_else(|| Some(Arc::new(of_record(self.runs.records.get(key)?))))
            });
            Line {
                taken: self.runs.queue.placed(template).into(),
                at_once: machine.and_then(Machine::template).map_or(0, |template| template.at_once.into()),
                machine: self.runs.at_once.filter(|_| is_full).map(u64::from),
                others: others.into_iter().filter(|cause| !matches!(cause, WaitingFor::Task {})).collect(),
                runs: runs.collect(),
            }
        };
        self.runs.queue.lines().map(line).collect()
    }

    /// Shows the runs of templates in their statuses.
    pub(super) fn show_runs(&self, statuses: &mut [AgentStatus]) {
        for status in statuses {
            let Ok(key) = status.name.parse::<Key>() else { continue };
            if !self.agents.get(&key).is_some_and(|agent| agent.machine.is_template()) {
                continue;
            }
            let mut runs = TemplateRuns::default();
            for (run, phase) in self.runs.queue.of_template(&key) {
                match phase {
                    Phase::Recording | Phase::Waiting { .. } => runs.waiting += 1,
                    Phase::Beginning | Phase::Live { .. } => {
                        runs.running.extend(self.runs.records.get(run).map(|record| record.id.to_string()));
                    }
                    Phase::Ending(_) | Phase::Ended => {}
                }
            }
            let last = self.runs.kept.get(&key).and_then(|kept| kept.back());
            runs.last = last.and_then(|last| {
                Some(LastRun { id: last.id.clone(), outcome: last.outcome?, ended_at: last.ended_at? })
            });
            if !runs.running.is_empty() && status.state == State::Waiting {
                (status.state, status.running) = (State::Running, true);
                status.reason = Some(match runs.running.len() {
                    1 => "1 run is under way".to_owned(),
                    more => format!("{more} runs are under way"),
                });
                status.waiting_for = Vec::new();
            }
            status.runs = Some(Box::new(runs));
            status.next_run_at = self.runs.next_runs.get(&key).copied().map(Time);
        }
    }

    /// Launches a run whose machine is on record, unless it is being stopped by now.
    pub(super) fn launch_run(&mut self, Launching { key, attempt, effect, .. }: Launching) {
        let Some(agent) = self.agents.get(&key) else { return };
        if agent.machine.is_leaving() || agent.machine.latest_attempt() != attempt {
            let why = machine::NotStarted::CutOff;
            self.step(&key, machine::Event::NotStarted { attempt, why });
            return self.step(&key, machine::Event::Gone { attempt });
        }
        self.carry_out(&key, effect);
    }

    /// Takes in the effects of a run's machine that concern no agent.
    pub(super) fn is_of_run(key: &Key, effect: &Effect) -> bool {
        key.is_run() && matches!(effect, Effect::Account(_) | Effect::OfferShell { .. })
    }
}

fn first_start(machine: &Machine) -> Option<Time> {
    machine.first_start().map(|at| Time(at.wall()))
}

/// A status without anything but when its task was taken.
fn of_nothing(at: Time) -> RunStatus {
    RunStatus {
        name: String::new(),
        agent: String::new(),
        id: String::new(),
        state: State::Waiting,
        reason: None,
        outcome: None,
        plan: None,
        by: None,
        labels: BTreeMap::new(),
        queued_at: at,
        started_at: None,
        ended_at: None,
        position: None,
        waiting_for: Vec::new(),
        harness: None,
        user: None,
        session: String::new(),
        pid: None,
        attempts: 0,
        restarts: 0,
        exit: None,
        stdout_bytes: None,
        stderr_bytes: None,
        truncated: false,
        activity: None,
        hold: None,
        conversation: None,
        result: None,
        cost_usd: None,
        tokens: None,
    }
}

/// A run as lists show it: without the text of its result.
fn in_list(status: &RunStatus) -> RunStatus {
    let mut status = status.clone();
    if let Some(result) = &mut status.result {
        result.text.clear();
    }
    status
}
