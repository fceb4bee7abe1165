//! The read-only HTTP API on a Unix socket.
//!
//! It sees the daemon through the latest [`Snapshot`] only, and no client of it, however it behaves, can hold up another.

pub mod socket;

mod routes;
mod stream;

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::stream::Stream;
use crate::status::Snapshot;

/// How long no client is accepted after the system refused to: what it lacks (descriptors, memory) does not come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What a client may take. The defaults are those of ruling 14 of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many connections are open at once; more are closed as they come.
    pub connections: usize,
    /// From connecting, or from a header's first byte, to its end.
    pub header: Duration,
    /// Bytes of a request's line and header fields. At least 8,192.
    pub header_size: usize,
    /// From an answer to the first byte of the next request.
    pub idle: Duration,
    /// For how long an answer may make no progress because the client does not read.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            header: Duration::from_secs(10),
            header_size: 16 * 1024,
            idle: Duration::from_mins(1),
            stall: Duration::from_secs(10),
        }
    }
}

/// Serves until `shutdown` is done, then closes every connection. Needs the time and I/O drivers of the tokio runtime.
pub async fn serve(
    listener: UnixListener,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    // The two bounds on size keep a client from having more than one header's worth of memory; `Stream` does the waiting.
    http.max_header_size(limits.header_size).max_buf_size(limits.header_size).header_read_timeout(None);
    // Who sends a request and closes that direction (`nc -N`) gets its answer; names are written as existing clients saw them.
    http.half_close(true).title_case_headers(true);

    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // Those that ended are counted out before the next is counted in.
        let stream = tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            stream = accept(&listener) => stream,
        };
        if connections.len() >= limits.connections {
            continue;
        }
        let snapshot = snapshot.clone();
        let service =
            service_fn(move |request| ready(Ok::<_, Infallible>(routes::answer(&request, &snapshot.borrow()))));
        connections.spawn(http.serve_connection(TokioIo::new(Stream::new(stream, limits)), service));
    }
    connections.shutdown().await;
}

/// The next client. Cancel-safe: a client is either returned or still in the queue.
async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!("failed to accept a client of the API: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
