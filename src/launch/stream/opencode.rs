//! The stream of opencode (`opencode run --format json`). Its last step takes the place of a closing record.

use serde::Deserialize;

use super::loose::{self, Fields, Loose};
use super::report::{Report, ToolInput};
use super::{Fact, Sink, Until, of_http};
use crate::wire::result::Tokens;

/// The longest time that a service can ask to wait, in seconds.
const MOST_WAIT: u64 = 366 * 24 * 3600;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    #[serde(rename = "type")]
    is: Loose<String>,
    #[serde(rename = "sessionID")]
    session_id: Loose<String>,
    part: Loose<Part>,
    error: Loose<Complaint>,
}

impl Fields for Record {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Part {
    text: Loose<String>,
    tool: Loose<String>,
    state: Loose<State>,
    reason: Loose<String>,
    tokens: Loose<Figures>,
    cost: Loose<f64>,
}

impl Fields for Part {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    status: Loose<String>,
    input: Loose<ToolInput>,
    error: Loose<String>,
}

impl Fields for State {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Figures {
    input: Loose<u64>,
    output: Loose<u64>,
    reasoning: Loose<u64>,
    cache: Loose<Cache>,
}

impl Fields for Figures {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cache {
    read: Loose<u64>,
    write: Loose<u64>,
}

impl Fields for Cache {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Complaint {
    name: Loose<String>,
    data: Loose<Data>,
}

impl Fields for Complaint {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data {
    message: Loose<String>,
    #[serde(rename = "statusCode")]
    status_code: Loose<u64>,
    #[serde(rename = "responseHeaders")]
    response_headers: Loose<Headers>,
}

impl Fields for Data {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Headers {
    #[serde(rename = "retry-after")]
    retry_after: Loose<u64>,
}

impl Fields for Headers {}

/// Reads a line. Returns whether it is of this form.
pub(super) fn read(line: &[u8], report: &mut Report, sink: &mut dyn Sink) -> bool {
    let Some(record) = loose::read::<Record>(line) else { return false };
    report.converses(record.session_id.text(), sink);
    let nothing = Part::default();
    let part = record.part.get().unwrap_or(&nothing);
    match record.is.text() {
        "step_start" => {
            // Another step follows: the one before was not the last.
            report.is_closed = false;
            report.does(Fact::Working, sink);
        }
        "text" => {
            report.concludes(part.text.text());
            report.show_line(part.text.text(), sink);
        }
        "tool_use" => uses_tool(part, report, sink),
        "step_finish" => finishes(part, report, sink),
        "error" => fails(&record, report, sink),
        "" => return false,
        _ => {}
    }
    true
}

fn uses_tool(part: &Part, report: &mut Report, sink: &mut dyn Sink) {
    let (nothing, unknown) = (ToolInput::default(), State::default());
    let state = part.state.get().unwrap_or(&unknown);
    report.show_tool(part.tool.text(), state.input.get().unwrap_or(&nothing), sink);
    if state.status.text() == "error" {
        report.show_line(&format!("> tool failed: {}", super::words(state.error.text())), sink);
    }
}

fn finishes(part: &Part, report: &mut Report, sink: &mut dyn Sink) {
    let of = |number: &Loose<u64>| number.0.unwrap_or_default();
    if let Some(figures) = part.tokens.get() {
        let cache = figures.cache.get();
        let tokens = Tokens {
            input: of(&figures.input),
            output: of(&figures.output).saturating_add(of(&figures.reasoning)),
            cache_read: cache.map_or(0, |cache| of(&cache.read)),
            cache_write: cache.map_or(0, |cache| of(&cache.write)),
        };
        report.takes(tokens, sink);
    }
    if let Some(cost) = part.cost.0 {
        report.costs(cost, sink);
    }
    report.turns();
    report.names_end(part.reason.text());
    if part.reason.text() == "stop" {
        report.is_closed = true;
        // What went wrong before has been overcome.
        report.result.is_error = false;
        report.does(Fact::Idle, sink);
    }
}

fn fails(record: &Record, report: &mut Report, sink: &mut dyn Sink) {
    let (nothing, empty) = (Complaint::default(), Data::default());
    let error = record.error.get().unwrap_or(&nothing);
    let data = error.data.get().unwrap_or(&empty);
    let message = if data.message.text().is_empty() { error.name.text() } else { data.message.text() };
    report.is_closed = true;
    report.result.is_error = true;
    report.names_end(error.name.text());
    report.concludes(message);
    report.show_error(message, sink);
    if let Some(kind) = data.status_code.0.and_then(of_http) {
        let wait = data.response_headers.get().and_then(|headers| headers.retry_after.0);
        let until = wait.filter(|wait| (1..=MOST_WAIT).contains(wait)).map(Until::After);
        report.is_limited(kind, until, message, sink);
    }
}
