//! Standard output: whether it is a terminal, how wide it is, and whether it shows colors.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};

/// The width of a terminal that does not report its own, and of text that is not read on one.
pub const USUAL_WIDTH: usize = 80;

/// The height of a terminal that does not report its own.
const USUAL_HEIGHT: usize = 24;

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
        Self { width, color: takes_color(is_there, is_dumb, Wish::here()), is_dumb }
    }

    /// Its height in rows.
    pub fn height() -> usize {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        size.map(|size| usize::from(size.ws_row)).filter(|&rows| rows > 0).unwrap_or(USUAL_HEIGHT)
    }

    /// Whether to use colors on standard error.
    pub fn color_on_stderr() -> bool {
        let is_dumb = is_dumb(std::env::var_os("TERM").as_deref());
        takes_color(io::stderr().is_terminal(), is_dumb, Wish::here())
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

/// What the environment says about colors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wish {
    /// `NO_COLOR` is set and not empty (<https://no-color.org>).
    never: bool,
    /// `CLICOLOR_FORCE` is set and neither empty nor 0: colors also into a pipe, as for `watch --color`.
    always: bool,
}

impl Wish {
    fn here() -> Self {
        Self::of(std::env::var_os("NO_COLOR").as_deref(), std::env::var_os("CLICOLOR_FORCE").as_deref())
    }

    fn of(no_color: Option<&OsStr>, forced: Option<&OsStr>) -> Self {
        let is_set = |value: Option<&OsStr>| value.is_some_and(|value| !value.is_empty());
        Self { never: is_set(no_color), always: is_set(forced.filter(|value| *value != "0")) }
    }
}

fn takes_color(is_terminal: bool, is_dumb: bool, wish: Wish) -> bool {
    !wish.never && (wish.always || is_terminal && !is_dumb)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(is_terminal: bool, name: Option<&str>, no_color: Option<&str>, forced: Option<&str>) -> bool {
        let wish = Wish::of(no_color.map(OsStr::new), forced.map(OsStr::new));
        takes_color(is_terminal, is_dumb(name.map(OsStr::new)), wish)
    }

    #[test]
    fn color_is_used_on_capable_terminals_unless_disabled() {
        let takes = |is_terminal, name, no_color| takes(is_terminal, name, no_color, None);
        assert!(takes(true, Some("xterm"), None) && takes(true, Some("linux"), Some("")));
        assert!(!takes(false, Some("xterm"), None) && !takes(true, Some("xterm"), Some("1")));
        assert!(!takes(true, Some("dumb"), None) && !takes(true, Some(""), None) && !takes(true, None, None));
    }

    #[test]
    fn color_can_be_forced_into_a_pipe_and_no_color_wins() {
        for (no_color, forced, expected) in
            [(None, Some("1"), true), (None, Some("0"), false), (None, Some(""), false), (Some("1"), Some("1"), false)]
        {
            assert_eq!(takes(false, None, no_color, forced), expected, "{no_color:?} {forced:?}");
        }
    }
}
