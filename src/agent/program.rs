//! The program of an agent: the name that an entry gives it, and what is probably wrong with a name that is not found. Pure.

use std::path::{Path, PathBuf};

use crate::agent::sandbox::Engine;

/// Characters that mean something to a shell and are in hardly any program's name.
const SHELL: &[char] = &['|', '&', ';', '<', '>', '(', ')', '$', '`', '*', '?', '"', '\'', '{', '}'];

/// A word of a command line in which a leading `~` or `~/` is this home.
pub fn expanded(word: &str, home: &Path) -> Option<PathBuf> {
    let rest = word.strip_prefix('~')?;
    match rest.strip_prefix('/') {
        Some(below) => Some(home.join(below.trim_start_matches('/'))),
        None => rest.is_empty().then(|| home.to_owned()),
    }
}

/// What somebody who gave a program this name probably meant, and how that is written; `None` for a name like any other.
pub fn hint(name: &str) -> Option<String> {
    if let Some(engine) = Engine::named(name) {
        return Some(format!("sandboxes are made with it; install the package {}", engine.package()));
    }
    if name.starts_with('~') && expanded(name, Path::new("/")).is_none() {
        let right = "write ~/… for the home of the agent user, or the full path of the program";
        return Some(format!("the home of another user is not looked up; {right}"));
    }
    if name.contains(SHELL) {
        return Some(format!(
            "shell syntax has no meaning in `command`; write command = [\"sh\", \"-c\", {}]",
            quoted(name)
        ));
    }
    let mut words = name.split_whitespace().peekable();
    if !name.contains(char::is_whitespace) || words.peek().is_none() {
        return None;
    }
    let words: Vec<String> = words.map(quoted).collect();
    Some(format!("this is the name of one program, with spaces in it; write command = [{}]", words.join(", ")))
}

/// As a string of a jcard.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("~", Some("/home/agent"))]
    #[case("~/", Some("/home/agent"))]
    #[case("~/bin/x", Some("/home/agent/bin/x"))]
    #[case("~//bin/x", Some("/home/agent/bin/x"))]
    #[case("~root/x", None)]
    #[case("/x/~/y", None)]
    #[case("x~", None)]
    #[case("", None)]
    fn a_leading_tilde_is_the_home(#[case] word: &str, #[case] expected: Option<&str>) {
        assert_eq!(expanded(word, Path::new("/home/agent")).as_deref(), expected.map(Path::new));
    }

    #[rstest]
    #[case("claude", None)]
    #[case("bwrap", Some("install the package bubblewrap"))]
    #[case("/opt/claude-2.1_x", None)]
    #[case("~/bin/x", None)]
    #[case("python3 -m my_agent", Some(r#"write command = ["python3", "-m", "my_agent"]"#))]
    #[case("cd x && ./run | tee y", Some(r#"write command = ["sh", "-c", "cd x && ./run | tee y"]"#))]
    #[case("$HOME/bin/x", Some(r#"write command = ["sh", "-c", "$HOME/bin/x"]"#))]
    #[case("sh -c \"x\"", Some(r#"write command = ["sh", "-c", "sh -c \"x\""]"#))]
    #[case("~root/bin/x", Some("write ~/… for the home of the agent user"))]
    #[case(" ", None)]
    fn a_likely_mistake_has_its_fix(#[case] name: &str, #[case] expected: Option<&str>) {
        let hint = hint(name);
        assert_eq!(hint.is_some(), expected.is_some(), "{hint:?}");
        if let Some((hint, expected)) = hint.zip(expected) {
            assert!(hint.contains(expected), "{hint}");
        }
    }
}
