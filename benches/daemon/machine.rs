//! Describes the machine on which the figures were measured.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::utsname::uname;

use crate::daemon::Setting;

/// A line for each thing that the figures depend on.
pub fn describe(setting: &Setting, other: Option<&Setting>) -> String {
    let system = uname().unwrap();
    let cores = thread::available_parallelism().unwrap();
    let processor = line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let mut lines = vec![
        ("machine", format!("{cores} cores ({processor}), load {} at the start", load.join(" "))),
        ("kernel", format!("{} {}", system.sysname().display(), system.release().display())),
        ("compiler", says(Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version"))),
        ("tmux", says(Command::new("tmux").arg("-V"))),
        ("agentd", says(Command::new(&setting.binary).arg("--version"))),
        ("agents", format!("as {}, login shell {}", setting.user.name, setting.user.shell.display())),
    ];
    if let Some(other) = other {
        lines.push((
            "other",
            format!("{}: {}", other.binary.display(), says(Command::new(&other.binary).arg("--version"))),
        ));
    }
    let lines: Vec<String> = lines.into_iter().map(|(what, is)| format!("{what:8} {is}\n")).collect();
    lines.concat()
}

fn line_of(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.split_once(':')?.1.trim().to_owned()))
}

fn says(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
    let all = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&all).lines().next().unwrap_or("it does not say").trim().to_owned()
}
