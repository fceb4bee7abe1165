//! Git in the repositories of others: root's are trusted, and those of other users if the entry says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use agentd::wire::status::State;
use nix::unistd::User;
use rstest::rstest;

use crate::sandbox::{has, shell};
use crate::skip::skip;
use crate::support::{Daemon, Setup, account, agent, is_root, root, run};

/// Says which directories it trusts, whether git works, and that it is done.
const SCRIPT: &str = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
    exec 2>>$OUT/problems
    git status --short >/dev/null && echo status >>$OUT/result
    echo x >>file && git add file && git commit -q -m more && echo commit >>$OUT/result
    git --git-dir=$(git rev-parse --path-format=absolute --git-common-dir) log --oneline | wc -l >>$OUT/result
    git config --get-all test.kept >>$OUT/result
    echo done >>$OUT/result; sleep 1000";

/// Held by tests that change the configuration of git in the home of the lent user, and by those in which it holds.
static GIT_CONFIG: RwLock<()> = RwLock::new(());

/// A configuration of git that a user has for a while.
struct GitConfig {
    path: PathBuf,
    _alone: RwLockWriteGuard<'static, ()>,
}

impl GitConfig {
    fn of(user: &User, text: &str) -> Self {
        let path = user.dir.join(".gitconfig");
        let alone = GIT_CONFIG.write().unwrap_or_else(PoisonError::into_inner);
        fs::write(&path, text).unwrap();
        Self { path, _alone: alone }
    }
}

impl Drop for GitConfig {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A repository of this user with a worktree, in which everybody may write; and a folder for results of the agent `name`.
fn prepare(setup: &Setup, owner: &User, name: &str) -> PathBuf {
    let repository = setup.path(name);
    let git = |folder: &Path, words: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(folder).args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*"]);
        assert!(command.args(words).env("HOME", "/nonexistent").status().unwrap().success(), "{words:?}");
    };
    git(setup.dir(), &["init", "-q", name]);
    git(&repository, &["commit", "-q", "--allow-empty", "-m", "first"]);
    git(&repository, &["worktree", "add", "-q", setup.path(&format!("{name}-tree")).to_str().unwrap()]);
    for path in [repository.clone(), setup.path(&format!("{name}-tree"))] {
        let owner = format!("{}:{}", owner.uid, owner.gid);
        assert!(Command::new("chown").args(["-R", &owner]).arg(&path).status().unwrap().success());
        assert!(Command::new("chmod").args(["-R", "a+rwX"]).arg(&path).status().unwrap().success());
    }
    repository
}

/// An entry that works in a folder, and says what came of it in its own folder of results.
fn entry(setup: &Setup, engine: Option<&str>, name: &str, folder: &str, more: &str) -> String {
    let out = setup.work(name);
    fs::create_dir_all(&out).unwrap();
    crate::support::give(&out, &setup.agent_account());
    let more = format!(
        "env = {{ OUT = \"@WORK/{name}\", GIT_CONFIG_COUNT = \"1\", GIT_CONFIG_KEY_0 = \"test.kept\", \
         GIT_CONFIG_VALUE_0 = \"kept\" }}\n{more}"
    );
    let entry = if let Some(engine) = engine {
        shell(name, engine, SCRIPT, &format!("sandbox_write = [\"@WORK/{name}\"]\n{more}"))
    } else {
        let command = format!("command = [\"bash\", \"-c\", {SCRIPT:?}, \"bash\"]");
        agent(name, "rest", &more).replace("command = \"@HARNESS\"", &command)
    };
    entry.replace("workdir = \"@WORK\"", &format!("workdir = \"@DIR/{folder}\""))
}

fn result(daemon: &Daemon, name: &str) -> Vec<String> {
    let file = format!("{name}/result");
    daemon.wait(&format!("the result of {name}"), || daemon.lines(&file).contains(&"done".to_owned()).then_some(()));
    daemon.lines(&file)
}

#[rstest]
#[case::native(None)]
#[case::bwrap(Some("bwrap"))]
#[case::crun(Some("crun"))]
fn git_works_in_repositories_of_root_and_in_trusted_ones(#[case] engine: Option<&str>) {
    if !root() || !engine.is_none_or(has) {
        return;
    }
    let _unchanged = GIT_CONFIG.read().unwrap_or_else(PoisonError::into_inner);
    let setup = Setup::new();
    prepare(&setup, &account("root"), "roots");
    prepare(&setup, &account("stranger"), "theirs");
    let trusted = "trust_repository = true";
    let entries = [
        entry(&setup, engine, "in-roots", "roots", ""),
        entry(&setup, engine, "in-roots-tree", "roots-tree", ""),
        entry(&setup, engine, "in-theirs", "theirs", trusted),
        entry(&setup, engine, "in-theirs-tree", "theirs-tree", trusted),
        entry(&setup, engine, "distrusting", "theirs", ""),
    ];
    let daemon = setup.start(&entries.concat());
    for (name, commits) in [("in-roots", "2"), ("in-theirs", "2")] {
        let tree = format!("{name}-tree");
        let problems = || daemon.lines(&format!("{name}/problems"));
        assert_eq!(result(&daemon, name), ["status", "commit", commits, "kept", "done"], "{name}: {:?}", problems());
        // The main working tree is what the common directory's log is of.
        let of_tree = result(&daemon, &tree);
        assert_eq!(
            (&of_tree[..2], &of_tree[3..]),
            (&["status", "commit"].map(String::from)[..], &["kept", "done"].map(String::from)[..]),
            "{tree}: {of_tree:?} {:?}",
            daemon.lines(&format!("{tree}/problems"))
        );
        assert_eq!(daemon.wait_for_state(name, State::Running).environment_error, None);
    }
    let told = result(&daemon, "distrusting");
    assert!(!told.iter().any(|line| ["status", "commit"].contains(&line.as_str())), "{told:?}");
    assert!(daemon.lines("distrusting/problems").iter().any(|line| line.contains("dubious ownership")));
    let error = daemon.wait_for_state("distrusting", State::Running).environment_error.unwrap();
    let uid = account("stranger").uid;
    assert!(
        error
            .contains(&daemon.expand(&format!(
                "git refuses to work in the workdir: @DIR/theirs belongs to the user with uid {uid}"
            ))),
        "{error}"
    );
    assert!(error.ends_with("write `trust_repository = true` to trust what git runs there"), "{error}");
    let (_, said) = run(daemon.agentd(&["doctor", "--json"]).env("AGENTD_API_SOCKET", daemon.api_socket()));
    assert!(
        said.contains("git refuses to work in the workdir") && said.contains("agentd explain distrusting"),
        "{said}"
    );
}

#[test]
fn a_user_whose_git_trusts_a_repository_needs_nothing() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    prepare(&setup, &account("stranger"), "theirs");
    let text = format!("[safe]\n\tdirectory = {}\n", setup.path("theirs").display());
    let config = GitConfig::of(&setup.agent_account(), &text);
    let entry = entry(&setup, None, "a", "theirs", "");
    let daemon = setup.start(&entry);
    let told = result(&daemon, "a");
    let error = daemon.wait_for_state("a", State::Running).environment_error;
    drop(config);
    assert_eq!((&told[..2], error), (&["status", "commit"].map(String::from)[..], None));
}

#[test]
fn a_repository_of_root_that_others_can_replace_is_not_trusted() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    fs::create_dir(setup.path("shared")).unwrap();
    crate::support::give(&setup.path("shared"), &account("stranger"));
    prepare(&setup, &account("root"), "shared/roots");
    let entry = entry(&setup, None, "a", "shared/roots", "");
    let daemon = setup.start(&entry);
    assert!(!result(&daemon, "a").contains(&"status".to_owned()));
    let error = daemon.wait_for_state("a", State::Running).environment_error.unwrap();
    assert!(
        error.contains(&daemon.expand("because they can write to @DIR/shared; write `trust_repository = true`")),
        "{error}"
    );
}

#[test]
fn check_says_where_git_will_refuse_to_work() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    prepare(&setup, &account("stranger"), "theirs");
    prepare(&setup, &account("root"), "roots");
    let of = |name: &str, folder: &str, more: &str| {
        agent(name, "rest", more).replace("workdir = \"@WORK\"", &format!("workdir = \"@DIR/{folder}\""))
    };
    let entries = [
        of("a", "theirs", ""),
        of("b", "theirs", "trust_repository = true"),
        of("c", "roots", ""),
        of("d", "work", ""),
    ];
    setup.edit_jcard(&entries.concat());
    let (user, jcard) = (setup.agent_account().name, setup.jcard());
    let (code, said) = run(&mut setup.agentd(&["check", "--here", "--user", &user, jcard.to_str().unwrap()]));
    let expected =
        setup.expand("warning: a: git in the workdir @DIR/theirs refuses to work there: @DIR/theirs belongs to");
    assert!(code == Some(0) && said.contains(&expected), "{said}");
    assert!(
        said.contains("write `trust_repository = true` if") && said.matches("git in the workdir").count() == 1,
        "{said}"
    );
}

/// What commits need besides a repository: the name and address of whom the agent works for.
#[rstest]
#[case("kept")]
#[case("fresh")]
fn a_sandboxed_agent_commits_with_the_identity_of_its_user(#[case] home: &str) {
    if !is_root() || !has("bwrap") {
        return skip("it needs the home of a lent user");
    }
    let setup = Setup::new();
    let user = setup.agent_account();
    prepare(&setup, &user, "own");
    let text = "[user]\n\tname = Ada\n\temail = ada@example\n[credential]\n\thelper = !echo password=x\n[commit]\n\tgpgsign = true\n";
    let config = GitConfig::of(&user, text);
    let name = format!("identity-{home}-{}", std::process::id());
    let script = "exec 2>>@WORK/problems; git commit -q --allow-empty -m x; git log -1 --format='%an <%ae>' >@WORK/author; git config --list --global | sort >@WORK/settings; echo done >@WORK/done; sleep 1000";
    let entry = shell(&name, "bwrap", script, &format!("sandbox_home = {home:?}\nsandbox_write = [\"@WORK\"]"));
    let entry = entry.replace("workdir = \"@WORK\"", "workdir = \"@DIR/own\"");
    let daemon = setup.start(&entry);
    daemon.wait_for_file("done");
    drop(config);
    assert_eq!(daemon.lines("author"), ["Ada <ada@example>"], "{:?}", daemon.lines("problems"));
    assert_eq!(daemon.lines("settings"), ["user.email=ada@example", "user.name=Ada"]);
    drop(daemon);
    let _ = fs::remove_dir_all(user.dir.join(".local/state/agentd/homes").join(name));
}
