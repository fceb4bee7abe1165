//! Formats tmux's arguments and parses its output.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::typing::Typist;
use crate::agent::name::Key;
use crate::wire::exit_status::{ExitStatus, Signal};

/// An agent's session, as a target for commands.
#[derive(Debug, PartialEq, Eq)]
pub struct Session {
    /// `$` and a number.
    pub id: String,
    /// The agent's pane in it, `%` and a number; of several, the first.
    pub pane: Option<String>,
    /// The agent's panes that must be replaced.
    pub wrecks: Vec<String>,
}

/// Parses lines of `SESSION PANE…`, where a `!` marks a pane to be replaced. Skips other lines.
pub fn sessions(stdout: &str) -> Vec<Session> {
    stdout
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let id = words.next().filter(|word| is_id(word, '$'))?.to_owned();
            let (mut pane, mut wrecks) = (None, Vec::new());
            for word in words {
                let wreck = word.strip_prefix('!');
                let id = Some(wreck.unwrap_or(word)).filter(|word| is_id(word, '%'))?.to_owned();
                if wreck.is_some() {
                    wrecks.push(id);
                } else {
                    pane.get_or_insert(id);
                }
            }
            Some(Session { id, pane, wrecks })
        })
        .collect()
}

/// The format that [`entrance`] parses.
pub const ENTRANCE_FORMAT: &str = "#{session_id} #{prefix}";

/// A session that an operator can attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// `$` and a number.
    pub id: String,
    /// The key before each tmux command, in common notation such as `Ctrl-b`; `None` if there is none, or it is not understood.
    pub prefix: Option<String>,
}

/// Parses the first line of [`ENTRANCE_FORMAT`]; `None` if it has another form.
pub fn entrance(stdout: &str) -> Option<Entrance> {
    stdout.lines().find_map(|line| {
        let (id, prefix) = line.split_once(' ')?;
        is_id(id, '$').then(|| Entrance { id: id.to_owned(), prefix: key(prefix) })
    })
}

/// A key in common notation, if the text names one: modifiers, then one character or its name.
fn key(text: &str) -> Option<String> {
    const MODIFIERS: [(&str, &str); 3] = [("C-", "Ctrl-"), ("M-", "Alt-"), ("S-", "Shift-")];
    let (mut rest, mut words) = (text, String::new());
    // A `-` may be the key itself.
    while let Some((short, word)) = MODIFIERS.iter().find(|(short, _)| rest.starts_with(short) && rest.len() > 2) {
        rest = &rest[short.len()..];
        words.push_str(word);
    }
    let is_character = matches!(rest.as_bytes(), [character] if character.is_ascii_graphic());
    let is_name = (2..=12).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (words.len() <= 15 && (is_character || is_name) && rest != "None").then(|| words + rest)
}

/// The format that [`typist`] parses. What tmux does not know is empty.
pub const TYPIST_FORMAT: &str = "#{pane_id},#{pane_dead},#{?pane_in_mode,1,0},#{pane_input_off},#{bracket_paste_flag}";

/// Parses the first line of [`TYPIST_FORMAT`] that describes a pane whose process lives.
pub fn typist(stdout: &str) -> Option<Typist> {
    stdout.lines().find_map(|line| {
        let mut fields = line.split(',');
        let pane = fields.next().filter(|id| is_id(id, '%'))?.to_owned();
        let is_dead = fields.next()? == "1";
        let is_in_mode = fields.next()? == "1";
        let takes_input = fields.next()? != "1";
        let is_bracketed = match fields.next()? {
            "1" => Some(true),
            "0" => Some(false),
            _ => None,
        };
        (!is_dead).then_some(Typist { pane, is_in_mode, takes_input, is_bracketed })
    })
}

/// The format that [`panes`] parses.
pub const PANE_FORMAT: &str = "#{pane_pid},#{pane_dead},#{pane_dead_status},#{pane_dead_signal},#{pane_dead_time}";

/// A pane, as tmux describes the process that it started in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pane {
    /// The process, which may have ended.
    pub pid: i32,
    /// How it ended, if tmux has noticed.
    pub end: Option<PaneEnd>,
}

/// The end of a pane's process. What tmux knows of it depends on its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaneEnd {
    /// Its exit status.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<Signal>,
    /// The time, in whole seconds.
    pub at: Option<SystemTime>,
}

impl PaneEnd {
    /// Whether tmux knows how it ended: it may have seen the terminal close, but not have reaped the process yet.
    pub fn is_known(&self) -> bool {
        self.code.is_some() || self.signal.is_some()
    }

    /// The end as an exit status of the API.
    pub fn how(&self) -> ExitStatus {
        match (self.code, self.signal) {
            (_, Some(signal)) => ExitStatus::Signal(signal),
            (Some(code), None) => ExitStatus::of_code(code),
            (None, None) => ExitStatus::Cause("it ended while no daemon ran, and tmux does not tell how".to_owned()),
        }
    }
}

/// Parses lines of [`PANE_FORMAT`]. Skips other lines.
pub fn panes(stdout: &str) -> Vec<Pane> {
    stdout.lines().filter_map(pane).collect()
}

fn pane(line: &str) -> Option<Pane> {
    let mut fields = line.split(',');
    let pid = fields.next()?.parse().ok().filter(|&pid| pid > 1)?;
    let is_dead = fields.next()? == "1";
    let code = fields.next()?.parse().ok().filter(|code| (0..=255).contains(code));
    let signal = signal(fields.next()?);
    let seconds = fields.next()?.parse().ok().map(Duration::from_secs);
    let at = seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(seconds));
    Some(Pane { pid, end: is_dead.then_some(PaneEnd { code, signal, at }) })
}

/// Parses a signal's number, or its name with or without `SIG`.
fn signal(text: &str) -> Option<Signal> {
    let named = || format!("SIG{}", text.trim_start_matches("SIG")).parse().ok();
    text.parse().map_or_else(|_| named(), Signal::from_number)
}

/// The format that [`owned`] parses.
pub const OWNED_FORMAT: &str = "#{session_id} #{@agentd-owner}";

/// Parses lines of `SESSION OWNER` into keys of agents and ids. Skips other lines.
pub fn owned(stdout: &str) -> Vec<(Key, String)> {
    let pair = |line: &str| {
        let (id, owner) = line.split_once(' ').filter(|(id, _)| is_id(id, '$'))?;
        Some((owner.parse().ok()?, id.to_owned()))
    };
    stdout.lines().filter_map(pair).collect()
}

/// Parses lines that are keys of agents. Skips other lines.
pub fn owners(stdout: &str) -> BTreeSet<Key> {
    stdout.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Whether a word is the sigil and a number.
pub(super) fn is_id(word: &str, sigil: char) -> bool {
    word.strip_prefix(sigil).is_some_and(|digits| {
        !digits.is_empty() && digits.len() <= 10 && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Parses the version in `tmux 3.3a` or `tmux next-3.6`; `None` if there is none, as in `tmux master`.
pub fn version(stdout: &str) -> Option<(u32, u32)> {
    let word = stdout.trim().strip_prefix("tmux ")?;
    let word = word.rsplit('-').next()?;
    let (major, minor) = word.split_once('.')?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).map_or(minor, |end| &minor[..end]);
    Some((major.parse().ok()?, digits.parse().ok()?))
}

/// What a client's error message is about.
///
/// It cannot show that there is no server: the message is the same when the socket's file was removed, and when the server has
/// another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The client reached no server.
    NotReached,
    /// The server stopped talking to the client: it ended, or does not understand this client (tmux 3.6 and later, with older
    /// clients).
    CutOff,
    /// The operation itself failed.
    Request,
}

/// Classifies a client's error message.
pub fn complaint(message: &str) -> Complaint {
    let starts_with = |starts: &[&str]| starts.iter().any(|start| message.starts_with(start));
    if starts_with(&["no server running on", "error connecting to"]) {
        Complaint::NotReached
    } else if starts_with(&["server exited", "lost server", "protocol version mismatch", "server version is too old"]) {
        Complaint::CutOff
    } else {
        Complaint::Request
    }
}

/// Whether the message is about a command or an option that tmux does not know.
pub fn is_about_words(message: &str) -> bool {
    ["unknown option", "unknown command", "unknown flag", "invalid option", "usage:"]
        .iter()
        .any(|words| message.contains(words))
}

/// Whether the message is about a shell that cannot be run.
pub fn is_about_shell(message: &str) -> bool {
    message.starts_with("not a suitable shell")
}

/// Makes a message safe to show: one short line without control characters.
pub fn message(text: &str) -> String {
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    if line.is_empty() { "it said nothing".to_owned() } else { line }
}

/// Escapes a `;` at the end of an argument, which a client would take for the end of a command (`tmux(1)`, "COMMAND PARSING AND
/// EXECUTION").
pub fn escape_argument(argument: &str) -> String {
    match argument.strip_suffix(';') {
        Some(rest) => format!("{rest}\\;"),
        None => argument.to_owned(),
    }
}

/// Escapes a text that tmux would expand as a format, such as the argument of `-c`.
///
/// tmux reads two `#` as one, except before a `[`, which begins a style and leaves every `#` as it is.
pub fn escape_format(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        escaped.push(c);
        if c == '#' && !text[at..].trim_start_matches('#').starts_with('[') {
            escaped.push('#');
        }
    }
    escaped
}

/// Quotes a string for tmux's command parser: in double quotes, with all but the plainest bytes as octal escapes.
pub fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_./=:,@ +-".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.extend(['\\', digit(byte >> 6), digit(byte >> 3), digit(byte)]);
        }
    }
    quoted.push('"');
    quoted
}

/// Quotes a word for `sh(1)`.
pub fn quote_for_shell(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn digit(byte: u8) -> char {
    char::from(b'0' + (byte & 7))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::agent::name::key;

    #[rstest]
    #[case("tmux 3.3a\n", Some((3, 3)))]
    #[case("tmux 3.2", Some((3, 2)))]
    #[case("tmux next-3.7", Some((3, 7)))]
    #[case("tmux 3.10", Some((3, 10)))]
    #[case("tmux openbsd-7.5", Some((7, 5)))]
    #[case("tmux master", None)]
    #[case("", None)]
    #[case("screen 4.9", None)]
    fn versions_are_read(#[case] printed: &str, #[case] version: Option<(u32, u32)>) {
        assert_eq!(super::version(printed), version);
    }

    #[rstest]
    #[case("no server running on /s", Complaint::NotReached)]
    #[case("error connecting to /s (No such file or directory)", Complaint::NotReached)]
    #[case("server exited unexpectedly", Complaint::CutOff)]
    #[case("lost server", Complaint::CutOff)]
    #[case("protocol version mismatch (client 8, server 9)", Complaint::CutOff)]
    #[case("server version is too old for client", Complaint::CutOff)]
    #[case("can't find session: a", Complaint::Request)]
    fn complaints_are_distinguished(#[case] message: &str, #[case] about: Complaint) {
        assert_eq!(complaint(message), about);
    }

    #[test]
    fn sessions_without_an_owner_are_skipped() {
        let pair = |owner: &str, id: &str| (key(owner), id.to_owned());
        let lines = "$1 a\n$2 \n$3 B-c\n$x a\n@4 a\n$5 a b\n$6\n$7 a;kill-server\n";
        assert_eq!(owned(lines), [pair("a", "$1"), pair("b-c", "$3")]);
    }

    #[test]
    fn sessions_are_parsed_and_invalid_lines_skipped() {
        let printed = "$3 %4\n$5\n$6 %7 !%8 %9 !%10\n$1 !x\n$1 !\n$1 !!%1\n\nnonsense\n%1\n$x %1\n$9 rev\n$99999999999 %1\n$1 =rev\n$2 \n";
        let session = |id: &str, pane: Option<&str>, wrecks: &[&str]| Session {
            id: id.into(),
            pane: pane.map(str::to_owned),
            wrecks: wrecks.iter().map(|&pane| pane.into()).collect(),
        };
        let expected =
            [session("$3", Some("%4"), &[]), session("$5", None, &[]), session("$6", Some("%7"), &["%8", "%10"])];
        assert_eq!(sessions(printed), expected);
    }

    #[rstest]
    #[case("$3 C-b\n$4 C-a\n", Some(("$3", Some("Ctrl-b"))))]
    #[case("nonsense\n$x C-b\n$4 C-a", Some(("$4", Some("Ctrl-a"))))]
    #[case("$3 C-M-Space", Some(("$3", Some("Ctrl-Alt-Space"))))]
    #[case("$3 C--", Some(("$3", Some("Ctrl--"))))]
    #[case("$3 `", Some(("$3", Some("`"))))]
    #[case("$3 F12", Some(("$3", Some("F12"))))]
    #[case("$3 None", Some(("$3", None)))]
    #[case("$3 ", Some(("$3", None)))]
    #[case("$3 C-\u{1b}", Some(("$3", None)))]
    #[case("$3 C-b and call 555", Some(("$3", None)))]
    #[case("$3 C-C-C-C-C-C-b", Some(("$3", None)))]
    #[case("$3", None)]
    #[case("", None)]
    fn an_entrance_is_a_session_and_its_prefix_if_that_is_a_key(
        #[case] printed: &str,
        #[case] expected: Option<(&str, Option<&str>)>,
    ) {
        let expected = expected.map(|(id, prefix)| Entrance { id: id.into(), prefix: prefix.map(str::to_owned) });
        assert_eq!(entrance(printed), expected);
    }

    #[test]
    fn panes_are_parsed_and_invalid_lines_skipped() {
        let printed = "21,0,,,\n22,1,7,,1795271423\n23,1,,9,5\n24,1,,KILL,\n25,1,,SIGINT,\n26,1,,,\n27,1,999,99,x\n29,1,,40,\n30,1,,RTMIN+6,\n\
                       1,0,,,\n-5,0,,,\n28,0\nnonsense\n";
        let dead = |pid, code, signal: Option<i32>, seconds: Option<u64>| {
            let signal = signal.and_then(Signal::from_number);
            let at = seconds.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            Pane { pid, end: Some(PaneEnd { code, signal, at }) }
        };
        let expected = [
            Pane { pid: 21, end: None },
            dead(22, Some(7), None, Some(1_795_271_423)),
            dead(23, None, Some(9), Some(5)),
            dead(24, None, Some(9), None),
            dead(25, None, Some(2), None),
            dead(26, None, None, None),
            dead(27, None, None, None),
            dead(29, None, Some(40), None),
            dead(30, None, Some(40), None),
        ];
        assert_eq!(panes(printed), expected);
    }

    #[test]
    fn owners_are_keys_of_agents() {
        let expected = ["a", "claude-code"].map(key);
        assert_eq!(owners("a\n\nclaude-code\n#{x}\na\n../etc\n"), expected.into());
    }

    #[test]
    fn an_argument_that_ends_in_a_semicolon_is_escaped() {
        assert_eq!(escape_argument("/work;"), "/work\\;");
        assert_eq!(escape_argument("a;b"), "a;b");
    }

    #[rstest]
    #[case("/a#b", "/a##b")]
    #[case("/##{x}#", "/####{x}##")]
    #[case("/#[x]", "/#[x]")]
    #[case("/##[#x", "/##[##x")]
    fn what_tmux_would_expand_is_escaped(#[case] text: &str, #[case] escaped: &str) {
        assert_eq!(escape_format(text), escaped);
    }

    proptest! {
        #[test]
        fn arbitrary_output_causes_no_panic(text in ".{0,200}") {
            let _ = (sessions(&text), entrance(&text), panes(&text), owners(&text), version(&text), message(&text), complaint(&text), quote(&text));
        }

        #[test]
        fn a_shown_message_is_one_short_line(text in any::<String>()) {
            let message = message(&text);
            prop_assert!(message.chars().count() <= 300 && !message.chars().any(char::is_control));
        }
    }
}
