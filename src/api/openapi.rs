//! What the API is, as `OpenAPI` 3.1: one description for each of the [routes](ROUTES), whose types describe themselves.

mod schemas;

use std::sync::LazyLock;

use hyper::body::Bytes;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::query::COLORED;
use super::routes::{ROUTES, Route};
use crate::agent::labels;
use crate::observe::metrics;
use crate::text::printable::json_line;
use crate::wire::approval::Approvals;
use crate::wire::events::Event;
use crate::wire::hold::GroupHold;
use crate::wire::status::{AgentStatus, Fault, Health, ScreenShown};

/// The answer to `GET /v1/openapi.json`.
pub(super) fn body() -> Bytes {
    static BODY: LazyLock<Bytes> = LazyLock::new(|| json_line(&document()).into());
    BODY.clone()
}

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut types = settings.with_transform(RecursiveTransform(without_null)).into_generator();
    let mut paths = Map::new();
    for (template, route) in ROUTES {
        let mut path = described(route, &mut types);
        if let Some(parameters) = parameters(route) {
            path["parameters"] = parameters;
        }
        paths.insert(template.to_owned(), path);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "agentd",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT", "identifier": "MIT" },
            "description": "Read-only, over a Unix socket: for root and the members of the administrators' group. Keys may be \
                            added to what is described here, none removed or renamed. Times are RFC 3339 in UTC. What does not \
                            apply is left out. HEAD works wherever GET does; any other method is answered with 405.",
        },
        "servers": [{ "url": "http://agentd", "description": "whatever host is named: the socket is the address" }],
        "paths": paths,
        "components": { "schemas": schemas::for_generators(types.take_definitions(true)) },
    })
}

/// The description of a route without its parameters.
fn described(route: Route, types: &mut SchemaGenerator) -> Value {
    let not_found = answer("There is no such agent.", &json_of::<Fault>(types));
    let bad_query = answer("The query is invalid; the error says what is expected.", &json_of::<Fault>(types));
    let cannot_tell = answer("It is not available at the moment; the error says why.", &json_of::<Fault>(types));
    let no_thread = answer("The system lacks the resources to answer; try again.", &json_of::<Fault>(types));
    let text = json!({ metrics::CONTENT_TYPE: { "schema": { "type": "string" } } });
    match route {
        Route::Health => get(
            "health",
            "The daemon, and what needs attention",
            &json!({ "200": answer("It runs.", &json_of::<Health>(types)) }),
        ),
        Route::Agents => get(
            "agents",
            "All agents, sorted by the bytes of their names",
            &json!({
                "200": answer("Every agent, or those with the labels.", &json_of::<Vec<AgentStatus>>(types)),
                "400": bad_query,
            }),
        ),
        Route::Agent => get(
            "agent",
            "One agent, with its history and its present resources",
            &json!({ "200": answer("The agent.", &json_of::<AgentStatus>(types)), "404": not_found }),
        ),
        Route::Screen => get(
            "screen",
            "An agent's screen, with secrets redacted",
            &json!({
                "200": answer(
                    "The rows. With follow=true messages of server-sent events: `screen`, with data as described here, each time \
                     it changes; `error` with an `error` while it is not available; until the agent is removed.",
                    &json!({
                        "text/plain; charset=utf-8": { "schema": { "type": "string" } },
                        COLORED: { "schema": { "type": "string" } },
                        "text/event-stream": stream_of::<ScreenShown>(types),
                    }),
                ),
                "400": bad_query, "404": not_found, "503": cannot_tell,
            }),
        ),
        Route::Log => get(
            "log",
            "What an agent printed in an attempt, as far as it is kept, with secrets redacted",
            &json!({
                "200": answer(
                    "Plain text as a person reads it on the terminal, known secrets redacted. With raw=true it is \
                     `application/octet-stream`: the bytes as the terminal got them.",
                    // A generator takes the first type, and would read text as a file.
                    &json!({ "text/plain; charset=utf-8": { "schema": { "type": "string" } } }),
                ),
                "400": bad_query,
                "404": answer("There is no such agent, or nothing is kept of that attempt.", &json_of::<Fault>(types)),
                "503": cannot_tell,
            }),
        ),
        Route::Approvals => get(
            "approvals",
            "The questions of agents that wait for an answer, and what came of earlier ones",
            &json!({ "200": answer("What waits for an answer, and what was decided.", &json_of::<Approvals>(types)) }),
        ),
        Route::Holds => get(
            "holds",
            "The credentials that do not work, by the names of the groups of agents that share them",
            &json!({ "200": answer("Each of them.", &json_of::<Vec<GroupHold>>(types)), "400": bad_query }),
        ),
        Route::Events => get(
            "events",
            "What happens, as server-sent events",
            &json!({
                "200": answer(
                    "One message for each event, with its id, its type, and the data described here. A client that reconnects \
                     with Last-Event-ID gets the events that it missed, or a `missed` event if they are no longer kept. A \
                     comment every 15 s shows that the connection is alive.",
                    &json!({ "text/event-stream": stream_of::<Event>(types) }),
                ),
                "400": bad_query, "503": cannot_tell,
            }),
        ),
        Route::OpenApi => get(
            "openapi",
            "This description",
            &json!({ "200": answer("The description.", &json!({ "application/json": { "schema": { "type": "object" } } })) }),
        ),
        Route::Metrics => get(
            "metrics",
            "Figures of the daemon and of all agents, for a monitoring system",
            &json!({ "200": answer("Text in the format of OpenMetrics 1.0.", &text), "503": no_thread }),
        ),
    }
}

/// The parameters of a route.
fn parameters(route: Route) -> Option<Value> {
    let name = json!({
        "name": "name", "in": "path", "required": true, "schema": { "type": "string" },
        "description": "the agent's name, in upper or lower case",
    });
    Some(match route {
        Route::Agent => json!([name]),
        Route::Screen => json!([
            name,
            flag("colors", "with escape sequences for colors; true if `text/x-ansi` is accepted"),
            flag("follow", "go on with later changes; true if `text/event-stream` is accepted"),
        ]),
        Route::Log => json!([
            name,
            parameter(
                "query",
                "attempt",
                "^([0-9]{1,18}|[0-9]{1,18}-[0-9]{1,18}|latest|previous|all)$",
                "its number, of several with that number the latest; or the numbers of a log and of the attempt in it, as files are named (`7-2`); or `latest` (the default), `previous`, or `all`, the earliest first"
            ),
            query("lines", &json!({ "type": "integer", "minimum": 0 }), "only the last lines, so many of them"),
            query(
                "since",
                &json!({ "type": "string", "examples": ["2026-11-21T17:00:00Z", "90s"] }),
                "nothing that was printed before this time (RFC 3339, with an offset or in UTC, or a date alone), or longer ago than this duration"
            ),
            flag("raw", "the bytes as the terminal got them, with all escape sequences"),
            flag(
                "timestamps",
                "each line begins with when it was printed (RFC 3339), to about a second; not with raw=true"
            ),
            flag(
                "marks",
                "a line of U+001E and a JSON object (`log`, `attempt`, `changed_at`) before each attempt, which no agent can print; not with raw=true"
            ),
            flag(
                "follow",
                "go on with what is printed later, without an attempt also in those to come, until the agent is over"
            ),
        ]),
        Route::Events => json!([
            parameter(
                "query",
                "after",
                "^(0|[0-9]{1,18}-[0-9]{1,18})$",
                "the id of the event to continue after, or 0 for all that are kept; without it, only later events"
            ),
            query("agent", &json!({ "type": "string" }), "an agent: events about others are left out"),
            label("events about agents without it are left out"),
            parameter(
                "header",
                "Last-Event-ID",
                "^(0|[0-9]{1,18}-[0-9]{1,18})$",
                "like `after`, which takes precedence"
            ),
            flag("follow", "go on with later events, which is the default; false: only the events that are kept"),
        ]),
        Route::Agents => json!([label("only agents that have it")]),
        Route::Approvals | Route::Health | Route::Holds | Route::OpenApi | Route::Metrics => return None,
    })
}

/// The parameter that selects agents, which may be there more than once.
fn label(description: &str) -> Value {
    let one = json!({ "type": "string", "pattern": format!("^{}(={})?$", labels::KEY, labels::VALUE) });
    let schema = json!({ "type": "array", "items": one });
    let description = format!("a label, `KEY` or `KEY=VALUE`, of several all: {description}");
    let mut parameter = query("label", &schema, &description);
    (parameter["style"], parameter["explode"]) = ("form".into(), true.into());
    parameter
}

fn get(id: &str, summary: &str, responses: &Value) -> Value {
    json!({ "get": { "operationId": id, "summary": summary, "responses": responses } })
}

fn parameter(place: &str, name: &str, pattern: &str, description: &str) -> Value {
    let schema = json!({ "type": "string", "pattern": pattern });
    json!({ "name": name, "in": place, "schema": schema, "description": description })
}

fn query(name: &str, schema: &Value, description: &str) -> Value {
    json!({ "name": name, "in": "query", "schema": schema, "description": description })
}

/// A stream of server-sent events. A generator of clients knows it as text; `x-message` describes each message, in the form that
/// `OpenAPI` 3.2 gives its `itemSchema`.
fn stream_of<T: JsonSchema>(types: &mut SchemaGenerator) -> Value {
    let message = json!({
        "type": "object",
        "properties": {
            "id": { "type": "string" },
            "event": { "type": "string" },
            "data": {
                "type": "string", "contentMediaType": "application/json", "contentSchema": types.subschema_for::<T>(),
            },
        },
    });
    json!({ "schema": { "type": "string" }, "x-message": message })
}

fn flag(name: &str, description: &str) -> Value {
    query(name, &json!({ "type": "boolean" }), description)
}

fn answer(description: &str, content: &Value) -> Value {
    json!({ "description": description, "content": content })
}

fn json_of<T: JsonSchema>(types: &mut SchemaGenerator) -> Value {
    json!({ "application/json": { "schema": types.subschema_for::<T>() } })
}

/// A value that does not apply is left out: it is never null and has no default.
fn without_null(schema: &mut Schema) {
    let is_null = |schema: &Value| schema["type"] == "null" || *schema == "null";
    schema.remove("default");
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| !is_null(kind));
        if let [kind] = types.as_slice() {
            let kind = kind.clone();
            schema.insert("type".to_owned(), kind);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| !is_null(choice));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            for (key, value) in only {
                schema.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_template_is_found_as_its_own_route() {
        for (template, route) in ROUTES {
            let (found, name) = Route::find(template).unwrap();
            assert_eq!((found, name.is_empty()), (route, !template.contains("{name}")), "{template}");
        }
        assert_eq!(document()["paths"].as_object().unwrap().len(), ROUTES.len());
    }

    #[test]
    fn the_page_of_the_api_lists_the_routes() {
        let page = include_str!("../../docs/api.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `GET ")?.split('`').next());
        let listed: BTreeSet<String> = rows.map(|path| path.replace("NAME", "{name}")).collect();
        assert_eq!(listed, ROUTES.iter().map(|(template, _)| (*template).to_owned()).collect());
    }

    #[test]
    fn nothing_is_null_and_every_reference_leads_somewhere() {
        let text = document().to_string();
        assert!(!text.contains("null") && !text.contains("\"default\""), "{text}");
        let references = text.split("\"$ref\":\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        for reference in references {
            assert!(document().pointer(&reference[1..]).is_some(), "{reference}");
        }
    }

    #[test]
    fn descriptions_contain_no_links_of_the_source() {
        let text = document().to_string();
        for link in ["[`", "::"] {
            assert!(!text.contains(link), "{:?}", text.split(link).nth(1));
        }
    }

    #[test]
    fn every_key_of_an_agent_is_described() {
        let document = document();
        for (key, schema) in document["components"]["schemas"]["AgentStatus"]["properties"].as_object().unwrap() {
            assert!(schema["description"].is_string() || schema["$ref"].is_string(), "{key}: {schema}");
        }
    }
}
