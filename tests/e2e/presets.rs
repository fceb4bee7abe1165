//! Every preset passes its harness the prompt, whatever it looks like. Stand-ins parse arguments like the real harnesses.

use std::fs;
use std::path::Path;

use agentd::wire::status::State;

use crate::support::{Daemon, Setup, path};

const MATTER: &str = "---\ntitle: the night shift\n---\n- [ ] fix the bug";

/// Prompts that resemble options, files or subcommands, and a file name for each.
const TRICKY: &[(&str, &str)] = &[
    ("item", "- [ ] fix it"),
    ("help", "--help"),
    ("version", "-v"),
    ("dashes", "--"),
    ("at", "@notes.md"),
    ("matter", MATTER),
];

/// The presets, their binaries, and a subcommand of each.
const PRESETS: &[(&str, &str, &str)] = &[
    ("claude-code", "claude", "mcp"),
    ("codex", "codex", "review"),
    ("gemini-cli", "gemini", "hooks"),
    ("opencode", "opencode", "serve"),
];

fn setup() -> Setup {
    let setup = Setup::new();
    for (_, binary, _) in PRESETS {
        fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/stand-in"), setup.path("bin").join(binary)).unwrap();
    }
    setup
}

/// An entry for a stand-in that writes what it understood to the workdir, under the agent's name.
fn entry(name: &str, harness: &str, more: &str) -> String {
    format!(
        "[[agents]]\nname = {name:?}\nharness = {harness:?}\nworkdir = \"@WORK\"\n\
         env = {{ PATH = \"@DIR/bin:{}\", UNDERSTOOD = \"@WORK/{name}\" }}\n{more}\n\n",
        path()
    )
}

fn assert_understood(daemon: &Daemon, name: &str, mode: &str, prompt: Option<&str>) {
    let file = daemon.work(name);
    let understood =
        daemon.wait(&format!("the arguments that {name} understood"), || fs::read_to_string(Path::new(&file)).ok());
    assert_eq!(understood, format!("{mode}\n{}", prompt.unwrap_or_default()), "{name}");
}

#[test]
fn every_preset_accepts_a_prompt_that_looks_like_an_option() {
    let setup = setup();
    fs::create_dir(setup.path("prompts")).unwrap();
    for (name, prompt) in TRICKY {
        setup.put(&setup.path("prompts").join(name), format!("{prompt}\n"));
    }
    let mut jcard = String::new();
    for (harness, ..) in PRESETS {
        for (name, _) in TRICKY {
            jcard += &entry(&format!("{harness}-{name}"), harness, &format!("prompt_file = \"prompts/{name}\""));
        }
    }
    let daemon = setup.start(&jcard);
    for (harness, ..) in PRESETS {
        for (name, prompt) in TRICKY {
            let name = format!("{harness}-{name}");
            assert_understood(&daemon, &name, "once", Some(prompt));
            daemon.wait_for_state(&name, State::Exited);
        }
    }
}

#[test]
fn interactive_decides_whether_a_preset_ends() {
    let mut jcard = String::new();
    for (harness, _, subcommand) in PRESETS {
        for (kind, line) in [("unset", ""), ("once", "interactive = false"), ("stays", "interactive = true")] {
            let prompt = |text: &str| format!("prompt = {text:?}\n{line}\n");
            jcard += &entry(&format!("{harness}-{kind}-words"), harness, &prompt("fix the bug"));
            jcard += &entry(&format!("{harness}-{kind}-word"), harness, &prompt(subcommand));
            jcard += &entry(&format!("{harness}-{kind}-matter"), harness, &prompt(MATTER));
        }
        jcard += &entry(&format!("{harness}-alone"), harness, "");
    }
    let daemon = setup().start(&jcard);
    for (harness, _, subcommand) in PRESETS {
        for (kind, mode) in [("once", "once"), ("stays", "stays")] {
            let name = |which: &str| format!("{harness}-{kind}-{which}");
            assert_understood(&daemon, &name("words"), mode, Some("fix the bug"));
            assert_understood(&daemon, &name("matter"), mode, Some(MATTER));
            // It looks for a subcommand after anything, but ignores one that ends in a newline.
            let ends = if (*harness, kind) == ("claude-code", "stays") { "\n" } else { "" };
            assert_understood(&daemon, &name("word"), mode, Some(&format!("{subcommand}{ends}")));
        }
        let by_default = if ["gemini-cli", "opencode"].contains(harness) { "stays" } else { "once" };
        assert_understood(&daemon, &format!("{harness}-unset-words"), by_default, Some("fix the bug"));
        assert_understood(&daemon, &format!("{harness}-unset-matter"), "once", Some(MATTER));
        assert_understood(&daemon, &format!("{harness}-alone"), "stays", None);
    }
    assert_understood(&daemon, "opencode-unset-word", "stays", Some("serve"));
    for name in ["claude-code-unset-word", "codex-unset-word", "gemini-cli-unset-word"] {
        let preset = PRESETS.iter().find(|(harness, ..)| name.starts_with(harness)).unwrap();
        assert_understood(&daemon, name, "once", Some(preset.2));
    }
}

#[test]
fn codex_starts_in_an_empty_directory_with_args() {
    let jcard = entry("args", "codex", "prompt = \"fix the bug\"\nargs = [\"--json\"]")
        + &entry("flag", "codex", "prompt = \"fix the bug\"\nargs = [\"--skip-git-repo-check\", \"--json\"]")
        + &entry(
            "command",
            "codex",
            "prompt = \"fix the bug\"\ncommand = [\"codex\", \"exec\", \"--skip-git-repo-check\"]",
        );
    let daemon = setup().start(&jcard);
    for name in ["args", "flag", "command"] {
        assert_understood(&daemon, name, "once", Some("fix the bug"));
    }
}

#[test]
fn an_entry_with_replicas_out_of_range_is_listed_as_invalid() {
    let daemon = Setup::new().start("[[agents]]\nname = \"none\"\nharness = \"custom\"\nreplicas = 0\n");
    let agent = daemon.wait_for_state("none", State::Invalid);
    assert!(agent.error.unwrap().contains("`replicas` is out of range"));
}
