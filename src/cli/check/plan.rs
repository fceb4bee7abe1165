//! `agentd check --plan`: what is wrong with a plan, and in which order its tasks come.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::{BAD, Found, GOOD, Level, Position};
use crate::agent::plan::Plan;
use crate::cli::output;
use crate::cli::plan_file::{self, Fault};
use crate::cli::wording::counted;
use crate::config::plan::Agents;
use crate::config::{self, Options};
use crate::text::printable::{self, escaped};

/// The findings, as `--json` prints them.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    errors: usize,
    findings: Vec<Found>,
    /// The ids of its tasks, by layer; empty if it is none.
    layers: Vec<Vec<String>>,
}

/// Checks a plan against a jcard, and prints what is found.
pub(super) fn run(file: &Path, jcard: &Path, json: bool, options: &Options) -> ExitCode {
    let (text, status) = checked(file, jcard, json, options);
    output::print(text.as_bytes(), status, BAD)
}

fn checked(file: &Path, jcard: &Path, json: bool, options: &Options) -> (String, u8) {
    let mut findings = Vec::new();
    let agents = match super::read(jcard) {
        Ok(text) => {
            config::parse(&text, options).map(|config| Agents::of(&config)).map_err(|_| "has errors".to_owned())
        }
        Err(fault) => Err(fault),
    };
    if let Err(why) = &agents {
        let message = format!("the agents are not checked: the jcard {} {why}", jcard.display());
        findings.push(Found { severity: Level::Note, position: None, message });
    }
    let mut layers = Vec::new();
    match plan_file::read(file, agents.as_ref().ok()) {
        Ok(plan) => layers = in_layers(&plan),
        Err(Fault::Unread(message)) => findings.push(Found { severity: Level::Error, position: None, message }),
        Err(Fault::Wrong(wrong)) => findings.extend(wrong.into_iter().map(Found::from)),
    }
    let errors = findings.iter().filter(|found| found.severity == Level::Error).count();
    let report = Report { file: file.display().to_string(), errors, findings, layers };
    let status = if errors == 0 { GOOD } else { BAD };
    if json {
        // It has nothing that could not be written.
        let text = serde_json::to_string(&report).unwrap_or_default();
        return (format!("{}\n", printable::json(text)), status);
    }
    (report.in_words(), status)
}

fn in_layers(plan: &Plan) -> Vec<Vec<String>> {
    let ids = |layer: Vec<usize>| layer.into_iter().map(|task| plan.tasks()[task].id.to_string()).collect();
    plan.layers().into_iter().map(ids).collect()
}

impl Report {
    fn in_words(&self) -> String {
        let (mut text, file) = (String::new(), escaped(&self.file));
        for Found { severity, position, message } in &self.findings {
            let (level, message) = (severity.word(), escaped(message));
            let _ = match position {
                Some(Position { line, column }) => writeln!(text, "{file}:{line}:{column}: {level}: {message}"),
                None => writeln!(text, "{file}: {level}: {message}"),
            };
        }
        for (number, layer) in self.layers.iter().enumerate() {
            let _ = writeln!(text, "{:>4}  {}", number + 1, layer.join(", "));
        }
        let tasks = self.layers.iter().map(Vec::len).sum();
        let plan = if self.layers.is_empty() {
            "unusable".to_owned()
        } else {
            format!("{} in {}", counted(tasks, "task"), counted(self.layers.len(), "layer"))
        };
        let _ = writeln!(text, "{file}: {plan}, {}", counted(self.errors, "error"));
        text
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is said of a plan beside this jcard, without the folder.
    fn said(plan: &str, jcard: Option<&str>, json: bool) -> (String, u8) {
        let folder = tempfile::tempdir().unwrap();
        let (file, beside) = (folder.path().join("plan.toml"), folder.path().join("jcard.toml"));
        fs::write(&file, plan).unwrap();
        fs::write(folder.path().join("tests.md"), "Run the tests.").unwrap();
        if let Some(jcard) = jcard {
            fs::write(&beside, jcard).unwrap();
        }
        let (text, status) = checked(&file, &beside, json, &Options::default());
        (text.replace(&format!("{}/", folder.path().display()), ""), status)
    }

    const PLAN: &str = "[[tasks]]\nid = \"lint\"\nagent = \"fixer\"\nprompt = \"x\"\n\
                        [[tasks]]\nid = \"tests\"\nagent = \"fixer\"\nprompt_file = \"tests.md\"\nafter = [\"lint\"]\n\
                        [[tasks]]\nid = \"docs\"\nagent = \"fixer\"\nprompt = \"x\"\n";

    #[test]
    fn a_good_plan_is_shown_in_layers() {
        let (text, status) = said(PLAN, None, false);
        assert_eq!(status, GOOD);
        let note = "plan.toml: note: the agents are not checked: the jcard jcard.toml does not exist";
        assert!(text.starts_with(note), "{text}");
        assert!(text.ends_with("   1  lint, docs\n   2  tests\nplan.toml: 3 tasks in 2 layers, 0 errors\n"), "{text}");
    }

    #[test]
    fn agents_that_take_no_tasks_are_errors() {
        let (text, status) = said(PLAN, Some("[agent]\nname = \"fixer\"\nharness = \"codex\"\n"), false);
        assert_eq!(status, BAD);
        let expected = "plan.toml:3:9: error: \"fixer\" takes no tasks; give it a table [agents.runs]\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("plan.toml: unusable, 3 errors\n"), "{text}");
    }

    #[test]
    fn json_has_the_layers_and_the_findings() {
        let read = |plan: &str| serde_json::from_str::<serde_json::Value>(&said(plan, None, true).0).unwrap();
        assert_eq!(read(PLAN)["layers"], serde_json::json!([["lint", "docs"], ["tests"]]));
        let wrong = read(&PLAN.replace("tests.md", "none.md"));
        let finding = wrong["findings"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((finding["line"].as_u64(), wrong["errors"].as_u64()), (Some(8), Some(1)));
        assert_eq!(finding["message"], "the `prompt_file` \"none.md\": does not exist");
    }
}
