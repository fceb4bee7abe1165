//! The sizes of agents' windows.
//!
//! tmux gives a window the size of some client, and keeps it. An agent works unattended, so an agent's window has a separate size
//! (`window-size manual`, and `default-size` when it is created), which changes for one reason only: it follows a client that an
//! operator can type in. Read-only clients and control clients change nothing. When the last client that counts has detached, the
//! window gets its separate size again.
//!
//! tmux's commands cannot query what kinds of clients exist, so tmux's hooks run a [job] that does: as a child of the server, and
//! so as the agent user. It lists, resizes, and lists again, until nothing is left to do. Two concurrent jobs agree in the end,
//! because the one that resizes last also lists last. Windows that operators opened beside an agent's are left to tmux.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::Uid;

use super::parse;

/// The hidden command that runs the job.
pub const COMMAND: &str = "fit-windows";

/// The hooks for when a client attaches, detaches, is resized, or switches to another session or window.
pub(super) const HOOKS: [(&str, Job); 4] = [
    ("client-session-changed[67]", Job::Always),
    ("client-detached[67]", Job::Always),
    ("client-resized[67]", Job::Always),
    ("window-linked[67]", Job::WhereSomebodyIs),
];

/// When a hook runs the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// Every time.
    Always,
    /// If the session has a client: sessions of agents start without one.
    WhereSomebodyIs,
}

/// How often a job lists the clients. Each round but the last corrects what another job did based on an older list.
const ROUNDS: usize = 8;

/// How many windows one client resizes: its arguments must fit into a message to the server (`MAX_IMSGSIZE`, 16 KiB).
const MOST_RESIZED: usize = 200;

const CLIENT_FORMAT: &str =
    "client #{client_width} #{client_height} #{status} #{client_activity} #{client_flags}#{W: #{window_id}}";
const WINDOW_FORMAT: &str =
    "window #{window_id} #{window_width} #{window_height} #{window-size} #{default-size} #{P:#{@agentd-agent}}";

/// The shell command, for tmux to run, that has `executable` fit the windows of the server on `socket`. A failing job prints
/// nothing: tmux would show it to attached operators.
pub(super) fn job(executable: &str, socket: &Path) -> String {
    let words = [executable, COMMAND].map(parse::quote_for_shell).map(|word| parse::escape_format(&word)).join(" ");
    let socket = parse::escape_format(&parse::quote_for_shell(&socket.to_string_lossy()));
    format!("{words} #{{pid}} {socket} >/dev/null 2>&1 || :")
}

/// Columns and rows.
type Size = (u16, u16);

/// A client that an operator can type in.
#[derive(Debug, PartialEq, Eq)]
struct Operator<'a> {
    /// The part of its terminal that shows a window.
    size: Size,
    /// When a key was last pressed, in seconds.
    activity: u64,
    windows: Vec<&'a str>,
}

#[derive(Debug, PartialEq, Eq)]
struct Window<'a> {
    id: &'a str,
    /// `None` while tmux may change it.
    size: Option<Size>,
    own_size: Size,
}

/// Fits the windows of the server that has that process id and listens on `socket`. Never as root: a server can make its clients
/// do anything.
///
/// # Errors
///
/// The server's client could not be run.
pub fn fit(server: &OsStr, socket: &OsStr) -> io::Result<()> {
    if Uid::effective().is_root() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let server: u32 = server.to_str().and_then(|pid| pid.parse().ok()).ok_or(io::ErrorKind::InvalidInput)?;
    let client = |words: &[&str]| {
        // The server's own program, whatever is installed by now.
        let mut command = Command::new(format!("/proc/{server}/exe"));
        command.arg0("tmux").args(["-N", "-S"]).arg(socket).args(words);
        command.stdin(Stdio::null()).stderr(Stdio::null()).output()
    };
    for _ in 0..ROUNDS {
        let listed = client(&["list-clients", "-F", CLIENT_FORMAT, ";", "list-windows", "-a", "-F", WINDOW_FORMAT])?;
        let listed = String::from_utf8_lossy(&listed.stdout);
        let changes = changes(&listed);
        if changes.is_empty() {
            break;
        }
        for changes in changes.chunks(MOST_RESIZED) {
            let words: Vec<String> = changes
                .iter()
                .map(|(window, (columns, rows))| format!("resize-window -t {window} -x {columns} -y {rows}"))
                .collect();
            let words = words.join(" ; ");
            // A window that has gone meanwhile stops tmux from resizing the rest; the next round resizes it.
            client(&words.split(' ').collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

/// The windows to resize, from the output of the two formats. Skips other lines.
fn changes(listed: &str) -> Vec<(&str, Size)> {
    let operators: Vec<Operator> = listed.lines().filter_map(operator).collect();
    let mut changes: Vec<(&str, Size)> = Vec::new();
    for window in listed.lines().filter_map(window) {
        let at_it = operators.iter().filter(|operator| operator.windows.contains(&window.id));
        // Of several equals, the last one, which attached last.
        let size = at_it.max_by_key(|operator| operator.activity).map_or(window.own_size, |operator| operator.size);
        // A window in several sessions is listed with each.
        if Some(size) != window.size && changes.iter().all(|(id, _)| *id != window.id) {
            changes.push((window.id, size));
        }
    }
    changes
}

fn operator(line: &str) -> Option<Operator<'_>> {
    let mut words = line.strip_prefix("client ")?.split(' ');
    let (columns, rows): Size = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let status = match words.next()? {
        "off" => 0,
        "on" => 1,
        lines => lines.parse().ok()?,
    };
    let activity = words.next()?.parse().ok()?;
    let flags = words.next()?;
    if flags.split(',').any(|flag| ["read-only", "ignore-size", "control-mode"].contains(&flag)) {
        return None;
    }
    // If there is no room for anything else, tmux shows no status line.
    let rows = rows.checked_sub(status).filter(|&rows| rows > 0).unwrap_or(rows);
    Some(Operator { size: (columns.max(1), rows.max(1)), activity, windows: words.collect() })
}

fn window(line: &str) -> Option<Window<'_>> {
    let mut words = line.strip_prefix("window ")?.split(' ');
    let id = words.next().filter(|id| parse::is_id(id, '@'))?;
    let size: Size = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let size = (words.next()? == "manual").then_some(size);
    let (columns, rows) = words.next()?.split_once('x')?;
    let is_agents = words.next().is_some_and(|owner| !owner.is_empty());
    is_agents.then_some(Window { id, size, own_size: (columns.parse().ok()?, rows.parse().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: &str = "window @1 20 5 manual 80x24 a\n";

    #[test]
    fn window_has_its_own_size_without_clients() {
        assert_eq!(changes(ALONE), [("@1", (80, 24))]);
        assert_eq!(changes("window @1 120 40 manual 120x40 a\n"), []);
    }

    #[test]
    fn window_follows_a_typing_client_less_the_status_lines() {
        for (status, rows) in [("on", 39), ("off", 40), ("2", 38)] {
            let listed = format!("client 132 40 {status} 9 attached,focused,UTF-8 @1 @2\n{ALONE}");
            assert_eq!(changes(&listed), [("@1", (132, rows))]);
        }
        assert_eq!(changes(&format!("client 2 1 on 9 attached @1\n{ALONE}")), [("@1", (2, 1))]);
    }

    #[test]
    fn window_ignores_read_only_clients_and_other_windows() {
        for flags in ["attached,read-only,ignore-size", "attached,ignore-size", "attached,control-mode"] {
            let listed = format!("client 132 40 on 9 {flags} @1\nclient 90 30 on 9 attached @2\n{ALONE}");
            assert_eq!(changes(&listed), [("@1", (80, 24))], "{flags}");
        }
    }

    #[test]
    fn window_follows_the_last_typing_then_the_last_attached_client() {
        let client = |columns, activity| format!("client {columns} 40 off {activity} attached @1\n");
        let listed = |first, second| format!("{}{}{ALONE}", client(100, first), client(120, second));
        assert_eq!(changes(&listed(5, 4)), [("@1", (100, 40))]);
        assert_eq!(changes(&listed(5, 5)), [("@1", (120, 40))]);
    }

    #[test]
    fn window_sized_by_tmux_is_set_to_manual() {
        assert_eq!(changes("window @1 80 24 latest 80x24 a\n"), [("@1", (80, 24))]);
    }

    #[test]
    fn window_that_is_not_an_agents_is_left_alone() {
        for line in ["window @1 20 5 manual 80x24 ", "window @1 20 5 latest 80x24"] {
            assert_eq!(changes(line), [], "{line}");
        }
    }

    #[test]
    fn window_in_two_sessions_is_resized_once() {
        assert_eq!(changes(&ALONE.repeat(2)).len(), 1);
    }

    #[test]
    fn lines_of_another_form_are_skipped() {
        for line in
            ["window @1 20 5 manual", "window x 2 5 manual 80x24 a", "window @1 2 -5 manual 8x2 a", "client 1", ""]
        {
            assert_eq!(changes(line), [], "{line}");
        }
    }

    #[test]
    fn job_is_one_command_whatever_the_paths_are() {
        let job = job("/a b/it's#{x}", Path::new("/s#[y]"));
        assert_eq!(job, r"'/a b/it'\''s##{x}' 'fit-windows' #{pid} '/s#[y]' >/dev/null 2>&1 || :");
    }
}
