//! The command line: options and commands, which become [`Settings`] or a call of a client.

pub mod approve;
pub mod attach;
pub mod check;
pub mod complete;
pub mod diff;
pub mod doctor;
pub mod events;
pub mod explain;
mod go_flags;
pub mod harnesses;
pub mod init;
pub mod logs;
pub mod manual;
pub mod operate;
pub mod output;
mod sandbox;
pub mod send;
pub mod show;
pub mod status;
mod table;
mod target;
mod terminal;
pub mod times;
pub mod wait;
pub mod watch;
mod wording;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{PathBufValueParser, PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::go_flags::Translated;
use self::target::Reading;
use crate::agent::sandbox::Engine;
use crate::agent::spec::Workdir;
use crate::config::{self, DefaultType};
use crate::logs::store::Retention;
use crate::settings::{OnTerminate, SYSTEM_API_SOCKET, SYSTEM_CONFIG, Settings, Surroundings, absolute, first_there};
use crate::sys::log::Detail;
use crate::sys::unix_socket::LONGEST_PATH;
use crate::text::duration;
use crate::text::printable::{escaped, escaped_lines};
use crate::text::size;
use crate::tmux::Origin;
use crate::wire::SOCKET_VARIABLE;

/// Keep the AI coding agents that a jcard.toml declares running, each in a tmux session of its own
///
/// Without a command, agentd is the daemon: it reads the jcard and the secrets, starts, restarts, times out and stops agents
/// accordingly, and reports on them over a Unix socket.
#[derive(Debug, Default, Parser)]
#[command(
    name = "agentd",
    bin_name = "agentd",
    version,
    max_term_width = 100,
    subcommand_help_heading = "Commands",
    after_long_help = manual::help("")
)]
pub struct Arguments {
    /// The command; none for the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The files that several commands read.
    #[command(flatten)]
    pub places: Places,
    /// The options of the daemon alone.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// The commands.
#[derive(Debug, Subcommand)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub enum Command {
    /// Check jcards and print every finding
    ///
    /// Each finding is a line such as FILE:LINE:COLUMN: error: what is wrong; what would be right.
    #[command(after_long_help = manual::help("check"))]
    Check(check::Arguments),
    /// Say what an edit of the jcard would start, stop, restart or change, and why
    ///
    /// FILE is compared with the jcard in force, field by field; values are not shown. Secrets and prompt files are assumed to stay
    /// as they are. If a daemon answers, its agents' present states are shown as well.
    #[command(after_long_help = manual::help("diff"))]
    Diff(Asking<diff::Arguments>),
    /// Print what is known of harnesses: the whole table, or an entry as TOML for a jcard
    ///
    /// The table is that of the jcard: what agentd comes with, and what `[harnesses]` changes or adds.
    #[command(after_long_help = manual::help("harnesses"))]
    Harnesses(harnesses::Arguments),
    /// Print the JSON Schema of a jcard's agents, for editors
    ///
    /// With it, taplo and tombi complete and check a jcard while you write.
    #[command(after_long_help = manual::help("schema"))]
    Schema,
    /// Show the agents, or some of them
    #[command(after_long_help = manual::help("status"), aliases = ["ps", "list", "ls"])]
    Status(Asking<status::Arguments>),
    /// Wait until an agent has ended, or is in another state
    ///
    /// It continues to wait while agentd restarts. If agentd is not running yet, it waits for agentd only with --timeout.
    #[command(after_long_help = manual::help("wait"))]
    Wait(Asking<wait::Arguments>),
    /// Say why an agent is in its state, what comes next, and what would change that
    #[command(after_long_help = manual::help("explain"))]
    Explain(Asking<explain::Arguments>),
    /// Show an agent's screen as it changes, without touching the agent
    ///
    /// Known secrets are redacted. Ctrl-C ends it.
    #[command(after_long_help = manual::help("watch"))]
    Watch(Asking<watch::Arguments>),
    /// Print what an agent printed, and with -f what it prints next
    ///
    /// It starts with the first byte of the latest attempt, or of another attempt. Logs outlive the attempt and restarts of agentd.
    /// Without --raw, the text is what a person would have read on the terminal. Values of secrets are redacted.
    #[command(after_long_help = manual::help("logs"), alias = "log")]
    Logs(Asking<logs::Arguments>),
    /// Print what has happened, and with -f what happens next
    ///
    /// Each event is one line: the time, the agent, and what happened. With --json it is a line of JSON, as in `GET /v1/events`.
    /// With -f, the command survives restarts of the daemon.
    #[command(after_long_help = manual::help("events"))]
    Events(Asking<events::Arguments>),
    /// Stop agents until somebody starts them again
    ///
    /// A stop goes through the grace period: SIGINT, then SIGKILL. It survives restarts of agentd and of the machine. Members of the
    /// operators' group may do it without root.
    #[command(after_long_help = manual::help("stop"))]
    Stop(Asking<operate::Stop>),
    /// Start agents that were stopped, or that have ended
    ///
    /// An agent that is started begins a new life: its restarts are counted from 0.
    #[command(after_long_help = manual::help("start"))]
    Start(Asking<operate::Start>),
    /// Stop agents and start them again
    ///
    /// The stop goes through the grace period. An agent that has ended starts at once.
    #[command(after_long_help = manual::help("restart"))]
    Restart(Asking<operate::Stop>),
    /// Let no agent start, and leave alone what runs
    #[command(after_long_help = manual::help("pause"))]
    Pause(Asking<operate::Pause>),
    /// End the pause: agents start again
    #[command(after_long_help = manual::help("unpause"))]
    Unpause(Asking<operate::Pause>),
    /// List the questions of agents that wait for an answer
    ///
    /// An agent with `approval = "ask"` asks before it does what its harness would ask a person about.
    #[command(after_long_help = manual::help("approvals"))]
    Approvals(Asking<approve::List>),
    /// Allow what agents ask
    ///
    /// The answer is a file that the daemon takes. Members of the operators' group may answer without root.
    #[command(after_long_help = manual::help("approve"))]
    Approve(Asking<approve::Approve>),
    /// Deny what agents ask
    ///
    /// The agent learns that, and who says so, and goes on without it.
    #[command(after_long_help = manual::help("deny"))]
    Deny(Asking<approve::Deny>),
    /// End a hold: let the agents that share a credential try it again
    #[command(after_long_help = manual::help("release"))]
    Release(Asking<operate::Release>),
    /// Attach to an agent's terminal
    ///
    /// The tmux client runs as the agent user, never as root, on a separate terminal that is relayed to yours. If a signal ends the
    /// command, your terminal is restored first.
    #[command(after_long_help = manual::help("attach"))]
    Attach(Asking<attach::Arguments>),
    /// Send text or keys to an agent, as if they were typed
    ///
    /// The text is pasted into the agent's terminal, and Enter is pressed after it. The command then waits until the agent's screen
    /// changes: that is the only sign that the text has arrived.
    #[command(after_long_help = manual::help("send"))]
    Send(Asking<send::Arguments>),
    /// Check everything that agentd needs
    ///
    /// Each finding that is not ok comes with a remedy.
    #[command(after_long_help = manual::help("doctor"))]
    Doctor(doctor::Arguments),
    /// Show how an agent is declared: every field, and where its value comes from
    ///
    /// It reads the jcard and needs no daemon; one that answers also says what operators have overridden. Values of variables are not
    /// shown, and secrets only by name.
    #[command(after_long_help = manual::help("show"))]
    Show(Asking<show::Arguments>),
    /// Write a jcard to begin with, and make the folders beside it
    ///
    /// What exists is not changed.
    #[command(after_long_help = manual::help("init"))]
    Init(init::Arguments),
    /// Print the script that completes agentd's words in a shell
    #[command(after_long_help = manual::help("completions"))]
    Completions(complete::Arguments),
    /// Write the man pages into a folder
    #[command(after_long_help = manual::help("man"))]
    Man(manual::Arguments),
}

/// The files that several commands read. Each command takes the options that have an effect on it.
#[derive(Clone, Debug, Default, Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Places {
    /// The jcard [default: /etc/stereos/jcard.toml; without root: $XDG_CONFIG_HOME/agentd/jcard.toml]
    #[arg(long, value_name = "PATH", value_parser = path())]
    pub config: Option<PathBuf>,
    /// The API's socket.
    #[command(flatten)]
    pub api: Api,
    /// How agents are confined.
    #[command(flatten)]
    pub sandboxing: Sandboxing,
}

/// How agents are confined, as far as their entries leave it open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Sandboxing {
    /// Run agents that are declared `type = "sandboxed"` without a sandbox
    #[arg(long)]
    pub unsandboxed: bool,
    /// What an entry is that has neither `type` nor `sandbox` [default: native]
    #[arg(long, value_name = "TYPE", value_enum)]
    pub default_type: Option<DefaultType>,
    /// What makes the sandboxes of entries without `sandbox` [default: bwrap]
    #[arg(long, value_name = "ENGINE", value_parser = engine())]
    pub sandbox: Option<Engine>,
    /// The program of runsc, found in the PATH of the agent user without it; with it, runsc is the default of --sandbox
    #[arg(long, value_name = "PATH", value_parser = path())]
    pub runsc_path: Option<PathBuf>,
}

impl Sandboxing {
    /// Replaces each option by that of `other`, if `other` has it.
    fn overlay(&mut self, other: &Self) {
        let Self { unsandboxed, default_type, sandbox, runsc_path } = other.clone();
        self.unsandboxed |= unsandboxed;
        self.default_type = default_type.or(self.default_type);
        self.sandbox = sandbox.or(self.sandbox);
        self.runsc_path = runsc_path.or(self.runsc_path.take());
    }

    /// The engine of entries that name none.
    fn engine(&self) -> Engine {
        let otherwise = if self.runsc_path.is_some() { Engine::Runsc } else { Engine::default() };
        self.sandbox.unwrap_or(otherwise)
    }

    /// A name is looked for; a path is that of one file, whatever folder the reader is in.
    fn runsc(&self) -> Option<PathBuf> {
        let is_name = |path: &PathBuf| path.components().count() == 1 && !path.is_absolute();
        self.runsc_path.as_ref().map(|path| if is_name(path) { path.clone() } else { absolute(path) })
    }
}

/// Parses the name of an engine.
fn engine() -> impl TypedValueParser<Value = Engine> {
    PossibleValuesParser::new(Engine::ALL.map(Engine::name)).map(|name| Engine::named(&name).unwrap_or_default())
}

/// The API's socket.
#[derive(Clone, Debug, Default, Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Api {
    /// The API's socket [default: $AGENTD_API_SOCKET (commands only) or /run/stereos/agentd.sock; without root:
    /// $XDG_RUNTIME_DIR/agentd/agentd.sock]
    #[arg(long = "api-socket", value_name = "PATH", value_parser = path())]
    pub socket: Option<PathBuf>,
}

/// A command that asks the daemon, and the daemon's socket.
#[derive(Clone, Debug, Args)]
pub struct Asking<A: Args> {
    /// The options of the command.
    #[command(flatten)]
    pub what: A,
    /// The API's socket.
    #[command(flatten)]
    pub api: Api,
}

impl Command {
    /// The files that are named after the command.
    fn places(&self) -> Places {
        let of_api = |api: &Api| Places { api: api.clone(), ..Places::default() };
        match self {
            Self::Check(check::Arguments { config, sandboxing, .. }) => {
                Places { config: config.clone(), sandboxing: sandboxing.clone(), ..Places::default() }
            }
            Self::Diff(Asking { what: diff::Arguments { config, sandboxing, .. }, api }) => {
                Places { config: config.clone(), sandboxing: sandboxing.clone(), ..of_api(api) }
            }
            Self::Show(Asking { what, api }) => {
                Places { config: what.config.clone(), sandboxing: what.sandboxing.clone(), ..of_api(api) }
            }
            Self::Harnesses(harnesses::Arguments { config, .. }) | Self::Init(init::Arguments { config, .. }) => {
                Places { config: config.clone(), ..Places::default() }
            }
            Self::Schema | Self::Completions(_) | Self::Man(_) => Places::default(),
            Self::Status(asking) => of_api(&asking.api),
            Self::Wait(asking) => of_api(&asking.api),
            Self::Explain(asking) => of_api(&asking.api),
            Self::Watch(asking) => of_api(&asking.api),
            Self::Logs(asking) => of_api(&asking.api),
            Self::Events(asking) => of_api(&asking.api),
            Self::Stop(asking) | Self::Restart(asking) => of_api(&asking.api),
            Self::Start(asking) => of_api(&asking.api),
            Self::Pause(asking) | Self::Unpause(asking) => of_api(&asking.api),
            Self::Approvals(asking) => of_api(&asking.api),
            Self::Approve(asking) => of_api(&asking.api),
            Self::Deny(asking) => of_api(&asking.api),
            Self::Release(asking) => of_api(&asking.api),
            Self::Attach(Asking { what, api }) => Places { config: what.config.clone(), ..of_api(api) },
            Self::Send(Asking { what, api }) => Places { config: what.config.clone(), ..of_api(api) },
            Self::Doctor(doctor::Arguments { places, .. }) => places.clone(),
        }
    }
}

/// The daemon's own files, and their owners.
#[derive(Clone, Debug, Default, Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Whereabouts {
    /// The secrets, one file each [default: $CREDENTIALS_DIRECTORY or /run/stereos/secrets; without root: $XDG_CONFIG_HOME/agentd/secrets]
    #[arg(long, value_name = "DIR", value_parser = path())]
    secret_dir: Option<PathBuf>,
    /// The dedicated tmux server's socket [default: /run/agentd/tmux.sock; without root: $XDG_RUNTIME_DIR/agentd/tmux.sock]
    #[arg(long, value_name = "PATH", value_parser = path())]
    tmux_socket: Option<PathBuf>,
    /// The socket through which operators attach and send, in a folder that only root can change [default:
    /// /run/agentd-daemon/terminal.sock; without root: $XDG_RUNTIME_DIR/agentd/terminal.sock]. The sockets of other agent users are in
    /// users/ beside it: stop their agents before you change it
    #[arg(long, value_name = "PATH", value_parser = path())]
    terminal_socket: Option<PathBuf>,
    /// Root-only state [default: $STATE_DIRECTORY or /var/lib/agentd; without root: $XDG_STATE_HOME/agentd]
    #[arg(long, value_name = "DIR", value_parser = path())]
    state_dir: Option<PathBuf>,
    /// The logs of the agents, a folder for each [default: $LOGS_DIRECTORY or /var/log/agentd; without root: $XDG_STATE_HOME/agentd/logs]
    #[arg(long, value_name = "DIR", value_parser = path())]
    log_dir: Option<PathBuf>,
    /// The program that runs in each agent's pane [default: agentd-launcher beside agentd]
    #[arg(long, value_name = "PATH", value_parser = path())]
    launcher: Option<PathBuf>,
    /// The user that agents run as [default: agent; without root: yourself]
    #[arg(long, value_name = "NAME", value_parser = name)]
    user: Option<String>,
    /// The group that may use the sockets of a root daemon [default: admin]
    #[arg(long, value_name = "NAME", value_parser = name)]
    admin_group: Option<String>,
    /// The group whose members may act on the agents of a root daemon [default: the --admin-group]
    #[arg(long, value_name = "NAME", value_parser = name)]
    operator_group: Option<String>,
    /// The group whose members the entries of a root daemon may name as `user` [default: agentd-agents]
    #[arg(long, value_name = "NAME", value_parser = name)]
    agent_group: Option<String>,
    /// What operators want of agents, a file each [default: /var/lib/agentd-overrides; without root: $XDG_STATE_HOME/agentd-overrides]
    #[arg(long, value_name = "DIR", value_parser = path())]
    override_dir: Option<PathBuf>,
}

/// The options of the daemon alone.
#[derive(Clone, Debug, Default, Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Daemon {
    /// The daemon's own files, and their owners.
    #[command(flatten)]
    whereabouts: Whereabouts,
    /// Do not start tmux servers: other units do, and agents wait for them
    #[arg(long)]
    await_tmux: bool,
    /// How often to read the files again even if no change was announced
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    resync: Duration,
    /// How long files must stay unchanged before a change takes effect; if they keep changing, it takes effect after ten times as long
    #[arg(long, value_name = "DURATION", default_value = "300ms", value_parser = duration::parse)]
    settle: Duration,
    /// How long the login shell of the agent user may take to set up the environment before an agent starts
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    login_timeout: Duration,
    /// What happens to the agents on SIGTERM: they are stopped, or they are kept for the next daemon to adopt; auto keeps them if
    /// systemd is restarting the daemon
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    on_terminate: OnTerminate,
    /// How much of each attempt's log to keep, counted from its end; 64KiB or more
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = log_size)]
    log_size: u64,
    /// How many of the latest attempts of each agent to keep logs of; the first under its present declaration is kept, too
    #[arg(long, value_name = "N", default_value_t = crate::logs::ATTEMPTS, value_parser = log_attempts)]
    log_attempts: usize,
    /// How much disk space the logs of all agents together may take; the oldest attempts go first, never the latest of an agent
    /// [default: a tenth of the file system, at most 20GiB]
    #[arg(long, value_name = "SIZE", value_parser = log_size)]
    log_total: Option<u64>,
    /// Also log full command lines with prompts, working directories, names of variables, and the last screen of an agent
    #[arg(long)]
    debug: bool,
    /// Whether the command line is written as the Go daemon's was.
    #[arg(skip)]
    from_go: bool,
    /// The flags of the Go daemon that have no effect here.
    #[arg(skip)]
    without_effect: Vec<&'static str>,
}

impl Arguments {
    /// Parses the command line.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = taking_any_value(Self::command());
        let Translated { words, from_go, without_effect } = go_flags::translate(&command, words);
        let matches = command.try_get_matches_from_mut(words).map_err(with_hint)?;
        refuse_without_effect(&mut command, &matches)?;
        let mut arguments = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        if let Some(verb) = &arguments.command {
            if let Some(flag) = without_effect.first() {
                let what = format!("--{flag} has no effect with a command; leave it out");
                return Err(command.error(ErrorKind::ArgumentConflict, what));
            }
            arguments.places.overlay(&verb.places());
        }
        match &arguments.command {
            Some(Command::Init(init)) => arguments.daemon.whereabouts.overlay(&init.whereabouts()),
            Some(Command::Logs(logs)) => arguments.daemon.whereabouts.overlay(&logs.what.whereabouts()),
            _ => {}
        }
        (arguments.daemon.from_go, arguments.daemon.without_effect) = (from_go, without_effect);
        Ok(arguments)
    }

    /// Applies [`SOCKET_VARIABLE`] to a command that asks the daemon, unless an option names a socket.
    pub fn with_environment(mut self, here: &Surroundings) -> Result<Self, clap::Error> {
        let asks = match self.command {
            None
            | Some(
                Command::Check(_)
                | Command::Harnesses(_)
                | Command::Schema
                | Command::Init(_)
                | Command::Completions(_)
                | Command::Man(_),
            ) => false,
            Some(_) => true,
        };
        if asks && self.places.api.socket.is_none() {
            self.places.api.socket = named_socket(here)?;
        }
        Ok(self)
    }

    /// How jcards are read.
    pub fn reading(&self, here: &Surroundings) -> Reading {
        Reading::find(self, here)
    }

    /// The daemon's settings: the options that were given, and defaults for the rest.
    pub fn settings(&self, here: &Surroundings) -> Settings {
        let (places, daemon, whereabouts) = (&self.places, &self.daemon, &self.daemon.whereabouts);
        let or = |given: &Option<PathBuf>, default: PathBuf| absolute(given.as_ref().unwrap_or(&default));
        let admin_group = whereabouts.admin_group.clone().unwrap_or_else(|| "admin".to_owned());
        Settings {
            config: or(&places.config, here.config().join("jcard.toml")),
            secret_dir: or(&whereabouts.secret_dir, here.secret_dir()),
            api_socket: or(&places.api.socket, here.api_socket()),
            tmux_socket: or(&whereabouts.tmux_socket, here.tmux_socket()),
            terminal_socket: or(&whereabouts.terminal_socket, here.terminal_socket()),
            tmux_origin: if daemon.await_tmux { Origin::Elsewhere } else { Origin::Own },
            state_dir: or(&whereabouts.state_dir, here.state()),
            log_dir: or(&whereabouts.log_dir, here.logs()),
            log_retention: Retention { size: daemon.log_size, attempts: daemon.log_attempts, total: daemon.log_total },
            launcher: whereabouts.launcher.as_deref().map(absolute),
            user: whereabouts.user.clone(),
            operator_group: whereabouts.operator_group.clone().unwrap_or_else(|| admin_group.clone()),
            agent_group: whereabouts.agent_group.clone().unwrap_or_else(|| "agentd-agents".to_owned()),
            admin_group,
            override_dir: or(&whereabouts.override_dir, here.overrides()),
            resync: daemon.resync.max(Duration::from_millis(10)),
            settle: daemon.settle,
            login_timeout: daemon.login_timeout,
            on_terminate: daemon.on_terminate,
            detail: if daemon.debug { Detail::Debug } else { Detail::Plain },
            options: config::Options { from_go: daemon.from_go, ..self.places.options(here) },
            without_effect: daemon.without_effect.clone(),
        }
    }
}

impl Whereabouts {
    /// Replaces each option by that of `other`, if `other` has it.
    fn overlay(&mut self, other: &Self) {
        let Self {
            secret_dir,
            tmux_socket,
            terminal_socket,
            state_dir,
            log_dir,
            launcher,
            user,
            admin_group,
            operator_group,
            agent_group,
            override_dir,
        } = other.clone();
        self.secret_dir = secret_dir.or(self.secret_dir.take());
        self.tmux_socket = tmux_socket.or(self.tmux_socket.take());
        self.terminal_socket = terminal_socket.or(self.terminal_socket.take());
        self.state_dir = state_dir.or(self.state_dir.take());
        self.log_dir = log_dir.or(self.log_dir.take());
        self.launcher = launcher.or(self.launcher.take());
        self.user = user.or(self.user.take());
        self.admin_group = admin_group.or(self.admin_group.take());
        self.operator_group = operator_group.or(self.operator_group.take());
        self.agent_group = agent_group.or(self.agent_group.take());
        self.override_dir = override_dir.or(self.override_dir.take());
    }
}

impl Places {
    /// Replaces each option by that of `other`, if `other` has it.
    fn overlay(&mut self, other: &Self) {
        let Self { config, api: Api { socket }, sandboxing } = other.clone();
        self.config = config.or(self.config.take());
        self.api.socket = socket.or(self.api.socket.take());
        self.sandboxing.overlay(&sandboxing);
    }

    /// The options that a jcard is read with.
    pub fn options(&self, here: &Surroundings) -> config::Options {
        let defaults = config::Options {
            unsandboxed: self.sandboxing.unsandboxed,
            default_type: self.sandboxing.default_type.unwrap_or_default(),
            engine: self.sandboxing.engine(),
            runsc: self.sandboxing.runsc(),
            ..config::Options::default()
        };
        if here.root {
            defaults
        } else {
            config::Options { default_workdir: Workdir::Home("workspace".into()), ..defaults }
        }
    }

    /// The socket that a client connects to: that of the user's own daemon if it exists, else the machine's.
    pub fn client_socket(&self, here: &Surroundings) -> PathBuf {
        self.api.socket.clone().unwrap_or_else(|| first_there(here.api_socket(), SYSTEM_API_SOCKET))
    }

    /// The jcard to check if none is named, chosen by the same rule.
    pub fn checked_config(&self, here: &Surroundings) -> PathBuf {
        self.config.clone().unwrap_or_else(|| first_there(here.config().join("jcard.toml"), SYSTEM_CONFIG))
    }
}

/// The socket that [`SOCKET_VARIABLE`] names. A relative path is refused: it would name another socket in each folder.
fn named_socket(here: &Surroundings) -> Result<Option<PathBuf>, clap::Error> {
    let Some(path) = &here.named_api_socket else { return Ok(None) };
    if path.is_absolute() && path.as_os_str().len() <= LONGEST_PATH {
        return Ok(Some(path.clone()));
    }
    let value = escaped(&path.to_string_lossy());
    let right = format!("write an absolute path of at most {LONGEST_PATH} bytes, or unset it");
    let what = format!("invalid value '{value}' for the variable {SOCKET_VARIABLE}: {right}");
    Err(Arguments::command().error(ErrorKind::ValueValidation, what))
}

fn log_size(text: &str) -> Result<u64, String> {
    match size::parse(text) {
        Ok(size) if size >= crate::logs::LEAST_SIZE => Ok(size),
        Ok(_) | Err(size::Error::OutOfRange) => Err(format!("write a size from 64KiB to {}", size::MOST)),
        Err(size::Error::Malformed) => Err("write a size such as 64MiB or 1GB".to_owned()),
    }
}

fn log_attempts(text: &str) -> Result<usize, String> {
    match size::count(text) {
        Ok(count) if count > 0 => Ok(count),
        Ok(_) | Err(size::Error::OutOfRange) => Err(format!("write a whole number from 1 to {}", usize::MAX)),
        Err(size::Error::Malformed) => Err("write a whole number such as 20".to_owned()),
    }
}

/// Parses a path. A value that begins with `-` is refused: it is the next option, and the path is missing.
pub(crate) fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        if path.as_os_str().as_bytes().starts_with(b"-") {
            Err("it begins like an option; write ./ before the name of a file that does")
        } else {
            Ok(path)
        }
    })
}

/// As [`path`], or `-` for standard input.
pub(crate) fn path_or_stdin() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        if path.as_os_str().as_bytes().starts_with(b"-") && path.as_os_str() != "-" {
            Err("it begins like an option; write ./ before the name of a file that does")
        } else {
            Ok(path)
        }
    })
}

/// Parses the name of a user or a group, with the same rule.
pub(crate) fn name(text: &str) -> Result<String, &'static str> {
    if text.starts_with('-') { Err("write a name, which does not begin with -") } else { Ok(text.to_owned()) }
}

/// Lets every option take a value that begins with `-`: `-1s` is then a wrong value instead of an unknown option.
fn taking_any_value(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| {
        let is_option = argument.get_long().is_some() && argument.get_action().takes_values();
        if is_option { argument.allow_hyphen_values(true) } else { argument }
    });
    command.mut_subcommands(taking_any_value)
}

/// Refuses an option before a command on which it has no effect, as clap does after the command.
fn refuse_without_effect(command: &mut clap::Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some(verb) = matches.subcommand_name() else { return Ok(()) };
    let is_said = |option: &&Arg| matches.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine);
    let verbs = command.find_subcommand(verb);
    let has_effect = |option: &Arg| {
        verbs.is_some_and(|verb| verb.get_arguments().any(|other| other.get_long() == option.get_long()))
    };
    let stray = command.get_arguments().filter(is_said).find(|option| !has_effect(option)).and_then(Arg::get_long);
    match stray.map(|long| format!("--{long} has no effect with the command {verb}; leave it out")) {
        Some(what) => Err(command.error(ErrorKind::ArgumentConflict, what)),
        None => Ok(()),
    }
}

/// Words that people try because other programs have them, and what to do instead.
const HINTS: [(&[&str], &str); 3] = [
    (
        &["add", "run", "create", "new", "edit"],
        "agents are declared in the jcard: edit it and save; agentd init writes one",
    ),
    (&["remove", "rm", "delete"], "remove the agent's entry from the jcard, and save"),
    (&["daemon", "serve"], "agentd without a command is the daemon"),
];

/// Adds to the refusal of an unknown command what to do instead, if that is known.
fn with_hint(mut error: clap::Error) -> clap::Error {
    let word = match error.get(ContextKind::InvalidSubcommand).or_else(|| error.get(ContextKind::InvalidArg)) {
        Some(ContextValue::String(word)) => word.clone(),
        _ => return error,
    };
    if let Some((_, hint)) = HINTS.iter().find(|(words, _)| words.contains(&word.as_str())) {
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![(*hint).into()]));
    }
    error
}

/// The message for a refused command line. Characters in it that act on a terminal are escaped.
fn refusal(mut error: clap::Error) -> String {
    let context: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in context {
        let value = match value {
            ContextValue::String(text) => ContextValue::String(escaped(&text)),
            ContextValue::Strings(texts) => ContextValue::Strings(texts.iter().map(|text| escaped(text)).collect()),
            // Suggestions repeat words of the command line, each on its own line.
            ContextValue::StyledStrs(texts) => {
                ContextValue::StyledStrs(texts.iter().map(|text| escaped(&text.to_string()).into()).collect())
            }
            _ => continue,
        };
        error.insert(kind, value);
    }
    // The message of a value parser may repeat the value.
    escaped_lines(&error.render().to_string())
}

/// Prints requested help to stdout, or why the command line was refused to stderr.
pub fn conclude(error: clap::Error) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(1);
    // If the message cannot be printed, nothing is left to do.
    let _ = if error.use_stderr() { write!(io::stderr(), "{}", refusal(error)) } else { error.print() };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(words: &[&str], here: &Surroundings) -> Settings {
        read(words).unwrap().settings(here)
    }

    fn read(words: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::read(words.iter().map(OsString::from))
    }

    /// The daemon and all commands, each with the words that call it and its own options.
    fn commands() -> Vec<(Vec<String>, clap::Command)> {
        let mut command = Arguments::command();
        command.build();
        let verbs = command.get_subcommands().filter(|verb| verb.get_name() != "help");
        let call = |verb: &clap::Command| {
            // A text, too, unless there are keys.
            let is_needed = |argument: &&Arg| argument.is_required_set() || argument.get_id() == "text";
            let needed = verb.get_positionals().filter(is_needed);
            let flags = verb.get_arguments().filter(|argument| argument.is_required_set() && !argument.is_positional());
            let flags = flags.filter_map(Arg::get_long).map(|long| format!("--{long}"));
            // Any word, unless there is a list of them.
            let word = |argument: &Arg| {
                argument
                    .get_possible_values()
                    .first()
                    .map_or_else(|| "a".to_owned(), |value| value.get_name().to_owned())
            };
            [verb.get_name().to_owned()].into_iter().chain(needed.map(word)).chain(flags).collect()
        };
        let verbs: Vec<_> = verbs.map(|verb| (call(verb), verb.clone())).collect();
        [(Vec::new(), command)].into_iter().chain(verbs).collect()
    }

    /// The long names of a command's options, except those that every command has.
    fn options(command: &clap::Command) -> Vec<&str> {
        let options = command.get_arguments().filter_map(Arg::get_long);
        options.filter(|option| !["help", "version"].contains(option)).collect()
    }

    fn root() -> Surroundings {
        Surroundings { root: true, home: "/root".into(), ..Surroundings::default() }
    }

    fn user() -> Surroundings {
        Surroundings { home: "/home/me".into(), ..Surroundings::default() }
    }

    #[test]
    fn a_word_of_other_programs_gets_a_hint() {
        for (word, hint) in [("add", "edit it and save"), ("run", "agentd init"), ("rm", "remove the agent's entry")] {
            let said = refusal(read(&["agentd", word]).unwrap_err());
            assert!(said.contains(hint) && said.contains(word), "{said}");
        }
        for (alias, verb) in [("ps", "status"), ("list", "status"), ("ls", "status"), ("log", "logs")] {
            let words = |verb| read(&["agentd", verb, "a"]).unwrap();
            assert_eq!(format!("{:?}", words(alias)), format!("{:?}", words(verb)));
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn root_has_the_defaults_of_the_contract() {
        let settings = settings(&["agentd"], &root());
        let paths = [
            (settings.config, "/etc/stereos/jcard.toml"),
            (settings.secret_dir, "/run/stereos/secrets"),
            (settings.api_socket, "/run/stereos/agentd.sock"),
            (settings.tmux_socket, "/run/agentd/tmux.sock"),
            (settings.state_dir, "/var/lib/agentd"),
            (settings.log_dir, "/var/log/agentd"),
            (settings.override_dir, "/var/lib/agentd-overrides"),
        ];
        for (path, default) in paths {
            assert_eq!(path, Path::new(default));
        }
        assert_eq!((settings.user, settings.admin_group.as_str()), (None, "admin"));
        assert_eq!((settings.resync, settings.settle), (Duration::from_secs(5), Duration::from_millis(300)));
        assert_eq!(settings.detail, Detail::Plain);
    }

    #[test]
    fn ordinary_user_has_defaults_of_its_own() {
        let here = Surroundings {
            config_home: Some("/c".into()),
            runtime_dir: Some("/r".into()),
            state_home: Some("/s".into()),
            ..user()
        };
        let settings = settings(&["agentd"], &here);
        let paths = [
            (settings.config, "/c/agentd/jcard.toml"),
            (settings.secret_dir, "/c/agentd/secrets"),
            (settings.api_socket, "/r/agentd/agentd.sock"),
            (settings.tmux_socket, "/r/agentd/tmux.sock"),
            (settings.state_dir, "/s/agentd"),
            (settings.log_dir, "/s/agentd/logs"),
            (settings.override_dir, "/s/agentd-overrides"),
        ];
        for (path, default) in paths {
            assert_eq!(path, Path::new(default));
        }
    }

    #[test]
    fn default_paths_are_below_home_without_variables() {
        let settings = settings(&["agentd"], &user());
        assert_eq!(settings.config, Path::new("/home/me/.config/agentd/jcard.toml"));
        assert_eq!(settings.api_socket, Path::new("/home/me/.local/state/agentd/run/agentd.sock"));
        assert_eq!(settings.state_dir, Path::new("/home/me/.local/state/agentd"));
    }

    #[test]
    fn log_size_is_that_of_the_logs_by_default() {
        assert_eq!(settings(&["agentd"], &root()).log_retention, crate::logs::store::Retention::default());
    }

    #[test]
    fn first_of_several_systemd_directories_counts() {
        let (state, logs) = ("/var/lib/one:/var/lib/two".into(), "/var/log/one:/var/log/two".into());
        let here = Surroundings { state_directory: Some(state), logs_directory: Some(logs), ..root() };
        assert_eq!(settings(&["agentd"], &here).log_dir, Path::new("/var/log/one"));
        assert_eq!(settings(&["agentd"], &here).state_dir, Path::new("/var/lib/one"));
    }

    #[test]
    fn service_credentials_are_the_default_secret_dir() {
        let here = Surroundings { credentials_directory: Some("/run/credentials/agentd.service".into()), ..root() };
        assert_eq!(settings(&["agentd"], &here).secret_dir, Path::new("/run/credentials/agentd.service"));
        assert_eq!(settings(&["agentd", "--secret-dir", "/y"], &here).secret_dir, Path::new("/y"));
    }

    #[test]
    fn flags_with_one_dash_are_understood() {
        let words = ["agentd", "-config", "/x", "-secret-dir=/y", "-debug", "-api-socket", "/z", "-tmux-socket", "/t"];
        let settings = settings(&words, &root());
        assert_eq!(settings.config, Path::new("/x"));
        assert_eq!(settings.secret_dir, Path::new("/y"));
        assert_eq!(settings.api_socket, Path::new("/z"));
        assert_eq!(settings.tmux_socket, Path::new("/t"));
        assert_eq!(settings.detail, Detail::Debug);
        assert!(settings.options.from_go);
    }

    #[test]
    fn flags_of_the_go_daemon_without_effect_are_kept_for_the_log() {
        let told = settings(&["agentd", "-sandbox-state-dir", "/s", "-debug=false"], &root());
        assert_eq!((told.without_effect, told.detail), (vec!["sandbox-state-dir"], Detail::Plain));
        let plain = settings(&["agentd", "--debug"], &root());
        assert_eq!((plain.without_effect.len(), plain.options.from_go), (0, false));
        let error = read(&["agentd", "-sandbox-state-dir=/x", "status"]).unwrap_err().to_string();
        assert!(error.contains("--sandbox-state-dir has no effect with a command; leave it out"), "{error}");
    }

    #[test]
    fn malformed_duration_is_named_in_the_error() {
        let error = read(&["agentd", "--settle", "3 parsecs"]).unwrap_err().to_string();
        assert!(error.contains("--settle") && error.contains("3 parsecs"), "{error}");
    }

    #[test]
    fn value_that_looks_like_an_option_is_a_wrong_value() {
        let mut count = 0;
        for (call, command) in commands() {
            let values = command.get_opts().filter_map(|option| Some((option.get_long()?, option.get_short())));
            for (long, short) in values {
                // A text may begin with anything.
                if long == "why" {
                    continue;
                }
                let spellings = [Some(format!("--{long}")), short.map(|short| format!("-{short}"))];
                for (option, value) in spellings
                    .into_iter()
                    .flatten()
                    .flat_map(|it| ["-1", "-1s", "--debug"].map(|value| (it.clone(), value)))
                {
                    let words = [&["agentd".to_owned()], &call[..], &[option, value.to_owned()]].concat();
                    let error = Arguments::read(words.iter().map(OsString::from)).unwrap_err().to_string();
                    let start = format!("error: invalid value '{value}' for '--{long} <");
                    assert!(error.starts_with(&start), "{words:?}: {error}");
                    let right = error.lines().take(3).any(|line| {
                        ["write ", "possible values: ", "such as ", "looks like 1"]
                            .iter()
                            .any(|right| line.contains(right))
                    });
                    assert!(right && !error.contains("invalid digit"), "{words:?}: {error}");
                    count += 1;
                }
            }
        }
        assert!(count > 60, "{count}");
    }

    #[test]
    fn value_out_of_range_names_the_range() {
        for (option, value, range) in [
            ("--log-size", "99999999999GiB", "from 64KiB to 18446744073709551615 bytes"),
            ("--log-size", "1KiB", "from 64KiB to"),
            ("--log-attempts", "0", "from 1 to"),
            ("--log-attempts", "99999999999999999999999", "from 1 to"),
            ("--settle", "400 years", "from 0 to 292 years"),
        ] {
            let error = read(&["agentd", option, value]).unwrap_err().to_string();
            assert!(error.contains(option) && error.contains(range), "{error}");
        }
    }

    #[test]
    fn refusal_escapes_what_acts_on_a_terminal() {
        const HOSTILE: &str = "\u{1b}[2Jx\u{9b}m\u{202e}\u{2066}\r\nagentd: all is well";
        let option = format!("--{HOSTILE}");
        let mut lines = vec![vec![HOSTILE], vec![&option], vec![HOSTILE, "--help"], vec!["help", HOSTILE]];
        let commands = commands();
        for (call, command) in &commands {
            let call: Vec<&str> = call.iter().map(String::as_str).collect();
            for long in command.get_opts().filter_map(Arg::get_long) {
                let long: &str = Box::leak(format!("--{long}").into_boxed_str());
                lines.push([&call[..], &[long, HOSTILE, "--no-such-option"]].concat());
            }
            let takes_many = |argument: &Arg| argument.get_num_args().is_some_and(|range| range.max_values() > 1);
            if !command.get_positionals().any(takes_many) {
                lines.push([&call[..], &[HOSTILE, HOSTILE, HOSTILE]].concat());
            }
            lines.push([&call[..], &[&option]].concat());
        }
        for line in lines {
            let error = read(&[&["agentd"], &line[..]].concat()).unwrap_err();
            let said = refusal(error);
            let acts = said.chars().find(|&character| character != '\n' && crate::text::printable::acts(character));
            assert_eq!(acts, None, "{line:?}: {said:?}");
            assert!(!said.contains("\nagentd: all is well"), "{line:?}: {said:?}");
            assert!(said.starts_with("error: ") && said.ends_with('\n'), "{said:?}");
        }
        let said = refusal(read(&["agentd", HOSTILE]).unwrap_err());
        assert!(said.contains(r"\u{1b}[2Jx\u{9b}m\u{202e}\u{2066}\r\nagentd"), "it is named: {said}");
    }

    const ATTACH: &[&str] = &["read-only", "config", "tmux-socket", "terminal-socket", "user", "api-socket"];
    /// What says which daemon is meant, and where its files are.
    const PLACES: &[&str] = &[
        "config",
        "api-socket",
        "unsandboxed",
        "default-type",
        "sandbox",
        "runsc-path",
        "secret-dir",
        "tmux-socket",
        "terminal-socket",
        "state-dir",
        "log-dir",
        "launcher",
        "user",
        "admin-group",
        "operator-group",
        "agent-group",
        "override-dir",
    ];
    const OF_DAEMON: &[&str] = &[
        "await-tmux",
        "resync",
        "settle",
        "login-timeout",
        "on-terminate",
        "log-size",
        "log-attempts",
        "log-total",
        "debug",
    ];

    #[test]
    fn each_command_takes_the_options_that_affect_it() {
        let (daemon, doctor) = ([PLACES, OF_DAEMON].concat(), [PLACES, &["verbose", "json"]].concat());
        for (call, command) in commands() {
            let expected: &[&str] = match call.first().map_or("", String::as_str) {
                "" => &daemon,
                "check" => &[
                    "config",
                    "unsandboxed",
                    "default-type",
                    "sandbox",
                    "runsc-path",
                    "json",
                    "strict",
                    "here",
                    "user",
                    "secret-dir",
                    "screen",
                    "harness",
                ],
                "harnesses" => &["config"],
                "status" => &["label", "watch", "sort", "json", "failed", "check", "api-socket"],
                "explain" => &["utc", "json", "api-socket"],
                "wait" => &["label", "for", "timeout", "exit-code", "json", "api-socket"],
                "watch" => &["once", "follow", "json", "api-socket"],
                "logs" => &[
                    "all",
                    "label",
                    "follow",
                    "lines",
                    "timestamps",
                    "utc",
                    "attempt",
                    "previous",
                    "all-attempts",
                    "since",
                    "raw",
                    "json",
                    "log-dir",
                    "secret-dir",
                    "user",
                    "api-socket",
                ],
                "events" => &["label", "follow", "after", "utc", "json", "api-socket"],
                "stop" | "restart" => &["now", "wait", "override-dir", "api-socket"],
                "start" => &["wait", "override-dir", "api-socket"],
                "pause" | "unpause" => &["all", "override-dir", "api-socket"],
                "approvals" => &["json", "api-socket"],
                "deny" => &["why", "override-dir", "api-socket"],
                "approve" | "release" => &["override-dir", "api-socket"],
                "attach" => ATTACH,
                "send" => &["keys", "no-enter", "config", "terminal-socket", "api-socket"],
                "doctor" => &doctor,
                "show" | "diff" => {
                    &["config", "unsandboxed", "default-type", "sandbox", "runsc-path", "json", "api-socket"]
                }
                "init" => &["config", "secret-dir"],
                "schema" | "completions" | "man" => &[],
                other => panic!("{other} is new"),
            };
            let sorted = |mut options: Vec<&str>| {
                options.sort_unstable();
                options.join(" ")
            };
            assert_eq!(sorted(options(&command)), sorted(expected.to_vec()), "{call:?}");
        }
    }

    #[test]
    fn option_works_before_a_command_as_it_does_after() {
        let top = commands().remove(0).1;
        for (call, command) in commands().into_iter().skip(1) {
            for option in top.get_arguments().filter(|option| options(&top).contains(&option.get_long().unwrap_or("")))
            {
                let long = option.get_long().unwrap();
                let value = match (option.get_action().takes_values(), long) {
                    (false, _) => "",
                    (true, "on-terminate") => "=stop",
                    (true, "default-type") => "=sandboxed",
                    (true, "sandbox") => "=crun",
                    (true, "log-size" | "log-total") => "=1GiB",
                    (true, "log-attempts") => "=3",
                    (true, "resync" | "settle" | "login-timeout") => "=1s",
                    (true, _) => "=/x",
                };
                let words = [&["agentd".to_owned(), format!("--{long}{value}")], &call[..]].concat();
                match Arguments::read(words.iter().map(OsString::from)) {
                    Ok(_) => assert!(options(&command).contains(&long), "{words:?}"),
                    Err(error) => {
                        assert!(!options(&command).contains(&long), "{words:?}: {error}");
                        let expected = format!("--{long} has no effect with the command {}", call[0]);
                        assert!(error.to_string().contains(&expected), "{words:?}: {error}");
                    }
                }
            }
        }
        for words in [&["agentd", "--api-socket", "/x", "status"], &["agentd", "status", "--api-socket", "/x"]] {
            assert_eq!(read(words).unwrap().places.client_socket(&root()), Path::new("/x"));
        }
        let both = read(&["agentd", "--config", "/x", "doctor", "--config", "/y", "--unsandboxed"]).unwrap().places;
        assert_eq!((both.config.as_deref(), both.sandboxing.unsandboxed), (Some(Path::new("/y")), true));
    }

    #[rstest::rstest]
    #[case(&[], Engine::Bwrap, None)]
    #[case(&["--sandbox", "crun"], Engine::Crun, None)]
    #[case(&["-runsc-path", "runsc"], Engine::Runsc, Some("runsc"))]
    #[case(&["-runsc-path=/opt/runsc", "--sandbox", "bwrap"], Engine::Bwrap, Some("/opt/runsc"))]
    fn runsc_is_the_default_engine_if_its_path_is_named(
        #[case] flags: &[&str],
        #[case] engine: Engine,
        #[case] runsc: Option<&str>,
    ) {
        let arguments = read(&[&["agentd"], flags].concat()).unwrap();
        let options = arguments.settings(&root()).options;
        assert_eq!((options.engine, options.runsc.as_deref()), (engine, runsc.map(Path::new)));
        assert_eq!(options.default_type, DefaultType::Native);
    }

    #[test]
    fn options_of_the_sandbox_work_before_and_after_a_command() {
        let all = ["--default-type", "sandboxed", "--sandbox", "crun", "--runsc-path", "/opt/runsc"];
        let expected = Sandboxing {
            unsandboxed: false,
            default_type: Some(DefaultType::Sandboxed),
            sandbox: Some(Engine::Crun),
            runsc_path: Some("/opt/runsc".into()),
        };
        for words in [[&["agentd"], &all[..], &["show", "a"]].concat(), [&["agentd", "show", "a"], &all[..]].concat()] {
            assert_eq!(read(&words).unwrap().places.sandboxing, expected, "{words:?}");
        }
        assert!(read(&["agentd", "--sandbox", "none"]).is_err());
    }

    fn with_variable(value: &str, words: &[&str]) -> Result<Option<PathBuf>, String> {
        let variable = |name: &str| (name == SOCKET_VARIABLE).then(|| value.into());
        let here = Surroundings::of(false, "/home/me".into(), variable);
        let heeded = read(words).unwrap().with_environment(&here).map_err(refusal)?;
        Ok(heeded.places.api.socket)
    }

    #[test]
    fn the_variable_names_the_socket_to_every_verb() {
        let mut count = 0;
        for (call, command) in commands() {
            let words: Vec<&str> = ["agentd"].into_iter().chain(call.iter().map(String::as_str)).collect();
            let asks = !call.is_empty() && options(&command).contains(&"api-socket");
            let expected = asks.then(|| PathBuf::from("/v/agentd.sock"));
            assert_eq!(with_variable("/v/agentd.sock", &words).unwrap(), expected, "{words:?}");
            assert_eq!(with_variable("", &words).unwrap(), None, "{words:?}: an empty value counts as unset");
            if asks {
                let words = [&words[..], &["--api-socket", "/flag"]].concat();
                assert_eq!(with_variable("/v/agentd.sock", &words).unwrap(), Some("/flag".into()), "{words:?}");
                assert_eq!(with_variable("relative", &words).unwrap(), Some("/flag".into()), "{words:?}");
                count += 1;
            }
        }
        assert_eq!(count, 20);
    }

    #[test]
    fn a_bad_path_in_the_variable_is_refused() {
        for value in ["agentd.sock", "~/agentd.sock", "./\u{1b}[2J", &format!("/{}", "x".repeat(LONGEST_PATH))] {
            let said = with_variable(value, &["agentd", "status"]).unwrap_err();
            assert!(said.contains(SOCKET_VARIABLE) && said.contains("write an absolute path"), "{said}");
            assert!(said.contains(&escaped(value)) && !said.contains('\u{1b}'), "{said}");
        }
        for words in [&["agentd"][..], &["agentd", "schema"]] {
            assert_eq!(with_variable("agentd.sock", words).unwrap(), None, "{words:?} ignores it");
        }
    }

    #[test]
    fn the_docs_list_every_option_of_the_daemon() {
        let page = include_str!("../docs/operations.md");
        let table = page.split_once("| flag | default for root |").unwrap().1.split("\n\n").next().unwrap();
        let rows = table.lines().filter_map(|row| row.strip_prefix("| `--")?.split(['`', ' ']).next());
        let mut listed: Vec<&str> = rows.collect();
        let command = Arguments::command();
        let mut there = options(&command);
        listed.sort_unstable();
        there.sort_unstable();
        assert_eq!(listed, there);
    }
}
