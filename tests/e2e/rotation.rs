//! New values of secrets reach agents when these can take them, in order, and no further than the first that fails with them.

use agentd::wire::status::{AgentStatus, RotationCause, State};

use crate::support::{Daemon, Process, Setup, agent, run};

/// Whether the agent runs with that variable.
fn has(agent: &AgentStatus, var: &str) -> bool {
    let environ = agent.pid.map(|pid| Process(pid).environ()).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|known| known == var.as_bytes())
}

fn wait_for_var(daemon: &Daemon, name: &str, var: &str) -> i32 {
    daemon.wait_until(name, &format!("running with {var}"), |agent| has(agent, var)).pid.unwrap()
}

fn wait_for_cause(daemon: &Daemon, name: &str, cause: &RotationCause) -> AgentStatus {
    daemon.wait_until(name, &format!("waiting with its rotation: {cause:?}"), |agent| {
        agent.rotation.as_ref().is_some_and(|rotation| rotation.cause == *cause)
    })
}

#[test]
fn an_agent_that_waits_for_its_next_start_keeps_its_values_until_then() {
    let setup = Setup::new();
    setup.secret("key-file", "old");
    let more = "secrets = { KEY = \"key-file\" }\non_rotate = \"next\"";
    let mut daemon = setup.start(&agent("a", "sleep inf", more));
    let pid = wait_for_var(&daemon, "a", "KEY=old");
    assert_eq!(daemon.agent("a").unwrap().secrets[0].name, "KEY");
    daemon.secret("key-file", "new");
    let agent = wait_for_cause(&daemon, "a", &RotationCause::NextStart);
    let rotation = agent.rotation.unwrap();
    assert_eq!((agent.pid, rotation.secrets.as_slice()), (Some(pid), ["key-file".to_owned()].as_slice()));
    let socket = daemon.api_socket();
    let (_, said) = run(&mut daemon.agentd(&["explain", "--api-socket", socket.to_str().unwrap(), "a"]));
    assert!(said.contains("New values of key-file wait"), "{said}");
    daemon.kill_and_start_again();
    let agent = wait_for_cause(&daemon, "a", &RotationCause::NextStart);
    assert_eq!((agent.pid, agent.rotation.unwrap().since), (Some(pid), rotation.since), "adopted, and waits on");
    daemon.edit_jcard(&crate::support::agent("a", "sleep inf", &format!("{more}\ngeneration = 1")));
    let later = wait_for_var(&daemon, "a", "KEY=new");
    assert_ne!(later, pid);
    daemon.wait_until("a", "waiting for nothing", |agent| agent.rotation.is_none());
}

#[test]
fn an_agent_that_is_never_idle_is_relaunched_in_the_end() {
    let setup = Setup::new();
    setup.secret("KEY", "old");
    let more = "secrets = [\"KEY\"]\non_rotate = \"idle\"\nrotate_within = \"2s\"";
    let daemon = setup.start(&agent("a", "sleep inf", more));
    let pid = wait_for_var(&daemon, "a", "KEY=old");
    daemon.secret("KEY", "new");
    let agent = wait_for_cause(&daemon, "a", &RotationCause::Busy);
    assert!(agent.pid == Some(pid) && agent.rotation.unwrap().until.is_some());
    wait_for_var(&daemon, "a", "KEY=new");
    let agent = daemon.wait_until("a", "waiting for nothing", |agent| agent.rotation.is_none());
    assert_eq!((agent.restarts, agent.changed.secrets.as_slice()), (0, ["KEY".to_owned()].as_slice()));
}

#[test]
fn values_that_are_back_as_they_were_wait_no_longer() {
    let setup = Setup::new();
    setup.secret("KEY", "old");
    let daemon = setup.start(&agent("a", "sleep inf", "on_rotate = \"next\"\nsecrets = [\"KEY\"]"));
    let pid = wait_for_var(&daemon, "a", "KEY=old");
    daemon.secret("KEY", "new");
    wait_for_cause(&daemon, "a", &RotationCause::NextStart);
    daemon.secret("KEY", "old");
    let agent = daemon.wait_until("a", "waiting for nothing", |agent| agent.rotation.is_none());
    assert_eq!(agent.pid, Some(pid));
}

#[test]
fn a_roll_goes_from_one_agent_to_the_next_and_stops_at_a_failure() {
    let setup = Setup::new();
    setup.secret("KEY", "old");
    let more = "secrets = [\"KEY\"]\nrotate_spread = \"1s\"";
    let working = |name: &str| agent(name, "sleep inf", more);
    // A shell, because it has to look at the value.
    let failing = format!(
        "[[agents]]\nname = \"a\"\nharness = \"custom\"\nworkdir = \"@WORK\"\n\
         command = [\"sh\", \"-c\", '[ \"$KEY\" = bad ] && exit 3; exec sleep inf']\n{more}\n"
    );
    let daemon = setup.start(&(failing + &working("b") + &working("c")));
    let before = ["b", "c"].map(|name| wait_for_var(&daemon, name, "KEY=old"));
    wait_for_var(&daemon, "a", "KEY=old");
    daemon.secret("KEY", "bad");
    daemon.wait_for_state("a", State::Exited);
    for name in ["b", "c"] {
        let why = wait_for_cause(&daemon, name, &RotationCause::Failed).rotation.unwrap().why;
        assert!(why.starts_with("a failed with the new values: exited with status 3"), "{why}");
    }
    assert_eq!(["b", "c"].map(|name| wait_for_var(&daemon, name, "KEY=old")), before);
    daemon.secret("KEY", "good");
    wait_for_var(&daemon, "b", "KEY=good");
    assert!(has(&daemon.agent("c").unwrap(), "KEY=old"), "one at a time");
    wait_for_var(&daemon, "c", "KEY=good");
}

/// The content of the file that a variable of the agent names.
fn file_of(daemon: &Daemon, name: &str) -> std::path::PathBuf {
    let environ = Process(daemon.wait_until_running(name)).environ();
    let vars = String::from_utf8(environ).unwrap();
    vars.split('\0').find_map(|var| var.strip_prefix("KEY_FILE=")).unwrap().into()
}

#[test]
fn files_are_replaced_while_the_agent_goes_on_and_are_gone_with_it() {
    let setup = Setup::new();
    setup.secret("KEY", "old");
    let more = "secrets = [\"KEY\"]\nsecret_files = true\non_rotate = \"files\"";
    let mut daemon = setup.start(&agent("a", "sleep inf", more));
    let pid = wait_for_var(&daemon, "a", "KEY=old");
    let file = file_of(&daemon, "a");
    let holds = |value: &str| std::fs::read(&file).ok().filter(|content| content == value.as_bytes()).map(drop);
    daemon.wait("the old value in the file", || holds("old"));
    let (mode, uid, _) = crate::support::owner(&file);
    assert_eq!((mode, uid), (0o400, daemon.agent_account().uid.as_raw()));
    daemon.secret("KEY", "new");
    daemon.wait("the new value in the file", || holds("new"));
    assert_eq!(wait_for_cause(&daemon, "a", &RotationCause::FilesReplaced).pid, Some(pid));
    daemon.kill();
    daemon.secret("KEY", "newer");
    daemon.start_again();
    daemon.wait("what changed while no daemon ran", || holds("newer"));
    daemon.secret("KEY", "old");
    daemon.wait("the old value again", || holds("old"));
    assert_eq!(daemon.wait_until("a", "waiting for nothing", |agent| agent.rotation.is_none()).pid, Some(pid));
    daemon.edit_jcard("[other]\n");
    daemon.wait_until_removed("a");
    assert!(!file.parent().unwrap().exists());
}

#[test]
fn a_sandboxed_agent_has_its_files_and_no_others() {
    if !crate::sandbox::has("bwrap") {
        return;
    }
    let setup = Setup::new();
    setup.secret("KEY", "old");
    setup.secret("OTHER", "hidden");
    let script = "cat $KEY_FILE > @WORK/out; echo >> @WORK/out; ls $AGENTD_SECRETS >> @WORK/out; \
                  until [ \"$(cat $KEY_FILE)\" = new ]; do sleep 0.05; done; echo replaced >> @WORK/out; exec sleep inf";
    let more = "secrets = [\"KEY\"]\nsecret_files = true\non_rotate = \"files\"";
    let other = agent("b", "sleep inf", "secrets = [\"OTHER\"]\nsecret_files = true");
    let daemon = setup.start(&(crate::sandbox::shell("a", "bwrap", script, more) + &other));
    daemon.wait_for_line("out", "KEY");
    assert_eq!(daemon.lines("out"), ["old", "KEY"]);
    daemon.secret("KEY", "new");
    daemon.wait_for_line("out", "replaced");
}
