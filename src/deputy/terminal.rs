//! An operator's connection to an agent's terminal, relayed with the agent user's rights.
//!
//! ```text
//! operator's client ⇄ socket ⇄ relay (a thread of the deputy) ⇄ a fresh terminal ⇄ tmux client
//! ```
//!
//! The daemon has checked who the operator is, and passes the operator's socket. Whoever controls this relay gains what the agent user
//! has anyway: the bytes for the operator's screen, and what the operator types. The operator's client trusts none of it.
//!
//! Nothing is buffered beyond one frame each way: a side that does not read stops the other, and one that does not read for
//! [`Wanted::stall`] is cut off. The relay ends with the tmux client, with the operator's client, or when the daemon closes its end of
//! the second socket. All that is ever said there is one byte for the daemon's log, if the tmux client ended first.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::termios::{Winsize, tcsetwinsize};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use super::kind::Kind;
use super::protocol::Program;
use super::worker::{TMUX, path_of};
use crate::sys::account::Account;
use crate::sys::fd::Stream;
use crate::sys::pty_child::{self, Handle, PtyChild};
use crate::wire::terminal::{self, Decoder, End, HEAD, Malformed, Size, Why};

/// How long the client may take to end, and how long its last output may take to arrive.
const GRACE: Duration = Duration::from_secs(1);

/// How long the keyboard must pause before a suspended client is continued.
const PAUSE: Duration = Duration::from_secs(1);

/// How many bytes a second may be typed, or shown. A screen that changes completely sixty times a second needs less than a fourth.
const TYPED_PER_SECOND: usize = 1 << 20;
const SHOWN_PER_SECOND: usize = 8 << 20;

/// How long one size lasts before the next. A server runs a program for each.
const SIZE_INTERVAL: Duration = Duration::from_millis(100);

/// The most columns and rows that a terminal gets here, more than any screen has. tmux fills what is beyond the window: with the
/// largest size that the protocol knows, its server would be busy for minutes, and fail all agents.
const MOST_COLUMNS: u16 = 2000;
const MOST_ROWS: u16 = 1000;

/// What the daemon is told if the tmux client ended first.
const ENDED: u8 = b'.';

/// The stack size of a relay's thread, which makes no deep calls.
const STACK: usize = 512 << 10;

/// The tmux client that an operator wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// The program.
    pub program: Program,
    /// The arguments of a client that only tries whether it knows the kind of terminal.
    pub looking: Vec<String>,
    /// The arguments of the client that attaches.
    pub entering: Vec<String>,
    /// The name of the operator's terminal, if it has one.
    pub term: Option<String>,
    /// Whether that terminal takes UTF-8.
    pub utf_8: bool,
    /// The columns and rows of that terminal; 0 if not known.
    pub size: (u16, u16),
    /// How long the operator's client may read nothing while there is something to show.
    pub stall: Duration,
}

/// Relays in a separate thread. Does not wait for it.
pub(super) fn start(wanted: Wanted, account: Account, socket: OwnedFd, daemon: OwnedFd) -> Result<(), String> {
    let work = move || -> io::Result<()> {
        let stream = |descriptor: OwnedFd| {
            let stream = std::os::unix::net::UnixStream::from(descriptor);
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let path = path_of(&wanted.program).map_err(|error| error.to_string());
            relay(path, &wanted, &account, stream(socket)?, stream(daemon)?).await;
            Ok(())
        })
    };
    // The daemon notices the end, even an early one.
    let started =
        thread::Builder::new().name("agentd-terminal".to_owned()).stack_size(STACK).spawn(move || drop(work()));
    started.map(drop).map_err(|error| format!("no thread can be started: {error}"))
}

/// Relays until either side is gone, and says how it ended.
async fn relay(
    path: Result<PathBuf, String>,
    wanted: &Wanted,
    account: &Account,
    socket: UnixStream,
    mut daemon: UnixStream,
) {
    let (mut reader, mut writer) = socket.into_split();
    let ended = match path {
        Ok(path) => attend(&path, wanted, account, &mut reader, &mut writer, &mut daemon).await,
        Err(message) => Err(message),
    };
    let end = ended.unwrap_or_else(|message| End::Failed { why: Why::Other, message });
    let _ = timeout(GRACE, writer.write_all(&terminal::json(terminal::Kind::End, &end))).await;
    // Closed for all who may still hold it.
    let _ = writer.shutdown().await;
}

async fn attend(
    path: &Path,
    wanted: &Wanted,
    account: &Account,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
    daemon: &mut UnixStream,
) -> Result<End, String> {
    let command = |words: &[String], term: &str| {
        let mut command = Command::new(path);
        command.arg0(TMUX).args(words).current_dir("/").env_clear().envs(account.base_environment());
        command.env("TERM", term).env("LANG", if wanted.utf_8 { "C.UTF-8" } else { "C" });
        command
    };
    let kind = Kind::named(wanted.term.as_deref().map(std::ffi::OsStr::new));
    let term = kind.known(|term| command(&wanted.looking, term)).await;
    say(writer, terminal::frame(terminal::Kind::Started, term.as_bytes()), wanted.stall).await?;
    let no_terminal = |error: io::Error| format!("failed to create a terminal for the tmux client: {error}");
    let (window, pts) = pty_child::terminal().map_err(no_terminal)?;
    resize(&window, Size { columns: wanted.size.0, rows: wanted.size.1 });
    let not_started = |error: io::Error| format!("failed to start the tmux client: {error}");
    let mut client = PtyChild::start(command(&wanted.entering, &term), pts).map_err(not_started)?;
    let handle = client.handle().map_err(not_started)?;
    let (mut is_shown, mut byte) = (false, [0]);
    let cut = {
        let mut typing = pin!(type_in(reader, &window, &handle));
        let mut showing = pin!(show(&window, writer, wanted.stall));
        let cut = tokio::select! {
            biased;
            _ = client.ended() => None,
            cut = &mut showing => {
                is_shown = true;
                cut.err()
            }
            cut = &mut typing => Some(cut.err().unwrap_or_else(|| "the operator's client has gone".to_owned())),
            _ = daemon.read(&mut byte) => Some("agentd has ended, or is restarting; the agent is not affected".to_owned()),
        };
        if !is_shown {
            handle.terminate();
            let _ = timeout(GRACE, showing).await;
        }
        cut
    };
    let status = client.finish(GRACE).await;
    if cut.is_none() {
        let _ = daemon.write_all(&[ENDED]).await;
    }
    match (cut, status) {
        (Some(cut), _) => Err(cut),
        (None, Ok(status)) if status.success() => Ok(End::Detached),
        (None, Ok(status)) => Err(format!("the tmux client failed: {status}")),
        (None, Err(error)) => Err(format!("failed to wait for the tmux client: {error}")),
    }
}

fn resize(window: &Stream, size: Size) {
    if size.columns > 0 && size.rows > 0 {
        let (ws_col, ws_row) = (size.columns.min(MOST_COLUMNS), size.rows.min(MOST_ROWS));
        let size = Winsize { ws_col, ws_row, ws_xpixel: 0, ws_ypixel: 0 };
        let _ = tcsetwinsize(window, size);
    }
}

/// Sends a frame, unless the operator's client does not read.
async fn say(writer: &mut OwnedWriteHalf, frame: Vec<u8>, stall: Duration) -> Result<(), String> {
    match timeout(stall, writer.write_all(&frame)).await {
        Ok(sent) => sent.map_err(|_| "the connection is gone".to_owned()),
        Err(_) => Err(format!("nothing was read for {}", humantime::format_duration(stall))),
    }
}

/// Passes on what the operator's client sends, until it has gone. An error says why it is cut off.
///
/// tmux may suspend its client (Ctrl-b Ctrl-z), and there is no shell here to continue it. So this continues the client whenever the
/// keyboard pauses. It does not do so with each key, because a client that gets SIGCONT while it detaches may take its server for dead
/// (3.3a does).
async fn type_in(reader: &mut OwnedReadHalf, window: &Stream, client: &Handle) -> Result<(), String> {
    let malformed = |error: Malformed| format!("the client sent {error}");
    let (mut decoder, mut pace, mut bytes) = (Decoder::default(), Pace::new(TYPED_PER_SECOND), [0; 4096]);
    let (mut is_fresh, mut sizes) = (false, Sizes::default());
    loop {
        while let Some((kind, body)) = decoder.next_frame().map_err(malformed)? {
            match kind {
                terminal::Kind::Bytes => {
                    if write_all(window, &body, client).await.is_err() {
                        // The client is about to end.
                        return std::future::pending().await;
                    }
                    is_fresh = true;
                }
                terminal::Kind::Size => sizes.want(Size::of(&body).map_err(malformed)?),
                terminal::Kind::End => return Ok(()),
                _ => return Err(malformed(Malformed::Body)),
            }
            sizes.apply(window);
            pace.spend(HEAD + body.len()).await;
        }
        sizes.apply(window);
        let limit = sizes.pause().or(is_fresh.then_some(PAUSE));
        let read = reader.read(&mut bytes);
        let read = if let Some(limit) = limit { timeout(limit, read).await } else { Ok(read.await) };
        match read {
            Ok(Ok(count @ 1..)) => decoder.push(&bytes[..count]),
            Ok(_) => return Ok(()),
            Err(_) if sizes.wanted.is_some() => {}
            Err(_) => {
                client.resume();
                is_fresh = false;
            }
        }
    }
}

/// The sizes that the operator's terminal takes, of which only the last counts if they come fast.
#[derive(Debug, Default)]
struct Sizes {
    wanted: Option<Size>,
    /// When the present one was set.
    since: Option<Instant>,
}

impl Sizes {
    fn want(&mut self, size: Size) {
        self.wanted = Some(size);
    }

    /// How long the size that is wanted has to wait; `None` if none is wanted.
    fn pause(&self) -> Option<Duration> {
        let age = self.since.map_or(SIZE_INTERVAL, |since| since.elapsed());
        self.wanted.map(|_| SIZE_INTERVAL.saturating_sub(age))
    }

    fn apply(&mut self, window: &Stream) {
        if self.pause().is_some_and(|pause| pause.is_zero())
            && let Some(size) = self.wanted.take()
        {
            resize(window, size);
            self.since = Some(Instant::now());
        }
    }
}

/// Passes on what the client shows, until its terminal is closed. An error says why the operator's client is cut off.
async fn show(window: &Stream, writer: &mut OwnedWriteHalf, stall: Duration) -> Result<(), String> {
    let (mut pace, mut bytes) = (Pace::new(SHOWN_PER_SECOND), [0; 4096]);
    while let Ok(count @ 1..) = window.read(&mut bytes).await {
        say(writer, terminal::frame(terminal::Kind::Bytes, &bytes[..count]), stall).await?;
        pace.spend(count).await;
    }
    Ok(())
}

/// Writes all of it. Continues a client that takes nothing for a while, because it may be suspended.
async fn write_all(window: &Stream, mut bytes: &[u8], client: &Handle) -> io::Result<()> {
    while !bytes.is_empty() {
        match timeout(PAUSE, window.write(bytes)).await {
            Ok(written) => bytes = &bytes[written?..],
            Err(_) => client.resume(),
        }
    }
    Ok(())
}

/// A limit on bytes per second.
struct Pace {
    limit: usize,
    since: Instant,
    spent: usize,
}

impl Pace {
    fn new(limit: usize) -> Self {
        Self { limit, since: Instant::now(), spent: 0 }
    }

    /// Counts these bytes, and waits if this second has no room for more.
    async fn spend(&mut self, count: usize) {
        const SECOND: Duration = Duration::from_secs(1);
        if self.since.elapsed() >= SECOND {
            (self.since, self.spent) = (Instant::now(), 0);
        }
        self.spent += count;
        if self.spent >= self.limit {
            sleep_until(self.since + SECOND).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::terminal::{Kind as FrameKind, MAX_BODY, head};

    /// A relay of a shell that runs this script, and both of its sockets.
    fn relay_of(script: &str, stall: Duration) -> (UnixStream, UnixStream, tokio::task::JoinHandle<()>) {
        let words = |script: &str| ["-c", script].map(str::to_owned).to_vec();
        let wanted = Wanted {
            program: Program::Installed,
            looking: words("exit 0"),
            entering: words(script),
            term: Some("xterm".to_owned()),
            utf_8: true,
            size: (90, 30),
            stall,
        };
        let ((client, socket), (daemon, far)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let relay = tokio::spawn(async move {
            relay(Ok("/bin/sh".into()), &wanted, &Account::current().unwrap(), socket, far).await;
        });
        (client, daemon, relay)
    }

    async fn frame(client: &mut UnixStream) -> (FrameKind, Vec<u8>) {
        let mut first = [0; HEAD];
        client.read_exact(&mut first).await.unwrap();
        let (kind, length) = head(first).unwrap();
        let mut body = vec![0; length];
        client.read_exact(&mut body).await.unwrap();
        (kind, body)
    }

    /// What is shown until the end, and the end.
    async fn rest(client: &mut UnixStream) -> (String, End) {
        let mut shown = Vec::new();
        loop {
            match frame(client).await {
                (FrameKind::Bytes, bytes) => shown.extend(bytes),
                (FrameKind::End, body) => {
                    return (String::from_utf8_lossy(&shown).into_owned(), terminal::read(&body).unwrap());
                }
                (FrameKind::Started, term) => assert_eq!(term, b"xterm"),
                other => panic!("{other:?}"),
            }
        }
    }

    fn message(end: End) -> String {
        let End::Failed { message, .. } = end else { panic!("{end:?}") };
        message
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn bytes_sizes_and_the_end_are_relayed() {
        let script = "stty -echo; stty size; echo ready; read line; echo \"heard $line\"; stty size";
        let (mut client, _daemon, relay) = relay_of(script, LONG);
        let mut shown = String::new();
        while !shown.contains("ready") {
            shown += &String::from_utf8_lossy(&frame(&mut client).await.1);
        }
        assert!(shown.contains("30 90"), "{shown}");
        for frame in [
            terminal::frame(FrameKind::Size, &Size { columns: 70, rows: 20 }.body()),
            terminal::frame(FrameKind::Bytes, b"one\r"),
        ] {
            client.write_all(&frame).await.unwrap();
        }
        let (shown, end) = rest(&mut client).await;
        assert!(shown.contains("heard one") && shown.contains("20 70"), "{shown}");
        assert_eq!(end, End::Detached);
        relay.await.unwrap();
    }

    #[tokio::test]
    async fn sizes_are_bounded_and_only_the_last_of_many_counts() {
        // Counts how often the size changes.
        let script = "n=0; trap 'n=$((n + 1))' WINCH; stty -echo; echo ready; until read _; do :; done; sleep 1; stty size; echo \"changes: $n.\"";
        let (mut client, _daemon, relay) = relay_of(script, LONG);
        while !String::from_utf8_lossy(&frame(&mut client).await.1).contains("ready") {}
        let size = |columns, rows| terminal::frame(FrameKind::Size, &Size { columns, rows }.body());
        for number in 0..1000 {
            client.write_all(&size(80 + number % 2, 24)).await.unwrap();
        }
        client.write_all(&size(u16::MAX, u16::MAX)).await.unwrap();
        client.write_all(&terminal::frame(FrameKind::Bytes, b"\r")).await.unwrap();
        let (shown, end) = rest(&mut client).await;
        assert!(shown.contains("1000 2000"), "{shown}");
        let changes = shown.split_once("changes: ").and_then(|(_, rest)| rest.split_once('.')).unwrap().0;
        assert!((1..50).contains(&changes.parse::<u32>().unwrap()), "{shown}");
        assert_eq!(end, End::Detached);
        relay.await.unwrap();
    }

    #[tokio::test]
    async fn client_that_never_reads_is_cut_off() {
        let (client, _daemon, relay) = relay_of("yes", Duration::from_millis(200));
        timeout(LONG, relay).await.unwrap().unwrap();
        drop(client);
    }

    #[tokio::test]
    async fn idle_client_is_not_cut_off() {
        let (mut client, _daemon, relay) = relay_of("sleep 1; echo late", Duration::from_millis(50));
        assert!(rest(&mut client).await.0.contains("late"));
        relay.await.unwrap();
    }

    #[tokio::test]
    async fn relay_ends_with_either_side() {
        let (client, mut daemon, relay) = relay_of("read _", LONG);
        drop(client);
        timeout(LONG, relay).await.unwrap().unwrap();
        assert_eq!(daemon.read(&mut [0]).await.unwrap(), 0, "the session has not ended first");

        let (mut client, daemon, relay) = relay_of("read _", LONG);
        assert_eq!(frame(&mut client).await.0, FrameKind::Started);
        drop(daemon);
        let message = message(rest(&mut client).await.1);
        assert!(message.contains("agentd has ended, or is restarting"), "{message}");
        timeout(LONG, relay).await.unwrap().unwrap();

        let (mut client, mut daemon, _relay) = relay_of("kill -9 $$", LONG);
        let message = self::message(rest(&mut client).await.1);
        assert!(message.contains("signal: 9"), "{message}");
        assert_eq!(daemon.read(&mut [0]).await.unwrap(), 1, "the session has ended first");
    }

    #[tokio::test]
    async fn malformed_frame_ends_the_relay() {
        let too_long = [&b"B"[..], &u32::MAX.to_be_bytes()].concat();
        for sent in [
            b"?\0\0\0\0".to_vec(),
            too_long,
            terminal::frame(FrameKind::Size, b"1"),
            terminal::frame(FrameKind::Accepted, b""),
        ] {
            let (mut client, _daemon, relay) = relay_of("read _", LONG);
            client.write_all(&sent).await.unwrap();
            let message = message(rest(&mut client).await.1);
            assert!(message.starts_with("the client sent a frame"), "{message}");
            timeout(LONG, relay).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn typing_without_end_waits_for_the_program() {
        let (mut client, _daemon, _relay) = relay_of("stty raw; echo ready; sleep 100", LONG);
        let flood = terminal::frame(FrameKind::Bytes, &vec![b'x'; MAX_BODY]);
        let mut sent = 0;
        while timeout(Duration::from_millis(500), client.write_all(&flood)).await.is_ok() {
            sent += flood.len();
            assert!(sent < 8 << 20, "nothing holds it up");
        }
    }

    #[tokio::test]
    async fn suspended_client_that_is_typed_into_goes_on() {
        let script = "stty raw -echo; echo ready; kill -STOP $$; head -c 65536 >/dev/null; echo taken";
        let (mut client, _daemon, relay) = relay_of(script, LONG);
        let mut shown = String::new();
        while !shown.contains("ready") {
            shown += &String::from_utf8_lossy(&frame(&mut client).await.1);
        }
        // More than the terminal holds, so that the keyboard never pauses.
        let (mut reader, mut writer) = client.into_split();
        let typing = tokio::spawn(async move {
            for _ in 0..(64 << 10) / MAX_BODY {
                writer.write_all(&terminal::frame(FrameKind::Bytes, &vec![b'x'; MAX_BODY])).await.unwrap();
            }
            writer
        });
        let mut heard = Vec::new();
        timeout(LONG, reader.read_to_end(&mut heard)).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&heard).contains("taken"));
        drop(typing.await.unwrap());
        relay.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn pace_limits_bytes_per_second() {
        let (begun, mut pace) = (Instant::now(), Pace::new(1000));
        for _ in 0..50 {
            pace.spend(100).await;
        }
        assert_eq!(begun.elapsed().as_secs(), 5);
    }
}
