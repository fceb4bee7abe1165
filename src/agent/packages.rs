//! What `extra_packages` names: programs of Nix that an agent has beside those of the machine.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long the packages of an agent may take to be built or downloaded.
pub const TIMEOUT: Duration = Duration::from_mins(10);

/// The longest name of a package.
const MAX_LENGTH: usize = 255;

/// The length of the hash in the name of a store path.
const HASH_LENGTH: usize = 32;

/// One package: an attribute of the flake `nixpkgs`, such as `ripgrep` or `python3Packages.numpy`, or a path in the store of Nix.
///
/// No other reference to a flake is one. What `nixpkgs` is, the registry of the machine or of the agent user says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Package(String);

/// Why a text names no package. The message says what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPackage {
    /// It is empty.
    #[error("is empty; write the name of a package in nixpkgs, such as \"ripgrep\", or remove it")]
    Empty,
    /// It is too long.
    #[error("is too long; the name of a package has at most {MAX_LENGTH} characters")]
    TooLong,
    /// It refers to a flake.
    #[error(
        "refers to a flake; write only the name in nixpkgs, such as \"ripgrep\": the registry of Nix says what nixpkgs is"
    )]
    FlakeReference,
    /// It is a path, but not in a store.
    #[error("is not a store path like /nix/store/<hash>-<name>; write that, or the name of a package in nixpkgs")]
    NoStorePath,
    /// It has other characters, or an empty part.
    #[error("is not a name in nixpkgs; it has letters, digits and . _ + -, and dots only between other characters")]
    NoAttribute,
}

impl Package {
    /// The package of this name.
    pub fn new(name: &str) -> Result<Self, NoPackage> {
        let is_part = |part: &str| !part.is_empty() && part.chars().all(is_of_name);
        if name.is_empty() {
            Err(NoPackage::Empty)
        } else if name.len() > MAX_LENGTH {
            Err(NoPackage::TooLong)
        } else if name.starts_with('/') {
            if is_store_path(Path::new(name)) { Ok(Self(name.to_owned())) } else { Err(NoPackage::NoStorePath) }
        } else if name.contains([':', '#', '/', '?']) {
            Err(NoPackage::FlakeReference)
        } else if name.split('.').all(is_part) && !name.starts_with('-') {
            Ok(Self(name.to_owned()))
        } else {
            Err(NoPackage::NoAttribute)
        }
    }

    /// As it is written in a jcard.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The store path, if it is one.
    pub fn store_path(&self) -> Option<&Path> {
        self.0.starts_with('/').then_some(Path::new(&self.0))
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Package {
    type Error = NoPackage;

    fn try_from(name: String) -> Result<Self, NoPackage> {
        Self::new(&name)
    }
}

impl From<Package> for String {
    fn from(package: Package) -> Self {
        package.0
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || ['_', '+', '-'].contains(&c)
}

/// Whether a path has the form of one in a store: `…/HASH-NAME`, and nothing below that.
pub fn is_store_path(path: &Path) -> bool {
    let is_plain = path.is_absolute()
        && path.components().all(|component| matches!(component, Component::RootDir | Component::Normal(_)));
    let Some((hash, name)) = path.file_name().and_then(|name| name.to_str()?.split_once('-')) else { return false };
    let is_hash = hash.len() == HASH_LENGTH && hash.chars().all(|c| matches!(c, '0'..='9' | 'a'..='z'));
    let is_name = !name.is_empty() && name.chars().all(|c| is_of_name(c) || ['.', '?', '='].contains(&c));
    is_plain && is_hash && is_name && path.to_str().is_some_and(|path| !path.ends_with('/') && !path.contains("//"))
}

/// Packages that are there: what a harness gets of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// The folders of their programs, in the order of the entry.
    pub programs: Vec<PathBuf>,
    /// Every store path that they need, themselves included.
    pub closure: Vec<PathBuf>,
}

/// How a search for packages ended, as the step that does it tells the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All of them are there.
    Built(Built),
    /// One of them is not, for this reason.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("ripgrep")]
    #[case("python3Packages.numpy")]
    #[case("gtk+")]
    #[case("_7zz")]
    #[case("nodejs_22")]
    #[case("/nix/store/00000000000000000000000000000000-ripgrep-14.1.1")]
    #[case("/home/agent/nix/store/0123456789abcdfghijklmnpqrsvwxyz-x")]
    fn names_and_store_paths_are_packages(#[case] name: &str) {
        assert_eq!(Package::new(name).unwrap().as_str(), name);
    }

    #[rstest]
    #[case("", NoPackage::Empty)]
    #[case("github:NixOS/nixpkgs#hello", NoPackage::FlakeReference)]
    #[case("nixpkgs#hello", NoPackage::FlakeReference)]
    #[case("./flake", NoPackage::FlakeReference)]
    #[case("a/b", NoPackage::FlakeReference)]
    #[case("--impure", NoPackage::NoAttribute)]
    #[case("a b", NoPackage::NoAttribute)]
    #[case(".a", NoPackage::NoAttribute)]
    #[case("a..b", NoPackage::NoAttribute)]
    #[case("hello^dev", NoPackage::NoAttribute)]
    #[case("h\u{e9}llo", NoPackage::NoAttribute)]
    #[case("a\nb", NoPackage::NoAttribute)]
    #[case("/", NoPackage::NoStorePath)]
    #[case("/etc/passwd", NoPackage::NoStorePath)]
    #[case("/nix/store/00000000000000000000000000000000-x/bin", NoPackage::NoStorePath)]
    #[case("/nix/store/../00000000000000000000000000000000-x", NoPackage::NoStorePath)]
    #[case("/nix/store/00000000000000000000000000000000-x/", NoPackage::NoStorePath)]
    #[case("/nix/store/short-x", NoPackage::NoStorePath)]
    fn other_texts_are_refused_with_a_reason(#[case] name: &str, #[case] why: NoPackage) {
        assert_eq!(Package::new(name), Err(why));
    }

    #[test]
    fn a_long_name_is_refused() {
        assert_eq!(Package::new(&"a".repeat(256)), Err(NoPackage::TooLong));
    }

    proptest! {
        #[test]
        fn no_package_is_an_option_or_another_flake(name in ".{0,40}") {
            if let Ok(package) = Package::new(&name) {
                let text = package.as_str();
                prop_assert!(!text.starts_with('-') && !text.contains(['#', ':', '\0', ' ', '\n']));
                prop_assert_eq!(package.store_path().is_some(), text.starts_with('/'));
            }
        }
    }
}
