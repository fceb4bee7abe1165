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

pub mod cli;
pub mod config;
pub mod duration;
pub mod harness;
pub mod status;
