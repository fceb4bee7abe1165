//! Fuzzes the secrets directory: whatever is in it, good values are read as written, bad ones leave the last good ones in place, and no
//! value is shown. An input describes a directory that is read several times as it changes.
//!
//! Readings are separated by 0xfe, and the entries of each by 0xfd. An entry is a letter for what it is, a name, 0xff, and a
//! content.

#![no_main]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use agentd::agent::secrets::Secrets;
use agentd::inputs::secrets::{Named, read};
use agentd::sys::exec::MAX_ARGUMENT;
use agentd::sys::exec::is_variable_name;
use libfuzzer_sys::fuzz_target;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// Stands for a secret.
const CANARY: &str = "hunter2";

/// The most entries of one reading, for the sake of speed.
const MAX_ENTRIES: usize = 50;

type Values = BTreeMap<String, Vec<u8>>;

fuzz_target!(|input: &[u8]| {
    static FOLDERS: OnceLock<Folders> = OnceLock::new();
    let folders = FOLDERS.get_or_init(Folders::new);
    let (mut last, mut last_expected) = (Secrets::default(), Values::new());
    for entries in input.split(|&byte| byte == 0xfe) {
        folders.clear();
        let mut expected = Values::new();
        let mut problems = 0;
        for entry in entries.split(|&byte| byte == 0xfd).take(MAX_ENTRIES) {
            let Some((name, outcome)) = folders.put(entry) else { continue };
            if !is_variable_name(&name) {
                continue;
            }
            let value = match outcome {
                Outcome::Value(value) => Some(value),
                Outcome::Nothing => None,
                Outcome::Problem => {
                    problems += 1;
                    last_expected.get(&name).cloned()
                }
            };
            expected.extend(value.map(|value| (name, value)));
        }

        let reading = read(&folders.secrets, &Named::default(), &last);
        let values: Values =
            reading.secrets.iter().map(|(name, value)| (name.clone(), value.as_slice().to_vec())).collect();
        assert_eq!(values, expected);
        assert_eq!(reading.problems.len(), problems);
        assert!(reading.changed.is_some());
        let error = reading.error().unwrap_or_default();
        assert_eq!(error.lines().count(), problems, "{error}");
        assert!(!error.lines().any(|line| line.contains(char::is_control)), "{error}");
        let is_named = fs::read_dir(&folders.secrets).into_iter().flatten().flatten();
        let mut names = is_named.map(|entry| entry.file_name());
        assert!(!error.contains(CANARY) || names.any(|name| name.to_string_lossy().contains(CANARY)), "{error}");
        (last, last_expected) = (reading.secrets, expected);
    }
});

/// What comes of an entry.
enum Outcome {
    Value(Vec<u8>),
    Nothing,
    Problem,
}

/// Where the entries are made.
struct Folders {
    secrets: PathBuf,
    /// What links lead to.
    elsewhere: PathBuf,
}

impl Folders {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("agentd-fuzz-{}", std::process::id()));
        let folders = Self { secrets: folder.join("secrets"), elsewhere: folder.join("elsewhere") };
        folders.clear();
        folders
    }

    fn clear(&self) {
        for folder in [&self.secrets, &self.elsewhere] {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{}: {error}", folder.display()),
                _ => fs::create_dir_all(folder).expect("folders can be made"),
            }
        }
    }

    /// Makes an entry, if there can be one like it.
    fn put(&self, entry: &[u8]) -> Option<(String, Outcome)> {
        let (kind, entry) = entry.split_first()?;
        let end = entry.iter().position(|&byte| byte == 0xff)?;
        let (name, content) = (&entry[..end], &entry[end + 1..]);
        // Nothing is made anywhere but here.
        if [&b""[..], b".", b".."].contains(&name) || name.contains(&b'/') {
            return None;
        }
        let path = self.secrets.join(OsStr::from_bytes(name));
        let outcome = self.make(*kind, &path, content, name.len()).ok()?;
        Some((String::from_utf8_lossy(name).into_owned(), outcome))
    }

    fn make(&self, kind: u8, path: &Path, content: &[u8], name_length: usize) -> io::Result<Outcome> {
        match kind {
            b'f' => {
                File::create_new(path)?.write_all(content)?;
                Ok(outcome(content, name_length))
            }
            // The content over and over, to about the length that is just taken.
            b'b' => {
                let length = MAX_ARGUMENT - 128 + content.len();
                let content: Vec<u8> = content.iter().copied().cycle().take(length).collect();
                File::create_new(path)?.write_all(&content)?;
                Ok(outcome(&content, name_length))
            }
            b'l' => {
                let target = self.elsewhere.join(path.file_name().unwrap_or_default());
                symlink(&target, path)?;
                File::create_new(target)?.write_all(content)?;
                Ok(outcome(content, name_length))
            }
            b'd' => fs::create_dir(path).map(|()| Outcome::Nothing),
            b'x' => symlink(self.elsewhere.join("nothing/here"), path).map(|()| Outcome::Problem),
            b'o' => symlink(path, path).map(|()| Outcome::Problem),
            b'p' => Ok(mkfifo(path, Mode::S_IRWXU).map(|()| Outcome::Problem)?),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// What is to be made of a file's content.
fn outcome(content: &[u8], name_length: usize) -> Outcome {
    let mut value = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content);
    while let [rest @ .., b'\r', b'\n'] | [rest @ .., b'\n'] = value {
        value = rest;
    }
    if value.contains(&0) || name_length + 1 + value.len() > MAX_ARGUMENT {
        Outcome::Problem
    } else {
        Outcome::Value(value.to_vec())
    }
}
