//! The machine-readable output of a harness: what it says of its work, and a transcript for people.
//!
//! A [`Stream`] takes in what a harness prints on its standard output, in pieces of any size. It hands out [facts](Fact), and the text
//! that stands for the output in the pane and in the log. A line that is not a JSON object stands for itself.
//!
//! Everything here is pure. What a harness prints is hostile: a line that is too long is skipped and counted, a field of another type
//! than expected is absent, a figure that cannot be true is left out, and what is kept of a text is bounded. The facts depend on the
//! bytes alone, however these are cut into pieces.

mod claude;
mod codex;
mod gemini;
mod lines;
mod loose;
pub(in crate::launch) mod news;
mod opencode;
mod pi;
mod report;
pub mod said;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::agent::stream_kind::StreamKind;
use crate::text::printable::escaped_lines;
use crate::wire::exit_status::ExitStatus;
use crate::wire::hold::HoldKind;
use crate::wire::result::{StreamResult, Tokens};

pub use lines::LONGEST;

use lines::{Line, Lines};
use report::Report;

/// How much is kept of the final message, in bytes.
pub const MOST_TEXT: usize = 64 << 10;

/// How much is kept of another text, such as an error or the name of a model, in bytes.
pub(crate) const MOST_WORDS: usize = 256;

/// What a harness says while it works.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// The id of its conversation, which has no more than 128 letters, digits and `-_.`, and begins with no `-`.
    Conversation(String),
    /// It works.
    Working,
    /// It waits for its next task, or ends.
    Idle,
    /// It asks a question that a person must answer.
    Blocked(String),
    /// The tokens that the attempt has taken so far.
    Tokens(Tokens),
    /// What the attempt has cost so far, in US dollars.
    Cost(f64),
    /// Its credential is not accepted, or its quota is used up.
    Limit(Limit),
    /// The model has answered since the last [limit](Fact::Limit): it is over.
    Unlimited,
}

/// What is wrong with the credential, as the harness says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is wrong.
    pub kind: HoldKind,
    /// When that ends, as far as it is said as data. A text may say more.
    pub until: Option<Until>,
    /// What the harness says of it: one line, at most 256 bytes.
    pub text: String,
}

/// When a quota is there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// At this time, in seconds since 1970.
    At(u64),
    /// So many seconds after it was said.
    After(u64),
}

/// Takes what a stream says.
pub trait Sink {
    /// A fact. The same one is not repeated, but an activity that comes back is.
    fn fact(&mut self, fact: Fact);

    /// Text for people, for the end of what was shown so far. A line ends with LF, and no character acts on a terminal otherwise.
    fn show(&mut self, text: &str);
}

/// What is known when a stream is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// What the harness said of its work. It is [partial](StreamResult::is_partial) if the closing record did not come, and absent if
    /// no record came at all.
    pub result: Option<StreamResult>,
    /// Whether a closing record came.
    pub seen: bool,
    /// How many lines were too long.
    pub skipped: u64,
}

/// The output of one attempt.
#[derive(Debug)]
pub struct Stream {
    lines: Lines,
    reader: Reader,
}

/// What reads the lines.
#[derive(Debug)]
struct Reader {
    form: Form,
    report: Report,
    skipped: u64,
}

/// The form of the lines, with what is remembered from line to line.
#[derive(Debug)]
enum Form {
    Claude(claude::Reader),
    Codex,
    Gemini(gemini::Reader),
    Opencode,
    Pi,
}

impl Stream {
    /// The output of a harness that has just been started.
    pub fn new(kind: StreamKind) -> Self {
        let form = match kind {
            StreamKind::Claude => Form::Claude(claude::Reader::default()),
            StreamKind::Codex => Form::Codex,
            StreamKind::Gemini => Form::Gemini(gemini::Reader::default()),
            StreamKind::Opencode => Form::Opencode,
            StreamKind::Pi => Form::Pi,
        };
        Self { lines: Lines::default(), reader: Reader { form, report: Report::default(), skipped: 0 } }
    }

    /// Takes in the next bytes.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut dyn Sink) {
        let Self { lines, reader } = self;
        lines.feed(bytes, |line| reader.take(line, sink));
    }

    /// Takes in the end of the output, and how the harness ended, if that is known.
    pub fn end(mut self, how: Option<&ExitStatus>, sink: &mut dyn Sink) -> Ending {
        let Self { lines, reader } = &mut self;
        lines.end(|line| reader.take(line, sink));
        if let Form::Gemini(_) = reader.form
            && let Some(how) = how
        {
            gemini::ended(how, &mut reader.report, sink);
        }
        self.reader.report.finish(self.reader.skipped, sink)
    }

    /// How much memory it holds for what it has read, in bytes, without what is bounded by a number of short texts.
    #[cfg(any(test, fuzzing))]
    pub fn capacity(&self) -> usize {
        self.lines.capacity() + self.reader.report.capacity()
    }
}

impl Reader {
    fn take(&mut self, line: Line<'_>, sink: &mut dyn Sink) {
        let report = &mut self.report;
        let line = match line {
            Line::Whole(line) => line,
            Line::Skipped(length) => {
                self.skipped = self.skipped.saturating_add(1);
                return report.show_line(&format!("[a line of {length} bytes is left out]"), sink);
            }
        };
        let is_read = line.starts_with(b"{")
            && match &mut self.form {
                Form::Claude(form) => form.read(line, report, sink),
                Form::Codex => codex::read(line, report, sink),
                Form::Gemini(form) => form.read(line, report, sink),
                Form::Opencode => opencode::read(line, report, sink),
                Form::Pi => pi::read(line, report, sink),
            };
        if is_read {
            report.is_spoken = true;
        } else {
            report.show_line(&String::from_utf8_lossy(line), sink);
        }
    }
}

/// The status of a response of a service as what is wrong with the credential.
fn of_http(status: u64) -> Option<HoldKind> {
    match status {
        401 | 403 => Some(HoldKind::Login),
        402 | 429 => Some(HoldKind::Quota),
        _ => None,
    }
}

/// An id of a conversation, if it is one that can stand in a command line and in a path.
pub fn conversation(id: &str) -> Option<String> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_id = (1..=128).contains(&id.len()) && id.bytes().all(is_fine) && !id.starts_with(['-', '.']);
    is_id.then(|| id.to_owned())
}

/// The first line of a text that says something, for a place that has one line of at most [`MOST_WORDS`] bytes.
fn words(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    head(line, MOST_WORDS).chars().filter(|&character| !crate::text::printable::acts(character)).collect()
}

/// The beginning of a text: so many bytes at most, and no half of a character.
fn head(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// A text that is safe to show. CR is part of many ends of lines, and says nothing.
fn safe(text: &str) -> String {
    escaped_lines(&text.replace("\r\n", "\n"))
}
