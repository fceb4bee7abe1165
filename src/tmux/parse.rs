//! What tmux takes and what it prints, as text.

/// An agent's session, as far as it can be addressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// `$` and a number.
    pub(super) id: String,
    /// The agent's panes in it, each `%` and a number.
    pub(super) panes: Vec<String>,
}

/// Reads lines of `SESSION PANE…`. Lines of another form are passed over.
pub(super) fn sessions(stdout: &str) -> Vec<Session> {
    stdout
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let id = words.next().filter(|word| is_id(word, '$'))?.to_owned();
            let panes = words.map(|word| is_id(word, '%').then(|| word.to_owned())).collect::<Option<_>>()?;
            Some(Session { id, panes })
        })
        .collect()
}

fn is_id(word: &str, sigil: char) -> bool {
    word.strip_prefix(sigil).is_some_and(|digits| {
        !digits.is_empty() && digits.len() <= 10 && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The version in `tmux 3.3a`, `tmux next-3.6`; `None` where there is none, as in `tmux master`.
pub(super) fn version(stdout: &str) -> Option<(u32, u32)> {
    let word = stdout.trim().strip_prefix("tmux ")?;
    let word = word.rsplit('-').next()?;
    let (major, minor) = word.split_once('.')?;
    let digits = minor.find(|c: char| !c.is_ascii_digit()).map_or(minor, |end| &minor[..end]);
    Some((major.parse().ok()?, digits.parse().ok()?))
}

/// Whether a client's complaint means that nothing answers on the socket.
pub(super) fn means_no_server(message: &str) -> bool {
    ["no server running on", "error connecting to", "server exited", "lost server"]
        .iter()
        .any(|start| message.starts_with(start))
}

/// A complaint in a form that is safe to show: one line, of a length that can be read, without control characters.
pub(super) fn message(text: &str) -> String {
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    if line.is_empty() { "it said nothing".to_owned() } else { line }
}

/// Keeps a client from taking a `;` at the end of an argument for the end of a command (`tmux(1)`, "COMMAND PARSING AND
/// EXECUTION").
pub(super) fn escape_argument(argument: &str) -> String {
    match argument.strip_suffix(';') {
        Some(rest) => format!("{rest}\\;"),
        None => argument.to_owned(),
    }
}

/// Keeps tmux from expanding what it takes for a format, as in the argument of `-c`.
pub(super) fn escape_format(text: &str) -> String {
    text.replace('#', "##")
}

/// A string as tmux's command parser reads it: in double quotes, all but the plainest bytes as octal escapes.
pub(super) fn quote(text: &str) -> String {
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

fn digit(byte: u8) -> char {
    char::from(b'0' + (byte & 7))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

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

    #[test]
    fn sessions_are_read_and_lies_passed_over() {
        let printed = "$3 %4\n$5\n$6 %7 %8\n\nnonsense\n%1\n$x %1\n$9 rev\n$99999999999 %1\n$1 =rev\n$2 \n";
        let session = |id: &str, panes: &[&str]| Session {
            id: id.into(),
            panes: panes.iter().map(|&pane| pane.into()).collect(),
        };
        assert_eq!(sessions(printed), [session("$3", &["%4"]), session("$5", &[]), session("$6", &["%7", "%8"])]);
    }

    #[test]
    fn an_argument_that_ends_in_a_semicolon_is_escaped() {
        assert_eq!(escape_argument("/work;"), "/work\\;");
        assert_eq!(escape_argument("a;b"), "a;b");
    }

    proptest! {
        #[test]
        fn no_output_makes_it_panic(text in ".{0,200}") {
            let _ = (sessions(&text), version(&text), message(&text), means_no_server(&text), quote(&text));
        }

        #[test]
        fn a_shown_message_is_one_short_line(text in any::<String>()) {
            let message = message(&text);
            prop_assert!(message.chars().count() <= 300 && !message.chars().any(char::is_control));
        }
    }
}
