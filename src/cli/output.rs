//! What the verbs that print what the API tells have in common: data to stdout, talk to stderr, and how that ended.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::client::Error;
use crate::sys::fd::reader_is_gone;
use crate::text::printable::escaped;

/// How long a daemon that has gone away is given before the next is looked for.
pub(super) const BETWEEN_DAEMONS: Duration = Duration::from_millis(500);

/// It cannot be told.
const UNKNOWN: u8 = 4;

/// Why not all was printed.
pub(super) enum Failure {
    /// The daemon did not tell it.
    Ask(Error),
    /// It cannot be written.
    Print(io::Error),
    /// What the daemon told is not understood.
    Malformed(serde_json::Error),
}

/// Prints, and says what there is to say of how that went.
pub(super) fn run(print: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("failed to start an event loop: {error}")),
    };
    // Whoever follows something that says nothing more would not notice at the next write that its reader is gone.
    let ended = runtime.block_on(async {
        tokio::select! {
            biased;
            ended = print => ended,
            () = reader_is_gone(io::stdout()) => Err(Failure::Print(io::ErrorKind::BrokenPipe.into())),
        }
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read it has had enough.
        Err(Failure::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Ask(error)) => complain(&format!("failed to {error}")),
        Err(Failure::Print(error)) => complain(&format!("failed to print: {error}")),
        Err(Failure::Malformed(error)) => complain(&format!("failed to understand what agentd tells: {error}")),
    }
}

fn complain(what: &str) -> ExitCode {
    say(what);
    ExitCode::from(UNKNOWN)
}

/// Tells the person, whatever becomes of the data.
pub(super) fn say(what: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "agentd: {}", escaped(what));
}
