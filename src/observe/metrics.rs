//! Figures of the daemon and its agents, in the text format of `OpenMetrics` 1.0.
//!
//! Labels are the names of agents, words of fixed sets, and the labels of agents, of which each has a bounded number. Resources of an agent are reported only if it has a control group: a sum over
//! `/proc` would count shared memory once for each process, and would go down when a process ends.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::observe::facts::Restarts;
use crate::observe::snapshot::Snapshot;
use crate::sys::{log, procfs};
use crate::wire::activity::Doing;
use crate::wire::exit_status::ExitStatus;
use crate::wire::result::Tokens;
use crate::wire::status::{AgentStatus, Outcome, Resources, State, Time};

/// The media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The answer to `GET /metrics`, now. It asks the kernel several questions about each agent: some milliseconds for many agents.
pub fn text(snapshot: &Arc<Snapshot>) -> String {
    text_with_logs(snapshot, None)
}

/// The same, with the disk space that the agents' logs took when it was last measured.
pub fn text_with_logs(snapshot: &Arc<Snapshot>, log_bytes: Option<u64>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { snapshot: Arc::clone(snapshot), log_bytes }));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Scrape {
    snapshot: Arc<Snapshot>,
    log_bytes: Option<u64>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(&mut encoder);
        of_daemon(&mut families, &self.snapshot)?;
        families.gauge(
            ("agentd_log", Some(Unit::Bytes)),
            "disk space that the logs of all agents took when it was last measured",
            self.log_bytes.map(|bytes| (NONE, bytes)),
        )?;
        of_process(&mut families, self.snapshot.facts().started)?;
        of_agents(&mut families, &self.snapshot)
    }
}

fn of_daemon(families: &mut Families<'_, '_>, snapshot: &Snapshot) -> fmt::Result {
    let (facts, errors) = (snapshot.facts(), snapshot.errors());
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    families
        .0
        .encode_descriptor("agentd_build", "the daemon's version", None, MetricType::Info)?
        .encode_info(&version)?;
    families.truth(
        "agentd_config_last_reload_successful",
        "whether the jcard and every entry of it was good when last read",
        errors.config.is_none(),
    )?;
    families.gauge(
        ("agentd_config_last_reload_timestamp", Some(Unit::Seconds)),
        "when the jcard was last read that differed from the one before",
        facts.config_read.map(|at| (NONE, seconds(at))),
    )?;
    families.truth(
        "agentd_secrets_last_reload_successful",
        "whether all secrets were good when last read",
        errors.secrets.is_none(),
    )?;
    families.truth(
        "agentd_state_recorded",
        "whether the next daemon would know all about the agents",
        errors.state.is_none(),
    )?;
    families.gauge(
        ("agentd_hold", None),
        "1 for each credential that does not work",
        snapshot
            .holds()
            .iter()
            .map(|held| (Some([("group", held.hold.group.clone()), ("kind", held.hold.kind.to_string())]), 1_u64)),
    )?;
    families.truth(
        "agentd_control_groups_available",
        "whether agents have the control groups that can be had",
        errors.groups.is_none(),
    )?;
    families.gauge(
        ("agentd_approvals_pending", None),
        "questions of agents that wait for an operator's answer",
        [(NONE, snapshot.approvals().pending.len() as u64)],
    )?;
    let help = "how long bringing the agents in line with what is desired took";
    let descriptor = ("agentd_reconcile_duration", Some(&Unit::Seconds), facts.reconcile.metric_type());
    facts.reconcile.encode(families.0.encode_descriptor(descriptor.0, help, descriptor.1, descriptor.2)?)?;
    families.counter(
        ("agentd_log_messages_dropped", None),
        "messages that were not logged because the log did not take them in time",
        [(NONE, log::dropped())],
    )
}

/// Figures of the process, under the names that all Prometheus exporters use.
fn of_process(families: &mut Families<'_, '_>, started: SystemTime) -> fmt::Result {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
    families.counter(
        ("process_cpu", Some(Unit::Seconds)),
        "processor time of the daemon, without the agents",
        usage.map(|usage| (NONE, microseconds(usage.user_time() + usage.system_time()))),
    )?;
    let memory = procfs::read("/proc/self/statm").ok();
    let mut pages = memory.iter().flat_map(|text| procfs::fields(text)).map_while(procfs::number::<u64>);
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok());
    let mut bytes = || Some((NONE, pages.next()? * page?));
    families.gauge(("process_virtual_memory", Some(Unit::Bytes)), "addresses that the daemon has taken", bytes())?;
    families.gauge(("process_resident_memory", Some(Unit::Bytes)), "memory of the daemon", bytes())?;
    families.gauge(
        ("process_start_time", Some(Unit::Seconds)),
        "when the daemon was started",
        [(NONE, seconds(started))],
    )?;
    // Not counting the descriptor that reads the folder.
    let open = fs::read_dir("/proc/self/fd").ok().map(|all| (NONE, all.count().saturating_sub(1) as u64));
    families.gauge(("process_open_fds", None), "open descriptors of the daemon", open)?;
    let most = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| (NONE, soft));
    families.gauge(("process_max_fds", None), "how many descriptors the daemon may have open", most)
}

fn of_labels(families: &mut Families<'_, '_>, agents: &[AgentStatus]) -> fmt::Result {
    families.gauge(
        ("agentd_agent_labels", None),
        "1 for each label of the agent, with its value",
        agents.iter().flat_map(|agent| {
            agent.labels.iter().map(|(label, value)| {
                let labels = [("agent", agent.name.as_str()), ("label", label.as_str()), ("value", value.as_str())];
                (Some(labels), 1_u64)
            })
        }),
    )
}

#[allow(clippy::too_many_lines, reason = "it is a list of metrics")]
fn of_agents(families: &mut Families<'_, '_>, snapshot: &Snapshot) -> fmt::Result {
    let agents = snapshot.agents();
    let each = |value: fn(&AgentStatus) -> Option<f64>| {
        agents.iter().filter_map(move |agent| Some((Some([("agent", agent.name.as_str())]), value(agent)?)))
    };
    families.gauge(
        ("agentd_agent_state", None),
        "1 for the state that the agent is in, 0 for the others",
        agents.iter().flat_map(|agent| {
            State::ALL.map(|state| {
                (Some([("agent", agent.name.clone()), ("state", state.to_string())]), u64::from(agent.state == state))
            })
        }),
    )?;
    families.gauge(
        ("agentd_agent_outcome", None),
        "1 for the outcome of the agent, once it has one, 0 for the others",
        agents.iter().flat_map(|agent| {
            Outcome::ALL.map(|outcome| {
                let labels = [("agent", agent.name.as_str()), ("outcome", outcome.word())];
                (Some(labels), u64::from(agent.outcome == Some(outcome)))
            })
        }),
    )?;
    families.gauge(
        ("agentd_agent_activity", None),
        "1 for what the agent does, 0 for the rest; nothing while that is not known",
        agents.iter().filter_map(|agent| Some((agent, agent.activity.as_ref()?.status))).flat_map(|(agent, doing)| {
            Doing::ALL.map(|it| {
                let labels = [("agent", agent.name.as_str()), ("activity", it.word())];
                (Some(labels), u64::from(it == doing))
            })
        }),
    )?;
    of_labels(families, agents)?;
    families.gauge(
        ("agentd_agent_error", None),
        "whether a fault of the agent needs attention",
        agents.iter().map(|agent| (Some([("agent", agent.name.as_str())]), u64::from(agent.error.is_some()))),
    )?;
    families.counter(
        ("agentd_agent_restarts", None),
        "launches after the first, since the daemon was started: by policy, of a changed declaration, after one that came to nothing",
        snapshot.facts().restarts.iter().flat_map(|(name, restarts)| {
            let Restarts { policy, declaration, retry } = *restarts;
            [("policy", policy), ("declaration", declaration), ("retry", retry)]
                .map(|(reason, count)| (Some([("agent", name.as_str()), ("reason", reason)]), count))
        }),
    )?;
    families.gauge(
        ("agentd_agent_start_time", Some(Unit::Seconds)),
        "when the harness of the present or latest attempt was started",
        each(|agent| agent.started_at.map(|Time(at)| seconds(at))),
    )?;
    families.gauge(
        ("agentd_agent_last_output_timestamp", Some(Unit::Seconds)),
        "when the present or latest attempt last printed something",
        agents.iter().filter_map(|agent| {
            let at = snapshot.last_output(&agent.name.parse().ok()?)?;
            Some((Some([("agent", agent.name.as_str())]), seconds(at)))
        }),
    )?;
    families.gauge(
        ("agentd_agent_last_exit_timestamp", Some(Unit::Seconds)),
        "when the latest finished attempt ended",
        each(|agent| agent.exit.as_ref().map(|exit| seconds(exit.at.0))),
    )?;
    families.gauge(
        ("agentd_agent_last_exit_code", None),
        "with which status the latest finished attempt exited, if it did",
        each(|agent| match agent.exit.as_ref()?.how {
            ExitStatus::Code(code) => Some(code.into()),
            _ => None,
        }),
    )?;
    families.gauge(
        ("agentd_agent_last_exit_signal", None),
        "the number of the signal that ended the latest finished attempt, if one did",
        each(|agent| match &agent.exit.as_ref()?.how {
            ExitStatus::Signal(signal) => Some(signal.number().into()),
            _ => None,
        }),
    )?;
    of_costs(families, agents)?;
    let resources: Vec<(&str, Resources)> = agents
        .iter()
        .filter_map(|agent| Some((agent.name.as_str(), snapshot.resources(&agent.name.parse().ok()?)?)))
        .collect();
    families.counter(
        ("agentd_agent_cpu", Some(Unit::Seconds)),
        "processor time of the present or latest attempt, with all that it started",
        resources.iter().filter_map(|(name, it)| Some((Some([("agent", *name)]), microseconds_of(it.cpu_usec?)))),
    )?;
    let bytes = Some(Unit::Bytes);
    let parts: [(_, _, Part); 4] = [
        (("agentd_agent_memory", bytes.clone()), "memory of the agent, with all that it started", |it| it.memory),
        (("agentd_agent_memory_limit", bytes), "how much memory the agent may have", |it| it.memory_max),
        (("agentd_agent_tasks", None), "processes and threads of the agent", |it| it.tasks),
        (("agentd_agent_tasks_limit", None), "how many processes and threads the agent may have", |it| it.tasks_max),
    ];
    for (name, help, part) in parts {
        families.gauge(
            name,
            help,
            resources.iter().filter_map(|(name, it)| Some((Some([("agent", *name)]), part(it)?))),
        )?;
    }
    Ok(())
}

/// What agents cost, as their harnesses say.
fn of_costs(families: &mut Families<'_, '_>, agents: &[AgentStatus]) -> fmt::Result {
    families.counter(
        ("agentd_cost_usd", None),
        "what the agent has cost under its present declaration, in US dollars, as its harness says",
        agents.iter().filter_map(|agent| Some((Some([("agent", agent.name.as_str())]), agent.cost_usd?))),
    )?;
    families.counter(
        ("agentd_tokens", None),
        "the tokens that the agent has taken under its present declaration, as its harness says",
        agents.iter().filter_map(|agent| Some((agent.name.as_str(), agent.tokens?))).flat_map(|(name, tokens)| {
            let Tokens { input, output, cache_read, cache_write } = tokens;
            [("input", input), ("output", output), ("cache_read", cache_read), ("cache_write", cache_write)]
                .map(|(kind, count)| (Some([("agent", name), ("kind", kind)]), count))
        }),
    )
}

type Part = fn(&Resources) -> Option<u64>;

/// No labels: there is only one.
const NONE: Option<[(&str, &str); 0]> = None;

struct Families<'e, 'w>(&'e mut DescriptorEncoder<'w>);

impl Families<'_, '_> {
    fn truth(&mut self, name: &str, help: &str, value: bool) -> fmt::Result {
        self.gauge((name, None), help, [(NONE, u64::from(value))])
    }

    fn gauge<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        (name, unit): (&str, Option<Unit>),
        help: &str,
        samples: impl IntoIterator<Item = (Option<L>, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in samples {
            match labels {
                Some(labels) => family.encode_family(&labels)?.encode_gauge(&value)?,
                None => family.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn counter<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        (name, unit): (&str, Option<Unit>),
        help: &str,
        samples: impl IntoIterator<Item = (Option<L>, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in samples {
            match labels {
                Some(labels) => family.encode_family(&labels)?.encode_counter::<NoLabelSet, V, u64>(&value, None)?,
                None => family.encode_counter::<NoLabelSet, V, u64>(&value, None)?,
            }
        }
        Ok(())
    }
}

/// Seconds since the epoch.
fn seconds(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn microseconds_of(count: u64) -> f64 {
    Duration::from_micros(count).as_secs_f64()
}

fn microseconds(time: nix::sys::time::TimeVal) -> f64 {
    microseconds_of(u64::try_from(time.num_microseconds()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rstest::rstest;

    use super::*;
    use crate::agent::machine::LaunchReason;
    use crate::observe::facts::Facts;
    use crate::observe::outputs::Outputs;
    use crate::observe::snapshot::Parts;
    use crate::wire::status::Errors;

    fn agent(more: &serde_json::Value) -> AgentStatus {
        let mut status = serde_json::json!({ "name": "a", "running": true, "restarts": 0, "state": "running" });
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(status).unwrap()
    }

    fn told(agents: Vec<AgentStatus>, errors: Errors, facts: Facts) -> String {
        text(&Arc::new(Parts { facts, ..Parts::new(agents, Instant::now(), errors) }.into()))
    }

    fn told_of(agents: Vec<AgentStatus>) -> String {
        told(agents, Errors::default(), Facts::new(SystemTime::UNIX_EPOCH))
    }

    /// The samples of a family, in order.
    fn samples<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#')).collect()
    }

    #[test]
    fn exactly_one_state_is_1() {
        let text = told_of(vec![agent(&serde_json::json!({ "state": "backoff" }))]);
        let samples = samples(&text, "agentd_agent_state{");
        assert_eq!(samples.len(), 7);
        let ones: Vec<_> = samples.iter().filter(|sample| sample.ends_with(" 1")).collect();
        assert_eq!(ones, [&"agentd_agent_state{agent=\"a\",state=\"backoff\"} 1"]);
    }

    #[test]
    fn only_the_outcome_that_an_agent_has_is_1() {
        for (outcome, expected) in
            [(serde_json::json!({}), None), (serde_json::json!({ "outcome": "gave-up" }), Some("gave-up"))]
        {
            let text = told_of(vec![agent(&outcome)]);
            let samples = samples(&text, "agentd_agent_outcome{");
            assert_eq!(samples.len(), 4);
            let ones: Vec<_> = samples.iter().filter(|sample| sample.ends_with(" 1")).copied().collect();
            let expected = expected.map(|word| format!("agentd_agent_outcome{{agent=\"a\",outcome=\"{word}\"}} 1"));
            assert_eq!(ones, expected.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_last_output_is_shown_once_there_is_one() {
        let outputs = Outputs::default();
        let parts = Parts {
            outputs: outputs.clone(),
            ..Parts::new(vec![agent(&serde_json::json!({}))], Instant::now(), Errors::default())
        };
        let snapshot = Arc::new(Snapshot::from(parts));
        let told = || samples(&text(&snapshot), "agentd_agent_last_output_timestamp_seconds{").join("");
        assert_eq!(told(), "");
        outputs.saw(&"a".parse().unwrap(), 1, Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)));
        assert_eq!(told(), "agentd_agent_last_output_timestamp_seconds{agent=\"a\"} 1.5");
    }

    #[rstest]
    #[case(serde_json::json!({ "code": 3 }), &["agentd_agent_last_exit_code{agent=\"a\"} 3.0"])]
    #[case(serde_json::json!({ "signal": "SIGKILL" }), &["agentd_agent_last_exit_signal{agent=\"a\"} 9.0"])]
    #[case(serde_json::json!({ "signal": "SIGRTMIN+3" }), &["agentd_agent_last_exit_signal{agent=\"a\"} 37.0"])]
    #[case(serde_json::json!({ "signal": "SIG34" }), &["agentd_agent_last_exit_signal{agent=\"a\"} 34.0"])]
    #[case(serde_json::json!({ "cause": "nobody knows" }), &[])]
    fn an_exit_is_a_status_or_a_signal_or_neither(#[case] mut exit: serde_json::Value, #[case] expected: &[&str]) {
        exit["at"] = "2026-01-01T00:00:00.500Z".into();
        let text = told_of(vec![agent(&serde_json::json!({ "exit": exit }))]);
        let told = [samples(&text, "agentd_agent_last_exit_code"), samples(&text, "agentd_agent_last_exit_signal")];
        assert_eq!(told.concat(), expected);
        let at = samples(&text, "agentd_agent_last_exit_timestamp_seconds");
        assert_eq!(at, ["agentd_agent_last_exit_timestamp_seconds{agent=\"a\"} 1767225600.5"]);
    }

    #[test]
    fn what_never_happened_is_left_out() {
        let text = told_of(vec![agent(&serde_json::json!({}))]);
        for name in ["start_time", "last_exit", "cpu", "memory", "tasks"] {
            assert!(samples(&text, &format!("agentd_agent_{name}")).is_empty(), "{name}");
        }
    }

    #[test]
    fn errors_are_shown_as_failed_reloads() {
        let errors = Errors {
            config: Some("x".to_owned()),
            state: Some("y".to_owned()),
            groups: Some("z".to_owned()),
            ..Errors::default()
        };
        let facts = Facts { config_read: Some(SystemTime::UNIX_EPOCH), ..Facts::new(SystemTime::UNIX_EPOCH) };
        let text = told(Vec::new(), errors, facts);
        for line in [
            "agentd_config_last_reload_successful 0",
            "agentd_config_last_reload_timestamp_seconds 0.0",
            "agentd_secrets_last_reload_successful 1",
            "agentd_state_recorded 0",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
    }

    #[test]
    fn of_a_duration_there_are_count_sum_and_buckets() {
        let facts = Facts::new(SystemTime::UNIX_EPOCH);
        facts.reconcile.observe(0.002);
        let text = told(Vec::new(), Errors::default(), facts);
        assert_eq!(
            samples(&text, "agentd_reconcile_duration_seconds_count"),
            ["agentd_reconcile_duration_seconds_count 1"]
        );
        assert!(text.contains("agentd_reconcile_duration_seconds_bucket{le=\"0.001\"} 0\n"), "{text}");
        assert!(text.contains("agentd_reconcile_duration_seconds_bucket{le=\"0.005\"} 1\n"), "{text}");
    }

    #[test]
    fn metrics_cover_the_daemon_itself() {
        let text = told_of(Vec::new());
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_open_fds",
            "process_max_fds",
        ] {
            let sample = samples(&text, name)[0];
            assert!(sample.rsplit(' ').next().unwrap().parse::<f64>().unwrap() > 0.0, "{sample}");
        }
        assert!(text.ends_with("\n# EOF\n"));
    }

    #[test]
    fn a_launch_is_counted_by_its_reason() {
        let mut restarts = Restarts::default();
        let mut after = |reason| {
            restarts.count(reason);
            [restarts.policy, restarts.declaration, restarts.retry]
        };
        assert_eq!(after(LaunchReason::First), [0, 0, 0], "the first is no restart");
        assert_eq!(after(LaunchReason::Policy), [1, 0, 0]);
        assert_eq!(after(LaunchReason::Retry), [1, 0, 1]);
        assert_eq!(after(LaunchReason::Declaration), [1, 1, 1]);
        assert_eq!(after(LaunchReason::Recovery), [1, 1, 2]);
    }
}
