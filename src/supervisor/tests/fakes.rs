//! Sessions, containment, log files and launchers in memory, for unit tests of the supervisor and its attempts.
//!
//! Time stands still but for what a test [lets pass](pass): nothing here ever waits, so the runtime is never idle and moves no clock.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::agent::harness::rule::{Finding, Rule};
use crate::agent::machine::Numbers;
use crate::agent::name::{Key, Name};
use crate::agent::spec::Limits;
use crate::contain::cgroup::{self, Cgroups, Whose};
use crate::contain::tree;
use crate::launch::listener::UnverifiedLauncher;
use crate::launch::protocol::{
    End, Ending, FromLauncher, Harness, Log, MAX_FROM_LAUNCHER, MAX_TO_LAUNCHER, Progress, ToLauncher, WIRE_VERSION,
};
use crate::logs::attempt::{AttemptId, Files, Live};
use crate::logs::guard::{self, Watch};
use crate::logs::store;
use crate::observe::snapshot::{Parts, Snapshot};
use crate::supervisor::containment::{Containment, ProcessTree};
use crate::supervisor::future::BoxFuture;
use crate::supervisor::log_files::{LogFiles, Made, NotFound};
use crate::supervisor::pacing::Pace;
use crate::supervisor::resources::{CLEARINGS, Programs, Resources, Seat, Seats};
use crate::supervisor::sessions::Sessions;
use crate::sys::clock::Timestamp;
use crate::sys::file_id::FileId;
use crate::sys::frame;
use crate::sys::process::{Identity, Process};
use crate::sys::secret_bytes::SecretBytes;
use crate::tmux::{Error, Pane, PaneEnd, Reading};
use crate::wire::status::{Errors, Usage};

/// How many bytes of each attempt are kept.
pub const SIZE: u64 = 1 << 20;

/// A process id that no process can have (`pid_max` in `proc(5)`): its process has ended.
pub const ENDED_PID: i32 = i32::MAX;

pub const LOGIN_PATIENCE: Duration = Duration::from_secs(30);

/// How long a test waits for a thread or for the kernel. It waits for nothing else.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets everything run that can, while no time passes.
pub async fn settle() {
    const ROUNDS: usize = 60;
    for _ in 0..ROUNDS {
        tokio::task::yield_now().await;
    }
}

/// Lets so much time pass, in steps, and everything run that can.
pub async fn pass(time: Duration) {
    const STEP: Duration = Duration::from_millis(250);
    let mut left = time;
    while left > Duration::ZERO {
        let step = left.min(STEP);
        tokio::time::advance(step).await;
        settle().await;
        left -= step;
    }
}

/// Lets everything run until that is so, while no time passes: for what a thread or the kernel does meanwhile.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not so in time: {what}");
        std::thread::yield_now();
        settle().await;
    }
    settle().await;
}

/// What a call answers: nothing yet as long as it is `None`.
#[derive(Debug)]
pub struct Script<T>(watch::Sender<Option<T>>);

impl<T: Clone> Script<T> {
    fn new(answer: T) -> Self {
        Self(watch::Sender::new(Some(answer)))
    }

    pub fn set(&self, answer: T) {
        self.0.send_replace(Some(answer));
    }

    /// Calls hang from now on.
    pub fn hang(&self) {
        self.0.send_replace(None);
    }

    async fn answer(&self) -> T {
        let mut answers = self.0.subscribe();
        let answer = answers.wait_for(Option::is_some).await.unwrap();
        answer.clone().unwrap()
    }
}

/// Why tmux fails.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    NoServer,
    Words(&'static str),
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NoServer => Self::NoServer { socket: "/no/where".into(), message: "nobody".to_owned() },
            Trouble::Words(words) => Self::Unknown(words.to_owned()),
        }
    }
}

/// The calls that were made, in order, each with what matters of it.
#[derive(Debug, Default)]
pub struct Calls(Mutex<Vec<String>>);

impl Calls {
    fn note(&self, call: impl Into<String>) {
        self.0.lock().unwrap().push(call.into());
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// How many calls there were so far that begin like this.
    pub fn count(&self, beginning: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|call| call.starts_with(beginning)).count()
    }
}

#[derive(Debug)]
pub struct FakeSessions {
    pub calls: Calls,
    pub open: Script<Result<i32, Trouble>>,
    pub panes: Script<Result<Vec<Pane>, Trouble>>,
    pub screen: Script<Result<String, Trouble>>,
    pub close: Script<Result<(), Trouble>>,
    pub server: Script<Result<Option<i32>, Trouble>>,
    pub is_given_up: AtomicBool,
    pub is_orphaned: AtomicBool,
}

impl Default for FakeSessions {
    fn default() -> Self {
        Self {
            calls: Calls::default(),
            open: Script::new(Ok(ENDED_PID)),
            panes: Script::new(Ok(Vec::new())),
            screen: Script::new(Ok(String::new())),
            close: Script::new(Ok(())),
            server: Script::new(Ok(None)),
            is_given_up: AtomicBool::new(false),
            is_orphaned: AtomicBool::new(false),
        }
    }
}

impl Sessions for FakeSessions {
    fn open<'a>(
        &'a self,
        owner: &'a Key,
        session: &'a Name,
        _: &'a Path,
        command: &'a [String],
    ) -> BoxFuture<'a, Result<i32, Error>> {
        self.calls.note(format!("open {owner} {session} {}", command.join(" ")));
        Box::pin(async { Ok(self.open.answer().await?) })
    }

    fn panes<'a>(&'a self, owner: &'a Key) -> BoxFuture<'a, Result<Vec<Pane>, Error>> {
        self.calls.note(format!("panes {owner}"));
        Box::pin(async { Ok(self.panes.answer().await?) })
    }

    fn screen<'a>(&'a self, owner: &'a Key) -> BoxFuture<'a, Result<String, Error>> {
        self.calls.note(format!("screen {owner}"));
        Box::pin(async { Ok(self.screen.answer().await?) })
    }

    fn rules(&self, _: Vec<Rule>, _: String) -> BoxFuture<'_, Option<Finding>> {
        Box::pin(async { None })
    }

    fn read_screen<'a>(&'a self, owner: &'a Key, _: &'a [Rule]) -> BoxFuture<'a, Result<Reading, Error>> {
        self.calls.note(format!("read_screen {owner}"));
        Box::pin(async { Ok(Reading::default()) })
    }

    fn offer_shell<'a>(&'a self, owner: &'a Key) -> BoxFuture<'a, Result<(), Error>> {
        self.calls.note(format!("offer_shell {owner}"));
        Box::pin(async { Ok(()) })
    }

    fn close<'a>(&'a self, owner: &'a Key) -> BoxFuture<'a, Result<(), Arc<Error>>> {
        self.calls.note(format!("close {owner}"));
        Box::pin(async { self.close.answer().await.map_err(|trouble| Arc::new(trouble.into())) })
    }

    fn is_orphaned(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(self.is_orphaned.load(Ordering::Relaxed)))
    }

    fn end_orphan(&self) -> BoxFuture<'_, io::Result<()>> {
        self.calls.note("end_orphan");
        Box::pin(std::future::ready(Ok(())))
    }

    fn server_pid(&self) -> BoxFuture<'_, Result<Option<i32>, Error>> {
        Box::pin(async { Ok(self.server.answer().await?) })
    }

    fn see_noticed(&self, _: Identity) -> BoxFuture<'_, ()> {
        self.calls.note("see_noticed");
        Box::pin(async {})
    }

    fn hurry(&self) {
        self.calls.note("hurry");
    }

    fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }
}

/// What control groups say of every process.
#[derive(Clone, Copy, Debug)]
pub enum Groups {
    NotHere,
    /// It cannot be found out.
    Unreadable,
    Of(Whose),
}

/// Containment of nothing. It kills nothing, either: launchers are processes of their tests.
#[derive(Debug)]
pub struct FakeContainment {
    pub calls: Calls,
    pub prepare: Script<Result<(), &'static str>>,
    pub whose: Mutex<Groups>,
    pub contain: Script<Option<String>>,
    pub limit: Script<Option<String>>,
    pub clear: Script<Result<(), &'static str>>,
    /// Of what descends from false launchers.
    pub kill_below: Script<()>,
    pub usage: Mutex<Usage>,
}

impl Default for FakeContainment {
    fn default() -> Self {
        Self {
            calls: Calls::default(),
            prepare: Script::new(Ok(())),
            whose: Mutex::new(Groups::NotHere),
            contain: Script::new(None),
            limit: Script::new(None),
            clear: Script::new(Ok(())),
            kill_below: Script::new(()),
            usage: Mutex::default(),
        }
    }
}

fn failed(words: &str) -> tree::Error {
    tree::Error::Thread(io::Error::other(words.to_owned()))
}

#[derive(Debug)]
pub struct Contained(Arc<FakeContainment>);

impl Containment for Contained {
    fn prepare<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), tree::Error>> {
        self.0.calls.note(format!("prepare {key}"));
        Box::pin(async { self.0.prepare.answer().await.map_err(failed) })
    }

    fn clear_after<'a>(&'a self, key: &'a Key, _: Option<Identity>) -> BoxFuture<'a, Result<(), tree::Error>> {
        self.0.calls.note(format!("clear_after {key}"));
        Box::pin(async { self.0.clear.answer().await.map_err(failed) })
    }

    fn whose(&self, _: &Key, process: &Process) -> Option<Result<Whose, cgroup::Error>> {
        match *self.0.whose.lock().unwrap() {
            Groups::NotHere => None,
            Groups::Unreadable => Some(Err(cgroup::Error::Ended(process.pid()))),
            Groups::Of(whose) => Some(Ok(whose)),
        }
    }

    fn mark(&self, key: &Key) -> (String, SecretBytes) {
        ("MARK".to_owned(), SecretBytes::from(key.as_str()))
    }

    fn tree(&self, _: &Key, _: Arc<Process>) -> Arc<dyn ProcessTree> {
        Arc::new(Self(Arc::clone(&self.0)))
    }

    fn kill_below(&self, _: Arc<Process>) -> BoxFuture<'_, io::Result<()>> {
        self.0.calls.note("below");
        Box::pin(async {
            self.0.kill_below.answer().await;
            Ok(())
        })
    }

    fn groups(&self) -> Option<Arc<Cgroups>> {
        None
    }

    fn groups_error(&self) -> Option<String> {
        None
    }
}

impl ProcessTree for Contained {
    fn contain<'a>(&'a self, limits: &'a Limits) -> BoxFuture<'a, Option<String>> {
        self.0.calls.note(format!("contain {:?}", limits.memory));
        Box::pin(self.0.contain.answer())
    }

    fn limit<'a>(&'a self, limits: &'a Limits) -> BoxFuture<'a, Option<String>> {
        self.0.calls.note(format!("limit {:?}", limits.memory));
        Box::pin(self.0.limit.answer())
    }

    fn usage(&self) -> BoxFuture<'_, Usage> {
        let usage = *self.0.usage.lock().unwrap();
        Box::pin(std::future::ready(usage))
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        self.0.calls.note("kill");
        Box::pin(async {})
    }

    fn clear(&self, _: Option<Identity>) -> BoxFuture<'_, Result<(), tree::Error>> {
        self.0.calls.note("clear");
        Box::pin(async { self.0.clear.answer().await.map_err(failed) })
    }
}

/// Files without a name.
#[derive(Debug)]
pub struct FakeLogFiles {
    pub calls: Calls,
    /// With what flaw they are made, or why not.
    pub make: Script<Result<Option<String>, String>>,
    /// Whether there are any of an earlier daemon's.
    pub find: Script<Result<bool, NotFound>>,
    /// Where findings about the files that were made come from, the latest last.
    pub findings: Mutex<Vec<mpsc::UnboundedSender<guard::Finding>>>,
    /// Which file the latest text is.
    pub latest: Mutex<Option<FileId>>,
}

impl Default for FakeLogFiles {
    fn default() -> Self {
        Self {
            calls: Calls::default(),
            make: Script::new(Ok(None)),
            find: Script::new(Ok(false)),
            findings: Mutex::default(),
            latest: Mutex::default(),
        }
    }
}

impl FakeLogFiles {
    /// Has the guard find this about the files that were made last.
    pub fn report(&self, finding: guard::Finding) {
        self.findings.lock().unwrap().last().unwrap().send(finding).unwrap();
    }

    fn files(&self, agent: &Name, attempt: u64) -> (Files, Watch) {
        let [text, index] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        *self.latest.lock().unwrap() = Some(FileId::of(&text).unwrap());
        let kept = AttemptId { sequence: 1, attempt };
        let files = Files { text: text.into(), index: index.into(), kept, can_shrink: true };
        let (findings, watch) = Watch::of_test(Live::of(agent.clone(), &files).unwrap());
        self.findings.lock().unwrap().push(findings);
        (files, watch)
    }
}

impl LogFiles for FakeLogFiles {
    fn size(&self) -> u64 {
        SIZE
    }

    fn make<'a>(&'a self, agent: &'a Name, numbers: Numbers) -> BoxFuture<'a, Result<Made, String>> {
        let number = numbers.attempt;
        self.calls.note(format!("make {agent} {number}"));
        Box::pin(async move {
            let flaw = self.make.answer().await?;
            let (files, watch) = self.files(agent, number);
            Ok(Made { files, watch, flaw })
        })
    }

    fn discard<'a>(&'a self, agent: &'a Name, kept: AttemptId) -> BoxFuture<'a, ()> {
        self.calls.note(format!("discard {agent} {kept}"));
        Box::pin(async {})
    }

    fn find<'a>(&'a self, agent: &'a Name) -> BoxFuture<'a, Result<Option<Watch>, NotFound>> {
        self.calls.note(format!("find {agent}"));
        Box::pin(async move { Ok(self.find.answer().await?.then(|| self.files(agent, 1).1)) })
    }

    fn has_moved(&self) {
        self.calls.note("has_moved");
    }

    fn tidy(&self, held: BTreeSet<Key>) -> BoxFuture<'_, Result<(), store::Error>> {
        self.calls.note(format!("tidy {held:?}"));
        Box::pin(async { Ok(()) })
    }
}

/// All that an attempt uses.
#[derive(Debug)]
pub struct Fakes {
    pub sessions: Arc<FakeSessions>,
    pub containment: Arc<FakeContainment>,
    pub log_files: Arc<FakeLogFiles>,
    /// What keeps launchers from being received.
    pub trouble: watch::Sender<Option<String>>,
    pub snapshots: watch::Sender<Arc<Snapshot>>,
}

impl Default for Fakes {
    fn default() -> Self {
        let parts = Parts { is_read: false, ..Parts::new(Vec::new(), Instant::now(), Errors::default()) };
        Self {
            sessions: Arc::default(),
            containment: Arc::default(),
            log_files: Arc::default(),
            trouble: watch::Sender::new(None),
            snapshots: watch::Sender::new(Arc::new(parts.into())),
        }
    }
}

impl Fakes {
    /// What belongs to a user.
    pub fn seat(&self, name: &str) -> Seat {
        Seat {
            sessions: Arc::<FakeSessions>::clone(&self.sessions),
            launch_socket: "/run/launch.sock".into(),
            trouble: self.trouble.subscribe(),
            user: Uid::current(),
            user_name: name.to_owned(),
            containment: Arc::new(Contained(Arc::clone(&self.containment))),
        }
    }

    pub fn resources(&self) -> Resources {
        Resources {
            seats: Seats::new(Arc::new(self.seat("agent"))),
            programs: Programs { launcher: "/bin/launcher".to_owned(), agentd: "/bin/agentd".to_owned() },
            log_files: Arc::<FakeLogFiles>::clone(&self.log_files),
            pace: Pace::default(),
            clearings: Arc::new(Semaphore::new(CLEARINGS)),
            login_patience: LOGIN_PATIENCE,
            snapshot: self.snapshots.subscribe(),
        }
    }
}

/// A process that does nothing, and the test's end of its connection to the daemon. Ends with the test.
#[derive(Debug)]
pub struct FakeLauncher {
    child: Child,
    connection: Option<(frame::Reader<OwnedReadHalf>, OwnedWriteHalf)>,
    pub version: u32,
    pub log: Option<Log>,
}

impl FakeLauncher {
    pub fn start() -> Self {
        let mut idle = Command::new("sleep");
        let child = idle.arg("infinity").stdin(Stdio::null()).spawn().unwrap();
        Self { child, connection: None, version: WIRE_VERSION, log: None }
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn identity(&self) -> Identity {
        Process::open(self.pid()).unwrap().identity()
    }

    /// A pane in which it runs.
    pub fn pane(&self) -> Pane {
        Pane { pid: self.pid(), end: None }
    }

    /// Connects, in place of any connection before, and says how far it has come.
    pub fn report(&mut self, name: &str, progress: Progress) -> UnverifiedLauncher {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = ours.into_split();
        self.connection = Some((frame::Reader::new(reader, MAX_TO_LAUNCHER), writer));
        let (reader, writer) = theirs.into_split();
        UnverifiedLauncher {
            conversation: None,
            name: name.to_owned(),
            attempt: 1,
            version: self.version,
            fingerprint: None,
            progress,
            can_move: true,
            can_renew: true,
            log: self.log,
            told: crate::launch::protocol::Told::default(),
            can_report: true,
            process: Process::open(self.pid()).unwrap(),
            reader: frame::Reader::new(reader, MAX_FROM_LAUNCHER),
            writer,
            permit: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
        }
    }

    pub async fn say(&mut self, message: FromLauncher) {
        let (_, writer) = self.connection.as_mut().unwrap();
        frame::write(writer, &message).await.unwrap();
        settle().await;
    }

    pub async fn hang_up(&mut self) {
        self.connection = None;
        settle().await;
    }

    /// Everything that it was told since, in a word each, and `closed` if it was hung up on.
    pub async fn heard(&mut self) -> Vec<&'static str> {
        settle().await;
        let (reader, _) = self.connection.as_mut().unwrap();
        let mut heard = Vec::new();
        loop {
            let mut reading = std::pin::pin!(reader.read::<ToLauncher>());
            match std::future::poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await {
                Poll::Pending => return heard,
                Poll::Ready(Ok(Some(message))) => heard.push(in_a_word(&message)),
                Poll::Ready(Ok(None) | Err(_)) => {
                    heard.push("closed");
                    return heard;
                }
            }
        }
    }

    /// It is killed, and its end is taken in.
    pub async fn die(&mut self) {
        self.child.kill().unwrap();
        self.see_end().await;
    }

    /// Waits for the end that somebody else brings about. Its connection ends with it.
    pub async fn see_end(&mut self) {
        let start = Instant::now();
        while self.lives() {
            assert!(start.elapsed() < PATIENCE, "nobody ends it");
            settle().await;
        }
        self.connection = None;
        settle().await;
    }

    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for FakeLauncher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn in_a_word(message: &ToLauncher) -> &'static str {
    match message {
        ToLauncher::Launch { kept_size: Some(_), .. } => "launch",
        ToLauncher::Launch { kept_size: None, .. } => "launch without a log",
        ToLauncher::Keep { .. } => "keep",
        ToLauncher::Renew { .. } => "renew",
        ToLauncher::Report => "report",
        ToLauncher::Interrupt => "interrupt",
        ToLauncher::InterruptAgain => "interrupt again",
        ToLauncher::Answer { .. } => "answer",
        ToLauncher::Noted => "noted",
        ToLauncher::Unwanted => "unwanted",
    }
}

/// A harness that has ended meanwhile, as far as its process id tells.
pub fn harness() -> Harness {
    Harness { pid: ENDED_PID, at: Timestamp::now().boot() }
}

pub fn end(how: Ending) -> End {
    let at = Timestamp::now().boot();
    End { how, at, user_time: Duration::ZERO, system_time: Duration::ZERO, max_rss: 0, printed: None, tail: None }
}

/// A pane in which the process with this id has ended.
pub fn dead_pane(pid: i32, code: Option<i32>) -> Pane {
    Pane { pid, end: Some(PaneEnd { code, signal: None, at: None }) }
}
