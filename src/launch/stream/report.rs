//! What a stream has said so far, whatever its form: facts go out once, and texts are kept within bounds.

use super::loose::{Fields, Loose};
use super::{Ending, Fact, Limit, MOST_TEXT, MOST_WORDS, Sink, Until, conversation, head, safe, words};
use crate::wire::hold::HoldKind;
use crate::wire::result::{StreamResult, Tokens};

/// The most tools whose denial is named.
const MOST_DENIED: usize = 32;

/// How much of what a tool is to do is shown, in bytes.
const MOST_OF_TOOL: usize = 200;

/// How many facts about limits an attempt may state: a harness that says another one each time is not believed forever.
const MOST_LIMITS: u32 = 100;

/// What was said.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Whether any line was of the expected form.
    pub(super) is_spoken: bool,
    /// Whether the closing record came.
    pub(super) is_closed: bool,
    /// What is known of the result.
    pub(super) result: StreamResult,
    tokens: Tokens,
    cost: Option<f64>,
    conversation: Option<String>,
    activity: Option<Fact>,
    limit: Option<Limit>,
    limits: u32,
    /// Whether what was shown last ends within a line.
    is_within_line: bool,
}

impl Report {
    /// Shows a text as lines of its own.
    pub(super) fn show_line(&mut self, text: &str, sink: &mut dyn Sink) {
        if self.is_within_line {
            sink.show("\n");
            self.is_within_line = false;
        }
        let mut text = safe(text.strip_suffix('\n').unwrap_or(text));
        text.push('\n');
        sink.show(&text);
    }

    /// Shows the next piece of a text.
    pub(super) fn show_piece(&mut self, text: &str, sink: &mut dyn Sink) {
        if !text.is_empty() {
            sink.show(&safe(text));
            self.is_within_line = !text.ends_with('\n');
        }
    }

    /// Shows that a tool is used.
    pub(super) fn show_tool(&mut self, name: &str, input: &ToolInput, sink: &mut dyn Sink) {
        let input = input.summary();
        let gap = if input.is_empty() { "" } else { " " };
        self.show_line(&format!("> tool: {}{gap}{}", head(name, MOST_WORDS), words(head(input, MOST_OF_TOOL))), sink);
    }

    /// Shows an error.
    pub(super) fn show_error(&mut self, text: &str, sink: &mut dyn Sink) {
        self.show_line(&format!("error: {}", head(text.trim(), 4096)), sink);
    }

    /// The harness names its conversation.
    pub(super) fn converses(&mut self, id: &str, sink: &mut dyn Sink) {
        if self.conversation.as_deref() != Some(id)
            && let Some(id) = conversation(id)
        {
            self.conversation = Some(id.clone());
            sink.fact(Fact::Conversation(id));
        }
    }

    /// The harness says what it does.
    pub(super) fn does(&mut self, activity: Fact, sink: &mut dyn Sink) {
        if self.activity.as_ref() != Some(&activity) {
            self.activity = Some(activity.clone());
            sink.fact(activity);
        }
    }

    /// The attempt has taken these tokens so far.
    pub(super) fn has_taken(&mut self, tokens: Tokens, sink: &mut dyn Sink) {
        if self.tokens != tokens {
            self.tokens = tokens;
            sink.fact(Fact::Tokens(tokens));
        }
    }

    /// The attempt has taken these tokens more.
    pub(super) fn takes(&mut self, more: Tokens, sink: &mut dyn Sink) {
        if more.output > 0 {
            self.is_answered(sink);
        }
        self.has_taken(self.tokens.plus(more), sink);
    }

    /// The model has answered, so its credential works. A harness may have got over an error by itself.
    pub(super) fn is_answered(&mut self, sink: &mut dyn Sink) {
        if self.limit.take().is_some() {
            sink.fact(Fact::Unlimited);
        }
    }

    /// The tokens taken so far.
    pub(super) fn tokens(&self) -> Tokens {
        self.tokens
    }

    /// The attempt has cost this much so far.
    pub(super) fn has_cost(&mut self, cost: f64, sink: &mut dyn Sink) {
        if self.cost != Some(cost) {
            self.cost = Some(cost);
            sink.fact(Fact::Cost(cost));
        }
    }

    /// The attempt costs this much more.
    pub(super) fn costs(&mut self, more: f64, sink: &mut dyn Sink) {
        // Figures may be tiny, but nothing costs more than this.
        self.has_cost((self.cost.unwrap_or_default() + more).min(1e6), sink);
    }

    /// The credential is not accepted, or its quota is used up.
    pub(super) fn is_limited(&mut self, kind: HoldKind, until: Option<Until>, text: &str, sink: &mut dyn Sink) {
        // What was said before as data is not taken back by a text.
        let until = until.or_else(|| self.limit.as_ref().filter(|limit| limit.kind == kind)?.until);
        let limit = Limit { kind, until, text: words(text) };
        if self.limit.as_ref() != Some(&limit) && self.limits < MOST_LIMITS {
            self.limits += 1;
            self.limit = Some(limit.clone());
            sink.fact(Fact::Limit(limit));
        }
    }

    /// The use of this tool was denied.
    pub(super) fn is_denied(&mut self, tool: &str) {
        let tool = words(tool);
        let denied = &mut self.result.denied;
        if !tool.is_empty() && denied.len() < MOST_DENIED && !denied.contains(&tool) {
            denied.push(tool);
        }
    }

    /// This is the final message, as far as is known.
    pub(super) fn concludes(&mut self, text: &str) {
        self.result.text.clear();
        self.adds(text);
    }

    /// The final message goes on.
    pub(super) fn adds(&mut self, text: &str) {
        let kept = &mut self.result.text;
        let text = &text[text.ceil_char_boundary(text.len().saturating_sub(MOST_TEXT))..];
        let excess = (kept.len() + text.len()).saturating_sub(MOST_TEXT);
        kept.drain(..kept.ceil_char_boundary(excess));
        kept.push_str(text);
    }

    /// A turn is over.
    pub(super) fn turns(&mut self) {
        let turns = self.result.turns.get_or_insert(0);
        *turns = turns.saturating_add(1);
    }

    /// The model.
    pub(super) fn uses_model(&mut self, model: &str) {
        if self.result.model.is_none() && !model.is_empty() {
            self.result.model = Some(words(model));
        }
    }

    /// Its own word for how the work ended.
    pub(super) fn names_end(&mut self, word: &str) {
        self.result.subtype = Some(words(word)).filter(|word| !word.is_empty());
    }

    /// The result, once nothing more comes.
    pub(super) fn finish(self, skipped: u64, sink: &mut dyn Sink) -> Ending {
        if self.is_within_line {
            sink.show("\n");
        }
        let mut result = self.result;
        result.tokens = Some(self.tokens).filter(|tokens| *tokens != Tokens::default());
        result.cost_usd = self.cost;
        result.is_partial = !self.is_closed;
        if skipped > 0 {
            let lines = if skipped == 1 { "line was" } else { "lines were" };
            result.note = Some(format!("{skipped} {lines} too long, and skipped"));
        }
        Ending { seen: self.is_closed, skipped, result: self.is_spoken.then_some(result) }
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn capacity(&self) -> usize {
        self.result.text.capacity()
    }
}

/// What a tool is to do, as far as people want to see it.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct ToolInput {
    command: Loose<Command>,
    file_path: Loose<String>,
    #[serde(rename = "filePath")]
    file_path_in_camel_case: Loose<String>,
    path: Loose<String>,
    pattern: Loose<String>,
    query: Loose<String>,
    url: Loose<String>,
    description: Loose<String>,
}

impl Fields for ToolInput {}

/// A command line, as text or as words.
#[derive(Debug)]
struct Command(String);

impl super::loose::Kind for Command {
    fn of_string(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }

    fn of_list<'de, A: serde::de::SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut command = String::new();
        while let Some(word) = list.next_element::<Loose<String>>()? {
            if command.len() < MOST_OF_TOOL && !word.text().is_empty() {
                command.push_str(if command.is_empty() { "" } else { " " });
                command.push_str(head(word.text(), MOST_OF_TOOL));
            }
        }
        Ok(Some(Self(command)))
    }
}

impl ToolInput {
    fn summary(&self) -> &str {
        let texts = [
            &self.file_path,
            &self.file_path_in_camel_case,
            &self.path,
            &self.pattern,
            &self.query,
            &self.url,
            &self.description,
        ];
        let command = self.command.get().map(|command| command.0.as_str());
        let texts = texts.into_iter().filter_map(|text| text.get().map(String::as_str));
        command.into_iter().chain(texts).find(|text| !text.is_empty()).unwrap_or_default()
    }
}
