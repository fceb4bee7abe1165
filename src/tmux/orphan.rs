//! The server of a user who was deleted: no process can become that user any more, so no client reaches the server.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::unistd::Uid;
use tokio::sync::watch;

use super::Tmux;
use crate::deputy::Seen;
use crate::sys::blocking;
use crate::sys::presence::{Inquiry, Presence};

/// The user of a server that is not the default one.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    name: String,
    uid: Uid,
    inquiry: Inquiry,
}

impl Tmux {
    /// Adds what tells whether the user is still there.
    #[must_use]
    pub fn owned_by(self, name: &str, uid: Uid, inquiry: Inquiry) -> Self {
        Self { owner: Some(Owner { name: name.to_owned(), uid, inquiry }), ..self }
    }

    /// Whether the user database says that there is no such user any more. That it cannot be asked says nothing.
    pub async fn is_orphaned(&self) -> bool {
        match &self.owner {
            Some(owner) => owner.inquiry.ask().await == Presence::Gone,
            None => false,
        }
    }

    /// Kills the server if the process that was seen to serve still runs, as that user.
    ///
    /// What it runs is hung up. The caller makes sure that no agent that is to go on is among that.
    pub async fn end_orphan(&self) -> io::Result<()> {
        let Some(Owner { name, uid, .. }) = &self.owner else { return Ok(()) };
        let Some(seen) = self.memory.seen() else {
            let socket = self.socket.display();
            tracing::warn!("user {name} was deleted; if a tmux server still runs on {socket}, end it");
            return Ok(());
        };
        let uid = *uid;
        if blocking::run(move || kill(seen, uid)).await?? {
            let pid = seen.process.pid();
            tracing::info!("ended the tmux server of user {name}, who was deleted (process {pid})");
        }
        Ok(())
    }

    /// Waits until the user is back, as long as the user database says otherwise. It is asked again at each of the `rounds`; returns
    /// at once when they have ended.
    pub(crate) async fn until_owner_is_back(&self, rounds: &mut watch::Receiver<()>) {
        let Some(Owner { name, inquiry, .. }) = &self.owner else { return };
        if inquiry.ask().await != Presence::Gone {
            return;
        }
        tracing::debug!("user {name} was deleted; nothing is done as this user until it is back");
        while rounds.changed().await.is_ok() && inquiry.ask().await != Presence::There {}
    }
}

/// Kills the process that was seen, if it still is what it was, and this user's. Returns whether it was.
fn kill(seen: Seen, owner: Uid) -> io::Result<bool> {
    let Some(process) = seen.process.open()? else { return Ok(false) };
    let is_same = match fs::metadata(format!("/proc/{}/exe", process.pid())) {
        Ok(program) => (program.dev(), program.ino()) == seen.program,
        Err(_) if !process.lives()? => return Ok(false),
        Err(error) => return Err(error),
    };
    // Checked last, so that the program was this process's.
    if is_same && process.runs_as(owner)? {
        process.kill()?;
        return Ok(true);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::sys::process::Process;

    #[test]
    fn only_the_very_process_that_was_seen_is_killed() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process::open(child.id().cast_signed()).unwrap();
        // Once it runs its own program.
        let own = fs::metadata("/proc/self/exe").unwrap().ino();
        let exe = format!("/proc/{}/exe", process.pid());
        while fs::metadata(&exe).unwrap().ino() == own {
            std::thread::yield_now();
        }
        let program = fs::metadata(&exe).unwrap();
        let seen = Seen { process: process.identity(), program: (program.dev(), program.ino()) };
        let other = Uid::from_raw(Uid::effective().as_raw() + 1);
        assert!(!kill(seen, other).unwrap(), "it is another user's");
        assert!(!kill(Seen { program: (0, 0), ..seen }, Uid::effective()).unwrap(), "it runs another program");
        assert!(process.lives().unwrap());
        assert!(kill(seen, Uid::effective()).unwrap());
        child.wait().unwrap();
        assert!(!kill(seen, Uid::effective()).unwrap(), "it has ended");
    }
}
