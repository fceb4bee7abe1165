//! What only root can do: run agents as another user, and let the right people in.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use agentd::wire::status::State;

use crate::support::{
    Daemon, Dump, Process, Setup, account, admin_gid, agent, as_user, get, owner, path, root, run, with_args,
};

fn curl(daemon: &Daemon, user: &str) -> (Option<i32>, String) {
    let socket = daemon.api_socket();
    run(&mut as_user(
        user,
        &["curl", "-sS", "--fail", "--unix-socket", socket.to_str().unwrap(), "http://agentd/v1/health"],
    ))
}

#[test]
fn agents_run_with_their_users_groups_and_none_of_roots() {
    if !root() {
        return;
    }
    let daemon =
        Setup::new().after("exec setpriv --groups 0,1,2 -- \"$@\"").start(&agent("a", "dump @WORK/dump; rest", ""));
    let dump = Dump::of(&daemon, "dump");
    let agent = account("agent");
    assert_eq!(dump.text("uid"), agent.uid.to_string());
    assert_eq!(dump.text("gid"), agent.gid.to_string());
    let (_, expected) = run(&mut as_user("agent", &["id", "-G"]));
    let sorted = |text: &str| {
        let mut groups: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        groups.sort();
        groups
    };
    assert!(sorted(&expected).len() > 1, "the test user has a second group");
    assert_eq!(sorted(&dump.text("groups")), sorted(&expected));
    for (field, id) in [("Uid", agent.uid.as_raw()), ("Gid", agent.gid.as_raw())] {
        let all = dump.status(field);
        assert!(all.split_whitespace().all(|found| found == id.to_string()), "{field}: {all}");
    }
    assert_eq!(dump.status("CapEff"), "0000000000000000");
    assert_eq!(dump.status("CapPrm"), "0000000000000000");
}

#[test]
fn launcher_and_tmux_server_run_as_the_agent_user() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start(&agent("a", "sleep inf", ""));
    let launcher = Process(daemon.wait_until_running("a")).parent();
    let server = Process(daemon.tmux(&["display-message", "-p", "#{pid}"]).unwrap().trim().parse().unwrap());
    for process in [launcher, server] {
        assert_eq!(process.user(), account("agent").uid.as_raw(), "{process}");
    }
}

#[test]
fn no_tmux_process_ever_runs_as_root() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    let tmux = run(std::process::Command::new("bash").args(["-c", "command -v tmux"])).1;
    fs::create_dir(setup.path("spy")).unwrap();
    let spy =
        format!("#!/bin/sh\necho \"$(id -u)\" >>{0}\nexec {1} \"$@\"\n", setup.path("uids").display(), tmux.trim());
    setup.put(&setup.path("spy/tmux"), spy);
    fs::set_permissions(setup.path("spy/tmux"), Permissions::from_mode(0o755)).unwrap();
    setup.put(&setup.path("uids"), "");
    fs::set_permissions(setup.path("uids"), Permissions::from_mode(0o666)).unwrap();
    let search = format!("{}:{}", setup.path("spy").display(), path());
    let mut daemon = setup.env("PATH", &search).start(
        &(agent("a", "exit 1", "restart = \"always\"\nbackoff = [\"50ms\"]\nmax_restarts = 1")
            + &agent("b", "sleep inf", "")),
    );
    daemon.wait_until_running("b");
    daemon.wait_for_state("a", State::Exited);
    daemon.edit_jcard("[other]\n");
    daemon.wait_until_removed("b");
    assert!(daemon.stop().success());
    let uids = fs::read_to_string(daemon.path("uids")).unwrap();
    assert!(!uids.is_empty(), "tmux is found in the daemon's PATH");
    assert!(uids.lines().all(|uid| uid == account("agent").uid.to_string()), "{uids}");
}

#[test]
fn directories_and_sockets_have_the_right_owners_and_modes() {
    if !root() {
        return;
    }
    let daemon = Setup::new().after("umask 077").start(&agent("a", "sleep inf", ""));
    daemon.wait_until_running("a");
    let (agent, admin) = (account("agent").uid.as_raw(), admin_gid());
    assert_eq!(owner(&daemon.api_socket()), (0o660, 0, admin), "the API's socket");
    assert_eq!(owner(&daemon.path("tmux")), (0o2750, agent, admin), "the directory of the tmux socket");
    let (mode, uid, gid) = owner(&daemon.tmux_socket());
    assert_eq!((mode & 0o666, uid, gid), (0o660, agent, admin), "the tmux socket");
    assert_eq!(mode & 0o007, 0, "other users cannot use the tmux socket");
    let (mode, _, _) = owner(&daemon.path("tmux/launch.sock"));
    assert_eq!(mode, 0o666, "the launch socket");
    let (mode, uid, _) = owner(&daemon.path("state"));
    assert_eq!((mode & 0o077, uid), (0, 0), "the state is root's");
}

#[test]
fn an_admin_may_query_the_api_and_a_stranger_may_not() {
    if !root() {
        return;
    }
    let daemon = Setup::new().start("[other]\n");
    let (status, said) = curl(&daemon, "op");
    assert_eq!((status, said.contains("\"state\":\"running\"")), (Some(0), true), "{said}");
    for nobody in ["stranger", "agent"] {
        let (status, said) = curl(&daemon, nobody);
        assert_ne!(status, Some(0), "{nobody}: {said}");
    }
}

#[test]
fn an_existing_directory_is_fixed_and_a_planted_link_refused() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    let agent_user = account("agent");
    fs::create_dir(setup.path("tmux")).unwrap();
    std::os::unix::fs::chown(setup.path("tmux"), Some(agent_user.uid.as_raw()), Some(agent_user.gid.as_raw())).unwrap();
    setup.put(&setup.path("precious"), "root's own");
    fs::set_permissions(setup.path("precious"), Permissions::from_mode(0o600)).unwrap();
    for name in ["tmux.sock", "launch.sock"] {
        std::os::unix::fs::symlink(setup.path("precious"), setup.path("tmux").join(name)).unwrap();
    }
    setup.edit_jcard(&agent("a", "sleep inf", ""));
    let mut child = setup.daemon_command().stderr(fs::File::create(setup.path("stderr")).unwrap()).spawn().unwrap();
    // The daemon may replace the links or refuse the directory with a message. Root's file must not change.
    setup.wait("the daemon to run its agent or to say why not", || {
        let status = child.try_wait().unwrap();
        assert!(!status.is_some_and(|status| status.success()), "the daemon neither runs nor reports an error");
        let answer = setup.try_request(&get("/v1/agents")).map(|response| response.body).unwrap_or_default();
        (status.is_some() && setup.log().contains("tmux")
            || answer.contains("\"running\":true")
            || answer.contains("\"error\""))
        .then_some(())
    });
    assert_eq!(owner(&setup.path("precious")), (0o600, 0, 0));
    assert_eq!(fs::read_to_string(setup.path("precious")).unwrap(), "root's own");
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn a_prompt_file_readable_only_by_root_is_not_read() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    setup.put(&setup.path("task.md"), "root's own words");
    fs::set_permissions(setup.path("task.md"), Permissions::from_mode(0o600)).unwrap();
    let daemon = setup
        .args(["--resync", "200ms"])
        .start(&(agent("a", "dump @WORK/dump; rest", "prompt_file = \"task.md\"") + &agent("b", "sleep inf", "")));
    let agent = daemon.wait_for_state("a", State::Waiting);
    let reason = agent.reason.unwrap_or_default();
    assert!(reason.contains("task.md"), "{reason}");
    daemon.wait_until_running("b");
    assert!(!daemon.work("dump").exists());
    assert_eq!(daemon.leaks("root's own words"), [""; 0]);
    fs::set_permissions(daemon.path("task.md"), Permissions::from_mode(0o644)).unwrap();
    assert_eq!(Dump::of(&daemon, "dump").rest(), ["root's own words"]);
}

#[test]
fn an_agent_waits_for_a_workdir_it_may_not_enter() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    fs::create_dir(setup.path("closed")).unwrap();
    fs::set_permissions(setup.path("closed"), Permissions::from_mode(0o700)).unwrap();
    let daemon = setup.start(&agent("a", "sleep inf", "").replace("workdir = \"@WORK\"", "workdir = \"@DIR/closed\""));
    let agent = daemon.wait_until("a", "held up", |agent| agent.reason.is_some() || agent.error.is_some());
    let said = agent.error.or(agent.reason).unwrap();
    assert!(said.contains("closed"), "{said}");
    assert!(!agent.running);
}

#[test]
fn a_login_shell_sets_the_path_but_not_the_directory() {
    if !root() {
        return;
    }
    let daemon = Setup::new().user("wrapped").start(&agent("a", "dump @WORK/dump; rest", ""));
    let dump = Dump::of(&daemon, "dump");
    let own = account("wrapped").dir.join("bin");
    assert!(dump.var("PATH").unwrap().starts_with(own.to_str().unwrap()), "{:?}", dump.var("PATH"));
    assert_eq!(dump.var("OF_THE_WRAPPER").as_deref(), Some("set"));
    assert_eq!(dump.text("cwd"), daemon.path("work").to_str().unwrap(), "the declared workdir wins");
}

#[test]
fn a_harness_in_the_login_shells_path_is_found() {
    if !root() {
        return;
    }
    let entry =
        agent("a", "append @WORK/ran yes", "").replace("command = \"@HARNESS\"\n", "command = \"only-there\"\n");
    let daemon = Setup::new().user("wrapped").start(&entry);
    // The wrapper's directory has a program of that name, which records its arguments.
    daemon.wait_for_line("only-there", "append");
}

#[test]
fn an_agent_whose_login_shell_fails_waits_and_says_why() {
    if !root() {
        return;
    }
    for (user, why) in [("hung", "did not finish within 100ms"), ("deaf", "gave no environment")] {
        let setup = Setup::new().user(user).args(["--login-timeout", "100ms"]);
        let daemon = setup.start(&agent("a", "log @WORK/log; sleep inf", "restart = 'always'"));
        let told =
            daemon.wait_until("a", "tried again", |agent| agent.error.is_some() && agent.next_start_at.is_some());
        let error = told.error.unwrap();
        let shell = account(user).shell.display().to_string();
        assert!(error.contains(why) && error.contains(&shell), "{user}: {error}");
        assert_eq!((told.state, told.restarts), (State::Backoff, 0), "{user}");
        assert_eq!(daemon.starts("log"), 0, "{user}");
    }
}

#[test]
fn a_stop_does_not_wait_for_a_login_shell() {
    if !root() {
        return;
    }
    let daemon = Setup::new().user("hung").start(&agent("a", "log @WORK/log; sleep inf", "grace_period = '1h'"));
    daemon.wait("the login", || {
        daemon.processes().iter().any(|process| process.argv() == ["sleep", "3600"]).then_some(())
    });
    daemon.edit_jcard("[other]\n");
    daemon.wait_until_removed("a");
    assert_eq!(daemon.starts("log"), 0);
}

#[test]
fn agents_whose_profiles_run_one_by_one_all_start() {
    if !root() {
        return;
    }
    let names: Vec<String> = (0..25).map(|number| format!("a{number}")).collect();
    let jcard: String = names.iter().map(|name| agent(name, &format!("log @WORK/{name}; sleep inf"), "")).collect();
    // One after another, they take 7.5 s.
    let daemon = Setup::new().user("slow").args(["--login-timeout", "5s"]).start(&jcard);
    for name in &names {
        daemon.wait_until_running(name);
        daemon.wait_for_starts(name, 1);
    }
    assert!(daemon.agents().iter().all(|agent| agent.attempt == Some(1)), "{:?}", daemon.agents());
}

#[test]
fn an_account_that_refuses_logins_has_a_sane_environment() {
    if !root() {
        return;
    }
    let daemon = Setup::new().user("nologin").start(&agent("a", "dump @WORK/dump; sleep inf; rest", ""));
    daemon.wait_until_running("a");
    let dump = Dump::of(&daemon, "dump");
    assert!(dump.var("PATH").is_some_and(|path| path.contains("/bin")), "{:?}", dump.var("PATH"));
    assert_eq!(dump.var("HOME").as_deref(), account("nologin").dir.to_str());
    assert_eq!(dump.text("cwd"), daemon.path("work").to_str().unwrap());
    assert_eq!(daemon.agent("a").unwrap().environment_error, None);
}

#[test]
fn a_missing_login_shell_is_replaced_and_reported() {
    if !root() {
        return;
    }
    let daemon = Setup::new().user("shellless").start(&agent("a", "dump @WORK/dump; sleep inf; rest", ""));
    daemon.wait_until_running("a");
    let told = daemon.agent("a").unwrap().environment_error.unwrap();
    let shell = account("shellless").shell.display().to_string();
    assert!(told.contains(&shell) && told.contains("/bin/sh stands in for it"), "{told}");
    let dump = Dump::of(&daemon, "dump");
    assert_eq!(dump.var("SHELL").as_deref(), Some("/bin/sh"));
    let shell = daemon.tmux(&["show-options", "-gv", "default-shell"]).unwrap();
    assert_eq!(shell.trim(), "/bin/sh");
}

#[test]
fn an_unknown_user_is_named_at_startup() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    setup.edit_jcard("[other]\n");
    let named = |arg: &str| Some(if arg == "agent" { "no-such-user" } else { arg }.to_owned());
    let (status, said) = run(&mut with_args(&setup.daemon_command(), named));
    assert!(status.is_some_and(|status| status != 0));
    assert!(said.contains("no-such-user"), "{said}");
}

/// Runs the script that the package's purge runs, with these folders in place of the machine's.
fn purge(setup: &Setup) -> (Option<i32>, String) {
    let script = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/debian/postrm")).unwrap();
    let here = setup.path("machine").display().to_string();
    let script = ["run", "var", "home", "etc"]
        .iter()
        .fold(script, |script, folder| script.replace(&format!("/{folder}/"), &format!("{here}/{folder}/")));
    let script = script.replace("userdel agent", "echo userdel").replace("groupdel ", "echo groupdel ");
    let busy = format!("{here}/run/agentd");
    // A process of the agent user sits in the folder, which is a mount as with the package's units.
    let all = format!(
        "mount -t tmpfs tmpfs {busy}; cd {busy}; (cd /; sh -c \"$1\" sh purge); code=$?; cd /; umount {busy}; exit $code"
    );
    run(std::process::Command::new("unshare").args(["--mount", "sh", "-c", &all, "sh", &script]))
}

#[test]
fn purge_of_the_package_goes_on_past_a_busy_folder() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    for folder in
        ["run/agentd", "run/stereos/secrets", "var/lib/agentd", "var/lib/agentd-overrides", "var/log/agentd/a", "home"]
    {
        fs::create_dir_all(setup.path("machine").join(folder)).unwrap();
    }
    let precious = setup.path("machine/precious");
    fs::write(&precious, "kept").unwrap();
    std::os::unix::fs::symlink(&precious, setup.path("machine/var/log/agentd/a/link")).unwrap();
    fs::write(setup.path("machine/var/lib/agentd/made-by-package"), "passwd agent\ngroup agentd\n").unwrap();
    let (code, said) = purge(&setup);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("something is in use below") && said.contains("userdel\n"), "{said}");
    for gone in ["run/stereos", "var/lib/agentd", "var/lib/agentd-overrides", "var/log/agentd"] {
        assert!(!setup.path("machine").join(gone).exists(), "{gone}: {said}");
    }
    assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
}
