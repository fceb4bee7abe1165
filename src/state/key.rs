//! The key that fingerprints are made with, in the state directory.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use nix::libc::{O_CLOEXEC, O_NOFOLLOW};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::agent::approval::Asking;
use crate::agent::changes::Marking;
use crate::agent::fingerprint::{Fingerprint, VERSION};
use crate::agent::launch::Launch;
use crate::agent::sandbox::Sandbox;
use crate::sys::PathError;
use crate::sys::atomic_file::{self, Durability};

/// The block size of the hash: a key of this length is used unchanged (RFC 2104).
pub const KEY_LENGTH: usize = 64;

const FILE: &str = "key";

const RANDOM: &str = "/dev/urandom";

/// The key cannot be read or created.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(#[from] PathError);

/// The key for fingerprints. Its `Debug` does not show it.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_LENGTH]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// Reads the key in this state directory, and creates one if there is none. Blocks.
    pub fn of(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let failed = |source: io::Error| PathError::new("read or make the key", &path, source).into();
        match Self::read(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                Self::make(&path).map_err(failed)
            }
            key => key.map_err(failed),
        }
    }

    /// A key for this process only, for use when none can be stored.
    pub fn ephemeral() -> Result<Self, Error> {
        Self::random().map_err(|source| PathError::new("read or make the key", RANDOM, source).into())
    }

    fn read(path: &Path) -> io::Result<Self> {
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_CLOEXEC).open(path)?.read_exact(&mut *key)?;
        Ok(Self(key))
    }

    fn make(path: &Path) -> io::Result<Self> {
        let key = Self::random()?;
        atomic_file::write(path, &*key.0, Durability::Now)?;
        Ok(key)
    }

    fn random() -> io::Result<Self> {
        let mut key = Zeroizing::new([0; KEY_LENGTH]);
        File::open(RANDOM)?.read_exact(&mut *key)?;
        Ok(Self(key))
    }

    /// The fingerprint of a launch. For many of them, use one [`Marker`].
    pub fn fingerprint(&self, launch: &Launch) -> Fingerprint {
        self.marker().fingerprint(launch)
    }

    /// Which key it is, so that only what was made with one key is compared.
    fn name(&self) -> String {
        let mut of_the_key = self.hash();
        of_the_key.text(b"which key");
        format!("{VERSION}-{:.8}", of_the_key.finish())
    }

    /// Makes fingerprints and marks with this key.
    pub fn marker(&self) -> Marker {
        let mark = MarkHash(Sha256::new_with_prefix(self.0.as_slice()));
        Marker { keyed: self.hash(), mark, key: self.name() }
    }

    fn hash(&self) -> Hash {
        Hash(Hmac::new(&(*self.0).into()))
    }
}

/// Makes the fingerprints of launches, and the [marks](crate::agent::changes::Marks) of what is launched: 32 bits each.
///
/// Taking in the key costs as much as a short text does. So that is done once for all launches.
pub struct Marker {
    /// Has taken in the key.
    keyed: Hash,
    /// Has taken in the key.
    mark: MarkHash,
    key: String,
}

impl Marker {
    /// The fingerprint of a launch.
    pub fn fingerprint(&self, launch: &Launch) -> Fingerprint {
        let (mut hash, mut environment) = (self.keyed.clone(), self.keyed.clone());
        hash.text(launch.name.as_str().as_bytes());
        hash.text(launch.session.as_str().as_bytes());
        hash.text(launch.workdir.as_os_str().as_encoded_bytes());
        hash.count(launch.arguments.len());
        for argument in &launch.arguments {
            hash.text(argument.as_slice());
        }
        // Builds before know the default user only: what that user launches keeps its fingerprint.
        if let Some(user) = &launch.user {
            hash.text(b"user");
            hash.text(user.name.as_str().as_bytes());
            hash.text(&user.uid.to_le_bytes());
        }
        if let Some(umask) = launch.umask {
            hash.text(b"umask");
            hash.text(&umask.to_le_bytes());
        }
        if launch.trust_repository {
            hash.text(b"trust_repository");
        }
        if let Some(Asking { timeout, rules }) = &launch.asking {
            hash.text(b"asking");
            hash.text(&timeout.as_nanos().to_le_bytes());
            hash.count(rules.len());
            for rule in rules {
                hash.text(rule.pattern.as_bytes());
                hash.text(rule.then.word().as_bytes());
            }
        }
        if let Some(stream) = launch.stream {
            hash.text(b"stream");
            hash.text(format!("{stream:?}").as_bytes());
        }
        if let Some(sandbox) = &launch.sandbox {
            hash.text(b"sandbox");
            // What a new home is filled with changes nothing about one that is there. Nothing here can fail to be written.
            let sandbox = Sandbox { seed: Vec::new(), ..sandbox.clone() };
            hash.text(&serde_json::to_vec(&sandbox).unwrap_or_default());
        }
        if !launch.packages.is_empty() {
            hash.text(b"packages");
            hash.count(launch.packages.len());
            launch.packages.iter().for_each(|package| hash.text(package.as_str().as_bytes()));
        }
        // Not how: a version of agentd that says it otherwise relaunches no agent.
        if launch.session_words.is_some() {
            hash.text(b"resume");
        }
        if launch.has_secret_files {
            hash.text(b"secret_files");
        }
        if !launch.skills.is_empty() {
            hash.text(b"skills");
            hash.count(launch.skills.len());
            for skill in &launch.skills {
                hash.text(skill.name.as_bytes());
                hash.text(skill.folder.as_os_str().as_encoded_bytes());
            }
        }
        environment.count(launch.environment.len());
        for (name, value) in &launch.environment {
            environment.text(name.as_bytes());
            environment.text(value.as_slice());
        }
        Fingerprint(format!("{}:{}:{}", self.key, hash.finish(), environment.finish()))
    }

    /// What tells apart what conversations are about, made of these parts of it.
    pub fn scope<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut hash = self.keyed.clone();
        hash.text(b"conversation");
        parts.into_iter().for_each(|part| hash.text(part));
        format!("{}:{:.32}", self.key, hash.finish())
    }

    /// To collect marks in.
    pub fn begin(&self) -> Marking {
        Marking::new(&self.key)
    }

    /// The mark of a field, variable or secret with these values.
    pub fn mark<'a>(&self, name: &str, values: impl IntoIterator<Item = &'a [u8]>) -> u32 {
        let mut hash = self.mark.clone();
        hash.text(name.as_bytes());
        values.into_iter().for_each(|value| hash.text(value));
        hash.finish()
    }
}

/// A hash that begins with the key, a block of its own: half the work of an HMAC.
///
/// What makes that unsafe in general does not hold here: every part has its length before it, and only a few bits of the result are
/// told, so nobody can continue a hash.
#[derive(Clone)]
struct MarkHash(Sha256);

impl MarkHash {
    fn text(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The first bits of the hash.
    fn finish(self) -> u32 {
        self.0.finalize().iter().take(4).fold(0, |mark, &byte| mark << 8 | u32::from(byte))
    }
}

/// Hashes every part with its length, so that no two launches give the same input.
#[derive(Clone)]
struct Hash(Hmac<Sha256>);

impl Hash {
    fn count(&mut self, count: usize) {
        self.0.update(&(count as u64).to_le_bytes());
    }

    fn text(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    /// The hash in hexadecimal digits.
    fn finish(self) -> String {
        self.0.finalize().into_bytes().iter().fold(String::new(), |mut text, byte| {
            // Writing to a string never fails.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::agent::approval::{Rule, Then};
    use crate::agent::fingerprint::Fingerprint;
    use crate::agent::packages::Package;
    use crate::agent::user::AgentUser;
    use crate::sys::secret_bytes::SecretBytes;

    fn launch(arguments: &[&str], environment: &[(&str, &str)]) -> Launch {
        Launch {
            name: "a".parse().unwrap(),
            session: "a".parse().unwrap(),
            user: None,
            arguments: arguments.iter().copied().map(SecretBytes::from).collect(),
            environment: environment.iter().map(|&(name, value)| (name.to_owned(), SecretBytes::from(value))).collect(),
            ..Launch::of_nothing()
        }
    }

    fn as_user(name: &str, uid: u32) -> Launch {
        Launch { user: Some(AgentUser { name: name.parse().unwrap(), uid }), ..launch(&["a"], &[]) }
    }

    fn with_packages(names: &[&str]) -> Launch {
        let packages = names.iter().map(|name| Package::new(name).unwrap()).collect();
        Launch { packages, ..launch(&["a"], &[]) }
    }

    /// It bounds a start, and is nothing that is started.
    #[test]
    fn the_time_for_packages_does_not_count() {
        let (key, launch) = (Key::ephemeral().unwrap(), with_packages(&["b"]));
        let patient = Launch { packages_timeout: launch.packages_timeout * 2, ..launch.clone() };
        assert_eq!(key.fingerprint(&launch), key.fingerprint(&patient));
    }

    #[test]
    fn the_next_daemon_finds_the_same_key() {
        let directory = TempDir::new().unwrap();
        let print = |key: Key| key.fingerprint(&launch(&["x"], &[("KEY", "k")]));
        let first = print(Key::of(directory.path()).unwrap());
        assert_eq!(first, print(Key::of(directory.path()).unwrap()));
        let other = print(Key::ephemeral().unwrap());
        assert!(first != other && !first.differs_from(&other));
        let mode = fs::metadata(directory.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_sandbox_changes_a_fingerprint_but_for_its_seed() {
        let key = Key::ephemeral().unwrap();
        let of = |json: Option<&str>| {
            let sandbox = json.map(|json| serde_json::from_str(json).unwrap());
            key.fingerprint(&Launch { sandbox, ..launch(&["x"], &[]) })
        };
        let kept = of(Some(r#"{"engine":"bwrap","home":"kept","network":"host"}"#));
        let seeded = of(Some(r#"{"engine":"bwrap","home":"kept","network":"host","seed":[".x"]}"#));
        let other = of(Some(r#"{"engine":"crun","home":"kept","network":"host"}"#));
        assert_eq!(kept, seeded);
        assert!(kept.differs_in_command_from(&other) && kept.differs_in_command_from(&of(None)));
    }

    #[test]
    fn a_truncated_key_is_replaced() {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join(FILE), "short").unwrap();
        Key::of(directory.path()).unwrap();
        assert_eq!(fs::read(directory.path().join(FILE)).unwrap().len(), KEY_LENGTH);
    }

    fn asking(seconds: u64, rules: &[(&str, Then)]) -> Asking {
        let rules = rules.iter().map(|&(pattern, then)| Rule { pattern: pattern.to_owned(), then }).collect();
        Asking { timeout: Duration::from_secs(seconds), rules }
    }

    /// Daemons compare with what earlier ones have recorded.
    #[test]
    fn fingerprints_and_marks_of_a_key_stay_as_they_were() {
        let marker = Key(Zeroizing::new([7; KEY_LENGTH])).marker();
        let print = marker.fingerprint(&launch(&["x", "y"], &[("KEY", "k")]));
        assert_eq!(
            print.0,
            "1-ccb9a24b:4271066e973c22c639bfda3f28aa161f5f071695051b9a7b5ab1d0ad8bb97502:\
             4a0a951168e70f56300e2de926853df6b14d16bfda08a4c52a32397c5db7fd58"
        );
        assert_eq!(marker.mark("a", [&b"x"[..], b"y"]), 0x9d42_1e97);
    }

    #[test]
    fn marks_depend_on_key_name_and_values() {
        let (key, other) = (Key::ephemeral().unwrap(), Key::ephemeral().unwrap());
        let mark = |key: &Key, name: &str, values: &[&[u8]]| key.marker().mark(name, values.iter().copied());
        let marks = [
            mark(&key, "a", &[b"x"]),
            mark(&other, "a", &[b"x"]),
            mark(&key, "b", &[b"x"]),
            mark(&key, "a", &[b"y"]),
            mark(&key, "a", &[b"x", b""]),
        ];
        assert_eq!(BTreeSet::from(marks).len(), marks.len());
        assert_eq!(mark(&key, "a", &[b"x"]), marks[0]);
    }

    #[test]
    fn every_part_counts_and_no_two_launches_collide() {
        let key = Key::ephemeral().unwrap();
        let launches = [
            launch(&["a", "b"], &[]),
            launch(&["ab"], &[]),
            launch(&["a"], &[("b", "")]),
            launch(&["a"], &[("", "b")]),
            launch(&[], &[("a", "b")]),
            Launch { workdir: "/b".into(), ..launch(&["a"], &[]) },
            Launch { session: "b".parse().unwrap(), ..launch(&["a"], &[]) },
            Launch { umask: Some(2), ..launch(&["a"], &[]) },
            Launch { umask: Some(0), ..launch(&["a"], &[]) },
            Launch { trust_repository: true, ..launch(&["a"], &[]) },
            Launch { asking: Some(asking(60, &[])), ..launch(&["a"], &[]) },
            Launch { asking: Some(asking(61, &[])), ..launch(&["a"], &[]) },
            Launch { asking: Some(asking(60, &[("ls", Then::Allow)])), ..launch(&["a"], &[]) },
            Launch { asking: Some(asking(60, &[("ls", Then::Deny)])), ..launch(&["a"], &[]) },
            as_user("b", 7),
            as_user("c", 7),
            // A user of the same name is another one.
            as_user("b", 8),
            launch(&["a", "user", "b"], &[]),
            with_packages(&["b"]),
            with_packages(&["b", "c"]),
            with_packages(&["c", "b"]),
        ];
        let prints: BTreeMap<String, usize> =
            launches.iter().enumerate().map(|(at, launch)| (key.fingerprint(launch).0, at)).collect();
        assert_eq!(prints.len(), launches.len());
    }

    #[test]
    fn fingerprints_of_different_keys_are_not_known_to_differ() {
        let of = |text: &str| Fingerprint(text.to_owned());
        assert!(of("1:a:e").differs_from(&of("1:b:e")));
        assert!(of("1:a:e").differs_from(&of("1:a:f")));
        assert!(!of("1:a:e").differs_from(&of("1:a:e")));
        assert!(!of("1:a:e").differs_from(&of("2:b:e")));
        assert!(!of("").differs_from(&of("1:b:e")));
        assert!(!of("").differs_from(&of("x")));
        assert!(!of("1:a:e").differs_in_command_from(&of("1:a:f")));
        assert!(of("1:a:e").differs_in_command_from(&of("1:b:e")));
    }
}
