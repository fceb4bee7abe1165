//! Orphans: processes whose parent has ended, and that became children of this one because it is the first of its container.
//!
//! The first process of a namespace is the parent of whatever loses its own (`pid_namespaces(7)`), and a child that has ended stays
//! a zombie until its parent waits for it. What an agent starts is seen to by its launcher; what ends up here comes from a tmux
//! window of somebody's, from `docker exec`, from the tmux server. Those that agentd itself has started are waited for where they
//! were started, and must keep their status until then.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// How often they are looked at, at most, however many end.
const PAUSE: Duration = Duration::from_millis(100);

/// Children of this process that somebody waits for.
static KEPT: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn kept() -> MutexGuard<'static, BTreeSet<i32>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that is not to be waited for here, as long as this is held.
#[derive(Debug)]
pub struct Kept(i32);

/// Keeps a child that was just started. To be called before anything is awaited.
pub fn keep(pid: Option<u32>) -> Option<Kept> {
    let pid = i32::try_from(pid?).ok()?;
    kept().insert(pid);
    Some(Kept(pid))
}

impl Drop for Kept {
    fn drop(&mut self) {
        kept().remove(&self.0);
    }
}

/// Waits for all that end, without end, if this process is the first of its namespace; else there are none. Must be called inside
/// the async runtime, and only one thread may start children that are [kept](keep).
pub async fn reap() {
    if nix::unistd::getpid().as_raw() == 1
        && let Err(error) = wait_for_all().await
    {
        tracing::warn!("what has lost its parent is left as it ends: {error}");
    }
}

async fn wait_for_all() -> io::Result<()> {
    let mut ended = signal(SignalKind::child())?;
    loop {
        for pid in children()? {
            if !kept().contains(&pid)
                && let Some(pid) = Pid::from_raw(pid)
            {
                // One that still lives has nothing to tell; one that is gone was not there to be waited for.
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
        sleep(PAUSE).await;
        if ended.recv().await.is_none() {
            return Ok(());
        }
    }
}

/// The children of this process, those that have ended among them.
fn children() -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for thread in std::fs::read_dir("/proc/self/task")? {
        // A thread that has ended has handed on its children to another.
        if let Ok(list) = std::fs::read(thread?.path().join("children")) {
            children.extend(numbers(&list));
        }
    }
    Ok(children)
}

fn numbers(list: &[u8]) -> impl Iterator<Item = i32> {
    list.split(u8::is_ascii_whitespace).filter_map(|number| std::str::from_utf8(number).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_children_is_numbers_and_nothing_else() {
        assert_eq!(numbers(b"12 345 \xff x 6 ").collect::<Vec<_>>(), [12, 345, 6]);
        assert_eq!(numbers(b"").count(), 0);
    }

    #[test]
    fn a_child_that_was_started_is_among_the_children() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(children().unwrap().contains(&pid));
        child.wait().unwrap();
        assert!(!children().unwrap().contains(&pid));
    }
}
