//! The stream of Codex (`codex exec --json`).

use serde::Deserialize;

use super::loose::{self, Fields, List, Loose};
use super::report::{Report, ToolInput};
use super::{Fact, Sink};
use crate::wire::hold::HoldKind;
use crate::wire::result::Tokens;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    #[serde(rename = "type")]
    is: Loose<String>,
    thread_id: Loose<String>,
    item: Loose<Item>,
    message: Loose<String>,
    error: Loose<Complaint>,
    usage: Loose<Usage>,
}

impl Fields for Record {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Item {
    #[serde(rename = "type")]
    is: Loose<String>,
    text: Loose<String>,
    message: Loose<String>,
    command: Loose<String>,
    exit_code: Loose<u64>,
    tool: Loose<String>,
    query: Loose<String>,
    changes: Loose<List<Change>>,
    status: Loose<String>,
}

impl Fields for Item {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Change {
    path: Loose<String>,
}

impl Fields for Change {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Complaint {
    message: Loose<String>,
}

impl Fields for Complaint {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "they are the harness's")]
struct Usage {
    input_tokens: Loose<u64>,
    cached_input_tokens: Loose<u64>,
    cache_write_input_tokens: Loose<u64>,
    output_tokens: Loose<u64>,
}

impl Fields for Usage {}

/// Reads a line. Returns whether it is of this form.
pub(super) fn read(line: &[u8], report: &mut Report, sink: &mut dyn Sink) -> bool {
    let Some(record) = loose::read::<Record>(line) else { return false };
    match record.is.text() {
        "thread.started" => report.converses(record.thread_id.text(), sink),
        "turn.started" => report.does(Fact::Working, sink),
        "item.started" => {
            report.does(Fact::Working, sink);
            record.item.get().into_iter().for_each(|item| begins(item, report, sink));
        }
        "item.completed" => record.item.get().into_iter().for_each(|item| completes(item, report, sink)),
        // It goes on after some of them.
        "error" => {
            let message = record.message.text();
            report.show_error(message, sink);
            if is_refused(message) {
                report.is_limited(HoldKind::Login, None, message, sink);
            }
        }
        "turn.completed" => {
            if let Some(usage) = record.usage.get() {
                let of = |number: &Loose<u64>| number.0.unwrap_or_default();
                let cache_read = of(&usage.cached_input_tokens);
                let tokens = Tokens {
                    input: of(&usage.input_tokens).saturating_sub(cache_read),
                    output: of(&usage.output_tokens),
                    cache_read,
                    cache_write: of(&usage.cache_write_input_tokens),
                };
                report.takes(tokens, sink);
            }
            closes(false, report, sink);
        }
        "turn.failed" => {
            let message = record.error.get().map_or("", |error| error.message.text());
            report.concludes(message);
            report.show_error(message, sink);
            if let Some(kind) = limit_in(message) {
                report.is_limited(kind, None, message, sink);
            }
            closes(true, report, sink);
        }
        "" => return false,
        _ => {}
    }
    true
}

fn closes(is_error: bool, report: &mut Report, sink: &mut dyn Sink) {
    report.is_closed = true;
    report.result.is_error = is_error;
    report.names_end(if is_error { "turn.failed" } else { "turn.completed" });
    report.turns();
    report.does(Fact::Idle, sink);
}

fn begins(item: &Item, report: &mut Report, sink: &mut dyn Sink) {
    if item.is.text() == "command_execution" {
        report.is_answered(sink);
        report.show_line(&format!("> tool: {}", super::words(item.command.text())), sink);
    }
}

fn completes(item: &Item, report: &mut Report, sink: &mut dyn Sink) {
    match item.is.text() {
        "agent_message" => {
            report.is_answered(sink);
            report.concludes(item.text.text());
            report.show_line(item.text.text(), sink);
        }
        "command_execution" => match item.exit_code.0 {
            Some(0) => {}
            Some(status) => report.show_line(&format!("> tool failed: status {status}"), sink),
            None if item.status.text() == "failed" => report.show_line("> tool failed", sink),
            None => {}
        },
        "file_change" => {
            for change in item.changes.elements() {
                report.show_line(&format!("> tool: change {}", super::words(change.path.text())), sink);
            }
        }
        "web_search" => {
            report.show_line(&format!("> tool: search {}", super::words(item.query.text())), sink);
        }
        "mcp_tool_call" => report.show_tool(item.tool.text(), &ToolInput::default(), sink),
        "error" => report.show_error(item.message.text(), sink),
        _ => {}
    }
}

/// Whether a credential is not accepted.
fn is_refused(message: &str) -> bool {
    message.contains("401 Unauthorized") || message.contains("403 Forbidden")
}

/// What is wrong with the credential, in words of Codex itself.
fn limit_in(message: &str) -> Option<HoldKind> {
    const QUOTA: [&str; 3] = ["hit your usage limit", "Quota exceeded", "429 Too Many Requests"];
    if is_refused(message) {
        return Some(HoldKind::Login);
    }
    QUOTA.iter().any(|words| message.contains(words)).then_some(HoldKind::Quota)
}
