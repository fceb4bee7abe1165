//! Which form the machine-readable output of a harness has.

use serde::{Deserialize, Serialize};

/// The form of a harness's machine-readable output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamKind {
    /// Of Claude Code and Qwen Code.
    Claude,
    /// Of Codex.
    Codex,
    /// Of Gemini CLI.
    Gemini,
    /// Of opencode.
    Opencode,
    /// Of pi.
    Pi,
}
