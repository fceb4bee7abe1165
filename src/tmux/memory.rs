//! Remembers which process was seen to serve, for this daemon and the next: no other process is ever signaled.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::agent::user::AgentUser;
use crate::deputy::Seen;
use crate::state::record::{Record, Recorder};
use crate::sys::blocking;
use crate::sys::process::Identity;
use crate::sys::secret_bytes::SecretBytes;

/// The only key in its folder.
const KEY: &str = "server";

/// The folder in the state directory: of the default user's server, and what the folders of other users' begin with.
const FOLDER: &str = "tmux";

/// Remembers the server. Cannot be cloned: there is one for each server.
#[derive(Debug, Default)]
pub struct Memory {
    seen: Mutex<Option<Seen>>,
    /// The process that this daemon has seen to serve.
    serving: watch::Sender<Option<Identity>>,
    outlet: Option<Outlet>,
}

#[derive(Debug)]
struct Outlet {
    socket: SecretBytes,
    uid: Option<u32>,
    recorder: Recorder<&'static str>,
}

#[derive(Serialize, Deserialize)]
struct OnRecord {
    socket: SecretBytes,
    /// Whose it is, unless it is the default user's: the name alone may be another user's by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    seen: Seen,
}

impl Memory {
    /// The memory of the server on `socket`, which is this user's or the default one's, beside `record`. What cannot be read is renamed
    /// and logged.
    pub async fn on_record(record: &Record, socket: &Path, user: Option<&AgentUser>) -> Self {
        let record = record.beside(&user.map_or_else(|| FOLDER.to_owned(), |user| format!("{FOLDER}-{}", user.name)));
        let socket = SecretBytes::from(socket.as_os_str().as_bytes().to_vec());
        let (to_read, uid) = (record.clone(), user.map(|user| user.uid));
        let read = blocking::run(move || to_read.read(|_: &OnRecord| KEY)).await;
        let (mut servers, problems) = read.map(|reading| (reading.agents, reading.problems)).unwrap_or_default();
        for problem in problems {
            tracing::warn!("{problem}");
        }
        let known = servers.remove(KEY).filter(|known| (&known.socket, known.uid) == (&socket, uid));
        let recorder = Recorder::new(record, |report| {
            if let Some(error) = report.error {
                // The next daemon finds the server by its socket.
                tracing::debug!("{error}");
            }
        });
        Self {
            seen: Mutex::new(known.map(|known| known.seen)),
            outlet: Some(Outlet { socket, uid, recorder }),
            ..Self::default()
        }
    }

    /// The process that was last seen.
    pub fn seen(&self) -> Option<Seen> {
        *self.lock()
    }

    /// Follows which process serves, from the first that this daemon sees.
    pub fn serving(&self) -> watch::Receiver<Option<Identity>> {
        self.serving.subscribe()
    }

    /// Records that this process serves now.
    pub fn note(&self, seen: Seen) {
        self.serving.send_if_modified(|serving| serving.replace(seen.process) != Some(seen.process));
        let before = self.lock().replace(seen);
        if let Some(Outlet { socket, uid, recorder }) = self.outlet.as_ref().filter(|_| before != Some(seen)) {
            recorder.put(&KEY, Some(&OnRecord { socket: socket.clone(), uid: *uid, seen }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sys::process::Process;

    #[tokio::test]
    async fn the_next_daemon_knows_the_server_of_its_socket() {
        let state = tempfile::tempdir().unwrap();
        let record = Record::new(state.path()).unwrap();
        let own = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let seen = Seen { process: own.identity(), program: (1, 2) };
        let memory = Memory::on_record(&record, Path::new("/run/a"), None).await;
        assert_eq!(memory.seen(), None);
        memory.note(seen);
        memory.outlet.unwrap().recorder.finish(Duration::from_secs(10)).await;
        assert_eq!(Memory::on_record(&record, Path::new("/run/a"), None).await.seen(), Some(seen));
        assert_eq!(Memory::on_record(&record, Path::new("/run/b"), None).await.seen(), None);
        let user = |uid| AgentUser { name: "agent2".parse().unwrap(), uid };
        let of_user = async |uid| Memory::on_record(&record, Path::new("/run/a"), Some(&user(uid))).await;
        let memory = of_user(7).await;
        assert_eq!(memory.seen(), None);
        memory.note(seen);
        memory.outlet.unwrap().recorder.finish(Duration::from_secs(10)).await;
        assert_eq!(of_user(7).await.seen(), Some(seen));
        assert_eq!(of_user(8).await.seen(), None, "another user of that name");
    }
}
