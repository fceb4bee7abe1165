//! The marker: an environment variable that identifies an agent's processes.
//!
//! It is used where there are no [control groups](crate::contain::cgroup). The processes that a launcher starts stay below it in
//! the process tree. Once the launcher is killed, though, only the environment of a process that has left the session still shows
//! which agent it belongs to. A process can drop the marker by starting another program without it, so this finds only processes
//! that do not hide.
//!
//! A process with the marker is killed only if it also runs as the agent user. A process that could put the marker on another
//! process of that user could kill it anyway. A harness leads a session and started everything in it, so the whole session is
//! killed, too, with or without the marker.
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

/// The name of the variable.
pub const VARIABLE: &str = "AGENTD_AGENT";

/// How many scans in a row must find nothing: during an `execve(2)`, a process shows no environment.
const LOOKS: u32 = 2;

/// How long killed processes may take to die.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause before the next scan when the system lacks resources for one.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How much of an environment is read at a time.
const CHUNK: usize = 64 << 10;

/// Why processes with the marker may still be alive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The processes were killed, but do not die.
    #[error("failed to kill everything that bears its marker within {}", humantime::format_duration(DEATH_TIMEOUT))]
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
    /// Why the last scan failed, if it did.
    trouble: watch::Receiver<Option<String>>,
}

#[derive(Debug)]
struct Asked {
    key: Key,
    /// How many scans in a row found nothing.
    clean: u32,
    done: oneshot::Sender<()>,
}

impl EnvironMarker {
    /// The marker of the agents of the daemon with this state directory, and of its successors, on processes of this user.
    ///
    /// Must be called inside the async runtime.
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

    /// Kills the processes with the agent's marker, until none is left.
    pub async fn clear(&self, key: &Key) -> Result<(), Error> {
        let (done, finished) = oneshot::channel();
        // Fails only when the daemon is ending.
        let _ = self.requests.send(Asked { key: key.clone(), clean: 0, done });
        match timeout(DEATH_TIMEOUT, finished).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(self.trouble.borrow().clone().map_or(Error::Alive, Error::Look)),
        }
    }
}

/// The result of a scan.
#[derive(Debug, Default)]
struct Found {
    /// The keys of agents that had processes left.
    keys: BTreeSet<Key>,
    /// Whether the kernel did not let root read the environment of a process of the user.
    refused: bool,
}

/// Scans for as long as there are requests.
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
        // A caller that has stopped waiting needs no scan.
        open.retain(|asked| !asked.done.is_closed());
        let keys = open.iter().map(|asked| asked.key.clone()).collect();
        let look = look.clone();
        let found = blocking::run(move || look(&keys)).await.flatten();
        trouble.send_replace(found.as_ref().err().map(ToString::to_string));
        let Ok(found) = found else {
            // This scan says nothing.
            sleep(RETRY_PAUSE).await;
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
                // Fails only if the caller has stopped waiting.
                LOOKS => drop(asked.done.send(())),
                clean => open.push(Asked { clean, ..asked }),
            }
        }
        // Killed processes need a moment to die; those that do not die are killed less and less often.
        in_vain = if found.keys.is_empty() { 0 } else { LONGEST_PAUSE.min(in_vain + 1) };
        sleep(Duration::from_millis(in_vain.into())).await;
    }
}

/// Kills processes with the marker of one of these agents. An error means that not all could be examined.
fn look(prefix: &[u8], user: Uid, keys: &BTreeSet<Key>) -> io::Result<Found> {
    let (mut found, mut failure) = (Found::default(), Ok(()));
    let mut buffer = Zeroizing::new(vec![0; CHUNK]);
    let by_root = Uid::effective().is_root();
    let own = getpid().as_raw();
    process::each(|pid| {
        // A process that may not be dumped belongs to root according to the file system; others belong to their user.
        let owner = fs::metadata(format!("/proc/{pid}")).map(|metadata| Uid::from_raw(metadata.uid()));
        if pid == own || !owner.is_ok_and(|owner| owner == user || by_root && owner.is_root()) {
            return;
        }
        match marked(pid, prefix, keys, &mut buffer) {
            Ok(Some(key)) => {
                match Process::open(pid) {
                    Ok(process) => {
                        // Checked again now that the process is held.
                        let still = marked(pid, prefix, keys, &mut buffer);
                        if still.is_ok_and(|still| still.as_ref() == Some(&key))
                            && process.runs_as(user).unwrap_or(false)
                        {
                            if process.leads_session() {
                                process.identity().kill_session(user);
                            }
                            // A process that cannot be killed is found again.
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

/// The first of these keys whose marker the process has.
fn marked(pid: i32, prefix: &[u8], keys: &BTreeSet<Key>, buffer: &mut [u8]) -> io::Result<Option<Key>> {
    /// More than an environment can have (`execve(2)`).
    const MOST: u64 = 16 << 20;
    /// How much a piece shares with the one before it: more than a marker that was cut short.
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

/// The first of these keys whose marker is in a piece of an environment. A marker that is cut short at either end does not count.
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
        // A new process shows no environment while it starts the program.
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
    fn a_mark_cut_short_by_the_edge_of_a_piece_does_not_count() {
        let mark = format!("{VARIABLE}={STATE}:rev");
        let found = |is_first, is_last| find(mark.as_bytes(), is_first, is_last, &prefix(), &keys(&["rev"]));
        assert_eq!(found(true, true), Some(key("rev")));
        assert_eq!((found(false, true), found(true, false)), (None, None));
    }

    #[test]
    fn a_mark_is_found_anywhere_in_a_large_environment() {
        let length = prefix().len() + "rev".len() + 1;
        for before in [1, CHUNK - length, CHUNK - length / 2, CHUNK - 1, CHUNK, CHUNK + 1] {
            // `Command` sorts by name, so the filler comes first.
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
        assert!(mine.try_wait().unwrap().is_none(), "it runs as another user");
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
    async fn concurrent_requests_share_the_same_scans() {
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&looks);
        let marks = EnvironMarker::by(prefix(), move |keys| {
            let nth = counted.fetch_add(1, Ordering::Relaxed);
            // One of the agents has something left at first.
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
    async fn a_process_that_does_not_die_is_an_error_after_a_while() {
        let marks = EnvironMarker::by(prefix(), |keys| Ok(Found { keys: keys.clone(), ..Found::default() }));
        assert_eq!(marks.clear(&key("stuck")).await, Err(Error::Alive));
    }

    #[tokio::test]
    async fn a_failed_scan_does_not_prove_that_nothing_is_left() {
        let marks = EnvironMarker::by(prefix(), |_| Err(io::Error::from_raw_os_error(24)));
        let mut trouble = marks.trouble.clone();
        let clearing = tokio::spawn(async move { marks.clear(&key("unseen")).await });
        trouble.wait_for(Option::is_some).await.unwrap();
        tokio::time::pause();
        let error = clearing.await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Look(why) if why.contains("Too many open files")), "{error}");
    }

    #[tokio::test]
    async fn a_failed_scan_is_repeated() {
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
