//! `agentd harnesses`: the table of harnesses in force, or one entry of it as TOML, from the jcard, without a daemon.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};

use super::Places;
use super::output::{complain, print};
use super::table::Table;
use super::wording::fault;
use crate::agent::harness::{self, Harness, keys};
use crate::config::{self, Options};
use crate::settings::Surroundings;
use crate::sys::regular_file;
use crate::text::printable::escaped;
use crate::text::suggest::nearest;

/// The exit statuses: printed, the jcard cannot be read, there is no such harness.
const SHOWN: u8 = 0;
const UNREADABLE: u8 = 1;
const UNKNOWN: u8 = 4;

/// Which harness.
#[derive(Clone, Debug, Default, clap::Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Arguments {
    /// The harness to print as TOML; without it, all are listed
    #[arg(add = names())]
    pub name: Option<String>,
    /// The jcard [default: /etc/stereos/jcard.toml; without root: $XDG_CONFIG_HOME/agentd/jcard.toml]
    #[arg(long, value_name = "PATH", value_parser = super::path())]
    pub config: Option<PathBuf>,
}

/// The names of those that the usual jcard has.
fn names() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let file = Places::default().checked_config(&Surroundings::here());
        let harnesses = in_force(&file, false).unwrap_or_else(|_| harness::shipped().to_vec());
        let candidate = |harness: &Arc<Harness>| CompletionCandidate::new(&*harness.name);
        harnesses.iter().map(candidate).collect()
    })
}

/// Prints the table, or an entry: data to stdout, messages to stderr.
pub fn run(arguments: &Arguments, file: &Path) -> ExitCode {
    let harnesses = match in_force(file, arguments.config.is_some()) {
        Ok(harnesses) => harnesses,
        Err(error) => return complain(UNREADABLE, &error),
    };
    let Some(name) = &arguments.name else { return print(list(&harnesses).as_bytes(), SHOWN, UNREADABLE) };
    if let Some(harness) = harnesses.iter().find(|harness| *harness.name == **name) {
        return print(keys::written(harness).as_bytes(), SHOWN, UNREADABLE);
    }
    let near = nearest(name, harnesses.iter().map(|harness| &*harness.name));
    let right = near.map_or_else(|| "agentd harnesses lists all".to_owned(), |near| format!("did you mean {near}?"));
    complain(UNKNOWN, &format!("unknown harness {}; {right}", escaped(name)))
}

/// The table that the jcard gives; what agentd comes with if there is no jcard, and none was named.
pub(super) fn in_force(file: &Path, is_named: bool) -> Result<Vec<Arc<Harness>>, String> {
    let shown = escaped(&file.display().to_string());
    let text = match regular_file::read(file, config::MAX_SIZE) {
        Ok((text, _)) => text,
        Err(regular_file::Error::Io(error)) if error.kind() == io::ErrorKind::NotFound && !is_named => {
            return Ok(harness::shipped().to_vec());
        }
        Err(error) => return Err(format!("{shown}: {}", fault(&error))),
    };
    let read = config::parse(&text, &Options::default());
    read.map(|config| config.harnesses).map_err(|findings| {
        let lines: Vec<String> = findings.iter().map(|finding| format!("{shown}:{finding}")).collect();
        lines.join("\n")
    })
}

fn list(harnesses: &[Arc<Harness>]) -> String {
    let row = |harness: &Arc<Harness>| {
        let approvals: Vec<&str> = harness.approvals().map(harness::Approval::word).collect();
        let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let origin = match (harness.is_preset(), harness.is_of_jcard()) {
            (true, false) => "agentd",
            (true, true) => "changed",
            (false, _) => "added",
        };
        [
            harness.name.to_string(),
            escaped(&harness.binary),
            or_dash(harness.stream().map(keys::stream_word).unwrap_or_default().to_owned()),
            or_dash(approvals.join(",")),
            harness.rules().len().to_string(),
            origin.to_owned(),
        ]
    };
    let rows: Vec<[String; 6]> = harnesses.iter().map(row).collect();
    let mut table = Table::new(["NAME", "BINARY", "STREAM", "APPROVAL", "RULES", "FROM"], &rows);
    for row in &rows {
        table.push_row(row);
    }
    table.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_list_says_what_the_jcard_changes_and_adds() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        fs::write(&file, "[harnesses.pi]\nbinary = \"pi2\"\n[harnesses.mine]\nbinary = \"m\"\n").unwrap();
        let text = list(&in_force(&file, true).unwrap());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "NAME         BINARY    STREAM    APPROVAL                   RULES  FROM");
        assert_eq!(lines[5], "pi           pi2       pi        everything                 3      changed");
        assert_eq!(lines[10], "mine         m         -         -                          0      added");
        assert_eq!(lines.len(), 11);
    }

    #[test]
    fn a_jcard_is_needed_only_if_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        assert_eq!(in_force(&file, false).unwrap(), harness::shipped());
        assert!(in_force(&file, true).is_err());
        fs::write(&file, "[agent\n").unwrap();
        assert!(in_force(&file, false).unwrap_err().contains("jcard.toml:1:7: the file is not valid TOML"));
    }
}
