//! Checks the Nix files without nixpkgs and without NixOS: `tests/nix` evaluates them against a small stand-in, and this machine's
//! systemd verifies the units that result.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::unistd::{User, geteuid};
use serde::Deserialize;
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[path = "support/skip.rs"]
mod skip;

use skip::skip;

/// Whether this machine has the program. Without it, tests are skipped with a message; in CI they fail.
fn has(program: &str) -> bool {
    let has = std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|folder| folder.join(program).exists());
    if !has {
        skip(&format!("it needs {program}: see tests/need"));
    }
    has
}

fn text(output: Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{complaint}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

/// The output of `nix` with these arguments. The folder is its home, and it has no store unless an argument names one.
fn nix(home: &Path, arguments: &[&str]) -> String {
    let features = ["--extra-experimental-features", "nix-command flakes"];
    text(Command::new("nix").args(features).args(arguments).env("HOME", home).current_dir(ROOT).output().unwrap())
}

/// The value of this attribute of `tests/nix`.
fn evaluate<T: for<'de> Deserialize<'de>>(attribute: &str) -> T {
    let home = TempDir::new().unwrap();
    let expression = format!("(import {ROOT}/tests/nix).{attribute}");
    let arguments = ["eval", "--store", "dummy://", "--impure", "--json", "--expr", &expression];
    serde_json::from_str(&nix(home.path(), &arguments)).unwrap()
}

/// The units that the module makes of these settings, in a folder that everyone can read. The settings are a module themselves.
fn units(settings: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("bin/agentd");
    fs::create_dir(program.parent().unwrap()).unwrap();
    symlink(env!("CARGO_BIN_EXE_agentd"), program).unwrap();
    let arguments = format!("{{ agentd = \"{}\"; settings = {settings}; }}", folder.path().display());
    let script = Path::new(ROOT).join("tests/nix/render-units");
    text(Command::new(script).arg(folder.path()).arg(arguments).env("HOME", folder.path()).output().unwrap());
    folder
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files_below(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

fn read(page: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(page)).unwrap()
}

#[test]
fn every_file_parses() {
    if !has("nix-instantiate") {
        return;
    }
    let mut files = vec![Path::new(ROOT).join("flake.nix")];
    for folder in ["nix", "tests/nix"] {
        files_below(&Path::new(ROOT).join(folder), &mut files);
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "nix"));
    assert!(files.len() > 10, "{files:?}");
    let home = TempDir::new().unwrap();
    let mut blocks = 0;
    for page in ["README.md", "docs/nixos.md"] {
        for block in read(page).split("```nix\n").skip(1) {
            let file = home.path().join(format!("block-{blocks}.nix"));
            fs::write(&file, block.split("```").next().unwrap()).unwrap();
            files.push(file);
            blocks += 1;
        }
    }
    assert!(blocks >= 2, "{blocks}");
    let mut command = Command::new("nix-instantiate");
    text(command.args(["--store", "dummy://", "--parse"]).args(files).env("HOME", home.path()).output().unwrap());
}

#[test]
fn flake_lock_is_accepted_unchanged() {
    if !has("nix") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    for file in ["flake.nix", "flake.lock"] {
        fs::copy(Path::new(ROOT).join(file), source.join(file)).unwrap();
    }
    let store = folder.path().join("root");
    let flake = format!("path:{}", source.display());
    let arguments = ["flake", "metadata", "--offline", "--no-update-lock-file", "--json", "--store"];
    let metadata = nix(folder.path(), &[&arguments[..], &[store.to_str().unwrap(), &flake]].concat());
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let lock = fs::read_to_string(Path::new(ROOT).join("flake.lock")).unwrap();
    assert_eq!(metadata["locks"], serde_json::from_str::<serde_json::Value>(&lock).unwrap());
}

#[test]
fn flake_package_and_module_define_what_they_should() {
    if !has("nix") {
        return;
    }
    assert!(evaluate::<usize>("count") > 40);
    let report: String = evaluate("report");
    assert!(report.is_empty(), "\n{report}");
}

#[derive(Deserialize)]
struct Machine {
    /// The messages with which its configurations are refused.
    refused: Vec<String>,
    /// The daemon's command in each configuration.
    commands: Vec<String>,
    script: String,
}

#[test]
fn virtual_machine_tests_evaluate_without_errors() {
    if !has("nix") || !has("python3") {
        return;
    }
    for (name, machine) in evaluate::<BTreeMap<String, Machine>>("machines") {
        assert_eq!(machine.refused, [""; 0], "{name}");
        assert!(!machine.commands.is_empty(), "{name}");
        let mut python = Command::new("python3");
        python.args(["-c", "import sys; compile(sys.stdin.read(), sys.argv[1], 'exec')", &name]);
        let mut python = python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        python.stdin.take().unwrap().write_all(machine.script.as_bytes()).unwrap();
        text(python.wait_with_output().unwrap());
    }
}

#[test]
fn docs_list_every_option_as_the_module_has_it() {
    if !has("nix") {
        return;
    }
    let page = read("docs/nixos.md");
    let table = page.lines().skip_while(|line| !line.starts_with("| option |"));
    let rows = table.skip(2).take_while(|line| line.starts_with('|'));
    let told: Vec<String> = rows.map(|row| row.splitn(5, " | ").take(3).collect::<Vec<_>>().join(" | ")).collect();
    assert_eq!(told, evaluate::<Vec<String>>("options"));
}

#[test]
fn systemd_understands_the_units() {
    if !has("nix") || !has("systemd-analyze") {
        return;
    }
    let folder = units("{ }");
    let mut found = Vec::new();
    files_below(folder.path(), &mut found);
    found.retain(|file| {
        ["service", "socket", "slice", "mount"].iter().any(|kind| file.extension().is_some_and(|it| it == *kind))
    });
    assert_eq!(found.len(), 6, "{found:?}");
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(found).output().unwrap();
    let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
    // There may also be complaints about other units of this machine.
    assert!(!complaints.contains("agentd"), "{complaints}");
    text(verified);
}

#[test]
fn systemd_understands_the_units_of_further_users() {
    if !has("nix") || !has("systemd-analyze") {
        return;
    }
    let folder = units("{ services.agentd.users = [ \"agent-reviewer\" ]; }");
    let template = fs::read_to_string(folder.path().join("agentd-tmux@.service")).unwrap();
    assert!(template.contains("User=%i\n") && template.contains("/run/agentd-daemon/users/%i/tmux.sock"), "{template}");
    let daemon = fs::read_to_string(folder.path().join("agentd.service")).unwrap();
    assert!(daemon.contains("Upholds=agentd-tmux@agent-reviewer.service\n"), "{daemon}");
    // A user that every machine has.
    let instance = folder.path().join("agentd-tmux@root.service");
    fs::rename(folder.path().join("agentd-tmux@.service"), &instance).unwrap();
    let mount = folder.path().join("run-agentd\\x2ddaemon-users-agent\\x2dreviewer.mount");
    let mut verify = Command::new("systemd-analyze");
    let verified = verify.args(["verify", "--man=no"]).args([instance, mount]).output().unwrap();
    let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(!complaints.contains("agentd"), "{complaints}");
    text(verified);
}

/// The settings of a unit by section and key, as systemd reads them: several lines form one list, and quotes and comments do not count.
fn said_by(unit: &str) -> BTreeMap<(String, String), Vec<String>> {
    let (mut said, mut section) = (BTreeMap::<_, Vec<String>>::new(), String::new());
    for line in unit.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once('=') {
            None => line.clone_into(&mut section),
            Some((key, value)) => {
                let words = value.replace('"', "");
                let words = words.split_whitespace().map(str::to_owned);
                said.entry((section.clone(), key.to_owned())).or_default().extend(words);
            }
        }
    }
    said
}

#[test]
fn packaged_units_say_what_the_module_says() {
    // Settings that only one of the systems has or needs.
    const DIFFERENT: [(&str, &str, &str); 9] = [
        // NixOS has no common PATH; its module names what other options decide on.
        ("agentd.service", "[Service]", "Environment"),
        ("agentd.service", "[Service]", "ExecStart"),
        ("agentd.service", "[Install]", "Also"),
        ("agentd-tmux.service", "[Service]", "Environment"),
        ("agentd-tmux@.service", "[Service]", "Environment"),
        // On NixOS, tmpfiles makes the folder of the socket.
        ("agentd-tmux@.service", "[Service]", "ExecStartPre"),
        // A unit that only NixOS has, and a key of its own.
        ("run-agentd.mount", "[Unit]", "Before"),
        ("run-agentd.mount", "[Install]", "WantedBy"),
        ("run-agentd.mount", "[Unit]", "X-StopOnRemoval"),
    ];
    if !has("nix") {
        return;
    }
    let module = units("{ }");
    // The daemon's unit would name those users.
    let with_users = units("{ services.agentd.users = [ \"agent-reviewer\" ]; }");
    let packaging = Path::new(ROOT).join("packaging");
    for (unit, module) in [
        ("agentd.service", &module),
        ("agentd.socket", &module),
        ("agentd-terminal.socket", &module),
        ("agentd-tmux.service", &module),
        ("agentd-tmux@.service", &with_users),
        ("agentd.slice", &module),
        ("run-agentd.mount", &module),
    ] {
        let [ours, theirs] = [packaging.join(unit), module.path().join(unit)].map(|file| {
            let mut said = said_by(&fs::read_to_string(file).unwrap());
            said.retain(|(section, key), _| !DIFFERENT.contains(&(unit, section, key)));
            for words in said.values_mut() {
                words.sort();
            }
            said
        });
        assert!(ours.keys().any(|(section, _)| section != "[Unit]") || unit == "agentd.slice", "{unit}");
        assert_eq!(ours, theirs, "{unit}");
    }
    let rules = |files: &[PathBuf]| -> Vec<String> {
        let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        let mut rules: Vec<_> =
            text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect();
        rules.sort();
        rules
    };
    let mut ours = rules(&[packaging.join("agentd.tmpfiles")]);
    // The rules that create a user's home, where NixOS does not create the user.
    ours.retain(|rule| !rule.starts_with("d /home/agent "));
    assert_eq!(ours, rules(&["00-agentd.conf", "10-agentd.conf"].map(|name| module.path().join(name))));
}

#[test]
fn packaged_units_are_understood_and_expose_little() {
    if !has("systemd-analyze") {
        return;
    }
    // `verify` requires that the program exists.
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut found = Vec::new();
    for name in [
        "agentd.service",
        "agentd.socket",
        "agentd-terminal.socket",
        "agentd-tmux.service",
        "agentd-tmux@.service",
        "agentd.slice",
        "run-agentd.mount",
    ] {
        let unit = fs::read_to_string(Path::new(ROOT).join("packaging").join(name)).unwrap();
        // An instance, of a user that every machine has.
        let file = folder.path().join(name.replace('@', "@root"));
        fs::write(&file, unit.replace("/usr/local/bin/agentd", env!("CARGO_BIN_EXE_agentd"))).unwrap();
        found.push(file);
    }
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&found).output().unwrap();
    let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(!complaints.contains("agentd"), "{complaints}");
    text(verified);
    let mut analysis = Command::new("systemd-analyze");
    // In tenths of a point.
    analysis.args(["security", "--offline=true", "--threshold=30", "--no-pager"]).arg(&found[0]);
    text(analysis.output().unwrap());
}

#[test]
fn packaged_units_of_a_user_are_valid() {
    if !has("systemd-analyze") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let units = ["agentd.service", "agentd.socket"].map(|name| {
        let unit = fs::read_to_string(Path::new(ROOT).join("packaging/user").join(name)).unwrap();
        let file = folder.path().join(name);
        fs::write(&file, unit.replace("/usr/local/bin/agentd", env!("CARGO_BIN_EXE_agentd"))).unwrap();
        file
    });
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--user", "--man=no"]).args(&units).env("XDG_RUNTIME_DIR", folder.path());
    let verified = verify.output().unwrap();
    let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(!complaints.contains("agentd"), "{complaints}");
    text(verified);
}

#[test]
fn packaged_files_are_installed_below_another_root() {
    let folder = TempDir::new().unwrap();
    let (root, manual) = (folder.path().join("root"), folder.path().join("manual"));
    fs::create_dir(&manual).unwrap();
    for file in ["agentd.8", "agentd-wait.1", "jcard.toml.5", "agentd.bash", "agentd.fish", "_agentd"] {
        fs::write(manual.join(file), file).unwrap();
    }
    let script = Path::new(ROOT).join("packaging/install");
    let install =
        || Command::new(&script).arg(env!("CARGO_BIN_EXE_agentd")).arg(&manual).env("DESTDIR", &root).output();
    text(install().unwrap());
    // Again, as an upgrade does it.
    text(install().unwrap());
    let mut found = Vec::new();
    files_below(&root, &mut found);
    let mut found: Vec<_> = found.iter().map(|file| file.strip_prefix(&root).unwrap().to_str().unwrap()).collect();
    found.sort_unstable();
    let expected = [
        "etc/systemd/system/agentd-terminal.socket",
        "etc/systemd/system/agentd-tmux.service",
        "etc/systemd/system/agentd-tmux@.service",
        "etc/systemd/system/agentd.service",
        "etc/systemd/system/agentd.slice",
        "etc/systemd/system/agentd.socket",
        "etc/systemd/system/run-agentd.mount",
        "etc/systemd/user/agentd.service",
        "etc/systemd/user/agentd.socket",
        "etc/sysusers.d/agentd.conf",
        "etc/tmpfiles.d/agentd.conf",
        "usr/local/bin/agentd",
        "usr/local/bin/agentd-launcher",
        "usr/local/share/bash-completion/completions/agentd",
        "usr/local/share/fish/vendor_completions.d/agentd.fish",
        "usr/local/share/man/man1/agentd-wait.1",
        "usr/local/share/man/man5/jcard.toml.5",
        "usr/local/share/man/man8/agentd.8",
        "usr/local/share/zsh/site-functions/_agentd",
    ];
    assert_eq!(found, expected);
    let refused = Command::new(&script).arg("/no/where").env("DESTDIR", &root).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("usage: "));
}

#[test]
fn daemon_is_exposed_no_more_than_needed() {
    if !has("nix") || !has("systemd-analyze") {
        return;
    }
    let folder = units("{ }");
    let unit = folder.path().join("agentd.service");
    let mut analysis = Command::new("systemd-analyze");
    // In tenths of a point.
    analysis.args(["security", "--offline=true", "--threshold=30", "--no-pager"]).arg(unit);
    text(analysis.output().unwrap());
}

#[test]
fn build_fails_for_an_invalid_jcard() {
    if !has("nix") {
        return;
    }
    let build = |jcard: &str, etc: &str| {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        symlink(env!("CARGO_BIN_EXE_agentd"), folder.path().join("bin/agentd")).unwrap();
        fs::write(folder.path().join("declared"), jcard).unwrap();
        let script: String = evaluate(&format!("build {{ agentd = \"{}\"; etc = {etc}; }}", folder.path().display()));
        // Without a store, the jcard is not in one either.
        let in_store = "/nix/store/00000000000000000000000000000000-jcard.toml";
        let script = script.replace(in_store, "declared");
        let mut bash = Command::new("bash");
        bash.args(["-euc", &script]).current_dir(folder.path()).env("out", folder.path().join("out"));
        let output = bash.output().unwrap();
        let built = fs::read_to_string(folder.path().join("out")).ok();
        assert_eq!(output.status.success(), built.as_deref() == Some(jcard));
        (
            output.status.success(),
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat(),
        )
    };
    assert!(build("[agent]\nharness = \"codex\"\n", "[ ]").0);
    let (is_built, said) = build("[agent]\nharness = \"codex\"\npromt = \"x\"\n", "[ ]");
    assert!(!is_built && said.contains("did you mean `prompt`?"), "{said}");
    let relative = "[agent]\nharness = \"codex\"\nprompt_file = \"prompts/x.md\"\n";
    let (is_built, said) = build(relative, "[ ]");
    assert!(!is_built && said.contains("prompts/x.md") && said.contains("environment.etc.\"stereos/"), "{said}");
    let (is_built, said) = build(relative, r#"[ "stereos/prompts/x.md" ]"#);
    assert!(is_built, "{said}");
}

#[test]
fn docs_show_the_mount_unit_of_the_module() {
    if !has("nix") {
        return;
    }
    let page = read("docs/operations.md");
    let unit = fs::read_to_string(units("{ }").path().join("run-agentd.mount")).unwrap();
    let is_told = |key: &str| {
        let line = unit.lines().find(|line| line.starts_with(&format!("{key}="))).unwrap();
        page.contains(&format!("\n    {line}\n"))
    };
    for key in ["What", "Where", "Type", "Options", "ConditionDirectoryNotEmpty"] {
        assert!(is_told(key), "{key}");
    }
}

#[test]
fn systemd_takes_arguments_as_they_were_given() {
    const MANAGERS: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
    if !has("nix") || !has("systemd-analyze") {
        return;
    }
    let Some(manager) = MANAGERS.into_iter().find(|path| Path::new(path).exists()) else {
        return skip("it needs systemd where others have it");
    };
    let arguments = [
        "100%",
        "%i",
        "%%",
        "$HOME",
        "${HOME}",
        "$$",
        "two words",
        " ",
        "quo\"te",
        "it's",
        "back\\slash",
        "\\x41",
        ";",
        "",
        "-config=/x y",
        "ü",
        "@",
    ];
    let settings = TempDir::new().unwrap();
    let file = settings.path().join("arguments");
    fs::write(&file, serde_json::to_string(&arguments).unwrap()).unwrap();
    let read = format!("builtins.fromJSON (builtins.readFile {})", file.display());
    let folder = units(&format!("{{ services.agentd.extraArgs = {read}; }}"));
    fs::write(folder.path().join("default.target"), "[Unit]\nWants=agentd.service\n").unwrap();
    let runtime = folder.path().join("runtime");
    fs::create_dir(&runtime).unwrap();
    let mut command = Command::new(manager);
    // It does not test as root.
    if geteuid().is_root() {
        let user = User::from_name("op").unwrap().expect("user op does not exist: run ./tests/run, which lends it");
        chown(&runtime, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        command = Command::new("setpriv");
        command.args(["--reuid", "op", "--regid", "op", "--clear-groups", manager]);
    }
    command.args(["--user", "--test", "--unit=default.target"]).env_clear();
    command.env("HOME", &runtime).env("XDG_RUNTIME_DIR", &runtime).env("SYSTEMD_UNIT_PATH", folder.path());
    command.env("PATH", std::env::var_os("PATH").unwrap());
    let dump = text(command.output().unwrap());
    let mut lines = dump.lines().filter_map(|line| line.trim().strip_prefix("Command Line: "));
    let line = lines.find(|line| line.contains("/bin/agentd ")).unwrap_or_else(|| panic!("it is not in {dump}"));
    // It prints the arguments quoted for a shell.
    let words = text(Command::new("bash").args(["-c", &format!("printf '%s\\0' {line}")]).output().unwrap());
    // Only the last step before the start of the program remains (systemd.service(5), "COMMAND LINES").
    let words: Vec<String> = words.split_terminator('\0').map(|word| word.replace("$$", "$")).collect();
    assert!(words.ends_with(&arguments.map(str::to_owned)), "{words:#?}");
}
