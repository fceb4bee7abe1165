//! agentd keeps declared AI coding agents running in tmux sessions.
//!
//! Data flows one way:
//!
//! ```text
//! jcard.toml ─┐
//!             ├─ Desired ─┐                       one task owns all machines
//! secrets/ ───┘           ├─ plan() → [Action] → machine.step() → [Effect] ─→ tmux, signals, timers
//! tmux, pidfds ─ Observed ┘                             │                           │
//!                                                       │   ←──── Event ────────────┘
//!                                                       └→ Snapshot (watch) → API → CLI
//! ```
//!
//! *Reconcile* decides which agents exist and with what declaration; a *machine* decides how one agent lives.

pub mod account;
pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod deputy;
pub mod descriptor;
pub mod desired;
pub mod duration;
pub mod folder;
pub mod frame;
pub mod harness;
pub mod inputs;
pub mod launch;
pub mod limits;
pub mod lock;
pub mod log;
pub mod process;
pub mod reconcile;
pub mod regular;
pub mod secrets;
pub mod socket;
pub mod status;
pub mod supervisor;
pub mod tmux;
pub mod watch;
