//! A body that is produced piece by piece: the two ends of its channel.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::deputy::transcript::{self, Outlet as _};
use crate::text::printable;

pub use crate::deputy::transcript::Gone;

/// The body: the receiving end.
pub struct Made {
    pub(super) pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// Stops when this is dropped.
    pub(super) _maker: JoinSet<()>,
}

impl Body for Made {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// The sending end.
pub struct Outlet {
    pub(super) pieces: mpsc::Sender<io::Result<Bytes>>,
    pub(super) stall: Duration,
    pub(super) heartbeat: Duration,
}

impl transcript::Outlet for Outlet {
    async fn send(&self, piece: Bytes) -> Result<(), Gone> {
        match timeout(self.stall, self.pieces.send(Ok(piece))).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}

impl Outlet {
    /// Sends a message without an id.
    pub(super) async fn send_message<T: Serialize>(&self, kind: &str, data: &T) -> Result<(), Gone> {
        let data = printable::json(serde_json::to_string(data).unwrap_or_default());
        self.send(format!("event: {kind}\ndata: {data}\n\n").into()).await
    }

    /// Sends a comment, which clients ignore.
    pub(super) async fn beat(&self) -> Result<(), Gone> {
        self.send(Bytes::from_static(b":\n\n")).await
    }
}
