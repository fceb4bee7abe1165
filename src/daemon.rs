//! The daemon: wiring, and the order of start and shutdown.
//!
//! Start: who are we, the lock, the sockets, then everything that runs. Shutdown: the agents, in parallel and each with its grace
//! period; the API answers until the last of them is gone; then the sockets go.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::account::{self, Account};
use crate::api;
use crate::config;
use crate::deputy::Deputy;
use crate::folder::{self, Folder};
use crate::inputs::{Inputs, Nudge};
use crate::launch::reception;
use crate::limits;
use crate::lock::{self, Lock};
use crate::socket;
use crate::status::Snapshot;
use crate::supervisor::attempt::Means;
use crate::supervisor::{Detail, Event, Supervisor};
use crate::tmux::Tmux;

/// How long the tmux server may take over its part of the shutdown.
const RELEASE: Duration = Duration::from_secs(3);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent user cannot be had.
    #[error(transparent)]
    Account(#[from] account::Error),
    /// Root was named as the agent user.
    #[error("agents must not run as root; name an unprivileged user with --user")]
    AgentsAsRoot,
    /// Only root can run agents as somebody else.
    #[error("without root agents run as yourself ({0}), not as {1}; leave --user out, or start agentd as root")]
    NotRoot(String, String),
    /// There is no such group.
    #[error(
        "there is no group {0:?}; create it (for example: groupadd --system {0}), or name another with --admin-group"
    )]
    NoGroup(String),
    /// Another daemon is there.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The API's socket cannot be had.
    #[error(transparent)]
    Socket(#[from] socket::Error),
    /// The folder of the tmux socket cannot be had.
    #[error(transparent)]
    Folder(#[from] folder::Error),
    /// Something of the system failed.
    #[error("failed to {operation}: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The reason.
        source: io::Error,
    },
}

/// Everything that the command line decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The jcard.
    pub config: PathBuf,
    /// The secrets.
    pub secret_dir: PathBuf,
    /// The API's socket.
    pub api_socket: PathBuf,
    /// The dedicated tmux server's.
    pub tmux_socket: PathBuf,
    /// Root-only state.
    pub state_dir: PathBuf,
    /// Whom agents run as; `None` without root and without a wish.
    pub user: Option<String>,
    /// Who may use the sockets, under root.
    pub admin_group: String,
    /// How often everything is read again.
    pub resync: Duration,
    /// Quiet time after a change.
    pub settle: Duration,
    /// How much is logged.
    pub detail: Detail,
    /// How the jcard is read.
    pub options: config::Options,
}

/// Runs until SIGTERM or SIGINT has stopped it.
pub fn run(settings: &Settings) -> Result<(), Error> {
    let started = Instant::now();
    limits::raise_descriptors();
    let account = agent_account(settings.user.as_deref())?;
    let group = admin_group(&settings.admin_group)?;
    let _lock = Lock::take(&settings.state_dir)?;
    // Before there is a second thread: both change what the whole process creates.
    let api = api::socket::bind(&settings.api_socket, Some(group))?;
    socket::check_length(&settings.tmux_socket)?;
    let folder = Folder::of(&settings.tmux_socket, &account, Some(group))?;
    socket::check_length(&folder.launch_socket())?;
    umask(Mode::from_bits_truncate(0o077));
    let failed = |operation| move |source| Error::System { operation, source };
    let executable = std::env::current_exe().map_err(failed("find agentd's own executable"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("start the async runtime"))?;
    let result = runtime.block_on(async {
        let launch_listener = folder.bind_launch_socket()?;
        let api_listener = UnixListener::from_std(api.listener).map_err(failed("listen on the API's socket"))?;
        serve(settings, account, &folder, executable, launch_listener, api_listener, started).await
    });
    if let Err(error) = folder.remove_launch_socket() {
        tracing::warn!("failed to remove {}: {error}", folder.launch_socket().display());
    }
    drop(api.address);
    // A thread that reads from a hung file system must not hold up the end.
    runtime.shutdown_background();
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

/// Under root the one that is named, else one's own.
fn admin_group(name: &str) -> Result<Gid, Error> {
    if !Uid::effective().is_root() {
        return Ok(Gid::effective());
    }
    let group = users::get_group_by_name(name).ok_or_else(|| Error::NoGroup(name.to_owned()))?;
    Ok(Gid::from_raw(group.gid()))
}

async fn serve(
    settings: &Settings,
    account: Account,
    folder: &Folder,
    executable: PathBuf,
    launch_listener: UnixListener,
    api_listener: UnixListener,
    started: Instant,
) -> Result<(), Error> {
    let failed = |operation| move |source| Error::System { operation, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("catch signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("catch signals"))?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(failed("catch signals"))?;

    let (events, inbox) = mpsc::unbounded_channel();
    let (nudges, nudged) = mpsc::channel(16);
    let (snapshots, snapshot) = watch::channel(Arc::new(Snapshot::new(Vec::new(), started, None, None)));

    let deputy = {
        let nudges = nudges.clone();
        Deputy::new(account.name.clone(), move || {
            // Full means that a change is already waiting to be looked at.
            let _ = nudges.try_send(Nudge::Changed);
        })
    };
    let executable = executable.to_string_lossy().into_owned();
    let tmux = Tmux::new(deputy.clone(), settings.tmux_socket.clone(), executable.clone(), &account);
    let user = account.uid;
    let means = Means { tmux: tmux.clone(), executable, launch_socket: folder.launch_socket(), user };
    let supervisor = Supervisor::new(means, settings.detail, events.clone(), snapshots, started);

    let (close_api, api_closed) = oneshot::channel::<()>();
    let api = tokio::spawn(api::serve(api_listener, snapshot, api::Limits::default(), async {
        // Dropped counts as told.
        let _ = api_closed.await;
    }));
    let visitors = events.clone();
    // Nobody listens any more only when the daemon is ending.
    tokio::spawn(reception::receive(launch_listener, user, move |visitor| {
        drop(visitors.send(Event::Visitor(visitor)));
    }));
    let starting = tmux.clone();
    tokio::spawn(async move {
        // Ahead of time; each launch starts the server if it has to.
        if let Err(error) = starting.start_server().await {
            tracing::error!("{error}");
        }
    });
    let inputs = Inputs {
        config: settings.config.clone(),
        secret_dir: settings.secret_dir.clone(),
        options: settings.options.clone(),
        account,
        deputy,
        settle: settings.settle,
        resync: settings.resync,
    };
    let (desired, stop) = (events.clone(), events.clone());
    let mut inputs = tokio::spawn(inputs.follow(nudged, move |it| drop(desired.send(Event::Desired(it)))));
    let mut supervisor = tokio::spawn(supervisor.run(inbox));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %settings.config.display(),
        api = %settings.api_socket.display(),
        tmux = %settings.tmux_socket.display(),
        "agentd runs"
    );

    let result = loop {
        // The arms wait for things that come again or come once and for all.
        tokio::select! {
            _ = terminate.recv() => { tracing::info!("SIGTERM: stopping all agents"); drop(stop.send(Event::Stop)); }
            _ = interrupt.recv() => { tracing::info!("SIGINT: stopping all agents"); drop(stop.send(Event::Stop)); }
            _ = hang_up.recv() => {
                tracing::info!("SIGHUP: reading everything again");
                let _ = nudges.try_send(Nudge::Now);
            }
            ended = &mut inputs => match ended {
                Ok(Ok(())) => break Ok(()),
                Ok(Err(source)) => break Err(Error::System { operation: "watch the inputs", source }),
                Err(defect) => break Err(Error::System { operation: "attend to the inputs", source: io::Error::other(defect) }),
            },
            ended = &mut supervisor => break match ended {
                Ok(result) => result.map_err(failed("attend to the agents")),
                Err(defect) => Err(Error::System { operation: "attend to the agents", source: io::Error::other(defect) }),
            },
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(RELEASE, tmux.release_server()).await {
        tracing::warn!("{error}");
    }
    drop(close_api);
    let _ = api.await;
    tracing::info!("agentd has ended");
    result
}
