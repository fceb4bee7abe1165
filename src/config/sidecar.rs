//! What a task says beside its text, in `ID.toml`: TOML text in, [`Sidecar`] out.
//!
//! Members of a group write it, so nothing but these few keys may be in it.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use super::answer::toml_string;
use super::drop_in::{document, text_of};
use super::fields::Fields;
use super::position::Places;
use crate::agent::name::{Name, RunId};
use crate::agent::run::Sidecar;

/// The largest sidecar that is read, in bytes.
pub const MAX_SIZE: u64 = 16 << 10;

/// Reads a sidecar.
///
/// # Errors
///
/// What is wrong with it, and what would be right: `line:column: problem; remedy`, one per line.
pub fn parse(text: &[u8]) -> Result<Sidecar, String> {
    let text = text_of(text)?;
    let places = Places::new(text);
    let document = document(text, &places)?;
    let mut fields = Fields::new(document.get_ref(), 0, &places);
    fields.only(
        &["labels", "workdir", "continue"],
        "beside a task there are `labels`, `workdir` and `continue`, and nothing else",
    );
    let labels = fields.labels("labels").unwrap_or_default();
    let workdir = fields.string("workdir").map(PathBuf::from);
    if workdir.as_ref().is_some_and(|path| !is_plain(path)) {
        let at = fields.place("workdir");
        fields.error(at, "`workdir` is not an absolute path; write one that begins with / and has no `..`");
    }
    let continues = fields.string("continue").map(str::to_owned);
    if continues.as_ref().is_some_and(|run| !is_run(run)) {
        fields.error(fields.place("continue"), "`continue` is not a run; write the id of one, or NAME/ID");
    }
    match fields.errors() {
        None => Ok(Sidecar { labels, workdir, continues }),
        Some(errors) => Err(errors),
    }
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

fn is_run(text: &str) -> bool {
    let (agent, id) = text.split_once('/').map_or((None, text), |(agent, id)| (Some(agent), id));
    agent.is_none_or(|agent| agent.parse::<Name>().is_ok()) && id.parse::<RunId>().is_ok()
}

impl Sidecar {
    /// Whether there is nothing to say, so that no file is needed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// As a file. A working directory that is not UTF-8 cannot be written.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string never fails.
        if let Some(workdir) = &self.workdir {
            let _ = writeln!(text, "workdir = {}", toml_string(&workdir.to_string_lossy()));
        }
        if let Some(run) = &self.continues {
            let _ = writeln!(text, "continue = {}", toml_string(run));
        }
        if !self.labels.is_empty() {
            text.push_str("[labels]\n");
        }
        for (key, value) in &self.labels {
            let _ = writeln!(text, "{} = {}", toml_string(key), toml_string(value));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", Sidecar::default())]
    #[case("labels = ['urgent']", Sidecar { labels: [("urgent".to_owned(), String::new())].into(), ..Sidecar::default() })]
    #[case(
        "\u{feff}workdir = '/srv/app'\ncontinue = 'fixer/t1'\n[labels]\nteam = 'web'",
        Sidecar {
            labels: [("team".to_owned(), "web".to_owned())].into(),
            workdir: Some("/srv/app".into()),
            continues: Some("fixer/t1".to_owned()),
        }
    )]
    fn what_is_said_beside_a_task_is_read(#[case] text: &str, #[case] expected: Sidecar) {
        assert_eq!(parse(text.as_bytes()), Ok(expected));
    }

    #[rstest]
    #[case("command = 'sh'", "1:1: the key \"command\" may not be here; beside a task there are `labels`")]
    #[case("workdir = 'app'", "1:11: `workdir` is not an absolute path; write one that begins with /")]
    #[case("workdir = '/srv/../etc'", "`workdir` is not an absolute path")]
    #[case("continue = 'a b'", "1:12: `continue` is not a run; write the id of one")]
    #[case("continue = '../t1'", "`continue` is not a run")]
    #[case("labels = 'x'", "1:10: `labels` is a string")]
    #[case("labels", "the file is not valid TOML")]
    fn anything_else_is_refused_with_its_place(#[case] text: &str, #[case] error: &str) {
        let said = parse(text.as_bytes()).unwrap_err();
        assert!(said.contains(error), "{said}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            labels in prop::collection::btree_map("[a-z._/][a-z0-9._/-]{0,9}", "[a-z0-9._/-]{0,9}", 0..4),
            workdir in prop::option::of("/[^/\\p{Cc}.][^\\p{Cc}.]{0,20}"),
            continues in prop::option::of("([a-z]{1,5}/)?[a-zA-Z0-9_-]{1,40}"),
        ) {
            let sidecar = Sidecar { labels, workdir: workdir.map(PathBuf::from), continues };
            prop_assert_eq!(parse(sidecar.render().as_bytes()), Ok(sidecar));
        }

        #[test]
        fn whatever_is_in_a_file_does_no_harm(text in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&text);
        }
    }
}
