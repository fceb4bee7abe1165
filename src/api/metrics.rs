//! Figures that take time to read, in a thread of their own.

use std::sync::Arc;

use hyper::body::Bytes;

use crate::observe::metrics;
use crate::observe::snapshot::Snapshot;
use crate::sys::blocking;

/// The text, or why there is none.
pub(super) type Figures = Result<Bytes, String>;

/// The figures of now.
pub(super) async fn read(snapshot: Arc<Snapshot>) -> Figures {
    let text = blocking::run(move || Bytes::from(metrics::text(&snapshot))).await;
    text.map_err(|error| format!("failed to read the figures: {error}"))
}
