//! Publishing: one state of things after the other, each once it is on record.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Agent, CLEAR_TIMEOUT, Course, Note, Supervisor};
use crate::agent::harness::rule::Rule;
use crate::agent::name::Key;
use crate::agent::orders::Overrides;
use crate::agent::user::AgentUser;
use crate::observe::facts::Facts;
use crate::observe::redactions::Redactions;
use crate::observe::snapshot::{Parts, Snapshot};
use crate::state::record::Version;
use crate::sys::clock::Timestamp;
use crate::wire::approval::{Approval, Approvals, Decision};
use crate::wire::events::What;
use crate::wire::reason::StopStage;
use crate::wire::status::{AgentStatus, Errors, Time};

/// The next state to publish.
#[derive(Debug)]
pub(super) struct Untold {
    snapshot: Arc<Snapshot>,
    pub(super) happened: Vec<What>,
    version: Version,
    /// When it is published even if it is not on record.
    pub(super) by: Timestamp,
    /// Whether it is the first after all was read.
    is_read: bool,
}

/// How long publishing may wait for the record.
const RECORD_TIMEOUT: Duration = Duration::from_millis(200);

/// One line for each change of state or reason, and for each new error.
pub(super) fn log_change(before: &AgentStatus, after: &AgentStatus) {
    if (before.state, &before.reason) != (after.state, &after.reason) {
        let (state, reason) = (after.state, after.reason.as_deref().unwrap_or_default());
        let (name, attempt, pid) = (&after.name, after.attempt_shown(), after.pid);
        if let Some(outcome) = after.outcome.filter(|outcome| outcome.is_failure()) {
            let outcome = outcome.word();
            tracing::warn!(agent = name, %state, attempt, pid, "{outcome}: {reason}");
        } else if after.stop_stage == Some(StopStage::Closing) {
            // Of no use to anybody, and a line for each agent when agentd stops.
            tracing::debug!(agent = name, %state, attempt, pid, "{reason}");
        } else {
            tracing::info!(agent = name, %state, attempt, pid, "{reason}");
        }
    }
    if let Some(error) = after.error.as_ref().filter(|&error| before.error.as_ref() != Some(error)) {
        tracing::error!(agent = after.name, "{error}");
    }
}

/// One line for what is asked, and one for what came of it.
pub(super) fn log_approval(approval: &Approval) {
    let Approval { id, agent, tool, decision, .. } = approval;
    match decision {
        None => tracing::info!(agent, id, tool, "asks for approval: agentd approve {id}"),
        Some(Decision { answer, who: Some(who), .. }) => tracing::info!(agent, id, tool, "{answer} by {who}"),
        Some(Decision { answer, .. }) => tracing::info!(agent, id, tool, "{answer}"),
    }
}

impl Supervisor {
    /// Publishes pending states in order, each once it is on record.
    pub(super) fn publish(&mut self) {
        loop {
            let now = Timestamp::now();
            if let Some(untold) = self.untold.take_if(|it| it.version <= self.recorded || it.by <= now) {
                self.notify(&untold.snapshot);
                self.tell(untold.snapshot, untold.happened);
                if untold.is_read {
                    self.outlets.notifier.ready();
                }
            }
            if self.untold.is_some() || !std::mem::take(&mut self.afterwards.publish) {
                return;
            }
            let patience = if self.record_error.is_some() { Duration::ZERO } else { RECORD_TIMEOUT };
            let snapshot = Arc::new(self.snapshot());
            let is_read = std::mem::take(&mut self.is_read);
            let errors = std::mem::replace(&mut self.errors, snapshot.errors().clone());
            self.happened.extend(What::of_errors(&errors, &self.errors));
            let happened = std::mem::take(&mut self.happened);
            self.untold = Some(Untold { snapshot, happened, version: self.version, by: now + patience, is_read });
        }
    }

    /// Who hears of an event and asks finds what it tells of.
    pub(super) fn tell(&self, snapshot: Arc<Snapshot>, happened: Vec<What>) {
        let after = Arc::clone(&snapshot);
        let before = self.outlets.snapshots.send_replace(snapshot);
        // An agent that was removed has those that it had.
        let labels = |what: &What| {
            let key = what.agent()?.parse().ok()?;
            Some(after.agent(&key).or_else(|| before.agent(&key))?.labels.clone())
        };
        if !happened.is_empty() {
            self.outlets.happenings.send_modify(|ring| {
                for what in happened {
                    let labels = labels(&what).unwrap_or_default();
                    ring.push_labeled(what, labels);
                }
            });
        }
    }

    /// What must not be shown of the agents that are held now.
    fn redactions(&mut self) -> Arc<Redactions> {
        let mut is_new = false;
        for agent in self.agents.values_mut() {
            is_new |= agent.redact(&mut self.redactors);
        }
        if let Some(redactions) = self.redactions.as_ref().filter(|it| !is_new && it.len() == self.agents.len()) {
            return Arc::clone(redactions);
        }
        let of = |(key, agent): (&Key, &Agent)| Some((key.clone(), agent.redactor.as_ref()?.1.clone()));
        let agents = self.agents.iter().filter_map(of).collect();
        let redactions = Arc::new(Redactions::new(agents, self.redactors.of_all(&self.desired.secrets)));
        self.redactions = Some(Arc::clone(&redactions));
        redactions
    }

    pub(super) fn snapshot(&mut self) -> Snapshot {
        let statuses = self.agents.values().map(Agent::status).collect();
        let state_errors: Vec<&str> = self.state_errors.iter().chain(&self.record_error).map(String::as_str).collect();
        let errors = Errors {
            config: self.desired.config_error.clone(),
            secrets: self.desired.secrets_error.clone(),
            state: Some(state_errors.join("\n")).filter(|errors| !errors.is_empty()),
            groups: self.resources.seats.default_seat().containment.groups_error(),
            overrides: self.desired.override_error.clone(),
        };
        let restarts = self.agents.values().map(|agent| (agent.machine.name().to_string(), agent.restarts)).collect();
        let facts = Facts { config_read: self.desired.config_read, restarts, ..self.facts.clone() };
        Snapshot::from(Parts {
            agents: statuses,
            started: self.started,
            errors,
            groups: self.resources.seats.default_seat().containment.groups(),
            histories: self.outlets.histories.of(self.agents.keys()),
            redactions: self.redactions(),
            override_dir: self.desired.override_dir.as_ref().map(|path| path.display().to_string()),
            paused: self.desired.overrides.as_deref().and_then(Overrides::pause).cloned(),
            holds: self.shown_holds(),
            rules: self.rules(),
            facts,
            outputs: self.resources.log_files.outputs(),
            users: self.users(),
            former_users: self.outlets.histories.users(),
            is_read: self.has_read,
            reading: self.desired.reading,
            approvals: self.approvals(),
        })
    }

    /// What agents ask, and what came of that.
    fn approvals(&self) -> Approvals {
        let all = || self.agents.values().map(|agent| agent.machine.approvals());
        let mut pending: Vec<Approval> = all().flat_map(|it| it.pending().cloned()).collect();
        let mut decided: Vec<Approval> = all().flat_map(|it| it.decided().cloned()).collect();
        pending.sort_by_key(|approval| approval.asked_at);
        decided.sort_by_key(|approval| std::cmp::Reverse(approval.decision.as_ref().map(|decision| decision.at)));
        Approvals { pending, decided }
    }

    /// The agents that have or had something on the tmux server of another user than the default one, and that user.
    fn users(&self) -> HashMap<Key, AgentUser> {
        let user = |(key, agent): (&Key, &Agent)| Some((key.clone(), agent.machine.user()?.clone()));
        self.agents.iter().filter_map(user).collect()
    }

    /// What the words of each agent's harness mean.
    fn rules(&self) -> HashMap<Key, Arc<[Rule]>> {
        let rules = |(key, agent): (&Key, &Agent)| {
            let rules = Arc::clone(&agent.machine.launch()?.rules);
            (!rules.is_empty()).then(|| (key.clone(), rules))
        };
        self.agents.iter().filter_map(rules).collect()
    }

    fn notify(&self, snapshot: &Snapshot) {
        if !self.outlets.notifier.is_heard() {
            return;
        }
        self.outlets.notifier.status(snapshot.summary());
        let deadlines = snapshot.agents().iter().filter_map(|agent| agent.deadline);
        if let Some(Time(deadline)) = deadlines.max().filter(|_| self.course == Course::Stopping) {
            let left = deadline.duration_since(std::time::SystemTime::now()).unwrap_or_default();
            self.outlets.notifier.extend(left + CLEAR_TIMEOUT);
        }
    }

    pub(super) fn recorded(&mut self, tried: Version, error: Option<String>) {
        self.recorded = tried;
        // What is not on record is noted by its launcher alone, until it has waited long enough.
        if error.is_none() {
            let noted: Vec<_> = self.to_note.extract_if(.., |note| note.version <= tried).collect();
            for Note { key, attempt, command, .. } in noted {
                self.command(&key, attempt, command);
            }
        }
        if error != self.record_error {
            if let Some(error) = &error {
                tracing::error!("{error}; trying again");
            } else {
                tracing::info!("the record can be written again");
            }
            self.record_error = error;
            self.afterwards.publish = true;
        }
    }
}
