//! `agentd attach`: attaches the operator's terminal to an agent's terminal.
//!
//! ```text
//! operator's terminal ◀──▶ agentd attach (root, say) ◀── a fresh terminal ──▶ tmux client (agent user)
//! operator's terminal ◀──▶ agentd attach (an operator) ◀── terminal socket ──▶ deputy ◀── a fresh terminal ──▶ tmux client
//! ```
//!
//! A tmux client obeys its server, so it always runs as the agent user, with no descriptor and no variable of the operator. The
//! [`relay`] passes on of its output what may reach a person's terminal. No path through this module runs a tmux client as root.
//!
//! The command first asks the daemon for the agent, then tmux for its session. If the daemon does not answer, tmux alone decides,
//! because agents outlive daemons, and the agent user may not use the API. Operators who are neither root nor the agent user go
//! through the daemon, which [`remote`] does.

mod relay;
mod remote;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use self::relay::End;
use super::Whereabouts;
use super::complete;
use super::output;
use super::target::Target;
use super::terminal;
use super::wording::remark;
use crate::agent::name::{InvalidName, Name};
use crate::client::{self, Client};
use crate::deputy::kind::Kind;
use crate::deputy::{self, Deputy, Program};
use crate::settings::Surroundings;
use crate::sys::fd;
use crate::sys::memory;
use crate::text::printable::escaped;
use crate::text::sieve::Sieve;
use crate::tmux::{self, Tmux};
use crate::wire::status::AgentStatus;
use crate::wire::terminal::{Accepted, Attach};

/// The exit status when attaching failed.
const FAILED: u8 = 1;
/// The exit status when the agent is not known, or the operator may not attach.
const UNKNOWN: u8 = 4;

/// Which agent's terminal, and how to attach to it.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Arguments {
    /// The agent; the case of its name does not matter
    #[arg(add = complete::names())]
    pub name: String,
    /// Only watch: no key gets through except those that detach, and the window keeps its size
    #[arg(long)]
    pub read_only: bool,
    /// The dedicated tmux server's socket [default: that of the running daemon, else as for the daemon]
    #[arg(long, value_name = "PATH", value_parser = super::path())]
    pub tmux_socket: Option<PathBuf>,
    /// The daemon's terminal socket, for operators without root [default: that of the running daemon, else as for the daemon]
    #[arg(long, value_name = "PATH", value_parser = super::path())]
    pub terminal_socket: Option<PathBuf>,
    /// The user that agents run as [default: that of the running daemon, else as for the daemon]
    #[arg(long, value_name = "NAME", value_parser = super::name)]
    pub user: Option<String>,
    /// The jcard, which identifies the daemon if none answers [default: as for the daemon]
    #[arg(long, value_name = "PATH", value_parser = super::path())]
    pub config: Option<PathBuf>,
}

/// Why the operator is not attached, or no longer.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("failed to find agent {0:?}: {1}")]
    Name(String, InvalidName),
    #[error("failed to attach to {agent}: {why}; agentd explain {agent} says more")]
    NoSession { agent: Name, why: String },
    #[error("failed to attach to {agent}: {why}\nYou may watch the agent:\n\n    agentd watch {agent}\n")]
    Rights { agent: Name, why: terminal::Error },
    #[error("failed to attach to {agent}: {why}{}", .why.hint(.agent))]
    Remote { agent: Name, why: terminal::Error },
    #[error(
        "failed to attach to {0}: its user is root, and agentd does not run tmux clients as root; name another user with --user"
    )]
    Root(Name),
    #[error("failed to attach to {0}: {1}")]
    Account(Name, String),
    #[error(
        "failed to attach to {agent}: {what} is not a terminal; agentd watch {agent} shows the agent's screen, and agentd logs {agent} prints its log"
    )]
    NoTerminal { agent: Name, what: &'static str },
    #[error(
        "failed to attach to {agent}: TERM={kind} names a terminal that lacks what tmux needs; agentd watch {agent} shows the agent's screen"
    )]
    Dumb { agent: Name, kind: String },
    #[error("failed to attach to {0}: {1}")]
    Tmux(Name, tmux::Error),
    #[error("failed to attach to {0}: {1}")]
    Relay(Name, relay::Error),
    #[error("the tmux client attached to {0} failed: {1}")]
    Ended(Name, ExitStatus),
}

impl Error {
    fn exit_status(&self) -> u8 {
        match self {
            Self::Client(_) | Self::Name(..) | Self::Rights { .. } => UNKNOWN,
            Self::Remote { why, .. } if why.is_unknown() => UNKNOWN,
            _ => FAILED,
        }
    }
}

/// Attaches to the agent's terminal, and returns when the operator has detached or the session has ended.
pub fn run(all: &super::Arguments, arguments: &Arguments, here: &Surroundings) -> ExitCode {
    // Other processes of the agent user must not reach the operator's terminal through this one.
    memory::keep_private();
    fd::hand_down_none();
    let end = match output::block_on(FAILED, attach(all, arguments, here)) {
        Ok(end) => end,
        Err(code) => return code,
    };
    match end {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(signal)) => {
            // Does not return: the signal ends this process.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            ExitCode::from(FAILED)
        }
        Err(error) => ExitCode::from(complain(error.exit_status(), &error.to_string())),
    }
}

fn complain(code: u8, what: &str) -> u8 {
    say(&format!("agentd: {what}"));
    code
}

fn say(what: &str) {
    for line in what.lines() {
        // If standard error is closed, the message is lost.
        let _ = writeln!(io::stderr(), "{}", escaped(line));
    }
}

/// Attaches to the agent's terminal. Returns the signal that ended it, if one did.
async fn attach(all: &super::Arguments, arguments: &Arguments, here: &Surroundings) -> Result<Option<i32>, Error> {
    let Arguments { name, read_only, tmux_socket, terminal_socket, user, config: _ } = arguments.clone();
    let whereabouts = Whereabouts { tmux_socket, terminal_socket, user, ..Whereabouts::default() };
    let target = Target::find(all, &whereabouts, here);
    let asked = match Client::new(&target.settings.api_socket) {
        Ok(client) => client.agent(&name).await.map(|answer| answer.value),
        Err(error) => Err(error),
    };
    if let Err(error @ client::Error::NoSuchAgent { .. }) = asked {
        return Err(error.into());
    }
    let name = asked.as_ref().map_or(name, |agent| agent.name.clone());
    let agent = Name::try_from(name.as_str()).map_err(|error| Error::Name(name, error))?;
    // Only the daemon knows whom it runs as at present.
    let user = asked.as_ref().map_or_else(|_| target.declared_user(&agent.key()), |agent| agent.user.clone());
    let side = target.side_of(user.as_deref());
    let Target { settings, daemon, user_id, .. } = target;
    let (account, socket) = match side {
        Ok((account, _)) if account.uid.is_root() => return Err(Error::Root(agent)),
        Ok((account, socket)) if user_id.is_root() || user_id == account.uid => (account, socket),
        Ok(_) => return attach_remotely(&settings.terminal_socket, agent, read_only, asked.map(drop)).await,
        Err(error) => return Err(Error::Account(agent, error)),
    };
    let kind = kind_here(&agent)?;
    let path = daemon.and_then(|daemon| daemon.path).or_else(|| std::env::var_os("PATH"));
    let deputy = Deputy::searching(path.clone(), &account, || {});
    let tmux = Tmux::new(deputy, socket.clone(), tmux::Origin::Elsewhere, String::new(), &account);
    let entrance = match tmux.entrance(&agent.key()).await {
        Ok(Some(entrance)) => entrance,
        Ok(None) => return Err(Error::NoSession { why: why_none(&asked?, &socket), agent }),
        Err(error) => return Err(Error::Tmux(agent, error)),
    };
    let client = |(program, words): (Program, Vec<String>), term: &str| {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("agentd").args(deputy::client_words(&account, &program, words)).current_dir("/");
        command.env_clear().envs(environment(path.clone(), term, |name| std::env::var_os(name)));
        command
    };
    let term = kind.known(|term| client(tmux.looking(&entrance), term)).await;
    if let Some(instead) = kind.instead_of(&term) {
        say(&instead);
    }
    let farewell = farewell(entrance.prefix.as_deref(), read_only);
    say(&farewell);
    if std::env::var_os("TMUX").is_some() {
        say(&nested(entrance.prefix.as_deref()));
    }
    let features = features(std::env::var_os("COLORTERM").as_deref());
    let command = client(tmux.entering(&entrance, read_only, features, &farewell), &term);
    // This also ends the deputy.
    drop(tmux);
    match relay::run(command, Sieve::new(takes_utf_8(|name| std::env::var_os(name)))).await {
        Ok(End::Signal(signal)) => Ok(Some(signal)),
        Ok(End::Client(status)) if status.success() => Ok(None),
        Ok(End::Client(status)) => Err(Error::Ended(agent, status)),
        Err(error) => Err(Error::Relay(agent, error)),
    }
}

/// Attaches through the daemon. `asked` is whether the daemon knows the agent, as far as this user may ask.
async fn attach_remotely(
    socket: &Path,
    agent: Name,
    read_only: bool,
    asked: Result<(), client::Error>,
) -> Result<Option<i32>, Error> {
    let kind = match kind_here(&agent) {
        Ok(kind) => kind,
        // A user who may not attach learns that first.
        Err(error) => {
            asked?;
            return Err(error);
        }
    };
    let term = if let Kind::Named(name) = &kind { Some(name.clone()) } else { None };
    let request = Attach {
        agent: agent.to_string(),
        read_only,
        size: remote::size(),
        term,
        all_colors: features(std::env::var_os("COLORTERM").as_deref()).is_some(),
        utf_8: takes_utf_8(|name| std::env::var_os(name)),
    };
    let greet = |Accepted { prefix, .. }: &Accepted| {
        say(&farewell(prefix.as_deref(), read_only));
        if std::env::var_os("TMUX").is_some() {
            say(&nested(prefix.as_deref()));
        }
    };
    let explain = |term: &str| {
        if let Some(instead) = kind.instead_of(term) {
            say(&instead);
        }
    };
    match remote::attach(socket, request, greet, explain).await {
        Ok(signal) => Ok(signal),
        // A user who may not use the API either gets that error.
        Err(why) if why.is_denied() => asked.map_err(Error::from).and(Err(Error::Rights { agent, why })),
        Err(why @ terminal::Error::Absent(_)) => asked.map_err(Error::from).and(Err(Error::Remote { agent, why })),
        Err(why) => Err(Error::Remote { agent, why }),
    }
}

/// The kind of this terminal, if it is one that can show an agent's.
fn kind_here(agent: &Name) -> Result<Kind, Error> {
    let standard = [(io::stdin().is_terminal(), "standard input"), (io::stdout().is_terminal(), "standard output")];
    if let Some((_, what)) = standard.into_iter().find(|(is_terminal, _)| !is_terminal) {
        return Err(Error::NoTerminal { agent: agent.clone(), what });
    }
    match Kind::named(std::env::var_os("TERM").as_deref()) {
        Kind::Dumb(kind) => Err(Error::Dumb { agent: agent.clone(), kind }),
        kind => Ok(kind),
    }
}

/// Why an agent that the daemon knows has no session.
fn why_none(agent: &AgentStatus, socket: &Path) -> String {
    let remark = remark(agent);
    let why = if remark.is_empty() { format!("it is {}", agent.state) } else { remark };
    format!("it has no session on {}: {why}", socket.display())
}

/// The message about how to detach.
fn farewell(prefix: Option<&str>, is_read_only: bool) -> String {
    let prefix = prefix.unwrap_or("tmux's prefix key, then");
    let how = if is_read_only { "read-only; " } else { "" };
    format!("{how}detach with {prefix} d")
}

/// The message for an operator whose terminal is itself in tmux.
fn nested(prefix: Option<&str>) -> String {
    let prefix = prefix.unwrap_or("its prefix key");
    format!(
        "this terminal runs in another tmux, which takes its prefix key first; if that is {prefix} too, press it twice to reach the agent's tmux"
    )
}

/// The client's environment: the `PATH` to find tmux in, the kind of the terminal, and whether the terminal takes UTF-8. The client
/// does not inherit `PATH`.
fn environment(
    path: Option<OsString>,
    term: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Vec<(&'static str, OsString)> {
    let language = if takes_utf_8(variable) { "C.UTF-8" } else { "C" };
    let all = [("PATH", path), ("TERM", Some(term.into())), ("LANG", Some(language.into()))];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Whether the terminal takes UTF-8: unless the operator's locale says otherwise. Most operators have no locale here because `ssh` or
/// `sudo` dropped it, and tmux would show them `_` for every character beyond ASCII.
fn takes_utf_8(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    // In the order of locale(7).
    let mut locales = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable);
    let locale = locales.find(|value| !value.is_empty()).unwrap_or_default();
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    locale.is_empty() || ["utf-8", "utf8"].iter().any(|name| locale.contains(name))
}

/// The terminal's features beyond its kind, in tmux's words. Terminals announce in `COLORTERM` that they have all colors.
fn features(colors: Option<&OsStr>) -> Option<&'static str> {
    colors.is_some_and(|value| value == "truecolor" || value == "24bit").then_some("RGB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment_of(variables: &[(&str, &str)]) -> Vec<(&'static str, OsString)> {
        let value = |name: &str| variables.iter().find(|(found, _)| *found == name).map(|(_, value)| value.into());
        environment(None, "screen", value)
    }

    #[test]
    fn client_gets_no_variable_but_the_kind_of_terminal() {
        let secret = [("TMUX", "/tmp/tmux,1,0"), ("TOKEN", "hidden"), ("SHELL", "/bin/bash"), ("LC_TIME", "x")];
        let all = [&secret[..], &[("TERM", "xterm-256color"), ("LANG", "de_DE.UTF-8")]].concat();
        assert_eq!(environment_of(&all), [("TERM", "screen".into()), ("LANG", "C.UTF-8".into())]);
    }

    #[test]
    fn all_colors_are_used_if_the_terminal_announces_them() {
        let features = |value: &str| features(Some(OsStr::new(value)));
        assert_eq!((features("truecolor"), features("24bit")), (Some("RGB"), Some("RGB")));
        assert_eq!((features("yes"), features(""), super::features(None)), (None, None, None));
    }

    #[test]
    fn utf_8_is_used_unless_the_locale_says_otherwise() {
        let language = |variables: &[(&str, &str)]| environment_of(variables)[1].1.clone();
        assert_eq!(language(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]), "C");
        assert_eq!(language(&[("LC_ALL", ""), ("LC_CTYPE", "en_GB.utf8"), ("LANG", "C")]), "C.UTF-8");
        assert_eq!(language(&[("LC_CTYPE", "en_GB.ISO-8859-1"), ("LANG", "en_GB.UTF-8")]), "C");
        assert_eq!(language(&[("LANG", "POSIX")]), "C");
        assert_eq!(language(&[]), "C.UTF-8");
        assert_eq!(language(&[("LC_ALL", ""), ("LANG", "")]), "C.UTF-8");
    }

    #[test]
    fn message_about_detaching_names_the_sessions_keys() {
        assert_eq!(farewell(Some("Ctrl-b"), false), "detach with Ctrl-b d");
        assert_eq!(farewell(None, true), "read-only; detach with tmux's prefix key, then d");
        assert!(nested(Some("Ctrl-a")).contains("if that is Ctrl-a too"));
    }
}
