//! Measures the size of the binary, and the time of its build.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::daemon::Setting;
use crate::table::{Table, Unit};

pub fn binary(setting: &Setting, table: &mut Table) {
    table.single("size of the binary", Unit::Bytes, fs::metadata(&setting.binary).unwrap().len());
}

/// From nothing but the sources of everything, which are fetched before.
pub fn build(table: &mut Table) {
    let folder = tempfile::tempdir().unwrap();
    let cargo = |words: &[&str]| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(words).arg("--locked").current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
        let status = command.env("CARGO_TARGET_DIR", folder.path()).status().unwrap();
        assert!(status.success(), "cargo {words:?}: {status}");
    };
    cargo(&["fetch", "--quiet"]);
    let from = Instant::now();
    cargo(&["build", "--quiet", "--release", "--bin", "agentd"]);
    table.times("cold build", &[from.elapsed()]);
}
