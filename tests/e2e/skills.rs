//! Skills are shown where an agent can find them, are never written to, and leave nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agentd::wire::status::State;

use crate::sandbox::{has, shell};
use crate::support::{Dump, Setup, account, agent, as_user, give, root, run};

/// Makes a skill of this name in that folder of the place.
fn skill(setup: &Setup, folder: &str, name: &str) {
    let path = setup.path(folder).join(name);
    fs::create_dir_all(&path).unwrap();
    for made in [setup.path(folder), path.clone()] {
        fs::set_permissions(&made, fs::Permissions::from_mode(0o755)).unwrap();
        give(&made, &setup.daemon_account());
    }
    setup.put(&path.join("SKILL.md"), format!("---\nname: {name}\ndescription: Does {name}.\n---\nDo {name}.\n"));
    fs::set_permissions(path.join("SKILL.md"), fs::Permissions::from_mode(0o644)).unwrap();
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn an_agent_is_told_where_its_skills_are() {
    let setup = Setup::new();
    skill(&setup, "skills", "review");
    skill(&setup, "skills", "deploy");
    let entry = |skills: &str| {
        agent("a", "dump @WORK/dump; sleep inf; rest", skills)
            .replace("args = [", "env = { WHERE = \"in ${AGENTD_SKILLS}\" }\nargs = [")
    };
    let daemon = setup.start(&entry("skills = [\"./skills/*\"]"));
    let pid = daemon.wait_until_running("a");
    assert_eq!(daemon.agent("a").unwrap().skills, ["deploy", "review"]);
    let dump = Dump::of(&daemon, "dump");
    let view = dump.var("AGENTD_SKILLS").unwrap();
    assert_eq!(dump.var("WHERE").unwrap(), format!("in {view}"));
    let review = Path::new(&view).join("review/SKILL.md");
    assert!(text(&review).ends_with("Do review.\n"));
    let (code, said) = run(&mut daemon.as_agent(&["cat", review.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{said}");
    let (code, _) = run(&mut daemon.as_agent(&["touch", Path::new(&view).join("more").to_str().unwrap()]));
    assert_ne!(code, Some(0), "the view is for reading");
    daemon.put(&daemon.path("skills/review/SKILL.md"), "---\nname: review\ndescription: x\n---\nDo more.\n");
    assert!(text(&review).ends_with("Do more.\n"));
    daemon.edit_jcard(&entry("skills = [\"skills/deploy\"]"));
    let agent = daemon.wait_until("a", "relaunched", |agent| agent.running && agent.pid != Some(pid));
    assert_eq!(
        (agent.skills.as_slice(), agent.changed.fields.as_slice()),
        (["deploy".to_owned()].as_slice(), ["skills".to_owned()].as_slice())
    );
    daemon.wait("the view of the first attempt to be gone", || (!Path::new(&view).exists()).then_some(()));
}

#[test]
fn a_wrong_skill_is_an_error_of_its_entry_and_of_check() {
    let setup = Setup::new();
    skill(&setup, "skills", "review");
    let entry = agent("a", "sleep inf", "skills = [\"skills/review\"]");
    let daemon = setup.start(&(entry.clone() + &agent("b", "sleep inf", "")));
    let pids = ["a", "b"].map(|name| daemon.wait_until_running(name));
    skill(&daemon, "other", "review");
    daemon.edit_jcard(
        &(agent("a", "sleep inf", "skills = [\"skills/review\", \"other/review\"]") + &agent("b", "sleep inf", "")),
    );
    let agent = daemon.wait_until("a", "in error", |agent| agent.error.is_some());
    assert!(agent.error.unwrap().contains("have the same name"));
    assert_eq!(["a", "b"].map(|name| daemon.wait_until_running(name)), pids, "what runs goes on");
    let (code, said) = run(&mut daemon.agentd(&["check", daemon.jcard().to_str().unwrap()]));
    assert!(code == Some(1) && said.contains("have the same name"), "{said}");
    daemon.edit_jcard(&(entry + &self::agent("b", "sleep inf", "")));
    daemon.wait_until("a", "fine", |agent| agent.error.is_none());
    assert_eq!(daemon.wait_until_running("a"), pids[0]);
}

/// As root, because only then agents could change what a daemon reads.
#[test]
fn root_takes_no_skill_that_an_agent_can_write() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    skill(&setup, "skills", "review");
    give(&setup.path("skills"), &setup.agent_account());
    let daemon = setup.start(&agent("a", "sleep inf", "skills = [\"skills/review\"]"));
    let agent = daemon.wait_for_state("a", State::Invalid);
    assert!(agent.error.unwrap().contains("users other than root can change what is below it"));
}

#[test]
fn a_sandboxed_agent_finds_its_skills_where_its_harness_looks() {
    if !has("bwrap") {
        return;
    }
    let setup = Setup::new();
    skill(&setup, "skills", "review");
    let script = "cat ~/.claude/skills/review/SKILL.md $AGENTD_SKILLS/review/SKILL.md > @WORK/out; \
                  touch ~/.claude/skills/review/x 2>/dev/null && echo written >> @WORK/out; echo done >> @WORK/out; exec sleep inf";
    let entry = shell("a", "bwrap", script, "skills = [\"skills/review\"]");
    let daemon = setup.start(&entry.replace("harness = \"custom\"", "harness = \"claude-code\""));
    daemon.wait_until_running("a");
    daemon.wait_for_line("out", "done");
    let lines = daemon.lines("out");
    assert_eq!(lines.iter().filter(|line| *line == "Do review.").count(), 2, "{lines:?}");
    assert!(!lines.contains(&"written".to_owned()), "{lines:?}");
}

#[test]
fn an_agent_of_its_own_user_finds_links_and_what_is_there_is_left_alone() {
    if !root() {
        return;
    }
    let setup = Setup::new();
    for name in ["review", "deploy"] {
        skill(&setup, "skills", name);
    }
    let user = account("agent2");
    let folder = user.dir.join(".claude/skills");
    let (code, said) = run(&mut as_user("agent2", &["mkdir", "-p", folder.join("deploy").to_str().unwrap()]));
    assert_eq!(code, Some(0), "{said}");
    setup.make_workdir_of(&user);
    let more = "user = \"agent2\"\nskills = [\"skills/*\"]";
    let entry = agent("a", "sleep inf", more).replace("@WORK", "@DIR/of-agent2");
    let daemon = setup.start(&entry.replace("harness = \"custom\"", "harness = \"claude-code\""));
    daemon.wait_until_running("a");
    assert_eq!(fs::read_link(folder.join("review")).unwrap(), daemon.path("skills/review").canonicalize().unwrap());
    assert!(folder.join("deploy").is_dir() && fs::read_link(folder.join("deploy")).is_err());
    assert_eq!(text(&folder.join(".agentd")), "a review\n");
    let error = daemon.wait("an environment_error", || daemon.agent("a")?.environment_error);
    assert!(error.contains("the skill deploy is not linked"), "{error}");
    daemon.edit_jcard("[other]\n");
    daemon.wait_until_removed("a");
    assert!(fs::symlink_metadata(folder.join("review")).is_err() && !folder.join(".agentd").exists());
    assert!(folder.join("deploy").is_dir());
    fs::remove_dir_all(user.dir.join(".claude")).unwrap();
}
