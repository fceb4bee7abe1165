//! Shell completion: agentd itself tells the shell which words may come next, so that it can offer the names of the present agents.
//!
//! `agentd completions SHELL` prints a script for the shell, and packages install it. If [`VARIABLE`] is set, agentd answers the shell
//! and does nothing else. Nor does it if the variable is set that other programs use, since the daemon would start instead.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use super::wording::state_word;
use super::{Api, Places, conclude, output};
use crate::client::{Client, Error};
use crate::settings::Surroundings;
use crate::text::printable::escaped;
use crate::wire::approval::Approval;
use crate::wire::status::AgentStatus;

/// The environment variable with which a shell asks for completions.
const VARIABLE: &str = "AGENTD_COMPLETE";

/// The variable with which a shell asks other programs for such a script: `source <(COMPLETE=bash agentd)`.
const USUAL_VARIABLE: &str = "COMPLETE";

/// Which shell to print a script for.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The shell
    #[arg(value_parser = ["bash", "zsh", "fish", "elvish", "powershell"])]
    pub shell: String,
}

/// Prints the script that makes a shell ask agentd for completions.
pub fn run(arguments: &Arguments) -> ExitCode {
    let mut script = Vec::new();
    match write_script(&arguments.shell, &mut script) {
        Ok(()) => output::print(&script, 0, 1),
        Err(error) => output::complain(2, &error.to_string()),
    }
}

/// How long a person who has pressed Tab waits for the names of agents.
const COMPLETION_TIMEOUT: Duration = Duration::from_millis(500);

/// Answers a shell that asks for completions, and returns the exit status; `None` if no shell asks.
pub fn answer() -> Option<ExitCode> {
    if let Some(shell) = asked_as_usual(std::env::var_os(USUAL_VARIABLE), std::env::args_os().count()) {
        return Some(run(&Arguments { shell }));
    }
    let here = std::env::current_dir().ok();
    match CompleteEnv::with_factory(command).var(VARIABLE).try_complete(std::env::args_os(), here.as_deref()) {
        Ok(true) => Some(ExitCode::SUCCESS),
        Ok(false) => None,
        Err(error) => Some(conclude(error)),
    }
}

/// The shell that asks for a script in the way that works with other programs: with the variable, and without a word.
fn asked_as_usual(variable: Option<OsString>, words: usize) -> Option<String> {
    let shell = variable?.into_string().ok()?;
    (words <= 1 && Shells::builtins().completer(&shell).is_some()).then_some(shell)
}

/// The command line, whose options are offered only for a word that begins like one.
fn command() -> clap::Command {
    let words: Vec<OsString> = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    let index = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|index| index.parse::<usize>().ok());
    let current = index.map_or_else(|| words.last(), |index| words.get(index));
    let is_option = current.is_some_and(|word| word.as_encoded_bytes().starts_with(b"-"));
    if is_option { super::Arguments::command() } else { without_options(super::Arguments::command()) }
}

fn without_options(command: clap::Command) -> clap::Command {
    let hidden = command.mut_args(|argument| {
        let is_option = !argument.is_positional();
        if is_option { argument.hide(true) } else { argument }
    });
    hidden.disable_help_flag(true).disable_version_flag(true).mut_subcommands(without_options)
}

/// Writes the script that makes a shell (`bash`, `fish`, `zsh`…) ask agentd for completions.
pub fn write_script(shell: &str, out: &mut dyn io::Write) -> io::Result<()> {
    let shells = Shells::builtins();
    let known = shells.completer(shell).ok_or_else(|| {
        io::Error::other(format!("there are no completions for {shell:?}; write bash, zsh, fish, elvish or powershell"))
    })?;
    known.write_registration(VARIABLE, "agentd", "agentd", "agentd", out)?;
    // At the first completion, zsh runs the file as the body of the completion function (zshcompsys(1), "Autoloaded files").
    if shell == "zsh" {
        out.write_all(b"\n[[ ${funcstack[1]-} != _agentd ]] || _clap_dynamic_completer_agentd \"$@\"\n")?;
    }
    Ok(())
}

/// The names of all agents, each with its state.
pub(super) fn names() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let agents = agents(&std::env::args_os().collect::<Vec<_>>()).unwrap_or_default();
        let candidate = |agent: AgentStatus| {
            let state = state_word(&agent);
            CompletionCandidate::new(agent.name).help(Some(state.into()))
        };
        agents.into_iter().map(candidate).collect()
    })
}

/// The ids of all questions, each with what is asked.
pub(super) fn questions() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let asked = ask(&std::env::args_os().collect::<Vec<_>>(), async |client| client.approvals().await);
        let candidate = |approval: Approval| {
            let help = escaped(&format!("{}: {}: {}", approval.agent, approval.tool, approval.command));
            CompletionCandidate::new(approval.id).help(Some(help.into()))
        };
        asked.map(|answer| answer.value.pending).unwrap_or_default().into_iter().map(candidate).collect()
    })
}

/// The agents of the daemon that the words typed so far name; `None` if it does not answer.
fn agents(words: &[OsString]) -> Option<Vec<AgentStatus>> {
    ask(words, async |client| client.agents().await).map(|answer| answer.value)
}

/// What the daemon that the words typed so far name answers; `None` if it does not answer.
fn ask<T>(words: &[OsString], question: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Option<T> {
    let here = Surroundings::here();
    let socket = match api_socket(words) {
        None => super::named_socket(&here).ok()?,
        named => named,
    };
    let places = Places { api: Api { socket }, ..Places::default() };
    let runtime = super::output::event_loop().ok()?;
    runtime.block_on(async {
        let client = Client::new(&places.client_socket(&here)).ok()?;
        tokio::time::timeout(COMPLETION_TIMEOUT, question(&client)).await.ok()?.ok()
    })
}

fn api_socket(words: &[OsString]) -> Option<PathBuf> {
    let at = words.iter().rposition(|word| word == "--api-socket");
    let beside = at.and_then(|at| words.get(at + 1)).map(PathBuf::from);
    let joined = || words.iter().find_map(|word| word.to_str()?.strip_prefix("--api-socket=").map(PathBuf::from));
    beside.or_else(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_asks_the_daemon_that_the_words_name() {
        let socket = |words: &[&str]| api_socket(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(socket(&["agentd", "wait", "--api-socket", "/x", ""]), Some("/x".into()));
        assert_eq!(socket(&["agentd", "--api-socket=/y", "wait", ""]), Some("/y".into()));
        assert_eq!(socket(&["agentd", "wait", "--api-socket"]), None);
    }

    #[test]
    fn the_usual_variable_asks_for_a_script_only_without_words() {
        let asked = |variable: &str, words| asked_as_usual(Some(variable.into()), words);
        assert_eq!(asked("bash", 1).as_deref(), Some("bash"));
        assert_eq!((asked("bash", 2), asked("1", 1), asked("", 1), asked_as_usual(None, 1)), (None, None, None, None));
    }

    #[test]
    fn unknown_shell_is_an_error() {
        assert!(write_script("cmd", &mut Vec::new()).unwrap_err().to_string().contains("cmd"));
    }
}
