//! Gives up what a process inherits and must not keep when it becomes another user.
//!
//! `setresuid(2)` changes a process's user, but leaves most of what it inherited. Some of that would let the agent user's
//! processes affect the session that agentd was started in:
//!
//! | inherited | what it would allow | what agentd does, and where |
//! |---|---|---|
//! | session and controlling terminal | typing into root's terminal (`TIOCSTI`), or taking its foreground | `setsid(2)`, here |
//! | session keyring | reading root's keys, which the keyring's possessor may do | a new, empty one, here |
//! | priorities above the usual, a real-time policy | taking the processor, or staying when memory is short | the usual ones, here |
//! | limits that allow a higher priority | the same | the usual ones (none), here |
//! | descriptors | reading and writing what root has open | closed on `execve(2)`, [`crate::sys::fd::hand_down_none`] |
//! | environment, working directory, umask | root's tokens, root's folder, files that everyone can write to | emptied, `/`, and 022, where processes are started |
//! | user and group ids, capabilities | root's rights | [`crate::sys::account::Account::assume`] |
//!
//! Two processes become the agent user: the [deputy](crate::deputy), and the tmux client of `agentd attach`, whose session is
//! that of a new terminal. What they start (tmux clients, which a hostile server can make run programs, and the tmux server)
//! inherits from them.
//!
//! An I/O priority that was set explicitly (`ionice(1)`) stays, because this module has no way to change it; one that follows
//! from the policy changes with it. Restrictions also stay, such as the policies for batch and idle work, and other limits.
//!
//! Sources: `setsid(2)`, `credentials(7)`, `session-keyring(7)`, `getpriority(2)`, `sched(7)`, `getrlimit(2)`, `ioprio_set(2)`,
//! `proc_pid_oom_score_adj(5)`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::process::{getpriority_process, setpriority_process};
use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, thread_native_id};

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// What a process could not give up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process is still in the session that agentd was started in.
    #[error("failed to leave the session that agentd was started in: {0}")]
    Session(#[source] Errno),
    /// The process still has the session keyring that agentd was started with.
    #[error("failed to leave the session keyring that agentd was started with: {0}")]
    Keyring(#[source] io::Error),
    /// The process still has priorities that the agent user could not set.
    #[error("failed to reset the priorities: {0}")]
    Priority(#[source] io::Error),
}

/// Leaves the session that this process was started in, and with it the controlling terminal.
///
/// The process must not lead a process group.
pub fn leave_session() -> Result<(), Error> {
    nix::unistd::setsid().map(drop).map_err(Error::Session)
}

/// Gives up keys and priorities. Root calls this before it becomes another user, who could do neither.
pub fn renounce() -> Result<(), Error> {
    join_empty_keyring().map_err(Error::Keyring)?;
    take_usual_priorities().map_err(Error::Priority)
}

fn join_empty_keyring() -> io::Result<()> {
    match keyutils::Keyring::join_anonymous_session() {
        Ok(_) => Ok(()),
        // A kernel without keys has none to read. A seccomp filter that forbids this call also applies to everything started from
        // here, and forbids reading keys, too.
        Err(errno) if [Errno::ENOSYS as i32, Errno::EPERM as i32].contains(&errno.0) => Ok(()),
        Err(errno) => Err(io::Error::from_raw_os_error(errno.0)),
    }
}

/// Raises no priority: those below the usual ones are restrictions, and stay.
fn take_usual_priorities() -> io::Result<()> {
    take_usual_policy()?;
    for resource in [Resource::RLIMIT_NICE, Resource::RLIMIT_RTPRIO] {
        if getrlimit(resource)? != (0, 0) {
            setrlimit(resource, 0, 0)?;
        }
    }
    if getpriority_process(None)? < 0 {
        setpriority_process(None, 0)?;
    }
    let is_favored = |score: &[u8]| score.first() == Some(&b'-');
    match fs::read(OOM_SCORE) {
        Ok(score) if is_favored(&score) => OpenOptions::new().write(true).open(OOM_SCORE)?.write_all(b"0"),
        Ok(_) => Ok(()),
        // Without /proc, this could not have been changed from the kernel's default.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Resets the policy of this thread, which is the only one. An unknown policy does not count as a restriction.
fn take_usual_policy() -> io::Result<()> {
    /// A nice value of 0 on the crate's scale. A larger one could not be undone without a capability.
    const MIDDLE: u8 = 47;
    if matches!(thread_priority::thread_schedule_policy(), Ok(ThreadSchedulePolicy::Normal(_))) {
        return Ok(());
    }
    let failed = |error| match error {
        thread_priority::Error::OS(errno) => io::Error::from_raw_os_error(errno),
        error => io::Error::other(format!("{error:?}")),
    };
    let middle = MIDDLE.try_into().map(ThreadPriority::Crossplatform).map_err(io::Error::other)?;
    let nice = getpriority_process(None)?;
    let usual = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    thread_priority::set_thread_priority_and_policy(thread_native_id(), middle, usual).map_err(failed)?;
    // An earlier restriction stays.
    Ok(setpriority_process(None, nice.max(0))?)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Whether a real-time policy could be set. The user who runs the tests may lack the right.
    fn has_real_time_policy() -> bool {
        let fifo = ThreadSchedulePolicy::Realtime(thread_priority::RealtimeThreadSchedulePolicy::Fifo);
        thread_priority::set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, fifo).is_ok()
    }

    #[test]
    fn a_real_time_policy_becomes_the_usual_one() {
        let nice = getpriority_process(None).unwrap().max(0);
        let usual = thread::spawn(|| {
            has_real_time_policy().then(|| {
                take_usual_policy().unwrap();
                (thread_priority::thread_schedule_policy().unwrap(), getpriority_process(None).unwrap())
            })
        });
        if let Some(usual) = usual.join().unwrap() {
            assert_eq!(usual, (ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other), nice));
        }
    }

    #[test]
    fn a_policy_below_the_usual_one_stays() {
        let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
        let kept = thread::spawn(move || {
            thread_priority::set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, batch).unwrap();
            take_usual_policy().unwrap();
            (thread_priority::thread_schedule_policy().unwrap(), getpriority_process(None).unwrap())
        });
        assert_eq!(kept.join().unwrap(), (batch, 19));
    }
}
