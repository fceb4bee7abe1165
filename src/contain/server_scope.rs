//! The tmux server in a systemd scope of its own, so that no unit file can be wrong.
//!
//! A server that agentd starts is born into the control group of agentd's unit. A restart of the unit kills what is in there
//! (`KillMode=control-group`, the default of `systemd.kill(5)`), and the agents would end with their terminals. So the daemon asks
//! systemd to move the server into a scope. A server that an earlier daemon left in the unit is moved as well.
//!
//! Only a process in the daemon's own control group is moved. A server in another unit, such as `agentd-tmux.service`, stays there.
//!
//! Without root, launchers have no scopes: they are moved together with the server.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Uid;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::agent::user::UserName;
use crate::contain::scope;
use crate::sys::PathError;
use crate::sys::blocking;
use crate::sys::process::{self, Identity, Process};
use crate::sys::procfs;
use crate::sys::rate_limit::OnChange;
use crate::sys::systemd::{self, Systemd};

/// The name of the default user's scope. No agent's scope has it, because an agent's begins with `agentd-`.
const NAME: &str = "agentd:tmux.scope";

const DESCRIPTION: &str = "tmux server of the AI coding agents";

fn name_of(user: Option<&UserName>) -> String {
    user.map_or_else(|| NAME.to_owned(), |user| format!("agentd:tmux:{user}.scope"))
}

fn description_of(user: Option<&UserName>) -> String {
    user.map_or_else(|| DESCRIPTION.to_owned(), |user| format!("{DESCRIPTION} of user {user}"))
}

/// How long systemd may take to move the server.
const MOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to look for what is in the unit: first the server, then launchers that were left behind.
const MOST_ROUNDS: usize = 6;

/// The pause before another attempt. It doubles with each failure.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Why the server has no scope.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Systemd(#[from] systemd::Error),
    #[error(transparent)]
    System(#[from] PathError),
    #[error("failed to examine it: {0}")]
    Process(#[from] io::Error),
    #[error("it is still in {} after {}", .0.display(), humantime::format_duration(MOVE_TIMEOUT))]
    NotMoved(PathBuf),
}

/// Gives the server a scope. Exists where a service manager can be asked for one.
#[derive(Debug)]
pub struct ServerScope {
    systemd: Systemd,
    name: String,
    description: String,
    /// Whether launchers are moved together with the server.
    with_launchers: bool,
}

impl ServerScope {
    /// The scope of the server of this user, or of the default one; `None` where no manager would create one.
    pub fn here(systemd: Systemd, user: Option<&UserName>) -> Option<Self> {
        let is_root = Uid::effective().is_root();
        let can = systemd::is_booted() && (is_root || systemd::user_runtime_dir().is_some());
        let (name, description) = (name_of(user), description_of(user));
        can.then_some(Self { systemd, name, description, with_launchers: !is_root })
    }

    /// Moves each server that serves out of the daemon's own control group, until no more can follow.
    pub async fn keep(self, mut servers: watch::Receiver<Option<Identity>>) {
        let (mut told, mut pause) = (OnChange::default(), SHORTEST_PAUSE);
        loop {
            let server = *servers.borrow_and_update();
            let done = match server {
                Some(server) => self.separate(server).await,
                None => Ok(None),
            };
            let has_changed = match done {
                Ok(moved) => {
                    if let Some(name) = moved {
                        tracing::info!("the tmux server has a scope of its own, {name}");
                    }
                    told.reset();
                    pause = SHORTEST_PAUSE;
                    servers.changed().await
                }
                Err(error) => {
                    let error = error.to_string();
                    if told.pass(&error) {
                        tracing::warn!(
                            "the tmux server has no scope of its own, so a restart of agentd's unit may end all agents: {error}; trying again"
                        );
                    }
                    let waited = timeout(pause, servers.changed()).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    waited.unwrap_or(Ok(()))
                }
            };
            if has_changed.is_err() {
                return;
            }
        }
    }

    /// Moves what is in the daemon's own control group and must not be there. Returns the name of the first scope that it got.
    ///
    /// A launcher that is started while the server is moved stays behind, and gets a scope in the next round.
    async fn separate(&self, server: Identity) -> Result<Option<String>, Error> {
        let with_launchers = self.with_launchers;
        let mut first = None;
        for _ in 0..MOST_ROUNDS {
            let mut pids = blocking::run(move || misplaced(server, with_launchers)).await??;
            let Some(&one) = pids.first() else { return Ok(first) };
            // Alone: systemd 252 gives up a scope if any of its processes has ended meanwhile, and what the server
            // has started may be short-lived.
            if one == server.pid() {
                pids.truncate(1);
            }
            let unique = format!("agentd:tmux:{one}.scope");
            let mut name = if first.is_none() { self.name.clone() } else { unique.clone() };
            let mut started = scope::start_server_scope(&self.systemd, &name, &self.description, &pids).await;
            // Something that an operator left running may keep the scope of an earlier server.
            if let Err(systemd::Error::Exists(_)) = started {
                name = unique;
                started = scope::start_server_scope(&self.systemd, &name, &self.description, &pids).await;
            }
            started?;
            await_move(&pids).await?;
            first.get_or_insert(name);
        }
        Ok(first)
    }
}

/// Waits until systemd has moved these processes out of this process's control group, or they have ended.
async fn await_move(pids: &[i32]) -> Result<(), Error> {
    let limit = Instant::now() + MOVE_TIMEOUT;
    let own = group_of("self")?;
    loop {
        let (left, group) = (pids.to_vec(), own.clone());
        let is_there = move |pid: &i32| group_of(&pid.to_string()).is_ok_and(|its| is_inside(&its, &group));
        if !blocking::run(move || left.iter().any(is_there)).await? {
            return Ok(());
        }
        if Instant::now() > limit {
            return Err(Error::NotMoved(own));
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// The server, if it is in this process's control group, and on request what it has started that is there, too. Nothing if it has
/// ended.
fn misplaced(server: Identity, with_launchers: bool) -> Result<Vec<i32>, Error> {
    let own = group_of("self")?;
    let Some(process) = server.open()? else { return Ok(Vec::new()) };
    let group = group_of(&server.pid().to_string());
    // Checked afterwards: the id was this process's all along. One that has ended meanwhile has no group, which is no fault.
    if !process.lives()? {
        return Ok(Vec::new());
    }
    let mut pids = Vec::from_iter(is_inside(&group?, &own).then_some(server.pid()));
    if with_launchers {
        pids.extend(started_by(&process, &own)?);
    }
    Ok(pids)
}

/// The processes in a control group that descend from the server.
fn started_by(server: &Process, group: &Path) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    process::each(|pid| {
        let is_there = || group_of(&pid.to_string()).is_ok_and(|its| is_inside(&its, group));
        if pid != server.pid() && server.find_below(pid).is_some() && is_there() {
            pids.push(pid);
        }
    })?;
    Ok(pids)
}

/// Whether a group is this one or below it. The group at the top has all processes, and is nobody's unit.
fn is_inside(group: &Path, unit: &Path) -> bool {
    unit != Path::new("/") && group.starts_with(unit)
}

fn group_of(process: &str) -> Result<PathBuf, PathError> {
    let path = PathBuf::from(format!("/proc/{process}/cgroup"));
    let text = procfs::read(&path).map_err(PathError::of("read", &path))?;
    procfs::group(&text).ok_or_else(|| PathError::new("understand", path, io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_in_another_unit_stays_there() {
        let unit = Path::new("/system.slice/agentd.service");
        assert!(is_inside(unit, unit));
        assert!(is_inside(&unit.join("tmux"), unit));
        for other in ["/agentd.slice/agentd-tmux.service", "/system.slice/agentd.service2", "/system.slice", "/"] {
            assert!(!is_inside(Path::new(other), unit), "{other}");
        }
        assert!(!is_inside(unit, Path::new("/")));
    }

    #[test]
    fn each_user_has_a_scope_and_the_default_one_keeps_its_name() {
        let user = "a.b-2".parse().unwrap();
        assert_eq!((name_of(None), name_of(Some(&user))), (NAME.to_owned(), "agentd:tmux:a.b-2.scope".to_owned()));
        // That of a second server is named by a number, which no user's name is.
        assert!("17".parse::<UserName>().is_err());
    }

    #[test]
    fn a_server_that_has_ended_is_not_moved() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = Process::open(child.id().cast_signed()).unwrap().identity();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(misplaced(identity, true).unwrap(), [0; 0]);
    }
}
