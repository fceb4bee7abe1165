//! The checks of how agentd is installed: its unit, its versions, its disk, and what its group may do.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::Check;
use super::examine::run_as;
use crate::cli::target::Target;
use crate::cli::wording::in_bytes;
use crate::launch::program;
use crate::launch::socket_dir::LAUNCH_SOCKET;
use crate::sys::process;
use crate::sys::procfs::{self, Stat};
use crate::sys::systemd::Systemd;
use crate::wire::status::Health;

/// A file system with less room than a twentieth of it is nearly full.
const NEARLY_FULL: u64 = 20;

pub(super) async fn all(target: &Target, health: Option<&Health>) -> Vec<Check> {
    let mut checks = vec![unit(target).await, versions(target, health), disk(target)];
    if target.is_system {
        checks.push(sudo(target, Path::new("/etc")));
    }
    checks
}

/// Whether a restart of the daemon's unit would kill what must outlive it.
async fn unit(target: &Target) -> Check {
    const NAME: &str = "unit";
    let Some(daemon) = &target.daemon else { return Check::ok(NAME, "no daemon is running") };
    let Some(group) = group_of(daemon.pid) else {
        return Check::ok(NAME, "the daemon is in no control group, so no restart of a systemd unit ends agents");
    };
    let Some(service) = service(&group) else {
        return Check::ok(NAME, "the daemon is not a service of systemd, so no restart of a unit ends agents");
    };
    let strangers = match strangers(daemon.pid, &group) {
        Ok(strangers) => strangers,
        Err(error) => return Check::unknown(NAME, format!("failed to look at all processes: {error}"), "try again"),
    };
    if strangers.is_empty() {
        return Check::ok(NAME, format!("no agent and no tmux server is in {service}, so a restart ends none"));
    }
    let user_bus = Systemd::of_user(target.user_id);
    let systemd = if target.is_system { Systemd::default() } else { user_bus };
    let mode = systemd.kill_mode(daemon.pid).await.unwrap_or_else(|_| "unknown".to_owned());
    let count = strangers.len();
    if mode == "process" || mode == "none" {
        return Check::ok(NAME, format!("a restart of {service} ends no agent and no tmux server: KillMode={mode}"));
    }
    let remedy = format!(
        "see the daemon's log for why systemd gave them no scope; until that is remedied: systemctl edit {service}, with KillMode=process in [Service]"
    );
    let message = format!(
        "a restart of {service} would end processes of agents or of their tmux server: {count} (KillMode={mode})"
    );
    Check::warning(NAME, message, remedy)
}

fn group_of(pid: i32) -> Option<PathBuf> {
    procfs::group(&procfs::read(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The processes in the daemon's control group that the daemon has not as its descendants: the tmux server, which has become
/// independent of it, and what that has started.
fn strangers(daemon: i32, group: &Path) -> io::Result<BTreeSet<i32>> {
    let members =
        process::numbers(Path::new("/proc"))?.into_iter().filter(|&pid| group_of(pid).as_deref() == Some(group));
    Ok(members.filter(|&pid| !descends(pid, daemon, parent_of)).collect())
}

fn parent_of(pid: i32) -> Option<i32> {
    Some(Stat::parse(&procfs::read(format!("/proc/{pid}/stat")).ok()?)?.parent)
}

/// Whether a process is the other, or below it. A process that has ended counts as well.
fn descends(pid: i32, ancestor: i32, parent_of: impl Fn(i32) -> Option<i32>) -> bool {
    const DEPTH: usize = 1000;
    let mut at = pid;
    for _ in 0..DEPTH {
        if at == ancestor {
            return true;
        }
        match parent_of(at) {
            Some(parent) if parent > 1 => at = parent,
            Some(_) => return false,
            None => return true,
        }
    }
    false
}

/// The service of systemd that has the control group.
fn service(group: &Path) -> Option<&str> {
    group.file_name()?.to_str().filter(|name| name.ends_with(".service"))
}

/// How to restart the daemon without an end of its agents.
fn how_to_restart(is_service: bool, is_system: bool) -> &'static str {
    match (is_service, is_system) {
        (true, true) => "restart the daemon, whose agents continue: systemctl restart agentd",
        (true, false) => "restart the daemon, whose agents continue: systemctl --user restart agentd",
        (false, _) => {
            "restart the daemon; its agents continue if it was started with --on-terminate detach, or if SIGKILL ends it"
        }
    }
}

/// Whether this program, the daemon and the launchers are of one installation.
fn versions(target: &Target, health: Option<&Health>) -> Check {
    const NAME: &str = "versions";
    let own = env!("CARGO_PKG_VERSION");
    let group = target.daemon.as_ref().and_then(|daemon| group_of(daemon.pid));
    let is_service = target.daemon.is_none() || group.as_deref().and_then(service).is_some();
    let remedy = how_to_restart(is_service, target.is_system);
    if let Some(health) = health.filter(|health| health.version != own) {
        return Check::warning(NAME, format!("the daemon is agentd {}, and this is {own}", health.version), remedy);
    }
    match (&target.daemon, target.daemon.as_ref().and_then(|daemon| Program::of(daemon.pid))) {
        (_, Some(Program::Replaced(path))) => {
            let path = path.display();
            return Check::warning(NAME, format!("the daemon runs a file that was replaced since: {path}"), remedy);
        }
        (_, Some(Program::Other(path))) => {
            let message = format!("the daemon runs {}, which is another build than this agentd", path.display());
            let remedy = "use that one; or install this one in its place, and restart the daemon";
            return Check::warning(NAME, message, remedy);
        }
        (Some(_), None) if health.is_none() => {
            let who = run_as(target, &["root", "a member of the group"]);
            return Check::unknown(NAME, "the daemon did not say its version", who);
        }
        // The versions agree, if there is a daemon, and this user may not see more.
        (_, Some(Program::Same) | None) => {}
    }
    let launchers = match old_launchers(&target.settings.tmux_socket.with_file_name(LAUNCH_SOCKET)) {
        0 => String::new(),
        count => format!("; launchers of an earlier installation, which work until their agents end: {count}"),
    };
    Check::ok(NAME, format!("this is agentd {own}, and so is the daemon, if it runs{launchers}"))
}

/// What the kernel puts after the path of a program that was removed or replaced.
const REMOVED: &str = " (deleted)";

/// What a daemon runs, compared with this process.
enum Program {
    /// The same build.
    Same,
    /// A file that is at its path no more.
    Replaced(PathBuf),
    /// Another build, at this path.
    Other(PathBuf),
}

impl Program {
    /// That of a process; `None` if this user may not know.
    fn of(pid: i32) -> Option<Self> {
        let link = format!("/proc/{pid}/exe");
        let path = fs::read_link(&link).ok()?;
        if let Some(path) = path.to_str().and_then(|path| path.strip_suffix(REMOVED)) {
            return Some(Self::Replaced(path.into()));
        }
        let is_same = has_same_content(Path::new(&link), Path::new("/proc/self/exe")).ok()?;
        Some(if is_same { Self::Same } else { Self::Other(path) })
    }
}

/// Whether two files are one, or are alike.
fn has_same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    let (about_one, about_other) = (one.metadata()?, other.metadata()?);
    if (about_one.dev(), about_one.ino()) == (about_other.dev(), about_other.ino()) {
        return Ok(true);
    }
    if about_one.len() != about_other.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::with_capacity(1 << 16, one), BufReader::with_capacity(1 << 16, other));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let count = left.len().min(right.len());
        if left[..count] != right[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(left.len() == right.len());
        }
        one.consume(count);
        other.consume(count);
    }
}

/// How many launchers of the daemon with this launch socket run a file that was since removed or replaced, as far as this user may
/// know.
fn old_launchers(launch_socket: &Path) -> usize {
    let is_old = |pid: &i32| {
        let path = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let name = path.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
        name.and_then(|name| name.strip_suffix(REMOVED)) == Some(program::NAME)
    };
    let is_ours = |pid: &i32| {
        let argv = procfs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        argv.split(|&byte| byte == 0).any(|word| word == launch_socket.as_os_str().as_bytes())
    };
    let all = process::numbers(Path::new("/proc")).unwrap_or_default();
    all.iter().filter(|pid| is_old(pid) && is_ours(pid)).count()
}

/// How much of the disk logs take.
fn disk(target: &Target) -> Check {
    const NAME: &str = "disk";
    let folder = &target.settings.log_dir;
    let shown = folder.display();
    let system = match statvfs(folder) {
        Ok(system) => system,
        Err(nix::errno::Errno::ENOENT) => return Check::ok(NAME, format!("{shown} does not exist yet")),
        Err(error) => {
            let remedy = run_as(target, &["root", "a member of the group"]);
            return Check::unknown(NAME, format!("failed to look at the file system of {shown}: {error}"), remedy);
        }
    };
    let unit = system.fragment_size();
    let (size, free) = (system.blocks().saturating_mul(unit), system.blocks_available().saturating_mul(unit));
    let used = match used(folder) {
        Ok(used) => used,
        Err(error) => {
            let remedy = run_as(target, &["root", "a member of the group"]);
            return Check::unknown(NAME, format!("failed to add up the logs in {shown}: {error}"), remedy);
        }
    };
    let message = format!("logs take {} of {}; {} are free", in_bytes(used), in_bytes(size), in_bytes(free));
    if free < size / NEARLY_FULL {
        let remedy = format!("free space on the file system of {shown}, or let logs take less with --log-total");
        return Check::warning(NAME, message, remedy);
    }
    Check::ok(NAME, message)
}

/// The disk space of all files in the folders of a folder. Links are not followed.
fn used(folder: &Path) -> io::Result<u64> {
    let mut sum = 0_u64;
    for agent in fs::read_dir(folder)? {
        let agent = agent?;
        if !agent.file_type()?.is_dir() {
            continue;
        }
        let files = match fs::read_dir(agent.path()) {
            // A folder that is gone takes nothing, and neither does a file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            files => files?,
        };
        for file in files {
            sum += file?.metadata().map_or(0, |file| file.blocks().saturating_mul(512));
        }
    }
    Ok(sum)
}

/// Whether a group whose members may use agentd may become root with `sudo`. `etc` is `/etc`.
fn sudo(target: &Target, etc: &Path) -> Check {
    const NAME: &str = "sudo";
    if !target.user_id.is_root() {
        if !has_sudo(etc) {
            return Check::ok(NAME, "sudo has no rules here");
        }
        return Check::unknown(NAME, "only root may read the rules of sudo", run_as(target, &["root"]));
    }
    let groups = BTreeSet::from([target.settings.admin_group.as_str(), target.settings.operator_group.as_str()]);
    let mut warnings = Vec::new();
    for group in &groups {
        let gid = users::get_group_by_name(group).map(|group| group.gid());
        match rules_about(etc, group, gid) {
            Ok(files) if files.is_empty() => {}
            Ok(files) => warnings.push(format!(
                "sudo has a rule for group {group}, by which its members may become root: {}",
                files.join(", ")
            )),
            Err(error) => {
                let message = format!("failed to read the rules of sudo: {error}");
                return Check::unknown(NAME, message, "look at /etc/sudoers");
            }
        }
    }
    if warnings.is_empty() {
        let groups: Vec<&str> = groups.into_iter().collect();
        return Check::ok(NAME, format!("sudo has no rule for group {}", groups.join(" or ")));
    }
    let remedy = "who may use agentd need not be root: choose another group, see --admin-group and --operator-group";
    Check::warning(NAME, warnings.join("\n"), remedy)
}

/// Whether sudo may have rules: without its main file it has none.
fn has_sudo(etc: &Path) -> bool {
    !matches!(fs::symlink_metadata(etc.join("sudoers")), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// The files with a rule about the group.
fn rules_about(etc: &Path, group: &str, gid: Option<u32>) -> io::Result<Vec<String>> {
    let mut files = vec![etc.join("sudoers")];
    match fs::read_dir(etc.join("sudoers.d")) {
        Ok(folder) => {
            for file in folder {
                files.push(file?.path());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    files.sort();
    let mut found = Vec::new();
    for file in files {
        match fs::read(&file) {
            Ok(text) if has_rule(&String::from_utf8_lossy(&text), group, gid) => found.push(file.display().to_string()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whether a file of `sudoers(5)` names the group outside of comments.
fn has_rule(text: &str, group: &str, gid: Option<u32>) -> bool {
    let (name, number) = (format!("%{group}"), gid.map(|gid| format!("%#{gid}")));
    text.lines().filter(|line| !line.trim_start().starts_with('#')).any(|line| {
        let mut words = line.split(|c: char| c.is_whitespace() || ",=!:".contains(c));
        words.any(|word| word == name || Some(word) == number.as_deref())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_has_no_rules_without_its_main_file() {
        let etc = tempfile::tempdir().unwrap();
        assert!(!has_sudo(etc.path()));
        fs::write(etc.path().join("sudoers"), "").unwrap();
        assert!(has_sudo(etc.path()));
    }

    #[test]
    fn systemctl_is_for_daemons_that_systemd_runs() {
        let service = |group: &str| service(Path::new(group)).is_some();
        assert!(
            service("/sys/fs/cgroup/system.slice/agentd.service")
                && !service("/sys/fs/cgroup/user.slice/session-1.scope")
        );
        assert!(how_to_restart(true, false).ends_with("systemctl --user restart agentd"));
        assert!(!how_to_restart(false, true).contains("systemctl"));
    }

    #[test]
    fn a_rule_of_sudo_names_the_group_outside_of_comments() {
        for text in ["%admin ALL=(ALL) ALL", "\t%admin\tALL=ALL", "User_Alias OPS = joe, %admin", "%#7 ALL=ALL"] {
            assert!(has_rule(text, "admin", Some(7)), "{text}");
        }
        for text in ["# %admin ALL=(ALL) ALL", "%administrators ALL=ALL", "admin ALL=ALL", "%#77 ALL=ALL", ""] {
            assert!(!has_rule(text, "admin", Some(7)), "{text}");
        }
    }

    #[test]
    fn rules_are_found_in_all_files_of_sudo() {
        let etc = tempfile::tempdir().unwrap();
        assert_eq!(rules_about(etc.path(), "admin", None).unwrap(), [""; 0]);
        fs::create_dir(etc.path().join("sudoers.d")).unwrap();
        fs::write(etc.path().join("sudoers"), "root ALL=(ALL) ALL\n").unwrap();
        let rule = etc.path().join("sudoers.d/90-cloud");
        fs::write(&rule, "%admin ALL=(ALL) NOPASSWD:ALL\n").unwrap();
        assert_eq!(rules_about(etc.path(), "admin", None).unwrap(), [rule.display().to_string()]);
    }

    #[test]
    fn only_what_the_daemon_has_not_started_is_a_stranger() {
        let parent_of = |pid| match pid {
            20 => Some(10),
            30 => Some(20),
            40 => Some(1),
            50 => Some(40),
            _ => None,
        };
        for (pid, expected) in [(10, true), (30, true), (40, false), (50, false), (60, true)] {
            assert_eq!(descends(pid, 10, parent_of), expected, "{pid}");
        }
    }

    #[test]
    fn files_are_compared_by_their_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            fs::write(folder.path().join(name), content).unwrap();
            folder.path().join(name)
        };
        let long = vec![7; 200_000];
        let (one, copy) = (file("one", &long), file("copy", &long));
        let differing = file("differing", &[&long[..199_999], b"x"].concat());
        let is_same = |other: &Path| has_same_content(&one, other).unwrap();
        assert!(is_same(&one) && is_same(&copy) && !is_same(&differing) && !is_same(&file("short", b"")));
    }

    #[test]
    fn disk_space_of_logs_is_added_up_without_following_links() {
        let logs = tempfile::tempdir().unwrap();
        let agent = logs.path().join("a");
        fs::create_dir(&agent).unwrap();
        fs::write(agent.join("00000001-1.log"), vec![7; 1 << 16]).unwrap();
        std::os::unix::fs::symlink("/usr", logs.path().join("link")).unwrap();
        let used = used(logs.path()).unwrap();
        assert!((1 << 16..1 << 18).contains(&used), "{used}");
    }
}
