//! What an agent is, and how it lives: decisions only.

pub mod fingerprint;
pub mod harness;
pub mod machine;
pub mod reconcile;
pub mod restart;
