//! Standard output: whether it is a terminal, how wide it is, and whether it shows colors.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};

/// The width of a terminal that does not report its own, and of text that is not read on one.
pub const USUAL_WIDTH: usize = 80;

/// Below this width, lines are left to the terminal to wrap.
const LEAST_WIDTH: usize = 40;

/// The terminal that standard output is, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// The width in columns; `None` if there is no terminal.
    pub width: Option<usize>,
    /// Whether to use colors.
    pub color: bool,
    /// Whether it can only print one line below the other.
    pub is_dumb: bool,
}

impl Terminal {
    /// Examines this process's standard output.
    pub fn here() -> Self {
        let is_there = io::stdout().is_terminal();
        let width = is_there.then(|| {
            let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
            size.map(|size| usize::from(size.ws_col)).filter(|&columns| columns > 0).unwrap_or(USUAL_WIDTH)
        });
        let is_dumb = is_dumb(std::env::var_os("TERM").as_deref());
        let color = takes_color(is_there, is_dumb, std::env::var_os("NO_COLOR").as_deref());
        Self { width, color, is_dumb }
    }

    /// Whether to use colors on standard error.
    pub fn color_on_stderr() -> bool {
        let is_dumb = is_dumb(std::env::var_os("TERM").as_deref());
        takes_color(io::stderr().is_terminal(), is_dumb, std::env::var_os("NO_COLOR").as_deref())
    }

    /// How wide running text should be.
    pub fn text_width(self) -> usize {
        self.width.unwrap_or(USUAL_WIDTH).max(LEAST_WIDTH)
    }
}

/// The name that Emacs' shells and some build machines use. Nothing is known about a terminal without a name.
fn is_dumb(name: Option<&OsStr>) -> bool {
    name.is_none_or(|name| name.is_empty() || name == "dumb")
}

fn takes_color(is_terminal: bool, is_dumb: bool, no_color: Option<&OsStr>) -> bool {
    // https://no-color.org: set and not empty.
    is_terminal && !is_dumb && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn color_is_used_on_capable_terminals_unless_disabled() {
        let takes = |is_terminal, name: Option<&str>, no_color: Option<&str>| {
            takes_color(is_terminal, is_dumb(name.map(OsStr::new)), no_color.map(OsStr::new))
        };
        assert!(takes(true, Some("xterm"), None) && takes(true, Some("linux"), Some("")));
        assert!(!takes(false, Some("xterm"), None) && !takes(true, Some("xterm"), Some("1")));
        assert!(!takes(true, Some("dumb"), None) && !takes(true, Some(""), None) && !takes(true, None, None));
    }
}
