//! What an agent is, and how it lives: decisions only.

pub mod changes;
pub mod cost;
pub mod declaration;
pub mod fingerprint;
pub mod harness;
pub mod labels;
pub mod launch;
pub mod machine;
pub mod name;
pub mod orders;
pub mod packages;
pub mod program;
pub mod reconcile;
pub mod reset_time;
pub mod restart;
pub mod sandbox;
pub mod secrets;
pub mod seen;
pub mod spec;
pub mod stream_kind;
pub mod user;
pub mod verdict;
