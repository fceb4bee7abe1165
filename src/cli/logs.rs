//! `agentd logs`: prints the logs of agents, and follows them.
//!
//! The daemon sends them. If none runs, they come [from the files](files).

mod files;
mod printer;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use self::printer::{Label, Mark, Part, Printer, Separator, Splitter};
use super::complete;
use super::output::{self, BETWEEN_DAEMONS, Failure, complain, say};
use super::{Whereabouts, wording};
use crate::agent::labels::{self, Selector};
use crate::client::{Client, Error};
use crate::logs::attempt::Named;
use crate::settings::Surroundings;
use crate::sys::clock::{self, NoMoment};
use crate::text::{glob, size};
use crate::wire::status::{AgentStatus, PastAttempt, State, Time};

/// The exit status of wrong use, and that of an answer that is not known.
const USAGE: u8 = 2;
const UNKNOWN: u8 = 4;

/// How much later than the last output of an attempt its end may be on record.
const LAG: Duration = Duration::from_secs(2);

/// Which agents' logs, and which part of them.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag that people know")]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Arguments {
    /// The agents; `*` and `?` stand for any characters and for one, and case does not matter. Of several, each line begins with the name
    #[arg(value_name = "NAME", add = complete::names())]
    pub names: Vec<String>,
    /// Print the logs of all agents
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// Print the logs of agents that have this label now, `KEY` or `KEY=VALUE`; of several labels, all
    #[arg(short = 'l', long = "label", value_name = "LABEL", conflicts_with = "all")]
    pub labels: Vec<Selector>,
    /// Continue with what is printed later, also in the next attempts, until the agents have ended for good
    #[arg(short, long)]
    pub follow: bool,
    /// Print at most the last N lines
    #[arg(short = 'n', long, visible_alias = "tail", value_name = "N", value_parser = count)]
    pub lines: Option<usize>,
    /// Begin each line with when it was printed, to about a second
    #[arg(short, long, conflicts_with = "raw")]
    pub timestamps: bool,
    /// Print times in UTC on a terminal, too
    #[arg(long)]
    pub utc: bool,
    /// Print the log of this attempt instead of the latest: K counts over the agent's whole life, as in `status` and `explain`. S-K is
    /// attempt K in the log with the number S, as in the name of its file, where several have the number K
    #[arg(long, value_name = "K", conflicts_with = "previous")]
    pub attempt: Option<Named>,
    /// Print the log of the attempt before the latest
    #[arg(long)]
    pub previous: bool,
    /// Print the logs of all attempts that are kept, the earliest first; a line on standard error says how each ended
    #[arg(long, conflicts_with_all = ["attempt", "previous", "lines"])]
    pub all_attempts: bool,
    /// Print only what was printed since this time (2026-11-21T17:00:00Z, 2026-11-21 18:00:00+01:00, 2026-11-21; UTC without an
    /// offset), or within this duration (90s, 2h)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<SystemTime>,
    /// Print what the terminal received, including escape sequences such as those that move the cursor or set colors
    #[arg(long)]
    pub raw: bool,
    /// Print a JSON object for each line, with its `text`; with `at`, `agent` and `attempt` as other options ask for them
    #[arg(long, conflicts_with = "raw")]
    pub json: bool,
    /// Where the logs are if agentd does not run [default: as for the daemon]
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    pub log_dir: Option<PathBuf>,
    /// The secrets to redact if agentd does not run [default: as for the daemon]
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    pub secret_dir: Option<PathBuf>,
    /// The user with whose rights text is made if agentd does not run [default: as for the daemon]
    #[arg(long, value_name = "NAME", value_parser = super::name)]
    pub user: Option<String>,
}

fn count(text: &str) -> Result<usize, &'static str> {
    size::count(text).map_err(|_| "write a whole number from 0 on, such as 100")
}

fn moment(text: &str) -> Result<SystemTime, NoMoment> {
    clock::parse_moment(text, SystemTime::now())
}

impl Arguments {
    /// The files that are named.
    pub(super) fn whereabouts(&self) -> Whereabouts {
        let Self { log_dir, secret_dir, user, .. } = self.clone();
        Whereabouts { secret_dir, log_dir, user, ..Whereabouts::default() }
    }

    /// Whether more than one agent may be meant.
    fn is_about_several(&self) -> bool {
        self.all
            || !self.labels.is_empty()
            || self.names.len() > 1
            || self.names.iter().any(|name| glob::is_pattern(name))
    }

    /// Whether it matters where an attempt begins.
    fn needs_marks(&self) -> bool {
        !self.raw && (self.follow || self.all_attempts)
    }
}

/// Prints the logs: data to stdout, messages to stderr.
pub fn run(all: &super::Arguments, arguments: &Arguments, here: &Surroundings) -> ExitCode {
    if arguments.names.is_empty() && arguments.labels.is_empty() && !arguments.all {
        return complain(USAGE, "name the agents whose logs to print, or write --label or --all");
    }
    let Whereabouts { log_dir, secret_dir, .. } = &all.daemon.whereabouts;
    if log_dir.is_some() && secret_dir.is_none() && !arguments.raw {
        return complain(USAGE, "name the secrets that belong to --log-dir with --secret-dir, or write --raw");
    }
    if arguments.raw && arguments.is_about_several() {
        return complain(USAGE, "--raw prints the log of one agent; name it");
    }
    let socket = all.places.client_socket(here);
    output::run(async {
        match print(arguments, &socket).await {
            Err(Failure::Ask(Error::NotRunning(_))) if !arguments.follow => files::print(all, arguments, here).await,
            Err(Failure::Ask(error @ Error::NotRunning(_))) => {
                say("without -f, agentd logs prints what is kept even if agentd does not run");
                Err(Failure::Ask(error))
            }
            printed => printed,
        }
    })
}

async fn print(arguments: &Arguments, socket: &Path) -> Result<(), Failure> {
    let client = Client::new(socket).map_err(Failure::Ask)?;
    let names = names(&client, arguments).await?;
    let labels = Label::all(&names, arguments.is_about_several());
    let logs = names.iter().zip(labels).map(|(name, label)| Log {
        client: &client,
        arguments,
        name,
        printer: Printer::new(arguments, label),
        marks: arguments.needs_marks(),
        current: None,
    });
    if !arguments.follow {
        let mut worst = Ok(());
        for log in logs {
            match log.print().await.map_err(|failure| told_unless_only(failure, names.len())) {
                Err(Failure::Told(code)) => worst = Err(Failure::Told(code)),
                printed => printed?,
            }
        }
        return worst;
    }
    together(logs.map(|log| Box::pin(log.print()) as Printing<'_>).collect()).await
}

/// The agents that are meant.
async fn names(client: &Client, arguments: &Arguments) -> Result<Vec<String>, Failure> {
    let is_pattern = |name: &String| glob::is_pattern(name);
    if !arguments.all && arguments.labels.is_empty() && !arguments.names.iter().any(is_pattern) {
        return Ok(each_once(&arguments.names));
    }
    let mut agents = client.agents().await.map_err(Failure::Ask)?.value;
    agents.retain(|agent| labels::fits_all(&arguments.labels, &agent.labels));
    let mut names: Vec<String> = Vec::new();
    let every = ["*".to_owned()];
    for word in if arguments.names.is_empty() { &every } else { arguments.names.as_slice() } {
        let fitting: Vec<&AgentStatus> = agents.iter().filter(|agent| glob::fits(word, &agent.name)).collect();
        if fitting.is_empty() {
            let labels: Vec<String> = arguments.labels.iter().map(Selector::to_string).collect();
            let labels =
                if labels.is_empty() { String::new() } else { format!(" with the label {}", labels.join(" and ")) };
            if arguments.names.is_empty() && !arguments.labels.is_empty() {
                let which = labels.strip_prefix(" with").unwrap_or_default();
                return Err(Failure::Said(format!("no agent has{which}; agentd status lists all")));
            }
            return Err(Failure::Said(format!("no agent{labels} fits {word:?}; agentd status lists all")));
        }
        names.extend(fitting.into_iter().map(|agent| agent.name.clone()));
    }
    Ok(each_once(&names))
}

/// The names without those that are there before: case does not matter.
fn each_once(names: &[String]) -> Vec<String> {
    let is_first = |at: usize| !names[..at].iter().any(|before| before.eq_ignore_ascii_case(&names[at]));
    (0..names.len()).filter(|&at| is_first(at)).map(|at| names[at].clone()).collect()
}

/// What is wrong with one agent's log is said, and does not keep others from being printed.
fn told_unless_only(failure: Failure, count: usize) -> Failure {
    match failure {
        Failure::Print(_) | Failure::Ask(Error::NotRunning(_) | Error::Denied(_)) => failure,
        failure if count == 1 => failure,
        failure => {
            say(&failure.to_string());
            Failure::Told(UNKNOWN)
        }
    }
}

type Printing<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

/// Prints several logs at the same time, until all have ended.
async fn together(mut printing: Vec<Printing<'_>>) -> Result<(), Failure> {
    let count = printing.len();
    let mut worst = Ok(());
    std::future::poll_fn(move |context| {
        let mut at = 0;
        while let Some(log) = printing.get_mut(at) {
            match log.as_mut().poll(context) {
                Poll::Pending => at += 1,
                Poll::Ready(ended) => {
                    drop(printing.remove(at));
                    match ended.map_err(|failure| told_unless_only(failure, count)) {
                        Err(failure @ Failure::Told(_)) => worst = Err(failure),
                        Err(failure) => return Poll::Ready(Err(failure)),
                        Ok(()) => {}
                    }
                }
            }
        }
        if printing.is_empty() { Poll::Ready(std::mem::replace(&mut worst, Ok(()))) } else { Poll::Pending }
    })
    .await
}

/// One agent's log.
struct Log<'a> {
    client: &'a Client,
    arguments: &'a Arguments,
    name: &'a str,
    printer: Printer<'a>,
    /// Whether the daemon is to say where attempts begin.
    marks: bool,
    /// The attempt that is being printed.
    current: Option<Mark>,
}

impl Log<'_> {
    async fn print(mut self) -> Result<(), Failure> {
        let (mut since, mut was_there, mut is_away) = (None, false, false);
        loop {
            let mut heard = SystemTime::now();
            match self.listen(since, &mut was_there, &mut is_away, &mut heard).await {
                Err(Failure::Ask(error)) if self.arguments.follow && was_there && error.may_come_back() => {
                    if !std::mem::replace(&mut is_away, true) {
                        say(&format!("{error}; waiting for it; the last lines may be repeated"));
                        since = Some(heard);
                    }
                }
                // An older daemon does not know marks.
                Err(Failure::Ask(Error::Refused { status, .. })) if self.marks && status.as_u16() == 400 => {
                    self.marks = false;
                    continue;
                }
                Ok(()) => {
                    self.printer.end().map_err(Failure::Print)?;
                    self.separate(None).await;
                    return Ok(());
                }
                Err(failure) => return Err(self.explained(failure).await),
            }
            tokio::time::sleep(BETWEEN_DAEMONS).await;
        }
    }

    /// Prints what one daemon sends, until the end of its answer. After an interruption it begins with what was printed since then.
    async fn listen(
        &mut self,
        interrupted: Option<SystemTime>,
        was_there: &mut bool,
        is_away: &mut bool,
        heard: &mut SystemTime,
    ) -> Result<(), Failure> {
        let query = self.query(interrupted);
        let mut stream = self.client.log(self.name, &query).await.map_err(Failure::Ask)?;
        (*was_there, *is_away) = (true, false);
        let mut splitter = Splitter::default();
        while let Some(piece) = stream.next().await.map_err(Failure::Ask)? {
            *heard = SystemTime::now();
            if !self.marks {
                self.printer.print(&piece).map_err(Failure::Print)?;
                continue;
            }
            for part in splitter.split(&piece) {
                match part {
                    Part::Text(text) => self.printer.print(&text).map_err(Failure::Print)?,
                    Part::Mark(mark) => self.separate(Some(mark)).await,
                }
            }
        }
        Ok(())
    }

    fn query(&self, interrupted: Option<SystemTime>) -> String {
        let Arguments { follow, raw, timestamps, lines, since, .. } = self.arguments;
        let attempt = match self.arguments.attempt {
            Some(named) => named.to_string(),
            None if self.arguments.previous => "previous".to_owned(),
            None if self.arguments.all_attempts && interrupted.is_none() => "all".to_owned(),
            None => "latest".to_owned(),
        };
        let beside = [("&timestamps=true", *timestamps), ("&marks=true", self.marks)];
        let beside: String = beside.into_iter().filter_map(|(text, is_wanted)| is_wanted.then_some(text)).collect();
        let query = format!("follow={follow}&raw={raw}&attempt={attempt}{beside}");
        let lines = lines.filter(|_| interrupted.is_none()).map(|lines| format!("&lines={lines}"));
        let since = interrupted.or(*since).map(|since| format!("&since={}", Time(since)));
        query + &lines.unwrap_or_default() + &since.unwrap_or_default()
    }

    /// Says how the attempt ended that was printed so far, if another begins or nothing more comes.
    async fn separate(&mut self, next: Option<Mark>) {
        let is_same = self.current.as_ref().zip(next.as_ref()).is_some_and(|(current, next)| current.log == next.log);
        let is_last = next.is_none();
        if let Some(mark) = &next {
            self.printer.begin(mark.attempt);
        }
        let Some(before) = std::mem::replace(&mut self.current, next).filter(|_| !is_same) else { return };
        let agent = self.client.agent(self.name).await.map(|answer| answer.value).ok();
        let past = agent.as_ref().and_then(|agent| ended(&agent.history, &before));
        if past.is_some() || !is_last {
            self.printer.separate(&Separator::of(&before, past));
        }
    }

    /// The failure in the words of somebody who asked for the log.
    async fn explained(&self, failure: Failure) -> Failure {
        let Failure::Ask(Error::Refused { status, message, .. }) = &failure else { return failure };
        if status.as_u16() != 404 {
            return Failure::Said(format!("the log of {} cannot be shown: {message}", self.name));
        }
        let is_latest = self.arguments.attempt.is_none() && !self.arguments.previous;
        match self.client.agent(self.name).await {
            Ok(answer) if is_latest => Failure::Said(nothing_printed(&answer.value)),
            _ => Failure::Said(format!("{}: {message}", self.name)),
        }
    }
}

/// Why there is nothing to print.
fn nothing_printed(agent: &AgentStatus) -> String {
    let AgentStatus { name, state, reason, .. } = agent;
    if agent.started_at.is_some() {
        return format!("nothing is kept of what {name} printed");
    }
    let why = agent.error.as_ref().filter(|_| *state == State::Invalid).or(reason.as_ref());
    let why = why.map_or_else(|| format!("it is {}", wording::state_word(agent)), String::clone);
    format!("{name} has printed nothing yet: {why}")
}

/// The end of the attempt, if it is on record: of those with its number the first that ended after its last output.
fn ended<'a>(history: &'a [PastAttempt], mark: &Mark) -> Option<&'a PastAttempt> {
    let is_it = |past: &&PastAttempt| past.attempt_total == Some(mark.attempt) || past.attempt == mark.attempt;
    let Time(changed) = mark.changed_at?;
    let is_later = |past: &&PastAttempt| past.exit.at.0.checked_add(LAG).is_some_and(|ended| ended >= changed);
    history.iter().filter(is_it).filter(is_later).min_by_key(|past| past.exit.at)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_end_belongs_to_the_attempt_that_printed_before_it() {
        let past = |attempt: u64, minute: u32| -> PastAttempt {
            let at = format!("2026-11-21T17:{minute:02}:00.000Z");
            let past =
                json!({ "attempt": attempt, "declared_at": at, "exit": { "code": minute, "at": at }, "reason": "" });
            serde_json::from_value(past).unwrap()
        };
        let history = [past(1, 30), past(2, 20), past(1, 10)];
        let mark = |attempt, minute: u32| {
            let at = format!("2026-11-21T17:{minute:02}:01.000Z");
            Mark { log: String::new(), attempt, changed_at: serde_json::from_value(json!(at)).ok() }
        };
        let minute = |mark: &Mark| ended(&history, mark).map(|past| past.exit.how.to_string());
        let of = |minute: u32| Some(format!("exited with status {minute}"));
        assert_eq!(
            [mark(1, 9), mark(1, 10), mark(1, 11), mark(2, 15)].map(|mark| minute(&mark)),
            [of(10), of(10), of(30), of(20)]
        );
        assert_eq!((minute(&mark(1, 31)), minute(&mark(3, 1))), (None, None));
    }
}
