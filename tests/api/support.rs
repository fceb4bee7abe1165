//! A real server on a real socket, for the tests that are its clients.

#[path = "../support/skip.rs"]
pub mod skip;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

use agentd::api::{Limits, Sources, serve};
use agentd::observe::ring::Ring;
use agentd::observe::snapshot::Snapshot;
use agentd::wire::status::{AgentStatus, State};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{oneshot, watch};

/// Longer than anything takes that is not broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server in a thread of its own, stopped at drop.
pub struct Server {
    pub path: PathBuf,
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    pub happenings: watch::Sender<Ring>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Server {
    pub fn start(agents: Vec<AgentStatus>, limits: Limits) -> Self {
        Self::start_with(snapshot(agents), limits)
    }

    pub fn start_with(snapshot: Snapshot, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agentd.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (snapshots, snapshot) = watch::channel(Arc::new(snapshot));
        let (happenings, happening) = watch::channel(Ring::new(UNIX_EPOCH));
        let sources = Sources { snapshot, happenings: happening, desks: None, logs: None, renderers: None };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                serve(listener, tokio::sync::mpsc::channel(1).1, sources, limits, async { _ = stopped.await }).await;
            });
        });
        Self { path, snapshots, happenings, stop: Some(stop), thread: Some(thread), _folder: folder }
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a whole request and returns everything that comes until the server closes.
    pub fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        String::from_utf8(read_until_closed(&mut stream)).unwrap()
    }

    /// The answer to a `GET`, which must be 200.
    pub fn get(&self, path: &str) -> String {
        let answer = self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: agentd\r\nConnection: close\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        answer
    }

    pub fn stop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A connection that was reset because the server did not care to read the rest is closed, too.
pub fn read_until_closed(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error} after {bytes:?}"),
        _ => bytes,
    }
}

/// Room for both ends of every connection of a test, and one such test at a time.
pub fn many_descriptors() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(8192), hard).unwrap();
    guard
}

pub fn snapshot(agents: Vec<AgentStatus>) -> Snapshot {
    Snapshot::new(agents, Instant::now(), agentd::wire::status::Errors::default())
}

pub fn running(name: &str) -> AgentStatus {
    AgentStatus {
        conversation: None,
        name: name.to_owned(),
        running: true,
        session: name.to_owned(),
        restarts: 0,
        error: None,
        state: State::Running,
        since: None,
        reason: None,
        outcome: None,
        harness: None,
        kind: None,
        user: None,
        sandbox: None,
        labels: std::collections::BTreeMap::new(),
        pid: None,
        attempt: None,
        declared_at: None,
        started_at: None,
        exit: None,
        next_start_at: None,
        deadline: None,
        timeout_at: None,
        limits_error: None,
        default_limits_error: None,
        sandboxed_by_default: false,
        log_error: None,
        environment_error: None,
        activity: None,
        hooks_unheard: false,
        waiting_for: Vec::new(),
        stopping_because: None,
        stop_stage: None,
        launch_reason: None,
        attempt_total: None,
        last_output_at: None,
        result: None,
        cost_usd: None,
        tokens: None,
        generation: 0,
        overridden: None,
        changed: agentd::wire::reason::Changes::default(),
        hold: None,
        config_generation: None,
        skills: Vec::new(),
        secrets: Vec::new(),
        rotation: None,
        resources: None,
        logs: None,
        history: Vec::new(),
        approvals: Vec::new(),
    }
}

/// An agent whose status alone is larger than what a socket holds.
pub fn large(name: &str) -> AgentStatus {
    AgentStatus { reason: Some("x".repeat(2 << 20)), ..running(name) }
}
