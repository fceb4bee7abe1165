//! `agentd status --watch`: the table, redrawn when something happens.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::{Arguments, Shown, nobody, status_of, table, unknown};
use crate::cli::output::{self, BETWEEN_DAEMONS, Failure, say};
use crate::cli::table::{broken, wrapped};
use crate::cli::watch::{ENTER, LEAVE, end_asked_for, out, rest_cleared};
use crate::cli::wording::notices;
use crate::client::{Client, Error, Messages};
use crate::sys::terminal::Terminal;
use crate::text::printable::escaped;

/// How often the ages are drawn.
const TICK: Duration = Duration::from_secs(1);

/// How often the daemon is asked although nothing has happened: output is not an event.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How long to wait for further events before asking: they come in bursts.
const BURST: Duration = Duration::from_millis(50);

/// Shows the table until a signal: data to stdout, messages to stderr.
pub(super) fn run(arguments: &Arguments, socket: &Path) -> ExitCode {
    let terminal = Terminal::here();
    let is_live = terminal.width.is_some() && !terminal.is_dumb;
    output::run(async {
        let client = Client::new(socket).map_err(|error| refused(arguments, &error))?;
        // A name that is wrong, or a daemon that is not there, is said before the screen is taken.
        let asked = Shown::ask(&client, arguments).await.map_err(|error| refused(arguments, &error))?;
        let messages = faults_of(&client).await;
        let shown = tokio::select! {
            shown = show(arguments, &client, asked, messages, is_live) => shown,
            ended = end_asked_for() => ended.map_err(Failure::Print),
        };
        if is_live {
            // A terminal that has gone needs nothing.
            let _ = out(LEAVE);
        }
        shown
    })
}

/// Says why nothing is shown, with the exit status that it has without `--watch`.
fn refused(arguments: &Arguments, error: &Error) -> Failure {
    say(&error.to_string());
    Failure::Told(status_of(error, &arguments.names))
}

async fn show(
    arguments: &Arguments,
    client: &Client,
    asked: Shown,
    mut messages: Vec<String>,
    is_live: bool,
) -> Result<(), Failure> {
    let (mut shown, _) = asked.judged(arguments);
    if is_live {
        out(ENTER).map_err(Failure::Print)?;
    }
    let mut resized = signal(SignalKind::window_change()).map_err(Failure::Print)?;
    let mut listener: Option<Messages<'_>> = client.events(None, &[], None, true).await.ok();
    let mut ask_at = Instant::now() + ASK_AGAIN;
    let mut last = String::new();
    loop {
        last = draw(arguments, &shown, &messages, is_live, &last).map_err(Failure::Print)?;
        let tick = Instant::now() + if is_live { TICK } else { ASK_AGAIN };
        tokio::select! {
            is_heard = hear(&mut listener) => {
                let pause = if is_heard { BURST } else { BETWEEN_DAEMONS };
                ask_at = ask_at.min(Instant::now() + pause);
                tokio::time::sleep(pause).await;
            }
            _ = resized.recv() => {}
            () = sleep_until(tick.min(ask_at)) => {}
        }
        if Instant::now() >= ask_at {
            ask_at = Instant::now() + ASK_AGAIN;
            match Shown::ask(client, arguments).await {
                Ok(now) => {
                    (shown, messages) = (now.judged(arguments).0, faults_of(client).await);
                    if listener.is_none() {
                        listener = client.events(None, &[], None, true).await.ok();
                    }
                }
                Err(error) => {
                    messages = vec![format!("{error}; this is how things stood before")];
                    ask_at = Instant::now() + BETWEEN_DAEMONS;
                }
            }
        }
    }
}

async fn faults_of(client: &Client) -> Vec<String> {
    client.health().await.map(|health| notices(&health.value, SystemTime::now())).unwrap_or_default()
}

/// Waits for an event; `false` if there is nobody left to hear. Without a listener it waits forever. Cancel-safe.
async fn hear(listener: &mut Option<Messages<'_>>) -> bool {
    let Some(messages) = listener else { return std::future::pending().await };
    let is_heard = matches!(messages.next().await, Ok(Some(_)));
    if !is_heard {
        *listener = None;
    }
    is_heard
}

/// Draws what has changed, and returns it.
fn draw(
    arguments: &Arguments,
    shown: &Shown,
    messages: &[String],
    is_live: bool,
    last: &str,
) -> std::io::Result<String> {
    let terminal = Terminal::here();
    let now = SystemTime::now();
    let missing = shown.missing.iter().map(|name| escaped(&unknown(name)));
    let messages = messages.iter().map(|message| escaped(message)).chain(missing);
    let mut lines: Vec<String> = messages.flat_map(|message| wrapped(&message, terminal.text_width())).collect();
    if shown.agents.is_empty() {
        lines.extend(shown.missing.is_empty().then(|| nobody(arguments)));
    } else {
        lines.extend(table(&shown.agents, arguments.sort, terminal, now).lines().map(str::to_owned));
    }
    let frame =
        if is_live { frame(&lines, terminal.text_width(), Terminal::height()) } else { lines.join("\n") + "\n" };
    if frame != last {
        out(&frame)?;
    }
    Ok(frame)
}

/// What draws lines over those that were there: nothing is erased first, so nothing flickers. Lines that do not fit into the height are
/// counted instead.
fn frame(lines: &[String], width: usize, height: usize) -> String {
    let rows: Vec<String> = lines.iter().flat_map(|line| broken(line, width)).collect();
    let height = height.max(2);
    let mut shown: Vec<String> = rows.clone();
    if rows.len() > height {
        let last = rows.last().cloned().unwrap_or_default();
        shown.truncate(height - 2);
        shown.push(format!("… {} more lines", rows.len() - height + 1));
        shown.push(last);
    }
    let count = shown.len();
    let rows: Vec<String> = shown.into_iter().map(|row| format!("{row}\x1b[0m{}", rest_cleared(&row, width))).collect();
    let below = if count < height { "\r\n\x1b[J" } else { "" };
    format!("\x1b[H{}{below}", rows.join("\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lines: &[&str], width: usize, height: usize) -> Vec<String> {
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        let frame = frame(&lines, width, height);
        let rows = frame.strip_prefix("\x1b[H").unwrap();
        let rows = rows.strip_suffix("\r\n\x1b[J").unwrap_or(rows);
        let plain = |row: &str| row.strip_suffix("\x1b[K").unwrap_or(row).strip_suffix("\x1b[0m").map(str::to_owned);
        rows.split("\r\n").map(|row| plain(row).unwrap()).collect()
    }

    #[test]
    fn nothing_is_erased_after_a_row_as_wide_as_the_terminal() {
        let lines = ["abc".to_owned(), "d".to_owned()];
        assert_eq!(frame(&lines, 3, 2), "\x1b[Habc\x1b[0m\r\nd\x1b[0m\x1b[K");
        assert_eq!(frame(&lines, 3, 3), "\x1b[Habc\x1b[0m\r\nd\x1b[0m\x1b[K\r\n\x1b[J");
    }

    #[test]
    fn a_frame_fits_the_terminal_and_keeps_the_last_line() {
        assert_eq!(rows(&["a", "bcd"], 3, 2), ["a", "bcd"]);
        assert_eq!(rows(&["abcd", "e"], 3, 3), ["abc", "d", "e"]);
        assert_eq!(rows(&["a", "b", "c", "d", "count"], 20, 3), ["a", "… 3 more lines", "count"]);
    }
}
