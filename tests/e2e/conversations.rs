//! Agents that go on with the conversation of the attempt before.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use agentd::wire::conversation::Conversation;
use agentd::wire::status::{AgentStatus, Outcome, State};
use nix::sys::signal::Signal;
use rstest::rstest;

use super::sandbox::has;
use super::support::{Daemon, Process, Setup, account, code, root};

/// A harness that keeps its conversations in its home, and refuses what a real one refuses. It notes its arguments, and ends when it is
/// told to. With `forgetful` it keeps nothing, with `stale` it resumes nothing.
const TALKER: &str = r#"#!/usr/bin/env bash
printf '%s\n' "$*" >>argv
store=$HOME/.talker/work
mkdir -p "$store"
case $1 in
--session-id)
    [[ ! -e $store/$2.log ]] || { echo "in use"; exit 1; }
    [[ -e forgetful ]] || echo begun >"$store/$2.log"
    ;;
--resume)
    [[ -e $store/$2.log && ! -e stale ]] || { echo "no such conversation"; exit 1; }
    ;;
--json)
    if [[ $2 == resume ]]; then id=$3; else id=thread-$$; fi
    echo "{\"type\":\"thread.started\",\"thread_id\":\"$id\"}"
    echo begun >>"$store/$id.log"
    ;;
esac
echo ready >>ready
until [[ -e exit ]]; do sleep 0.02; done
read -r status <exit
rm -f exit
exit "$status"
"#;

const TABLE: &str = r#"
[harnesses.talker]
binary = "@DIR/bin/talker"
prompt = ["${ARGS}", "${PROMPT}"]
session_new = ["--session-id", "${SESSION}"]
session_resume = ["--resume", "${SESSION}"]
session_proof = "${HOME}/.talker/*/${SESSION}.log"

[harnesses.teller]
binary = "@DIR/bin/talker"
prompt = ["${ARGS}", "--", "${PROMPT}"]
results = ["--json"]
stream = "codex"
session_resume = ["resume", "${SESSION}"]
session_proof = "${HOME}/.talker/*/${SESSION}.log"
session_learned = true

"#;

fn entry(harness: &str, resume: &str, more: &str) -> String {
    format!(
        "[[agents]]\nname = \"a\"\nharness = {harness:?}\nworkdir = \"@WORK\"\nresume = {resume:?}\nrestart = \"on-failure\"\n\
         backoff = [\"0s\"]\n{more}\n"
    )
}

fn talker(resume: &str, more: &str) -> String {
    TABLE.to_owned() + &entry("talker", resume, &format!("env = {{ HOME = \"@WORK\" }}\n{more}"))
}

fn setup() -> Setup {
    let setup = Setup::new();
    let path = setup.path("bin/talker");
    fs::write(&path, TALKER).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    setup
}

impl Daemon {
    fn wait_until_ready(&self, count: usize) {
        self.wait(&format!("{count} conversations"), || (self.lines("ready").len() >= count).then_some(()));
    }

    /// Ends the harness with this status, and waits until as many as `count` have begun.
    fn end_with(&self, status: u8, count: usize) {
        self.put(&self.work("exit"), status.to_string());
        self.wait_until_ready(count);
    }

    fn conversation(&self) -> Conversation {
        self.wait_until("a", "in a conversation", |agent| {
            agent.running && agent.conversation.as_ref().is_some_and(|conversation| conversation.id.is_some())
        });
        self.agent("a").unwrap().conversation.unwrap()
    }

    fn id(&self) -> String {
        self.conversation().id.unwrap()
    }
}

const PROMPT: &str = "prompt = \"do it\"";

#[test]
fn a_restart_goes_on_in_the_conversation_and_gets_no_prompt_twice() {
    let daemon = setup().start(&talker("restart", PROMPT));
    daemon.wait_until_ready(1);
    let first = daemon.conversation();
    let id = first.id.clone().unwrap();
    assert!(!first.resumed && first.note.is_none(), "{first:?}");
    daemon.end_with(3, 2);
    let status = daemon.wait_until("a", "restarted", |agent| agent.running && agent.restarts == 1);
    assert_eq!(status.conversation, Some(Conversation { id: Some(id.clone()), resumed: true, note: None }));
    assert_eq!(
        daemon.lines("argv"),
        [format!("--session-id {id} do it"), format!("--resume {id} Continue where you left off.")]
    );
    let whole: AgentStatus = serde_json::from_str(&daemon.get("/v1/agents/a").body).unwrap();
    assert_eq!(whole.history[0].conversation.as_ref(), Some(&id));
    // A new life is other work.
    daemon.edit_jcard(&talker("restart", "prompt = \"do it\"\nargs = [\"-v\"]"));
    daemon.wait_until_ready(3);
    assert_ne!(daemon.id(), id);
}

#[test]
fn an_agent_without_a_prompt_gets_the_words_alone() {
    let daemon = setup().start(&talker("restart", ""));
    daemon.wait_until_ready(1);
    let id = daemon.id();
    daemon.end_with(3, 2);
    assert_eq!(daemon.lines("argv"), [format!("--session-id {id}"), format!("--resume {id}")]);
}

#[test]
fn a_stale_id_is_given_up_after_one_try_that_does_not_count() {
    let daemon = setup().start(&talker("restart", PROMPT));
    daemon.wait_until_ready(1);
    let id = daemon.id();
    daemon.put(&daemon.work("stale"), "");
    daemon.end_with(3, 2);
    let status = daemon.wait_until("a", "in another conversation", |agent| {
        agent.running && agent.conversation.as_ref().is_some_and(|now| now.id.as_ref().is_some_and(|now| *now != id))
    });
    let conversation = status.conversation.unwrap();
    let new = conversation.id.unwrap();
    assert_eq!((status.restarts, conversation.resumed), (1, false));
    assert!(conversation.note.unwrap().contains(&id));
    assert_eq!(
        daemon.lines("argv"),
        [
            format!("--session-id {id} do it"),
            format!("--resume {id} Continue where you left off."),
            format!("--session-id {new} do it")
        ]
    );
}

#[test]
fn a_conversation_of_which_nothing_is_kept_begins_again_under_the_same_id() {
    let daemon = setup();
    daemon.put(&daemon.work("forgetful"), "");
    let daemon = daemon.start(&talker("restart", PROMPT));
    daemon.wait_until_ready(1);
    let id = daemon.id();
    daemon.end_with(3, 2);
    let status = daemon.wait_until("a", "restarted", |agent| agent.running && agent.restarts == 1);
    let conversation = status.conversation.unwrap();
    assert_eq!((conversation.id.as_deref(), conversation.resumed), (Some(id.as_str()), false));
    assert!(conversation.note.is_some());
    assert_eq!(daemon.lines("argv"), [(); 2].map(|()| format!("--session-id {id} do it")));
}

#[test]
fn whoever_is_killed_the_conversation_goes_on() {
    let mut daemon = setup().start(&talker("restart", PROMPT));
    daemon.wait_until_ready(1);
    let id = daemon.id();
    Process(daemon.wait_until_running("a")).signal(Signal::SIGKILL);
    daemon.wait_until_ready(2);
    daemon.wait_until("a", "restarted", |agent| agent.running && agent.restarts == 1);
    Process(daemon.wait_until_running("a")).parent().signal(Signal::SIGKILL);
    daemon.wait_until_ready(3);
    daemon.wait_until("a", "restarted", |agent| agent.running && agent.restarts == 2);
    daemon.kill_and_start_again();
    assert_eq!(daemon.conversation(), Conversation { id: Some(id.clone()), resumed: true, note: None });
    // Its status would tell of an id that does not work, which a signal does not.
    let harness = Process(daemon.wait_until_running("a"));
    daemon.kill();
    harness.signal(Signal::SIGKILL);
    daemon.start_again();
    daemon.wait_until_ready(4);
    daemon.wait_until("a", "restarted", |agent| agent.running && agent.restarts == 3);
    assert_eq!(daemon.id(), id);
    assert_eq!(daemon.lines("argv")[1..], [(); 3].map(|()| format!("--resume {id} Continue where you left off.")));
}

#[test]
fn a_conversation_for_always_outlives_edits_and_boots_but_no_other_prompt() {
    let mut daemon = setup().start(&talker("always", PROMPT));
    daemon.wait_until_ready(1);
    let id = daemon.id();
    daemon.edit_jcard(&talker("always", "prompt = \"do it\"\nargs = [\"-v\"]"));
    daemon.wait_until_ready(2);
    assert_eq!(daemon.conversation(), Conversation { id: Some(id.clone()), resumed: true, note: None });
    // A shutdown leaves no record.
    daemon.stop();
    assert!(!daemon.path("state/agents/a.json").exists());
    daemon.start_again();
    daemon.wait_until_ready(3);
    assert_eq!(daemon.conversation(), Conversation { id: Some(id.clone()), resumed: true, note: None });
    // A machine that loses power leaves one that is ignored.
    let pid = daemon.wait_until_running("a");
    daemon.wait("the record of its conversation", || daemon.path("state/conversations/a.json").exists().then_some(()));
    daemon.kill();
    let launcher = Process(pid).parent();
    launcher.signal(Signal::SIGKILL);
    Process(pid).signal(Signal::SIGKILL);
    daemon.wait_until_gone(pid);
    let _ = daemon.tmux(&["kill-server"]);
    fs::remove_file(daemon.path("state/agents/a.json")).unwrap();
    daemon.start_again();
    daemon.wait_until_ready(4);
    assert_eq!(daemon.id(), id);
    daemon.edit_jcard(&talker("always", "prompt = \"do something else\""));
    daemon.wait_until_ready(5);
    let new = daemon.conversation();
    assert!(new.id.as_ref().is_some_and(|new| *new != id) && !new.resumed, "{new:?}");
    daemon.edit_jcard("[project]\nname = \"x\"\n");
    daemon.wait_until_removed("a");
    daemon.wait("it to be forgotten", || (!daemon.path("state/conversations/a.json").exists()).then_some(()));
}

#[test]
fn an_id_that_the_harness_tells_is_resumed() {
    let more = format!("{PROMPT}\nresults = true\nenv = {{ HOME = \"@WORK\" }}");
    let daemon = setup().start(&(TABLE.to_owned() + &entry("teller", "restart", &more)));
    daemon.wait_until_ready(1);
    let id = daemon.id();
    assert!(id.starts_with("thread-"), "{id}");
    daemon.end_with(3, 2);
    daemon.wait_until("a", "resumed", |agent| {
        agent.running && agent.conversation.as_ref().is_some_and(|conversation| conversation.resumed)
    });
    assert_eq!(daemon.id(), id);
    let argv = daemon.lines("argv");
    assert_eq!(argv, ["--json -- do it".to_owned(), format!("--json resume {id} -- Continue where you left off.")]);
}

#[rstest]
#[case("bwrap")]
#[case("crun")]
fn a_sandboxed_agent_goes_on_in_its_kept_home(#[case] engine: &str) {
    if !has(engine) {
        return;
    }
    let more = format!("{PROMPT}\ntype = \"sandboxed\"\nsandbox = {engine:?}\nsandbox_read = [\"@DIR/bin\"]");
    let daemon = setup().start(&(TABLE.to_owned() + &entry("talker", "restart", &more)));
    daemon.wait_until_ready(1);
    let id = daemon.id();
    daemon.end_with(3, 2);
    let status = daemon.wait_until("a", "restarted", |agent| agent.running && agent.restarts == 1);
    assert_eq!(status.conversation, Some(Conversation { id: Some(id), resumed: true, note: None }));
}

#[test]
fn an_agent_of_another_user_goes_on_in_its_own_home() {
    if !root() {
        return;
    }
    let setup = setup();
    let workdir = setup.make_workdir_of(&account("agent2"));
    let more = format!("{PROMPT}\nuser = \"agent2\"\nenv = {{ HOME = \"@WORK\" }}");
    let jcard = TABLE.to_owned() + &entry("talker", "restart", &more).replace("@WORK", "@DIR/of-agent2");
    let daemon = setup.start(&jcard);
    let id = daemon.id();
    let ready = || fs::read_to_string(workdir.join("ready")).unwrap_or_default().lines().count();
    daemon.wait("it to be ready", || (ready() == 1).then_some(()));
    fs::write(workdir.join("exit"), "3\n").unwrap();
    daemon.wait("it to be ready again", || (ready() == 2).then_some(()));
    let status = daemon.wait_until("a", "restarted", |agent| agent.running && agent.restarts == 1);
    assert_eq!(status.conversation, Some(Conversation { id: Some(id), resumed: true, note: None }));
}

#[test]
fn two_agents_never_share_a_conversation_and_replicas_have_their_own() {
    let jcard = talker("restart", &format!("{PROMPT}\nreplicas = 2"));
    let daemon = setup().start(&jcard);
    daemon.wait_until_ready(2);
    let ids = ["a-0", "a-1"].map(|name| {
        let status =
            daemon.wait_until(name, "in a conversation", |agent| agent.running && agent.conversation.is_some());
        status.conversation.unwrap().id.unwrap()
    });
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_harness_that_fails_at_once_is_restarted_as_often_as_the_policy_says() {
    let more = format!("{PROMPT}\nmax_restarts = 3\ncommand = [\"bash\", \"-c\", \"echo $* >>argv; exit 1\", \"x\"]");
    let daemon = setup().start(&talker("restart", &more));
    let status = daemon.wait_for_state("a", State::Exited);
    assert_eq!((status.outcome, status.restarts, code(status.exit.as_ref())), (Some(Outcome::GaveUp), 3, Some(1)));
    assert_eq!(daemon.lines("argv").len(), 4, "nothing was tried beside the policy");
}
