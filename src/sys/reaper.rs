//! Reaps orphans: processes whose parent has ended, and that this process inherits as the first of its container.
//!
//! The first process of a namespace becomes the parent of every orphan (`pid_namespaces(7)`), and a child that has ended stays a
//! zombie until its parent waits for it. A launcher reaps what its agent starts; the orphans here come from other tmux windows,
//! from `docker exec`, and from the tmux server. The children that agentd itself started are waited for where they were started,
//! and must keep their status until then.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// The shortest time between two scans, however many processes end.
const PAUSE: Duration = Duration::from_millis(100);

/// Children of this process that other code waits for.
static KEPT: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn kept() -> MutexGuard<'static, BTreeSet<i32>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that must not be reaped here while this is held.
#[derive(Debug)]
pub struct Kept(i32);

/// Keeps a child that was just started. Call this before anything is awaited.
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

/// Reaps orphans forever, if this process is the first of its namespace; otherwise there are none.
///
/// Must be called inside the async runtime. Only one thread may start children that are [kept](keep).
pub async fn reap() {
    if nix::unistd::getpid().as_raw() == 1
        && let Err(error) = wait_for_all().await
    {
        tracing::warn!("orphaned processes stay zombies: {error}");
    }
}

async fn wait_for_all() -> io::Result<()> {
    let mut ended = signal(SignalKind::child())?;
    loop {
        for pid in children()? {
            if !kept().contains(&pid)
                && let Some(pid) = Pid::from_raw(pid)
            {
                // A child that is still alive has no status; one that is gone was never there to be reaped.
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            }
        }
        sleep(PAUSE).await;
        if ended.recv().await.is_none() {
            return Ok(());
        }
    }
}

/// The children of this process, including those that have ended.
fn children() -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for thread in std::fs::read_dir("/proc/self/task")? {
        // A thread that has ended has passed its children on to another.
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
    fn a_list_of_children_contains_only_numbers() {
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
