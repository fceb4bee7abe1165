//! The promises of agentd seen from outside: the real daemon, the real tmux, and a fake harness.
//!
//! `./tests/run` runs these tests with all they need. As root, it lends the users they name. See [`support`] for the fixture, and
//! `fake-harness` for what an agent can be scripted to do.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]
#![allow(clippy::missing_panics_doc, reason = "the same")]

mod activity;
mod agents;
mod api;
mod approvals;
mod attach;
mod canary;
mod changes;
mod chaos;
mod cli;
mod clients;
mod complete;
mod conversations;
mod daemon;
mod declarations;
mod described;
mod diff;
mod environment;
mod escapes;
mod excess;
mod failures;
mod harnesses;
mod history;
mod holds;
mod hostile;
mod idle;
mod labels;
mod launcher;
mod logs;
mod missing;
mod monitoring;
mod observe;
mod operators;
mod overrides;
mod packages;
mod panes;
mod people;
mod presets;
mod proxy;
mod quickstart;
mod real;
mod repositories;
mod restart;
mod results;
mod root;
mod rotation;
mod sandbox;
mod secrets;
mod shortage;
mod skills;
#[path = "../support/skip.rs"]
mod skip;
mod stop;
mod support;
mod survive;
mod tmux;
mod trees;
mod users;
mod verbs;
