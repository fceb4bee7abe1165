//! A drop-in of the overrides directory: TOML text in, what an operator wants of an agent out.
//!
//! Nothing but these few keys may be in it: members of a group write it, and must not choose commands or users.

use toml::Spanned;
use toml::de::DeTable;

use super::agents::generation;
use super::fields::Fields;
use super::position::Places;
use crate::config::{Finding, Severity, tell};
use crate::text::printable::without_byte_order_mark;

/// The largest drop-in that is read, in bytes.
pub const MAX_SIZE: u64 = 4 << 10;

/// What a drop-in says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropIn {
    /// Whether the agent may run.
    pub enabled: Option<bool>,
    /// Each higher number restarts the agent.
    pub generation: Option<u64>,
    /// Whether the stop or restart kills at once.
    pub now: bool,
}

/// What a drop-in is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One agent.
    Agent,
    /// All agents: `.all.toml`.
    All,
}

/// Reads a drop-in.
///
/// # Errors
///
/// What is wrong with it, and what would be right: `line:column: problem; remedy`, one per line.
pub fn parse(text: &[u8], scope: Scope) -> Result<DropIn, String> {
    let text = text_of(text)?;
    let places = Places::new(text);
    let document = document(text, &places)?;
    let mut fields = Fields::new(document.get_ref(), 0, &places);
    let drop_in = match scope {
        Scope::Agent => {
            fields.only(
                &["enabled", "generation", "now"],
                "an override has `enabled`, `generation` and `now`, and nothing else",
            );
            let (enabled, generation) = (fields.boolean("enabled"), generation(&mut fields));
            DropIn { enabled, generation, now: fields.boolean("now").unwrap_or(false) }
        }
        Scope::All => {
            fields.only(&["enabled"], "for all agents there is only `enabled`: false lets nothing start");
            DropIn { enabled: fields.boolean("enabled"), ..DropIn::default() }
        }
    };
    match fields.errors() {
        None => Ok(drop_in),
        Some(errors) => Err(errors),
    }
}

/// The text of a small file that operators write.
pub(super) fn text_of(content: &[u8]) -> Result<&str, String> {
    let content = without_byte_order_mark(content);
    std::str::from_utf8(content).map_err(|error| {
        let valid = content.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        said(&Places::new(valid), error.valid_up_to(), "the file is not text in UTF-8; save it as UTF-8")
    })
}

/// The TOML of such a file.
pub(super) fn document<'a>(text: &'a str, places: &Places<'_>) -> Result<Spanned<DeTable<'a>>, String> {
    DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        said(places, at, &format!("the file is not valid TOML: {}", error.message()))
    })
}

fn said(places: &Places<'_>, at: usize, message: &str) -> String {
    let finding: Finding = places.finding(at, Severity::Error, message);
    tell([&finding])
}

impl DropIn {
    /// As a file.
    pub fn render(&self) -> String {
        let enabled = self.enabled.map(|enabled| format!("enabled = {enabled}\n"));
        let generation = self.generation.map(|generation| format!("generation = {generation}\n"));
        let now = self.now.then(|| "now = true\n".to_owned());
        [enabled, generation, now].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", DropIn::default())]
    #[case("\u{feff}enabled = false\n", DropIn { enabled: Some(false), ..DropIn::default() })]
    #[case("generation = 7 # again\nnow = true", DropIn { enabled: None, generation: Some(7), now: true })]
    fn what_an_operator_may_say_is_read(#[case] text: &str, #[case] expected: DropIn) {
        assert_eq!(parse(text.as_bytes(), Scope::Agent), Ok(expected));
    }

    #[rstest]
    #[case("command = 'sh'", "1:1: the key \"command\" may not be here; an override has `enabled`, `generation`")]
    #[case("\n[agents]\nuser = 'root'", "2:2: the key \"agents\" may not be here")]
    #[case("enabled = 'no'", "1:11: `enabled` is a string; write true or false, without quotes")]
    #[case("enabled = 0", "1:11: `enabled` is ")]
    #[case("generation = -1", "1:14: `generation` is out of range; write a whole number from 0 to 9007199254740991")]
    #[case("generation = 1.5", "1:14: `generation` is ")]
    #[case("generation = 9007199254740992", "1:14: `generation` is out of range")]
    #[case("now = 1", "1:7: `now` is ")]
    #[case("enabled", "1:8: the file is not valid TOML")]
    #[case("enabled = true\nenabled = false", "the file is not valid TOML")]
    fn anything_else_is_refused_with_its_place(#[case] text: &str, #[case] error: &str) {
        let said = parse(text.as_bytes(), Scope::Agent).unwrap_err();
        assert!(said.contains(error), "{said}");
    }

    #[test]
    fn for_all_agents_there_is_only_a_pause() {
        assert_eq!(parse(b"enabled = false", Scope::All).unwrap().enabled, Some(false));
        assert!(parse(b"generation = 1", Scope::All).unwrap_err().contains("there is only `enabled`"));
    }

    #[test]
    fn what_is_not_utf_8_is_refused() {
        assert!(parse(b"enabled = \xff", Scope::Agent).unwrap_err().contains("save it as UTF-8"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(enabled: Option<bool>, generation in prop::option::of(0..=(1_u64 << 53) - 1), now: bool) {
            let drop_in = DropIn { enabled, generation, now };
            prop_assert_eq!(parse(drop_in.render().as_bytes(), Scope::Agent), Ok(drop_in));
        }

        #[test]
        fn whatever_is_in_a_file_does_no_harm(text in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&text, Scope::Agent);
            let _ = parse(&text, Scope::All);
        }
    }
}
