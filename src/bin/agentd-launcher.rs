//! The `agentd-launcher` binary: the small parent that every agent has, in its pane.
//!
//! ```text
//! agentd-launcher NAME ATTEMPT SOCKET AGENTD
//! ```
//!
//! It is a separate program because one runs for each agent, for as long as the agent runs: it holds no more than it needs, and
//! `build.rs` links it so that little of it is private memory. agentd itself does the rest, such as the login.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use agentd::agent::harness::hooks;
use agentd::agent::sandbox::Engine;
use agentd::launch::sandbox::{self, inner};
use agentd::launch::{launcher, program, tell, temporary_dir};
use agentd::sys::{panics, signal};

/// The usual exit status for an invalid command line.
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    // First of all, so that neither this process nor what it starts blocks signals.
    let _ = signal::reset();
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let [name, attempt, socket, agentd] = words.as_slice()
        && let (Some(name), Some(Ok(attempt))) = (name.to_str(), attempt.to_str().map(str::parse))
    {
        panics::end_this_process();
        return launcher::conclude(launcher::run(name, attempt, Path::new(socket), Path::new(agentd)));
    }
    if let [command, base, socket, agent] = words.as_slice()
        && command == temporary_dir::REMOVE_COMMAND
        && let Some(agent) = agent.to_str()
    {
        temporary_dir::remove_left(Path::new(base), Path::new(socket), agent);
        return ExitCode::SUCCESS;
    }
    if let [command, rest @ ..] = words.as_slice() {
        if command == hooks::TELL_COMMAND {
            tell::run(rest);
            return ExitCode::SUCCESS;
        }
        if let (true, [terminal]) = (command == inner::COMMAND, rest) {
            panics::end_this_process();
            return ExitCode::from(inner::run(&terminal.to_string_lossy()));
        }
        if command == inner::START_COMMAND {
            return ExitCode::from(inner::start(rest));
        }
        if let (true, Some((engine, program))) = (command == sandbox::TRY_COMMAND, sandbox::words(rest)) {
            return launcher::conclude(
                sandbox::try_engine(engine, program).map(|()| say(engine)).map_err(launcher::Error::Harness),
            );
        }
    }
    if words == ["--version"] {
        let line = format!("{} {}\n", program::NAME, env!("CARGO_PKG_VERSION"));
        return io::stdout().write_all(line.as_bytes()).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let usage = format!(
        "usage: {name} NAME ATTEMPT SOCKET AGENTD\n       {name} try ENGINE [PROGRAM]\nagentd starts the first, for each agent; the \
         second tells whether an engine (bwrap, runsc or crun) makes sandboxes for you.\n",
        name = program::NAME
    );
    // If standard error is closed, the message has no reader.
    let _ = io::stderr().write_all(usage.as_bytes());
    ExitCode::from(WRONG_USAGE)
}

/// Tells that an engine works. If standard output is closed, the exit status does.
fn say(engine: Engine) -> u8 {
    let _ = io::stdout().write_all(format!("{engine} makes sandboxes\n").as_bytes());
    0
}
