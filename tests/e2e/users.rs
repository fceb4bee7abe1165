//! Agents of several users: each user has a tmux server, a launch socket and a deputy, and none reaches what is another's.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agentd::wire::status::{AgentStatus, State};
use nix::sys::signal::Signal;

use crate::attach::{Terminal, detach};
use crate::hostile::put_tools;
use crate::support::{
    Daemon, Dump, Process, Setup, Who, account, admin_gid, agent, as_user, binary, give, owner, path, root, run,
};

/// An agent that runs as this user, in the user's own workdir.
fn of(user: &str, name: &str, script: &str, more: &str) -> String {
    agent(name, script, &format!("user = {user:?}\n{more}")).replace("@WORK", &format!("@DIR/of-{user}"))
}

/// A place with a workdir for each of the other users.
fn house() -> Setup {
    house_of(&["agent2", "agent3"])
}

fn house_of(users: &[&str]) -> Setup {
    let setup = Setup::new();
    for user in users {
        let workdir = setup.path(&format!("of-{user}"));
        fs::create_dir(&workdir).unwrap();
        fs::set_permissions(&workdir, Permissions::from_mode(0o700)).unwrap();
        give(&workdir, &account(user));
    }
    setup
}

fn folder(daemon: &Setup, user: &str) -> PathBuf {
    daemon.path("door/users").join(user)
}

/// The output of a tmux client of this user, for that user's server.
fn tmux(daemon: &Setup, user: &str, words: &[&str]) -> Result<String, String> {
    let socket = folder(daemon, user).join("tmux.sock");
    let argv = [&["timeout", "10", "tmux", "-N", "-S", socket.to_str().unwrap()], words].concat();
    let (code, said) = run(&mut as_user(user, &argv));
    if code == Some(0) { Ok(said) } else { Err(said) }
}

fn lines(daemon: &Setup, user: &str, name: &str) -> Vec<String> {
    let path = daemon.path(&format!("of-{user}")).join(name);
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn restart_after_crash(daemon: &mut Daemon) {
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.start_again();
}

#[test]
fn each_user_has_its_own_server_sockets_and_processes() {
    if !root() {
        return;
    }
    let daemon = house().after("umask 077").start(&(agent("a", "sleep inf", "") + &of("agent2", "b", "sleep inf", "")));
    let [a, b] = ["a", "b"].map(|name| daemon.wait_until_running(name));
    for (pid, user) in [(a, "agent"), (b, "agent2")] {
        let uid = account(user).uid.as_raw();
        let harness = Process(pid);
        assert_eq!((harness.user(), harness.parent().user()), (uid, uid), "harness and launcher of {user}");
    }
    assert_eq!(daemon.agent("a").unwrap().user.as_deref(), Some("agent"));
    assert_eq!(daemon.agent("b").unwrap().user.as_deref(), Some("agent2"));
    assert!(daemon.has_session("a") && !daemon.has_session("b"));
    assert_eq!(tmux(&daemon, "agent2", &["list-sessions", "-F", "#S"]).unwrap(), "b\n");
    let (uid, admin) = (account("agent2").uid.as_raw(), admin_gid());
    assert_eq!(owner(&daemon.path("door/users")), (0o755, 0, 0));
    assert_eq!(owner(&folder(&daemon, "agent2")), (0o2750, uid, admin));
    let (mode, _, group) = owner(&folder(&daemon, "agent2").join("tmux.sock"));
    assert_eq!((mode & 0o667, group), (0o660, admin));
}

#[test]
fn an_agent_of_another_user_is_stopped_with_its_tree() {
    if !root() {
        return;
    }
    let script = "log @DIR/of-agent2/log; child @DIR/of-agent2/child; escapee @DIR/of-agent2/escapee; on-signal INT 7";
    let daemon =
        house().start(&(agent("a", "sleep inf", "") + &of("agent2", "b", &format!("{script}; sleep inf"), "")));
    let a = daemon.wait_until_running("a");
    daemon.wait_until_running("b");
    let pid = |name: &str| {
        daemon.wait(name, || lines(&daemon, "agent2", name).first().and_then(|line| line.parse::<i32>().ok()))
    };
    let left = [pid("child"), pid("escapee")];
    daemon.edit_jcard(&agent("a", "sleep inf", ""));
    daemon.wait_until_removed("b");
    assert!(lines(&daemon, "agent2", "log").contains(&"INT".to_owned()), "{:?}", lines(&daemon, "agent2", "log"));
    for pid in left {
        daemon.wait_until_gone(pid);
    }
    assert_eq!(daemon.wait_until_running("a"), a);
    assert!(tmux(&daemon, "agent2", &["has-session", "-t", "=b"]).is_err());
}

#[test]
fn agents_of_all_users_are_adopted_after_a_crash() {
    if !root() {
        return;
    }
    let jcard = agent("a", "sleep inf", "") + &of("agent2", "b", "sleep inf", "") + &of("agent3", "c", "sleep inf", "");
    let mut daemon = house().start(&jcard);
    let names = ["a", "b", "c"];
    let before = names.map(|name| daemon.wait_until_running(name));
    restart_after_crash(&mut daemon);
    assert_eq!(names.map(|name| daemon.wait_until_running(name)), before);
    for (name, user) in [("a", "agent"), ("b", "agent2"), ("c", "agent3")] {
        let agent = daemon.agent(name).unwrap();
        assert_eq!((agent.user.as_deref(), agent.attempt, agent.restarts), (Some(user), Some(1), 0));
    }
    // It obeys its new daemon.
    daemon.edit_jcard(&jcard.replace("name = \"b\"", "name = \"d\""));
    daemon.wait_until_removed("b");
    daemon.wait_until_gone(before[1]);
    daemon.wait_until_running("d");
}

#[test]
fn a_changed_user_stops_the_old_one_and_starts_the_new_one() {
    if !root() {
        return;
    }
    let script = "log @DIR/log; sleep inf";
    let setup = house();
    setup.put(&setup.path("log"), "");
    fs::set_permissions(setup.path("log"), Permissions::from_mode(0o666)).unwrap();
    let daemon = setup.start(&agent("a", script, ""));
    let as_user = |user: &str, before: Option<i32>| {
        let status = daemon.wait_until("a", user, |agent| {
            agent.running && agent.user.as_deref() == Some(user) && agent.pid.is_some() && agent.pid != before
        });
        assert_eq!(Process(status.pid.unwrap()).user(), account(user).uid.as_raw());
        status.pid
    };
    let mut pid = as_user("agent", None);
    for user in ["agent2", "agent3"] {
        daemon.edit_jcard(&of(user, "a", script, ""));
        let next = as_user(user, pid);
        daemon.wait_until_gone(pid.unwrap());
        pid = next;
    }
    assert!(!daemon.has_session("a"));
    assert!(tmux(&daemon, "agent2", &["has-session", "-t", "=a"]).is_err());
    daemon.edit_jcard(&agent("a", script, ""));
    as_user("agent", pid);
    daemon.wait_until_gone(pid.unwrap());
}

#[test]
fn the_default_user_by_name_is_the_default_user() {
    if !root() {
        return;
    }
    let mut daemon = house().start(&agent("a", "sleep inf", ""));
    let pid = daemon.wait_until_running("a");
    restart_after_crash(&mut daemon);
    daemon.edit_jcard(&agent("a", "sleep inf", "user = \"agent\""));
    daemon.wait_until("a", "declared", |agent| agent.state == State::Running);
    restart_after_crash(&mut daemon);
    assert_eq!(daemon.wait_until_running("a"), pid);
}

/// `agentd` with these words, as this user, about this daemon.
fn agentd(daemon: &Setup, user: &str, words: &[&str]) -> Command {
    let (api, terminal) = (daemon.api_socket(), daemon.terminal_socket());
    let mut argv = [&[binary().to_str().unwrap()], words, &["--api-socket", api.to_str().unwrap()]].concat();
    if ["attach", "send", "doctor"].contains(&words[0]) {
        argv.extend(["--terminal-socket", terminal.to_str().unwrap()]);
    }
    let mut command = if user == "root" { Command::new(argv[0]) } else { as_user(user, &argv) };
    if user == "root" {
        command.args(&argv[1..]).env_clear().env("PATH", path());
    }
    command.current_dir(daemon.dir()).env("TERM", "xterm-256color").env("LANG", "C.UTF-8");
    command
}

/// An agent of this user that says when it listens, and repeats what it reads.
fn listener_of(user: &str, name: &str) -> String {
    of(user, name, "say it listens; read-line @WORK/heard; say it has heard; sleep inf", "")
}

#[test]
fn root_and_operators_attach_to_agents_of_every_user() {
    if !root() {
        return;
    }
    let daemon = house().start(&listener_of("agent2", "b"));
    daemon.wait_until_running("b");
    tmux(&daemon, "agent2", &["set-option", "-g", "assume-paste-time", "0"]).unwrap();
    for user in ["root", "op"] {
        let mut terminal = Terminal::new();
        let mut verb = terminal.run(agentd(&daemon, user, &["attach", "b"]));
        terminal.wait_for(&daemon, "it listens");
        if user == "op" {
            terminal.types("good morning\r");
            terminal.wait_for(&daemon, "it has heard");
            assert_eq!(lines(&daemon, "agent2", "heard"), ["good morning"]);
        }
        detach(&daemon, &mut terminal, &mut verb);
    }
    let clients = Process::all().filter(|process| process.executable().is_some_and(|name| name == "tmux"));
    assert!(clients.filter(|process| process.acts_as() == Some(0)).count() == 0, "no client runs as root");
}

#[test]
fn screens_logs_and_texts_of_every_user_are_those_of_its_agent() {
    if !root() {
        return;
    }
    let jcard = agent("a", "say this is the first; sleep inf", "") + &listener_of("agent2", "b");
    let daemon = house().start(&jcard);
    for (name, said) in [("a", "this is the first"), ("b", "it listens")] {
        daemon.wait_until_running(name);
        for words in [["watch", "--once", name], ["logs", "-n1", name]] {
            daemon
                .wait(&format!("{words:?}"), || run(&mut agentd(&daemon, "op", &words)).1.contains(said).then_some(()));
        }
    }
    let (code, told) = run(&mut agentd(&daemon, "op", &["send", "b", "good morning"]));
    assert_eq!((code, told.as_str()), (Some(0), ""));
    daemon.wait("the text", || (lines(&daemon, "agent2", "heard") == ["good morning"]).then_some(()));
}

#[test]
fn a_prompt_file_is_read_as_the_agents_own_user() {
    if !root() {
        return;
    }
    let setup = house();
    for user in ["agent2", "agent3"] {
        let prompt = setup.path(&format!("of-{user}")).join("prompt");
        setup.put(&prompt, format!("of {user}"));
        fs::set_permissions(&prompt, Permissions::from_mode(0o600)).unwrap();
        give(&prompt, &account(user));
    }
    let entry = |user: &str, name: &str, file: &str| {
        of(user, name, "dump @WORK/dump; rest", &format!("prompt_file = \"@DIR/of-{file}/prompt\""))
    };
    let daemon = setup.start(&(entry("agent2", "own", "agent2") + &entry("agent3", "others", "agent2")));
    daemon.wait_for_state("own", State::Exited);
    let argv = fs::read(daemon.path("of-agent2/dump/argv")).unwrap();
    assert!(String::from_utf8_lossy(&argv).ends_with("of agent2\0"), "{argv:?}");
    let others = daemon.wait_for_state("others", State::Waiting);
    let reason = others.reason.unwrap();
    assert!(reason.contains("/of-agent2/prompt cannot be read"), "{reason}");
}

#[test]
fn an_unfit_user_is_an_error_of_its_entry_alone() {
    if !root() {
        return;
    }
    let unfit = [
        ("root", "is root"),
        ("ghost", "there is no user ghost; create it"),
        ("stranger", "stranger is not in group agentd-agents"),
        ("op", "op is in group admin"),
    ];
    let entries: String = unfit.iter().map(|(user, _)| agent(user, "sleep inf", &format!("user = {user:?}"))).collect();
    let daemon = house().start(&(entries + &agent("a", "sleep inf", "") + &of("agent2", "b", "sleep inf", "")));
    for name in ["a", "b"] {
        daemon.wait_until_running(name);
    }
    for (user, expected) in unfit {
        let status = daemon.wait_for_state(user, State::Invalid);
        assert!(status.error.as_ref().is_some_and(|error| error.contains(expected)), "{status:?}");
        assert!(!folder(&daemon, user).exists());
    }
    let (code, said) = run(&mut agentd(&daemon, "root", &["doctor", "-v"]));
    assert_eq!(code, Some(1), "{said}");
    for expected in ["is root", "agents run as agent2", "door/users/agent2"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let (code, said) = run(&mut agentd(&daemon, "op", &["explain", "ghost"]));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("there is no user ghost"), "{said}");
}

#[test]
fn without_root_another_user_is_an_error_of_its_entry() {
    let daemon =
        Setup::of(Who::User).start(&(agent("a", "sleep inf", "") + &agent("b", "sleep inf", "user = \"nobody\"")));
    daemon.wait_until_running("a");
    let error = daemon.wait_for_state("b", State::Invalid).error.unwrap();
    assert!(error.contains("without root, agents run as yourself"), "{error}");
    let own = daemon.agent("a").unwrap().user.unwrap();
    daemon.edit_jcard(&agent("c", "sleep inf", &format!("user = {own:?}")));
    daemon.wait_until_running("c");
}

#[test]
fn an_agent_waits_for_the_home_of_its_user() {
    if !root() {
        return;
    }
    let daemon = house().start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let home = account("agent3").dir;
    let (away, entry) = (home.with_extension("away"), of("agent3", "c", "sleep inf", ""));
    fs::rename(&home, &away).unwrap();
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        daemon.edit_jcard(&(agent("a", "sleep inf", "") + &entry));
        daemon.wait_for_state("c", State::Waiting).reason.unwrap()
    }));
    fs::rename(&away, &home).unwrap();
    let reason = told.unwrap();
    assert!(reason.contains(&format!("the home {} of user agent3 does not exist", home.display())), "{reason}");
    daemon.wait_until_running("c");
}

/// Held by the test that changes what becomes of that user.
static FLEETING: Mutex<()> = Mutex::new(());

/// A change of the user database, which `tests/run` has put over the machine's own. It is undone when this is dropped.
///
/// One byte is changed, so that no reader sees half of a file.
struct Changed {
    database: fs::File,
    at: u64,
    before: u8,
}

impl Changed {
    /// Takes this user out: a line that begins with `#` declares nobody.
    fn without(name: &str) -> Self {
        Self::of(name, 0, b'#')
    }

    /// Gives this user another id, which nobody has.
    fn id_of(name: &str) -> Self {
        Self::of(name, format!("{name}:x:4").len(), b'1')
    }

    fn of(name: &str, offset: usize, byte: u8) -> Self {
        let path = "/etc/passwd";
        let text = fs::read_to_string(path).unwrap();
        let at = text.find(&format!("\n{name}:")).unwrap_or_else(|| panic!("{name} is not lent: {text}")) + 1 + offset;
        let database = fs::OpenOptions::new().write(true).open(path).unwrap();
        database.write_all_at(&[byte], at as u64).unwrap();
        Self { database, at: at as u64, before: text.as_bytes()[at] }
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        self.database.write_all_at(&[self.before], self.at).unwrap();
    }
}

#[test]
fn agents_of_a_deleted_user_go_on_until_it_is_back() {
    if !root() {
        return;
    }
    let _turn = FLEETING.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = |name: &str| of("fleeting", name, "log @WORK/log; on-signal INT 0; sleep inf", "");
    let jcard = agent("a", "sleep inf", "") + &of("agent2", "other", "sleep inf", "") + &entry("b");
    let mut daemon = house_of(&["agent2", "fleeting"]).start(&jcard);
    let names = ["a", "other", "b"];
    let before = names.map(|name| daemon.wait_until_running(name));
    let still_run = |daemon: &Daemon| assert_eq!(names.map(|name| daemon.wait_until_running(name)), before);
    let says = |agent: &AgentStatus, text: &str| {
        [&agent.error, &agent.reason].into_iter().flatten().any(|told| told.contains(text))
    };
    let deleted = Changed::without("fleeting");
    assert_eq!(nix::unistd::User::from_name("fleeting").unwrap(), None);
    daemon.edit_jcard(&(jcard.clone() + &entry("c")));
    // Its other agents are not disturbed, and what is new waits or is refused, and says why.
    daemon.wait_until("c", "without its user", |agent| !agent.running && says(agent, "fleeting"));
    still_run(&daemon);
    // The next daemon knows the user from the record alone.
    restart_after_crash(&mut daemon);
    daemon.wait_until("c", "without its user", |agent| !agent.running && says(agent, "there is no user fleeting"));
    still_run(&daemon);
    assert!(lines(&daemon, "fleeting", "log").iter().all(|line| line != "INT"), "it was interrupted");
    drop(deleted);
    daemon.wait_until_running("c");
    still_run(&daemon);
    daemon.wait_until("b", "in order", |agent| agent.error.is_none());
    // One that is removed while there is no user is stopped all the same.
    let deleted = Changed::without("fleeting");
    daemon.edit_jcard(&(agent("a", "sleep inf", "") + &of("agent2", "other", "sleep inf", "")));
    for name in ["b", "c"] {
        daemon.wait_until_removed(name);
    }
    daemon.wait_until_gone(before[2]);
    assert!(lines(&daemon, "fleeting", "log").contains(&"INT".to_owned()));
    drop(deleted);
    assert_eq!(["a", "other"].map(|name| daemon.wait_until_running(name)), [before[0], before[1]]);
}

#[test]
fn agents_of_a_deleted_user_leave_after_a_restart() {
    if !root() {
        return;
    }
    let _turn = FLEETING.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = |name: &str| of("fleeting", name, "sleep inf", "");
    let mut daemon = house_of(&["fleeting"]).start(&(entry("gone") + &entry("moved") + &agent("a", "sleep inf", "")));
    let [gone, moved, a] = ["gone", "moved", "a"].map(|name| daemon.wait_until_running(name));
    let uid = account("fleeting").uid.as_raw();
    let server = |daemon: &Daemon| {
        let mut all = daemon.processes().into_iter();
        all.find(|it| it.executable().is_some_and(|name| name == "tmux") && it.user() == uid)
    };
    assert!(server(&daemon).is_some());
    let deleted = Changed::without("fleeting");
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    daemon.edit_jcard(&(agent("moved", "sleep inf", "") + &agent("a", "sleep inf", "")));
    daemon.start_again();
    daemon.wait_until_removed("gone");
    for pid in [gone, moved] {
        daemon.wait_until_gone(pid);
    }
    let pid = daemon.wait_until_running("moved");
    assert_eq!(Process(pid).user(), account("agent").uid.as_raw());
    daemon.wait("the end of its server", || server(&daemon).is_none().then_some(()));
    assert_eq!(daemon.wait_until_running("a"), a);
    // What looks for the server of a user who is not there has stopped.
    let complaints = |daemon: &Daemon| daemon.log().matches("there is no user").count();
    let before = complaints(&daemon);
    std::thread::sleep(Duration::from_secs(7));
    assert!(complaints(&daemon) <= before + 1, "{}", daemon.log());
    drop(deleted);
    daemon.edit_jcard(&(entry("new") + &agent("a", "sleep inf", "")));
    let new = daemon.wait_until_running("new");
    assert_eq!(Process(new).user(), uid);
}

#[test]
fn a_user_that_is_made_again_with_another_id_is_another() {
    if !root() {
        return;
    }
    let daemon = house_of(&["renewed"]).start(&(agent("a", "sleep inf", "") + &of("renewed", "b", "sleep inf", "")));
    let [a, b] = ["a", "b"].map(|name| daemon.wait_until_running(name));
    let uid = account("renewed").uid.as_raw();
    let other = Changed::id_of("renewed");
    let next = account("renewed");
    assert_ne!(next.uid.as_raw(), uid);
    give(&daemon.path("of-renewed"), &next);
    give(&next.dir, &next);
    daemon.wait_until_gone(b);
    // What is left of the first one is not taken for its successor's, nor removed under a server that may run there.
    let error = daemon.wait("the error", || daemon.agent("b")?.error);
    let place = folder(&daemon, "renewed");
    assert!(error.contains(&format!("rm -r {}", place.display())), "{error}");
    fs::remove_dir_all(&place).unwrap();
    let pid = daemon.wait_until_running("b");
    assert_eq!(Process(pid).user(), next.uid.as_raw());
    assert_eq!(owner(&place).1, next.uid.as_raw());
    assert_eq!(daemon.wait_until_running("a"), a);
    drop(other);
    // The first one is back.
    for path in [next.dir.clone(), daemon.path("of-renewed")] {
        give(&path, &account("renewed"));
    }
    daemon.wait_until_gone(pid);
}

#[test]
fn doctor_and_explain_look_with_each_users_rights() {
    if !root() {
        return;
    }
    let setup = house();
    let boxed = "type = \"sandboxed\"\nsandbox_home = \"fresh\"\nsandbox_read = [\"@DIR/bin\"]\n";
    let entries = of("agent2", "b", "sleep inf", boxed) + &of("agent3", "c", "sleep inf", "");
    let daemon = setup.start(&(agent("a", "sleep inf", "") + &entries));
    for name in ["a", "b", "c"] {
        daemon.wait_until_running(name);
    }
    let told = |words: &[&str]| {
        let (code, said) = run(&mut agentd(&daemon, "root", words));
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        (code, said)
    };
    let (_, said) = told(&["doctor", "-v"]);
    assert!(said.contains("bwrap makes sandboxes as agent2, for 1 sandboxed agent"), "{said}");
    assert_eq!(said.matches("makes sandboxes").count(), 1, "only that user has one: {said}");
    for user in ["agent", "agent2", "agent3"] {
        assert!(said.contains(&format!("has the groups of {user} ")), "{user}: {said}");
    }
    // Who cannot become that user does not say that it fails.
    let (_, said) = run(&mut agentd(&daemon, "agent3", &["doctor", "-v"]));
    assert!(!said.contains("makes sandboxes") && said.contains("only the agent user can check this"), "{said}");
    let (code, said) = told(&["explain", "b"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("b has been in state running"), "{said}");
    let workdir = daemon.path("of-agent3");
    fs::set_permissions(&workdir, Permissions::from_mode(0o000)).unwrap();
    daemon.edit_jcard(&(of("agent2", "b", "sleep inf", boxed) + &of("agent3", "d", "sleep inf", "")));
    daemon.wait_for_state("d", State::Waiting);
    let (_, said) = told(&["explain", "d"]);
    assert!(said.contains(&format!("{} ", workdir.display())) && said.contains("agent3"), "{said}");
}

#[test]
fn records_without_a_user_mean_the_default_one() {
    if !root() {
        return;
    }
    let jcard = agent("a", "sleep inf", "") + &of("agent2", "b", "sleep inf", "");
    let mut daemon = house().start(&jcard);
    let before = ["a", "b"].map(|name| daemon.wait_until_running(name));
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    // The record of the default user's agent is as the build before wrote it.
    let record = |name: &str| fs::read_to_string(daemon.path("state/agents").join(name)).unwrap();
    let names: Vec<String> = fs::read_dir(daemon.path("state/agents"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let of = |agent: &str| names.iter().find(|name| name.starts_with(agent)).unwrap_or_else(|| panic!("{names:?}"));
    assert!(!record(of("a")).contains("\"user\""), "{}", record(of("a")));
    assert!(record(of("b")).contains("\"user\":{\"name\":\"agent2\""), "{}", record(of("b")));
    daemon.start_again();
    assert_eq!(["a", "b"].map(|name| daemon.wait_until_running(name)), before);
}

#[test]
fn a_hostile_user_reaches_nothing_of_another_user() {
    if !root() {
        return;
    }
    let setup = house();
    setup.secret("OF_B", "the-secret-of-b");
    setup.secret("OF_C", "the-secret-of-c");
    let entry = |user: &str, name: &str, secret: &str| {
        of(user, name, "say shown by it; child @WORK/child; sleep inf", &format!("secrets = [\"{secret}\"]"))
    };
    let daemon = setup.start(&(entry("agent2", "b", "OF_B") + &entry("agent3", "c", "OF_C")));
    let [_, c] = ["b", "c"].map(|name| daemon.wait_until_running(name));
    let launcher = Process(c).parent().0;
    let child: i32 = daemon.wait("its child", || lines(&daemon, "agent3", "child").first()?.parse().ok());
    let deputies: Vec<Process> = Process::all()
        .filter(|it| it.argv().get(1).is_some_and(|word| word == "deputy") && it.parent().0 == daemon.pid())
        .collect();
    let deputy = deputies.iter().find(|it| it.argv().get(2).is_some_and(|word| word == "agent3")).unwrap().0;
    let dir = daemon.dir().display().to_string();
    let temporary =
        run(Command::new("bash").args(["-c", &format!("ls -d /tmp/*agentd*c* /proc/{c}/cwd 2>/dev/null")])).1;
    assert!(!temporary.is_empty());
    let (theirs, mine) = (format!("{dir}/door/users/agent3"), format!("{dir}/door/users/agent2"));
    let git = "git -c user.name=c -c user.email=c@c";
    let made = format!(
        "umask 022; git init -q repo && cd repo && {git} commit -q --allow-empty -m 'work of agent3' && git worktree add ../tree"
    );
    let (code, said) = run(as_user("agent3", &["bash", "-c", &made]).current_dir(daemon.path("of-agent3")));
    assert_eq!(code, Some(0), "{said}");
    // Each of these must fail, or print nothing that it should not.
    let tries = [
        ("the environment", format!("cat /proc/{c}/environ /proc/{launcher}/environ /proc/{child}/environ")),
        (
            "the memory",
            format!("head -c1 /proc/{launcher}/mem; cat /proc/{deputy}/environ /proc/{deputy}/maps /proc/{c}/maps"),
        ),
        ("descriptors and folders", format!("ls /proc/{c}/fd /proc/{c}/cwd/ /proc/{c}/root/ /proc/{deputy}/fd")),
        ("the workdir", format!("ls {dir}/of-agent3; echo x >{dir}/of-agent3/new; ls ~agent3")),
        (
            "worktrees",
            format!(
                "git -C {dir}/of-agent3/tree log; git -C {dir}/of-agent3/repo worktree add {dir}/of-agent2/stolen; cat {dir}/of-agent3/repo/.git/config; echo x >{dir}/of-agent3/repo/.git/hooks/post-commit; ls {dir}/of-agent2/stolen"
            ),
        ),
        (
            "the terminal",
            format!("t=/dev/$(ps -o tty= -p {c}); echo x >$t; timeout 1 head -c1 $t; timeout 1 script -qc true $t"),
        ),
        ("tracing", format!("timeout 2 strace -p {c}; timeout 2 strace -p {deputy}")),
        (
            "the control group",
            format!(
                "f=/sys/fs/cgroup$(sed -n s/^0:://p /proc/{c}/cgroup); echo 1 >$f/cgroup.kill; echo 1 >$f/cgroup.freeze; echo $$ >$f/cgroup.procs"
            ),
        ),
        ("signals", format!("kill -9 {c}; kill -9 {child}; kill -STOP {launcher}; kill -9 {deputy}")),
        (
            "tmux",
            format!(
                "tmux -N -S {theirs}/tmux.sock list-sessions; tmux -N -S {theirs}/tmux.sock capture-pane -p -t c; tmux -N -S {theirs}/tmux.sock send-keys -t c x; tmux -N -S {theirs}/tmux.sock kill-server"
            ),
        ),
        (
            "the launch socket",
            format!(
                "ls {theirs}; test -w {theirs}/launch.sock && echo open; test -S {theirs}/launch.sock && echo there"
            ),
        ),
        (
            "the folder of sockets",
            format!(
                "mv {theirs} {theirs}.old; rmdir {theirs}; mkdir {dir}/door/users/new; mv {mine} {mine}.old; ln -s /tmp {dir}/door/users/agent9; chmod 777 {theirs}"
            ),
        ),
        (
            "logs and state",
            format!("ls {dir}/log; cat {dir}/log/c/*; ls {dir}/state; ls {dir}/secrets; cat {dir}/secrets/OF_C"),
        ),
        (
            "the API",
            format!(
                "curl -sS --fail --max-time 5 --unix-socket {dir}/api/agentd.sock http://agentd/v1/agents/c/screen; {} logs c --api-socket {dir}/api/agentd.sock",
                binary().display()
            ),
        ),
        (
            "the terminal socket",
            format!(
                "{} send c hello --terminal-socket {dir}/door/terminal.sock --api-socket {dir}/api/agentd.sock",
                binary().display()
            ),
        ),
        ("overrides", format!("echo 'enabled = false' >{dir}/overrides/c.toml")),
    ];
    // They are real tries: the user itself gets that far.
    for (what, expected) in [
        ("the environment", "the-secret-of-c"),
        ("the workdir", "child"),
        ("tmux", "c: 1 windows"),
        ("worktrees", "work of agent3"),
    ] {
        let script = &tries.iter().find(|(name, _)| *name == what).unwrap().1;
        let script = script.split("; ").next().unwrap();
        let (_, said) = run(&mut as_user("agent3", &["bash", "-c", &format!("{script} 2>&1")]));
        assert!(said.contains(expected), "{what}: {said}");
    }
    for (what, script) in tries {
        let hostile = format!("{{ {script}; }} 2>&1; echo; echo done");
        let (_, said) = run(&mut as_user("agent2", &["bash", "-c", &hostile]));
        let secret = ["the-secret-of-c", "shown by it", "open\n", "there\n", "child", "work of agent3", "attached"]
            .iter()
            .find(|word| said.contains(**word));
        assert_eq!(secret, None, "{what}: {said}");
        assert!(said.contains("done"), "{what}: {said}");
        let failures = ["denied", "not permitted", "Permission", "No such file", "cannot", "not a member", "Couldn't"];
        let is_refused = what == "the launch socket" || failures.iter().any(|word| said.contains(word));
        assert!(is_refused, "{what} was not refused: {said}");
        for process in [c, launcher, child, deputy] {
            assert!(Process(process).is_alive(), "{what}: {process} has ended");
        }
    }
    assert_eq!(owner(&folder(&daemon, "agent3")).1, account("agent3").uid.as_raw());
    assert!(!daemon.path("door/users/new").exists() && !daemon.path("of-agent3/new").exists());
    assert_eq!(daemon.wait_until_running("c"), c);
    // It can still be stopped.
    daemon.edit_jcard(&entry("agent2", "b", "OF_B"));
    daemon.wait_until_removed("c");
    daemon.wait_until_gone(child);
}

#[test]
fn a_hostile_user_cannot_pose_as_another_users_launcher() {
    if !root() {
        return;
    }
    let setup = house();
    put_tools(&setup);
    let daemon = setup.start(&(of("agent2", "b", "sleep inf", "") + &of("agent3", "c", "sleep inf", "")));
    let [_, c] = ["b", "c"].map(|name| daemon.wait_until_running(name));
    let before = daemon.agent("c").unwrap();
    let liar = daemon.path("bin/liar").display().to_string();
    let zero = "{\"secs\":0,\"nanos\":0}";
    let own = format!("{{\"pid\":{c},\"at\":{zero}}}");
    let end =
        format!("{{\"how\":{{\"code\":9}},\"at\":{zero},\"user_time\":{zero},\"system_time\":{zero},\"max_rss\":0}}");
    let sockets = [folder(&daemon, "agent2"), folder(&daemon, "agent3"), daemon.path("tmux")];
    for progress in [
        "\"new\"".to_owned(),
        format!("{{\"running\":{own}}}"),
        format!("{{\"ended\":{{\"harness\":{own},\"end\":{end}}}}}"),
    ] {
        for socket in &sockets {
            let socket = socket.join("launch.sock").display().to_string();
            let words = ["timeout", "-s", "KILL", "5", &liar, "visit", "c", "1", &socket, &progress];
            let (_, told) = run(as_user("agent2", &words).current_dir(daemon.path("of-agent2")));
            assert!(!told.contains("launch\"") && !told.contains(&daemon.canary), "{progress}: {told}");
        }
    }
    assert_eq!(daemon.agent("c").unwrap(), before);
    assert_eq!(daemon.wait_until_running("c"), c);
}

#[test]
fn a_session_on_another_users_server_is_not_adopted() {
    if !root() {
        return;
    }
    let setup = house();
    put_tools(&setup);
    let mut daemon = setup.start(&(of("agent2", "b", "sleep inf", "") + &of("agent3", "c", "sleep inf", "")));
    let [b, c] = ["b", "c"].map(|name| daemon.wait_until_running(name));
    // One that runs already, and one that the next daemon is to start.
    for name in ["c", "d"] {
        let pane = "sleep 1000";
        tmux(&daemon, "agent2", &["new-session", "-d", "-s", name, pane]).unwrap();
        tmux(&daemon, "agent2", &["set-option", "-t", &format!("={name}:"), "@agentd-owner", name]).unwrap();
        tmux(&daemon, "agent2", &["set-option", "-p", "-t", &format!("={name}:"), "@agentd-agent", name]).unwrap();
    }
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    let more = of("agent3", "d", "sleep inf", "");
    daemon.edit_jcard(&(of("agent2", "b", "sleep inf", "") + &of("agent3", "c", "sleep inf", "") + &more));
    daemon.start_again();
    assert_eq!(["b", "c"].map(|name| daemon.wait_until_running(name)), [b, c]);
    let d = Process(daemon.wait_until_running("d"));
    assert_eq!(d.user(), account("agent3").uid.as_raw());
    for name in ["c", "d"] {
        assert_eq!(daemon.agent(name).unwrap().user.as_deref(), Some("agent3"));
    }
    assert_eq!(daemon.agent("d").unwrap().attempt, Some(1));
}

#[test]
fn no_agent_user_operates_agents_or_attaches() {
    if !root() {
        return;
    }
    let daemon = house().start(&(agent("a", "sleep inf", "") + &of("agent2", "b", "sleep inf", "")));
    for name in ["a", "b"] {
        daemon.wait_until_running(name);
    }
    // As if it could write there: root puts the file, and gives it to the user.
    let drop_in = daemon.path("overrides/a.toml");
    daemon.put(&drop_in, "enabled = false\n");
    give(&drop_in, &account("agent2"));
    let error = daemon.wait("the refusal", || daemon.health().override_error);
    assert!(error.contains("the agent user agent2, who may not operate agents"), "{error}");
    assert!(daemon.agent("a").unwrap().running);
    let (code, said) = run(&mut agentd(&daemon, "agent2", &["send", "b", "hello"]));
    assert_ne!(code, Some(0), "{said}");
}

#[test]
fn a_stop_of_the_daemon_ends_every_users_server() {
    if !root() {
        return;
    }
    let mut daemon = house().start(&(agent("a", "sleep inf", "") + &of("agent2", "b", "sleep inf", "")));
    let pids = ["a", "b"].map(|name| daemon.wait_until_running(name));
    assert!(daemon.stop().success());
    for pid in pids {
        daemon.wait_until_gone(pid);
    }
    daemon.wait("the servers to end", || {
        let left = daemon.processes().into_iter().filter(|it| it.executable().is_some_and(|name| name == "tmux"));
        (left.count() == 0).then_some(())
    });
    assert!(!folder(&daemon, "agent2").join("launch.sock").exists());
}

#[test]
fn a_umask_lets_users_of_a_group_share_files() {
    let script = "dump @WORK/dump; rest";
    let daemon = Setup::new().start(&agent("a", script, "umask = \"0002\""));
    let dump = Dump::of(&daemon, "dump");
    assert_eq!(dump.status("Umask"), "0002");
    let (mode, _, _) = owner(&fs::canonicalize(daemon.work("dump")).unwrap().join("argv"));
    assert_eq!(mode & 0o777, 0o664);
}

#[test]
fn agents_without_a_record_are_found_on_their_users_servers() {
    if !root() {
        return;
    }
    let jcard = of("agent2", "b", "sleep inf", "") + &of("agent3", "c", "sleep inf", "");
    let mut daemon = house().start(&jcard);
    let [b, c] = ["b", "c"].map(|name| daemon.wait_until_running(name));
    daemon.signal(Signal::SIGKILL);
    daemon.ended();
    fs::remove_dir_all(daemon.path("state/agents")).unwrap();
    // One of them is declared no more.
    daemon.edit_jcard(&of("agent2", "b", "sleep inf", ""));
    daemon.start_again();
    assert_eq!(daemon.wait_until_running("b"), b);
    daemon.wait_until_gone(c);
    daemon.wait_until_removed("c");
    assert!(tmux(&daemon, "agent3", &["has-session", "-t", "=c"]).is_err());
}
