//! What the daemon publishes: the snapshot that the API serves, events, and figures.

pub mod facts;
pub mod metrics;
pub mod outputs;
pub mod redactions;
pub mod ring;
pub mod snapshot;
