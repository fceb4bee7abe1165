//! The alerting rules and the dashboard of the docs. Prometheus can parse their expressions, which query only what a running
//! daemon serves.

use std::collections::{BTreeMap, BTreeSet};

use agentd::wire::status::State;
use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, VectorSelector};
use serde::Deserialize;
use serde_json::Value;

use crate::support::{Daemon, Setup, agent};

const ALERTS: &str = include_str!("../../docs/alerts.yaml");
const DASHBOARD: &str = include_str!("../../docs/dashboard.json");

/// The labels that Prometheus adds to everything it scrapes.
const ADDED: [&str; 2] = ["instance", "job"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Alert>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alert {
    #[serde(rename = "alert")]
    name: String,
    expr: String,
    #[serde(default, rename = "for")]
    lasts: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

fn alerts() -> Vec<Alert> {
    let rules: Rules = serde_saphyr::from_str(ALERTS).unwrap();
    assert!(rules.groups.iter().all(|group| group.name.starts_with("agentd-")));
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().collect()
}

/// The expressions of a dashboard, with its variables replaced as in Grafana.
fn expressions(dashboard: &Value) -> Vec<String> {
    let targets = panels(dashboard).into_iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let expressions = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    let replaced = |it: String| {
        let it = it.replace("$__rate_interval", "5m").replace("$__range", "6h");
        it.replace("$instance", "127.0.0.1:9105|b").replace("$agent", "reviewer|writer")
    };
    expressions.map(replaced).collect()
}

/// The metrics that an expression queries, with the values its labels must have.
fn selectors(expression: &Expr, found: &mut Vec<VectorSelector>) {
    match expression {
        Expr::VectorSelector(selector) => found.push(selector.clone()),
        Expr::MatrixSelector(matrix) => found.push(matrix.vs.clone()),
        Expr::Aggregate(it) => {
            selectors(&it.expr, found);
            it.param.iter().for_each(|param| selectors(param, found));
        }
        Expr::Unary(it) => selectors(&it.expr, found),
        Expr::Binary(it) => {
            selectors(&it.lhs, found);
            selectors(&it.rhs, found);
        }
        Expr::Paren(it) => selectors(&it.expr, found),
        Expr::Subquery(it) => selectors(&it.expr, found),
        Expr::Call(it) => it.args.args.iter().for_each(|argument| selectors(argument, found)),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

fn read(expression: &str) -> Vec<VectorSelector> {
    let parsed = parser::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let mut found = Vec::new();
    selectors(&parsed, &mut found);
    assert!(!found.is_empty(), "{expression}: it asks for nothing");
    found
}

/// The metrics that a daemon serves: the labels of each by sample name, with the values that were seen.
type Served = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn served(text: &str) -> Served {
    let mut served = Served::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            let suffixes: &[&str] = match kind {
                "gauge" => &[""],
                "counter" => &["_total"],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("{name} is a {other}"),
            };
            for suffix in suffixes {
                served.insert(format!("{name}{suffix}"), BTreeMap::new());
            }
        } else if !line.starts_with('#') {
            let series = line.rsplit_once(' ').unwrap().0;
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let metric = served.get_mut(name).unwrap_or_else(|| panic!("{name} has no type"));
            for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once('=').unwrap();
                metric.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
            }
        }
    }
    served
}

/// A daemon with as much to report as possible.
fn daemon() -> (Daemon, Served) {
    let jcard =
        agent("sleeper", "sleep inf", "") + &agent("failed", "exit 3", "restart = \"always\"\nbackoff = [\"10ms\"]");
    let daemon = Setup::new().start(&jcard);
    daemon.wait_until_running("sleeper");
    daemon.wait_until("failed", "a restart", |agent| agent.restarts > 1);
    let served = served(&daemon.get("/metrics").body);
    (daemon, served)
}

/// The reason why a daemon never serves what this expression queries.
fn fault(served: &Served, VectorSelector { name, matchers, .. }: &VectorSelector) -> Option<String> {
    let name = name.as_deref().unwrap_or_default();
    // This metric is Prometheus' own, and says whether the scrape succeeded.
    let up = BTreeMap::new();
    let Some(labels) = served.get(name).or_else(|| (name == "up").then_some(&up)) else {
        return Some(format!("there is no {name}"));
    };
    // Metrics without a sample on this machine, such as memory without systemd, concern agents.
    let is_about_agents = labels.is_empty() && name.starts_with("agentd_agent_");
    matchers.matchers.iter().find_map(|Matcher { op, name: label, value }| {
        let values = labels.get(label);
        if values.is_none() && !ADDED.contains(&label.as_str()) && !(is_about_agents && label == "agent") {
            return Some(format!("{name} has no label {label}"));
        }
        let words: Vec<&str> = match op {
            MatchOp::Equal | MatchOp::NotEqual => vec![value],
            // The rules use no regular expressions other than a choice of words.
            MatchOp::Re(_) | MatchOp::NotRe(_) => value.split('|').collect(),
        };
        let is_word = |label: &str| ["state", "outcome", "reason"].contains(&label);
        let strange = words.iter().find(|word| is_word(label) && !values.is_some_and(|known| known.contains(**word)));
        strange.map(|word| format!("{label} of {name} is never {word}"))
    })
}

#[test]
fn alerts_query_only_served_metrics() {
    let (_daemon, served) = daemon();
    let alerts = alerts();
    assert!(alerts.len() > 10);
    assert_eq!(alerts.iter().map(|it| &it.name).collect::<BTreeSet<_>>().len(), alerts.len(), "names are unique");
    for Alert { name: alert, expr, lasts, labels, annotations } in &alerts {
        let asked = read(expr);
        assert_eq!(asked.iter().find_map(|selector| fault(&served, selector)), None, "{alert}");
        // Above the last bucket, a quantile is that bucket's bound.
        if expr.starts_with("histogram_quantile") {
            let bound: f64 = expr.rsplit("> ").next().unwrap().trim().parse().unwrap();
            let buckets = asked.iter().filter_map(|it| served[it.name.as_deref()?].get("le")).flatten();
            let largest =
                buckets.filter_map(|le| le.parse::<f64>().ok().filter(|it| it.is_finite())).fold(0.0, f64::max);
            assert!(bound < largest, "{alert}: the quantile is never above {largest}");
        }
        let severity = labels["severity"].as_str();
        assert!(["info", "warning", "critical"].contains(&severity) && labels.len() == 1, "{alert}: {labels:?}");
        if let Some(lasts) = lasts {
            assert!(lasts.strip_suffix('m').is_some_and(|minutes| minutes.parse::<u32>().is_ok()), "{alert}: {lasts}");
        }
        assert_eq!(annotations.keys().map(String::as_str).collect::<Vec<_>>(), ["description", "summary"], "{alert}");
        let known: BTreeSet<&str> = asked
            .iter()
            .filter_map(|selector| served.get(selector.name.as_deref()?))
            .flat_map(|labels| labels.keys().map(String::as_str))
            .chain(ADDED)
            .chain(asked.iter().filter_map(|it| it.name.as_deref()?.starts_with("agentd_agent_").then_some("agent")))
            .collect();
        for text in annotations.values() {
            for used in text.split("$labels.").skip(1) {
                let label: String = used.chars().take_while(char::is_ascii_alphanumeric).collect();
                assert!(known.contains(label.as_str()), "{alert}: its series have no label {label}");
            }
        }
    }
}

#[test]
fn the_dashboard_queries_only_served_metrics() {
    let (_daemon, served) = daemon();
    let dashboard = dashboard();
    let expressions = expressions(&dashboard);
    assert!(expressions.len() > 20);
    for expression in &expressions {
        assert!(!expression.contains('$'), "{expression}: a variable that nothing replaces");
        assert_eq!(read(expression).iter().find_map(|selector| fault(&served, selector)), None, "{expression}");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    for query in variables.filter_map(|variable| variable["query"]["query"].as_str()) {
        let inner = query.strip_prefix("label_values(").and_then(|it| it.strip_suffix(')')).unwrap();
        let (series, label) = inner.rsplit_once(", ").unwrap();
        let asked = read(&series.replace("$instance", "x"));
        assert_eq!(fault(&served, &asked[0]), None, "{query}");
        let labels = &served[asked[0].name.as_deref().unwrap()];
        assert!(labels.contains_key(label) || ADDED.contains(&label), "{query}");
    }
}

#[test]
fn the_dashboard_shows_every_state_by_its_name() {
    let dashboard = dashboard();
    let timeline = panels(&dashboard).into_iter().find(|panel| panel["type"] == "state-timeline").unwrap();
    let words = timeline["fieldConfig"]["defaults"]["mappings"][0]["options"].as_object().unwrap();
    let expression = timeline["targets"][0]["expr"].as_str().unwrap();
    for state in State::ALL.map(|state| state.to_string()) {
        let (number, _) = words.iter().find(|(_, word)| word["text"] == state.as_str()).expect(&state);
        assert!(expression.contains(&format!("state=\"{state}\"}} == 1) * {number}")), "{state}: {expression}");
    }
    assert_eq!(words.len(), State::ALL.len());
}

#[test]
fn the_dashboards_panels_do_not_overlap() {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{title}");
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{title} lies on another panel");
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    assert_eq!(dashboard["uid"], "agentd");
}

#[test]
fn the_check_finds_a_metric_that_is_never_served() {
    let served =
        served("# TYPE agentd_agent_state gauge\nagentd_agent_state{agent=\"a\",state=\"running\"} 1\n# EOF\n");
    let faults = |expression: &str| read(expression).iter().find_map(|selector| fault(&served, selector));
    assert_eq!(faults("agentd_agent_state{state=\"running\", job=\"x\"} == 1"), None);
    assert!(faults("sum(rate(agentd_agent_stat[5m]))").unwrap().contains("there is no agentd_agent_stat"));
    assert!(faults("1 + agentd_agent_state{stat=\"running\"}").unwrap().contains("no label stat"));
    assert!(faults("-agentd_agent_state{state=~\"running|asleep\"}").unwrap().contains("never asleep"));
    assert!(parser::parse("sum by (agent").is_err());
}
