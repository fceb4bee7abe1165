//! Reads the figures of `GET /metrics` in a separate thread, because that takes time.

use std::sync::Arc;

use hyper::body::Bytes;

use crate::observe::metrics;
use crate::observe::snapshot::Snapshot;
use crate::sys::blocking;

/// The figures as text, or why there are none.
pub(super) type Figures = Result<Bytes, String>;

/// Reads the present figures.
pub(super) async fn read(snapshot: Arc<Snapshot>, log_bytes: Option<u64>) -> Figures {
    let text = blocking::run(move || Bytes::from(metrics::text_with_logs(&snapshot, log_bytes))).await;
    text.map_err(|error| format!("failed to read the figures: {error}"))
}
