//! `agentd check`: what is wrong with a jcard, before a daemon reads it.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::wording::{counted, fault};
use crate::agent::spec::Prompt;
use crate::config::{self, Entry, Finding, Options, Severity};
use crate::sys::regular_file;
use crate::text::printable::{self, escaped};

/// The exit status when nothing is in error.
const GOOD: u8 = 0;
/// The exit status when something is, or when the file cannot be read.
const BAD: u8 = 1;

/// Which jcard, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// The jcard; by default the one that the daemon reads
    pub file: Option<PathBuf>,
    /// The same as FILE, by the daemon's own name for it
    #[arg(long, value_name = "PATH", conflicts_with = "file", value_parser = super::path())]
    pub config: Option<PathBuf>,
    /// Take `type = "sandboxed"` for good, as a daemon with this option does
    #[arg(long)]
    pub unsandboxed: bool,
    /// Print the same as data
    #[arg(long)]
    pub json: bool,
    /// Count warnings as errors, and prompt files with a relative path that are not there
    #[arg(long)]
    pub strict: bool,
}

/// What was found, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    /// How many agents it declares; absent if it cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    agents: Option<usize>,
    errors: usize,
    warnings: usize,
    findings: Vec<Found>,
}

#[derive(Debug, Serialize)]
struct Found {
    severity: Severity,
    /// Where it is, from 1; absent if it is about the file as a whole.
    #[serde(flatten)]
    place: Option<Place>,
    message: String,
}

#[derive(Debug, Serialize)]
struct Place {
    line: usize,
    column: usize,
}

/// What counts as an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rigor {
    /// What keeps an agent from running.
    #[default]
    Usual,
    /// Warnings as well, and prompt files with a relative path that are not beside the jcard.
    Strict,
}

/// Reads a jcard, and nothing else of the system but whether its prompt files are there if that counts, and prints each finding and a
/// summary, a line each. The result is the exit status: 0 if there is no error, else 1.
///
/// # Errors
///
/// `out` cannot be written.
pub fn check(file: &Path, json: bool, rigor: Rigor, options: &Options, out: &mut impl Write) -> io::Result<u8> {
    let report = Report::of(file, rigor, options);
    if json {
        writeln!(out, "{}", printable::json(serde_json::to_string(&report)?))?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(if report.errors == 0 { GOOD } else { BAD })
}

impl Report {
    fn of(file: &Path, rigor: Rigor, options: &Options) -> Self {
        let (agents, mut findings) = match regular_file::read(file, config::MAX_SIZE) {
            Ok((text, _)) => match config::parse(&text, options) {
                Ok(config) => {
                    let mut findings: Vec<Found> = config.findings.into_iter().map(Found::from).collect();
                    if rigor == Rigor::Strict {
                        findings.extend(missing_prompts(file, &config.entries));
                    }
                    (Some(config.entries.len()), findings)
                }
                Err(findings) => (None, findings.into_iter().map(Found::from).collect()),
            },
            Err(error) => (None, vec![Found { severity: Severity::Error, place: None, message: fault(&error) }]),
        };
        if rigor == Rigor::Strict {
            for found in &mut findings {
                found.severity = Severity::Error;
            }
        }
        let errors = findings.iter().filter(|found: &&Found| found.severity == Severity::Error).count();
        Self { file: file.display().to_string(), agents, errors, warnings: findings.len() - errors, findings }
    }
}

/// Of the prompt files with a relative path, those that are not where the daemon would look for them.
fn missing_prompts(jcard: &Path, entries: &[Entry]) -> Vec<Found> {
    let folder = jcard.parent().unwrap_or(Path::new(""));
    let prompts: BTreeSet<&Path> = entries
        .iter()
        .filter_map(|entry| match &entry.spec.as_ref().ok()?.prompt {
            Some(Prompt::File(path)) => Some(path.as_path()),
            Some(Prompt::Text(_)) | None => None,
        })
        .filter(|path| path.is_relative() && !folder.join(path).is_file())
        .collect();
    let found = |path: &Path| Found {
        severity: Severity::Error,
        place: None,
        message: format!(
            "prompt_file \"{}\" is not a file in the jcard's folder; put it there, or write an absolute path",
            path.display()
        ),
    };
    prompts.into_iter().map(found).collect()
}

impl From<Finding> for Found {
    fn from(Finding { line, column, severity, message }: Finding) -> Self {
        Self { severity, place: Some(Place { line, column }), message }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = escaped(&self.file);
        for Found { severity, place, message } in &self.findings {
            let mark = match severity {
                Severity::Error => "",
                Severity::Warning => "warning: ",
            };
            match place {
                Some(Place { line, column }) => writeln!(f, "{file}:{line}:{column}: {mark}{}", escaped(message))?,
                None => writeln!(f, "{file}: {mark}{}", escaped(message))?,
            }
            // There is nothing to sum up.
            if place.is_none() && self.agents.is_none() {
                return Ok(());
            }
        }
        let agents = self.agents.map_or("unusable".to_owned(), |agents| counted(agents, "agent"));
        writeln!(f, "{file}: {agents}, {}, {}", counted(self.errors, "error"), counted(self.warnings, "warning"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn check_file(file: &Path) -> (u8, String) {
        let mut out = Vec::new();
        let status = check(file, false, Rigor::Usual, &Options::default(), &mut out).unwrap();
        (status, String::from_utf8(out).unwrap())
    }

    fn check_strictly(file: &Path) -> (u8, String) {
        let mut out = Vec::new();
        let status = check(file, false, Rigor::Strict, &Options::default(), &mut out).unwrap();
        (status, String::from_utf8(out).unwrap().replace(&*file.to_string_lossy(), "jcard.toml"))
    }

    /// Status and output for a jcard of this content, its path in the output shortened to `jcard.toml`.
    fn check_text(text: impl AsRef<[u8]>) -> (u8, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        fs::write(&file, text).unwrap();
        let (status, output) = check_file(&file);
        (status, output.replace(&*file.to_string_lossy(), "jcard.toml"))
    }

    #[test]
    fn a_good_jcard_gives_a_summary_and_0() {
        let (status, output) = check_text("[agent]\nharness = \"claude-code\"\n");
        assert_eq!((status, output.as_str()), (0, "jcard.toml: 1 agent, 0 errors, 0 warnings\n"));
    }

    #[test]
    fn warnings_are_marked_and_give_0() {
        let (status, output) = check_text("[agent]\nharness = \"claude-code\"\npromt = \"x\"\n");
        assert_eq!(status, 0);
        assert_eq!(
            output,
            "jcard.toml:3:1: warning: unknown key \"promt\" is ignored; did you mean `prompt`?\n\
             jcard.toml: 1 agent, 0 errors, 1 warning\n"
        );
    }

    #[test]
    fn strict_check_counts_warnings_as_errors() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        fs::write(&file, "[agent]\nharness = \"claude-code\"\npromt = \"x\"\n").unwrap();
        let (status, output) = check_strictly(&file);
        assert_eq!(status, 1);
        assert_eq!(
            output,
            "jcard.toml:3:1: unknown key \"promt\" is ignored; did you mean `prompt`?\n\
             jcard.toml: 1 agent, 1 error, 0 warnings\n"
        );
        fs::write(&file, "[agent]\nharness = \"claude-code\"\n").unwrap();
        assert_eq!(check_strictly(&file), (0, "jcard.toml: 1 agent, 0 errors, 0 warnings\n".to_owned()));
    }

    #[test]
    fn strict_check_looks_for_relative_prompt_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        let entry = |path: &str| format!("[[agents]]\nharness = \"codex\"\nreplicas = 2\nprompt_file = \"{path}\"\n");
        fs::write(&file, entry("prompts/x.md") + &entry("/nowhere/y.md").replace("codex", "claude-code")).unwrap();
        let (status, output) = check_strictly(&file);
        assert_eq!(status, 1);
        assert_eq!(
            output,
            "jcard.toml: prompt_file \"prompts/x.md\" is not a file in the jcard's folder; put it there, or write an absolute \
             path\njcard.toml: 4 agents, 1 error, 0 warnings\n"
        );
        assert_eq!(check_file(&file).0, GOOD);
        fs::create_dir(folder.path().join("prompts")).unwrap();
        fs::write(folder.path().join("prompts/x.md"), "x").unwrap();
        assert_eq!(check_strictly(&file).0, GOOD);
    }

    #[test]
    fn every_error_is_printed_with_its_place_and_gives_1() {
        let (status, output) = check_text(
            "[[agents]]\nharness = \"nope\"\nname = \"a\"\nmax_restarts = -1\n[[agents]]\nharness = \"custom\"\n",
        );
        assert_eq!(status, 1);
        assert_eq!(
            output,
            "jcard.toml:2:11: unknown agent.harness \"nope\"; write claude-code, opencode, gemini-cli, codex or custom\n\
             jcard.toml:4:16: `max_restarts` is out of range; write a whole number from 0 to 18446744073709551615, where 0 is no limit\n\
             jcard.toml: 2 agents, 2 errors, 0 warnings\n"
        );
    }

    #[test]
    fn for_programs_findings_are_data() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        fs::write(&file, "[agent]\nharness = \"nope\"\nname = \"a\"\n").unwrap();
        let data = |file: &Path| {
            let mut out = Vec::new();
            assert_eq!(check(file, true, Rigor::Usual, &Options::default(), &mut out).unwrap(), BAD);
            serde_json::from_slice::<serde_json::Value>(&out).unwrap()
        };
        let found = data(&file);
        assert_eq!((&found["agents"], &found["errors"], &found["warnings"]), (&1.into(), &1.into(), &0.into()));
        let finding = &found["findings"][0];
        assert_eq!(
            (&finding["severity"], &finding["line"], &finding["column"]),
            (&"error".into(), &2.into(), &11.into())
        );
        let found = data(&folder.path().join("none"));
        assert!(found["agents"].is_null() && found["findings"][0]["line"].is_null(), "{found}");
        assert!(found["findings"][0]["message"].as_str().unwrap().starts_with("cannot be read: "), "{found}");
    }

    #[test]
    fn name_of_a_file_cannot_move_the_cursor() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a\x1b[2J\u{202e}\u{9b}31m.toml");
        for content in ["[agent]\nharness = \"nope\"\n", "[agent"] {
            fs::write(&file, content).unwrap();
            let (_, output) = check_file(&file);
            assert!(output.contains(r"a\u{1b}[2J\u{202e}\u{9b}31m.toml:"), "{output:?}");
            assert!(output.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{output:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_toml_is_unusable() {
        let (status, output) = check_text("[agent\n");
        assert_eq!(status, 1);
        assert!(output.starts_with("jcard.toml:1:7: the file is not valid TOML: "), "{output}");
        assert!(output.ends_with("jcard.toml: unusable, 1 error, 0 warnings\n"), "{output}");
    }

    #[test]
    fn a_missing_file_says_so_and_gives_1() {
        let folder = tempfile::tempdir().unwrap();
        let (status, output) = check_file(&folder.path().join("jcard.toml"));
        assert_eq!(status, 1);
        assert!(output.contains("jcard.toml: cannot be read: No such file or directory"), "{output}");
    }

    #[test]
    fn a_file_of_endless_size_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
        let (status, output) = check_file(&file);
        assert_eq!(status, 1);
        assert!(output.ends_with("jcard.toml: is larger than 8 MiB; a jcard is a few kilobytes\n"), "{output}");
    }

    #[test]
    fn a_fifo_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (status, output) = check_file(&file);
        assert_eq!(status, 1);
        assert!(output.ends_with("jcard.toml: is not a regular file; name a jcard that is one\n"), "{output}");
    }
}
