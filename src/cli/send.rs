//! `agentd send`: text or keys for an agent, through the daemon's terminal socket.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::io::AsyncWriteExt;

use super::Whereabouts;
use super::complete;
use super::output;
use super::target::Target;
use super::terminal::{self as connection, Connection};
use crate::settings::Surroundings;
use crate::text::printable::escaped_lines;
use crate::wire::terminal::{
    self, End, Kind, MAX_KEYS, MAX_TEXT, Malformed, Request, Unsendable, Why, is_key, sendable,
};

/// The exit status when it was refused or failed.
const FAILED: u8 = 1;
/// The exit status when the agent does not run.
const NOT_RUNNING: u8 = 3;
/// The exit status when the agent is not known, agentd does not answer, or the operator may not send.
const UNKNOWN: u8 = 4;
/// The exit status when the screen did not change.
const UNCONFIRMED: u8 = 6;

/// What to send, and to which agent.
#[derive(Clone, Debug, clap::Args)]
#[allow(clippy::doc_markdown, reason = "shown to people as it stands")]
pub struct Arguments {
    /// The agent; the case of its name does not matter
    #[arg(add = complete::names())]
    pub name: String,
    /// The text: up to 128 KiB of UTF-8 with any number of lines; - reads it from standard input
    #[arg(required_unless_present = "keys", conflicts_with = "keys")]
    pub text: Option<String>,
    /// Keys instead of a text, separated by spaces, by tmux's names: Enter, Escape, Up, C-c, M-x, F1, or a single character
    #[arg(long, value_name = "KEYS", value_parser = Keys::read)]
    pub keys: Option<Keys>,
    /// Do not press Enter after the text
    #[arg(long, conflicts_with = "keys")]
    pub no_enter: bool,
    /// The daemon's terminal socket [default: that of the running daemon, else as for the daemon]
    #[arg(long, value_name = "PATH", value_parser = super::path())]
    pub terminal_socket: Option<PathBuf>,
    /// The jcard, which identifies the daemon if none answers [default: as for the daemon]
    #[arg(long, value_name = "PATH", value_parser = super::path())]
    pub config: Option<PathBuf>,
}

/// The names of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(Vec<String>);

impl Keys {
    fn read(text: &str) -> Result<Self, String> {
        let keys: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        if keys.iter().any(|word| !is_key(word)) {
            let names = "Enter, Escape, Tab, Up, F1, C-c, M-x, or single characters";
            return Err(format!("write names of keys such as {names}, separated by spaces"));
        }
        if !(1..=MAX_KEYS).contains(&keys.len()) {
            return Err(format!("write 1 to {MAX_KEYS} names of keys, separated by spaces"));
        }
        Ok(Self(keys))
    }
}

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Text(#[from] Unsendable),
    #[error("failed to read standard input: {0}")]
    Input(io::Error),
}

/// Sends it, and says on standard error what is wrong.
pub fn run(all: &super::Arguments, arguments: &Arguments, here: &Surroundings) -> ExitCode {
    let name = &arguments.name;
    let what = match what(arguments) {
        Ok(what) => what,
        Err(error) => return complain(FAILED, &format!("failed to send to {name}: {error}")),
    };
    let whereabouts = Whereabouts { terminal_socket: arguments.terminal_socket.clone(), ..Whereabouts::default() };
    let socket = Target::find(all, &whereabouts, here).settings.terminal_socket;
    let sent = match output::block_on(FAILED, send(&socket, arguments, what)) {
        Ok(sent) => sent,
        Err(code) => return code,
    };
    match sent {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => complain(
            UNCONFIRMED,
            &format!("sent to {name}, but its screen did not change; agentd watch {name} shows it"),
        ),
        Err(error) => {
            let hint = if error.why() == Some(Why::NotRunning) {
                format!("; agentd explain {name} says more")
            } else {
                String::new()
            };
            complain(status(&error), &format!("failed to send to {name}: {error}{hint}"))
        }
    }
}

/// Says what is wrong, in one or several lines.
fn complain(status: u8, what: &str) -> ExitCode {
    // If standard error is closed, the message is lost.
    let _ = writeln!(io::stderr(), "agentd: {}", escaped_lines(what));
    ExitCode::from(status)
}

fn status(error: &connection::Error) -> u8 {
    match error.why() {
        Some(Why::NotRunning) => NOT_RUNNING,
        _ if error.is_unknown() => UNKNOWN,
        _ => FAILED,
    }
}

/// What is sent.
#[derive(Debug, PartialEq, Eq)]
enum What {
    Text(String),
    Keys(Vec<String>),
}

/// Reads what is to be sent, and checks it. The daemon checks it again.
fn what(arguments: &Arguments) -> Result<What, Error> {
    match (&arguments.keys, arguments.text.as_deref()) {
        (Some(Keys(keys)), _) => Ok(What::Keys(keys.clone())),
        (None, Some("-")) => {
            let (mut bytes, most) = (Vec::new(), u64::try_from(4 * MAX_TEXT).unwrap_or(u64::MAX));
            io::stdin().take(most).read_to_end(&mut bytes).map_err(Error::Input)?;
            text(&bytes).map(What::Text)
        }
        (None, argument) => text(argument.unwrap_or_default().as_bytes()).map(What::Text),
    }
}

/// The text without the newline at its end, which Enter stands for, and with the line ends of Unix.
fn text(bytes: &[u8]) -> Result<String, Error> {
    // A text that is not UTF-8 is refused as it is.
    let text = std::str::from_utf8(bytes).map_err(|_| Unsendable::Encoding)?.replace("\r\n", "\n");
    Ok(sendable(text.strip_suffix('\n').unwrap_or(&text).as_bytes())?.to_owned())
}

/// Sends it. Returns whether the agent's screen changed.
async fn send(socket: &Path, arguments: &Arguments, what: What) -> Result<bool, connection::Error> {
    let (text, keys) = match what {
        What::Text(text) => (text, Vec::new()),
        What::Keys(keys) => (String::new(), keys),
    };
    let request = terminal::Send { agent: arguments.name.clone(), keys, enter: !arguments.no_enter };
    let mut connection = Connection::open(socket, &Request::Send(request)).await?;
    if !text.is_empty() {
        for frame in terminal::frames(text.as_bytes()).chain([terminal::frame(Kind::End, b"")]) {
            // A daemon that refuses the request does not read the text.
            if connection.writer.write_all(&frame).await.is_err() {
                break;
            }
        }
    }
    match connection.answer().await? {
        (Kind::End, body) => match connection::end(&body)? {
            End::Sent { confirmed } => Ok(confirmed),
            _ => Err(Malformed::Body.into()),
        },
        _ => Err(Malformed::Body.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_without_its_newline_and_has_unix_lines() {
        assert_eq!(text(b"one\r\ntwo\r\n").unwrap(), "one\ntwo");
        assert_eq!(text(b"one\n\n").unwrap(), "one\n");
        assert_eq!(text("- grün".as_bytes()).unwrap(), "- grün");
        assert!(text(b"a\rb").is_err() && text(b"\n").is_err() && text(b"\xff").is_err() && text(b"\x1b[A").is_err());
    }

    #[test]
    fn keys_are_names_separated_by_spaces() {
        let keys = |keys: &str| Keys::read(keys).map(|Keys(keys)| keys);
        assert_eq!(keys(" C-c  Enter "), Ok(vec!["C-c".to_owned(), "Enter".to_owned()]));
        assert_eq!(keys("-"), Ok(vec!["-".to_owned()]));
        for wrong in ["", "Return;", "enter", "C-c,Enter", &"y ".repeat(MAX_KEYS + 1)] {
            assert!(keys(wrong).is_err(), "{wrong:?}");
        }
    }
}
