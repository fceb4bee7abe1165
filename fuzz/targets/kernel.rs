//! Fuzzes what the kernel prints: it is read correctly whatever processes and files are called. What a login shell prints yields its
//! environment.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agentd::launch::login;
use agentd::sys::procfs::{
    Mount, Stat, catches, fields, group, hard_limit_of_descriptors, lines, lock_holder, number, numbers, real_user,
    value,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    any_text(data);
    any_name(data);
    any_path(data);
    any_login(data);
});

/// Whatever it is, it is taken for something, or for nothing.
fn any_text(data: &[u8]) {
    if let Some(stat) = Stat::parse(data) {
        let (parent, session, started) = (stat.parent, stat.session, stat.started);
        let state = if stat.zombie { 'Z' } else { 'S' };
        let line = format!("1 (x) {state} {parent} 1 {session} 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 {started}\n");
        assert_eq!(Stat::parse(line.as_bytes()), Some(stat));
    }
    let (_, _) = (real_user(data), catches(data, 10));
    let _ = (lock_holder(data, (8, 1), 77), hard_limit_of_descriptors(data), value(data, "oom_kill"));
    if let Some(numbers) = numbers(data) {
        assert_eq!(fields(data).count(), numbers.len());
    }
    if let Some(number) = number::<u64>(data) {
        let digits =
            data.iter().position(|&byte| byte != b'0').map_or("0", |at| str::from_utf8(&data[at..]).unwrap_or("?"));
        assert_eq!(number.to_string(), digits);
    }
    if let Some(group) = group(data) {
        assert!(!group.as_os_str().as_bytes().contains(&b'\n'));
    }
    assert!(Mount::all(data).len() <= lines(data).count());
}

/// As a process's: raw in stat, with line feeds and backslashes escaped in status.
fn any_name(data: &[u8]) {
    let rest = b") S 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 4711 26 27\n";
    let stat = Stat::parse(&[b"12 (", data, rest].concat());
    assert_eq!(stat, Some(Stat { zombie: false, parent: 7, session: 9, started: 4711 }));
    let name: Vec<u8> =
        data.iter().flat_map(|&byte| if byte == b'\n' { vec![b'\\', b'n'] } else { vec![byte] }).collect();
    let status = [name.as_slice(), b"\nUmask:\t0022\nUid:\t47\t0\t0\t0\nSigCgt:\t0000000000000200\n"].concat();
    assert_eq!((real_user(&status), catches(&status, 10), catches(&status, 9)), (Some(47), Some(true), Some(false)));
}

/// As that of a mount, with what the kernel escapes; and as that of a group, which has no line feed.
fn any_path(data: &[u8]) {
    let path = [b"/".as_slice(), data].concat();
    let escaped: Vec<u8> = path
        .iter()
        .flat_map(|&byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
            byte => vec![byte],
        })
        .collect();
    let ours = b"41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n".as_slice();
    let theirs = [b"42 31 0:39 / ", escaped.as_slice(), b" rw - fuse.x /dev/fuse rw\n"].concat();
    let found = [Mount { root: "/".into(), point: "/sys/fs/cgroup".into() }];
    assert_eq!(Mount::all(&[ours, &theirs].concat()), found);
    assert_eq!(Mount::all(&[&theirs, ours].concat()), found);
    let elsewhere = [b"42 31 0:39 ", escaped.as_slice(), b" ", &escaped, b" rw - cgroup2 x rw\n"].concat();
    let path = Path::new(OsStr::from_bytes(&path)).to_owned();
    assert_eq!(Mount::all(&elsewhere), [Mount { root: path.clone(), point: path.clone() }]);
    if !data.contains(&b'\n') {
        let text = [b"1:name=systemd:/\n0::/", data, b"\n"].concat();
        assert_eq!(group(&text), Some(path));
    }
}

/// Between whatever a profile prints.
fn any_login(data: &[u8]) {
    const MARKER: &[u8] = b"agentd-1-2026-11-29T00:00:00Z";
    if data.windows(MARKER.len()).any(|window| window == MARKER) {
        return;
    }
    let read = |answer: &[u8]| login::read(&[data, b"\n", MARKER, answer, MARKER, data].concat(), MARKER);
    let (environment, directory) = read(b"/home\0A=1\0PATH=/bin:/usr/bin\0SHLVL=1\0").expect("it is an answer");
    assert_eq!((directory.as_path(), environment.len()), (Path::new("/home"), 2));
    let is_variable = |name: &OsStr| !name.is_empty() && !name.as_bytes().contains(&b'=');
    let answer = read(data);
    assert_eq!(answer.is_some(), data.contains(&0), "the directory ends with a NUL");
    assert!(answer.is_none_or(|(environment, _)| environment.iter().all(|(name, _)| is_variable(name))));
}
