//! What standard output is: a terminal or not, how wide, and whether it takes colors.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};

/// The width of a terminal that does not tell its own, and of text that is not read on one.
pub const USUAL_WIDTH: usize = 80;

/// Too narrow for anything: below that, lines are left to the terminal to break.
const LEAST_WIDTH: usize = 40;

/// A terminal, if standard output is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// In columns; `None` where there is no terminal.
    pub width: Option<usize>,
    /// Whether colours are welcome.
    pub colour: bool,
    /// Whether it can do no more than print one line below the other.
    pub is_dumb: bool,
}

impl Terminal {
    /// What this process's standard output is.
    pub fn here() -> Self {
        let is_there = io::stdout().is_terminal();
        let width = is_there.then(|| {
            let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
            size.map(|size| usize::from(size.ws_col)).filter(|&columns| columns > 0).unwrap_or(USUAL_WIDTH)
        });
        let is_dumb = is_dumb(std::env::var_os("TERM").as_deref());
        let colour = takes_colour(is_there, is_dumb, std::env::var_os("NO_COLOR").as_deref());
        Self { width, colour, is_dumb }
    }

    /// Whether colours are welcome on standard error.
    pub fn colour_on_stderr() -> bool {
        let is_dumb = is_dumb(std::env::var_os("TERM").as_deref());
        takes_colour(io::stderr().is_terminal(), is_dumb, std::env::var_os("NO_COLOR").as_deref())
    }

    /// How wide running text is to be.
    pub fn text_width(self) -> usize {
        self.width.unwrap_or(USUAL_WIDTH).max(LEAST_WIDTH)
    }
}

/// Emacs' shells and some machines for builds name themselves so. Of one without a name nothing is known.
fn is_dumb(name: Option<&OsStr>) -> bool {
    name.is_none_or(|name| name.is_empty() || name == "dumb")
}

fn takes_colour(is_terminal: bool, is_dumb: bool, no_color: Option<&OsStr>) -> bool {
    // https://no-color.org: set and not empty.
    is_terminal && !is_dumb && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_that_have_it_and_who_wants_it() {
        let takes = |is_terminal, name: Option<&str>, no_color: Option<&str>| {
            takes_colour(is_terminal, is_dumb(name.map(OsStr::new)), no_color.map(OsStr::new))
        };
        assert!(takes(true, Some("xterm"), None) && takes(true, Some("linux"), Some("")));
        assert!(!takes(false, Some("xterm"), None) && !takes(true, Some("xterm"), Some("1")));
        assert!(!takes(true, Some("dumb"), None) && !takes(true, Some(""), None) && !takes(true, None, None));
    }
}
