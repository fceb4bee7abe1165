//! `agentd stop`, `start`, `restart`, `pause` and `unpause`: an operator's word, written as a file.
//!
//! The API is read-only. Each verb writes a drop-in as the calling user, waits for the daemon to take it, and says what happens. A
//! drop-in that says nothing more is removed again: the daemon remembers what it has taken.

mod files;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use nix::unistd::Uid;
use tokio::time::{Instant, sleep};

use self::files::{Failure, Files};
use super::output::{block_on, complain, print, say};
use super::target::Target;
use super::wording::words;
use super::{Arguments as Whole, Whereabouts, complete};
use crate::agent::name::{InvalidName, Name};
use crate::client::{Client, Error};
use crate::config::MAX_GENERATION;
use crate::config::drop_in::DropIn;
use crate::inputs::overrides::ALL;
use crate::settings::Surroundings;
use crate::text::printable::escaped;
use crate::text::suggest::nearest;
use crate::wire::hold::{GroupHold, Hold};
use crate::wire::reason::WaitingFor;
use crate::wire::status::{AgentStatus, Health, Outcome, State, Time};

/// A file could not be written.
pub(super) const FAILED: u8 = 1;
/// As that of `agentd status`; also for an operator who may not write.
pub(super) const UNKNOWN: u8 = 4;
/// As that of `agentd wait`: it will not come by itself any more.
const OTHERWISE: u8 = 123;

/// How long the daemon may take to take a drop-in.
const TAKEN: Duration = Duration::from_secs(2);

/// The pause after the first question, and the longest.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// Which agents, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Stop {
    /// The agents; the case of a name does not matter, and the name of replicas means all of them
    #[arg(required = true, value_name = "NAME", value_parser = agent_name, add = complete::names())]
    pub names: Vec<String>,
    /// Kill at once, without the grace period
    #[arg(long)]
    pub now: bool,
    /// Wait until it is so
    #[arg(long)]
    pub wait: bool,
    /// Where to write.
    #[command(flatten)]
    pub directory: Directory,
}

/// Which agents, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Start {
    /// The agents; the case of a name does not matter, and the name of replicas means all of them
    #[arg(required = true, value_name = "NAME", value_parser = agent_name, add = complete::names())]
    pub names: Vec<String>,
    /// Wait until it is so
    #[arg(long)]
    pub wait: bool,
    /// Where to write.
    #[command(flatten)]
    pub directory: Directory,
}

/// All agents.
#[derive(Clone, Debug, clap::Args)]
pub struct Pause {
    /// All agents, also those that are declared later
    #[arg(long, required = true)]
    pub all: bool,
    /// Where to write.
    #[command(flatten)]
    pub directory: Directory,
}

/// A hold.
#[derive(Clone, Debug, clap::Args)]
pub struct Release {
    /// The group as `agentd status` names it, or an agent that is held
    #[arg(value_name = "GROUP|NAME")]
    pub name: String,
    /// Where to write.
    #[command(flatten)]
    pub directory: Directory,
}

/// Where to write.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Directory {
    /// The overrides directory [default: that of the daemon]
    #[arg(long, value_name = "DIR", value_parser = super::path())]
    pub override_dir: Option<PathBuf>,
}

/// Parses the name of an agent or of replicas.
fn agent_name(text: &str) -> Result<String, InvalidName> {
    Name::try_from(text).map(|name| name.to_string())
}

/// What an operator wants.
#[derive(Clone, Debug)]
pub enum Order {
    /// These agents are not to run.
    Stop(Stop),
    /// These agents are to run.
    Start(Start),
    /// These agents are to run again.
    Restart(Stop),
    /// Nothing is to start.
    Pause(Pause),
    /// Everything may start.
    Unpause(Pause),
    /// The agents that share a credential are to try it again.
    Release(Release),
}

/// What is wanted of single agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Stop { now: bool },
    Start,
    Restart { now: bool },
}

/// Why a verb ended before everything was done.
pub(super) struct End {
    pub(super) status: u8,
    pub(super) message: String,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        let status = if matches!(failure, Failure::Denied { .. }) { UNKNOWN } else { FAILED };
        Self { status, message: failure.to_string() }
    }
}

/// Does what the operator wants, and prints what happens: data to stdout, messages to stderr.
pub fn run(all: &Whole, order: &Order, here: &Surroundings) -> ExitCode {
    let work = async {
        match order {
            Order::Stop(it) => {
                of_agents(all, here, Verb::Stop { now: it.now }, &it.names, it.wait, &it.directory).await
            }
            Order::Start(it) => of_agents(all, here, Verb::Start, &it.names, it.wait, &it.directory).await,
            Order::Restart(it) => {
                of_agents(all, here, Verb::Restart { now: it.now }, &it.names, it.wait, &it.directory).await
            }
            Order::Pause(it) => pause(all, here, true, &it.directory).await,
            Order::Unpause(it) => pause(all, here, false, &it.directory).await,
            Order::Release(it) => release(all, here, it).await,
        }
    };
    match block_on(UNKNOWN, work) {
        Ok(Ok((lines, status))) => {
            let text: String = lines.iter().map(|line| escaped(line) + "\n").collect();
            print(text.as_bytes(), status, FAILED)
        }
        Ok(Err(End { status, message })) => complain(status, &message),
        Err(code) => code,
    }
}

/// The daemon, if it answers, and the folder that it reads.
pub(super) struct Daemon {
    pub(super) client: Client,
    pub(super) health: Result<Health, Error>,
    pub(super) files: Files,
}

impl Daemon {
    pub(super) async fn find(all: &Whole, here: &Surroundings, directory: &Directory) -> Result<Self, End> {
        let unknown = |error: Error| End { status: UNKNOWN, message: error.to_string() };
        let socket = all.places.client_socket(here);
        let client = Client::new(&socket).map_err(unknown)?;
        let health = client.health().await.map(|answer| answer.value);
        let named = directory.override_dir.clone().or_else(|| all.daemon.whereabouts.override_dir.clone());
        // The daemon of another user must not choose which files this user replaces.
        let told = || health.as_ref().ok().filter(|_| is_trusted(&socket))?.override_dir.clone().map(PathBuf::from);
        let path = named
            .or_else(told)
            .unwrap_or_else(|| Target::find(all, &Whereabouts::default(), here).settings.override_dir);
        Ok(Self { client, health, files: Files::new(&path) })
    }

    /// What is wrong with the drop-ins, according to the daemon.
    async fn trouble(&self) -> Option<String> {
        self.client.health().await.ok()?.value.override_error
    }
}

/// Whether the socket of a daemon is root's or the caller's.
fn is_trusted(socket: &Path) -> bool {
    fs::metadata(socket).is_ok_and(|metadata| metadata.uid() == 0 || metadata.uid() == Uid::effective().as_raw())
}

/// An agent that somebody wants something of.
struct Job {
    name: String,
    /// What is written.
    drop_in: DropIn,
    /// The generation that the agent is to have.
    generation: u64,
    /// The agent as it was seen last.
    seen: AgentStatus,
    /// What was written, to remove it if it is still there.
    written: Option<files::Written>,
}

async fn of_agents(
    all: &Whole,
    here: &Surroundings,
    verb: Verb,
    names: &[String],
    waits: bool,
    directory: &Directory,
) -> Result<(Vec<String>, u8), End> {
    let daemon = Daemon::find(all, here, directory).await?;
    let turn = daemon.files.turn().await;
    let agents = match (&daemon.health, daemon.client.agents().await) {
        (Ok(_), Ok(agents)) => agents.value,
        (_, Err(error)) => return without_daemon(&daemon.files, verb, names, waits, &error),
        (Err(error), Ok(_)) => return without_daemon(&daemon.files, verb, names, waits, error),
    };
    let meant = resolve(names, &agents)?;
    let (mut lines, mut status) = (Vec::new(), 0);
    let mut jobs = Vec::new();
    for agent in meant {
        let before = daemon.files.read(&agent.name)?;
        match plan(verb, agent, before) {
            Ok((drop_in, generation)) => {
                jobs.push(Job { name: agent.name.clone(), drop_in, generation, seen: agent.clone(), written: None });
            }
            Err(nothing) => {
                if let Nothing::Wrong | Nothing::Exhausted(_) = nothing {
                    status = if waits { OTHERWISE } else { FAILED };
                }
                lines.push(format!("{}: {nothing}", agent.name));
            }
        }
    }
    for job in &mut jobs {
        job.written = Some(daemon.files.write(&job.name, job.drop_in, &verb.line(&job.name))?);
    }
    settle(&daemon, verb, &mut jobs).await?;
    drop(turn);
    if verb.starts() && daemon.health.as_ref().is_ok_and(|health| health.paused.is_some()) {
        say("all agents are paused, and none starts before agentd unpause --all");
    }
    for job in &jobs {
        if !is_taken(verb, job) {
            status = status.max(FAILED);
            let trouble = daemon.trouble().await.map_or_else(String::new, |trouble| format!(": {trouble}"));
            say(&format!("{}: written, but agentd has not taken it yet{trouble}", job.name));
        } else if !waits {
            lines.push(format!("{}: {}", job.name, what_happens(verb, &job.seen, SystemTime::now())));
        }
    }
    if waits {
        for job in jobs.iter_mut().filter(|job| is_taken(verb, job)) {
            let (line, reached) = follow(&daemon.client, verb, job).await?;
            lines.push(line);
            status = status.max(reached);
        }
    }
    Ok((lines, status))
}

/// Waits until the daemon has taken what was written, completes it, and removes what says nothing more.
async fn settle(daemon: &Daemon, verb: Verb, jobs: &mut [Job]) -> Result<(), End> {
    taken(&daemon.client, verb, jobs).await;
    // What the entry itself forbids, an operator allows in so many words.
    let is_forbidden = |agent: &AgentStatus| {
        agent.waiting_for.iter().any(|cause| matches!(cause, WaitingFor::Enabled { by: None, .. }))
    };
    let mut is_more = false;
    for job in jobs.iter_mut().filter(|job| verb.starts() && job.drop_in.enabled.is_none() && is_forbidden(&job.seen)) {
        job.drop_in.enabled = Some(true);
        job.written = Some(daemon.files.write(&job.name, job.drop_in, &verb.line(&job.name))?);
        is_more = true;
    }
    if is_more {
        taken(&daemon.client, verb, jobs).await;
    }
    for job in jobs.iter_mut().filter(|job| job.drop_in.enabled.is_none() && is_taken(verb, job)) {
        if let Some(written) = job.written.take() {
            daemon.files.remove(&written);
        }
    }
    Ok(())
}

impl Verb {
    /// The command line of it, for one who may not do it.
    fn line(self, name: &str) -> String {
        match self {
            Self::Stop { now: false } => format!("agentd stop {name}"),
            Self::Stop { now: true } => format!("agentd stop --now {name}"),
            Self::Start => format!("agentd start {name}"),
            Self::Restart { now: false } => format!("agentd restart {name}"),
            Self::Restart { now: true } => format!("agentd restart --now {name}"),
        }
    }

    fn starts(self) -> bool {
        matches!(self, Self::Start | Self::Restart { .. })
    }
}

/// The agents that these names mean. A name that no agent has means the replicas of it.
fn resolve<'a>(names: &[String], agents: &'a [AgentStatus]) -> Result<Vec<&'a AgentStatus>, End> {
    let mut meant: Vec<&AgentStatus> = Vec::new();
    for name in names {
        let one = agents.iter().filter(|agent| agent.name.eq_ignore_ascii_case(name));
        let mut found: Vec<_> = one.collect();
        if found.is_empty() {
            found = agents.iter().filter(|agent| is_replica(&agent.name, name)).collect();
        }
        if found.is_empty() {
            let nearest = nearest(name, agents.iter().map(|agent| agent.name.as_str())).map(str::to_owned);
            let message = Error::NoSuchAgent { name: name.clone(), nearest }.to_string();
            return Err(End { status: UNKNOWN, message });
        }
        for agent in found {
            if !meant.iter().any(|other| other.name == agent.name) {
                meant.push(agent);
            }
        }
    }
    Ok(meant)
}

fn is_replica(agent: &str, group: &str) -> bool {
    let Some((base, number)) = agent.rsplit_once('-') else { return false };
    base.eq_ignore_ascii_case(group) && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Why nothing is written for an agent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Nothing {
    #[error("is {0} already")]
    Already(State),
    #[error("its entry is wrong; agentd check says what to correct")]
    Wrong,
    #[error("its generation is the highest there is; type: agentd stop --wait {0}; agentd start {0}")]
    Exhausted(String),
}

/// What to write for this agent, and the generation that it will have; or why there is nothing to do.
fn plan(verb: Verb, agent: &AgentStatus, before: DropIn) -> Result<(DropIn, u64), Nothing> {
    let known = agent.generation.max(before.generation.unwrap_or_default());
    let is_disabled = agent.waiting_for.iter().any(|cause| matches!(cause, WaitingFor::Enabled { .. }))
        || agent.overridden.as_ref().is_some_and(|own| own.enabled == Some(false));
    let next = |now| {
        if known >= MAX_GENERATION {
            return Err(Nothing::Exhausted(agent.name.clone()));
        }
        let enabled = before.enabled.filter(|&enabled| enabled);
        Ok((DropIn { enabled, generation: Some(known + 1), now }, known + 1))
    };
    match verb {
        Verb::Stop { now } => {
            Ok((DropIn { enabled: Some(false), generation: before.generation, now }, agent.generation))
        }
        Verb::Restart { now } => next(now),
        Verb::Start if is_disabled || before.enabled == Some(false) => {
            Ok((DropIn { enabled: None, generation: before.generation, now: false }, agent.generation))
        }
        Verb::Start => match agent.state {
            State::Running | State::Starting => Err(Nothing::Already(agent.state)),
            State::Invalid => Err(Nothing::Wrong),
            State::Waiting | State::Stopping | State::Backoff | State::Exited => next(false),
        },
    }
}

/// Asks until the daemon has taken everything, or the time for that is up.
async fn taken(client: &Client, verb: Verb, jobs: &mut [Job]) {
    let limit = Instant::now() + TAKEN;
    loop {
        let agents = client.agents().await.map(|answer| answer.value).unwrap_or_default();
        for agent in agents {
            if let Some(job) = jobs.iter_mut().find(|job| job.name == agent.name) {
                job.seen = agent;
            }
        }
        if jobs.iter().all(|job| is_taken(verb, job)) || Instant::now() >= limit {
            return;
        }
        sleep(SHORTEST).await;
    }
}

fn is_taken(verb: Verb, Job { drop_in, generation, seen, .. }: &Job) -> bool {
    let own = seen.overridden.clone().unwrap_or_default();
    let is_said = (own.enabled, own.generation, own.now) == (drop_in.enabled, drop_in.generation, drop_in.now);
    match verb {
        Verb::Stop { .. } => is_said,
        // What says nothing more may be gone.
        Verb::Start | Verb::Restart { .. } => {
            seen.generation >= *generation && (is_said || drop_in.enabled.is_none() && seen.overridden.is_none())
        }
    }
}

/// One sentence about what comes of it.
fn what_happens(verb: Verb, agent: &AgentStatus, now: SystemTime) -> String {
    match (verb, agent.state) {
        (_, State::Stopping) => {
            let then = if verb.starts() { ", then it starts again" } else { "" };
            match agent.deadline.and_then(|Time(at)| at.duration_since(now).ok()).filter(|rest| !rest.is_zero()) {
                Some(rest) => {
                    // A rest of a second counts as one.
                    let rest = words(rest + Duration::from_nanos(999_999_999));
                    format!("stopping{then}; SIGKILL follows in {rest} at the latest")
                }
                None => format!("stopping at once{then}"),
            }
        }
        (Verb::Stop { .. }, State::Waiting) => format!("stopped; agentd start {} starts it", agent.name),
        (_, state) => {
            let is_said = matches!(state, State::Running | State::Starting);
            let reason = agent.reason.as_ref().filter(|_| !is_said);
            reason.map_or_else(|| state.to_string(), |reason| format!("{state}: {reason}"))
        }
    }
}

/// Follows an agent until it is as it should be, or cannot come to that by itself.
async fn follow(client: &Client, verb: Verb, job: &mut Job) -> Result<(String, u8), End> {
    let mut pause = SHORTEST;
    loop {
        match client.agent(&job.name).await {
            Ok(answer) => job.seen = answer.value,
            Err(Error::NoSuchAgent { .. }) => {
                let status = if verb.starts() { OTHERWISE } else { 0 };
                return Ok((format!("{}: it is gone: its entry was removed, or agentd was stopped", job.name), status));
            }
            Err(error) if error.may_come_back() => {}
            Err(error) => return Err(End { status: UNKNOWN, message: error.to_string() }),
        }
        let agent = &job.seen;
        let said = |status| Ok((format!("{}: {}", job.name, what_happens(verb, agent, SystemTime::now())), status));
        match (verb.starts(), agent.state) {
            (true, State::Running) => return Ok((format!("{}: running", job.name), 0)),
            (true, State::Exited) => {
                return said(if agent.outcome == Some(Outcome::Completed) { 0 } else { OTHERWISE });
            }
            (_, State::Invalid) => return said(if verb.starts() { OTHERWISE } else { 0 }),
            (false, State::Waiting | State::Exited) => return said(0),
            _ => {}
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST);
    }
}

/// Writes what needs no daemon, and says when it takes effect.
fn without_daemon(
    files: &Files,
    verb: Verb,
    names: &[String],
    waits: bool,
    error: &Error,
) -> Result<(Vec<String>, u8), End> {
    let why = match error {
        _ if waits || matches!(verb, Verb::Restart { .. }) => None,
        Error::NotRunning(_) => Some("agentd is not running"),
        // An operator need not be one who may read.
        Error::Denied(_) => Some("you may not ask agentd"),
        _ => None,
    };
    let Some(why) = why else { return Err(End { status: UNKNOWN, message: error.to_string() }) };
    let mut lines = Vec::new();
    for name in names {
        let name: Name =
            name.parse().map_err(|right| End { status: UNKNOWN, message: format!("{name:?}: {right}") })?;
        let before = files.read(name.as_str())?;
        let enabled = Some(verb.starts());
        let written =
            files.write(name.as_str(), DropIn { enabled, now: false, ..before }, &verb.line(name.as_str()))?;
        let effect = if verb.starts() { "may run" } else { "does not run" };
        lines.push(format!(
            "{name}: {why}; {} says from now on that {name} {effect}, if there is such an agent",
            written.path().display()
        ));
    }
    Ok((lines, 0))
}

async fn pause(
    all: &Whole,
    here: &Surroundings,
    pauses: bool,
    directory: &Directory,
) -> Result<(Vec<String>, u8), End> {
    const PAUSED: &str = "no agent starts from now on, and what runs goes on; agentd unpause --all ends the pause";
    let daemon = Daemon::find(all, here, directory).await?;
    let line = if pauses { "agentd pause --all" } else { "agentd unpause --all" };
    let turn = daemon.files.turn().await;
    if !pauses && !daemon.files.has(ALL, line)? && daemon.health.as_ref().is_ok_and(|health| health.paused.is_none()) {
        return Ok((vec!["agents are not paused".to_owned()], 0));
    }
    let written = daemon.files.write(ALL, DropIn { enabled: Some(!pauses), ..DropIn::default() }, line)?;
    if let Err(error) = &daemon.health {
        let why = match error {
            Error::NotRunning(_) => "agentd is not running",
            Error::Denied(_) => "you may not ask agentd",
            _ => return Err(End { status: UNKNOWN, message: error.to_string() }),
        };
        return Ok((vec![format!("{why}; {} says so from now on", written.path().display())], 0));
    }
    let limit = Instant::now() + TAKEN;
    loop {
        let paused = daemon.client.health().await.is_ok_and(|health| health.value.paused.is_some());
        if paused == pauses {
            break;
        }
        if Instant::now() >= limit {
            let trouble = daemon.trouble().await.map_or_else(String::new, |trouble| format!(": {trouble}"));
            let path = written.path().display();
            let message = format!("{path} is written, but agentd has not taken it yet{trouble}");
            return Err(End { status: FAILED, message });
        }
        sleep(SHORTEST).await;
    }
    if !pauses {
        daemon.files.remove(&written);
    }
    drop(turn);
    Ok((vec![if pauses { PAUSED } else { "agents start again" }.to_owned()], 0))
}

async fn release(all: &Whole, here: &Surroundings, wanted: &Release) -> Result<(Vec<String>, u8), End> {
    let daemon = Daemon::find(all, here, &wanted.directory).await?;
    let unknown = |error: Error| End { status: UNKNOWN, message: error.to_string() };
    let holds = daemon.client.holds().await.map_err(unknown)?.value;
    let is_meant = |held: &&GroupHold| {
        let name = &wanted.name;
        held.hold.group == *name || held.agents.iter().any(|agent| agent.eq_ignore_ascii_case(name))
    };
    let Some(GroupHold { hold: Hold { group, .. }, .. }) = holds.iter().find(is_meant) else {
        let groups: Vec<&str> = holds.iter().map(|held| held.hold.group.as_str()).collect();
        let held =
            if groups.is_empty() { "nothing is held".to_owned() } else { format!("held: {}", groups.join(", ")) };
        return Err(End { status: FAILED, message: format!("{} is not held; {held}", wanted.name) });
    };
    let file = daemon.files.release(group, &format!("agentd release {group}"))?;
    let limit = Instant::now() + TAKEN;
    while daemon.files.is_there(&file) {
        if Instant::now() >= limit {
            let message = format!("{} is written, but agentd has not taken it yet", file.path().display());
            return Err(End { status: FAILED, message });
        }
        sleep(SHORTEST).await;
    }
    Ok((vec![format!("{group} is released: one agent tries first, and the others follow if it works")], 0))
}

/// Who stopped the agent, how long ago, and how to start it again.
pub(super) fn stopped(agent: &AgentStatus, now: SystemTime) -> Option<String> {
    let stopped = agent.waiting_for.iter().find_map(|cause| match cause {
        WaitingFor::Enabled { by: Some(by), at } => Some((by, at)),
        _ => None,
    });
    let (by, at) = stopped?;
    let ago = at.and_then(|Time(at)| now.duration_since(at).ok());
    let ago = ago.map_or_else(String::new, |ago| format!(" {} ago", words(ago)));
    Some(format!("stopped by {by}{ago}: agentd start {}", agent.name))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::cli::status::tests::{agent, ago};
    use crate::wire::status::Override;

    fn agents(names: &[&str]) -> Vec<AgentStatus> {
        names.iter().map(|name| agent(name, State::Running)).collect()
    }

    fn names(wanted: &[&str]) -> Vec<String> {
        wanted.iter().map(|&name| name.to_owned()).collect()
    }

    #[rstest]
    #[case(&["B"], Ok("b"))]
    #[case(&["w"], Ok("w-0 w-1"))]
    #[case(&["w-1", "W"], Ok("w-1 w-0"))]
    #[case(&["b", "x"], Err("there is no agent \"x\" (agentd status lists all)"))]
    #[case(&["writr"], Err("there is no agent \"writr\"; did you mean \"writer\"?"))]
    fn names_mean_agents_or_their_replicas(#[case] wanted: &[&str], #[case] expected: Result<&str, &str>) {
        let agents = agents(&["a", "b", "w-0", "w-1", "w-x", "writer"]);
        match (resolve(&names(wanted), &agents), expected) {
            (Ok(found), Ok(expected)) => {
                let found: Vec<&str> = found.iter().map(|agent| agent.name.as_str()).collect();
                assert_eq!(found.join(" "), expected);
            }
            (Err(end), Err(expected)) => assert!(end.message.contains(expected) && end.status == 4, "{}", end.message),
            (found, expected) => panic!("{:?} instead of {expected:?}", found.is_ok()),
        }
    }

    fn stopped_agent() -> AgentStatus {
        AgentStatus {
            waiting_for: vec![WaitingFor::Enabled { by: Some("op".into()), at: Some(ago(300)) }],
            overridden: Some(Override { enabled: Some(false), ..Override::default() }),
            generation: 4,
            ..agent("a", State::Waiting)
        }
    }

    #[test]
    fn what_is_written_follows_from_the_agent_and_its_file() {
        let said = DropIn { enabled: Some(false), generation: Some(2), now: true };
        let text = |verb, agent: &AgentStatus, before| plan(verb, agent, before).map(|(drop_in, _)| drop_in.render());
        let running = AgentStatus { generation: 1, ..agent("a", State::Running) };
        let nothing = DropIn::default();
        let stop = |now| Verb::Stop { now };
        assert_eq!(text(stop(false), &running, said).unwrap(), "enabled = false\ngeneration = 2\n");
        assert_eq!(text(stop(true), &running, nothing).unwrap(), "enabled = false\nnow = true\n");
        assert_eq!(text(Verb::Start, &stopped_agent(), said).unwrap(), "generation = 2\n");
        assert_eq!(text(Verb::Start, &running, nothing), Err(Nothing::Already(State::Running)));
        assert_eq!(text(Verb::Start, &agent("a", State::Invalid), nothing), Err(Nothing::Wrong));
        assert_eq!(text(Verb::Start, &agent("a", State::Exited), nothing).unwrap(), "generation = 1\n");
        let again = Verb::Restart { now: true };
        assert_eq!(text(again, &stopped_agent(), said).unwrap(), "generation = 5\nnow = true\n");
        let last = AgentStatus { generation: MAX_GENERATION, ..agent("a", State::Running) };
        assert_eq!(text(again, &last, nothing), Err(Nothing::Exhausted("a".to_owned())));
        assert_eq!(text(stop(false), &last, nothing).unwrap(), "enabled = false\n");
        let enabled = DropIn { enabled: Some(true), ..nothing };
        assert_eq!(text(again, &running, enabled).unwrap(), "enabled = true\ngeneration = 2\nnow = true\n");
    }

    #[test]
    fn one_sentence_says_what_comes_of_it() {
        let Time(now) = ago(0);
        let deadline = Some(Time(now + Duration::from_millis(29_500)));
        let stopping = AgentStatus { deadline, ..agent("a", State::Stopping) };
        let (stop, restart) = (Verb::Stop { now: false }, Verb::Restart { now: false });
        assert_eq!(what_happens(stop, &stopping, now), "stopping; SIGKILL follows in 30s at the latest");
        let then = "stopping, then it starts again; SIGKILL follows in 30s at the latest";
        assert_eq!(what_happens(restart, &stopping, now), then);
        let killed = AgentStatus { deadline: Some(Time(now)), ..stopping };
        assert_eq!(what_happens(stop, &killed, now), "stopping at once");
        assert_eq!(what_happens(stop, &stopped_agent(), now), "stopped; agentd start a starts it");
        assert_eq!(stopped(&stopped_agent(), now).unwrap(), "stopped by op 5m ago: agentd start a");
        assert_eq!(stopped(&agent("a", State::Waiting), now), None);
    }
}
