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
//! functions of values; effects contain no policy. Desired state and observed state are kept apart. Unknown is neither empty nor
//! dead.
//!
//! # The wings
//!
//! Each wing may use the wings that its row names, and no others: `tests/layers.rs` compares this table with the imports.
//!
//! | wing | contents | may use | may not |
//! |---|---|---|---|
//! | [`text`] | pure text: escape sequences, durations, sizes, redaction | `sys` | do I/O (it uses `sys` only for memory that is cleared); know an agent |
//! | [`sys`] | Linux, one topic per file: accounts, clocks, descriptors, files, `/proc`, processes, signals, sockets, systemd, the log | `text` | know an agent, a jcard, tmux or the API |
//! | [`wire`] | the types of the API: statuses, events | | import anything from this crate: it will become a separate crate |
//! | [`agent`] | what an agent is and how it lives: names, specs, harnesses, declarations, launches, fingerprints; `reconcile`, `machine`, `restart` | `sys`, `wire` | do I/O, read a clock, log, lock, or `await`; know tmux |
//! | [`config`] | a jcard's text → specs, and findings with their positions | `agent`, `sys`, `text` | touch the system |
//! | [`state`] | what the next daemon must know: record, history, lock, key | `agent`, `sys`, `text`, `wire` | decide; store a secret, or anything that a secret can be guessed from |
//! | [`logs`] | the output of agents: writer, store, guard, reader, rendering as text | `agent`, `sys`, `text`, `wire` | know the supervisor or the API; trust a name in its folder |
//! | [`deputy`] | the process with the agent user's rights: tmux clients, prompt files, working directories, text of logs, operators' terminals | `agent`, `logs`, `sys`, `text`, `wire` | read a request while it has root's rights; contain policy |
//! | [`inputs`] | files → `Desired`: jcard, secrets, overrides, prompts, working directories | `agent`, `config`, `deputy`, `state`, `sys`, `text`, `wire` | start, signal or kill anything; treat an unreadable file as empty |
//! | [`contain`] | finds and kills every process of an agent: trees, control groups, markers, scopes | `agent`, `sys`, `wire` | know policy or tmux; kill by name, argument or bare pid |
//! | [`launch`] | the launcher: its protocol, main loop, login, terminal and sandboxes; the listener in the daemon | `agent`, `contain`, `logs`, `sys`, `text`, `wire` | contain policy; act on a launcher's claims about another agent |
//! | [`steps`] | long work of the agent user before a harness starts, in a process of its own: packages | `agent`, `sys`, `text` | run as root; know the daemon |
//! | [`tmux`] | sessions and panes on the tmux server | `agent`, `deputy`, `launch`, `state`, `sys`, `wire` | trust what tmux prints; run a client as root |
//! | [`observe`] | published state: the snapshot, the ring of events, metrics | `agent`, `contain`, `state`, `sys`, `text`, `wire` | reach an agent; hold a launch (it has redactors instead) |
//! | [`supervisor`] | the one loop: event → step → effects → publish; one attempt at a time from the pane to its last process | `agent`, `contain`, `launch`, `logs`, `observe`, `state`, `sys`, `text`, `tmux`, `wire` | decide (that is `agent`); wait for anything but the next event |
//! | [`api`] | serves the API | `agent`, `deputy`, `logs`, `observe`, `sys`, `text`, `tmux`, `wire` | access anything but published state, logs and screens; write |
//! | [`terminal`] | serves the terminal socket: operators attach and send | `agent`, `deputy`, `logs`, `observe`, `sys`, `text`, `tmux`, `wire` | read what an agent shows; act for anybody but an operator |
//! | [`client`] | a client of the API | `sys`, `text`, `wire` | know how the API is served |
//! | [`settings`] | flags, environment and defaults → `Settings`; every default path | `config`, `logs`, `sys`, `tmux`, `wire` | act on them |
//! | [`cli`] | the commands and their output | `agent`, `client`, `config`, `deputy`, `inputs`, `launch`, `logs`, `settings`, `sys`, `text`, `tmux`, `wire` | decide anything |
//! | [`daemon`] | wiring; the order of start and shutdown | `agent`, `api`, `contain`, `deputy`, `inputs`, `launch`, `logs`, `observe`, `settings`, `state`, `supervisor`, `sys`, `terminal`, `tmux`, `wire` | contain policy |
//!
//! # The processes
//!
//! ```text
//! agentd (root)                     one thread, one loop
//!  ├─ agentd deputy (agent user)    tmux clients, prompt files, working directories
//!  └┄ launch socket ┄┐
//! tmux server (agent user)
//!  └─ agentd-launcher NAME ATTEMPT  one launcher per agent, in its pane, without an async runtime
//!      ├─ agentd step packages        before the harness, if it has packages: has Nix build them
//!      └─ the harness                 on a separate terminal, relayed to the pane and written to the log
//! ```
//!
//! There are a deputy, a launch socket and a tmux server for each user that agents run as: an entry may name one beside the default
//! user.
//!
//! ```text
//! agentd attach (operator) ⇄ terminal socket ⇄ agentd deputy (agent user) ⇄ tmux attach-session (agent user)
//! ```
//!
//! ```text
//! agentd attach (root, or the agent user)    the operator's terminal ⇄ a new one
//!  ├─ agentd deputy (agent user)             finds the session, and ends before the client starts
//!  └─ tmux attach-session (agent user)
//! ```
//!
//! Root touches nothing that the agent user can redirect, and runs no tmux client; the deputy does. The daemon starts no agent
//! itself: tmux starts a launcher, which receives its work over a socket, and reports how the harness ended.

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
pub mod steps;
pub mod supervisor;
pub mod sys;
pub mod terminal;
pub mod text;
pub mod tmux;
pub mod wire;
