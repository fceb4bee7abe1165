//! `GET /metrics` as a monitoring system meets it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::support::skip::skip;
use crate::support::{self, Server, many_descriptors, read_until_closed, running};
use agentd::api::Limits;
use agentd::wire::status::AgentStatus;

/// One agent that runs, and one of which there is something to tell.
fn two() -> Server {
    let ended: AgentStatus = serde_json::from_value(serde_json::json!({
        "name": "Reviewer", "running": false, "restarts": 2, "state": "exited", "outcome": "failed", "error": "\"mend\"\nme",
        "started_at": "2026-01-01T00:00:00.250Z", "exit": { "code": 3, "at": "2026-01-01T00:00:01Z" },
    }))
    .unwrap();
    Server::start(vec![running("worker"), ended], Limits::default())
}

fn metrics(server: &Server) -> String {
    server.get("/metrics").split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// A family: what was said of it, and its samples as suffix, labels and value.
#[derive(Debug, Default)]
struct Family {
    about: BTreeMap<String, String>,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Reads the text format of `OpenMetrics` 1.0 as strictly as it is meant, as far as agentd makes use of it.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut present = String::new();
    let mut seen = BTreeSet::new();
    let body = text.strip_suffix("# EOF\n").expect("it ends with the mark");
    for line in body.split_terminator('\n') {
        if let Some(about) = line.strip_prefix("# ") {
            let [kind, name, what] = about.splitn(3, ' ').collect::<Vec<_>>().try_into().expect(line);
            assert!(["HELP", "TYPE", "UNIT"].contains(&kind), "{line}");
            if present != name {
                assert!(!families.contains_key(name), "a family is in one piece: {line}");
                name.clone_into(&mut present);
            }
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.samples.is_empty(), "what a family is comes first: {line}");
            assert_eq!(family.about.insert(kind.to_owned(), what.to_owned()), None, "{line}");
        } else {
            assert!(seen.insert(line.rsplit_once(' ').expect(line).0.to_owned()), "a sample is told once: {line}");
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) =
                series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest.strip_suffix('}').expect(line)));
            let suffix = name.strip_prefix(&present).unwrap_or_else(|| panic!("not of {present}: {line}"));
            let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
                let (key, value) = label.split_once('=').expect(line);
                (key.to_owned(), value.strip_prefix('"').and_then(|it| it.strip_suffix('"')).expect(line).to_owned())
            });
            let sample = (suffix.to_owned(), labels.collect(), value.parse().expect(line));
            families.get_mut(&present).unwrap().samples.push(sample);
        }
    }
    for (name, family) in &families {
        let suffixes: &[&str] = match family.about["TYPE"].as_str() {
            "gauge" => &[""],
            "counter" => &["_total"],
            "info" => &["_info"],
            "histogram" => &["_sum", "_count", "_bucket"],
            other => panic!("{name} is {other}"),
        };
        assert!(!family.about["HELP"].is_empty(), "{name}");
        assert!(family.samples.iter().all(|(suffix, ..)| suffixes.contains(&suffix.as_str())), "{name}: {family:?}");
        if let Some(unit) = family.about.get("UNIT") {
            assert!(name.ends_with(&format!("_{unit}")), "{name} is in {unit}");
        }
    }
    families
}

#[test]
fn they_are_well_formed_and_say_what_they_are() {
    let server = two();
    let answer = server.get("/metrics?verbose");
    assert!(answer.contains("\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    let families = parse(answer.split_once("\r\n\r\n").unwrap().1);
    let of = |family: &str, agent: &str| -> Vec<f64> {
        let samples = families[family].samples.iter();
        samples.filter(|(_, labels, _)| labels["agent"] == agent).map(|&(.., value)| value).collect()
    };
    assert_eq!(of("agentd_agent_state", "worker").iter().sum::<f64>().to_string(), "1");
    assert_eq!(of("agentd_agent_error", "Reviewer"), [1.0]);
    assert_eq!(of("agentd_agent_error", "worker"), [0.0]);
    assert_eq!(of("agentd_agent_last_exit_code", "Reviewer"), [3.0]);
    assert_eq!(of("agentd_agent_start_time_seconds", "Reviewer"), [1_767_225_600.25]);
}

#[test]
fn no_label_is_but_a_name_or_a_word_of_a_fixed_set() {
    let labels: BTreeSet<String> = parse(&metrics(&two()))
        .into_values()
        .flat_map(|family| family.samples)
        .flat_map(|(_, labels, _)| labels.into_keys())
        .collect();
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), ["agent", "le", "outcome", "state", "version"]);
}

/// Prometheus' own reader of the format, where there is one (`python3-prometheus-client`).
#[test]
fn an_independent_parser_understands_them() {
    const READ: &str = "import sys\n\
                        try: from prometheus_client.openmetrics.parser import text_string_to_metric_families as read\n\
                        except ImportError: sys.exit(77)\n\
                        families = {family.name: family for family in read(sys.stdin.read())}\n\
                        assert len(families['agentd_agent_state'].samples) == 14\n\
                        assert families['process_cpu_seconds'].unit == 'seconds'\n";
    // A Python of one's own before the system's knows no module of the system's.
    for python in ["python3", "/usr/bin/python3"] {
        let child = Command::new(python).args(["-c", READ]).stdin(Stdio::piped()).spawn();
        let Ok(mut child) = child else { continue };
        // Who does not read has ended, and says why.
        let _ = child.stdin.take().unwrap().write_all(metrics(&two()).as_bytes());
        match child.wait().unwrap().code() {
            Some(77) => {}
            code => return assert_eq!(code, Some(0)),
        }
    }
    skip("it needs prometheus_client for python3: see tests/need");
}

#[test]
fn a_thousand_clients_at_once_all_get_metrics() {
    let _room = many_descriptors();
    let server = two();
    let mut clients: Vec<UnixStream> = (0..1000).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    }
    for client in &mut clients {
        assert!(read_until_closed(client).ends_with(b"\n# EOF\n"));
    }
}

#[test]
fn they_are_of_now() {
    let server = two();
    assert!(metrics(&server).contains("agent=\"worker\""));
    server.snapshots.send(std::sync::Arc::new(support::snapshot(Vec::new()))).unwrap();
    assert!(!metrics(&server).contains("agent="));
}

#[test]
fn head_tells_the_length_and_another_method_is_405() {
    let server = two();
    let head = server.exchange("HEAD /metrics HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    assert!(length.parse::<usize>().unwrap() > 1000);
    let post = server.exchange("POST /metrics HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("\r\nAllow: GET, HEAD\r\n"), "{post}");
}

#[test]
fn each_label_of_an_agent_is_a_sample() {
    let labels = [("review", ""), ("team", "web")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let server = Server::start(vec![AgentStatus { labels, ..running("a") }, running("b")], Limits::default());
    let families = parse(&metrics(&server));
    let samples: Vec<String> = families["agentd_agent_labels"]
        .samples
        .iter()
        .map(|(_, labels, value)| format!("{} {}={} {value}", labels["agent"], labels["label"], labels["value"]))
        .collect();
    assert_eq!(samples, ["a review= 1", "a team=web 1"]);
}
