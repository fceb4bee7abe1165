//! The checks of `agentd doctor`, and the verdict on each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::SFlag;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, Gid, eaccess};

use super::{Check, Verdict, installation};
use crate::agent::name::Key;
use crate::agent::secrets::Secrets;
use crate::agent::seen::SeenWorkdir;
use crate::agent::spec::Policy;
use crate::agent::user::UserName;
use crate::cli::sandbox::{self, Attempt, Chosen};
use crate::cli::target::{Daemon, Target, holder};
use crate::cli::wording::{counted, fault};
use crate::client::{Client, Error};
use crate::config::{self, Config, Severity};
use crate::deputy::{Deputy, Output, Program, Server};
use crate::inputs::secrets;
use crate::inputs::users::{Standing, judge_now, warning};
use crate::launch::packages;
use crate::launch::socket_dir::LAUNCH_SOCKET;
use crate::sys::account::Account;
use crate::sys::exec::is_variable_name;
use crate::sys::procfs;
use crate::sys::regular_file;
use crate::sys::safe_path::{self, Look};
use crate::sys::systemd;
use crate::tmux::{self, Tmux};
use crate::wire::status::{AgentStatus, Health};

/// How long `tmux -V` may take.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// A lower limit is not enough for the API's 1,024 clients and the two or three descriptors that each agent takes.
const FEW_DESCRIPTORS: u64 = 4096;

/// How many items of a long list are named.
const NAMED: usize = 5;

/// What the daemon answered, as far as it did.
#[derive(Default)]
struct Answers {
    health: Option<Health>,
    agents: Option<Vec<AgentStatus>>,
}

impl Answers {
    /// The errors of one kind, a line each, with the names of the agents that have the error. `of` gives the error of an agent.
    fn errors<'a>(&'a self, of: impl Fn(&'a AgentStatus) -> Option<&'a str>) -> Option<String> {
        let mut errors: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for agent in self.agents.iter().flatten() {
            if let Some(error) = of(agent) {
                errors.entry(error).or_default().push(&agent.name);
            }
        }
        let lines: Vec<String> = errors.iter().map(|(error, agents)| format!("{}: {error}", named(agents))).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

/// Runs all checks.
pub(super) async fn all(target: &Target) -> Vec<Check> {
    let (daemon, answers) = daemon(target).await;
    let jcard = Jcard::read(target);
    let mut checks = vec![daemon, api_socket(target), terminal_socket(target)];
    checks.extend(users(target));
    let (others, of_others) = other_users(target, &jcard);
    checks.extend(of_others);
    checks.extend(state(target, answers.health.as_ref()));
    checks.push(log(target, &answers));
    checks.push(jcard.check(target, answers.health.as_ref()));
    checks.extend(jcard.sandbox());
    checks.push(secrets(target, &jcard, answers.health.as_ref()));
    checks.extend(jcard.config().into_iter().flat_map(|config| {
        let user = target.settings.user.as_deref().unwrap_or("agent");
        shared_logins(config, &target.settings.secret_dir, user)
    }));
    let side = Side::default_of(target);
    checks.extend(side.iter().flat_map(|side| tmux_files(target, side)));
    checks.extend(tmux(target, side.as_ref(), &answers, &jcard).await);
    for side in &others {
        checks.extend(tmux_files(target, side));
        checks.extend(tmux(target, Some(side), &answers, &jcard).await);
    }
    checks.extend(installation::all(target, answers.health.as_ref()).await);
    checks.push(groups(target, answers.health.as_ref()));
    checks.push(limits(target, &answers, &jcard));
    checks.push(descriptors(target.daemon.as_ref()));
    checks.extend(
        answers.agents.as_deref().map(|all| agents(all, answers.errors(|agent| agent.environment_error.as_deref()))),
    );
    checks
}

async fn daemon(target: &Target) -> (Check, Answers) {
    const NAME: &str = "daemon";
    let socket = &target.settings.api_socket;
    let asked = async {
        let client = Client::new(socket)?;
        let health = client.health().await?.value;
        // Without the agents, the other checks still hold.
        let agents = client.agents().await.ok().map(|agents| agents.value);
        Ok::<_, Error>((health, agents))
    };
    match asked.await {
        Ok((health, agents)) => {
            let pid = target.daemon.as_ref().map_or_else(String::new, |daemon| format!(", process {}", daemon.pid));
            let check = Check::ok(NAME, format!("agentd {} answers at {}{pid}", health.version, socket.display()));
            (check, Answers { health: Some(health), agents })
        }
        Err(error @ Error::NotRunning(_)) if target.daemon.is_some() => {
            let remedy = "a daemon is running but does not serve this socket: see its log, and restart it";
            (Check::failure(NAME, error.to_string(), remedy), Answers::default())
        }
        Err(error @ Error::NotRunning(_)) => {
            let start = if target.is_system && systemd::is_booted() {
                "systemctl start agentd"
            } else {
                "agentd, with the same flags"
            };
            let check = Check::failure(NAME, error.to_string(), format!("start it: {start}"));
            (check, Answers::default())
        }
        Err(error @ Error::Denied(_)) => {
            let remedy = run_as(target, &["root", "a member of the group"]);
            (Check::unknown(NAME, error.to_string(), remedy), Answers::default())
        }
        Err(error) => {
            let remedy = "see its log (journalctl -u agentd), and restart it";
            (Check::failure(NAME, error.to_string(), remedy), Answers::default())
        }
    }
}

/// The remedy for a check that only certain users can make.
pub(super) fn run_as(target: &Target, users: &[&str]) -> String {
    let group = &target.settings.admin_group;
    let agent = target.account.as_ref().map_or("the agent user", |account| account.name.as_str());
    let named = |user: &&str| match *user {
        "a member of the group" => format!("a member of {group}"),
        "the agent user" => agent.to_owned(),
        other => other.to_owned(),
    };
    let users: Vec<String> = users.iter().map(named).collect();
    format!("run agentd doctor as {}", users.join(" or "))
}

/// The file at a path, if there is one.
///
/// A link at the end of the path is not followed, and neither is a link on the way that another user could have made.
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

/// The type, owners and mode that a file should have.
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

/// What is wrong with a file, in words. Empty if nothing is.
fn wrongs(look: &Look, right: Right) -> Vec<String> {
    let mut wrongs = Vec::new();
    if kind(look) != right.kind {
        let kind = if right.kind == SFlag::S_IFSOCK { "socket" } else { "directory" };
        return vec![format!("it is not a {kind}")];
    }
    if let Some(uid) = right.uid.filter(|&uid| uid != look.owner) {
        wrongs.push(format!("its owner is uid {}, not uid {uid}", look.owner));
    }
    if let Some(gid) = right.gid.filter(|&gid| gid != look.group) {
        wrongs.push(format!("its group is gid {}, not gid {gid}", look.group));
    }
    let mode = look.mode & 0o7777;
    if mode & right.needs != right.needs || mode & right.bars != 0 {
        wrongs.push(format!("its mode is {mode:04o}, not {:04o}", (mode | right.needs) & !right.bars));
    }
    wrongs
}

/// The check of a file that exists whenever the daemon runs. `seen` is what was found at the path.
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
            format!("this user cannot look at {shown}"),
            run_as(target, &["root", "the agent user", "a member of the group"]),
        ),
        Err(error) => Check::failure(name, format!("failed to look at {shown}: {error}"), remedy),
        Ok(None) if target.daemon.is_some() => Check::failure(name, format!("{shown} does not exist"), remedy),
        Ok(None) => Check::ok(name, format!("{shown} does not exist; agentd creates it when it starts")),
        Ok(Some(look)) => match wrongs(&look, right) {
            wrongs if wrongs.is_empty() => {
                Check::ok(name, format!("{shown} has mode {:04o} and the right owner", look.mode & 0o7777))
            }
            wrongs => Check::failure(name, format!("{shown}: {}", wrongs.join("; ")), remedy),
        },
    }
}

/// The group that may use a root daemon.
fn group(target: &Target) -> Option<Gid> {
    users::get_group_by_name(&target.settings.admin_group).map(|group| Gid::from_raw(group.gid()))
}

fn api_socket(target: &Target) -> Check {
    let path = &target.settings.api_socket;
    let gid = group(target).filter(|_| target.is_system).map(Gid::as_raw);
    let (uid, needs) = if target.is_system { (0, 0o660) } else { (target.user_id.as_raw(), 0o600) };
    let right = Right { kind: SFlag::S_IFSOCK, uid: Some(uid), gid, needs, bars: 0o007 };
    judge("api-socket", path, look_at(path), right, target, "restart agentd, which creates it again")
}

/// The socket that operators attach and send through, its folder, and its group.
fn terminal_socket(target: &Target) -> Check {
    const NAME: &str = "terminal-socket";
    const REMEDY: &str = "correct it, then restart agentd, which creates the socket again";
    let path = &target.settings.terminal_socket;
    let gid = users::get_group_by_name(&target.settings.operator_group).map(|group| group.gid());
    let (uid, needs) = if target.is_system { (0, 0o660) } else { (target.user_id.as_raw(), 0o600) };
    let right = Right {
        kind: SFlag::S_IFSOCK,
        uid: Some(uid),
        gid: gid.filter(|_| target.is_system),
        needs,
        bars: if target.is_system { 0o007 } else { 0o077 },
    };
    if let Some(folder) = path.parent()
        && let Ok(Some(look)) = look_at(folder)
    {
        let right = Right { kind: SFlag::S_IFDIR, uid: Some(uid), gid: None, needs: 0o700, bars: 0o022 };
        let wrongs = wrongs(&look, right);
        if !wrongs.is_empty() {
            return Check::failure(NAME, format!("{}: {}", folder.display(), wrongs.join("; ")), REMEDY);
        }
    }
    let check = judge(NAME, path, look_at(path), right, target, REMEDY);
    if check.result != Verdict::Ok || !target.is_system || !path.exists() {
        return check;
    }
    Check::ok(NAME, format!("{}; group {} may attach and send", check.message, target.settings.operator_group))
}

fn users(target: &Target) -> Vec<Check> {
    let settings = &target.settings;
    let user = match &target.account {
        Ok(account) if account.uid.is_root() => Check::failure(
            "user",
            format!("agents would run as {}, which is root", account.name),
            "choose an unprivileged user with --user",
        ),
        Ok(account) => Check::ok("user", format!("agents run as {} (uid {})", account.name, account.uid)),
        Err(error) => Check::failure(
            "user",
            error.to_string(),
            "create the user, or choose another with --user; agentd does not start without it",
        ),
    };
    if !target.is_system {
        return vec![user];
    }
    let admins = Role { check: "group", flag: "--admin-group", can: "use the API" };
    let operators = Role { check: "operator-group", flag: "--operator-group", can: "take back what operators ask for" };
    let account = target.account.as_ref().ok();
    let mut checks = vec![user, judge_group(&settings.admin_group, group(target), account, &admins)];
    if settings.operator_group != settings.admin_group {
        let name = &settings.operator_group;
        let group = users::get_group_by_name(name).map(|group| Gid::from_raw(group.gid()));
        checks.push(judge_group(name, group, account, &operators));
    }
    checks
}

/// What a group is for.
struct Role {
    check: &'static str,
    flag: &'static str,
    /// What agents can do if they are in it.
    can: &'static str,
}

/// Whether a group exists, and the agent user is not in it.
fn judge_group(name: &str, group: Option<Gid>, agent: Option<&Account>, role: &Role) -> Check {
    let Role { check, flag, can } = role;
    match (group, agent) {
        (None, _) => Check::failure(
            check,
            format!("group {name:?} does not exist"),
            format!("create it (for example: groupadd --system {name}), or choose another with {flag}"),
        ),
        (Some(group), Some(account)) if account.gid == group || account.groups.contains(&group) => Check::failure(
            check,
            format!("the agent user {} is in group {name}, so agents can {can}", account.name),
            format!("remove it from the group (gpasswd -d {} {name}), and restart agentd", account.name),
        ),
        (Some(group), Some(account)) => {
            Check::ok(check, format!("{name} (gid {group}) exists, and {} is not in it", account.name))
        }
        (Some(group), None) => Check::ok(check, format!("{name} (gid {group}) exists")),
    }
}

/// A user that agents run as, and that user's tmux server.
struct Side {
    account: Account,
    /// The server's socket.
    socket: PathBuf,
    is_default: bool,
}

impl Side {
    /// That of the default user, if there is one.
    fn default_of(target: &Target) -> Option<Self> {
        let account = target.account.as_ref().ok()?.clone();
        Some(Self { account, socket: target.settings.tmux_socket.clone(), is_default: true })
    }

    /// Whether agents with this user are at this server; `None` is the default user.
    fn has(&self, user: Option<&str>) -> bool {
        user.map_or(self.is_default, |user| user == self.account.name)
    }

    /// Whether the agent of this entry is at this server.
    fn has_entry(&self, entry: &config::Entry) -> bool {
        let user = entry.spec.as_ref().ok().and_then(|spec| spec.user.as_ref());
        self.has(user.map(UserName::as_str))
    }
}

/// The users that entries name beside the default one, and whether agents can run as each.
fn other_users(target: &Target, jcard: &Jcard) -> (Vec<Side>, Vec<Check>) {
    const NAME: &str = "user";
    let mut naming: BTreeMap<UserName, Vec<&str>> = BTreeMap::new();
    for entry in jcard.config().into_iter().flat_map(|config| &config.entries) {
        let user = entry.spec.as_ref().ok().and_then(|spec| spec.user.as_ref());
        if let Some(user) = user.filter(|user| !target.is_default(user.as_str())) {
            naming.entry(user.clone()).or_default().push(entry.name.as_str());
        }
    }
    let (mut sides, mut checks) = (Vec::new(), Vec::new());
    let standings = judge_now(&naming.keys().cloned().collect(), &target.rules());
    for (user, standing) in standings {
        let agents = naming.get(&user).map_or_else(String::new, |agents| named(agents));
        checks.push(match standing {
            Standing::Fit { account, dangers } => {
                let check = match warning(&user, &dangers) {
                    Some(warning) => Check::warning(NAME, warning, format!("gpasswd -d {user} {}", dangers[0])),
                    None => Check::ok(NAME, format!("{agents}: agents run as {user} (uid {})", account.uid)),
                };
                let socket = target.settings.user_socket(user.as_str());
                sides.push(Side { account, socket, is_default: false });
                check
            }
            Standing::Unfit(error) => {
                Check::failure(NAME, format!("{agents}: {error}"), "correct it, or name another user in the entry")
            }
            Standing::Missing(problem) => {
                Check::unknown(NAME, format!("{agents}: the user {user} {problem}"), "try again")
            }
        });
    }
    (sides, checks)
}

fn state(target: &Target, health: Option<&Health>) -> Vec<Check> {
    let path = &target.settings.state_dir;
    let uid = if target.is_system { 0 } else { target.user_id.as_raw() };
    let right = Right { kind: SFlag::S_IFDIR, uid: Some(uid), gid: None, needs: 0o700, bars: 0o077 };
    let seen = look_at(path);
    let directory = if let Some(error) = health.and_then(|health| health.state_error.as_ref()) {
        let remedy = format!("free space on the disk of {}; agentd tries again by itself", path.display());
        Check::failure("state", error.clone(), remedy)
    } else {
        let remedy = format!("chown {uid} {0} && chmod 0700 {0}", path.display());
        judge("state", path, seen, right, target, &remedy)
    };
    vec![directory, lock(path, target)]
}

/// The directory of the agents' logs.
fn log(target: &Target, answers: &Answers) -> Check {
    const NAME: &str = "log";
    let path = &target.settings.log_dir;
    if let Some(errors) = answers.errors(|agent| agent.log_error.as_deref()) {
        return Check::warning(
            NAME,
            errors,
            "fix it, or choose another --log-dir; an agent uses it from its next start",
        );
    }
    let seen = look_at(path);
    if let Ok(None) = seen {
        return Check::ok(NAME, format!("{} does not exist; agentd creates it with the first agent", path.display()));
    }
    let uid = if target.is_system { 0 } else { target.user_id.as_raw() };
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
            return Check::ok(NAME, "there is no lock because the state directory does not exist");
        }
        Err(error) => {
            return Check::unknown(
                NAME,
                format!("failed to find the process that has locked {shown}: {error}"),
                run_as(target, &["root"]),
            );
        }
    };
    match (holder, &target.daemon) {
        (Some(holder), Some(daemon)) if holder == daemon.pid => {
            Check::ok(NAME, format!("{shown} is locked by the daemon, process {holder}"))
        }
        (Some(holder), Some(daemon)) => Check::failure(
            NAME,
            format!("{shown} is locked by process {holder}, but process {} serves the API's socket", daemon.pid),
            "stop one of the two, or name the other's state directory with --state-dir",
        ),
        (Some(holder), None) => Check::warning(
            NAME,
            format!("{shown} is locked by process {holder}, which may not be an agentd daemon"),
            format!("look at the process (ps {holder}); no daemon can start while it holds the lock"),
        ),
        (None, Some(daemon)) => Check::warning(
            NAME,
            format!("{shown} is not locked, although a daemon runs as process {}", daemon.pid),
            "name the state directory of that daemon with --state-dir, or see its log",
        ),
        (None, None) => Check::ok(NAME, format!("{shown} is not locked and free for a daemon")),
    }
}

/// The jcard, as far as this user can read it.
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

    /// The engines that entries of this user ask for, with the agents that do.
    fn engines(&self, side: &Side) -> BTreeMap<Chosen, Vec<&str>> {
        sandbox::engines(
            self.config().into_iter().flat_map(|config| &config.entries).filter(|entry| side.has_entry(entry)),
        )
    }

    /// Whether agents run without a sandbox that their entries seem to expect.
    fn sandbox(&self) -> Option<Check> {
        const NAME: &str = sandbox::NAME;
        let expected = &self.config()?.sandbox_expected;
        if expected.is_empty() {
            return Some(Check::ok(NAME, "no entry seems to expect a sandbox"));
        }
        let lines: Vec<String> = expected.iter().take(NAMED).map(|finding| finding.line.to_string()).collect();
        let more = if expected.len() > NAMED { ", …" } else { "" };
        let verb = if expected.len() == 1 { "runs" } else { "run" };
        let what =
            format!("{} {verb} without a sandbox, which the Go daemon would use", counted(expected.len(), "agent"));
        let remedy = "start agentd with --default-type sandboxed to have it, or write `type = \"native\"` in these entries; docs/migrating.md says what else differs";
        Some(Check::warning(NAME, format!("{what}: line {}{more}", lines.join(", ")), remedy))
    }

    fn check(&self, target: &Target, health: Option<&Health>) -> Check {
        const NAME: &str = "jcard";
        let file = target.settings.config.display();
        let remedy = format!("fix the jcard; agentd check {file} prints every finding");
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
                    Check::unknown(NAME, message, run_as(target, &["root"]))
                } else {
                    Check::failure(NAME, message, "write one: agentd init, or by hand; man jcard.toml has its fields")
                };
            }
        };
        let lines: Vec<String> = findings
            .iter()
            .take(NAMED)
            .map(|finding| format!("{file}:{}:{}: {}", finding.line, finding.column, finding.message))
            .collect();
        let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
        let more = findings.len().checked_sub(NAMED).filter(|&more| more > 0);
        let more = more.map_or_else(String::new, |more| format!("\nand {more} more"));
        let message = format!("{}{more}", lines.join("\n"));
        match (errors, health.and_then(|health| health.config_error.as_ref())) {
            (1.., _) => Check::failure(NAME, message, remedy),
            (0, Some(error)) => Check::failure(NAME, error.clone(), remedy),
            (0, None) if !findings.is_empty() => Check::warning(NAME, message, remedy),
            (0, None) => {
                let agents = self.config().map_or(0, |config| config.entries.len());
                Check::ok(NAME, format!("{file} declares {}", counted(agents, "agent")))
            }
        }
    }
}

/// The agents of Claude Code that share what one of them has logged in with: they log each other out. Agents run as `default_user`
/// unless they say otherwise.
fn shared_logins(config: &config::Config, secret_dir: &Path, default_user: &str) -> Vec<Check> {
    const REMEDY: &str = "give them an API key or what claude setup-token prints as a secret, or users of their own";
    let mut by_user: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for spec in config.entries.iter().filter_map(|entry| entry.spec.as_ref().ok()) {
        let is_given = |name: &String| {
            let is_secret = match &spec.secrets {
                Some(files) => files.contains_key(name),
                None => secret_dir.join(name).exists(),
            };
            is_secret || spec.env.contains_key(name)
        };
        if &*spec.harness.name == "claude-code" && !spec.harness.auth().iter().any(is_given) {
            let user = spec.user.as_ref().map_or(default_user, |user| user.as_str());
            by_user.entry(user).or_default().push(spec.name.as_str());
        }
    }
    let shared = by_user.into_iter().filter(|(_, agents)| agents.len() > 1);
    let warning = |(user, agents): (&str, Vec<&str>)| {
        let message =
            format!("{} share the login of Claude Code of user {user}, and may log each other out", named(&agents));
        Check::warning("logins", message, REMEDY)
    };
    shared.map(warning).collect()
}

fn secrets(target: &Target, jcard: &Jcard, health: Option<&Health>) -> Check {
    const NAME: &str = "secrets";
    let path = &target.settings.secret_dir;
    let shown = path.display();
    let remedy = "fix it; agentd reads the secrets again by itself";
    if let Some(error) = health.and_then(|health| health.secrets_error.as_ref()) {
        return Check::failure(NAME, error.clone(), remedy);
    }
    // Links are followed, because agenix and sops-nix create them. Only root can change the folder.
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::ok(NAME, format!("{shown} does not exist, which counts as empty"));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Check::unknown(NAME, format!("this user cannot look at {shown}"), run_as(target, &["root"]));
        }
        Err(error) => return Check::failure(NAME, format!("failed to look at {shown}: {error}"), remedy),
    };
    let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o7777;
    if mode & 0o022 != 0 {
        return Check::failure(
            NAME,
            format!("{shown} has mode {mode:04o}: users other than its owner can add secrets"),
            format!("chmod 0700 {shown}"),
        );
    }
    if eaccess(path, AccessFlags::R_OK | AccessFlags::X_OK).is_err() {
        return Check::unknown(NAME, format!("this user cannot read {shown}"), run_as(target, &["root"]));
    }
    let files = jcard.config().map(secrets::Named::by).unwrap_or_default();
    let reading = secrets::read(path, &files, &Secrets::default());
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
        let notes = jcard.config().map(|config| hygiene(config, &reading.secrets)).unwrap_or_default();
        return Check::ok(NAME, format!("{shown} has mode {mode:04o} and holds {}{notes}", counted(count, "secret")));
    }
    Check::failure(
        NAME,
        format!("every user can read {} in {shown}", named(&open)),
        format!("chmod 0700 {shown}, or deny others access to the files (chmod o=)"),
    )
}

/// Which secrets nobody uses, and which have one value under several names.
fn hygiene(config: &Config, secrets: &Secrets) -> String {
    let specs: Option<Vec<_>> = config.entries.iter().map(|entry| entry.spec.as_ref().ok()).collect();
    let mut notes = String::new();
    if let Some(specs) = specs.filter(|_| config.complete) {
        let takes_all = specs.iter().any(|spec| spec.secrets.is_none());
        let is_used = |name: &String| {
            takes_all && is_variable_name(name)
                || specs.iter().flat_map(|spec| &spec.secrets).any(|files| files.values().any(|file| file == name))
        };
        let all = secrets.values.keys().chain(secrets.unnamed.keys());
        let unused: Vec<&str> = all.filter(|name| !is_used(name)).map(String::as_str).collect();
        if !unused.is_empty() {
            notes = format!("; no agent uses {}", named(&unused));
        }
    }
    let mut by_value: BTreeMap<&[u8], Vec<&str>> = BTreeMap::new();
    for (name, value) in secrets.iter().filter(|(_, value)| !value.as_slice().is_empty()) {
        by_value.entry(value.as_slice()).or_default().push(name);
    }
    let mut same: Vec<_> = by_value.into_values().filter(|names| names.len() > 1).collect();
    same.sort_unstable();
    let same = same.iter().take(NAMED).map(|names| format!("; the same value is in {}", named(names)));
    notes.extend(same);
    notes
}

/// The first few names of a list, and how many more there are.
fn named(names: &[&str]) -> String {
    let first = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMED).filter(|&more| more > 0) {
        Some(more) => format!("{first} and {more} more"),
        None => first,
    }
}

fn tmux_files(target: &Target, side: &Side) -> Vec<Check> {
    let Side { account, socket, .. } = side;
    let Some(folder) = socket.parent() else { return Vec::new() };
    let uid = Some(account.uid.as_raw());
    let gid = group(target).filter(|_| target.is_system).map(Gid::as_raw);
    let (needs, bars) = if target.is_system { (0o2750, 0o027) } else { (0o700, 0o022) };
    let directory = Right { kind: SFlag::S_IFDIR, uid, gid, needs, bars };
    let (needs, bars) = if target.is_system { (0o660, 0o007) } else { (0o600, 0o007) };
    let server = Right { kind: SFlag::S_IFSOCK, uid, gid, needs, bars };
    let owner = if target.is_system { 0 } else { target.user_id.as_raw() };
    let launch = Right { kind: SFlag::S_IFSOCK, uid: Some(owner), gid: None, needs: 0o666, bars: 0 };
    let again = "agentd creates it again within seconds; if it does not, see its log";
    vec![
        judge("tmux-folder", folder, look_at(folder), directory, target, "restart agentd, which corrects it"),
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

/// The tmux program, the agent user's access to agentd's programs, the tmux server, and its sessions.
async fn tmux(target: &Target, side: Option<&Side>, answers: &Answers, jcard: &Jcard) -> Vec<Check> {
    // Root becomes the agent user for this. Every other user keeps its identity.
    let account = match side {
        Some(Side { account, .. }) if target.user_id.is_root() && !account.uid.is_root() => account.clone(),
        _ => match Account::current() {
            Ok(account) if !account.uid.is_root() => account,
            _ => {
                let remedy = "first fix the check named user";
                return vec![Check::unknown("tmux", "agentd does not run tmux as root", remedy)];
            }
        },
    };
    let path = target.daemon.as_ref().and_then(|daemon| daemon.path.clone());
    let whose = match (&path, &target.daemon) {
        (Some(_), _) => "the daemon's PATH",
        (None, Some(_)) => "your PATH (you are not allowed to see the daemon's)",
        (None, None) => "your PATH (no daemon is running)",
    };
    let deputy = Deputy::searching(path.or_else(|| std::env::var_os("PATH")), &account, || {});
    let mut checks = Vec::new();
    if side.is_none_or(|side| side.is_default) {
        checks.push(version(&deputy, whose).await);
    }
    let Some(side) = side.filter(|side| side.account.uid == account.uid) else {
        let user = side.map_or("the agent user", |side| side.account.name.as_str());
        let remedy = run_as(target, &["root", user]);
        let is_sandboxed = side.is_none_or(|side| !jcard.engines(side).is_empty());
        let sandbox = is_sandboxed.then_some(sandbox::NAME);
        for check in ["executable", "launcher", "tmux-server"].into_iter().chain(sandbox) {
            checks.push(Check::unknown(check, "only the agent user can check this", remedy.clone()));
        }
        checks.push(Check::unknown("sessions", "tmux clients run only as the agent user", remedy));
        return checks;
    };
    checks.push(executable(&deputy, target, side).await);
    checks.push(launcher(&deputy, target, side).await);
    checks.extend(sandboxes(&deputy, target, side, jcard).await);
    checks.extend(packages(&deputy, target, side, jcard).await);
    checks.push(server(&deputy, side, target, answers).await);
    checks.push(sessions(deputy, side, target, answers, jcard).await);
    checks
}

async fn version(deputy: &Deputy, whose: &str) -> Check {
    const NAME: &str = "tmux";
    let (major, minor) = tmux::OLDEST;
    let remedy = format!("install tmux {major}.{minor} or newer where {whose} finds it");
    match deputy.tmux(Program::Installed, vec!["-V".to_owned()], VERSION_TIMEOUT).await {
        Ok(Ok(Output { stdout, .. })) => match tmux::judge_version("the installed program", &stdout) {
            Ok(()) => Check::ok(NAME, format!("{} is found in {whose}", stdout.trim())),
            Err(error) => Check::failure(NAME, error.to_string(), remedy),
        },
        Ok(Err(error)) => Check::failure(NAME, error.to_string(), remedy),
        Err(error) => Check::unknown(NAME, error.to_string(), "try again"),
    }
}

/// Whether the agent user can run the launcher, which tmux starts as that user.
async fn launcher(deputy: &Deputy, target: &Target, side: &Side) -> Check {
    const NAME: &str = "launcher";
    const REMEDY: &str =
        "put agentd-launcher beside agentd in a folder that every user can enter, such as /usr/local/bin";
    let path = match target.launcher() {
        Ok(path) => path,
        Err(error) => return Check::failure(NAME, error.to_string(), REMEDY),
    };
    let Some(folder) = path.parent() else { return Check::ok(NAME, path.display().to_string()) };
    match deputy.workdir(folder.to_owned()).await {
        Ok(SeenWorkdir::Usable) => Check::ok(NAME, format!("{} can reach {}", side.account.name, path.display())),
        Ok(SeenWorkdir::Unusable(problem)) => {
            let user = &side.account.name;
            let message = format!("agentd cannot start agents as {user}: {} {problem}", folder.display());
            Check::failure(NAME, message, REMEDY)
        }
        Err(error) => Check::unknown(NAME, error.to_string(), "try again"),
    }
}

/// Whether a user can make the sandboxes that the user's entries ask for: a real one with each engine.
async fn sandboxes(deputy: &Deputy, target: &Target, side: &Side, jcard: &Jcard) -> Vec<Check> {
    let engines = jcard.engines(side);
    // The messages of the default user name nobody.
    let (whose, who) = match &side.account.name {
        _ if side.is_default => (String::new(), String::new()),
        user => (format!(" as {user}"), format!("as {user}: ")),
    };
    // The check of the launcher says why.
    let Ok(launcher) = target.launcher() else { return Vec::new() };
    let mut checks = Vec::new();
    for (engine, agents) in engines {
        let agents = counted(agents.len(), "sandboxed agent");
        checks.push(match sandbox::attempt(deputy, &launcher, &engine).await {
            Attempt::Works => Check::ok(sandbox::NAME, format!("{engine} makes sandboxes{whose}, for {agents}")),
            Attempt::Fails { why, remedy } => {
                Check::failure(sandbox::NAME, format!("{who}{why}; {agents} cannot start"), remedy)
            }
            Attempt::Unknown(why) => Check::unknown(sandbox::NAME, why, "try again"),
        });
    }
    checks
}

/// Whether a user finds Nix, if entries of the user name packages that are to be built.
async fn packages(deputy: &Deputy, target: &Target, side: &Side, jcard: &Jcard) -> Option<Check> {
    const NAME: &str = "packages";
    const REMEDY: &str = "install Nix for all users, write store paths, or remove `extra_packages`";
    let entries = jcard.config()?.entries.iter().filter(|entry| side.has_entry(entry));
    let is_built = |entry: &&config::Entry| {
        entry.spec.as_ref().is_ok_and(|spec| spec.packages.iter().any(|package| package.store_path().is_none()))
    };
    let agents = counted(entries.filter(is_built).count(), "agent");
    if agents.starts_with("0 ") {
        return None;
    }
    let whose = if side.is_default { String::new() } else { format!("as {}: ", side.account.name) };
    let words = [packages::STEP_COMMAND, packages::LOOK_STEP].map(str::to_owned).to_vec();
    Some(match deputy.run_in_login(program_of(target).ok()?, words, sandbox::PATIENCE).await {
        Ok(Ok(Output { success: true, .. })) => Check::ok(NAME, format!("{whose}Nix is there, for {agents}")),
        Ok(Ok(Output { stderr, .. })) => {
            let why = sandbox::said(&stderr).unwrap_or_else(|| "Nix is not found".to_owned());
            Check::failure(NAME, format!("{whose}{why}; {agents} cannot start"), REMEDY)
        }
        Ok(Err(error)) => Check::unknown(NAME, error.to_string(), "try again"),
        Err(error) => Check::unknown(NAME, error.to_string(), "try again"),
    })
}

/// The program of the daemon that runs, or this one.
fn program_of(target: &Target) -> io::Result<PathBuf> {
    let of_daemon = target.daemon.as_ref().and_then(|daemon| fs::read_link(format!("/proc/{}/exe", daemon.pid)).ok());
    of_daemon.map_or_else(std::env::current_exe, Ok)
}

/// Whether the agent user can run agentd, which the launcher starts as that user.
async fn executable(deputy: &Deputy, target: &Target, side: &Side) -> Check {
    const NAME: &str = "executable";
    let path: PathBuf = match program_of(target) {
        Ok(path) => path,
        Err(error) => {
            return Check::unknown(NAME, format!("failed to find the program of agentd: {error}"), "try again");
        }
    };
    let Some(folder) = path.parent() else { return Check::ok(NAME, path.display().to_string()) };
    let remedy = "put agentd in a folder that every user can enter, such as /usr/local/bin";
    match deputy.workdir(folder.to_owned()).await {
        Ok(SeenWorkdir::Usable) => Check::ok(NAME, format!("{} can reach {}", side.account.name, path.display())),
        Ok(SeenWorkdir::Unusable(problem)) => {
            let user = &side.account.name;
            let message = format!("agentd cannot start agents as {user}: {} {problem}", folder.display());
            Check::failure(NAME, message, remedy)
        }
        Err(error) => Check::unknown(NAME, error.to_string(), "try again"),
    }
}

/// Whether the tmux server, and so every agent, has the groups that the user database gives to the agent user.
///
/// A process keeps the groups that it had when it started.
async fn server(deputy: &Deputy, side: &Side, target: &Target, answers: &Answers) -> Check {
    const NAME: &str = "tmux-server";
    let Side { account, socket, .. } = side;
    // The daemon makes a server that lost its socket create it again.
    if matches!(look_at(socket), Ok(None)) {
        return no_server(side, target, answers, "no server is running: there is no tmux socket");
    }
    let pid = match deputy.server(socket.clone(), None).await {
        Ok(Ok(Server::Serving { pid, .. } | Server::Silent { pid: Some(pid) })) => pid,
        Ok(Ok(Server::None)) => return no_server(side, target, answers, "no server is running"),
        Ok(Ok(Server::Silent { pid: None })) => {
            return Check::unknown(NAME, "the server does not answer, and its process is not known", "try again");
        }
        Ok(Err(error)) => return Check::unknown(NAME, error, "try again"),
        Err(error) => return Check::unknown(NAME, error.to_string(), "try again"),
    };
    let Some(groups) = procfs::read(format!("/proc/{pid}/status")).ok().and_then(|status| groups_of(&status)) else {
        return Check::unknown(NAME, format!("failed to read the groups of process {pid}"), "try again");
    };
    let given: BTreeSet<u32> = account.groups.iter().chain([&account.gid]).map(|gid| gid.as_raw()).collect();
    let wrongs = differences(&account.name, &groups, &given, |gid| {
        users::get_group_by_gid(gid).map_or(gid.to_string(), |group| group.name().to_string_lossy().into_owned())
    });
    if wrongs.is_empty() {
        return Check::ok(NAME, format!("process {pid} has the groups of {}", account.name));
    }
    let remedy = format!(
        "end the server when its agents may end; agentd then starts another: runuser -u {} -- tmux -S {} kill-server",
        account.name,
        socket.display()
    );
    Check::warning(NAME, format!("process {pid} was started with other groups: {}", wrongs.join("; ")), remedy)
}

/// No server is needed before an agent starts. Where one is, the agents' errors say why there is none.
fn no_server(side: &Side, target: &Target, answers: &Answers, message: &str) -> Check {
    const NAME: &str = "tmux-server";
    let Some(errors) = answers.errors(|agent| agent.error.as_deref().filter(|_| side.has(agent.user.as_deref())))
    else {
        return Check::ok(NAME, message);
    };
    let user = &side.account.name;
    let remedy = match target.settings.tmux_origin {
        tmux::Origin::Own => "see the daemon's log".to_owned(),
        tmux::Origin::Elsewhere if side.is_default => {
            "agentd does not start it (--await-tmux): start what does, such as agentd-tmux.service".to_owned()
        }
        tmux::Origin::Elsewhere => format!(
            "agentd does not start it (--await-tmux), but asks systemd for it: systemctl status agentd-tmux@{user}.service"
        ),
    };
    Check::failure(NAME, format!("{message}, and these agents of {user} need one:\n{errors}"), remedy)
}

/// The groups of a process, from its `/proc/PID/status` (`proc_pid_status(5)`).
///
/// The file also holds the name of the process, which may be any bytes except a newline.
fn groups_of(status: &[u8]) -> Option<BTreeSet<u32>> {
    let numbers = |name: &[u8]| {
        let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name))?;
        let words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        words.map(|word| word.parse().ok()).collect::<Option<Vec<u32>>>()
    };
    // The second of the four is the effective group, which decides about access.
    let own = numbers(b"Gid:")?.get(1).copied()?;
    Some(numbers(b"Groups:")?.into_iter().chain([own]).collect())
}

/// The groups that agents lack, and those that they have although the user is not in them.
fn differences(user: &str, has: &BTreeSet<u32>, given: &BTreeSet<u32>, name: impl Fn(u32) -> String) -> Vec<String> {
    let list = |gids: Vec<&u32>| gids.into_iter().map(|&gid| name(gid)).collect::<Vec<_>>();
    let [missing, left] = [given.difference(has), has.difference(given)].map(|gids| list(gids.collect()));
    let sentence = |groups: &[String], what: &str| {
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        (!groups.is_empty()).then(|| format!("{what} {}", named(&groups)))
    };
    let missing = sentence(&missing, &format!("{user} is in these groups, but agents are not:"));
    let left = sentence(&left, &format!("{user} is not in these groups, but agents are:"));
    missing.into_iter().chain(left).collect()
}

async fn sessions(deputy: Deputy, side: &Side, target: &Target, answers: &Answers, jcard: &Jcard) -> Check {
    const NAME: &str = "sessions";
    let Side { account, socket, .. } = side;
    // The daemon makes a server that lost its socket create it again.
    if matches!(look_at(socket), Ok(None)) {
        return Check::ok(NAME, "there are no sessions: there is no tmux socket");
    }
    let tmux = Tmux::new(deputy, socket.clone(), tmux::Origin::Elsewhere, String::new(), account);
    let owners = match tmux.owners().await {
        Ok(owners) => owners,
        Err(error @ tmux::Error::Deputy(_)) => return Check::unknown(NAME, error.to_string(), "try again"),
        Err(error) => {
            let remedy = "its agents keep running, and agentd waits for it; if it is stopped, continue it (kill -CONT)";
            return Check::failure(NAME, error.to_string(), remedy);
        }
    };
    let declared = match (&answers.agents, jcard.config()) {
        (Some(agents), _) => {
            let its = agents.iter().filter(|agent| side.has(agent.user.as_deref()));
            keys(its.map(|agent| agent.name.as_str()))
        }
        (None, Some(config)) if config.complete => {
            let its = config.entries.iter().filter(|entry| side.has_entry(entry));
            keys(its.map(|entry| entry.name.as_str()))
        }
        (None, _) => {
            let message = format!("there are {}, but it is not known which agents are declared", owners.len());
            return Check::unknown(NAME, message, "start agentd, or fix the jcard");
        }
    };
    let orphans: Vec<&str> = owners.difference(&declared).map(Key::as_str).collect();
    if orphans.is_empty() {
        return Check::ok(NAME, format!("{}, each of a declared agent", counted(owners.len(), "session")));
    }
    let remedy = match &target.daemon {
        Some(_) => "agentd stops them once it can read the whole jcard",
        None => "start agentd, which stops them",
    };
    Check::warning(NAME, format!("these agents are not declared but have a session: {}", named(&orphans)), remedy)
}

fn keys<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<Key> {
    names.filter_map(|name| name.parse().ok()).collect()
}

/// Whether agents have control groups, in which the kernel keeps count of their processes.
fn groups(target: &Target, health: Option<&Health>) -> Check {
    const NAME: &str = "groups";
    if let Some(error) = health.and_then(|health| health.groups_error.as_ref()) {
        let remedy = "remove the cause; agentd tries again by itself, and an agent gets its group at its next start";
        return Check::warning(NAME, error.clone(), remedy);
    }
    match (target.is_system, is_mounted(), health) {
        (false, ..) => {
            Check::ok(NAME, "only root can create control groups; agentd finds the agents' processes by other means")
        }
        (true, false, _) => {
            Check::ok(NAME, "no cgroup2 file system is mounted; agentd finds the agents' processes by other means")
        }
        (true, true, Some(_)) => {
            Check::ok(NAME, "control groups are available; the daemon's log says if it may not create them")
        }
        (true, true, None) => Check::ok(NAME, "control groups are available; no daemon answers that could use them"),
    }
}

/// Whether the cgroup2 file system is mounted where it usually is.
fn is_mounted() -> bool {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .iter()
        .any(|path| statfs(*path).is_ok_and(|system| system.filesystem_type() == CGROUP2_SUPER_MAGIC))
}

/// What sandboxed agents are limited to if their entries say nothing of it.
const DEFAULT_LIMITS: &str =
    "the limits that every sandboxed agent has by default, 2 GiB of memory and 512 processes and threads,";

fn limits(target: &Target, answers: &Answers, jcard: &Jcard) -> Check {
    const NAME: &str = "limits";
    if let Some(errors) = answers.errors(|agent| agent.limits_error.as_deref()) {
        return Check::warning(NAME, errors, "run agentd as a systemd unit, as root; or remove the limits");
    }
    if let Some(errors) = answers.errors(|agent| agent.default_limits_error.as_deref()) {
        return Check::warning(
            NAME,
            format!("{errors}; they are the limits that every sandboxed agent has by default"),
            "run agentd as a systemd unit, as root",
        );
    }
    let lacking = if !target.is_system {
        Some("agentd does not run as root")
    } else if !is_mounted() {
        Some("no cgroup2 file system is mounted")
    } else if !systemd::is_booted() {
        Some("this machine does not run systemd")
    } else {
        None
    };
    let specs = jcard.config().into_iter().flat_map(|config| &config.entries).flat_map(|entry| &entry.spec);
    let with_limits: Vec<&Policy> = specs.map(|spec| &spec.policy).filter(|policy| policy.limits.is_any()).collect();
    let are_declared = with_limits.iter().any(|policy| !policy.by_default.limits);
    match lacking {
        None => Check::ok(NAME, "`memory`, `pid_limit` and `cpu` are applied: each agent is a systemd scope"),
        Some(why) if are_declared => Check::warning(
            NAME,
            format!("`memory`, `pid_limit` and `cpu` are declared but not applied: {why}"),
            "run agentd as a systemd unit, as root; or remove the limits",
        ),
        Some(why) if !with_limits.is_empty() => Check::warning(
            NAME,
            format!("{DEFAULT_LIMITS} are not applied: {why}"),
            "run agentd as a systemd unit, as root",
        ),
        Some(why) => Check::ok(NAME, format!("no limits are declared; they would not be applied: {why}")),
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
        (None, Some(hard)) => ("this process (the daemon's limit may differ)", hard),
        (None, None) => return Check::unknown(NAME, "failed to find out the limit", "try again"),
    };
    if hard < FEW_DESCRIPTORS {
        return Check::warning(
            NAME,
            format!("{who} may open {hard} descriptors, which is too few for many agents and clients"),
            "raise the hard limit (LimitNOFILE= of the unit, or ulimit -Hn)",
        );
    }
    Check::ok(NAME, format!("{who} may open {hard} descriptors"))
}

/// `environment` is what is wrong with environments of agents: such an agent runs, but git in it may refuse to work.
fn agents(agents: &[AgentStatus], environment: Option<String>) -> Check {
    const NAME: &str = "agents";
    let faulty: Vec<&str> = agents.iter().filter(|agent| agent.is_failed()).map(|agent| agent.name.as_str()).collect();
    let failed = (!faulty.is_empty()).then(|| format!("these agents need attention: {}", named(&faulty)));
    let lines: Vec<String> = failed.into_iter().chain(environment).collect();
    let flawed = agents.iter().find(|agent| agent.environment_error.is_some()).map(|agent| agent.name.as_str());
    match faulty.first().copied().or(flawed) {
        None => Check::ok(NAME, format!("{}, none of which needs attention", counted(agents.len(), "agent"))),
        Some(first) => Check::warning(NAME, lines.join("\n"), format!("agentd explain {first} says more")),
    }
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
    fn agents_that_share_a_login_of_claude_code_are_a_warning() {
        let folder = tempfile::TempDir::new().unwrap();
        let checks = |text: &str| -> Vec<(String, Option<String>)> {
            let entry = |line: &str| {
                let (name, more) = line.split_once(' ').unwrap_or((line, ""));
                let harness = if name.starts_with('x') { "codex" } else { "claude-code" };
                format!("[[agents]]\nname = {name:?}\nharness = {harness:?}\n{more}\n")
            };
            let text: String = text.lines().map(entry).collect();
            let config = config::parse(text.as_bytes(), &config::Options::default()).unwrap();
            let checks = shared_logins(&config, folder.path(), "agent");
            assert!(checks.iter().all(|check| check.result == Verdict::Warning && check.name == "logins"));
            checks.into_iter().map(|check| (check.message, check.remedy)).collect()
        };
        let own = "c env = { ANTHROPIC_API_KEY = \"k\" }\nd secrets = [\"CLAUDE_CODE_OAUTH_TOKEN\"]\nx1\nx2\ne user = \"other\"";
        assert_eq!(checks(&format!("a\n{own}")), []);
        let found = checks(&format!("a\nb\n{own}"));
        let message = "a, b share the login of Claude Code of user agent, and may log each other out";
        assert_eq!(found[0].0, message);
        assert!(found[0].1.as_ref().is_some_and(|remedy| remedy.contains("claude setup-token")), "{found:?}");
        assert_eq!(found.len(), 1);
        fs::write(folder.path().join("ANTHROPIC_API_KEY"), "k").unwrap();
        assert_eq!(checks("a\nb"), []);
    }

    #[test]
    fn agents_in_a_group_that_may_act_are_a_failure() {
        let role = Role { check: "operator-group", flag: "--operator-group", can: "act" };
        let agent = |groups: &[u32]| {
            let groups = groups.iter().map(|&gid| Gid::from_raw(gid)).collect();
            Account { gid: Gid::from_raw(9), groups, ..Account::current().unwrap() }
        };
        for (gid, groups, result) in [
            (None, &[][..], Verdict::Failure),
            (Some(7), &[8], Verdict::Ok),
            (Some(7), &[8, 7], Verdict::Failure),
            (Some(9), &[], Verdict::Failure),
        ] {
            let check = judge_group("crew", gid.map(Gid::from_raw), Some(&agent(groups)), &role);
            assert!(check.result == result && check.name == "operator-group", "{gid:?} {groups:?}: {}", check.message);
        }
        let check = judge_group("crew", None, None, &role);
        assert!(check.remedy.is_some_and(|remedy| remedy.ends_with("with --operator-group")));
    }

    #[test]
    fn differences_name_missing_and_extra_groups() {
        let tell = |has: &[u32], given: &[u32]| {
            let set = |gids: &[u32]| gids.iter().copied().collect();
            differences("agent", &set(has), &set(given), |gid| format!("g{gid}")).join("; ")
        };
        assert_eq!(tell(&[1, 2], &[2, 1]), "");
        assert_eq!(tell(&[1], &[1, 2, 3]), "agent is in these groups, but agents are not: g2, g3");
        assert_eq!(tell(&[1, 2], &[1]), "agent is not in these groups, but agents are: g2");
    }

    #[test]
    fn each_wrong_property_of_a_file_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _socket = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o606)).unwrap();
        let look = look_at(&path).unwrap().unwrap();
        let right = Right { kind: SFlag::S_IFSOCK, uid: Some(look.owner), gid: None, needs: 0o600, bars: 0 };
        assert_eq!(wrongs(&look, right), [""; 0]);
        let strict = Right { needs: 0o660, bars: 0o007, ..right };
        assert_eq!(wrongs(&look, strict), ["its mode is 0606, not 0660"]);
        let others = Right { uid: Some(54_321), gid: Some(54_321), ..right };
        assert_eq!(wrongs(&look, others).len(), 2);
        assert_eq!(wrongs(&look, Right { kind: SFlag::S_IFDIR, ..right }), ["it is not a directory"]);
    }

    #[test]
    fn links_are_examined_but_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/etc/passwd", folder.path().join("link")).unwrap();
        assert_eq!(kind(&look_at(&folder.path().join("link")).unwrap().unwrap()), SFlag::S_IFLNK);
        assert!(look_at(&folder.path().join("absent")).unwrap().is_none());
        assert!(look_at(&folder.path().join("absent/x")).unwrap().is_none());
    }

    #[test]
    fn root_follows_no_link_that_others_could_have_made() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = folder.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o777)).unwrap();
        symlink("/etc", theirs.join("link")).unwrap();
        // Other users may follow it: they gain nothing by it.
        assert_eq!(look_at(&theirs.join("link/passwd")).is_err(), nix::unistd::Uid::effective().is_root());
    }

    #[test]
    fn long_lists_of_names_are_cut_short() {
        assert_eq!(named(&["a", "b"]), "a, b");
        assert_eq!(named(&["a"; 7]), "a, a, a, a, a and 2 more");
    }
}
