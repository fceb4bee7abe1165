//! The launcher of an attempt, as the daemon holds it: its process, its connection, and what it was told.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};

use super::{END_TIMEOUT, RECORD_TIMEOUT, REPORT_TIMEOUT};
use crate::launch::protocol::ToLauncher;
use crate::logs::attempt::Files;
use crate::supervisor::containment::ProcessTree;
use crate::sys::fd::Readable;
use crate::sys::frame;
use crate::sys::process::{Identity, Process};

/// What the launcher has said of its harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reported {
    Nothing,
    Started,
    /// That it ended, or that it could not be started.
    End,
}

/// One that is followed.
pub(super) struct Launcher {
    pub(super) process: Arc<Process>,
    pub(super) tree: Arc<dyn ProcessTree>,
    pub(super) end: Readable,
    pub(super) connection: Option<(frame::Reader<OwnedReadHalf>, OwnedWriteHalf)>,
    /// Whether it can go on writing in other files.
    pub(super) can_move: bool,
    /// Whether it can replace files with secrets.
    pub(super) can_renew: bool,
    /// How much it tells of what its harness does.
    pub(super) talk: Talk,
    /// The same of what it tells of the work of its harness.
    pub(super) account: Talk,
    pub(super) heard: Reported,
    /// Its harness, as far as that is known to be one.
    pub(super) harness: Option<Identity>,
    pub(super) is_interrupted: bool,
    /// When patience with it ends. What it says and does can put that off.
    pub(super) limit: Option<Instant>,
    /// When it is killed, since it was to be. Nothing puts that off.
    pub(super) kill_deadline: Option<Instant>,
    /// When it is let go at the latest.
    pub(super) note_by: Option<Instant>,
}

/// How much a launcher tells of late. One that keeps to the rules says little.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Talk {
    begun: Option<Instant>,
    count: u32,
}

impl Talk {
    /// Whether more may be heard, of which there may be so much in five seconds.
    pub(super) fn pass(&mut self, most: u32, now: Instant) -> bool {
        const PERIOD: Duration = Duration::from_secs(5);
        if self.begun.is_none_or(|begun| now.saturating_duration_since(begun) >= PERIOD) {
            *self = Self { begun: Some(now), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= most
    }
}

impl Launcher {
    pub(super) async fn say(&mut self, message: &ToLauncher) {
        self.order(message, None).await;
    }

    /// Says it, and passes the files with it.
    pub(super) async fn order(&mut self, message: &ToLauncher, files: Option<&Files>) {
        let Some((_, writer)) = &mut self.connection else { return };
        let said = async {
            match files {
                Some(Files { text, index, .. }) => {
                    frame::write_with(writer, message, &[text.as_fd(), index.as_fd()]).await
                }
                None => frame::write(writer, message).await,
            }
        };
        if !matches!(timeout(SEND_TIMEOUT, said).await, Ok(Ok(()))) {
            // A frame cut short spoils the connection; one that lives makes another.
            self.lose_connection(REPORT_TIMEOUT);
        }
    }

    pub(super) fn lose_connection(&mut self, patience: Duration) {
        self.connection = None;
        let limit = Instant::now() + patience;
        self.limit = Some(self.limit.map_or(limit, |before| before.min(limit)));
    }

    pub(super) fn patience(&self) -> Option<Instant> {
        self.limit.into_iter().chain(self.kill_deadline).min()
    }

    pub(super) async fn interrupt(&mut self, how: &ToLauncher) {
        self.is_interrupted = true;
        self.say(how).await;
    }

    /// Nothing more is to be heard of its harness.
    pub(super) fn has_ended(&mut self) {
        self.heard = Reported::End;
        self.limit = None;
        self.note_by = Some(Instant::now() + RECORD_TIMEOUT);
    }

    pub(super) async fn let_go(&mut self) {
        if self.note_by.take().is_some() {
            self.say(&ToLauncher::Noted).await;
        }
    }

    pub(super) async fn kill(&mut self) {
        self.tree.kill().await;
        self.kill_deadline.get_or_insert(Instant::now() + END_TIMEOUT);
    }
}

/// How long a launcher may take to take in what it is told.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
