//! Harness presets: which binary, and how its command line takes a prompt.
//!
//! A prompt is data, and command lines have places where data is taken for something else: an option if it begins with `-`, a
//! subcommand if it is one's name, the content of a file if it begins with `@`. Each preset therefore knows a form of its command
//! line in which a prompt cannot be anything but a prompt. Where an earlier version of agentd used another form, that form is kept
//! for the prompts that it is right for, so that nobody's agents change.

pub mod rule;

use std::borrow::Cow;

use crate::sys::secret_bytes::SecretBytes;

/// A preset. A new one is one entry in [`HARNESSES`].
#[derive(Debug, PartialEq, Eq)]
pub struct Harness {
    /// As written in `harness = "…"`.
    pub name: &'static str,
    /// The default binary.
    pub binary: &'static str,
    /// What stands before the declared `args` when there is no prompt.
    alone: &'static [&'static str],
    /// With a prompt, when the entry says nothing of `interactive`.
    unset: Forms,
    /// `interactive = false`: works on the prompt, and ends.
    once: Forms,
    /// `interactive = true`: begins with the prompt, and stays at its terminal.
    stays: Forms,
    /// Whether a prompt that needs no [`Forms::guarded`] form stays open when the entry says nothing of `interactive`.
    stays_by_default: bool,
    /// What a prompt of one word must not be taken for: the subcommands, and their aliases.
    subcommands: &'static [&'static str],
    /// Whether it looks for a subcommand after `--` as well, unless it is to end.
    looks_behind_dashes: bool,
    /// Options that take the prompt, with which the `args` of an entry may end: a remedy from before `interactive`.
    prompt_options: &'static [&'static str],
    /// Prompts that no form of the command line can convey.
    unspeakable: &'static [&'static str],
    /// Variables that it is given, under everything that is declared.
    variables: &'static [(&'static str, &'static str)],
    /// More of them for when it stays at its terminal.
    variables_at_terminal: &'static [(&'static str, &'static str)],
    /// What the home of a sandbox is filled with when it is made, as paths below the user's home: the login, and what its user
    /// configured it with. Nothing that it keeps of its work, such as transcripts, and no program that it would install.
    pub seed: &'static [&'static str],
    /// The sandbox that it makes itself around the commands that it runs.
    own_sandbox: OwnSandbox,
}

/// The sandbox of a harness itself. In a sandbox of agentd it cannot be made, or keeps nothing out that is not out already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OwnSandbox {
    /// The words that do without it.
    off: &'static [&'static str],
    /// Words of a command line that say something about it: then it is as they say. Those that end in `=` have something after it.
    words: &'static [&'static str],
}

/// The command lines of one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Forms {
    /// For prompts that cannot be taken for anything else.
    plain: Form,
    /// For all prompts.
    guarded: Form,
}

/// A command line, around the declared `args`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    /// Between the command and `args`.
    before_args: &'static [&'static str],
    /// After `args`.
    prompt: Place,
}

/// How the prompt stands after `args`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// These words, then the prompt as an argument of its own.
    After(&'static [&'static str]),
    /// One argument: this option, `=`, and the prompt.
    JoinedTo(&'static str),
}

use Place::{After, JoinedTo};

impl Forms {
    /// One form for all prompts.
    const fn only(form: Form) -> Self {
        Self { plain: form, guarded: form }
    }
}

const fn form(before_args: &'static [&'static str], prompt: Place) -> Form {
    Form { before_args, prompt }
}

const NO_SANDBOX: OwnSandbox = OwnSandbox { off: &[], words: &[] };
const CODEX_SANDBOX: OwnSandbox = OwnSandbox {
    off: &["--sandbox", "danger-full-access"],
    words: &[
        "-s",
        "--sandbox",
        "--sandbox=",
        "--full-auto",
        "--dangerously-bypass-approvals-and-sandbox",
        "--yolo",
        "sandbox_mode=",
        "-csandbox_mode=",
        "--config=sandbox_mode=",
    ],
};

const CLAUDE_ONCE: Forms = Forms { plain: form(&[], After(&["-p"])), guarded: form(&[], After(&["-p", "--"])) };
const CODEX_ONCE: Forms = Forms::only(form(&["exec", "--skip-git-repo-check"], After(&["--"])));
const CODEX_AT_TERMINAL: &[&str] = &["--no-daemon"];
const GEMINI_ONCE: Forms = Forms::only(form(&[], JoinedTo("--prompt")));
const OPENCODE_ONCE: Forms = Forms::only(form(&["run"], After(&["--"])));
const AS_IT_IS: Forms = Forms::only(form(&[], After(&[])));

/// Of Claude Code 2.1. Its state (`.claude.json`) has the account, the servers of tools, and what was answered once and for all.
const CLAUDE_SEED: &[&str] = &[
    ".claude.json",
    ".claude/.credentials.json",
    ".claude/CLAUDE.md",
    ".claude/agents",
    ".claude/commands",
    ".claude/hooks",
    ".claude/keybindings.json",
    ".claude/output-styles",
    ".claude/rules",
    ".claude/settings.json",
    ".claude/skills",
];
/// Of codex 0.171. `.codex/.credentials.json` has the logins of tool servers.
const CODEX_SEED: &[&str] = &[
    ".agents/skills",
    ".codex/.credentials.json",
    ".codex/.env",
    ".codex/AGENTS.md",
    ".codex/AGENTS.override.md",
    ".codex/agents",
    ".codex/auth.json",
    ".codex/config.toml",
    ".codex/hooks.json",
    ".codex/prompts",
    ".codex/rules",
    ".codex/skills",
];
/// Of gemini 0.61. `.gemini/gemini-credentials.json` has logins where there is no keyring.
const GEMINI_SEED: &[&str] = &[
    ".agents/skills",
    ".gemini/.env",
    ".gemini/GEMINI.md",
    ".gemini/acknowledgments",
    ".gemini/agents",
    ".gemini/commands",
    ".gemini/gemini-credentials.json",
    ".gemini/google_accounts.json",
    ".gemini/installation_id",
    ".gemini/keybindings.json",
    ".gemini/mcp-oauth-tokens.json",
    ".gemini/mcp-server-enablement.json",
    ".gemini/oauth_creds.json",
    ".gemini/policies",
    ".gemini/settings.json",
    ".gemini/skills",
    ".gemini/trustedFolders.json",
    ".gemini/trusted_hooks.json",
];
/// Of opencode 1.18, whose folders have two names each.
const OPENCODE_SEED: &[&str] = &[
    ".agents/skills",
    ".config/opencode/AGENTS.md",
    ".config/opencode/agent",
    ".config/opencode/agents",
    ".config/opencode/command",
    ".config/opencode/commands",
    ".config/opencode/config.json",
    ".config/opencode/mode",
    ".config/opencode/modes",
    ".config/opencode/opencode.json",
    ".config/opencode/opencode.jsonc",
    ".config/opencode/package.json",
    ".config/opencode/plugin",
    ".config/opencode/plugins",
    ".config/opencode/skill",
    ".config/opencode/skills",
    ".config/opencode/themes",
    ".config/opencode/tool",
    ".config/opencode/tools",
    ".config/opencode/tui.json",
    ".local/share/opencode/auth.json",
    ".local/share/opencode/mcp-auth.json",
    ".local/state/opencode/model.json",
];

/// Every preset there is. The names of subcommands are those of Claude Code 2.1, codex 0.171, gemini 0.61 and opencode 1.18.
pub static HARNESSES: &[Harness] = &[
    Harness {
        name: "claude-code",
        binary: "claude",
        alone: &[],
        unset: CLAUDE_ONCE,
        once: CLAUDE_ONCE,
        stays: Forms { plain: form(&[], After(&[])), guarded: form(&[], After(&["--"])) },
        stays_by_default: false,
        subcommands: &[
            "agents",
            "auth",
            "auto-mode",
            "doctor",
            "gateway",
            "install",
            "mcp",
            "plugin",
            "plugins",
            "project",
            "setup-token",
            "ultrareview",
            "update",
            "upgrade",
            "help",
        ],
        looks_behind_dashes: true,
        prompt_options: &[],
        unspeakable: &[],
        variables: &[],
        variables_at_terminal: &[("CLAUDE_CODE_SANDBOXED", "1")],
        seed: CLAUDE_SEED,
        own_sandbox: NO_SANDBOX,
    },
    Harness {
        name: "opencode",
        binary: "opencode",
        alone: &[],
        unset: Forms { plain: form(&[], After(&["--prompt"])), guarded: OPENCODE_ONCE.guarded },
        once: OPENCODE_ONCE,
        stays: Forms { plain: form(&[], After(&["--prompt"])), guarded: form(&[], JoinedTo("--prompt")) },
        stays_by_default: true,
        // A prompt always follows an option or a subcommand.
        subcommands: &[],
        looks_behind_dashes: false,
        prompt_options: &[],
        unspeakable: &[],
        variables: &[],
        variables_at_terminal: &[],
        seed: OPENCODE_SEED,
        own_sandbox: NO_SANDBOX,
    },
    Harness {
        name: "gemini-cli",
        binary: "gemini",
        alone: &[],
        unset: Forms { plain: form(&[], After(&[])), guarded: GEMINI_ONCE.guarded },
        once: GEMINI_ONCE,
        stays: Forms { plain: form(&[], After(&["-i"])), guarded: form(&[], JoinedTo("--prompt-interactive")) },
        stays_by_default: true,
        subcommands: &["mcp", "extensions", "extension", "skills", "skill", "hooks", "hook", "gemma", "help"],
        looks_behind_dashes: false,
        prompt_options: &["-p", "--prompt"],
        unspeakable: &[],
        // Else it asks whether the folder is to be trusted, and without a terminal interface it refuses to work.
        variables: &[("GEMINI_CLI_TRUST_WORKSPACE", "true")],
        variables_at_terminal: &[],
        seed: GEMINI_SEED,
        own_sandbox: NO_SANDBOX,
    },
    Harness {
        name: "codex",
        binary: "codex",
        alone: CODEX_AT_TERMINAL,
        unset: CODEX_ONCE,
        once: CODEX_ONCE,
        stays: Forms { plain: form(CODEX_AT_TERMINAL, After(&[])), guarded: form(CODEX_AT_TERMINAL, After(&["--"])) },
        stays_by_default: false,
        subcommands: &[
            "agents",
            "exec",
            "e",
            "review",
            "login",
            "logout",
            "mcp",
            "plugin",
            "app-server",
            "remote-control",
            "completion",
            "update",
            "doctor",
            "sandbox",
            "debug",
            "apply",
            "a",
            "resume",
            "queue",
            "archive",
            "delete",
            "migrate-rollouts",
            "migrate-nfs-db",
            "unarchive",
            "fork",
            "cloud",
            "exec-server",
            "features",
            "help",
        ],
        // It reads its terminal then, and waits for somebody to type.
        looks_behind_dashes: false,
        prompt_options: &[],
        unspeakable: &["-"],
        variables: &[],
        variables_at_terminal: &[],
        seed: CODEX_SEED,
        own_sandbox: CODEX_SANDBOX,
    },
    Harness {
        name: "custom",
        binary: "agent",
        alone: &[],
        unset: AS_IT_IS,
        once: AS_IT_IS,
        stays: AS_IT_IS,
        stays_by_default: false,
        subcommands: &[],
        looks_behind_dashes: false,
        prompt_options: &[],
        unspeakable: &[],
        variables: &[],
        variables_at_terminal: &[],
        seed: &[],
        own_sandbox: NO_SANDBOX,
    },
];

/// A command line, and which of its arguments holds the prompt.
pub type CommandLine = (Vec<SecretBytes>, Option<usize>);

impl Harness {
    /// The preset of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        HARNESSES.iter().find(|harness| harness.name == name)
    }

    /// Whether the entry's author alone decides how the command line takes a prompt.
    pub fn is_custom(&self) -> bool {
        self.name == "custom"
    }

    /// Whether an agent with this prompt stays at its terminal when it is done, because the entry does not say that it must end.
    pub fn stays_open(&self, args: &[String], interactive: Option<bool>, prompt: &[u8]) -> bool {
        interactive.is_none() && self.stays_by_default && !self.may_mistake(prompt) && !self.ends_in_option(args)
    }

    /// Why an agent cannot be given this prompt.
    pub fn refuses(&self, prompt: &[u8]) -> Option<String> {
        let is_unspeakable = self.unspeakable.iter().any(|word| word.as_bytes() == prompt);
        let name = self.name;
        is_unspeakable
            .then(|| format!("{name} takes the prompt for an order to read its terminal; write the prompt in words"))
    }

    /// Whether it makes a sandbox itself, which it is told to do without in one of agentd.
    pub fn has_own_sandbox(&self) -> bool {
        !self.own_sandbox.off.is_empty()
    }

    /// What an entry says about the harness's own sandbox, if that may be made in one of agentd, where it fails.
    pub fn asks_for_own_sandbox<'a>(&self, command: &'a [String], args: &'a [String]) -> Option<&'a str> {
        let OwnSandbox { off: [_, value], words } = self.own_sandbox else { return None };
        let words_given: Vec<&str> = self.own_words(command).iter().chain(args).map(String::as_str).collect();
        let at = words_given.iter().position(|word| says_of_sandbox(words, word))?;
        let (word, next) = (words_given[at], words_given.get(at + 1).copied());
        let is_off = word.contains(*value) || word.contains("bypass") || word == "--yolo" || next == Some(*value);
        (!is_off).then_some(word)
    }

    /// `args` for a sandbox of agentd, with the words that do without the harness's own, unless the entry says something of that.
    pub fn args_in_sandbox<'a>(&self, command: &[String], args: &'a [String]) -> Cow<'a, [String]> {
        let OwnSandbox { off, words } = self.own_sandbox;
        let is_said = self.own_words(command).iter().chain(args).any(|word| says_of_sandbox(words, word));
        if off.is_empty() || is_said {
            return Cow::Borrowed(args);
        }
        // A subcommand stays in front of its options.
        let is_subcommand = |word: &String| self.is_subcommand(word.as_bytes());
        let (before, after) = args.split_at(usize::from(args.first().is_some_and(is_subcommand)));
        let off = off.iter().map(|&word| word.to_owned());
        Cow::Owned(before.iter().cloned().chain(off).chain(after.iter().cloned()).collect())
    }

    /// The command line of `command` and `args`: the preset's own words go where they belong, unless they are there already.
    pub fn command_line(
        &self,
        command: &[String],
        args: &[String],
        interactive: Option<bool>,
        prompt: Option<&SecretBytes>,
    ) -> CommandLine {
        let form = prompt.map(|prompt| self.form(command.len() + args.len() > 1, interactive, prompt.as_slice()));
        let before_args = form.map_or(self.alone, |form| form.before_args);
        let (subcommands, flags): (Vec<&str>, Vec<&str>) = before_args.iter().partition(|word| !word.starts_with('-'));
        let is_in_command = |word: &str| self.own_words(command).iter().any(|given| given == word);
        // Whoever wrote `args = ["exec"]` meant the subcommand that the preset writes itself.
        let args = match args.split_first() {
            Some((first, rest)) if subcommands.contains(&first.as_str()) => rest,
            _ => args,
        };
        let is_bare = form.is_none_or(|form| form.prompt == After(&[]));
        let args = match args.split_last() {
            Some((_, rest)) if !is_bare && self.ends_in_option(args) => rest,
            _ => args,
        };
        let mut arguments: Vec<SecretBytes> = command.iter().map(|word| SecretBytes::from(word.as_str())).collect();
        arguments.extend(subcommands.into_iter().filter(|word| !is_in_command(word)).map(SecretBytes::from));
        let is_given = |flag: &str| command.iter().skip(1).chain(args).any(|word| word == flag);
        arguments.extend(flags.into_iter().filter(|flag| !is_given(flag)).map(SecretBytes::from));
        arguments.extend(args.iter().map(|word| SecretBytes::from(word.as_str())));
        let (Some(form), Some(prompt)) = (form, prompt) else { return (arguments, None) };
        match form.prompt {
            After(words) => {
                arguments.extend(words.iter().copied().map(SecretBytes::from));
                arguments.push(
                    if interactive == Some(true) && self.looks_behind_dashes && self.is_subcommand(prompt.as_slice()) {
                        // Says the same, and is no subcommand's name.
                        SecretBytes::from([prompt.as_slice(), b"\n"].concat())
                    } else {
                        prompt.clone()
                    },
                );
            }
            JoinedTo(option) => {
                arguments.push(SecretBytes::from([option.as_bytes(), b"=", prompt.as_slice()].concat()));
            }
        }
        let at = arguments.len() - 1;
        (arguments, Some(at))
    }

    /// Variables to give to an agent, unless something else gives them.
    pub fn variables(
        &self,
        interactive: Option<bool>,
        has_prompt: bool,
    ) -> impl Iterator<Item = (&'static str, &'static str)> {
        let is_at_terminal = !has_prompt || interactive.unwrap_or(self.stays_by_default);
        let more = if is_at_terminal { self.variables_at_terminal } else { &[] };
        self.variables.iter().chain(more).copied()
    }

    fn form(&self, has_more_words: bool, interactive: Option<bool>, prompt: &[u8]) -> Form {
        let forms = match interactive {
            None => self.unset,
            Some(false) => self.once,
            Some(true) => self.stays,
        };
        // An option that takes several values would take the prompt for one of them.
        let is_exposed = interactive == Some(true) && has_more_words && forms.plain.prompt == After(&[]);
        if is_exposed || self.may_mistake(prompt) { forms.guarded } else { forms.plain }
    }

    fn ends_in_option(&self, args: &[String]) -> bool {
        args.last().is_some_and(|last| self.prompt_options.contains(&last.as_str()))
    }

    fn may_mistake(&self, prompt: &[u8]) -> bool {
        prompt.starts_with(b"-") || prompt.starts_with(b"@") || self.is_subcommand(prompt)
    }

    fn is_subcommand(&self, prompt: &[u8]) -> bool {
        self.subcommands.iter().any(|subcommand| subcommand.as_bytes() == prompt)
    }

    /// What of a command comes after the harness's own binary: before it there may be `nice`, or a container's `run`.
    fn own_words<'a>(&self, command: &'a [String]) -> &'a [String] {
        let is_binary = |word: &String| word.rsplit('/').next() == Some(self.binary);
        command.iter().rposition(is_binary).map_or(&[], |at| &command[at + 1..])
    }
}

/// Whether a word of a command line is one of these, or begins with one of them that ends in `=`.
fn says_of_sandbox(words: &[&str], word: &str) -> bool {
    words.iter().any(|&known| word == known || known.ends_with('=') && word.starts_with(known))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// The words of a command line of the preset's own binary.
    fn words(harness: &str, args: &[&str], interactive: Option<bool>, prompt: Option<&str>) -> Vec<String> {
        let harness = Harness::find(harness).unwrap();
        of_command(harness.name, &[harness.binary], args, interactive, prompt)
    }

    fn of_command(
        harness: &str,
        command: &[&str],
        args: &[&str],
        interactive: Option<bool>,
        prompt: Option<&str>,
    ) -> Vec<String> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let prompt = prompt.map(SecretBytes::from);
        let (arguments, at) =
            Harness::find(harness).unwrap().command_line(&owned(command), &owned(args), interactive, prompt.as_ref());
        assert_eq!(at, prompt.map(|_| arguments.len() - 1));
        arguments.iter().map(|word| String::from_utf8(word.as_slice().to_vec()).unwrap()).collect()
    }

    /// Prompts that a command line could take for something else.
    const TRICKY: &[&str] =
        &["-", "--", "-v", "--help", "- [ ] fix it", "---\ntitle: x\n---\nfix it", "@notes.md", "@"];

    #[rstest]
    #[case("claude-code", &["claude", "-x", "-p", "do it"])]
    #[case("opencode", &["opencode", "-x", "--prompt", "do it"])]
    #[case("gemini-cli", &["gemini", "-x", "do it"])]
    #[case("codex", &["codex", "exec", "--skip-git-repo-check", "-x", "--", "do it"])]
    #[case("custom", &["agent", "-x", "do it"])]
    fn the_command_line_is_as_ever_where_the_prompt_is_plain(#[case] harness: &str, #[case] expected: &[&str]) {
        assert_eq!(words(harness, &["-x"], None, Some("do it")), expected);
    }

    #[rstest]
    #[case("claude-code", None, &["claude", "-x", "-p", "--", "P"])]
    #[case("claude-code", Some(false), &["claude", "-x", "-p", "--", "P"])]
    #[case("claude-code", Some(true), &["claude", "-x", "--", "P"])]
    #[case("opencode", None, &["opencode", "run", "-x", "--", "P"])]
    #[case("opencode", Some(false), &["opencode", "run", "-x", "--", "P"])]
    #[case("opencode", Some(true), &["opencode", "-x", "--prompt=P"])]
    #[case("gemini-cli", None, &["gemini", "-x", "--prompt=P"])]
    #[case("gemini-cli", Some(false), &["gemini", "-x", "--prompt=P"])]
    #[case("gemini-cli", Some(true), &["gemini", "-x", "--prompt-interactive=P"])]
    #[case("codex", None, &["codex", "exec", "--skip-git-repo-check", "-x", "--", "P"])]
    #[case("codex", Some(false), &["codex", "exec", "--skip-git-repo-check", "-x", "--", "P"])]
    #[case("codex", Some(true), &["codex", "--no-daemon", "-x", "--", "P"])]
    #[case("custom", None, &["agent", "-x", "P"])]
    fn a_prompt_like_an_option_is_no_option(
        #[case] harness: &str,
        #[case] interactive: Option<bool>,
        #[case] form: &[&str],
    ) {
        for prompt in TRICKY {
            let expected: Vec<String> = form.iter().map(|word| word.replace('P', prompt)).collect();
            assert_eq!(words(harness, &["-x"], interactive, Some(prompt)), expected, "{prompt}");
        }
    }

    #[rstest]
    #[case("claude-code", "mcp", None, &["claude", "-p", "--", "mcp"])]
    #[case("claude-code", "mcp", Some(true), &["claude", "--", "mcp\n"])]
    #[case("gemini-cli", "hooks", None, &["gemini", "--prompt=hooks"])]
    #[case("gemini-cli", "hooks", Some(true), &["gemini", "--prompt-interactive=hooks"])]
    #[case("codex", "review", None, &["codex", "exec", "--skip-git-repo-check", "--", "review"])]
    #[case("codex", "review", Some(true), &["codex", "--no-daemon", "--", "review"])]
    #[case("opencode", "serve", None, &["opencode", "--prompt", "serve"])]
    fn a_prompt_of_one_word_is_no_subcommand(
        #[case] harness: &str,
        #[case] prompt: &str,
        #[case] interactive: Option<bool>,
        #[case] expected: &[&str],
    ) {
        assert_eq!(words(harness, &[], interactive, Some(prompt)), expected);
    }

    #[rstest]
    #[case("claude-code", Some(true), &["claude", "do it"])]
    #[case("claude-code", Some(false), &["claude", "-p", "do it"])]
    #[case("codex", Some(true), &["codex", "--no-daemon", "do it"])]
    #[case("codex", Some(false), &["codex", "exec", "--skip-git-repo-check", "--", "do it"])]
    #[case("gemini-cli", Some(true), &["gemini", "-i", "do it"])]
    #[case("gemini-cli", Some(false), &["gemini", "--prompt=do it"])]
    #[case("opencode", Some(true), &["opencode", "--prompt", "do it"])]
    #[case("opencode", Some(false), &["opencode", "run", "--", "do it"])]
    #[case("custom", Some(true), &["agent", "do it"])]
    #[case("custom", Some(false), &["agent", "do it"])]
    fn interactive_decides_whether_it_stays(
        #[case] harness: &str,
        #[case] interactive: Option<bool>,
        #[case] expected: &[&str],
    ) {
        assert_eq!(words(harness, &[], interactive, Some("do it")), expected);
    }

    #[test]
    fn an_option_of_many_values_does_not_take_the_prompt() {
        let args = &["--allowedTools", "Bash"];
        let expected = ["claude", "--allowedTools", "Bash", "--", "do it"];
        assert_eq!(words("claude-code", args, Some(true), Some("do it")), expected);
    }

    #[rstest]
    #[case("claude-code", &["claude", "-x"])]
    #[case("opencode", &["opencode", "-x"])]
    #[case("gemini-cli", &["gemini", "-x"])]
    #[case("codex", &["codex", "--no-daemon", "-x"])]
    #[case("custom", &["agent", "-x"])]
    fn without_a_prompt_it_waits_at_its_terminal(#[case] harness: &str, #[case] expected: &[&str]) {
        for interactive in [None, Some(true)] {
            assert_eq!(words(harness, &["-x"], interactive, None), expected);
        }
    }

    #[rstest]
    #[case::in_command(&["/opt/codex", "exec", "--skip-git-repo-check"], &["-m", "o"], &["-m", "o"])]
    #[case::in_args(&["/opt/codex"], &["exec", "--skip-git-repo-check"], &["--skip-git-repo-check"])]
    #[case::flag_in_args(&["/opt/codex"], &["--json", "--skip-git-repo-check"], &["--json", "--skip-git-repo-check"])]
    fn words_that_are_there_already_are_not_repeated(
        #[case] command: &[&str],
        #[case] args: &[&str],
        #[case] args_left: &[&str],
    ) {
        let words = of_command("codex", command, args, None, Some("do it"));
        let expected = [&["/opt/codex", "exec"], command.get(2..).unwrap_or_default(), args_left, &["--", "do it"]];
        assert_eq!(words, expected.concat());
    }

    #[test]
    fn another_programs_subcommand_does_not_count() {
        let command = &["podman", "run", "--rm", "box", "opencode"];
        let words = of_command("opencode", command, &[], Some(false), Some("do it"));
        assert_eq!(words, [command, &["run", "--", "do it"][..]].concat());
    }

    #[test]
    fn an_option_for_the_prompt_in_args_is_not_repeated() {
        let of = |interactive, prompt| words("gemini-cli", &["--yolo", "-p"], interactive, Some(prompt));
        assert_eq!(of(None, "do it"), ["gemini", "--yolo", "-p", "do it"]);
        assert_eq!(of(None, "- do it"), ["gemini", "--yolo", "--prompt=- do it"]);
        assert_eq!(of(Some(false), "do it"), ["gemini", "--yolo", "--prompt=do it"]);
        let gemini = Harness::find("gemini-cli").unwrap();
        assert!(!gemini.stays_open(&["-p".to_owned()], None, b"do it"));
    }

    #[test]
    fn what_codex_takes_for_its_terminal_is_refused() {
        let codex = Harness::find("codex").unwrap();
        assert!(codex.refuses(b"-").is_some() && codex.refuses(b"- ").is_none());
    }

    #[test]
    fn only_those_that_stay_by_default_stay_open() {
        let stays = |interactive, prompt: &[u8]| -> Vec<&str> {
            let open = HARNESSES.iter().filter(|harness| harness.stays_open(&[], interactive, prompt));
            open.map(|harness| harness.name).collect()
        };
        assert_eq!(stays(None, b"do it"), ["opencode", "gemini-cli"]);
        assert_eq!(stays(None, b"- do it"), [""; 0]);
        assert_eq!((stays(Some(true), b"do it"), stays(Some(false), b"do it")), (vec![], vec![]));
    }

    #[test]
    fn variables_are_those_of_its_purpose() {
        let given = |harness: &str, interactive, has_prompt| -> Vec<&str> {
            let variables = Harness::find(harness).unwrap().variables(interactive, has_prompt);
            variables.map(|(name, _)| name).collect()
        };
        assert_eq!(given("claude-code", None, true), [""; 0]);
        assert_eq!(given("claude-code", Some(true), true), ["CLAUDE_CODE_SANDBOXED"]);
        assert_eq!(given("claude-code", None, false), ["CLAUDE_CODE_SANDBOXED"]);
        assert_eq!(given("gemini-cli", Some(false), true), ["GEMINI_CLI_TRUST_WORKSPACE"]);
        assert_eq!(given("custom", None, false), [""; 0]);
    }

    fn in_sandbox(harness: &str, command: &[&str], args: &[&str]) -> String {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let harness = Harness::find(harness).unwrap();
        harness.args_in_sandbox(&owned(command), &owned(args)).join(" ")
    }

    #[rstest]
    #[case::plain(&["codex"], &["-m", "o"], "--sandbox danger-full-access -m o")]
    #[case::subcommand(&["codex"], &["resume", "--last"], "resume --sandbox danger-full-access --last")]
    #[case::said(&["codex"], &["-s", "workspace-write"], "-s workspace-write")]
    #[case::said_in_command(&["codex", "exec", "--sandbox=read-only"], &["-m", "o"], "-m o")]
    #[case::said_in_config(&["codex"], &["-c", "sandbox_mode=\"read-only\""], "-c sandbox_mode=\"read-only\"")]
    #[case::of_another_program(&["box", "--sandbox", "codex"], &[], "--sandbox danger-full-access")]
    fn codex_does_without_its_own_sandbox_in_one_of_agentd(
        #[case] command: &[&str],
        #[case] args: &[&str],
        #[case] expected: &str,
    ) {
        assert_eq!(in_sandbox("codex", command, args), expected);
        assert_eq!(in_sandbox("claude-code", command, args), args.join(" "));
    }

    #[rstest]
    #[case(&[], None)]
    #[case(&["-s", "danger-full-access"], None)]
    #[case(&["--sandbox=danger-full-access"], None)]
    #[case(&["--dangerously-bypass-approvals-and-sandbox"], None)]
    #[case(&["--yolo"], None)]
    #[case(&["-s", "workspace-write"], Some("-s"))]
    #[case(&["--sandbox", "read-only"], Some("--sandbox"))]
    #[case(&["--full-auto"], Some("--full-auto"))]
    #[case(&["-c", "sandbox_mode=\"read-only\""], Some("sandbox_mode=\"read-only\""))]
    fn a_sandbox_in_a_sandbox_is_noticed(#[case] args: &[&str], #[case] expected: Option<&str>) {
        let args: Vec<String> = args.iter().map(|&word| word.to_owned()).collect();
        let command = ["codex".to_owned()];
        assert_eq!(Harness::find("codex").unwrap().asks_for_own_sandbox(&command, &args), expected);
        assert_eq!(Harness::find("gemini-cli").unwrap().asks_for_own_sandbox(&command, &args), None);
    }

    #[test]
    fn only_paths_below_the_home_fill_a_sandboxs_home() {
        // What harnesses keep of their work, which grows without bound; no path of a seed is one of them, or above one.
        let kept = [
            ".claude/projects",
            ".claude/history.jsonl",
            ".claude/file-history",
            ".claude/plugins",
            ".codex/sessions",
            ".codex/history.jsonl",
            ".codex/log",
            ".gemini/tmp",
            ".gemini/history",
            ".gemini/extensions",
            ".local/share/opencode/opencode.db",
            ".local/share/opencode/storage",
            ".config/opencode/node_modules",
            ".ssh",
            ".gitconfig",
        ];
        for harness in HARNESSES {
            assert_eq!(harness.seed.is_empty(), harness.is_custom(), "{}", harness.name);
            assert!(harness.seed.is_sorted(), "{}", harness.name);
            for path in harness.seed {
                assert!(path.starts_with('.') && !path.contains("..") && !path.ends_with('/'), "{path}");
                let shows = |kept: &&str| std::path::Path::new(kept).starts_with(path);
                assert_eq!(kept.iter().find(|kept| shows(kept)), None, "{path}");
            }
        }
    }
}
