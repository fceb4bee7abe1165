//! `agentd watch`: an agent's screen, live, through the read-only API.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::complete;
use super::output::{self, BETWEEN_DAEMONS, Failure, say};
use super::table::{cells, shortened};
use crate::client::Client;
use crate::sys::terminal::Terminal;
use crate::text::printable::{self, escaped};
use crate::wire::status::{Fault, ScreenShown};

/// To another screen without a cursor, where long lines are cut (`xterm` control sequences 1049, 25, 7), and back.
pub(super) const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
pub(super) const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Whose screen, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The agent; the case of its name does not matter
    #[arg(add = complete::names())]
    pub name: String,
    /// Print the screen as it is now, and end; the default without --follow if standard output is not a terminal
    #[arg(long, conflicts_with = "follow")]
    pub once: bool,
    /// Continue even if standard output is not a terminal; each screen is then printed below the one before, as with TERM=dumb
    #[arg(short, long)]
    pub follow: bool,
    /// Print screens as the API has them: an object on each line, with `at` and `text`
    #[arg(long)]
    pub json: bool,
}

/// Shows it: data to stdout, talk to stderr.
pub fn run(arguments: &Arguments, socket: &Path) -> ExitCode {
    let terminal = Terminal::here();
    let goes_on = arguments.follow || terminal.width.is_some() && !arguments.json && !arguments.once;
    let is_live = terminal.width.is_some() && !terminal.is_dumb && !arguments.json && !arguments.once;
    let show = Show { arguments, colors: terminal.color && !arguments.json, goes_on, is_live };
    output::run(async {
        let shown = tokio::select! {
            shown = show.run(socket) => shown,
            ended = end_asked_for() => ended.map_err(Failure::Print),
        };
        if is_live {
            // A terminal that has gone needs nothing.
            let _ = out(LEAVE);
        }
        shown
    })
}

/// Until the person at the terminal, or the system, wants an end.
pub(super) async fn end_asked_for() -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (mut hang_up, mut quit) = (signal(SignalKind::hangup())?, signal(SignalKind::quit())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
        _ = quit.recv() => {}
    }
    Ok(())
}

pub(super) fn out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

struct Show<'a> {
    arguments: &'a Arguments,
    colors: bool,
    /// Whether it shows more than one screen.
    goes_on: bool,
    /// Whether the terminal is this verb's own while it runs.
    is_live: bool,
}

impl Show<'_> {
    async fn run(&self, socket: &Path) -> Result<(), Failure> {
        let client = Client::new(socket).map_err(Failure::Ask)?;
        if !self.goes_on {
            return self.once(&client).await;
        }
        let mut screen = Screen::new(self).map_err(Failure::Print)?;
        let mut was_there = false;
        loop {
            match self.follow(&client, &mut screen, &mut was_there).await {
                Err(Failure::Ask(error)) if was_there && error.may_come_back() => {
                    screen.fault(&format!("{error}; waiting for it")).map_err(Failure::Print)?;
                }
                result => return result,
            }
            tokio::time::sleep(BETWEEN_DAEMONS).await;
        }
    }

    /// Nothing that an earlier daemon does not know, unless there are colors.
    fn query(&self) -> &'static str {
        if self.colors { "colors=true" } else { "" }
    }

    async fn once(&self, client: &Client) -> Result<(), Failure> {
        let query = self.query();
        let mut stream = client.screen(&self.arguments.name, query).await.map_err(Failure::Ask)?;
        let mut text = Vec::new();
        while let Some(piece) = stream.next().await.map_err(Failure::Ask)? {
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8_lossy(&text);
        if !self.arguments.json {
            return out(&text).map_err(Failure::Print);
        }
        let at = crate::wire::status::Time(std::time::SystemTime::now());
        print_json(&ScreenShown { at, text: text.into_owned() })
    }

    /// What one daemon shows, until it shows no more.
    async fn follow(&self, client: &Client, screen: &mut Screen, was_there: &mut bool) -> Result<(), Failure> {
        let query = self.query();
        let mut messages = client.screens(&self.arguments.name, query).await.map_err(Failure::Ask)?;
        *was_there = true;
        let mut resized = signal(SignalKind::window_change()).map_err(Failure::Print)?;
        loop {
            let message = tokio::select! {
                message = messages.next() => message.map_err(Failure::Ask)?,
                _ = resized.recv() => {
                    screen.draw().map_err(Failure::Print)?;
                    continue;
                }
            };
            let Some(message) = message else { return Ok(()) };
            match message.kind.as_str() {
                "screen" if self.arguments.json => {
                    print_json(&serde_json::from_str::<ScreenShown>(&message.data).map_err(Failure::Malformed)?)?;
                }
                "screen" => {
                    let shown: ScreenShown = serde_json::from_str(&message.data).map_err(Failure::Malformed)?;
                    screen.show(shown.text).map_err(Failure::Print)?;
                }
                "error" => {
                    let Fault { error, .. } = serde_json::from_str(&message.data).map_err(Failure::Malformed)?;
                    screen.fault(&error).map_err(Failure::Print)?;
                }
                // A newer daemon knows more kinds.
                _ => {}
            }
        }
    }
}

fn print_json(shown: &ScreenShown) -> Result<(), Failure> {
    let line = printable::json(serde_json::to_string(shown).map_err(Failure::Malformed)?);
    out(&format!("{line}\n")).map_err(Failure::Print)
}

/// Where screens are shown.
struct Screen {
    name: String,
    is_live: bool,
    text: String,
    fault: Option<String>,
}

impl Screen {
    fn new(show: &Show<'_>) -> io::Result<Self> {
        if show.is_live {
            out(ENTER)?;
        }
        Ok(Self { name: show.arguments.name.clone(), is_live: show.is_live, text: String::new(), fault: None })
    }

    fn show(&mut self, text: String) -> io::Result<()> {
        (self.text, self.fault) = (text, None);
        if self.is_live { self.draw() } else { out(&self.text) }
    }

    fn fault(&mut self, fault: &str) -> io::Result<()> {
        if self.fault.as_deref() == Some(fault) {
            return Ok(());
        }
        self.fault = Some(fault.to_owned());
        if self.is_live {
            return self.draw();
        }
        say(fault);
        Ok(())
    }

    /// All of it anew: the terminal may be of another size.
    fn draw(&self) -> io::Result<()> {
        let size = rustix::termios::tcgetwinsize(io::stdout())?;
        out(&frame(&self.text, &self.line(), size.ws_row.into(), size.ws_col.into()))
    }

    /// What stands below the screen.
    fn line(&self) -> String {
        let fault = self.fault.as_ref().map(|fault| format!(" - {}", escaped(fault))).unwrap_or_default();
        format!("agentd watch {} - read-only, Ctrl-C ends it{fault}", escaped(&self.name))
    }
}

/// What clears the rest of a row. After one as wide as the terminal, the cursor still stands on its last character, which would be
/// cleared.
pub(super) fn rest_cleared(row: &str, width: usize) -> &'static str {
    if width > 0 && cells(row) >= width { "" } else { "\x1b[K" }
}

/// What draws the last rows of a screen that a terminal has room for, and a line below them. Rows too wide are cut by the terminal.
fn frame(text: &str, line: &str, height: usize, width: usize) -> String {
    let rows: Vec<&str> = text.lines().collect();
    let room = height.saturating_sub(1);
    let mut frame = String::from("\x1b[H");
    for row in &rows[rows.len().saturating_sub(room)..] {
        frame.push_str(row);
        frame.push_str(rest_cleared(row, width));
        frame.push_str("\r\n");
    }
    let line = shortened(line, width);
    frame + &format!("\x1b[0m\x1b[J\x1b[{};1H\x1b[7m{line}\x1b[0m", height.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rows_that_fit_are_shown_with_a_line_below() {
        assert_eq!(
            frame("a\nb\nc\n", "line", 3, 3),
            "\x1b[Hb\x1b[K\r\nc\x1b[K\r\n\x1b[0m\x1b[J\x1b[3;1H\x1b[7mli…\x1b[0m"
        );
        let wide = "\x1b[Hb\x1b[31m漢\r\nc\x1b[K\r\n\x1b[0m\x1b[J\x1b[3;1H\x1b[7mli…\x1b[0m";
        assert_eq!(frame("b\x1b[31m漢\nc\n", "line", 3, 3), wide, "a full row keeps its last character");
        assert_eq!(frame("", "line", 0, 9), "\x1b[H\x1b[0m\x1b[J\x1b[1;1H\x1b[7mline\x1b[0m");
    }
}
