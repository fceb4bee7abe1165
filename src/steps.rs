//! Steps: work that is long in code and short in life, which a launcher has done before its harness starts.
//!
//! ```text
//! launcher ── agentd step packages NAME PACKAGE… ──▶ Nix
//!    ◀────── the outcome, on a pipe ──────┘ what it does: to the pane
//! ```
//!
//! A step is a command of the big program, so that the launcher, which stays as long as its agent, stays small. It runs as the agent
//! user, in the agent's control group.

pub mod packages;
