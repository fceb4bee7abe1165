//! What is told: the snapshot that the API serves, events, and figures.

pub mod metrics;
