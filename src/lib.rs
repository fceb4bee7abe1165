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
//! *Reconcile* decides which agents exist and with what declaration; a *machine* decides how one agent lives. Decisions are pure
//! functions over values; effects hold no policy. What is wanted is kept apart from what is. Unknown is neither empty nor dead.
//!
//! # The rooms
//!
//! | room | what lives there |
//! |---|---|
//! | [`cli`], `main.rs` | arguments; choice of daemon, client, helper |
//! | [`daemon`] | wiring, signals, the order of start and shutdown |
//! | [`config`] | TOML → validated declarations, findings with places, all defaults |
//! | [`secrets`], [`harness`], [`duration`] | one noun each |
//! | [`inputs`], [`watch`] | reading everything again when it may have changed |
//! | [`desired`] | declarations + prompts + secrets → what is to be launched |
//! | [`reconcile`] | `plan`: what is desired and what is held → actions; pure |
//! | [`supervisor`] | the one loop: event → step → effects → publish |
//! | [`supervisor::machine`], [`supervisor::restart`] | how one agent lives; pure |
//! | [`supervisor::attempt`], [`supervisor::pace`] | one attempt, from the pane to the last of its processes; how many start at a time |
//! | [`launch`] | the launcher: what it and the daemon say to each other, its end, the login |
//! | [`deputy`] | the process that acts with the agent user's rights, and the tmux client at an operator's terminal |
//! | [`cli::attach`] | that terminal and the client's, and what goes between them |
//! | [`tmux`], [`screen`], [`escape`] | sessions and panes; what they show; the sequences in it |
//! | [`kernel`] | what `/proc` and `/sys` say, as bytes |
//! | [`process`] | pidfds: who a process is, and what came of it |
//! | [`tree`], [`cgroup`], [`mark`] | finding and killing everything that is an agent's |
//! | [`record`], [`fingerprint`] | what the next daemon must know |
//! | [`history`] | what became of earlier attempts, for people |
//! | [`orphans`] | what has lost its parent, where this is the first process |
//! | [`way`], [`folder`], [`socket`], [`lock`], [`limits`], [`account`] | what the system gives: one noun each |
//! | [`inheritance`] | what a process must not take along from whoever started it |
//! | [`status`] | the API's types, and the snapshot that is served |
//! | [`output`] | what agents print, kept for people to read |
//! | [`printable`], [`redaction`] | what of others' text may be shown: no character that acts, no secret |
//! | [`metrics`] | the same as figures, for a monitoring system |
//! | [`events`] | what happened, one after the other |
//! | [`api`], [`client`] | serving it, asking for it |
//! | [`frame`], [`passing`], [`descriptor`], [`blocking`], [`clock`], [`memory`], [`signals`], [`log`], [`brake`], [`defect`] | tools |
//!
//! # The processes
//!
//! ```text
//! agentd (root)                     one thread, one loop
//!  ├─ agentd deputy (agent user)    tmux clients, prompt files, working directories
//!  └┄ launch socket ┄┐
//! tmux server (agent user)
//!  └─ agentd exec NAME ATTEMPT      one launcher for each agent, in its pane
//!      └─ the harness                 on a terminal of its own, relayed to the pane and written to its log
//! ```
//!
//! ```text
//! agentd attach (root, or the agent user)    the operator's terminal ⇄ a fresh one
//!  ├─ agentd deputy (agent user)             finds the session, and is gone by then
//!  └─ tmux attach-session (agent user)
//! ```
//!
//! Root touches nothing that the agent user can redirect, and runs no tmux client; the deputy does. The daemon starts no agent
//! itself: tmux starts a launcher, which gets what to launch over a socket, and tells how it ended.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod agent;
pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod contain;
pub mod daemon;
pub mod deputy;
pub mod inputs;
pub mod launch;
pub mod logs;
pub mod observe;
pub mod state;
pub mod supervisor;
pub mod sys;
pub mod text;
pub mod tmux;
pub mod wire;
