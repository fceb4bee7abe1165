//! The stream of Gemini CLI (`-o stream-json`).

use serde::Deserialize;

use super::loose::{self, Fields, Loose};
use super::report::{Report, ToolInput};
use super::{Fact, Sink, of_http};
use crate::wire::exit_status::ExitStatus;
use crate::wire::hold::HoldKind;
use crate::wire::result::Tokens;

/// The exit status that says that there is no credential, or none that is accepted.
const NO_LOGIN: i32 = 41;

/// What is remembered from line to line.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Whether a message of the assistant goes on.
    is_speaking: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    #[serde(rename = "type")]
    is: Loose<String>,
    session_id: Loose<String>,
    model: Loose<String>,
    role: Loose<String>,
    content: Loose<String>,
    delta: Loose<bool>,
    tool_name: Loose<String>,
    parameters: Loose<ToolInput>,
    status: Loose<String>,
    output: Loose<String>,
    message: Loose<String>,
    error: Loose<Complaint>,
    stats: Loose<Stats>,
}

impl Fields for Record {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Complaint {
    #[serde(rename = "type")]
    is: Loose<String>,
    message: Loose<String>,
    code: Loose<u64>,
}

impl Fields for Complaint {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stats {
    input_tokens: Loose<u64>,
    output_tokens: Loose<u64>,
    cached: Loose<u64>,
}

impl Fields for Stats {}

impl Reader {
    /// Reads a line. Returns whether it is of this form.
    pub(super) fn read(&mut self, line: &[u8], report: &mut Report, sink: &mut dyn Sink) -> bool {
        let Some(record) = loose::read::<Record>(line) else { return false };
        let is = record.is.text();
        let was_speaking = std::mem::replace(&mut self.is_speaking, false);
        match is {
            "init" => {
                report.converses(record.session_id.text(), sink);
                report.uses_model(record.model.text());
                report.does(Fact::Working, sink);
            }
            "message" if record.role.text() == "assistant" => {
                let text = record.content.text();
                report.does(Fact::Working, sink);
                if record.delta.0 == Some(true) {
                    self.is_speaking = true;
                    if was_speaking {
                        report.adds(text);
                    } else {
                        report.turns();
                        report.concludes(text);
                    }
                    report.show_piece(text, sink);
                } else {
                    report.turns();
                    report.concludes(text);
                    report.show_line(text, sink);
                }
            }
            "tool_use" => {
                let nothing = ToolInput::default();
                report.does(Fact::Working, sink);
                report.show_tool(record.tool_name.text(), record.parameters.get().unwrap_or(&nothing), sink);
            }
            "tool_result" if record.status.text() == "error" => {
                let error = record.error.get().map_or("", |error| error.message.text());
                let text = if error.is_empty() { record.output.text() } else { error };
                report.show_line(&format!("> tool failed: {}", super::words(text)), sink);
            }
            "error" => {
                let error = record.error.get().map_or("", |error| error.message.text());
                let text = if error.is_empty() { record.message.text() } else { error };
                report.show_error(text, sink);
            }
            "result" => concludes(&record, report, sink),
            "" => return false,
            _ => {}
        }
        true
    }
}

fn concludes(record: &Record, report: &mut Report, sink: &mut dyn Sink) {
    report.is_closed = true;
    report.result.is_error = record.status.text() != "success";
    report.names_end(record.status.text());
    if let Some(stats) = record.stats.get() {
        let of = |number: &Loose<u64>| number.0.unwrap_or_default();
        let cache_read = of(&stats.cached);
        let input = of(&stats.input_tokens).saturating_sub(cache_read);
        report.has_taken(Tokens { input, output: of(&stats.output_tokens), cache_read, cache_write: 0 }, sink);
    }
    if report.result.is_error {
        let (word, message) = record.error.get().map_or(("", ""), |error| (error.is.text(), error.message.text()));
        report.concludes(message);
        report.show_error(message, sink);
        let code = record.error.get().and_then(|error| error.code.0);
        if let Some(kind) = code.and_then(of_http).or_else(|| limit_in(word, message)) {
            report.is_limited(kind, None, message, sink);
        }
    }
    report.does(Fact::Idle, sink);
}

/// What is wrong with the credential, in words of Gemini CLI and of its service.
fn limit_in(word: &str, message: &str) -> Option<HoldKind> {
    const QUOTA: [&str; 4] =
        ["TerminalQuotaError", "exhausted your daily quota", "exceeded your current quota", "\"code\":429"];
    const LOGIN: [&str; 3] = ["FatalAuthenticationError", "API key not valid", "UNAUTHENTICATED"];
    let is_said = |words: &&str| word.contains(*words) || message.contains(*words);
    if LOGIN.iter().any(is_said) { Some(HoldKind::Login) } else { QUOTA.iter().any(is_said).then_some(HoldKind::Quota) }
}

/// It ends with a status of its own if it is not logged in, and prints no record then.
pub(super) fn ended(how: &ExitStatus, report: &mut Report, sink: &mut dyn Sink) {
    if *how == ExitStatus::Code(NO_LOGIN) {
        report.is_limited(HoldKind::Login, None, "it has no credential that is accepted (status 41)", sink);
    }
}
