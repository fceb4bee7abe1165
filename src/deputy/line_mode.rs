//! Whether a program reads its terminal line by line, or takes each key at once.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use nix::fcntl::OFlag;
use rustix::termios::{LocalModes, tcgetattr};

use crate::sys::procfs;

/// The major numbers of terminals in `/dev/pts` begin here; each has 256 of the minor numbers (`Documentation/admin-guide/devices.txt`).
const PTS_MAJOR: u32 = 136;

/// Whether the terminal of this process is in canonical mode (`termios(3)`). Opens that terminal with the rights of this process.
pub(super) fn is_canonical(pid: i32) -> Result<bool, String> {
    let stat = procfs::read(format!("/proc/{pid}/stat")).map_err(|error| format!("process {pid}: {error}"))?;
    let device = device(&stat).ok_or_else(|| format!("process {pid} has no terminal"))?;
    let path = format!("/dev/pts/{}", device & 0xff | (device >> 12) & 0xf_ff00);
    // Neither its controlling terminal nor anything to wait for.
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let terminal = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path);
    let terminal = terminal.map_err(|error| format!("{path}: {error}"))?;
    let metadata = terminal.metadata().map_err(|error| format!("{path}: {error}"))?;
    if !metadata.file_type().is_char_device() || metadata.rdev() != u64::from(device) {
        return Err(format!("{path} is not the terminal of process {pid}"));
    }
    let modes = tcgetattr(&terminal).map_err(|error| format!("{path}: {error}"))?;
    Ok(modes.local_modes.contains(LocalModes::ICANON))
}

/// The controlling terminal according to `/proc/PID/stat` (`proc_pid_stat(5)`), if it is one in `/dev/pts`.
fn device(stat: &[u8]) -> Option<u32> {
    let stat = std::str::from_utf8(stat).ok().map_or_else(|| String::from_utf8_lossy(stat).into_owned(), str::to_owned);
    // The name in parentheses may contain anything.
    let device: u32 = stat.rsplit_once(") ")?.1.split(' ').nth(4)?.parse().ok()?;
    let major = device >> 8 & 0xfff;
    (PTS_MAJOR..PTS_MAJOR + 8).contains(&major).then_some(device)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::sys::pty_child::{PtyChild, terminal};

    #[tokio::test]
    async fn mode_of_a_terminal_is_found_by_its_process() {
        for (command, expected) in [("read _", true), ("stty raw; echo; read _", false)] {
            let (window, pts) = terminal().unwrap();
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", &format!("stty -opost; echo $$; {command}")]);
            let mut child = PtyChild::start(shell, pts).unwrap();
            let mut said = Vec::new();
            let end: &[u8] = if expected { b"\n" } else { b"\n\n" };
            while !said.ends_with(end) {
                let mut bytes = [0; 64];
                let count = window.read(&mut bytes).await.unwrap();
                said.extend_from_slice(&bytes[..count]);
            }
            let pid = String::from_utf8(said).unwrap().lines().next().unwrap().trim().parse().unwrap();
            assert_eq!(is_canonical(pid), Ok(expected), "{command}");
            child.handle().unwrap().terminate();
            child.finish(std::time::Duration::from_secs(5)).await.unwrap();
        }
        assert!(is_canonical(i32::MAX).is_err());
    }

    #[test]
    fn terminal_is_read_whatever_the_name_is() {
        assert_eq!(device(b"7 (a) 1 2) S 1 7 7 34817 7 0"), Some(34817));
        assert_eq!(device(b"7 (\xff) S 1 7 7 1025 7 0"), None, "a console");
        assert_eq!(device(b"7 (a) S 1 7 7 0 -1 0"), None);
        assert_eq!(device(b"7 (a"), None);
    }
}
