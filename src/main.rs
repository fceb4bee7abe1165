//! The `agentd` binary: chooses among daemon, client, and the daemon's own helpers.

#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use agentd::agent::harness::hooks;
use agentd::cli;
use agentd::cli::operate::{self, Order};
use agentd::cli::{
    Arguments, Command, approve, attach, check, complete, diff, doctor, events, explain, harnesses, init, logs, manual,
    output, send, show, status, wait, watch,
};
use agentd::config;
use agentd::config::answer::Answer;
use agentd::daemon;
use agentd::deputy;
use agentd::launch::{self, launcher, login, packages, tell, temporary_dir};
use agentd::settings::Surroundings;
use agentd::steps;
use agentd::sys::account::Account;
use agentd::sys::log;
use agentd::sys::panics;
use agentd::sys::signal;
use agentd::tmux::window_size;
use nix::unistd::Uid;

fn main() -> ExitCode {
    // Before anything else, so that neither this process nor its children ignore or block signals.
    let _ = signal::reset();
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = helper(&words) {
        return code;
    }
    if let Some(code) = complete::answer() {
        return code;
    }
    let here = Surroundings::here();
    let arguments = match Arguments::read(words).and_then(|arguments| arguments.with_environment(&here)) {
        Ok(arguments) => arguments,
        Err(error) => return cli::conclude(error),
    };
    match &arguments.command {
        None => {
            let settings = arguments.settings(&here);
            say_what_starts();
            let _log = log::start(settings.detail);
            conclude(daemon::run(&settings))
        }
        Some(Command::Check(options)) => check::run(&arguments, options, &here),
        Some(Command::Diff(asking)) => {
            let (file, socket) = (arguments.places.checked_config(&here), arguments.places.client_socket(&here));
            diff::run(&asking.what, &file, arguments.reading(&here).options(&file), &socket)
        }
        Some(Command::Harnesses(options)) => harnesses::run(options, &arguments.places.checked_config(&here)),
        Some(Command::Schema) => output::print(format!("{:#}\n", config::schema()).as_bytes(), 0, 1),
        Some(Command::Status(asking)) => status::run(&asking.what, &arguments.places.client_socket(&here)),
        Some(Command::Explain(asking)) => explain::run(&asking.what, &arguments.places.client_socket(&here)),
        Some(Command::Attach(asking)) => attach::run(&arguments, &asking.what, &here),
        Some(Command::Send(asking)) => send::run(&arguments, &asking.what, &here),
        Some(Command::Doctor(options)) => doctor::run(&arguments, options, &here),
        Some(Command::Watch(asking)) => watch::run(&asking.what, &arguments.places.client_socket(&here)),
        Some(Command::Logs(asking)) => logs::run(&arguments, &asking.what, &here),
        Some(Command::Events(asking)) => events::run(&asking.what, &arguments.places.client_socket(&here)),
        Some(Command::Show(asking)) => {
            let file = arguments.places.checked_config(&here);
            let socket = arguments.places.client_socket(&here);
            show::run(&asking.what, &file, arguments.reading(&here).options(&file), &socket)
        }
        Some(Command::Init(_)) => init::run(&arguments.settings(&here), &here),
        Some(Command::Completions(options)) => complete::run(options),
        Some(Command::Man(options)) => manual::run(options),
        Some(Command::Stop(it)) => operate::run(&arguments, &Order::Stop(it.what.clone()), &here),
        Some(Command::Start(it)) => operate::run(&arguments, &Order::Start(it.what.clone()), &here),
        Some(Command::Restart(it)) => operate::run(&arguments, &Order::Restart(it.what.clone()), &here),
        Some(Command::Approvals(asking)) => approve::list(&arguments, &asking.what, &here),
        Some(Command::Approve(it)) => {
            let answer = Answer { allow: true, why: None };
            approve::run(&arguments, &it.what.ids, &answer, &it.what.directory, &here)
        }
        Some(Command::Deny(it)) => {
            let answer = Answer { allow: false, why: it.what.why.clone() };
            approve::run(&arguments, &it.what.ids, &answer, &it.what.directory, &here)
        }
        Some(Command::Pause(it)) => operate::run(&arguments, &Order::Pause(it.what.clone()), &here),
        Some(Command::Release(it)) => operate::run(&arguments, &Order::Release(it.what.clone()), &here),
        Some(Command::Unpause(it)) => operate::run(&arguments, &Order::Unpause(it.what.clone()), &here),
        Some(Command::Wait(asking)) => wait::run(&asking.what, &arguments.places.client_socket(&here)),
    }
}

/// Tells a person at a terminal that this is the daemon: somebody may only have wanted to see what agentd does.
fn say_what_starts() {
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        let _ = writeln!(
            io::stderr(),
            "agentd: this is the daemon, in the foreground. Ctrl-C stops it and all its agents. agentd --help lists the commands."
        );
    }
}

/// Runs a command that only agentd itself uses. These commands are not part of the documented command line.
fn helper(words: &[OsString]) -> Option<ExitCode> {
    let rest: Vec<&OsString> = words.iter().skip(2).collect();
    Some(match (words.get(1)?.to_str()?, rest.as_slice()) {
        (launch::FORMER_COMMAND, [name, attempt, socket]) => {
            let (name, attempt) = (name.to_str()?, attempt.to_str()?.parse().ok()?);
            panics::end_this_process();
            launcher::conclude(launcher::run(name, attempt, Path::new(socket), &std::env::current_exe().ok()?))
        }
        (launch::SHELL_COMMAND, []) => match Account::current() {
            Ok(account) => complain(&format!("failed to start a shell: {}", login::become_shell(&account))),
            Err(error) => complain(&error.to_string()),
        },
        (login::SHELL_COMMAND, [marker]) => conclude(login::become_login_shell(marker, &mut io::stdout().lock())),
        (window_size::COMMAND, [server, socket]) => conclude(window_size::fit(server, socket)),
        (temporary_dir::REMOVE_COMMAND, [base, socket, agent]) => {
            temporary_dir::remove_left(Path::new(base), Path::new(socket), agent.to_str()?);
            ExitCode::SUCCESS
        }
        (packages::STEP_COMMAND, [step, agent, names @ ..]) if *step == packages::STEP => {
            steps::packages::run(agent.to_str()?, names, &mut io::stdout().lock())
        }
        (packages::STEP_COMMAND, [step]) if *step == packages::LOOK_STEP => conclude(steps::packages::look()),
        (hooks::TELL_COMMAND, rest) => {
            tell::run(rest);
            ExitCode::SUCCESS
        }
        (login::PRINT_COMMAND, [marker]) => conclude(login::print_environment(marker, &mut io::stdout().lock())),
        (deputy::COMMAND, [user, uid]) => {
            conclude(deputy::run(user.to_str()?, Uid::from_raw(uid.to_str()?.parse().ok()?)))
        }
        (deputy::CLIENT_COMMAND, [user, uid, program, arguments @ ..]) => {
            let uid = Uid::from_raw(uid.to_str()?.parse().ok()?);
            complain(&deputy::become_client(user.to_str()?, uid, program, arguments).to_string())
        }
        _ => return None,
    })
}

fn conclude<E: std::fmt::Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error.to_string()),
    }
}

fn complain(what: &str) -> ExitCode {
    let what = agentd::text::printable::escaped_lines(what);
    // If standard error is closed, the message is lost.
    let _ = if log::leads_to_journal() {
        // The journal adds the program's name, and takes the number as the priority of an error, as in sd-daemon(3).
        writeln!(io::stderr(), "<3>{what}")
    } else {
        writeln!(io::stderr(), "agentd: {what}")
    };
    ExitCode::FAILURE
}
