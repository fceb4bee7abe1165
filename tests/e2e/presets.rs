//! Every preset passes its harness the prompt, whatever it looks like. Stand-ins parse arguments like the real harnesses.

use std::fs;
use std::os::unix::fs::PermissionsExt;
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

/// The table of a jcard: a preset of another binary and with other words, and a harness that agentd does not know.
const TABLE: &str = "[harnesses.claude-code]\nbinary = \"claude-next\"\napproval.edits = [\"--may\", \"edit\"]\n\n\
     [harnesses.mine]\nbinary = \"my-agent\"\nprompt = [\"go\", \"${ARGS}\", \"--\", \"${PROMPT}\"]\n\n";

/// Waits until an agent's stand-in has written these arguments.
fn assert_given(daemon: &Daemon, name: &str, expected: &str) {
    let file = daemon.work(name);
    let is_expected = || fs::read_to_string(Path::new(&file)).ok().filter(|given| given == expected);
    daemon.wait(&format!("{name} to be given {expected:?}"), is_expected);
}

#[test]
fn the_table_of_the_jcard_changes_a_preset_and_adds_a_harness() {
    let setup = Setup::new();
    for binary in ["claude-next", "my-agent"] {
        let path = setup.path("bin").join(binary);
        fs::write(&path, "#!/bin/sh\necho \"${0##*/} $*\" > \"$UNDERSTOOD.new\"\nmv \"$UNDERSTOOD.new\" \"$UNDERSTOOD\"\nexec sleep 1000\n")
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let entries = entry("changed", "claude-code", "prompt = \"do it\"\napproval = \"edits\"\nargs = [\"-x\"]")
        + &entry("added", "mine", "prompt = \"do it\"\nargs = [\"-x\"]");
    let daemon = setup.start(&(TABLE.to_owned() + &entries));
    assert_given(&daemon, "changed", "claude-next --may edit -x -p do it\n");
    assert_given(&daemon, "added", "my-agent go -x -- do it\n");
    let [changed, added] = ["changed", "added"].map(|name| daemon.wait_for_state(name, State::Running));
    assert_eq!(added.harness.as_deref(), Some("mine"));

    // Another word of one harness relaunches its agents alone, and what is not part of a command line relaunches none.
    let table = TABLE.replace("edit\"]", "all\"]\nasks = false")
        + "[[harnesses.mine.rules]]\non = \"exit\"\nmatch = \"x\"\nmeans = \"quota\"\n\n";
    daemon.edit_jcard(&(table + &entries));
    assert_given(&daemon, "changed", "claude-next --may all -x -p do it\n");
    assert_ne!(daemon.wait_for_state("changed", State::Running).pid, changed.pid);
    assert_eq!(daemon.agent("added").unwrap().pid, added.pid);

    // A mistake that no agent can do without is the error of those that use it.
    let table = TABLE.to_owned() + "[[harnesses.mine.rules]]\non = \"exit\"\nmatch = \"(\"\nmeans = \"quota\"\n\n";
    daemon.edit_jcard(&(table + &entries));
    assert_given(&daemon, "changed", "claude-next --may edit -x -p do it\n");
    let wrong = daemon.wait("the error of the harness", || daemon.agent("added").filter(|agent| agent.error.is_some()));
    assert!(wrong.error.unwrap().contains(":11:9: `match` is not a regular expression: "));
    assert_eq!(wrong.pid, added.pid, "what runs goes on");
}

#[test]
fn an_entry_with_replicas_out_of_range_is_listed_as_invalid() {
    let daemon = Setup::new().start("[[agents]]\nname = \"none\"\nharness = \"custom\"\nreplicas = 0\n");
    let agent = daemon.wait_for_state("none", State::Invalid);
    assert!(agent.error.unwrap().contains("`replicas` is out of range"));
}
