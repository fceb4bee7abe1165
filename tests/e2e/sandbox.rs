//! Sandboxed agents behave as others do, with each engine: terminal, log, stop, exit status, limits, adoption.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use agentd::wire::exit_status::ExitStatus;
use agentd::wire::status::{Outcome, State};
use nix::sys::signal::Signal;
use nix::unistd::User;
use rstest::rstest;

use crate::skip::skip;
use crate::support::{Daemon, Process, Setup, agent, as_user, is_root, path, run};

const NOTHING: &str = "# nothing\n[other]\n";

/// Whether the engine can be tried here. As root it must be.
pub fn has(engine: &str) -> bool {
    let setup = Setup::new();
    let launcher = Path::new(env!("CARGO_BIN_EXE_agentd-launcher"));
    let output = setup.as_agent(&[launcher.to_str().unwrap(), "try", engine]).env("PATH", path()).output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || !is_root(), "{engine} must work where the tests run as root: {why}");
    if !output.status.success() {
        skip(&format!("{engine} does not work here: {why}"));
    }
    output.status.success()
}

/// An entry with this engine.
pub fn boxed(name: &str, engine: &str, script: &str, more: &str) -> String {
    let home = if more.contains("sandbox_home") { "" } else { "sandbox_home = \"fresh\"\n" };
    let read = if more.contains("sandbox_read") { "" } else { "sandbox_read = [\"@DIR/bin\"]\n" };
    agent(name, script, &format!("type = \"sandboxed\"\nsandbox = {engine:?}\n{home}{read}{more}"))
}

/// The same entry of a preset whose home is filled with the login in `~/.claude`, among others.
fn logged_in(entry: &str) -> String {
    entry.replace("harness = \"custom\"", "harness = \"claude-code\"")
}

/// What of [`give_login`] a sandbox has in its home.
const LOGIN: [&str; 3] = ["./.claude/.credentials.json", "./.claude/settings.json", "./.claude/skills/review/SKILL.md"];

/// Gives the user a login of Claude Code, settings, and transcripts that are too much for a home.
fn give_login(user: &User) {
    let files = [
        (".claude/.credentials.json", "token"),
        (".claude/settings.json", "{}"),
        (".claude/skills/review/SKILL.md", "x"),
        (".claude/history.jsonl", "private"),
        (".claude/projects/-srv-other/1.jsonl", "private"),
        (".claude/file-history/1/2", "private"),
    ];
    let claude = user.dir.join(".claude");
    for (path, text) in files {
        let path = user.dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::File::create(claude.join("projects/large.jsonl")).unwrap().set_len(1 << 40).unwrap();
    let owner = format!("{}:{}", user.uid, user.gid);
    assert!(Command::new("chown").args(["-R", &owner]).arg(claude).status().unwrap().success());
}

/// An entry whose harness is this script for bash.
pub fn shell(name: &str, engine: &str, script: &str, more: &str) -> String {
    let entry = boxed(name, engine, "rest", more);
    let command = format!("command = [\"bash\", \"-c\", {script:?}, \"bash\"]");
    entry.replace("command = \"@HARNESS\"", &command)
}

fn exit_of(daemon: &Daemon, name: &str) -> ExitStatus {
    daemon.wait_until(name, "ended", |agent| agent.state == State::Exited).exit.expect("it has ended").how
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
fn a_sandboxed_agent_starts_and_is_stopped_by_sigint(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let script = "log @WORK/log; on-signal SIGINT 0; append @WORK/ready yes; sleep inf";
    let daemon = Setup::new().start(&boxed("a", engine, script, ""));
    daemon.wait_until_running("a");
    daemon.wait_for_file("ready");
    daemon.edit_jcard(NOTHING);
    daemon.wait_until_removed("a");
    assert_eq!(daemon.lines("log").last().map(String::as_str), Some("SIGINT"));
    let owner = fs::metadata(daemon.work("log")).unwrap();
    assert_eq!((owner.uid(), owner.mode() & 0o777), (daemon.agent_account().uid.as_raw(), 0o644));
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
fn the_end_of_a_sandboxed_agent_is_told_truly(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let entries = [
        boxed("seven", engine, "say hello; exit 7", ""),
        boxed("killed", engine, "die SIGKILL", ""),
        boxed("status", engine, "exit 137", ""),
    ];
    let daemon = Setup::new().start(&entries.concat());
    assert_eq!(exit_of(&daemon, "seven"), ExitStatus::of_code(7));
    assert_eq!(exit_of(&daemon, "killed"), ExitStatus::of_signal(9));
    assert_eq!(exit_of(&daemon, "status"), ExitStatus::of_code(137));
    let log = daemon.get("/v1/agents/seven/log").body;
    assert!(log.contains("hello"), "{log}");
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
fn a_sandboxed_agent_is_attached_to_and_logged(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    // The size after each change, a line that was typed, and an interrupt that was typed.
    let script = "trap 'echo size $(stty size)' WINCH; trap 'echo interrupted; exit 3' INT; tty; echo size $(stty size); \
                  echo ready; while :; do if read -r -t 60 line; then echo got $line; fi; done";
    let daemon = Setup::new().start(&shell("a", engine, script, ""));
    daemon.wait("the script to be ready", || daemon.capture("a").contains("ready").then_some(()));
    let mut attached = daemon.attach("a");
    attached.types("hello there\n");
    daemon.wait("the line", || daemon.capture("a").contains("got hello there").then_some(()));
    daemon.wait("the size of the operator's terminal", || {
        let screen = daemon.capture("a");
        let size = screen.lines().rfind(|line| line.starts_with("size "))?;
        (size == "size 23 80" || size == "size 24 80").then_some(())
    });
    attached.types("\x03");
    assert_eq!(exit_of(&daemon, "a"), ExitStatus::of_code(3));
    let log = daemon.get("/v1/agents/a/log").body;
    assert!(log.contains("got hello there") && log.contains("interrupted"), "{log}");
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
fn a_sandboxed_agent_is_adopted_and_its_end_is_seen(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let script = "log @WORK/log; append @WORK/ready yes; await-exit @WORK/end";
    let mut daemon = Setup::new().start(&boxed("a", engine, script, ""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_file("ready");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
    assert_eq!(daemon.wait_until_running("a"), pid);
    fs::write(daemon.work("end"), "5\n").unwrap();
    assert_eq!(exit_of(&daemon, "a"), ExitStatus::of_code(5));
    daemon.wait_for_starts("log", 1);
}

#[rstest]
#[case("bwrap", Signal::SIGTERM)]
#[case("bwrap", Signal::SIGKILL)]
#[case("crun", Signal::SIGTERM)]
#[case("crun", Signal::SIGKILL)]
fn the_pid_of_a_sandboxed_agent_is_its_harness(#[case] engine: &str, #[case] signal: Signal) {
    if !has(engine) {
        return;
    }
    let daemon = Setup::new().start(&boxed("a", engine, "append @WORK/ready yes; sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_file("ready");
    let argv = Process(pid).argv();
    assert!(argv.iter().any(|word| word.ends_with("fake-harness")), "{argv:?}");
    // SIGKILL is what the kernel sends for lack of memory.
    Process(pid).signal(signal);
    assert_eq!(exit_of(&daemon, "a"), ExitStatus::of_signal(signal as i32));
    let reason = daemon.agent("a").unwrap().reason.unwrap_or_default();
    assert!(reason.starts_with(&format!("ended by {signal}")), "{reason}");
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
fn what_leaves_its_session_ends_with_a_sandboxed_agent(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let name = format!("escaped-{engine}");
    let script = format!(
        "setsid --fork bash -c 'exec -a {name} sleep 1000'; setsid bash -c 'exec -a {name} sleep 1000' & sleep 0.5; echo $$ >ready; exec sleep 1000"
    );
    let daemon = Setup::new().start(&shell("a", engine, &script, "grace_period = \"0s\""));
    let pid = daemon.wait_until_running("a");
    daemon.wait_for_file("ready");
    let is_left = || Process::all().any(|process| process.argv().first().is_some_and(|word| *word == name));
    assert!(engine == "runsc" || is_left());
    daemon.edit_jcard(NOTHING);
    daemon.wait_until_removed("a");
    daemon.wait_until_gone(pid);
    assert!(!is_left());
    let engines = || {
        Process::all().any(|process| {
            process.argv().first().is_some_and(|word| word.ends_with(engine))
                && daemon.processes().iter().any(|own| own.0 == process.0)
        })
    };
    daemon.wait("the engine to end", || (!engines()).then_some(()));
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
fn a_sandboxed_agent_receives_a_prompt_of_the_greatest_length(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let prompt = "x".repeat(131_071);
    let more = format!("prompt = {prompt:?}");
    let script = "printf %s \"$1\" | wc -c >length; sleep 1000";
    let daemon = Setup::new().start(
        &shell("a", engine, script, &more)
            .replace("\"bash\"]\nworkdir", "\"bash\"]\nargs = []\nworkdir")
            .replace("args = [\"rest\"]\n", ""),
    );
    daemon.wait("the length", || (daemon.lines("length") == ["131071"]).then_some(()));
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
fn a_sandboxed_agent_is_restarted_and_times_out(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let script = "log @WORK/log; sleep inf";
    let entries = [
        boxed("late", engine, script, "timeout = \"1s\"\ngrace_period = \"1s\""),
        boxed(
            "again",
            engine,
            "log @WORK/again; exit 1",
            "restart = \"on-failure\"\nmax_restarts = 2\nbackoff = [\"10ms\"]",
        ),
    ];
    let daemon = Setup::new().start(&entries.concat());
    let late = daemon.wait_until("late", "ended", |agent| agent.state == State::Exited);
    assert_eq!(late.outcome, Some(Outcome::TimedOut));
    daemon.wait_for_starts("again", 3);
    daemon.wait_for_state("again", State::Exited);
}

#[test]
fn a_kept_home_outlives_attempts_and_is_filled_from_the_users() {
    if !is_root() || !has("bwrap") {
        return skip("it needs the home of a lent user");
    }
    let setup = Setup::new();
    let home = setup.agent_account().dir;
    let name = format!("kept-{}", std::process::id());
    let user = setup.agent_account();
    give_login(&user);
    fs::write(home.join("secret-notes"), "private").unwrap();
    let script = "cat ~/.claude/.credentials.json >seen; (cd ~; find . -type f | sort) >listed.new; mv listed.new listed; test -e ~/mark && cp ~/mark again.new && mv again.new again; echo kept >~/mark; mv ~/.claude/.credentials.json ~/.claude/moved; sleep 1000";
    let more = "sandbox_home = \"kept\"";
    let mut daemon = setup.start(&logged_in(&shell(&name, "bwrap", script, more)));
    daemon.wait("the list", || (!daemon.lines("listed").is_empty()).then_some(()));
    daemon.wait_until_running(&name);
    assert_eq!(daemon.lines("seen"), ["token"]);
    assert_eq!(daemon.lines("listed"), LOGIN);
    let kept = home.join(".local/state/agentd/homes").join(&name);
    daemon.wait("the mark", || kept.join("mark").exists().then_some(()));
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(fs::read_to_string(home.join(".claude/.credentials.json")).unwrap(), "token");
    daemon.edit_jcard(NOTHING);
    daemon.wait_until_removed(&name);
    daemon.edit_jcard(&logged_in(&shell(&name, "bwrap", script, more)));
    assert_eq!(daemon.wait_for_file("again"), b"kept\n");
    daemon.stop();
    fs::remove_dir_all(kept).unwrap();
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
fn a_fresh_home_is_filled_and_forgotten(#[case] engine: &str) {
    if !is_root() || !has(engine) {
        return skip("it needs the home of a lent user");
    }
    let setup = Setup::new();
    let user = setup.agent_account();
    give_login(&user);
    // ls(1) does not work in runsc of 2022.
    let script = "cat ~/.claude/.credentials.json >seen; cd ~; shopt -s globstar dotglob; for f in ./**; do test -f \"$f\" && echo \"$f\"; done >$OLDPWD/listed; echo x >new; sleep 1000";
    let daemon = setup.start(&logged_in(&shell("a", engine, script, "sandbox_home = \"fresh\"")));
    daemon.wait_until_running("a");
    daemon.wait("the list", || (!daemon.lines("listed").is_empty()).then_some(()));
    assert_eq!(daemon.lines("seen"), ["token"]);
    assert_eq!(daemon.lines("listed"), LOGIN);
    assert!(!user.dir.join("new").exists());
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
fn a_sandboxed_agent_has_the_umask_of_its_entry(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let entry = |name, more: &str| {
        shell(name, engine, &format!("umask >@WORK/{name}.new; mv @WORK/{name}.new @WORK/{name}; sleep 1000"), more)
    };
    let daemon = Setup::new().start(&(entry("a", "umask = \"0077\"") + &entry("b", "")));
    assert_eq!(daemon.wait_for_file("a"), b"0077\n");
    assert_eq!(daemon.wait_for_file("b"), b"0022\n");
}

#[test]
fn entries_without_a_type_are_what_the_daemon_says() {
    if !has("crun") {
        return;
    }
    let read = "sandbox_read = [\"@DIR/bin\"]\nsandbox_home = \"fresh\"";
    let entries = [
        agent("a", "sleep inf", read),
        agent("b", "sleep inf", "type = \"native\""),
        agent("c", "sleep inf", &format!("type = \"sandboxed\"\nsandbox = \"bwrap\"\nmemory = \"1GiB\"\n{read}")),
    ];
    let setup = Setup::new().args(["--default-type", "sandboxed", "--sandbox", "crun"]);
    let daemon = setup.start(&entries.concat());
    let running = |name: &str| {
        daemon.wait_until_running(name);
        let agent = daemon.agent(name).unwrap();
        (agent.kind.unwrap(), agent.sandbox, agent.sandboxed_by_default)
    };
    assert_eq!(running("a"), ("sandboxed".to_owned(), Some("crun".to_owned()), true));
    assert_eq!(running("b"), ("native".to_owned(), None, false));
    assert_eq!(running("c"), ("sandboxed".to_owned(), Some("bwrap".to_owned()), false));
    let explain = |name: &str| {
        run(daemon.agentd(&["explain", name]).env("AGENTD_API_SOCKET", daemon.api_socket()))
            .1
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let expected = "Runs in a sandbox, made by crun, because its entry has no `type` and agentd runs with --default-type sandboxed.";
    assert!(explain("a").contains(expected), "{}", explain("a"));
    assert!(explain("c").contains("Runs in a sandbox, made by bwrap.") && !explain("b").contains("sandbox"));
    // There is no systemd that could apply limits.
    let told = daemon.wait_until("a", "its limits", |agent| agent.default_limits_error.is_some());
    assert_eq!(told.limits_error, None);
    assert!(
        explain("a").contains("limits are not applied")
            && explain("a").contains("every sandboxed agent has by default")
    );
    let told = daemon.wait_until("c", "its limits", |agent| agent.limits_error.is_some());
    assert_eq!(told.default_limits_error, None);
    let (_, doctor) = run(daemon.agentd(&["doctor", "--json"]).env("AGENTD_API_SOCKET", daemon.api_socket()));
    assert!(doctor.contains("limits are not applied"), "{doctor}");
}

#[test]
fn codex_in_a_sandbox_is_told_to_do_without_its_own() {
    if !has("bwrap") {
        return;
    }
    let of = |name: &str, more: &str| {
        let script = format!("printf '%s\\n' \"$@\" >@WORK/{name}; sleep 1000");
        format!(
            "[[agents]]\nname = {name:?}\nharness = \"codex\"\nprompt = \"do it\"\nworkdir = \"@WORK\"\n\
             command = [\"bash\", \"-c\", {script:?}, \"codex\"]\n{more}\n"
        )
    };
    let boxed = "sandbox = \"bwrap\"\nsandbox_home = \"fresh\"";
    let entries =
        [of("confined", boxed), of("native", ""), of("own", &format!("args = [\"-s\", \"read-only\"]\n{boxed}"))];
    let daemon = Setup::new().start(&entries.concat());
    let begin = ["exec", "--skip-git-repo-check"];
    for (name, middle) in
        [("confined", &["--sandbox", "danger-full-access"][..]), ("native", &[]), ("own", &["-s", "read-only"])]
    {
        daemon.wait_until_running(name);
        daemon.wait("its words", || daemon.lines(name).contains(&"do it".to_owned()).then_some(()));
        assert_eq!(daemon.lines(name), [&begin[..], middle, &["--", "do it"]].concat(), "{name}");
        let (_, said) = run(daemon.agentd(&["explain", name]).env("AGENTD_API_SOCKET", daemon.api_socket()));
        assert_eq!(said.contains("The sandbox of codex itself is off"), name != "native", "{said}");
    }
}

#[test]
fn a_missing_engine_or_path_is_said_and_nothing_is_started() {
    let entries = [
        boxed("gone", "bwrap", "log @WORK/log", "sandbox_read = [\"@DIR/bin\", \"@DIR/nowhere\"]"),
        boxed("root", "bwrap", "log @WORK/log", "sandbox_write = [\"/\"]"),
        boxed("theirs", "bwrap", "log @WORK/log", "sandbox_write = [\"/usr\"]"),
        boxed("home", "bwrap", "log @WORK/log", "").replace("workdir = \"@WORK\"", "workdir = \"~\""),
        boxed("inside", "bwrap", "log @WORK/log", "sandbox_read = [\"/usr\"]"),
    ];
    if !has("bwrap") {
        return;
    }
    let daemon = Setup::new().start(&entries.concat());
    for (name, expected) in [
        ("gone", "`sandbox_read`: @DIR/nowhere does not exist"),
        ("root", "a path in `sandbox_write` is the whole machine"),
        ("theirs", "`sandbox_write`: /usr belongs to another user"),
        ("home", "holds the home of the agent user"),
        ("inside", "fake-harness is not in the sandbox: it is @DIR/bin/fake-harness"),
    ] {
        let agent = daemon.wait_until(name, "failed", |agent| agent.error.is_some());
        let error = agent.error.unwrap_or_default();
        assert!(error.contains(&daemon.expand(expected)), "{name}: {error}");
    }
    assert_eq!(daemon.starts("log"), 0);
}

/// As installers put programs into a home: a link in one folder, versions in another.
#[rstest]
#[case("bwrap", "kept")]
#[case("bwrap", "fresh")]
#[case("crun", "kept")]
#[case("runsc", "kept")]
fn a_program_of_the_home_runs_as_its_error_says(#[case] engine: &str, #[case] kind: &str) {
    if !is_root() || !has(engine) {
        return skip("it needs the home of a lent user");
    }
    let setup = Setup::new();
    let (user, name) = (setup.agent_account(), format!("tool-{engine}-{kind}-{}", std::process::id()));
    let install = format!(
        "mkdir -p ~/{name}/bin ~/{name}/versions && cp /bin/sleep ~/{name}/versions/1 && ln -s ../versions/1 ~/{name}/bin/{name}"
    );
    assert!(as_user(&user.name, &["bash", "-c", &install]).env("HOME", &user.dir).status().unwrap().success());
    let (bin, versions) = (user.dir.join(&name).join("bin"), user.dir.join(&name).join("versions"));
    let entry = |more: &str| {
        boxed(
            &name,
            engine,
            "1000",
            &format!("sandbox_home = {kind:?}\nenv = {{ PATH = \"{}:/usr/bin\" }}\n{more}", bin.display()),
        )
        .replace("sandbox_read = [\"@DIR/bin\"]\n", "")
        .replace("command = \"@HARNESS\"", &format!("command = {name:?}"))
    };
    let daemon = setup.start(&entry(""));
    let error = daemon.wait_until(&name, "failed", |agent| agent.error.is_some()).error.unwrap_or_default();
    let right = format!("sandbox_read = [{bin:?}, {versions:?}]");
    assert!(error.contains(&format!("; write `{right}`, or install")), "{error}");
    daemon.edit_jcard(&entry(&right));
    daemon.wait_until_running(&name);
    drop(daemon);
    fs::remove_dir_all(user.dir.join(&name)).unwrap();
    let _ = fs::remove_dir_all(user.dir.join(".local/state/agentd/homes").join(&name));
}

#[test]
fn an_agent_waits_for_a_missing_engine() {
    if !is_root() {
        return skip("it needs a user whose PATH is known");
    }
    // This login's PATH has nothing but what the wrapper adds to that of the system.
    let setup = Setup::new();
    let empty = setup.path("empty");
    fs::create_dir(&empty).unwrap();
    let profile = setup.agent_account().dir.join(".bash_profile");
    fs::write(&profile, format!("export PATH={}\n", empty.display())).unwrap();
    let daemon = setup.start(&boxed("a", "bwrap", "log @WORK/log", ""));
    let agent = daemon.wait_for_state("a", State::Waiting);
    fs::remove_file(&profile).unwrap();
    let reason = format!("{:?}", agent.reason);
    assert!(reason.contains("bwrap") && reason.contains("install the package bubblewrap"), "{reason}");
    assert_eq!(daemon.starts("log"), 0);
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("runsc")]
fn git_works_and_its_hooks_stay(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let setup = Setup::new();
    let user = setup.agent_account().name;
    let work = setup.path("work");
    let prepare = "git init -q repo && cd repo && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first && git worktree add -q ../tree";
    let prepared = crate::support::as_user(&user, &["bash", "-c", prepare])
        .current_dir(&work)
        .env("HOME", &work)
        .output()
        .unwrap();
    assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
    let script = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        exec 2>>problems
        echo x >file; git add file && git commit -q -m second && echo committed >>result
        git=$(git rev-parse --git-common-dir)
        echo evil >$git/hooks/post-checkout && echo hook >>result
        git config core.fsmonitor evil && echo config >>result
        mv $git/hooks $git/away && echo moved >>result
        mv $git $git.away && echo renamed >>result
        test -f .git && rm -f .git && echo file >>result
        echo done >>result; sleep 1000";
    let entries = ["repo", "tree"].map(|name| {
        shell(name, engine, script, "").replace("workdir = \"@WORK\"", &format!("workdir = \"@WORK/{name}\""))
    });
    let daemon = setup.start(&entries.concat());
    for name in ["repo", "tree"] {
        let result = format!("{name}/result");
        daemon.wait("the result", || daemon.lines(&result).contains(&"done".to_owned()).then_some(()));
        assert_eq!(daemon.lines(&result), ["committed", "done"], "{:?}", daemon.lines(&format!("{name}/problems")));
    }
}

/// Puts what `git status` runs where git looks for it: in the git directories of other worktrees and of submodules.
///
/// Its words are the git directory, what to run, and the name of the own working tree.
const PLANT: &str = "git=$1 own=$3
    mkdir evil; printf '[core]\\n\\tfsmonitor = %s\\n[extensions]\\n\\tworktreeConfig = true\\n' \"$2\" >evil/config
    cp -r $git/HEAD $git/objects $git/refs evil; rm -rf evil/worktrees
    for path in $git/commondir $git/worktrees/*/commondir $git/modules/*/commondir; do
        [[ $path == */$own/* ]] || echo $PWD/evil >$path
    done
    for path in $git/config.worktree $git/worktrees/*/config.worktree $git/modules/module/config; do cp evil/config $path; done
    mkdir $git/worktrees/new $git/modules/new";

/// The repository `repo` with a submodule, and the worktrees `tree` and `other`.
fn prepare_worktrees(setup: &Setup) {
    let prepare = "export GIT_CONFIG_COUNT=3 GIT_CONFIG_KEY_0=user.name GIT_CONFIG_VALUE_0=a GIT_CONFIG_KEY_1=user.email GIT_CONFIG_VALUE_1=a@b \
        GIT_CONFIG_KEY_2=protocol.file.allow GIT_CONFIG_VALUE_2=always; set -e
        git init -q part; git -C part commit -q --allow-empty -m first
        git init -q repo; cd repo; git submodule --quiet add ../part module; git commit -q -m first; git config extensions.worktreeConfig true
        git worktree add -q ../tree; git worktree add -q ../other";
    let work = setup.path("work");
    let mut command = as_user(&setup.agent_account().name, &["bash", "-c", prepare]);
    let output = command.current_dir(&work).env("HOME", &work).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Whether `git status` outside runs what was planted.
fn git_status_runs_it(daemon: &Daemon, tree: &str) -> bool {
    let mut command = as_user(&daemon.agent_account().name, &["git", "status"]);
    command.current_dir(daemon.work(tree)).env("HOME", daemon.work("")).output().unwrap();
    let ran = daemon.work("ran").exists();
    let _ = fs::remove_file(daemon.work("ran"));
    ran
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
#[case("native")]
fn git_outside_runs_nothing_that_was_planted_in_git_dirs(#[case] engine: &str) {
    if engine != "native" && !has(engine) {
        return;
    }
    let setup = Setup::new();
    prepare_worktrees(&setup);
    fs::write(setup.path("bin/evil"), "#!/bin/sh\necho >@WORK/ran\n".replace("@WORK", &setup.expand("@WORK"))).unwrap();
    fs::set_permissions(setup.path("bin/evil"), fs::Permissions::from_mode(0o755)).unwrap();
    let script =
        format!("exec 2>>problems; set -- @WORK/repo/.git @DIR/bin/evil tree\n{PLANT}\necho done >done; sleep 1000");
    let mut entry = if engine == "native" {
        let command = format!("command = [\"bash\", \"-c\", {script:?}, \"bash\"]");
        agent("a", "rest", "").replace("command = \"@HARNESS\"", &command)
    } else {
        shell("a", engine, &script, "")
    };
    entry = entry.replace("workdir = \"@WORK\"", "workdir = \"@WORK/tree\"");
    let daemon = setup.start(&entry);
    daemon.wait_for_file("tree/done");
    // Without a sandbox it is run, or this would prove nothing.
    for tree in ["other", "repo", "repo/module"] {
        assert_eq!(
            git_status_runs_it(&daemon, tree),
            engine == "native",
            "{tree}: {:?}",
            daemon.lines("tree/problems")
        );
    }
    let made = daemon.work("repo/.git/worktrees/new").exists() || daemon.work("repo/.git/modules/new").exists();
    assert_eq!(made, engine == "native");
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
fn a_sandbox_that_is_killed_is_told_as_killed(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let entries =
        ["engine", "inside"].map(|name| boxed(name, engine, &format!("append @WORK/{name} yes; sleep inf"), ""));
    let daemon = Setup::new().start(&entries.concat());
    for name in ["engine", "inside"] {
        let harness = daemon.wait_until_running(name);
        daemon.wait_for_file(name);
        // The harness, the process inside, the engine, the launcher.
        let above: Vec<Process> = Process(harness).ancestors().collect();
        let is_inner = |process: &&Process| process.argv().get(1).is_some_and(|word| word == "inner");
        let inner = above.iter().position(|process| is_inner(&process)).unwrap();
        above[if name == "inside" { inner } else { inner + 1 }].signal(Signal::SIGKILL);
        assert_eq!(exit_of(&daemon, name), ExitStatus::of_signal(9), "{name}");
        daemon.wait_until_gone(harness);
    }
}

#[test]
fn a_kernel_of_gvisor_that_is_killed_is_told_as_an_end() {
    if !has("runsc") {
        return;
    }
    let daemon = Setup::new().start(&boxed("a", "runsc", "append @WORK/ready yes; sleep inf", ""));
    let engine = daemon.wait_until_running("a");
    daemon.wait_for_file("ready");
    // All processes of one sandbox have the same folder.
    let folder = Process(engine).argv().into_iter().find(|word| word.starts_with("--root=")).unwrap();
    let is_kernel = |process: &Process| {
        let argv = process.argv();
        argv.contains(&folder) && argv.iter().any(|word| word == "boot")
    };
    Process::all().find(is_kernel).expect("gVisor has a kernel").signal(Signal::SIGKILL);
    assert_eq!(exit_of(&daemon, "a"), ExitStatus::of_signal(9));
    daemon.wait_until_gone(engine);
}
