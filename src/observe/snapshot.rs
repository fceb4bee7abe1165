//! What the daemon knows at one instant, ready to be served.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use hyper::body::Bytes;

use crate::agent::launch::Launch;
use crate::agent::secrets::Secrets;
use crate::contain::cgroup::Cgroups;
use crate::observe::facts::Facts;
use crate::observe::redactions::{Redactions, Sources, Unknown};
use crate::state::history::History;
use crate::text::printable::json_line;
use crate::text::redact::Redaction;
use crate::wire::status::{AgentStatus, Errors, Health, Resources, State};

/// What an agent was given, or is to be given: only for what must not be shown of it.
#[derive(Clone, Debug)]
pub struct Launched {
    /// As far as this daemon knows it.
    pub launches: Vec<Arc<Launch>>,
    /// Whether that is all: an earlier daemon may have launched what runs.
    pub is_all: bool,
}

/// What the daemon knows at one instant, ready to be served: made by the supervisor whenever something changes, read by the API.
#[derive(Debug)]
pub struct Snapshot {
    agents: Vec<AgentStatus>,
    by_name: HashMap<String, usize>,
    agents_body: Bytes,
    started: Instant,
    errors: Errors,
    groups: Option<Arc<Cgroups>>,
    histories: HashMap<String, Arc<History>>,
    /// What was launched, by agent: only for what must not be shown of it.
    launches: HashMap<String, Launched>,
    /// Likewise.
    secrets: Arc<Secrets>,
    /// What was made ready of both.
    redactions: Arc<Redactions>,
    facts: Facts,
    is_read: bool,
}

impl Snapshot {
    /// Takes the statuses in any order. `started` is when the daemon did.
    pub fn new(mut agents: Vec<AgentStatus>, started: Instant, errors: Errors) -> Self {
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        let by_name = agents.iter().enumerate().map(|(at, agent)| (agent.name.to_lowercase(), at)).collect();
        let agents_body = json_line(&agents).into();
        let (histories, launches, secrets) = (HashMap::new(), HashMap::new(), Arc::default());
        let (groups, redactions, facts, is_read) = (None, Arc::default(), Facts::new(SystemTime::now()), true);
        Self {
            agents,
            by_name,
            agents_body,
            started,
            errors,
            groups,
            histories,
            launches,
            secrets,
            redactions,
            facts,
            is_read,
        }
    }

    /// The same, saying whether the declarations have been read.
    #[must_use]
    pub fn with_reading(self, is_read: bool) -> Self {
        Self { is_read, ..self }
    }

    /// Whether the declarations have been read. Before, agents that are declared may be missing.
    pub fn is_read(&self) -> bool {
        self.is_read
    }

    /// The same, with what was launched, or is to be, by key: so that nothing secret of it is shown.
    #[must_use]
    pub fn with_launches(self, launches: HashMap<String, Launched>) -> Self {
        Self { launches, ..self }
    }

    /// The same, with all secrets that are known: likewise.
    #[must_use]
    pub fn with_secrets(self, secrets: Arc<Secrets>) -> Self {
        Self { secrets, ..self }
    }

    /// The same, with what was made ready of that before: [`Redactions`] are for one state of the inputs.
    #[must_use]
    pub fn with_redactions(self, redactions: Arc<Redactions>) -> Self {
        Self { redactions, ..self }
    }

    /// What must not be shown of what an agent printed, whose name is in lower case.
    pub async fn redaction(&self, agent: &str) -> Result<Arc<Redaction>, Unknown> {
        self.redactions.of(self.sources(agent)?).await
    }

    /// What must not be shown of this launch.
    pub async fn redaction_of(&self, launch: &Arc<Launch>) -> Result<Arc<Redaction>, Unknown> {
        self.redactions.of(Sources::of_launch(launch)).await
    }

    /// What one was given that is no longer declared, or that an earlier daemon launched, is not known: it may have been anything that
    /// others are given, or any secret that there is. Where these could not be read either, nothing is known.
    fn sources(&self, agent: &str) -> Result<Sources, Unknown> {
        match self.launches.get(agent) {
            Some(launched) if launched.is_all => Ok(Sources { launches: launched.launches.clone(), secrets: None }),
            _ if self.secrets.is_complete => {
                let launches = self.launches.values().flat_map(|launched| launched.launches.iter().cloned()).collect();
                Ok(Sources { launches, secrets: Some(Arc::clone(&self.secrets)) })
            }
            _ => {
                let why = if self.is_read { "their directory is not there" } else { "it has not read them yet" };
                let why = self.errors.secrets.as_deref().unwrap_or(why);
                Err(Unknown::Secrets(why.lines().collect::<Vec<_>>().join("; ")))
            }
        }
    }

    /// The same, with what became of agents' earlier attempts, by key.
    #[must_use]
    pub fn with_histories(self, histories: HashMap<String, Arc<History>>) -> Self {
        Self { histories, ..self }
    }

    /// The same, where agents have control groups.
    #[must_use]
    pub fn with_groups(self, groups: Option<Arc<Cgroups>>) -> Self {
        Self { groups, ..self }
    }

    /// The same, with what metrics tell beside.
    #[must_use]
    pub fn with_facts(self, facts: Facts) -> Self {
        Self { facts, ..self }
    }

    /// What metrics tell beside.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What stands in the way of the daemon.
    pub fn errors(&self) -> &Errors {
        &self.errors
    }

    /// The body of `GET /v1/agents`, built once per snapshot.
    pub fn agents_body(&self) -> Bytes {
        self.agents_body.clone()
    }

    /// All agents, sorted by the bytes of their names.
    pub fn agents(&self) -> &[AgentStatus] {
        &self.agents
    }

    /// One agent, its name compared without regard to case.
    pub fn agent(&self, name: &str) -> Option<&AgentStatus> {
        self.by_name.get(&name.to_lowercase()).map(|&at| &self.agents[at])
    }

    /// The same, with its history, and with what it takes of the machine now as far as the kernel counts that. It answers from
    /// memory.
    pub fn agent_in_full(&self, name: &str) -> Option<AgentStatus> {
        let agent = self.agent(name)?.clone();
        let resources = self.resources(&agent);
        let history = self.histories.get(&agent.name.to_ascii_lowercase()).map(|history| history.latest_first());
        Some(AgentStatus { resources, history: history.unwrap_or_default(), ..agent })
    }

    /// What an agent takes of the machine now, as far as the kernel counts that. It answers from memory.
    pub fn resources(&self, agent: &AgentStatus) -> Option<Resources> {
        let group = self.groups.as_ref()?.agent(&agent.name.to_ascii_lowercase());
        Some(group.resources()).filter(|resources| *resources != Resources::default())
    }

    /// How many agents there are, by state, in a line.
    pub fn summary(&self) -> String {
        let count = |state| self.agents.iter().filter(|agent| agent.state == state).count();
        let counts = State::ALL.map(|state| (state, count(state))).into_iter().filter(|&(_, count)| count > 0);
        let counts: Vec<String> = counts.map(|(state, count)| format!("{count} {state}")).collect();
        let noun = if self.agents.len() == 1 { "agent" } else { "agents" };
        let colon = if counts.is_empty() { "" } else { ": " };
        format!("{} {noun}{colon}{}", self.agents.len(), counts.join(", "))
    }

    /// The answer to `GET /v1/health`, now.
    pub fn health(&self) -> Health {
        Health {
            state: if self.is_read { "running" } else { "starting" }.to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_error: self.errors.config.clone(),
            secrets_error: self.errors.secrets.clone(),
            state_error: self.errors.state.clone(),
            groups_error: self.errors.groups.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch_with(secret: &str) -> Arc<Launch> {
        Arc::new(Launch {
            environment: [("KEY".to_owned(), crate::sys::secret_bytes::SecretBytes::from(secret))].into(),
            secrets: ["KEY".to_owned()].into(),
            ..Launch::of_nothing()
        })
    }

    fn snapshot() -> Snapshot {
        let launched = |secret, is_all| Launched { launches: vec![launch_with(secret)], is_all };
        let launches = [
            ("known".to_owned(), launched("secret of known", true)),
            ("adopted".to_owned(), launched("secret of adopted", false)),
            ("waiting".to_owned(), Launched { launches: Vec::new(), is_all: false }),
        ];
        Snapshot::new(Vec::new(), Instant::now(), Errors::default()).with_launches(launches.into())
    }

    const TEXT: &str = "secret of known, secret of adopted, secret of nobody, second line, yes";

    #[tokio::test]
    async fn an_agent_launched_by_an_earlier_daemon_hides_all_secrets() {
        let secrets = Secrets::of(&[("UNUSED", "secret of nobody\nsecond line"), ("SHORT", "yes")]);
        let snapshot = snapshot().with_secrets(Arc::new(secrets));
        let shown = async |agent| snapshot.redaction(agent).await.unwrap().of(TEXT);
        assert_eq!(shown("known").await, TEXT.replace("secret of known", "****** ** *****"));
        for agent in ["adopted", "waiting", "no longer declared"] {
            let expected = "****** ** *****, ****** ** *******, ****** ** ******, ****** ****, yes";
            assert_eq!(shown(agent).await, expected, "{agent}");
        }
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
            let snapshot = Snapshot { errors, ..snapshot() }.with_reading(is_read);
            assert!(snapshot.redaction("known").await.unwrap().of(TEXT).starts_with("****** ** *****, secret"));
            for agent in ["adopted", "waiting", "no longer declared"] {
                let unknown = snapshot.redaction(agent).await.err().map(|unknown| unknown.to_string());
                assert!(unknown.as_ref().is_some_and(|why| why.contains(expected)), "{agent}: {unknown:?}");
            }
        }
    }
}
