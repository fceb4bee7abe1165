//! Parses the kernel's files in `/proc` and `/sys`: bytes, not text.
//!
//! Other users influence these files: a process names itself, a mount has any path, and the kernel prints most of that unchanged.
//! So nothing here is assumed to be UTF-8, and no name can end the field or the line that contains it. What cannot be parsed is
//! missing from the result (`None`), and callers must not take that for an answer of the kernel's.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The most bytes that are read of a file: more than the ids of all processes that a machine can have.
const MOST: u64 = 64 << 20;

/// Reads a file completely. A file larger than anything the kernel prints is an error.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    read_all(File::open(path)?, MOST)
}

fn read_all(file: impl Read, most: u64) -> io::Result<Vec<u8>> {
    // Large enough for one process's file to be read with a single call; the kernel generates parts of it again for each call.
    const USUAL: usize = 4096;
    let mut bytes = Vec::with_capacity(USUAL);
    // Continues after a signal interrupts it.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Splits a text at line feeds.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\n").unwrap_or(line))
}

/// Splits a text at white space.
pub fn fields(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty())
}

/// Parses a number in decimal digits.
pub fn number<T: FromStr>(field: &[u8]) -> Option<T> {
    let digits = field.strip_prefix(b"-").unwrap_or(field);
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(field).ok()?.parse().ok()
}

/// Parses a text that contains only numbers.
pub fn numbers(text: &[u8]) -> Option<Vec<i32>> {
    fields(text).map(number).collect()
}

/// The number after a key in lines of `KEY NUMBER`.
pub fn value(text: &[u8], key: &str) -> Option<u64> {
    lines(text).find_map(|line| number(line.strip_prefix(key.as_bytes())?.strip_prefix(b" ")?))
}

/// The fields of `/proc/PID/stat` that are used here, see `proc_pid_stat(5)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Whether the process has ended, and was not reaped yet.
    pub zombie: bool,
    /// The process id of the parent.
    pub parent: i32,
    /// The id of the session.
    pub session: i32,
    /// When it was started, in clock ticks after boot. Together with the id, this identifies a process for as long as the machine
    /// runs.
    pub started: u64,
}

impl Stat {
    /// Parses the file's only line.
    pub fn parse(text: &[u8]) -> Option<Self> {
        // The process chooses the name in parentheses, which may contain anything; the last parenthesis ends it.
        let end = text.iter().rposition(|&byte| byte == b')')?;
        let mut fields = fields(&text[end + 1..]);
        let zombie = matches!(fields.next()?, b"Z" | b"X");
        Some(Self {
            zombie,
            parent: number(fields.next()?)?,
            session: number(fields.nth(1)?)?,
            started: number(fields.nth(15)?)?,
        })
    }
}

/// The real user id in `/proc/PID/status` (`proc_pid_status(5)`).
pub fn real_user(status: &[u8]) -> Option<u32> {
    number(fields(of_status(status, "Uid:")?).next()?)
}

/// Whether a process catches the signal with that number, according to `/proc/PID/status`.
pub fn catches(status: &[u8], signal: i32) -> Option<bool> {
    let mask = str::from_utf8(of_status(status, "SigCgt:")?.trim_ascii()).ok()?;
    let bit = u32::try_from(signal.checked_sub(1)?).ok()?;
    Some(u64::from_str_radix(mask, 16).ok()?.checked_shr(bit)? & 1 == 1)
}

/// The text after a key in `/proc/PID/status`. The first line contains the process's name, and is skipped.
fn of_status<'a>(status: &'a [u8], key: &str) -> Option<&'a [u8]> {
    lines(status).skip(1).find_map(|line| line.strip_prefix(key.as_bytes()))
}

/// The path of a process's control group (version 2) in `/proc/PID/cgroup`, in its namespace.
pub fn group(text: &[u8]) -> Option<PathBuf> {
    lines(text).find_map(|line| line.strip_prefix(b"0::")).map(path)
}

/// A mount of control groups (version 2).
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// The group at the root of the mount.
    pub root: PathBuf,
    /// The mount point.
    pub point: PathBuf,
}

impl Mount {
    /// All such mounts in `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`). A later one may cover an earlier one.
    pub fn all(mountinfo: &[u8]) -> Vec<Self> {
        lines(mountinfo).filter_map(Self::parse).collect()
    }

    fn parse(line: &[u8]) -> Option<Self> {
        const SEPARATOR: &[u8] = b" - ";
        let middle = line.windows(SEPARATOR.len()).position(|window| window == SEPARATOR)?;
        let (mount, kind) = (&line[..middle], &line[middle + SEPARATOR.len()..]);
        if !kind.starts_with(b"cgroup2 ") {
            return None;
        }
        let mut fields = mount.split(|&byte| byte == b' ').skip(3);
        Some(Self { root: unescape(fields.next()?), point: unescape(fields.next()?) })
    }

    /// The directory of the group with this path, as in `/proc/PID/cgroup`.
    pub fn place(&self, group: &Path) -> Option<PathBuf> {
        // A path that begins with `/..` leads out of the namespace.
        group.strip_prefix(&self.root).ok().map(|below| self.point.join(below))
    }
}

/// Undoes the kernel's escapes of white space and backslashes in paths: a backslash and three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut parts = text.split(|&byte| byte == b'\\');
    let mut bytes = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let code = part.first_chunk::<3>().and_then(|digits| octal(*digits));
        bytes.push(code.unwrap_or(b'\\'));
        bytes.extend(&part[if code.is_some() { 3 } else { 0 }..]);
    }
    path(&bytes)
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// The process id in `/proc/locks` (`proc_locks(5)`) that holds the exclusive lock on a whole file (`flock(2)`).
///
/// The file is identified by its device's numbers and its inode.
pub fn lock_holder(table: &[u8], (major, minor): (u64, u64), inode: u64) -> Option<i32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    lines(table).find_map(|line| {
        let mut fields = fields(line).skip(1);
        let is_lock = fields.next() == Some(b"FLOCK") && fields.nth(1) == Some(b"WRITE");
        let pid = number(fields.next()?)?;
        (is_lock && fields.next() == Some(file.as_bytes())).then_some(pid)
    })
}

/// How many descriptors a process can allow itself, according to `/proc/PID/limits`.
pub fn hard_limit_of_descriptors(limits: &[u8]) -> Option<u64> {
    let line = lines(limits).find_map(|line| line.strip_prefix(b"Max open files"))?;
    match fields(line).nth(1)? {
        b"unlimited" => Some(u64::MAX),
        hard => number(hard),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const HYBRID: &[u8] = b"\
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[rstest]
    #[case::beside_version_1(HYBRID, "/", b"/sys/fs/cgroup/unified")]
    #[case::below_the_root(HYBRID, "/a/b", b"/sys/fs/cgroup/unified/a/b")]
    #[case::with_optional_fields(
        b"35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 master:3 - cgroup2 cgroup2 rw,nsdelegate\n",
        "/openrc.agentd",
        b"/sys/fs/cgroup/openrc.agentd"
    )]
    #[case::a_container_that_sees_its_own_part(
        b"9 8 0:30 /docker/4f /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
        "/docker/4f/x",
        b"/sys/fs/cgroup/x"
    )]
    #[case::a_namespace_with_a_mount_from_outside(
        b"9 8 0:30 /../.. /sys/fs/cgroup ro - cgroup2 cgroup rw\n10 8 0:30 / /mnt\\040of\\134ours rw - cgroup2 cgroup rw\n",
        "/a",
        b"/mnt of\\ours/a"
    )]
    #[case::outside_of_the_namespace(
        b"9 8 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
        "/../x",
        b"/sys/fs/cgroup/../x"
    )]
    #[case::version_1_alone(b"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n", "/", b"")]
    #[case::beside_a_strangers_mount_that_is_not_utf_8(
        b"8 1 0:9 / /home/x/\xff\xfe rw - fuse.x /dev/fuse rw\n9 8 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
        "/a",
        b"/sys/fs/cgroup/a"
    )]
    #[case::at_a_path_that_is_not_utf_8(b"9 8 0:30 / /g\\040\\134\xff rw - cgroup2 cgroup rw\n", "/a", b"/g \\\xff/a")]
    fn a_group_is_found_where_it_is_mounted(
        #[case] mounts: &[u8],
        #[case] group: &str,
        #[case] expected: impl AsRef<[u8]>,
    ) {
        let places: Vec<_> = Mount::all(mounts).iter().filter_map(|mount| mount.place(Path::new(group))).collect();
        let expected = Some(path(expected.as_ref())).filter(|expected| !expected.as_os_str().is_empty());
        assert_eq!(places, expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn only_three_octal_digits_are_an_escape() {
        assert_eq!(unescape(br"a\011b\+12\777\08"), path(b"a\tb\\+12\\777\\08"));
        assert_eq!(unescape(b"\\"), path(b"\\"));
    }

    #[rstest]
    #[case::plain(b"sh")]
    #[case::parentheses(b"(a) Z (b")]
    #[case::forged(b"x) R 1 1 1 0 -1 0 0")]
    #[case::no_utf_8(b"\xff\xfe")]
    #[case::cut_in_a_letter("测试程序运行器".as_bytes().first_chunk::<14>().unwrap())]
    #[case::a_line_feed(b"a\n1 (b) Z 1")]
    #[case::empty(b"")]
    fn a_name_does_not_shift_the_fields_of_stat(#[case] name: &[u8]) {
        let rest = b") S 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 4711 26 27\n";
        let stat = Stat::parse(&[b"12 (", name, rest].concat());
        assert_eq!(stat, Some(Stat { zombie: false, parent: 7, session: 9, started: 4711 }));
    }

    #[test]
    fn a_truncated_stat_is_refused() {
        let line = b"12 (a) Z 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24";
        assert!((0..=line.len()).all(|length| Stat::parse(&line[..length]).is_none()));
    }

    #[test]
    fn a_name_cannot_forge_a_line_of_status() {
        let status = b"Uid:\t1\t1\t1\t1\nUmask:\t0022\nUid:\t1000\t0\t0\t0\nSigCgt:\t0000000000000200\n";
        assert_eq!(real_user(status), Some(1000));
        assert_eq!((catches(status, 10), catches(status, 9), catches(status, 0)), (Some(true), Some(false), None));
        assert_eq!((real_user(b"Name:\t\xff\n"), catches(b"", 10)), (None, None));
    }

    #[test]
    fn numbers_contain_only_digits() {
        assert_eq!(numbers(b"1 22\n333\n"), Some(vec![1, 22, 333]));
        assert_eq!((numbers(b""), numbers(b"1 x"), numbers(b"+1")), (Some(vec![]), None, None));
        assert_eq!(numbers(b"99999999999"), None);
        let events = b"low 0\noom 7\noom_kill 3\noom_group_kill 0\n";
        assert_eq!((value(events, "oom_kill"), value(events, "kill"), value(b"a 1x", "a")), (Some(3), None, None));
    }

    #[test]
    fn the_holder_of_a_lock_is_read_from_the_table() {
        let line = |kind: &str, access: &str, pid: i32, file: &str| {
            format!("1: {kind}  ADVISORY  {access} {pid} {file} 0 EOF\n").into_bytes()
        };
        let holder = |line: &[u8]| lock_holder(line, (8, 1), 77);
        assert_eq!(holder(&line("FLOCK", "WRITE", 7, "08:01:77")), Some(7));
        assert_eq!(holder(&line("FLOCK", "READ", 7, "08:01:77")), None);
        assert_eq!(holder(&line("POSIX", "WRITE", 7, "08:01:77")), None);
        assert_eq!(holder(&line("FLOCK", "WRITE", 7, "08:01:770")), None);
        assert_eq!(holder(b"nonsense\n\xff\n1: -> FLOCK"), None);
    }

    #[test]
    fn the_hard_limit_is_the_second_number() {
        let table =
            b"Limit  Soft Limit  Hard Limit  Units\nMax processes 1 2 processes\nMax open files  1024  524288  files\n";
        assert_eq!(hard_limit_of_descriptors(table), Some(524_288));
        assert_eq!(hard_limit_of_descriptors(b"Max open files 1024 unlimited files"), Some(u64::MAX));
        assert_eq!(hard_limit_of_descriptors(b""), None);
    }

    #[test]
    fn an_endless_file_is_an_error() {
        assert_eq!(read_all(io::repeat(1), 1000).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_all(io::repeat(1).take(1000), 1000).unwrap().len(), 1000);
    }
}
