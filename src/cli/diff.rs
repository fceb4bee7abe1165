//! `agentd diff`: what an edit of the jcard would start, stop, restart and change, before it is installed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::output::{block_on, complain, print, say};
use super::wording::{counted, fault};
use crate::client::Client;
use crate::config::{self, Config, Options, Severity};
use crate::inputs::assemble::located;
use crate::inputs::comparison::{Difference, Fate, compare};
use crate::settings::absolute;
use crate::sys::regular_file;
use crate::text::printable::{self, escaped, escaped_lines};
use crate::wire::reason::Changes;
use crate::wire::status::{AgentStatus, State};

/// As that of diff(1), if nothing would change.
const SAME: u8 = 0;
/// If something would.
const DIFFERENT: u8 = 1;
/// If that is not known.
const TROUBLE: u8 = 2;

/// How long the daemon may take to say what runs.
const PATIENCE: Duration = Duration::from_secs(5);

/// Standard input, as a file.
const STDIN: &str = "-";

/// Which jcards to compare.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Arguments {
    /// The jcard that would be installed; - is standard input
    pub file: PathBuf,
    /// The jcard in force [default: /etc/stereos/jcard.toml; without root: $XDG_CONFIG_HOME/agentd/jcard.toml]
    #[arg(long, value_name = "PATH", value_parser = super::path())]
    pub config: Option<PathBuf>,
    /// How agents are confined, as for the daemon.
    #[command(flatten)]
    pub sandboxing: super::Sandboxing,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// The jcard in force.
    config: String,
    /// The one that is compared with it.
    file: String,
    /// Whether a daemon said what runs.
    daemon: bool,
    agents: Vec<Line>,
    /// How many agents stay as they are.
    unchanged: usize,
}

/// What would happen to one agent.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    action: Verb,
    #[serde(skip_serializing_if = "Changes::is_empty")]
    changed: Changes,
    /// Its present state, if a daemon told it.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verb {
    Stop,
    Restart,
    Start,
    Change,
    Keep,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Start => "start",
            Self::Change => "change",
            Self::Keep => "keep",
        }
    }
}

/// Compares the jcard `config`, which the daemon behind `socket` reads, with the one that is named, and prints the differences.
pub fn run(arguments: &Arguments, config: &Path, options: &Options, socket: &Path) -> ExitCode {
    let name = if arguments.file.as_os_str() == STDIN { "standard input".into() } else { arguments.file.clone() };
    let text = if arguments.file.as_os_str() == STDIN { from_stdin() } else { from_file(&arguments.file) };
    let (now, then) = (read(config, from_file(config), options), read(&name, text, options));
    let (Some((now, is_good)), Some((then, is_right))) = (now, then) else { return ExitCode::from(TROUBLE) };
    let (differences, unchanged) = match compare(&now, &then, &absolute(config)) {
        Ok(compared) => compared,
        Err(error) => return complain(TROUBLE, &error.to_string()),
    };
    let running = match block_on(TROUBLE, ask(socket)) {
        Ok(running) => running,
        Err(code) => return code,
    };
    let report = Report {
        config: config.display().to_string(),
        file: name.display().to_string(),
        daemon: running.is_some(),
        agents: lines(differences, running.as_ref()),
        unchanged,
    };
    let text = if arguments.json {
        match serde_json::to_string(&report) {
            Ok(text) => format!("{}\n", printable::json(text)),
            Err(error) => return complain(TROUBLE, &format!("failed to print: {error}")),
        }
    } else {
        if running.is_none() {
            say("no daemon says what runs: only the files were compared");
        }
        report.in_words()
    };
    let status = match () {
        () if !(is_good && is_right) => TROUBLE,
        () if report.agents.is_empty() => SAME,
        () => DIFFERENT,
    };
    print(text.as_bytes(), status, TROUBLE)
}

fn from_file(file: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    regular_file::read(file, config::MAX_SIZE).map(|(text, _)| text).map_err(|error| fault(&error))
}

/// No more than a jcard may have, and one byte, by which it is found to have more.
fn from_stdin() -> Result<Zeroizing<Vec<u8>>, String> {
    let mut text = Zeroizing::new(Vec::new());
    let most = config::MAX_SIZE.saturating_add(1);
    let read = io::stdin().lock().take(most).read_to_end(&mut text);
    match read {
        Err(error) => Err(format!("failed to read: {error}")),
        Ok(count) if count as u64 == most => {
            Err(format!("it is larger than a jcard may be; write at most {} bytes", config::MAX_SIZE))
        }
        Ok(_) => Ok(text),
    }
}

/// A jcard, and whether it has no error; `None` if it is none. Errors are printed as `agentd check` prints them.
fn read(name: &Path, text: Result<Zeroizing<Vec<u8>>, String>, options: &Options) -> Option<(Config, bool)> {
    let complain = |findings: &str| tell(&located(name, findings));
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            complain_about(name, &error);
            return None;
        }
    };
    let lines = |findings: &[config::Finding]| -> String {
        let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
        let lines = errors.map(|it| format!("{}:{}: error: {}", it.line, it.column, it.message));
        lines.collect::<Vec<_>>().join("\n")
    };
    match config::parse(&text, options) {
        Ok(config) => {
            let errors = lines(&config.findings);
            if !errors.is_empty() {
                complain(&errors);
            }
            Some((config, errors.is_empty()))
        }
        Err(findings) => {
            complain(&lines(&findings));
            None
        }
    }
}

fn complain_about(name: &Path, error: &str) {
    tell(&format!("{}: error: {error}", name.display()));
}

fn tell(text: &str) {
    // If standard error is closed, the message is lost.
    let _ = io::Write::write_all(&mut io::stderr(), format!("{}\n", escaped_lines(text)).as_bytes());
}

/// What runs, by name in lower case; `None` if no daemon says.
async fn ask(socket: &Path) -> Option<BTreeMap<String, AgentStatus>> {
    let client = Client::new(socket).ok()?;
    let agents = timeout(PATIENCE, client.agents()).await.ok()?.ok()?.value;
    Some(agents.into_iter().map(|agent| (agent.name.to_ascii_lowercase(), agent)).collect())
}

/// The differences in the order of their weight.
fn lines(differences: Vec<Difference>, running: Option<&BTreeMap<String, AgentStatus>>) -> Vec<Line> {
    let one = |Difference { name, fate }: Difference| {
        let state = running.and_then(|running| Some(running.get(&name.to_ascii_lowercase())?.state));
        let is_over = state.is_some_and(|state| !matches!(state, State::Starting | State::Running | State::Stopping));
        let (action, changed) = match fate {
            Fate::Start => (Verb::Start, Changes::default()),
            // Nothing of it runs that would have to end.
            Fate::Restart(changes) if is_over => (Verb::Start, changes),
            Fate::Restart(changes) => (Verb::Restart, changes),
            Fate::Change(changes) => (Verb::Change, changes),
            Fate::Stop => (Verb::Stop, Changes::default()),
            Fate::Keep => (Verb::Keep, Changes::default()),
        };
        Line { name, action, changed, state }
    };
    let mut lines: Vec<Line> = differences.into_iter().map(one).collect();
    lines.sort_by(|one, other| (one.action, &one.name).cmp(&(other.action, &other.name)));
    lines
}

impl Report {
    fn in_words(&self) -> String {
        let mut text = String::new();
        for line in &self.agents {
            // Writing to a string never fails.
            let _ = writeln!(text, "{:<8} {}: {}", line.action.word(), escaped(&line.name), escaped(&line.why()));
        }
        let mut counts = Vec::new();
        for (verb, words) in [
            (Verb::Stop, "to stop"),
            (Verb::Restart, "to restart"),
            (Verb::Start, "to start"),
            (Verb::Change, "to change while it runs"),
            (Verb::Keep, "with an error"),
        ] {
            let count = self.agents.iter().filter(|line| line.action == verb).count();
            if count > 0 {
                counts.push(format!("{count} {words}"));
            }
        }
        counts.push(format!("{} unchanged", counted(self.unchanged, "agent")));
        let _ = writeln!(text, "{}", counts.join(", "));
        text
    }
}

impl Line {
    fn why(&self) -> String {
        let now = self.state.map_or_else(String::new, |state| format!(" (now {state})"));
        match self.action {
            Verb::Stop => format!("its entry is removed{now}"),
            Verb::Start if self.changed.is_empty() => "it is new".to_owned(),
            Verb::Restart | Verb::Start => format!("{}{now}", self.changed),
            Verb::Change if self.changed.is_empty() => "only how it is called changed; what runs goes on".to_owned(),
            Verb::Change => format!("{}; what runs goes on{now}", self.changed),
            Verb::Keep => format!("its entry is wrong; what runs goes on as it was declared before{now}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::agent;

    fn changes(fields: &[&str]) -> Changes {
        Changes { fields: fields.iter().map(|&field| field.to_owned()).collect(), secrets: Vec::new() }
    }

    fn report(running: Option<&[(&str, State)]>) -> Report {
        let fates = [
            ("builder", Fate::Change(changes(&["timeout"]))),
            ("new", Fate::Start),
            ("Over", Fate::Restart(changes(&["args"]))),
            ("reviewer", Fate::Restart(changes(&["prompt"]))),
            ("tester", Fate::Stop),
            ("wrong", Fate::Keep),
        ];
        let differences = fates.map(|(name, fate)| Difference { name: name.to_owned(), fate }).into();
        let running = running.map(|running| {
            running.iter().map(|&(name, state)| (name.to_owned(), agent(name, state))).collect::<BTreeMap<_, _>>()
        });
        Report {
            config: "/j.toml".to_owned(),
            file: "/k.toml".to_owned(),
            daemon: running.is_some(),
            agents: lines(differences, running.as_ref()),
            unchanged: 2,
        }
    }

    #[test]
    fn differences_are_sorted_by_weight_and_counted() {
        let running = [("reviewer", State::Running), ("over", State::Exited), ("tester", State::Backoff)];
        let expected = "\
stop     tester: its entry is removed (now backoff)
restart  reviewer: prompt changed (now running)
start    Over: args changed (now exited)
start    new: it is new
change   builder: timeout changed; what runs goes on
keep     wrong: its entry is wrong; what runs goes on as it was declared before
1 to stop, 1 to restart, 2 to start, 1 to change while it runs, 1 with an error, 2 agents unchanged
";
        assert_eq!(report(Some(&running)).in_words(), expected);
    }

    #[test]
    fn without_a_daemon_what_is_declared_is_taken_to_run() {
        let text = report(None).in_words();
        assert!(text.contains("\nrestart  Over: args changed\n") && !text.contains("now"), "{text}");
    }

    #[test]
    fn no_difference_is_a_line() {
        let report = Report { agents: Vec::new(), ..report(None) };
        assert_eq!(report.in_words(), "2 agents unchanged\n");
    }
}
