//! What all commands share: the event loop, data to stdout, messages to stderr, and the exit status.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::table::wrapped;
use crate::client::Error;
use crate::sys::fd::reader_is_gone;
use crate::sys::terminal::Terminal;
use crate::text::printable::escaped;

/// How long to wait between looks for the next daemon after one has gone away.
pub(super) const BETWEEN_DAEMONS: Duration = Duration::from_millis(500);

/// The exit status when the answer is not known.
const UNKNOWN: u8 = 4;

/// Why a command could not print everything.
pub(super) enum Failure {
    /// The daemon did not answer.
    Ask(Error),
    /// Standard output cannot be written.
    Print(io::Error),
    /// The daemon's answer is not understood.
    Malformed(serde_json::Error),
    /// Something else, in a sentence.
    Said(String),
    /// It was said already; this is the exit status.
    Told(u8),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask(error) => error.fmt(formatter),
            Self::Print(error) => write!(formatter, "failed to print: {error}"),
            Self::Malformed(error) => write!(formatter, "failed to understand the daemon: {error}"),
            Self::Said(what) => formatter.write_str(what),
            Self::Told(_) => Ok(()),
        }
    }
}

/// Runs a command that prints what the API answers or streams, and says on stderr why it could not.
pub(super) fn run(print: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    // While a stream is silent, nothing is written, and so no write fails when the reader is gone.
    let ended = block_on(UNKNOWN, async {
        tokio::select! {
            biased;
            ended = print => ended,
            () = reader_is_gone(io::stdout()) => Err(Failure::Print(io::ErrorKind::BrokenPipe.into())),
        }
    });
    let ended = match ended {
        Ok(ended) => ended,
        Err(code) => return code,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough.
        Err(Failure::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Told(code)) => ExitCode::from(code),
        Err(failure) => complain(UNKNOWN, &failure.to_string()),
    }
}

/// Runs a command's future to its end on an event loop of its own. If the loop cannot be created, says why and returns the exit status.
///
/// A thread that still waits for a keyboard or a file system does not delay the end.
pub(super) fn block_on<T>(failure: u8, command: impl Future<Output = T>) -> Result<T, ExitCode> {
    let runtime =
        event_loop().map_err(|error| complain(failure, &format!("failed to start an event loop: {error}")))?;
    let end = runtime.block_on(command);
    runtime.shutdown_background();
    Ok(end)
}

/// An event loop on this thread.
pub(super) fn event_loop() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Prints data, and returns `status` if all of it was printed, else `failure`. A reader that has seen enough is not an error.
pub fn print(data: &[u8], status: u8, failure: u8) -> ExitCode {
    match io::stdout().write_all(data).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(failure, &format!("failed to print: {error}"))
        }
        _ => ExitCode::from(status),
    }
}

/// Says what is wrong, and returns this exit status.
pub(super) fn complain(status: u8, what: &str) -> ExitCode {
    say(what);
    ExitCode::from(status)
}

/// Writes a message of any length: if a terminal shows it, its lines end between words.
pub(super) fn say_in_lines(what: &str) {
    let what = escaped(&format!("agentd: {what}"));
    let terminal = Terminal::here();
    let is_shown = terminal.width.is_some() && io::stderr().is_terminal();
    let lines = if is_shown { wrapped(&what, terminal.text_width()) } else { vec![what] };
    // If standard error is closed, the message is lost.
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}

/// Writes a message for people to standard error.
pub(super) fn say(what: &str) {
    // If standard error is closed, the message is lost.
    let _ = writeln!(io::stderr(), "agentd: {}", escaped(what));
}
