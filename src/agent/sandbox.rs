//! What a sandbox is: the engine that makes it, and what the harness sees in it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The sandbox of one agent.
///
/// What is not named here is read-only or absent, but for the working directory and the git directory that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The engine.
    pub engine: Engine,
    /// The engine's program; `None` to find it in the `PATH` of the login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<PathBuf>,
    /// `sandbox_read`: absolute paths that the harness can read in addition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<PathBuf>,
    /// `sandbox_write`: absolute paths that the harness can write in addition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<PathBuf>,
    /// `sandbox_home`.
    pub home: Home,
    /// What a fresh or kept home is seeded with: paths below the user's home, as far as they exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seed: Vec<PathBuf>,
    /// `network`.
    pub network: Network,
    /// `sandbox_proxy`: the absolute path of the Unix socket of an HTTP proxy, the only way out of a sandbox without a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<PathBuf>,
}

/// What of a home runs, or is believed, outside of a sandbox: at a login, by git, by `ssh`, or by the user's systemd.
///
/// A sandbox with the user's own home has it read-only, as far as it exists.
pub const RUN_OUTSIDE: [&str; 25] = [
    ".bash_login",
    ".bash_logout",
    ".bash_profile",
    ".bashrc",
    ".config/autostart",
    ".config/environment.d",
    ".config/fish",
    ".config/git",
    ".config/nix",
    ".config/systemd",
    ".config/tmux",
    ".cshrc",
    ".gitconfig",
    ".gnupg",
    ".login",
    ".pam_environment",
    ".profile",
    ".ssh",
    ".tcshrc",
    ".tmux.conf",
    ".zlogin",
    ".zlogout",
    ".zprofile",
    ".zshenv",
    ".zshrc",
];

/// Whether who can write to this path below a home can have something run outside of a sandbox.
pub fn is_run_outside(below_home: &Path) -> bool {
    RUN_OUTSIDE.iter().any(|name| Path::new(name).starts_with(below_home) || below_home.starts_with(name))
}

/// A program that makes sandboxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// bubblewrap: namespaces of the kernel.
    #[default]
    Bwrap,
    /// gVisor: a kernel of its own, in user space.
    Runsc,
    /// crun, an OCI runtime: namespaces of the kernel.
    Crun,
}

impl Engine {
    /// The engines, as jcards name them.
    pub const ALL: [Self; 3] = [Self::Bwrap, Self::Runsc, Self::Crun];

    /// The name in a jcard, which is the name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bwrap => "bwrap",
            Self::Runsc => "runsc",
            Self::Crun => "crun",
        }
    }

    /// The package that it is in on Debian and in Nix; others name it so, too.
    pub fn package(self) -> &'static str {
        match self {
            Self::Bwrap => "bubblewrap",
            Self::Runsc => "runsc (in Nix: gvisor)",
            Self::Crun => "crun",
        }
    }

    /// The engine of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The home directory in a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Home {
    /// A folder of the agent's own that outlives its attempts.
    #[default]
    Kept,
    /// An empty one at each start, in memory.
    Fresh,
    /// The user's.
    Real,
}

impl Home {
    /// As a jcard says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Fresh => "fresh",
            Self::Real => "real",
        }
    }
}

/// The network in a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The machine's.
    #[default]
    Host,
    /// None.
    None,
}

impl Network {
    /// As a jcard says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::None => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_login_run_outside() {
        assert!([".ssh", ".config", ".ssh/authorized_keys", ""].iter().all(|path| is_run_outside(Path::new(path))));
        assert!(![".cache", ".config/claude", "work"].iter().any(|path| is_run_outside(Path::new(path))));
    }
}
