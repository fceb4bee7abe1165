//! What is looked at, and what to think of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::SFlag;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, Gid, eaccess};

use super::Check;
use crate::agent::name::Key;
use crate::agent::secrets::Secrets;
use crate::agent::seen::SeenWorkdir;
use crate::cli::target::{Daemon, Target, holder};
use crate::cli::wording::{counted, fault};
use crate::client::{Client, Error};
use crate::config::{self, Severity};
use crate::deputy::{Deputy, Output, Program, Server};
use crate::inputs::secrets;
use crate::launch::program;
use crate::launch::socket_dir::LAUNCH_SOCKET;
use crate::sys::account::Account;
use crate::sys::procfs;
use crate::sys::regular_file;
use crate::sys::safe_path::{self, Look};
use crate::sys::systemd;
use crate::tmux::{self, Tmux};
use crate::wire::status::{AgentStatus, Health};

/// How long `tmux -V` may take.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Fewer are too few for the API's 1,024 clients and the agents' two or three each.
const FEW_DESCRIPTORS: u64 = 4096;

/// How many of many things are named.
const NAMED: usize = 5;

/// What the daemon says, if it does.
#[derive(Default)]
struct Said {
    health: Option<Health>,
    agents: Option<Vec<AgentStatus>>,
}

impl Said {
    /// A kind of error that agents may have: each, with those that have it.
    fn errors<'a>(&'a self, of: impl Fn(&'a AgentStatus) -> Option<&'a str>) -> Option<String> {
        let mut errors: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for agent in self.agents.iter().flatten() {
            if let Some(error) = of(agent) {
                errors.entry(error).or_default().push(&agent.name);
            }
        }
        let told: Vec<String> = errors.iter().map(|(error, agents)| format!("{}: {error}", named(agents))).collect();
        (!told.is_empty()).then(|| told.join("\n"))
    }
}

/// Looks at everything there is to look at.
pub(super) async fn all(target: &Target) -> Vec<Check> {
    let (daemon, said) = daemon(target).await;
    let jcard = Jcard::read(target);
    let mut checks = vec![daemon, api_socket(target)];
    checks.extend(users(target));
    checks.extend(state(target, said.health.as_ref()));
    checks.push(log(target, &said));
    checks.push(jcard.check(target, said.health.as_ref()));
    checks.push(secrets(target, said.health.as_ref()));
    checks.extend(tmux_files(target));
    checks.extend(tmux(target, &said, &jcard).await);
    checks.push(groups(target, said.health.as_ref()));
    checks.push(limits(target, &said, &jcard));
    checks.push(descriptors(target.daemon.as_ref()));
    checks.extend(said.agents.as_deref().map(agents));
    checks
}

async fn daemon(target: &Target) -> (Check, Said) {
    const NAME: &str = "daemon";
    let socket = &target.settings.api_socket;
    let answers = async {
        let client = Client::new(socket)?;
        let health = client.health().await?.value;
        // What is not told is not known; the rest stands without it.
        let agents = client.agents().await.ok().map(|agents| agents.value);
        Ok::<_, Error>((health, agents))
    };
    match answers.await {
        Ok((health, agents)) => {
            let pid = target.daemon.as_ref().map_or_else(String::new, |daemon| format!(", process {}", daemon.pid));
            let check = Check::ok(NAME, format!("agentd {} answers at {}{pid}", health.version, socket.display()));
            (check, Said { health: Some(health), agents })
        }
        Err(error @ Error::NotRunning(_)) if target.daemon.is_some() => {
            let remedy = "there is a daemon that does not serve it: see its log, and start it again";
            (Check::failure(NAME, error.to_string(), remedy), Said::default())
        }
        Err(error @ Error::NotRunning(_)) => {
            let start = if target.is_system && systemd::is_booted() { "systemctl start agentd" } else { "agentd" };
            let check = Check::failure(NAME, error.to_string(), format!("start it: {start}"));
            (check, Said::default())
        }
        Err(error @ Error::Denied(_)) => {
            let who = who(target, &["root", "a member of the group"]);
            (Check::unknown(NAME, error.to_string(), who), Said::default())
        }
        Err(error) => {
            let remedy = "see its log (journalctl -u agentd), and start it again";
            (Check::failure(NAME, error.to_string(), remedy), Said::default())
        }
    }
}

/// Whom to ask as.
fn who(target: &Target, whom: &[&str]) -> String {
    let group = &target.settings.admin_group;
    let agent = target.account.as_ref().map_or("the agent user", |account| account.name.as_str());
    let named = |whom: &&str| match *whom {
        "a member of the group" => format!("a member of {group}"),
        "the agent user" => agent.to_owned(),
        other => other.to_owned(),
    };
    let whom: Vec<String> = whom.iter().map(named).collect();
    format!("run agentd doctor as {}", whom.join(" or "))
}

/// What is at a path, if anything is. It is not followed if it is a link, and no link on the way is that could be anybody's.
fn look_at(path: &Path) -> Result<Option<Look>, io::Error> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let looked = safe_path::open_dir(parent, None).map_err(io::Error::from);
    match looked.and_then(|folder| safe_path::look(&folder, path.file_name().unwrap_or_default())) {
        Ok(look) => Ok(Some(look)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn kind(look: &Look) -> SFlag {
    SFlag::from_bits_truncate(look.mode) & SFlag::S_IFMT
}

/// What a file should be.
#[derive(Clone, Copy, Debug)]
struct Right {
    kind: SFlag,
    uid: Option<u32>,
    gid: Option<u32>,
    /// The bits that it must have.
    needs: u32,
    /// The bits that it must not have.
    bars: u32,
}

/// What is wrong with it, for a person; empty if nothing is.
fn wrongs(look: &Look, right: Right) -> Vec<String> {
    let mut wrongs = Vec::new();
    if kind(look) != right.kind {
        let kind = if right.kind == SFlag::S_IFSOCK { "socket" } else { "directory" };
        return vec![format!("it is no {kind}")];
    }
    if let Some(uid) = right.uid.filter(|&uid| uid != look.owner) {
        wrongs.push(format!("it belongs to uid {} and not to uid {uid}", look.owner));
    }
    if let Some(gid) = right.gid.filter(|&gid| gid != look.group) {
        wrongs.push(format!("its group has gid {} and not {gid}", look.group));
    }
    let mode = look.mode & 0o7777;
    if mode & right.needs != right.needs || mode & right.bars != 0 {
        wrongs.push(format!("it has mode {mode:04o} and not {:04o}", (mode | right.needs) & !right.bars));
    }
    wrongs
}

/// `seen` is what is at the path, which is there whenever the daemon is.
fn judge(
    name: &'static str,
    path: &Path,
    seen: Result<Option<Look>, io::Error>,
    right: Right,
    target: &Target,
    remedy: &str,
) -> Check {
    let shown = path.display();
    match seen {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::unknown(
            name,
            format!("{shown} cannot be seen by this user"),
            who(target, &["root", "the agent user", "a member of the group"]),
        ),
        Err(error) => Check::failure(name, format!("failed to look at {shown}: {error}"), remedy),
        Ok(None) if target.daemon.is_some() => Check::failure(name, format!("{shown} is not there"), remedy),
        Ok(None) => Check::ok(name, format!("{shown} is not there, and is made when agentd starts")),
        Ok(Some(look)) => match wrongs(&look, right) {
            wrongs if wrongs.is_empty() => {
                Check::ok(name, format!("{shown} has mode {:04o}, and the right owner", look.mode & 0o7777))
            }
            wrongs => Check::failure(name, format!("{shown}: {}", wrongs.join("; ")), remedy),
        },
    }
}

/// The group that may use a daemon of root's.
fn group(target: &Target) -> Option<Gid> {
    users::get_group_by_name(&target.settings.admin_group).map(|group| Gid::from_raw(group.gid()))
}

fn api_socket(target: &Target) -> Check {
    let path = &target.settings.api_socket;
    let gid = group(target).filter(|_| target.is_system).map(Gid::as_raw);
    let (uid, needs) = if target.is_system { (0, 0o660) } else { (target.asker.as_raw(), 0o600) };
    let right = Right { kind: SFlag::S_IFSOCK, uid: Some(uid), gid, needs, bars: 0o007 };
    judge("api-socket", path, look_at(path), right, target, "start agentd again, which makes it anew")
}

fn users(target: &Target) -> Vec<Check> {
    let settings = &target.settings;
    let user = match &target.account {
        Ok(account) if account.uid.is_root() => Check::failure(
            "user",
            format!("agents would run as {}, which is root", account.name),
            "name an unprivileged user with --user",
        ),
        Ok(account) => Check::ok("user", format!("agents run as {} (uid {})", account.name, account.uid)),
        Err(error) => Check::failure("user", error.to_string(), "agentd does not start without it"),
    };
    if !target.is_system {
        return vec![user];
    }
    let name = &settings.admin_group;
    let group = match (group(target), &target.account) {
        (None, _) => Check::failure(
            "group",
            format!("there is no group {name:?}"),
            format!("create it (for example: groupadd --system {name}), or name another with --admin-group"),
        ),
        (Some(group), Ok(account)) if account.gid == group || account.groups.contains(&group) => Check::failure(
            "group",
            format!("the agent user {} is in the group {name}: agents can ask for what others do", account.name),
            format!("take it out (gpasswd -d {} {name}), and start agentd again", account.name),
        ),
        (Some(group), Ok(account)) => {
            Check::ok("group", format!("{name} (gid {group}) is there, and {} is not in it", account.name))
        }
        (Some(group), Err(_)) => Check::ok("group", format!("{name} (gid {group}) is there")),
    };
    vec![user, group]
}

fn state(target: &Target, health: Option<&Health>) -> Vec<Check> {
    let path = &target.settings.state_dir;
    let uid = if target.is_system { 0 } else { target.asker.as_raw() };
    let right = Right { kind: SFlag::S_IFDIR, uid: Some(uid), gid: None, needs: 0o700, bars: 0o077 };
    let seen = look_at(path);
    let directory = if let Some(error) = health.and_then(|health| health.state_error.as_ref()) {
        let remedy = format!("make room on the disk of {}; agentd tries again by itself", path.display());
        Check::failure("state", error.clone(), remedy)
    } else {
        let remedy = format!("chown {uid} {0} && chmod 0700 {0}", path.display());
        judge("state", path, seen, right, target, &remedy)
    };
    vec![directory, lock(path, target)]
}

/// What agents print.
fn log(target: &Target, said: &Said) -> Check {
    const NAME: &str = "log";
    let path = &target.settings.log_dir;
    if let Some(errors) = said.errors(|agent| agent.log_error.as_deref()) {
        return Check::warning(
            NAME,
            errors,
            "mend it, or name another --log-dir; it counts from an agent's next start on",
        );
    }
    let seen = look_at(path);
    if let Ok(None) = seen {
        return Check::ok(NAME, format!("{} is not there, and is made with the first agent", path.display()));
    }
    let uid = if target.is_system { 0 } else { target.asker.as_raw() };
    let right = Right { kind: SFlag::S_IFDIR, uid: Some(uid), gid: None, needs: 0o700, bars: 0o022 };
    let remedy = format!("chown {uid} {0} && chmod 0750 {0}", path.display());
    judge(NAME, path, seen, right, target, &remedy)
}

fn lock(path: &Path, target: &Target) -> Check {
    const NAME: &str = "lock";
    let shown = path.display();
    let holder = match holder(path) {
        Ok(holder) => holder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::ok(NAME, "nobody has it, for there is no state directory");
        }
        Err(error) => {
            return Check::unknown(
                NAME,
                format!("who has locked {shown} cannot be seen: {error}"),
                who(target, &["root"]),
            );
        }
    };
    match (holder, &target.daemon) {
        (Some(holder), Some(daemon)) if holder == daemon.pid => {
            Check::ok(NAME, format!("{shown} is locked by the daemon, process {holder}"))
        }
        (Some(holder), Some(daemon)) => Check::failure(
            NAME,
            format!("{shown} is locked by process {holder}, but process {} has the API's socket", daemon.pid),
            "stop one of the two, or name the --state-dir of the other",
        ),
        (Some(holder), None) => Check::warning(
            NAME,
            format!("{shown} is locked by process {holder}, which is not known to be a daemon"),
            format!("look at it (ps {holder}); no other daemon starts beside it"),
        ),
        (None, Some(daemon)) => Check::warning(
            NAME,
            format!("nobody has locked {shown}, though there is a daemon, process {}", daemon.pid),
            "name the --state-dir that it was given; or see its log",
        ),
        (None, None) => Check::ok(NAME, format!("{shown} is not locked, and free for a daemon")),
    }
}

/// The jcard, as far as the asker can read it.
enum Jcard {
    Read(Result<config::Config, Vec<config::Finding>>),
    Not(regular_file::Error),
}

impl Jcard {
    fn read(target: &Target) -> Self {
        match regular_file::read(&target.settings.config, config::MAX_SIZE) {
            Ok((text, _)) => Self::Read(config::parse(&text, &target.settings.options)),
            Err(error) => Self::Not(error),
        }
    }

    fn config(&self) -> Option<&config::Config> {
        match self {
            Self::Read(Ok(config)) => Some(config),
            Self::Read(Err(_)) | Self::Not(_) => None,
        }
    }

    fn check(&self, target: &Target, health: Option<&Health>) -> Check {
        const NAME: &str = "jcard";
        let file = target.settings.config.display();
        let remedy = format!("mend it; agentd check {file} shows all of it");
        let findings = match self {
            Self::Read(Ok(config)) => &config.findings,
            Self::Read(Err(findings)) => findings,
            Self::Not(error) => {
                if let Some(error) = health.and_then(|health| health.config_error.as_ref()) {
                    return Check::failure(NAME, error.clone(), remedy);
                }
                let is_denied =
                    matches!(error, regular_file::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied);
                let message = format!("{file}: {}", fault(error));
                return if is_denied {
                    Check::unknown(NAME, message, who(target, &["root"]))
                } else {
                    Check::failure(NAME, message, "write it; docs/jcard.md says how")
                };
            }
        };
        let told: Vec<String> = findings
            .iter()
            .take(NAMED)
            .map(|finding| format!("{file}:{}:{}: {}", finding.line, finding.column, finding.message))
            .collect();
        let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
        let more = findings.len().checked_sub(NAMED).filter(|&more| more > 0);
        let more = more.map_or_else(String::new, |more| format!("\nand {more} more"));
        let told = format!("{}{more}", told.join("\n"));
        match (errors, health.and_then(|health| health.config_error.as_ref())) {
            (1.., _) => Check::failure(NAME, told, remedy),
            (0, Some(error)) => Check::failure(NAME, error.clone(), remedy),
            (0, None) if !findings.is_empty() => Check::warning(NAME, told, remedy),
            (0, None) => {
                let agents = self.config().map_or(0, |config| config.entries.len());
                Check::ok(NAME, format!("{file} declares {}", counted(agents, "agent")))
            }
        }
    }
}

fn secrets(target: &Target, health: Option<&Health>) -> Check {
    const NAME: &str = "secrets";
    let path = &target.settings.secret_dir;
    let shown = path.display();
    let remedy = "mend it; agentd reads the secrets again by itself";
    if let Some(error) = health.and_then(|health| health.secrets_error.as_ref()) {
        return Check::failure(NAME, error.clone(), remedy);
    }
    // Links are followed, as agenix and sops-nix make them: the folder is root's.
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::ok(NAME, format!("{shown} is not there, which is as good as empty"));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Check::unknown(NAME, format!("{shown} cannot be seen by this user"), who(target, &["root"]));
        }
        Err(error) => return Check::failure(NAME, format!("failed to look at {shown}: {error}"), remedy),
    };
    let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o7777;
    if mode & 0o022 != 0 {
        return Check::failure(
            NAME,
            format!("{shown} has mode {mode:04o}: others than its owner can put secrets into it"),
            format!("chmod 0700 {shown}"),
        );
    }
    if eaccess(path, AccessFlags::R_OK | AccessFlags::X_OK).is_err() {
        return Check::unknown(NAME, format!("{shown} cannot be read by this user"), who(target, &["root"]));
    }
    let reading = secrets::read(path, &Secrets::default());
    if let Some(problems) = reading.error() {
        return Check::failure(NAME, problems, remedy);
    }
    let is_open = |name: &&String| {
        fs::metadata(path.join(name)).is_ok_and(|file| std::os::unix::fs::MetadataExt::mode(&file) & 0o004 != 0)
    };
    let open: Vec<&str> = match mode & 0o001 {
        0 => Vec::new(),
        _ => reading.secrets.iter().map(|(name, _)| name).filter(is_open).map(String::as_str).collect(),
    };
    if open.is_empty() {
        let count = reading.secrets.iter().count();
        return Check::ok(NAME, format!("{shown} has mode {mode:04o} and holds {}", counted(count, "secret")));
    }
    Check::failure(
        NAME,
        format!("everybody can read {} in {shown}", named(&open)),
        format!("chmod 0700 {shown}, or take the files from others (chmod o=)"),
    )
}

/// The first few of many.
fn named(names: &[&str]) -> String {
    let first = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMED).filter(|&more| more > 0) {
        Some(more) => format!("{first} and {more} more"),
        None => first,
    }
}

fn tmux_files(target: &Target) -> Vec<Check> {
    let socket = &target.settings.tmux_socket;
    let Some(folder) = socket.parent() else { return Vec::new() };
    let Ok(account) = &target.account else { return Vec::new() };
    let uid = Some(account.uid.as_raw());
    let gid = group(target).filter(|_| target.is_system).map(Gid::as_raw);
    let (needs, bars) = if target.is_system { (0o2750, 0o027) } else { (0o700, 0o022) };
    let directory = Right { kind: SFlag::S_IFDIR, uid, gid, needs, bars };
    let (needs, bars) = if target.is_system { (0o660, 0o007) } else { (0o600, 0o007) };
    let server = Right { kind: SFlag::S_IFSOCK, uid, gid, needs, bars };
    let owner = if target.is_system { 0 } else { target.asker.as_raw() };
    let launch = Right { kind: SFlag::S_IFSOCK, uid: Some(owner), gid: None, needs: 0o666, bars: 0 };
    let again = "agentd makes it anew within seconds; if it does not, see its log";
    vec![
        judge("tmux-folder", folder, look_at(folder), directory, target, "start agentd again, which sets it right"),
        judge("tmux-socket", socket, look_at(socket), server, target, again),
        judge(
            "launch-socket",
            &folder.join(LAUNCH_SOCKET),
            look_at(&folder.join(LAUNCH_SOCKET)),
            launch,
            target,
            again,
        ),
    ]
}

/// The program, agentd's own for the agent user, and the sessions on the server.
async fn tmux(target: &Target, said: &Said, jcard: &Jcard) -> Vec<Check> {
    // Root becomes the agent user for this; everybody else stays who they are.
    let account = match &target.account {
        Ok(account) if target.asker.is_root() && !account.uid.is_root() => account.clone(),
        _ => match Account::current() {
            Ok(account) if !account.uid.is_root() => account,
            _ => {
                let remedy = "fix what is said of the user first";
                return vec![Check::unknown("tmux", "tmux is not run as root", remedy)];
            }
        },
    };
    let path = target.daemon.as_ref().and_then(|daemon| daemon.path.clone());
    let whose = match (&path, &target.daemon) {
        (Some(_), _) => "the daemon's PATH",
        (None, Some(_)) => "your PATH (that of the daemon is not for you to know)",
        (None, None) => "your PATH (there is no daemon to have another)",
    };
    let deputy = Deputy::searching(path.or_else(|| std::env::var_os("PATH")), &account, || {});
    let mut checks = vec![version(&deputy, whose).await];
    let is_agent = target.account.as_ref().is_ok_and(|agent| agent.uid == account.uid);
    if !is_agent {
        let whom = who(target, &["root", "the agent user"]);
        for check in ["executable", "launcher", "tmux-server"] {
            checks.push(Check::unknown(check, "only for the agent user it can be told", whom.clone()));
        }
        checks.push(Check::unknown("sessions", "a tmux client is run as the agent user only", whom));
        return checks;
    }
    checks.push(executable(&deputy, target).await);
    checks.push(launcher(&deputy, target).await);
    checks.push(server(&deputy, &account, target).await);
    checks.push(sessions(deputy, &account, target, said, jcard).await);
    checks
}

async fn version(deputy: &Deputy, whose: &str) -> Check {
    const NAME: &str = "tmux";
    let (major, minor) = tmux::OLDEST;
    let remedy = format!("install tmux {major}.{minor} or newer where {whose} finds it");
    match deputy.tmux(Program::Installed, vec!["-V".to_owned()], VERSION_TIMEOUT).await {
        Ok(Ok(Output { stdout, .. })) => match tmux::judge_version("what is installed", &stdout) {
            Ok(()) => Check::ok(NAME, format!("{} is found in {whose}", stdout.trim())),
            Err(error) => Check::failure(NAME, error.to_string(), remedy),
        },
        Ok(Err(error)) => Check::failure(NAME, error.to_string(), remedy),
        Err(error) => Check::unknown(NAME, error.to_string(), "try again"),
    }
}

/// tmux starts the launcher as the agent user, who must get at it.
async fn launcher(deputy: &Deputy, target: &Target) -> Check {
    const NAME: &str = "launcher";
    const REMEDY: &str = "put agentd-launcher beside agentd, where everybody can run it, such as /usr/local/bin";
    // Another agentd than this one has its launcher elsewhere.
    let of_daemon = target.daemon.as_ref().and_then(|daemon| fs::read_link(format!("/proc/{}/exe", daemon.pid)).ok());
    let beside = of_daemon.map(|agentd| agentd.with_file_name(program::NAME));
    let path = match program::find(target.settings.launcher.as_deref().or(beside.as_deref())) {
        Ok(path) => path,
        Err(error) => return Check::failure(NAME, error.to_string(), REMEDY),
    };
    let Some(folder) = path.parent() else { return Check::ok(NAME, path.display().to_string()) };
    match deputy.workdir(folder.to_owned()).await {
        Ok(SeenWorkdir::Usable) => Check::ok(NAME, format!("{} is in the agent user's reach", path.display())),
        Ok(SeenWorkdir::Unusable(problem)) => {
            Check::failure(NAME, format!("agents cannot be started: {} {problem}", folder.display()), REMEDY)
        }
        Err(error) => Check::unknown(NAME, error.to_string(), "try again"),
    }
}

/// The launcher starts agentd as the agent user, who must get at it.
async fn executable(deputy: &Deputy, target: &Target) -> Check {
    const NAME: &str = "executable";
    let of_daemon = target.daemon.as_ref().and_then(|daemon| fs::read_link(format!("/proc/{}/exe", daemon.pid)).ok());
    let path: PathBuf = match of_daemon.map_or_else(std::env::current_exe, Ok) {
        Ok(path) => path,
        Err(error) => return Check::unknown(NAME, format!("where it is could not be found out: {error}"), "try again"),
    };
    let Some(folder) = path.parent() else { return Check::ok(NAME, path.display().to_string()) };
    let remedy = "put agentd where everybody can run it, such as /usr/local/bin";
    match deputy.workdir(folder.to_owned()).await {
        Ok(SeenWorkdir::Usable) => Check::ok(NAME, format!("{} is in the agent user's reach", path.display())),
        Ok(SeenWorkdir::Unusable(problem)) => {
            Check::failure(NAME, format!("agents cannot be started: {} {problem}", folder.display()), remedy)
        }
        Err(error) => Check::unknown(NAME, error.to_string(), "try again"),
    }
}

/// Sessions with agentd's mark of agents that nobody declares.
/// Whether the server, and with it all agents, has the groups that the user database gives to the agent user. A process keeps those
/// of its start.
async fn server(deputy: &Deputy, account: &Account, target: &Target) -> Check {
    const NAME: &str = "tmux-server";
    let socket = &target.settings.tmux_socket;
    // A server that lost its socket is the daemon's to wake.
    if matches!(look_at(socket), Ok(None)) {
        return Check::ok(NAME, "there is none without a tmux socket");
    }
    let pid = match deputy.server(socket.clone(), None).await {
        Ok(Ok(Server::Serving { pid, .. } | Server::Silent { pid: Some(pid) })) => pid,
        Ok(Ok(Server::None)) => return Check::ok(NAME, "there is none"),
        Ok(Ok(Server::Silent { pid: None })) => {
            return Check::unknown(NAME, "it does not answer, and which process it is cannot be told", "try again");
        }
        Ok(Err(error)) => return Check::unknown(NAME, error, "try again"),
        Err(error) => return Check::unknown(NAME, error.to_string(), "try again"),
    };
    let Some(groups) = procfs::read(format!("/proc/{pid}/status")).ok().and_then(|status| groups_of(&status)) else {
        return Check::unknown(NAME, format!("the groups of process {pid} cannot be seen"), "try again");
    };
    let given: BTreeSet<u32> = account.groups.iter().chain([&account.gid]).map(|gid| gid.as_raw()).collect();
    let wrongs = differences(&account.name, &groups, &given, |gid| {
        users::get_group_by_gid(gid).map_or(gid.to_string(), |group| group.name().to_string_lossy().into_owned())
    });
    if wrongs.is_empty() {
        return Check::ok(NAME, format!("process {pid} has the groups of {}", account.name));
    }
    let remedy = format!(
        "end the server when what runs in it may end; agentd starts another: runuser -u {} -- tmux -S {} kill-server",
        account.name,
        socket.display()
    );
    Check::warning(NAME, format!("process {pid} was started with other groups: {}", wrongs.join("; ")), remedy)
}

/// The groups of a process, by its `/proc/PID/status` (`proc_pid_status(5)`). Its name is in there too, and may be any bytes but the
/// end of a line.
fn groups_of(status: &[u8]) -> Option<BTreeSet<u32>> {
    let numbers = |name: &[u8]| {
        let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name))?;
        let words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        words.map(|word| word.parse().ok()).collect::<Option<Vec<u32>>>()
    };
    // Of the four, that which counts for access.
    let own = numbers(b"Gid:")?.get(1).copied()?;
    Some(numbers(b"Groups:")?.into_iter().chain([own]).collect())
}

/// What agents have too few and too many of.
fn differences(user: &str, has: &BTreeSet<u32>, given: &BTreeSet<u32>, name: impl Fn(u32) -> String) -> Vec<String> {
    let list = |gids: Vec<&u32>| gids.into_iter().map(|&gid| name(gid)).collect::<Vec<_>>();
    let [missing, left] = [given.difference(has), has.difference(given)].map(|gids| list(gids.collect()));
    let tell = |groups: &[String], what: &str| {
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        (!groups.is_empty()).then(|| format!("{what} {}", named(&groups)))
    };
    let missing = tell(&missing, &format!("{user} is in these groups, and agents are not:"));
    let left = tell(&left, &format!("{user} is not in these groups, and agents are:"));
    missing.into_iter().chain(left).collect()
}

async fn sessions(deputy: Deputy, account: &Account, target: &Target, said: &Said, jcard: &Jcard) -> Check {
    const NAME: &str = "sessions";
    let socket = &target.settings.tmux_socket;
    // A server that lost its socket is the daemon's to wake.
    if matches!(look_at(socket), Ok(None)) {
        return Check::ok(NAME, "there are none without a tmux socket");
    }
    let tmux = Tmux::new(deputy, socket.clone(), tmux::Origin::Elsewhere, String::new(), account);
    let owners = match tmux.owners().await {
        Ok(owners) => owners,
        Err(error @ tmux::Error::Deputy(_)) => return Check::unknown(NAME, error.to_string(), "try again"),
        Err(error) => {
            let remedy = "what runs in it goes on; agentd waits for it. If it is stopped, continue it (kill -CONT)";
            return Check::failure(NAME, error.to_string(), remedy);
        }
    };
    let declared = match (&said.agents, jcard.config()) {
        (Some(agents), _) => keys(agents.iter().map(|agent| agent.name.as_str())),
        (None, Some(config)) if config.complete => keys(config.entries.iter().map(|entry| entry.name.as_str())),
        (None, _) => {
            let message = format!("there are {}, but not which agents are declared is known", owners.len());
            return Check::unknown(NAME, message, "start agentd, or mend the jcard");
        }
    };
    let orphans: Vec<&str> = owners.difference(&declared).map(Key::as_str).collect();
    if orphans.is_empty() {
        return Check::ok(NAME, format!("{} of declared agents, and none of others", counted(owners.len(), "session")));
    }
    let remedy = match &target.daemon {
        Some(_) => "agentd stops them when it can read the whole jcard",
        None => "start agentd, which stops them",
    };
    Check::warning(NAME, format!("these agents are not declared, and have a session: {}", named(&orphans)), remedy)
}

fn keys<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<Key> {
    names.filter_map(|name| name.parse().ok()).collect()
}

/// Where what an agent starts is kept count of by the kernel.
fn groups(target: &Target, health: Option<&Health>) -> Check {
    const NAME: &str = "groups";
    if let Some(error) = health.and_then(|health| health.groups_error.as_ref()) {
        let remedy = "remove the cause; agentd tries again by itself, and an agent gets its group when it next starts";
        return Check::warning(NAME, error.clone(), remedy);
    }
    match (target.is_system, is_mounted(), health) {
        (false, ..) => Check::ok(NAME, "only root can make control groups; agents are found by other means"),
        (true, false, _) => {
            Check::ok(NAME, "no file system of type cgroup2 is mounted; agents are found by other means")
        }
        (true, true, Some(_)) => Check::ok(NAME, "each agent has a control group, where the daemon may make one"),
        (true, true, None) => Check::ok(NAME, "control groups are available; no daemon says whether it uses them"),
    }
}

/// Whether control groups are where they usually are.
fn is_mounted() -> bool {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .any(|path| statfs(*path).is_ok_and(|system| system.filesystem_type() == CGROUP2_SUPER_MAGIC))
}

fn limits(target: &Target, said: &Said, jcard: &Jcard) -> Check {
    const NAME: &str = "limits";
    if let Some(errors) = said.errors(|agent| agent.limits_error.as_deref()) {
        return Check::warning(NAME, errors, "run agentd as a unit of systemd's, as root; or drop the limits");
    }
    let lacking = if !target.is_system {
        Some("agentd does not run as root")
    } else if !is_mounted() {
        Some("no file system of type cgroup2 is mounted")
    } else if !systemd::is_booted() {
        Some("there is no systemd on this machine")
    } else {
        None
    };
    let specs = jcard.config().into_iter().flat_map(|config| &config.entries).flat_map(|entry| &entry.spec);
    let are_declared = specs.into_iter().any(|spec| spec.policy.limits.is_any());
    match lacking {
        None => Check::ok(NAME, "`memory`, `pid_limit` and `cpu` are applied: each agent is a scope of systemd's"),
        Some(why) if are_declared => Check::warning(
            NAME,
            format!("`memory`, `pid_limit` and `cpu` are declared and not applied: {why}"),
            "run agentd as a unit of systemd's, as root; or drop the limits",
        ),
        Some(why) => Check::ok(NAME, format!("none are declared; they would not be applied: {why}")),
    }
}

fn descriptors(daemon: Option<&Daemon>) -> Check {
    const NAME: &str = "descriptors";
    let of_daemon = daemon
        .and_then(|daemon| procfs::read(format!("/proc/{}/limits", daemon.pid)).ok())
        .and_then(|limits| procfs::hard_limit_of_descriptors(&limits));
    let own = || getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard);
    let (who, hard) = match (of_daemon, own()) {
        (Some(hard), _) => ("the daemon", hard),
        (None, Some(hard)) => ("whoever asks (the daemon may have another limit)", hard),
        (None, None) => return Check::unknown(NAME, "the limit could not be found out", "try again"),
    };
    if hard < FEW_DESCRIPTORS {
        return Check::warning(
            NAME,
            format!("{who} may have {hard} descriptors; with many agents and clients that is too few"),
            "raise the hard limit (LimitNOFILE= of the unit, or ulimit -Hn)",
        );
    }
    Check::ok(NAME, format!("{who} may have {hard}"))
}

fn agents(agents: &[AgentStatus]) -> Check {
    const NAME: &str = "agents";
    let ill: Vec<&str> = agents.iter().filter(|agent| agent.error.is_some()).map(|agent| agent.name.as_str()).collect();
    if ill.is_empty() {
        return Check::ok(NAME, format!("{}, and nothing to be mended of them", counted(agents.len(), "agent")));
    }
    let remedy = format!("agentd explain {} says more", ill[0]);
    Check::warning(NAME, format!("there is something to be mended of {}", named(&ill)), remedy)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn groups_of_a_process_are_read_whatever_its_name_is() {
        let status = b"Name:\t\xff\\nGroups:\t0\nUmask:\t0022\nGid:\t7\t8\t9\t10\nFDSize:\t64\nGroups:\t4 24 \n";
        assert_eq!(groups_of(status), Some([4, 8, 24].into()));
        assert_eq!(groups_of(b"Gid:\t7\t8\t9\t10\nGroups:\t\n"), Some([8].into()));
        assert_eq!(groups_of(b"Gid:\t7\t8\t9\t10\n"), None);
        assert_eq!(groups_of(b"Gid:\t7\t8\t9\t10\nGroups:\t4 x\n"), None);
    }

    #[test]
    fn differences_are_what_agents_have_too_few_and_too_many_of() {
        let tell = |has: &[u32], given: &[u32]| {
            let set = |gids: &[u32]| gids.iter().copied().collect();
            differences("agent", &set(has), &set(given), |gid| format!("g{gid}")).join("; ")
        };
        assert_eq!(tell(&[1, 2], &[2, 1]), "");
        assert_eq!(tell(&[1], &[1, 2, 3]), "agent is in these groups, and agents are not: g2, g3");
        assert_eq!(tell(&[1, 2], &[1]), "agent is not in these groups, and agents are: g2");
    }

    #[test]
    fn each_wrong_right_of_a_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _socket = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o606)).unwrap();
        let look = look_at(&path).unwrap().unwrap();
        let right = Right { kind: SFlag::S_IFSOCK, uid: Some(look.owner), gid: None, needs: 0o600, bars: 0 };
        assert_eq!(wrongs(&look, right), [""; 0]);
        let strict = Right { needs: 0o660, bars: 0o007, ..right };
        assert_eq!(wrongs(&look, strict), ["it has mode 0606 and not 0660"]);
        let others = Right { uid: Some(54_321), gid: Some(54_321), ..right };
        assert_eq!(wrongs(&look, others).len(), 2);
        assert_eq!(wrongs(&look, Right { kind: SFlag::S_IFDIR, ..right }), ["it is no directory"]);
    }

    #[test]
    fn links_are_looked_at_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/etc/passwd", folder.path().join("link")).unwrap();
        assert_eq!(kind(&look_at(&folder.path().join("link")).unwrap().unwrap()), SFlag::S_IFLNK);
        assert!(look_at(&folder.path().join("absent")).unwrap().is_none());
        assert!(look_at(&folder.path().join("absent/x")).unwrap().is_none());
    }

    #[test]
    fn root_looks_through_no_link_that_others_could_have_made() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = folder.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o777)).unwrap();
        symlink("/etc", theirs.join("link")).unwrap();
        // Who is not root gains nothing by it.
        assert_eq!(look_at(&theirs.join("link/passwd")).is_err(), nix::unistd::Uid::effective().is_root());
    }

    #[test]
    fn of_many_names_a_few_are_told() {
        assert_eq!(named(&["a", "b"]), "a, b");
        assert_eq!(named(&["a"; 7]), "a, a, a, a, a and 2 more");
    }
}
