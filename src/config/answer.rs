//! An answer of an operator, as a file: TOML text in, what an agent learns out.

use super::drop_in::{document, text_of};
use super::fields::Fields;
use super::position::Places;
use crate::agent::approval::MOST_OF_WHY;

/// The largest answer that is read, in bytes.
pub const MAX_SIZE: u64 = 4 << 10;

/// What an operator answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether the agent may.
    pub allow: bool,
    /// What the agent learns of it.
    pub why: Option<String>,
}

/// Reads an answer.
///
/// # Errors
///
/// What is wrong with it, and what would be right: `line:column: problem; remedy`, one per line.
pub fn parse(text: &[u8]) -> Result<Answer, String> {
    const RIGHT: &str = "write `answer = \"allow\"` or `answer = \"deny\"`";
    let text = text_of(text)?;
    let places = Places::new(text);
    let document = document(text, &places)?;
    let mut fields = Fields::new(document.get_ref(), 0, &places);
    fields.only(&["answer", "why"], "an answer has `answer` and `why`, and nothing else");
    let allow = fields.word("answer", "no answer is", &[("allow", true), ("deny", false)]);
    if !fields.is_set("answer") {
        fields.error(0, format!("it answers nothing; {RIGHT}"));
    }
    let why = fields.string("why").map(str::to_owned);
    if why.as_ref().is_some_and(|why| why.chars().count() > MOST_OF_WHY || why.chars().any(char::is_control)) {
        let right = format!("write one line of at most {MOST_OF_WHY} characters");
        fields.error(fields.place("why"), format!("`why` cannot be told to an agent; {right}"));
    }
    match (fields.errors(), allow) {
        (None, Some(allow)) => Ok(Answer { allow, why }),
        (errors, _) => Err(errors.unwrap_or_default()),
    }
}

impl Answer {
    /// As a file.
    pub fn render(&self) -> String {
        let answer = if self.allow { "allow" } else { "deny" };
        let why = self.why.as_ref().map(|why| format!("why = {}\n", toml_string(why))).unwrap_or_default();
        format!("answer = \"{answer}\"\n{why}")
    }
}

/// A basic string of TOML, in which everything else but a few letters stands for itself.
fn toml_string(text: &str) -> String {
    let letter = |c: char| match c {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(letter).collect::<String>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("answer = 'allow'", true, None)]
    #[case("\u{feff}answer = \"deny\"\nwhy = 'use the other remote'\n", false, Some("use the other remote"))]
    fn an_answer_is_read(#[case] text: &str, #[case] allow: bool, #[case] why: Option<&str>) {
        assert_eq!(parse(text.as_bytes()), Ok(Answer { allow, why: why.map(str::to_owned) }));
    }

    #[rstest]
    #[case("", "1:1: it answers nothing; write `answer = \"allow\"`")]
    #[case("answer = ''", "it answers nothing")]
    #[case("answer = 'alow'", "1:10: no answer is \"alow\"; did you mean \"allow\"?")]
    #[case("answer = true", "1:10: `answer` is ")]
    #[case("answer = 'allow'\ncommand = 'sh'", "2:1: the key \"command\" may not be here; an answer has `answer`")]
    #[case("answer = 'deny'\nwhy = 1", "2:7: `why` is ")]
    #[case("answer = 'deny'\nwhy = \"a\\nb\"", "2:7: `why` cannot be told to an agent; write one line")]
    #[case("allow", "the file is not valid TOML")]
    fn anything_else_is_refused_with_its_place(#[case] text: &str, #[case] error: &str) {
        let said = parse(text.as_bytes()).unwrap_err();
        assert!(said.contains(error), "{said}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(allow: bool, why in prop::option::of("[^\\p{Cc}]{1,40}")) {
            let answer = Answer { allow, why };
            prop_assert_eq!(parse(answer.render().as_bytes()), Ok(answer));
        }

        #[test]
        fn whatever_is_in_a_file_allows_nothing(text in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(parse(&text).is_err());
        }
    }
}
