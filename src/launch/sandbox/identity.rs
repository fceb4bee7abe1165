//! Who commits: the name and address that the user's own git has, which git in a new home needs to commit at all.
//!
//! Git's configuration itself is not copied. It may hold tokens, programs that hand out passwords, and a key to sign with, which no
//! sandbox has.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::launch::git;

/// Who commits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    name: Option<String>,
    email: Option<String>,
}

/// The identity in the configuration of this user's git, if there is one.
pub(super) fn of<'a>(home: &Path, variable: impl Fn(&str) -> Option<&'a OsStr>) -> Option<Identity> {
    let other = variable("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), Into::into);
    if !home.join(".gitconfig").exists() && !other.join("git/config").exists() {
        return None;
    }
    let mut command = Command::new("git");
    let words = ["config", "--global", "--includes", "--null", "--get-regexp", r"^user\.(name|email)$"];
    command.args(words).current_dir("/").env_clear().env("HOME", home);
    command.envs(["PATH", "XDG_CONFIG_HOME"].into_iter().filter_map(|name| Some((name, variable(name)?))));
    // Without git, nobody commits.
    parse(&git::said(command.stdout(Stdio::piped()).stderr(Stdio::null()))?)
}

/// The last of several counts, as for git.
fn parse(said: &[u8]) -> Option<Identity> {
    let mut identity = Identity::default();
    for pair in said.split(|&byte| byte == 0) {
        match std::str::from_utf8(pair).ok().and_then(|pair| pair.split_once('\n')) {
            Some(("user.name", name)) => identity.name = Some(name.to_owned()),
            Some(("user.email", email)) => identity.email = Some(email.to_owned()),
            _ => {}
        }
    }
    (identity != Identity::default()).then_some(identity)
}

impl Identity {
    /// A configuration for git that has nothing else.
    pub fn config(&self) -> String {
        let line = |key: &str, value: &Option<String>| {
            value.as_ref().map_or_else(String::new, |value| format!("\t{key} = {}\n", quoted(value)))
        };
        format!("[user]\n{}{}", line("name", &self.name), line("email", &self.email))
    }
}

/// As git reads it.
fn quoted(value: &str) -> String {
    let escaped = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n").replace('\t', r"\t");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn path() -> std::ffi::OsString {
        std::env::var_os("PATH").unwrap()
    }

    fn found(home: &Path) -> Option<Identity> {
        let path = path();
        of(home, |name| (name == "PATH").then_some(path.as_os_str()))
    }

    #[test]
    fn an_identity_is_found_and_nothing_else() {
        let home = TempDir::new().unwrap();
        assert_eq!(found(home.path()), None);
        fs::write(home.path().join(".gitconfig"), "[commit]\n\tgpgsign = true\n").unwrap();
        assert_eq!(found(home.path()), None);
        let text =
            "[user]\n\tname = first\n\tsigningkey = x\n[include]\n\tpath = more\n[credential]\n\thelper = evil\n";
        fs::write(home.path().join(".gitconfig"), text).unwrap();
        fs::write(home.path().join("more"), "[user]\n\tname = Ada \\\"L\\\" \\\\ # x\n\temail = a@b\n").unwrap();
        let identity = found(home.path()).unwrap();
        assert_eq!(identity.config(), "[user]\n\tname = \"Ada \\\"L\\\" \\\\\"\n\temail = \"a@b\"\n");
        let other = TempDir::new().unwrap();
        fs::write(other.path().join(".gitconfig"), identity.config()).unwrap();
        assert_eq!(found(other.path()), Some(identity), "git reads it as it was");
    }

    #[test]
    fn a_value_cannot_add_a_setting() {
        let identity = Identity { name: Some("x\"\n[core]\n\tfsmonitor = evil ;\t\\".to_owned()), email: None };
        let home = TempDir::new().unwrap();
        fs::write(home.path().join(".gitconfig"), identity.config()).unwrap();
        assert_eq!(found(home.path()), Some(identity));
    }
}
