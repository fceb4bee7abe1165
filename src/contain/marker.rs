//! The marker: an environment variable by which an agent's processes are found again.
//!
//! It is used where there are no [control groups](crate::contain::cgroup). What a launcher starts stays below it in the process tree.
//! When the launcher is killed, though, only the environment of a process that has left the session still shows whose it was. A process
//! can shed the marker by starting another program without it, so this finds only processes that do not hide.
//!
//! A process that bears the marker is killed only if it also runs as the agent user. Whoever can put the marker on a process of that
//! user could kill it anyway. A harness leads a session and started everything in it, so the whole session is killed, too, with the
//! marker or without.
//!
//! A scan goes through all processes. Many agents may end at once, so one scan serves all callers who asked before it began. Only one
//! runs at a time, outside of the async runtime's thread.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Uid, getpid};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::agent::name::{Key, Name};
use crate::sys::blocking;
use crate::sys::process::{self, Process};
use crate::sys::secret_bytes::SecretBytes;

/// The variable.
pub const VARIABLE: &str = "AGENTD_AGENT";

/// How many scans in a row must find nothing: in the middle of an `execve(2)` a process shows no environment.
const LOOKS: u32 = 2;

/// How long what was killed may take to die.
const TO_DIE: Duration = Duration::from_secs(10);

/// The pause before the next scan when the system lacks resources for one.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How much of an environment is looked at at once.
const CHUNK: usize = 64 << 10;

/// Why processes that bear the marker may still be alive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// They were killed, and do not die.
    #[error("failed to kill everything that bears its marker within {}", humantime::format_duration(TO_DIE))]
    Alive,
    /// The system lacks resources for a scan.
    #[error("failed to look for processes that bear its marker: {0}")]
    Look(String),
}

/// Marks and finds the processes of a daemon's agents. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EnvironMarker {
    /// The variable, and its value up to the agent's key.
    prefix: Vec<u8>,
    requests: mpsc::UnboundedSender<Asked>,
    /// Why the last look failed, if it did.
    trouble: watch::Receiver<Option<String>>,
}

#[derive(Debug)]
struct Asked {
    key: Key,
    /// Looks in a row that found nothing.
    clean: u32,
    done: oneshot::Sender<()>,
}

impl EnvironMarker {
    /// Those of the daemon with this state directory, and of the one after it, on processes of this user. Must be called inside
    /// the async runtime.
    pub fn new(state_dir: &Path, user: Uid) -> Self {
        let prefix = [VARIABLE.as_bytes(), b"=", state_dir.as_os_str().as_bytes(), b":"].concat();
        let marks = prefix.clone();
        Self::by(prefix, move |keys| look(&marks, user, keys))
    }

    fn by(prefix: Vec<u8>, look: impl Fn(&BTreeSet<Key>) -> io::Result<Found> + Clone + Send + 'static) -> Self {
        let ((requests, inbox), (troubles, trouble)) = (mpsc::unbounded_channel(), watch::channel(None));
        tokio::spawn(keep(inbox, troubles, look));
        Self { prefix, requests, trouble }
    }

    /// The variable's value for the agent with this key.
    pub fn value(&self, key: &Key) -> SecretBytes {
        SecretBytes::from([&self.prefix[VARIABLE.len() + 1..], key.as_str().as_bytes()].concat())
    }

    /// Kills the processes that bear the agent's marker, until none is left.
    pub async fn clear(&self, key: &Key) -> Result<(), Error> {
        let (done, finished) = oneshot::channel();
        // Fails only when the daemon is ending.
        let _ = self.requests.send(Asked { key: key.clone(), clean: 0, done });
        match timeout(TO_DIE, finished).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(self.trouble.borrow().clone().map_or(Error::Alive, Error::Look)),
        }
    }
}

/// What a look has found and killed.
#[derive(Debug, Default)]
struct Found {
    /// The keys of those that had something left.
    keys: BTreeSet<Key>,
    /// Whether the kernel refused to show root the environment of a process of the user's.
    refused: bool,
}

/// Scans for as long as somebody asks.
async fn keep(
    mut inbox: mpsc::UnboundedReceiver<Asked>,
    trouble: watch::Sender<Option<String>>,
    look: impl Fn(&BTreeSet<Key>) -> io::Result<Found> + Clone + Send + 'static,
) {
    const LONGEST_PAUSE: u32 = 50;
    let mut open: Vec<Asked> = Vec::new();
    let mut in_vain = 0;
    let mut warned = false;
    loop {
        if open.is_empty() {
            match inbox.recv().await {
                Some(asked) => open.push(asked),
                None => return,
            }
        }
        open.extend(std::iter::from_fn(|| inbox.try_recv().ok()));
        // Who has stopped waiting needs no look.
        open.retain(|asked| !asked.done.is_closed());
        let keys = open.iter().map(|asked| asked.key.clone()).collect();
        let look = look.clone();
        let found = blocking::run(move || look(&keys)).await.flatten();
        trouble.send_replace(found.as_ref().err().map(ToString::to_string));
        let Ok(found) = found else {
            // Nothing was found out.
            sleep(LOOK_AGAIN).await;
            continue;
        };
        if found.refused && !std::mem::replace(&mut warned, true) {
            tracing::warn!(
                "the kernel does not show the environments of the agent user's processes, so some that an agent \
                 leaves behind may be missed; agentd needs the capability CAP_SYS_PTRACE"
            );
        }
        for asked in std::mem::take(&mut open) {
            match if found.keys.contains(&asked.key) { 0 } else { asked.clean + 1 } {
                // Fails only if nobody waits any more.
                LOOKS => drop(asked.done.send(())),
                clean => open.push(Asked { clean, ..asked }),
            }
        }
        // What was killed needs a moment to die, and what does not die ever more.
        in_vain = if found.keys.is_empty() { 0 } else { LONGEST_PAUSE.min(in_vain + 1) };
        sleep(Duration::from_millis(in_vain.into())).await;
    }
}

/// Kills what bears the mark of one of these agents. An error means that not all could be looked at.
fn look(prefix: &[u8], user: Uid, keys: &BTreeSet<Key>) -> io::Result<Found> {
    let (mut found, mut failure) = (Found::default(), Ok(()));
    let mut buffer = Zeroizing::new(vec![0; CHUNK]);
    let by_root = Uid::effective().is_root();
    let own = getpid().as_raw();
    process::each(|pid| {
        // A process that may not be dumped is root's in the eyes of the file system; others are whose they are.
        let owner = fs::metadata(format!("/proc/{pid}")).map(|metadata| Uid::from_raw(metadata.uid()));
        if pid == own || !owner.is_ok_and(|owner| owner == user || by_root && owner.is_root()) {
            return;
        }
        match marked(pid, prefix, keys, &mut buffer) {
            Ok(Some(key)) => {
                match Process::open(pid) {
                    Ok(process) => {
                        // Asked again now that it cannot be another one.
                        let still = marked(pid, prefix, keys, &mut buffer);
                        if still.is_ok_and(|still| still.as_ref() == Some(&key))
                            && process.runs_as(user).unwrap_or(false)
                        {
                            if process.leads_session() {
                                process.identity().kill_session(user);
                            }
                            // One that cannot be killed is found again.
                            let _ = process.kill();
                            found.keys.insert(key);
                        }
                    }
                    Err(error) if process::is_gone(&error) => {}
                    Err(_) => drop(found.keys.insert(key)),
                }
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                found.refused |= by_root && process::runs_as(pid, user);
            }
            Err(error) if process::is_gone(&error) => {}
            Err(error) => failure = Err(error),
        }
    })?;
    failure.map(|()| found)
}

/// The first of these keys whose mark a process bears.
fn marked(pid: i32, prefix: &[u8], keys: &BTreeSet<Key>, buffer: &mut [u8]) -> io::Result<Option<Key>> {
    /// More than an environment can have (`execve(2)`).
    const MOST: u64 = 16 << 20;
    /// What a piece has in common with the one before it: more than a mark that the first one cuts short.
    const OVERLAP: usize = 2 * Name::MAX_LENGTH;
    let environment = File::open(format!("/proc/{pid}/environ"))?;
    let mut offset = 0;
    while offset < MOST {
        let mut length = 0;
        while length < buffer.len() {
            match environment.read_at(&mut buffer[length..], offset + length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let is_last = length < buffer.len();
        let key = find(&buffer[..length], offset == 0, is_last, prefix, keys);
        if key.is_some() || is_last {
            return Ok(key);
        }
        offset += (length - prefix.len() - OVERLAP) as u64;
    }
    Ok(None)
}

/// The first of these keys whose mark stands in a piece of an environment. What is cut short at either end is none.
fn find(piece: &[u8], is_first: bool, is_last: bool, prefix: &[u8], keys: &BTreeSet<Key>) -> Option<Key> {
    let mut variables = piece.split(|&byte| byte == 0);
    if !is_first {
        variables.next();
    }
    if !is_last {
        variables.next_back();
    }
    variables
        .filter_map(|variable| std::str::from_utf8(variable.strip_prefix(prefix)?).ok())
        .find_map(|marked| keys.iter().find(|key| key.as_str() == marked).cloned())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::agent::name::key;

    const STATE: &str = "/state of/agentd";

    fn prefix() -> Vec<u8> {
        format!("{VARIABLE}={STATE}:").into_bytes()
    }

    fn keys(names: &[&str]) -> BTreeSet<Key> {
        names.iter().map(|&name| key(name)).collect()
    }

    fn sleeper(variables: &[(&str, &str)]) -> Child {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.envs(variables.iter().copied()).spawn().unwrap();
        // It shows none yet while it becomes the program.
        while fs::read(format!("/proc/{}/environ", child.id())).unwrap().is_empty() {
            std::thread::yield_now();
        }
        child
    }

    #[test]
    fn a_mark_is_a_whole_variable_and_the_key_a_whole_key() {
        let found = |piece: &str| find(piece.as_bytes(), true, true, &prefix(), &keys(&["rev", "b"]));
        assert_eq!(found(&format!("A=1\0{VARIABLE}={STATE}:rev\0B=2\0")), Some(key("rev")));
        assert_eq!(found(&format!("{VARIABLE}={STATE}:rev")), Some(key("rev")));
        assert_eq!(found(&format!("{VARIABLE}=other:rev\0{VARIABLE}={STATE}:b\0")), Some(key("b")));
        for other in ["rev-1", "re", "", "REV"] {
            assert_eq!(found(&format!("{VARIABLE}={STATE}:{other}\0")), None, "{other}");
        }
        assert_eq!(found(&format!("X={VARIABLE}={STATE}:rev\0")), None);
    }

    #[test]
    fn what_the_edge_of_a_piece_cuts_short_is_no_mark() {
        let mark = format!("{VARIABLE}={STATE}:rev");
        let found = |is_first, is_last| find(mark.as_bytes(), is_first, is_last, &prefix(), &keys(&["rev"]));
        assert_eq!(found(true, true), Some(key("rev")));
        assert_eq!((found(false, true), found(true, false)), (None, None));
    }

    #[test]
    fn a_mark_is_found_wherever_it_stands_in_a_large_environment() {
        let length = prefix().len() + "rev".len() + 1;
        for before in [1, CHUNK - length, CHUNK - length / 2, CHUNK - 1, CHUNK, CHUNK + 1] {
            // Sorted by name, as `Command` has them, the filler comes first.
            let filler = "x".repeat(before.saturating_sub(3));
            let mark = format!("{STATE}:rev");
            let mut child = sleeper(&[("A", &filler), (VARIABLE, &mark)]);
            let pid = i32::try_from(child.id()).unwrap();
            let mut buffer = vec![0; CHUNK];
            let found = |keys: &BTreeSet<Key>, buffer: &mut [u8]| marked(pid, &prefix(), keys, buffer).unwrap();
            assert_eq!(found(&keys(&["rev"]), &mut buffer), Some(key("rev")), "after {before} bytes");
            assert_eq!(found(&keys(&["re", "v"]), &mut buffer), None);
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_scan_kills_only_marked_processes_of_the_user() {
        let mut mine = sleeper(&[(VARIABLE, &format!("{STATE}:one"))]);
        let mut others = [
            sleeper(&[(VARIABLE, &format!("{STATE}:two"))]),
            sleeper(&[(VARIABLE, "/another/state:one")]),
            sleeper(&[("NO_MARK", &format!("{STATE}:one"))]),
        ];
        assert_eq!(look(&prefix(), Uid::from_raw(54_321), &keys(&["one"])).unwrap().keys, keys(&[]));
        assert!(mine.try_wait().unwrap().is_none(), "it runs as somebody else");
        assert_eq!(look(&prefix(), Uid::effective(), &keys(&["one", "three"])).unwrap().keys, keys(&["one"]));
        mine.wait().unwrap();
        assert_eq!(look(&prefix(), Uid::effective(), &keys(&["one"])).unwrap().keys, keys(&[]));
        for other in &mut others {
            assert!(other.try_wait().unwrap().is_none());
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn many_who_ask_at_once_are_served_by_the_same_looks() {
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&looks);
        let marks = EnvironMarker::by(prefix(), move |keys| {
            let nth = counted.fetch_add(1, Ordering::Relaxed);
            // One of them has something left at first.
            let keys = keys.iter().filter(|key| nth < 3 && key.as_str() == "7").cloned().collect();
            Ok(Found { keys, ..Found::default() })
        });
        let all: tokio::task::JoinSet<_> = (0..500)
            .map(|number| {
                let marks = marks.clone();
                async move { marks.clear(&key(&number.to_string())).await }
            })
            .collect();
        assert!(all.join_all().await.iter().all(Result::is_ok));
        let looks = looks.load(Ordering::Relaxed);
        assert!((5..=8).contains(&looks), "{looks}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_die_is_an_error_in_the_end() {
        let marks = EnvironMarker::by(prefix(), |keys| Ok(Found { keys: keys.clone(), ..Found::default() }));
        assert_eq!(marks.clear(&key("stuck")).await, Err(Error::Alive));
    }

    #[tokio::test]
    async fn a_look_that_failed_has_not_found_that_nothing_is_left() {
        let marks = EnvironMarker::by(prefix(), |_| Err(io::Error::from_raw_os_error(24)));
        let mut trouble = marks.trouble.clone();
        let clearing = tokio::spawn(async move { marks.clear(&key("unseen")).await });
        trouble.wait_for(Option::is_some).await.unwrap();
        tokio::time::pause();
        let error = clearing.await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Look(why) if why.contains("Too many open files")), "{error}");
    }

    #[tokio::test]
    async fn a_look_that_failed_is_made_up_for() {
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&looks);
        let marks = EnvironMarker::by(prefix(), move |_| match counted.fetch_add(1, Ordering::Relaxed) {
            1 => Err(io::Error::from_raw_os_error(24)),
            _ => Ok(Found::default()),
        });
        marks.clear(&key("a")).await.unwrap();
        assert!(looks.load(Ordering::Relaxed) > 2);
    }
}
