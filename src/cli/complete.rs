//! Completion in shells: agentd itself answers what may come next, so that names of agents are those there are.
//!
//! A package installs for each shell what [`write_script`] writes. Under [`VARIABLE`] agentd then answers the shell, and does nothing
//! else.

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

/// The variable by which a shell asks.
const VARIABLE: &str = "AGENTD_COMPLETE";

/// How long a person who has pressed Tab waits for names.
const COMPLETION_TIMEOUT: Duration = Duration::from_millis(500);

/// Answers a shell that asks what may come next, and how that ended; `None` if none does.
pub fn answer() -> Option<ExitCode> {
    let here = std::env::current_dir().ok();
    match CompleteEnv::with_factory(Arguments::command).var(VARIABLE).try_complete(std::env::args_os(), here.as_deref())
    {
        Ok(true) => Some(ExitCode::SUCCESS),
        Ok(false) => None,
        Err(error) => Some(conclude(error)),
    }
}

/// Writes what a shell (`bash`, `fish`, `zsh`…) is to read so that it asks.
pub fn write_script(shell: &str, out: &mut dyn io::Write) -> io::Result<()> {
    let shells = Shells::builtins();
    let known = shells.completer(shell).ok_or_else(|| io::Error::other(format!("no shell {shell:?} is known")))?;
    known.write_registration(VARIABLE, "agentd", "agentd", "agentd", out)?;
    // zsh reads the file as a function's body when there is something to complete for the first time (zshcompsys(1), "Autoloaded
    // files").
    if shell == "zsh" {
        out.write_all(b"\n[[ ${funcstack[1]-} != _agentd ]] || _clap_dynamic_completer_agentd \"$@\"\n")?;
    }
    Ok(())
}

/// The names of the agents there are, each with its state.
pub(super) fn names() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let agents = agents(&std::env::args_os().collect::<Vec<_>>()).unwrap_or_default();
        let candidate =
            |agent: AgentStatus| CompletionCandidate::new(agent.name).help(Some(agent.state.to_string().into()));
        agents.into_iter().map(candidate).collect()
    })
}

/// As the daemon tells that the words typed so far speak of; `None` if it does not.
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
    fn the_daemon_is_asked_that_the_words_speak_of() {
        let socket = |words: &[&str]| api_socket(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(socket(&["agentd", "wait", "--api-socket", "/x", ""]), Some("/x".into()));
        assert_eq!(socket(&["agentd", "--api-socket=/y", "wait", ""]), Some("/y".into()));
        assert_eq!(socket(&["agentd", "wait", "--api-socket"]), None);
    }

    #[test]
    fn a_shell_that_nobody_knows_is_an_error() {
        assert!(write_script("cmd", &mut Vec::new()).unwrap_err().to_string().contains("cmd"));
    }
}
