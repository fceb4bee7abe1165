//! What a process has from whoever started it, and must not take along when it becomes another user.
//!
//! `setresuid(2)` changes who a process is, and leaves alone most of what it was given. With some of that, the agent user's processes
//! would reach back to whoever started agentd:
//!
//! | inherited | what it would allow | what is done, and where |
//! |---|---|---|
//! | session and controlling terminal | typing for root (`TIOCSTI`), or taking its terminal's foreground | `setsid(2)`, here |
//! | session keyring | reading root's keys, which its possessor may | an empty one of its own, here |
//! | priorities above the usual, a real-time policy | taking the processor, or staying when memory is short | the usual ones, here |
//! | limits that let their owner raise its priority | the same | the usual ones (none), here |
//! | descriptors | reading and writing what root has open | closed on `execve(2)`, [`crate::sys::fd::hand_down_none`] |
//! | environment, working directory, umask | tokens of root's, a folder of root's, files open to all | emptied, `/`, and 022, where processes are started |
//! | user and group ids, capabilities | root's rights | [`crate::sys::account::Account::assume`] |
//!
//! Two processes become the agent user: the [deputy](crate::deputy), and the tmux client of `agentd attach`, whose session is that of
//! a fresh terminal. Whatever they start (tmux clients, which a hostile server can make run programs, and the tmux server) inherits
//! from them.
//!
//! Left as it is: an I/O priority that was set by itself (`ionice(1)`), for want of a way to change it from here; one that follows
//! from the policy goes with that. So are restrictions, such as the policies for batches and for idle time, and other limits.
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

/// Why a process still has something that it must not take along.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It still belongs to the session of whoever started it.
    #[error("failed to leave the session of whoever started agentd: {0}")]
    Session(#[source] Errno),
    /// It still has the session keyring of whoever started it.
    #[error("failed to leave the session keyring of whoever started agentd: {0}")]
    Keyring(#[source] io::Error),
    /// It still has priorities that the agent user could not give itself.
    #[error("failed to take on the usual priorities: {0}")]
    Priority(#[source] io::Error),
}

/// Leaves the session that this process was started in, and with it the controlling terminal.
///
/// The process must not lead a process group.
pub fn leave_session() -> Result<(), Error> {
    nix::unistd::setsid().map(drop).map_err(Error::Session)
}

/// Gives up keys and priorities. Called by root before it becomes another user, who could do neither.
pub fn renounce() -> Result<(), Error> {
    join_empty_keyring().map_err(Error::Keyring)?;
    take_usual_priorities().map_err(Error::Priority)
}

fn join_empty_keyring() -> io::Result<()> {
    match keyutils::Keyring::join_anonymous_session() {
        Ok(_) => Ok(()),
        // A kernel without keys has none to read. A seccomp filter that forbids this call stays in force for all that is started from
        // here, and forbids reading them, too.
        Err(errno) if [Errno::ENOSYS as i32, Errno::EPERM as i32].contains(&errno.0) => Ok(()),
        Err(errno) => Err(io::Error::from_raw_os_error(errno.0)),
    }
}

/// Priorities below the usual ones stay: they are restrictions, which whoever started agentd wants.
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
        // Without /proc the kernel's default cannot have been changed from here.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Of this thread, which is the only one. A policy that is not known is not taken for a restriction.
fn take_usual_policy() -> io::Result<()> {
    /// A nice value of 0 on the scale of the crate. A larger one could not be taken back without a capability.
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
    // A restriction from before stays.
    Ok(setpriority_process(None, nice.max(0))?)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Needs a right, which whoever runs the tests may lack.
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
