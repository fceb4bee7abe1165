//! The kind of the operator's terminal, and a substitute that tmux knows.
//!
//! The tmux client looks the name up as the agent user, on this machine. It does not find a description in the operator's home, or one
//! that came with a terminal program on another machine. So this module first tries the client on a hidden terminal. If the client
//! does not know the name, it gets the name of a terminal that nearly all of today's terminals are compatible with.

use std::ffi::OsStr;
use std::io;
use std::process::Command;
use std::time::Duration;

use tokio::time::{sleep, timeout};

/// Names that can stand for most terminals, the best first. Every machine has descriptions of the last ones.
const SUBSTITUTES: [&str; 4] = ["xterm-256color", "xterm", "screen", "vt100"];

/// How long the client may take to say whether it knows the name.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The kind of the operator's terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A terminal with this name.
    Named(String),
    /// A terminal without a usable name.
    Unnamed,
    /// A terminal whose name says that it has no capabilities.
    Dumb(String),
}

impl Kind {
    /// The kind that a value of `TERM` names.
    pub fn named(value: Option<&OsStr>) -> Self {
        const LONGEST: usize = 64;
        let is_sane = |name: &&str| {
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
            let is_first = |c: char| c.is_ascii_alphanumeric();
            name.len() <= LONGEST && name.bytes().all(is_allowed) && name.starts_with(is_first)
        };
        match value.and_then(OsStr::to_str).filter(is_sane) {
            Some(name @ ("dumb" | "unknown")) => Self::Dumb(name.to_owned()),
            Some(name) => Self::Named(name.to_owned()),
            None => Self::Unnamed,
        }
    }

    /// The first name that the tmux client knows: the terminal's own, else a substitute.
    ///
    /// If the client knows none of them, this is the first name, and the client will say why it fails. `client` gives the command that
    /// tries a name.
    pub async fn known(&self, client: impl Fn(&str) -> Command) -> String {
        let mut names: Vec<&str> = SUBSTITUTES.into();
        if let Self::Named(name) = self {
            names.retain(|known| known != name);
            names.insert(0, name);
        }
        for name in &names {
            // If the probe fails, the client that attaches decides.
            if succeeds(client(name)).await.unwrap_or(true) {
                return (*name).to_owned();
            }
        }
        names[0].to_owned()
    }

    /// The message for the operator if the name that was chosen is not the terminal's own.
    pub fn instead_of(&self, name: &str) -> Option<String> {
        match self {
            Self::Named(own) if own == name => None,
            Self::Named(own) => {
                Some(format!("this machine does not know a terminal named {own}; agentd treats yours as {name}"))
            }
            Self::Unnamed | Self::Dumb(_) => {
                Some(format!("TERM does not name your terminal; agentd treats it as {name}"))
            }
        }
    }
}

/// Whether a command succeeds on a terminal of its own. Fails if the command does not end in time.
async fn succeeds(command: Command) -> io::Result<bool> {
    const PAUSE: Duration = Duration::from_millis(2);
    // Held open until the end: the terminal exists only as long as this end of it.
    let (_screen, pts) = pty_process::blocking::open().map_err(io::Error::other)?;
    let mut child = pty_process::blocking::Command::from(command).spawn(pts).map_err(io::Error::other)?;
    let end = async {
        loop {
            match child.try_wait() {
                Ok(None) => sleep(PAUSE).await,
                result => return result,
            }
        }
    };
    if let Ok(status) = timeout(PROBE_TIMEOUT, end).await {
        return Ok(status?.is_some_and(|status| status.success()));
    }
    // Not waited for: a process that hangs in the kernel does not even die.
    child.kill()?;
    Err(io::ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(value: &str) -> Kind {
        Kind::named(Some(OsStr::new(value)))
    }

    /// Stands for a client that knows these names.
    fn knowing(names: &'static str) -> impl Fn(&str) -> Command {
        move |name| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "test -t 0 && case $1 in *\" $0 \"*) ;; *) exit 1 ;; esac", name, names]);
            command
        }
    }

    #[test]
    fn terminal_with_an_invalid_name_is_unnamed() {
        for name in ["", "../x", "/etc/passwd", ".x", "x y", "x\u{1b}[2J", &"x".repeat(65)] {
            assert_eq!(kind(name), Kind::Unnamed, "{name}");
        }
        assert_eq!(Kind::named(None), Kind::Unnamed);
        assert_eq!(kind("xterm+256color_1.x"), Kind::Named("xterm+256color_1.x".to_owned()));
        assert_eq!(kind("dumb"), Kind::Dumb("dumb".to_owned()));
    }

    #[tokio::test]
    async fn unknown_terminal_gets_a_known_name() {
        let all = " xterm-256color xterm screen vt100 foot ";
        assert_eq!(kind("foot").known(knowing(all)).await, "foot");
        assert_eq!(kind("xterm-ghostty").known(knowing(all)).await, "xterm-256color");
        assert_eq!(kind("xterm-kitty").known(knowing(" vt100 screen ")).await, "screen");
        assert_eq!(Kind::Unnamed.known(knowing(all)).await, "xterm-256color");
        assert_eq!(kind("alacritty").known(knowing("")).await, "alacritty");
    }

    #[test]
    fn operator_gets_a_message_only_about_another_name() {
        assert_eq!(kind("foot").instead_of("foot"), None);
        assert!(kind("foot").instead_of("xterm").is_some_and(|said| said.contains("named foot")));
        assert!(Kind::Unnamed.instead_of("xterm").is_some());
    }
}
