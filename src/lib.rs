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
//! # The wings
//!
//! Each wing may use those that its row names, and no others: `tests/layers.rs` compares this table with the imports.
//!
//! | wing | what lives there | may use | may not |
//! |---|---|---|---|
//! | [`text`] | pure text: escape sequences, durations, sizes, what of a text may be shown | `sys` | do I/O (of `sys` it takes memory that is cleared); know an agent |
//! | [`sys`] | what Linux gives, one thing a file: accounts, clocks, descriptors, files, `/proc`, processes, signals, sockets, systemd, the log | `text` | know an agent, a jcard, tmux or the API |
//! | [`wire`] | the types of the API: statuses, events | | import anything of the crate: it is to become a crate of its own |
//! | [`agent`] | what an agent is and how it lives: names, specs, harnesses, declarations, launches, fingerprints; `reconcile`, `machine`, `restart` | `sys`, `wire` | do I/O, read a clock, log, lock, or `await`; know tmux |
//! | [`config`] | a jcard's text → specs, and findings with their positions | `agent`, `sys`, `text` | touch the system |
//! | [`state`] | what the next daemon must know: record, history, lock, key | `agent`, `sys`, `text`, `wire` | decide; hold a secret, or one that can be guessed |
//! | [`logs`] | what agents print: writer, store, guard, reader, and its text | `agent`, `sys`, `text` | know the supervisor or the API; trust a name in its folder |
//! | [`deputy`] | the process with the agent user's rights: tmux clients, prompt files, working directories, text of logs | `agent`, `logs`, `sys`, `text` | run with root's rights once it reads a request; hold policy |
//! | [`inputs`] | files → `Desired`: jcard, secrets, prompts, working directories | `agent`, `config`, `deputy`, `state`, `sys`, `text` | start, signal or kill anything; take what it could not read for empty |
//! | [`contain`] | finding and killing everything that is an agent's: trees, control groups, markers, scopes | `agent`, `sys`, `wire` | know policy or tmux; kill by name, argument or bare pid |
//! | [`launch`] | the launcher: its protocol, its end, the login, the terminal; and who listens to it | `agent`, `contain`, `logs`, `sys`, `text`, `wire` | hold policy; act on a launcher's word about another agent |
//! | [`tmux`] | sessions and panes on the server | `agent`, `deputy`, `launch`, `state`, `sys`, `wire` | believe what tmux prints; run a client as root |
//! | [`observe`] | what is told: the snapshot, the ring of events, figures | `agent`, `contain`, `state`, `sys`, `text`, `wire` | reach an agent; hold a launch (it has redactors instead) |
//! | [`supervisor`] | the one loop: event → step → effects → publish; one attempt at a time from the pane to its last process | `agent`, `contain`, `launch`, `logs`, `observe`, `state`, `sys`, `text`, `tmux`, `wire` | decide (that is `agent`); wait for anything but the next event |
//! | [`api`] | serving it | `agent`, `deputy`, `logs`, `observe`, `sys`, `text`, `tmux`, `wire` | reach anything but what is observed, logs and screens; write |
//! | [`client`] | asking for it | `sys`, `wire` | know how it is served |
//! | [`settings`] | flags, environment and defaults → `Settings`; every default path | `config`, `logs`, `sys`, `tmux`, `wire` | act on what they say |
//! | [`cli`] | verbs, and what they print | `agent`, `client`, `config`, `deputy`, `inputs`, `launch`, `logs`, `settings`, `sys`, `text`, `tmux`, `wire` | decide anything |
//! | [`daemon`] | wiring, the order of start and shutdown | `agent`, `api`, `contain`, `deputy`, `inputs`, `launch`, `logs`, `observe`, `settings`, `state`, `supervisor`, `sys`, `tmux`, `wire` | hold policy |
//!
//! # The processes
//!
//! ```text
//! agentd (root)                     one thread, one loop
//!  ├─ agentd deputy (agent user)    tmux clients, prompt files, working directories
//!  └┄ launch socket ┄┐
//! tmux server (agent user)
//!  └─ agentd-launcher NAME ATTEMPT  one launcher for each agent, in its pane, without an async runtime
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
pub mod settings;
pub mod state;
pub mod supervisor;
pub mod sys;
pub mod text;
pub mod tmux;
pub mod wire;
