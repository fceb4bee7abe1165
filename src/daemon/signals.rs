//! Handles the daemon's signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::inputs::Nudge;
use crate::settings::OnTerminate;
use crate::supervisor::Event;
use crate::sys::systemd::{self, Job, Notifier, Systemd};

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// Handles signals, forever.
pub(super) async fn obey(
    mut signals: Signals,
    on_terminate: OnTerminate,
    notifier: Notifier,
    systemd: Systemd,
    events: mpsc::UnboundedSender<Event>,
    nudges: mpsc::Sender<Nudge>,
) {
    loop {
        // Every arm waits for something that recurs.
        let (signal, event) = tokio::select! {
            _ = signals.terminate.recv() => {
                notifier.stopping();
                ("SIGTERM", if detaches(on_terminate, &systemd).await { Event::Detach } else { Event::Stop })
            }
            _ = signals.interrupt.recv() => {
                notifier.stopping();
                ("SIGINT", Event::Stop)
            }
            _ = signals.hang_up.recv() => {
                tracing::info!("SIGHUP: reading everything again");
                notifier.reloading();
                let nudges = nudges.clone();
                // Sent in a task, so that it is neither lost among changes nor delays the next signal.
                tokio::spawn(async move { nudges.send(Nudge::Now).await });
                continue;
            }
        };
        let is_detach = matches!(event, Event::Detach);
        let what = if is_detach { "leaving all agents to the next daemon" } else { "stopping all agents" };
        tracing::info!("{signal}: {what}");
        // Fails only when the daemon is ending.
        drop(events.send(event));
    }
}

/// Whether to leave the agents to the next daemon.
async fn detaches(wish: OnTerminate, systemd: &Systemd) -> bool {
    match wish {
        OnTerminate::Stop => false,
        OnTerminate::Detach => true,
        OnTerminate::Auto if !systemd::is_manager() => false,
        OnTerminate::Auto => match systemd.job().await {
            Ok(job) => job == Some(Job::Restart),
            Err(error) => {
                // Lost work cannot be restored; agents that continue can still be stopped.
                tracing::error!("{error}; taking this for a restart");
                true
            }
        },
    }
}
