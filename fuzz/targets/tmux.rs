//! Fuzzes tmux: its output becomes ids, numbers, names, or a short line, and it reads what agentd gives it as intended.

#![no_main]

use std::time::SystemTime;

use agentd::agent::name::Name;
use agentd::tmux::parse::{
    Pane, PaneEnd, Session, complaint, escape_argument, escape_format, message, owners, panes, quote, sessions, typist, version,
};
use agentd::wire::exit_status::Signal;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let read = sessions(text);
    let one_by_one: Vec<Session> = text.lines().flat_map(sessions).collect();
    assert_eq!(read, one_by_one);
    for Session { id, pane, wrecks } in &read {
        let printed: Vec<String> = wrecks.iter().map(|wreck| format!("!{wreck}")).chain(pane.clone()).collect();
        assert!(is_id(id, '$') && wrecks.iter().chain(pane).all(|pane| is_id(pane, '%')), "{id:?} {printed:?}");
        let says_so = |line: &str| {
            let mut words = line.split(' ');
            words.next() == Some(id) && printed.iter().all(|pane| words.clone().any(|word| word == pane))
        };
        assert!(text.lines().any(says_so), "{id:?} {printed:?}");
    }

    let read = typist(text);
    assert_eq!(read.is_some(), text.lines().any(|line| typist(line).is_some()));

    let read = panes(text);
    let one_by_one: Vec<Pane> = text.lines().flat_map(panes).collect();
    assert_eq!(read, one_by_one);
    for pane in read {
        assert!(pane.pid > 1, "{pane:?}");
        let Some(PaneEnd { code, signal, at }) = &pane.end else { continue };
        assert!(code.is_none_or(|code| (0..=255).contains(&code)), "{pane:?}");
        assert!(signal.is_none_or(|signal| (1..=64).contains(&signal.number())), "{pane:?}");
        let seconds = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let number = |number: Option<i32>| number.map_or_else(String::new, |number| number.to_string());
        let seconds = seconds.map_or_else(String::new, |seconds| seconds.as_secs().to_string());
        assert_eq!(
            panes(&format!("{},1,{},{},{seconds}", pane.pid, number(*code), number(signal.map(Signal::number)))),
            [pane]
        );
    }

    for owner in owners(text) {
        assert_eq!(Name::try_from(owner.as_str()).map(|name| name.key()), Ok(owner));
    }

    if let Some((major, minor)) = version(text) {
        assert_eq!(version(&format!("tmux {major}.{minor}a\n")), Some((major, minor)));
    }

    let _ = complaint(text);
    let told = message(text);
    assert!((1..=300).contains(&told.chars().count()) && !told.contains(char::is_control), "{told:?}");

    assert_eq!(unquoted(&quote(text)), text.as_bytes());
    assert_eq!(argument(&escape_argument(text)).as_deref(), Some(text));
    assert_eq!(formatted(&escape_format(text)), text);
});

fn is_id(text: &str, sigil: char) -> bool {
    text.strip_prefix(sigil).is_some_and(|number| number.parse::<u64>().is_ok() && !number.starts_with('+'))
}

/// What tmux's command parser makes of a string in double quotes, in which nothing is expanded.
fn unquoted(text: &str) -> Vec<u8> {
    let inside = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).expect("it is in quotes");
    let mut bytes = Vec::new();
    let mut rest = inside.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let byte = match first {
            b'\\' => {
                let digits = rest.split_off(..3).and_then(|digits| str::from_utf8(digits).ok()).expect("three digits");
                u8::from_str_radix(digits, 8).expect("an octal number")
            }
            b'"' | b'$' | b'~' | b'#' | b';' | b'{' | b'}' | b'\'' | ..b' ' | 0x7f.. => panic!("{first:?} is special"),
            plain => plain,
        };
        bytes.push(byte);
    }
    bytes
}

/// What tmux makes of one argument of a client; `None` if it ends a command.
fn argument(text: &str) -> Option<String> {
    match text.strip_suffix(';') {
        None => Some(text.to_owned()),
        Some(rest) => rest.strip_suffix('\\').map(|rest| format!("{rest};")),
    }
}

/// What tmux makes of a format in which nothing is expanded.
fn formatted(text: &str) -> String {
    let mut made = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('#') {
        let (before, signs) = rest.split_at(at);
        rest = signs.trim_start_matches('#');
        let count = signs.len() - rest.len();
        let is_style = rest.starts_with('[');
        assert!(is_style || count.is_multiple_of(2), "{text:?} has something to expand");
        made += before;
        made += &signs[..if is_style { count } else { count / 2 }];
    }
    made + rest
}
