//! What one jcard would change of what another declares, found out by the same decisions that the daemon makes: pure.
//!
//! Secrets, prompt files and skills are not read: the same ones are assumed to stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use nix::unistd::{Gid, Uid};

use crate::agent::changes::{Before, Changes, changes};
use crate::agent::declaration::{Desired, DesiredAgent};
use crate::agent::reconcile::{Action, Held, HeldAgent, InForce, Place, Wanted, plan};
use crate::agent::secrets::Secrets;
use crate::agent::seen::{Seen, SeenPrompt, SeenWorkdir};
use crate::agent::skills::Skill;
use crate::agent::user::UserName;
use crate::config::Config;
use crate::state::key::{self, Key};
use crate::sys::account::Account;
use crate::sys::secret_bytes::SecretBytes;

use super::assemble::{DeclarationContext, Paths, desired, folder_of, named_users, paths};
use super::users::{Standing, Standings, View, Views};

/// Stands for the secrets that no entry lists. No secret can have this name: it is too long for a file.
const OTHERS: &str = match str::from_utf8(&[b'_'; 256]) {
    Ok(name) => name,
    Err(_) => "_",
};

/// What would happen to one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The agent.
    pub name: String,
    /// What would happen.
    pub fate: Fate,
}

/// What would happen to an agent. A difference that has no effect is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is new.
    Start,
    /// What it launches changes.
    Restart(Changes),
    /// Only its policy changes, or its name is spelled in another way: what runs goes on.
    Change(Changes),
    /// Nobody declares it any more.
    Stop,
    /// Its entry is wrong: what runs goes on.
    Keep,
}

/// What would happen if `then` replaced `now` as the jcard `file`, by agent, and how many agents would stay as they are.
pub fn compare(now: &Config, then: &Config, file: &Path) -> Result<(Vec<Difference>, usize), key::Error> {
    let context = DeclarationContext { file: file.to_owned(), account: somebody(), key: Key::ephemeral()? };
    let secrets = listed_secrets([now, then]);
    let of = |config: &Config| desired(config, &secrets, &all_there(config, &context), &context);
    let (now, then) = (of(now), of(then));
    let actions = plan(&then, &held(&now));
    let differences: Vec<Difference> = actions.into_iter().map(|action| difference(action, &now)).collect();
    let touched = differences.iter().filter(|difference| difference.fate != Fate::Stop).count();
    Ok((differences, then.agents.len().saturating_sub(touched)))
}

/// A user with a home. Who that is changes nothing: it is the same one before and after.
fn somebody() -> Account {
    somebody_named("agent")
}

fn somebody_named(name: &str) -> Account {
    let (uid, gid) = (Uid::current(), Gid::current());
    Account {
        name: name.to_owned(),
        uid,
        gid,
        groups: Vec::new(),
        home: format!("/home/{name}").into(),
        shell: "/bin/sh".into(),
    }
}

/// All secrets that are listed, and one for those that are not.
fn listed_secrets(configs: [&Config; 2]) -> Secrets {
    let specs =
        configs.into_iter().flat_map(|config| config.entries.iter().filter_map(|entry| entry.spec.as_ref().ok()));
    let names: BTreeSet<String> =
        specs.flat_map(|spec| spec.secrets.iter().flat_map(BTreeMap::values).cloned()).collect();
    let all = names.into_iter().chain([OTHERS.to_owned()]);
    let values = all.map(|name| (name.clone(), SecretBytes::from(name.as_str()))).collect();
    Secrets { values, unnamed: BTreeMap::new(), is_complete: true }
}

/// The view of an agent user who finds everything. A prompt file holds its own path: another file is another prompt. Likewise each path
/// to skills leads to one skill, whose name is the path.
fn all_there(config: &Config, context: &DeclarationContext) -> Views {
    let users = named_users(config, &context.account);
    let standings: Standings = users.into_iter().map(|user| (user.clone(), fit(&user))).collect();
    let folder = folder_of(&context.file);
    let specs = config.entries.iter().filter_map(|entry| entry.spec.as_ref().ok());
    let skills = specs.flat_map(|spec| &spec.skills).map(|path| {
        let skill = Skill { name: path.clone(), folder: folder.join(path) };
        (path.clone(), Ok(vec![skill]))
    });
    let mut views = Views { skills: skills.collect(), ..Views::default() };
    for (user, paths) in paths(config, folder, &context.account, &standings) {
        let seen = seen_by_one(paths);
        match user {
            None => views.own = seen,
            Some(user) => {
                let account = somebody_named(user.as_str());
                views.others.insert(user, View::Of { account, seen });
            }
        }
    }
    views
}

fn fit(user: &UserName) -> Standing {
    Standing::Fit { account: somebody_named(user.as_str()), dangers: Vec::new() }
}

fn seen_by_one(Paths { prompts, workdirs, .. }: Paths) -> Seen {
    let prompts = prompts.into_iter().map(|path| {
        let text = format!("the text of {}", path.display());
        (path, SeenPrompt::Text(SecretBytes::from(text.as_str())))
    });
    Seen {
        logins: BTreeMap::new(),
        prompts: prompts.collect(),
        workdirs: workdirs.into_iter().map(|path| (path, SeenWorkdir::Usable)).collect(),
        unreachable: BTreeMap::new(),
    }
}

/// What a daemon holds that has launched all of this.
fn held(now: &Desired) -> Held {
    let one = |agent: &DesiredAgent| {
        let launch = agent.declaration.as_ref().ok().and_then(|declaration| declaration.launch.as_ref().ok());
        let in_force = launch.map(|launch| InForce::Here(launch.fingerprint.clone()));
        HeldAgent { desired: Some(agent.clone()), in_force, given: None, place: Place::Nowhere }
    };
    now.agents.iter().map(|(key, agent)| (key.clone(), one(agent))).collect()
}

fn difference(action: Action, now: &Desired) -> Difference {
    let changed = |wanted: &Wanted| {
        let before = now.agents.get(&wanted.name.key())?.declaration.as_ref().ok()?;
        let marks = before.launch.as_ref().ok().map(|launch| &launch.marks);
        let before = Before { policy: (&before.kind, &before.policy), marks };
        Some(by_field(changes(before, &wanted.declaration)))
    };
    match action {
        Action::Declare(wanted) => {
            Difference { fate: changed(&wanted).map_or(Fate::Start, Fate::Restart), name: wanted.name.to_string() }
        }
        Action::Update(wanted) => {
            Difference { fate: Fate::Change(changed(&wanted).unwrap_or_default()), name: wanted.name.to_string() }
        }
        Action::Reject { name, .. } => Difference { name: name.to_string(), fate: Fate::Keep },
        Action::Remove(key) => {
            let name = now.agents.get(&key).map_or_else(|| key.to_string(), |agent| agent.name.to_string());
            Difference { name, fate: Fate::Stop }
        }
    }
}

/// Which secrets there are is not known: what changes is the list of them.
fn by_field(mut changes: Changes) -> Changes {
    let has_others = changes.secrets.iter().any(|name| name == OTHERS);
    changes.secrets.retain(|name| name != OTHERS);
    if has_others {
        changes.extend(Changes { fields: vec!["secrets".to_owned()], secrets: Vec::new() });
    }
    changes
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::config::{Options, parse};

    fn config(text: &str) -> Config {
        parse(text.as_bytes(), &Options::default()).unwrap()
    }

    fn told(now: &str, then: &str) -> Vec<String> {
        let file = Path::new("/etc/agentd/jcard.toml");
        let (differences, _) = compare(&config(now), &config(then), file).unwrap();
        let words = |Difference { name, fate }: Difference| match fate {
            Fate::Start => format!("start {name}"),
            Fate::Restart(changes) => format!("restart {name}: {changes}"),
            Fate::Change(changes) => format!("change {name}: {changes}"),
            Fate::Stop => format!("stop {name}"),
            Fate::Keep => format!("keep {name}"),
        };
        differences.into_iter().map(words).collect()
    }

    fn entry(name: &str, lines: &str) -> String {
        format!("[[agents]]\nname = \"{name}\"\nharness = \"custom\"\nworkdir = \"/w\"\n{lines}\n")
    }

    #[rstest]
    #[case::nothing("prompt = \"p\"", "prompt = \"p\"", &[])]
    #[case::spelled_otherwise("timeout = 60", "timeout = \"1m\"", &[])]
    #[case::prompt("prompt = \"p\"", "prompt = \"q\"", &["restart a: prompt changed"])]
    #[case::no_prompt("prompt = \"p\"", "", &["restart a: prompt changed"])]
    #[case::prompt_file("prompt_file = \"p\"", "prompt_file = \"q\"", &["restart a: prompt_file changed"])]
    #[case::command("", "command = \"b\"", &["restart a: command changed"])]
    #[case::args_and_session("", "args = [\"b\"]\nsession = \"b\"", &["restart a: args and session changed"])]
    #[case::variables("env = { A = \"1\", B = \"1\" }", "env = { A = \"2\", C = \"1\" }", &["restart a: env.A, env.B and env.C changed"])]
    #[case::another_secret("secrets = [\"A\"]", "secrets = [\"A\", \"B\"]", &["restart a: secret B changed"])]
    #[case::all_secrets("secrets = [\"A\"]", "", &["restart a: secrets changed"])]
    #[case::policy("", "restart = \"always\"\nmemory = \"1GiB\"", &["change a: memory and restart changed"])]
    #[case::both("", "restart = \"always\"\nprompt = \"p\"", &["restart a: prompt and restart changed"])]
    #[case::wrong("", "restart = \"sometimes\"", &["keep a"])]
    #[case::skills("", "skills = [\"s/*\"]", &["restart a: skills changed"])]
    #[case::no_skills("skills = [\"s/*\"]", "", &["restart a: skills changed"])]
    #[case::policy_beside_skills("skills = [\"s\"]", "skills = [\"s\"]\nhold = \"fail\"", &["change a: hold changed"])]
    #[case::home("command = \"~/x\"", "command = \"~/y\"", &["restart a: command changed"])]
    fn an_edit_has_its_effect_and_the_fields_are_named(
        #[case] now: &str,
        #[case] then: &str,
        #[case] expected: &[&str],
    ) {
        assert_eq!(told(&entry("a", now), &entry("a", then)), expected);
    }

    #[test]
    fn what_is_new_starts_and_what_is_gone_stops() {
        let (a, b, c) = (entry("a", ""), entry("b", ""), entry("c", "replicas = 2"));
        assert_eq!(told(&[&a[..], &b].concat(), &[&b[..], &c].concat()), ["start c-0", "start c-1", "stop a"]);
        assert_eq!(told(&a, "# nobody\n"), ["stop a"]);
        let file = Path::new("/j.toml");
        assert_eq!(compare(&config(&a), &config(&[&a[..], &b].concat()), file).unwrap().1, 1, "one stays as it is");
    }

    #[test]
    fn while_an_entry_does_not_tell_whom_it_means_nobody_stops() {
        let nameless = "[[agents]]\nname = 7\nharness = \"custom\"\n";
        assert!(!told(&entry("a", ""), nameless).contains(&"stop a".to_owned()));
    }

    #[test]
    fn no_value_is_told() {
        let value = "hunter2hunter2";
        let then = entry("a", &format!("prompt = \"{value}\"\nargs = [\"{value}\"]\nenv = {{ K = \"{value}\" }}"));
        let told = told(&entry("a", ""), &then).join("\n");
        assert_eq!(told, "restart a: args, env.K and prompt changed");
    }
}
