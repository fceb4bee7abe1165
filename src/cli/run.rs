//! `agentd run`: gives a template a task, and waits for what comes of it if that is wanted.
//!
//! The API starts nothing: the task is a file, written as the calling user into the [spool](spool). So it needs no daemon, and one that
//! is down takes the task when it comes back.

pub(super) mod ended;
mod follow;
pub(super) mod outputs;
pub(super) mod spool;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use self::follow::Waiting;
use self::spool::{Failure, New, Spool};
use super::operate::is_trusted;
use super::output::{block_on, complain, print, say};
use super::target::Target;
use super::wait::seconds_or_duration;
use super::{Arguments as Whole, Whereabouts, complete};
use crate::agent::labels::{is_key, is_value};
use crate::agent::name::{Name, RunId};
use crate::agent::run::LONGEST_TASK;
use crate::client::{Client, Error};
use crate::settings::{Surroundings, absolute};
use crate::sys::{random, regular_file};
use crate::text::suggest::nearest;
use crate::wire::status::{AgentStatus, Health};

/// The task could not be written.
const FAILED: u8 = 1;
/// The command line is wrong.
const MISUSED: u8 = 2;
/// As that of `agentd status`; also for one who may not write.
const UNKNOWN: u8 = 4;

/// How many ids are tried if others have those that were drawn.
const TRIES: usize = 8;

/// Which template is to do what, and how.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Arguments {
    /// The template: an agent with a table [agents.runs]; the case of its name does not matter
    #[arg(value_name = "NAME", value_parser = template_name, add = complete::templates())]
    pub name: String,
    /// The task, in words that are joined with spaces; `-` reads it from standard input
    #[arg(value_name = "TEXT")]
    pub text: Vec<String>,
    /// Read the task from this file; `-` is standard input
    #[arg(short, long, value_name = "PATH", value_parser = super::path_or_stdin(), conflicts_with = "text")]
    pub file: Option<PathBuf>,
    /// The id of the run: 1 to 40 of A-Z a-z 0-9 _ -. A task whose id was used before is refused, so a task that is written twice is done
    /// once [default: the time and four random characters]
    #[arg(long, value_name = "ID", value_parser = run_id)]
    pub id: Option<RunId>,
    /// Wait until the run is over, print its output as it comes, and end with its exit status
    #[arg(long)]
    pub wait: bool,
    /// Wait until the run is over, and print one JSON document with its end, the last MiB of its standard output and of its standard
    /// error
    #[arg(long)]
    pub json: bool,
    /// How long to wait at most, such as 90s or 2h, or in seconds; the run goes on then
    #[arg(long, value_name = "DURATION", value_parser = seconds_or_duration)]
    pub timeout: Option<Duration>,
    /// Continue the conversation of this run of the same template
    #[arg(long = "continue", value_name = "RUN", value_parser = run_name)]
    pub continues: Option<String>,
    /// Give the run a label, KEY or KEY=VALUE, in addition to those of the template
    #[arg(short = 'l', long = "label", value_name = "LABEL")]
    pub labels: Vec<Label>,
    /// Run in this directory, which the `workdirs` of the template must allow
    #[arg(short = 'C', long, value_name = "DIR", value_parser = super::path())]
    pub workdir: Option<PathBuf>,
    /// Where to write.
    #[command(flatten)]
    pub directory: Directory,
}

/// Where to write.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Directory {
    /// The spool [default: that of the daemon]
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    pub spool_dir: Option<PathBuf>,
}

/// A label to give to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    key: String,
    value: String,
}

impl std::str::FromStr for Label {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if !is_key(key) || !is_value(value) {
            return Err(
                "write KEY=VALUE, or KEY, each of at most 63 of A-Z a-z 0-9 . _ / -, of which a key does not begin with -",
            );
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

fn template_name(text: &str) -> Result<String, String> {
    Name::try_from(text).map(|name| name.to_string()).map_err(|error| error.to_string())
}

/// Parses an id. One that begins with `-` would be taken for an option by other commands.
fn run_id(text: &str) -> Result<RunId, &'static str> {
    let right = "write an id of 1 to 40 of A-Z a-z 0-9 _ -, which does not begin with -";
    if text.starts_with('-') { Err(right) } else { text.parse().map_err(|_| right) }
}

/// Parses the name of a run, `NAME/ID` or an id.
fn run_name(text: &str) -> Result<String, &'static str> {
    let right = "write the id of a run, or NAME/ID";
    let is_named = !text.starts_with('-') && (text.parse::<RunId>().is_ok() || Name::parse_any(text).is_ok());
    if is_named { Ok(text.to_owned()) } else { Err(right) }
}

/// Why nothing was started, or nothing more is known.
pub(super) struct End {
    pub(super) status: u8,
    pub(super) message: String,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        let status = match failure {
            Failure::Denied { .. } | Failure::NoFolder { .. } | Failure::NoSpool(_) => UNKNOWN,
            Failure::Taken(_) | Failure::Io { .. } => FAILED,
        };
        Self { status, message: failure.to_string() }
    }
}

/// Writes the task, and prints the id of the run, or what comes of the run: data to stdout, messages to stderr.
pub fn run(all: &Whole, arguments: &Arguments, here: &Surroundings) -> ExitCode {
    if arguments.timeout.is_some() && !arguments.wait && !arguments.json {
        return complain(MISUSED, "--timeout limits a wait; add --wait or --json");
    }
    let text = match task(arguments) {
        Ok(text) => text,
        Err(End { status, message }) => return complain(status, &message),
    };
    let work = async {
        let place = Place::find(all, here, &arguments.directory).await?;
        let beside = beside(arguments)?;
        let template = place.template(&arguments.name).await?;
        if let Some(id) = &arguments.id {
            place.refuse_used(&template, id, arguments.wait || arguments.json).await?;
        }
        let (id, path) = write(&place.spool, arguments, &template, &text, &beside)?;
        if let Err(error) = &place.health {
            say(&match error {
                Error::NotRunning(_) => {
                    format!("agentd is not running; {} is written, and runs once agentd does", path.display())
                }
                _ => format!("{} is written; {error}", path.display()),
            });
        }
        Ok::<_, End>((place, Name::parse_any(&template).map(|name| name.of_run(&id).to_string()), id))
    };
    let written = match block_on(FAILED, work) {
        Ok(Ok(written)) => written,
        Ok(Err(End { status, message })) => return complain(status, &message),
        Err(code) => return code,
    };
    let (place, name, id) = written;
    match name {
        Ok(name) if arguments.wait || arguments.json => {
            let Place { client, spool, .. } = place;
            let waiting = Waiting { client, spool, name, timeout: arguments.timeout, is_json: arguments.json };
            follow::run(&waiting)
        }
        _ => print(format!("{id}\n").as_bytes(), 0, FAILED),
    }
}

/// The spool, and the daemon, if it answers.
pub(super) struct Place {
    pub(super) client: Client,
    pub(super) health: Result<Health, Error>,
    pub(super) spool: Spool,
}

impl Place {
    pub(super) async fn find(all: &Whole, here: &Surroundings, directory: &Directory) -> Result<Self, End> {
        let socket = all.places.client_socket(here);
        let client = Client::new(&socket).map_err(|error| End { status: UNKNOWN, message: error.to_string() })?;
        let health = client.health().await.map(|answer| answer.value);
        let named = directory.spool_dir.clone().or_else(|| all.daemon.whereabouts.spool_dir.clone());
        // The daemon of another user must not choose where this user writes.
        let told = || health.as_ref().ok().filter(|_| is_trusted(&socket))?.spool_dir.clone().map(PathBuf::from);
        let path =
            named.or_else(told).unwrap_or_else(|| Target::find(all, &Whereabouts::default(), here).settings.spool_dir);
        Ok(Self { client, health, spool: Spool::new(&path) })
    }

    /// Refuses an id that another run has: what that run does would be taken for what comes of this task. The daemon refuses those that
    /// are no longer listed.
    async fn refuse_used(&self, template: &str, id: &RunId, waits: bool) -> Result<(), End> {
        let Ok(run) = self.client.run(&format!("{template}/{id}")).await.map(|answer| answer.value) else {
            return Ok(());
        };
        let state = run.outcome.map_or_else(|| run.state.to_string(), |outcome| outcome.to_string());
        let message = format!(
            "the id is used: {} is {state}; each id is used once, so choose another, or leave out --id; agentd wait {} waits for that run",
            run.name, run.name
        );
        Err(End { status: if waits { ended::REFUSED } else { FAILED }, message })
    }

    /// The name of the template as it is declared, if the daemon says.
    async fn template(&self, name: &str) -> Result<String, End> {
        let unknown = |message: String| End { status: UNKNOWN, message };
        if self.health.is_err() {
            return Ok(name.to_owned());
        }
        // One who may write need not be one who may ask.
        let Ok(agents) = self.client.agents().await.map(|answer| answer.value) else { return Ok(name.to_owned()) };
        let is_template = |agent: &&AgentStatus| agent.runs.is_some();
        match agents.iter().find(|agent| agent.name.eq_ignore_ascii_case(name)) {
            Some(agent) if agent.runs.is_some() => Ok(agent.name.clone()),
            Some(agent) => Err(unknown(format!(
                "{} takes no tasks: its entry has no table [agents.runs]; agentd send {} types a text into its terminal",
                agent.name, agent.name
            ))),
            None => {
                let templates: Vec<&str> = agents.iter().filter(is_template).map(|agent| agent.name.as_str()).collect();
                let hint = match (nearest(name, templates.iter().copied()), templates.as_slice()) {
                    (Some(nearest), _) => format!("; did you mean {nearest:?}?"),
                    (None, []) => "; no entry has a table [agents.runs]".to_owned(),
                    (None, templates) => format!("; templates: {}", templates.join(", ")),
                };
                Err(unknown(format!("there is no template {name:?}{hint}")))
            }
        }
    }
}

/// Reads the task, and checks it. The daemon checks it again.
fn task(arguments: &Arguments) -> Result<String, End> {
    let misused = |message: &str| End { status: MISUSED, message: message.to_owned() };
    let words = &arguments.text;
    let bytes = match (&arguments.file, words.as_slice()) {
        (Some(path), _) if path.as_os_str() != "-" => of_file(path)?,
        (Some(_), _) => of_stdin()?,
        (None, [word]) if word == "-" => of_stdin()?,
        (None, []) => {
            return Err(misused("write the task after the name, or name its file with -f; - reads standard input"));
        }
        (None, words) => words.join(" ").into_bytes(),
    };
    let text = String::from_utf8(bytes)
        .map_err(|error| misused(&format!("the task is not UTF-8 (byte {})", error.utf8_error().valid_up_to() + 1)))?;
    if text.trim().is_empty() {
        return Err(misused("the task is empty"));
    }
    if text.len() > LONGEST_TASK {
        let most = LONGEST_TASK >> 20;
        return Err(misused(&format!(
            "the task is longer than {most} MiB; write what is long into a file that the agent reads"
        )));
    }
    Ok(text)
}

/// More than a task may have, so that one that is too long is noticed.
const MOST_READ: u64 = LONGEST_TASK as u64 + 1;

fn of_file(path: &Path) -> Result<Vec<u8>, End> {
    let failed = |why: String| End { status: FAILED, message: format!("failed to read {}: {why}", path.display()) };
    let file = regular_file::open(path).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    file.0.take(MOST_READ).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    Ok(bytes)
}

fn of_stdin() -> Result<Vec<u8>, End> {
    if io::stdin().is_terminal() {
        say("type the task, and then Ctrl-D");
    }
    let mut bytes = Vec::new();
    let read = io::stdin().take(MOST_READ).read_to_end(&mut bytes);
    read.map_err(|error| End { status: FAILED, message: format!("failed to read standard input: {error}") })?;
    Ok(bytes)
}

/// What is said beside the task, as TOML.
fn beside(arguments: &Arguments) -> Result<String, End> {
    let mut text = String::new();
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let labels: BTreeMap<&str, &str> =
        arguments.labels.iter().map(|label| (label.key.as_str(), label.value.as_str())).collect();
    if !labels.is_empty() {
        let labels: Vec<String> =
            labels.iter().map(|(key, value)| format!("{} = {}", quoted(key), quoted(value))).collect();
        let _ = writeln!(text, "labels = {{ {} }}", labels.join(", "));
    }
    if let Some(workdir) = &arguments.workdir {
        let is_text = workdir.to_str().filter(|path| !path.chars().any(char::is_control));
        let Some(workdir) = is_text else {
            let message = "--workdir must be UTF-8, and have no control characters".to_owned();
            return Err(End { status: MISUSED, message });
        };
        // A path in a home is that of the agent user.
        let workdir = if workdir.starts_with('~') {
            workdir.to_owned()
        } else {
            absolute(Path::new(workdir)).display().to_string()
        };
        let _ = writeln!(text, "workdir = {}", quoted(&workdir));
    }
    if let Some(run) = &arguments.continues {
        let id = match run.split_once(['/', '+']) {
            None => run.as_str(),
            Some((of, id)) if of.eq_ignore_ascii_case(&arguments.name) => id,
            Some((of, _)) => {
                let message = format!("{run} is a run of {of}, and only a run of {of} can continue it");
                return Err(End { status: MISUSED, message });
            }
        };
        let _ = writeln!(text, "continue = {}", quoted(id));
    }
    Ok(text)
}

/// Writes the task under its id, or under one that is drawn.
fn write(
    spool: &Spool,
    arguments: &Arguments,
    template: &str,
    text: &str,
    beside: &str,
) -> Result<(RunId, PathBuf), End> {
    let line = format!("agentd run {template} …");
    let mut tries = 0;
    loop {
        let id = match &arguments.id {
            Some(id) => id.clone(),
            None => drawn(SystemTime::now())?,
        };
        match spool.write(template, &New { id: &id, text, beside, line: &line }) {
            Err(Failure::Taken(_)) if arguments.id.is_none() && tries < TRIES => tries += 1,
            written => return Ok((id, written?)),
        }
    }
}

/// An id that sorts by time: `20261201T053611-x7k2`, in UTC.
fn drawn(now: SystemTime) -> Result<RunId, End> {
    // Without what is easily confused.
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let failed = |why: String| End { status: FAILED, message: format!("failed to draw an id: {why}") };
    let time = humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':', 'Z'], "");
    let random: [u8; 4] = random::bytes().map_err(|error| failed(error.to_string()))?;
    let letters: String = random.iter().map(|byte| char::from(LETTERS[usize::from(byte & 31)])).collect();
    format!("{time}-{letters}").parse().map_err(|error: crate::agent::name::InvalidRunId| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(words: &[&str]) -> Arguments {
        Line::try_parse_from([&["run"], words].concat()).unwrap().arguments
    }

    #[test]
    fn a_drawn_id_sorts_by_time_and_is_unique() {
        let at = |seconds| drawn(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).ok().unwrap().to_string();
        let id = at(1_796_103_371);
        assert_eq!((&id[..16], id.len()), ("20261201T053611-", 20), "{id}");
        assert!(at(1_796_103_372) > id);
        let several: std::collections::BTreeSet<String> = (0..50).map(|_| at(0)).collect();
        assert!(several.len() > 45, "{}", several.len());
    }

    #[test]
    fn words_are_joined_and_what_is_no_task_is_refused() {
        let of = |words: &[&str]| task(&arguments(words)).map_err(|end| (end.status, end.message));
        assert_eq!(of(&["fixer", "fix", "the  bug"]), Ok("fix the  bug".to_owned()));
        for (words, expected) in [
            (&["fixer"][..], "write the task after the name"),
            (&["fixer", " ", "\n"], "the task is empty"),
            (&["fixer", &"x".repeat(LONGEST_TASK + 1)], "the task is longer than 1 MiB"),
        ] {
            let (status, said) = of(words).unwrap_err();
            assert!(status == MISUSED && said.starts_with(expected), "{said}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("task");
        std::fs::write(&file, b"gr\xfcn").unwrap();
        let (status, said) = of(&["fixer", "-f", file.to_str().unwrap()]).unwrap_err();
        assert_eq!((status, said.as_str()), (MISUSED, "the task is not UTF-8 (byte 3)"));
        assert!(of(&["fixer", "-f", "/no/such/file"]).unwrap_err().1.starts_with("failed to read /no/such/file: "));
    }

    #[test]
    fn what_is_said_beside_a_task_is_toml() {
        let of = |words: &[&str]| beside(&arguments(&[&["fixer"], words].concat())).map_err(|end| end.message);
        assert_eq!(of(&[]), Ok(String::new()));
        let text = of(&["-l", "team=web", "--label", "a/b", "-C", "/src/a \"b\"", "--continue", "Fixer/t1"]).unwrap();
        assert_eq!(
            text,
            "labels = { \"a/b\" = \"\", \"team\" = \"web\" }\nworkdir = \"/src/a \\\"b\\\"\"\ncontinue = \"t1\"\n"
        );
        let read: toml::Table = text.parse().unwrap();
        assert_eq!((read["workdir"].as_str(), read["labels"]["team"].as_str()), (Some("/src/a \"b\""), Some("web")));
        assert_eq!(of(&["--continue", "t1", "-C", "~/x"]).unwrap(), "workdir = \"~/x\"\ncontinue = \"t1\"\n");
        let said = of(&["--continue", "other/t1"]).unwrap_err();
        assert_eq!(said, "other/t1 is a run of other, and only a run of other can continue it");
    }
}
