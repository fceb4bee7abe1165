//! The command that a hook runs to ask whether the harness may use a tool: it waits for the answer, and prints it.
//!
//! Whatever happens, it prints an answer within its time, and without one of the launcher it denies. It runs as the agent user,
//! who may replace it: it is a courtesy, and no boundary. Rules are matched here, over what the agent says, and nowhere else.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use regex_lite::RegexBuilder;
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, send, shutdown, socket_with,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::asks::{Reply, Wish, beginning};
use super::tell::ASKS;
use crate::agent::approval::{Asking, MOST_PASSED_ON, Rule, Then};
use crate::agent::harness::hooks::TELL_VARIABLE;
use crate::sys::{fd, poll};

/// The most that a hook is given, in bytes: a tool may be given whole files.
const MOST_GIVEN: usize = 16 << 20;

/// The longest command that rules are matched with, in bytes.
const MOST_MATCHED: usize = 64 << 10;

/// The largest answer of a launcher, in bytes.
const MOST_ANSWERED: usize = 64 << 10;

/// How long the harness may take to say what it asks.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How much longer than its time an answer may take.
const SLACK: Duration = Duration::from_secs(5);

/// How much is read at a time.
const PIECE: usize = 64 << 10;

/// Asks, waits, and prints the decision as Claude Code reads it. The argument says how to ask.
pub fn run(argument: Option<&OsStr>) {
    let Reply { allow, why } = decide(argument).unwrap_or_else(|why| Reply { allow: false, why });
    let mut decision = json!({ "behavior": if allow { "allow" } else { "deny" } });
    if !allow {
        decision["message"] = why.into();
    }
    let text = json!({ "hookSpecificOutput": { "hookEventName": "PermissionRequest", "decision": decision } });
    // A harness that does not read it asks a person, or denies.
    let _ = writeln!(io::stdout(), "{text}");
}

/// What a hook is given, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Input {
    tool_name: String,
    tool_input: Value,
}

fn decide(argument: Option<&OsStr>) -> Result<Reply, String> {
    let asking = argument.and_then(OsStr::to_str).and_then(|text| serde_json::from_str::<Asking>(text).ok());
    let Asking { timeout, rules } =
        asking.ok_or("agentd denied this, because its hook was not called as agentd has it called")?;
    let text = from_stdin(Instant::now() + READ_TIMEOUT)
        .map_err(|error| format!("agentd denied this, because it could not read what was asked: {error}"))?;
    let input: Input = serde_json::from_slice(&text)
        .map_err(|_| "agentd denied this, because it did not understand what was asked".to_owned())?;
    let command = command(&input);
    match ruled(&rules, &command) {
        Then::Allow => return Ok(Reply { allow: true, why: String::new() }),
        Then::Deny => return Err("agentd denied this: a rule in `approval_rules` says so".to_owned()),
        Then::Ask => {}
    }
    let cut = command.len() > MOST_PASSED_ON;
    let wish = Wish { tool: input.tool_name, command: beginning(&command, MOST_PASSED_ON), cut };
    let socket = env::var_os(TELL_VARIABLE)
        .ok_or_else(|| format!("agentd denied this: {TELL_VARIABLE} is not set, so nobody can be asked"))?;
    ask(Path::new(&socket), &wish, Instant::now() + timeout + SLACK)
        .map_err(|error| format!("agentd denied this, because it could not ask anybody: {error}"))
}

/// What the tool is to do: a command, a file, an address; else all that it is given.
fn command(Input { tool_input, .. }: &Input) -> String {
    const KEYS: [&str; 7] = ["command", "file_path", "notebook_path", "path", "url", "query", "pattern"];
    let named = KEYS.into_iter().find_map(|key| tool_input.get(key)?.as_str());
    named.map_or_else(|| tool_input.to_string(), str::to_owned)
}

/// What the first rule says that matches. What is too long to be matched, or no regular expression, is asked about.
fn ruled(rules: &[Rule], command: &str) -> Then {
    if command.len() > MOST_MATCHED {
        return Then::Ask;
    }
    for rule in rules {
        match RegexBuilder::new(&rule.pattern).size_limit(1 << 20).build() {
            Ok(pattern) if pattern.is_match(command) => return rule.then,
            Ok(_) => {}
            Err(_) => return Then::Ask,
        }
    }
    Then::Ask
}

/// Asks the launcher, and waits for its answer.
fn ask(socket: &Path, wish: &Wish, limit: Instant) -> io::Result<Reply> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(socket)?;
    loop {
        match connect(&stream, &address) {
            Ok(()) => break,
            // Others are in line.
            Err(rustix::io::Errno::AGAIN) if Instant::now() < limit => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error.into()),
        }
    }
    let message = [ASKS, &serde_json::to_vec(wish)?].concat();
    let mut rest = message.as_slice();
    while !rest.is_empty() {
        // Without a signal if the other end is gone.
        match send(&stream, rest, SendFlags::NOSIGNAL) {
            Ok(count) => rest = &rest[count..],
            Err(rustix::io::Errno::AGAIN) => await_one(&stream, PollFlags::POLLOUT, limit)?,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    shutdown(&stream, Shutdown::Write)?;
    let mut text = Vec::new();
    loop {
        await_one(&stream, PollFlags::POLLIN, limit)?;
        let mut piece = [0; 4096];
        match fd::read(&stream, &mut piece) {
            Ok(0) => break,
            Ok(count) if text.len() + count > MOST_ANSWERED => return Err(io::ErrorKind::FileTooLarge.into()),
            Ok(count) => text.extend_from_slice(&piece[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    if text.is_empty() {
        return Err(io::Error::other("its launcher is gone"));
    }
    Ok(serde_json::from_slice(&text)?)
}

fn await_one(end: &OwnedFd, events: PollFlags, limit: Instant) -> io::Result<()> {
    if Instant::now() >= limit {
        return Err(io::ErrorKind::TimedOut.into());
    }
    poll::wait(&mut [PollFd::new(end.as_fd(), events)], Some(limit))
}

/// All of standard input.
fn from_stdin(limit: Instant) -> io::Result<Vec<u8>> {
    let stdin: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let (mut text, mut piece) = (Vec::new(), vec![0; PIECE]);
    loop {
        await_one(&stdin, PollFlags::POLLIN, limit)?;
        match fd::read(&stdin, &mut piece)? {
            0 => return Ok(text),
            count if text.len() + count > MOST_GIVEN => return Err(io::ErrorKind::FileTooLarge.into()),
            count => text.extend_from_slice(&piece[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use rstest::rstest;

    use super::*;

    fn rule(pattern: &str, then: Then) -> Rule {
        Rule { pattern: pattern.to_owned(), then }
    }

    #[rstest]
    #[case::first_wins(&[("^git push", Then::Ask), ("^git ", Then::Allow)], "git push", Then::Ask)]
    #[case::second(&[("^git push", Then::Ask), ("^git ", Then::Allow)], "git status", Then::Allow)]
    #[case::none(&[("^git ", Then::Allow)], "rm -rf x", Then::Ask)]
    #[case::deny(&[("rm", Then::Deny)], "rm -rf x", Then::Deny)]
    #[case::invalid(&[("(", Then::Allow), ("", Then::Allow)], "ls", Then::Ask)]
    fn the_first_rule_that_matches_counts(
        #[case] rules: &[(&str, Then)],
        #[case] command: &str,
        #[case] expected: Then,
    ) {
        let rules: Vec<Rule> = rules.iter().map(|&(pattern, then)| rule(pattern, then)).collect();
        assert_eq!(ruled(&rules, command), expected);
    }

    #[test]
    fn what_is_too_long_to_be_matched_is_asked_about() {
        assert_eq!(ruled(&[rule("", Then::Allow)], &"x".repeat(MOST_MATCHED + 1)), Then::Ask);
    }

    #[test]
    fn what_is_asked_about_is_what_a_person_decides_by() {
        let of = |input: Value| command(&Input { tool_name: "T".to_owned(), tool_input: input });
        assert_eq!(of(json!({ "command": "ls", "description": "x" })), "ls");
        assert_eq!(of(json!({ "content": "x", "file_path": "/etc/hosts" })), "/etc/hosts");
        assert_eq!(of(json!({ "a": 1 })), r#"{"a":1}"#);
    }

    /// The answer if the launcher says this.
    fn answered(says: &'static [u8]) -> io::Result<Reply> {
        let base = tempfile::TempDir::new().unwrap();
        let path = base.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let launcher = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            stream.write_all(says).unwrap();
            text
        });
        let wish = Wish { tool: "Bash".to_owned(), command: "ls".to_owned(), cut: false };
        let answer = ask(&path, &wish, Instant::now() + Duration::from_secs(10));
        assert_eq!(launcher.join().unwrap(), "ask\n{\"tool\":\"Bash\",\"command\":\"ls\",\"cut\":false}");
        answer
    }

    #[test]
    fn only_an_answer_in_so_many_words_allows_anything() {
        assert!(answered(br#"{"allow":true}"#).unwrap().allow);
        assert_eq!(answered(br#"{"allow":false,"why":"no"}"#).unwrap(), Reply { allow: false, why: "no".to_owned() });
        for says in [&b""[..], b"allow", b"true", b"{}", br#"{"allow":"true"}"#, b"\xff", br#"{"allow":tru"#] {
            assert!(answered(says).is_err(), "{says:?}");
        }
    }

    #[test]
    fn nobody_at_the_other_end_allows_nothing() {
        let base = tempfile::TempDir::new().unwrap();
        let limit = || Instant::now() + Duration::from_millis(100);
        assert!(ask(&base.path().join("none"), &Wish::default(), limit()).is_err());
        let path = base.path().join("s");
        let _silent = UnixListener::bind(&path).unwrap();
        assert_eq!(ask(&path, &Wish::default(), limit()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
