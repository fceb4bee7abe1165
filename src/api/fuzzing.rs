//! Entry points for fuzzing; private otherwise.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use hyper::Request;
use nix::sys::signal::{SigSet, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::Connection;
use super::http::{Next, Responder, header_length};
use super::query::StreamRequest;
use super::slots::{Client, Rest};
use super::{Limits, Sources};
use crate::agent::name::Name;
use crate::deputy::Deputy;
use crate::deputy::renderer::Renderers;
use crate::logs::store::Store;
use crate::observe::redactions::{AgentRedactor, Redactions};
use crate::observe::ring::Ring;
use crate::observe::snapshot::Parts;
use crate::wire::events::What;
use crate::wire::status::{AgentStatus, Errors};

/// What a server tells of these agents, of which something is kept there. Needs the runtime.
pub fn sources(agents: Vec<AgentStatus>, logs: Option<Store>) -> Sources {
    let mut ring = Ring::new(UNIX_EPOCH);
    agents.iter().flat_map(|agent| What::of_change(None, agent)).for_each(|what| ring.push(what));
    // It is known that they were given no secrets: else nothing that they print is shown.
    let redactor = || AgentRedactor { redactor: Arc::default(), is_all: true };
    let redactors = agents.iter().filter_map(|agent| Some((agent.name.parse().ok()?, redactor()))).collect();
    let redactions = Arc::new(Redactions::new(redactors, None));
    let parts = Parts { redactions, ..Parts::new(agents, Instant::now(), Errors::default()) };
    let snapshot = watch::channel(Arc::new(parts.into())).1;
    let renderers = logs.is_some().then(|| Renderers::new(Deputy::rendering()));
    Sources { snapshot, happenings: watch::channel(ring).1, desks: None, logs, renderers }
}

/// How a client talks.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// How many bytes at a time.
    pub piece: usize,
    /// Whether it says that it has said all.
    pub half_closes: bool,
    /// How many bytes it takes, and then no more.
    pub takes: usize,
    /// How long it listens.
    pub patience: Duration,
}

/// What a client has heard.
#[derive(Debug)]
pub struct Heard {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether the server came to its end.
    pub is_whole: bool,
}

/// Says this to a server on a socket, and checks that it is done with the client soon after the client has gone.
pub async fn converse(sources: Sources, said: &[u8], manner: Manner, keep_alive: bool) -> Heard {
    const TO_END: Duration = Duration::from_secs(30);
    /// In which a thread ends that answers: where the clock goes on as soon as every task waits, none is waited for.
    const TRIES_TO_HEAR: u32 = 3;
    const TRIES_TO_END: u32 = 1000;
    let mut heard = Heard { bytes: Vec::new(), is_whole: false };
    // As in every program that begins in Rust, which this one does not.
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    if pipe.thread_block().is_err() {
        return heard;
    }
    let Ok((socket, client)) = UnixStream::pair() else { return heard };
    let responder = Arc::new(Responder::new(sources, Limits::default(), keep_alive));
    let connection = Connection::new(socket, Client::Other, Rest::default(), responder);
    let serving = tokio::spawn(async move { drop(connection.serve().await) });
    let (mut reader, mut writer) = client.into_split();
    let saying = async {
        for piece in said.chunks(manner.piece.max(1)) {
            // Whoever is not listened to any more has said enough.
            if writer.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        if manner.half_closes {
            let _ = writer.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let hearing = async {
        while heard.bytes.len() < manner.takes {
            match reader.read_buf(&mut heard.bytes).await {
                Ok(0) => {
                    heard.is_whole = true;
                    break;
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    };
    let talking = async {
        tokio::select! {
            () = saying => {}
            () = hearing => {}
        }
    };
    in_time(manner.patience, TRIES_TO_HEAR, talking).await;
    drop((reader, writer));
    let ended = in_time(TO_END, TRIES_TO_END, serving).await;
    assert!(matches!(ended, Some(Ok(()))), "it goes on serving nobody, or has failed");
    heard
}

/// What comes of it within so much time, so many times over, with a moment of real time after each.
async fn in_time<T>(time: Duration, tries: u32, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    for _ in 0..tries {
        if let Ok(done) = timeout(time, &mut work).await {
            return Some(done);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Says this to a server, request by request, and checks that each is answered or waited for.
pub fn talk(mut bytes: &[u8]) {
    let responder = Responder::new(sources(Vec::new(), None), Limits::default(), true);
    while !bytes.is_empty() {
        let length = header_length(bytes);
        let request = &bytes[..length.unwrap_or(bytes.len())];
        let next = responder.answer(request, length.is_some(), None, Client::Other);
        assert!(next.is_some(), "what nothing more can come of is answered");
        assert!(length.is_none() || responder.answer(request, true, None, Client::Other).is_some());
        match next {
            Some(Next::Say(answer)) if answer.goes_on => bytes = &bytes[request.len()..],
            _ => return,
        }
    }
}

/// Asks for this, and checks that it is an order, or refused with a reason.
pub fn order(uri: &str) {
    let Ok(request) = Request::builder().uri(uri).body(()) else { return };
    let Ok(name) = "a".parse::<Name>() else { return };
    for order in [
        StreamRequest::events(&request),
        StreamRequest::screen(name.key(), &request),
        StreamRequest::log(name, &request),
    ] {
        assert!(order.err().is_none_or(|why| !why.is_empty()));
    }
}
