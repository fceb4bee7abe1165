//! The snapshot: what the daemon knows at one instant, ready to be served.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hyper::body::Bytes;

use crate::agent::declaration::Reading;
use crate::agent::harness::rule::Rule;
use crate::agent::labels::{self, Selector};
use crate::agent::name::Key;
use crate::agent::user::AgentUser;
use crate::contain::cgroup::Cgroups;
use crate::observe::facts::Facts;
use crate::observe::outputs::Outputs;
use crate::observe::redactions::{Redactions, Unknown, prepared};
use crate::state::history::History;
use crate::text::printable::json_line;
use crate::text::redact::Redactor;
use crate::wire::approval::{Approval, Approvals};
use crate::wire::hold::GroupHold;
use crate::wire::status::{AgentStatus, Errors, Health, Override, Resources, State, Time};

/// What a snapshot is made of.
#[derive(Debug)]
pub struct Parts {
    /// The agents, in any order.
    pub agents: Vec<AgentStatus>,
    /// When the daemon started.
    pub started: Instant,
    /// What hinders the daemon.
    pub errors: Errors,
    /// The control groups of agents, if they have any.
    pub groups: Option<Arc<Cgroups>>,
    /// The finished attempts of agents.
    pub histories: HashMap<Key, Arc<History>>,
    /// All that a snapshot has of launches and secrets.
    pub redactions: Arc<Redactions>,
    /// Where overrides are written.
    pub override_dir: Option<String>,
    /// The override that lets nothing start, if there is one.
    pub paused: Option<Override>,
    /// The credentials that do not work.
    pub holds: Vec<GroupHold>,
    /// What the words of harnesses mean, by agent.
    pub rules: HashMap<Key, Arc<[Rule]>>,
    /// What only metrics show.
    pub facts: Facts,
    /// When agents last printed something.
    pub outputs: Outputs,
    /// Whom agents run as that do not run as the default user.
    pub users: HashMap<Key, AgentUser>,
    /// Whom their latest attempts that are over ran as, also of agents that are not held.
    pub former_users: Arc<HashMap<Key, AgentUser>>,
    /// Whether the declarations have been read. Before that, agents that are declared may be missing.
    pub is_read: bool,
    /// The reading of the jcard that is in force.
    pub reading: Option<Reading>,
    /// What agents ask, and what came of that.
    pub approvals: Approvals,
}

impl Parts {
    /// These statuses, and nothing else that can be left out.
    pub fn new(agents: Vec<AgentStatus>, started: Instant, errors: Errors) -> Self {
        Self {
            agents,
            started,
            errors,
            groups: None,
            histories: HashMap::new(),
            redactions: Arc::default(),
            override_dir: None,
            paused: None,
            holds: Vec::new(),
            rules: HashMap::new(),
            facts: Facts::new(SystemTime::now()),
            outputs: Outputs::default(),
            users: HashMap::new(),
            former_users: Arc::default(),
            is_read: true,
            reading: None,
            approvals: Approvals::default(),
        }
    }
}

/// What the daemon knows at one instant, ready to be served. The supervisor makes one whenever something changes; the API reads it.
#[derive(Debug)]
pub struct Snapshot {
    /// Sorted by the bytes of their names.
    parts: Parts,
    by_key: HashMap<Key, usize>,
    agents_body: Mutex<AgentsBody>,
}

/// The body of `GET /v1/agents`.
#[derive(Debug)]
struct AgentsBody {
    bytes: Bytes,
    /// The [changes](Outputs::changes) that it shows.
    changes: u64,
    made: Instant,
}

impl AgentsBody {
    fn new(agents: &mut [AgentStatus], by_key: &HashMap<Key, usize>, outputs: &Outputs) -> Self {
        // Before the times are read: what changes meanwhile is shown next time.
        let changes = outputs.changes();
        outputs.of_each(by_key, |&at, time| agents[at].last_output_at = time.map(Time));
        Self { bytes: json_line(agents).into(), changes, made: Instant::now() }
    }
}

/// How long the body of `GET /v1/agents` may show an earlier time of the last output.
const BODY_AGE: Duration = Duration::from_secs(1);

impl From<Parts> for Snapshot {
    fn from(mut parts: Parts) -> Self {
        parts.agents.sort_by(|a, b| a.name.cmp(&b.name));
        let keys = parts.agents.iter().enumerate().filter_map(|(at, agent)| Some((agent.name.parse().ok()?, at)));
        let by_key: HashMap<Key, usize> = keys.collect();
        let agents_body = Mutex::new(AgentsBody::new(&mut parts.agents, &by_key, &parts.outputs));
        Self { parts, by_key, agents_body }
    }
}

impl Snapshot {
    /// A snapshot of these statuses, and of nothing else.
    pub fn new(agents: Vec<AgentStatus>, started: Instant, errors: Errors) -> Self {
        Parts::new(agents, started, errors).into()
    }

    /// Whether the declarations have been read. Before, agents that are declared may be missing.
    pub fn is_read(&self) -> bool {
        self.parts.is_read
    }

    /// Whom agents run as that do not run as the default user.
    pub fn users(&self) -> impl Iterator<Item = &AgentUser> {
        self.parts.users.values()
    }

    /// Whom an agent runs as; `None` is the default user.
    pub fn user_of(&self, agent: &Key) -> Option<&AgentUser> {
        self.parts.users.get(agent)
    }

    /// Whom the latest attempt of an agent ran as, also of one that is not held any more; `None` is the default user.
    pub fn printer(&self, agent: &Key) -> Option<&AgentUser> {
        let has_session = || self.agent(agent).is_some_and(|status| !status.session.is_empty());
        match self.user_of(agent) {
            None if !has_session() => self.parts.former_users.get(agent),
            user => user,
        }
    }

    /// The redactor of what an agent printed, prepared.
    pub async fn redactor(&self, agent: &Key) -> Result<Arc<Redactor>, Unknown> {
        if let Some(redactor) = self.parts.redactions.of(agent) {
            return prepared(Arc::clone(redactor)).await;
        }
        let why = if self.parts.is_read { "their directory is not there" } else { "it has not read them yet" };
        let why = self.parts.errors.secrets.as_deref().unwrap_or(why);
        Err(Unknown::Secrets(why.lines().collect::<Vec<_>>().join("; ")))
    }

    /// What agents ask whether they may do it, and what came of that.
    pub fn approvals(&self) -> &Approvals {
        &self.parts.approvals
    }

    /// What the words of an agent's harness mean.
    pub fn rules(&self, agent: &Key) -> Option<&Arc<[Rule]>> {
        self.parts.rules.get(agent)
    }

    /// The credentials that do not work, by the names of their groups.
    pub fn holds(&self) -> &[GroupHold] {
        &self.parts.holds
    }

    /// What only metrics show.
    pub fn facts(&self) -> &Facts {
        &self.parts.facts
    }

    /// What hinders the daemon.
    pub fn errors(&self) -> &Errors {
        &self.parts.errors
    }

    /// The body of `GET /v1/agents`, built once per snapshot, and again after at least a second if an agent has printed something.
    pub fn agents_body(&self) -> Bytes {
        let mut body = self.agents_body.lock().unwrap_or_else(PoisonError::into_inner);
        if body.changes != self.parts.outputs.changes() && body.made.elapsed() >= BODY_AGE {
            *body = AgentsBody::new(&mut self.parts.agents.clone(), &self.by_key, &self.parts.outputs);
        }
        body.bytes.clone()
    }

    /// When an agent's present or latest attempt last printed something. `None` if it printed nothing, or if that is unknown.
    pub fn last_output(&self, agent: &Key) -> Option<SystemTime> {
        self.parts.outputs.of(agent)
    }

    /// All agents, sorted by the bytes of their names.
    pub fn agents(&self) -> &[AgentStatus] {
        &self.parts.agents
    }

    /// The agents that have all of these labels, as the body of `GET /v1/agents` lists them.
    pub fn agents_labeled(&self, labels: &[Selector]) -> Vec<AgentStatus> {
        let meant = self.agents().iter().filter(|agent| labels::fits_all(labels, &agent.labels));
        let with_output = |agent: &AgentStatus| {
            let last_output_at = agent.name.parse().ok().and_then(|key| self.last_output(&key)).map(Time);
            AgentStatus { last_output_at, ..agent.clone() }
        };
        meant.map(with_output).collect()
    }

    /// One agent.
    pub fn agent(&self, key: &Key) -> Option<&AgentStatus> {
        self.by_key.get(key).map(|&at| &self.parts.agents[at])
    }

    /// One agent with its history and its resources as far as the kernel counts them. The kernel answers from memory.
    pub fn agent_in_full(&self, key: &Key) -> Option<AgentStatus> {
        let agent = self.agent(key)?.clone();
        let resources = self.resources(key);
        let history = self.parts.histories.get(key).map(|history| history.latest_first());
        let last_output_at = self.last_output(key).map(Time);
        let its = |approval: &&Approval| approval.agent == agent.name;
        let approvals = self.parts.approvals.pending.iter().filter(its).cloned().collect();
        Some(AgentStatus { resources, last_output_at, history: history.unwrap_or_default(), approvals, ..agent })
    }

    /// The resources of an agent, as far as the kernel counts them. The kernel answers from memory.
    pub fn resources(&self, key: &Key) -> Option<Resources> {
        let group = self.parts.groups.as_ref()?.agent(key);
        Some(group.resources()).filter(|resources| *resources != Resources::default())
    }

    /// The number of agents by state, in a line.
    pub fn summary(&self) -> String {
        let count = |state| self.parts.agents.iter().filter(|agent| agent.state == state).count();
        let counts = State::ALL.map(|state| (state, count(state))).into_iter().filter(|&(_, count)| count > 0);
        let counts: Vec<String> = counts.map(|(state, count)| format!("{count} {state}")).collect();
        let noun = if self.parts.agents.len() == 1 { "agent" } else { "agents" };
        let colon = if counts.is_empty() { "" } else { ": " };
        format!("{} {noun}{colon}{}", self.parts.agents.len(), counts.join(", "))
    }

    /// The answer to `GET /v1/health`, now.
    pub fn health(&self) -> Health {
        Health {
            state: if self.parts.is_read { "running" } else { "starting" }.to_owned(),
            uptime_seconds: self.parts.started.elapsed().as_secs(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_error: self.parts.errors.config.clone(),
            secrets_error: self.parts.errors.secrets.clone(),
            state_error: self.parts.errors.state.clone(),
            groups_error: self.parts.errors.groups.clone(),
            override_error: self.parts.errors.overrides.clone(),
            override_dir: self.parts.override_dir.clone(),
            paused: self.parts.paused.clone(),
            holds: self.parts.holds.len(),
            config_generation: self.parts.reading.map(|reading| reading.generation),
            config_modified_at: self.parts.reading.map(|reading| Time(reading.modified)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::launch::Launch;
    use crate::agent::machine::Machine;
    use crate::agent::name::key;
    use crate::observe::redactions::{AgentRedactor, Redactors};
    use crate::sys::secret_bytes::SecretBytes;

    #[test]
    fn the_printer_of_a_log_is_known_when_its_agent_is_gone() {
        let user = |name: &str| AgentUser { name: name.parse().unwrap(), uid: 47_000 };
        let agent = |name: &str, session: &str| -> AgentStatus {
            let words = serde_json::json!({ "name": name, "session": session, "running": false, "restarts": 0, "state": "waiting" });
            serde_json::from_value(words).unwrap()
        };
        let snapshot = Snapshot::from(Parts {
            agents: vec![agent("now", "now"), agent("default", "default"), agent("invalid", "")],
            users: [(key("now"), user("c"))].into(),
            former_users: Arc::new(["now", "default", "invalid", "gone"].map(|name| (key(name), user("b"))).into()),
            ..parts(None)
        });
        let printer = |name: &str| snapshot.printer(&key(name)).map(|user| user.name.to_string());
        assert_eq!(
            ["now", "default", "invalid", "gone", "other"].map(printer),
            [Some("c".to_owned()), None, Some("b".to_owned()), Some("b".to_owned()), None]
        );
    }

    /// With an agent whose secrets are known, one that an earlier daemon launched, and one that is not launched yet.
    fn parts(secrets: Option<&[&str]>) -> Parts {
        let of = |values: &[&str]| Arc::new(Redactor::new(values.iter().copied().map(SecretBytes::from)));
        let agents = [("known", "secret of known", true), ("adopted", "secret of adopted", false)]
            .map(|(name, secret, is_all)| (key(name), AgentRedactor { redactor: of(&[secret]), is_all }))
            .into_iter()
            .chain([(key("waiting"), AgentRedactor { redactor: of(&[]), is_all: false })]);
        let redactions = Arc::new(Redactions::new(agents.collect(), secrets.map(of)));
        Parts { redactions, ..Parts::new(Vec::new(), Instant::now(), Errors::default()) }
    }

    #[test]
    fn new_output_is_shown_at_once_for_one_and_after_a_second_for_all() {
        let status: AgentStatus = serde_json::from_value(
            serde_json::json!({ "name": "a", "running": true, "restarts": 0, "state": "running" }),
        )
        .unwrap();
        let outputs = Outputs::default();
        let parts = Parts { outputs: outputs.clone(), ..Parts::new(vec![status], Instant::now(), Errors::default()) };
        let snapshot = Snapshot::from(parts);
        let listed = || String::from_utf8(snapshot.agents_body().to_vec()).unwrap();
        let before = listed();
        assert!(!before.contains("last_output_at"), "{before}");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        outputs.saw(&key("a"), 1, Some(at));
        assert_eq!(snapshot.agent_in_full(&key("a")).unwrap().last_output_at, Some(Time(at)));
        snapshot.agents_body.lock().unwrap().made += Duration::from_mins(1);
        assert_eq!(listed(), before, "it is made at most once a second");
        snapshot.agents_body.lock().unwrap().made = Instant::now().checked_sub(BODY_AGE).unwrap();
        assert!(listed().contains("\"last_output_at\":\"1970-01-01T00:00:01.000Z\""), "{}", listed());
    }

    const TEXT: &str = "secret of known, secret of adopted, secret of nobody, second line, yes";

    #[tokio::test]
    async fn an_agent_launched_by_an_earlier_daemon_hides_all_secrets() {
        let snapshot = Snapshot::from(parts(Some(&["secret of nobody\nsecond line", "yes"])));
        let shown = async |agent: &str| snapshot.redactor(&key(agent)).await.unwrap().redact(TEXT);
        assert_eq!(shown("known").await, TEXT.replace("secret of known", "****** ** *****"));
        for agent in ["adopted", "waiting", "former"] {
            let expected = "****** ** *****, ****** ** *******, ****** ** ******, ****** ****, yes";
            assert_eq!(shown(agent).await, expected, "{agent}");
        }
    }

    #[tokio::test]
    async fn a_snapshot_shows_no_secret_no_prompt_and_no_argument() {
        let said = ["hunter2hunter2", "the whole plan", "--argument", "not-a-secret"];
        let [secret, prompt, argument, value] = said.map(SecretBytes::from);
        let launch = Launch {
            arguments: vec![argument, prompt],
            prompt: Some(1),
            environment: [("KEY".to_owned(), secret), ("PLAIN".to_owned(), value)].into(),
            secrets: ["KEY".to_owned()].into(),
            ..Launch::of_nothing()
        };
        let redactor = Redactors::default().of(launch.secret_values());
        drop(launch);
        let agent = key("a");
        let agents = [(agent.clone(), AgentRedactor { redactor, is_all: true })].into();
        let status = Machine::new("a".parse().unwrap()).status();
        let redactions = Arc::new(Redactions::new(agents, None));
        let parts = Parts { redactions, ..Parts::new(vec![status], Instant::now(), Errors::default()) };
        let snapshot = Snapshot::from(parts);
        let redactor = snapshot.redactor(&agent).await.unwrap();
        assert_eq!(redactor.redact(said[0]), "********");
        let served = [
            format!("{snapshot:?} {:?}", snapshot.agent_in_full(&agent)),
            String::from_utf8(snapshot.agents_body().to_vec()).unwrap(),
        ];
        for (said, served) in said.iter().flat_map(|said| served.iter().map(move |served| (said, served))) {
            assert!(!served.contains(said), "{said}: {served}");
        }
        assert!(served[1].contains("\"name\":\"a\""));
    }

    #[tokio::test]
    async fn secrets_that_could_not_be_read_are_not_taken_for_none() {
        let why = "failed to read /s/KEY: EIO\nfailed to read /s/TOKEN: EIO";
        for (errors, is_read, expected) in [
            (
                Errors { secrets: Some(why.to_owned()), ..Errors::default() },
                true,
                "/s/KEY: EIO; failed to read /s/TOKEN",
            ),
            (Errors::default(), true, "their directory is not there"),
            (Errors::default(), false, "it has not read them yet"),
        ] {
            let snapshot = Snapshot::from(Parts { errors, is_read, ..parts(None) });
            assert!(
                snapshot.redactor(&key("known")).await.unwrap().redact(TEXT).starts_with("****** ** *****, secret")
            );
            for agent in ["adopted", "waiting", "former"] {
                let unknown = snapshot.redactor(&key(agent)).await.err().map(|unknown| unknown.to_string());
                assert!(unknown.as_ref().is_some_and(|why| why.contains(expected)), "{agent}: {unknown:?}");
            }
        }
    }
}
