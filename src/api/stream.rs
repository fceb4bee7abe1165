//! Slow and endless answers, each on a connection that hyper owns from then on, and that ends with the answer.
//!
//! Bytes are produced only while there is room for them. A client that does not read stops that, and is disconnected after
//! [`stall`](super::Limits::stall).

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use http_body_util::{Either, Full};
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::agent::name::Key;
use crate::api::outlet::{Gone, Made, Outlet};
use crate::deputy::transcript::{Broken, Outlet as _};
use crate::logs::selection::{self, Wanted, Which};
use crate::observe::ring::{Ring, RingEvent};
use crate::wire::events::Since;
use crate::wire::status::{Fault, FaultCode, ScreenShown, Time};

use super::answer;
use super::http::{Ordered, Responder};
use super::logs::Telling;
use super::query::{COLORED, StreamRequest};

/// The media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// The media type of plain text.
const TEXT: &str = "text/plain; charset=utf-8";

/// How often to check that the client of a long answer is still there.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The pause before the next look at a screen that has just changed, and at one that has not changed for long.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(1);

/// Serves the answer to the request in `heard`, and to nothing after it.
pub(super) async fn serve(
    socket: UnixStream,
    heard: &[u8],
    ordered: Box<Ordered>,
    responder: &Arc<Responder>,
) -> io::Result<()> {
    let over = Arc::new(Notify::new());
    let socket = Arc::new(socket);
    let io = TokioIo::new(tokio::io::join(heard.chain(Shared(Arc::clone(&socket))), Shared(Arc::clone(&socket))));
    let follows = ordered.order.follows();
    let service = service_fn(|_| {
        let (order, responder, over) = (ordered.order.clone(), Arc::clone(responder), Arc::clone(&over));
        async { Ok::<_, Infallible>(answer(order, responder, over).await) }
    });
    let mut http = http1::Builder::new();
    http.max_buf_size(responder.limits.header_size.max(8192)).header_read_timeout(None).title_case_headers(true);
    // A follower that closes its side has gone.
    http.keep_alive(false).half_close(!follows);
    let stalled = async {
        over.notified().await;
        sleep(responder.limits.stall).await;
    };
    let left = async { if follows { std::future::pending().await } else { hung_up(&socket).await } };
    tokio::select! {
        result = http.serve_connection(io, service) => result.map_err(io::Error::other),
        () = stalled => Err(io::ErrorKind::TimedOut.into()),
        () = left => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// Waits until the client has closed both directions. A client that has closed only its own still waits for its answer.
async fn hung_up(socket: &UnixStream) {
    loop {
        sleep(LOOK_AGAIN).await;
        let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        let seen = poll(&mut sockets, PollTimeout::ZERO).ok().and_then(|_| sockets[0].revents());
        if seen.is_some_and(|seen| seen.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)) {
            return;
        }
    }
}

/// A socket that is also observed elsewhere.
struct Shared(Arc<UnixStream>);

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(|count| buffer.advance(count))),
            }
        }
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Shuts down the writing direction.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(self.0.as_raw_fd(), Shutdown::Write).map_err(io::Error::from))
    }
}

type Answer = Response<Either<Full<Bytes>, Made>>;

async fn answer(order: StreamRequest, responder: Arc<Responder>, over: Arc<Notify>) -> Answer {
    match order {
        StreamRequest::Events { since, agent, labels, follows } => {
            let mut happenings = responder.sources.happenings.clone();
            // Before the answer begins, so that a client that has read the header misses nothing.
            let since = since.unwrap_or_else(|| Since::Seen(happenings.borrow_and_update().latest()));
            let is_meant = move |kept: &RingEvent| {
                agent.as_ref().is_none_or(|agent| kept.concerns(agent)) && kept.is_labeled(&labels)
            };
            made(EVENT_STREAM, &responder, over, move |outlet| tell(outlet, happenings, since, is_meant, follows))
        }
        StreamRequest::Screen { agent, colors, follows: true } => {
            let responder_too = Arc::clone(&responder);
            made(EVENT_STREAM, &responder, over, move |outlet| show(outlet, responder_too, agent, colors))
        }
        StreamRequest::Log { agent, which, lines, since, raw, follows, style } => {
            let Some(store) = responder.sources.logs.clone() else {
                return refusal(answer::unavailable("nothing is kept of what agents print"));
            };
            let renderers = responder.sources.renderers_of(&agent.key()).filter(|_| !raw);
            if renderers.is_none() && !raw {
                return refusal(answer::unavailable("there is nobody to make text of what agents print"));
            }
            let wanted = Wanted { lines, since, as_text: !raw };
            let opened = match selection::open(&store, &agent, which, wanted).await {
                Ok(opened) => opened,
                Err(selection::Error::Nothing) if responder.snapshot().agent(&agent.key()).is_none() => {
                    return refusal(answer::no_such_agent());
                }
                Err(error @ (selection::Error::Busy(_) | selection::Error::Read(_))) => {
                    return refusal(answer::unavailable(&error.to_string()));
                }
                Err(error) => return refusal(answer::nothing_kept(&error.to_string())),
            };
            if !raw && let Err(unknown) = responder.snapshot().redactor(&agent.key()).await {
                return refusal(answer::unavailable(&unknown.to_string()));
            }
            let is_latest = matches!(which, Which::Latest | Which::All);
            let snapshot = responder.sources.snapshot.clone();
            let telling = Telling {
                store,
                agent,
                renderers,
                style,
                wanted,
                is_latest,
                snapshot,
                live_in: None,
                look_again: false,
            };
            let content_type = if raw { "application/octet-stream" } else { TEXT };
            if follows {
                made(content_type, &responder, over, move |outlet| telling.follow(outlet, opened))
            } else {
                made(content_type, &responder, over, move |outlet| telling.tell(outlet, opened))
            }
        }
        StreamRequest::Screen { agent, colors, follows: false } => {
            let content_type = if colors { COLORED } else { TEXT };
            match responder.screens.look(&agent, colors, || responder.snapshot()).await {
                Ok(text) => whole(text.into(), content_type),
                Err(why) => refusal(answer::unavailable(&why)),
            }
        }
    }
}

fn refusal(response: Response<Bytes>) -> Answer {
    response.map(|body| Either::Left(Full::new(body)))
}

fn whole(body: Bytes, content_type: &'static str) -> Answer {
    of_type(Either::Left(Full::new(body)), content_type)
}

fn of_type(body: Either<Full<Bytes>, Made>, content_type: &'static str) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body that `maker` produces piece by piece; `maker` ends with it.
fn made<F, E>(
    content_type: &'static str,
    responder: &Responder,
    over: Arc<Notify>,
    maker: impl FnOnce(Outlet) -> F,
) -> Answer
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Broken>,
{
    let (pieces, body) = mpsc::channel(1);
    let failed = pieces.clone();
    let making = maker(Outlet { pieces, stall: responder.limits.stall, heartbeat: responder.limits.heartbeat });
    let mut maker = JoinSet::new();
    maker.spawn(async move {
        // The client has gone.
        let made = making.await.map_err(Into::into);
        over.notify_one();
        if let Err(Broken::Failed(why)) = made {
            tracing::debug!("an answer breaks off: {why}");
            // So that the client does not take it for complete.
            let _ = failed.send(Err(io::Error::other(why))).await;
        }
    });
    of_type(Either::Right(Made { pieces: body, _maker: maker }), content_type)
}

/// Sends events as they enter the ring.
async fn tell(
    outlet: Outlet,
    mut happenings: watch::Receiver<Ring>,
    mut since: Since,
    is_meant: impl Fn(&RingEvent) -> bool,
    follows: bool,
) -> Result<(), Gone> {
    // The client sees at once that it is connected, and reconnects soon after a loss. The id without data is not an event (HTML, 9.2.6),
    // but sets where the client continues: otherwise one that loses the connection before the first event would start over.
    outlet.send(format!("retry: 1000\nid: {since}\n\n").into()).await?;
    loop {
        let kept = {
            let ring = happenings.borrow_and_update();
            let kept = ring.since(since);
            since = Since::Seen(ring.latest());
            kept
        };
        for kept in kept.into_iter().filter(&is_meant) {
            outlet.send(kept.message).await?;
        }
        if !follows {
            return Ok(());
        }
        match timeout(outlet.heartbeat, happenings.changed()).await {
            Ok(Ok(())) => {}
            // The daemon ends.
            Ok(Err(_)) => return Ok(()),
            // Events about other agents also move the place to continue.
            Err(_) => outlet.send(format!("id: {since}\n\n").into()).await?,
        }
    }
}

/// The data of a message that says why a screen is not available.
fn unavailable(why: &str) -> Fault {
    Fault { error: why.to_owned(), code: FaultCode::Unavailable }
}

/// Sends a screen whenever it has changed, until the agent is removed.
async fn show(outlet: Outlet, responder: Arc<Responder>, agent: Key, colors: bool) -> Result<(), Gone> {
    let mut shown = None;
    let (mut pause, mut silence) = (SHORTEST, Duration::ZERO);
    loop {
        if responder.snapshot().agent(&agent).is_none() {
            return Ok(());
        }
        let now = Some(responder.screens.look(&agent, colors, || responder.snapshot()).await);
        if now != shown {
            match &now {
                Some(Ok(text)) => {
                    let at = Time(SystemTime::now());
                    outlet.send_message("screen", &ScreenShown { at, text: text.clone() }).await?;
                }
                Some(Err(error)) => outlet.send_message("error", &unavailable(error)).await?,
                None => {}
            }
            (shown, pause, silence) = (now, SHORTEST, Duration::ZERO);
        } else if silence >= outlet.heartbeat {
            outlet.beat().await?;
            silence = Duration::ZERO;
        }
        sleep(pause).await;
        silence += pause;
        pause = (pause * 3 / 2).min(LONGEST);
    }
}
