//! Harness presets: which binary, and how it takes a prompt.

/// A preset. A new one is one line in [`HARNESSES`].
#[derive(Debug, PartialEq, Eq)]
pub struct Harness {
    /// As written in `harness = "…"`.
    pub name: &'static str,
    /// The default binary.
    pub binary: &'static str,
    /// The arguments that stand between the declared `args` and the prompt.
    pub prompt_args: &'static [&'static str],
}

/// Every preset there is.
pub static HARNESSES: &[Harness] = &[
    Harness { name: "claude-code", binary: "claude", prompt_args: &["-p"] },
    Harness { name: "opencode", binary: "opencode", prompt_args: &["--prompt"] },
    Harness { name: "gemini-cli", binary: "gemini", prompt_args: &[] },
    Harness { name: "codex", binary: "codex", prompt_args: &["exec"] },
    Harness { name: "custom", binary: "agent", prompt_args: &[] },
];

impl Harness {
    /// The preset of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        HARNESSES.iter().find(|harness| harness.name == name)
    }
}
