//! The stream of Claude Code, and of Qwen Code, which has the same form.

use std::collections::VecDeque;

use serde::Deserialize;

use super::loose::{self, Fields, Kind, List, Loose};
use super::report::{Report, ToolInput};
use super::{Fact, Sink, Until, of_http, words};
use crate::agent::reset_time::in_seconds;
use crate::wire::hold::HoldKind;
use crate::wire::result::Tokens;

/// How many messages are remembered: each comes once for every block that it has, one after the other.
const MOST_MESSAGES: usize = 16;

/// What is remembered from line to line.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The latest messages, and what each has taken.
    messages: VecDeque<(String, Tokens)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    #[serde(rename = "type")]
    is: Loose<String>,
    subtype: Loose<String>,
    session_id: Loose<String>,
    model: Loose<String>,
    message: Loose<Message>,
    rate_limit_info: Loose<RateLimit>,
    error_status: Loose<u64>,
    /// A word, or an object with a message.
    error: Loose<Complaint>,
    attempt: Loose<u64>,
    max_retries: Loose<u64>,
    request: Loose<Request>,
    result: Loose<String>,
    is_error: Loose<bool>,
    api_error_status: Loose<u64>,
    errors: Loose<List<String>>,
    num_turns: Loose<u64>,
    duration_api_ms: Loose<u64>,
    total_cost_usd: Loose<f64>,
    usage: Loose<Usage>,
    permission_denials: Loose<List<Denial>>,
}

impl Fields for Record {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    id: Loose<String>,
    model: Loose<String>,
    content: Loose<Content>,
    usage: Loose<Usage>,
}

impl Fields for Message {}

/// A text, or blocks.
#[derive(Debug)]
enum Content {
    Text(String),
    Blocks(Loose<List<Block>>),
}

impl Kind for Content {
    fn of_string(text: &str) -> Option<Self> {
        Some(Self::Text(text.to_owned()))
    }

    fn of_list<'de, A: serde::de::SeqAccess<'de>>(list: A) -> Result<Option<Self>, A::Error> {
        Ok(Some(Self::Blocks(Loose(List::of_list(list)?))))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Block {
    #[serde(rename = "type")]
    is: Loose<String>,
    text: Loose<String>,
    name: Loose<String>,
    input: Loose<ToolInput>,
    content: Loose<Inner>,
    is_error: Loose<bool>,
}

impl Fields for Block {}

/// What a tool returned: a text, or blocks, of which the first text counts.
#[derive(Debug)]
struct Inner(String);

impl Kind for Inner {
    fn of_string(text: &str) -> Option<Self> {
        Some(Self(words(text)))
    }

    fn of_list<'de, A: serde::de::SeqAccess<'de>>(list: A) -> Result<Option<Self>, A::Error> {
        let blocks = Loose(List::<TextBlock>::of_list(list)?);
        let text = blocks.elements().map(|block| words(block.text.text())).find(|text| !text.is_empty());
        Ok(text.map(Self))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TextBlock {
    text: Loose<String>,
}

impl Fields for TextBlock {}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "they are the harness's")]
struct Usage {
    input_tokens: Count,
    output_tokens: Count,
    cache_read_input_tokens: Count,
    cache_creation_input_tokens: Count,
}

impl Fields for Usage {}

/// A number that is 0 if it is absent.
#[derive(Clone, Copy, Debug, Default)]
struct Count(u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Loose::<u64>::deserialize(deserializer)?.0.unwrap_or_default()))
    }
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Self {
        Self {
            input: usage.input_tokens.0,
            output: usage.output_tokens.0,
            cache_read: usage.cache_read_input_tokens.0,
            cache_write: usage.cache_creation_input_tokens.0,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RateLimit {
    status: Loose<String>,
    #[serde(rename = "resetsAt")]
    resets_at: Loose<u64>,
    #[serde(rename = "rateLimitType")]
    is: Loose<String>,
}

impl Fields for RateLimit {}

#[derive(Debug)]
struct Complaint(String);

impl Kind for Complaint {
    fn of_string(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }

    fn of_object<'de, A: serde::de::MapAccess<'de>>(object: A) -> Result<Option<Self>, A::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Object {
            message: Loose<String>,
        }
        let object = Object::deserialize(serde::de::value::MapAccessDeserializer::new(object))?;
        Ok(object.message.0.map(Self))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    subtype: Loose<String>,
    tool_name: Loose<String>,
}

impl Fields for Request {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Denial {
    tool_name: Loose<String>,
}

impl Fields for Denial {}

impl Reader {
    /// Reads a line. Returns whether it is of this form.
    pub(super) fn read(&mut self, line: &[u8], report: &mut Report, sink: &mut dyn Sink) -> bool {
        let Some(record) = loose::read::<Record>(line) else { return false };
        report.converses(record.session_id.text(), sink);
        match (record.is.text(), record.subtype.text()) {
            ("system", "init") => {
                report.uses_model(record.model.text());
                report.does(Fact::Working, sink);
            }
            ("system", "api_retry") => retries(&record, report, sink),
            ("assistant", _) => self.says(&record, report, sink),
            ("user", _) => {
                for block in blocks(&record) {
                    let text = block.content.get().map_or("", |content| content.0.as_str());
                    if block.is.text() == "tool_result" && block.is_error.0 == Some(true) {
                        report.show_line(&format!("> tool failed: {text}"), sink);
                    }
                }
                report.does(Fact::Working, sink);
            }
            ("rate_limit_event", _) => {
                if let Some(limit) = record.rate_limit_info.get().filter(|limit| limit.status.text() == "rejected") {
                    let until = limit.resets_at.0.and_then(in_seconds).map(Until::At);
                    report.is_limited(HoldKind::Quota, until, &format!("rate limit {}", limit.is.text()), sink);
                }
            }
            ("control_request", _) => {
                if let Some(request) = record.request.get().filter(|it| it.subtype.text() == "can_use_tool") {
                    report.does(Fact::Blocked(format!("may it use {}?", words(request.tool_name.text()))), sink);
                }
            }
            ("result", _) => concludes(&record, report, sink),
            // Records that say nothing of interest.
            ("", _) => return false,
            _ => {}
        }
        true
    }

    fn says(&mut self, record: &Record, report: &mut Report, sink: &mut dyn Sink) {
        report.does(Fact::Working, sink);
        let Some(message) = record.message.get() else { return };
        match message.content.get() {
            Some(Content::Text(text)) => report.show_line(text, sink),
            Some(Content::Blocks(blocks)) => {
                for block in blocks.elements() {
                    match block.is.text() {
                        "text" => {
                            report.concludes(block.text.text());
                            report.show_line(block.text.text(), sink);
                        }
                        "tool_use" => {
                            let nothing = ToolInput::default();
                            report.show_tool(block.name.text(), block.input.get().unwrap_or(&nothing), sink);
                        }
                        _ => {}
                    }
                }
            }
            None => {}
        }
        // The words of an API error come from no model.
        if message.model.text() != "<synthetic>" {
            report.uses_model(message.model.text());
        }
        if let Some(usage) = message.usage.get() {
            self.counts(message.id.text(), Tokens::from(*usage), report, sink);
        }
    }

    /// A message has taken this, which may have been said before in part.
    fn counts(&mut self, id: &str, usage: Tokens, report: &mut Report, sink: &mut dyn Sink) {
        let id = words(id);
        let known = self.messages.iter_mut().find(|(known, _)| *known == id);
        let more = if let Some((_, before)) = known {
            let more = Tokens {
                input: usage.input.saturating_sub(before.input),
                output: usage.output.saturating_sub(before.output),
                cache_read: usage.cache_read.saturating_sub(before.cache_read),
                cache_write: usage.cache_write.saturating_sub(before.cache_write),
            };
            *before = before.plus(more);
            more
        } else {
            if self.messages.len() >= MOST_MESSAGES {
                self.messages.pop_front();
            }
            self.messages.push_back((id, usage));
            usage
        };
        report.takes(more, sink);
    }
}

fn concludes(record: &Record, report: &mut Report, sink: &mut dyn Sink) {
    let is_error = record.is_error.0.unwrap_or(record.subtype.text() != "success");
    let complaint = record.error.get().map(|error| error.0.as_str());
    let text = record.result.get().map(String::as_str).or(complaint).unwrap_or_default();
    let text = if text.is_empty() { record.errors.elements().next().map_or("", String::as_str) } else { text };
    // An API error was shown as a message before.
    let is_shown = !text.is_empty() && report.result.text == text;
    if !text.is_empty() {
        report.concludes(text);
    }
    report.is_closed = true;
    report.result.is_error = is_error;
    report.names_end(record.subtype.text());
    report.result.turns = record.num_turns.0;
    report.result.duration_api_ms = record.duration_api_ms.0;
    for denial in record.permission_denials.elements() {
        report.is_denied(denial.tool_name.text());
    }
    if let Some(cost) = record.total_cost_usd.0 {
        report.has_cost(cost, sink);
    }
    if let Some(usage) = record.usage.get() {
        report.has_taken(reconciled(report.tokens(), Tokens::from(*usage)), sink);
    }
    if is_error {
        if !is_shown {
            report.show_error(if text.is_empty() { record.subtype.text() } else { text }, sink);
        }
        let kind = record.api_error_status.0.and_then(of_http).or_else(|| limit_in(text));
        if let Some(kind) = kind {
            report.is_limited(kind, None, text, sink);
        }
    }
    report.does(Fact::Idle, sink);
}

/// Which tokens were taken, by the messages and by the result.
///
/// The result has the right figure of the output, which messages give before it is complete. But after a conversation was resumed the
/// result may count what earlier processes have taken; then its other figures differ.
fn reconciled(messages: Tokens, result: Tokens) -> Tokens {
    let others = |tokens: Tokens| (tokens.input, tokens.cache_read, tokens.cache_write);
    let is_of_the_same = others(messages) == others(result);
    if messages == Tokens::default() || is_of_the_same { result } else { messages }
}

fn retries(record: &Record, report: &mut Report, sink: &mut dyn Sink) {
    let word = record.error.get().map_or("", |error| error.0.as_str());
    let status = record.error_status.0.map_or_else(String::new, |status| format!(" ({status})"));
    let attempt = record.attempt.0.unwrap_or_default();
    let most = record.max_retries.0.map_or_else(String::new, |most| format!(" of {most}"));
    let text = format!("{}{status}", words(word));
    report.show_line(&format!("{text}: retry {attempt}{most}"), sink);
    if record.error_status.0 == Some(401) {
        report.is_limited(HoldKind::Login, None, &text, sink);
    }
}

/// What is wrong with the credential according to an error that has no status: in words of Claude Code itself, with which the text
/// begins.
fn limit_in(text: &str) -> Option<HoldKind> {
    const LOGIN: [&str; 4] = ["Not logged in", "Invalid API key", "Failed to authenticate", "[API Error: 401"];
    const QUOTA: [&str; 3] = ["You've hit your", "Credit balance is too low", "[API Error: 429"];
    let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| text.starts_with(beginning));
    if begins(&LOGIN) { Some(HoldKind::Login) } else { begins(&QUOTA).then_some(HoldKind::Quota) }
}

fn blocks(record: &Record) -> impl Iterator<Item = &Block> {
    let content = record.message.get().and_then(|message| message.content.get());
    let blocks = match content {
        Some(Content::Blocks(blocks)) => Some(blocks),
        _ => None,
    };
    blocks.into_iter().flat_map(Loose::elements)
}
