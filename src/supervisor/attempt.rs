//! One attempt of one agent, from the pane to the last of its processes: effects, no policy.
//!
//! An attempt is launched here, or was by an earlier daemon. Then its launcher is found again: by its [`Identity`] if that is on
//! record, else as the process that runs in the agent's pane. Whoever reports at the launch socket as that process is it, and
//! says how far it has come. If it has ended meanwhile, tmux is asked how. As long as it cannot be found out whether it lives,
//! it is taken to. A launcher is sent its work only after it has been recorded, so one that is neither on record nor in the pane
//! cannot have started anything.
//!
//! Whoever says to have launched the agent, and is not on record, is believed only if it is proven to be of that agent: by its
//! control group, which nobody but root could have put it into. Where there are no groups it must be a child of the tmux server,
//! which keeps out what other agents start, but not what the agent user has tmux start.

mod launcher;
mod log_keeper;
mod survivor;
#[cfg(test)]
mod tests;

use launcher::{Launcher, Reported, Talk};
use log_keeper::{LogKeeper, NewFiles};
use survivor::{PaneQuery, Survivor};

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::agent::activity::{News, Statement};
use crate::agent::approval::{self, MOST_OF_COMMAND, MOST_OF_TOOL, Question};
use crate::agent::conversation::{Plan, SessionId, SessionWords, Taken};
use crate::agent::harness::rule::{Finding, Meaning, Place, Rule};
use crate::agent::hold::{Evidence, HoldKind};
use crate::agent::launch::Launch;
use crate::agent::machine::{self, NotStarted, Numbers};
use crate::agent::name::Name;
use crate::agent::program;
use crate::agent::reset_time;
use crate::agent::spec::Limits;
use crate::contain::cgroup::Whose;
use crate::contain::tree;
use crate::launch::asks::{Ask, beginning};
use crate::launch::launcher as launch_command;
use crate::launch::listener::UnverifiedLauncher;
use crate::launch::protocol::{
    Ending, Failure, FromLauncher, Harness, Held, ProgramNotFound, Progress, SessionOrder, Spent, TAIL, Taught,
    ToLauncher, Told, WIRE_VERSION,
};
use crate::launch::reports::QUIET;
use crate::launch::stream;
use crate::logs::guard;
use crate::observe::redactions::prepared;
use crate::supervisor::containment::ProcessTree;
use crate::supervisor::resources::{Programs, Resources, Seat};
use crate::sys::clock::{self, Timestamp};
use crate::sys::fd::Readable;
use crate::sys::frame;
use crate::sys::process::{Identity, Process};
use crate::sys::rate_limit::{Brake, OnChange};
use crate::sys::secret_bytes::SecretBytes;
use crate::text::printable;
use crate::text::redact::Redactor;
use crate::tmux;
use crate::wire::activity::{Doing, Source};
use crate::wire::exit_status::{ExitStatus, Signal};
use crate::wire::reason::{MissingPackages, MissingProgram, MissingProxy};
use crate::wire::result::StreamResult;
use crate::wire::status::Usage;

use super::pacing::Turn;
use super::screens::short;

/// How long tmux may take to open a pane, with all that it takes: a client has ten seconds, and there may be several.
const OPEN_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a launcher may take to report, once tmux has started it.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a surviving launcher may take to reconnect before a pending kill is carried out.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an end may take to be on record before its launcher is let go all the same, and a launcher before it is told what to
/// launch.
const RECORD_TIMEOUT: Duration = Duration::from_secs(1);

/// How long it may take to start the harness, beside what the login shell takes.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a launcher may take to end by itself after something that should end it.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a failed query is repeated.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How many unverified launchers may wait at a time. Others connect again.
const MAX_UNVERIFIED: usize = 8;

/// How long it may take to find out what the last output of an attempt says.
const EVIDENCE_TIMEOUT: Duration = Duration::from_secs(6);

/// How long to wait for the secrets that an earlier daemon may have given to the agent.
const SECRETS_TIMEOUT: Duration = Duration::from_secs(2);

/// Shown instead of a launcher's words while the secrets are unknown.
const UNSAID: &str = "its launcher says why, which is not shown because its secrets could not be redacted";

/// Shown instead of what an agent asks while the secrets are unknown.
const UNASKED: &str = "what it asks is not shown, because its secrets could not be redacted; look at its screen";

/// The most characters of what is wrong with packages.
const MOST_OF_DETAIL: usize = 600;

/// Shown instead of a harness's final message while the secrets are unknown.
const UNREDACTED: &str = "(not shown, because its secrets could not be redacted)";

/// The most tools whose denial is named.
const MOST_DENIED: usize = 32;

/// How much is heard in five seconds of what a harness does. Its launcher says as much twice a second, or five times for a stream.
const MOST_NEWS: u32 = 30;

/// The same of its work, of which a launcher says up to four things at a time.
const MOST_ACCOUNTS: u32 = 150;

/// In how many conversations an attempt is heard to have been.
const MOST_CONVERSATIONS: u32 = 256;

const STOPPED_BEFORE: &str = "it was stopped before it started";

/// How an attempt begins here.
#[derive(Debug)]
pub enum Start {
    /// It is launched.
    Launch {
        /// What.
        launch: Arc<Launch>,
        /// What must not be shown of it.
        redactor: Arc<Redactor>,
        /// How it is counted.
        numbers: Numbers,
        /// What it may take.
        limits: Limits,
        /// In which conversation; `None` if attempts share none.
        plan: Option<Plan>,
        /// Whether an earlier daemon may have left something that runs in its place: then that is the attempt.
        look_first: bool,
    },
    /// An earlier daemon has launched it.
    Resume {
        /// Its launcher, if that was on record.
        launcher: Option<Identity>,
        /// How it is counted.
        numbers: Numbers,
    },
}

/// A command to an attempt. Kept small, because each attempt has room for several.
#[derive(Debug)]
pub enum Command {
    /// A process claims to be its launcher.
    Visitor(Box<UnverifiedLauncher>),
    /// Send SIGINT.
    Interrupt,
    /// Send it a second time.
    InterruptAgain,
    /// Kill everything, and do not rest before it is gone.
    Kill,
    /// Let it take so much from now on.
    Limit(Box<Limits>),
    /// Answer what it has asked.
    Answer(Box<approval::Told>),
    /// Let its files have these secrets from now on, by variable.
    Renew(BTreeMap<String, SecretBytes>),
    /// Its launcher is on record.
    MetNoted,
    /// Its end is on record.
    EndNoted,
}

/// Brakes on what an agent can have logged, over all of its attempts.
#[derive(Debug, Default)]
pub struct Brakes {
    /// What its launcher says.
    talk: Brake,
    /// Who poses as its launcher.
    posing: Brake,
}

/// Carries out the attempt. Reports its events, `Gone` last.
pub async fn run(
    (resources, seat): (Arc<Resources>, Arc<Seat>),
    name: Name,
    attempt: machine::Attempt,
    start: Start,
    brakes: Arc<Brakes>,
    commands: mpsc::UnboundedReceiver<Command>,
    tell: impl Fn(machine::Event),
) {
    let (visitors, wanted) = (Vec::new(), Wanted::Running);
    let (limits, turn) = (None, None);
    let (Start::Launch { numbers, .. } | Start::Resume { numbers, .. }) = &start;
    let log = LogKeeper::new(Arc::clone(&resources.log_files), name.clone(), *numbers);
    let (is_met_noted, is_none, condemned, flaw, earliest) = (false, false, None, String::new(), Duration::ZERO);
    let mut run = Run {
        resources,
        seat,
        name,
        attempt,
        brakes,
        redactor: None,
        commands,
        tell,
        visitors,
        wanted,
        limits,
        plan: None,
        conversations: 0,
        turn,
        packages: Vec::new(),
        engine: None,
        is_met_noted,
        is_none,
        log,
        condemned,
        flaw,
        earliest,
        conversation: None,
        held: None,
        result: None,
        renewed: None,
    };
    // What lasts for a moment only is boxed: there are many attempts, and each would keep the room for it as long as it lasts.
    let met = match start {
        Start::Launch { launch, redactor, limits, plan, look_first, .. } => {
            run.limits = Some(limits);
            run.plan = plan;
            run.redactor = Some(redactor);
            Box::pin(run.launch(&launch, look_first)).await
        }
        Start::Resume { launcher, .. } => Box::pin(run.resume(launcher)).await,
    };
    if let Some(launcher) = met {
        run.follow(launcher).await;
    }
    if run.is_none {
        run.log.discard().await;
    }
    run.visitors.into_iter().for_each(UnverifiedLauncher::send_away);
    (run.tell)(machine::Event::Gone { attempt });
}

/// A stop that was commanded before there was a launcher to receive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    Running,
    Interrupted,
    InterruptedAgain,
    Killed,
}

struct Run<T> {
    resources: Arc<Resources>,
    /// That of the user whom it runs as.
    seat: Arc<Seat>,
    name: Name,
    attempt: machine::Attempt,
    brakes: Arc<Brakes>,
    /// What must not be shown of what was launched here.
    redactor: Option<Arc<Redactor>>,
    commands: mpsc::UnboundedReceiver<Command>,
    tell: T,
    visitors: Vec<UnverifiedLauncher>,
    wanted: Wanted,
    /// What it may take, if that was said here.
    limits: Option<Limits>,
    /// Which conversation it is to be in.
    plan: Option<Plan>,
    /// How many conversations it has told of.
    conversations: u32,
    /// To start its harness.
    turn: Option<Turn>,
    is_met_noted: bool,
    /// The secrets that its files are to have, if that was said here.
    renewed: Option<BTreeMap<String, SecretBytes>>,
    /// The packages that it was launched with here.
    packages: Vec<String>,
    /// The program of its engine, if a flag names it.
    engine: Option<String>,
    /// Whether its program was not found or its packages not built, so that it does not count as an attempt.
    is_none: bool,
    log: LogKeeper,
    /// Why it was ended from here.
    condemned: Option<String>,
    /// What was last said to be wrong with its log.
    flaw: String,
    /// Before this, on the boot clock, nothing that comes of the attempt can have happened, whatever its launcher says.
    earliest: Duration,
    /// The conversation that its harness is in, as far as it has said so.
    conversation: Option<String>,
    /// What its harness has said of its work, until its end is reported.
    result: Option<Box<StreamResult>>,
    /// What it has said of its credential. It counts if the attempt fails.
    held: Option<Held>,
}

impl<T: Fn(machine::Event)> Run<T> {
    /// Answers whom to follow; `None` if it is over already.
    async fn launch(&mut self, launch: &Launch, look_first: bool) -> Option<Launcher> {
        if look_first {
            let (seat, key) = (Arc::clone(&self.seat), self.name.key());
            match self.listen_during(seat.sessions.panes(&key)).await {
                Ok(panes) => {
                    if let Some(Survivor::Alive(process)) = self.left_in(&panes, PaneQuery::Any) {
                        return self.join(process, Provenance::ByPane).await;
                    }
                }
                Err(tmux::Error::NoServer { .. }) => {}
                Err(error) => return self.not_started(NotStarted::Retry(seat.why_not(&error))),
            }
        }
        // Before there is a launcher, which would not wait for long.
        if !self.take_turn().await {
            return self.not_started(NotStarted::Retry(STOPPED_BEFORE.to_owned()));
        }
        let (containment, key) = (Arc::clone(&self.seat.containment), self.name.key());
        // A launcher that has been told nothing yet is in the way of nobody.
        match tokio::join!(containment.prepare(&key), self.meet(launch, look_first)) {
            (Ok(()), Ok(Met::New(visitor))) => self.start(visitor, launch).await,
            (Ok(()), Ok(Met::Survivor(visitor))) => self.adopt(visitor, Provenance::ByPane).await,
            (Err(error), _) => {
                let why = format!("what is left of it is in the way: {error}");
                self.not_started(NotStarted::Retry(why))
            }
            (_, Err(why)) => self.not_started(NotStarted::Retry(why)),
        }
    }

    /// Waits until it is its turn; answers whether it is, and not to be stopped meanwhile.
    async fn take_turn(&mut self) -> bool {
        let pace = self.resources.pace.clone();
        let mut turn = std::pin::pin!(pace.turn());
        while self.wanted == Wanted::Running {
            tokio::select! {
                turn = &mut turn => {
                    self.turn = Some(turn);
                    return true;
                }
                // The other end closes when the daemon is ending.
                Some(command) = self.commands.recv() => match command {
                    // No launcher is expected before the pane is there, one that has launched comes again, and others want the place.
                    Command::Visitor(visitor) => visitor.send_away(),
                    command => self.remember(command),
                },
            }
        }
        false
    }

    /// Answers that there is nobody to follow.
    fn not_started(&self, why: NotStarted) -> Option<Launcher> {
        (self.tell)(machine::Event::NotStarted { attempt: self.attempt, why });
        None
    }

    fn started(&mut self, harness: Harness) {
        let (harness, now) = (Harness { at: harness.at.max(self.earliest), ..harness }, Timestamp::now());
        // It ends after that.
        self.earliest = now.back_to(harness.at).boot();
        (self.tell)(started(self.attempt, harness, now));
    }

    /// Takes note of what a harness has said of its work, according to its launcher, which may lie.
    async fn hear_told(&mut self, told: Told) {
        let Told { conversation, activity, held, spent, result } = told;
        if let Some((doing, detail)) = activity {
            let said = FromLauncher::Activity { doing, detail, source: Source::Stream };
            if let Some(news) = self.news(said).await {
                (self.tell)(machine::Event::Activity { attempt: self.attempt, news });
            }
        }
        if let Some(id) = conversation {
            self.converses(&id);
        }
        if let Some(spent) = spent {
            self.spent(spent);
        }
        if let Some(held) = held {
            self.hear_held(held).await;
        }
        if let Some(result) = result {
            self.hear_result(*result).await;
        }
    }

    /// Keeps what is wrong with the credential for the end that may follow. A harness may go on trying for minutes, so somebody should
    /// know at once that it must be logged in.
    async fn hear_held(&mut self, held: Held) {
        let is_known = self.held.as_ref().is_some_and(|known| known.kind == held.kind);
        if held.kind == HoldKind::Login && !is_known {
            let detail = Some(short(&self.words(&held.evidence).await));
            let news = News::Said(Statement { doing: Doing::Login, detail, source: Source::Stream });
            (self.tell)(machine::Event::Activity { attempt: self.attempt, news });
        }
        self.held = Some(held);
    }

    /// The credential works after all: nothing is held against it if the attempt fails later. The harness worked all the time, and does
    /// not say so again.
    fn hear_unheld(&mut self) {
        if self.held.take().is_some_and(|held| held.kind == HoldKind::Login) {
            let news = News::Said(Statement { doing: Doing::Working, detail: None, source: Source::Stream });
            (self.tell)(machine::Event::Activity { attempt: self.attempt, news });
        }
    }

    /// The harness is in this conversation. A launcher may lie, and must not be able to keep the daemon busy.
    fn converses(&mut self, id: &str) {
        let told = stream::conversation(id);
        if told == self.conversation || self.conversations == MOST_CONVERSATIONS {
            return;
        }
        self.conversations += 1;
        if let Some(id) = told.clone().and_then(|id| SessionId::try_from(id).ok()) {
            (self.tell)(machine::Event::Conversation { attempt: self.attempt, id });
        }
        self.conversation = told;
    }

    fn spent(&self, Spent { cost_usd, tokens }: Spent) {
        let conversation = self.conversation.clone();
        (self.tell)(machine::Event::Spent { attempt: self.attempt, cost_usd, tokens, conversation });
    }

    /// Keeps a result for the end that follows. A second one of the same attempt replaces it.
    async fn hear_result(&mut self, mut result: StreamResult) {
        let redactor = self.redactor().await;
        let excess = result.text.len().saturating_sub(stream::MOST_TEXT);
        result.text.drain(..result.text.ceil_char_boundary(excess));
        let of_one_line = |text: &str| shortened(&plain(text), stream::MOST_WORDS);
        if let Some(redactor) = &redactor {
            result.text = printable::plain(&redactor.redact(&result.text));
            let line = |text: &str| of_one_line(&redactor.redact(text));
            result.subtype = result.subtype.as_deref().map(line);
            result.model = result.model.as_deref().map(line);
            result.note = result.note.as_deref().map(line);
            result.denied = result.denied.iter().take(MOST_DENIED).map(|name| line(name)).collect();
        } else {
            (result.text, result.subtype, result.model) = (UNREDACTED.to_owned(), None, None);
            result.note = None;
            result.denied.clear();
        }
        result.cost_usd = result.cost_usd.filter(|cost| (0.0..1e9).contains(cost));
        self.result = Some(Box::new(result));
    }

    fn ended(&mut self, how: ExitStatus, at: Option<Timestamp>, usage: Usage) {
        self.ended_because(how, at, usage, None);
    }

    fn ended_because(&mut self, how: ExitStatus, at: Option<Timestamp>, usage: Usage, evidence: Option<Evidence>) {
        let result = self.result.take();
        let now = Timestamp::now();
        let at = at.map_or(now, |at| now.back_to(at.boot().max(self.earliest)));
        (self.tell)(machine::Event::Ended { attempt: self.attempt, how, at, usage, result, evidence });
    }

    /// What an attempt says of its credential: in its stream, or in the last output of one that failed. The latter may know a time that
    /// the stream has only in words.
    async fn evidence(&mut self, tail: Option<SecretBytes>) -> Option<Evidence> {
        let printed = self.printed_evidence(tail).await;
        let Some(Held { kind, until, evidence }) = self.held.take() else { return printed };
        let of_print = || printed.filter(|printed| printed.kind == kind)?.until;
        let until =
            until.and_then(|until| reset_time::clamp(until, clock::since_1970())).map(at_wall).or_else(of_print);
        Some(Evidence { kind, until, text: shortened(&self.words(&evidence).await, stream::MOST_WORDS) })
    }

    /// What the last output of an attempt that failed says of its credential. If nobody can tell, it says nothing.
    async fn printed_evidence(&self, tail: Option<SecretBytes>) -> Option<Evidence> {
        let tail = tail.filter(|tail| (1..=TAIL).contains(&tail.as_slice().len()))?;
        let mut snapshot = self.resources.snapshot.clone();
        // A daemon that has just started knows no rules yet.
        let _ = timeout(SECRETS_TIMEOUT, snapshot.wait_for(|snapshot| snapshot.is_read())).await;
        let rules: Vec<Rule> = {
            let snapshot = snapshot.borrow();
            let rules = snapshot.rules(&self.name.key())?;
            let says = |rule: &&Rule| rule.on == Place::Exit && kind_of(rule.means).is_some();
            rules.iter().filter(says).cloned().collect()
        };
        if rules.is_empty() {
            return None;
        }
        let text = String::from_utf8_lossy(tail.as_slice()).into_owned();
        let search = self.seat.sessions.rules(rules.clone(), text);
        let Finding { index, found, until } = timeout(EVIDENCE_TIMEOUT, search).await.ok()??;
        let kind = kind_of(rules.get(index)?.means)?;
        let until = until.map(at_wall);
        Some(Evidence { kind, until, text: self.words(&found.line).await })
    }

    fn limited(&self, error: Option<String>) {
        if let Some(error) = &error {
            tracing::warn!(agent = %self.name, "{error}");
        }
        (self.tell)(machine::Event::Limited { attempt: self.attempt, error });
    }

    /// The launcher's words as a line that can be shown, with no secret that the agent was given. A launcher is the agent user's, and
    /// what an honest one cannot find may be named by a secret.
    async fn words(&self, text: &str) -> String {
        self.redacted(text).await.unwrap_or_else(|| UNSAID.to_owned())
    }

    /// The same; `None` while the secrets are unknown.
    async fn redacted(&self, text: &str) -> Option<String> {
        Some(plain(&self.redactor().await?.redact(text)))
    }

    /// What redacts the secrets that the agent was given; `None` if that cannot be had.
    async fn redactor(&self) -> Option<Arc<Redactor>> {
        let mut snapshot = self.resources.snapshot.clone();
        let redactor = if let Some(redactor) = &self.redactor {
            prepared(Arc::clone(redactor)).await
        } else {
            // The daemon has just started, and does not know any secret yet.
            let _ = timeout(SECRETS_TIMEOUT, snapshot.wait_for(|snapshot| snapshot.is_read())).await;
            let snapshot = Arc::clone(&snapshot.borrow());
            snapshot.redactor(&self.name.key()).await
        };
        redactor.ok()
    }

    /// What a failure to start is. A launcher that names a program or a proxy, or blames packages, is believed: it may as well say that the program
    /// has failed.
    async fn blame(&self, failure: &Failure) -> NotStarted {
        if failure.packages {
            let detail = shortened(&self.words(&failure.message).await, MOST_OF_DETAIL);
            return NotStarted::Unbuilt(MissingPackages { names: self.packages.clone(), detail });
        }
        if let Some(path) = &failure.proxy {
            return NotStarted::Unreached(unreached(&self.words(path).await, &self.words(&failure.message).await));
        }
        let Some(ProgramNotFound { name, path }) = &failure.program else {
            return blame(failure, self.words(&failure.message).await);
        };
        let name = self.words(name).await;
        let path = match path {
            Some(path) => Some(self.words(path).await),
            None => None,
        };
        let missing = not_found(&name, path.as_deref(), self.seat.user_name.clone());
        let is_engine = self.engine.as_ref() == Some(&name);
        let hint = if is_engine { Some("correct `--runsc-path` of agentd".to_owned()) } else { missing.hint };
        NotStarted::NotFound(MissingProgram { hint, ..missing })
    }

    async fn how(&self, ending: Ending) -> ExitStatus {
        match ending {
            Ending::Cause(cause) => ExitStatus::Cause(self.words(&cause).await),
            told => said(told, str::to_owned),
        }
    }

    fn logged(&self, error: Option<&String>) {
        if let Some(error) = error {
            tracing::warn!(agent = %self.name, "what it prints is not kept: {error}");
        }
        (self.tell)(machine::Event::Logged { attempt: self.attempt, error: error.cloned() });
    }

    /// What tmux remembers of the launcher is how its harness ended, unless that was never started.
    fn ended_in_pane(&mut self, end: &tmux::PaneEnd) {
        if end.code == Some(i32::from(launch_command::NOTHING_STARTED)) {
            // Reported only as long as nothing is known to have started.
            self.not_started(NotStarted::CutOff);
        }
        self.ended(end.how(), end.at.map(before_now), Usage::default());
    }

    /// The process, if it lives.
    async fn open(&mut self, launcher: Identity) -> Option<Process> {
        let mut complaint = Complaint::default();
        loop {
            match launcher.open() {
                Ok(process) => return process,
                Err(error) => complaint.make(&self.name, &format!("failed to look for its launcher: {error}")),
            }
            self.listen_for(POLL_INTERVAL).await;
        }
    }

    /// A wait for the end of a process. As long as there is none, nothing is known of its end.
    async fn watch(&mut self, process: &Process) -> Readable {
        let mut complaint = Complaint::default();
        loop {
            match process.watch() {
                Ok(end) => return end,
                Err(error) => complaint.make(&self.name, &format!("failed to follow its launcher: {error}")),
            }
            self.listen_for(POLL_INTERVAL).await;
        }
    }

    /// Takes in what comes for a while.
    async fn listen_for(&mut self, time: Duration) {
        self.listen_during(tokio::time::sleep(time)).await;
    }

    /// Takes in what comes until that is done.
    async fn listen_during<O>(&mut self, work: impl Future<Output = O>) -> O {
        let mut work = std::pin::pin!(work);
        loop {
            // Cancelling the wait for a command loses none.
            tokio::select! {
                done = &mut work => return done,
                // The other end closes when the daemon is ending.
                Some(command) = self.commands.recv() => self.remember(command),
            }
        }
    }

    fn remember(&mut self, command: Command) {
        match command {
            Command::Visitor(visitor) => self.keep_waiting(*visitor),
            Command::Limit(limits) => self.limits = Some(*limits),
            Command::MetNoted => self.is_met_noted = true,
            Command::Renew(secrets) => self.renewed = Some(secrets),
            // It is asked again by a launcher that is yet to be met.
            Command::EndNoted | Command::Answer(_) => {}
            Command::Interrupt => self.wanted = self.wanted.max(Wanted::Interrupted),
            Command::InterruptAgain => self.wanted = self.wanted.max(Wanted::InterruptedAgain),
            Command::Kill => self.wanted = Wanted::Killed,
        }
    }

    /// Until it is known who is expected. Each process has one place, and one that waits to be told what to launch has it rather
    /// than one that says it was. Who finds no room is not told so: the launcher itself may be among them, and comes again.
    fn keep_waiting(&mut self, visitor: UnverifiedLauncher) {
        self.visitors.retain(|other| other.process.identity() != visitor.process.identity());
        if self.visitors.len() >= MAX_UNVERIFIED {
            match self.visitors.iter().position(UnverifiedLauncher::has_launched) {
                Some(other) if !visitor.has_launched() => drop(self.visitors.swap_remove(other)),
                _ => return,
            }
        }
        self.visitors.push(visitor);
    }

    /// Sends away who waits and is not expected.
    fn dismiss_visitors(&mut self) {
        self.visitors.drain(..).for_each(UnverifiedLauncher::send_away);
    }

    /// Whether somebody who says to have launched the agent is proven to be of it.
    async fn prove(&mut self, process: &Process) -> Proof {
        match self.seat.containment.whose(&self.name.key(), process) {
            Some(Ok(Whose::Its)) => Proof::Proven,
            Some(Ok(Whose::Anothers | Whose::Nobodys)) => Proof::Refuted,
            Some(Err(_)) => Proof::Unknown,
            None => {
                let seat = Arc::clone(&self.seat);
                match (self.listen_during(seat.sessions.server_pid()).await, process.parent()) {
                    (Ok(Some(server)), Some(parent)) if server == parent => Proof::Proven,
                    (Ok(_), Some(_)) => Proof::Refuted,
                    _ => Proof::Unknown,
                }
            }
        }
    }

    /// Says of somebody that it poses as the agent's launcher, though not each time.
    fn warn_of_posing(&self, process: &Process) {
        if let Some(count) = self.brakes.posing.pass() {
            tracing::warn!(agent = %self.name, pid = process.pid(), "ending another process that says to be its launcher ({count} so far)");
        }
    }

    fn take_visitor(&mut self, is_it: impl Fn(&UnverifiedLauncher) -> bool) -> Option<UnverifiedLauncher> {
        self.visitors.iter().position(is_it).map(|at| self.visitors.swap_remove(at))
    }

    /// Waits until the process reports, and follows it.
    async fn join(&mut self, process: Process, known: Provenance) -> Option<Launcher> {
        let end = self.watch(&process).await;
        let process = Arc::new(process);
        let tree = self.seat.containment.tree(&self.name.key(), Arc::clone(&process));
        // One that is known to be a launcher may take as long as it lives.
        let mut limit = match known {
            Provenance::OnRecord => None,
            Provenance::ByPane => Some(Instant::now() + REPORT_TIMEOUT),
        };
        loop {
            if let Some(visitor) = self.take_visitor(|visitor| visitor.process.identity() == process.identity()) {
                if known == Provenance::OnRecord || !visitor.has_launched() {
                    return self.adopt(visitor, known).await;
                }
                match self.prove(&visitor.process).await {
                    Proof::Proven => return self.adopt(visitor, known).await,
                    Proof::Refuted => break,
                    // It comes again.
                    Proof::Unknown => {}
                }
            }
            self.dismiss_visitors();
            if self.wanted == Wanted::Killed {
                // It may be about to say that it has ended already.
                limit =
                    limit.min(Some(Instant::now() + RECONNECT_TIMEOUT)).or(Some(Instant::now() + RECONNECT_TIMEOUT));
            }
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.remember(command),
                    // The daemon is ending, and the agent goes on without it.
                    None => return None,
                },
                // Fails only with the runtime.
                _ = end.readable() => {
                    match self.left_in_pane(PaneQuery::Former(process.identity())).await {
                        Survivor::Ended(end) => self.ended_in_pane(&end),
                        Survivor::Alive(_) | Survivor::Nothing => self.ended(ExitStatus::Cause("its launcher was killed".to_owned()), None, tree.usage().await),
                    }
                    self.see_cleared(tree.clear(None).await);
                    return None;
                }
                () = at(limit) => break,
            }
        }
        if self.wanted != Wanted::Killed
            && let Some(count) = self.brakes.posing.pass()
        {
            let pid = process.pid();
            tracing::warn!(agent = %self.name, pid, "ending what runs in its pane and is no launcher ({count} so far)");
        }
        tree.kill().await;
        if let Err(error) = process.kill() {
            tracing::error!(agent = %self.name, "failed to kill its launcher: {error}");
        }
        let _ = timeout(END_TIMEOUT, end.readable()).await;
        if self.wanted == Wanted::Killed {
            self.ended(ExitStatus::Signal(Signal::KILL), None, tree.usage().await);
        } else {
            self.not_started(NotStarted::CutOff);
        }
        self.see_cleared(tree.clear(None).await);
        None
    }

    /// A launcher that an earlier daemon has told what to launch.
    async fn adopt(&mut self, mut visitor: UnverifiedLauncher, known: Provenance) -> Option<Launcher> {
        let attempt = self.attempt;
        // What was to be launched here is not what runs.
        self.redactor = None;
        self.earliest = visitor.process.identity().started();
        let progress = std::mem::replace(&mut visitor.progress, Progress::New);
        let told = std::mem::take(&mut visitor.told);
        let (fingerprint, log, can_report) = (visitor.fingerprint.take(), visitor.log, visitor.can_report);
        let conversation = visitor.conversation.take();
        let end = self.watch(&visitor.process).await;
        let mut launcher = self.launcher(visitor, end);
        (self.tell)(machine::Event::Met { attempt, launcher: launcher.process.identity() });
        (self.tell)(machine::Event::Opened { attempt });
        // What is on record is true; what the agent's own process says serves where nothing is. What was to be launched here is
        // not what runs, also where it says nothing.
        if known == Provenance::ByPane {
            (self.tell)(machine::Event::Found { attempt, fingerprint });
        }
        self.hear_conversation(conversation);
        if progress == Progress::New {
            launcher.say(&ToLauncher::Unwanted).await;
            self.not_started(NotStarted::CutOff);
            launcher.has_ended();
        } else {
            if let Progress::Running(Harness { pid, .. }) = progress {
                tracing::info!(agent = %self.name, pid, "found running, and left so");
            }
            self.hear_told(told).await;
            self.hear_progress(&mut launcher, progress).await;
            if can_report && launcher.heard == Reported::Started {
                launcher.say(&ToLauncher::Report).await;
            }
            if self.log.take_up(log).await && launcher.can_move && launcher.heard == Reported::Started {
                let made = self.log.make().await;
                self.move_log(&mut launcher, made).await;
            }
        }
        match self.wanted {
            Wanted::Running => {}
            Wanted::Interrupted => launcher.interrupt(&ToLauncher::Interrupt).await,
            Wanted::InterruptedAgain => launcher.interrupt(&ToLauncher::InterruptAgain).await,
            Wanted::Killed => launcher.kill().await,
        }
        Some(launcher)
    }

    /// Which conversation a launcher says it took, once more if it has said so to an earlier daemon.
    fn hear_conversation(&self, taken: Option<Taken>) {
        let Some(taken) = taken else { return };
        let (attempt, id) = (self.attempt, taken.id.clone());
        (self.tell)(machine::Event::Took { attempt, taken });
        // It may have changed since.
        if let Some(id) = id {
            (self.tell)(machine::Event::Conversation { attempt, id });
        }
    }

    /// What a launcher says of how far it has come, as far as that is news and can be true.
    async fn hear_progress(&mut self, launcher: &mut Launcher, progress: Progress) {
        match (progress, launcher.heard) {
            (Progress::Running(harness), Reported::Nothing) => {
                let found = launcher.process.find_below(harness.pid);
                if found.is_some() || is_plausible(&launcher.process, harness.pid) {
                    (launcher.heard, launcher.limit) = (Reported::Started, None);
                    launcher.harness = found;
                    self.started(harness);
                }
            }
            (Progress::Failed(failure), Reported::Nothing) => {
                launcher.has_ended();
                let why = self.blame(&failure).await;
                self.is_none = why.absent().is_some();
                self.not_started(why);
            }
            (Progress::Ended { harness, end }, Reported::Nothing | Reported::Started) => {
                if launcher.heard == Reported::Nothing {
                    // It may have run and ended before this daemon came.
                    self.started(harness);
                }
                launcher.has_ended();
                let usage = end.usage_beside(launcher.tree.usage().await);
                let evidence = self.evidence(end.tail).await;
                let how = self.how(end.how).await;
                self.ended_because(how, Some(Timestamp::now().back_to(end.at)), usage, evidence);
            }
            // The note was lost.
            (Progress::Ended { .. } | Progress::Failed(_), Reported::End) => launcher.note_by = Some(Instant::now()),
            (Progress::Running(_), Reported::Started) => launcher.limit = None,
            _ => {}
        }
    }

    /// Opens the pane and waits for the launcher in it: the visitor whose process is the one that tmux says it started.
    async fn meet(&mut self, launch: &Launch, look_first: bool) -> Result<Met, String> {
        let (resources, seat) = (Arc::clone(&self.resources), Arc::clone(&self.seat));
        let Programs { launcher, agentd } = &resources.programs;
        let mut command = vec![launcher.clone()];
        command.extend(launch_command::command_line(launch.name.as_str(), self.attempt, &seat.launch_socket, agentd));
        let owner = launch.name.key();
        let opening = seat.sessions.open(&owner, &launch.session, &launch.workdir, &command);
        let opened = timeout(OPEN_TIMEOUT, self.listen_during(opening)).await;
        let pid =
            opened.map_err(|_| "tmux does not open its pane".to_owned())?.map_err(|error| seat.why_not(&error))?;
        (self.tell)(machine::Event::Opened { attempt: self.attempt });
        let limit = Instant::now() + REPORT_TIMEOUT;
        loop {
            // Not before the pane is there: whoever closes the session next must find it.
            if self.wanted != Wanted::Running {
                return Err(STOPPED_BEFORE.to_owned());
            }
            // One that runs already, and that neither the record nor a pane told of. There must not be two.
            while look_first && let Some(visitor) = self.take_visitor(UnverifiedLauncher::has_launched) {
                match self.prove(&visitor.process).await {
                    Proof::Proven => return Ok(Met::Survivor(visitor)),
                    // As long as it lives it may be the agent: another would be a second one.
                    Proof::Unknown if visitor.process.lives().unwrap_or(true) => {
                        return Err("it could not be found out whether it runs already".to_owned());
                    }
                    Proof::Refuted | Proof::Unknown => {}
                }
            }
            if let Some(visitor) = self.take_visitor(|visitor| visitor.process.pid() == pid) {
                return Ok(Met::New(visitor));
            }
            self.dismiss_visitors();
            match tokio::time::timeout_at(limit, self.commands.recv()).await {
                Ok(Some(command)) => self.remember(command),
                Ok(None) => return Err("the daemon is ending".to_owned()),
                Err(_) => {
                    let trouble = seat.trouble.borrow().clone();
                    return Err(trouble.unwrap_or_else(|| {
                        format!(
                            "its launcher did not report within {}; can user {} run {}?",
                            humantime::format_duration(REPORT_TIMEOUT),
                            seat.user_name,
                            resources.programs.launcher
                        )
                    }));
                }
            }
        }
    }

    /// Sends the launcher what to launch.
    async fn start(&mut self, visitor: UnverifiedLauncher, launch: &Launch) -> Option<Launcher> {
        if visitor.version != WIRE_VERSION {
            let why = of_another_version(&self.resources.programs.launcher, visitor.version);
            visitor.send_away();
            return self.not_started(NotStarted::Retry(why));
        }
        let end = match visitor.process.watch() {
            Ok(end) => end,
            Err(error) => {
                visitor.send_away();
                return self.not_started(NotStarted::Retry(format!("its launcher cannot be followed: {error}")));
            }
        };
        let mut launcher = self.launcher(visitor, end);
        (self.tell)(machine::Event::Met { attempt: self.attempt, launcher: launcher.process.identity() });
        self.earliest = Timestamp::now().boot();
        let limits = self.limits.take().unwrap_or_default();
        let tree = Arc::clone(&launcher.tree);
        let mut log = self.keep_later();
        let prepared = async { tokio::join!(tree.contain(&limits), log.make()) };
        let (limits_error, files) = self.listen_during(prepared).await;
        self.log = log;
        self.see_met_noted().await;
        self.limited(limits_error);
        let (files, log_error) =
            files.map_or_else(|error| (None, Some(error)), |NewFiles { files, flaw }| (Some(files), flaw));
        match &files {
            Some(_) => self.log_is(log_error.as_deref()),
            None => self.logged(log_error.as_ref()),
        }
        let for_packages = if launch.packages.is_empty() { Duration::ZERO } else { launch.packages_timeout };
        launcher.limit = Some(self.to_start() + for_packages);
        let engine = launch.sandbox.as_ref().and_then(|sandbox| sandbox.program.as_ref());
        self.engine = engine.map(|program| program.display().to_string());
        self.packages = launch.packages.iter().map(ToString::to_string).collect();
        if self.wanted != Wanted::Running {
            launcher.say(&ToLauncher::Unwanted).await;
            launcher.has_ended();
            self.not_started(NotStarted::Retry(STOPPED_BEFORE.to_owned()));
            return Some(launcher);
        }
        let mut environment = launch.environment.clone();
        environment.extend([self.seat.containment.mark(&self.name.key())]);
        let order = ToLauncher::Launch {
            arguments: launch.arguments.clone(),
            environment,
            workdir: SecretBytes::from(launch.workdir.as_os_str().as_bytes().to_vec()),
            fingerprint: launch.fingerprint.clone(),
            secrets: launch.secrets.clone(),
            kept_size: files.is_some().then(|| self.resources.log_files.size()),
            login_patience: Some(self.resources.login_patience),
            umask: launch.umask,
            trust_repository: launch.trust_repository,
            sandbox: launch.sandbox.clone().map(Box::new),
            packages: launch.packages.clone(),
            secret_files: launch.has_secret_files,
            skills: (!launch.skills.is_empty()).then(|| {
                Box::new(Taught {
                    skills: launch.skills.clone(),
                    folder: launch.skills_dir.clone(),
                    is_own_user: launch.user.is_some(),
                    prompt: launch.prompt,
                })
            }),
            packages_timeout: (!launch.packages.is_empty()).then_some(launch.packages_timeout),
            session: self.plan.take().zip(launch.session_words.as_deref()).map(|(plan, words)| {
                let SessionWords { new, resume, proof, scope: _ } = words.clone();
                Box::new(SessionOrder { plan, new, resume, proof })
            }),
            stream: launch.stream,
            hooks: launch.hooks,
            asking: launch.asking.clone().map(Box::new),
            reports: true,
        };
        // One that does not listen is one that does not start anything in time.
        launcher.order(&order, files.as_ref()).await;
        Some(launcher)
    }

    /// Waits until the launcher is on record, for a bounded time.
    async fn see_met_noted(&mut self) {
        let limit = Instant::now() + RECORD_TIMEOUT;
        while !self.is_met_noted {
            match tokio::time::timeout_at(limit, self.commands.recv()).await {
                Ok(Some(command)) => self.remember(command),
                Ok(None) | Err(_) => return,
            }
        }
    }

    async fn renew_by(&mut self, secrets: BTreeMap<String, SecretBytes>, launcher: &mut Launcher) {
        self.renewed = Some(secrets);
        self.renew(launcher).await;
    }

    /// Tells a launcher that can replace files what the agent's secrets are by now.
    async fn renew(&self, launcher: &mut Launcher) {
        if let Some(secrets) = self.renewed.as_ref().filter(|_| launcher.can_renew) {
            launcher.say(&ToLauncher::Renew { secrets: secrets.clone() }).await;
        }
    }

    /// When a harness must have been started.
    fn to_start(&self) -> Instant {
        Instant::now() + self.resources.login_patience + START_TIMEOUT
    }

    /// To make files while what comes is taken in.
    fn keep_later(&mut self) -> LogKeeper {
        let other = self.log.another();
        std::mem::replace(&mut self.log, other)
    }

    /// Something was found out about the files that the launcher writes to.
    async fn look_into(&mut self, launcher: &mut Launcher, finding: guard::Finding) {
        match finding {
            // One that has yet to start its harness takes in nothing else, and one that has ended it nothing more. It is found out
            // again soon.
            guard::Finding::Moved if launcher.heard != Reported::Started => {}
            guard::Finding::Moved if launcher.can_move => {
                let Some(made) = self.log.make_again().await else { return };
                tracing::warn!(agent = %self.name, "its log was moved or removed; it goes on in another file");
                self.move_log(launcher, made).await;
            }
            guard::Finding::Moved => self.flawed("its log was moved or removed, and its launcher, of an earlier agentd, goes on writing to it; what it prints is kept again from its next attempt on"),
            guard::Finding::Excess { occupied, count } => {
                let (taken, is_too_often) = self.log.excess(occupied, count);
                self.flawed(&taken);
                if is_too_often && self.condemned.is_none() {
                    self.condemned = Some(format!("it was ended, because {taken} {count} times"));
                    launcher.kill().await;
                }
            }
        }
    }

    /// Has the launcher go on in these files.
    async fn move_log(&mut self, launcher: &mut Launcher, made: Result<NewFiles, String>) {
        match made {
            Ok(NewFiles { files, flaw }) => {
                launcher.order(&ToLauncher::Keep { kept_size: self.resources.log_files.size() }, Some(&files)).await;
                self.log.was_moved();
                self.flaw.clear();
                self.log_is(flaw.as_deref());
            }
            Err(error) => self.flawed(&error),
        }
    }

    /// Says what is wrong with its log, if that is something else than before.
    fn flawed(&mut self, error: &str) {
        if self.flaw != error {
            error.clone_into(&mut self.flaw);
            self.log_is(Some(error));
        }
    }

    /// It is kept, but this is wrong with it.
    fn log_is(&self, flaw: Option<&str>) {
        if let Some(flaw) = flaw {
            tracing::warn!(agent = %self.name, "{flaw}");
        }
        (self.tell)(machine::Event::Logged { attempt: self.attempt, error: flaw.map(str::to_owned) });
    }

    fn launcher(&self, visitor: UnverifiedLauncher, end: Readable) -> Launcher {
        if visitor.version != WIRE_VERSION {
            let version = visitor.version;
            tracing::warn!(agent = %self.name, "its launcher speaks version {version}, this daemon {WIRE_VERSION}");
        }
        let process = Arc::new(visitor.process);
        Launcher {
            tree: self.seat.containment.tree(&self.name.key(), Arc::clone(&process)),
            process,
            end,
            connection: Some((visitor.reader, visitor.writer)),
            can_move: visitor.can_move,
            can_renew: visitor.can_renew,
            talk: Talk::default(),
            account: Talk::default(),
            heard: Reported::Nothing,
            harness: None,
            is_interrupted: false,
            limit: Some(self.to_start()),
            kill_deadline: None,
            note_by: None,
        }
    }

    /// Follows the launcher to its end, and kills what is left then.
    #[allow(clippy::too_many_lines, reason = "it is one select")]
    async fn follow(&mut self, mut launcher: Launcher) {
        for visitor in std::mem::take(&mut self.visitors) {
            self.turn_away(visitor);
        }
        let mut limiting = self.limits.take().map(|limits| limit(&launcher.tree, limits)).unwrap_or_default();
        let (mut lacks_told, mut building_told, mut took_told) = (false, false, false);
        let mut pace = approval::Pace::default();
        let mut alive = true;
        while launcher.connection.is_some() || alive {
            if launcher.heard != Reported::Nothing {
                self.turn = None;
            }
            let patience = launcher.patience();
            // Nothing is lost by cancelling an arm: the reader keeps what has arrived, and the others only wait.
            tokio::select! {
                message = read(&mut launcher.connection) => match message {
                    Ok(Some(FromLauncher::Building)) if launcher.heard == Reported::Nothing && !std::mem::replace(&mut building_told, true) => {
                        // Others start meanwhile: this may take long.
                        self.turn = None;
                        (self.tell)(machine::Event::Building { attempt: self.attempt });
                    }
                    Ok(Some(FromLauncher::Started(harness))) if launcher.heard == Reported::Nothing => {
                        self.hear_progress(&mut launcher, Progress::Running(harness)).await;
                    }
                    Ok(Some(FromLauncher::Failed(failure))) if launcher.heard == Reported::Nothing => {
                        self.hear_progress(&mut launcher, Progress::Failed(failure)).await;
                    }
                    Ok(Some(FromLauncher::Ended(end))) if launcher.heard == Reported::Started => {
                        launcher.has_ended();
                        let usage = end.usage_beside(launcher.tree.usage().await);
                        // How it died of that is no more than that.
                        let evidence = self.evidence(end.tail).await;
                        let said = self.how(end.how).await;
                        let how = self.condemned.take().map_or(said, ExitStatus::Cause);
                        self.ended_because(how, Some(Timestamp::now().back_to(end.at)), usage, evidence);
                    }
                    Ok(Some(FromLauncher::Took(taken))) if launcher.heard == Reported::Nothing && !std::mem::replace(&mut took_told, true) => {
                        (self.tell)(machine::Event::Took { attempt: self.attempt, taken });
                    }
                    Ok(Some(FromLauncher::Environment(error))) if !std::mem::replace(&mut lacks_told, true) => {
                        let error = self.words(&error).await;
                        tracing::warn!(agent = %self.name, "{error}");
                        (self.tell)(machine::Event::Environment { attempt: self.attempt, error });
                    }
                    Ok(Some(FromLauncher::Ask(ask))) if launcher.heard == Reported::Started => {
                        let may_ask = pace.may_ask(Timestamp::now());
                        self.hear_question(&mut launcher, *ask, may_ask).await;
                    }
                    Ok(Some(FromLauncher::AskOver { number, end })) => {
                        (self.tell)(machine::Event::AskOver { attempt: self.attempt, number, end });
                    }
                    Ok(Some(message)) if launcher.heard == Reported::Started && is_news(&message) => {
                        if launcher.talk.pass(MOST_NEWS, Instant::now())
                            && let Some(news) = self.news(message).await
                        {
                            (self.tell)(machine::Event::Activity { attempt: self.attempt, news });
                        }
                    }
                    // It had said more before it heard that its harness had ended.
                    Ok(Some(message)) if is_news(&message) => {}
                    Ok(Some(message)) if is_account(&message) && !launcher.account.pass(MOST_ACCOUNTS, Instant::now()) => {}
                    Ok(Some(other)) => self.hear(other).await,
                    Ok(None) | Err(_) => launcher.lose_connection(if alive { REPORT_TIMEOUT } else { END_TIMEOUT }),
                },
                command = self.commands.recv() => match command {
                    // One that does not listen is killed at the deadline.
                    Some(Command::Interrupt) => launcher.interrupt(&ToLauncher::Interrupt).await,
                    Some(Command::InterruptAgain) => launcher.interrupt(&ToLauncher::InterruptAgain).await,
                    Some(Command::Kill) => launcher.kill().await,
                    Some(Command::EndNoted) => launcher.let_go().await,
                    Some(Command::Limit(limits)) => limiting = limit(&launcher.tree, *limits),
                    Some(Command::Answer(told)) => answer(&mut launcher, *told).await,
                    Some(Command::MetNoted) => {}
                    Some(Command::Renew(secrets)) => self.renew_by(secrets, &mut launcher).await,
                    Some(Command::Visitor(visitor)) if visitor.process.identity() == launcher.process.identity() => {
                        launcher.connection = Some((visitor.reader, visitor.writer));
                        self.hear_conversation(visitor.conversation);
                        self.hear_told(visitor.told).await;
                        self.hear_progress(&mut launcher, visitor.progress).await;
                        // It may not have heard what was said on the connection before.
                        self.renew(&mut launcher).await;
                        if let Some(files) = self.log.unheard_of(visitor.log).filter(|_| visitor.can_move) {
                            launcher.order(&ToLauncher::Keep { kept_size: self.resources.log_files.size() }, Some(&files)).await;
                        }
                        if visitor.can_report && launcher.heard == Reported::Started {
                            launcher.say(&ToLauncher::Report).await;
                        }
                        if launcher.is_interrupted {
                            // The connection may have been lost before it was heard.
                            launcher.interrupt(&ToLauncher::Interrupt).await;
                        }
                    }
                    Some(Command::Visitor(visitor)) => self.turn_away(*visitor),
                    // The daemon is ending, and the agent goes on without it.
                    None => return,
                },
                // Fails only with the runtime.
                _ = launcher.end.readable(), if alive => {
                    alive = false;
                    // What it has said is still to be read; only somebody else holding its socket open could delay that.
                    launcher.limit = Some(Instant::now() + END_TIMEOUT);
                }
                Some(Ok(error)) = limiting.join_next() => self.limited(error),
                finding = self.log.found() => self.look_into(&mut launcher, finding).await,
                () = at(launcher.note_by) => launcher.let_go().await,
                () = at(patience) => {
                    if !alive {
                        break;
                    }
                    launcher.tree.kill().await;
                    if let Err(error) = launcher.process.kill() {
                        tracing::error!(agent = %self.name, "failed to kill its launcher: {error}");
                    }
                    launcher.kill_deadline = Some(Instant::now() + END_TIMEOUT);
                    launcher.limit = None;
                }
            }
        }
        self.see_noticed(launcher.process.identity());
        let usage = launcher.tree.usage().await;
        self.see_cleared(launcher.tree.clear(launcher.harness).await);
        match launcher.heard {
            Reported::Nothing => {
                let why = match usage.oom_kills {
                    _ if self.condemned.is_some() => self.condemned.as_deref().unwrap_or_default(),
                    0 => "its launcher ended before it had started anything",
                    _ => "the kernel killed it for lack of memory before it had started; allow it more `memory`",
                };
                self.not_started(NotStarted::Retry(why.to_owned()));
            }
            Reported::Started => {
                let cause = self.condemned.take().unwrap_or_else(|| "its launcher was killed".to_owned());
                self.ended(ExitStatus::Cause(cause), None, usage);
            }
            Reported::End => {}
        }
    }

    /// It asks something: too often, or as it may.
    async fn hear_question(&self, launcher: &mut Launcher, ask: Ask, may_ask: bool) {
        if may_ask {
            let question = Box::new(self.question(ask).await);
            return (self.tell)(machine::Event::Asked { attempt: self.attempt, question });
        }
        let why = "agentd denied this, because questions come too fast".to_owned();
        answer(launcher, approval::Told { number: ask.number, allow: false, why }).await;
    }

    /// What it asks, in words that can be shown.
    async fn question(&self, ask: Ask) -> Question {
        let Ask { number, tool, command, cut, asked, timeout } = ask;
        let now = Timestamp::now();
        let redacted = self.redactor().await.map_or_else(|| UNASKED.to_owned(), |redactor| redactor.redact(&command));
        let shown = beginning(&printable(&redacted), MOST_OF_COMMAND);
        let is_cut = cut || shown.len() < redacted.len();
        let tool = shortened(&self.words(&tool).await, MOST_OF_TOOL);
        Question { number, tool, command: shown, is_cut, asked: now.back_to(asked.max(self.earliest)), timeout }
    }

    /// What a harness says while it works, or a warning.
    async fn hear(&mut self, message: FromLauncher) {
        match message {
            FromLauncher::Held(held) => self.hear_held(held).await,
            FromLauncher::Unheld => self.hear_unheld(),
            FromLauncher::Conversation(id) => self.converses(&id),
            FromLauncher::Spent(spent) => self.spent(spent),
            FromLauncher::Result(result) => self.hear_result(*result).await,
            other => self.hear_warning(other).await,
        }
    }

    /// What a launcher says of what its harness does.
    async fn news(&self, message: FromLauncher) -> Option<News> {
        match message {
            FromLauncher::Activity { doing, detail, source } => {
                let detail = match detail {
                    Some(detail) => self.redacted(&detail).await.map(|detail| short(&detail)),
                    None => None,
                };
                Some(News::Said(Statement { doing, detail, source }))
            }
            FromLauncher::Quiet => {
                let now = Timestamp::now();
                Some(News::Quiet { printed: now.back_to(now.boot().saturating_sub(QUIET)) })
            }
            FromLauncher::Printing => Some(News::Printed),
            FromLauncher::HooksUnheard => Some(News::Unheard),
            _ => None,
        }
    }

    /// A warning of the launcher, or something that it says out of turn.
    async fn hear_warning(&mut self, message: FromLauncher) {
        if matches!(message, FromLauncher::LogLost(_)) {
            self.log.lost();
        }
        // The launcher is the agent user's, and must not be able to fill the log.
        if let Some(count) = self.brakes.talk.pass() {
            let said = match message {
                FromLauncher::Warning(text) => self.words(&text).await,
                FromLauncher::LogLost(error) => {
                    format!("what it prints cannot be written to its log: {}", self.words(&error).await)
                }
                _ => "something out of turn".to_owned(),
            };
            tracing::warn!(agent = %self.name, "its launcher says ({count} so far): {said}");
        }
    }

    /// Somebody who is not the launcher that is followed. One that says to have launched the agent, too, is ended: it is the agent
    /// user's, and there must not be two.
    ///
    /// Never waits, because anybody of the agent user can come here any number of times, and a stop of the agent may be next in line.
    fn turn_away(&self, visitor: UnverifiedLauncher) {
        if !visitor.has_launched() {
            return visitor.send_away();
        }
        // The rest of it is dropped on return: its connection closes, and its slot at the launch socket is free for others.
        let UnverifiedLauncher { process, .. } = visitor;
        self.warn_of_posing(&process);
        let name = self.name.clone();
        let kill = move |process: &Process| {
            if let Err(error) = process.kill() {
                tracing::error!(agent = %name, "failed to kill it: {error}");
            }
        };
        // Slots are few, because each clearing takes a thread. One that finds none is ended all the same, alone: what descended from
        // it then belongs to whatever adopts it, and ends with the agent in whose tree or control group that is.
        let Ok(slot) = Arc::clone(&self.resources.clearings).try_acquire_owned() else { return kill(&process) };
        let (containment, process) = (Arc::clone(&self.seat.containment), Arc::new(process));
        tokio::spawn(async move {
            // Before the process itself: its descendants are found below it only as long as it lives.
            if let Err(error) = containment.kill_below(Arc::clone(&process)).await {
                tracing::debug!(pid = process.pid(), "{error}");
            }
            kill(&process);
            drop(slot);
        });
    }

    /// Sees to it, beside everything else, that tmux notices the end of a launcher.
    fn see_noticed(&self, launcher: Identity) {
        let seat = Arc::clone(&self.seat);
        tokio::spawn(async move { seat.sessions.see_noticed(launcher).await });
    }

    /// What could not be killed is seen to before the next attempt.
    fn see_cleared(&self, cleared: Result<(), tree::Error>) {
        if let Err(error) = cleared {
            tracing::error!(agent = %self.name, "something of it may be left: {error}");
        }
    }
}

/// Passes on an answer.
async fn answer(launcher: &mut Launcher, approval::Told { number, allow, why }: approval::Told) {
    launcher.say(&ToLauncher::Answer { number, allow, why }).await;
}

/// Why a launcher of another version is not sent its work: it may not understand what matters of it.
fn of_another_version(program: &str, version: u32) -> String {
    format!(
        "{program} speaks version {version} of what launcher and daemon say to each other, and this daemon {WIRE_VERSION}; \
         if agentd was upgraded, restart it, else install both programs of one build"
    )
}

/// Changes the limits beside everything else. A change still under way is dropped with its set.
fn limit(tree: &Arc<dyn ProcessTree>, limits: Limits) -> JoinSet<Option<String>> {
    let tree = Arc::clone(tree);
    let mut limiting = JoinSet::new();
    limiting.spawn(async move { tree.limit(&limits).await });
    limiting
}

/// How a launcher that was not started here is known to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provenance {
    OnRecord,
    /// It is where a launcher should be, and says so.
    ByPane,
}

/// Whether a process is of the agent that it says it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Proven,
    Refuted,
    /// It could not be found out.
    Unknown,
}

/// Who was met.
#[derive(Debug)]
enum Met {
    /// The launcher in the pane that was just opened.
    New(UnverifiedLauncher),
    /// One that an earlier daemon had started.
    Survivor(UnverifiedLauncher),
}

/// Said again only when it is something else.
#[derive(Debug, Default)]
struct Complaint(OnChange);

impl Complaint {
    fn make(&mut self, name: &Name, text: &str) {
        if self.0.pass(text) {
            tracing::warn!(agent = %name, "{text}; trying again");
        }
    }
}

/// Whether the end of a process has been taken in by its parent, as far as that can be found out.
fn is_waited_for(ended: Identity) -> bool {
    matches!(ended.unwaited_for_by(), Ok(None))
}

/// Whether it is about what the harness does.
fn is_news(message: &FromLauncher) -> bool {
    matches!(
        message,
        FromLauncher::Activity { .. } | FromLauncher::Quiet | FromLauncher::Printing | FromLauncher::HooksUnheard
    )
}

/// Whether it is about the work of the harness, and what that costs.
fn is_account(message: &FromLauncher) -> bool {
    matches!(
        message,
        FromLauncher::Held(_)
            | FromLauncher::Unheld
            | FromLauncher::Conversation(_)
            | FromLauncher::Spent(_)
            | FromLauncher::Result(_)
    )
}

/// Waits until then; forever if there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn read(
    connection: &mut Option<(frame::Reader<OwnedReadHalf>, OwnedWriteHalf)>,
) -> Result<Option<FromLauncher>, frame::Error> {
    match connection {
        Some((reader, _)) => reader.read().await,
        None => std::future::pending().await,
    }
}

/// The instant at which the wall clock showed this, as far as that can be told now.
fn before_now(wall: SystemTime) -> Timestamp {
    let now = Timestamp::now();
    let ago = now.wall().duration_since(wall).unwrap_or_default();
    now.back_to(now.boot().saturating_sub(ago))
}

/// Whether a launcher can have started the process that it says it has. Of one that was killed since, nobody knows; its end
/// follows, and is that of an attempt that was made.
fn is_plausible(launcher: &Process, harness: i32) -> bool {
    machine::is_id_of_harness(harness) && (launcher.is_plausibly_below(harness) || !launcher.lives().unwrap_or(true))
}

/// What a launcher says of the harness that it has started.
fn started(attempt: machine::Attempt, Harness { pid, at }: Harness, now: Timestamp) -> machine::Event {
    machine::Event::Started { attempt, pid, at: now.back_to(at) }
}

/// What it says of how that has ended, in words that can be shown.
fn said(ending: Ending, words: impl FnOnce(&str) -> String) -> ExitStatus {
    match ending {
        Ending::Code(code) => ExitStatus::of_code(code),
        Ending::Signal(number) => ExitStatus::of_signal(number),
        Ending::Cause(cause) => ExitStatus::Cause(words(&cause)),
    }
}

/// What a failure to start is, in these words.
fn blame(failure: &Failure, message: String) -> NotStarted {
    match failure.errno.map(Errno::from_raw) {
        _ if failure.missing => NotStarted::Retry(message),
        // The machine is short of something.
        Some(Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::ENOSPC | Errno::EIO) => {
            NotStarted::Retry(message)
        }
        _ => NotStarted::Failed(message),
    }
}

/// A program that was not found, in words that can be shown, and no more of them than a person reads. The launcher chose them.
fn not_found(name: &str, path: Option<&str>, user: String) -> MissingProgram {
    const MOST_OF_NAME: usize = 200;
    const MOST: usize = 600;
    // A part of a remedy would be none.
    let hint = program::hint(name).filter(|hint| hint.chars().count() <= MOST);
    let path = path.map(|path| shortened(path, MOST));
    MissingProgram { name: shortened(name, MOST_OF_NAME), user, path, hint }
}

/// A proxy that cannot be reached, in words that can be shown, and no more of them than a person reads.
fn unreached(path: &str, detail: &str) -> MissingProxy {
    MissingProxy { path: shortened(path, MOST_OF_DETAIL), detail: shortened(detail, MOST_OF_DETAIL) }
}

/// The beginning of a text that is longer.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Without control characters other than tabs and the ends of lines.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { ' ' } else { c }).collect()
}

/// A time in seconds since 1970.
fn at_wall(seconds: u64) -> Timestamp {
    Timestamp::now().at_wall(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// The hold that a rule of this meaning begins.
fn kind_of(meaning: Meaning) -> Option<HoldKind> {
    match meaning {
        Meaning::Login => Some(HoldKind::Login),
        Meaning::Quota => Some(HoldKind::Quota),
        Meaning::Blocked | Meaning::Idle => None,
    }
}

/// As one line, and no longer than a person reads.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(2000).collect()
}

/// What the machine is told when a launcher says this, in its turn or not.
#[cfg(fuzzing)]
pub fn told(message: FromLauncher, attempt: machine::Attempt, now: Timestamp) -> Vec<machine::Event> {
    let failed = |failure: &Failure| {
        let why = match failure.program.clone() {
            Some(program) => {
                let path = program.path.as_deref().map(plain);
                NotStarted::NotFound(not_found(&plain(&program.name), path.as_deref(), "agent".to_owned()))
            }
            None if failure.packages => {
                let detail = shortened(&plain(&failure.message), MOST_OF_DETAIL);
                NotStarted::Unbuilt(MissingPackages { names: Vec::new(), detail })
            }
            None => match &failure.proxy {
                Some(path) => NotStarted::Unreached(unreached(&plain(path), &plain(&failure.message))),
                None => blame(failure, plain(&failure.message)),
            },
        };
        vec![machine::Event::NotStarted { attempt, why }]
    };
    let ended = |crate::launch::protocol::End { how, at, .. }| {
        let how = said(how, plain);
        machine::Event::Ended {
            attempt,
            how,
            at: now.back_to(at),
            usage: Usage::default(),
            result: None,
            evidence: None,
        }
    };
    match message {
        FromLauncher::Hello { progress, fingerprint, .. } => {
            let found = machine::Event::Found { attempt, fingerprint };
            let came = match progress {
                Progress::New => Vec::new(),
                Progress::Running(harness) => vec![started(attempt, harness, now)],
                Progress::Failed(failure) => failed(&failure),
                Progress::Ended { harness, end } => vec![started(attempt, harness, now), ended(end)],
            };
            std::iter::once(found).chain(came).collect()
        }
        FromLauncher::Warning(_)
        | FromLauncher::LogLost(_)
        | FromLauncher::Conversation(_)
        | FromLauncher::Held(_)
        | FromLauncher::Unheld
        | FromLauncher::Result(_) => Vec::new(),
        FromLauncher::Spent(Spent { cost_usd, tokens }) => {
            vec![machine::Event::Spent { attempt, cost_usd, tokens, conversation: None }]
        }
        FromLauncher::Building => vec![machine::Event::Building { attempt }],
        FromLauncher::Started(harness) => vec![started(attempt, harness, now)],
        FromLauncher::Failed(failure) => failed(&failure),
        FromLauncher::Ended(end) => vec![ended(end)],
        FromLauncher::Ask(ask) => {
            let Ask { number, tool, command, cut: is_cut, asked, timeout } = *ask;
            let asked = now.back_to(asked);
            let question =
                Question { number, tool: plain(&tool), command: printable(&command), is_cut, asked, timeout };
            vec![machine::Event::Asked { attempt, question: Box::new(question) }]
        }
        FromLauncher::AskOver { number, end } => vec![machine::Event::AskOver { attempt, number, end }],
        FromLauncher::Environment(error) => vec![machine::Event::Environment { attempt, error: plain(&error) }],
        FromLauncher::Activity { doing, detail, source } => {
            let detail = detail.map(|detail| short(&plain(&detail)));
            vec![machine::Event::Activity { attempt, news: News::Said(Statement { doing, detail, source }) }]
        }
        FromLauncher::Quiet => vec![machine::Event::Activity { attempt, news: News::Quiet { printed: now } }],
        FromLauncher::Printing => vec![machine::Event::Activity { attempt, news: News::Printed }],
        FromLauncher::HooksUnheard => vec![machine::Event::Activity { attempt, news: News::Unheard }],
        FromLauncher::Took(taken) => vec![machine::Event::Took { attempt, taken }],
    }
}
