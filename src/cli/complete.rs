//! Shell completion: agentd itself tells the shell which words may come next, so that it can offer the names of the present agents.
//!
//! A package installs the script that [`write_script`] writes for each shell. If [`VARIABLE`] is set, agentd answers the shell and does
//! nothing else.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use super::{Api, Arguments, Places, conclude};
use crate::client::Client;
use crate::settings::Surroundings;
use crate::wire::status::AgentStatus;

/// The environment variable with which a shell asks for completions.
const VARIABLE: &str = "AGENTD_COMPLETE";

/// How long a person who has pressed Tab waits for the names of agents.
const COMPLETION_TIMEOUT: Duration = Duration::from_millis(500);

/// Answers a shell that asks for completions, and returns the exit status; `None` if no shell asks.
pub fn answer() -> Option<ExitCode> {
    let here = std::env::current_dir().ok();
    match CompleteEnv::with_factory(Arguments::command).var(VARIABLE).try_complete(std::env::args_os(), here.as_deref())
    {
        Ok(true) => Some(ExitCode::SUCCESS),
        Ok(false) => None,
        Err(error) => Some(conclude(error)),
    }
}

/// Writes the script that makes a shell (`bash`, `fish`, `zsh`…) ask agentd for completions.
pub fn write_script(shell: &str, out: &mut dyn io::Write) -> io::Result<()> {
    let shells = Shells::builtins();
    let known = shells.completer(shell).ok_or_else(|| io::Error::other(format!("shell {shell:?} is not supported")))?;
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
        let candidate =
            |agent: AgentStatus| CompletionCandidate::new(agent.name).help(Some(agent.state.to_string().into()));
        agents.into_iter().map(candidate).collect()
    })
}

/// The agents of the daemon that the words typed so far name; `None` if it does not answer.
fn agents(words: &[OsString]) -> Option<Vec<AgentStatus>> {
    let here = Surroundings::here();
    let socket = match api_socket(words) {
        None => super::named_socket(&here).ok()?,
        named => named,
    };
    let places = Places { api: Api { socket }, ..Places::default() };
    let runtime = super::output::event_loop().ok()?;
    runtime.block_on(async {
        let client = Client::new(&places.client_socket(&here)).ok()?;
        Some(tokio::time::timeout(COMPLETION_TIMEOUT, client.agents()).await.ok()?.ok()?.value)
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
    fn unknown_shell_is_an_error() {
        assert!(write_script("cmd", &mut Vec::new()).unwrap_err().to_string().contains("cmd"));
    }
}
