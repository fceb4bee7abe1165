//! The daemon: wiring, and the order of start and shutdown.
//!
//! Start: determine the users, take the lock, bind the sockets, then start everything that runs, beginning with what an earlier
//! daemon left in progress. Shutdown: end the agents, in parallel and each within its grace period, unless they are left to the
//! next daemon; the API answers until the last of them is gone; then remove the sockets.

mod seats;
mod signals;

use seats::SeatMaker;
use signals::{Signals, obey};

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::agent::machine::Machine;
use crate::agent::name::{Key, Name};
use crate::agent::user::AgentUser;
use crate::api::{self, Sources};
use crate::contain::server_scope::ServerScope;
use crate::contain::tree::Trees;
use crate::deputy::Deputy;
use crate::inputs::answers::Answers;
use crate::inputs::assemble::DeclarationContext;
use crate::inputs::overrides::Release;
use crate::inputs::users::{Banned, Database, Rules};
use crate::inputs::{Inputs, News, Nudge, overrides};
use crate::launch::socket_dir::{self, LaunchSocketKeeper, Names, SocketDir};
use crate::launch::{listener, program};
use crate::logs::store::Store;
use crate::observe::ring::Ring;
use crate::observe::snapshot::{Parts, Snapshot};
use crate::settings::Settings;
use crate::state::conversations::{self, Conversations, Kept};
use crate::state::history::{self, Histories, History};
use crate::state::lock::{self, Lock};
use crate::state::record::{self, Reading, Record, Recorder, Report};
use crate::supervisor::log_files::StoredLogs;
use crate::supervisor::pacing::Pace;
use crate::supervisor::resources::{CLEARINGS, Programs, Resources, Seats};
use crate::supervisor::{Event, Outlets, Supervisor};
use crate::sys::account::{self, Account};
use crate::sys::blocking;
use crate::sys::fd;
use crate::sys::log;
use crate::sys::memory;
use crate::sys::panics;
use crate::sys::rate_limit::OnChange;
use crate::sys::reaper;
use crate::sys::rlimit;
use crate::sys::systemd::{self, Notifier};
use crate::sys::unix_socket::{self, Address, Bound};
use crate::terminal;
use crate::tmux::desks::Desks;
use crate::tmux::{self, Tmux};
use crate::wire::status::Errors;

/// How long the tmux server may take for its part of the shutdown.
const RELEASE: Duration = Duration::from_secs(3);

/// How long to wait before tmux is asked again for the sessions.
const SESSIONS_RETRY: Duration = Duration::from_secs(5);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent user cannot be determined.
    #[error(transparent)]
    Account(#[from] account::Error),
    /// Root was named as the agent user.
    #[error("agents must not run as root; name an unprivileged user with --user")]
    AgentsAsRoot,
    /// Without root, agents can only run as the daemon's own user.
    #[error("without root agents run as yourself ({0}), not as {1}; leave --user out, or start agentd as root")]
    NotRoot(String, String),
    /// The admin group does not exist.
    #[error("there is no group {0:?}; create it (for example: groupadd --system {0}), or name another with {1}")]
    NoGroup(String, &'static str),
    /// Another daemon runs, or the lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The API's socket cannot be bound.
    #[error(transparent)]
    Socket(#[from] unix_socket::Error),
    /// The key cannot be read or created.
    #[error(transparent)]
    Key(#[from] crate::state::key::Error),
    /// The record cannot be used.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The launcher's program cannot be used.
    #[error(transparent)]
    Launcher(#[from] program::Error),
    /// The folder of the tmux socket cannot be used.
    #[error(transparent)]
    Folder(#[from] socket_dir::Error),
    /// A system operation failed.
    #[error("failed to {operation}: {source}")]
    System {
        /// The operation.
        operation: &'static str,
        /// The reason.
        source: io::Error,
    },
}

/// Runs until SIGTERM or SIGINT has stopped it.
pub fn run(settings: &Settings) -> Result<(), Error> {
    let started = Instant::now();
    let failed = |operation| move |source| Error::System { operation, source };
    panics::end_this_process_logged();
    // The process that started this one may have left any descriptor open, and the agent user's processes inherit from this one.
    fd::hand_down_none();
    rlimit::raise_descriptors();
    memory::keep_private();
    let account = agent_account(settings.user.as_deref())?;
    if !settings.without_effect.is_empty() {
        let flags: Vec<String> = settings.without_effect.iter().map(|flag| format!("--{flag}")).collect();
        let right = "what a sandbox consists of is in a private folder of the attempt; leave it out";
        tracing::warn!("{} has no effect: {right}", flags.join(", "));
    }
    // Checked now, rather than when each agent starts.
    let launcher = program::find(settings.launcher.as_deref())?;
    let settings = &Settings { launcher: Some(launcher), ..settings.clone() };
    let group = group(&settings.admin_group, "--admin-group")?;
    let mut state_errors = Vec::new();
    let lock = match Lock::take(&settings.state_dir) {
        Err(error @ lock::Error::System(_)) => {
            state_errors.push(error.to_string());
            None
        }
        lock => Some(lock?),
    };
    let key = match crate::state::key::Key::of(&settings.state_dir) {
        Err(error) => {
            state_errors.push(error.to_string());
            crate::state::key::Key::ephemeral()?
        }
        key => key?,
    };
    // Before there is a second thread: both change the umask, which belongs to the whole process.
    let passed = systemd::passed_sockets().map_err(failed("take over the sockets that were passed"))?;
    let (api, api_address) = if let Some(passed) = passed.api {
        (passed, None)
    } else {
        let Bound { listener, address } = api::socket::bind(&settings.api_socket, Some(group))?;
        (listener, Some(address))
    };
    let operators = operator_group(settings)?;
    let terminal = terminal_socket(settings, passed.terminal, operators.as_ref().map(|(group, _)| *group));
    unix_socket::check_length(&settings.tmux_socket)?;
    let folder = match SocketDir::of(&settings.tmux_socket, &account, Some(group)) {
        // The agent user caused this, and must not be able to keep the daemon from serving the API and stopping agents.
        Err(error @ socket_dir::Error::Served(_)) => {
            tracing::error!("{error}; no agent can be started");
            None
        }
        folder => Some(folder?),
    };
    let launch_socket = socket_dir::launch_socket_beside(&settings.tmux_socket);
    unix_socket::check_length(&launch_socket)?;
    umask(Mode::from_bits_truncate(0o077));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("start the async runtime"))?;
    let result = runtime.block_on(async {
        let listener = UnixListener::from_std(api).map_err(failed("listen on the API's socket"))?;
        let api = ApiSocket { listener, address: api_address, group };
        let terminal = TerminalSocket { socket: terminal, operators };
        let place = DeclarationContext { file: settings.config.clone(), account, key };
        let store = Store::new(&settings.log_dir, group, settings.log_retention);
        let reception = Reception { folder: folder.as_ref(), group };
        serve(settings, place, reception, store, Doors { api, terminal }, started, state_errors).await
    });
    if let Some(Err(error)) = folder.as_ref().map(SocketDir::remove_launch_socket) {
        tracing::warn!("failed to remove {}: {error}", launch_socket.display());
    }
    // A thread that reads from a hung file system must not delay the end.
    runtime.shutdown_background();
    drop(lock);
    result
}

fn agent_account(user: Option<&str>) -> Result<Account, Error> {
    const DEFAULT: &str = "agent";
    if Uid::effective().is_root() {
        let account = Account::find(user.unwrap_or(DEFAULT))?;
        return if account.uid.is_root() { Err(Error::AgentsAsRoot) } else { Ok(account) };
    }
    let account = Account::current()?;
    match user.filter(|&user| user != account.name) {
        Some(user) => Err(Error::NotRoot(account.name, user.to_owned())),
        None => Ok(account),
    }
}

/// The named group as root, otherwise the user's own.
fn group(name: &str, option: &'static str) -> Result<Gid, Error> {
    if !Uid::effective().is_root() {
        return Ok(Gid::effective());
    }
    let group = users::get_group_by_name(name).ok_or_else(|| Error::NoGroup(name.to_owned(), option))?;
    Ok(Gid::from_raw(group.gid()))
}

/// The group that may act on agents, and its name; `None` without root.
fn operator_group(settings: &Settings) -> Result<Option<(Gid, String)>, Error> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let name = &settings.operator_group;
    Ok(Some((group(name, "--operator-group")?, name.clone())))
}

/// The terminal socket, and its file unless systemd keeps it. Agents matter more: without the socket, the daemon runs all the same.
fn terminal_socket(
    settings: &Settings,
    passed: Option<std::os::unix::net::UnixListener>,
    group: Option<Gid>,
) -> Option<(std::os::unix::net::UnixListener, Option<Address>)> {
    if let Some(passed) = passed {
        return Some((passed, None));
    }
    match terminal::socket::bind(&settings.terminal_socket, group) {
        Ok(Bound { listener, address }) => Some((listener, Some(address))),
        Err(error) => {
            tracing::error!("{error}; operators without root can neither attach nor send");
            None
        }
    }
}

/// The sockets that people use.
struct Doors {
    api: ApiSocket,
    terminal: TerminalSocket,
}

/// The socket through which operators attach and send.
struct TerminalSocket {
    /// `None` if it could not be bound. The file is removed at the end.
    socket: Option<(std::os::unix::net::UnixListener, Option<Address>)>,
    /// The group of operators.
    operators: Option<(Gid, String)>,
}

/// What serves the terminal socket.
struct Terminals {
    /// Dropped to end it.
    close: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    _address: Option<Address>,
}

impl Terminals {
    /// `None` if there is no socket.
    fn start(
        door: TerminalSocket,
        sources: &Sources,
        logs: Store,
        desks: &Desks,
        agents: watch::Receiver<BTreeSet<u32>>,
    ) -> Result<Option<Self>, Error> {
        let Some((listener, address)) = door.socket else { return Ok(None) };
        let rule = terminal::Rule { owner: Uid::effective(), agents, group: door.operators };
        let service = terminal::Service { snapshot: sources.snapshot.clone(), desks: desks.clone(), logs, rule };
        let failed = |source| Error::System { operation: "listen on the terminal socket", source };
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        let (close, closed) = oneshot::channel::<()>();
        let serving = tokio::spawn(terminal::serve(listener, service, async {
            // A dropped sender counts, too.
            let _ = closed.await;
        }));
        Ok(Some(Self { close, serving, _address: address }))
    }

    /// Returns once every operator was told, and the socket's file is gone.
    async fn end(terminals: Option<Self>) {
        if let Some(Self { close, serving, _address }) = terminals {
            drop(close);
            let _ = serving.await;
        }
    }
}

/// The socket that the API's clients connect to.
struct ApiSocket {
    listener: UnixListener,
    /// The socket's file, unless systemd passed the socket: then systemd keeps it.
    address: Option<Address>,
    /// The group that may use the socket, besides root.
    group: Gid,
}

/// The running API.
struct Api {
    /// Dropped to end the API.
    close: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    /// Returns the socket's file, to be removed.
    keeping: Option<JoinHandle<Address>>,
}

impl Api {
    fn start(socket: ApiSocket, sources: Sources, rounds: watch::Receiver<()>) -> Self {
        let (close, closed) = oneshot::channel::<()>();
        let (replacements, replaced) = mpsc::channel(1);
        let serving = tokio::spawn(api::serve(socket.listener, replaced, sources, api::Limits::default(), async {
            // A dropped sender counts, too.
            let _ = closed.await;
        }));
        let keep = |address| api::socket::keep(address, Some(socket.group), rounds, replacements);
        Self { close, serving, keeping: socket.address.map(|address| tokio::spawn(keep(address))) }
    }

    /// Returns once every connection is closed and the socket's file is gone. The rounds must have ended.
    async fn end(self) {
        drop(self.close);
        let _ = self.serving.await;
        if let Some(keeping) = self.keeping {
            // A bind in progress may hang in its file system.
            let _ = tokio::time::timeout(RELEASE, keeping).await;
        }
    }
}

/// What it takes to receive launchers.
#[derive(Clone, Copy)]
struct Reception<'a> {
    /// `None` if root does not enter the folder.
    folder: Option<&'a SocketDir>,
    /// The group that may enter the folder.
    group: Gid,
}

#[allow(clippy::too_many_lines, reason = "it is the list of all parts, in the order of their start")]
async fn serve(
    settings: &Settings,
    place: DeclarationContext,
    Reception { folder, group }: Reception<'_>,
    store: Store,
    doors: Doors,
    started: Instant,
    mut state_errors: Vec<String>,
) -> Result<(), Error> {
    let failed = |operation| move |source| Error::System { operation, source };
    let operators = self::group(&settings.operator_group, "--operator-group")?;
    let (agents_send, agent_uids) = watch::channel(BTreeSet::from([place.account.uid.as_raw()]));
    let overrides = overrides::Place::new(settings.override_dir.clone(), operators, agent_uids.clone());
    warn_of_members(&overrides, &place.account, settings);
    let launch_listener = folder.map(SocketDir::bind_launch_socket).transpose()?;
    let signals = Signals::catch().map_err(failed("catch signals"))?;

    let (events, inbox) = mpsc::unbounded_channel();
    let (nudges, nudged) = mpsc::channel(16);
    let (snapshots, snapshot) =
        watch::channel(Arc::new(Parts { is_read: false, ..Parts::new(Vec::new(), started, Errors::default()) }.into()));

    let deputy = seats::deputy(&place.account, nudges.clone());
    let executable = own_executable().map_err(failed("find agentd's own executable"))?;
    let record = Record::new(&settings.state_dir)?;
    let tmux = the_tmux(settings, deputy.clone(), executable.clone(), &place.account, &record).await;
    let (rounds, round) = watch::channel(());
    let user = place.account.uid;
    let (trouble, troubles) = watch::channel(None);
    let trees = Trees::new(&settings.state_dir, user);
    let systemd = trees.systemd();
    let log_files = StoredLogs::new(store.clone());
    let seats = Seats::new(Arc::new(seats::seat(&place.account, &tmux, &settings.tmux_socket, &trees, troubles)));
    let desks = Desks::new(seats::desk(&deputy, &tmux));
    let seat_maker = Arc::new(SeatMaker {
        settings: settings.clone(),
        executable: executable.clone(),
        group,
        record: record.clone(),
        trees: trees.clone(),
        seats: seats.clone(),
        desks: desks.clone(),
        agents: agents_send,
        events: events.clone(),
        nudges: nudges.clone(),
        rounds: round.clone(),
        names: Names::default(),
        named: watch::Sender::default(),
        made: Mutex::default(),
    });
    let resources = Resources {
        seats,
        programs: programs(settings, executable),
        log_files: Arc::new(log_files.clone()),
        pace: Pace::default(),
        clearings: Arc::new(Semaphore::new(CLEARINGS)),
        login_patience: settings.login_timeout,
        snapshot: snapshot.clone(),
    };
    let Reading { agents, problems } = machines(&record).await.map_err(failed("read the record"))?;
    log_files.look_back(agents.values().map(printers).collect());
    state_errors.extend(problems.iter().map(ToString::to_string));
    log_errors(&state_errors);
    let reports = events.clone();
    let recorder = Recorder::new(record, move |report| drop(reports.send(Event::Recorded(report))));
    let notifier = Notifier::from_environment();
    let histories = histories(&settings.state_dir).await;
    let conversations = conversations(&settings.state_dir).await;
    let (happenings, happening) = watch::channel(Ring::new(SystemTime::now() - started.elapsed()));
    let outlets = Outlets {
        events: events.clone(),
        snapshots,
        happenings,
        recorder,
        histories,
        conversations,
        notifier: notifier.clone(),
    };
    let mut supervisor = Supervisor::new(resources, outlets, settings.detail, started, state_errors);
    seat_maker.restore(agents.values().filter_map(Machine::user).cloned().collect(), snapshot.clone()).await;
    // Before any request can arrive.
    supervisor.resume(agents);

    let sources = sources(snapshot.clone(), happening, &desks, &store);
    let terminals = Terminals::start(doors.terminal, &sources, store.clone(), &desks, agent_uids)?;
    let api = Api::start(doors.api, sources, round.clone());
    let hand_on = seats::hand_on(None, events.clone());
    let keeper = LaunchSocketKeeper::new(&settings.tmux_socket, &place.account, Some(group), launch_listener.is_some());
    tokio::spawn(listener::receive(launch_listener, keeper, user, trouble, round.clone(), hand_on));
    spawn_upkeep(&tmux, trees, store, &round, &events);
    let inputs = Inputs {
        rules: rules(settings, group, operators, &place.account),
        database: Database::default(),
        place,
        secret_dir: settings.secret_dir.clone(),
        overrides,
        state_dir: settings.state_dir.clone(),
        options: settings.options.clone(),
        deputy,
        deputies: Arc::<SeatMaker>::clone(&seat_maker),
        settle: settings.settle,
        resync: settings.resync,
        rounds,
    };
    let mut inputs = tokio::spawn(follow(inputs, nudged, snapshot, events.clone()));
    let mut supervisor = tokio::spawn(supervisor.run(inbox));
    announce(settings);
    tokio::spawn(obey(signals, settings.on_terminate, notifier, systemd, events, nudges));

    let ended = first_end(&mut inputs, &mut supervisor).await;
    Terminals::end(terminals).await;
    if matches!(ended, Ok(true)) {
        let releases = desks.all().into_iter().map(|desk| async move { release(&desk.tmux).await });
        releases.collect::<JoinSet<()>>().join_all().await;
    }
    seat_maker.end(RELEASE).await;
    // The rounds end with the inputs, and the keeping of the API's socket with the rounds.
    inputs.abort();
    api.end().await;
    tracing::info!("agentd has ended");
    ended.map(drop)
}

fn log_errors(errors: &[String]) {
    for error in errors {
        tracing::error!("{error}");
    }
}

/// Warns if the default user is an operator.
fn warn_of_members(overrides: &overrides::Place, account: &Account, settings: &Settings) {
    if let Some(warning) = overrides.warning(account, &settings.operator_group) {
        tracing::warn!("{warning}");
    }
}

/// What the API answers from.
fn sources(
    snapshot: watch::Receiver<Arc<Snapshot>>,
    happenings: watch::Receiver<Ring>,
    desks: &Desks,
    store: &Store,
) -> Sources {
    let renderers = desks.of(None).map(|desk| desk.renderers);
    Sources { snapshot, happenings, desks: Some(desks.clone()), logs: Some(store.clone()), renderers }
}

/// Who may be an agent user beside the default one.
fn rules(settings: &Settings, admins: Gid, operators: Gid, default: &Account) -> Rules {
    if !Uid::effective().is_root() {
        return Rules::Nobody { own: default.name.clone() };
    }
    let banned = |name: &str, group| Banned { name: name.to_owned(), group };
    Rules::Members {
        agents: settings.agent_group.clone(),
        banned: vec![banned(&settings.admin_group, admins), banned(&settings.operator_group, operators)],
        default: Some(default.uid),
    }
}

/// Waits until nobody attends to the inputs or the agents any more. Returns whether the agents were stopped.
async fn first_end(
    inputs: &mut JoinHandle<io::Result<()>>,
    supervisor: &mut JoinHandle<io::Result<bool>>,
) -> Result<bool, Error> {
    let failed = |operation| move |source| Error::System { operation, source };
    tokio::select! {
        ended = inputs => match ended {
            Ok(result) => result.map(|()| false).map_err(failed("watch the inputs")),
            Err(defect) => Err(failed("attend to the inputs")(io::Error::other(defect))),
        },
        ended = supervisor => match ended {
            Ok(result) => result.map_err(failed("attend to the agents")),
            Err(defect) => Err(failed("attend to the agents")(io::Error::other(defect))),
        },
    }
}

/// Says in the log that the daemon runs, and with which files.
fn announce(settings: &Settings) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %settings.config.display(),
        api = %settings.api_socket.display(),
        tmux = %settings.tmux_socket.display(),
        "agentd runs"
    );
}

/// Measures and limits the disk space of all logs at the round after an attempt has begun or ended, and otherwise once a minute.
async fn limit_logs(store: Store, mut rounds: watch::Receiver<()>) {
    const INTERVAL: Duration = Duration::from_mins(1);
    let (mut measured, mut told) = (None::<tokio::time::Instant>, OnChange::default());
    while rounds.changed().await.is_ok() {
        if !store.has_grown() && measured.is_some_and(|at| at.elapsed() < INTERVAL) {
            continue;
        }
        measured = Some(tokio::time::Instant::now());
        let limited = store.clone();
        match blocking::run(move || limited.limit_total()).await {
            Ok(Ok(())) => told.reset(),
            Ok(Err(error)) if told.pass(&error.to_string()) => tracing::warn!("{error}; logs are not limited"),
            // Reported, or tried again for want of a thread.
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// The path of this program.
fn own_executable() -> io::Result<String> {
    std::env::current_exe().map(|path| path.to_string_lossy().into_owned())
}

/// Starts the tasks that keep the daemon's surroundings in order: control groups, the log, the tmux server, children, sessions.
fn spawn_upkeep(
    tmux: &Tmux,
    trees: Trees,
    store: Store,
    round: &watch::Receiver<()>,
    events: &mpsc::UnboundedSender<Event>,
) {
    tokio::spawn(limit_logs(store, round.clone()));
    if let Some(scope) = ServerScope::here(trees.systemd(), None) {
        tokio::spawn(scope.keep(tmux.serving()));
    }
    let groups = events.clone();
    tokio::spawn(trees.recover_groups(round.clone(), move || drop(groups.send(Event::Groups))));
    tokio::spawn(tell_left_out(round.clone()));
    let (kept, rounds) = (tmux.clone(), round.clone());
    tokio::spawn(async move { kept.keep(rounds).await });
    tokio::spawn(reaper::reap());
    tokio::spawn(find_sessions(tmux.clone(), None, events.clone(), round.clone()));
}

/// An agent, and when its latest attempt started.
fn printers(machine: &Machine) -> (Name, Option<SystemTime>) {
    (machine.name().clone(), machine.status().started_at.map(|started| started.0))
}

/// The programs that run in panes. `executable` is this one.
fn programs(settings: &Settings, executable: String) -> Programs {
    let launcher = settings.launcher.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    Programs { launcher, agentd: executable }
}

/// Reads the inputs and what operators answer whenever they change, and sends what they say to the supervisor.
async fn follow(
    inputs: Inputs,
    nudged: mpsc::Receiver<Nudge>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    events: mpsc::UnboundedSender<Event>,
) -> io::Result<()> {
    let answers = Answers { place: inputs.overrides.clone() };
    tokio::spawn(follow_answers(answers, inputs.rounds.subscribe(), snapshot, events.clone()));
    let send = move |news| {
        // Fails only when the daemon is ending.
        drop(events.send(match news {
            News::Desired(it) => Event::Desired(it),
            News::Release(Release { name, by }) => Event::Release { name, by },
            News::Login(user) => Event::Login(user),
            News::Read => Event::Read,
        }));
    };
    inputs.follow(nudged, send).await
}

/// Sends what operators answer to the supervisor.
async fn follow_answers(
    answers: Answers,
    rounds: watch::Receiver<()>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    events: mpsc::UnboundedSender<Event>,
) {
    let open = |snapshot: &Arc<Snapshot>| snapshot.approvals().pending.iter().map(|it| it.id.clone()).collect();
    // Fails only when the daemon is ending.
    let say = |id, word| drop(events.send(Event::Answer { id, word }));
    answers.follow(rounds, snapshot, open, say).await;
}

/// The dedicated server, with what an earlier daemon knew about it.
async fn the_tmux(settings: &Settings, deputy: Deputy, executable: String, account: &Account, record: &Record) -> Tmux {
    let (socket, origin) = (settings.tmux_socket.clone(), settings.tmux_origin);
    let memory = tmux::Memory::on_record(record, &socket, None).await;
    Tmux::new(deputy, socket, origin, executable, account).with_memory(memory)
}

/// Logs, at each of the rounds, what was left out of the log.
async fn tell_left_out(mut rounds: watch::Receiver<()>) {
    while rounds.changed().await.is_ok() {
        log::tell_left_out();
    }
}

/// Lets the tmux server end. Kills it if it does not answer and no process in it is alive.
async fn release(tmux: &Tmux) {
    if let Ok(Err(error)) = tokio::time::timeout(RELEASE, tmux.release_server()).await {
        tracing::warn!("{error}");
    }
    if tmux.is_given_up() {
        match tmux.end_server().await {
            Ok(true) => tracing::warn!("ended the tmux server, which did not answer and had no sessions but agents'"),
            Ok(false) => {
                tracing::warn!("left the tmux server, which did not answer, because it has other sessions, too");
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

/// The machines that an earlier daemon left.
async fn machines(record: &Record) -> io::Result<Reading<Key, Machine>> {
    let to_read = record.clone();
    blocking::run(move || to_read.read(|machine: &Machine| machine.name().key())).await
}

/// The histories of earlier attempts. What cannot be read is renamed and logged.
async fn histories(state_dir: &Path) -> Histories {
    let record = Record::lasting(state_dir, history::FOLDER);
    let to_read = record.clone();
    let read = blocking::run(move || to_read.read(|history: &History| history.agent().to_owned())).await;
    let (agents, problems) = read.map(|Reading { agents, problems }| (agents, problems)).unwrap_or_default();
    for problem in problems {
        tracing::warn!("{problem}");
    }
    Histories::new(agents, recorder_that_warns(record))
}

/// The conversations that outlive a boot. What cannot be read is renamed and logged.
async fn conversations(state_dir: &Path) -> Conversations {
    let record = Record::lasting(state_dir, conversations::FOLDER);
    let to_read = record.clone();
    let read = blocking::run(move || to_read.read(|kept: &Kept| kept.agent().to_owned())).await;
    let (agents, problems) = read.map(|Reading { agents, problems }| (agents, problems)).unwrap_or_default();
    for problem in problems {
        tracing::warn!("{problem}");
    }
    Conversations::new(agents, recorder_that_warns(record))
}

/// A recorder whose errors are logged, each once in a row.
fn recorder_that_warns(record: Record) -> Recorder<Key> {
    let told = Mutex::new(None);
    Recorder::new(record, move |Report { error, .. }| {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = error.as_ref().filter(|&error| told.as_ref() != Some(error)) {
            tracing::warn!("{error}; trying again");
        }
        *told = error;
    })
}

/// Asks for the sessions that an earlier daemon may have left, until tmux answers.
async fn find_sessions(
    tmux: Tmux,
    user: Option<AgentUser>,
    events: mpsc::UnboundedSender<Event>,
    mut rounds: watch::Receiver<()>,
) {
    loop {
        match tmux.owners().await {
            // Fails only when the daemon is ending.
            Ok(owners) => return drop(events.send(Event::Sessions { user, owners })),
            // Every launch reports the same error.
            Err(error) => tracing::debug!("failed to look for sessions: {error}; trying again"),
        }
        tmux.until_owner_is_back(&mut rounds).await;
        tokio::time::sleep(SESSIONS_RETRY).await;
    }
}
