//! The API's responses match `/v1/openapi.json`, and `/metrics` reports the true state.

use agentd::wire::exit_status::ExitStatus;
use agentd::wire::status::{Exit, State};
use jsonschema::Validator;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Daemon, Response, Setup, agent, get, root, skip};

/// The description at its strictest: anything it does not name is an error.
fn description(daemon: &Daemon) -> Value {
    let response = daemon.get("/v1/openapi.json");
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
    let mut description: Value = serde_json::from_str(&response.body).unwrap();
    let types = description["components"]["schemas"].as_object_mut().unwrap();
    for schema in types.values_mut().filter(|schema| schema["type"] == "object") {
        schema["unevaluatedProperties"] = false.into();
    }
    description
}

/// The schema of a JSON response.
fn schema(description: &Value, path: &str, status: u16) -> Validator {
    let response = &description["paths"][path]["get"]["responses"][status.to_string()];
    validator(description, &response["content"]["application/json"]["schema"])
}

/// The schema of the data of a stream's messages.
fn schema_of_data(description: &Value, path: &str) -> Validator {
    let content = &description["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"];
    validator(description, &content["x-message"]["properties"]["data"]["contentSchema"])
}

fn validator(description: &Value, schema: &Value) -> Validator {
    assert!(schema.is_object(), "the schema is not described");
    let mut schema = schema.clone();
    schema["components"] = description["components"].clone();
    jsonschema::draft202012::new(&schema).unwrap()
}

fn assert_described(description: &Value, path: &str, response: &Response) -> Value {
    let body: Value = serde_json::from_str(&response.body).unwrap();
    let errors: Vec<String> =
        schema(description, path, response.status).iter_errors(&body).map(|error| error.to_string()).collect();
    assert_eq!(errors, Vec::<String>::new(), "{path}: {body}");
    body
}

#[test]
fn every_stream_message_matches_its_description() {
    let mut daemon = Setup::new().start(&(agent("a", "say word;sleep inf", "") + &agent("b", "exit 3", "")));
    daemon.wait_until_running("a");
    daemon.wait_for_state("b", State::Exited);
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    daemon.wait_until_running("a");
    daemon.edit_jcard("[[agents]]\nname = \"bad\"\nharness = \"nope\"\n");
    daemon.wait_until_removed("a");
    daemon.edit_jcard(&agent("a", "say word;sleep inf", ""));
    daemon.wait_until_running("a");
    let description = description(&daemon);
    let schema = schema_of_data(&description, "/v1/events");
    let body = daemon.get("/v1/events?follow=false&after=1-1").body;
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
    for event in &events {
        let errors: Vec<String> = schema.iter_errors(event).map(|error| error.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new(), "{event}");
    }
    for kind in ["daemon", "adopted", "declaration", "state", "error", "removed", "missed"] {
        assert!(events.iter().any(|event| event["type"] == kind), "{kind} is not among {events:#?}");
    }
    let schema = schema_of_data(&description, "/v1/agents/{name}/screen");
    let shown = json!({ "at": "2026-11-21T17:00:00.000Z", "text": "word\n" });
    assert!(schema.is_valid(&shown) && !schema.is_valid(&json!({ "text": "word\n" })));
}

#[test]
fn every_response_in_every_state_matches_its_description() {
    let jcard = [
        agent("runs", "sleep inf", "timeout = \"1h\"\nmemory = \"1GiB\""),
        agent("stops", "stubborn; append @WORK/ready yes; sleep inf", "grace_period = \"1h\""),
        agent("waits", "sleep inf", "secrets = [\"MISSING\"]"),
        agent("rests", "exit 3", "restart = \"always\"\nbackoff = [\"1h\"]"),
        agent("done", "exit 0", ""),
        agent("failed", "die KILL", ""),
        agent("gone", "exit 1", "restart = \"on-failure\"\nmax_restarts = 1\nbackoff = [\"1ms\"]"),
        "[[agents]]\nname = \"bad\"\nharness = \"nope\"\n".to_owned(),
        agent("nowhere", "exit 0", "").replace("@HARNESS", "/no/such/program"),
    ];
    let daemon = Setup::new().start(&jcard.concat());
    daemon.wait_for_file("ready");
    daemon.wait_until_running("runs");
    let all_but_one = jcard.iter().filter(|entry| !entry.contains("\"stops\"")).cloned().collect::<String>();
    daemon.edit_jcard(&all_but_one);
    for (name, state) in [
        ("stops", State::Stopping),
        ("waits", State::Waiting),
        ("rests", State::Backoff),
        ("done", State::Exited),
        ("failed", State::Exited),
        ("gone", State::Exited),
        ("bad", State::Invalid),
        ("nowhere", State::Waiting),
    ] {
        daemon.wait_for_state(name, state);
    }
    let description = description(&daemon);
    let all = assert_described(&description, "/v1/agents", &daemon.get("/v1/agents"));
    assert_eq!(all.as_array().unwrap().len(), jcard.len());
    for agent in all.as_array().unwrap() {
        let path = format!("/v1/agents/{}", agent["name"].as_str().unwrap());
        assert_described(&description, "/v1/agents/{name}", &daemon.get(&path));
    }
    let nobody = daemon.get("/v1/agents/nobody");
    assert_eq!(nobody.status, 404);
    assert_described(&description, "/v1/agents/{name}", &nobody);
    let health = assert_described(&description, "/v1/health", &daemon.get("/v1/health"));
    assert!(health["config_error"].is_string());
    assert_described(&description, "/v1/openapi.json", &daemon.get("/v1/openapi.json"));
    let metrics = daemon.get("/metrics");
    let types = &description["paths"]["/metrics"]["get"]["responses"]["200"]["content"];
    assert!(types[metrics.header("content-type").unwrap()].is_object());
}

#[test]
fn the_check_notices_a_response_that_does_not_match() {
    let daemon = Setup::new().start(&agent("a", "exit 3", ""));
    let Some(Exit { how: ExitStatus::Code(3), .. }) = daemon.wait_for_state("a", State::Exited).exit else {
        panic!("{:?}", daemon.agents())
    };
    let schema = schema(&description(&daemon), "/v1/agents/{name}", 200);
    let good: Value = serde_json::from_str(&daemon.get("/v1/agents/a").body).unwrap();
    assert!(schema.is_valid(&good), "{good}");
    for (key, value) in [
        ("state", json!("asleep")),
        ("restarts", json!(-1)),
        ("reason", json!(null)),
        ("more", json!(1)),
        ("exit", json!({ "code": 3 })),
        ("exit", json!({ "code": 3, "at": "2026-01-01T00:00:00Z", "more": 1 })),
    ] {
        let mut bad = good.clone();
        bad[key] = value;
        assert!(!schema.is_valid(&bad), "{bad}");
    }
}

#[test]
fn metrics_and_description_answer_only_get_and_head() {
    let daemon = Setup::new().start("[other]\n");
    for path in ["/metrics", "/v1/openapi.json"] {
        let head = daemon.request(&get(path).replacen("GET", "HEAD", 1));
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        let post = daemon.request(&get(path).replacen("GET", "POST", 1));
        assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")), "{path}");
    }
}

/// The value of a sample.
fn sample(daemon: &Daemon, series: &str) -> Option<f64> {
    let metrics = daemon.get("/metrics").body;
    metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn restarts_are_counted_by_reason() {
    let entry = agent("a", "exit 1", "restart = \"on-failure\"\nmax_restarts = 2\nbackoff = [\"1ms\"]");
    let mut daemon = Setup::new().args(["--on-terminate", "detach"]).start(&entry);
    let restarts = |daemon: &Daemon| {
        ["policy", "declaration", "retry"]
            .map(|reason| sample(daemon, &format!("agentd_agent_restarts_total{{agent=\"a\",reason=\"{reason}\"}}")))
    };
    daemon.wait_until("a", "gave up", |agent| agent.state == State::Exited && agent.restarts == 2);
    assert_eq!(restarts(&daemon), [Some(2.0), Some(0.0), Some(0.0)]);
    daemon.edit_jcard(&entry.replace("\"1\"", "\"4\""));
    daemon.wait_until("a", "gave up again", |agent| {
        agent.state == State::Exited && agent.exit.as_ref().is_some_and(|exit| exit.how == ExitStatus::Code(4))
    });
    daemon.wait("four restarts", || (restarts(&daemon) == [Some(4.0), Some(1.0), Some(0.0)]).then_some(()));
    assert_eq!(sample(&daemon, "agentd_agent_last_exit_code{agent=\"a\"}"), Some(4.0));
    // As usual, counters restart with the daemon. An adoption counts nothing.
    daemon.stop();
    daemon.start_again();
    assert_eq!(restarts(&daemon), [Some(0.0), Some(0.0), Some(0.0)]);
}

#[test]
fn metrics_report_a_reloads_success_and_time() {
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    let success = |daemon: &Daemon| sample(daemon, "agentd_config_last_reload_successful");
    let time = |daemon: &Daemon| sample(daemon, "agentd_config_last_reload_timestamp_seconds").unwrap();
    daemon.wait_until_running("a");
    let first = time(&daemon);
    assert_eq!(success(&daemon), Some(1.0));
    daemon.edit_jcard("[[agents]\n");
    daemon.wait("the failed reload", || (success(&daemon) == Some(0.0)).then_some(()));
    let second = time(&daemon);
    assert!(second > first, "{first} {second}");
    // Even where the entry declares nothing else.
    daemon.edit_jcard(&format!("{}# again\n", agent("a", "sleep inf", "")));
    daemon.wait("the good reload", || (success(&daemon) == Some(1.0) && time(&daemon) > second).then_some(()));
    assert!(sample(&daemon, "agentd_reconcile_duration_seconds_count").unwrap() >= 1.0);
}

#[test]
fn metrics_report_an_agents_usage_if_it_has_a_control_group() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    if !daemon.get("/v1/agents/a").body.contains("cpu_usec") {
        return skip("there are no control groups here");
    }
    assert!(sample(&daemon, "agentd_agent_cpu_seconds_total{agent=\"a\"}").unwrap() > 0.0);
}

#[test]
fn metrics_contain_no_prompt_and_no_secret() {
    let setup = Setup::new();
    setup.secret("KEY", "sk-canary-value");
    let daemon = setup.start(&agent("a", "exit 1", "prompt = \"prompt-canary\""));
    daemon.wait_for_state("a", State::Exited);
    let metrics = daemon.get("/metrics").body;
    assert!(!metrics.contains("canary"), "{metrics}");
}
