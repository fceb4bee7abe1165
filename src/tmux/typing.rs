//! Types into an agent's pane: pastes text, and presses keys.
//!
//! Text reaches tmux over standard input, never as an argument: tmux would expand it, or take a `;` in it for the end of a command.
//! Only the agent's own pane is a target, and only while its process lives, so nothing reaches a shell beside it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::client::Arguments;
use super::{Error, Tmux, parse};
use crate::agent::name::Key;
use crate::deputy::Input;

/// A pane whose process lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typist {
    /// `%` and a number.
    pub(super) pane: String,
    /// Whether an operator looks at its history, or is in another mode of tmux.
    pub(super) is_in_mode: bool,
    /// Whether the pane takes input; an operator can disable it.
    pub takes_input: bool,
    /// Whether its program has asked for bracketed paste; `None` if this tmux does not say.
    pub is_bracketed: Option<bool>,
}

/// How a text is pasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paste {
    /// As a paste: bracketed if the program has asked for that.
    Text,
    /// As a key.
    Key,
}

impl Tmux {
    /// The agent's pane, if its process lives.
    pub async fn typist(&self, owner: &Key) -> Result<Option<Typist>, Error> {
        let is_marked = format!("#{{==:#{{@agentd-agent}},{owner}}}");
        let mut listing = Arguments::default();
        listing.command(&["list-panes", "-a", "-f", &is_marked, "-F", parse::TYPIST_FORMAT]);
        match self.client("find a pane", listing).await {
            Err(Error::NoServer { .. }) => Ok(None),
            // Without a session, there is no target.
            Err(Error::Refused { message, .. }) if message.starts_with("no current target") => Ok(None),
            output => Ok(parse::typist(&output?.stdout)),
        }
    }

    /// What the pane shows, to be compared with what it shows later.
    pub async fn glance(&self, typist: &Typist) -> Result<String, Error> {
        const PLACE: &str = "#{cursor_x},#{cursor_y},#{history_size},#{cursor_flag}";
        let mut arguments = Arguments::default();
        arguments.command(&["display-message", "-p", "-t", &typist.pane, PLACE]);
        arguments.command(&["capture-pane", "-p", "-e", "-t", &typist.pane]);
        Ok(self.client("look at a pane", arguments).await?.stdout)
    }

    /// Pastes this text. Goes to the program even while somebody looks at the pane's history.
    pub async fn paste(&self, typist: &Typist, text: &str, paste: Paste) -> Result<(), Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let buffer = format!("agentd-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut arguments = Arguments::default();
        arguments.command(&["load-buffer", "-b", &buffer, "-"]);
        // Without -r, a newline is sent as what the Return key sends, which is what terminals do with pasted text.
        let how: &[&str] = match paste {
            Paste::Text => &["paste-buffer", "-d", "-p"],
            Paste::Key => &["paste-buffer", "-d", "-r"],
        };
        arguments.command(&[how, &["-b", &buffer, "-t", &typist.pane]].concat());
        let pasted = self.once("paste a text", arguments, Input(text.to_owned())).await;
        if pasted.is_err() {
            // The text must not stay behind. A server that is gone has no buffer.
            let mut arguments = Arguments::default();
            arguments.command(&["delete-buffer", "-b", &buffer]);
            let _ = self.once("delete a buffer", arguments, Input::default()).await;
        }
        pasted
    }

    /// Presses these keys. Ends copy mode first: otherwise the keys would move in the pane's history.
    pub async fn press(&self, typist: &Typist, keys: &[String]) -> Result<(), Error> {
        let mut arguments = Arguments::default();
        if typist.is_in_mode {
            arguments.command(&["copy-mode", "-q", "-t", &typist.pane]);
        }
        arguments.command_with(&["send-keys", "-t", &typist.pane, "--"], keys);
        self.once("press keys", arguments, Input::default()).await
    }
}
