//! `agentd check`: prints what is wrong with a jcard, before a daemon reads it.

mod here;
mod screen;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use zeroize::Zeroizing;

use super::output;
use super::target::Target;
use super::wording::{counted, fault};
use super::{Whereabouts, check::here::Looker};
use crate::agent::spec::Prompt;
use crate::config::{self, Config, Entry, Finding, Options, Severity};
use crate::inputs::skills;
use crate::settings::Surroundings;
use crate::sys::{fd, regular_file};
use crate::text::printable::{self, escaped};

/// The exit status when the jcard has no error.
const GOOD: u8 = 0;
/// The exit status when the jcard has an error, or cannot be read.
const BAD: u8 = 1;

/// Names standard input on the command line.
const STDIN: &str = "-";

/// Which jcards to check, and how.
#[derive(Clone, Debug, Default, clap::Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub struct Arguments {
    /// The jcards; - is standard input [default: /etc/stereos/jcard.toml; without root: $XDG_CONFIG_HOME/agentd/jcard.toml]
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The jcard, under the daemon's name for this option
    #[arg(long, value_name = "PATH", conflicts_with = "files", value_parser = super::path())]
    pub config: Option<PathBuf>,
    /// How agents are confined, as for the daemon.
    #[command(flatten)]
    pub sandboxing: super::Sandboxing,
    /// Print the findings as JSON, a line for each file
    #[arg(long)]
    pub json: bool,
    /// Count warnings as errors, and also missing prompt files that have a relative path
    #[arg(long)]
    pub strict: bool,
    /// Also look whether this machine has the programs, workdirs, prompt files and secrets, as far as this user may
    #[arg(long)]
    pub here: bool,
    /// With --here, the user that agents run as [default: that of the daemon, or agent; without root: yourself]
    #[arg(long, value_name = "NAME", value_parser = super::name, requires = "here")]
    pub user: Option<String>,
    /// With --here, the secrets, one file each [default: those of the daemon]
    #[arg(long, value_name = "DIR", value_parser = super::path(), requires = "here")]
    pub secret_dir: Option<PathBuf>,
    /// Say which rule for screens matches this text, such as what tmux capture-pane -p has printed; - is standard input
    #[arg(long, value_name = "FILE", value_parser = super::path_or_stdin(), conflicts_with_all = ["files", "here", "strict"])]
    pub screen: Option<PathBuf>,
    /// With --screen, the harness whose rules are tried [default: all]
    #[arg(long, value_name = "NAME", value_parser = super::name, requires = "screen")]
    pub harness: Option<String>,
}

/// The findings, as `--json` prints them.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    /// How many agents the jcard declares; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    agents: Option<usize>,
    errors: usize,
    warnings: usize,
    findings: Vec<Found>,
}

#[derive(Debug, Serialize)]
struct Found {
    severity: Level,
    /// Where the finding is; absent if it is about the file as a whole.
    #[serde(flatten)]
    position: Option<Position>,
    message: String,
}

/// A line and a column, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Position {
    line: usize,
    column: usize,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Level {
    Error,
    Warning,
    /// Something could not be looked at.
    Note,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// What counts as an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rigor {
    /// Only what keeps an agent from running.
    #[default]
    Usual,
    /// Also warnings, and missing prompt files that have a relative path.
    Strict,
}

/// Checks the jcards that the command line names, and prints the findings.
pub fn run(all: &super::Arguments, arguments: &Arguments, here: &Surroundings) -> ExitCode {
    if let Some(file) = &arguments.screen {
        return screen::run(file, arguments.harness.as_deref(), &all.places.checked_config(here), arguments);
    }
    let files =
        if arguments.files.is_empty() { vec![all.places.checked_config(here)] } else { arguments.files.clone() };
    let rigor = if arguments.strict { Rigor::Strict } else { Rigor::Usual };
    // Looking starts a deputy.
    fd::hand_down_none();
    let looker = arguments.here.then(|| {
        let (secret_dir, user) = (arguments.secret_dir.clone(), arguments.user.clone());
        Looker::new(&Target::find(all, &Whereabouts { secret_dir, user, ..Whereabouts::default() }, here))
    });
    let reading = all.reading(here);
    let (mut text, mut status) = (Vec::new(), GOOD);
    for file in &files {
        match check(file, arguments.json, rigor, looker.as_ref(), reading.options(file), &mut text) {
            Ok(code) => status = status.max(code),
            Err(error) => return output::complain(BAD, &format!("failed to print: {error}")),
        }
    }
    output::print(&text, status, BAD)
}

/// Checks a jcard and prints each finding and a summary, a line each. Returns the exit status: 0 if there is no error, else 1.
///
/// Without a `looker` it reads only the jcard. With [`Rigor::Strict`] it also looks whether relative prompt files exist.
fn check(
    file: &Path,
    json: bool,
    rigor: Rigor,
    looker: Option<&Looker>,
    options: &Options,
    out: &mut impl Write,
) -> io::Result<u8> {
    let report = Report::of(file, rigor, looker, options);
    if json {
        writeln!(out, "{}", printable::json(serde_json::to_string(&report)?))?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(if report.errors == 0 { GOOD } else { BAD })
}

/// The text of a jcard, or why there is none.
fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    if file != Path::new(STDIN) {
        return regular_file::read(file, config::MAX_SIZE).map(|(text, _)| text).map_err(|error| fault(&error));
    }
    let mut text = Zeroizing::new(Vec::new());
    // One byte more shows that there is more.
    match io::stdin().lock().take(config::MAX_SIZE + 1).read_to_end(&mut text) {
        Err(error) => Err(format!("cannot be read: {error}")),
        Ok(_) if text.len() as u64 > config::MAX_SIZE => Err(fault(&regular_file::Error::TooLarge(config::MAX_SIZE))),
        Ok(_) => Ok(text),
    }
}

impl Report {
    fn of(file: &Path, rigor: Rigor, looker: Option<&Looker>, options: &Options) -> Self {
        let read = read(file).map_err(|fault| vec![Found { severity: Level::Error, position: None, message: fault }]);
        let mut lines = Vec::new();
        let parsed = read.and_then(|text| {
            lines = config::lines(&text);
            config::parse(&text, options).map_err(|findings| findings.into_iter().map(Found::from).collect())
        });
        let (agents, mut findings) = match parsed {
            Ok(config) => (Some(config.entries.len()), Self::judge(file, rigor, looker, config, &lines)),
            Err(findings) => (None, findings),
        };
        if rigor == Rigor::Strict {
            for found in findings.iter_mut().filter(|found| found.severity == Level::Warning) {
                found.severity = Level::Error;
            }
        }
        let count = |level| findings.iter().filter(|found: &&Found| found.severity == level).count();
        let (errors, warnings) = (count(Level::Error), count(Level::Warning));
        let file = if file == Path::new(STDIN) { "<stdin>".to_owned() } else { file.display().to_string() };
        Self { file, agents, errors, warnings, findings }
    }

    /// All findings about a jcard that could be read.
    fn judge(
        file: &Path,
        rigor: Rigor,
        looker: Option<&Looker>,
        config: Config,
        lines: &[config::Lines],
    ) -> Vec<Found> {
        // An empty path is the current directory.
        let folder = file.parent().unwrap_or(Path::new(""));
        let of_skills = wrong_skills(folder, &config, lines);
        let Config { entries, findings, sandbox_expected, .. } = config;
        let mut findings: Vec<Found> = findings.into_iter().chain(sandbox_expected).map(Found::from).collect();
        findings.extend(of_skills);
        findings.sort_by_key(|found| found.position);
        match looker {
            Some(looker) => findings.extend(looker.look(&entries, folder)),
            None if rigor == Rigor::Strict => findings.extend(missing_prompts(folder, &entries)),
            None => {}
        }
        findings
    }
}

/// A finding for each entry whose skills cannot be used, at its `skills`.
fn wrong_skills(folder: &Path, config: &Config, lines: &[config::Lines]) -> Vec<Found> {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let found = skills::read(config, &folder);
    let mut told = BTreeSet::new();
    let wrong = config.entries.iter().filter_map(|entry| {
        let paths = &entry.spec.as_ref().ok()?.skills;
        let message = skills::of_entry(paths, |path| found.get(path)).err()?;
        let line = lines.get(entry.table).map(|of| of.fields.get("skills").copied().unwrap_or(of.header));
        let position = line.map(|line| Position { line, column: 1 });
        // Replicas are of one entry.
        told.insert((entry.table, message.clone())).then_some(Found { severity: Level::Error, position, message })
    });
    wrong.collect()
}

/// A finding for each relative prompt file that is not where the daemon would look for it.
fn missing_prompts(folder: &Path, entries: &[Entry]) -> Vec<Found> {
    let prompts: BTreeSet<&Path> = entries
        .iter()
        .filter_map(|entry| match &entry.spec.as_ref().ok()?.prompt {
            Some(Prompt::File(path)) => Some(path.as_path()),
            Some(Prompt::Text(_)) | None => None,
        })
        .filter(|path| path.is_relative() && !folder.join(path).is_file())
        .collect();
    let found = |path: &Path| Found {
        severity: Level::Error,
        position: None,
        message: format!(
            "prompt_file \"{}\" is not a file in the jcard's folder; put it there, or write an absolute path",
            path.display()
        ),
    };
    prompts.into_iter().map(found).collect()
}

impl From<Finding> for Found {
    fn from(Finding { line, column, severity, message, exact }: Finding) -> Self {
        let severity = match severity {
            Severity::Error => Level::Error,
            Severity::Warning => Level::Warning,
        };
        Self { severity, position: Some(Position { line, column }), message: exact.unwrap_or(message) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = escaped(&self.file);
        for Found { severity, position, message } in &self.findings {
            let (level, message) = (severity.word(), escaped(message));
            match position {
                Some(Position { line, column }) => writeln!(f, "{file}:{line}:{column}: {level}: {message}")?,
                None => writeln!(f, "{file}: {level}: {message}")?,
            }
            // The file could not be read, so there is nothing to sum up.
            if position.is_none() && self.agents.is_none() {
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
        let status = check(file, false, Rigor::Usual, None, &Options::default(), &mut out).unwrap();
        (status, String::from_utf8(out).unwrap())
    }

    fn check_strictly(file: &Path) -> (u8, String) {
        let mut out = Vec::new();
        let status = check(file, false, Rigor::Strict, None, &Options::default(), &mut out).unwrap();
        (status, String::from_utf8(out).unwrap().replace(&*file.to_string_lossy(), "jcard.toml"))
    }

    /// The exit status and the output for a jcard with this text. Its path in the output is shortened to `jcard.toml`.
    fn check_text(text: impl AsRef<[u8]>) -> (u8, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        fs::write(&file, text).unwrap();
        let (status, output) = check_file(&file);
        (status, output.replace(&*file.to_string_lossy(), "jcard.toml"))
    }

    #[test]
    fn good_jcard_gives_a_summary_and_status_0() {
        let (status, output) = check_text("[agent]\nharness = \"claude-code\"\n");
        assert_eq!((status, output.as_str()), (0, "jcard.toml: 1 agent, 0 errors, 0 warnings\n"));
    }

    #[test]
    fn warnings_are_marked_and_give_status_0() {
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
            "jcard.toml:3:1: error: unknown key \"promt\" is ignored; did you mean `prompt`?\n\
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
        fs::write(&file, entry("prompts/x.md") + &entry("/nowhere/y.md").replace("codex", "pi")).unwrap();
        let (status, output) = check_strictly(&file);
        assert_eq!(status, 1);
        assert_eq!(
            output,
            "jcard.toml: error: prompt_file \"prompts/x.md\" is not a file in the jcard's folder; put it there, or write an absolute \
             path\njcard.toml: 4 agents, 1 error, 0 warnings\n"
        );
        assert_eq!(check_file(&file).0, GOOD);
        fs::create_dir(folder.path().join("prompts")).unwrap();
        fs::write(folder.path().join("prompts/x.md"), "x").unwrap();
        assert_eq!(check_strictly(&file).0, GOOD);
    }

    #[test]
    fn errors_are_printed_with_positions_and_give_status_1() {
        let (status, output) = check_text(
            "[[agents]]\nharness = \"nope\"\nname = \"a\"\nmax_restarts = -1\n[[agents]]\nharness = \"custom\"\n",
        );
        assert_eq!(status, 1);
        assert_eq!(
            output,
            "jcard.toml:2:11: error: unknown agent.harness \"nope\"; write claude-code, opencode, gemini-cli, codex, pi, \
             qwen-code, kimi or aider, or \"custom\" \
             with `command = [\"nope\"]`\n\
             jcard.toml:4:16: error: `max_restarts` is out of range; write a whole number from 0 to 18446744073709551615, where 0 is no limit\n\
             jcard.toml: 2 agents, 2 errors, 0 warnings\n"
        );
    }

    #[test]
    fn json_has_all_findings() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        fs::write(&file, "[agent]\nharness = \"nope\"\nname = \"a\"\n").unwrap();
        let data = |file: &Path| {
            let mut out = Vec::new();
            assert_eq!(check(file, true, Rigor::Usual, None, &Options::default(), &mut out).unwrap(), BAD);
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
        assert!(
            found["findings"][0]["message"].as_str().unwrap().starts_with("does not exist; agentd init"),
            "{found}"
        );
    }

    #[test]
    fn file_name_cannot_move_the_cursor() {
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
    fn file_that_is_not_toml_is_unusable() {
        let (status, output) = check_text("[agent\n");
        assert_eq!(status, 1);
        assert!(output.starts_with("jcard.toml:1:7: error: the file is not valid TOML: "), "{output}");
        assert!(output.ends_with("jcard.toml: unusable, 1 error, 0 warnings\n"), "{output}");
    }

    #[test]
    fn missing_file_is_reported_with_status_1() {
        let folder = tempfile::tempdir().unwrap();
        let (status, output) = check_file(&folder.path().join("jcard.toml"));
        assert_eq!(status, 1);
        assert!(output.contains("jcard.toml: error: does not exist; agentd init"), "{output}");
    }

    #[test]
    fn file_of_endless_size_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
        let (status, output) = check_file(&file);
        assert_eq!(status, 1);
        assert!(output.ends_with("jcard.toml: error: is larger than 8 MiB; a jcard is a few kilobytes\n"), "{output}");
    }

    #[test]
    fn fifo_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jcard.toml");
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (status, output) = check_file(&file);
        assert_eq!(status, 1);
        assert!(output.ends_with("jcard.toml: error: is not a regular file; name a jcard that is one\n"), "{output}");
    }
}
