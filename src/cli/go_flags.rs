//! The command line of the Go daemon that agentd replaces, which existing unit files contain.
//!
//! Go's flags have one dash or two, a boolean may have a value (`-debug=true`), and two are about folders that sandboxes here do not
//! have. All of that is translated before the command line is parsed.

use std::ffi::OsString;

use clap::ArgAction;

/// Flags about folders of the sandboxes, each with a value. They are accepted and have no effect: what a sandbox consists of is in a
/// folder of its attempt.
const SANDBOX: [&str; 2] = ["sandbox-state-dir", "sandbox-bundle-dir"];

/// A command line as this version reads it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Translated {
    /// The program, and its arguments.
    pub words: Vec<OsString>,
    /// Whether some of them are written as only the Go daemon's are.
    pub from_go: bool,
    /// The flags that have no effect.
    pub without_effect: Vec<&'static str>,
}

/// Translates a command line for this command.
pub(super) fn translate(command: &clap::Command, words: impl IntoIterator<Item = OsString>) -> Translated {
    let mut translated = Translated::default();
    let mut words = words.into_iter().peekable();
    translated.words.extend(words.next());
    while let Some(word) = words.next() {
        if word == "--" {
            translated.words.push(word);
            translated.words.extend(words);
            return translated;
        }
        let Some((dashes, name, value)) = parts(&word) else {
            translated.words.push(word);
            continue;
        };
        if let Some(flag) = SANDBOX.into_iter().find(|&flag| flag == name) {
            if value.is_some() || words.next_if(|next| !next.as_encoded_bytes().starts_with(b"-")).is_some() {
                translated.without_effect.push(flag);
            } else {
                translated.words.push(format!("--{flag}").into());
            }
            translated.from_go = true;
            continue;
        }
        let flag = command.get_arguments().find(|argument| argument.get_long() == Some(name));
        let is_boolean = flag.is_some_and(|flag| matches!(flag.get_action(), ArgAction::SetTrue));
        let is_known = flag.is_some() || ["help", "version"].contains(&name);
        match value.and_then(boolean).filter(|_| is_boolean) {
            Some(is_set) => {
                translated.from_go = true;
                translated.words.extend(is_set.then(|| OsString::from(format!("--{name}"))));
            }
            None if is_known && dashes == 1 => {
                translated.from_go |= flag.is_some();
                let mut doubled = OsString::from("-");
                doubled.push(&word);
                translated.words.push(doubled);
            }
            None => translated.words.push(word),
        }
    }
    translated
}

/// The number of dashes, the name, and the value after `=`, if a word is a long flag.
fn parts(word: &OsString) -> Option<(usize, &str, Option<&str>)> {
    // A value that is not UTF-8 follows a name that is.
    let bytes = word.as_encoded_bytes();
    let end = bytes.iter().position(|&byte| byte == b'=');
    let name = str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]).ok()?;
    let dashes = name.len() - name.trim_start_matches('-').len();
    let name = &name[dashes..];
    let value = end.map(|end| str::from_utf8(&bytes[end + 1..]).unwrap_or_default());
    (matches!(dashes, 1 | 2) && name.len() > 1).then_some((dashes, name, value))
}

/// A boolean as Go's `strconv.ParseBool` reads it.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use rstest::rstest;

    use super::*;
    use crate::cli::Arguments;

    fn translated(words: &[&str]) -> (String, bool, Vec<&'static str>) {
        let Translated { words, from_go, without_effect } =
            translate(&Arguments::command(), words.iter().map(OsString::from));
        let words: Vec<String> = words.into_iter().map(|word| word.into_string().unwrap()).collect();
        (words.join(" "), from_go, without_effect)
    }

    #[rstest]
    #[case(&["agentd", "-config", "/x", "-debug"], "agentd --config /x --debug", true)]
    #[case(&["agentd", "-debug=true"], "agentd --debug", true)]
    #[case(&["agentd", "-debug=1", "--await-tmux=T"], "agentd --debug --await-tmux", true)]
    #[case(&["agentd", "-debug=false", "--config=/x"], "agentd --config=/x", true)]
    #[case(&["agentd", "-debug=maybe"], "agentd --debug=maybe", true)]
    #[case(&["agentd", "--config", "/x", "--debug"], "agentd --config /x --debug", false)]
    #[case(&["agentd", "-help"], "agentd --help", false)]
    #[case(&["agentd", "-h"], "agentd -h", false)]
    #[case(&["agentd", "status", "-x"], "agentd status -x", false)]
    #[case(&["agentd", "logs", "--", "-debug=true"], "agentd logs -- -debug=true", false)]
    fn flags_of_the_go_daemon_are_translated(#[case] words: &[&str], #[case] expected: &str, #[case] from_go: bool) {
        assert_eq!(translated(words), (expected.to_owned(), from_go, Vec::new()));
    }

    #[test]
    fn folders_of_the_sandbox_are_accepted_without_effect() {
        let words = ["agentd", "--sandbox-state-dir=/s", "-sandbox-bundle-dir", "/b", "-debug"];
        let without_effect = vec!["sandbox-state-dir", "sandbox-bundle-dir"];
        assert_eq!(translated(&words), ("agentd --debug".to_owned(), true, without_effect));
        let words = ["agentd", "-runsc-path", "/usr/bin/runsc"];
        assert_eq!(translated(&words), ("agentd --runsc-path /usr/bin/runsc".to_owned(), true, Vec::new()));
    }

    #[test]
    fn flag_of_the_sandbox_without_a_value_is_refused_by_name() {
        assert_eq!(translated(&["agentd", "-sandbox-state-dir"]).0, "agentd --sandbox-state-dir");
        assert_eq!(translated(&["agentd", "-sandbox-state-dir", "-debug"]).0, "agentd --sandbox-state-dir --debug");
    }
}
