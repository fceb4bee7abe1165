//! Keeps a deputy running: starts it, replaces one that does not answer, and passes requests to it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::Uid;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::protocol::{MAX_FRAME, Numbered, Reply, Request};
use super::{COMMAND, Error};
use crate::sys::frame;
use crate::sys::rate_limit::Brake;
use crate::sys::reaper;
use crate::sys::watch::Target;

pub(super) type Answer = oneshot::Sender<Result<Reply, Error>>;

/// A request that the deputy has not received yet.
#[derive(Debug)]
pub(super) struct Asked {
    pub request: Request,
    /// The descriptors to pass with the request.
    pub descriptors: Vec<OwnedFd>,
    /// How long the deputy may take.
    pub timeout: Duration,
    pub answer: Answer,
}

/// A request that the deputy is working on.
struct Open {
    deadline: Instant,
    timeout: Duration,
    answer: Answer,
}

/// How often to check, while a request is unanswered, whether the deputy was stopped.
const STOP_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The pause before another start. It doubles with each deputy that ends without an answer.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Keeps a deputy running from the first request on, and for as long as there is something to watch.
///
/// A request made in the pause before a start waits for that start, and fails with it.
pub(super) async fn keep(
    mut start: impl FnMut() -> io::Result<(Child, UnixStream)>,
    mut inbox: mpsc::UnboundedReceiver<Asked>,
    changed: impl Fn() + Send + Sync + 'static,
) {
    let mut watched = Vec::new();
    let mut pause = Duration::ZERO;
    loop {
        let mut first = None;
        while watched.is_empty() && first.is_none() {
            match inbox.recv().await {
                Some(asked) => first = to_answer(asked, &mut watched),
                None => return,
            }
        }
        sleep(pause).await;
        let (spoke, error) = match start() {
            Ok((mut child, stream)) => {
                let kept = reaper::keep(child.id());
                let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
                let end = converse(pid, stream, first.take(), &mut inbox, &mut watched, &changed).await;
                // Killed at once: a deputy that was stopped and is continued later must not act on earlier requests. It is not
                // waited for, because a process that hangs in the kernel does not die.
                let _ = child.start_kill();
                tokio::spawn(async move {
                    let _ = child.wait().await;
                    drop(kept);
                });
                match end {
                    End::Unfit(reason) => (false, Error::Start(reason)),
                    End::Gone { spoke } => (spoke, Error::Gone),
                }
            }
            Err(error) => (false, Error::Start(error.to_string())),
        };
        if inbox.is_closed() {
            return;
        }
        if spoke {
            pause = SHORTEST_PAUSE;
            continue;
        }
        pause = (pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        // All waiting requests have waited for this start, and the next one may fail as well.
        while let Some(asked) = first.take().or_else(|| inbox.try_recv().ok()) {
            if let Some(asked) = to_answer(asked, &mut watched) {
                let _ = asked.answer.send(Err(error.clone()));
            }
        }
    }
}

/// Remembers what to watch, for this deputy and later ones. Returns requests that need an answer.
fn to_answer(asked: Asked, watched: &mut Vec<Target>) -> Option<Asked> {
    match asked.request {
        Request::Watch(targets) => {
            *watched = targets;
            None
        }
        _ => Some(asked),
    }
}

/// Starts a deputy.
pub(super) fn start(user: &str, uid: Uid, path: Option<&OsStr>) -> io::Result<(Child, UnixStream)> {
    let (near, far) = std::os::unix::net::UnixStream::pair()?;
    near.set_nonblocking(true)?;
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command
        .arg0("agentd")
        .arg(COMMAND)
        .arg(user)
        .arg(uid.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(far))
        .stdout(Stdio::null())
        // Not inherited: that may be root's terminal.
        .stderr(Stdio::piped());
    // The path to search for tmux; the deputy passes it to no other program.
    command.envs(path.map(|path| ("PATH", path)));
    // Without a separate process group: the deputy starts a new session, which the leader of a group cannot.
    command.kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(overhear(stderr));
    }
    Ok((child, UnixStream::from_std(near)?))
}

/// Logs what a deputy prints on standard error, which is why it ends.
async fn overhear(stderr: impl AsyncRead + Unpin) {
    const ENOUGH: u64 = 2000;
    static BRAKE: Brake = Brake::new();
    let mut said = Vec::new();
    // Whatever could be read is logged.
    let _ = stderr.take(ENOUGH).read_to_end(&mut said).await;
    let said = String::from_utf8_lossy(&said);
    let said: String = said.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if !said.is_empty()
        && let Some(count) = BRAKE.pass()
    {
        tracing::warn!("the process that acts as the agent user said ({count} so far): {said}");
    }
}

/// How a deputy ended.
enum End {
    /// The deputy said why it cannot do its work.
    Unfit(String),
    /// The deputy has ended, or is unusable.
    Gone {
        /// Whether the deputy ever answered.
        spoke: bool,
    },
}

/// Talks to the deputy until it ends or hangs, or the daemon ends.
async fn converse(
    pid: Option<Pid>,
    stream: UnixStream,
    first: Option<Asked>,
    inbox: &mut mpsc::UnboundedReceiver<Asked>,
    watched: &mut Vec<Target>,
    changed: &(impl Fn() + Sync),
) -> End {
    let (reader, mut writer) = stream.into_split();
    let mut reader = frame::Reader::new(reader, MAX_FRAME);
    // A separate task writes, so that answers are read in any case: otherwise two full sockets would wait for each other.
    let (outgoing, mut outbox) = mpsc::unbounded_channel();
    let mut writing = JoinSet::new();
    writing.spawn(async move {
        while let Some((request, descriptors)) = outbox.recv().await {
            let descriptors: Vec<OwnedFd> = descriptors;
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            if frame::write_with::<Numbered<Request>>(&mut writer, &request, &descriptors).await.is_err() {
                return;
            }
        }
    });
    let mut open: HashMap<u64, Open> = HashMap::new();
    let mut number = 0;
    let mut spoke = false;
    if !watched.is_empty() {
        let _ = outgoing.send((Numbered { number, body: Request::Watch(watched.clone()) }, Vec::new()));
    }
    let mut next = first;
    let mut checked = Instant::now();
    loop {
        if open.is_empty() {
            checked = Instant::now();
        }
        if let Some(asked) = next.take() {
            number += 1;
            let (request, descriptors) = match to_answer(asked, watched) {
                Some(Asked { request, descriptors, timeout, answer }) => {
                    open.insert(number, Open { deadline: Instant::now() + timeout, timeout, answer });
                    (request, descriptors)
                }
                None => (Request::Watch(watched.clone()), Vec::new()),
            };
            if outgoing.send((Numbered { number, body: request }, descriptors)).is_err() {
                return End::Gone { spoke };
            }
        }
        let deadline = open.values().map(|open| open.deadline).min();
        let overdue = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let to_check = !open.is_empty();
        // Each arm only takes something that has arrived completely, so canceling the others loses nothing.
        tokio::select! {
            // An answer that has arrived counts, however late it is read.
            biased;
            reply = reader.read::<Numbered<Reply>>() => match reply {
                Ok(Some(Numbered { body: Reply::Changed, .. })) => {
                    spoke = true;
                    changed();
                }
                Ok(Some(Numbered { body: Reply::Unfit(reason), .. })) => {
                    for (_, Open { answer, .. }) in open.drain() {
                        let _ = answer.send(Err(Error::Start(reason.clone())));
                    }
                    return End::Unfit(reason);
                }
                Ok(Some(Numbered { number, body })) => {
                    spoke = true;
                    if let Some(open) = open.remove(&number) {
                        let _ = open.answer.send(Ok(body));
                    }
                }
                Ok(None) | Err(_) => return End::Gone { spoke },
            },
            request = inbox.recv() => match request {
                Some(request) => next = Some(request),
                None => return End::Gone { spoke },
            },
            // Otherwise a stopped deputy would delay all requests until they time out.
            () = sleep_until(checked + STOP_CHECK_INTERVAL), if to_check => {
                checked = Instant::now();
                if pid.is_some_and(is_stopped) {
                    warn_of_silence();
                    return End::Gone { spoke };
                }
            }
            () = overdue => {
                warn_of_silence();
                let now = Instant::now();
                for (_, Open { timeout, answer, .. }) in open.extract_if(|_, open| open.deadline <= now) {
                    let _ = answer.send(Err(Error::TimedOut(timeout)));
                }
                return End::Gone { spoke };
            }
        }
    }
}

/// Whether a signal stopped a child of this process. The child's exit status is left to be waited for.
fn is_stopped(child: Pid) -> bool {
    let flags = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::Pid(child), flags), Ok(Some(status)) if status.stopped())
}

/// Logs a hang, at a limited rate: the agent user can stop every deputy.
fn warn_of_silence() {
    static BRAKE: Brake = Brake::new();
    if let Some(count) = BRAKE.pass() {
        tracing::warn!(
            "the process that acts as the agent user does not answer ({count} so far); it is killed and replaced"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::agent::seen::SeenWorkdir;
    use crate::deputy::Deputy;
    use crate::deputy::protocol::Program;

    /// Starts child processes that do nothing, and for each a task that speaks in its place. The task gets the number of the
    /// start, from 0.
    fn starts<F>(speak: impl Fn(usize, UnixStream) -> F) -> impl FnMut() -> io::Result<(Child, UnixStream)>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut count = 0;
        move || {
            let (near, far) = UnixStream::pair()?;
            tokio::spawn(speak(count, far));
            count += 1;
            let child = tokio::process::Command::new("sleep").arg("3600").kill_on_drop(true).spawn()?;
            Ok((child, near))
        }
    }

    fn kept(
        start: impl FnMut() -> io::Result<(Child, UnixStream)> + Send + 'static,
        changed: impl Fn() + Send + Sync + 'static,
    ) -> Deputy {
        let (requests, inbox) = mpsc::unbounded_channel();
        tokio::spawn(keep(start, inbox, changed));
        Deputy { requests }
    }

    /// Answers that every working directory is usable, except those named `silent`.
    async fn answer_all(stream: UnixStream) {
        let (reader, mut writer) = stream.into_split();
        let mut reader = frame::Reader::new(reader, MAX_FRAME);
        while let Ok(Some(Numbered { number, body })) = reader.read::<Numbered<Request>>().await {
            match body {
                Request::Workdir(path) if !path.ends_with("silent") => {
                    let reply = Numbered { number, body: Reply::Workdir(SeenWorkdir::Usable) };
                    frame::write(&mut writer, &reply).await.unwrap();
                }
                _ => {}
            }
        }
    }

    async fn listen(mut stream: UnixStream) {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }

    fn is_there(pid: u32) -> bool {
        // A zombie counts as ended.
        let stat = crate::sys::procfs::read(format!("/proc/{pid}/stat")).ok();
        stat.and_then(|stat| crate::sys::procfs::Stat::parse(&stat)).is_some_and(|stat| !stat.zombie)
    }

    #[tokio::test]
    async fn a_deputy_that_does_not_answer_is_killed_and_replaced() {
        let (pids, mut started) = mpsc::unbounded_channel();
        let mut start =
            starts(async |count, stream| if count == 0 { listen(stream).await } else { answer_all(stream).await });
        let start = move || {
            let (child, stream) = start()?;
            pids.send(child.id().unwrap()).unwrap();
            Ok((child, stream))
        };
        let deputy = kept(start, || {});
        let tmux = deputy.tmux(Program::Installed, vec![], Duration::from_mins(1));
        let set_mode = deputy.ask(Request::SetMode { path: "/f".into(), mode: 0 }, Duration::from_millis(100));
        let (tmux, set_mode) = tokio::join!(tmux, set_mode);
        assert!(matches!(set_mode, Err(Error::TimedOut(_))), "{set_mode:?}");
        assert!(matches!(tmux, Err(Error::Gone)), "{tmux:?}");
        let pid = started.recv().await.unwrap();
        assert_eq!(deputy.workdir("/w".into()).await.unwrap(), SeenWorkdir::Usable);
        assert!(!is_there(pid));
    }

    #[tokio::test]
    async fn a_stopped_deputy_is_replaced_before_the_timeout() {
        let mut start =
            starts(async |count, stream| if count == 0 { listen(stream).await } else { answer_all(stream).await });
        let start = move || {
            let (child, stream) = start()?;
            if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
                rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
            }
            Ok((child, stream))
        };
        let deputy = kept(start, || {});
        let asked = Instant::now();
        let tmux = deputy.tmux(Program::Installed, vec![], Duration::from_mins(1)).await;
        assert!(matches!(tmux, Err(Error::Gone)), "{tmux:?}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert_eq!(deputy.workdir("/w".into()).await.unwrap(), SeenWorkdir::Usable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crashing_deputy_is_restarted_with_backoff() {
        let (count, changes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, noticed) = (Arc::clone(&count), Arc::clone(&changes));
        let start = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Err(io::Error::other("no such user"))
        };
        let deputy = kept(start, move || _ = noticed.fetch_add(1, Ordering::Relaxed));
        deputy.watch(vec![Target::Path("/w".into())]);
        for _ in 0..20 {
            let before = Instant::now();
            let asked = (0..100).map(|_| {
                let deputy = deputy.clone();
                async move { deputy.workdir("/w".into()).await }
            });
            let answers = asked.collect::<JoinSet<_>>().join_all().await;
            assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Start(_)))), "{answers:?}");
            assert!(before.elapsed() <= LONGEST_PAUSE + Duration::from_millis(1));
        }
        let before = count.load(Ordering::Relaxed);
        sleep(10 * LONGEST_PAUSE).await;
        assert!((9..=11).contains(&(count.load(Ordering::Relaxed) - before)));
        assert_eq!(changes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn every_new_deputy_receives_what_to_watch() {
        let (heard, mut watched) = mpsc::unbounded_channel();
        let mut good = starts(move |_, stream| {
            let heard = heard.clone();
            async move {
                let mut reader = frame::Reader::new(stream, MAX_FRAME);
                let first = reader.read::<Numbered<Request>>().await.unwrap().unwrap();
                heard.send(first.body).unwrap();
            }
        });
        let mut tries = 0;
        let start = move || {
            tries += 1;
            if tries == 1 { Err(io::Error::other("not yet")) } else { good() }
        };
        let deputy = kept(start, || {});
        let targets = vec![Target::Path("/w".into())];
        deputy.watch(targets.clone());
        // Again after the end of the first deputy.
        for _ in 0..2 {
            let heard = tokio::time::timeout(Duration::from_secs(5), watched.recv()).await.unwrap();
            assert_eq!(heard, Some(Request::Watch(targets.clone())));
        }
    }
}
