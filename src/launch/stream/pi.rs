//! The stream of pi (`--mode json`), which ends with status 0 in any case.

use serde::Deserialize;

use super::loose::{self, Fields, Kind, List, Loose};
use super::report::{Report, ToolInput};
use super::{Fact, Sink, of_http};
use crate::wire::hold::HoldKind;
use crate::wire::result::Tokens;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    #[serde(rename = "type")]
    is: Loose<String>,
    id: Loose<String>,
    message: Loose<Message>,
    #[serde(rename = "toolName")]
    tool_name: Loose<String>,
    args: Loose<ToolInput>,
    #[serde(rename = "isError")]
    is_error: Loose<bool>,
    #[serde(rename = "willRetry")]
    will_retry: Loose<bool>,
    aborted: Loose<bool>,
}

impl Fields for Record {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    role: Loose<String>,
    content: Loose<Content>,
    model: Loose<String>,
    #[serde(rename = "stopReason")]
    stop_reason: Loose<String>,
    #[serde(rename = "errorMessage")]
    complaint: Loose<String>,
    usage: Loose<Usage>,
}

impl Fields for Message {}

/// The text of a message: what it consists of, or the text blocks of it.
#[derive(Debug)]
struct Content(String);

impl Kind for Content {
    fn of_string(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }

    fn of_list<'de, A: serde::de::SeqAccess<'de>>(list: A) -> Result<Option<Self>, A::Error> {
        let blocks = Loose(List::<Block>::of_list(list)?);
        let texts: Vec<&str> =
            blocks.elements().filter(|block| block.is.text() == "text").map(|block| block.text.text()).collect();
        Ok(Some(Self(texts.join("\n"))))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Block {
    #[serde(rename = "type")]
    is: Loose<String>,
    text: Loose<String>,
}

impl Fields for Block {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Usage {
    input: Loose<u64>,
    output: Loose<u64>,
    #[serde(rename = "cacheRead")]
    cache_read: Loose<u64>,
    #[serde(rename = "cacheWrite")]
    cache_write: Loose<u64>,
    cost: Loose<Cost>,
}

impl Fields for Usage {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cost {
    total: Loose<f64>,
}

impl Fields for Cost {}

/// Reads a line. Returns whether it is of this form.
pub(super) fn read(line: &[u8], report: &mut Report, sink: &mut dyn Sink) -> bool {
    let Some(record) = loose::read::<Record>(line) else { return false };
    match record.is.text() {
        "session" => report.converses(record.id.text(), sink),
        "agent_start" | "turn_start" => report.does(Fact::Working, sink),
        "tool_execution_start" => {
            let nothing = ToolInput::default();
            report.show_tool(record.tool_name.text(), record.args.get().unwrap_or(&nothing), sink);
        }
        "tool_execution_end" if record.is_error.0 == Some(true) => report.show_line("> tool failed", sink),
        "message_end" => {
            if let Some(message) = record.message.get().filter(|message| message.role.text() == "assistant") {
                says(message, report, sink);
            }
        }
        "turn_end" => report.turns(),
        // It tries again by itself, or that was all.
        "agent_end" if record.will_retry.0 == Some(true) => report.does(Fact::Working, sink),
        "agent_end" | "agent_settled" => {
            report.is_closed = true;
            if record.aborted.0 == Some(true) {
                report.result.is_error = true;
                report.names_end("aborted");
            }
            report.does(Fact::Idle, sink);
        }
        "" => return false,
        _ => {}
    }
    true
}

fn says(message: &Message, report: &mut Report, sink: &mut dyn Sink) {
    report.uses_model(message.model.text());
    let text = message.content.get().map_or("", |content| content.0.as_str());
    if !text.is_empty() {
        report.concludes(text);
        report.show_line(text, sink);
    }
    if let Some(usage) = message.usage.get() {
        let of = |number: &Loose<u64>| number.0.unwrap_or_default();
        let tokens = Tokens {
            input: of(&usage.input),
            output: of(&usage.output),
            cache_read: of(&usage.cache_read),
            cache_write: of(&usage.cache_write),
        };
        report.takes(tokens, sink);
        if let Some(cost) = usage.cost.get().and_then(|cost| cost.total.0) {
            report.costs(cost, sink);
        }
    }
    report.names_end(message.stop_reason.text());
    let is_error = ["error", "aborted"].contains(&message.stop_reason.text());
    report.result.is_error = is_error;
    if is_error {
        let error = message.complaint.text();
        report.concludes(error);
        report.show_error(error, sink);
        if let Some(kind) = limit_in(error) {
            report.is_limited(kind, None, error, sink);
        }
    }
}

/// What is wrong with the credential: an error of the service begins with its status.
fn limit_in(error: &str) -> Option<HoldKind> {
    let digits = error.get(..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let is_status = error.as_bytes().get(3).is_none_or(|next| !next.is_ascii_digit());
    let status = digits.filter(|_| is_status).and_then(|digits| digits.parse().ok()).and_then(of_http);
    status.or_else(|| error.starts_with("No API key").then_some(HoldKind::Login))
}
